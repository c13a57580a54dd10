//! `Cache-Status` (RFC 9211), and status codes (RFC 9110 §15).

use super::http2;
use crate::support::{Reply, Response, Site, Tier, message};

on_both_tiers! {
    every_response_has_cache_status,
    cache_status_of_earlier_caches_is_preserved,
    cache_status_never_has_both_hit_and_fwd,
    a_204_never_has_content_length,
}

/// Larder's own member, which is the last, and those before it.
#[track_caller]
fn members(response: &Response) -> (Vec<String>, String) {
    let mut members: Vec<String> =
        response.headers("cache-status").iter().map(|line| (*line).to_owned()).collect();
    let own = members.pop().unwrap_or_else(|| panic!("no Cache-Status: {response:?}"));
    (members, own)
}

/// Checks Larder's member against the grammar and gives its parameters, each with its value if it has one.
#[track_caller]
fn parameters(response: &Response) -> Vec<(String, String)> {
    let (_, own) = members(response);
    let mut parts = own.split(';').map(str::trim);
    assert_eq!(parts.next(), Some("larder"), "{own}");
    let parameters: Vec<_> = parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, value) in &parameters {
        let is_valid = match name.as_str() {
            "hit" | "stored" | "collapsed" => value.is_empty(),
            "fwd" => ["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"]
                .contains(&value.as_str()),
            "fwd-status" => value.parse::<u16>().is_ok(),
            "ttl" => value.parse::<i64>().is_ok(),
            "detail" => !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
            _ => false,
        };
        assert!(is_valid, "{name}={value} in {own}");
    }
    let names: std::collections::HashSet<_> = parameters.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), parameters.len(), "{own}");
    parameters
}

/// Upstream's responses, one for each kind of outcome.
fn answers(site: &Site) -> Vec<(&'static str, Response)> {
    let ask =
        |method: &str, target: &str, name: &str, value: &str| site.call(method, target).header(name, value).send();
    site.upstream
        .on("/fresh", Reply::new("0123456789").cached("max-age=600").header("ETag", "\"1\"").header("Vary", "X"));
    let unchanged = Reply::status(304).cached("max-age=600").header("ETag", "\"1\"");
    site.upstream.script("/stale", [Reply::new("old").stale("public"), unchanged]);
    site.upstream.on("/lenient", Reply::new("old").stale("stale-while-revalidate=6000"));
    site.upstream.on("/forbidden", Reply::numbered().cached("no-store"));
    site.upstream.script("/failing", [Reply::new("old").stale("stale-if-error=6000"), Reply::status(503)]);
    site.get("/lenient");
    site.get("/failing");
    vec![
        ("fwd=uri-miss; fwd-status=200; stored", site.get("/fresh")),
        ("hit", site.get("/fresh")),
        ("hit", ask("GET", "/fresh", "If-None-Match", "\"1\"").has_status(304)),
        ("hit", ask("GET", "/fresh", "Range", "bytes=0-1").has_status(206)),
        ("hit", site.call("HEAD", "/fresh").send()),
        ("fwd=vary-miss; fwd-status=200; stored", ask("GET", "/fresh", "X", "1")),
        ("fwd=uri-miss; fwd-status=200; stored", site.get("/stale")),
        ("fwd=stale; fwd-status=304", site.get("/stale")),
        ("hit; detail=revalidating", site.get("/lenient")),
        ("fwd=stale; fwd-status=503; detail=upstream-failed", site.get("/failing")),
        ("fwd=bypass; fwd-status=200; detail=no-store", site.get("/forbidden")),
        ("fwd=bypass; fwd-status=200; detail=precondition", ask("GET", "/fresh", "If-Match", "\"2\"")),
        ("fwd=uri-miss; fwd-status=200", site.call("HEAD", "/other").send()),
        ("fwd=method; fwd-status=200", site.call("OPTIONS", "/fresh").send()),
        ("fwd=method; fwd-status=200", site.write("POST", "/fresh")),
        ("fwd=stale; fwd-status=200; stored; detail=invalidated", site.get("/fresh")),
    ]
}

fn every_response_has_cache_status(tier: Tier) {
    let site = Site::start(tier, "");
    for (expected, answer) in answers(&site) {
        parameters(&answer);
        let answer = answer.shows(expected);
        if answer.is("hit") {
            assert_eq!(answer.ttl() < 0, expected.contains("revalidating"), "{expected}: {answer:?}");
        }
    }
}

fn cache_status_never_has_both_hit_and_fwd(tier: Tier) {
    let site = Site::start(tier, "");
    for (expected, answer) in answers(&site) {
        let parameters = parameters(&answer);
        let has = |name: &str| parameters.iter().any(|(known, _)| known == name);
        assert!(has("hit") != has("fwd"), "{expected}: {answer:?}");
        assert!(
            !has("hit") || !(has("fwd-status") || has("stored") || has("collapsed")),
            "{expected}: {answer:?}"
        );
    }
}

fn cache_status_of_earlier_caches_is_preserved(tier: Tier) {
    let site = Site::start(tier, "");
    let fields = "Cache-Control: max-age=600\nCache-Status: \"Origin, Inc\"; hit; ttl=5, cdn;fwd=miss;x=\"a;b\"\nCache-Status: garbage\"";
    let before = ["\"Origin, Inc\"; hit; ttl=5, cdn;fwd=miss;x=\"a;b\"", "garbage\""];
    site.upstream.on("/", message("200 OK", fields));
    let answers = [
        site.get("/").shows_last("fwd=uri-miss"),
        site.get("/").shows_last("hit"),
        site.call("HEAD", "/").send().shows_last("hit"),
        site.write("POST", "/").shows_last("fwd=method"),
        site.get("/").shows_last("detail=invalidated"),
    ];
    for answer in answers {
        assert_eq!(members(&answer).0, before, "{answer:?}");
    }
}

trait ShowsLast {
    fn shows_last(self, part: &str) -> Response;
}

impl ShowsLast for Response {
    /// Requires this part in the last member, which is Larder's.
    #[track_caller]
    fn shows_last(self, part: &str) -> Response {
        let (_, own) = members(&self);
        assert!(
            own.starts_with("larder;") && own.split(';').any(|known| known.trim() == part),
            "{part}: {self:?}"
        );
        self
    }
}

#[test]
fn every_final_status_is_forwarded_unchanged() {
    let site = Site::start(Tier::Embedded, "");
    let statuses = [
        "200 OK",
        "201 Created",
        "202 Accepted",
        "203 Other",
        "205 Reset",
        "206 Partial",
        "207 Many",
        "226 Used",
        "299 X",
        "300 Choices",
        "301 Moved",
        "302 Found",
        "303 Other",
        "305 Proxy",
        "306 Unused",
        "307 Temporary",
        "308 Permanent",
        "399 X",
        "400 Bad",
        "401 Who",
        "402 Pay",
        "407 Who",
        "409 Conflict",
        "411 Length",
        "413 Large",
        "416 Range",
        "417 Expect",
        "418 Teapot",
        "421 Wrong",
        "425 Early",
        "426 Upgrade",
        "428 Need",
        "429 Many",
        "431 Large",
        "451 Law",
        "499 X",
        "500 Error",
        "505 Version",
        "506 Vary",
        "511 Login",
        "599 X",
        "600 X",
        "799 X",
        "999 X",
    ];
    for (index, status) in statuses.into_iter().enumerate() {
        let target = format!("/{index}");
        let fields =
            "Cache-Control: no-store\nX-Field: 1\nRetry-After: 7\nWWW-Authenticate: Basic realm=\"x\"\nAllow: GET";
        site.upstream.on(&target, message(status, fields));
        for method in ["GET", "POST"] {
            let answer = site.call(method, &target).send();
            assert_eq!(answer.status.to_string(), status[..3], "{method} {status}");
            assert_eq!(answer.text(), "ok", "{method} {status}");
            for (name, value) in [
                ("x-field", "1"),
                ("retry-after", "7"),
                ("www-authenticate", "Basic realm=\"x\""),
                ("allow", "GET"),
            ] {
                assert_eq!(answer.headers(name), [value], "{method} {status}");
            }
        }
    }
}

#[test]
fn statuses_without_content_have_none() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.on("/none", message("204 No Content", "Cache-Control: max-age=600\nX-Field: 1"));
    for part in ["stored", "hit"] {
        let answer = site.get("/none").shows(part).has_status(204).carries("");
        assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, None), "{part}");
        assert_eq!(answer.headers("x-field"), ["1"]);
    }
    site.upstream.on("/unchanged", message("304 Not Modified", "Cache-Control: no-store\nETag: \"1\""));
    site.get("/unchanged").has_status(304).carries("");
}

/// RFC 9110 §8.6. In a 304 the length is that of another response.
fn a_204_never_has_content_length(tier: Tier) {
    let rules = "[[family]]\nname = \"own\"\npath = '/own/.*'\nttl = \"600s\"\n";
    let site = Site::start(tier, rules);
    let mut number = 0;
    for length in
        ["Content-Length: 5", "Content-Length: 0", "Content-Length: 5\nContent-Length: 5", "content-length: 5, 5"]
    {
        for control in ["Cache-Control: max-age=600", "Cache-Control: no-store", "ETag: \"1\"", "Age: 1"] {
            number += 1;
            for target in [format!("/own/{number}"), format!("/{number}")] {
                let row = format!("{target}: {length:?} {control}");
                site.upstream.on(&target, message("204 No Content", &format!("{length}\n{control}\nX-Field: 1")));
                for method in ["HEAD", "GET", "GET", "HEAD", "POST", "OPTIONS", "DELETE"] {
                    let answer = site.call(method, &target).send().has_status(204).carries("");
                    assert_eq!(answer.header("content-length"), None, "{row} {method}: {answer:?}");
                    assert_eq!(answer.headers("x-field"), ["1"], "{row} {method}: {answer:?}");
                }
                http2::run(async {
                    let mut sender = http2::connect(&site).await;
                    for method in ["GET", "GET", "HEAD", "POST"] {
                        let (parts, body) = http2::ask(&mut sender, method, &target).await;
                        assert_eq!((parts.status.as_u16(), body.len()), (204, 0), "{row} {method}");
                        assert!(!parts.headers.contains_key("content-length"), "{row} {method}: {parts:?}");
                    }
                });
            }
        }
    }
    site.upstream.on("/own/304", message("304 Not Modified", "Content-Length: 5\nETag: \"1\""));
    site.get("/own/304").has_status(304).carries("");
}

fn upstream_says(site: &Site) {
    site.upstream.on("/", message("200 OK", "Cache-Control: max-age=600\nCache-Status: cdn; hit"));
}

#[test]
fn cache_status_has_the_key_if_configured() {
    let site = Site::start(Tier::Embedded, "[server]\ncache_status = \"key\"\n");
    upstream_says(&site);
    let mut keys = Vec::new();
    for part in ["fwd=uri-miss", "hit"] {
        let lines = site.get("/").headers("cache-status").join(", ");
        let own = lines.strip_prefix("cdn; hit, larder; ").unwrap_or_else(|| panic!("{lines}"));
        assert!(own.contains(part), "{lines}");
        let (_, key) = own.split_once("key=\"").unwrap_or_else(|| panic!("no key, or no String: {lines}"));
        let key = &key[..key.find('"').unwrap()];
        assert!(!key.is_empty() && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{lines}");
        keys.push(key.to_owned());
    }
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn cache_status_can_be_turned_off() {
    let site = Site::start(Tier::Embedded, "[server]\ncache_status = \"off\"\n");
    upstream_says(&site);
    for _ in 0..2 {
        assert_eq!(site.get("/").headers("cache-status"), ["cdn; hit"]);
    }
    site.upstream.on("/plain", Reply::numbered());
    assert_eq!(site.get("/plain").header("cache-status"), None);
    assert_eq!(site.write("POST", "/plain").header("cache-status"), None);
    assert_eq!(site.upstream.count("GET /"), 1);
}

#[test]
fn a_206_with_if_range_omits_representation_metadata() {
    let site = Site::start(Tier::Embedded, "");
    let fields = "Cache-Control: max-age=600\nETag: \"1\"\nContent-Type: text/plain\nContent-Language: de";
    site.upstream.on("/", message("200 OK", fields));
    site.get("/").shows("stored");
    let call = site.call("GET", "/").header("Range", "bytes=0-0").header("If-Range", "\"1\"");
    let part = call.send().shows("hit").has_status(206).carries("o");
    assert_eq!((part.header("content-type"), part.header("content-language")), (None, None), "{part:?}");
    assert_eq!(part.headers("etag"), ["\"1\""]);
}

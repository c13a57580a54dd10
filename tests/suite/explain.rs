//! `larder explain` and the admin's `GET /cache/explain`: why a response is not stored, stale or validated, with its
//! RFC section. Also purges of groups, which explain shows.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::larder::{Exit, binary};
use crate::support::{Larder, Plan, Reply, Site, Tier, Upstream, eventually, larder};

const RULES: &str = r#"
[[family]]
name = "user_details"
path = '/users/(?<id>\d+)'
ttl = "60s"

[[family]]
name = "demanding"
path = '/demanding'
client_directives = "all"

[[family]]
name = "small"
path = '/small'
max_body = "100B"

[[family]]
name = "group"
path = '/group/.*'
ttl = "60s"

[invalidate]
'/users/(?<id>\d+)/activate' = ["user_details:{id}"]
"#;

on_both_tiers! {
    explaining_a_stored_response_does_not_change_it,
    an_invalidated_response_names_the_write,
    other_variants_are_named,
    explain_gives_the_reason_for_a_validation,
    explain_reports_a_request_that_bypasses_the_cache,
    a_group_is_purged_for_every_host_and_field,
}

/// Explains what would become of this response.
#[track_caller]
fn explain_response(head: &str, arguments: &[&str]) -> Exit {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("response");
    std::fs::write(&file, head).unwrap();
    let arguments = [&["explain"], arguments, &["--response", file.to_str().unwrap()]].concat();
    larder(Some(RULES), &arguments)
}

#[track_caller]
fn parsed(exit: &Exit) -> Value {
    assert_eq!(exit.code, Some(0), "{exit:?}");
    serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {exit:?}"))
}

/// What explain prints for a 200 with these fields.
#[track_caller]
fn judged(fields: &str, arguments: &[&str]) -> Value {
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", fields.replace('\n', "\r\n"));
    parsed(&explain_response(&head, &[arguments, &["--json"]].concat()))["answer"].clone()
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[test]
fn a_response_that_is_not_stored_names_the_section() {
    let groups: String = (0..200).map(|number| format!("{number} ")).collect();
    let groups = format!("Cache-Control: max-age=60\nSurrogate-Key: {groups}");
    let fresh = "Cache-Control: max-age=60";
    let authorized = ["GET", "/x", "-H", "Authorization: Bearer x"];
    let rows: [(&str, &[&str], &str, &str); 19] = [
        (
            "Cache-Control: max-age=60\nContent-Range: bytes 0-1/9",
            &["GET", "/x"],
            "content-range",
            "RFC 9110 §14.4",
        ),
        ("Cache-Control: no-store", &["GET", "/x"], "no-store", "RFC 9111 §5.2.2.5"),
        ("CDN-Cache-Control: no-store\nCache-Control: max-age=60", &["GET", "/x"], "no-store", "§5.2.2.5"),
        ("Cache-Control: private", &["GET", "/x"], "private", "RFC 9111 §5.2.2.7"),
        ("Set-Cookie: a=1\nCache-Control: max-age=60", &["GET", "/x"], "set-cookie", "RFC 9111 §7.3"),
        (fresh, &authorized, "authorization", "RFC 9111 §3.5"),
        (fresh, &["GET", "/x", "-H", "Cookie: a=1"], "cookie", "RFC 9111 §3"),
        ("Cache-Control: max-age=60\nVary: *", &["GET", "/x"], "vary-star", "RFC 9111 §4.1"),
        ("Cache-Control: max-age=60\nVary: X-Forwarded-For", &["GET", "/x"], "vary-star", "X-Forwarded-…"),
        ("Content-Type: text/event-stream\nCache-Control: max-age=60", &["GET", "/x"], "event-stream", "§3.3"),
        (&groups, &["GET", "/x"], "too-many-groups", "RFC 9875 §2"),
        ("ETag: \"1\"", &["GET", "/x"], "no-lifetime", "RFC 9111 §4.2.1"),
        ("Cache-Control: max-age=60\nAge: 60", &["GET", "/x"], "stale-at-once", "RFC 9111 §4.3"),
        (fresh, &["GET", "/x", "-H", "Cache-Control: no-store"], "request-no-store", "RFC 9111 §5.2.1.5"),
        (fresh, &["GET", "/x", "-H", "Range: bytes=0-1"], "range", "RFC 9111 §3.3"),
        (fresh, &["GET", "/users/7/"], "ambiguous-path", "/users/7 (family \"user_details\")"),
        (fresh, &["GET", "/users/7%3Fx.css"], "ambiguous-path", "no family"),
        (fresh, &["GET", "/x", "-H", "If-Match: \"1\""], "precondition", "RFC 9111 §4.3.2"),
        ("Cache-Control: max-age=60\nContent-Length: 101", &["GET", "/small"], "too-large", "max_body is 100"),
    ];
    for (fields, arguments, reason, words) in rows {
        let answer = judged(fields, arguments);
        assert_eq!(
            (&answer["stored"], &answer["reason"]),
            (&json!(false), &json!(reason)),
            "{fields}: {answer:#}"
        );
        assert_says(answer["because"].as_str().unwrap(), &[words]);
        assert!(answer["what_to_do"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{answer:#}");
    }
    let exit = explain_response("HTTP/1.1 206 Partial Content\n\n", &["GET", "/x"]);
    assert_says(&exit.stdout, &["no: responses with this status are not stored (RFC 9111 §3) [status]"]);
    let exit = explain_response("HTTP/1.1 429 Too Many Requests\nCache-Control: max-age=60\n\n", &["GET", "/x"]);
    assert_says(&exit.stdout, &["about one request", "RFC 6585 §3", "[status]"]);
    let exit = explain_response("HTTP/1.1 460 Gone Away\nCache-Control: max-age=60\n\n", &["GET", "/x"]);
    assert_says(&exit.stdout, &["about one request", "counts as 400", "[status]"]);
    let exit = explain_response(
        "HTTP/1.1 204 No Content\nCache-Control: max-age=60\nContent-Length: 101\n\n",
        &["GET", "/small"],
    );
    assert_says(&exit.stdout, &["yes: "]);
}

#[test]
fn explain_shows_that_a_coded_response_varies_on_the_coding() {
    let rows = [
        ("Content-Encoding: gzip", json!(["accept-encoding"])),
        ("Content-Encoding: gzip\nVary: Accept", json!(["accept", "accept-encoding"])),
        ("Content-Encoding: identity", json!([])),
        ("Vary: Accept", json!(["accept"])),
    ];
    for (fields, varies_on) in rows {
        let answer = judged(&format!("Cache-Control: max-age=60\n{fields}"), &["GET", "/x"]);
        assert_eq!((&answer["stored"], &answer["varies_on"]), (&json!(true), &varies_on), "{fields}: {answer:#}");
    }
}

#[test]
fn explain_shows_the_terms_of_a_stored_response() {
    let answer = judged(
        "Date: Sun, 06 Nov 1994 08:49:37 GMT\nCDN-Cache-Control: max-age=100, stale-if-error=30, private=\"x-user\"\n\
         Cache-Control: no-store\nAge: 10\nETag: \"v1\"\nVary: Accept-Language, Accept\nX-User: 7\n\
         Cache-Groups: \"b\", \"a\"\nContent-Length: 5",
        &["GET", "/x", "--age", "89"],
    );
    assert_eq!(answer["stored"], true, "{answer:#}");
    assert_says(answer["decided_by"].as_str().unwrap(), &["CDN-Cache-Control decides", "RFC 9213 §2.2"]);
    assert_eq!(answer["varies_on"], json!(["accept", "accept-language"]));
    assert_eq!(answer["withheld"], json!(["x-user"]));
    assert_eq!(answer["groups"], json!(["a", "b"]));
    let terms = &answer["terms"];
    assert_eq!((&terms["lifetime"], &terms["initial_age"]), (&json!(100), &json!(10)), "{terms:#}");
    assert_says(terms["lifetime_from"].as_str().unwrap(), &["max-age", "RFC 9111 §4.2.1"]);
    assert_eq!(terms["for_credentials"], false);
    assert_eq!(terms["stale_if_error"]["seconds"], 30);
    assert_eq!(terms["stale_while_revalidate"]["seconds"], 0);
    assert_eq!(terms["validated_with"], json!(["if-none-match: \"v1\""]));
    assert_eq!((&answer["then"]["does"], &answer["then"]["ttl"]), (&json!("hit"), &json!(1)), "{answer:#}");
    let never = judged("Cache-Control: max-age=60, must-revalidate", &["GET", "/x"]);
    for case in ["stale_while_revalidate", "stale_if_error", "stale_if_unreachable"] {
        assert_says(never["terms"][case]["because"].as_str().unwrap(), &["must-revalidate", "§5.2.2.2"]);
    }
    let of_family = judged("X: y", &["GET", "/users/7"]);
    assert_says(of_family["terms"]["lifetime_from"].as_str().unwrap(), &["the family's ttl", "§4.2.2"]);
}

#[test]
fn the_age_of_a_response_and_the_requests_directives_decide_on_its_use() {
    let etag = "ETag: \"1\"\nCache-Control: max-age=60";
    let (plain, demanding) = ("/x", "/demanding");
    let rows = [
        (etag.to_owned(), plain, "59", "", "hit", "RFC 9111 §4.2"),
        (etag.to_owned(), plain, "60", "", "validated", "RFC 9111 §4.2.4"),
        (format!("{etag}, must-revalidate"), plain, "60", "", "validated", "RFC 9111 §5.2.2.2"),
        (format!("{etag}, no-cache"), plain, "0", "", "validated", "RFC 9111 §5.2.2.4"),
        (format!("{etag}, stale-while-revalidate=9"), plain, "68", "", "stale-and-revalidated", "RFC 5861 §3"),
        (format!("{etag}, stale-while-revalidate=9"), plain, "69", "", "validated", "RFC 9111 §4.2.4"),
        ("Cache-Control: max-age=60".to_owned(), plain, "60", "", "fetched", "RFC 9111 §4.2.4"),
        (etag.to_owned(), plain, "70", "max-stale=11", "stale", "RFC 9111 §5.2.1.2"),
        (etag.to_owned(), plain, "70", "only-if-cached", "refused", "RFC 9111 §5.2.1.7"),
        // By default only harmless directives of clients apply.
        (etag.to_owned(), plain, "1", "no-cache", "hit", "RFC 9111 §4.2"),
        (etag.to_owned(), demanding, "1", "no-cache", "validated", "RFC 9111 §5.2.1.4"),
        (etag.to_owned(), demanding, "2", "max-age=1", "validated", "RFC 9111 §5.2.1.1"),
        (etag.to_owned(), demanding, "50", "min-fresh=11", "validated", "RFC 9111 §5.2.1.3"),
    ];
    for (fields, path, age, directive, does, section) in rows {
        let directive = format!("Cache-Control: {directive}");
        let then = judged(&fields, &["GET", path, "--age", age, "-H", &directive])["then"].clone();
        assert_eq!(then["does"], does, "{fields} {path} {age} {directive}: {then:#}");
        assert_says(then["because"].as_str().unwrap(), &[section]);
    }
    let text = explain_response("HTTP/2 200\nCache-Control: max-age=60\n\n", &["GET", "/x", "--age", "60"]).stdout;
    assert_says(&text, &["after 1m", "fetched from upstream", "(RFC 9111 §4.2.4) [ttl=-1]", "no ETag"]);
    let ignored = explain_response("HTTP/2 200\n\n", &["GET", "/x", "-H", "Cache-Control: no-cache"]).stdout;
    assert_says(&ignored, &["client_directives = \"harmless\""]);
}

/// The same upstream for the proxy and `--ask`: explain must agree with the proxy.
#[test]
fn explain_agrees_with_the_proxy_about_responses() {
    let site = Site::start(Tier::Embedded, RULES);
    let url = site.upstream.url();
    let large = vec![b'x'; 101];
    let replies = [
        ("/a", Reply::new("x").cached("max-age=60"), None),
        ("/b", Reply::new("x").cached("no-store"), Some("no-store")),
        ("/c", Reply::new("x").cached("private"), Some("private")),
        ("/d", Reply::new("x"), Some("no-lifetime")),
        ("/e", Reply::new("x").cached("max-age=60").header("Vary", "*"), Some("vary-star")),
        ("/f", Reply::new("x").cached("max-age=60").header("Set-Cookie", "a=1"), Some("set-cookie")),
        ("/g", Reply::new("x").cached("max-age=60").header("Age", "90"), Some("stale-at-once")),
        ("/h", Reply::new("x").cached("no-store").header("CDN-Cache-Control", "max-age=9"), None),
        ("/i", Reply::status(404).cached("max-age=60"), None),
        ("/users/1", Reply::new("x"), None),
        ("/small", Reply::new(large.clone()).cached("max-age=60"), Some("too-large")),
        ("/j", Reply::new(large).cached("max-age=60").chunked(), None),
    ];
    for (path, reply, expected) in replies {
        site.upstream.on(path, reply);
        let asked = larder(Some(RULES), &["explain", "GET", path, "--ask", "--upstream", &url, "--json"]);
        let answer = parsed(&asked)["answer"].clone();
        assert_eq!(
            (&answer["stored"], &answer["reason"]),
            (&json!(expected.is_none()), &json!(expected)),
            "{path}"
        );
        match expected {
            None => site.get(path).shows("stored"),
            Some(reason) => site.get(path).shows(&format!("fwd=bypass; detail={reason}")),
        };
    }
    let sent = site.upstream.requests("/a");
    assert_eq!(sent.len(), 2, "one of the proxy and one of explain");
    let fields = |at: usize| sent[at].headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(fields(0), fields(1), "both send the same fields");
}

/// `--ask` sends the given method, and never an unsafe one.
#[test]
fn ask_sends_head_and_query_as_such() {
    let upstream = Upstream::start();
    let rules = format!("{RULES}\n[[family]]\nname = \"asked\"\npath = '/q'\nmethods = [\"QUERY\"]\n");
    let ask = |method: &str, path: &str| {
        larder(Some(&rules), &["explain", method, path, "--ask", "--upstream", &upstream.url(), "--json"])
    };
    upstream.on("HEAD /h", Reply::new("").cached("max-age=60"));
    upstream.on("QUERY /q", Reply::new("x").cached("max-age=60"));
    for (method, path, note) in [("HEAD", "/h", "its own answer is not stored"), ("QUERY", "/q", "without any")] {
        let explanation = parsed(&ask(method, path));
        assert_eq!(
            (&explanation["answer"]["stored"], &explanation["method"]),
            (&json!(true), &json!(method)),
            "{explanation:#}"
        );
        assert_says(&explanation["notes"].to_string(), &[note]);
        assert_eq!(upstream.last(path).method, method);
    }
    upstream.on("QUERY /unclaimed", Reply::new("x").cached("max-age=60"));
    let explanation = parsed(&ask("QUERY", "/unclaimed"));
    assert_eq!(
        (&explanation["answer"]["stored"], &explanation["answer"]["reason"]),
        (&json!(false), &json!("method")),
        "{explanation:#}"
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "FROB"] {
        assert_eq!(ask(method, "/unsafe").code, Some(2), "{method}");
    }
    assert_eq!(upstream.count("/unsafe"), 0);
}

#[test]
fn the_last_head_counts_and_standard_input_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary())
        .env_clear()
        .current_dir(dir.path())
        .args(["explain", "GET", "/x", "--response", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heads = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\nLocation: /y\n\nHTTP/2 200\ncache-control: \
                 max-age=7\n\nbody";
    child.stdin.take().unwrap().write_all(heads.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_says(
        &String::from_utf8(output.stdout).unwrap(),
        &["answer       200", "fresh for    7s: the lifetime"],
    );
}

#[test]
fn impossible_explanations_name_a_remedy() {
    let response = |head: &str| explain_response(head, &["GET", "/x"]);
    let rows = [
        (response("HTTP/1.1 200 OK\nA: 1\nno field\n"), 2, "response:3: this is not a field; write it as"),
        (response("{}"), 2, "response:1: this is not a status line; begin with one like HTTP/1.1 200 OK"),
        (larder(None, &["explain", "GET", "/x", "--response", "gone"]), 2, "gone: cannot read the response"),
        (explain_response("HTTP/2 200\n\n", &["POST", "/x"]), 2, "omit --response and --ask"),
        (larder(None, &["explain", "DELETE", "/x", "--ask"]), 2, "Larder sends no DELETE"),
        (larder(None, &["explain", "GET", "/x", "--ask"]), 2, "--upstream http://HOST:PORT"),
        (larder(None, &["explain", "GET", "/x", "--age", "5"]), 2, "--response"),
        (
            larder(None, &["explain", "GET", "/x", "--ask", "--upstream", "http://127.0.0.1:9"]),
            1,
            "upstream cannot be reached; check that",
        ),
        (larder(None, &["explain", "GET", "/x", "--admin", "http://127.0.0.1:9"]), 1, "cannot be reached"),
        (larder(None, &["explain", "GET", "/x", "--admin", "here"]), 2, "write it like http://127.0.0.1:9090"),
        (larder(None, &["explain", "PUT", "/x", "--admin", "http://127.0.0.1:9"]), 2, "omit --admin"),
    ];
    for (exit, code, words) in rows {
        assert_eq!(exit.code, Some(code), "{exit:?}");
        assert_says(&format!("{}{}", exit.stdout, exit.stderr), &[words]);
    }
    let json = larder(None, &["explain", "GET", "/x", "--ask", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["success"], false, "{json:?}");
}

/// What the admin reports as stored for a GET of this target.
#[track_caller]
fn kept(larder: &Larder, target: &str) -> Value {
    let url = format!("http://localhost{target}").replace('&', "%26");
    let json = larder.admin_get(&format!("/cache/explain?url={url}")).has_status(200).json();
    assert_eq!(json["success"], true, "{json:#}");
    json
}

/// The entry in the shared store, if any.
fn in_store(tier: Tier, state: &str) -> Value {
    json!(if tier == Tier::Redis { state } else { "none" })
}

#[track_caller]
fn assert_found(explanation: &Value, found: &str, does: &str) {
    assert_eq!(
        (&explanation["found"], &explanation["now"]["does"]),
        (&json!(found), &json!(does)),
        "{explanation:#}"
    );
}

fn explaining_a_stored_response_does_not_change_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    assert_found(&kept(&site, "/users/7"), "nothing", "fetched");
    site.get("/users/7").shows("stored");
    if tier == Tier::Redis {
        site.wait_for_entries(1);
    }
    for _ in 0..2 {
        let explanation = kept(&site, "/users/7");
        assert_found(&explanation, "current", "hit");
        assert_eq!(
            (&explanation["in_memory"], &explanation["in_store"]),
            (&json!("current"), &in_store(tier, "current"))
        );
        assert_eq!((&explanation["family"], &explanation["instance"]), (&json!("user_details"), &json!(["7"])));
        assert_eq!(explanation["stored"]["terms"]["lifetime"], 60, "{explanation:#}");
        assert_says(
            explanation["stored"]["terms"]["lifetime_from"].as_str().unwrap(),
            &["the family's ttl", "§4.2.2"],
        );
        assert!(
            explanation["store_key"].as_str().unwrap().starts_with("larder:user_details:7:"),
            "{explanation:#}"
        );
    }
    assert_eq!(site.upstream.requests("/users/7").len(), 1, "upstream is not asked");
    site.get("/users/7").shows("hit");
    // Another proxy finds it in the store, and explaining does not copy it into memory.
    if tier == Tier::Redis {
        let another = site.another();
        for _ in 0..2 {
            let explanation = kept(&another, "/users/7");
            assert_found(&explanation, "current", "hit");
            assert_eq!(
                (&explanation["in_memory"], &explanation["in_store"]),
                (&json!("nothing"), &json!("current"))
            );
        }
    }
    let admin = format!("http://{}", site.admin);
    let exit = larder(None, &["explain", "GET", "http://localhost/users/7", "--admin", &admin]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_says(
        &exit.stdout,
        &["found        current", "now          served from the cache, fresh", "user_details"],
    );
    let exit = larder(None, &["explain", "GET", "http://localhost/users/7", "--admin", &admin, "--json"]);
    assert_eq!(parsed(&exit)["found"], "current");
}

fn an_invalidated_response_names_the_write(tier: Tier) {
    let site = Site::start(tier, RULES);
    let marks = |target: &str| {
        let explanation = kept(&site, target);
        assert_found(&explanation, "invalidated", "fetched");
        explanation["invalidated_since"].clone()
    };
    for target in ["/users/7", "/users/8"] {
        site.get(target).shows("stored");
    }
    site.write("POST", "/users/7/activate").has_status(200);
    for _ in 0..2 {
        let marks = marks("/users/7");
        assert_eq!(marks[0]["tag"], "user_details:7", "{marks:#}");
        assert_says(marks[0]["by"].as_str().unwrap(), &["/activate (line ", "invalidated by a write"]);
    }
    assert_found(&kept(&site, "/users/8"), "current", "hit");
    site.write("PUT", "/users/8").has_status(200);
    let own = marks("/users/8");
    assert_eq!(own[0]["tag"], "uri:/users/8", "{own:#}");
    assert_says(own[0]["by"].as_str().unwrap(), &["RFC 9111 §4.4"]);
    site.get("/users/7").shows("fwd=stale; detail=invalidated");
    assert_found(&kept(&site, "/users/7"), "current", "hit");
    site.upstream.on("/grouped", Reply::new("x").cached("max-age=60").header("Cache-Groups", "\"a\""));
    site.upstream.on("POST /group-write", Reply::new("x").header("Cache-Group-Invalidation", "\"a\""));
    site.get("/grouped").shows("stored");
    site.write("POST", "/group-write").has_status(200);
    let grouped = marks("/grouped");
    assert_eq!(grouped[0]["tag"], "group localhost/a", "{grouped:#}");
    assert_says(grouped[0]["by"].as_str().unwrap(), &["RFC 9875 §3"]);
}

fn other_variants_are_named(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/v", Reply::new("x").cached("max-age=60").header("Vary", "Accept-Language"));
    site.call("GET", "/v").header("Accept-Language", "de").send().shows("stored");
    let other = kept(&site, "/v");
    assert_found(&other, "other-variant", "fetched");
    assert_says(other["now"]["because"].as_str().unwrap(), &["RFC 9111 §4.1"]);
    assert_eq!(other["varies_on"], json!(["accept-language"]), "{other:#}");
    assert_eq!(other["variants"], json!(["accept-language: de"]), "{other:#}");
    let url = "/cache/explain?url=http://localhost/v&header=Accept-Language:%20de";
    assert_found(&site.admin_get(url).json(), "current", "hit");
}

fn explain_gives_the_reason_for_a_validation(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rows = [
        ("/s", "must-revalidate", "validated", "§5.2.2.2"),
        ("/t", "no-cache", "validated", "§5.2.2.4"),
        ("/u", "public", "validated", "§4.2.4"),
        ("/v", "stale-while-revalidate=86400", "stale-and-revalidated", "RFC 5861 §3"),
    ];
    for (target, directive, does, section) in rows {
        site.upstream.on(target, Reply::numbered().stale(directive));
        site.get(target).shows("stored");
        let explanation = kept(&site, target);
        assert_found(&explanation, "current", does);
        assert_says(explanation["now"]["because"].as_str().unwrap(), &[section]);
        assert!(explanation["stored"]["ttl"].as_i64().unwrap() < 0, "{explanation:#}");
    }
}

fn explain_reports_a_request_that_bypasses_the_cache(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/p", Reply::numbered().cached("max-age=60"));
    site.get("/p").shows("stored");
    let explanation = |field: &str| {
        site.admin_get(&format!("/cache/explain?url=http://localhost/p&header={field}")).has_status(200).json()
    };
    let personal = explanation("Authorization:%20Bearer%20x");
    assert_found(&personal, "current", "fetched");
    assert_says(personal["now"]["because"].as_str().unwrap(), &["RFC 9111 §3.5"]);
    site.call("GET", "/p").header("Authorization", "Bearer x").send().shows("fwd=bypass");
    assert_found(&explanation("If-Match:%20%22a%22"), "current", "forwarded");
    assert_found(&explanation("If-Match:%20*"), "current", "hit");
}

#[test]
fn explain_trusts_nothing_stored_while_redis_is_unavailable() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users/7").shows("stored");
    site.redis().kill();
    eventually("it is known to be away", || kept(&site, "/users/7")["found"] == "unknown");
    let explanation = kept(&site, "/users/7");
    assert_found(&explanation, "unknown", "fetched");
    assert_says(explanation["now"]["because"].as_str().unwrap(), &["detail=store-away"]);
    assert_eq!(explanation["in_store"], "away");
}

#[test]
fn explain_reports_a_flushed_redis() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users/7").shows("stored");
    site.wait_for_entries(1);
    assert_eq!(site.redis().command(&["FLUSHALL"]), "OK");
    site.get("/users/8").shows("stored");
    let explanation = kept(&site, "/users/7");
    assert_eq!(
        (&explanation["found"], &explanation["in_store"]),
        (&json!("invalidated"), &json!("nothing")),
        "{explanation:#}"
    );
    assert_says(explanation["invalidated_since"][0]["by"].as_str().unwrap(), &["lost its marks"]);
}

#[test]
fn the_admin_rejects_invalid_explain_requests() {
    let upstream = Upstream::start();
    let tokens = "[admin]\ntokens = [{ role = \"viewer\", token = \"of-a-viewer\" }]\n";
    let larder_with_tokens = Plan::new(&upstream.url()).rules(&format!("{tokens}{RULES}")).start();
    let admin = format!("http://{}", larder_with_tokens.admin);
    let explain = |arguments: &[&str]| {
        larder(None, &[&["explain", "GET", "/users/7", "--admin", &admin], arguments].concat())
    };
    let refused = explain(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_says(&refused.stdout, &["token"]);
    assert_eq!(explain(&["--token", "wrong"]).code, Some(1));
    let looked = explain(&["--token", "of-a-viewer", "--json"]);
    assert_eq!(parsed(&looked)["found"], "nothing");
    let open = Plan::new(&upstream.url()).rules(RULES).start();
    for query in ["", "?url=/a&method=POST", "?url=a%20b", "?url=/&header=x", "?uri=/", "?url=/&url=/"] {
        let refused = open.admin_get(&format!("/cache/explain{query}")).fails_with(400).json();
        assert!(refused["what_to_do"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{refused:#}");
    }
}

fn a_group_is_purged_for_every_host_and_field(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rows = [
        ("/1", "Cache-Groups", "\"x\", \"a/b c\""),
        ("/2", "Surrogate-Key", "y a/b"),
        ("/3", "Cache-Tag", "a/b c,z"),
        ("/4", "xkey", "z"),
    ];
    for (path, field, value) in rows {
        site.upstream.on(path, Reply::numbered().cached("max-age=60").header(field, value));
    }
    let get = |host: &str, path: &str| site.call("GET", path).header("Host", host).send();
    let is_hit = |host: &str, path: &str| kept_at(&site, host, path)["found"] == "current";
    for host in ["one.example", "two.example"] {
        rows.iter().for_each(|(path, ..)| drop(get(host, path).shows("stored")));
    }
    site.get("/group/1").shows("stored");
    let purged = site.admin_post("/cache/groups/a%2Fb%20c/clear").has_status(200).json();
    assert_eq!((&purged["success"], &purged["delivered"]), (&json!(true), &json!(true)), "{purged:#}");
    for host in ["one.example", "two.example"] {
        let now: Vec<bool> = rows.iter().map(|(path, ..)| is_hit(host, path)).collect();
        assert_eq!(now, [false, true, false, true], "{host}");
        get(host, "/1").shows("fwd=stale; detail=invalidated");
        get(host, "/2").shows("hit");
    }
    for (group, path) in [("a%2Fb", "/2"), ("z", "/4")] {
        site.admin_post(&format!("/cache/groups/{group}/clear")).has_status(200);
        get("one.example", path).shows("detail=invalidated");
    }
    // Requests do not look for it in Redis.
    site.admin_post("/cache/groups/nobody/clear").has_status(if tier == Tier::Embedded { 404 } else { 200 });
    // A family that is called `group` is another thing.
    site.get("/group/1").shows("hit");
    site.admin_post("/cache/clear/group").has_status(200);
    site.get("/group/1").shows("detail=invalidated");
    let metrics = site.admin_get("/metrics").text();
    let line =
        metrics.lines().find(|line| line.contains("family=\"(group)\"")).unwrap_or_else(|| panic!("{metrics}"));
    assert!(line.contains("cause=\"purge\"") && line.ends_with(" 4"), "{line}");
    eventually("it is logged", || site.log().contains("/cache/groups/nobody/clear"));
}

#[track_caller]
fn kept_at(larder: &Larder, host: &str, path: &str) -> Value {
    larder.admin_get(&format!("/cache/explain?url=http://{host}{path}")).has_status(200).json()
}

#[test]
fn fresh_for_ends_at_until() {
    let rules = |more: &str| format!("[[family]]\nname = \"a\"\npath = '/a'\n{more}\nuntil = \"03:00 UTC\"\n");
    let fresh_for = |more: &str| {
        let exit = larder(Some(&rules(more)), &["explain", "GET", "/a"]);
        exit.stdout.lines().find(|line| line.starts_with("fresh for")).unwrap().to_owned()
    };
    let (alone, long) = (fresh_for(""), fresh_for("ttl = \"7d\""));
    assert!(alone.contains(" now, until 03:00 UTC") && !alone.contains("24h"), "{alone}");
    assert!(long.contains("now, until 03:00 UTC, which comes before the ttl of 7days"), "{long}");
    let short = fresh_for("ttl = \"1s\"\nttl_policy = \"override\"");
    assert!(short.contains("1s, from the family") && short.contains("; at most "), "{short}");
}

#[test]
fn explain_omits_rules_for_other_instances() {
    let rules = "[[family]]\nname = \"user\"\npath = '/users/(?<id>\\d+)'\n[invalidate]\n'/seven' = [\"user:7\"]\n\
                 '/users/(?<id>\\d+)' = [\"user:{id}\"]\n'/all' = [\"user\"]\n";
    for (path, expected) in
        [("/users/7", ["/seven", "/users", "/all"].as_slice()), ("/users/8", &["/users", "/all"])]
    {
        let explanation = larder(Some(rules), &["explain", "GET", path, "--json"]).stdout;
        let explanation: Value = serde_json::from_str(&explanation).unwrap();
        let by: Vec<&str> =
            explanation["invalidated_by"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let named = ["/seven", "/users", "/all"]
            .into_iter()
            .filter(|rule| by.iter().any(|line| line.contains(&format!(" {rule}"))));
        assert_eq!(named.collect::<Vec<_>>(), expected, "{path}: {by:?}");
    }
}

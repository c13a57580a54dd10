//! What may be stored, and what of it: RFC 9111 §3, §5.2.2 and §7.3, RFC 9110 §9.2 and §9.3.

use crate::support::Verdict::{Fetched, Fresh, Validated};
use crate::support::{Failure, Gate, Reply, Site, Tier, Verdict, eventually, message};

on_both_tiers! {
    no_store_and_private_responses_are_not_stored,
    must_understand_requires_an_understood_status,
    no_cache_is_stored_and_validated_each_time,
    credentials_are_answered_from_the_cache_only_as_the_response_allows,
    all_fields_are_stored_unless_they_belong_to_one_hop,
    trailers_do_not_become_header_fields,
    content_is_never_transformed,
    an_incomplete_response_is_never_served_again,
    a_partial_response_is_never_served_as_complete,
    a_newer_response_replaces_an_older_one,
    immutable_changes_nothing_when_fresh_or_stale,
    responses_about_the_request_are_not_stored,
    responses_about_the_request_invalidate_nothing,
    responses_about_the_request_do_not_stop_coalescing,
    a_200_with_content_range_is_not_stored,
}

fn no_store_and_private_responses_are_not_stored(tier: Tier) {
    let rows = [
        ("Cache-Control: no-store, max-age=600", Fetched),
        ("Cache-Control: no-store, public, s-maxage=600", Fetched),
        ("Cache-Control: no-store\nExpires: Sun, 06 Nov 2033 08:49:37 GMT", Fetched),
        ("Cache-Control: private, max-age=600", Fetched),
        ("Cache-Control: private, s-maxage=600", Fetched),
        ("Cache-Control: max-age=600\nSet-Cookie: sid=1", Fetched),
        ("Cache-Control: max-age=600\nVary: *", Fetched),
        ("Cache-Control: max-age=600", Fresh(600)),
    ];
    Site::start(tier, "").judges_fields("/forbidden", &rows);
}

fn must_understand_requires_an_understood_status(tier: Tier) {
    let rows: [(&str, &str, Verdict); 7] = [
        ("200 OK", "must-understand, max-age=600", Fresh(600)),
        ("200 OK", "must-understand, no-store, max-age=600", Fresh(600)),
        ("200 OK", "no-store, max-age=600, Must-Understand", Fresh(600)),
        ("404 Not Found", "must-understand, no-store, max-age=600", Fresh(600)),
        ("200 OK", "must-understand, no-store, private, max-age=600", Fetched),
        ("599 Unknown", "must-understand, max-age=600", Fetched),
        ("299 Unknown", "must-understand, no-store, max-age=600", Fetched),
    ];
    let rows = rows.map(|(status, directives, verdict)| {
        let reply = message(status, &format!("Cache-Control: {directives}"));
        (format!("{status}: {directives}"), reply, verdict)
    });
    Site::start(tier, "").judges("/understood", rows);
}

fn no_cache_is_stored_and_validated_each_time(tier: Tier) {
    let rows = [
        ("Cache-Control: no-cache, max-age=600\nETag: \"1\"", Validated),
        ("Cache-Control: no-cache\nETag: \"1\"", Validated),
        ("Cache-Control: no-cache, stale-while-revalidate=600, stale-if-error=600\nETag: \"1\"", Validated),
        ("Cache-Control: no-cache, max-age=600", Fetched),
    ];
    let site = Site::start(tier, "");
    site.judges_fields("/no-cache", &rows);
    // Validated with success, it may be used.
    let unchanged = Reply::status(304).cached("no-cache, max-age=600").header("ETag", "\"1\"");
    let stored = Reply::new("body").cached("no-cache, max-age=600").header("ETag", "\"1\"");
    site.upstream.script("/once", [stored, unchanged]);
    site.get("/once");
    for _ in 0..2 {
        site.get("/once").shows("fwd=stale; fwd-status=304").carries("body");
    }
    assert_eq!(site.upstream.count("/once"), 3);
}

fn credentials_are_answered_from_the_cache_only_as_the_response_allows(tier: Tier) {
    let rows = [
        ("max-age=600", false),
        ("max-age=600, proxy-revalidate", false),
        ("max-age=600, immutable", false),
        ("max-age=600, public", true),
        ("s-maxage=600", true),
        ("max-age=600, must-revalidate", true),
        ("public, no-store, max-age=600", false),
        ("s-maxage=600, private", false),
    ];
    let site = Site::start(tier, "");
    for (index, (directives, shared)) in rows.into_iter().enumerate() {
        let target = format!("/credentials/{index}");
        site.upstream.on(&target, Reply::numbered().cached(directives));
        let authorized = |token: &str| site.call("GET", &target).header("Authorization", token).send();
        authorized("Bearer a").has_status(200);
        let second = authorized("Bearer b");
        assert_eq!(second.is("hit"), shared, "{directives}: {second:?}");
        // Nor for a request without credentials.
        let third = site.get(&target);
        assert_eq!(third.is("hit"), shared, "{directives}: {third:?}");
    }
}

fn all_fields_are_stored_unless_they_belong_to_one_hop(tier: Tier) {
    let kept = [
        ("x-new", vec!["1", "2, 3"]),
        ("x-empty", vec![""]),
        ("content-type", vec!["text/plain; charset=\"x\""]),
        ("content-language", vec!["de"]),
        ("link", vec!["<a>; rel=next", "<b>"]),
        ("expires", vec!["0"]),
        ("pragma", vec!["no-cache"]),
        ("cache-control", vec!["max-age=600", "extension=\"1\""]),
        ("warning", vec!["110 - \"stale\""]),
    ];
    let dropped = [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "upgrade",
        "trailer",
        "te",
    ];
    let mut fields = String::from("Connection: X-Hop, Keep-Alive\n");
    for (name, values) in &kept {
        values.iter().for_each(|value| fields += &format!("{name}: {value}\n"));
    }
    dropped[1..].iter().for_each(|name| fields += &format!("{name}: 1\n"));
    let site = Site::start(tier, "");
    site.upstream.on("/", message("200 OK", &fields));
    for part in ["stored", "hit"] {
        let response = site.get("/").shows(part);
        for (name, values) in &kept {
            assert_eq!(response.headers(name), *values, "{name} of the {part}");
        }
        for name in &dropped[1..] {
            assert_eq!(response.header(name), None, "{name} of the {part}");
        }
    }
}

fn trailers_do_not_become_header_fields(tier: Tier) {
    let site = Site::start(tier, "");
    let reply = "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nTrailer: X-Sum, Cache-Control\r\n\
                 Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Sum: 1\r\nCache-Control: no-store\r\nETag: \"late\"\r\n\r\n";
    site.upstream.on("/", Reply::raw(reply));
    site.get("/").shows("stored").carries("ok");
    let hit = site.get("/").shows("hit").carries("ok");
    assert_eq!((hit.header("x-sum"), hit.header("etag")), (None, None), "{hit:?}");
    assert_eq!(hit.headers("cache-control"), ["max-age=600"]);
}

fn content_is_never_transformed(tier: Tier) {
    let site = Site::start(tier, "");
    let body: Vec<u8> = (0..=255).collect();
    for (target, coding) in [("/coded", "gzip"), ("/strange", "x-unheard-of"), ("/plain", "identity")] {
        let reply = Reply::new(body.clone()).cached("max-age=600, no-transform");
        site.upstream.on(target, reply.header("Content-Encoding", coding).header("Content-Type", "image/x-y"));
        for part in ["stored", "hit"] {
            let response = site.call("GET", target).header("Cache-Control", "no-transform").send().shows(part);
            assert_eq!(response.body, body, "{target}: {part}");
            assert_eq!(response.headers("content-encoding"), [coding]);
            assert_eq!(response.headers("content-type"), ["image/x-y"]);
            assert_eq!(response.headers("cache-control"), ["max-age=600, no-transform"]);
        }
    }
}

/// Statuses that are about the request, by RFC 9110 §15.5 and §15.6, RFC 6585, RFC 8470 and RFC 4918; and some that no RFC
/// assigns, which count as 400 (RFC 9110 §15): those that servers are known to send among them.
const ABOUT_REQUEST: [u16; 47] = [
    400, 401, 402, 403, 406, 407, 408, 409, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 425, 426, 428,
    429, 431, 501, 505, 506, 510, 511, 419, 420, 427, 430, 432, 440, 444, 449, 450, 452, 460, 463, 494, 495, 496,
    497, 498, 499,
];

/// Whatever its freshness.
fn fresh(status: u16) -> Reply {
    Reply::status(status).cached("public, max-age=600, s-maxage=600").header("Larder-Cache-Control", "max-age=600")
}

/// Upstream answers requests with this field with this status, and others with `good`.
fn refuses(site: &Site, target: &str, status: u16, good: impl Fn() -> Reply + Send + Sync + 'static) {
    site.upstream.answer(target, move |request| match request.header("x-bad") {
        Some(_) => fresh(status),
        None => good(),
    });
}

fn responses_about_the_request_are_not_stored(tier: Tier) {
    let rules = "[[family]]\nname = \"own\"\npath = '/own/.*'\nttl = \"600s\"\nnegative_ttl = \"600s\"\n\
                 ttl_policy = \"override\"\n";
    let site = Site::start(tier, rules);
    for (status, prefix) in ABOUT_REQUEST.iter().flat_map(|status| [(*status, ""), (*status, "/own")]) {
        let target = format!("{prefix}/{status}");
        refuses(&site, &target, status, || Reply::new("good").cached("max-age=600"));
        let bad = || site.call("GET", &target).header("X-Bad", "1").send();
        bad().hides("stored").has_status(status);
        bad().hides("hit").hides("stored").has_status(status);
        site.get(&target).shows("fwd=uri-miss; stored").has_status(200).carries("good");
        site.get(&target).shows("hit").carries("good");
    }
}

fn responses_about_the_request_invalidate_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    for status in ABOUT_REQUEST {
        let target = format!("/{status}");
        site.upstream.answer(&target, move |request| {
            match (request.header("x-bad"), request.header("if-none-match")) {
                (Some(_), _) => fresh(status),
                (None, Some("\"1\"")) => Reply::status(304).cached("max-age=600").header("ETag", "\"1\""),
                (None, _) => Reply::new("good").stale("public"),
            }
        });
        site.get(&target).shows("stored").carries("good");
        site.call("GET", &target).header("X-Bad", "1").send().hides("stored").has_status(status);
        site.get(&target).shows("fwd=stale; fwd-status=304").has_status(200).carries("good");
        site.get(&target).shows("hit").carries("good");
    }
}

fn responses_about_the_request_do_not_stop_coalescing(tier: Tier) {
    let site = Site::start(tier, "");
    for status in ABOUT_REQUEST {
        let mut round = 0;
        // A follower may still be looking up when the gate opens; then it is a round that shows nothing.
        eventually("a follower has shared a fetch", || {
            round += 1;
            let target = format!("/{status}/{round}");
            refuses(&site, &target, status, || Reply::new("good").cached("max-age=600"));
            site.call("GET", &target).header("X-Bad", "1").send().has_status(status);
            let gate = site.upstream.hold_next(&target);
            let leader = site.call("GET", &target).start();
            gate.wait_for(1);
            let follower = site.call("GET", &target).start();
            site.get("/fence").has_status(200);
            gate.open();
            leader.response().carries("good");
            follower.response().carries("good").is("collapsed")
        });
    }
}

fn a_200_with_content_range_is_not_stored(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = ["200 OK", "203 Other", "404 Not Found"].iter().flat_map(|status| {
        ["bytes 0-1/2", "bytes 0-1/10", "bytes */2", "bytes 0-1/*", "x", ""].map(|range| (*status, range))
    });
    let rows = rows.map(|(status, range)| {
        let reply = message(status, &format!("Cache-Control: public, max-age=600\nContent-Range: {range}"));
        (format!("{status}: {range}"), reply, Fetched)
    });
    site.judges("/part", rows);
    site.upstream.on("/", message("200 OK", "Cache-Control: max-age=600\nContent-Range: bytes 0-1/10"));
    let whole = site.get("/").shows("detail=content-range").has_status(200).carries("ok");
    assert_eq!(whole.headers("content-range"), ["bytes 0-1/10"], "it goes on as it came");
}

fn an_incomplete_response_is_never_served_again(tier: Tier) {
    let site = Site::start(tier, "");
    let heads = [
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n12345",
    ];
    for (index, message) in heads.into_iter().enumerate() {
        let target = format!("/cut/{index}");
        site.upstream.script(&target, [Reply::raw(message), Reply::new("whole").cached("max-age=600")]);
        let cut = site.call("GET", &target).try_send();
        assert!(matches!(cut, Err(Failure::Cut(_) | Failure::NoHead)), "{target}: {cut:?}");
        site.get(&target).hides("hit").has_status(200).carries("whole");
    }
}

fn a_partial_response_is_never_served_as_complete(tier: Tier) {
    let site = Site::start(tier, "");
    let partial = "HTTP/1.1 206 Partial Content\r\nCache-Control: max-age=600\r\nETag: \"1\"\r\n\
                   Content-Range: bytes 0-1/10\r\nContent-Length: 2\r\nConnection: close\r\n\r\n01";
    let whole = Reply::new("0123456789").cached("max-age=600").header("ETag", "\"1\"");
    site.upstream.script("/", [Reply::raw(partial), Reply::raw(partial), whole]);
    let asked = site.call("GET", "/").header("Range", "bytes=0-1").send().hides("stored").has_status(206);
    assert_eq!(asked.headers("content-range"), ["bytes 0-1/10"]);
    // Even an unrequested one is forwarded unchanged.
    site.get("/").hides("stored").hides("hit").has_status(206).carries("01");
    site.get("/").shows("stored").has_status(200).carries("0123456789");
}

fn a_newer_response_replaces_an_older_one(tier: Tier) {
    let site = Site::start(tier, "");
    let newer = Reply::new("newer").cached("max-age=600").header("ETag", "\"2\"");
    site.upstream.script("/", [Reply::new("older").stale("public"), newer]);
    site.get("/").carries("older");
    site.get("/").carries("newer");
    site.get("/").shows("hit").carries("newer");
}

fn immutable_changes_nothing_when_fresh_or_stale(tier: Tier) {
    let rows = [
        ("Cache-Control: max-age=600, immutable\nETag: \"1\"", Fresh(600)),
        ("Cache-Control: max-age=600, immutable, immutable=1, immutable=\"x\"\nETag: \"1\"", Fresh(600)),
        ("Cache-Control: max-age=600, immutable\nAge: 600\nETag: \"1\"", Validated),
        ("Cache-Control: immutable\nETag: \"1\"", Fetched),
        ("Cache-Control: immutable, no-store, max-age=600\nETag: \"1\"", Fetched),
    ];
    Site::start(tier, "").judges_fields("/immutable", &rows);
}

#[test]
fn only_methods_that_are_understood_are_answered_from_the_cache() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.answer("/", |request| {
        Reply::new(format!("{} #{}", request.method, request.nth))
            .cached("public, max-age=600")
            .header("ETag", "\"1\"")
    });
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT", "FOO", "get"] {
        for round in 1..=2 {
            let answer = site.call(method, "/").send().shows("fwd=method").hides("stored");
            answer.carries(&format!("{method} #{round}"));
        }
    }
    site.get("/").shows("fwd=uri-miss").carries("GET #1");
    for method in ["OPTIONS", "REPORT"] {
        site.call(method, "/").send().carries(&format!("{method} #3"));
    }
    site.get("/").shows("hit").carries("GET #1");
}

#[test]
fn statuses_that_are_never_stored() {
    let site = Site::start(Tier::Embedded, "");
    let fields = "Cache-Control: public, max-age=600\nContent-Range: bytes 0-1/10";
    let statuses = ["206 Partial Content", "304 Not Modified", "600 Strange", "799 Strange", "999 Strange"];
    site.judges("/never", statuses.map(|status| (status, message(status, fields), Fetched)));
}

#[test]
fn connect_is_refused() {
    let site = Site::start(Tier::Embedded, "");
    let connect = "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nConnection: close\r\n\r\n";
    site.raw(connect).response().fails_with(501);
    let without_port = "CONNECT example.com HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
    assert!((400..=501).contains(&site.raw(without_port).response().status));
}

#[test]
fn a_get_with_content_is_neither_keyed_nor_stored() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.answer("/", |request| Reply::new(request.body.clone()).cached("max-age=600"));
    for body in ["a", "b"] {
        site.call("GET", "/").body(body).send().shows("fwd=bypass").hides("stored").carries(body);
    }
    site.get("/").shows("fwd=uri-miss; stored").carries("");
    site.call("GET", "/").body("c").send().hides("hit").carries("c");
}

#[test]
fn a_get_with_empty_content_is_an_ordinary_one() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.on("/", Reply::numbered().cached("max-age=600"));
    let ask = |fields: &str, content: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\n{content}");
        site.raw(head).response().has_status(200)
    };
    ask("Transfer-Encoding: chunked", "0\r\n\r\n").shows("stored");
    assert_eq!(site.upstream.last("/").header("transfer-encoding"), None);
    for (fields, content) in [
        ("Content-Length: 0", ""),
        ("Content-Length: 00", ""),
        ("Transfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "0;a=b\r\nX: y\r\n\r\n"),
    ] {
        ask(fields, content).shows("hit");
    }
    ask("Transfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n").shows("detail=request-body");
    assert_eq!(site.upstream.last("/").body, b"x");
}

#[test]
fn stored_metadata_is_shared_by_every_proxy() {
    let site = Site::start(Tier::Redis, "");
    let rows = [
        ("/fresh", "Cache-Control: max-age=600\nAge: 100\nX-Name: 1\nX-Name: 2\nX-Empty:"),
        ("/no-cache", "Cache-Control: no-cache, max-age=600\nETag: \"1\""),
        ("/strict", "Cache-Control: max-age=60, must-revalidate, stale-if-error=6000\nAge: 100\nETag: \"1\""),
        ("/lenient", "Cache-Control: max-age=60, stale-if-error=6000\nAge: 100\nETag: \"1\""),
        ("/public", "Cache-Control: public, max-age=600"),
        ("/plain", "Cache-Control: max-age=600"),
    ];
    for (target, fields) in rows {
        site.upstream.script(target, [message("404 Not Found", fields), message("503 Away", "")]);
        site.get(target).shows("stored");
    }
    site.wait_for_entries(rows.len());
    let other = site.another();
    let fresh = other.get("/fresh").shows("hit").has_status(404).carries("ok");
    assert!((440..=500).contains(&fresh.ttl()), "{fresh:?}");
    assert_eq!((fresh.headers("x-name"), fresh.headers("x-empty")), (vec!["1", "2"], vec![""]));
    for target in ["/no-cache", "/strict"] {
        other.get(target).hides("hit").has_status(503);
        assert_eq!(site.upstream.last(target).header("if-none-match"), Some("\"1\""), "{target}");
    }
    assert!(other.get("/lenient").shows("detail=upstream-failed").has_status(404).ttl() < 0);
    let authorized = |target| other.call("GET", target).header("Authorization", "Bearer a").send();
    authorized("/public").shows("hit").has_status(404);
    authorized("/plain").hides("hit").has_status(503);
}

#[test]
fn a_head_has_the_fields_of_a_get() {
    let site = Site::start(Tier::Embedded, "");
    for (index, status) in ["200 OK", "404 Not Found", "204 No Content", "301 Moved"].into_iter().enumerate() {
        let target = format!("/{index}");
        let fields = "Cache-Control: max-age=600\nETag: \"1\"\nX-Name: 1\nX-Name: 2\nContent-Type: text/plain\nLocation: /a";
        site.upstream.on(&target, message(status, fields));
        site.get(&target).shows("stored");
        let response_to = |method: &str| {
            let answer = site.call(method, &target).send().shows("hit");
            let is_compared = |name: &str| !["age", "cache-status", "x-request-id"].contains(&name);
            let mut fields: Vec<_> = answer.headers.into_iter().filter(|(name, _)| is_compared(name)).collect();
            fields.sort();
            (answer.status, fields)
        };
        assert_eq!(response_to("HEAD"), response_to("GET"), "{status}");
        site.call("HEAD", &target).send().carries("");
    }
}

on_both_tiers! {
    private_fields_reach_only_the_requesting_client,
    fields_that_need_validation_are_not_stored,
    fields_that_are_private_do_not_come_in_by_a_304,
    fields_that_decide_on_reuse_count_though_they_are_private,
    a_post_response_with_its_content_location_answers_a_later_get,
    a_post_response_without_content_location_is_not_stored,
    an_event_stream_is_never_stored,
}

/// Only the requesting client receives the named fields; the rest is stored.
#[track_caller]
fn assert_without(site: &Site, target: &str, directives: &str) {
    let fields = format!("Cache-Control: {directives}\nX-User: 7\nX-Other: 8\nX-Shared: 9\nETag: \"1\"");
    site.upstream.on(target, message("200 OK", &fields));
    let first = site.get(target).shows("stored").carries("ok");
    assert_eq!(first.headers("x-user"), ["7"], "{directives}: {first:?}");
    let second = site.get(target).shows("hit").carries("ok");
    assert_eq!(second.header("x-user"), None, "{directives}: {second:?}");
    assert_eq!(second.headers("x-shared"), ["9"], "{directives}: {second:?}");
    assert_eq!(second.headers("cache-control"), [directives]);
    assert_eq!(second.header("x-other").is_none(), directives.to_lowercase().contains("x-other"), "{directives}");
}

fn private_fields_reach_only_the_requesting_client(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        "private=\"x-user\", max-age=600",
        "max-age=600, PRIVATE=\"X-User\"",
        "private=\"X-User, x-other\", max-age=600",
        "private=x-user, max-age=600",
        "private=\"x-user\", private=\"x-other\", max-age=600",
    ];
    for (index, directives) in rows.into_iter().enumerate() {
        assert_without(&site, &format!("/private/{index}"), directives);
    }
    // Without field names it concerns the whole response, even if another occurrence names fields.
    site.judges_fields("/whole", &[("Cache-Control: private=\"x-user\", private, max-age=600", Fetched)]);
}

fn fields_that_need_validation_are_not_stored(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, directives) in
        ["no-cache=\"x-user\", max-age=600", "max-age=600, No-Cache=\"X-USER,x-other\""].into_iter().enumerate()
    {
        assert_without(&site, &format!("/no-cache/{index}"), directives);
    }
    // A cookie that upstream declares private does not prevent storing the rest.
    let fields = "Cache-Control: max-age=600, no-cache=\"set-cookie\"\nSet-Cookie: sid=1";
    site.upstream.on("/cookie", message("200 OK", fields));
    assert_eq!(site.get("/cookie").headers("set-cookie"), ["sid=1"]);
    assert_eq!(site.get("/cookie").shows("hit").header("set-cookie"), None);
}

fn a_post_response_with_its_content_location_answers_a_later_get(tier: Tier) {
    let site = Site::start(tier, "");
    let fields = "Cache-Control: max-age=600\nContent-Location: /thing\nETag: \"1\"";
    site.upstream.on("POST /thing", message("200 OK", fields));
    site.write("POST", "/thing").shows("fwd=method; fwd-status=200; stored").carries("ok");
    site.get("/thing").shows("hit").carries("ok");
    assert_eq!(site.upstream.count("GET /thing"), 0);
    let absolute = fields.replace("/thing", "http://localhost/other?x=1#y");
    site.upstream.on("POST /other", message("200 OK", &absolute));
    site.write("POST", "/other?x=1").has_status(200);
    let found = site.get("/other?x=1");
    assert!(found.text() == "ok" || !found.is("hit"), "{found:?}");
    // Never answered from the cache itself.
    site.write("POST", "/thing").hides("hit");
    assert_eq!(site.upstream.count("POST /thing"), 2);
}

fn a_post_response_without_content_location_is_not_stored(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        ("200 OK", "Cache-Control: max-age=600"),
        ("200 OK", "Content-Location: {}"),
        ("200 OK", "Content-Location: /other\nCache-Control: max-age=600"),
        ("200 OK", "Content-Location: http://elsewhere.example{}\nCache-Control: max-age=600"),
        ("200 OK", "Content-Location: {}\nCache-Control: no-store, max-age=600"),
        ("200 OK", "Content-Location: {}\nCache-Control: private, max-age=600"),
        ("200 OK", "Content-Location: {}\nCache-Control: max-age=600\nSet-Cookie: sid=1"),
        ("500 Error", "Content-Location: {}\nCache-Control: max-age=600"),
    ];
    for (index, (status, fields)) in rows.into_iter().enumerate() {
        let target = format!("/thing/{index}");
        site.upstream.on(&format!("POST {target}"), message(status, &fields.replace("{}", &target)));
        site.write("POST", &target).hides("stored");
        let found = site.get(&target);
        assert!(!found.is("hit"), "{status}: {fields}: {found:?}");
    }
}

fn an_event_stream_is_never_stored(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"all\"\npath = '/.*'\nttl = \"600s\"\n");
    let gate = Gate::new();
    let events =
        |reply: Reply| reply.cached("max-age=600").header("Content-Type", "text/event-stream; charset=utf-8");
    site.upstream.on("/events", events(Reply::new("data: 1\n\ndata: 2\n\n")).pause_after(9, &gate));
    let mut reader = site.call("GET", "/events").start();
    assert_eq!(reader.read_body(9).unwrap(), b"data: 1\n\n", "an event comes before the stream ends");
    gate.open();
    reader.response().hides("stored");
    site.get("/events").hides("stored").hides("hit");
    let rows =
        [("text/event-stream", Fetched), ("Text/Event-Stream;x=y", Fetched), ("text/event-streams", Fresh(600))];
    site.judges_fields("/kinds", &rows.map(|(kind, verdict)| (format!("Content-Type: {kind}"), verdict)));
}

fn fields_that_are_private_do_not_come_in_by_a_304(tier: Tier) {
    let site = Site::start(tier, "");
    let update = "ETag: \"1\"\nCache-Control: private=\"x-user\", max-age=600\nX-User: 7\nX-Shared: 9";
    let stored = message("200 OK", "Cache-Control: max-age=60\nAge: 100\nETag: \"1\"");
    site.upstream.script("/", [stored, message("304 Not Modified", update), message("200 OK", update)]);
    site.get("/").shows("stored");
    site.get("/").hides("hit").has_status(200);
    let hit = site.get("/").shows("hit");
    assert_eq!((hit.header("x-user"), hit.headers("x-shared")), (None, vec!["9"]), "{hit:?}");
}

fn fields_that_decide_on_reuse_count_though_they_are_private(tier: Tier) {
    let site = Site::start(tier, "");
    let ask = |target: &str, accept: &str| site.call("GET", target).header("Accept", accept).send();
    for (index, directive) in ["private", "no-cache"].into_iter().enumerate() {
        let target = format!("/vary/{index}");
        let fields = format!("Cache-Control: {directive}=\"vary\", max-age=600\nVary: Accept");
        site.upstream.on(&target, message("200 OK", &fields));
        ask(&target, "a");
        ask(&target, "b").hides("hit");
        let target = format!("/control/{index}");
        let fields = format!("Cache-Control: {directive}=\"cache-control, age, date\", max-age=600\nAge: 300");
        site.upstream.on(&target, message("200 OK", &fields));
        site.get(&target);
        let again = site.get(&target);
        assert!(!again.is("hit") || again.ttl() <= 300, "{directive}: {again:?}");
    }
}

#[test]
fn content_of_a_get_in_chunks_reaches_upstream() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.answer("/", |request| Reply::new(request.body.clone()).cached("max-age=600"));
    for body in ["a", "b"] {
        site.call("GET", "/").body(body).chunked().send().shows("fwd=bypass").carries(body);
    }
}

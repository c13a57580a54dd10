//! Validation, towards upstream and towards clients: RFC 9111 §3.2 and §4.3, RFC 9110 §8.8, §13 and §15.4.5.

use std::time::{Duration, SystemTime};

use crate::support::{Reply, Response, Site, Tier, eventually, message};

on_both_tiers! {
    a_stale_response_is_validated_with_all_its_validators,
    a_malformed_validator_validates_nothing,
    a_304_updates_the_stored_fields,
    a_304_does_not_update_fields_about_the_content,
    a_304_makes_a_response_fresh_from_now_on,
    a_304_without_a_date_is_dated_at_receipt,
    a_304_about_something_else_updates_nothing,
    a_304_is_matched_by_its_tag,
    a_304_without_other_validators_confirms_the_stored_response,
    a_304_that_varies_on_more_is_not_trusted,
    a_304_with_more_vary_fields_causes_one_full_fetch,
    a_304_that_may_not_be_stored_is_not_used_for_others,
    a_full_answer_to_a_validation_is_used,
    a_server_error_on_validation_goes_on_and_spoils_nothing,
    an_error_in_the_background_spoils_nothing,
    an_error_for_one_caller_does_not_replace_the_stored_response,
    if_none_match_is_compared_weakly_with_each_tag,
    if_modified_since_is_compared_with_last_modified_or_date,
    if_none_match_goes_before_if_modified_since,
    a_date_of_the_second_of_a_write_confirms_nothing,
    a_date_of_the_second_of_a_write_confirms_no_streamed_response,
    a_date_clearly_before_or_after_a_write_gives_304,
    a_304_from_the_cache_has_the_required_fields_of_the_200,
    conditions_of_a_client_are_met_after_a_validation,
    client_conditions_apply_to_stale_responses,
    conditions_for_the_origin_are_left_to_it,
    conditions_for_the_origin_are_ignored_if_they_change_nothing,
}

const EARLY: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

/// Stale from the beginning.
const STALE: &str = "Cache-Control: max-age=60\nAge: 100";

#[track_caller]
fn get(site: &Site, target: &str, fields: &[(&str, &str)]) -> Response {
    fields.iter().fold(site.call("GET", target), |call, (name, value)| call.header(name, value)).send()
}

fn a_stale_response_is_validated_with_all_its_validators(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = format!("Last-Modified: {MODIFIED}");
    let rows = [
        ("ETag: \"1\"".to_owned(), Some("\"1\""), None),
        ("ETag: W/\"1\"".to_owned(), Some("W/\"1\""), None),
        ("ETag: \"a,b\"".to_owned(), Some("\"a,b\""), None),
        ("ETag: \"\"".to_owned(), Some("\"\""), None),
        (modified.clone(), None, Some(MODIFIED)),
        (format!("ETag: \"1\"\n{modified}"), Some("\"1\""), Some(MODIFIED)),
    ];
    for (index, (fields, tag, date)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.on(&target, message("200 OK", &format!("{STALE}\n{fields}")));
        site.get(&target).shows("stored");
        // The client's own conditions are not sent in their place.
        let own = [("If-None-Match", "\"own\""), ("If-Modified-Since", EARLY)];
        get(&site, &target, &own).shows("fwd=stale").has_status(200);
        let request = site.upstream.last(&target);
        assert_eq!(request.header("if-none-match"), tag, "{fields}");
        assert_eq!(request.header("if-modified-since"), date, "{fields}");
    }
}

fn a_malformed_validator_validates_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    let rows =
        ["ETag: 1", "ETag: w/\"1\"", "ETag: \"1", "ETag: \"1\"\nETag: \"2\"", "Last-Modified: yesterday", "ETag:"];
    for (index, fields) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.on(&target, message("200 OK", &format!("Cache-Control: max-age=60\nAge: 100\n{fields}")));
        site.get(&target);
        site.get(&target).hides("hit").has_status(200);
        let request = site.upstream.last(&target);
        assert_eq!(
            (request.header("if-none-match"), request.header("if-modified-since")),
            (None, None),
            "{fields}"
        );
    }
}

fn a_304_updates_the_stored_fields(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = "Cache-Control: max-age=60\nAge: 100\nETag: \"1\"\nX-Kept: 1\nX-Old: 1\nX-Old: 2\n\
                  Date: Sun, 06 Nov 1994 08:49:37 GMT\nExpires: 0";
    let update = "Cache-Control: max-age=600, stale-if-error=5\nETag: \"1\"\nX-Old: 3\nX-New: 4\nX-New: 5\n\
                  Connection: X-Hop\nX-Hop: 1\nKeep-Alive: 1\nDate: Sun, 06 Nov 2033 08:49:37 GMT";
    site.upstream.script("/", [message("200 OK", stored), message("304 Not Modified", update)]);
    site.get("/").shows("stored");
    let validated = site.get("/").shows("fwd=stale; fwd-status=304");
    let hit = site.get("/").shows("hit");
    for response in [validated, hit] {
        let response = response.has_status(200).carries("ok");
        assert_eq!(response.headers("cache-control"), ["max-age=600, stale-if-error=5"]);
        assert_eq!(response.headers("x-kept"), ["1"]);
        assert_eq!(response.headers("x-old"), ["3"]);
        assert_eq!(response.headers("x-new"), ["4", "5"]);
        assert_eq!(response.headers("date"), ["Sun, 06 Nov 2033 08:49:37 GMT"]);
        assert_eq!(response.headers("expires"), ["0"]);
        assert_eq!((response.header("x-hop"), response.header("keep-alive")), (None, None));
    }
}

fn a_304_does_not_update_fields_about_the_content(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = format!("{STALE}\nETag: \"1\"\nContent-Type: text/plain");
    let update = "Cache-Control: max-age=600\nETag: \"1\"\nContent-Length: 999\nContent-Type: text/html\n\
                  Content-Encoding: gzip\nContent-Range: bytes 0-1/2";
    site.upstream.script("/", [message("200 OK", &stored), message("304 Not Modified", update)]);
    site.get("/");
    for part in ["fwd-status=304", "hit"] {
        let response = site.get("/").shows(part).has_status(200).carries("ok");
        assert_eq!(response.headers("content-length"), ["2"]);
        assert_eq!(response.headers("content-type"), ["text/plain"]);
        assert_eq!((response.header("content-encoding"), response.header("content-range")), (None, None));
    }
}

fn a_304_makes_a_response_fresh_from_now_on(tier: Tier) {
    let site = Site::start(tier, "");
    // A 304 without a lifetime restarts the stored one.
    let rows =
        [("ETag: \"1\"", 60), ("ETag: \"1\"\nCache-Control: max-age=600", 600), ("ETag: \"1\"\nAge: 30", 30)];
    for (index, (update, ttl)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        let stored = format!("{STALE}\nETag: \"1\"");
        site.upstream.script(&target, [message("200 OK", &stored), message("304 Not Modified", update)]);
        site.get(&target);
        site.get(&target).shows("fwd-status=304");
        let hit = site.get(&target).shows("hit");
        assert!((ttl - 25..=ttl).contains(&hit.ttl()), "{update}: {hit:?}");
    }
}

fn a_304_without_a_date_is_dated_at_receipt(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = format!("Cache-Control: max-age=600\nETag: \"1\"\nDate: {MODIFIED}");
    site.upstream.script("/", [message("200 OK", &stored), message("304 Not Modified", "ETag: \"1\"")]);
    assert_eq!(site.get("/").headers("date"), [MODIFIED]);
    site.get("/").shows("fwd=stale; fwd-status=304");
    let hit = site.get("/").shows("hit").carries("ok");
    let date = httpdate::parse_http_date(hit.header("date").unwrap()).unwrap();
    assert!(SystemTime::now().duration_since(date).unwrap_or_default() < Duration::from_secs(60), "{hit:?}");
    assert!(hit.ttl() > 500, "{hit:?}");
}

/// A stored response is stale, upstream answers the validation with this 304 and what follows with the new response.
#[track_caller]
fn after_304(site: &Site, target: &str, stored: &str, update: &str) -> Response {
    let replies = [
        message("200 OK", &format!("{STALE}\n{stored}")),
        message("304 Not Modified", &format!("Cache-Control: max-age=600\n{update}")),
        Reply::new("new").cached("max-age=600"),
    ];
    site.upstream.script(target, replies);
    site.get(target).carries("ok");
    let answer = site.get(target).has_status(200);
    let next = site.get(target).shows("hit");
    assert_eq!(answer.text(), next.text(), "{stored} and {update}");
    next
}

fn a_304_about_something_else_updates_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = format!("Last-Modified: {MODIFIED}");
    let rows = [
        ("ETag: \"1\"".to_owned(), "ETag: \"2\"".to_owned()),
        ("ETag: \"1\"".to_owned(), "ETag: W/\"2\"".to_owned()),
        (format!("ETag: \"1\"\n{modified}"), format!("ETag: \"2\"\n{modified}")),
        (modified.clone(), format!("Last-Modified: {LATE}")),
        (modified, "ETag: \"1\"".to_owned()),
    ];
    for (index, (stored, update)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        after_304(&site, &target, &stored, &update).carries("new");
        let requests = site.upstream.requests(&target);
        assert_eq!(requests.len(), 3, "{stored} and {update}");
        let conditions = ["if-none-match", "if-modified-since"].map(|name| requests[2].header(name));
        assert_eq!(conditions, [None, None], "the whole is asked for: {stored} and {update}");
    }
}

fn a_304_is_matched_by_its_tag(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = format!("Last-Modified: {MODIFIED}");
    let rows = [
        ("ETag: \"1\"".to_owned(), "ETag: \"1\"".to_owned()),
        ("ETag: W/\"1\"".to_owned(), "ETag: W/\"1\"".to_owned()),
        // Weakened as it was compressed, and not compressed in the 304: Django, nginx.
        ("ETag: W/\"1\"".to_owned(), "ETag: \"1\"".to_owned()),
        ("ETag: \"1\"".to_owned(), "ETag: W/\"1\"".to_owned()),
        (modified.clone(), modified.clone()),
        (format!("ETag: \"1\"\n{modified}"), format!("ETag: \"1\"\nLast-Modified: {LATE}")),
    ];
    for (index, (stored, update)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        after_304(&site, &target, &stored, &update).carries("ok");
        assert_eq!(site.upstream.count(&target), 2, "{stored} and {update}");
    }
}

/// One request at each expiry, whatever fields of the 200 the 304 omits.
fn a_304_without_other_validators_confirms_the_stored_response(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = format!("Last-Modified: {MODIFIED}");
    let (tag, weak, bare) = ("ETag: \"1\"", "ETag: W/\"1\"", "ETag: 1");
    let both = format!("{tag}\n{modified}");
    let odd = format!("{bare}\n{modified}");
    let rows: [(&str, &[&str]); 5] = [
        (tag, &["X-New: 1", tag, weak]),
        (weak, &["X-New: 1", weak]),
        (&modified, &["X-New: 1", &modified, &both]),
        (&both, &["X-New: 1", tag, &modified, &both, &format!("{tag}\nLast-Modified: {LATE}")]),
        (&odd, &["X-New: 1", bare, &odd]),
    ];
    let varies: [(&str, &[&str]); 4] = [
        ("X-None: 1", &["X-None: 1", "Vary:"]),
        ("Vary: Accept", &["X-None: 1", "Vary: accept", "Vary: ,"]),
        ("Vary: Accept, Origin", &["X-None: 1", "Vary: Origin", "Vary: Origin\nVary: Accept", "Vary: accept"]),
        ("Content-Encoding: gzip\nVary: Cookie", &["X-None: 1", "Vary: Cookie", "Vary: Accept-Encoding"]),
    ];
    let mut index = 0;
    for (stored, vary) in rows.iter().flat_map(|row| varies.iter().map(move |vary| (row, vary))) {
        for (update, narrower) in stored.1.iter().flat_map(|update| vary.1.iter().map(move |vary| (update, vary)))
        {
            index += 1;
            let target = format!("/{index}");
            let first = message("200 OK", &format!("{STALE}\n{}\n{}", stored.0, vary.0));
            let unchanged = message("304 Not Modified", &format!("{STALE}\n{update}\n{narrower}"));
            site.upstream.script(&target, [first, unchanged]);
            let fields = [("Accept", "a"), ("Origin", "http://a"), ("Accept-Encoding", "gzip")];
            get(&site, &target, &fields).shows("stored");
            for round in 2..=4 {
                get(&site, &target, &fields).shows("fwd=stale; fwd-status=304").has_status(200).carries("ok");
                assert_eq!(site.upstream.count(&target), round, "{stored:?}, {vary:?}, {update}, {narrower}");
            }
        }
    }
    // Without a validator it is not validated; upstream's full response replaces it.
    site.upstream.on("/plain", message("200 OK", "Cache-Control: max-age=60, stale-if-error=600\nAge: 100"));
    site.get("/plain").shows("stored");
    site.get("/plain").hides("hit").carries("ok");
    assert_eq!(site.upstream.last("/plain").header("if-none-match"), None);
}

fn a_304_that_varies_on_more_is_not_trusted(tier: Tier) {
    let site = Site::start(tier, "");
    after_304(&site, "/more", "ETag: \"1\"", "ETag: \"1\"\nVary: Accept").carries("new");
    after_304(&site, "/bare", "ETag: \"1\"", "Vary: Accept").carries("new");
    after_304(&site, "/other", "ETag: \"1\"\nVary: Origin", "ETag: \"1\"\nVary: Accept").carries("new");
    after_304(&site, "/all", "ETag: \"1\"", "ETag: \"1\"\nVary: *").carries("new");
}

/// Fields of the 304 apply to the 200 that follows without them: the next 304 has no news.
fn a_304_with_more_vary_fields_causes_one_full_fetch(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.answer("/", |request| match request.header("if-none-match") {
        Some(_) => Reply::status(304).stale("public").header("Vary", "Origin"),
        None => Reply::new(request.header("origin").unwrap_or("none")).stale("public"),
    });
    let ask = |origin: &str| get(&site, "/", &[("Origin", origin)]);
    ask("a").shows("stored").carries("a");
    ask("a").shows("fwd=stale; fwd-status=200; stored").carries("a");
    assert_eq!(site.upstream.count("/"), 3);
    for round in 4..=5 {
        ask("a").shows("fwd=stale; fwd-status=304").carries("a");
        assert_eq!(site.upstream.count("/"), round);
    }
    ask("b").shows("fwd=vary-miss; stored").carries("b");
    ask("a").shows("fwd-status=304").carries("a");
    ask("b").shows("fwd-status=304").carries("b");
}

fn a_304_that_may_not_be_stored_is_not_used_for_others(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, update) in
        ["Cache-Control: no-store", "Cache-Control: private", "Set-Cookie: sid=1"].into_iter().enumerate()
    {
        let target = format!("/{index}");
        let stored = message("200 OK", &format!("{STALE}\nETag: \"1\""));
        let unchanged = message("304 Not Modified", &format!("ETag: \"1\"\n{update}"));
        site.upstream.script(&target, [stored, unchanged, Reply::numbered().cached("no-store")]);
        site.get(&target).carries("ok");
        site.get(&target).hides("hit").hides("stored").carries(&format!("{target} #3"));
    }
}

fn a_full_answer_to_a_validation_is_used(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = || message("200 OK", &format!("{STALE}\nETag: \"1\""));
    for (status, stays) in [(200, true), (404, true), (410, true), (301, true)] {
        let target = format!("/{status}");
        site.upstream.script(&target, [stored(), Reply::status(status).cached("max-age=600")]);
        site.get(&target);
        site.get(&target).shows("fwd=stale; stored").has_status(status).carries(&format!("{target} #2"));
        assert_eq!(site.get(&target).has_status(status).is("hit"), stays);
    }
    site.upstream.script("/unstored", [stored(), Reply::new("new").cached("no-store")]);
    site.get("/unstored");
    site.get("/unstored").carries("new");
    site.get("/unstored").hides("hit").carries("new");
}

fn a_server_error_on_validation_goes_on_and_spoils_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    for (status, field) in [500, 502, 503, 504, 501, 507, 599]
        .iter()
        .flat_map(|status| [(status, "no-transform"), (status, "public, max-age=600")])
    {
        let target = format!("/{status}/{}", field.len());
        let unchanged = message("304 Not Modified", "ETag: \"1\"\nCache-Control: max-age=600");
        let stored = message("200 OK", &format!("{STALE}\nETag: \"1\""));
        site.upstream.script(&target, [stored, Reply::status(*status).cached(field), unchanged]);
        site.get(&target).carries("ok");
        site.get(&target).hides("hit").hides("stored").has_status(*status);
        site.get(&target).shows("fwd-status=304").has_status(200).carries("ok");
        site.get(&target).shows("hit").carries("ok");
    }
}

/// The requesting client gets the stale response; the error arrives in the background.
fn an_error_in_the_background_spoils_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    for status in [500, 502, 503, 504, 501, 429, 403, 400, 406, 599] {
        let target = format!("/{status}");
        let old = || Reply::new("old").stale("stale-while-revalidate=6000");
        let error = Reply::status(status).cached("public, max-age=600");
        site.upstream.script(&target, [old(), error, Reply::new("new").cached("max-age=600")]);
        site.get(&target).carries("old");
        site.get(&target).shows("hit; detail=revalidating").carries("old");
        eventually("upstream has answered with the error", || site.upstream.count(&target) >= 2);
        eventually("the next revalidation brings the new response", || {
            let answer = site.get(&target).has_status(200);
            answer.text() == "new"
        });
    }
}

/// A client that may not receive the stored response, and whose own request fails at upstream.
fn an_error_for_one_caller_does_not_replace_the_stored_response(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.answer("/", |request| match request.header("authorization") {
        Some(_) => Reply::status(500).cached("public, max-age=600"),
        None => Reply::new("good").cached("max-age=600"),
    });
    site.get("/").shows("stored").carries("good");
    get(&site, "/", &[("Authorization", "Bearer a")]).hides("stored").has_status(500);
    site.get("/").shows("hit").carries("good");
}

fn if_none_match_is_compared_weakly_with_each_tag(tier: Tier) {
    let site = Site::start(tier, "");
    let rows: [(&str, &[&str], u16); 17] = [
        ("\"1\"", &["\"1\""], 304),
        ("\"1\"", &["W/\"1\""], 304),
        ("W/\"1\"", &["\"1\""], 304),
        ("W/\"1\"", &["W/\"1\""], 304),
        ("\"1\"", &["\"0\", \"1\", \"2\""], 304),
        ("\"1\"", &["\"0\",W/\"1\""], 304),
        ("\"1\"", &["\"0\"", "\"1\""], 304),
        ("\"1\"", &[" ,, \"1\" ,"], 304),
        ("\"1\"", &["*"], 304),
        ("W/\"1\"", &["*"], 304),
        ("\"a,b\"", &["\"x\", \"a,b\""], 304),
        ("\"1\"", &["\"2\""], 200),
        ("\"1\"", &["1"], 200),
        ("\"1\"", &["\"01\", \"10\""], 200),
        ("\"b\"", &["\"a,b\""], 200),
        ("\"a\"", &["\"A\""], 200),
        ("\"1\"", &[""], 200),
    ];
    for (index, (tag, sent, status)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.on(&target, message("200 OK", &format!("Cache-Control: max-age=600\nETag: {tag}")));
        site.get(&target).shows("stored");
        let fields: Vec<_> = sent.iter().map(|line| ("If-None-Match", *line)).collect();
        let answer = get(&site, &target, &fields).shows("hit");
        assert_eq!(answer.status, status, "{sent:?} against {tag}: {answer:?}");
        let head = fields.iter().fold(site.call("HEAD", &target), |call, (name, value)| call.header(name, value));
        assert_eq!(head.send().shows("hit").status, status, "HEAD, {sent:?} against {tag}");
    }
}

fn if_modified_since_is_compared_with_last_modified_or_date(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = format!("Last-Modified: {MODIFIED}");
    let dated = "Date: Sun, 06 Nov 2033 08:49:37 GMT".to_owned();
    let rows = [
        (&modified, MODIFIED, 304),
        (&modified, LATE, 304),
        (&modified, EARLY, 200),
        (&modified, "Sunday, 06-Nov-94 08:49:37 GMT", 304),
        (&modified, "Sun Nov  6 08:49:37 1994", 304),
        (&modified, "yesterday", 200),
        (&modified, "", 200),
        (&modified, "Sun, 06 Nov 1994 08:49:38 GMT, Sun, 06 Nov 1994 08:49:39 GMT", 200),
        // Without Last-Modified by Date.
        (&dated, "Sun, 06 Nov 2033 08:49:37 GMT", 304),
        (&dated, "Sun, 06 Nov 2033 08:49:38 GMT", 304),
        (&dated, "Sun, 06 Nov 2033 08:49:36 GMT", 200),
    ];
    for (index, (fields, since, status)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.on(&target, message("200 OK", &format!("Cache-Control: max-age=600\n{fields}")));
        site.get(&target).shows("stored");
        let answer = get(&site, &target, &[("If-Modified-Since", since)]).shows("hit");
        assert_eq!(answer.status, status, "{since:?} against {fields}: {answer:?}");
    }
    // Without either by the time it came.
    site.upstream.on("/undated", message("200 OK", "Cache-Control: max-age=600"));
    site.get("/undated").shows("stored");
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    get(&site, "/undated", &[("If-Modified-Since", &later)]).shows("hit").has_status(304);
    get(&site, "/undated", &[("If-Modified-Since", LATE)]).shows("hit").has_status(200);
    let twice = [("If-Modified-Since", LATE), ("If-Modified-Since", later.as_str())];
    get(&site, "/undated", &twice).shows("hit").has_status(200);
}

fn if_none_match_goes_before_if_modified_since(tier: Tier) {
    let site = Site::start(tier, "");
    let fields = format!("Cache-Control: max-age=600\nETag: \"1\"\nLast-Modified: {MODIFIED}");
    site.upstream.on("/", message("200 OK", &fields));
    site.get("/").shows("stored");
    for (tags, since, status) in
        [("\"2\"", LATE, 200), ("\"1\"", EARLY, 304), ("garbage", LATE, 200), ("\"1\"", LATE, 304)]
    {
        let fields = [("If-Modified-Since", since), ("If-None-Match", tags)];
        get(&site, "/", &fields).shows("hit").has_status(status);
    }
    // Neither is looked at where the answer would not be a 200.
    site.upstream.on("/gone", message("410 Gone", &fields));
    site.get("/gone").shows("stored");
    get(&site, "/gone", &[("If-None-Match", "\"1\"")]).shows("hit").has_status(410);
    get(&site, "/gone", &[("If-Modified-Since", LATE)]).shows("hit").has_status(410);
}

fn a_304_from_the_cache_has_the_required_fields_of_the_200(tier: Tier) {
    let site = Site::start(tier, "");
    let sent = [
        ("cache-control", "max-age=600"),
        ("content-location", "/there"),
        ("date", "Sun, 06 Nov 2033 08:49:37 GMT"),
        ("etag", "\"1\""),
        ("expires", "Sun, 06 Nov 2033 08:59:37 GMT"),
        ("vary", "Accept"),
    ];
    let left_out = [("content-type", "text/plain"), ("content-language", "de"), ("last-modified", MODIFIED)];
    let fields: String = sent.iter().chain(&left_out).map(|(name, value)| format!("{name}: {value}\n")).collect();
    for target in ["/hit", "/miss"] {
        site.upstream.on(target, message("200 OK", &fields));
    }
    site.get("/hit").shows("stored");
    for target in ["/hit", "/miss"] {
        let confirmed = get(&site, target, &[("If-None-Match", "\"1\"")]).has_status(304).carries("");
        for (name, value) in sent {
            assert_eq!(confirmed.headers(name), [value], "{target}: {confirmed:?}");
        }
        for (name, _) in left_out {
            assert_eq!(confirmed.header(name), None, "{target}: {confirmed:?}");
        }
    }
}

fn conditions_of_a_client_are_met_after_a_validation(tier: Tier) {
    let site = Site::start(tier, "");
    for (own, status, body) in [("\"0\"", 200, "ok"), ("\"1\"", 304, ""), ("\"0\", W/\"1\"", 304, "")] {
        let target = format!("/{own}").replace(['"', ' ', ','], "");
        let unchanged = message("304 Not Modified", "ETag: \"1\"\nCache-Control: max-age=600");
        site.upstream.script(&target, [message("200 OK", &format!("{STALE}\nETag: \"1\"")), unchanged]);
        site.get(&target).carries("ok");
        let answer = get(&site, &target, &[("If-None-Match", own)]).shows("fwd=stale; fwd-status=304");
        answer.has_status(status).carries(body);
        site.get(&target).shows("hit").has_status(200).carries("ok");
    }
}

fn conditions_for_the_origin_are_left_to_it(tier: Tier) {
    let site = Site::start(tier, "");
    let fields = format!("Cache-Control: max-age=600\nETag: \"1\"\nLast-Modified: {MODIFIED}");
    site.upstream.on("/", message("200 OK", &fields));
    site.get("/").shows("stored");
    for (name, value) in [("If-Match", "\"2\""), ("If-Match", "W/\"1\""), ("If-Unmodified-Since", EARLY)] {
        get(&site, "/", &[(name, value)]).shows("fwd=bypass").has_status(200).carries("ok");
        assert_eq!(site.upstream.last("/").header(&name.to_lowercase()), Some(value));
    }
    // And what they come with.
    get(&site, "/", &[("If-Match", "\"2\""), ("If-None-Match", "\"1\"")]).shows("fwd=bypass").has_status(200);
    assert_eq!(site.upstream.last("/").header("if-none-match"), Some("\"1\""));
    // So it is where nothing fresh is stored.
    get(&site, "/other", &[("If-Match", "*")]).shows("fwd=bypass").has_status(200);
    assert_eq!(site.upstream.last("/other").header("if-match"), Some("*"));
    site.upstream.on("/stale", Reply::new("old").stale("public"));
    site.get("/stale").shows("stored");
    get(&site, "/stale", &[("If-Match", "\"1\"")]).shows("fwd=bypass").has_status(200);
    // With an unsafe method every condition is for the origin.
    site.call("PUT", "/").body("x").header("If-None-Match", "*").send().has_status(200);
    assert_eq!(site.upstream.last("PUT /").header("if-none-match"), Some("*"));
    site.upstream.on("PUT /", Reply::status(412));
    site.call("PUT", "/").body("x").header("If-Match", "\"0\"").send().has_status(412);
}

fn conditions_for_the_origin_are_ignored_if_they_change_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    let fields = format!("Cache-Control: max-age=600\nETag: \"1\"\nLast-Modified: {MODIFIED}");
    site.upstream.on("/", message("200 OK", &fields));
    site.upstream.on("/gone", message("404 Not Found", "Cache-Control: max-age=600"));
    site.get("/").shows("stored");
    site.get("/gone").shows("stored");
    for (name, value) in [
        ("If-Match", "*"),
        ("If-Match", "\"0\", \"1\""),
        ("If-Unmodified-Since", MODIFIED),
        ("If-Unmodified-Since", "tomorrow"),
    ] {
        get(&site, "/", &[(name, value)]).shows("hit").has_status(200).carries("ok");
    }
    // If-Unmodified-Since does not count beside If-Match, and the client's own conditions do.
    get(&site, "/", &[("If-Match", "\"1\""), ("If-Unmodified-Since", EARLY)]).shows("hit").has_status(200);
    get(&site, "/", &[("If-Match", "\"1\""), ("If-None-Match", "\"1\"")]).shows("hit").has_status(304);
    get(&site, "/", &[("If-Match", "\"1\""), ("Range", "bytes=0-0")]).shows("hit").has_status(206).carries("o");
    // None counts where the response would not be a 2xx.
    get(&site, "/gone", &[("If-Match", "\"1\"")]).shows("hit").has_status(404);
    assert_eq!((site.upstream.count("/"), site.upstream.count("/gone")), (1, 1));
}

fn client_conditions_apply_to_stale_responses(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = || Reply::new("old").stale("stale-if-error=6000");
    site.upstream.script("/", [stored(), Reply::status(503)]);
    site.get("/").shows("stored");
    let confirmed = get(&site, "/", &[("If-None-Match", "\"1\"")]).shows("fwd=stale").has_status(304).carries("");
    assert!(confirmed.ttl() < 0, "{confirmed:?}");
    get(&site, "/", &[("If-None-Match", "\"2\"")]).shows("fwd=stale").has_status(200).carries("old");
}

/// Carries out something until it began and ended within one second; gives the date of the second before and of that one.
fn within_a_second(mut what: impl FnMut(usize, [&str; 2])) -> [String; 2] {
    for attempt in 0.. {
        let began = SystemTime::now();
        let dates = [1, 0].map(|before| httpdate::fmt_http_date(began - Duration::from_secs(before)));
        what(attempt, [&dates[0], &dates[1]]);
        if httpdate::fmt_http_date(SystemTime::now()) == dates[1] {
            return dates;
        }
    }
    unreachable!()
}

/// Stored, and written to in the second of its `Last-Modified`: `before` and `after` have one date.
fn written_within_a_second(site: &Site, write: &str, at: usize) -> (String, [String; 2]) {
    let mut target = String::new();
    let dates = within_a_second(|attempt, dates| {
        target = format!("/{write}/{at}/{attempt}");
        let reply = |body: &str| Reply::new(body).cached("max-age=600").header("Last-Modified", dates[at]);
        site.upstream.script(&format!("GET {target}"), [reply("before"), reply("after")]);
        site.get(&target).carries("before");
        match write {
            "clear" => site.admin_post("/cache/clear").has_status(200),
            method => site.write(method, &target).has_status(200),
        };
    });
    (target, dates)
}

fn a_date_of_the_second_of_a_write_confirms_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    for write in ["PUT", "PATCH", "DELETE", "clear"] {
        // In its second, and in the one before.
        for at in [1, 0] {
            let (target, dates) = written_within_a_second(&site, write, at);
            site.get(&target).carries("after");
            site.wait_until_stored(&target);
            let ask = |date: &str| get(&site, &target, &[("If-Modified-Since", date)]).shows("hit");
            ask(&dates[at]).has_status(200).carries("after");
            ask(&httpdate::fmt_http_date(SystemTime::now())).has_status(200).carries("after");
            let head = site.call("HEAD", &target).header("If-Modified-Since", &dates[at]).send();
            head.shows("hit").has_status(200);
        }
    }
}

fn a_date_of_the_second_of_a_write_confirms_no_streamed_response(tier: Tier) {
    let site = Site::start(tier, "");
    for at in [1, 0] {
        let (target, dates) = written_within_a_second(&site, "PUT", at);
        let answer = get(&site, &target, &[("If-Modified-Since", &dates[at])]);
        answer.hides("hit").has_status(200).carries("after");
    }
}

fn a_date_clearly_before_or_after_a_write_gives_304(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(60));
    for (index, date) in [EARLY, "Thu, 01 Jan 1970 00:00:00 GMT", &modified].into_iter().enumerate() {
        let target = format!("/{index}");
        let reply = || Reply::new("body").cached("max-age=600").header("Last-Modified", date);
        site.upstream.on(&format!("GET {target}"), reply().header("ETag", "\"1\""));
        site.get(&target);
        site.write("PUT", &target).has_status(200);
        get(&site, &target, &[("If-Modified-Since", date)]).hides("hit").has_status(304);
        site.wait_until_stored(&target);
        get(&site, &target, &[("If-Modified-Since", date)]).shows("hit").has_status(304);
    }
    // An entity tag reveals every change.
    let mut target = String::new();
    within_a_second(|attempt, [_, date]| {
        target = format!("/tagged/{attempt}");
        let reply = Reply::new("body").cached("max-age=600").header("Last-Modified", date).header("ETag", "\"1\"");
        site.upstream.on(&format!("GET {target}"), reply);
        site.get(&target);
        site.write("PUT", &target).has_status(200);
    });
    site.get(&target);
    site.wait_until_stored(&target);
    get(&site, &target, &[("If-None-Match", "\"1\"")]).shows("hit").has_status(304);
    let now = httpdate::fmt_http_date(SystemTime::now());
    get(&site, &target, &[("If-None-Match", "\"1\""), ("If-Modified-Since", &now)]).shows("hit").has_status(304);
}

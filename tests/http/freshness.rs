//! How long a response is fresh, and how old it is: RFC 9111 §4.2, §5.1, §5.2.2.1, §5.2.2.10 and §5.3.

use std::time::{Duration, Instant, SystemTime};

use crate::support::Verdict::{Fetched, Fresh, Validated};
use crate::support::{Plan, Reply, Response, Site, Tier, Upstream, eventually, message};

on_both_tiers! {
    s_maxage_wins_over_max_age_and_that_over_expires,
    age_is_the_greater_of_age_and_date,
    every_hit_has_its_age,
    the_date_of_upstream_is_preserved,
    a_response_without_a_date_is_dated_at_receipt,
}

fn date(offset: i64) -> String {
    let now = SystemTime::now();
    let length = Duration::from_secs(offset.unsigned_abs());
    httpdate::fmt_http_date(if offset < 0 { now - length } else { now + length })
}

#[track_caller]
fn age(response: &Response) -> u64 {
    let ages = response.headers("age");
    assert_eq!(ages.len(), 1, "one Age: {response:?}");
    ages[0].parse().unwrap_or_else(|_| panic!("Age is no number: {response:?}"))
}

fn s_maxage_wins_over_max_age_and_that_over_expires(tier: Tier) {
    let (soon, late, tag) = (date(600), date(6000), "ETag: \"1\"");
    let rows = [
        ("Cache-Control: s-maxage=600, max-age=6000".to_owned(), Fresh(600)),
        ("Cache-Control: max-age=600, s-maxage=6000".to_owned(), Fresh(6000)),
        (format!("Cache-Control: max-age=600\nExpires: {late}"), Fresh(600)),
        (format!("Cache-Control: s-maxage=600\nExpires: {late}"), Fresh(600)),
        (format!("Cache-Control: public\nExpires: {soon}"), Fresh(600)),
        ("Cache-Control: max-age=600\nExpires: 0".to_owned(), Fresh(600)),
        ("Cache-Control: s-maxage=600\nExpires: 0".to_owned(), Fresh(600)),
        (format!("Cache-Control: max-age=0\nExpires: {late}"), Validated),
        (format!("Cache-Control: s-maxage=0, max-age=600\nExpires: {late}"), Validated),
        (format!("Expires: {}", date(-600)), Validated),
        (format!("Date: {}\nExpires: {}", date(0), date(0)), Validated),
        ("X-Nothing: said".to_owned(), Fetched),
    ];
    let rows: Vec<_> = rows.iter().map(|(fields, verdict)| (format!("{fields}\n{tag}"), *verdict)).collect();
    Site::start(tier, "").judges_fields("/lifetime", &rows);
}

fn age_is_the_greater_of_age_and_date(tier: Tier) {
    let (past, future) = (date(-200), date(400));
    let rows = [
        (format!("Cache-Control: max-age=600\nDate: {past}"), Fresh(400)),
        (format!("Cache-Control: max-age=600\nDate: {past}\nAge: 100"), Fresh(400)),
        (format!("Cache-Control: max-age=600\nDate: {past}\nAge: 300"), Fresh(300)),
        // A clock that is ahead makes no response younger.
        (format!("Cache-Control: max-age=600\nDate: {future}"), Fresh(600)),
        (format!("Cache-Control: max-age=600\nDate: {future}\nAge: 100"), Fresh(500)),
        ("Cache-Control: max-age=600\nDate: yesterday\nAge: 100".to_owned(), Fresh(500)),
        ("Cache-Control: max-age=600\nAge: 100".to_owned(), Fresh(500)),
        ("Cache-Control: max-age=600\nAge: 600\nETag: \"1\"".to_owned(), Validated),
        (format!("Expires: {}\nDate: {past}", date(400)), Fresh(400)),
    ];
    Site::start(tier, "").judges_fields("/age", &rows);
}

fn every_hit_has_its_age(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/", message("200 OK", "Cache-Control: max-age=6000\nAge: 500\nAge: 700\nETag: \"1\""));
    site.get("/").shows("stored");
    let hits = [
        site.get("/"),
        site.call("HEAD", "/").send(),
        site.call("GET", "/").header("Range", "bytes=0-0").send().has_status(206),
        site.call("GET", "/").header("If-None-Match", "\"1\"").send().has_status(304),
    ];
    for hit in hits {
        let hit = hit.shows("hit");
        assert!((500..600).contains(&age(&hit)), "upstream's Age is replaced: {hit:?}");
    }
}

fn the_date_of_upstream_is_preserved(tier: Tier) {
    let site = Site::start(tier, "");
    for (target, given) in [("/past", date(-100)), ("/future", date(100))] {
        let fields = format!("Cache-Control: max-age=600\nDate: {given}");
        site.upstream.on(target, message("200 OK", &fields));
        for _ in 0..2 {
            assert_eq!(site.get(target).headers("date"), [given.as_str()], "{target}");
        }
    }
}

fn a_response_without_a_date_is_dated_at_receipt(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/stored", message("200 OK", "Cache-Control: max-age=600"));
    site.upstream.on("/passed", message("200 OK", "Cache-Control: no-store"));
    site.upstream.on("/written", message("200 OK", ""));
    let first = site.get("/stored");
    let second = site.get("/stored").shows("hit");
    let (passed, written) = (site.get("/passed"), site.write("POST", "/written"));
    for response in [&first, &second, &passed, &written] {
        let [date] = response.headers("date")[..] else { panic!("one Date: {response:?}") };
        let date = httpdate::parse_http_date(date).unwrap();
        let apart = SystemTime::now().duration_since(date).unwrap_or_default();
        assert!(apart < Duration::from_secs(60), "{response:?}");
    }
    assert_eq!(first.header("date"), second.header("date"));
}

#[test]
fn age_counts_from_when_the_request_was_sent() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.on("/", Reply::new("ok").cached("max-age=600").header("Age", "100"));
    let gate = site.upstream.hold_next("/");
    let pending = site.call("GET", "/").start();
    gate.wait_for(1);
    let arrived = Instant::now();
    eventually("upstream has taken two seconds", || arrived.elapsed() >= Duration::from_secs(2));
    gate.open();
    pending.response().carries("ok");
    let hit = site.get("/").shows("hit");
    assert!(age(&hit) >= 102, "{hit:?}");
}

#[test]
fn any_status_of_a_resource_is_stored_with_explicit_freshness() {
    let site = Site::start(Tier::Embedded, "");
    let statuses = [
        "200 OK",
        "201 Created",
        "202 Accepted",
        "203 Non-Authoritative Information",
        "204 No Content",
        "207 Multi-Status",
        "299 Unknown",
        "300 Multiple Choices",
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
        "399 Unknown",
        "404 Not Found",
        "405 Method Not Allowed",
        "410 Gone",
        "418 Teapot",
        "451 Unavailable",
        "500 Error",
        "503 Unavailable",
        "599 Unknown",
    ];
    let rows = statuses.map(|status| (status, message(status, "Cache-Control: max-age=600"), Fresh(600)));
    site.judges("/explicit", rows);
}

#[test]
fn without_a_family_no_status_is_stored_without_a_lifetime() {
    let site = Site::start(Tier::Embedded, "");
    let fields = format!("Last-Modified: {}\nETag: \"1\"", date(-1_000_000));
    let statuses =
        ["200 OK", "203 Other", "204 No Content", "301 Moved", "404 Not Found", "410 Gone", "501 Not Implemented"];
    site.judges("/none", statuses.map(|status| (status, message(status, &fields), Fetched)));
}

#[test]
fn local_time_zones_have_no_effect() {
    for zone in ["America/Los_Angeles", "XYZ-13", "Asia/Kolkata"] {
        let upstream = Upstream::start();
        let plan = Plan::new(&upstream.url()).environment("TZ", zone);
        let site = Site { larder: plan.start(), upstream, redis: None, plan };
        let rows = [
            (format!("Expires: {}", date(600)), Fresh(600)),
            (format!("Cache-Control: max-age=600\nDate: {}", date(-200)), Fresh(400)),
            (format!("Expires: {}\nETag: \"1\"", date(-600)), Validated),
        ];
        site.judges_fields("/zone", &rows);
    }
}

//! Heuristic freshness: RFC 9111 §4.2.2, RFC 9110 §15.1.

use std::time::{Duration, SystemTime};

use crate::support::Verdict::{Fetched, Fresh, Validated};
use crate::support::{Site, Tier, Verdict, message};

on_both_tiers! {
    a_heuristic_lifetime_is_derived_from_last_modified,
    an_explicit_lifetime_wins_over_a_heuristic_one,
    a_family_can_disable_heuristic_lifetimes,
}

const RULES: &str = r#"
[[family]]
name = "guessed"
path = '/guessed/.*'

[[family]]
name = "stated"
path = '/stated/.*'
ttl = "600s"

[[family]]
name = "exact"
path = '/exact/.*'
heuristic = false
"#;

const DAY: i64 = 86_400;

/// The time so many seconds ago, by the end of a test: heuristic lifetimes grow by a second in ten while it runs.
fn ago(seconds: u64) -> String {
    const LONGEST_TEST: u64 = 300;
    httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds - LONGEST_TEST))
}

/// Statuses that may be given a lifetime by guessing.
static GUESSABLE: [&str; 9] = [
    "200 OK",
    "203 Other",
    "204 No Content",
    "300 Choices",
    "301 Moved",
    "308 Moved",
    "404 Not Found",
    "405 Not Allowed",
    "410 Gone",
];

fn a_heuristic_lifetime_is_derived_from_last_modified(tier: Tier) {
    let site = Site::start(tier, RULES);
    let modified = |seconds| format!("Last-Modified: {}\nETag: \"1\"", ago(seconds));
    let rows: [(String, Verdict); 8] = [
        (modified(10_000), Fresh(1000)),
        (modified(500_000), Fresh(50_000)),
        (modified(100 * 86_400), Fresh(DAY)),
        (format!("Cache-Control: public\n{}", modified(10_000)), Fresh(1000)),
        (format!("{}\nAge: 300", modified(10_000)), Fresh(700)),
        ("Last-Modified: long ago\nETag: \"1\"".to_owned(), Fetched),
        ("ETag: \"1\"".to_owned(), Fetched),
        (format!("Cache-Control: no-cache\n{}", modified(10_000)), Validated),
    ];
    site.judges_fields("/guessed/fields", &rows);
}

fn an_explicit_lifetime_wins_over_a_heuristic_one(tier: Tier) {
    let site = Site::start(tier, RULES);
    let modified = format!("Last-Modified: {}", ago(10_000));
    let rows: [(String, Verdict); 5] = [
        (format!("Cache-Control: max-age=0\n{modified}"), Validated),
        (format!("Cache-Control: max-age=x\n{modified}"), Validated),
        (format!("Cache-Control: s-maxage=300\n{modified}"), Fresh(300)),
        (format!("Expires: 0\n{modified}"), Validated),
        (format!("Cache-Control: no-store\n{modified}"), Fetched),
    ];
    site.judges_fields("/guessed/explicit", &rows);
    site.judges_fields("/stated/family", &[(modified.as_str(), Fresh(600))]);
    site.judges_fields("/nobody", &[(modified.as_str(), Fetched)]);
}

fn a_family_can_disable_heuristic_lifetimes(tier: Tier) {
    let site = Site::start(tier, RULES);
    let modified = format!("Last-Modified: {}", ago(10_000));
    site.judges_fields("/exact", &[(modified.as_str(), Fetched)]);
}

#[test]
fn only_heuristically_cacheable_statuses_get_a_heuristic_lifetime() {
    let site = Site::start(Tier::Embedded, RULES);
    let modified = format!("Last-Modified: {}", ago(10_000));
    site.judges("/guessed/yes", GUESSABLE.map(|status| (status, message(status, &modified), Fresh(1000))));
    let others = [
        "201 Created",
        "202 Accepted",
        "302 Found",
        "307 Temporary",
        "400 Bad",
        "403 No",
        "500 Error",
        "503 Busy",
    ];
    site.judges("/guessed/no", others.map(|status| (status, message(status, &modified), Fetched)));
    let public = format!("Cache-Control: public\n{modified}");
    site.judges(
        "/guessed/public",
        ["302 Found", "418 Teapot"].map(|status| (status, message(status, &public), Fresh(1000))),
    );
}

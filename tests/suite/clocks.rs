//! A machine whose clock is wrong. Times in entries are Redis's, so that it makes nothing younger or older, neither there nor on
//! other machines.

use std::process::Command;

use crate::support::{Larder, Plan, Response, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "all"
path = '/.*'
ttl  = "1000s"
"#;

/// The same on a machine whose clock is off by this; its steady clock is right. Of `faketime` the library alone is used: the
/// process is Larder's own.
fn with_clock(plan: Plan, off: &str) -> Plan {
    let output = Command::new("faketime").args(["-f", off, "env"]).output();
    let output = output.unwrap_or_else(|error| panic!("faketime cannot be run ({error}); tests/run installs it"));
    let text = String::from_utf8(output.stdout).unwrap();
    let library = text.lines().find_map(|line| line.strip_prefix("LD_PRELOAD="));
    let library = library.unwrap_or_else(|| panic!("faketime names no library: {text}"));
    let plan = plan.environment("LD_PRELOAD", library).environment("FAKETIME", off);
    plan.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1").environment("DONT_FAKE_MONOTONIC", "1")
}

/// How much longer a hit is fresh by its `Cache-Status`, and how old it says it is, in seconds.
#[track_caller]
fn ttl_and_age(hit: &Response) -> (i64, i64) {
    let status = hit.header("cache-status").unwrap().to_owned();
    let ttl = status.split("ttl=").nth(1).and_then(|rest| rest.split(';').next()?.parse().ok());
    let age = hit.header("age").map_or(Some(0), |age| age.parse().ok());
    (ttl.unwrap_or_else(|| panic!("{status}")), age.unwrap_or_else(|| panic!("{hit:?}")))
}

#[track_caller]
fn is_as_young_as_it_is(hit: &Response) {
    let (ttl, age) = ttl_and_age(hit);
    assert!((0..500).contains(&age) && (500..=1000).contains(&ttl), "{hit:?}");
}

fn ahead_seconds(larder: &Larder) -> f64 {
    larder.admin_get("/cache/fleet").json()["proxy"]["clock_ahead_seconds"].as_f64().unwrap()
}

fn a_wrong_clock_changes_no_age(off: &str, seconds: f64) {
    let site = Site::start(Tier::Redis, RULES);
    let wrong = with_clock(site.plan.clone(), off).start();
    eventually("its clock is known to be wrong", || (ahead_seconds(&wrong) - seconds).abs() < 60.0);
    assert!(ahead_seconds(&site).abs() < 60.0);
    eventually("it is logged", || wrong.log().contains("the clock of this machine differs from that of Redis"));
    assert!(!site.log().contains("the clock of this machine"), "{}", site.log());
    let metrics = wrong.admin_get("/metrics").text();
    let metric = metrics.lines().find_map(|line| line.strip_prefix("larder_clock_ahead_seconds "));
    let metric: f64 = metric.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{metrics}"));
    assert!((metric - seconds).abs() < 60.0, "{metric}");
    wrong.get("/by/wrong").shows("stored");
    is_as_young_as_it_is(&wrong.get("/by/wrong").shows("hit"));
    site.wait_for_entries(1);
    is_as_young_as_it_is(&site.get("/by/wrong").shows("hit"));
    site.get("/by/right").shows("stored");
    site.wait_for_entries(2);
    is_as_young_as_it_is(&wrong.get("/by/right").shows("hit"));
}

#[test]
fn a_clock_that_is_an_hour_ahead_changes_no_age() {
    a_wrong_clock_changes_no_age("+1h", 3600.0);
}

#[test]
fn a_clock_that_is_an_hour_behind_changes_no_age() {
    a_wrong_clock_changes_no_age("-1h", -3600.0);
}

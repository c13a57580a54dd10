//! `revalidate = "always"`: no use of a stored response without upstream's word.

use super::{checked, explained};
use crate::support::client::Pending;
use crate::support::{Reply, Site, Tier};

const RULES: &str = r#"
[[family]]
name = "prices"
path = '/prices/.*'
ttl = "600s"
revalidate = "always"

[[family]]
name = "others"
path = '/others'
ttl = "600s"

[invalidate]
'/change' = ["prices"]
"#;

on_both_tiers! {
    every_use_is_validated_first,
    concurrent_uses_share_one_validation,
    without_a_validator_concurrent_uses_share_one_fetch,
    upstream_failing_is_not_covered_up,
    a_write_during_the_validation_counts,
}

fn validated() -> Reply {
    Reply::status(304).header("ETag", "\"1\"")
}

fn every_use_is_validated_first(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.script("GET /prices/1", [Reply::numbered().header("ETag", "\"1\""), validated()]);
    site.get("/prices/1").shows("fwd=uri-miss; stored").carries("/prices/1 #1");
    for _ in 0..2 {
        let answer = site.get("/prices/1");
        answer.shows("fwd=stale; fwd-status=304").carries("/prices/1 #1");
    }
    assert_eq!(site.upstream.last("GET /prices/1").header("if-none-match"), Some("\"1\""));
    site.upstream.on("GET /prices/1", Reply::new("new").header("ETag", "\"2\""));
    site.get("/prices/1").shows("fwd=stale; fwd-status=200; stored; detail=revalidate-always").carries("new");
    let refused = site.call("GET", "/prices/1").header("Cache-Control", "only-if-cached").send();
    refused.has_status(504);
    site.get("/others").shows("stored");
    site.get("/others").shows("hit");
}

fn start(site: &Site) -> Pending {
    site.call("GET", "/prices/1").start()
}

fn concurrent_uses_share_one_validation(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.script("GET /prices/1", [Reply::numbered().header("ETag", "\"1\""), validated()]);
    site.get("/prices/1").shows("stored");
    let gate = site.upstream.hold_next("GET /prices/1");
    let leader = start(&site);
    gate.wait_for(1);
    let others: Vec<Pending> = (0..4).map(|_| start(&site)).collect();
    site.wait_for_followers(4);
    gate.open();
    leader.response().shows("fwd-status=304").carries("/prices/1 #1");
    for other in others {
        other.response().shows("fwd-status=304; collapsed").carries("/prices/1 #1");
    }
    assert_eq!(site.upstream.count("GET /prices/1"), 2);
}

fn without_a_validator_concurrent_uses_share_one_fetch(tier: Tier) {
    // Otherwise responses get an ETag of Larder's own.
    let site = Site::start(tier, &RULES.replace("revalidate", "client_cache_control = \"pass\"\nrevalidate"));
    site.get("/prices/1").carries("/prices/1 #1");
    for round in [2, 3] {
        let gate = site.upstream.hold_next("GET /prices/1");
        let leader = start(&site);
        gate.wait_for(1);
        let others: Vec<Pending> = (0..4).map(|_| start(&site)).collect();
        site.wait_for_followers(4);
        gate.open();
        let expected = format!("/prices/1 #{round}");
        leader.response().hides("hit").carries(&expected);
        for other in others {
            other.response().shows("collapsed").carries(&expected);
        }
    }
    assert_eq!(site.upstream.count("GET /prices/1"), 3);
}

fn upstream_failing_is_not_covered_up(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.script("GET /prices/1", [Reply::numbered().header("ETag", "\"1\""), Reply::none()]);
    site.get("/prices/1").shows("stored");
    site.get("/prices/1").fails_with(504);
}

fn a_write_during_the_validation_counts(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.script(
        "GET /prices/1",
        [Reply::new("old").header("ETag", "\"1\""), validated(), Reply::new("new").header("ETag", "\"2\"")],
    );
    site.get("/prices/1").carries("old");
    let gate = site.upstream.hold_next("GET /prices/1");
    let reader = start(&site);
    gate.wait_for(1);
    site.write("POST", "/change").has_status(200);
    // It does not join the validation that began before the write.
    site.get("/prices/1").carries("new");
    gate.open();
    reader.response().carries("old");
    let asked = site.upstream.count("GET /prices/1");
    site.upstream.on("GET /prices/1", Reply::status(304).header("ETag", "\"2\""));
    site.get("/prices/1").shows("fwd-status=304").carries("new");
    assert_eq!(site.upstream.count("GET /prices/1"), asked + 1);
}

#[test]
fn settings_without_effect_beside_it_are_refused() {
    for field in [
        "stale_if_error = \"1m\"",
        "stale_while_revalidate = \"1m\"",
        "stale_while_slow = \"1s\"",
        "collapse = \"fleet\"",
    ] {
        let (code, text) = checked(&RULES.replace("revalidate =", &format!("{field}\nrevalidate =")));
        assert!(code == Some(1) && text.contains("no effect") && text.contains("remove one"), "{text}");
    }
}

#[test]
fn explain_says_that_each_use_is_validated() {
    let folder = tempfile::tempdir().unwrap();
    let response = folder.path().join("response");
    std::fs::write(&response, "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\n\r\n").unwrap();
    let text = explained(RULES, &["GET", "/prices/1", "--response", response.to_str().unwrap()]);
    for part in ["revalidate = \"always\"", "validated with upstream first"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

//! QUERY, a safe method with content: without a family that names it, it is forwarded.

use crate::support::{Reply, Site, Tier};

on_both_tiers! {
    a_query_that_no_family_names_is_forwarded_and_changes_nothing,
}

fn a_query_that_no_family_names_is_forwarded_and_changes_nothing(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"search\"\npath = '/search'\nttl = \"600s\"\n");
    site.get("/search").shows("stored");
    site.upstream.answer("QUERY /search", |request| {
        Reply::new([&request.body[..], b"!"].concat()).header("Location", "/search")
    });
    for _ in 0..2 {
        let answer = site.call("QUERY", "/search").header("Content-Type", "text/plain").body("needle").send();
        answer.hides("hit").hides("stored").carries("needle!");
    }
    assert_eq!(site.upstream.count("QUERY /search"), 2);
    site.get("/search").shows("hit").carries("/search #1");
}

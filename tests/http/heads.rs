//! Validation by HEAD: RFC 9111 §4.3.5.

use crate::support::{Reply, Site, Tier, message};

on_both_tiers! {
    a_matching_head_response_updates_the_stored_one,
    a_differing_head_response_makes_the_stored_one_stale,
}

/// Stale from the start, so that a HEAD is forwarded.
const STALE: &str = "Cache-Control: max-age=60\nAge: 100";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn head(site: &Site, target: &str, fields: &str) {
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\nConnection: close\r\n\r\n", fields.replace('\n', "\r\n"));
    site.upstream.on(&format!("HEAD {target}"), Reply::raw(head));
    site.call("HEAD", target).send().has_status(200);
}

fn a_matching_head_response_updates_the_stored_one(tier: Tier) {
    let site = Site::start(tier, "");
    let modified = format!("Last-Modified: {MODIFIED}");
    let rows = [
        ("ETag: \"1\"".to_owned(), "ETag: \"1\"\nContent-Length: 2".to_owned()),
        ("ETag: \"1\"".to_owned(), "ETag: \"1\"".to_owned()),
        (modified.clone(), format!("{modified}\nContent-Length: 2")),
    ];
    for (index, (stored, update)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.on(&format!("GET {target}"), message("200 OK", &format!("{STALE}\n{stored}")));
        site.get(&target).shows("stored");
        head(&site, &target, &format!("{update}\nCache-Control: max-age=600\nX-New: 1"));
        let hit = site.get(&target).shows("hit").carries("ok");
        assert_eq!(hit.headers("x-new"), ["1"], "{update}: {hit:?}");
        assert!(hit.ttl() > 500, "{update}: {hit:?}");
    }
}

fn a_differing_head_response_makes_the_stored_one_stale(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = format!("ETag: \"1\"\nLast-Modified: {MODIFIED}");
    let rows = [
        "ETag: \"2\"".to_owned(),
        "ETag: \"1\"\nContent-Length: 3".to_owned(),
        "ETag: \"1\"\nLast-Modified: Mon, 07 Nov 1994 08:49:37 GMT".to_owned(),
    ];
    for (index, update) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        // Stale, but upstream lets it be served so.
        let fields = format!("Cache-Control: max-age=60, stale-if-error=6000\nAge: 100\n{stored}");
        site.upstream.script(&format!("GET {target}"), [message("200 OK", &fields), Reply::status(503)]);
        site.get(&target).shows("stored");
        if tier == Tier::Redis {
            // Those before are gone from there.
            site.wait_for_entries(1);
        }
        head(&site, &target, &format!("{update}\nCache-Control: max-age=600"));
        site.get(&target).hides("hit").has_status(503);
    }
}

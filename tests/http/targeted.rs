//! Targeted cache control (RFC 9213): fields for others.

use crate::support::Verdict::{Fetched, Fresh};
use crate::support::{Site, Tier, message};

on_both_tiers! {
    fields_for_other_caches_change_nothing_and_pass_through,
}

fn fields_for_other_caches_change_nothing_and_pass_through(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        ("Example-Cache-Control: no-store\nCache-Control: max-age=600", Fresh(600)),
        ("Example-CDN-Cache-Control: max-age=600\nCache-Control: no-store", Fetched),
        ("CDN-Cache-Controls: no-store\nCache-Control: max-age=600", Fresh(600)),
        ("X-Larder-Cache-Control: max-age=600", Fetched),
    ];
    site.judges_fields("/others", &rows);
    site.upstream
        .on("/", message("200 OK", "Example-Cache-Control: max-age=1;x, a=(1 2)\nCache-Control: max-age=600"));
    for part in ["stored", "hit"] {
        assert_eq!(site.get("/").shows(part).headers("example-cache-control"), ["max-age=1;x, a=(1 2)"]);
    }
}

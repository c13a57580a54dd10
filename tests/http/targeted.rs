//! Targeted cache control (RFC 9213): fields for others.

use crate::support::Verdict::{Fetched, Fresh, Validated};
use crate::support::{Reply, Site, Tier, message};

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

on_both_tiers! {
    the_first_targeted_field_decides_alone,
    targeted_directives_mean_the_same_as_in_cache_control,
    an_invalid_targeted_field_is_ignored_as_a_whole,
    a_targeted_field_is_read_as_a_dictionary,
    surrogate_control_is_read_as_people_write_it,
    a_304_may_bring_a_targeted_field,
}

fn the_first_targeted_field_decides_alone(tier: Tier) {
    let rows = [
        ("CDN-Cache-Control: max-age=6000\nCache-Control: max-age=600", Fresh(6000)),
        ("Cache-Control: max-age=600\nCDN-Cache-Control: max-age=6000", Fresh(6000)),
        ("Larder-Cache-Control: max-age=600\nCDN-Cache-Control: max-age=6000", Fresh(600)),
        (
            "CDN-Cache-Control: max-age=6000\nLarder-Cache-Control: max-age=600\nCache-Control: no-store",
            Fresh(600),
        ),
        ("Larder-Cache-Control: no-store\nCDN-Cache-Control: max-age=6000\nCache-Control: max-age=600", Fetched),
        ("CDN-Cache-Control: max-age=600\nCache-Control: no-store, private", Fresh(600)),
        ("CDN-Cache-Control: max-age=600\nExpires: 0", Fresh(600)),
        ("CDN-Cache-Control: max-age=600\nSurrogate-Control: max-age=6000", Fresh(600)),
        ("Surrogate-Control: max-age=6000\nCache-Control: max-age=600", Fresh(6000)),
        // Other fields do not supply directives that the targeted field lacks.
        ("CDN-Cache-Control: public\nCache-Control: max-age=600", Fetched),
        ("CDN-Cache-Control: must-revalidate\nExpires: Sun, 06 Nov 2033 08:49:37 GMT", Fetched),
        ("Cache-Control: max-age=600", Fresh(600)),
    ];
    Site::start(tier, "").judges_fields("/first", &rows);
}

fn targeted_directives_mean_the_same_as_in_cache_control(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        ("CDN-Cache-Control: no-store, max-age=600", Fetched),
        ("CDN-Cache-Control: private, max-age=600", Fetched),
        ("CDN-Cache-Control: no-cache, max-age=600\nETag: \"1\"", Validated),
        ("CDN-Cache-Control: s-maxage=600, max-age=6000", Fresh(600)),
        ("CDN-Cache-Control: max-age=600\nAge: 300", Fresh(300)),
        ("CDN-Cache-Control: max-age=600, community=\"UCI, no-store\"", Fresh(600)),
        ("CDN-Cache-Control: must-understand, no-store, max-age=600", Fresh(600)),
    ];
    site.judges_fields("/meaning", &rows);
    for (index, (directives, served)) in
        [("max-age=60, stale-if-error=6000", true), ("max-age=60, stale-if-error=6000, must-revalidate", false)]
            .into_iter()
            .enumerate()
    {
        let target = format!("/stale/{index}");
        let stored =
            Reply::new("old").header("CDN-Cache-Control", directives).header("Age", "100").header("ETag", "\"1\"");
        site.upstream.script(&target, [stored, Reply::status(503)]);
        site.get(&target).shows("stored");
        assert_eq!(site.get(&target).is("detail=upstream-failed"), served, "{directives}");
    }
    let reply = Reply::numbered().header("CDN-Cache-Control", "max-age=600, public").cached("no-store");
    site.upstream.on("/credentials", reply);
    let ask = || site.call("GET", "/credentials").header("Authorization", "Bearer a").send();
    ask().shows("stored");
    ask().shows("hit");
}

fn an_invalid_targeted_field_is_ignored_as_a_whole(tier: Tier) {
    let values = [
        "",
        " ",
        "max-age=6000,",
        "max-age=6000 no-store",
        "MAX-AGE=6000",
        "max-age=",
        "max-age=6000, x=\"",
        "max-age=6000;",
        "no-store, =1",
        "max-age=6000, \"x\"",
        "max-age=99999999999999999",
        "max-age=(6000",
        "no-store,, max-age=6000",
        "{}",
    ];
    let site = Site::start(tier, "");
    let fall_back =
        values.map(|value| (format!("CDN-Cache-Control: {value}\nCache-Control: max-age=600"), Fresh(600)));
    site.judges_fields("/unreadable", &fall_back);
    let rows = [
        ("Larder-Cache-Control: max-age=600,\nCDN-Cache-Control: max-age=6000", Fresh(6000)),
        ("CDN-Cache-Control: max-age=6000\nCDN-Cache-Control: max-age=\nCache-Control: max-age=600", Fresh(600)),
        ("CDN-Cache-Control: max-age=6000,\nCache-Control: no-store", Fetched),
    ];
    site.judges_fields("/next", &rows);
}

fn a_targeted_field_is_read_as_a_dictionary(tier: Tier) {
    let rows = [
        ("CDN-Cache-Control: max-age=600;x=1;y", Fresh(600)),
        ("CDN-Cache-Control: public;a,max-age=600", Fresh(600)),
        ("CDN-Cache-Control: public\nCDN-Cache-Control: max-age=600", Fresh(600)),
        ("CDN-Cache-Control: max-age=6000, max-age=600", Fresh(600)),
        ("CDN-Cache-Control: x=(1 2), y=:aGk=:, z=*t, max-age=600", Fresh(600)),
        ("CDN-Cache-Control: no-store=?1, max-age=600", Fetched),
        // Of another type than the directive's, and so without meaning.
        ("CDN-Cache-Control: max-age=600.5\nCache-Control: max-age=600", Fetched),
        ("CDN-Cache-Control: max-age=\"600\"\nCache-Control: max-age=600", Fetched),
        ("CDN-Cache-Control: max-age=-600\nCache-Control: max-age=600", Fetched),
    ];
    Site::start(tier, "").judges_fields("/dictionary", &rows);
}

fn surrogate_control_is_read_as_people_write_it(tier: Tier) {
    let rows = [
        ("Surrogate-Control: max-age=600", Fresh(600)),
        ("Surrogate-Control: no-store\nCache-Control: max-age=600", Fetched),
        ("Surrogate-Control: max-age=6000, content=\"ESI/1.0\"\nCache-Control: max-age=600", Fresh(6000)),
        ("Surrogate-Control: max-age=600; no-store", Fetched),
        ("Surrogate-Control: max-age=600;private\nCache-Control: max-age=600", Fetched),
        ("Surrogate-Control: max-age=600 no-cache\nCache-Control: max-age=600", Fetched),
        ("Surrogate-Control: no-store;edge\nCache-Control: max-age=600", Fetched),
        ("Surrogate-Control: content=\"ESI/1.0\"; no-store\nCache-Control: max-age=600", Fetched),
        ("Surrogate-Control: max-age=600, \"no-store\nCache-Control: max-age=600", Fetched),
        ("Surrogate-Control: content=\"no-store\"\nCache-Control: max-age=600", Fresh(600)),
        ("Surrogate-Control: max-age=6000;edge\nCache-Control: max-age=600", Fresh(600)),
        (
            "Surrogate-Control: max-age=600, stale-while-revalidate=30, stale-if-error=60\nCache-Control: no-store",
            Fresh(600),
        ),
    ];
    Site::start(tier, "").judges_fields("/surrogate", &rows);
}

fn a_304_may_bring_a_targeted_field(tier: Tier) {
    let site = Site::start(tier, "");
    let stored = "CDN-Cache-Control: max-age=60\nCache-Control: no-store\nAge: 100\nETag: \"1\"";
    let rows = [
        ("CDN-Cache-Control: max-age=600", true),
        ("CDN-Cache-Control: no-store", false),
        ("Cache-Control: max-age=600", true),
    ];
    for (index, (update, hit)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        let unchanged = message("304 Not Modified", &format!("{update}\nETag: \"1\""));
        site.upstream
            .script(&target, [message("200 OK", stored), unchanged, Reply::new("new").cached("no-store")]);
        site.get(&target).shows("stored");
        site.get(&target).has_status(200);
        assert_eq!(site.get(&target).is("hit"), hit, "{update}");
    }
}

//! Cache groups (RFC 9875), and the fields that people use for the same.

use crate::support::client::Call;
use crate::support::{Reply, Site, Tier};

on_both_tiers! {
    an_invalidation_of_a_group_affects_exactly_its_members,
    a_group_is_invalidated_by_a_successful_unsafe_request_only,
    a_group_belongs_to_one_origin,
    a_group_invalidated_does_not_invalidate_others,
    a_304_may_bring_groups,
    large_group_fields_are_read_completely,
    fields_that_cannot_be_read_name_no_group,
    other_fields_name_groups_too,
    clients_do_not_see_the_groups,
    clients_see_group_fields_if_configured,
}

/// Stored, fresh for long, and in these groups.
#[track_caller]
fn store(site: &Site, target: &str, field: &str, groups: &str) {
    site.upstream.on(&format!("GET {target}"), Reply::numbered().cached("max-age=600").header(field, groups));
    site.get(target);
    site.get(target).shows("hit");
}

fn invalidating(site: &Site, status: u16, groups: &str) {
    site.upstream.on("/write", Reply::status(status).header("Cache-Group-Invalidation", groups));
}

#[track_caller]
fn assert_invalidated(site: &Site, target: &str, invalidated: bool) {
    let found = site.get(target);
    assert_eq!(found.is("hit"), !invalidated, "{target}: {found:?}");
}

fn an_invalidation_of_a_group_affects_exactly_its_members(tier: Tier) {
    let site = Site::start(tier, "");
    store(&site, "/1", "Cache-Groups", "\"a\"");
    store(&site, "/2", "Cache-Groups", "\"b\", \"a\"");
    store(&site, "/3", "Cache-Groups", "\"b\";x=1 ,\"c d\"");
    store(&site, "/4", "Cache-Groups", "\"A\", \"aa\", \"a \"");
    store(&site, "/5", "X-Nothing", "\"a\"");
    invalidating(&site, 200, "\"x\", \"a\";p=1");
    site.write("POST", "/write").has_status(200);
    for (target, invalidated) in [("/1", true), ("/2", true), ("/3", false), ("/4", false), ("/5", false)] {
        assert_invalidated(&site, target, invalidated);
    }
    invalidating(&site, 200, "\"c d\"");
    site.write("DELETE", "/write");
    for (target, invalidated) in [("/1", false), ("/2", false), ("/3", true)] {
        assert_invalidated(&site, target, invalidated);
    }
}

fn a_group_is_invalidated_by_a_successful_unsafe_request_only(tier: Tier) {
    let site = Site::start(tier, "");
    store(&site, "/1", "Cache-Groups", "\"a\"");
    invalidating(&site, 200, "\"a\"");
    for method in ["GET", "HEAD", "OPTIONS", "REPORT"] {
        site.call(method, "/write").send().has_status(200);
        assert_invalidated(&site, "/1", false);
    }
    for status in [400, 409, 500, 503] {
        invalidating(&site, status, "\"a\"");
        site.write("POST", "/write").has_status(status);
        assert_invalidated(&site, "/1", false);
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "FOO"] {
        for status in [200, 204, 303] {
            invalidating(&site, status, "\"a\"");
            site.write(method, "/write").has_status(status);
            assert_invalidated(&site, "/1", true);
        }
    }
}

fn a_group_belongs_to_one_origin(tier: Tier) {
    let site = Site::start(tier, "");
    let on = |call: Call, host: &str| call.header("Host", host).send();
    site.upstream.on("GET /1", Reply::numbered().cached("max-age=600").header("Cache-Groups", "\"a\""));
    for host in ["one.example", "two.example", "one.example:81"] {
        on(site.call("GET", "/1"), host).shows("stored");
    }
    invalidating(&site, 200, "\"a\"");
    on(site.call("POST", "/write").body("x"), "one.example").has_status(200);
    for (host, invalidated) in [("one.example", true), ("two.example", false), ("one.example:81", false)] {
        let found = on(site.call("GET", "/1"), host);
        assert_eq!(found.is("hit"), !invalidated, "{host}: {found:?}");
    }
}

fn a_group_invalidated_does_not_invalidate_others(tier: Tier) {
    let site = Site::start(tier, "");
    store(&site, "/1", "Cache-Groups", "\"a\", \"b\"");
    store(&site, "/2", "Cache-Groups", "\"b\"");
    invalidating(&site, 200, "\"a\"");
    site.write("POST", "/write");
    assert_invalidated(&site, "/1", true);
    assert_invalidated(&site, "/2", false);
}

fn a_304_may_bring_groups(tier: Tier) {
    let site = Site::start(tier, "");
    let unchanged =
        || Reply::status(304).cached("max-age=600").header("ETag", "\"1\"").header("Cache-Groups", "\"b\"");
    let stored = || Reply::numbered().stale("public").header("Cache-Groups", "\"a\"");
    site.upstream.script("GET /1", [stored(), unchanged(), Reply::numbered().cached("max-age=600")]);
    site.get("/1").shows("stored");
    site.get("/1").shows("fwd-status=304");
    site.get("/1").shows("hit");
    invalidating(&site, 200, "\"b\"");
    site.write("POST", "/write");
    assert_invalidated(&site, "/1", true);
}

fn large_group_fields_are_read_completely(tier: Tier) {
    let site = Site::start(tier, "");
    let groups: Vec<String> = (0..40).map(|number| format!("\"{number:0>40}\"")).collect();
    store(&site, "/many", "Cache-Groups", &groups.join(", "));
    let lines = groups
        .iter()
        .fold(Reply::numbered().cached("max-age=600"), |reply, group| reply.header("Cache-Groups", group));
    site.upstream.on("GET /lines", lines);
    for group in [&groups[0], &groups[31], &groups[39]] {
        for target in ["/many", "/lines"] {
            site.get(target);
            site.get(target).shows("hit");
        }
        invalidating(&site, 200, group);
        site.write("POST", "/write");
        assert_invalidated(&site, "/many", true);
        assert_invalidated(&site, "/lines", true);
    }
    store(&site, "/one", "Cache-Groups", &groups[39]);
    invalidating(&site, 200, &groups.join(","));
    site.write("POST", "/write");
    assert_invalidated(&site, "/one", true);
}

fn fields_that_cannot_be_read_name_no_group(tier: Tier) {
    let site = Site::start(tier, "");
    store(&site, "/1", "Cache-Groups", "\"a\"");
    for groups in ["\"a\",", "\"a\" \"b\"", "\"b", "", "\"a\", \"b"] {
        invalidating(&site, 200, groups);
        site.write("POST", "/write");
        assert_invalidated(&site, "/1", false);
    }
    for (index, groups) in ["\"a\",", "\"a\", \"b", "\"a\";;"].into_iter().enumerate() {
        store(&site, &format!("/broken/{index}"), "Cache-Groups", groups);
    }
    invalidating(&site, 200, "\"a\"");
    site.write("POST", "/write");
    assert_invalidated(&site, "/1", true);
    for index in 0..3 {
        assert_invalidated(&site, &format!("/broken/{index}"), false);
    }
}

fn other_fields_name_groups_too(tier: Tier) {
    let site = Site::start(tier, "");
    let fields =
        [("/key", "Surrogate-Key", "one two"), ("/tag", "Cache-Tag", "one,two"), ("/x", "xkey", "one two")];
    for (target, field, value) in fields {
        store(&site, target, field, value);
        let other = format!("/other{target}");
        store(&site, &other, field, "onetwo twofold");
        invalidating(&site, 200, "\"two\"");
        site.write("POST", "/write");
        assert_invalidated(&site, target, true);
        assert_invalidated(&site, &other, false);
    }
}

static FIELDS: [(&str, &str); 4] =
    [("Cache-Groups", "\"a\""), ("Surrogate-Key", "a"), ("Cache-Tag", "a"), ("xkey", "a")];

fn tagged() -> Reply {
    FIELDS.iter().fold(Reply::numbered().cached("max-age=600"), |reply, (name, value)| reply.header(name, value))
}

fn clients_do_not_see_the_groups(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/1", tagged());
    for part in ["stored", "hit"] {
        let answer = site.get("/1").shows(part);
        for (name, _) in FIELDS {
            assert_eq!(answer.header(&name.to_lowercase()), None, "{part}: {answer:?}");
        }
    }
}

fn clients_see_group_fields_if_configured(tier: Tier) {
    let site = Site::start(tier, "[server]\ngroup_fields = \"keep\"\n");
    site.upstream.on("/1", tagged());
    for part in ["stored", "hit"] {
        let answer = site.get("/1").shows(part);
        for (name, value) in FIELDS {
            assert_eq!(answer.headers(&name.to_lowercase()), [value], "{part}: {answer:?}");
        }
    }
}

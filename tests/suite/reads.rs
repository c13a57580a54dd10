//! GET and HEAD: what is stored, for how long, and what is made of it.

use crate::support::{Gate, Reply, Site, Tier, eventually, eventually_some};

const RULES: &str = r#"
[memory]
max_body = "100KB"

[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "60s"
negative_ttl = "60s"

[[family]]
name = "forced"
path = '/forced/.*'
ttl = "1h"
ttl_policy = "override"

[[family]]
name = "search"
path = '/search'
ttl = "60s"
query = { drop = ["utm_source"] }

[[family]]
name = "page"
path = '/page'
ttl = "60s"
query = { keep = ["number"] }

[[family]]
name = "tenant"
path = '/tenant'
ttl = "60s"
headers = ["x-tenant"]

[[family]]
name = "brief"
path = '/brief'
ttl = "1s"

[[family]]
name = "lenient"
path = '/lenient'
ttl = "60s"
stale_while_revalidate = "1h"
stale_if_error = "1h"

[[family]]
name = "small"
path = '/small'
ttl = "60s"
max_body = "10B"
"#;

on_both_tiers! {
    the_first_get_is_a_miss_and_the_second_a_hit,
    an_unlisted_path_is_stored_only_with_explicit_freshness,
    a_family_fills_in_where_upstream_says_nothing,
    an_override_wins_over_everything_but_no_store_and_private,
    s_maxage_and_expires_are_understood,
    what_upstream_forbids_is_not_stored,
    missing_things_are_remembered_only_as_a_family_says,
    server_errors_are_not_stored,
    an_entry_expires,
    a_stale_entry_is_validated_by_its_etag,
    a_stale_entry_is_validated_by_its_date,
    a_failed_validation_brings_the_new_response,
    a_clients_own_copy_is_confirmed_from_the_cache,
    a_clients_own_copy_is_confirmed_on_a_miss_and_the_whole_is_stored,
    a_stale_response_is_served_while_it_is_revalidated,
    a_family_may_allow_stale_responses,
    a_stale_response_is_served_when_upstream_fails,
    a_stale_response_that_must_be_revalidated_is_not_served_when_upstream_fails,
    head_never_stores,
    head_is_answered_from_a_stored_get,
    variants_are_kept_apart,
    vary_on_everything_is_not_stored,
    the_order_of_query_parameters_does_not_matter,
    a_family_chooses_the_query_parameters_that_count,
    a_family_chooses_the_fields_that_count,
    hosts_are_kept_apart,
    hosts_do_not_share_a_fetch,
    a_claimed_host_is_not_part_of_the_key,
    spellings_of_one_path_are_one_instance_and_entries_of_their_own,
    a_range_is_cut_from_the_stored_response,
    a_large_body_passes_through_unstored,
    a_body_over_the_limit_of_its_family_streams_and_is_not_stored,
    every_framing_is_stored_whole,
    a_hit_needs_no_upstream,
}

/// Two GETs of what is not to be stored: both go to upstream.
#[track_caller]
fn assert_never_stored(site: &Site, target: &str) {
    let before = site.upstream.count(&format!("GET {target}"));
    site.get(target).hides("stored");
    site.get(target).hides("stored").hides("hit");
    assert_eq!(site.upstream.count(&format!("GET {target}")), before + 2);
}

fn the_first_get_is_a_miss_and_the_second_a_hit(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("fwd=uri-miss; fwd-status=200; stored").carries("/users #1");
    let hit = site.get("/users").shows("hit").carries("/users #1").has_status(200);
    assert!((0..=60).contains(&hit.ttl()), "{hit:?}");
    assert!(hit.header("age").is_some(), "{hit:?}");
    assert_eq!(hit.header("content-length"), Some("9"));
    assert_eq!(site.upstream.count("/users"), 1);
}

fn an_unlisted_path_is_stored_only_with_explicit_freshness(tier: Tier) {
    let site = Site::start(tier, RULES);
    assert_never_stored(&site, "/other");
    site.upstream.on("/explicit", Reply::numbered().cached("max-age=60"));
    site.get("/explicit").shows("stored");
    site.get("/explicit").shows("hit").carries("/explicit #1");
}

fn a_family_fills_in_where_upstream_says_nothing(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users/1");
    assert!(site.get("/users/1").shows("hit").ttl() > 5);
    site.upstream.on("/users/2", Reply::numbered().cached("max-age=5"));
    site.get("/users/2");
    site.upstream.on("/users/3", Reply::numbered().cached("max-age=600"));
    site.get("/users/3");
    assert!(site.get("/users/3").shows("hit").ttl() > 60);
    assert!(site.get("/users/2").ttl() <= 5);
}

fn an_override_wins_over_everything_but_no_store_and_private(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/forced/1", Reply::numbered().cached("max-age=1"));
    site.get("/forced/1").shows("stored");
    assert!(site.get("/forced/1").shows("hit").ttl() > 60);
    site.upstream.on("/forced/2", Reply::numbered().cached("no-store"));
    assert_never_stored(&site, "/forced/2");
    site.upstream.on("/forced/3", Reply::numbered().cached("private, max-age=60"));
    assert_never_stored(&site, "/forced/3");
}

fn s_maxage_and_expires_are_understood(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/shared", Reply::numbered().cached("max-age=1, s-maxage=600"));
    site.get("/shared").shows("stored");
    assert!(site.get("/shared").shows("hit").ttl() > 1);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(600);
    site.upstream.on("/until", Reply::numbered().header("Expires", &httpdate::fmt_http_date(later)));
    site.get("/until").shows("stored");
    assert!(site.get("/until").shows("hit").ttl() > 60);
}

fn what_upstream_forbids_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    for directives in ["no-store", "private", "max-age=60, no-store", "NO-STORE", "max-age=0", "no-cache"] {
        site.upstream.on("/users", Reply::numbered().cached(directives));
        assert_never_stored(&site, "/users");
    }
    site.upstream.on("/users", Reply::numbered().header("Expires", "0"));
    assert_never_stored(&site, "/users");
}

fn missing_things_are_remembered_only_as_a_family_says(tier: Tier) {
    let site = Site::start(tier, RULES);
    for status in [404, 410] {
        let user = format!("/users/{status}");
        site.upstream.on(&user, Reply::status(status));
        site.get(&user).shows("stored").has_status(status);
        site.get(&user).shows("hit").has_status(status).carries(&format!("{user} #1"));
        site.upstream.on("/users", Reply::status(status));
        assert_never_stored(&site, "/users");
    }
}

fn server_errors_are_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    for status in [400, 403, 500, 502, 503] {
        site.upstream.on("/users/1", Reply::status(status));
        assert_never_stored(&site, "/users/1");
    }
    assert_eq!(site.get("/users/1").status, 503);
}

fn an_entry_expires(tier: Tier) {
    let site = Site::start(tier, RULES);
    // On a busy machine a response may be stale when it comes, and is not stored.
    let stored =
        || Some(site.get("/brief")).filter(|response| response.is("stored")).map(|response| response.text());
    let first = eventually_some("an entry is stored", stored);
    eventually("the entry has expired", || stored().is_some_and(|next| next != first));
}

fn a_stale_entry_is_validated_by_its_etag(tier: Tier) {
    let site = Site::start(tier, RULES);
    let unchanged = Reply::status(304).cached("max-age=60").header("ETag", "\"1\"").header("X-New", "yes");
    site.upstream.script("/a", [Reply::new("body").stale("public"), unchanged]);
    site.get("/a").shows("fwd-status=200; stored");
    let validated = site.get("/a").shows("fwd=stale; fwd-status=304").carries("body").has_status(200);
    assert_eq!(site.upstream.last("/a").header("if-none-match"), Some("\"1\""));
    assert_eq!(validated.header("x-new"), Some("yes"), "a 304 updates the stored fields: {validated:?}");
    site.get("/a").shows("hit").carries("body");
    assert_eq!(site.upstream.count("/a"), 2);
}

fn a_stale_entry_is_validated_by_its_date(tier: Tier) {
    let site = Site::start(tier, RULES);
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let stale = Reply::new("body").cached("max-age=60").header("Age", "100").header("Last-Modified", date);
    let unchanged = Reply::status(304).cached("max-age=60").header("Last-Modified", date);
    site.upstream.script("/a", [stale, unchanged]);
    site.get("/a").shows("stored");
    site.get("/a").shows("fwd=stale; fwd-status=304").carries("body").has_status(200);
    assert_eq!(site.upstream.last("/a").header("if-modified-since"), Some(date));
}

fn a_failed_validation_brings_the_new_response(tier: Tier) {
    let site = Site::start(tier, RULES);
    let new = Reply::new("new").cached("max-age=60").header("ETag", "\"2\"");
    site.upstream.script("/a", [Reply::new("old").stale("public"), new]);
    site.get("/a").carries("old");
    site.get("/a").shows("fwd=stale; fwd-status=200; stored").carries("new");
    site.get("/a").shows("hit").carries("new");
}

fn a_clients_own_copy_is_confirmed_from_the_cache(tier: Tier) {
    let site = Site::start(tier, RULES);
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    site.upstream.on("/users", Reply::new("body").header("ETag", "\"1\"").header("Last-Modified", date));
    site.get("/users");
    for (field, value) in [("If-None-Match", "\"0\", W/\"1\""), ("If-Modified-Since", date)] {
        let confirmed = site.call("GET", "/users").header(field, value).send();
        let confirmed = confirmed.shows("hit").has_status(304).carries("");
        assert_eq!(confirmed.header("etag"), Some("\"1\""));
    }
    let changed = site.call("GET", "/users").header("If-None-Match", "\"0\"").send();
    changed.shows("hit").has_status(200).carries("body");
    assert_eq!(site.upstream.count("/users"), 1);
}

fn a_clients_own_copy_is_confirmed_on_a_miss_and_the_whole_is_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/users", Reply::new("body").header("ETag", "\"1\""));
    site.call("GET", "/users").header("If-None-Match", "\"1\"").send().has_status(304).carries("");
    assert_eq!(site.upstream.last("/users").header("if-none-match"), None);
    site.wait_until_stored("/users");
    site.get("/users").shows("hit").has_status(200).carries("body");
}

fn a_stale_response_is_served_while_it_is_revalidated(tier: Tier) {
    let site = Site::start(tier, RULES);
    let new = Reply::new("new").cached("max-age=60");
    site.upstream.script("/a", [Reply::new("old").stale("stale-while-revalidate=3600"), new]);
    site.get("/a").shows("stored").carries("old");
    let gate = site.upstream.hold_next("GET /a");
    // A stale hit begins a refresh unless the fetch before it is still being put away.
    eventually("a refresh has begun", || {
        let stale = site.get("/a").shows("hit").carries("old");
        assert!(stale.ttl() < 0, "{stale:?}");
        gate.arrived() == 1
    });
    site.get("/a").shows("hit").carries("old");
    assert_eq!(site.upstream.count("/a"), 2, "one refresh at a time");
    gate.open();
    eventually("the refreshed response is served", || site.get("/a").text() == "new");
    assert!(site.get("/a").shows("hit").ttl() >= 0);
}

fn a_family_may_allow_stale_responses(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    site.upstream.script("/lenient", [Reply::numbered().stale("public"), Reply::numbered()]);
    site.get("/lenient");
    assert!(site.get("/lenient").shows("hit").carries("/lenient #1").ttl() < 0);
    eventually("the refreshed response is served", || site.get("/lenient").number() > 1);
    site.upstream.stop();
    assert!(site.get("/lenient").shows("hit").number() > 1);
}

fn a_stale_response_is_served_when_upstream_fails(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    site.upstream.script("/a", [Reply::new("old").stale("stale-if-error=3600"), Reply::status(503)]);
    site.get("/a").shows("stored");
    let stale = site.get("/a").carries("old").has_status(200);
    assert!(stale.ttl() < 0, "{stale:?}");
    assert_eq!(site.upstream.count("/a"), 2);
    site.upstream.on("/a", Reply::none());
    site.get("/a").carries("old").has_status(200);
    site.upstream.stop();
    site.get("/a").carries("old").has_status(200);
}

fn a_stale_response_that_must_be_revalidated_is_not_served_when_upstream_fails(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    site.upstream.on("/a", Reply::new("old").stale("must-revalidate, stale-if-error=3600"));
    site.get("/a").shows("stored");
    site.upstream.stop();
    let failed = site.get("/a");
    assert!([502, 504].contains(&failed.status), "{failed:?}");
}

fn head_never_stores(tier: Tier) {
    let site = Site::start(tier, RULES);
    let head = site.call("HEAD", "/users").send().has_status(200).carries("").hides("stored");
    assert_eq!(head.header("content-length"), Some("9"));
    site.get("/users").shows("fwd=uri-miss; stored").carries("/users #1");
}

fn head_is_answered_from_a_stored_get(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users");
    let head = site.call("HEAD", "/users").send().shows("hit").has_status(200).carries("");
    assert_eq!(head.header("content-length"), Some("9"));
    assert_eq!(site.upstream.count("/users"), 1);
}

fn variants_are_kept_apart(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.answer("/users", |request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        Reply::new(format!("{language} #{}", request.nth)).header("Vary", "Accept-Language")
    });
    let get = |language: &str| site.call("GET", "/users").header("Accept-Language", language).send();
    get("de").shows("fwd=uri-miss; stored").carries("de #1");
    get("en").shows("fwd=vary-miss; stored").carries("en #2");
    site.get("/users").shows("fwd=vary-miss; stored").carries("none #3");
    get("de").shows("hit").carries("de #1");
    get("en").shows("hit").carries("en #2");
    site.get("/users").shows("hit").carries("none #3");
}

fn vary_on_everything_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    for vary in ["*", "Accept, *"] {
        site.upstream.on("/users", Reply::numbered().header("Vary", vary));
        assert_never_stored(&site, "/users");
    }
}

fn the_order_of_query_parameters_does_not_matter(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users?page=2&sort=name").shows("stored");
    site.get("/users?sort=name&page=2").shows("hit").carries("/users?page=2&sort=name #1");
    site.get("/users?page=3&sort=name").shows("fwd=uri-miss").carries("/users?page=3&sort=name #1");
    site.get("/users").shows("fwd=uri-miss");
}

fn a_family_chooses_the_query_parameters_that_count(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/search?q=a&utm_source=x").shows("stored");
    site.get("/search?utm_source=y&q=a").shows("hit");
    site.get("/search?q=b").shows("fwd=uri-miss");
    site.get("/page?number=1&x=1").shows("stored");
    site.get("/page?y=2&number=1").shows("hit");
    site.get("/page?number=2").shows("fwd=uri-miss");
}

fn a_family_chooses_the_fields_that_count(tier: Tier) {
    let site = Site::start(tier, RULES);
    let get = |tenant: &str| site.call("GET", "/tenant").header("X-Tenant", tenant).send();
    get("a").shows("stored").carries("/tenant #1");
    get("b").shows("stored").carries("/tenant #2");
    get("a").shows("hit").carries("/tenant #1");
    site.get("/tenant").shows("fwd=uri-miss").carries("/tenant #3");
}

fn hosts_are_kept_apart(tier: Tier) {
    let site = Site::start(tier, RULES);
    let get = |host: &str| site.call("GET", "/users").header("Host", host).send();
    get("a.example").shows("stored").carries("/users #1");
    get("b.example").shows("fwd=uri-miss").carries("/users #2");
    get("A.EXAMPLE:80").shows("hit").carries("/users #1");
    get("a.example:81").shows("fwd=uri-miss").carries("/users #3");
    get("b.example").shows("hit").carries("/users #2");
    let hosts: Vec<_> = site.upstream.requests("/users").iter().map(|r| r.headers("host").join(", ")).collect();
    assert_eq!(hosts, ["a.example", "b.example", "a.example:81"], "upstream sees what the key holds");
}

fn hosts_do_not_share_a_fetch(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.answer("/users", |request| Reply::new(request.header("x-forwarded-host").unwrap_or("-")));
    let gate = site.upstream.hold_all("/users");
    let hosts = ["a.example", "b.example"];
    let readers = hosts.map(|host| site.call("GET", "/users").header("Host", host).start());
    gate.wait_for(2);
    gate.open();
    for (reader, host) in readers.into_iter().zip(hosts) {
        reader.response().carries(host);
    }
    for host in hosts {
        site.call("GET", "/users").header("Host", host).send().shows("hit").carries(host);
    }
}

fn a_claimed_host_is_not_part_of_the_key(tier: Tier) {
    let site = Site::start(tier, RULES);
    let get = |claimed: &str| site.call("GET", "/users").header("X-Forwarded-Host", claimed).send();
    get("a.example").shows("stored").carries("/users #1");
    get("b.example").shows("hit").carries("/users #1");
    assert_eq!(site.upstream.last("/users").headers("x-forwarded-host"), ["localhost"], "nobody else's response");
}

fn spellings_of_one_path_are_one_instance_and_entries_of_their_own(tier: Tier) {
    let site = Site::start(tier, RULES);
    let spellings = ["/users/7", "/users/%37", "/%75sers/7"];
    for spelling in spellings {
        // Upstream receives what the key holds: whatever it makes of one spelling, it is not the answer to another.
        site.get(spelling).shows("stored").carries(&format!("{spelling} #1"));
        site.get(spelling).shows("hit");
    }
    site.write("PUT", "/%75sers/%37").has_status(200);
    for spelling in spellings {
        site.get(spelling).hides("hit");
    }
    // An upstream that does not resolve dot segments sees a path of no family.
    for spelling in ["/x/../users/7", "/users/./7", "/x/%2e%2E/users/7"] {
        site.get(spelling).shows("detail=ambiguous-path").carries(&format!("{spelling} #1"));
    }
}

fn a_range_is_cut_from_the_stored_response(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/users", Reply::new("0123456789"));
    site.get("/users").shows("stored");
    let part = site.call("GET", "/users").header("Range", "bytes=2-4").send().has_status(206).carries("234");
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    site.call("GET", "/users").header("Range", "bytes=20-").send().has_status(416);
    site.get("/users").shows("hit").has_status(200).carries("0123456789");
}

fn a_large_body_passes_through_unstored(tier: Tier) {
    let site = Site::start(tier, RULES);
    let body = "y".repeat(150_000);
    for reply in [Reply::new(body.clone()), Reply::new(body.clone()).chunked()] {
        site.upstream.on("/users", reply);
        site.get("/users").carries(&body);
        site.get("/users").hides("hit").carries(&body);
    }
    site.upstream.on("/small", Reply::new("0123456789a"));
    site.get("/small").carries("0123456789a");
    site.get("/small").hides("hit");
    site.upstream.on("/small", Reply::new("0123456789").chunked());
    site.get("/small").shows("stored");
    site.get("/small").shows("hit").carries("0123456789");
}

fn a_body_over_the_limit_of_its_family_streams_and_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    let replies = [Reply::new("0123456789abcdef"), Reply::new("0123456789abcdef").chunked()];
    for (round, reply) in replies.into_iter().enumerate() {
        let gate = Gate::new();
        site.upstream.on("/small", reply.pause_after(13, &gate));
        let mut reader = site.call("GET", "/small").start();
        assert_eq!(reader.read_body(13).unwrap(), b"0123456789abc", "it arrives while upstream still sends");
        gate.open();
        reader.response().hides("hit").carries("0123456789abcdef");
        site.get("/small").hides("hit").carries("0123456789abcdef");
        assert_eq!(site.upstream.count("/small"), 2 * (round + 1));
    }
    // What upstream announces is judged before a byte of it has come; what it does not, when it is too much.
    site.upstream.on("/users", Reply::new("0123456789abcdef"));
    site.get("/users").shows("stored");
    site.get("/users").shows("hit");
    let stored = site.admin_get("/cache/stats").json();
    assert_eq!(stored["key_counts"]["small_keys"], 0, "{stored:#}");
}

fn every_framing_is_stored_whole(tier: Tier) {
    let site = Site::start(tier, RULES);
    let body: Vec<u8> = (0..90_000u32).map(|index| (index % 251) as u8).collect();
    let replies = [Reply::new(body.clone()), Reply::new(body.clone()).chunked()];
    for (id, reply) in replies.into_iter().enumerate() {
        site.upstream.on(&format!("/users/{id}"), reply);
        assert!(site.get(&format!("/users/{id}")).body == body);
        assert!(site.get(&format!("/users/{id}")).shows("hit").body == body);
    }
    site.upstream.on("/users/9", Reply::new(""));
    site.get("/users/9").shows("stored");
    site.get("/users/9").shows("hit").carries("");
}

fn a_hit_needs_no_upstream(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    site.get("/users");
    site.upstream.stop();
    site.get("/users").shows("hit").carries("/users #1");
    site.get("/users/1").fails_with(502);
    site.upstream.resume();
    site.get("/users/1").shows("stored");
}

//! Bugs that were there, each with its story.

use std::fs;

use crate::support::{Reply, Site, Tier, eventually};

on_both_tiers! {
    a_validation_that_changes_what_varies_fetches_the_whole,
    a_response_that_varies_on_what_larder_tells_of_the_client_is_not_shared,
    an_encoded_parameter_name_does_not_poison_the_entry_without_it,
    blanks_around_a_cookies_name_do_not_make_its_sender_anonymous,
    a_cookie_is_not_vouched_for_by_an_identity_that_the_request_lacks,
    one_clients_no_store_does_not_stop_revalidation_for_all,
    a_write_under_way_outdates_by_the_rules_that_come_meanwhile,
    an_edit_that_is_undone_does_not_bring_back_what_missed_a_write,
    a_write_that_names_very_many_methods_outdates_by_the_rules_of_all,
    very_many_choices_are_cut_alike_for_the_key_and_for_upstream,
}

/// A 304 may bring another `Vary`. The freshened response then stayed under the key without the field, and the German
/// response was a hit for French readers.
fn a_validation_that_changes_what_varies_fetches_the_whole(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"page\"\npath = '/page'\n");
    let changed =
        Reply::status(304).header("ETag", "\"1\"").header("Vary", "Accept-Language").cached("max-age=60");
    let whole = Reply::new("de").header("ETag", "\"1\"").header("Vary", "Accept-Language").cached("max-age=60");
    let french = Reply::new("fr").header("Vary", "Accept-Language").cached("max-age=60");
    site.upstream.script("/page", [Reply::new("de").stale("public"), changed, whole, french]);
    let ask = |language: &str| site.call("GET", "/page").header("Accept-Language", language).send();
    ask("de").carries("de");
    ask("de").carries("de");
    ask("fr").hides("hit").carries("fr");
}

/// `X-Forwarded-For` is set by Larder, so clients send none and one variant served everybody.
fn a_response_that_varies_on_what_larder_tells_of_the_client_is_not_shared(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"geo\"\npath = '/geo'\nttl = \"60s\"\n");
    site.upstream.on("/geo", Reply::numbered().header("Vary", "X-Forwarded-For"));
    site.get("/geo").shows("fwd=bypass").hides("stored");
    site.get("/geo").hides("hit").carries("/geo #2");
}

/// `p%61ge` is `page` to upstream, and was another parameter, one not to be keyed, to Larder.
fn an_encoded_parameter_name_does_not_poison_the_entry_without_it(tier: Tier) {
    let rules = "[[family]]\nname = \"list\"\npath = '/list'\nttl = \"60s\"\nquery = { keep = [\"page\"] }\n";
    let site = Site::start(tier, rules);
    site.get("/list?p%61ge=999").shows("stored");
    site.get("/list").hides("hit");
}

/// Servers that trim read `sid =ann` as Ann's session; to Larder it was nobody's, and the next visitor got her page.
fn blanks_around_a_cookies_name_do_not_make_its_sender_anonymous(tier: Tier) {
    let rules = "[[family]]\nname = \"me\"\npath = '/me'\nttl = \"60s\"\nidentity = \"cookie:sid\"\n";
    let site = Site::start(tier, rules);
    site.call("GET", "/me").header("Cookie", "sid =ann").send().has_status(200);
    site.get("/me").hides("hit");
}

/// With `identity = "header:authorization"` a visitor with a session cookie alone counted as anonymous.
fn a_cookie_is_not_vouched_for_by_an_identity_that_the_request_lacks(tier: Tier) {
    let rules = "[[family]]\nname = \"me\"\npath = '/me'\nttl = \"60s\"\nidentity = \"header:authorization\"\n";
    let site = Site::start(tier, rules);
    site.call("GET", "/me").header("Cookie", "session=ann").send().hides("stored");
    site.get("/me").hides("hit").shows("stored");
    site.call("GET", "/me").header("Cookie", "session=bob").send().hides("hit");
}

/// A request with `no-store` marked its key as not for sharing, for everybody and for half a minute: there was no
/// collapse, and what was served stale was not revalidated.
fn one_clients_no_store_does_not_stop_revalidation_for_all(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"news\"\npath = '/news'\n");
    let stale = || Reply::new("old").stale("stale-while-revalidate=3600");
    site.upstream.script("/news", [stale(), stale(), Reply::new("new").cached("max-age=60")]);
    site.call("GET", "/news").header("Cache-Control", "no-store").send().carries("old");
    site.get("/news").carries("old");
    site.wait_until_stored("/news");
    site.get("/news").shows("hit").carries("old");
    eventually("it is revalidated", || site.get("/news").text() == "new");
}

const NOTHING: &str = "[invalidate]\n";
const USERS: &str = "[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n";
const WRITES: &str = "[invalidate]\n'/users/create' = [\"users\"]\n";

fn put_in_force(site: &Site, rules: &str) {
    fs::write(site.rules_file(), rules).unwrap();
    site.admin_post("/rules/reload").has_status(200);
}

/// A write outdated by the rules it began with, although a reader under newer rules had stored what it changed.
fn a_write_under_way_outdates_by_the_rules_that_come_meanwhile(tier: Tier) {
    let site = Site::start(tier, NOTHING);
    let gate = site.upstream.hold_next("POST /users/create");
    let write = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    put_in_force(&site, &format!("{USERS}{WRITES}"));
    site.get("/users").shows("stored").carries("/users #1");
    gate.open();
    write.response().has_status(200);
    site.get("/users").shows("detail=outdated").carries("/users #2");
}

/// A family came back by an edit that was undone, and with it entries that no write had outdated meanwhile.
fn an_edit_that_is_undone_does_not_bring_back_what_missed_a_write(tier: Tier) {
    let with_writes = format!("{USERS}{WRITES}");
    let site = Site::start(tier, &with_writes);
    site.get("/users").shows("stored").carries("/users #1");
    put_in_force(&site, USERS);
    site.write("POST", "/users/create").has_status(200);
    put_in_force(&site, &with_writes);
    site.get("/users").hides("hit").carries("/users #2");
}

/// Names of methods were compared each with each: a second of work for one request of 60 kB.
fn a_write_that_names_very_many_methods_outdates_by_the_rules_of_all(tier: Tier) {
    let rules = "[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n\
                 [invalidate]\n'/all' = { families = [\"users\"], methods = [\"DELETE\"] }\n";
    let site = Site::start(tier, rules);
    site.get("/users").shows("stored");
    site.write("POST", "/all").has_status(200);
    site.get("/users").shows("hit");
    let names: Vec<String> = (0..8000).map(|number| format!("M{number}")).collect();
    site.call("POST", "/all").header("X-HTTP-Method", &names.join(",")).body("").send().has_status(200);
    site.get("/users").hides("hit");
}

/// So were members of normalised fields. Those that are left out now are left out of the key and of what is asked.
fn very_many_choices_are_cut_alike_for_the_key_and_for_upstream(tier: Tier) {
    let rules = "[[family]]\nname = \"page\"\npath = '/page'\nttl = \"60s\"\n\
                 headers = [\"accept-language\"]\nnormalize = [\"accept-language\"]\n";
    let site = Site::start(tier, rules);
    let ask = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("x{number}")).collect();
        site.call("GET", "/page").header("Accept-Language", &names.join(",")).send()
    };
    ask(8000).shows("stored");
    let received = site.upstream.last("GET /page");
    assert_eq!(received.header("accept-language").map(|value| value.split(',').count()), Some(64));
    ask(7000).shows("hit");
    ask(63).hides("hit");
}

/// A client that stopped reading held its place among the requests to upstream for ever: two of them, and everybody
/// else was told that Larder is overloaded.
#[test]
fn a_client_that_stops_reading_does_not_keep_upstream_from_others() {
    let rules = "[server]\nmax_upstream_requests = 1\nidle_timeout = \"300ms\"\nupstream_timeout = \"20s\"\n";
    let site = Site::start(Tier::Embedded, rules);
    site.upstream.on("/film", Reply::filled(64 << 20));
    let mut stalled = site.call("GET", "/film").start();
    stalled.head().has_status(200);
    site.get("/users").has_status(200);
    drop(stalled);
}

/// A fetch that had to ask twice waited for a second place while it held the first: where there was but one, for ever.
#[test]
fn a_fetch_that_asks_twice_does_not_wait_for_its_own_place() {
    let rules = "[server]\nmax_upstream_requests = 1\nupstream_timeout = \"1h\"\n";
    let site = Site::start(Tier::Embedded, rules);
    let about_another = Reply::status(304).header("ETag", "\"2\"");
    let whole = Reply::new("new").cached("max-age=60");
    site.upstream.script("/page", [Reply::new("old").stale("public"), about_another, whole]);
    site.get("/page").carries("old");
    site.get("/page").carries("new");
}

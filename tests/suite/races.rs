//! Reads and writes that overlap, every time in the same order: gates hold upstream's replies.

use crate::support::client::Pending;
use crate::support::{Gate, Reply, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "crowd"
path = '/crowd/.*'
ttl = "60s"

[invalidate]
'/users/.*' = ["users"]
"#;

on_both_tiers! {
    readers_share_one_fetch,
    a_reader_joins_in_the_middle_of_a_body,
    every_waiter_gets_the_whole_body,
    a_waiter_that_does_not_read_holds_up_nobody,
    waiters_of_a_failed_fetch_are_told,
    a_waiter_that_asked_for_another_variant_fetches_for_itself,
    a_follower_that_looks_up_again_and_finds_a_stale_response_validates_it,
    a_fetch_begun_before_a_write_is_not_served_after_it,
    a_body_begun_before_a_write_is_not_served_after_it,
    a_validation_begun_before_a_write_is_not_served_after_it,
    a_refresh_begun_before_a_write_is_not_served_after_it,
    a_reader_after_a_write_does_not_join_the_older_fetch,
    a_fetch_begun_during_a_write_is_not_served_after_it,
    a_reader_does_not_join_a_fetch_whose_group_was_invalidated,
    an_entry_confirmed_before_its_group_was_invalidated_is_not_served_after_it,
    the_answer_to_a_post_serves_a_get_unless_another_write_came_in_between,
    a_write_goes_on_without_its_client,
    a_fetch_goes_on_without_its_client,
    a_fill_goes_on_without_its_client,
}

/// A request sent after another one has been answered: whatever came before it has reached Larder.
#[track_caller]
fn fence(site: &Site) {
    site.get("/fence").has_status(200);
}

fn start(site: &Site, target: &str) -> Pending {
    site.call("GET", target).start()
}

fn readers_share_one_fetch(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("/users");
    let leader = start(&site, "/users");
    gate.wait_for(1);
    let others: Vec<Pending> = (0..4).map(|_| start(&site, "/users")).collect();
    site.wait_for_followers(4);
    assert_eq!(site.upstream.count("/users"), 1, "nobody fetches while a fetch can be shared");
    gate.open();
    leader.response().shows("fwd=uri-miss; stored").hides("collapsed").carries("/users #1");
    for other in others {
        other.response().shows("collapsed").carries("/users #1");
    }
    assert_eq!(site.upstream.count("/users"), 1);
}

fn a_reader_joins_in_the_middle_of_a_body(tier: Tier) {
    let (site, gate) = (Site::start(tier, RULES), Gate::new());
    site.upstream.on("/users", Reply::new("0123456789").pause_after(4, &gate));
    let mut leader = start(&site, "/users");
    assert_eq!(leader.read_body(4).unwrap(), b"0123");
    let mut joiner = start(&site, "/users");
    assert_eq!(joiner.read_body(4).unwrap(), b"0123");
    gate.open();
    leader.response().carries("0123456789");
    joiner.response().shows("collapsed").carries("0123456789");
    assert_eq!(site.upstream.count("/users"), 1);
}

fn every_waiter_gets_the_whole_body(tier: Tier) {
    let site = Site::start(tier, RULES);
    let body = "0123456789".repeat(100_000);
    for (target, reply) in
        [("/crowd/a", Reply::new(body.clone())), ("/crowd/b", Reply::new(body.clone()).chunked())]
    {
        let gate = Gate::new();
        site.upstream.on(target, reply.pause_after(500_000, &gate));
        let mut waiters: Vec<Pending> = (0..8).map(|_| start(&site, target)).collect();
        for waiter in &mut waiters {
            assert_eq!(waiter.read_body(100_000).unwrap().len(), 100_000);
        }
        gate.open();
        for waiter in waiters {
            waiter.response().carries(&body);
        }
        assert_eq!(site.upstream.count(target), 1);
    }
}

fn a_waiter_that_does_not_read_holds_up_nobody(tier: Tier) {
    let site = Site::start(tier, RULES);
    // More than the buffers of a connection hold.
    site.upstream.on("/users", Reply::filled(7_000_000));
    let mut idle = start(&site, "/users");
    idle.head();
    assert_eq!(start(&site, "/users").drain().unwrap(), 7_000_000);
    assert_eq!(idle.drain().unwrap(), 7_000_000);
}

fn waiters_of_a_failed_fetch_are_told(tier: Tier) {
    let (site, gate) = (Site::start(tier, RULES), Gate::new());
    site.upstream.on("/users", Reply::none().held(&gate));
    let waiters: Vec<Pending> = (0..3).map(|_| start(&site, "/users")).collect();
    gate.wait_for(1);
    site.wait_for_followers(2);
    gate.open();
    for waiter in waiters {
        waiter.response().fails_with(502);
    }
    site.upstream.on("/users", Reply::numbered());
    site.get("/users").shows("stored").has_status(200);
}

/// The response to the leader is for it alone, so that the follower looks up again: what is stored is the same stale response.
fn a_follower_that_looks_up_again_and_finds_a_stale_response_validates_it(tier: Tier) {
    for (second, body, shown) in [
        (Reply::new("new"), "new", "fwd-status=200"),
        (Reply::with_status(304, "").header("ETag", "\"1\""), "old", "fwd-status=304"),
    ] {
        let (site, gate) = (Site::start(tier, RULES), Gate::new());
        let for_leader = Reply::status(401).cached("no-store").held(&gate);
        site.upstream.script("/users", [Reply::new("old").stale("public"), for_leader, second]);
        site.get("/users").shows("stored").carries("old");
        let leader = start(&site, "/users");
        gate.wait_for(1);
        let follower = start(&site, "/users");
        site.wait_for_followers(1);
        gate.open();
        leader.response().has_status(401);
        follower.response().has_status(200).carries(body).shows(shown);
        assert_eq!(site.upstream.last("/users").header("if-none-match"), Some("\"1\""), "it was validated");
        assert_eq!(site.upstream.count("/users"), 3);
    }
}

fn a_waiter_that_asked_for_another_variant_fetches_for_itself(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.answer("/users", |request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        Reply::new(language).header("Vary", "Accept-Language")
    });
    let gate = site.upstream.hold_next("/users");
    let leader = site.call("GET", "/users").header("Accept-Language", "de").start();
    gate.wait_for(1);
    let waiter = site.call("GET", "/users").header("Accept-Language", "en").start();
    site.wait_for_followers(1);
    gate.open();
    leader.response().carries("de");
    waiter.response().carries("en");
}

fn a_fetch_begun_before_a_write_is_not_served_after_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("GET /users");
    let reader = start(&site, "/users");
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    gate.open();
    reader.response().carries("/users #1");
    site.get("/users").hides("hit").carries("/users #2");
    site.get("/users").shows("hit").carries("/users #2");
}

fn a_body_begun_before_a_write_is_not_served_after_it(tier: Tier) {
    let (site, gate) = (Site::start(tier, RULES), Gate::new());
    site.upstream.script("GET /users", [Reply::new("old body").pause_after(3, &gate), Reply::new("new")]);
    let mut reader = start(&site, "/users");
    assert_eq!(reader.read_body(3).unwrap(), b"old");
    site.write("POST", "/users/create").has_status(200);
    site.get("/users").hides("hit").carries("new");
    gate.open();
    reader.response().carries("old body");
    site.get("/users").carries("new");
}

fn a_validation_begun_before_a_write_is_not_served_after_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let unchanged = Reply::status(304).header("ETag", "\"1\"").cached("max-age=60");
    site.upstream.script("GET /users", [Reply::new("old").stale("public"), unchanged, Reply::new("new")]);
    site.get("/users").carries("old");
    let gate = site.upstream.hold_next("GET /users");
    let reader = start(&site, "/users");
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    gate.open();
    reader.response().carries("old");
    site.get("/users").hides("hit").carries("new");
}

fn a_refresh_begun_before_a_write_is_not_served_after_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let old = Reply::new("old").stale("stale-while-revalidate=3600");
    let refreshed = Reply::new("old still").cached("max-age=60, stale-while-revalidate=3600");
    site.upstream.script("GET /users", [old, refreshed, Reply::new("new")]);
    site.get("/users").carries("old");
    let gate = site.upstream.hold_next("GET /users");
    // A stale hit begins a refresh unless the fetch before it is still being put away.
    eventually("a refresh has begun", || {
        site.get("/users").shows("hit").carries("old");
        gate.arrived() == 1
    });
    site.write("POST", "/users/create").has_status(200);
    gate.open();
    site.get("/users").hides("hit").carries("new");
    site.get("/users").carries("new");
}

fn a_reader_after_a_write_does_not_join_the_older_fetch(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("GET /users");
    let older = start(&site, "/users");
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    site.get("/users").carries("/users #2");
    site.get("/users").shows("hit").carries("/users #2");
    gate.open();
    older.response().carries("/users #1");
    site.get("/users").carries("/users #2");
}

fn a_fetch_begun_during_a_write_is_not_served_after_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("POST /users/create");
    let write = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    site.get("/users").carries("/users #1");
    gate.open();
    write.response().has_status(200);
    site.get("/users").hides("hit").carries("/users #2");
}

fn a_write_goes_on_without_its_client(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users");
    let gate = site.upstream.hold_next("POST /users/create");
    let write = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    write.abandon();
    fence(&site);
    gate.open();
    eventually("the write has invalidated its family", || site.get("/users").text() == "/users #2");
    assert_eq!(site.upstream.count("POST /users/create"), 1);
}

fn a_fetch_goes_on_without_its_client(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("/users");
    let reader = start(&site, "/users");
    gate.wait_for(1);
    reader.abandon();
    fence(&site);
    gate.open();
    site.wait_until_stored("/users");
    site.get("/users").shows("hit").carries("/users #1");
    assert_eq!(site.upstream.count("GET /users"), 1);
}

fn a_fill_goes_on_without_its_client(tier: Tier) {
    let (site, gate) = (Site::start(tier, RULES), Gate::new());
    site.upstream.on("/users", Reply::new("0123456789").chunked().pause_after(4, &gate));
    let mut reader = start(&site, "/users");
    assert_eq!(reader.read_body(4).unwrap(), b"0123");
    reader.abandon();
    fence(&site);
    gate.open();
    site.wait_until_stored("/users");
    site.get("/users").shows("hit").carries("0123456789");
    assert_eq!(site.upstream.count("GET /users"), 1);
}

/// What upstream says when the group `stock` is sold from.
fn selling() -> Reply {
    Reply::new("sold").header("Cache-Group-Invalidation", "\"stock\"")
}

fn a_reader_does_not_join_a_fetch_whose_group_was_invalidated(tier: Tier) {
    let (site, gate) = (Site::start(tier, RULES), Gate::new());
    let stock = || Reply::numbered().header("Cache-Groups", "\"stock\"");
    site.upstream.script("/crowd/a", [stock().pause_after(4, &gate), stock()]);
    site.upstream.on("POST /sell", selling());
    let mut older = start(&site, "/crowd/a");
    older.read_body(4).unwrap();
    site.write("POST", "/sell");
    site.get("/crowd/a").hides("collapsed").carries("/crowd/a #2");
    gate.open();
    older.response().carries("/crowd/a #1");
    site.get("/crowd/a").shows("hit").carries("/crowd/a #2");
}

fn an_entry_confirmed_before_its_group_was_invalidated_is_not_served_after_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let stock = || Reply::numbered().stale("public").header("Cache-Groups", "\"stock\"");
    // Neither the 304 nor the stored fields name the group: it lives on in the entry's tags.
    site.upstream.script("/crowd/a", [stock(), Reply::status(304).cached("max-age=60").header("ETag", "\"1\"")]);
    site.upstream.on("POST /sell", selling());
    site.get("/crowd/a").shows("stored");
    let gate = site.upstream.hold_next("GET /crowd/a");
    let confirming = start(&site, "/crowd/a");
    gate.wait_for(1);
    site.write("POST", "/sell");
    site.upstream.on("/crowd/a", Reply::numbered());
    gate.open();
    confirming.response().carries("/crowd/a #1");
    site.get("/crowd/a").hides("hit").carries("/crowd/a #3");
}

fn the_answer_to_a_post_serves_a_get_unless_another_write_came_in_between(tier: Tier) {
    let site = Site::start(tier, RULES);
    let answer = || Reply::new("of the POST").cached("max-age=60").header("Content-Location", "/report?of=may");
    site.upstream.on("POST /report", answer());
    site.write("POST", "/report?of=may").shows("fwd=method; stored").carries("of the POST");
    site.get("/report?of=may").shows("hit").carries("of the POST");
    let gate = site.upstream.hold_next("POST /report");
    let posting = site.call("POST", "/report?of=may").body("{}").start();
    gate.wait_for(1);
    // It may have changed what the answer says, which upstream has settled already.
    site.write("PUT", "/elsewhere");
    gate.open();
    posting.response().hides("stored").carries("of the POST");
    site.get("/report?of=may").hides("hit").carries("/report?of=may #1");
}

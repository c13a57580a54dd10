//! Bugs that were there, each with its story.

use std::fs;

use crate::support::{Gate, Reply, Response, Site, Tier, eventually};

on_both_tiers! {
    a_validation_that_changes_what_varies_fetches_the_whole,
    a_response_that_varies_on_what_larder_tells_of_the_client_is_not_shared,
    an_encoded_parameter_name_does_not_poison_the_entry_without_it,
    blanks_around_a_cookies_name_do_not_make_its_sender_anonymous,
    a_cookie_is_not_vouched_for_by_an_identity_that_the_request_lacks,
    one_clients_no_store_does_not_stop_revalidation_for_all,
    a_write_under_way_invalidates_by_the_rules_that_come_meanwhile,
    an_edit_that_is_undone_does_not_bring_back_what_missed_a_write,
    the_answer_to_a_post_is_not_kept_for_a_read_that_upstream_would_see_otherwise,
    without_a_family_a_query_counts_as_it_came,
    who_joins_a_fetch_takes_nothing_stale_that_only_its_leader_may_have,
    who_joins_a_fetch_takes_something_stale_that_its_leader_may_not_have,
    what_stands_in_for_a_failed_fetch_is_no_hit,
    a_head_without_validators_changes_nothing,
    a_head_with_no_store_leaves_what_is_stored,
    a_request_with_no_store_asks_upstream_once,
    what_upstream_has_withdrawn_does_not_come_back_when_it_fails,
    an_answer_that_is_about_one_request_withdraws_nothing,
    a_key_that_is_not_for_sharing_is_not_refreshed_by_every_hit,
    one_callers_private_answer_does_not_stop_revalidation_for_all,
    a_slower_fetch_that_began_earlier_does_not_replace_a_newer_one,
    the_answer_to_a_post_that_is_read_slowly_does_not_replace_a_newer_one,
    a_write_that_names_very_many_methods_invalidates_by_the_rules_of_all,
    very_many_choices_are_cut_alike_for_the_key_and_for_upstream,
    no_path_shares_its_mark_with_everything_or_with_a_family,
    writes_to_many_paths_leave_what_they_do_not_name,
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
    // The first hit has it revalidated.
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

/// A write invalidated by the rules it began with, although a reader under newer rules had stored what it changed.
fn a_write_under_way_invalidates_by_the_rules_that_come_meanwhile(tier: Tier) {
    let site = Site::start(tier, NOTHING);
    let gate = site.upstream.hold_next("POST /users/create");
    let write = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    put_in_force(&site, &format!("{USERS}{WRITES}"));
    site.get("/users").shows("stored").carries("/users #1");
    gate.open();
    write.response().has_status(200);
    site.get("/users").shows("detail=invalidated").carries("/users #2");
}

/// A family came back by an edit that was undone, and with it entries that no write had invalidated meanwhile.
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
fn a_write_that_names_very_many_methods_invalidates_by_the_rules_of_all(tier: Tier) {
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

/// A read loses fields on its way that a write keeps, and its key does not hold them: the answer to a POST with such a
/// field was a hit for every reader.
fn the_answer_to_a_post_is_not_kept_for_a_read_that_upstream_would_see_otherwise(tier: Tier) {
    let rules = "[[family]]\nname = \"keyed\"\npath = '/keyed'\nforward = \"keyed\"\n\
                 [[family]]\nname = \"normal\"\npath = '/normal'\nnormalize = [\"accept-language\"]\n\
                 [[family]]\nname = \"picked\"\npath = '/picked'\nquery = { keep = [\"a\"] }\n";
    let site = Site::start(tier, rules);
    let rows = [
        ("/keyed", "Accept-Language", "de"),
        ("/normal", "Accept-Language", "de;q=0.5, EN"),
        ("/plain/1", "X-Accel-Buffering", "no"),
        ("/plain/2", "X-HTTP-Method-Override", "PUT"),
        ("/plain/3?_method=PUT", "X-Harmless", "1"),
    ];
    for (target, name, value) in rows {
        let answer = Reply::new("for one").cached("max-age=600").header("Content-Location", target);
        site.upstream.on(&format!("POST {target}"), answer);
        site.call("POST", target).header(name, value).send().hides("stored").carries("for one");
        site.get(target).hides("hit").carries(&format!("{target} #1"));
    }
    let answer = Reply::new("for one").cached("max-age=600").header("Content-Location", "/picked?x=1&a=1");
    site.upstream.on("POST /picked?x=1&a=1", answer);
    site.write("POST", "/picked?x=1&a=1").hides("stored").carries("for one");
    site.get("/picked?a=1").hides("hit").carries("/picked?a=1 #1");
}

/// Queries that differ in the order of their parameters are different URIs; where no family says that they mean the
/// same, one was answered with the other's response.
fn without_a_family_a_query_counts_as_it_came(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/list", Reply::numbered().cached("max-age=600"));
    site.get("/list?b=1&a=2").shows("stored").carries("/list?b=1&a=2 #1");
    site.get("/list?a=2&b=1").hides("hit").carries("/list?a=2&b=1 #1");
    site.get("/list?b=1&a=2").shows("hit").carries("/list?b=1&a=2 #1");
}

/// A reader that waited for another one's fetch was given the stale response that only the other's `stale-if-error`
/// allowed.
fn who_joins_a_fetch_takes_nothing_stale_that_only_its_leader_may_have(tier: Tier) {
    let site = Site::start(tier, "");
    for round in 0..4 {
        let target = format!("/{round}");
        let (leader, joiner) = failing_together(&site, &target, Reply::status(503), ["stale-if-error=6000", ""]);
        leader.has_status(200).carries("old");
        joiner.hides("hit").has_status(503);
    }
}

/// And the other way round: a reader that would have taken the stale response got its leader's error.
fn who_joins_a_fetch_takes_something_stale_that_its_leader_may_not_have(tier: Tier) {
    let rules = "[[family]]\nname = \"strict\"\npath = '/strict/.*'\nstale_if_unreachable = \"0s\"\n";
    let site = Site::start(tier, rules);
    for (round, failure) in [Reply::none(), Reply::status(503)].into_iter().enumerate() {
        let target = format!("/strict/{round}");
        let (leader, joiner) = failing_together(&site, &target, failure, ["", "stale-if-error=6000"]);
        assert!(leader.status >= 500, "{leader:?}");
        joiner.has_status(200).carries("old");
    }
}

/// Something stale is kept; one reader asks for it, another joins, and upstream fails. What each of them gets, by
/// the `Cache-Control` of its request.
fn failing_together(site: &Site, target: &str, failure: Reply, directives: [&str; 2]) -> (Response, Response) {
    site.upstream.script(target, [Reply::new("old").stale("public"), failure]);
    site.get(target).shows("stored");
    let gate = site.upstream.hold_next(target);
    let ask = |directives: &str| site.call("GET", target).header("Cache-Control", directives).start();
    let leader = ask(directives[0]);
    gate.wait_for(1);
    let joiner = ask(directives[1]);
    // Sent later and answered: the joiner has reached Larder.
    site.get("/fence").has_status(200);
    gate.open();
    (leader.response(), joiner.response())
}

/// `Cache-Status` told of a hit where upstream had been asked and had failed (RFC 9211 §2.1).
fn what_stands_in_for_a_failed_fetch_is_no_hit(tier: Tier) {
    let site = Site::start(tier, "");
    let old = || Reply::new("old").stale("stale-if-error=6000");
    site.upstream.script("/failing", [old(), Reply::status(503)]);
    site.upstream.script("/silent", [old(), Reply::none()]);
    for target in ["/failing", "/silent"] {
        site.get(target).shows("stored");
    }
    let answer = site.get("/failing").hides("hit").shows("fwd=stale; fwd-status=503").carries("old");
    assert!(answer.is("detail=upstream-failed") && answer.ttl() < 0, "{answer:?}");
    site.get("/silent").hides("hit").hides("fwd-status").shows("fwd=stale").shows("detail=upstream-failed");
}

/// Neither what was stored nor the answer to a HEAD had a validator, which counted as agreement: every HEAD made the old
/// body fresh once more.
fn a_head_without_validators_changes_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    let old = Reply::new("old").cached("max-age=60, stale-if-error=6000").header("Age", "100");
    site.upstream.script("GET /", [old, Reply::status(503), Reply::new("new")]);
    site.upstream.on("HEAD /", Reply::new("new").cached("max-age=600"));
    site.get("/").shows("stored").carries("old");
    site.call("HEAD", "/").send().has_status(200);
    // It is still stale, and still there.
    site.get("/").hides("hit").carries("old");
    site.get("/").hides("hit").carries("new");
}

/// A HEAD with `no-store`, whose answer agreed with what was stored, removed it: nothing was left to validate.
fn a_head_with_no_store_leaves_what_is_stored(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/", Reply::new("old").stale("public"));
    site.get("/").shows("stored");
    site.call("HEAD", "/").header("Cache-Control", "no-store").send().has_status(200);
    site.get("/").hides("hit");
    assert_eq!(site.upstream.last("GET /").header("if-none-match"), Some("\"1\""));
}

/// What is stored was validated for a request with `no-store`; then the 304 did not count, and all of it was fetched.
fn a_request_with_no_store_asks_upstream_once(tier: Tier) {
    let site = Site::start(tier, "");
    let confirmed = Reply::status(304).header("ETag", "\"1\"").cached("max-age=600");
    site.upstream.script("/", [Reply::new("old").stale("public"), confirmed]);
    site.get("/").shows("stored");
    let answer = site.call("GET", "/").header("Cache-Control", "no-store").send();
    answer.shows("fwd=stale; fwd-status=304").hides("stored").carries("old");
    assert_eq!(site.upstream.count("/"), 2);
    // Nothing of it was stored: what is there is as stale as it was.
    site.get("/").shows("fwd=stale; fwd-status=304").carries("old");
    assert_eq!(site.upstream.count("/"), 3);
}

/// Upstream said 410 to the validation of a response, and then nothing any more: the response was served again.
fn what_upstream_has_withdrawn_does_not_come_back_when_it_fails(tier: Tier) {
    let site = Site::start(tier, "");
    let answers = [
        Reply::status(404),
        Reply::status(410),
        Reply::new("new").cached("no-store"),
        Reply::new("new").cached("private"),
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.script(&target, [Reply::new("old").stale("public"), answer, Reply::none()]);
        site.get(&target).shows("stored").carries("old");
        if tier == Tier::Redis {
            // It goes there after the client has all of it.
            site.wait_for_entries(1);
        }
        assert_ne!(site.get(&target).text(), "old", "answer {index}");
        site.get(&target).fails_with(502);
    }
}

/// Such an answer counts only if it is about what is stored: not if the request asked for nothing to be stored, if it
/// has credentials, or if upstream has had enough of the client.
fn an_answer_that_is_about_one_request_withdraws_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        ("Cache-Control", "no-store", Reply::status(410)),
        ("Authorization", "Bearer a", Reply::new("mine").cached("private")),
        ("X-Often", "1", Reply::status(429)),
    ];
    for (index, (name, value, answer)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.script(&target, [Reply::new("old").stale("public"), answer, Reply::none()]);
        site.get(&target).shows("stored").carries("old");
        assert_ne!(site.call("GET", &target).header(name, value).send().text(), "old", "{name}");
        site.get(&target).hides("hit").has_status(200).carries("old");
    }
}

/// Where the answers to a key had not been for sharing lately, each hit that was served stale sent a fetch of its own to
/// upstream.
fn a_key_that_is_not_for_sharing_is_not_refreshed_by_every_hit(tier: Tier) {
    let site = Site::start(tier, "");
    let old = Reply::new("old").stale("stale-while-revalidate=6000");
    site.upstream.script("/", [Reply::new("mine").cached("private"), old, Reply::status(503)]);
    site.get("/").carries("mine");
    site.get("/").carries("old");
    for _ in 0..20 {
        site.get("/").shows("hit").carries("old");
    }
    assert_eq!(site.upstream.count("/"), 2);
}

/// One answer to somebody's credentials, and for half a minute nobody shared a fetch of that key.
fn one_callers_private_answer_does_not_stop_revalidation_for_all(tier: Tier) {
    let site = Site::start(tier, "");
    let old = Reply::new("old").stale("stale-while-revalidate=6000");
    site.upstream
        .script("/", [Reply::new("mine").cached("private"), old, Reply::new("new").cached("max-age=600")]);
    site.call("GET", "/").header("Authorization", "Bearer a").send().carries("mine");
    site.get("/").carries("old");
    eventually("it is revalidated", || site.get("/").text() == "new");
}

/// A fetch that takes long, and that nobody joins, put its response in the place of one that was asked for later.
fn a_slower_fetch_that_began_earlier_does_not_replace_a_newer_one(tier: Tier) {
    let site = Site::start(tier, "");
    let public = |body: &str| Reply::new(body).cached("public, max-age=600");
    site.upstream.script("/", [public("older"), public("newer")]);
    let gate = site.upstream.hold_next("GET /");
    let slow = site.call("GET", "/").header("Authorization", "Bearer a").start();
    gate.wait_for(1);
    site.get("/").shows("stored").carries("newer");
    gate.open();
    slow.response().carries("older");
    site.get("/").shows("hit").carries("newer");
}

/// The same of what is kept of a POST once its client has read all of it.
fn the_answer_to_a_post_that_is_read_slowly_does_not_replace_a_newer_one(tier: Tier) {
    let (site, gate) = (Site::start(tier, ""), Gate::new());
    let answer = Reply::new("0123456789").cached("max-age=600").header("Content-Location", "/");
    site.upstream.on("POST /", answer.pause_after(4, &gate));
    site.upstream.on("GET /", Reply::new("newer").cached("max-age=600"));
    let mut slow = site.call("POST", "/").start();
    assert_eq!(slow.read_body(4).unwrap(), b"0123");
    site.get("/").shows("stored").carries("newer");
    gate.open();
    slow.response().carries("0123456789");
    site.get("/").shows("hit").carries("newer");
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

/// Stored, and fresh for long; nothing is invalidated by what is written elsewhere.
#[track_caller]
fn store(site: &Site, targets: &[String]) {
    for target in targets {
        site.upstream.on(&format!("GET {target}"), Reply::numbered().cached("max-age=600"));
        site.get(target).shows("stored");
        site.wait_until_stored(target);
    }
}

#[track_caller]
fn are_hits(site: &Site, targets: &[String]) {
    let missed: Vec<_> = targets.iter().filter(|target| !site.get(target).is("hit")).collect();
    assert!(missed.is_empty(), "{} of {}: {missed:?}", missed.len(), targets.len());
}

/// Marks stood in slots that anybody could work out: the one of `/zz2369` was that of everything, and that of `/t/7723`
/// a family's.
fn no_path_shares_its_mark_with_everything_or_with_a_family(tier: Tier) {
    let rules = "[[family]]\nname = \"list\"\npath = '/list/(?<id>\\d+)'\n\
                 [[family]]\nname = \"user\"\npath = '/users/(?<id>\\d+)'\n";
    let site = Site::start(tier, rules);
    let targets: Vec<_> = (0..10).flat_map(|n| [format!("/list/{n}"), format!("/users/{n}")]).collect();
    store(&site, &targets);
    for target in ["/zz2369", "/t/7723"] {
        site.write("POST", target).has_status(200);
    }
    are_hits(&site, &targets);
}

/// Slots filled up with the marks of what is written, and whatever shared one was invalidated.
fn writes_to_many_paths_leave_what_they_do_not_name(tier: Tier) {
    let rules = "[memory]\nmarks = 1024\n[[family]]\nname = \"item\"\npath = '/items/(?<id>\\d+)'\n\
                 [invalidate]\n'/items/(?<id>\\d+)' = [\"item:{id}\"]\n";
    let site = Site::start(tier, rules);
    let targets: Vec<_> = (0..50).map(|n| format!("/items/{n}")).collect();
    store(&site, &targets);
    for n in 1000..1200 {
        site.write("PUT", &format!("/items/{n}")).has_status(200);
    }
    are_hits(&site, &targets);
    site.write("PUT", "/items/7").has_status(200);
    site.get("/items/7").hides("hit");
    // What was fetched since is as good.
    site.write("PUT", "/items/1000").has_status(200);
    are_hits(&site, &targets);
}

//! What of a response may be stored: qualified directives, event streams, answers to POST.

use crate::support::Verdict::{Fetched, Fresh};
use crate::support::{Gate, Reply, Site, Tier, message};

// Pending: the features are being built.
on_both_tiers! {
    fields_that_are_private_go_to_who_asked_and_are_not_stored,
    fields_that_need_validation_are_not_stored,
    fields_that_are_private_do_not_come_in_by_a_304,
    fields_that_decide_on_reuse_count_though_they_are_private,
    a_post_that_says_what_it_stands_for_answers_a_later_get,
    a_post_that_does_not_say_so_answers_nobody,
    an_event_stream_is_never_stored,
}

/// The named fields reach the client that asked, and nobody else; the rest is stored.
#[track_caller]
fn assert_without(site: &Site, target: &str, directives: &str) {
    let fields = format!("Cache-Control: {directives}\nX-User: 7\nX-Other: 8\nX-Shared: 9\nETag: \"1\"");
    site.upstream.on(target, message("200 OK", &fields));
    let first = site.get(target).shows("stored").carries("ok");
    assert_eq!(first.headers("x-user"), ["7"], "{directives}: {first:?}");
    let second = site.get(target).shows("hit").carries("ok");
    assert_eq!(second.header("x-user"), None, "{directives}: {second:?}");
    assert_eq!(second.headers("x-shared"), ["9"], "{directives}: {second:?}");
    assert_eq!(second.headers("cache-control"), [directives]);
    assert_eq!(second.header("x-other").is_none(), directives.to_lowercase().contains("x-other"), "{directives}");
}

fn fields_that_are_private_go_to_who_asked_and_are_not_stored(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        "private=\"x-user\", max-age=600",
        "max-age=600, PRIVATE=\"X-User\"",
        "private=\"X-User, x-other\", max-age=600",
        "private=x-user, max-age=600",
        "private=\"x-user\", private=\"x-other\", max-age=600",
    ];
    for (index, directives) in rows.into_iter().enumerate() {
        assert_without(&site, &format!("/private/{index}"), directives);
    }
    // Without a name it is the whole, however often another one names fields.
    site.judges_fields("/whole", &[("Cache-Control: private=\"x-user\", private, max-age=600", Fetched)]);
}

fn fields_that_need_validation_are_not_stored(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, directives) in
        ["no-cache=\"x-user\", max-age=600", "max-age=600, No-Cache=\"X-USER,x-other\""].into_iter().enumerate()
    {
        assert_without(&site, &format!("/no-cache/{index}"), directives);
    }
    // A cookie that upstream takes out of the rest does not keep the rest from being stored.
    let fields = "Cache-Control: max-age=600, no-cache=\"set-cookie\"\nSet-Cookie: sid=1";
    site.upstream.on("/cookie", message("200 OK", fields));
    assert_eq!(site.get("/cookie").headers("set-cookie"), ["sid=1"]);
    assert_eq!(site.get("/cookie").shows("hit").header("set-cookie"), None);
}

fn a_post_that_says_what_it_stands_for_answers_a_later_get(tier: Tier) {
    let site = Site::start(tier, "");
    let fields = "Cache-Control: max-age=600\nContent-Location: /thing\nETag: \"1\"";
    site.upstream.on("POST /thing", message("200 OK", fields));
    site.write("POST", "/thing").shows("fwd=method; fwd-status=200; stored").carries("ok");
    site.get("/thing").shows("hit").carries("ok");
    assert_eq!(site.upstream.count("GET /thing"), 0);
    let absolute = fields.replace("/thing", "http://localhost/other?x=1#y");
    site.upstream.on("POST /other", message("200 OK", &absolute));
    site.write("POST", "/other?x=1").has_status(200);
    let found = site.get("/other?x=1");
    assert!(found.text() == "ok" || !found.is("hit"), "{found:?}");
    // Never answered from the cache itself.
    site.write("POST", "/thing").hides("hit");
    assert_eq!(site.upstream.count("POST /thing"), 2);
}

fn a_post_that_does_not_say_so_answers_nobody(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        ("200 OK", "Cache-Control: max-age=600"),
        ("200 OK", "Content-Location: {}"),
        ("200 OK", "Content-Location: /other\nCache-Control: max-age=600"),
        ("200 OK", "Content-Location: http://elsewhere.example{}\nCache-Control: max-age=600"),
        ("200 OK", "Content-Location: {}\nCache-Control: no-store, max-age=600"),
        ("200 OK", "Content-Location: {}\nCache-Control: private, max-age=600"),
        ("200 OK", "Content-Location: {}\nCache-Control: max-age=600\nSet-Cookie: sid=1"),
        ("500 Error", "Content-Location: {}\nCache-Control: max-age=600"),
    ];
    for (index, (status, fields)) in rows.into_iter().enumerate() {
        let target = format!("/thing/{index}");
        site.upstream.on(&format!("POST {target}"), message(status, &fields.replace("{}", &target)));
        site.write("POST", &target).hides("stored");
        let found = site.get(&target);
        assert!(!found.is("hit"), "{status}: {fields}: {found:?}");
    }
}

fn an_event_stream_is_never_stored(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"all\"\npath = '/.*'\nttl = \"600s\"\n");
    let gate = Gate::new();
    let events =
        |reply: Reply| reply.cached("max-age=600").header("Content-Type", "text/event-stream; charset=utf-8");
    site.upstream.on("/events", events(Reply::new("data: 1\n\ndata: 2\n\n")).pause_after(9, &gate));
    let mut reader = site.call("GET", "/events").start();
    assert_eq!(reader.read_body(9).unwrap(), b"data: 1\n\n", "an event comes before the stream ends");
    gate.open();
    reader.response().hides("stored");
    site.get("/events").hides("stored").hides("hit");
    let rows =
        [("text/event-stream", Fetched), ("Text/Event-Stream;x=y", Fetched), ("text/event-streams", Fresh(600))];
    site.judges_fields("/kinds", &rows.map(|(kind, verdict)| (format!("Content-Type: {kind}"), verdict)));
}

fn fields_that_are_private_do_not_come_in_by_a_304(tier: Tier) {
    let site = Site::start(tier, "");
    let update = "ETag: \"1\"\nCache-Control: private=\"x-user\", max-age=600\nX-User: 7\nX-Shared: 9";
    let stored = message("200 OK", "Cache-Control: max-age=60\nAge: 100\nETag: \"1\"");
    site.upstream.script("/", [stored, message("304 Not Modified", update), message("200 OK", update)]);
    site.get("/").shows("stored");
    site.get("/").hides("hit").has_status(200);
    let hit = site.get("/").shows("hit");
    assert_eq!((hit.header("x-user"), hit.headers("x-shared")), (None, vec!["9"]), "{hit:?}");
}

fn fields_that_decide_on_reuse_count_though_they_are_private(tier: Tier) {
    let site = Site::start(tier, "");
    let ask = |target: &str, accept: &str| site.call("GET", target).header("Accept", accept).send();
    for (index, directive) in ["private", "no-cache"].into_iter().enumerate() {
        let target = format!("/vary/{index}");
        let fields = format!("Cache-Control: {directive}=\"vary\", max-age=600\nVary: Accept");
        site.upstream.on(&target, message("200 OK", &fields));
        ask(&target, "a");
        ask(&target, "b").hides("hit");
        let target = format!("/control/{index}");
        let fields = format!("Cache-Control: {directive}=\"cache-control, age, date\", max-age=600\nAge: 300");
        site.upstream.on(&target, message("200 OK", &fields));
        site.get(&target);
        let again = site.get(&target);
        assert!(!again.is("hit") || again.ttl() <= 300, "{directive}: {again:?}");
    }
}

#[test]
fn content_of_a_get_in_chunks_reaches_upstream() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.answer("/", |request| Reply::new(request.body.clone()).cached("max-age=600"));
    for body in ["a", "b"] {
        site.call("GET", "/").body(body).chunked().send().shows("fwd=bypass").carries(body);
    }
}

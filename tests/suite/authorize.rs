//! `authorize`: responses that are stored for all callers are served to those alone that the API authorizes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::support::client::{Call, Pending};
use crate::support::upstream::Request;
use crate::support::{Larder, Reply, Site, Tier, eventually};

const RULES: &str = r#"
[server]
login = '/login'

[[family]]
name = "stats"
path = '/stats(/.*)?'
ttl  = "1h"
authorize = { path = "/auth/check", ttl = "1h" }

[[family]]
name = "shortly"
path = '/shortly'
ttl  = "60s"
stale_while_revalidate = "60s"
stale_if_error = "60s"
authorize = { path = "/auth/shortly", ttl = "1s" }

[[family]]
name = "own"
path = '/own'
ttl  = "60s"
identity = "cookie:sid"
authorize = { path = "/auth/check", ttl = "1h" }

[[family]]
name = "narrow"
path = '/narrow'
ttl  = "60s"
forward = "keyed"
authorize = { path = "/auth/check", ttl = "1h" }

[[family]]
name = "searches"
path = '/search'
ttl  = "60s"
methods = ["QUERY"]
authorize = { path = "/auth/check", ttl = "1h" }

[invalidate]
'/stats/.*' = ["stats"]
'/logout'   = ["authorize:{identity}"]
'/rights'   = ["authorize"]
"#;

on_both_tiers! {
    authorized_callers_share_an_entry,
    a_caller_that_the_api_refuses_never_gets_a_stored_response,
    a_caller_without_credentials_is_asked_about_too,
    many_requests_of_one_caller_ask_once,
    a_follower_waits_for_its_own_verdict_before_it_joins,
    a_verdict_lasts_as_long_as_its_ttl,
    verdicts_are_kept_per_credentials_by_cookie_and_by_field,
    a_logout_ends_what_the_api_said_of_its_caller_alone,
    a_logout_with_other_cookies_of_the_same_session_counts,
    a_logout_without_credentials_ends_all_verdicts,
    a_logout_that_is_redirected_to_the_login_page_counts,
    a_change_of_rights_ends_all_verdicts,
    a_question_that_was_asked_before_a_logout_does_not_count_after_it,
    an_api_that_does_not_answer_the_check_gets_the_request_itself,
    an_answer_with_no_store_is_asked_for_each_time,
    the_check_has_the_credentials_and_nothing_else_of_the_request,
    credentials_are_sent_although_the_family_forwards_only_what_it_keys,
    only_if_cached_asks_nobody,
    stale_responses_conditions_ranges_and_heads_are_for_the_authorized_alone,
    a_query_of_an_unauthorized_caller_keeps_its_content,
    an_identity_beside_it_keeps_callers_apart,
    credentials_that_the_identity_does_not_name_make_a_request_private,
    a_logout_counts_in_another_spelling_of_the_scheme,
    clients_are_told_that_shared_caches_must_not_store_it,
    upgrades_ask_nobody,
    explain_says_what_the_api_is_asked_and_what_it_said,
}

const ANN: (&str, &str) = ("Authorization", "Bearer ann");
const BOB: (&str, &str) = ("Authorization", "Bearer bob");
const EVE: (&str, &str) = ("Authorization", "Bearer eve");

/// The callers that the API authorizes, by the value of any of their credentials.
#[derive(Clone, Default)]
struct Rights(Arc<Mutex<BTreeSet<String>>>);

impl Rights {
    fn give(&self, credential: &str) {
        self.0.lock().unwrap().insert(credential.to_owned());
    }

    fn take(&self, credential: &str) {
        self.0.lock().unwrap().remove(credential);
    }

    fn has(&self, request: &Request) -> bool {
        let rights = self.0.lock().unwrap();
        let cookies = request.header("cookie").unwrap_or_default().split("; ").map(str::to_owned);
        let token = request.header("authorization").or(request.header("x-api-key")).unwrap_or("none").to_owned();
        cookies.chain([token]).any(|credential| rights.contains(&credential))
    }
}

/// An API that answers callers with rights alone, on the checks as on its other paths.
fn site(tier: Tier) -> (Site, Rights) {
    let site = Site::start(tier, RULES);
    let rights = Rights::default();
    for caller in ["Bearer ann", "Bearer bob"] {
        rights.give(caller);
    }
    for check in ["GET /auth/check", "GET /auth/shortly"] {
        let rights = rights.clone();
        site.upstream.answer(check, move |request| match rights.has(request) {
            // As frameworks answer by default.
            true => Reply::new("{\"user\":1}")
                .cached("private, no-cache, max-age=0, must-revalidate")
                .header("Set-Cookie", "sid=renewed")
                .header("Vary", "Cookie"),
            false => Reply::with_status(401, "log in"),
        });
    }
    for path in ["/stats", "/shortly", "/own", "/narrow", "/search"] {
        let rights = rights.clone();
        site.upstream.answer(path, move |request| match rights.has(request) {
            true => Reply::numbered().header("ETag", "\"1\""),
            false => Reply::with_status(401, format!("not for you #{}", request.nth)),
        });
    }
    (site, rights)
}

fn get(larder: &Larder, target: &str, (field, value): (&str, &str)) -> Call {
    larder.call("GET", target).header(field, value)
}

fn checks(site: &Site) -> usize {
    site.upstream.count("GET /auth/check")
}

fn authorized_callers_share_an_entry(tier: Tier) {
    let (site, _) = site(tier);
    get(&site, "/stats", ANN).send().shows("fwd=uri-miss; fwd-status=200").shows("stored").carries("/stats #1");
    get(&site, "/stats", BOB).send().shows("hit").carries("/stats #1");
    get(&site, "/stats", ANN).send().shows("hit").carries("/stats #1");
    assert_eq!((site.upstream.count("GET /stats"), checks(&site)), (1, 2));
    let metrics = site.admin_get("/metrics").text();
    let counted = |asked| format!("larder_authorizations_total{{verdict=\"granted\",asked=\"{asked}\"}}");
    assert!(metrics.contains(&format!("{} 2", counted("yes"))), "{metrics}");
    assert!(metrics.contains(&format!("{} 1", counted("no"))), "{metrics}");
}

fn a_caller_that_the_api_refuses_never_gets_a_stored_response(tier: Tier) {
    let (site, _) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    for nth in 2..5 {
        let answer = get(&site, "/stats", EVE).send().shows("fwd=bypass; fwd-status=401; detail=unauthorized");
        assert_eq!(answer.text(), format!("not for you #{nth}"), "in the API's own words");
        answer.has_status(401).hides("hit").hides("stored");
    }
    assert_eq!(checks(&site), 2, "a refusal is kept too");
    get(&site, "/stats", ANN).send().shows("hit").carries("/stats #1");
}

fn a_caller_without_credentials_is_asked_about_too(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    site.get("/stats").shows("detail=unauthorized").has_status(401);
    site.get("/stats").shows("detail=unauthorized").has_status(401);
    assert_eq!(checks(&site), 2);
    rights.give("none");
    site.write("POST", "/rights").has_status(200);
    site.get("/stats").shows("hit").carries("/stats #1");
}

fn many_requests_of_one_caller_ask_once(tier: Tier) {
    let (site, _) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    let gate = site.upstream.hold_all("GET /auth/check");
    let waiting: Vec<Pending> = (0..20).map(|_| get(&site, "/stats", BOB).start()).collect();
    gate.wait_for(1);
    site.wait_for_followers(19);
    gate.open();
    for pending in waiting {
        pending.response().shows("hit").carries("/stats #1");
    }
    assert_eq!(checks(&site), 2);
}

fn a_follower_waits_for_its_own_verdict_before_it_joins(tier: Tier) {
    let (site, _) = site(tier);
    let gate = site.upstream.hold_next("GET /stats");
    let leader = get(&site, "/stats", ANN).start();
    gate.wait_for(1);
    let follower = get(&site, "/stats", BOB).start();
    site.wait_for_followers(1);
    // Answered while the others wait: it is not among them.
    get(&site, "/stats", EVE).send().shows("detail=unauthorized").has_status(401);
    gate.open();
    leader.response().shows("stored").carries("/stats #1");
    follower.response().shows("collapsed").carries("/stats #1");
}

fn a_verdict_lasts_as_long_as_its_ttl(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/shortly", ANN).send().shows("stored");
    rights.take("Bearer ann");
    // No write says so: at the latest after the ttl it shows.
    let is_refused = || get(&site, "/shortly", ANN).send().is("detail=unauthorized");
    eventually("the verdict is over", is_refused);
    assert_eq!(site.upstream.count("GET /auth/shortly"), 2);
    get(&site, "/shortly", BOB).send().shows("hit").carries("/shortly #1");
}

fn verdicts_are_kept_per_credentials_by_cookie_and_by_field(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    rights.give("sid=1");
    rights.give("key");
    let callers = [
        ("Cookie", "sid=1"),
        ("Cookie", "sid=1; theme=dark"),
        ("X-API-Key", "key"),
        ("Authorization", "Bearer bob"),
    ];
    for (nth, caller) in callers.into_iter().enumerate() {
        get(&site, "/stats", caller).send().shows("hit").carries("/stats #1");
        get(&site, "/stats", caller).send().shows("hit");
        assert_eq!(checks(&site), 2 + nth, "{caller:?}");
    }
    for caller in [("Cookie", "sid=2"), ("X-API-Key", "other"), ("Proxy-Authorization", "x"), EVE] {
        get(&site, "/stats", caller).send().shows("detail=unauthorized").has_status(401);
    }
    // Both together are another caller than each alone.
    let asked = checks(&site);
    get(&site, "/stats", ANN).header("Cookie", "sid=1").send().shows("hit");
    assert_eq!(checks(&site), asked + 1);
}

fn a_logout_ends_what_the_api_said_of_its_caller_alone(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    get(&site, "/stats", BOB).send().shows("hit");
    rights.take("Bearer ann");
    site.call("POST", "/logout").header(ANN.0, ANN.1).send().has_status(200);
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
    let asked = checks(&site);
    get(&site, "/stats", BOB).send().shows("hit").carries("/stats #1");
    assert_eq!(checks(&site), asked, "bob's is kept");
}

fn a_logout_with_other_cookies_of_the_same_session_counts(tier: Tier) {
    let (site, rights) = site(tier);
    rights.give("sid=1");
    get(&site, "/stats", ("Cookie", "theme=dark; sid=1")).send().shows("stored");
    rights.take("sid=1");
    let logout = site.call("POST", "/logout").header("Cookie", "sid=1; csrftoken=2").header("X-CSRF-Token", "2");
    logout.send().has_status(200);
    get(&site, "/stats", ("Cookie", "theme=dark; sid=1")).send().shows("detail=unauthorized").has_status(401);
}

fn a_logout_without_credentials_ends_all_verdicts(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    rights.take("Bearer ann");
    // The token may be in its content.
    site.write("POST", "/logout").has_status(200);
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
}

fn a_logout_that_is_redirected_to_the_login_page_counts(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    rights.take("Bearer ann");
    for path in ["POST /logout", "POST /rights"] {
        site.upstream.on(path, Reply::status(302).header("Location", "/login"));
    }
    // This one was refused.
    site.call("POST", "/rights").header(ANN.0, ANN.1).send().has_status(302);
    get(&site, "/stats", ANN).send().shows("hit");
    site.call("POST", "/logout").header(ANN.0, ANN.1).send().has_status(302);
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
}

fn a_change_of_rights_ends_all_verdicts(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    get(&site, "/stats", EVE).send().shows("detail=unauthorized");
    rights.take("Bearer ann");
    rights.give("Bearer eve");
    site.call("POST", "/rights").header(BOB.0, BOB.1).send().has_status(200);
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
    get(&site, "/stats", EVE).send().shows("hit").carries("/stats #1");
    site.admin_post("/cache/clear/authorize").has_status(200);
    let asked = checks(&site);
    get(&site, "/stats", EVE).send().shows("hit");
    assert_eq!(checks(&site), asked + 1);
}

fn a_question_that_was_asked_before_a_logout_does_not_count_after_it(tier: Tier) {
    let (site, rights) = site(tier);
    get(&site, "/stats", BOB).send().shows("stored");
    // The API has made up its mind, and its answer is on the way.
    site.upstream.on("GET /auth/check", Reply::status(204));
    let gate = site.upstream.hold_next("GET /auth/check");
    let before = get(&site, "/stats", ANN).start();
    gate.wait_for(1);
    rights.take("Bearer ann");
    site.call("POST", "/logout").header(ANN.0, ANN.1).send().has_status(200);
    site.upstream.on("GET /auth/check", Reply::status(403));
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
    gate.open();
    before.response().shows("hit");
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
}

fn an_api_that_does_not_answer_the_check_gets_the_request_itself(tier: Tier) {
    let (site, _) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    let answers = [
        Reply::status(500),
        Reply::status(503),
        Reply::none(),
        Reply::status(302).header("Location", "/login").cached("max-age=60"),
        Reply::status(404).cached("max-age=60"),
    ];
    for (nth, answer) in answers.into_iter().enumerate() {
        site.upstream.on("GET /auth/check", answer);
        let forwarded =
            get(&site, "/stats", BOB).send().shows("fwd=bypass; fwd-status=200; detail=authorization-unknown");
        forwarded.carries(&format!("/stats #{}", nth + 2)).hides("stored");
    }
    site.upstream.on("GET /auth/check", Reply::status(204));
    get(&site, "/stats", BOB).send().shows("hit").carries("/stats #1");
}

fn an_answer_with_no_store_is_asked_for_each_time(tier: Tier) {
    let (site, _) = site(tier);
    site.upstream.on("GET /auth/check", Reply::new("me").cached("no-store"));
    get(&site, "/stats", ANN).send().shows("stored");
    get(&site, "/stats", ANN).send().shows("hit");
    assert_eq!(checks(&site), 2);
    site.upstream.on("GET /auth/check", Reply::status(403).cached("no-store"));
    get(&site, "/stats", ANN).send().shows("detail=unauthorized").has_status(200);
}

fn the_check_has_the_credentials_and_nothing_else_of_the_request(tier: Tier) {
    let (site, _) = site(tier);
    let call = get(&site, "/stats/month?page=2", ANN)
        .header("Cookie", "sid=1")
        .header("Accept", "text/html")
        .header("Range", "bytes=0-1")
        .header("If-None-Match", "\"1\"")
        .header("X-HTTP-Method-Override", "DELETE")
        .header("X-Forwarded-User", "root")
        .header("Expect", "100-continue")
        .header("Origin", "http://a");
    call.send();
    let check = site.upstream.last("GET /auth/check");
    assert_eq!((check.header("authorization"), check.header("cookie")), (Some("Bearer ann"), Some("sid=1")));
    for field in [
        "accept",
        "range",
        "if-none-match",
        "x-http-method-override",
        "x-forwarded-user",
        "expect",
        "origin",
        "content-length",
    ] {
        assert_eq!(check.header(field), None, "{field}");
    }
    assert!(check.header("x-forwarded-for").is_some() && check.header("host").is_some());
}

fn credentials_are_sent_although_the_family_forwards_only_what_it_keys(tier: Tier) {
    let (site, _) = site(tier);
    get(&site, "/narrow", ANN).header("Accept", "x/y").send().shows("stored");
    assert_eq!(site.upstream.last("GET /narrow").header("accept"), None);
    get(&site, "/narrow", BOB).send().shows("hit");
    get(&site, "/narrow", EVE).send().shows("detail=unauthorized").has_status(401);
}

fn only_if_cached_asks_nobody(tier: Tier) {
    let (site, _) = site(tier);
    let cached = |caller| get(&site, "/stats", caller).header("Cache-Control", "only-if-cached").send();
    get(&site, "/stats", ANN).send().shows("stored");
    cached(ANN).shows("hit").carries("/stats #1");
    cached(BOB).has_status(504).shows("detail=only-if-cached");
    assert_eq!(checks(&site), 1);
    get(&site, "/stats", EVE).send().has_status(401);
    cached(EVE).has_status(504);
    assert_eq!(site.upstream.count("GET /stats"), 2);
}

fn stale_responses_conditions_ranges_and_heads_are_for_the_authorized_alone(tier: Tier) {
    let (site, _) = site(tier);
    get(&site, "/stats", ANN).send().shows("stored");
    let with = |caller, field, value| get(&site, "/stats", caller).header(field, value).send();
    with(BOB, "If-None-Match", "\"1\"").shows("hit").has_status(304);
    with(BOB, "Range", "bytes=0-1").shows("hit").has_status(206).carries("/s");
    site.call("HEAD", "/stats").header(BOB.0, BOB.1).send().shows("hit").has_status(200);
    for (field, value) in [("If-None-Match", "\"1\""), ("Range", "bytes=0-1"), ("Cache-Control", "max-stale")] {
        with(EVE, field, value).shows("detail=unauthorized").has_status(401);
    }
    site.call("HEAD", "/stats").header(EVE.0, EVE.1).send().shows("detail=unauthorized").has_status(401);
    // Stale, while it is revalidated and because the API fails.
    for (directives, failed) in
        [("max-age=0, stale-while-revalidate=60", false), ("max-age=0, stale-if-error=60", true)]
    {
        site.upstream.on("GET /shortly", Reply::new("kept").cached(directives));
        site.admin_post("/cache/clear").has_status(200);
        get(&site, "/shortly", ANN).send().carries("kept");
        if failed {
            site.upstream.on("GET /shortly", Reply::status(503));
        }
        get(&site, "/shortly", BOB).send().carries("kept");
        let refused = get(&site, "/shortly", EVE).send().shows("detail=unauthorized");
        assert_eq!(refused.status, if failed { 503 } else { 200 }, "the API's own answer");
        refused.hides("hit");
    }
}

fn a_query_of_an_unauthorized_caller_keeps_its_content(tier: Tier) {
    let (site, _) = site(tier);
    let query = |caller: (&str, &str)| {
        let call = site.call("QUERY", "/search").header(caller.0, caller.1);
        call.header("Content-Type", "text/plain").body("q=1").send()
    };
    query(ANN).shows("stored");
    query(BOB).shows("hit");
    query(EVE).shows("detail=unauthorized").has_status(401);
    assert_eq!(site.upstream.last("QUERY /search").body, b"q=1");
    assert_eq!(site.upstream.last("GET /auth/check").body, b"");
}

fn credentials_that_the_identity_does_not_name_make_a_request_private(tier: Tier) {
    let (site, rights) = site(tier);
    for credential in ["sid=1", "Bearer ann", "Bearer bob"] {
        rights.give(credential);
    }
    let own = |token: &str| get(&site, "/own", ("Cookie", "sid=1")).header("Authorization", token).send();
    own("Bearer ann").hides("stored").carries("/own #1");
    own("Bearer bob").hides("hit").carries("/own #2");
    get(&site, "/own", ("Cookie", "sid=1")).send().shows("stored").carries("/own #3");
    own("Bearer ann").hides("hit").carries("/own #4");
    // Cookies beside the identity's are part of the key.
    get(&site, "/own", ("Cookie", "sid=1; user=2")).send().hides("hit").carries("/own #5");
}

fn a_logout_counts_in_another_spelling_of_the_scheme(tier: Tier) {
    let (site, rights) = site(tier);
    rights.give("bearer  ann");
    get(&site, "/stats", ("Authorization", "bearer  ann")).send().shows("stored");
    get(&site, "/stats", ("Authorization", "bearer  ann")).send().shows("hit");
    rights.take("bearer  ann");
    site.call("POST", "/logout").header("Authorization", "Bearer ann").send().has_status(200);
    get(&site, "/stats", ("Authorization", "bearer  ann")).send().shows("detail=unauthorized").has_status(401);
}

fn an_identity_beside_it_keeps_callers_apart(tier: Tier) {
    let (site, rights) = site(tier);
    for sid in ["sid=1", "sid=2"] {
        rights.give(sid);
    }
    get(&site, "/own", ("Cookie", "sid=1")).send().shows("stored").carries("/own #1");
    get(&site, "/own", ("Cookie", "sid=2")).send().shows("stored").carries("/own #2");
    get(&site, "/own", ("Cookie", "sid=1")).send().shows("hit").carries("/own #1");
    rights.take("sid=1");
    site.call("POST", "/logout").header("Cookie", "sid=1").send().has_status(200);
    get(&site, "/own", ("Cookie", "sid=1")).send().shows("detail=unauthorized").has_status(401);
    get(&site, "/own", ("Cookie", "sid=2")).send().shows("hit").carries("/own #2");
}

fn clients_are_told_that_shared_caches_must_not_store_it(tier: Tier) {
    let (site, _) = site(tier);
    let answer = |path: &str| {
        let reply =
            Reply::new("x").cached("public, max-age=60, s-maxage=90").header("CDN-Cache-Control", "max-age=9");
        site.upstream.on(path, reply);
        [ANN, BOB, EVE].map(|caller| {
            let answer = get(&site, path, caller).send();
            assert_eq!(answer.header("cdn-cache-control"), None);
            answer.header("cache-control").unwrap_or_default().to_owned()
        })
    };
    // Rules invalidate the first, and none the second.
    assert_eq!(answer("/stats"), ["private, no-cache"; 3]);
    assert_eq!(answer("/shortly"), ["private, max-age=60"; 3]);
}

fn upgrades_ask_nobody(tier: Tier) {
    let (site, _) = site(tier);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    site.upstream.on("GET /stats/live", Reply::raw(switch));
    let mut stream = TcpStream::connect(site.address).unwrap();
    stream
        .write_all(b"GET /stats/live HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    assert_eq!(checks(&site), 0);
}

fn explain_says_what_the_api_is_asked_and_what_it_said(tier: Tier) {
    let (site, _) = site(tier);
    let explain = |caller: (&str, &str)| {
        let target = format!(
            "/cache/explain?url=http://localhost/stats&header={}:%20{}",
            caller.0,
            caller.1.replace(' ', "%20")
        );
        site.admin_get(&target).has_status(200).json()
    };
    let explanation = explain(ANN);
    assert_eq!(explanation["authorization"]["verdict"], "not stored", "{explanation:#}");
    get(&site, "/stats", ANN).send().shows("stored");
    get(&site, "/stats", EVE).send().shows("detail=unauthorized");
    assert_eq!(checks(&site), 2);
    let explanation = explain(ANN);
    assert_eq!(explanation["authorization"]["verdict"], "granted", "{explanation:#}");
    assert!(
        explanation["authorization"]["check"].as_str().unwrap().ends_with("/auth/check with authorization"),
        "{explanation:#}"
    );
    assert!(!explanation.to_string().contains("Bearer"), "{explanation:#}");
    assert_eq!(explanation["now"]["does"], "hit", "{explanation:#}");
    let explanation = explain(EVE);
    assert_eq!(
        (&explanation["authorization"]["verdict"], &explanation["now"]["does"]),
        (&"refused".into(), &"forwarded".into())
    );
    assert_eq!(checks(&site), 2, "to explain asks nobody");
}

#[test]
fn a_logout_through_one_proxy_ends_the_verdict_in_the_other() {
    let (site, rights) = site(Tier::Redis);
    let other = site.another();
    for round in 0..10 {
        let (writer, reader) = if round % 2 == 0 { (&site.larder, &other) } else { (&other, &site.larder) };
        rights.give("Bearer ann");
        writer.call("POST", "/rights").header(BOB.0, BOB.1).send().has_status(200);
        for larder in [writer, reader] {
            get(larder, "/stats", ANN).send().has_status(200);
            get(larder, "/stats", ANN).send().shows("hit");
        }
        rights.take("Bearer ann");
        writer.call("POST", "/logout").header(ANN.0, ANN.1).send().has_status(200);
        get(reader, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
        get(writer, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
        get(reader, "/stats", BOB).send().shows("hit");
    }
}

#[test]
fn a_question_asked_by_one_proxy_before_a_logout_through_the_other_does_not_count() {
    let (site, rights) = site(Tier::Redis);
    let other = site.another();
    get(&site, "/stats", BOB).send().shows("stored");
    site.upstream.on("GET /auth/check", Reply::status(204));
    let gate = site.upstream.hold_next("GET /auth/check");
    let before = get(&other, "/stats", ANN).start();
    gate.wait_for(1);
    rights.take("Bearer ann");
    site.call("POST", "/logout").header(ANN.0, ANN.1).send().has_status(200);
    site.upstream.on("GET /auth/check", Reply::status(403));
    gate.open();
    before.response();
    for larder in [&other, &site.larder] {
        get(larder, "/stats", ANN).send().shows("detail=unauthorized").has_status(401);
    }
}

#[test]
fn a_verdict_of_one_proxy_counts_in_the_other() {
    let (site, _) = site(Tier::Redis);
    let other = site.another();
    get(&site, "/stats", ANN).send().shows("stored");
    site.wait_for_entries(2);
    get(&other, "/stats", ANN).send().shows("hit").carries("/stats #1");
    assert_eq!(checks(&site), 1);
}

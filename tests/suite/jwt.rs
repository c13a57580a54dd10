//! Families that identify callers by claims of their bearer tokens (`identity = "jwt:sub"`, `[jwt]`): a valid token is worth what
//! its claims are worth, and any other is forwarded.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::{Larder, Plan, Reply, Response, Site, Tier, Upstream, eventually, larder};
use crate::tls;
use crate::tokens::{self, Issuer, Rsa, claims_of, hs256, jwks, now, unsigned};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const FAMILIES: &str = r#"
[[family]]
name = "me"
path = '/me'
ttl = "60s"
identity = "jwt:sub"

[[family]]
name = "tenant"
path = '/tenant'
ttl = "60s"
identity = "jwt:/realm/tenant, role"

[[family]]
name = "mixed"
path = '/mixed'
ttl = "60s"
identity = ["jwt:sub", "cookie:sid"]

[[family]]
name = "fields"
path = '/fields'
ttl = "60s"
identity = ["header:x-user", "cookie:sid"]

[[family]]
name = "groups"
path = '/groups'
ttl = "60s"
identity = "jwt:groups"
instance = { group = "identity" }

[[family]]
name = "keyed"
path = '/keyed'
ttl = "60s"
identity = "jwt:sub"
forward = "keyed"

[invalidate]
'/logout' = ["me:{identity}", "mixed:{identity}", "fields:{identity}"]
'/leave' = ["groups:{identity}"]
'/groups/(?<group>[^/]+)/members' = ["groups:{group}"]
'/tenants' = ["tenant", "keyed"]
"#;

on_both_tiers! {
    callers_are_told_apart_by_claims_and_a_new_token_keeps_the_entries,
    a_read_whose_token_is_not_valid_is_forwarded_and_not_stored,
    several_claims_are_the_key_and_a_token_without_one_of_them_is_forwarded,
    a_token_is_compared_with_the_clock_on_every_hit,
    a_token_that_expires_while_its_request_waits_gets_an_answer_of_its_own,
    keys_are_rotated_and_stay_when_the_issuer_is_away,
    a_write_invalidates_the_entries_of_the_caller_that_its_token_identifies,
    a_write_whose_token_is_not_valid_invalidates_the_entries_of_all_callers,
    all_credentials_of_a_list_are_part_of_the_key,
    a_write_by_one_of_several_credentials_invalidates_what_was_read_with_both,
    the_response_to_a_post_is_stored_for_the_caller_of_a_valid_token_alone,
    upstream_gets_the_token_where_only_keyed_fields_are_sent,
    a_stale_response_is_not_served_to_a_caller_whose_token_is_not_valid,
    each_element_of_a_claim_that_is_a_list_names_the_caller,
}

/// A directory with the secret in a file, and the rules that name it.
fn with_secret(settings: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let file = dir.path().join("secret");
    let rules = format!("{FAMILIES}\n[jwt]\nsecret_file = '{}'\n{settings}\n", file.display());
    (dir, rules)
}

fn ask(larder: &Larder, target: &str, token: &str) -> Response {
    by(larder, target, token).send()
}

fn by(larder: &Larder, target: &str, token: &str) -> Call {
    larder.call("GET", target).header("Authorization", &format!("Bearer {token}"))
}

fn token_of(caller: &str) -> String {
    hs256(SECRET, &claims_of(caller))
}

fn callers_are_told_apart_by_claims_and_a_new_token_keeps_the_entries(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    ask(&site, "/me", &token_of("ann")).shows("stored").carries("/me #1");
    let renewed = hs256(SECRET, &json!({ "sub": "ann", "exp": now() + 7200, "jti": "another" }));
    ask(&site, "/me", &renewed).shows("hit").carries("/me #1");
    ask(&site, "/me", &token_of("bob")).shows("stored").carries("/me #2");
    site.get("/me").shows("stored").carries("/me #3");
    ask(&site, "/me", &token_of("ann")).shows("hit").carries("/me #1");
    ask(&site, "/me", &token_of("bob")).shows("hit").carries("/me #2");
    site.get("/me").shows("hit").carries("/me #3");
    // RFC 9110 §11.1: the scheme is case-insensitive, which not every server knows.
    let lower = format!("bearer {}", token_of("cleo"));
    site.call("GET", "/me").header("Authorization", &lower).send().shows("stored");
    assert!(site.upstream.last("/me").header("authorization").unwrap().starts_with("Bearer "));
    site.call("GET", "/me").header("Authorization", &lower).send().shows("hit");
    ask(&site, "/me", &token_of("cleo")).shows("hit");
    if tier == Tier::Redis {
        let other = site.another();
        eventually("the other proxy has it", || ask(&other, "/me", &renewed).is("hit"));
        let keys = site.redis.as_ref().unwrap().command(&["KEYS", "*"]);
        assert!(!keys.contains("ann") && !keys.contains(&renewed), "{keys}");
    }
}

fn a_read_whose_token_is_not_valid_is_forwarded_and_not_stored(tier: Tier) {
    let (_dir, rules) = with_secret("audience = 'api'");
    let site = Site::start(tier, &rules);
    let ann = json!({ "sub": "ann", "aud": "api", "exp": now() + 3600 });
    let with = |name: &str, value: Value| {
        let mut claims = ann.clone();
        claims[name] = value;
        hs256(SECRET, &claims)
    };
    let without = |name: &str| {
        let mut claims = ann.clone();
        claims.as_object_mut().unwrap().remove(name);
        hs256(SECRET, &claims)
    };
    let good = hs256(SECRET, &ann);
    ask(&site, "/me", &good).shows("stored").carries("/me #1");
    let bob = json!({ "sub": "bob", "aud": "api", "exp": now() + 3600 }).to_string();
    let parts: Vec<&str> = good.split('.').collect();
    let tampered = format!("{}.{}.{}", parts[0], tokens::encoded(bob), parts[2]);
    let bearer = |token: String| vec![format!("Bearer {token}")];
    let rows = [
        (bearer(with("exp", json!(now() - 1))), "token-expired"),
        (bearer(with("nbf", json!(now() + 600))), "token-not-yet-valid"),
        (bearer(with("exp", json!("soon"))), "token-times"),
        (bearer(without("exp")), "token-times"),
        (bearer(without("sub")), "token-claims"),
        (bearer(with("sub", json!(null))), "token-claims"),
        (bearer(with("sub", json!({ "id": 1 }))), "token-claims"),
        (bearer(with("aud", json!("other"))), "token-audience"),
        (bearer(without("aud")), "token-audience"),
        (bearer(hs256("another secret of another issuer", &ann)), "token-signature"),
        (bearer(tampered), "token-signature"),
        (bearer(format!("{}.{}.", parts[0], parts[1])), "token-signature"),
        (bearer(unsigned(&ann)), "token-unreadable"),
        (bearer("x".to_owned()), "token-unreadable"),
        (vec!["Basic YW5uOmFubg==".to_owned()], "token-scheme"),
        (vec!["Bearer".to_owned()], "token-scheme"),
        (vec![format!("Bearer {good}"), format!("Bearer {good}")], "token-several"),
    ];
    let call = |lines: &[String]| {
        lines.iter().fold(site.call("GET", "/me"), |call, line| call.header("Authorization", line))
    };
    // Upstream would let everybody have it; such a caller gets it from upstream alone.
    site.upstream
        .answer("GET /me", |request| Reply::new(format!("#{}", request.nth)).cached("public, max-age=60"));
    for (lines, detail) in &rows {
        for _ in 0..2 {
            let before = site.upstream.count("GET /me");
            let answer = call(lines).send().hides("hit").hides("stored");
            assert!(answer.is(&format!("fwd=bypass; detail={detail}")), "{lines:?}: {answer:?}");
            assert_eq!(site.upstream.count("GET /me"), before + 1);
        }
        call(lines).header("Cache-Control", "only-if-cached").send().has_status(504);
        ask(&site, "/me", &good).shows("hit").carries("/me #1");
    }
    let refused = site.metric("larder_tokens_refused_total{reason=\"token-times\"}");
    assert_eq!(refused, 4, "{}", site.admin_get("/metrics").text());
}

fn several_claims_are_the_key_and_a_token_without_one_of_them_is_forwarded(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let token = |tenant: Value, role: &str, sub: &str| {
        hs256(SECRET, &json!({ "sub": sub, "role": role, "realm": { "tenant": tenant }, "exp": now() + 3600 }))
    };
    ask(&site, "/tenant", &token(json!("acme"), "user", "ann")).shows("stored").carries("/tenant #1");
    ask(&site, "/tenant", &token(json!("acme"), "user", "bob")).shows("hit").carries("/tenant #1");
    ask(&site, "/tenant", &token(json!("acme"), "admin", "ann")).shows("stored").carries("/tenant #2");
    ask(&site, "/tenant", &token(json!(7), "user", "ann")).shows("stored").carries("/tenant #3");
    ask(&site, "/tenant", &token(json!("7"), "user", "ann")).shows("stored").carries("/tenant #4");
    ask(&site, "/tenant", &token_of("ann")).shows("detail=token-claims").hides("stored");
}

/// Waits until it is later than this many seconds since 1970.
#[track_caller]
fn wait_until(seconds: u64) {
    eventually("the time has come", || now() > seconds);
}

fn a_token_is_compared_with_the_clock_on_every_hit(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let expires = now() + 2;
    let short = hs256(SECRET, &json!({ "sub": "ann", "exp": expires }));
    let begins = now() + 3;
    let early = hs256(SECRET, &json!({ "sub": "ann", "exp": now() + 3600, "nbf": begins }));
    ask(&site, "/me", &token_of("ann")).shows("stored").carries("/me #1");
    ask(&site, "/me", &early).shows("detail=token-not-yet-valid");
    // It may have expired already on a busy machine.
    let answer = ask(&site, "/me", &short);
    assert!(answer.is("hit") || now() >= expires, "{answer:?}");
    wait_until(begins);
    ask(&site, "/me", &short).shows("detail=token-expired").hides("stored");
    ask(&site, "/me", &early).shows("hit").carries("/me #1");
}

fn a_token_that_expires_while_its_request_waits_gets_an_answer_of_its_own(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let gate = site.upstream.hold_next("/me");
    let leader = by(&site, "/me", &token_of("ann")).start();
    gate.wait_for(1);
    let expires = now() + 3;
    let follower = by(&site, "/me", &hs256(SECRET, &json!({ "sub": "ann", "exp": expires }))).start();
    site.wait_for_followers(1);
    wait_until(expires);
    gate.open();
    leader.response().shows("stored").carries("/me #1");
    follower.response().shows("fwd=bypass; detail=token-expired").hides("collapsed").carries("/me #2");
    ask(&site, "/me", &token_of("ann")).shows("hit").carries("/me #1");
}

fn keys_are_rotated_and_stay_when_the_issuer_is_away(tier: Tier) {
    let mut idp = Upstream::start();
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    idp.on("/keys", Reply::new(jwks(&[&old])));
    let rules = format!("{FAMILIES}\n[jwt]\njwks_url = '{}/keys'\n", idp.url());
    let site = Site::start(tier, &rules);
    // Larder may have begun to serve before it had the keys.
    let verified = old.token(&claims_of("ann"));
    eventually("tokens are verified", || ask(&site, "/me", &verified).is("hit"));
    assert_eq!(site.metric("larder_jwt_keys"), 1);
    let kept = ask(&site, "/me", &verified).text();
    idp.on("/keys", Reply::new(jwks(&[&new])));
    let rotated = new.token(&claims_of("ann"));
    ask(&site, "/me", &rotated).shows("detail=token-unknown-key").hides("stored");
    eventually("the new key is there", || ask(&site, "/me", &rotated).is("hit"));
    ask(&site, "/me", &rotated).shows("hit").carries(&kept);
    // What the old key has verified is forgotten with it.
    ask(&site, "/me", &verified).shows("detail=token-unknown-key");
    let (fetched, began) = (idp.count("/keys"), Instant::now());
    for _ in 0..20 {
        ask(&site, "/me", &Issuer::new("nobody").token(&claims_of("ann"))).shows("detail=token-unknown-key");
    }
    let periods = usize::try_from(began.elapsed().as_secs() / 5).unwrap();
    assert!(idp.count("/keys") <= fetched + 2 + periods, "keys are fetched at most every 5 s for unknown ones");
    idp.stop();
    eventually("the failure is counted", || {
        ask(&site, "/me", &old.token(&claims_of("ann")));
        site.metric("larder_jwks_failures_total") > 0
    });
    ask(&site, "/me", &rotated).shows("hit").carries(&kept);
    eventually("it is logged", || site.log().contains("the keys read before stay in force"));
    assert_eq!(site.log().matches("cannot read the JWK Set").count(), 1, "{}", site.log());
}

#[test]
fn without_keys_requests_are_forwarded_until_the_issuer_answers() {
    let (upstream, mut idp, issuer) = (Upstream::start(), Upstream::start(), Issuer::new("a"));
    idp.on("/keys", Reply::new(jwks(&[&issuer])));
    idp.stop();
    let rules = format!("{FAMILIES}\n[jwt]\njwks_url = '{}/keys'\njwks_refresh = '1s'\n", idp.url());
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let token = issuer.token(&claims_of("ann"));
    ask(&larder, "/me", &token).shows("detail=token-no-keys").hides("stored");
    eventually("it is logged", || larder.log().contains("no token can be verified"));
    larder.get("/me").shows("stored");
    idp.resume();
    eventually("tokens are verified", || ask(&larder, "/me", &token).is("hit"));
    eventually("that is logged", || larder.log().contains("can be read again"));
    idp.on("/keys", Reply::new("<html>"));
    eventually("the failure is counted", || larder.metric("larder_jwks_failures_total") > 1);
    ask(&larder, "/me", &token).shows("hit");
    // A set without keys is an answer: what it does not have proves nothing any more.
    idp.on("/keys", Reply::new(r#"{"keys":[]}"#));
    eventually("the key is gone", || ask(&larder, "/me", &token).is("detail=token-unknown-key"));
}

#[test]
fn a_jwk_set_comes_over_tls_from_an_issuer_whose_certificate_is_trusted() {
    let (upstream, issuer, dir) = (Upstream::start(), Issuer::new("a"), tls::certificates());
    let (listener, config) = tls::tls_upstream(&dir);
    let rules = format!("{FAMILIES}\n[jwt]\njwks_url = 'https://{}/keys'\n", listener.local_addr().unwrap());
    let body = jwks(&[&issuer]);
    std::thread::spawn(move || {
        // One that does not trust the certificate ends the handshake.
        while let Ok((stream, _)) = listener.accept() {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.flush());
            }
        }
    });
    let plan = Plan::new(&upstream.url()).rules(&rules);
    let authority = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let trusting = plan.clone().environment("SSL_CERT_FILE", &authority("ours.pem")).start();
    eventually("tokens are verified", || ask(&trusting, "/me", &issuer.token(&claims_of("ann"))).is("hit"));
    let other = plan.environment("SSL_CERT_FILE", &authority("theirs.pem")).start();
    eventually("the failure is logged", || other.log().contains("cannot read the JWK Set"));
    ask(&other, "/me", &issuer.token(&claims_of("ann"))).shows("detail=token-no-keys");
}

#[test]
fn a_jwk_set_in_a_file_is_read_again() {
    let (upstream, old, new) = (Upstream::start(), Issuer::new("old"), Issuer::new("new"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, jwks(&[&old])).unwrap();
    let rules = format!("{FAMILIES}\n[jwt]\njwks_file = '{}'\njwks_refresh = '1s'\n", file.display());
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    ask(&larder, "/me", &old.token(&claims_of("ann"))).shows("stored");
    std::fs::write(&file, jwks(&[&new])).unwrap();
    eventually("the new key is there", || ask(&larder, "/me", &new.token(&claims_of("ann"))).is("hit"));
    ask(&larder, "/me", &old.token(&claims_of("ann"))).shows("detail=token-unknown-key");
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let (upstream, dir) = (Upstream::start(), tempfile::tempdir().unwrap());
    let rsa = Rsa::new(dir.path());
    let file = dir.path().join("public.pem");
    let rules = format!("{FAMILIES}\n[jwt]\npublic_key_file = '{}'\n", file.display());
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    ask(&larder, "/me", &rsa.token("RS256", &claims_of("ann"))).shows("stored");
    ask(&larder, "/me", &rsa.token("PS256", &claims_of("ann"))).shows("hit");
    let pem = std::fs::read(&file).unwrap();
    for secret in [&pem[..], pem.trim_ascii_end()] {
        ask(&larder, "/me", &hs256(secret, &claims_of("ann"))).shows("detail=token-algorithm").hides("stored");
    }
    let only = format!("{rules}algorithms = ['RS256']\n");
    let larder = Plan::new(&upstream.url()).rules(&only).start();
    ask(&larder, "/me", &rsa.token("RS256", &claims_of("ann"))).shows("stored");
    ask(&larder, "/me", &rsa.token("PS256", &claims_of("ann"))).shows("detail=token-algorithm");
}

#[test]
fn the_secret_may_come_from_the_environment_and_never_reaches_the_log() {
    let upstream = Upstream::start();
    let rules = format!("{FAMILIES}\n[jwt]\nsecret = '${{JWT_SECRET}}'\n");
    let larder = Plan::new(&upstream.url()).rules(&rules).environment("JWT_SECRET", SECRET).start();
    let token = token_of("ann");
    ask(&larder, "/me", &token).shows("stored");
    ask(&larder, "/me", &token).shows("hit");
    assert!(!larder.log().contains(SECRET) && !larder.log().contains(&token), "{}", larder.log());
}

#[test]
fn a_key_file_that_cannot_be_used_stops_the_start_with_a_remedy() {
    let (upstream, dir) = (Upstream::start(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("empty"), "").unwrap();
    Rsa::new(dir.path());
    let rows = [
        ("secret_file", "missing", "write the path of a file"),
        ("secret_file", "empty", "it is empty"),
        ("secret_file", "public.pem", "name it as public_key_file"),
        ("public_key_file", "empty", "BEGIN PUBLIC KEY"),
        ("jwks_file", "public.pem", "is not a JWK Set"),
    ];
    for (field, file, message) in rows {
        let rules = format!("{FAMILIES}\n[jwt]\n{field} = '{}'\n", dir.path().join(file).display());
        let exit = Plan::new(&upstream.url()).rules(&rules).fail();
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.stderr.contains(field) && exit.stderr.contains(message), "{exit:?}");
    }
}

fn logout(larder: &Larder, token: &str) -> Response {
    larder.call("POST", "/logout").header("Authorization", &format!("Bearer {token}")).send()
}

fn a_write_invalidates_the_entries_of_the_caller_that_its_token_identifies(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    ask(&site, "/me", &token_of("ann")).shows("stored").carries("/me #1");
    ask(&site, "/me", &token_of("bob")).shows("stored").carries("/me #2");
    // Another token of the same caller.
    logout(&site, &hs256(SECRET, &json!({ "sub": "ann", "exp": now() + 60 }))).has_status(200);
    ask(&site, "/me", &token_of("ann")).shows("fwd=stale; detail=invalidated").carries("/me #3");
    ask(&site, "/me", &token_of("bob")).shows("hit").carries("/me #2");
    assert!(!site.log().contains("does not identify its caller"), "{}", site.log());
}

fn a_write_whose_token_is_not_valid_invalidates_the_entries_of_all_callers(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let bad = [
        hs256("another secret of another issuer", &claims_of("ann")),
        hs256(SECRET, &json!({ "sub": "ann", "exp": now() - 1 })),
        hs256(SECRET, &json!({ "exp": now() + 60 })),
    ];
    for token in bad {
        for caller in ["ann", "bob"] {
            ask(&site, "/me", &token_of(caller)).shows("stored");
            ask(&site, "/me", &token_of(caller)).shows("hit");
        }
        logout(&site, &token).has_status(200);
        for caller in ["ann", "bob"] {
            ask(&site, "/me", &token_of(caller)).shows("fwd=stale; detail=invalidated");
        }
        // The next row stores them again.
        site.write("DELETE", "/me");
    }
    eventually("each is logged", || site.log().matches("does not identify its caller").count() == 3);
    // A write that upstream refuses invalidates nothing.
    site.upstream.on("POST /logout", Reply::status(401));
    ask(&site, "/me", &token_of("ann")).shows("stored");
    logout(&site, "x").has_status(401);
    ask(&site, "/me", &token_of("ann")).shows("hit");
}

fn all_credentials_of_a_list_are_part_of_the_key(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let mixed = |token: Option<&str>, sid: Option<&str>| {
        let call = site.call("GET", "/mixed");
        let call = token.iter().fold(call, |call, token| call.header("Authorization", &format!("Bearer {token}")));
        sid.iter().fold(call, |call, sid| call.header("Cookie", &format!("sid={sid}"))).send()
    };
    let ann = token_of("ann");
    let rows =
        [(Some(&*ann), None), (Some(&*ann), Some("1")), (Some(&*ann), Some("2")), (None, Some("1")), (None, None)];
    for (at, (token, sid)) in rows.iter().enumerate() {
        mixed(*token, *sid).shows("stored").carries(&format!("/mixed #{}", at + 1));
    }
    for (at, (token, sid)) in rows.iter().enumerate() {
        mixed(*token, *sid).shows("hit").carries(&format!("/mixed #{}", at + 1));
    }
    // A valid cookie does not make up for a token that proves nothing.
    mixed(Some("x"), Some("1")).shows("detail=token-unreadable");
    // A value of one kind is not that of another.
    let field = |name: &str, value: &str| site.call("GET", "/fields").header(name, value).send();
    field("X-User", "ann").shows("stored").carries("/fields #1");
    field("Cookie", "sid=ann").shows("stored").carries("/fields #2");
    field("X-User", "ann").shows("hit").carries("/fields #1");
    // Other credentials make a request private, as in every family.
    site.call("GET", "/fields")
        .header("X-User", "ann")
        .header("X-Api-Key", "1")
        .send()
        .hides("hit")
        .hides("stored");
}

fn a_write_by_one_of_several_credentials_invalidates_what_was_read_with_both(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let read = |user: &str, sid: &str| {
        let call = site.call("GET", "/fields").header("X-User", user);
        call.header("Cookie", &format!("sid={sid}")).send()
    };
    for (user, sid) in [("ann", "1"), ("bob", "2")] {
        read(user, sid).shows("stored");
        read(user, sid).shows("hit");
    }
    site.call("POST", "/logout").header("Cookie", "sid=1").send().has_status(200);
    read("ann", "1").shows("detail=invalidated");
    read("bob", "2").shows("hit");
    site.call("POST", "/logout").header("X-User", "bob").send().has_status(200);
    read("bob", "2").shows("detail=invalidated");
    read("ann", "1").shows("hit");
}

fn the_response_to_a_post_is_stored_for_the_caller_of_a_valid_token_alone(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let reply = |name: &str| {
        Reply::new(name).cached("public, max-age=60").header("Content-Location", "/me").header("ETag", "\"1\"")
    };
    site.upstream.on("POST /me", reply("posted"));
    let post = |token: &str| site.call("POST", "/me").header("Authorization", &format!("Bearer {token}")).send();
    post(&hs256("another secret of another issuer", &claims_of("ann"))).hides("stored").carries("posted");
    ask(&site, "/me", &token_of("ann")).shows("fwd=uri-miss").carries("/me #1");
    site.get("/me").shows("fwd=uri-miss").carries("/me #2");
    post(&token_of("ann")).shows("stored").carries("posted");
    ask(&site, "/me", &token_of("ann")).shows("hit").carries("posted");
    ask(&site, "/me", &token_of("bob")).hides("hit").carries("/me #3");
}

fn upstream_gets_the_token_where_only_keyed_fields_are_sent(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let token = token_of("ann");
    by(&site, "/keyed", &token).header("X-Other", "1").send().shows("stored");
    by(&site, "/keyed", &token_of("ann")).send().shows("hit");
    let sent = site.upstream.last("/keyed");
    assert_eq!((sent.header("authorization"), sent.header("x-other")), (Some(&*format!("Bearer {token}")), None));
}

fn a_stale_response_is_not_served_to_a_caller_whose_token_is_not_valid(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let mut site = Site::start(tier, &rules);
    site.upstream.on("GET /me", Reply::new("ann's").stale("stale-if-error=600"));
    ask(&site, "/me", &token_of("ann")).shows("stored");
    site.upstream.stop();
    let expired = hs256(SECRET, &json!({ "sub": "ann", "exp": now() - 1 }));
    ask(&site, "/me", &expired).fails_with(502);
    ask(&site, "/me", &token_of("ann")).has_status(200).carries("ann's");
}

fn each_element_of_a_claim_that_is_a_list_names_the_caller(tier: Tier) {
    let (_dir, rules) = with_secret("");
    let site = Site::start(tier, &rules);
    let of = |groups: Value| hs256(SECRET, &json!({ "sub": "x", "groups": groups, "exp": now() + 3600 }));
    let staff = of(json!(["staff", "cooks", 7]));
    let others = of(json!(["guests"]));
    let fill = || {
        for token in [&staff, &others] {
            ask(&site, "/groups", token);
            ask(&site, "/groups", token).shows("hit");
        }
    };
    fill();
    ask(&site, "/groups", &of(json!(["cooks", "staff", 7]))).shows("stored");
    // By an operator, by a rule's value, and by a write of a caller with one group in common.
    let clear = |group: &'static str| site.admin_post(&format!("/cache/clear/group/{group}")).has_status(200);
    let write = |target: &str| site.write("POST", target).has_status(200);
    let by_post = |token: &str| {
        let field = format!("Bearer {token}");
        site.call("POST", "/leave").header("Authorization", &field).send().has_status(200)
    };
    let ways: [Box<dyn Fn()>; 4] = [
        Box::new(|| drop(clear("cooks"))),
        Box::new(|| drop(clear("7"))),
        Box::new(|| drop(write("/groups/staff/members"))),
        Box::new(|| drop(by_post(&of(json!(["cooks", "new"]))))),
    ];
    for invalidate in ways {
        fill();
        invalidate();
        ask(&site, "/groups", &staff).shows("detail=invalidated; stored");
        ask(&site, "/groups", &others).shows("hit");
    }
    fill();
    clear("nobody");
    ask(&site, "/groups", &staff).shows("hit");
    let many: Vec<String> = (0..33).map(|number| format!("g{number}")).collect();
    ask(&site, "/groups", &of(json!(many))).shows("detail=token-claims").hides("stored");
    ask(&site, "/groups", &of(json!(many[1..]))).shows("stored");
}

#[test]
fn a_reload_names_the_fields_of_jwt_that_need_a_restart() {
    let upstream = Upstream::start();
    let (_dir, rules) = with_secret("audience = 'api'");
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let secret_file = rules.lines().find(|line| line.starts_with("secret_file")).unwrap();
    let rows = [
        (rules.replace("'api'", "'other'"), r#"["[jwt] audience"]"#),
        (rules.replace(secret_file, "jwks_url = 'http://127.0.0.1:9/keys'"), r#"["[jwt] jwks_url"]"#),
        (rules.clone(), "[]"),
    ];
    for (rules, named) in rows {
        std::fs::write(larder.rules_file(), rules).unwrap();
        let reloaded = larder.admin_post("/rules/reload").has_status(200).json();
        assert_eq!(reloaded["needs_restart"].to_string(), named);
    }
}

#[test]
fn a_family_that_a_reload_adds_is_forwarded_until_its_keys_are_read_at_a_restart() {
    let upstream = Upstream::start();
    let (_dir, rules) = with_secret("");
    let larder = Plan::new(&upstream.url()).rules("").start();
    std::fs::write(larder.rules_file(), &rules).unwrap();
    let reloaded = larder.admin_post("/rules/reload").has_status(200);
    assert!(reloaded.text().contains("[jwt]"), "{reloaded:?}");
    ask(&larder, "/me", &token_of("ann")).shows("detail=token-no-keys").hides("stored");
    larder.get("/me").shows("stored");
}

#[test]
fn explain_says_why_a_token_is_not_valid_and_does_not_print_it() {
    let (_dir, rules) = with_secret("");
    let explained = |method: &str, target: &str, token: &str| {
        let field = format!("Authorization: Bearer {token}");
        let exit = larder(Some(&rules), &["explain", method, target, "-H", &field]);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(!exit.stdout.contains(token), "{exit:?}");
        exit.stdout
    };
    let expired = hs256(SECRET, &json!({ "sub": "ann", "exp": now() - 1 }));
    let refused = explained("GET", "/me", &expired);
    assert!(refused.contains("has expired") && refused.contains("never: the bearer token does not"), "{refused}");
    assert!(
        !refused.contains("sha256:") && !refused.contains("/me (RFC"),
        "nothing of its claims is told: {refused}"
    );
    let head = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(head.path(), "HTTP/1.1 200 OK\nCache-Control: public, max-age=60\n\n").unwrap();
    for (token, part) in
        [(&expired, "no: the bearer token has expired"), (&token_of("ann"), "yes: nothing forbids it")]
    {
        let field = format!("Authorization: Bearer {token}");
        let file = head.path().to_str().unwrap();
        let exit = larder(Some(&rules), &["explain", "GET", "/me", "-H", &field, "--response", file]);
        assert!(exit.stdout.contains(part), "{exit:?}");
    }
    assert!(explained("GET", "/me", &hs256("x", &claims_of("ann"))).contains("signature is not that of a key"));
    let valid = explained("GET", "/me", &token_of("ann"));
    assert!(valid.contains("the bearer token is valid") && valid.contains("identity jwt:sub sha256:"), "{valid}");
    assert!(explained("POST", "/logout", &expired).contains("means the entries of all callers"));
    assert!(!explained("POST", "/logout", &token_of("ann")).contains("means the entries of all callers"));
    // The running proxy says the same, and what it does.
    let upstream = Upstream::start();
    let running = Plan::new(&upstream.url()).rules(&rules).start();
    ask(&running, "/me", &token_of("ann")).shows("stored");
    let field = format!("Authorization: Bearer {expired}");
    let admin = format!("http://{}", running.admin);
    let exit = larder(Some(&rules), &["explain", "GET", "/me", "-H", &field, "--admin", &admin]);
    assert!(exit.stdout.contains("has expired") && exit.stdout.contains("forwarded to upstream"), "{exit:?}");
    assert!(!exit.stdout.contains("sha256:") && !exit.stdout.contains("current"), "{exit:?}");
}

#[test]
fn check_prints_the_identity_and_what_it_needs() {
    let (_dir, rules) = with_secret("");
    let exit = larder(Some(&rules), &["check"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for part in [
        "jwt:sub",
        "jwt:/realm/tenant,role",
        "jwt:sub, cookie:sid",
        "bearer tokens",
        "all that a request presents are part",
    ] {
        assert!(exit.stdout.contains(part), "{part}: {exit:?}");
    }
    let exit = larder(Some(FAMILIES), &["check"]);
    assert!(exit.stderr.contains("needs a key") || exit.stdout.contains("needs a key"), "{exit:?}");
}

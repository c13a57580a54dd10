use http::header::AUTHORIZATION;
use proptest::prelude::*;

use super::*;
use crate::bearer::ClaimNames;

fn derive(target: &Target, headers: &HeaderMap, family: Option<FamilyKeySpec<'_>>) -> CacheKey {
    super::derive(target, PresentedCredentials::without_token(headers), family, &Redaction::default())
}

fn target(path: &str, query: Option<&str>) -> Target {
    let (path, query) = (path.into(), query.map(Into::into));
    Target { scheme: "http", host: "h".into(), path, query, ..Target::default() }
}

fn keyed(key_spec: &KeySpec, query: &str, headers: &HeaderMap) -> String {
    let family = FamilyKeySpec { name: "f", definition: "1", key_spec };
    derive(&target("/p", Some(query)), headers, Some(family)).text
}

#[test]
fn a_plain_request_reads_as_a_request_line() {
    let cache_key = derive(&target("/a", Some("b=1")), &HeaderMap::new(), None);
    assert_eq!(cache_key.text, "GET http://h/a?b=1");
    assert_eq!(cache_key.key().to_string(), "713393147de85d06fa204fee6f103c95");
}

#[test]
fn a_key_is_of_the_target_alone_if_no_field_changes_it() {
    let by = |source| KeySpec { identity: Identity::By(vec![source]), ..KeySpec::default() };
    let claims = CallerSource::Claims(ClaimNames::read("sub").unwrap());
    let rows = [
        (KeySpec::default(), true),
        (KeySpec { identity: Identity::Shared, ..KeySpec::default() }, true),
        (KeySpec { identity: Identity::Credentials(Arc::new([COOKIE])), ..KeySpec::default() }, true),
        (KeySpec { headers: vec![HeaderName::from_static("x-a")], ..KeySpec::default() }, false),
        (KeySpec { cookies: Some(vec!["sid".into()]), ..KeySpec::default() }, false),
        (by(CallerSource::Header(AUTHORIZATION)), false),
        (by(CallerSource::Cookie("sid".into())), false),
        (by(claims), false),
    ];
    let fields: HeaderMap =
        [(HeaderName::from_static("x-a"), "1"), (COOKIE, "sid=1"), (AUTHORIZATION, "Bearer a.b.c")]
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .into_iter()
            .collect();
    for (key_spec, expected) in rows {
        assert_eq!(key_spec.is_of_target_alone(), expected, "{key_spec:?}");
        // Only a verified token has claims.
        if !key_spec.identity.is_by_claims() {
            assert_eq!(keyed(&key_spec, "", &HeaderMap::new()) == keyed(&key_spec, "", &fields), expected);
        }
    }
}

#[test]
fn a_query_is_keyed_as_it_is_sent() {
    let text_of = |query| derive(&target("/p", Some(query)), &HeaderMap::new(), None).text;
    assert_eq!(text_of("b=2&a=9&b=1"), "GET http://h/p?b=2&a=9&b=1");
    assert_eq!(text_of(""), "GET http://h/p?");
}

#[test]
fn a_cookie_with_blanks_around_its_name_is_not_anonymous() {
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_static("sid =evil"));
    let by_cookie =
        KeySpec { identity: Identity::By(vec![CallerSource::Cookie("sid".into())]), ..KeySpec::default() };
    assert!(!keyed(&by_cookie, "", &headers).ends_with("anonymous"));
}

#[test]
fn claims_of_a_trusted_proxy_are_keyed_only_if_forwarded() {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    let cache_key = derive(&target("/", None), &headers, None);
    assert_eq!(cache_key.clone().behind(ForwardedPolicy::Set, &headers), cache_key);
    let behind = cache_key.clone().behind(ForwardedPolicy::Append, &headers).text;
    assert!(behind.ends_with("front x-forwarded-proto: https"), "{behind}");
    headers.insert("front-end-https", HeaderValue::from_static("on"));
    headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
    headers.insert("forwarded", HeaderValue::from_static("for=192.0.2.1;host=a;proto=https"));
    let behind = cache_key.behind(ForwardedPolicy::Append, &headers).text;
    let lines = "front front-end-https: on\nfront x-forwarded-proto: https\nfront forwarded: host=a;proto=https";
    assert!(behind.ends_with(lines), "{behind}");
}

#[test]
fn absent_and_empty_fields_differ() {
    let cache_key = derive(&target("/", None), &HeaderMap::new(), None);
    let fields = [HeaderName::from_static("accept-language")];
    let absent = cache_key.variant(&fields, &HeaderMap::new());
    let mut headers = HeaderMap::new();
    headers.insert("accept-language", HeaderValue::from_static(""));
    assert_ne!(absent.text, cache_key.variant(&fields, &headers).text);
}

#[test]
fn credentials_are_hidden_in_the_text_and_separate_callers() {
    let by_header =
        KeySpec { identity: Identity::By(vec![CallerSource::Header(AUTHORIZATION)]), ..KeySpec::default() };
    let text_of = |token: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static(token));
        keyed(&by_header, "", &headers)
    };
    assert!(!text_of("Bearer s3cret").contains("s3cret"));
    assert_ne!(text_of("Bearer a"), text_of("Bearer b"));
    assert!(keyed(&by_header, "", &HeaderMap::new()).ends_with("anonymous"));
}

#[test]
fn with_a_secret_credentials_stand_as_hmacs_under_that_secret() {
    let by_header =
        KeySpec { identity: Identity::By(vec![CallerSource::Header(AUTHORIZATION)]), ..KeySpec::default() };
    let family = FamilyKeySpec { name: "f", definition: "1", key_spec: &by_header };
    let headers = HeaderMap::from_iter([
        (AUTHORIZATION, HeaderValue::from_static("Bearer a")),
        (HeaderName::from_static("x-api-key"), HeaderValue::from_static("b")),
    ]);
    let text_of = |secret: Option<&str>| {
        let redaction =
            Redaction { secret: secret.map(|secret| Secret::new(secret, "shop")), ..Redaction::default() };
        let cache_key = super::derive(
            &target("/", None),
            PresentedCredentials::without_token(&headers),
            Some(family),
            &redaction,
        );
        let variant = cache_key.variant(&[HeaderName::from_static("x-api-key")], &headers);
        assert_eq!(cache_key.with_suffix(cache_key.suffix_of(&variant)).hash, variant.hash);
        variant.querying(&Method::POST, b"content", &headers).text
    };
    let (bare, one, other) = (text_of(None), text_of(Some("one")), text_of(Some("other")));
    assert!(bare.matches(" sha256:").count() == 3 && !bare.contains("hmac"), "{bare}");
    assert!(one.matches(" hmac-sha256:").count() == 3 && !one.contains(" sha256:"), "{one}");
    for (line, same) in one.lines().zip(other.lines()).map(|(one, other)| (one, one == other)) {
        assert_eq!(line.contains("hmac"), !same, "{line}");
    }
}

fn varying(name: &'static str, lines: &[&[u8]]) -> String {
    let name = HeaderName::from_static(name);
    let line = |line: &&[u8]| (name.clone(), HeaderValue::from_bytes(line).unwrap());
    let headers = lines.iter().map(line).collect();
    derive(&target("/", None), &HeaderMap::new(), None).variant(std::slice::from_ref(&name), &headers).text
}

#[test]
fn fields_that_are_credentials_by_their_name_never_stand_in_the_text() {
    for name in ["authorization", "cookie", "x-api-key", "x-xsrf-token", "cf-access-jwt-assertion"] {
        assert!(!varying(name, &[b"s3cret"]).contains("s3cret"), "{name}");
        assert_ne!(varying(name, &[b"a"]), varying(name, &[b"b"]), "{name}");
    }
    let keyed_on = KeySpec { headers: vec![HeaderName::from_static("x-api-key")], ..KeySpec::default() };
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("s3cret"));
    assert!(!keyed(&keyed_on, "", &headers).contains("s3cret"));
    let further = HeaderName::from_static("acme-caller");
    headers.insert(further.clone(), HeaderValue::from_static("s3cret"));
    let redaction = Redaction { secret: None, further: Some([further.clone()].into()) };
    let text = super::derive(&target("/", None), PresentedCredentials::without_token(&headers), None, &redaction)
        .variant(&[further], &headers)
        .text;
    assert!(text.contains("acme-caller: sha256:"), "{text}");
}

#[test]
fn cookies_that_count_are_part_of_the_key() {
    let key_spec = KeySpec {
        cookies: Some(vec!["theme".into(), "sid".into()]),
        identity: Identity::By(vec![CallerSource::Cookie("sid".into())]),
        ..KeySpec::default()
    };
    let text_of = |cookies: &'static str| {
        let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(cookies))]);
        keyed(&key_spec, "", &headers)
    };
    assert_eq!(text_of("sid=1; theme=dark"), text_of("theme=dark; other=1; sid=1"));
    let texts =
        ["sid=1; theme=dark", "sid=1; theme=light", "sid=1; theme=", "sid=1", "theme=dark", "sid=2"].map(text_of);
    let distinct: std::collections::HashSet<_> = texts.iter().collect();
    assert_eq!(distinct.len(), texts.len());
    assert!(!texts[0].contains("dark"), "{}", texts[0]);
}

#[test]
fn long_values_do_not_make_long_texts() {
    let (long, other) = ("a".repeat(60_000), "a".repeat(60_001));
    assert!(varying("x", &[long.as_bytes()]).len() < 120);
    assert_ne!(varying("x", &[long.as_bytes()]), varying("x", &[other.as_bytes()]));
    let longest = "a".repeat(LONGEST_VALUE);
    assert!(varying("x", &[longest.as_bytes()]).ends_with(&longest));
    assert!(!varying("x", &[longest.as_bytes(), b"a"]).contains(&longest));
}

proptest! {
    #[test]
    fn values_share_a_text_exactly_if_they_are_the_same(
        one in proptest::collection::vec("[ -~\u{e4}]{0,50}", 1..4),
        other in proptest::collection::vec("[ -~\u{e4}]{0,50}", 1..4),
    ) {
        let text = |lines: &[String]| varying("x", &lines.iter().map(String::as_bytes).collect::<Vec<_>>());
        prop_assert_eq!(text(&one) == text(&other), one.join(", ") == other.join(", "));
        // Lines of one field are one value.
        prop_assert_eq!(text(&one), text(&[one.join(", ")]));
    }
}

#[test]
fn a_cookie_sent_twice_is_its_own_identity() {
    let by_cookie =
        KeySpec { identity: Identity::By(vec![CallerSource::Cookie("sid".into())]), ..KeySpec::default() };
    let alone = KeySpec { cookies: Some(Vec::new()), ..by_cookie.clone() };
    let text_of = |key_spec: &KeySpec, cookies: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static(cookies));
        keyed(key_spec, "", &headers)
    };
    for key_spec in [&by_cookie, &alone] {
        assert_ne!(text_of(key_spec, "sid=a"), text_of(key_spec, "sid=a; sid=b"));
        assert_ne!(text_of(key_spec, "sid=b"), text_of(key_spec, "sid=a; sid=b"));
        assert_ne!(text_of(key_spec, "sid=a; sid=b"), text_of(key_spec, "sid=a, b"));
        assert_eq!(text_of(key_spec, "sid="), text_of(key_spec, ""));
    }
    assert_eq!(text_of(&alone, "x=1; sid=a"), text_of(&alone, "sid=a; y=2"));
    // They are sent.
    assert_eq!(text_of(&by_cookie, "x=1; sid=a"), text_of(&by_cookie, "sid=a; x=1"));
    assert_ne!(text_of(&by_cookie, "x=1; sid=a"), text_of(&by_cookie, "x=2; sid=a"));
}

#[test]
fn bytes_outside_ascii_are_escaped_without_ambiguity() {
    let cache_key = derive(&target("/", None), &HeaderMap::new(), None);
    let fields = [HeaderName::from_static("x")];
    let text_of = |bytes: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_bytes(bytes).unwrap());
        cache_key.variant(&fields, &headers).text
    };
    assert_ne!(text_of(b"\xff"), text_of(b"\\xff"));
}

#[test]
fn the_verdict_on_a_caller_has_a_key_of_its_own() {
    let text = |lines: &[(&str, &str)]| {
        let credentials = crate::http::sample::fields(lines);
        derive(&target("/check", None), &credentials, None).of_caller(&credentials).text
    };
    assert_eq!(text(&[]), "GET http://h/check\nidentity credentials anonymous");
    let ann = text(&[("authorization", "Bearer ann")]);
    assert!(ann.starts_with("GET http://h/check\nidentity credentials sha256:") && !ann.contains("ann"), "{ann}");
    let others = [
        text(&[]),
        ann,
        text(&[("authorization", "Bearer bob")]),
        text(&[("x-api-key", "Bearer ann")]),
        text(&[("authorization", "Bearer ann"), ("cookie", "a=1")]),
        text(&[("authorization", "Bearer ann"), ("authorization", "cookie")]),
        text(&[("cookie", "a=1; b=2")]),
        text(&[("cookie", "a=1"), ("cookie", "b=2")]),
    ];
    let distinct: std::collections::HashSet<_> = others.iter().collect();
    assert_eq!(distinct.len(), others.len());
    assert_eq!(
        text(&[("cookie", "a=1"), ("authorization", "x")]),
        text(&[("authorization", "x"), ("cookie", "a=1")]),
        "their order does not count"
    );
}

#[test]
fn callers_share_a_digest_for_each_credential_that_they_share() {
    let digests = |lines: &[(&str, &str)]| credentials(&crate::http::sample::fields(lines), None).unwrap();
    let (one, other) =
        (digests(&[("cookie", "a=1; sid=2")]), digests(&[("cookie", "sid = 2"), ("x-api-key", "1")]));
    assert_eq!((one.len(), other.len()), (2, 2));
    assert_eq!(one.iter().filter(|digest| other.contains(digest)).count(), 1);
    // A field is no cookie of the same name.
    assert_ne!(digests(&[("sid", "2")]), digests(&[("cookie", "sid=2")]));
    let many = (0..=CREDENTIALS).map(|nth| format!("c{nth}=1")).collect::<Vec<_>>().join(";");
    assert_eq!(credentials(&crate::http::sample::fields(&[("cookie", many.as_str())]), None), None);
}

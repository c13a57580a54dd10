use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::super::content::RuleContent;
use super::super::pattern::Pattern;
use super::super::source::{FurtherInstance, ReadSource};
use super::parse::fits;
use super::*;
use crate::bearer::{ClaimNames, VerifiedToken};
use crate::http::headers::Credentials;
use crate::key::{CallerSource, PresentedCredentials};

fn names() -> FamilyNames {
    let mut names = FamilyNames::default();
    let families = [
        ("user_list", ""),
        ("user_stats", ""),
        ("user_stats_daily", ""),
        ("user_details", "/(?<id>[^/]+)"),
        ("booking:stats", ""),
        ("booking:list", ""),
        ("room", "/(?<floor>[^/]+)/(?<room>[^/]+)"),
        ("room:plan", "/(?<id>[^/]+)/plan"),
        ("order", r"/orders/(?<id>\d{1,6})(/(?<at>[a-f]+))?"),
        ("order:lines", r"/orders/(?<id>\d+)/lines"),
    ];
    for (name, path) in families {
        let values =
            Pattern::compile(&format!("/{name}{path}"), PathCase::Sensitive).unwrap().values_of_captures();
        names.add(name, Some(values), &[], &Identity::Unstated);
    }
    names.add("broken", None, &[], &Identity::Unstated);
    names
}

fn tags(reference: &str) -> String {
    let parsed = Reference::parse(reference, &names(), Some(&["id", "other", "absent"])).unwrap();
    let value_of = |name: &str| [("id", "7"), ("other", "x:y")].into_iter().find(|(n, _)| *n == name);
    let mut found = ReferencedTags::default();
    parsed.tags(&|name| value_of(name).map(|(_, value)| value), WriteValues::UNKNOWN, &mut found);
    found.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn references_name_tags() {
    let rows = [
        ("*", "*"),
        ("user_list", "user_list"),
        ("user_list:*", "user_list"),
        ("booking", "booking"),
        ("booking:*", "booking"),
        ("booking:stats", "booking:stats"),
        ("booking*", "booking"),
        ("booking:s*", "booking:stats"),
        ("*stats", "booking:stats user_stats"),
        ("user_stats*", "user_stats user_stats_daily"),
        ("u*_*ta*s", "user_details user_stats"),
        ("user_details:{id}", "user_details:7"),
        ("user_details:{other}", "user_details:x%3Ay"),
        ("user_details:me", "user_details:me"),
        ("user_details:{absent}", "user_details"),
        ("room:{id}", "room:7"),
        ("room:{id}:*", "room:7"),
        ("room:*:{id}", "room:*:7"),
        ("room:a:{id}", "room:a:7"),
        ("room:{id}:{absent}", "room"),
        ("room:*:*", "room"),
        ("room:plan:{id}", "room:plan:7"),
    ];
    for (reference, expected) in rows {
        assert_eq!(tags(reference), expected, "{reference}");
    }
}

#[test]
fn faults_of_references_have_a_message_and_a_remedy() {
    let rows = [
        ("user_lists", "unknown family \"user_lists\"", "did you mean \"user_list\""),
        ("nothing", "unknown family", "families here: booking, booking:list"),
        ("zzz*", "fits no family", "families here"),
        ("user_details:4*", "fits no family", "user_details"),
        ("user_detail:{id}", "unknown family", "did you mean \"user_details\""),
        ("user_list:{id}", "\"user_list\" has no captures", "write \"user_list\""),
        ("booking:stat", "\"booking\" has no captures", "did you mean \"booking:stats\""),
        ("user_details:{id}:{id}", "has 2 parts", "at most one part"),
        ("room:*:*:x", "has 3 parts", "at most one part"),
        ("user_details:{id}:*", "has 2 parts", "write \"user_details:{id}\": an instance has nothing below it"),
        ("user_details:*:*", "has 2 parts", "write \"user_details\""),
        ("room:{id}:{id}:*", "has 3 parts", "and name room:plan for what is below it"),
        ("order:abc", "\"abc\" is no {id} that the path of \"order\" can have", "\"order\" for all"),
        ("order:1234567", "is no {id}", "for all of the family"),
        ("order:*:xyz", "\"xyz\" is no {at}", "for all of the family"),
        ("user_details:{ids}", "{ids} is not a capture", "did you mean \"id\""),
        ("user_details:{zzzzz}", "{zzzzz} is not a capture", "the path has id, other"),
        ("user_details:u{id}", "\"u{id}\" is not a part", "one {capture}"),
        ("user_details:", "\"\" is not a part", "one {capture}"),
        ("room::x", "\"\" is not a part", "one {capture}"),
        ("user_list:{identity}", "no family there has an identity", "\"cookie:sid\""),
        ("nobody:{identity}", "unknown family", "families here"),
        ("room:1:{identity}", "unknown family", "did you mean"),
        ("", "unknown family", "families here"),
    ];
    for (reference, what, remedy) in rows {
        let fault = match Reference::parse(reference, &names(), Some(&["id", "other"])) {
            Err(ReferenceFault::Unknown { message, remedy }) => (message, remedy),
            Err(ReferenceFault::Instance { message, remedy }) => (message, remedy),
            Err(ReferenceFault::Capture { message, remedy }) => (message, remedy),
            Err(ReferenceFault::Value { message, remedy }) => (message, remedy),
            Ok(found) => panic!("{reference}: {found:?}"),
        };
        assert!(fault.0.contains(what) && fault.1.contains(remedy), "{reference}: {fault:?}");
    }
}

#[test]
fn identity_references_name_families_with_an_identity() {
    let mut names = names();
    names.add("me", Some(Vec::new()), &[], &Identity::By(vec![CallerSource::Cookie("sid".into())]));
    names.add(
        "account:orders",
        Some(Vec::new()),
        &[],
        &Identity::By(vec![CallerSource::Header(http::header::AUTHORIZATION)]),
    );
    names.add("account:public", Some(Vec::new()), &[], &Identity::Shared);
    let parsed = |reference: &str| Reference::parse(reference, &names, Some(&["id"])).unwrap();
    let tags_of = |reference: &str, fields: &[(&str, &str)]| {
        let fields = crate::http::sample::fields(fields);
        let mut found = ReferencedTags::default();
        let caller = CallerIdentity::Known {
            presented: PresentedCredentials::without_token(&fields),
            secret: None,
            credentials: &Credentials::default(),
        };
        parsed(reference).tags(&|_| None, WriteValues { caller, ..WriteValues::UNKNOWN }, &mut found);
        found.tags.iter().map(|tag| tag.as_str().split(" sha256:").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (cookie, token) = (("cookie", "a=1; sid=x"), ("authorization", "Bearer x"));
    assert_eq!(tags_of("me:{identity}", &[cookie]), ["caller me"]);
    assert_eq!(tags_of("me:{identity}", &[token, ("cookie", "sidx=1")]), [""; 0]);
    assert_eq!(tags_of("account:{identity}", &[cookie, token]), ["caller account:orders"]);
    assert_eq!(tags_of("*:{identity}", &[cookie, token]), ["caller me", "caller account:orders"]);
    // An unknown caller may be any caller.
    let mut found = ReferencedTags::default();
    parsed("*:{identity}").tags(&|_| None, WriteValues::UNKNOWN, &mut found);
    assert_eq!(found.tags, ["me", "account:orders"].map(Tag::family));
}

#[test]
fn a_faulty_family_causes_no_further_faults() {
    assert!(Reference::parse("broken:a:b:c", &names(), Some(&[])).is_ok());
    assert!(Reference::parse("user_details:{any}", &names(), None).is_ok());
}

#[test]
fn operators_name_families_and_instances() {
    let resolved = |text: &str| {
        let mut found = ReferencedTags::default();
        Reference::resolve(text, &names()).map(|reference| {
            reference.tags(&|_| None, WriteValues::UNKNOWN, &mut found);
            found.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ")
        })
    };
    let rows = [
        ("user_details:42", "user_details:42"),
        ("user_details:a:b", "user_details:a%3Ab"),
        ("user_details:{x}", "user_details:%7Bx%7D"),
        ("room:1:2:3", "room:1:2%3A3"),
        ("room:*:2", "room:*:2"),
        ("booking:*", "booking"),
        ("user_stats*", "user_stats user_stats_daily"),
        ("*", "*"),
    ];
    for (text, expected) in rows {
        assert_eq!(resolved(text).as_deref(), Ok(expected), "{text}");
    }
    let fault = resolved("user_detials").unwrap_err();
    assert_eq!(fault.nearest, ["user_details"]);
    assert_eq!(fault.to_string(), "unknown family \"user_detials\": did you mean \"user_details\"?");
    assert!(resolved("user_list:42").is_err());
    assert!(resolved("nothing").unwrap_err().to_string().contains("families here: booking"));
}

#[test]
fn values_are_in_lower_case_where_paths_are() {
    let mut names = FamilyNames::new(PathCase::Insensitive);
    for (name, path) in [("user", r"/(?<id>[^/]+)"), ("grade", r"/(?<id>[A-F]|É)")] {
        let pattern = Pattern::compile(path, PathCase::Insensitive).unwrap();
        names.add(name, Some(pattern.values_of_captures()), &[], &Identity::Unstated);
    }
    let long = "JOE".repeat(100);
    let rows = [
        ("user:JOE", "/Joe"),
        ("user:%4AOE", "/joe"),
        ("user:ÉCOLE", "/école"),
        ("user:%C3%89cole", "/ÉCOLE"),
        ("user:A%3AB", "/a:b"),
        ("user:100%", "/100%"),
        ("user:A%2541", "/a%2541"),
        (&format!("user:{long}"), &format!("/{long}")),
        ("grade:B", "/b"),
        ("grade:É", "/É"),
    ];
    for (text, path) in rows {
        let path = PathCase::Insensitive.fold(crate::http::target::normalise(path)).into_owned();
        let family = text.split(':').next().unwrap();
        let expected = instance::tag(family, &[Some(&instance::value(&path[1..]))]);
        let parsed = Reference::parse(text, &names, Some(&[])).unwrap();
        for reference in [parsed, Reference::resolve(text, &names).unwrap()] {
            let mut found = ReferencedTags::default();
            reference.tags(&|_| None, WriteValues::UNKNOWN, &mut found);
            assert_eq!(found.tags, std::slice::from_ref(&expected), "{text}");
        }
    }
    assert!(Reference::resolve("grade:G", &names).unwrap_err().to_string().contains("\"G\" is no {id}"));
}

#[test]
fn purges_of_impossible_instances_are_rejected() {
    let resolved = |text: &str| Reference::resolve(text, &names()).map_err(|fault| fault.to_string());
    let rows = [
        ("order:abc", "\"abc\" is no {id}"),
        ("order:7:z", "\"z\" is no {at}"),
        ("order:7:f:lines", "did you mean \"order:lines:f\"?"),
        ("user_details:7:*", "name \"user_details:7\": an instance has nothing below it"),
    ];
    for (text, expected) in rows {
        let message = resolved(text).unwrap_err();
        assert!(message.contains(expected), "{text}: {message}");
    }
    for text in ["order:7", "order:7:f", "order:*:f", "order:%37", "user_details:b ö%2Fb", "user_details:a:b"] {
        assert_eq!(resolved(text).err(), None, "{text}");
    }
}

#[test]
fn a_reference_reaches_families_below_it_and_its_own_instances() {
    let levels = [Tag::family("room"), Tag::family("room:plan")];
    let reaches =
        |text: &str, levels: &[Tag]| Reference::parse(text, &names(), Some(&["id"])).unwrap().reaches(levels);
    assert!(reaches("room", &levels) && reaches("*", &levels) && reaches("room:plan:{id}", &levels));
    assert!(!reaches("room:{id}:{id}", &levels));
    assert!(reaches("room:{id}:{id}", &levels[..1]));
    assert!(!reaches("room:plan", &levels[..1]));
    let reaches_7 = |text: &str| {
        let reference = Reference::parse(text, &names(), Some(&["id"])).unwrap();
        reference.reaches_instance(&levels[..1], &["7".to_owned(), "a%40b".to_owned()])
    };
    for text in ["room", "*", "room:7", "room:{id}", "room:7:{id}", "room:*:a@b", "room:7:a%40b"] {
        assert!(reaches_7(text), "{text}");
    }
    for text in ["room:8", "room:7:b", "room:8:{id}", "room:*:b", "room:plan"] {
        assert!(!reaches_7(text), "{text}");
    }
}

proptest! {
    #[test]
    fn any_reference_is_accepted_or_rejected(text in r"[a-d_:*{}]{0,12}|(room|user_details|booking)[:*{}id]{0,8}") {
        let _ = Reference::parse(&text, &names(), Some(&["id"]));
        let _ = Reference::resolve(&text, &names());
    }

    #[test]
    fn a_glob_matches_the_name_it_was_made_from(parts in proptest::collection::vec("[a-c]{0,3}", 1..4), filler in "[a-c]{0,3}") {
        prop_assert!(fits(&parts.join("*"), &parts.join(&filler)) || parts.len() == 1);
        prop_assert!(fits(&parts.join("*"), &parts.join("")));
    }
}

/// Families with further instances, beside those of [`names`].
fn names_with_sources() -> FamilyNames {
    let mut names = names();
    let further = |name: &str, source: &str| FurtherInstance {
        name: name.to_owned(),
        source: ReadSource::parse(source).unwrap(),
    };
    let captures = |path: &str| Some(Pattern::compile(path, PathCase::Sensitive).unwrap().values_of_captures());
    names.add("availability", captures("/a"), &[further("date", "query:date")], &Identity::Unstated);
    let all = [further("date", "query:d"), further("caller", "identity")];
    names.add("mine", captures("/m/(?<id>[^/]+)"), &all, &by_cookie());
    names.add("day", captures("/d/(?<date>[^/]+)"), &[], &Identity::Unstated);
    names
}

fn by_cookie() -> Identity {
    Identity::By(vec![CallerSource::Cookie("sid".into())])
}

#[test]
fn references_take_values_from_all_of_a_write() {
    let names = names_with_sources();
    let fields = crate::http::sample::fields(&[("x-date", "a b"), ("cookie", "sid=x")]);
    let json = crate::http::sample::fields(&[("content-type", "application/json")]);
    let places = ["date", "id", "in", "in.date"].map(|place| place.split('.').map(str::to_owned).collect());
    let content = RuleContent::read(&json, br#"{"date": "c", "id": [7, "8"], "in": {"date": 9}}"#, &places);
    let response = RuleContent::read(&json, br#"{"date": "r"}"#, &places);
    let write = WriteValues {
        caller: CallerIdentity::Known {
            presented: PresentedCredentials::without_token(&fields),
            secret: None,
            credentials: &Credentials::default(),
        },
        query: Some("date=q&on=o&on=p"),
        content: &content,
        response: &response,
    };
    let found = |reference: &str| {
        let parsed = Reference::parse(reference, &names, Some(&["id", "date"])).unwrap();
        let value_of = |name: &str| [("id", "1"), ("date", "p")].into_iter().find(|(n, _)| *n == name);
        let mut found = ReferencedTags::default();
        parsed.tags(&|name| value_of(name).map(|(_, value)| value), write, &mut found);
        let presented = PresentedCredentials::without_token(&fields);
        let Callers::Known(callers) = key::callers(&by_cookie(), presented, None) else { panic!() };
        let caller = instance::decoded_value(callers[0].as_bytes());
        let text = found.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ").replace(&caller, "CALLER");
        (text, found.unresolved.into_iter().map(|(_, why)| why).collect::<Vec<_>>())
    };
    let rows = [
        ("availability:{query.date}", "availability:q"),
        ("availability:{date}", "availability:p"),
        ("availability:{date=query.on}", "availability:o availability:p"),
        ("availability:{date=header.x-date}", "availability:a%20b"),
        ("availability:{body.date}", "availability:c"),
        ("availability:{body.in.date}", "availability:9"),
        ("availability:{response.date}", "availability:r"),
        ("availability:2025-01-01", "availability:2025-01-01"),
        ("user_details:{body.id}", "user_details:7 user_details:8"),
        ("user_details:{id=query.date}", "user_details:q"),
        ("room:{id}:{room=query.date}", "room:1:q"),
        ("room:{floor=body.id}:{room=query.on}", "room:7:o room:7:p room:8:o room:8:p"),
        ("mine:{query.date}", "mine:*:q"),
        ("mine:{identity}:{date}", "mine:*:p:CALLER"),
        ("mine:{date}:{id}", "mine:1:p"),
        ("mine:{caller=identity}", "mine:*:*:CALLER"),
        ("*:{date}", "availability:p day:p mine:*:p"),
        ("m*:{id}:{query.date}", "mine:1:q"),
        ("*:{query.date}", "availability:q day:q mine:*:q"),
    ];
    for (reference, expected) in rows {
        assert_eq!(found(reference), (expected.to_owned(), Vec::new()), "{reference}");
    }
    // All of the family where there is no value.
    let rows = [
        ("availability:{date=query.no}", Unresolved::Missing),
        ("availability:{date=body.in}", Unresolved::WrongType),
        ("availability:{date=header.no}", Unresolved::Missing),
    ];
    for (reference, why) in rows {
        assert_eq!(found(reference), ("availability".to_owned(), vec![why]), "{reference}");
    }
}

#[test]
fn faults_of_sources_have_a_message_and_a_remedy() {
    let names = names_with_sources();
    let rows = [
        ("user_details:{body.user}", "\"user_details\" has no instance \"user\"", "write {id=body.user}"),
        ("room:{body.rom}", "has no instance \"rom\"", "write {room=body.rom}"),
        ("room:{body.zzzz}", "has no instance", "one of floor, room"),
        ("room:{floor=id}:{floor=query.x}", "two values for \"floor\"", "one part for each instance"),
        ("room:{id}:{query.floor}", "two values for \"floor\"", "one part for each instance"),
        ("mine:{id}:{body.caller}", "is the caller", "{caller=identity}"),
        ("mine:{id=identity}", "does not come from its identity", "\"mine:{identity}\""),
        ("user_details:{bod.id}", "{bod.id} names no value of a write", "did you mean {body.id}?"),
        ("user_details:{zzzzzzz.id}", "names no value", "query, header, body, response"),
        ("user_details:{body..id}", "names no value", "without an empty name"),
        ("*:{query.dat}", "no family that fits \"*\" has an instance dat", "or \"date\"?"),
        ("*:{body.zzzzzz}", "has an instance zzzzzz", "instances here: at, caller"),
        ("*:{date}:x", "does not say of which instance", "{name=…}"),
    ];
    for (reference, what, remedy) in rows {
        match Reference::parse(reference, &names, Some(&["id", "date"])) {
            Err(
                ReferenceFault::Instance { message, remedy: found }
                | ReferenceFault::Value { message, remedy: found }
                | ReferenceFault::Capture { message, remedy: found },
            ) => {
                assert!(message.contains(what) && found.contains(remedy), "{reference}: {message}: {found}");
            }
            found => panic!("{reference}: {found:?}"),
        }
    }
}

#[test]
fn operators_name_an_instance_of_all_families_that_have_it() {
    let names = names_with_sources();
    let found = |name: &str, value: &str| {
        Reference::everywhere(name, value, &names, None)
            .map(|found| found.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" "))
    };
    let expected = "availability:a%3Ab%25 day:a%3Ab%25 mine:*:a%3Ab%25";
    assert_eq!(found("date", "a:b%").as_deref(), Ok(expected));
    assert_eq!(found("dat", "x").unwrap_err(), ["at", "date"]);
    // The digest of a cookie is no value that anybody knows.
    let caller = Reference::everywhere("caller", "x", &names, None).unwrap();
    assert_eq!((caller.tags.len(), caller.left_out[0].family.as_str()), (0, "mine"));
    assert!(caller.left_out[0].why.contains("cookie:sid"), "{caller:?}");
}

/// Families whose instance `user_id` is a capture, a claim of the caller's token, or the digest of a cookie.
fn names_with_claims(case: PathCase) -> FamilyNames {
    let mut names = FamilyNames::new(case);
    let path = Pattern::compile("/u/(?<user_id>[^/]+)", case).unwrap().values_of_captures();
    let caller = [FurtherInstance { name: "user_id".to_owned(), source: ReadSource::Identity }];
    let claims = |text: &str| Identity::By(vec![CallerSource::Claims(ClaimNames::read(text).unwrap())]);
    names.add("user", Some(path), &[], &Identity::Unstated);
    names.add("terms", Some(Vec::new()), &caller, &claims("sub"));
    names.add("both", Some(Vec::new()), &caller, &claims("tenant,sub"));
    names.add("basket", Some(Vec::new()), &caller, &by_cookie());
    names
}

/// A token with this `sub`, as a request presents it.
fn bearer(sub: serde_json::Value) -> BearerToken {
    let claims = [("sub".to_owned(), sub)].into_iter().collect();
    BearerToken::Verified(Arc::new(VerifiedToken { claims, begins: None, ends: None }))
}

#[test]
fn a_plain_value_names_the_caller_whose_only_claim_it_is() {
    let names = names_with_claims(PathCase::Sensitive);
    let fields = http::HeaderMap::new();
    let secret = Secret::new("0123456789abcdef0123456789abcdef", "lexikon");
    for secret in [None, Some(&secret)] {
        for (sub, value) in [(json!("123"), "123"), (json!(123), "123"), (json!("a b:é\""), "a%20b%3A%C3%A9%22")]
        {
            let bearer = bearer(sub);
            let presented = PresentedCredentials { fields: &fields, bearer: &bearer };
            let identity = names.identity("terms").unwrap();
            let Callers::Known(callers) = key::callers(identity, presented, secret) else { panic!() };
            let tag = instance::tag("terms", &[Some(&instance::decoded_value(callers[0].as_bytes()))]);
            let caller = CallerIdentity::Known {
                presented: PresentedCredentials::without_token(&fields),
                secret,
                credentials: &Credentials::default(),
            };
            let write = WriteValues { caller, ..WriteValues::UNKNOWN };
            let tags_of = |reference: &Reference| {
                let mut found = ReferencedTags::default();
                reference.tags(&|_| Some(value), write, &mut found);
                found.tags
            };
            for text in ["terms:{user_id}", "terms:{user_id=id}", &format!("terms:{value}"), "*:{user_id}"] {
                let parsed = Reference::parse(text, &names, Some(&["user_id", "id"])).unwrap();
                assert!(tags_of(&parsed).contains(&tag), "{text} {value}");
                let left_out: Vec<&str> = parsed.left_out().iter().map(|it| it.family.as_str()).collect();
                assert_eq!(left_out, if text.starts_with('*') { vec!["basket", "both"] } else { Vec::new() });
            }
            let resolved = Reference::resolve(&format!("terms:{value}"), &names).unwrap();
            assert!(tags_of(&resolved).contains(&tag), "{value}");
            let plain = String::from_utf8(percent_decoded(value)).unwrap();
            let everywhere = Reference::everywhere("user", &plain, &names, secret).unwrap();
            assert!(everywhere.tags.contains(&tag), "{value}");
            assert_eq!(everywhere.families, ["terms", "user"]);
            assert_eq!(everywhere.left_out.len(), 2);
        }
    }
}

#[test]
fn a_value_that_cannot_name_a_caller_is_no_silent_no_op() {
    let names = names_with_claims(PathCase::Sensitive);
    for family in ["both", "basket"] {
        let fault = Reference::resolve(&format!("{family}:7"), &names).unwrap_err();
        let (message, remedy) = fault.instance.unwrap();
        assert!(message.contains("only a single claim") && remedy.contains(family), "{message}: {remedy}");
        assert!(Reference::parse(&format!("{family}:{{user_id}}"), &names, Some(&["user_id"])).is_err());
    }
    // Whose digest it is cannot be known from the hash of a long value.
    let parsed = Reference::parse("terms:{user_id}", &names, Some(&["user_id"])).unwrap();
    let (fields, long) = (http::HeaderMap::new(), "x".repeat(200));
    let presented = PresentedCredentials::without_token(&fields);
    let caller = CallerIdentity::Known { presented, secret: None, credentials: &Credentials::default() };
    let mut found = ReferencedTags::default();
    parsed.tags(&|_| Some(&long), WriteValues { caller, ..WriteValues::UNKNOWN }, &mut found);
    assert_eq!(found.tags, [Tag::family("terms")]);
    assert_eq!(found.unresolved[0].1, Unresolved::TooLong);
    // Paths are folded, claims are not.
    let folding = names_with_claims(PathCase::Insensitive);
    assert!(Reference::parse("terms:{user_id}", &folding, Some(&["user_id"])).is_err());
}

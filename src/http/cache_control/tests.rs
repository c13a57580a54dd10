use super::*;
use http::HeaderValue;
use proptest::prelude::*;

fn lines(name: &HeaderName, lines: &[&str]) -> HeaderMap {
    lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
}

fn response(values: &[&str]) -> ResponseDirectives {
    ResponseDirectives::parse(&lines(&CACHE_CONTROL, values))
}

fn request(values: &[&str]) -> RequestDirectives {
    RequestDirectives::parse(&lines(&CACHE_CONTROL, values))
}

fn fields(names: &[&str]) -> Scope {
    Scope::Fields(names.iter().map(|name| HeaderName::try_from(*name).unwrap()).collect())
}

#[test]
fn every_response_directive_is_read() {
    let all = "no-store, no-cache, private, public, must-revalidate, proxy-revalidate, must-understand, \
                   no-transform, immutable, max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4";
    let expected = ResponseDirectives {
        no_store: true,
        no_cache: Scope::Whole,
        private: Scope::Whole,
        public: true,
        must_revalidate: true,
        proxy_revalidate: true,
        must_understand: true,
        max_age: Some(1),
        s_maxage: Some(2),
        stale_while_revalidate: Some(3),
        stale_if_error: Some(4),
    };
    assert_eq!(response(&[all]), expected);
    assert_eq!(response(&[&all.to_uppercase()]), expected);
    assert_eq!(response(&all.split(", ").collect::<Vec<_>>()), expected);
}

#[test]
fn lists_tolerate_spaces_and_empty_members() {
    let expected = ResponseDirectives { public: true, max_age: Some(5), ..Default::default() };
    for line in
        ["public,max-age=5", " ,, public ,\t,max-age=5,", "max-age=5 , public", "x=\"a,b\", max-age=5, public"]
    {
        assert_eq!(response(&[line]), expected, "{line}");
    }
}

#[test]
fn numbers_are_read_strictly_and_the_invalid_ones_are_stale() {
    let rows = [
        ("max-age=3600", 3600),
        ("max-age=\"3600\"", 3600),
        ("max-age=\"3\\600\"", 3600),
        ("max-age=0003600", 3600),
        ("max-age=2147483648", MAX_SECONDS),
        ("max-age=2147483649", MAX_SECONDS),
        ("max-age=99999999999999999999999999999999999999", MAX_SECONDS),
        ("max-age", 0),
        ("max-age=", 0),
        ("max-age=\"\"", 0),
        ("max-age=-1", 0),
        ("max-age=1.5", 0),
        ("max-age=+1", 0),
        ("max-age=1e3", 0),
        ("max-age=100a", 0),
        ("max-age='100'", 0),
        ("max-age =100", 0),
        ("max-age= 100", 0),
        ("max-age=100; public", 0),
        ("max-age=\"100\"0", 0),
    ];
    for (line, expected) in rows {
        assert_eq!(response(&[line]).max_age, Some(expected), "{line}");
    }
    assert_eq!(response(&["xmax-age=5, max-agex=5, foo=max-age"]).max_age, None);
    assert_eq!(response(&["s-maxage=x"]).s_maxage, Some(0));
}

#[test]
fn invalid_grants_of_staleness_are_absent() {
    let directives = response(&["stale-while-revalidate=x, stale-if-error, stale-if-error=-1"]);
    assert_eq!((directives.stale_while_revalidate, directives.stale_if_error), (None, None));
}

#[test]
fn of_duplicates_the_stricter_wins() {
    assert_eq!(response(&["max-age=60", "max-age=5, max-age=90"]).max_age, Some(5));
    assert_eq!(response(&["max-age=60, max-age=x"]).max_age, Some(0));
    assert_eq!(response(&["stale-if-error=9, stale-if-error=3, stale-if-error=x"]).stale_if_error, Some(3));
    assert_eq!(response(&["private=\"a\"", "private"]).private, Scope::Whole);
    assert_eq!(response(&["private, private=\"a\""]).private, Scope::Whole);
    assert_eq!(response(&["no-cache=\"a\", no-cache=\"b\""]).no_cache, fields(&["a", "b"]));
}

#[test]
fn scopes_are_fields_in_lower_case_or_the_whole_response() {
    let rows = [
        ("no-cache=\"Set-Cookie, X-A\"", fields(&["set-cookie", "x-a"])),
        ("no-cache=Set-Cookie", fields(&["set-cookie"])),
        ("no-cache=\" , x-a, \"", fields(&["x-a"])),
        ("no-cache=\"\"", Scope::Whole),
        ("no-cache=\"a b\"", Scope::Whole),
        ("no-cache=\"x-a, Vary\"", Scope::Whole),
        ("no-cache=content-type", Scope::Whole),
        ("no-cache=", Scope::Whole),
        ("no-cache; x", Scope::Whole),
        ("no-cach", Scope::Absent),
    ];
    for (line, expected) in rows {
        assert_eq!(response(&[line]).no_cache, expected, "{line}");
    }
}

#[test]
fn malformed_directives_restrict_and_never_permit() {
    assert_eq!(response(&["private; max-age=60"]).private, Scope::Whole);
    assert!(response(&["no-store=1"]).no_store);
    let permits = response(&["public=x, must-understand=x, immutable=x"]);
    assert_eq!(permits, ResponseDirectives::default());
}

/// Whether a response with this field may be served to everyone without validation.
fn is_for_everyone(directives: &ResponseDirectives) -> bool {
    !directives.no_store && !directives.private.is_whole() && !directives.no_cache.is_whole()
}

#[test]
fn a_forbidding_word_applies_at_any_position() {
    for word in ["no-store", "private", "no-cache", "No-Store", "PRIVATE"] {
        let places = [
            "public; ?",
            "public;?",
            "must-revalidate; ?",
            "public max-age=60 ?",
            "public\t?",
            "max-age=0; ?",
            "max-age=60 ?",
            "?; max-age=60",
            "? max-age=60",
            "public; ? ; max-age=60",
            "public;;;?",
            "public | ?",
            "public|?",
            "public&?",
            "public+?",
            "public/?",
            "public: ?",
            "'?'",
            "(?)",
            "[?]",
            "<?>",
            "\\?",
            "\"?",
            "public, \"? ",
            "x=\"a\" ?",
            "x=\"a\"?",
            "x=\"a\"; ?, max-age=60",
            "x=\"a\\\"; ?",
            "x=?",
            "x = ?",
            "=?",
            "?=",
            "?=\"",
            "? =1",
            "{\"cache\": ?}",
            "max-age=60, public; stale-if-error=5; ?",
            "must-understand; ?",
            "must-understand, x=?",
        ];
        for place in places {
            let line = place.replace('?', word);
            assert!(!is_for_everyone(&response(&[&line])), "{line}");
            assert!(!is_for_everyone(&response(&["public", &line, "max-age=60"])), "{line}");
            assert!(!response(&[&line]).must_understand, "{line}");
        }
    }
}

#[test]
fn a_word_in_a_quoted_string_is_no_directive() {
    let rows = [
        r#"ext="no-store", max-age=5"#,
        r#"ext="public; no-store private", max-age=5"#,
        r#"ext="a\"; no-store", max-age=5"#,
        r#"a="no-cache" , b="private",max-age=5"#,
        "x-no-store, no-stores, no_store, nostore, not-private, max-age=5",
    ];
    for line in rows {
        let expected = ResponseDirectives { max_age: Some(5), ..Default::default() };
        assert_eq!(response(&[line]), expected, "{line}");
    }
    assert_eq!(response(&[r#"private="x-user""#]).private, fields(&["x-user"]));
    assert_eq!(response(&[r#"no-cache="set-cookie""#]).no_cache, fields(&["set-cookie"]));
    for line in ["private='x-user'", "private=\"'x-user'\""] {
        assert_eq!(response(&[line]).private, Scope::Whole, "{line}");
    }
}

#[test]
fn an_unreadable_field_forbids_storing() {
    let rows = [
        "public; max-age=60",
        "public;",
        "public max-age=60",
        "stale-if-error=60; max-age=5",
        "\"public, max-age=60\"",
        "=5, max-age=60",
        "{}",
        "public: 60",
        "x=\"a\"b, max-age=60",
        "x=a b, max-age=60",
        "must-understand, no-store=1",
    ];
    for line in rows {
        let directives = response(&[line]);
        assert!(directives.no_store && !directives.must_understand, "{line}");
    }
    let misplaced = response(&["max-age=60; must-revalidate proxy-revalidate"]);
    assert!(misplaced.must_revalidate && misplaced.proxy_revalidate);
}

#[test]
fn request_words_apply_at_any_position() {
    for line in
        ["max-age=0; no-store", "max-age=0 No-Store", "x=no-store", "\"no-store", "no-store;", "a|no-store"]
    {
        assert!(request(&[line]).no_store && request(&["x", line]).no_store, "{line}");
    }
    assert!(request(&["max-age=0; no-cache"]).no_cache);
    for line in ["x=\"no-store\"", "no-stores", "x-no-store", "max-age=0; x"] {
        assert!(!request(&[line]).no_store, "{line}");
    }
    assert!(RequestDirectives::parse(&lines(&PRAGMA, &["x; no-cache"])).no_cache);
}

#[test]
fn commas_and_quotes_inside_quotes_belong_to_the_argument() {
    let directives = response(&[r#"x="no-store, \", private, ", max-age=1"#]);
    assert_eq!(directives, ResponseDirectives { max_age: Some(1), ..Default::default() });
}

#[test]
fn a_quote_without_end_forbids_storing() {
    for line in ["x=\"a, max-age=60", "max-age=60, x=\"a\\\"", "must-understand, x=\""] {
        let directives = response(&[line]);
        assert!(directives.no_store && !directives.must_understand, "{line}");
    }
    let expected = RequestDirectives { no_store: true, min_fresh: Some(5), ..Default::default() };
    assert_eq!(request(&["x=\"", "max-stale, stale-if-error=5, min-fresh=5"]), expected);
}

#[test]
fn every_request_directive_is_read() {
    let all = "no-store, No-Cache, only-if-cached, no-transform, max-age=1, max-stale=2, min-fresh=3, \
                   stale-if-error=4";
    let expected = RequestDirectives {
        no_store: true,
        no_cache: true,
        only_if_cached: true,
        max_age: Some(1),
        max_stale: Some(Some(2)),
        min_fresh: Some(3),
        stale_if_error: Some(4),
    };
    assert_eq!(request(&[all]), expected);
}

#[test]
fn max_stale_is_any_some_or_none() {
    let rows = [
        ("max-stale", Some(None)),
        ("max-stale=5", Some(Some(5))),
        ("max-stale=x", None),
        ("max-stale, max-stale=5", Some(Some(5))),
        ("max-stale=5, max-stale", Some(Some(5))),
        ("max-stale=5, max-stale=3", Some(Some(3))),
    ];
    for (line, expected) in rows {
        assert_eq!(request(&[line]).max_stale, expected, "{line}");
    }
    assert_eq!(request(&["min-fresh=1, min-fresh=9, min-fresh=x"]).min_fresh, Some(9));
    assert_eq!(request(&["max-age=x"]).max_age, Some(0));
}

#[test]
fn pragma_counts_only_without_cache_control() {
    let mut headers = lines(&PRAGMA, &["x, No-Cache"]);
    assert!(RequestDirectives::parse(&headers).no_cache);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
    assert!(!RequestDirectives::parse(&headers).no_cache);
    assert!(!RequestDirectives::parse(&HeaderMap::new()).no_cache);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(values in proptest::collection::vec(
        proptest::collection::vec(proptest::sample::select(&b"\t \"\\,,==;-abmxge09\x80\xff"[..]), 0..30), 0..4,
    )) {
        let values = values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok());
        let headers: HeaderMap = values.map(|value| (CACHE_CONTROL, value)).collect();
        let _ = ResponseDirectives::parse(&headers);
        let _ = RequestDirectives::parse(&headers);
    }

    #[test]
    fn a_forbidding_word_outside_quotes_is_never_lost(
        before in "((public|max-age=60|x=\"a, b\"|[a-z]{1,3})?[ \t,;:/|&+'()<>{}\\[\\]=?@\\\\!.é]{1,3}){0,4}",
        word in "no-store|private|no-cache|No-Store|PRIVATE",
        after in "([ \t,;:/|&+'()<>{}\\[\\]=?@\\\\\"!.é]{1,3}(public|max-age=60|x=\"a\"|[a-z]{1,3})?){0,4}",
    ) {
        let line = format!("{before}{word}{after}");
        let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) else { return Ok(()) };
        let directives = ResponseDirectives::parse(&[(CACHE_CONTROL, value)].into_iter().collect());
        // With field names, `no-cache="x"` and `private="x"` concern only these.
        let names_fields = !directives.no_cache.fields().is_empty() || !directives.private.fields().is_empty();
        prop_assert!(!is_for_everyone(&directives) || names_fields && !word.eq_ignore_ascii_case("no-store"), "{line}");
    }

    #[test]
    fn a_second_line_never_loosens_the_first(
        first in "(max-age=[0-9]{1,3}|no-store|private|no-cache|, |x=\"a,b\"){0,4}",
        second in "(max-age=[0-9a]{0,3}|no-store|private=\"a\"|no-cache|, |\"){0,4}",
    ) {
        let one = response(&[&first]);
        let both = response(&[&first, &second]);
        prop_assert!(both.no_store >= one.no_store);
        prop_assert!(both.private != Scope::Absent || one.private == Scope::Absent);
        prop_assert!(both.no_cache != Scope::Absent || one.no_cache == Scope::Absent);
        if let Some(age) = one.max_age {
            prop_assert!(both.max_age.is_some_and(|both| both <= age));
        }
    }
}

#[test]
fn a_value_that_an_operator_writes_must_consist_of_known_directives() {
    let wrong = |value| written(value).unwrap_err();
    assert_eq!(wrong(""), WrongDirective::Syntax);
    assert_eq!(wrong("max-age=60, x=\"open"), WrongDirective::Syntax);
    assert_eq!(wrong("=1"), WrongDirective::Syntax);
    assert_eq!(wrong("maxage=60"), WrongDirective::Unknown("maxage".to_owned()));
    for value in ["max-age", "max-age=1m", "max-age=-1", "max-age 60"] {
        assert_eq!(wrong(value), WrongDirective::Argument("max-age".to_owned()), "{value}");
    }
    assert_eq!(wrong("public=1"), WrongDirective::Argument("public".to_owned()));
    assert_eq!(wrong("private=\"x\""), WrongDirective::Argument("private".to_owned()));
    assert_eq!(wrong("max-age=1, Max-Age=2"), WrongDirective::Twice("max-age".to_owned()));
    let rows = [
        ("max-age=60, stale-while-revalidate=30", 60),
        ("Public, s-maxage=90, max-age=5", 90),
        ("no-cache, max-age=5", 0),
        ("no-store", 0),
        ("private, immutable", 0),
    ];
    for (value, seconds) in rows {
        assert_eq!(written(value).unwrap().unasked_for(), seconds, "{value}");
    }
}

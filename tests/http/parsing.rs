//! Fields as they are written, not as one would hope: RFC 9111 §4.2, §5.1, §5.2 and §5.3, RFC 9110 §5.6.

use crate::support::Verdict::{Fetched, Fresh, Validated};
use crate::support::{Reply, Site, Tier, Verdict};
use std::time::{Duration, SystemTime};

/// Without freshness but with a validator: stored, and validated on the next request.
const TAG: &str = "ETag: \"1\"";

/// RFC 9111 §1.2.2: replaces every greater number.
const GREATEST: i64 = 1 << 31;

fn tagged<S: AsRef<str>>(rows: &[(S, Verdict)], prefix: &str) {
    let site = Site::start(Tier::Embedded, "");
    let rows: Vec<_> =
        rows.iter().map(|(fields, verdict)| (format!("{}\n{TAG}", fields.as_ref()), *verdict)).collect();
    site.judges_fields(prefix, &rows);
}

#[test]
fn directives_are_parsed_in_every_spelling() {
    let rows = [
        ("Cache-Control: max-age=600", Fresh(600)),
        ("Cache-Control: MAX-AGE=600", Fresh(600)),
        ("CACHE-CONTROL: Max-Age=600", Fresh(600)),
        ("Cache-Control:max-age=600", Fresh(600)),
        ("Cache-Control: \t max-age=600 \t ", Fresh(600)),
        ("Cache-Control: public,max-age=600", Fresh(600)),
        ("Cache-Control: public \t,\t max-age=600", Fresh(600)),
        ("Cache-Control: , ,public,, max-age=600,", Fresh(600)),
        ("Cache-Control: public\nCache-Control: max-age=600", Fresh(600)),
        ("Cache-Control:\nCache-Control: max-age=600", Fresh(600)),
        ("Cache-Control: max-age=600\nX-Between: 1\nCache-Control: No-Store", Fetched),
        ("Cache-Control: nO-sToRe, max-age=600", Fetched),
        ("Cache-Control: PRIVATE, max-age=600", Fetched),
        ("Cache-Control: No-Cache, max-age=600", Validated),
        ("Cache-Control: S-MaxAge=600, max-age=6000", Fresh(600)),
    ];
    tagged(&rows, "/spelling");
}

#[test]
fn arguments_are_tokens_or_quoted_strings() {
    let rows = [
        ("Cache-Control: max-age=\"600\"", Fresh(600)),
        ("Cache-Control: s-maxage=\"600\", max-age=\"6000\"", Fresh(600)),
        ("Cache-Control: max-age=\"6\\00\"", Fresh(600)),
        ("Cache-Control: extension=\"a, no-store\", max-age=600", Fresh(600)),
        ("Cache-Control: extension=\"a\\\", no-store\", max-age=600", Fresh(600)),
        ("Cache-Control: extension=\"max-age=1\", max-age=600", Fresh(600)),
        ("Cache-Control: extension=\"\", max-age=600", Fresh(600)),
        // A quote that is never closed hides what follows it, which may be anything.
        ("Cache-Control: max-age=600, extension=\"no-store", Fetched),
        ("Cache-Control: max-age=\"600", Fetched),
    ];
    tagged(&rows, "/arguments");
}

#[test]
fn unknown_directives_are_ignored_with_their_arguments() {
    let rows = [
        ("Cache-Control: max-age=600, community=\"UCI\"", Fresh(600)),
        ("Cache-Control: x=1, y, z=\"1, 2\", max-age=600", Fresh(600)),
        ("Cache-Control: no-stores, x-no-store, max-age=600", Fresh(600)),
        ("Cache-Control: no_store, nostore, max-age=600", Fresh(600)),
        ("Cache-Control: pre-check=0, post-check=0, max-age=600", Fresh(600)),
        ("Cache-Control: private, max-age=600, community=\"UCI\"", Fetched),
        ("Cache-Control: x-max-age=600", Fetched),
        ("Cache-Control: max-age-x=600", Fetched),
        ("Pragma: no-cache\nCache-Control: max-age=600", Fresh(600)),
    ];
    tagged(&rows, "/unknown");
}

#[test]
fn an_invalid_number_makes_a_response_stale() {
    let values = [
        "x",
        "-1",
        "-600",
        "+600",
        "1.5",
        "600.0",
        "0x258",
        "6e2",
        "",
        "\"\"",
        "'600'",
        " 600",
        "\" 600\"",
        "600 600",
        "600; public",
        "\"600\"x",
        "600s",
        "\u{664}",
    ];
    let arguments = values.map(|value| format!("={value}"));
    let arguments = arguments.iter().map(String::as_str).chain([""]);
    let rows: Vec<_> = arguments
        .flat_map(|argument| [format!("max-age{argument}"), format!("s-maxage{argument}, max-age=600")])
        .map(|directives| (format!("Cache-Control: {directives}"), Validated))
        .collect();
    tagged(&rows, "/numbers");
}

#[test]
fn numbers_that_overflow_count_as_the_greatest() {
    let rows = [
        ("Cache-Control: max-age=2147483648", Fresh(GREATEST)),
        ("Cache-Control: max-age=4294967296", Fresh(GREATEST)),
        ("Cache-Control: max-age=9223372036854775808", Fresh(GREATEST)),
        ("Cache-Control: max-age=18446744073709551616", Fresh(GREATEST)),
        ("Cache-Control: s-maxage=99999999999999999999999999999999999999999", Fresh(GREATEST)),
        ("Cache-Control: max-age=000000000000000000000000600", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: 99999999999999999999999999", Validated),
        ("Cache-Control: max-age=600\nAge: 4294967297", Validated),
    ];
    tagged(&rows, "/great");
}

#[test]
fn of_several_values_the_strictest_applies() {
    let rows = [
        ("Cache-Control: max-age=600, max-age=6000", Fresh(600)),
        ("Cache-Control: max-age=6000, max-age=600", Fresh(600)),
        ("Cache-Control: max-age=6000\nCache-Control: max-age=600", Fresh(600)),
        ("Cache-Control: s-maxage=6000, s-maxage=600", Fresh(600)),
        ("Cache-Control: max-age=600, max-age=x", Validated),
        ("Cache-Control: max-age=600, max-age=0", Validated),
        ("Cache-Control: max-age=600, max-age=600", Fresh(600)),
        ("Cache-Control: max-age=600, no-cache", Validated),
        ("Cache-Control: public, max-age=600, no-store", Fetched),
        ("Cache-Control: public, private, max-age=600", Fetched),
        ("Cache-Control: no-cache, no-store, max-age=600", Fetched),
    ];
    tagged(&rows, "/several");
}

#[test]
fn a_restriction_applies_even_with_an_invalid_argument() {
    let rows = [
        ("Cache-Control: no-store=x, max-age=600", Fetched),
        ("Cache-Control: no-store=\"set-cookie\", max-age=600", Fetched),
        ("Cache-Control: no-store; max-age=600", Fetched),
        ("Cache-Control: private=, max-age=600", Fetched),
        ("Cache-Control: private=\"\", max-age=600", Fetched),
        ("Cache-Control: private; max-age=600", Fetched),
        ("Cache-Control: no-cache=\"\", max-age=600", Validated),
    ];
    tagged(&rows, "/restricts");
}

/// Ten minutes of `Expires` less `Date`, with a `Date` to come, so that the age is none.
fn expires(date: &str, expires: &str) -> String {
    format!("Date: {date}\nExpires: {expires}\n{TAG}")
}

#[test]
fn dates_are_parsed_in_all_three_formats_and_any_case() {
    let rows = [
        ("Sun, 06 Nov 2033 08:49:37 GMT", "Sun, 06 Nov 2033 08:59:37 GMT"),
        ("Sun, 06 Nov 2033 08:49:37 GMT", "Sunday, 06-Nov-33 08:59:37 GMT"),
        ("Sun, 06 Nov 2033 08:49:37 GMT", "Sun Nov  6 08:59:37 2033"),
        ("Sunday, 06-Nov-33 08:49:37 GMT", "Sun, 06 Nov 2033 08:59:37 GMT"),
        ("Sun Nov  6 08:49:37 2033", "Sun, 06 Nov 2033 08:59:37 GMT"),
        ("Sun, 06 Nov 2033 08:49:37 GMT", "sun, 06 nov 2033 08:59:37 gmt"),
        ("Sun, 06 Nov 2033 08:49:37 GMT", "SUN, 06 NOV 2033 08:59:37 GMT"),
        ("SUNDAY, 06-NOV-33 08:49:37 GMT", "sun nov  6 08:59:37 2033"),
    ];
    let rows: Vec<_> = rows.iter().map(|(date, until)| expires(date, until)).collect();
    let rows: Vec<_> = rows.into_iter().map(|fields| (fields, Fresh(600))).collect();
    Site::start(Tier::Embedded, "").judges_fields("/dates", &rows);
}

#[test]
fn an_invalid_expires_has_expired() {
    let values = [
        "0",
        "-1",
        "",
        "never",
        "600",
        "2033-11-06T08:59:37Z",
        "Sun, 06 Nov 2033 08:59:37",
        "Sun, 06 Nov 2033 08:59:37 PST",
        "Sun, 06 Nov 2033 08:59:37 UTC",
        "Sun, 06 Nov 2033 08:59:37 +0000",
        "Sun, 06 Nov 2033 08:59 GMT",
        "Sun, 31 Nov 2033 08:59:37 GMT",
        "Sun, 06 Nov 2033 25:59:37 GMT",
        "\"Sun, 06 Nov 2033 08:59:37 GMT\"",
        "Sun, 06 Nov 2033 08:59:37 GMT, Sun, 06 Nov 2033 08:59:37 GMT",
    ];
    let rows: Vec<_> = values.iter().map(|value| expires("Sun, 06 Nov 2033 08:49:37 GMT", value)).collect();
    let rows: Vec<_> = rows.into_iter().map(|fields| (fields, Validated)).collect();
    Site::start(Tier::Embedded, "").judges_fields("/no-dates", &rows);
}

#[test]
fn several_expires_that_differ_have_expired() {
    let date = "Date: Sun, 06 Nov 2033 08:49:37 GMT";
    let (ten, hundred) = ("Expires: Sun, 06 Nov 2033 08:59:37 GMT", "Expires: Sun, 06 Nov 2033 10:29:37 GMT");
    let rows = [
        (format!("{date}\n{ten}\n{hundred}\n{TAG}"), Validated),
        (format!("{date}\n{hundred}\n{ten}\n{TAG}"), Validated),
        (format!("{date}\n{ten}\nExpires: 0\n{TAG}"), Validated),
        (format!("{date}\n{ten}\n{ten}\n{TAG}"), Fresh(600)),
    ];
    Site::start(Tier::Embedded, "").judges_fields("/expires", &rows);
}

#[test]
fn of_several_ages_the_first_applies_unless_invalid() {
    let rows = [
        ("Cache-Control: max-age=600\nAge: 300", Fresh(300)),
        ("Cache-Control: max-age=600\nAge:300 ", Fresh(300)),
        ("Cache-Control: max-age=600\nAge: 300, 500", Fresh(300)),
        ("Cache-Control: max-age=600\nAge: 300\nAge: 500", Fresh(300)),
        ("Cache-Control: max-age=600\nAge: 500\nAge: 300", Fresh(100)),
        ("Cache-Control: max-age=600\nAge: 300, x", Fresh(300)),
        ("Cache-Control: max-age=600\nAge: x", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: -300", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: 300.5", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: \"300\"", Fresh(600)),
        ("Cache-Control: max-age=600\nAge:", Fresh(600)),
    ];
    tagged(&rows, "/ages");
}

on_both_tiers! {
    forbidding_words_apply_at_any_position,
}

fn forbidding_words_apply_at_any_position(tier: Tier) {
    let rules = "[[family]]\nname = \"forced\"\npath = '/forced/.*'\nttl = \"10m\"\nttl_policy = \"override\"\n\
                 [[family]]\nname = \"usual\"\npath = '/usual/.*'\nttl = \"10m\"\n";
    let site = Site::start(tier, rules);
    let forbidding = [
        "public; no-store",
        "public;no-store, max-age=600",
        "must-revalidate; private",
        "public max-age=60 no-store",
        "public max-age=60 private",
        "max-age=0; no-store",
        "max-age=600\tno-store",
        "max-age=600;private",
        "max-age=600 ; ; No-Store",
        "max-age=600\nCache-Control: public; PRIVATE",
        "no-store=1",
        "max-age=600, x=no-store",
        "max-age=600|no-store",
        "max-age=600, 'no-store'",
        "max-age=600, (private)",
        "max-age=600, no-store\"",
        "max-age=600, \"no-store",
        "x=\"a\"no-store, max-age=600",
        "x=\"a\" private, max-age=600",
        "x=\"a, no-store, max-age=600",
        "\"no-store\", max-age=600",
        "{\"no-store\": 1}, max-age=600",
        "must-understand; no-store, max-age=600",
        "must-understand, no-store=1, max-age=600",
        "public; max-age=600",
        "public;, max-age=600",
    ];
    let rows: Vec<_> =
        forbidding.iter().map(|directives| (format!("Cache-Control: {directives}\n{TAG}"), Fetched)).collect();
    for prefix in ["/forced", "/usual", "/none"] {
        site.judges_fields(prefix, &rows);
    }
    // Under `override`, `no-cache` gives way; what cannot be read does not.
    let rows = ["public; no-cache", "max-age=600 no-cache", "max-age=600, no-cache\"", "x=no-cache, max-age=600"];
    let rows = rows.map(|directives| (format!("Cache-Control: {directives}\n{TAG}"), Fetched));
    ["/forced/1", "/usual/1", "/none/1"].into_iter().for_each(|prefix| site.judges_fields(prefix, &rows));
    // What a quoted string holds is an argument.
    let rows = [
        ("Cache-Control: ext=\"no-store\", max-age=600", Fresh(600)),
        ("Cache-Control: ext=\"public; private no-store\", max-age=600", Fresh(600)),
        ("Cache-Control: private=\"x-user\", max-age=600", Fresh(600)),
        ("Cache-Control: no-cache=\"set-cookie\", max-age=600", Fresh(600)),
    ];
    site.judges_fields("/quoted", &rows);
}

#[test]
fn bytes_beyond_ascii_are_skipped() {
    let rows: [(&[u8], Verdict); 6] = [
        (b"max-age=600, x=\"\xff, no-store\"", Fresh(600)),
        (b"\xe9t\xe9, max-age=600", Fresh(600)),
        (b"x=\xff, max-age=600", Fresh(600)),
        (b"\xff, no-store, max-age=600", Fetched),
        (b"no-store\xff, max-age=600", Fetched),
        (b"max-age=600\xff", Fetched),
    ];
    let rows = rows.map(|(directives, verdict)| {
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\nCache-Control: ";
        let message = [&head[..], directives, b"\r\n\r\nok"].concat();
        (String::from_utf8_lossy(directives).into_owned(), Reply::raw(message), verdict)
    });
    Site::start(Tier::Embedded, "").judges("/bytes", rows);
}

#[test]
fn an_age_whose_first_member_is_invalid_does_not_count() {
    let rows = [
        ("Cache-Control: max-age=600\nAge: x, 300", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: -1\nAge: 300", Fresh(600)),
    ];
    Site::start(Tier::Embedded, "").judges_fields("/ages", &rows);
}

/// In the second of the three formats, which has two digits for the year.
fn with_two_digits(time: SystemTime) -> String {
    let full = httpdate::fmt_http_date(time);
    let (day, rest) = full.split_once(", ").unwrap();
    let parts: Vec<&str> = rest.split(' ').collect();
    let day = match day {
        "Tue" => "Tuesday".to_owned(),
        "Wed" => "Wednesday".to_owned(),
        "Thu" => "Thursday".to_owned(),
        "Sat" => "Saturday".to_owned(),
        other => format!("{other}day"),
    };
    format!("{day}, {}-{}-{} {} GMT", parts[0], parts[1], &parts[2][2..], parts[3])
}

#[test]
fn a_year_of_two_digits_lies_at_most_fifty_years_ahead() {
    let years = |count: u64| Duration::from_secs(count * 31_557_600);
    let now = SystemTime::now();
    let site = Site::start(Tier::Embedded, "");
    let lifetime = i64::try_from(years(49).as_secs()).unwrap();
    let rows = [
        (format!("Expires: {}\nETag: \"1\"", with_two_digits(now + years(49))), Fresh(lifetime)),
        (format!("Expires: {}\nETag: \"1\"", with_two_digits(now - years(49))), Validated),
    ];
    site.judges_fields("/years", &rows);
}

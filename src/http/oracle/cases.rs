//! Generates exchanges, with values near every threshold of the RFC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::{Contract, Exchange, Lines};

/// Fri, 06 Nov 2026 13:00:00 GMT
const NOW: i128 = 1_793_970_000;

/// An exchange, and a later request that might use its response.
#[derive(Debug, Clone)]
pub struct Case {
    pub exchange: Exchange,
    pub contract: Contract,
    pub request: Lines,
    /// Milliseconds since the response was received.
    pub elapsed: u64,
}

pub fn at(seconds: i128) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
}

/// Mostly numbers near thresholds.
fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => (0u32..50).prop_map(|seconds| format!("={seconds}")),
        2 => (0u32..40).prop_map(|seconds| format!("=\"{seconds}\"")),
        1 => prop::sample::select(vec![
            "", "=", "=x", "=-1", "=1.5", "=\"\"", "=99999999999", "=\"9", "= 9", "=9;x", "='9'", "=\"\\9\"",
        ]).prop_map(str::to_owned),
    ]
}

fn with_argument(names: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    (prop::sample::select(names.to_vec()), argument()).prop_map(|(name, argument)| format!("{name}{argument}"))
}

fn one_of(members: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    prop::sample::select(members.to_vec()).prop_map(str::to_owned)
}

fn response_directive() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => with_argument(&["max-age", "Max-Age"]),
        1 => with_argument(&["s-maxage"]),
        4 => with_argument(&["stale-while-revalidate", "stale-if-error"]),
        3 => one_of(&[
            "no-store", "no-cache", "private", "public", "Public", "must-revalidate", "proxy-revalidate",
            "must-understand", "immutable", "no-transform",
        ]),
        2 => one_of(&[
            "private=\"x-user\"", "no-cache=\"X-User, x-b\"", "private=\"x-user, vary\"", "no-cache=\"date\"",
            "private=x-user", "no-cache=\"\"", "private=\"a b\"", "no-cache=\"x-user\\\"\"", "private;x",
        ]),
        1 => one_of(&["", "x=\"no-store, private\"", "max-age", "x=\"\\\"\"", "public=x", "no-store=x", "&", "x\""]),
    ]
}

fn request_directive() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => with_argument(&["max-age", "min-fresh", "max-stale", "Max-Stale", "stale-if-error"]),
        2 => (30u32..120).prop_map(|seconds| format!("max-age={seconds}")),
        1 => one_of(&["no-cache", "No-Store", "only-if-cached", "max-stale", "x=\"no-cache\"", "", "x\""]),
    ]
}

/// Lines of `Cache-Control`, of one or two members each.
fn control(member: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = Lines> {
    let line = prop::collection::vec(member, 1..3).prop_map(|members| members.join(" ,"));
    let name = |line| ("cache-control".to_owned(), line);
    prop::collection::vec(line.prop_map(name), 0..most)
}

/// A date at this distance from [`NOW`], in one of the three formats, or none.
fn date(offset: std::ops::Range<i128>) -> impl Strategy<Value = String> {
    (offset, 0u8..24).prop_map(|(offset, form)| {
        let text = httpdate::fmt_http_date(at(NOW + offset));
        let (day, month, year, time) = (&text[5..7], &text[8..11], &text[12..16], &text[17..25]);
        let weekdays = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
        let weekday = weekdays.iter().find(|name| name.starts_with(&text[..3])).unwrap();
        match form {
            0 => "0".to_owned(),
            1 => "yesterday".to_owned(),
            2 => text.replace("GMT", "PST"),
            3 => text.to_lowercase(),
            4..8 => format!("{weekday}, {day}-{month}-{} {time} GMT", &year[2..]),
            8..11 => format!(
                "{} {month} {} {time} {year}",
                &text[..3],
                day.replacen('0', " ", usize::from(day.starts_with('0')))
            ),
            _ => text,
        }
    })
}

/// Lines of one field.
fn lines(name: &'static str, value: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = Lines> {
    prop::collection::vec(value.prop_map(move |value| (name.to_owned(), value)), 0..=most)
}

fn response() -> impl Strategy<Value = Lines> {
    let age =
        prop_oneof![4 => (0u32..30).prop_map(|age| age.to_string()), 1 => one_of(&["x", "-1", "3, 9", "1.5", ""])];
    let other = one_of(&[
        "x-user: ann",
        "vary: *",
        "vary: accept",
        "set-cookie: a=b",
        "etag: \"a\"",
        "content-type: text/event-stream",
        "content-range: bytes 0-1/2",
        "pragma: no-cache",
    ]);
    let other = other
        .prop_map(|line| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap());
    // Up to seventy years ahead: beyond fifty, a two-digit year means the past.
    let expires = prop_oneof![8 => date(-20..60), 1 => date(1_300_000_000..2_200_000_000)];
    let sections = (
        control(response_directive(), 4),
        lines("expires", expires, 1),
        lines("expires", date(-20..60), 1),
        lines("date", date(-30..30), 1),
        lines("age", age, 1),
        lines("last-modified", date(-900..100), 1),
        prop::collection::vec(other, 0..2),
    );
    sections.prop_map(|(control, expires, again, date, age, modified, other)| {
        let again = if expires.is_empty() || again.len() + age.len() < 2 { Lines::new() } else { again };
        [control, expires, again, date, age, modified, other].concat()
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let status = prop_oneof![
        6 => Just(200u16),
        3 => prop::sample::select(vec![203, 204, 206, 300, 301, 302, 304, 307, 404, 405, 410, 500, 503, 599, 103, 700]),
        1 => 400u16..500,
        1 => 500u16..512,
    ];
    let request = prop_oneof![
        8 => Just(Lines::new()),
        1 => Just(vec![("cache-control".to_owned(), "no-store".to_owned())]),
        1 => Just(vec![("authorization".to_owned(), "Basic YTpi".to_owned())]),
        1 => Just(vec![("cookie".to_owned(), "a=b".to_owned())]),
    ];
    (request, status, response(), 0i128..5).prop_map(|(request, status, response, delay)| Exchange {
        request,
        status,
        response,
        request_time: NOW - delay,
        response_time: NOW,
    })
}

fn contract() -> impl Strategy<Value = Contract> {
    let period = || prop_oneof![2 => Just(None), 1 => (0i128..40).prop_map(Some)];
    (period(), any::<bool>(), period(), period(), 0i128..60).prop_map(
        |(ttl, heuristic, stale_while_revalidate, stale_if_error, stale_if_unreachable)| Contract {
            ttl,
            heuristic,
            stale_while_revalidate,
            stale_if_error,
            stale_if_unreachable,
        },
    )
}

pub fn case() -> impl Strategy<Value = Case> {
    let pragma = lines("pragma", one_of(&["no-cache", "No-Cache", "x"]), 1);
    let request = prop_oneof![
        4 => Just(Lines::new()),
        6 => control(request_directive(), 3),
        1 => (control(request_directive(), 2), pragma).prop_map(|(control, pragma)| [control, pragma].concat()),
    ];
    (exchange(), contract(), request, 0u64..70_000).prop_map(|(exchange, contract, request, elapsed)| Case {
        exchange,
        contract,
        request,
        elapsed,
    })
}

use super::*;
use crate::http::sample::{Fields, fields};
use proptest::prelude::*;

fn stripped(values: Fields<'_>) -> HeaderMap {
    let mut headers = fields(values);
    strip_hop_by_hop(&mut headers);
    headers
}

#[test]
fn content_without_length_and_coding_ends_with_the_connection() {
    for (name, expected) in [("content-length", false), ("transfer-encoding", false), ("content-type", true)] {
        assert_eq!(is_close_delimited(&fields(&[(name, "1")])), expected, "{name}");
    }
}

#[test]
fn a_line_is_a_name_and_a_value() {
    let rows: [(&[u8], &[u8]); 4] = [(b"A: 1", b"1"), (b"a:b:c ", b"b:c"), (b"a:", b""), (b"a:\xff", b"\xff")];
    for (line, expected) in rows {
        let (name, value) = parse_line(line).unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("a", expected));
    }
    for line in ["a : 1", "a: \r1", "a", ": 1", ""] {
        assert_eq!(parse_line(line.as_bytes()), None, "{line:?}");
    }
}

fn target(host: &str) -> Target {
    Target { scheme: "https", host: host.into(), path: "/".into(), ..Target::default() }
}

fn forwarded(values: Fields<'_>, policy: ForwardedPolicy, client: &str, host: &str) -> HeaderMap {
    let mut headers = fields(values);
    add_forwarded(&mut headers, policy, client.parse().unwrap(), &target(host));
    headers
}

#[test]
fn hop_by_hop_fields_end_here() {
    let all: Vec<_> = HOP_BY_HOP.iter().map(|name| (name.as_str(), "x")).collect();
    assert!(stripped(&all).is_empty());
    assert_eq!(stripped(&[("upgrade", "websocket"), ("accept", "*/*")]), fields(&[("accept", "*/*")]));
}

#[test]
fn fields_named_on_any_connection_line_are_removed() {
    let rows: [&[&str]; 4] = [
        &["close, X-One, x-two"],
        &["X-ONE", "x-two"],
        &[",, x-one ,\t", "\"x\", a b, =, x-two"],
        &["x-one,x-two,x-three"],
    ];
    for lines in rows {
        let mut values = vec![("x-one", "1"), ("x-one", "2"), ("x-two", "1"), ("x-kept", "1")];
        values.extend(lines.iter().map(|line| ("connection", *line)));
        assert_eq!(stripped(&values), fields(&[("x-kept", "1")]), "{lines:?}");
    }
}

#[test]
fn connection_cannot_remove_end_to_end_fields() {
    assert!(END_TO_END.is_sorted());
    let options = END_TO_END.join(", ").to_uppercase();
    let mut values = vec![("connection", options.as_str())];
    values.extend(END_TO_END.iter().map(|name| (*name, "x")));
    let kept = stripped(&values);
    assert_eq!(kept.keys_len(), END_TO_END.len());
    assert!(!kept.contains_key(CONNECTION));
}

#[test]
fn via_names_each_hop_in_order() {
    let mut headers = fields(&[("via", "1.0 fred"), ("via", "1.1 p.example.net")]);
    add_via(&mut headers, Version::HTTP_11);
    add_via(&mut headers, Version::HTTP_2);
    assert_eq!(headers, fields(&[("via", "1.0 fred, 1.1 p.example.net, 1.1 larder, 2 larder")]));
}

#[test]
fn clients_cannot_lie_about_themselves() {
    let lies = [
        ("forwarded", "for=127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-prefix", "/evil"),
        ("accept", "*/*"),
    ];
    let expected = [
        ("accept", "*/*"),
        ("forwarded", "for=192.0.2.43;host=\"api.example:8443\";proto=https"),
        ("x-forwarded-for", "192.0.2.43"),
        ("x-forwarded-host", "api.example:8443"),
        ("x-forwarded-proto", "https"),
    ];
    assert_eq!(forwarded(&lies, ForwardedPolicy::Set, "192.0.2.43", "api.example:8443"), fields(&expected));
    assert_eq!(forwarded(&lies, ForwardedPolicy::Off, "192.0.2.43", "h"), fields(&[("accept", "*/*")]));
}

#[test]
fn fields_of_a_trusted_proxy_are_continued() {
    let said = [
        ("forwarded", "for=198.51.100.7"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded-proto", "http"),
    ];
    let expected = [
        ("forwarded", "for=198.51.100.7, for=192.0.2.43;host=\"h\";proto=https"),
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7, 192.0.2.43"),
        ("x-forwarded-host", "h"),
        ("x-forwarded-proto", "http"),
    ];
    assert_eq!(forwarded(&said, ForwardedPolicy::Append, "192.0.2.43", "h"), fields(&expected));
}

#[test]
fn addresses_are_written_as_rfc_7239_says() {
    let rows = [
        ("2001:db8::1", "for=\"[2001:db8::1]\";host=\"[::1]:80\";proto=https", "2001:db8::1"),
        ("::ffff:192.0.2.1", "for=192.0.2.1;host=\"[::1]:80\";proto=https", "192.0.2.1"),
    ];
    for (client, element, plain) in rows {
        let headers = forwarded(&[], ForwardedPolicy::Set, client, "[::1]:80");
        assert_eq!(headers[FORWARDED], element);
        assert_eq!(headers[X_FORWARDED_FOR], plain);
    }
}

#[test]
fn cookies_come_onto_one_line() {
    let rows: [(Fields<'_>, Fields<'_>); 3] = [
        (&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], &[("cookie", "a=1; b=2; c=3")]),
        (&[("cookie", "a=1; b=2")], &[("cookie", "a=1; b=2")]),
        (&[], &[]),
    ];
    for (values, expected) in rows {
        let mut headers = fields(values);
        join_cookies(&mut headers);
        assert_eq!(headers, fields(expected));
    }
}

#[test]
fn max_forwards_is_counted_down() {
    let rows: [(Fields<'_>, Hops, Option<&str>); 7] = [
        (&[], Hops::More, None),
        (&[("max-forwards", "0")], Hops::Last, Some("0")),
        (&[("max-forwards", "00")], Hops::Last, Some("00")),
        (&[("max-forwards", "7")], Hops::More, Some("6")),
        (&[("max-forwards", "99999999999999999999999")], Hops::More, Some("18446744073709551614")),
        (&[("max-forwards", "-1")], Hops::More, Some("-1")),
        (&[("max-forwards", "1"), ("max-forwards", "0")], Hops::More, Some("1")),
    ];
    for (values, hops, left) in rows {
        let mut headers = fields(values);
        assert_eq!(take_hop(&mut headers), hops, "{values:?}");
        assert_eq!(headers.get(MAX_FORWARDS).map(|value| value.to_str().unwrap()), left);
    }
}

#[test]
fn a_request_that_goes_in_circles_is_noticed() {
    let mut headers = fields(&[("via", "1.1 larder-like, 1.0 fred")]);
    for round in 0..ROUNDS {
        assert!(!is_looping(&headers), "{round}");
        add_via(&mut headers, Version::HTTP_11);
    }
    assert!(is_looping(&headers));
}

#[test]
fn only_chunked_is_a_plain_framing() {
    let rows: [(Fields<'_>, bool); 6] = [
        (&[], true),
        (&[("transfer-encoding", " Chunked ")], true),
        (&[("transfer-encoding", "gzip, chunked")], false),
        (&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], false),
        (&[("transfer-encoding", "chunked, chunked")], false),
        (&[("transfer-encoding", "")], false),
    ];
    for (values, plain) in rows {
        assert_eq!(is_plainly_framed(&fields(values)), plain, "{values:?}");
    }
}

#[test]
fn one_scan_finds_all_field_traits() {
    let seen = |values: Fields<'_>| {
        let seen = look(&fields(values), &Credentials::default());
        (seen.hop_fields, seen.underscores, seen.credentials)
    };
    assert_eq!(seen(&[("accept", "*/*"), ("x-a", "1")]), (false, false, false));
    assert_eq!(seen(&[("cdn-loop", "a")]), (true, false, false));
    assert_eq!(seen(&[("via", "1.1 a"), ("x_a", "1")]), (true, true, true));
    assert_eq!(seen(&[("x-api-key", "1")]), (false, false, true));
}

#[test]
fn equal_lengths_become_one_and_others_are_none() {
    let rows: [(&[&str], Option<&str>); 8] = [
        (&[], None),
        (&["5"], Some("5")),
        (&["5", "5"], Some("5")),
        (&["5, 5", "05"], Some("5")),
        (&["5", "6"], None),
        (&["5,6"], None),
        (&["+5"], None),
        (&["5", ""], None),
    ];
    for (lines, expected) in rows {
        let values: Vec<_> = lines.iter().map(|line| ("content-length", *line)).collect();
        let mut headers = fields(&values);
        assert_eq!(unify_length(&mut headers), lines.is_empty() || expected.is_some(), "{lines:?}");
        if let Some(length) = expected {
            assert_eq!(headers, fields(&[("content-length", length)]), "{lines:?}");
        }
    }
}

#[test]
fn keep_alive_timeout_is_parsed() {
    let rows: [(Fields<'_>, Option<u64>); 7] = [
        (&[], None),
        (&[("keep-alive", "timeout=5")], Some(5)),
        (&[("keep-alive", "Timeout = 5, max=100")], Some(5)),
        (&[("keep-alive", "max=100"), ("keep-alive", "timeout=7, timeout=0")], Some(0)),
        (&[("keep-alive", "timeout=99999999999")], Some(3600)),
        (&[("keep-alive", "timeout=-1")], None),
        (&[("keep-alive", "timeout")], None),
    ];
    for (values, seconds) in rows {
        assert_eq!(keep_alive(&fields(values)), seconds.map(Duration::from_secs), "{values:?}");
    }
}

#[test]
fn a_process_knows_its_own_mark_and_no_other() {
    let (mine, other) = (LoopMark::new(), LoopMark::new());
    let mut headers = fields(&[("cdn-loop", "fastly")]);
    other.add(&mut headers);
    assert!(!mine.is_on(&headers) && other.is_on(&headers));
    mine.add(&mut headers);
    assert!(mine.is_on(&headers));
    assert_eq!(headers.get_all(CDN_LOOP).iter().count(), 1);
}

#[test]
fn a_length_is_removed_where_there_can_be_no_content() {
    for status in 100..600 {
        let mut headers = fields(&[("content-length", "5"), ("content-length", "5"), ("x-a", "1")]);
        strip_impossible_length(StatusCode::from_u16(status).unwrap(), &mut headers);
        assert_eq!(headers.contains_key(CONTENT_LENGTH), status >= 200 && status != 204, "{status}");
        assert_eq!(headers["x-a"], "1");
    }
}

proptest! {
    #[test]
    fn connection_is_removed_and_framing_stays(
        lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..4),
        named in "(Content-Length|Host|close|x-a|, |,){0,6}",
    ) {
        let mut headers = fields(&[("content-length", "5"), ("host", "h"), ("x-a", "1")]);
        for line in lines.iter().map(Vec::as_slice).chain([named.as_bytes()]) {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(CONNECTION, value);
            }
        }
        strip_hop_by_hop(&mut headers);
        prop_assert!(!headers.contains_key(CONNECTION));
        prop_assert_eq!(&headers["content-length"], "5");
        prop_assert_eq!(&headers["host"], "h");
        if named.split(',').any(|option| option.trim() == "x-a") {
            prop_assert!(!headers.contains_key("x-a"));
        }
    }
}

#[test]
fn the_text_of_an_address_is_the_usual_one() {
    for address in ["0.0.0.0", "127.0.0.1", "192.0.2.10", "255.255.255.255", "::1", "2001:db8::ff"] {
        assert_eq!(text_of_address(address.parse().unwrap()), address);
    }
}

//! Parts of what is stored: RFC 9110 §14, §13.1.5, §15.3.7 and §15.5.17, RFC 9111 §3.3.

use crate::support::{Reply, Response, Site, Tier};

on_both_tiers! {
    a_single_range_is_served_from_the_stored_response,
    a_range_beyond_the_end_is_refused_with_the_length,
    an_invalid_range_is_ignored,
    an_invalid_range_on_a_miss_is_an_ordinary_request,
    if_range_must_match_the_stored_response_exactly,
    conditions_are_met_before_a_range_is_cut,
    a_206_has_the_fields_of_the_200,
    ranges_are_for_get_and_for_content_that_there_is,
    a_range_on_a_miss_is_forwarded,
}

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

/// Ten bytes with a strong validator of each kind, and fresh.
fn digits() -> Reply {
    let reply = Reply::new("0123456789").cached("max-age=600").header("ETag", "\"1\"");
    reply.header("Last-Modified", MODIFIED).header("Content-Type", "text/plain")
}

#[track_caller]
fn get(site: &Site, target: &str, fields: &[(&str, &str)]) -> Response {
    fields.iter().fold(site.call("GET", target), |call, (name, value)| call.header(name, value)).send()
}

fn stored(tier: Tier) -> Site {
    let site = Site::start(tier, "");
    site.upstream.on("/", digits());
    site.get("/").shows("stored");
    site
}

fn a_single_range_is_served_from_the_stored_response(tier: Tier) {
    let site = stored(tier);
    let rows = [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=5-", "56789", "bytes 5-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=9-9", "9", "bytes 9-9/10"),
        ("bytes=0-99999999999999999999999999", "0123456789", "bytes 0-9/10"),
        ("bytes=-99999999999999999999999999", "0123456789", "bytes 0-9/10"),
        ("BYTES=2-4", "234", "bytes 2-4/10"),
        ("bytes= 2-4", "234", "bytes 2-4/10"),
        ("bytes=,2-4,", "234", "bytes 2-4/10"),
        ("bytes=02-04", "234", "bytes 2-4/10"),
    ];
    for (range, body, content_range) in rows {
        let part = get(&site, "/", &[("Range", range)]).shows("hit").has_status(206).carries(body);
        assert_eq!(part.headers("content-range"), [content_range], "{range}");
        assert_eq!(part.headers("content-length"), [body.len().to_string()], "{range}");
        assert_eq!(part.headers("content-type"), ["text/plain"], "{range}");
    }
}

fn a_range_beyond_the_end_is_refused_with_the_length(tier: Tier) {
    let site = stored(tier);
    for range in ["bytes=10-", "bytes=20-30", "bytes=-0", "bytes=99999999999999999999999999-"] {
        let refused = get(&site, "/", &[("Range", range)]).has_status(416);
        assert_eq!(refused.headers("content-range"), ["bytes */10"], "{range}");
    }
    assert_eq!(site.upstream.count("/"), 1);
}

fn an_invalid_range_is_ignored(tier: Tier) {
    let site = stored(tier);
    let rows = [
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes=1-2-3",
        "bytes =1-2",
        "0-1",
        "items=0-1",
        "bytes=0x1-2",
        "=1-2",
        "",
        "bytes:0-1",
        "bytes=-1.5",
    ];
    for range in rows {
        let whole = get(&site, "/", &[("Range", range)]).shows("hit").has_status(200).carries("0123456789");
        assert_eq!(whole.header("content-range"), None, "{range}");
    }
    get(&site, "/", &[("Range", "bytes=0-1"), ("Range", "bytes=2-3")]).has_status(200).carries("0123456789");
}

fn an_invalid_range_on_a_miss_is_an_ordinary_request(tier: Tier) {
    let site = Site::start(tier, "");
    for (number, range) in ["bytes", "bytes=", "bytes=5-4", "bytes=0-1,x", "bytes =-"].into_iter().enumerate() {
        let target = format!("/{number}");
        site.upstream.on(&target, digits());
        get(&site, &target, &[("Range", range)]).shows("stored").has_status(200).carries("0123456789");
        assert_eq!(site.upstream.last(&target).header("range"), None, "{range}");
        get(&site, &target, &[("Range", "bytes=0-1")]).shows("hit").has_status(206);
    }
    // Ranges in other units are left to upstream.
    site.upstream.on("/items", digits());
    get(&site, "/items", &[("Range", "items=0-1")]).hides("stored").has_status(200);
    assert_eq!(site.upstream.last("/items").header("range"), Some("items=0-1"));
}

fn if_range_must_match_the_stored_response_exactly(tier: Tier) {
    let site = Site::start(tier, "");
    let validators = [
        ("/strong", "\"1\"", "Sun, 06 Nov 2033 08:49:37 GMT"),
        ("/weak", "W/\"1\"", "Sun, 06 Nov 2033 08:49:37 GMT"),
        // Last-Modified is not strong if it lies within a second of Date.
        ("/young", "\"1\"", MODIFIED),
    ];
    for (target, tag, date) in validators {
        let reply = Reply::new("0123456789").cached("max-age=2147483648").header("ETag", tag);
        site.upstream.on(target, reply.header("Last-Modified", MODIFIED).header("Date", date));
        site.get(target).shows("stored");
    }
    let rows = [
        ("/strong", "\"1\"", true),
        ("/strong", MODIFIED, true),
        ("/strong", "\"2\"", false),
        ("/strong", "W/\"1\"", false),
        ("/strong", "\"1\", \"2\"", false),
        ("/strong", "*", false),
        ("/strong", LATE, false),
        ("/strong", "Sunday, 06-Nov-94 08:49:37 GMT", false),
        ("/strong", "garbage", false),
        ("/weak", "W/\"1\"", false),
        ("/weak", "\"1\"", false),
        ("/young", MODIFIED, false),
        ("/young", "\"1\"", true),
    ];
    for (target, condition, partial) in rows {
        let answer = get(&site, target, &[("Range", "bytes=0-1"), ("If-Range", condition)]).shows("hit");
        let expected = if partial { (206, "01") } else { (200, "0123456789") };
        assert_eq!((answer.status, &*answer.text()), expected, "{target} If-Range: {condition}");
    }
    // Without Range it means nothing.
    get(&site, "/strong", &[("If-Range", "\"2\"")]).has_status(200).carries("0123456789");
}

fn conditions_are_met_before_a_range_is_cut(tier: Tier) {
    let site = stored(tier);
    let range = ("Range", "bytes=0-1");
    get(&site, "/", &[range, ("If-None-Match", "\"1\"")]).shows("hit").has_status(304).carries("");
    get(&site, "/", &[range, ("If-Modified-Since", LATE)]).shows("hit").has_status(304).carries("");
    get(&site, "/", &[range, ("If-None-Match", "\"2\"")]).shows("hit").has_status(206).carries("01");
    get(&site, "/", &[("Range", "bytes=20-"), ("If-None-Match", "\"1\"")]).shows("hit").has_status(304);
}

fn a_206_has_the_fields_of_the_200(tier: Tier) {
    let site = Site::start(tier, "");
    let stored_fields = [
        ("cache-control", "max-age=600"),
        ("content-location", "/there"),
        ("date", "Sun, 06 Nov 2033 08:49:37 GMT"),
        ("etag", "\"1\""),
        ("expires", "Sun, 06 Nov 2033 08:59:37 GMT"),
        ("vary", "Accept"),
        ("content-type", "text/plain"),
        ("content-language", "de"),
        ("last-modified", MODIFIED),
        ("x-other", "1"),
    ];
    site.upstream.on(
        "/",
        stored_fields.iter().fold(Reply::new("0123456789"), |reply, (name, value)| reply.header(name, value)),
    );
    site.get("/").shows("stored");
    let part = get(&site, "/", &[("Range", "bytes=0-1")]).shows("hit").has_status(206).carries("01");
    for (name, value) in stored_fields {
        assert_eq!(part.headers(name), [value], "{part:?}");
    }
    assert_eq!(part.headers("age").len(), 1, "{part:?}");
}

fn ranges_are_for_get_and_for_content_that_there_is(tier: Tier) {
    let site = stored(tier);
    let head = site.call("HEAD", "/").header("Range", "bytes=0-1").send().shows("hit").has_status(200);
    assert_eq!((head.header("content-range"), head.header("content-length")), (None, Some("10")));
    site.call("POST", "/other").body("x").header("Range", "bytes=0-1").send().has_status(200).carries("done");
    site.upstream.on("/gone", Reply::status(410).cached("max-age=600"));
    site.get("/gone").shows("stored");
    get(&site, "/gone", &[("Range", "bytes=0-1")]).shows("hit").has_status(410).carries("/gone #1");
    site.upstream.on("/empty", Reply::new("").cached("max-age=600"));
    site.get("/empty").shows("stored");
    get(&site, "/empty", &[("Range", "bytes=-1")]).shows("hit").has_status(200).carries("");
    get(&site, "/empty", &[("Range", "bytes=0-")]).has_status(416);
}

fn a_range_on_a_miss_is_forwarded(tier: Tier) {
    let site = Site::start(tier, "");
    let partial = |unit: &str| {
        format!(
            "HTTP/1.1 206 Partial Content\r\nCache-Control: max-age=600\r\nETag: \"1\"\r\nContent-Range: {unit} 0-1/10\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n01"
        )
    };
    for unit in ["bytes", "items"] {
        let (target, range) = (format!("/{unit}"), format!("{unit}=0-1"));
        site.upstream.on(&target, Reply::raw(partial(unit)));
        for count in 1..=2 {
            let fields = [("Range", range.as_str()), ("If-Range", "\"1\"")];
            let part = get(&site, &target, &fields).hides("hit").hides("stored").has_status(206).carries("01");
            assert_eq!(part.headers("content-range"), [format!("{unit} 0-1/10")]);
            assert_eq!(site.upstream.count(&target), count);
        }
        let request = site.upstream.last(&target);
        assert_eq!(request.header("range"), Some(range.as_str()));
        assert_eq!(request.header("if-range"), Some("\"1\""));
    }
    // An upstream without range support sends the whole representation, and so does Larder.
    site.upstream.on("/whole", digits());
    get(&site, "/whole", &[("Range", "bytes=0-1")]).has_status(200).carries("0123456789");
    // A stale response is validated before a range is cut from it.
    site.upstream.on("/stale", Reply::new("0123456789").stale("public"));
    site.get("/stale").shows("stored");
    let answer = get(&site, "/stale", &[("Range", "bytes=0-1")]).shows("fwd=stale");
    let whole = (200, "0123456789");
    assert!([whole, (206, "01")].contains(&(answer.status, &*answer.text())), "{answer:?}");
    assert_eq!(site.upstream.count("/stale"), 2);
}

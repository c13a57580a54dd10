//! Several ranges in one request, and ranges that fetch the whole representation.

use crate::support::{Reply, Response, Site, Tier};

on_both_tiers! {
    several_ranges_are_sent_as_parts,
    too_many_ranges_are_not_cut,
    a_range_can_fetch_the_whole_representation,
    a_range_of_an_unstorable_response_is_still_answered,
    several_ranges_need_a_condition_that_holds,
    several_parts_have_no_content_range_of_their_own,
}

const RULES: &str = "[[family]]\nname = \"whole\"\npath = '/whole'\nrange = \"whole\"\n";

/// Long enough that ranges far apart are worth parts of their own (RFC 9110 §15.3.7.2 lets near ones be joined).
fn body() -> String {
    "0123456789".repeat(1000)
}

fn digits() -> Reply {
    Reply::new(body()).cached("max-age=600").header("ETag", "\"1\"").header("Content-Type", "text/plain")
}

#[track_caller]
fn get(site: &Site, target: &str, range: &str) -> Response {
    site.call("GET", target).header("Range", range).send()
}

/// `Content-Range`, `Content-Type` and content of each part.
#[track_caller]
fn parts(response: &Response) -> Vec<(String, String, String)> {
    let kind = response.header("content-type").unwrap_or("");
    let boundary =
        kind.strip_prefix("multipart/byteranges;").and_then(|rest| rest.trim().strip_prefix("boundary="));
    let boundary = boundary.unwrap_or_else(|| panic!("no parts: {response:?}")).trim_matches('"');
    let text = response.text();
    let (body, end) = text.split_once(&format!("--{boundary}--")).unwrap();
    assert!(end.trim().is_empty(), "{response:?}");
    let delimiter = format!("--{boundary}\r\n");
    let parts = body.split(&delimiter).skip(1).map(|part| part.split_once("\r\n\r\n").unwrap());
    let field = |head: &str, name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    parts
        .map(|(head, content)| {
            let content = content.strip_suffix("\r\n").unwrap_or(content).to_owned();
            (field(head, "content-range").unwrap(), field(head, "content-type").unwrap_or_default(), content)
        })
        .collect()
}

fn several_ranges_are_sent_as_parts(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/", digits());
    site.get("/").shows("stored");
    let rows: [(&str, &[(usize, usize)]); 4] = [
        ("bytes=0-0,-1", &[(0, 0), (9999, 9999)]),
        ("bytes=0-4, 5000-5009", &[(0, 4), (5000, 5009)]),
        ("bytes=9990-, 1000-1009,,5000-5000", &[(9990, 9999), (1000, 1009), (5000, 5000)]),
        ("bytes=0-4, 5000-5009, 20000-30000", &[(0, 4), (5000, 5009)]),
    ];
    for (range, expected) in rows {
        let response = get(&site, "/", range).shows("hit").has_status(206);
        assert_eq!(response.header("content-range"), None, "{range}: {response:?}");
        assert_eq!(response.header("etag"), Some("\"1\""), "{range}: {response:?}");
        let expected: Vec<_> = expected
            .iter()
            .map(|(first, last)| {
                (format!("bytes {first}-{last}/10000"), "text/plain".to_owned(), body()[*first..=*last].to_owned())
            })
            .collect();
        assert_eq!(parts(&response), expected, "{range}");
    }
    let refused = get(&site, "/", "bytes=20000-30000, 40000-").has_status(416);
    assert_eq!(refused.headers("content-range"), ["bytes */10000"]);
    get(&site, "/", "bytes=0-1, 5-4").has_status(200).carries(&body());
    assert_eq!(site.upstream.count("/"), 1);
}

fn too_many_ranges_are_not_cut(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/", digits());
    site.get("/").shows("stored");
    let many = format!("bytes={}", ["0-9999"; 1000].join(","));
    let answer = get(&site, "/", &many).shows("hit");
    assert!([200, 206].contains(&answer.status) && answer.body.len() < 100_000, "{answer:?}");
}

fn a_range_can_fetch_the_whole_representation(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/whole", digits());
    let part = get(&site, "/whole", "bytes=2-4").has_status(206).carries("234");
    assert_eq!(part.headers("content-range"), ["bytes 2-4/10000"]);
    assert_eq!(site.upstream.last("/whole").header("range"), None);
    site.wait_until_stored("/whole");
    get(&site, "/whole", "bytes=9995-").shows("hit").has_status(206).carries("56789");
    site.get("/whole").shows("hit").carries(&body());
    assert_eq!(site.upstream.count("GET /whole"), 1);
}

fn a_range_of_an_unstorable_response_is_still_answered(tier: Tier) {
    let site = Site::start(tier, RULES);
    let whole = body();
    for reply in [Reply::new(body()).cached("no-store"), Reply::new(body()).cached("private").chunked()] {
        site.upstream.on("/whole", reply);
        for _ in 0..2 {
            let answer = get(&site, "/whole", "bytes=2-4").hides("hit").hides("stored");
            match answer.status {
                206 => {
                    assert_eq!(
                        (answer.header("content-range"), &*answer.text()),
                        (Some("bytes 2-4/10000"), "234")
                    );
                }
                _ => drop(answer.has_status(200).carries(&whole)),
            }
        }
    }
    site.upstream.on("/whole", Reply::status(404));
    get(&site, "/whole", "bytes=2-4").has_status(404);
    site.upstream.on("/whole", digits());
    get(&site, "/whole", "bytes=20000-").has_status(416);
    site.get("/whole").has_status(200).carries(&whole);
}

fn several_ranges_need_a_condition_that_holds(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/", digits());
    site.get("/").shows("stored");
    let ask = |name: &str, value: &str| {
        site.call("GET", "/").header("Range", "bytes=0-1, 5000-5001").header(name, value).send().shows("hit")
    };
    assert_eq!(parts(&ask("If-Range", "\"1\"").has_status(206)).len(), 2);
    ask("If-Range", "\"2\"").has_status(200).carries(&body());
    ask("If-None-Match", "\"1\"").has_status(304).carries("");
    let head = site.call("HEAD", "/").header("Range", "bytes=0-1, 5000-5001").send().shows("hit").has_status(200);
    assert_eq!(head.header("content-length"), Some("10000"));
}

/// Neither the 200 nor a 304 brings one in.
fn several_parts_have_no_content_range_of_their_own(tier: Tier) {
    let site = Site::start(tier, RULES);
    let stale = Reply::new(body()).stale("public");
    let unchanged =
        Reply::status(304).cached("max-age=600").header("ETag", "\"1\"").header("Content-Range", "bytes 0-1/2");
    site.upstream.script("/", [stale, unchanged]);
    site.get("/").shows("stored");
    for part in ["fwd-status=304", "hit"] {
        let answer = get(&site, "/", "bytes=0-1,5000-5001").shows(part).has_status(206);
        assert_eq!(answer.header("content-range"), None, "{answer:?}");
        assert_eq!(parts(&answer).len(), 2);
    }
    // A range that upstream answers with 200 is not cut into ranges.
    site.upstream.on("/whole", digits().header("Content-Range", "bytes 0-9999/20000"));
    for _ in 0..2 {
        get(&site, "/whole", "bytes=0-1,5000-5001").hides("hit").hides("stored").has_status(200).carries(&body());
    }
}

//! Several ranges at a time, and ranges for which the whole is fetched.

use crate::support::{Reply, Response, Site, Tier};

// Pending: the features are being built.
on_both_tiers! {
    several_ranges_are_sent_as_parts,
    too_many_ranges_are_not_cut,
    a_range_may_fetch_the_whole,
}

const RULES: &str = "[[family]]\nname = \"whole\"\npath = '/whole'\nrange = \"whole\"\n";

fn digits() -> Reply {
    Reply::new("0123456789").cached("max-age=600").header("ETag", "\"1\"").header("Content-Type", "text/plain")
}

#[track_caller]
fn get(site: &Site, target: &str, range: &str) -> Response {
    site.call("GET", target).header("Range", range).send()
}

/// `Content-Range`, `Content-Type` and content of each part.
#[track_caller]
fn parts(response: &Response) -> Vec<(String, String, String)> {
    let kind = response.header("content-type").unwrap_or("");
    let boundary = kind.strip_prefix("multipart/byteranges;").and_then(|rest| rest.trim().strip_prefix("boundary="));
    let boundary = boundary.unwrap_or_else(|| panic!("no parts: {response:?}")).trim_matches('"');
    let text = response.text();
    let (body, end) = text.split_once(&format!("--{boundary}--")).unwrap();
    assert!(end.trim().is_empty(), "{response:?}");
    let parts = body.split(&format!("--{boundary}\r\n")).skip(1).map(|part| part.split_once("\r\n\r\n").unwrap());
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
    let rows: [(&str, &[(&str, &str)]); 4] = [
        ("bytes=0-0,-1", &[("bytes 0-0/10", "0"), ("bytes 9-9/10", "9")]),
        ("bytes=0-1, 5-6", &[("bytes 0-1/10", "01"), ("bytes 5-6/10", "56")]),
        ("bytes=7-, 2-3", &[("bytes 7-9/10", "789"), ("bytes 2-3/10", "23")]),
        ("bytes=0-1, 5-6, 20-30", &[("bytes 0-1/10", "01"), ("bytes 5-6/10", "56")]),
    ];
    for (range, expected) in rows {
        let response = get(&site, "/", range).shows("hit").has_status(206);
        assert_eq!(response.header("content-range"), None, "{range}: {response:?}");
        assert_eq!(response.header("etag"), Some("\"1\""), "{range}: {response:?}");
        let expected: Vec<_> = expected
            .iter()
            .map(|(content_range, content)| {
                ((*content_range).to_owned(), "text/plain".to_owned(), (*content).to_owned())
            })
            .collect();
        assert_eq!(parts(&response), expected, "{range}");
    }
    let refused = get(&site, "/", "bytes=20-30, 40-50").has_status(416);
    assert_eq!(refused.headers("content-range"), ["bytes */10"]);
    get(&site, "/", "bytes=0-1, 5-4").has_status(200).carries("0123456789");
    assert_eq!(site.upstream.count("/"), 1);
}

fn too_many_ranges_are_not_cut(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.on("/", digits());
    site.get("/").shows("stored");
    let many = format!("bytes={}", ["0-9"; 1000].join(","));
    let answer = get(&site, "/", &many).shows("hit");
    assert!([200, 206].contains(&answer.status) && answer.body.len() < 1000, "{answer:?}");
}

fn a_range_may_fetch_the_whole(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/whole", digits());
    let part = get(&site, "/whole", "bytes=2-4").has_status(206).carries("234");
    assert_eq!(part.headers("content-range"), ["bytes 2-4/10"]);
    assert_eq!(site.upstream.last("/whole").header("range"), None);
    site.wait_until_stored("/whole");
    get(&site, "/whole", "bytes=5-").shows("hit").has_status(206).carries("56789");
    site.get("/whole").shows("hit").carries("0123456789");
    assert_eq!(site.upstream.count("GET /whole"), 1);
}

//! `Cache-Status` (RFC 9211) as the configuration asks for it, and where it does not belong.

use crate::support::{Reply, Site, Tier, message};

// Pending: the features are being built.

fn upstream_says(site: &Site) {
    site.upstream.on("/", message("200 OK", "Cache-Control: max-age=600\nCache-Status: cdn; hit"));
}

#[test]
fn the_key_is_told_where_the_configuration_asks_for_it() {
    let site = Site::start(Tier::Embedded, "[server]\ncache_status = \"key\"\n");
    upstream_says(&site);
    let mut keys = Vec::new();
    for part in ["fwd=uri-miss", "hit"] {
        let lines = site.get("/").headers("cache-status").join(", ");
        let own = lines.strip_prefix("cdn; hit, larder; ").unwrap_or_else(|| panic!("{lines}"));
        assert!(own.contains(part), "{lines}");
        let (_, key) = own.split_once("key=\"").unwrap_or_else(|| panic!("no key, or no String: {lines}"));
        let key = &key[..key.find('"').unwrap()];
        assert!(!key.is_empty() && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{lines}");
        keys.push(key.to_owned());
    }
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn nothing_is_told_where_the_configuration_says_so() {
    let site = Site::start(Tier::Embedded, "[server]\ncache_status = \"off\"\n");
    upstream_says(&site);
    for _ in 0..2 {
        assert_eq!(site.get("/").headers("cache-status"), ["cdn; hit"]);
    }
    site.upstream.on("/plain", Reply::numbered());
    assert_eq!(site.get("/plain").header("cache-status"), None);
    assert_eq!(site.write("POST", "/plain").header("cache-status"), None);
    assert_eq!(site.upstream.count("GET /"), 1);
}

#[test]
fn a_part_for_who_has_the_rest_leaves_out_what_the_rest_said() {
    let site = Site::start(Tier::Embedded, "");
    let fields = "Cache-Control: max-age=600\nETag: \"1\"\nContent-Type: text/plain\nContent-Language: de";
    site.upstream.on("/", message("200 OK", fields));
    site.get("/").shows("stored");
    let call = site.call("GET", "/").header("Range", "bytes=0-0").header("If-Range", "\"1\"");
    let part = call.send().shows("hit").has_status(206).carries("o");
    assert_eq!((part.header("content-type"), part.header("content-language")), (None, None), "{part:?}");
    assert_eq!(part.headers("etag"), ["\"1\""]);
}

#![no_main]
//! The decoder of entries from L2. What it accepts is encoded and decoded again to the same entry, and can be used.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderName;
use larder::entry::{Content, Entry, Response, Seal, Variant, VaryIndex};
use larder::http::demands::Demands;
use larder::http::targeted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let seal = Seal::new("fuzz", None);
    // With any checksum: whoever can write to the store can make one.
    let Ok(entry) = Entry::read(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(Entry::decode(entry.encode(&seal, "entry"), &seal, "entry").as_ref(), Ok(&entry));
    assert!(entry.weight() > 0);
    match entry.content {
        Content::Response(response) => use_response(response),
        Content::VaryIndex(variants) => use_variants(variants),
    }
});

fn use_response(mut response: Response) {
    let hour = Some(Duration::from_secs(3600));
    let demands = Demands { max_age: hour, min_fresh: hour, max_stale: hour, ..Demands::default() };
    for now in [UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(1_800_000_000)] {
        let freshness = &response.freshness;
        let _ = (freshness.age(now), freshness.ttl(now), freshness.keep_for(now, true));
        let _ = freshness.reuse(now, &demands);
        let after = |period| freshness.is_usable_after_failure(period, now, &demands);
        let is_usable_longer = after(freshness.stale_if_error.max(freshness.stale_if_unreachable).into());
        assert!(is_usable_longer || !after(freshness.stale_if_error.into()));
    }
    if response.consumed {
        targeted::strip_consumed(&mut response.headers);
        assert!(!targeted::has_consumed(&response.headers));
    }
}

/// One variant more is known afterwards, and no more of them than allowed.
fn use_variants(variants: VaryIndex) {
    let named = [HeaderName::from_static("accept-language")];
    let Some(on) = variants.widened(&named, false) else { return };
    assert!(on.contains(&named[0]));
    let before = variants.known.len();
    let (now, later) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(1));
    let one = Variant { suffix: "\nvary accept-language: de".into(), until: later };
    assert!(variants.kept_until(now) >= now);
    let (after, gone) = variants.with(on, one.clone(), 8);
    assert!(after.known.len() <= 8 && after.known.last() == Some(&one));
    assert!(after.known.len() + gone.len() <= before + 1);
}

#![no_main]
//! The decoder of entries from L2. What it accepts is encoded and decoded again to the same entry, and can be used.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use larder::entry::Entry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(entry) = Entry::decode(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(Entry::decode(entry.encode()).as_ref(), Ok(&entry));
    assert!(entry.weight() > 0);
    let Some(response) = entry.response() else { return };
    for now in [UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(1_800_000_000)] {
        let _ = (response.freshness.age(now), response.freshness.ttl(now), response.freshness.reuse(now));
        let _ = (response.freshness.usable_on_error(now), response.freshness.keep_for(now, true));
    }
});

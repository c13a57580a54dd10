//! Reads the settings of `[[family]]` that say when a stored response is used before upstream has answered, and when a
//! write refreshes it: `revalidate`, `stale_while_slow` and `write_through`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::ReadMethods;
use super::reader::{Item, Table};
use crate::http::Revalidate;

/// Shorter than a fetch takes in a data centre, and longer than any client waits.
const SLOW: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60 * 60);

/// When stored responses are used, and when a write refreshes them.
pub(super) struct ReuseFields {
    pub revalidate: Revalidate,
    pub stale_while_slow: Option<Duration>,
    pub write_through: bool,
}

/// Reads them, and refuses what has no effect.
pub(super) fn read(table: &mut Table<'_>, methods: ReadMethods) -> ReuseFields {
    let revalidate = table.read("revalidate", |item| item.choice(Revalidate::WORDS)).unwrap_or_default();
    let slow = table.item("stale_while_slow");
    let stale_while_slow = slow.as_ref().and_then(|item| item.duration(&SLOW));
    if revalidate == Revalidate::Always {
        refuse_stale(table);
    }
    if let Some(slow) = slow.filter(|_| table.item("authorize").is_some()) {
        slow.fault(
            "has no effect beside authorize: a verdict on the caller may end while upstream is waited for",
            "remove one of the two",
        );
    }
    let through = table.item("write_through");
    let write_through = through.as_ref().and_then(Item::boolean).unwrap_or(false);
    if let Some(through) = through.filter(|_| write_through && !methods.get) {
        through.fault(
            "has no effect: it stores what a GET would bring, and methods lacks \"GET\"",
            "add \"GET\" to methods, or remove it",
        );
    }
    ReuseFields { revalidate, stale_while_slow, write_through }
}

/// Settings that let a stored response be used without validation.
fn refuse_stale(table: &mut Table<'_>) {
    let keys = ["stale_while_revalidate", "stale_if_error", "stale_if_unreachable", "stale_while_slow"];
    for item in keys.into_iter().filter_map(|key| table.item(key)) {
        item.fault(
            "has no effect beside revalidate = \"always\": no response is served without validation",
            "remove one of the two",
        );
    }
    if let Some(item) = table.item("adaptive_ttl") {
        item.fault(
            "has no effect beside revalidate = \"always\": each use is validated, however long the response is fresh",
            "remove one of the two",
        );
    }
    let fleet = |item: &Item<'_>| item.text().is_some_and(|text| text.value == "fleet");
    if let Some(collapse) = table.item("collapse").filter(fleet) {
        collapse.fault(
            "of \"fleet\" has no effect beside revalidate = \"always\": no proxy serves what another one has fetched",
            "remove one of the two",
        );
    }
}

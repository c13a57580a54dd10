//! Reads the settings of `[[family]]` that say when a stored response is used before upstream has answered:
//! `revalidate` and `stale_while_slow`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Table;
use crate::http::Revalidate;

/// Shorter than a fetch takes in a data centre, and longer than any client waits.
const SLOW: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60 * 60);

/// `revalidate` and `stale_while_slow`. Refuses what has no effect beside `revalidate = "always"`.
pub(super) fn read(table: &mut Table<'_>) -> (Revalidate, Option<Duration>) {
    let words = [Revalidate::WhenStale, Revalidate::Always].map(|revalidate| (revalidate.word(), revalidate));
    let revalidate = table.item("revalidate").and_then(|item| item.choice(&words)).unwrap_or_default();
    let slow = table.item("stale_while_slow");
    let stale_while_slow = slow.as_ref().and_then(|item| item.duration(&SLOW));
    if revalidate == Revalidate::Always {
        refuse_stale(table);
    }
    (revalidate, stale_while_slow)
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
    let fleet = |item: &super::reader::Item<'_>| item.text().is_some_and(|text| text.value == "fleet");
    if let Some(collapse) = table.item("collapse").filter(fleet) {
        collapse.fault(
            "of \"fleet\" has no effect beside revalidate = \"always\": no proxy serves what another one has fetched",
            "remove one of the two",
        );
    }
}

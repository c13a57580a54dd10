//! Which node of a cluster keeps which key. Keys are in 16384 slots, by the CRC16 of their name or of the part of it that
//! stands in braces; each slot is kept by one primary (Redis cluster specification, "Key distribution model").

use std::collections::{BTreeMap, BTreeSet};

use redis::Value;

use crate::config::store_url::ServerAddress;

/// How many slots there are.
const SLOTS: u16 = 16384;

/// The slot of a key.
pub(super) fn slot_of(key: &str) -> u16 {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tagged.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, nothing reflected, from 0.
fn crc16(bytes: &[u8]) -> u16 {
    let shift = |crc: u16| (crc << 1) ^ if crc >> 15 == 1 { 0x1021 } else { 0 };
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| shift(crc)))
}

/// The primary of each slot, as one node sees it. Slots that nobody keeps are missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slots {
    /// By the last slot of a range: its first one, and who keeps it.
    ranges: BTreeMap<u16, (u16, ServerAddress)>,
}

impl Slots {
    /// Reads the answer to `CLUSTER SLOTS` that this node gave: ranges, each with its first and last slot and its nodes,
    /// the primary first. A node that does not know its own address leaves it out.
    pub(super) fn read(answer: &Value, asked: &ServerAddress) -> Option<Slots> {
        let ranges = answer.as_sequence()?.iter().map(|range| read_range(range.as_sequence()?, asked));
        Some(Slots { ranges: ranges.collect::<Option<_>>()? })
    }

    /// Who keeps this slot.
    pub(super) fn keeper(&self, slot: u16) -> Option<&ServerAddress> {
        let (_, (first, place)) = self.ranges.range(slot..).next()?;
        (*first <= slot).then_some(place)
    }

    /// All primaries that keep slots.
    pub(super) fn primaries(&self) -> BTreeSet<ServerAddress> {
        self.ranges.values().map(|(_, place)| place.clone()).collect()
    }

    /// Whether every slot is kept by somebody.
    pub(super) fn are_whole(&self) -> bool {
        let kept = self.ranges.iter().map(|(last, (first, _))| u32::from(last - first) + 1).sum::<u32>();
        kept == u32::from(SLOTS)
    }
}

fn read_range(range: &[Value], asked: &ServerAddress) -> Option<(u16, (u16, ServerAddress))> {
    let [Value::Int(first), Value::Int(last), primary, ..] = range else { return None };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    let [host, Value::Int(port), ..] = primary.as_sequence()? else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => "",
        _ => return None,
    };
    // `?` stands for a host name that was not announced.
    let host = if matches!(host, "" | "?") { &asked.host } else { host };
    let place = ServerAddress { host: host.to_owned(), port: u16::try_from(*port).ok()? };
    (first <= last && last < SLOTS).then_some((last, (first, place)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(host: &str, port: u16) -> ServerAddress {
        ServerAddress { host: host.to_owned(), port }
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node =
            |host: Value, port| Value::Array(vec![host, Value::Int(port), Value::Nil, Value::Array(vec![])]);
        let replica = node(Value::BulkString(b"10.0.0.99".to_vec()), 1);
        Value::Array(vec![Value::Int(first), Value::Int(last), node(host, port), replica])
    }

    fn host(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn slots_of_keys_are_those_of_the_specification() {
        // From `CLUSTER KEYSLOT`.
        for (key, slot) in [
            ("123456789", 0x31c3),
            ("", 0),
            ("foo", 12182),
            ("{foo}:meta", 12182),
            ("a{foo}b{bar}", 12182),
            ("foo{}{bar}", 8363),
            ("{", 4092),
        ] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
    }

    #[test]
    fn each_slot_is_kept_by_the_first_node_of_its_range() {
        let ranges =
            [range(0, 5460, host("a"), 1), range(5461, 10000, Value::Nil, 2), range(10002, 16383, host("?"), 3)];
        let slots = Slots::read(&Value::Array(ranges.to_vec()), &place("asked", 9)).unwrap();
        let keeper = |slot| slots.keeper(slot).map(|place| (place.host.as_str(), place.port));
        assert_eq!((keeper(0), keeper(5460)), (Some(("a", 1)), Some(("a", 1))));
        assert_eq!((keeper(5461), keeper(16383)), (Some(("asked", 2)), Some(("asked", 3))));
        assert_eq!(keeper(10001), None, "nobody keeps it");
        assert_eq!(slots.primaries().len(), 3);
        assert!(!slots.are_whole());
        let all = Slots::read(&Value::Array(vec![range(0, 16383, host("a"), 1)]), &place("asked", 9)).unwrap();
        assert!(all.are_whole());
    }

    #[test]
    fn what_is_no_list_of_ranges_is_none() {
        for answer in [
            Value::Okay,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(5, 4, host("a"), 1)]),
            Value::Array(vec![range(0, 16384, host("a"), 1)]),
            Value::Array(vec![range(0, 1, host("a"), 65536)]),
            Value::Array(vec![range(0, 1, Value::Int(1), 1)]),
        ] {
            assert_eq!(Slots::read(&answer, &place("asked", 9)), None, "{answer:?}");
        }
        assert_eq!(Slots::read(&Value::Array(vec![]), &place("asked", 9)), Some(Slots::default()));
    }

    proptest! {
        #[test]
        fn what_stands_in_braces_decides(tag in "[a-z_.-]{1,20}", rest in "[a-z:{}]{0,20}") {
            let (tagged, alone) = (slot_of(&format!("{{{tag}}}:{rest}")), slot_of(&tag));
            prop_assert_eq!(tagged, alone);
            prop_assert!(tagged < SLOTS);
        }
    }
}

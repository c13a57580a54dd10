//! Maps keys of a cluster to slots, and slots to nodes. A key belongs to one of 16384 slots, by the CRC16 of its name or of
//! the hash tag in braces; one primary holds each slot (Redis cluster specification, "Key distribution model").

use std::collections::{BTreeMap, BTreeSet};

use redis::Value;

use crate::config::store_url::ServerAddress;

/// Number of slots.
const SLOTS: u16 = 16384;

/// The slot of a key.
pub(super) fn slot_of(key: &str) -> u16 {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tagged.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, not reflected, initial value 0.
fn crc16(bytes: &[u8]) -> u16 {
    let shift = |crc: u16| (crc << 1) ^ if crc >> 15 == 1 { 0x1021 } else { 0 };
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| shift(crc)))
}

/// The primary of each slot, as one node reports it. Slots without a node are missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slots {
    /// Last slot of a range → its first slot and its primary.
    ranges: BTreeMap<u16, (u16, ServerAddress)>,
}

impl Slots {
    /// Parses this node's answer to `CLUSTER SLOTS`: ranges, each with its first and last slot and its nodes,
    /// the primary first. A node that does not know its own address leaves it out.
    pub(super) fn read(answer: &Value, asked: &ServerAddress) -> Option<Slots> {
        let ranges = answer.as_sequence()?.iter().map(|range| read_range(range.as_sequence()?, asked));
        Some(Slots { ranges: ranges.collect::<Option<_>>()? })
    }

    /// The primary of this slot.
    pub(super) fn node_of(&self, slot: u16) -> Option<&ServerAddress> {
        let (_, (first, place)) = self.ranges.range(slot..).next()?;
        (*first <= slot).then_some(place)
    }

    /// All primaries that hold slots.
    pub(super) fn primaries(&self) -> BTreeSet<ServerAddress> {
        self.ranges.values().map(|(_, place)| place.clone()).collect()
    }

    /// Whether every slot has a primary.
    pub(super) fn are_whole(&self) -> bool {
        let held = self.ranges.iter().map(|(last, (first, _))| u32::from(last - first) + 1).sum::<u32>();
        held == u32::from(SLOTS)
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
    // `?`: the node announces no host name.
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
    fn slots_of_keys_match_cluster_keyslot() {
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
    fn the_first_node_of_a_range_is_its_primary() {
        let ranges =
            [range(0, 5460, host("a"), 1), range(5461, 10000, Value::Nil, 2), range(10002, 16383, host("?"), 3)];
        let slots = Slots::read(&Value::Array(ranges.to_vec()), &place("asked", 9)).unwrap();
        let node = |slot| slots.node_of(slot).map(|place| (place.host.as_str(), place.port));
        assert_eq!((node(0), node(5460)), (Some(("a", 1)), Some(("a", 1))));
        assert_eq!((node(5461), node(16383)), (Some(("asked", 2)), Some(("asked", 3))));
        assert_eq!(node(10001), None, "no node holds it");
        assert_eq!(slots.primaries().len(), 3);
        assert!(!slots.are_whole());
        let all = Slots::read(&Value::Array(vec![range(0, 16383, host("a"), 1)]), &place("asked", 9)).unwrap();
        assert!(all.are_whole());
    }

    #[test]
    fn malformed_answers_to_cluster_slots_are_refused() {
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
        fn hash_tag_decides_on_the_slot(tag in "[a-z_.-]{1,20}", rest in "[a-z:{}]{0,20}") {
            let (tagged, alone) = (slot_of(&format!("{{{tag}}}:{rest}")), slot_of(&tag));
            prop_assert_eq!(tagged, alone);
            prop_assert!(tagged < SLOTS);
        }
    }
}

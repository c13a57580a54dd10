//! Data of the fleet protocol ([`super::Store`] has its calls): members and their leases, new marks, intents of writes in
//! progress, fleet locks, and messages between proxies.

use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};

use crate::hexadecimal::hexadecimal;
use crate::marks::{Epoch, IssuedStamp, Sequence, SoftInvalidation, Stamp, Tag};

/// Most tags of a nudge; with more it has none, and proxies sync instead.
pub const NUDGE_TAGS_MAX: usize = 64;

/// What a proxy sends with a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Id of the proxy, never reused; without white space, and not `(sentinel)`.
    pub id: Box<str>,
    /// Its copy of the marks is complete up to this; `None` before its first sync, and for a proxy without a copy.
    pub applied: Option<Stamp>,
    /// Its lease after a sync; whole milliseconds. Zero: none.
    pub lease: Duration,
    /// It serves from memory under that lease, so that writes wait for it.
    pub serves_memory: bool,
    /// The time within which it syncs several times while all is well; whole milliseconds.
    pub period: Duration,
    /// The latest generation that it has read in a reply.
    pub seen: Option<Generation>,
    /// Whether it requests the members that are behind.
    pub asks_who_is_behind: bool,
    /// The rules that it follows.
    pub registration: Registration,
}

/// The rules that a proxy follows, as it tells the others, and what it knows of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    /// Grows whenever this process gets other rules: a sync that is executed late takes back no later ones.
    pub number: u64,
    /// [`crate::rules::digest::RulesDigest::text`]
    pub rules: Arc<str>,
    /// The other members know these rules, and what they conflict with was invalidated.
    pub is_settled: bool,
    /// The revision of the registry that this proxy has taken in; 0: none.
    pub learned: u64,
    /// Whether it requests the registry although its revision is that one.
    pub asks: bool,
}

/// What the reply to a sync says of the registry: the rules that members follow, and the bypasses of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    /// Grows with every change; by the store's clock.
    pub revision: u64,
    /// The revision that registered the rules of this proxy.
    pub registered: u64,
    /// Its content, if it has changed or was requested.
    pub content: Option<RegistryContent>,
}

/// The content of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryContent {
    /// The rules of the other members, each text once. The text of a member without rules is that of no digest.
    pub others: Vec<String>,
    /// Without other members: the rules that were settled last. `None`: there were none, in a new namespace.
    pub last: Option<String>,
    /// Members that have not taken in the rules of this proxy.
    pub unlearned: u64,
    /// The families that are forwarded.
    pub bypasses: Vec<FleetBypass>,
}

/// A family that an operator has forwarded in the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetBypass {
    /// With those below it.
    pub family: String,
    /// By the store's clock, microseconds after 1970.
    pub until: u64,
    /// By whose order.
    pub by: String,
}

/// Number of silences in an epoch. A silence is a time, at least the shortest period, in which no sync was executed: an outage
/// for all proxies, or no proxy was running. A proxy that repeats a generation in a sync has read it in a reply, so the sync
/// was sent after that silence, however late it is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// The epoch in which it counts.
    pub epoch: Epoch,
    /// The number of silences.
    pub number: u64,
}

impl Generation {
    /// Whether it equals `other` or is a later one of the same epoch.
    pub fn covers(self, other: Generation) -> bool {
        self.epoch == other.epoch && self.number >= other.number
    }
}

/// The answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The epoch, and the last sequence issued in it.
    pub stamp: Stamp,
    /// All marks set after `applied`. `None` if that is of another epoch, below the floor, or more than 10,000 marks ago. The
    /// proxy must then treat everything up to `stamp` as invalidated.
    pub marks: Option<Vec<(Tag, Sequence)>>,
    /// Soft marks among them whose grace has not ended, with the time left. Those whose grace has ended are in `marks`.
    pub soft: Vec<(SoftInvalidation, Sequence)>,
    /// Intents whose deadline has passed, at most 16, for any proxy to complete.
    pub due: Vec<Intent>,
    /// The epoch.
    pub state: EpochState,
    /// The generation.
    pub generation: Generation,
    /// Other members that have not repeated it yet, if requested: they may have pending invalidations.
    pub behind: Vec<Holder>,
    /// Number of other members, if requested.
    pub others: u64,
    /// End of the last silence, by the store's clock, microseconds after 1970; start of the epoch if there was none in it.
    pub silent_until: u64,
    /// Proxies that are not members may have pending invalidations from that silence or shortly before: it was long, or the
    /// epoch was young when it began.
    pub unknown_proxies: bool,
    /// The store's clock, microseconds after 1970.
    pub clock: u64,
    /// The registry.
    pub registry: Registry,
}

/// State of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochState {
    /// How long ago it began, by the store's clock.
    pub age: Duration,
    /// Why it began: `new`, `restarted`, or which key was lost (`marks lost`, …).
    pub cause: String,
    /// The longest lease that any proxy of the fleet may hold.
    pub longest_lease: Duration,
    /// No entry with a lower stamp is current.
    pub floor: Sequence,
    /// How long ago the floor was issued, by the store's clock.
    pub floor_age: Duration,
    /// Marks in the store.
    pub marks: u64,
}

/// Members and intents of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The epoch, and the last sequence issued in it; `None` where there is none yet.
    pub stamp: Option<Stamp>,
    /// The epoch.
    pub state: EpochState,
    /// All members.
    pub members: Vec<Member>,
    /// Number of write intents.
    pub intents: u64,
    /// Those whose deadline has passed; counted up to a thousand.
    pub due: u64,
    /// The revision of the registry.
    pub revision: u64,
}

/// A proxy of the fleet, for the admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The proxy.
    pub id: Box<str>,
    /// How long its lease runs after a sync.
    pub lease: Duration,
    /// How long ago it synced, by the store's clock.
    pub synced: Duration,
    /// Marks that it has applied; `None` before its second sync.
    pub applied: Option<Stamp>,
    /// The revision of the registry that it has taken in.
    pub learned: u64,
    /// Its rules ([`Registration::rules`]).
    pub rules: String,
}

/// A unique id: 128 random bits, in hex digits.
pub fn random_id() -> Box<str> {
    hexadecimal(&rand::random::<[u8; 16]>()).into()
}

/// A write that is about to be forwarded, and the tags that it will invalidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Unique id, never reused.
    pub id: Box<str>,
    /// Invalidated by another proxy if the writing proxy does not complete the write.
    pub tags: Vec<Tag>,
}

impl Intent {
    /// Whether it repeats an invalidation, so that no write was left unfinished.
    pub fn is_repetition(&self) -> bool {
        self.id.starts_with(REPETITION)
    }
}

/// A member, and the lease that it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The proxy.
    pub id: Box<str>,
    /// How long its lease runs after a sync; zero if it holds none.
    pub lease: Duration,
    /// Grows with each sync and never repeats, so that a renewal is detected.
    pub syncs: u64,
}

impl Holder {
    /// Whether writes wait for it: it may serve from memory.
    pub fn is_waited_for(&self) -> bool {
        !self.lease.is_zero()
    }
}

/// Context of an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cause<'a> {
    /// The proxy; empty for one that is no member.
    pub by: &'a str,
    /// The intent that this completes.
    pub intent: Option<&'a str>,
    /// Tags to soft-invalidate; none of them is also invalidated.
    pub soft: &'a [SoftInvalidation],
    /// To be repeated later.
    pub again: &'a [Again],
    /// Tags whose latest invalidation before this one is asked for ([`IssuedStamp::latest`]).
    pub watched: &'a [Tag],
    /// Added to the log of invalidations; empty: nothing is.
    pub record: &'a str,
}

/// A delayed repetition of an invalidation, for an upstream that reads from lagging replicas: its responses may be older than
/// the write. The repetition invalidates everything stored until then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Again {
    /// How long after the write.
    pub after: Duration,
    /// What is invalidated then.
    pub tags: Vec<Tag>,
}

/// Prefix of the ids of repetitions. `invalidate.lua` uses the same.
const REPETITION: &str = "again-";

impl Again {
    /// Repetitions of the same tags after the same time share an id: a later write's replaces an earlier one's.
    pub fn id(&self) -> Box<str> {
        let mut digest = Md5::new();
        digest.update(self.after.as_micros().to_be_bytes());
        for tag in &self.tags {
            digest.update(tag.as_str());
            digest.update([0]);
        }
        let digest: [u8; 16] = digest.finalize().into();
        format!("{REPETITION}{:032x}", u128::from_be_bytes(digest)).into()
    }
}

/// What a write invalidates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalidations {
    /// None twice.
    pub tags: Vec<Tag>,
    /// None twice, and none of `tags`.
    pub soft: Vec<SoftInvalidation>,
    /// What of it is repeated later; at most one for each time.
    pub again: Vec<Again>,
    /// Tags whose latest invalidation before this one is asked for ([`IssuedStamp::latest`]).
    pub watched: Vec<Tag>,
}

impl Invalidations {
    /// All of it, however it is invalidated.
    pub fn all_tags(&self) -> Vec<Tag> {
        self.tags.iter().chain(self.soft.iter().map(|soft| &soft.tag)).cloned().collect()
    }

    /// Whether it is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.soft.is_empty()
    }

    /// Whether the stamp of this invalidation may be that of the answer to its write. Soft and delayed invalidations allow older
    /// responses for a while, so that nothing shows how old the answer is.
    pub fn may_stamp_answer(&self) -> bool {
        self.soft.is_empty() && self.again.is_empty()
    }
}

/// Lock of a fetch in the whole fleet: other proxies wait for the response that its holder stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetLock {
    /// Read before the fetch, as that of the entry will be.
    pub stamp: Stamp,
    /// Unique id, never reused; without white space.
    pub id: Box<str>,
}

/// Holder of a fleet lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockReply {
    /// The calling proxy.
    Ours,
    /// Another proxy.
    Theirs(FleetLock),
}

impl FleetLock {
    /// Its value in Redis: `epoch:sequence:id`.
    pub(super) fn text(&self) -> String {
        format!("{}:{}:{}", self.stamp.epoch.0, self.stamp.sequence, self.id)
    }

    /// Parses a value; `None` if it is not a lock.
    pub(super) fn of_text(text: &str) -> Option<FleetLock> {
        let (epoch, rest) = text.split_once(':')?;
        let (sequence, id) = rest.split_once(':')?;
        Some(FleetLock { stamp: stamp(epoch, sequence)?, id: id.into() })
    }
}

/// Result of an invalidation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidated {
    /// Epoch and sequence it took.
    pub taken: IssuedStamp,
    /// Members that may hold a lease, except the invalidating proxy.
    pub holders: Vec<Holder>,
    /// How long ago the epoch began, by the store's clock. Below the longest lease, there may be holders that the store
    /// lost.
    pub epoch_age: Duration,
    /// The longest lease that any proxy of the fleet may hold, those that the store lost included.
    pub longest_lease: Duration,
}

/// A message to all proxies. Any may be lost, late or repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Something was invalidated.
    Nudge {
        /// By this proxy; empty for one that is no member.
        by: Box<str>,
        /// What it took.
        stamp: Stamp,
        /// The last sequence issued before it, in the same epoch or one before.
        previous: Sequence,
        /// All tags that were marked. `None`: they are left out (some were soft-invalidated, or there are too many), and only a sync
        /// brings them.
        tags: Option<Vec<Tag>>,
    },
    /// A proxy has applied everything up to a stamp.
    Applied {
        /// The proxy.
        id: Box<str>,
        /// Up to here.
        stamp: Stamp,
    },
    /// A silence of the whole fleet has ended.
    Raised(Generation),
    /// A proxy has repeated this generation.
    Seen(Generation),
    /// The registry has this revision now.
    Revised(u64),
    /// A proxy has taken in this revision of the registry.
    Learned(u64),
    /// A fetch with a fleet lock has ended.
    Fetched {
        /// [`FleetLock::id`].
        lock: Box<str>,
        /// Whether the response is in the store.
        stored: bool,
    },
}

impl Message {
    /// Reads `n <epoch> <previous> <sequence> <by>\n<tag>\n<tag>…`, `a <id> <epoch> <sequence>`, `g <epoch> <generation>`,
    /// `s <id> <epoch> <generation>`, `r <revision>`, `k <id> <revision>` or `f <lock> <0|1>`; `None` for anything else.
    pub fn read(text: &str) -> Option<Message> {
        let (head, tags) = text.split_once('\n').map_or((text, None), |(head, tags)| (head, Some(tags)));
        let words: Vec<&str> = head.split(' ').collect();
        match words[..] {
            ["n", epoch, previous, sequence, by] => Some(Message::Nudge {
                by: by.into(),
                stamp: stamp(epoch, sequence)?,
                previous: previous.parse().ok()?,
                tags: tags.map(|tags| tags.split('\n').map(Tag::family).collect()),
            }),
            ["a", id, epoch, sequence] if tags.is_none() => {
                Some(Message::Applied { id: id.into(), stamp: stamp(epoch, sequence)? })
            }
            ["g", epoch, number] if tags.is_none() => Some(Message::Raised(generation(epoch, number)?)),
            ["s", _, epoch, number] if tags.is_none() => Some(Message::Seen(generation(epoch, number)?)),
            ["r", revision] if tags.is_none() => Some(Message::Revised(revision.parse().ok()?)),
            ["k", _, revision] if tags.is_none() => Some(Message::Learned(revision.parse().ok()?)),
            ["f", lock, stored @ ("0" | "1")] if tags.is_none() => {
                Some(Message::Fetched { lock: lock.into(), stored: stored == "1" })
            }
            _ => None,
        }
    }
}

/// The message [`Message::Fetched`].
pub(super) fn fetched(lock: &FleetLock, stored: bool) -> String {
    format!("f {} {}", lock.id, u8::from(stored))
}

fn generation(epoch: &str, number: &str) -> Option<Generation> {
    Some(Generation { epoch: Epoch(epoch.parse().ok()?), number: number.parse().ok()? })
}

fn stamp(epoch: &str, sequence: &str) -> Option<Stamp> {
    Some(Stamp { epoch: Epoch(epoch.parse().ok()?), sequence: sequence.parse().ok()? })
}

/// Tags, one per line; `None` if one contains a line break.
pub(super) fn lines(tags: &[Tag]) -> Option<String> {
    let whole = tags.iter().all(|tag| !tag.as_str().contains('\n'));
    whole.then(|| tags.iter().map(Tag::as_str).collect::<Vec<_>>().join("\n"))
}

/// Parses tags, one per line.
pub(super) fn tags_in(lines: &str) -> Vec<Tag> {
    lines.split('\n').filter(|line| !line.is_empty()).map(Tag::family).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(epoch: u64, sequence: Sequence) -> Stamp {
        Stamp { epoch: Epoch(epoch), sequence }
    }

    #[test]
    fn messages_are_read() {
        let nudge = |by: &str, tags: Option<&[&str]>| Message::Nudge {
            by: by.into(),
            stamp: at(u64::MAX, 9),
            previous: 7,
            tags: tags.map(|tags| tags.iter().map(|tag| Tag::family(tag)).collect()),
        };
        for (text, message) in [
            ("n 18446744073709551615 7 9 p1", nudge("p1", None)),
            ("n 18446744073709551615 7 9 ", nudge("", None)),
            ("n 18446744073709551615 7 9 p1\na\ngroup h/x y", nudge("p1", Some(&["a", "group h/x y"]))),
            ("a p2 3 5", Message::Applied { id: "p2".into(), stamp: at(3, 5) }),
            ("g 3 5", Message::Raised(Generation { epoch: Epoch(3), number: 5 })),
            ("s p2 3 6", Message::Seen(Generation { epoch: Epoch(3), number: 6 })),
            ("r 17", Message::Revised(17)),
            ("k p2 17", Message::Learned(17)),
            ("f c1 0", Message::Fetched { lock: "c1".into(), stored: false }),
        ] {
            assert_eq!(Message::read(text), Some(message), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in [
            "",
            "n",
            "n 1 2 3",
            "n 1 2 3 p q",
            "n x 2 3 p",
            "n 1 2 -3 p",
            "a p 1",
            "a p 1 2\nx",
            "b p 1 2",
            "g 1",
            "g 1 x",
            "s p 1",
            "s p 1 2\nx",
            "r",
            "r x",
            "r 1\nx",
            "k 1",
            "k p x",
            "f c",
            "f c 2",
        ] {
            assert_eq!(Message::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_tag_with_a_line_break_is_never_listed_in_lines() {
        assert_eq!(lines(&[Tag::family("a"), Tag::group("h", "x\n*")]), None);
        assert_eq!(tags_in(&lines(&[]).unwrap()), []);
    }

    #[test]
    fn repetitions_of_the_same_tags_after_the_same_time_are_one() {
        let again = |after, tags: &[&str]| Again {
            after: Duration::from_millis(after),
            tags: tags.iter().map(|tag| Tag::family(tag)).collect(),
        };
        let all = [again(5, &["a", "b"]), again(6, &["a", "b"]), again(5, &["ab"]), again(5, &["a"])];
        for (n, one) in all.iter().enumerate() {
            assert!(Intent { id: one.id(), tags: Vec::new() }.is_repetition());
            assert!(all.iter().enumerate().all(|(m, other)| (one.id() == other.id()) == (n == m)), "{one:?}");
        }
        assert!(!Intent { id: "0a".into(), tags: Vec::new() }.is_repetition());
    }

    proptest! {
        #[test]
        fn locks_and_their_ends_are_read_as_they_were_written(
            epoch: u64, sequence: u64, id in "[0-9a-f:]{1,20}", stored: bool,
        ) {
            let lock = FleetLock { stamp: at(epoch, sequence), id: id.as_str().into() };
            let end = Message::Fetched { lock: lock.id.clone(), stored };
            prop_assert_eq!(Message::read(&fetched(&lock, stored)), Some(end));
            prop_assert_eq!(FleetLock::of_text(&lock.text()), Some(lock));
        }

        #[test]
        fn tags_come_out_of_lines_as_they_went_in(names in prop::collection::vec("[^\n]{1,20}", 0..9)) {
            let tags: Vec<Tag> = names.iter().map(|name| Tag::group("h", name)).collect();
            prop_assert_eq!(tags_in(&lines(&tags).unwrap()), tags);
        }

        #[test]
        fn no_text_is_too_strange_to_be_read(text in "[naf] ?(\\PC|\n| |[0-9])*") {
            let _ = Message::read(&text);
        }
    }
}

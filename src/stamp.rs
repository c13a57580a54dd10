//! Tags, sequences and stamps: the integers that decide whether an entry is *current*. Pure: no clock, no I/O.
//!
//! Every invalidation takes the next **sequence** and leaves it as the **mark** of each of its tags. Every entry
//! carries the **stamp** (epoch and last sequence issued) that was read *before* the fetch that made it. An entry
//! whose stamp is older than the mark of any of its tags may show the state before that write.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Strictly increasing number of an invalidation. In Redis: microseconds of Redis's clock, made strictly increasing.
pub type Sequence = u64;

/// Identity of a run of sequences. A new one starts whenever sequences may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub u64);

/// (epoch, sequence) read before the fetch that made an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The epoch in which `sequence` was issued.
    pub epoch: Epoch,
    /// The last sequence issued when the stamp was read; never the clock.
    pub sequence: Sequence,
}

/// What an invalidation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its epoch and sequence.
    pub stamp: Stamp,
    /// The last sequence that was issued before it.
    pub previous: Sequence,
}

impl Taken {
    /// The stamp for the answer of the very write that caused this invalidation, sent after `before` was read; `None`
    /// if anything else was invalidated in between: the answer may be older than that write.
    pub fn stamp_of_answer(&self, before: &View) -> Option<Stamp> {
        let is_alone = self.stamp.epoch == before.stamp.epoch && self.previous == before.stamp.sequence;
        is_alone.then_some(self.stamp)
    }
}

/// What a reader learned of the marks of some tags at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Epoch and last sequence issued: the stamp of a fetch that begins after this view.
    pub stamp: Stamp,
    /// The highest of the floor and the marks of the tags in question.
    pub newest: Sequence,
}

impl View {
    /// Whether something stamped `stamp` is current for the tags of this view: same epoch, and no mark (nor the
    /// floor) is younger than it.
    pub fn is_current(&self, stamp: Stamp) -> bool {
        stamp.epoch == self.stamp.epoch && stamp.sequence >= self.newest
    }
}

/// Anything an entry can be outdated by. Text forms: `*` (everything), `booking:stats:42` (family levels and
/// instances), `uri:/v1.0/users` (a path, whatever its query and host), `group api.example/prices` (a group that
/// responses of this host named).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag that every entry carries.
    pub fn root() -> Tag {
        Tag(Arc::from("*"))
    }

    /// The tag of a normalised path. The query is left out on purpose: a write to `/users/7` outdates
    /// `/users/7?lang=de` as well.
    pub fn uri(path: &str) -> Tag {
        Tag(Arc::from(format!("uri:{path}")))
    }

    /// A family, one of its levels, or an instance.
    pub fn family(text: &str) -> Tag {
        Tag(Arc::from(text))
    }

    /// A group of responses of one origin (RFC 9875 §2.1). `host` as in [`crate::target::Target::host`], never empty;
    /// `name` is any text. The scheme is left out: an invalidation over http reaches the https twin too.
    ///
    /// No family or instance has a space in its tag, and no host a slash, so that this is nobody else's tag whatever
    /// the name is.
    pub fn group(host: &str, name: &str) -> Tag {
        Tag(Arc::from(format!("group {host}/{name}")))
    }

    /// A group under every host name: carried beside [`Tag::group`], for operators, who name a group and no host.
    pub fn group_anywhere(name: &str) -> Tag {
        // No origin has an empty host.
        Tag::group("", name)
    }

    /// Whether it stands for a family, a level or an instance.
    pub fn is_of_family(&self) -> bool {
        let text = self.as_str();
        !(text == "*" || text.starts_with("uri:") || text.starts_with("group "))
    }

    /// The text form, as it stands in Redis.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Index of a tag's slot in a [`Marks`] table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

/// The marks of all tags in a fixed table of hashed slots: no memory per tag, no lock. Two tags that share a slot
/// cost each other a miss now and then; they can never cause a stale hit.
///
/// Without a store the table is the authority, and issues the sequences. With one it is a copy of the store's marks:
/// every invalidation up to its stamp's sequence is in it.
pub struct Marks {
    /// Zero, which is no epoch, while the table is changed from one to another.
    epoch: AtomicU64,
    sequence: AtomicU64,
    floor: AtomicU64,
    slots: Box<[AtomicU64]>,
}

/// What is current for nothing, and proves nothing current.
const NOTHING: View = View { stamp: Stamp { epoch: Epoch(0), sequence: 0 }, newest: Sequence::MAX };

impl Marks {
    /// A table of `slots` slots (rounded up to a power of two; 8 bytes each) in the given epoch.
    pub fn new(epoch: Epoch, slots: usize) -> Marks {
        let slots = slots.clamp(1, 1 << 30).next_power_of_two();
        Marks {
            epoch: AtomicU64::new(epoch.0),
            // Sequence 0 is "never": a fresh table's stamp must not be older than an empty slot.
            sequence: AtomicU64::new(1),
            floor: AtomicU64::new(0),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The slot of a tag; computed once per entry, when it comes into L1.
    pub fn slot(&self, tag: &Tag) -> Slot {
        let mut hasher = std::hash::DefaultHasher::new();
        tag.hash(&mut hasher);
        // The table has at most 2^30 slots, so the masked hash fits in 32 bits.
        Slot((hasher.finish() & (self.slots.len() as u64 - 1)) as u32)
    }

    /// The stamp of a fetch that begins now.
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: Epoch(self.epoch.load(SeqCst)), sequence: self.sequence.load(SeqCst) }
    }

    /// What these slots say now.
    pub fn view(&self, slots: impl IntoIterator<Item = Slot>) -> View {
        // The stamp before the marks: it must not cover an invalidation that the marks seen do not. Otherwise a
        // flight with this stamp would look young enough to a reader after that write, while the stale response
        // that it validates, or falls back on, was judged without it.
        let stamp = self.stamp();
        let marks = slots.into_iter().map(|slot| self.slots[slot.0 as usize].load(SeqCst));
        let newest = marks.fold(self.floor.load(SeqCst), Sequence::max);
        // Between two epochs marks are wiped: what was read then is of neither.
        if self.epoch.load(SeqCst) == stamp.epoch.0 { View { stamp, newest } } else { NOTHING }
    }

    /// Takes the next sequence and marks the tags with it. When this returns, no entry stamped earlier that
    /// carries one of the tags is current any more.
    pub fn invalidate<'t>(&self, tags: impl IntoIterator<Item = &'t Tag>) -> Taken {
        let previous = self.sequence.fetch_add(1, SeqCst);
        let sequence = previous + 1;
        for tag in tags {
            self.slots[self.slot(tag).0 as usize].fetch_max(sequence, SeqCst);
        }
        Taken { stamp: Stamp { epoch: Epoch(self.epoch.load(SeqCst)), sequence }, previous }
    }

    /// Takes over marks that the store has issued. For a copy; by one task at a time.
    pub fn apply<'t>(&self, marks: impl IntoIterator<Item = (&'t Tag, Sequence)>) {
        for (tag, sequence) in marks {
            self.slots[self.slot(tag).0 as usize].fetch_max(sequence, SeqCst);
        }
    }

    /// Every invalidation up to here is in the table now.
    pub fn applied(&self, sequence: Sequence) {
        self.sequence.fetch_max(sequence, SeqCst);
    }

    /// Marks have been missed, all of them up to here: what is older is not trusted any more.
    pub fn raise_floor(&self, sequence: Sequence) {
        self.floor.fetch_max(sequence, SeqCst);
        self.applied(sequence);
    }

    /// What is older than this is not trusted any more, although not every invalidation up to it is in the table.
    pub fn distrust(&self, sequence: Sequence) {
        self.floor.fetch_max(sequence, SeqCst);
    }

    /// Begins another epoch of the store's, of which nothing is known but that `stamp` was issued: what is older is
    /// not trusted. Sequences of two epochs cannot be compared, so that the marks of the one before are wiped.
    pub fn begin(&self, stamp: Stamp) {
        self.epoch.store(0, SeqCst);
        self.slots.iter().for_each(|slot| slot.store(0, SeqCst));
        self.floor.store(stamp.sequence, SeqCst);
        self.sequence.store(stamp.sequence, SeqCst);
        self.epoch.store(stamp.epoch.0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        Marks::new(Epoch(7), 1 << 12)
    }

    fn view_of(marks: &Marks, tag: &Tag) -> View {
        marks.view([marks.slot(tag)])
    }

    #[test]
    fn groups_are_nobody_elses_tags_whatever_their_names() {
        let names = ["*", "", "/", "x", "/x", "h/x", "uri:/x", "group h/x", "a b", "\n", "(sentinel)", "ä"];
        let mut tags: Vec<Tag> = vec![Tag::root(), Tag::uri("/x"), Tag::family("group"), Tag::family("group:h/x")];
        tags.push(Tag::family("(sentinel)"));
        for name in names {
            tags.extend([Tag::group("h", name), Tag::group("h:80", name), Tag::group_anywhere(name)]);
        }
        let count = tags.len();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), count);
    }

    #[test]
    fn what_was_stamped_before_an_invalidation_is_not_current_after_it() {
        let (marks, tag) = (marks(), Tag::family("user_list"));
        let before = marks.stamp();
        assert!(view_of(&marks, &tag).is_current(before));
        marks.invalidate([&tag]);
        assert!(!view_of(&marks, &tag).is_current(before));
        assert!(view_of(&marks, &tag).is_current(marks.stamp()));
    }

    #[test]
    fn other_tags_stay_current() {
        let marks = marks();
        let (a, b) = (Tag::family("a"), Tag::family("b"));
        assert_ne!(marks.slot(&a), marks.slot(&b));
        let before = marks.stamp();
        marks.invalidate([&a]);
        assert!(view_of(&marks, &b).is_current(before));
    }

    #[test]
    fn the_answer_of_a_write_is_stamped_only_if_no_other_write_came_in_between() {
        let (marks, tag) = (marks(), Tag::family("a"));
        let before = view_of(&marks, &tag);
        let taken = marks.invalidate([&tag]);
        let stamp = taken.stamp_of_answer(&before).unwrap();
        assert!(view_of(&marks, &tag).is_current(stamp));
        let before = view_of(&marks, &tag);
        marks.invalidate([&Tag::family("b")]);
        assert_eq!(marks.invalidate([&tag]).stamp_of_answer(&before), None);
    }

    #[test]
    fn a_copy_knows_what_it_has_applied_and_trusts_nothing_older_than_its_floor() {
        let (marks, tag) = (marks(), Tag::family("a"));
        let at = |sequence| Stamp { epoch: Epoch(9), sequence };
        marks.begin(at(100));
        assert!(!view_of(&marks, &tag).is_current(at(99)) && view_of(&marks, &tag).is_current(at(100)));
        marks.apply([(&tag, 120)]);
        assert_eq!(marks.stamp(), at(100), "others may have been missed");
        assert!(!view_of(&marks, &tag).is_current(at(119)) && view_of(&marks, &tag).is_current(at(120)));
        marks.applied(120);
        assert_eq!(marks.stamp(), at(120));
        marks.raise_floor(200);
        assert!(!view_of(&marks, &Tag::family("b")).is_current(at(199)));
        assert_eq!(marks.stamp(), at(200));
        // Redis's clock was set back: the new epoch's sequences are lower.
        marks.begin(Stamp { epoch: Epoch(10), sequence: 50 });
        assert!(view_of(&marks, &tag).is_current(Stamp { epoch: Epoch(10), sequence: 50 }));
        assert!(!view_of(&marks, &tag).is_current(at(500)));
    }

    #[test]
    fn nothing_is_current_by_what_was_read_while_the_epoch_changed() {
        let marks = Arc::new(marks());
        let (tag, changing) = (Tag::family("a"), Arc::clone(&marks));
        let outdated = |epoch| Stamp { epoch: Epoch(epoch), sequence: 10 };
        // In every epoch the tag's mark is above 10 from the moment that the epoch is there.
        marks.begin(Stamp { epoch: Epoch(1), sequence: 20 });
        let changer = std::thread::spawn(move || {
            (2..2000).for_each(|epoch| changing.begin(Stamp { epoch: Epoch(epoch), sequence: 20 }));
        });
        while !changer.is_finished() {
            let view = view_of(&marks, &tag);
            assert!(!view.is_current(outdated(view.stamp.epoch.0)), "{view:?}");
        }
        changer.join().unwrap();
    }

    #[test]
    fn another_epoch_is_never_current() {
        let (marks, tag) = (marks(), Tag::root());
        let stamp = Stamp { epoch: Epoch(8), sequence: u64::MAX };
        assert!(!view_of(&marks, &tag).is_current(stamp));
    }

    #[test]
    fn tags_sharing_the_only_slot_cost_a_miss_and_never_a_stale_hit() {
        let marks = Marks::new(Epoch(1), 1);
        let before = marks.stamp();
        marks.invalidate([&Tag::family("a")]);
        assert!(!view_of(&marks, &Tag::family("b")).is_current(before));
    }
}

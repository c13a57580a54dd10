//! Tags, sequences and stamps: the integers that decide whether an entry is *current*. Pure: no clock, no I/O.
//!
//! Every invalidation takes the next **sequence** and leaves it as the **mark** of each of its tags. Every entry
//! carries the **stamp** (epoch and last sequence issued) that was read *before* the fetch that made it. An entry
//! whose stamp is older than the mark of any of its tags may show the state before that write.
//!
//! A **soft** invalidation gives its tags a *grace*: what it outdates may be served stale until that ends. Its sequence
//! stands as the **soft mark** of a tag, beside the hard one, and counts as a hard one when the grace is over.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

mod soft;

use soft::{Looked, SoftMarks};

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
    /// The highest of the floor and the marks of the tags in question, soft ones whose grace is over included.
    pub newest: Sequence,
    /// What the other soft marks of these tags amount to.
    pub soft: Option<SoftMark>,
}

/// The soft marks of some tags, as far as their graces are not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftMark {
    /// The highest sequence of them.
    pub newest: Sequence,
    /// The shortest time left of their graces; above zero.
    pub left: Duration,
}

/// Whether something may still show the state after the writes that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No write has outdated it.
    Current,
    /// Soft invalidations alone have outdated it: it may be served stale for as long as this.
    Softened {
        /// Above zero.
        left: Duration,
    },
    Outdated,
}

impl View {
    /// A view of hard marks alone.
    pub fn hard(stamp: Stamp, newest: Sequence) -> View {
        View { stamp, newest, soft: None }
    }

    /// The same with a soft mark of one of its tags. `left`: of its grace; zero when it is over.
    #[must_use]
    pub fn softened(self, mark: Sequence, left: Duration) -> View {
        self.with(Looked::default().with(mark, left))
    }

    fn with(self, Looked { over, pending }: Looked) -> View {
        let newest = self.newest.max(over);
        let pending = pending.into_iter().chain(self.soft.map(|soft| (soft.newest, soft.left)));
        let soft = pending.reduce(|(a, left), (b, also)| (a.max(b), left.min(also)));
        View { newest, soft: soft.map(|(newest, left)| SoftMark { newest, left }), ..self }
    }

    /// What is to be thought of something stamped `stamp` that carries the tags of this view.
    pub fn standing(&self, stamp: Stamp) -> Standing {
        match self.soft {
            _ if !self.is_current(stamp) => Standing::Outdated,
            Some(soft) if stamp.sequence < soft.newest => Standing::Softened { left: soft.left },
            _ => Standing::Current,
        }
    }

    /// Whether something stamped `stamp` may be used: same epoch, and no mark (nor the floor) is younger than it. A soft
    /// invalidation alone does not forbid it before its grace is over.
    pub fn is_current(&self, stamp: Stamp) -> bool {
        stamp.epoch == self.stamp.epoch && stamp.sequence >= self.newest
    }
}

/// A tag that a soft invalidation outdates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Softened {
    pub tag: Tag,
    /// For how long what carries it may be served stale.
    pub grace: Duration,
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
    soft: SoftMarks,
}

/// What is current for nothing, and proves nothing current.
const NOTHING: View = View { stamp: Stamp { epoch: Epoch(0), sequence: 0 }, newest: Sequence::MAX, soft: None };

impl Marks {
    /// A table of `slots` slots (rounded up to a power of two; 8 bytes each, and 16 more once there is a soft mark) in the
    /// given epoch.
    pub fn new(epoch: Epoch, slots: usize) -> Marks {
        let slots = slots.clamp(1, 1 << 30).next_power_of_two();
        Marks {
            epoch: AtomicU64::new(epoch.0),
            // Sequence 0 is "never": a fresh table's stamp must not be older than an empty slot.
            sequence: AtomicU64::new(1),
            floor: AtomicU64::new(0),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            soft: SoftMarks::new(slots),
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

    /// What these slots say now. `now`: the process's clock, nanoseconds; read only if there is a soft mark.
    pub fn view<I>(&self, slots: I, now: impl Fn() -> u64) -> View
    where
        I: IntoIterator<Item = Slot>,
        I::IntoIter: Clone,
    {
        self.view_of(slots, 0, now)
    }

    /// The same for something stamped with `sequence`. If that is younger than all soft marks, it takes no look at them:
    /// they count as hard ones then, which makes no difference to it.
    pub fn view_of<I>(&self, slots: I, sequence: Sequence, now: impl Fn() -> u64) -> View
    where
        I: IntoIterator<Item = Slot>,
        I::IntoIter: Clone,
    {
        let slots = slots.into_iter();
        // The stamp before the marks: it must not cover an invalidation that the marks seen do not. Otherwise a
        // flight with this stamp would look young enough to a reader after that write, while the stale response
        // that it validates, or falls back on, was judged without it.
        let stamp = self.stamp();
        // The soft marks before the hard ones: one that is over may become a hard one in between.
        let softened = self.soft.newest();
        let looked = match sequence >= softened {
            true => Looked { over: softened, pending: None },
            false => self.soft.look(slots.clone(), now),
        };
        let marks = slots.map(|slot| self.slots[slot.0 as usize].load(SeqCst));
        let newest = marks.fold(self.floor.load(SeqCst), Sequence::max);
        // Between two epochs marks are wiped: what was read then is of neither.
        if self.epoch.load(SeqCst) == stamp.epoch.0 { View::hard(stamp, newest).with(looked) } else { NOTHING }
    }

    /// Takes the next sequence and marks the tags with it. When this returns, no entry stamped earlier that
    /// carries one of the tags is current any more.
    pub fn invalidate<'t>(&self, tags: impl IntoIterator<Item = &'t Tag>) -> Taken {
        self.invalidate_and_soften(tags, [], 0)
    }

    /// The same, and softens other tags: each until the end of its grace. `now`: the process's clock, nanoseconds.
    pub fn invalidate_and_soften<'t>(
        &self,
        tags: impl IntoIterator<Item = &'t Tag>,
        softened: impl IntoIterator<Item = &'t Softened>,
        now: u64,
    ) -> Taken {
        let previous = self.sequence.fetch_add(1, SeqCst);
        let sequence = previous + 1;
        for tag in tags {
            self.slots[self.slot(tag).0 as usize].fetch_max(sequence, SeqCst);
        }
        for Softened { tag, grace } in softened {
            self.soften(tag, sequence, now.saturating_add(nanos(*grace)), now);
        }
        Taken { stamp: Stamp { epoch: Epoch(self.epoch.load(SeqCst)), sequence }, previous }
    }

    /// Takes over marks that the store has issued. For a copy; by one task at a time.
    pub fn apply<'t>(&self, marks: impl IntoIterator<Item = (&'t Tag, Sequence)>) {
        for (tag, sequence) in marks {
            self.slots[self.slot(tag).0 as usize].fetch_max(sequence, SeqCst);
        }
    }

    /// Takes over a soft mark; `end`: of its grace, by the process's clock, as is `now`; nanoseconds.
    pub fn soften(&self, tag: &Tag, sequence: Sequence, end: u64, now: u64) {
        let slot = self.slot(tag);
        self.soft.add(slot, sequence, end, now, &self.slots[slot.0 as usize]);
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
        self.soft.wipe();
        self.floor.store(stamp.sequence, SeqCst);
        self.sequence.store(stamp.sequence, SeqCst);
        self.epoch.store(stamp.epoch.0, SeqCst);
    }
}

/// More than five hundred years are for ever.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> Marks {
        Marks::new(Epoch(7), 1 << 12)
    }

    fn view_of(marks: &Marks, tag: &Tag) -> View {
        view_at(marks, tag, 0)
    }

    fn view_at(marks: &Marks, tag: &Tag, now: u64) -> View {
        marks.view([marks.slot(tag)], || now)
    }

    fn softened(name: &str, grace: u64) -> Softened {
        Softened { tag: Tag::family(name), grace: Duration::from_nanos(grace) }
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

    #[test]
    fn what_a_soft_write_outdates_is_softened_until_the_grace_is_over() {
        let (marks, tag) = (marks(), Tag::family("a"));
        let before = marks.stamp();
        marks.invalidate_and_soften([], [&softened("a", 100)], 1000);
        let left = |nanos| Standing::Softened { left: Duration::from_nanos(nanos) };
        for (now, expected) in
            [(1000, left(100)), (1099, left(1)), (1100, Standing::Outdated), (9000, Standing::Outdated)]
        {
            let view = view_at(&marks, &tag, now);
            assert_eq!(view.standing(before), expected, "{now}");
            assert_eq!(view.standing(marks.stamp()), Standing::Current, "fetched since");
            assert_eq!(view.is_current(before), expected != Standing::Outdated);
        }
        let other = view_at(&marks, &Tag::family("b"), 1000);
        assert_eq!(other.standing(before), Standing::Current);
    }

    #[test]
    fn soft_writes_in_a_row_do_not_put_the_end_of_the_grace_off() {
        let (marks, tag) = (marks(), Tag::family("a"));
        let before = marks.stamp();
        marks.invalidate_and_soften([], [&softened("a", 100)], 0);
        let between = marks.stamp();
        marks.invalidate_and_soften([], [&softened("a", 100)], 60);
        for stamp in [before, between] {
            assert_eq!(
                view_at(&marks, &tag, 99).standing(stamp),
                Standing::Softened { left: Duration::from_nanos(1) }
            );
            assert_eq!(view_at(&marks, &tag, 100).standing(stamp), Standing::Outdated);
        }
        // When it is over, the next one has a grace of its own; what the first outdated stays outdated.
        let third = marks.stamp();
        marks.invalidate_and_soften([], [&softened("a", 100)], 150);
        let view = view_at(&marks, &tag, 200);
        assert_eq!(view.standing(before), Standing::Outdated);
        assert_eq!(view.standing(third), Standing::Softened { left: Duration::from_nanos(50) });
    }

    #[test]
    fn a_hard_write_wins_and_the_next_soft_one_has_a_whole_grace() {
        let (marks, tag) = (marks(), Tag::family("a"));
        let before = marks.stamp();
        marks.invalidate_and_soften([], [&softened("a", 100)], 0);
        marks.invalidate([&tag]);
        assert_eq!(view_at(&marks, &tag, 10).standing(before), Standing::Outdated);
        let since = marks.stamp();
        marks.invalidate_and_soften([], [&softened("a", 100)], 90);
        assert_eq!(
            view_at(&marks, &tag, 110).standing(since),
            Standing::Softened { left: Duration::from_nanos(80) }
        );
    }

    #[test]
    fn what_is_younger_than_all_soft_marks_asks_no_clock() {
        let (marks, tag) = (marks(), Tag::family("a"));
        let of = |stamp: Stamp| {
            marks.view_of([marks.slot(&tag)], stamp.sequence, || panic!("the clock was read")).standing(stamp)
        };
        assert_eq!(of(marks.stamp()), Standing::Current);
        let before = marks.stamp();
        marks.invalidate_and_soften([], [&softened("other", 100)], 0);
        assert_eq!(of(marks.stamp()), Standing::Current);
        assert_eq!(of(before), Standing::Current, "no soft mark in its slot");
        // A flight that began before must not look current to whoever has looked at nothing but a younger entry.
        let view = marks.view_of([marks.slot(&tag)], marks.stamp().sequence, || 0);
        assert!(!view.is_current(before));
    }

    #[test]
    fn another_epoch_knows_no_soft_mark() {
        let (marks, tag) = (marks(), Tag::family("a"));
        marks.begin(Stamp { epoch: Epoch(1), sequence: 100 });
        marks.soften(&tag, 120, 50, 0);
        marks.begin(Stamp { epoch: Epoch(2), sequence: 10 });
        let stamp = Stamp { epoch: Epoch(2), sequence: 10 };
        assert_eq!(view_at(&marks, &tag, 90).standing(stamp), Standing::Current);
    }

    #[test]
    fn no_end_is_ever_read_with_the_sequence_of_another() {
        let marks = Arc::new(Marks::new(Epoch(1), 1));
        let (tag, writing) = (Tag::family("a"), Arc::clone(&marks));
        let writer = std::thread::spawn(move || {
            // Each is over when the next one comes, so that each has an end of its own.
            (1..200_000).for_each(|n| writing.soften(&Tag::family("a"), n, n * 3 + 7, n * 3 + 6));
        });
        let mut seen = 0;
        while !writer.is_finished() {
            let view = view_at(&marks, &tag, 0);
            if let Some(soft) = view.soft.filter(|_| view.newest != Sequence::MAX) {
                assert_eq!(soft.left, Duration::from_nanos(soft.newest * 3 + 7));
                assert!(soft.newest >= seen, "never an older one");
                seen = soft.newest;
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn no_reader_misses_a_mark_that_becomes_a_hard_one() {
        let marks = Arc::new(Marks::new(Epoch(1), 1));
        let (tag, writing) = (Tag::family("a"), Arc::clone(&marks));
        let outdated = Stamp { epoch: Epoch(1), sequence: 1 };
        marks.soften(&tag, 2, 10, 0);
        let writer = std::thread::spawn(move || {
            (3..200_000).for_each(|n| writing.soften(&Tag::family("a"), n, n * 10, n * 10 - 5));
        });
        while !writer.is_finished() {
            // Its grace was over before the second mark came.
            assert_eq!(view_at(&marks, &tag, 10).standing(outdated), Standing::Outdated);
        }
        writer.join().unwrap();
    }

    /// One tag as the words of this module have it: every soft invalidation, with the end of its grace.
    #[derive(Default)]
    struct Model {
        hard: Sequence,
        pending: Vec<(Sequence, u64)>,
        /// What every single one of them has promised: its sequence, and when it is as good as hard at the latest.
        promised: Vec<(Sequence, u64)>,
    }

    impl Model {
        fn soften(&mut self, sequence: Sequence, end: u64, now: u64) {
            self.promised.push((sequence, end));
            self.turn_over(now);
            // All that are pending have the end of the first.
            let end = self.pending.iter().map(|(_, end)| *end).min().unwrap_or(end).min(end);
            self.pending.push((sequence, end));
        }

        fn harden(&mut self, sequence: Sequence) {
            self.promised.push((sequence, 0));
            self.hard = self.hard.max(sequence);
            self.pending.retain(|(pending, _)| *pending > sequence);
        }

        /// The mildest standing that breaks no promise.
        fn mildest(&self, sequence: Sequence, now: u64) -> u8 {
            let broken = self.promised.iter().filter(|(promised, _)| sequence < *promised);
            broken.map(|(_, end)| if *end <= now { 2 } else { 1 }).max().unwrap_or(0)
        }

        fn turn_over(&mut self, now: u64) {
            if self.pending.iter().any(|(_, end)| *end <= now) {
                let newest = self.pending.drain(..).map(|(sequence, _)| sequence).max().unwrap_or(0);
                self.hard = self.hard.max(newest);
            }
        }

        fn standing(&mut self, sequence: Sequence, now: u64) -> Standing {
            self.turn_over(now);
            match self.pending.iter().map(|(_, end)| *end).min() {
                _ if sequence < self.hard => Standing::Outdated,
                Some(end) if self.pending.iter().any(|(pending, _)| sequence < *pending) => {
                    Standing::Softened { left: Duration::from_nanos(end - now) }
                }
                _ => Standing::Current,
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Soften { tag: usize, grace: u64 },
        Harden { tag: usize },
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_usize, 1..40_u64).prop_map(|(tag, grace)| Step::Soften { tag, grace }),
            (0..3_usize).prop_map(|tag| Step::Harden { tag }),
            (1..30_u64).prop_map(Step::Wait),
        ]
    }

    fn severity(standing: Standing) -> u8 {
        match standing {
            Standing::Current => 0,
            Standing::Softened { .. } => 1,
            Standing::Outdated => 2,
        }
    }

    proptest! {
        #[test]
        fn soft_marks_do_as_the_model_and_in_shared_slots_err_toward_a_miss(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let names = ["a", "b", "c"].map(Tag::family);
            let (wide, narrow) = (marks(), Marks::new(Epoch(7), 1));
            let mut models = [Model::default(), Model::default(), Model::default()];
            let mut now = 0;
            for step in steps {
                for marks in [&wide, &narrow] {
                    match &step {
                        Step::Soften { tag, grace } => {
                            let softened = Softened { tag: names[*tag].clone(), grace: Duration::from_nanos(*grace) };
                            marks.invalidate_and_soften([], [&softened], now);
                        }
                        Step::Harden { tag } => drop(marks.invalidate([&names[*tag]])),
                        Step::Wait(_) => {}
                    }
                }
                let sequence = wide.stamp().sequence;
                match step {
                    Step::Soften { tag, grace } => models[tag].soften(sequence, now + grace, now),
                    Step::Harden { tag } => models[tag].harden(sequence),
                    Step::Wait(time) => now += time,
                }
                for (model, tag) in models.iter_mut().zip(&names) {
                    for asked in 1..=sequence {
                        let stamp = Stamp { epoch: Epoch(7), sequence: asked };
                        let expected = model.standing(asked, now);
                        prop_assert_eq!(view_at(&wide, tag, now).standing(stamp), expected);
                        prop_assert!(severity(expected) >= model.mildest(asked, now));
                        let shared = view_at(&narrow, tag, now).standing(stamp);
                        prop_assert!(severity(shared) >= model.mildest(asked, now), "{:?} for {:?}", shared, expected);
                        let quick = wide.view_of([wide.slot(tag)], asked, || now).standing(stamp);
                        prop_assert_eq!(quick, expected);
                    }
                }
            }
        }
    }
}

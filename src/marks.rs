//! Tags, sequences and stamps: the integers that decide whether an entry is *current*. Pure: no clock, no I/O.
//!
//! Every invalidation takes the next **sequence** and sets it as the **mark** of each of its tags. Every entry
//! carries the **stamp** (epoch and last sequence issued) that was read *before* the fetch that made it. An entry
//! whose stamp is older than the mark of any of its tags may show the state before that write, and is not current. Where marks
//! may have been missed, the **floor** is raised: no entry stamped below it is current, whatever its tags.
//!
//! A **soft** invalidation gives its tags a *grace*: what it invalidates may be served stale until the grace ends. Its sequence
//! is the **soft mark** of a tag, beside the hard one, and counts as a hard mark when the grace is over.
//!
//! Marks are exact for tags that are *held*: by entries in memory, and by fetches from before their stamps are read. `held`
//! argues why no mark is lost when tags become held or cease to be.
//!
//! A sequence is a time, with and without Redis. So it is known whether a write falls in the second of a `Last-Modified` or
//! in the next one; then that date alone (`If-Modified-Since` without `If-None-Match`) gives no 304 (RFC 9110 §8.8.2.2). With a
//! store, the marks of each tag are read for that. Only the latest invalidation of a tag is known.
//!
//! Soft marks stand beside hard ones: a soft-invalidated tag has a sequence and the end of a grace. Until then an older entry
//! is *soft-invalidated*: it counts as stale (RFC 9111 §4.2.4), and is served with one refetch in the background, which
//! followers share. Afterwards the soft mark counts as a hard one. Another soft invalidation does not extend the grace, and
//! whatever is lost or uncertain counts as hard. An entry younger than all soft marks looks at none, so that they cost nothing
//! where no rule is soft. A write's target, its `Location`s and its groups are invalidated hard; so are writes without an
//! answer, intents that another proxy carries out, and pending invalidations. Graces run by Redis's clock, and in memory by the
//! process's own.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

mod held;
mod mark_table;
mod soft;

pub use held::HeldTags;
use held::{HeldMarks, MarkNumber};
use soft::Looked;

/// Strictly increasing number of an invalidation: microseconds since 1970 of Redis's clock, or without Redis of the
/// process's own, made strictly increasing. So it also says when the invalidation was, as well as that clock does.
pub type Sequence = u64;

/// The time by both clocks; the caller reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Microseconds since 1970, by the wall clock.
    pub wall: u64,
    /// Nanoseconds of the process's clock, which is never set.
    pub steady: u64,
}

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
pub struct IssuedStamp {
    /// Its epoch and sequence.
    pub stamp: Stamp,
    /// The last sequence that was issued before it.
    pub previous: Sequence,
    /// The latest invalidation before it of any of the tags that were asked for, hard or soft, or the floor; `None` if none were.
    pub latest: Option<Sequence>,
}

impl IssuedStamp {
    /// The stamp for the response to the write that caused this invalidation, sent after `before` was read; `None`
    /// if one of the tags that were asked for, which must be all of the response's, was invalidated in between: the response
    /// may be older than that other write.
    pub fn stamp_of_answer(&self, before: &MarksView) -> Option<Stamp> {
        let is_alone = self.stamp.epoch == before.stamp.epoch
            && self.latest.is_some_and(|latest| latest <= before.stamp.sequence);
        is_alone.then_some(self.stamp)
    }
}

/// The marks of some tags at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarksView {
    /// Epoch and last sequence issued: the stamp of a fetch that begins after this view.
    pub stamp: Stamp,
    /// The highest of the floor and the marks of the tags in question, soft ones whose grace is over included.
    pub newest: Sequence,
    /// The other soft marks of these tags.
    pub soft: Option<SoftMark>,
}

/// The soft marks of some tags whose graces are not over, in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftMark {
    /// The highest sequence of them.
    pub newest: Sequence,
    /// The shortest time left of their graces; above zero.
    pub left: Duration,
}

/// Whether an entry shows the state after all invalidations of its tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// No invalidation came after its stamp.
    Current,
    /// Only soft invalidations did: it may be served stale for as long as this.
    SoftInvalidated {
        /// Above zero.
        left: Duration,
    },
    Invalidated,
}

impl MarksView {
    /// A view in which no entry is current, and whose stamp makes no entry current.
    pub const NOTHING: MarksView =
        MarksView { stamp: Stamp { epoch: Epoch(0), sequence: 0 }, newest: Sequence::MAX, soft: None };

    /// A view of hard marks alone.
    pub fn hard(stamp: Stamp, newest: Sequence) -> MarksView {
        MarksView { stamp, newest, soft: None }
    }

    /// The same with the soft mark of one of its tags. `left`: the rest of its grace; zero when that is over.
    #[must_use]
    pub fn soft(self, mark: Sequence, left: Duration) -> MarksView {
        self.with(Looked::default().with(mark, left))
    }

    fn with(self, Looked { over, pending }: Looked) -> MarksView {
        let newest = self.newest.max(over);
        let pending = pending.into_iter().chain(self.soft.map(|soft| (soft.newest, soft.left)));
        let soft = pending.reduce(|(a, left), (b, also)| (a.max(b), left.min(also)));
        MarksView { newest, soft: soft.map(|(newest, left)| SoftMark { newest, left }), ..self }
    }

    /// Whether an entry stamped `stamp` with the tags of this view is current.
    pub fn validity(&self, stamp: Stamp) -> Validity {
        match self.soft {
            _ if !self.is_current(stamp) => Validity::Invalidated,
            Some(soft) if stamp.sequence < soft.newest => Validity::SoftInvalidated { left: soft.left },
            _ => Validity::Current,
        }
    }

    /// Whether an entry stamped `stamp` may be served: it is of the same epoch, and neither a mark nor the floor is younger. A
    /// soft invalidation forbids it only when its grace is over.
    pub fn is_current(&self, stamp: Stamp) -> bool {
        stamp.epoch == self.stamp.epoch && stamp.sequence >= self.newest
    }
}

/// A soft invalidation of one tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftInvalidation {
    pub tag: Tag,
    /// For how long entries with this tag may be served stale.
    pub grace: Duration,
}

/// What stands in place of a family's name for paths that no family claims.
pub const UNCLAIMED: &str = "-";

/// Anything an entry can be invalidated by. Text forms: `*` (everything), `booking:stats:42` (family levels and
/// instances), `uri:/v1.0/users` (a path, whatever its query and host), `group api.example/prices` (a group that
/// responses of this host named), `caller me sha256:…` (the entries of one caller in a family).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag that every entry carries.
    pub fn root() -> Tag {
        // One text for all: every entry carries it.
        static ROOT: LazyLock<Tag> = LazyLock::new(|| Tag(Arc::from("*")));
        ROOT.clone()
    }

    /// The tag of a normalised path. The query is left out on purpose: a write to `/users/7` invalidates
    /// `/users/7?lang=de` as well.
    pub fn uri(path: &str) -> Tag {
        Tag(Arc::from(["uri:", path].concat()))
    }

    /// The entries of paths that no family claims. No family has this name.
    pub fn unclaimed() -> Tag {
        static UNCLAIMED_TAG: LazyLock<Tag> = LazyLock::new(|| Tag::family(UNCLAIMED));
        UNCLAIMED_TAG.clone()
    }

    /// A family, one of its levels, or an instance.
    pub fn family(text: &str) -> Tag {
        Tag(Arc::from(text))
    }

    /// A group of responses of one origin (RFC 9875 §2.1). `host` as in [`crate::http::target::Target::host`], never empty;
    /// `name` is any text. The scheme is left out: an invalidation over http reaches the https twin too.
    ///
    /// No family or instance has a space in its tag, and no host a slash, so this is no other group's or family's tag, whatever
    /// the name is.
    pub fn group(host: &str, name: &str) -> Tag {
        Tag(Arc::from(format!("group {host}/{name}")))
    }

    /// A group under every host name. Entries carry it beside [`Tag::group`], for operators, who name a group and no host.
    pub fn group_anywhere(name: &str) -> Tag {
        // No origin has an empty host.
        Tag::group("", name)
    }

    /// The entries of one caller in a family. `caller`: a digest, without spaces. No family has a space in its tag.
    pub fn caller(family: &str, caller: &str) -> Tag {
        Tag(Arc::from(format!("caller {family} {caller}")))
    }

    /// The name of the group, if this is [`Tag::group_anywhere`].
    pub fn group_name(&self) -> Option<&str> {
        self.as_str().strip_prefix("group /")
    }

    /// The family, if this is [`Tag::caller`].
    pub fn family_of_caller(&self) -> Option<&str> {
        self.as_str().strip_prefix("caller ")?.split(' ').next()
    }

    /// Whether it is [`Tag::caller`].
    pub fn is_of_caller(&self) -> bool {
        self.as_str().starts_with("caller ")
    }

    /// Whether it is the tag of a family, a level or an instance.
    pub fn is_of_family(&self) -> bool {
        let text = self.as_str();
        !(text == "*" || ["uri:", "group ", "caller "].iter().any(|kind| text.starts_with(kind)))
    }

    /// The text form, as in Redis.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        self.as_str()
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

/// The marks of all tags: exact for tags that are held, in hashed slots for the others (`held` has the argument).
/// Entries in memory and fetches hold their tags. Two tags that share a slot can cost a miss, but never a stale hit; a tag that
/// is held costs no other tag anything.
///
/// Without Redis they are the authority, and issue the sequences. With it they are a copy of Redis's marks:
/// every invalidation up to the copy's stamp is in it.
pub struct Marks {
    /// Zero, which is no epoch, while the marks change from one epoch to another.
    epoch: AtomicU64,
    sequence: AtomicU64,
    registry: Arc<HeldMarks>,
    /// No entry stamped below it was current when it was raised, whatever its tags.
    floor: AtomicU64,
    /// The highest sequence of any soft invalidation: none of them has invalidated an entry with this stamp or a later one.
    soft: AtomicU64,
    /// The mark of the root tag, which is part of every view, and always held.
    root: MarkNumber,
}

impl Marks {
    /// Without any invalidation in the given epoch. `slots`: for tags that are not held; rounded up to a power of two, 8
    /// bytes each.
    pub fn new(epoch: Epoch, slots: usize) -> Marks {
        let registry = Arc::new(HeldMarks::new(slots));
        let root = registry.hold_one(Tag::root().as_str());
        Marks {
            epoch: AtomicU64::new(epoch.0),
            // Sequence 0 is "never": a fresh table's stamp must not be older than an empty slot.
            sequence: AtomicU64::new(1),
            registry,
            floor: AtomicU64::new(0),
            soft: AtomicU64::new(0),
            root,
        }
    }

    /// Holds these tags: later invalidations of other tags do not invalidate entries with these. A fetch does this before it
    /// reads its stamp. The root tag is left out, since it is always held.
    pub fn hold<T: AsRef<str>>(&self, tags: impl IntoIterator<Item = T>) -> HeldTags {
        self.registry.hold(tags.into_iter().filter(|tag| tag.as_ref() != "*"))
    }

    /// How many tags are held, the root tag not counted.
    pub fn held(&self) -> usize {
        self.registry.len() - 1
    }

    /// The stamp of a fetch that begins now.
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: Epoch(self.epoch.load(SeqCst)), sequence: self.sequence.load(SeqCst) }
    }

    /// The marks of these tags and of the root tag. `now`: nanoseconds of the process's clock; called only if there is a soft
    /// mark.
    pub fn view(&self, held: &HeldTags, now: impl Fn() -> u64) -> MarksView {
        self.view_of(held, 0, now)
    }

    /// The same for an entry stamped with `sequence`. If that is younger than all soft marks, they are not read, and count as hard
    /// ones, which makes no difference to the entry.
    pub fn view_of(&self, held: &HeldTags, sequence: Sequence, now: impl Fn() -> u64) -> MarksView {
        let marks = || held.marks().iter().chain([&self.root]);
        // The stamp before the marks: it must not cover an invalidation that these marks lack. Otherwise a
        // fetch with this stamp would look young enough to a reader after that write, while the stale response
        // that it validates, or falls back on, was judged without that invalidation.
        let stamp = self.stamp();
        // The soft marks before the hard ones: one that is over may become a hard one in between.
        let soft = self.soft.load(SeqCst);
        let looked = match sequence >= soft {
            true => Looked { over: soft, pending: None },
            false => soft::look(marks().filter_map(|mark| self.registry.soft(*mark)), now),
        };
        let newest = marks().map(|mark| self.registry.hard(*mark).load(SeqCst)).fold(0, Sequence::max);
        // Between two epochs marks are wiped: a mark read then is of neither.
        if self.epoch.load(SeqCst) == stamp.epoch.0 {
            MarksView::hard(stamp, newest).with(looked)
        } else {
            MarksView::NOTHING
        }
    }

    /// Takes the next sequence and marks `tags` with it. When this returns, no entry stamped earlier that
    /// carries one of them is current any more. The tags of `soft` get a soft mark until the end of their grace if they are held,
    /// else a hard one.
    pub fn invalidate<'t>(
        &self,
        tags: impl IntoIterator<Item = &'t Tag>,
        soft: impl IntoIterator<Item = &'t SoftInvalidation>,
        now: Now,
    ) -> IssuedStamp {
        // The clock, but always above the last sequence: a clock may be set back.
        let next = |last: Sequence| now.wall.max(last + 1);
        let previous =
            self.sequence.fetch_update(SeqCst, SeqCst, |last| Some(next(last))).unwrap_or_else(|last| last);
        let sequence = next(previous);
        self.apply(tags.into_iter().map(|tag| (tag, sequence)));
        for SoftInvalidation { tag, grace } in soft {
            self.soft_invalidate(tag, sequence, now.steady.saturating_add(nanos(*grace)), now.steady);
        }
        IssuedStamp { stamp: Stamp { epoch: Epoch(self.epoch.load(SeqCst)), sequence }, previous, latest: None }
    }

    /// Takes over marks that Redis has issued. For a copy; by one task at a time.
    pub fn apply<'t>(&self, marks: impl IntoIterator<Item = (&'t Tag, Sequence)>) {
        marks.into_iter().for_each(|(tag, sequence)| self.registry.invalidate(tag.as_str(), sequence));
    }

    /// Takes over a soft mark. `end` of its grace and `now`: nanoseconds of the process's clock.
    pub fn soft_invalidate(&self, tag: &Tag, sequence: Sequence, end: u64, now: u64) {
        if self.registry.soft_invalidate(tag.as_str(), sequence, end, now) {
            self.soft.fetch_max(sequence, SeqCst);
        }
    }

    /// Every invalidation up to this one is in the marks now.
    pub fn applied(&self, sequence: Sequence) {
        self.sequence.fetch_max(sequence, SeqCst);
    }

    /// Marks may have been missed, up to this sequence: no entry with an older stamp is current any more, unless Redis confirms
    /// the marks of its tags ([`Marks::confirm`]). The copy extends to this sequence.
    pub fn raise_floor(&self, sequence: Sequence) {
        self.distrust(sequence);
        self.applied(sequence);
    }

    /// The same, but invalidations up to this sequence are still missing in the copy.
    pub fn distrust(&self, sequence: Sequence) {
        self.registry.invalidate_all(sequence);
        self.floor.fetch_max(sequence, SeqCst);
    }

    /// Lowers the marks of these tags to what Redis says of them: here they may have been raised by more than their own
    /// invalidations. Redis knows all invalidations up to the view's stamp.
    pub fn confirm(&self, held: &HeldTags, view: &MarksView) {
        let newest = view.soft.map_or(view.newest, |soft| view.newest.max(soft.newest));
        let is_valid = || self.epoch.load(SeqCst) == view.stamp.epoch.0;
        for mark in held.marks().iter().chain([&self.root]) {
            self.registry.confirm(*mark, view.stamp.sequence, newest, is_valid);
        }
    }

    /// The highest floor so far; 0 for none. What was invalidated up to it is not known.
    pub fn floor(&self) -> Sequence {
        self.floor.load(SeqCst)
    }

    /// Whether the latest known invalidation of any of these tags, or of the root tag, hard or soft, is in this range.
    pub fn any_in(&self, tags: &[Tag], time: &Range<Sequence>) -> bool {
        let (root, floor) = (Tag::root(), self.floor());
        let known = tags.iter().chain([&root]).flat_map(|tag| self.registry.latest(tag.as_str()));
        known.filter(|sequence| *sequence > floor).any(|sequence| time.contains(&sequence))
    }

    /// The latest invalidation of any of these tags, hard or soft, or the floor. Of tags that are not held it may be that of others.
    pub fn latest(&self, tags: &[Tag]) -> Sequence {
        tags.iter().flat_map(|tag| self.registry.latest(tag.as_str())).fold(self.floor(), Sequence::max)
    }

    /// Begins another epoch of Redis's, of which nothing is known but that `stamp` was issued: no entry with an older stamp is
    /// current. Sequences of two epochs cannot be compared, so the marks of the one before are wiped.
    pub fn begin(&self, stamp: Stamp) {
        self.epoch.store(0, SeqCst);
        self.registry.wipe(stamp.sequence);
        self.floor.store(stamp.sequence, SeqCst);
        self.soft.store(0, SeqCst);
        self.sequence.store(stamp.sequence, SeqCst);
        self.epoch.store(stamp.epoch.0, SeqCst);
    }
}

/// Saturates at five hundred years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! The store's state and what its scripts do to it: a twin of `src/store/*.lua` and of the reads beside them, in plain
//! Rust, without time or transport. `tests/suite/store_redis/twin.rs` holds it against the scripts themselves.
//!
//! It can be made to do wrong on purpose ([`Flaw`]), to show that the checker notices.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use larder::stamp::{Epoch, Sequence, Stamp, Tag, Taken, View};
use larder::store::fleet::{Cause, Holder, Intent, Invalidated, Membership, Message, Synced, TOLD_MAX};

/// Marks that one sync tells, as in `store/redis/fleet.rs`.
const MARKS_TOLD: usize = 10_000;

/// Due intents that one sync tells, as there.
const DUE_TOLD: usize = 16;

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the differential test uses none of them")]
pub enum Flaw {
    /// A writer is not told of one of the holders.
    ForgetsAHolder,
    /// A member is forgotten as soon as somebody else syncs.
    MembersPass,
    /// A member is expelled although it has synced meanwhile.
    ExpelsTheRenewed,
    /// A member's syncs all have the same number.
    SyncsRepeat,
    /// Another run of the server goes on with the epoch of the one before.
    NoEpochAfterRestart,
    /// Lost marks go unnoticed.
    IgnoresLostMarks,
    /// Lost members go unnoticed.
    IgnoresLostMembers,
    /// An epoch is said to be old as soon as it begins.
    AgesEpochs,
    /// One of the tags of an invalidation is not marked.
    LosesAMark,
    /// Marks are dropped, and the floor stays.
    TrimsWithoutFloor,
    /// Sequences go back with the clock.
    SequencesGoBack,
    /// A sync says that more was told than was.
    TellsAMarkLess,
    /// A sync below the floor is told the marks that are left.
    TellsBelowTheFloor,
    /// When one proxy has applied something, all are said to have.
    AcknowledgesForOthers,
    /// A nudge seems to follow on what came before the last invalidation.
    NudgesSkipOne,
    /// No intent is ever due.
    ForgetsIntents,
    /// A lookup reads floor and epoch before the marks.
    MetaBeforeMarks,
}

/// A key that a server may lose by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Meta,
    Marks,
    Members,
    Intents,
    IntentTags,
}

/// With what a server comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the differential test restarts nothing")]
pub enum Memory {
    Everything,
    Snapshot,
    Nothing,
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Which run of the server the connection was made to.
    pub run: u64,
    /// The epoch to start if one must be started.
    pub candidate: u64,
    /// The server's clock, microseconds.
    pub now: u64,
}

/// Why a new epoch began; the scripts' words.
pub type Why = &'static str;

/// A server.
#[derive(Debug, Default)]
pub struct Server {
    data: Data,
    snapshot: Data,
    /// Which run of the server this is.
    pub run: u64,
    pub marks_max: usize,
    pub flaw: Option<Flaw>,
    /// What was published and not yet passed on.
    pub published: Vec<Message>,
    /// Causes of the epochs that began.
    pub begun: Vec<Why>,
    /// How often marks were dropped for space.
    pub trimmed: u64,
    previous_nudge: Sequence,
}

#[derive(Debug, Clone, Default)]
struct Data {
    meta: Meta,
    /// None: there is no such key.
    marks: Option<Marks>,
    members: Members,
    intents: Intents,
    intent_tags: BTreeMap<Box<str>, Vec<Tag>>,
    entries: BTreeMap<String, (Bytes, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Meta {
    epoch: Option<u64>,
    seq: Option<Sequence>,
    floor: Option<Sequence>,
    run: Option<u64>,
    born: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Marks {
    sentinel: bool,
    scores: BTreeMap<Tag, Sequence>,
}

#[derive(Debug, Clone, Default)]
struct Members {
    sentinel: bool,
    /// In the order in which they came.
    known: Vec<(Box<str>, Member)>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    syncs: u64,
    lease: Duration,
    applied: Option<Stamp>,
}

#[derive(Debug, Clone, Default)]
struct Intents {
    sentinel: bool,
    deadlines: BTreeMap<Box<str>, u64>,
}

/// A meta that is whole.
#[derive(Debug, Clone, Copy)]
struct Valid {
    epoch: u64,
    seq: Sequence,
    floor: Sequence,
}

/// What a read brought of meta, or did not.
#[derive(Debug, Clone, Copy)]
pub struct Told(Meta);

impl Server {
    pub fn new(run: u64, marks_max: usize) -> Server {
        Server { run, marks_max: marks_max.max(1), ..Server::default() }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

/// Loss and return.
#[allow(dead_code, reason = "the differential test uses some of them")]
impl Server {
    pub fn save(&mut self) {
        self.snapshot = self.data.clone();
    }

    pub fn restart(&mut self, run: u64, with: Memory) {
        self.run = run;
        match with {
            Memory::Everything => {}
            Memory::Snapshot => self.data = self.snapshot.clone(),
            Memory::Nothing => self.flush(),
        }
    }

    pub fn flush(&mut self) {
        self.data = Data::default();
    }

    pub fn lose(&mut self, part: Part) {
        match part {
            Part::Meta => self.data.meta = Meta::default(),
            Part::Marks => self.data.marks = None,
            Part::Members => self.data.members = Members::default(),
            Part::Intents => self.data.intents = Intents::default(),
            Part::IntentTags => self.data.intent_tags.clear(),
        }
    }

    /// Evicts the entry at this place in the order of keys, if there is one.
    pub fn evict(&mut self, place: usize) {
        let key = self.data.entries.keys().nth(place).cloned();
        key.map(|key| self.data.entries.remove(&key));
    }

    /// Members and intents, in numbers.
    pub fn sizes(&self) -> (usize, usize) {
        (self.data.members.known.len(), self.data.intents.deadlines.len())
    }

    pub fn is_intended(&self, intent: &str) -> bool {
        self.data.intents.deadlines.contains_key(intent)
    }
}

/// `epoch.lua`
impl Server {
    fn loss(&self, caller: &Caller) -> Why {
        let (data, meta) = (&self.data, self.data.meta);
        if meta.whole().is_none() || meta.run.is_none() {
            return if data.marks.is_some() { "meta lost" } else { "new" };
        }
        let marks_sentinel = data.marks.as_ref().is_some_and(|marks| marks.sentinel);
        if meta.run != Some(caller.run) && !self.has(Flaw::NoEpochAfterRestart) {
            "restarted"
        } else if !marks_sentinel && !self.has(Flaw::IgnoresLostMarks) {
            "marks lost"
        } else if !data.members.sentinel && !self.has(Flaw::IgnoresLostMembers) {
            "members lost"
        } else if !data.intents.sentinel {
            "intents lost"
        } else {
            ""
        }
    }

    fn valid_epoch(&mut self, caller: &Caller) -> Valid {
        self.touch();
        let why = self.loss(caller);
        if why.is_empty() {
            return self.data.meta.whole().expect("nothing is lost");
        }
        self.begun.push(why);
        let seq = self.next_sequence(self.data.meta.seq.unwrap_or(0), caller);
        self.data.marks = Some(Marks { sentinel: true, ..Marks::default() });
        self.data.members.sentinel = true;
        self.data.intents.sentinel = true;
        let meta = Valid { epoch: caller.candidate, seq, floor: seq };
        self.data.meta = Meta {
            epoch: Some(meta.epoch),
            seq: Some(seq),
            floor: Some(seq),
            run: Some(caller.run),
            born: Some(caller.now),
        };
        meta
    }

    /// `HSETNX` of `born`.
    pub fn touch(&mut self) {
        self.data.meta.born.get_or_insert(0);
    }

    fn next_sequence(&self, last: Sequence, caller: &Caller) -> Sequence {
        if self.has(Flaw::SequencesGoBack) { caller.now } else { caller.now.max(last + 1) }
    }
}

impl Meta {
    fn whole(&self) -> Option<Valid> {
        Some(Valid { epoch: self.epoch?, seq: self.seq?, floor: self.floor? })
    }
}

/// Reads, command by command, so that others may come in between.
impl Server {
    /// `GET`
    pub fn entry(&self, key: &str, now: u64) -> Option<Bytes> {
        self.data.entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    /// `HGET` of the sequence.
    pub fn sequence(&self) -> Option<Sequence> {
        self.data.meta.seq
    }

    /// `ZMSCORE`: the highest of these marks and of the root tag's; none without the sentinel.
    pub fn highest(&self, tags: &[Tag]) -> Option<Sequence> {
        let marks = self.data.marks.as_ref();
        if !(marks.is_some_and(|marks| marks.sentinel) || self.has(Flaw::IgnoresLostMarks)) {
            return None;
        }
        let root = Tag::root();
        let scores = tags.iter().chain([&root]).filter_map(|tag| marks?.scores.get(tag).copied());
        Some(scores.max().unwrap_or(0))
    }

    /// `HMGET` of meta.
    pub fn meta(&self) -> Told {
        Told(self.data.meta)
    }

    /// What the reads amount to; none when they do not prove themselves whole.
    pub fn view_of(
        &self,
        before: Option<Sequence>,
        highest: Option<Sequence>,
        meta: Told,
        run: u64,
    ) -> Option<View> {
        let Told(meta) = meta;
        let whole = meta.whole()?;
        if meta.run? != run && !self.has(Flaw::NoEpochAfterRestart) {
            return None;
        }
        let newest = highest?.max(whole.floor);
        let sequence = before?.min(whole.seq);
        Some(View { stamp: Stamp { epoch: Epoch(whole.epoch), sequence }, newest })
    }

    /// `begin.lua`, and the view that comes of it.
    pub fn begin(&mut self, caller: &Caller) -> View {
        let meta = self.valid_epoch(caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: meta.seq };
        View { stamp, newest: meta.seq }
    }
}

/// Entries.
impl Server {
    pub fn put(&mut self, key: &str, value: Bytes, until: u64) {
        self.data.entries.insert(key.to_owned(), (value, until));
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.data.entries.remove(key).is_some()
    }
}

/// `invalidate.lua`
impl Server {
    pub fn invalidate(&mut self, tags: &[Tag], cause: &Cause<'_>, caller: &Caller) -> Invalidated {
        let meta = self.valid_epoch(caller);
        let seq = self.next_sequence(meta.seq, caller);
        self.data.meta.seq = Some(seq);
        self.mark(tags, seq);
        self.trim(tags.len() + 9, meta.floor);
        self.carry_out(tags, cause, caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: seq };
        self.nudge(tags, cause.by, stamp, meta.seq);
        let holders = self.holders(cause.by);
        Invalidated { taken: Taken { stamp, previous: meta.seq }, holders, epoch_age: self.epoch_age(caller) }
    }

    fn mark(&mut self, tags: &[Tag], seq: Sequence) {
        let skipped = usize::from(self.has(Flaw::LosesAMark));
        let marks = self.data.marks.get_or_insert_default();
        for tag in tags.iter().skip(skipped) {
            marks.scores.insert(tag.clone(), seq);
        }
    }

    fn trim(&mut self, arguments: usize, floor: Sequence) {
        let keeps_floor = self.has(Flaw::TrimsWithoutFloor);
        let Some(marks) = &mut self.data.marks else { return };
        let excess = marks.scores.len().saturating_sub(self.marks_max).min(arguments + 1000);
        let mut order: Vec<(Sequence, Tag)> = marks.scores.iter().map(|(tag, seq)| (*seq, tag.clone())).collect();
        order.sort();
        for (seq, tag) in order.into_iter().take(excess) {
            self.trimmed += 1;
            marks.scores.remove(&tag);
            if seq > floor && !keeps_floor {
                self.data.meta.floor = Some(seq);
            }
        }
    }

    fn carry_out(&mut self, tags: &[Tag], cause: &Cause<'_>, caller: &Caller) {
        match (cause.intent, cause.again) {
            (Some(intent), Some(again)) => self.intend(intent, tags, again, caller),
            (Some(intent), None) => self.forget(intent),
            (None, _) => {}
        }
    }

    fn nudge(&mut self, tags: &[Tag], by: &str, stamp: Stamp, previous: Sequence) {
        let told = !tags.is_empty() && tags.len() <= TOLD_MAX && in_lines(tags);
        let claimed = if self.has(Flaw::NudgesSkipOne) { self.previous_nudge } else { previous };
        self.previous_nudge = previous;
        self.published.push(Message::Nudge {
            by: by.into(),
            stamp,
            previous: claimed,
            tags: told.then(|| tags.to_vec()),
        });
    }

    fn holders(&self, by: &str) -> Vec<Holder> {
        let others = self.data.members.known.iter().filter(|(id, _)| **id != *by);
        let holder = |(id, member): &(Box<str>, Member)| Holder {
            id: id.clone(),
            lease: member.lease,
            syncs: member.syncs,
        };
        others.map(holder).skip(usize::from(self.has(Flaw::ForgetsAHolder))).collect()
    }

    fn epoch_age(&mut self, caller: &Caller) -> Duration {
        if self.has(Flaw::AgesEpochs) {
            return Duration::from_secs(3600);
        }
        let born = self.data.meta.born.get_or_insert(0);
        if caller.now < *born {
            *born = caller.now;
        }
        Duration::from_micros(caller.now - *born)
    }
}

/// `sync.lua` and what else there is of members.
impl Server {
    pub fn sync(&mut self, me: &Membership, caller: &Caller) -> Synced {
        let meta = self.valid_epoch(caller);
        self.renew(me, caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: meta.seq };
        Synced { stamp, marks: self.marks_after(me.applied, &meta), due: self.due(caller) }
    }

    fn renew(&mut self, me: &Membership, caller: &Caller) {
        let known = self.data.members.known.iter().position(|(id, _)| *id == me.id);
        let before = known.map(|at| self.data.members.known[at].1);
        let syncs = self.next_sequence(before.map_or(0, |member| member.syncs), caller);
        let syncs = if self.has(Flaw::SyncsRepeat) { 1 } else { syncs };
        let member = Member { syncs, lease: me.lease, applied: me.applied };
        match known {
            _ if me.id.is_empty() => {}
            Some(at) => self.data.members.known[at].1 = member,
            None => self.data.members.known.push((me.id.clone(), member)),
        }
        if self.has(Flaw::MembersPass) {
            self.data.members.known.retain(|(id, _)| *id == me.id);
        }
        let Some(applied) = me.applied else { return };
        let is_more = |before: Stamp| before.epoch != applied.epoch || applied.sequence > before.sequence;
        if before.and_then(|before| before.applied).is_none_or(is_more) {
            self.acknowledge(&me.id, applied);
        }
    }

    fn acknowledge(&mut self, id: &str, stamp: Stamp) {
        let everybody = self.has(Flaw::AcknowledgesForOthers);
        let others =
            self.data.members.known.iter().map(|(other, _)| other).filter(|other| everybody && ***other != *id);
        let ids: Vec<Box<str>> = others.cloned().chain([id.into()]).collect();
        self.published.extend(ids.into_iter().map(|id| Message::Applied { id, stamp }));
    }

    fn marks_after(&self, applied: Option<Stamp>, meta: &Valid) -> Option<Vec<(Tag, Sequence)>> {
        let applied = applied.filter(|applied| applied.epoch.0 == meta.epoch)?;
        if applied.sequence < meta.floor && !self.has(Flaw::TellsBelowTheFloor) {
            return None;
        }
        let all = self.data.marks.iter().flat_map(|marks| &marks.scores);
        let lacking = all.filter(|(_, sequence)| **sequence > applied.sequence);
        let mut told: Vec<(Tag, Sequence)> = lacking.map(|(tag, sequence)| (tag.clone(), *sequence)).collect();
        told.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        if self.has(Flaw::TellsAMarkLess) {
            told.pop();
        }
        (told.len() <= MARKS_TOLD).then_some(told)
    }

    fn due(&self, caller: &Caller) -> Vec<Intent> {
        if self.has(Flaw::ForgetsIntents) {
            return vec![];
        }
        let intents = self.data.intents.deadlines.iter();
        let mut due: Vec<_> = intents.filter(|(_, deadline)| **deadline <= caller.now).collect();
        due.sort_by_key(|(id, deadline)| (**deadline, (*id).clone()));
        let tags_of = |id: &str| self.data.intent_tags.get(id).cloned().unwrap_or_else(|| vec![Tag::root()]);
        due.into_iter().take(DUE_TOLD).map(|(id, _)| Intent { id: id.clone(), tags: tags_of(id) }).collect()
    }

    pub fn leave(&mut self, id: &str) {
        self.data.members.known.retain(|(known, _)| **known != *id);
    }

    pub fn expel(&mut self, holder: &Holder) -> bool {
        let anyhow = self.has(Flaw::ExpelsTheRenewed);
        let known = self.data.members.known.iter();
        let is_it = known.clone().any(|(id, member)| *id == holder.id && (anyhow || member.syncs == holder.syncs));
        if is_it {
            self.leave(&holder.id);
        }
        is_it
    }
}

/// `record.lua` and `forget.lua`
impl Server {
    pub fn record(&mut self, intent: &Intent, within: Duration, caller: &Caller) -> View {
        let meta = self.valid_epoch(caller);
        self.intend(&intent.id, &intent.tags, within, caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: meta.seq };
        View { stamp, newest: self.highest(&[]).unwrap_or(0).max(meta.floor) }
    }

    fn intend(&mut self, intent: &str, tags: &[Tag], within: Duration, caller: &Caller) {
        let deadline = caller.now + within.as_micros() as u64;
        self.data.intents.deadlines.insert(intent.into(), deadline);
        let kept = if in_lines(tags) { tags.to_vec() } else { vec![Tag::root()] };
        self.data.intent_tags.insert(intent.into(), kept);
    }

    pub fn forget(&mut self, intent: &str) {
        self.data.intents.deadlines.remove(intent);
        self.data.intent_tags.remove(intent);
    }
}

fn in_lines(tags: &[Tag]) -> bool {
    tags.iter().all(|tag| !tag.as_str().contains('\n'))
}

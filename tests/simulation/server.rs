//! The store's state and its scripts: a twin of `src/store/*.lua` and of the reads beside them, in plain
//! Rust, without time or transport. `tests/suite/store_redis/twin.rs` compares it with the scripts themselves.
//!
//! It can be given flaws ([`Flaw`]), to show that the checker notices them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use larder::marks::{Epoch, IssuedStamp, MarksView, Sequence, SoftInvalidation, Stamp, Tag};
use larder::store::fleet::{
    Again, Cause, EpochState, FleetBypass, Generation, Holder, Intent, Invalidated, Member as RosterMember,
    Membership, Message, NUDGE_TAGS_MAX, Registry, RegistryContent, Roster, Synced,
};

/// Marks that one sync returns, as in `store/redis/fleet.rs`.
const MARKS_MAX: usize = 10_000;

/// Due intents that one sync returns, as there.
const DUE_MAX: usize = 16;

/// Intents in the store, above which a further repetition becomes one of everything, as there.
const INTENTS_MOST: usize = 100_000;

/// After so many microseconds a member that has not synced, or a lease that no sync has confirmed, is forgotten.
const LONG_AGO: u64 = 10_000_000;

/// Bypasses of a namespace, as there.
const BYPASSES_MOST: usize = 100;

/// Rules of a member that has registered none.
const UNKNOWN: &str = "(unknown)";

/// Prefix of the members that stand for soft marks, as in `epoch.lua`.
const SOFT: &str = "(soft)";

/// A flaw of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the differential test uses none of them")]
pub enum Flaw {
    /// The reply to an invalidation leaves out one of the holders.
    ForgetsAHolder,
    /// A member is forgotten as soon as another proxy syncs.
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
    /// A sync claims to return later marks than it does.
    TellsAMarkLess,
    /// A sync from below the floor gets the marks that are left.
    TellsBelowTheFloor,
    /// When one proxy has applied an invalidation, all count as having applied it.
    AcknowledgesForOthers,
    /// A nudge names an earlier invalidation than the last one as its predecessor.
    NudgesSkipOne,
    /// No intent is ever due.
    ForgetsIntents,
    /// A lookup reads floor and epoch before the marks.
    MetaBeforeMarks,
    /// Each soft invalidation extends the grace.
    PutsGracesOff,
    /// What is soft-invalidated again after its grace gets another grace.
    SoftensAnew,
    /// No reply says that there are soft marks.
    HidesSoftMarks,
    /// A sync leaves soft marks out.
    TellsNoSoftMarks,
    /// No repetition is recorded.
    ForgetsRepetitions,
    /// No sync returns the members that are behind, so that a proxy trusts the store as soon as it is back.
    HidesMembers,
    /// Any sync after a silence counts as the return of a member, even one that was sent before the silence and executed late.
    TakesAnySync,
    /// A silence of the whole fleet goes unnoticed.
    IgnoresSilences,
    /// A member that is expelled leaves no record.
    ForgetsTheExpelled,
    /// The rules of other members are left out.
    HidesOtherRules,
    /// A server says that its replica has everything, whether it follows or not.
    BelievesItsReplica,
}

/// A key that a server may lose by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Meta,
    Marks,
    Members,
    Intents,
    IntentTags,
    Graces,
    Registry,
}

/// The data that a server comes back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the differential test restarts nothing")]
pub enum Memory {
    Everything,
    Snapshot,
    Nothing,
}

/// The caller, and the time.
#[derive(Debug, Clone, Copy)]
pub struct CallerIdentity {
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
#[derive(Debug, Clone, Default)]
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
    /// How often a soft mark became a hard one when another was to take its place.
    pub promoted: u64,
    /// How often a soft invalidation kept the end of the grace of one before it.
    pub kept_ends: u64,
    /// How often a hard invalidation removed a soft mark.
    pub hardened: u64,
    /// How often everything was to be repeated, since too many intents were kept.
    pub everything_repeated: u64,
    /// How many silences of the whole fleet came to an end.
    pub silences: u64,
    /// Intents that are kept before a further repetition is one of everything.
    pub intents_most: usize,
    /// Whether there is no registry. All proxies have the same rules then, and the runs of a seed do not depend on it.
    pub without_registry: bool,
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
    graces: BTreeMap<Box<str>, u64>,
    entries: BTreeMap<String, (Bytes, u64)>,
    registry: Rules,
    bypasses: BTreeMap<String, (u64, String)>,
}

/// The registry.
#[derive(Debug, Clone, Default)]
struct Rules {
    of_members: BTreeMap<Box<str>, Registered>,
    /// Those that were settled last.
    settled: Option<String>,
}

#[derive(Debug, Clone)]
struct Registered {
    number: u64,
    revision: u64,
    learned: u64,
    is_settled: bool,
    rules: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Meta {
    epoch: Option<u64>,
    seq: Option<Sequence>,
    floor: Option<Sequence>,
    run: Option<u64>,
    born: Option<u64>,
    cause: Option<Why>,
    /// Milliseconds.
    lease: Option<u64>,
    lease_at: Option<u64>,
    soft: bool,
    last_sync: Option<u64>,
    silent_from: u64,
    silent_until: u64,
    unknown: bool,
    generation: u64,
    /// Milliseconds.
    shortest: Option<u64>,
    shortest_at: u64,
    tidied: u64,
    revision: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Marks {
    sentinel: bool,
    /// By tag, or `(soft)` and tag.
    scores: BTreeMap<Box<str>, Sequence>,
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
    /// Zero: no write waits for it.
    lease: Duration,
    applied: Option<Stamp>,
    seen: Option<Generation>,
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

/// What a read returned of meta.
#[derive(Debug, Clone, Copy)]
pub struct Fields(Meta);

/// Marks that were read.
#[derive(Debug, Clone)]
pub struct Scores {
    hard: Sequence,
    /// Of the root tag and the tags, in their order.
    soft: Vec<Option<Sequence>>,
}

/// Ends of graces, and the clock.
#[derive(Debug, Clone)]
pub struct Graces {
    /// Of the root tag and the tags, in their order.
    left: Vec<Duration>,
}

impl Server {
    pub fn new(run: u64, marks_max: usize) -> Server {
        Server { run, marks_max: marks_max.max(1), intents_most: INTENTS_MOST, ..Server::default() }
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
            Part::Graces => self.data.graces.clear(),
            Part::Registry => self.data.registry = Rules::default(),
        }
    }

    /// All times that are kept are over.
    pub fn outlive_everything(&mut self) {
        let data = &mut self.data;
        data.graces.values_mut().chain(data.intents.deadlines.values_mut()).for_each(|end| *end = 1);
        let meta = &mut data.meta;
        [&mut meta.lease_at, &mut meta.born, &mut meta.last_sync].into_iter().flatten().for_each(|at| *at = 1);
    }

    /// Evicts the entry at this place in the order of keys, if there is one.
    pub fn evict(&mut self, place: usize) {
        let key = self.data.entries.keys().nth(place).cloned();
        key.map(|key| self.data.entries.remove(&key));
    }

    /// Members that writes wait for, and intents, in numbers.
    pub fn sizes(&self) -> (usize, usize) {
        let waited_for = self.data.members.known.iter().filter(|(_, member)| !member.lease.is_zero());
        (waited_for.count(), self.data.intents.deadlines.len())
    }

    pub fn is_intended(&self, intent: &str) -> bool {
        self.data.intents.deadlines.contains_key(intent)
    }
}

/// `epoch.lua`
impl Server {
    fn loss(&self, caller: &CallerIdentity) -> Why {
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

    fn valid_epoch(&mut self, caller: &CallerIdentity) -> Valid {
        self.touch();
        let why = self.loss(caller);
        if why.is_empty() {
            return self.data.meta.whole().expect("nothing is lost");
        }
        self.begun.push(why);
        self.data.graces.clear();
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
            cause: Some(why),
            soft: false,
            last_sync: Some(caller.now),
            silent_from: caller.now,
            silent_until: caller.now,
            unknown: false,
            generation: 0,
            ..self.data.meta
        };
        meta
    }

    /// Milliseconds.
    fn longest_of_members(&self) -> u64 {
        self.data.members.known.iter().map(|(_, member)| millis(member.lease)).max().unwrap_or(0)
    }

    fn longest_lease(&self) -> u64 {
        self.data.meta.lease.unwrap_or_else(|| self.longest_of_members())
    }

    fn state(&mut self, caller: &CallerIdentity) -> EpochState {
        let floor = self.data.meta.floor.unwrap_or(0);
        EpochState {
            age: self.epoch_age(caller),
            cause: self.data.meta.cause.unwrap_or_default().to_owned(),
            longest_lease: Duration::from_millis(self.longest_lease()),
            floor,
            floor_age: Duration::from_micros(caller.now.saturating_sub(floor)),
            marks: self.data.marks.as_ref().map_or(0, |marks| marks.scores.len() as u64),
        }
    }

    fn end_of_grace(&self, tag: &str) -> u64 {
        self.data.graces.get(tag).copied().unwrap_or(0)
    }

    /// `HSETNX` of `born`.
    pub fn touch(&mut self) {
        self.data.meta.born.get_or_insert(0);
    }

    fn next_sequence(&self, last: Sequence, caller: &CallerIdentity) -> Sequence {
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

    /// `ZMSCORE` of the root tag and these, `softly` of their soft marks too; none without the sentinel.
    pub fn scores(&self, tags: &[Tag], softly: bool) -> Option<Scores> {
        let marks = self.data.marks.as_ref();
        if !(marks.is_some_and(|marks| marks.sentinel) || self.has(Flaw::IgnoresLostMarks)) {
            return None;
        }
        let score = |member: &str| marks?.scores.get(member).copied();
        let all = || ["*"].into_iter().chain(tags.iter().map(Tag::as_str));
        let soft = all().filter(|_| softly).map(|tag| score(&format!("{SOFT}{tag}")));
        Some(Scores { hard: all().filter_map(score).max().unwrap_or(0), soft: soft.collect() })
    }

    /// `HMGET` of the ends of graces, and `TIME`.
    pub fn graces(&self, tags: &[Tag], now: u64) -> Graces {
        let all = ["*"].into_iter().chain(tags.iter().map(Tag::as_str));
        let left = all.map(|tag| Duration::from_micros(self.end_of_grace(tag).saturating_sub(now)));
        Graces { left: left.collect() }
    }

    /// `HMGET` of meta.
    pub fn meta(&self) -> Fields {
        Fields(self.data.meta)
    }

    /// The view that the reads give; `None` if they do not prove that nothing is lost.
    pub fn view_of(
        &self,
        before: Option<Sequence>,
        scores: Option<Scores>,
        graces: &Graces,
        meta: Fields,
        run: u64,
    ) -> Option<MarksView> {
        let Fields(meta) = meta;
        let whole = meta.whole()?;
        if meta.run? != run && !self.has(Flaw::NoEpochAfterRestart) {
            return None;
        }
        let scores = scores?;
        let stamp = Stamp { epoch: Epoch(whole.epoch), sequence: before?.min(whole.seq) };
        let soft = scores.soft.iter().zip(&graces.left).filter_map(|(mark, left)| Some(((*mark)?, *left)));
        let view = MarksView::hard(stamp, scores.hard.max(whole.floor));
        Some(soft.fold(view, |view, (mark, left)| view.soft(mark, left)))
    }

    /// `begin.lua`, and the view that comes of it.
    pub fn begin(&mut self, caller: &CallerIdentity) -> MarksView {
        let meta = self.valid_epoch(caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: meta.seq };
        MarksView::hard(stamp, meta.seq)
    }
}

#[allow(dead_code, reason = "the differential test reads soft marks every time")]
impl Fields {
    /// Whether there may be soft marks.
    pub fn soft(&self) -> bool {
        self.0.soft
    }
}

#[allow(dead_code, reason = "the differential test reads soft marks every time")]
impl Graces {
    /// The result without them.
    pub fn none() -> Graces {
        Graces { left: vec![] }
    }
}

/// Entries.
impl Server {
    pub fn put(&mut self, key: &str, value: Bytes, until: u64) {
        self.data.entries.insert(key.to_owned(), (value, until));
    }

    /// The same unless one is kept there; whether it is stored.
    pub fn put_new(&mut self, key: &str, value: Bytes, now: u64, until: u64) -> bool {
        let is_new = self.data.entries.get(key).is_none_or(|(_, until)| now >= *until);
        if is_new {
            self.put(key, value, until);
        }
        is_new
    }

    /// All that are kept: key and encoding.
    #[allow(dead_code, reason = "the differential test does not walk")]
    pub fn entries(&self, now: u64) -> impl Iterator<Item = (&String, &Bytes)> {
        self.data.entries.iter().filter(move |(_, (_, until))| now < *until).map(|(key, (value, _))| (key, value))
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.data.entries.remove(key).is_some()
    }
}

/// `invalidate.lua`
impl Server {
    pub fn invalidate(&mut self, tags: &[Tag], cause: &Cause<'_>, caller: &CallerIdentity) -> Invalidated {
        let meta = self.valid_epoch(caller);
        let seq = self.next_sequence(meta.seq, caller);
        self.data.meta.seq = Some(seq);
        let latest = (!cause.watched.is_empty()).then(|| self.latest(cause.watched, meta.floor));
        self.mark(tags, seq);
        self.soft_invalidate(cause.soft, seq, caller);
        self.trim(
            11 + cause.watched.len() + 3 * cause.again.len() + 2 * cause.soft.len() + tags.len(),
            meta.floor,
        );
        self.carry_out(cause, caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: seq };
        self.nudge(tags, cause, stamp, meta.seq);
        Invalidated {
            taken: IssuedStamp { stamp, previous: meta.seq, latest },
            holders: self.holders(cause.by),
            epoch_age: self.epoch_age(caller),
            longest_lease: Duration::from_millis(self.longest_lease()),
        }
    }

    /// The highest of the floor and the marks of these tags.
    fn latest(&self, tags: &[Tag], floor: Sequence) -> Sequence {
        let score = |member: &str| self.data.marks.as_ref().and_then(|marks| marks.scores.get(member)).copied();
        let marks = tags.iter().map(Tag::as_str).flat_map(|tag| [score(tag), score(&soft_tag(tag))]);
        marks.flatten().fold(floor, Sequence::max)
    }

    fn mark(&mut self, tags: &[Tag], seq: Sequence) {
        let skipped = usize::from(self.has(Flaw::LosesAMark));
        let had_soft = self.data.meta.soft;
        for tag in tags.iter().skip(skipped).map(Tag::as_str) {
            let marks = self.data.marks.get_or_insert_default();
            marks.scores.insert(tag.into(), seq);
            if had_soft && marks.scores.remove(&*soft_tag(tag)).is_some() {
                self.data.graces.remove(tag);
                self.hardened += 1;
            }
        }
    }

    fn soft_invalidate(&mut self, soft: &[SoftInvalidation], seq: Sequence, caller: &CallerIdentity) {
        for SoftInvalidation { tag, grace } in soft {
            let tag = tag.as_str();
            let before = self.data.marks.as_ref().and_then(|marks| marks.scores.get(&*soft_tag(tag))).copied();
            let (known, mut end) = (self.end_of_grace(tag), caller.now + micros(*grace));
            match before {
                Some(before) if known <= caller.now && !self.has(Flaw::SoftensAnew) => {
                    let hard = self.data.marks.get_or_insert_default().scores.entry(tag.into()).or_insert(before);
                    *hard = before.max(*hard);
                    self.promoted += 1;
                }
                Some(_) if known > caller.now && !self.has(Flaw::PutsGracesOff) => {
                    end = end.min(known);
                    self.kept_ends += 1;
                }
                _ => {}
            }
            self.data.graces.insert(tag.into(), end);
            self.data.marks.get_or_insert_default().scores.insert(soft_tag(tag), seq);
            self.data.meta.soft = !self.has(Flaw::HidesSoftMarks);
        }
    }

    fn trim(&mut self, arguments: usize, floor: Sequence) {
        let keeps_floor = self.has(Flaw::TrimsWithoutFloor);
        let Some(marks) = &mut self.data.marks else { return };
        let excess = marks.scores.len().saturating_sub(self.marks_max).min(arguments + 1000);
        let mut order: Vec<(Sequence, Box<str>)> =
            marks.scores.iter().map(|(member, seq)| (*seq, member.clone())).collect();
        order.sort();
        for (seq, member) in order.into_iter().take(excess) {
            self.trimmed += 1;
            marks.scores.remove(&member);
            if let Some(tag) = member.strip_prefix(SOFT) {
                self.data.graces.remove(tag);
            }
            if seq > floor && !keeps_floor {
                self.data.meta.floor = Some(seq);
            }
        }
    }

    fn carry_out(&mut self, cause: &Cause<'_>, caller: &CallerIdentity) {
        if let Some(intent) = cause.intent {
            let deadline = self.data.intents.deadlines.get(intent).copied();
            let is_put_off =
                intent.starts_with("again-") && deadline.is_some_and(|deadline| deadline > caller.now);
            if deadline.is_some() && !is_put_off {
                self.forget(intent);
            }
        }
        let again = cause.again.iter().filter(|_| !self.has(Flaw::ForgetsRepetitions));
        for again in again.collect::<Vec<_>>() {
            self.repeat(again, caller);
        }
    }

    fn repeat(&mut self, again: &Again, caller: &CallerIdentity) {
        let (intent, due) = (again.id(), caller.now + micros(again.after));
        let deadlines = &self.data.intents.deadlines;
        // The sentinel counts too.
        if deadlines.len() + 1 > self.intents_most && !deadlines.contains_key(&intent) {
            let due = due.div_ceil(1_000_000) * 1_000_000;
            self.everything_repeated += 1;
            self.intend(&format!("again-everything-{due}"), &[Tag::root()], due);
        } else {
            self.intend(&intent, &again.tags, due);
        }
    }

    fn nudge(&mut self, tags: &[Tag], cause: &Cause<'_>, stamp: Stamp, previous: Sequence) {
        let is_small = !tags.is_empty() && tags.len() <= NUDGE_TAGS_MAX;
        let has_tags = is_small && cause.soft.is_empty() && in_lines(tags);
        let claimed = if self.has(Flaw::NudgesSkipOne) { self.previous_nudge } else { previous };
        self.previous_nudge = previous;
        self.published.push(Message::Nudge {
            by: cause.by.into(),
            stamp,
            previous: claimed,
            tags: has_tags.then(|| tags.to_vec()),
        });
    }

    fn holders(&self, by: &str) -> Vec<Holder> {
        let others = self.data.members.known.iter().filter(|(id, _)| **id != *by);
        let holders = others.map(|(id, member)| member.holder(id)).filter(Holder::is_waited_for);
        holders.skip(usize::from(self.has(Flaw::ForgetsAHolder))).collect()
    }

    fn epoch_age(&mut self, caller: &CallerIdentity) -> Duration {
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
    pub fn sync(&mut self, me: &Membership, caller: &CallerIdentity) -> Synced {
        let meta = self.valid_epoch(caller);
        let generation = Generation { epoch: Epoch(meta.epoch), number: self.generation(me, meta.epoch, caller) };
        let (is_new, previous) = (!self.is_member(&me.id), self.data.meta.revision);
        self.renew(me, caller);
        let registered = self.register(me, is_new, caller);
        self.confirm_lease(millis(me.lease), caller);
        let (behind, others) = self.behind(me, generation, caller);
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: meta.seq };
        let marks = self.marks_after(me.applied, &meta);
        let (marks, soft) = match marks {
            Some(marks) => self.by_grace(marks, caller),
            None => (None, vec![]),
        };
        let (due, state) = (self.due(caller), self.state(caller));
        let (silent_until, unknown_proxies) = (self.data.meta.silent_until, self.data.meta.unknown);
        let clock = caller.now;
        let registry = self.registry(me, registered, previous);
        Synced {
            stamp,
            marks,
            soft,
            due,
            state,
            generation,
            behind,
            others,
            silent_until,
            unknown_proxies,
            clock,
            registry,
        }
    }

    fn is_member(&self, id: &str) -> bool {
        self.data.members.known.iter().any(|(known, _)| **known == *id)
    }

    fn revise(&mut self, caller: &CallerIdentity) -> u64 {
        let revision = caller.now.max(self.data.meta.revision.unwrap_or(0) + 1);
        self.data.meta.revision = Some(revision);
        self.published.push(Message::Revised(revision));
        revision
    }

    /// Gives the revision that registered the rules.
    fn register(&mut self, me: &Membership, is_new: bool, caller: &CallerIdentity) -> u64 {
        if self.without_registry {
            return 0;
        }
        let sent = &me.registration;
        let known = self.data.registry.of_members.get(&me.id).cloned();
        let is_next = known.as_ref().is_none_or(|known| {
            let is_other = is_new || known.rules != *sent.rules;
            sent.number > known.number || sent.number == known.number && is_other
        });
        let learned = known.as_ref().map_or(0, |known| known.learned);
        let mut registered = match known {
            Some(known) if !is_next => known,
            _ => Registered {
                number: sent.number,
                revision: self.revise(caller),
                learned,
                is_settled: false,
                rules: sent.rules.to_string(),
            },
        };
        if !is_next && registered.number == sent.number && sent.is_settled {
            if !registered.is_settled {
                self.data.registry.settled = Some(registered.rules.clone());
            }
            registered.is_settled = true;
        }
        if self.data.meta.revision.is_none() {
            self.revise(caller);
        }
        if sent.learned > registered.learned {
            registered.learned = sent.learned;
            self.published.push(Message::Learned(sent.learned));
        }
        let revision = registered.revision;
        self.data.registry.of_members.insert(me.id.clone(), registered);
        revision
    }

    /// `previous`: the revision before the rules of this proxy were registered.
    fn registry(&self, me: &Membership, registered: u64, previous: Option<u64>) -> Registry {
        let revision = self.data.meta.revision.unwrap_or(0);
        if self.without_registry {
            return Registry::default();
        }
        if !me.registration.asks && me.registration.learned == revision {
            return Registry { revision, registered, content: None };
        }
        let ids = self.data.members.known.iter().map(|(id, _)| id).filter(|id| **id != me.id);
        let of_others: Vec<Option<&Registered>> = ids.map(|id| self.data.registry.of_members.get(id)).collect();
        let rules_of = |it: &Option<&Registered>| it.map_or(UNKNOWN.to_owned(), |it| it.rules.clone());
        let mut others: Vec<String> = of_others.iter().map(rules_of).collect();
        others.sort_unstable();
        others.dedup();
        let is_unlearned = |it: &&Option<&Registered>| it.is_none_or(|it| it.learned < registered);
        let last = self.data.registry.settled.clone().or(previous.map(|_| UNKNOWN.to_owned()));
        let bypass = |(family, (until, by)): (&String, &(u64, String))| FleetBypass {
            family: family.clone(),
            until: *until,
            by: by.clone(),
        };
        let content = RegistryContent {
            last: last.filter(|_| !of_others.iter().flatten().any(|other| other.is_settled)),
            unlearned: of_others.iter().filter(is_unlearned).count() as u64,
            others: if self.has(Flaw::HidesOtherRules) { vec![] } else { others },
            bypasses: self.data.bypasses.iter().map(bypass).collect(),
        };
        Registry { revision, registered, content: Some(content) }
    }

    pub fn set_bypass(&mut self, bypass: &FleetBypass, caller: &CallerIdentity) -> Option<(bool, u64)> {
        self.valid_epoch(caller);
        self.data.bypasses.retain(|_, (until, _)| *until > caller.now);
        let was_one = self.data.bypasses.contains_key(&bypass.family);
        if bypass.until == 0 {
            self.data.bypasses.remove(&bypass.family);
        } else if !was_one && self.data.bypasses.len() >= BYPASSES_MOST {
            return None;
        } else {
            self.data.bypasses.insert(bypass.family.clone(), (bypass.until, bypass.by.clone()));
        }
        Some((was_one, self.revise(caller)))
    }

    /// Removes a member and its rules.
    fn remove_member(&mut self, id: &str, caller: &CallerIdentity) {
        let members = self.data.members.known.len();
        self.data.members.known.retain(|(known, _)| **known != *id);
        let (is_removed, rules) =
            (self.data.members.known.len() < members, self.data.registry.of_members.remove(id));
        // The others took a member without rules for one with rules of its own.
        if is_removed || rules.is_some() {
            self.revise(caller);
        }
        if let Some(gone) = rules.filter(|gone| gone.is_settled) {
            self.data.registry.settled = Some(gone.rules);
        }
    }

    /// Notes a sync, and the end of a silence. Returns the generation.
    fn generation(&mut self, me: &Membership, epoch: u64, caller: &CallerIdentity) -> u64 {
        let (is_ignored, longest) = (self.has(Flaw::IgnoresSilences), self.longest_lease());
        let (meta, now, period) = (&mut self.data.meta, caller.now, millis(me.period));
        let shortest = meta.shortest.unwrap_or(period);
        let last_sync = meta.last_sync.unwrap_or(0);
        if now >= last_sync + shortest * 1000 || now < last_sync {
            let is_long = now < last_sync || now - last_sync >= 4_000_000;
            let is_young = last_sync < meta.born.unwrap_or(0) + longest.max(period) * 1000;
            let is_next = last_sync < meta.silent_until + LONG_AGO;
            meta.unknown = is_long || is_young || (is_next && meta.unknown);
            let from = if is_next { meta.silent_from } else { last_sync };
            (meta.silent_from, meta.silent_until) = (from, now);
            if !is_ignored {
                meta.generation += 1;
                self.silences += 1;
                let generation = Generation { epoch: Epoch(epoch), number: meta.generation };
                self.published.push(Message::Raised(generation));
            }
        }
        if period <= shortest || now > meta.shortest_at + LONG_AGO {
            (meta.shortest, meta.shortest_at) = (Some(period), now);
        }
        meta.last_sync = Some(now);
        meta.generation
    }

    /// The members that have not repeated the generation, and how many others there are. Removes records of those that are gone.
    fn behind(&mut self, me: &Membership, generation: Generation, caller: &CallerIdentity) -> (Vec<Holder>, u64) {
        let (meta, members) = (&mut self.data.meta, &mut self.data.members.known);
        let is_tidy = caller.now >= meta.tidied && caller.now < meta.tidied + LONG_AGO;
        if !me.asks_who_is_behind && is_tidy {
            return (vec![], 0);
        }
        meta.tidied = caller.now;
        let (silent_from, silent_until) = (meta.silent_from, meta.silent_until);
        let (takes_any, hides) = (self.flaw == Some(Flaw::TakesAnySync), self.flaw == Some(Flaw::HidesMembers));
        let covers = |member: &Member| match takes_any {
            true => member.syncs >= silent_until,
            false => member.seen.is_some_and(|seen| seen.covers(generation)),
        };
        let is_behind = |member: &Member| {
            let long = LONG_AGO.max(micros(me.period));
            let was_there = member.syncs + long >= silent_from && caller.now < silent_until + 6 * LONG_AGO;
            generation.number > 0 && !covers(member) && was_there
        };
        let is_gone =
            |member: &Member| caller.now >= member.syncs + LONG_AGO + micros(member.lease) && !is_behind(member);
        let gone: Vec<Box<str>> = members
            .iter()
            .filter(|(id, member)| *id != me.id && is_gone(member))
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().for_each(|id| self.remove_member(id, caller));
        let registry = &mut self.data.registry;
        let fields = registry.of_members.len() + usize::from(registry.settled.is_some());
        if fields > self.data.members.known.len() + 1 {
            let known = &self.data.members.known;
            registry.of_members.retain(|id, _| known.iter().any(|(member, _)| member == id));
        }
        if !me.asks_who_is_behind {
            return (vec![], 0);
        }
        let others = self.data.members.known.iter().filter(|(id, _)| *id != me.id);
        let behind = others.clone().filter(|(_, member)| is_behind(member) && !hides);
        (behind.map(|(id, member)| member.holder(id)).collect(), others.count() as u64)
    }

    fn confirm_lease(&mut self, lease: u64, caller: &CallerIdentity) {
        let longest = self.longest_lease();
        let confirmed = self.data.meta.lease_at.unwrap_or(0);
        if lease >= longest || caller.now.saturating_sub(confirmed) > longest * 1000 {
            let others = if lease < longest { self.longest_of_members() } else { 0 };
            self.data.meta.lease = Some(lease.max(others));
            self.data.meta.lease_at = Some(caller.now);
        }
    }

    /// Soft marks whose grace is over are returned as hard ones.
    fn by_grace(&self, marks: Vec<(Box<str>, Sequence)>, caller: &CallerIdentity) -> Marked {
        let (mut hard, mut soft) = (vec![], vec![]);
        for (member, sequence) in marks {
            let tag = member.strip_prefix(SOFT);
            let left = tag.map_or(0, |tag| self.end_of_grace(tag).saturating_sub(caller.now));
            let tag = Tag::family(tag.unwrap_or(&member));
            match Duration::from_micros(left) {
                Duration::ZERO => hard.push((tag, sequence)),
                _ if self.has(Flaw::TellsNoSoftMarks) => {}
                grace => soft.push((SoftInvalidation { tag, grace }, sequence)),
            }
        }
        (Some(hard), soft)
    }

    fn renew(&mut self, me: &Membership, caller: &CallerIdentity) {
        let known = self.data.members.known.iter().position(|(id, _)| *id == me.id);
        let before = known.map(|at| self.data.members.known[at].1);
        let syncs = self.next_sequence(before.map_or(0, |member| member.syncs), caller);
        let syncs = if self.has(Flaw::SyncsRepeat) { 1 } else { syncs };
        let lease = if me.serves_memory { me.lease } else { Duration::ZERO };
        let known_seen = before.and_then(|member| member.seen);
        let repeats = me.seen.filter(|seen| known_seen.is_none_or(|known| !known.covers(*seen)));
        // A sync that is executed late does not undo a later one.
        let epoch = self.data.meta.epoch.map(Epoch);
        let is_of = |seen: Generation| Some(seen.epoch) == epoch;
        let seen = match (known_seen, repeats) {
            (Some(known), Some(late)) if is_of(known) && !is_of(late) => Some(known),
            (_, Some(new)) => Some(new),
            (known, None) => known,
        };
        let member = Member { syncs, lease, applied: me.applied, seen };
        match known {
            Some(at) => self.data.members.known[at].1 = member,
            None => self.data.members.known.push((me.id.clone(), member)),
        }
        if self.has(Flaw::MembersPass) {
            self.data.members.known.retain(|(id, _)| *id == me.id);
        }
        if let Some(applied) = me.applied {
            let is_more = |before: Stamp| before.epoch != applied.epoch || applied.sequence > before.sequence;
            if before.and_then(|before| before.applied).is_none_or(is_more) {
                self.acknowledge(&me.id, applied);
            }
        }
        self.published.extend(repeats.map(Message::Seen));
    }

    fn acknowledge(&mut self, id: &str, stamp: Stamp) {
        let everybody = self.has(Flaw::AcknowledgesForOthers);
        let others =
            self.data.members.known.iter().map(|(other, _)| other).filter(|other| everybody && ***other != *id);
        let ids: Vec<Box<str>> = others.cloned().chain([id.into()]).collect();
        self.published.extend(ids.into_iter().map(|id| Message::Applied { id, stamp }));
    }

    fn marks_after(&self, applied: Option<Stamp>, meta: &Valid) -> Option<Vec<(Box<str>, Sequence)>> {
        let applied = applied.filter(|applied| applied.epoch.0 == meta.epoch)?;
        if applied.sequence < meta.floor && !self.has(Flaw::TellsBelowTheFloor) {
            return None;
        }
        let all = self.data.marks.iter().flat_map(|marks| &marks.scores);
        let lacking = all.filter(|(_, sequence)| **sequence > applied.sequence);
        let mut marks: Vec<(Box<str>, Sequence)> =
            lacking.map(|(member, sequence)| (member.clone(), *sequence)).collect();
        marks.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        if self.has(Flaw::TellsAMarkLess) {
            marks.pop();
        }
        (marks.len() <= MARKS_MAX).then_some(marks)
    }

    fn due(&self, caller: &CallerIdentity) -> Vec<Intent> {
        if self.has(Flaw::ForgetsIntents) {
            return vec![];
        }
        let intents = self.data.intents.deadlines.iter();
        let mut due: Vec<_> = intents.filter(|(_, deadline)| **deadline <= caller.now).collect();
        due.sort_by_key(|(id, deadline)| (**deadline, (*id).clone()));
        let tags_of = |id: &str| self.data.intent_tags.get(id).cloned().unwrap_or_else(|| vec![Tag::root()]);
        due.into_iter().take(DUE_MAX).map(|(id, _)| Intent { id: id.clone(), tags: tags_of(id) }).collect()
    }

    /// `leave.lua`
    pub fn leave(&mut self, id: &str, caller: &CallerIdentity) {
        self.remove_member(id, caller);
    }

    pub fn roster(&mut self, caller: &CallerIdentity) -> Roster {
        let (meta, state) = (self.data.meta, self.state(caller));
        let deadlines = self.data.intents.deadlines.values();
        let registry = &self.data.registry.of_members;
        let rules_of = |id: &str| match registry.get(id) {
            Some(known) => (known.learned, known.rules.clone()),
            None => (0, UNKNOWN.to_owned()),
        };
        let reported = |(id, member): &(Box<str>, Member)| RosterMember {
            learned: rules_of(id).0,
            rules: rules_of(id).1,
            id: id.clone(),
            lease: member.lease,
            synced: Duration::from_micros(caller.now.saturating_sub(member.syncs)),
            applied: member.applied,
        };
        Roster {
            stamp: meta.epoch.map(|epoch| Stamp { epoch: Epoch(epoch), sequence: meta.seq.unwrap_or(0) }),
            state,
            members: self.data.members.known.iter().map(reported).collect(),
            intents: self.data.intents.deadlines.len() as u64,
            due: deadlines.filter(|deadline| **deadline <= caller.now).take(1000).count() as u64,
            revision: meta.revision.unwrap_or(0),
        }
    }

    pub fn expel(&mut self, holder: &Holder) -> bool {
        let (anyhow, forgets) = (self.has(Flaw::ExpelsTheRenewed), self.has(Flaw::ForgetsTheExpelled));
        let mut known = self.data.members.known.iter_mut();
        let is_it = |(id, member): &(Box<str>, Member)| {
            *id == holder.id && (anyhow || member.syncs == holder.syncs) && !member.lease.is_zero()
        };
        let Some((_, member)) = known.find(|known| is_it(known)) else { return false };
        member.lease = Duration::ZERO;
        if forgets {
            self.data.members.known.retain(|(known, _)| *known != holder.id);
        }
        true
    }

    /// `dismiss.lua`
    pub fn dismiss(&mut self, holder: &Holder, generation: Generation, caller: &CallerIdentity) -> bool {
        let meta = &self.data.meta;
        let is_same = meta.epoch == Some(generation.epoch.0) && meta.generation == generation.number;
        let (last_sync, shortest) = (meta.last_sync.unwrap_or(0), meta.shortest.unwrap_or(0));
        let is_silent = caller.now < last_sync || caller.now - last_sync >= shortest * 1000;
        let mut known = self.data.members.known.iter();
        let is_it = known.any(|(id, member)| {
            let is_over = caller.now >= member.syncs + micros(member.lease);
            *id == holder.id && member.syncs == holder.syncs && is_over
        });
        if !is_same || is_silent || !is_it {
            return false;
        }
        self.remove_member(&holder.id, caller);
        true
    }
}

impl Member {
    fn holder(&self, id: &str) -> Holder {
        Holder { id: id.into(), lease: self.lease, syncs: self.syncs }
    }
}

/// `record.lua` and `forget.lua`
impl Server {
    pub fn record(&mut self, intent: &Intent, within: Duration, caller: &CallerIdentity) -> MarksView {
        let meta = self.valid_epoch(caller);
        self.intend(&intent.id, &intent.tags, caller.now + micros(within));
        let stamp = Stamp { epoch: Epoch(meta.epoch), sequence: meta.seq };
        let root = self.scores(&[], false).map_or(0, |scores| scores.hard);
        MarksView::hard(stamp, root.max(meta.floor))
    }

    fn intend(&mut self, intent: &str, tags: &[Tag], deadline: u64) {
        self.data.intents.deadlines.insert(intent.into(), deadline);
        let kept = if in_lines(tags) { tags.to_vec() } else { vec![Tag::root()] };
        self.data.intent_tags.insert(intent.into(), kept);
    }

    pub fn forget(&mut self, intent: &str) {
        self.data.intents.deadlines.remove(intent);
        self.data.intent_tags.remove(intent);
    }
}

/// Hard and soft marks, as a sync returns them.
type Marked = (Option<Vec<(Tag, Sequence)>>, Vec<(SoftInvalidation, Sequence)>);

/// The member that stands for the soft mark of a tag.
fn soft_tag(tag: &str) -> Box<str> {
    format!("{SOFT}{tag}").into()
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// Rounded up, as leases are.
fn millis(time: Duration) -> u64 {
    time.as_micros().div_ceil(1000) as u64
}

fn in_lines(tags: &[Tag]) -> bool {
    tags.iter().all(|tag| !tag.as_str().contains('\n'))
}

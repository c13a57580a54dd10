//! The steps of the protocol and the faults, each a function on the state. Which step comes next is free.

use stateright::{Model, Property};

use crate::rule::Rule;
use crate::state::{
    Entry, NOBODY, Nudge, PROXIES, Proxy, Redis, Stage, Stamp, State, Sync, WRITES, Write, bit, gone,
};

/// What may go wrong. (Messages are late or lost in any case.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A proxy dies and starts again, knowing nothing.
    Die,
    /// A proxy that has no write under way is stopped, says farewell, and starts again.
    Leave,
    /// Redis takes an invalidation, and its reply is lost.
    LoseReply,
    /// Redis loses everything, and is the same process still (`FLUSHALL`).
    Flush,
    /// Redis restarts with all of its data.
    Restart,
    /// Redis restarts with what it had at some moment before.
    Restore,
    /// Redis evicts the marks.
    LoseMarks,
    /// Redis evicts the members.
    LoseMembers,
    /// No fault: something else is invalidated, which has another tag.
    OtherTag,
}

/// How far the checker looks.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub proxies: usize,
    pub writes: usize,
    /// Faults at most, and of which kinds.
    pub faults: u8,
    pub kinds: &'static [Fault],
    /// Syncs at most, and reads that do not hit L1.
    pub syncs: u8,
    pub reads: u8,
    /// Redis holds so few marks that it may drop any at any time.
    pub trims: bool,
    /// Requests of syncs are on their way for some time. Otherwise only the replies are: that is the worse case, since
    /// the lease then ends later and the acknowledgement covers more.
    pub late_requests: bool,
    /// No proxy has synced yet.
    pub unsynced: bool,
    /// Only the first proxy writes, and only the others read.
    pub roles: bool,
    /// Whether each state is also checked for [`SETTLES`].
    pub settles: bool,
}

/// The protocol, with all of its rules or all but one.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    pub bounds: Bounds,
    pub off: Option<Rule>,
}

/// A step: of a proxy, of a write (its index), of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    SendSync(usize),
    HandleSync(usize),
    ReceiveSync(usize),
    LoseSync(usize),
    HearNudge(usize),
    Fetch(usize),
    TakeFromL2(usize),
    KeepInL1(usize),
    KeepInL2(usize),
    Begin(usize),
    Commit(usize),
    Invalidate(usize),
    LearnOfInvalidation(usize),
    Answer(usize),
    AnswerAfterOneLease(usize),
    AnswerUndelivered(usize),
    /// The write, the member.
    Expel(usize, usize),
    CarryOutIntent(usize),
    HandleLeave(usize),
    Trim,
    Snapshot,
    /// The proxy that sent it, or for a lost reply the one that it was for.
    Fault(Fault, usize),
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Bounds { proxies, faults, syncs, reads, .. } = self.bounds;
        let first = if self.bounds.unsynced { State::empty(faults) } else { State::first(proxies, faults) };
        let mut state = State { syncs, reads, ..first };
        if !self.obeys(Rule::SyncsNeverRepeat) {
            state.redis.syncs = [1; PROXIES];
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for proxy in 0..self.bounds.proxies {
            self.actions_of_proxy(state, proxy, actions);
        }
        for write in 0..self.bounds.writes {
            self.actions_of_write(state, write, actions);
        }
        self.actions_of_redis(state, actions);
        if state.faults > 0 {
            self.faults(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        self.step(&mut state, action);
        let next = if self.off.is_none() && !self.bounds.roles {
            state.representative(self.bounds.proxies, self.bounds.writes)
        } else {
            state
        };
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Fleet>> {
        vec![
            Property::always(L1, |fleet: &Fleet, state: &State| {
                state.proxies.iter().all(|proxy| fleet.is_l1_young(state, proxy))
            }),
            Property::always(L2, |fleet: &Fleet, state: &State| {
                fleet.l2_hit(&state.redis).is_none_or(|entry| entry.value >= state.acknowledged)
            }),
            Property::always(FETCH, |fleet: &Fleet, state: &State| {
                state.proxies.iter().all(|proxy| fleet.is_fetch_young(state, proxy))
            }),
            Property::always(SETTLES, |fleet: &Fleet, state| !fleet.bounds.settles || fleet.settles(state)),
        ]
    }
}

/// Property: a read that begins now and hits L1 gets nothing older than an acknowledged write.
pub const L1: &str = "L1 shows the last acknowledged write";
/// The same of a read that hits L2.
pub const L2: &str = "L2 shows the last acknowledged write";
/// The same of a read that joins a fetch.
pub const FETCH: &str = "a fetch that may be joined shows the last acknowledged write";
/// Property: see [`Fleet::settles`].
pub const SETTLES: &str = "writes are answered, intents carried out, hits come back";

impl Fleet {
    fn obeys(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    fn actions_of_proxy(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let proxy = &state.proxies[index];
        match proxy.sync {
            Sync::None if state.syncs == 0 || self.is_up_to_date(state, index) => {}
            Sync::None => actions.push(Action::SendSync(index)),
            Sync::Sent { .. } => actions.push(Action::HandleSync(index)),
            Sync::Handled { .. } => actions.extend([Action::ReceiveSync(index), Action::LoseSync(index)]),
        }
        if proxy.nudge.is_some() {
            actions.push(Action::HearNudge(index));
        }
        // A reader may miss at any time: L1 and L2 evict what they like.
        if state.reads > 0 && !(self.bounds.roles && index == 0) {
            actions.push(Action::Fetch(index));
            if self.l2_hit(&state.redis).is_some() {
                actions.push(Action::TakeFromL2(index));
            }
        }
        if proxy.fetch.is_some() {
            actions.extend([Action::KeepInL1(index), Action::KeepInL2(index)]);
        }
        if state.leaving & (gone(index) | bit(index)) != 0 {
            actions.push(Action::HandleLeave(index));
        }
        if let Some(free) = state.writes[..self.bounds.writes].iter().position(|write| write.stage == Stage::None)
        {
            if self.bounds.roles && index > 0 {
                return;
            }
            // The order in which writes that have not begun are numbered is of no interest.
            actions.push(Action::Begin(index + PROXIES * free));
        }
    }

    /// A sync would bring nothing: no mark, no longer lease, no acknowledgement.
    fn is_up_to_date(&self, state: &State, index: usize) -> bool {
        let (proxy, redis) = (&state.proxies[index], &state.redis);
        let lasts = proxy.lease.is_some_and(|at| at == state.rounded(state.now));
        self.off.is_none()
            && lasts
            && proxy.applied == redis.last
            && redis.members & bit(index) != 0
            && self.is_whole(redis)
    }

    fn actions_of_write(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let write = &state.writes[index];
        if write.intent && write.by == NOBODY && self.obeys(Rule::IntentsCarriedOut) {
            actions.push(Action::CarryOutIntent(index));
        }
        match write.stage {
            Stage::Forwarded => actions.push(Action::Commit(index)),
            Stage::Committed if write.by != NOBODY => {
                actions.push(Action::Invalidate(index));
                if !self.obeys(Rule::AnswerOnlyDelivered) {
                    actions.push(Action::AnswerUndelivered(index));
                }
            }
            Stage::Invalidated => actions.push(Action::LearnOfInvalidation(index)),
            Stage::Waiting if write.holders == 0 || !self.obeys(Rule::WaitForHolders) => {
                actions.push(Action::Answer(index));
            }
            Stage::Waiting if self.obeys(Rule::WaitOneLeaseAtMost) => {
                actions.push(Action::AnswerAfterOneLease(index));
            }
            Stage::Expelling => {
                let listed = (0..2 * PROXIES).filter(|&member| write.holders & bit(member) != 0);
                actions.extend(listed.map(|member| Action::Expel(index, member)));
            }
            _ => {}
        }
    }

    fn actions_of_redis(&self, state: &State, actions: &mut Vec<Action>) {
        if self.bounds.trims && state.redis.mark > 0 {
            actions.push(Action::Trim);
        }
        if self.bounds.kinds.contains(&Fault::Restore) && state.snapshot.is_none() && state.faults > 0 {
            actions.push(Action::Snapshot);
        }
        if !self.obeys(Rule::MembersUntilExpelled) && state.redis.members != 0 {
            // They expire: as if they were lost, and nobody noticed.
            actions.push(Action::Fault(Fault::LoseMembers, 0));
        }
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        for &kind in self.bounds.kinds {
            let may = |by: usize| match kind {
                Fault::Die => true,
                Fault::Leave => state.writes.iter().all(|write| write.by != by || write.stage == Stage::None),
                Fault::LoseReply => state.writes[by].stage == Stage::Invalidated,
                Fault::Restore => by == 0 && state.snapshot.is_some(),
                Fault::Flush | Fault::Restart | Fault::LoseMarks | Fault::LoseMembers | Fault::OtherTag => by == 0,
            };
            let most = if kind == Fault::LoseReply { self.bounds.writes } else { self.bounds.proxies };
            actions.extend((0..most).filter(|&by| may(by)).map(|by| Action::Fault(kind, by)));
        }
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::SendSync(proxy) => {
                state.syncs -= 1;
                send_sync(state, proxy);
                if !self.bounds.late_requests {
                    self.handle_sync(state, proxy);
                }
            }
            Action::HandleSync(proxy) => self.handle_sync(state, proxy),
            Action::ReceiveSync(proxy) => self.receive_sync(state, proxy),
            Action::LoseSync(proxy) => state.proxies[proxy].sync = Sync::None,
            Action::HearNudge(proxy) => self.hear_nudge(&mut state.proxies[proxy]),
            Action::Fetch(proxy) => self.fetch(state, proxy),
            Action::TakeFromL2(proxy) => {
                state.reads -= 1;
                state.proxies[proxy].fetch = self.l2_hit(&state.redis);
            }
            Action::KeepInL1(proxy) => self.keep_in_l1(&mut state.proxies[proxy]),
            Action::KeepInL2(proxy) => self.keep_in_l2(state, proxy),
            Action::Begin(proxy_and_write) => {
                self.begin(state, proxy_and_write % PROXIES, proxy_and_write / PROXIES);
            }
            Action::Commit(write) => commit(state, write),
            Action::Invalidate(write) => self.invalidate(state, write),
            Action::LearnOfInvalidation(write) => self.learn_of_invalidation(state, write),
            Action::Answer(write) => self.answer(state, write),
            Action::AnswerAfterOneLease(write) => answer_after_one_lease(state, write),
            Action::AnswerUndelivered(write) => answer_undelivered(state, write),
            Action::Expel(write, member) => self.expel(state, write, member),
            Action::CarryOutIntent(write) => self.carry_out_intent(state, write),
            Action::HandleLeave(proxy) => self.handle_leave(state, proxy),
            Action::Trim => self.trim(&mut state.redis),
            Action::Snapshot => save(state),
            Action::Fault(kind, by) => self.fault(state, kind, by),
        }
    }

    // ---- Redis: each of these is one script there ----

    /// Whether Redis shows no loss to the proxies that read from it.
    fn is_whole(&self, redis: &Redis) -> bool {
        redis.last.epoch != 0
            && !(redis.restarted && self.obeys(Rule::EpochByRunId))
            && !(redis.marks_lost && self.obeys(Rule::EpochByLostMarks))
            && !(redis.members_lost && self.obeys(Rule::EpochByLostMembers))
    }

    /// The epoch that is valid now; begins a new one if something may have been lost. Comes first in every script.
    fn valid_epoch(&self, state: &mut State) {
        if self.is_whole(&state.redis) {
            return;
        }
        state.now += 1;
        let redis = &mut state.redis;
        redis.last = Stamp { epoch: state.now, sequence: redis.last.sequence + 1 };
        (redis.mark, redis.floor) = (0, redis.last.sequence);
        (redis.restarted, redis.marks_lost, redis.members_lost) = (false, false, false);
    }

    /// The entry that a lookup finds in L2, if it is current.
    fn l2_hit(&self, redis: &Redis) -> Option<Entry> {
        redis.entry.filter(|entry| self.is_whole(redis) && is_current(redis, entry.stamp))
    }

    fn handle_sync(&self, state: &mut State, index: usize) {
        let Sync::Sent { at, applied } = state.proxies[index].sync else { return };
        self.valid_epoch(state);
        for write in &mut state.writes {
            hear_acknowledgement(write, index, applied);
        }
        let redis = &mut state.redis;
        redis.members |= bit(index);
        if !self.obeys(Rule::SyncsNeverRepeat) {
            redis.syncs[index] = (redis.syncs[index] + 1).min(3);
        }
        let is_known = applied.epoch == redis.last.epoch && applied.sequence >= redis.floor;
        let mark = if is_known { redis.mark } else { redis.last.sequence };
        state.proxies[index].sync = Sync::Handled { at, last: redis.last, mark };
    }

    /// Takes the next sequence, marks the tag (if it is `ours`), and nudges all but `by`.
    fn take_sequence(&self, state: &mut State, by: usize, ours: bool) {
        self.valid_epoch(state);
        state.now += 1;
        let redis = &mut state.redis;
        let previous = redis.last.sequence;
        redis.last.sequence += 1;
        if ours && self.obeys(Rule::MarksInRedis) {
            redis.mark = redis.last.sequence;
        }
        for (index, proxy) in state.proxies[..self.bounds.proxies].iter_mut().enumerate() {
            if index != by {
                // One that was not heard yet is lost.
                proxy.nudge = Some(Nudge { stamp: redis.last, previous, ours });
            }
        }
    }

    fn invalidate(&self, state: &mut State, index: usize) {
        let by = state.writes[index].by;
        self.take_sequence(state, by, true);
        let write = &mut state.writes[index];
        write.stage = Stage::Invalidated;
        write.intent = false;
        write.stamp = state.redis.last;
        write.point = state.now;
        write.holders = state.redis.members & !bit(by);
        write.syncs = state.redis.syncs;
    }

    fn carry_out_intent(&self, state: &mut State, index: usize) {
        self.take_sequence(state, NOBODY, true);
        let write = &mut state.writes[index];
        write.intent = false;
        if write.by == NOBODY {
            finish(write);
        }
    }

    fn expel(&self, state: &mut State, index: usize, member: usize) {
        let (write, redis) = (&mut state.writes[index], &mut state.redis);
        write.holders &= !bit(member);
        let is_same = if self.obeys(Rule::SyncsNeverRepeat) || member >= PROXIES {
            write.renewed & bit(member) == 0
        } else {
            write.syncs[member] == redis.syncs[member] && write.syncs[member] < 3
        };
        if is_same || !self.obeys(Rule::ExpelOnlyWithoutRenewal) {
            redis.members &= !bit(member);
            if let Some(count) = redis.syncs.get_mut(member) {
                *count = 0;
            }
        }
        if write.holders == 0 {
            finish(write);
        }
    }

    fn handle_leave(&self, state: &mut State, proxy: usize) {
        let removed = if self.obeys(Rule::IdOfOneProcess) { gone(proxy) } else { bit(proxy) };
        state.leaving &= !(gone(proxy) | bit(proxy));
        state.redis.members &= !removed;
    }

    fn trim(&self, redis: &mut Redis) {
        if self.obeys(Rule::FloorByTrimming) {
            redis.floor = redis.floor.max(redis.mark);
        }
        redis.mark = 0;
    }

    // ---- A proxy ----

    fn receive_sync(&self, state: &mut State, index: usize) {
        let proxy = &mut state.proxies[index];
        let Sync::Handled { at, last, mark } = proxy.sync else { return };
        proxy.sync = Sync::None;
        if proxy.applied.epoch == last.epoch {
            proxy.mark = proxy.mark.max(mark);
            proxy.applied.sequence = proxy.applied.sequence.max(last.sequence);
        } else {
            proxy.applied = last;
            proxy.mark = last.sequence;
        }
        let from = if self.obeys(Rule::LeaseFromSending) { at } else { state.now };
        if from >= state.over {
            proxy.lease = proxy.lease.max(Some(from));
        }
    }

    fn hear_nudge(&self, proxy: &mut Proxy) {
        let Some(nudge) = proxy.nudge.take() else { return };
        let follows = nudge.previous == proxy.applied.sequence || !self.obeys(Rule::NudgeContiguous);
        if nudge.stamp.epoch != proxy.applied.epoch || !follows {
            return;
        }
        if nudge.ours && self.obeys(Rule::MarksBeforeAcknowledging) {
            proxy.mark = proxy.mark.max(nudge.stamp.sequence);
        }
        proxy.applied.sequence = proxy.applied.sequence.max(nudge.stamp.sequence);
    }

    /// A lookup and, at once, the fetch: the later the stamp, the longer the entry is taken for current.
    fn fetch(&self, state: &mut State, proxy: usize) {
        state.reads -= 1;
        self.valid_epoch(state);
        state.proxies[proxy].fetch = Some(Entry { value: state.upstream, stamp: state.redis.last });
    }

    fn keep_in_l1(&self, proxy: &mut Proxy) {
        proxy.l1 = proxy.fetch;
        if let Some(entry) = &mut proxy.l1
            && !self.obeys(Rule::StampBeforeFetchInL1)
        {
            entry.stamp = Stamp { epoch: proxy.applied.epoch, sequence: proxy.applied.sequence.max(proxy.mark) };
        }
    }

    fn keep_in_l2(&self, state: &mut State, proxy: usize) {
        state.redis.entry = state.proxies[proxy].fetch.take();
        if let Some(entry) = &mut state.redis.entry
            && !self.obeys(Rule::StampBeforeFetchInL2)
        {
            entry.stamp = state.redis.last;
        }
    }

    // ---- A write ----

    fn begin(&self, state: &mut State, by: usize, index: usize) {
        let intent = self.obeys(Rule::IntentBeforeForwarding);
        state.writes[index] = Write { stage: Stage::Forwarded, by, intent, ..Write::default() };
    }

    fn learn_of_invalidation(&self, state: &mut State, index: usize) {
        let write = &mut state.writes[index];
        write.stage = Stage::Waiting;
        let proxy = &mut state.proxies[write.by];
        if !self.obeys(Rule::OwnMarksAtOnce) {
            return;
        }
        if proxy.applied.epoch == write.stamp.epoch {
            proxy.mark = proxy.mark.max(write.stamp.sequence);
        } else if self.obeys(Rule::OwnMarkOfAnotherEpoch) {
            (proxy.lease, proxy.sync) = (None, Sync::None);
        }
    }

    /// All holders have acknowledged; time passes until the epoch is old enough.
    fn answer(&self, state: &mut State, index: usize) {
        if self.obeys(Rule::WaitForEpochAge) {
            state.end_leases(state.writes[index].stamp.epoch);
        }
        acknowledge(state, index);
    }

    // ---- Faults ----

    fn fault(&self, state: &mut State, kind: Fault, by: usize) {
        // Members that expire are no fault (see `actions_of_redis`).
        state.faults = state.faults.saturating_sub(1);
        match kind {
            Fault::Die => self.die(state, by),
            Fault::Leave => self.leave(state, by),
            Fault::LoseReply => lose_reply(&mut state.writes[by]),
            Fault::Flush => {
                state.redis = Redis { last: Stamp::default(), floor: 0, ..State::empty(0).redis };
                keep_intents(state, |_| false);
            }
            Fault::Restart => state.redis.restarted = true,
            Fault::Restore => {
                let Some(snapshot) = state.snapshot.take() else { return };
                state.redis = Redis { restarted: true, ..snapshot };
                keep_intents(state, |write| write.saved);
            }
            Fault::OtherTag => self.take_sequence(state, NOBODY, false),
            Fault::LoseMarks => (state.redis.mark, state.redis.marks_lost) = (0, true),
            Fault::LoseMembers => {
                (state.redis.members, state.redis.syncs) = (0, [0; PROXIES]);
                state.redis.members_lost = self.obeys(Rule::MembersUntilExpelled);
            }
        }
    }

    fn die(&self, state: &mut State, index: usize) {
        state.proxies[index] = Proxy::default();
        for write in state.writes.iter_mut().filter(|write| write.by == index) {
            write.by = NOBODY;
            if matches!(write.stage, Stage::Invalidated | Stage::Waiting | Stage::Expelling) {
                finish(write);
            }
        }
        if self.obeys(Rule::IdOfOneProcess) {
            self.forget_process(state, index);
        }
    }

    /// From here on its records belong to a process that has ended.
    fn forget_process(&self, state: &mut State, index: usize) {
        let renamed = |set: u8| if set & bit(index) == 0 { set } else { set & !bit(index) | gone(index) };
        for redis in state.snapshot.iter_mut().chain([&mut state.redis]) {
            redis.members = renamed(redis.members);
            redis.syncs[index] = 0;
        }
        for write in &mut state.writes {
            write.holders = renamed(write.holders);
            write.renewed = renamed(write.renewed);
        }
    }

    fn leave(&self, state: &mut State, index: usize) {
        if self.obeys(Rule::LeaseEndsBeforeLeaving) {
            state.leaving |= if self.obeys(Rule::IdOfOneProcess) { gone(index) } else { bit(index) };
            self.die(state, index);
        } else {
            state.redis.members &= !bit(index);
        }
    }

    // ---- Properties ----

    fn is_l1_young(&self, state: &State, proxy: &Proxy) -> bool {
        self.l1_hit(proxy).is_none_or(|entry| entry.value >= state.acknowledged)
    }

    /// What a read gets from memory alone.
    fn l1_hit(&self, proxy: &Proxy) -> Option<Entry> {
        let is_leased = proxy.lease.is_some() || !self.obeys(Rule::LeaseOnHit);
        let is_of_epoch = |stamp: Stamp| stamp.epoch == proxy.applied.epoch || !self.obeys(Rule::L1ClearedByEpoch);
        proxy.l1.filter(|entry| is_leased && is_of_epoch(entry.stamp) && entry.stamp.sequence >= proxy.mark)
    }

    fn is_fetch_young(&self, state: &State, proxy: &Proxy) -> bool {
        let may_join = |stamp: Stamp| {
            !self.obeys(Rule::JoinOnlyCurrentFetches)
                || (self.is_whole(&state.redis) && is_current(&state.redis, stamp))
        };
        !proxy.fetch.is_some_and(|entry| may_join(entry.stamp) && entry.value < state.acknowledged)
    }

    /// Whether all ends well from here once faults have ended: each write whose proxy lives is answered, while the
    /// *other* proxies do nothing at all; then proxies sync, intents are carried out, leases are there again, and
    /// nothing that is served is older than upstream.
    fn settles(&self, state: &State) -> bool {
        let mut state = *state;
        for index in 0..self.bounds.writes {
            self.finish_write(&mut state, index);
        }
        let is_answered = |write: &Write| matches!(write.stage, Stage::None | Stage::Expelling | Stage::Done);
        if !state.writes.iter().all(|write| write.by == NOBODY || is_answered(write)) {
            return false;
        }
        self.calm(&mut state);
        let upstream = state.upstream;
        let is_young =
            |entry: Option<Entry>| state.intent_lost || entry.is_none_or(|entry| entry.value == upstream);
        state.writes.iter().all(|write| !write.intent)
            && is_young(self.l2_hit(&state.redis))
            && state.proxies[..self.bounds.proxies]
                .iter()
                .all(|proxy| proxy.lease.is_some() && is_young(self.l1_hit(proxy)))
    }

    fn finish_write(&self, state: &mut State, index: usize) {
        let mut steps = Vec::new();
        // From forwarding to the answer it is at most five.
        for _ in 0..5 {
            steps.clear();
            if state.writes[index].by != NOBODY && state.writes[index].stage != Stage::Expelling {
                self.actions_of_write(state, index, &mut steps);
            }
            // The last one: what a write does for itself comes after what others do for it.
            if let Some(&step) = steps.last() {
                self.step(state, step);
            }
        }
    }

    /// What proxies do without faults.
    fn calm(&self, state: &mut State) {
        for index in 0..self.bounds.writes {
            let write = state.writes[index];
            if write.by == NOBODY && write.stage == Stage::Forwarded && !write.intent {
                commit(state, index);
            }
            if write.intent && self.obeys(Rule::IntentsCarriedOut) {
                self.carry_out_intent(state, index);
            }
        }
        for index in 0..self.bounds.proxies {
            if state.proxies[index].fetch.is_some() {
                self.keep_in_l1(&mut state.proxies[index]);
                self.keep_in_l2(state, index);
            }
            send_sync(state, index);
            self.handle_sync(state, index);
            self.receive_sync(state, index);
        }
    }
}

fn is_current(redis: &Redis, stamp: Stamp) -> bool {
    stamp.epoch == redis.last.epoch && stamp.sequence >= redis.mark.max(redis.floor)
}

fn send_sync(state: &mut State, index: usize) {
    let proxy = &mut state.proxies[index];
    proxy.sync = Sync::Sent { at: state.now, applied: proxy.applied };
}

fn hear_acknowledgement(write: &mut Write, by: usize, applied: Stamp) {
    if !matches!(write.stage, Stage::Invalidated | Stage::Waiting | Stage::Expelling) {
        return;
    }
    write.renewed |= write.holders & bit(by);
    if applied.epoch == write.stamp.epoch
        && applied.sequence >= write.stamp.sequence
        && write.stage != Stage::Expelling
    {
        write.holders &= !bit(by);
        write.renewed &= !bit(by);
    }
}

fn commit(state: &mut State, index: usize) {
    state.upstream += 1;
    let write = &mut state.writes[index];
    write.stage = Stage::Committed;
    write.value = state.upstream;
    if write.by == NOBODY && !write.intent {
        finish(write);
    }
}

fn acknowledge(state: &mut State, index: usize) {
    let write = &mut state.writes[index];
    state.acknowledged = state.acknowledged.max(write.value);
    write.stage = Stage::Expelling;
    if write.holders == 0 {
        finish(write);
    }
}

/// Time passes until every lease that a sync sent before the invalidation was granted is over.
fn answer_after_one_lease(state: &mut State, index: usize) {
    state.end_leases(state.writes[index].point);
    acknowledge(state, index);
}

/// Redis cannot be reached from this proxy, which trusts nothing stored meanwhile.
fn answer_undelivered(state: &mut State, index: usize) {
    state.now += 1;
    state.end_leases(state.now);
    acknowledge(state, index);
}

fn lose_reply(write: &mut Write) {
    let Write { by, value, intent, saved, .. } = *write;
    *write = Write { stage: Stage::Committed, by, value, intent, saved, ..Write::default() };
}

fn save(state: &mut State) {
    state.snapshot = Some(state.redis);
    for write in &mut state.writes {
        write.saved = write.intent;
    }
}

fn keep_intents(state: &mut State, stays: impl Fn(&Write) -> bool) {
    for write in state.writes.iter_mut().filter(|write| write.stage != Stage::Done) {
        state.intent_lost |= write.intent && !stays(write);
        write.intent = stays(write);
        if write.by == NOBODY && write.stage == Stage::Committed && !write.intent {
            finish(write);
        }
    }
}

/// Nothing depends on it any more.
fn finish(write: &mut Write) {
    *write = Write { stage: Stage::Done, by: NOBODY, ..Write::default() };
}

const _: () = assert!(2 * PROXIES <= 8 && WRITES < 8, "a set has a bit for each process");

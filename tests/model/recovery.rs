//! Recovery after Redis was away: which proxies have certainly delivered the invalidations that it kept while it was
//! acknowledging writes on its own (`on_outage = "forward"`), although Redis executes commands late that their senders have
//! long given up. What concerns neither (nudges, intents, fetches, replicas) is in [`crate::fleet`] and [`crate::failover`].
//!
//! Every sync, `invalidate`, `expel`, `dismiss`, `leave` and `put` that has been sent lies in [`State::sent`] until Redis executes it: at any
//! time, in any order, whether or not its sender still waits for the reply. Time is as in the other models.

use stateright::{Model, Property};

use crate::rule::Rule;

pub const PROXIES: usize = 3;
/// Commands at most that are under way.
const SENT: usize = 5;

/// Proxies, one bit each.
type Set = u8;

/// The generation that a proxy has read, and of which epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    epoch: u8,
    generation: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    value: u8,
    epoch: u8,
    sequence: u8,
}

/// What Redis has of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// Writes wait for it.
    has_lease: bool,
    seen: Seen,
    /// Its last sync.
    number: u8,
    /// That was executed after the last silence of the whole fleet.
    is_after_silence: bool,
    /// It is a lease or more ago.
    is_silent: bool,
}

/// How long: a lease, or five seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Length {
    #[default]
    None,
    Lease,
    Long,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redis {
    is_away: bool,
    /// When that began, or a lease passed in it.
    away_since: u8,
    epoch: u8,
    /// A script has begun it: that of the first proxy to ask.
    has_begun: bool,
    /// A sync was executed in it.
    has_heard: bool,
    /// It is not older than a lease.
    is_young: bool,
    mark: u8,
    /// How many silences there were in the epoch.
    generation: u8,
    /// No sync has been executed for so long.
    unheard: Length,
    /// The epoch was young when that began.
    was_young: bool,
    /// The last silence began in a young epoch, and `return_timeout` has not passed since.
    owes_young: bool,
    /// It lasted for five seconds, and `return_timeout` has not passed since.
    owes_long: bool,
    members: [Option<Record>; PROXIES],
    l2: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    Sync {
        proxy: usize,
        number: u8,
        sent: u8,
        asks: bool,
        seen: Seen,
        applied: (u8, u8),
    },
    /// Of a member that was given up, by a proxy that had read this generation.
    Dismiss {
        member: usize,
        number: u8,
        seen: Seen,
    },
    Invalidate,
    Expel {
        member: usize,
        number: u8,
    },
    Leave(usize),
    Put(Entry),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    None,
    /// The sync of this number is under way.
    Sent(u8),
    Reply {
        sent: u8,
        /// It asks for the members that are behind.
        asks: bool,
        seen: Seen,
        sequence: u8,
        mark: u8,
        awaited: Set,
        owes_young: bool,
        owes_long: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    Closed {
        /// A sync has failed since, or the lease has lapsed.
        saw_outage: bool,
        /// The epoch of the last sync before that; 0 for none.
        before: u8,
        /// The members that are behind, as the last reply said.
        awaited: Set,
        /// There may be others with something to deliver.
        strangers: bool,
    },
    Open,
}

/// What is known of the store's absence: when to count a lease from ([`State::now`]), and what has happened since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Absence {
    since: u8,
    has_failed_once: bool,
    waited: Length,
    /// The store was there meanwhile.
    has_gap: bool,
    /// The attempt after that has failed, too.
    is_proven: bool,
}

/// Where the invalidation of a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    None,
    /// Undelivered. `has_tried`: an attempt to connect that began after upstream's answer has failed.
    Kept {
        value: u8,
        is_acknowledged: bool,
        has_tried: bool,
    },
    /// Redis has it; these hold leases, by the sync that was their last.
    IssuedStamp {
        value: u8,
        sequence: u8,
        holders: Set,
        numbers: [u8; PROXIES],
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proxy {
    is_alive: bool,
    has_started: bool,
    has_synced: bool,
    /// It may have been given up, or removed, since its last sync.
    has_lapsed: bool,
    /// The store does not answer.
    absence: Option<Absence>,
    gate: Gate,
    /// When its sync was sent.
    lease: Option<u8>,
    read: Seen,
    applied: (u8, u8),
    mark: u8,
    request: Request,
    write: Write,
    l1: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Beside the one that there is in the beginning.
    pub pauses: u8,
    pub writes: u8,
    pub syncs: u8,
    /// Of these, such as are sent while Redis is away.
    pub late: u8,
    pub reads: u8,
    /// Connections that break while Redis is there, or of the first proxy; proxies that do not sync for a lease.
    pub losses: u8,
    /// Proxies that die.
    pub crashes: u8,
    pub leaves: u8,
    /// Of the second proxy, after a write of another tag.
    pub expels: u8,
    pub starts: u8,
    /// Redis loses everything (`FLUSHALL`); with `restarts` also what was sent.
    pub flushes: u8,
}

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub budget: Budget,
    /// Redis restarts instead of being flushed.
    pub restarts: bool,
    /// Outages of five seconds or more.
    pub is_long: bool,
    /// Invalidations are executed late, too.
    pub late_invalidations: bool,
    /// Only the second proxy writes.
    pub one_writer: bool,
    /// The first proxy may see the reply of its sync later.
    pub slow_replies: bool,
    /// Strict proxies: no write waits for them, and they ask Redis at each hit.
    pub strict: bool,
    /// The second proxy has not started in the beginning.
    pub is_alone: bool,
    /// The epoch is young in the beginning, and this proxy has not synced in it.
    pub unsynced: Option<usize>,
    /// A silence that began in a young epoch begins another epoch: no write waits for proxies that are not members.
    pub renews: bool,
    /// Only that all settles is looked at.
    pub settles: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    now: u8,
    /// Of each proxy: leases requested before this are over.
    over: [u8; PROXIES],
    upstream: u8,
    acknowledged: u8,
    left: Budget,
    numbers: u8,
    redis: Redis,
    proxies: [Proxy; PROXIES],
    sent: [Option<Command>; SENT],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Pause,
    /// A lease passes while Redis is away; or five seconds.
    TimePasses(Length),
    Resume,
    Flush,
    Start(usize),
    Crash(usize),
    Leave(usize),
    /// A proxy's connection breaks, or a time limit ends.
    LoseStore(usize),
    /// An attempt to connect fails.
    Fail(usize),
    /// A lease passes since then.
    Wait(usize),
    Write(usize),
    /// Of a write that is not delivered.
    Acknowledge(usize),
    SendInvalidate(usize),
    Deliver(usize),
    Answer(usize),
    AnswerAfterLease(usize),
    SendSync(usize),
    /// It is executed, and the reply is there.
    Sync(usize),
    Execute(usize),
    Receive(usize),
    Fetch(usize),
    /// A member has not synced for a lease, while others did.
    FallSilent(usize),
    Remove(usize),
    Expel,
    ReturnTimeoutEnds,
    GiveUp(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    pub bounds: Bounds,
    /// The rules that are not obeyed.
    pub off: &'static [Rule],
}

/// Property: memory shows the last acknowledged write.
pub const OPEN_L1: &str = "an open gate shows nothing older from memory";
/// The same of Redis.
pub const OPEN_L2: &str = "an open gate shows nothing older from Redis";
/// Property: from every state all gates open again, and all writes are answered.
pub const RECOVERS: &str = "all gates open again";

const START: u8 = 2;
/// The epoch before, for proxies that have not synced since.
const BEFORE: u8 = 1;
/// The generation in the beginning.
const RAISED: u8 = 1;

/// Before the first sync.
const NEW: Gate = Gate::Closed { saw_outage: false, before: 0, awaited: 0, strangers: false };

/// It has not started yet.
const STRANGER: Proxy = Proxy {
    is_alive: false,
    has_started: false,
    has_synced: false,
    has_lapsed: false,
    absence: None,
    gate: NEW,
    lease: None,
    read: Seen { epoch: 0, generation: 0 },
    applied: (0, 0),
    mark: 0,
    request: Request::None,
    write: Write::None,
    l1: None,
};

impl Model for Recovery {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let is_young = self.bounds.unsynced.is_some();
        let is_unsynced = |index: usize| self.bounds.unsynced == Some(index);
        let is_new = |index: usize| index > 1 || index == 1 && self.bounds.is_alone;
        let seen = Seen { epoch: START, generation: if is_young { 0 } else { RAISED } };
        let entry = Entry { value: 0, epoch: START, sequence: START };
        let record =
            Record { has_lease: !self.bounds.strict, seen, number: 0, is_after_silence: true, is_silent: false };
        let proxy = Proxy {
            is_alive: true,
            has_started: true,
            has_synced: true,
            gate: Gate::Open,
            lease: Some(START),
            read: seen,
            applied: (START, START),
            ..STRANGER
        };
        let redis = Redis {
            is_away: true,
            away_since: START + 1,
            epoch: START,
            has_begun: true,
            has_heard: true,
            is_young,
            mark: 0,
            generation: seen.generation,
            unheard: Length::None,
            was_young: false,
            owes_young: false,
            owes_long: false,
            members: [0, 1, 2].map(|index| Some(record).filter(|_| !is_new(index) && !is_unsynced(index))),
            l2: Some(entry),
        };
        let before =
            Proxy { read: Seen { epoch: BEFORE, generation: RAISED }, applied: (BEFORE, BEFORE), ..proxy };
        let proxies = [0, 1, 2].map(|index| match index {
            _ if is_new(index) => STRANGER,
            _ if is_unsynced(index) => before,
            0 => Proxy { l1: Some(entry), ..proxy },
            _ => proxy,
        });
        vec![State {
            now: START + 1,
            over: [0; PROXIES],
            upstream: 0,
            acknowledged: 0,
            left: self.bounds.budget,
            numbers: 0,
            redis,
            proxies,
            sent: [None; SENT],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Budget { pauses, flushes, .. } = state.left;
        let redis = &state.redis;
        if redis.is_away {
            actions.push(Action::Resume);
            if redis.unheard == Length::None {
                actions.push(Action::TimePasses(Length::Lease));
            } else if self.bounds.is_long {
                actions.push(Action::TimePasses(Length::Long));
            }
        } else {
            actions.extend((pauses > 0).then_some(Action::Pause));
            for index in 0..SENT {
                // Equal ones are alike.
                if state.sent[index].is_some() && (index == 0 || state.sent[index] != state.sent[index - 1]) {
                    actions.push(Action::Execute(index));
                }
            }
            if may_return_timeout_end(state) {
                actions.push(Action::ReturnTimeoutEnds);
            }
        }
        if state.left.expels > 0 && has_room(state) {
            actions.push(Action::Expel);
        }
        if flushes > 0 && (redis.is_away == self.bounds.restarts) {
            actions.push(Action::Flush);
        }
        for proxy in 0..PROXIES {
            self.actions_of(state, proxy, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        self.step(&mut state, action);
        self.tidy(&mut state);
        (state != *last).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        if self.bounds.settles {
            return true;
        }
        // Without anything that is too old, or will be, nothing can go wrong.
        let is_old = |entry: Option<Entry>| entry.is_some_and(|entry| entry.value < state.upstream);
        let mut sent = state.sent.iter().flatten();
        state.left.writes > 0
            || is_old(state.redis.l2)
            || state.proxies.iter().any(|proxy| is_old(proxy.l1))
            || sent.any(|command| matches!(command, Command::Put(entry) if is_old(Some(*entry))))
    }

    fn properties(&self) -> Vec<Property<Recovery>> {
        if self.bounds.settles {
            return vec![Property::always(RECOVERS, |model: &Recovery, state: &State| model.recovers(*state))];
        }
        vec![
            Property::always(OPEN_L1, |model: &Recovery, state: &State| {
                let l1 =
                    |proxy: &Proxy| proxy.l1.filter(|entry| proxy.lease.is_some() && is_current(proxy, entry));
                model.bounds.strict || is_fresh(state, l1)
            }),
            Property::always(OPEN_L2, |_: &Recovery, state: &State| {
                // A proxy that finds it there reads the marks, too.
                let redis = &state.redis;
                let is_there =
                    |entry: &Entry| !redis.is_away && entry.epoch == redis.epoch && entry.sequence >= redis.mark;
                is_fresh(state, |_| redis.l2.filter(is_there))
            }),
        ]
    }
}

impl Recovery {
    fn obeys(&self, rule: Rule) -> bool {
        !self.off.contains(&rule)
    }

    // ---- Which steps there are ----

    fn actions_of(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let (left, redis, proxy) = (&state.left, &state.redis, &state.proxies[index]);
        if !redis.is_away {
            actions.extend(may_fall_silent(state, index).then_some(Action::FallSilent(index)));
            let is_removable = |record: &Record| {
                let is_behind = self.is_behind(redis, record) && self.obeys(Rule::TidyOnlyReturned);
                // It is the script of a sync that does this, and ends a silence first.
                !record.has_lease && record.is_silent && !is_behind && redis.unheard == Length::None
            };
            actions.extend(redis.members[index].filter(is_removable).map(|_| Action::Remove(index)));
        }
        if !proxy.is_alive {
            actions.extend((left.starts > 0 && !proxy.has_started).then_some(Action::Start(index)));
            return;
        }
        actions.extend((left.crashes > 0).then_some(Action::Crash(index)));
        actions.extend((left.leaves > 0 && has_room(state)).then_some(Action::Leave(index)));
        match proxy.absence {
            None if redis.is_away && index > 0 || left.losses > 0 => actions.push(Action::LoseStore(index)),
            None => {}
            Some(absence) => self.actions_without_store(state, index, absence, actions),
        }
        self.actions_of_write(state, index, actions);
        let is_reachable = !redis.is_away || proxy.absence.is_none();
        let is_delivered = !matches!(proxy.write, Write::Kept { .. }) || !self.obeys(Rule::SyncOnlyDelivered);
        let is_left = left.syncs > 0 && (!redis.is_away || left.late > 0);
        if is_left && is_reachable && is_delivered && proxy.request == Request::None && has_room(state) {
            let is_slow = redis.is_away || self.bounds.slow_replies && index == 0;
            actions.push(if is_slow { Action::SendSync(index) } else { Action::Sync(index) });
        }
        if matches!(proxy.request, Request::Reply { .. }) {
            actions.push(Action::Receive(index));
        }
        if left.reads > 0 && proxy.gate == Gate::Open && !redis.is_away && has_room(state) {
            actions.push(Action::Fetch(index));
        }
        actions.extend(self.may_give_up(state, index).then_some(Action::GiveUp(index)));
    }

    fn actions_without_store(&self, state: &State, index: usize, absence: Absence, actions: &mut Vec<Action>) {
        let proxy = &state.proxies[index];
        let is_open = matches!(proxy.write, Write::Kept { is_acknowledged: false, .. });
        let is_late = absence.waited >= self.hold(proxy) || !self.obeys(Rule::ForwardAfterLease);
        let is_any = !self.obeys(Rule::AttemptAfterWrite) || self.counts_by_own_clock();
        if state.redis.is_away && (is_any || is_open && is_late) {
            actions.push(Action::Fail(index));
        }
        // In the strict reading only a lease that passes while Redis is away counts.
        let has_begun = absence.has_failed_once || !self.obeys(Rule::LeaseFromFailedAttempt);
        if self.counts_by_own_clock() && has_begun && absence.has_gap && absence.waited == Length::None {
            actions.push(Action::Wait(index));
        }
    }

    fn counts_by_own_clock(&self) -> bool {
        let rules = [Rule::LeaseFromFailedAttempt, Rule::AttemptsWithoutGap, Rule::FailedAttempt];
        !rules.into_iter().all(|rule| self.obeys(rule))
    }

    fn actions_of_write(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let (redis, proxy) = (&state.redis, &state.proxies[index]);
        let may_write = state.left.writes > 0 && (index == 1 || index == 2 || !self.bounds.one_writer);
        match proxy.write {
            Write::None => actions.extend(may_write.then_some(Action::Write(index))),
            Write::Kept { is_acknowledged, .. } => {
                if is_acknowledged && may_write {
                    actions.push(Action::Write(index));
                }
                // Otherwise it is as soon as the attempt has failed.
                let is_later = !self.obeys(Rule::AttemptAfterWrite) || !self.obeys(Rule::FailedAttempt);
                if is_later && !is_acknowledged && self.may_acknowledge(proxy) {
                    actions.push(Action::Acknowledge(index));
                }
                if !redis.is_away {
                    actions.push(Action::Deliver(index));
                } else if self.bounds.late_invalidations && proxy.absence.is_none() && has_room(state) {
                    actions.push(Action::SendInvalidate(index));
                }
            }
            Write::IssuedStamp { holders: 0, .. } => actions.push(Action::Answer(index)),
            Write::IssuedStamp { .. } => actions.push(Action::AnswerAfterLease(index)),
        }
    }

    /// A write that is not delivered.
    fn may_acknowledge(&self, proxy: &Proxy) -> bool {
        let Some(absence) = proxy.absence else { return false };
        let Write::Kept { has_tried, .. } = proxy.write else { return false };
        let is_proven = absence.is_proven || !self.obeys(Rule::FailedAttempt);
        let has_waited = absence.waited >= self.hold(proxy) || !self.obeys(Rule::ForwardAfterLease);
        let is_tried = has_tried || !self.obeys(Rule::AttemptAfterWrite);
        is_proven && has_waited && is_tried
    }

    fn hold(&self, proxy: &Proxy) -> Length {
        let is_new = !proxy.has_synced && self.obeys(Rule::NewcomersHold)
            || proxy.has_lapsed && self.obeys(Rule::LapsedMembersHold);
        if is_new { Length::Long } else { Length::Lease }
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Pause => {
                state.left.pauses -= 1;
                state.now += 1;
                (state.redis.is_away, state.redis.away_since) = (true, state.now);
            }
            Action::TimePasses(length) => time_passes(state, length),
            Action::Resume => {
                (state.redis.is_away, state.redis.away_since) = (false, 0);
                if !state.redis.has_begun {
                    // The next proxy to ask begins it.
                    state.redis.unheard = Length::None;
                }
                for absence in state.proxies.iter_mut().filter_map(|proxy| proxy.absence.as_mut()) {
                    let by_clock = !self.obeys(Rule::AttemptsWithoutGap) || !self.obeys(Rule::FailedAttempt);
                    let is_kept = absence.is_proven || by_clock;
                    *absence = if is_kept { Absence { has_gap: true, ..*absence } } else { Absence::default() };
                }
            }
            Action::Flush => self.flush(state),
            Action::Start(proxy) => {
                state.left.starts -= 1;
                let is_away = state.redis.is_away;
                let absence = is_away.then_some(Absence { since: state.now, ..Absence::default() });
                let proxy = &mut state.proxies[proxy];
                *proxy = Proxy { is_alive: true, has_started: true, absence, ..*proxy };
                if is_away {
                    close(proxy);
                }
            }
            Action::Crash(proxy) => {
                state.left.crashes -= 1;
                end_process(state, proxy);
            }
            Action::Leave(proxy) => {
                state.left.leaves -= 1;
                let owes = matches!(state.proxies[proxy].write, Write::Kept { is_acknowledged: true, .. });
                if !owes || !self.obeys(Rule::LeaveOnlyDelivered) {
                    send(state, Command::Leave(proxy));
                }
                end_process(state, proxy);
            }
            Action::LoseStore(proxy) => {
                if !state.redis.is_away || proxy == 0 {
                    state.left.losses = state.left.losses.saturating_sub(1);
                }
                lose_store(state, proxy);
            }
            Action::Fail(proxy) => self.fail(state, proxy),
            Action::Wait(proxy) => self.wait(state, proxy),
            Action::Write(proxy) => {
                state.left.writes -= 1;
                state.upstream += 1;
                let value = state.upstream;
                state.proxies[proxy].write = Write::Kept { value, is_acknowledged: false, has_tried: false };
            }
            Action::Acknowledge(proxy) => acknowledge(state, proxy),
            Action::SendInvalidate(proxy) => {
                send(state, Command::Invalidate);
                lose_store(state, proxy);
            }
            Action::Deliver(proxy) => deliver(state, proxy),
            Action::Answer(proxy) => answer(state, proxy),
            Action::AnswerAfterLease(proxy) => answer_after_lease(state, proxy),
            Action::SendSync(proxy) => {
                self.send_sync(state, proxy);
            }
            Action::Sync(proxy) => {
                let command = self.send_sync(state, proxy);
                let index = state.sent.iter().position(|sent| *sent == Some(command));
                index.into_iter().for_each(|index| self.execute(state, index));
            }
            Action::Execute(index) => self.execute(state, index),
            Action::Receive(proxy) => self.receive(state, proxy),
            Action::Fetch(proxy) => {
                state.left.reads -= 1;
                state.redis.has_begun = true;
                let entry = Entry { value: state.upstream, epoch: state.redis.epoch, sequence: state.now };
                state.proxies[proxy].l1 = Some(entry);
                send(state, Command::Put(entry));
            }
            Action::FallSilent(member) => {
                state.left.losses -= u8::from(state.proxies[member].is_alive);
                end_leases(state, member);
                state.proxies[member].has_lapsed = state.proxies[member].is_alive;
                if let Some(record) = &mut state.redis.members[member] {
                    record.is_silent = true;
                }
            }
            Action::Expel => {
                state.left.expels -= 1;
                end_leases(state, 1);
                if let Some(record) = state.redis.members[1] {
                    send(state, Command::Expel { member: 1, number: record.number });
                }
            }
            Action::Remove(member) => state.redis.members[member] = None,
            Action::ReturnTimeoutEnds => {
                let redis = &mut state.redis;
                (redis.is_young, redis.owes_young, redis.owes_long) = (false, false, false);
            }
            Action::GiveUp(proxy) => self.give_up(state, proxy),
        }
        for index in 0..PROXIES {
            self.close_without_lease(state, index);
        }
    }

    // ---- Redis ----

    /// Everything is lost, and the first proxy to ask begins a new epoch.
    fn flush(&self, state: &mut State) {
        state.left.flushes -= 1;
        state.now += 1;
        state.redis = Redis {
            is_away: state.redis.is_away,
            away_since: state.redis.away_since,
            epoch: state.now,
            has_begun: false,
            has_heard: false,
            is_young: true,
            mark: 0,
            generation: 0,
            unheard: Length::None,
            was_young: false,
            owes_young: false,
            owes_long: false,
            members: [None; PROXIES],
            l2: None,
        };
        if self.bounds.restarts {
            state.sent = [None; SENT];
        }
    }

    fn execute(&self, state: &mut State, index: usize) {
        let Some(command) = state.sent[index].take() else { return };
        match command {
            Command::Sync { .. } => self.execute_sync(state, command),
            Command::Invalidate => {
                state.now += 1;
                (state.redis.mark, state.redis.has_begun) = (state.now, true);
            }
            Command::Dismiss { member, number, seen } => self.dismiss(&mut state.redis, member, number, seen),
            Command::Expel { member, number } => {
                let record = &mut state.redis.members[member];
                if record.is_some_and(|record| record.number == number) {
                    let keeps = self.obeys(Rule::ExpelKeepsRecord);
                    *record = record.filter(|_| keeps).map(|record| Record { has_lease: false, ..record });
                }
            }
            Command::Leave(member) => forget(state, member),
            Command::Put(entry) => state.redis.l2 = Some(entry),
        }
    }

    fn dismiss(&self, redis: &mut Redis, member: usize, number: u8, seen: Seen) {
        let now = Seen { epoch: redis.epoch, generation: redis.generation };
        let is_same = |record: &Record| record.number == number || !self.obeys(Rule::DismissUnlessSynced);
        let is_over =
            |record: &Record| !record.has_lease || record.is_silent || !self.obeys(Rule::DismissAfterLease);
        let is_of_now = seen == now || !self.obeys(Rule::DismissOfItsGeneration);
        let is_heard = redis.unheard == Length::None || !self.obeys(Rule::DismissNotInSilence);
        if is_of_now && is_heard && redis.members[member].as_ref().is_some_and(|it| is_same(it) && is_over(it)) {
            redis.members[member] = None;
        }
    }

    /// The first sync that is executed after a silence of all.
    fn end_silence(&self, state: &mut State) {
        let redis = &mut state.redis;
        let length = std::mem::take(&mut redis.unheard);
        if length == Length::None || !redis.has_heard && !self.obeys(Rule::EpochStartIsHeard) {
            return;
        }
        if redis.was_young && self.bounds.renews {
            state.now += 1;
            (redis.epoch, redis.mark, redis.generation, redis.is_young) = (state.now, 0, 0, true);
            return;
        }
        let joins = self.obeys(Rule::SilencesJoin);
        redis.owes_young = redis.was_young || joins && redis.owes_young;
        redis.owes_long = length == Length::Long || joins && redis.owes_long;
        redis.generation += u8::from(self.obeys(Rule::SilenceRaises));
        for record in redis.members.iter_mut().flatten() {
            record.is_after_silence = false;
        }
    }

    fn execute_sync(&self, state: &mut State, command: Command) {
        let Command::Sync { proxy: index, number, sent, asks, seen, applied } = command else { return };
        self.end_silence(state);
        let redis = &mut state.redis;
        (redis.has_begun, redis.has_heard) = (true, true);
        let before = redis.members[index];
        // What is executed late takes back nothing that its sender has shown since.
        let repeated = before.map_or(Seen::default(), |it| it.seen);
        let is_newer = seen.epoch != repeated.epoch || seen.generation > repeated.generation;
        let is_older = repeated.epoch == redis.epoch && seen.epoch != redis.epoch;
        let repeats = seen != Seen::default() && is_newer && !is_older;
        let applied = if applied.0 == redis.epoch { applied.1 } else { 0 };
        redis.members[index] = Some(Record {
            has_lease: !self.bounds.strict,
            seen: if repeats { seen } else { repeated },
            number: before.map_or(number, |it| it.number.max(number)),
            is_after_silence: true,
            is_silent: false,
        });
        for proxy in &mut state.proxies {
            if let Write::IssuedStamp { sequence, holders, .. } = &mut proxy.write
                && applied >= *sequence
            {
                *holders &= !(1 << index);
            }
        }
        if state.proxies[index].request != Request::Sent(number) {
            return;
        }
        let redis = &state.redis;
        state.proxies[index].request = Request::Reply {
            sent,
            asks,
            seen: Seen { epoch: redis.epoch, generation: redis.generation },
            sequence: state.now,
            mark: redis.mark,
            awaited: if asks { self.behind(redis, index) } else { 0 },
            owes_young: redis.owes_young && self.obeys(Rule::WaitsInYoungEpoch),
            owes_long: redis.owes_long && self.obeys(Rule::WaitsForStrangers),
        };
        if !self.bounds.slow_replies || index > 0 {
            self.receive(state, index);
        }
    }

    /// It may have something to deliver since the last silence.
    fn is_behind(&self, redis: &Redis, record: &Record) -> bool {
        let is_of_epoch = record.seen.epoch == redis.epoch || !self.obeys(Rule::SeenOfItsEpoch);
        let has_returned = match self.obeys(Rule::EvidenceBySeen) {
            true => is_of_epoch && record.seen.generation >= redis.generation,
            false => record.is_after_silence,
        };
        redis.generation > 0 && !has_returned
    }

    /// The other members that are behind.
    fn behind(&self, redis: &Redis, index: usize) -> Set {
        (0..PROXIES)
            .filter(|&other| other != index)
            .filter(|&other| redis.members[other].as_ref().is_some_and(|record| self.is_behind(redis, record)))
            .fold(0, |set, other| set | 1 << other)
    }

    /// In one order, with small numbers, and without what means nothing any more.
    fn tidy(&self, state: &mut State) {
        let (upstream, is_last) = (state.upstream, state.left.writes == 0);
        let is_of_use = |entry: &Entry| !is_last || entry.value < upstream;
        for (index, proxy) in state.proxies.iter_mut().enumerate() {
            proxy.l1 = proxy.l1.filter(is_of_use);
            if let Gate::Closed { before, .. } = &mut proxy.gate
                && self.obeys(Rule::RootInAnyEpoch)
            {
                *before = 0;
            }
            if proxy.has_started && !proxy.is_alive {
                *proxy = Proxy { has_started: true, ..STRANGER };
            }
            let is_before = |sent: u8| sent < state.over[index];
            let is_awaited = match proxy.request {
                Request::Reply { sent, .. } => is_before(sent),
                Request::Sent(_) => state.sent.iter().flatten().any(|command| {
                    matches!(command, Command::Sync { proxy, sent, .. } if *proxy == index && is_before(*sent))
                }),
                Request::None => false,
            };
            if !is_awaited {
                state.over[index] = 0;
            }
            if let Some(absence) = &mut proxy.absence
                && !self.counts_by_own_clock()
            {
                (absence.since, absence.has_failed_once, absence.has_gap) = (0, false, false);
            }
        }
        let redis = &mut state.redis;
        redis.l2 = redis.l2.filter(is_of_use).filter(|entry| entry.epoch == redis.epoch);
        for record in redis.members.iter_mut().flatten() {
            record.is_after_silence &= !self.obeys(Rule::EvidenceBySeen);
        }
        redis.was_young &= redis.unheard > Length::None;
        for place in &mut state.sent {
            let is_of_use = |command: &Command| match command {
                Command::Put(entry) => is_of_use(entry),
                Command::Expel { member, number } => {
                    redis.members[*member].is_some_and(|record| record.has_lease && record.number == *number)
                }
                Command::Dismiss { member, number, .. } => {
                    let is_same =
                        |record: Record| record.number == *number || !self.obeys(Rule::DismissUnlessSynced);
                    redis.members[*member].is_some_and(is_same)
                }
                _ => true,
            };
            *place = place.filter(is_of_use);
            if let Some(Command::Sync { proxy, number, sent, applied, .. }) = place
                && state.proxies[*proxy].request != Request::Sent(*number)
            {
                // The reply is not read.
                *sent = 0;
                if !state.proxies.iter().any(|proxy| matches!(proxy.write, Write::IssuedStamp { .. })) && is_last {
                    *applied = (0, 0);
                }
            }
        }
        renumber(state, Kind::Time);
        renumber(state, Kind::Sync);
        state.sent.sort_unstable();
    }

    // ---- A proxy ----

    fn close_without_lease(&self, state: &mut State, index: usize) {
        let over = state.over[index];
        let proxy = &mut state.proxies[index];
        if self.bounds.strict && !self.obeys(Rule::StrictGatesLapse) {
            return;
        }
        proxy.lease = proxy.lease.filter(|sent| *sent >= over);
        // In between no reply was taken: the sync under way may be in time for the next lease, not for this one.
        if proxy.lease.is_none() && proxy.gate == Gate::Open && self.obeys(Rule::LapseCloses) {
            close(proxy);
        }
    }

    fn fail(&self, state: &mut State, index: usize) {
        let now = state.now;
        let hold = self.hold(&state.proxies[index]);
        let proxy = &mut state.proxies[index];
        let Some(absence) = &mut proxy.absence else { return };
        if !absence.has_failed_once && self.obeys(Rule::LeaseFromFailedAttempt) {
            absence.since = now;
        }
        absence.has_failed_once = true;
        if absence.waited >= hold || !self.obeys(Rule::ForwardAfterLease) {
            absence.is_proven = true;
        }
        if let Write::Kept { has_tried, .. } = &mut proxy.write {
            *has_tried = true;
        }
        if self.obeys(Rule::AttemptAfterWrite) && self.may_acknowledge(&state.proxies[index]) {
            acknowledge(state, index);
        }
    }

    /// What was sent before the store went away, as far as this proxy knows, is over.
    fn wait(&self, state: &mut State, index: usize) {
        let Some(absence) = &mut state.proxies[index].absence else { return };
        absence.waited = Length::Lease;
        let since = absence.since;
        for over in &mut state.over {
            *over = since.max(*over);
        }
    }

    fn send_sync(&self, state: &mut State, index: usize) -> Command {
        state.left.syncs = state.left.syncs.saturating_sub(1);
        state.left.late -= u8::from(state.redis.is_away);
        state.numbers += 1;
        let (number, sent) = (state.numbers, state.now);
        let proxy = &mut state.proxies[index];
        proxy.absence = None;
        proxy.request = Request::Sent(number);
        let asks = proxy.gate != Gate::Open;
        let (seen, applied) = (proxy.read, proxy.applied);
        let command = Command::Sync { proxy: index, number, sent, asks, seen, applied };
        send(state, command);
        command
    }

    fn receive(&self, state: &mut State, index: usize) {
        let Request::Reply { sent, asks, seen, sequence, mark, mut awaited, owes_young, owes_long } =
            state.proxies[index].request
        else {
            return;
        };
        let now = state.now;
        let over = state.over[index];
        if !self.obeys(Rule::EvidenceWithMarks) && asks && !state.redis.is_away {
            awaited = self.behind(&state.redis, index);
        }
        let proxy = &mut state.proxies[index];
        proxy.request = Request::None;
        let is_new = !proxy.has_synced;
        (proxy.has_synced, proxy.has_lapsed) = (true, false);
        proxy.read = seen;
        if proxy.applied.0 == seen.epoch {
            proxy.mark = proxy.mark.max(mark);
            proxy.applied.1 = proxy.applied.1.max(sequence);
        } else {
            (proxy.applied, proxy.mark) = ((seen.epoch, sequence), mark);
        }
        let sent = if self.obeys(Rule::LeaseFromSending) { sent } else { now.max(over) };
        if sent < over {
            return;
        }
        proxy.lease = Some(sent);
        let Gate::Closed { saw_outage, before, .. } = proxy.gate else { return };
        if !asks && self.obeys(Rule::AskedWhenClosed) {
            return;
        }
        let all = self.obeys(Rule::StrangersAwaitedByAll);
        let strangers = owes_young || owes_long && (saw_outage || awaited != 0 || all);
        let opens = awaited == 0 && !strangers || is_new && !self.obeys(Rule::NewcomersAwait);
        proxy.gate = if opens { Gate::Open } else { Gate::Closed { saw_outage, before, awaited, strangers } };
    }

    /// The proxies that it awaits do not return, nor do unknown ones.
    fn may_give_up(&self, state: &State, index: usize) -> bool {
        let Gate::Closed { saw_outage, awaited, strangers, .. } = state.proxies[index].gate else { return false };
        // A proxy that has seen the outage does it sooner.
        let sees = |proxy: &Proxy| proxy.is_alive && matches!(proxy.gate, Gate::Closed { saw_outage: true, .. });
        let is_first = saw_outage || !self.obeys(Rule::SeersFirst) || !state.proxies.iter().any(sees);
        let mut others = (0..PROXIES).filter(|other| awaited & (1 << other) != 0);
        awaited != 0
            && !strangers
            && is_first
            && has_room(state)
            && !state.redis.is_away
            && !others.any(|other| comes_soon(&state.proxies[other]))
    }

    fn give_up(&self, state: &mut State, index: usize) {
        let proxy = &mut state.proxies[index];
        let Gate::Closed { saw_outage, before, awaited, .. } = proxy.gate else { return };
        let is_of_epoch = before == 0 || before == state.redis.epoch || self.obeys(Rule::RootInAnyEpoch);
        if saw_outage && is_of_epoch && self.obeys(Rule::RootBeforeOpening) {
            state.now += 1;
            (state.redis.mark, state.redis.has_begun) = (state.now, true);
            if proxy.applied.0 == state.redis.epoch {
                proxy.mark = state.now;
            } else {
                proxy.lease = None;
            }
        }
        proxy.gate = Gate::Open;
        let seen = proxy.read;
        for member in (0..PROXIES).filter(|member| awaited & (1 << member) != 0) {
            state.proxies[member].has_lapsed |= state.proxies[member].is_alive;
            let is_behind = |record: &Record| self.is_behind(&state.redis, record);
            if let Some(record) = state.redis.members[member].filter(is_behind)
                && has_room(state)
            {
                send(state, Command::Dismiss { member, number: record.number, seen });
            }
        }
    }

    // ---- No further faults ----

    /// From here on there are no faults. No member is given up unless a proxy has died.
    fn recovers(&self, mut state: State) -> bool {
        let is_any_lost = state.proxies.iter().any(|proxy| proxy.has_started && !proxy.is_alive);
        if state.redis.is_away {
            self.step(&mut state, Action::Resume);
        }
        for _ in 0..6 {
            for index in 0..SENT {
                self.execute(&mut state, index);
            }
            for index in (0..PROXIES).filter(|&index| state.proxies[index].is_alive).collect::<Vec<_>>() {
                self.proceed(&mut state, index);
            }
            if may_return_timeout_end(&state) {
                self.step(&mut state, Action::ReturnTimeoutEnds);
            }
            for index in 0..PROXIES {
                if is_any_lost && self.may_give_up(&state, index) {
                    self.step(&mut state, Action::GiveUp(index));
                }
            }
        }
        let is_well =
            |proxy: &Proxy| proxy.gate == Gate::Open && proxy.lease.is_some() && proxy.write == Write::None;
        state.proxies.iter().filter(|proxy| proxy.is_alive).all(is_well)
            && state.acknowledged <= state.upstream
            && is_fresh(&state, |proxy| proxy.l1.filter(|entry| is_current(proxy, entry)))
    }

    /// All that this proxy can do in one round: one sync at most.
    fn proceed(&self, state: &mut State, index: usize) {
        if matches!(state.proxies[index].request, Request::Sent(_)) {
            // Its command was lost.
            self.step(state, Action::LoseStore(index));
        }
        if matches!(state.proxies[index].request, Request::Reply { .. }) {
            self.step(state, Action::Receive(index));
        }
        if matches!(state.proxies[index].write, Write::Kept { .. }) {
            self.step(state, Action::Deliver(index));
        }
        self.step(state, Action::SendSync(index));
        for sent in 0..SENT {
            self.execute(state, sent);
        }
        self.step(state, Action::Receive(index));
        if matches!(state.proxies[index].write, Write::IssuedStamp { .. }) {
            self.step(state, Action::AnswerAfterLease(index));
            // The leases that this has ended are renewed.
            self.step(state, Action::SendSync(index));
            for sent in 0..SENT {
                self.execute(state, sent);
            }
            self.step(state, Action::Receive(index));
        }
    }
}

/// A sync has failed, or the lease has lapsed.
fn close(proxy: &mut Proxy) {
    let before = match proxy.gate {
        Gate::Open => proxy.read.epoch,
        Gate::Closed { before, .. } => before,
    };
    proxy.gate = Gate::Closed { saw_outage: true, before, awaited: 0, strangers: false };
}

fn is_current(proxy: &Proxy, entry: &Entry) -> bool {
    entry.epoch == proxy.applied.0 && entry.sequence >= proxy.mark
}

fn is_fresh(state: &State, hit: impl Fn(&Proxy) -> Option<Entry>) -> bool {
    let mut serving = state.proxies.iter().filter(|proxy| proxy.is_alive && proxy.gate == Gate::Open);
    serving.all(|proxy| hit(proxy).is_none_or(|entry| entry.value >= state.acknowledged))
}

fn has_room(state: &State) -> bool {
    state.sent.iter().filter(|command| command.is_some()).count() + 1 < SENT
}

fn send(state: &mut State, command: Command) {
    if let Some(place) = state.sent.iter_mut().find(|place| place.is_none()) {
        *place = Some(command);
    }
}

/// Of both kinds of numbers the order alone means something.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Time,
    Sync,
}

fn renumber(state: &mut State, kind: Kind) {
    let mut used = 1_u128;
    each_number(state, kind, &mut |number| used |= 1 << *number);
    each_number(state, kind, &mut |number| *number = (used & ((1 << *number) - 1)).count_ones() as u8);
}

fn each_number(state: &mut State, of: Kind, visit: &mut impl FnMut(&mut u8)) {
    let mut visit = |kind: Kind, number: &mut u8| {
        if kind == of {
            visit(number);
        }
    };
    let seen = |visit: &mut dyn FnMut(Kind, &mut u8), seen: &mut Seen| {
        visit(Kind::Time, &mut seen.epoch);
    };
    let entry = |visit: &mut dyn FnMut(Kind, &mut u8), entry: &mut Entry| {
        visit(Kind::Time, &mut entry.epoch);
        visit(Kind::Time, &mut entry.sequence);
    };
    visit(Kind::Sync, &mut state.numbers);
    visit(Kind::Time, &mut state.now);
    state.over.iter_mut().for_each(|over| visit(Kind::Time, over));
    let redis = &mut state.redis;
    for time in [&mut redis.epoch, &mut redis.mark, &mut redis.away_since] {
        visit(Kind::Time, time);
    }
    redis.l2.iter_mut().for_each(|l2| entry(&mut visit, l2));
    for record in redis.members.iter_mut().flatten() {
        seen(&mut visit, &mut record.seen);
        visit(Kind::Sync, &mut record.number);
    }
    for command in state.sent.iter_mut().flatten() {
        match command {
            Command::Sync { number, sent, seen: read, applied, .. } => {
                visit(Kind::Sync, number);
                for time in [sent, &mut applied.0, &mut applied.1] {
                    visit(Kind::Time, time);
                }
                seen(&mut visit, read);
            }
            Command::Expel { number, .. } => visit(Kind::Sync, number),
            Command::Dismiss { number, seen: read, .. } => {
                visit(Kind::Sync, number);
                seen(&mut visit, read);
            }
            Command::Put(put) => entry(&mut visit, put),
            Command::Invalidate | Command::Leave(_) => {}
        }
    }
    for proxy in &mut state.proxies {
        for time in [&mut proxy.applied.0, &mut proxy.applied.1, &mut proxy.mark] {
            visit(Kind::Time, time);
        }
        seen(&mut visit, &mut proxy.read);
        proxy.absence.iter_mut().for_each(|absence| visit(Kind::Time, &mut absence.since));
        proxy.lease.iter_mut().for_each(|lease| visit(Kind::Time, lease));
        proxy.l1.iter_mut().for_each(|l1| entry(&mut visit, l1));
        if let Gate::Closed { before, .. } = &mut proxy.gate {
            visit(Kind::Time, before);
        }
        if let Write::IssuedStamp { sequence, numbers, .. } = &mut proxy.write {
            visit(Kind::Time, sequence);
            numbers.iter_mut().for_each(|number| visit(Kind::Sync, number));
        }
        match &mut proxy.request {
            Request::None => {}
            Request::Sent(number) => visit(Kind::Sync, number),
            Request::Reply { sent, seen: read, sequence, mark, .. } => {
                for time in [sent, sequence, mark] {
                    visit(Kind::Time, time);
                }
                seen(&mut visit, read);
            }
        }
    }
}

fn end_process(state: &mut State, index: usize) {
    state.proxies[index].is_alive = false;
}

fn lose_store(state: &mut State, index: usize) {
    state.now += 1;
    let (since, is_away) = (state.now, state.redis.is_away);
    let proxy = &mut state.proxies[index];
    close(proxy);
    (proxy.lease, proxy.request) = (None, Request::None);
    proxy.absence = Some(Absence { since, has_gap: !is_away, ..Absence::default() });
}

/// No sync that this proxy has sent until now gives it a lease any more.
fn end_leases(state: &mut State, index: usize) {
    state.now += 1;
    state.over[index] = state.now;
}

/// All leases end; a proxy that has been without the store meanwhile has waited for that.
fn time_passes(state: &mut State, length: Length) {
    let redis = &mut state.redis;
    if redis.unheard == Length::None {
        redis.was_young = redis.is_young;
    }
    redis.unheard = length;
    // One that no script has begun begins later.
    redis.is_young &= !redis.has_begun;
    for record in redis.members.iter_mut().flatten() {
        record.is_silent = true;
    }
    // What was sent since is executed at the end, and may bring a lease.
    for over in &mut state.over {
        *over = state.redis.away_since.max(*over);
    }
    state.now += 1;
    state.redis.away_since = state.now;
    for absence in state.proxies.iter_mut().filter_map(|proxy| proxy.absence.as_mut()) {
        absence.waited = absence.waited.max(length);
    }
}

/// A live proxy that has not noticed yet that Redis is back returns in time.
fn comes_soon(proxy: &Proxy) -> bool {
    proxy.is_alive && proxy.absence.is_some()
}

fn may_fall_silent(state: &State, index: usize) -> bool {
    let is_known = state.redis.members[index].is_some_and(|record| !record.is_silent);
    let is_lost = !state.proxies[index].is_alive || state.left.losses > 0;
    is_known && is_lost && state.redis.unheard == Length::None && !comes_soon(&state.proxies[index])
}

fn may_return_timeout_end(state: &State) -> bool {
    let redis = &state.redis;
    !redis.is_away
        && (redis.is_young || redis.owes_young || redis.owes_long)
        && redis.unheard == Length::None
        && (0..PROXIES).all(|index| {
            let proxy = &state.proxies[index];
            !proxy.is_alive || !comes_soon(proxy) && redis.members[index].is_some()
        })
}

fn forget(state: &mut State, member: usize) {
    state.redis.members[member] = None;
    for proxy in &mut state.proxies {
        if let Write::IssuedStamp { holders, .. } = &mut proxy.write {
            *holders &= !(1 << member);
        }
    }
}

/// The reply comes at once: where it is lost, the command is a late one.
fn deliver(state: &mut State, index: usize) {
    let Write::Kept { value, is_acknowledged, .. } = state.proxies[index].write else { return };
    state.now += 1;
    (state.redis.mark, state.redis.has_begun) = (state.now, true);
    let holders = (0..PROXIES)
        .filter(|&other| other != index && state.redis.members[other].is_some_and(|it| it.has_lease))
        .fold(0, |set, other| set | 1 << other);
    let proxy = &mut state.proxies[index];
    proxy.absence = None;
    if proxy.applied.0 == state.redis.epoch {
        proxy.mark = state.now;
    }
    let numbers = state.redis.members.map(|record| record.map_or(0, |record| record.number));
    let taken = Write::IssuedStamp { value, sequence: state.now, holders, numbers };
    proxy.write = if is_acknowledged { Write::None } else { taken };
}

/// Of what is undelivered.
fn acknowledge(state: &mut State, index: usize) {
    if let Write::Kept { value, is_acknowledged, .. } = &mut state.proxies[index].write {
        *is_acknowledged = true;
        state.acknowledged = state.acknowledged.max(*value);
    }
}

/// Not before the epoch is older than a lease.
fn answer(state: &mut State, index: usize) {
    let Write::IssuedStamp { value, .. } = state.proxies[index].write else { return };
    state.proxies[index].write = Write::None;
    state.acknowledged = state.acknowledged.max(value);
    for over in &mut state.over {
        *over = state.redis.epoch.max(*over);
    }
}

fn answer_after_lease(state: &mut State, index: usize) {
    let Write::IssuedStamp { sequence, holders, numbers, .. } = state.proxies[index].write else { return };
    for over in &mut state.over {
        *over = sequence.max(*over);
    }
    for member in (0..PROXIES).filter(|member| holders & (1 << member) != 0) {
        if has_room(state) {
            send(state, Command::Expel { member, number: numbers[member] });
        }
    }
    answer(state, index);
}

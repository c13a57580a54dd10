//! Failovers: several servers, of which two may take writes at once, and what `wait_replicas` makes of that; leases of
//! different length; clocks that are set. One proxy writes, the other reads; what concerns neither (nudges, intents,
//! trimming, own marks) is in [`crate::fleet`].
//!
//! Time is as there, but a lease may be a long one, and then ends only when a long time has passed.

use stateright::{Model, Property};

use crate::rule::Rule;

/// Servers at most: the first primary and its replicas.
pub const SERVERS: usize = 4;
const WRITER: usize = 0;
const READER: usize = 1;
const NOWHERE: usize = SERVERS;

/// Servers, one bit each.
type Set = u8;

/// Epoch and sequence; both are the [`State::now`] of their issue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    epoch: u8,
    sequence: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    value: u8,
    stamp: Stamp,
}

/// What a server keeps, and a replica copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Data {
    /// Whose epoch it is ([`Failover::identity`]); `None`: everything is lost.
    owner: Option<u8>,
    last: Stamp,
    mark: u8,
    floor: u8,
    has_member: bool,
    members_lost: bool,
    /// The longest lease in meta is a long one.
    is_long: bool,
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Server {
    /// The server that it follows; `None` for a primary.
    follows: Option<usize>,
    /// Number of the promotion that made it a primary, or the highest of those that it followed.
    term: u8,
    data: Data,
}

/// A sync that one server has carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sync {
    server: usize,
    /// Replicas that have it.
    acks: Set,
    sent: u8,
    last: Stamp,
    mark: u8,
    is_long: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// The server that it is connected to.
    at: usize,
    /// The identity of that server when it connected ([`Failover::identity`]).
    peer: u8,
    applied: Stamp,
    mark: u8,
    /// When the sync was sent that brought it.
    lease: Option<u8>,
    /// The same, and the epoch that the store is trusted in.
    proof: Option<(u8, u8)>,
    sync: Option<Sync>,
    /// The epoch met last, when that was, and whether another one was known before.
    met: (u8, u8, bool),
    knows_long: bool,
    l1: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Idle,
    /// Upstream has carried it out, and no server has taken the invalidation, or it is not known.
    Untaken,
    /// A server has taken the invalidation.
    IssuedStamp,
    /// Enough replicas have it.
    Waiting,
}

/// The write under way; there is one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    stage: Stage,
    server: usize,
    acks: Set,
    stamp: Stamp,
    /// The reader is a member and has not acknowledged.
    is_held: bool,
    is_long: bool,
}

const NO_WRITE: Write = Write {
    stage: Stage::Idle,
    server: NOWHERE,
    acks: 0,
    stamp: Stamp { epoch: 0, sequence: 0 },
    is_held: false,
    is_long: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Time: invalidations, epochs begun, epochs met.
    now: u8,
    /// Of each proxy: what was sent before this is over.
    over: [u8; 2],
    upstream: u8,
    acknowledged: u8,
    /// How often each may still happen.
    left: Budget,
    /// Redis's clock was set forward.
    is_forward: bool,
    servers: [Server; SERVERS],
    proxies: [Proxy; 2],
    write: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    pub writes: u8,
    pub syncs: u8,
    pub reads: u8,
    /// Connections to another server.
    pub moves: u8,
    pub promotions: u8,
    /// Replicas, or deposed primaries, that follow another server.
    pub switches: u8,
    pub faults: u8,
}

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub replicas: usize,
    /// `wait_replicas`.
    pub needed: u32,
    /// What may befall the first server.
    pub kinds: &'static [Action],
    pub budget: Budget,
    /// A replica may follow a replica.
    pub chains: bool,
    /// The reader is strict: it holds no lease.
    pub strict: bool,
    /// The reader's lease is a long one, and it has not synced yet.
    pub lengths: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Failover {
    pub bounds: Bounds,
    /// The rules that are not obeyed.
    pub off: &'static [Rule],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    SendSync(usize),
    ReceiveSync(usize),
    Connect(usize, usize),
    Fetch,
    Invalidate,
    HearOfReplicas,
    Answer,
    AnswerAfterLease,
    Replicate(usize),
    Promote(usize),
    Follow(usize, usize),
    /// Members are evicted, and that is noticed.
    LoseMembers,
    /// Everything is lost.
    Flush,
    /// Epochs look old from now on.
    SetClockForward,
}

/// Property: a read that begins now and is answered from memory gets nothing older than an acknowledged write.
pub const HELD: &str = "memory under a lease shows the last acknowledged write";
/// The same of a read that is answered by the server that its proxy is connected to, if the proxy trusts that server.
pub const VOUCHED: &str = "what a server vouches for shows the last acknowledged write";

impl Model for Failover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Bounds { replicas, budget, strict, lengths, .. } = self.bounds;
        let stamp = Stamp { epoch: 1, sequence: 1 };
        let entry = Some(Entry { value: 0, stamp });
        let data = Data {
            owner: Some(0),
            last: stamp,
            mark: 0,
            floor: 1,
            has_member: !strict && !lengths,
            members_lost: false,
            is_long: false,
            entry,
        };
        let server = |index: usize| {
            let is_there = (1..=replicas).contains(&index);
            Server { follows: is_there.then_some(0), term: 0, data }
        };
        let proxy = Proxy {
            at: 0,
            peer: 0,
            applied: stamp,
            mark: 1,
            lease: Some(1),
            proof: Some((1, 1)),
            sync: None,
            met: (1, 1, false),
            knows_long: false,
            l1: None,
        };
        let has_synced = !lengths;
        let reader = Proxy {
            lease: proxy.lease.filter(|_| has_synced && !strict),
            proof: proxy.proof.filter(|_| has_synced),
            l1: entry,
            ..proxy
        };
        vec![State {
            now: 1,
            over: [0; 2],
            upstream: 0,
            acknowledged: 0,
            left: budget,
            is_forward: false,
            servers: std::array::from_fn(server),
            proxies: [proxy, reader],
            write: NO_WRITE,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for proxy in 0..2 {
            self.actions_of_proxy(state, proxy, actions);
        }
        // No step reads what has no effect any more.
        if state.left.reads > 0 && state.proxies[READER].at != NOWHERE && !is_last(state) {
            actions.push(Action::Fetch);
        }
        self.actions_of_write(state, actions);
        for server in 0..=self.bounds.replicas {
            self.actions_of_server(state, server, actions);
        }
        if state.left.faults > 0 {
            actions.extend(self.bounds.kinds);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        self.step(&mut state, action);
        self.drop_useless(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Failover>> {
        vec![
            Property::always(HELD, |_, state: &State| {
                held_hit(&state.proxies[READER]).is_none_or(|entry| entry.value >= state.acknowledged)
            }),
            Property::always(VOUCHED, |model: &Failover, state: &State| {
                model.asked_hits(state).into_iter().flatten().all(|entry| entry.value >= state.acknowledged)
            }),
        ]
    }
}

impl Failover {
    fn obeys(&self, rule: Rule) -> bool {
        !self.off.contains(&rule)
    }

    fn is_enough(&self, acks: Set) -> bool {
        acks.count_ones() >= self.bounds.needed
    }

    /// What can never be too old is as good as nothing.
    fn drop_useless(&self, state: &mut State) {
        if !is_last(state) {
            return;
        }
        let upstream = state.upstream;
        let is_old = |entry: &Entry| entry.value < upstream;
        state.proxies[READER].l1 = state.proxies[READER].l1.filter(is_old);
        for server in &mut state.servers {
            server.data.entry = server.data.entry.filter(is_old);
        }
    }

    // ---- Which steps there are ----

    fn actions_of_proxy(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let proxy = &state.proxies[index];
        if let Some(sync) = proxy.sync
            && (self.is_enough(sync.acks) || !self.obeys(Rule::SyncsReplicated))
        {
            actions.push(Action::ReceiveSync(index));
        }
        // One that is under way is given up then.
        if state.left.syncs > 0 && is_primary(state, proxy.at) && self.brings_news(state, index) {
            actions.push(Action::SendSync(index));
        }
        if state.left.moves > 0 {
            let others = (0..=self.bounds.replicas).filter(|&server| server != proxy.at);
            actions.extend(
                others.filter(|&server| is_primary(state, server)).map(|server| Action::Connect(index, server)),
            );
        }
    }

    /// The writer syncs for the epoch and the longest lease alone: it reads nothing.
    fn brings_news(&self, state: &State, index: usize) -> bool {
        let proxy = &state.proxies[index];
        let data = &state.servers[proxy.at].data;
        let is_met = data.owner == Some(proxy.peer) && data.last.epoch == proxy.met.0;
        index == READER || !is_met || data.is_long && !proxy.knows_long
    }

    fn actions_of_write(&self, state: &State, actions: &mut Vec<Action>) {
        let write = &state.write;
        match write.stage {
            Stage::Idle | Stage::Untaken => {
                let is_there = write.stage == Stage::Untaken || state.left.writes > 0;
                if is_there && is_primary(state, state.proxies[WRITER].at) {
                    actions.push(Action::Invalidate);
                }
            }
            Stage::IssuedStamp if self.is_enough(write.acks) || !self.obeys(Rule::WritesReplicated) => {
                actions.push(Action::HearOfReplicas);
            }
            Stage::IssuedStamp => {}
            Stage::Waiting if write.is_held => actions.push(Action::AnswerAfterLease),
            Stage::Waiting => actions.push(Action::Answer),
        }
    }

    fn actions_of_server(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let server = &state.servers[index];
        if server.follows.is_some() {
            actions.push(Action::Replicate(index));
            if state.left.promotions > 0 {
                actions.push(Action::Promote(index));
            }
        }
        if state.left.switches > 0 {
            let others = (0..=self.bounds.replicas).filter(|&other| self.may_follow(state, index, other));
            actions.extend(others.map(|other| Action::Follow(index, other)));
        }
    }

    fn may_follow(&self, state: &State, index: usize, other: usize) -> bool {
        let (server, leader) = (&state.servers[index], &state.servers[other]);
        if index == other || server.follows == Some(other) || leader.follows == Some(index) {
            return false;
        }
        if leader.follows.is_some() {
            return self.bounds.chains && server.follows.is_some() && leader.term >= server.term;
        }
        leader.term > server.term || server.follows.is_some() && !self.obeys(Rule::ReplicasNeverGoBack)
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::SendSync(proxy) => self.send_sync(state, proxy),
            Action::ReceiveSync(proxy) => self.receive_sync(state, proxy),
            Action::Connect(proxy, server) => self.connect(state, proxy, server),
            Action::Fetch => self.fetch(state),
            Action::Invalidate => self.invalidate(state),
            Action::HearOfReplicas => {
                meet(state, WRITER, state.write.stamp.epoch);
                state.write.stage = Stage::Waiting;
            }
            Action::Answer => self.answer(state),
            Action::AnswerAfterLease => {
                // The member's record says how long its lease is.
                end(state, state.write.stamp.sequence, self.bounds.lengths, self.bounds.lengths);
                self.answer(state);
            }
            Action::Replicate(server) => replicate(state, server),
            Action::Promote(server) => {
                state.left.promotions -= 1;
                let term = state.servers.iter().map(|server| server.term).max().unwrap_or(0) + 1;
                (state.servers[server].follows, state.servers[server].term) = (None, term);
            }
            Action::Follow(server, leader) => self.follow(state, server, leader),
            Action::LoseMembers | Action::Flush | Action::SetClockForward => fail(state, action),
        }
    }

    // ---- A server ----

    /// The server that an epoch belongs to, and since when it runs. One that was deposed has another term.
    fn identity(&self, state: &State, server: usize) -> u8 {
        let term = if self.obeys(Rule::DeposedRestart) { state.servers[server].term } else { 0 };
        server as u8 + SERVERS as u8 * term
    }

    /// At the server that the proxy is connected to.
    fn valid_epoch(&self, state: &mut State, proxy: usize) {
        let Proxy { at, peer, .. } = state.proxies[proxy];
        let data = &mut state.servers[at].data;
        if data.owner == Some(peer) && !data.members_lost {
            return;
        }
        state.now += 1;
        data.owner = Some(peer);
        data.last = Stamp { epoch: state.now, sequence: state.now };
        (data.mark, data.floor, data.members_lost) = (0, state.now, false);
    }

    fn follow(&self, state: &mut State, index: usize, leader: usize) {
        state.left.switches -= 1;
        let was_primary = state.servers[index].follows.is_none();
        let term = state.servers[leader].term;
        (state.servers[index].follows, state.servers[index].term) = (Some(leader), term);
        if !was_primary {
            return;
        }
        // A proxy that waits for its replicas learns that it has none any more.
        for proxy in &mut state.proxies {
            proxy.sync = proxy.sync.filter(|sync| sync.server != index);
            if proxy.at == index && self.obeys(Rule::DemotionDropsClients) {
                proxy.at = NOWHERE;
            }
        }
        if state.write.stage == Stage::IssuedStamp && state.write.server == index {
            state.write = Write { stage: Stage::Untaken, ..NO_WRITE };
        }
    }

    // ---- A proxy ----

    fn connect(&self, state: &mut State, proxy: usize, server: usize) {
        state.left.moves -= 1;
        let peer = self.identity(state, server);
        state.proxies[proxy] = Proxy { at: server, peer, sync: None, ..state.proxies[proxy] };
        self.valid_epoch(state, proxy);
        if proxy == WRITER && state.write.stage == Stage::IssuedStamp {
            state.write = Write { stage: Stage::Untaken, ..NO_WRITE };
        }
    }

    fn send_sync(&self, state: &mut State, index: usize) {
        state.left.syncs -= 1;
        let server = state.proxies[index].at;
        let sent = state.now;
        self.valid_epoch(state, index);
        let proxy = &mut state.proxies[index];
        let data = &mut state.servers[server].data;
        if index == READER {
            data.has_member |= !self.bounds.strict;
            data.is_long |= self.bounds.lengths;
            let (applied, stamp) = (proxy.applied, state.write.stamp);
            state.write.is_held &= applied.epoch != stamp.epoch || applied.sequence < stamp.sequence;
        }
        let is_known = proxy.applied.epoch == data.last.epoch && proxy.applied.sequence >= data.floor;
        let mark = if is_known { data.mark } else { data.last.sequence };
        // The longest lease of the members, where meta has none.
        let is_long = data.is_long && self.obeys(Rule::LongestLeaseInMeta);
        proxy.sync = Some(Sync { server, acks: 0, sent, last: data.last, mark, is_long });
    }

    fn receive_sync(&self, state: &mut State, index: usize) {
        let over = state.over[index];
        let proxy = &mut state.proxies[index];
        let Some(sync) = proxy.sync.take() else { return };
        proxy.knows_long |= sync.is_long;
        if proxy.applied.epoch == sync.last.epoch {
            proxy.mark = proxy.mark.max(sync.mark);
            proxy.applied.sequence = proxy.applied.sequence.max(sync.last.sequence);
        } else {
            (proxy.applied, proxy.mark) = (sync.last, sync.last.sequence);
        }
        proxy.proof = Some((sync.last.epoch, sync.sent)).filter(|_| sync.sent >= over);
        if index == READER && !self.bounds.strict {
            proxy.lease = Some(sync.sent).filter(|_| sync.sent >= over);
        }
        meet(state, index, sync.last.epoch);
    }

    fn trusts(&self, proxy: &Proxy, epoch: u8) -> bool {
        let is_of_epoch = |(of, _)| of == epoch || !self.obeys(Rule::ProofOfItsEpoch);
        self.bounds.needed == 0 || !self.obeys(Rule::ProofForViews) || proxy.proof.is_some_and(is_of_epoch)
    }

    /// What the reader's server says of its marks: plain reads, which a replica answers, too. `None`: of another server's
    /// epoch.
    fn view(&self, state: &State) -> Option<Data> {
        let reader = &state.proxies[READER];
        let data = state.servers.get(reader.at)?.data;
        (data.owner == Some(reader.peer)).then_some(data)
    }

    /// A view and, at once, the fetch: the later the stamp, the longer the entry is taken for current. It is kept at once:
    /// later it would have the same stamp.
    fn fetch(&self, state: &mut State) {
        state.left.reads -= 1;
        let at = state.proxies[READER].at;
        if is_primary(state, at) {
            self.valid_epoch(state, READER);
        }
        let view = self.view(state).filter(|view| self.trusts(&state.proxies[READER], view.last.epoch));
        let Some(view) = view else { return };
        let entry = Some(Entry { value: state.upstream, stamp: view.last });
        state.proxies[READER].l1 = entry;
        if is_primary(state, at) {
            state.servers[at].data.entry = entry;
        }
    }

    /// What the server's marks say is current of what it has, and of what the reader has.
    fn asked_hits(&self, state: &State) -> [Option<Entry>; 2] {
        let reader = &state.proxies[READER];
        let Some(view) = self.view(state).filter(|view| self.trusts(reader, view.last.epoch)) else {
            return [None; 2];
        };
        let is_current = |entry: &Entry| {
            entry.stamp.epoch == view.last.epoch && entry.stamp.sequence >= view.mark.max(view.floor)
        };
        [view.entry.filter(is_current), reader.l1.filter(is_current)]
    }

    // ---- A write ----

    /// Upstream carries it out just before: what is fetched between the two is younger, and nothing else sees it.
    fn invalidate(&self, state: &mut State) {
        if state.write.stage == Stage::Idle {
            state.left.writes -= 1;
            state.upstream += 1;
        }
        let server = state.proxies[WRITER].at;
        self.valid_epoch(state, WRITER);
        state.now += 1;
        let data = &mut state.servers[server].data;
        data.last.sequence = state.now;
        data.mark = state.now;
        state.write = Write {
            stage: Stage::IssuedStamp,
            server,
            acks: 0,
            stamp: data.last,
            is_held: data.has_member,
            is_long: data.is_long && self.obeys(Rule::LongestLeaseInMeta),
        };
    }

    /// All members have acknowledged, or were waited for. Time passes until the epoch is old enough.
    fn answer(&self, state: &mut State) {
        let epoch = state.write.stamp.epoch;
        let (_, met, is_change) = state.proxies[WRITER].met;
        let by_own_clock = if self.bounds.needed > 0 {
            self.obeys(Rule::AgeFromReplicatedAnswer)
        } else {
            is_change && self.obeys(Rule::AgeByOwnClock)
        };
        let known = if state.is_forward { 0 } else { epoch };
        let begun = if by_own_clock { known.max(met) } else { known };
        let is_long = state.write.is_long || state.proxies[WRITER].knows_long;
        end(state, begun, is_long, self.bounds.lengths);
        state.acknowledged = state.upstream;
        state.write = NO_WRITE;
    }
}

/// Nothing will be written any more.
fn is_last(state: &State) -> bool {
    state.left.writes == 0
}

fn is_primary(state: &State, server: usize) -> bool {
    state.servers.get(server).is_some_and(|server| server.follows.is_none())
}

fn held_hit(proxy: &Proxy) -> Option<Entry> {
    let is_current =
        |entry: &Entry| entry.stamp.epoch == proxy.applied.epoch && entry.stamp.sequence >= proxy.mark;
    proxy.l1.filter(|entry| proxy.lease.is_some() && is_current(entry))
}

/// Takes over all that its leader has, and says so.
fn replicate(state: &mut State, index: usize) {
    let Some(leader) = state.servers[index].follows else { return };
    // The leader may have been deposed and promoted again.
    state.servers[index].term = state.servers[index].term.max(state.servers[leader].term);
    state.servers[index].data = state.servers[leader].data;
    for sync in state.proxies.iter_mut().filter_map(|proxy| proxy.sync.as_mut()) {
        if sync.server == leader {
            sync.acks |= 1 << index;
        }
    }
    if state.write.stage == Stage::IssuedStamp && state.write.server == leader {
        state.write.acks |= 1 << index;
    }
}

/// An answer that counts was of this epoch.
fn meet(state: &mut State, proxy: usize, epoch: u8) {
    if proxy == WRITER && state.proxies[proxy].met.0 != epoch {
        state.now += 1;
        state.proxies[proxy].met = (epoch, state.now, true);
    }
}

/// A time passes that ends the leases requested before `point`; a short time does not end the reader's if that `has_long`.
fn end(state: &mut State, point: u8, is_long: bool, has_long: bool) {
    for (index, proxy) in state.proxies.iter_mut().enumerate() {
        if index == READER && has_long && !is_long {
            continue;
        }
        let over = &mut state.over[index];
        *over = point.max(*over);
        proxy.lease = proxy.lease.filter(|sent| sent >= over);
        proxy.proof = proxy.proof.filter(|(_, sent)| sent >= over);
    }
}

fn fail(state: &mut State, fault: Action) {
    state.left.faults -= 1;
    let data = &mut state.servers[0].data;
    match fault {
        Action::LoseMembers => (data.has_member, data.members_lost) = (false, true),
        Action::Flush => {
            *data = Data { owner: None, entry: None, has_member: false, is_long: false, ..*data };
        }
        _ => state.is_forward = true,
    }
}

//! What the model remembers: Redis, the proxies, the writes, and time as far as leases need it.
//!
//! Everything has one tag. Values of the upstream register count the writes that it carried out.

/// Proxies at most.
pub const PROXIES: usize = 3;
/// Writes at most.
pub const WRITES: usize = 3;
/// In [`Write::by`]: the proxy died.
pub const NOBODY: usize = PROXIES;

/// Proxies, one bit each: the current process of a slot in the lower half, those it had before in the upper.
pub type Set = u8;

/// The current process of a slot.
pub fn bit(proxy: usize) -> Set {
    1 << proxy
}

/// The processes that a slot had before.
pub fn gone(proxy: usize) -> Set {
    1 << (PROXIES + proxy)
}

/// Epoch and sequence. Epoch 0: none yet. An epoch's number is the [`State::now`] of its birth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    pub epoch: u8,
    pub sequence: u8,
}

/// A response that was read from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub value: u8,
    pub stamp: Stamp,
}

/// What Redis has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Redis {
    /// Epoch (0: meta is lost) and the last sequence issued.
    pub last: Stamp,
    /// Last invalidation of the tag; 0: no mark.
    pub mark: u8,
    pub floor: u8,
    /// The server's `run_id` is not the one in meta.
    pub restarted: bool,
    /// The marks' sentinel is missing.
    pub marks_lost: bool,
    /// The members' sentinel is missing.
    pub members_lost: bool,
    pub members: Set,
    /// Number of each member's last sync; counted only when [`crate::rule::Rule::SyncsNeverRepeat`] is off.
    pub syncs: [u8; PROXIES],
    /// What L2 has.
    pub entry: Option<Entry>,
}

/// A sync under way. `at`: the time of sending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sync {
    #[default]
    None,
    Sent {
        at: u8,
        applied: Stamp,
    },
    /// `mark`: the youngest of what is new since `applied`; everything, if that is not known.
    Handled {
        at: u8,
        last: Stamp,
        mark: u8,
    },
}

/// A message that says what was invalidated, and what before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nudge {
    pub stamp: Stamp,
    pub previous: u8,
    /// The tag is the one that entries have.
    pub ours: bool,
}

/// A proxy process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proxy {
    /// The epoch of its table, and the sequence up to which it has applied everything.
    pub applied: Stamp,
    /// The mark of the tag in its table, or the floor there if that is higher.
    pub mark: u8,
    /// When the sync was sent that the lease came from.
    pub lease: Option<u8>,
    pub sync: Sync,
    pub nudge: Option<Nudge>,
    pub l1: Option<Entry>,
    /// A response on its way into L1 and L2, which readers may join.
    pub fetch: Option<Entry>,
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    #[default]
    None,
    /// On its way to upstream.
    Forwarded,
    /// Upstream has carried it out.
    Committed,
    /// Redis has taken the invalidation; the reply is on its way.
    Invalidated,
    /// For holders, and for the epoch to be old enough.
    Waiting,
    /// Answered; `holders` are to be expelled.
    Expelling,
    /// Answered, or never to be.
    Done,
}

/// A write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Write {
    pub stage: Stage,
    pub by: usize,
    /// What the register showed after it.
    pub value: u8,
    /// Its intent is recorded.
    pub intent: bool,
    /// Its intent is in the snapshot.
    pub saved: bool,
    /// What its invalidation took, and when.
    pub stamp: Stamp,
    pub point: u8,
    /// Proxies that may hold a lease and have not acknowledged.
    pub holders: Set,
    /// Those of them that have synced since.
    pub renewed: Set,
    /// The numbers of their syncs; as [`Redis::syncs`].
    pub syncs: [u8; PROXIES],
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// Time: the number of invalidations taken and epochs begun.
    pub now: u8,
    /// Leases whose sync was sent before this time are over.
    pub over: u8,
    /// The register.
    pub upstream: u8,
    /// The youngest value of which a write was answered.
    pub acknowledged: u8,
    /// Faults, syncs and reads (that do not hit L1) that may still happen.
    pub faults: u8,
    pub syncs: u8,
    pub reads: u8,
    /// Redis lost an intent that was to be carried out: no proxy can learn of that write any more.
    pub intent_lost: bool,
    pub redis: Redis,
    pub snapshot: Option<Redis>,
    /// Processes whose farewell is on its way.
    pub leaving: Set,
    pub proxies: [Proxy; PROXIES],
    pub writes: [Write; WRITES],
}

impl State {
    /// Redis is whole, all proxies have just synced, nothing is stored.
    pub fn first(proxies: usize, faults: u8) -> State {
        let mut state = State::empty(faults);
        for index in 0..proxies {
            state.redis.members |= bit(index);
            state.proxies[index].applied = state.redis.last;
            state.proxies[index].mark = state.redis.last.sequence;
            state.proxies[index].lease = Some(state.now);
        }
        state
    }

    /// No proxy has synced yet.
    pub fn empty(faults: u8) -> State {
        let redis = Redis {
            last: Stamp { epoch: 1, sequence: 1 },
            mark: 0,
            floor: 1,
            restarted: false,
            marks_lost: false,
            members_lost: false,
            members: 0,
            syncs: [0; PROXIES],
            entry: None,
        };
        State {
            now: 1,
            over: 0,
            upstream: 0,
            acknowledged: 0,
            faults,
            syncs: 0,
            reads: 0,
            intent_lost: false,
            redis,
            snapshot: None,
            leaving: 0,
            proxies: [Proxy::default(); PROXIES],
            writes: [Write { by: NOBODY, ..Write::default() }; WRITES],
        }
    }

    /// Time passes: leases requested before `point` are over.
    pub fn end_leases(&mut self, point: u8) {
        self.over = self.over.max(point);
        for proxy in &mut self.proxies {
            proxy.lease = proxy.lease.filter(|&at| at >= self.over);
        }
    }

    /// The state that stands for this one and for all that differ only in the names of proxies and writes, and in the
    /// times of leases that will end together.
    pub fn representative(mut self, proxies: usize, writes: usize) -> State {
        self.round_times();
        self.drop_useless(writes);
        let orders: &[[usize; 3]] = match proxies {
            2 => &[[0, 1, 2], [1, 0, 2]],
            _ => &[[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]],
        };
        orders.iter().map(|order| self.renamed(order, writes)).min().expect("there is at least one order")
    }

    /// What can never be served again, or never be too old, is as good as nothing.
    fn drop_useless(&mut self, writes: usize) {
        let last = usize::from(self.upstream) == writes;
        let is_last = |entry: &Entry| last && entry.value == self.upstream;
        let redis = &mut self.redis;
        let newest = redis.mark.max(redis.floor);
        redis.entry = redis.entry.filter(|entry| {
            entry.stamp.epoch == redis.last.epoch && entry.stamp.sequence >= newest && !is_last(entry)
        });
        for proxy in &mut self.proxies {
            let (epoch, mark) = (proxy.applied.epoch, proxy.mark);
            let may_serve = |entry: &Entry| {
                let Stamp { epoch: its, sequence } = entry.stamp;
                (its > epoch || its == epoch && sequence >= mark) && !is_last(entry)
            };
            proxy.l1 = proxy.l1.filter(may_serve);
            proxy.fetch = proxy.fetch.filter(may_serve);
            let applied = proxy.applied;
            proxy.nudge = proxy.nudge.filter(|nudge| {
                nudge.stamp.epoch > applied.epoch
                    || nudge.stamp.epoch == applied.epoch && nudge.previous >= applied.sequence
            });
        }
    }

    fn renamed(&self, order: &[usize; PROXIES], writes: usize) -> State {
        let mut other = *self;
        for (from, &to) in order.iter().enumerate() {
            other.proxies[to] = self.proxies[from];
        }
        for redis in other.snapshot.iter_mut().chain([&mut other.redis]) {
            redis.members = renamed_set(redis.members, order);
            redis.syncs = renamed_counts(redis.syncs, order);
        }
        other.leaving = renamed_set(other.leaving, order);
        for write in &mut other.writes {
            write.by = order.get(write.by).copied().unwrap_or(NOBODY);
            write.holders = renamed_set(write.holders, order);
            write.renewed = renamed_set(write.renewed, order);
            write.syncs = renamed_counts(write.syncs, order);
        }
        other.writes[..writes].sort_unstable();
        other
    }

    fn round_times(&mut self) {
        let before = *self;
        for proxy in &mut self.proxies {
            proxy.lease = proxy.lease.map(|at| before.rounded(at));
            if let Sync::Sent { at, .. } | Sync::Handled { at, .. } = &mut proxy.sync {
                *at = before.rounded(*at);
            }
        }
    }

    /// A lease ends when one of few times is over: which of them is all that counts of the time of its sending. (Times
    /// to come are later than every sending.) 0 for what is over already.
    pub fn rounded(&self, at: u8) -> u8 {
        if at < self.over {
            return 0;
        }
        let epochs = [self.redis.last.epoch, self.snapshot.map_or(0, |redis| redis.last.epoch)];
        let writes = self.writes.iter().flat_map(|write| [write.point, write.stamp.epoch]);
        writes.chain(epochs).filter(|&end| end <= at).max().unwrap_or(0).max(self.over)
    }
}

fn renamed_set(set: Set, order: &[usize; PROXIES]) -> Set {
    if set == 0 {
        return 0;
    }
    order.iter().enumerate().fold(0, |renamed, (from, &to)| {
        let is_now = if set & bit(from) != 0 { bit(to) } else { 0 };
        let was = if set & gone(from) != 0 { gone(to) } else { 0 };
        renamed | is_now | was
    })
}

fn renamed_counts(counts: [u8; PROXIES], order: &[usize; PROXIES]) -> [u8; PROXIES] {
    let mut renamed = counts;
    for (from, &to) in order.iter().enumerate() {
        renamed[to] = counts[from];
    }
    renamed
}

//! The response to a write as an entry (`write_through`): concurrent writes of one resource, a read, and one set of marks.
//!
//! The fleet protocol, which makes marks known to all proxies, is not part of it: a hit compares the entry with the marks as they are.
//! Values of the upstream register count the writes that it carried out.

use stateright::{Model, Property};

/// Concurrent writes.
pub const WRITES: usize = 3;

/// A rule of write-through. The model obeys all of them, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The response is stored only if no other write was invalidated between the intent and the own invalidation.
    NothingInBetween,
    /// The marks of before are read before the write is forwarded.
    BeforeForwarding,
    /// The mark of before and the own sequence are taken in one step.
    InOneStep,
    /// The stamp is the sequence of the own invalidation, not the last one when the response is stored.
    OwnStamp,
    /// A write is acknowledged after its invalidation.
    AnswerAfterInvalidation,
}

/// Something stored, or read from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    value: u8,
    stamp: u8,
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    New,
    /// The last sequence before.
    Announced(u8),
    CarriedOut {
        before: u8,
        value: u8,
    },
    /// The mark was read, without the rule [`Rule::InOneStep`].
    Looked {
        before: u8,
        value: u8,
        mark: u8,
    },
    /// `stamp`: of the response, if it may be stored.
    Invalidated {
        value: u8,
        stamp: Option<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Write {
    stage: Stage,
    is_acknowledged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    upstream: u8,
    sequence: u8,
    mark: u8,
    entry: Option<Entry>,
    writes: [Write; WRITES],
    /// The stamp of a read under way, then its response.
    read: (Option<u8>, Option<Entry>),
    /// The highest value of an acknowledged write.
    acknowledged: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Announce(usize),
    CarryOut(usize),
    Look(usize),
    Invalidate(usize),
    Acknowledge(usize),
    /// Stores the response to a write.
    Store(usize),
    /// A read takes its stamp.
    Begin,
    Fetch,
    Put,
}

/// The property: what a hit would serve is not older than the last acknowledged write.
pub const FRESH: &str = "no hit is older than an acknowledged write";
/// It is possible that the response to a write is served.
pub const USEFUL: &str = "the response to a write is served";

pub struct Through {
    pub off: Option<Rule>,
    /// Whether [`USEFUL`] is looked for.
    pub is_of_use: bool,
}

impl Through {
    fn obeys(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    fn invalidate(&self, state: &mut State, write: usize, before: u8, value: u8, mark: u8) {
        state.sequence += 1;
        state.mark = state.sequence;
        let is_alone = mark <= before || !self.obeys(Rule::NothingInBetween);
        state.writes[write].stage = Stage::Invalidated { value, stamp: is_alone.then_some(state.sequence) };
    }
}

impl Model for Through {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let write = Write { stage: Stage::New, is_acknowledged: false };
        let writes = [write; WRITES];
        let (entry, read) = (Some(Entry { value: 0, stamp: 0 }), (None, None));
        vec![State { upstream: 0, sequence: 0, mark: 0, entry, writes, read, acknowledged: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, write) in state.writes.iter().enumerate() {
            match write.stage {
                Stage::New => actions.push(Action::Announce(at)),
                Stage::Announced(_) => actions.push(Action::CarryOut(at)),
                Stage::CarriedOut { .. } if !self.obeys(Rule::InOneStep) => actions.push(Action::Look(at)),
                Stage::CarriedOut { .. } | Stage::Looked { .. } => actions.push(Action::Invalidate(at)),
                Stage::Invalidated { stamp: Some(_), .. } => actions.push(Action::Store(at)),
                Stage::Invalidated { .. } => {}
            }
            let may_be_acknowledged = match write.stage {
                Stage::New | Stage::Announced(_) => false,
                Stage::CarriedOut { .. } | Stage::Looked { .. } => !self.obeys(Rule::AnswerAfterInvalidation),
                Stage::Invalidated { .. } => true,
            };
            if may_be_acknowledged && !write.is_acknowledged {
                actions.push(Action::Acknowledge(at));
            }
        }
        actions.push(match state.read {
            (None, _) => Action::Begin,
            (Some(_), None) => Action::Fetch,
            (Some(_), Some(_)) => Action::Put,
        });
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Announce(at) => state.writes[at].stage = Stage::Announced(state.sequence),
            Action::CarryOut(at) => {
                let Stage::Announced(before) = state.writes[at].stage else { return None };
                state.upstream += 1;
                state.writes[at].stage = Stage::CarriedOut { before, value: state.upstream };
            }
            Action::Look(at) => {
                let Stage::CarriedOut { before, value } = state.writes[at].stage else { return None };
                state.writes[at].stage = Stage::Looked { before, value, mark: state.mark };
            }
            Action::Invalidate(at) => {
                let mark = state.mark;
                let (before, value, mark) = match state.writes[at].stage {
                    Stage::CarriedOut { before, value } => (before, value, mark),
                    Stage::Looked { before, value, mark } => (before, value, mark),
                    _ => return None,
                };
                // Read too late: just before its own invalidation.
                let before = if self.obeys(Rule::BeforeForwarding) { before } else { state.sequence };
                self.invalidate(&mut state, at, before, value, mark);
            }
            Action::Acknowledge(at) => {
                let value = match state.writes[at].stage {
                    Stage::CarriedOut { value, .. } | Stage::Looked { value, .. } => value,
                    Stage::Invalidated { value, .. } => value,
                    Stage::New | Stage::Announced(_) => return None,
                };
                state.writes[at].is_acknowledged = true;
                state.acknowledged = state.acknowledged.max(value);
            }
            Action::Store(at) => {
                let Stage::Invalidated { value, stamp: Some(stamp) } = state.writes[at].stage else { return None };
                let stamp = if self.obeys(Rule::OwnStamp) { stamp } else { state.sequence };
                state.entry = Some(Entry { value, stamp });
                state.writes[at].stage = Stage::Invalidated { value, stamp: None };
            }
            Action::Begin => state.read = (Some(state.sequence), None),
            Action::Fetch => {
                state.read.1 = state.read.0.map(|stamp| Entry { value: state.upstream, stamp });
            }
            Action::Put => {
                state.entry = state.read.1;
                state.read = (None, None);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Through>> {
        fn served(state: &State) -> Option<Entry> {
            state.entry.filter(|entry| entry.stamp >= state.mark)
        }
        let fresh = Property::always(FRESH, |_: &Through, state: &State| {
            served(state).is_none_or(|entry| entry.value >= state.acknowledged)
        });
        let useful = Property::sometimes(USEFUL, |_: &Through, state: &State| {
            let is_stored = |write: &Write| matches!(write.stage, Stage::Invalidated { stamp: None, .. });
            let no_read = state.read == (None, None);
            no_read && served(state).is_some_and(|entry| entry.value > 0) && state.writes.iter().any(is_stored)
        });
        std::iter::once(fresh).chain(self.is_of_use.then_some(useful)).collect()
    }
}

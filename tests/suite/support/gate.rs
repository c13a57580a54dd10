//! A gate holds all threads that reach it until the test opens it, so that a race happens every time.

use std::sync::{Arc, Condvar, Mutex};

use super::{PATIENCE, pause_at_random};

/// The test's side. Dropped, it opens, so that a failed test leaves no thread waiting.
pub struct Gate(Passage);

/// The side of the threads that are held.
#[derive(Clone)]
pub struct Passage(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    arrived: usize,
    open: bool,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate(Passage(Arc::default()))
    }

    /// A handle for a thread that is to be held.
    pub fn passage(&self) -> Passage {
        self.0.clone()
    }

    /// Waits until `count` threads have reached the gate.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let Inner { state, changed } = &*self.0.0;
        let state = state.lock().unwrap();
        let (state, late) = changed.wait_timeout_while(state, PATIENCE, |state| state.arrived < count).unwrap();
        let arrived = state.arrived;
        // A panic must not poison the lock that opening the gate takes.
        drop(state);
        assert!(!late.timed_out(), "waited for {count} at the gate, {arrived} came");
    }

    /// How many threads have reached the gate.
    pub fn arrived(&self) -> usize {
        self.0.0.state.lock().unwrap().arrived
    }

    /// Opens it, for those that wait and all that come later.
    pub fn open(&self) {
        pause_at_random();
        self.0.0.state.lock().unwrap().open = true;
        self.0.0.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Passage {
    /// Waits at the gate until it is open.
    pub fn pass(&self) {
        let Inner { state, changed } = &*self.0;
        let mut state = state.lock().unwrap();
        state.arrived += 1;
        changed.notify_all();
        drop(changed.wait_while(state, |state| !state.open).unwrap());
    }
}

#[test]
fn who_comes_is_held_until_the_gate_opens() {
    let gate = Gate::new();
    let (passage, (passed, outcome)) = (gate.passage(), std::sync::mpsc::channel());
    let comer = std::thread::spawn(move || {
        passage.pass();
        passed.send(()).unwrap();
    });
    gate.wait_for(1);
    assert!(outcome.try_recv().is_err());
    gate.open();
    comer.join().unwrap();
    assert!(outcome.try_recv().is_ok());
}

//! Rate limit on wrong tokens, per client and for all clients together. A client over the limit is delayed: each of its
//! requests with a token waits for [`DELAY`] before the token is compared. A request with the right token waits too;
//! otherwise the delay would show which token is right. No client is locked out.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::Client;

/// Delay of a request with a token while its client is over the limit.
pub const DELAY: Duration = Duration::from_secs(1);

/// Wrong tokens of one client.
const OF_CLIENT: Rate = Rate { burst: 10.0, per_second: 0.1 };
/// Wrong tokens of all clients together.
const OF_ALL: Rate = Rate { burst: 50.0, per_second: 1.0 };
/// Log lines about wrong tokens.
const LOGGED: Rate = Rate { burst: 5.0, per_second: 1.0 };
/// Most clients in each table: of those that sent wrong tokens, and of those that sent a right one.
const CLIENTS: usize = 1024;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// What a bucket held at a time.
#[derive(Debug, Clone, Copy)]
struct Left {
    amount: f64,
    at: Instant,
}

/// Recent wrong tokens. The caller passes the time.
#[derive(Debug)]
pub struct WrongTokens(Mutex<State>);

#[derive(Debug)]
struct State {
    of_all: Left,
    of_client: HashMap<Client, Left>,
    /// Clients that have sent a right token. The limit of all clients does not apply to them.
    trusted: HashSet<Client>,
    log: Left,
    /// Log lines suppressed since the last one.
    suppressed: u64,
}

impl Rate {
    fn full(self, now: Instant) -> Left {
        Left { amount: self.burst, at: now }
    }

    fn left(self, left: Left, now: Instant) -> f64 {
        let regained = now.saturating_duration_since(left.at).as_secs_f64() * self.per_second;
        (left.amount + regained).min(self.burst)
    }

    /// Takes one, if there is one left.
    fn take(self, left: &mut Left, now: Instant) -> bool {
        let amount = self.left(*left, now);
        let is_left = amount >= 1.0;
        *left = Left { amount: if is_left { amount - 1.0 } else { amount }, at: now };
        is_left
    }
}

impl WrongTokens {
    /// No wrong tokens yet.
    pub fn new(now: Instant) -> WrongTokens {
        WrongTokens(Mutex::new(State {
            of_all: OF_ALL.full(now),
            of_client: HashMap::new(),
            trusted: HashSet::new(),
            log: LOGGED.full(now),
            suppressed: 0,
        }))
    }

    /// Whether a request with a token has to wait for [`DELAY`].
    pub fn is_delayed(&self, client: Client, now: Instant) -> bool {
        let state = self.lock();
        let is_trusted = state.trusted.contains(&client);
        match state.of_client.get(&client) {
            Some(left) if OF_CLIENT.left(*left, now) < 1.0 => true,
            None if state.of_client.len() >= CLIENTS && !is_trusted => true,
            _ => OF_ALL.left(state.of_all, now) < 1.0 && !is_trusted,
        }
    }

    /// Records a wrong token.
    pub fn note_wrong(&self, client: Client, now: Instant) {
        let state = &mut *self.lock();
        OF_ALL.take(&mut state.of_all, now);
        if state.of_client.len() >= CLIENTS && !state.of_client.contains_key(&client) {
            state.of_client.retain(|_, left| OF_CLIENT.left(*left, now) < OF_CLIENT.burst);
            if state.of_client.len() >= CLIENTS {
                return;
            }
        }
        OF_CLIENT.take(state.of_client.entry(client).or_insert(OF_CLIENT.full(now)), now);
    }

    /// Records a right token.
    pub fn note_right(&self, client: Client) {
        let mut state = self.lock();
        if state.trusted.len() < CLIENTS {
            state.trusted.insert(client);
        }
    }

    /// Whether a line may be logged; if so, how many lines were suppressed since the last one.
    pub fn may_log(&self, now: Instant) -> Option<u64> {
        let state = &mut *self.lock();
        if LOGGED.take(&mut state.log, now) {
            return Some(std::mem::take(&mut state.suppressed));
        }
        state.suppressed += 1;
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between locking and unlocking panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn client(n: u32) -> Client {
        Client::at(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)))
    }

    #[test]
    fn a_client_is_delayed_after_ten_wrong_tokens_and_no_other_client_is() {
        let now = Instant::now();
        let wrong = WrongTokens::new(now);
        for _ in 0..10 {
            assert!(!wrong.is_delayed(client(1), now));
            wrong.note_wrong(client(1), now);
        }
        assert!(wrong.is_delayed(client(1), now));
        assert!(!wrong.is_delayed(client(2), now));
        assert!(!wrong.is_delayed(client(1), now + Duration::from_secs(11)), "the bucket refills");
    }

    #[test]
    fn wrong_tokens_of_many_clients_delay_all_but_those_with_a_right_token() {
        let now = Instant::now();
        let wrong = WrongTokens::new(now);
        wrong.note_right(client(0));
        (1..=50).for_each(|n| wrong.note_wrong(client(n), now));
        assert!(!wrong.is_delayed(client(0), now));
        assert!(wrong.is_delayed(client(99), now));
    }

    #[test]
    fn the_tables_of_clients_are_bounded() {
        let now = Instant::now();
        let wrong = WrongTokens::new(now);
        let sizes = || {
            let state = wrong.lock();
            (state.of_client.len(), state.trusted.len())
        };
        for n in 0..5000 {
            wrong.note_wrong(client(n), now);
            wrong.note_right(client(n));
        }
        assert_eq!(sizes(), (CLIENTS, CLIENTS));
        assert!(wrong.is_delayed(client(9999), now));
        wrong.note_wrong(client(9999), now + Duration::from_secs(60));
        assert_eq!(sizes().0, 1, "full buckets are removed");
    }

    #[test]
    fn a_log_line_counts_the_suppressed_ones_before_it() {
        let now = Instant::now();
        let wrong = WrongTokens::new(now);
        let lines: Vec<_> = (0..8).filter_map(|_| wrong.may_log(now)).collect();
        assert_eq!(lines, [0; 5]);
        assert_eq!(wrong.may_log(now + Duration::from_secs(2)), Some(3));
    }
}

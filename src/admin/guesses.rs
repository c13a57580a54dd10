//! Tokens that are not known: how many there were lately, by client and in all. A client that has sent too many is slowed: all
//! its requests with a token wait before they are looked at, the right token too, or the wait would tell which is right.
//! Nobody is locked out. Pure: the time is the caller's.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::client::Client;

/// How long a request with a token waits while its client is slowed.
pub const WAIT: Duration = Duration::from_secs(1);

/// Of one client: wrong tokens without a wait, and how many of them it regains in a second.
const OF_CLIENT: Rate = Rate { burst: 10.0, per_second: 0.1 };
/// Of all clients together.
const OF_ALL: Rate = Rate { burst: 50.0, per_second: 1.0 };
/// Lines in the log.
const LOGGED: Rate = Rate { burst: 5.0, per_second: 1.0 };
/// Clients that are remembered: those that have sent wrong tokens, and those that have sent a right one.
const REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy)]
struct Left {
    amount: f64,
    at: Instant,
}

/// Wrong tokens lately.
#[derive(Debug)]
pub struct Guesses {
    of_all: Left,
    of_client: HashMap<Client, Left>,
    /// Clients that have sent a right token: what all have sent does not slow them.
    known: HashSet<Client>,
    log: Left,
    /// Lines that were left out of the log since the last one.
    unlogged: u64,
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

impl Guesses {
    /// None yet.
    pub fn new(now: Instant) -> Guesses {
        Guesses {
            of_all: OF_ALL.full(now),
            of_client: HashMap::new(),
            known: HashSet::new(),
            log: LOGGED.full(now),
            unlogged: 0,
        }
    }

    /// Whether a request with a token has to wait.
    pub fn is_slowed(&self, client: Client, now: Instant) -> bool {
        match self.of_client.get(&client) {
            Some(left) if OF_CLIENT.left(*left, now) < 1.0 => true,
            None if self.of_client.len() >= REMEMBERED && !self.known.contains(&client) => true,
            _ => OF_ALL.left(self.of_all, now) < 1.0 && !self.known.contains(&client),
        }
    }

    /// The token was wrong.
    pub fn failed(&mut self, client: Client, now: Instant) {
        OF_ALL.take(&mut self.of_all, now);
        if self.of_client.len() >= REMEMBERED && !self.of_client.contains_key(&client) {
            self.of_client.retain(|_, left| OF_CLIENT.left(*left, now) < OF_CLIENT.burst);
            if self.of_client.len() >= REMEMBERED {
                return;
            }
        }
        OF_CLIENT.take(self.of_client.entry(client).or_insert(OF_CLIENT.full(now)), now);
    }

    /// The token was right.
    pub fn succeeded(&mut self, client: Client) {
        if self.known.len() < REMEMBERED || self.known.contains(&client) {
            self.known.insert(client);
        }
    }

    /// Whether there may be another line in the log, and how many were left out since the last one.
    pub fn may_log(&mut self, now: Instant) -> Option<u64> {
        if LOGGED.take(&mut self.log, now) {
            return Some(std::mem::take(&mut self.unlogged));
        }
        self.unlogged += 1;
        None
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
    fn a_client_is_slowed_after_some_wrong_tokens_and_no_other() {
        let now = Instant::now();
        let mut guesses = Guesses::new(now);
        for _ in 0..10 {
            assert!(!guesses.is_slowed(client(1), now));
            guesses.failed(client(1), now);
        }
        assert!(guesses.is_slowed(client(1), now));
        assert!(!guesses.is_slowed(client(2), now));
        assert!(!guesses.is_slowed(client(1), now + Duration::from_secs(11)), "it is forgiven");
    }

    #[test]
    fn many_clients_slow_all_but_those_that_had_a_right_token() {
        let now = Instant::now();
        let mut guesses = Guesses::new(now);
        guesses.succeeded(client(0));
        (1..=50).for_each(|n| guesses.failed(client(n), now));
        assert!(!guesses.is_slowed(client(0), now));
        assert!(guesses.is_slowed(client(99), now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut guesses = Guesses::new(now);
        for n in 0..5000 {
            guesses.failed(client(n), now);
            guesses.succeeded(client(n));
        }
        assert_eq!((guesses.of_client.len(), guesses.known.len()), (REMEMBERED, REMEMBERED));
        assert!(guesses.is_slowed(client(9999), now));
        guesses.failed(client(9999), now + Duration::from_secs(60));
        assert_eq!(guesses.of_client.len(), 1, "those of long ago are forgotten");
    }

    #[test]
    fn the_log_says_how_much_was_left_out() {
        let now = Instant::now();
        let mut guesses = Guesses::new(now);
        let lines: Vec<_> = (0..8).filter_map(|_| guesses.may_log(now)).collect();
        assert_eq!(lines, [0; 5]);
        assert_eq!(guesses.may_log(now + Duration::from_secs(2)), Some(3));
    }
}

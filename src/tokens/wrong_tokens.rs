//! Rate limit on wrong tokens, per client and for all clients together. Of a client over the limit one token is compared per [`DELAY`]:
//! its requests with a token take turns, a few of them wait, and the token of any further one is not compared. A request with the right
//! token waits too; otherwise the delay would show which token is right. A client that sends its requests one after the other is never
//! locked out.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::mutex::lock;

/// Time between two comparisons of tokens of a client over the limit.
const DELAY: Duration = Duration::from_secs(1);
/// Most requests of a client that wait for their turn.
const WAITING: u32 = 4;

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
pub struct WrongTokens(Mutex<WrongTokenCounts>);

#[derive(Debug)]
struct WrongTokenCounts {
    of_all: Left,
    of_client: HashMap<Client, OfClient>,
    /// The last turn given to clients for which the table has no room.
    last_turn: Instant,
    /// Clients that have sent a right token. The limit of all clients does not apply to them.
    trusted: HashSet<Client>,
    log: Left,
    /// Log lines suppressed since the last one.
    suppressed: u64,
}

/// The wrong tokens of one client.
#[derive(Debug, Clone, Copy)]
struct OfClient {
    left: Left,
    /// When its last turn is or was.
    last_turn: Instant,
}

/// When the token of a request may be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenTurn {
    Now,
    After(Duration),
    /// Not at all: too many requests of its client wait. A turn is free again after this time.
    Refused(Duration),
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
        WrongTokens(Mutex::new(WrongTokenCounts {
            of_all: OF_ALL.full(now),
            of_client: HashMap::new(),
            last_turn: now,
            trusted: HashSet::new(),
            log: LOGGED.full(now),
            suppressed: 0,
        }))
    }

    /// Whether a request with a token has to wait for [`DELAY`].
    fn is_delayed(&self, client: Client, now: Instant) -> bool {
        let state = lock(&self.0);
        let is_trusted = state.trusted.contains(&client);
        match state.of_client.get(&client) {
            Some(known) if OF_CLIENT.left(known.left, now) < 1.0 => true,
            None if state.of_client.len() >= CLIENTS && !is_trusted => true,
            _ => OF_ALL.left(state.of_all, now) < 1.0 && !is_trusted,
        }
    }

    /// When a request with a token has its turn. The caller waits for it, and then compares the token.
    pub fn turn(&self, client: Client, now: Instant) -> TokenTurn {
        if !self.is_delayed(client, now) {
            return TokenTurn::Now;
        }
        let state = &mut *lock(&self.0);
        let last_turn = match state.of_client(client, now) {
            Some(known) => &mut known.last_turn,
            None => &mut state.last_turn,
        };
        let wait = last_turn.saturating_duration_since(now) + DELAY;
        if wait > DELAY * WAITING {
            return TokenTurn::Refused(wait - DELAY * WAITING);
        }
        *last_turn = now + wait;
        TokenTurn::After(wait)
    }

    /// Records a wrong token.
    pub fn note_wrong(&self, client: Client, now: Instant) {
        let state = &mut *lock(&self.0);
        OF_ALL.take(&mut state.of_all, now);
        if let Some(known) = state.of_client(client, now) {
            OF_CLIENT.take(&mut known.left, now);
        }
    }

    /// Records a right token.
    pub fn note_right(&self, client: Client) {
        let mut state = lock(&self.0);
        if state.trusted.len() < CLIENTS {
            state.trusted.insert(client);
        }
    }

    /// Whether a line may be logged; if so, how many lines were suppressed since the last one.
    pub fn may_log(&self, now: Instant) -> Option<u64> {
        let state = &mut *lock(&self.0);
        if LOGGED.take(&mut state.log, now) {
            return Some(std::mem::take(&mut state.suppressed));
        }
        state.suppressed += 1;
        None
    }
}

impl WrongTokenCounts {
    /// What is known of a client. `None`: the table has no room for it.
    fn of_client(&mut self, client: Client, now: Instant) -> Option<&mut OfClient> {
        if self.of_client.len() >= CLIENTS && !self.of_client.contains_key(&client) {
            self.of_client
                .retain(|_, known| known.last_turn > now || OF_CLIENT.left(known.left, now) < OF_CLIENT.burst);
            if self.of_client.len() >= CLIENTS {
                return None;
            }
        }
        Some(self.of_client.entry(client).or_insert(OfClient { left: OF_CLIENT.full(now), last_turn: now }))
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
    fn of_a_client_over_the_limit_one_token_is_compared_per_second_however_many_come_at_once() {
        let now = Instant::now();
        let wrong = WrongTokens::new(now);
        (0..10).for_each(|_| wrong.note_wrong(client(1), now));
        let turns: Vec<TokenTurn> = (0..100).map(|_| wrong.turn(client(1), now)).collect();
        let seconds = Duration::from_secs;
        let waits = [1, 2, 3, 4].map(|wait| TokenTurn::After(seconds(wait)));
        assert_eq!(turns[..4], waits);
        assert!(turns[4..].iter().all(|turn| *turn == TokenTurn::Refused(seconds(1))), "{turns:?}");
        assert_eq!(wrong.turn(client(2), now), TokenTurn::Now, "other clients do not wait");
        let compared = (1..=10).filter(|second| {
            (0..50).any(|_| !matches!(wrong.turn(client(1), now + seconds(*second)), TokenTurn::Refused(_)))
        });
        assert_eq!(compared.count(), 10);
        let later = now + seconds(14);
        wrong.note_wrong(client(1), later);
        assert_eq!(
            wrong.turn(client(1), later),
            TokenTurn::After(seconds(1)),
            "one after the other is not refused"
        );
    }

    #[test]
    fn clients_without_room_in_the_table_take_turns_together() {
        let now = Instant::now();
        let wrong = WrongTokens::new(now);
        (0..2000).for_each(|n| wrong.note_wrong(client(n), now));
        let turns: Vec<TokenTurn> = (5000..5010).map(|n| wrong.turn(client(n), now)).collect();
        assert_eq!(turns.iter().filter(|turn| matches!(turn, TokenTurn::After(_))).count(), 4, "{turns:?}");
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
            let state = lock(&wrong.0);
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

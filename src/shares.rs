//! A bound on something that all clients share, and of which each may have a share: places, or bytes.
//!
//! A client is known for as long as it holds something, or waits. So the memory that this takes is bounded by what is held and
//! what waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::client::Client;

/// Whose bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The client has its share, and others could have more.
    Client,
    /// All together have everything there is.
    All,
}

/// What all clients share.
#[derive(Debug)]
pub struct Shares {
    total: u64,
    per_client: u64,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    held: u64,
    clients: HashMap<Client, Account>,
    /// Clients of whom the first that waits would stay within the client's share: each once, in the order of their turns.
    turns: VecDeque<Client>,
    /// The next waiter's.
    id: u64,
}

/// Of one client, while it holds something or waits.
#[derive(Debug, Default)]
struct Account {
    held: u64,
    waiting: VecDeque<Waiter>,
    /// It stands in `turns`.
    has_turn: bool,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    amount: u64,
    sender: oneshot::Sender<Share>,
}

/// What one client holds. Given back when dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    client: Client,
    amount: u64,
}

impl Shares {
    /// `total` for all, of which each client may have `per_client`.
    pub fn new(total: u64, per_client: u64) -> Arc<Shares> {
        Arc::new(Shares { total, per_client: per_client.min(total), accounts: Mutex::default() })
    }

    /// What a client may have of `total` unless something else is said: a quarter, and at least 1.
    pub fn usual(total: u64) -> u64 {
        (total / 4).max(1)
    }

    /// Takes so much for a client, if it is free and nobody waits for it.
    pub fn take(self: &Arc<Shares>, client: Client, amount: u64) -> Result<Share, Over> {
        self.lock().take(self.limits(), client, amount)?;
        Ok(self.share(client, amount))
    }

    /// Takes so much for a client, and waits for it if it must. Clients take turns; of one client the first that waits is
    /// the first to have it. An error means that there can never be so much. How many may wait is for the caller to bound.
    pub async fn wait(self: &Arc<Shares>, client: Client, amount: u64) -> Result<Share, Over> {
        let (mut receiver, _waiting) = {
            let mut accounts = self.lock();
            match accounts.take(self.limits(), client, amount) {
                Ok(()) => return Ok(self.share(client, amount)),
                Err(over) if amount > self.per_client => return Err(over),
                Err(_) => {}
            }
            let (sender, receiver) = oneshot::channel();
            let id = accounts.queue(self.limits(), client, amount, sender);
            (receiver, Waiting { shares: self, client, id })
        };
        // A sender goes only with a share, or when its waiter has gone.
        (&mut receiver).await.map_err(|_| Over::All)
    }

    /// Whose bound keeps a client from so much now.
    pub fn over(&self, client: Client, amount: u64) -> Option<Over> {
        self.lock().over(self.limits(), client, amount)
    }

    /// What all hold together.
    pub fn held(&self) -> u64 {
        self.lock().held
    }

    /// What nobody holds.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.held())
    }

    fn share(self: &Arc<Shares>, client: Client, amount: u64) -> Share {
        Share { of: Arc::clone(self), client, amount }
    }

    fn limits(&self) -> Limits {
        Limits { total: self.total, per_client: self.per_client }
    }

    /// Gives back, and hands what is free to those who wait.
    fn give_back(self: &Arc<Shares>, client: Client, amount: u64) {
        let granted = {
            let mut accounts = self.lock();
            accounts.give_back(self.limits(), client, amount);
            accounts.grant(self.limits())
        };
        self.hand_out(granted);
    }

    fn leave(self: &Arc<Shares>, client: Client, id: u64) {
        let granted = {
            let mut accounts = self.lock();
            accounts.leave(self.limits(), client, id);
            // Whoever stood behind it may want less.
            accounts.grant(self.limits())
        };
        self.hand_out(granted);
    }

    /// Not under the lock: a share whose waiter has just left is given back at once.
    fn hand_out(self: &Arc<Shares>, granted: Vec<(Client, Waiter)>) {
        for (client, waiter) in granted {
            drop(waiter.sender.send(self.share(client, waiter.amount)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        // Nothing between locking and unlocking panics.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    total: u64,
    per_client: u64,
}

impl Accounts {
    fn over(&self, limits: Limits, client: Client, amount: u64) -> Option<Over> {
        let account = self.clients.get(&client);
        let held = account.map_or(0, |account| account.held);
        if held.saturating_add(amount) > limits.per_client {
            // Who may have everything is kept from more by the total.
            return Some(if limits.per_client < limits.total { Over::Client } else { Over::All });
        }
        let waits = !self.turns.is_empty() || account.is_some_and(|account| !account.waiting.is_empty());
        (waits || self.held.saturating_add(amount) > limits.total).then_some(Over::All)
    }

    fn take(&mut self, limits: Limits, client: Client, amount: u64) -> Result<(), Over> {
        if let Some(over) = self.over(limits, client, amount) {
            return Err(over);
        }
        self.held += amount;
        self.clients.entry(client).or_default().held += amount;
        Ok(())
    }

    fn queue(&mut self, limits: Limits, client: Client, amount: u64, sender: oneshot::Sender<Share>) -> u64 {
        let id = self.id;
        self.id += 1;
        self.clients.entry(client).or_default().waiting.push_back(Waiter { id, amount, sender });
        self.settle(limits, client);
        id
    }

    fn leave(&mut self, limits: Limits, client: Client, id: u64) {
        if let Some(account) = self.clients.get_mut(&client) {
            account.waiting.retain(|waiter| waiter.id != id);
        }
        self.settle(limits, client);
    }

    fn give_back(&mut self, limits: Limits, client: Client, amount: u64) {
        self.held = self.held.saturating_sub(amount);
        if let Some(account) = self.clients.get_mut(&client) {
            account.held = account.held.saturating_sub(amount);
        }
        self.settle(limits, client);
    }

    /// Who has what now: as many of those who wait as there is room for.
    fn grant(&mut self, limits: Limits) -> Vec<(Client, Waiter)> {
        let mut granted = Vec::new();
        while let Some(&client) = self.turns.front() {
            let Some(account) = self.clients.get_mut(&client) else { break };
            let room = limits.total.saturating_sub(self.held);
            if account.waiting.front().is_some_and(|waiter| waiter.amount > room) {
                break;
            }
            let Some(waiter) = account.waiting.pop_front() else { break };
            account.held += waiter.amount;
            account.has_turn = false;
            self.held += waiter.amount;
            self.turns.pop_front();
            self.settle(limits, client);
            granted.push((client, waiter));
        }
        granted
    }

    /// Gives a client a turn or takes it away, as it should have one; and forgets the client if there is nothing of it.
    fn settle(&mut self, limits: Limits, client: Client) {
        let Some(account) = self.clients.get_mut(&client) else { return };
        let first = account.waiting.front();
        let has_turn = first.is_some_and(|first| account.held.saturating_add(first.amount) <= limits.per_client);
        if has_turn && !account.has_turn {
            self.turns.push_back(client);
        } else if account.has_turn && !has_turn {
            self.turns.retain(|other| *other != client);
        }
        account.has_turn = has_turn;
        if account.held == 0 && account.waiting.is_empty() {
            self.clients.remove(&client);
        }
    }
}

/// Takes a waiter out of the queue when it does not wait any longer.
struct Waiting<'s> {
    shares: &'s Arc<Shares>,
    client: Client,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shares.leave(self.client, self.id);
    }
}

impl Share {
    /// Whose it is.
    pub fn client(&self) -> Client {
        self.client
    }

    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes so much more, if it is free and nobody waits for it.
    pub fn grow(&mut self, by: u64) -> Result<(), Over> {
        self.of.lock().take(self.of.limits(), self.client, by)?;
        self.amount += by;
        Ok(())
    }

    /// Gives so much of it back.
    pub fn shrink(&mut self, by: u64) {
        let by = by.min(self.amount);
        self.amount -= by;
        self.of.give_back(self.client, by);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.give_back(self.client, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    fn client(n: u8) -> Client {
        Client::at(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
    }

    type Pending<'s> = Pin<Box<dyn Future<Output = Result<Share, Over>> + 's>>;

    /// Looks once.
    fn look(waiting: &mut Pending<'_>) -> Option<Result<Share, Over>> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    fn wait(shares: &Arc<Shares>, n: u8, amount: u64) -> Pending<'_> {
        let mut waiting: Pending<'_> = Box::pin(shares.wait(client(n), amount));
        assert!(look(&mut waiting).is_none());
        waiting
    }

    /// Nothing is known of anybody.
    fn is_empty(shares: &Shares) -> bool {
        let accounts = shares.lock();
        accounts.held == 0 && accounts.clients.is_empty() && accounts.turns.is_empty()
    }

    #[test]
    fn one_client_has_its_share_and_all_together_have_the_total() {
        let shares = Shares::new(3, 2);
        let first = [shares.take(client(1), 1).unwrap(), shares.take(client(1), 1).unwrap()];
        assert_eq!(shares.take(client(1), 1).unwrap_err(), Over::Client);
        let second = shares.take(client(2), 1).unwrap();
        assert_eq!(shares.take(client(2), 1).unwrap_err(), Over::All);
        assert_eq!(shares.take(client(1), 1).unwrap_err(), Over::Client);
        drop(first);
        assert_eq!(shares.take(client(2), 2).unwrap_err(), Over::Client);
        drop((shares.take(client(2), 1).unwrap(), second));
        assert!(is_empty(&shares));
    }

    #[test]
    fn who_may_have_everything_is_kept_from_more_by_the_total() {
        let shares = Shares::new(1, 4);
        let held = shares.take(client(1), 1).unwrap();
        assert_eq!(shares.take(client(1), 1).unwrap_err(), Over::All);
        drop(held);
    }

    #[test]
    fn the_usual_share_is_a_quarter_and_at_least_one() {
        let shares = [0, 1, 4, 7, 8, 512].map(Shares::usual);
        assert_eq!(shares, [1, 1, 1, 1, 2, 128]);
    }

    #[test]
    fn a_share_grows_and_shrinks_within_the_bounds() {
        let shares = Shares::new(100, 60);
        let mut first = shares.take(client(1), 10).unwrap();
        first.grow(50).unwrap();
        assert_eq!(first.grow(1), Err(Over::Client));
        let mut second = shares.take(client(2), 40).unwrap();
        assert_eq!(second.grow(1), Err(Over::All));
        first.shrink(20);
        second.grow(20).unwrap();
        assert_eq!((first.amount(), second.amount(), shares.held(), shares.free()), (40, 60, 100, 0));
        second.shrink(1000);
        assert_eq!((second.amount(), shares.held()), (0, 40));
        drop((first, second));
        assert!(is_empty(&shares));
    }

    #[test]
    fn who_waits_at_its_own_share_keeps_nobody_else() {
        let shares = Shares::new(4, 1);
        let held = shares.take(client(1), 1).unwrap();
        let mut waiting = wait(&shares, 1, 1);
        drop(shares.take(client(2), 1).unwrap());
        assert!(look(&mut waiting).is_none());
        drop(held);
        assert!(look(&mut waiting).unwrap().is_ok());
        drop(waiting);
        assert!(is_empty(&shares));
    }

    #[test]
    fn clients_take_turns_however_many_requests_of_each_wait() {
        let shares = Shares::new(1, 1);
        let mut held = shares.take(client(9), 1).unwrap();
        let mut waiting = [1, 1, 1, 2, 3, 2].map(|n| (n, wait(&shares, n, 1))).into_iter().collect::<Vec<_>>();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(held);
            let (index, share) = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(index, (_, waiting))| look(waiting).map(|share| (index, share.unwrap())))
                .unwrap();
            order.push((waiting[index].0, index));
            drop(waiting.remove(index));
            held = share;
        }
        let clients: Vec<u8> = order.iter().map(|(n, _)| *n).collect();
        assert_eq!(clients, [1, 2, 3, 1, 2, 1]);
        drop(held);
        assert!(is_empty(&shares));
    }

    #[test]
    fn who_comes_does_not_pass_those_who_wait() {
        let shares = Shares::new(2, 2);
        let held = shares.take(client(1), 1).unwrap();
        let mut large = wait(&shares, 2, 2);
        assert_eq!(shares.take(client(3), 1).unwrap_err(), Over::All);
        drop(held);
        let large = look(&mut large).unwrap();
        assert!(large.is_ok());
    }

    #[test]
    fn who_leaves_the_queue_makes_room_behind() {
        let shares = Shares::new(2, 2);
        let held = shares.take(client(1), 1).unwrap();
        let large = wait(&shares, 2, 2);
        let mut small = wait(&shares, 3, 1);
        drop(large);
        let small = look(&mut small).unwrap();
        drop((held, small));
        assert!(is_empty(&shares));
    }

    #[test]
    fn what_was_granted_to_who_has_left_is_free_again() {
        let shares = Shares::new(1, 1);
        let held = shares.take(client(1), 1).unwrap();
        let waiting = wait(&shares, 2, 1);
        drop(held);
        assert_eq!(shares.held(), 1);
        drop(waiting);
        assert!(is_empty(&shares));
    }

    #[test]
    fn what_can_never_be_is_not_waited_for() {
        let shares = Shares::new(4, 2);
        let mut too_much: Pending<'_> = Box::pin(shares.wait(client(1), 3));
        assert_eq!(look(&mut too_much).unwrap().unwrap_err(), Over::Client);
        drop(too_much);
        assert!(is_empty(&shares));
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_nobody_waits_for_what_is_free(
            total in 1u64..6,
            per_client in 1u64..6,
            steps in proptest::collection::vec((0u8..4, 0u8..3, 1u64..3, any::<prop::sample::Index>()), 0..60),
        ) {
            let shares = Shares::new(total, per_client);
            let most = per_client.min(total);
            let (mut held, mut waiting): (Vec<Share>, Vec<(u8, u64, Pending<'_>)>) = Default::default();
            for (step, n, amount, index) in steps {
                match step {
                    0 => held.extend(shares.take(client(n), amount)),
                    1 => {
                        let mut next: Pending<'_> = Box::pin(shares.wait(client(n), amount));
                        match look(&mut next) {
                            Some(done) => held.extend(done),
                            None => waiting.push((n, amount, next)),
                        }
                    }
                    2 if !held.is_empty() => drop(held.swap_remove(index.index(held.len()))),
                    3 if !waiting.is_empty() => drop(waiting.remove(index.index(waiting.len()))),
                    _ => {}
                }
                waiting.retain_mut(|(_, _, waiting)| match look(waiting) {
                    Some(done) => {
                        held.extend(done);
                        false
                    }
                    None => true,
                });
                let of = |n: u8| held.iter().filter(|share| share.client() == client(n)).map(Share::amount).sum::<u64>();
                let sum: u64 = held.iter().map(Share::amount).sum();
                prop_assert_eq!(shares.held(), sum);
                prop_assert!(sum <= total);
                for n in 0..3 {
                    prop_assert!(of(n) <= most);
                }
                // With places, that is amounts of one, somebody waits only if nothing is free for it.
                if waiting.iter().all(|(_, amount, _)| *amount == 1) {
                    for (n, _, _) in &waiting {
                        prop_assert!(sum == total || of(*n) == most);
                    }
                }
            }
            drop((held, waiting));
            prop_assert!(is_empty(&shares));
        }
    }
}

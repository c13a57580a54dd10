//! A limit on a resource that clients share, such as places or bytes: a total, and a share of it for each client.
//!
//! A client has an account only while it holds something or waits, so that memory is bounded by both.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::client::Client;
use crate::mutex::lock;

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The client's share; other clients could still get some.
    Client,
    /// The total.
    All,
}

/// A shared resource.
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
    /// Clients whose first waiter would stay within the client's share, each once, in the order in which they are served.
    rotation: VecDeque<Client>,
    /// Of the next waiter.
    id: u64,
}

/// The account of a client that holds something or waits.
#[derive(Debug, Default)]
struct Account {
    held: u64,
    waiting: VecDeque<Waiter>,
    /// Whether the client is in [`Accounts::rotation`].
    is_in_rotation: bool,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    amount: u64,
    sender: oneshot::Sender<Share>,
}

/// An amount that one client holds. Released when dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    client: Client,
    amount: u64,
}

impl Shares {
    /// A resource of `total`, of which each client may hold `per_client`.
    pub fn new(total: u64, per_client: u64) -> Arc<Shares> {
        Arc::new(Shares { total, per_client: per_client.min(total), accounts: Mutex::default() })
    }

    /// The default share of one client: a quarter of `total`, and at least 1.
    pub fn usual(total: u64) -> u64 {
        (total / 4).max(1)
    }

    /// Takes `amount` for a client, if it is free and no other client waits for it.
    pub fn take(self: &Arc<Shares>, client: Client, amount: u64) -> Result<Share, Over> {
        lock(&self.accounts).take(self.limits(), client, amount)?;
        Ok(self.share(client, amount))
    }

    /// Takes `amount` for a client, and waits until it is free. Clients are served in rotation, and the waiters of one client in
    /// order. The caller limits the number of waiters.
    ///
    /// # Errors
    ///
    /// `amount` exceeds the limits.
    pub async fn wait(self: &Arc<Shares>, client: Client, amount: u64) -> Result<Share, Over> {
        let (mut receiver, _waiting) = {
            let mut accounts = lock(&self.accounts);
            match accounts.take(self.limits(), client, amount) {
                Ok(()) => return Ok(self.share(client, amount)),
                Err(over) if amount > self.per_client => return Err(over),
                Err(_) => {}
            }
            let (sender, receiver) = oneshot::channel();
            let id = accounts.queue(self.limits(), client, amount, sender);
            (receiver, QueuedWaiter { shares: self, client, id })
        };
        // A sender is dropped only after it has sent, or when its waiter has been dropped.
        (&mut receiver).await.map_err(|_| Over::All)
    }

    /// The limit that keeps a client from taking `amount` now, if any.
    pub fn over(&self, client: Client, amount: u64) -> Option<Over> {
        lock(&self.accounts).over(self.limits(), client, amount)
    }

    /// The amount that all clients hold together.
    pub fn held(&self) -> u64 {
        lock(&self.accounts).held
    }

    /// The amount that is free.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.held())
    }

    fn share(self: &Arc<Shares>, client: Client, amount: u64) -> Share {
        Share { shares: Arc::clone(self), client, amount }
    }

    fn limits(&self) -> ShareLimits {
        ShareLimits { total: self.total, per_client: self.per_client }
    }

    /// Releases an amount, and grants what is free to waiters.
    fn release(self: &Arc<Shares>, client: Client, amount: u64) {
        let granted = {
            let mut accounts = lock(&self.accounts);
            accounts.release(self.limits(), client, amount);
            accounts.grant(self.limits())
        };
        self.send(granted);
    }

    fn leave(self: &Arc<Shares>, client: Client, id: u64) {
        let granted = {
            let mut accounts = lock(&self.accounts);
            accounts.leave(self.limits(), client, id);
            // The waiter behind it may want less.
            accounts.grant(self.limits())
        };
        self.send(granted);
    }

    /// Called without the lock: the share of a waiter that has just been dropped is released at once.
    fn send(self: &Arc<Shares>, granted: Vec<(Client, Waiter)>) {
        for (client, waiter) in granted {
            drop(waiter.sender.send(self.share(client, waiter.amount)));
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct ShareLimits {
    total: u64,
    per_client: u64,
}

impl Accounts {
    fn over(&self, limits: ShareLimits, client: Client, amount: u64) -> Option<Over> {
        let account = self.clients.get(&client);
        let held = account.map_or(0, |account| account.held);
        if held.saturating_add(amount) > limits.per_client {
            // If a client may hold everything, the total is what limits it.
            return Some(if limits.per_client < limits.total { Over::Client } else { Over::All });
        }
        let waits = !self.rotation.is_empty() || account.is_some_and(|account| !account.waiting.is_empty());
        (waits || self.held.saturating_add(amount) > limits.total).then_some(Over::All)
    }

    fn take(&mut self, limits: ShareLimits, client: Client, amount: u64) -> Result<(), Over> {
        if let Some(over) = self.over(limits, client, amount) {
            return Err(over);
        }
        self.held += amount;
        self.clients.entry(client).or_default().held += amount;
        Ok(())
    }

    fn queue(&mut self, limits: ShareLimits, client: Client, amount: u64, sender: oneshot::Sender<Share>) -> u64 {
        let id = self.id;
        self.id += 1;
        self.clients.entry(client).or_default().waiting.push_back(Waiter { id, amount, sender });
        self.update(limits, client);
        id
    }

    fn leave(&mut self, limits: ShareLimits, client: Client, id: u64) {
        if let Some(account) = self.clients.get_mut(&client) {
            account.waiting.retain(|waiter| waiter.id != id);
        }
        self.update(limits, client);
    }

    fn release(&mut self, limits: ShareLimits, client: Client, amount: u64) {
        self.held = self.held.saturating_sub(amount);
        if let Some(account) = self.clients.get_mut(&client) {
            account.held = account.held.saturating_sub(amount);
        }
        self.update(limits, client);
    }

    /// Grants waiters what is free, in rotation. Returns them.
    fn grant(&mut self, limits: ShareLimits) -> Vec<(Client, Waiter)> {
        let mut granted = Vec::new();
        while let Some(&client) = self.rotation.front() {
            let Some(account) = self.clients.get_mut(&client) else { break };
            let room = limits.total.saturating_sub(self.held);
            if account.waiting.front().is_some_and(|waiter| waiter.amount > room) {
                break;
            }
            let Some(waiter) = account.waiting.pop_front() else { break };
            account.held += waiter.amount;
            account.is_in_rotation = false;
            self.held += waiter.amount;
            self.rotation.pop_front();
            self.update(limits, client);
            granted.push((client, waiter));
        }
        granted
    }

    /// Adds a client to the rotation or removes it, as its account requires, and removes an empty account.
    fn update(&mut self, limits: ShareLimits, client: Client) {
        let Some(account) = self.clients.get_mut(&client) else { return };
        let first = account.waiting.front();
        let is_in_rotation =
            first.is_some_and(|first| account.held.saturating_add(first.amount) <= limits.per_client);
        if is_in_rotation && !account.is_in_rotation {
            self.rotation.push_back(client);
        } else if account.is_in_rotation && !is_in_rotation {
            self.rotation.retain(|other| *other != client);
        }
        account.is_in_rotation = is_in_rotation;
        if account.held == 0 && account.waiting.is_empty() {
            self.clients.remove(&client);
        }
    }
}

/// Removes a waiter from the queue when its future is dropped.
struct QueuedWaiter<'s> {
    shares: &'s Arc<Shares>,
    client: Client,
    id: u64,
}

impl Drop for QueuedWaiter<'_> {
    fn drop(&mut self) {
        self.shares.leave(self.client, self.id);
    }
}

impl Share {
    /// The client that holds it.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The amount.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes more, if it is free and no other client waits for it.
    pub fn grow(&mut self, by: u64) -> Result<(), Over> {
        lock(&self.shares.accounts).take(self.shares.limits(), self.client, by)?;
        self.amount += by;
        Ok(())
    }

    /// Releases a part of it.
    pub fn shrink(&mut self, by: u64) {
        let by = by.min(self.amount);
        self.amount -= by;
        self.shares.release(self.client, by);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.release(self.client, self.amount);
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

    /// Polls once.
    fn poll_once(waiting: &mut Pending<'_>) -> Option<Result<Share, Over>> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    fn wait(shares: &Arc<Shares>, n: u8, amount: u64) -> Pending<'_> {
        let mut waiting: Pending<'_> = Box::pin(shares.wait(client(n), amount));
        assert!(poll_once(&mut waiting).is_none());
        waiting
    }

    /// Whether there are no accounts.
    fn is_empty(shares: &Shares) -> bool {
        let accounts = lock(&shares.accounts);
        accounts.held == 0 && accounts.clients.is_empty() && accounts.rotation.is_empty()
    }

    #[test]
    fn a_client_is_limited_by_its_share_and_all_together_by_the_total() {
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
    fn the_total_limits_a_client_whose_share_is_everything() {
        let shares = Shares::new(1, 4);
        let held = shares.take(client(1), 1).unwrap();
        assert_eq!(shares.take(client(1), 1).unwrap_err(), Over::All);
        drop(held);
    }

    #[test]
    fn the_default_share_is_a_quarter_and_at_least_one() {
        let shares = [0, 1, 4, 7, 8, 512].map(Shares::usual);
        assert_eq!(shares, [1, 1, 1, 1, 2, 128]);
    }

    #[test]
    fn a_share_grows_and_shrinks_within_the_limits() {
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
    fn a_client_that_waits_for_its_own_share_delays_no_other_client() {
        let shares = Shares::new(4, 1);
        let held = shares.take(client(1), 1).unwrap();
        let mut waiting = wait(&shares, 1, 1);
        drop(shares.take(client(2), 1).unwrap());
        assert!(poll_once(&mut waiting).is_none());
        drop(held);
        assert!(poll_once(&mut waiting).unwrap().is_ok());
        drop(waiting);
        assert!(is_empty(&shares));
    }

    #[test]
    fn clients_are_served_in_rotation_however_many_waiters_each_has() {
        let shares = Shares::new(1, 1);
        let mut held = shares.take(client(9), 1).unwrap();
        let mut waiting = [1, 1, 1, 2, 3, 2].map(|n| (n, wait(&shares, n, 1))).into_iter().collect::<Vec<_>>();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(held);
            let (index, share) = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(index, (_, waiting))| poll_once(waiting).map(|share| (index, share.unwrap())))
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
    fn a_new_request_does_not_overtake_waiters() {
        let shares = Shares::new(2, 2);
        let held = shares.take(client(1), 1).unwrap();
        let mut large = wait(&shares, 2, 2);
        assert_eq!(shares.take(client(3), 1).unwrap_err(), Over::All);
        drop(held);
        let large = poll_once(&mut large).unwrap();
        assert!(large.is_ok());
    }

    #[test]
    fn a_dropped_waiter_makes_room_for_those_behind_it() {
        let shares = Shares::new(2, 2);
        let held = shares.take(client(1), 1).unwrap();
        let large = wait(&shares, 2, 2);
        let mut small = wait(&shares, 3, 1);
        drop(large);
        let small = poll_once(&mut small).unwrap();
        drop((held, small));
        assert!(is_empty(&shares));
    }

    #[test]
    fn a_share_granted_to_a_dropped_waiter_is_released() {
        let shares = Shares::new(1, 1);
        let held = shares.take(client(1), 1).unwrap();
        let waiting = wait(&shares, 2, 1);
        drop(held);
        assert_eq!(shares.held(), 1);
        drop(waiting);
        assert!(is_empty(&shares));
    }

    #[test]
    fn an_amount_over_the_limit_fails_at_once() {
        let shares = Shares::new(4, 2);
        let mut too_much: Pending<'_> = Box::pin(shares.wait(client(1), 3));
        assert_eq!(poll_once(&mut too_much).unwrap().unwrap_err(), Over::Client);
        drop(too_much);
        assert!(is_empty(&shares));
    }

    proptest! {
        #[test]
        fn limits_hold_and_no_client_waits_for_a_free_place(
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
                        match poll_once(&mut next) {
                            Some(done) => held.extend(done),
                            None => waiting.push((n, amount, next)),
                        }
                    }
                    2 if !held.is_empty() => drop(held.swap_remove(index.index(held.len()))),
                    3 if !waiting.is_empty() => drop(waiting.remove(index.index(waiting.len()))),
                    _ => {}
                }
                waiting.retain_mut(|(_, _, waiting)| match poll_once(waiting) {
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
                // With amounts of one, a client waits only if nothing is free for it.
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

//! The link to the server: connections that live and die together, and the task that keeps them.
//!
//! A connection here never reconnects by itself. A client that did would go on under the `run_id` learned from the
//! process before, and take a server that was restored from an old snapshot for the one that issued the marks. So
//! every connection learns its server's `run_id` before anything else is asked on it, and is dropped for good by the
//! first timeout, I/O error, or answer of a server that may not hold the latest writes.
//!
//! That is the breaker as well: once the connections are dropped, requests are refused without waiting, until the
//! task has new ones. A hung server costs the requests in flight their time limit, once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Spread;
use super::dialer::{self, Dialer, SetupFault};
use super::namespace::Namespace;
use super::primary::PrimaryResolver;
use super::refusal::{Refusal, is_usable_after, told};
use super::replicas::Replicas;
use super::server::Server;
use super::slots::Slots;
use super::{HEARTBEAT, Link, Outage, PAUSE_MIN, StoreError};
use crate::config::StoreConfig;
use crate::config::address::Wrong;
use crate::config::store_url::{ServerAddress, StoreUrl};

/// The longest pause before connecting again.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Why an attempt to connect failed. `address` is the URL without user and password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFault {
    /// Not there, or not ready; it may be at any time.
    #[error("{address}: cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    /// There, and will not serve this configuration: user, password, database, permission, TLS, version.
    #[error("{address}: rejects this configuration: {reason}")]
    Rejected { address: String, reason: String },
}

/// Connections to one run of the server that keeps the marks, and to whatever keeps entries.
pub(super) struct Connections {
    marks: MultiplexedConnection,
    entries: Entries,
    replicas: Option<Replicas>,
    server: Server,
    /// Where the marks are.
    place: ServerAddress,
}

/// Who keeps the entries.
enum Entries {
    /// The server that keeps the marks. They may be megabytes and must not hold up the marks of other requests.
    Beside(MultiplexedConnection),
    /// The nodes of a cluster.
    Spread(Spread),
}

impl Connections {
    /// To the server that keeps marks and meta. Small replies only: scripts, marks.
    pub(super) fn marks(&self) -> MultiplexedConnection {
        self.marks.clone()
    }

    /// The connection for entries if all of them are where the marks are, so that one pipeline brings both.
    pub(super) fn entries_beside(&self) -> Option<MultiplexedConnection> {
        match &self.entries {
            Entries::Beside(connection) => Some(connection.clone()),
            Entries::Spread(_) => None,
        }
    }

    /// To each server that keeps entries and answers, for walks over all of them.
    pub(super) fn nodes(&self) -> Vec<MultiplexedConnection> {
        match &self.entries {
            Entries::Beside(connection) => vec![connection.clone()],
            Entries::Spread(spread) => spread.connections(),
        }
    }

    /// Whether `nodes` are all that there are.
    pub(super) fn are_whole(&self) -> bool {
        match &self.entries {
            Entries::Beside(_) => true,
            Entries::Spread(spread) => spread.is_whole(),
        }
    }

    /// Returns when as many replicas as the configuration asks for have everything that was written so far.
    pub(super) async fn reach_replicas(&self) -> RedisResult<()> {
        match &self.replicas {
            Some(replicas) => replicas.reach().await,
            None => Ok(()),
        }
    }

    /// Identity of the server process that keeps the marks.
    pub(super) fn run_id(&self) -> &str {
        &self.server.run_id
    }
}

/// Owns the connections and their state.
pub(super) struct Keeper {
    resolver: PrimaryResolver,
    dialer: Arc<Dialer>,
    namespace: Arc<Namespace>,
    address: String,
    timeout: Duration,
    connect_timeout: Duration,
    wait_replicas: u64,
    /// None while the link is down. Changed only inside `link`'s lock, so that the two always agree.
    connections: ArcSwapOption<Connections>,
    link: watch::Sender<Link>,
    /// What attempts to connect have shown since the link went down.
    outage: watch::Sender<Option<Outage>>,
    /// How the latest attempt to connect ended; None before the end of the first.
    attempt: watch::Sender<Option<Result<(), ConnectFault>>>,
    /// Wakes the task when the connections were dropped.
    lost: Notify,
    /// Where the marks were when the link was up last; for the log alone.
    latest: Mutex<Option<ServerAddress>>,
}

impl Keeper {
    pub(super) fn new(config: &StoreConfig, namespace: Arc<Namespace>) -> Result<Keeper, SetupFault> {
        let mut url = StoreUrl::read(&config.redis)
            .map_err(|Wrong { message, remedy }| SetupFault::Url { message, remedy })?;
        url.login = dialer::login(config, url.login)?;
        let (resolver, dialer) = PrimaryResolver::new(config, &url)?;
        Ok(Keeper {
            resolver,
            dialer,
            namespace,
            address: config.redacted(),
            timeout: config.timeout,
            connect_timeout: config.connect_timeout,
            wait_replicas: config.wait_replicas,
            connections: ArcSwapOption::empty(),
            link: watch::Sender::new(Link::Down("not connected yet".to_owned())),
            outage: watch::Sender::new(None),
            attempt: watch::Sender::new(None),
            lost: Notify::new(),
            latest: Mutex::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Where the marks are now, while the link is up.
    pub(super) fn place(&self) -> Option<ServerAddress> {
        self.connections.load().as_ref().map(|connections| connections.place.clone())
    }

    /// For connections of other kinds.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) fn state(&self) -> Link {
        self.link.borrow().clone()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    pub(super) fn outage(&self) -> watch::Receiver<Option<Outage>> {
        self.outage.subscribe()
    }

    pub(super) async fn latest_attempt(&self) -> Result<(), ConnectFault> {
        let mut attempts = self.attempt.subscribe();
        match attempts.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => unreachable!("the sender lives in self, and only a value is waited for"),
        }
    }

    /// The present connections.
    pub(super) fn connections(&self) -> Result<Arc<Connections>, StoreError> {
        self.connections.load_full().ok_or_else(|| match self.state() {
            Link::Down(reason) => StoreError::Away(reason),
            Link::Up => StoreError::Away("connecting".to_owned()),
        })
    }

    /// Runs a request within the time limit; what shows these connections to be unusable drops them.
    pub(super) async fn within_limit<T>(
        &self,
        connections: &Arc<Connections>,
        request: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let error = match timeout(self.timeout, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_usable_after(&error) => return Err(StoreError::Refused(told(&error))),
            Ok(Err(error)) => StoreError::Away(told(&error)),
            Err(_) => StoreError::Timeout(self.timeout),
        };
        self.drop_connections(connections, &error);
        Err(error)
    }

    /// Runs a request on the server that keeps this entry, within the time limit. A node of a cluster that fails is no
    /// reason to take the link down.
    pub(super) async fn ask_keeper<T, F>(
        &self,
        connections: &Arc<Connections>,
        name: &str,
        request: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        match &connections.entries {
            Entries::Beside(entries) => self.within_limit(connections, request(entries.clone())).await,
            Entries::Spread(spread) => spread.ask(name, request).await,
        }
    }

    /// Runs a request on one of `nodes`, within the time limit, likewise.
    pub(super) async fn ask_node<T>(
        &self,
        connections: &Arc<Connections>,
        request: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        match &connections.entries {
            Entries::Beside(_) => self.within_limit(connections, request).await,
            // Whether the node is to be asked again is for those who watch it to find out.
            Entries::Spread(_) => match timeout(self.timeout, request).await {
                Ok(answer) => answer.map_err(|error| StoreError::Refused(told(&error))),
                Err(_) => Err(StoreError::Timeout(self.timeout)),
            },
        }
    }

    /// Takes the link down, unless these connections were replaced already.
    fn drop_connections(&self, connections: &Arc<Connections>, error: &StoreError) {
        let reason = match error {
            StoreError::Away(reason) => reason.clone(),
            other => other.to_string(),
        };
        let dropped = self.link.send_if_modified(|link| {
            let present = self.connections.compare_and_swap(Arc::as_ptr(connections), None);
            let dropped = present.as_ref().is_some_and(|present| Arc::ptr_eq(present, connections));
            if dropped {
                *link = Link::Down(reason.clone());
            }
            dropped
        });
        if dropped {
            tracing::warn!(store = self.address, reason, "the link to the store is down; connecting again");
            self.lost.notify_one();
        }
    }

    /// Connects, watches, connects again: for as long as the store lives.
    pub(super) async fn keep(self: Arc<Keeper>) {
        let mut pauses = Pauses::default();
        loop {
            let begun = Instant::now();
            match self.attempt(begun).await {
                Ok(connections) => {
                    pauses.lived(self.watch(connections).await);
                    pauses.rest().await;
                }
                Err(fault) => {
                    let is_lasting = matches!(fault, ConnectFault::Rejected { .. });
                    self.record_failure(fault, begun);
                    match is_lasting {
                        true => pauses.rest().await,
                        // The next attempt follows at once: there must be no time in which others reach the server and this
                        // proxy does not try to.
                        false if begun.elapsed() >= self.connect_timeout => {}
                        false => sleep(jittered(PAUSE_MIN)).await,
                    }
                }
            }
        }
    }

    /// One attempt to connect. One that gets no answer for as long as a request would wait shows that the store is away.
    async fn attempt(&self, begun: Instant) -> Result<Connections, ConnectFault> {
        let mut connecting = std::pin::pin!(self.connect());
        loop {
            match timeout(self.timeout / 4, &mut connecting).await {
                Ok(ended) => return ended,
                Err(_) if begun.elapsed() < self.timeout => {}
                // A server that had been there by then would have answered by now.
                Err(_) => self.note_away(begun, Instant::now() - self.timeout),
            }
        }
    }

    /// The store was away at this moment, as an attempt shows that began at `begun`.
    fn note_away(&self, begun: Instant, at: Instant) {
        self.outage.send_modify(|outage| {
            let known = outage.unwrap_or(Outage { since: begun, away_at: begun });
            *outage = Some(Outage { away_at: known.away_at.max(at.max(begun)), ..known });
        });
    }

    /// Puts new connections to use and returns when they were dropped, with the time they were in use. Tries them
    /// now and then: the marks as a request would, and whether the other connection is alive.
    async fn watch(&self, connections: Connections) -> Duration {
        let (connections, begun) = (Arc::new(connections), Instant::now());
        self.record_success(&connections);
        while timeout(HEARTBEAT, self.lost.notified()).await.is_err() {
            let beat = async {
                self.namespace.view(&connections, &[]).await?;
                if let Some(mut entries) = connections.entries_beside() {
                    redis::cmd("PING").query_async::<()>(&mut entries).await?;
                }
                Ok(())
            };
            // A failure that matters wakes `lost`.
            let _ = self.within_limit(&connections, beat).await;
            self.follow(&connections).await;
        }
        begun.elapsed()
    }

    /// Takes the link down when the marks are elsewhere now: a primary that was deposed may not know it, and answer.
    async fn follow(&self, connections: &Arc<Connections>) {
        let now = match (&self.resolver, &connections.entries) {
            // Sentinels that are away say nothing against the primary.
            (PrimaryResolver::Sentinels(sentinels), _) => sentinels.primary().await.ok(),
            (_, Entries::Spread(spread)) => spread.keeper(&self.namespace.meta),
            (PrimaryResolver::Server(_) | PrimaryResolver::Cluster(_), Entries::Beside(_)) => None,
        };
        if let Some(now) = now.filter(|now| *now != connections.place) {
            let reason = format!("{} is not the primary any more, {now} is", connections.place);
            self.drop_connections(connections, &StoreError::Away(reason));
        }
    }

    fn record_success(&self, connections: &Arc<Connections>) {
        let place = &connections.place;
        let version = connections.server.version.as_str();
        tracing::info!(store = self.address, primary = %place, server = version, "the link to the store is up");
        let before = self.latest.lock().unwrap_or_else(PoisonError::into_inner).replace(place.clone());
        if let Some(before) = before.filter(|before| before != place) {
            tracing::warn!(from = %before, to = %place, "failover: another server keeps the marks now");
        }
        self.link.send_modify(|link| {
            self.connections.store(Some(Arc::clone(connections)));
            *link = Link::Up;
        });
        self.outage.send_replace(None);
        self.attempt.send_replace(Some(Ok(())));
    }

    /// Logs a failure once, however often it is met again. `begun`: when the attempt was.
    fn record_failure(&self, fault: ConnectFault, begun: Instant) {
        let (ConnectFault::Unreachable { reason, .. } | ConnectFault::Rejected { reason, .. }) = &fault;
        let link = Link::Down(reason.clone());
        let changed = self.link.send_if_modified(|known| {
            let changed = *known != link;
            *known = link;
            changed
        });
        if changed {
            tracing::warn!(store = self.address, reason, "the link to the store is down; trying again");
        }
        self.note_away(begun, begun);
        self.attempt.send_replace(Some(Err(fault)));
    }

    /// One attempt: both connections, and a namespace that is whole.
    async fn connect(&self) -> Result<Connections, ConnectFault> {
        let refusal = match timeout(self.connect_timeout, self.open()).await {
            Ok(Ok(connections)) => return Ok(connections),
            Ok(Err(error)) => Refusal::of(&error),
            Err(_) => Refusal::silent(self.connect_timeout, self.dialer.is_tls()),
        };
        let (address, reason) = (self.address.clone(), refusal.reason);
        Err(match refusal.lasting {
            true => ConnectFault::Rejected { address, reason },
            false => ConnectFault::Unreachable { address, reason },
        })
    }

    async fn open(&self) -> RedisResult<Connections> {
        let (place, slots) = self.resolver.lead(&self.namespace.meta).await?;
        let (marks, entries) = (self.open_one(&place), self.open_entries(&place, slots));
        let ((marks, server), (entries, other)) = tokio::try_join!(marks, entries)?;
        self.resolver.accept(&server, &place)?;
        other.map_or(Ok(()), |other| server.must_be(&other))?;
        let replicas = match self.wait_replicas {
            0 => None,
            needed => {
                let (connection, third) = self.open_one(&place).await?;
                server.must_be(&third)?;
                Some(Replicas::new(connection, &self.namespace.waited, needed, self.timeout))
            }
        };
        let connections = Connections { marks, entries, replicas, server, place };
        // Now rather than at the first lookup: it shows whether this server takes writes, and loads the script.
        self.namespace.begin(&connections).await?;
        Ok(connections)
    }

    /// A connection, logged in, and what it learned of its server before anything else was asked on it.
    async fn open_one(&self, place: &ServerAddress) -> RedisResult<(MultiplexedConnection, Server)> {
        let mut connection = self.dialer.open(place).await?;
        let server = Server::at(&mut connection).await?;
        Ok((connection, server))
    }

    /// Marks are read on the connection for entries too where one server keeps both.
    async fn open_entries(
        &self,
        place: &ServerAddress,
        slots: Option<Slots>,
    ) -> RedisResult<(Entries, Option<Server>)> {
        match (&self.resolver, slots) {
            (PrimaryResolver::Cluster(cluster), Some(slots)) => {
                let spread = Spread::start(Arc::clone(cluster), slots, self.timeout).await;
                Ok((Entries::Spread(spread), None))
            }
            _ => {
                let (connection, server) = self.open_one(place).await?;
                Ok((Entries::Beside(connection), Some(server)))
            }
        }
    }
}

/// Half of it at least.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

/// Pauses before connecting again to a server that fails as soon as it is used, or rejects this configuration.
pub(super) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { next: PAUSE_MIN }
    }
}

impl Pauses {
    /// A connection lived so long. A server that fails as soon as it is used is as bad as one that cannot be reached.
    pub(super) fn lived(&mut self, time: Duration) {
        if time > HEARTBEAT {
            self.next = PAUSE_MIN;
        }
    }

    /// The next pause, with jitter, so that a fleet does not come back in step.
    pub(super) async fn rest(&mut self) {
        sleep(jittered(self.next)).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

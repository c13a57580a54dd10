//! The link to the server that holds the marks: the task that opens its connections together, and drops them together.
//!
//! A connection here never reconnects by itself. A client that did would go on under the `run_id` of the previous process,
//! and mistake a server that was restored from an old snapshot for the one that issued the marks. So every connection reads
//! its server's `run_id` before any other command, and is dropped for good after the first timeout, I/O error, or error of a
//! server that may not hold the latest writes.
//!
//! This is the circuit breaker as well: without connections, requests fail at once, until the task has opened new ones. A
//! hung server costs the requests in progress their time limit: once on the connections of the link, and once before on those that a
//! thread has of its own, since there it may be the thread that is busy.

use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::EntryNodes;
use super::connections::{Entries, OwnConnections, RedisConnections, ThreadConnections};
use super::dialer::{self, Dialer, SetupFault};
use super::errors::{RedisFault, is_usable_after, server_message};
use super::namespace::Namespace;
use super::primary::PrimaryResolver;
use super::replicas::Replicas;
use super::server::Server;
use super::slots::Slots;
use super::{HEARTBEAT, Link, Outage, PAUSE_MIN, StoreError};
use crate::config::StoreConfig;
use crate::config::address::InvalidValue;
use crate::config::store_url::{ServerAddress, StoreUrl};
use crate::mutex::lock;

/// The longest pause before connecting again.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Why an attempt to connect failed. `address` is the URL without user and password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFault {
    /// Not running, or not ready; retrying may succeed.
    #[error("{address}: cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    /// Running, but refuses this configuration: user, password, database, permission, TLS, version.
    #[error("{address}: rejects this configuration: {reason}")]
    Rejected { address: String, reason: String },
}

/// Owns the connections and their state.
pub(super) struct Connector {
    resolver: PrimaryResolver,
    dialer: Arc<Dialer>,
    namespace: Arc<Namespace>,
    address: String,
    timeout: Duration,
    connect_timeout: Duration,
    wait_replicas: u64,
    /// None while the link is down. Changed only inside `link`'s lock, so that the two always agree.
    connections: ArcSwapOption<RedisConnections>,
    link: watch::Sender<Link>,
    /// The outage as shown by the attempts to connect since the link went down.
    outage: watch::Sender<Option<Outage>>,
    /// Result of the latest attempt to connect; None before the end of the first.
    attempt: watch::Sender<Option<Result<(), ConnectFault>>>,
    /// Wakes the task when the connections were dropped.
    lost: Notify,
    /// Address of the marks when the link was up last; only for the log.
    latest: Mutex<Option<ServerAddress>>,
}

impl Connector {
    pub(super) fn new(config: &StoreConfig, namespace: Arc<Namespace>) -> Result<Connector, SetupFault> {
        let mut url = StoreUrl::read(&config.redis)
            .map_err(|InvalidValue { message, remedy }| SetupFault::Url { message, remedy })?;
        url.login = dialer::login(config, url.login)?;
        let (resolver, dialer) = PrimaryResolver::new(config, &url)?;
        Ok(Connector {
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

    /// Address of the server that holds the marks, while the link is up.
    pub(super) fn place(&self) -> Option<ServerAddress> {
        self.connections.load().as_ref().map(|connections| connections.place.clone())
    }

    /// For the subscription, which opens its own connection.
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
    pub(super) fn connections(self: &Arc<Connector>) -> Result<Arc<RedisConnections>, StoreError> {
        let Some(connections) = self.connections.load_full() else {
            return Err(match self.state() {
                Link::Down(reason) => StoreError::Away(reason),
                Link::Up => StoreError::Away("connecting".to_owned()),
            });
        };
        if connections.of_threads.are_to_be_opened() {
            tokio::spawn(Arc::clone(self).open_own(Arc::downgrade(&connections)));
        }
        Ok(connections)
    }

    /// Opens connections for this thread. If that fails, it goes on with those of the link.
    async fn open_own(self: Arc<Connector>, link: Weak<RedisConnections>) {
        let wanted =
            link.upgrade().map(|link| (link.place.clone(), matches!(link.entries, Entries::SameServer(_))));
        let Some((place, has_entries)) = wanted else { return };
        let opened = timeout(self.connect_timeout, async {
            let (marks, server) = self.open_one(&place).await?;
            let (entries, other) = if has_entries { Some(self.open_one(&place).await?) } else { None }.unzip();
            RedisResult::Ok((OwnConnections { marks, entries }, server, other))
        });
        let opened = opened.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let Some(link) = link.upgrade() else { return };
        let (own, server, other) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let reason = server_message(&error);
                tracing::info!(
                    store = self.address,
                    reason,
                    "a thread shares the connections to Redis with others for a while"
                );
                return link.of_threads.fail();
            }
        };
        match [Some(server), other].iter().flatten().try_for_each(|server| link.server.must_be(server)) {
            Ok(()) => link.of_threads.open(own),
            // Another process answers at this address.
            Err(replaced) => self.drop_connections(&link, &StoreError::Away(server_message(&replaced))),
        }
    }

    /// Runs a request within the time limit. Drops the connections after an error that shows them to be unusable. A reply that does
    /// not come in time on a thread's own connection may only show that the thread is busy: then the thread goes on with those of the
    /// link, which show whether the server hangs.
    pub(super) async fn within_limit<T>(
        &self,
        connections: &Arc<RedisConnections>,
        request: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let has_own = connections.of_threads.own().is_some();
        let error = match timeout(self.timeout, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_usable_after(&error) => return Err(StoreError::Refused(server_message(&error))),
            Ok(Err(error)) => StoreError::Away(server_message(&error)),
            Err(_) if has_own => {
                connections.of_threads.fail();
                return Err(StoreError::Timeout(self.timeout));
            }
            Err(_) => StoreError::Timeout(self.timeout),
        };
        self.drop_connections(connections, &error);
        Err(error)
    }

    /// Runs a request on the server that holds this key, within the time limit. The failure of one node of a cluster does not
    /// take the link down.
    pub(super) async fn ask_entry_node<T, F>(
        &self,
        connections: &Arc<RedisConnections>,
        name: &str,
        request: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        match &connections.entries {
            Entries::Cluster(nodes) => nodes.ask(name, request).await,
            Entries::SameServer(of_link) => {
                let entries = connections.of_threads.entries(of_link);
                self.within_limit(connections, request(entries)).await
            }
        }
    }

    /// The same for a request on one of `nodes`.
    pub(super) async fn ask_node<T>(
        &self,
        connections: &Arc<RedisConnections>,
        request: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        match &connections.entries {
            Entries::SameServer(_) => self.within_limit(connections, request).await,
            // `EntryNodes` finds out whether the node is still usable.
            Entries::Cluster(_) => match timeout(self.timeout, request).await {
                Ok(answer) => answer.map_err(|error| StoreError::Refused(server_message(&error))),
                Err(_) => Err(StoreError::Timeout(self.timeout)),
            },
        }
    }

    /// Takes the link down, unless these connections were replaced already.
    fn drop_connections(&self, connections: &Arc<RedisConnections>, error: &StoreError) {
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
            tracing::warn!(store = self.address, reason, "the connection to Redis is down; connecting again");
            self.lost.notify_one();
        }
    }

    /// Connects and reconnects for as long as the store exists.
    pub(super) async fn keep(self: Arc<Connector>) {
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
                        // Retry at once: there must be no time in which other proxies reach the server and this one does not
                        // try.
                        false if begun.elapsed() >= self.connect_timeout => {}
                        false => sleep(jittered(PAUSE_MIN)).await,
                    }
                }
            }
        }
    }

    /// One attempt to connect. If it gets no answer within the time limit of a request, the store is unreachable.
    async fn attempt(&self, begun: Instant) -> Result<RedisConnections, ConnectFault> {
        let mut connecting = std::pin::pin!(self.connect());
        loop {
            match timeout(self.timeout / 4, &mut connecting).await {
                Ok(ended) => return ended,
                Err(_) if begun.elapsed() < self.timeout => {}
                // A server that was up at that time would have answered by now.
                Err(_) => self.note_away(begun, Instant::now() - self.timeout),
            }
        }
    }

    /// Records that the store was unreachable at `at`, according to an attempt that began at `begun`.
    fn note_away(&self, begun: Instant, at: Instant) {
        self.outage.send_modify(|outage| {
            let known = outage.unwrap_or(Outage { since: begun, away_at: begun });
            *outage = Some(Outage { away_at: known.away_at.max(at.max(begun)), ..known });
        });
    }

    /// Publishes new connections and returns when they are dropped, with the time they were in use. Checks them at
    /// intervals: reads the marks as a request would, and pings the other connection and those of threads.
    async fn watch(&self, connections: RedisConnections) -> Duration {
        let (connections, begun) = (Arc::new(connections), Instant::now());
        self.record_success(&connections);
        while timeout(HEARTBEAT, self.lost.notified()).await.is_err() {
            let beat = async {
                self.namespace.view(&connections, &[]).await?;
                if let Some(mut entries) = connections.entries_on_marks_server() {
                    redis::cmd("PING").query_async::<()>(&mut entries).await?;
                }
                Ok(())
            };
            // A failure that drops the connections wakes `lost`.
            let (_, ()) =
                tokio::join!(self.within_limit(&connections, beat), connections.of_threads.check(self.timeout));
            self.follow(&connections).await;
        }
        begun.elapsed()
    }

    /// Takes the link down when another server holds the marks now: a deposed primary may still answer.
    async fn follow(&self, connections: &Arc<RedisConnections>) {
        let now = match (&self.resolver, &connections.entries) {
            // Unreachable sentinels do not mean that the primary has changed.
            (PrimaryResolver::Sentinels(sentinels), _) => sentinels.primary().await.ok(),
            (_, Entries::Cluster(nodes)) => nodes.node_of(&self.namespace.meta),
            (PrimaryResolver::Server(_) | PrimaryResolver::Cluster(_), Entries::SameServer(_)) => None,
        };
        if let Some(now) = now.filter(|now| *now != connections.place) {
            let reason = format!("{} is no longer the primary, {now} is", connections.place);
            self.drop_connections(connections, &StoreError::Away(reason));
        }
    }

    fn record_success(&self, connections: &Arc<RedisConnections>) {
        let place = &connections.place;
        let version = connections.server.version.as_str();
        tracing::info!(store = self.address, primary = %place, server = version, "the connection to Redis is up");
        let before = lock(&self.latest).replace(place.clone());
        if let Some(before) = before.filter(|before| before != place) {
            tracing::warn!(from = %before, to = %place, "failover: another server holds the marks now");
        }
        self.link.send_modify(|link| {
            self.connections.store(Some(Arc::clone(connections)));
            *link = Link::Up;
        });
        self.outage.send_replace(None);
        self.attempt.send_replace(Some(Ok(())));
    }

    /// Logs a failure once, however often it repeats. `begun`: start of the attempt.
    fn record_failure(&self, fault: ConnectFault, begun: Instant) {
        let (ConnectFault::Unreachable { reason, .. } | ConnectFault::Rejected { reason, .. }) = &fault;
        let link = Link::Down(reason.clone());
        let changed = self.link.send_if_modified(|known| {
            let changed = *known != link;
            *known = link;
            changed
        });
        if changed {
            tracing::warn!(store = self.address, reason, "the connection to Redis is down; trying again");
        }
        self.note_away(begun, begun);
        self.attempt.send_replace(Some(Err(fault)));
    }

    /// One attempt: opens the connections and makes sure that the namespace is complete.
    async fn connect(&self) -> Result<RedisConnections, ConnectFault> {
        let fault = match timeout(self.connect_timeout, self.open()).await {
            Ok(Ok(connections)) => return Ok(connections),
            Ok(Err(error)) => RedisFault::of(&error),
            Err(_) => RedisFault::silent(self.connect_timeout, self.dialer.is_tls()),
        };
        let (address, reason) = (self.address.clone(), fault.reason);
        Err(match fault.lasting {
            true => ConnectFault::Rejected { address, reason },
            false => ConnectFault::Unreachable { address, reason },
        })
    }

    async fn open(&self) -> RedisResult<RedisConnections> {
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
        let connections =
            RedisConnections { marks, entries, replicas, server, place, of_threads: ThreadConnections::new() };
        // Not left to the first lookup: it shows whether this server takes writes, and loads the script.
        self.namespace.begin(&connections).await?;
        Ok(connections)
    }

    /// Opens a connection, and reads the identity of its server before any other command.
    async fn open_one(&self, place: &ServerAddress) -> RedisResult<(MultiplexedConnection, Server)> {
        let mut connection = self.dialer.open(place).await?;
        let server = Server::at(&mut connection).await?;
        Ok((connection, server))
    }

    /// Opens the connections for entries.
    async fn open_entries(
        &self,
        place: &ServerAddress,
        slots: Option<Slots>,
    ) -> RedisResult<(Entries, Option<Server>)> {
        match (&self.resolver, slots) {
            (PrimaryResolver::Cluster(cluster), Some(slots)) => {
                let nodes = EntryNodes::start(Arc::clone(cluster), slots, self.timeout).await;
                Ok((Entries::Cluster(nodes), None))
            }
            _ => {
                let (connection, server) = self.open_one(place).await?;
                Ok((Entries::SameServer(connection), Some(server)))
            }
        }
    }
}

/// A random time between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

/// Growing pauses between attempts to connect to a server that fails at once or rejects the configuration.
pub(super) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { next: PAUSE_MIN }
    }
}

impl Pauses {
    /// Resets the pauses if a connection lived longer than [`HEARTBEAT`].
    pub(super) fn lived(&mut self, time: Duration) {
        if time > HEARTBEAT {
            self.next = PAUSE_MIN;
        }
    }

    /// Sleeps for the next pause, with jitter, so that the proxies of a fleet do not reconnect simultaneously.
    pub(super) async fn rest(&mut self) {
        sleep(jittered(self.next)).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

//! The link to the server: connections that live and die together, and the task that keeps them.
//!
//! A connection here never reconnects by itself. A client that did would go on under the `run_id` learned from the
//! process before, and take a server that was restored from an old snapshot for the one that issued the marks. So
//! every connection learns its server's `run_id` before anything else is asked on it, and is dropped for good by the
//! first timeout, I/O error, or answer of a server that may not hold the latest writes.
//!
//! That is the breaker as well: once the connections are dropped, requests are refused without waiting, until the
//! task has new ones. A hung server costs the requests in flight their time limit, once.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisError, RedisResult,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::replicas::Replicas;
use super::{Link, Namespace, StoreError, info_fields, not_an_answer};
use crate::config::StoreConfig;

/// The first pause before connecting again; each further one is twice as long, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often an idle link is tried, so that a dead one is found before a request finds it. A link that lived this
/// long also ends the growth of the pauses.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence of the peer's host after which the kernel gives a connection up.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Requests that may wait to be written to one connection.
const QUEUE: usize = 1024;

/// The oldest server that has `ZMSCORE` and scripts that may read the clock before they write.
const VERSION_MIN: (u32, u32) = (6, 2);

/// `[store] redis` is not a URL that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "[store] redis = {address:?}: {reason}; write redis://[user:password@]host[:port][/database], or rediss:// for TLS"
)]
pub struct UrlFault {
    /// The URL without user and password.
    pub address: String,
    /// What is wrong with it.
    pub reason: String,
}

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

/// Two connections to one run of one server, and a third one where writes wait for replicas.
pub(super) struct Connections {
    marks: MultiplexedConnection,
    entries: MultiplexedConnection,
    replicas: Option<Replicas>,
    server: Server,
}

impl Connections {
    /// To the server that keeps marks and meta. Small replies only: scripts, marks.
    pub(super) fn marks(&self) -> MultiplexedConnection {
        self.marks.clone()
    }

    /// To the server that keeps the entry of this name. Entries may be megabytes and must not hold up the marks of other
    /// requests.
    pub(super) fn entry(&self, _name: &str) -> MultiplexedConnection {
        self.entries.clone()
    }

    /// To each server that keeps entries, for walks over all of them.
    pub(super) fn nodes(&self) -> Vec<MultiplexedConnection> {
        vec![self.entries.clone()]
    }

    /// Returns when as many replicas as the configuration asks for have everything that was written so far.
    pub(super) async fn reach_replicas(&self) -> RedisResult<()> {
        match &self.replicas {
            Some(replicas) => replicas.reach().await,
            None => Ok(()),
        }
    }

    /// Identity of the server process at the other end of all connections.
    pub(super) fn run_id(&self) -> &str {
        &self.server.run_id
    }
}

/// What a connection learned of the process at its other end.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    run_id: String,
    /// `Redis 7.0.15`, for people.
    version: String,
}

/// Owns the connections and their state.
pub(super) struct Keeper {
    client: Client,
    namespace: Arc<Namespace>,
    address: String,
    timeout: Duration,
    connect_timeout: Duration,
    wait_replicas: u64,
    /// None while the link is down. Changed only inside `link`'s lock, so that the two always agree.
    connections: ArcSwapOption<Connections>,
    link: watch::Sender<Link>,
    /// How the latest attempt to connect ended; None before the end of the first.
    attempt: watch::Sender<Option<Result<(), ConnectFault>>>,
    /// Wakes the task when the connections were dropped.
    lost: Notify,
}

impl Keeper {
    pub(super) fn new(config: &StoreConfig, namespace: Arc<Namespace>) -> Result<Keeper, UrlFault> {
        Ok(Keeper {
            client: client(config)?,
            namespace,
            address: config.redacted(),
            timeout: config.timeout,
            connect_timeout: config.connect_timeout,
            wait_replicas: config.wait_replicas,
            connections: ArcSwapOption::empty(),
            link: watch::Sender::new(Link::Down("not connected yet".to_owned())),
            attempt: watch::Sender::new(None),
            lost: Notify::new(),
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

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn state(&self) -> Link {
        self.link.borrow().clone()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
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
            match self.connect().await {
                Ok(connections) => pauses.lived(self.watch(connections).await),
                Err(fault) => self.record_failure(fault),
            }
            pauses.rest().await;
        }
    }

    /// Puts new connections to use and returns when they were dropped, with the time they were in use. Tries them
    /// now and then: the marks as a request would, and whether the other connection is alive.
    async fn watch(&self, connections: Connections) -> Duration {
        let (connections, begun) = (Arc::new(connections), Instant::now());
        self.record_success(&connections);
        while timeout(HEARTBEAT, self.lost.notified()).await.is_err() {
            let beat = async {
                self.namespace.view(&connections, &[]).await?;
                for mut node in connections.nodes() {
                    redis::cmd("PING").query_async::<()>(&mut node).await?;
                }
                Ok(())
            };
            // A failure that matters wakes `lost`.
            let _ = self.within_limit(&connections, beat).await;
        }
        begun.elapsed()
    }

    fn record_success(&self, connections: &Arc<Connections>) {
        tracing::info!(store = self.address, server = connections.server.version, "the link to the store is up");
        self.link.send_modify(|link| {
            self.connections.store(Some(Arc::clone(connections)));
            *link = Link::Up;
        });
        self.attempt.send_replace(Some(Ok(())));
    }

    /// Logs a failure once, however often it is met again.
    fn record_failure(&self, fault: ConnectFault) {
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
        self.attempt.send_replace(Some(Err(fault)));
    }

    /// One attempt: both connections, and a namespace that is whole.
    async fn connect(&self) -> Result<Connections, ConnectFault> {
        let refusal = match timeout(self.connect_timeout, self.open()).await {
            Ok(Ok(connections)) => return Ok(connections),
            Ok(Err(error)) => Refusal::of(&error),
            Err(_) => Refusal::silent(self.connect_timeout, self.client.get_connection_info().addr()),
        };
        let (address, reason) = (self.address.clone(), refusal.reason);
        Err(match refusal.lasting {
            true => ConnectFault::Rejected { address, reason },
            false => ConnectFault::Unreachable { address, reason },
        })
    }

    async fn open(&self) -> RedisResult<Connections> {
        let ((marks, server), (entries, other)) = tokio::try_join!(self.open_one(), self.open_one())?;
        let replicas = match self.wait_replicas {
            0 => None,
            needed => {
                let (connection, third) = self.open_one().await?;
                server.must_be(&third)?;
                Some(Replicas::new(connection, &self.namespace.waited, needed, self.timeout))
            }
        };
        server.must_be(&other)?;
        let connections = Connections { marks, entries, replicas, server };
        // Now rather than at the first lookup: it shows whether this server takes writes, and loads the script.
        self.namespace.begin(&connections).await?;
        Ok(connections)
    }

    /// A connection, logged in, and what it learned of its server before anything else was asked on it.
    async fn open_one(&self) -> RedisResult<(MultiplexedConnection, Server)> {
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&untimed()).await?;
        let text: Vec<u8> = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        Ok((connection, Server::from_info(&info_fields(&text))?))
    }
}

/// The time limits are ours: one for connecting as a whole, one for each request as a whole.
pub(super) fn untimed() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE)
}

/// Pauses between attempts to connect.
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
        sleep(self.next.mul_f64(rand::random_range(0.5..=1.0))).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

impl Server {
    fn must_be(&self, other: &Server) -> RedisResult<()> {
        match self == other {
            true => Ok(()),
            false => Err(io::Error::other("the server was replaced while connecting").into()),
        }
    }

    fn from_info(fields: &BTreeMap<String, String>) -> RedisResult<Server> {
        let run_id = fields.get("run_id").ok_or_else(|| not_an_answer("INFO tells no run_id"))?;
        let version = fields.get("redis_version").ok_or_else(|| not_an_answer("INFO tells no redis_version"))?;
        if version_of(version).is_none_or(|version| version < VERSION_MIN) {
            let (major, minor) = VERSION_MIN;
            let needed = format!("it is {version}, and {major}.{minor} or later is needed");
            return Err((ErrorKind::InvalidClientConfig, "the server's version is not supported", needed).into());
        }
        // Valkey tells the Redis version it is compatible with, and its own.
        let version = match fields.get("valkey_version") {
            Some(own) => format!("Valkey {own}"),
            None => format!("Redis {version}"),
        };
        Ok(Server { run_id: run_id.clone(), version })
    }
}

/// Major and minor.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn client(config: &StoreConfig) -> Result<Client, UrlFault> {
    let fault = |reason: &str| UrlFault { address: config.redacted(), reason: reason.to_owned() };
    // The client ends its messages with ` - ` and the kind of error. They never quote user or password.
    let refused = |error: RedisError| fault(error.to_string().split(" - ").next().unwrap_or_default());
    match config.redis.split_once("://").map_or("", |(scheme, _)| scheme) {
        "redis" | "rediss" | "valkey" | "valkeys" => {}
        "redis+cluster" | "redis+sentinel" => return Err(fault("cluster and sentinel are not supported yet")),
        _ => return Err(fault("not a Redis URL")),
    }
    let info = config.redis.as_str().into_connection_info().map_err(refused)?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // An error means that a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Client::open(tuned(info)).map_err(refused)
}

/// A peer whose host is gone sends nothing, so the kernel must find out.
fn tuned(info: ConnectionInfo) -> ConnectionInfo {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(HEARTBEAT);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(KEEPALIVE);
    let settings = info.redis_settings().clone().set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP2);
    info.set_tcp_settings(tcp).set_redis_settings(settings)
}

/// Answers of a server that takes no writes now: a replica, one that loads its snapshot, is full, cannot save, or is
/// cut off from its replicas. Writes may be acknowledged elsewhere, or nowhere; its marks prove nothing.
const NO_WRITES: [&str; 7] = ["READONLY", "LOADING", "MASTERDOWN", "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN"];

/// Other answers that a server gives for a while only.
const TEMPORARY: [&str; 3] = ["BUSY", "TRYAGAIN", "ERR max number of clients reached"];

/// Whether the connection, and this server's word on the marks, can be relied on after an error.
fn is_usable_after(error: &RedisError) -> bool {
    !matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) && !is_any_of(&told(error), &NO_WRITES)
}

fn is_any_of(told: &str, codes: &[&str]) -> bool {
    // Up to 6.2 an error inside a script is wrapped in another: `ERR Error running script …: -READONLY You can't …`.
    codes.iter().any(|code| told.starts_with(code) || told.contains(&format!("-{code} ")))
}

/// Why a server could not be used, and whether someone must change something before it can.
pub(super) struct Refusal {
    lasting: bool,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn of(error: &RedisError) -> Refusal {
        let told = told(error);
        let (lasting, reason) = match error.kind() {
            ErrorKind::AuthenticationFailed => {
                (true, "wrong user or password; correct them in `[store] redis`".to_owned())
            }
            ErrorKind::Io if is_tls(error) => {
                (true, format!("TLS: {told}; correct the certificate, or the scheme of `[store] redis`"))
            }
            ErrorKind::Io => (false, told),
            _ if told.starts_with("NOAUTH") => {
                (true, "it asks for a password; add it to `[store] redis`".to_owned())
            }
            _ if told.contains("NOPERM") || told.contains("The user executing the script can't") => (true, {
                let remedy = "give it all that deploy/README.md lists, the channel {namespace}:fleet too";
                format!("the user of `[store] redis` lacks a permission: {told}; {remedy}")
            }),
            _ if is_any_of(&told, &NO_WRITES) => (false, format!("it takes no writes: {told}")),
            _ => (!is_any_of(&told, &TEMPORARY), told),
        };
        Refusal { lasting, reason }
    }

    fn silent(limit: Duration, addr: &ConnectionAddr) -> Refusal {
        // Redis without TLS takes a TLS greeting for the beginning of a command and waits for its end.
        let hint = if matches!(addr, ConnectionAddr::TcpTls { .. }) { " (does it speak TLS there?)" } else { "" };
        let reason = format!("it did not answer within {}{hint}", humantime::format_duration(limit));
        Refusal { lasting: false, reason }
    }
}

/// Whether TLS itself failed: a certificate that is not trusted, a peer that does not speak it.
fn is_tls(error: &RedisError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    io.and_then(io::Error::get_ref).is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
}

/// An error in the server's own words where it is the server's.
pub(super) fn told(error: &RedisError) -> String {
    let errors = error.clone().into_server_errors();
    match errors.as_ref().and_then(|errors| errors.first()) {
        Some((_, answer)) => {
            format!("{} {}", answer.code(), answer.details().unwrap_or_default()).trim_end().to_owned()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    fn server_error(answer: &str) -> RedisError {
        let (code, details) = answer.split_once(' ').unwrap_or((answer, ""));
        make_extension_error(code.to_owned(), Some(details.to_owned()))
    }

    #[test]
    fn a_server_that_may_not_hold_the_latest_writes_is_dropped() {
        for (answer, usable) in [
            ("READONLY You can't write against a read only replica.", false),
            (
                "ERR Error running script (call to f_0): @user_script:9: -READONLY You can't write against it",
                false,
            ),
            ("LOADING Redis is loading the dataset in memory", false),
            ("MASTERDOWN Link with MASTER is down", false),
            ("OOM command not allowed when used memory > 'maxmemory'.", false),
            ("MISCONF Redis is configured to save RDB snapshots", false),
            ("NOREPLICAS Not enough good replicas to write.", false),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("BUSY Redis is busy running a script.", true),
            ("ERR unknown command 'ZMSCORE'", true),
        ] {
            assert_eq!(is_usable_after(&server_error(answer)), usable, "{answer}");
        }
        assert!(!is_usable_after(&io::Error::from(io::ErrorKind::ConnectionReset).into()));
    }

    #[test]
    fn what_waiting_may_mend_is_told_from_what_someone_must_change() {
        for (answer, lasting) in [
            ("NOAUTH Authentication required.", true),
            ("NOPERM this user has no permissions to run the 'info' command", true),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("MOVED 3999 127.0.0.1:6381", true),
            ("LOADING Redis is loading the dataset in memory", false),
            ("READONLY You can't write against a read only replica.", false),
            ("BUSY Redis is busy running a script.", false),
            ("ERR max number of clients reached", false),
        ] {
            assert_eq!(Refusal::of(&server_error(answer)).lasting, lasting, "{answer}");
        }
        assert!(!Refusal::of(&io::Error::from(io::ErrorKind::ConnectionRefused).into()).lasting);
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::HandshakeNotComplete);
        assert!(Refusal::of(&tls.into()).lasting);
    }

    fn server(info: &str) -> RedisResult<Server> {
        Server::from_info(&info_fields(info.as_bytes()))
    }

    #[test]
    fn a_server_needs_an_identity_and_a_version_that_has_the_commands() {
        let valkey = server("# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.0\r\nrun_id:a1\r\n").unwrap();
        assert_eq!(valkey, Server { run_id: "a1".to_owned(), version: "Valkey 8.1.0".to_owned() });
        assert_eq!(server("redis_version:6.2.0\nrun_id:a1").unwrap().version, "Redis 6.2.0");
        assert_eq!(server("redis_version:10.0.1\nrun_id:a1").unwrap().version, "Redis 10.0.1");
        let old = server("redis_version:6.0.16\nrun_id:a1").unwrap_err();
        assert!(Refusal::of(&old).reason.contains("it is 6.0.16, and 6.2 or later is needed"), "{old}");
        assert!(Refusal::of(&old).lasting);
        assert!(server("redis_version:7.0.0").is_err());
        assert!(server("redis_version:unstable\nrun_id:a1").is_err());
        assert!(server("").is_err());
    }
}

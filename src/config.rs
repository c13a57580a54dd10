//! `rules.toml`, flags and environment -> [`Config`]. Reports every fault, not only the first, each with file,
//! line, column, the offending text and the remedy. What comes out is checked; nothing inside asks again.
//!
//! [`Config::parse`] is pure; [`Config::load`] reads the file for it. The upstream is an `Option`, since `check` and
//! `explain` do without; `serve` demands it.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};

use self::store_url::{Login, StoreUrl};
use crate::http::headers::{Credentials, ForwardedPolicy};
use crate::http::target::PathCase;
use crate::network::Network;
use crate::rules::RuleSet;
use crate::rules::fault::{Fault, Faults, Source};
use crate::rules::pattern::Pattern;
use crate::rules::reader::{Env, Reader, Table};
use crate::secret::Secret;

pub(crate) mod address;
pub mod lint;
pub mod schema;
pub mod store_url;
mod tables;

/// Largest rules file, bytes.
const FILE: u64 = 4 << 20;

/// Everything Larder needs to run.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    /// None: embedded, in memory only.
    pub store: Option<StoreConfig>,
    pub memory: Memory,
    pub log: Log,
    pub rules: RuleSet,
    /// The rules file, if there is one.
    pub file: Option<PathBuf>,
    /// MD5 of the file's content as it was read: who watches the file compares with it.
    pub digest: Option<Digest>,
    /// What flags and environment set over the file, so that the file can be read again.
    pub overrides: Overrides,
}

/// Values of flags and of their `LARDER_…` variables. They win over the file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--upstream`
    pub upstream: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--redis`
    pub redis: Option<String>,
    /// `--namespace`; of no effect without a Redis
    pub namespace: Option<String>,
    /// `LARDER_ADMIN_TOKEN`: replaces the file's tokens of this role
    pub admin_token: Option<String>,
    /// `LARDER_VIEWER_TOKEN`: replaces the file's tokens of this role
    pub viewer_token: Option<String>,
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overrides { upstream, listen, admin, redis, namespace, admin_token, viewer_token } = self;
        // Passwords and tokens: only whether they are there.
        let secret = |value: &Option<String>| value.as_ref().map(|_| "…");
        f.debug_struct("Overrides")
            .field("upstream", upstream)
            .field("listen", listen)
            .field("admin", admin)
            .field("redis", &secret(redis))
            .field("namespace", namespace)
            .field("admin_token", &secret(admin_token))
            .field("viewer_token", &secret(viewer_token))
            .finish()
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: cannot read the rules file: {source}: {remedy}", .path.display())]
    Io { path: PathBuf, source: Arc<io::Error>, remedy: &'static str },
    /// The file or a flag is faulty.
    #[error(transparent)]
    Faults(Faults),
}

/// MD5 of a rules file's content.
pub type Digest = [u8; 16];

/// MD5 of a rules file's content; tells whether it was edited.
pub fn digest(content: &[u8]) -> Digest {
    Md5::digest(content).into()
}

/// Adds the names of fields that differ. All fields must be named, so that a new one is not forgotten.
macro_rules! differing {
    ($names:ident, $table:literal, $type:ident, $one:expr, $other:expr, [$($field:ident),+ $(,)?]) => {{
        let ($type { $($field),+ }, other) = ($one, $other);
        $(if *$field != other.$field {
            $names.push(concat!("[", $table, "] ", stringify!($field)));
        })+
    }};
}
impl Config {
    /// Reads and checks a rules file, at most 4 MiB. Without a file: the defaults, and no rules.
    pub fn load(file: Option<&Path>, overrides: &Overrides, env: &Env<'_>) -> Result<Config, LoadError> {
        match file {
            Some(path) => Config::check(path, &read(path)?, overrides, env),
            None => Config::parse("", "-", overrides, env).map_err(LoadError::Faults),
        }
    }

    /// Checks the content of the rules file at `path`.
    pub fn check(path: &Path, bytes: &[u8], overrides: &Overrides, env: &Env<'_>) -> Result<Config, LoadError> {
        let name = path.display().to_string();
        let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(&name, bytes, error.valid_up_to()))?;
        let config = Config::parse(text, &name, overrides, env).map_err(LoadError::Faults)?;
        Ok(Config { file: Some(path.to_owned()), digest: Some(digest(bytes)), ..config })
    }

    /// Checks the text of a rules file. `file_name` is what faults call it. Pure.
    pub fn parse(text: &str, file_name: &str, overrides: &Overrides, env: &Env<'_>) -> Result<Config, Faults> {
        let (reader, table) = Reader::open(file_name, text, env);
        let mut root = reader.root(&table);
        let (config, mut flags) = Config::read(&mut root, overrides);
        root.later(&["warm"]);
        root.finish();
        flags.extend(reader.finish());
        if flags.is_empty() { Ok(config) } else { Err(Faults(flags)) }
    }

    /// Reads every table, and gives the faults that are in flags; those in the file go to its reader.
    fn read(root: &mut Table<'_>, overrides: &Overrides) -> (Config, Vec<Fault>) {
        let mut flags = Vec::new();
        let server = tables::read_server(root, overrides, &mut flags);
        let admin = tables::read_admin(root, &server, overrides, &mut flags);
        let config = Config {
            store: tables::read_store(root, &server, overrides, &mut flags),
            memory: tables::read_memory(root),
            log: tables::read_log(root),
            rules: RuleSet::read(root, server.case_insensitive_paths),
            server,
            admin,
            file: None,
            digest: None,
            overrides: overrides.clone(),
        };
        (config, flags)
    }

    /// Fields that differ between two configurations and that a running Larder cannot change: all but the rules and
    /// `[memory] max_body`.
    pub fn differs(&self, other: &Config) -> Vec<&'static str> {
        let mut names = Vec::new();
        differing!(
            names,
            "server",
            Server,
            &self.server,
            &other.server,
            [
                listen,
                upstream,
                host,
                forwarded,
                trusted_proxies,
                connect_timeout,
                upstream_timeout,
                reinvalidate_after,
                idle_timeout,
                header_timeout,
                drain_timeout,
                max_connections,
                max_connections_per_client,
                max_streams_per_client,
                max_heads,
                max_upstream_requests,
                max_upstream_requests_per_client,
                max_unshared_per_client,
                max_upstream_streams,
                max_upstream_streams_per_client,
                stream_after,
                collapse_wait,
                upgrades,
                stream_timeout,
                max_head,
                max_query_body,
                upload_rate,
                download_rate,
                on_incomplete,
                login,
                underscores,
                credential_headers,
                case_insensitive_paths,
                upstream_keep_alive,
                resolver,
                cache_status,
                group_fields,
                upstream_tls,
            ]
        );
        differing!(names, "admin", Admin, &self.admin, &other.admin, [listen, tokens]);
        match (&self.store, &other.store) {
            (Some(store), Some(other)) => differing!(
                names,
                "store",
                StoreConfig,
                store,
                other,
                [
                    redis,
                    login,
                    password_file,
                    tls_ca,
                    tls_identity,
                    namespace,
                    secret,
                    timeout,
                    connect_timeout,
                    marks_max,
                    coherence,
                    lease,
                    on_outage,
                    wait_replicas,
                    collapse_timeout,
                    sweep_rate,
                    sweep_pause,
                ]
            ),
            (None, None) => {}
            _ => names.push("[store]"),
        }
        let live = Memory { max_body: other.memory.max_body, ..self.memory.clone() };
        differing!(names, "memory", Memory, &live, &other.memory, [capacity, max_body, marks]);
        differing!(names, "log", Log, &self.log, &other.log, [format, access, level]);
        names
    }
}

/// Reads a rules file, at most 4 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_bounded(path).map_err(|source| unreadable(path, source))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => "create it, or name another file",
        io::ErrorKind::PermissionDenied => "let the user that runs Larder read it",
        io::ErrorKind::FileTooLarge => "fold several families into one pattern",
        io::ErrorKind::IsADirectory => "name a file in it",
        _ => "mend that, or name another file",
    };
    LoadError::Io { path: path.to_owned(), source: Arc::new(source), remedy }
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> LoadError {
    let text = String::from_utf8_lossy(bytes);
    // Up to there nothing was replaced, so that the place is the same.
    let fault: Fault =
        Source::new(name, &text).fault(valid..valid + 1, "the file is not UTF-8 here", "save it as UTF-8");
    LoadError::Faults(Faults(vec![fault]))
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// `listen`, default 127.0.0.1:8080
    pub listen: SocketAddr,
    /// `upstream`, an http or https URL without path, query or credentials; only `serve` cannot do without
    pub upstream: Option<http::Uri>,
    /// `host`: what upstream is told in `Host`
    pub host: HostPolicy,
    /// `forwarded`: set | append | off
    pub forwarded: ForwardedPolicy,
    /// `trusted_proxies`: with `append`, the networks of the proxies in front that are believed; no others are
    pub trusted_proxies: Vec<Network>,
    /// `connect_timeout`, default 2s
    pub connect_timeout: Duration,
    /// `upstream_timeout`: until the head of the answer, default 30s
    pub upstream_timeout: Duration,
    /// `reinvalidate_after`: how long after a write without an answer what it invalidates is invalidated once more; default
    /// `upstream_timeout`
    pub reinvalidate_after: Duration,
    /// `idle_timeout`: the longest silence of upstream in a body, or of a client that should take it, default 30s
    pub idle_timeout: Duration,
    /// `header_timeout`: for a client to send a request head; also its keep-alive idle limit; default 30s
    pub header_timeout: Duration,
    /// `drain_timeout`: how long shutdown waits for what runs, default 30s
    pub drain_timeout: Duration,
    /// `max_connections` from clients; default 10000, or fewer if the process may not have so many descriptors
    pub max_connections: Option<usize>,
    /// `max_connections_per_client`, default a quarter of `max_connections`
    pub max_connections_per_client: Option<usize>,
    /// `max_streams_per_client`: HTTP/2 streams of one client over all its connections, default 1000; all together may have
    /// four times as many
    pub max_streams_per_client: usize,
    /// `max_heads`: what request heads of more than 8 KiB may take together while they are read, and over HTTP/2 until they are
    /// answered, bytes, default 32MiB; those of one client may take a quarter of it. An unfinished one over HTTP/2 counts as
    /// `max_head`
    pub max_heads: u64,
    /// `max_upstream_requests` at a time, default 512; as many again wait, and further ones are refused
    pub max_upstream_requests: usize,
    /// `max_upstream_requests_per_client`: how many of them one client may have, and how many of its own may wait; default a
    /// quarter, and at least 1
    pub max_upstream_requests_per_client: usize,
    /// `max_unshared_per_client`: reads of one client at a time that no other request can share and the cache does not
    /// answer, unless they are streams; default a quarter of `max_upstream_requests`, at least 8
    pub max_unshared_per_client: u64,
    /// `max_upstream_streams` at a time, beside the requests: event streams, upgraded connections, and what upstream has been
    /// silent in for `stream_after`; default 1024, or as many as the descriptors of the process allow
    pub max_upstream_streams: usize,
    /// `max_upstream_streams_per_client`: how many of them one client may have; default a quarter, and at least 1
    pub max_upstream_streams_per_client: usize,
    /// `stream_after`: the silence of upstream after which an exchange counts as a stream, default 5s
    pub stream_after: Duration,
    /// `collapse_wait`: how long a request outside of families waits for the fetch of another one, where responses of such
    /// paths have not been for sharing before; default 1s
    pub collapse_wait: Duration,
    /// `upgrades`: protocols to which a connection may be upgraded, in lower case; default `websocket`
    pub upgrades: Vec<String>,
    /// `stream_timeout`: the longest silence of an event stream or an upgraded connection, default 1h
    pub stream_timeout: Duration,
    /// `max_head`: the largest head of a request or a response, bytes, default 64KiB; a field line counts as 32 at least
    pub max_head: usize,
    /// `max_query_body`: the largest content of a QUERY that is answered from the cache, bytes, default 64KiB
    pub max_query_body: u64,
    /// `upload_rate`: the least bytes a second of a client's content, on average beyond `idle_timeout`; default 500, 0
    /// for none
    pub upload_rate: u64,
    /// `download_rate`: the least bytes a second that a client takes of what upstream is still sending, on average beyond
    /// `idle_timeout`; default 500, 0 for none
    pub download_rate: u64,
    /// `on_incomplete`: ignore (the default) | invalidate
    pub on_incomplete: OnIncomplete,
    /// `login`: a pattern over the path of `Location`; a redirect to it refuses a write. Default: none
    pub login: Option<Pattern>,
    /// `underscores`: true if request fields with `_` in their names are kept; default false
    pub underscores: bool,
    /// `credential_headers`: request fields that carry credentials, beside those that are known to; default none
    pub credential_headers: Credentials,
    /// `case_insensitive_paths`: true if upstream takes paths that differ in case for one; default false
    pub case_insensitive_paths: PathCase,
    /// `upstream_keep_alive`: how long a connection to upstream may be idle and is used again, default 4s; shorter where
    /// upstream says so (`Keep-Alive: timeout`)
    pub upstream_keep_alive: Duration,
    /// `resolver`: the DNS server that is asked for upstream's name; default: the system's way to resolve names
    pub resolver: Option<SocketAddr>,
    /// `cache_status`: what of `Cache-Status` clients are told
    pub cache_status: CacheStatus,
    /// `group_fields`: true if clients are shown the fields that name groups (`Cache-Groups`, `Surrogate-Key`, …)
    pub group_fields: bool,
    /// `upstream_tls`: the table `[server.upstream_tls]`
    pub upstream_tls: UpstreamTls,
}

/// `[server.upstream_tls]`: TLS with upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// `ca`: file (PEM) with the authorities that upstream's certificate may come from; default: the system's
    pub ca: Option<PathBuf>,
    /// `cert` and `key`: files (PEM) with the certificate and its key that are shown to upstream; default: none
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `server_name`: the name that upstream's certificate is for, and that it is told (SNI); default: the URL's host
    pub server_name: Option<String>,
}

impl Server {
    /// What upstream is told of a client whose request comes from this peer: only trusted ones are continued.
    pub fn forwarded_from(&self, peer: IpAddr) -> ForwardedPolicy {
        match self.forwarded {
            ForwardedPolicy::Append if !self.trusted_proxies.iter().any(|network| network.contains(peer)) => {
                ForwardedPolicy::Set
            }
            policy => policy,
        }
    }
}

/// `[server] on_incomplete`: what a write means of which upstream has received a part, and cannot have received all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnIncomplete {
    /// `"ignore"`: it has not happened (RFC 9112 §8).
    #[default]
    Ignore,
    /// `"invalidate"`: upstream may have acted on a part of it.
    Invalidate,
}

/// `[server] cache_status` (RFC 9211)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheStatus {
    /// `"plain"`: what happened
    #[default]
    Plain,
    /// `"key"`: and the name under which the response is stored
    Key,
    /// `"off"`: nothing; what caches nearer to the origin said is left as it is
    Off,
}

/// `[server] host`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostPolicy {
    /// `"upstream"`: the host of the upstream URL
    Upstream,
    /// the same, because nothing else is said, and the URL is https and has a name
    UpstreamByDefault,
    /// `"client"`: what the client sent
    #[default]
    Client,
    /// any other string: this host
    Fixed(http::HeaderValue),
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `listen`, default 127.0.0.1:9090, as configured. Whoever binds it without tokens takes the loopback address
    /// instead.
    pub listen: SocketAddr,
    /// `tokens = [{ role = "admin", token = "${LARDER_ADMIN_TOKEN}" }]`; empty tokens are left out
    pub tokens: Vec<Token>,
}

/// A bearer token with its role.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub role: Role,
    pub token: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?}, …)", self.role)
    }
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and change.
    Admin,
}

/// `[store]`
#[derive(Clone, PartialEq)]
pub struct StoreConfig {
    /// `redis`: the URL of a server, a cluster, or sentinels; see [`store_url`]
    pub redis: String,
    /// `username` and `password`, where the URL has none; as they are, not percent-encoded. Default: none
    pub login: Login,
    /// `password_file`: a file with the password, without the line break at its end; default: none
    pub password_file: Option<PathBuf>,
    /// `tls_ca`: file (PEM) with the authorities that the server's certificate may come from; default: the system's
    pub tls_ca: Option<PathBuf>,
    /// `tls_cert` and `tls_key`: files (PEM) with the certificate and its key that are shown to the server; default: none
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// `namespace`, default "larder"; 1 to 64 of [A-Za-z0-9_.-]
    pub namespace: String,
    /// `timeout`: the longest any request waits for Redis, default 100ms
    pub timeout: Duration,
    /// `connect_timeout`, default 500ms
    pub connect_timeout: Duration,
    /// `marks_max`: marks kept in Redis before the oldest go and the floor rises, default 4000000
    pub marks_max: u64,
    /// `coherence`: lease (the default) | strict | eventual
    pub coherence: Coherence,
    /// `lease`: how long a proxy serves from memory after it has heard from Redis, and the longest that a write waits for
    /// another proxy; 100ms to 1m, default 1s
    pub lease: Duration,
    /// `on_outage`: forward (the default) | refuse
    pub on_outage: OnOutage,
    /// `wait_replicas`: replicas of Redis that must have an invalidation before its write is answered; 0 to 100, default 0
    pub wait_replicas: u64,
    /// `collapse_timeout`: how long a proxy waits for what another one fetches, in families with `collapse = "fleet"`; 100ms
    /// to 1m, default 5s, never longer than `upstream_timeout`
    pub collapse_timeout: Duration,
    /// `sweep_rate`: keys a second that the sweeper looks at, at most 1000000, default 1000; 0: there is no sweeper
    pub sweep_rate: u64,
    /// `sweep_pause`: from the end of a walk over all entries to the beginning of the next; 1s to 1d, default 1m
    pub sweep_pause: Duration,
    /// `secret`: the key of the checksums of entries, and of the HMACs that credentials stand as in keys; at least 16 bytes,
    /// from the environment; default: none
    pub secret: Option<String>,
}

/// `[store] coherence`: what a hit may rely on, and what a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coherence {
    /// Hits come from memory under a lease; a write waits until every proxy knows of it.
    #[default]
    Lease,
    /// Every hit asks Redis.
    Strict,
    /// As `Lease`, but writes do not wait: another proxy may serve what they invalidate for up to a lease.
    Eventual,
}

/// `[store] on_outage`: what happens to writes while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOutage {
    /// They are forwarded, and what they invalidate is made known when Redis is back.
    #[default]
    Forward,
    /// They are answered 503.
    Refuse,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        write!(f, "StoreConfig({}, namespace {:?})", self.redacted(), self.namespace)
    }
}

impl StoreConfig {
    /// The keys that are derived from `secret`.
    pub fn secret(&self) -> Option<Secret> {
        self.secret.as_ref().map(|secret| Secret::new(secret, &self.namespace))
    }

    /// Whom the servers take Larder for: the URL's credentials, and where it has none those beside it, of which
    /// `password_file` holds `password`.
    pub fn login(&self, of_url: Login, password: Option<String>) -> Login {
        let beside = password.or_else(|| self.login.password.clone());
        let given = |text: &String| !text.is_empty();
        Login {
            user: of_url.user.or_else(|| self.login.user.clone()).filter(given),
            password: of_url.password.or(beside).filter(given),
        }
    }

    /// The URL without anything secret, for logs.
    pub fn redacted(&self) -> String {
        StoreUrl::read(&self.redis).map_or_else(|_| "(not a URL)".to_owned(), |url| url.to_string())
    }
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// `capacity` of L1, bytes, default 256MiB
    pub capacity: u64,
    /// `max_body`: the largest body stored, bytes, default 8MiB; a family may say otherwise
    pub max_body: u64,
    /// `marks`: slots for the marks of tags that nothing in memory carries, default 262144 (8 bytes each)
    pub marks: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `format`: text | json
    pub format: LogFormat,
    /// `access`: a line per request, default true
    pub access: bool,
    /// `level`: a tracing filter such as "info" or "larder=debug", default "info"
    pub level: String,
}

/// `[log] format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[cfg(test)]
mod tests;

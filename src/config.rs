//! Turns `rules.toml`, flags and environment into a checked [`Config`]. Reports every fault, each with file, line,
//! column, the faulty text and a remedy.
//!
//! [`Config::parse`] is pure; [`Config::load`] also reads the file. The upstream is optional, since `check` and
//! `explain` can do without; `serve` requires it.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};

use self::alerts::AlertsConfig;
pub use self::jwt::{JwtConfig, KeySource};
use self::store_url::{Login, StoreUrl};
use self::traces::TracesConfig;
use crate::access_log::AccessFormat;
use crate::http::headers::{Credentials, ForwardedPolicy};
use crate::http::target::PathCase;
use crate::network::Network;
use crate::rules::RuleSet;
use crate::rules::fault::{Fault, Faults, Source};
use crate::rules::pattern::Pattern;
use crate::rules::reader::{Env, Expansions, RulesReader, Table};
use crate::secret::Secret;

pub(crate) mod address;
pub mod admin;
pub mod alerts;
pub mod jwt;
pub mod lint;
pub mod purge;
pub mod schema;
pub mod store_url;
mod tables;
pub mod traces;
pub mod warm;

pub use admin::{AdminConfig, Role, Token, TokenSecret};
pub use purge::PurgeConfig;
pub use warm::WarmTable;

/// Largest rules file, in bytes.
pub const MAX_FILE: usize = 4 << 20;

/// The configuration of a running Larder.
#[derive(Debug)]
pub struct Config {
    pub server: ServerConfig,
    pub admin: AdminConfig,
    /// Who may send PURGE and BAN to the proxy; `None`: nobody, and they are forwarded as other writes are.
    pub purge: Option<PurgeConfig>,
    /// `None` for an embedded cache, in memory only.
    pub store: Option<StoreConfig>,
    pub memory: MemoryConfig,
    pub log: LogConfig,
    /// `None`: requests are not traced
    pub traces: Option<TracesConfig>,
    /// `None` if no family identifies callers by claims of bearer tokens.
    pub jwt: Option<JwtConfig>,
    pub alerts: AlertsConfig,
    pub rules: RuleSet,
    /// `[[warm]]`, in file order
    pub warm: Vec<WarmTable>,
    /// Path of the rules file, if any.
    pub file: Option<PathBuf>,
    /// MD5 of the file's content as read. The file watcher compares it with the current content.
    pub digest: Option<Digest>,
    /// The strings of the file that have variables of the environment.
    pub expansions: Expansions,
    /// The flags and variables that override the file, for a reload.
    pub overrides: Overrides,
}

/// Values of flags and of their `LARDER_…` variables. They override the file.
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
    /// `--namespace`; without effect unless Redis is configured
    pub namespace: Option<String>,
    /// `LARDER_ADMIN_TOKEN`: replaces the file's tokens of this role
    pub admin_token: Option<String>,
    /// `LARDER_VIEWER_TOKEN`: replaces the file's tokens of this role
    pub viewer_token: Option<String>,
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overrides { upstream, listen, admin, redis, namespace, admin_token, viewer_token } = self;
        // For passwords and tokens, only whether they are set.
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

/// Why loading failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: cannot read the rules file: {source}: {remedy}", .path.display())]
    Io { path: PathBuf, source: Arc<io::Error>, remedy: &'static str },
    /// The file or a flag has faults.
    #[error(transparent)]
    Faults(Faults),
}

/// MD5 of a rules file's content.
pub type Digest = [u8; 16];

/// MD5 of a rules file's content, to detect edits.
pub fn digest(content: &[u8]) -> Digest {
    Md5::digest(content).into()
}

/// Adds the names of the fields that differ. The pattern names every field, so that a new one cannot be forgotten.
macro_rules! differing {
    ($names:ident, $table:literal, $type:ident, $one:expr, $other:expr, [$($field:ident),+ $(,)?]) => {{
        let ($type { $($field),+ }, other) = ($one, $other);
        $(if *$field != other.$field {
            $names.push(concat!("[", $table, "] ", stringify!($field)));
        })+
    }};
}

/// `[admin]` of a rules file, at most 4 MiB, whatever faults the file has: what cannot be read has its default.
///
/// # Errors
///
/// The file cannot be read, or a flag or variable is faulty.
pub fn admin_of(file: Option<&Path>, overrides: &Overrides, env: &Env<'_>) -> Result<AdminConfig, LoadError> {
    let bytes = file.map(read).transpose()?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let (reader, table) = RulesReader::open("-", &text, env);
    let mut root = reader.root(&table);
    let mut flags = Vec::new();
    let server = tables::read_server(&mut root, overrides, &mut flags);
    let admin = admin::read_admin(&mut root, &server, overrides, &mut flags);
    if flags.is_empty() { Ok(admin) } else { Err(LoadError::Faults(Faults(flags))) }
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
        Config::check_permitting(None, path, bytes, overrides, env)
    }

    /// The same for a content that somebody sends who may not know the environment: variables in other strings than these are faults, and
    /// are not looked up.
    pub fn check_permitting(
        permitted: Option<&Expansions>,
        path: &Path,
        bytes: &[u8],
        overrides: &Overrides,
        env: &Env<'_>,
    ) -> Result<Config, LoadError> {
        let name = path.display().to_string();
        let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(&name, bytes, error.valid_up_to()))?;
        let config =
            Config::parse_permitting(permitted, text, &name, overrides, env).map_err(LoadError::Faults)?;
        Ok(Config { file: Some(path.to_owned()), digest: Some(digest(bytes)), ..config })
    }

    /// Checks the text of a rules file. `file_name` is its name in faults. Pure.
    pub fn parse(text: &str, file_name: &str, overrides: &Overrides, env: &Env<'_>) -> Result<Config, Faults> {
        Config::parse_permitting(None, text, file_name, overrides, env)
    }

    fn parse_permitting(
        permitted: Option<&Expansions>,
        text: &str,
        file_name: &str,
        overrides: &Overrides,
        env: &Env<'_>,
    ) -> Result<Config, Faults> {
        let (reader, table) = RulesReader::open(file_name, text, env);
        let reader = reader.permitting(permitted);
        let mut root = reader.root(&table);
        let (config, mut flags) = Config::read(&mut root, overrides);
        root.finish();
        let config = Config { expansions: reader.expansions(), ..config };
        flags.extend(reader.finish());
        if flags.is_empty() { Ok(config) } else { Err(Faults(flags)) }
    }

    /// Reads every table. Returns the faults of flags; those of the file go to its reader.
    fn read(root: &mut Table<'_>, overrides: &Overrides) -> (Config, Vec<Fault>) {
        let mut flags = Vec::new();
        let server = tables::read_server(root, overrides, &mut flags);
        let admin = admin::read_admin(root, &server, overrides, &mut flags);
        let mut rules = RuleSet::read(root, server.case_insensitive_paths);
        admin::check_scopes(root, &admin, &rules);
        tables::refuse_credentials_in_tags(root, &rules, &server.credential_headers);
        let is_compressed = rules.stated().iter().any(|family| family.compress == Some(true));
        let store = tables::read_store(root, (&server, is_compressed), overrides, &mut flags);
        let config = Config {
            warm: warm::read(root, &server, &mut rules),
            jwt: jwt::read_jwt(root, rules.identify_by_claims()),
            rules,
            alerts: alerts::read(root, store.is_some()),
            store,
            memory: tables::read_memory(root),
            log: tables::read_log(root),
            purge: purge::read_purge(root, &admin),
            traces: traces::read(root),
            server,
            admin,
            file: None,
            digest: None,
            expansions: Expansions::default(),
            overrides: overrides.clone(),
        };
        (config, flags)
    }

    /// Names of the changed settings that need a restart: all but the rules, `[[warm]]`, `[alerts]` and `[memory] max_body`.
    pub fn differs(&self, other: &Config) -> Vec<&'static str> {
        let mut names = Vec::new();
        differing!(
            names,
            "server",
            ServerConfig,
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
                max_rule_body,
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
        names.extend(self.admin.differs(&other.admin));
        if self.purge != other.purge {
            names.push("[purge]");
        }
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
                    version,
                    compress,
                    compress_above,
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
        match (&self.jwt, &other.jwt) {
            (Some(jwt), Some(other)) => differing!(
                names,
                "jwt",
                JwtConfig,
                jwt,
                JwtConfig { line: jwt.line, ..other.clone() },
                [keys, algorithms, audience, issuer, leeway, require_exp, jwks_refresh, line]
            ),
            (None, None) => {}
            _ => names.push("[jwt]"),
        }
        if let Some(jwt) = &other.jwt
            && let Some(keys) = names.iter_mut().find(|name| **name == "[jwt] keys")
        {
            *keys = jwt.keys.name();
        }
        let live = MemoryConfig { max_body: other.memory.max_body, ..self.memory.clone() };
        differing!(names, "memory", MemoryConfig, &live, &other.memory, [capacity, max_body, marks]);
        differing!(
            names,
            "log",
            LogConfig,
            &self.log,
            &other.log,
            [format, access, access_format, access_to, level]
        );
        match (&self.traces, &other.traces) {
            (Some(traces), Some(other)) => {
                differing!(names, "traces", TracesConfig, traces, other, [endpoint, sample, headers, service]);
            }
            (None, None) => {}
            _ => names.push("[traces]"),
        }
        names
    }
}

/// Reads a rules file, at most 4 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_bounded(path).map_err(|source| unreadable(path, source))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
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
    // The lossy text equals the original up to here, so the position is the same.
    let fault: Fault =
        Source::new(name, &text).fault(valid..valid + 1, "the file is not UTF-8 here", "save it as UTF-8");
    LoadError::Faults(Faults(vec![fault]))
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// `listen`, default 127.0.0.1:8080
    pub listen: SocketAddr,
    /// `upstream`, an http or https URL without path, query or credentials; required by `serve`
    pub upstream: Option<http::Uri>,
    /// `host`: the `Host` field that upstream receives
    pub host: HostPolicy,
    /// `forwarded`: set | append | off
    pub forwarded: ForwardedPolicy,
    /// `trusted_proxies`: with `append`, the networks of proxies in front whose forwarding fields are trusted;
    /// default none
    pub trusted_proxies: Vec<Network>,
    /// `connect_timeout`, default 2s
    pub connect_timeout: Duration,
    /// `upstream_timeout`: until the response head arrives, default 30s
    pub upstream_timeout: Duration,
    /// `reinvalidate_after`: delay of a second invalidation after a write that upstream did not answer; default
    /// `upstream_timeout`
    pub reinvalidate_after: Duration,
    /// `idle_timeout`: the longest pause of upstream in a body, or of a client that receives it, default 30s
    pub idle_timeout: Duration,
    /// `header_timeout`: for receiving a request head; also the keep-alive idle limit; default 30s
    pub header_timeout: Duration,
    /// `drain_timeout`: how long shutdown waits for active requests, default 30s
    pub drain_timeout: Duration,
    /// `max_connections` from clients; default 10000, or fewer if the limit of open files is lower
    pub max_connections: Option<usize>,
    /// `max_connections_per_client`, default a quarter of `max_connections`
    pub max_connections_per_client: Option<usize>,
    /// `max_streams_per_client`: HTTP/2 streams of one client over all its connections, default 1000. The limit for
    /// all clients together is four times as high
    pub max_streams_per_client: usize,
    /// `max_heads`: total size in bytes of request heads over 8 KiB while they are received, and over HTTP/2 until
    /// they are answered; default 16MiB. One client may use a quarter of it. An unfinished HTTP/2 head counts as
    /// `max_head`
    pub max_heads: u64,
    /// `max_upstream_requests`: concurrent requests, default 512. As many again may queue; further ones are refused
    pub max_upstream_requests: usize,
    /// `max_upstream_requests_per_client`: concurrent requests of one client, and as many queued; default a quarter,
    /// at least 1
    pub max_upstream_requests_per_client: usize,
    /// `max_unshared_per_client`: concurrent reads of one client that are neither cached nor coalesced, except
    /// streams; default a quarter of `max_upstream_requests`, at least 8
    pub max_unshared_per_client: u64,
    /// `max_upstream_streams`: concurrent streams, not counted as requests: event streams, upgraded connections, and
    /// responses in which upstream pauses for `stream_after`; default 1024, or as many as the limit of open files
    /// allows
    pub max_upstream_streams: usize,
    /// `max_upstream_streams_per_client`: concurrent streams of one client; default a quarter, at least 1
    pub max_upstream_streams_per_client: usize,
    /// `stream_after`: the pause of upstream after which an exchange counts as a stream, default 5s
    pub stream_after: Duration,
    /// `collapse_wait`: how long a request outside of families waits for another one's fetch if responses of its kind
    /// have not been shareable before; default 1s
    pub collapse_wait: Duration,
    /// `upgrades`: protocols that a connection may be upgraded to, in lower case; default `websocket`
    pub upgrades: Vec<String>,
    /// `stream_timeout`: the longest pause of an event stream or an upgraded connection, default 1h
    pub stream_timeout: Duration,
    /// `max_head`: the largest request or response head, in bytes, default 64KiB. A field line counts at least 32
    /// bytes
    pub max_head: usize,
    /// `max_query_body`: the largest content of a cacheable QUERY, in bytes, default 64KiB
    pub max_query_body: u64,
    /// `max_rule_body`: the largest content of a write, or of its response, that rules take values from, in bytes, default
    /// 64KiB
    pub max_rule_body: u64,
    /// `upload_rate`: the lowest average rate of a client's content over more than `idle_timeout`, in bytes per
    /// second; default 500, 0 for none
    pub upload_rate: u64,
    /// `download_rate`: the lowest average rate over more than `idle_timeout` at which a client receives a response
    /// that upstream is still sending, in bytes per second; default 500, 0 for none
    pub download_rate: u64,
    /// `on_incomplete`: ignore (the default) | invalidate
    pub on_incomplete: OnIncomplete,
    /// `login`: a pattern for the path of `Location`. A redirect to it means that upstream refused the write.
    /// Default: none
    pub login: Option<Pattern>,
    /// `underscores`: whether request fields with `_` in their names are forwarded; default false
    pub underscores: bool,
    /// `credential_headers`: request fields with credentials, in addition to the known ones; default none
    pub credential_headers: Credentials,
    /// `case_insensitive_paths`: whether upstream ignores the case of paths; default false
    pub case_insensitive_paths: PathCase,
    /// `upstream_keep_alive`: how long an idle connection to upstream is reused, default 4s; less if upstream says so
    /// (`Keep-Alive: timeout`)
    pub upstream_keep_alive: Duration,
    /// `resolver`: the DNS server that resolves upstream's name; default: the system's resolver
    pub resolver: Option<SocketAddr>,
    /// `cache_status`: the `Cache-Status` that clients receive
    pub cache_status: CacheStatus,
    /// `group_fields`: whether clients receive the fields that name groups (`Cache-Groups`, `Surrogate-Key`, …)
    pub group_fields: bool,
    /// `upstream_tls`: the table `[server.upstream_tls]`
    pub upstream_tls: UpstreamTls,
}

/// `[server.upstream_tls]`: TLS to upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// `ca`: PEM file with the certificate authorities for upstream's certificate; default: the system's
    pub ca: Option<PathBuf>,
    /// `cert` and `key`: PEM files with the client certificate and its key; default: none
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `server_name`: the name in upstream's certificate, also sent as SNI; default: the URL's host
    pub server_name: Option<String>,
}

impl ServerConfig {
    /// How to forward the client's address for requests from this peer: only trusted peers' fields are continued.
    pub fn forwarded_from(&self, peer: IpAddr) -> ForwardedPolicy {
        match self.forwarded {
            ForwardedPolicy::Append if !self.trusted_proxies.iter().any(|network| network.contains(peer)) => {
                ForwardedPolicy::Set
            }
            policy => policy,
        }
    }
}

/// `[server] on_incomplete`: how to treat a write that upstream received only in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnIncomplete {
    /// `"ignore"`: it did not happen (RFC 9112 §8).
    #[default]
    Ignore,
    /// `"invalidate"`: upstream may have acted on the received part.
    Invalidate,
}

/// `[server] cache_status` (RFC 9211)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheStatus {
    /// `"plain"`: the outcome
    #[default]
    Plain,
    /// `"key"`: the outcome and the cache key of the response
    Key,
    /// `"off"`: nothing is added; members from caches nearer to the origin stay
    Off,
}

/// `[server] host`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostPolicy {
    /// `"upstream"`: the host of the upstream URL
    Upstream,
    /// the same by default, since the URL is https and has a name
    UpstreamByDefault,
    /// `"client"`: the host that the client sent
    #[default]
    Client,
    /// any other string: this host
    Fixed(http::HeaderValue),
}

/// `[store]`
#[derive(Clone, PartialEq)]
pub struct StoreConfig {
    /// `redis`: the URL of a server, a cluster, or sentinels; see [`store_url`]
    pub redis: String,
    /// `username` and `password`, if the URL has none; not percent-encoded. Default: none
    pub login: Login,
    /// `password_file`: a file with the password; a trailing line break is removed; default: none
    pub password_file: Option<PathBuf>,
    /// `tls_ca`: PEM file with the certificate authorities for the server's certificate; default: the system's
    pub tls_ca: Option<PathBuf>,
    /// `tls_cert` and `tls_key`: PEM files with the client certificate and its key; default: none
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// `namespace`: 1 to 64 of [A-Za-z0-9_.-], default "larder"
    pub namespace: String,
    /// `version`: a part of every cache key; 1 to 64 of [A-Za-z0-9_.-], default: none
    pub version: Option<String>,
    /// `compress`: whether bodies in Redis are compressed with zstd, where the family does not say; default false
    pub compress: bool,
    /// `compress_above`: bytes up to which a body is not compressed, default 1KiB
    pub compress_above: usize,
    /// `timeout`: how long a request waits for Redis, default 100ms
    pub timeout: Duration,
    /// `connect_timeout`, default 500ms
    pub connect_timeout: Duration,
    /// `marks_max`: marks in Redis before the oldest are removed and the floor rises, default 4000000
    pub marks_max: u64,
    /// `coherence`: lease (the default) | strict | eventual
    pub coherence: Coherence,
    /// `lease`: how long a proxy serves from memory after a reply from Redis, and the longest that a write waits for
    /// another proxy; 100ms to 1m, default 1s
    pub lease: Duration,
    /// `on_outage`: forward (the default) | refuse
    pub on_outage: OnOutage,
    /// `wait_replicas`: Redis replicas that must confirm an invalidation before the write is answered; 0 to 100,
    /// default 0
    pub wait_replicas: u64,
    /// `collapse_timeout`: how long a proxy waits for another proxy's fetch in families with `collapse = "fleet"`;
    /// 100ms to 1m, default 5s, at most `upstream_timeout`
    pub collapse_timeout: Duration,
    /// `sweep_rate`: keys per second that the sweeper checks, at most 1000000, default 1000; 0 disables it
    pub sweep_rate: u64,
    /// `sweep_pause`: pause between two sweeps; 1s to 1d, default 1m
    pub sweep_pause: Duration,
    /// `secret`: keys the checksums of entries and the HMACs of credentials in cache keys; at least 16 bytes, from
    /// the environment; default: none
    pub secret: Option<String>,
}

/// `[store] coherence`: what a hit checks, and what a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coherence {
    /// Hits are served from memory under a lease; a write waits until every proxy has its invalidation.
    #[default]
    Lease,
    /// Every hit checks Redis.
    Strict,
    /// Like `Lease`, but writes do not wait: another proxy may serve what they invalidated for up to a lease.
    Eventual,
}

/// `[store] on_outage`: how to treat writes while Redis is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOutage {
    /// Forward them, and store their invalidations in Redis when it is back.
    #[default]
    Forward,
    /// Refuse them with 503.
    Refuse,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        write!(f, "StoreConfig({}, namespace {:?})", self.redacted(), self.namespace)
    }
}

impl StoreConfig {
    /// The keys derived from `secret`.
    pub fn secret(&self) -> Option<Secret> {
        self.secret.as_ref().map(|secret| Secret::new(secret, &self.namespace))
    }

    /// The login for the servers: the URL's credentials or, if it has none, the configured ones. Reads
    /// `password_file`.
    pub fn login(&self, of_url: Login, password: Option<String>) -> Login {
        let beside = password.or_else(|| self.login.password.clone());
        let given = |text: &String| !text.is_empty();
        Login {
            user: of_url.user.or_else(|| self.login.user.clone()).filter(given),
            password: of_url.password.or(beside).filter(given),
        }
    }

    /// The URL without secrets, for logs.
    pub fn redacted(&self) -> String {
        StoreUrl::read(&self.redis).map_or_else(|_| "(not a URL)".to_owned(), |url| url.to_string())
    }
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// `capacity` of L1 in bytes, default 256MiB
    pub capacity: u64,
    /// `max_body`: the largest stored body in bytes, default 8MiB; a family can override it
    pub max_body: u64,
    /// `marks`: slots for the marks of tags that no entry in memory carries, default 262144 (8 bytes each)
    pub marks: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`: text | json
    pub format: LogFormat,
    /// `access`: log a line per request, default true
    pub access: bool,
    /// `access_format`: text | json | combined, of these lines; default: `format`
    pub access_format: Option<AccessFormat>,
    /// `access_to`: stderr | stdout, default stderr
    pub access_to: AccessOutput,
    /// `level`: a tracing filter such as "info" or "larder=debug", default "info"
    pub level: String,
}

/// `[log] access_to`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessOutput {
    /// With the other lines.
    #[default]
    Stderr,
    Stdout,
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

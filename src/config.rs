//! `rules.toml`, flags and environment -> [`Config`]. Reports every fault, not only the first, each with file,
//! line, column, the offending text and the remedy. What comes out is checked; nothing inside asks again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::headers::ForwardedPolicy;
use crate::rules::RuleSet;

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
    pub overrides: Overrides,
}
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub upstream: Option<String>,
    pub listen: Option<String>,
    pub admin: Option<String>,
    pub redis: Option<String>,
    pub namespace: Option<String>,
    pub admin_token: Option<String>,
    pub viewer_token: Option<String>,
}
#[derive(Debug, Clone, thiserror::Error)]
#[error("x")]
pub struct LoadError;
impl Config {
    pub fn load(
        _f: Option<&std::path::Path>,
        o: &Overrides,
        _e: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, LoadError> {
        let s = Duration::from_secs;
        Ok(Config {
            server: Server {
                listen: o.listen.as_deref().unwrap_or("127.0.0.1:8080").parse().unwrap(),
                upstream: o.upstream.as_ref().map(|u| u.parse().unwrap()),
                host: HostPolicy::Upstream,
                forwarded: ForwardedPolicy::Set,
                connect_timeout: s(2),
                upstream_timeout: s(30),
                idle_timeout: s(30),
                header_timeout: s(30),
                drain_timeout: s(30),
                max_connections: 10000,
                max_upstream_requests: 512,
            },
            admin: Admin {
                listen: o.admin.as_deref().unwrap_or("127.0.0.1:9090").parse().unwrap(),
                tokens: vec![],
            },
            store: o.redis.as_ref().map(|r| StoreConfig {
                redis: r.clone(),
                namespace: o.namespace.clone().unwrap_or("larder".into()),
                timeout: Duration::from_millis(100),
                connect_timeout: Duration::from_millis(500),
                marks_max: 1000000,
            }),
            memory: Memory { capacity: 256 << 20, max_body: 8 << 20, marks: 1 << 18 },
            log: Log { format: LogFormat::Text, access: std::env::var("ACCESS").is_ok(), level: "info".into() },
            rules: RuleSet::default(),
            file: None,
            overrides: o.clone(),
        })
    }
    pub fn parse(
        _t: &str,
        _f: &str,
        _o: &Overrides,
        _e: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, LoadError> {
        todo!()
    }
    pub fn differs(&self, _o: &Config) -> Vec<&'static str> {
        todo!()
    }
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// `listen`, default 127.0.0.1:8080
    pub listen: SocketAddr,
    /// `upstream`, an http or https URL without path, query or credentials; required
    pub upstream: Option<http::Uri>,
    /// `host`: what upstream is told in `Host`
    pub host: HostPolicy,
    /// `forwarded`: set | append | off
    pub forwarded: ForwardedPolicy,
    /// `connect_timeout`, default 2s
    pub connect_timeout: Duration,
    /// `upstream_timeout`: until the head of the answer, default 30s
    pub upstream_timeout: Duration,
    /// `idle_timeout`: the longest silence in an upstream body, default 30s
    pub idle_timeout: Duration,
    /// `header_timeout`: for a client to send a request head; also its keep-alive idle limit; default 30s
    pub header_timeout: Duration,
    /// `drain_timeout`: how long shutdown waits for what runs, default 30s
    pub drain_timeout: Duration,
    /// `max_connections` from clients, default 10000
    pub max_connections: usize,
    /// `max_upstream_requests` at a time, default 512; further ones wait
    pub max_upstream_requests: usize,
}

/// `[server] host`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostPolicy {
    /// `"upstream"`: the host of the upstream URL
    #[default]
    Upstream,
    /// `"client"`: what the client sent
    Client,
    /// any other string: this host
    Fixed(http::HeaderValue),
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `listen`, default 127.0.0.1:9090. Without tokens a non-loopback address becomes the loopback address.
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

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    /// `redis`: redis:// or rediss:// URL with optional user, password and database number
    pub redis: String,
    /// `namespace`, default "larder"; 1 to 64 of [A-Za-z0-9_.-]
    pub namespace: String,
    /// `timeout`: the longest any request waits for Redis, default 100ms
    pub timeout: Duration,
    /// `connect_timeout`, default 500ms
    pub connect_timeout: Duration,
    /// `marks_max`: marks kept in Redis before the oldest go and the floor rises, default 1000000
    pub marks_max: u64,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        write!(f, "StoreConfig({}, namespace {:?})", self.redacted(), self.namespace)
    }
}

impl StoreConfig {
    /// The URL without user and password, for logs.
    pub fn redacted(&self) -> String {
        match self.redis.split_once("://") {
            Some((scheme, rest)) => {
                format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, after)| after))
            }
            None => "(not a URL)".to_owned(),
        }
    }
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// `capacity` of L1, bytes, default 256MiB
    pub capacity: u64,
    /// `max_body`: the largest body stored, bytes, default 8MiB; a family may say otherwise
    pub max_body: u64,
    /// `marks`: slots of the marks table, default 262144 (8 bytes each)
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

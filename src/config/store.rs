//! `[store]`: the Redis that proxies share, and what they promise each other.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, InvalidValue};
use super::fields::{flag, passed, read_tls_files, section, set, text_passing};
use super::store_url::{Login, StoreUrl};
use super::{Overrides, ServerConfig};
use crate::rules::family::read::{read_compress, read_version};
use crate::rules::fault::Fault;
use crate::rules::reader::{Item, Table};
use crate::secret::Secret;
use crate::words::words;

/// Every request may wait this long for Redis; more would be an outage of its own.
const STORE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Below, proxies would renew constantly; above, a stopped proxy would delay writes for too long.
const LEASE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Below, hardly any fetch finishes in time; above, a stopped proxy would delay too many readers.
const COLLAPSE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Below, the sweeper would hardly pause; above, it would hardly run.
const SWEEP_PAUSE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

settings! {
"store":
/// `[store]`
#[derive(Clone, PartialEq)]
pub struct StoreConfig {
    /// `redis`: the URL of a server, a cluster, or sentinels; see [`super::store_url`]
    pub redis: String = String::new(),
    /// `username` and `password`, if the URL has none; not percent-encoded. Default: none
    pub login: Login = Login::default(),
    /// `password_file`: a file with the password; a trailing line break is removed; default: none
    pub password_file: Option<PathBuf> = None,
    /// `tls_ca`: PEM file with the certificate authorities for the server's certificate; default: the system's
    pub tls_ca: Option<PathBuf> = None,
    /// `tls_cert` and `tls_key`: PEM files with the client certificate and its key; default: none
    pub tls_identity: Option<(PathBuf, PathBuf)> = None,
    /// `namespace`: 1 to 64 of [A-Za-z0-9_.-], default "larder"
    pub namespace: String = "larder".to_owned(),
    /// `version`: a part of every cache key; 1 to 64 of [A-Za-z0-9_.-], default: none
    pub version: Option<String> = None,
    /// `compress`: whether bodies in Redis are compressed with zstd, where the family does not say; default false
    pub compress: bool = false,
    /// `compress_above`: bytes up to which a body is not compressed, default 1KiB
    pub compress_above: usize = 1 << 10,
    /// `timeout`: how long a request waits for Redis, default 100ms
    pub timeout: Duration = Duration::from_millis(100),
    /// `connect_timeout`, default 500ms
    pub connect_timeout: Duration = Duration::from_millis(500),
    /// `marks_max`: marks in Redis before the oldest are removed and the floor rises, default 4000000
    pub marks_max: u64 = 4_000_000,
    /// `coherence`: lease (the default) | strict | eventual
    pub coherence: Coherence = Coherence::default(),
    /// `lease`: how long a proxy serves from memory after a reply from Redis, and the longest that a write waits for
    /// another proxy; 100ms to 1m, default 1s
    pub lease: Duration = Duration::from_secs(1),
    /// `on_outage`: forward (the default) | refuse
    pub on_outage: OnOutage = OnOutage::default(),
    /// `wait_replicas`: Redis replicas that must confirm an invalidation before the write is answered; 0 to 100,
    /// default 0
    pub wait_replicas: u64 = 0,
    /// `collapse_timeout`: how long a proxy waits for another proxy's fetch in families with `collapse = "fleet"`;
    /// 100ms to 1m, default 5s, at most `upstream_timeout`
    pub collapse_timeout: Duration = Duration::from_secs(5),
    /// `sweep_rate`: keys per second that the sweeper checks, at most 1000000, default 1000; 0 disables it
    pub sweep_rate: u64 = 1000,
    /// `sweep_pause`: pause between two sweeps; 1s to 1d, default 1m
    pub sweep_pause: Duration = Duration::from_secs(60),
    /// `secret`: keys the checksums of entries and the HMACs of credentials in cache keys; at least 16 bytes, from
    /// the environment; default: none
    pub secret: Option<String> = None,
}
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

words! {
/// `[store] coherence`: what a hit checks, and what a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coherence {
    /// Hits are served from memory under a lease; a write waits until every proxy has its invalidation.
    #[default]
    Lease = "lease",
    /// Every hit checks Redis.
    Strict = "strict",
    /// Like `Lease`, but writes do not wait: another proxy may serve what they invalidated for up to a lease.
    Eventual = "eventual",
}
}

words! {
/// `[store] on_outage`: how to treat writes while Redis is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOutage {
    /// Forward them, and store their invalidations in Redis when it is back.
    #[default]
    Forward = "forward",
    /// Refuse them with 503.
    Refuse = "refuse",
}
}

/// `[store]`; `None` if neither file nor flags name a Redis.
pub fn read_store(
    root: &mut Table<'_>,
    (server, is_compressed): (&ServerConfig, bool),
    overrides: &Overrides,
    flags: &mut Vec<Fault>,
) -> Option<StoreConfig> {
    let usual = StoreConfig::default();
    let mut store = StoreConfig { collapse_timeout: usual.collapse_timeout.min(server.upstream_timeout), ..usual };
    let flagged = overrides.redis.is_some();
    let mut tls = None;
    if let Some(mut table) = section(root, "store") {
        // With --redis, the table may omit the URL.
        let remedy = "write redis = \"redis://…\", or remove the table to keep entries in memory only";
        let url = if flagged { table.item("redis") } else { table.required("redis", remedy) };
        set(&mut store.redis, url.and_then(|item| text_passing(&item, store_url)));
        read_login(&mut table, &mut store);
        let namespace = table.read("namespace", |item| text_passing(&item, address::namespace));
        set(&mut store.namespace, namespace);
        store.version = table.read("version", |item| read_version(&item));
        set(&mut store.compress, table.read("compress", |item| read_compress(&item)));
        let asked = table.item("compress_above");
        let above = asked.as_ref().and_then(|item| item.size(&(64..=1 << 20)));
        // The sample shows the default.
        let is_default = above.is_none_or(|above| above == store.compress_above);
        if let Some(item) = asked.filter(|_| !is_default && !store.compress && !is_compressed) {
            item.fault("has no effect with compress = \"off\"", "write compress = \"zstd\", or remove it");
        }
        set(&mut store.compress_above, above);
        set(&mut store.timeout, table.read("timeout", |item| item.duration(&STORE_TIMEOUT)));
        let connect = table.read("connect_timeout", |item| item.duration(&STORE_TIMEOUT));
        set(&mut store.connect_timeout, connect);
        let marks = table.read("marks_max", |item| item.integer(&(1024..=1_000_000_000)));
        set(&mut store.marks_max, marks);
        (store.tls_ca, store.tls_identity, tls) = read_tls_files(&mut table, ["tls_ca", "tls_cert", "tls_key"]);
        read_promises(&mut table, &mut store);
        set(&mut store.collapse_timeout, read_collapse_timeout(&mut table, server));
        let rate = table.read("sweep_rate", |item| item.integer(&(0..=1_000_000)));
        set(&mut store.sweep_rate, rate);
        set(&mut store.sweep_pause, table.read("sweep_pause", |item| item.duration(&SWEEP_PAUSE)));
        store.secret = table.read("secret", |item| read_secret(&item));
        table.finish();
    }
    if flag("--redis", overrides.redis.as_deref(), store_url, flags).is_some() {
        store.redis = overrides.redis.as_deref().unwrap_or_default().trim().to_owned();
    }
    if let Some(item) = tls.filter(|_| StoreUrl::read(&store.redis).is_ok_and(|url| !url.is_tls())) {
        item.fault(
            "is of no use with this URL, which is without TLS",
            "write rediss:// instead of redis://, or remove it",
        );
    }
    if flag("--namespace", overrides.namespace.as_deref(), address::namespace, flags).is_some() {
        store.namespace = overrides.namespace.clone().unwrap_or_default();
    }
    (!store.redis.is_empty()).then_some(store)
}

/// Credentials outside of the URL. Empty ones count as none.
fn read_login(table: &mut Table<'_>, store: &mut StoreConfig) {
    let of_url = StoreUrl::read(&store.redis).map(|url| url.login).unwrap_or_default();
    let [user, password] = ["username", "password"].map(|key| table.item(key));
    let text =
        |item: &Option<Item<'_>>| item.as_ref()?.text().map(|text| text.value).filter(|text| !text.is_empty());
    store.login = Login { user: text(&user), password: text(&password) };
    let file = table.item("password_file");
    store.password_file = file.as_ref().and_then(Item::filled).map(|text| PathBuf::from(text.value));
    let twice = "is also in the URL";
    if let Some(item) = user.filter(|_| of_url.user.is_some()) {
        item.fault(twice, "remove one of them");
    }
    if let Some(item) = file.as_ref().filter(|_| password.is_some()) {
        item.fault("is set in addition to a password", "remove one of them");
    } else if let Some(item) = password.or(file).filter(|_| of_url.password.is_some()) {
        item.fault(twice, "remove one of them");
    }
}

fn read_secret(item: &Item<'_>) -> Option<String> {
    let text = item.secret("LARDER_SECRET")?;
    if text.value.trim().is_empty() {
        return text.refuse("is empty", "set its variable");
    }
    passed(&text, address::secret)?;
    Some(text.value)
}

/// The settings for coherence.
fn read_promises(table: &mut Table<'_>, store: &mut StoreConfig) {
    set(&mut store.coherence, table.read("coherence", |item| item.choice(Coherence::WORDS)));
    set(&mut store.lease, table.read("lease", |item| item.duration(&LEASE)));
    set(&mut store.on_outage, table.read("on_outage", |item| item.choice(OnOutage::WORDS)));
    set(&mut store.wait_replicas, table.read("wait_replicas", |item| item.integer(&(0..=100))));
}

fn read_collapse_timeout(table: &mut Table<'_>, server: &ServerConfig) -> Option<Duration> {
    let item = table.item("collapse_timeout")?;
    let limit = item.duration(&COLLAPSE)?;
    if limit > server.upstream_timeout {
        let upstream = humantime::format_duration(server.upstream_timeout);
        let message = format!("is longer than [server] upstream_timeout ({upstream}): no fetch takes that long");
        return item.refuse(message, "lower it, or raise upstream_timeout");
    }
    Some(limit)
}

fn store_url(text: &str) -> Result<(), InvalidValue> {
    StoreUrl::read(text).map(|_| ())
}

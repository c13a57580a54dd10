//! Reads the tables with settings: `[server]`, `[admin]`, `[store]`, `[memory]`, `[log]`. Flags override them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::address::{self, InvalidValue};
use super::store_url::{Login, StoreUrl};
use super::{
    AccessOutput, AdminConfig, CacheStatus, Coherence, HostPolicy, LogConfig, LogFormat, MemoryConfig,
    OnIncomplete, OnOutage, Overrides, ServerConfig, StoreConfig, UpstreamTls,
};
use crate::access_log::AccessFormat;
use crate::http::headers::{Credentials, ForwardedPolicy};
use crate::http::target::PathCase;
use crate::network::Network;
use crate::rules::RuleSet;
use crate::rules::family::read::{compile, read_compress, read_headers, read_version};
use crate::rules::fault::Fault;
use crate::rules::nearest::{did_you_mean, nearest};
use crate::rules::reader::{Item, Table, Text};
use crate::shares::Shares;

/// Time limits are never zero: everything would time out.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
/// Every request may wait this long for Redis; more would be an outage of its own.
const STORE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Below, proxies would renew constantly; above, a stopped proxy would delay writes for too long.
const LEASE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Below, hardly any fetch finishes in time; above, a stopped proxy would delay too many readers.
const COLLAPSE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Zero: do not wait unless responses were shareable before.
const COLLAPSE_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Below, the sweeper would hardly pause; above, it would hardly run.
const SWEEP_PAUSE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const COUNT: RangeInclusive<u64> = 1..=1_000_000;

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            upstream: None,
            host: HostPolicy::default(),
            forwarded: ForwardedPolicy::default(),
            trusted_proxies: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            upstream_timeout: Duration::from_secs(30),
            reinvalidate_after: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            max_connections: None,
            max_connections_per_client: None,
            max_streams_per_client: 1000,
            max_heads: 16 << 20,
            max_upstream_requests: 512,
            max_upstream_requests_per_client: 128,
            max_unshared_per_client: 128,
            max_upstream_streams: 1024,
            max_upstream_streams_per_client: 256,
            stream_after: Duration::from_secs(5),
            collapse_wait: Duration::from_secs(1),
            upgrades: vec!["websocket".to_owned()],
            stream_timeout: Duration::from_secs(3600),
            max_head: 64 << 10,
            max_query_body: 64 << 10,
            max_rule_body: 64 << 10,
            upload_rate: 500,
            download_rate: 500,
            on_incomplete: OnIncomplete::default(),
            login: None,
            underscores: false,
            credential_headers: Credentials::default(),
            case_insensitive_paths: PathCase::default(),
            upstream_keep_alive: Duration::from_secs(4),
            resolver: None,
            cache_status: CacheStatus::default(),
            group_fields: false,
            upstream_tls: UpstreamTls::default(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            tokens: Vec::new(),
            tokens_line: 1,
            hosts: Vec::new(),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> MemoryConfig {
        MemoryConfig { capacity: 256 << 20, max_body: 8 << 20, marks: 1 << 18 }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            format: LogFormat::Text,
            access: true,
            access_format: None,
            access_to: AccessOutput::default(),
            level: "info".to_owned(),
        }
    }
}

impl LogConfig {
    /// Whether `level` leaves out the access log, whose lines have the level info.
    pub fn leaves_out_access(&self) -> bool {
        let filter = EnvFilter::builder().parse(&self.level);
        filter.is_ok_and(|filter| filter.max_level_hint().is_some_and(|most| most < LevelFilter::INFO))
    }
}

/// `[server]`
pub fn read_server(root: &mut Table<'_>, overrides: &Overrides, flags: &mut Vec<Fault>) -> ServerConfig {
    let (mut server, mut policy, mut tls) = (ServerConfig::default(), None, None);
    if let Some(mut table) = section(root, "server") {
        set(&mut server.listen, table.item("listen").and_then(|item| checked(&item, address::listen)));
        server.upstream = table.item("upstream").and_then(|item| checked(&item, address::upstream));
        policy = table.item("host").and_then(|item| checked(&item, host));
        let words =
            [("set", ForwardedPolicy::Set), ("append", ForwardedPolicy::Append), ("off", ForwardedPolicy::Off)];
        let forwarded = table.item("forwarded");
        set(&mut server.forwarded, forwarded.as_ref().and_then(|item| item.choice(&words)));
        let trusted = table.item("trusted_proxies");
        set(&mut server.trusted_proxies, trusted.as_ref().and_then(read_networks));
        match (server.forwarded, forwarded, trusted) {
            (ForwardedPolicy::Append, Some(forwarded), None) => forwarded.fault(
                "is \"append\", but there are no trusted proxies",
                "add trusted_proxies = [\"10.0.0.0/8\"], the networks of the balancers in front",
            ),
            (ForwardedPolicy::Set | ForwardedPolicy::Off, _, Some(trusted))
                if !server.trusted_proxies.is_empty() =>
            {
                trusted.fault("has no effect without forwarded = \"append\"", "add that, or remove it");
            }
            _ => {}
        }
        let mut timeout = |key, field: &mut Duration| {
            set(field, table.item(key).and_then(|item| item.duration(&TIMEOUT)));
        };
        timeout("connect_timeout", &mut server.connect_timeout);
        timeout("upstream_timeout", &mut server.upstream_timeout);
        server.reinvalidate_after = server.upstream_timeout;
        timeout("reinvalidate_after", &mut server.reinvalidate_after);
        timeout("idle_timeout", &mut server.idle_timeout);
        timeout("header_timeout", &mut server.header_timeout);
        timeout("drain_timeout", &mut server.drain_timeout);
        timeout("stream_after", &mut server.stream_after);
        timeout("stream_timeout", &mut server.stream_timeout);
        timeout("upstream_keep_alive", &mut server.upstream_keep_alive);
        set(&mut server.underscores, table.item("underscores").and_then(|item| item.boolean()));
        let credentials = table.item("credential_headers").and_then(|item| read_headers(&item));
        set(&mut server.credential_headers, credentials.map(Credentials::and));
        let is_insensitive = table.item("case_insensitive_paths").and_then(|item| item.boolean());
        let case = if is_insensitive == Some(true) { PathCase::Insensitive } else { PathCase::Sensitive };
        server.case_insensitive_paths = case;
        server.resolver = table.item("resolver").and_then(|item| checked(&item, address::resolver));
        (server.max_upstream_requests, server.max_upstream_requests_per_client) = shared(
            &mut table,
            ["max_upstream_requests", "max_upstream_requests_per_client"],
            server.max_upstream_requests,
        );
        server.max_unshared_per_client = usual_unshared(server.max_upstream_requests);
        let unshared = table.item("max_unshared_per_client").and_then(|item| item.integer(&COUNT));
        set(&mut server.max_unshared_per_client, unshared);
        (server.max_upstream_streams, server.max_upstream_streams_per_client) = shared(
            &mut table,
            ["max_upstream_streams", "max_upstream_streams_per_client"],
            server.max_upstream_streams,
        );
        set(&mut server.collapse_wait, table.item("collapse_wait").and_then(|item| item.duration(&COLLAPSE_WAIT)));
        set(&mut server.upgrades, table.item("upgrades").and_then(|item| read_upgrades(&item)));
        let head = table.item("max_head").and_then(|item| item.size(&(8192..=1 << 20)));
        set(&mut server.max_head, head.and_then(|size| usize::try_from(size).ok()));
        read_clients(&mut table, &mut server);
        let query = table.item("max_query_body").and_then(|item| item.size(&(0..=16 << 20)));
        set(&mut server.max_query_body, query);
        set(
            &mut server.max_rule_body,
            table.item("max_rule_body").and_then(|item| item.size(&(1 << 10..=1 << 20))),
        );
        for (key, field) in
            [("upload_rate", &mut server.upload_rate), ("download_rate", &mut server.download_rate)]
        {
            set(field, table.item(key).and_then(|item| item.size(&(0..=1 << 30))));
        }
        let words = [("ignore", OnIncomplete::Ignore), ("invalidate", OnIncomplete::Invalidate)];
        set(&mut server.on_incomplete, table.item("on_incomplete").and_then(|item| item.choice(&words)));
        let login = table.item("login").and_then(|item| item.text()).filter(|login| !login.value.is_empty());
        server.login = login.and_then(|login| compile(&login, case));
        let words = [("plain", CacheStatus::Plain), ("key", CacheStatus::Key), ("off", CacheStatus::Off)];
        set(&mut server.cache_status, table.item("cache_status").and_then(|item| item.choice(&words)));
        let words = [("remove", false), ("keep", true)];
        set(&mut server.group_fields, table.item("group_fields").and_then(|item| item.choice(&words)));
        tls = table.item("upstream_tls");
        set(&mut server.upstream_tls, tls.as_ref().and_then(read_upstream_tls));
        table.finish();
    }
    set(&mut server.listen, flag("--listen", overrides.listen.as_deref(), address::listen, flags));
    if let Some(upstream) = flag("--upstream", overrides.upstream.as_deref(), address::upstream, flags) {
        server.upstream = Some(upstream);
    }
    server.host = policy.unwrap_or_else(|| usual_host(server.upstream.as_ref()));
    let is_plain = server.upstream.as_ref().is_some_and(|upstream| upstream.scheme_str() == Some("http"));
    if let Some(item) = tls.filter(|_| is_plain) {
        item.fault(
            "is of no use with this upstream, which is without TLS",
            "write upstream = \"https://…\", or remove it",
        );
    }
    server
}

/// Refuses instances from the fields of `credential_headers`: their values would stand in tags.
pub fn refuse_credentials_in_tags(root: &mut Table<'_>, rules: &RuleSet, credentials: &Credentials) {
    for family in rules.families() {
        let names = family.instances.iter().filter_map(|further| further.source.field());
        for name in names.filter(|name| credentials.further().contains(name)) {
            let tables = root.item("family").and_then(|item| item.list()).unwrap_or_default();
            let place = tables.get(family.id).map_or_else(|| root.span(), Item::span);
            let message = format!(
                "family {:?}: instance: {name} has credentials (credential_headers), which tags would show",
                family.name
            );
            let remedy = format!("write \"identity\", with identity = \"header:{name}\", which hides it");
            root.reader().fault(place, message, remedy);
        }
    }
    for rule in rules.invalidations() {
        for name in rule.fields_of_tags().filter(|name| credentials.further().contains(name)) {
            let message = format!(
                "invalidation {:?} (line {}): {{header.{name}}} takes credentials (credential_headers), which tags would show",
                rule.path, rule.line
            );
            let remedy =
                format!("write {{identity}}, for a family with identity = \"header:{name}\": it hides them");
            root.reader().fault(root.span(), message, remedy);
        }
    }
}

/// APIs build links from the client's host, so it is the default. An https upstream with a name has a certificate for
/// that name, and often serves several names, so it receives its own.
fn usual_host(upstream: Option<&Uri>) -> HostPolicy {
    let is_by_name = |url: &&Uri| {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        url.scheme_str() == Some("https") && host.parse::<IpAddr>().is_err()
    };
    upstream.filter(is_by_name).map_or(HostPolicy::Client, |_| HostPolicy::UpstreamByDefault)
}

/// `[server.upstream_tls]`
fn read_upstream_tls(item: &Item<'_>) -> Option<UpstreamTls> {
    let mut table = item.table()?;
    table.rename("[server.upstream_tls]".to_owned());
    let (ca, identity, _) = read_files(&mut table, ["ca", "cert", "key"]);
    let name = table.item("server_name");
    let server_name = name.and_then(|item| text_passing(&item, address::server_name));
    table.finish();
    Some(UpstreamTls { ca, identity, server_name })
}

/// The settings of `[server]` that limit clients.
fn read_clients(table: &mut Table<'_>, server: &mut ServerConfig) {
    server.max_connections = table.item("max_connections").and_then(|item| count(&item, &COUNT));
    if let Some(item) = table.item("max_connections_per_client") {
        server.max_connections_per_client = count(&item, &COUNT);
        let total = server.max_connections.unwrap_or(1_000_000);
        if server.max_connections_per_client.is_some_and(|share| share > total) {
            item.fault(
                "is more than max_connections, which no client can have",
                "lower it, or raise max_connections",
            );
        }
    }
    let streams = table.item("max_streams_per_client").and_then(|item| count(&item, &COUNT));
    set(&mut server.max_streams_per_client, streams);
    let heads = table.item("max_heads");
    let sum = heads.as_ref().and_then(|item| item.size(&(256 << 10..=1 << 40)));
    set(&mut server.max_heads, sum);
    if let Some(item) = heads.filter(|_| sum.is_some_and(|sum| sum / 4 < server.max_head as u64)) {
        item.fault(
            "is less than four times max_head: no client could send the largest head",
            "raise it, or lower max_head",
        );
    }
}

/// A limit for all clients together, and each client's share of it.
fn shared(table: &mut Table<'_>, [total, per_client]: [&'static str; 2], usual: usize) -> (usize, usize) {
    let most = table.item(total).and_then(|item| count(&item, &COUNT)).unwrap_or(usual);
    let item = table.item(per_client);
    let share = item.as_ref().and_then(|item| count(item, &COUNT));
    if let (Some(item), Some(share)) = (&item, share)
        && share > most
    {
        item.fault(
            format!("is more than {total} ({most}): no client could have that many"),
            format!("lower it, or raise {total}"),
        );
    }
    (most, share.unwrap_or_else(|| usize::try_from(Shares::usual(most as u64)).unwrap_or(most)))
}

/// One client's share of reads that are neither cached nor coalesced.
fn usual_unshared(max_upstream_requests: usize) -> u64 {
    Shares::usual(max_upstream_requests as u64).max(8)
}

fn read_networks(item: &Item<'_>) -> Option<Vec<Network>> {
    Some(item.texts()?.iter().filter_map(|text| passed(text, address::network)).collect())
}

/// Protocols (RFC 9110 §7.8) in lower case, in which Larder compares them.
fn read_upgrades(item: &Item<'_>) -> Option<Vec<String>> {
    let protocols = item.texts()?;
    Some(protocols.iter().filter_map(|text| passed(text, address::protocol)).collect())
}

/// `[store]`; `None` if neither file nor flags name a Redis.
pub fn read_store(
    root: &mut Table<'_>,
    (server, is_compressed): (&ServerConfig, bool),
    overrides: &Overrides,
    flags: &mut Vec<Fault>,
) -> Option<StoreConfig> {
    let mut store = StoreConfig {
        redis: String::new(),
        login: Login::default(),
        password_file: None,
        tls_ca: None,
        tls_identity: None,
        namespace: "larder".to_owned(),
        version: None,
        compress: false,
        compress_above: 1 << 10,
        timeout: Duration::from_millis(100),
        connect_timeout: Duration::from_millis(500),
        marks_max: 4_000_000,
        coherence: Coherence::default(),
        lease: Duration::from_secs(1),
        on_outage: OnOutage::default(),
        wait_replicas: 0,
        collapse_timeout: Duration::from_secs(5).min(server.upstream_timeout),
        sweep_rate: 1000,
        sweep_pause: Duration::from_secs(60),
        secret: None,
    };
    let flagged = overrides.redis.is_some();
    let mut tls = None;
    if let Some(mut table) = section(root, "store") {
        // With --redis, the table may omit the URL.
        let remedy = "write redis = \"redis://…\", or remove the table to keep entries in memory only";
        let url = if flagged { table.item("redis") } else { table.required("redis", remedy) };
        set(&mut store.redis, url.and_then(|item| text_passing(&item, store_url)));
        read_login(&mut table, &mut store);
        let namespace = table.item("namespace").and_then(|item| text_passing(&item, address::namespace));
        set(&mut store.namespace, namespace);
        store.version = table.item("version").and_then(|item| read_version(&item));
        set(&mut store.compress, table.item("compress").and_then(|item| read_compress(&item)));
        let asked = table.item("compress_above");
        let above = asked.as_ref().and_then(|item| item.size(&(64..=1 << 20)));
        // The sample shows the default.
        let is_default = above.is_none_or(|above| above == store.compress_above as u64);
        if let Some(item) = asked.filter(|_| !is_default && !store.compress && !is_compressed) {
            item.fault("has no effect with compress = \"off\"", "write compress = \"zstd\", or remove it");
        }
        set(&mut store.compress_above, above.and_then(|size| usize::try_from(size).ok()));
        set(&mut store.timeout, table.item("timeout").and_then(|item| item.duration(&STORE_TIMEOUT)));
        let connect = table.item("connect_timeout").and_then(|item| item.duration(&STORE_TIMEOUT));
        set(&mut store.connect_timeout, connect);
        let marks = table.item("marks_max").and_then(|item| item.integer(&(1024..=1_000_000_000)));
        set(&mut store.marks_max, marks);
        (store.tls_ca, store.tls_identity, tls) = read_files(&mut table, ["tls_ca", "tls_cert", "tls_key"]);
        read_promises(&mut table, &mut store);
        set(&mut store.collapse_timeout, read_collapse_timeout(&mut table, server));
        let rate = table.item("sweep_rate").and_then(|item| item.integer(&(0..=1_000_000)));
        set(&mut store.sweep_rate, rate);
        set(&mut store.sweep_pause, table.item("sweep_pause").and_then(|item| item.duration(&SWEEP_PAUSE)));
        store.secret = table.item("secret").and_then(|item| read_secret(&item));
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

/// Certificate authorities, a client certificate with its key, and the position of one of these fields.
type Files<'t> = (Option<PathBuf>, Option<(PathBuf, PathBuf)>, Option<Item<'t>>);

/// The TLS fields of a table.
fn read_files<'t>(table: &mut Table<'t>, names: [&'static str; 3]) -> Files<'t> {
    let [ca, cert, key] = names.map(|field| table.item(field));
    let path = |item: &Option<Item<'t>>| Some(PathBuf::from(item.as_ref()?.filled()?.value));
    let found = (path(&ca), path(&cert).zip(path(&key)));
    match (&cert, &key) {
        (Some(alone), None) => alone.fault("is set without its key", format!("add {} = \"…\"", names[2])),
        (None, Some(alone)) => {
            alone.fault("is set without its certificate", format!("add {} = \"…\"", names[1]));
        }
        _ => {}
    }
    (found.0, found.1, ca.or(cert).or(key))
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
        text.fault("is empty", "set its variable");
        return None;
    }
    passed(&text, address::secret)?;
    Some(text.value)
}

/// The settings for coherence.
fn read_promises(table: &mut Table<'_>, store: &mut StoreConfig) {
    let words = [("lease", Coherence::Lease), ("strict", Coherence::Strict), ("eventual", Coherence::Eventual)];
    set(&mut store.coherence, table.item("coherence").and_then(|item| item.choice(&words)));
    set(&mut store.lease, table.item("lease").and_then(|item| item.duration(&LEASE)));
    let words = [("forward", OnOutage::Forward), ("refuse", OnOutage::Refuse)];
    set(&mut store.on_outage, table.item("on_outage").and_then(|item| item.choice(&words)));
    set(&mut store.wait_replicas, table.item("wait_replicas").and_then(|item| item.integer(&(0..=100))));
}

fn read_collapse_timeout(table: &mut Table<'_>, server: &ServerConfig) -> Option<Duration> {
    let item = table.item("collapse_timeout")?;
    let limit = item.duration(&COLLAPSE)?;
    if limit > server.upstream_timeout {
        let upstream = humantime::format_duration(server.upstream_timeout);
        let message = format!("is longer than [server] upstream_timeout ({upstream}): no fetch takes that long");
        item.fault(message, "lower it, or raise upstream_timeout");
        return None;
    }
    Some(limit)
}

/// `[memory]`
pub fn read_memory(root: &mut Table<'_>) -> MemoryConfig {
    let mut memory = MemoryConfig::default();
    let Some(mut table) = section(root, "memory") else { return memory };
    set(&mut memory.capacity, table.item("capacity").and_then(|item| item.size(&(1 << 20..=1 << 50))));
    let asked = table.item("max_body");
    let max_body = asked.as_ref().and_then(|item| item.size(&(1..=1 << 40)));
    if let (Some(asked), Some(true)) = (asked, max_body.map(|size| size > memory.capacity)) {
        asked.fault("is larger than the capacity", "lower it, or raise capacity");
    }
    set(&mut memory.max_body, max_body);
    set(&mut memory.marks, table.item("marks").and_then(|item| count(&item, &(1024..=1 << 30))));
    table.finish();
    memory
}

/// `[log]`
pub fn read_log(root: &mut Table<'_>) -> LogConfig {
    let mut log = LogConfig::default();
    let Some(mut table) = section(root, "log") else { return log };
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    set(&mut log.format, table.item("format").and_then(|item| item.choice(&words)));
    set(&mut log.access, table.item("access").and_then(|item| item.boolean()));
    set(&mut log.level, table.item("level").and_then(|item| text_passing(&item, level)));
    let (format, output) = (table.item("access_format"), table.item("access_to"));
    for item in [&format, &output].into_iter().flatten() {
        match (log.access, log.leaves_out_access()) {
            (false, _) => item.fault("has no effect with access = false", "remove it, or set access = true"),
            (true, true) => item.fault(
                "has no effect: level leaves out the access log, whose lines have the level info",
                "remove it, or add larder::access=info to level",
            ),
            (true, false) => {}
        }
    }
    let words = [("text", AccessFormat::Text), ("json", AccessFormat::Json), ("combined", AccessFormat::Combined)];
    log.access_format = format.and_then(|item| item.choice(&words));
    let words = [("stderr", AccessOutput::Stderr), ("stdout", AccessOutput::Stdout)];
    set(&mut log.access_to, output.and_then(|item| item.choice(&words)));
    table.finish();
    log
}

/// A tracing filter. A bare word would be read as a module name, so that a misspelt level would go unnoticed.
fn level(text: &str) -> Result<(), InvalidValue> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let remedy = || "write a level (off, error, warn, info, debug, trace), or \"info,larder=debug\"".to_owned();
    for part in text.split(',').map(str::trim).filter(|part| !part.contains(['=', '['])) {
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part)) {
            let remedy = did_you_mean(&nearest(part, LEVELS), remedy);
            return Err(InvalidValue { message: "is not a level", remedy });
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidValue { message: "is not a filter", remedy: remedy() }),
    }
}

fn store_url(text: &str) -> Result<(), InvalidValue> {
    StoreUrl::read(text).map(|_| ())
}

fn host(text: &str) -> Result<HostPolicy, InvalidValue> {
    match text {
        "upstream" => Ok(HostPolicy::Upstream),
        "client" => Ok(HostPolicy::Client),
        text => address::host(text).map(HostPolicy::Fixed),
    }
}

pub(super) fn section<'t>(root: &mut Table<'t>, key: &'static str) -> Option<Table<'t>> {
    let mut table = root.item(key)?.table()?;
    table.rename(format!("[{key}]"));
    Some(table)
}

pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn count(item: &Item<'_>, range: &RangeInclusive<u64>) -> Option<usize> {
    item.integer(range).and_then(|count| usize::try_from(count).ok())
}

pub(super) fn checked<T>(item: &Item<'_>, check: impl Fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
    passed(&item.filled()?, check)
}

fn text_passing(item: &Item<'_>, check: impl Fn(&str) -> Result<(), InvalidValue>) -> Option<String> {
    let text = item.filled()?;
    passed(&text, check).map(|()| text.value.trim().to_owned())
}

pub(super) fn passed<T>(text: &Text<'_>, check: impl Fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
    check(&text.value).map_err(|wrong| text.fault(wrong.message, wrong.remedy)).ok()
}

pub(super) fn flag<T>(
    name: &str,
    value: Option<&str>,
    check: impl Fn(&str) -> Result<T, InvalidValue>,
    flags: &mut Vec<Fault>,
) -> Option<T> {
    check(value?).map_err(|wrong| flags.push(Fault::in_flag(name, wrong.message, wrong.remedy))).ok()
}

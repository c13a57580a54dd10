//! `[server]`: the listener, upstream, and the limits and timeouts of both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::Overrides;
use super::address::{self, InvalidValue};
use super::fields::{all_passing, checked, flag, read_tls_files, section, set, text_passing};
use crate::http::headers::{Credentials, ForwardedPolicy};
use crate::http::target::PathCase;
use crate::network::Network;
use crate::rules::RuleSet;
use crate::rules::family::read::{compile, read_headers};
use crate::rules::fault::Fault;
use crate::rules::pattern::Pattern;
use crate::rules::reader::{Item, Table};
use crate::shares::Shares;
use crate::words::words;

/// Time limits are never zero: everything would time out.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
/// Zero: do not wait unless responses were shareable before.
const COLLAPSE_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const COUNT: RangeInclusive<u64> = 1..=1_000_000;

settings! {
"server":
/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// `listen`, default 127.0.0.1:8080
    pub listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
    /// `upstream`, an http or https URL without path, query or credentials; required by `serve`
    pub upstream: Option<Uri> = None,
    /// `host`: the `Host` field that upstream receives
    pub host: HostPolicy = HostPolicy::default(),
    /// `forwarded`: set | append | off
    pub forwarded: ForwardedPolicy = ForwardedPolicy::default(),
    /// `trusted_proxies`: with `append`, the networks of proxies in front whose forwarding fields are trusted;
    /// default none
    pub trusted_proxies: Vec<Network> = Vec::new(),
    /// `connect_timeout`, default 2s
    pub connect_timeout: Duration = Duration::from_secs(2),
    /// `upstream_timeout`: until the response head arrives, default 30s
    pub upstream_timeout: Duration = Duration::from_secs(30),
    /// `reinvalidate_after`: delay of a second invalidation after a write that upstream did not answer; default
    /// `upstream_timeout`
    pub reinvalidate_after: Duration = Duration::from_secs(30),
    /// `idle_timeout`: the longest pause of upstream in a body, or of a client that receives it, default 30s
    pub idle_timeout: Duration = Duration::from_secs(30),
    /// `header_timeout`: for receiving a request head; also the keep-alive idle limit; default 30s
    pub header_timeout: Duration = Duration::from_secs(30),
    /// `drain_timeout`: how long shutdown waits for active requests, default 30s
    pub drain_timeout: Duration = Duration::from_secs(30),
    /// `max_connections` from clients; default 10000, or fewer if the limit of open files is lower
    pub max_connections: Option<usize> = None,
    /// `max_connections_per_client`, default a quarter of `max_connections`
    pub max_connections_per_client: Option<usize> = None,
    /// `max_streams_per_client`: HTTP/2 streams of one client over all its connections, default 1000. The limit for
    /// all clients together is four times as high
    pub max_streams_per_client: usize = 1000,
    /// `max_heads`: total size in bytes of request heads over 8 KiB while they are received, and over HTTP/2 until
    /// they are answered; default 16MiB. One client may use a quarter of it. An unfinished HTTP/2 head counts as
    /// `max_head`
    pub max_heads: u64 = 16 << 20,
    /// `max_upstream_requests`: concurrent requests, default 512. As many again may queue; further ones are refused
    pub max_upstream_requests: usize = 512,
    /// `max_upstream_requests_per_client`: concurrent requests of one client, and as many queued; default a quarter,
    /// at least 1
    pub max_upstream_requests_per_client: usize = 128,
    /// `max_unshared_per_client`: concurrent reads of one client that are neither cached nor coalesced, except
    /// streams; default a quarter of `max_upstream_requests`, at least 8
    pub max_unshared_per_client: u64 = 128,
    /// `max_upstream_streams`: concurrent streams, not counted as requests: event streams, upgraded connections, and
    /// responses in which upstream pauses for `stream_after`; default 1024, or as many as the limit of open files
    /// allows
    pub max_upstream_streams: usize = 1024,
    /// `max_upstream_streams_per_client`: concurrent streams of one client; default a quarter, at least 1
    pub max_upstream_streams_per_client: usize = 256,
    /// `stream_after`: the pause of upstream after which an exchange counts as a stream, default 5s
    pub stream_after: Duration = Duration::from_secs(5),
    /// `collapse_wait`: how long a request outside of families waits for another one's fetch if responses of its kind
    /// have not been shareable before; default 1s
    pub collapse_wait: Duration = Duration::from_secs(1),
    /// `upgrades`: protocols that a connection may be upgraded to, in lower case; default `websocket`
    pub upgrades: Vec<String> = vec!["websocket".to_owned()],
    /// `stream_timeout`: the longest pause of an event stream or an upgraded connection, default 1h
    pub stream_timeout: Duration = Duration::from_secs(3600),
    /// `max_head`: the largest request or response head, in bytes, default 64KiB. A field line counts at least 32
    /// bytes
    pub max_head: usize = 64 << 10,
    /// `max_query_body`: the largest content of a cacheable QUERY, in bytes, default 64KiB
    pub max_query_body: u64 = 64 << 10,
    /// `max_rule_body`: the largest content of a write, or of its response, that rules take values from, in bytes, default
    /// 64KiB
    pub max_rule_body: u64 = 64 << 10,
    /// `upload_rate`: the lowest average rate of a client's content over more than `idle_timeout`, in bytes per
    /// second; default 500, 0 for none
    pub upload_rate: u64 = 500,
    /// `download_rate`: the lowest average rate over more than `idle_timeout` at which a client receives a response
    /// that upstream is still sending, in bytes per second; default 500, 0 for none
    pub download_rate: u64 = 500,
    /// `on_incomplete`: ignore (the default) | invalidate
    pub on_incomplete: OnIncomplete = OnIncomplete::default(),
    /// `login`: a pattern for the path of `Location`. A redirect to it means that upstream refused the write.
    /// Default: none
    pub login: Option<Pattern> = None,
    /// `underscores`: whether request fields with `_` in their names are forwarded; default false
    pub underscores: bool = false,
    /// `credential_headers`: request fields with credentials, in addition to the known ones; default none
    pub credential_headers: Credentials = Credentials::default(),
    /// `case_insensitive_paths`: whether upstream ignores the case of paths; default false
    pub case_insensitive_paths: PathCase = PathCase::default(),
    /// `upstream_keep_alive`: how long an idle connection to upstream is reused, default 4s; less if upstream says so
    /// (`Keep-Alive: timeout`)
    pub upstream_keep_alive: Duration = Duration::from_secs(4),
    /// `resolver`: the DNS server that resolves upstream's name; default: the system's resolver
    pub resolver: Option<SocketAddr> = None,
    /// `cache_status`: the `Cache-Status` that clients receive
    pub cache_status: CacheStatus = CacheStatus::default(),
    /// `group_fields`: whether clients receive the fields that name groups (`Cache-Groups`, `Surrogate-Key`, …)
    pub group_fields: bool = false,
    /// `upstream_tls`: the table `[server.upstream_tls]`
    pub upstream_tls: UpstreamTls = UpstreamTls::default(),
}
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

words! {
/// `[server] on_incomplete`: how to treat a write that upstream received only in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnIncomplete {
    /// `"ignore"`: it did not happen (RFC 9112 §8).
    #[default]
    Ignore = "ignore",
    /// `"invalidate"`: upstream may have acted on the received part.
    Invalidate = "invalidate",
}
}

words! {
/// `[server] cache_status` (RFC 9211)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheStatus {
    /// `"plain"`: the outcome
    #[default]
    Plain = "plain",
    /// `"key"`: the outcome and the cache key of the response
    Key = "key",
    /// `"off"`: nothing is added; members from caches nearer to the origin stay
    Off = "off",
}
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

/// `[server]`
pub fn read_server(root: &mut Table<'_>, overrides: &Overrides, flags: &mut Vec<Fault>) -> ServerConfig {
    let (mut server, mut policy, mut tls) = (ServerConfig::default(), None, None);
    if let Some(mut table) = section(root, "server") {
        set(&mut server.listen, table.read("listen", |item| checked(&item, address::listen)));
        server.upstream = table.read("upstream", |item| checked(&item, address::upstream));
        policy = table.read("host", |item| checked(&item, host));
        let forwarded = table.item("forwarded");
        set(&mut server.forwarded, forwarded.as_ref().and_then(|item| item.choice(ForwardedPolicy::WORDS)));
        let trusted = table.item("trusted_proxies");
        set(&mut server.trusted_proxies, trusted.as_ref().and_then(|item| all_passing(item, address::network)));
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
            set(field, table.read(key, |item| item.duration(&TIMEOUT)));
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
        set(&mut server.underscores, table.read("underscores", |item| item.boolean()));
        let credentials = table.read("credential_headers", |item| read_headers(&item));
        set(&mut server.credential_headers, credentials.map(Credentials::and));
        let is_insensitive = table.read("case_insensitive_paths", |item| item.boolean());
        let case = if is_insensitive == Some(true) { PathCase::Insensitive } else { PathCase::Sensitive };
        server.case_insensitive_paths = case;
        server.resolver = table.read("resolver", |item| checked(&item, address::resolver));
        (server.max_upstream_requests, server.max_upstream_requests_per_client) = shared(
            &mut table,
            ["max_upstream_requests", "max_upstream_requests_per_client"],
            server.max_upstream_requests,
        );
        server.max_unshared_per_client = usual_unshared(server.max_upstream_requests);
        let unshared = table.read("max_unshared_per_client", |item| item.integer(&COUNT));
        set(&mut server.max_unshared_per_client, unshared);
        (server.max_upstream_streams, server.max_upstream_streams_per_client) = shared(
            &mut table,
            ["max_upstream_streams", "max_upstream_streams_per_client"],
            server.max_upstream_streams,
        );
        set(&mut server.collapse_wait, table.read("collapse_wait", |item| item.duration(&COLLAPSE_WAIT)));
        set(&mut server.upgrades, table.read("upgrades", |item| all_passing(&item, address::protocol)));
        set(&mut server.max_head, table.read("max_head", |item| item.size(&(8192..=1 << 20))));
        read_clients(&mut table, &mut server);
        let query = table.read("max_query_body", |item| item.size(&(0..=16 << 20)));
        set(&mut server.max_query_body, query);
        set(&mut server.max_rule_body, table.read("max_rule_body", |item| item.size(&(1 << 10..=1 << 20))));
        for (key, field) in
            [("upload_rate", &mut server.upload_rate), ("download_rate", &mut server.download_rate)]
        {
            set(field, table.read(key, |item| item.size(&(0..=1 << 30))));
        }
        set(&mut server.on_incomplete, table.read("on_incomplete", |item| item.choice(OnIncomplete::WORDS)));
        let login = table.read("login", |item| item.text()).filter(|login| !login.value.is_empty());
        server.login = login.and_then(|login| compile(&login, case));
        set(&mut server.cache_status, table.read("cache_status", |item| item.choice(CacheStatus::WORDS)));
        set(
            &mut server.group_fields,
            table.read("group_fields", |item| item.choice(&[("remove", false), ("keep", true)])),
        );
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
            let tables = root.read("family", |item| item.list()).unwrap_or_default();
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
    let (ca, identity, _) = read_tls_files(&mut table, ["ca", "cert", "key"]);
    let name = table.item("server_name");
    let server_name = name.and_then(|item| text_passing(&item, address::server_name));
    table.finish();
    Some(UpstreamTls { ca, identity, server_name })
}

/// The settings of `[server]` that limit clients.
fn read_clients(table: &mut Table<'_>, server: &mut ServerConfig) {
    server.max_connections = table.read("max_connections", |item| item.integer(&COUNT));
    if let Some(item) = table.item("max_connections_per_client") {
        server.max_connections_per_client = item.integer(&COUNT);
        let total = server.max_connections.unwrap_or(1_000_000);
        if server.max_connections_per_client.is_some_and(|share| share > total) {
            item.fault(
                "is more than max_connections, which no client can have",
                "lower it, or raise max_connections",
            );
        }
    }
    set(&mut server.max_streams_per_client, table.read("max_streams_per_client", |item| item.integer(&COUNT)));
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
    let most = table.read(total, |item| item.integer(&COUNT)).unwrap_or(usual);
    let item = table.item(per_client);
    let share = item.as_ref().and_then(|item| item.integer(&COUNT));
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

fn host(text: &str) -> Result<HostPolicy, InvalidValue> {
    match text {
        "upstream" => Ok(HostPolicy::Upstream),
        "client" => Ok(HostPolicy::Client),
        text => address::host(text).map(HostPolicy::Fixed),
    }
}

//! The URL of Redis: one server, the nodes of a cluster, or sentinels.
//!
//! ```text
//! redis://[user:password@]host[:port][/database]
//! redis+cluster://[user:password@]host[:port][,host[:port]…]
//! redis+sentinel://[user:password@]host[:port][,host[:port]…]/primary[/database][?sentinel_user=…&sentinel_password=…]
//! ```
//!
//! `rediss` instead of `redis` means TLS. `valkey` and `valkeys` are synonyms. `#insecure` at the end of a TLS URL
//! accepts any certificate. User, password and the name of the primary may be percent-encoded.

use std::fmt;

use http::uri::Authority;

use super::address::{InvalidValue, has_host_and_port, wrong};
use crate::http::target::percent_decoded;

const ONE: &str = "write it like \"redis://127.0.0.1:6379/0\"";
const CLUSTER: &str = "write it like \"redis+cluster://10.0.0.1:6379,10.0.0.2:6379\"";
const SENTINEL: &str = "write it like \"redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster/0\"";

/// The port of a server without one in the URL.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// The servers.
    pub topology: Topology,
    /// Whether connections use TLS.
    pub security: Security,
    /// Credentials for the servers that hold the data.
    pub login: Login,
}

/// The servers that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Server { place: ServerAddress, database: u16 },
    /// Some nodes of a cluster.
    Cluster { seeds: Vec<ServerAddress> },
    /// A primary, by its name, and the sentinels that monitor it.
    Sentinel { sentinels: Vec<ServerAddress>, primary: String, database: u16, login: Login },
}

/// Whether connections use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// No TLS.
    Plain,
    /// TLS with a verified certificate.
    Tls,
    /// TLS without verification.
    TlsInsecure,
}

/// Credentials for a server; both may be missing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
}

/// Address of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Without secrets.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.security == Security::Plain { "redis" } else { "rediss" };
        match &self.topology {
            Topology::Server { place, database } => write!(f, "{scheme}://{place}/{database}"),
            Topology::Cluster { seeds } => write!(f, "{scheme}+cluster://{}", listed(seeds)),
            Topology::Sentinel { sentinels, primary, database, .. } => {
                write!(f, "{scheme}+sentinel://{}/{primary}/{database}", listed(sentinels))
            }
        }
    }
}

fn listed(places: &[ServerAddress]) -> String {
    places.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The kind of servers that the scheme names.
#[derive(Clone, Copy, PartialEq)]
enum TopologyKind {
    Server,
    Cluster,
    Sentinel,
}

impl TopologyKind {
    fn example(self) -> &'static str {
        match self {
            TopologyKind::Server => ONE,
            TopologyKind::Cluster => CLUSTER,
            TopologyKind::Sentinel => SENTINEL,
        }
    }
}

impl StoreUrl {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// The URL is invalid. The message never quotes it.
    pub fn read(text: &str) -> Result<StoreUrl, InvalidValue> {
        let Some((scheme, rest)) = text.trim().split_once("://") else { return wrong("is not a URL", ONE) };
        let (kind, tls) = read_scheme(scheme)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if rest.contains('@') {
            return wrong(
                "has a character in its password that ends it",
                "write it beside the URL: password = \"${REDIS_PASSWORD}\"; or percent-encode it: %2F for /, %3F for ?, %23 for #, \
                 %40 for @",
            );
        }
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let topology = read_topology(kind, hosts, path.strip_prefix('/').unwrap_or(path), query)?;
        Ok(StoreUrl { topology, security: read_security(tls, fragment)?, login: read_login(credentials)? })
    }

    /// Whether it uses TLS.
    pub fn is_tls(&self) -> bool {
        self.security != Security::Plain
    }
}

fn read_scheme(scheme: &str) -> Result<(TopologyKind, bool), InvalidValue> {
    let (name, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    let tls = match name {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        _ => return wrong("has another scheme than redis and rediss (with TLS)", ONE),
    };
    match kind {
        "" if !scheme.contains('+') => Ok((TopologyKind::Server, tls)),
        "cluster" => Ok((TopologyKind::Cluster, tls)),
        "sentinel" => Ok((TopologyKind::Sentinel, tls)),
        _ => wrong(
            "is neither of a server nor of a cluster or sentinels",
            "write redis+cluster:// or redis+sentinel://",
        ),
    }
}

fn read_topology(kind: TopologyKind, hosts: &str, path: &str, query: &str) -> Result<Topology, InvalidValue> {
    let places = read_places(kind, hosts)?;
    if kind != TopologyKind::Sentinel && !query.is_empty() {
        return wrong("has a query", format!("remove what begins with ?; {}", kind.example()));
    }
    match kind {
        TopologyKind::Server => {
            let [place] = <[ServerAddress; 1]>::try_from(places)
                .or_else(|_| wrong("names several servers", "write redis+cluster:// or redis+sentinel://"))?;
            Ok(Topology::Server { place, database: read_database(path, ONE)? })
        }
        TopologyKind::Cluster if path.is_empty() || path == "0" => Ok(Topology::Cluster { seeds: places }),
        TopologyKind::Cluster => {
            wrong("has something after the hosts, and a cluster has one database only", CLUSTER)
        }
        TopologyKind::Sentinel => {
            let (primary, database) = path.split_once('/').unwrap_or((path, ""));
            if primary.is_empty() {
                return wrong("does not name the primary as the sentinels know it", SENTINEL);
            }
            let (primary, database) = (read_text(primary)?, read_database(database, SENTINEL)?);
            Ok(Topology::Sentinel { sentinels: places, primary, database, login: read_query(query)? })
        }
    }
}

fn read_places(kind: TopologyKind, hosts: &str) -> Result<Vec<ServerAddress>, InvalidValue> {
    let port = if kind == TopologyKind::Sentinel { SENTINEL_PORT } else { PORT };
    let read = |host: &str| match host.parse::<Authority>() {
        Ok(host) if has_host_and_port(&host) => Ok(ServerAddress {
            host: host.host().trim_matches(['[', ']']).to_owned(),
            port: host.port_u16().unwrap_or(port),
        }),
        _ if hosts.contains(',') => wrong("has a host that is none, or a port that is none", kind.example()),
        _ => wrong("has no valid host and port", kind.example()),
    };
    hosts.split(',').map(read).collect()
}

fn read_database(text: &str, example: &'static str) -> Result<u16, InvalidValue> {
    match text {
        "" => Ok(0),
        text => text.parse().or_else(|_| wrong("may have only a database number at its end", example)),
    }
}

fn read_security(tls: bool, fragment: &str) -> Result<Security, InvalidValue> {
    match (tls, fragment) {
        (false, "") => Ok(Security::Plain),
        (true, "") => Ok(Security::Tls),
        (true, "insecure") => Ok(Security::TlsInsecure),
        (true, _) => wrong("has something after #", "only #insecure may stand there, to trust any certificate"),
        (false, _) => wrong("has something after #", "remove it; a password that has a # is written with %23"),
    }
}

/// `user:password`, `:password`, or nothing.
fn read_login(text: &str) -> Result<Login, InvalidValue> {
    if text.contains('@') {
        return wrong(
            "has an @ in its password",
            "write it beside the URL: password = \"${REDIS_PASSWORD}\"; or percent-encode it: %40",
        );
    }
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let user = (!user.is_empty()).then(|| read_text(user)).transpose()?;
    // An empty password counts as none.
    let password = password.filter(|password| !password.is_empty());
    Ok(Login { user, password: password.map(read_text).transpose()? })
}

/// `sentinel_user=…&sentinel_password=…`
fn read_query(query: &str) -> Result<Login, InvalidValue> {
    let mut login = Login::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("sentinel_user", user)) => login.user = Some(read_text(user)?),
            Some(("sentinel_password", password)) => login.password = Some(read_text(password)?),
            _ => {
                return wrong(
                    "has an unknown query parameter",
                    "write ?sentinel_user=…&sentinel_password=…, percent-encoded: %26 for &",
                );
            }
        }
    }
    match login {
        Login { user: Some(_), password: None } => {
            wrong("names a user for the sentinels and no password", "add &sentinel_password=…")
        }
        login => Ok(login),
    }
}

fn read_text(text: &str) -> Result<String, InvalidValue> {
    String::from_utf8(percent_decoded(text)).or_else(|_| {
        wrong("has a percent-encoding that is not UTF-8", "encode the characters as UTF-8: %C3%BC for ü")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        StoreUrl::read(text)
            .map_or_else(|wrong| format!("{} | {}", wrong.message, wrong.remedy), |_| "ok".to_owned())
    }

    fn place(host: &str, port: u16) -> ServerAddress {
        ServerAddress { host: host.to_owned(), port }
    }

    fn login(user: &str, password: &str) -> Login {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Login { user: text(user), password: text(password) }
    }

    #[test]
    fn urls_are_checked_without_being_quoted() {
        let rows = [
            ("redis://127.0.0.1:6379/0", "ok"),
            ("rediss://user:s3cret@h", "ok"),
            ("valkey://h", "ok"),
            ("valkeys+cluster://h", "ok"),
            ("redis://:s3cret@[::1]:6380/", "ok"),
            ("redis+cluster://a:1,b:2", "ok"),
            ("redis+sentinel://a,b/m", "ok"),
            ("rediss+sentinel://u:s3cret@a:1/m/2?sentinel_user=u&sentinel_password=s3cret#insecure", "ok"),
            ("redis+sentinel://a,b", "does not name the primary"),
            ("redis+sentinel://a/", "does not name the primary"),
            ("redis+sentinel://a/m/x", "database number"),
            ("redis+sentinel://a/m/0/1", "database number"),
            ("redis+sentinel://a/m?password=s3cret", "?sentinel_user=…"),
            ("redis+sentinel://a/m?sentinel_user=s3", "no password"),
            ("redis+sentinel://a/m?sentinel_password=s3@cret", "%40 for @"),
            ("redis+sentinel://a,,b/m", "a host that is none"),
            ("redis+cluster://a:1,b:0", "a host that is none"),
            ("redis+cluster://a/3", "one database only"),
            ("redis+cluster://a?x=s3", "has a query"),
            ("redis+ring://a", "redis+cluster://"),
            ("redis+://a", "redis+cluster://"),
            ("redis://a,b", "several servers"),
            ("http://h", "another scheme"),
            ("127.0.0.1:6379", "is not a URL"),
            ("redis://", "host and port"),
            ("redis://:s3cret@h:0", "host and port"),
            ("redis://:s3/cret@h", "percent-encode"),
            ("redis://:s3@cret@h", "%40"),
            ("redis://:s3%FFcret@h", "not UTF-8"),
            ("redis://h/x", "database number"),
            ("redis://h/0?protocol=resp3", "has a query"),
            ("redis://h/0#insecure", "remove it"),
            ("rediss://h/0#sloppy", "only #insecure"),
        ];
        for (text, expected) in rows {
            let message = message(text);
            assert!(message.contains(expected) && !message.contains("s3"), "{text}: {message}");
        }
    }

    #[test]
    fn a_url_has_addresses_and_credentials() {
        let url = StoreUrl::read("rediss://us%3Aer:p%40s:s@[::1]/7#insecure").unwrap();
        assert_eq!(url.topology, Topology::Server { place: place("::1", 6379), database: 7 });
        assert_eq!((url.security, &url.login), (Security::TlsInsecure, &login("us:er", "p@s:s")));
        let url = StoreUrl::read("valkey+cluster://:pass@a:1,b").unwrap();
        assert_eq!(url.topology, Topology::Cluster { seeds: vec![place("a", 1), place("b", 6379)] });
        assert_eq!((url.security, url.login), (Security::Plain, login("", "pass")));
        let url =
            StoreUrl::read("redis+sentinel://a,b:7/my%20m/2?sentinel_password=x%26y&sentinel_user=z").unwrap();
        let (sentinels, primary) = (vec![place("a", 26379), place("b", 7)], "my m".to_owned());
        assert_eq!(url.topology, Topology::Sentinel { sentinels, primary, database: 2, login: login("z", "x&y") });
        assert_eq!(url.login, Login::default());
    }

    #[test]
    fn a_displayed_url_contains_no_secret() {
        for (text, shown) in [
            ("redis://me:s3cret@h", "redis://h:6379/0"),
            ("valkeys+cluster://me:s3cret@a,[::1]:7", "rediss+cluster://a:6379,[::1]:7"),
            (
                "redis+sentinel://me:s3cret@a/m?sentinel_user=me&sentinel_password=s3cret",
                "redis+sentinel://a:26379/m/0",
            ),
        ] {
            let url = StoreUrl::read(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3cret"), "{url:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_read(text in "(valkey|redis)s?(\\+(cluster|sentinel))?://\\PC*") {
            let _ = StoreUrl::read(&text);
        }

        #[test]
        fn a_displayed_url_parses_to_the_same_servers(hosts in prop::collection::vec("[a-z]{1,9}:[1-9][0-9]{0,3}", 1..4), db in 0_u16..16) {
            for text in [format!("redis+cluster://{}", hosts.join(",")), format!("rediss+sentinel://{}/m/{db}", hosts.join(","))] {
                let url = StoreUrl::read(&text).unwrap();
                prop_assert_eq!(url.to_string(), text);
            }
        }
    }
}

//! The addresses of upstream's name. They are asked for again when the resolver's answer is over: by its TTL where a DNS
//! server is asked ([`crate::config::ServerConfig::resolver`]), after [`SYSTEM`] where the system is, which tells none. What was
//! known stays in use while the name cannot be resolved.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tower_service::Service;

/// How long an answer of the system's resolver counts: it tells no TTL.
const SYSTEM: Duration = Duration::from_secs(30);
/// The least and the most that an answer counts, whatever its TTL is.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);
/// When a resolver that failed is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a resolver is waited for while addresses are known.
const GRACE: Duration = Duration::from_millis(200);

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub addresses: Arc<[IpAddr]>,
    /// When to ask again.
    pub until: Instant,
}

impl Known {
    fn of(mut addresses: Vec<IpAddr>, counts: Duration, now: Instant) -> Option<Known> {
        addresses.dedup();
        let until = now + counts.clamp(LEAST, MOST);
        (!addresses.is_empty()).then(|| Known { addresses: addresses.into(), until })
    }
}

/// Resolves one name.
#[derive(Clone)]
pub(super) struct Names(Arc<Inner>);

struct Inner {
    name: String,
    asked: Asked,
    patience: Duration,
    known: Mutex<Option<Known>>,
    /// When the resolver failed last, and how.
    failed: Mutex<Option<(Instant, io::ErrorKind, String)>>,
    /// Held by who asks the resolver.
    asking: Arc<AsyncMutex<()>>,
}

enum Asked {
    System,
    Server(Box<TokioResolver>),
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Names").field(&self.0.name).finish()
    }
}

impl Names {
    /// Of this name, by the DNS server `resolver`, or by the system. A resolver is waited for no longer than `patience`.
    pub fn new(name: &str, resolver: Option<SocketAddr>, patience: Duration) -> io::Result<Names> {
        let asked = match resolver {
            Some(server) => Asked::Server(Box::new(client(server, patience)?)),
            None => Asked::System,
        };
        Ok(Names(Arc::new(Inner {
            name: name.to_owned(),
            asked,
            patience,
            known: Mutex::default(),
            failed: Mutex::default(),
            asking: Arc::default(),
        })))
    }

    /// The addresses, asked for again if what is known is over. Where addresses are known, the resolver is waited for no longer
    /// than [`GRACE`], and by one caller at a time: the others go on with what is known.
    ///
    /// # Errors
    ///
    /// The name cannot be resolved, and nothing is known of it.
    pub async fn current(&self) -> io::Result<Known> {
        let Some(known) = self.known() else {
            return self.ask_again(Arc::clone(&self.0.asking).lock_owned().await).await;
        };
        if known.until > Instant::now() {
            return Ok(known);
        }
        let Ok(turn) = Arc::clone(&self.0.asking).try_lock_owned() else { return Ok(known) };
        let names = self.clone();
        // In a task of its own: it goes on when nobody waits any more.
        let answer = tokio::spawn(async move { names.ask_again(turn).await });
        match tokio::time::timeout(GRACE, answer).await {
            Ok(Ok(found)) => found,
            _ => Ok(known),
        }
    }

    /// Asks the resolver, unless somebody has since.
    async fn ask_again(&self, _turn: OwnedMutexGuard<()>) -> io::Result<Known> {
        let known = self.known();
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return Ok(known.clone());
        }
        if let Some(error) = self.failure().filter(|_| known.is_none()) {
            return Err(error);
        }
        let answer = match tokio::time::timeout(self.0.patience, self.ask()).await {
            Ok(answer) => {
                answer.and_then(|known| known.ok_or_else(|| io::Error::other("the name has no address")))
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let found = match (answer, known) {
            (Ok(found), _) => found,
            (Err(error), None) => {
                let failed = Some((Instant::now(), error.kind(), error.to_string()));
                *self.0.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
                return Err(error);
            }
            (Err(error), Some(known)) => {
                tracing::warn!(name = self.0.name, %error, "upstream's name cannot be resolved: its last addresses stay in use");
                Known { until: Instant::now() + RETRY, ..known }
            }
        };
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    /// How the resolver has just failed: those who waited for their turn meanwhile need not ask it again.
    fn failure(&self) -> Option<io::Error> {
        let failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, kind, message) = failed.as_ref().filter(|(at, ..)| at.elapsed() < LEAST)?;
        Some(io::Error::new(*kind, message.clone()))
    }

    fn known(&self) -> Option<Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self) -> io::Result<Option<Known>> {
        let name = self.0.name.as_str();
        match &self.0.asked {
            Asked::System => {
                let addresses = tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect();
                Ok(Known::of(addresses, SYSTEM, Instant::now()))
            }
            Asked::Server(resolver) => {
                let answer = resolver.lookup_ip(name).await.map_err(io::Error::other)?;
                let now = Instant::now();
                Ok(Known::of(answer.iter().collect(), answer.valid_until().saturating_duration_since(now), now))
            }
        }
    }
}

/// Asks this server, and nobody else.
fn client(server: SocketAddr, patience: Duration) -> io::Result<TokioResolver> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    // What is known is kept here.
    options.cache_size = 0;
    options.timeout = patience;
    builder.build().map_err(io::Error::other)
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// There is one name only.
    fn call(&mut self, _: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move {
            let known = names.current().await?;
            let addresses: Vec<_> = known.addresses.iter().map(|ip| SocketAddr::from((*ip, 0))).collect();
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_by_its_ttl_within_bounds() {
        let now = Instant::now();
        let ips = || vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        for (ttl, counts) in [(0, 1), (7, 7), (3600, 60)] {
            let known = Known::of(ips(), Duration::from_secs(ttl), now).unwrap();
            assert_eq!((&*known.addresses, known.until), (&ips()[..], now + Duration::from_secs(counts)));
        }
        assert_eq!(Known::of(Vec::new(), SYSTEM, now), None);
    }

    /// A resolver that never answers, and addresses that are over.
    #[tokio::test(start_paused = true)]
    async fn known_addresses_are_used_while_the_resolver_does_not_answer() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let patience = Duration::from_secs(10);
        let names = Names::new("api.test", Some(silent.local_addr().unwrap()), patience).unwrap();
        let known = Known { addresses: [IpAddr::from([192, 0, 2, 1])].into(), until: Instant::now() };
        *names.0.known.lock().unwrap() = Some(known.clone());
        let begin = tokio::time::Instant::now();
        assert_eq!(names.current().await.unwrap(), known);
        assert!(begin.elapsed() < GRACE * 2, "{:?}", begin.elapsed());
        let others = tokio::time::Instant::now();
        assert_eq!(names.current().await.unwrap(), known);
        assert_eq!(others.elapsed(), Duration::ZERO, "one waits at a time");
        tokio::time::sleep(patience * 2).await;
        assert!(names.known().unwrap().until > known.until, "the resolver is left alone for a while");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_resolver_that_fails_fails_with_it() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let patience = Duration::from_secs(10);
        let names = Names::new("api.test", Some(silent.local_addr().unwrap()), patience).unwrap();
        let begin = tokio::time::Instant::now();
        let all: Vec<_> = (0..10)
            .map(|_| names.clone())
            .map(|names| tokio::spawn(async move { names.current().await }))
            .collect();
        for one in all {
            assert!(one.await.unwrap().is_err());
        }
        assert!(begin.elapsed() < patience * 2, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let names = Names::new("localhost", None, Duration::from_secs(10)).unwrap();
        let known = names.current().await.unwrap();
        assert!(known.addresses.iter().all(IpAddr::is_loopback), "{known:?}");
        assert_eq!(names.current().await.unwrap(), known, "asked once");
    }
}

//! Resolves upstream's host name, and again when the answer expires: by its TTL if a DNS server is configured
//! ([`crate::config::ServerConfig::resolver`]), after [`SYSTEM`] with the system's resolver, which reports no TTL. While the name
//! cannot be resolved, the last addresses stay in use.
//!
//! A connection to an address that the name no longer has ends with its response.

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

/// Lifetime of an answer of the system's resolver.
const SYSTEM: Duration = Duration::from_secs(30);
/// Least and longest lifetime of an answer, whatever its TTL.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);
/// Pause after a failed resolution while addresses are known.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for the resolver while addresses are known.
const GRACE: Duration = Duration::from_millis(200);

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub addresses: Arc<[IpAddr]>,
    /// When to resolve again.
    pub until: Instant,
}

impl Resolved {
    fn of(mut addresses: Vec<IpAddr>, lifetime: Duration, now: Instant) -> Option<Resolved> {
        addresses.dedup();
        let until = now + lifetime.clamp(LEAST, MOST);
        (!addresses.is_empty()).then(|| Resolved { addresses: addresses.into(), until })
    }
}

/// Resolves one name.
#[derive(Clone)]
pub(super) struct Names(Arc<Inner>);

struct Inner {
    name: String,
    resolver: Resolver,
    timeout: Duration,
    known: Mutex<Option<Resolved>>,
    /// The last failure of the resolver.
    failed: Mutex<Option<(Instant, io::ErrorKind, String)>>,
    /// Held during a resolution.
    resolving: Arc<AsyncMutex<()>>,
}

enum Resolver {
    System,
    ServerConfig(Box<TokioResolver>),
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Names").field(&self.0.name).finish()
    }
}

impl Names {
    /// Resolves `name` by the DNS server `resolver`, or by the system. A resolution takes at most `timeout`.
    pub fn new(name: &str, resolver: Option<SocketAddr>, timeout: Duration) -> io::Result<Names> {
        let resolver = match resolver {
            Some(server) => Resolver::ServerConfig(Box::new(client(server, timeout)?)),
            None => Resolver::System,
        };
        Ok(Names(Arc::new(Inner {
            name: name.to_owned(),
            resolver,
            timeout,
            known: Mutex::default(),
            failed: Mutex::default(),
            resolving: Arc::default(),
        })))
    }

    /// The current addresses. Expired ones are resolved again by one caller at a time, which waits at most [`GRACE`] and then
    /// gets the expired addresses, as the other callers do.
    ///
    /// # Errors
    ///
    /// The name cannot be resolved, and no addresses are known.
    pub async fn current(&self) -> io::Result<Resolved> {
        let Some(known) = self.known() else {
            return self.resolve_again(Arc::clone(&self.0.resolving).lock_owned().await).await;
        };
        if known.until > Instant::now() {
            return Ok(known);
        }
        let Ok(permit) = Arc::clone(&self.0.resolving).try_lock_owned() else { return Ok(known) };
        let names = self.clone();
        // In a task of its own, which goes on after GRACE.
        let answer = tokio::spawn(async move { names.resolve_again(permit).await });
        match tokio::time::timeout(GRACE, answer).await {
            Ok(Ok(found)) => found,
            _ => Ok(known),
        }
    }

    /// Resolves, unless another caller has done so meanwhile.
    async fn resolve_again(&self, _permit: OwnedMutexGuard<()>) -> io::Result<Resolved> {
        let known = self.known();
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return Ok(known.clone());
        }
        if let Some(error) = self.failure().filter(|_| known.is_none()) {
            return Err(error);
        }
        let answer = match tokio::time::timeout(self.0.timeout, self.resolve()).await {
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
                tracing::warn!(name = self.0.name, %error, "cannot resolve upstream's host name: the last addresses stay in use");
                Resolved { until: Instant::now() + RETRY, ..known }
            }
        };
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    /// A failure of the resolver a moment ago: callers that waited for it meanwhile need not resolve again.
    fn failure(&self) -> Option<io::Error> {
        let failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, kind, message) = failed.as_ref().filter(|(at, ..)| at.elapsed() < LEAST)?;
        Some(io::Error::new(*kind, message.clone()))
    }

    fn known(&self) -> Option<Resolved> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn resolve(&self) -> io::Result<Option<Resolved>> {
        let name = self.0.name.as_str();
        match &self.0.resolver {
            Resolver::System => {
                let addresses = tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect();
                Ok(Resolved::of(addresses, SYSTEM, Instant::now()))
            }
            Resolver::ServerConfig(resolver) => {
                let answer = resolver.lookup_ip(name).await.map_err(io::Error::other)?;
                let now = Instant::now();
                Ok(Resolved::of(answer.iter().collect(), answer.valid_until().saturating_duration_since(now), now))
            }
        }
    }
}

/// A resolver that uses this server only.
fn client(server: SocketAddr, timeout: Duration) -> io::Result<TokioResolver> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    // `Names` stores the addresses.
    options.cache_size = 0;
    options.timeout = timeout;
    builder.build().map_err(io::Error::other)
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The name is always the same.
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
    fn an_answer_lives_for_its_ttl_within_limits() {
        let now = Instant::now();
        let ips = || vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        for (ttl, lifetime) in [(0, 1), (7, 7), (3600, 60)] {
            let known = Resolved::of(ips(), Duration::from_secs(ttl), now).unwrap();
            assert_eq!((&*known.addresses, known.until), (&ips()[..], now + Duration::from_secs(lifetime)));
        }
        assert_eq!(Resolved::of(Vec::new(), SYSTEM, now), None);
    }

    /// The resolver never answers, and the addresses have expired.
    #[tokio::test(start_paused = true)]
    async fn known_addresses_are_used_while_the_resolver_does_not_answer() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let timeout = Duration::from_secs(10);
        let names = Names::new("api.test", Some(silent.local_addr().unwrap()), timeout).unwrap();
        let known = Resolved { addresses: [IpAddr::from([192, 0, 2, 1])].into(), until: Instant::now() };
        *names.0.known.lock().unwrap() = Some(known.clone());
        let begin = tokio::time::Instant::now();
        assert_eq!(names.current().await.unwrap(), known);
        assert!(begin.elapsed() < GRACE * 2, "{:?}", begin.elapsed());
        let others = tokio::time::Instant::now();
        assert_eq!(names.current().await.unwrap(), known);
        assert_eq!(others.elapsed(), Duration::ZERO, "only one caller waits");
        tokio::time::sleep(timeout * 2).await;
        assert!(names.known().unwrap().until > known.until, "the resolver is not asked again at once");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_wait_for_a_failing_resolver_fail_with_it() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let timeout = Duration::from_secs(10);
        let names = Names::new("api.test", Some(silent.local_addr().unwrap()), timeout).unwrap();
        let begin = tokio::time::Instant::now();
        let all: Vec<_> = (0..10)
            .map(|_| names.clone())
            .map(|names| tokio::spawn(async move { names.current().await }))
            .collect();
        for one in all {
            assert!(one.await.unwrap().is_err());
        }
        assert!(begin.elapsed() < timeout * 2, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn the_system_resolves_localhost() {
        let names = Names::new("localhost", None, Duration::from_secs(10)).unwrap();
        let known = names.current().await.unwrap();
        assert!(known.addresses.iter().all(IpAddr::is_loopback), "{known:?}");
        assert_eq!(names.current().await.unwrap(), known, "resolved once");
    }
}

//! Places at upstream: limits on concurrent requests, on requests that wait for a place, and on streams (event streams,
//! upgraded connections and long polls). Each client has a share of each.
//!
//! An exchange counts for the client that sent the request; a coalesced fetch counts for the client of its leader; Larder's
//! own requests count for [`Client::LARDER`].

use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::config::ServerConfig;
use crate::shares::{Over, Share, Shares};

/// The places at one upstream.
#[derive(Debug)]
pub(super) struct Places {
    requests: Arc<Shares>,
    queue: Arc<Shares>,
    streams: Arc<Shares>,
    /// Longest wait for a place.
    timeout: Duration,
}

/// A place at upstream, among the requests or among the streams. Released when dropped.
#[derive(Debug)]
pub struct UpstreamPlace {
    held: Share,
    streams: Arc<Shares>,
    is_stream: bool,
    /// The client's share of requests that are forwarded for one client alone.
    unshared: Option<Share>,
}

/// How many places are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesInUse {
    pub requests: u64,
    /// Requests that wait for a place.
    pub queued: u64,
    pub streams: u64,
}

impl Places {
    pub fn new(server: &ServerConfig) -> Places {
        let count = |count: usize| count as u64;
        let requests =
            || Shares::new(count(server.max_upstream_requests), count(server.max_upstream_requests_per_client));
        let streams =
            Shares::new(count(server.max_upstream_streams), count(server.max_upstream_streams_per_client));
        Places { requests: requests(), queue: requests(), streams, timeout: server.upstream_timeout }
    }

    /// Whether a request of this client would be sent at once.
    pub fn has_room(&self, client: Client) -> bool {
        self.requests.over(client, 1).is_none()
    }

    pub fn in_use(&self) -> PlacesInUse {
        PlacesInUse { requests: self.requests.held(), queued: self.queue.held(), streams: self.streams.held() }
    }

    /// Takes a place among the requests, if one is free.
    pub fn take(&self, client: Client) -> Result<UpstreamPlace, Over> {
        self.requests.take(client, 1).map(|share| self.place(share))
    }

    /// Waits for a place among the requests, for at most `upstream_timeout`. The queue has as many places, with the same share
    /// for each client; if it is full, this fails at once. Clients are served in rotation.
    pub async fn wait(&self, client: Client) -> Result<UpstreamPlace, Over> {
        if let Ok(place) = self.take(client) {
            return Ok(place);
        }
        let _queued = self.queue.take(client, 1)?;
        match tokio::time::timeout(self.timeout, self.requests.wait(client, 1)).await {
            Ok(share) => share.map(|share| self.place(share)),
            Err(_) => Err(self.requests.over(client, 1).unwrap_or(Over::All)),
        }
    }

    fn place(&self, held: Share) -> UpstreamPlace {
        UpstreamPlace { held, streams: Arc::clone(&self.streams), is_stream: false, unshared: None }
    }
}

impl UpstreamPlace {
    /// Exchanges the place among the requests for one among the streams. On an error it keeps its place.
    pub fn become_stream(&mut self) -> Result<(), Over> {
        if !self.is_stream {
            self.held = self.streams.take(self.held.client(), 1)?;
            self.is_stream = true;
            self.unshared = None;
        }
        Ok(())
    }

    /// Holds the client's share of requests forwarded for it alone, until the place is released or becomes one among the
    /// streams, of which each client has a share of its own.
    pub fn hold(&mut self, unshared: Share) {
        self.unshared = Some(unshared).filter(|_| !self.is_stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn client(n: u8) -> Client {
        Client::at(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
    }

    fn places(requests: usize, streams: usize) -> Places {
        Places::new(&ServerConfig {
            max_upstream_requests: requests,
            max_upstream_requests_per_client: requests / 4,
            max_upstream_streams: streams,
            max_upstream_streams_per_client: streams / 4,
            ..ServerConfig::default()
        })
    }

    #[test]
    fn an_exchange_that_becomes_a_stream_releases_its_place_among_the_requests() {
        let places = places(4, 4);
        let mut first = places.take(client(1)).unwrap();
        assert_eq!(places.take(client(1)).unwrap_err(), Over::Client);
        first.become_stream().unwrap();
        first.become_stream().unwrap();
        assert_eq!(places.in_use(), PlacesInUse { requests: 0, queued: 0, streams: 1 });
        let mut second = places.take(client(1)).unwrap();
        assert_eq!(second.become_stream(), Err(Over::Client));
        assert_eq!(places.in_use(), PlacesInUse { requests: 1, queued: 0, streams: 1 });
        drop((first, second));
        assert_eq!(places.in_use(), PlacesInUse { requests: 0, queued: 0, streams: 0 });
    }

    #[test]
    fn an_unshared_request_counts_as_such_until_it_becomes_a_stream() {
        let (places, unshared) = (places(4, 4), Shares::new(4, 4));
        let share = || unshared.take(client(1), 1).unwrap();
        let mut place = places.take(client(1)).unwrap();
        place.hold(share());
        assert_eq!(unshared.held(), 1);
        place.become_stream().unwrap();
        assert_eq!(unshared.held(), 0);
        place.hold(share());
        assert_eq!(unshared.held(), 0);
        let mut other = places.take(client(2)).unwrap();
        other.hold(share());
        drop(other);
        assert_eq!(unshared.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_in_the_queue_names_the_limit_that_was_reached() {
        let places = places(4, 4);
        let mut held: Vec<_> = (1..=3).map(|n| places.take(client(n)).unwrap()).collect();
        assert_eq!(places.wait(client(1)).await.unwrap_err(), Over::Client);
        held.push(places.take(client(4)).unwrap());
        assert_eq!(places.wait(client(5)).await.unwrap_err(), Over::All);
        assert_eq!(places.in_use().queued, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_fails_at_once() {
        let places = Arc::new(places(4, 4));
        let held: Vec<_> = (1..=4).map(|n| places.take(client(n)).unwrap()).collect();
        let waiting = (1..=4).map(|n| {
            let places = Arc::clone(&places);
            tokio::spawn(async move { places.wait(client(n)).await })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::task::yield_now().await;
        let start = tokio::time::Instant::now();
        assert_eq!(places.wait(client(1)).await.unwrap_err(), Over::Client);
        assert_eq!(places.wait(client(5)).await.unwrap_err(), Over::All);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(held);
        for waiting in waiting {
            assert!(waiting.await.unwrap().is_ok());
        }
    }
}

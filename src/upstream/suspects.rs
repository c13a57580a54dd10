//! Suspects: requests that may have got the responses to others. When stray bytes arrive on a connection, upstream and this
//! proxy may have been out of step for some time, so that each request got the response to the one before. Nothing shows since
//! when, so all recent requests of the connection are suspect. The first one on it is not, since no response came before;
//! unless it is the only one and another complete response follows: then either may be the right one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::sync::Notify;

/// Most requests that are stored for one connection.
const REQUESTS: usize = 256;
/// Most bytes of paths that are stored for one connection.
const PATH_BYTES: usize = 64 << 10;
/// Most requests that wait for their invalidation.
const WAITING: usize = 4096;

/// Requests that may have got the responses to others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Method and path, without the query.
    pub requests: VecDeque<(Method, Box<str>)>,
    /// There were others that have not been stored.
    pub are_more: bool,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && !self.are_more
    }
}

/// The recent requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Carried {
    has_begun: bool,
    /// The first of `recent` is the first request of the connection.
    has_first: bool,
    /// Length of the paths in `recent`.
    bytes: usize,
    recent: Suspects,
}

impl Carried {
    /// Records a request that has got a response.
    pub fn note(&mut self, method: &Method, path_and_query: &str) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.has_first = true;
        }
        let path = path_and_query.split('?').next().unwrap_or_default();
        self.bytes += path.len();
        self.recent.requests.push_back((method.clone(), path.into()));
        if self.recent.requests.len() > REQUESTS {
            self.drop_oldest();
        }
        while self.bytes > PATH_BYTES && self.drop_oldest() {
            self.recent.are_more = true;
        }
    }

    fn drop_oldest(&mut self) -> bool {
        self.has_first = false;
        let oldest = self.recent.requests.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, |(_, path)| path.len());
        oldest.is_some()
    }

    /// Takes the suspects of a connection that is out of step. `has_another`: the stray bytes begin like a response.
    pub fn take(&mut self, has_another: bool) -> Suspects {
        if self.has_first && !(has_another && self.recent.requests.len() == 1) {
            self.drop_oldest();
        }
        (self.bytes, self.has_first) = (0, false);
        std::mem::take(&mut self.recent)
    }
}

/// The suspects of all connections that wait for their invalidation.
#[derive(Debug, Default)]
pub(super) struct WaitingSuspects {
    suspects: Mutex<Suspects>,
    added: Notify,
}

impl WaitingSuspects {
    /// Adds suspects; beyond [`WAITING`] only [`Suspects::are_more`] is set.
    pub fn add(&self, suspects: Suspects) {
        if suspects.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        waiting.are_more |= suspects.are_more;
        waiting.requests.extend(suspects.requests);
        if waiting.requests.len() > WAITING {
            *waiting = Suspects { requests: VecDeque::new(), are_more: true };
        }
        drop(waiting);
        self.added.notify_one();
    }

    /// Waits until there are suspects.
    pub async fn next(&self) -> Suspects {
        loop {
            let suspects = std::mem::take(&mut *self.lock());
            if !suspects.is_empty() {
                return suspects;
            }
            self.added.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(paths: impl IntoIterator<Item = String>) -> Carried {
        let mut carried = Carried::default();
        paths.into_iter().for_each(|path| carried.note(&Method::GET, &path));
        carried
    }

    fn paths(suspects: &Suspects) -> Vec<&str> {
        suspects.requests.iter().map(|(_, path)| &**path).collect()
    }

    #[test]
    fn the_first_request_of_a_connection_is_not_suspect() {
        let mut carried = carried(["/first".to_owned()]);
        carried.note(&Method::GET, "/a?b=c");
        carried.note(&Method::PUT, "/d");
        let suspects = carried.take(true);
        assert_eq!(Vec::from(suspects.requests), [(Method::GET, Box::from("/a")), (Method::PUT, Box::from("/d"))]);
        assert!(carried.take(true).is_empty(), "taken once");
    }

    #[test]
    fn the_only_request_is_suspect_if_two_responses_have_come() {
        let once = || carried(["/first".to_owned()]);
        assert_eq!(paths(&once().take(true)), ["/first"]);
        assert!(once().take(false).is_empty());
    }

    #[test]
    fn stored_requests_of_a_connection_are_bounded() {
        let mut many = carried((0..1000).map(|number| format!("/{number}")));
        let suspects = many.take(true);
        assert_eq!((suspects.requests.len(), suspects.are_more), (REQUESTS, false));
        assert_eq!(suspects.requests.back().unwrap().1.as_ref(), "/999");
        let long = "x".repeat(PATH_BYTES / 3);
        let mut long = carried((0..10).map(|_| long.clone()));
        assert!(long.bytes <= PATH_BYTES);
        let suspects = long.take(true);
        assert_eq!((suspects.requests.len(), suspects.are_more), (3, true));
        let mut huge = carried((0..2).map(|_| "x".repeat(PATH_BYTES + 1)));
        assert_eq!(huge.take(true), Suspects { requests: VecDeque::new(), are_more: true });
        assert_eq!(huge.bytes, 0);
    }

    #[tokio::test]
    async fn too_many_waiting_suspects_count_as_all_requests() {
        let waiting = WaitingSuspects::default();
        for expected in [1, 2] {
            for number in 0..expected {
                waiting.add(Suspects {
                    requests: [(Method::GET, format!("/{number}").into())].into(),
                    are_more: false,
                });
            }
            let suspects = waiting.next().await;
            assert_eq!((paths(&suspects).len(), suspects.are_more), (expected, false));
        }
        for _ in 0..=WAITING {
            waiting.add(Suspects { requests: [(Method::GET, "/".into())].into(), are_more: false });
        }
        assert_eq!(waiting.next().await, Suspects { requests: VecDeque::new(), are_more: true });
    }
}

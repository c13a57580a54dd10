//! Requests whose answers may have been those of others. When bytes come that belong to no response, upstream and this
//! proxy may have been out of step for some time: each answer was then the one to the request before. Nothing tells since
//! when, so that all that the connection has carried lately is suspect, but for its first request: nothing came before
//! that. If a whole response comes behind the only one, either may be the answer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::sync::Notify;

/// Requests that are remembered of one connection.
const REMEMBERED: usize = 256;
/// Bytes of paths that are remembered of one connection.
const REMEMBERED_BYTES: usize = 64 << 10;
/// Requests that may wait to be dealt with.
const WAITING: usize = 4096;

/// Requests whose answers may have been those of others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Method and path, without the query.
    pub requests: VecDeque<(Method, Box<str>)>,
    /// There were others, which are not known any more.
    pub are_more: bool,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && !self.are_more
    }
}

/// What a connection has carried.
#[derive(Debug, Default)]
pub(super) struct Carried {
    has_begun: bool,
    /// The first request of all is the first of `lately`.
    has_first: bool,
    /// Of the paths in `lately`.
    bytes: usize,
    lately: Suspects,
}

impl Carried {
    /// A request has been answered.
    pub fn note(&mut self, method: &Method, path_and_query: &str) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.has_first = true;
        }
        let path = path_and_query.split('?').next().unwrap_or_default();
        self.bytes += path.len();
        self.lately.requests.push_back((method.clone(), path.into()));
        if self.lately.requests.len() > REMEMBERED {
            self.forget();
        }
        while self.bytes > REMEMBERED_BYTES && self.forget() {
            self.lately.are_more = true;
        }
    }

    fn forget(&mut self) -> bool {
        self.has_first = false;
        let oldest = self.lately.requests.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, |(_, path)| path.len());
        oldest.is_some()
    }

    /// Takes what is suspect if the connection turns out to be out of step. `has_another`: what has come begins like a
    /// response.
    pub fn take(&mut self, has_another: bool) -> Suspects {
        if self.has_first && !(has_another && self.lately.requests.len() == 1) {
            self.forget();
        }
        (self.bytes, self.has_first) = (0, false);
        std::mem::take(&mut self.lately)
    }
}

/// Suspects of all connections that wait to be dealt with.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    suspects: Mutex<Suspects>,
    come: Notify,
}

impl Waiting {
    /// Adds some; too many become [`Suspects::are_more`].
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
        self.come.notify_one();
    }

    /// Waits until there are some.
    pub async fn next(&self) -> Suspects {
        loop {
            let suspects = std::mem::take(&mut *self.lock());
            if !suspects.is_empty() {
                return suspects;
            }
            self.come.notified().await;
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
        assert!(carried.take(true).is_empty(), "told once");
    }

    #[test]
    fn the_only_request_is_suspect_if_two_responses_have_come() {
        let once = || carried(["/first".to_owned()]);
        assert_eq!(paths(&once().take(true)), ["/first"]);
        assert!(once().take(false).is_empty());
    }

    #[test]
    fn what_is_remembered_of_a_connection_is_bounded() {
        let mut many = carried((0..1000).map(|number| format!("/{number}")));
        let suspects = many.take(true);
        assert_eq!((suspects.requests.len(), suspects.are_more), (REMEMBERED, false));
        assert_eq!(suspects.requests.back().unwrap().1.as_ref(), "/999");
        let long = "x".repeat(REMEMBERED_BYTES / 3);
        let mut long = carried((0..10).map(|_| long.clone()));
        assert!(long.bytes <= REMEMBERED_BYTES);
        let suspects = long.take(true);
        assert_eq!((suspects.requests.len(), suspects.are_more), (3, true));
        let mut huge = carried((0..2).map(|_| "x".repeat(REMEMBERED_BYTES + 1)));
        assert_eq!(huge.take(true), Suspects { requests: VecDeque::new(), are_more: true });
        assert_eq!(huge.bytes, 0);
    }

    #[tokio::test]
    async fn too_many_that_wait_are_all() {
        let waiting = Waiting::default();
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

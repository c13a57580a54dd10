//! What the rules say of a target. It depends on nothing but the target, the method and the rules, so each worker remembers it for some
//! targets that it is asked for again: a hit on one of these neither normalises the target nor finds its family again.

use std::borrow::Cow;
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, OnceLock, Weak};

use hashbrown::DefaultHashBuilder;
use http::header::HOST;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Method, Uri};

use crate::http::target::Target;
use crate::key::CacheKey;
use crate::rules::Captures;
use crate::running::Live;

/// Most routes that a worker remembers: few enough to stay in the caches of its core, where they take less time to read than to find.
const ROUTES: usize = 512;
/// Longest target that is remembered: host, path and query, bytes.
const LONGEST: usize = 256;

/// The target of a read with its family.
#[derive(Debug)]
pub(super) struct ReadRoute {
    /// As the client sent it; `None` if it is too long to be remembered.
    target: Option<Arc<Target>>,
    /// Without the parameters that the family does not key.
    pub keyed: Arc<Target>,
    /// Id of the family, and the values of its captures.
    pub family: Option<(usize, Captures)>,
    key: OnceLock<CacheKey>,
}

impl ReadRoute {
    /// What the rules say of a target.
    pub fn of(live: &Live, method: &Method, target: &Arc<Target>) -> ReadRoute {
        let found = live.rules.route(method, &target.path);
        let query = match (&found, &target.query) {
            (Some(found), Some(sent)) => found.family.key_spec.query.normalise(sent),
            (_, sent) => sent.as_deref().map(Cow::Borrowed),
        };
        let keyed = match query.as_deref() == target.query.as_deref() {
            true => Arc::clone(target),
            false => Arc::new(target.with_query(query.map(Cow::into_owned))),
        };
        let family = found.map(|found| (found.family.id, found.captures));
        let target = (length(target) <= LONGEST).then(|| Arc::clone(target));
        ReadRoute { target, keyed, family, key: OnceLock::new() }
    }

    /// A target in a family without captures, whatever the patterns say.
    pub fn to(family: usize, target: Arc<Target>) -> ReadRoute {
        ReadRoute { target: None, keyed: target, family: Some((family, Captures::new())), key: OnceLock::new() }
    }

    /// The key of its requests, if nothing of them but the target is part of it. Made by `derive` once, where the route may be remembered.
    pub fn key(&self, derive: impl FnOnce() -> CacheKey) -> CacheKey {
        match &self.target {
            Some(_) => self.key.get_or_init(derive).clone(),
            None => derive(),
        }
    }

    /// The target as the client sent it, if it is short enough to be remembered.
    pub fn target(&self) -> Option<&Arc<Target>> {
        self.target.as_ref()
    }
}

fn length(target: &Target) -> usize {
    target.host.len() + target.sent_path().len() + target.query.as_ref().map_or(0, String::len)
}

/// The route of a GET, if this worker remembers it.
pub(super) fn remembered(live: &Arc<Live>, request: &Parts) -> Option<Arc<ReadRoute>> {
    if request.method != Method::GET {
        return None;
    }
    let host = host(&request.uri, &request.headers)?;
    RECENT.with_borrow(|recent| recent.get(live, host, &request.uri))
}

/// The route of a read that is not remembered. That of a GET may be from now on.
pub(super) fn resolve(live: &Arc<Live>, method: &Method, target: &Arc<Target>) -> Arc<ReadRoute> {
    let route = Arc::new(ReadRoute::of(live, method, target));
    if *method == Method::GET {
        RECENT.with_borrow_mut(|recent| recent.note(live, &route));
    }
    route
}

/// The only text that says the host, as received.
fn host<'r>(uri: &'r Uri, fields: &'r HeaderMap) -> Option<&'r [u8]> {
    let mut lines = fields.get_all(HOST).iter();
    match (uri.authority(), lines.next(), lines.next()) {
        (None, Some(line), None) => Some(line.as_bytes()),
        (Some(authority), None, None) => {
            let is_http = uri.scheme().is_some_and(|it| *it == Scheme::HTTP || *it == Scheme::HTTPS);
            is_http.then(|| authority.as_str().as_bytes())
        }
        _ => None,
    }
}

thread_local! {
    static RECENT: RefCell<RecentRoutes> = RefCell::default();
}

/// Routes of GETs by host, path and query as received. Many targets share a place. A target takes it when it is asked for twice, with no
/// other target that is not remembered in between. So targets that are asked for once displace nothing.
#[derive(Debug, Default)]
struct RecentRoutes {
    /// The rules that they are of.
    live: Weak<Live>,
    hasher: DefaultHashBuilder,
    /// By the hash of the target; empty at first.
    places: Vec<Place>,
}

#[derive(Debug, Clone, Default)]
struct Place {
    /// Hash of the target that may take the place when it is asked for again.
    next: u64,
    /// The route, and the hash of its target.
    route: Option<(u64, Arc<ReadRoute>)>,
}

impl RecentRoutes {
    fn get(&self, live: &Arc<Live>, host: &[u8], uri: &Uri) -> Option<Arc<ReadRoute>> {
        if self.live.as_ptr() != Arc::as_ptr(live) {
            return None;
        }
        let (path, query) = (uri.path(), uri.query());
        let hash = self.hash(host, path, query);
        let (_, route) = self.places[index(hash)].route.as_ref().filter(|(of, _)| *of == hash)?;
        let target = route.target.as_ref()?;
        let is_same =
            target.host.as_bytes() == host && target.sent_path() == path && target.query.as_deref() == query;
        is_same.then(|| Arc::clone(route))
    }

    fn note(&mut self, live: &Arc<Live>, route: &Arc<ReadRoute>) {
        let Some(target) = &route.target else { return };
        if self.live.as_ptr() != Arc::as_ptr(live) {
            self.live = Arc::downgrade(live);
            self.places.clear();
            self.places.resize(ROUTES, Place::default());
        }
        let hash = self.hash(target.host.as_bytes(), target.sent_path(), target.query.as_deref());
        let place = &mut self.places[index(hash)];
        if place.next == hash {
            place.route = Some((hash, Arc::clone(route)));
        } else {
            place.next = hash;
        }
    }

    fn hash(&self, host: &[u8], path: &str, query: Option<&str>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(host);
        hasher.write(path.as_bytes());
        hasher.write(query.unwrap_or_default().as_bytes());
        hasher.write_u8(u8::from(query.is_some()));
        hasher.finish()
    }
}

fn index(hash: u64) -> usize {
    (hash % ROUTES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};
    use crate::http::target::PathCase;
    use crate::key::{self, PresentedCredentials};
    use crate::metrics::Metrics;
    use http::Request;
    use proptest::prelude::*;

    fn live(rules: &str) -> Arc<Live> {
        let mut config = Config::parse(rules, "rules.toml", &Overrides::default(), &|_| None).unwrap();
        Arc::new(Live::take(&mut config, &Metrics::new()))
    }

    fn users(id: &str, query: &str) -> Arc<Live> {
        live(&format!("[[family]]\nname = \"users\"\npath = '/users/(?<{id}>[^/]+)'\nttl = \"60s\"\n{query}\n"))
    }

    fn get(method: &Method, uri: &str, hosts: &[&str]) -> Parts {
        let request = Request::builder().method(method).uri(uri);
        let request = hosts.iter().fold(request, |request, host| request.header(HOST, *host));
        request.body(()).unwrap().into_parts().0
    }

    fn target(request: &Parts) -> Option<Arc<Target>> {
        Target::of("http", &request.uri, &request.headers, PathCase::Sensitive).ok().map(Arc::new)
    }

    /// The route as a worker finds it, which counts as one more request for it; and whether it was remembered.
    fn ask(live: &Arc<Live>, request: &Parts) -> (Option<Arc<ReadRoute>>, bool) {
        match remembered(live, request) {
            Some(route) => (Some(route), true),
            None => (target(request).map(|target| resolve(live, &request.method, &target)), false),
        }
    }

    fn is_remembered(live: &Arc<Live>, method: &Method, uri: &str, hosts: &[&str]) -> bool {
        let request = get(method, uri, hosts);
        (0..4).map(|_| ask(live, &request).1).last().unwrap()
    }

    #[test]
    fn a_target_is_remembered_when_it_is_asked_for_again() {
        let (live, request) = (users("id", ""), get(&Method::GET, "/users/7?a=1", &["a"]));
        let asked: Vec<bool> = (0..4).map(|_| ask(&live, &request).1).collect();
        assert_eq!(asked, [false, false, true, true]);
        // Other rules know nothing of it.
        assert!(!ask(&users("id", ""), &request).1);
    }

    #[test]
    fn only_gets_of_one_plainly_written_host_are_remembered() {
        let (live, longest) = (users("id", ""), format!("/users/{}", "x".repeat(LONGEST - 8)));
        for (method, uri, hosts, expected) in [
            (Method::GET, "/users/7", &["a"][..], true),
            (Method::GET, "/users/%37", &["a"], true),
            (Method::GET, "http://a/users/7", &[], true),
            (Method::GET, &longest, &["a"], true),
            (Method::GET, &format!("{longest}x"), &["a"], false),
            (Method::GET, "http://a/users/7", &["a"], false),
            (Method::GET, "ftp://a/users/7", &[], false),
            (Method::GET, "/users/7", &["A"], false),
            (Method::GET, "/users/7", &["a:80"], false),
            (Method::GET, "/users/7", &["a", "a"], false),
            (Method::GET, "/users/7", &[], false),
            (Method::HEAD, "/users/7", &["a"], false),
        ] {
            assert_eq!(is_remembered(&live, &method, uri, hosts), expected, "{method} {uri} {hosts:?}");
        }
    }

    #[test]
    fn parameters_that_the_family_does_not_key_are_not_forwarded() {
        let live = users("id", "query = { keep = [\"b\"] }");
        let route = ask(&live, &get(&Method::GET, "/users/7?b=1&a=2", &["a"])).0.unwrap();
        let sent = route.target().unwrap().query.as_deref();
        assert_eq!((sent, route.keyed.query.as_deref()), (Some("b=1&a=2"), Some("b=1")));
    }

    #[test]
    fn a_target_with_the_hash_of_another_is_not_taken_for_it() {
        let (live, mut recent) = (users("id", ""), RecentRoutes::default());
        let target = target(&get(&Method::GET, "/users/1?a", &["a"])).unwrap();
        let route = Arc::new(ReadRoute::of(&live, &Method::GET, &target));
        for (host, uri, expected) in [
            ("a", "/users/1?a", true),
            ("b", "/users/1?a", false),
            ("a", "/users/2?a", false),
            ("a", "/users/1?b", false),
            ("a", "/users/1", false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            recent.note(&live, &route);
            let hash = recent.hash(host.as_bytes(), uri.path(), uri.query());
            recent.places[index(hash)].route = Some((hash, Arc::clone(&route)));
            assert_eq!(recent.get(&live, host.as_bytes(), &uri).is_some(), expected, "{host} {uri}");
        }
    }

    #[test]
    fn a_long_target_is_held_once_and_its_key_is_not_held() {
        let live = users("id", "query = { keep = [\"b\"] }");
        let long = format!("/users/7?b={}&a=1", "x".repeat(LONGEST));
        let route = ask(&live, &get(&Method::GET, &long, &["a"])).0.unwrap();
        let derive = || {
            key::derive(
                &route.keyed,
                PresentedCredentials::without_token(&HeaderMap::new()),
                None,
                &live.redaction,
            )
        };
        assert_eq!(route.key(derive).text, derive().text);
        assert!(route.target().is_none() && route.key.get().is_none());
    }

    proptest! {
        /// Whatever was asked for before, and whichever rules are in force.
        #[test]
        fn what_is_remembered_is_what_the_rules_say(
            asked in prop::collection::vec((0..2usize, 0..3usize, 0..6usize, 0..4usize, any::<bool>()), 1..60),
        ) {
            let lives = [users("id", ""), users("name", "query = { keep = [\"b\"] }")];
            for (live, host, path, query, is_get) in asked {
                let live = &lives[live];
                let path = ["/users/7", "/users/%37", "/users/8", "/users/./7", "/other", "/users/7/"][path];
                let uri = format!("{path}{}", ["", "?", "?a=1", "?b=2&a=1"][query]);
                let method = if is_get { Method::GET } else { Method::HEAD };
                let request = get(&method, &uri, &[["a", "A", "b"][host]]);
                let expected = ReadRoute::of(live, &method, &target(&request).unwrap());
                let found = ask(live, &request).0.unwrap();
                prop_assert_eq!(
                    (found.target(), &found.keyed, &found.family),
                    (expected.target(), &expected.keyed, &expected.family)
                );
            }
        }
    }
}

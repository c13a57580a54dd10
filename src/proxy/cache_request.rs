//! A read (GET, HEAD, QUERY, or a POST that a family reads by) together with what the rules say of it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, FORWARDED, SET_COOKIE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};

use super::route::ReadRoute;
use super::{Answered, Body, ClientRequest};
use crate::bearer::{self, BearerToken, TokenFault};
use crate::cache::{Cache, Lookup};
use crate::entry;
use crate::http::adaptive_ttl::RequestRate;
use crate::http::demands::Demands;
use crate::http::freshness::Reuse;
use crate::http::headers::{self, ForwardedPolicy, X_FORWARDED_FOR, claims};
use crate::http::storable::RequestFacts;
use crate::http::{ClientDirectives, Policy, Revalidate, SetCookie, negotiation, range, validation};
use crate::key::{self, CacheKey, Identity, KeySpec, PresentedCredentials, query};
use crate::marks::Tag;
use crate::metrics::NO_FAMILY;
use crate::outcome::Outcome;
use crate::rules::{self, Ambiguity, Captures, Collapse, Family, Fetching, InstanceValues};
use crate::running::{Live, Running};

/// A read with what the rules say of it.
pub(super) struct CacheRequest {
    /// As the client sent it, without what the family does not key.
    pub client_request: ClientRequest,
    live: Arc<Live>,
    route: Arc<ReadRoute>,
    /// The values of the family's instances beside its captures; `None` if there are too many.
    instances: Option<InstanceValues>,
    pub facts: RequestFacts,
    pub demands: Demands,
    /// Content of a QUERY or POST.
    pub content: Option<Bytes>,
    /// The fields with the caller's credentials, if the API says of callers whether it authorizes them (`authorize`).
    credentials: Option<Box<HeaderMap>>,
    tags: OnceLock<Arc<[Tag]>>,
    /// Its bearer token, where its family identifies callers by claims.
    bearer: BearerToken,
    /// Why that does not identify the caller, whatever the time.
    bearer_fault: Option<TokenFault>,
}

impl CacheRequest {
    /// A client's request in its family. Parameters and fields that the family does not key are removed here, before the key is made
    /// and before anything is sent: upstream sees exactly what the key holds.
    pub fn new(live: Arc<Live>, http: ClientRequest, content: Option<Bytes>) -> CacheRequest {
        let route = Arc::new(ReadRoute::of(&live, &http.method, &http.target));
        CacheRequest::on_route(live, http, route, content)
    }

    /// The same for a request whose route is known.
    pub fn on_route(
        live: Arc<Live>,
        mut http: ClientRequest,
        route: Arc<ReadRoute>,
        content: Option<Bytes>,
    ) -> CacheRequest {
        let family = route.family.as_ref().and_then(|(id, _)| live.rules.families().get(*id));
        let directives = family.map_or_else(ClientDirectives::default, |family| family.policy.client_directives);
        let is_guarded = family.is_some_and(|family| family.authorize.is_some());
        let credentials = is_guarded.then(|| Box::new(credentials(&live, &http)));
        rules::strip_read(&mut http.headers, http.forwarded, family);
        let is_shared = family.is_some_and(|family| family.key_spec.identity == Identity::Shared);
        if let Some(credentials) = credentials.as_ref().filter(|_| is_shared) {
            // They are sent although the key lacks them: the API is to refuse callers that it does not authorize.
            put_back(&mut http.headers, credentials);
        }
        http.target = Arc::clone(&route.keyed);
        for name in family.iter().flat_map(|family| &family.fetching.normalize) {
            negotiation::normalise(name, &mut http.headers);
        }
        let identity = family.map(|family| &family.key_spec.identity);
        let (mut bearer, mut bearer_fault) = (BearerToken::Absent, None);
        if let Some(identity) = identity.filter(|identity| identity.is_by_claims()) {
            bearer = live.bearer(&http.headers);
            bearer_fault = identity.fault_of(&bearer);
            bearer::normalise(&mut http.headers);
        }
        let demands = if http.conditions { Demands::of(&http.headers, directives) } else { Demands::default() };
        let mut facts = RequestFacts { no_store: demands.no_store, ..RequestFacts::default() };
        if http.credentials {
            let key_spec = family.map(|family| &family.key_spec);
            note_credentials(&mut facts, &live, key_spec, &http.headers);
            if !facts.has_credentials() && key_spec.is_some_and(|key_spec| is_anonymous(key_spec, &http.headers)) {
                // It shares the entry of anonymous callers, so that upstream must take it for an anonymous caller too.
                http.headers.remove(COOKIE);
            }
        }
        // In addition to what is decided on it: nothing is stored or shared.
        facts.authorization |= bearer_fault.is_some();
        let instances = match family.filter(|family| !family.instances.is_empty()) {
            Some(family) => {
                let presented = PresentedCredentials { fields: &http.headers, bearer: &bearer };
                family.instance_values(&http.target, presented, live.redaction.secret.as_ref())
            }
            None => Some(InstanceValues::new()),
        };
        CacheRequest {
            client_request: http,
            live,
            route,
            instances,
            facts,
            demands,
            content,
            credentials,
            tags: OnceLock::new(),
            bearer,
            bearer_fault,
        }
    }

    /// The check of the caller that its family asks for: a GET with the caller's credentials, and nothing else of the request. `None` if the
    /// family asks for none.
    pub fn check(&self) -> Option<CacheRequest> {
        let credentials = self.credentials.as_ref()?;
        let authorize = self.family()?.0.authorize.as_ref()?;
        let target = self.client_request.target.with_query(None).at(&authorize.path);
        let route = Arc::new(ReadRoute::to(authorize.verdicts, Arc::new(target)));
        let mut headers = HeaderMap::clone(credentials);
        // What a proxy in front says of the client, which is part of the key where it counts.
        let is_claim =
            |name: &HeaderName| claims::is_keyed(name) || *name == FORWARDED || *name == X_FORWARDED_FOR;
        let claims = self
            .client_request
            .headers
            .iter()
            .filter(|(name, _)| is_claim(name) && !credentials.contains_key(*name));
        claims.for_each(|(name, value)| {
            headers.append(name, value.clone());
        });
        let http = ClientRequest::without_connection(
            (Method::GET, Arc::clone(&route.keyed), headers),
            self.client_request.client,
            self.client_request.forwarded,
        );
        let of_request = &self.client_request;
        let http = ClientRequest {
            underscored: of_request.underscored.clone(),
            request_id: of_request.request_id.clone(),
            telemetry: of_request.telemetry.clone(),
            ..http
        };
        // Without the tags of all credentials a write with one of them could not invalidate it.
        let is_too_much = key::credentials(credentials, None).is_none();
        Some(CacheRequest {
            client_request: http,
            live: Arc::clone(&self.live),
            route,
            instances: Some(InstanceValues::new()),
            facts: RequestFacts { no_store: is_too_much, ..RequestFacts::default() },
            demands: Demands { only_if_cached: self.demands.only_if_cached, ..Demands::default() },
            content: None,
            credentials: Some(credentials.clone()),
            tags: OnceLock::new(),
            // The API judges it.
            bearer: BearerToken::Absent,
            bearer_fault: None,
        })
    }

    /// How long the API's answer is kept, if it is the answer to a [`CacheRequest::check`].
    pub fn verdict_ttl(&self) -> Option<Duration> {
        self.credentials.as_ref()?;
        self.family().filter(|(family, _)| family.is_of_verdicts())?.0.policy.ttl
    }

    /// The names of the fields with the caller's credentials, in a family with `authorize`.
    pub fn credential_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.credentials.iter().flat_map(|credentials| credentials.keys())
    }

    /// Whether only callers that the API authorizes may have what is stored.
    pub fn is_guarded(&self) -> bool {
        // Most families lack them, and are not looked up for this.
        self.credentials.is_some() && self.verdict_ttl().is_none()
    }

    /// How the family asks upstream.
    pub fn fetching(&self) -> Fetching {
        self.family().map_or_else(Fetching::default, |(family, _)| family.fetching.clone())
    }

    /// The family of the path, with the values of its captures.
    pub fn family(&self) -> Option<(&Family, &Captures)> {
        let (id, captures) = self.route.family.as_ref()?;
        Some((self.live.rules.families().get(*id)?, captures))
    }

    /// The values of each of the family's instances beside its captures.
    pub fn instances(&self) -> &[Vec<String>] {
        self.instances.as_deref().unwrap_or_default()
    }

    /// It names more instances than a stored response may have. Such a request bypasses the cache.
    pub fn has_too_many_instances(&self) -> bool {
        self.instances.is_none()
    }

    /// Its path, for operators, and the names of its query parameters that the family keys. Values may be secrets, and the response may
    /// never be stored.
    pub fn reported_url(&self) -> Cow<'_, str> {
        let target = &self.client_request.target;
        match (&self.route.family, &target.query) {
            (Some(_), Some(query)) => [target.path.as_str(), "?", &query::shown_names(query)].concat().into(),
            _ => target.path.as_str().into(),
        }
    }

    /// The name of the family, or [`NO_FAMILY`].
    pub fn family_name(&self) -> &str {
        self.family().map_or(NO_FAMILY, |(family, _)| &family.name)
    }

    /// Id of the family, for its counters.
    pub fn family_id(&self) -> Option<usize> {
        self.route.family.as_ref().map(|(id, _)| *id)
    }

    /// Whether its hits are counted by request ([`Family::counted`]).
    pub fn is_counted(&self) -> bool {
        self.family().is_some_and(|(family, _)| family.counted)
    }

    /// Counts it, if its family has `adaptive_ttl`.
    pub fn count(&self, running: &Running, lookup: &Lookup) {
        if self.family().is_some_and(|(family, _)| family.policy.adaptive_ttl.is_some()) {
            self.live.request_rates.count(lookup.primary().hash, running.cache.now());
        }
    }

    /// How often its URL is requested, if its family has `adaptive_ttl`.
    pub fn rate(&self, now: SystemTime) -> Option<RequestRate> {
        self.family().filter(|(family, _)| family.policy.adaptive_ttl.is_some())?;
        self.live.request_rates.of(self.cache_key().hash, now)
    }

    /// The bytes over which its response's body is compressed in Redis; `None`: it is not.
    pub fn compress_above(&self) -> Option<usize> {
        let (above, is_usual) = self.live.compression?;
        let of_family = self.family().and_then(|(family, _)| family.compress);
        of_family.unwrap_or(is_usual).then_some(above)
    }

    /// What the family says about storing; plain RFC 9111 without one.
    pub fn policy(&self) -> Policy {
        let policy = self.family().map_or_else(Policy::default, |(family, _)| family.policy.clone());
        // RFC 9110 §9.3.3: a response to POST is cacheable only with an explicit lifetime.
        Policy { heuristic: policy.heuristic && !self.is_post(), ..policy }
    }

    /// Whether it is a POST that its family reads by.
    pub fn is_post(&self) -> bool {
        self.client_request.method == Method::POST
    }

    /// Whether its family says `revalidate = "always"`.
    pub fn is_always_validated(&self) -> bool {
        self.family().is_some_and(|(family, _)| family.policy.revalidate == Revalidate::Always)
    }

    /// Whether it has credentials, keyed by its family or not.
    pub fn has_credentials(&self) -> bool {
        self.client_request.credentials && self.live.credentials.of(&self.client_request.headers).next().is_some()
    }

    /// Fields with credentials that its family does not key.
    pub fn unknown_credentials(&self) -> Vec<&HeaderName> {
        let key_spec = self.family().map(|(family, _)| &family.key_spec);
        unknown_credentials(&self.live, key_spec, &self.client_request.headers).collect()
    }

    /// Removes the response fields that its family does not pass on (`set_cookie = "strip"`).
    pub fn strip_answer(&self, fields: &mut HeaderMap) {
        if self.family().is_some_and(|(family, _)| family.policy.set_cookie == SetCookie::Strip) {
            fields.remove(SET_COOKIE);
        }
    }

    /// A QUERY that no family names: it is forwarded, and its response is not stored.
    pub fn is_unclaimed_query(&self) -> bool {
        self.content.is_some() && self.route.family.is_none()
    }

    /// The largest body that is stored, bytes.
    pub fn max_body(&self, running: &Running) -> u64 {
        self.configured_max_body().min(running.cache.memory().largest_body())
    }

    /// The same by the rules alone.
    pub fn configured_max_body(&self) -> u64 {
        self.family().and_then(|(family, _)| family.max_body).unwrap_or(self.live.max_body)
    }

    /// The tags of its response, as far as the request determines them: for every reading of its path.
    pub fn tags(&self) -> &Arc<[Tag]> {
        self.tags.get_or_init(|| {
            let readings = self.client_request.target.readings();
            let of_family = self.family().map(|(family, captures)| {
                let values = self.instances.as_ref().unwrap_or(const { &InstanceValues::new() });
                family.tags_of(&readings, captures, values)
            });
            let of_path = readings.all().map(Tag::uri);
            let secret = self.live.redaction.secret.as_ref();
            let of_identity = self.family().map(|(family, _)| family.tags_of_identity(self.presented(), secret));
            let of_callers = of_identity.unwrap_or_default().into_iter().chain(self.tags_of_caller());
            let of_none = self.route.family.is_none().then(Tag::unclaimed);
            let of_family = of_family.unwrap_or_default().into_iter().chain(of_none).chain(of_callers);
            std::iter::once(Tag::root()).chain(of_path).chain(of_family).collect()
        })
    }

    fn presented(&self) -> PresentedCredentials<'_> {
        PresentedCredentials { fields: &self.client_request.headers, bearer: &self.bearer }
    }

    /// Why its bearer token does not identify its caller at this time, where its family identifies callers by claims. Such a
    /// request is forwarded for itself alone, whatever is stored.
    pub fn token_fault(&self, now: SystemTime) -> Option<TokenFault> {
        self.bearer_fault.or_else(|| match &self.bearer {
            BearerToken::Verified(token) => token.fault_at(now),
            BearerToken::Absent | BearerToken::Refused(_) => None,
        })
    }

    /// The tags of a verdict by which writes of its caller invalidate it.
    fn tags_of_caller(&self) -> Vec<Tag> {
        let verdicts =
            self.family().filter(|(family, _)| family.is_of_verdicts() && family.is_invalidated_by_caller);
        let (Some((verdicts, _)), Some(credentials)) = (verdicts, &self.credentials) else { return Vec::new() };
        let digests = key::credentials(credentials, self.live.redaction.secret.as_ref());
        verdicts.tags_of_callers(&digests.unwrap_or_default())
    }

    /// The families that upstream may take the path for, if there is not only one. Such a request bypasses the cache.
    pub fn ambiguity(&self) -> Option<Ambiguity<'_>> {
        self.live.rules.ambiguity(&self.client_request.method, &self.client_request.target)
    }

    /// Readable part of the entry's name in Redis.
    pub fn label(&self) -> String {
        let values = || self.instances.as_ref().unwrap_or(const { &InstanceValues::new() });
        self.family().map_or_else(|| "-".to_owned(), |(family, captures)| family.label(captures, values()))
    }

    /// The primary key: without the fields that responses vary on.
    pub fn cache_key(&self) -> CacheKey {
        let family = self.family().map(|(family, _)| family.key_spec());
        let of_target_and_fields = || {
            let target = &self.client_request.target;
            let cache_key = key::derive(target, self.presented(), family, &self.live.redaction);
            match &self.live.store_version {
                Some(version) => cache_key.of_version(version),
                None => cache_key,
            }
        };
        let cache_key = match family.is_none_or(|family| family.key_spec.is_of_target_alone()) {
            true => self.route.key(of_target_and_fields),
            false => of_target_and_fields(),
        };
        let cache_key = match &self.content {
            Some(content) => {
                cache_key.querying(&self.client_request.method, content, &self.client_request.headers)
            }
            None => cache_key,
        };
        let cache_key = match &self.credentials {
            Some(credentials) if self.verdict_ttl().is_some() => cache_key.of_caller(credentials),
            _ => cache_key,
        };
        match self.client_request.forwarded {
            // On the hit path the key is not made a second time.
            ForwardedPolicy::Set | ForwardedPolicy::Off => cache_key,
            ForwardedPolicy::Append => cache_key.behind(ForwardedPolicy::Append, &self.client_request.headers),
        }
    }

    /// It carries credentials that its family does not key. Only responses that RFC 9111 §3.5 lets a shared cache give to every caller
    /// may answer it, and its fetch has no followers.
    pub fn is_personal(&self) -> bool {
        self.facts.has_credentials()
    }

    /// A miss is fetched once for all proxies of the fleet (`collapse = "fleet"`).
    pub fn coalesces_across_proxies(&self) -> bool {
        let is_asked_for = self.family().is_some_and(|(family, _)| family.collapse == Collapse::Fleet);
        is_asked_for && !self.demands.validated
    }

    /// It may follow the fetch of another request to this proxy.
    pub fn may_coalesce(&self) -> bool {
        let is_off = self.family().is_some_and(|(family, _)| family.collapse == Collapse::Off);
        !is_off && !self.is_personal() && !self.facts.no_store
    }

    /// The client's fields that go upstream with a fetch.
    pub fn sent(&self) -> HeaderMap {
        let mut fields = self.client_request.headers.clone();
        validation::strip_conditions(&mut fields);
        fields
    }

    /// How long it waits as a follower; `None` for no limit. There is none in a family, whose responses can be shared, and where paths of
    /// this shape had responses that could be shared. Elsewhere it may be a long poll, which upstream answers late and to each client
    /// separately: then `collapse_wait`.
    pub fn follower_wait(&self, running: &Running) -> Option<Duration> {
        let is_known = self.route.family.is_some() || running.shapes.is_shared(&self.client_request.target.path);
        (!is_known).then_some(running.config.server.collapse_wait)
    }

    /// Remembers whether a successful response could be shared, outside families.
    pub fn note_shared(&self, running: &Running, status: StatusCode, is_shared: bool) {
        if self.route.family.is_none() && status.is_success() {
            running.shapes.note(&self.client_request.target.path, is_shared);
        }
    }

    /// Whether a stored response is fresh for this request and may be served to it.
    pub fn is_answered_by(&self, stored: &entry::Response, now: SystemTime) -> bool {
        let is_refused = self.credentials_forbid(stored) || self.token_fault(now).is_some();
        !is_refused && matches!(stored.freshness.reuse(now, &self.demands), Reuse::Fresh { .. })
    }

    /// Whether the preconditions that only an origin evaluates hold for a stored response. They count only where the response would be
    /// a 2xx (RFC 9110 §13.2.1).
    pub fn is_met_by(&self, stored: &entry::Response) -> bool {
        !stored.status.is_success()
            || validation::is_as_asked(&self.client_request.headers, &stored.headers.to_map(0))
    }

    /// Whether a stored response is for requests without credentials, and this one has some. RFC 9111 §3.5 restricts responses *to*
    /// credentials. Not serving other responses to them either is stricter: upstream might have answered this caller differently.
    pub fn credentials_forbid(&self, stored: &entry::Response) -> bool {
        self.is_personal() && !stored.for_credentials
    }

    /// It asks for a range (RFC 9110 §14.2).
    pub fn is_for_range(&self) -> bool {
        self.client_request.method == Method::GET && range::is_asked_for(&self.client_request.headers)
    }

    /// Looks it up in the cache.
    pub async fn look_up(&self, cache: &Cache) -> Lookup {
        match self.look_up_now(cache) {
            Ok(lookup) => lookup,
            Err(cache_key) => self.look_up_later(cache, cache_key).await,
        }
    }

    /// The same without waiting ([`Cache::lookup_now`]).
    pub fn look_up_now(&self, cache: &Cache) -> Result<Lookup, CacheKey> {
        cache.lookup_now(self.cache_key(), &self.client_request.headers, || Arc::clone(self.tags()))
    }

    /// Continues the lookup in Redis after [`CacheRequest::look_up_now`].
    pub async fn look_up_later(&self, cache: &Cache, cache_key: CacheKey) -> Lookup {
        let (label, tags) = (|| self.label(), || Arc::clone(self.tags()));
        cache.lookup_later(cache_key, &self.client_request.headers, label, tags).await
    }

    /// A response that counts for the family.
    pub fn answered(&self, response: Response<Body>, outcome: Outcome) -> Answered {
        Answered { response, outcome, family: self.family_id() }
    }
}

/// Fields with credentials that are not keyed.
fn unknown_credentials<'f>(
    live: &Live,
    key_spec: Option<&KeySpec>,
    fields: &'f HeaderMap,
) -> impl Iterator<Item = &'f HeaderName> {
    live.credentials.of(fields).filter(move |name| !key_spec.is_some_and(|key_spec| key_spec.knows(name)))
}

/// The fields with credentials, as they are on a write: without claims of an untrusted peer. Whatever family a read is in, its caller is
/// the same.
fn credentials(live: &Live, http: &ClientRequest) -> HeaderMap {
    let is_identity = |name: &HeaderName| live.rules.identify_by(name);
    let beside: Vec<HeaderName> = http.headers.keys().filter(|name| is_identity(name)).cloned().collect();
    let mut selected = live.credentials.select(&http.headers, &beside);
    headers::strip_claims(&mut selected, http.forwarded, is_identity);
    selected
}

fn put_back(fields: &mut HeaderMap, credentials: &HeaderMap) {
    for name in credentials.keys() {
        fields.remove(name);
        credentials.get_all(name).iter().for_each(|value| {
            fields.append(name, value.clone());
        });
    }
}

fn note_credentials(facts: &mut RequestFacts, live: &Live, key_spec: Option<&KeySpec>, fields: &HeaderMap) {
    for name in unknown_credentials(live, key_spec, fields) {
        match *name {
            AUTHORIZATION => facts.authorization = true,
            COOKIE => facts.cookie = true,
            _ => facts.other_credentials = true,
        }
    }
}

/// Whether the family identifies callers by a cookie, the request has none of what identifies them, and no other cookies are
/// keyed.
fn is_anonymous(key_spec: &KeySpec, fields: &HeaderMap) -> bool {
    let identity = &key_spec.identity;
    let is_by_cookie =
        key_spec.cookies.is_none() && !key_spec.headers.contains(&COOKIE) && identity.cookies().next().is_some();
    is_by_cookie && identity.sources().iter().all(|source| !source.is_in(fields))
}

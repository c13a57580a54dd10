//! Explains a read: what the rules say of it, what is stored for it, and the decision that the proxy makes (`super::decide`). For
//! `larder explain` and the admin's `GET /cache/explain`, which print the same types as JSON.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::ClientRequest;
use super::cache_request::CacheRequest;
use super::decide::{Decision, MissReason, bypass, decide, may_validate, stale_if_error};
use crate::bearer::TokenFault;
use crate::cache::{self, Cache, Found, Lookup};
use crate::config::warm::paths::PathPattern;
use crate::config::{Config, WarmTable};
use crate::entry::{self, Content, Entry};
use crate::http::demands::Demands;
use crate::http::freshness::Freshness;
use crate::http::headers::{self, claims};
use crate::http::target::{Target, TargetFault};
use crate::http::{ClientDirectives, Revalidate, SetCookie, TtlPolicy, validation};
use crate::key::{CacheKey, Identity, KeyHash, Parameters, shown_tag, shown_text};
use crate::marks::{Epoch, MarksView, Stamp};
use crate::rules::{Ambiguity, Family, ReadSource};
use crate::running::Live;
use crate::upstream::UpstreamError;

mod authorization;
mod policies;
pub(super) mod response;
mod stored;

pub use authorization::AuthorizationExplanation;
pub use response::{ResponseExplanation, UpstreamResponse, stated_length};
pub use stored::{InvalidatingMark, StoredExplanation, StoredResponse};

/// A read to explain.
pub struct Explainer<'c> {
    config: &'c Config,
    live: Arc<Live>,
    /// Fields of its scheme, host, path or client that are trusted only from `trusted_proxies`.
    removed: Vec<HeaderName>,
    request: CacheRequest,
}

/// What the rules say of a read.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RouteExplanation {
    pub method: String,
    pub path: String,
    pub family: Option<String>,
    /// Pattern and line of the family.
    pub rule: Option<String>,
    /// Values of the pattern's captures, then `name=value` for each value of the other instances.
    pub instance: Vec<String>,
    pub key: String,
    pub key_text: String,
    /// Its name in Redis.
    pub store_key: String,
    pub tags: Vec<String>,
    pub ttl: String,
    pub notes: Vec<String>,
    pub invalidated_by: Vec<String>,
}

/// How a stored response may be reused.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReuseTerms {
    /// Freshness lifetime, seconds.
    pub lifetime: u64,
    /// Age when it was received, seconds.
    pub initial_age: u64,
    /// Where the lifetime comes from.
    pub lifetime_from: String,
    pub for_credentials: bool,
    pub credentials: String,
    pub stale_while_revalidate: Allowance,
    pub stale_if_error: Allowance,
    pub stale_if_unreachable: Allowance,
    /// The conditions that would validate it; empty if it has no validator.
    pub validated_with: Vec<String>,
}

/// How long after its lifetime a response may be served.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Allowance {
    /// Seconds; 0: not at all.
    pub seconds: u64,
    pub because: String,
}

/// The decision on a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DecisionExplanation {
    pub does: Action,
    pub because: String,
    /// Seconds of freshness left of the stored response; negative when it is stale.
    pub ttl: Option<i64>,
}

/// How a request would be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// From the cache, fresh.
    Hit,
    /// From the cache, stale; upstream is asked in the background.
    StaleAndRevalidated,
    /// From the cache, stale.
    Stale,
    /// Upstream is asked first whether the stored response still holds.
    Validated,
    /// Fetched from upstream.
    Fetched,
    /// Forwarded to upstream; nothing is stored.
    Forwarded,
    /// Larder's own error.
    Refused,
}

impl Action {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Action::Hit => "served from the cache, fresh",
            Action::StaleAndRevalidated => "served from the cache, stale, and revalidated in the background",
            Action::Stale => "served from the cache, stale",
            Action::Validated => "validated with upstream first",
            Action::Fetched => "fetched from upstream",
            Action::Forwarded => "forwarded to upstream, past the cache",
            Action::Refused => "refused with 504",
        }
    }
}

/// The sources of instances that the request has no value of.
fn family_instances_without_value(request: &CacheRequest) -> Vec<String> {
    let instances = request.family().map(|(family, _)| family.instances.as_slice()).unwrap_or_default();
    let without = instances.iter().zip(request.instances()).filter(|(_, values)| values.is_empty());
    without.map(|(further, _)| further.source.to_string()).collect()
}

impl<'c> Explainer<'c> {
    /// A read by a client on this machine. A QUERY or POST is taken to have no content.
    pub fn of(
        config: &'c Config,
        live: Arc<Live>,
        method: Method,
        target: Target,
        mut fields: HeaderMap,
    ) -> Explainer<'c> {
        let underscored = match config.server.underscores {
            true => headers::dash_underscored(&mut fields),
            false => {
                headers::drop_underscored(&mut fields);
                Vec::new()
            }
        };
        headers::strip_hop_by_hop(&mut fields);
        headers::take_debug(&mut fields);
        let content = matches!(method.as_str(), "QUERY" | "POST").then(Bytes::new);
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let forwarded = config.server.forwarded_from(client);
        let removed = fields.keys().filter(|name| claims::goes(name, forwarded, |_| false)).cloned().collect();
        let http = ClientRequest::without_connection((method, Arc::new(target), fields), client, forwarded);
        let http = ClientRequest { underscored, ..http };
        Explainer { config, live: Arc::clone(&live), removed, request: CacheRequest::new(live, http, content) }
    }

    /// The target of a path or URL, and the request's fields. The host is part of the key: without one it is the address that a client
    /// on this machine would use.
    pub fn target(config: &Config, uri: &Uri, mut fields: HeaderMap) -> Result<(Target, HeaderMap), TargetFault> {
        if uri.authority().is_none() && !fields.contains_key(HOST) {
            let listen = config.server.listen.to_string();
            fields.insert(HOST, HeaderValue::try_from(listen).map_err(|_| TargetFault::BadHost)?);
        }
        Ok((Target::of("http", uri, &fields, config.server.case_insensitive_paths)?, fields))
    }

    /// Whether requests of this method may be reads. A POST is one where a family reads by it
    /// ([`crate::rules::RuleSet::is_write`]).
    pub fn may_be_read(method: &Method) -> bool {
        matches!(method.as_str(), "GET" | "HEAD" | "QUERY" | "POST")
    }

    /// The hash of its primary key.
    pub fn primary_key(&self) -> KeyHash {
        self.cache_key().hash
    }

    /// The name of its family.
    pub fn family(&self) -> Option<&str> {
        self.request.family().map(|(family, _)| family.name.as_str())
    }

    /// How often this proxy served the entry that is in memory for it, and those before that.
    pub fn served(&self, cache: &Cache) -> u32 {
        let (memory, primary) = (cache.memory(), self.cache_key());
        match memory.varies_on(&primary) {
            Some(index) => {
                let on = index.vary_index().map_or(&[][..], |variants| &variants.on);
                memory.hits(primary.variant(on, &self.request.client_request.headers).hash)
            }
            None => memory.hits(primary.hash),
        }
    }

    fn cache_key(&self) -> CacheKey {
        self.request.cache_key()
    }

    fn store_key(&self, cache_key: &CacheKey) -> String {
        let namespace = self.config.store.as_ref().map_or("larder", |store| store.namespace.as_str());
        format!("{namespace}:{}", cache::name(&self.request.label(), cache_key.key()))
    }

    /// What the rules say of it.
    pub fn claim(&self) -> RouteExplanation {
        let http = &self.request.client_request;
        let family = self.request.family();
        let cache_key = self.cache_key();
        // Nothing is looked up or stored for it.
        let is_keyless = family.is_some_and(|(family, _)| family.is_never_cached)
            || self.token_fault(SystemTime::now()).is_some();
        let tags = if is_keyless { &[][..] } else { self.request.tags() };
        RouteExplanation {
            method: http.method.to_string(),
            path: http.target.path.clone(),
            family: family.map(|(family, _)| family.name.clone()),
            rule: family.map(|(family, _)| format!("{} (line {})", family.path, family.line)),
            instance: self.instance(),
            store_key: if is_keyless { "-".to_owned() } else { self.store_key(&cache_key) },
            key: if is_keyless { "-".to_owned() } else { cache_key.key().to_string() },
            key_text: if is_keyless { "-".to_owned() } else { cache_key.text },
            tags: tags.iter().map(shown_tag).collect(),
            ttl: self.ttl(),
            notes: self.notes(),
            invalidated_by: self.invalidated_by(),
        }
    }

    fn instance(&self) -> Vec<String> {
        let Some((family, captures)) = self.request.family() else { return Vec::new() };
        let further = family.instances.iter().zip(self.request.instances());
        // A token that is not valid says nothing of its caller.
        let is_refused = self.token_fault(SystemTime::now()).is_some();
        let further = further.filter(|(further, _)| !is_refused || further.source != ReadSource::Identity);
        let further = further.flat_map(|(further, values)| {
            values.iter().map(|value| format!("{}={}", further.name, shown_text(value)))
        });
        captures.iter().cloned().chain(further).collect()
    }

    fn ttl(&self) -> String {
        let Some((family, _)) = self.request.family() else {
            return "what upstream says (Cache-Control, Expires); nothing is stored without it".to_owned();
        };
        if family.is_never_cached {
            return "never: the family says cache = \"never\"".to_owned();
        }
        if let Some(fault) = self.token_fault(SystemTime::now()) {
            return format!("never: the bearer token does not identify the caller (detail={})", fault.token());
        }
        let policy = &family.policy;
        if policy.revalidate == Revalidate::Always {
            return "never without validation: the family says revalidate = \"always\"".to_owned();
        }
        let until = policy.until.and_then(|until| Some((until, until.from(SystemTime::now())?)));
        let left = until.map(|(until, left)| {
            // In whole seconds, as a lifetime.
            format!("{} now, until {until}", humantime::format_duration(Duration::from_secs(left.as_secs())))
        });
        let ttl = policy.ttl.map(|ttl| humantime::format_duration(ttl).to_string());
        let ttl = match (ttl, &left) {
            (Some(ttl), Some(left)) if until.map(|(_, left)| left) < policy.ttl => {
                Some(format!("{left}, which comes before the ttl of {ttl}"))
            }
            (ttl, left) => ttl.or_else(|| left.clone()),
        };
        let ends = left.map(|left| format!("; at most {left}")).unwrap_or_default();
        match (ttl, policy.ttl_policy) {
            (Some(ttl), TtlPolicy::Override) => {
                format!(
                    "{ttl}, from the family (ttl_policy = \"override\"); only no-store and private win over it{ends}"
                )
            }
            (Some(ttl), TtlPolicy::Default) => {
                format!(
                    "what upstream says (Cache-Control, Expires); where it says nothing {ttl}, from the family{ends}"
                )
            }
            (None, _) => "what upstream says (Cache-Control, Expires); the family has no ttl".to_owned(),
        }
    }

    /// Why the bearer token does not identify the caller. Such a request is forwarded whatever is stored.
    fn token_fault(&self, now: SystemTime) -> Option<TokenFault> {
        self.request.token_fault(now)
    }

    fn notes(&self) -> Vec<String> {
        let http = &self.request.client_request;
        if self.request.family().is_some_and(|(family, _)| family.is_never_cached) {
            return vec![MissReason::NeverCached.explanation().to_owned()];
        }
        let mut notes = Vec::new();
        notes.extend(self.request.ambiguity().map(|ambiguity| {
            format!("{}: the request is forwarded, and nothing of it is stored or shared", described(&ambiguity))
        }));
        notes.extend(self.about_authorization());
        let without_value = family_instances_without_value(&self.request);
        if !without_value.is_empty() {
            notes.push(format!(
                "the request has no {}: its response is invalidated with the whole family, not with an instance",
                without_value.join(", ")
            ));
        }
        notes.extend(self.about_claims());
        notes.extend(self.about_token());
        notes.extend(self.about_credentials());
        notes.extend(self.about_cookies());
        if self.request.policy().set_cookie == SetCookie::Strip {
            notes.push("the family's set_cookie = \"strip\" removes Set-Cookie from its responses".to_owned());
        }
        if let Some(slow) = self.request.family().and_then(|(family, _)| family.stale_while_slow) {
            notes.push(format!(
                "where upstream has not answered within {} (stale_while_slow), a stale response is served that may be served when \
                 upstream gives no answer, and the fetch goes on",
                humantime::format_duration(slow)
            ));
        }
        if self.request.family().is_some_and(|(family, _)| family.write_through) {
            notes.push(
                "the response to a successful PUT or PATCH on this path is stored for it (write_through), unless another write to \
                 it came in between"
                    .to_owned(),
            );
        }
        notes.extend(self.about_policies());
        notes.extend(self.about_downstream());
        let key_spec = self.request.family().map(|(family, _)| &family.key_spec.query);
        if key_spec.is_some_and(|query| query.parameters != Parameters::All) {
            notes.push(
                "the family's `query` says which parameters count; the others are neither part of the key nor sent"
                    .to_owned(),
            );
        }
        let directives = self.request.policy().client_directives;
        if Demands::of(&http.headers, ClientDirectives::All) != self.request.demands {
            let counted = if directives == ClientDirectives::None { "none" } else { "harmless" };
            notes.push(format!(
                "client_directives = {counted:?}: not all of the request's Cache-Control counts, which RFC 9111 §5.2.1 \
                 leaves to the cache; a family with \"all\" obeys it"
            ));
        }
        match http.method.as_str() {
            "HEAD" => notes.push(
                "a HEAD is answered from what is stored for GET, and its own answer is not stored (RFC 9110 §9.3.2)"
                    .to_owned(),
            ),
            "QUERY" if self.request.is_unclaimed_query() => {}
            "QUERY" => notes.push("its content is part of the key: this is the QUERY without any".to_owned()),
            "POST" => notes.push(
                "its content is part of the key: this is the POST without any. The family says that a POST is a read \
                 (methods = [\"POST\"]): one with content larger than max_query_body, a precondition, or another method \
                 in X-HTTP-Method-Override or _method is a write"
                    .to_owned(),
            ),
            _ => {}
        }
        notes.extend(self.about_warming());
        notes.push("responses with Vary are stored once per value of the fields it names; a response with a Content-Encoding counts \
             as if it named Accept-Encoding; an error whose Vary names other fields than those of the stored variants is \
             not stored (RFC 9111 §4.1)"
                .to_owned(),
       );
        notes
    }

    /// The tables that name this path, or its family.
    fn about_warming(&self) -> Vec<String> {
        let target = &self.request.client_request.target;
        let (path, family) =
            (target.path_and_query(), self.request.family().map(|(family, _)| family.name.as_str()));
        let names = |table: &&WarmTable| {
            let is_read = table.reads.as_ref().is_some_and(|reads| family == Some(reads.family.as_str()));
            let mut paths = table.paths.iter().flat_map(PathPattern::expand);
            is_read || table.host == target.host && paths.any(|named| named == path)
        };
        let note = |table: &WarmTable| {
            let (what, when) = table.described();
            format!("[[warm]] on line {} fetches {what}: {when}", table.line)
        };
        self.live.warm.iter().filter(names).map(note).collect()
    }

    fn about_claims(&self) -> Option<String> {
        let fields = &self.request.client_request.headers;
        let removed: Vec<&str> =
            self.removed.iter().filter(|name| !fields.contains_key(*name)).map(HeaderName::as_str).collect();
        (!removed.is_empty()).then(|| {
            format!(
                "neither part of the key nor sent: {}; what a request says of its scheme, host, path or client is trusted from \
                 trusted_proxies alone (forwarded = \"append\"), and this one counts as from 127.0.0.1",
                removed.join(", ")
            )
        })
    }

    /// Nothing of the token itself.
    fn about_token(&self) -> Option<String> {
        let (family, _) = self.request.family()?;
        let identity = &family.key_spec.identity;
        if !identity.is_by_claims() {
            return None;
        }
        if let Some(fault) = self.token_fault(SystemTime::now()) {
            let (because, remedy) = (fault.explanation(), fault.what_to_do());
            return Some(format!("{because} (detail={}); {remedy}", fault.token()));
        }
        Some(match self.request.client_request.headers.contains_key(AUTHORIZATION) {
            true => format!(
                "the bearer token is valid; the claims of {identity} identify the caller, not the token itself"
            ),
            false => format!("the request has no Authorization: for {identity} it is anonymous"),
        })
    }

    fn about_credentials(&self) -> Option<String> {
        if self.request.is_guarded() {
            return None;
        }
        let names: Vec<&str> = self.request.unknown_credentials().into_iter().map(HeaderName::as_str).collect();
        let names = if names.is_empty() { return None } else { names.join(", ") };
        let so = "it is answered from the cache only if upstream says public, s-maxage or must-revalidate (RFC 9111 §3.5)";
        Some(match self.request.family().filter(|(family, _)| family.key_spec.identity.is_stated()) {
            Some((family, _)) => format!(
                "the request carries {names}, by which the family does not tell callers apart (its identity is {}): {so}; \
                 name it in `headers`, or say with `cookies` which cookies count, to cache it",
                family.key_spec.identity
            ),
            None => format!(
                "the request carries {names} and no family says whose answer it is: {so}; set `identity` to cache it"
            ),
        })
    }

    fn about_cookies(&self) -> Option<String> {
        let (family, _) = self.request.family()?;
        if let Some(kept) = &family.key_spec.cookies {
            let identity = family.key_spec.identity.cookies().filter(|name| !kept.iter().any(|kept| kept == name));
            let names: Vec<&str> = identity.chain(kept.iter().map(String::as_str)).collect();
            let names = if names.is_empty() { "none" } else { &names.join(", ") };
            return Some(format!("cookies that are part of the key and sent: {names}; others are neither"));
        }
        let identity = &family.key_spec.identity;
        let names: Vec<&str> = identity.cookies().collect();
        let fields = &self.request.client_request.headers;
        let is_presented = identity.sources().iter().any(|source| source.is_in(fields));
        let is_anonymous = !names.is_empty() && !self.request.is_personal() && !is_presented;
        is_anonymous.then(|| {
            format!("the request has no cookie {}: it is anonymous, and sent without cookies", names.join(" or "))
        })
    }

    fn invalidated_by(&self) -> Vec<String> {
        let is_never_cached = self.request.family().is_some_and(|(family, _)| family.is_never_cached);
        if is_never_cached || self.token_fault(SystemTime::now()).is_some() {
            return Vec::new();
        }
        let mut by = self.rules_that_invalidate();
        by.push("any write to this path itself (RFC 9111 §4.4)".to_owned());
        by
    }

    fn rules_that_invalidate(&self) -> Vec<String> {
        let route = self.request.family();
        let rules = route.map(|(family, captures)| self.live.rules.invalidating_instance(family, captures));
        let text = |rule: &crate::rules::Invalidation| {
            format!(
                "{} {} (line {}): {}",
                rule.methods.names().join(" "),
                rule.path,
                rule.line,
                rule.families.join(", ")
            )
        };
        rules.unwrap_or_default().into_iter().map(text).collect()
    }

    /// The decision on the request, as the proxy makes it.
    fn decide(&self, lookup: &Lookup, now: SystemTime) -> Decision {
        match bypass(&self.live, &self.request.client_request, Instant::now()) {
            Some(reason) if self.request.demands.only_if_cached => Decision::Refuse(reason),
            Some(reason) => Decision::Forward(reason),
            None => decide(&self.request, lookup, now),
        }
    }

    /// The same if this response is stored and no write has invalidated it.
    fn decide_on(&self, stored: entry::Response, now: SystemTime) -> DecisionExplanation {
        let (text, tags) = (self.cache_key().text, self.request.tags().iter());
        let stamp = Stamp { epoch: Epoch(1), sequence: 1 };
        let entry = Entry::new(text, stamp, tags, Content::Response(stored));
        let found = Found::Current(Arc::new(entry));
        let lookup = Lookup::of(found, self.cache_key(), Some(MarksView::hard(stamp, 0)));
        self.explained(self.decide(&lookup, now), &lookup)
    }

    fn explained(&self, decision: Decision, lookup: &Lookup) -> DecisionExplanation {
        let stored = lookup.entry().and_then(|entry| entry.response());
        let action = match decision {
            Decision::Serve { .. } => Action::Hit,
            Decision::ServeStale { reason, .. } if reason.revalidates() => Action::StaleAndRevalidated,
            Decision::ServeStale { .. } => Action::Stale,
            Decision::Revalidate(_) if stored.is_some_and(|it| may_validate(&self.request, &lookup.found, it)) => {
                Action::Validated
            }
            Decision::Revalidate(_) | Decision::Fetch(_) => Action::Fetched,
            Decision::Forward(_) => Action::Forwarded,
            Decision::Refuse(_) => Action::Refused,
        };
        let (ttl, because) = match decision {
            Decision::Serve { ttl } => {
                (Some(ttl), "its lifetime is longer than its age (RFC 9111 §4.2)".to_owned())
            }
            Decision::ServeStale { ttl, reason } => (Some(ttl), reason.explanation().to_owned()),
            Decision::Revalidate(reason) | Decision::Fetch(reason) | Decision::Forward(reason) => {
                (reason.ttl(), self.because(reason))
            }
            Decision::Refuse(reason) => {
                let because = self.because(reason);
                (reason.ttl(), format!("{because}, and the request says only-if-cached (RFC 9111 §5.2.1.7)"))
            }
        };
        DecisionExplanation { does: action, because, ttl }
    }

    fn because(&self, reason: MissReason) -> String {
        match self.request.ambiguity().filter(|_| reason == MissReason::AmbiguousPath) {
            Some(ambiguity) => described(&ambiguity),
            None => reason.explanation().to_owned(),
        }
    }

    fn terms(&self, stored: &entry::Response) -> ReuseTerms {
        let freshness = &stored.freshness;
        let revalidate = self.request.policy().revalidate;
        let mut conditions = HeaderMap::new();
        validation::make_conditional(&mut conditions, &stored.own_headers());
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let after = |answer| {
            let (period, allowed) = stale_if_error(freshness, answer).unwrap_or_default();
            Allowance::of(freshness, revalidate, period, allowed)
        };
        ReuseTerms {
            lifetime: freshness.lifetime.duration().as_secs(),
            initial_age: freshness.initial_age.duration().as_secs(),
            lifetime_from: freshness.source.explanation().to_owned(),
            for_credentials: stored.for_credentials,
            credentials: self.credentials(stored.for_credentials).to_owned(),
            stale_while_revalidate: Allowance::of(
                freshness,
                revalidate,
                freshness.stale_while_revalidate.duration(),
                "stale-while-revalidate, RFC 5861 §3",
            ),
            stale_if_error: after(Ok(StatusCode::BAD_GATEWAY)),
            stale_if_unreachable: after(Err(UpstreamError::Unreachable)),
            validated_with: conditions.iter().map(text).collect(),
        }
    }

    fn credentials(&self, for_credentials: bool) -> &'static str {
        match for_credentials {
            true if self.request.is_guarded() => {
                "requests of callers that the API authorizes get it too (authorize)"
            }
            true if self.request.policy().for_everybody => {
                "requests with credentials get it too: the family says identity = \"none\""
            }
            true => {
                "requests with credentials get it too: public, s-maxage or must-revalidate allows it (RFC 9111 §3.5)"
            }
            false => {
                "requests with credentials that are no part of the key (identity, headers, cookies of the family) do not \
                 get it: it says neither public, s-maxage nor must-revalidate (RFC 9111 §3.5)"
            }
        }
    }
}

/// Most readings of a path that are listed.
const LISTED: usize = 8;

/// The paths that upstream may take this one for, with their families.
fn described(ambiguity: &Ambiguity<'_>) -> String {
    let place = |family: Option<&Family>| match family {
        Some(family) => match &family.key_spec.identity {
            Identity::Unstated => format!("family {:?}", family.name),
            identity => format!("family {:?}, identity {identity}", family.name),
        },
        None => "no family".to_owned(),
    };
    if ambiguity.readings.is_empty() {
        return "upstream may take the path for more others than can be told apart".to_owned();
    }
    let mut readings: Vec<String> = ambiguity
        .readings
        .iter()
        .take(LISTED)
        .map(|(path, family)| format!("{path} ({})", place(*family)))
        .collect();
    let unlisted = ambiguity.readings.len().saturating_sub(LISTED);
    readings.extend((unlisted > 0 || !ambiguity.is_complete).then(|| "and others".to_owned()));
    format!(
        "the path belongs to {}, but upstream may take it for {}",
        place(ambiguity.family),
        readings.join(", "),
    )
}

impl Allowance {
    fn of(freshness: &Freshness, revalidate: Revalidate, period: Duration, allowed: &str) -> Allowance {
        let because = if revalidate == Revalidate::Always {
            "the family says revalidate = \"always\""
        } else if freshness.always_validate {
            "it says no-cache, RFC 9111 §4.2.4, §5.2.2.4"
        } else if freshness.never_stale {
            "it says must-revalidate, proxy-revalidate or s-maxage, RFC 9111 §4.2.4, §5.2.2.2, §5.2.2.8, §5.2.2.10"
        } else if period.is_zero() {
            "neither the response nor the family allows it, RFC 9111 §4.2.4"
        } else {
            allowed
        };
        Allowance { seconds: period.as_secs(), because: because.to_owned() }
    }
}

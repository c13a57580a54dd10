//! A family as requests use it: what it stores, the parts of a request in its key, and the tags of its entries.

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use md5::{Digest, Md5};
use smallvec::SmallVec;

use super::authorize::Authorize;
use super::instance::{self, Captures, InstanceValues};
use super::pattern::Pattern;
use super::source::{CallerIdentity, FurtherInstance, ReadSource};
use super::thresholds::FamilyThresholds;
use crate::http::clients::ClientCacheControl;
use crate::http::headers::{self, Credentials, ForwardedPolicy};
use crate::http::target::{Readings, Target, with_plain_delimiters};
use crate::http::{Policy, TtlPolicy};
use crate::key::{self, Callers, FamilyKeySpec, Identity, KeySpec, PresentedCredentials};
use crate::marks::Tag;
use crate::secret::Secret;
use crate::words::words;

pub(crate) mod read;

/// Responses that share caching settings and are invalidated together.
#[derive(Debug)]
pub struct Family {
    /// Position in [`super::RuleSet::families`], from 0. Also indexes the family's metrics.
    pub id: usize,
    /// Such as `booking` or `booking:stats`.
    pub name: String,
    /// The pattern as written.
    pub path: String,
    /// Methods whose responses are stored.
    pub methods: ReadMethods,
    /// `cache = "never"`: requests for its paths are forwarded, and their responses are not stored.
    pub is_never_cached: bool,
    /// Changes with the definition, so that entries stored under an older definition are not found.
    pub definition: String,
    /// `version`: a part of the definition that changes only when the operator says so.
    pub version: Option<String>,
    /// Storage and freshness settings.
    pub policy: Policy,
    /// The parts of a request that belong to its cache key.
    pub key_spec: KeySpec,
    /// Its instances beside the captures of its path.
    pub instances: Vec<FurtherInstance>,
    /// How a fetch is made on a miss.
    pub fetching: Fetching,
    /// Which requests share a fetch on a miss.
    pub collapse: Collapse,
    /// Largest stored body, in bytes; `None` means the server's default.
    pub max_body: Option<u64>,
    /// How long upstream may take to answer before a stale response is served instead, where it may be served while
    /// upstream does not answer at all ([`Policy::stale_if_unreachable`]). `None`: until the request fails.
    pub stale_while_slow: Option<Duration>,
    /// Whether the response to a PUT or PATCH on a path of this family is what a GET would bring, so that it is stored.
    pub write_through: bool,
    /// Whether bodies are compressed in Redis; `None` means as `[store]` says.
    pub compress: Option<bool>,
    /// Whether its hits are counted by request: a rule with `refresh` can invalidate it, or `[[warm]]` names it.
    pub counted: bool,
    /// The `Cache-Control` that clients receive.
    pub client_cache_control: ClientCacheControl,
    /// The `CDN-Cache-Control` that clients receive in place of upstream's.
    pub cdn_cache_control: Option<HeaderValue>,
    /// Whether a rule invalidates the entries of one caller in this family (`{identity}`).
    pub is_invalidated_by_caller: bool,
    /// False for `invalidation = "none"`: no rule may name the family, and only its lifetime bounds the age of its
    /// entries.
    pub is_invalidated: bool,
    /// Whether the API is asked if it authorizes the caller, before a stored response is used.
    pub authorize: Option<Authorize>,
    /// Thresholds of its alerts.
    pub alerts: FamilyThresholds,
    /// Line in the file, from 1.
    pub line: usize,
    /// Whether the file sets `client_cache_control`.
    pub(super) says_client_cache_control: bool,
    pub(super) pattern: Pattern,
    /// Tags of its levels, from the topmost down to the family itself.
    pub(super) levels: Vec<Tag>,
}

/// The methods whose responses a family stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMethods {
    /// GET and HEAD.
    pub get: bool,
    /// QUERY: safe, and its content is part of the cache key.
    pub query: bool,
    /// POST, where it is a read ([`super::post`]): its content is part of the cache key.
    pub post: bool,
}

impl ReadMethods {
    /// Whether `method` is one of them.
    pub fn contain(self, method: &Method) -> bool {
        match method.as_str() {
            "GET" | "HEAD" => self.get,
            "QUERY" => self.query,
            "POST" => self.post,
            _ => false,
        }
    }

    /// The names used in `rules.toml`.
    pub fn names(self) -> Vec<&'static str> {
        let names = [(self.get, "GET"), (self.query, "QUERY"), (self.post, "POST")];
        names.into_iter().filter_map(|(is_read, name)| is_read.then_some(name)).collect()
    }

    /// Whether `self` includes all of `others`.
    pub(super) fn covers(self, others: ReadMethods) -> bool {
        (self.get || !others.get) && (self.query || !others.query) && (self.post || !others.post)
    }
}

/// How a family fetches from upstream, and how many variants it stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetching {
    /// Request fields that are normalised first ([`crate::http::negotiation`]).
    pub normalize: Vec<HeaderName>,
    /// Largest number of stored variants per resource.
    pub max_variants: usize,
    /// Whether a range request on a miss fetches the whole representation.
    pub range_fetches_whole: bool,
    /// Whether only fields in the cache key are forwarded.
    pub keyed_only: bool,
}

impl Fetching {
    /// The value of `range` in `rules.toml`.
    pub fn range(&self) -> &'static str {
        if self.range_fetches_whole { "whole" } else { "forward" }
    }

    /// The value of `forward` in `rules.toml`.
    pub fn forward(&self) -> &'static str {
        if self.keyed_only { "keyed" } else { "all" }
    }
}

impl Default for Fetching {
    fn default() -> Fetching {
        Fetching { normalize: Vec::new(), max_variants: 64, range_fetches_whole: false, keyed_only: false }
    }
}

words! {
/// Which requests share one fetch on a miss (`collapse`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collapse {
    /// None: every request fetches for itself.
    Off = "off",
    /// Requests to the same proxy.
    #[default]
    Proxy = "proxy",
    /// Requests to all proxies that share a store.
    Fleet = "fleet",
}
}

impl Family {
    /// The tags of an entry with these captures: one per level (`booking`, `booking:stats`), and the instance tags.
    /// The caller adds the root tag and the path's own tag.
    pub fn tags(&self, captures: &Captures) -> Vec<Tag> {
        let mut tags = self.levels.clone();
        instance::tags(&self.name, captures, &mut tags);
        tags
    }

    /// The values of its instances beside its captures in a read. `None`: a response to it would have more tags than one
    /// may have, for all readings of its path together.
    pub fn instance_values(
        &self,
        target: &Target,
        presented: PresentedCredentials<'_>,
        secret: Option<&Secret>,
    ) -> Option<InstanceValues> {
        let credentials = Credentials::default();
        let caller =
            (&self.key_spec.identity, CallerIdentity::Known { presented, secret, credentials: &credentials });
        let query = target.query.as_deref();
        let values = |further: &FurtherInstance| further.source.values(query, caller, self.pattern.case());
        let values: InstanceValues = self.instances.iter().map(values).collect::<Option<_>>()?;
        let of_each = instance::count_of_all(self.capture_names().count(), &values);
        (of_each.saturating_mul(target.readings().count()) <= instance::TAGS).then_some(values)
    }

    /// The tags of a path under all of its readings, since a write may name any instance that upstream may read the
    /// path as.
    pub fn tags_of(&self, readings: &Readings<'_>, captures: &Captures, values: &InstanceValues) -> Vec<Tag> {
        if !values.is_empty() {
            let mut tags = self.levels.clone();
            instance::tags_of_all(&self.name, captures, values, &mut tags);
            for path in readings.others() {
                instance::tags_of_all(&self.name, &self.captures(path), values, &mut tags);
            }
            return tags;
        }
        let mut tags = self.tags(captures);
        for path in readings.others() {
            let mut further = Vec::new();
            instance::tags(&self.name, &self.captures(path), &mut further);
            further.retain(|tag| !tags.contains(tag));
            tags.append(&mut further);
        }
        tags
    }

    /// The tags for the entries of the request's callers, if a rule can name them and the request identifies callers.
    pub fn tags_of_identity(
        &self,
        presented: PresentedCredentials<'_>,
        secret: Option<&Secret>,
    ) -> SmallVec<[Tag; 1]> {
        if !self.is_invalidated_by_caller {
            return SmallVec::new();
        }
        match key::callers(&self.key_spec.identity, presented, secret) {
            Callers::Known(callers) => callers.iter().map(|caller| Tag::caller(&self.name, caller)).collect(),
            Callers::Unverified => SmallVec::new(),
        }
    }

    pub(super) fn captures(&self, path: &str) -> Captures {
        let plain = with_plain_delimiters(path);
        let found = self.pattern.values(&plain);
        // Same choice as in `RuleSet::family_at`.
        let found = if found.is_empty() && *plain != *path { self.pattern.values(path) } else { found };
        found.iter().map(|(_, value)| value.unwrap_or("").to_owned()).collect()
    }

    /// A label such as `user_details:42` for reports and readable Redis keys: printable ASCII, at most 150 bytes.
    /// Of several values of an instance it has the first, and `-` for none; the caller's digest is left out.
    pub fn label(&self, captures: &Captures, values: &InstanceValues) -> String {
        if values.is_empty() {
            return instance::label(&self.name, captures);
        }
        let is_shown = |further: &FurtherInstance| further.source != ReadSource::Identity;
        let shown = self.instances.iter().zip(values).filter(|(further, _)| is_shown(further));
        let shown = shown.map(|(_, values)| values.first().cloned().unwrap_or_else(|| "-".to_owned()));
        let all: Vec<String> = captures.iter().cloned().chain(shown).collect();
        instance::label(&self.name, &all)
    }

    /// The family's part of the canonical request text.
    pub fn key_spec(&self) -> FamilyKeySpec<'_> {
        FamilyKeySpec { name: &self.name, definition: &self.definition, key_spec: &self.key_spec }
    }

    /// The request fields that are part of the cache key, directly or through a cookie.
    pub fn keyed_fields(&self) -> Vec<HeaderName> {
        let identity = &self.key_spec.identity;
        let token = identity.is_by_claims().then_some(AUTHORIZATION);
        let identity = identity.fields().cloned().chain(token);
        let cookie = self.cookies_sent().filter(|names| !names.is_empty()).map(|_| COOKIE);
        self.key_spec
            .headers
            .iter()
            .chain(&self.fetching.normalize)
            .cloned()
            .chain(identity)
            .chain(cookie)
            .collect()
    }

    /// The only cookies that are forwarded; `None` if all are.
    fn cookies_sent(&self) -> Option<SmallVec<[&str; 8]>> {
        let identity = || self.key_spec.identity.cookies();
        match &self.key_spec.cookies {
            Some(kept) => {
                let is_other = |name: &&str| !identity().any(|known| known == *name);
                Some(identity().chain(kept.iter().map(String::as_str).filter(is_other)).collect())
            }
            None if self.fetching.keyed_only => Some(identity().collect()),
            None => None,
        }
    }

    /// Whether its entries are verdicts ([`super::authorize`]).
    pub fn is_of_verdicts(&self) -> bool {
        matches!(self.key_spec.identity, Identity::Credentials(_))
    }

    /// The tags of the verdict on a caller with these credentials: one for each field and each cookie, so that a write with one of
    /// them invalidates the verdict. `credentials`: their digests ([`crate::key::credentials`]).
    pub fn tags_of_callers(&self, credentials: &[String]) -> Vec<Tag> {
        credentials.iter().map(|credential| Tag::caller(&self.name, credential)).collect()
    }

    /// The value of `invalidation` in `rules.toml`.
    pub fn invalidation(&self) -> &'static str {
        if self.is_invalidated { "rules" } else { "none" }
    }

    /// Whether an explicit lifetime from upstream wins over the family's ttl.
    pub fn may_be_overridden(&self) -> bool {
        self.policy.ttl.is_some() && self.policy.ttl_policy == TtlPolicy::Default
    }

    /// Its path, if its pattern matches exactly one.
    pub fn only_path(&self) -> Option<String> {
        self.pattern.only_text()
    }

    /// Names of its captures, in pattern order.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.pattern.names()
    }
}

/// Removes the request fields that the response must not depend on. Keeps all fields that cannot turn the request
/// into another one or, if the family says `forward = "keyed"`, only those in the cache key. `forwarded` is
/// `Forwarded` as received.
pub fn strip_read(fields: &mut HeaderMap, forwarded: ForwardedPolicy, family: Option<&Family>) {
    let keys_on = |name: &HeaderName| family.is_some_and(|family| family.key_spec.keys_on(name));
    headers::strip_unkeyed(fields, forwarded, keys_on);
    if let Some(family) = family.filter(|family| family.fetching.keyed_only) {
        headers::keep_keyed(fields, &family.keyed_fields());
    }
    // A family that keys on the whole field needs all of it.
    let is_whole =
        |family: &&Family| family.key_spec.cookies.is_none() && family.key_spec.headers.contains(&COOKIE);
    if let Some(names) = family.filter(|family| !is_whole(family)).and_then(Family::cookies_sent) {
        headers::keep_cookies(fields, &names);
    }
}

/// The tags of the levels of a family: those above it, and its own.
pub(super) fn levels(name: &str) -> Vec<Tag> {
    let ends = name.match_indices(':').map(|(end, _)| end).chain([name.len()]);
    ends.map(|end| Tag::family(&name[..end])).collect()
}

/// Eight hex digits over all settings that affect keys, tags or storing; not `collapse` and `compress`.
pub(super) fn definition_of(family: &Family) -> String {
    let Family {
        name,
        path,
        methods,
        policy,
        key_spec,
        fetching,
        max_body,
        is_invalidated_by_caller,
        client_cache_control,
        cdn_cache_control,
        is_never_cached,
        version,
        authorize,
        instances,
        ..
    } = family;
    let authorize = authorize.as_ref().map(|it| format!(" {:?} {:?}", it.path, it.ttl)).unwrap_or_default();
    // Destructured, so that a new field cannot be forgotten here.
    let Policy {
        ttl,
        ttl_policy,
        adaptive_ttl,
        until,
        negative_ttl,
        stale_while_revalidate,
        stale_if_error,
        heuristic,
        stale_if_unreachable,
        client_directives,
        close_delimited,
        set_cookie,
        revalidate,
        for_everybody: _,
    } = policy;
    let KeySpec { query, headers, cookies, identity } = key_spec;
    let policy_name = ttl_policy.word();
    let durations = [ttl, stale_while_revalidate, stale_if_error, &Some(*stale_if_unreachable)]
        .map(|it| it.map(|it| it.as_secs()));
    // `{:?}` quotes and escapes, so that different definitions have different texts.
    let text = format!(
        "{name:?} {path:?} {methods:?} {policy_name} {durations:?} {heuristic} {client_directives:?} \
         {close_delimited:?} {max_body:?} {fetching:?} {query:?} {set_cookie:?} {cookies:?} {:?} {:?} \
         {is_invalidated_by_caller} {client_cache_control:?} {cdn_cache_control:?} {adaptive_ttl:?} {until:?} {negative_ttl:?} \
         {is_never_cached} {version:?} {instances:?} {revalidate:?}{authorize}",
        headers.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        identity.to_string(),
    );
    let hash: [u8; 16] = Md5::digest(text.as_bytes()).into();
    format!("{:08x}", u128::from_be_bytes(hash) >> 96)
}

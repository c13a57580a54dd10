//! What would become of a read: the decisions that `read` and `fill` act on, told instead. For `larder explain` and the
//! admin's `GET /cache/explain`, which print the same types as JSON.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use serde::{Deserialize, Serialize};

use super::Asked;
use super::debug;
use super::question::Question;
use super::read::AMBIGUOUS_PATH;
use crate::config::Config;
use crate::entry;
use crate::headers::{self, claims};
use crate::key::{self, Canonical, Identity, Parameters};
use crate::rules::{Ambiguity, Family};
use crate::running::Live;
use crate::semantics::clients::ClientCacheControl;
use crate::semantics::demands::Demands;
use crate::semantics::freshness::{Freshness, Reuse};
use crate::semantics::{ClientDirectives, SetCookie, TtlPolicy, validation};
use crate::stamp::Tag;
use crate::target::{Target, TargetFault};

mod answer;
mod kept;

use answer::Refusal;
pub use answer::{Answer, Judgement, stated_length};
pub use kept::{Kept, Mark, Stored};

/// A read that is not answered but told of.
pub struct Account<'c> {
    config: &'c Config,
    live: Arc<Live>,
    /// What it claims that whom it comes from is not trusted to say.
    removed: Vec<HeaderName>,
    question: Arc<Question>,
}

/// What the rules say of a read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claim {
    pub method: String,
    pub path: String,
    pub family: Option<String>,
    /// Pattern and line of the family.
    pub rule: Option<String>,
    /// Values of the family's captures.
    pub instance: Vec<String>,
    pub key: String,
    pub key_text: String,
    /// Its name in Redis.
    pub store_key: String,
    pub tags: Vec<String>,
    pub ttl: String,
    pub notes: Vec<String>,
    pub outdated_by: Vec<String>,
}

/// On which terms a response is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Terms {
    /// Seconds that it is fresh for, counted from when it was made.
    pub lifetime: u64,
    /// How old it was when it came, seconds.
    pub initial_age: u64,
    /// Where the lifetime comes from.
    pub lifetime_from: String,
    pub for_credentials: bool,
    pub credentials: String,
    pub stale_while_revalidate: Allowance,
    pub stale_if_error: Allowance,
    pub stale_if_unreachable: Allowance,
    /// The fields of the request that would validate it; empty if it cannot be validated.
    pub validated_with: Vec<String>,
}

/// For how long past its lifetime a response may be served.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Allowance {
    /// Seconds; 0: not at all.
    pub seconds: u64,
    pub because: String,
}

/// What a request would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub does: Does,
    pub because: String,
    /// Seconds of freshness left of what is kept; negative when it is stale.
    pub ttl: Option<i64>,
}

/// How a request would be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Does {
    /// From the cache, fresh.
    Hit,
    /// From the cache, stale; upstream is asked in the background.
    StaleAndRevalidated,
    /// From the cache, stale.
    Stale,
    /// Upstream is asked first whether what is kept still holds.
    Validated,
    /// Upstream is asked for all of it.
    Fetched,
    /// Upstream is asked, and nothing of it is stored.
    Forwarded,
    /// With an error of Larder's own.
    Refused,
}

impl Does {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Does::Hit => "served from the cache, fresh",
            Does::StaleAndRevalidated => "served from the cache, stale, and revalidated in the background",
            Does::Stale => "served from the cache, stale",
            Does::Validated => "validated with upstream first",
            Does::Fetched => "fetched from upstream",
            Does::Forwarded => "forwarded to upstream, past the cache",
            Does::Refused => "refused with 504",
        }
    }
}

impl Use {
    fn new(does: Does, because: impl Into<String>) -> Use {
        Use { does, because: because.into(), ttl: None }
    }
}

impl<'c> Account<'c> {
    /// A read by a client on this machine. Of a QUERY it is the one without content.
    pub fn of(
        config: &'c Config,
        live: Arc<Live>,
        method: Method,
        target: Target,
        mut fields: HeaderMap,
    ) -> Account<'c> {
        let underscored = match config.server.underscores {
            true => headers::dash_underscored(&mut fields),
            false => {
                headers::drop_underscored(&mut fields);
                Vec::new()
            }
        };
        headers::strip_hop_by_hop(&mut fields);
        debug::take(&mut fields);
        let content = (method.as_str() == "QUERY").then(Bytes::new);
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (version, trailers, interim, connection) = (Version::HTTP_11, false, None, None);
        let (credentials, forwarded) = (true, config.server.forwarded_from(client));
        let removed = fields.keys().filter(|name| claims::goes(name, forwarded, |_| false)).cloned().collect();
        let headers = fields;
        let asked = Asked {
            method,
            target,
            headers,
            version,
            client,
            forwarded,
            trailers,
            interim,
            credentials,
            underscored,
            connection,
        };
        Account { config, live: Arc::clone(&live), removed, question: Question::new(live, asked, content) }
    }

    /// Where a request points that is written as a path or a URL, and its fields. The host is part of the key: without
    /// one, it is the address that a client on this machine would use.
    pub fn target(config: &Config, uri: &Uri, mut fields: HeaderMap) -> Result<(Target, HeaderMap), TargetFault> {
        if uri.authority().is_none() && !fields.contains_key(HOST) {
            let listen = config.server.listen.to_string();
            fields.insert(HOST, HeaderValue::try_from(listen).map_err(|_| TargetFault::BadHost)?);
        }
        Ok((Target::of("http", uri, &fields, config.server.case_insensitive_paths)?, fields))
    }

    /// Whether requests of this method are reads.
    pub fn is_read(method: &Method) -> bool {
        matches!(method.as_str(), "GET" | "HEAD" | "QUERY")
    }

    fn canonical(&self) -> Canonical {
        self.question.canonical()
    }

    fn store_key(&self, canonical: &Canonical) -> String {
        let namespace = self.config.store.as_ref().map_or("larder", |store| store.namespace.as_str());
        format!("{namespace}:v1:{}:{}", self.question.label(), canonical.key())
    }

    /// What the rules say of it.
    pub fn claim(&self) -> Claim {
        let Question { asked, .. } = &*self.question;
        let family = self.question.family();
        let canonical = self.canonical();
        Claim {
            method: asked.method.to_string(),
            path: asked.target.path.clone(),
            family: family.map(|(family, _)| family.name.clone()),
            rule: family.map(|(family, _)| format!("{} (line {})", family.path, family.line)),
            instance: family.map(|(_, captures)| captures.to_vec()).unwrap_or_default(),
            store_key: self.store_key(&canonical),
            key: canonical.key().to_string(),
            key_text: canonical.text,
            tags: self.question.tags().iter().map(Tag::to_string).collect(),
            ttl: self.ttl(),
            notes: self.notes(),
            outdated_by: self.outdated_by(),
        }
    }

    fn ttl(&self) -> String {
        if self.question.family().is_none() {
            return "what upstream says (Cache-Control, Expires); nothing is stored without it".to_owned();
        }
        let policy = self.question.policy();
        match (policy.ttl.map(humantime::format_duration), policy.ttl_policy) {
            (Some(ttl), TtlPolicy::Override) => {
                format!(
                    "{ttl}, from the family (ttl_policy = \"override\"); only no-store and private win over it"
                )
            }
            (Some(ttl), TtlPolicy::Default) => {
                format!(
                    "what upstream says (Cache-Control, Expires); where it says nothing {ttl}, from the family"
                )
            }
            (None, _) => "what upstream says (Cache-Control, Expires); the family has no ttl".to_owned(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let Question { asked, .. } = &*self.question;
        let mut notes = Vec::new();
        notes.extend(self.question.ambiguity().map(|ambiguity| {
            format!("{}: the request is forwarded, and nothing of it is stored or shared", described(&ambiguity))
        }));
        notes.extend(self.about_claims());
        notes.extend(self.about_credentials());
        notes.extend(self.about_cookies());
        if self.question.policy().set_cookie == SetCookie::Strip {
            notes.push("the family's set_cookie = \"strip\" removes Set-Cookie from its responses".to_owned());
        }
        if self.question.client_cache_control() == ClientCacheControl::NoCache {
            notes.push(
                "clients are told no-cache whatever upstream says, since writes invalidate the family: they ask again, and get a \
                 304 while nothing has changed (client_cache_control = \"pass\" leaves it to upstream)"
                    .to_owned(),
            );
        }
        let keying = self.question.family().map(|(family, _)| &family.keying.query);
        if keying.is_some_and(|query| query.parameters != Parameters::All) {
            notes.push(
                "the family's `query` says which parameters count; the others are neither part of the key nor sent"
                    .to_owned(),
            );
        }
        let directives = self.question.policy().client_directives;
        if Demands::of(&asked.headers, ClientDirectives::All) != self.question.demands {
            let counted = if directives == ClientDirectives::None { "none" } else { "harmless" };
            notes.push(format!(
                "client_directives = {counted:?}: not all of the request's Cache-Control counts, which RFC 9111 §5.2.1 \
                 leaves to the cache; a family with \"all\" obeys it"
            ));
        }
        match asked.method.as_str() {
            "HEAD" => notes.push(
                "a HEAD is answered from what is stored for GET, and its own answer is not stored (RFC 9110 §9.3.2)"
                    .to_owned(),
            ),
            "QUERY" if self.question.is_unclaimed_query() => {}
            "QUERY" => notes.push("its content is part of the key: this is the QUERY without any".to_owned()),
            _ => {}
        }
        notes.push("responses with Vary are kept once for each value of the fields it names; a response with a Content-Encoding \
             counts as if it named Accept-Encoding; an error that names other fields than those of what is kept is not \
             stored (RFC 9111 §4.1)"
                .to_owned(),
       );
        notes
    }

    fn about_claims(&self) -> Option<String> {
        let fields = &self.question.asked.headers;
        let removed: Vec<&str> =
            self.removed.iter().filter(|name| !fields.contains_key(*name)).map(HeaderName::as_str).collect();
        (!removed.is_empty()).then(|| {
            format!(
                "neither part of the key nor sent: {}; what a request says of its scheme, host, path or client is believed of \
                 trusted_proxies alone (forwarded = \"append\"), and this one counts as from 127.0.0.1",
                removed.join(", ")
            )
        })
    }

    fn about_credentials(&self) -> Option<String> {
        let names: Vec<&str> = self.question.unknown_credentials().into_iter().map(HeaderName::as_str).collect();
        let names = if names.is_empty() { return None } else { names.join(", ") };
        let so = "it is answered from the cache only if upstream says public, s-maxage or must-revalidate (RFC 9111 §3.5)";
        Some(match self.question.family().filter(|(family, _)| family.keying.identity.is_stated()) {
            Some((family, _)) => format!(
                "the request carries {names}, by which the family does not tell callers apart (its identity is {}): {so}; \
                 name it in `headers`, or say with `cookies` which cookies count, to cache it",
                family.keying.identity
            ),
            None => format!(
                "the request carries {names} and no family says whose answer it is: {so}; set `identity` to cache it"
            ),
        })
    }

    fn about_cookies(&self) -> Option<String> {
        let (family, _) = self.question.family()?;
        if let Some(kept) = &family.keying.cookies {
            let identity = family.keying.identity_cookie().filter(|name| !kept.iter().any(|kept| kept == name));
            let names: Vec<&str> = identity.into_iter().chain(kept.iter().map(String::as_str)).collect();
            let names = if names.is_empty() { "none" } else { &names.join(", ") };
            return Some(format!("cookies that are part of the key and sent: {names}; others are neither"));
        }
        let name = family.keying.identity_cookie()?;
        let is_anonymous = !self.question.is_personal() && !key::has_cookie(&self.question.asked.headers, name);
        is_anonymous
            .then(|| format!("the request has no cookie {name}: it is anonymous, and sent without cookies"))
    }

    fn outdated_by(&self) -> Vec<String> {
        let mut by = self.rules_that_outdate();
        by.push("any write to this path itself (RFC 9111 §4.4)".to_owned());
        by
    }

    fn rules_that_outdate(&self) -> Vec<String> {
        let claimed = self.question.family();
        let rules = claimed.map(|(family, captures)| self.live.rules.outdating_instance(family, captures));
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

    /// Why the cache is not even asked.
    fn passed(&self) -> Option<Refusal> {
        if self.question.is_unclaimed_query() {
            return Some(Refusal {
                token: "method",
                because: "no family with methods = [\"QUERY\"] claims this path: a QUERY is cached only where the rules say \
                          that it may be (RFC 9110 §9.2.3)"
                    .to_owned(),
                what_to_do: "add a family with methods = [\"QUERY\"] for this path",
            });
        }
        if let Some(ambiguity) = self.question.ambiguity() {
            return Some(Refusal {
                token: AMBIGUOUS_PATH,
                because: described(&ambiguity),
                what_to_do: "ask for the path that is meant, written plainly; or let one family take all of its readings",
            });
        }
        // RFC 9111 §4.3.2
        validation::is_for_origin(&self.question.asked.headers).then(|| Refusal {
            token: "precondition",
            because: "If-Match and If-Unmodified-Since are for upstream to judge (RFC 9111 §4.3.2), unless what is kept is fresh \
                      and they change nothing about it (RFC 9110 §13.1.1, §13.1.4)"
                .to_owned(),
            what_to_do: "send the request without them",
        })
    }

    /// It asks for a range, and the family does not make it a question for the whole.
    fn is_for_part(&self) -> bool {
        self.question.is_for_range() && !self.question.fetching().range_fetches_whole
    }

    /// What the request gets when nothing current is kept for it.
    fn use_of_nothing(&self, because: &str) -> Use {
        let does = if self.is_for_part() { Does::Forwarded } else { Does::Fetched };
        match self.passed() {
            Some(passed) => self.unless_only_if_cached(Use::new(Does::Forwarded, passed.because)),
            None => self.unless_only_if_cached(Use::new(does, because)),
        }
    }

    /// What the request gets of a response that is kept, and current or outdated `softly`.
    fn use_of(&self, stored: &entry::Response, now: SystemTime, softly: bool) -> Use {
        let is_as_asked = !softly && self.question.is_answered_by(stored, now) && self.question.is_met_by(stored);
        if let Some(passed) = self.passed().filter(|passed| passed.token != "precondition" || !is_as_asked) {
            return self.unless_only_if_cached(Use::new(Does::Forwarded, passed.because));
        }
        if self.question.is_refused(stored) {
            let because = "what is kept is for requests without credentials: it says neither public, s-maxage nor \
                           must-revalidate, and no family tells callers apart by those of this request (RFC 9111 §3.5)";
            return self.unless_only_if_cached(Use::new(Does::Fetched, because));
        }
        let reuse = match softly {
            true => stored.freshness.reuse_softened(now, &self.question.demands),
            false => stored.freshness.reuse(now, &self.question.demands),
        };
        let does = match reuse {
            Reuse::Fresh { .. } => Does::Hit,
            Reuse::StaleWhileRevalidate { .. } | Reuse::Softened { .. } => Does::StaleAndRevalidated,
            Reuse::Stale { .. } => Does::Stale,
            Reuse::Validate { .. } if validation::has_validator(&stored.own_headers()) => Does::Validated,
            Reuse::Validate { .. } => Does::Fetched,
        };
        let would = Use { ttl: Some(reuse.ttl()), ..Use::new(does, reuse.explanation()) };
        self.unless_only_if_cached(would)
    }

    /// RFC 9111 §5.2.1.7
    fn unless_only_if_cached(&self, would: Use) -> Use {
        let asks = matches!(would.does, Does::Validated | Does::Fetched | Does::Forwarded);
        if !asks || !self.question.demands.only_if_cached {
            return would;
        }
        let because = format!("{}, and the request says only-if-cached (RFC 9111 §5.2.1.7)", would.because);
        Use { does: Does::Refused, because, ..would }
    }

    fn terms(&self, stored: &entry::Response) -> Terms {
        let freshness = &stored.freshness;
        let mut conditions = HeaderMap::new();
        validation::make_conditional(&mut conditions, &stored.own_headers());
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        Terms {
            lifetime: freshness.lifetime.as_secs(),
            initial_age: freshness.initial_age.as_secs(),
            lifetime_from: freshness.source.explanation().to_owned(),
            for_credentials: stored.for_credentials,
            credentials: self.credentials(stored.for_credentials).to_owned(),
            stale_while_revalidate: Allowance::of(
                freshness,
                freshness.stale_while_revalidate,
                "stale-while-revalidate, RFC 5861 §3",
            ),
            stale_if_error: Allowance::of(freshness, freshness.stale_if_error, "stale-if-error, RFC 5861 §4"),
            stale_if_unreachable: Allowance::of(
                freshness,
                freshness.stale_if_error.max(freshness.stale_if_unreachable),
                "stale-if-error or the family's stale_if_unreachable, RFC 9111 §4.2.4; if it is still kept",
            ),
            validated_with: conditions.iter().map(text).collect(),
        }
    }

    fn credentials(&self, for_credentials: bool) -> &'static str {
        match for_credentials {
            true if self.question.policy().for_everybody => {
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

/// Readings of a path that are told of.
const TOLD: usize = 8;

/// What upstream may take a path for, and where that belongs.
fn described(ambiguity: &Ambiguity<'_>) -> String {
    let place = |family: Option<&Family>| match family {
        Some(family) => match &family.keying.identity {
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
        .take(TOLD)
        .map(|(path, family)| format!("{path} ({})", place(*family)))
        .collect();
    let untold = ambiguity.readings.len().saturating_sub(TOLD);
    readings.extend((untold > 0 || !ambiguity.is_complete).then(|| "and others".to_owned()));
    format!(
        "the path belongs to {}, but upstream may take it for {}",
        place(ambiguity.family),
        readings.join(", "),
    )
}

impl Allowance {
    fn of(freshness: &Freshness, period: std::time::Duration, allowed: &str) -> Allowance {
        let because = if freshness.always_validate {
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

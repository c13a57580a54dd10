//! Explains what is stored for a request now, and the decision on it. Neither tier is changed, and upstream is not asked.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::super::decide::bypass;
use super::{Action, AuthorizationExplanation, DecisionExplanation, Explainer, ReuseTerms, RouteExplanation};
use crate::cache::inspect::{Inspection, StoreInspection, ValidityReport};
use crate::cache::{Cache, Found, Lookup};
use crate::entry::{Entry, VaryIndex};
use crate::key::{CacheKey, shown_tag, shown_text};
use crate::marks::{Epoch, MarksView, Stamp, Tag};

/// What is stored for a request.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoredExplanation {
    #[serde(flatten)]
    pub claim: RouteExplanation,
    /// `current`, `soft-invalidated`, `invalidated`, `other-variant`, `nothing`, or `unknown` while Redis is away.
    pub found: String,
    /// Seconds that a soft-invalidated response may still be served.
    pub grace_left: Option<f64>,
    /// What this process has in memory: `current`, `soft-invalidated`, `invalidated`, `nothing`.
    pub in_memory: String,
    /// The same of Redis; `none` without one, `away`, `unreadable`.
    pub in_store: String,
    /// Request fields that select a variant, where responses vary.
    pub varies_on: Vec<String>,
    /// The variants that were stored lately, by the values of these fields. Some may be evicted.
    pub variants: Vec<String>,
    /// The marks that invalidate it.
    pub invalidated_since: Vec<InvalidatingMark>,
    pub stored: Option<StoredResponse>,
    /// The check of the caller, in a family with `authorize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<AuthorizationExplanation>,
    /// The decision on the request.
    pub now: DecisionExplanation,
}

/// A tag whose mark is younger than the entry.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvalidatingMark {
    pub tag: String,
    /// What set the mark.
    pub by: String,
}

/// The stored response.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoredResponse {
    pub status: u16,
    /// Bytes of its body.
    pub length: u64,
    /// Age, seconds.
    pub age: u64,
    /// Seconds of freshness left; negative when it is stale.
    pub ttl: i64,
    pub terms: ReuseTerms,
    /// Its tags.
    pub tags: Vec<String>,
}

/// An entry and whether it is current.
struct TierEntry {
    entry: Arc<Entry>,
    validity: ValidityReport,
}

/// What both tiers have under one key.
pub(super) struct Tiers {
    memory: Option<TierEntry>,
    store: Result<TierEntry, &'static str>,
}

impl Explainer<'_> {
    /// What is stored for it.
    pub async fn stored_now(&self, cache: &Cache) -> StoredExplanation {
        let cache_key = self.cache_key();
        if self.token_fault(cache.now()).is_some() {
            // As in the proxy: what is stored for the caller that the token names does not matter.
            let nothing = Tiers { memory: None, store: Err("nothing") };
            return self.explanation((self.claim(), cache_key), &nothing, None, None, cache.now());
        }
        let tiers = self.tiers(cache, &cache_key).await;
        let vary_index = tiers.vary_index();
        let (tiers, cache_key) = match vary_index.as_deref().and_then(Entry::vary_index) {
            Some(variants) => {
                let variant = cache_key.variant(&variants.on, &self.request.client_request.headers);
                (self.tiers(cache, &variant).await, variant)
            }
            None => (tiers, cache_key),
        };
        let claim = RouteExplanation {
            key: cache_key.key().to_string(),
            store_key: self.store_key(&cache_key),
            key_text: cache_key.text.clone(),
            ..self.claim()
        };
        let authorization = self.authorization(cache).await;
        let variants = vary_index.as_deref().and_then(Entry::vary_index);
        self.explanation((claim, cache_key), &tiers, variants, authorization, cache.now())
    }

    pub(super) async fn tiers(&self, cache: &Cache, cache_key: &CacheKey) -> Tiers {
        let Inspection { memory, store } = cache.inspect(cache_key, &self.request.label()).await;
        let memory = match memory {
            Some(entry) => Some(TierEntry { validity: cache.validity(&entry).await, entry }),
            None => None,
        };
        let store = match store {
            StoreInspection::Embedded => Err("none"),
            StoreInspection::Away => Err("away"),
            StoreInspection::Nothing => Err("nothing"),
            StoreInspection::Unreadable(_) => Err("unreadable"),
            StoreInspection::Entry(entry) => Ok(TierEntry { validity: cache.validity(&entry).await, entry }),
        };
        Tiers { memory, store }
    }

    fn explanation(
        &self,
        (claim, cache_key): (RouteExplanation, CacheKey),
        tiers: &Tiers,
        variants: Option<&VaryIndex>,
        authorization: Option<AuthorizationExplanation>,
        now: SystemTime,
    ) -> StoredExplanation {
        let found = tiers.found(variants.is_some());
        let judged = tiers.best();
        let validity = judged.map(|judged| &judged.validity);
        let response = judged.and_then(|judged| judged.entry.response().map(|response| (judged, response)));
        let lookup = tiers.lookup(cache_key, variants.is_some());
        let decision = self.decide(&lookup, now);
        let restricted = authorization
            .as_ref()
            .filter(|_| bypass(&self.live, &self.request.client_request, Instant::now()).is_none());
        let decision = match restricted {
            Some(it) => it.restrict(decision, self.request.demands.only_if_cached),
            None => decision,
        };
        let mut decision = self.explained(decision, &lookup);
        if restricted.is_some_and(AuthorizationExplanation::is_asked_first) && decision.does != Action::Refused {
            decision.because =
                format!("if the API authorizes the caller, which it is asked first: {}", decision.because);
        }
        StoredExplanation {
            claim,
            found: found.to_owned(),
            grace_left: validity.and_then(ValidityReport::grace_left).map(|left| left.as_secs_f64()),
            in_memory: tiers.memory.as_ref().map_or("nothing", TierEntry::label).to_owned(),
            in_store: tiers.store.as_ref().map_or_else(|state| *state, TierEntry::label).to_owned(),
            varies_on: variants.iter().flat_map(|it| &it.on).map(ToString::to_string).collect(),
            variants: variants
                .iter()
                .flat_map(|it| &it.known)
                .map(|it| shown_text(&values(&it.suffix)).into_owned())
                .collect(),
            invalidated_since: validity.map(|validity| self.marks(validity)).unwrap_or_default(),
            stored: response.map(|(judged, response)| StoredResponse {
                status: response.status.as_u16(),
                length: response.body.len() as u64,
                age: response.freshness.age(now).as_secs(),
                ttl: response.freshness.ttl(now),
                terms: self.terms(response),
                tags: judged.entry.tags.to_vec().iter().map(shown_tag).collect(),
            }),
            authorization,
            now: decision,
        }
    }

    fn marks(&self, validity: &ValidityReport) -> Vec<InvalidatingMark> {
        let mark = |tag: &Tag, by: String| InvalidatingMark { tag: shown_tag(tag), by };
        match validity {
            ValidityReport::Current | ValidityReport::Unknown => Vec::new(),
            ValidityReport::Everything => {
                let by = "everything was invalidated: POST /cache/clear, or [store] marks_max was reached";
                vec![mark(&Tag::root(), by.to_owned())]
            }
            ValidityReport::OtherEpoch => {
                let by = "Redis has lost its marks since (restarted, flushed, or replaced): everything older is \
                          invalidated";
                vec![mark(&Tag::root(), by.to_owned())]
            }
            ValidityReport::Invalidated(tags) | ValidityReport::SoftInvalidated(tags, _) => {
                tags.iter().map(|tag| mark(tag, self.means(tag))).collect()
            }
        }
    }

    /// What sets the mark of a tag.
    fn means(&self, tag: &Tag) -> String {
        if let Some(path) = tag.as_str().strip_prefix("uri:") {
            return format!(
                "invalidated by a write to {path}, or one whose answer named it in Location or Content-Location (RFC 9111 \
                 §4.4)"
            );
        }
        if let Some(group) = tag.as_str().strip_prefix("group ") {
            return match group.strip_prefix('/') {
                Some(name) => format!("invalidated by POST /cache/groups/{name}/clear"),
                None => format!("invalidated by a write whose answer invalidated the group {group} (RFC 9875 §3)"),
            };
        }
        let rules = self.rules_that_invalidate();
        match rules.is_empty() {
            true => "invalidated by POST /cache/clear/{family}, or by a reload that changed the family".to_owned(),
            false => format!(
                "invalidated by a write: {}; or by POST /cache/clear/{{family}}, or a reload that changed the family",
                rules.join("; or ")
            ),
        }
    }
}

impl TierEntry {
    fn is_usable(&self) -> bool {
        matches!(self.validity, ValidityReport::Current | ValidityReport::SoftInvalidated(..))
    }

    fn label(&self) -> &'static str {
        match self.validity {
            ValidityReport::Current => "current",
            ValidityReport::SoftInvalidated(..) => "soft-invalidated",
            ValidityReport::Unknown => "unknown",
            ValidityReport::Invalidated(_) | ValidityReport::Everything | ValidityReport::OtherEpoch => {
                "invalidated"
            }
        }
    }
}

impl Tiers {
    /// The vary index, as a lookup finds it: that in memory even if it is invalidated, since it is only a hint; that in Redis if it
    /// is current and memory has no current entry.
    fn vary_index(&self) -> Option<Arc<Entry>> {
        let is_usable = |judged: &&TierEntry| judged.is_usable();
        let of_memory =
            self.memory.as_ref().filter(|judged| is_usable(judged) || judged.entry.vary_index().is_some());
        let vary_index = of_memory.or(self.store.as_ref().ok().filter(is_usable))?;
        Some(&vary_index.entry).filter(|entry| entry.vary_index().is_some()).map(Arc::clone)
    }

    /// The entry that a lookup uses: a current one, memory before Redis; else a soft-invalidated one; else an invalidated one.
    fn best(&self) -> Option<&TierEntry> {
        let all = || self.memory.iter().chain(self.store.as_ref().ok());
        let current = all().find(|judged| judged.validity == ValidityReport::Current);
        current.or_else(|| all().find(|judged| judged.is_usable())).or_else(|| all().next())
    }

    /// The lookup that would find this.
    pub(super) fn lookup(&self, cache_key: CacheKey, varies: bool) -> Lookup {
        let found = match self.best() {
            Some(judged) => match judged.validity {
                ValidityReport::Current => Found::Current(Arc::clone(&judged.entry)),
                ValidityReport::SoftInvalidated(..) => Found::SoftInvalidated(Arc::clone(&judged.entry)),
                ValidityReport::Unknown => Found::Nothing,
                ValidityReport::Invalidated(_) | ValidityReport::Everything | ValidityReport::OtherEpoch => {
                    Found::Invalidated
                }
            },
            None if varies => Found::OtherVariant,
            None => Found::Nothing,
        };
        // While Redis does not answer, nothing stored is trusted.
        let is_away = matches!(self.store, Err("away"));
        let found = if is_away { Found::Nothing } else { found };
        let view = MarksView::hard(Stamp { epoch: Epoch(1), sequence: 1 }, 0);
        Lookup::of(found, cache_key, (!is_away).then_some(view))
    }

    fn found(&self, varies: bool) -> &'static str {
        match (self.best(), &self.store) {
            (_, Err("away")) => "unknown",
            (Some(judged), _) => judged.label(),
            (None, _) if varies => "other-variant",
            (None, _) => "nothing",
        }
    }
}

/// `accept-language: de` of the suffix of a variant's text.
fn values(suffix: &str) -> String {
    let lines = suffix.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.strip_prefix("vary ").unwrap_or(line)).collect::<Vec<_>>().join(", ")
}

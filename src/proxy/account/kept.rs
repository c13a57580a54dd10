//! What is kept for a request right now, and what it would get of it. Looks only: neither tier is changed, and upstream
//! is not asked.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Account, Claim, Terms, Use};
use crate::cache::Cache;
use crate::cache::peek::{Peek, Shelf, Standing};
use crate::entry::{Entry, Variants};
use crate::key::Canonical;
use crate::stamp::Tag;

/// What is kept for a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    #[serde(flatten)]
    pub claim: Claim,
    /// `current`, `softly-outdated`, `outdated`, `other-variant`, `nothing`, or `unknown` while the store is away.
    pub found: String,
    /// Seconds for which what is outdated softly may still be served.
    pub grace_left: Option<f64>,
    /// What this process has in memory: `current`, `softly-outdated`, `outdated`, `nothing`.
    pub in_memory: String,
    /// The same of Redis; `none` without one, `away`, `unreadable`.
    pub in_store: String,
    /// Request fields that tell the variants apart, where responses vary.
    pub varies_on: Vec<String>,
    /// The variants that were stored lately, by the values of these fields; some may be gone.
    pub variants: Vec<String>,
    /// By what it was outdated.
    pub outdated_since: Vec<Mark>,
    pub stored: Option<Stored>,
    /// What the request would get.
    pub now: Use,
}

/// A tag whose mark is younger than the entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    pub tag: String,
    /// What marks it.
    pub by: String,
}

/// The response that is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    pub status: u16,
    /// Bytes of its body.
    pub length: u64,
    /// Seconds since it was made.
    pub age: u64,
    /// Seconds of freshness left; negative when it is stale.
    pub ttl: i64,
    pub terms: Terms,
    /// All that outdates it.
    pub tags: Vec<String>,
}

/// An entry and whether it is current.
struct Judged {
    entry: Arc<Entry>,
    standing: Standing,
}

/// What both tiers have under one text.
struct Tiers {
    memory: Option<Judged>,
    store: Result<Judged, &'static str>,
}

impl Account<'_> {
    /// What is kept for it.
    pub async fn kept(&self, cache: &Cache) -> Kept {
        let canonical = self.canonical();
        let tiers = self.tiers(cache, &canonical).await;
        let sign = tiers.sign();
        let (tiers, canonical) = match sign.as_deref().and_then(Entry::variants) {
            Some(variants) => {
                let variant = canonical.variant(&variants.on, &self.question.asked.headers);
                (self.tiers(cache, &variant).await, variant)
            }
            None => (tiers, canonical),
        };
        let claim = Claim {
            key: canonical.key().to_string(),
            store_key: self.store_key(&canonical),
            key_text: canonical.text,
            ..self.claim()
        };
        self.told(claim, &tiers, sign.as_deref().and_then(Entry::variants), cache.now())
    }

    async fn tiers(&self, cache: &Cache, canonical: &Canonical) -> Tiers {
        let Peek { memory, store } = cache.peek(canonical, &self.question.label()).await;
        let memory = match memory {
            Some(entry) => Some(Judged { standing: cache.standing(&entry).await, entry }),
            None => None,
        };
        let store = match store {
            Shelf::Embedded => Err("none"),
            Shelf::Away => Err("away"),
            Shelf::Nothing => Err("nothing"),
            Shelf::Unreadable(_) => Err("unreadable"),
            Shelf::Entry(entry) => Ok(Judged { standing: cache.standing(&entry).await, entry }),
        };
        Tiers { memory, store }
    }

    fn told(&self, claim: Claim, tiers: &Tiers, variants: Option<&Variants>, now: SystemTime) -> Kept {
        let found = tiers.found(variants.is_some());
        let judged = tiers.best();
        let standing = judged.map(|judged| &judged.standing);
        let response = judged.and_then(|judged| judged.entry.response().map(|response| (judged, response)));
        let would = match response {
            Some((judged, response)) if judged.is_usable() => {
                self.use_of(response, now, judged.standing != Standing::Current)
            }
            _ => self.use_of_nothing(why_nothing(found)),
        };
        Kept {
            claim,
            found: found.to_owned(),
            grace_left: standing.and_then(Standing::grace_left).map(|left| left.as_secs_f64()),
            in_memory: tiers.memory.as_ref().map_or("nothing", Judged::label).to_owned(),
            in_store: tiers.store.as_ref().map_or_else(|state| *state, Judged::label).to_owned(),
            varies_on: variants.iter().flat_map(|it| &it.on).map(ToString::to_string).collect(),
            variants: variants.iter().flat_map(|it| &it.known).map(|it| values(&it.suffix)).collect(),
            outdated_since: standing.map(|standing| self.marks(standing)).unwrap_or_default(),
            stored: response.map(|(judged, response)| Stored {
                status: response.status.as_u16(),
                length: response.body.len() as u64,
                age: response.freshness.age(now).as_secs(),
                ttl: response.freshness.ttl(now),
                terms: self.terms(response),
                tags: judged.entry.tags.iter().map(Tag::to_string).collect(),
            }),
            now: would,
        }
    }

    fn marks(&self, standing: &Standing) -> Vec<Mark> {
        let mark = |tag: &Tag, by: String| Mark { tag: tag.to_string(), by };
        match standing {
            Standing::Current | Standing::Unknown => Vec::new(),
            Standing::Everything => {
                let by = "everything was outdated: POST /cache/clear, or [store] marks_max was reached";
                vec![mark(&Tag::root(), by.to_owned())]
            }
            Standing::OtherEpoch => {
                let by = "the store has lost its marks since (restarted, flushed, or replaced): everything older is \
                          outdated";
                vec![mark(&Tag::root(), by.to_owned())]
            }
            Standing::Outdated(tags) | Standing::Softened(tags, _) => {
                tags.iter().map(|tag| mark(tag, self.means(tag))).collect()
            }
        }
    }

    /// What marks a tag.
    fn means(&self, tag: &Tag) -> String {
        if let Some(path) = tag.as_str().strip_prefix("uri:") {
            return format!(
                "outdated by a write to {path}, or one whose answer named it in Location or Content-Location (RFC 9111 \
                 §4.4)"
            );
        }
        if let Some(group) = tag.as_str().strip_prefix("group ") {
            return match group.strip_prefix('/') {
                Some(name) => format!("outdated by POST /cache/groups/{name}/clear"),
                None => format!("outdated by a write whose answer invalidated the group {group} (RFC 9875 §3)"),
            };
        }
        let rules = self.rules_that_outdate();
        match rules.is_empty() {
            true => "outdated by POST /cache/clear/{family}, or by a reload that changed the family".to_owned(),
            false => format!(
                "outdated by a write: {}; or by POST /cache/clear/{{family}}, or a reload that changed the family",
                rules.join("; or ")
            ),
        }
    }
}

impl Judged {
    fn is_usable(&self) -> bool {
        matches!(self.standing, Standing::Current | Standing::Softened(..))
    }

    fn label(&self) -> &'static str {
        match self.standing {
            Standing::Current => "current",
            Standing::Softened(..) => "softly-outdated",
            Standing::Unknown => "unknown",
            Standing::Outdated(_) | Standing::Everything | Standing::OtherEpoch => "outdated",
        }
    }
}

impl Tiers {
    /// The sign that responses vary, as a lookup finds it: memory's as a hint, even when it is outdated; the store's if
    /// it is current, and memory has no current response.
    fn sign(&self) -> Option<Arc<Entry>> {
        let is_usable = |judged: &&Judged| judged.is_usable();
        let of_memory =
            self.memory.as_ref().filter(|judged| is_usable(judged) || judged.entry.variants().is_some());
        let sign = of_memory.or(self.store.as_ref().ok().filter(is_usable))?;
        Some(&sign.entry).filter(|entry| entry.variants().is_some()).map(Arc::clone)
    }

    /// What a lookup goes by: what is current, memory before the store; else what is outdated softly; else what is outdated.
    fn best(&self) -> Option<&Judged> {
        let all = || self.memory.iter().chain(self.store.as_ref().ok());
        let current = all().find(|judged| judged.standing == Standing::Current);
        current.or_else(|| all().find(|judged| judged.is_usable())).or_else(|| all().next())
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

/// Why nothing kept can be used.
fn why_nothing(found: &str) -> &'static str {
    match found {
        "outdated" => "what is kept is outdated, and worthless whatever its lifetime (fwd=stale; detail=outdated)",
        "other-variant" => {
            "responses are kept for other values of the request fields that they vary on (RFC 9111 §4.1; fwd=vary-miss)"
        }
        "unknown" => {
            "the store is away: nothing kept may be trusted, nothing fetched is stored (detail=store-away)"
        }
        _ => {
            "nothing is kept for it (fwd=uri-miss); larder explain with --ask says what would become of upstream's \
             answer"
        }
    }
}

/// `accept-language: de` of the suffix of a variant's text.
fn values(suffix: &str) -> String {
    let lines = suffix.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.strip_prefix("vary ").unwrap_or(line)).collect::<Vec<_>>().join(", ")
}

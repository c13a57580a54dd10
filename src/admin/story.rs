//! `GET /cache/story`: what happened to the entry of a URL: stored, served, invalidated by which request, fetched again, changed or not.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::explain::ExplainQuery;
use super::refusal::ErrorBody;
use super::report::Success;
use super::state::{Answer, At};
use crate::key::shown_tag;
use crate::upkeep::invalidation_log::{InvalidationRecord, time};
use crate::upkeep::stories::{Compared, StoreEvent};

/// Most invalidations of a story.
const INVALIDATIONS: usize = 100;

#[derive(Serialize, ToSchema)]
pub struct StoryReport {
    url: String,
    family: Option<String>,
    /// The oldest first. What was stored and served is that of this proxy; invalidations are those of the fleet.
    events: Vec<StoryEvent>,
    /// False: Redis does not answer, and invalidations of other proxies are missing.
    complete: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct StoryEvent {
    /// RFC 3339. Of `served`, the end of the time in which it was served.
    time: String,
    #[serde(flatten)]
    what: StoryContent,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "what", rename_all = "lowercase")]
enum StoryContent {
    Stored {
        status: u16,
        /// Of the body.
        bytes: usize,
        /// The request fields that select it; null: responses do not vary.
        variant: Option<String>,
    },
    Refetched {
        status: u16,
        bytes: usize,
        variant: Option<String>,
        /// The body is that of the response before it.
        identical: bool,
        /// The response before it had been invalidated.
        after_invalidation: bool,
    },
    /// From the memory of this proxy, so often.
    Served { times: u32, variant: Option<String> },
    Invalidated {
        by: Box<InvalidationRecord>,
        /// The tags of the entry that it invalidated.
        matching: Vec<String>,
    },
}

/// What happened to the entry of a URL: stored, served, invalidated by which request, fetched again, changed or identical
#[utoipa::path(get, path = "/cache/story", tag = "entries",
    params(ExplainQuery),
    responses(
        (status = 200, body = Success<StoryReport>),
        (status = 400, description = "the parameters are no request", body = ErrorBody),
    ))]
pub async fn story(State(state): At, query: ExplainQuery) -> Answer<StoryReport> {
    let (running, url) = (state.running(), query.url());
    let explainer = query.explainer(running)?;
    let stored = running.stories.of(explainer.primary_key());
    let family = explainer.family();
    let (mut records, mut complete) = (Vec::new(), true);
    if let Some(first) = stored.first() {
        let is_about = |record: &InvalidationRecord| {
            let is_cut =
                record.tags_left_out > 0 && family.is_some_and(|name| record.families.iter().any(|it| it == name));
            record.is_after(first.stamp.sequence)
                && (is_cut || stored.iter().any(|it| !matching(it, record).is_empty()))
        };
        // Without a position it does not fail.
        let page = running.cache.read_log(None, INVALIDATIONS, is_about).await.unwrap_or_default();
        (records, complete) = (page.records, page.is_of_fleet);
    }
    let served = explainer.served(&running.cache);
    let family = family.map(str::to_owned);
    let events = events(&stored, records, served, running.cache.now());
    Ok(Json(Success::of(StoryReport { url, family, events, complete })))
}

fn matching(stored: &StoreEvent, record: &InvalidationRecord) -> Vec<String> {
    let tags = stored.tags.to_vec();
    let has = |tag: &&String| tags.iter().any(|it| it.as_str() == **tag || shown_tag(it) == **tag);
    record.tags.iter().filter(has).cloned().collect()
}

/// The story. `served`: hits of the entry in memory, and of all before it.
fn events(
    stored: &[StoreEvent],
    records: Vec<InvalidationRecord>,
    served: u32,
    now: SystemTime,
) -> Vec<StoryEvent> {
    // With the time of each in microseconds, and what was served until a time before what happened then.
    let mut events: Vec<(u64, bool, StoryEvent)> = Vec::new();
    let mut add = |micros, what, time| {
        let happened = !matches!(what, StoryContent::Served { .. });
        events.push((micros, happened, StoryEvent { time, what }));
    };
    for (at, event) in stored.iter().enumerate() {
        let variant = event.variant.as_deref().map(|text| text.trim().to_owned());
        let StoreEvent { status, bytes, .. } = *event;
        let what = match event.compared {
            Compared::First => StoryContent::Stored { status, bytes, variant: variant.clone() },
            Compared::Again { is_identical } => StoryContent::Refetched {
                status,
                bytes,
                variant: variant.clone(),
                identical: is_identical,
                after_invalidation: false,
            },
            Compared::AfterInvalidation { is_identical } => StoryContent::Refetched {
                status,
                bytes,
                variant: variant.clone(),
                identical: is_identical,
                after_invalidation: true,
            },
        };
        add(micros(event.time), what, time(event.time));
        let next = stored[at + 1..].iter().find(|next| next.variant == event.variant);
        // Of other variants the entry in memory is not looked at.
        let is_last = at + 1 == stored.len();
        let (until, hits) = match next {
            Some(next) => (next.time, next.hits_before),
            None => (now, if is_last { served } else { 0 }),
        };
        let times = hits.saturating_sub(event.hits_before);
        if times > 0 {
            add(micros(until), StoryContent::Served { times, variant }, time(until));
        }
    }
    for record in records {
        let mut matching: Vec<String> = stored.iter().flat_map(|it| matching(it, &record)).collect();
        matching.sort_unstable();
        matching.dedup();
        // A sequence is a time too, and more exact.
        let parsed = humantime::parse_rfc3339(&record.time).unwrap_or(now);
        let at = if record.sequence > 0 { record.sequence } else { micros(parsed) };
        let (time, by) = (record.time.clone(), Box::new(record));
        add(at, StoryContent::Invalidated { by, matching }, time);
    }
    events.sort_by_key(|(micros, happened, _)| (*micros, *happened));
    events.into_iter().map(|(_, _, event)| event).collect()
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::entry::StoredTags;
    use crate::marks::{Epoch, Stamp, Tag};
    use crate::upkeep::invalidation_log::{InvalidationLog, OriginKind};

    fn stored(seconds: u64, compared: Compared, hits_before: u32) -> StoreEvent {
        StoreEvent {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            status: 200,
            bytes: 5,
            stamp: Stamp { epoch: Epoch(1), sequence: seconds },
            variant: None,
            compared,
            hits_before,
            tags: StoredTags::of([Tag::family("users")]),
        }
    }

    #[test]
    fn a_story_is_told_in_the_order_of_its_events() {
        let all = [
            stored(1, Compared::First, 0),
            stored(5, Compared::AfterInvalidation { is_identical: true }, 3),
            stored(9, Compared::Again { is_identical: false }, 3),
        ];
        let log = InvalidationLog::default();
        let record = log.record(OriginKind::Write.into(), &[Tag::family("users"), Tag::family("x")], &[]);
        let record = InvalidationRecord { time: "1970-01-01T00:00:04.000Z".to_owned(), ..record };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20);
        let told = serde_json::to_value(events(&all, vec![record], 7, now)).unwrap();
        let words: Vec<_> = told.as_array().unwrap().iter().map(|it| it["what"].as_str().unwrap()).collect();
        assert_eq!(words, ["stored", "invalidated", "served", "refetched", "refetched", "served"]);
        assert_eq!((&told[1]["matching"][0], &told[1]["by"]["cause"]["kind"]), (&"users".into(), &"write".into()));
        assert_eq!((&told[2]["times"], &told[5]["times"]), (&3.into(), &4.into()));
        assert_eq!((&told[3]["identical"], &told[3]["after_invalidation"]), (&true.into(), &true.into()));
        assert_eq!((&told[4]["identical"], &told[4]["after_invalidation"]), (&false.into(), &false.into()));
    }
}

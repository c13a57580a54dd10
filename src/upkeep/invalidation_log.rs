//! The log of invalidations: what was invalidated, when, by which proxy, and why. For operators; nothing that is served depends on it.
//!
//! With Redis a record goes to a stream there in the same script as its invalidation, so that it costs no round trip and every proxy
//! can read it. How long the members took to confirm is known only later: it follows in an entry of its own ([`UnsentEntry::Wait`]). So
//! do records of invalidations that Redis has not taken. Both are sent by a task, which no write waits for.
//!
//! The latest records of this proxy are also in memory: all there is without Redis, and what is shown while Redis is away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::events::Events;
use super::names::FamilyOwners;
use crate::key::shown_tag;
use crate::marks::{Sequence, SoftInvalidation, Tag};
use crate::mutex::lock;
use crate::store::fleet::random_id;

/// Records in memory.
const RECENT: usize = 1000;
/// Records and waits that wait for Redis; beyond that the oldest are dropped.
const UNSENT: usize = 1000;
/// Most tags, families and rules that a record names.
const NAMED: usize = 30;
/// Longest path that a record holds, bytes.
const PATH: usize = 512;
/// Longest other text of a record, bytes: of a tag, a pattern, a request id, a token's name.
const TEXT: usize = 200;
/// `proxy` of a record without a fleet.
pub const EMBEDDED: &str = "embedded";

/// One invalidation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvalidationRecord {
    /// Unique. Of a write, it is the id of its intent.
    pub id: String,
    /// RFC 3339.
    pub time: String,
    /// The id of the proxy in its fleet; `embedded` without one.
    pub proxy: String,
    pub cause: InvalidationOrigin,
    /// The first rule that applied; null: no rule did.
    pub rule: Option<RuleNote>,
    /// The other rules that applied.
    #[serde(default)]
    pub further_rules: Vec<RuleNote>,
    /// As operators see them ([`shown_tag`]); at most 30.
    pub tags: Vec<String>,
    /// Number of tags beyond these.
    #[serde(default)]
    pub tags_left_out: usize,
    /// The families of which entries were invalidated; at most 30.
    pub families: Vec<String>,
    pub mode: InvalidationMode,
    /// How long the invalidation waited until no proxy could serve what it invalidated, milliseconds. Null: not known (yet).
    pub wait_ms: Option<f64>,
    /// Entries that it invalidated, where they were counted: purges whose preview or patterns have looked at what is stored. Null for
    /// writes. Only a walk over Redis and over the memory of every proxy could count theirs, and no write waits for that.
    pub entries: Option<u64>,
    /// The sequence that it took; 0 where that is not known.
    #[serde(default)]
    pub sequence: Sequence,
}

/// Whether invalidated entries may still be served while they are fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InvalidationMode {
    Hard,
    /// A rule with `mode = "soft"`. The path of the write itself is invalidated hard.
    Soft,
}

/// What caused an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OriginKind {
    /// A request of a client.
    Write,
    /// An operator.
    Purge,
    /// An operator or a tool, for a deployment.
    Deploy,
    /// A rule with `again`, some time after its write.
    Again,
    /// A write that another proxy had announced and not completed.
    Recovered,
    /// New rules: what was stored under the old ones may have missed writes.
    Rules,
    /// Larder itself, because what was stored may be wrong: an outage, or a response that may be another request's.
    Safety,
}

/// Why something was invalidated. Fields that have no meaning for its kind are null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvalidationOrigin {
    pub kind: OriginKind,
    /// Of the request that wrote.
    #[serde(default)]
    pub method: Option<String>,
    /// Without its query, which may hold secrets.
    #[serde(default)]
    pub path: Option<String>,
    /// Of upstream's response; null: there was none.
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub request_id: Option<String>,
    /// The name of the operator's token.
    #[serde(default)]
    pub token: Option<String>,
    /// The address that the operator's request came from.
    #[serde(default)]
    pub peer: Option<String>,
    /// The idempotency key of a deployment.
    #[serde(default)]
    pub deploy: Option<String>,
}

/// A rule of `[invalidate]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RuleNote {
    pub pattern: String,
    /// In the rules file, from 1.
    pub line: usize,
}

/// Why something is invalidated, for its record.
#[derive(Debug, Clone)]
pub struct Why {
    pub origin: InvalidationOrigin,
    pub rules: Vec<RuleNote>,
    /// The id of the record; `None`: a new one.
    pub id: Option<Box<str>>,
    /// Entries that will be invalidated, if they were counted.
    pub entries: Option<u64>,
}

impl InvalidationOrigin {
    /// Of this kind, with nothing else known.
    pub fn of(kind: OriginKind) -> InvalidationOrigin {
        let nothing = (None, None, None, None);
        let ((method, path, request_id, token), (peer, deploy)) = (nothing, (None, None));
        InvalidationOrigin { kind, method, path, status: None, request_id, token, peer, deploy }
    }

    fn shortened(mut self) -> InvalidationOrigin {
        for (text, most) in [
            (&mut self.method, TEXT),
            (&mut self.path, PATH),
            (&mut self.request_id, TEXT),
            (&mut self.token, TEXT),
            (&mut self.peer, TEXT),
            (&mut self.deploy, TEXT),
        ] {
            if let Some(text) = text {
                shorten(text, most);
            }
        }
        self
    }
}

impl From<InvalidationOrigin> for Why {
    fn from(origin: InvalidationOrigin) -> Why {
        Why { origin, rules: Vec::new(), id: None, entries: None }
    }
}

impl From<OriginKind> for Why {
    fn from(kind: OriginKind) -> Why {
        InvalidationOrigin::of(kind).into()
    }
}

/// Cuts a text after so many bytes, at a character.
fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

impl InvalidationRecord {
    /// Whether its time is known to be later than that of what has this sequence.
    pub fn is_after(&self, sequence: Sequence) -> bool {
        self.sequence > sequence
    }

    /// As it is in Redis.
    pub fn text(&self) -> String {
        // Every field of it can be written as JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What Redis does not have yet.
#[derive(Debug, Clone, PartialEq)]
pub enum UnsentEntry {
    /// A record, as text.
    Record(String),
    /// How long the invalidation with this record waited, milliseconds.
    Wait(String, f64),
}

/// The log of this proxy.
#[derive(Debug, Default)]
pub struct InvalidationLog {
    proxy: OnceLock<Box<str>>,
    owners: ArcSwapOption<FamilyOwners>,
    recent: Mutex<VecDeque<Arc<InvalidationRecord>>>,
    unsent: Mutex<VecDeque<UnsentEntry>>,
    is_unsent: Notify,
    pub events: Arc<Events>,
}

impl InvalidationLog {
    /// Sets the name of this proxy in its fleet. Only the first call counts.
    pub fn set_proxy(&self, id: &str) {
        let _ = self.proxy.set(id.into());
    }

    /// The name of this proxy.
    pub fn proxy(&self) -> &str {
        self.proxy.get().map_or(EMBEDDED, |id| id)
    }

    /// Sets the families that tags belong to.
    pub fn set_owners(&self, owners: FamilyOwners) {
        self.owners.store(Some(Arc::new(owners)));
    }

    /// The record of an invalidation that is about to be carried out.
    pub fn record(&self, why: Why, tags: &[Tag], soft: &[SoftInvalidation]) -> InvalidationRecord {
        let Why { origin, rules, id, entries } = why;
        let all = || tags.iter().chain(soft.iter().map(|soft| &soft.tag));
        let owners = self.owners.load();
        let mut families = BTreeSet::new();
        if let Some(owners) = &*owners {
            all().take(UNSENT).for_each(|tag| families.extend(owners.reached(tag)));
        }
        let families: Vec<String> = families.into_iter().take(NAMED).map(str::to_owned).collect();
        let mut named: Vec<String> = all().take(NAMED).map(shown_tag).collect();
        named.sort_unstable();
        named.iter_mut().for_each(|tag| shorten(tag, TEXT));
        let mut rules = rules.into_iter().take(NAMED).map(|mut rule| {
            shorten(&mut rule.pattern, TEXT);
            rule
        });
        let soft_only = rules.len() > 0 && !soft.is_empty();
        InvalidationRecord {
            id: id.unwrap_or_else(random_id).into(),
            time: time(SystemTime::now()),
            proxy: self.proxy().to_owned(),
            cause: origin.shortened(),
            rule: rules.next(),
            further_rules: rules.collect(),
            tags_left_out: (tags.len() + soft.len()).saturating_sub(NAMED),
            tags: named,
            families,
            mode: if soft_only { InvalidationMode::Soft } else { InvalidationMode::Hard },
            wait_ms: None,
            entries,
            sequence: 0,
        }
    }

    /// Adds the record of an invalidation that is carried out: with `sequence`, after it has waited so long. Redis has the record,
    /// if there is one.
    pub fn add(
        &self,
        record: InvalidationRecord,
        sequence: Sequence,
        wait: Option<Duration>,
    ) -> Arc<InvalidationRecord> {
        let wait_ms = wait.map(|wait| (wait.as_secs_f64() * 1e6).round() / 1e3);
        let record = Arc::new(InvalidationRecord { wait_ms, sequence, ..record });
        if let Some(wait_ms) = wait_ms.filter(|_| self.proxy.get().is_some()) {
            self.send_later(UnsentEntry::Wait(record.id.clone(), wait_ms));
        }
        self.push(&record);
        record
    }

    /// Adds the record of an invalidation that Redis does not have yet.
    pub fn add_undelivered(&self, record: InvalidationRecord) -> Arc<InvalidationRecord> {
        let record = Arc::new(record);
        self.send_later(UnsentEntry::Record(record.text()));
        self.push(&record);
        record
    }

    fn push(&self, record: &Arc<InvalidationRecord>) {
        self.events.invalidated(&**record);
        let mut recent = lock(&self.recent);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(record));
    }

    fn send_later(&self, unsent: UnsentEntry) {
        let mut all = lock(&self.unsent);
        if all.len() >= UNSENT {
            all.pop_front();
        }
        all.push_back(unsent);
        drop(all);
        self.is_unsent.notify_one();
    }

    /// The latest records of this proxy, the latest first.
    pub fn recent(&self) -> Vec<Arc<InvalidationRecord>> {
        lock(&self.recent).iter().rev().cloned().collect()
    }

    /// Whether the record with this id is among them.
    pub fn is_recent(&self, id: &str) -> bool {
        lock(&self.recent).iter().any(|record| record.id == id)
    }

    /// Waits until there is something to send.
    pub async fn has_unsent(&self) {
        while lock(&self.unsent).is_empty() {
            self.is_unsent.notified().await;
        }
    }

    /// Takes everything that is to be sent.
    pub fn take_unsent(&self) -> Vec<UnsentEntry> {
        lock(&self.unsent).drain(..).collect()
    }

    /// Puts back what could not be sent. What came later is kept, if there is not room for both.
    pub fn put_back(&self, unsent: Vec<UnsentEntry>) {
        let mut all = lock(&self.unsent);
        for one in unsent.into_iter().rev() {
            if all.len() < UNSENT {
                all.push_front(one);
            }
        }
    }
}

/// RFC 3339, with milliseconds.
pub fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// The entries of the stream in Redis that hold waits: milliseconds by the id of the record.
pub type Waits = BTreeMap<String, f64>;

#[cfg(test)]
mod tests {
    use super::*;

    fn why(kind: OriginKind) -> Why {
        kind.into()
    }

    #[test]
    fn a_record_names_families_and_a_bounded_number_of_tags_and_survives_its_text() {
        let log = InvalidationLog::default();
        log.set_owners(["user".to_owned(), "rooms".to_owned()].into_iter().collect());
        let tags: Vec<Tag> = (0..60).map(|id| Tag::family(&format!("user:{id}"))).collect();
        let path = Some("/é".repeat(2000));
        let origin =
            InvalidationOrigin { method: Some("POST".into()), path, ..InvalidationOrigin::of(OriginKind::Write) };
        let rules =
            vec![RuleNote { pattern: "/users".into(), line: 3 }, RuleNote { pattern: "/.*".into(), line: 4 }];
        let why = Why { rules, id: Some("id".into()), ..origin.into() };
        let soft = [SoftInvalidation { tag: Tag::family("rooms"), grace: Duration::from_secs(1) }];
        let record = log.record(why, &tags, &soft);
        assert_eq!((record.tags.len(), record.tags_left_out), (30, 31));
        assert_eq!((record.families.join(" ").as_str(), record.mode), ("rooms user", InvalidationMode::Soft));
        assert_eq!(record.rule.as_ref().unwrap().line, 3);
        assert_eq!(record.further_rules.len(), 1);
        assert!(record.cause.path.as_ref().unwrap().len() <= PATH + 3);
        let read: InvalidationRecord = serde_json::from_str(&record.text()).unwrap();
        assert_eq!(read, record);
        assert!(record.text().len() < 8 << 10);
    }

    #[test]
    fn the_latest_records_are_kept_and_what_redis_lacks_is_sent_later() {
        let log = InvalidationLog::default();
        for number in 0..RECENT + 5 {
            let record =
                log.record(Why { id: Some(number.to_string().into()), ..why(OriginKind::Purge) }, &[], &[]);
            log.add(record, 7, Some(Duration::from_micros(1500)));
        }
        let recent = log.recent();
        assert_eq!((recent.len(), recent[0].id.as_str(), recent[0].wait_ms), (RECENT, "1004", Some(1.5)));
        assert_eq!(log.take_unsent(), [], "without a fleet nobody else reads it");
        log.set_proxy("p1");
        let record = log.record(why(OriginKind::Again), &[Tag::root()], &[]);
        log.add_undelivered(record.clone());
        log.add(InvalidationRecord { id: "x".into(), ..record.clone() }, 8, Some(Duration::from_millis(2)));
        let unsent = log.take_unsent();
        assert_eq!(unsent, [UnsentEntry::Record(record.text()), UnsentEntry::Wait("x".into(), 2.0)]);
        log.put_back(unsent.clone());
        log.add(InvalidationRecord { id: "y".into(), ..record }, 9, Some(Duration::ZERO));
        assert_eq!(log.take_unsent()[..2], unsent);
        (0..2 * UNSENT).for_each(|_| log.send_later(UnsentEntry::Wait("z".into(), 0.0)));
        assert_eq!(log.take_unsent().len(), UNSENT);
    }
}

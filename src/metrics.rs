//! Counters and histograms, exposed in the OpenMetrics text format. Labels come from the rules, never from requests.
//! Handles are resolved when rules are loaded, so the data path only increments atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use crate::http::authorization::Authorization;
use crate::outcome::{Outcome, OutcomeKind};

/// What is refused, and the limits that it may reach ([`Metrics::refused`]).
const REFUSALS: &[(&str, &[&str])] = &[
    ("connections", &["client", "all"]),
    ("heads", &["client", "all"]),
    ("streams", &["client", "all"]),
    ("upstream-requests", &["client", "all"]),
    ("upstream-streams", &["client", "all"]),
    ("unshared", &["client"]),
];

/// Tokens of the errors of a request that was sent ([`crate::upstream::UpstreamError::token`]).
const UPSTREAM_FAILURES: [&str; 6] = [
    "upstream-unreachable",
    "upstream-closed",
    "upstream-timeout",
    "upstream-garbled",
    "streams-overloaded",
    "client-streams-overloaded",
];

/// The store's reasons for a new epoch.
const EPOCH_CAUSES: [&str; 6] = ["new", "restarted", "meta lost", "marks lost", "members lost", "intents lost"];

/// The label of requests whose path belongs to no family.
pub const NO_FAMILY: &str = "none";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    family: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InvalidationLabels {
    family: String,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    op: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    ended: &'static str,
}

/// All metrics of Larder.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    invalidations: Family<InvalidationLabels, Counter>,
    store_errors: Family<OperationLabels, Counter>,
    unreadable_entries: Family<ReasonLabels, Counter>,
    coalesced: Counter,
    coalesced_waiting: Gauge,
    fleet_waits: Family<EndLabels, Counter>,
    not_stored: Family<ReasonLabels, Counter>,
    authorizations: Family<AuthorizationLabels, Counter>,
    hit_time: Family<FamilyLabels, Histogram>,
    miss_time: Family<FamilyLabels, Histogram>,
    write_time: Histogram,
    upstream_time: Histogram,
    upstream_failures: Family<ReasonLabels, Counter>,
    store_time: Family<OperationLabels, Histogram>,
    server_errors: Family<FamilyLabels, Counter>,
    settle_time: Histogram,
    sync_time: Histogram,
    epoch_changes: Family<CauseLabels, Counter>,
    lease_lost: Family<ReasonLabels, Counter>,
    task_panics: Family<TaskLabels, Counter>,
    marks: Gauge,
    floor_age: Gauge<f64, AtomicU64>,
    /// Seconds by which this machine's clock is ahead of the store's.
    pub clock_ahead: Gauge<f64, AtomicU64>,
    /// Write intents that other proxies abandoned and this one completed.
    pub intents_carried_out: Counter,
    /// Invalidations repeated because of `again` in their rule.
    pub invalidations_repeated: Counter,
    /// Fetches because of `refresh` in a rule.
    pub refreshes: Counter,
    warmed: Family<ResultLabels, Counter>,
    refetches: Family<RefetchLabels, Counter>,
    /// 1 while a run of `[[warm]]` is under way.
    pub warming: Gauge,
    /// Proxies whose confirmation a write waited for without success.
    pub members_expelled: Counter,
    /// Completed writes that no rule matches.
    pub writes_unmatched: Counter,
    /// Requests that upstream may have answered with another request's response, because its connection was out of
    /// step.
    pub suspects: Counter,
    /// Invalidated entries that this proxy's sweeper removed from Redis.
    pub swept: Counter,
    alerts: Family<AlertLabels, Gauge>,
    stored_keys: Family<FamilyLabels, Gauge>,
    stored_bytes: Family<FamilyLabels, Gauge>,
    /// 1 while L1 is served under a lease. Set on each scrape.
    pub lease_held: Gauge,
    /// Open client connections.
    pub connections: Gauge,
    /// Client connections since the start.
    pub connections_total: Counter,
    /// Idle client connections closed to make room.
    pub connections_evicted: Counter,
    refused: Family<RefusalLabels, Counter>,
    /// Admin requests with an unknown token.
    pub admin_wrong_tokens: Counter,
    /// Requests in progress at upstream. Set on each scrape.
    pub upstream_requests: Gauge,
    /// Requests queued for upstream. Set on each scrape.
    pub upstream_queued: Gauge,
    /// Event streams, upgraded connections and long polls. Set on each scrape.
    pub upstream_streams: Gauge,
    /// Entries in L1. Set on each scrape.
    pub memory_entries: Gauge,
    /// Bytes in L1. Set on each scrape.
    pub memory_bytes: Gauge,
    /// Most bytes in L1. Set on each scrape.
    pub memory_capacity: Gauge,
    /// Memory of the process, bytes. Set on each scrape.
    pub resident_memory: Gauge,
    /// Entries evicted from L1 for space. Set on each scrape.
    evictions: Counter,
    /// Proxies with a record in Redis. Set on each scrape.
    pub members: Gauge,
    /// Seconds since the epoch began. Set on each scrape.
    pub epoch_age: Gauge<f64, AtomicU64>,
    /// Writes under way in the fleet. Set on each scrape.
    pub intents: Gauge,
    start_time: Gauge<f64, AtomicU64>,
    /// 1 while the store is available. Set on each scrape.
    pub store_up: Gauge,
    /// Invalidations that wait for the store. Set on each scrape.
    pub undelivered: Gauge,
    tokens_refused: Family<ReasonLabels, Counter>,
    /// Keys that verify bearer tokens.
    pub jwt_keys: Gauge,
    /// JWK Sets that could not be read.
    pub jwks_failures: Counter,
    /// 1 if the last reload of the rules failed.
    pub rules_faulty: Gauge,
    /// Families that are not cached because proxies of the fleet follow different rules for them.
    pub mixed_rules: Gauge,
    /// Dropped log lines. Set on each scrape.
    log_lines_lost: Counter,
    spans_sent: Counter,
    spans_lost: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefetchLabels {
    family: String,
    body: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthorizationLabels {
    verdict: &'static str,
    asked: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    what: &'static str,
    bound: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertLabels {
    alert: &'static str,
    family: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    family: String,
}

/// The counters of the requests of one family.
#[derive(Debug, Clone)]
pub struct FamilyCounters {
    /// The family's name, or [`NO_FAMILY`].
    pub family: String,
    outcomes: [Counter; OutcomeKind::ALL.len()],
    server_errors: Counter,
    hit_time: Histogram,
    miss_time: Histogram,
    /// Of all families.
    write_time: Histogram,
}

impl FamilyCounters {
    /// Number of requests of this kind.
    pub fn of(&self, kind: OutcomeKind) -> u64 {
        self.outcomes[kind.index()].get()
    }

    /// Number of requests that were answered with a status of 500 or more.
    pub fn server_errors(&self) -> u64 {
        self.server_errors.get()
    }

    /// Number of answers from the cache that did not wait for upstream, and the time they took.
    pub fn hit_time(&self) -> (u64, Duration) {
        self.hit_time.total()
    }

    /// The answers from the cache that did not wait for upstream, by the time they took.
    pub fn hit_buckets(&self) -> LatencyBuckets {
        self.hit_time.buckets()
    }

    /// Other answers to reads, by the time they took.
    pub fn miss_buckets(&self) -> LatencyBuckets {
        self.miss_time.buckets()
    }

    /// Number of other answers to reads, and the time they took.
    pub fn miss_time(&self) -> (u64, Duration) {
        self.miss_time.total()
    }

    /// Counts a request that was answered with this status after `took`.
    pub fn answered(&self, outcome: &Outcome, status: StatusCode, took: Duration) {
        self.outcomes[outcome.kind.index()].inc();
        match outcome.kind {
            _ if outcome.is_immediate() => self.hit_time.observe(took),
            OutcomeKind::Write => self.write_time.observe(took),
            _ => self.miss_time.observe(took),
        }
        if status.is_server_error() {
            self.server_errors.inc();
        }
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let metrics = Metrics::default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.start_time.set(now.as_secs_f64());
        metrics.begin_at_zero();
        metrics
    }

    /// Creates the counters whose labels are known. Prometheus sees no increase in a counter that appears with a value.
    fn begin_at_zero(&self) {
        for (what, bounds) in REFUSALS {
            for bound in *bounds {
                self.refused.get_or_create_owned(&RefusalLabels { what, bound });
            }
        }
        for reason in UPSTREAM_FAILURES {
            self.upstream_failures.get_or_create_owned(&ReasonLabels { reason });
        }
        for reason in ["store-away", "replicas-missing", "other-epoch", "returning", "late"] {
            self.lease_lost.get_or_create_owned(&ReasonLabels { reason });
        }
        for cause in EPOCH_CAUSES {
            self.epoch_changes.get_or_create_owned(&CauseLabels { cause });
        }
        for op in ["lookup", "view", "put", "invalidate", "record", "lock_fetch", "sync", "remove"] {
            self.store_errors.get_or_create_owned(&OperationLabels { op });
            self.store_time.get_or_create_owned(&OperationLabels { op });
        }
        for reason in ["checksum", "version", "garbled"] {
            self.unreadable_entries.get_or_create_owned(&ReasonLabels { reason });
        }
        for ended in ["stored", "not-stored", "gone", "late", "store-away"] {
            self.fleet_waits.get_or_create_owned(&EndLabels { ended });
        }
        for task in ["delivery", "lease", "warming", "jwks", "monitor"] {
            self.task_panics.get_or_create_owned(&TaskLabels { task });
        }
        for result in ["fetched", "already_fresh", "not_stored", "failed"] {
            self.warmed.get_or_create_owned(&ResultLabels { result });
        }
    }

    fn register(&self, registry: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs", version);
        registry.register_with_unit(
            "start_time",
            "When this process started, since 1970",
            Unit::Seconds,
            self.start_time.clone(),
        );
        registry.register("requests", "Requests by family and outcome", self.requests.clone());
        registry.register(
            "server_errors",
            "Requests answered with a status of 500 or more, by family",
            self.server_errors.clone(),
        );
        registry.register("invalidations", "Invalidated families by cause", self.invalidations.clone());
        registry.register("store_errors", "Failed operations on Redis", self.store_errors.clone());
        registry.register(
            "store_unreadable",
            "Entries in Redis that are corrupt, or of another version",
            self.unreadable_entries.clone(),
        );
        registry.register("coalesced", "Requests that shared another one's fetch", self.coalesced.clone());
        registry.register(
            "coalesced_waiting",
            "Requests that wait for another request's fetch, on this proxy or another",
            self.coalesced_waiting.clone(),
        );
        registry.register("fleet_waits", "Waits for another proxy's fetch, by result", self.fleet_waits.clone());
        registry.register("not_stored", "Fetched responses that were not stored", self.not_stored.clone());
        registry.register(
            "authorizations",
            "Callers looked up for `authorize`, by what the API says of them, and whether it was asked for that",
            self.authorizations.clone(),
        );
        registry.register("upstream_requests", "Requests at upstream", self.upstream_requests.clone());
        registry.register("upstream_queued", "Requests that wait for upstream", self.upstream_queued.clone());
        registry.register("upstream_streams", "Streams at upstream", self.upstream_streams.clone());
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "hit_time",
            "Time to answer from the cache without waiting for upstream",
            seconds(),
            self.hit_time.clone(),
        );
        registry.register_with_unit("miss_time", "Time to answer other reads", seconds(), self.miss_time.clone());
        registry.register_with_unit("write_time", "Time to answer a write", seconds(), self.write_time.clone());
        registry.register_with_unit(
            "upstream_time",
            "Time from a request to upstream until the head of its response, or until it failed",
            seconds(),
            self.upstream_time.clone(),
        );
        registry.register(
            "upstream_failures",
            "Requests to upstream that got no response, by reason",
            self.upstream_failures.clone(),
        );
        registry.register_with_unit(
            "store_time",
            "Time of a request to Redis, by operation; those that are not sent since Redis is away do not count",
            seconds(),
            self.store_time.clone(),
        );
        registry.register_with_unit(
            "settle_time",
            "How long writes waited for other proxies",
            seconds(),
            self.settle_time.clone(),
        );
        registry.register_with_unit(
            "sync_time",
            "Duration of a sync with Redis",
            seconds(),
            self.sync_time.clone(),
        );
        registry.register("epoch_changes", "Epochs that began while this proxy ran", self.epoch_changes.clone());
        registry.register("lease_lost", "Leases that were not renewed in time", self.lease_lost.clone());
        registry.register("task_panics", "Tasks that had to be started again", self.task_panics.clone());
        registry.register("marks", "Marks in Redis, at the last sync", self.marks.clone());
        registry.register_with_unit(
            "floor_age",
            "Age of the floor at the last sync",
            seconds(),
            self.floor_age.clone(),
        );
        registry.register_with_unit(
            "clock_ahead",
            "How far this machine's clock is ahead of that of Redis, at the last sync",
            seconds(),
            self.clock_ahead.clone(),
        );
        registry.register(
            "intents_carried_out",
            "Abandoned write intents of other proxies that this proxy completed",
            self.intents_carried_out.clone(),
        );
        registry.register(
            "invalidations_repeated",
            "Invalidations repeated because of `again` in their rule",
            self.invalidations_repeated.clone(),
        );
        registry.register(
            "refreshes",
            "Invalidated responses that were prefetched because of `refresh` in their rule",
            self.refreshes.clone(),
        );
        registry.register(
            "refetches",
            "Responses that were fetched again after an invalidation, by family, and by whether their body had changed",
            self.refetches.clone(),
        );
        registry.register("warmed", "Warming requests by result", self.warmed.clone());
        registry.register("warming", "1 while the cache is being warmed", self.warming.clone());
        registry.register(
            "members_expelled",
            "Proxies that did not confirm a write's invalidation in time",
            self.members_expelled.clone(),
        );
        registry.register(
            "writes_unmatched",
            "Writes that no rule matches: they invalidated only their own path",
            self.writes_unmatched.clone(),
        );
        registry.register(
            "suspects",
            "Requests that may have received another request's response: what they stored was invalidated",
            self.suspects.clone(),
        );
        registry.register("swept", "Invalidated entries that this proxy removed from Redis", self.swept.clone());
        registry.register(
            "alerts",
            "1 while the alert is raised; family=\"\" is all of them",
            self.alerts.clone(),
        );
        let counted = "in Redis, by family, as the last walk of a sweeper found";
        registry.register("stored_keys", format!("Entries {counted}"), self.stored_keys.clone());
        registry.register("stored_bytes", format!("Bytes of entries {counted}"), self.stored_bytes.clone());
        registry.register("lease_held", "1 while memory is served under a lease", self.lease_held.clone());
        registry.register("connections", "Open connections from clients", self.connections.clone());
        registry.register("accepted", "Connections accepted", self.connections_total.clone());
        registry.register(
            "connections_evicted",
            "Idle client connections closed to make room for others",
            self.connections_evicted.clone(),
        );
        registry.register(
            "refused",
            "Refusals, by kind and by the limit reached: one client's (429) or that of all clients (503)",
            self.refused.clone(),
        );
        registry.register(
            "admin_wrong_tokens",
            "Admin requests with an unknown token",
            self.admin_wrong_tokens.clone(),
        );
        registry.register("memory_entries", "Entries in memory", self.memory_entries.clone());
        registry.register_with_unit("memory", "Bytes in memory", Unit::Bytes, self.memory_bytes.clone());
        registry.register_with_unit(
            "memory_capacity",
            "Most bytes of entries in memory",
            Unit::Bytes,
            self.memory_capacity.clone(),
        );
        registry.register_with_unit(
            "resident_memory",
            "Memory of the process",
            Unit::Bytes,
            self.resident_memory.clone(),
        );
        registry.register(
            "members",
            "Proxies with a record in Redis; 0 without Redis, or while it does not answer",
            self.members.clone(),
        );
        registry.register_with_unit(
            "epoch_age",
            "Time since the epoch began; 0 without Redis, or while it does not answer",
            Unit::Seconds,
            self.epoch_age.clone(),
        );
        registry.register(
            "intents",
            "Writes under way in the fleet; 0 without Redis, or while it does not answer",
            self.intents.clone(),
        );
        registry.register("memory_evictions", "Entries evicted from memory for space", self.evictions.clone());
        registry.register("store_up", "1 while Redis answers", self.store_up.clone());
        registry.register(
            "undelivered_invalidations",
            "Invalidations that Redis does not have yet, in tags",
            self.undelivered.clone(),
        );
        registry.register(
            "tokens_refused",
            "Requests whose bearer token does not identify their caller, by reason",
            self.tokens_refused.clone(),
        );
        registry.register("jwt_keys", "Keys that verify bearer tokens", self.jwt_keys.clone());
        registry.register(
            "jwks_failures",
            "JWK Sets that could not be read: the keys read before stay in force",
            self.jwks_failures.clone(),
        );
        registry.register("rules_faulty", "1 if the last edit of the rules has faults", self.rules_faulty.clone());
        registry.register(
            "mixed_rules_families",
            "Families that are not cached because proxies of the fleet follow different rules for them",
            self.mixed_rules.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines dropped because standard error or standard output was not read",
            self.log_lines_lost.clone(),
        );
        registry.register("spans_sent", "Spans that the collector has taken", self.spans_sent.clone());
        registry.register(
            "spans_lost",
            "Spans dropped because the collector does not keep up or does not take them",
            self.spans_lost.clone(),
        );
    }

    /// Counts a request whose bearer token does not identify its caller.
    pub fn token_refused(&self, reason: &'static str) {
        self.tokens_refused.get_or_create_owned(&ReasonLabels { reason }).inc();
    }

    /// Counts spans that the collector has taken.
    pub fn spans_were_sent(&self, count: u64) {
        self.spans_sent.inc_by(count);
    }

    /// Counts spans that were dropped.
    pub fn spans_were_lost(&self, count: u64) {
        self.spans_lost.inc_by(count);
    }

    /// Sets the number of dropped log lines.
    pub fn log_lines_were_lost(&self, so_far: u64) {
        self.log_lines_lost.inner().fetch_max(so_far, Relaxed);
    }

    /// The counters of a family; existing ones are reused.
    pub fn family(&self, family: &str) -> FamilyCounters {
        let outcomes = OutcomeKind::ALL.map(|kind| {
            let labels = RequestLabels { family: family.to_owned(), outcome: kind.label() };
            self.requests.get_or_create_owned(&labels)
        });
        for cause in ["write", "purge"].into_iter().filter(|_| family != NO_FAMILY) {
            self.invalidations.get_or_create_owned(&InvalidationLabels { family: family.to_owned(), cause });
        }
        let labels = FamilyLabels { family: family.to_owned() };
        FamilyCounters {
            family: family.to_owned(),
            outcomes,
            server_errors: self.server_errors.get_or_create_owned(&labels),
            hit_time: self.hit_time.get_or_create_owned(&labels),
            miss_time: self.miss_time.get_or_create_owned(&labels),
            write_time: self.write_time.clone(),
        }
    }

    /// Counts a request to upstream that got a response after `took`, or none, and why.
    pub fn upstream_answered(&self, failure: Option<&'static str>, took: Duration) {
        self.upstream_time.observe(took);
        if let Some(reason) = failure {
            self.upstream_failures.get_or_create_owned(&ReasonLabels { reason }).inc();
        }
    }

    /// Records the time of a request to the store.
    pub fn store_answered(&self, op: &'static str, took: Duration) {
        self.store_time.get_or_create_owned(&OperationLabels { op }).observe(took);
    }

    /// Sets the number of entries evicted from L1 for space.
    pub fn evicted(&self, so_far: u64) {
        self.evictions.inner().fetch_max(so_far, Relaxed);
    }

    /// Counts a request that shared another one's fetch.
    pub fn shared_a_fetch(&self) {
        self.coalesced.inc();
    }

    /// Number of invalidations of a family, by writes and by operators.
    pub fn invalidations(&self, family: &str) -> u64 {
        let count = |cause| {
            let labels = InvalidationLabels { family: family.to_owned(), cause };
            self.invalidations.get(&labels).map_or(0, |counter| counter.get())
        };
        count("write") + count("purge")
    }

    /// Counts a request that waits for another request's fetch, until the returned guard is dropped.
    pub fn follower_waits(&self) -> FollowerWaits<'_> {
        self.coalesced_waiting.inc();
        FollowerWaits(&self.coalesced_waiting)
    }

    /// Counts an invalidation of a family, `uri` or everything. `cause` is `write` or `purge`.
    pub fn invalidated(&self, family: &str, cause: &'static str) {
        self.invalidations.get_or_create_owned(&InvalidationLabels { family: family.to_owned(), cause }).inc();
    }

    /// Records how long a write waited until no proxy could serve what it invalidated.
    pub fn settled(&self, took: Duration) {
        self.settle_time.observe(took);
    }

    /// Records the duration of a sync with the store.
    pub fn synced(&self, took: Duration) {
        self.sync_time.observe(took);
    }

    /// Counts a new epoch. `cause` is the store's reason.
    pub fn epoch_changed(&self, cause: &str) {
        let cause = EPOCH_CAUSES.into_iter().find(|known| *known == cause).unwrap_or("unknown");
        self.epoch_changes.get_or_create_owned(&CauseLabels { cause }).inc();
    }

    /// Counts a lease that ended without renewal.
    pub fn lease_lost(&self, reason: &'static str) {
        self.lease_lost.get_or_create_owned(&ReasonLabels { reason }).inc();
    }

    /// Counts the unexpected end of a permanent task.
    pub fn task_panicked(&self, task: &'static str) {
        self.task_panics.get_or_create_owned(&TaskLabels { task }).inc();
    }

    /// Records the number of marks in the store, and the age of the floor.
    pub fn marks_kept(&self, marks: u64, floor_age: Duration) {
        self.marks.set(i64::try_from(marks).unwrap_or(i64::MAX));
        self.floor_age.set(floor_age.as_secs_f64());
    }

    /// Counts an entry in the store that cannot be decoded.
    pub fn unreadable_entry(&self, reason: &'static str) {
        self.unreadable_entries.get_or_create_owned(&ReasonLabels { reason }).inc();
    }

    /// Counts a failed store operation.
    pub fn store_error(&self, op: &'static str) {
        self.store_errors.get_or_create_owned(&OperationLabels { op }).inc();
    }

    /// Records the wait for another proxy's fetch. `ended` is `stored`, `not-stored`, `gone` (the lock expired or was
    /// taken over), `late` or `store-away`.
    pub fn fleet_waited(&self, ended: &'static str) {
        self.fleet_waits.get_or_create_owned(&EndLabels { ended }).inc();
    }

    /// Replaces the entry and byte counts of the store, as (family, entries, bytes).
    pub fn stored<'f>(&self, families: impl IntoIterator<Item = (&'f str, u64, u64)>) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.stored_keys.clear();
        self.stored_bytes.clear();
        for (family, keys, bytes) in families {
            let labels = FamilyLabels { family: family.to_owned() };
            self.stored_keys.get_or_create_owned(&labels).set(number(keys));
            self.stored_bytes.get_or_create_owned(&labels).set(number(bytes));
        }
    }

    /// Counts a refusal of a client. `what` is `connections`, `heads`, `streams` (HTTP/2), `upstream-requests`,
    /// `upstream-streams` or `unshared`; `bound` is `client` or `all`.
    pub fn refused(&self, what: &'static str, bound: &'static str) {
        self.refused.get_or_create_owned(&RefusalLabels { what, bound }).inc();
    }

    /// Counts a caller that was looked up for `authorize`. `is_asked`: the API was asked for it.
    pub fn authorized(&self, verdict: Authorization, is_asked: bool) {
        let asked = if is_asked { "yes" } else { "no" };
        self.authorizations.get_or_create(&AuthorizationLabels { verdict: verdict.label(), asked }).inc();
    }

    /// Sets whether an alert is raised. `family` is empty for all together.
    pub fn alert(&self, alert: &'static str, family: &str, is_raised: bool) {
        let labels = AlertLabels { alert, family: family.to_owned() };
        self.alerts.get_or_create_owned(&labels).set(i64::from(is_raised));
    }

    /// Counts a fetched response that was not stored.
    pub fn not_stored(&self, reason: &'static str) {
        self.not_stored.get_or_create_owned(&ReasonLabels { reason }).inc();
    }

    /// Counts a response of a family that was fetched again after an invalidation.
    pub fn refetched(&self, family: &str, is_identical: bool) {
        let body = if is_identical { "identical" } else { "changed" };
        self.refetches.get_or_create_owned(&RefetchLabels { family: family.to_owned(), body }).inc();
    }

    /// Number of responses of a family that were fetched again after an invalidation, and how many of them had the same body.
    pub fn refetches(&self, family: &str) -> (u64, u64) {
        let of = |body| {
            let labels = RefetchLabels { family: family.to_owned(), body };
            self.refetches.get(&labels).map_or(0, |counter| counter.get())
        };
        let identical = of("identical");
        (identical + of("changed"), identical)
    }

    /// Counts a warming request.
    pub fn warmed(&self, result: &'static str) {
        self.warmed.get_or_create_owned(&ResultLabels { result }).inc();
    }

    /// All metrics in the OpenMetrics text format.
    pub fn exposition(&self) -> String {
        let (mut text, mut registry) = (String::new(), Registry::with_prefix("larder"));
        self.register(&mut registry);
        // Writing to a String cannot fail, and all labels are valid.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

/// A request that waits for another request's fetch.
#[derive(Debug)]
pub struct FollowerWaits<'m>(&'m Gauge);

impl Drop for FollowerWaits<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Upper bounds of the buckets in seconds: a hit takes tens of microseconds, a fetch at most its timeout.
pub const LATENCY_BOUNDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];

/// How many answers fell into each bucket: between two bounds, and beyond the last.
pub type LatencyBuckets = [u64; LATENCY_BOUNDS.len() + 1];

/// A histogram of atomics. The library's histogram takes a lock for each observation, which all hits would share.
#[derive(Debug, Clone, Default)]
struct Histogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Histogram {
    fn buckets(&self) -> LatencyBuckets {
        std::array::from_fn(|index| self.0.counts[index].load(Relaxed))
    }

    /// Number and sum of what was observed.
    fn total(&self) -> (u64, Duration) {
        let count = self.0.counts.iter().map(|count| count.load(Relaxed)).sum();
        (count, Duration::from_nanos(self.0.sum_nanos.load(Relaxed)))
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = LATENCY_BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.counts.iter().map(|count| count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.total().1.as_secs_f64(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_exposed_by_family_and_outcome() {
        let metrics = Metrics::new();
        for status in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
            metrics.family("user_list").answered(&Outcome::hit(1), status, Duration::ZERO);
        }
        let text = metrics.exposition();
        assert!(text.contains(r#"larder_requests_total{family="user_list",outcome="hit"} 2"#), "{text}");
        assert!(text.contains(r#"larder_requests_total{family="user_list",outcome="miss"} 0"#), "{text}");
        assert!(text.contains(r#"larder_server_errors_total{family="user_list"} 1"#), "{text}");
    }

    #[test]
    fn followers_count_while_they_wait() {
        let metrics = Metrics::new();
        let waiting = [metrics.follower_waits(), metrics.follower_waits()];
        assert!(metrics.exposition().contains("\nlarder_coalesced_waiting 2\n"));
        drop(waiting);
        assert!(metrics.exposition().contains("\nlarder_coalesced_waiting 0\n"));
    }

    #[test]
    fn times_fall_into_cumulative_buckets() {
        let metrics = Metrics::new();
        for took in [Duration::from_micros(70), Duration::from_secs(100)] {
            metrics.family("a").answered(&Outcome::hit(1), StatusCode::OK, took);
        }
        let text = metrics.exposition();
        assert!(text.contains(r#"larder_hit_time_seconds_bucket{le="0.0001",family="a"} 1"#), "{text}");
        assert!(text.contains(r#"larder_hit_time_seconds_bucket{le="+Inf",family="a"} 2"#), "{text}");
        assert!(text.contains(r#"larder_hit_time_seconds_count{family="a"} 2"#), "{text}");
    }
}

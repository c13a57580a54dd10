//! Counters and histograms, exposed in the OpenMetrics text format. Labels come from the rules, never from requests.
//! Handles are resolved when rules are loaded, so the data path only increments atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

pub use self::family::FamilyCounters;
use self::histogram::Histogram;
pub use self::histogram::{LATENCY_BOUNDS, LatencyBuckets};
use self::labels::{
    AlertLabels, AuthorizationLabels, CauseLabels, EndLabels, FamilyLabels, InvalidationLabels, OperationLabels,
    ReasonLabels, RefetchLabels, RefusalLabels, RequestLabels, ResultLabels, TaskLabels,
};
use crate::http::authorization::Authorization;

#[macro_use]
mod exposition;
mod family;
mod histogram;
mod labels;

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

metrics! {
    start_time: Gauge<f64, AtomicU64> = "start_time" [Seconds], "When this process started, since 1970";
    requests: Family<RequestLabels, Counter> = "requests", "Requests by family and outcome";
    server_errors: Family<FamilyLabels, Counter> = "server_errors",
        "Requests answered with a status of 500 or more, by family";
    invalidations: Family<InvalidationLabels, Counter> = "invalidations", "Invalidated families by cause";
    store_errors: Family<OperationLabels, Counter> = "store_errors", "Failed operations on Redis";
    unreadable_entries: Family<ReasonLabels, Counter> = "store_unreadable",
        "Entries in Redis that are corrupt, or of another version";
    coalesced: Counter = "coalesced", "Requests that shared another one's fetch";
    coalesced_waiting: Gauge = "coalesced_waiting",
        "Requests that wait for another request's fetch, on this proxy or another";
    fleet_waits: Family<EndLabels, Counter> = "fleet_waits", "Waits for another proxy's fetch, by result";
    not_stored: Family<ReasonLabels, Counter> = "not_stored", "Fetched responses that were not stored";
    authorizations: Family<AuthorizationLabels, Counter> = "authorizations",
        "Callers looked up for `authorize`, by what the API says of them, and whether it was asked for that";
    pub upstream_requests: Gauge = "upstream_requests", "Requests at upstream";
    pub upstream_queued: Gauge = "upstream_queued", "Requests that wait for upstream";
    pub upstream_streams: Gauge = "upstream_streams", "Streams at upstream";
    hit_time: Family<FamilyLabels, Histogram> = "hit_time" [Seconds],
        "Time to answer from the cache without waiting for upstream";
    miss_time: Family<FamilyLabels, Histogram> = "miss_time" [Seconds], "Time to answer other reads";
    write_time: Histogram = "write_time" [Seconds], "Time to answer a write";
    upstream_time: Histogram = "upstream_time" [Seconds],
        "Time from a request to upstream until the head of its response, or until it failed";
    upstream_failures: Family<ReasonLabels, Counter> = "upstream_failures",
        "Requests to upstream that got no response, by reason";
    store_time: Family<OperationLabels, Histogram> = "store_time" [Seconds],
        "Time of a request to Redis, by operation; those that are not sent since Redis is away do not count";
    settle_time: Histogram = "settle_time" [Seconds], "How long writes waited for other proxies";
    sync_time: Histogram = "sync_time" [Seconds], "Duration of a sync with Redis";
    epoch_changes: Family<CauseLabels, Counter> = "epoch_changes", "Epochs that began while this proxy ran";
    lease_lost: Family<ReasonLabels, Counter> = "lease_lost", "Leases that were not renewed in time";
    task_panics: Family<TaskLabels, Counter> = "task_panics", "Tasks that had to be started again";
    marks: Gauge = "marks", "Marks in Redis, at the last sync";
    floor_age: Gauge<f64, AtomicU64> = "floor_age" [Seconds], "Age of the floor at the last sync";
    pub clock_ahead: Gauge<f64, AtomicU64> = "clock_ahead" [Seconds],
        "How far this machine's clock is ahead of that of Redis, at the last sync";
    pub intents_carried_out: Counter = "intents_carried_out",
        "Abandoned write intents of other proxies that this proxy completed";
    pub invalidations_repeated: Counter = "invalidations_repeated",
        "Invalidations repeated because of `again` in their rule";
    pub refreshes: Counter = "refreshes",
        "Invalidated responses that were prefetched because of `refresh` in their rule";
    refetches: Family<RefetchLabels, Counter> = "refetches",
        "Responses that were fetched again after an invalidation, by family, and by whether their body had changed";
    warmed: Family<ResultLabels, Counter> = "warmed", "Warming requests by result";
    pub warming: Gauge = "warming", "1 while the cache is being warmed";
    pub members_expelled: Counter = "members_expelled",
        "Proxies that did not confirm a write's invalidation in time";
    pub writes_unmatched: Counter = "writes_unmatched",
        "Writes that no rule matches: they invalidated only their own path";
    pub suspects: Counter = "suspects",
        "Requests that may have received another request's response: what they stored was invalidated";
    pub swept: Counter = "swept", "Invalidated entries that this proxy removed from Redis";
    alerts: Family<AlertLabels, Gauge> = "alerts", "1 while the alert is raised; family=\"\" is all of them";
    stored_keys: Family<FamilyLabels, Gauge> = "stored_keys",
        "Entries in Redis, by family, as the last walk of a sweeper found";
    stored_bytes: Family<FamilyLabels, Gauge> = "stored_bytes",
        "Bytes of entries in Redis, by family, as the last walk of a sweeper found";
    pub lease_held: Gauge = "lease_held", "1 while memory is served under a lease";
    pub connections: Gauge = "connections", "Open connections from clients";
    pub connections_total: Counter = "accepted", "Connections accepted";
    pub connections_evicted: Counter = "connections_evicted",
        "Idle client connections closed to make room for others";
    refused: Family<RefusalLabels, Counter> = "refused",
        "Refusals, by kind and by the limit reached: one client's (429) or that of all clients (503)";
    pub admin_wrong_tokens: Counter = "admin_wrong_tokens", "Admin requests with an unknown token";
    pub memory_entries: Gauge = "memory_entries", "Entries in memory";
    pub memory_bytes: Gauge = "memory" [Bytes], "Bytes in memory";
    pub memory_capacity: Gauge = "memory_capacity" [Bytes], "Most bytes of entries in memory";
    pub resident_memory: Gauge = "resident_memory" [Bytes], "Memory of the process";
    pub members: Gauge = "members", "Proxies with a record in Redis; 0 without Redis, or while it does not answer";
    pub epoch_age: Gauge<f64, AtomicU64> = "epoch_age" [Seconds],
        "Time since the epoch began; 0 without Redis, or while it does not answer";
    pub intents: Gauge = "intents", "Writes under way in the fleet; 0 without Redis, or while it does not answer";
    evictions: Counter = "memory_evictions", "Entries evicted from memory for space";
    pub store_up: Gauge = "store_up", "1 while Redis answers";
    pub undelivered: Gauge = "undelivered_invalidations", "Invalidations that Redis does not have yet, in tags";
    tokens_refused: Family<ReasonLabels, Counter> = "tokens_refused",
        "Requests whose bearer token does not identify their caller, by reason";
    pub jwt_keys: Gauge = "jwt_keys", "Keys that verify bearer tokens";
    pub jwks_failures: Counter = "jwks_failures",
        "JWK Sets that could not be read: the keys read before stay in force";
    pub rules_faulty: Gauge = "rules_faulty", "1 if the last edit of the rules has faults";
    pub mixed_rules: Gauge = "mixed_rules_families",
        "Families that are not cached because proxies of the fleet follow different rules for them";
    log_lines_lost: Counter = "log_lines_lost",
        "Log lines dropped because standard error or standard output was not read";
    spans_sent: Counter = "spans_sent", "Spans that the collector has taken";
    spans_lost: Counter = "spans_lost",
        "Spans dropped because the collector does not keep up or does not take them";
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
}

/// A request that waits for another request's fetch.
#[derive(Debug)]
pub struct FollowerWaits<'m>(&'m Gauge);

impl Drop for FollowerWaits<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::outcome::Outcome;

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

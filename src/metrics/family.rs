//! The counters of the requests of one family.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;

use super::histogram::{Histogram, LatencyBuckets};
use super::labels::{FamilyLabels, InvalidationLabels, RequestLabels};
use super::{Metrics, NO_FAMILY};
use crate::outcome::{Outcome, OutcomeKind};

/// The counters of the requests of one family.
#[derive(Debug, Clone)]
pub struct FamilyCounters {
    /// The family's name, or [`NO_FAMILY`].
    pub family: Arc<str>,
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
            family: family.into(),
            outcomes,
            server_errors: self.server_errors.get_or_create_owned(&labels),
            hit_time: self.hit_time.get_or_create_owned(&labels),
            miss_time: self.miss_time.get_or_create_owned(&labels),
            write_time: self.write_time.clone(),
        }
    }
}

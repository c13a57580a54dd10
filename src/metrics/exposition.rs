//! Names, units and descriptions of the metrics, and their text.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

impl Metrics {
    /// All metrics in the OpenMetrics text format.
    pub fn exposition(&self) -> String {
        let (mut text, mut registry) = (String::new(), Registry::with_prefix("larder"));
        self.register(&mut registry);
        // Writing to a String cannot fail, and all labels are valid.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
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
}

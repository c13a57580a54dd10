//! Larder as its users meet it: the binary runs as a process between a real client and a real upstream, and, for what
//! several proxies share, a real `redis-server`. Every test has processes and ports of its own.
//!
//! Tests listed in `on_both_tiers!` run twice, embedded and on Redis: what a client sees must not depend on the tier.
//! Races are forced with gates (`support::gate`), never with sleeps.

#![allow(clippy::unwrap_used, reason = "in a test an unexpected error may end it")]

/// Runs each behaviour embedded and with Redis. A behaviour that is not listed is dead code, which clippy reports.
macro_rules! on_both_tiers {
    ($($behaviour:ident),+ $(,)?) => {$(
        mod $behaviour {
            #[test]
            fn embedded() {
                super::$behaviour($crate::support::Tier::Embedded);
            }

            #[test]
            fn on_redis() {
                super::$behaviour($crate::support::Tier::Redis);
            }
        }
    )+};
}

mod support;

#[path = "../http/mod.rs"]
mod http;

mod access;
mod admin;
mod admin_tokens;
mod again;
mod alerts;
mod authorize;
mod browsers;
mod bypass;
mod causes;
mod cli;
mod clocks;
mod cluster;
mod collapse;
mod dependencies;
mod documents;
mod entries;
mod explain;
mod explained_responses;
mod fleet;
mod forwarding;
mod hazards;
mod healthcheck;
mod identity;
mod insight;
mod instances;
mod invalidation_log;
mod jwt;
mod keys;
mod leases;
mod logs;
mod mixed_rules;
mod names;
mod operator;
mod outages;
mod perf;
mod policies;
mod prometheus;
mod purges;
mod races;
mod reads;
mod refresh;
mod regression;
mod reload;
mod returns;
mod scale;
mod sentinel;
mod soft;
mod startup;
mod storage_policies;
mod store_redis;
mod sweeper;
mod systems;
mod tls;
mod tokens;
mod traces;
mod warm;
mod writes;

//! Reads `[alerts]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::Uri;

use super::address;
use super::fields::{checked, section, set};
use crate::rules::reader::{Item, Table};
use crate::rules::thresholds::{FamilyThresholds, Thresholds, or_off, percent};

/// Shorter windows than a minute are all noise, and counts are kept for an hour.
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(3600);
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const AWAY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// `[alerts]`
#[derive(Debug, Clone, PartialEq)]
pub struct AlertsConfig {
    /// `hit_rate`, default 70%; `error_rate`, default 5%; `hit_latency`, default 10ms
    pub thresholds: Thresholds,
    /// `memory`: used memory of Redis as a part of its `maxmemory`, default 90%
    pub memory: Option<f64>,
    /// `store_away`: how long Redis may not answer, default 10s
    pub store_away: Option<Duration>,
    /// `window`: the time over which rates are taken, 1m to 1h, default 5m
    pub window: Duration,
    /// `interval`: pause between two evaluations, default 15s
    pub interval: Duration,
    /// `min_requests`: the least number of requests in the window, default 100
    pub min_requests: u64,
    /// `webhook`: each change is sent there as JSON; default: none
    pub webhook: Option<Uri>,
    /// `webhook_token`: sent as bearer token; default: none
    pub webhook_token: Option<WebhookToken>,
}

/// A secret, which is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookToken(pub String);

impl std::fmt::Debug for WebhookToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookToken(…)")
    }
}

impl Default for AlertsConfig {
    fn default() -> AlertsConfig {
        AlertsConfig {
            thresholds: Thresholds::default(),
            memory: Some(0.9),
            store_away: Some(Duration::from_secs(10)),
            window: Duration::from_secs(300),
            interval: Duration::from_secs(15),
            min_requests: 100,
            webhook: None,
            webhook_token: None,
        }
    }
}

/// `has_store`: whether Redis is configured.
pub fn read(root: &mut Table<'_>, has_store: bool) -> AlertsConfig {
    let mut alerts = AlertsConfig::default();
    let Some(mut table) = section(root, "alerts") else { return alerts };
    alerts.thresholds = FamilyThresholds::read(&mut table).or(&alerts.thresholds);
    let (memory, away) = (table.item("memory"), table.item("store_away"));
    for item in [&memory, &away].into_iter().flatten().filter(|_| !has_store) {
        item.fault("has no effect without [store]: there is no Redis", "remove it, or add [store]");
    }
    set(&mut alerts.memory, memory.and_then(|item| or_off(&item, percent)));
    set(&mut alerts.store_away, away.and_then(|item| or_off(&item, |item| item.duration(&AWAY))));
    set(&mut alerts.window, table.read("window", |item| item.duration(&WINDOW)));
    set(&mut alerts.interval, table.read("interval", |item| item.duration(&INTERVAL)));
    set(&mut alerts.min_requests, table.read("min_requests", |item| item.integer(&(1..=1_000_000_000))));
    alerts.webhook = table.read("webhook", |item| checked(&item, address::url));
    let token = table.item("webhook_token");
    if let Some(item) = token.as_ref().filter(|_| alerts.webhook.is_none()) {
        item.fault("has no effect without webhook", "add webhook = \"https://…\", or remove it");
    }
    alerts.webhook_token = token.and_then(|item| webhook_token(&item));
    table.finish();
    alerts
}

fn webhook_token(item: &Item<'_>) -> Option<WebhookToken> {
    let text = item.secret("WEBHOOK_TOKEN").filter(|text| !text.value.is_empty())?;
    if !text.value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return text.refuse("holds characters that a header cannot carry", "use printable ASCII without spaces");
    }
    Some(WebhookToken(text.value))
}

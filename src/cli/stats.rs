//! `larder stats` prints how the families of a running Larder do.

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArguments, AdminClient};
use super::output::{self, bytes, percent, text};

#[derive(Debug, Args)]
pub(super) struct StatsArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// The time that the rates are of.
    #[arg(long, default_value = "5m", value_parser = ["1m", "5m", "1h"])]
    window: String,
    /// Print the admin's JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn stats(arguments: &StatsArguments) -> u8 {
    arguments.admin.run(async |client| {
        let stats = client.get("/cache/stats").await?;
        let alerts = if arguments.json { Vec::new() } else { alerts(client).await? };
        output::show(arguments.json, &stats, |stats| overview(stats, &alerts, &arguments.window));
        Ok(0)
    })
}

/// The alerts that are raised.
pub(super) async fn alerts(client: &AdminClient) -> Result<Vec<Value>, String> {
    let alerts = client.get("/cache/alerts").await?;
    Ok(alerts["alerts"].as_array().cloned().unwrap_or_default())
}

fn overview(stats: &Value, alerts: &[Value], window: &str) -> String {
    let rates = &stats["rates"][window];
    let memory = &stats["memory_usage"];
    let mut lines: Vec<String> =
        alerts.iter().map(|alert| format!("ALERT  {}", text(&alert["message"]))).collect();
    lines.push(format!(
        "hit rate {} over {window} ({} since the start), {} requests/s, {} of 5xx, memory {} of {}",
        percent(&rates["hit_rate"]),
        percent(&stats["hit_rate"]),
        text(&rates["requests_per_second"]),
        percent(&rates["error_rate"]),
        bytes(&memory["used_memory_bytes"]),
        bytes(&memory["max_memory_bytes"]),
    ));
    lines.push(String::new());
    lines.push(families(stats, window));
    lines.join("\n")
}

/// The columns of [`family_rows`].
pub(super) const FAMILY_COLUMNS: [&str; 9] =
    ["family", "requests/s", "hits", "misses", "passes", "errors", "hit ms", "miss ms", "invalidations/min"];

/// A row for each family, those with most requests first.
pub(super) fn family_rows(stats: &Value, window: &str) -> Vec<[String; 9]> {
    let mut families: Vec<(&String, &Value)> = stats["families"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, windows)| (name, &windows[window]))
        .collect();
    families.sort_by_key(|(_, rates)| std::cmp::Reverse(rates["requests"].as_u64()));
    let row = |(name, rates): (&String, &Value)| {
        [
            name.clone(),
            text(&rates["requests_per_second"]),
            percent(&rates["hit_rate"]),
            percent(&rates["miss_rate"]),
            percent(&rates["pass_rate"]),
            percent(&rates["error_rate"]),
            text(&rates["hit_latency_ms"]),
            text(&rates["miss_latency_ms"]),
            text(&rates["invalidations_per_minute"]),
        ]
    };
    families.into_iter().map(row).collect()
}

fn families(stats: &Value, window: &str) -> String {
    output::table(&FAMILY_COLUMNS, &[1, 2, 3, 4, 5, 6, 7, 8], family_rows(stats, window))
}

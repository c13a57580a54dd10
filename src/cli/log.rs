//! `larder log` prints the recent invalidations of the fleet: what was invalidated, and by which write and rule.

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArguments, AdminClient, with_query};
use super::output::{self, say, text};

#[derive(Debug, Args)]
pub(super) struct LogArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// Go on printing invalidations as they happen.
    #[arg(long, short)]
    follow: bool,
    /// Only those of this family.
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Only those with this cause: write, purge, again, recovered, deploy, rules or safety.
    #[arg(long, value_name = "KIND")]
    cause: Option<String>,
    /// How many at first.
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
    /// Print JSON, one invalidation a line.
    #[arg(long)]
    json: bool,
}

/// Pause between two questions of --follow.
const PAUSE: Duration = Duration::from_secs(1);

/// Most invalidations that one question of --follow brings.
const PAGE: u32 = 500;

pub(super) fn log(arguments: &LogArguments) -> u8 {
    arguments.admin.run(async |client| {
        let first = page(arguments, client, arguments.limit).await?;
        if first.is_empty() && !arguments.follow && !arguments.json {
            say("There have been no such invalidations.");
        }
        let mut known = HashSet::new();
        let mut is_read = print(arguments, &first, &mut known);
        while is_read && arguments.follow {
            tokio::time::sleep(PAUSE).await;
            is_read = print(arguments, &page(arguments, client, PAGE).await?, &mut known);
        }
        Ok(0)
    })
}

/// The latest invalidations, the oldest first.
async fn page(arguments: &LogArguments, client: &AdminClient, limit: u32) -> Result<Vec<Value>, String> {
    let parameters = [
        ("limit", Some(limit.to_string())),
        ("family", arguments.family.clone()),
        ("cause", arguments.cause.clone()),
    ];
    let log = client.get(&with_query("/cache/log", &parameters)).await?;
    Ok(output::list(&log["invalidations"]).rev().cloned().collect())
}

/// Prints those that are not known yet. False if there is no reader any more. Remembers those of the last page.
fn print(arguments: &LogArguments, page: &[Value], known: &mut HashSet<String>) -> bool {
    let ids: Vec<String> = page.iter().map(|event| text(&event["id"])).collect();
    let is_read = page
        .iter()
        .zip(&ids)
        .filter(|(_, id)| !known.contains(*id))
        .all(|(event, _)| say(&if arguments.json { event.to_string() } else { columns(event).join("  ") }));
    *known = ids.into_iter().collect();
    is_read
}

/// Time, cause, rule, and what was invalidated.
pub(super) fn columns(event: &Value) -> [String; 4] {
    let cause = &event["cause"];
    let mut by = match (cause["method"].as_str(), cause["path"].as_str()) {
        (Some(method), Some(path)) => output::printable(&format!("{method} {path}")),
        _ => text(&cause["kind"]),
    };
    if let Some(status) = cause["status"].as_u64() {
        by.push_str(&format!(" -> {status}"));
    }
    match cause["kind"].as_str() {
        None | Some("write") => {}
        Some(_) if by == text(&cause["kind"]) => {}
        Some(kind) => by.push_str(&format!(" ({kind})")),
    }
    if let Some(token) = cause["token"].as_str() {
        by.push_str(&format!(" by {}", output::printable(token)));
    }
    let rule = match event["rule"]["line"].as_u64() {
        Some(line) => format!("line {line} '{}'", text(&event["rule"]["pattern"])),
        None => "no rule".to_owned(),
    };
    [text(&event["time"]), by, rule, text(&event["tags"])]
}

//! `larder reload` makes a running Larder read its rules file again; `larder diff` shows what another file would change.

use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::admin_client::{AdminArguments, RequestContent};
use super::output::{self, FAILED, USAGE, bytes, percent, text};
use crate::config;

#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// Print the admin's JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 if the file would change something, or has faults.")]
pub(super) struct DiffArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// The rules file to compare with the rules in force.
    file: PathBuf,
    /// Print the admin's JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn reload(arguments: &ReloadArguments) -> u8 {
    arguments.admin.run(async |client| {
        output::show(arguments.json, &client.post("/rules/reload").await?, reloaded);
        Ok(0)
    })
}

pub(super) fn diff(arguments: &DiffArguments) -> u8 {
    let content = match config::read(&arguments.file) {
        Ok(content) => content,
        Err(error) => return output::complain(error, USAGE),
    };
    arguments.admin.run(async |client| {
        let diff = client.call(&Method::POST, "/rules/diff", RequestContent::Toml(content)).await?;
        output::show(arguments.json, &diff, report);
        Ok(if diff["unchanged"] == true { 0 } else { FAILED })
    })
}

fn reloaded(answer: &Value) -> String {
    let count = |name: &str| text(&answer[name]);
    let counts =
        format!("{} ({} families, {} rules)", count("message"), count("families"), count("invalidations"));
    let later = |field| format!("\n{} takes effect when Larder is started again", text(field));
    counts + &output::list(&answer["needs_restart"]).map(later).collect::<String>()
}

fn report(diff: &Value) -> String {
    let list = |name: &str| output::list(&diff[name]);
    let mut lines = Vec::new();
    if diff["unchanged"] == true {
        lines.push("The file changes nothing.".to_owned());
    }
    for family in list("families") {
        let sign = match family["change"].as_str() {
            Some("added") => '+',
            Some("removed") => '-',
            _ => '~',
        };
        lines.push(format!("{sign} family {}{}", text(&family["name"]), numbers(&family["activity"])));
        for setting in output::list(&family["settings"]) {
            let (before, after) = (text(&setting["before"]), text(&setting["after"]));
            lines.push(format!("    {}: {before} -> {after}", text(&setting["name"])));
        }
        for (name, words) in
            [("invalidated_too_by", "is invalidated by"), ("not_invalidated_by", "is not invalidated any more by")]
        {
            for path in output::list(&family[name]) {
                lines.push(format!("    {words} writes to '{}'", text(path)));
            }
        }
    }
    for (name, sign) in [("rules_added", '+'), ("rules_removed", '-')] {
        for rule in list(name) {
            let (path, families) = (text(&rule["path"]), text(&rule["families"]));
            lines.push(format!(
                "{sign} rule '{path}' = {families} (line {}, {})",
                rule["line"],
                text(&rule["methods"])
            ));
        }
    }
    let invalidated: Vec<String> = list("invalidated").map(text).collect();
    if !invalidated.is_empty() {
        lines.push(format!("! the reload invalidates everything in {}", invalidated.join(", ")));
    }
    lines.extend(list("needs_restart").map(|field| format!("! {} takes effect at a restart", text(field))));
    for warning in list("warnings") {
        let of = |name: &str| text(&warning[name]);
        lines.push(format!("warning: line {}: {}; {}", of("line"), of("message"), of("remedy")));
    }
    lines.join("\n")
}

/// What a family has served and holds.
fn numbers(activity: &Value) -> String {
    if activity.is_null() {
        return String::new();
    }
    let requests: u64 =
        activity["requests"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    format!(
        " ({requests} requests, hit rate {}, {} entries, {})",
        percent(&activity["hit_rate"]),
        text(&activity["keys"]),
        bytes(&activity["bytes"])
    )
}

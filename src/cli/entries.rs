//! `larder entries` lists the entries of a running Larder, or shows or deletes one.

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArguments, AdminClient, encoded, with_query};
use super::invalidate;
use super::output::{self, bytes, say, seconds, text};

#[derive(Debug, Args)]
pub(super) struct EntriesArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// Show the entry with this key.
    key: Option<String>,
    /// Delete it, in all proxies.
    #[arg(long, requires = "key")]
    delete: bool,
    /// Show its content too. Needs a token with the role admin.
    #[arg(long, requires = "key", conflicts_with = "delete")]
    body: bool,
    /// Only those of this family.
    #[arg(long, value_name = "NAME", conflicts_with = "key")]
    family: Option<String>,
    /// Only those of this instance: id:7.
    #[arg(long, value_name = "NAME:VALUE", conflicts_with = "key")]
    instance: Option<String>,
    /// Only those whose path begins with this.
    #[arg(long, value_name = "PATH", conflicts_with = "key")]
    prefix: Option<String>,
    /// Only those that are fresh, stale or invalidated.
    #[arg(long, conflicts_with = "key", value_parser = ["fresh", "stale", "invalidated"])]
    state: Option<String>,
    /// Most entries.
    #[arg(long, short = 'n', default_value_t = 100)]
    limit: usize,
    /// Print JSON: one entry a line, or the entry.
    #[arg(long)]
    json: bool,
}

/// Most entries that are asked for at a time.
const PAGE: usize = 500;

pub(super) fn entries(arguments: &EntriesArguments) -> u8 {
    arguments.admin.run(async |client| {
        let Some(key) = &arguments.key else {
            let (entries, note) = list(arguments, client).await?;
            print(arguments, &entries, note);
            return Ok(0);
        };
        let path = format!("/cache/entries/{}", encoded(key));
        if arguments.delete {
            let answer = client.delete(&path).await?;
            output::show(arguments.json, &answer, |answer| invalidate::report(&answer["receipt"]));
            return Ok(0);
        }
        let answer =
            client.get(&with_query(&path, &[("body", arguments.body.then(|| "true".to_owned()))])).await?;
        output::show(arguments.json, &answer["entry"], details);
        Ok(0)
    })
}

/// What is said of a list that ends at `--limit`.
const MORE: &str = "There are more: ask for more with --limit, or for fewer with --family, --prefix or --state.";

/// What is said of one without the entries of a server that is down.
const LEFT_OUT: &str = "A server of the cluster is not connected: its entries are left out.";

/// The entries, and what is to be said if they are not all there are.
async fn list(
    arguments: &EntriesArguments,
    client: &AdminClient,
) -> Result<(Vec<Value>, Option<&'static str>), String> {
    let (mut entries, mut cursor) = (Vec::new(), None::<String>);
    while entries.len() < arguments.limit {
        let parameters = [
            ("family", arguments.family.clone()),
            ("instance", arguments.instance.clone()),
            ("prefix", arguments.prefix.clone()),
            ("state", arguments.state.clone()),
            ("limit", Some((arguments.limit - entries.len()).min(PAGE).to_string())),
            ("cursor", cursor),
        ];
        let page = client.get(&with_query("/cache/entries", &parameters)).await?;
        entries.extend(output::list(&page["entries"]).cloned());
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok((entries, (page["complete"] == false).then_some(LEFT_OUT)));
        }
    }
    Ok((entries, Some(MORE)))
}

fn print(arguments: &EntriesArguments, entries: &[Value], note: Option<&str>) {
    if arguments.json {
        let _ = entries.iter().all(|entry| say(&entry.to_string()));
        return;
    }
    if entries.is_empty() {
        say("There are no such entries.");
        return;
    }
    let row = |entry: &Value| {
        [
            text(&entry["family"]),
            text(&entry["state"]),
            seconds(&entry["age_s"]),
            bytes(&entry["bytes"]),
            text(&entry["status"]),
            text(&entry["url"]),
            text(&entry["key"]),
        ]
    };
    let head = ["family", "state", "age", "size", "status", "url", "key"];
    say(&output::table(&head, &[2, 3, 4], entries.iter().map(row)));
    if let Some(note) = note {
        say(note);
    }
}

fn details(entry: &Value) -> String {
    let mut lines = Vec::new();
    for (name, value) in entry.as_object().into_iter().flatten() {
        let Some(list) = value.as_array().filter(|list| list.len() > 1) else {
            lines.push(format!("{name}: {}", text(value)));
            continue;
        };
        lines.push(format!("{name}:"));
        lines.extend(list.iter().map(|item| format!("  {}", text(item))));
    }
    lines.join("\n")
}

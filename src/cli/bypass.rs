//! `larder bypass` turns caching off for a family in the fleet of a running Larder, for some time.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArguments, encoded, with_query};
use super::output::{self, USAGE, text};

#[derive(Debug, Args)]
pub(super) struct BypassArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// The family. Without it: which families are bypassed now.
    family: Option<String>,
    /// For how long: 10m.
    #[arg(long = "for", value_name = "TIME", requires = "family", conflicts_with = "off", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Cache the family again at once.
    #[arg(long, requires = "family")]
    off: bool,
    /// Print the admin's JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn bypass(arguments: &BypassArguments) -> u8 {
    if arguments.family.is_some() && arguments.duration.is_none() && !arguments.off {
        return output::complain("say for how long: --for 10m, or --off to cache the family again", USAGE);
    }
    let of_family = |family: &String| format!("/cache/bypass/{}", encoded(family));
    arguments.admin.run(async |client| {
        let answer = match &arguments.family {
            None => client.get("/cache/bypass").await?,
            Some(family) if arguments.off => client.delete(&of_family(family)).await?,
            Some(family) => {
                let time =
                    arguments.duration.map(|time| humantime::format_duration(time).to_string().replace(' ', ""));
                client.post(&with_query(&of_family(family), &[("for", time)])).await?
            }
        };
        output::show(arguments.json, &answer, report);
        Ok(0)
    })
}

fn report(answer: &Value) -> String {
    if let Some(message) = answer["message"].as_str() {
        return output::printable(message);
    }
    let bypasses: Vec<_> = output::list(&answer["bypasses"])
        .map(|bypass| [text(&bypass["family"]), text(&bypass["until"]), text(&bypass["by"])])
        .collect();
    let followers = &answer["followers"];
    let follow = followers["follow"].as_u64().zip(followers["of"].as_u64());
    let follow = follow.map(|(follow, of)| follow_line(follow, of) + "\n").unwrap_or_default();
    match bypasses.is_empty() {
        true => format!("{follow}No family is bypassed."),
        false => follow + &output::table(&["family", "until", "by"], &[], bypasses),
    }
}

fn follow_line(follow: u64, of: u64) -> String {
    match (follow, of) {
        (1, 1) => "The proxy follows.".to_owned(),
        (follow, of) if follow == of => format!("All {of} proxies follow."),
        _ => format!(
            "{follow} of {of} proxies follow; the others have not synced since. GET /cache/fleet says when each did."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_proxies_follow() {
        for (follow, of, begins) in [(1, 1, "The proxy"), (3, 3, "All 3 proxies"), (2, 3, "2 of 3 proxies")] {
            assert!(follow_line(follow, of).starts_with(begins), "{follow} of {of}");
        }
    }
}

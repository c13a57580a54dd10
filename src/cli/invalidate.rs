//! `larder invalidate` and `larder purge` invalidate entries of a running Larder, or show what they would invalidate.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::admin_client::{AdminArguments, RequestContent};
use super::output::{self, USAGE, bytes, text};

#[derive(Debug, Args)]
pub(super) struct PurgeArguments {
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    selection: Selection,
    /// Only say how many entries it is, with samples.
    #[arg(long)]
    dry_run: bool,
    /// Print the admin's JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InvalidateArguments {
    #[command(flatten)]
    purge: PurgeArguments,
    /// Entries may be served stale while they are fetched again.
    #[arg(long)]
    soft: bool,
    /// Name of a deployment, such as a commit: a second request with it changes nothing.
    #[arg(long, value_name = "NAME")]
    deploy: Option<String>,
}

/// What is invalidated.
#[derive(Debug, Args)]
struct Selection {
    /// Families, the families below one, or one instance: user, booking:*, user:7
    #[arg(value_name = "FAMILY")]
    families: Vec<String>,
    /// An instance in all families that have one of this name: user_id:7; repeatable, as all that follow.
    #[arg(long, value_name = "NAME:VALUE")]
    instance: Vec<String>,
    /// Everything.
    #[arg(long, conflicts_with_all = ["families", "instance", "url", "prefix", "glob", "group", "tag"])]
    all: bool,
    /// All variants of a URL or path.
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// All URLs that begin with this path.
    #[arg(long, value_name = "PATH")]
    prefix: Vec<String>,
    /// All URLs that match: /users/*/photo
    #[arg(long, value_name = "PATTERN")]
    glob: Vec<String>,
    /// Responses that name this group in Cache-Groups, Surrogate-Key, Cache-Tag or xkey.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// A tag as `larder explain` and the log print it.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

impl Selection {
    /// The content of the request. `None`: nothing is selected.
    fn content(&self) -> Option<Value> {
        let mut families: Vec<&str> = self.families.iter().map(String::as_str).collect();
        if self.all {
            families.push("*");
        }
        let lists = [
            ("families", json!(families)),
            ("instances", json!(self.instance)),
            ("urls", json!(self.url)),
            ("prefixes", json!(self.prefix)),
            ("globs", json!(self.glob)),
            ("groups", json!(self.group)),
            ("tags", json!(self.tag)),
        ];
        let given = lists.into_iter().filter(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
        let content: serde_json::Map<String, Value> = given.map(|(name, list)| (name.to_owned(), list)).collect();
        (!content.is_empty()).then_some(Value::Object(content))
    }
}

pub(super) fn purge(arguments: &PurgeArguments) -> u8 {
    send(arguments, "hard", None)
}

pub(super) fn invalidate(arguments: &InvalidateArguments) -> u8 {
    let mode = if arguments.soft { "soft" } else { "hard" };
    send(&arguments.purge, mode, arguments.deploy.as_deref())
}

fn send(arguments: &PurgeArguments, mode: &str, deploy: Option<&str>) -> u8 {
    let Some(mut content) = arguments.selection.content() else {
        let error = "name what to invalidate: families such as user or user:7, --instance, --url, --prefix, --glob, --group, --tag, or --all";
        return output::complain(error, USAGE);
    };
    content["mode"] = json!(mode);
    content["dry_run"] = json!(arguments.dry_run);
    if let Some(deploy) = deploy {
        content["deploy"] = json!(deploy);
    }
    arguments.admin.run(async |client| {
        let answer = client.call(&Method::POST, "/cache/invalidate", RequestContent::Json(content)).await?;
        let receipt = &answer["receipt"];
        output::show(arguments.json, &answer, |_| report(receipt));
        // It is in force in this proxy, and others have it when Redis is back.
        Ok(u8::from((receipt["delivered"] == false || receipt["complete"] == false) && !arguments.dry_run))
    })
}

pub(super) fn report(receipt: &Value) -> String {
    let is_dry = receipt["dry_run"] == true;
    let least = if receipt["entries_complete"] == false { "at least " } else { "" };
    // Not counted unless something looked for them.
    let count = match receipt["entries"].as_u64() {
        Some(1) => format!("{least}1 entry"),
        Some(entries) => format!("{least}{entries} entries"),
        None => "entries not counted".to_owned(),
    };
    let mut lines = vec![match (is_dry, receipt["repeated"] == true) {
        (true, _) => format!("Would invalidate {count} ({})", bytes(&receipt["bytes"])),
        (false, true) => {
            format!("Deployment {} has invalidated this before; nothing was done", text(&receipt["deploy"]))
        }
        (false, false) => {
            format!("Invalidated {} ({count}, {} ms)", text(&receipt["tags"]), text(&receipt["wait_ms"]))
        }
    }];
    if !is_dry && receipt["delivered"] == false {
        lines.push("Redis does not answer: other proxies get the invalidation when it is back".to_owned());
    }
    if receipt["complete"] == false {
        lines.push(format!("Not complete: {}", text(&receipt["what_to_do"])));
    }
    lines.extend(output::list(&receipt["samples"]).map(|url| format!("  {}", text(url))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: InvalidateArguments,
    }

    #[test]
    fn what_is_selected_is_sent_and_nothing_is_no_selection() {
        let content = |arguments: &[&str]| {
            let parsed = Command::try_parse_from(["x"].iter().chain(arguments)).unwrap();
            parsed.arguments.purge.selection.content()
        };
        assert_eq!(content(&[]), None);
        assert_eq!(content(&["--all"]), Some(json!({ "families": ["*"] })));
        assert_eq!(
            content(&["user", "a:*", "--instance", "user_id:7", "--url", "/a", "--group", "g"]),
            Some(
                json!({ "families": ["user", "a:*"], "instances": ["user_id:7"], "urls": ["/a"], "groups": ["g"] })
            )
        );
        assert!(Command::try_parse_from(["x", "--all", "user"]).is_err());
    }
}

//! The commands that steer a running Larder.

use serde_json::Value;

use crate::support::larder::Exit;
use crate::support::{Larder, Plan, Reply, Site, Tier, Upstream, eventually, larder};

const RULES: &str = r#"
[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl  = "1h"

[[family]]
name = "stats"
path = '/stats'
ttl  = "1h"

[invalidate]
'/users/(?<id>\d+)' = ["user:{id}"]
"#;

on_both_tiers! {
    statistics_are_printed_by_family,
    the_log_names_the_write_and_its_rule,
    a_purge_is_previewed_and_done,
    a_deployment_invalidates_once,
    entries_are_listed_shown_and_deleted,
    a_family_is_bypassed_and_cached_again,
    the_report_of_top_names_what_is_read_most,
}

fn site(tier: Tier) -> Site {
    let site = Site::start(tier, RULES);
    for path in ["/users/7", "/users/8", "/stats"] {
        site.upstream.on(path, Reply::new("x").cached("max-age=600"));
    }
    site
}

fn run(larder_: &Larder, arguments: &[&str]) -> Exit {
    let admin = format!("http://{}", larder_.admin);
    larder(None, &[arguments, &["--admin", &admin]].concat())
}

#[track_caller]
fn succeeds(exit: Exit) -> String {
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
    exit.stdout
}

#[track_caller]
fn json(exit: Exit) -> Value {
    serde_json::from_str(&succeeds(exit)).unwrap()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

fn statistics_are_printed_by_family(tier: Tier) {
    let site = site(tier);
    site.get("/users/7").shows("stored");
    site.get("/users/7").shows("hit");
    let printed = succeeds(run(&site, &["stats", "--window", "1m"]));
    says(&printed, &["hit rate 50.0 % over 1m", "user", "50.0 %", "requests/s"]);
    assert_eq!(json(run(&site, &["stats", "--json"]))["families"]["user"]["1m"]["hits"], 1);
}

fn the_log_names_the_write_and_its_rule(tier: Tier) {
    let site = site(tier);
    says(&succeeds(run(&site, &["log", "--family", "stats"])), &["There have been no such invalidations."]);
    site.get("/users/7").shows("stored");
    site.write("PUT", "/users/7").has_status(200);
    eventually("the write is in the log", || {
        let printed = succeeds(run(&site, &["log"]));
        ["PUT /users/7 -> 200", "user:7", "/users/(?<id>\\d+)"].iter().all(|part| printed.contains(part))
    });
    let line = succeeds(run(&site, &["log", "--json", "--cause", "write", "-n", "1"]));
    let event: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!((&event["cause"]["method"], &event["rule"]["line"].is_u64()), (&"PUT".into(), &true), "{event:#}");
}

fn a_purge_is_previewed_and_done(tier: Tier) {
    let site = site(tier);
    for path in ["/users/7", "/users/8", "/stats"] {
        site.get(path).shows("stored");
    }
    let preview = succeeds(run(&site, &["purge", "user", "--dry-run"]));
    says(&preview, &["Would invalidate 2 entries", "/users/7", "/users/8"]);
    site.get("/users/7").shows("hit");
    says(&succeeds(run(&site, &["purge", "user:7"])), &["Invalidated user:7"]);
    site.get("/users/7").hides("hit");
    site.get("/users/8").shows("hit");
    succeeds(run(&site, &["purge", "--url", "/stats"]));
    site.get("/stats").hides("hit");
    succeeds(run(&site, &["purge", "--all"]));
    site.get("/users/8").hides("hit");
    let unknown = run(&site, &["purge", "usr"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("did you mean user?"), "{unknown:?}");
    let nothing = run(&site, &["purge"]);
    assert!(nothing.code == Some(2) && nothing.stderr.contains("name what to invalidate"), "{nothing:?}");
}

fn a_deployment_invalidates_once(tier: Tier) {
    let site = site(tier);
    site.get("/stats").shows("stored");
    let deploy = ["invalidate", "--all", "--deploy", "3f2a"];
    says(&succeeds(run(&site, &deploy)), &["Invalidated"]);
    site.get("/stats").hides("hit");
    says(&succeeds(run(&site, &deploy)), &["Deployment 3f2a has invalidated this before"]);
    site.get("/stats").shows("hit");
}

fn entries_are_listed_shown_and_deleted(tier: Tier) {
    let site = site(tier);
    says(&succeeds(run(&site, &["entries"])), &["There are no such entries."]);
    for path in ["/users/7", "/stats"] {
        site.get(path).shows("stored");
    }
    let printed = succeeds(run(&site, &["entries", "--family", "user"]));
    says(&printed, &["/users/7", "fresh", "user"]);
    assert!(!printed.contains("/stats"), "{printed}");
    let entry = json(run(&site, &["entries", "--prefix", "/stats", "--json"]));
    let key = entry["key"].as_str().unwrap();
    says(&succeeds(run(&site, &["entries", key])), &["/stats", "tags"]);
    says(&succeeds(run(&site, &["entries", key, "--delete"])), &["Invalidated", "/stats"]);
    site.get("/stats").hides("hit");
    site.get("/users/7").shows("hit");
}

fn a_family_is_bypassed_and_cached_again(tier: Tier) {
    let site = site(tier);
    site.get("/stats").shows("stored");
    says(&succeeds(run(&site, &["bypass"])), &["No family is bypassed."]);
    let without_time = run(&site, &["bypass", "stats"]);
    assert!(without_time.code == Some(2) && without_time.stderr.contains("--for 10m"), "{without_time:?}");
    succeeds(run(&site, &["bypass", "stats", "--for", "10m"]));
    site.get("/stats").shows("fwd=bypass");
    says(&succeeds(run(&site, &["bypass"])), &["stats"]);
    succeeds(run(&site, &["bypass", "stats", "--off"]));
    let before = site.upstream.count("/stats");
    site.get("/stats").has_status(200);
    site.get("/stats").shows("hit");
    assert!(site.upstream.count("/stats") <= before + 1);
}

fn the_report_of_top_names_what_is_read_most(tier: Tier) {
    let site = site(tier);
    for _ in 0..20 {
        site.get("/users/7");
    }
    site.write("PUT", "/users/7").has_status(200);
    eventually("it is reported", || {
        let printed = succeeds(run(&site, &["top"]));
        ["most read", "/users/7", "most invalidated", "user:7"].iter().all(|part| printed.contains(part))
    });
}

#[test]
fn a_diff_says_what_another_file_would_change_and_a_reload_changes_it() {
    let upstream = Upstream::start();
    let served = Plan::new(&upstream.url()).rules(RULES).start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new.toml");
    let diff = |rules: &str| {
        std::fs::write(&file, rules).unwrap();
        run(&served, &["diff", file.to_str().unwrap()])
    };
    says(&succeeds(diff(RULES)), &["The file changes nothing."]);
    let edited =
        RULES.replacen("ttl  = \"1h\"", "ttl  = \"5m\"", 1).replace("'/users/(?<id>\\d+)' =", "'/people' =");
    let edited = edited.replace("[\"user:{id}\"]", "[\"stats\"]") + "\n[server]\nlisten = \"127.0.0.1:1\"\n";
    let changed = diff(&edited);
    assert_eq!(changed.code, Some(1), "{changed:?}");
    says(
        &changed.stdout,
        &[
            "~ family user",
            "ttl: 1h -> 5m",
            "is not invalidated any more by writes to '/users/(?<id>\\d+)'",
            "is invalidated by writes to '/people'",
            "+ rule '/people' = stats",
            "- rule '/users/(?<id>\\d+)' = user:{id}",
            "the reload invalidates everything in user, stats",
        ],
    );
    let faulty = diff("[[family]]\nname = 7\n");
    assert!(faulty.code == Some(1) && faulty.stderr.contains("line 2"), "{faulty:?}");
    let missing = run(&served, &["diff", "missing.toml"]);
    assert!(missing.code == Some(2) && missing.stderr.contains("missing.toml"), "{missing:?}");
    says(&succeeds(run(&served, &["reload"])), &["2 families, 1 rules"]);
}

#[test]
fn a_token_comes_from_a_file_and_a_refusal_says_what_to_do() {
    let upstream = Upstream::start();
    let served = Plan::new(&upstream.url()).environment("LARDER_ADMIN_TOKEN", "of-the-admin-0123456789").start();
    let refused = run(&served, &["stats"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("Authorization: Bearer"), "{refused:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "of-the-admin-0123456789\n").unwrap();
    succeeds(run(&served, &["stats", "--token-file", file.to_str().unwrap()]));
    let both = run(&served, &["stats", "--token-file", "x", "--token", "y"]);
    assert_eq!(both.code, Some(2), "{both:?}");
    let nobody = larder(None, &["stats", "--admin", "http://127.0.0.1:1"]);
    assert!(
        nobody.code == Some(1) && nobody.stderr.contains("is this the admin of a running Larder?"),
        "{nobody:?}"
    );
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let help = larder(None, &["--help"]).stdout;
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    assert!(commands.len() >= 16, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeds(larder(None, &["completions", shell]));
        says(&script, &commands);
    }
    let dir = tempfile::tempdir().unwrap();
    succeeds(larder(None, &["man", "--dir", dir.path().to_str().unwrap()]));
    for command in commands {
        let page = std::fs::read_to_string(dir.path().join(format!("larder-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}: {page}");
    }
    says(&succeeds(larder(None, &["man"])), &[".TH larder 1"]);
}

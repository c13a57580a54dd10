//! Edits of `rules.toml` under a running Larder: good ones take effect and disturb nobody, bad ones change nothing.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Larder, Plan, Reply, Site, Tier, Upstream, eventually};

const BEFORE: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"
"#;

/// `BEFORE` and one more family.
const AFTER: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "rooms"
path = '/rooms'
ttl = "60s"
"#;

const BAD: &str = "[[family]]\nname = \"users\"\npath = '/users('\nttl = \"60s\"\n";

on_both_tiers! {
    a_good_edit_takes_effect,
    a_bad_edit_changes_nothing_and_is_shown,
    a_changed_family_does_not_reuse_its_old_entries,
    entries_of_unchanged_families_stay,
    a_new_invalidation_applies_to_what_is_already_stored,
}

#[track_caller]
fn wait_for_after(larder: &Larder) {
    eventually("the new family is cached", || larder.get("/rooms").has_status(200).is("hit"));
}

fn last_error(larder: &Larder) -> Option<String> {
    let error = &larder.admin_get("/rules").has_status(200).json()["last_error"];
    (!error.is_null()).then(|| error.to_string())
}

fn a_good_edit_takes_effect(tier: Tier) {
    let site = Site::start(tier, BEFORE);
    site.get("/rooms").hides("stored");
    fs::write(site.rules_file(), AFTER).unwrap();
    wait_for_after(&site);
    fs::write(site.rules_file(), BEFORE).unwrap();
    eventually("the family is gone", || !site.get("/rooms").is("hit"));
    assert_eq!(last_error(&site), None);
}

fn a_bad_edit_changes_nothing_and_is_shown(tier: Tier) {
    let site = Site::start(tier, BEFORE);
    site.get("/users").shows("stored");
    fs::write(site.rules_file(), BAD).unwrap();
    eventually("the fault is shown", || last_error(&site).is_some());
    let shown = last_error(&site).unwrap();
    assert!(shown.contains("rules.toml:3:"), "{shown}");
    eventually("the fault is logged", || site.log().contains("rules.toml:3:"));
    site.get("/users").shows("hit").carries("/users #1");
    let refused = site.admin_post("/rules/reload");
    assert_eq!(refused.json()["success"], false, "{refused:?}");
    assert!(refused.status >= 400, "{refused:?}");
    fs::write(site.rules_file(), AFTER).unwrap();
    wait_for_after(&site);
    assert_eq!(last_error(&site), None);
}

fn a_changed_family_does_not_reuse_its_old_entries(tier: Tier) {
    let site = Site::start(tier, BEFORE);
    site.get("/users").shows("stored");
    site.get("/users").shows("hit");
    // Entries of all callers in one, so far; from now on they are kept apart.
    let changed = AFTER.replacen("ttl = \"60s\"", "ttl = \"60s\"\nidentity = \"header:authorization\"", 1);
    fs::write(site.rules_file(), changed).unwrap();
    wait_for_after(&site);
    site.get("/users").hides("hit").carries("/users #2");
}

fn entries_of_unchanged_families_stay(tier: Tier) {
    let site = Site::start(tier, BEFORE);
    site.get("/users").shows("stored");
    fs::write(site.rules_file(), AFTER).unwrap();
    wait_for_after(&site);
    site.get("/users").shows("hit").carries("/users #1");
}

fn a_new_invalidation_applies_to_what_is_already_stored(tier: Tier) {
    let site = Site::start(tier, BEFORE);
    site.get("/users").shows("stored");
    site.write("POST", "/users/create");
    site.get("/users").shows("hit");
    fs::write(site.rules_file(), format!("{AFTER}\n[invalidate]\n'/users/create' = [\"users\"]\n")).unwrap();
    wait_for_after(&site);
    // What clients are told of a family that writes invalidate is part of its definition.
    site.get("/users").shows("fwd=uri-miss").carries("/users #2");
    site.write("POST", "/users/create");
    site.get("/users").shows("detail=invalidated").carries("/users #3");
}

#[test]
fn a_larger_max_body_takes_effect_as_far_as_memory_has_room_for_it() {
    let rules = |of_memory: &str, of_users: &str| {
        let capacity = "capacity = \"64MiB\"";
        format!("[memory]\n{capacity}\nmax_body = \"{of_memory}\"\n{BEFORE}max_body = \"{of_users}\"\n")
    };
    let site = Site::start(Tier::Embedded, &rules("1KiB", "1KiB"));
    for target in ["/users", "/plain"] {
        site.upstream.on(target, Reply::filled(100_000).cached("max-age=60"));
        site.get(target).hides("stored");
    }
    fs::write(site.rules_file(), rules("200KiB", "200KiB")).unwrap();
    let reload = || site.admin_post("/rules/reload").has_status(200).json()["needs_restart"].to_string();
    assert_eq!(reload(), "[]");
    for target in ["/users", "/plain"] {
        // Requests while they were too large are remembered for a while.
        let target = format!("{target}?other");
        site.get(&target).shows("stored");
        site.get(&target).shows("hit");
    }
    // Memory was laid out for many small bodies.
    fs::write(site.rules_file(), rules("200KiB", "60MiB")).unwrap();
    assert_eq!(reload(), r#"["max_body of family \"users\""]"#);
    fs::write(site.rules_file(), rules("60MiB", "200KiB")).unwrap();
    eventually("it is logged", || {
        site.log().contains("[memory] max_body takes effect when Larder is started again")
    });
    site.upstream.on("/large", Reply::filled(61 << 20).cached("max-age=60"));
    site.get("/large").shows("detail=too-large").hides("stored");
}

#[test]
fn a_file_that_is_replaced_by_renaming_is_seen() {
    let site = Site::start(Tier::Embedded, BEFORE);
    for round in 0..3 {
        let (text, cached) = if round % 2 == 0 { (AFTER, true) } else { (BEFORE, false) };
        let new = site.dir.path().join("rules.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, site.rules_file()).unwrap();
        eventually("the new file is in force", || site.get("/rooms").is("hit") == cached);
    }
}

/// As Kubernetes mounts a ConfigMap: `rules.toml -> ..data/rules.toml`, `..data -> ..1`, and the swap of `..data`.
#[test]
fn a_file_behind_a_swapped_symlink_is_seen() {
    let upstream = Upstream::start();
    let mount = tempfile::tempdir().unwrap();
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, mount.path().join(name)).unwrap();
    let version = |name: &str, text: &str| write_in(&mount.path().join(name), text);
    version("..1", BEFORE);
    link("..1", "..data");
    link("..data/rules.toml", "rules.toml");
    let rules = mount.path().join("rules.toml").display().to_string();
    let larder = Plan::new(&upstream.url()).argument("--rules", &rules).start();
    larder.get("/rooms").hides("stored");
    version("..2", AFTER);
    link("..2", "..new");
    fs::rename(mount.path().join("..new"), mount.path().join("..data")).unwrap();
    wait_for_after(&larder);
}

fn write_in(directory: &Path, text: &str) {
    fs::create_dir(directory).unwrap();
    fs::write(directory.join("rules.toml"), text).unwrap();
}

#[test]
fn a_deleted_file_changes_nothing() {
    let site = Site::start(Tier::Embedded, BEFORE);
    site.get("/users").shows("stored");
    fs::remove_file(site.rules_file()).unwrap();
    eventually("the fault is shown", || last_error(&site).is_some());
    site.get("/users").shows("hit");
    fs::write(site.rules_file(), AFTER).unwrap();
    wait_for_after(&site);
}

#[test]
fn a_request_under_way_is_not_disturbed_by_a_reload() {
    let site = Site::start(Tier::Embedded, BEFORE);
    let gate = site.upstream.hold_all("/users");
    let read = site.call("GET", "/users").start();
    let write = site.call("POST", "/users").body("{}").start();
    gate.wait_for(2);
    fs::write(site.rules_file(), AFTER).unwrap();
    wait_for_after(&site);
    gate.open();
    read.response().has_status(200).carries("/users #1");
    write.response().has_status(200);
}

/// Set when it goes, also when that is by a panic: a scope waits for its threads.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn no_request_is_dropped_while_rules_change() {
    let site = Site::start(Tier::Embedded, BEFORE);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                site.get("/users").has_status(200);
                site.write("POST", "/things").has_status(200);
            }
        });
        for round in 0..4 {
            let (text, cached) = if round % 2 == 0 { (AFTER, true) } else { (BEFORE, false) };
            fs::write(site.rules_file(), text).unwrap();
            eventually("the edit is in force", || site.get("/rooms").has_status(200).is("hit") == cached);
        }
    });
}

//! Policies of families on the path of a request: `revalidate`, `stale_while_slow`, POST as a read,
//! `write_through`.

use crate::support::larder;

mod revalidate;
mod search;
mod slow;
mod write_through;

/// The exit code and the output of `larder check` on these rules.
fn checked(rules: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, rules).unwrap();
    let exit = larder(None, &["check", file.to_str().unwrap()]);
    (exit.code, exit.stdout + &exit.stderr)
}

/// The output of `larder explain` under these rules.
fn explained(rules: &str, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, rules).unwrap();
    let exit = larder(None, &[&["explain", "--rules", file.to_str().unwrap()], arguments].concat());
    exit.stdout + &exit.stderr
}

//! The running admin keeps to its own description: schemathesis makes requests of `/openapi.json`, good ones and bad ones. No answer is a server
//! error, each is as described, and what a route does not take is refused.

use std::process::Output;

use crate::packages;
use crate::support::larder::Larder;
use crate::support::{Plan, Upstream};

const RULES: &str = r#"
[[family]]
name = "user"
path = '/users/(?<user_id>\d+)'
ttl = "60s"

[invalidate]
'/users/create' = ["user"]
"#;

/// Seconds for the whole run.
const WITHIN: &str = "25";

fn run(larder: &Larder, arguments: &[&str]) -> Output {
    let url = format!("http://{}/openapi.json", larder.admin);
    let mut command = packages::command(packages::installed("schemathesis/bin/schemathesis"));
    command.args(["run", &url, "--max-time", WITHIN, "--max-examples", "15", "--workers", "1", "--no-color"]);
    command.args(["--phases", "coverage,fuzzing", "--warnings", "off", "--seed", "1", "--continue-on-failure"]);
    // A name that nothing has, and content that a purge cannot carry out, fit the description and are refused all the same. The store and
    // upstream of the test are away or slow in none of them.
    command.args(["--exclude-checks", "positive_data_acceptance,unsupported_method"]);
    // Its answer has no end.
    command.args(["--exclude-path", "/cache/events", "--request-timeout", "10"]);
    command.args(arguments).current_dir(packages::root().join("target")).output().unwrap()
}

#[track_caller]
fn assert_passes(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_admin_answers_as_it_describes_itself() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(RULES).start();
    for path in ["/users/1", "/users/2", "/plain"] {
        larder.get(path);
    }
    assert_passes(&run(&larder, &[]));
    larder.admin_get("/healthz").has_status(200);
}

#[test]
fn a_viewer_is_answered_as_the_admin_describes_itself() {
    let upstream = Upstream::start();
    let tokens = "[admin]\ntokens = [{ role = \"viewer\", token = \"looks\" }]\n";
    let larder = Plan::new(&upstream.url()).rules(&format!("{tokens}{RULES}")).start();
    larder.get("/users/1");
    assert_passes(&run(&larder, &["-H", "Authorization: Bearer looks"]));
    larder.get("/users/1").shows("hit");
}

//! The dashboard in Chromium: signing in, seeing a hit, a write and the rule that it fired, asking why, purging with a preview; then
//! every view in light and dark, on a desktop and a phone. Screenshots are written to `target/screenshots`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::packages::{command, root};
use crate::support::{Larder, Plan, Reply, Upstream};

const RULES: &str = r#"
[[family]]
name = "user_list"
path = '/users'
ttl = "60s"

[[family]]
name = "user_details"
path = '/users/(?<id>\d+)'
ttl = "60s"

[[family]]
name = "never"
path = '/private'
cache = "never"

[invalidate]
'/users/create' = ["user_list"]

[[warm]]
paths = ["/users"]
host = "api.example"
"#;

const TOKENS: &str = r#"
[admin]
tokens = [{ name = "operator", role = "admin", token = "of-the-operator" }]
"#;

/// Runs `tests/apps/clients/dashboard.js`, and gives what it saw.
#[track_caller]
fn drive(what: &str, larder: &Larder, token: &str) -> Value {
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let [admin, proxy] = [larder.admin, larder.address].map(|address| format!("http://{address}"));
    let output = command("node")
        .arg(root().join("tests/apps/clients/dashboard.js"))
        .args([what, &admin, &proxy])
        .arg(target.join("screenshots"))
        .arg(token)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn api() -> Upstream {
    let upstream = Upstream::start();
    for path in ["/users", "/users?page=2", "/users/7", "/private", "/users/create", "/photos/7"] {
        upstream.answer(path, |_| Reply::numbered());
    }
    upstream
}

#[track_caller]
fn assert_says(seen: &Value, pointer: &str, parts: &[&str]) {
    let text = seen.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    assert!(
        parts.iter().all(|part| text.contains(part)),
        "{pointer} is {text:?}, without one of {parts:?}: {seen:#}"
    );
}

#[test]
fn an_operator_signs_in_sees_which_write_invalidated_what_and_purges_a_family() {
    let upstream = api();
    let larder = Plan::new(&upstream.url()).rules(&format!("{TOKENS}{RULES}")).start();
    let seen = drive("operate", &larder, "of-the-operator");
    assert_says(&seen, "/refused", &["This token is not known"]);
    assert_eq!(seen["hit"], "/users");
    assert_says(&seen, "/invalidation/cause", &["POST", "/users/create"]);
    assert_says(&seen, "/invalidation/rule", &["/users/create", "line"]);
    assert_eq!(seen["invalidation"]["families"], json!(["user_list"]));
    assert_says(&seen, "/unmatched", &["POST", "/photos/{}"]);
    assert_eq!(seen["explained"], "Fetched from upstream");
    assert_says(&seen, "/story", &["invalidated", "POST", "/users/create"]);
    assert_says(&seen, "/why", &["cache = \"never\""]);
    let tags: BTreeSet<&str> = seen["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(tags.contains("user_list"), "{seen:#}");
    assert_says(&seen, "/preview", &["2 entries"]);
    assert_says(&seen, "/stillHit", &["; hit"]);
    assert_says(&seen, "/receipt", &["delivered", "user_list"]);
    assert_says(&seen, "/purged", &["detail=invalidated"]);
    assert_says(&seen, "/purge", &["Purge", "operator"]);
    assert_eq!(seen["signedOut"], 0, "the token is forgotten");
    assert_eq!((&seen["errors"], &seen["foreign"]), (&json!([]), &json!([])));
}

#[test]
fn every_view_is_accessible_and_fits_a_phone_in_light_and_dark() {
    let upstream = api();
    let larder = Plan::new(&upstream.url()).rules(RULES).start();
    let seen = drive("look", &larder, "");
    assert_eq!((&seen["violations"], &seen["wide"]), (&json!([]), &json!([])));
    assert_ne!(seen["backgrounds"]["light"], seen["backgrounds"]["dark"]);
    assert_eq!(seen["keys"], "Keys");
    assert_says(&seen, "/tip", &[":"]);
    assert!(seen["rows"].as_u64().is_some_and(|rows| rows > 0), "{seen:#}");
    assert_eq!((&seen["errors"], &seen["foreign"]), (&json!([]), &json!([])));
}

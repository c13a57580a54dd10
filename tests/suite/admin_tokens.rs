//! Tokens of the admin: names, scopes, digests, files, rotation; and host names and origins.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::client::{Pending, send_raw};
use crate::support::{Larder, Plan, Response, Upstream, eventually};

const RULES: &str = r#"
[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "60s"

[[family]]
name = "booking:stats"
path = '/stats'
ttl = "60s"

[invalidate]
'/users/create' = ["user"]
"#;

fn start(admin: &str) -> (Upstream, Larder) {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(&format!("[admin]\n{admin}\n{RULES}")).start();
    (upstream, larder)
}

fn with(larder: &Larder, token: &str, method: &str, target: &str) -> Response {
    larder.admin_call(method, target).header("Authorization", &format!("Bearer {token}")).send()
}

fn larder_token(arguments: &[&str], input: &str) -> serde_json::Value {
    use std::io::Write;
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("larder"))
        .arg("token")
        .args(arguments)
        .arg("--json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_token_that_larder_makes_is_known_by_its_digest() {
    let made = larder_token(&[], "");
    let (token, digest) = (made["token"].as_str().unwrap(), made["sha256"].as_str().unwrap());
    assert_eq!(larder_token(&["--stdin"], &format!("{token}\n"))["sha256"], digest);
    let (_upstream, larder) =
        start(&format!("tokens = [{{ name = \"ci\", role = \"admin\", sha256 = \"{digest}\" }}]"));
    let shown = with(&larder, token, "GET", "/cache/token").has_status(200).json();
    assert_eq!(shown["token"], json!({ "name": "ci", "role": "admin", "families": null }));
    with(&larder, digest, "GET", "/cache/token").fails_with(401);
}

#[test]
fn a_scope_allows_its_families_and_nothing_else() {
    let (_upstream, larder) = start(
        "tokens = [{ name = \"ci\", role = \"admin\", token = \"t\", families = [\"user\", \"booking:*\"] }]",
    );
    let call = |method: &str, target: &str| with(&larder, "t", method, target).status;
    let allowed = [
        ("POST", "/cache/clear/user"),
        ("POST", "/cache/clear/user/7"),
        ("POST", "/cache/clear/booking:stats"),
        ("POST", "/cache/instances/id/7/clear"),
        ("POST", "/cache/bypass/booking?for=1s"),
        ("GET", "/cache/stats"),
        ("GET", "/cache/token"),
    ];
    for (method, target) in allowed {
        assert_eq!(call(method, target), 200, "{method} {target}");
    }
    for target in ["/cache/clear", "/cache/clear/*", "/cache/groups/a/clear", "/rules/reload", "/cache/warm"] {
        let refused = with(&larder, "t", "POST", target).fails_with(403);
        assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"), "{target}");
    }
    let purge = |content: serde_json::Value| {
        let call = larder.admin_call("POST", "/cache/invalidate").header("Authorization", "Bearer t");
        call.body(content.to_string()).send().status
    };
    larder.get("/users/1");
    larder.get("/elsewhere");
    assert_eq!(purge(json!({ "families": ["user"], "urls": ["/users/1", "/stats"] })), 200);
    for content in [json!({ "families": ["*"] }), json!({ "groups": ["a"] }), json!({ "urls": ["/elsewhere"] })] {
        assert_eq!(purge(content.clone()), 403, "{content}");
    }
    assert_eq!(purge(json!({ "tags": ["user:1", "uri:/users/1", "uri:/stats", "caller user x"] })), 200);
    for tag in ["*", "uri:/elsewhere", "group /a", "group localhost/a", "caller plan x"] {
        assert_eq!(purge(json!({ "tags": ["user:1", tag] })), 403, "{tag}");
    }
    assert_eq!(purge(json!({ "prefixes": ["/users/"] })), 200);
}

#[test]
fn a_body_is_shown_within_the_scope_of_the_token_alone() {
    let (_upstream, larder) = start(
        "tokens = [{ name = \"ci\", role = \"admin\", token = \"t\", families = [\"user\"] }, { role = \"admin\", token = \"all\" }]",
    );
    larder.get("/users/1");
    larder.get("/stats");
    let key_of = |family: &str| {
        let list = || with(&larder, "t", "GET", &format!("/cache/entries?family={family}")).has_status(200).json();
        eventually("it is listed", || list()["entries"].as_array().unwrap().len() == 1);
        list()["entries"][0]["key"].as_str().unwrap().replace(':', "%3A")
    };
    let (own, other) = (key_of("user"), key_of("booking:stats"));
    let show =
        |token: &str, key: &str, query: &str| with(&larder, token, "GET", &format!("/cache/entries/{key}{query}"));
    show("t", &own, "?body=true").has_status(200);
    show("t", &other, "").has_status(200);
    let refused = show("t", &other, "?body=true").fails_with(403);
    assert!(refused.text().contains("booking:stats"), "{refused:?}");
    show("all", &other, "?body=true").has_status(200);
}

#[test]
fn guesses_that_come_at_once_are_compared_one_per_second() {
    let (_upstream, larder) = start("tokens = [{ role = \"admin\", token = \"t\" }]");
    let guess =
        "GET /cache/stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer guess\r\nConnection: close\r\n\r\n";
    let guesses: Vec<_> = (0..40).map(|_| send_raw(larder.admin, guess.as_bytes(), false).unwrap()).collect();
    let answers: Vec<Response> = guesses.into_iter().map(Pending::response).collect();
    let refused: Vec<&Response> = answers.iter().filter(|answer| answer.status == 429).collect();
    // Ten are compared at once, four wait for their turn, and each second allows one more.
    assert!(refused.len() >= 15 && refused.len() <= 40 - 10, "{answers:?}");
    assert!(refused.iter().all(|answer| answer.header("retry-after") == Some("1")), "{refused:?}");
    with(&larder, "t", "GET", "/cache/stats").has_status(200);
}

#[test]
fn a_scope_does_not_allow_the_paths_of_other_families() {
    let (_upstream, larder) =
        start("tokens = [{ name = \"ci\", role = \"admin\", token = \"t\", families = [\"user\"] }]");
    larder.get("/stats");
    eventually("it is stored", || larder.get("/stats").is("hit"));
    for content in [json!({ "tags": ["uri:/stats"] }), json!({ "urls": ["/stats"] }), json!({ "globs": ["/s*"] })]
    {
        let call = larder.admin_call("POST", "/cache/invalidate").header("Authorization", "Bearer t");
        assert_eq!(call.body(content.to_string()).send().status, 403, "{content}");
    }
    larder.get("/stats").shows("hit");
}

#[test]
fn a_token_in_a_file_is_rotated_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "first\n").unwrap();
    let (_upstream, larder) =
        start(&format!("tokens = [{{ role = \"viewer\", token_file = {:?} }}]", file.display().to_string()));
    with(&larder, "first", "GET", "/cache/token").has_status(200);
    fs::write(&file, "second\n").unwrap();
    eventually("the new token is known", || with(&larder, "second", "GET", "/cache/token").status == 200);
    with(&larder, "first", "GET", "/cache/token").fails_with(401);
}

#[test]
fn tokens_of_an_edited_rules_file_are_in_force_and_the_last_is_kept() {
    let (_upstream, larder) = start("tokens = [{ role = \"admin\", token = \"old\" }]");
    let edit = |from: &str, to: &str| {
        let text = fs::read_to_string(larder.rules_file()).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(larder.rules_file(), text.replace(from, to)).unwrap();
    };
    edit("\"old\"", "\"new\"");
    eventually("the new token is known", || with(&larder, "new", "GET", "/cache/token").status == 200);
    with(&larder, "old", "GET", "/cache/token").fails_with(401);
    edit("tokens = [{ role = \"admin\", token = \"new\" }]", "");
    eventually("it is logged", || {
        larder.log().contains("[admin] tokens takes effect when Larder is started again")
    });
    larder.admin_get("/cache/token").fails_with(401);
    with(&larder, "new", "GET", "/cache/token").has_status(200);
}

#[test]
fn a_change_is_logged_with_token_route_and_outcome() {
    let (_upstream, larder) = start(
        "tokens = [{ name = \"release\", role = \"admin\", token = \"t-secret\" }, { role = \"viewer\", token = \"v-secret\" }]",
    );
    with(&larder, "t-secret", "POST", "/cache/clear/user/7").has_status(200);
    with(&larder, "v-secret", "POST", "/cache/clear").fails_with(403);
    let has = |parts: &[&str]| larder.log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
    let done = ["admin request", "/cache/clear/{family}/{instance}", "release", "127.0.0.1", "done"];
    eventually("it is logged", || has(&done) && has(&["admin request", "/cache/clear", "viewer", "refused"]));
    assert!(!larder.log().contains("-secret"));
}

#[test]
fn foreign_hosts_and_origins_are_refused_with_tokens_too() {
    let (_upstream, larder) =
        start("hosts = [\"larder.example\"]\ntokens = [{ role = \"admin\", token = \"t\" }]");
    let call = |method: &str, fields: &[(&str, &str)]| {
        let target = if method == "GET" { "/cache/stats" } else { "/cache/clear" };
        let call = larder.admin_call(method, target).header("Authorization", "Bearer t");
        fields.iter().fold(call, |call, (name, value)| call.header(name, value)).send().status
    };
    let rows = [
        ("GET", ("Host", "larder.example"), 200),
        ("GET", ("Host", "10.1.2.3:9090"), 200),
        ("GET", ("Host", "rebound.example"), 403),
        ("POST", ("Origin", "http://localhost"), 200),
        ("POST", ("Origin", "https://larder.example"), 200),
        ("POST", ("Origin", "https://evil.example"), 403),
        ("POST", ("Sec-Fetch-Site", "cross-site"), 403),
    ];
    for (method, field, expected) in rows {
        assert_eq!(call(method, &[field]), expected, "{method} {field:?}");
    }
    larder.admin_call("GET", "/healthz").header("Host", "pod-7").send().has_status(200);
}

#[test]
fn the_description_and_its_page_need_no_token_and_tell_nothing_of_this_larder() {
    let (_upstream, larder) = start("tokens = [{ role = \"admin\", token = \"t\" }]");
    let document = larder.admin_get("/openapi.json").has_status(200);
    assert!(document.json()["paths"]["/cache/invalidate"]["post"].is_object());
    let page = larder.admin_get("/docs").has_status(200);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    for text in [document.text(), page.text(), larder.admin_get("/").text()] {
        assert!(!text.contains("booking:stats"), "{text}");
    }
    larder.admin_get("/cache/stats").fails_with(401);
}

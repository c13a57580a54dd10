//! Why upstream gave no answer: in the log for the operator, on the admin, and in the body of a 502 or 504 for a client
//! that names a token of the admin.

use serde_json::Value;

use crate::support::client::Call;
use crate::support::{Larder, Plan, Reply, Upstream, eventually, larder};

const RULES: &str = "[server]\n[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n";
const TOKENS: &str = "[admin]\ntokens = [{ role = \"viewer\", token = \"of-a-viewer\" }]\n";

fn with_tokens(upstream: &Upstream) -> Larder {
    Plan::new(&upstream.url()).rules(&format!("{TOKENS}{RULES}")).start()
}

fn debug(larder: &Larder, method: &str, target: &str, token: &str) -> Call {
    larder.call(method, target).header("Larder-Debug", token)
}

#[test]
fn every_kind_of_failure_is_logged_with_its_cause_and_told_on_the_admin() {
    let mut upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(RULES).start();
    assert_eq!(larder.admin_get("/cache/stats").json()["upstream"]["last_failure"], Value::Null);
    upstream.on("/closed", Reply::none());
    upstream.on("/garbled", Reply::raw("220 mail.test ESMTP\r\n\r\n"));
    upstream.on(
        "/twice",
        Reply::raw(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    );
    let gate = upstream.hold_all("/slow");
    let hasty = Plan::new(&upstream.url()).rules("[server]\nupstream_timeout = \"200ms\"\n").start();
    let rows = [
        (&larder, "/closed", 502, "upstream-closed", "connection closed"),
        (&larder, "/garbled", 502, "upstream-garbled", "HTTP"),
        (&larder, "/twice", 502, "upstream-garbled", "both Content-Length and Transfer-Encoding"),
        (&hasty, "/slow", 504, "upstream-timeout", "upstream_timeout"),
    ];
    for (larder, target, status, kind, cause) in rows {
        let answer = larder.get(target).has_status(status);
        assert_eq!(answer.json().get("last_failure"), None, "clients are told nothing without a token");
        let failure = larder.admin_get("/cache/stats").json()["upstream"]["last_failure"].clone();
        assert_eq!(failure["kind"], kind, "{target}: {failure}");
        let text = failure["cause"].as_str().unwrap();
        assert!(text.contains(cause), "{target}: {failure}");
        assert!(failure["time"].as_str().unwrap().ends_with('Z'), "{failure}");
        eventually(target, || larder.log().contains(text));
    }
    gate.open();
    upstream.stop();
    larder.get("/users").has_status(502);
    let stats = larder.admin_get("/cache/stats").json();
    assert_eq!(stats["upstream"]["last_failure"]["cause"], "connection refused");
}

#[test]
fn a_client_with_a_token_of_the_admin_is_told_the_cause() {
    let mut upstream = Upstream::start();
    let larder = with_tokens(&upstream);
    upstream.stop();
    for (method, target) in [("GET", "/users"), ("GET", "/other"), ("POST", "/users"), ("QUERY", "/users")] {
        let answer = debug(&larder, method, target, "of-a-viewer").send().has_status(502);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let body = answer.json();
        assert_eq!(body["error"], "upstream cannot be reached", "{body}");
        assert_eq!(body["last_failure"]["cause"], "connection refused", "{method} {target}: {body}");
    }
    let plain = larder.get("/users").has_status(502).json();
    for token in ["of-a-viewe", "of-a-viewer2", "", "Bearer of-a-viewer"] {
        assert_eq!(debug(&larder, "GET", "/users", token).send().has_status(502).json(), plain, "{token:?}");
    }
    let twice = debug(&larder, "GET", "/users", "of-a-viewer").header("Larder-Debug", "of-a-viewer");
    assert_eq!(twice.send().json(), plain);
    let metrics = larder.admin_call("GET", "/metrics").header("Authorization", "Bearer of-a-viewer").send().text();
    assert!(metrics.contains("larder_admin_wrong_tokens_total 4"), "{metrics}");
    eventually("it is logged", || larder.log().contains("a token in Larder-Debug that is not known"));
}

#[test]
fn without_tokens_no_client_is_told_the_cause() {
    let mut upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(RULES).start();
    upstream.stop();
    let plain = larder.get("/users").json();
    assert_eq!(debug(&larder, "GET", "/users", "").send().json(), plain);
}

#[test]
fn the_token_reaches_neither_upstream_nor_a_key() {
    let upstream = Upstream::start();
    for (underscores, name) in [(false, "Larder-Debug"), (true, "Larder_Debug")] {
        let rules =
            format!("{TOKENS}{RULES}").replace("[server]", &format!("[server]\nunderscores = {underscores}"));
        let larder = Plan::new(&upstream.url()).rules(&rules).start();
        for (method, target) in [("GET", "/users"), ("GET", "/other"), ("POST", "/users"), ("OPTIONS", "/users")] {
            larder.call(method, target).header(name, "of-a-viewer").send().has_status(200);
            let sent = upstream.last(&format!("{method} {target}"));
            assert!(sent.headers(name).is_empty() && sent.headers("larder-debug").is_empty(), "{method} {target}");
        }
        larder.get("/users");
        larder.call("GET", "/users").header(name, "of-another").send().shows("hit");
    }
    let url = upstream.url();
    let asked = ["explain", "GET", "/asked", "--upstream", &url, "--ask", "-H", "Larder-Debug: of-a-viewer"];
    assert_eq!(larder(None, &asked).code, Some(0));
    assert_eq!(upstream.last("/asked").header("larder-debug"), None);
}

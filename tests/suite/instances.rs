//! Instances whose values come from elsewhere than the path: of reads from the query, a field or the caller; of writes from
//! their content and their response too.

use serde_json::{Value, json};

use crate::http::wire::Bench;
use crate::support::client::Call;
use crate::support::{Gate, Reply, Site, Tier, eventually, larder};

const RULES: &str = r#"
[server]
max_rule_body = "256KiB"

[[family]]
name = "availability"
path = '/availability'
ttl = "60s"
query = { keep = ["date"] }
instance = { date = "query:date" }

[[family]]
name = "orders"
path = '/orders'
ttl = "60s"
headers = ["x-tenant"]
instance = { tenant = "header:x-tenant" }

[[family]]
name = "mine"
path = '/mine'
ttl = "60s"
identity = "cookie:sid"
instance = { caller = "identity" }

[[family]]
name = "user"
path = '/users/(?<user_id>[^/]+)'
ttl = "60s"

[[family]]
name = "posts"
path = '/posts'
ttl = "60s"
instance = { user_id = "query:author" }

[[family]]
name = "room"
path = '/rooms/(?<room>[^/]+)'
ttl = "60s"
instance = { date = "query:date" }

[[family]]
name = "found"
path = '/found'
methods = ["QUERY", "POST"]
ttl = "1h"
instance = { date = "query:date" }

[invalidate]
'/by/query' = ["availability:{query.date}"]
'/by/other/query' = ["availability:{date=query.on}"]
'/by/header' = ["orders:{tenant=header.x-tenant}"]
'/by/caller' = ["mine:{caller=identity}"]
'/by/content' = ["user:{body.user_id}"]
'/by/list' = ["user:{user_id=body.users.ids}"]
'/by/response' = ["user:{user_id=response.user.id}"]
'/by/both' = ["room:{body.room}:{body.date}"]
'/by/path/(?<user_id>[^/]+)' = ["*:{user_id}"]
'/points/.*' = { families = ["user"], except = ['/points/preview', '/points/.*/validate'] }
"#;

on_both_tiers! {
    a_write_invalidates_the_reads_with_its_value_of_a_parameter,
    a_read_with_several_values_is_invalidated_by_a_write_to_either,
    a_read_without_the_value_is_invalidated_with_the_family_alone,
    a_read_with_too_many_values_is_not_stored,
    a_write_invalidates_the_reads_with_its_value_of_a_field,
    a_write_invalidates_the_reads_of_its_caller,
    a_write_invalidates_what_its_content_names,
    a_write_whose_content_names_nothing_invalidates_the_family,
    content_that_is_copied_while_it_is_sent_names_instances,
    a_write_without_an_answer_invalidates_what_its_content_names,
    a_write_invalidates_what_its_response_names_before_it_is_acknowledged,
    a_write_whose_response_names_nothing_invalidates_the_family,
    values_of_content_and_path_name_one_instance_together,
    one_reference_names_an_instance_of_all_families_that_have_it,
    operators_clear_an_instance_of_all_families_that_have_it,
    spellings_of_one_number_in_paths_queries_and_content_are_one_instance,
    a_caller_who_is_known_by_a_cookie_is_not_cleared_by_a_value,
    a_rule_does_not_apply_to_its_exceptions,
    a_family_that_lacks_a_value_is_logged,
}

/// Reads these, sends the write, and requires that the first are invalidated by it and the others are not.
#[track_caller]
fn assert_invalidates(site: &Site, write: Call, invalidated: &[&str], kept: &[&str]) {
    for target in invalidated.iter().chain(kept) {
        site.get(target);
        site.get(target).shows("hit");
    }
    write.send().has_status(200);
    for target in invalidated {
        site.get(target).shows("fwd=stale; detail=invalidated");
    }
    for target in kept {
        site.get(target).shows("hit");
    }
}

fn with_json(site: &Site, target: &str, content: &Value) -> Call {
    site.call("POST", target).header("Content-Type", "application/json").body(content.to_string())
}

fn a_write_invalidates_the_reads_with_its_value_of_a_parameter(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rows = [
        ("/by/query?date=2025-01-01", "/availability?date=2025-01-01"),
        ("/by/other/query?on=2025-01-01", "/availability?x=1&date=2025-01-01"),
        ("/by/query?date=a+b", "/availability?date=a%20b"),
        ("/by/query?date=%61%2Fb", "/availability?date=a/b"),
        ("/by/query?date=7", "/availability?date=007"),
    ];
    for (write, invalidated) in rows {
        assert_invalidates(&site, site.call("POST", write), &[invalidated], &["/availability?date=2025-01-02"]);
    }
    let all = ["/availability?date=2025-01-01", "/availability?date=2025-01-02", "/availability"];
    assert_invalidates(&site, site.call("POST", "/by/query"), &all, &["/users/7"]);
}

fn a_read_with_several_values_is_invalidated_by_a_write_to_either(tier: Tier) {
    let site = Site::start(tier, RULES);
    let both = "/availability?date=a&date=b";
    for (write, is_invalidated) in [("a", true), ("b", true), ("c", false)] {
        let write = site.call("POST", &format!("/by/query?date={write}"));
        let (invalidated, kept): (&[&str], &[&str]) = if is_invalidated { (&[both], &[]) } else { (&[], &[both]) };
        assert_invalidates(&site, write, invalidated, kept);
    }
    let either = ["/availability?date=a", "/availability?date=b"];
    let write = site.call("POST", "/by/query?date=a&date=b");
    assert_invalidates(&site, write, &either, &["/availability?date=c"]);
}

fn a_read_without_the_value_is_invalidated_with_the_family_alone(tier: Tier) {
    let site = Site::start(tier, RULES);
    assert_invalidates(&site, site.call("POST", "/by/query?date=a"), &[], &["/availability"]);
    assert_invalidates(&site, site.call("POST", "/by/query"), &["/availability"], &[]);
}

fn a_read_with_too_many_values_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    let dates: Vec<String> = (0..200).map(|date| format!("date={date}")).collect();
    let target = format!("/availability?{}", dates.join("&"));
    for _ in 0..2 {
        site.get(&target).shows("fwd=bypass; detail=many-instances").hides("stored");
    }
    assert_eq!(site.upstream.count(&format!("GET {target}")), 2);
    // What is part of the key is sent too.
    let target = format!("/found?{}", dates.join("&"));
    for method in ["QUERY", "POST"] {
        let call = site.call(method, &target).header("Content-Type", "text/plain").body("what");
        call.send().has_status(200).shows("detail=many-instances");
        assert_eq!(site.upstream.last(&format!("{method} {target}")).body, b"what");
    }
}

fn a_write_invalidates_the_reads_with_its_value_of_a_field(tier: Tier) {
    let site = Site::start(tier, RULES);
    let by = |method: &str, target: &str, tenant: &str| site.call(method, target).header("X-Tenant", tenant);
    let warm = || {
        for tenant in ["acme", "zeta"] {
            by("GET", "/orders", tenant).send();
            by("GET", "/orders", tenant).send().shows("hit");
        }
    };
    warm();
    by("POST", "/by/header", "acme").send();
    by("GET", "/orders", "acme").send().shows("detail=invalidated");
    by("GET", "/orders", "zeta").send().shows("hit");
    warm();
    site.write("POST", "/by/header");
    by("GET", "/orders", "acme").send().shows("detail=invalidated");
    by("GET", "/orders", "zeta").send().shows("detail=invalidated");
}

fn a_write_invalidates_the_reads_of_its_caller(tier: Tier) {
    let site = Site::start(tier, RULES);
    let by = |method: &str, target: &str, caller: &str| {
        site.call(method, target).header("Cookie", &format!("sid={caller}"))
    };
    let warm = || {
        for caller in ["ann", "bob"] {
            by("GET", "/mine", caller).send();
            by("GET", "/mine", caller).send().shows("hit");
        }
    };
    warm();
    by("POST", "/by/caller", "ann").send();
    by("GET", "/mine", "ann").send().shows("detail=invalidated");
    by("GET", "/mine", "bob").send().shows("hit");
    warm();
    // Of no caller that is known.
    site.write("POST", "/by/caller");
    by("GET", "/mine", "ann").send().shows("detail=invalidated");
    by("GET", "/mine", "bob").send().shows("detail=invalidated");
}

fn a_write_invalidates_what_its_content_names(tier: Tier) {
    let site = Site::start(tier, RULES);
    for content in [json!({ "user_id": 7 }), json!({ "user_id": "7" }), json!({ "x": [{}], "user_id": 7.0 })] {
        let write = with_json(&site, "/by/content", &content);
        assert_invalidates(&site, write, &["/users/7"], &["/users/8"]);
        let write = with_json(&site, "/by/content", &content).chunked();
        assert_invalidates(&site, write, &["/users/7"], &["/users/8"]);
    }
    let form = || site.call("POST", "/by/content").header("Content-Type", "application/x-www-form-urlencoded");
    assert_invalidates(&site, form().body("x=1&user_id=a%40b"), &["/users/a@b"], &["/users/8"]);
    let multipart = site.call("POST", "/by/content").header("Content-Type", "multipart/form-data; boundary=b");
    let content = "--b\r\nContent-Disposition: form-data; name=\"user_id\"\r\n\r\n7\r\n--b--\r\n";
    assert_invalidates(&site, multipart.body(content), &["/users/7"], &["/users/8"]);
    let write = with_json(&site, "/by/list", &json!({ "users": { "ids": [7, "9"] } }));
    assert_invalidates(&site, write, &["/users/7", "/users/9"], &["/users/8"]);
    // Upstream takes one of them.
    let twice = site.call("POST", "/by/content").header("Content-Type", "application/json");
    let twice = twice.body(r#"{"user_id": 7, "user_id": 9}"#);
    assert_invalidates(&site, twice, &["/users/7", "/users/9"], &["/users/8"]);
}

fn a_write_whose_content_names_nothing_invalidates_the_family(tier: Tier) {
    let site = Site::start(tier, RULES);
    let of = |content_type: &str, content: &str| {
        site.call("POST", "/by/content").header("Content-Type", content_type).body(content.to_owned())
    };
    let large = format!("{{\"x\": \"{}\", \"user_id\": 7}}", "x".repeat(300 << 10));
    let writes = [
        of("application/json", "{}"),
        of("application/json", ""),
        of("application/json", r#"{"user_id": null}"#),
        of("application/json", r#"{"user_id": {"id": 7}}"#),
        of("application/json", r#"{"user_id": 7"#),
        of("application/json", &large),
        of("application/json", r#"{"user_id": 7}"#).header("Content-Encoding", "gzip"),
        of("text/plain", r#"{"user_id": 7}"#),
        of("application/x-www-form-urlencoded", "user_id=%zz"),
        site.call("POST", "/by/content"),
    ];
    for write in writes {
        assert_invalidates(&site, write, &["/users/7", "/users/8"], &["/availability"]);
    }
}

fn content_that_is_copied_while_it_is_sent_names_instances(tier: Tier) {
    let site = Site::start(tier, RULES);
    // More than is read before the write is announced.
    let content = json!({ "user_id": 7, "x": "x".repeat(200 << 10) });
    assert_invalidates(&site, with_json(&site, "/by/content", &content), &["/users/7"], &["/users/8"]);
    let chunked = with_json(&site, "/by/content", &content).chunked();
    assert_invalidates(&site, chunked, &["/users/7"], &["/users/8"]);
    let expecting = with_json(&site, "/by/content", &json!({ "user_id": 7 })).header("Expect", "100-continue");
    assert_invalidates(&site, expecting, &["/users/7"], &["/users/8"]);
    assert!(site.upstream.last("POST /by/content").body.ends_with(b"}"));
}

fn a_write_without_an_answer_invalidates_what_its_content_names(tier: Tier) {
    let site = Site::start(tier, RULES);
    for target in ["/users/7", "/users/8"] {
        site.get(target);
    }
    site.upstream.on("POST /by/content", Reply::none());
    with_json(&site, "/by/content", &json!({ "user_id": 7 })).send().has_status(502);
    site.get("/users/7").shows("detail=invalidated");
    site.get("/users/8").shows("hit");
    site.upstream.on("POST /by/response", Reply::none());
    site.write("POST", "/by/response").has_status(502);
    site.get("/users/8").shows("detail=invalidated");
}

fn a_write_invalidates_what_its_response_names_before_it_is_acknowledged(tier: Tier) {
    let site = Site::start(tier, RULES);
    let content = json!({ "user": { "id": 7, "name": "x".repeat(50_000) } }).to_string();
    let reply = || Reply::new(content.clone()).header("Content-Type", "application/json");
    for reply in [reply(), reply().chunked()] {
        site.upstream.on("POST /by/response", reply);
        assert_invalidates(&site, site.call("POST", "/by/response").body("{}"), &["/users/7"], &["/users/8"]);
    }
    // The head waits for the content, which says what is to be invalidated.
    let gate = Gate::new();
    site.upstream.on("POST /by/response", reply().pause_after(20_000, &gate));
    let write = site.call("POST", "/by/response").body("{}").start();
    gate.wait_for(1);
    site.get("/users/7").shows("hit");
    gate.open();
    assert_eq!(write.response().has_status(200).text(), content);
    site.get("/users/7").shows("detail=invalidated");
    site.get("/users/8").shows("hit");
}

fn a_write_whose_response_names_nothing_invalidates_the_family(tier: Tier) {
    let site = Site::start(tier, RULES);
    let of = |content: &str| Reply::new(content.to_owned()).header("Content-Type", "application/json");
    let named = r#"{"user": {"id": 7}}"#;
    let replies = [
        of("{}"),
        of("[]x"),
        of(&format!("{{\"x\": \"{}\", \"user\": {{\"id\": 7}}}}", "x".repeat(300 << 10))),
        of(named).header("Content-Encoding", "gzip"),
        Reply::new(named).header("Content-Type", "text/plain"),
        of(named).until_close(),
    ];
    for reply in replies {
        site.upstream.on("POST /by/response", reply);
        let write = site.call("POST", "/by/response").body("{}");
        assert_invalidates(&site, write, &["/users/7", "/users/8"], &["/availability"]);
    }
    for target in ["/users/7", "/users/8"] {
        site.get(target).shows("hit");
    }
    site.upstream.on("POST /by/response", Reply::status(204));
    site.write("POST", "/by/response").has_status(204);
    site.get("/users/8").shows("detail=invalidated");
}

fn values_of_content_and_path_name_one_instance_together(tier: Tier) {
    let site = Site::start(tier, RULES);
    let write = with_json(&site, "/by/both", &json!({ "room": 1, "date": "a" }));
    let kept = ["/rooms/1?date=b", "/rooms/2?date=a", "/rooms/1"];
    assert_invalidates(&site, write, &["/rooms/1?date=a"], &kept);
    let write = with_json(&site, "/by/both", &json!({ "room": [1, 2], "date": "a" }));
    let invalidated = ["/rooms/1?date=a", "/rooms/2?date=a"];
    assert_invalidates(&site, write, &invalidated, &["/rooms/1?date=b", "/rooms/3?date=a"]);
}

fn spellings_of_one_number_in_paths_queries_and_content_are_one_instance(tier: Tier) {
    let site = Site::start(tier, RULES);
    let reads = ["/users/007", "/users/7", "/users/7.0", "/posts?author=7", "/posts?author=007"];
    for write in ["/by/path/7", "/by/path/007", "/by/path/7.0"] {
        assert_invalidates(&site, site.call("POST", write), &reads, &["/users/70", "/posts?author=70"]);
    }
    for id in [json!(7), json!("7"), json!("007")] {
        let write = with_json(&site, "/by/content", &json!({ "user_id": id }));
        assert_invalidates(&site, write, &reads[..3], &["/users/70"]);
    }
}

fn one_reference_names_an_instance_of_all_families_that_have_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let kept = ["/users/8", "/posts?author=8", "/posts", "/availability?date=7"];
    assert_invalidates(&site, site.call("POST", "/by/path/7"), &["/users/7", "/posts?author=7"], &kept);
}

fn operators_clear_an_instance_of_all_families_that_have_it(tier: Tier) {
    let rules = RULES.replace("\"user\"", "\"user_details\"").replace("\"user:", "\"user_details:");
    let site = Site::start(tier, &rules);
    let warm = ["/users/7", "/posts?author=7", "/users/8", "/posts?author=8"];
    for route in ["/cache/clear/user/7", "/cache/clear/user_id/7", "/cache/instances/user_id/7/clear"] {
        for target in warm {
            site.get(target);
            site.get(target).shows("hit");
        }
        let cleared = site.larder.admin_post(route).has_status(200).json();
        assert_eq!(cleared["success"], json!(true), "{cleared}");
        assert_eq!(cleared["families"], json!(["posts", "user_details"]), "{cleared}");
        assert!(cleared["message"].as_str().unwrap().starts_with("Cache cleared for user"), "{cleared}");
        site.get("/users/7").shows("detail=invalidated");
        site.get("/posts?author=7").shows("detail=invalidated");
        site.get("/users/8").shows("hit");
        site.get("/posts?author=8").shows("hit");
    }
    let unknown = site.larder.admin_post("/cache/instances/usr/7/clear").has_status(404).json();
    assert!(unknown["what_to_do"].as_str().unwrap().contains("user_id"), "{unknown}");
    site.larder.admin_post("/cache/clear/nothing/7").has_status(404);
}

fn a_caller_who_is_known_by_a_cookie_is_not_cleared_by_a_value(tier: Tier) {
    let rules = RULES.replace("caller = \"identity\"", "user_id = \"identity\"").replace("{caller=", "{user_id=");
    let site = Site::start(tier, &rules);
    // A family of the name, and all families with the instance.
    let cleared = site.larder.admin_post("/cache/clear/user/7").has_status(200).json();
    assert_eq!(cleared["families"], json!(["posts", "user"]), "{cleared}");
    assert_eq!(cleared["left_out"][0]["family"], "mine", "{cleared}");
    assert_eq!(cleared["message"], "Cache cleared for user 7", "{cleared}");
    let refused = site.larder.admin_post("/cache/clear/mine/7").has_status(404).json();
    assert!(refused["what_to_do"].as_str().unwrap().contains("POST /cache/clear/mine"), "{refused}");
    let output = larder(Some(&rules), &["check"]).stdout;
    assert!(output.contains("\"*:{user_id}\" does not invalidate mine"), "{output}");
}

fn a_rule_does_not_apply_to_its_exceptions(tier: Tier) {
    let site = Site::start(tier, RULES);
    for excepted in ["/points/preview", "/points/7/validate", "/points/pre%76iew"] {
        assert_invalidates(&site, site.call("POST", excepted).body("{}"), &[], &["/users/7"]);
    }
    // Upstream may take the last ones for other paths.
    for applying in ["/points/7", "/points/preview/x", "/points/./preview", "/points/add/..%2Fpreview"] {
        assert_invalidates(&site, site.call("POST", applying).body("{}"), &["/users/7"], &[]);
    }
}

fn a_family_that_lacks_a_value_is_logged(tier: Tier) {
    let site = Site::start(tier, RULES);
    for _ in 0..3 {
        with_json(&site, "/by/content", &json!({})).send();
        with_json(&site, "/by/content", &json!({ "user_id": 7 })).send();
    }
    let warning = "a write has no value for a reference";
    eventually("it is logged", || site.larder.log().contains(warning));
    let log = site.larder.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
    assert!(lines.len() == 1 && lines[0].contains("user:{body.user_id}"), "{lines:?}");
}

/// Stores the response to a GET, which upstream sends on a connection of its own.
fn store(bench: &Bench, target: &str) {
    let mut client = bench.client(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nuser");
    client.head();
    assert_eq!(client.take(4), "user");
}

fn is_stored(bench: &Bench, target: &str) -> bool {
    let fields = "Host: localhost\r\nCache-Control: only-if-cached";
    bench.client(&format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n")).head()[0].contains("200")
}

#[test]
fn an_answer_before_the_end_of_the_content_invalidates_the_family_and_its_end_what_it_names() {
    let bench = Bench::start(&RULES.replace("[server]", "[server]\nreinvalidate_after = \"1h\""));
    for target in ["/users/7", "/users/8"] {
        store(&bench, target);
        assert!(is_stored(&bench, target));
    }
    let (part, rest) = (format!("{{\"x\":\"{}", "x".repeat(70_000)), "\",\"user_id\":7}");
    let length = part.len() + rest.len();
    let fields = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}");
    let mut client = bench.client(&format!("POST /by/content HTTP/1.1\r\n{fields}\r\n\r\n{part}"));
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.take(part.len());
    upstream.send("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.head()[0], "HTTP/1.1 202 Accepted");
    for target in ["/users/7", "/users/8"] {
        assert!(!is_stored(&bench, target), "its user is not known yet: {target}");
        store(&bench, target);
        assert!(is_stored(&bench, target));
    }
    client.send(rest);
    assert_eq!(upstream.take(rest.len()), rest);
    eventually("its user is invalidated", || !is_stored(&bench, "/users/7"));
    assert!(is_stored(&bench, "/users/8"));
}

#[test]
fn a_killed_proxys_write_invalidates_the_family_unless_its_content_was_known() {
    let limits = "[server]\nconnect_timeout = \"1s\"\nupstream_timeout = \"3s\"\nmax_rule_body = \"256KiB\"";
    let rules = RULES.replace("[server]\nmax_rule_body = \"256KiB\"", limits);
    for is_known in [true, false] {
        let mut site = Site::start(Tier::Redis, &rules);
        let other = site.another();
        for target in ["/users/7", "/users/8"] {
            other.get(target).shows("stored");
        }
        let gate = site.upstream.hold_next("POST /by/content");
        let write = with_json(&site, "/by/content", &json!({ "user_id": 7 }));
        // Content that upstream has to ask for is not read before the write is announced.
        let write = if is_known { write } else { write.header("Expect", "100-continue") }.start();
        gate.wait_for(1);
        site.larder.kill();
        write.abandon();
        eventually("another proxy carries it out", || other.get("/users/7").text() != "/users/7 #1");
        assert_eq!(other.get("/users/8").text() == "/users/8 #1", is_known);
        gate.open();
    }
}

#[test]
fn explain_and_check_say_which_instances_are_known() {
    let rows: [(&[&str], &[&str]); 6] = [
        (&["explain", "POST", "/by/query?date=a"], &["availability:a"]),
        (&["explain", "POST", "/by/content"], &["user:{body.user_id}", "which explain does not have"]),
        (&["explain", "POST", "/by/query"], &["availability:{query.date}: there is no such value"]),
        (&["explain", "GET", "/availability?date=a"], &["date=a", "availability:a"]),
        (&["explain", "GET", "/availability"], &["the request has no query:date"]),
        (&["check"], &["instance tenant = header:x-tenant", "except /points/preview /points/.*/validate"]),
    ];
    for (arguments, expected) in rows {
        let output = larder(Some(RULES), arguments).stdout;
        for part in expected {
            assert!(output.contains(part), "{arguments:?}: {part}: {output}");
        }
    }
}

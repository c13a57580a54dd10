//! The caching guides of four systems, walked line by line with `examples/*/rules.toml` and a sample API of each.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::client::Call;
use crate::support::redis::RedisServer;
use crate::support::{Larder, Plan, Response, Tier, eventually};

#[path = "../../examples/systems/api.rs"]
mod api;
#[path = "../../examples/demo/hotel.rs"]
mod hotel;
#[path = "../../examples/systems/lexikon.rs"]
mod lexikon;
#[path = "../../examples/systems/myhibachi.rs"]
mod myhibachi;
#[path = "../../examples/systems/treebeard.rs"]
mod treebeard;

use api::Api;

on_both_tiers! {
    hita_invalidates_what_its_patterns_say,
    hita_has_the_management_endpoints_of_its_guide,
    myhibachi_shares_the_dashboard_among_staff_alone,
    myhibachi_invalidates_what_the_guide_says_and_no_other_date,
    treebeard_warms_caches_nulls_and_invalidates_by_tag,
    treebeard_serves_stale_plans_while_the_database_is_slow,
    lexikon_keeps_the_entries_of_a_caller_whose_token_rotates,
    lexikon_writes_through_and_never_caches_secrets,
    lexikon_clears_everything_of_a_user,
}

/// The host that the rules name for warming.
const HOST: &str = "127.0.0.1:8080";
const SECRET: &str = "a-secret-for-tests-only-0123456789";

/// A sample API, and Larder before it.
struct System {
    larder: Larder,
    redis: Option<RedisServer>,
    /// Ends the API when it is dropped.
    _runtime: tokio::runtime::Runtime,
}

impl System {
    #[track_caller]
    fn start(tier: Tier, name: &str, api: Box<dyn Api>) -> System {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        runtime.spawn(api::serve(api, listener));
        let path = format!("{}/examples/{name}/rules.toml", env!("CARGO_MANIFEST_DIR"));
        let rules = std::fs::read_to_string(path).unwrap();
        let rules: String =
            rules.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n");
        let redis = (tier == Tier::Redis).then(RedisServer::start);
        let rules = match redis {
            Some(_) => format!("{rules}\n[store]\nnamespace = \"{name}\"\n"),
            None => rules,
        };
        let plan = Plan::new(&format!("http://{address}")).rules(&rules).environment("LEXIKON_JWT_SECRET", SECRET);
        let plan = redis.iter().fold(plan, |plan, redis| plan.redis(&redis.url()));
        System { larder: plan.start(), redis, _runtime: runtime }
    }

    fn call(&self, method: &str, target: &str) -> Call {
        self.larder.call(method, target).header("Host", HOST)
    }

    #[track_caller]
    fn get(&self, target: &str) -> Response {
        self.call("GET", target).send()
    }

    #[track_caller]
    fn get_as(&self, token: &str, target: &str) -> Response {
        self.call("GET", target).header("Authorization", &format!("Bearer {token}")).send()
    }

    #[track_caller]
    fn send(&self, method: &str, target: &str, token: &str, content: &Value) -> Response {
        let call = self.call(method, target).header("Authorization", &format!("Bearer {token}"));
        call.header("Content-Type", "application/json").body(content.to_string()).send()
    }
}

/// The hotel of the demo.
struct Hita(hotel::Hotel);

impl Api for Hita {
    fn answer(&mut self, call: &api::Call) -> api::Answer {
        let authorization = call.token.as_ref().map(|token| format!("Bearer {token}")).unwrap_or_default();
        let Some(caller) = hotel::Caller::of(&authorization) else {
            return api::Answer::error(http::StatusCode::UNAUTHORIZED, "send a token");
        };
        let path = format!("/{}", call.path.join("/"));
        let query: Vec<String> = call.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let content = call.content.to_string();
        let answer = self.0.answer(caller, &call.method, &path, &query.join("&"), content.as_bytes());
        api::Answer { status: answer.status, ..api::Answer::ok(answer.body) }
    }
}

fn hita(tier: Tier) -> System {
    System::start(tier, "hita", Box::new(Hita(hotel::Hotel::new())))
}

/// A read of each family, in the guide's order of TTLs.
const HITA_READS: [(&str, &str, i64); 5] = [
    ("user_stats", "/v1.0/user/stats", 300),
    ("user_list", "/v1.0/users", 60),
    ("user_details", "/v1.0/user/details/1", 180),
    ("dashboard_stats", "/v1.0/dashboard/stats", 600),
    ("superadmin_user_list", "/v1.0/superadmin/users", 900),
];

fn hita_invalidates_what_its_patterns_say(tier: Tier) {
    let system = hita(tier);
    let read = |path: &str| system.get_as("superadmin", path).has_status(200);
    for (family, path, ttl) in HITA_READS {
        read(path);
        let left = read(path).shows("hit").ttl();
        assert!((ttl - 30..=ttl).contains(&left), "{family}: {left} of {ttl} seconds");
    }
    let coarse = ["user_stats", "user_list", "dashboard_stats", "user_details"];
    let rows: [(&str, &str, Value, &[&str]); 6] = [
        ("POST", "/v1.0/user/create", json!({ "name": "Alan", "email": "a@hotel.example" }), &coarse[..3]),
        ("PUT", "/v1.0/user/update/1", json!({ "name": "Augusta" }), &coarse),
        ("POST", "/v1.0/user/2/activate", json!({ "active": false }), &coarse),
        ("POST", "/v1.0/points/add", json!({ "user_id": 1, "points": 5 }), &coarse),
        ("PUT", "/v1.0/permissions/1", json!({ "permissions": ["book"] }), &["user_details"]),
        ("DELETE", "/v1.0/user/delete/4", json!({}), &coarse),
    ];
    for (method, path, content, invalidated) in rows {
        system.send(method, path, "manager", &content).has_status(if path.ends_with("create") {
            201
        } else {
            200
        });
        for (family, read_path, _) in HITA_READS {
            let response = read(read_path);
            let is_fetched_again = response.is("fwd=stale; detail=invalidated");
            assert_eq!(
                is_fetched_again,
                invalidated.contains(&family),
                "{family} after {method} {path}: {response:?}"
            );
        }
    }
    // A write that the API refuses invalidates nothing.
    system.send("DELETE", "/v1.0/user/delete/99", "manager", &json!({})).has_status(404);
    for (_, path, _) in HITA_READS {
        read(path).shows("hit");
    }
    // The dashboard is for all who are logged in, the lists for each caller.
    system.get_as("clerk", "/v1.0/dashboard/stats").has_status(200).shows("hit");
    system.get_as("clerk", "/v1.0/users").has_status(200).shows("fwd=uri-miss");
    system.get_as("thief", "/v1.0/dashboard/stats").has_status(401).hides("hit");
}

fn hita_has_the_management_endpoints_of_its_guide(tier: Tier) {
    let system = hita(tier);
    let read = |path: &str| system.get_as("superadmin", path).has_status(200);
    let admin = |method: &str, path: &str| {
        let json = system.larder.admin_call(method, path).send().json();
        assert_eq!(json["success"], true, "{method} {path}: {json}");
        json
    };
    eventually("the dashboard is warm", || system.get_as("clerk", "/v1.0/dashboard/stats").is("hit"));
    for (_, path, _) in HITA_READS {
        read(path);
    }
    if let Some(redis) = &system.redis {
        eventually("keys are found by their family", || !redis.command(&["KEYS", "hita:user_stats:*"]).is_empty());
    }
    eventually("keys are counted", || {
        admin("GET", "/cache/health/detailed")["detailed_statistics"]["key_counts"]["user_stats_keys"] == 1
    });
    for field in ["status", "used_memory", "connected_clients", "keyspace_hits", "keyspace_misses", "hit_rate"] {
        assert!(!admin("GET", "/cache/health")["cache_info"][field].is_null(), "{field}");
    }
    assert!(admin("GET", "/cache/stats")["key_counts"]["total_keys"].is_u64());
    assert_eq!(admin("GET", "/cache/test")["test_results"]["get_after_delete"], true);
    admin("POST", "/cache/clear/user/1");
    read("/v1.0/user/details/1").shows("detail=invalidated");
    read("/v1.0/user/stats").shows("hit");
    admin("POST", "/cache/clear/user_stats*");
    read("/v1.0/user/stats").shows("detail=invalidated");
    admin("POST", "/cache/warm");
    admin("POST", "/cache/clear");
    read("/v1.0/users").hides("hit");
}

fn myhibachi(tier: Tier) -> System {
    System::start(tier, "myhibachi", Box::new(myhibachi::MyHibachi::new()))
}

fn myhibachi_shares_the_dashboard_among_staff_alone(tier: Tier) {
    let system = myhibachi(tier);
    system.get_as("ann", "/api/bookings/stats").has_status(200).shows("stored");
    let shared = system.get_as("bob", "/api/bookings/stats").has_status(200).shows("hit");
    assert_eq!(shared.json()["total_bookings"], 0);
    system.get("/api/bookings/stats").has_status(401).hides("hit");
    system.get_as("eve", "/api/bookings/stats").has_status(401).hides("hit");
    system.send("POST", "/api/auth/logout", "bob", &json!({})).has_status(200);
    system.get_as("bob", "/api/bookings/stats").has_status(401).hides("hit");
    system.get_as("ann", "/api/bookings/stats").has_status(200).shows("hit");
}

fn myhibachi_invalidates_what_the_guide_says_and_no_other_date(tier: Tier) {
    let system = myhibachi(tier);
    let slots = |date: &str| system.get(&format!("/api/bookings/availability?date={date}&party_size=4"));
    let stats = || system.get_as("ann", "/api/bookings/stats");
    let fill = || {
        for response in [slots("2026-12-01"), slots("2026-12-02"), stats(), system.get("/api/config/settings")] {
            response.has_status(200);
        }
    };
    fill();
    for response in [slots("2026-12-01"), slots("2026-12-02"), stats()] {
        response.shows("hit");
    }
    if let Some(redis) = &system.redis {
        // As the guide writes them.
        let keys = |pattern: &str| redis.command(&["KEYS", pattern]);
        eventually("keys are found by their family", || {
            let keys = keys("myhibachi:booking:*");
            keys.contains("booking:stats") && keys.contains("booking:availability")
        });
        let all = keys("myhibachi:*");
        assert!(all.contains("myhibachi:config") && all.lines().all(|key| key.ends_with(":v1")), "{all}");
        let key = keys("myhibachi:booking:stats:*");
        let left: i64 = redis.command(&["TTL", &key]).parse().unwrap();
        assert!((1..=86_400).contains(&left), "{key}: {left}");
    }
    // Create: statistics, and the slots of that date.
    let booking = json!({ "date": "2026-12-01", "slot": "12:00", "user_id": 1 });
    system.send("POST", "/api/bookings", "ann", &booking).has_status(201);
    slots("2026-12-01").shows("detail=invalidated");
    slots("2026-12-02").shows("hit");
    assert_eq!(stats().shows("detail=invalidated").json()["total_bookings"], 1);
    fill();
    // Confirm: statistics alone.
    system.send("POST", "/api/bookings/1/confirm", "ann", &json!({})).has_status(200);
    slots("2026-12-01").shows("hit");
    assert_eq!(stats().shows("detail=invalidated").json()["confirmed_bookings"], 1);
    fill();
    // Cancel: the date is in the API's answer alone.
    system.send("POST", "/api/bookings/1/cancel", "ann", &json!({})).has_status(200);
    assert_eq!(slots("2026-12-01").shows("detail=invalidated").json()["slots"][0], "12:00");
    slots("2026-12-02").shows("hit");
    // "If function fails, cache is NOT invalidated".
    fill();
    system.send("POST", "/api/bookings", "ann", &json!({ "date": "2026-12-01" })).has_status(422);
    slots("2026-12-01").shows("hit");
    // config:* and user:*
    system.send("PUT", "/api/config/settings/currency", "ann", &json!("EUR")).has_status(200);
    assert_eq!(system.get("/api/config/settings").json()["currency"], "EUR");
    for what in ["profile", "stats"] {
        system.get_as("ann", &format!("/api/users/1/{what}")).has_status(200);
        system.get_as("ann", &format!("/api/users/2/{what}")).has_status(200);
    }
    system.send("DELETE", "/api/users/1", "ann", &json!({})).has_status(200);
    system.get_as("ann", "/api/users/1/profile").has_status(404);
    system.get_as("ann", "/api/users/1/stats").shows("detail=invalidated");
    system.get_as("ann", "/api/users/2/profile").shows("hit");
}

fn treebeard(tier: Tier) -> System {
    System::start(tier, "treebeard", Box::new(treebeard::TreeBeard::new()))
}

fn treebeard_warms_caches_nulls_and_invalidates_by_tag(tier: Tier) {
    let system = treebeard(tier);
    // With the fields of the warming requests: the responses say no Vary, so that any request finds them.
    eventually("the catalog is warm", || {
        let state = system.larder.admin_get("/cache/warm").has_status(200).json();
        !state["reports"].as_array().unwrap().is_empty()
    });
    system.get("/plans/200").shows("hit");
    system.get("/plans/1").shows("hit");
    system.get_as("anybody", "/plans/1").shows("hit");
    let report = system.larder.admin_get("/cache/warm").has_status(200).json();
    assert!(report.to_string().contains("200") || report.to_string().contains("201"), "{report}");
    // Null caching.
    system.get("/plans/999").has_status(404).shows("stored");
    let missing = system.get("/plans/999").has_status(404).shows("hit");
    assert!((1..=60).contains(&missing.ttl()), "60 seconds: {}", missing.ttl());
    // Tags: plans with even numbers are in TX.
    system.send("POST", "/regions/TX/tariffs", "", &json!({ "cents": 99 })).has_status(200);
    assert_eq!(system.get("/plans/2").json()["cents"], 99);
    // By an operator. What is invalidated is warmed again at once.
    let number = |response: Response| response.header("x-request-number").unwrap().to_owned();
    let before = number(system.get("/plans/1").shows("hit"));
    system.larder.admin_post("/cache/groups/region:CA/clear").has_status(200);
    assert_ne!(number(system.get("/plans/1")), before);
    // invalidate_user_cache: everything of one user.
    for user in [1, 2] {
        for what in ["profile", "preferences", "recommendations", "usage?month=2026-10"] {
            system.get(&format!("/users/{user}/{what}")).has_status(200);
        }
    }
    system.send("PUT", "/users/1/preferences", "", &json!({ "green": true })).has_status(200);
    assert_eq!(system.get("/users/1/preferences").json()["green"], true);
    system.get("/users/1/recommendations").shows("detail=invalidated");
    system.get("/users/2/recommendations").shows("hit");
    system.larder.admin_post("/cache/clear/user_id/2").has_status(200);
    system.get("/users/2/recommendations").shows("detail=invalidated");
    let rates = system.larder.admin_get("/cache/stats").json();
    assert!(rates["families"]["recommendations"]["1m"]["hit_rate"].is_number(), "get_key_stats: {rates}");
}

fn treebeard_serves_stale_plans_while_the_database_is_slow(tier: Tier) {
    let system = treebeard(tier);
    eventually("the catalog is warm", || {
        let state = system.larder.admin_get("/cache/warm").has_status(200).json();
        !state["reports"].as_array().unwrap().is_empty()
    });
    system.get("/plans/200").shows("hit");
    system.send("POST", "/slowness", "", &json!({ "milliseconds": 3000 })).has_status(200);
    system.send("PUT", "/plans/200", "", &json!({ "cents": 1 })).has_status(200);
    // The list is marked as stale, and served while it is fetched again.
    let cents = |list: &Response| list.json()["plans"][199]["cents"].clone();
    assert_ne!(cents(&system.get("/plans").has_status(200).shows("hit; detail=soft-invalidated")), 1);
    eventually("it is refreshed", || cents(&system.get("/plans")) == 1);
}

fn lexikon(tier: Tier) -> System {
    System::start(tier, "lexikon", Box::new(lexikon::Lexikon::new(SECRET)))
}

impl System {
    #[track_caller]
    fn token(&self, user: &str) -> String {
        let answer = self.send("POST", "/auth/token", "", &json!({ "user": user }));
        answer.has_status(200).json()["token"].as_str().unwrap().to_owned()
    }
}

fn lexikon_keeps_the_entries_of_a_caller_whose_token_rotates(tier: Tier) {
    let system = lexikon(tier);
    let (first, second, other) = (system.token("123"), system.token("123"), system.token("456"));
    assert_ne!(first, second);
    system.get_as(&first, "/terms?page=1").shows("stored");
    system.get_as(&second, "/terms?page=1").shows("hit");
    let others = system.get_as(&other, "/terms?page=1").shows("fwd=uri-miss").json();
    assert_eq!(others["terms"][0]["name"], "redis");
    let forged = format!("{}x", &first[..first.len() - 1]);
    system.get_as(&forged, "/terms?page=1").has_status(401).hides("hit");
    // A new term is in its author's list, in searches and in its project, and nowhere else.
    system.get("/terms/search?q=py").shows("stored");
    system.get("/projects/456/terms").shows("stored");
    system.get("/projects/789/terms").shows("stored");
    let term = json!({ "name": "pypi" });
    system.send("POST", "/projects/456/terms", &second, &term).has_status(201);
    assert_eq!(system.get_as(&first, "/terms?page=1").json()["terms"].as_array().unwrap().len(), 2);
    system.get_as(&other, "/terms?page=1").shows("hit");
    assert_eq!(system.get("/terms/search?q=py").json()["terms"].as_array().unwrap().len(), 2);
    assert_eq!(system.get("/projects/456/terms").json()["terms"].as_array().unwrap().len(), 3);
    system.get("/projects/789/terms").shows("hit");
}

fn lexikon_writes_through_and_never_caches_secrets(tier: Tier) {
    let system = lexikon(tier);
    let token = system.token("123");
    system.get("/users/123").shows("stored");
    system.get_as(&token, "/users/123").shows("hit");
    system.get("/users/123/settings").shows("stored");
    system.send("PATCH", "/users/123", &token, &json!({ "name": "Ada" })).has_status(200).shows("stored");
    // Of the write: the API is not asked for it.
    assert_eq!(system.get("/users/123").shows("hit").json()["name"], "Ada");
    assert_eq!(system.get_as(&token, "/users/123").shows("hit").json()["name"], "Ada");
    system.get("/users/123/settings").shows("detail=invalidated");
    system.get_as(&token, "/users/123/oauth_accounts").shows("stored");
    system.send("POST", "/users/123/oauth_accounts", &token, &json!({ "provider": "x" })).has_status(201);
    let accounts = system.get_as(&token, "/users/123/oauth_accounts").shows("detail=invalidated").json();
    assert_eq!(accounts["accounts"].as_array().unwrap().len(), 1);
    for _ in 0..2 {
        system.get_as(&token, "/api_keys").has_status(200).hides("hit").hides("stored");
    }
    // A search with its conditions in the content.
    let search = |query: &str| system.send("POST", "/terms/search", &token, &json!({ "query": query }));
    search("py").has_status(200).shows("stored");
    search("redis").has_status(200).shows("fwd=uri-miss");
    assert_eq!(search("py").shows("hit").json()["query"], "py");
    // Freshness is checked on each hit.
    let first = system.get("/stats/live").has_status(200);
    let second = system.get("/stats/live").has_status(200).shows("detail=revalidate-always");
    assert_ne!(first.header("x-request-number"), second.header("x-request-number"), "the API was asked");
}

fn lexikon_clears_everything_of_a_user(tier: Tier) {
    let system = lexikon(tier);
    let (token, other) = (system.token("123"), system.token("456"));
    let reads = ["/users/123", "/users/123/settings"];
    let warm = || {
        for target in reads {
            system.get(target);
            system.get(target).shows("hit");
        }
        for token in [&token, &other] {
            system.get_as(token, "/terms?page=1");
            system.get_as(token, "/terms?page=1").shows("hit");
        }
    };
    for route in ["/cache/clear/user/123", "/cache/clear/user_id/123", "/cache/instances/user_id/123/clear"] {
        warm();
        let cleared = system.larder.admin_post(route).has_status(200).json();
        let expected = json!(["term:list", "user", "user:oauth_accounts", "user:settings"]);
        assert_eq!(cleared["families"], expected, "{route}: {cleared}");
        assert!(cleared["message"].as_str().unwrap().starts_with("Cache cleared for user"), "{cleared}");
        for target in reads {
            system.get(target).shows("detail=invalidated");
        }
        system.get_as(&token, "/terms?page=1").shows("detail=invalidated");
        system.get_as(&other, "/terms?page=1").shows("hit");
    }
    warm();
    let cleared = system.larder.admin_post("/cache/clear/term:list/123").has_status(200).json();
    assert_eq!(cleared["families"], json!(["term:list"]), "{cleared}");
    system.get_as(&token, "/terms?page=1").shows("detail=invalidated");
    system.get("/users/123").shows("hit");
}

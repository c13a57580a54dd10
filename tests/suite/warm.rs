//! `[[warm]]`: what is fetched before a client asks for it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{Gate, Larder, Plan, Reply, Site, Tier, Upstream, eventually, eventually_some, larder};

const FAMILIES: &str = r#"
[[family]]
name = "plan"
path = '/plans/(?<id>\d+)'
ttl  = "1h"

[[family]]
name = "stats"
path = '/stats'
ttl  = "1h"
identity = "none"

[invalidate]
'/plans/(?<id>\d+)/buy' = ["plan:{id}"]
'/prices'               = ["plan"]
'/gifts'                = { families = ["plan"], mode = "soft" }
"#;

const PLANS: &str = "[[warm]]\npaths = [\"/plans/{1..3}\"]\nhost = \"localhost\"\n";

on_both_tiers! {
    what_startup_warms_is_a_hit_for_the_first_client,
    what_is_fresh_is_left_alone_and_what_is_not_is_fetched,
    a_run_follows_the_invalidations_of_its_family_and_no_others,
    a_period_warms_again_and_again,
    operators_warm_all_or_one_family,
    a_run_that_would_fetch_nothing_is_refused,
    the_hottest_of_a_family_are_warmed_with_the_fields_of_their_requests,
    files_openapi_descriptions_and_sitemaps_name_paths,
    an_edit_of_the_tables_takes_effect,
    what_upstream_refuses_is_reported_with_its_reason,
}

fn rules(warm: &str) -> String {
    format!("{FAMILIES}{warm}")
}

/// The report of the latest run, once there is one that fits.
#[track_caller]
fn report(larder: &Larder, fits: impl Fn(&Value) -> bool) -> Value {
    eventually_some("a run has ended", || {
        let state = larder.admin_get("/cache/warm").json();
        state["reports"].as_array()?.iter().find(|report| fits(report)).cloned()
    })
}

fn of(occasion: &'static str) -> impl Fn(&Value) -> bool {
    move |report| report["occasion"] == occasion
}

fn counts(report: &Value) -> [u64; 4] {
    ["fetched", "already_fresh", "not_stored", "failed"].map(|name| report[name].as_u64().unwrap())
}

fn what_startup_warms_is_a_hit_for_the_first_client(tier: Tier) {
    let site = Site::start(tier, &rules(&format!("{PLANS}on = [\"startup\"]\n")));
    let report = report(&site, of("startup"));
    assert_eq!((counts(&report), &report["paths"]), ([3, 0, 0, 0], &3.into()), "{report:#}");
    for plan in 1..=3 {
        site.get(&format!("/plans/{plan}")).shows("hit").carries(&format!("/plans/{plan} #1"));
    }
    let sent = site.upstream.last("GET /plans/1");
    assert_eq!(sent.header("accept-encoding"), Some("gzip, deflate, br, zstd"));
    assert_eq!(sent.header("host"), Some("localhost"));
    assert_eq!(site.metric("larder_warmed_total{result=\"fetched\"}"), 3);
    eventually("it is logged", || site.log().contains("warmed the cache"));
}

fn what_is_fresh_is_left_alone_and_what_is_not_is_fetched(tier: Tier) {
    let site = Site::start(tier, &rules(PLANS));
    site.get("/plans/1").shows("stored");
    site.get("/plans/2").shows("stored");
    site.write("POST", "/plans/2/buy").has_status(200);
    site.admin_post("/cache/warm").has_status(202);
    assert_eq!(counts(&report(&site, of("operator"))), [2, 1, 0, 0]);
    site.get("/plans/1").shows("hit").carries("/plans/1 #1");
    site.get("/plans/2").shows("hit").carries("/plans/2 #2");
    site.write("POST", "/gifts").has_status(200);
    site.admin_post("/cache/warm").has_status(202);
    assert_eq!(counts(&report(&site, |report| report["run"] == 2)), [3, 0, 0, 0], "softly invalidated");
    site.get("/plans/1").shows("hit").carries("/plans/1 #2");
}

fn a_run_follows_the_invalidations_of_its_family_and_no_others(tier: Tier) {
    let site = Site::start(tier, &rules(&format!("{PLANS}on = [\"startup\", \"invalidate\"]\n")));
    report(&site, of("startup"));
    site.write("POST", "/elsewhere").has_status(200);
    // The first write begins a run, and the others come while it fetches.
    let gate = site.upstream.hold_next("GET /plans/2");
    site.write("POST", "/plans/2/buy").has_status(200);
    gate.wait_for(1);
    for _ in 0..2 {
        site.write("POST", "/plans/2/buy").has_status(200);
    }
    site.write("POST", "/prices").has_status(200);
    gate.open();
    let runs = || {
        let state = site.admin_get("/cache/warm").json();
        let reports = state["reports"].as_array().unwrap().clone();
        reports.into_iter().filter(|report| report["occasion"] == "invalidate").collect::<Vec<_>>()
    };
    eventually("all are current again", || {
        (1..=3).all(|plan| site.upstream.count(&format!("GET /plans/{plan}")) >= 2)
    });
    eventually("both runs have ended", || runs().len() >= 2);
    for plan in 1..=3 {
        site.get(&format!("/plans/{plan}")).shows("hit");
    }
    // Without a message from Redis in between there are two.
    assert!(runs().len() <= 3, "{:#?}", runs());
    let fetched: usize = (1..=3).map(|plan| site.upstream.count(&format!("GET /plans/{plan}"))).sum();
    assert!(fetched <= 7, "{fetched}: a run does not cause another");
    // A purge by an operator is an invalidation too.
    let before = runs().len();
    site.admin_post("/cache/clear").has_status(200);
    eventually("a run follows", || runs().len() > before);
    site.get("/plans/1").shows("hit");
}

fn a_period_warms_again_and_again(tier: Tier) {
    let site = Site::start(tier, &rules(&format!("{PLANS}every = \"1s\"\n")));
    site.upstream.on("GET /plans/3", Reply::numbered().stale("max-age=60"));
    eventually("what is stale at once is fetched each time", || site.upstream.count("GET /plans/3") >= 3);
    assert_eq!(site.upstream.count("GET /plans/1"), 1);
    report(&site, of("schedule"));
}

fn operators_warm_all_or_one_family(tier: Tier) {
    let site = Site::start(
        tier,
        &rules("[[warm]]\npaths = [\"/plans/1\", \"/stats\", \"/other\"]\nhost = \"localhost\"\n"),
    );
    let json = site.admin_post("/cache/warm/stats").has_status(202).json();
    assert_eq!((&json["success"], &json["run"]), (&true.into(), &1.into()), "{json:#}");
    let first = report(&site, of("operator"));
    assert_eq!((counts(&first), &first["family"]), ([1, 0, 0, 0], &"stats".into()));
    assert_eq!((site.upstream.count("GET /stats"), site.upstream.count("GET /plans/1")), (1, 0));
    // The second one waits for upstream, and a third is refused meanwhile.
    let gate = site.upstream.hold_next("GET /plans/1");
    site.admin_post("/cache/warm").has_status(202);
    gate.wait_for(1);
    let state = site.admin_get("/cache/warm").json();
    assert_eq!((&state["run"]["run"], &state["run"]["paths"]), (&2.into(), &3.into()), "{state:#}");
    let refused = site.admin_post("/cache/warm").has_status(409).json();
    assert_eq!((&refused["success"], &refused["run"]), (&false.into(), &2.into()), "{refused:#}");
    gate.open();
    // Without a lifetime of its own, what no family claims is not stored.
    let second = report(&site, |report| report["run"] == 2);
    assert_eq!(counts(&second), [1, 1, 1, 0], "{second:#}");
    assert_eq!(second["reasons"][0]["example"], "/other", "{second:#}");
    let unknown = site.admin_post("/cache/warm/plans").has_status(404).json();
    assert_eq!(unknown["what_to_do"], "did you mean \"plan\"?");
}

fn a_run_that_would_fetch_nothing_is_refused(tier: Tier) {
    let site = Site::start(tier, &rules("[[warm]]\nfamily = \"plan\"\nhottest = 2\n"));
    let unnamed = site.admin_post("/cache/warm/stats").has_status(409).json();
    assert_eq!(unnamed["error"], "no [[warm]] names a path of \"stats\"");
    for target in ["/cache/warm/plan", "/cache/warm"] {
        let refused = site.admin_post(target).has_status(409).json();
        assert!(refused["error"].as_str().unwrap().contains("nothing would be fetched"), "{refused:#}");
        assert!(refused["what_to_do"].as_str().unwrap().contains("ask again after some requests"), "{refused:#}");
    }
    assert_eq!(site.admin_get("/cache/warm").json()["run"], Value::Null);
    site.get("/plans/1").shows("stored");
    site.get("/plans/1").shows("hit");
    site.admin_post("/cache/warm/plan").has_status(202);
    report(&site, of("operator"));
    // A document that has no path of the family, and one that is not there.
    let documents = "[[warm]]\nopenapi = \"/openapi.json\"\nhost = \"localhost\"\n";
    std::fs::write(site.rules_file(), rules(documents)).unwrap();
    site.admin_post("/rules/reload").has_status(200);
    site.upstream
        .on("GET /openapi.json", Reply::new("{\"openapi\": \"3.1.0\", \"paths\": {\"/stats\": {\"get\": {}}}}"));
    let refused = site.admin_post("/cache/warm/plan").has_status(409).json();
    assert!(refused["problems"].as_array().unwrap().is_empty(), "{refused:#}");
    site.upstream.on("GET /openapi.json", Reply::status(500));
    let refused = site.admin_post("/cache/warm/plan").has_status(409).json();
    assert!(refused["problems"][0].as_str().unwrap().contains("upstream answered 500"), "{refused:#}");
    assert!(refused["what_to_do"].as_str().unwrap().contains("problems"), "{refused:#}");
}

#[test]
fn warming_says_that_redis_does_not_answer() {
    let mut site = Site::start(Tier::Redis, &rules(PLANS));
    let warming = |site: &Site| {
        let state = site.admin_get("/cache/warm").json();
        (state["warming"].as_str().unwrap().to_owned(), state["explanation"].as_str().unwrap().to_owned())
    };
    eventually("it warms", || warming(&site).0 == "here");
    site.redis().kill();
    eventually("it does not", || warming(&site).0 == "redis-away");
    assert!(warming(&site).1.starts_with("Redis does not answer, so no proxy warms"), "{:?}", warming(&site));
    let refused = site.admin_post("/cache/warm").has_status(503).json();
    assert!(refused["what_to_do"].as_str().unwrap().contains("could be stored"), "{refused:#}");
    site.redis().restart();
    eventually("it warms again", || warming(&site).0 == "here");
}

fn the_hottest_of_a_family_are_warmed_with_the_fields_of_their_requests(tier: Tier) {
    let site = Site::start(tier, &rules("[[warm]]\nfamily = \"plan\"\nhottest = 2\n"));
    site.upstream.on("GET /plans/1", Reply::numbered().header("Vary", "Accept-Language"));
    let get = |plan: u32| site.call("GET", &format!("/plans/{plan}")).header("Accept-Language", "de").send();
    for (plan, hits) in [(1, 3), (2, 1), (3, 2)] {
        get(plan).shows("stored");
        (0..hits).for_each(|_| drop(get(plan).shows("hit")));
    }
    site.write("POST", "/prices").has_status(200);
    site.admin_post("/cache/warm").has_status(202);
    assert_eq!(counts(&report(&site, of("operator"))), [2, 0, 0, 0]);
    get(1).shows("hit").carries("/plans/1 #2");
    get(3).shows("hit").carries("/plans/3 #2");
    get(2).shows("detail=invalidated");
    assert_eq!(site.upstream.requests("GET /plans/1")[1].header("accept-language"), Some("de"));
}

fn files_openapi_descriptions_and_sitemaps_name_paths(tier: Tier) {
    let warm = "[[warm]]\nfile = \"warm.txt\"\nopenapi = \"/openapi.json\"\nhost = \"localhost\"\n\
                [[warm]]\nsitemap = \"/sitemap.xml\"\n[[warm]]\nfile = \"missing.txt\"\nhost = \"localhost\"\n";
    let site = Site::start(tier, &rules(warm));
    std::fs::write(site.dir.path().join("warm.txt"), "# the first\n/plans/1\n").unwrap();
    let description =
        r#"{ "openapi": "3.1.0", "paths": { "/stats": { "get": {} }, "/plans/{id}": { "get": {} } } }"#;
    site.upstream.on("GET /openapi.json", Reply::new(description));
    let index = "<sitemapindex><sitemap><loc>http://localhost/pages.xml</loc></sitemap></sitemapindex>";
    site.upstream.on("GET /sitemap.xml", Reply::new(index));
    site.upstream
        .on("GET /pages.xml", Reply::new("<urlset><url><loc>http://localhost/plans/7</loc></url></urlset>"));
    site.admin_post("/cache/warm").has_status(202);
    let report = report(&site, of("operator"));
    assert_eq!(counts(&report), [3, 0, 0, 0], "{report:#}");
    assert!(report["problems"][0].as_str().unwrap().contains("missing.txt"), "{report:#}");
    for target in ["/plans/1", "/stats", "/plans/7"] {
        site.get(target).shows("hit");
    }
}

fn an_edit_of_the_tables_takes_effect(tier: Tier) {
    let site = Site::start(tier, &rules(""));
    let refused = site.admin_post("/cache/warm").has_status(409).json();
    assert!(refused["error"].as_str().unwrap().contains("no [[warm]]"), "{refused:#}");
    assert_eq!(site.admin_get("/cache/warm").json()["warming"], "off");
    let text = std::fs::read_to_string(site.rules_file()).unwrap();
    std::fs::write(site.rules_file(), format!("{text}{PLANS}every = \"1s\"\n")).unwrap();
    report(&site, of("schedule"));
    site.get("/plans/1").shows("hit");
    let state = site.admin_get("/cache/warm").json();
    assert_eq!(
        (&state["warming"], &state["tables"][0]["warms"]),
        (&"here".into(), &"3 paths".into()),
        "{state:#}"
    );
}

fn what_upstream_refuses_is_reported_with_its_reason(tier: Tier) {
    let site = Site::start(tier, &rules(&PLANS.replace("{1..3}", "{1..5}")));
    site.upstream.on("GET /plans/1", Reply::status(500));
    site.upstream.on("GET /plans/2", Reply::status(401));
    site.upstream.on("GET /plans/3", Reply::none());
    site.upstream.on("GET /plans/4", Reply::numbered().cached("private"));
    site.admin_post("/cache/warm").has_status(202);
    let report = report(&site, of("operator"));
    assert_eq!(counts(&report), [1, 0, 1, 3], "{report:#}");
    let reasons: Vec<(&str, &str)> = report["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| (reason["example"].as_str().unwrap(), reason["reason"].as_str().unwrap()))
        .collect();
    let reason = |path: &str| reasons.iter().find(|(example, _)| *example == path).unwrap().1;
    assert!(reason("/plans/1").starts_with("upstream answered 500; its log says why"), "{reasons:?}");
    assert!(reason("/plans/2").starts_with("upstream answered 401; let [[warm]] send credentials"), "{reasons:?}");
    let is_private =
        "the response is private to one user (RFC 9111 §5.2.2.7); have the API leave the directive out";
    assert!(reason("/plans/4").starts_with(is_private), "{reasons:?}");
    site.upstream.on("GET /plans/1", Reply::numbered());
    site.get("/plans/1").carries("/plans/1 #2").shows("stored");
}

#[test]
fn what_was_hot_at_this_hour_on_earlier_days_is_warmed() {
    let warm = "[[warm]]\nfamily = \"plan\"\nhottest = 2\npredict = true\n";
    let site = Site::start(Tier::Redis, &format!("[store]\nnamespace = \"hotel\"\n{}", rules(warm)));
    let redis = site.redis.as_ref().unwrap();
    // A prediction is for the time in five minutes.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600;
    let plant = |hour: u64, score: &str, name: &str| {
        redis.command(&["ZADD", &format!("{{hotel}}:hour:{hour}"), score, name]);
    };
    for hour in [now, now + 1] {
        plant(hour - 24, "3", "localhost /plans/1");
        plant(hour - 48, "4", "localhost /plans/1");
        plant(hour - 24, "5", "localhost /plans/2?page=1");
        plant(hour - 24, "1", "localhost /plans/3");
        // Not of the family, and no reads at all.
        for name in ["localhost /stats", "nonsense", "localhost plans", "a b c"] {
            plant(hour - 24, "9", name);
        }
    }
    site.admin_post("/cache/warm").has_status(202);
    assert_eq!(counts(&report(&site, of("operator"))), [2, 0, 0, 0]);
    site.get("/plans/1").shows("hit");
    site.get("/plans/2?page=1").shows("hit");
    assert_eq!((site.upstream.count("GET /plans/3"), site.upstream.count("GET /stats")), (0, 0));
    // What clients hit now is recorded for the days that follow.
    site.admin_post("/cache/warm").has_status(202);
    eventually("it is recorded", || {
        let names = redis.command(&["KEYS", "{hotel}:hour:*"]);
        let hours =
            names.lines().filter(|name| [now, now + 1].iter().any(|hour| name.ends_with(&format!(":{hour}"))));
        let recorded: Vec<String> = hours.map(|name| redis.command(&["ZRANGE", name, "0", "-1"])).collect();
        recorded.iter().any(|members| members.contains("localhost /plans/1"))
    });
}

#[test]
fn headers_come_from_the_environment_and_are_not_logged() {
    let warm = "[[warm]]\npaths = [\"/stats\"]\nhost = \"localhost\"\nheaders = { Authorization = \"Bearer ${WARM_TOKEN}\" }\n";
    let upstream = Upstream::start();
    let rules = format!("[log]\nlevel = \"trace\"\n{}", rules(warm));
    let site = Plan::new(&upstream.url()).rules(&rules).environment("WARM_TOKEN", "s3cret").start();
    site.admin_post("/cache/warm").has_status(202);
    assert_eq!(counts(&report(&site, of("operator"))), [1, 0, 0, 0]);
    assert_eq!(upstream.last("GET /stats").header("authorization"), Some("Bearer s3cret"));
    // For every caller: the family says that all get the same response.
    site.call("GET", "/stats").header("Authorization", "Bearer other").send().shows("hit");
    let shown = site.admin_get("/cache/warm").text();
    assert!(!site.log().contains("s3cret") && !shown.contains("s3cret"));
}

#[test]
fn concurrency_bounds_the_requests_at_upstream() {
    let warm = PLANS.replace("{1..3}", "{1..9}") + "concurrency = 3\n";
    let site = Site::start(Tier::Embedded, &rules(&warm));
    let gates: Vec<Gate> = (1..=9).map(|plan| site.upstream.hold_next(&format!("GET /plans/{plan}"))).collect();
    site.admin_post("/cache/warm").has_status(202);
    (0..3).for_each(|at| gates[at].wait_for(1));
    assert!(gates[3..].iter().all(|gate| gate.arrived() == 0), "three at a time");
    gates[1].open();
    gates[3].wait_for(1);
    assert!(gates[4..].iter().all(|gate| gate.arrived() == 0), "one more for each that has ended");
    drop(gates);
    assert_eq!(counts(&report(&site, of("operator"))), [9, 0, 0, 0]);
}

#[test]
fn a_rate_spaces_the_requests_out() {
    let warm = PLANS.replace("{1..3}", "{1..11}") + "concurrency = 11\nrate = 20\n";
    let site = Site::start(Tier::Embedded, &rules(&warm));
    site.admin_post("/cache/warm").has_status(202);
    let report = report(&site, of("operator"));
    assert_eq!(counts(&report), [11, 0, 0, 0]);
    assert!(report["seconds"].as_f64().unwrap() >= 0.5, "{report:#}");
}

#[test]
fn clients_go_first_where_upstream_has_no_free_place() {
    let rules = format!("[server]\nmax_upstream_requests = 1\n{}", rules(PLANS));
    let site = Site::start(Tier::Embedded, &rules);
    let gate = site.upstream.hold_next("GET /slow");
    let client = site.call("GET", "/slow").start();
    gate.wait_for(1);
    site.admin_post("/cache/warm").has_status(202);
    eventually("the run has begun", || site.admin_get("/cache/warm").json()["run"]["paths"] == 3);
    // Another client comes after the run, and is served before it.
    let second = site.upstream.hold_next("GET /second");
    let waiting = site.call("GET", "/second").start();
    eventually("it waits for the place", || site.metric("larder_upstream_queued") == 1);
    assert_eq!(site.admin_get("/cache/warm").json()["run"]["done"], 0);
    gate.open();
    second.wait_for(1);
    assert_eq!(site.upstream.count("GET /plans/1"), 0);
    second.open();
    drop((client.response(), waiting.response()));
    assert_eq!(counts(&report(&site, of("operator"))), [3, 0, 0, 0]);
}

#[test]
fn of_a_fleet_one_proxy_warms_and_the_others_hit_what_it_stored() {
    let site = Site::start(Tier::Redis, &rules(&format!("{PLANS}on = [\"startup\"]\n")));
    let other = site.another();
    report(&site, of("startup"));
    site.wait_for_entries(3);
    for larder in [&site.larder, &other] {
        for plan in 1..=3 {
            larder.get(&format!("/plans/{plan}")).shows("hit");
        }
    }
    assert!((1..=3).all(|plan| site.upstream.count(&format!("GET /plans/{plan}")) == 1));
    let role = |larder: &Larder| larder.admin_get("/cache/warm").json()["warming"].as_str().unwrap().to_owned();
    eventually("the other one knows", || role(&other) == "elsewhere");
    assert_eq!(role(&site), "here");
}

#[test]
fn when_the_proxy_that_warms_is_killed_another_one_takes_over() {
    let upstream = Upstream::start();
    // Held before Larder starts: it warms at once.
    let gate = upstream.hold_all("GET /plans/2");
    let warm = format!("{PLANS}on = [\"startup\", \"invalidate\"]\n");
    let mut site = Site::start_before(upstream, Tier::Redis, &rules(&warm));
    gate.wait_for(1);
    let other = site.another();
    site.larder.kill();
    gate.open();
    let report = report(&other, of("startup"));
    assert_eq!(report["paths"], 3, "{report:#}");
    for plan in 1..=3 {
        other.get(&format!("/plans/{plan}")).shows("hit");
    }
}

#[test]
fn the_proxy_that_warms_follows_the_writes_of_the_others() {
    let site = Site::start(Tier::Redis, &rules(&format!("{PLANS}on = [\"startup\", \"invalidate\"]\n")));
    report(&site, of("startup"));
    let other = site.another();
    other.write("POST", "/plans/2/buy").has_status(200);
    eventually("it is fetched again", || site.upstream.count("GET /plans/2") == 2);
    eventually("and a hit", || other.call("HEAD", "/plans/2").send().is("hit"));
    assert_eq!((site.upstream.count("GET /plans/1"), site.upstream.count("GET /plans/2")), (1, 2));
}

#[test]
fn the_command_warms_and_waits() {
    let site = Site::start(Tier::Embedded, &rules(PLANS));
    let admin = format!("http://{}", site.admin);
    let run = |arguments: &[&str]| larder(None, &[&["warm", "--admin", &admin], arguments].concat());
    let exit = run(&["--wait", "--family", "plan"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stdout.contains("3 fetched, 0 already fresh, 0 not stored, 0 failed"), "{exit:?}");
    let exit = run(&[]);
    assert!(exit.code == Some(0) && exit.stdout.contains("begun"), "{exit:?}");
    report(&site, |report| report["run"] == 2);
    site.upstream.on("GET /plans/1", Reply::status(503));
    site.admin_post("/cache/clear").has_status(200);
    let exit = run(&["--wait"]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(
        exit.stdout.contains(
            "1 failed: upstream answered 503; its log says why; the next run asks again (such as /plans/1)"
        ),
        "{exit:?}"
    );
    let exit = run(&["--family", "plans"]);
    assert!(exit.code == Some(1) && exit.stderr.contains("did you mean \"plan\"?"), "{exit:?}");
    assert_eq!(larder(None, &["warm", "--admin", "nowhere"]).code, Some(2));
}

#[test]
fn explain_says_which_table_fetches_a_path() {
    let explained = |url: &str| larder(Some(&rules(PLANS)), &["explain", "GET", url]).stdout;
    let output = explained("http://localhost/plans/2");
    assert!(output.contains("[[warm]] on line 17 fetches 3 paths: by POST /cache/warm"), "{output}");
    for url in ["http://localhost/plans/4", "http://other/plans/2"] {
        assert!(!explained(url).contains("[[warm]]"), "{url}");
    }
}

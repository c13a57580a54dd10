//! Several proxies on a real Redis Cluster: what coordinates is in one slot, entries are everywhere, and a failover costs
//! misses and never a stale response.

use std::collections::BTreeSet;

use crate::support::load::RULES as REGISTERS;
use crate::support::{Larder, Load, Plan, RedisCluster, Upstream, eventually, eventually_some, load};

const META: &str = "{hotel}:meta";

const RULES: &str = r#"
[store]
namespace = "hotel"
timeout = "1s"
connect_timeout = "2s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "600s"

[invalidate]
'/users/(?<id>\d+)/activate' = ["user:{id}"]
"#;

struct Hotel {
    upstream: Upstream,
    cluster: RedisCluster,
    plan: Plan,
}

fn hotel(rules: &str) -> Hotel {
    let (upstream, cluster) = (Upstream::start(), RedisCluster::start());
    let plan = Plan::new(&upstream.url()).rules(rules).redis(&cluster.url());
    Hotel { upstream, cluster, plan }
}

/// Rules of registers under load: writes that nobody can be told of are refused.
fn registers(wait_replicas: u32) -> String {
    format!(
        "{REGISTERS}\n[store]\nnamespace = \"hotel\"\ntimeout = \"1s\"\nconnect_timeout = \"2s\"\nlease = \"300ms\"\n\
         on_outage = \"refuse\"\nwait_replicas = {wait_replicas}\n"
    )
}

fn target(user: usize) -> String {
    format!("/users/{user}")
}

/// Has this proxy store the responses for so many users.
fn fill(hotel: &Hotel, larder: &Larder, users: usize) {
    for user in 0..users {
        larder.get(&target(user)).has_status(200);
    }
    eventually("all entries are in the cluster", || {
        hotel.cluster.entries("hotel:*:v1").iter().take(3).sum::<usize>() >= users
    });
}

/// The keys of all entries, page by page, and how many pages there are.
fn listed(larder: &Larder) -> (Vec<String>, usize) {
    let (mut keys, mut cursor) = (Vec::new(), String::new());
    for pages in 1..1000 {
        let page = larder.admin_get(&format!("/cache/entries?limit=7{cursor}")).has_status(200).json();
        let entries = page["entries"].as_array().unwrap();
        // A step of Redis may bring some more.
        assert!(entries.len() < 20, "{page:#}");
        keys.extend(entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                assert_eq!(page["complete"], true, "{page:#}");
                return (keys, pages);
            }
        }
    }
    panic!("the walk does not end");
}

#[test]
fn entries_are_listed_over_all_nodes_and_one_is_removed_from_the_fleet() {
    let hotel = hotel(RULES);
    let (larder, other) = (hotel.plan.start(), hotel.plan.start());
    fill(&hotel, &larder, 60);
    let (keys, pages) = listed(&other);
    let once: BTreeSet<&String> = keys.iter().collect();
    assert_eq!((keys.len(), once.len()), (60, 60), "{keys:?}");
    assert!(pages >= 60 / 20, "{pages} pages");
    // One of each node, so that the keeper makes no difference.
    let names = |at: usize| hotel.cluster.nodes[at].command(&["KEYS", "hotel:*:v1"]);
    for at in 0..3 {
        let name = names(at).lines().next().unwrap().to_owned();
        let user: usize = name.split(':').nth(2).unwrap().parse().unwrap();
        let is_of = |key: &&&String| key.starts_with(&format!("user:{user}:"));
        let key = once.iter().find(is_of).unwrap_or_else(|| panic!("{name} is not in {keys:?}"));
        let path = format!("/cache/entries/{}", key.replace(':', "%3A"));
        larder.admin_get(&path).has_status(200);
        other.admin_call("DELETE", &path).send().has_status(200);
        assert!(!names(at).contains(&name), "node {at} has it still");
        larder.admin_get(&path).fails_with(404);
        larder.get(&target(user)).hides("hit").carries(&format!("/users/{user} #2"));
    }
    larder.get("/users/8").has_status(200);
}

/// What a node that is down holds is left out, and the page says so.
#[test]
fn a_listing_says_when_a_node_could_not_be_asked() {
    let mut hotel = hotel(RULES);
    let larder = hotel.plan.start();
    fill(&hotel, &larder, 60);
    // Neither that of the marks nor its replica, so that a failover does not bring the entries back.
    let keeper = hotel.cluster.keeper(META);
    let lost = (0..3).find(|at| *at != keeper).unwrap();
    let replica = hotel.cluster.replica_of(lost);
    [lost, replica].into_iter().for_each(|at| hotel.cluster.nodes[at].kill());
    let is_told = || {
        let (mut found, mut cursor) = (0, String::new());
        loop {
            let page = larder.admin_get(&format!("/cache/entries?limit=7{cursor}"));
            if page.status != 200 {
                return false;
            }
            let page = page.json();
            found += page["entries"].as_array().unwrap().len();
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return page["complete"] == false && (10..60).contains(&found),
            }
        }
    };
    eventually("what the others hold is listed, and that it is not all", is_told);
}

#[test]
fn entries_are_distributed_and_shared_and_coordination_keys_are_in_one_slot() {
    let hotel = hotel(RULES);
    let (larder, other) = (hotel.plan.start(), hotel.plan.start());
    fill(&hotel, &larder, 60);
    let entries = hotel.cluster.entries("hotel:*:v1");
    assert!(entries[..3].iter().all(|count| *count > 5), "{entries:?}");
    let keeper = hotel.cluster.keeper(META);
    let coordination = hotel.cluster.entries("{hotel}*");
    assert!(coordination[keeper] >= 4, "{coordination:?}");
    assert!((0..3).all(|at| at == keeper || coordination[at] == 0), "{coordination:?}");
    for user in 0..60 {
        other.get(&target(user)).shows("hit").carries(&format!("/users/{user} #1"));
    }
    let counted = || other.admin_get("/cache/stats").json()["key_counts"]["total_keys"] == 60;
    eventually("the entries of all nodes are counted", counted);
    other.write("POST", "/users/7/activate").has_status(200);
    larder.get("/users/7").shows("detail=invalidated").carries("/users/7 #2");
    larder.get("/users/8").shows("hit");
    other.write("POST", "/users/8/activate").has_status(200);
    other.get("/users/8").hides("hit").carries("/users/8 #2");
}

#[test]
fn one_node_is_enough_to_find_the_others() {
    let hotel = hotel(RULES);
    for node in &hotel.cluster.nodes[..3] {
        let url = format!("valkey+cluster://127.0.0.1:1,127.0.0.1:{}", node.port());
        let larder = Plan::new(&hotel.upstream.url()).rules(RULES).redis(&url).start();
        larder.get("/users/1").has_status(200);
        eventually("hits begin", || larder.get("/users/1").is("hit"));
    }
}

#[test]
fn a_killed_node_without_marks_costs_only_misses_until_its_replica_takes_over() {
    let mut hotel = hotel(&format!("{RULES}\n").replace("[[family]]", "coherence = \"strict\"\n[[family]]"));
    let larder = hotel.plan.start();
    fill(&hotel, &larder, 60);
    // A process that has nothing in memory and asks for every hit.
    let other = hotel.plan.start();
    let marks = hotel.cluster.keeper(META);
    let victim = (0..3).find(|at| *at != marks).unwrap();
    let port = hotel.cluster.nodes[victim].port();
    hotel.cluster.nodes[victim].kill();
    let (mut hits, mut misses) = (0, 0);
    for user in 0..60 {
        let answer = other.get(&target(user)).has_status(200);
        assert!(!answer.is("detail=store-away"), "the link is up: {answer:?}");
        if answer.is("hit") { hits += 1 } else { misses += 1 }
    }
    assert!(hits > 10 && misses > 0, "{hits} hits, {misses} misses");
    eventually("it is logged", || other.log().contains(&format!("127.0.0.1:{port}")));
    assert!(!other.log().contains("the connection to Redis is down"), "{}", other.log());
    eventually("everything is a hit again", || (0..60).all(|user| other.get(&target(user)).is("hit")));
}

#[test]
fn a_node_that_hangs_costs_each_of_its_entries_at_most_one_wait() {
    let hotel = hotel(RULES);
    let larder = hotel.plan.start();
    fill(&hotel, &larder, 30);
    let other = hotel.plan.start();
    let marks = hotel.cluster.keeper(META);
    let victim = (0..3).find(|at| *at != marks).unwrap();
    hotel.cluster.nodes[victim].hang();
    let answers: Vec<_> = (0..30).map(|user| other.get(&target(user)).has_status(200)).collect();
    hotel.cluster.nodes[victim].resume();
    assert!(answers.iter().any(|answer| answer.is("hit")), "{answers:?}");
    assert!(answers.iter().all(|answer| !answer.is("detail=store-away")), "{answers:?}");
}

/// Load on two proxies while something happens to the node that keeps the marks.
fn under_load(wait_replicas: u32, happens: impl FnOnce(&mut RedisCluster, usize)) -> (load::Tally, String) {
    let mut hotel = hotel(&registers(wait_replicas));
    let proxies = [hotel.plan.start(), hotel.plan.start()];
    let load = Load::start(&hotel.upstream, &[&proxies[0], &proxies[1]]);
    load.go_on(50, 10);
    let keeper = hotel.cluster.keeper(META);
    happens(&mut hotel.cluster, keeper);
    // It recovers by itself: hits on writes that were acknowledged.
    load.go_on(200, 30);
    let tally = load.end();
    assert!(tally.stale.is_empty(), "{} of {}: {:#?}", tally.stale.len(), tally.reads, &tally.stale[..1]);
    (tally, proxies[0].log() + &proxies[1].log())
}

#[test]
fn nothing_stale_while_the_node_of_the_marks_is_killed_and_its_replica_takes_over() {
    let (tally, log) = under_load(0, |cluster, keeper| {
        cluster.nodes[keeper].kill();
        let next =
            eventually_some("a replica takes over", || Some(cluster.keeper(META)).filter(|next| *next != keeper));
        assert!(next >= 3, "{next}");
    });
    assert!(tally.acknowledged >= 40, "{tally:?}");
    assert!(log.contains("failover") && log.contains("epoch changed: restarted"), "{log}");
}

#[test]
fn nothing_stale_while_the_node_of_the_marks_is_killed_and_returns_as_a_replica() {
    under_load(1, |cluster, keeper| {
        cluster.nodes[keeper].kill();
        eventually("a replica takes over", || cluster.keeper(META) != keeper);
        // The new primary has no replica until then, and no write counts.
        cluster.nodes[keeper].restart();
    });
}

#[test]
fn nothing_stale_while_the_marks_are_handed_over_to_a_replica_and_back() {
    under_load(1, |cluster, keeper| {
        let replica = cluster.replica_of(keeper);
        for (from, to) in [(keeper, replica), (replica, keeper)] {
            cluster.nodes[to].run::<()>(&["CLUSTER", "FAILOVER"]);
            eventually("it has taken over", || cluster.keeper(META) == to);
            cluster.wait_until_whole();
            assert_ne!(cluster.keeper(META), from);
        }
    });
}

#[test]
fn nothing_stale_while_the_slot_of_the_marks_is_moved_to_another_node() {
    let (tally, log) = under_load(0, |cluster, keeper| {
        let (slot, to) = (cluster.slot(META), (keeper + 1) % 3);
        cluster.move_slot(slot, keeper, to);
        eventually("the slot has moved", || cluster.keeper(META) == to);
    });
    assert!(tally.acknowledged >= 40, "{tally:?}");
    assert!(log.contains("another server holds the marks") && log.contains("epoch changed: restarted"), "{log}");
}

#[test]
fn an_entry_whose_slot_is_moved_is_found_where_it_is() {
    let hotel = hotel(&RULES.replace("[[family]]", "coherence = \"strict\"\n[[family]]"));
    let larder = hotel.plan.start();
    fill(&hotel, &larder, 1);
    let (keys, keeper) = (0..3)
        .map(|at| (hotel.cluster.nodes[at].command(&["KEYS", "hotel:user:*"]), at))
        .find(|(keys, _)| !keys.is_empty())
        .unwrap();
    let key = keys.lines().next().unwrap();
    let (slot, to) = (hotel.cluster.slot(key), (keeper + 1) % 3);
    // Not with the marks, or all would begin anew.
    assert_ne!(slot, hotel.cluster.slot(META));
    hotel.cluster.move_slot(slot, keeper, to);
    let other = hotel.plan.start();
    for proxy in [&larder, &other] {
        eventually("it is a hit again", || proxy.get("/users/0").is("hit"));
    }
    assert!(!larder.log().contains("the connection to Redis is down"), "{}", larder.log());
}

#[test]
fn a_user_of_a_cluster_needs_the_documented_rights_and_no_more() {
    let hotel = hotel(RULES);
    let rights = crate::store_redis::users::documented("hotel");
    for node in &hotel.cluster.nodes {
        let words = ["ACL", "SETUSER", "larder", "reset"].into_iter().chain(rights.iter().map(String::as_str));
        node.run::<()>(&words.collect::<Vec<_>>());
    }
    let plan = Plan::new(&hotel.upstream.url()).rules(RULES);
    let plan = plan.redis(&hotel.cluster.url().replace("://", "://larder:pass@"));
    let (larder, other) = (plan.start(), plan.start());
    fill(&hotel, &larder, 20);
    for user in 0..20 {
        other.get(&target(user)).shows("hit");
    }
    other.write("POST", "/users/7/activate").has_status(200);
    larder.get("/users/7").shows("detail=invalidated");
    for log in [larder.log(), other.log()] {
        assert!(!log.contains("permission") && !log.contains("NOPERM"), "{log}");
    }
}

#[test]
fn a_url_of_another_topology_is_reported() {
    let hotel = hotel(RULES);
    let plan = Plan::new(&hotel.upstream.url()).rules(RULES);
    let alone = crate::support::RedisServer::start();
    let node = &hotel.cluster.nodes[0];
    let sentinel = |port: u16| format!("redis+sentinel://127.0.0.1:{port}/house");
    for (url, message) in [
        (node.url(), "write redis+cluster://"),
        (alone.url().replace("redis:", "redis+cluster:"), "not in cluster mode"),
        (sentinel(alone.port()), "not a sentinel"),
    ] {
        let exit = plan.clone().redis(&url).fail();
        assert!(exit.stderr.contains(message), "{url}: {exit:?}");
    }
}

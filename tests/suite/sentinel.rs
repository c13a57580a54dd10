//! Several proxies on a primary that real sentinels watch: a failover costs misses and never a stale response.

use crate::support::load::RULES;
use crate::support::{Load, Plan, Sentinels, Upstream, eventually};

struct House {
    upstream: Upstream,
    sentinels: Sentinels,
    plan: Plan,
}

fn house() -> House {
    let (upstream, sentinels) = (Upstream::start(), Sentinels::start());
    let rules = format!(
        "{RULES}\n[store]\ntimeout = \"1s\"\nconnect_timeout = \"2s\"\nlease = \"1s\"\non_outage = \"refuse\"\n\
         wait_replicas = 1\n"
    );
    let plan = Plan::new(&upstream.url()).rules(&rules).redis(&sentinels.url());
    House { upstream, sentinels, plan }
}

/// Load on two proxies while something happens to the primary, until another one is named.
fn under_load(happens: impl FnOnce(&mut Sentinels, usize)) {
    let mut house = house();
    let proxies = [house.plan.start(), house.plan.start()];
    let load = Load::start(&house.upstream, &[&proxies[0], &proxies[1]]);
    load.go_on(50, 10);
    let primary = house.sentinels.primary();
    happens(&mut house.sentinels, primary);
    let next = house.sentinels.wait_for_another(primary);
    // It recovers by itself: hits on writes that were acknowledged.
    load.go_on(200, 30);
    let tally = load.end();
    assert!(tally.stale.is_empty(), "{} of {}: {:#?}", tally.stale.len(), tally.reads, &tally.stale[..1]);
    let place = format!("127.0.0.1:{}", house.sentinels.servers[next].port());
    for proxy in &proxies {
        eventually("the failover is logged", || {
            let log = proxy.log();
            log.lines().any(|line| line.contains("failover") && line.contains(&place))
        });
    }
}

#[test]
fn nothing_stale_while_the_primary_is_killed_and_a_replica_takes_over() {
    under_load(|sentinels, primary| sentinels.servers[primary].kill());
}

#[test]
fn nothing_stale_while_the_sentinels_are_told_to_fail_over() {
    under_load(|sentinels, _| {
        sentinels.sentinels[0].run::<()>(&["SENTINEL", "FAILOVER", crate::support::sentinels::PRIMARY]);
    });
}

#[test]
fn a_deposed_primary_that_still_answers_is_abandoned() {
    let house = house();
    let (larder, other) = (house.plan.start(), house.plan.start());
    let (old, new) = (house.sentinels.primary(), 0);
    for proxy in [&larder, &other] {
        proxy.get("/r/1");
        eventually("hits begin", || proxy.get("/r/1").is("hit"));
    }
    // By hand, since a sentinel that deposes a primary tells it as soon as it can.
    house.sentinels.name_another(new);
    let place = format!("127.0.0.1:{}", house.sentinels.servers[new].port());
    for proxy in [&larder, &other] {
        eventually("it is left", || proxy.log().contains(&format!("is no longer the primary, {place} is")));
        eventually("hits are back", || proxy.get("/r/1").is("hit"));
    }
    assert!(house.sentinels.servers[old].command(&["INFO", "replication"]).contains("role:master"));
    // The new primary's replica has to be in step first.
    eventually("a write counts", || larder.write("PUT", "/r/1").status == 200);
    other.get("/r/1").hides("hit");
}

#[test]
fn sentinels_may_be_down_while_the_primary_is_up() {
    let mut house = house();
    let larder = house.plan.start();
    house.upstream.on("/r/1", crate::support::Reply::new("1"));
    larder.get("/r/1").has_status(200);
    eventually("hits begin", || larder.get("/r/1").is("hit"));
    for sentinel in &mut house.sentinels.sentinels[..2] {
        sentinel.kill();
    }
    // One of them is enough to find the primary.
    let other = house.plan.start();
    eventually("hits begin", || other.get("/r/1").is("hit"));
    house.sentinels.sentinels[2].kill();
    let beats = |larder: &crate::support::Larder| larder.get("/r/1").is("hit");
    for _ in 0..50 {
        assert!(beats(&larder) && beats(&other));
    }
    assert!(!larder.log().contains("the connection to Redis is down"), "{}", larder.log());
}

#[test]
fn sentinels_ask_for_credentials_of_their_own_and_for_a_name_they_know() {
    let house = house();
    for sentinel in &house.sentinels.sentinels {
        sentinel.run::<()>(&["ACL", "SETUSER", "guest", "on", ">s3same", "+sentinel|master"]);
        sentinel.run::<()>(&["ACL", "SETUSER", "default", "off"]);
    }
    let plan = Plan::new(&house.upstream.url()).rules(RULES);
    let url = house.sentinels.url();
    let exit = plan.clone().redis(&url).fail();
    assert!(exit.stderr.contains("sentinel") && exit.stderr.contains("password"), "{exit:?}");
    let login = "?sentinel_user=guest&sentinel_password=s3same";
    let exit = plan.clone().redis(&format!("{url}x{login}")).fail();
    assert!(exit.stderr.contains("know no primary of this name"), "{exit:?}");
    let larder = plan.redis(&format!("{url}{login}")).start();
    larder.get("/users").has_status(200);
    eventually("it is logged", || larder.log().contains("the connection to Redis is up"));
    assert!(!exit.stderr.contains("s3same") && !larder.log().contains("s3same"), "{}", larder.log());
}

//! A Redis user with no more rights than Larder needs: those that `deploy/README.md` lists.

use larder::store::log::LogContent;
use larder::store::sweep::{Judged, KeyStats, WalkPosition};

use super::*;

/// The rule as an operator would copy it, for this namespace.
pub fn documented(namespace: &str) -> Vec<String> {
    let page = include_str!("../../../deploy/README.md");
    let rule = page.split("ACL SETUSER larder ").nth(1).expect("the page has the rule");
    let rule = rule.split("```").next().expect("the rule ends").replace('\\', " ").replace("larder", namespace);
    rule.split_whitespace().map(|word| word.replace("${REDIS_PASSWORD}", "pass")).collect()
}

async fn user_with(server: &RedisServer, rules: &[String]) -> RedisStore {
    let words = ["ACL", "SETUSER", "larder", "reset"].into_iter().chain(rules.iter().map(String::as_str));
    server.run::<()>(&words.collect::<Vec<_>>());
    open(&config(&server.url().replace("redis://", "redis://larder:pass@")))
}

#[tokio::test]
async fn the_documented_rights_are_enough_for_everything() {
    let server = RedisServer::start();
    let store = user_with(&server, &documented("test")).await;
    store.connect_once().await.unwrap();
    keep_entry(&store).await;
    assert!(hits(&lookup(&store).await));
    store.get(KEY).await.unwrap();
    store.remove(KEY).await.unwrap();
    store.info().await.unwrap();
    store.count_keys(10, &|label| label.to_owned()).await.unwrap();
    assert!(store.hold_sweep("p1", PATIENCE).await.unwrap());
    assert!(store.hold_warming("p1", PATIENCE).await.unwrap());
    store.add_hits(7, &[("h /a".to_owned(), 2)]).await.unwrap();
    assert_eq!(store.hits_in(&[7]).await.unwrap(), [("h /a".to_owned(), 2)]);
    keep_entry(&store).await;
    let survey = store.survey(WalkPosition::default(), 100).await.unwrap();
    let judged = survey.specimens.into_iter().map(|it| Judged { name: it.name, beginning: it.beginning });
    assert_eq!(store.unlink(WalkPosition::default(), &judged.collect::<Vec<_>>()).await.unwrap(), 1);
    store.append_log(&[LogContent::Waits("{}".to_owned())]).await.unwrap();
    let logged = store.log_before(None, 10).await.unwrap();
    assert_eq!(store.log_after(logged[0].position, 10).await.unwrap(), []);
    store.views(&[&tags()]).await.unwrap();
    store.store_key_stats(&KeyStats::default(), PATIENCE).await.unwrap();
    assert!(store.key_stats().await.unwrap().is_some());
    let me = membership("p1", Some(store.view(&[]).await.unwrap().stamp), PATIENCE);
    for _ in 0..2 {
        store.sync(&me).await.unwrap();
        let intent = Intent { id: "w1".into(), tags: tags().to_vec() };
        store.record(&intent, Duration::ZERO).await.unwrap();
        let again = [Again { after: Duration::ZERO, tags: tags().to_vec() }];
        let soft = [SoftInvalidation { tag: Tag::family("soft"), grace: PATIENCE }];
        let cause = Cause { by: "p2", intent: Some("w1"), soft: &soft, again: &again, watched: &[], record: "{}" };
        let invalidated = store.invalidate(&tags(), &cause).await.unwrap();
        let LogContent::Record(_, sequence) = store.log_before(None, 1).await.unwrap()[0].content else {
            panic!("the record is the last entry")
        };
        assert_eq!(sequence, invalidated.taken.stamp.sequence);
        assert!(store.view(&[Tag::family("soft")]).await.unwrap().soft.is_some());
        let [due] = &store.sync(&me).await.unwrap().due[..] else { panic!("one repetition is due") };
        store.invalidate(&tags(), &Cause { intent: Some(&due.id), ..NOBODY }).await.unwrap();
        store.roster().await.unwrap();
        store.reach().await.unwrap();
        store.forget("w1").await.unwrap();
        let claim = FleetLock { stamp: invalidated.taken.stamp, id: "c1".into() };
        assert_eq!(store.lock_fetch("k", &claim, PATIENCE, None).await.unwrap(), LockReply::Ours);
        store.unlock_fetch("k", &claim, true).await.unwrap();
        store.expel(&invalidated.holders[0]).await.unwrap();
        let asking = Membership { asks_who_is_behind: true, ..membership("p3", None, PATIENCE) };
        let generation = store.sync(&asking).await.unwrap().generation;
        store.dismiss(&invalidated.holders[0], generation).await.unwrap();
        store.leave("p1").await.unwrap();
        // A new epoch is within the rights too, and so is a full table of marks.
        server.flush_all();
    }
    let small = open(&StoreConfig { marks_max: 1, wait_replicas: 1, ..config(&store_url(&server)) });
    small.connect_once().await.unwrap();
    small.view(&[]).await.unwrap();
    let error = small.invalidate(&tags(), &NOBODY).await.unwrap_err().to_string();
    assert!(error.contains("0 of 1 replicas"), "{error}");
    eventually("the channel has a subscriber", || {
        server.run::<(String, u64)>(&["PUBSUB", "NUMSUB", "{test}:fleet"]).1 == 2
    })
    .await;
}

fn store_url(server: &RedisServer) -> String {
    server.url().replace("redis://", "redis://larder:pass@")
}

#[tokio::test]
async fn each_missing_permission_is_reported_on_connecting() {
    let server = RedisServer::start();
    for missing in ["&{test}:fleet", "~{test}:*", "+publish", "+time", "+zadd", "+evalsha", "+info"] {
        let rules: Vec<String> = documented("test").into_iter().filter(|rule| rule != missing).collect();
        assert!(rules.len() < documented("test").len(), "{missing} is documented");
        let store = user_with(&server, &rules).await;
        server.flush_all();
        let fault = store.connect_once().await.expect_err(missing);
        let ConnectFault::Rejected { reason, .. } = &fault else { panic!("{missing}: {fault}") };
        assert!(
            reason.contains("lacks a permission") && reason.contains("deploy/README.md"),
            "{missing}: {reason}"
        );
    }
}

#[tokio::test]
async fn a_missing_permission_to_subscribe_is_logged_and_the_store_works() {
    let log = Log::capture();
    let server = RedisServer::start();
    let rules: Vec<String> = documented("test").into_iter().filter(|rule| rule != "+subscribe").collect();
    let store = user_with(&server, &rules).await;
    store.connect_once().await.unwrap();
    eventually("it is logged", || log.text().contains("cannot subscribe to the channel")).await;
    assert!(log.text().contains("lacks a permission"), "{}", log.text());
    keep_entry(&store).await;
    assert!(hits(&lookup(&store).await));
    assert_eq!(store.link(), Link::Up);
}

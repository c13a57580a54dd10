//! What the store does for a fleet: members, the marks that a proxy lacks, intents, the channel.

use std::collections::BTreeMap;

use larder::marks::Sequence;
use larder::store::fleet::{Invalidated, Message, NUDGE_TAGS_MAX, Synced};
use tokio::sync::broadcast::Receiver;

use super::*;

const MEMBERS: &str = "{test}:members";
const INTENTS: &str = "{test}:intents";
const INTENT_TAGS: &str = "{test}:intent_tags";
const CHANNEL: &str = "{test}:fleet";
const HOUR: Duration = Duration::from_secs(3600);

fn member(id: &str, applied: Option<Stamp>) -> Membership {
    membership(id, applied, Duration::from_millis(1500))
}

async fn sync(store: &RedisStore, id: &str, applied: Option<Stamp>) -> Synced {
    store.sync(&member(id, applied)).await.unwrap()
}

/// The marks that a proxy lacks which has applied everything up to `sequence`, by tag.
async fn marks_since(store: &RedisStore, epoch: Epoch, sequence: Sequence) -> Option<BTreeMap<Tag, Sequence>> {
    let list = sync(store, "p1", Some(Stamp { epoch, sequence })).await.marks?;
    let marks: BTreeMap<_, _> = list.iter().cloned().collect();
    assert_eq!(marks.len(), list.len(), "each tag once: {list:?}");
    Some(marks)
}

fn families(names: impl IntoIterator<Item = String>) -> Vec<Tag> {
    names.into_iter().map(|name| Tag::family(&name)).collect()
}

async fn invalidate(store: &RedisStore, tags: &[Tag], by: &str) -> Invalidated {
    store.invalidate(tags, &Cause { by, ..NOBODY }).await.unwrap()
}

fn ids(invalidated: &Invalidated) -> Vec<&str> {
    let mut ids: Vec<&str> = invalidated.holders.iter().map(|holder| &*holder.id).collect();
    ids.sort_unstable();
    ids
}

async fn holder(store: &RedisStore, id: &str) -> Holder {
    let holders = invalidate(store, &[], "").await.holders;
    holders.into_iter().find(|holder| &*holder.id == id).unwrap_or_else(|| panic!("{id} is no member"))
}

fn repetition(after: Duration, tag: &str) -> Again {
    Again { after, tags: vec![Tag::family(tag)] }
}

/// The server's clock, microseconds.
fn clock(server: &RedisServer) -> u64 {
    let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
    seconds * 1_000_000 + micros
}

#[tokio::test]
async fn a_new_member_learns_the_stamp_and_no_marks() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let taken = invalidate(&store, &tags(), "").await.taken;
    let synced = sync(&store, "p1", None).await;
    assert_eq!((synced.stamp, synced.marks, synced.soft, synced.due), (taken.stamp, None, vec![], vec![]));
    assert_eq!(marks_since(&store, synced.stamp.epoch, synced.stamp.sequence).await, Some(BTreeMap::new()));
}

#[tokio::test]
async fn the_marks_since_are_complete_from_every_sequence_on() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let begun = store.view(&[]).await.unwrap().stamp;
    let (mut history, mut boundaries) = (vec![], vec![begun.sequence]);
    for step in 0..20 {
        let tags = [Tag::family("common"), Tag::family(&format!("every_third:{}", step % 3)), Tag::root()];
        let tags = &tags[usize::from(step % 2 == 0)..if step % 5 == 0 { 3 } else { 2 }];
        let sequence = invalidate(&store, tags, "").await.taken.stamp.sequence;
        history.extend(tags.iter().map(|tag| (tag.clone(), sequence)));
        boundaries.extend([sequence - 1, sequence]);
    }
    for applied in boundaries {
        let lacking = history.iter().filter(|(_, sequence)| *sequence > applied).cloned();
        let expected: BTreeMap<_, _> = lacking.collect();
        assert_eq!(marks_since(&store, begun.epoch, applied).await, Some(expected), "after {applied}");
    }
}

#[tokio::test]
async fn more_than_ten_thousand_marks_are_not_returned() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let Stamp { epoch, sequence } = store.view(&[]).await.unwrap().stamp;
    invalidate(&store, &families((0..10_000).map(|n| format!("user:{n}"))), "").await;
    assert_eq!(marks_since(&store, epoch, sequence).await.map(|marks| marks.len()), Some(10_000));
    let last = invalidate(&store, &[Tag::root()], "").await.taken.stamp.sequence;
    assert_eq!(marks_since(&store, epoch, sequence).await, None);
    assert_eq!(marks_since(&store, epoch, last - 1).await, Some([(Tag::root(), last)].into()));
}

#[tokio::test]
async fn no_marks_are_returned_to_a_proxy_of_another_epoch() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let before = invalidate(&store, &tags(), "").await.taken.stamp;
    server.run::<()>(&["DEL", MARKS]);
    let synced = sync(&store, "p1", Some(before)).await;
    assert_eq!(synced.marks, None);
    assert!(synced.stamp.epoch != before.epoch && synced.stamp.sequence > before.sequence);
    let ahead = Stamp { sequence: synced.stamp.sequence + 1, ..before };
    assert_eq!(sync(&store, "p1", Some(ahead)).await.marks, None, "however late it is in the old one");
}

#[tokio::test]
async fn no_marks_are_returned_below_the_floor() {
    let server = RedisServer::start();
    let store = open(&StoreConfig { marks_max: 5, ..config(&server.url()) });
    store.connect_once().await.unwrap();
    let mut issued = vec![];
    for instance in 0..12 {
        issued.push(invalidate(&store, &families([format!("user:{instance}")]), "").await.taken.stamp);
    }
    let (epoch, floor) = (issued[0].epoch, issued[6].sequence);
    assert_eq!(marks_since(&store, epoch, floor).await.unwrap().len(), 5, "all that came after it are there");
    assert_eq!(marks_since(&store, epoch, floor - 1).await, None, "the one at the floor is gone");
}

#[tokio::test]
async fn a_writer_learns_of_all_members_but_itself() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    assert_eq!(ids(&invalidate(&store, &tags(), "p1").await), [""; 0]);
    for id in ["p1", "p2", "p3"] {
        sync(&store, id, None).await;
    }
    let invalidated = invalidate(&store, &tags(), "p2").await;
    assert_eq!(ids(&invalidated), ["p1", "p3"]);
    assert!(invalidated.holders.iter().all(|holder| holder.lease == Duration::from_millis(1500)));
    assert_eq!(ids(&invalidate(&store, &tags(), "").await), ["p1", "p2", "p3"], "nobody invalidates");
}

#[tokio::test]
async fn a_member_that_leaves_is_waited_for_no_more() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    sync(&store, "p1", None).await;
    sync(&store, "p2", None).await;
    store.leave("p1").await.unwrap();
    store.leave("p9").await.expect("nobody need have been there");
    assert_eq!(ids(&invalidate(&store, &[], "").await), ["p2"]);
}

#[tokio::test]
async fn only_a_member_that_has_not_synced_since_is_expelled() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    sync(&store, "p1", None).await;
    sync(&store, "p2", None).await;
    let seen = holder(&store, "p1").await;
    sync(&store, "p1", None).await;
    assert!(!store.expel(&seen).await.unwrap(), "it has renewed");
    let renewed = holder(&store, "p1").await;
    assert!(renewed.syncs > seen.syncs);
    assert!(store.expel(&renewed).await.unwrap());
    assert!(!store.expel(&renewed).await.unwrap(), "it is gone already");
    assert_eq!(ids(&invalidate(&store, &[], "").await), ["p2"]);
}

#[tokio::test]
async fn a_member_that_was_expelled_and_came_back_is_not_taken_for_the_one_expelled() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    sync(&store, "p1", None).await;
    // Two writers wait for it.
    let (one, two) = (holder(&store, "p1").await, holder(&store, "p1").await);
    assert!(store.expel(&one).await.unwrap());
    sync(&store, "p1", None).await;
    assert!(!store.expel(&two).await.unwrap(), "it holds a new lease");
}

#[tokio::test]
async fn members_outlive_an_epoch_and_a_flush_shows_in_the_age_of_the_next() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    sync(&store, "p1", None).await;
    let born = clock(&server) - 10_000_000;
    server.run::<()>(&["HSET", META, "born", &born.to_string()]);
    let old = invalidate(&store, &[], "").await;
    assert!(old.epoch_age >= Duration::from_secs(10), "{:?}", old.epoch_age);
    for (lose, left) in [(["DEL", MARKS], &["p1"][..]), (["DEL", META], &["p1"]), (["FLUSHALL", "SYNC"], &[])] {
        let before = clock(&server);
        server.run::<()>(&lose);
        let young = invalidate(&store, &[], "").await;
        assert_ne!(young.taken.stamp.epoch, old.taken.stamp.epoch, "{lose:?}");
        assert!(young.epoch_age <= Duration::from_micros(clock(&server) - before), "{lose:?}: {young:?}");
        assert_eq!(ids(&young), *left, "{lose:?}");
    }
}

#[tokio::test]
async fn members_or_intents_that_were_evicted_start_a_new_epoch() {
    for (lost, cause) in [(MEMBERS, "members lost"), (INTENTS, "intents lost")] {
        let log = Log::capture();
        let server = RedisServer::start();
        let store = store_on(&server).await;
        let before = sync(&store, "p1", None).await.stamp;
        server.run::<()>(&["DEL", lost]);
        let after = invalidate(&store, &[], "").await;
        assert_ne!(after.taken.stamp.epoch, before.epoch, "{lost}");
        assert!(log.text().contains(&format!("epoch changed: {cause}")), "{}", log.text());
        // The first proxy to ask notices, and then it is mended.
        server.run::<()>(&["DEL", lost]);
        let synced = sync(&store, "p1", Some(after.taken.stamp)).await;
        assert!(synced.marks.is_none() && synced.stamp.epoch != after.taken.stamp.epoch);
        assert_eq!(invalidate(&store, &[], "").await.taken.stamp.epoch, synced.stamp.epoch);
    }
}

#[tokio::test]
async fn an_epoch_from_the_future_ages_from_now_on() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    // As after a clock that was set back by an hour.
    let born = clock(&server) + 3_600_000_000;
    server.run::<()>(&["HSET", META, "born", &born.to_string()]);
    assert_eq!(invalidate(&store, &[], "").await.epoch_age, Duration::ZERO);
    assert!(server.run::<u64>(&["HGET", META, "born"]) <= clock(&server));
    // And where the sequences are ahead of the clock, the next epoch is as young as it is.
    let ahead = store.view(&[]).await.unwrap().stamp.sequence + 86_400_000_000;
    server.run::<()>(&["HSET", META, "seq", &ahead.to_string()]);
    server.run::<()>(&["DEL", MARKS]);
    assert_eq!(store.view(&[]).await.unwrap().stamp.sequence, ahead + 1, "a new one");
    assert!(server.run::<u64>(&["HGET", META, "born"]) <= clock(&server));
}

fn intent(id: &str, tags: &[Tag]) -> Intent {
    Intent { id: id.into(), tags: tags.to_vec() }
}

async fn due(store: &RedisStore) -> Vec<Intent> {
    sync(store, "p1", None).await.due
}

#[tokio::test]
async fn an_intent_is_due_when_its_deadline_has_passed_by_the_servers_clock() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    invalidate(&store, &[Tag::root()], "").await;
    let intent = intent("w1", &tags());
    let before = clock(&server);
    let view = store.record(&intent, HOUR).await.unwrap();
    assert_eq!(view, store.view(&[]).await.unwrap());
    let deadline: u64 = server.run(&["ZSCORE", INTENTS, "w1"]);
    assert!((before..=clock(&server)).contains(&(deadline - 3_600_000_000)), "{deadline}");
    assert_eq!(due(&store).await, []);
    server.run::<()>(&["ZADD", INTENTS, &clock(&server).to_string(), "w1"]);
    assert_eq!(due(&store).await, std::slice::from_ref(&intent));
    assert_eq!(due(&store).await, [intent], "until it is carried out");
}

#[tokio::test]
async fn recording_an_intent_again_renews_its_deadline_and_tags() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    store.record(&intent("w1", &tags()), Duration::ZERO).await.unwrap();
    store.record(&intent("w1", &[Tag::family("other")]), HOUR).await.unwrap();
    assert_eq!(due(&store).await, []);
    store.record(&intent("w1", &[Tag::family("other")]), Duration::ZERO).await.unwrap();
    assert_eq!(due(&store).await, [intent("w1", &[Tag::family("other")])]);
}

#[tokio::test]
async fn an_intent_that_is_forgotten_or_carried_out_leaves_nothing_behind() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for id in ["w1", "w2", "w3"] {
        store.record(&intent(id, &tags()), Duration::ZERO).await.unwrap();
    }
    store.forget("w1").await.unwrap();
    store.forget("w9").await.expect("it need not be there");
    let carried_out = Cause { intent: Some("w2"), ..NOBODY };
    store.invalidate(&tags(), &carried_out).await.unwrap();
    assert_eq!(due(&store).await, [intent("w3", &tags())]);
    assert_eq!(server.command(&["HKEYS", INTENT_TAGS]), "w3");
    assert_eq!(server.command(&["ZRANGE", INTENTS, "0", "-1"]), "w3\n(sentinel)");
}

#[tokio::test]
async fn repetitions_are_recorded_with_the_invalidation_that_they_repeat() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    store.record(&intent("w1", &tags()), Duration::ZERO).await.unwrap();
    let again = [repetition(HOUR, "a"), repetition(Duration::ZERO, "b")];
    let before = clock(&server);
    store.invalidate(&tags(), &Cause { intent: Some("w1"), again: &again, ..NOBODY }).await.unwrap();
    let soon = intent(&again[1].id(), &again[1].tags);
    assert_eq!(due(&store).await, std::slice::from_ref(&soon));
    let deadline: u64 = server.run(&["ZSCORE", INTENTS, &again[0].id()]);
    assert!((before..=clock(&server)).contains(&(deadline - 3_600_000_000)), "{deadline}");
    // Carried out, it is over; no write stands behind it that could be.
    store.invalidate(&soon.tags, &Cause { intent: Some(&soon.id), ..NOBODY }).await.unwrap();
    assert_eq!(due(&store).await, []);
    assert_eq!(server.command(&["HKEYS", INTENT_TAGS]), *again[0].id());
}

#[tokio::test]
async fn a_repetition_postponed_by_a_later_write_survives_the_completion_of_the_earlier() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let (soon, id) = (repetition(Duration::ZERO, "a"), repetition(Duration::ZERO, "a").id());
    store.invalidate(&tags(), &Cause { again: std::slice::from_ref(&soon), ..NOBODY }).await.unwrap();
    assert_eq!(due(&store).await, [intent(&id, &soon.tags)]);
    let later = clock(&server) + 3_600_000_000;
    server.run::<()>(&["ZADD", INTENTS, &later.to_string(), &id]);
    store.invalidate(&soon.tags, &Cause { intent: Some(&id), ..NOBODY }).await.unwrap();
    assert_eq!(server.run::<u64>(&["ZSCORE", INTENTS, &id]), later);
}

#[tokio::test]
async fn excess_repetitions_become_one_of_everything_per_second() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    store.connect_once().await.unwrap();
    let fill = "for i = 1, 100000 do redis.call('ZADD', KEYS[1], 9e15, 'w' .. i) end";
    server.run::<()>(&["EVAL", fill, "1", INTENTS]);
    let again: Vec<Again> = ["a", "b", "c"].map(|tag| repetition(HOUR, tag)).to_vec();
    store.invalidate(&tags(), &Cause { again: &again, ..NOBODY }).await.unwrap();
    let kept: Vec<String> = server.run(&["HKEYS", INTENT_TAGS]);
    assert!((1..=2).contains(&kept.len()), "{kept:?}");
    for id in kept {
        assert_eq!(server.command(&["HGET", INTENT_TAGS, &id]), "*");
        assert_eq!(server.run::<u64>(&["ZSCORE", INTENTS, &id]) % 1_000_000, 0);
    }
}

#[tokio::test]
async fn due_intents_are_returned_sixteen_at_a_time_oldest_first() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for n in 0..20 {
        store.record(&intent(&format!("w{n:02}"), &tags()), Duration::ZERO).await.unwrap();
    }
    let first = due(&store).await;
    assert_eq!(first.len(), 16);
    for (n, intent) in first.iter().enumerate() {
        assert_eq!(*intent.id, format!("w{n:02}"));
        store.forget(&intent.id).await.unwrap();
    }
    assert_eq!(due(&store).await.len(), 4);
}

#[tokio::test]
async fn an_intent_with_lost_or_unstorable_tags_invalidates_everything() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    store.record(&intent("w1", &tags()), Duration::ZERO).await.unwrap();
    store.record(&intent("w2", &[Tag::group("h", "a\nb")]), Duration::ZERO).await.unwrap();
    store.record(&intent("w3", &[]), Duration::ZERO).await.unwrap();
    server.run::<()>(&["HDEL", INTENT_TAGS, "w1"]);
    let everything = [Tag::root()];
    assert_eq!(due(&store).await, [intent("w1", &everything), intent("w2", &everything), intent("w3", &[])]);
}

/// Waits until so many listen to the channel.
async fn heard_by(server: &RedisServer, count: u64) {
    let listeners = || server.run::<(String, u64)>(&["PUBSUB", "NUMSUB", CHANNEL]).1;
    eventually("the channel has listeners", || listeners() == count).await;
}

/// The next one that is not about the registry.
async fn next(messages: &mut Receiver<Message>) -> Message {
    loop {
        let message = timeout(PATIENCE, messages.recv()).await.expect("a message arrives").unwrap();
        if !matches!(message, Message::Revised(_) | Message::Learned(_)) {
            return message;
        }
    }
}

#[tokio::test]
async fn an_invalidation_nudges_every_proxy_with_all_it_needs() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    heard_by(&server, 2).await;
    let (mut at_one, mut at_two) = (one.messages(), two.messages());
    for (tags, has_tags) in [
        (vec![Tag::family("user:7"), Tag::uri("/users/7"), Tag::group("h", "a b")], true),
        (families((0..NUDGE_TAGS_MAX).map(|n| format!("user:{n}"))), true),
        (families((0..=NUDGE_TAGS_MAX).map(|n| format!("user:{n}"))), false),
        (vec![Tag::family("user"), Tag::group("h", "a\nb")], false),
        (vec![], false),
    ] {
        for by in ["p1", ""] {
            let taken = invalidate(&one, &tags, by).await.taken;
            let nudge = Message::Nudge {
                by: by.into(),
                stamp: taken.stamp,
                previous: taken.previous,
                tags: has_tags.then(|| tags.clone()),
            };
            assert_eq!(next(&mut at_one).await, nudge);
            assert_eq!(next(&mut at_two).await, nudge);
        }
    }
}

#[tokio::test]
async fn a_proxy_that_has_applied_more_publishes_it_once() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    heard_by(&server, 1).await;
    let mut messages = store.messages();
    let begun = sync(&store, "p1", None).await.stamp;
    let later = Stamp { sequence: begun.sequence + 5, ..begun };
    let elsewhere = Stamp { epoch: Epoch(begun.epoch.0 ^ 1), ..begun };
    // The second time, and going back, say nothing.
    for applied in [begun, begun, later, later, begun, later, elsewhere] {
        sync(&store, "p1", Some(applied)).await;
    }
    sync(&store, "p2", Some(begun)).await;
    sync(&store, "p2", None).await;
    let end = invalidate(&store, &[], "").await.taken.stamp;
    let mut received = vec![];
    while let Message::Applied { id, stamp } = next(&mut messages).await {
        received.push((id, stamp));
    }
    let expected = [("p1", begun), ("p1", later), ("p1", later), ("p1", elsewhere), ("p2", begun)];
    assert_eq!(received, expected.map(|(id, stamp)| (id.into(), stamp)));
    assert!(end.sequence > begun.sequence);
}

#[tokio::test]
async fn a_subscription_that_was_cut_comes_back_and_the_link_does_not_notice() {
    let log = Log::capture();
    let server = RedisServer::start();
    let store = store_on(&server).await;
    heard_by(&server, 1).await;
    let (mut messages, links) = (store.messages(), store.changes());
    for _ in 0..2 {
        assert_eq!(server.run::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]), 1);
        let unheard = invalidate(&store, &tags(), "").await.taken.stamp;
        heard_by(&server, 1).await;
        let received = invalidate(&store, &tags(), "").await.taken;
        // The first one may be received or not: the new subscription may have been there in time.
        let is_heard = async |messages: &mut Receiver<Message>| loop {
            match next(messages).await {
                Message::Nudge { stamp, .. } if stamp == received.stamp => return,
                Message::Nudge { stamp, .. } => assert_eq!(stamp, unheard),
                Message::Raised(_) | Message::Seen(_) | Message::Revised(_) | Message::Learned(_) => {}
                other @ (Message::Applied { .. } | Message::Fetched { .. }) => panic!("{other:?}"),
            }
        };
        is_heard(&mut messages).await;
    }
    assert!(!links.has_changed().unwrap(), "{:?}", store.link());
    assert!(log.text().contains("cannot subscribe to the channel"), "{}", log.text());
}

#[tokio::test]
async fn a_subscription_returns_with_its_server() {
    let mut server = RedisServer::start();
    let store = store_on(&server).await;
    heard_by(&server, 1).await;
    server.restart_empty();
    heard_by(&server, 1).await;
    let mut messages = store.messages();
    let taken = recovered(&store, async || store.invalidate(&tags(), &NOBODY).await).await.taken;
    assert!(matches!(next(&mut messages).await, Message::Nudge { stamp, .. } if stamp == taken.stamp));
}

#[tokio::test]
async fn malformed_messages_in_the_channel_are_ignored() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    heard_by(&server, 1).await;
    let mut messages = store.messages();
    for payload in ["", "n 1 2", "hello", "a p1 x 2"] {
        server.run::<()>(&["PUBLISH", CHANNEL, payload]);
    }
    let taken = invalidate(&store, &tags(), "p1").await.taken;
    assert!(matches!(next(&mut messages).await, Message::Nudge { stamp, .. } if stamp == taken.stamp));
}

#[tokio::test]
async fn proxies_that_sync_while_others_invalidate_lack_nothing_in_the_end() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    let begun = one.view(&[]).await.unwrap().stamp;
    let write = async |store: &RedisStore, name: &str| {
        for n in 0..200 {
            invalidate(store, &families([format!("{name}:{}", n % 17), "common".to_owned()]), name).await;
        }
    };
    let copy = async |store: &RedisStore, id: &str| {
        let (mut applied, mut marks) = (begun, BTreeMap::new());
        for _ in 0..200 {
            let synced = sync(store, id, Some(applied)).await;
            for (tag, sequence) in synced.marks.expect("one epoch") {
                assert!(sequence > applied.sequence && sequence <= synced.stamp.sequence, "{tag} {sequence}");
                marks.insert(tag, sequence);
            }
            assert!(synced.stamp.sequence >= applied.sequence);
            applied = synced.stamp;
        }
        (applied, marks)
    };
    let (copies, ..) = tokio::join!(
        async { tokio::join!(copy(&one, "p1"), copy(&two, "p2")) },
        write(&one, "w1"),
        write(&two, "w2"),
    );
    let all = marks_since(&one, begun.epoch, begun.sequence).await.unwrap();
    assert_eq!(all.len(), 35);
    for (id, (applied, mut marks)) in [("p1", copies.0), ("p2", copies.1)] {
        marks.extend(sync(&one, id, Some(applied)).await.marks.unwrap());
        assert_eq!(marks, all, "{id}");
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_renews_no_lease() {
    for (setting, value) in [("min-replicas-to-write", "1"), ("maxmemory", "1")] {
        let server = RedisServer::start();
        let store = store_on(&server).await;
        sync(&store, "p1", None).await;
        server.run::<()>(&["CONFIG", "SET", setting, value]);
        assert!(matches!(store.sync(&member("p1", None)).await, Err(StoreError::Away(_))), "{setting}");
    }
}

#[tokio::test]
async fn a_replica_renews_no_lease_and_takes_no_write() {
    let server = RedisServer::start();
    let [a, b, c, d] =
        [store_on(&server).await, store_on(&server).await, store_on(&server).await, store_on(&server).await];
    sync(&a, "p1", None).await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    // One store each: the first refusal takes its link down.
    assert!(matches!(a.sync(&member("p1", None)).await, Err(StoreError::Away(why)) if why.contains("READONLY")));
    assert!(b.invalidate(&tags(), &NOBODY).await.is_err());
    assert!(c.record(&intent("w1", &tags()), HOUR).await.is_err());
    assert!(d.leave("p1").await.is_err());
}

fn lock(id: &str, sequence: Sequence) -> FleetLock {
    FleetLock { stamp: Stamp { epoch: Epoch(u64::MAX), sequence }, id: id.into() }
}

#[tokio::test]
async fn a_fetch_has_one_lock_until_it_is_released_or_taken_over() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    let (first, second) = (lock("c1", 7), lock("c2", 9));
    assert_eq!(one.lock_fetch("k", &first, HOUR, None).await.unwrap(), LockReply::Ours);
    assert_eq!(two.lock_fetch("k", &second, HOUR, None).await.unwrap(), LockReply::Theirs(first.clone()));
    assert_eq!(two.lock_fetch("other", &second, HOUR, None).await.unwrap(), LockReply::Ours);
    // What is to give way must still stand.
    assert_eq!(two.lock_fetch("k", &second, HOUR, Some(&second)).await.unwrap(), LockReply::Theirs(first.clone()));
    assert_eq!(two.lock_fetch("k", &second, HOUR, Some(&first)).await.unwrap(), LockReply::Ours);
    one.unlock_fetch("k", &first, true).await.unwrap();
    assert_eq!(
        one.lock_fetch("k", &first, HOUR, None).await.unwrap(),
        LockReply::Theirs(second.clone()),
        "it stands"
    );
    two.unlock_fetch("k", &second, false).await.unwrap();
    assert_eq!(one.lock_fetch("k", &first, HOUR, None).await.unwrap(), LockReply::Ours);
    let left = server.run::<u64>(&["PTTL", "test:k:lock"]);
    assert!(left <= 3_600_000, "it lapses by itself: {left}");
}

#[tokio::test]
async fn the_release_of_a_lock_is_published() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    heard_by(&server, 2).await;
    let mut messages = two.messages();
    for stored in [true, false] {
        one.lock_fetch("k", &lock("c1", 7), HOUR, None).await.unwrap();
        one.unlock_fetch("k", &lock("c1", 7), stored).await.unwrap();
        assert_eq!(next(&mut messages).await, Message::Fetched { lock: "c1".into(), stored });
    }
}

fn with_lease(id: &str, lease: u64) -> Membership {
    membership(id, None, Duration::from_millis(lease))
}

#[tokio::test]
async fn the_longest_lease_is_returned_to_all_and_outlives_members_and_epochs() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let longest =
        async |id, lease| store.sync(&with_lease(id, lease)).await.unwrap().state.longest_lease.as_millis();
    assert_eq!(longest("p1", 300).await, 300);
    assert_eq!(longest("p2", 60_000).await, 60_000);
    assert_eq!(longest("p1", 300).await, 60_000);
    for lost in [MEMBERS, MARKS] {
        server.run::<()>(&["DEL", lost]);
        assert_eq!(invalidate(&store, &[], "").await.longest_lease, Duration::from_secs(60), "{lost}");
    }
    // Meta is lost, and members are not.
    assert_eq!(longest("p2", 60_000).await, 60_000);
    server.run::<()>(&["DEL", META]);
    assert_eq!(longest("p1", 300).await, 60_000);
}

#[tokio::test]
async fn a_lease_that_nobody_has_confirmed_in_its_time_is_forgotten() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for (id, lease) in [("p1", 300), ("p2", 60_000), ("p3", 5_000)] {
        store.sync(&with_lease(id, lease)).await.unwrap();
    }
    store.leave("p2").await.unwrap();
    let ago = |seconds: u64| (clock(&server) - seconds * 1_000_000).to_string();
    for (confirmed, longest) in [(59, 60_000), (61, 5_000)] {
        server.run::<()>(&["HSET", META, "lease_at", &ago(confirmed)]);
        let synced = store.sync(&with_lease("p1", 300)).await.unwrap();
        assert_eq!(synced.state.longest_lease.as_millis(), longest, "{confirmed} s ago");
    }
}

#[tokio::test]
async fn the_roster_lists_members_and_counts_intents() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let first = sync(&store, "p1", None).await.stamp;
    sync(&store, "p2", None).await;
    sync(&store, "p2", Some(first)).await;
    let tags = [Tag::family("a"), Tag::family("b")];
    invalidate(&store, &tags, "p1").await;
    store.record(&intent("w1", &tags), Duration::ZERO).await.unwrap();
    store.record(&intent("w2", &tags), HOUR).await.unwrap();
    let roster = store.roster().await.unwrap();
    let mut members = roster.members;
    members.sort_by(|one, other| one.id.cmp(&other.id));
    let found: Vec<_> =
        members.iter().map(|member| (&*member.id, member.lease.as_millis(), member.applied)).collect();
    assert_eq!(found, [("p1", 1500, None), ("p2", 1500, Some(first))]);
    assert!(members.iter().all(|member| member.synced < PATIENCE), "{members:?}");
    assert_eq!((roster.intents, roster.due, roster.state.marks), (2, 1, 2));
    assert_eq!(roster.state.cause, "new");
    assert_eq!(roster.stamp, Some(store.view(&[]).await.unwrap().stamp));
    server.run::<()>(&["DEL", MARKS]);
    store.view(&[]).await.unwrap();
    assert_eq!(store.roster().await.unwrap().state.cause, "marks lost");
    server.flush_all();
    assert_eq!(store.roster().await.unwrap().stamp, None, "looking begins nothing");
}

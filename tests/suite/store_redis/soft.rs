//! Soft marks in the store: until when, for whom, and what becomes of them.

use larder::marks::{SoftMark, Validity};

use super::*;

const GRACES: &str = "{test}:graces";
const MINUTE: Duration = Duration::from_secs(60);

fn soft(tag: &str, grace: Duration) -> SoftInvalidation {
    SoftInvalidation { tag: Tag::family(tag), grace }
}

async fn soft_invalidate(store: &RedisStore, soft: &[SoftInvalidation]) -> Stamp {
    store.invalidate(&[], &Cause { soft, ..NOBODY }).await.unwrap().taken.stamp
}

async fn validity(store: &RedisStore, tag: &str, stamp: Stamp) -> Validity {
    store.view(&[Tag::family("other"), Tag::family(tag)]).await.unwrap().validity(stamp)
}

fn is_soft_invalidated(validity: Validity) -> bool {
    matches!(validity, Validity::SoftInvalidated { left } if left <= MINUTE)
}

/// Ends a grace: a second ago, by the server's clock.
fn end_grace(server: &RedisServer, tag: &str) {
    let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
    let past = (seconds - 1) * 1_000_000 + micros;
    server.run::<()>(&["HSET", GRACES, tag, &past.to_string()]);
}

#[tokio::test]
async fn a_soft_invalidated_tag_is_seen_with_its_grace_by_every_proxy_that_asks() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    let before = two.view(&[]).await.unwrap().stamp;
    let taken = soft_invalidate(&one, &[soft("a", MINUTE)]).await;
    for store in [&one, &two, &one] {
        assert!(is_soft_invalidated(validity(store, "a", before).await));
        assert_eq!(validity(store, "a", taken).await, Validity::Current);
        assert_eq!(validity(store, "b", before).await, Validity::Current);
        let found = store.lookup(KEY, &[Tag::family("a")]).await.unwrap();
        assert!(matches!(found.view.soft, Some(SoftMark { newest, .. }) if newest == taken.sequence));
    }
    // A tag of its own kind: everything.
    soft_invalidate(&one, &[soft("*", MINUTE)]).await;
    assert!(is_soft_invalidated(validity(&two, "b", taken).await));
}

#[tokio::test]
async fn what_a_grace_has_outlived_is_invalidated_and_stays_so() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let before = store.view(&[]).await.unwrap().stamp;
    let between = soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    end_grace(&server, "a");
    assert_eq!(validity(&store, "a", before).await, Validity::Invalidated);
    soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    assert_eq!(validity(&store, "a", before).await, Validity::Invalidated, "not soft-invalidated anew");
    assert!(is_soft_invalidated(validity(&store, "a", between).await));
}

#[tokio::test]
async fn soft_writes_in_a_row_keep_the_end_of_the_first_grace() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    let end: u64 = server.run(&["HGET", GRACES, "a"]);
    let second = soft_invalidate(&store, &[soft("a", MINUTE * 60)]).await;
    assert_eq!(server.run::<u64>(&["HGET", GRACES, "a"]), end);
    assert_eq!(server.run::<u64>(&["ZSCORE", MARKS, "(soft)a"]), second.sequence);
}

#[tokio::test]
async fn a_soft_write_with_a_shorter_grace_is_not_hidden_by_a_longer_one() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    soft_invalidate(&store, &[soft("a", MINUTE * 60)]).await;
    let between = store.view(&[]).await.unwrap().stamp;
    soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    assert!(is_soft_invalidated(validity(&store, "a", between).await), "for a minute at most");
}

#[tokio::test]
async fn a_hard_write_leaves_nothing_of_a_soft_one() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let before = store.view(&[]).await.unwrap().stamp;
    soft_invalidate(&store, &[soft("a", MINUTE), soft("b", MINUTE)]).await;
    let hard = store.invalidate(&[Tag::family("a")], &NOBODY).await.unwrap().taken.stamp;
    assert_eq!(validity(&store, "a", before).await, Validity::Invalidated);
    assert!(is_soft_invalidated(validity(&store, "b", before).await));
    assert_eq!(server.command(&["HKEYS", GRACES]), "b");
    assert_eq!(validity(&store, "a", hard).await, Validity::Current);
}

#[tokio::test]
async fn lost_graces_are_over_and_a_new_epoch_knows_none() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let before = store.view(&[]).await.unwrap().stamp;
    soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    assert!(is_soft_invalidated(validity(&store, "a", before).await));
    server.run::<()>(&["DEL", GRACES]);
    assert_eq!(validity(&store, "a", before).await, Validity::Invalidated);
    soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    server.run::<()>(&["DEL", MARKS]);
    let begun = store.view(&[]).await.unwrap();
    assert_eq!(server.command(&["EXISTS", GRACES]), "0");
    assert_eq!(validity(&store, "a", begun.stamp).await, Validity::Current);
    assert_eq!(validity(&store, "a", before).await, Validity::Invalidated);
}

#[tokio::test]
async fn soft_marks_that_are_trimmed_count_as_hard_ones_by_the_floor() {
    let server = RedisServer::start();
    let store = open(&StoreConfig { marks_max: 2, ..config(&server.url()) });
    store.connect_once().await.unwrap();
    let before = store.view(&[]).await.unwrap().stamp;
    soft_invalidate(&store, &[soft("a", MINUTE)]).await;
    for tag in ["b", "c"] {
        store.invalidate(&[Tag::family(tag)], &NOBODY).await.unwrap();
    }
    assert_eq!(validity(&store, "a", before).await, Validity::Invalidated);
    assert_eq!(server.command(&["EXISTS", GRACES]), "0");
}

#[tokio::test]
async fn a_sync_returns_soft_marks_with_the_time_left_of_their_graces() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let applied = store.view(&[]).await.unwrap().stamp;
    let taken = soft_invalidate(&store, &[soft("a", MINUTE), soft("b", MINUTE)]).await;
    end_grace(&server, "b");
    let me = membership("p1", Some(applied), PATIENCE);
    let synced = store.sync(&me).await.unwrap();
    assert_eq!(synced.marks, Some(vec![(Tag::family("b"), taken.sequence)]), "its grace is over");
    let [(soft, sequence)] = &synced.soft[..] else { panic!("{synced:?}") };
    assert_eq!((soft.tag.as_str(), *sequence), ("a", taken.sequence));
    assert!(soft.grace <= MINUTE && !soft.grace.is_zero());
}

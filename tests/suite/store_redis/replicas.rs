//! `wait_replicas`: a write counts only when replicas have it.

use super::*;

/// A replica of this server, which follows it.
pub fn replica_of(server: &RedisServer) -> RedisServer {
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &server.port().to_string()]);
    let is_ours =
        |line: &str| line.contains(&format!(",port={},", replica.port())) && line.contains("state=online");
    crate::support::eventually("the replica is online", || {
        server.run::<String>(&["INFO", "replication"]).lines().any(is_ours)
    });
    // And it is sent what is written from now on, which begins some time later.
    server.run::<()>(&["SET", "step", "1"]);
    crate::support::eventually("the replica is in step", || replica.run::<bool>(&["EXISTS", "step"]));
    replica
}

/// A store that waits for so many replicas, connected.
async fn waiting(server: &RedisServer, wait_replicas: u64, timeout: Duration) -> RedisStore {
    let store = open(&StoreConfig { wait_replicas, timeout, ..config(&server.url()) });
    store.connect_once().await.expect("the server is there");
    store
}

fn intent() -> Intent {
    Intent { id: "w1".into(), tags: tags().to_vec() }
}

#[tokio::test]
async fn a_write_counts_when_the_replica_has_it() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&server);
    let store = waiting(&server, 1, PATIENCE).await;
    store.record(&intent(), PATIENCE).await.unwrap();
    assert!(replica.run::<bool>(&["HEXISTS", "{test}:intent_tags", "w1"]));
    for _ in 0..50 {
        let sequence = store.invalidate(&tags(), &NOBODY).await.unwrap().taken.stamp.sequence;
        assert_eq!(replica.run::<u64>(&["HGET", META, "seq"]), sequence, "it is there at once");
    }
    let tags = tags();
    // Many share a round; none is told before its own write is there.
    let writes = (0..20).map(|_| async {
        let sequence = store.invalidate(&tags, &NOBODY).await.unwrap().taken.stamp.sequence;
        assert!(replica.run::<u64>(&["HGET", META, "seq"]) >= sequence);
    });
    futures_of(writes).await;
}

/// Runs all of them at the same time.
async fn futures_of(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn is_too_few(error: &StoreError, part: &str) -> bool {
    matches!(error, StoreError::Unreplicated { reason, .. } if reason.contains(part))
}

#[tokio::test]
async fn a_write_that_too_few_replicas_have_is_not_delivered_and_marks_all_the_same() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&server);
    let store = waiting(&server, 2, Duration::from_secs(1)).await;
    let before = store.view(&tags()).await.unwrap().stamp;
    let error = store.invalidate(&tags(), &NOBODY).await.unwrap_err();
    assert!(is_too_few(&error, "only 1 of 2 replicas"), "{error}");
    assert!(!store.view(&tags()).await.unwrap().is_current(before), "what is not delivered may have happened");
    let error = store.record(&intent(), PATIENCE).await.unwrap_err();
    assert!(is_too_few(&error, "only 1 of 2 replicas"), "{error}");
    drop(replica);
    let error = store.invalidate(&tags(), &NOBODY).await.unwrap_err();
    assert!(is_too_few(&error, "only 0 of 2 replicas"), "{error}");
}

#[tokio::test]
async fn writes_that_wait_in_vain_hold_up_no_reader_and_leave_the_link_up() {
    let server = RedisServer::start();
    let store = waiting(&server, 1, Duration::from_secs(1)).await;
    let (tags, links) = (tags(), store.changes());
    // The first round is for the first write; the second one for all that came meanwhile. One after the other they
    // would run into the time limit.
    let writes = (0..20).map(|_| async {
        let error = store.invalidate(&tags, &NOBODY).await.unwrap_err();
        assert!(is_too_few(&error, "only 0 of 1 replicas"), "{error}");
    });
    let read = async {
        for _ in 0..100 {
            store.view(&tags).await.unwrap();
        }
    };
    tokio::join!(futures_of(writes), read);
    assert!(!links.has_changed().unwrap(), "{:?}", store.link());
}

#[tokio::test]
async fn a_write_counts_again_when_the_replica_is_back() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let store = waiting(&server, 1, Duration::from_secs(1)).await;
    store.invalidate(&tags(), &NOBODY).await.unwrap_err();
    let _replica = replica_of(&server);
    store.invalidate(&tags(), &NOBODY).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_hangs_acknowledges_nothing_new() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&server);
    let store = waiting(&server, 1, Duration::from_secs(1)).await;
    store.invalidate(&tags(), &NOBODY).await.unwrap();
    replica.hang();
    for _ in 0..2 {
        let error = store.invalidate(&tags(), &NOBODY).await.unwrap_err();
        assert!(is_too_few(&error, "only 0 of 1 replicas"), "what it had before does not count: {error}");
    }
    let error = store.record(&intent(), PATIENCE).await.unwrap_err();
    assert!(is_too_few(&error, "only 0 of 1 replicas"), "{error}");
    replica.resume();
    store.invalidate(&tags(), &NOBODY).await.unwrap();
}

#[tokio::test]
async fn what_was_taken_before_replicas_came_needs_to_be_waited_for_only() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let store = waiting(&server, 1, Duration::from_secs(1)).await;
    let error = store.invalidate(&tags(), &NOBODY).await.unwrap_err();
    let StoreError::Unreplicated { taken: Some(taken), .. } = error else { panic!("{error:?}") };
    assert!(is_too_few(&store.reach().await.unwrap_err(), "only 0 of 1 replicas"));
    let replica = replica_of(&server);
    let view = store.reach().await.unwrap();
    assert_eq!(view.stamp, taken.stamp, "nothing was taken since");
    assert_eq!(replica.run::<u64>(&["HGET", META, "seq"]), taken.stamp.sequence);
}

#[tokio::test]
async fn a_sync_counts_only_when_the_replica_still_follows() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&server);
    let store = waiting(&server, 1, Duration::from_secs(1)).await;
    let me = membership("p1", None, PATIENCE);
    store.sync(&me).await.unwrap();
    replica.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    let error = store.sync(&me).await.unwrap_err();
    assert!(is_too_few(&error, "only 0 of 1 replicas"), "{error}");
}

//! Commands that Redis executes long after their sender gave up on them, reconnected and went on: what the table in
//! `src/coherence.rs` says of each.

use larder::store::fleet::{Generation, Synced};

use super::*;

/// Longer than any test takes: leases and silences end because the test changes the times that Redis has noted.
const LEASE: Duration = Duration::from_secs(30);

struct Fleet {
    server: RedisServer,
    store: RedisStore,
}

impl Fleet {
    async fn start() -> Fleet {
        let server = RedisServer::start();
        let store = store_on(&server).await;
        Fleet { server, store }
    }

    /// A sync of a proxy that has read this generation.
    async fn sync(&self, id: &str, seen: Option<Generation>) -> Synced {
        let me = Membership { seen, asks_who_is_behind: true, ..membership(id, None, LEASE) };
        self.store.sync(&me).await.unwrap()
    }

    /// Both have synced and repeated what they read; then there is an outage that both have.
    async fn after_an_outage(&self) -> Synced {
        for id in ["a", "b"] {
            let seen = self.sync(id, None).await.generation;
            self.sync(id, Some(seen)).await;
        }
        self.end_lease("a");
        self.end_lease("b");
        self.begin_silence();
        self.sync("a", Some(self.sync("a", None).await.generation)).await
    }

    /// Makes the last sync of the fleet one lease older.
    fn begin_silence(&self) {
        let last_sync = self.server.run::<u64>(&["HGET", "{test}:meta", "last_sync"]);
        self.server.run::<()>(&["HSET", "{test}:meta", "last_sync", &earlier(last_sync).to_string()]);
    }

    /// Makes the last sync of this member one lease older.
    fn end_lease(&self, id: &str) {
        let record = self.server.run::<String>(&["HGET", "{test}:members", id]);
        let (syncs, rest) = record.split_once(':').unwrap();
        let record = format!("{}:{rest}", earlier(syncs.parse().unwrap()));
        self.server.run::<()>(&["HSET", "{test}:members", id, &record]);
    }

    fn members(&self) -> u64 {
        self.server.run::<u64>(&["HLEN", "{test}:members"]) - 1
    }
}

/// One lease before this time of Redis's clock, microseconds.
fn earlier(time: u64) -> u64 {
    time - u64::try_from(LEASE.as_micros()).unwrap()
}

fn behind(synced: &Synced) -> Vec<&str> {
    synced.behind.iter().map(|holder| &*holder.id).collect()
}

#[tokio::test]
async fn a_sync_from_before_an_outage_shows_no_return() {
    let fleet = Fleet::start().await;
    let first = fleet.sync("b", None).await.generation;
    let after = fleet.after_an_outage().await;
    assert!(after.generation.number > first.number && after.silent_until <= after.clock);
    assert_eq!(behind(&after), ["b"]);
    fleet.sync("b", Some(first)).await;
    fleet.sync("b", None).await;
    assert_eq!(behind(&fleet.sync("a", None).await), ["b"], "it was sent before the outage");
    fleet.sync("b", Some(after.generation)).await;
    assert!(behind(&fleet.sync("a", None).await).is_empty());
    fleet.sync("b", Some(first)).await;
    assert!(behind(&fleet.sync("a", None).await).is_empty(), "what is executed late takes nothing back");
}

#[tokio::test]
async fn a_proxy_that_is_new_learns_who_is_behind() {
    let fleet = Fleet::start().await;
    fleet.after_an_outage().await;
    let new = fleet.sync("c", None).await;
    assert!(behind(&new).contains(&"b"), "{new:?}");
    fleet.sync("b", Some(new.generation)).await;
    fleet.sync("a", Some(new.generation)).await;
    assert!(behind(&fleet.sync("c", None).await).is_empty());
}

#[tokio::test]
async fn an_expulsion_that_is_late_hides_nobody_who_is_behind() {
    let fleet = Fleet::start().await;
    fleet.after_an_outage().await;
    let behind_one = fleet.sync("a", None).await.behind.remove(0);
    assert!(fleet.store.expel(&behind_one).await.unwrap());
    let holders = fleet.store.invalidate(&tags(), &NOBODY).await.unwrap().holders;
    assert!(holders.iter().all(|holder| *holder.id != *behind_one.id), "no write waits for it");
    assert_eq!(behind(&fleet.sync("a", None).await), ["b"]);
}

#[tokio::test]
async fn a_dismissal_that_is_late_removes_nobody() {
    let fleet = Fleet::start().await;
    let after = fleet.after_an_outage().await;
    let lost = after.behind[0].clone();
    fleet.begin_silence();
    assert!(
        !fleet.store.dismiss(&lost, after.generation).await.unwrap(),
        "all are silent: there is an outage now"
    );
    let next = fleet.sync("a", None).await.generation;
    assert!(!fleet.store.dismiss(&lost, after.generation).await.unwrap(), "there was another outage since");
    assert!(fleet.store.dismiss(&lost, next).await.unwrap());
    assert!(behind(&fleet.sync("a", Some(next)).await).is_empty());
}

#[tokio::test]
async fn a_sync_that_is_late_brings_back_a_member_whom_writes_await_once() {
    let fleet = Fleet::start().await;
    fleet.sync("a", None).await;
    fleet.sync("b", None).await;
    fleet.store.leave("b").await.unwrap();
    fleet.sync("b", None).await;
    let holders = fleet.store.invalidate(&tags(), &Cause { by: "a", ..NOBODY }).await.unwrap().holders;
    assert_eq!(holders.len(), 1);
    assert!(fleet.store.expel(&holders[0]).await.unwrap());
    let holders = fleet.store.invalidate(&tags(), &Cause { by: "a", ..NOBODY }).await.unwrap().holders;
    assert!(holders.is_empty());
}

#[tokio::test]
async fn an_invalidation_that_is_late_invalidates_more() {
    let fleet = Fleet::start().await;
    let before = fleet.store.view(&tags()).await.unwrap().stamp;
    fleet.store.invalidate(&tags(), &NOBODY).await.unwrap();
    let between = fleet.store.view(&tags()).await.unwrap();
    assert!(!between.is_current(before) && between.is_current(between.stamp));
    fleet.store.invalidate(&tags(), &NOBODY).await.unwrap();
    assert!(!fleet.store.view(&tags()).await.unwrap().is_current(between.stamp));
}

#[tokio::test]
async fn an_intent_that_is_recorded_or_dropped_late_costs_an_invalidation_at_most() {
    let fleet = Fleet::start().await;
    let intent = Intent { id: "w1".into(), tags: tags().to_vec() };
    let carried_out = Cause { intent: Some("w1"), ..NOBODY };
    fleet.store.invalidate(&tags(), &carried_out).await.unwrap();
    fleet.store.record(&intent, Duration::ZERO).await.unwrap();
    let due = fleet.sync("a", None).await.due;
    assert_eq!(due, [intent], "it is found and carried out, once more");
    fleet.store.forget("w1").await.unwrap();
    assert!(fleet.sync("a", None).await.due.is_empty());
    fleet.store.forget("w1").await.expect("there is nothing to drop any more");
}

#[tokio::test]
async fn records_of_members_that_are_gone_are_removed() {
    let fleet = Fleet::start().await;
    let seen = fleet.sync("gone", None).await.generation;
    fleet.sync("gone", Some(seen)).await;
    let record = fleet.server.run::<String>(&["HGET", "{test}:members", "gone"]);
    // As if it had last synced a second longer ago than its lease.
    let (syncs, rest) = record.split_once(':').unwrap();
    let (_, rest) = rest.split_once(':').unwrap();
    let syncs = earlier(syncs.parse().unwrap()) - 1_000_000;
    let set = |lease: &str| {
        fleet.server.run::<()>(&["HSET", "{test}:members", "gone", &format!("{syncs}:{lease}:{rest}")]);
    };
    set("20000");
    fleet.sync("a", Some(seen)).await;
    assert_eq!(fleet.members(), 2, "a write has to wait for its lease");
    set("0");
    fleet.sync("a", Some(seen)).await;
    assert_eq!(fleet.members(), 1);
}

#[tokio::test]
async fn a_late_fleet_lock_expires_and_its_release_frees_no_other() {
    let fleet = Fleet::start().await;
    let stamp = fleet.store.view(&[]).await.unwrap().stamp;
    let claim = |id: &str| FleetLock { stamp, id: id.into() };
    let lasting = Duration::from_millis(100);
    assert_eq!(fleet.store.lock_fetch("k:v1", &claim("late"), lasting, None).await.unwrap(), LockReply::Ours);
    eventually("it has lapsed", || fleet.server.run::<u64>(&["EXISTS", "test:k:v1:lock"]) == 0).await;
    assert_eq!(fleet.store.lock_fetch("k:v1", &claim("new"), LEASE * 100, None).await.unwrap(), LockReply::Ours);
    fleet.store.unlock_fetch("k:v1", &claim("late"), true).await.unwrap();
    let asked = fleet.store.lock_fetch("k:v1", &claim("other"), lasting, None).await.unwrap();
    assert_eq!(asked, LockReply::Theirs(claim("new")));
}

#[tokio::test]
async fn an_entry_that_is_put_late_is_judged_by_the_marks() {
    let fleet = Fleet::start().await;
    let stamp = fleet.store.view(&tags()).await.unwrap().stamp;
    fleet.store.invalidate(&tags(), &NOBODY).await.unwrap();
    fleet.store.put(KEY, Bytes::from_static(b"late"), PATIENCE).await.unwrap();
    let found = fleet.store.lookup(KEY, &tags()).await.unwrap();
    assert!(found.entry.is_some() && !found.view.is_current(stamp));
}

#[tokio::test]
async fn a_departure_that_is_late_ends_nobody_elses_membership() {
    let fleet = Fleet::start().await;
    fleet.sync("gone", None).await;
    fleet.sync("new", None).await;
    fleet.store.leave("gone").await.unwrap();
    fleet.store.leave("gone").await.expect("once more");
    assert_eq!(fleet.members(), 1);
}

#[tokio::test]
async fn a_removal_that_is_late_costs_a_miss_and_the_sweepers_only_what_was_judged() {
    use larder::store::sweep::{Judged, WalkPosition};
    let fleet = Fleet::start().await;
    let put = async |text: &'static str| {
        fleet.store.put(KEY, Bytes::from_static(text.as_bytes()), PATIENCE).await.unwrap();
    };
    put("old entry").await;
    let survey = fleet.store.survey(WalkPosition::default(), 100).await.unwrap();
    let judged: Vec<_> =
        survey.specimens.into_iter().map(|it| Judged { name: it.name, beginning: it.beginning }).collect();
    put("new entry").await;
    assert_eq!(fleet.store.unlink(WalkPosition::default(), &judged).await.unwrap(), 0);
    assert!(fleet.store.get(KEY).await.unwrap().is_some());
    assert!(fleet.store.remove(KEY).await.unwrap());
    assert!(!fleet.store.remove(KEY).await.unwrap());
}

#[tokio::test]
async fn the_sweepers_lease_and_its_key_stats_that_are_late_are_replaced() {
    let fleet = Fleet::start().await;
    assert!(fleet.store.hold_sweep("late", Duration::from_millis(100)).await.unwrap());
    assert!(!fleet.store.hold_sweep("other", LEASE).await.unwrap(), "nobody else sweeps for its time");
    eventually("it has lapsed", || fleet.server.run::<u64>(&["EXISTS", "{test}:sweeper"]) == 0).await;
    assert!(fleet.store.hold_sweep("other", LEASE).await.unwrap());
    let key_stats = larder::store::sweep::KeyStats::default();
    for _ in 0..2 {
        fleet.store.store_key_stats(&key_stats, PATIENCE).await.unwrap();
    }
    assert!(fleet.store.key_stats().await.unwrap().is_some());
}

#[tokio::test]
async fn a_proxy_that_connects_late_begins_no_epoch_where_one_is_whole() {
    let fleet = Fleet::start().await;
    let before = fleet.store.view(&[]).await.unwrap().stamp.epoch;
    let other = store_on(&fleet.server).await;
    assert_eq!(other.view(&[]).await.unwrap().stamp.epoch, before);
}

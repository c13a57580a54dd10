//! What the store does for its sweeper.

use std::collections::BTreeSet;

use larder::entry::{Content, Entry, Preface, Seal, VaryIndex};
use larder::store::sweep::{Judged, Kept, KeyStats, Specimen, WalkPosition};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn entry(text: &str, stamp: Stamp, tags: Vec<Tag>) -> Bytes {
    Entry::new(text, stamp, tags, Content::VaryIndex(VaryIndex::default())).encode(&Seal::new("test", None), "")
}

fn name(number: usize) -> String {
    format!("users:{number}:0cc175b9c0f1b6a831c399e269772661:v1")
}

/// A whole walk.
async fn walk(store: &RedisStore) -> Vec<Specimen> {
    let (mut met, mut place) = (Vec::new(), Some(WalkPosition::default()));
    while let Some(at) = place {
        let survey = store.survey(at, 10).await.unwrap();
        met.extend(survey.specimens);
        place = survey.next;
    }
    met
}

/// As the sweeper would have it if it found the entry invalidated.
fn judged(specimen: &Specimen) -> Judged {
    let Preface::Whole { length, .. } = Preface::of(&specimen.beginning) else { panic!("{specimen:?}") };
    Judged { name: specimen.name.clone(), beginning: specimen.beginning.slice(..length) }
}

#[tokio::test]
async fn a_walk_finds_every_entry_with_its_stamp_and_tags() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let stamp = store.view(&[]).await.unwrap().stamp;
    for number in 0..50 {
        // Some are longer than what is read at first; one is longer than what is read at all.
        let text = "x".repeat(if number == 49 { 100_000 } else { number * 40 });
        let value = entry(&text, stamp, vec![Tag::family(&number.to_string())]);
        store.put(&name(number), value, HOUR).await.unwrap();
    }
    // What is no entry is not met, whatever it is.
    server.run::<()>(&["SET", "other:users:1:0:v1", "x"]);
    server.run::<()>(&["HSET", "test:users:9:0:v1", "x", "x"]);
    let met = walk(&store).await;
    let labels: BTreeSet<String> = met.iter().map(|specimen| specimen.label.clone()).collect();
    assert_eq!(labels, (0..50).map(|number| format!("users:{number}")).collect());
    for specimen in &met {
        let number = specimen.label.rsplit(':').next().unwrap();
        let length = server.run::<u64>(&["STRLEN", std::str::from_utf8(&specimen.name).unwrap()]);
        assert_eq!(specimen.bytes, length);
        match Preface::of(&specimen.beginning) {
            Preface::Whole { stamp: found, tags, .. } => {
                assert_eq!((found, tags), (stamp, vec![Tag::family(number)]));
            }
            Preface::Wanting(wanted) => assert!(number == "49" && wanted > 100_000, "{number}: {wanted}"),
            Preface::Foreign => panic!("{number}"),
        }
    }
}

#[tokio::test]
async fn an_entry_that_replaced_the_judged_one_stays() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let old = store.view(&[]).await.unwrap().stamp;
    for number in 0..2 {
        store.put(&name(number), entry("a", old, tags().to_vec()), HOUR).await.unwrap();
    }
    let judged: Vec<Judged> = walk(&store).await.iter().map(judged).collect();
    // Between the look and the removal.
    let new = store.invalidate(&tags(), &NOBODY).await.unwrap().taken.stamp;
    let fresh = entry("a", new, tags().to_vec());
    store.put(&name(1), fresh.clone(), HOUR).await.unwrap();
    assert_eq!(store.unlink(WalkPosition::default(), &judged).await.unwrap(), 1);
    assert_eq!(store.get(&name(0)).await.unwrap(), None);
    assert_eq!(store.get(&name(1)).await.unwrap(), Some(fresh));
    assert_eq!(store.unlink(WalkPosition::default(), &judged).await.unwrap(), 0);
}

#[tokio::test]
async fn views_of_several_sets_are_those_of_each() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let sets = [vec![Tag::family("a")], vec![], vec![Tag::family("b"), Tag::family("a")], vec![Tag::family("b")]];
    store.invalidate(&[Tag::family("a")], &NOBODY).await.unwrap();
    store.invalidate(&[Tag::family("c")], &NOBODY).await.unwrap();
    let slices: Vec<&[Tag]> = sets.iter().map(Vec::as_slice).collect();
    let views = store.views(&slices).await.unwrap();
    for (set, view) in sets.iter().zip(&views) {
        assert_eq!(*view, store.view(set).await.unwrap(), "{set:?}");
    }
    assert!(views[0].newest > views[3].newest);
    // Marks that do not prove themselves whole make nothing current.
    server.run::<()>(&["DEL", MARKS]);
    let views = store.views(&slices).await.unwrap();
    assert!(views.len() == 4 && views.iter().all(|view| view.newest == view.stamp.sequence), "{views:?}");
}

#[tokio::test]
async fn one_proxy_at_a_time_holds_the_lease() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    assert!(one.hold_sweep("p1", HOUR).await.unwrap());
    assert!(!two.hold_sweep("p2", HOUR).await.unwrap());
    assert!(one.hold_sweep("p1", Duration::from_millis(1)).await.unwrap(), "renewed");
    recovered_lease(&two).await;
    assert!(!one.hold_sweep("p1", HOUR).await.unwrap());
}

/// The other one's lease is over.
async fn recovered_lease(store: &RedisStore) {
    let held = async {
        while !store.hold_sweep("p2", HOUR).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, held).await.expect("a lease ends");
}

#[tokio::test]
async fn key_stats_are_readable_by_all_proxies_until_they_expire() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    assert_eq!(two.key_stats().await.unwrap(), None);
    let families = [("users".to_owned(), Kept { keys: 2, bytes: 300 })].into();
    let key_stats = KeyStats { by: "p1".to_owned(), families, removed: 1, unreadable: 0, seconds: 3 };
    one.store_key_stats(&key_stats, HOUR).await.unwrap();
    let dated = two.key_stats().await.unwrap().expect("it is there");
    assert_eq!(dated.key_stats, key_stats);
    assert!(dated.age < PATIENCE, "{:?}", dated.age);
    assert!(server.run::<i64>(&["PTTL", "{test}:key_stats"]) > 0, "it expires");
}

//! The store in Redis, alone, against real servers: what it keeps, and what it does when the server loses it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use larder::config::store_url::Login;
use larder::config::{Coherence, OnOutage, StoreConfig};
use larder::marks::{Epoch, MarksView, SoftInvalidation, Stamp, Tag};
use larder::store::fleet::{Again, Cause, FleetLock, Holder, Intent, LockReply, Membership, Registration};
use larder::store::redis::{ConnectFault, RedisStore};
use larder::store::{Link, LookupReply, Store, StoreError};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::RedisServer;
use crate::support::redis::free_port;

mod bounds;
mod fleet;
mod late;
mod log;
pub mod replicas;
mod soft;
mod sweep;
mod tampered;
mod twin;
pub mod users;

use self::log::Log;

const META: &str = "{test}:meta";
const MARKS: &str = "{test}:marks";
const KEY: &str = "user_details:42:0cc175b9c0f1b6a831c399e269772661:v1";

/// No proxy, for no write.
const NOBODY: Cause<'static> = Cause { by: "", intent: None, soft: &[], again: &[], watched: &[], record: "" };

/// Far more than any answer takes, so that a busy machine does not look like a hung server.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn config(url: &str) -> StoreConfig {
    StoreConfig {
        redis: url.to_owned(),
        login: Login::default(),
        password_file: None,
        tls_ca: None,
        tls_identity: None,
        namespace: "test".to_owned(),
        version: None,
        compress: false,
        compress_above: 1 << 10,
        timeout: crate::support::PATIENCE,
        connect_timeout: crate::support::PATIENCE,
        marks_max: 1_000_000,
        coherence: Coherence::default(),
        lease: Duration::from_secs(1),
        on_outage: OnOutage::default(),
        wait_replicas: 0,
        collapse_timeout: PATIENCE,
        sweep_rate: 0,
        sweep_pause: PATIENCE,
        secret: None,
    }
}

fn open(config: &StoreConfig) -> RedisStore {
    RedisStore::new(config).expect("the URL is good")
}

/// A proxy that serves from memory.
fn membership(id: &str, applied: Option<Stamp>, lease: Duration) -> Membership {
    let (serves_memory, seen, asks_who_is_behind) = (true, None, false);
    let registration = Registration { number: 1, ..Registration::default() };
    Membership {
        id: id.into(),
        applied,
        lease,
        serves_memory,
        period: lease,
        seen,
        asks_who_is_behind,
        registration,
    }
}

/// A store on this server, connected.
pub async fn store_on(server: &RedisServer) -> RedisStore {
    let store = open(&config(&server.url()));
    store.connect_once().await.expect("the server is there");
    store
}

/// Waits until `condition` holds; the runtime goes on meanwhile.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(crate::support::PATIENCE, holds).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

async fn becomes(store: &RedisStore, what: &str, wanted: impl FnMut(&Link) -> bool) {
    let mut changes = store.changes();
    let reached = timeout(Duration::from_secs(10), changes.wait_for(wanted)).await;
    assert!(reached.is_ok(), "the link does not become {what}: it is {:?}", store.link());
}

async fn becomes_up(store: &RedisStore) {
    becomes(store, "up", |link| *link == Link::Up).await;
}

async fn becomes_down(store: &RedisStore) {
    becomes(store, "down", |link| matches!(link, Link::Down(_))).await;
}

/// Answers as soon as the link has recovered: what a request does that is repeated until then.
async fn recovered<T>(store: &RedisStore, ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    for _ in 0..10 {
        if let Ok(answer) = ask().await {
            return answer;
        }
        becomes_up(store).await;
    }
    panic!("no answer although the link came up ten times");
}

fn tags() -> [Tag; 2] {
    [Tag::family("user_details"), Tag::family("user_details:42")]
}

/// An entry is its stamp here: the store does not look into it.
fn encode(stamp: Stamp) -> Bytes {
    Bytes::from(format!("{} {}", stamp.epoch.0, stamp.sequence))
}

fn decode(entry: &[u8]) -> Stamp {
    let text = std::str::from_utf8(entry).expect("the entry is as it was kept");
    let (epoch, sequence) = text.split_once(' ').expect("the entry is as it was kept");
    Stamp { epoch: Epoch(epoch.parse().unwrap()), sequence: sequence.parse().unwrap() }
}

/// Keeps an entry as a fetch would: stamped with what was read before it.
async fn keep_entry(store: &RedisStore) -> Stamp {
    let view = store.view(&tags()).await.unwrap();
    store.put(KEY, encode(view.stamp), Duration::from_secs(60)).await.unwrap();
    view.stamp
}

/// Whether a lookup finds an entry that it may serve.
fn hits(found: &LookupReply) -> bool {
    found.entry.as_ref().is_some_and(|entry| found.view.is_current(decode(entry)))
}

async fn lookup(store: &RedisStore) -> LookupReply {
    store.lookup(KEY, &tags()).await.unwrap()
}

/// An entry is kept and found current; then `lose` happens; and its stamp must not be current for anyone again.
async fn loses_currency(lose: impl AsyncFnOnce(&mut RedisServer, &RedisStore)) {
    let mut server = RedisServer::start();
    let store = store_on(&server).await;
    let stamp = keep_entry(&store).await;
    assert!(hits(&lookup(&store).await), "current before");
    lose(&mut server, &store).await;
    let found = recovered(&store, async || store.lookup(KEY, &tags()).await).await;
    assert!(!hits(&found) && !found.view.is_current(stamp), "{found:?} makes {stamp:?} current");
    // And the new epoch serves what is stored in it.
    keep_entry(&store).await;
    assert!(hits(&lookup(&store).await), "an entry made afterwards is current");
}

#[tokio::test]
async fn an_entry_is_current_until_one_of_its_tags_is_invalidated() {
    loses_currency(async |_, store| {
        store.invalidate(&[Tag::family("user_list")], &NOBODY).await.unwrap();
        assert!(hits(&lookup(store).await), "another tag does not matter");
        store.invalidate(&[Tag::family("user_details:42")], &NOBODY).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_root_tag_invalidates_everything() {
    loses_currency(async |_, store| {
        store.invalidate(&[Tag::root()], &NOBODY).await.unwrap();
        let alone = store.view(&[]).await.unwrap();
        assert_eq!(alone.newest, alone.stamp.sequence, "the root tag is always asked for");
    })
    .await;
}

#[tokio::test]
async fn what_was_stamped_before_a_write_and_stored_after_it_is_not_current() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let before = store.view(&tags()).await.unwrap().stamp;
    let sequence = store.invalidate(&tags(), &NOBODY).await.unwrap().taken.stamp.sequence;
    store.put(KEY, encode(before), Duration::from_secs(60)).await.unwrap();
    let found = lookup(&store).await;
    assert!(!hits(&found));
    assert_eq!((found.view.newest, found.view.stamp.sequence), (sequence, sequence));
}

#[tokio::test]
async fn two_proxies_see_each_others_writes_and_entries() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    keep_entry(&one).await;
    assert!(hits(&lookup(&two).await));
    two.invalidate(&tags(), &NOBODY).await.unwrap();
    assert!(!hits(&lookup(&one).await));
}

#[tokio::test]
async fn a_flush_starts_a_new_epoch() {
    loses_currency(async |server, _| server.flush_all()).await;
}

#[tokio::test]
async fn lost_marks_start_a_new_epoch() {
    loses_currency(async |server, store| {
        store.invalidate(&tags(), &NOBODY).await.unwrap();
        server.run::<()>(&["DEL", MARKS]);
    })
    .await;
}

#[tokio::test]
async fn a_lost_meta_starts_a_new_epoch() {
    loses_currency(async |server, _| server.run::<()>(&["DEL", META])).await;
}

#[tokio::test]
async fn any_lost_or_unreadable_field_of_meta_starts_a_new_epoch() {
    for field in ["epoch", "seq", "floor", "run_id"] {
        loses_currency(async |server, _| server.run::<()>(&["HDEL", META, field])).await;
    }
    for field in ["epoch", "seq", "floor"] {
        loses_currency(async |server, _| server.run::<()>(&["HSET", META, field, "-1e400"])).await;
    }
}

#[tokio::test]
async fn an_invalidation_notices_a_loss_by_itself() {
    for lost in [META, MARKS] {
        loses_currency(async |server, store| {
            server.run::<()>(&["DEL", lost]);
            store.invalidate(&[Tag::family("user_list")], &NOBODY).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_restarted_empty_starts_a_new_epoch() {
    loses_currency(async |server, _| {
        server.restart_empty();
    })
    .await;
}

#[tokio::test]
async fn a_server_restored_from_an_old_snapshot_starts_a_new_epoch() {
    loses_currency(async |server, store| {
        server.run::<()>(&["SAVE"]);
        store.invalidate(&tags(), &NOBODY).await.unwrap();
        server.restart();
        assert!(server.run::<bool>(&["EXISTS", &format!("test:{KEY}")]), "the old entry is back");
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_comes_after_an_old_snapshot_was_restored_does_not_trust_it() {
    let mut server = RedisServer::start();
    let store = store_on(&server).await;
    let stamp = keep_entry(&store).await;
    server.run::<()>(&["SAVE"]);
    store.invalidate(&tags(), &NOBODY).await.unwrap();
    drop(store);
    server.restart();
    let found = lookup(&store_on(&server).await).await;
    assert!(found.entry.is_some() && !hits(&found) && !found.view.is_current(stamp));
}

#[tokio::test]
async fn a_server_demoted_to_a_replica_answers_no_lookup_and_serves_again_when_promoted() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    keep_entry(&store).await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    assert!(matches!(store.lookup(KEY, &tags()).await, Err(StoreError::Away(_))));
    becomes(&store, "down as a replica", |link| matches!(link, Link::Down(why) if why.contains("READONLY"))).await;
    let late = open(&config(&server.url())).connect_once().await.expect_err("a replica is not connected to");
    assert!(
        matches!(&late, ConnectFault::Unreachable { reason, .. } if reason.contains("takes no writes")),
        "{late}"
    );
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    recovered(&store, async || store.lookup(KEY, &tags()).await).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_answers_no_lookup() {
    for (setting, refusing, taking) in [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")] {
        let server = RedisServer::start();
        let store = store_on(&server).await;
        keep_entry(&store).await;
        server.run::<()>(&["CONFIG", "SET", setting, refusing]);
        assert!(store.lookup(KEY, &tags()).await.is_err(), "{setting}");
        becomes_down(&store).await;
        server.run::<()>(&["CONFIG", "SET", setting, taking]);
        assert!(
            hits(&recovered(&store, async || store.lookup(KEY, &tags()).await).await),
            "{setting}: nothing was lost"
        );
    }
}

#[tokio::test]
async fn an_evicted_mark_set_is_noticed_although_meta_and_entries_remain() {
    loses_currency(async |server, store| {
        store.invalidate(&tags(), &NOBODY).await.unwrap();
        server.run::<()>(&["DEL", MARKS]);
        // Another client's mark without the sentinel proves nothing.
        server.run::<()>(&["ZADD", MARKS, "1", "user_list"]);
    })
    .await;
}

#[tokio::test]
async fn marks_are_read_between_sequence_and_meta_and_after_the_entry() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    server.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    lookup(&store).await;
    // id, time, microseconds, arguments, client, client name; the latest first
    type Logged = (u64, u64, u64, Vec<String>, String, String);
    let mut log: Vec<Logged> = server.run(&["SLOWLOG", "GET", "-1"]);
    log.reverse();
    let client = log.iter().find(|line| line.3[0] == "GETRANGE").expect("a lookup").4.clone();
    let names = log.into_iter().filter(|line| line.4 == client).map(|line| line.3[0].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["GETRANGE", "HGET", "ZMSCORE", "HSETNX", "HMGET"]);
}

/// A configuration whose limits a test means to run into.
fn hasty(server: &RedisServer) -> StoreConfig {
    let limit = Duration::from_millis(200);
    StoreConfig { timeout: limit, connect_timeout: limit, ..config(&server.url()) }
}

#[tokio::test]
async fn a_hung_server_costs_pending_requests_one_time_limit_and_is_reused_when_it_wakes() {
    let server = RedisServer::start();
    let store = open(&hasty(&server));
    becomes_up(&store).await;
    let stamp = recovered(&store, async || store.view(&tags()).await).await.stamp;
    server.hang();
    let tags = tags();
    let me = membership("p1", None, PATIENCE);
    let intent = Intent { id: "w1".into(), tags: tags.to_vec() };
    let holder = Holder { id: "p1".into(), lease: PATIENCE, syncs: 1 };
    let in_flight = async {
        tokio::join!(
            store.lookup(KEY, &tags),
            store.view(&tags),
            store.get(KEY),
            store.put(KEY, Bytes::from_static(b"x"), PATIENCE),
            store.invalidate(&tags, &NOBODY),
            store.info(),
            store.count_keys(10, &|label| label.to_owned()),
            store.sync(&me),
            store.record(&intent, PATIENCE),
            store.forget("w1"),
            store.expel(&holder),
            store.leave("p1"),
        )
    };
    let (a, b, c, d, e, f, g, h, i, j, k, l) =
        timeout(PATIENCE, in_flight).await.expect("each returns by its limit");
    let ends = [
        a.err(),
        b.err(),
        c.err(),
        d.err(),
        e.err(),
        f.err(),
        g.err(),
        h.err(),
        i.err(),
        j.err(),
        k.err(),
        l.err(),
    ];
    // Away, for those that the link's own heartbeat was ahead of.
    let is_expected = |end: &Option<StoreError>| matches!(end, Some(StoreError::Timeout(_) | StoreError::Away(_)));
    assert!(ends.iter().all(is_expected), "{ends:?}");
    becomes(&store, "down as hung", |link| matches!(link, Link::Down(why) if why.contains("did not answer")))
        .await;
    // Many times more requests than could each have waited.
    let refused = async {
        for _ in 0..1000 {
            assert!(matches!(store.lookup(KEY, &tags).await, Err(StoreError::Away(_))));
        }
    };
    timeout(PATIENCE, refused).await.expect("no request waits while the link is down");
    server.resume();
    becomes_up(&store).await;
    let view = recovered(&store, async || store.view(&tags).await).await;
    assert_eq!(view.stamp.epoch, stamp.epoch, "the same server, which lost nothing");
}

#[tokio::test]
async fn an_idle_link_to_a_hung_server_is_dropped_before_a_request_uses_it() {
    let server = RedisServer::start();
    let store = open(&hasty(&server));
    becomes_up(&store).await;
    server.hang();
    becomes_down(&store).await;
}

#[tokio::test]
async fn a_server_killed_and_restarted_on_the_same_port_is_used_again() {
    let mut server = RedisServer::start();
    let store = store_on(&server).await;
    server.kill();
    assert!(matches!(store.view(&tags()).await, Err(StoreError::Away(_))));
    becomes_down(&store).await;
    server.restart_empty();
    recovered(&store, async || store.view(&tags()).await).await;
}

#[tokio::test]
async fn a_store_can_be_created_before_its_server_is_up() {
    let mut server = RedisServer::start();
    server.stop();
    let store = open(&config(&server.url()));
    assert!(matches!(store.view(&tags()).await, Err(StoreError::Away(_))));
    let fault = store.connect_once().await.unwrap_err();
    assert!(matches!(&fault, ConnectFault::Unreachable { reason, .. } if reason.contains("refused")), "{fault}");
    server.restart();
    becomes_up(&store).await;
    store.connect_once().await.expect("the latest attempt counts");
}

#[tokio::test]
async fn a_dropped_store_leaves_no_connection_behind() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let clients = || server.run::<String>(&["CLIENT", "LIST"]).lines().count();
    eventually("there are three of the store, and the one that asks", || clients() == 4).await;
    drop(store);
    eventually("the connections are closed", || clients() == 1).await;
}

/// A thread with a runtime of its own has its own connections, whose replies it reads when it is not busy.
#[test]
#[expect(clippy::disallowed_methods, reason = "the thread is to be busy")]
fn a_thread_that_is_too_busy_to_read_its_replies_in_time_does_not_take_the_link_down() {
    let server = RedisServer::start();
    let limit = Duration::from_millis(100);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(async {
        let store = open(&StoreConfig { timeout: limit, ..config(&server.url()) });
        store.connect_once().await.expect("the server is there");
        Arc::new(store)
    });
    let mut changes = store.changes();
    changes.mark_unchanged();
    let clients = || server.run::<String>(&["CLIENT", "LIST"]).lines().count();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        store.view(&tags()).await.unwrap();
        eventually("this thread has two beside the three of the store", || clients() == 6).await;
        // Until it uses them.
        let mut late = Ok(());
        for _ in 0..20 {
            let busy = tokio::spawn(async move {
                for _ in 0..8 {
                    std::thread::sleep(limit);
                    tokio::task::yield_now().await;
                }
            });
            late = store.view(&tags()).await.map(drop);
            busy.await.unwrap();
            if late.is_err() {
                break;
            }
        }
        assert!(matches!(late, Err(StoreError::Timeout(_))), "{late:?}");
        store.view(&tags()).await.expect("a thread that is not busy gets its reply");
    });
    assert!(!changes.has_changed().unwrap(), "{:?}", store.link());
}

/// The fault of a store on this URL, which must be one that waiting does not mend.
async fn rejection(url: &str) -> String {
    let store = open(&config(url));
    let fault = store.connect_once().await.expect_err("this must not connect");
    let ConnectFault::Rejected { reason, .. } = &fault else { panic!("{url}: {fault:?}") };
    assert_eq!(store.link(), Link::Down(reason.clone()));
    assert!(!fault.to_string().contains("s3cret"), "{fault}");
    fault.to_string()
}

#[tokio::test]
async fn a_wrong_password_is_reported_differently_from_an_absent_server() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let address = server.url();
    let port = address.rsplit_once(':').unwrap().1;
    let wrong = rejection(&format!("redis://:s3cret@127.0.0.1:{port}")).await;
    assert!(wrong.contains("wrong user or password") && wrong.contains(&address), "{wrong}");
    let none = rejection(&address).await;
    assert!(none.contains("requires a password"), "{none}");
    let right = open(&config(&format!("redis://:right@127.0.0.1:{port}/3")));
    right.connect_once().await.expect("the right password");
    right.put(KEY, Bytes::from_static(b"x"), PATIENCE).await.unwrap();
    assert!(server.run::<String>(&["INFO", "keyspace"]).contains("db3:"), "in the database of the URL");
}

#[tokio::test]
async fn a_named_user_logs_in_with_the_permissions_it_needs() {
    let server = RedisServer::start();
    server.run::<()>(&[
        "ACL",
        "SETUSER",
        "larder",
        "on",
        ">pass",
        "~test:*",
        "~{test}:*",
        "resetchannels",
        "&{test}:fleet",
        "+@all",
    ]);
    server.run::<()>(&["ACL", "SETUSER", "guest", "on", ">pass", "~test:*", "+get"]);
    let url = |user| server.url().replace("redis://", &format!("redis://{user}:pass@"));
    open(&config(&url("larder"))).connect_once().await.expect("a user with the permissions");
    let denied = rejection(&url("guest")).await;
    assert!(denied.contains("NOPERM"), "{denied}");
}

#[tokio::test]
async fn a_missing_database_is_reported() {
    let server = RedisServer::start();
    let fault = rejection(&format!("{}/99", server.url())).await;
    assert!(fault.contains("database") && fault.contains("out of range"), "{fault}");
}

#[tokio::test]
async fn a_peer_that_does_not_speak_redis_is_logged_once() {
    let log = Log::capture();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://:s3cret@{}", listener.local_addr().unwrap());
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    let peer = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            count.fetch_add(1, SeqCst);
        }
    });
    let store = open(&config(&url));
    eventually("it is tried again", || tried.load(SeqCst) >= 8).await;
    let fault = store.connect_once().await.unwrap_err();
    assert!(matches!(fault, ConnectFault::Rejected { .. }), "{fault}");
    let text = log.text();
    assert_eq!(text.matches("the connection to Redis is down").count(), 1, "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    peer.abort();
}

#[tokio::test]
async fn each_change_of_the_link_and_of_the_epoch_is_logged_with_its_cause() {
    let log = Log::capture();
    let mut server = RedisServer::start();
    let store = store_on(&server).await;
    server.run::<()>(&["DEL", MARKS]);
    store.view(&[]).await.unwrap();
    server.run::<()>(&["DEL", META]);
    store.view(&[]).await.unwrap();
    server.flush_all();
    store.view(&[]).await.unwrap();
    server.run::<()>(&["SAVE"]);
    server.kill();
    store.view(&[]).await.unwrap_err();
    server.restart();
    becomes_up(&store).await;
    let text = log.text();
    let expected = [
        "epoch started: the namespace is new",
        "connection to Redis is up",
        "server=",
        "epoch changed: marks lost",
        "epoch changed: meta lost",
        "epoch changed: new",
        "connection to Redis is down",
        "epoch changed: restarted",
        "connection to Redis is up",
    ];
    let mut rest = text.as_str();
    for cause in expected {
        rest = rest.split_once(cause).unwrap_or_else(|| panic!("no {cause:?} in its turn:\n{text}")).1;
    }
    assert_eq!(text.matches(": epoch ").count(), 5, "{text}");
}

/// A server that speaks TLS beside plain Redis, with a certificate that only those trust who are given it. Returns
/// the TLS port too.
async fn tls_server() -> (RedisServer, u16) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    // Its own issuer, as far as a client that trusts it goes, and yet fit for a server.
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &cert]);
    let made = openssl.output().expect("openssl can be run; tests/run installs it");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = free_port();
    let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &cert, "--tls-key-file", &key];
    let args = [&tls[..], &["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"]].concat();
    (RedisServer::start_in(dir, &args), port)
}

#[tokio::test]
async fn tls_refuses_an_untrusted_certificate_unless_verification_is_disabled() {
    let (server, port) = tls_server().await;
    let fault = rejection(&format!("rediss://127.0.0.1:{port}")).await;
    assert!(fault.contains("TLS") && fault.contains("certificate"), "{fault}");
    let store = open(&config(&format!("rediss://127.0.0.1:{port}/2#insecure")));
    store.connect_once().await.expect("the certificate is not looked at");
    keep_entry(&store).await;
    assert!(hits(&lookup(&store).await));
    assert!(server.run::<String>(&["INFO", "keyspace"]).contains("db2:"));
}

#[tokio::test]
async fn tls_trusts_the_certificates_of_the_system() {
    let (server, port) = tls_server().await;
    // The environment says which certificates the system trusts, and only a process of its own can be given another.
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "store_redis::tls_child_connects"]);
    test.env("SSL_CERT_FILE", server.dir().join("cert.pem")).env_remove("SSL_CERT_DIR");
    let ended = test.env("LARDER_TEST_TLS", format!("rediss://127.0.0.1:{port}")).output().unwrap();
    let output = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && output.contains("1 passed"), "{output}");
}

#[tokio::test]
#[ignore = "run by tls_trusts_the_certificates_of_the_system, which names the server in LARDER_TEST_TLS"]
async fn tls_child_connects() {
    let store = open(&config(&std::env::var("LARDER_TEST_TLS").expect("the URL of a server")));
    store.connect_once().await.expect("the certificate is trusted");
    keep_entry(&store).await;
    assert!(hits(&lookup(&store).await));
}

#[tokio::test]
async fn a_server_that_ignores_a_tls_handshake_is_reported_with_a_hint() {
    let server = RedisServer::start();
    let plain = hasty(&server);
    let store = open(&StoreConfig { redis: plain.redis.replace("redis://", "rediss://"), ..plain });
    let fault = store.connect_once().await.expect_err("plain Redis does not answer a TLS greeting");
    assert!(fault.to_string().contains("is the port a TLS port"), "{fault}");
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused_without_quoting_a_password() {
    for (url, reason) in [
        ("http://:s3cret@localhost", "another scheme"),
        ("redis+cluster://:s3cret@localhost/1", "one database only"),
        ("redis+sentinel://:s3cret@localhost/?sentinel_password=s3cret", "does not name the primary"),
        ("redis://:s3cret@localhost/users", "database number"),
        ("rediss://:s3cret@localhost/#sloppy", "only #insecure"),
        ("redis://:s3cret@", "no valid host"),
    ] {
        let fault = RedisStore::new(&config(url)).expect_err(url).to_string();
        assert!(fault.contains(reason) && !fault.contains("s3cret"), "{fault}");
    }
}

#[tokio::test]
async fn trimming_the_marks_raises_the_floor_and_never_makes_an_invalidated_entry_current() {
    let server = RedisServer::start();
    let store = open(&StoreConfig { marks_max: 5, ..config(&server.url()) });
    store.connect_once().await.unwrap();
    let old = keep_entry(&store).await;
    store.invalidate(&tags(), &NOBODY).await.unwrap();
    let mut issued = vec![];
    for instance in 0..20 {
        issued.push(
            store
                .invalidate(&[Tag::family(&format!("booking:{instance}"))], &NOBODY)
                .await
                .unwrap()
                .taken
                .stamp
                .sequence,
        );
    }
    assert_eq!(server.run::<u64>(&["ZCARD", MARKS]), 6, "five marks and the sentinel");
    let found = lookup(&store).await;
    assert!(!hits(&found) && !found.view.is_current(old), "the mark is gone, the floor stands for it");
    assert_eq!(found.view.newest, issued[14], "the floor is the youngest mark that was removed");
    assert_eq!(found.view.stamp.sequence, issued[19]);
}

#[tokio::test]
async fn any_number_of_instances_leaves_a_bounded_number_of_marks() {
    let server = RedisServer::start();
    let store = open(&StoreConfig { marks_max: 200, ..config(&server.url()) });
    store.connect_once().await.unwrap();
    for round in 0..50 {
        let instances: Vec<Tag> = (0..150).map(|n| Tag::family(&format!("user_details:{round}-{n}"))).collect();
        store.invalidate(&instances, &NOBODY).await.unwrap();
        assert!(server.run::<u64>(&["ZCARD", MARKS]) <= 201, "after {round} rounds");
    }
}

#[tokio::test]
async fn invalidating_more_tags_at_once_than_marks_are_kept_still_invalidates_them() {
    let server = RedisServer::start();
    let store = open(&StoreConfig { marks_max: 1, ..config(&server.url()) });
    store.connect_once().await.unwrap();
    let many: Vec<Tag> = (0..500).map(|n| Tag::family(&format!("user_details:{n}"))).collect();
    let before = store.view(&many).await.unwrap();
    let sequence = store.invalidate(&many, &NOBODY).await.unwrap().taken.stamp.sequence;
    assert_eq!(server.run::<u64>(&["ZCARD", MARKS]), 2);
    for tag in &many {
        let view = store.view(std::slice::from_ref(tag)).await.unwrap();
        assert!(view.newest == sequence && !view.is_current(before.stamp), "{tag}");
    }
}

#[tokio::test]
async fn a_lowered_limit_is_reached_in_bounded_steps() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let many: Vec<Tag> = (0..4000).map(|n| Tag::family(&format!("user_details:{n}"))).collect();
    store.invalidate(&many, &NOBODY).await.unwrap();
    let lowered = open(&StoreConfig { marks_max: 100, ..config(&server.url()) });
    lowered.connect_once().await.unwrap();
    let mut sizes = vec![];
    for _ in 0..5 {
        lowered.invalidate(&[Tag::family("user_list")], &NOBODY).await.unwrap();
        sizes.push(server.run::<u64>(&["ZCARD", MARKS]));
    }
    assert!(sizes[0] > 2000, "not all at once: {sizes:?}");
    assert_eq!(sizes[4], 101);
}

#[tokio::test]
async fn sequences_rise_even_when_the_clock_is_behind_them() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    // A day ahead, as after a clock that was set back; odd, so that a rounded number would show.
    let ahead = store.invalidate(&[], &NOBODY).await.unwrap().taken.stamp.sequence + 86_400_000_001;
    server.run::<()>(&["HSET", META, "seq", &ahead.to_string()]);
    let stamp = store.view(&[]).await.unwrap().stamp;
    assert_eq!(stamp.sequence, ahead);
    for step in 1..=3 {
        assert_eq!(store.invalidate(&tags(), &NOBODY).await.unwrap().taken.stamp.sequence, ahead + step);
    }
    assert_eq!(store.view(&tags()).await.unwrap().newest, ahead + 3);
}

#[tokio::test]
async fn a_new_epoch_goes_on_above_the_sequences_of_the_last() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let ahead = store.invalidate(&[], &NOBODY).await.unwrap().taken.stamp.sequence + 86_400_000_001;
    server.run::<()>(&["HSET", META, "seq", &ahead.to_string()]);
    server.run::<()>(&["DEL", MARKS]);
    assert_eq!(store.view(&[]).await.unwrap().stamp.sequence, ahead + 1);
}

#[tokio::test]
async fn a_stamp_is_the_last_sequence_issued_and_never_the_clock() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let sequence = store.invalidate(&tags(), &NOBODY).await.unwrap().taken.stamp.sequence;
    for _ in 0..3 {
        assert_eq!(store.view(&[]).await.unwrap().stamp.sequence, sequence);
    }
}

#[tokio::test]
async fn parallel_invalidations_take_distinct_sequences() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    let (tags_one, tags_two) = (tags(), [Tag::family("user_list")]);
    let mut taken = vec![];
    for _ in 0..20 {
        let (a, b, c, d) = tokio::join!(
            one.invalidate(&tags_one, &NOBODY),
            two.invalidate(&tags_one, &NOBODY),
            one.invalidate(&tags_two, &NOBODY),
            two.invalidate(&tags_two, &NOBODY)
        );
        taken.extend([a, b, c, d].map(|taken| taken.unwrap().taken.stamp.sequence));
    }
    let view = one.view(&[]).await.unwrap();
    taken.sort_unstable();
    assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "{taken:?}");
    assert_eq!(taken.last(), Some(&view.stamp.sequence));
}

#[tokio::test]
async fn parallel_lookups_after_a_flush_agree_on_one_epoch() {
    let server = RedisServer::start();
    let (one, two) = (store_on(&server).await, store_on(&server).await);
    server.flush_all();
    let none = [];
    let (a, b, c, d) =
        tokio::join!(one.view(&none), two.view(&none), one.invalidate(&none, &NOBODY), two.view(&none));
    let epoch = one.view(&none).await.unwrap().stamp.epoch;
    assert!([a, b, d].iter().all(|view| view.as_ref().unwrap().stamp.epoch == epoch));
    c.unwrap();
}

#[tokio::test]
async fn epochs_keep_all_their_64_bits() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let kept: u64 = server.run(&["HGET", META, "epoch"]);
    assert_eq!(store.view(&[]).await.unwrap().stamp.epoch, Epoch(kept), "as the script was given it");
    server.run::<()>(&["HSET", META, "epoch", &u64::MAX.to_string()]);
    assert_eq!(store.view(&[]).await.unwrap().stamp.epoch, Epoch(u64::MAX));
    store.invalidate(&tags(), &NOBODY).await.unwrap();
    assert_eq!(server.run::<u64>(&["HGET", META, "epoch"]), u64::MAX, "an invalidation leaves it alone");
}

#[tokio::test]
async fn scripts_forgotten_by_the_server_are_loaded_again() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let MarksView { stamp, .. } = store.view(&[]).await.unwrap();
    assert!(store.invalidate(&tags(), &NOBODY).await.unwrap().taken.stamp.sequence > stamp.sequence);
}

#[tokio::test]
async fn entries_have_readable_keys_and_a_time_to_live_and_can_be_removed() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let body = Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
    store.put(KEY, body.clone(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), Some(body.clone()));
    assert_eq!(lookup(&store).await.entry, Some(body));
    let ttl: i64 = server.run(&["PTTL", &format!("test:{KEY}")]);
    assert!((1..=60_000).contains(&ttl), "{ttl}");
    assert!(store.remove(KEY).await.unwrap());
    assert!(!store.remove(KEY).await.unwrap());
    assert_eq!(store.get(KEY).await.unwrap(), None);
    store.put(KEY, Bytes::from_static(b"x"), Duration::ZERO).await.expect("a TTL of less than a second is one");
}

#[tokio::test]
async fn entries_are_counted_by_family_and_nothing_else_is() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for n in 0..30 {
        let key = format!(
            "{}:{n:032x}:v1",
            ["-".to_owned(), "user_list".to_owned(), format!("user_details:{n}")][n % 3]
        );
        store.put(&key, Bytes::from_static(b"x"), PATIENCE).await.unwrap();
    }
    server.run::<()>(&["MSET", "testing:user_list:0:v1", "x", "test", "x", "other:user_list:0:v1", "x"]);
    let family = |label: &str| label.split(':').next().unwrap_or_default().to_owned();
    let counts = store.count_keys(1000, &family).await.unwrap();
    let expected = [("-", 10), ("user_details", 10), ("user_list", 10)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(counts.by_family, expected.into());
    assert!(counts.complete);
}

#[tokio::test]
async fn counting_ends_near_its_limit_and_is_marked_incomplete() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let script = "for i = 1, 5000 do redis.call('SET', 'test:user_list:' .. i .. ':v1', 'x') end";
    server.run::<()>(&["EVAL", script, "0"]);
    let counts = store.count_keys(1500, &|label| label.to_owned()).await.unwrap();
    assert!(!counts.complete);
    let counted = counts.by_family["user_list"];
    assert!((1500..5000).contains(&counted), "{counted}");
}

#[tokio::test]
async fn info_has_the_fields_of_the_server() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let info = store.info().await.unwrap();
    assert_eq!(info.text("role"), "master");
    assert!(info.number("used_memory") > 0.0);
    assert!(info.number("connected_clients") >= 2.0);
    assert_eq!(info.text("no_such_field"), "");
}

//! The store as one proxy sees it: the server behind a link that is slow, loses requests, replies and messages, stalls,
//! and breaks.
//!
//! A request that was sent is carried out by a task of its own, even if its caller has given up or
//! died. A connection belongs to one run of the server, and ends with it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use larder::marks::{IssuedStamp, MarksView, SoftInvalidation, Tag};
use larder::store::fleet::{
    Again, Cause, FleetBypass, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Membership, Message,
    Roster, Synced,
};
use larder::store::log::{LogContent, LogEntry, LogPosition};
use larder::store::sweep::{Dated, Judged, KeyStats, Specimen, Survey, WalkPosition};
use larder::store::{self, FamilyOf, KeyCounts, LookupReply, Outage, Reply, Store, StoreError, StoreInfo};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::aside::Aside;
use super::server::{CallerIdentity, Flaw, Graces, Server};
use super::world::World;

/// How a link behaves at the moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conduct {
    /// Nothing comes through; what was sent waits.
    pub stalled: bool,
    /// There is no connection, and none can be made.
    pub cut: bool,
    /// The proxy at this end has ended.
    pub dead: bool,
    /// A deposed server is taken for the primary, for as long as there is one.
    pub behind: bool,
    /// The most that a request, a reply or a message takes, milliseconds.
    pub slowness: u64,
    /// Shares that are lost.
    pub requests_lost: f64,
    pub replies_lost: f64,
    pub messages_lost: f64,
    /// Share of messages that come twice.
    pub messages_repeated: f64,
    /// Share of the requests whose sender has given up that are carried out all the same, later.
    pub late: f64,
    /// The most that it takes until then, milliseconds.
    pub latest: u64,
    /// The most that a message takes, milliseconds.
    pub message_slowness: u64,
}

impl Conduct {
    pub const GOOD: Conduct = Conduct {
        stalled: false,
        cut: false,
        dead: false,
        behind: false,
        slowness: 2,
        requests_lost: 0.0,
        replies_lost: 0.0,
        messages_lost: 0.0,
        messages_repeated: 0.0,
        late: 0.5,
        latest: 300,
        message_slowness: 2,
    };
}

/// A connection to one run of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    run: u64,
    number: u64,
}

/// One proxy's way to the server.
pub struct Link {
    pub name: String,
    world: Arc<World>,
    limit: Duration,
    conduct: Mutex<Conduct>,
    /// The process at this end is stopped: it sends nothing and takes nothing in.
    frozen: AtomicBool,
    /// Wakes the tasks that wait for a change of these two, in the order in which they began to wait.
    changed: Notify,
    /// Of each kind of request, so that a request of one kind does not change the random numbers of another in the same moment.
    chances: Mutex<BTreeMap<&'static str, StdRng>>,
    chance: u64,
    connection: Mutex<Option<Connection>>,
    /// Attempts to make one are under way.
    connecting: AtomicBool,
    outage: Mutex<Option<Outage>>,
    /// A channel for each task that watches it.
    watching_outage: Mutex<Vec<watch::Sender<Option<Outage>>>>,
    /// There are soft marks, as far as is known.
    soft: AtomicBool,
    /// A channel for each task that watches it, changed in the order in which they came: tokio wakes the tasks that share one `watch` in
    /// random order.
    state: Mutex<Vec<watch::Sender<store::Link>>>,
    messages: broadcast::Sender<Message>,
}

/// How a request ended.
enum End<T> {
    Answered(T),
    Broken,
}

impl Link {
    pub fn new(world: &Arc<World>, name: String, limit: Duration) -> Arc<Link> {
        let link = Arc::new(Link {
            name,
            world: Arc::clone(world),
            limit,
            conduct: Mutex::new(world.conduct()),
            frozen: AtomicBool::new(false),
            changed: Notify::new(),
            chances: Mutex::default(),
            chance: world.draw(Rng::random),
            connection: Mutex::new(None),
            connecting: AtomicBool::new(false),
            outage: Mutex::default(),
            watching_outage: Mutex::default(),
            soft: AtomicBool::new(false),
            state: Mutex::default(),
            messages: broadcast::Sender::new(64),
        });
        world.join(&link);
        // A proxy may start in an outage.
        let conduct = link.conduct();
        if conduct.cut || conduct.stalled {
            world.count("started in an outage");
            link.connect_later();
        } else {
            link.connect();
        }
        link
    }

    pub fn behave(self: &Arc<Link>, change: impl FnOnce(&mut Conduct)) {
        change(&mut self.conduct.lock().unwrap());
        self.changed.notify_waiters();
        if self.conduct().cut {
            self.part("cut off");
        }
    }

    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, SeqCst);
        self.changed.notify_waiters();
    }

    /// The connection has ended; another one is made as soon as that is possible.
    pub fn part(self: &Arc<Link>, reason: &str) {
        if self.connection.lock().unwrap().take().is_some() {
            self.tell_of(&store::Link::Down(reason.to_owned()));
        }
        self.connect_later();
    }

    /// Tries to make a connection until there is one, as `RedisStore` does.
    pub fn connect_later(self: &Arc<Link>) {
        if self.connecting.swap(true, SeqCst) {
            return;
        }
        let (link, pause) = (Arc::clone(self), self.world.millis(2, 250));
        tokio::spawn(async move {
            sleep(pause).await;
            while link.connection().is_none() && !link.conduct().dead {
                link.thawed().await;
                let begun = Instant::now();
                if link.attempt(begun).await {
                    link.change_outage(|_| None);
                    link.connect();
                    break;
                }
                link.change_outage(|outage| {
                    let since = outage.map_or(begun, |outage| outage.since);
                    Some(Outage { since, away_at: outage.map_or(begun, |outage| outage.away_at.max(begun)) })
                });
                if Instant::now() < begun + link.limit {
                    sleep(link.limit / 4).await;
                }
            }
            link.connecting.store(false, SeqCst);
        });
    }

    /// Whether the server answers within the limit. While it does not, in an outage, that is known to go on.
    async fn attempt(&self, begun: Instant) -> bool {
        let deadline = begun + self.limit;
        loop {
            let conduct = self.conduct();
            if conduct.cut || conduct.dead {
                return false;
            }
            if !conduct.stalled {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            let _ = timeout_at(deadline.min(Instant::now() + self.limit / 4), self.changed.notified()).await;
            let at = Instant::now() - self.limit;
            if self.conduct().stalled && at >= begun {
                self.change_outage(|outage| {
                    outage.map(|outage| Outage { away_at: outage.away_at.max(at), ..outage })
                });
            }
        }
    }

    fn change_outage(&self, change: impl FnOnce(Option<Outage>) -> Option<Outage>) {
        let mut outage = self.outage.lock().unwrap();
        *outage = change(*outage);
        let mut watching = self.watching_outage.lock().unwrap();
        watching.retain(|watched| watched.receiver_count() > 0);
        for watched in watching.iter() {
            watched.send_replace(*outage);
        }
    }

    fn connect(&self) {
        let conduct = self.conduct();
        let mut connection = self.connection.lock().unwrap();
        if connection.is_none() && !conduct.cut && !conduct.dead {
            let deposed = self.world.deposed().filter(|_| conduct.behind);
            let run = deposed.unwrap_or_else(|| self.world.server().run);
            *connection = Some(Connection { run, number: self.world.number() });
            drop(connection);
            self.tell_of(&store::Link::Up);
        }
    }

    /// Sends the state to all that watch it.
    fn tell_of(&self, state: &store::Link) {
        self.state.lock().unwrap().iter().for_each(|watched| drop(watched.send_replace(state.clone())));
    }

    fn state(&self) -> store::Link {
        match self.connection() {
            Some(_) => store::Link::Up,
            None => store::Link::Down("no connection".to_owned()),
        }
    }

    /// The run of the server that it leads to.
    pub fn run(&self) -> Option<u64> {
        self.connection().map(|connection| connection.run)
    }

    fn connection(&self) -> Option<Connection> {
        *self.connection.lock().unwrap()
    }

    /// Passes a message on, in its own time; or not.
    pub fn receive(self: &Arc<Link>, message: &Message) {
        let conduct = self.conduct();
        let Some(connection) = self.connection() else { return };
        let times = 1 + usize::from(self.world.happens(conduct.messages_repeated));
        for _ in 0..times {
            if self.world.happens(conduct.messages_lost) {
                self.world.count("message lost");
                continue;
            }
            let (link, message) = (Arc::clone(self), message.clone());
            let delay = self.world.millis(0, conduct.message_slowness);
            tokio::spawn(async move {
                pass(delay).await;
                link.passable().await;
                link.thawed().await;
                if link.connection() == Some(connection) && !link.conduct().dead {
                    let _ = link.messages.send(message);
                }
            });
        }
    }

    fn draw<T>(&self, op: &'static str, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        let of_op = op.bytes().fold(self.chance, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        draw(self.chances.lock().unwrap().entry(op).or_insert_with(|| StdRng::seed_from_u64(of_op)))
    }

    fn happens(&self, op: &'static str, share: f64) -> bool {
        self.draw(op, |chance| chance.random_bool(share))
    }

    fn conduct(&self) -> Conduct {
        *self.conduct.lock().unwrap()
    }

    async fn passable(&self) {
        while self.conduct().stalled {
            self.changed.notified().await;
        }
    }

    async fn thawed(&self) {
        while self.frozen.load(SeqCst) {
            self.changed.notified().await;
        }
    }

    /// Sends a request and waits for its reply.
    async fn send<T, F>(
        self: &Arc<Link>,
        op: &'static str,
        request: impl FnOnce(Arc<World>, u64) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.thawed().await;
        let deadline = Instant::now() + self.limit;
        let Some(connection) = self.connection() else {
            return Err(StoreError::Away("no connection".to_owned()));
        };
        let (give, take) = oneshot::channel();
        tokio::spawn(Arc::clone(self).carry(op, connection, request, give));
        let end = timeout_at(deadline, take).await;
        if let Ok(Err(_)) = end {
            // It was lost.
            sleep_until(deadline).await;
        }
        self.thawed().await;
        match end {
            Ok(Ok(End::Answered(answer))) => Ok(answer),
            Ok(Ok(End::Broken)) => Err(StoreError::Away("the connection broke".to_owned())),
            Ok(Err(_)) | Err(_) => {
                self.world.count("timeout");
                self.world.tell(|| format!("{} {op}: no answer", self.name));
                if self.happens(op, 0.3) {
                    self.part("it does not answer");
                }
                Err(StoreError::Timeout(self.limit))
            }
        }
    }

    async fn carry<T, F>(
        self: Arc<Link>,
        op: &'static str,
        connection: Connection,
        request: impl FnOnce(Arc<World>, u64) -> F + Send + 'static,
        give: oneshot::Sender<End<T>>,
    ) where
        F: Future<Output = T> + Send + 'static,
    {
        let conduct = self.conduct();
        let world = Arc::clone(&self.world);
        let way = || self.draw(op, |chance| Duration::from_millis(chance.random_range(0..=conduct.slowness)));
        let (there, back) = (way(), way());
        pass(there).await;
        self.passable().await;
        if self.happens(op, conduct.requests_lost) {
            world.count("request lost");
            return world.tell(|| format!("{} {op}: request lost", self.name));
        }
        let is_late = self.connection() != Some(connection);
        if is_late {
            let _ = give.send(End::Broken);
            // It may be in the server's buffers: that goes through them in its own time.
            if !self.happens(op, conduct.late) || !world.is_there(connection.run) {
                return;
            }
            let latest = self.conduct().latest;
            pass(self.draw(op, |chance| Duration::from_millis(chance.random_range(0..=latest)))).await;
            if !world.is_there(connection.run) {
                return;
            }
            world.count("carried out late");
            world.tell(|| format!("{} {op}: carried out late", self.name));
            request(Arc::clone(&world), connection.run).await;
            return world.pass_on();
        }
        let answer = request(Arc::clone(&world), connection.run).await;
        world.pass_on();
        pass(back).await;
        self.passable().await;
        if self.happens(op, conduct.replies_lost) {
            world.count("reply lost");
            return world.tell(|| format!("{} {op}: reply lost", self.name));
        }
        let is_there = self.connection() == Some(connection);
        let _ = give.send(if is_there { End::Answered(answer) } else { End::Broken });
    }

    /// A request that is carried out in one step.
    async fn script<T: Send + 'static>(
        self: &Arc<Link>,
        op: &'static str,
        script: impl FnOnce(&mut Server, &CallerIdentity) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let candidate = self.draw(op, |chance| chance.random_range(1..=u64::MAX));
        self.send(op, move |world, run| async move {
            let caller = CallerIdentity { run, candidate, now: world.clock() };
            world.on(run, |server| script(server, &caller))
        })
        .await
    }

    /// The same, and says whether the replica that is waited for has it.
    async fn proven_script<T: Send + 'static>(
        self: &Arc<Link>,
        op: &'static str,
        script: impl FnOnce(&mut Server, &CallerIdentity) -> T + Send + 'static,
    ) -> Result<(T, bool), StoreError> {
        let limit = self.limit / 3;
        let candidate = self.draw(op, |chance| chance.random_range(1..=u64::MAX));
        self.send(op, move |world, run| async move {
            let caller = CallerIdentity { run, candidate, now: world.clock() };
            let answer = world.on(run, |server| script(server, &caller));
            world.pass_on();
            (answer, is_replicated(&world, run, limit).await)
        })
        .await
    }

    /// The same for what has nothing to say if the replica lacks it.
    async fn proven<T: Send + 'static>(
        self: &Arc<Link>,
        op: &'static str,
        script: impl FnOnce(&mut Server, &CallerIdentity) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, is_replicated) = self.proven_script(op, script).await?;
        if is_replicated { Ok(answer) } else { Err(self.unreplicated(None)) }
    }

    fn unreplicated(&self, taken: Option<IssuedStamp>) -> StoreError {
        self.world.count("unreplicated");
        self.world.tell(|| format!("{}: the replica lacks it", self.name));
        StoreError::Unreplicated { taken, reason: "the replica does not follow".to_owned() }
    }

    /// A request for data that no guarantee depends on.
    async fn beside<T: Send + 'static>(
        self: &Arc<Link>,
        op: &'static str,
        act: impl FnOnce(&mut Aside, u64) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.send(op, move |world, _| async move { act(&mut world.aside.lock().unwrap(), world.clock()) }).await
    }

    /// Reads that do not prove that nothing is lost begin an epoch, which is another request.
    async fn view_or_begin(self: &Arc<Link>, view: Option<MarksView>) -> Result<MarksView, StoreError> {
        match view {
            Some(view) => Ok(view),
            None => self.script("begin", Server::begin).await,
        }
    }
}

/// `WAIT`: whether the replica comes to have what was carried out before.
async fn is_replicated(world: &World, run: u64, limit: Duration) -> bool {
    if !world.waits() {
        return true;
    }
    let deadline = Instant::now() + limit;
    loop {
        sleep(Duration::from_millis(3)).await;
        if world.is_replicated(run) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

/// What the reads of a lookup have returned.
struct Reading {
    entry: Option<Bytes>,
    view: Option<MarksView>,
    /// There are soft marks.
    soft: bool,
}

/// The reads of a lookup; soft marks are read only where there are some, as in `RedisStore`.
async fn read(link: Arc<Link>, world: Arc<World>, run: u64, key: Option<String>, tags: Vec<Tag>) -> Reading {
    if !link.soft.load(SeqCst) {
        let reading = read_once(&world, run, key.as_deref(), &tags, false).await;
        if !reading.soft {
            return reading;
        }
        between(&world).await;
    }
    let reading = read_once(&world, run, key.as_deref(), &tags, true).await;
    link.soft.store(reading.soft, SeqCst);
    reading
}

/// One pipeline, with others' commands in between.
async fn read_once(world: &World, run: u64, key: Option<&str>, tags: &[Tag], softly: bool) -> Reading {
    let entry = key.and_then(|key| world.on(run, |server| server.entry(key, world.clock())));
    let (flaw, late) = world.on(run, |server| (server.flaw, server.meta()));
    between(world).await;
    let graces = match softly {
        true => world.on(run, |server| server.graces(tags, world.clock())),
        false => Graces::none(),
    };
    between(world).await;
    let before = world.on(run, |server| server.sequence());
    between(world).await;
    let scores = world.on(run, |server| server.scores(tags, softly));
    between(world).await;
    world.on(run, |server| {
        server.touch();
        let meta = if flaw == Some(Flaw::MetaBeforeMarks) { late } else { server.meta() };
        let view = server.view_of(before, scores, &graces, meta, run);
        Reading { entry, view, soft: meta.soft() }
    })
}

async fn between(world: &World) {
    if world.happens(0.1) {
        pass(world.millis(0, 2)).await;
    }
}

/// Lets time pass; at least, other tasks run.
async fn pass(time: Duration) {
    if time.is_zero() { tokio::task::yield_now().await } else { sleep(time).await }
}

fn specimen(key: &str, value: &Bytes) -> Specimen {
    let label = key.trim_end_matches(":v1").rsplit_once(':').map_or("", |(label, _)| label);
    let (name, bytes) = (Bytes::from(key.to_owned()), value.len() as u64);
    Specimen { name, label: label.to_owned(), bytes, beginning: value.clone() }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The store, for one proxy.
#[derive(Debug, Clone)]
pub struct SimulatedStore(pub Arc<Link>);

/// A cause that can be sent.
#[derive(Clone)]
struct OwnCause {
    by: Box<str>,
    intent: Option<Box<str>>,
    soft: Vec<SoftInvalidation>,
    again: Vec<Again>,
    watched: Vec<Tag>,
}

impl OwnCause {
    fn of(cause: &Cause<'_>) -> OwnCause {
        OwnCause {
            by: cause.by.into(),
            intent: cause.intent.map(Into::into),
            soft: cause.soft.to_vec(),
            again: cause.again.to_vec(),
            watched: cause.watched.to_vec(),
        }
    }

    fn borrowed(&self) -> Cause<'_> {
        let OwnCause { by, intent, soft, again, watched } = self;
        // The log is no part of the protocol.
        Cause { by, intent: intent.as_deref(), soft, again, watched, record: "" }
    }
}

impl Store for SimulatedStore {
    fn lookup<'a>(&'a self, key: &'a str, tags: &'a [Tag]) -> Reply<'a, LookupReply> {
        let (key, tags) = (key.to_owned(), tags.to_vec());
        Box::pin(async move {
            let link = Arc::clone(&self.0);
            let read = self.0.send("lookup", move |world, run| read(link, world, run, Some(key), tags));
            let Reading { entry, view, .. } = read.await?;
            Ok(LookupReply { entry, view: self.0.view_or_begin(view).await? })
        })
    }

    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, MarksView> {
        let tags = tags.to_vec();
        Box::pin(async move {
            let link = Arc::clone(&self.0);
            let reading = self.0.send("view", move |world, run| read(link, world, run, None, tags)).await?;
            self.0.view_or_begin(reading.view).await
        })
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, ()> {
        let key = key.to_owned();
        Box::pin(self.0.script("put", move |server, caller| {
            server.put(&key, value, caller.now + ttl.as_micros() as u64);
        }))
    }

    fn put_new<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, bool> {
        let key = key.to_owned();
        Box::pin(self.0.script("put", move |server, caller| {
            server.put_new(&key, value, caller.now, caller.now + ttl.as_micros() as u64)
        }))
    }

    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated> {
        let (mut tags, cause, link) = (tags.to_vec(), OwnCause::of(cause), Arc::clone(&self.0));
        // What was kept comes out of a set, in a random order.
        tags.sort_unstable();
        let script = move |server: &mut Server, caller: &CallerIdentity| {
            let invalidated = server.invalidate(&tags, &cause.borrowed(), caller);
            cause.intent.iter().for_each(|intent| link.world.note_invalidation(intent));
            link.world.tell(|| {
                let (count, taken) = (invalidated.holders.len(), invalidated.taken.stamp);
                let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
                let (soft, again) = (&cause.soft, cause.again.len());
                let name = &link.name;
                format!("{name} invalidates {tags:?}, {soft:?}, {again} again: {taken:?}, {count} holders")
            });
            invalidated
        };
        Box::pin(async move {
            let (invalidated, is_replicated) = self.0.proven_script("invalidate", script).await?;
            let taken = invalidated.taken;
            if is_replicated { Ok(invalidated) } else { Err(self.0.unreplicated(Some(taken))) }
        })
    }

    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced> {
        let (me, link) = (me.clone(), Arc::clone(&self.0));
        Box::pin(self.0.proven("sync", move |server, caller| {
            let synced = server.sync(&me, caller);
            link.world.tell(|| {
                let marks = synced.marks.as_ref().map(Vec::len);
                // The epoch of a new table is its own, and random.
                let applied = me.applied.map(|applied| applied.sequence);
                let soft = synced.soft.len();
                let (seen, generation) = (me.seen.map(|seen| seen.number), synced.generation.number);
                let behind = synced.behind.len();
                let (rules, registry) = (&me.registration, &synced.registry);
                let unlearned = registry.content.as_ref().map(|content| content.unlearned);
                format!(
                    "{} syncs from {applied:?} to {:?}: {marks:?} and {soft} soft; seen {seen:?} of {generation}, {behind} \
                     behind; rules {} of {}, settled: {}, {unlearned:?} have not learned",
                    link.name, synced.stamp, rules.number, registry.registered, rules.is_settled
                )
            });
            synced
        }))
    }

    fn reach(&self) -> Reply<'_, MarksView> {
        Box::pin(async move {
            self.0.proven("reach", |_, _| ()).await?;
            self.0.world.count("reached later");
            self.view(&[]).await
        })
    }

    fn roster(&self) -> Reply<'_, Roster> {
        Box::pin(self.0.script("roster", Server::roster))
    }

    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()> {
        let id = id.to_owned();
        Box::pin(self.0.script("leave", move |server, caller| server.leave(&id, caller)))
    }

    fn set_bypass<'a>(&'a self, bypass: &'a FleetBypass) -> Reply<'a, Option<(bool, u64)>> {
        let bypass = bypass.clone();
        Box::pin(self.0.script("set_bypass", move |server, caller| server.set_bypass(&bypass, caller)))
    }

    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool> {
        let (holder, link) = (holder.clone(), Arc::clone(&self.0));
        Box::pin(self.0.script("expel", move |server, _| {
            let expelled = server.expel(&holder);
            link.world.count(if expelled { "expelled" } else { "not expelled" });
            link.world.tell(|| format!("{} expels: {expelled}", link.name));
            expelled
        }))
    }

    fn dismiss<'a>(&'a self, holder: &'a Holder, generation: Generation) -> Reply<'a, bool> {
        let (holder, link) = (holder.clone(), Arc::clone(&self.0));
        Box::pin(self.0.script("dismiss", move |server, caller| {
            let dismissed = server.dismiss(&holder, generation, caller);
            link.world.count(if dismissed { "dismissed" } else { "not dismissed" });
            link.world.tell(|| format!("{} dismisses a member: {dismissed}", link.name));
            dismissed
        }))
    }

    fn record<'a>(&'a self, intent: &'a Intent, within: Duration) -> Reply<'a, MarksView> {
        let intent = intent.clone();
        Box::pin(self.0.proven("record", move |server, caller| server.record(&intent, within, caller)))
    }

    fn forget<'a>(&'a self, intent: &'a str) -> Reply<'a, ()> {
        let intent = intent.to_owned();
        Box::pin(self.0.script("forget", move |server, _| server.forget(&intent)))
    }

    fn lock_fetch<'a>(
        &'a self,
        fetch: &'a str,
        lock: &'a FleetLock,
        lasting: Duration,
        instead_of: Option<&'a FleetLock>,
    ) -> Reply<'a, LockReply> {
        let (fetch, lock, instead_of) = (fetch.to_owned(), lock.clone(), instead_of.cloned());
        Box::pin(self.0.beside("lock", move |aside, now| {
            aside.lock_fetch(&fetch, &lock, now + lasting.as_micros() as u64, instead_of.as_ref(), now)
        }))
    }

    fn unlock_fetch<'a>(&'a self, fetch: &'a str, lock: &'a FleetLock, stored: bool) -> Reply<'a, ()> {
        let (fetch, lock, link) = (fetch.to_owned(), lock.clone(), Arc::clone(&self.0));
        Box::pin(self.0.script("release", move |server, _| {
            link.world.aside.lock().unwrap().unlock_fetch(&fetch, &lock);
            server.published.push(Message::Fetched { lock: lock.id, stored });
        }))
    }

    fn messages(&self) -> broadcast::Receiver<Message> {
        self.0.messages.subscribe()
    }

    fn remove<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        let key = key.to_owned();
        Box::pin(self.0.script("remove", move |server, _| server.remove(&key)))
    }

    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        let key = key.to_owned();
        Box::pin(self.0.script("get", move |server, caller| server.entry(&key, caller.now)))
    }

    fn info(&self) -> Reply<'_, StoreInfo> {
        Box::pin(async { Ok(StoreInfo::default()) })
    }

    fn count_keys<'a>(&'a self, _limit: u64, _family_of: &'a FamilyOf<'a>) -> Reply<'a, KeyCounts> {
        Box::pin(async { Ok(KeyCounts { complete: true, ..KeyCounts::default() }) })
    }

    fn hold_sweep<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool> {
        let id = id.to_owned();
        Box::pin(
            self.0.beside("hold_sweep", move |aside, now| {
                aside.hold_sweep(&id, now + lasting.as_micros() as u64, now)
            }),
        )
    }

    fn hold_warming<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool> {
        let id = id.to_owned();
        Box::pin(self.0.beside("hold_warming", move |aside, now| {
            aside.hold_warming(&id, now + lasting.as_micros() as u64, now)
        }))
    }

    fn add_hits<'a>(&'a self, hour: u64, reads: &'a [(String, u32)]) -> Reply<'a, ()> {
        let reads = reads.to_vec();
        Box::pin(self.0.beside("add_hits", move |aside, _| aside.add_hits(hour, reads)))
    }

    fn hits_in<'a>(&'a self, hours: &'a [u64]) -> Reply<'a, Vec<(String, u64)>> {
        let hours = hours.to_vec();
        Box::pin(self.0.beside("hits_in", move |aside, _| aside.hits_in(&hours)))
    }

    fn append_log<'a>(&'a self, _: &'a [LogContent]) -> Reply<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn log_before(&self, _: Option<LogPosition>, _: usize) -> Reply<'_, Vec<LogEntry>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn log_after(&self, _: LogPosition, _: usize) -> Reply<'_, Vec<LogEntry>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn survey(&self, _from: WalkPosition, _keys: u64) -> Reply<'_, Survey> {
        Box::pin(self.0.script("survey", |server, caller| {
            let specimens = server.entries(caller.now).map(|(key, value)| specimen(key, value)).collect();
            Survey { specimens, next: None, is_whole: true }
        }))
    }

    fn views<'a>(&'a self, sets: &'a [&'a [Tag]]) -> Reply<'a, Vec<MarksView>> {
        Box::pin(async move {
            let mut views = vec![];
            for set in sets {
                views.push(self.view(set).await?);
            }
            Ok(views)
        })
    }

    fn unlink<'a>(&'a self, _at: WalkPosition, judged: &'a [Judged]) -> Reply<'a, u64> {
        let judged = judged.to_vec();
        Box::pin(self.0.script("unlink", move |server, caller| {
            let is_still = |judged: &&Judged| {
                let entry = server.entry(&String::from_utf8_lossy(&judged.name), caller.now);
                entry.is_some_and(|entry| entry.starts_with(&judged.beginning))
            };
            let gone: Vec<&Judged> = judged.iter().filter(is_still).collect();
            gone.iter().filter(|judged| server.remove(&String::from_utf8_lossy(&judged.name))).count() as u64
        }))
    }

    fn store_key_stats<'a>(&'a self, key_stats: &'a KeyStats, lasting: Duration) -> Reply<'a, ()> {
        let key_stats = key_stats.clone();
        Box::pin(self.0.beside("store_key_stats", move |aside, now| {
            aside.store_key_stats(key_stats, now + lasting.as_micros() as u64, now);
        }))
    }

    fn key_stats(&self) -> Reply<'_, Option<Dated>> {
        Box::pin(self.0.beside("key_stats", |aside, now| aside.key_stats(now)))
    }

    fn link(&self) -> store::Link {
        self.0.state()
    }

    fn changes(&self) -> watch::Receiver<store::Link> {
        let (watched, changes) = watch::channel(self.0.state());
        self.0.state.lock().unwrap().push(watched);
        changes
    }

    fn outage(&self) -> watch::Receiver<Option<Outage>> {
        let (watched, outage) = watch::channel(*self.0.outage.lock().unwrap());
        self.0.watching_outage.lock().unwrap().push(watched);
        outage
    }
}

//! One proxy: the real cache, fleet and inflight fetches over a simulated link, with the sequence of calls that
//! `src/proxy/read.rs`, `fetch.rs` and `write.rs` make. All of it runs in tasks that stop when the proxy is frozen
//! and end when it is killed.
//!
//! The tasks of the cache itself cannot be stopped, only what they send and receive: the lease of a frozen proxy runs on, as by
//! any process's clock, and it serves no client.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use larder::cache::memory::Memory;
use larder::cache::{Cache, Found, Lookup, Placement};
use larder::coalesce::inflight::{FetchOutcome, FetchPermit, FetchRole, Inflight, InflightFetch};
use larder::coherence::fleet::FleetSettings;
use larder::config::{Coherence, OnOutage};
use larder::entry::{Content, Entry, Response};
use larder::http::freshness::{Freshness, LifetimeSource};
use larder::key::{CacheKey, KeyHash, Redaction};
use larder::marks::{SoftInvalidation, Tag};
use larder::metrics::Metrics;
use larder::store::Store;
use larder::store::fleet::{Again, Intent, Invalidations};
use larder::upkeep::invalidation_log::OriginKind;
use larder::upstream::UpstreamError;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};

use super::registers::{Floor, Register, Upstream, Value, Values, Written};
use super::store::{Link, SimulatedStore};
use super::world::{Carried, World};

/// How the proxies of a fleet are configured.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub mode: Coherence,
    pub on_outage: OnOutage,
    /// The store is away for all proxies or for none; a proxy that is killed is replaced, the others stay.
    pub is_away_for_all: bool,
    /// The longest of the fleet.
    pub lease: Duration,
    /// Some have a shorter one.
    pub leases_differ: bool,
    /// The store waits for a replica (`wait_replicas`).
    pub waits: bool,
    /// Upstream's answers may be older than this much; every write is repeated (`again`) after it.
    pub lag: Duration,
    /// The store's time limit.
    pub limit: Duration,
    /// Slots of the marks table.
    pub slots: usize,
    /// How long after its announcement a write counts as abandoned.
    pub patience: Duration,
}

/// What all proxies of a run have in common.
pub struct Site {
    pub world: Arc<World>,
    pub upstream: Upstream,
    /// What every read that begins now must show.
    pub acknowledged: Floor,
    pub settings: Settings,
    pub registers: usize,
}

/// What a write changes and invalidates.
#[derive(Debug, Clone)]
pub enum Target {
    One(Register),
    /// All registers with this remainder by two.
    Family(usize),
    /// All registers, whose responses name a group of their own accord.
    Group,
    Everything,
}

/// A client's write.
#[derive(Debug, Clone)]
pub struct Write {
    pub target: Target,
    /// By a soft rule, with this grace.
    pub grace: Option<Duration>,
    /// Repeated so much later.
    pub again: Option<Duration>,
}

impl Write {
    /// What it invalidates. Whatever its rule says, one that may or may not have been carried out invalidates.
    fn invalidating(&self, is_answered: bool) -> Invalidations {
        let tags = Site::invalidated(&self.target);
        let again = self.again.iter().map(|after| Again { after: *after, tags: tags.clone() }).collect();
        match self.grace.filter(|_| is_answered) {
            Some(grace) => {
                let soft = tags.into_iter().map(|tag| SoftInvalidation { tag, grace }).collect();
                Invalidations { soft, again, ..Invalidations::default() }
            }
            None => Invalidations { tags, again, ..Invalidations::default() },
        }
    }
}

pub struct Proxy {
    pub link: Arc<Link>,
    pub metrics: Arc<Metrics>,
    site: Arc<Site>,
    cache: Cache,
    inflight: Arc<Inflight>,
    /// What a read through this very proxy must show.
    own: Floor,
    frost: Arc<Frost>,
    /// How far the wall clock of its machine was set forward, microseconds.
    ahead: Arc<AtomicI64>,
    followed_fetches: Mutex<Vec<(Weak<InflightFetch>, Arc<FollowedFetch>)>>,
    left: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What the waiters of one inflight fetch share.
#[derive(Default)]
struct FollowedFetch(OnceLock<FetchOutcome>, Notify);

/// How a write ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Acknowledged,
    /// It was not carried out, or nobody promised anything.
    Unacknowledged,
}

impl Site {
    fn family(register: Register) -> Tag {
        Tag::family(&format!("reg{}", register % 2))
    }

    /// The tags that a request for a register is known to have.
    fn tags(register: Register) -> Vec<Tag> {
        let family = Site::family(register);
        let instance = Tag::family(&format!("{family}:{register}"));
        vec![Tag::root(), family, instance, Tag::uri(&format!("/{register}"))]
    }

    fn group() -> Tag {
        Tag::group("upstream", "all")
    }

    fn invalidated(target: &Target) -> Vec<Tag> {
        match target {
            Target::One(register) => Site::tags(*register).split_off(2),
            Target::Family(family) => vec![Site::family(*family)],
            Target::Group => vec![Site::group()],
            Target::Everything => vec![Tag::root()],
        }
    }

    fn changed(&self, target: &Target) -> Vec<Register> {
        let is_changed = |register: &Register| match target {
            Target::One(one) => register == one,
            Target::Family(family) => register % 2 == *family,
            Target::Group | Target::Everything => true,
        };
        (0..self.registers).filter(is_changed).collect()
    }
}

impl Proxy {
    pub fn start(site: &Arc<Site>, name: String) -> Arc<Proxy> {
        let Settings { mode, lease, leases_differ, waits, limit, slots, .. } = site.settings;
        let lease = if leases_differ { lease / *site.world.pick(&[1, 2, 4]) } else { lease };
        let link = Link::new(&site.world, name, limit);
        let store: Arc<dyn Store> = Arc::new(SimulatedStore(Arc::clone(&link)));
        let metrics = Arc::new(Metrics::new());
        let memory = Memory::new(1 << 20, 1 << 10, slots);
        let ahead = Arc::<AtomicI64>::default();
        let (world, ahead_of) = (Arc::clone(&site.world), Arc::clone(&ahead));
        let fleet = FleetSettings::new(mode, lease)
            .with_replicas(u64::from(waits))
            .with_limits(limit, limit)
            .with_wall_clock(Arc::new(move || world.wall_clock(ahead_of.load(SeqCst))));
        let cache = Cache::new(memory, Some((store, fleet)), Arc::clone(&metrics));
        let frost = Arc::<Frost>::default();
        let own = Floor::new(site.registers);
        let (site, inflight) = (Arc::clone(site), Inflight::new());
        let (left, followed_fetches, tasks) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Arc::new(Proxy { link, metrics, site, cache, inflight, own, frost, ahead, followed_fetches, left, tasks })
    }

    pub fn name(&self) -> &str {
        &self.link.name
    }

    pub fn holds_lease(&self) -> bool {
        self.cache.holds_lease() == Some(true)
    }

    /// `SIGSTOP`, or `SIGCONT`.
    pub fn freeze(&self, frozen: bool) {
        self.link.freeze(frozen);
        self.frost.set(frozen);
    }

    /// Sets the wall clock of its machine forward, or back.
    pub fn set_wall_clock(&self, by: i64) {
        self.ahead.fetch_add(by, SeqCst);
    }

    /// `kill -9`
    pub fn kill(&self) {
        self.link.behave(|conduct| (conduct.dead, conduct.cut) = (true, true));
        self.tasks.lock().unwrap().iter().for_each(AbortHandle::abort);
    }

    /// Leaves the fleet, as a process that is told to stop does. A client that asks it all the same is to be given nothing old.
    pub async fn leave(self: Arc<Proxy>) {
        self.left.store(true, SeqCst);
        let leaving = Arc::clone(&self);
        let _ = self.spawn(async move { leaving.cache.leave().await }).await;
    }

    pub fn has_left(&self) -> bool {
        self.left.load(SeqCst)
    }

    /// Runs something that is part of this process.
    fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let handle = tokio::spawn(Frost::stop(Arc::clone(&self.frost), task));
        let mut tasks = self.tasks.lock().unwrap();
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle.abort_handle());
        handle
    }
}

/// Reads.
impl Proxy {
    /// A client's read: what it is given, or `None` if there was no answer. Must be given what is new enough.
    pub async fn read(self: Arc<Proxy>, register: Register) -> Option<Value> {
        let least = self.site.acknowledged.of(register).max(self.own.of(register));
        let begun = Instant::now();
        let proxy = Arc::clone(&self);
        let (value, how) = self.spawn(async move { proxy.answer(register).await }).await.ok()?;
        let value = value?;
        self.site.world.count(how);
        self.site.world.tell(|| format!("{} reads {register}: {value} ({how}), needs {least}", self.name()));
        if value < least {
            let took = begun.elapsed();
            self.site.world.accuse(format!(
                "{} gave {value} for register {register} ({how}) to a read that began {took:?} before, when {least} \
                 had been acknowledged",
                self.name()
            ));
        }
        Some(value)
    }

    async fn answer(self: Arc<Proxy>, register: Register) -> (Option<Value>, &'static str) {
        match self.attempt(register, false).await {
            Some(answer) => answer,
            None => self.attempt(register, true).await.unwrap_or((None, "no answer")),
        }
    }

    /// None if it followed a fetch whose response cannot be shared with it.
    async fn attempt(self: &Arc<Proxy>, register: Register, alone: bool) -> Option<(Option<Value>, &'static str)> {
        let (fields, key) = (HeaderMap::new(), cache_key(register));
        let mut asked = false;
        let lookup = {
            let tags = || Site::tags(register).into();
            let lookup = self.cache.lookup(key, &fields, || label(register), tags);
            let mut lookup = pin!(lookup);
            poll_fn(|context| {
                let polled = lookup.as_mut().poll(context);
                asked |= polled.is_pending();
                polled
            })
            .await
        };
        let stale = match &lookup.found {
            Found::Current(entry) if self.site.world.happens(EXPIRED) => Some(Arc::clone(entry)),
            Found::Current(entry) => {
                return Some((Some(value_in(entry)), if asked { "asked hit" } else { "memory hit" }));
            }
            Found::SoftInvalidated(entry) if self.site.world.happens(EXPIRED) => Some(Arc::clone(entry)),
            Found::SoftInvalidated(entry) => {
                let value = value_in(entry);
                self.revalidate(register, lookup);
                return Some((Some(value), "softened hit"));
            }
            _ => None,
        };
        self.site.world.count(match &lookup.found {
            Found::Current(_) | Found::SoftInvalidated(_) => "expired",
            Found::Invalidated => "invalidated",
            _ if lookup.view.is_none() => "store away",
            _ => "nothing",
        });
        let role = match alone {
            true => FetchRole::Alone,
            false => self.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), std::time::Instant::now()),
        };
        let permit = match role {
            FetchRole::Join(fetch) => {
                let outcome = self.outcome(&fetch).await;
                return self.join(outcome).await.map(|value| (value, "joined"));
            }
            FetchRole::Lead(permit) => permit,
            FetchRole::Alone => self.inflight.lead_alone(lookup.cache_key.hash, lookup.view.as_ref()),
        };
        let fetch = permit.fetch();
        self.spawn(Arc::clone(self).fill(register, lookup, permit, stale));
        match self.outcome(&fetch).await {
            FetchOutcome::Validated(entry) => Some((Some(value_in(&entry)), "fetched")),
            FetchOutcome::StaleOnError(entry, _) => Some((Some(value_in(&entry)), "stale on error")),
            _ => Some((None, "no answer")),
        }
    }

    /// Fetches what was given out although soft-invalidated.
    fn revalidate(self: &Arc<Proxy>, register: Register, lookup: Lookup) {
        let role = self.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), std::time::Instant::now());
        if let FetchRole::Lead(permit) = role {
            self.spawn(Arc::clone(self).fill(register, lookup, permit, None));
        }
    }

    /// Waits for the outcome of a fetch. The first follower does, and wakes the others in the order in which they came: a
    /// `watch` would wake them in a random one.
    async fn outcome(&self, fetch: &Arc<InflightFetch>) -> FetchOutcome {
        let (followed, is_first) = self.followed(fetch);
        if is_first {
            let _ = followed.0.set(fetch.outcome().await);
            followed.1.notify_waiters();
        }
        loop {
            if let Some(outcome) = followed.0.get() {
                return outcome.clone();
            }
            followed.1.notified().await;
        }
    }

    fn followed(&self, fetch: &Arc<InflightFetch>) -> (Arc<FollowedFetch>, bool) {
        let mut fetches = self.followed_fetches.lock().unwrap();
        fetches.retain(|(known, _)| known.strong_count() > 0);
        if let Some((_, followed)) = fetches.iter().find(|(known, _)| known.as_ptr() == Arc::as_ptr(fetch)) {
            return (Arc::clone(followed), false);
        }
        let followed = Arc::<FollowedFetch>::default();
        fetches.push((Arc::downgrade(fetch), Arc::clone(&followed)));
        (followed, true)
    }

    /// A follower knew the request's tags, and looks at what else the response names.
    async fn join(&self, outcome: FetchOutcome) -> Option<Option<Value>> {
        let entry = match outcome {
            FetchOutcome::Validated(entry) => entry,
            FetchOutcome::StaleOnError(entry, _) => {
                let is_current = self.cache.is_current(&entry.tags, entry.stamp).await;
                return is_current.then(|| Some(value_in(&entry)));
            }
            _ => return Some(None),
        };
        // Without a view there was no stamp to compare.
        let is_stamped = entry.stamp.sequence != UNSTAMPED;
        if is_stamped && !self.cache.is_current(&[Site::group()], entry.stamp).await {
            return None;
        }
        Some(Some(value_in(&entry)))
    }

    async fn fill(
        self: Arc<Proxy>,
        register: Register,
        lookup: Lookup,
        permit: FetchPermit,
        stale: Option<Arc<Entry>>,
    ) {
        permit.until_begun(None).await;
        let asked = UNIX_EPOCH + Duration::from_micros(self.site.world.number());
        let Some(value) = self.site.upstream.fetch(register).await else {
            return permit.finish(match stale {
                Some(stale) => FetchOutcome::StaleOnError(stale, Err(UpstreamError::Closed)),
                None => FetchOutcome::Failed(UpstreamError::Abandoned),
            });
        };
        let Some(view) = lookup.view else {
            let mut entry = entry(register, value, asked, &Lookup { view: None, ..lookup });
            entry.stamp.sequence = UNSTAMPED;
            return permit.finish(FetchOutcome::Validated(Arc::new(entry)));
        };
        let key = lookup.cache_key.hash;
        let entry = entry(register, value, asked, &Lookup { view: Some(view), ..lookup });
        let place =
            Placement { hash: key, label: label(register), keep: Duration::from_secs(60), compress_above: None };
        permit.finish(FetchOutcome::Validated(Arc::new(entry.clone())));
        let entry = self.cache.store_in_memory(entry, &place);
        permit.close();
        self.cache.store_shared(&entry, &place).await;
    }
}

/// Writes.
impl Proxy {
    /// A client's write. When it is acknowledged, every read that begins later shows it.
    pub async fn write(self: Arc<Proxy>, write: Write) -> End {
        let (world, proxy) = (Arc::clone(&self.site.world), Arc::clone(&self));
        let task = self.spawn(async move { proxy.carry_out(write).await });
        let end = task.await.unwrap_or(End::Unacknowledged);
        world.count(if end == End::Acknowledged { "acknowledged" } else { "not acknowledged" });
        end
    }

    async fn carry_out(self: Arc<Proxy>, write: Write) -> End {
        let Settings { on_outage, patience, .. } = self.site.settings;
        let tags = Site::invalidated(&write.target);
        let intent = Intent { id: format!("w{}", self.site.world.number()).into(), tags };
        let announced = self.cache.announce(&intent, patience).await;
        if announced.is_err() && on_outage == OnOutage::Refuse {
            self.site.world.count("refused");
            return End::Unacknowledged;
        }
        let registers = self.site.changed(&write.target);
        let (values, is_answered) = match self.announced(&intent, self.site.upstream.write(registers)).await {
            Written::Done(values) => (values, true),
            Written::Unanswered(values) => (values, false),
            Written::Refused | Written::Unreachable => {
                self.cache.withdraw(&intent).await;
                return End::Unacknowledged;
            }
        };
        let what = write.invalidating(is_answered);
        let mut delivered =
            self.cache.invalidate_for(&what, Some(&intent), OriginKind::Write.into()).await.taken.is_some();
        let carried = self.site.world.invalidation(&intent.id);
        let grace = carried.zip(write.grace.filter(|_| is_answered));
        if !delivered && on_outage == OnOutage::Refuse {
            delivered = timeout(patience, self.cache.delivered()).await.is_ok();
            if !delivered {
                return End::Unacknowledged;
            }
        }
        self.acknowledge(values, delivered, grace);
        End::Acknowledged
    }

    async fn announced<T>(&self, intent: &Intent, write: impl Future<Output = T>) -> T {
        let patience = self.site.settings.patience;
        let mut write = pin!(write);
        loop {
            match timeout(patience / 3, &mut write).await {
                Ok(done) => return done,
                Err(_) => drop(self.cache.announce(intent, patience).await),
            }
        }
    }

    /// What was not delivered is promised to readers of this proxy alone, until it is; but to all where the store is away for
    /// all: while it is nobody serves anything stored, and afterwards not before this is delivered. Where writes do not wait, others
    /// may show what was before for one lease. A soft write promises when its grace is over; if it is not known to have been
    /// carried out, it was invalidating when it was delivered. An upstream that lags promises nothing yet.
    fn acknowledge(self: &Arc<Proxy>, values: Values, delivered: bool, grace: Option<(Carried, Duration)>) {
        let (site, proxy) = (Arc::clone(&self.site), Arc::clone(self));
        site.world.tell(|| {
            format!(
                "{} acknowledges {values:?} (delivered: {delivered}, {:?})",
                self.name(),
                grace.map(|(_, grace)| grace)
            )
        });
        if !site.settings.lag.is_zero() {
            return;
        }
        if grace.is_none() {
            self.own.raise(&values);
        }
        if !delivered && site.settings.is_away_for_all {
            site.world.count("promised while away");
        }
        let delivered = delivered || site.settings.is_away_for_all;
        if delivered && grace.is_none() && site.settings.mode != Coherence::Eventual {
            return site.acknowledged.raise(&values);
        }
        let promise = async move {
            if let Some((carried, grace)) = grace {
                site.world.outlive(carried, grace).await;
                site.world.count("grace over");
                proxy.own.raise(&values);
            }
            if !delivered {
                proxy.cache.delivered().await;
                site.world.count("delivered later");
            }
            if site.settings.mode == Coherence::Eventual {
                tokio::time::sleep(site.settings.lease).await;
            }
            site.acknowledged.raise(&values);
        };
        // Who has the store's word needs this proxy no more.
        if delivered { drop(tokio::spawn(promise)) } else { drop(self.spawn(promise)) }
    }
}

/// Share of current entries that are stale, so that upstream is asked, or they are served if it fails.
const EXPIRED: f64 = 0.08;

/// In place of the stamp of a response that was fetched while the store was away.
const UNSTAMPED: u64 = u64::MAX;

fn label(register: Register) -> String {
    format!("reg{}:{register}", register % 2)
}

fn cache_key(register: Register) -> CacheKey {
    CacheKey {
        text: format!("GET http://upstream/{register}"),
        hash: KeyHash(register as u128),
        redaction: Redaction::default(),
    }
}

fn value_in(entry: &Entry) -> Value {
    let body = &entry.response().expect("only responses are stored").body;
    Value::from_be_bytes(body[..].try_into().expect("as it was written"))
}

/// A response that names a group beside the tags of its request.
fn entry(register: Register, value: Value, asked: std::time::SystemTime, lookup: &Lookup) -> Entry {
    let stamp = lookup
        .view
        .map_or(larder::marks::Stamp { epoch: larder::marks::Epoch(0), sequence: 0 }, |view| view.stamp);
    let tags: Vec<Tag> = Site::tags(register).into_iter().chain([Site::group()]).collect();
    let freshness = Freshness {
        request_time: asked,
        response_time: asked,
        initial_age: Duration::ZERO,
        lifetime: Duration::from_secs(60),
        source: LifetimeSource::MaxAge,
        always_validate: false,
        never_stale: false,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        stale_if_unreachable: Duration::ZERO,
    };
    let response = Response {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(&value.to_be_bytes()),
        freshness,
        for_credentials: false,
        consumed: false,
        said: None,
    };
    Entry {
        text: lookup.cache_key.text.as_str().into(),
        stamp,
        tags: tags.into(),
        content: Content::Response(response),
    }
}

/// What stops the tasks of a process.
#[derive(Default)]
struct Frost(Mutex<(bool, Vec<Waker>)>);

impl Frost {
    fn set(&self, frozen: bool) {
        let mut state = self.0.lock().unwrap();
        state.0 = frozen;
        if !frozen {
            state.1.drain(..).for_each(Waker::wake);
        }
    }

    /// Polls a task only while nothing is frozen.
    async fn stop<F: Future>(frost: Arc<Frost>, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|context| {
            let mut state = frost.0.lock().unwrap();
            if state.0 {
                state.1.push(context.waker().clone());
                return Poll::Pending;
            }
            drop(state);
            task.as_mut().poll(context)
        })
        .await
    }
}

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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use larder::cache::memory::{Hold, Memory};
use larder::cache::{Cache, Found, Lookup, Placement};
use larder::coalesce::inflight::{FetchOutcome, FetchPermit, FetchRole, Inflight, InflightFetch};
use larder::coherence::fleet::FleetSettings;
use larder::config::{Coherence, OnOutage};
use larder::entry::{Content, Entry, Response};
use larder::http::authorization::Authorization;
use larder::http::freshness::{Freshness, LifetimeSource};
use larder::key::{CacheKey, KeyHash, Redaction};
use larder::marks::{Epoch, SoftInvalidation, Stamp, Tag};
use larder::metrics::Metrics;
use larder::rules::Unresolved;
use larder::rules::digest::RulesDigest;
use larder::store::Store;
use larder::store::fleet::{Again, Intent, Invalidations};
use larder::upkeep::invalidation_log::OriginKind;
use larder::upstream::UpstreamError;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};

use super::registers::{Answer, Floor, Register, Upstream, Value, Values, Written};
use super::requests::{Cookie, Form, Read, Request, Rules, Ruling, UpstreamRead};
use super::store::{Link, SimulatedStore};
use super::warming::WarmingState;
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

/// What all proxies of a run share.
pub struct Site {
    pub world: Arc<World>,
    pub upstream: Upstream,
    /// What every read that begins now must show.
    pub acknowledged: Floor,
    pub settings: Settings,
    pub registers: usize,
    /// Callers of families with `authorize`. Their sessions are the registers after the others.
    pub callers: usize,
    /// The rules of the proxies, in runs with rules.
    pub rules: Option<&'static Rules>,
    /// Whether they warm what the rules name.
    pub warms: bool,
    /// Whether some follow rules that leave a family out, and change their rules.
    pub mixes: bool,
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
    /// How the request names its target, in runs with rules.
    pub form: Form,
}

impl Write {
    /// By a hard rule.
    pub fn hard(target: Target) -> Write {
        let form = match target {
            Target::One(register) => Form::Path(register),
            Target::Family(_) | Target::Group | Target::Everything => Form::Everything,
        };
        Write { target, grace: None, again: None, form }
    }

    /// What it invalidates, without rules. Whatever its rule says, one that may or may not have been carried out invalidates.
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
    pub site: Arc<Site>,
    pub cache: Cache,
    pub inflight: Arc<Inflight>,
    /// What a read through this very proxy must show.
    own: Floor,
    frost: Arc<Frost>,
    /// How far the wall clock of its machine was set forward, microseconds.
    ahead: Arc<AtomicI64>,
    followed_fetches: Mutex<Vec<(Weak<InflightFetch>, Arc<FollowedFetch>)>>,
    left: AtomicBool,
    /// Its rules leave out the registers of [`LEFT_OUT`]: no write to one of them alone invalidates anything.
    leaves_out: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    pub warming: WarmingState,
}

/// What the waiters of one inflight fetch share.
#[derive(Default)]
struct FollowedFetch(OnceLock<FetchOutcome>, Notify);

/// The family that some proxies' rules leave out, in runs with mixed rules.
const LEFT_OUT: usize = 1;

/// The rules, as proxies compare them.
fn digest(leaves_out: bool) -> RulesDigest {
    let of_family = |family: usize| {
        let is_left_out = leaves_out && family == LEFT_OUT;
        (format!("reg{family}"), format!("{family}{}", u8::from(is_left_out)))
    };
    [0, 1].into_iter().map(of_family).collect()
}

/// How a write ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Acknowledged,
    /// It was not carried out, or not acknowledged.
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

    /// The registers that a write changes in runs with rules.
    fn changed_by(&self, form: Form) -> Vec<Register> {
        match form {
            Form::Path(register)
            | Form::Body(register, ..)
            | Form::Response(register, _)
            | Form::Soft(register)
            | Form::Again(register)
            | Form::Rights(register) => vec![register],
            Form::Logout(cookie) => vec![cookie.session],
            Form::Everything => (0..self.registers).collect(),
        }
    }

    /// All reads of values, without those that need a cookie.
    pub fn requests(&self) -> Vec<Request> {
        let registers = 0..self.registers;
        match self.rules {
            None => registers.map(Request::Plain).collect(),
            Some(_) => {
                registers.flat_map(|register| [Request::Path(register), Request::Query(register)]).collect()
            }
        }
    }

    pub fn read_of(&self, request: Request) -> Read {
        match self.rules {
            Some(rules) => rules.read(request),
            None => {
                let register = request.register();
                let (key, label, tags) = (cache_key(register), label(register), Site::tags(register));
                let sent = UpstreamRead::Value(register);
                Read { sent, key, label, tags, group: Some(Site::group()), repeatable: None }
            }
        }
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
        let leaves_out = site.mixes && site.world.happens(0.5);
        let fleet = if site.mixes { fleet.with_rules(digest(leaves_out)) } else { fleet };
        let cache = Cache::new(memory, Some((store, fleet)), Arc::clone(&metrics));
        let frost = Arc::<Frost>::default();
        let own = Floor::new(site.registers + site.callers);
        let (site, inflight) = (Arc::clone(site), Inflight::new());
        let (left, followed_fetches, tasks) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        let warming = WarmingState::default();
        let proxy = Proxy {
            link,
            metrics,
            site,
            cache,
            inflight,
            own,
            frost,
            ahead,
            followed_fetches,
            left,
            leaves_out: AtomicBool::new(leaves_out),
            tasks,
            warming,
        };
        let proxy = Arc::new(proxy);
        if proxy.site.warms {
            drop(proxy.spawn(Arc::clone(&proxy).warm()));
        }
        proxy
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

    /// The time by the wall clock of its machine.
    pub fn wall_clock(&self) -> SystemTime {
        self.site.world.wall_clock(self.ahead.load(SeqCst))
    }

    /// Whether its rules map writes to this register to it.
    fn maps(&self, register: Register) -> bool {
        register % 2 != LEFT_OUT || !self.leaves_out.load(SeqCst)
    }

    /// An edit of the rules file, as `Running::apply` takes it.
    pub async fn reload(self: Arc<Proxy>, leaves_out: bool) {
        let proxy = Arc::clone(&self);
        let reload = async move {
            proxy.cache.leave_rules(&digest(leaves_out)).await;
            let changed = [Site::family(LEFT_OUT)];
            let is_change = proxy.leaves_out.load(SeqCst) != leaves_out;
            if is_change {
                proxy.cache.invalidate(&changed, OriginKind::Rules).await;
            }
            proxy.leaves_out.store(leaves_out, SeqCst);
            if is_change {
                proxy.cache.invalidate(&changed, OriginKind::Rules).await;
                proxy.site.world.count("rules changed");
            }
            proxy.cache.adopt_rules(digest(leaves_out));
            proxy.site.world.tell(|| format!("{} follows rules that leave out: {leaves_out}", proxy.name()));
        };
        let _ = self.spawn(reload).await;
    }

    /// `kill -9`
    pub fn kill(&self) {
        self.link.behave(|conduct| (conduct.dead, conduct.cut) = (true, true));
        self.tasks.lock().unwrap().iter().for_each(AbortHandle::abort);
    }

    /// Leaves the fleet, as a process does on SIGTERM. Clients that send it requests afterwards must not get anything old either.
    pub async fn leave(self: Arc<Proxy>) {
        self.left.store(true, SeqCst);
        let leaving = Arc::clone(&self);
        let _ = self.spawn(async move { leaving.cache.leave().await }).await;
    }

    pub fn has_left(&self) -> bool {
        self.left.load(SeqCst)
    }

    /// Runs something that is part of this process.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let handle = tokio::spawn(Frost::stop(Arc::clone(&self.frost), task));
        let mut tasks = self.tasks.lock().unwrap();
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle.abort_handle());
        handle
    }
}

/// Reads.
impl Proxy {
    /// A client's read: the value that it gets, or `None` if there was no answer. The value must be new enough.
    pub async fn read(self: Arc<Proxy>, request: Request) -> Option<Value> {
        let register = request.register();
        let least = self.least(register);
        let least_session = request.cookie().map(|cookie| self.least(cookie.session));
        let begun = Instant::now();
        let is_mapped = self.maps(register);
        let proxy = Arc::clone(&self);
        let (value, how) = self.spawn(async move { proxy.answer(request).await }).await.ok()?;
        if let Some((cookie, least)) = request.cookie().zip(least_session) {
            self.judge_caller(cookie, least, (value, how));
        }
        let value = value?;
        self.site.world.count(how);
        self.site.world.tell(|| format!("{} reads {register}: {value} ({how}), needs {least}", self.name()));
        if value < least && is_mapped {
            let took = begun.elapsed();
            self.site.world.accuse(format!(
                "{} gave {value} for register {register} ({how}) to a read that began {took:?} before, when {least} \
                 had been acknowledged",
                self.name()
            ));
        }
        Some(value)
    }

    fn least(&self, register: Register) -> Value {
        self.site.acknowledged.of(register).max(self.own.of(register))
    }

    /// A caller that was logged out before the read began, or never logged in, must get nothing. `least`: the lowest version of a cookie that
    /// no acknowledged logout had made invalid.
    fn judge_caller(&self, cookie: Cookie, least: Value, (value, how): (Option<Value>, &'static str)) {
        let world = &self.site.world;
        let was_never = cookie.version > self.site.upstream.value(cookie.session);
        if value.is_none() {
            if how == REFUSED {
                world.count(if was_never { "stranger refused" } else { "logged out refused" });
            }
            return;
        }
        world.count(match how {
            "memory hit" | "hit after a request to the store" => "hit of an authorized caller",
            _ => "answer to an authorized caller",
        });
        if was_never || cookie.version < least {
            let why = if was_never { "never logged in" } else { "had been logged out" };
            let name = self.name();
            world.accuse(format!("{name} gave something ({how}) to the caller with the cookie {cookie}: {why}"));
        }
    }

    async fn answer(self: Arc<Proxy>, request: Request) -> (Option<Value>, &'static str) {
        if let Some((rules, cookie)) = self.site.rules.zip(request.cookie()) {
            let check = rules.check(request.register(), cookie);
            let (verdict, how) = self.answered(check).await;
            let status = verdict.and_then(|verdict| StatusCode::from_u16(verdict as u16).ok());
            let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
            if how == "memory hit" || how == "hit after a request to the store" {
                self.site.world.count("stored verdict");
            }
            if Authorization::of(status) != Authorization::Granted {
                let read = self.site.read_of(request);
                return match self.site.upstream.answer(read.sent).await {
                    Some(Answer::Value(value)) => (Some(value), "passed"),
                    Some(Answer::Refused | Answer::Granted) => (None, REFUSED),
                    None => (None, "no answer"),
                };
            }
        }
        self.answered(self.site.read_of(request)).await
    }

    async fn answered(self: &Arc<Proxy>, read: Read) -> (Option<Value>, &'static str) {
        if self.cache.bypasses().is_mixed(&read.tags) {
            return match self.site.upstream.answer(read.sent).await {
                Some(Answer::Value(value)) => (Some(value), "mixed rules"),
                _ => (None, "no answer"),
            };
        }
        match self.attempt(&read, false).await {
            Some(answer) => answer,
            None => self.attempt(&read, true).await.unwrap_or((None, "no answer")),
        }
    }

    /// Looks up what is stored. Returns also whether a request to the store was needed.
    pub async fn look_up(&self, read: &Read) -> (Lookup, bool) {
        let fields = HeaderMap::new();
        let mut is_sent = false;
        let lookup = {
            let tags = || read.tags.clone().into();
            let lookup = self.cache.lookup(read.key.clone(), &fields, || read.label.clone(), tags);
            let mut lookup = pin!(lookup);
            poll_fn(|context| {
                let polled = lookup.as_mut().poll(context);
                is_sent |= polled.is_pending();
                polled
            })
            .await
        };
        (lookup, is_sent)
    }

    /// None if it followed a fetch whose response cannot be shared with it.
    async fn attempt(self: &Arc<Proxy>, read: &Read, alone: bool) -> Option<(Option<Value>, &'static str)> {
        let (lookup, is_sent) = self.look_up(read).await;
        let stale = match &lookup.found {
            Found::Current(entry) if self.site.world.happens(EXPIRED) => Some(Arc::clone(entry)),
            Found::Current(entry) => {
                self.count_hit(read, entry);
                return Some((
                    Some(value_in(entry)),
                    if is_sent { "hit after a request to the store" } else { "memory hit" },
                ));
            }
            Found::SoftInvalidated(entry) if self.site.world.happens(EXPIRED) => Some(Arc::clone(entry)),
            Found::SoftInvalidated(entry) => {
                let value = value_in(entry);
                self.count_hit(read, entry);
                self.revalidate(read, lookup);
                return Some((Some(value), "soft-invalidated hit"));
            }
            _ => None,
        };
        // No stale verdict is used (`stale_if_unreachable`).
        let stale = stale.filter(|_| !matches!(read.sent, UpstreamRead::Check(_)));
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
                return self.join(read, outcome).await.map(|value| (value, "joined"));
            }
            FetchRole::Lead(permit) => permit,
            FetchRole::Alone => self.inflight.lead_alone(lookup.cache_key.hash, lookup.view.as_ref()),
        };
        let fetch = permit.fetch();
        self.spawn(Arc::clone(self).fill(read.clone(), lookup, permit, stale, Origin::Read));
        match self.outcome(&fetch).await {
            FetchOutcome::Validated(entry) => Some((Some(value_in(&entry)), "fetched")),
            FetchOutcome::StaleOnError(entry, _) => Some((Some(value_in(&entry)), "stale on error")),
            FetchOutcome::Unshared => Some((None, REFUSED)),
            _ => Some((None, "no answer")),
        }
    }

    /// Refetches a response that was served although soft-invalidated.
    fn revalidate(self: &Arc<Proxy>, read: &Read, lookup: Lookup) {
        let role = self.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), std::time::Instant::now());
        if let FetchRole::Lead(permit) = role {
            self.spawn(Arc::clone(self).fill(read.clone(), lookup, permit, None, Origin::Read));
        }
    }

    fn count_hit(&self, read: &Read, entry: &Entry) {
        self.count_for_prefetch(read);
        let headers = &entry.response().expect("only responses are stored").headers;
        let (origin, by) = (headers.get(&ORIGIN), headers.get(&ORIGIN_PROXY));
        let is_elsewhere = by.is_some_and(|by| by.as_bytes() != self.name().as_bytes());
        let what = match origin.as_ref().map(HeaderValue::as_bytes) {
            Some(b"write") if is_elsewhere => "served the response to a write through another proxy",
            Some(b"write") => "served the response to a write",
            Some(b"warming") if is_elsewhere => "served what another proxy warmed",
            Some(b"warming") => "served what was warmed",
            Some(b"prefetch") => "served what was prefetched",
            _ => return,
        };
        self.site.world.count(what);
    }

    /// Waits for the outcome of a fetch. The first follower does, and wakes the others in the order in which they came: a
    /// `watch` would wake them in a random one.
    pub async fn outcome(&self, fetch: &Arc<InflightFetch>) -> FetchOutcome {
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
    async fn join(&self, read: &Read, outcome: FetchOutcome) -> Option<Option<Value>> {
        let entry = match outcome {
            FetchOutcome::Validated(entry) => entry,
            FetchOutcome::StaleOnError(entry, _) => {
                let is_current = self.cache.is_current(&entry.tags.to_vec(), entry.stamp).await;
                return is_current.then(|| Some(value_in(&entry)));
            }
            FetchOutcome::Unshared => return None,
            _ => return Some(None),
        };
        // Without a view there was no stamp to compare.
        let is_stamped = entry.stamp.sequence != UNSTAMPED;
        if let Some(group) = read.group.clone().filter(|_| is_stamped)
            && !self.cache.is_current(&[group], entry.stamp).await
        {
            return None;
        }
        Some(Some(value_in(&entry)))
    }

    pub async fn fill(
        self: Arc<Proxy>,
        read: Read,
        lookup: Lookup,
        permit: FetchPermit,
        stale: Option<Arc<Entry>>,
        origin: Origin,
    ) {
        permit.until_begun(None).await;
        let request_time = UNIX_EPOCH + Duration::from_micros(self.site.world.number());
        let (status, value) = match (self.site.upstream.answer(read.sent).await, read.sent) {
            (Some(Answer::Value(value)), _) => (StatusCode::OK, value),
            // A verdict is nothing but a status.
            (Some(Answer::Granted), _) => (StatusCode::OK, u64::from(StatusCode::OK.as_u16())),
            (Some(Answer::Refused), UpstreamRead::Check(_)) => {
                (StatusCode::UNAUTHORIZED, u64::from(StatusCode::UNAUTHORIZED.as_u16()))
            }
            (Some(Answer::Refused), _) => return permit.finish(FetchOutcome::Unshared),
            (None, _) => {
                return permit.finish(match stale {
                    Some(stale) => FetchOutcome::StaleOnError(stale, Err(UpstreamError::Closed)),
                    None => FetchOutcome::Failed(UpstreamError::Abandoned),
                });
            }
        };
        let stamp = lookup.view.map(|view| view.stamp);
        let mut entry = entry(&read, (status, value), request_time, stamp, self.origin(origin));
        if stamp.is_none() {
            entry.stamp.sequence = UNSTAMPED;
            return permit.finish(FetchOutcome::Validated(Arc::new(entry)));
        }
        let place = placement(&read);
        permit.finish(FetchOutcome::Validated(Arc::new(entry.clone())));
        let entry = self.cache.store_in_memory(entry, &place);
        permit.close();
        self.cache.store_shared(&entry, &place).await;
    }

    /// Fields that name the origin of an entry. Entries that client requests caused have none.
    fn origin(&self, origin: Origin) -> HeaderMap {
        let word = match origin {
            Origin::Read => return HeaderMap::new(),
            Origin::Write => "write",
            Origin::Warming => "warming",
            Origin::Prefetch => "prefetch",
        };
        let by = HeaderValue::from_str(self.name()).unwrap();
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(word)), (ORIGIN_PROXY, by)])
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
        let Settings { on_outage, patience, mode, .. } = self.site.settings;
        let rules = self.site.rules;
        let tags = rules.map_or_else(|| Site::invalidated(&write.target), |rules| rules.intent(write.form));
        let intent = Intent { id: format!("w{}", self.site.world.number()).into(), tags };
        let announced = self.cache.announce(&intent, patience).await;
        if announced.is_err() && on_outage == OnOutage::Refuse {
            self.site.world.count("refused");
            return End::Unacknowledged;
        }
        let before = announced.ok().flatten();
        let registers = match rules {
            Some(_) => self.site.changed_by(write.form),
            None => self.site.changed(&write.target),
        };
        let only_if = rules.and_then(|_| write.form.only_if());
        let sent = self.site.upstream.write(registers, only_if);
        let (values, shown) = match self.announced(&intent, sent).await {
            Written::Done(values, shown) => (values, Some(shown)),
            Written::Unanswered(values) => (values, None),
            Written::Refused | Written::Unreachable => {
                self.cache.withdraw(&intent).await;
                return End::Unacknowledged;
            }
        };
        let is_answered = shown.is_some();
        if self.leaves_out(&write.target) {
            self.cache.withdraw(&intent).await;
            self.cache.rules_settled().await;
            self.site.world.count("acknowledged by rules that leave it out");
            self.acknowledge(values, true, None);
            return End::Acknowledged;
        }
        let Ruling { mut what, refresh, .. } = match rules {
            Some(rules) => self.ruling(rules, write.form, is_answered),
            None => Ruling { what: write.invalidating(is_answered), ..Ruling::default() },
        };
        // The tags are held from here until the response is stored.
        let through = rules
            .and_then(|rules| rules.written_through(write.form))
            .zip(shown)
            .filter(|_| what.may_stamp_answer() && mode != Coherence::Eventual);
        let through = through.map(|(read, shown)| {
            what.watched.clone_from(&read.tags);
            let hold = self.cache.memory().hold(&read.tags);
            (read, shown, hold)
        });
        let taken = self.cache.invalidate_for(&what, Some(&intent), OriginKind::Write.into()).await.taken;
        let mut delivered = taken.is_some();
        if delivered {
            self.prefetch(&refresh);
        }
        let carried = self.site.world.invalidation(&intent.id);
        let grace = carried.zip(write.grace.filter(|_| is_answered));
        if !delivered && on_outage == OnOutage::Refuse {
            delivered = timeout(patience, self.cache.delivered()).await.is_ok();
            if !delivered {
                return End::Unacknowledged;
            }
        }
        if delivered && self.site.mixes {
            self.cache.rules_settled().await;
        }
        self.acknowledge(values, delivered, grace);
        if let Some((read, shown, hold)) = through {
            match before.zip(taken).and_then(|(before, taken)| taken.stamp_of_answer(&before)) {
                Some(stamp) => drop(self.spawn(Arc::clone(&self).store_answer(read, shown, stamp, hold))),
                None => self.site.world.count("another write between a write and its answer"),
            }
        }
        End::Acknowledged
    }

    /// Whether the rules map a write with this target to nothing. One whose answer is lost is no acknowledged one.
    fn leaves_out(&self, target: &Target) -> bool {
        let of_family = match target {
            Target::One(register) => register % 2,
            Target::Family(family) => *family,
            Target::Group | Target::Everything => return false,
        };
        of_family == LEFT_OUT && self.leaves_out.load(SeqCst)
    }

    fn ruling(&self, rules: &Rules, form: Form, is_answered: bool) -> Ruling {
        let ruling = rules.carried_out(form, is_answered);
        for why in &ruling.unresolved {
            self.site.world.count(match why {
                Unresolved::Missing => "value missing",
                Unresolved::WrongType => "value of the wrong type",
                Unresolved::Malformed => "content malformed",
                _ => "content not received",
            });
        }
        ruling
    }

    /// Stores the response to a write when the client has received it.
    async fn store_answer(self: Arc<Proxy>, read: Read, value: Value, stamp: Stamp, hold: Hold) {
        tokio::time::sleep(self.site.world.millis(0, 20)).await;
        let request_time = UNIX_EPOCH + Duration::from_micros(self.site.world.number());
        let entry = entry(&read, (StatusCode::OK, value), request_time, Some(stamp), self.origin(Origin::Write));
        let place = placement(&read);
        self.site.world.count("stored the response to a write");
        let entry = self.cache.store_in_memory(entry, &place);
        drop(hold);
        self.cache.store_shared(&entry, &place).await;
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

    /// Raises what reads must show. An undelivered write binds readers of this proxy alone, until it is delivered; where the store is away
    /// for all proxies it binds all readers, since no proxy serves anything stored until this is delivered. With `eventual`, readers of
    /// other proxies may get what was before for one lease. A soft write binds when its grace is over; if the store is not known to have
    /// taken it, it was hard when it was delivered. Where upstream lags, nothing binds yet.
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
        // What the store has confirmed does not depend on this proxy any more.
        if delivered { drop(tokio::spawn(promise)) } else { drop(self.spawn(promise)) }
    }
}

/// Share of current entries that are stale: they are revalidated, and served if upstream fails.
const EXPIRED: f64 = 0.08;

/// In place of the stamp of a response that was fetched while the store was away.
const UNSTAMPED: u64 = u64::MAX;

/// The outcome of a read that upstream refuses.
const REFUSED: &str = "refused by upstream";

/// The fields of an entry that say what caused it, and in which proxy.
const ORIGIN: HeaderName = HeaderName::from_static("x-origin");
const ORIGIN_PROXY: HeaderName = HeaderName::from_static("x-origin-proxy");

/// What caused an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Read,
    Write,
    Warming,
    Prefetch,
}

fn placement(read: &Read) -> Placement {
    let keep = Duration::from_secs(60);
    Placement { hash: read.key.hash, label: read.label.clone(), keep, compress_above: None }
}

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

/// A response that names a group, if there is one, beside the tags of its request.
fn entry(
    read: &Read,
    (status, value): (StatusCode, Value),
    request_time: SystemTime,
    stamp: Option<Stamp>,
    headers: HeaderMap,
) -> Entry {
    let stamp = stamp.unwrap_or(Stamp { epoch: Epoch(0), sequence: 0 });
    let freshness = Freshness::with_lifetime(Duration::from_secs(60), LifetimeSource::MaxAge, request_time);
    let response = Response {
        status,
        headers: headers.into(),
        body: Bytes::copy_from_slice(&value.to_be_bytes()),
        freshness,
        for_credentials: false,
        consumed: false,
        original_fields: None,
    };
    Entry::new(read.key.text.as_str(), stamp, read.tags.iter().chain(&read.group), Content::Response(response))
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

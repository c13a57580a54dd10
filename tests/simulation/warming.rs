//! What one proxy fetches before clients ask for it: warming, by the library's plan of the `[[warm]]` tables, with the calls that
//! `src/warm.rs` and `src/proxy/warm.rs` make; and prefetches after writes (`refresh`), with those of `src/proxy/refresh.rs`.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use http::HeaderMap;
use larder::cache::Found;
use larder::coalesce::inflight::FetchRole;
use larder::config::WarmTable;
use larder::config::warm::paths::PathPattern;
use larder::marks::Tag;
use larder::store::Store;
use larder::upkeep::warming::Occasion;
use larder::upkeep::{hot, hours};
use larder::warm::plan::{LEASE, WarmCoverage, WarmPlan};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::proxy::{Origin, Proxy};
use super::requests::{Read, Request};
use super::store::SimulatedStore;
use super::world::World;

/// How far ahead a prediction looks.
const LEAD: TimeDelta = TimeDelta::minutes(5);

/// The clocks begin at 22:13:20. For warming it is so much later, five minutes and two seconds before an hour, so that each run predicts
/// the reads of that hour.
const LATER: Duration = Duration::from_secs(2498);

/// Stores the hits of the hour on earlier days.
pub fn prepare(world: &World) {
    let now: DateTime<Utc> = (world.wall_clock(0) + LATER).into();
    let mut aside = world.aside.lock().unwrap();
    for hour in hours::earlier(chrono_tz::UTC, now + LEAD) {
        aside.add_hits(hour, vec![("upstream /r/1".to_owned(), 5), ("upstream /r/0".to_owned(), 3)]);
    }
}

/// The warming of one proxy.
#[derive(Debug, Default)]
pub struct WarmingState {
    is_ours: AtomicBool,
    /// When the lease that it holds was requested.
    requested: Mutex<Option<Instant>>,
    /// Fetches for warming that it has begun.
    pub fetches: AtomicU64,
}

impl WarmingState {
    /// Whether this proxy warms by itself.
    pub fn is_ours(&self) -> bool {
        self.is_ours.load(SeqCst)
    }
}

impl Proxy {
    /// Warms until the process ends.
    pub async fn warm(self: Arc<Proxy>) {
        let rules = self.site.rules.expect("tables are part of the rules");
        let mut plan = WarmPlan::new(&rules.warm, Instant::now(), self.calendar());
        let mut notices = self.cache.invalidation_notices();
        let mut run: Option<JoinHandle<Vec<(usize, WarmCoverage)>>> = None;
        loop {
            self.hold_lease(&mut plan).await;
            if let Some((occasion, tables)) = plan.due(Instant::now(), self.calendar()) {
                let work = plan.begin(tables);
                self.note_run(occasion, &work);
                run = Some(self.spawn(Arc::clone(&self).warm_tables(work)));
            }
            let until = plan.next_look(Instant::now(), self.calendar());
            tokio::select! {
                biased;
                covered = ended(&mut run) => plan.end(covered, self.calendar()),
                tags = notices.next() => plan.note_invalidation(&tags, Instant::now()),
                () = sleep_until(until) => {}
            }
        }
    }

    async fn hold_lease(&self, plan: &mut WarmPlan) {
        let requested = Instant::now();
        if !plan.is_lease_due(requested) {
            return;
        }
        let (store, id) = (SimulatedStore(Arc::clone(&self.link)), self.cache.proxy_id().unwrap_or_default());
        let is_ours = matches!(store.hold_warming(id, LEASE).await, Ok(true));
        let is_again = plan.note_lease(is_ours, requested, Instant::now());
        *self.warming.requested.lock().unwrap() = is_ours.then_some(requested);
        if plan.is_ours() != self.warming.is_ours.swap(plan.is_ours(), SeqCst) {
            self.site.world.tell(|| format!("{} warms from now on: {is_ours}", self.name()));
        }
        if is_again {
            self.site.world.count("warms again");
        }
    }

    /// A run begins, for which a proxy needs the lease.
    fn note_run(&self, occasion: Occasion, work: &[(usize, WarmTable)]) {
        if self.warming.requested.lock().unwrap().is_none_or(|requested| Instant::now() >= requested + LEASE) {
            self.site.world.accuse(format!("{} warms without the lease", self.name()));
        }
        self.site.world.tell(|| format!("{} warms ({})", self.name(), occasion.word()));
        let is_predicted = work.iter().any(|(_, table)| table.reads.is_some());
        self.site.world.count(match occasion {
            Occasion::Startup => "warms at startup",
            Occasion::Invalidation => "warms after an invalidation",
            Occasion::Schedule if is_predicted => "warms what is predicted",
            Occasion::Schedule | Occasion::Operator => "warms by the clock",
        });
    }

    async fn warm_tables(self: Arc<Proxy>, work: Vec<(usize, WarmTable)>) -> Vec<(usize, WarmCoverage)> {
        let rules = self.site.rules.expect("tables are part of the rules");
        let _ = timeout(Duration::from_secs(60), self.cache.ready()).await;
        let mut covered = vec![];
        for (at, table) in work {
            let requests = self.expand(&table).await;
            covered.push((at, rules.coverage(&requests)));
            let under_way: Vec<JoinHandle<()>> =
                requests.into_iter().map(|request| self.spawn(Arc::clone(&self).warm_one(request))).collect();
            for warmed in under_way {
                let _ = warmed.await;
            }
        }
        covered
    }

    async fn expand(&self, table: &WarmTable) -> Vec<Request> {
        let mut paths: Vec<String> = table.paths.iter().flat_map(PathPattern::expand).collect();
        if let Some(reads) = &table.reads {
            let hours = hours::earlier(table.zone, self.calendar() + LEAD);
            let store = SimulatedStore(Arc::clone(&self.link));
            let found = store.hits_in(&hours).await.unwrap_or_default();
            let names = hours::ranked(found).into_iter();
            paths.extend(names.filter_map(|name| Some(hours::parts(&name)?.1.to_owned())).take(reads.most));
        }
        let requests = paths.iter().filter_map(|path| Request::of(path));
        requests.filter(|request| request.register() < self.site.registers).collect()
    }

    /// Warms one target.
    async fn warm_one(self: Arc<Proxy>, request: Request) {
        let read = self.site.read_of(request);
        if matches!(self.look_up(&read).await.0.found, Found::Current(_)) {
            return;
        }
        sleep(self.site.world.millis(0, 20)).await;
        let (lookup, _) = self.look_up(&read).await;
        if matches!(lookup.found, Found::Current(_)) || lookup.view.is_none() {
            return;
        }
        let role = self.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), std::time::Instant::now());
        match role {
            FetchRole::Join(fetch) => drop(self.outcome(&fetch).await),
            FetchRole::Lead(permit) => {
                self.warming.fetches.fetch_add(1, SeqCst);
                self.site.world.count("warmed");
                let stale = lookup.entry().cloned();
                let fill = Arc::clone(&self).fill(read, lookup, permit, stale, Origin::Warming);
                let _ = self.spawn(fill).await;
            }
            FetchRole::Alone => {}
        }
    }

    /// Counts a hit, if a rule with `refresh` invalidates its family.
    pub fn count_for_prefetch(&self, read: &Read) {
        let Some(target) = &read.repeatable else { return };
        self.cache.hot().count(read.key.hash, || {
            let (key, target, tags) = (read.key.hash, target.clone(), read.tags.clone());
            Some(hot::HotRead { key, target, headers: HeaderMap::new(), client: Ipv4Addr::LOCALHOST.into(), tags })
        });
    }

    /// Begins to prefetch the hottest entries with one of these tags.
    pub fn prefetch(self: &Arc<Proxy>, tags: &[Tag]) {
        if !tags.is_empty() && self.cache.hot().want(tags) {
            drop(self.spawn(Arc::clone(self).prefetch_wanted()));
        }
    }

    async fn prefetch_wanted(self: Arc<Proxy>) {
        while let Some(tags) = self.cache.hot().take_wanted() {
            let mut paths: Vec<String> = self.cache.hot().hottest(&tags, 100).iter().map(path_of).collect();
            // Equally hot ones come in a random order.
            paths.sort_unstable();
            for request in paths.iter().filter_map(|path| Request::of(path)) {
                let read = self.site.read_of(request);
                let (lookup, _) = self.look_up(&read).await;
                let stale = match &lookup.found {
                    Found::Invalidated | Found::OtherVariant | Found::Nothing if lookup.view.is_some() => None,
                    Found::SoftInvalidated(entry) => Some(Arc::clone(entry)),
                    _ => continue,
                };
                let (key, view) = (lookup.cache_key.hash, lookup.view.as_ref());
                if let FetchRole::Lead(permit) = self.inflight.join(key, view, std::time::Instant::now()) {
                    self.site.world.count("prefetched");
                    Arc::clone(&self).fill(read, lookup, permit, stale, Origin::Prefetch).await;
                }
            }
        }
    }

    /// The time by the wall clock of its machine.
    fn calendar(&self) -> DateTime<Utc> {
        (self.wall_clock() + LATER).into()
    }
}

fn path_of(read: &Arc<hot::HotRead>) -> String {
    read.target.path_and_query()
}

/// Waits for the end of a run; without a run, does not return.
async fn ended(run: &mut Option<JoinHandle<Vec<(usize, WarmCoverage)>>>) -> Vec<(usize, WarmCoverage)> {
    let Some(handle) = run else { return std::future::pending().await };
    let covered = handle.await.unwrap_or_default();
    *run = None;
    covered
}

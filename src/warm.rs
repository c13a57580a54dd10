//! Warming: fetches what the `[[warm]]` tables name before a client asks for it.
//!
//! Of the proxies of a fleet one warms by itself: the one that holds a lease in Redis, as the sweeper does. If it dies, another one
//! takes over when the lease lapses, and begins with what is to be warmed at startup. A run that an operator asks for is of the proxy
//! that was asked. Two runs at a time do no harm: what is current and fresh is left alone, and a fetch is stamped as any other.
//!
//! Runs do not cause each other: a run sends GETs alone, and those invalidate nothing. Invalidations that come in a burst cause one
//! run, after a pause.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use http::Method;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::cache::notices::InvalidationNotices;
use crate::config::WarmTable;
use crate::marks::Tag;
use crate::proxy;
use crate::running::{Live, Running};
use crate::upkeep::hours;
use crate::upkeep::warming::{WarmReport, WarmingRole};

mod openapi;
pub mod plan;
mod sitemap;
mod sources;

use plan::{LEASE, WarmCoverage, WarmPlan};
use sources::Expanded;

/// How long a run waits until entries in Redis may be trusted.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often the hits of the hour are recorded, beside after each run.
const RECORDING: Duration = Duration::from_secs(60);

/// Reads whose hits are recorded each time.
const RECORDED: usize = 200;

/// How far ahead a prediction looks: it is made that much before its hour.
const LEAD: TimeDelta = TimeDelta::minutes(5);

/// Warms until the process ends. Never returns.
pub async fn run(running: Arc<Running>) {
    // The run of a task that has panicked.
    running.warming.end();
    let mut warmer = Warmer::new(running);
    // Where no table follows invalidations, none is told.
    let mut notices = None;
    loop {
        warmer.take_rules();
        warmer.hold_lease().await;
        warmer.record_hits().await;
        warmer.begin_due();
        let until = warmer.next_look();
        let watches = warmer.plan.follows_invalidations();
        notices = notices.filter(|_| watches);
        if watches {
            notices.get_or_insert_with(|| warmer.running.cache.invalidation_notices());
        }
        tokio::select! {
            () = sleep_until(until) => {}
            () = warmer.running.warming.changed() => {}
            tags = next_tags(&mut notices) => warmer.plan.note_invalidation(&tags, Instant::now()),
            covered = ended(&mut warmer.run) => warmer.finish(covered),
        }
    }
}

/// The tags of the next invalidation; never, without notices.
async fn next_tags(notices: &mut Option<InvalidationNotices>) -> Vec<Tag> {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}

/// A run under way. Returns what it covered of each table.
type Run = AbortOnDropHandle<Vec<(usize, WarmCoverage)>>;

/// Waits for the end of a run; for ever if there is none.
async fn ended(run: &mut Option<Run>) -> Vec<(usize, WarmCoverage)> {
    match run {
        // A run that panicked has covered nothing.
        Some(run) => run.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// What this proxy is about to warm.
struct Warmer {
    running: Arc<Running>,
    live: Arc<Live>,
    plan: WarmPlan,
    run: Option<Run>,
    record_at: Instant,
}

impl Warmer {
    fn new(running: Arc<Running>) -> Warmer {
        let (live, now) = (running.live(), Instant::now());
        let plan = WarmPlan::new(&live.warm, now, Utc::now());
        Warmer { running, live, plan, run: None, record_at: now + RECORDING }
    }

    /// Takes the tables of rules that have come into force.
    fn take_rules(&mut self) {
        let live = self.running.live();
        if !Arc::ptr_eq(&live, &self.live) {
            self.plan.take_tables(&live.warm, Utc::now());
            self.live = live;
        }
    }

    /// Takes or renews the lease when it is time.
    async fn hold_lease(&mut self) {
        if self.plan.is_empty() {
            self.plan.give_up_lease();
            return self.running.warming.set_role(WarmingRole::Off);
        }
        let asked = Instant::now();
        if !self.plan.is_lease_due(asked) && self.running.warming.role() != WarmingRole::Off {
            return;
        }
        let cache = &self.running.cache;
        let role = match cache.store_handle().zip(cache.proxy_id()) {
            Some((store, id)) => match store.hold_warming(id, LEASE).await {
                Ok(true) => WarmingRole::Here,
                Ok(false) => WarmingRole::Elsewhere,
                Err(_) => WarmingRole::RedisAway,
            },
            None => WarmingRole::Here,
        };
        self.running.warming.set_role(role);
        if self.plan.note_lease(role == WarmingRole::Here, asked, Instant::now()) {
            tracing::info!("this proxy warms the cache again");
        }
    }

    /// Begins a run, if one is due and none is under way.
    fn begin_due(&mut self) {
        let due = self.plan.due(Instant::now(), Utc::now());
        if self.run.is_some() {
            return;
        }
        if let Some(wanted) = self.running.warming.begin_wanted() {
            self.begin(self.plan.all(), wanted.family);
        } else if let Some((occasion, tables)) = due {
            self.running.warming.begin(occasion);
            self.begin(tables, None);
        }
    }

    /// Begins the run that [`crate::upkeep::warming::Warming`] reports on.
    fn begin(&mut self, tables: Vec<usize>, family: Option<String>) {
        self.running.metrics.warming.set(1);
        let work = self.plan.begin(tables);
        let (running, live) = (Arc::clone(&self.running), Arc::clone(&self.live));
        let run = tokio::spawn(async move { run_tables(running, live, work, family).await });
        self.run = Some(AbortOnDropHandle::new(run));
    }

    /// A run has ended.
    fn finish(&mut self, covered: Vec<(usize, WarmCoverage)>) {
        self.run = None;
        self.running.metrics.warming.set(0);
        self.record_at = Instant::now();
        self.plan.end(covered, Utc::now());
        if let Some(report) = self.running.warming.end() {
            log(&report);
        }
    }

    /// Records the hits since the last time, if a table predicts by them.
    async fn record_hits(&mut self) {
        if Instant::now() < self.record_at {
            return;
        }
        self.record_at = Instant::now() + RECORDING;
        if !self.plan.predicts() {
            return;
        }
        let recent = self.running.cache.hot().take_recent(RECORDED);
        let reads: Vec<(String, u32)> =
            recent.iter().filter_map(|(read, hits)| Some((hours::name(read)?, *hits))).collect();
        let hour = hours::hour_of(Utc::now());
        match self.running.cache.store_handle() {
            Some(store) => {
                if let Err(error) = store.add_hits(hour, &reads).await {
                    tracing::debug!(%error, "the hits of this hour are not recorded");
                }
            }
            None => self.running.hourly.add(hour, &reads),
        }
    }

    /// When there may be something to do, if nothing happens before.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        if self.plan.is_empty() {
            return now + RECORDING;
        }
        let next = self.plan.next_look(now, Utc::now());
        if self.plan.predicts() { next.min(self.record_at).max(now) } else { next }
    }
}

/// Warms the tables one after another. Returns what each covered.
async fn run_tables(
    running: Arc<Running>,
    live: Arc<Live>,
    tables: Vec<(usize, WarmTable)>,
    family: Option<String>,
) -> Vec<(usize, WarmCoverage)> {
    // Until then nothing could be stored.
    let _ = timeout(READY_WITHIN, running.cache.ready()).await;
    let mut covered = Vec::new();
    for (at, table) in tables {
        let mut expanded = sources::expand(&running, &live, &table).await;
        let paths = expanded.targets.iter().map(|warm| &*warm.target.path);
        covered.push((at, WarmCoverage::of(&live.rules, paths)));
        if let Some(family) = &family {
            expanded.targets.retain(|warm| is_of(&live, &warm.target.path, family));
        }
        run_table(&running, &table, expanded).await;
    }
    covered
}

/// How many paths a run would warm, of this family if one is given, and the sources that could not be read. Stops at the first table with
/// some.
pub async fn find_paths(running: &Running, live: &Live, family: Option<&str>) -> (usize, Vec<String>) {
    let mut problems = Vec::new();
    for table in live.warm.iter() {
        let mut expanded = sources::expand(running, live, table).await;
        if let Some(family) = family {
            expanded.targets.retain(|warm| is_of(live, &warm.target.path, family));
        }
        if !expanded.targets.is_empty() {
            return (expanded.targets.len(), Vec::new());
        }
        problems.append(&mut expanded.problems);
    }
    (0, problems)
}

/// Whether the family that claims a path is this one, or below it.
fn is_of(live: &Live, path: &str, family: &str) -> bool {
    let claimed = live.rules.route(&Method::GET, path);
    claimed.is_some_and(|route| {
        let rest = route.family.name.strip_prefix(family);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    })
}

async fn run_table(running: &Arc<Running>, table: &WarmTable, expanded: Expanded) {
    running.warming.update(|report| {
        report.paths += expanded.targets.len() as u64;
        expanded.problems.into_iter().for_each(|problem| report.note_problem(problem));
    });
    let rate = Arc::new(RequestRate::new(table.rate));
    let mut under_way = JoinSet::new();
    for warm in expanded.targets {
        if under_way.len() >= table.concurrency {
            under_way.join_next().await;
        }
        // A shutdown waits for running fetches.
        if running.tasks.is_closed() {
            return;
        }
        let (running, rate) = (Arc::clone(running), Arc::clone(&rate));
        under_way.spawn(async move {
            let path = warm.target.path.clone();
            let warmed = proxy::warm::warm(&running, warm.target, warm.headers, rate.wait()).await;
            running.metrics.warmed(warmed.word());
            running.warming.update(|report| report.count(&warmed, &path));
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Spaces requests out (`rate`).
struct RequestRate {
    step: Option<Duration>,
    next: Mutex<Instant>,
}

impl RequestRate {
    fn new(rate: Option<u64>) -> RequestRate {
        let step = rate.map(|rate| Duration::from_secs_f64(1.0 / rate.max(1) as f64));
        RequestRate { step, next: Mutex::new(Instant::now()) }
    }

    /// Waits until the next request may be sent. Lost time is not caught up on.
    async fn wait(&self) {
        let Some(step) = self.step else { return };
        let at = {
            let mut next = self.next.lock().await;
            let at = (*next).max(Instant::now());
            *next = at + step;
            at
        };
        sleep_until(at).await;
    }
}

fn log(report: &WarmReport) {
    let WarmReport { run, paths, fetched, already_fresh, not_stored, failed, .. } = *report;
    let took = report.ended.and_then(|ended| ended.duration_since(report.began).ok()).unwrap_or_default();
    let (occasion, reason) = (report.occasion.word(), report.reasons.first());
    for problem in &report.problems {
        tracing::warn!(run, "[[warm]]: {problem}");
    }
    match reason {
        Some(first) => tracing::warn!(
            run,
            occasion,
            paths,
            fetched,
            already_fresh,
            not_stored,
            failed,
            ?took,
            path = first.example,
            reason = first.reason,
            "warmed the cache, but not all of it; GET /cache/warm lists the reasons"
        ),
        None => tracing::info!(run, occasion, paths, fetched, already_fresh, ?took, "warmed the cache"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_out_and_lost_time_is_not_caught_up_on() {
        let (rate, begun) = (RequestRate::new(Some(10)), Instant::now());
        for _ in 0..5 {
            rate.wait().await;
        }
        assert_eq!(begun.elapsed().as_millis(), 400);
        tokio::time::sleep(Duration::from_secs(9)).await;
        let begun = Instant::now();
        rate.wait().await;
        rate.wait().await;
        assert_eq!(begun.elapsed().as_millis(), 100);
        let (unlimited, begun) = (RequestRate::new(None), Instant::now());
        unlimited.wait().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

//! Warming: fetches what the `[[warm]]` tables name before a client asks for it.
//!
//! Of the proxies of a fleet one warms by itself: the one that holds a lease in Redis, as the sweeper does. If it dies, another one
//! takes over when the lease lapses, and begins with what is to be warmed at startup. A run that an operator asks for is of the proxy
//! that was asked. Two runs at a time do no harm: what is current and fresh is left alone, and a fetch is stamped as any other.
//!
//! Runs do not cause each other: a run sends GETs alone, and those invalidate nothing. Invalidations that come in a burst cause one
//! run, after a pause.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
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
use crate::upkeep::warming::{Occasion, WarmReport, WarmingRole};

mod openapi;
mod sitemap;
mod sources;

use sources::Expanded;

/// How long the lease lasts without renewal.
const LEASE: Duration = Duration::from_secs(6);

/// How often the lease is renewed, or attempted.
const RENEWAL: Duration = Duration::from_secs(2);

/// Longest sleep while tables run by the clock: the clock may be set.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

/// The pause after the last invalidation before a run.
const SETTLE: Duration = Duration::from_millis(300);

/// The longest that invalidations without a pause put off a run.
const SETTLE_MOST: Duration = Duration::from_secs(5);

/// The least time from one takeover of the lease to the next that is followed by a run of what is warmed at startup.
const STARTUP_PAUSE: Duration = Duration::from_secs(60);

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
        let watches = warmer.tables.iter().any(|state| state.table.on_invalidate);
        notices = notices.filter(|_| watches);
        if watches {
            notices.get_or_insert_with(|| warmer.running.cache.invalidation_notices());
        }
        tokio::select! {
            () = sleep_until(until) => {}
            () = warmer.running.warming.changed() => {}
            tags = next_tags(&mut notices) => warmer.note_invalidation(&tags),
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

/// Waits for the end of a run; for ever if there is none.
async fn ended(run: &mut Option<Run>) -> Vec<(usize, Coverage)> {
    match run {
        // A run that panicked has covered nothing.
        Some(run) => (&mut run.task).await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// A run under way.
struct Run {
    /// Of these tables.
    tables: Vec<usize>,
    /// Returns what it covered of each.
    task: AbortOnDropHandle<Vec<(usize, Coverage)>>,
}

/// What this proxy is about to warm.
struct Warmer {
    running: Arc<Running>,
    live: Arc<Live>,
    tables: Vec<TableState>,
    run: Option<Run>,
    /// This proxy holds the lease; without Redis it always does.
    is_ours: bool,
    renew_at: Instant,
    /// When the startup tables were due last.
    started: Option<Instant>,
    record_at: Instant,
}

struct TableState {
    table: WarmTable,
    /// When it runs next by the clock.
    next: Option<DateTime<Utc>>,
    startup_is_due: bool,
    /// The first and the last invalidation that concerns it since its last run.
    invalidated: Option<(Instant, Instant)>,
    /// What its last run covered.
    coverage: Option<Coverage>,
}

impl TableState {
    fn new(table: &WarmTable, now: DateTime<Utc>) -> TableState {
        let next = table.schedule.as_ref().and_then(|schedule| schedule.next(table.zone, now));
        TableState { table: table.clone(), next, startup_is_due: false, invalidated: None, coverage: None }
    }

    fn plan(&mut self, now: DateTime<Utc>) {
        self.next = self.table.schedule.as_ref().and_then(|schedule| schedule.next(self.table.zone, now));
    }

    /// When its invalidations have settled.
    fn settled_at(&self) -> Option<Instant> {
        self.invalidated.map(|(first, last)| (last + SETTLE).min(first + SETTLE_MOST))
    }
}

impl Warmer {
    fn new(running: Arc<Running>) -> Warmer {
        let live = running.live();
        let tables = live.warm.iter().map(|table| TableState::new(table, Utc::now())).collect();
        let now = Instant::now();
        Warmer {
            running,
            live,
            tables,
            run: None,
            is_ours: false,
            renew_at: now,
            started: None,
            record_at: now + RECORDING,
        }
    }

    /// Takes the tables of rules that have come into force. Those that are as they were keep their times.
    fn take_rules(&mut self) {
        let live = self.running.live();
        if Arc::ptr_eq(&live, &self.live) {
            return;
        }
        let mut before: Vec<TableState> = std::mem::take(&mut self.tables);
        for table in live.warm.iter() {
            // The line may be another one.
            let same = |state: &TableState| WarmTable { line: table.line, ..state.table.clone() } == *table;
            let known = before.iter().position(same).map(|at| before.swap_remove(at));
            self.tables.push(match known {
                Some(known) => TableState { table: table.clone(), coverage: None, ..known },
                None => TableState::new(table, Utc::now()),
            });
        }
        // What it covers is of tables by their former numbers.
        if let Some(run) = &mut self.run {
            run.tables.clear();
        }
        self.live = live;
    }

    /// Takes or renews the lease when it is time.
    async fn hold_lease(&mut self) {
        if self.tables.is_empty() {
            self.is_ours = false;
            return self.running.warming.set_role(WarmingRole::Off);
        }
        if Instant::now() < self.renew_at && self.is_known_role() {
            return;
        }
        self.renew_at = Instant::now() + RENEWAL;
        let cache = &self.running.cache;
        let was_ours = self.is_ours;
        let role = match cache.store_handle().zip(cache.proxy_id()) {
            Some((store, id)) => match store.hold_warming(id, LEASE).await {
                Ok(true) => WarmingRole::Here,
                Ok(false) => WarmingRole::Elsewhere,
                Err(_) => WarmingRole::RedisAway,
            },
            None => WarmingRole::Here,
        };
        self.is_ours = role == WarmingRole::Here;
        self.running.warming.set_role(role);
        if self.is_ours && !was_ours {
            self.take_over();
        }
    }

    fn is_known_role(&self) -> bool {
        self.running.warming.role() != WarmingRole::Off
    }

    /// This proxy warms from now on.
    fn take_over(&mut self) {
        let is_first = self.started.is_none();
        let is_due = self.started.is_none_or(|started| started.elapsed() >= STARTUP_PAUSE);
        for state in self.tables.iter_mut().filter(|state| state.table.on_startup && is_due) {
            state.startup_is_due = true;
        }
        if is_due {
            self.started = Some(Instant::now());
        }
        if !is_first {
            tracing::info!("this proxy warms the cache again");
        }
    }

    /// Begins a run, if one is due and none is under way.
    fn begin_due(&mut self) {
        let now = Utc::now();
        if !self.is_ours {
            // They are another proxy's.
            for state in &mut self.tables {
                state.invalidated = None;
                state.startup_is_due = false;
                if state.next.is_some_and(|next| next <= now) {
                    state.plan(now);
                }
            }
        }
        if self.run.is_some() {
            return;
        }
        if let Some(wanted) = self.running.warming.begin_wanted() {
            return self.begin((0..self.tables.len()).collect(), wanted.family);
        }
        let due = |is_due: &dyn Fn(&TableState) -> bool| -> Vec<usize> {
            self.tables.iter().enumerate().filter(|(_, state)| is_due(state)).map(|(at, _)| at).collect()
        };
        let occasions: [(Occasion, Vec<usize>); 3] = [
            (Occasion::Startup, due(&|state| state.startup_is_due)),
            (Occasion::Schedule, due(&|state| state.next.is_some_and(|next| next <= now))),
            (Occasion::Invalidation, due(&|state| state.settled_at().is_some_and(|at| at <= Instant::now()))),
        ];
        let first = occasions.into_iter().find(|(_, tables)| !tables.is_empty());
        if let Some((occasion, tables)) = first {
            self.running.warming.begin(occasion);
            self.begin(tables, None);
        }
    }

    /// Begins the run that [`crate::upkeep::warming::Warming`] reports on.
    fn begin(&mut self, tables: Vec<usize>, family: Option<String>) {
        self.running.metrics.warming.set(1);
        for at in &tables {
            let state = &mut self.tables[*at];
            state.startup_is_due = false;
            // What is invalidated from now on concerns the next run.
            state.invalidated = None;
            state.next = None;
        }
        let work: Vec<(usize, WarmTable)> =
            tables.iter().map(|at| (*at, self.tables[*at].table.clone())).collect();
        let (running, live) = (Arc::clone(&self.running), Arc::clone(&self.live));
        let task =
            AbortOnDropHandle::new(tokio::spawn(async move { run_tables(running, live, work, family).await }));
        self.run = Some(Run { tables, task });
    }

    /// A run has ended.
    fn finish(&mut self, covered: Vec<(usize, Coverage)>) {
        let Some(run) = self.run.take() else { return };
        self.running.metrics.warming.set(0);
        self.record_at = Instant::now();
        let now = Utc::now();
        // Those of the run, and new ones that have taken their place.
        self.tables.iter_mut().filter(|state| state.next.is_none()).for_each(|state| state.plan(now));
        for (at, coverage) in covered.into_iter().filter(|(at, _)| run.tables.contains(at)) {
            self.tables[at].coverage = Some(coverage);
        }
        if let Some(report) = self.running.warming.end() {
            log(&report);
        }
    }

    fn note_invalidation(&mut self, tags: &[Tag]) {
        let now = Instant::now();
        for state in self.tables.iter_mut().filter(|state| state.table.on_invalidate) {
            if state.coverage.as_ref().is_none_or(|coverage| tags.iter().any(|tag| coverage.concerns(tag))) {
                let first = state.invalidated.map_or(now, |(first, _)| first);
                state.invalidated = Some((first, now));
            }
        }
    }

    /// Records the hits since the last time, if a table predicts by them.
    async fn record_hits(&mut self) {
        if Instant::now() < self.record_at {
            return;
        }
        self.record_at = Instant::now() + RECORDING;
        if !self.predicts() {
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

    fn predicts(&self) -> bool {
        self.tables.iter().any(|state| state.table.reads.as_ref().is_some_and(|reads| reads.predict))
    }

    /// When there may be something to do, if nothing happens before.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        if self.tables.is_empty() {
            return now + RECORDING;
        }
        let has_clock = self.tables.iter().any(|state| state.next.is_some());
        let settled = self.tables.iter().filter_map(TableState::settled_at).filter(|_| self.run.is_none());
        let due = self.tables.iter().filter_map(|state| {
            let left = (state.next? - Utc::now()).to_std().unwrap_or(Duration::ZERO);
            Some(now + left.min(CLOCK_CHECK))
        });
        let due = due.filter(|_| self.run.is_none() && has_clock);
        let recording = self.predicts().then_some(self.record_at);
        settled.chain(due).chain(recording).chain([self.renew_at]).min().unwrap_or(now + RENEWAL).max(now)
    }
}

/// What a run covered, for the invalidations that concern it.
#[derive(Debug, Default)]
struct Coverage {
    families: HashSet<String>,
    /// Hashes of paths.
    paths: HashSet<u64>,
}

impl Coverage {
    fn of(live: &Live, expanded: &Expanded) -> Coverage {
        let mut coverage = Coverage::default();
        for warm in &expanded.targets {
            if let Some(route) = live.rules.route(&Method::GET, &warm.target.path)
                && !coverage.families.contains(&route.family.name)
            {
                coverage.families.insert(route.family.name.clone());
            }
            coverage.paths.insert(hash(&warm.target.path));
        }
        coverage
    }

    /// Whether an invalidation of this tag may have invalidated something of it.
    fn concerns(&self, tag: &Tag) -> bool {
        let text = tag.as_str();
        if let Some(path) = text.strip_prefix("uri:") {
            return self.paths.contains(&hash(path));
        }
        if tag.is_of_family() {
            let is_below =
                |name: &str, level: &str| name.strip_prefix(level).is_some_and(|rest| rest.starts_with(':'));
            return self
                .families
                .iter()
                .any(|family| family == text || is_below(text, family) || is_below(family, text));
        }
        // The groups of a response are not known here. Entries of one caller are not warmed.
        !text.starts_with("caller ")
    }
}

fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Warms the tables one after another. Returns what each covered.
async fn run_tables(
    running: Arc<Running>,
    live: Arc<Live>,
    tables: Vec<(usize, WarmTable)>,
    family: Option<String>,
) -> Vec<(usize, Coverage)> {
    // Until then nothing could be stored.
    let _ = timeout(READY_WITHIN, running.cache.ready()).await;
    let mut covered = Vec::new();
    for (at, table) in tables {
        let mut expanded = sources::expand(&running, &live, &table).await;
        covered.push((at, Coverage::of(&live, &expanded)));
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
    let pace = Arc::new(Pace::new(table.rate));
    let mut under_way = JoinSet::new();
    for warm in expanded.targets {
        if under_way.len() >= table.concurrency {
            under_way.join_next().await;
        }
        // A shutdown waits for running fetches.
        if running.tasks.is_closed() {
            return;
        }
        let (running, pace) = (Arc::clone(running), Arc::clone(&pace));
        under_way.spawn(async move {
            let path = warm.target.path.clone();
            let warmed = proxy::warm::warm(&running, warm.target, warm.headers, pace.turn()).await;
            running.metrics.warmed(warmed.word());
            running.warming.update(|report| report.count(&warmed, &path));
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Spaces requests out (`rate`).
struct Pace {
    step: Option<Duration>,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: Option<u64>) -> Pace {
        let step = rate.map(|rate| Duration::from_secs_f64(1.0 / rate.max(1) as f64));
        Pace { step, next: Mutex::new(Instant::now()) }
    }

    /// Waits until the next request may be sent. Lost time is not caught up on.
    async fn turn(&self) {
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

    #[test]
    fn an_invalidation_concerns_what_carries_its_tag() {
        let families = ["booking:stats", "user"].map(str::to_owned).into();
        let coverage = Coverage { families, paths: [hash("/users")].into() };
        let rows = [
            ("*", true),
            ("user", true),
            ("user:42", true),
            ("users", false),
            ("booking", true),
            ("booking:stats:7", true),
            ("booking:list", false),
            ("uri:/users", true),
            ("uri:/rooms", false),
            ("group h/stock", true),
            ("caller user sha256:x", false),
        ];
        for (tag, expected) in rows {
            assert_eq!(coverage.concerns(&Tag::family(tag)), expected, "{tag}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_out_and_lost_time_is_not_caught_up_on() {
        let (pace, begun) = (Pace::new(Some(10)), Instant::now());
        for _ in 0..5 {
            pace.turn().await;
        }
        assert_eq!(begun.elapsed().as_millis(), 400);
        tokio::time::sleep(Duration::from_secs(9)).await;
        let begun = Instant::now();
        pace.turn().await;
        pace.turn().await;
        assert_eq!(begun.elapsed().as_millis(), 100);
        let (unpaced, begun) = (Pace::new(None), Instant::now());
        unpaced.turn().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

//! When the `[[warm]]` tables run, and in which proxy of a fleet. Decides only: the caller reads the clocks, asks for the lease, receives
//! the notices and fetches.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::Method;
use tokio::time::Instant;

use crate::config::WarmTable;
use crate::marks::Tag;
use crate::rules::RuleSet;
use crate::upkeep::warming::Occasion;

/// How long the lease lasts without renewal.
pub const LEASE: Duration = Duration::from_secs(6);

/// How often the lease is renewed, or attempted.
pub const RENEWAL: Duration = Duration::from_secs(2);

/// Longest sleep while tables run by the clock: the clock may be set.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

/// The pause after the last invalidation before a run.
const SETTLE: Duration = Duration::from_millis(300);

/// The longest that invalidations without a pause put off a run.
const SETTLE_MOST: Duration = Duration::from_secs(5);

/// The least time from one takeover of the lease to the next that is followed by a run of what is warmed at startup.
const STARTUP_PAUSE: Duration = Duration::from_secs(60);

/// The tables, and when each runs.
pub struct WarmPlan {
    tables: Vec<TableState>,
    /// This proxy holds the lease; without Redis it always does.
    is_ours: bool,
    renew_at: Instant,
    /// When the startup tables were due last.
    started: Option<Instant>,
    /// The tables of the run under way.
    under_way: Option<Vec<usize>>,
}

struct TableState {
    table: WarmTable,
    /// When it runs next by the clock.
    next: Option<DateTime<Utc>>,
    startup_is_due: bool,
    /// The first and the last invalidation that concerns it since its last run.
    invalidated: Option<(Instant, Instant)>,
    /// What its last run covered.
    coverage: Option<WarmCoverage>,
}

impl TableState {
    fn new(table: &WarmTable, wall: DateTime<Utc>) -> TableState {
        let mut state = TableState {
            table: table.clone(),
            next: None,
            startup_is_due: false,
            invalidated: None,
            coverage: None,
        };
        state.plan(wall);
        state
    }

    fn plan(&mut self, wall: DateTime<Utc>) {
        self.next = self.table.schedule.as_ref().and_then(|schedule| schedule.next(self.table.zone, wall));
    }

    /// When its invalidations have settled.
    fn settled_at(&self) -> Option<Instant> {
        self.invalidated.map(|(first, last)| (last + SETTLE).min(first + SETTLE_MOST))
    }
}

impl WarmPlan {
    /// A plan of these tables in a proxy that does not hold the lease.
    pub fn new(tables: &[WarmTable], now: Instant, wall: DateTime<Utc>) -> WarmPlan {
        let tables = tables.iter().map(|table| TableState::new(table, wall)).collect();
        WarmPlan { tables, is_ours: false, renew_at: now, started: None, under_way: None }
    }

    /// Takes the tables of rules that have come into force. Those that are as they were keep their times.
    pub fn take_tables(&mut self, tables: &[WarmTable], wall: DateTime<Utc>) {
        let mut before: Vec<TableState> = std::mem::take(&mut self.tables);
        for table in tables {
            // The line may be another one.
            let same = |state: &TableState| WarmTable { line: table.line, ..state.table.clone() } == *table;
            let known = before.iter().position(same).map(|at| before.swap_remove(at));
            self.tables.push(match known {
                Some(known) => TableState { table: table.clone(), coverage: None, ..known },
                None => TableState::new(table, wall),
            });
        }
        // What the run covers is of tables by their former numbers.
        if let Some(tables) = &mut self.under_way {
            tables.clear();
        }
    }

    /// Whether there are no tables.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether this proxy holds the lease.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Whether a table follows invalidations.
    pub fn follows_invalidations(&self) -> bool {
        self.tables.iter().any(|state| state.table.on_invalidate)
    }

    /// Whether a table predicts by the hits of earlier days.
    pub fn predicts(&self) -> bool {
        self.tables.iter().any(|state| state.table.reads.as_ref().is_some_and(|reads| reads.predict))
    }

    /// Whether it is time to take or renew the lease.
    pub fn is_lease_due(&self, now: Instant) -> bool {
        now >= self.renew_at
    }

    /// The lease is not needed, since there are no tables.
    pub fn give_up_lease(&mut self) {
        self.is_ours = false;
    }

    /// The lease was asked for at `asked`, and is this proxy's from now on, or not. Returns whether this proxy warms again, after it had
    /// not for a while.
    pub fn note_lease(&mut self, is_ours: bool, asked: Instant, now: Instant) -> bool {
        self.renew_at = asked + RENEWAL;
        // After a reply that came too late, another proxy may hold it.
        let is_ours = is_ours && now < asked + LEASE;
        let was_ours = std::mem::replace(&mut self.is_ours, is_ours);
        is_ours && !was_ours && self.take_over(now)
    }

    /// This proxy warms from now on.
    fn take_over(&mut self, now: Instant) -> bool {
        let is_first = self.started.is_none();
        let is_due = self.started.is_none_or(|started| now - started >= STARTUP_PAUSE);
        for state in self.tables.iter_mut().filter(|state| state.table.on_startup && is_due) {
            state.startup_is_due = true;
        }
        if is_due {
            self.started = Some(now);
        }
        !is_first
    }

    /// The tables that are due, and why. `None` while a run is under way, and in a proxy that does not hold the lease.
    pub fn due(&mut self, now: Instant, wall: DateTime<Utc>) -> Option<(Occasion, Vec<usize>)> {
        if !self.is_ours {
            // They are another proxy's.
            for state in &mut self.tables {
                state.invalidated = None;
                state.startup_is_due = false;
                if state.next.is_some_and(|next| next <= wall) {
                    state.plan(wall);
                }
            }
        }
        if self.under_way.is_some() {
            return None;
        }
        let due = |is_due: &dyn Fn(&TableState) -> bool| -> Vec<usize> {
            self.tables.iter().enumerate().filter(|(_, state)| is_due(state)).map(|(at, _)| at).collect()
        };
        let occasions: [(Occasion, Vec<usize>); 3] = [
            (Occasion::Startup, due(&|state| state.startup_is_due)),
            (Occasion::Schedule, due(&|state| state.next.is_some_and(|next| next <= wall))),
            (Occasion::Invalidation, due(&|state| state.settled_at().is_some_and(|at| at <= now))),
        ];
        occasions.into_iter().find(|(_, tables)| !tables.is_empty())
    }

    /// All tables, for a run that an operator asks for.
    pub fn all(&self) -> Vec<usize> {
        (0..self.tables.len()).collect()
    }

    /// A run of these tables begins. Returns them with their numbers.
    pub fn begin(&mut self, tables: Vec<usize>) -> Vec<(usize, WarmTable)> {
        for at in &tables {
            let state = &mut self.tables[*at];
            state.startup_is_due = false;
            // What is invalidated from now on concerns the next run.
            state.invalidated = None;
            state.next = None;
        }
        let work = tables.iter().map(|at| (*at, self.tables[*at].table.clone())).collect();
        self.under_way = Some(tables);
        work
    }

    /// The run has ended. `covered`: what it covered of each table; nothing if it panicked.
    pub fn end(&mut self, covered: Vec<(usize, WarmCoverage)>, wall: DateTime<Utc>) {
        let Some(tables) = self.under_way.take() else { return };
        // Those of the run, and new ones that have taken their place.
        self.tables.iter_mut().filter(|state| state.next.is_none()).for_each(|state| state.plan(wall));
        for (at, coverage) in covered.into_iter().filter(|(at, _)| tables.contains(at)) {
            self.tables[at].coverage = Some(coverage);
        }
    }

    /// Something with these tags was invalidated.
    pub fn note_invalidation(&mut self, tags: &[Tag], now: Instant) {
        for state in self.tables.iter_mut().filter(|state| state.table.on_invalidate) {
            if state.coverage.as_ref().is_none_or(|coverage| tags.iter().any(|tag| coverage.concerns(tag))) {
                let first = state.invalidated.map_or(now, |(first, _)| first);
                state.invalidated = Some((first, now));
            }
        }
    }

    /// When there may be something to do, if nothing happens before.
    pub fn next_look(&self, now: Instant, wall: DateTime<Utc>) -> Instant {
        let is_idle = self.under_way.is_none();
        let settled = self.tables.iter().filter_map(TableState::settled_at).filter(|_| is_idle);
        let due = self.tables.iter().filter_map(|state| {
            let left = (state.next? - wall).to_std().unwrap_or(Duration::ZERO);
            Some(now + left.min(CLOCK_CHECK))
        });
        settled.chain(due.filter(|_| is_idle)).fold(self.renew_at, Instant::min).max(now)
    }
}

/// What a run covered, for the invalidations that concern it.
#[derive(Debug, Default)]
pub struct WarmCoverage {
    families: HashSet<String>,
    /// Hashes of paths.
    paths: HashSet<u64>,
}

impl WarmCoverage {
    /// That of a run which reads these normalised paths.
    pub fn of<'p>(rules: &RuleSet, paths: impl Iterator<Item = &'p str>) -> WarmCoverage {
        let mut coverage = WarmCoverage::default();
        for path in paths {
            if let Some(route) = rules.route(&Method::GET, path)
                && !coverage.families.contains(&route.family.name)
            {
                coverage.families.insert(route.family.name.clone());
            }
            coverage.paths.insert(hash(path));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn plan(tables: &str, now: Instant) -> WarmPlan {
        let text = format!("[server]\nupstream = \"http://a\"\n{tables}");
        let config = Config::parse(&text, "rules.toml", &Overrides::default(), &|_| None);
        let config = config.unwrap_or_else(|faults| panic!("{faults}"));
        WarmPlan::new(&config.warm, now, wall())
    }

    fn wall() -> DateTime<Utc> {
        "2026-03-30T07:20:00Z".parse().unwrap()
    }

    const AT_STARTUP: &str = "[[warm]]\npaths = [\"/a\"]\nhost = \"a\"\non = [\"startup\", \"invalidate\"]\n";

    #[test]
    fn only_the_proxy_that_holds_the_lease_begins_runs() {
        let now = Instant::now();
        let mut plan = plan(AT_STARTUP, now);
        assert!(plan.is_lease_due(now) && plan.due(now, wall()).is_none());
        plan.note_lease(false, now, now);
        plan.note_invalidation(&[Tag::root()], now);
        assert!(!plan.is_lease_due(now) && plan.due(now + SETTLE, wall()).is_none(), "another proxy warms");
        plan.note_lease(true, now, now);
        assert_eq!(plan.due(now, wall()), Some((Occasion::Startup, vec![0])));
        plan.begin(vec![0]);
        assert_eq!(plan.due(now, wall()), None, "one run at a time");
        plan.end(Vec::new(), wall());
        plan.note_invalidation(&[Tag::root()], now);
        assert_eq!(plan.due(now, wall()), None, "more may come");
        assert_eq!(plan.due(now + SETTLE, wall()), Some((Occasion::Invalidation, vec![0])));
    }

    #[test]
    fn a_lease_whose_reply_comes_after_it_has_lapsed_is_not_held() {
        let asked = Instant::now();
        for (late, expected) in [(Duration::ZERO, true), (LEASE - Duration::from_millis(1), true), (LEASE, false)]
        {
            let mut plan = plan(AT_STARTUP, asked);
            plan.note_lease(true, asked, asked + late);
            assert_eq!(
                (plan.is_ours(), plan.due(asked + late, wall()).is_some()),
                (expected, expected),
                "{late:?}"
            );
        }
    }

    #[test]
    fn an_invalidation_concerns_what_carries_its_tag() {
        let families = ["booking:stats", "user"].map(str::to_owned).into();
        let coverage = WarmCoverage { families, paths: [hash("/users")].into() };
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
}

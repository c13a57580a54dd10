//! State of warming ([`crate::warm`]) in this proxy: the run that is under way, the runs that were, and the run that an operator
//! asks for. Everything is bounded.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::mutex::lock;
use crate::words::words;

/// Reports that are kept.
const REPORTS: usize = 20;

/// Reasons of one report; further ones are counted together.
const REASONS: usize = 20;

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warmed {
    /// Fetched, and stored.
    Fetched,
    /// What is stored is current and fresh: upstream was not asked.
    AlreadyFresh,
    /// Upstream answered, and nothing was stored.
    NotStored(String),
    /// Upstream failed.
    Failed(String),
}

impl Warmed {
    /// For JSON, metrics and the log.
    pub fn word(&self) -> &'static str {
        match self {
            Warmed::Fetched => "fetched",
            Warmed::AlreadyFresh => "already_fresh",
            Warmed::NotStored(_) => "not_stored",
            Warmed::Failed(_) => "failed",
        }
    }
}

words! {
/// Why a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// `on = ["startup"]`
    Startup = "startup",
    /// `on = ["invalidate"]`
    Invalidation = "invalidate",
    /// `every`, `cron` or `predict`
    Schedule = "schedule",
    /// `POST /cache/warm`
    Operator = "operator",
}
}

/// Results that have a reason, counted together.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = WarmReason)]
pub struct ReasonCount {
    /// [`Warmed::word`]
    pub result: &'static str,
    pub reason: String,
    pub count: u64,
    /// The first path with it, without its query.
    pub example: String,
}

/// A run, under way or over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmReport {
    /// Counts the runs of this proxy from 1.
    pub run: u64,
    pub occasion: Occasion,
    /// The family to which the run is limited.
    pub family: Option<String>,
    pub began: SystemTime,
    /// `None` while it is under way.
    pub ended: Option<SystemTime>,
    /// Paths to warm, as far as they are known.
    pub paths: u64,
    pub fetched: u64,
    pub already_fresh: u64,
    pub not_stored: u64,
    pub failed: u64,
    pub reasons: Vec<ReasonCount>,
    /// Sources that could not be read, and why.
    pub problems: Vec<String>,
}

impl WarmReport {
    /// Requests that are over.
    pub fn done(&self) -> u64 {
        self.fetched + self.already_fresh + self.not_stored + self.failed
    }

    /// Counts one result. `path`: without its query.
    pub fn count(&mut self, warmed: &Warmed, path: &str) {
        let (count, reason) = match warmed {
            Warmed::Fetched => (&mut self.fetched, None),
            Warmed::AlreadyFresh => (&mut self.already_fresh, None),
            Warmed::NotStored(reason) => (&mut self.not_stored, Some(reason)),
            Warmed::Failed(reason) => (&mut self.failed, Some(reason)),
        };
        *count += 1;
        let Some(reason) = reason else { return };
        let result = warmed.word();
        let is_full = self.reasons.len() >= REASONS;
        let known = self.reasons.iter_mut().find(|known| known.result == result && known.reason == *reason);
        match known {
            Some(known) => known.count += 1,
            None if is_full => {}
            None => {
                self.reasons.push(ReasonCount {
                    result,
                    reason: reason.clone(),
                    count: 1,
                    example: path.to_owned(),
                });
            }
        }
    }

    /// Notes a source that could not be read.
    pub fn note_problem(&mut self, problem: String) {
        if self.problems.len() < REASONS {
            self.problems.push(problem);
        }
    }
}

/// A run that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRun {
    pub run: u64,
    pub family: Option<String>,
}

words! {
/// What this proxy does about warming by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WarmingRole {
    /// There is no `[[warm]]`.
    Off = "off",
    /// Another proxy warms.
    Elsewhere = "elsewhere",
    /// This proxy does.
    Here = "here",
    /// Redis does not answer, so that nothing that is fetched could be stored.
    RedisAway = "redis-away",
}
}

impl WarmingRole {
    /// What that means, and what to do.
    pub fn explanation(self) -> &'static str {
        match self {
            WarmingRole::Off => {
                "the rules have no [[warm]], so nothing is fetched before a client asks for it; add one with paths, file, openapi, \
                 sitemap or family to the rules file"
            }
            WarmingRole::Elsewhere => {
                "another proxy with this Redis and namespace warms for all, and this one takes over if that one stops; POST \
                 /cache/warm makes this one warm once"
            }
            WarmingRole::Here => "this proxy warms for all with this Redis and namespace",
            WarmingRole::RedisAway => {
                "Redis does not answer, so no proxy warms: nothing that is fetched could be stored, and requests go to upstream. \
                 Warming begins again by itself when Redis answers; GET /cache/health says what is wrong with it"
            }
        }
    }
}

#[derive(Debug, Default)]
struct WarmingState {
    runs: u64,
    current: Option<WarmReport>,
    wanted: Option<WantedRun>,
    /// The latest first.
    reports: VecDeque<WarmReport>,
}

/// The state of warming in this proxy.
#[derive(Debug, Default)]
pub struct Warming {
    state: Mutex<WarmingState>,
    role: AtomicU8,
    /// An operator wants a run, or the rules have changed.
    changed: Notify,
}

impl Warming {
    /// Asks for a run. Returns its number; the run that is under way, or will be before it, if there is one.
    pub fn want(&self, family: Option<String>) -> Result<u64, u64> {
        let mut state = lock(&self.state);
        if let Some(current) = &state.current {
            return Err(current.run);
        }
        if let Some(wanted) = &state.wanted {
            return Err(wanted.run);
        }
        state.runs += 1;
        let run = state.runs;
        state.wanted = Some(WantedRun { run, family });
        drop(state);
        self.changed.notify_one();
        Ok(run)
    }

    /// Takes the run that an operator wants, and begins it.
    pub fn begin_wanted(&self) -> Option<WantedRun> {
        let mut state = lock(&self.state);
        let wanted = state.wanted.take()?;
        state.current = Some(report(wanted.run, Occasion::Operator, wanted.family.clone()));
        Some(wanted)
    }

    /// Begins a run of this proxy's own.
    pub fn begin(&self, occasion: Occasion) {
        let mut state = lock(&self.state);
        state.runs += 1;
        state.current = Some(report(state.runs, occasion, None));
    }

    /// Changes the report of the run under way.
    pub fn update(&self, change: impl FnOnce(&mut WarmReport)) {
        if let Some(current) = &mut lock(&self.state).current {
            change(current);
        }
    }

    /// Ends the run under way. Returns its report.
    pub fn end(&self) -> Option<WarmReport> {
        let mut state = lock(&self.state);
        let mut report = state.current.take()?;
        report.ended = Some(SystemTime::now());
        state.reports.push_front(report.clone());
        state.reports.truncate(REPORTS);
        Some(report)
    }

    /// The run under way, and the runs that are over, the latest first.
    pub fn reports(&self) -> (Option<WarmReport>, Vec<WarmReport>) {
        let state = lock(&self.state);
        (state.current.clone(), state.reports.iter().cloned().collect())
    }

    /// What this proxy does about warming by itself.
    pub fn role(&self) -> WarmingRole {
        WarmingRole::WORDS.get(usize::from(self.role.load(Relaxed))).map_or(WarmingRole::Off, |(_, role)| *role)
    }

    /// Sets the role.
    pub fn set_role(&self, role: WarmingRole) {
        self.role.store(role as u8, Relaxed);
    }

    /// Says that the rules have changed.
    pub fn rules_changed(&self) {
        self.changed.notify_one();
    }

    /// Waits until an operator wants a run, or the rules change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn report(run: u64, occasion: Occasion, family: Option<String>) -> WarmReport {
    WarmReport {
        run,
        occasion,
        family,
        began: SystemTime::now(),
        ended: None,
        paths: 0,
        fetched: 0,
        already_fresh: 0,
        not_stored: 0,
        failed: 0,
        reasons: Vec::new(),
        problems: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_is_asked_for() {
        let warming = Warming::default();
        assert_eq!(warming.want(None), Ok(1));
        assert_eq!(warming.want(None), Err(1), "not begun yet");
        assert_eq!(warming.begin_wanted(), Some(WantedRun { run: 1, family: None }));
        assert_eq!((warming.want(None), warming.begin_wanted()), (Err(1), None));
        assert_eq!(warming.end().map(|report| report.run), Some(1));
        assert_eq!(warming.want(Some("a".to_owned())), Ok(2));
    }

    #[test]
    fn reports_and_their_reasons_are_bounded() {
        let warming = Warming::default();
        for run in 0..100 {
            warming.begin(Occasion::Schedule);
            warming.update(|report| {
                (0..100).for_each(|n| report.count(&Warmed::Failed(format!("{run} {n}")), "/a"));
                (0..100).for_each(|n| report.note_problem(n.to_string()));
                report.count(&Warmed::Failed(format!("{run} 1")), "/b");
            });
            warming.end();
        }
        let (current, reports) = warming.reports();
        assert_eq!((current, reports.len(), reports[0].run), (None, REPORTS, 100));
        assert_eq!((reports[0].reasons.len(), reports[0].problems.len()), (REASONS, REASONS));
        assert_eq!((reports[0].failed, reports[0].done(), reports[0].reasons[1].count), (101, 101, 2));
    }
}

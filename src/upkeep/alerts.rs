//! When an alert is raised and cleared. Pure: readings and their thresholds go in, changes come out.
//!
//! An alert is raised when two evaluations in a row are beyond the threshold, and cleared when two in a row are on the right side
//! of it by a tenth, so that a value near the threshold does not raise it again and again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

/// Evaluations in a row that raise or clear an alert.
const IN_A_ROW: u32 = 2;
/// Most cleared alerts that are kept.
const CLEARED: usize = 100;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// Hits, of hits and misses: too few.
    HitRate,
    /// Answers with a status of 500 or more, of all: too many.
    ErrorRate,
    /// Mean time of an answer from the cache, seconds: too long.
    HitLatency,
    /// Redis's memory, of its `maxmemory`: too much.
    Memory,
    /// Seconds for which Redis has not answered: too many.
    StoreAway,
    /// Families that are not cached because proxies of the fleet follow different rules for them: any.
    MixedRules,
}

impl Watched {
    /// Its name in the rules file, in JSON, metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Watched::HitRate => "hit_rate",
            Watched::ErrorRate => "error_rate",
            Watched::HitLatency => "hit_latency",
            Watched::Memory => "memory",
            Watched::StoreAway => "store_away",
            Watched::MixedRules => "mixed_rules",
        }
    }

    /// Whether `value` is beyond the threshold by more than `margin`, a part of the threshold (of what is left to 1, for the
    /// hit rate). A negative margin: it is not on the right side by that much.
    fn is_beyond(self, value: f64, threshold: f64, margin: f64) -> bool {
        match self {
            Watched::HitRate => value < threshold - (1.0 - threshold) * margin,
            _ => value > threshold + threshold * margin,
        }
    }

    /// A value as people read it.
    fn text(self, value: f64) -> String {
        match self {
            Watched::HitRate | Watched::ErrorRate | Watched::Memory => format!("{:.1}%", value * 100.0),
            Watched::HitLatency => format!("{:.1}ms", value * 1000.0),
            Watched::StoreAway => format!("{value:.0}s"),
            Watched::MixedRules => format!("{value:.0}"),
        }
    }
}

impl Serialize for Watched {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
pub struct Subject {
    /// What is watched.
    #[serde(rename = "alert")]
    #[schema(value_type = String)]
    pub watched: Watched,
    /// `None`: all families together.
    pub family: Option<String>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.watched.name())?;
        self.family.iter().try_for_each(|family| write!(f, " of family {family:?}"))
    }
}

/// One evaluation of a subject.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertReading {
    pub subject: Subject,
    /// Parts of 1, or seconds. `None`: too few requests to say.
    pub value: Option<f64>,
    pub threshold: f64,
}

/// An alert that was raised.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Alert {
    #[serde(flatten)]
    pub subject: Subject,
    /// The last reading: `61.5%`, `12.0ms`.
    pub value: String,
    pub threshold: String,
    /// RFC 3339.
    pub raised: String,
    /// RFC 3339; null while it is raised.
    pub cleared: Option<String>,
    /// `recovered`, `too few requests` (the last value stays) or `not watched any more`; null while it is raised.
    pub cleared_because: Option<&'static str>,
    /// What to do.
    pub what_to_do: &'static str,
}

#[derive(Debug, Default)]
struct AlertState {
    /// Evaluations in a row that speak for a change.
    in_a_row: u32,
    raised: Option<Alert>,
}

/// All alerts.
#[derive(Debug, Default)]
pub struct Alerts {
    states: BTreeMap<Subject, AlertState>,
    cleared: VecDeque<Alert>,
}

impl Alerts {
    /// Takes the readings of one evaluation. Returns the alerts that it raises, and those that it clears.
    pub fn evaluate(&mut self, readings: Vec<AlertReading>, now: SystemTime) -> Vec<Alert> {
        let mut changes = Vec::new();
        let mut earlier = std::mem::take(&mut self.states);
        for reading in readings {
            let mut state = earlier.remove(&reading.subject).unwrap_or_default();
            changes.extend(state.take(&reading, now));
            self.states.insert(reading.subject, state);
        }
        // What is no longer watched: its family or its threshold is gone.
        changes.extend(
            earlier
                .into_values()
                .filter_map(|state| state.raised)
                .map(|alert| alert.clear(now, "not watched any more")),
        );
        let cleared = changes.iter().filter(|alert| alert.cleared.is_some());
        self.cleared.extend(cleared.cloned());
        let surplus = self.cleared.len().saturating_sub(CLEARED);
        self.cleared.drain(..surplus);
        changes
    }

    /// Those that are raised.
    pub fn raised(&self) -> impl Iterator<Item = &Alert> {
        self.states.values().filter_map(|state| state.raised.as_ref())
    }

    /// Those that were cleared, the latest first; at most 100.
    pub fn cleared(&self) -> impl Iterator<Item = &Alert> {
        self.cleared.iter().rev()
    }
}

impl AlertState {
    fn take(&mut self, reading: &AlertReading, now: SystemTime) -> Option<Alert> {
        let (watched, threshold) = (reading.subject.watched, reading.threshold);
        let speaks_for_a_change = match (&mut self.raised, reading.value) {
            (None, Some(value)) => watched.is_beyond(value, threshold, 0.0),
            (None, None) => false,
            (Some(alert), Some(value)) => {
                (alert.value, alert.threshold) = (watched.text(value), watched.text(threshold));
                !watched.is_beyond(value, threshold, -0.1)
            }
            // Without requests nothing is wrong any more.
            (Some(_), None) => true,
        };
        self.in_a_row = if speaks_for_a_change { self.in_a_row + 1 } else { 0 };
        if self.in_a_row < IN_A_ROW {
            return None;
        }
        self.in_a_row = 0;
        match self.raised.take() {
            Some(alert) if reading.value.is_some() => Some(alert.clear(now, "recovered")),
            Some(alert) => Some(alert.clear(now, "too few requests")),
            None => {
                let alert = Alert::new(reading, now);
                self.raised = Some(alert.clone());
                Some(alert)
            }
        }
    }
}

impl Alert {
    fn new(reading: &AlertReading, now: SystemTime) -> Alert {
        let watched = reading.subject.watched;
        Alert {
            value: watched.text(reading.value.unwrap_or_default()),
            threshold: watched.text(reading.threshold),
            raised: time(now),
            cleared: None,
            cleared_because: None,
            what_to_do: match watched {
                Watched::HitRate => {
                    "GET /cache/families says which family misses most, and larder explain why; a longer ttl or fewer \
                     invalidations raise the rate"
                }
                Watched::ErrorRate => {
                    "look at the log and at upstream; stale_if_error serves stale while it fails"
                }
                Watched::HitLatency => {
                    "look at the CPU of this machine; with coherence = \"strict\", at Redis's latency"
                }
                Watched::Memory => {
                    "give Redis more memory (maxmemory), store less (max_body, ttl), or set compress; what Redis evicts \
                     is fetched again"
                }
                Watched::MixedRules => {
                    "give all proxies the same rules file: GET /cache/fleet says which families are not cached meanwhile, and which \
                     proxies follow other rules"
                }
                Watched::StoreAway => "look at Redis and at the network to it; meanwhile requests go upstream",
            },
            subject: reading.subject.clone(),
        }
    }

    fn clear(self, now: SystemTime, because: &'static str) -> Alert {
        Alert { cleared: Some(time(now)), cleared_because: Some(because), ..self }
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(watched: Watched, value: Option<f64>, threshold: f64) -> AlertReading {
        AlertReading { subject: Subject { watched, family: Some("a".to_owned()) }, value, threshold }
    }

    /// `R`: raised by this evaluation, `C`: cleared by it, `.`: no change.
    fn changes(watched: Watched, threshold: f64, values: &[Option<f64>]) -> String {
        let mut alerts = Alerts::default();
        let change = |value: &Option<f64>| {
            let changes = alerts.evaluate(vec![reading(watched, *value, threshold)], SystemTime::UNIX_EPOCH);
            match &changes[..] {
                [] => '.',
                [Alert { cleared: None, .. }] => 'R',
                [Alert { cleared: Some(_), .. }] => 'C',
                _ => '?',
            }
        };
        values.iter().map(change).collect()
    }

    #[test]
    fn an_alert_needs_two_evaluations_and_clears_with_a_margin() {
        let some = |values: &[f64]| values.iter().map(|value| Some(*value)).collect::<Vec<_>>();
        let rows = [
            (Watched::HitRate, 0.7, some(&[0.6, 0.8, 0.6, 0.6, 0.71, 0.72, 0.74, 0.71, 0.74, 0.74]), "...R.....C"),
            (Watched::ErrorRate, 0.05, some(&[0.06, 0.06, 0.048, 0.048, 0.04, 0.04, 0.05]), ".R...C."),
            (Watched::Memory, 0.9, some(&[0.95, 0.95, 0.85, 0.85, 0.80, 0.80]), ".R...C"),
            (Watched::HitLatency, 0.01, some(&[0.02, 0.02, 0.0095, 0.001, 0.001]), ".R..C"),
            (Watched::StoreAway, 10.0, some(&[5.0, 11.0, 12.0, 0.0, 0.0]), "..R.C"),
            (Watched::MixedRules, 0.0, some(&[0.0, 1.0, 2.0, 1.0, 0.0, 0.0]), "..R..C"),
        ];
        for (watched, threshold, values, expected) in rows {
            assert_eq!(changes(watched, threshold, &values), expected, "{watched:?}");
        }
    }

    #[test]
    fn too_few_requests_raise_nothing_and_clear_what_is_raised() {
        let values = [None, None, Some(0.1), None, Some(0.1), Some(0.1), None, None];
        assert_eq!(changes(Watched::HitRate, 0.7, &values), ".....R.C");
    }

    #[test]
    fn what_is_no_longer_watched_is_cleared_and_the_list_of_cleared_ones_is_bounded() {
        let mut alerts = Alerts::default();
        let low = || vec![reading(Watched::HitRate, Some(0.1), 0.7)];
        for _ in 0..150 {
            alerts.evaluate(low(), SystemTime::UNIX_EPOCH);
            alerts.evaluate(low(), SystemTime::UNIX_EPOCH);
            assert_eq!(alerts.raised().count(), 1);
            let cleared = alerts.evaluate(Vec::new(), SystemTime::UNIX_EPOCH);
            assert!(cleared.len() == 1 && cleared[0].cleared.is_some());
        }
        assert_eq!((alerts.raised().count(), alerts.cleared().count()), (0, CLEARED));
    }

    #[test]
    fn an_alert_says_what_is_wrong_in_numbers_and_what_to_do() {
        let alert = Alert::new(&reading(Watched::HitRate, Some(0.615), 0.7), SystemTime::UNIX_EPOCH);
        assert_eq!((alert.value.as_str(), alert.threshold.as_str()), ("61.5%", "70.0%"));
        assert_eq!(alert.subject.to_string(), "hit_rate of family \"a\"");
        let json = serde_json::to_value(&alert).unwrap();
        assert_eq!((&json["alert"], &json["family"]), (&"hit_rate".into(), &"a".into()));
        assert!(alert.what_to_do.contains("GET /cache/families"));
    }
}

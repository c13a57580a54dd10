//! Thresholds of alerts: `[alerts]`, and `alerts` of a family.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::{Item, Table};

/// Mean time of an answer from the cache.
const LATENCY: RangeInclusive<Duration> = Duration::from_micros(1)..=Duration::from_secs(60);

/// Beyond these an alert is raised; `None`: never.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Hits, of hits and misses: a part of 1.
    pub hit_rate: Option<f64>,
    /// Answers with a status of 500 or more, of all: a part of 1.
    pub error_rate: Option<f64>,
    /// Mean time of an answer from the cache.
    pub hit_latency: Option<Duration>,
}

/// The targets that guides for operators of caches usually set.
impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { hit_rate: Some(0.7), error_rate: Some(0.05), hit_latency: Some(Duration::from_millis(10)) }
    }
}

/// What a family says differently. The outer `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FamilyThresholds {
    hit_rate: Option<Option<f64>>,
    error_rate: Option<Option<f64>>,
    hit_latency: Option<Option<Duration>>,
}

impl FamilyThresholds {
    /// Reads the fields of both tables.
    pub fn read(table: &mut Table<'_>) -> FamilyThresholds {
        FamilyThresholds {
            hit_rate: table.read("hit_rate", |item| or_off(&item, percent)),
            error_rate: table.read("error_rate", |item| or_off(&item, percent)),
            hit_latency: table.read("hit_latency", |item| or_off(&item, |item| item.duration(&LATENCY))),
        }
    }

    /// `alerts` of a family: a table, or `"off"`.
    pub fn of_family(item: &Item<'_>) -> Option<FamilyThresholds> {
        if !item.is_table() {
            item.choice(&[("off", ())])?;
            return Some(FamilyThresholds {
                hit_rate: Some(None),
                error_rate: Some(None),
                hit_latency: Some(None),
            });
        }
        let mut table = item.table()?;
        let thresholds = FamilyThresholds::read(&mut table);
        table.finish();
        Some(thresholds)
    }

    /// These, and the others from `all`.
    pub fn or(&self, all: &Thresholds) -> Thresholds {
        Thresholds {
            hit_rate: self.hit_rate.unwrap_or(all.hit_rate),
            error_rate: self.error_rate.unwrap_or(all.error_rate),
            hit_latency: self.hit_latency.unwrap_or(all.hit_latency),
        }
    }
}

/// As in the rules file, for people: `hit_rate 50%, error_rate off`; empty if it says nothing.
impl fmt::Display for FamilyThresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [self.hit_rate, self.error_rate, self.hit_latency.map(|time| time.map(|it| it.as_secs_f64()))];
        if all == [Some(None); 3] {
            return f.write_str("off");
        }
        let parts = [
            ("hit_rate", self.hit_rate.map(|rate| rate.map(percent_text))),
            ("error_rate", self.error_rate.map(|rate| rate.map(percent_text))),
            ("hit_latency", self.hit_latency.map(|it| it.map(|it| humantime::format_duration(it).to_string()))),
        ];
        let stated = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (at, (name, value)) in stated.enumerate() {
            write!(f, "{}{name} {}", if at == 0 { "" } else { ", " }, value.as_deref().unwrap_or("off"))?;
        }
        Ok(())
    }
}

impl From<Thresholds> for FamilyThresholds {
    fn from(all: Thresholds) -> FamilyThresholds {
        FamilyThresholds {
            hit_rate: Some(all.hit_rate),
            error_rate: Some(all.error_rate),
            hit_latency: Some(all.hit_latency),
        }
    }
}

/// `"off"`, which is the inner `None`, or a value.
pub fn or_off<T>(item: &Item<'_>, read: impl FnOnce(&Item<'_>) -> Option<T>) -> Option<Option<T>> {
    if item.is_boolean() {
        return item.refuse("is true or false", "write \"off\" for no alert; remove it for the default");
    }
    match item.word() {
        Some("off") => Some(None),
        _ => read(item).map(Some),
    }
}

/// A part of 1 as `70%`, to a millionth of a percent.
pub fn percent_text(part: f64) -> String {
    format!("{}%", (part * 1e8).round() / 1e6)
}

/// `"70%"`, as a part of 1.
pub fn percent(item: &Item<'_>) -> Option<f64> {
    if let Some(number) = item.number() {
        return item.refuse("is a number without its unit", format!("write {:?}", format!("{number}%")));
    }
    let text = item.filled()?;
    let number = text.value.trim().strip_suffix('%').and_then(|digits| digits.trim().parse::<f64>().ok());
    match number.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Some(percent / 100.0),
        None => {
            let remedy = match text.raw.trim().parse::<f64>() {
                Ok(part) if (0.0..1.0).contains(&part) => format!("write {:?}", format!("{}%", part * 100.0)),
                Ok(number) if (0.0..=100.0).contains(&number) => format!("write {:?}", format!("{number}%")),
                _ => "write \"0%\" to \"100%\", or \"off\"".to_owned(),
            };
            text.refuse(format_args!("{:?} is not a percentage", text.raw), remedy)
        }
    }
}

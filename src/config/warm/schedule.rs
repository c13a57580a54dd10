//! When a `[[warm]]` table runs by the clock. Pure.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

/// How long before an hour what is predicted for it is warmed.
const LEAD: TimeDelta = TimeDelta::minutes(5);

/// When a table runs by the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// `every`: this long after the run before, within `hours` if there are any.
    Every { period: Duration, hours: Option<Hours> },
    /// `cron`
    Cron(CronExpression),
    /// `predict` without `every` and `cron`: some minutes before each hour.
    BeforeEachHour { hours: Option<Hours> },
}

/// Hours of the day, 0 to 23, as a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours(u32);

/// A cron expression, and how it was written.
#[derive(Debug, Clone)]
pub struct CronExpression {
    text: String,
    parsed: Box<croner::Cron>,
}

impl PartialEq for CronExpression {
    fn eq(&self, other: &CronExpression) -> bool {
        self.text == other.text
    }
}

impl Eq for CronExpression {}

impl Schedule {
    /// The first time after `now`, in the hours and by the clock of `zone`. `None`: there is none, such as for 30 February.
    pub fn next(&self, zone: Tz, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Schedule::Every { period, hours } => {
                let due = now.checked_add_signed(TimeDelta::from_std(*period).ok()?)?;
                hours.map_or(Some(due), |hours| hours.first_from(zone, due))
            }
            Schedule::Cron(cron) => {
                let next = cron.parsed.find_next_occurrence(&now.with_timezone(&zone), false).ok()?;
                Some(next.with_timezone(&Utc))
            }
            Schedule::BeforeEachHour { hours } => {
                let mut hour = next_hour(zone, now + LEAD);
                if let Some(hours) = hours {
                    hour = hours.first_from(zone, hour)?;
                }
                Some(hour - LEAD)
            }
        }
    }
}

/// The beginning of the next hour of the local clock.
fn next_hour(zone: Tz, time: DateTime<Utc>) -> DateTime<Utc> {
    let local = time.with_timezone(&zone);
    let into = i64::from(local.minute()) * 60 + i64::from(local.second());
    let whole = time - TimeDelta::nanoseconds(i64::from(time.nanosecond() % 1_000_000_000));
    whole + TimeDelta::seconds(3600 - into)
}

impl Hours {
    /// Reads `9-11`, which is 9:00 to 11:59, `22-5` over midnight, and several of them with commas between.
    pub fn parse(text: &str) -> Option<Hours> {
        let hour = |text: &str| text.trim().parse::<u32>().ok().filter(|hour| *hour < 24);
        let mut hours = 0;
        for span in text.split(',') {
            let (from, to) = span.split_once('-').unwrap_or((span, span));
            let (mut at, to) = (hour(from)?, hour(to)?);
            loop {
                hours |= 1 << at;
                if at == to {
                    break;
                }
                at = (at + 1) % 24;
            }
        }
        Some(Hours(hours))
    }

    fn contain(self, hour: u32) -> bool {
        self.0 & (1 << hour) != 0
    }

    /// The first time from `time` on that is in them.
    fn first_from(self, zone: Tz, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut time = time;
        // A day has at most 25 hours, and one hour of the day may be left out.
        for _ in 0..=49 {
            if self.contain(time.with_timezone(&zone).hour()) {
                return Some(time);
            }
            time = next_hour(zone, time);
        }
        None
    }
}

impl CronExpression {
    /// Reads a cron expression of five fields. The error says what is wrong with it.
    ///
    /// # Errors
    ///
    /// It is none, has another number of fields, or names a day that no month has.
    pub fn parse(text: &str) -> Result<CronExpression, String> {
        let fields = text.split_whitespace().count();
        if fields != 5 {
            return Err(format!("it has {fields} fields, not 5"));
        }
        let parsed = croner::Cron::from_str(text).map_err(|error| error.to_string())?;
        // Any time will do: every day that exists comes within some years of it.
        if parsed.find_next_occurrence(&DateTime::<Utc>::UNIX_EPOCH, false).is_err() {
            return Err("that day never comes".to_owned());
        }
        Ok(CronExpression { text: text.to_owned(), parsed: Box::new(parsed) })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn cron(text: &str) -> Schedule {
        Schedule::Cron(CronExpression::parse(text).unwrap())
    }

    fn every(minutes: u64, hours: &str) -> Schedule {
        Schedule::Every { period: Duration::from_secs(minutes * 60), hours: Hours::parse(hours) }
    }

    const PARIS: Tz = chrono_tz::Europe::Paris;

    #[test]
    fn cron_follows_daylight_saving_time() {
        let daily = cron("0 6 * * *");
        let rows = [
            ("2026-01-10T04:00:00Z", "2026-01-10T05:00:00Z"),
            ("2026-01-10T05:00:00Z", "2026-01-11T05:00:00Z"),
            // The night of 29 March has no 2:30; 6:00 is an hour earlier in UTC from then on.
            ("2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z"),
            // 25 October has 2:30 twice.
            ("2026-10-24T04:00:00Z", "2026-10-25T05:00:00Z"),
        ];
        for (now, next) in rows {
            assert_eq!(daily.next(PARIS, at(now)), Some(at(next)), "{now}");
        }
        let in_the_gap = cron("30 2 * * *").next(PARIS, at("2026-03-28T12:00:00Z")).unwrap();
        assert!(
            in_the_gap > at("2026-03-29T00:59:59Z") && in_the_gap < at("2026-03-30T01:00:00Z"),
            "{in_the_gap}"
        );
        let half_past_two = cron("30 2 * * *");
        let first = half_past_two.next(PARIS, at("2026-10-24T12:00:00Z")).unwrap();
        let second = half_past_two.next(PARIS, first).unwrap();
        assert_eq!(second, at("2026-10-26T01:30:00Z"), "once in the night of 25 October, after {first}");
        assert!(CronExpression::parse("0 0 30 2 *").is_err(), "there is no such day");
        assert!(CronExpression::parse("every day").is_err());
    }

    #[test]
    fn a_period_waits_for_its_hours() {
        let half_hourly = every(30, "9-11");
        let rows = [
            ("2026-01-10T08:10:00Z", "2026-01-10T08:40:00Z"),
            // 11:59 local is the last minute; the next is 9:00 of the next day.
            ("2026-01-10T10:20:00Z", "2026-01-10T10:50:00Z"),
            ("2026-01-10T10:50:00Z", "2026-01-11T08:00:00Z"),
            ("2026-01-10T03:17:05Z", "2026-01-10T08:00:00Z"),
            // The clock is set forward in between.
            ("2026-03-28T20:00:00Z", "2026-03-29T07:00:00Z"),
        ];
        for (now, next) in rows {
            assert_eq!(half_hourly.next(PARIS, at(now)), Some(at(next)), "{now}");
        }
        let always = Schedule::Every { period: Duration::from_secs(60), hours: None };
        assert_eq!(always.next(PARIS, at("2026-01-10T23:59:30Z")), Some(at("2026-01-11T00:00:30Z")));
        let half_hour_zone = every(60, "6").next(chrono_tz::Asia::Kolkata, at("2026-01-10T12:00:00Z"));
        assert_eq!(half_hour_zone, Some(at("2026-01-11T00:30:00Z")));
    }

    #[test]
    fn what_is_predicted_is_warmed_shortly_before_each_hour() {
        let before = |hours: Option<&str>| Schedule::BeforeEachHour { hours: hours.and_then(Hours::parse) };
        let rows = [
            (None, "2026-01-10T08:10:00Z", "2026-01-10T08:55:00Z"),
            (None, "2026-01-10T08:55:00Z", "2026-01-10T09:55:00Z"),
            (None, "2026-01-10T08:57:00Z", "2026-01-10T09:55:00Z"),
            (Some("9-11"), "2026-01-10T12:00:00Z", "2026-01-11T07:55:00Z"),
        ];
        for (hours, now, next) in rows {
            assert_eq!(before(hours).next(PARIS, at(now)), Some(at(next)), "{hours:?} {now}");
        }
    }

    #[test]
    fn hours_are_spans_that_may_cross_midnight() {
        let contained = |text: &str| {
            let hours = Hours::parse(text)?;
            Some((0..24).filter(|hour| hours.contain(*hour)).collect::<Vec<_>>())
        };
        assert_eq!(contained("9-11"), Some(vec![9, 10, 11]));
        assert_eq!(contained("22-1, 12"), Some(vec![0, 1, 12, 22, 23]));
        for wrong in ["", "9-", "24", "9-24", "a", "9..11", "-1"] {
            assert_eq!(contained(wrong), None, "{wrong}");
        }
    }
}

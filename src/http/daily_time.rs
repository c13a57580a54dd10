//! `until`: a clock time at which responses stop being fresh each day.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

/// A time of day in a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DailyTime {
    time: NaiveTime,
    zone: Tz,
}

/// Why a text is no daily time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DailyTimeFault {
    /// Its first word is not a time of day.
    Time,
    /// It has no time zone.
    NoZone,
    /// No time zone has this name.
    Zone(String),
}

impl DailyTime {
    /// Reads `09:00 Europe/Paris`; seconds are allowed (`23:59:30 UTC`).
    ///
    /// # Errors
    ///
    /// The time is not between 00:00 and 23:59:59, or the zone is missing or not one of the IANA time zone database.
    pub fn parse(text: &str) -> Result<DailyTime, DailyTimeFault> {
        let mut words = text.split_whitespace();
        let time = words.next().unwrap_or_default();
        let time = ["%H:%M", "%H:%M:%S"].iter().find_map(|form| NaiveTime::parse_from_str(time, form).ok());
        // A leap second (23:59:60) is not a time of every day.
        let time = time.filter(|time| *time <= LAST).ok_or(DailyTimeFault::Time)?;
        match (words.next(), words.next()) {
            (None, _) => Err(DailyTimeFault::NoZone),
            (Some(name), None) => match name.parse() {
                Ok(zone) => Ok(DailyTime { time, zone }),
                Err(_) => Err(DailyTimeFault::Zone(name.to_owned())),
            },
            (Some(name), Some(_)) => Err(DailyTimeFault::Zone(name.to_owned())),
        }
    }

    /// The names of all time zones.
    pub fn zones() -> impl Iterator<Item = &'static str> {
        TZ_VARIANTS.iter().map(|zone| zone.name())
    }

    /// The time from `now` to the next such time; `None` for a `now` that no calendar has.
    ///
    /// A time that occurs twice on a day (when clocks are set back) counts twice. One that does not occur (when they are set
    /// forward) is the first moment after the gap.
    pub fn from(self, now: SystemTime) -> Option<Duration> {
        let since_1970 = now.duration_since(UNIX_EPOCH).ok()?;
        let now =
            DateTime::<Utc>::from_timestamp(i64::try_from(since_1970.as_secs()).ok()?, since_1970.subsec_nanos())?;
        let today = now.with_timezone(&self.zone).date_naive();
        // The time of yesterday may be after midnight, if that is where a gap ends. Tomorrow may be a day that the zone leaves out.
        let days = (-1..=2).filter_map(|days| today.checked_add_signed(TimeDelta::days(days)));
        let next = days.flat_map(|day| self.on(day)).flatten().filter(|time| *time > now).min()?;
        (next - now).to_std().ok()
    }

    /// The moments at which it is this time on this day: one or two.
    fn on(self, day: NaiveDate) -> [Option<DateTime<Utc>>; 2] {
        let local = day.and_time(self.time);
        let utc = |time: DateTime<Tz>| time.with_timezone(&Utc);
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(time) => [Some(utc(time)), None],
            MappedLocalTime::Ambiguous(first, second) => [Some(utc(first)), Some(utc(second))],
            MappedLocalTime::None => {
                let after =
                    (1..=24 * 60).filter_map(|minutes| local.checked_add_signed(TimeDelta::minutes(minutes)));
                let mut times = after.filter_map(|local| self.zone.from_local_datetime(&local).earliest());
                [times.next().map(utc), None]
            }
        }
    }
}

/// The last second of a day.
const LAST: NaiveTime = match NaiveTime::from_hms_opt(23, 59, 59) {
    Some(time) => time,
    None => NaiveTime::MIN,
};

/// As in the rules file: `09:00 Europe/Paris`.
impl fmt::Display for DailyTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use chrono::Timelike;
        let seconds = if self.time.second() == 0 { "" } else { ":%S" };
        write!(f, "{} {}", self.time.format(&format!("%H:%M{seconds}")), self.zone.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next time, in UTC, after a moment in UTC.
    fn next(daily: &str, now: &str) -> String {
        let now: DateTime<Utc> = now.parse().unwrap();
        let system = UNIX_EPOCH + Duration::from_secs(now.timestamp() as u64);
        let until = DailyTime::parse(daily).unwrap().from(system).unwrap();
        (now + until).format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    #[test]
    fn the_next_time_is_today_or_tomorrow_by_the_clock_of_the_zone() {
        let rows = [
            ("09:00 UTC", "2026-11-29T08:59:59Z", "2026-11-29T09:00:00Z"),
            ("09:00 UTC", "2026-11-29T09:00:00Z", "2026-11-30T09:00:00Z"),
            ("09:00 Europe/Paris", "2026-11-29T07:00:00Z", "2026-11-29T08:00:00Z"),
            ("09:00 Europe/Paris", "2026-07-01T06:59:00Z", "2026-07-01T07:00:00Z"),
            ("00:00 Asia/Tokyo", "2026-11-29T14:59:59Z", "2026-11-29T15:00:00Z"),
            ("23:59:30 America/New_York", "2026-12-31T12:00:00Z", "2027-01-01T04:59:30Z"),
            ("12:00 Pacific/Kiritimati", "2026-11-29T00:00:00Z", "2026-11-29T22:00:00Z"),
        ];
        for (daily, now, expected) in rows {
            assert_eq!(next(daily, now), expected, "{daily} after {now}");
        }
    }

    #[test]
    fn clocks_that_are_set_forward_or_back_are_followed() {
        let rows = [
            // Europe/Paris leaves out 02:00 to 03:00 on 2026-03-29: 03:00 is 01:00 UTC.
            ("02:30 Europe/Paris", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
            ("02:30 Europe/Paris", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"),
            ("09:00 Europe/Paris", "2026-03-28T12:00:00Z", "2026-03-29T07:00:00Z"),
            // It has 02:30 twice on 2026-10-25.
            ("02:30 Europe/Paris", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("02:30 Europe/Paris", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("02:30 Europe/Paris", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"),
            ("09:00 Europe/Paris", "2026-10-24T08:00:00Z", "2026-10-25T08:00:00Z"),
            // A gap that ends after midnight, and a zone that left out a day.
            ("00:30 America/Asuncion", "2023-09-30T12:00:00Z", "2023-10-01T04:00:00Z"),
            ("09:00 Pacific/Apia", "2011-12-30T09:00:00Z", "2011-12-30T10:00:00Z"),
        ];
        for (daily, now, expected) in rows {
            assert_eq!(next(daily, now), expected, "{daily} after {now}");
        }
    }

    #[test]
    fn what_is_no_daily_time_is_refused_and_what_is_prints_as_written() {
        let rows = [
            ("", DailyTimeFault::Time),
            ("9", DailyTimeFault::Time),
            ("24:00 UTC", DailyTimeFault::Time),
            ("23:59:60 UTC", DailyTimeFault::Time),
            ("9am UTC", DailyTimeFault::Time),
            ("09:00", DailyTimeFault::NoZone),
            ("09:00 Europe/Pariss", DailyTimeFault::Zone("Europe/Pariss".to_owned())),
            ("09:00 UTC daily", DailyTimeFault::Zone("UTC".to_owned())),
        ];
        for (text, fault) in rows {
            assert_eq!(DailyTime::parse(text), Err(fault), "{text:?}");
        }
        for text in ["09:00 Europe/Paris", "23:59:30 UTC"] {
            assert_eq!(DailyTime::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(DailyTime::parse("9:05 UTC").unwrap().to_string(), "09:05 UTC");
    }

    #[test]
    fn a_time_that_no_calendar_has_has_no_next_one() {
        let daily = DailyTime::parse("09:00 UTC").unwrap();
        assert_eq!(daily.from(UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(daily.from(UNIX_EPOCH + Duration::from_secs(1 << 50)), None);
    }
}

//! Reads lifetimes, and the fields of `[[family]]` that set them by status, by the clock and by demand: `negative_ttl`, `until`,
//! `adaptive_ttl`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::StatusCode;

use super::nearest::{did_you_mean, nearest};
use super::reader::{Item, Text};
use crate::http::adaptive_ttl::{AdaptiveTtl, TtlFactor};
use crate::http::daily_time::{DailyTime, DailyTimeFault};
use crate::http::negative_ttl::{self, NegativeTtl};

/// Ten years: anything longer is a typing error, and sums of it still fit in a date.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Freshness is in whole seconds (RFC 9111 §1.2.2).
pub(super) const LIFETIME: RangeInclusive<Duration> = Duration::from_secs(1)..=LONGEST;

/// Hundredths of a hot URL's factor.
const HOT: RangeInclusive<u32> = 101..=1000;

/// Hundredths of a cold URL's factor.
const COLD: RangeInclusive<u32> = 10..=99;

/// Requests in an hour that a hot URL has at least: counters go to 2²⁴.
const HOT_RATE: RangeInclusive<u64> = 1..=10_000_000;

/// A request counts itself, so that no URL has less than one.
const COLD_RATE: RangeInclusive<u64> = 2..=10_000_000;

/// A time in whole seconds. Zero only if `range` has it.
pub(super) fn read_seconds(item: &Item<'_>, range: &RangeInclusive<Duration>) -> Option<Duration> {
    let value = item.duration(&(Duration::ZERO..=*range.end()))?;
    if value.is_zero() && !range.contains(&value) {
        return item.refuse("of 0 stores nothing", "write at least \"1s\", or remove it");
    }
    if value.subsec_nanos() != 0 {
        return item.refuse("has a fraction of a second", "write whole seconds, at least \"1s\"");
    }
    Some(value)
}

/// `negative_ttl = "10s"` or `{ 404 = "10s", 301 = "1d" }`.
pub fn read_negative_ttl(item: &Item<'_>) -> Option<NegativeTtl> {
    if !item.is_table() {
        return read_seconds(item, &LIFETIME).map(NegativeTtl::of_missing);
    }
    let mut lifetimes = Vec::new();
    let members = item.table()?.members();
    if members.is_empty() {
        item.fault("names no status", "write one such as { 404 = \"10s\" }, or remove it");
    }
    for (status, ttl) in members {
        let ttl = read_seconds(&ttl, &LIFETIME);
        lifetimes.extend(read_status(&status).zip(ttl));
    }
    Some(NegativeTtl::by_status(lifetimes))
}

fn read_status(text: &Text<'_>) -> Option<StatusCode> {
    let Ok(status) = text.value.parse::<StatusCode>() else {
        return text.refuse("is not a status", "write three digits, such as 404 = \"10s\"");
    };
    match negative_ttl::refusal(status) {
        Some(reason) => text.refuse(
            reason,
            "remove it; 300, 301, 302, 303, 307, 308, 404, 405, 410, 418 and 451 may have a \
                 lifetime",
        ),
        None => Some(status),
    }
}

/// `until = "09:00 Europe/Paris"`.
pub fn read_until(item: &Item<'_>) -> Option<DailyTime> {
    let text = item.filled()?;
    let fault = match DailyTime::parse(&text.value) {
        Ok(daily) => return Some(daily),
        Err(fault) => fault,
    };
    match fault {
        DailyTimeFault::Time => text.fault(
            format_args!("{:?} does not begin with a time of day", text.raw),
            "write 00:00 to 23:59 and a time zone, such as \"09:00 Europe/Paris\"",
        ),
        DailyTimeFault::NoZone => text.fault(
            format_args!("{:?} has no time zone", text.raw),
            format!("write one behind it, such as \"{} Europe/Paris\" or \"{0} UTC\"", text.raw.trim()),
        ),
        DailyTimeFault::Zone(name) => {
            let remedy = did_you_mean(&nearest(&name, DailyTime::zones()), || {
                "write one of the IANA time zone database, such as \"Europe/Paris\" or \"UTC\"".to_owned()
            });
            text.fault(format_args!("{:?} does not end with a time zone", text.raw), remedy);
        }
    }
    None
}

/// `adaptive_ttl = true` or `{ hot = "2x over 1000/h", cold = "0.5x under 10/h" }`. `has_ttl`: the family has a ttl.
pub fn read_adaptive_ttl(item: &Item<'_>, has_ttl: bool) -> Option<AdaptiveTtl> {
    let adaptive = match item.is_table() {
        true => read_factors(item)?,
        false => item.boolean()?.then(AdaptiveTtl::default)?,
    };
    if !has_ttl {
        item.fault(
            "has no ttl to multiply: it does not change what the API states",
            "add ttl = \"…\", or remove it",
        );
    }
    Some(adaptive)
}

fn read_factors(item: &Item<'_>) -> Option<AdaptiveTtl> {
    let mut table = item.table()?;
    let hot = table.item("hot");
    let cold = table.item("cold");
    table.finish();
    if hot.is_none() && cold.is_none() {
        item.fault(
            "has neither hot nor cold",
            "write adaptive_ttl = true for both, or { hot = \"2x over 1000/h\" }",
        );
    }
    let hot = hot.and_then(|item| read_factor(&item, "over", &HOT, &HOT_RATE));
    let cold_factor = cold.as_ref().and_then(|item| read_factor(item, "under", &COLD, &COLD_RATE));
    if let (Some(item), Some(hot), Some(cold)) = (cold, hot, cold_factor)
        && cold.per_hour > hot.per_hour
    {
        item.fault("is for URLs that are hot as well", "lower its rate to at most that of hot");
    }
    Some(AdaptiveTtl { hot, cold: cold_factor })
}

/// `2x over 1000/h`.
fn read_factor(
    item: &Item<'_>,
    word: &str,
    factors: &RangeInclusive<u32>,
    rates: &RangeInclusive<u64>,
) -> Option<TtlFactor> {
    let text = item.filled()?;
    let example = if word == "over" { "2x over 1000/h" } else { "0.5x under 10/h" };
    let words: Vec<&str> = text.value.split_whitespace().collect();
    let parsed = match words[..] {
        [factor, found, rate] if found == word => hundredths(factor).zip(per_hour(rate)),
        _ => None,
    };
    let Some((hundredths, per_hour)) = parsed else {
        let remedy = format!("write a factor and a rate, such as {example:?} (/s, /m, /h or /d)");
        return text.refuse(format_args!("{:?} is not a factor with a rate", text.raw), remedy);
    };
    if !factors.contains(&hundredths) {
        let range = if word == "over" { "more than 1x, at most 10x" } else { "less than 1x, at least 0.1x" };
        return text.refuse(format_args!("{:?} has a factor out of range", text.raw), format!("write {range}"));
    }
    let Some(per_hour) = u32::try_from(per_hour).ok().filter(|_| rates.contains(&per_hour)) else {
        let (from, to) = (rates.start(), rates.end());
        return text
            .refuse(format_args!("{:?} has a rate out of range", text.raw), format!("write {from}/h to {to}/h"));
    };
    Some(TtlFactor { hundredths, per_hour })
}

/// `0.5x` is 50.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.strip_suffix('x')?.split_once('.').unwrap_or((text.strip_suffix('x')?, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !is_number(whole) || !is_number(part) {
        return None;
    }
    format!("{whole}{part:0<2}").parse().ok()
}

/// `20/m` is 1200; fractions of a request are left out.
fn per_hour(text: &str) -> Option<u64> {
    let (count, unit) = text.split_once('/')?;
    let count: u64 = count.parse().ok()?;
    match unit {
        "s" => count.checked_mul(3600),
        "m" => count.checked_mul(60),
        "h" => Some(count),
        "d" => Some(count / 24),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_and_rates_are_read() {
        let factors = ["2x", "0.5x", "1.25x", "10x", "1.5", "x", ".5x", "1.234x", "-1x", "1.x"];
        assert_eq!(
            factors.map(hundredths),
            [Some(200), Some(50), Some(125), Some(1000), None, None, None, None, None, Some(100)]
        );
        let rates = ["1000/h", "20/m", "1/s", "240/d", "5/d", "10", "x/h", "1/w", "99999999999999999999/s"];
        assert_eq!(
            rates.map(per_hour),
            [Some(1000), Some(1200), Some(3600), Some(10), Some(0), None, None, None, None]
        );
    }
}

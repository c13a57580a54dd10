//! Fields as they are written: what Larder does not yet read so.

use std::time::{Duration, SystemTime};

use crate::support::Verdict::{Fresh, Validated};
use crate::support::{Site, Tier};

#[test]
fn an_age_whose_first_member_is_invalid_does_not_count() {
    let rows = [
        ("Cache-Control: max-age=600\nAge: x, 300", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: -1\nAge: 300", Fresh(600)),
    ];
    Site::start(Tier::Embedded, "").judges_fields("/ages", &rows);
}

/// In the second of the three formats, which has two digits for the year.
fn with_two_digits(time: SystemTime) -> String {
    let full = httpdate::fmt_http_date(time);
    let (day, rest) = full.split_once(", ").unwrap();
    let parts: Vec<&str> = rest.split(' ').collect();
    let day = match day {
        "Tue" => "Tuesday".to_owned(),
        "Wed" => "Wednesday".to_owned(),
        "Thu" => "Thursday".to_owned(),
        "Sat" => "Saturday".to_owned(),
        other => format!("{other}day"),
    };
    format!("{day}, {}-{}-{} {} GMT", parts[0], parts[1], &parts[2][2..], parts[3])
}

#[test]
fn a_year_of_two_digits_lies_at_most_fifty_years_ahead() {
    let years = |count: u64| Duration::from_secs(count * 31_557_600);
    let now = SystemTime::now();
    let site = Site::start(Tier::Embedded, "");
    let lifetime = i64::try_from(years(49).as_secs()).unwrap();
    let rows = [
        (format!("Expires: {}\nETag: \"1\"", with_two_digits(now + years(49))), Fresh(lifetime)),
        (format!("Expires: {}\nETag: \"1\"", with_two_digits(now - years(49))), Validated),
    ];
    site.judges_fields("/years", &rows);
}

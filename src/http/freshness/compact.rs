//! Times of stored responses in few bytes: every entry in memory has several.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970; earlier times count as 1970. Encoded as a [`SystemTime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "SystemTime", into = "SystemTime")]
pub struct Timestamp(u64);

/// Whole seconds, up to 136 years. Encoded as a [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(from = "Duration", into = "Duration")]
pub struct Seconds(u32);

impl Timestamp {
    /// The time.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0)
    }

    /// How long ago this was; zero if it is in the future.
    pub fn until(self, now: Timestamp) -> Duration {
        Duration::from_micros(now.0.saturating_sub(self.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_secs().saturating_mul(1_000_000).saturating_add(since.subsec_micros().into()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        time.time()
    }
}

impl Seconds {
    /// The same as a [`Duration`].
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl From<Duration> for Seconds {
    /// Rounds down.
    fn from(time: Duration) -> Seconds {
        Seconds(u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Duration {
        seconds.duration()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_from_1970_on() {
        let time = UNIX_EPOCH + Duration::new(1_795_961_334, 123_456_789);
        assert_eq!(Timestamp::from(time).time(), UNIX_EPOCH + Duration::new(1_795_961_334, 123_456_000));
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)).time(), UNIX_EPOCH);
        assert!(Timestamp::from(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 1)).time() > time);
        let (before, after) = (Timestamp::from(time), Timestamp::from(time + Duration::from_secs(3)));
        assert_eq!((before.until(after), after.until(before)), (Duration::from_secs(3), Duration::ZERO));
    }

    #[test]
    fn seconds_are_whole_and_bounded() {
        assert_eq!(Seconds::from(Duration::from_millis(2999)).duration(), Duration::from_secs(2));
        assert_eq!(Seconds::from(Duration::MAX).duration(), Duration::from_secs(u32::MAX.into()));
    }
}

//! The clock that times in entries are of: Redis's, where there is one, so that a wrong clock on one proxy's machine changes no
//! age on another. Without Redis it is this machine's own.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// A difference between the clocks of this machine and of Redis above this is reported.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// This machine's clock, corrected by what Redis says of its own.
#[derive(Debug, Default)]
pub struct SharedClock {
    /// Microseconds by which Redis's clock is ahead of this machine's.
    ahead: AtomicI64,
}

impl SharedClock {
    /// The time now.
    pub fn now(&self) -> SystemTime {
        let (now, ahead) = (SystemTime::now(), self.ahead());
        let moved = if ahead < 0 { now.checked_sub(micros(ahead)) } else { now.checked_add(micros(ahead)) };
        moved.unwrap_or(now)
    }

    /// Microseconds by which Redis's clock is ahead of this machine's; below zero if it is behind.
    pub fn ahead(&self) -> i64 {
        self.ahead.load(Relaxed)
    }

    /// Whether the difference is to be reported.
    pub fn is_off(&self) -> bool {
        micros(self.ahead()) > TOLERANCE
    }

    /// Takes in `server`, Redis's time in microseconds after 1970, from the reply to a request that was sent at `sent`; the reply came at
    /// `received`, both by this machine's clock. The difference stays as it is unless the reply contradicts it: how long each way
    /// took is unknown, and times must not waver.
    pub fn observe(&self, sent: SystemTime, received: SystemTime, server: u64) {
        let since_1970 =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|it| it.as_micros());
        let (Some(sent), Some(received)) = (since_1970(sent), since_1970(received)) else { return };
        let ahead_of = |own: u128| {
            let ahead = i128::from(server) - i128::try_from(own).unwrap_or(i128::MAX);
            i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
        };
        let (least, most) = (ahead_of(received), ahead_of(sent));
        // If this machine's clock was set back between the two, the reply shows nothing.
        if least <= most && !(least..=most).contains(&self.ahead()) {
            self.ahead.store(least.midpoint(most), Relaxed);
        }
    }
}

fn micros(ahead: i64) -> Duration {
    Duration::from_micros(ahead.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn a_reply_moves_the_clock_only_if_it_contradicts_the_known_difference() {
        let clock = SharedClock::default();
        for (sent, received, server, ahead) in [
            (1_000_000, 1_000_100, 1_000_050, 0),
            (1_000_000, 1_000_100, 1_000_300, 250),
            (2_000_000, 2_000_100, 2_000_260, 250),
            (3_000_000, 3_900_000, 3_100_000, 250),
            (4_000_000, 4_000_100, 4_000_050, 0),
            (3_600_000_000, 3_600_000_100, 50, -3_600_000_000),
            (9_000_000, 8_000_000, 9_000_000, -3_600_000_000),
            (0, 10, u64::MAX, i64::MAX),
        ] {
            clock.observe(at(sent), at(received), server);
            assert_eq!(clock.ahead(), ahead, "{server}");
            let _ = clock.now();
        }
    }

    #[test]
    fn a_clock_that_is_more_than_a_second_off_is_reported() {
        for (server, is_off) in [(10_000_000, false), (11_000_000, false), (11_000_001, true), (8_999_999, true)] {
            let clock = SharedClock::default();
            clock.observe(at(10_000_000), at(10_000_000), server);
            assert_eq!(clock.is_off(), is_off, "{server}");
        }
    }

    #[test]
    fn without_redis_the_time_is_the_machines_own() {
        let before = SystemTime::now();
        let now = SharedClock::default().now();
        assert!(before <= now && now <= SystemTime::now());
    }
}

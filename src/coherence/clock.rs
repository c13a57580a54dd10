//! The clock by which times in entries are told: Redis's, where there is one, so that a wrong clock of one proxy's machine changes no
//! age on another. Without a store it is this machine's own.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// A machine's clock that differs by more than this is reported.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// This machine's clock, set right by what the store tells of its own.
#[derive(Debug, Default)]
pub struct SharedClock {
    /// Microseconds by which the store's clock is ahead of this machine's.
    ahead: AtomicI64,
}

impl SharedClock {
    /// The time.
    pub fn now(&self) -> SystemTime {
        let (now, ahead) = (SystemTime::now(), self.ahead());
        let moved = if ahead < 0 { now.checked_sub(micros(ahead)) } else { now.checked_add(micros(ahead)) };
        moved.unwrap_or(now)
    }

    /// Microseconds by which the store's clock is ahead of this machine's; below zero if it is behind.
    pub fn ahead(&self) -> i64 {
        self.ahead.load(Relaxed)
    }

    /// Whether this machine's clock is wrong by so much that it is to be reported.
    pub fn is_off(&self) -> bool {
        micros(self.ahead()) > TOLERANCE
    }

    /// The store told `server`, microseconds after 1970, in reply to a request that was sent at `sent`; the reply came at `received`,
    /// both by this machine's clock. What is known stays unless the reply contradicts it: its way there and back is of unknown
    /// length, and times must not waver.
    pub fn hear(&self, sent: SystemTime, received: SystemTime, server: u64) {
        let since_1970 =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|it| it.as_micros());
        let (Some(sent), Some(received)) = (since_1970(sent), since_1970(received)) else { return };
        let ahead_of = |own: u128| {
            let ahead = i128::from(server) - i128::try_from(own).unwrap_or(i128::MAX);
            i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
        };
        let (least, most) = (ahead_of(received), ahead_of(sent));
        // A clock that was set back between the two tells nothing.
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
    fn a_reply_moves_the_clock_only_if_it_contradicts_what_is_known() {
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
            clock.hear(at(sent), at(received), server);
            assert_eq!(clock.ahead(), ahead, "{server}");
            let _ = clock.now();
        }
    }

    #[test]
    fn a_clock_that_is_more_than_a_second_off_is_told() {
        for (server, is_off) in [(10_000_000, false), (11_000_000, false), (11_000_001, true), (8_999_999, true)] {
            let clock = SharedClock::default();
            clock.hear(at(10_000_000), at(10_000_000), server);
            assert_eq!(clock.is_off(), is_off, "{server}");
        }
    }

    #[test]
    fn without_a_store_the_time_is_the_machines_own() {
        let before = SystemTime::now();
        let now = SharedClock::default().now();
        assert!(before <= now && now <= SystemTime::now());
    }
}

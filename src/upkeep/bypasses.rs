//! Families whose requests an operator has forwarded for a while, without the cache: `POST /cache/bypass/{family}`. A bypass ends by itself.
//! Writes invalidate as ever meanwhile, so that what is stored is current when it ends.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Longest bypass.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bypasses at a time.
const MOST: usize = 100;

/// A family, or a level with the families below it, that is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bypass {
    pub family: String,
    pub until: SystemTime,
    /// The name of the token, or the role of the caller.
    pub by: String,
}

/// The bypasses of this proxy.
#[derive(Debug, Default)]
pub struct Bypasses {
    /// Whether there are any: all that a hit looks at without one.
    are_any: AtomicBool,
    list: Mutex<Vec<Bypass>>,
}

impl Bypasses {
    /// Whether any family may be forwarded.
    pub fn are_any(&self) -> bool {
        self.are_any.load(Relaxed)
    }

    /// Whether this family is forwarded.
    pub fn is_forwarded(&self, family: &str, now: SystemTime) -> bool {
        self.current(now).iter().any(|bypass| {
            family.strip_prefix(&*bypass.family).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }

    /// Begins a bypass, or gives that of the family another end. False if there are too many.
    pub fn begin(&self, bypass: Bypass, now: SystemTime) -> bool {
        let mut list = self.current(now);
        list.retain(|known| known.family != bypass.family);
        if list.len() >= MOST {
            return false;
        }
        list.push(bypass);
        self.are_any.store(true, Relaxed);
        true
    }

    /// Ends a bypass; false if there is none of this name.
    pub fn end(&self, family: &str, now: SystemTime) -> bool {
        let mut list = self.current(now);
        let before = list.len();
        list.retain(|known| known.family != family);
        self.are_any.store(!list.is_empty(), Relaxed);
        list.len() < before
    }

    /// Those that have not ended.
    pub fn all(&self, now: SystemTime) -> Vec<Bypass> {
        self.current(now).clone()
    }

    fn current(&self, now: SystemTime) -> MutexGuard<'_, Vec<Bypass>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|bypass| bypass.until > now);
        self.are_any.store(!list.is_empty(), Relaxed);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bypass_covers_a_family_and_those_below_and_ends_by_itself() {
        let (bypasses, now) = (Bypasses::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(100));
        let until = now + Duration::from_secs(10);
        assert!(!bypasses.are_any());
        assert!(bypasses.begin(Bypass { family: "booking".to_owned(), until, by: "ops".to_owned() }, now));
        let rows = [("booking", true), ("booking:stats", true), ("bookings", false), ("user", false)];
        for (family, expected) in rows {
            assert_eq!(bypasses.is_forwarded(family, now), expected, "{family}");
        }
        assert!(bypasses.are_any() && bypasses.all(now).len() == 1);
        assert!(!bypasses.is_forwarded("booking", until) && !bypasses.are_any());
        assert!(!bypasses.end("booking", until));
    }

    #[test]
    fn their_number_is_bounded() {
        let (bypasses, now) = (Bypasses::default(), SystemTime::UNIX_EPOCH);
        let begin = |n: usize| {
            bypasses.begin(Bypass { family: format!("f{n}"), until: now + LONGEST, by: String::new() }, now)
        };
        assert!((0..MOST).all(begin) && !begin(MOST) && begin(0));
    }
}

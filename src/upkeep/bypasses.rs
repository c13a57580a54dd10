//! Families that are forwarded for a while, without the cache: because an operator wants it (`POST /cache/bypass/{family}`), or because
//! the proxies of the fleet follow different rules for them ([`crate::coherence::fleet::mixed`]). Writes invalidate as ever meanwhile, so
//! that what is stored is current when it ends.

use std::collections::BTreeSet;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::mutex::lock;

/// Longest bypass.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bypasses at a time.
const MOST: usize = 100;

/// A family, or a level with the families below it, that an operator has forwarded. It ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bypass {
    pub family: String,
    /// By the clock that times in entries are of; for reports.
    pub until: SystemTime,
    /// The same by a clock that is never set.
    pub end: Instant,
    /// The name of the token, or the role of the caller.
    pub by: String,
}

/// Why a family is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BypassReason {
    /// An operator wants it.
    Operator,
    /// Proxies of the fleet have different rules for it.
    MixedRules,
}

/// The families that this proxy forwards.
#[derive(Debug, Default)]
pub struct Bypasses {
    /// Whether there are any: all that a hit looks at without one.
    are_any: AtomicBool,
    forwarded: Mutex<Forwarded>,
}

#[derive(Debug, Default)]
struct Forwarded {
    by_operators: Vec<Bypass>,
    mixed: BTreeSet<String>,
}

impl Bypasses {
    /// Whether any family may be forwarded.
    pub fn are_any(&self) -> bool {
        self.are_any.load(Acquire)
    }

    /// Why this family is forwarded; `None` if it is not.
    pub fn reason(&self, family: &str, now: Instant) -> Option<BypassReason> {
        let forwarded = self.current(now);
        let is_within =
            |level: &str| family.strip_prefix(level).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
        // Entries below a level have its tag.
        if forwarded.mixed.iter().any(|mixed| is_within(mixed)) {
            return Some(BypassReason::MixedRules);
        }
        forwarded.by_operators.iter().any(|bypass| is_within(&bypass.family)).then_some(BypassReason::Operator)
    }

    /// Whether an entry with these tags is of a family with mixed rules, or below one.
    pub fn is_mixed<T: AsRef<str>>(&self, tags: impl IntoIterator<Item = T>) -> bool {
        self.are_any() && {
            let forwarded = lock(&self.forwarded);
            tags.into_iter().any(|tag| forwarded.mixed.contains(tag.as_ref()))
        }
    }

    /// Begins a bypass, or gives that of the family another end. False if there are too many.
    pub fn begin(&self, bypass: Bypass, now: Instant) -> bool {
        let mut forwarded = self.current(now);
        let list = &mut forwarded.by_operators;
        list.retain(|known| known.family != bypass.family);
        if list.len() >= MOST {
            return false;
        }
        list.push(bypass);
        self.note(&forwarded);
        true
    }

    /// Ends a bypass; false if there is none of this name.
    pub fn end(&self, family: &str, now: Instant) -> bool {
        let mut forwarded = self.current(now);
        let before = forwarded.by_operators.len();
        forwarded.by_operators.retain(|known| known.family != family);
        self.note(&forwarded);
        forwarded.by_operators.len() < before
    }

    /// Those of operators that have not ended.
    pub fn all(&self, now: Instant) -> Vec<Bypass> {
        self.current(now).by_operators.clone()
    }

    /// Replaces those of operators by those of the fleet.
    pub fn follow(&self, fleet: Vec<Bypass>) {
        let mut forwarded = lock(&self.forwarded);
        forwarded.by_operators = fleet;
        self.note(&forwarded);
    }

    /// The families with mixed rules.
    pub fn mixed(&self) -> BTreeSet<String> {
        lock(&self.forwarded).mixed.clone()
    }

    /// Replaces the families with mixed rules. Returns those before.
    pub fn set_mixed(&self, mixed: BTreeSet<String>) -> BTreeSet<String> {
        let mut forwarded = lock(&self.forwarded);
        let before = std::mem::replace(&mut forwarded.mixed, mixed);
        self.note(&forwarded);
        before
    }

    fn current(&self, now: Instant) -> MutexGuard<'_, Forwarded> {
        let mut forwarded = lock(&self.forwarded);
        forwarded.by_operators.retain(|bypass| bypass.end > now);
        self.note(&forwarded);
        forwarded
    }

    fn note(&self, forwarded: &Forwarded) {
        self.are_any.store(!forwarded.by_operators.is_empty() || !forwarded.mixed.is_empty(), Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Tag;

    fn bypass(family: &str, end: Instant) -> Bypass {
        Bypass { family: family.to_owned(), until: SystemTime::UNIX_EPOCH, end, by: "ops".to_owned() }
    }

    #[test]
    fn a_bypass_covers_a_family_and_those_below_and_ends_by_itself() {
        let (bypasses, now) = (Bypasses::default(), Instant::now());
        let end = now + Duration::from_secs(10);
        assert!(!bypasses.are_any());
        assert!(bypasses.begin(bypass("booking", end), now));
        let rows = [("booking", true), ("booking:stats", true), ("bookings", false), ("user", false)];
        for (family, expected) in rows {
            assert_eq!(bypasses.reason(family, now).is_some(), expected, "{family}");
        }
        assert!(bypasses.are_any() && bypasses.all(now).len() == 1);
        assert!(bypasses.reason("booking", end).is_none() && !bypasses.are_any());
        assert!(!bypasses.end("booking", end));
    }

    #[test]
    fn families_with_mixed_rules_are_forwarded_and_none_of_their_entries_is_stored() {
        let (bypasses, now) = (Bypasses::default(), Instant::now());
        assert!(bypasses.set_mixed(["users".to_owned()].into()).is_empty());
        assert_eq!(bypasses.reason("users", now), Some(BypassReason::MixedRules));
        assert_eq!(
            bypasses.reason("users:list", now),
            Some(BypassReason::MixedRules),
            "its entries have that tag"
        );
        assert!(bypasses.is_mixed(&[Tag::root(), Tag::family("users")]) && !bypasses.is_mixed(&[Tag::root()]));
        bypasses.follow(vec![bypass("users", now + LONGEST)]);
        assert_eq!(bypasses.set_mixed(BTreeSet::new()), ["users".to_owned()].into());
        assert_eq!(bypasses.reason("users", now), Some(BypassReason::Operator));
        bypasses.follow(Vec::new());
        assert!(!bypasses.are_any());
    }

    #[test]
    fn their_number_is_bounded() {
        let (bypasses, now) = (Bypasses::default(), Instant::now());
        let begin = |n: usize| bypasses.begin(bypass(&format!("f{n}"), now + LONGEST), now);
        assert!((0..MOST).all(begin) && !begin(MOST) && begin(0));
    }
}

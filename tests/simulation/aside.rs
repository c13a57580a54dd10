//! Data in the store that no guarantee depends on: locks of fetches, the leases of the proxies that sweep and warm, the last key
//! statistics, and reads by the hour.

use std::collections::BTreeMap;
use std::time::Duration;

use larder::store::fleet::{FleetLock, LockReply};
use larder::store::sweep::{Dated, KeyStats};

/// All times in microseconds of the server's clock.
#[derive(Debug, Default)]
pub struct Aside {
    locks: BTreeMap<String, (FleetLock, u64)>,
    sweeper: Option<(String, u64)>,
    warmer: Option<(String, u64)>,
    hours: BTreeMap<u64, BTreeMap<String, u64>>,
    key_stats: Option<(KeyStats, u64, u64)>,
}

impl Aside {
    /// `lock.lua`
    pub fn lock_fetch(
        &mut self,
        fetch: &str,
        lock: &FleetLock,
        until: u64,
        instead_of: Option<&FleetLock>,
        now: u64,
    ) -> LockReply {
        let validity = self.locks.get(fetch).filter(|(_, until)| now < *until).map(|(lock, _)| lock);
        if let Some(theirs) = validity.filter(|theirs| Some(*theirs) != instead_of) {
            return LockReply::Theirs(theirs.clone());
        }
        self.locks.insert(fetch.to_owned(), (lock.clone(), until));
        LockReply::Ours
    }

    /// `release.lua`, but for the message.
    pub fn unlock_fetch(&mut self, fetch: &str, lock: &FleetLock) {
        if self.locks.get(fetch).is_some_and(|(held, _)| held == lock) {
            self.locks.remove(fetch);
        }
    }

    /// `hold_sweep.lua`
    pub fn hold_sweep(&mut self, id: &str, until: u64, now: u64) -> bool {
        hold(&mut self.sweeper, id, until, now)
    }

    /// `hold_sweep.lua` with the lease of the proxy that warms.
    pub fn hold_warming(&mut self, id: &str, until: u64, now: u64) -> bool {
        hold(&mut self.warmer, id, until, now)
    }

    pub fn add_hits(&mut self, hour: u64, reads: Vec<(String, u32)>) {
        let hits = self.hours.entry(hour).or_default();
        for (read, more) in reads {
            *hits.entry(read).or_default() += u64::from(more);
        }
    }

    pub fn hits_in(&self, hours: &[u64]) -> Vec<(String, u64)> {
        let of_hours = hours.iter().filter_map(|hour| self.hours.get(hour)).flatten();
        of_hours.map(|(read, hits)| (read.clone(), *hits)).collect()
    }

    /// `store_key_stats.lua`
    pub fn store_key_stats(&mut self, key_stats: KeyStats, until: u64, now: u64) {
        self.key_stats = Some((key_stats, now, until));
    }

    pub fn key_stats(&self, now: u64) -> Option<Dated> {
        let (key_stats, kept, _) = self.key_stats.as_ref().filter(|(.., until)| now < *until)?;
        Some(Dated { key_stats: key_stats.clone(), age: Duration::from_micros(now.saturating_sub(*kept)) })
    }
}

fn hold(lease: &mut Option<(String, u64)>, id: &str, until: u64, now: u64) -> bool {
    let is_free = lease.as_ref().is_none_or(|(holder, until)| holder == id || now >= *until);
    if is_free {
        *lease = Some((id.to_owned(), until));
    }
    is_free
}

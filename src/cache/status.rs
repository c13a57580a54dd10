//! The cache's parts and their status, for the admin and the work beside requests.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::memory::{Memory, Usage};
use super::notices::InvalidationNotices;
use super::{Cache, StoreState};
use crate::coherence::fleet::status::FleetStatus;
use crate::rules::digest::RulesDigest;
use crate::store::fleet::FleetBypass;
use crate::store::{Link, Store, StoreError};
use crate::upkeep::bypasses::{Bypass, Bypasses};
use crate::upkeep::hot::Hot;
use crate::upkeep::invalidation_log::InvalidationLog;
use crate::upkeep::sweeper::{Activity, Sweeper};

/// What became of [`Cache::set_bypass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BypassChange {
    Done {
        /// The family was forwarded before.
        was_one: bool,
        /// Proxies that follow.
        followers: usize,
        /// Proxies of the fleet.
        members: usize,
    },
    /// There are too many bypasses.
    TooMany,
}

impl Cache {
    /// Whether L1 is served without asking Redis: `None` where there is none.
    pub fn holds_lease(&self) -> Option<bool> {
        self.shared.as_ref().map(|shared| shared.fleet.holds_lease())
    }

    /// The status of this proxy in the fleet: `None` without Redis.
    pub fn fleet(&self) -> Option<FleetStatus> {
        self.shared.as_ref().map(|shared| shared.fleet.status())
    }

    /// Waits until stored responses may be trusted; without Redis they may at once.
    pub async fn ready(&self) {
        if let Some(shared) = &self.shared {
            shared.fleet.opened().await;
        }
    }

    /// State of the shared store.
    pub fn store_state(&self) -> StoreState {
        let Some(shared) = &self.shared else { return StoreState::Embedded };
        match shared.store.link() {
            Link::Down(reason) => StoreState::Down(reason),
            Link::Up if self.pending.has_undelivered() => StoreState::CatchingUp(self.pending.undelivered()),
            Link::Up => StoreState::Up,
        }
    }

    /// The shared store.
    pub fn store_handle(&self) -> Option<&Arc<dyn Store>> {
        self.shared.as_ref().map(|shared| &shared.store)
    }

    /// The sweeper of Redis; `None` without Redis, or with a `rate` of zero. `rate`: keys a second. `pause`: between two
    /// walks.
    pub fn sweeper(&self, rate: u64, pause: Duration) -> Option<Sweeper> {
        let shared = self.shared.as_ref().filter(|_| rate > 0)?;
        let (id, metrics) = (shared.fleet.id(), Arc::clone(&self.metrics));
        let pending = Arc::clone(&self.pending);
        let has_undelivered = Box::new(move || pending.has_undelivered());
        let sweeper = Sweeper::new(id, Arc::clone(&shared.store), has_undelivered, metrics, (rate, pause));
        // One sweeper at most is started in a process.
        let _ = shared.sweeping.set(sweeper.status());
        Some(sweeper)
    }

    /// What the sweeper of this proxy does now.
    pub fn sweeping(&self) -> Activity {
        let sweeping = self.shared.as_ref().and_then(|shared| shared.sweeping.get());
        sweeping.map_or(Activity::Off, |status| status.activity())
    }

    /// How full L1 is.
    pub fn usage(&self) -> Usage {
        self.memory.usage()
    }

    /// L1.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The id of this proxy among those of its Redis: `None` without Redis.
    pub fn proxy_id(&self) -> Option<&str> {
        self.shared.as_ref().map(|shared| shared.fleet.id())
    }

    /// The invalidations from now on, by any proxy.
    pub fn invalidation_notices(&self) -> InvalidationNotices {
        match &self.shared {
            Some(shared) => InvalidationNotices::Fleet(shared.store.messages()),
            None => InvalidationNotices::Local(self.memory.marks.notices()),
        }
    }

    /// The families that are forwarded without the cache.
    pub fn bypasses(&self) -> &Arc<Bypasses> {
        &self.bypasses
    }

    /// Waits until a write may be acknowledged as far as the rules of other proxies are concerned ([`crate::coherence::fleet::Fleet::rules_settled`]).
    pub async fn rules_settled(&self) {
        if let Some(shared) = &self.shared {
            // In a box: without Redis it would only make the future of every write larger.
            Box::pin(shared.fleet.rules_settled()).await;
        }
    }

    /// Prepares a reload ([`crate::coherence::fleet::Fleet::leave_rules`]).
    pub async fn leave_rules(&self, next: &RulesDigest) {
        if let Some(shared) = &self.shared {
            shared.fleet.leave_rules(next).await;
        }
    }

    /// Registers the rules that have come into force.
    pub fn adopt_rules(&self, rules: RulesDigest) {
        if let Some(shared) = &self.shared {
            shared.fleet.adopt_rules(rules);
        }
    }

    /// Has a family forwarded in the whole fleet, without Redis by this proxy; or, if `lasting` is zero, not any more.
    ///
    /// # Errors
    ///
    /// Redis is away.
    pub async fn set_bypass(&self, family: &str, lasting: Duration, by: &str) -> Result<BypassChange, StoreError> {
        let (family, by, now) = (family.to_owned(), by.to_owned(), Instant::now());
        let Some(shared) = &self.shared else {
            let bypass = Bypass { family: family.clone(), until: self.now() + lasting, end: now + lasting, by };
            let was_one = self.bypasses.all(now).iter().any(|known| known.family == family);
            let is_done = match lasting.is_zero() {
                true => self.bypasses.end(&family, now) || !was_one,
                false => self.bypasses.begin(bypass, now),
            };
            return Ok(match is_done {
                true => BypassChange::Done { was_one, followers: 1, members: 1 },
                false => BypassChange::TooMany,
            });
        };
        let until = (self.now() + lasting).duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = if lasting.is_zero() { 0 } else { u64::try_from(until.as_micros()).unwrap_or(u64::MAX) };
        let changed = shared.store.set_bypass(&FleetBypass { family, until, by }).await?;
        let Some((was_one, revision)) = changed else { return Ok(BypassChange::TooMany) };
        let (followers, members) = shared.fleet.followers(revision).await?;
        Ok(BypassChange::Done { was_one, followers, members })
    }

    /// The log of invalidations.
    pub fn log(&self) -> &Arc<InvalidationLog> {
        &self.log
    }

    /// The reads that rules may want refreshed, with their hits.
    pub fn hot(&self) -> &Hot {
        &self.hot
    }
}

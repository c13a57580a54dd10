//! What the store keeps that no promise rests on: claims of fetches, the sweeper's lease, and the last census.

use std::collections::BTreeMap;
use std::time::Duration;

use larder::store::fleet::{Claim, Claimed};
use larder::store::sweep::{Census, Dated};

/// All times in microseconds of the server's clock.
#[derive(Debug, Default)]
pub struct Aside {
    claims: BTreeMap<String, (Claim, u64)>,
    sweeper: Option<(String, u64)>,
    census: Option<(Census, u64, u64)>,
}

impl Aside {
    /// `claim.lua`
    pub fn claim(
        &mut self,
        fetch: &str,
        claim: &Claim,
        until: u64,
        instead_of: Option<&Claim>,
        now: u64,
    ) -> Claimed {
        let standing = self.claims.get(fetch).filter(|(_, until)| now < *until).map(|(claim, _)| claim);
        if let Some(theirs) = standing.filter(|theirs| Some(*theirs) != instead_of) {
            return Claimed::Theirs(theirs.clone());
        }
        self.claims.insert(fetch.to_owned(), (claim.clone(), until));
        Claimed::Ours
    }

    /// `release.lua`, but for the message.
    pub fn release(&mut self, fetch: &str, claim: &Claim) {
        if self.claims.get(fetch).is_some_and(|(standing, _)| standing == claim) {
            self.claims.remove(fetch);
        }
    }

    /// `hold_sweep.lua`
    pub fn hold_sweep(&mut self, id: &str, until: u64, now: u64) -> bool {
        let is_free = self.sweeper.as_ref().is_none_or(|(holder, until)| holder == id || now >= *until);
        if is_free {
            self.sweeper = Some((id.to_owned(), until));
        }
        is_free
    }

    /// `keep_census.lua`
    pub fn keep_census(&mut self, census: Census, until: u64, now: u64) {
        self.census = Some((census, now, until));
    }

    pub fn census(&self, now: u64) -> Option<Dated> {
        let (census, kept, _) = self.census.as_ref().filter(|(.., until)| now < *until)?;
        Some(Dated { census: census.clone(), age: Duration::from_micros(now.saturating_sub(*kept)) })
    }
}

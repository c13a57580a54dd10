//! The calls of the fleet protocol: members, marks since, intents. Each is one script, so that it is seen whole or not
//! at all.

use std::time::Duration;

use redis::{RedisResult, ScriptInvocation};

use super::link::Connections;
use super::{Namespace, new_epoch, not_an_answer};
use crate::stamp::{Epoch, Sequence, Stamp, Tag, Taken, View};
use crate::store::fleet::{
    Cause, Claim, Claimed, Holder, Intent, Invalidated, Membership, Synced, TOLD_MAX, fetched, lines, tags_in,
};

/// Marks that one sync tells. A proxy that lacks more begins anew, which costs it misses.
const MARKS_TOLD: usize = 10_000;

/// Due intents that one sync tells; the next tells further ones.
const DUE_TOLD: usize = 16;

impl Namespace {
    pub(super) async fn sync(&self, connections: &Connections, me: &Membership) -> RedisResult<Synced> {
        let mut call = self.call(&self.sync, connections);
        let applied = me.applied.unwrap_or(Stamp { epoch: Epoch(0), sequence: 0 });
        call.arg(&*me.id).arg(millis(me.lease)).arg(applied.epoch.0).arg(applied.sequence);
        call.arg(MARKS_TOLD).arg(DUE_TOLD);
        type Answer = (u64, u64, String, bool, Vec<(String, f64)>, Vec<(String, String)>);
        let (epoch, sequence, cause, whole, marks, due): Answer =
            call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &cause);
        // Scores are whole numbers below 2^53, exact as floats.
        let marks = marks.into_iter().map(|(tag, score)| (Tag::family(&tag), score as Sequence));
        Ok(Synced {
            stamp: Stamp { epoch: Epoch(epoch), sequence },
            marks: whole.then(|| marks.collect()),
            due: due.into_iter().map(|(id, tags)| Intent { id: id.into(), tags: tags_in(&tags) }).collect(),
        })
    }

    pub(super) async fn leave(&self, connections: &Connections, id: &str) -> RedisResult<()> {
        let mut hdel = redis::cmd("HDEL");
        hdel.arg(&self.members).arg(id).query_async(&mut connections.marks()).await
    }

    pub(super) async fn expel(&self, connections: &Connections, holder: &Holder) -> RedisResult<bool> {
        let mut call = self.expel.key(&self.members);
        call.arg(&*holder.id).arg(holder.syncs).invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn invalidate(
        &self,
        connections: &Connections,
        tags: &[Tag],
        cause: &Cause<'_>,
    ) -> RedisResult<Invalidated> {
        let told = lines(tags).filter(|_| tags.len() <= TOLD_MAX).unwrap_or_default();
        let again = cause.again.map(|again| micros(again).to_string()).unwrap_or_default();
        let intended = cause.again.map(|_| intended(tags)).unwrap_or_default();
        let mut call = self.call(&self.invalidate, connections);
        call.arg(self.marks_max).arg(cause.by).arg(cause.intent.unwrap_or_default()).arg(again).arg(intended);
        call.arg(told);
        for tag in tags {
            call.arg(tag.as_str());
        }
        let (epoch, sequence, started, previous, age, members): (
            u64,
            u64,
            String,
            u64,
            u64,
            Vec<(String, String)>,
        ) = call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &started);
        connections.reach_replicas().await?;
        let others = members.iter().filter(|(id, _)| id != cause.by);
        Ok(Invalidated {
            taken: Taken { stamp: Stamp { epoch: Epoch(epoch), sequence }, previous },
            holders: others.filter_map(|(id, member)| holder(id, member)).collect(),
            epoch_age: Duration::from_micros(age),
        })
    }

    pub(super) async fn record(
        &self,
        connections: &Connections,
        intent: &Intent,
        within: Duration,
    ) -> RedisResult<View> {
        let mut call = self.call(&self.record, connections);
        call.arg(&*intent.id).arg(micros(within)).arg(intended(&intent.tags));
        let (epoch, sequence, cause, newest): (u64, u64, String, u64) =
            call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &cause);
        connections.reach_replicas().await?;
        Ok(View { stamp: Stamp { epoch: Epoch(epoch), sequence }, newest })
    }

    pub(super) async fn forget(&self, connections: &Connections, intent: &str) -> RedisResult<()> {
        let mut call = self.forget.key(&self.intents);
        call.key(&self.intent_tags).arg(intent).invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn claim(
        &self,
        connections: &Connections,
        fetch: &str,
        claim: &Claim,
        lasting: Duration,
        instead_of: Option<&Claim>,
    ) -> RedisResult<Claimed> {
        let name = self.fetch(fetch);
        let mut call = self.claim.key(&name);
        call.arg(claim.text()).arg(millis(lasting).max(1)).arg(instead_of.map(Claim::text).unwrap_or_default());
        let known: String = call.invoke_async(&mut connections.entry(&name)).await?;
        if known.is_empty() {
            return Ok(Claimed::Ours);
        }
        let theirs = Claim::of_text(&known).ok_or_else(|| not_an_answer("what stands for a claim is none"))?;
        Ok(Claimed::Theirs(theirs))
    }

    pub(super) async fn release(
        &self,
        connections: &Connections,
        fetch: &str,
        claim: &Claim,
        stored: bool,
    ) -> RedisResult<()> {
        let name = self.fetch(fetch);
        let mut call = self.release.key(&name);
        call.arg(claim.text()).arg(&self.channel).arg(fetched(claim, stored));
        call.invoke_async(&mut connections.entry(&name)).await
    }

    /// Where the claim of a fetch is kept: not among the entries, which are walked.
    fn fetch(&self, key: &str) -> String {
        format!("{}:fetch:{key}", self.name)
    }

    /// A script that begins with `epoch.lua`, with the keys and arguments which that needs.
    pub(super) fn call<'s>(&self, script: &'s redis::Script, connections: &Connections) -> ScriptInvocation<'s> {
        let mut call = script.key(&self.meta);
        call.key(&self.marks).key(&self.members).key(&self.intents).key(&self.intent_tags);
        call.arg(connections.run_id()).arg(new_epoch()).arg(&self.channel);
        call
    }
}

/// A member as it is kept; None for the sentinel.
fn holder(id: &str, member: &str) -> Option<Holder> {
    let (syncs, rest) = member.split_once(':')?;
    let (lease, _) = rest.split_once(':')?;
    let lease = Duration::from_millis(lease.parse().ok()?);
    Some(Holder { id: id.into(), lease, syncs: syncs.parse().ok()? })
}

/// The tags of an intent as they are kept. What cannot stand in lines is everything.
fn intended(tags: &[Tag]) -> String {
    lines(tags).unwrap_or_else(|| Tag::root().as_str().to_owned())
}

/// Rounded up: a lease or deadline that the store takes for shorter than it is would be the wrong error.
pub(super) fn millis(time: Duration) -> u128 {
    time.as_micros().div_ceil(1000)
}

/// A thousand years at most, so that a deadline stays exact as a float.
fn micros(time: Duration) -> u128 {
    time.as_micros().min(31_536_000_000_000_000 / 1000)
}

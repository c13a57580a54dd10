//! The calls of the fleet protocol: members, marks since, intents. Each is one script, so that it is seen whole or not
//! at all.

use std::time::Duration;

use redis::{RedisResult, ScriptInvocation};

use super::link::Connections;
use super::{Namespace, new_epoch};
use crate::stamp::{Epoch, Sequence, Softened, Stamp, Tag, Taken, View};
use crate::store::fleet::{Cause, Holder, Intent, Invalidated, Membership, Synced, TOLD_MAX, lines, tags_in};

/// Marks that one sync tells. A proxy that lacks more begins anew, which costs it misses.
const MARKS_TOLD: usize = 10_000;

/// Due intents that one sync tells; the next tells further ones.
const DUE_TOLD: usize = 16;

/// Intents that are kept, repetitions included: some tens of megabytes. Beyond it everything is outdated when a
/// further repetition is due.
const INTENTS_MOST: usize = 100_000;

impl Namespace {
    pub(super) async fn sync(&self, connections: &Connections, me: &Membership) -> RedisResult<Synced> {
        let mut call = self.call(&self.sync, connections);
        let applied = me.applied.unwrap_or(Stamp { epoch: Epoch(0), sequence: 0 });
        call.arg(&*me.id).arg(millis(me.lease)).arg(applied.epoch.0).arg(applied.sequence);
        call.arg(MARKS_TOLD).arg(DUE_TOLD);
        type Soft = (String, f64, u64);
        type Answer = (u64, u64, String, bool, Vec<(String, f64)>, Vec<(String, String)>, Vec<Soft>);
        let (epoch, sequence, cause, whole, marks, due, soft): Answer =
            call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &cause);
        // Scores are whole numbers below 2^53, exact as floats.
        let marks = marks.into_iter().map(|(tag, score)| (Tag::family(&tag), score as Sequence));
        let soft = soft.into_iter().map(|(tag, score, left)| {
            (Softened { tag: Tag::family(&tag), grace: Duration::from_micros(left) }, score as Sequence)
        });
        Ok(Synced {
            stamp: Stamp { epoch: Epoch(epoch), sequence },
            marks: whole.then(|| marks.collect()),
            softened: soft.collect(),
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
        // Lines have no room for graces: what is softened is told by a sync alone.
        let is_told = tags.len() <= TOLD_MAX && cause.softened.is_empty();
        let told = lines(tags).filter(|_| is_told).unwrap_or_default();
        let mut call = self.call(&self.invalidate, connections);
        call.arg(self.marks_max).arg(cause.by).arg(cause.intent.unwrap_or_default()).arg(told);
        call.arg(INTENTS_MOST).arg(cause.again.len());
        for again in cause.again {
            call.arg(&*again.id()).arg(micros(again.after)).arg(intended(&again.tags));
        }
        call.arg(cause.softened.len());
        for Softened { tag, grace } in cause.softened {
            call.arg(tag.as_str()).arg(micros(*grace));
        }
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
        Ok(View::hard(Stamp { epoch: Epoch(epoch), sequence }, newest))
    }

    pub(super) async fn forget(&self, connections: &Connections, intent: &str) -> RedisResult<()> {
        let mut call = self.forget.key(&self.intents);
        call.key(&self.intent_tags).arg(intent).invoke_async(&mut connections.marks()).await
    }

    /// A script that begins with `epoch.lua`, with the keys and arguments which that needs.
    pub(super) fn call<'s>(&self, script: &'s redis::Script, connections: &Connections) -> ScriptInvocation<'s> {
        let mut call = script.key(&self.meta);
        call.key(&self.marks).key(&self.members).key(&self.intents).key(&self.intent_tags);
        call.key(&self.graces);
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
fn millis(time: Duration) -> u128 {
    time.as_micros().div_ceil(1000)
}

/// A thousand years at most, so that a deadline stays exact as a float.
fn micros(time: Duration) -> u128 {
    time.as_micros().min(31_536_000_000_000_000 / 1000)
}

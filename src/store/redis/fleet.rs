//! The calls of the fleet protocol: members, new marks, intents, fleet locks. Each is one atomic script.

use std::time::Duration;

use bytes::Bytes;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::connections::RedisConnections;
use super::errors::malformed_reply;
use super::namespace::Namespace;
use super::replicas;
use crate::marks::{Epoch, IssuedStamp, MarksView, Sequence, SoftInvalidation, Stamp, Tag};
use crate::store::StoreError;
use crate::store::fleet::{
    Cause, EpochState, FleetBypass, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Member,
    Membership, NUDGE_TAGS_MAX, Registry, RegistryContent, Roster, Synced, fetched, lines, tags_in,
};
use crate::store::log::KEPT;

/// Most marks that one sync returns. A proxy that lacks more drops its copy, which costs misses.
const SYNC_MARKS_MAX: usize = 10_000;

/// Most due intents that one sync returns; the next sync returns more.
const SYNC_DUE_MAX: usize = 16;

/// Maximum number of intents, including repetitions: some tens of megabytes. Beyond it a further repetition invalidates
/// everything, and intents of further writes are refused.
const INTENTS_MAX: usize = 100_000;

/// Message of the error if a script replies what it should not.
const OTHER_REPLY: &str = "the reply of a script has another form than it should";

/// Most bypasses of a namespace.
const BYPASSES_MAX: usize = 100;

/// The inner error: it was done, but too few replicas have it. The outer error: it may not have been done.
type Done<T> = RedisResult<Result<T, StoreError>>;

/// Age of the epoch (µs), longest lease (ms), floor, marks, cause, the clock (µs): as `state()` in `epoch.lua` returns them.
type StateReply = (u64, u64, Sequence, u64, String, u64);

impl Namespace {
    pub(super) async fn sync(&self, connections: &RedisConnections, me: &Membership) -> Done<Synced> {
        let mut call = self.call(&self.sync, connections);
        let applied = me.applied.unwrap_or(Stamp { epoch: Epoch(0), sequence: 0 });
        let seen = me.seen.unwrap_or(Generation { epoch: Epoch(0), number: 0 });
        call.arg(&*me.id).arg(millis(me.lease)).arg(u8::from(me.serves_memory)).arg(millis(me.period));
        call.arg(applied.epoch.0).arg(applied.sequence).arg(seen.epoch.0).arg(seen.number);
        call.arg(u8::from(me.asks_who_is_behind)).arg(SYNC_MARKS_MAX).arg(SYNC_DUE_MAX);
        let registration = &me.registration;
        call.key(&self.registry).key(&self.bypasses);
        call.arg(registration.number).arg(&*registration.rules).arg(u8::from(registration.is_settled));
        call.arg(registration.learned).arg(u8::from(registration.asks));
        type Soft = (Bytes, f64, u64);
        type Scores = Vec<(Bytes, f64)>;
        type MemberRecords = Vec<(String, String)>;
        // End of the last silence, whether there may be unknown proxies, number of other members.
        type Silence = (u64, bool, u64);
        type SyncReply = (
            u64,
            u64,
            String,
            bool,
            Scores,
            Vec<(String, Bytes)>,
            StateReply,
            Vec<Soft>,
            u64,
            MemberRecords,
            Silence,
        );
        let (reply, registry): (SyncReply, RegistryReply) = call.invoke_async(&mut connections.marks()).await?;
        let (epoch, sequence, cause, whole, marks, due, state, soft, generation, behind, silence) = reply;
        self.log_new_epoch(epoch, &cause);
        // Scores are whole numbers below 2^53, exact as floats.
        let marks = marks.into_iter().filter_map(|(tag, score)| Some((tag_of(&tag)?, score as Sequence)));
        let soft = soft.into_iter().filter_map(|(tag, score, left)| {
            Some((SoftInvalidation { tag: tag_of(&tag)?, grace: Duration::from_micros(left) }, score as Sequence))
        });
        let due = due.into_iter().map(|(id, tags)| Intent { id: id.into(), tags: intended_by(&tags) });
        let synced = Synced {
            stamp: Stamp { epoch: Epoch(epoch), sequence },
            marks: whole.then(|| marks.collect()),
            soft: soft.collect(),
            due: due.collect(),
            generation: Generation { epoch: Epoch(epoch), number: generation },
            behind: behind.iter().filter_map(|(id, text)| holder(id, text)).collect(),
            others: silence.2,
            silent_until: silence.0,
            unknown_proxies: silence.1,
            clock: state.5,
            state: state_of(state),
            registry: registry_of(registry),
        };
        reached(connections, synced, None).await
    }

    pub(super) async fn reach(&self, connections: &RedisConnections) -> Done<MarksView> {
        match reached(connections, (), None).await? {
            Ok(()) => Ok(Ok(self.view(connections, &[]).await?)),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) async fn roster(&self, connections: &RedisConnections) -> RedisResult<Roster> {
        type RosterReply = (String, u64, StateReply, Vec<(String, String)>, u64, u64, u64, Vec<(u64, String)>);
        let mut call = self.call(&self.roster, connections);
        call.key(&self.registry).key(&self.bypasses);
        let (epoch, sequence, state, members, intents, due, revision, registered): RosterReply =
            call.invoke_async(&mut connections.marks()).await?;
        let clock = state.5;
        let rules = registered.into_iter().map(Some).chain(std::iter::repeat(None));
        let members = members.iter().zip(rules).filter_map(|((id, text), rules)| {
            let (learned, rules) = rules.unwrap_or_default();
            Some(Member { learned, rules, ..member(id, text, clock)? })
        });
        Ok(Roster {
            stamp: epoch.parse().ok().map(|epoch| Stamp { epoch: Epoch(epoch), sequence }),
            state: state_of(state),
            members: members.collect(),
            intents,
            due,
            revision,
        })
    }

    pub(super) async fn leave(&self, connections: &RedisConnections, id: &str) -> RedisResult<()> {
        let mut call = self.call(&self.leave, connections);
        call.key(&self.registry).key(&self.bypasses).arg(id);
        call.invoke_async::<u64>(&mut connections.marks()).await.map(drop)
    }

    pub(super) async fn set_bypass(
        &self,
        connections: &RedisConnections,
        bypass: &FleetBypass,
    ) -> RedisResult<Option<(bool, u64)>> {
        let mut call = self.call(&self.set_bypass, connections);
        call.key(&self.registry).key(&self.bypasses);
        call.arg(&bypass.family).arg(bypass.until).arg(&bypass.by).arg(BYPASSES_MAX);
        let (was_one, revision): (bool, u64) = call.invoke_async(&mut connections.marks()).await?;
        Ok((revision > 0).then_some((was_one, revision)))
    }

    pub(super) async fn expel(&self, connections: &RedisConnections, holder: &Holder) -> RedisResult<bool> {
        let mut call = self.expel.key(&self.members);
        call.arg(&*holder.id).arg(holder.syncs).invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn dismiss(
        &self,
        connections: &RedisConnections,
        holder: &Holder,
        generation: Generation,
    ) -> RedisResult<bool> {
        let mut call = self.call(&self.dismiss, connections);
        call.key(&self.registry).key(&self.bypasses);
        call.arg(&*holder.id).arg(holder.syncs).arg(generation.epoch.0).arg(generation.number);
        call.invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn invalidate(
        &self,
        connections: &RedisConnections,
        tags: &[Tag],
        cause: &Cause<'_>,
    ) -> Done<Invalidated> {
        // A nudge has no field for graces: soft-invalidated tags are only returned by a sync.
        let is_listed = tags.len() <= NUDGE_TAGS_MAX && cause.soft.is_empty();
        let listed = lines(tags).filter(|_| is_listed).unwrap_or_default();
        let mut call = self.call(&self.invalidate, connections);
        call.arg(self.marks_max).arg(cause.by).arg(cause.intent.unwrap_or_default()).arg(listed);
        call.key(&self.log);
        call.arg(INTENTS_MAX).arg(cause.record).arg(KEPT).arg(cause.again.len());
        for again in cause.again {
            call.arg(&*again.id()).arg(micros(again.after)).arg(intended(&again.tags));
        }
        call.arg(cause.soft.len());
        for SoftInvalidation { tag, grace } in cause.soft {
            call.arg(tag.as_str()).arg(micros(*grace));
        }
        call.arg(cause.watched.len());
        for tag in cause.watched.iter().chain(tags) {
            call.arg(tag.as_str());
        }
        let reply: String = call.invoke_async(&mut connections.marks()).await?;
        let lines: Vec<&str> = reply.splitn(3, '\n').collect();
        let [stamps, members, started] = lines[..] else { return Err(malformed_reply(OTHER_REPLY)) };
        let [epoch, sequence, previous, age, longest, latest] = numbers(stamps)?;
        let members: Vec<&str> = members.split_ascii_whitespace().collect();
        let (members, []) = members.as_chunks() else { return Err(malformed_reply(OTHER_REPLY)) };
        self.log_new_epoch(epoch, started);
        let others = members.iter().filter(|[id, _]| *id != cause.by);
        let invalidated = Invalidated {
            taken: IssuedStamp {
                stamp: Stamp { epoch: Epoch(epoch), sequence },
                previous,
                latest: (!cause.watched.is_empty()).then_some(latest),
            },
            holders: others.filter_map(|[id, member]| holder(id, member)).filter(Holder::is_waited_for).collect(),
            epoch_age: Duration::from_micros(age),
            longest_lease: Duration::from_millis(longest),
        };
        let taken = invalidated.taken;
        reached(connections, invalidated, Some(taken)).await
    }

    pub(super) async fn record(
        &self,
        connections: &RedisConnections,
        intent: &Intent,
        within: Duration,
    ) -> Done<MarksView> {
        let mut call = self.call(&self.record, connections);
        call.arg(&*intent.id).arg(micros(within)).arg(intended(&intent.tags)).arg(INTENTS_MAX);
        let reply: String = call.invoke_async(&mut connections.marks()).await?;
        let (stamps, cause) = reply.split_once('\n').ok_or_else(|| malformed_reply(OTHER_REPLY))?;
        let [epoch, sequence, newest] = numbers(stamps)?;
        self.log_new_epoch(epoch, cause);
        reached(connections, MarksView::hard(Stamp { epoch: Epoch(epoch), sequence }, newest), None).await
    }

    pub(super) async fn forget(&self, connections: &RedisConnections, intent: &str) -> RedisResult<()> {
        let mut call = self.forget.key(&self.intents);
        call.key(&self.intent_tags).arg(intent).invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn lock_fetch(
        &self,
        mut keeper: MultiplexedConnection,
        name: &str,
        lock: &FleetLock,
        lasting: Duration,
        instead_of: Option<&FleetLock>,
    ) -> RedisResult<LockReply> {
        let mut call = self.lock_fetch.key(name);
        call.arg(lock.text()).arg(millis(lasting).max(1)).arg(instead_of.map(FleetLock::text).unwrap_or_default());
        let known: String = call.invoke_async(&mut keeper).await?;
        // Empty, or malformed.
        Ok(FleetLock::of_text(&known).map_or(LockReply::Ours, LockReply::Theirs))
    }

    pub(super) async fn unlock_fetch(
        &self,
        mut keeper: MultiplexedConnection,
        name: &str,
        lock: &FleetLock,
        stored: bool,
    ) -> RedisResult<()> {
        let mut call = self.unlock_fetch.key(name);
        call.arg(lock.text()).arg(&self.channel).arg(fetched(lock, stored));
        call.invoke_async(&mut keeper).await
    }

    /// Key of a fleet lock. Its prefix is not that of entries, which the sweeper walks.
    pub(super) fn fetch(&self, key: &str) -> String {
        format!("{}:{key}:lock", self.name)
    }
}

/// Returns `done` once enough replicas have it. `taken`: the stamp of an invalidation.
async fn reached<T>(connections: &RedisConnections, done: T, taken: Option<IssuedStamp>) -> Done<T> {
    match connections.reach_replicas().await {
        Ok(()) => Ok(Ok(done)),
        Err(error) => match replicas::missing(&error) {
            Some(reason) => Ok(Err(StoreError::Unreplicated { taken, reason })),
            None => Err(error),
        },
    }
}

fn state_of((age, longest, floor, marks, cause, clock): StateReply) -> EpochState {
    EpochState {
        age: Duration::from_micros(age),
        cause,
        longest_lease: Duration::from_millis(longest),
        floor,
        floor_age: Duration::from_micros(clock.saturating_sub(floor)),
        marks,
    }
}

/// Whole numbers with spaces between them.
fn numbers<const COUNT: usize>(line: &str) -> RedisResult<[u64; COUNT]> {
    let all: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
    all.ok().and_then(|all| all.try_into().ok()).ok_or_else(|| malformed_reply(OTHER_REPLY))
}

/// Parses a member's record. `clock`: the server's, in microseconds. None for the sentinel.
fn member(id: &str, text: &str, clock: u64) -> Option<Member> {
    let Holder { id, lease, syncs } = holder(id, text)?;
    let mut applied = text.split(':').skip(2).map(|number| number.parse::<u64>().ok());
    let (epoch, sequence) = (applied.next()??, applied.next()??);
    let applied = Some(Stamp { epoch: Epoch(epoch), sequence }).filter(|stamp| stamp.epoch != Epoch(0));
    // `syncs` follows the clock.
    let synced = Duration::from_micros(clock.saturating_sub(syncs));
    Some(Member { id, lease, synced, applied, learned: 0, rules: String::new() })
}

/// Revision, registered in, whether the content follows, rules of others, rules settled last, members that have not learned,
/// bypasses.
type RegistryReply = (u64, u64, bool, Vec<String>, Vec<String>, u64, Vec<(Bytes, Bytes)>);

fn registry_of((revision, registered, has_content, others, last, unlearned, bypasses): RegistryReply) -> Registry {
    let bypass = |(family, value): (Bytes, Bytes)| {
        let family = std::str::from_utf8(&family).ok()?.to_owned();
        let (until, by) = std::str::from_utf8(&value).ok()?.split_once(':')?;
        Some(FleetBypass { family, until: until.parse().ok()?, by: by.to_owned() })
    };
    let content = || RegistryContent {
        others,
        last: last.into_iter().next(),
        unlearned,
        bypasses: bypasses.into_iter().filter_map(bypass).collect(),
    };
    Registry { revision, registered, content: has_content.then(content) }
}

/// Parses the lease of a member's record; None for the sentinel.
fn holder(id: &str, member: &str) -> Option<Holder> {
    let (syncs, rest) = member.split_once(':')?;
    let (lease, _) = rest.split_once(':')?;
    let lease = Duration::from_millis(lease.parse().ok()?);
    Some(Holder { id: id.into(), lease, syncs: syncs.parse().ok()? })
}

/// The tags of an intent, one per line. If one contains a line break, the root tag.
fn intended(tags: &[Tag]) -> String {
    lines(tags).unwrap_or_else(|| Tag::root().as_str().to_owned())
}

/// Parses the tags of an intent. If they are malformed, the root tag.
fn intended_by(tags: &[u8]) -> Vec<Tag> {
    std::str::from_utf8(tags).map_or_else(|_| vec![Tag::root()], tags_in)
}

/// The tag of a mark; None if it is not UTF-8, since no entry has such a tag.
fn tag_of(member: &[u8]) -> Option<Tag> {
    std::str::from_utf8(member).ok().map(Tag::family)
}

/// Whole milliseconds, rounded up: a lease must not be shorter in the store than in the proxy.
pub(super) fn millis(time: Duration) -> u128 {
    time.as_micros().div_ceil(1000)
}

/// A thousand years at most, so that a deadline stays exact as a float.
fn micros(time: Duration) -> u128 {
    time.as_micros().min(31_536_000_000_000_000 / 1000)
}

//! Keeps every entry that is served from being older than the last acknowledged write that invalidates it, across all proxies
//! of a fleet and through failures of any of them, of the network, and of Redis.
//!
//! | module | contents |
//! |---|---|
//! | [`local_marks`], [`clock`] | this process's copy of the marks; the clock that times in entries are of |
//! | [`pending`] | invalidations that are still to come: undelivered, delayed, or of writes without an answer |
//! | [`fleet`] | this proxy as a member: lease, waits for other members, intents, recovery gate, mixed rules, status |
//!
//! # Why a hit in memory is current
//!
//! A proxy serves from memory without asking Redis only under a *lease*. Then its copy of the marks has every invalidation of
//! every acknowledged write: a write is acknowledged only when each member has said that it has applied the invalidation, or
//! when that member's lease is over. Messages between proxies only make this prompt. In detail:
//!
//! - The lease runs from the time when a sync was *sent*, by this process's own clocks ([`fleet::lease`]). It begins when the
//!   reply has been applied to the copy. A writer counts it from a later time, so for the member it ends first.
//! - The marks of this proxy's own writes are in its copy before those writes are acknowledged, lease or not.
//! - Redis drops the record of a member only when the member leaves. Writes stop waiting for a member only when it leaves, or
//!   when one has waited that member's whole lease and it has not synced meanwhile.
//! - While Redis is away, proxies may acknowledge writes and deliver the invalidations later. When Redis is back, no proxy
//!   trusts stored entries before all members have delivered ([`fleet::recovery`]), which each does before it syncs.
//! - Such a write is acknowledged when it was delivered after all; or when attempts to connect have shown that Redis was away
//!   for the longest lease, and still after the write had been carried out ([`fleet::Fleet::outlast`]).
//! - A new epoch begins when Redis has lost coordination data, which may include records of members. Until the epoch is older than
//!   the longest lease of the fleet, no write is acknowledged early. Redis says how old the epoch is, by its own clock; a proxy
//!   that was running when it began trusts no more than its own clock shows.
//!
//! Assumed is that the clocks of two machines differ in speed by less than a hundredth, and that Redis executes commands one
//! after the other. Wall clocks may be wrong or set at any time.
//!
//! # Two primaries
//!
//! After a failover that part of the network does not see, two servers take writes: *P*, deposed, and *R*, promoted. A proxy at
//! *P* sees none of the invalidations at *R*. With `wait_replicas = N`, where N is at least half of all replicas, this does no
//! harm:
//!
//! - A sync counts only when N replicas have it. Only then is there a lease. Only for as long are Redis's replies trusted, and
//!   only those of that sync's epoch (in every mode; see [`fleet::Fleet::trusts`]).
//! - *R* has another `run_id`, so an epoch begins there. A writer counts its age from the first reply in it that N
//!   replicas had. At that moment too few replicas still follow *P* for any sync there to count: two sets of N out of all
//!   replicas but *R* have one in common, and it follows one server at a time. Syncs at *P* that did count were sent
//!   before, so after the longest lease nothing is trusted at *P*, nor in the memory of proxies that synced there.
//! - Only then is *R*'s first write acknowledged. What is acknowledged at *P* must have been on N replicas, that is
//!   before anything was trusted at *R*, where all entries of *P*'s epoch are invalidated and whatever is fetched in the new
//!   one is fetched later.
//!
//! This assumes more than N, which tests/model shows in every order of its steps, and which the operator of failovers has to
//! ensure (deploy/operations.md, "Replicas and failover"):
//!
//! - A replica never follows a server that was promoted before the one it has followed.
//! - *P* has dropped its clients by the time it follows *R*. *R* may lack marks that N others had, and *P*, once it copies
//!   that, would show them in an epoch in which it is still trusted.
//! - *P* has another `run_id` by the time it is promoted again, or a proxy has used *R* and *P* has copied that. Otherwise *P*'s
//!   epoch would go on, without the marks that *R* lacked.
//! - No lease is made longer while a replica is cut off: once promoted it would not know of the longer lease, nor would a proxy
//!   that connects to it first.
//!
//! With N all of the replicas only the first of these remains. And `on_outage = "forward"` answers writes that were not
//! delivered, at *P* as anywhere.
//!
//! Without `wait_replicas` a server is trusted for as long as it answers and takes writes.
//!
//! # What if Redis executes a command late
//!
//! A command may lie in buffers while the server hangs, or on the way while the network does, and be executed when that is over:
//! seconds after its sender gave up, reconnected and went on. It may be any command, in any order, for as long as the same server
//! process runs (a connection ends with it). tests/model has them in every order; `store_redis::late` in tests/suite has a test of
//! each that changes anything.
//!
//! | command | executed late |
//! |---|---|
//! | `sync` | Repeats the generation that its sender had read, so after a silence it shows the sender as behind ([`fleet::recovery`]); it takes back none that the sender has repeated since, and no rules that it has registered since. A proxy that has left becomes a member again: one write waits for its lease, and families for which it had other rules are forwarded until its record is removed. |
//! | `invalidate` | Invalidates more. Its intent is removed in the same step. A repetition (`again`) that it records again is put off, after an invalidation of the same tags in the same step. |
//! | `record` | Announces a write that is over: the intent becomes due and is carried out, one invalidation too many. |
//! | `forget` | Removes an intent that no other write has. |
//! | `leave` | Was sent by a process that serves and accepts nothing any more, with nothing undelivered. |
//! | `set_bypass` | A bypass begins or ends late. It ends at the time that its order named. |
//! | `expel` | Does nothing if the member has synced since. Its record stays, so that a proxy that returns from an outage awaits it. |
//! | `dismiss` | Does nothing if the member has synced since, if its lease may not be over, if the generation is another, or in a silence. |
//! | `lock_fetch` | Others wait for a fetch that is over until the lock lapses, at most `collapse_timeout`, then fetch. |
//! | `unlock_fetch` | Does nothing unless the lock is its own. |
//! | `put` | The entry carries the stamp that was read before its fetch, so the marks decide whether it is current. It may replace a newer entry. |
//! | `remove`, `unlink` | Cause a miss. The sweeper's `unlink` removes only what begins with the bytes that were judged. |
//! | `hold_sweep`, `store_key_stats` | No proxy sweeps for some seconds; an older count is shown until the next walk. |
//! | `hold_warming`, `add_hits` | No proxy warms by itself for some seconds; hits are added to the hour that is over. |
//! | `append_log` | A record or a wait comes late in the log, which nothing that is served depends on. |
//! | `begin`, and every script that begins an epoch | Begins one only where something is missing, or where the server is another than that of its connection. |
//! | `lookup`, `view` | Their replies count only if the gate was open before they were asked for and has not closed since ([`fleet::Fleet::trusts`]). |
//!
//! Members have no expiry in Redis. A member is removed when it leaves, or when a writer has waited a whole lease of it in
//! vain: no clock but that of the waiting proxy decides when a lease is over. A lost members' table is as bad as lost marks: a
//! new epoch begins, and for one lease writes wait for leases that no proxy knows of.
//!
//! # What the promise does not cover
//!
//! While one proxy alone cannot reach Redis, it forwards writes, and their invalidations stay pending until Redis is back. The
//! others serve what they have meanwhile; if the proxy is killed before, its pending invalidations are lost (on SIGTERM it
//! tries to deliver them, and exits with 1 if it cannot). Nothing but Redis could tell the others; `on_outage = "refuse"`
//! answers 503 to such writes instead, and keeps the promise. After an outage that every member had, no proxy trusts Redis
//! before every other member has delivered (the recovery gate).
//!
//! Not covered: all proxies that have seen an outage die before they have returned from it. A proxy that started during a long
//! outage answers writes, and dies before it has reached Redis. Redis loses everything, and has an outage within two seconds of
//! that. Redis's clock stops during an outage; if it is set back, graces may begin again. Redis loses everything and its clock
//! is set forward within a lease of that: a proxy started in between takes the epoch for an old one. Redis loses everything
//! while members have longer leases than a proxy that has just started: that one waits for too short a time. A machine is
//! suspended together with its wall clock, or that clock is set back as it wakes: the proxy does not notice that its lease has
//! ended. Some moments of a fleet with mixed rules ([`fleet::mixed`]).

pub mod clock;
pub mod fleet;
pub mod local_marks;
pub mod pending;

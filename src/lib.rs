//! Larder: a caching reverse proxy. **A response served from the cache is never older than the last acknowledged write that a
//! rule maps to it.** What the cache cannot prove current, it does not serve.
//!
//! # The map
//!
//! Dependencies point down this table. Modules of one row may use each other.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | arguments, one file per command, exit codes |
//! | [`server`], [`watch`] | listeners, limits of connections, shutdown; the rules file on disk |
//! | [`admin`] | the second listener: health, purge, rules, metrics, the dashboard |
//! | [`warm`] | fetches what `[[warm]]` names before clients ask for it |
//! | [`proxy`] | one request: admit, dispatch, record (`handle`); `read`, `decide`, `fetch`, `write`, `respond` |
//! | [`purge`] | what an operator invalidates: tags, URLs, prefixes; what is stored of it; deployments that purge once |
//! | [`running`], [`monitor`] | the state that the proxy and the admin share; rates of the last hour, alerts and their webhook |
//! | [`cache`] | lookup and store over the two tiers: L1 in memory, L2 in the [`store`] |
//! | [`coalesce`] | inflight fetches, the body that followers share, the fleet lock |
//! | [`coherence`] | the lease, the other members of the fleet, pending invalidations, intents, the recovery gate |
//! | [`upkeep`] | work beside requests: the sweeper, the hottest entries, the requests of each URL, writes that no rule names, the log of invalidations |
//! | `supervise` | restarts background tasks that panic |
//! | [`jwt`] | the keys of bearer tokens, their refresh, and the tokens that were verified |
//! | [`metrics`], [`logs`], [`traces`], [`upstream`], [`store`] | counters; where log lines go; spans for OpenTelemetry; the client of the API; Redis and its scripts |
//! | [`client_conn`], `hooked_stream`, [`tokens`] | the open connections of a listener and their interim responses; hooks on the reads and writes of a connection; the tokens of operators |
//! | [`config`], [`shares`], `mutex` | `rules.toml`, flags and environment, checked; limits that all clients share; mutexes after a panic |
//! | [`rules`], [`client`], [`bearer`], [`key`], [`secret`], [`entry`], [`mod@http`], [`marks`], [`network`], [`outcome`], [`access_log`], `words`, `hexadecimal` | pure: no tokio, hyper, redis, clock or environment; [`key`] and [`http::headers`] draw one random value per process |
//!
//! **A read.** [`server`] accepts the connection and gives it to a worker, one of its threads; [`proxy::handle`] takes the request. The [`rules`] say which family
//! claims its path; [`key`] makes the cache key. [`cache`] looks in L1, then in L2, and compares the entry with the
//! [`marks`]. `proxy::decide` turns rules, lookup and time into a decision, and `proxy::read` acts on it: an entry that is current
//! and fresh is served; from memory at once (`answer_now`), without a future. `proxy::decide` also says when a stale one is, and
//! what stands in for a response that upstream failed to give (stale-if-error).
//!
//! **A miss.** `proxy::fetch` leads or follows an [inflight fetch](coalesce::inflight). The leader takes the stamp of the lookup
//! and asks [`upstream`]; all of them [get the body while it arrives](coalesce::stream); [`mod@http`] says whether the response
//! may be stored and for how long it is fresh; the [`entry`] is stored with that stamp.
//!
//! **A write.** `proxy::write` records an intent in Redis, forwards the request, invalidates
//! what the rules name when the response is there, waits until every member of the fleet has applied that, and answers.
//!
//! **While Redis is away.** From the first sync that fails, a GET goes upstream: its lookup finds nothing and has no marks
//! ([`cache::Lookup::view`]), so that the decision is a fetch (`detail=store-away`). Of each key one fetch runs at a time, and the requests
//! that come meanwhile share the next one ([`coalesce::inflight`]). Nothing of it is stored. A write is forwarded or refused
//! (`on_outage`); its invalidations stay pending ([`coherence::pending`]), and when Redis is back no proxy trusts it before all are
//! delivered ([`coherence::fleet::recovery`]).
//!
//! Each request ends in one [`outcome`], for `Cache-Status`, the access log and the metrics.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | rule | an item of `rules.toml`: a family (what is cached), or an invalidation (which writes invalidate what) |
//! | family | a named set of entries that are invalidated together; `booking:stats` lies below `booking` |
//! | instance | what one value of a named capture in a family's path selects, or of its `instance` table (query, field, caller): `user:42` |
//! | tag | anything an entry can be invalidated by: its family and the levels above, its instances, its path, groups that its response names, everything |
//! | sequence | strictly increasing number that each invalidation takes; microseconds |
//! | epoch | a run of sequences; a new one begins when Redis may have lost data, and no entry of another epoch is current |
//! | mark | the sequence of the last invalidation of a tag |
//! | stamp | epoch and last sequence, read *before* the fetch that made an entry |
//! | floor | the sequence below which marks may have been dropped; entries stamped below it are not current |
//! | current | said of an entry whose stamp is of this epoch, not below the floor, and not below the mark of any of its tags |
//! | fresh, stale | as in RFC 9111. *Fresh* is about time, *current* about writes; an entry is served without asking upstream if it is both |
//! | verdict | what the API says of a caller, where a family asks it first (`authorize`); an entry of an implicit family |
//! | soft-invalidated | invalidated by a soft mark whose grace is not over: served stale while it is refetched |
//! | invalidate, purge, evict, expire | by a write; by an operator; for space; by time |
//! | entry | a stored response, or a vary index, with its tags and stamp |
//! | cache key | the canonical text of a request, and its hash; the text is compared on a hit |
//! | primary key, variant, vary index | the key without `Vary`; one of the responses under it; the entry that says by which fields they differ |
//! | coalesce | to answer several requests from one fetch; the config key is `collapse`, RFC 9211's parameter `collapsed` |
//! | inflight fetch, leader, follower | a fetch that requests share: the request that began it, and those that wait for it |
//! | fetch lock, fleet lock | the same across proxies, in Redis (`collapse = "fleet"`) |
//! | write intent | the record in Redis of a write under way, with its tags; another proxy carries it out if the writer dies |
//! | fleet, member | the proxies with one Redis and namespace; one of them |
//! | lease | the time for which a member may serve from L1 without asking Redis |
//! | mixed | said of a family for which proxies of the fleet follow different rules: all of them forward it ([`coherence::fleet::mixed`]) |
//! | registry, revision | the rules that the members follow, and the bypasses of operators, in Redis; its version |
//! | pending invalidations | those that Redis does not have yet, that are delayed, and of writes without an answer |
//! | recovery gate | keeps a proxy from trusting Redis after an outage until every member has delivered its pending invalidations |
//! | worker | a thread with a runtime of its own that serves connections; one for each core |
//! | outcome | what happened to a request, in the terms of RFC 9211 |
//!
//! # Ten decisions
//!
//! 1. **A stamp is read before the fetch, and before the marks.** So a response that was fetched while a write happened is
//!    older than that write's mark, whenever it is stored ([`marks`]).
//! 2. **A write is answered after its invalidation is known everywhere.** The lease makes hits safe, not the message: a member
//!    that does not confirm in time may not serve ([`coherence::fleet`]).
//! 3. **A write is announced before it is forwarded**, as an intent. What upstream may have received counts as carried out
//!    ([`upstream::Upload`]); a write without an answer invalidates at once, and again later.
//! 4. **A lookup needs no script**: entry, marks and epoch in one round trip, in an order that makes it safe. Connections
//!    to Redis do not reconnect by themselves: each is bound to one `run_id`, so that a server restored from an old snapshot is
//!    always noticed ([`store::redis`]).
//! 5. **Lost data begins a new epoch.** Coordination keys in Redis that are missing, evicted or not what a Larder wrote cost
//!    misses, not stale responses ([`store::redis`], [`entry::Seal`]).
//! 6. **Locks are about load, never about correctness.** Fetch locks lapse, followers join only fetches whose stamp is current
//!    for them, and what they find is compared with the marks like any other entry ([`coalesce`]).
//! 7. **The tag of a path has no host and no query.** A write to `/users/7` invalidates `/users/7?lang=de` under every host: one
//!    upstream is behind them, and a miss costs less than an old response (RFC 9111 §4.4).
//! 8. **A path is everything that upstream may take it for** ([`http::target::Readings`]). A write invalidates every reading; a
//!    read is cached only if all of its readings belong to one family.
//! 9. **Credentials that the family does not name make a request private.** It gets only what RFC 9111 §3.5 lets everybody
//!    have, and shares no fetch ([`http::headers::credentials`]). Unless the family asks the API first: its verdict on the caller is
//!    a response that is stored like others ([`rules::authorize`]). Where claims of a bearer token identify the caller, a token that
//!    is not valid gets nothing from the cache at all ([`bearer`]).
//! 10. **Limits are shares.** Connections, places at upstream, streams and memory have a limit for all clients and one for each
//!     ([`shares`]), so that no client takes them from the others.

#![forbid(unsafe_code)]

pub mod cli;

pub mod server;
pub mod watch;

pub mod admin;

pub mod warm;

pub mod proxy;

pub mod purge;

pub mod monitor;
pub mod running;

pub mod cache;
pub mod coalesce;
pub mod coherence;
mod supervise;
pub mod upkeep;

pub mod jwt;

pub mod logs;
pub mod metrics;
pub mod store;
pub mod traces;
pub mod upstream;

pub mod client_conn;
mod hooked_stream;
pub mod tokens;

pub mod config;
pub mod shares;

// Pure from here on: no tokio, hyper, redis, clock or environment.
pub mod rules;

pub mod client;

pub mod bearer;
pub mod key;
pub mod secret;

pub mod entry;

mod hexadecimal;
pub mod http;
pub mod marks;
mod mutex;
mod words;

pub mod access_log;
pub mod network;
pub mod outcome;

//! Larder: a caching reverse proxy. **A response served from the cache is never older than the last acknowledged
//! write that a rule maps to it.** What the cache cannot prove current, it does not serve.
//!
//! # The map
//!
//! Modules depend downwards only. A read goes through them like this:
//!
//! 1. [`server`] accepts the connection; [`proxy::handle`] takes the request, and [`target`] its path: as it came for upstream and the key, normalised for the rules.
//! 2. [`rules`] say which family claims the path; [`key`] makes the canonical text of the request and its MD5.
//! 3. [`cache`] looks in memory, then in the [`store`], and learns from the marks ([`stamp`]) what is *current*.
//! 4. [`semantics`] say whether it is *fresh*, may be served stale, or is to be validated.
//! 5. Otherwise the request joins or leads a [flight](cache::fetch): [`upstream`] is asked once for all who wait, the
//!    body goes to them [while it is being stored](cache::stream), as an [`entry`] with the stamp of step 3.
//! 6. [`proxy::respond`] makes the answer; the [`outcome`] says in the header, the log and the [`metrics`] what it was.
//!
//! A write is announced in the store, forwarded in a task that survives its client, invalidates what the rules name, and
//! waits until no proxy of the [fleet](cache::fleet) can serve what it invalidates; then it is answered.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`], [`logs`] | arguments, `check`, `explain`, exit codes; where log lines go |
//! | [`server`], [`watch`] | listeners and shutdown; the rules file on disk |
//! | [`client_conn`] | the open connections of a listener: which of them may be closed; their interim responses |
//! | [`tokens`] | the tokens of operators |
//! | `hooked_stream` | hooks on the reads and writes of a connection |
//! | [`admin`] | the second listener: health, purge, rules, metrics |
//! | [`proxy`] | a request from the client's side; [`proxy::account`] tells what would become of one |
//! | [`running`] | what both of them work on |
//! | [`cache`] | L1, L2, flights, invalidation |
//! | [`metrics`], [`upstream`], [`store`] | counters; the client to the origin; Redis |
//! | [`config`] | `rules.toml`, flags and environment, checked |
//! | [`shares`] | bounds on what all clients share, and each client's share of them |
//! | pure: [`rules`], [`client`], [`key`], [`secret`], [`entry`], [`stamp`], [`semantics`], [`outcome`], [`headers`], [`target`] | decisions, without clock or I/O |
//!
//! # Decisions worth knowing
//!
//! - **The tag of a path has no query and no host.** RFC 9111 §4.4 has a write invalidate its target URI. Here a write to
//!   `/users/7` invalidates `/users/7?lang=de` too, under every host name: Larder fronts one upstream, and an extra miss
//!   is cheaper than an old answer.
//! - **A lookup needs no script.** Entry, then marks, then epoch, as plain commands in one round trip; the order makes
//!   it safe ([`store::redis`] has the argument).
//! - **Connections to Redis never reconnect by themselves.** Each learns its server's `run_id` once and dies with it,
//!   so that a server restarted from an old snapshot is always noticed.
//! - **A claim on a fetch is about load, never about truth** ([`cache::claim`]): it lapses, it gives way to readers that come
//!   after a write, and what is found in the end is judged by the marks like any other entry.
//! - **The sweeper removes only what it has judged** ([`cache::sweeper`]): an entry that has taken the place of an invalidated one
//!   begins with other bytes, and stays.
//! - **While the store is away** a request joins only a fetch that has not begun yet ([`cache::fetch`]): a write may
//!   have passed through another proxy meanwhile. Nothing fetched then is stored, since it has no stamp.
//! - **Members of a fleet have no expiry.** A member is forgotten when it leaves, or when a writer has waited a whole
//!   lease of it in vain: no clock but the waiting proxy's own decides when a lease is over. A lost members' table is as
//!   bad as lost marks: a new epoch begins, and for one lease writes wait for leases that nobody knows of.
//! - **Credentials**: a request with a field that carries credentials ([`headers::credentials`]) and by which its family does
//!   not tell callers apart is answered from the cache only with responses that RFC 9111 §3.5 lets everyone have, and shares no
//!   fetch. Of what is kept under somebody's key the next caller may know more, so that only these responses are kept for
//!   callers with further credentials. In keys they stand as
//!   HMAC-SHA256, keyed by a secret of the configuration, or as SHA-256 without one. A secret that Larder kept in Redis itself
//!   would hide nothing: whoever has the keys has that, too.
//! - **What is in Redis may be anything** ([`entry::Seal`], `store/epoch.lua`): an entry that is not what a Larder put under its
//!   name is a miss; coordination that cannot be what Larders wrote is replaced, and begins a new epoch, as if it were lost.
//! - **A stamp is read before the marks**, so that it never covers a write that the marks seen do not.
//! - **A tag that somebody holds has a mark of its own** ([`stamp`]): what is resident, or being fetched, holds its tags, and
//!   no invalidation of others touches it. Tags that nobody holds share slots, placed by a key that is random in each
//!   process. Whoever fetches holds the request's tags before the stamp is read, so that what a slot says is never younger
//!   than the stamp; what the store says of an entry's marks takes the place of what the slots said. There is no floor
//!   beside the marks: where marks may have been missed all of them are raised, and go down again tag by tag as the store
//!   tells.
//! - **A sequence is a time**, with and without a store: microseconds, made strictly increasing. So it is known whether a write
//!   falls in the second of a `Last-Modified` or in the next one; then that date alone (`If-Modified-Since` without
//!   `If-None-Match`) is no reason for a 304 (RFC 9110 §8.8.2.2), and with a store it is asked for the marks of each tag.
//!   Only the latest invalidation of a tag is known.
//! - **Soft marks stand beside hard ones** ([`stamp`]): a softened tag has a sequence and the end of a grace. Until then what
//!   is older is *soft-invalidated*: it counts as stale (RFC 9111 §4.2.4), is served with one refresh in the background, and
//!   shared by those who join its flight; afterwards the soft mark is as good as a hard one. Whoever softens a tag again does
//!   not put the end off, and whatever is lost or in doubt counts as hard. What is younger than all soft marks looks at none,
//!   so that they cost nothing where no rule is soft. The write's target, its `Location`s and groups stay hard, and so do
//!   writes without an answer, intents that another proxy carries out, and what waits for the store. Graces run by Redis's
//!   clock, and in memory by the process's own.
//! - **Writes wait although their rule is soft**: each invalidates its own target, hard.
//! - **`again` is an intent like any other**, for whoever finds it due; repetitions of the same tags after the same time are
//!   one, which later writes put off: each of these invalidates itself what was stored before it. Without a store, or while it
//!   is away, the process repeats by itself ([`cache::repeats`]), if it lives so long.
//! - **What is refreshed** is known by its hits ([`cache::hot`]), not by a walk over L1: no more is kept of a request than
//!   its key holds, only for families that such a rule can invalidate, and nothing of callers who are told apart.
//! - **A reload invalidates** every family whose definition or invalidation rules it changes: what was stored under a
//!   definition that comes back may have missed writes in between. A write under way invalidates by both sets of rules.
//! - **Of a request's directives those count that cost upstream nothing**, unless a family lets its clients ask for
//!   more: all are advisory (RFC 9111 §5.2.1), and an API's users should not be able to force misses.
//! - **A guess needs a family.** Without one only explicit lifetimes count; in one without `ttl`, `Last-Modified` gives a
//!   heuristic one (RFC 9111 §4.2.2).
//! - **Variants are told apart by every field that any of them named** ([`entry::VaryIndex`]), so that responses which name
//!   different fields, or none, do not hide each other. An error adds no field, and nothing adds more than there may be. A response with a `Content-Encoding` counts as if it named
//!   `Accept-Encoding`, and says so from then on. Each is validated with its own validators alone: one entity tag for all
//!   variants is a common fault, and a 304 then confirms any of them.
//! - **What one request has caused is for nobody else** ([`semantics::storable::is_about_request`]): a 406 or 429 is not
//!   stored, takes nothing away, and lets others go on sharing fetches.
//! - **Groups that a response names are not known before it comes.** Whoever joins its flight looks at their marks when
//!   the head is there.
//! - **The answer to a POST is stored only if nothing at all was invalidated meanwhile** ([`stamp::IssuedStamp`]): its stamp is
//!   that of the POST's own invalidation.
//! - **What upstream may take a request for** counts as much as what it is. A path has readings ([`target::Readings`]), one
//!   for each set of habits that a lenient upstream may have. A write invalidates under all of them, and by all methods that
//!   `X-HTTP-Method-Override` and kin name. A read is for the cache only if all of them belong to one family, whose tags the
//!   entry then carries for each: otherwise one family's answer could be had, and stored, under another's name (web cache
//!   deception). A request loses fields that reroute it, and others that no key holds ([`headers::strip_unkeyed`]), unless its
//!   family keys on them.
//! - **Connections to upstream** wait in a pool of Larder's own (`upstream::pool`), which takes one back only after it
//!   has seen the head of the response: hyper's takes it back before. What comes late and looks like a whole response can
//!   be told from the right one only after it was taken for it; so a connection rests after a response without content, and
//!   now and then in any case. Such an upstream is then distrusted for a while, and what the connection has brought lately
//!   is invalidated (`proxy::suspects`).
//! - **Names of upstream** are resolved again when the answer is over (`upstream::names`), and connections to addresses that
//!   are no longer in it end with their response.
//! - **One name for one field**: what upstream may read as another field's name is dropped, or known by that name
//!   ([`headers::underscores`]); trailers of requests, which it may merge into the head, are dropped ([`headers::trailers`]).
//! - **Places at upstream are shared** ([`upstream`]): no client has more than its share, and clients take turns in the
//!   queue. A request takes its place when there is something to send; an exchange that turns out to be a stream moves to
//!   places of its own, so that upstream may see requests and streams together. A fetch counts for the client that leads it;
//!   while only that client's share keeps it waiting, others do not join it ([`cache::fetch`]). What Larder fetches by itself
//!   counts for nobody else.
//! - **Interim responses** go beside hyper's server, which knows one response to a request ([`client_conn::interim`]).
//! - **Only safe requests are upgraded**, to protocols that are configured (WebSocket): a write with `Upgrade` is a write, and
//!   invalidates; any other offer is ignored, and the request answered like one without it.
//! - **Followers share the leader's failure** ([`cache::fetch::ServerErrorResponse`]): no answer, or an error of the server that is not
//!   about the request. What of it is meant for one client (`Set-Cookie`, `private`, `no-store`, `Vary: *`, another variant)
//!   stays with the leader, and followers are told the status. An error that may come from the leader's fields (none of 502, 503,
//!   504) sends followers with other fields into one more flight together, whose failure is final.
//! - **Followers wait without a limit only where responses are for sharing**: in families, and where such paths had shareable
//!   responses before ([`cache::shapes`]). Elsewhere they wait for `collapse_wait`, and longer only while upstream has no free
//!   place for them.
//! - **`If-Match` and `If-Unmodified-Since` are ignored, never judged**, where a fresh stored response agrees with them (RFC 9110
//!   §13.1.1, §13.1.4); else they are left to the origin (RFC 9111 §4.3.2). What is forwarded for one request alone is bounded for
//!   each client ([`shares`]).
//! - **A body that ends with the connection** (neither `Content-Length` nor chunked) is passed on as a whole one when the
//!   connection is closed in order (RFC 9112 §8), and not stored, unless its family says so: one that a crashed server has
//!   cut off looks the same. A client of HTTP/1.0, for whom every streamed body ends so, is reset when it breaks off
//!   (`server::linger`).
//! - **A write has happened only if upstream may have received all of it** ([`upstream::Upload`]): the last of its content is
//!   handed to upstream's connection, or the write is given up, whichever comes first, and a content that was given up is
//!   never completed. An answer that comes before is judged like any other. Up to 64 KiB are awaited before the request is
//!   announced and sent: what breaks off by then was never sent.
//!
//! # What the promise does not cover yet
//!
//! While one proxy alone is cut off from Redis, it forwards writes and keeps their invalidations until Redis is back; the
//! others serve what they have meanwhile, and if it is killed before, the invalidations are lost (a proxy that is told to
//! stop tries to deliver them, and says so and exits with 1 if it cannot). Nobody could tell the others without Redis:
//! `on_outage = "refuse"` answers 503 to such writes instead, and keeps the promise. After an outage that all had, nobody
//! believes Redis before every other proxy has delivered what it kept ([`cache::fleet`] has the argument). Not covered are
//! some double faults: all proxies that have seen an outage die before they have returned from it; a proxy that started in a
//! long outage answers writes, and dies before it has reached Redis; Redis loses everything, and within two seconds of that has
//! an outage. Redis's clock has to go on in an outage. If it is
//! set back, graces that were over may begin again. A rules file that was changed while no Larder ran, and changed back, finds
//! entries of the first time in Redis: clear the cache after such an edit.
//! A machine that is suspended together with its clocks, the wall clock too, or whose wall clock is set back as it wakes,
//! does not notice that a lease has ended meanwhile. A primary that was deposed without noticing is believed for as long as it
//! answers, unless `wait_replicas` says otherwise ([`cache::fleet`] has the argument). If Redis loses everything and its clock is set
//! forward within a lease of that, a proxy started in between takes the epoch for an old one; if it loses everything while
//! proxies of longer leases than its own are unknown to a proxy that has just started, that one waits for too short a time.

#![forbid(unsafe_code)]

pub mod cli;
pub mod logs;

pub mod server;
pub mod watch;

pub mod admin;

pub mod proxy;

pub mod running;

pub mod cache;
pub mod coalesce;
pub mod coherence;
mod supervise;
pub mod upkeep;

pub mod metrics;
pub mod store;
pub mod upstream;

pub mod client_conn;
mod hooked_stream;
pub mod tokens;

pub mod config;
pub mod shares;

// Pure from here on: no tokio, hyper, redis, clock or environment.
pub mod rules;

pub mod client;

pub mod key;
pub mod secret;

pub mod entry;

pub mod http;
pub mod marks;

pub mod network;
pub mod outcome;

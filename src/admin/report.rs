//! What the admin shows, as plain values with the names that clients read. Those of [`CacheInfo`], [`Statistics`]
//! and [`TestResults`] are HITA's: fields may be added, none renamed. Pure.
//!
//! `keyspace_hits`, `keyspace_misses` and `hit_rate` are Larder's own: a hit is a GET or HEAD that was answered from
//! the cache without asking upstream (fresh, or stale where that is allowed); a miss is one that was fetched or
//! revalidated. Passed requests have a rate of their own, and writes none. Redis's numbers, which also count reads of
//! Larder's bookkeeping, stand under `redis`; without a Redis nothing that is named after it is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::cache::memory::Usage;
use crate::key::Parameters;
pub use crate::key::shown_tag;
use crate::metrics::FamilyCounters;
use crate::outcome::OutcomeKind;
use crate::rules::fault::Fault;
use crate::rules::{Family, Invalidation};
use crate::store::sweep::Dated;
use crate::store::{KeyCounts, StoreInfo};

/// An answer to a request that succeeded: `success` before everything else.
#[derive(Debug, Serialize, ToSchema)]
pub struct Success<T> {
    success: bool,
    #[serde(flatten)]
    content: T,
}

impl<T> Success<T> {
    /// `content` must be a struct or a map.
    pub fn of(content: T) -> Success<T> {
        Success { success: true, content }
    }
}

/// How requests were answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Performance {
    keyspace_hits: u64,
    keyspace_misses: u64,
    /// Percent with one decimal; 0 before the first request.
    hit_rate: f64,
}

/// Part of all that was asked for, in percent with one decimal.
fn percent(part: u64, all: u64) -> f64 {
    let permille = if all == 0 { 0.0 } else { (part as f64 / all as f64 * 1000.0).round() };
    permille / 10.0
}

/// Reads that were forwarded without being cached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Passes {
    passes: u64,
    /// Of all reads, percent with one decimal.
    pass_rate: f64,
}

impl Passes {
    /// Over all of these counters.
    pub fn of<'c>(counters: impl IntoIterator<Item = &'c FamilyCounters>) -> Passes {
        let (mut passes, mut others) = (0, 0);
        for family in counters {
            passes += family.of(OutcomeKind::Pass);
            others += [OutcomeKind::Hit, OutcomeKind::Stale, OutcomeKind::Miss, OutcomeKind::Revalidated]
                .map(|kind| family.of(kind))
                .iter()
                .sum::<u64>();
        }
        Passes { passes, pass_rate: percent(passes, passes + others) }
    }
}

impl Performance {
    fn new(hits: u64, misses: u64) -> Performance {
        Performance { keyspace_hits: hits, keyspace_misses: misses, hit_rate: percent(hits, hits + misses) }
    }

    /// Over all of these counters.
    pub fn of<'c>(counters: impl IntoIterator<Item = &'c FamilyCounters>) -> Performance {
        let (mut hits, mut misses) = (0, 0);
        for family in counters {
            hits += family.of(OutcomeKind::Hit) + family.of(OutcomeKind::Stale);
            misses += family.of(OutcomeKind::Miss) + family.of(OutcomeKind::Revalidated);
        }
        Performance::new(hits, misses)
    }
}

/// What there is to say of the tier that holds the entries: Redis, or this process when it is embedded.
#[derive(Debug, Clone, PartialEq)]
pub struct Tier {
    /// None when embedded.
    pub version: Option<String>,
    /// None when embedded.
    pub mode: Option<String>,
    pub memory: MemoryUsage,
    pub connections: Connections,
    /// None when embedded.
    pub redis: Option<RedisCounters>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MemoryUsage {
    /// `2.5M`
    used_memory: String,
    used_memory_bytes: u64,
    /// What it may be at most, bytes: Redis's `maxmemory`, or `[memory] capacity`; null without a limit.
    max_memory_bytes: Option<u64>,
    /// The highest so far. Embedded: the highest at the times when the admin was asked.
    used_memory_peak: String,
    /// Of Redis, as it says; none when embedded.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_fragmentation_ratio: Option<f64>,
    /// Of this process, if the system says; none with Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_memory: Option<String>,
}

/// Embedded: clients of Larder, and its own time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Connections {
    pub connected_clients: u64,
    pub total_connections_received: u64,
    pub uptime_in_seconds: u64,
}

/// Redis's own counters since its start, over everything that uses it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RedisCounters {
    #[serde(flatten)]
    performance: Performance,
    total_commands_processed: u64,
    evicted_keys: u64,
    expired_keys: u64,
    maxmemory_policy: String,
}

/// What the process itself knows, for a tier without Redis.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Bytes in L1.
    pub used: u64,
    /// The most bytes that L1 may hold.
    pub capacity: u64,
    /// The most bytes in L1 that were seen.
    pub peak: u64,
    /// Resident memory of the process, bytes.
    pub resident: Option<u64>,
    pub connections: Connections,
}

impl Tier {
    /// What Redis says of itself.
    pub fn of_redis(info: &StoreInfo) -> Tier {
        let count = |name: &str| info.number(name).max(0.0) as u64;
        Tier {
            version: Some(info.text("redis_version").to_owned()),
            mode: Some(info.text("redis_mode").to_owned()),
            memory: MemoryUsage {
                used_memory: info.text("used_memory_human").to_owned(),
                used_memory_bytes: count("used_memory"),
                max_memory_bytes: Some(count("maxmemory")).filter(|most| *most > 0),
                used_memory_peak: info.text("used_memory_peak_human").to_owned(),
                memory_fragmentation_ratio: Some(info.number("mem_fragmentation_ratio")),
                resident_memory: None,
            },
            connections: Connections {
                connected_clients: count("connected_clients"),
                total_connections_received: count("total_connections_received"),
                uptime_in_seconds: count("uptime_in_seconds"),
            },
            redis: Some(RedisCounters {
                performance: Performance::new(count("keyspace_hits"), count("keyspace_misses")),
                total_commands_processed: count("total_commands_processed"),
                evicted_keys: count("evicted_keys"),
                expired_keys: count("expired_keys"),
                maxmemory_policy: info.text("maxmemory_policy").to_owned(),
            }),
        }
    }

    /// The same of this process.
    pub fn embedded(process: Process) -> Tier {
        Tier {
            version: None,
            mode: None,
            memory: MemoryUsage {
                used_memory: human(process.used),
                used_memory_bytes: process.used,
                max_memory_bytes: Some(process.capacity),
                used_memory_peak: human(process.peak),
                memory_fragmentation_ratio: None,
                resident_memory: process.resident.map(human),
            },
            connections: process.connections,
            redis: None,
        }
    }
}

/// `cache_info` of health.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CacheInfo {
    status: &'static str,
    /// Where the entries are: `redis`, or the `memory` of this process.
    tier: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_version: Option<String>,
    used_memory: String,
    connected_clients: u64,
    /// Of Redis, since its start; null when embedded.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_commands_processed: Option<u64>,
    #[serde(flatten)]
    performance: Performance,
    /// Undelivered invalidations, in tags; while there are any, requests go upstream.
    undelivered: usize,
}

impl CacheInfo {
    /// `undelivered`: invalidations, in tags, that the store has not taken yet.
    pub fn new(tier: &Tier, performance: &Performance, undelivered: usize) -> CacheInfo {
        CacheInfo {
            status: if undelivered == 0 { "available" } else { "catching-up" },
            tier: if tier.redis.is_some() { "redis" } else { "memory" },
            redis_version: tier.version.clone(),
            used_memory: tier.memory.used_memory.clone(),
            connected_clients: tier.connections.connected_clients,
            total_commands_processed: tier.redis.as_ref().map(|redis| redis.total_commands_processed),
            performance: *performance,
            undelivered,
        }
    }
}

/// `detailed_statistics` of detailed health.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Statistics {
    #[schema(value_type = BTreeMap<String, u64>)]
    pub key_counts: Map<String, Value>,
    /// False: the count stopped at a limit, and the numbers are lower bounds.
    pub complete: bool,
    /// How long ago the keys were counted.
    pub counted_seconds_ago: u64,
    pub memory_usage: MemoryUsage,
    pub connections: Connections,
    pub performance: Performance,
    #[serde(flatten)]
    pub passes: Passes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_mode: Option<String>,
    pub larder: Larder,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisCounters>,
}

/// What this process holds, with Redis too.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Larder {
    version: &'static str,
    uptime_in_seconds: u64,
    memory_entries: u64,
    /// Bytes.
    memory_bytes: u64,
    /// Bytes.
    memory_capacity: u64,
    memory_evictions: u64,
}

impl Larder {
    /// A process that runs for `uptime`.
    pub fn new(uptime: Duration, usage: Usage) -> Larder {
        Larder {
            version: env!("CARGO_PKG_VERSION"),
            uptime_in_seconds: uptime.as_secs(),
            memory_entries: usage.entries,
            memory_bytes: usage.bytes,
            memory_capacity: usage.capacity,
            memory_evictions: usage.evictions,
        }
    }
}

/// `user_list_keys`, …, `total_keys`: stored entries, invalidated ones included. Families without any have 0.
pub fn key_counts<'n>(counts: &KeyCounts, families: impl IntoIterator<Item = &'n str>) -> Map<String, Value> {
    let mut all: BTreeMap<&str, u64> = families.into_iter().map(|name| (name, 0)).collect();
    all.extend(counts.by_family.iter().map(|(name, count)| (name.as_str(), *count)));
    let total: u64 = all.values().sum();
    let mut fields: Map<String, Value> =
        all.into_iter().map(|(name, count)| (format!("{name}_keys"), count.into())).collect();
    // Last: a family called `total` must not take the place of the sum.
    fields.insert("total_keys".to_owned(), total.into());
    fields
}

/// What became of each step of the self-test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TestResults {
    pub cache_available: bool,
    pub set_operation: bool,
    pub get_operation: bool,
    pub exists_operation: bool,
    pub delete_operation: bool,
    /// It was gone after it was removed.
    pub get_after_delete: bool,
}

impl TestResults {
    /// Whether every step went well.
    pub fn passed(&self) -> bool {
        let TestResults {
            cache_available,
            set_operation,
            get_operation,
            exists_operation,
            delete_operation,
            get_after_delete,
        } = *self;
        cache_available
            && set_operation
            && get_operation
            && exists_operation
            && delete_operation
            && get_after_delete
    }
}

/// A family as the rules define it. Durations are for people, with seconds beside the one that is compared most.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FamilyDefinition {
    pub name: String,
    pub path: String,
    /// `GET`, which HEAD goes with, `QUERY` and `POST`.
    pub methods: Vec<&'static str>,
    /// `3m`; null: upstream's own freshness alone.
    pub ttl: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub ttl_policy: &'static str,
    /// `default`, or `never` for paths that are forwarded and not stored.
    pub cache: &'static str,
    /// The operator's version of the family.
    pub version: Option<String>,
    /// By status; null: none.
    pub negative_ttl: Option<String>,
    /// The time of day at which lifetimes end.
    pub until: Option<String>,
    /// The factors of `ttl`.
    pub adaptive_ttl: Option<String>,
    /// Whether bodies are compressed in Redis; null: as `[store]` says.
    pub compress: Option<bool>,
    pub stale_while_revalidate: Option<String>,
    pub stale_if_error: Option<String>,
    pub stale_if_unreachable: String,
    /// Null: upstream may take as long as it does.
    pub stale_while_slow: Option<String>,
    /// When a stored response is validated: `when-stale` or `always`.
    pub revalidate: &'static str,
    /// The response to PUT and PATCH is stored as that to GET.
    pub write_through: bool,
    /// Without any stated lifetime, one is worked out from `Last-Modified`.
    pub heuristic: bool,
    /// What becomes of a response whose end is that of the connection: `forward` or `store`.
    pub close_delimited: &'static str,
    /// Which of a request's directives count: `harmless`, `all` or `none`.
    pub client_directives: &'static str,
    /// Bytes; null: `[memory] max_body`.
    pub max_body: Option<u64>,
    pub identity: String,
    /// The path that is asked whether it authorizes the caller; null: none is.
    pub authorize: Option<String>,
    /// The instances beside the captures of its path: name and source.
    pub instance: BTreeMap<String, String>,
    /// Query parameters that are part of the key.
    pub query: QueryParameters,
    pub query_sort: bool,
    /// Null: all are sent.
    pub cookies: Option<Vec<String>>,
    pub set_cookie: &'static str,
    /// Request fields that are part of the key.
    pub headers: Vec<String>,
    /// Request fields that are brought to one form first.
    pub normalize: Vec<String>,
    pub max_variants: usize,
    /// What a range of something not stored fetches: `forward` or `whole`.
    pub range: &'static str,
    /// Which request fields are sent to upstream: `all` or `keyed`.
    pub forward: &'static str,
    /// What clients are told of their own caches: `no-cache`, `pass`, or a value of `Cache-Control`.
    pub client_cache_control: String,
    /// What CDNs are told; null: what upstream says.
    pub cdn_cache_control: Option<String>,
    /// Who shares a fetch of what is missing: requests to one `proxy`, or to the whole `fleet`.
    pub collapse: &'static str,
    /// The thresholds of its alerts that differ from `[alerts]`: `hit_rate 50%`; empty: none.
    pub alerts: String,
    /// `none`: it is meant that no rule names it.
    pub invalidation: &'static str,
    /// Line in the rules file.
    pub line: usize,
    /// Paths of the invalidations that can invalidate it.
    pub invalidated_by: Vec<String>,
}

impl FamilyDefinition {
    /// `invalidated_by`: the invalidations that can invalidate the family.
    pub fn new(family: &Family, invalidated_by: &[&Invalidation]) -> FamilyDefinition {
        let policy = &family.policy;
        FamilyDefinition {
            name: family.name.clone(),
            path: family.path.clone(),
            methods: family.methods.names(),
            ttl: policy.ttl.map(text),
            ttl_seconds: policy.ttl.map(|ttl| ttl.as_secs()),
            ttl_policy: policy.ttl_policy.word(),
            cache: if family.is_never_cached { "never" } else { "default" },
            version: family.version.clone(),
            negative_ttl: (!policy.negative_ttl.is_empty()).then(|| policy.negative_ttl.to_string()),
            until: policy.until.map(|until| until.to_string()),
            adaptive_ttl: policy.adaptive_ttl.map(|adaptive| adaptive.to_string()),
            compress: family.compress,
            stale_while_revalidate: policy.stale_while_revalidate.map(text),
            stale_if_error: policy.stale_if_error.map(text),
            stale_if_unreachable: text(policy.stale_if_unreachable),
            stale_while_slow: family.stale_while_slow.map(text),
            revalidate: policy.revalidate.word(),
            write_through: family.write_through,
            heuristic: policy.heuristic,
            close_delimited: policy.close_delimited.word(),
            client_directives: policy.client_directives.word(),
            max_body: family.max_body,
            identity: family.key_spec.identity.to_string(),
            authorize: family.authorize.as_ref().map(|authorize| authorize.path.clone()),
            instance: family.instances.iter().map(|it| (it.name.clone(), it.source.to_string())).collect(),
            query: QueryParameters::of(&family.key_spec.query.parameters),
            query_sort: family.key_spec.query.sort,
            cookies: family.key_spec.cookies.clone(),
            set_cookie: policy.set_cookie.word(),
            headers: family.key_spec.headers.iter().map(ToString::to_string).collect(),
            normalize: family.fetching.normalize.iter().map(ToString::to_string).collect(),
            max_variants: family.fetching.max_variants,
            range: family.fetching.range(),
            forward: family.fetching.forward(),
            client_cache_control: family.client_cache_control.text().to_owned(),
            cdn_cache_control: family
                .cdn_cache_control
                .as_ref()
                .and_then(|it| it.to_str().ok())
                .map(str::to_owned),
            collapse: family.collapse.word(),
            alerts: family.alerts.to_string(),
            invalidation: family.invalidation(),
            line: family.line,
            invalidated_by: invalidated_by.iter().map(|rule| rule.path.clone()).collect(),
        }
    }
}

/// `"all"`, `{"keep": ["page"]}` or `{"drop": ["utm_source"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueryParameters {
    All,
    Keep(Vec<String>),
    Drop(Vec<String>),
}

impl QueryParameters {
    fn of(parameters: &Parameters) -> QueryParameters {
        match parameters {
            Parameters::All => QueryParameters::All,
            Parameters::Keep(names) => QueryParameters::Keep(names.clone()),
            Parameters::Drop(names) => QueryParameters::Drop(names.clone()),
        }
    }
}

/// What became of the requests of a family.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FamilyActivity {
    /// By outcome, as in the metric `larder_requests_total`.
    #[schema(value_type = BTreeMap<String, u64>)]
    requests: BTreeMap<&'static str, u64>,
    hit_rate: f64,
    /// Of all reads, those that were forwarded without being cached; percent.
    pass_rate: f64,
    /// Entries kept; null when they could not be counted.
    keys: Option<u64>,
    /// What they take in the store; null where no sweeper has measured it.
    bytes: Option<u64>,
    refetches: RefetchReport,
}

/// What the rules of a family cost: refetches that brought what had been there were not needed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct RefetchReport {
    /// Responses that this proxy fetched again after an invalidation, and had stored before.
    after_invalidation: u64,
    /// Those with the same body as before.
    identical: u64,
    /// Percent; null without refetches.
    identical_share: Option<f64>,
}

impl FamilyActivity {
    /// `keys`, `bytes`: of the entries kept. `refetches`: after an invalidation, and how many of them brought the same body.
    pub fn new(
        counters: &FamilyCounters,
        (keys, bytes): (Option<u64>, Option<u64>),
        (refetches, identical): (u64, u64),
    ) -> FamilyActivity {
        FamilyActivity {
            requests: OutcomeKind::ALL.iter().map(|kind| (kind.label(), counters.of(*kind))).collect(),
            hit_rate: Performance::of([counters]).hit_rate,
            pass_rate: Passes::of([counters]).pass_rate,
            keys,
            bytes,
            refetches: RefetchReport {
                after_invalidation: refetches,
                identical,
                identical_share: (refetches > 0).then(|| percent(identical, refetches)),
            },
        }
    }
}

/// A walk of the sweeper over the store's entries.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct KeyStatsReport {
    /// Since it ended.
    age_seconds: u64,
    took_seconds: u64,
    /// The proxy that walked.
    by: String,
    /// Invalidated entries that it removed.
    removed: u64,
    /// Entries of another version of Larder.
    unreadable: u64,
    /// `user_list_bytes`, …, `total_bytes`.
    #[schema(value_type = BTreeMap<String, u64>)]
    bytes: Map<String, Value>,
}

impl From<&Dated> for KeyStatsReport {
    fn from(dated: &Dated) -> KeyStatsReport {
        let key_stats = &dated.key_stats;
        let mut bytes: Map<String, Value> =
            key_stats.families.iter().map(|(name, kept)| (format!("{name}_bytes"), kept.bytes.into())).collect();
        // Last: a family called `total` must not take the place of the sum.
        let total: u64 = key_stats.families.values().map(|kept| kept.bytes).sum();
        bytes.insert("total_bytes".to_owned(), total.into());
        KeyStatsReport {
            age_seconds: dated.age.as_secs(),
            took_seconds: key_stats.seconds,
            by: key_stats.by.clone(),
            removed: key_stats.removed,
            unreadable: key_stats.unreadable,
            bytes,
        }
    }
}

/// A family with what became of its requests.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FamilyReport {
    #[serde(flatten)]
    pub definition: FamilyDefinition,
    #[serde(flatten)]
    pub activity: FamilyActivity,
}

/// An invalidation as the rules define it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct InvalidationDefinition {
    path: String,
    methods: Vec<String>,
    /// Statuses on which it applies: `200-399`, `404`.
    on: Vec<String>,
    families: Vec<String>,
    /// Patterns of paths that it does not apply to.
    except: Vec<String>,
    /// `hard` or `soft`.
    mode: &'static str,
    /// Seconds for which what it invalidates softly may be served stale.
    grace: Option<f64>,
    /// Seconds after which it is repeated.
    again: Option<f64>,
    /// Whether the hottest of what it invalidates is fetched again at once.
    refresh: bool,
    /// Line in the rules file.
    line: usize,
}

impl From<&Invalidation> for InvalidationDefinition {
    fn from(rule: &Invalidation) -> InvalidationDefinition {
        InvalidationDefinition {
            path: rule.path.clone(),
            methods: rule.methods.names().into_iter().map(str::to_owned).collect(),
            on: rule.on.texts(),
            families: rule.families.clone(),
            except: rule.except.clone(),
            mode: rule.mode(),
            grace: rule.grace.map(|grace| grace.as_secs_f64()),
            again: rule.again.map(|after| after.as_secs_f64()),
            refresh: rule.refresh,
            line: rule.line,
        }
    }
}

/// Why an edit of the rules file was refused.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EditFault {
    message: String,
    /// Empty when the file could not be read at all.
    pub faults: Vec<Fault>,
}

impl EditFault {
    /// `message`: the whole story as text.
    pub fn new(message: &str, faults: &[Fault]) -> EditFault {
        EditFault { message: message.trim_end().to_owned(), faults: faults.to_vec() }
    }

    /// What is wrong, in one line.
    pub fn summary(&self) -> String {
        match &self.faults[..] {
            [] => self.message.clone(),
            // A fault in a flag has no position.
            [only] if only.line == 0 => format!("{}: {}", only.file, only.message),
            [only] => format!("{}:{}:{}: {}", only.file, only.line, only.column, only.message),
            [first, ..] => format!("{} has {} faults", first.file, self.faults.len()),
        }
    }

    /// What to do about it, in one line.
    pub fn remedy(&self) -> String {
        match &self.faults[..] {
            [] => "make the rules file readable, then reload".to_owned(),
            [only] => only.remedy.clone(),
            _ => "mend what faults says, then reload; larder check FILE shows each in its place".to_owned(),
        }
    }
}

/// `2.5M`, as Redis writes sizes.
fn human(bytes: u64) -> String {
    const UNITS: [char; 4] = ['K', 'M', 'G', 'T'];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 and more would be written as 1024.0.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1}{}", UNITS[unit])
}

fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests;

//! The state of the process, which the proxy and the admin share. The rules, `[[warm]]`, `[alerts]` and `[memory] max_body` are replaced
//! together when the file changes; everything else stays for the life of the process.
//!
//! A reload invalidates every family whose definition or invalidations it changes: an entry stored under a definition that
//! comes back may have missed writes in between. A write under way during a reload invalidates by both sets of rules. The other proxies
//! of a fleet are told before the rules change ([`crate::coherence::fleet::mixed`]).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use hmac::Mac as _;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::bearer::{BearerToken, TokenFault};
use crate::cache::Cache;
use crate::cache::memory::Memory;
use crate::coalesce::inflight::Inflight;
use crate::coalesce::stored_body::StoredBodies;
use crate::coherence::fleet::FleetSettings;
use crate::config::alerts::AlertsConfig;
use crate::config::{self, Coherence, Config, Digest, LoadError, ServerConfig, StoreConfig, WarmTable};
use crate::entry::Seal;
use crate::hexadecimal::hexadecimal;
use crate::http::headers::{Credentials, LoopMark};
use crate::http::invalidation::StatusSet;
use crate::jwt::TokenVerifier;
use crate::key::Redaction;
use crate::marks::Tag;
use crate::metrics::{FamilyCounters, Metrics, NO_FAMILY};
use crate::rules::digest::{DigestSettings, RulesDigest};
use crate::rules::pattern::Pattern;
use crate::rules::reader::Expansions;
use crate::rules::{Family, Invalidation, RuleSet, WriteMethods};
use crate::shares::Shares;
use crate::store::Store;
use crate::tokens::{Tokens, WrongTokens};
use crate::traces::Traces;
use crate::upkeep::alerts::Alerts;
use crate::upkeep::bypasses::Bypasses;
use crate::upkeep::deploys::Deploys;
use crate::upkeep::history::History;
use crate::upkeep::history::points::Points;
use crate::upkeep::hours::HourlyReads;
use crate::upkeep::invalidation_log::OriginKind;
use crate::upkeep::names::FamilyOwners;
use crate::upkeep::request_rates::RequestRates;
use crate::upkeep::shapes::Shapes;
use crate::upkeep::stories::Stories;
use crate::upkeep::top::TopUrls;
use crate::upkeep::unmatched::UnmatchedWrites;
use crate::upkeep::unresolved::UnresolvedLog;
use crate::upkeep::warming::Warming;
use crate::upstream::Upstream;

/// The rules in force, with the counters of their families.
#[derive(Debug)]
pub struct Live {
    pub rules: RuleSet,
    /// By [`crate::rules::Family::id`].
    counters: Vec<FamilyCounters>,
    no_family: FamilyCounters,
    /// `[memory] max_body`, bytes.
    pub max_body: u64,
    /// How credentials are represented in cache keys.
    pub redaction: Redaction,
    /// The request fields that count as credentials.
    pub credentials: Credentials,
    /// `[store] version`, a part of every cache key.
    pub store_version: Option<Arc<str>>,
    /// `[store] compress` and `compress_above`: the bytes over which bodies are compressed in Redis, and whether they are in
    /// families that do not say so themselves. `None` without Redis.
    pub compression: Option<(usize, bool)>,
    /// Requests of each URL of families with `adaptive_ttl`.
    pub request_rates: Arc<RequestRates>,
    /// `[[warm]]`
    pub warm: Arc<[WarmTable]>,
    /// Families that are forwarded for a while.
    pub bypasses: Arc<Bypasses>,
    /// `[admin] hosts`
    pub admin_hosts: Vec<String>,
    pub alerts: AlertsConfig,
    /// The strings of the rules file that have variables of the environment.
    expansions: Expansions,
    /// Verifies bearer tokens, if families identify callers by claims.
    pub jwt: Option<Arc<TokenVerifier>>,
    /// The time when they came into force.
    pub since: SystemTime,
}

impl Live {
    /// Takes the rules of a configuration, and the other fields that a reload may change. They come into force now.
    pub fn take(config: &mut Config, metrics: &Metrics) -> Live {
        let (rules, max_body) = (std::mem::take(&mut config.rules), config.memory.max_body);
        let counters = rules.families().iter().map(|family| metrics.family(&family.name)).collect();
        let no_family = metrics.family(NO_FAMILY);
        let credentials = config.server.credential_headers.clone();
        let further = Some(credentials.further().into()).filter(|further: &Arc<[_]>| !further.is_empty());
        let redaction = Redaction { secret: config.store.as_ref().and_then(StoreConfig::secret), further };
        let store = config.store.as_ref();
        let jwt = config.jwt.as_ref().map(|jwt| Arc::new(TokenVerifier::new(jwt, metrics)));
        Live {
            rules,
            counters,
            no_family,
            max_body,
            redaction,
            credentials,
            store_version: store.and_then(|store| store.version.as_deref()).map(Arc::from),
            compression: store.map(|store| (store.compress_above, store.compress)),
            request_rates: Arc::default(),
            warm: std::mem::take(&mut config.warm).into(),
            bypasses: Arc::default(),
            admin_hosts: config.admin.hosts.clone(),
            alerts: std::mem::take(&mut config.alerts),
            expansions: std::mem::take(&mut config.expansions),
            jwt,
            since: SystemTime::now(),
        }
    }

    /// The bearer token of a request. Its times are not compared with the clock yet.
    pub fn bearer(&self, fields: &HeaderMap) -> BearerToken {
        match &self.jwt {
            Some(jwt) => jwt.bearer(fields),
            // A reload has added families that need one; the keys take effect at a restart.
            None if fields.contains_key(AUTHORIZATION) => BearerToken::Refused(TokenFault::NoKeys),
            None => BearerToken::Absent,
        }
    }

    /// The counters of a family by its id, or those of requests without one.
    pub fn counters(&self, family: Option<usize>) -> &FamilyCounters {
        family.and_then(|id| self.counters.get(id)).unwrap_or(&self.no_family)
    }

    /// All counters: of every family in file order, then of requests without one.
    pub fn all_counters(&self) -> impl Iterator<Item = &FamilyCounters> {
        self.counters.iter().chain([&self.no_family])
    }
}

/// Everything that serves requests.
pub struct Running {
    /// The configuration at start. Its rules, `[[warm]]` and `[alerts]` have moved to [`Running::live`]; `[memory] max_body` too is read
    /// from there.
    pub config: Config,
    live: ArcSwap<Live>,
    pub cache: Cache,
    pub inflight: Arc<Inflight>,
    pub shapes: Shapes,
    pub unmatched: UnmatchedWrites,
    /// Rules that lacked a value in a write.
    pub unresolved: UnresolvedLog,
    /// Counts of the last hour.
    pub history: Mutex<History>,
    /// An hour of points for charts.
    pub points: Mutex<Points>,
    pub alerts: Mutex<Alerts>,
    /// What is missed most, and takes longest.
    pub top: TopUrls,
    /// What happened to the entries of each URL.
    pub stories: Stories,
    /// Limits concurrent reads that cannot share a fetch.
    pub unshared: Arc<Shares>,
    /// Bodies on their way into memory: at most a quarter of its capacity, or one of the largest.
    pub bodies: Arc<StoredBodies>,
    /// Responses to writes that are buffered to be stored while their clients read them, bytes: as many together, and a quarter of it
    /// for one client, or one of the largest.
    pub recordings: Arc<Shares>,
    pub upstream: Upstream,
    pub warming: Warming,
    /// Purges of deployments that were carried out.
    pub deploys: Deploys,
    /// The most frequent reads of each hour, where there is no Redis.
    pub hourly: HourlyReads,
    pub metrics: Arc<Metrics>,
    /// `[traces]`
    pub traces: Option<Traces>,
    /// The tokens of `[admin]`.
    pub tokens: Tokens,
    /// Wrong tokens in `Larder-Debug`. The admin counts its own, so that clients of the proxy cannot delay operators.
    pub debug_wrong_tokens: WrongTokens,
    /// Sent with every request to upstream. A client's request that has it has passed this proxy before.
    pub loop_mark: LoopMark,
    /// Fetches, revalidations and writes. They continue without their client, and shutdown waits for them.
    pub tasks: TaskTracker,
    pub started: Instant,
    /// Digest of the file as last read, valid or not; `None` if it could not be read. Locked during a reload, so that it
    /// belongs to the rules in force.
    last_read: tokio::sync::Mutex<Option<Digest>>,
    /// The faults of the last edit, if it was refused.
    refused: Mutex<Option<LoadError>>,
    rules_changed: Notify,
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// Families in force now.
    pub families: usize,
    /// Invalidation rules in force now.
    pub invalidations: usize,
    /// Changed fields that take effect at a restart: those that are read once, and a `max_body` larger than the memory was laid
    /// out for. For example `[server] listen` or `max_body of family "a"`.
    pub needs_restart: Vec<String>,
}

/// What a reload with other content of the file would do.
#[derive(Debug)]
pub struct Preview {
    /// The rules of that content.
    pub rules: RuleSet,
    /// Names of the families that the reload invalidates.
    pub invalidated: Vec<String>,
    /// Changed fields that take effect only at a restart.
    pub needs_restart: Vec<String>,
}

/// The total is what fits into the places at upstream and their queue.
fn unshared(server: &ServerConfig) -> Arc<Shares> {
    let all = server.max_upstream_requests as u64 * 2;
    Shares::new(all, server.max_unshared_per_client)
}

impl Running {
    /// Builds the state from a configuration and its parts.
    pub fn new(
        mut config: Config,
        upstream: Upstream,
        store: Option<Arc<dyn Store>>,
        metrics: Arc<Metrics>,
    ) -> Running {
        let mut live = Live::take(&mut config, &metrics);
        let largest = largest_body(&live);
        let in_transfer = (config.memory.capacity / 4).max(largest);
        let memory = Memory::new(config.memory.capacity, largest, config.memory.marks);
        let namespace = config.store.as_ref().map_or("", |store| &store.namespace);
        let seal = Seal::new(namespace, live.redaction.secret.clone());
        let cache = Cache::new(memory, store.map(|store| (store, fleet(&config, &live))), Arc::clone(&metrics))
            .sealed(seal);
        live.bypasses = Arc::clone(cache.bypasses());
        cache.log().set_owners(FamilyOwners::of(&live.rules));
        Running {
            live: ArcSwap::from_pointee(live),
            cache,
            inflight: Inflight::new(),
            traces: None,
            shapes: Shapes::new(),
            unmatched: UnmatchedWrites::default(),
            unresolved: UnresolvedLog::default(),
            history: Mutex::default(),
            points: Mutex::default(),
            alerts: Mutex::default(),
            top: TopUrls::default(),
            stories: Stories::default(),
            unshared: unshared(&config.server),
            bodies: StoredBodies::new(in_transfer),
            recordings: Shares::new(in_transfer, Shares::usual(in_transfer).max(largest)),
            upstream,
            warming: Warming::default(),
            deploys: Deploys::default(),
            hourly: HourlyReads::default(),
            metrics,
            tokens: Tokens::new(&config.admin.tokens),
            debug_wrong_tokens: WrongTokens::new(Instant::now()),
            loop_mark: LoopMark::new(),
            tasks: TaskTracker::new(),
            started: Instant::now(),
            last_read: tokio::sync::Mutex::new(config.digest),
            refused: Mutex::new(None),
            rules_changed: Notify::new(),
            config,
        }
    }

    /// The rules in force. A request uses those it began with to its end.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Waits until other rules are in force. For one task, which watches for alerts.
    pub async fn rules_changed(&self) {
        self.rules_changed.notified().await;
    }

    /// The rules file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.config.file.as_deref()
    }

    /// Reads the file again. A valid one takes effect for requests that begin later; an invalid one changes nothing, and its
    /// faults are stored for [`Running::refused`]. Entries of families whose rules change are invalidated: while other rules
    /// were in force, writes may not have invalidated them.
    pub async fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut last_read = self.last_read.lock().await;
        let content = self.content();
        *last_read = digest_of(&content);
        self.apply(content).await
    }

    /// As [`Running::reload`], but only if the file has changed since it was last read; `None` if it has not. It is read once, so
    /// that the digest and the rules are of the same edit.
    pub async fn reload_if_edited(&self) -> Option<Result<Reloaded, LoadError>> {
        let mut last_read = self.last_read.lock().await;
        let content = self.content();
        let digest = digest_of(&content);
        if digest == *last_read {
            return None;
        }
        *last_read = digest;
        Some(self.apply(content).await)
    }

    /// The content of the rules file; `None` without a file.
    fn content(&self) -> Result<Option<Vec<u8>>, LoadError> {
        self.file().map(config::read).transpose()
    }

    async fn apply(&self, content: Result<Option<Vec<u8>>, LoadError>) -> Result<Reloaded, LoadError> {
        let checked = content.and_then(|content| self.check(content.as_deref()));
        self.metrics.rules_faulty.set(i64::from(checked.is_err()));
        let mut config = match checked {
            Ok(config) => config,
            Err(error) => {
                *self.lock_refused() = Some(error.clone());
                return Err(error);
            }
        };
        let before = self.live();
        // Before the rules are taken out of it.
        let needs_restart = self.needs_restart(&config);
        // Not built: they take effect at a restart.
        config.jwt = None;
        let live = Live {
            // A new secret, other credentials or keys take effect at a restart, as the rest of their tables.
            redaction: before.redaction.clone(),
            credentials: before.credentials.clone(),
            store_version: before.store_version.clone(),
            compression: before.compression,
            request_rates: Arc::clone(&before.request_rates),
            jwt: before.jwt.clone(),
            bypasses: Arc::clone(&before.bypasses),
            ..Live::take(&mut config, &self.metrics)
        };
        let changed = changed(&before.rules, &live.rules);
        let digest = rules_digest((&config, &self.config.server), &live);
        self.cache.leave_rules(&digest).await;
        let of_none = RulesDigest::claims_differ(&before.rules, &live.rules).then(Tag::unclaimed);
        let changed: Vec<Tag> = changed.into_iter().map(|family| Tag::family(&family)).chain(of_none).collect();
        if !changed.is_empty() {
            self.cache.invalidate(&changed, OriginKind::Rules).await;
        }
        let reloaded = Reloaded {
            families: live.rules.stated().len(),
            invalidations: live.rules.invalidations().len(),
            needs_restart,
        };
        self.cache.log().set_owners(FamilyOwners::of(&live.rules));
        self.live.store(Arc::new(live));
        self.tokens.replace(&config.admin.tokens);
        self.warming.rules_changed();
        self.rules_changed.notify_one();
        // Again: writes that ended in between followed the old rules, and readers may have stored what the new rules would have
        // invalidated.
        if !changed.is_empty() {
            self.cache.invalidate(&changed, OriginKind::Rules).await;
        }
        self.cache.adopt_rules(digest);
        // Until then the families that have changed are forwarded.
        self.cache.rules_settled().await;
        *self.lock_refused() = None;
        Ok(reloaded)
    }

    /// What a reload would do if the file had this content. Its sender may not know the environment: variables are expanded only in
    /// strings that the rules in force have in the same field, so that nothing is shown that they do not show.
    ///
    /// # Errors
    ///
    /// The content has faults, or variables elsewhere.
    pub fn preview(&self, content: &[u8]) -> Result<Preview, LoadError> {
        let env = |name: &str| std::env::var(name).ok();
        let name = self.file().unwrap_or(Path::new("rules.toml"));
        let live = self.live();
        let permitted = Some(&live.expansions);
        let config = Config::check_permitting(permitted, name, content, &self.config.overrides, &env)?;
        Ok(Preview {
            invalidated: changed(&live.rules, &config.rules),
            needs_restart: self.needs_restart(&config),
            rules: config.rules,
        })
    }

    /// Fields that have changed and take effect only when Larder is started again.
    fn needs_restart(&self, config: &Config) -> Vec<String> {
        let memory = self.cache.memory();
        let too_large = |max_body: &u64| *max_body > memory.largest_body() && memory.is_divided();
        let of_families =
            config.rules.families().iter().filter(|family| family.max_body.as_ref().is_some_and(too_large));
        let of_families = of_families.map(|family| format!("max_body of family \"{}\"", family.name));
        let of_memory = too_large(&config.memory.max_body).then(|| "[memory] max_body".to_owned());
        self.config.differs(config).into_iter().map(str::to_owned).chain(of_memory).chain(of_families).collect()
    }

    fn check(&self, content: Option<&[u8]>) -> Result<Config, LoadError> {
        let env = |name: &str| std::env::var(name).ok();
        match self.file().zip(content) {
            Some((path, bytes)) => Config::check(path, bytes, &self.config.overrides, &env),
            None => Config::load(None, &self.config.overrides, &env),
        }
    }

    /// Sweeps Redis until the process ends, if there is one and sweeping is configured.
    pub async fn sweep(self: Arc<Running>) {
        let settings = self.config.store.as_ref().map(|store| (store.sweep_rate, store.sweep_pause));
        if let Some(sweeper) = settings.and_then(|(rate, pause)| self.cache.sweeper(rate, pause)) {
            sweeper.run(|| FamilyOwners::of(&self.live().rules)).await;
        }
    }

    /// The faults of the last edit of the rules file, if it was refused.
    pub fn refused(&self) -> Option<LoadError> {
        self.lock_refused().clone()
    }

    fn lock_refused(&self) -> std::sync::MutexGuard<'_, Option<LoadError>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This proxy among those that share its store.
fn fleet(config: &Config, live: &Live) -> FleetSettings {
    let Some(store) = &config.store else { return FleetSettings::new(Coherence::default(), Duration::ZERO) };
    FleetSettings::new(store.coherence, store.lease)
        .with_limits(store.connect_timeout, store.timeout)
        .with_replicas(store.wait_replicas)
        .with_rules(rules_digest((config, &config.server), live))
}

/// What other proxies compare with their rules. `config`: the one that the rules are of. `server`: the settings in force, which a reload
/// does not change.
fn rules_digest((config, server): (&Config, &ServerConfig), live: &Live) -> RulesDigest {
    let secret = live.redaction.secret.as_ref().map(|secret| {
        let digest = secret.of_field().chain_update(b"rules").finalize().into_bytes();
        hexadecimal(&digest[..8])
    });
    let settings = DigestSettings {
        of_paths: format!(
            "{:?} {:?} {:?} {:?}",
            config.server.case_insensitive_paths,
            server.case_insensitive_paths,
            server.on_incomplete,
            server.login.as_ref().map(Pattern::as_str)
        ),
        of_callers: format!("{secret:?} {:?}", live.credentials.further()),
    };
    RulesDigest::of(&live.rules, &settings)
}

fn digest_of(content: &Result<Option<Vec<u8>>, LoadError>) -> Option<Digest> {
    content.as_ref().ok()?.as_deref().map(config::digest)
}

/// Names of the families whose definition or invalidation rules have changed.
fn changed(before: &RuleSet, now: &RuleSet) -> Vec<String> {
    let is_same = |family: &Family| {
        before.family(&family.name).is_some_and(|there| {
            there.definition == family.definition
                && written(before.invalidating(there)) == written(now.invalidating(family))
        })
    };
    now.families().iter().filter(|family| !is_same(family)).map(|family| family.name.clone()).collect()
}

type Written<'r> = (&'r str, &'r WriteMethods, &'r StatusSet, [&'r [String]; 2], [Option<Duration>; 2], bool);

/// Rules in a form that can be compared.
fn written(rules: Vec<&Invalidation>) -> Vec<Written<'_>> {
    rules
        .into_iter()
        .map(|rule| {
            let texts = [&*rule.families, &*rule.except];
            (&*rule.path, &rule.methods, &rule.on, texts, [rule.grace, rule.again], rule.refresh)
        })
        .collect()
}

fn largest_body(live: &Live) -> u64 {
    let of_families = live.rules.families().iter().filter_map(|family| family.max_body).max().unwrap_or(0);
    live.max_body.max(of_families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    const ONE: &str = "[[family]]\nname = \"users\"\npath = '/users'\nttl = \"1m\"\n";

    fn running(file: &Path) -> Running {
        let overrides = Overrides { upstream: Some("http://127.0.0.1:9".to_owned()), ..Overrides::default() };
        let config = Config::load(Some(file), &overrides, &|_| None).unwrap();
        let upstream = Upstream::new(config.server.upstream.as_ref().unwrap(), &config.server).unwrap();
        Running::new(config, upstream, None, Arc::new(Metrics::new()))
    }

    #[test]
    fn a_preview_expands_variables_only_where_the_rules_in_force_have_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        // The machine that runs tests has PATH.
        let text =
            format!("{ONE}[admin]\ntokens = [{{ role = \"viewer\", token = \"${{NO_TOKEN:-}}${{PATH}}\" }}]\n");
        std::fs::write(&file, ONE).unwrap();
        let running = running(&file);
        let message = |text: &str| match running.preview(text.as_bytes()) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let secret = std::env::var("PATH").unwrap();
        for (from, to) in
            [("'/users'", "'/${PATH}'"), ("\"1m\"", "\"${PATH}\""), ("\"users\"", "\"${NOT_SET:-users}\"")]
        {
            let refused = message(&ONE.replace(from, to));
            assert!(refused.contains("not expanded") && refused.contains("larder check"), "{to}: {refused}");
            assert!(!refused.contains(&secret), "{refused}");
        }
        assert!(message(&text).contains("not expanded"));
        let config =
            Config::parse(&text.replace("${PATH}", ""), "f", &running.config.overrides, &|_| None).unwrap();
        assert_eq!(config.expansions.len(), 1);
    }

    #[tokio::test]
    async fn an_edit_is_noticed_once_even_after_an_explicit_reload() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write(ONE);
        let running = running(&file);
        let families = || running.live().rules.families().len();
        assert!(running.reload_if_edited().await.is_none(), "not changed since the start");
        write("");
        running.reload().await.unwrap();
        assert_eq!(families(), 0);
        assert!(running.reload_if_edited().await.is_none(), "already in force");
        write(ONE);
        assert_eq!(
            running.reload_if_edited().await.unwrap().unwrap().families,
            1,
            "back to the first content is an edit too"
        );
        write("[[family]");
        assert!(running.reload_if_edited().await.unwrap().is_err());
        assert!(running.reload_if_edited().await.is_none(), "a fault is reported once");
        std::fs::remove_file(&file).unwrap();
        assert!(running.reload_if_edited().await.unwrap().is_err());
        write(ONE);
        assert!(running.reload_if_edited().await.unwrap().is_ok());
        assert_eq!((families(), running.refused().is_none()), (1, true));
    }
}

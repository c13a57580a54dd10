//! Purges: what an operator invalidates, by the admin's routes or by PURGE and BAN at the proxy. All of them come down to tags, which are
//! invalidated as those of a write are: when a purge is answered, no proxy of the fleet serves what was stored before, nor what a fetch
//! under way brings.
//!
//! Prefixes and globs have no tags. They are compared with the paths of what is stored now ([`reach`]), and those paths are invalidated. So
//! they do not reach what only the memory of another proxy holds, nor a path that is being fetched for the first time: families, instances,
//! URLs, groups and tags do.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::http::target::{PathCase, Target, normalise};
use crate::marks::{SoftInvalidation, Tag};
use crate::metrics::NO_FAMILY;
use crate::rules::{GRACE, LeftOut};
use crate::running::{Live, Running};
use crate::store::fleet::{Invalidations, random_id};
use crate::tokens::OperatorToken;
use crate::upkeep::invalidation_log::{InvalidationOrigin, OriginKind, Why};
use crate::upkeep::names::FamilyOwners;

pub mod reach;

use reach::{PathSelector, Reach};

/// Most tags that one purge may have; with more, it names too much to be listed, and a family or everything is meant.
pub const TAGS: usize = 10_000;

/// How stored responses are invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PurgeMode {
    /// They are not served again.
    #[default]
    Hard,
    /// They may be served stale for 30 s while they are fetched again.
    Soft,
}

/// What to invalidate.
#[derive(Debug, Default)]
pub struct Purge {
    pub tags: Vec<Tag>,
    /// Paths whose tags [`Purge::resolve`] finds.
    pub patterns: Vec<PathSelector>,
    /// The deployment that it is for.
    pub deploy: Option<String>,
    reach: Option<Reach>,
    /// The patterns were not compared with all that is stored.
    is_cut: bool,
    pub mode: PurgeMode,
    /// Families that have an instance that was named, and in which no value names it.
    pub left_out: Vec<LeftOut>,
}

/// What was invalidated, and how long that took.
#[derive(Debug, Clone)]
pub struct Purged {
    pub id: String,
    pub tags: Vec<Tag>,
    /// The families that it reaches, sorted.
    pub families: Vec<String>,
    /// What was stored of it before; none if it was not counted.
    pub reach: Option<Reach>,
    pub mode: PurgeMode,
    pub left_out: Vec<LeftOut>,
    /// The patterns were compared with all that is stored. False: some of what they fit is not purged.
    pub is_complete: bool,
    /// The store has it. True without a store.
    pub delivered: bool,
    /// Until every proxy had applied it.
    pub wait: Duration,
}

/// What to do about a purge that is not complete.
pub const NOT_COMPLETE: &str = "what the prefixes and globs fit is not purged in full: name families, instances, groups or urls instead; or send it \
    again, since each time it finds at most 10000 paths, within 3 s";

impl Purged {
    /// 202 if something remains to be done: by Larder, while Redis does not answer, or by the operator.
    pub fn status(&self) -> StatusCode {
        if self.delivered && self.is_complete { StatusCode::OK } else { StatusCode::ACCEPTED }
    }
}

/// Who purges, for the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operator {
    /// The name of the token, or what stands for one.
    pub token: Option<String>,
    /// The address of the connection.
    pub peer: Option<String>,
}

/// A purge that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurgeFault {
    #[error("the purge names more than {TAGS} tags")]
    TooMuch,
    #[error("Redis does not answer, so that what is stored cannot be compared with the prefixes and globs")]
    StoreAway,
}

impl Purge {
    /// A purge of these tags.
    pub fn of(tags: Vec<Tag>) -> Purge {
        Purge { tags, ..Purge::default() }
    }

    /// An empty one of this mode.
    pub fn in_mode(mode: PurgeMode) -> Purge {
        Purge { mode, ..Purge::default() }
    }

    /// The same, with families in which no value names an instance that was named.
    #[must_use]
    pub fn without(self, left_out: Vec<LeftOut>) -> Purge {
        Purge { left_out, ..self }
    }

    /// Adds a URL or a path: all its variants, queries and callers, under every host, whatever upstream takes its path for. None if it is
    /// no path.
    pub fn add_url(&mut self, url: &str, case: PathCase) -> Option<()> {
        let uri: http::Uri = url.parse().ok()?;
        if !uri.path().starts_with('/') {
            return None;
        }
        self.add_target(&Target { case, ..Target::default() }.at(uri.path()));
        Some(())
    }

    /// Adds the path of a target, as [`Purge::add_url`].
    pub fn add_target(&mut self, target: &Target) {
        self.tags.extend(target.tags());
    }

    /// Compares the patterns with what is stored, and adds the paths that they fit. Counts what is stored of everything that is named, if
    /// there are patterns or the counts are wanted.
    ///
    /// # Errors
    ///
    /// It names too much, or what is stored cannot be looked at.
    pub async fn resolve(&mut self, running: &Running, is_count_wanted: bool) -> Result<(), PurgeFault> {
        if is_count_wanted || !self.patterns.is_empty() {
            let patterns = std::mem::take(&mut self.patterns);
            let is_cut_if_partial = !patterns.is_empty();
            let found = reach::find(&running.cache, &self.tags, patterns).await.ok_or(PurgeFault::StoreAway)?;
            self.tags.extend(found.paths.iter().map(|path| Tag::uri(path)));
            self.is_cut = is_cut_if_partial && !found.is_complete;
            self.reach = Some(found);
        }
        self.tags.sort_unstable();
        self.tags.dedup();
        if self.tags.len() > TAGS { Err(PurgeFault::TooMuch) } else { Ok(()) }
    }

    /// The families that it reaches.
    pub fn families(&self, live: &Live) -> BTreeSet<String> {
        let owners = FamilyOwners::of(&live.rules);
        let named = self.tags.iter().flat_map(|tag| reached(tag, live, &owners));
        named.filter(|family| family != NO_FAMILY).collect()
    }

    /// What of it this token may not purge, as a sentence part; none if it may purge all.
    pub fn outside(&self, live: &Live, token: &OperatorToken) -> Option<String> {
        token.families.as_ref()?;
        let owners = FamilyOwners::of(&live.rules);
        self.tags.iter().find_map(|tag| outside(tag, live, &owners, token))
    }

    /// Invalidates, counts it by family, and waits until every proxy of the fleet has applied it.
    pub async fn carry_out(self, running: &Running, by: &Operator) -> Purged {
        let families = self.families(&running.live());
        let began = Instant::now();
        families.iter().for_each(|family| running.metrics.invalidated(family, "purge"));
        if self.tags.iter().any(|tag| tag.group_name().is_some()) {
            // Groups are named by responses, without limit: counted together.
            running.metrics.invalidated("(group)", "purge");
        }
        let invalidations = invalidations(&self);
        let delivered = invalidations.is_empty()
            || running.cache.invalidate_for(&invalidations, None, self.why(by)).await.taken.is_some();
        if self.tags.contains(&Tag::root()) && self.mode == PurgeMode::Hard {
            running.cache.memory().clear();
        }
        let purged = self.reported(families, delivered, began.elapsed());
        tracing::info!(
            target: "larder::admin",
            id = purged.id,
            token = by.token,
            peer = by.peer,
            tags = purged.tags.len(),
            families = purged.families.join(","),
            wait_ms = u64::try_from(purged.wait.as_millis()).unwrap_or(u64::MAX),
            delivered,
            complete = purged.is_complete,
            "purged"
        );
        purged
    }

    fn why(&self, by: &Operator) -> Why {
        let kind = if self.deploy.is_some() { OriginKind::Deploy } else { OriginKind::Purge };
        let (token, peer) = (by.token.clone(), by.peer.clone());
        let origin =
            InvalidationOrigin { token, peer, deploy: self.deploy.clone(), ..InvalidationOrigin::of(kind) };
        Why { entries: self.reach.as_ref().map(|reach| reach.entries), ..origin.into() }
    }

    /// What [`Purge::carry_out`] would do.
    pub fn preview(self, live: &Live) -> Purged {
        let families = self.families(live);
        self.reported(families, true, Duration::ZERO)
    }

    fn reported(self, families: BTreeSet<String>, delivered: bool, wait: Duration) -> Purged {
        Purged {
            id: random_id().into(),
            tags: self.tags,
            families: families.into_iter().collect(),
            reach: self.reach,
            mode: self.mode,
            left_out: self.left_out,
            is_complete: !self.is_cut,
            delivered,
            wait,
        }
    }
}

/// What of this tag the scope of a token does not cover, as a sentence part. A tag that cannot be said to be of a family is not covered.
fn outside(tag: &Tag, live: &Live, owners: &FamilyOwners, token: &OperatorToken) -> Option<String> {
    if *tag == Tag::root() {
        return Some("everything".to_owned());
    }
    if tag.as_str().starts_with("group ") {
        return Some("groups, which responses of any family may name".to_owned());
    }
    let families = reached(tag, live, owners);
    if families.contains(NO_FAMILY) {
        return Some("paths without a family".to_owned());
    }
    if families.is_empty() {
        return Some("tags without a family".to_owned());
    }
    let family = families.iter().find(|family| !token.may_change(family))?;
    Some(format!("family {family:?}"))
}

/// The families of which a tag reaches entries; `none` among them for a path that a read without a family may have.
fn reached(tag: &Tag, live: &Live, owners: &FamilyOwners) -> BTreeSet<String> {
    let text = tag.as_str();
    if let Some(path) = text.strip_prefix("uri:") {
        return families_at(live, path);
    }
    let is_named = tag.is_of_family() || tag.is_of_caller() || *tag == Tag::root();
    let named = if is_named { owners.reached(tag) } else { Vec::new() };
    named.into_iter().map(str::to_owned).collect()
}

/// The families that may claim this path, or `none` where a read of it has no family.
fn families_at(live: &Live, path: &str) -> BTreeSet<String> {
    let methods = [Method::GET, Method::POST, Method::from_bytes(b"QUERY").unwrap_or_default()];
    let claimed = |method: &Method| live.rules.route(method, path).map(|route| route.family.name.clone());
    let mut found: BTreeSet<String> = methods.iter().filter_map(claimed).collect();
    if claimed(&Method::GET).is_none() {
        found.insert(NO_FAMILY.to_owned());
    }
    found
}

fn invalidations(purge: &Purge) -> Invalidations {
    match purge.mode {
        PurgeMode::Hard => Invalidations { tags: purge.tags.clone(), ..Invalidations::default() },
        PurgeMode::Soft => {
            let soft = purge.tags.iter().cloned().map(|tag| SoftInvalidation { tag, grace: GRACE });
            Invalidations { soft: soft.collect(), ..Invalidations::default() }
        }
    }
}

/// A prefix of paths in the form that paths are stored in. None if it does not begin with `/`.
pub fn prefix(text: &str, case: PathCase) -> Option<PathSelector> {
    let path = case.fold(normalise(text)).into_owned();
    text.starts_with('/').then_some(PathSelector { text: path, is_prefix: true })
}

/// A glob of paths, in which `*` stands for any text. None if it does not begin with `/` or `*`.
pub fn glob(text: &str, case: PathCase) -> Option<PathSelector> {
    let text = case.fold(Cow::Borrowed(text)).into_owned();
    (text.starts_with('/') || text.starts_with('*')).then_some(PathSelector { text, is_prefix: false })
}

//! What a write invalidates. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::contents::Contents;
use crate::http::groups;
use crate::http::headers::{self, Meant};
use crate::http::invalidation::{self, StatusSet, WriteEnd};
use crate::http::target::Target;
use crate::key::PresentedCredentials;
use crate::marks::{SoftInvalidation, Tag};
use crate::rules::{CallerIdentity, MatchedRule, WriteValues};
use crate::running::Live;
use crate::store::fleet::{Again, Invalidations};

/// A write, as far as it determines what is invalidated.
#[derive(Clone, Copy)]
pub struct WriteScope<'w> {
    /// The rules in force when it began.
    pub began: &'w Live,
    /// The methods by which upstream may take it.
    pub methods: &'w Meant,
    /// The target URI, then the `Destination`.
    pub targets: &'w [Target],
    /// The fields of the request, and its bearer token as of when it began.
    pub presented: PresentedCredentials<'w>,
    /// Host names that upstream may use for itself. Few responses need them.
    pub hosts: &'w UpstreamHosts,
    /// The contents of the request and of its response.
    pub contents: &'w Contents,
}

/// Host names that upstream may use for itself: its addresses, and the `X-Forwarded-Host` that it received.
#[derive(Debug, Clone, Default)]
pub struct UpstreamHosts {
    own: Arc<[String]>,
    sent: Vec<HeaderValue>,
}

impl UpstreamHosts {
    /// For a request with these fields. `own`: upstream's addresses.
    pub fn of(own: &Arc<[String]>, sent: &HeaderMap) -> UpstreamHosts {
        let sent = sent.get_all(headers::X_FORWARDED_HOST).iter().cloned().collect();
        UpstreamHosts { own: Arc::clone(own), sent }
    }

    fn names(&self) -> Vec<String> {
        let sent = self.sent.iter().filter_map(|line| line.to_str().ok()?.split(',').next());
        let sent = sent.map(|host| host.trim().to_ascii_lowercase());
        self.own.iter().cloned().chain(sent).collect()
    }
}

impl<'w> WriteScope<'w> {
    /// The same write with what is known of its contents.
    pub fn with<'n>(self, contents: &'n Contents) -> WriteScope<'n>
    where
        'w: 'n,
    {
        WriteScope { contents, ..self }
    }

    /// The rules that match it, of those in force when it began.
    pub fn matches(self) -> Vec<MatchedRule<'w>> {
        self.matches_of(self.began)
    }

    /// The same and those in force now, if these are others: under them readers may have stored what the write invalidates.
    pub fn matches_until<'n>(self, now: &'n Live, matches: Vec<MatchedRule<'w>>) -> Vec<MatchedRule<'n>>
    where
        'w: 'n,
    {
        let mut matches: Vec<MatchedRule<'n>> = matches;
        if !std::ptr::eq(self.began, now) {
            matches.extend(self.matches_of(now));
        }
        matches
    }

    fn matches_of<'n>(self, live: &'n Live) -> Vec<MatchedRule<'n>> {
        let secret = self.began.redaction.secret.as_ref();
        let (presented, credentials) = (self.presented, &self.began.credentials);
        let values = WriteValues {
            caller: CallerIdentity::Known { presented, secret, credentials },
            query: self.targets.first().and_then(|target| target.query.as_deref()),
            content: &self.contents.request,
            response: &self.contents.response,
        };
        live.rules.invalidated_by_any(self.methods, self.targets, values)
    }

    /// What it invalidates; see [`invalidations`].
    pub fn invalidations(
        self,
        matches: &[MatchedRule<'_>],
        ended: (WriteEnd, &HeaderMap),
        may_follow: Option<Duration>,
    ) -> Invalidations {
        invalidations(self.targets, matches, ended, self.hosts, may_follow)
    }
}

/// What a write invalidates, given how it ended:
///
/// - the tags of all matching rules. Soft rules count as hard ones if the write has no response, since it may have been carried out;
/// - after a non-error response the target URI (the first of `targets`; the others are its destinations) and same-origin `Location` and
///   `Content-Location` (RFC 9111 §4.4);
/// - after a redirect to the login page what the rules name of the caller (`{identity}`);
/// - after a refusal that shows that a stored response is old, the target URI alone.
///
/// `hosts`: host names that upstream may use for itself. If upstream may carry the write out later, all is invalidated again after
/// `may_follow`.
pub fn invalidations(
    targets: &[Target],
    matches: &[MatchedRule<'_>],
    (end, answer): (WriteEnd, &HeaderMap),
    hosts: &UpstreamHosts,
    may_follow: Option<Duration>,
) -> Invalidations {
    let applying = || matches.iter().filter(|matched| matched.rule.on.applies(end));
    let grace_of = |matched: &MatchedRule<'_>| matched.rule.grace.filter(|_| end != WriteEnd::NoAnswer);
    let hard = applying().filter(|matched| grace_of(matched).is_none());
    let mut tags: Vec<Tag> = hard.flat_map(|matched| matched.tags.iter().cloned()).collect();
    if end == WriteEnd::ToLogin {
        // Its caller is logged out, by this write or before it.
        let named = matches.iter().flat_map(|matched| &matched.tags);
        tags.extend(named.filter(|tag| tag.is_of_caller()).cloned());
    }
    let is_done = StatusSet::default().applies(end);
    if is_done {
        tags.extend(targets.iter().flat_map(Target::tags));
    } else if invalidation::shows_old_copy(end) {
        tags.extend(targets.iter().take(1).flat_map(Target::tags));
    }
    if let Some(target) = targets.first().filter(|_| is_done) {
        for path in invalidation::named_paths(target, answer, || hosts.names()) {
            tags.extend(target.clone().at(&path).tags());
        }
        // RFC 9875 §3: of the same origin.
        tags.extend(groups::invalidated(answer).iter().map(|group| Tag::group(&target.host, group)));
    }
    tags.sort_unstable();
    tags.dedup();
    let soft = applying().filter_map(|matched| Some((matched, grace_of(matched)?)));
    let soft = soft_only(soft, &tags);
    let mut again = repetitions(applying());
    let all = tags.iter().chain(soft.iter().map(|soft| &soft.tag));
    if let Some(after) = may_follow.filter(|_| all.clone().next().is_some()) {
        again.entry(after).or_default().extend(all.cloned());
    }
    let again = again.into_iter().map(|(after, tags)| Again { after, tags: tags.into_iter().collect() });
    Invalidations { tags, soft, again: again.collect(), watched: Vec::new() }
}

/// The tags that only soft rules invalidate. Of several graces the shortest counts. `hard`: sorted.
fn soft_only<'m>(
    soft: impl Iterator<Item = (&'m MatchedRule<'m>, Duration)>,
    hard: &[Tag],
) -> Vec<SoftInvalidation> {
    let mut graces: BTreeMap<&Tag, Duration> = BTreeMap::new();
    for (matched, grace) in soft {
        for tag in matched.tags.iter().filter(|tag| hard.binary_search(tag).is_err()) {
            graces.entry(tag).and_modify(|known| *known = grace.min(*known)).or_insert(grace);
        }
    }
    graces.into_iter().map(|(tag, grace)| SoftInvalidation { tag: tag.clone(), grace }).collect()
}

/// The tags whose hottest entries are prefetched.
pub fn to_refresh(matches: &[MatchedRule<'_>], end: WriteEnd) -> Vec<Tag> {
    let applies = |matched: &&MatchedRule<'_>| matched.rule.on.applies(end);
    let refreshing = matches.iter().filter(applies).filter(|matched| matched.rule.refresh);
    refreshing.flat_map(|matched| matched.tags.iter().cloned()).collect()
}

/// Delayed re-invalidations: for each delay all tags of its rules.
fn repetitions<'m>(applying: impl Iterator<Item = &'m MatchedRule<'m>>) -> BTreeMap<Duration, BTreeSet<Tag>> {
    let mut by_time: BTreeMap<Duration, BTreeSet<Tag>> = BTreeMap::new();
    for matched in applying {
        if let Some(after) = matched.rule.again {
            by_time.entry(after).or_default().extend(matched.tags.iter().cloned());
        }
    }
    by_time
}

//! From a response of upstream to its entries: whether it may be stored, which fields are removed, and where the entries go.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, DATE, ETAG, LAST_MODIFIED, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::cache_request::CacheRequest;
use crate::cache::Placement;
use crate::coalesce::inflight::Head;
use crate::config::ServerConfig;
use crate::entry::{self, Content, Entry, Variant, VaryIndex};
use crate::http::clients::{self, Audience};
use crate::http::freshness::Freshness;
use crate::http::headers::{self, X_REQUEST_ID};
use crate::http::storable::{self, Reason, Received, RequestFacts, Storable};
use crate::http::vary::Vary;
use crate::http::{authorization, groups, targeted, validation};
use crate::key::{CacheKey, KeyHash};
use crate::marks::{MarksView, Stamp, Tag};
use crate::running::Running;
use crate::upkeep::stories::{Compared, NewEntry};

/// When a request was sent, and when the head of its answer came (RFC 9111 §4.2.3).
pub(super) type Times = (SystemTime, SystemTime);

/// A response to store, decided on.
pub(super) struct StoreVerdict {
    pub freshness: Freshness,
    pub for_credentials: bool,
    /// Fields that only the client that asked gets (RFC 9111 §5.2.2.4, §5.2.2.7).
    pub withheld: Vec<HeaderName>,
    /// Tags of the groups that the response names.
    pub groups: Vec<Tag>,
}

impl StoreVerdict {
    /// Everything that invalidates the response.
    pub fn tags(&self, request: &CacheRequest) -> Arc<[Tag]> {
        match &self.groups[..] {
            [] => Arc::clone(request.tags()),
            groups => request.tags().iter().chain(groups).cloned().collect(),
        }
    }

    /// Removes the fields that are not stored or shared. Returns them, for the client that asked.
    pub fn withhold(&self, fields: &mut HeaderMap) -> HeaderMap {
        let mut own = HeaderMap::new();
        for name in &self.withheld {
            own.extend(fields.get_all(name).iter().map(|value| (name.clone(), value.clone())));
            fields.remove(name);
        }
        own
    }
}

/// Whether an answer may be stored, and on which terms. `fields` are without those of the hop. `is_close_delimited`: its
/// end is that of the connection.
pub(super) fn judge(
    request: &CacheRequest,
    status: StatusCode,
    fields: &HeaderMap,
    is_close_delimited: bool,
    times: Times,
) -> Result<StoreVerdict, Reason> {
    judge_for(request, request.facts, status, fields, is_close_delimited, times)
}

/// The same of a stored response that upstream has confirmed. A request with `no-store` is answered with it too; the caller must not
/// store it.
pub(super) fn judge_confirmed(
    request: &CacheRequest,
    status: StatusCode,
    fields: &HeaderMap,
    times: Times,
) -> Result<StoreVerdict, Reason> {
    judge_for(request, RequestFacts { no_store: false, ..request.facts }, status, fields, false, times)
}

fn judge_for(
    request: &CacheRequest,
    facts: RequestFacts,
    status: StatusCode,
    fields: &HeaderMap,
    is_close_delimited: bool,
    times: Times,
) -> Result<StoreVerdict, Reason> {
    if request.family().is_some_and(|(family, _)| family.is_never_cached) {
        return Err(Reason::NeverCached);
    }
    if let Some(ttl) = request.verdict_ttl() {
        let freshness = match facts.no_store {
            true => return Err(Reason::RequestNoStore),
            false => authorization::kept(status, fields, ttl, times)?,
        };
        return Ok(StoreVerdict { freshness, for_credentials: true, withheld: Vec::new(), groups: Vec::new() });
    }
    if varies_on_this_hop(fields) {
        return Err(Reason::VaryStar);
    }
    // Other statuses of a POST tell of something that it has changed (RFC 9110 §9.3.3).
    if request.is_post() && !matches!(status.as_u16(), 200 | 404 | 410) {
        return Err(Reason::Status);
    }
    let named = groups::named(fields).map_err(|_| Reason::TooManyGroups)?;
    let (request_time, response_time) = times;
    let facts = RequestFacts { rate: request.rate(response_time), ..facts };
    let received = Received { status, headers: fields, is_close_delimited, request_time, response_time };
    match storable::storable(facts, received, &request.policy()) {
        Storable::Yes { freshness, for_credentials, mut withheld } => {
            // The id of one request is not that of those that hit its response.
            withheld.extend(fields.contains_key(X_REQUEST_ID).then_some(X_REQUEST_ID));
            let groups = group_tags(&request.client_request.target.host, &named);
            Ok(StoreVerdict { freshness, for_credentials, withheld, groups })
        }
        Storable::No(reason) => Err(reason),
    }
}

/// A group is invalidated by writes to its own origin (RFC 9875 §2.1), or by an operator under all of them.
fn group_tags(host: &str, names: &[String]) -> Vec<Tag> {
    names.iter().flat_map(|name| [Tag::group(host, name), Tag::group_anywhere(name)]).collect()
}

/// Whether a response varies on a field that Larder writes itself (`Via`, `X-Forwarded-…`). No request field can be keyed for it, so
/// that it counts as `Vary: *`.
pub(super) fn varies_on_this_hop(fields: &HeaderMap) -> bool {
    match Vary::parse(fields) {
        Vary::On(names) => names.iter().any(headers::is_of_this_hop),
        Vary::Nothing | Vary::Everything => false,
    }
}

/// RFC 9110 §6.6.1: a recipient that stores or forwards a response without `Date` adds the time of receipt.
pub(super) fn add_date(fields: &mut HeaderMap, received: SystemTime) {
    if !fields.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(received))
    {
        fields.insert(DATE, date);
    }
}

/// Whether [`strip_consumed`] has anything to remove. Determined once for each stored response.
pub(super) fn has_consumed(fields: &HeaderMap) -> bool {
    targeted::has_consumed(fields) || groups::has_any(fields)
}

/// Removes, on the way to a client, fields that are meant for Larder.
pub(super) fn strip_consumed(fields: &mut HeaderMap, server: &ServerConfig) {
    targeted::strip_consumed(fields);
    if !server.group_fields {
        groups::strip(fields);
    }
}

/// Where an entry is stored, and for how long.
pub(super) fn place(
    running: &Running,
    request: &CacheRequest,
    hash: KeyHash,
    response: &entry::Response,
) -> Placement {
    let may_have = [ETAG, LAST_MODIFIED].iter().any(|name| response.headers.get(name).is_some());
    let has_validator = may_have && validation::has_validator(&response.own_headers());
    let keep = response.freshness.keep_for(running.cache.now(), has_validator);
    Placement { hash, label: request.label(), keep, compress_above: request.compress_above() }
}

/// The stored variants of a request.
#[derive(Default)]
struct KnownVariants {
    variants: VaryIndex,
    /// At least one is not invalidated.
    is_current: bool,
}

/// The stored variants by memory, else by the request's lookup. `None` if none is stored any more.
fn known(
    running: &Running,
    primary: &CacheKey,
    vary_index: Option<&Entry>,
    view: Option<MarksView>,
) -> Option<KnownVariants> {
    let in_memory = running.cache.memory().varies_on(primary);
    let mut indexes = in_memory.as_deref().into_iter().chain(vary_index);
    let now = running.cache.now();
    indexes.find_map(|vary_index| {
        let variants = vary_index.vary_index().filter(|variants| variants.kept_until(now) > now)?.clone();
        let is_current = view.is_none_or(|view| view.is_current(vary_index.stamp));
        Some(KnownVariants { variants, is_current })
    })
}

/// The request fields that a stored response names in its `Vary`. Most name none.
fn named(response: &entry::Response) -> Vec<HeaderName> {
    let may_name = [VARY, CONTENT_ENCODING].iter().any(|name| response.headers.get(name).is_some());
    if may_name { Vary::parse(&response.headers.to_map(0)).into_names() } else { Vec::new() }
}

/// The fields that select the variant of a response: those that it varies on, and those that stored variants vary on. A response
/// without `Vary` is for requests with the same values of the fields that others name (RFC 9111 §4.1). `named`: by its own `Vary`, in
/// which `*` is never storable.
///
/// # Errors
///
/// The response would hide stored variants.
fn selecting_fields(
    known: Option<&KnownVariants>,
    is_error: bool,
    named: Vec<HeaderName>,
) -> Result<Vec<HeaderName>, Reason> {
    let Some(KnownVariants { variants, is_current }) = known else { return Ok(named) };
    match variants.widened(&named, is_error && *is_current) {
        Some(all) => Ok(all),
        None if !is_current => Ok(named),
        None => Err(Reason::VaryOther),
    }
}

/// The fields that select the variant of a response that has begun. `view`: read before the fetch.
pub(super) fn varies_on(
    running: &Running,
    primary: &CacheKey,
    (vary_index, view): (Option<&Entry>, Option<MarksView>),
    status: StatusCode,
    fields: &HeaderMap,
) -> Result<Vec<HeaderName>, Reason> {
    let is_error = status.is_client_error() || status.is_server_error();
    let named = Vary::parse(fields).into_names();
    selecting_fields(known(running, primary, vary_index, view).as_ref(), is_error, named)
}

/// Sets what clients and CDNs are told of their caches (`client_cache_control`, `cdn_cache_control`). Returns upstream's values if they were replaced.
pub(super) fn set_client_cache_control(
    request: &CacheRequest,
    status: StatusCode,
    fields: &mut HeaderMap,
) -> Option<Box<HeaderMap>> {
    let (family, _) = request.family()?;
    let (control, cdn) = (&family.client_cache_control, family.cdn_cache_control.as_ref());
    let audience = match request.is_personal() {
        _ if request.is_guarded() => Audience::Authorized,
        true => Audience::OneCaller,
        false => Audience::Everyone,
    };
    clients::tell(fields, status, control, cdn, audience).map(Box::new)
}

/// The head of a response that is shared and stored. `text`: the leader's key with the fields `varies_on`.
pub(super) fn head(
    running: &Running,
    text: String,
    varies_on: Vec<HeaderName>,
    stamp: Option<Stamp>,
    status: StatusCode,
    (headers, original_fields): (HeaderMap, Option<Box<HeaderMap>>),
    verdict: &StoreVerdict,
) -> Head {
    let (ttl, groups) = (verdict.freshness.ttl(running.cache.now()), verdict.groups.clone());
    let consumed = has_consumed(&headers);
    Head {
        consumed,
        original_fields,
        status,
        headers,
        varies_on,
        text,
        ttl,
        stored: stamp.is_some(),
        stamp,
        groups,
    }
}

/// A response with all of its body, about to be stored.
pub(super) struct CompleteResponse<'a> {
    pub request: &'a CacheRequest,
    /// The primary key.
    pub primary: &'a CacheKey,
    /// The vary index that the lookup found.
    pub vary_index: Option<&'a Entry>,
    /// Read before the fetch.
    pub stamp: Stamp,
    /// The marks at that time, if the fetch began with a lookup.
    pub view: Option<MarksView>,
    /// The lookup before the fetch found nothing under the primary key.
    pub found_nothing: bool,
    /// Everything that invalidates it.
    pub tags: Arc<[Tag]>,
    pub response: entry::Response,
}

/// Entries that are in memory and may go to Redis, that under the primary key first: a response, or a vary index and a variant.
/// None if the response would hide stored variants.
#[derive(Default)]
pub(super) struct StoredEntries {
    entries: Vec<(Arc<Entry>, Placement)>,
    /// Variants beyond `max_variants`.
    surplus: Vec<CacheKey>,
    /// Readable part of their names in Redis.
    label: String,
    /// The lookup before the fetch found nothing under the primary key.
    found_nothing: bool,
}

/// A response as it is stored.
pub(super) fn stored(head: &Head, verdict: &StoreVerdict, body: Bytes) -> entry::Response {
    let mut headers = head.headers.clone();
    // Both are computed for each response to a client.
    headers.remove(AGE);
    headers.remove(CONTENT_LENGTH);
    if head.original_fields.is_some() {
        clients::identify(&mut headers, &body);
    }
    let StoreVerdict { freshness, for_credentials, .. } = *verdict;
    entry::Response {
        consumed: has_consumed(&headers),
        status: head.status,
        original_fields: head.original_fields.as_deref().map(|fields| Box::new(fields.clone().into())),
        headers: headers.into(),
        body,
        freshness,
        for_credentials,
    }
}

impl CompleteResponse<'_> {
    /// Stores it in memory, unless it would hide stored variants. Also returns the entry of the response.
    pub fn store_in_memory(self, running: &Running) -> (Arc<Entry>, StoredEntries) {
        let CompleteResponse { request, primary, vary_index, stamp, view, found_nothing, tags, response } = self;
        // Another variant may have come since the lookup.
        let known = known(running, primary, vary_index, view);
        let named = named(&response);
        let Ok(on) = selecting_fields(known.as_ref(), response.is_error(), named.clone()) else {
            let text = primary.variant(&named, &request.client_request.headers).text;
            let entry = Entry::new(text, stamp, tags.iter(), Content::Response(response));
            return (Arc::new(entry), StoredEntries::default());
        };
        let place = place(running, request, primary.hash, &response);
        let (label, keep) = (place.label.clone(), place.keep);
        let put = |text: &str, tags: &[Tag], content, hash, keep| {
            let place = Placement { hash, keep, ..place.clone() };
            (running.cache.store_in_memory(Entry::new(text, stamp, tags, content), &place), place)
        };
        if on.is_empty() {
            let kept = put(&primary.text, &tags, Content::Response(response), primary.hash, keep);
            note_story(running, request, primary, (&kept.0, primary.hash), view);
            let entry = Arc::clone(&kept.0);
            return (entry, StoredEntries { entries: vec![kept], found_nothing, ..StoredEntries::default() });
        }
        let (now, variant) = (running.cache.now(), primary.variant(&on, &request.client_request.headers));
        let until = now.checked_add(keep).unwrap_or(now);
        let one = Variant { suffix: primary.suffix_of(&variant).into(), until };
        let (variants, surplus) =
            known.unwrap_or_default().variants.with(on, one, request.fetching().max_variants);
        // The index lives as long as the longest-lived variant: without it no variant is found. It has none of the groups of one
        // variant, so that a write to such a group leaves the others.
        let longest = variants.kept_until(now).duration_since(now).map_or(keep, |longest| longest.max(keep));
        let vary_index = put(&primary.text, request.tags(), Content::VaryIndex(variants), primary.hash, longest);
        let stored = put(&variant.text, &tags, Content::Response(response), variant.hash, keep);
        note_story(running, request, primary, (&stored.0, variant.hash), view);
        let surplus = surplus.iter().map(|variant| primary.with_suffix(&variant.suffix)).collect();
        (Arc::clone(&stored.0), StoredEntries { entries: vec![vary_index, stored], surplus, label, found_nothing })
    }
}

/// Notes for operators that a response is stored, and whether it is the same as the one before. `view`: the marks before its fetch.
fn note_story(
    running: &Running,
    request: &CacheRequest,
    primary: &CacheKey,
    (entry, hash): (&Entry, KeyHash),
    view: Option<MarksView>,
) {
    let Some(response) = entry.response().filter(|_| request.verdict_ttl().is_none()) else { return };
    let new = NewEntry {
        time: running.cache.now(),
        status: response.status.as_u16(),
        body: &response.body,
        stamp: entry.stamp,
        variant: entry.text.strip_prefix(primary.text.as_str()).unwrap_or(""),
        hits_before: running.cache.memory().hits(hash),
        tags: &entry.tags,
    };
    let is_invalidated = |before: Stamp| {
        let is_of_epoch = |view: &MarksView| view.stamp.epoch == before.epoch;
        view.filter(is_of_epoch).is_some_and(|view| !view.is_current(before))
    };
    let compared = running.stories.stored(primary.hash, &new, is_invalidated);
    if let Compared::AfterInvalidation { is_identical } = compared {
        running.metrics.refetched(request.family_name(), is_identical);
    }
}

impl StoredEntries {
    /// Stores the entries in Redis too, unless newer ones have replaced them, and removes surplus variants. True if all are there
    /// now.
    pub async fn share(self, running: &Running) -> bool {
        let mut is_shared = !self.entries.is_empty();
        let is_error =
            self.entries.iter().filter_map(|(entry, _)| entry.response()).any(entry::Response::is_error);
        for (index, (entry, place)) in self.entries.iter().enumerate() {
            let is_newest = !running.cache.memory().holds_newer(place.hash, entry);
            is_shared &= is_newest
                && match index {
                    0 => running.cache.store_shared_primary(entry, is_error, place, self.found_nothing).await,
                    _ => running.cache.store_shared(entry, place).await,
                };
        }
        for cache_key in &self.surplus {
            running.cache.remove(cache_key, &self.label).await;
        }
        is_shared
    }
}

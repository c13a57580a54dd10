//! From an answer of upstream to what is stored of it: the verdict, what is taken out, and the entries.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::cache_request::CacheRequest;
use super::fetch::FetchContext;
use crate::cache::Placement;
use crate::coalesce::inflight::Head;
use crate::config::Server;
use crate::entry::{self, Content, Entry, Variant, VaryIndex};
use crate::http::clients::{self, ClientCacheControl};
use crate::http::freshness::Freshness;
use crate::http::headers;
use crate::http::storable::{self, Reason, Received, RequestFacts, Storable};
use crate::http::vary::Vary;
use crate::http::{groups, targeted, validation};
use crate::key::{CacheKey, KeyHash};
use crate::marks::{MarksView, Stamp, Tag};
use crate::running::Running;

/// When a request was sent, and when the head of its answer came (RFC 9111 §4.2.3).
pub(super) type Times = (SystemTime, SystemTime);

/// A response to store, decided on.
pub(super) struct StoreVerdict {
    pub freshness: Freshness,
    pub for_credentials: bool,
    /// Fields for whoever asked alone (RFC 9111 §5.2.2.4, §5.2.2.7).
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

    /// Takes out what is not to be stored or shared; gives what the client that asked gets all the same.
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

/// The same of a stored response that upstream has confirmed. A request with `no-store` is answered with it too, so that
/// it need not be fetched whole: it is for the caller not to store it.
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
    if varies_on_this_hop(fields) {
        return Err(Reason::VaryStar);
    }
    let named = groups::named(fields).map_err(|_| Reason::TooManyGroups)?;
    let (request_time, response_time) = times;
    let received = Received { status, headers: fields, is_close_delimited, request_time, response_time };
    match storable::storable(facts, received, &request.policy()) {
        Storable::Yes { freshness, for_credentials, withheld } => {
            let groups = group_tags(&request.http.target.host, &named);
            Ok(StoreVerdict { freshness, for_credentials, withheld, groups })
        }
        Storable::No(reason) => Err(reason),
    }
}

/// A group is invalidated by writes to its own origin (RFC 9875 §2.1), or by an operator under all of them.
fn group_tags(host: &str, names: &[String]) -> Vec<Tag> {
    names.iter().flat_map(|name| [Tag::group(host, name), Tag::group_anywhere(name)]).collect()
}

/// A response that varies on what Larder itself tells upstream of the client: there is nothing to key that on, so
/// it counts as `*`.
pub(super) fn varies_on_this_hop(fields: &HeaderMap) -> bool {
    match Vary::parse(fields) {
        Vary::On(names) => names.iter().any(headers::is_of_this_hop),
        Vary::Nothing | Vary::Everything => false,
    }
}

/// RFC 9110 §6.6.1: who forwards or stores a response without `Date` records when it came.
pub(super) fn note_date(fields: &mut HeaderMap, received: SystemTime) {
    if !fields.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(received))
    {
        fields.insert(DATE, date);
    }
}

/// Whether there is anything for [`strip_consumed`] to take out, so that a hit need not look.
pub(super) fn has_consumed(fields: &HeaderMap) -> bool {
    targeted::has_consumed(fields) || groups::has_any(fields)
}

/// Takes out, on the way to a client, fields that are meant for Larder.
pub(super) fn strip_consumed(fields: &mut HeaderMap, server: &Server) {
    targeted::strip_consumed(fields);
    if !server.group_fields {
        groups::strip(fields);
    }
}

/// Where an entry is kept, and for how long.
pub(super) fn place(
    running: &Running,
    request: &CacheRequest,
    hash: KeyHash,
    freshness: &Freshness,
    fields: &HeaderMap,
) -> Placement {
    let keep = freshness.keep_for(running.cache.now(), validation::has_validator(fields));
    Placement { hash, label: request.label(), keep }
}

/// What is known of the variants of a request.
#[derive(Default)]
struct KnownVariants {
    variants: VaryIndex,
    /// Not all of them are invalidated, so that there is something that may be hidden.
    is_current: bool,
}

/// The same by memory, else by its lookup, whose marks are in `view`. Nothing once none of them is kept.
fn known(
    running: &Running,
    primary: &CacheKey,
    vary_index: Option<&Entry>,
    view: Option<MarksView>,
) -> Option<KnownVariants> {
    let resident = running.cache.memory().varies_on(primary);
    let mut signs = resident.as_ref().map(|resident| &*resident.entry).into_iter().chain(vary_index);
    let now = running.cache.now();
    signs.find_map(|vary_index| {
        let variants = vary_index.vary_index().filter(|variants| variants.kept_until(now) > now)?.clone();
        let is_current = view.is_none_or(|view| view.is_current(vary_index.stamp));
        Some(KnownVariants { variants, is_current })
    })
}

/// What tells a response apart from others: what it varies on, and what those that are kept vary on. One that does not say
/// what it varies on is for requests with the same values of the fields that others name (RFC 9111 §4.1). One that would
/// hide those that are kept is not to be stored.
fn told_apart_by(
    known: Option<&KnownVariants>,
    is_error: bool,
    fields: &HeaderMap,
) -> Result<Vec<HeaderName>, Reason> {
    // `*` is never storable, so it does not come here.
    let named = Vary::parse(fields).into_names();
    let Some(KnownVariants { variants, is_current }) = known else { return Ok(named) };
    match variants.widened(&named, is_error && *is_current) {
        Some(all) => Ok(all),
        None if !is_current => Ok(named),
        None => Err(Reason::VaryOther),
    }
}

/// The same, for who waits for the response. `view`: read before the fetch.
pub(super) fn varies_on(
    running: &Running,
    primary: &CacheKey,
    (vary_index, view): (Option<&Entry>, Option<MarksView>),
    status: StatusCode,
    fields: &HeaderMap,
) -> Result<Vec<HeaderName>, Reason> {
    let is_error = status.is_client_error() || status.is_server_error();
    told_apart_by(known(running, primary, vary_index, view).as_ref(), is_error, fields)
}

/// Tells clients what the family says of their own caches. Gives what upstream said, if they are told something else.
pub(super) fn tell_clients(request: &CacheRequest, fields: &mut HeaderMap) -> Option<Box<HeaderMap>> {
    let is_told = request.client_cache_control() == ClientCacheControl::NoCache;
    is_told.then(|| Box::new(clients::tell(fields)))
}

/// The head of a response as it is shared and stored: told apart from others by `varies_on`. `text`: of the request, keyed on that.
pub(super) fn head(
    running: &Running,
    text: String,
    varies_on: Vec<HeaderName>,
    stamp: Option<Stamp>,
    status: StatusCode,
    (headers, said): (HeaderMap, Option<Box<HeaderMap>>),
    verdict: &StoreVerdict,
) -> Head {
    let (ttl, groups) = (verdict.freshness.ttl(running.cache.now()), verdict.groups.clone());
    let consumed = has_consumed(&headers);
    Head { consumed, said, status, headers, varies_on, text, ttl, stored: stamp.is_some(), stamp, groups }
}

/// The head of an error of the server that is shared and not stored, told apart by what it says that it varies on.
pub(super) fn error_head(context: &FetchContext, status: StatusCode, mut headers: HeaderMap) -> Head {
    let said = tell_clients(&context.request, &mut headers);
    let varies_on = Vary::parse(&headers).into_names();
    let text = context.primary.variant(&varies_on, &context.request.http.headers).text;
    let (consumed, stamp) = (has_consumed(&headers), context.view.map(|view| view.stamp));
    Head { consumed, said, status, headers, varies_on, text, ttl: 0, stored: false, stamp, groups: Vec::new() }
}

/// A response with all of its body, about to be stored.
pub(super) struct CompleteResponse<'a> {
    pub request: &'a CacheRequest,
    /// The request as keyed without what responses vary on.
    pub primary: &'a CacheKey,
    /// What its lookup knew of its variants.
    pub vary_index: Option<&'a Entry>,
    /// Read before the fetch.
    pub stamp: Stamp,
    /// The marks at that time, if the fetch began with a lookup.
    pub view: Option<MarksView>,
    /// Everything that invalidates it.
    pub tags: Arc<[Tag]>,
    pub response: entry::Response,
}

/// Entries that are in memory and may go to the store, that under the question's own key first: a response, or the sign that
/// responses vary and one of them; none if the response would hide others.
#[derive(Default)]
pub(super) struct StoredEntries {
    entries: Vec<(Arc<Entry>, Placement)>,
    /// Variants that are too many.
    gone: Vec<CacheKey>,
    /// Readable part of their names in the store.
    label: String,
}

/// A response as it is stored.
pub(super) fn stored(head: &Head, verdict: &StoreVerdict, body: Bytes) -> entry::Response {
    let mut headers = head.headers.clone();
    // Worked out anew for each answer: how old it is, and how much of it is sent.
    headers.remove(AGE);
    headers.remove(CONTENT_LENGTH);
    if head.said.is_some() {
        clients::identify(&mut headers, &body);
    }
    let StoreVerdict { freshness, for_credentials, .. } = *verdict;
    entry::Response {
        consumed: has_consumed(&headers),
        status: head.status,
        said: head.said.clone(),
        headers,
        body,
        freshness,
        for_credentials,
    }
}

impl CompleteResponse<'_> {
    /// Keeps it in memory: from now on it is found, unless it would hide others. Gives the entry of the response too.
    pub fn store_in_memory(self, running: &Running) -> (Arc<Entry>, StoredEntries) {
        let CompleteResponse { request, primary, vary_index, stamp, view, tags, response } = self;
        // Another variant may have come since the lookup.
        let known = known(running, primary, vary_index, view);
        let Ok(on) = told_apart_by(known.as_ref(), response.is_error(), &response.headers) else {
            let named = Vary::parse(&response.headers).into_names();
            let text = primary.variant(&named, &request.http.headers).text.into();
            let entry = Entry { text, stamp, tags, content: Content::Response(response) };
            return (Arc::new(entry), StoredEntries::default());
        };
        let Placement { label, keep, .. } =
            place(running, request, primary.hash, &response.freshness, &response.own_headers());
        let put = |text: &str, tags, content, hash, keep| {
            let place = Placement { hash, label: label.clone(), keep };
            (running.cache.store_in_memory(Entry { text: text.into(), stamp, tags, content }, &place), place)
        };
        if on.is_empty() {
            let kept = put(&primary.text, tags, Content::Response(response), primary.hash, keep);
            return (Arc::clone(&kept.0), StoredEntries { entries: vec![kept], ..StoredEntries::default() });
        }
        let (now, variant) = (running.cache.now(), primary.variant(&on, &request.http.headers));
        let until = now.checked_add(keep).unwrap_or(now);
        let one = Variant { suffix: primary.suffix_of(&variant).into(), until };
        let (variants, gone) = known.unwrap_or_default().variants.with(on, one, request.fetching().max_variants);
        // Without the sign nobody would find those that are kept for longer, and a write to a group of one of them invalidates
        // none of the others.
        let longest = variants.kept_until(now).duration_since(now).map_or(keep, |longest| longest.max(keep));
        let vary_index =
            put(&primary.text, Arc::clone(request.tags()), Content::VaryIndex(variants), primary.hash, longest);
        let kept = put(&variant.text, tags, Content::Response(response), variant.hash, keep);
        let gone = gone.iter().map(|gone| primary.with_suffix(&gone.suffix)).collect();
        (Arc::clone(&kept.0), StoredEntries { entries: vec![vary_index, kept], gone, label })
    }
}

impl StoredEntries {
    /// Keeps it in the store too, unless a newer one has taken its place, and drops the variants that are too many. True
    /// if all of it is there now.
    pub async fn share(self, running: &Running) -> bool {
        let mut is_shared = !self.entries.is_empty();
        let is_error =
            self.entries.iter().filter_map(|(entry, _)| entry.response()).any(entry::Response::is_error);
        for (index, (entry, place)) in self.entries.iter().enumerate() {
            let is_newest = !running.cache.memory().holds_newer(place.hash, entry);
            is_shared &= is_newest
                && match index {
                    0 => running.cache.store_shared_primary(entry, is_error, place).await,
                    _ => running.cache.store_shared(entry, place).await,
                };
        }
        for cache_key in &self.gone {
            running.cache.remove(cache_key, &self.label).await;
        }
        is_shared
    }
}

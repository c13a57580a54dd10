//! Prefetch after a write (`refresh = true`): the hottest entries that an invalidation hits are fetched again before a client asks.
//! The fetches coalesce with those of clients. They run only while upstream has free places, so that no client waits for them.

use std::sync::Arc;
use std::time::Instant;

use http::header::FORWARDED;
use http::{HeaderName, Method};
use tokio::task::JoinSet;

use super::ClientRequest;
use super::cache_request::CacheRequest;
use super::fetch::{self, FetchContext};
use crate::cache::{Found, Lookup};
use crate::client::Client;
use crate::coalesce::inflight::FetchRole;
use crate::http::headers::{self, ForwardedPolicy, claims};
use crate::http::target::Target;
use crate::marks::Tag;
use crate::running::Running;
use crate::upkeep::hot::HotRead;

/// Most fetches after one invalidation. Invalidations that come while these run count as one.
const MOST: usize = 100;

/// Concurrent fetches.
const AT_A_TIME: usize = 4;

/// Counts a hit in a family whose hits are counted by request.
pub(super) fn count(running: &Running, request: &CacheRequest, lookup: &Lookup) {
    running.cache.hot().count(lookup.cache_key.hash, || repeatable(request, lookup));
}

/// The request to send again; `None` if it belongs to one caller.
fn repeatable(request: &CacheRequest, lookup: &Lookup) -> Option<HotRead> {
    let (family, _) = request.family()?;
    let is_personal = family.key_spec.identity.tells_callers_apart();
    let has_credentials = request.has_credentials();
    // Sent again, its fields would have other names.
    let is_renamed = !request.client_request.underscored.is_empty();
    // Whose credentials would the API authorize later?
    let is_guarded = request.is_guarded();
    if is_personal || is_guarded || has_credentials || is_renamed || request.client_request.method != Method::GET {
        return None;
    }
    let varies_on = lookup
        .vary_index
        .iter()
        .filter_map(|vary_index| vary_index.vary_index())
        .flat_map(|variants| variants.on.clone());
    let mut kept = family.keyed_fields();
    kept.extend(varies_on);
    let http = &request.client_request;
    if http.forwarded == ForwardedPolicy::Append {
        let is_keyed = |name: &&HeaderName| claims::is_keyed(name) || **name == FORWARDED;
        kept.extend(http.headers.keys().filter(is_keyed).cloned());
    }
    let mut fields = http.headers.clone();
    headers::keep_only(&mut fields, &kept);
    Some(HotRead {
        key: lookup.cache_key.hash,
        target: Target::clone(&http.target),
        headers: fields,
        client: http.client,
        tags: request.tags().to_vec(),
    })
}

/// Begins to prefetch the hottest entries with one of the tags.
pub(super) fn begin(running: &Arc<Running>, tags: &[Tag]) {
    if !tags.is_empty() && running.cache.hot().want(tags) {
        running.tasks.spawn(go_on(Arc::clone(running)));
    }
}

async fn go_on(running: Arc<Running>) {
    while let Some(tags) = running.cache.hot().take_wanted() {
        let looking = Arc::clone(&running);
        // Scans some thousand requests.
        let hottest = tokio::task::spawn_blocking(move || looking.cache.hot().hottest(&tags, MOST)).await;
        let mut under_way = JoinSet::new();
        for read in hottest.unwrap_or_default() {
            if under_way.len() >= AT_A_TIME {
                under_way.join_next().await;
            }
            if !running.upstream.has_room(Client::LARDER) {
                tracing::debug!("upstream has no free place; no prefetch");
                break;
            }
            // A shutdown waits for running fetches.
            if running.tasks.is_closed() {
                return;
            }
            under_way.spawn(refresh(Arc::clone(&running), read));
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// Fetches one entry, unless it is current again or being fetched.
async fn refresh(running: Arc<Running>, read: Arc<HotRead>) {
    let parts = (Method::GET, Arc::new(read.target.clone()), read.headers.clone());
    let forwarded = running.config.server.forwarded_from(read.client);
    let http = ClientRequest::without_connection(parts, read.client, forwarded);
    let request = Arc::new(CacheRequest::new(running.live(), http, None));
    let lookup = request.look_up(&running.cache).await;
    // The rules may have changed since it was counted.
    if lookup.cache_key.hash != read.key || request.is_personal() || request.is_guarded() {
        return;
    }
    let stale = match &lookup.found {
        Found::Invalidated | Found::OtherVariant | Found::Nothing if lookup.view.is_some() => None,
        Found::SoftInvalidated(entry) => Some(Arc::clone(entry)),
        // Fetched meanwhile; or Redis does not answer, and nothing could be stored.
        _ => return,
    };
    if let FetchRole::Lead(permit) = running.inflight.join(read.key, lookup.view.as_ref(), Instant::now()) {
        running.metrics.refreshes.inc();
        fetch::run(
            Arc::clone(&running),
            FetchContext::new(&request, Client::LARDER, &lookup, stale),
            permit,
            None,
        )
        .await;
    }
}

//! What a fetch needs to know: the request, its key, the marks before the fetch, and the stale response to validate.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::super::cache_request::CacheRequest;
use super::super::decide;
use crate::cache::memory::Hold;
use crate::cache::{Found, Lookup};
use crate::client::Client;
use crate::coalesce::fleet_lock::FleetLockGuard;
use crate::entry::Entry;
use crate::http::validation;
use crate::key::CacheKey;
use crate::marks::MarksView;
use crate::running::Running;

/// What a fetch needs to know.
pub struct FetchContext {
    pub request: Arc<CacheRequest>,
    /// The primary key: without the fields that responses vary on.
    pub primary: CacheKey,
    /// The key that was looked up: that of a variant, where responses vary. Requests with this key coalesce.
    pub cache_key: CacheKey,
    /// The marks before the fetch. A write during the fetch makes its response worthless.
    pub view: Option<MarksView>,
    /// The stale response: to be validated if `may_validate`, and served if upstream fails and that is allowed.
    pub stale: Option<Arc<Entry>>,
    may_validate: bool,
    /// A usable response that is no 5xx is stored: a 5xx must not replace it, whether or not this request may have it.
    pub has_good: bool,
    /// The vary index, where responses vary.
    pub vary_index: Option<Arc<Entry>>,
    /// The lookup found nothing under the primary key.
    pub found_nothing: bool,
    /// The leader's client, whose share of upstream the fetch takes.
    pub client: Client,
    /// Other proxies wait for the end of this fetch. Released at the latest when the context is dropped.
    pub fleet_lock: Option<FleetLockGuard>,
    /// Holds the marks of the tags until the stored entry holds them.
    _hold: Hold,
}

impl FetchContext {
    /// For a request that was looked up. `stale`: the stale response that was found.
    pub fn new(
        request: &Arc<CacheRequest>,
        client: Client,
        lookup: &Lookup,
        stale: Option<Arc<Entry>>,
    ) -> FetchContext {
        let Lookup { cache_key, vary_index, view, .. } = lookup;
        let (request, primary) = (Arc::clone(request), lookup.primary().clone());
        let (cache_key, vary_index) = (cache_key.clone(), vary_index.clone());
        let response = stale.as_ref().and_then(|stale| stale.response());
        let may_validate = response.is_some_and(|it| decide::may_validate(&request, &lookup.found, it));
        let has_good = match &lookup.found {
            Found::Current(entry) | Found::SoftInvalidated(entry) => {
                entry.response().is_some_and(|kept| !kept.status.is_server_error())
            }
            Found::Invalidated | Found::OtherVariant | Found::Nothing => false,
        };
        let found_nothing = matches!(lookup.found, Found::Nothing) && lookup.primary_key.is_none();
        let _hold = lookup.hold.clone();
        FetchContext {
            request,
            client,
            primary,
            cache_key,
            view: *view,
            stale,
            may_validate,
            has_good,
            vary_index,
            found_nothing,
            fleet_lock: None,
            _hold,
        }
    }

    /// The stored response whose validators the request carries, and no others.
    pub fn to_validate(&self) -> Option<&Entry> {
        self.stale.as_deref().filter(|_| self.may_validate)
    }

    /// The request fields that select the variant.
    pub fn keyed_on(&self) -> &[HeaderName] {
        let variants = self.vary_index.as_ref().and_then(|vary_index| vary_index.vary_index());
        variants.map_or(&[], |variants| &variants.on)
    }

    /// Announces the end of the fetch to other proxies. Only the first call counts.
    pub fn release_fleet_lock(&self, is_stored: bool) {
        if let Some(fleet_lock) = &self.fleet_lock {
            fleet_lock.end(is_stored);
        }
    }

    /// Removes the stale response, which upstream did not confirm and nothing replaces. It would be served when upstream fails.
    pub async fn remove_stale(&self, running: &Running) {
        if self.stale.as_ref().is_some_and(|stale| stale.response().is_some()) {
            running.cache.remove(&self.cache_key, &self.request.label()).await;
        }
    }

    /// Adds the stored response's validators as conditions (RFC 9111 §4.3.1).
    pub fn make_conditional(&self, fields: &mut HeaderMap) {
        if let Some(stored) = self.to_validate().and_then(Entry::response) {
            validation::make_conditional(fields, &stored.own_headers());
        }
    }
}

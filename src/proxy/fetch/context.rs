//! What a fetch is about: the question, where its answer belongs, and what there is to validate.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::super::cache_request::CacheRequest;
use crate::cache::memory::Hold;
use crate::cache::{Found, Lookup};
use crate::client::Client;
use crate::coalesce::fleet_lock::FleetLockGuard;
use crate::entry::{self, Entry};
use crate::http::validation;
use crate::key::CacheKey;
use crate::marks::MarksView;
use crate::running::Running;

/// What a fill needs to know.
pub struct FetchContext {
    pub request: Arc<CacheRequest>,
    /// The request as keyed without what responses vary on.
    pub primary: CacheKey,
    /// The request as looked up: its variant, where responses are known to vary. The flight flies under its key.
    pub cache_key: CacheKey,
    /// Read before the fetch: a write that lands meanwhile must win.
    pub view: Option<MarksView>,
    /// A stored response that may stand in for one that upstream does not give, and is to be validated if it
    /// [`is_telling`](FetchContext::is_telling).
    pub stale: Option<Arc<Entry>>,
    /// A 304 would mean what it says. After a soft invalidation a date may be of the very second of the write, and
    /// the same for what was before and after it.
    pub is_telling: bool,
    /// A usable response is kept that is no error of the server: such an error must not take its place, whether or not this
    /// request may have what is kept.
    pub has_good: bool,
    /// The sign that responses vary, where there is one.
    pub vary_index: Option<Arc<Entry>>,
    /// Whose share of upstream the fetch takes: the client's that leads it, however many wait for it.
    pub client: Client,
    /// Other proxies wait for what this stores; ends with the errand at the latest.
    pub fleet_lock: Option<FleetLockGuard>,
    /// The marks of its tags, until what it brings holds them itself.
    _hold: Hold,
}

impl FetchContext {
    /// To fetch what a lookup did not find, or to validate the stale response that it found.
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
        let is_soft_invalidated = matches!(lookup.found, Found::SoftInvalidated(_));
        let is_telling =
            !is_soft_invalidated || response.is_some_and(|it| validation::tells_every_change(&it.own_headers()));
        let has_good = match &lookup.found {
            Found::Current(entry) | Found::SoftInvalidated(entry) => {
                entry.response().is_some_and(|kept| !kept.status.is_server_error())
            }
            Found::Invalidated | Found::OtherVariant | Found::Nothing => false,
        };
        let _hold = lookup.hold.clone();
        FetchContext {
            request,
            client,
            primary,
            cache_key,
            view: *view,
            stale,
            is_telling,
            has_good,
            vary_index,
            fleet_lock: None,
            _hold,
        }
    }

    /// The stored response that a 304 is about: the request is made conditional with its validators, and with no others.
    pub fn to_validate(&self) -> Option<&Entry> {
        let stale = self.stale.as_deref().filter(|_| self.is_telling)?;
        let has_validator = |response: &entry::Response| validation::has_validator(&response.own_headers());
        stale.response().is_some_and(has_validator).then_some(stale)
    }

    /// The request fields beyond the question's own that `cache_key` is keyed on.
    pub fn keyed_on(&self) -> &[HeaderName] {
        let variants = self.vary_index.as_ref().and_then(|vary_index| vary_index.vary_index());
        variants.map_or(&[], |variants| &variants.on)
    }

    /// Other proxies need wait no longer. The first word on it stands.
    pub fn release_fleet_lock(&self, is_stored: bool) {
        if let Some(fleet_lock) = &self.fleet_lock {
            fleet_lock.end(is_stored);
        }
    }

    /// Removes the stored response that upstream has not confirmed, and in whose place nothing is stored: it would come back
    /// when upstream fails.
    pub async fn forget_stale(&self, running: &Running) {
        if self.stale.as_ref().is_some_and(|stale| stale.response().is_some()) {
            running.cache.remove(&self.cache_key, &self.request.label()).await;
        }
    }

    /// The request's conditions (RFC 9111 §4.3.1): those of the stored response.
    pub fn make_conditional(&self, fields: &mut HeaderMap) {
        if let Some(stored) = self.to_validate().and_then(Entry::response) {
            validation::make_conditional(fields, &stored.own_headers());
        }
    }
}

//! A stored response that a 304, or the response to a HEAD, confirms (RFC 9111 §4.3.4, §4.3.5).

use std::sync::Arc;

use http::header::AGE;
use http::{HeaderMap, HeaderName};

use super::super::storing::{self, CompleteResponse, StoredEntries, Times};
use super::context::FetchContext;
use crate::coalesce::inflight::{FetchOutcome, FetchPermit};
use crate::entry::{self, Content, Entry};
use crate::http::vary::Vary;
use crate::http::{clients, headers, validation};
use crate::marks::Tag;
use crate::running::Running;

/// A stored response that upstream has confirmed, with its new fields.
pub struct Confirmed {
    entry: Entry,
    tags: Arc<[Tag]>,
}

/// A message that does not confirm what is stored.
#[derive(Default)]
pub struct Unconfirmed {
    /// Request fields that its `Vary` names and the stored response's variant was not selected by.
    pub also_on: Vec<HeaderName>,
}

/// RFC 9111 §4.3.4: the stored response that a 304 selects, freshened, with the stamp of this fetch.
pub(super) fn confirmed(
    context: &FetchContext,
    answer: &HeaderMap,
    times: Times,
) -> Result<Confirmed, Unconfirmed> {
    let mut update = answer.clone();
    headers::strip_hop_by_hop(&mut update);
    let stale = context.to_validate().ok_or_else(Unconfirmed::default)?;
    let is_meant = stale.response().is_some_and(|stored| validation::selects(&update, &stored.own_headers()));
    if is_meant { freshened(context, stale, update, times) } else { Err(Unconfirmed::default()) }
}

/// A stored response with the fields of a message that confirms it: a 304, or the answer to a HEAD.
pub fn freshened(
    context: &FetchContext,
    stored: &Entry,
    mut update: HeaderMap,
    times: Times,
) -> Result<Confirmed, Unconfirmed> {
    let response = stored.response().ok_or_else(Unconfirmed::default)?;
    // RFC 9111 §4.1: the fields that it varies on are part of its key, which a 304 cannot change. A 304 that names fewer fields changes
    // nothing; one that names more shows that requests got this response that should not.
    let on = match Vary::of_lines(&update) {
        Vary::Everything => return Err(Unconfirmed::default()),
        on => on.into_names(),
    };
    let stored_on = Vary::parse(&response.headers.to_map(0)).into_names();
    let is_keyed = |name: &HeaderName| context.keyed_on().contains(name) || stored_on.contains(name);
    let also_on: Vec<_> = on.into_iter().filter(|name| !is_keyed(name)).collect();
    if !also_on.is_empty() {
        return Err(Unconfirmed { also_on });
    }
    let age = update.remove(AGE);
    let mut fields = validation::freshen(&response.own_headers(), &update);
    storing::add_date(&mut fields, times.1);
    let mut judged = fields.clone();
    age.into_iter().for_each(|age| drop(judged.insert(AGE, age)));
    // A 304 that says `no-store`, `private` or `Set-Cookie` is for one client: its response is fetched whole.
    let verdict = storing::judge_confirmed(&context.request, response.status, &judged, times);
    let verdict = verdict.map_err(|_| Unconfirmed::default())?;
    verdict.withhold(&mut fields);
    let original_fields = storing::set_client_cache_control(&context.request, response.status, &mut fields);
    if original_fields.is_some() {
        clients::identify(&mut fields, &response.body);
    }
    let (tags, consumed) = (verdict.tags(&context.request), storing::has_consumed(&fields));
    let (freshness, for_credentials) = (verdict.freshness, verdict.for_credentials);
    let response = entry::Response {
        headers: fields.into(),
        original_fields: original_fields.map(|fields| Box::new((*fields).into())),
        freshness,
        for_credentials,
        consumed,
        ..response.clone()
    };
    let stamp = context.view.map_or(stored.stamp, |view| view.stamp);
    let entry = Entry::new(context.cache_key.text.as_str(), stamp, tags.iter(), Content::Response(response));
    Ok(Confirmed { entry, tags })
}

impl Confirmed {
    /// Finishes the fetch with it, and stores it unless the request says `no-store` (RFC 9111 §5.2.1.5). True if it is in Redis.
    pub async fn store(self, running: &Running, context: &FetchContext, permit: &FetchPermit) -> bool {
        if context.view.is_none() || context.request.facts.no_store {
            permit.finish(FetchOutcome::Validated(Arc::new(self.entry)));
            return false;
        }
        let Some((entry, kept)) = self.store_in_memory(running, context) else { return false };
        permit.finish(FetchOutcome::Validated(entry));
        permit.close();
        kept.share(running).await
    }

    fn store_in_memory(self, running: &Running, context: &FetchContext) -> Option<(Arc<Entry>, StoredEntries)> {
        let FetchContext { request, primary, vary_index, view, .. } = context;
        let Confirmed { entry: Entry { stamp, content, .. }, tags } = self;
        let Content::Response(response) = content else { return None };
        let complete = CompleteResponse {
            request,
            primary,
            vary_index: vary_index.as_deref(),
            stamp,
            view: *view,
            found_nothing: false,
            tags,
            response,
        };
        Some(complete.store_in_memory(running))
    }

    /// Stores what the response to a HEAD has confirmed.
    pub async fn store_after_head(self, running: &Running, context: &FetchContext) {
        if !context.request.facts.no_store
            && let Some((_, kept)) = self.store_in_memory(running, context)
        {
            kept.share(running).await;
        }
    }
}

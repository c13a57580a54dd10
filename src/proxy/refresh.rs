//! `refresh = true`: after an invalidation, the hottest of what it has outdated is fetched again before anybody asks.
//! Fetches go by the flights and fills of reads, so that a client that asks meanwhile shares them. They never take a
//! client's place: they go on only while upstream has free ones.

use std::sync::Arc;
use std::time::Instant;

use http::header::FORWARDED;
use http::{HeaderName, Method, Version};
use tokio::task::JoinSet;

use super::Asked;
use super::errand::Errand;
use super::fill;
use super::question::Question;
use crate::cache::flight::Boarding;
use crate::cache::hot::Read;
use crate::cache::{Found, Lookup};
use crate::client::Client;
use crate::headers::{self, ForwardedPolicy, claims};
use crate::key::Identity;
use crate::running::Running;
use crate::stamp::Tag;

/// Fetches for one invalidation; invalidations that come while one is being refreshed count as one.
const MOST: usize = 100;

/// Fetches at a time.
const AT_A_TIME: usize = 4;

/// Counts a read that the cache has answered, if a rule may want it refreshed.
pub(super) fn count(running: &Running, question: &Question, lookup: &Lookup) {
    if question.family().is_some_and(|(family, _)| family.refreshed) {
        running.cache.hot().count(lookup.canonical.hash, || repeatable(question, lookup));
    }
}

/// What is needed to ask again; `None` for what is somebody's own.
fn repeatable(question: &Question, lookup: &Lookup) -> Option<Read> {
    let (family, _) = question.family()?;
    let is_personal = matches!(family.keying.identity, Identity::Header(_) | Identity::Cookie(_));
    let has_credentials = question.has_credentials();
    // Asked again, its fields would go by other names.
    let is_renamed = !question.asked.underscored.is_empty();
    if is_personal || has_credentials || is_renamed || question.asked.method != Method::GET {
        return None;
    }
    let varies_on = lookup.sign.iter().filter_map(|sign| sign.variants()).flat_map(|variants| variants.on.clone());
    let mut kept = family.keyed_fields();
    kept.extend(varies_on);
    let asked = &question.asked;
    if asked.forwarded == ForwardedPolicy::Append {
        let is_keyed = |name: &&HeaderName| claims::is_keyed(name) || **name == FORWARDED;
        kept.extend(asked.headers.keys().filter(is_keyed).cloned());
    }
    let mut fields = asked.headers.clone();
    headers::keep_only(&mut fields, &kept);
    Some(Read {
        key: lookup.canonical.hash,
        target: asked.target.clone(),
        headers: fields,
        client: asked.client,
        tags: question.tags().to_vec(),
    })
}

/// Begins to refresh what is hottest among all that carries one of the tags.
pub(super) fn begin(running: &Arc<Running>, tags: &[Tag]) {
    if !tags.is_empty() && running.cache.hot().want(tags) {
        running.tasks.spawn(go_on(Arc::clone(running)));
    }
}

async fn go_on(running: Arc<Running>) {
    while let Some(tags) = running.cache.hot().take_wanted() {
        let looking = Arc::clone(&running);
        // A walk over some thousand reads.
        let hottest = tokio::task::spawn_blocking(move || looking.cache.hot().hottest(&tags, MOST)).await;
        let mut under_way = JoinSet::new();
        for read in hottest.unwrap_or_default() {
            if under_way.len() >= AT_A_TIME {
                under_way.join_next().await;
            }
            if !running.upstream.has_room(Client::LARDER) {
                tracing::debug!("upstream has no free place: what is outdated waits for who asks for it");
                break;
            }
            // A shutdown waits for all that is under way.
            if running.tasks.is_closed() {
                return;
            }
            under_way.spawn(refresh(Arc::clone(&running), read));
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// Fetches one, unless somebody has since, or is at it.
async fn refresh(running: Arc<Running>, read: Arc<Read>) {
    let asked = Asked {
        method: Method::GET,
        target: read.target.clone(),
        headers: read.headers.clone(),
        version: Version::HTTP_11,
        client: read.client,
        forwarded: running.config.server.forwarded_from(read.client),
        trailers: false,
        interim: None,
        credentials: false,
        underscored: Vec::new(),
        connection: None,
    };
    let question = Question::new(running.live(), asked, None);
    let primary = question.canonical();
    let fields = &question.asked.headers;
    let lookup =
        running.cache.lookup(primary.clone(), fields, || question.label(), || Arc::clone(question.tags())).await;
    // The rules may have changed since it was counted.
    if lookup.canonical.hash != read.key || question.is_personal() {
        return;
    }
    let stale = match &lookup.found {
        Found::Outdated | Found::OtherVariant | Found::Nothing if lookup.view.is_some() => None,
        Found::Softened(entry) => Some(Arc::clone(entry)),
        // Refreshed meanwhile; or the store is away, and nothing could be stored.
        _ => return,
    };
    if let Boarding::Lead(permit) = running.flights.board(read.key, lookup.view.as_ref(), Instant::now()) {
        running.metrics.refreshes.inc();
        fill::fill(
            Arc::clone(&running),
            Errand::new(&question, Client::LARDER, primary, &lookup, stale),
            permit,
            None,
        )
        .await;
    }
}

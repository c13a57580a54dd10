//! What a fetch is about: the question, where its answer belongs, and what there is to validate.

use std::sync::Arc;

use http::HeaderMap;
use http::header::IF_NONE_MATCH;

use super::keep;
use super::question::Question;
use crate::cache::claim::Held;
use crate::cache::memory::Hold;
use crate::cache::{Found, Lookup};
use crate::entry::{Entry, Variant};
use crate::key::Canonical;
use crate::running::Running;
use crate::semantics::validation;
use crate::stamp::View;

/// How many entity tags of other variants a validation names.
const OTHER_TAGS: usize = 16;

/// What a fill needs to know.
pub(super) struct Errand {
    pub question: Arc<Question>,
    /// The request as keyed without what responses vary on.
    pub primary: Canonical,
    /// The request as looked up: its variant, where responses are known to vary. The flight flies under its key.
    pub canonical: Canonical,
    /// Read before the fetch: a write that lands meanwhile must win.
    pub view: Option<View>,
    /// A stored response that may stand in for one that upstream does not give, and is to be validated if it
    /// [`is_telling`](Errand::is_telling).
    pub stale: Option<Arc<Entry>>,
    /// A 304 would mean what it says. After a soft invalidation a date may be of the very second of the write, and
    /// the same for what was before and after it.
    pub is_telling: bool,
    /// The sign that responses vary, where there is one.
    pub sign: Option<Arc<Entry>>,
    /// Other proxies wait for what this stores; ends with the errand at the latest.
    pub claim: Option<Held>,
    /// The marks of its tags, until what it brings holds them itself.
    _hold: Hold,
}

impl Errand {
    /// To fetch what a lookup did not find, or to validate the stale response that it found.
    pub fn new(
        question: &Arc<Question>,
        primary: Canonical,
        lookup: &Lookup,
        stale: Option<Arc<Entry>>,
    ) -> Errand {
        let Lookup { canonical, sign, view, .. } = lookup;
        let (question, canonical, sign) = (Arc::clone(question), canonical.clone(), sign.clone());
        let response = stale.as_ref().and_then(|stale| stale.response());
        let is_softened = matches!(lookup.found, Found::Softened(_));
        let is_telling = !is_softened || response.is_some_and(|it| validation::tells_every_change(&it.headers));
        let _hold = lookup.hold.clone();
        Errand { question, primary, canonical, view: *view, stale, is_telling, sign, claim: None, _hold }
    }

    /// Whether there is anything that a 304 could be about.
    pub fn is_conditional(&self) -> bool {
        self.to_validate().is_some() || self.other_variants().next().is_some()
    }

    /// The stored response that a 304 may be about.
    pub fn to_validate(&self) -> Option<&Arc<Entry>> {
        self.stale.as_ref().filter(|_| self.is_telling)
    }

    /// Variants for other requests than this one, the newest first. Upstream may choose one of them for this request
    /// too, and then need not send it (RFC 9111 §4.3.1). None for a request with credentials that the rules say nothing
    /// of: the entries may not be for it.
    pub fn other_variants(&self) -> impl Iterator<Item = &Variant> {
        let sign = self.sign.as_ref().filter(|_| !self.question.is_personal());
        let known = sign.and_then(|sign| sign.variants()).map_or(&[][..], |variants| &variants.known);
        let own = self.primary.suffix_of(&self.canonical).to_owned();
        let others = known.iter().rev().filter(move |known| known.etag.is_some() && *known.suffix != *own);
        others.take(OTHER_TAGS)
    }

    /// Other proxies need wait no longer. The first word on it stands.
    pub fn end_claim(&self, is_stored: bool) {
        if let Some(claim) = &self.claim {
            claim.end(is_stored);
        }
    }

    /// Removes the stored response that upstream has not confirmed, and in whose place nothing is stored: it would come back
    /// when upstream fails.
    pub async fn forget_stale(&self, running: &Running) {
        if let Some(stored) = self.stale.as_ref().and_then(|stale| stale.response()) {
            let place = keep::place(&self.question, self.canonical.key, &stored.freshness, &stored.headers);
            running.cache.remove(&place).await;
        }
    }

    /// The request's conditions (RFC 9111 §4.3.1): those of the stored response, and the entity tags of other variants
    /// beside its own. A stored response with a date alone is asked for by that: entity tags would take its place.
    pub fn make_conditional(&self, fields: &mut HeaderMap) {
        let stored = self.to_validate().and_then(|stale| stale.response());
        let mut others = self.other_variants().filter_map(|variant| variant.etag.as_ref()).peekable();
        if let Some(stored) = stored {
            validation::make_conditional(fields, &stored.headers);
        }
        let own = fields.get(IF_NONE_MATCH).cloned();
        if others.peek().is_some() && (stored.is_none() || own.is_some()) {
            validation::make_conditional_on(fields, own.iter().chain(others));
        }
    }
}

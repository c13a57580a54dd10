//! A read (GET, HEAD or QUERY) together with what the rules say of it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, RANGE};
use http::{Method, Response};

use super::{Answered, Asked, Body};
use crate::config::Config;
use crate::entry::{self, Entry};
use crate::headers::ForwardedPolicy;
use crate::key::{self, Canonical};
use crate::outcome::Outcome;
use crate::rules::{self, Ambiguity, Captures, Collapse, Family, Fetching};
use crate::running::{Live, Running};
use crate::semantics::demands::Demands;
use crate::semantics::freshness::{Failure, Reuse};
use crate::semantics::storable::RequestFacts;
use crate::semantics::{ClientDirectives, Policy, negotiation};
use crate::stamp::Tag;

/// A read with what the rules say of it.
pub(super) struct Question {
    pub asked: Asked,
    live: Arc<Live>,
    family: Option<(usize, Captures)>,
    pub facts: RequestFacts,
    pub demands: Demands,
    /// Content of a QUERY.
    pub content: Option<Bytes>,
}

impl Question {
    /// What the rules say of a request. Its fields are brought into the form that the family asks for, before they
    /// are keyed or sent: what the key holds is what upstream sees.
    pub fn new(live: Arc<Live>, mut asked: Asked, content: Option<Bytes>) -> Arc<Question> {
        let claimed = live.rules.claim(&asked.method, &asked.target.path);
        let directives =
            claimed.as_ref().map_or_else(ClientDirectives::default, |it| it.family.policy.client_directives);
        rules::strip_read(&mut asked.headers, claimed.as_ref().map(|claimed| claimed.family));
        for name in claimed.iter().flat_map(|claimed| &claimed.family.fetching.normalize) {
            negotiation::normalise(name, &mut asked.headers);
        }
        let family = claimed.map(|claimed| (claimed.family.id, claimed.captures));
        let demands = Demands::of(&asked.headers, directives);
        let facts = RequestFacts {
            authorization: asked.headers.contains_key(AUTHORIZATION),
            cookie: asked.headers.contains_key(COOKIE),
            no_store: demands.no_store,
        };
        Arc::new(Question { asked, live, family, facts, demands, content })
    }

    /// How the family asks upstream.
    pub fn fetching(&self) -> Fetching {
        self.family().map_or_else(Fetching::default, |(family, _)| family.fetching.clone())
    }

    /// The family that claims the path, with the values of its captures.
    pub fn family(&self) -> Option<(&Family, &Captures)> {
        let (id, captures) = self.family.as_ref()?;
        Some((self.live.rules.families().get(*id)?, captures))
    }

    /// Id of the family, for its counters.
    pub fn family_id(&self) -> Option<usize> {
        self.family.as_ref().map(|(id, _)| *id)
    }

    /// What the family says about storing; plain RFC 9111 without one.
    pub fn policy(&self) -> Policy {
        let policy = self.family().map_or_else(Policy::default, |(family, _)| family.policy.clone());
        Policy { identity_stated: self.identity_stated(), ..policy }
    }

    /// Whether the rules tell whose answer this is. A family that goes by a field or a cookie does not say so of a
    /// request without it that carries other credentials.
    fn identity_stated(&self) -> bool {
        let identity = self.family().map(|(family, _)| &family.keying.identity);
        identity.is_some_and(|identity| identity.is_stated() && identity.is_known(&self.asked.headers))
    }

    /// A QUERY that no family names: it is forwarded, and its answer not kept.
    pub fn is_unclaimed_query(&self) -> bool {
        self.content.is_some() && self.family.is_none()
    }

    /// The largest body that is stored, bytes.
    pub fn max_body(&self, running: &Running) -> u64 {
        self.max_body_under(&running.config)
    }

    /// The same, by this configuration.
    pub fn max_body_under(&self, config: &Config) -> u64 {
        self.family().and_then(|(family, _)| family.max_body).unwrap_or(config.memory.max_body)
    }

    /// Everything that outdates the answer, as far as the request tells: under every reading of its path.
    pub fn tags(&self) -> Vec<Tag> {
        let mut tags = vec![Tag::root()];
        tags.extend(self.asked.target.tags());
        tags.extend(self.family().map(|(family, _)| family.tags_of(&self.asked.target)).unwrap_or_default());
        tags
    }

    /// Why it is not certain what upstream takes the path for. The proxy does not look into the cache for such a request.
    pub fn ambiguity(&self) -> Option<Ambiguity<'_>> {
        self.live.rules.ambiguity(&self.asked.method, &self.asked.target)
    }

    /// Readable part of the entry's name in the store.
    pub fn label(&self) -> String {
        self.family().map_or_else(|| "-".to_owned(), |(family, captures)| family.label(captures))
    }

    /// The request as it is keyed, without what responses vary on.
    pub fn canonical(&self, forwarded: ForwardedPolicy) -> Canonical {
        let keying = self.family().map(|(family, _)| family.keying());
        let canonical = key::derive(&self.asked.target, &self.asked.headers, keying, self.live.secret.as_ref());
        let canonical = match &self.content {
            Some(content) => canonical.querying(content, &self.asked.headers),
            None => canonical,
        };
        match forwarded {
            // Not keyed anew where nothing is added: this is the hit path.
            ForwardedPolicy::Set | ForwardedPolicy::Off => canonical,
            ForwardedPolicy::Append => canonical.behind(forwarded, &self.asked.headers),
        }
    }

    /// The request carries credentials, and the rules do not say whose answer it is: only responses that RFC 9111
    /// §3.5 lets a shared cache give to everyone may answer it, and nobody else shares its fetch.
    pub fn is_personal(&self) -> bool {
        (self.facts.authorization || self.facts.cookie) && !self.identity_stated()
    }

    /// What is missing is fetched once for all proxies, and what one of them has fetched just now will do for this request.
    pub fn collapses_across_proxies(&self) -> bool {
        let is_asked_for = self.family().is_some_and(|(family, _)| family.collapse == Collapse::Fleet);
        is_asked_for && !self.demands.validated
    }

    /// What another proxy has fetched answers this as it is, without asking upstream.
    pub fn is_answered_by(&self, entry: &Entry, now: SystemTime) -> bool {
        let response = entry.response().filter(|response| !self.is_refused(response));
        let reuse = response.map(|response| response.freshness.reuse(now, &self.demands));
        matches!(reuse, Some(Reuse::Fresh { .. }))
    }

    /// What is stored is for requests without credentials, and this one has some. RFC 9111 §3.5 is about answers *to*
    /// credentials; that other answers are not given to requests with credentials either is our own caution: upstream
    /// might have said something else to this caller.
    pub fn is_refused(&self, stored: &entry::Response) -> bool {
        self.is_personal() && !stored.for_credentials
    }

    /// What is stored may stand in for an upstream that failed so, by its own word and that of this request.
    pub fn takes_after(&self, failure: Failure, stored: &Entry, now: SystemTime) -> bool {
        let freshness = stored.response().map(|response| &response.freshness);
        freshness.is_some_and(|it| it.usable_after(failure, now, &self.demands))
    }

    /// It asks for a part of what a GET would get (RFC 9110 §14.2).
    pub fn is_for_range(&self) -> bool {
        self.asked.method == Method::GET && self.asked.headers.contains_key(RANGE)
    }

    /// An answer that counts for the family.
    pub fn answered(&self, response: Response<Body>, outcome: Outcome) -> Answered {
        Answered { response, outcome, family: self.family_id() }
    }
}

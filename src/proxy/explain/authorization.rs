//! Explains what comes before the decision in a family with `authorize`: the check of the caller, and what is stored of the API's answer.

use std::time::SystemTime;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::super::cache_request::CacheRequest;
use super::super::decide::{Decision, MissReason, decide};
use super::Explainer;
use crate::cache::{Cache, Lookup};
use crate::http::authorization::Authorization;

/// The check of a caller, and what the API has said of it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuthorizationExplanation {
    /// What the API is asked: `GET http://api.example/auth/check with authorization`.
    pub check: String,
    /// The key of its answer.
    pub key: String,
    /// `granted`, `refused`, or `not stored`: the API is asked first.
    pub verdict: String,
    /// Seconds for which the verdict still counts.
    pub ttl: Option<i64>,
}

impl Explainer<'_> {
    /// What the API is asked of the caller first.
    pub(super) fn about_authorization(&self) -> Option<String> {
        let authorize = self.request.family()?.0.authorize.as_ref()?;
        let check = self.request.check()?;
        Some(format!(
            "before a stored response is used or a fetch is shared, the API is asked {}; its 2xx, 401 or 403 counts for {} for \
             requests with the same credentials, unless it says no-store (authorize); other callers get the API's own answer",
            described(&check),
            humantime::format_duration(authorize.ttl)
        ))
    }

    /// What is stored of the API's answer to the check.
    pub(super) async fn authorization(&self, cache: &Cache) -> Option<AuthorizationExplanation> {
        let check = self.request.check()?;
        let (check_text, key) = (described(&check), check.cache_key());
        let explainer =
            Explainer { config: self.config, live: self.live.clone(), removed: Vec::new(), request: check };
        let lookup: Lookup = explainer.tiers(cache, &key).await.lookup(key.clone(), false);
        let (verdict, ttl) = explainer.stored_verdict(&lookup, cache.now());
        Some(AuthorizationExplanation {
            check: check_text,
            key: key.key().to_string(),
            verdict: verdict.map_or("not stored", Authorization::label).to_owned(),
            ttl,
        })
    }

    fn stored_verdict(&self, lookup: &Lookup, now: SystemTime) -> (Option<Authorization>, Option<i64>) {
        match (decide(&self.request, lookup, now), lookup.entry().and_then(|entry| entry.response())) {
            (Decision::Serve { ttl }, Some(stored)) => (Some(Authorization::of(stored.status)), Some(ttl)),
            _ => (None, None),
        }
    }
}

impl AuthorizationExplanation {
    /// The decision on the request of this caller, given that on one of an authorized caller.
    pub(super) fn restrict(&self, decision: Decision, is_only_if_cached: bool) -> Decision {
        let reason = match self.verdict.as_str() {
            "refused" => MissReason::Unauthorized,
            "granted" => return decision,
            _ if is_only_if_cached => MissReason::AuthorizationUnknown,
            _ => return decision,
        };
        if is_only_if_cached { Decision::Refuse(reason) } else { Decision::Forward(reason) }
    }

    /// Whether the API has to be asked before the decision.
    pub(super) fn is_asked_first(&self) -> bool {
        self.verdict == "not stored"
    }
}

fn described(check: &CacheRequest) -> String {
    let target = &check.client_request.target;
    let names: Vec<&str> = check.credential_names().map(HeaderName::as_str).collect();
    let names = if names.is_empty() { "no credentials".to_owned() } else { names.join(", ") };
    format!("GET {}://{}{} with {names}", target.scheme, target.host, target.path_and_query())
}

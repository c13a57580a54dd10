//! `Larder-Debug`: a client that sends an operator's token in it gets an explanation of its response in the same field of the response:
//! what the rules say of the request, what came of it, and of a write what it invalidated. Of an upstream failure it also gets the
//! cause, in the body of the 502 or 504. Other clients get nothing. The field is never sent to upstream, and is no part of a key.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Method, Response};
use serde_json::{Map, Value, json};

use super::Body;
use super::explain::Explainer;
use crate::client::Client;
use crate::http::headers::{LARDER_DEBUG, is_safe};
use crate::http::target::Target;
use crate::outcome::Outcome;
use crate::running::{Live, Running};
use crate::tokens::TokenTurn;
use crate::upkeep::invalidation_log::InvalidationRecord;
use crate::upstream::{LastFailure, UpstreamError};

/// Longest explanation, bytes: some clients and proxies take fields of 8 KiB in all.
const LONGEST: usize = 4096;

/// Fields of an explanation, in the order in which they are left out if it is too long.
const LEFT_OUT: [&str; 7] = ["notes", "invalidated_by", "key_text", "tags", "instance", "ttl", "receipt"];

/// A token that was sent, its client, and the request.
pub(super) struct Debug {
    pub token: HeaderValue,
    pub client: Client,
    pub method: Method,
    pub target: Arc<Target>,
    pub fields: HeaderMap,
}

/// What happened to a request, as the explanation says it.
pub(super) struct OutcomeText {
    outcome: &'static str,
    cache_status: String,
}

impl From<&Outcome> for OutcomeText {
    fn from(outcome: &Outcome) -> OutcomeText {
        OutcomeText { outcome: outcome.kind.label(), cache_status: outcome.to_string() }
    }
}

impl Debug {
    /// Adds the explanation to the response, if the token is valid. A client that has sent too many wrong tokens waits before this one
    /// is checked, and one with too many requests that wait gets no explanation ([`TokenTurn`]).
    pub async fn explain(
        self: Box<Self>,
        running: &Running,
        live: &Arc<Live>,
        outcome: OutcomeText,
        response: &mut Response<Body>,
    ) {
        let error = response.extensions_mut().remove::<UpstreamError>();
        let record = response.extensions_mut().remove::<Arc<InvalidationRecord>>();
        if running.tokens.is_empty() {
            return;
        }
        match running.debug_wrong_tokens.turn(self.client, Instant::now()) {
            TokenTurn::Now => {}
            TokenTurn::After(wait) => tokio::time::sleep(wait).await,
            TokenTurn::Refused(_) => return,
        }
        if !self.is_known(running) {
            return;
        }
        if let Some(failure) = error.and_then(|error| running.upstream.last_failure_of(error)) {
            add_failure(response, &failure);
        }
        let explanation = self.explanation(running, live, &outcome, record.as_deref());
        if let Ok(value) = HeaderValue::try_from(bounded(explanation)) {
            response.headers_mut().insert(LARDER_DEBUG, value);
            // RFC 9111 §5.2.2.7: no shared cache may give the field to others.
            response.headers_mut().append(CACHE_CONTROL, HeaderValue::from_static("private=\"larder-debug\""));
        }
    }

    fn is_known(&self, running: &Running) -> bool {
        let known = self.token.to_str().ok().and_then(|token| running.tokens.find(token.trim()));
        let (wrong, now) = (&running.debug_wrong_tokens, Instant::now());
        if known.is_some() {
            wrong.note_right(self.client);
            return true;
        }
        running.metrics.admin_wrong_tokens.inc();
        wrong.note_wrong(self.client, now);
        if let Some(unlogged) = wrong.may_log(now) {
            tracing::warn!(unlogged, "a request with a token in Larder-Debug that is not known");
        }
        false
    }

    fn explanation(
        &self,
        running: &Running,
        live: &Arc<Live>,
        outcome: &OutcomeText,
        record: Option<&InvalidationRecord>,
    ) -> Map<String, Value> {
        let mut explanation = Map::new();
        explanation.insert("outcome".to_owned(), outcome.outcome.into());
        explanation.insert("cache_status".to_owned(), outcome.cache_status.as_str().into());
        if live.rules.is_write(&self.method, &self.target) || !is_safe(&self.method) && record.is_some() {
            let receipt = record.map_or_else(|| json!({ "invalidated": "nothing" }), receipt);
            explanation.insert("receipt".to_owned(), receipt);
            return explanation;
        }
        if !Explainer::may_be_read(&self.method) {
            return explanation;
        }
        let (target, fields) = (Target::clone(&self.target), self.fields.clone());
        let explainer = Explainer::of(&running.config, Arc::clone(live), self.method.clone(), target, fields);
        // Every field of it can be written as JSON.
        if let Ok(Value::Object(claim)) = serde_json::to_value(explainer.claim()) {
            let is_new = |name: &String| !matches!(name.as_str(), "method" | "path" | "store_key");
            explanation.extend(claim.into_iter().filter(|(name, _)| is_new(name)));
        }
        explanation
    }
}

/// What a write has invalidated, and why.
fn receipt(record: &InvalidationRecord) -> Value {
    let InvalidationRecord { id, rule, further_rules, tags, tags_left_out, families, mode, wait_ms, .. } = record;
    let rules: Vec<_> = rule.iter().chain(further_rules).collect();
    json!({
        "id": id, "rules": rules, "tags": tags, "tags_left_out": tags_left_out, "families": families, "mode": mode,
        "wait_ms": wait_ms, "delivered": record.sequence > 0,
    })
}

/// The explanation as the value of a field. What makes it too long is left out.
fn bounded(mut explanation: Map<String, Value>) -> String {
    let mut text = ascii(&Value::Object(explanation.clone()).to_string());
    for name in LEFT_OUT {
        if text.len() <= LONGEST {
            break;
        }
        if explanation.remove(name).is_some() {
            explanation.insert("left_out".to_owned(), true.into());
            text = ascii(&Value::Object(explanation.clone()).to_string());
        }
    }
    if text.len() <= LONGEST { text } else { r#"{"left_out":true}"#.to_owned() }
}

/// JSON in printable ASCII (RFC 8259 §7).
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            text.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

fn add_failure(response: &mut Response<Body>, failure: &LastFailure) {
    let Body::Whole(content) = response.body() else { return };
    let Ok(mut content) = serde_json::from_slice::<Value>(content) else { return };
    content["last_failure"] = json!(failure);
    *response.body_mut() = Body::Whole(Bytes::from(content.to_string()));
    // No cache may give it to others.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_ascii_and_leaves_out_what_makes_it_too_long() {
        let explanation = |notes: &str, tags: usize| {
            let tags = vec!["user:7"; tags];
            let all = json!({ "outcome": "hit", "notes": [notes], "tags": tags });
            bounded(all.as_object().unwrap().clone())
        };
        let short = explanation("\u{fc}\u{1f980}", 1);
        assert!(short.contains(r"\u00fc\ud83e\udd80") && short.is_ascii(), "{short}");
        let read: Value = serde_json::from_str(&explanation(&"x".repeat(LONGEST), 5)).unwrap();
        assert_eq!((&read["notes"], &read["left_out"]), (&Value::Null, &json!(true)));
        assert_eq!(read["tags"].as_array().unwrap().len(), 5);
        let read: Value = serde_json::from_str(&explanation(&"x".repeat(LONGEST), LONGEST)).unwrap();
        assert_eq!(read, json!({ "outcome": "hit", "left_out": true }));
    }
}

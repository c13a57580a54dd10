//! [`Refusal`]: every error that the admin answers with, as JSON that says what is wrong and what to do.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// An error. Its JSON is that of HITA's clients (`success`, `error`) with `what_to_do` added.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    body: ErrorBody,
    challenge: Option<&'static str>,
    /// Seconds.
    retry_after: Option<u64>,
}

/// The JSON of an error.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// False.
    success: bool,
    /// What is wrong.
    error: String,
    what_to_do: String,
    /// Some errors say more.
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, Value>)]
    more: Map<String, Value>,
}

impl Refusal {
    /// What is wrong, and what to do about it.
    pub fn new(status: StatusCode, error: impl Into<String>, what_to_do: impl Into<String>) -> Refusal {
        let body =
            ErrorBody { success: false, error: error.into(), what_to_do: what_to_do.into(), more: Map::new() };
        Refusal { status, body, challenge: None, retry_after: None }
    }

    /// 400 (Bad Request).
    pub fn bad_request(error: impl Into<String>, what_to_do: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error, what_to_do)
    }

    /// 403 (Forbidden).
    pub fn forbidden(error: impl Into<String>, what_to_do: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, error, what_to_do)
    }

    /// 404 (Not Found).
    pub fn not_found(error: impl Into<String>, what_to_do: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, error, what_to_do)
    }

    /// 409 (Conflict).
    pub fn conflict(error: impl Into<String>, what_to_do: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, error, what_to_do)
    }

    /// 503 (Service Unavailable).
    pub fn unavailable(error: impl Into<String>, what_to_do: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, what_to_do)
    }

    /// The shared store cannot be asked. `reason`: for people.
    pub fn store_away(reason: &str) -> Refusal {
        let what_to_do = "requests go upstream meanwhile; check that the server of [store] redis runs, and that it \
                          can be reached from here with these credentials";
        Refusal::unavailable(format!("Redis cache not available: {reason}"), what_to_do)
            .with("cache_available", false)
            .with("cache_info", serde_json::json!({ "status": "unavailable" }))
    }

    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Refusal {
        self.body.more.insert(name.to_owned(), value.into());
        self
    }

    /// The same with a `Retry-After` field (RFC 9110 §10.2.3) of this time, rounded up to seconds.
    #[must_use]
    pub fn retry_after(self, wait: std::time::Duration) -> Refusal {
        Refusal { retry_after: Some(wait.as_secs_f64().ceil().max(1.0) as u64), ..self }
    }

    /// The same with a `WWW-Authenticate` field (RFC 9110 §11.6.1).
    #[must_use]
    pub fn challenge(self, challenge: &'static str) -> Refusal {
        Refusal { challenge: Some(challenge), ..self }
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Refusal {
        let what_to_do = "percent-encode names as UTF-8";
        Refusal::bad_request(rejection.body_text(), what_to_do)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_store_that_is_away_is_told_in_hitas_shape() {
        let refusal = Refusal::store_away("connection refused");
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
        let body = serde_json::to_value(refusal.body).unwrap();
        assert_eq!(body["success"], json!(false));
        assert_eq!(body["error"], json!("Redis cache not available: connection refused"));
        assert_eq!(body["cache_available"], json!(false));
        assert!(body["what_to_do"].as_str().unwrap().contains("[store] redis"));
    }
}

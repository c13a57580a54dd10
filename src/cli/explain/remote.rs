//! Asks the admin of a running Larder what it has stored for a request.

use http::{Method, StatusCode};
use serde_json::Value;

use super::{ExplainError, wait};
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::{ExplainArguments, variable};
use crate::proxy::explain::{Explainer, StoredExplanation};

/// What the running Larder has stored.
pub(super) fn stored_now(
    arguments: &ExplainArguments,
    admin: &str,
    method: &Method,
) -> Result<StoredExplanation, ExplainError> {
    if !Explainer::may_be_read(method) {
        let only = format!("only responses to GET, HEAD and QUERY are stored; omit --admin to explain a {method}");
        return Err(ExplainError::Usage(only));
    }
    let token = arguments.token.clone().or_else(|| variable("LARDER_VIEWER_TOKEN"));
    let client = AdminClient::new(admin, token).map_err(ExplainError::Usage)?;
    let asked = question(arguments, method);
    let (status, body) = wait(client.send(&Method::GET, &asked))?.map_err(|error| {
        ExplainError::NoAnswer(format!("{admin}: {error}; is this the admin of a running Larder?"))
    })?;
    read(admin, status, &body)
}

fn question(arguments: &ExplainArguments, method: &Method) -> String {
    let mut path = format!("/cache/explain?method={method}&url={}", encoded(&arguments.url));
    for field in &arguments.headers {
        path.push_str("&header=");
        path.push_str(&encoded(field));
    }
    path
}

fn read(admin: &str, status: StatusCode, body: &[u8]) -> Result<StoredExplanation, ExplainError> {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().unwrap_or_default();
    if status.is_success() {
        let stored_now = serde_json::from_value(json.clone());
        return stored_now.map_err(|_| {
            ExplainError::NoAnswer(format!(
                "{admin} does not answer as this version of Larder does; use the larder it runs"
            ))
        });
    }
    let message = match text("error") {
        "" => format!("{admin} answered {status}; is this the admin of a running Larder?"),
        error => format!("{admin}: {error}; {}", text("what_to_do")),
    };
    Err(if status == StatusCode::BAD_REQUEST {
        ExplainError::Usage(message)
    } else {
        ExplainError::NoAnswer(message)
    })
}

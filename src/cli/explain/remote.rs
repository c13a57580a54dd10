//! Asks the admin of a running Larder what it has stored for a request.

use http::{Method, StatusCode};
use serde_json::Value;

use super::{ExplainError, wait};
use crate::cli::admin_client::{AdminClient, RequestContent, encoded};
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
    let token = arguments.token.token().map_err(ExplainError::Usage)?;
    let token = token.or_else(|| variable("LARDER_VIEWER_TOKEN"));
    let client = AdminClient::new(admin, token).map_err(ExplainError::Usage)?;
    let asked = question(arguments, method);
    let answered = wait(client.send(&Method::GET, &asked, RequestContent::None))?;
    let (status, body) = answered.map_err(ExplainError::NoAnswer)?;
    read(&client, admin, status, &body)
}

fn question(arguments: &ExplainArguments, method: &Method) -> String {
    let mut path = format!("/cache/explain?method={method}&url={}", encoded(&arguments.url));
    for field in &arguments.headers {
        path.push_str("&header=");
        path.push_str(&encoded(field));
    }
    path
}

fn read(
    client: &AdminClient,
    admin: &str,
    status: StatusCode,
    body: &[u8],
) -> Result<StoredExplanation, ExplainError> {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    if status.is_success() {
        return serde_json::from_value(json).map_err(|_| {
            ExplainError::NoAnswer(format!(
                "{admin} does not answer as this version of Larder does; use the larder it runs"
            ))
        });
    }
    let message = client.refusal(status, &json);
    Err(if status == StatusCode::BAD_REQUEST {
        ExplainError::Usage(message)
    } else {
        ExplainError::NoAnswer(message)
    })
}

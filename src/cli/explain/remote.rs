//! Asks the admin of a running Larder what it has stored for a request.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::{ExplainError, wait};
use crate::cli::{ExplainArguments, variable};
use crate::config::{Config, HostPolicy, Overrides};
use crate::proxy::explain::{Explainer, StoredExplanation};
use crate::upstream::{RequestBody, Upstream};

/// Largest response, in bytes.
const ANSWER: usize = 16 << 20;

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
    let client = client(admin).map_err(ExplainError::Usage)?;
    let mut fields = HeaderMap::new();
    let token = arguments.token.clone().or_else(|| variable("LARDER_VIEWER_TOKEN"));
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        fields.insert(AUTHORIZATION, value.map_err(|_| ExplainError::Usage("the token is not text".to_owned()))?);
    }
    let (status, body) = wait(answer(&client, &question(arguments, method), fields))?.map_err(|error| {
        ExplainError::NoAnswer(format!("{admin}: {error}; is this the admin of a running Larder?"))
    })?;
    read(admin, status, &body)
}

/// An HTTP client like the one for upstream.
fn client(admin: &str) -> Result<Upstream, String> {
    let fault = || format!("{admin:?} is not the URL of an admin; write it like http://127.0.0.1:9090");
    let uri: Uri = admin.parse().map_err(|_| fault())?;
    if uri.scheme().is_none() || uri.path() != "/" || uri.query().is_some() {
        return Err(fault());
    }
    let defaults = Config::load(None, &Overrides::default(), &|_| None).map_err(|error| error.to_string())?;
    let server = crate::config::ServerConfig { host: HostPolicy::Upstream, ..defaults.server };
    Upstream::new(&uri, &server).map_err(|_| fault())
}

fn question(arguments: &ExplainArguments, method: &Method) -> String {
    let mut path = format!("/cache/explain?method={method}&url={}", encoded(&arguments.url));
    for field in &arguments.headers {
        path.push_str("&header=");
        path.push_str(&encoded(field));
    }
    path
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

async fn answer(client: &Upstream, question: &str, fields: HeaderMap) -> Result<(StatusCode, Bytes), String> {
    let response =
        client.send(crate::client::Client::LARDER, &Method::GET, question, fields, RequestBody::Empty, None).await;
    let response = response.map_err(|error| error.to_string().replace("upstream", "the admin"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER).collect().await.map_err(|error| error.to_string())?;
    Ok((status, body.to_bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explained_url_cannot_change_the_admin_request() {
        assert_eq!(encoded("/a?b=1&c=ä+%20"), "%2Fa%3Fb%3D1%26c%3D%C3%A4%2B%2520");
    }

    #[test]
    fn only_the_url_of_a_listener_is_an_admin() {
        for admin in ["", "127.0.0.1:9090", "http://h/cache", "http://h/?x", "not a url"] {
            assert!(client(admin).is_err(), "{admin}");
        }
    }
}

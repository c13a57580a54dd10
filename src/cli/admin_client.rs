//! Requests of the command line to the admin of a running Larder.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};

use crate::client::Client;
use crate::config::{Config, HostPolicy, Overrides, ServerConfig};
use crate::upstream::{RequestBody, Upstream};

/// Largest response, in bytes.
const ANSWER: usize = 16 << 20;

/// A client of an admin.
pub(super) struct AdminClient {
    upstream: Upstream,
    fields: HeaderMap,
}

impl AdminClient {
    /// For the admin at this URL. `token`: a bearer token; an empty one counts as none.
    ///
    /// # Errors
    ///
    /// It is no URL of an admin, or the token cannot be sent. The error is for people.
    pub(super) fn new(admin: &str, token: Option<String>) -> Result<AdminClient, String> {
        let upstream = client(admin)?;
        let mut fields = HeaderMap::new();
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            fields.insert(AUTHORIZATION, value.map_err(|_| "the token is not text".to_owned())?);
        }
        Ok(AdminClient { upstream, fields })
    }

    /// Sends a request without content.
    ///
    /// # Errors
    ///
    /// There was no response. The error is for people.
    pub(super) async fn send(&self, method: &Method, path: &str) -> Result<(StatusCode, Bytes), String> {
        let fields = self.fields.clone();
        let response = self.upstream.send(Client::LARDER, method, path, fields, RequestBody::Empty, None).await;
        let response = response.map_err(|error| error.to_string().replace("upstream", "the admin"))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

/// An HTTP client like the one for upstream.
fn client(admin: &str) -> Result<Upstream, String> {
    let fault = || format!("{admin:?} is not the URL of an admin; write it like http://127.0.0.1:9090");
    let uri: Uri = admin.parse().map_err(|_| fault())?;
    if uri.scheme().is_none() || uri.path() != "/" || uri.query().is_some() {
        return Err(fault());
    }
    let defaults = Config::load(None, &Overrides::default(), &|_| None).map_err(|error| error.to_string())?;
    let server = ServerConfig { host: HostPolicy::Upstream, ..defaults.server };
    Upstream::new(&uri, &server).map_err(|_| fault())
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3).
pub(super) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
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

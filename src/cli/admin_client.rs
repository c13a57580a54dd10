//! Requests of the command line to the admin of a running Larder.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::output::{self, USAGE};
use crate::client::Client;
use crate::config::{Config, HostPolicy, Overrides, ServerConfig};
use crate::upstream::{RequestBody, Upstream};

/// Largest response, in bytes.
const ANSWER: usize = 16 << 20;

/// Largest file with a token, in bytes.
const TOKEN_FILE: u64 = 4096;

/// Which admin a command asks, and with which token.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminArguments {
    /// URL of the admin of the running Larder.
    #[arg(long, value_name = "URL", env = "LARDER_ADMIN_URL", default_value = "http://127.0.0.1:9090")]
    admin: String,
    #[command(flatten)]
    token: BearerArguments,
}

/// The token for the admin.
#[derive(Debug, Clone, Args)]
pub(super) struct BearerArguments {
    /// Token for the admin. In a file it is safer: other users of this machine can read arguments.
    #[arg(long, env = "LARDER_ADMIN_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// File that holds the token for the admin.
    #[arg(long, value_name = "FILE", env = "LARDER_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl AdminArguments {
    /// A client for this admin.
    ///
    /// # Errors
    ///
    /// See [`AdminClient::new`], and the file cannot be read.
    pub(super) fn client(&self) -> Result<AdminClient, String> {
        AdminClient::new(&self.admin, self.token.token()?)
    }

    /// Runs a command with a client for this admin, and returns its exit code.
    pub(super) fn run(&self, command: impl AsyncFnOnce(&AdminClient) -> Result<u8, String>) -> u8 {
        match self.client() {
            Ok(client) => output::run(command(&client)),
            Err(error) => output::complain(error, USAGE),
        }
    }
}

impl BearerArguments {
    /// The token, if one is given.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is too large. The error is for people.
    pub(super) fn token(&self) -> Result<Option<String>, String> {
        use std::io::Read as _;
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        let fault = |error: &dyn std::fmt::Display| format!("--token-file {}: {error}", file.display());
        let mut text = String::new();
        let opened = std::fs::File::open(file).map_err(|error| fault(&error))?;
        opened.take(TOKEN_FILE + 1).read_to_string(&mut text).map_err(|error| fault(&error))?;
        if text.len() as u64 > TOKEN_FILE {
            return Err(fault(&"it is too large for a token"));
        }
        match text.trim() {
            "" => Err(fault(&"it is empty")),
            token => Ok(Some(token.to_owned())),
        }
    }
}

/// A client of an admin.
pub(super) struct AdminClient {
    /// Its URL, for messages.
    admin: String,
    upstream: Upstream,
    fields: HeaderMap,
}

/// Content of a request.
pub(super) enum RequestContent {
    None,
    Json(Value),
    /// A rules file.
    Toml(Vec<u8>),
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
            let mut value = value.map_err(|_| "the token is not text".to_owned())?;
            value.set_sensitive(true);
            fields.insert(AUTHORIZATION, value);
        }
        Ok(AdminClient { admin: admin.to_owned(), upstream, fields })
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// There was no response. The error is for people.
    pub(super) async fn send(
        &self,
        method: &Method,
        path: &str,
        content: RequestContent,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut fields = self.fields.clone();
        let body = match content {
            RequestContent::None => RequestBody::Empty,
            RequestContent::Json(json) => {
                fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                RequestBody::Whole(json.to_string().into())
            }
            RequestContent::Toml(text) => {
                fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                RequestBody::Whole(text.into())
            }
        };
        let response = self.upstream.send(Client::LARDER, method, path, fields, body, None).await;
        let no_response = |error: &dyn std::fmt::Display| {
            let error = error.to_string().replace("upstream", "the admin");
            format!("{}: {error}; is this the admin of a running Larder?", self.admin)
        };
        let response = response.map_err(|error| no_response(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        Ok((status, body.map_err(|error| no_response(&error))?.to_bytes()))
    }

    /// Sends a request, and gives the JSON of a response that says that it succeeded.
    ///
    /// # Errors
    ///
    /// There was no response, or the admin refuses. The error is for people, and says what to do.
    pub(super) async fn call(
        &self,
        method: &Method,
        path: &str,
        content: RequestContent,
    ) -> Result<Value, String> {
        let (status, body) = self.send(method, path, content).await?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() && json["success"] == true {
            return Ok(json);
        }
        Err(self.refusal(status, &json))
    }

    /// The same for GET.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::call`].
    pub(super) async fn get(&self, path: &str) -> Result<Value, String> {
        self.call(&Method::GET, path, RequestContent::None).await
    }

    /// The same for POST without content.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::call`].
    pub(super) async fn post(&self, path: &str) -> Result<Value, String> {
        self.call(&Method::POST, path, RequestContent::None).await
    }

    /// The same for DELETE.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::call`].
    pub(super) async fn delete(&self, path: &str) -> Result<Value, String> {
        self.call(&Method::DELETE, path, RequestContent::None).await
    }

    /// What a response says that is no success.
    pub(super) fn refusal(&self, status: StatusCode, json: &Value) -> String {
        let admin = &self.admin;
        let mut text = match (json["error"].as_str(), json["what_to_do"].as_str()) {
            (Some(error), Some(what_to_do)) => format!("{admin}: {error}; {what_to_do}"),
            (Some(error), None) => format!("{admin}: {error}"),
            _ => format!("{admin} answered {status}; is this the admin of a running Larder?"),
        };
        for fault in json["faults"].as_array().into_iter().flatten() {
            let of = |name: &str| fault[name].as_str().unwrap_or_default();
            text.push_str(&format!("\n  line {}: {}; {}", fault["line"], of("message"), of("remedy")));
        }
        text
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

/// A path with a query of these parameters; those without a value are left out.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explained_url_cannot_change_the_admin_request() {
        assert_eq!(encoded("/a?b=1&c=ä+%20"), "%2Fa%3Fb%3D1%26c%3D%C3%A4%2B%2520");
        let parameters = [("a", Some("x&y".to_owned())), ("b", None), ("c", Some("1".to_owned()))];
        assert_eq!(with_query("/p", &parameters), "/p?a=x%26y&c=1");
        assert_eq!(with_query("/p", &[("b", None)]), "/p");
    }

    #[test]
    fn only_the_url_of_a_listener_is_an_admin() {
        for admin in ["", "127.0.0.1:9090", "http://h/cache", "http://h/?x", "not a url"] {
            assert!(client(admin).is_err(), "{admin}");
        }
    }

    #[test]
    fn a_token_file_is_read_without_its_line_end_and_must_hold_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = |content: &[u8]| {
            std::fs::write(&file, content).unwrap();
            BearerArguments { token: None, token_file: Some(file.clone()) }.token()
        };
        assert_eq!(read(b"secret\n"), Ok(Some("secret".to_owned())));
        assert!(read(b" \n").unwrap_err().contains("is empty"));
        assert!(read(&[b'a'; 5000]).unwrap_err().contains("too large"));
        assert!(read(&[0xff]).is_err());
        std::fs::remove_file(&file).unwrap();
        let missing = BearerArguments { token: None, token_file: Some(file.clone()) }.token().unwrap_err();
        assert!(missing.starts_with("--token-file ") && missing.contains("token: "), "{missing}");
    }
}

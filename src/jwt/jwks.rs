//! Fetches a JWK Set from an http or https URL.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::{KeyFault, LARGEST};
use crate::config::UpstreamTls;
use crate::upstream::{self, UpstreamFault};

/// Longest time from connecting to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a JWK Set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JwksFault {
    /// The system's certificate authorities cannot be read.
    #[error(transparent)]
    Certificates(#[from] UpstreamFault),
    /// There is no answer.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// It took longer than 10 s.
    #[error("no answer within 10 s")]
    Timeout,
    /// Another status than 200. Redirects are not followed: the rules name the issuer.
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
    /// The answer broke off, or is larger than 1 MiB.
    #[error("the answer is incomplete or larger than 1 MiB: {0}")]
    Body(String),
    /// The file cannot be read.
    #[error("{0}")]
    File(String),
    /// What was read is no JWK Set.
    #[error(transparent)]
    Key(KeyFault),
}

/// The content at the URL. Each time with a connection of its own and the system's present authorities: keys are fetched rarely.
pub(super) async fn fetch(url: &Uri) -> Result<Bytes, JwksFault> {
    tokio::time::timeout(TIMEOUT, get(url)).await.unwrap_or(Err(JwksFault::Timeout))
}

async fn get(url: &Uri) -> Result<Bytes, JwksFault> {
    let tls = match url.scheme_str() {
        Some("https") => upstream::tls_client(&UpstreamTls::default())?,
        _ => upstream::no_tls(),
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(url)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, "larder")
        .body(Empty::new())
        .map_err(|error| JwksFault::NoAnswer(error.to_string()))?;
    let answer =
        client.request(request).await.map_err(|error| JwksFault::NoAnswer(upstream::with_causes(&error)))?;
    if answer.status() != StatusCode::OK {
        return Err(JwksFault::Status(answer.status()));
    }
    let most = usize::try_from(LARGEST).unwrap_or(usize::MAX);
    let body = Limited::new(answer.into_body(), most).collect().await;
    Ok(body.map_err(|error| JwksFault::Body(error.to_string()))?.to_bytes())
}

//! Sends alerts to an HTTP endpoint as JSON. Nothing waits for it: alerts queue up to a limit, and each is tried a few times.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::config::alerts::AlertsConfig;
use crate::upkeep::alerts::Alert;
use crate::upstream;

/// Most alerts that wait to be sent.
const QUEUE: usize = 100;
/// For the answer to one attempt.
const WITHIN: Duration = Duration::from_secs(10);
/// Pauses before the further attempts.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16), Duration::from_secs(64)];

/// For the log.
const WHAT_TO_DO: &str = "check that the server of [alerts] webhook runs, and that it can be reached from here";

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The queue of alerts to send.
#[derive(Debug)]
pub struct Webhook {
    queue: mpsc::Sender<Bytes>,
    _task: AbortOnDropHandle<()>,
}

impl Webhook {
    /// Begins to send what is queued; `None` without a webhook in the configuration.
    pub fn start(config: &AlertsConfig) -> Option<Webhook> {
        let url = config.webhook.clone()?;
        let connector = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => builder.https_or_http().enable_http1().build(),
            Err(error) => {
                let what_to_do = "install the system's certificate authorities";
                tracing::error!(%error, what_to_do, "alerts cannot be sent to the webhook");
                return None;
            }
        };
        let token = config.webhook_token.as_ref();
        let authorization = token.and_then(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.0)).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let (queue, queued) = mpsc::channel(QUEUE);
        let sender =
            WebhookSender { client: Client::builder(TokioExecutor::new()).build(connector), url, authorization };
        Some(Webhook { queue, _task: AbortOnDropHandle::new(tokio::spawn(sender.send_all(queued))) })
    }

    /// Queues an alert that was raised or cleared.
    pub fn send(&self, alert: &Alert) {
        let state = if alert.cleared.is_none() { "raised" } else { "cleared" };
        let mut message = serde_json::to_value(alert).unwrap_or_default();
        message["state"] = json!(state);
        message["source"] = json!("larder");
        if self.queue.try_send(Bytes::from(message.to_string())).is_err() {
            tracing::warn!(alert = %alert.subject, "the webhook does not keep up: an alert was not sent");
        }
    }
}

struct WebhookSender {
    client: HttpClient,
    url: Uri,
    authorization: Option<HeaderValue>,
}

impl WebhookSender {
    async fn send_all(self, mut queued: mpsc::Receiver<Bytes>) {
        while let Some(message) = queued.recv().await {
            let mut attempts = 0;
            while let Err(cause) = self.send(&message).await {
                attempts += 1;
                let host = self.url.host();
                let Some(pause) = PAUSES.get(attempts - 1) else {
                    tracing::error!(
                        host,
                        cause,
                        attempts,
                        what_to_do = WHAT_TO_DO,
                        "an alert could not be sent to the webhook, and is not tried again; GET /cache/alerts has it"
                    );
                    break;
                };
                // Only the first failure of an alert, so that a webhook that is away does not fill the log.
                match attempts {
                    1 => tracing::warn!(
                        host,
                        cause,
                        what_to_do = WHAT_TO_DO,
                        "the webhook did not take an alert; it is sent again, {} times at most",
                        PAUSES.len()
                    ),
                    _ => {
                        tracing::debug!(
                            host,
                            cause,
                            ?pause,
                            "the webhook did not take an alert; it is sent again"
                        );
                    }
                }
                tokio::time::sleep(*pause).await;
            }
        }
    }

    /// One attempt. The error says why the alert did not arrive, without the path and the query of the URL, which may hold a secret.
    async fn send(&self, message: &Bytes) -> Result<(), String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(message.clone()))
            .map_err(|error| error.to_string())?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let response = tokio::time::timeout(WITHIN, self.client.request(request));
        let response =
            response.await.map_err(|_| format!("no answer within {}", humantime::format_duration(WITHIN)))?;
        match response.map_err(|error| upstream::with_causes(&error))?.status() {
            status if status.is_success() => Ok(()),
            // To send it again would not help.
            status if status.is_client_error() && !is_transient(status) => {
                tracing::error!(
                    %status,
                    host = self.url.host(),
                    what_to_do = "check the path of [alerts] webhook, and webhook_token",
                    "the webhook refused an alert, which is not sent again; GET /cache/alerts has it"
                );
                Ok(())
            }
            status => Err(format!("it answered {status}")),
        }
    }
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

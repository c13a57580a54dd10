//! `GET /cache/events`: invalidations of the whole fleet and a sample of outcomes, live, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;

use super::refusal::{ErrorBody, Refusal};
use super::state::At;
use crate::client_conn::ClientConn;
use crate::upkeep::events::{ReceivedEvent, SUBSCRIBERS};

/// Longest silence: proxies and browsers close a connection on which nothing comes.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Invalidations of the whole fleet and a sample of outcomes, live (server-sent events)
///
/// `invalidation`: as in `/cache/log`. `wait`: how long an invalidation of another proxy has waited, by its id. `outcome`: a request of
/// this proxy, at most ten a second. `lost`: so many events came faster than they were read.
#[utoipa::path(get, path = "/cache/events", tag = "state", responses(
    (status = 200, description = "until the client leaves or Larder ends", body = String, content_type = "text/event-stream"),
    (status = 503, description = "there are too many subscribers", body = ErrorBody),
))]
pub async fn events(
    State(state): At,
    connection: Option<Extension<Arc<ClientConn>>>,
) -> Result<Response, Refusal> {
    let Some(subscription) = state.running().cache.log().events.subscribe() else {
        let error = format!("there are {SUBSCRIBERS} subscribers");
        return Err(Refusal::unavailable(error, "close another one, or read GET /cache/log"));
    };
    // A connection that is not busy may be closed to make room.
    let busy = connection.map(|Extension(connection)| ClientConn::begin(&connection));
    let events = stream::unfold((subscription, busy), |(mut subscription, busy)| async move {
        let event = match subscription.next().await {
            ReceivedEvent::Event(event) => sse::Event::default().event(event.name).data(&*event.data),
            ReceivedEvent::Lost(count) => {
                sse::Event::default().event("lost").data(json!({ "count": count }).to_string())
            }
            ReceivedEvent::Ended => return None,
        };
        Some((Ok::<_, Infallible>(event), (subscription, busy)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

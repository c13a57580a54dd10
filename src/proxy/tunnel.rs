//! A connection that changes its protocol (RFC 9110 §7.8), such as to WebSocket: the request goes to upstream with its
//! `Upgrade`, and when upstream agrees, Larder forwards bytes between the two connections.
//!
//! Only with HTTP/1.1, for safe methods, and to the protocols in `[server] upgrades`. Any other request is what it would be
//! without the field, which a server may ignore: a write is a write, and a read may be answered from the cache. So no client can
//! force a fetch by offering a protocol that upstream does not speak. `h2c` is never forwarded: Larder itself speaks it, with prior
//! knowledge.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::share::share;
use super::{Answered, Body, ClientRequest, failed, respond};
use crate::hooked_stream::{HookedStream, StreamHooks, WriteBytes};
use crate::http::headers;
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;
use crate::upstream::{Progress, ResponseBody};

/// What a client offers to speak instead of HTTP/1.1.
pub(super) struct Offer {
    protocols: HeaderValue,
    connection: OnUpgrade,
}

impl Offer {
    /// The offer of a request of one of the protocols in `known`, which are in lower case. To be looked for before the fields
    /// of this hop are removed.
    pub fn of(request: &mut Request<Incoming>, known: &[String]) -> Option<Offer> {
        if !request.headers().contains_key(UPGRADE) {
            return None;
        }
        // RFC 9110 §7.8: the field without the option, or in HTTP/1.0, is to be ignored.
        let is_meant = request.version() == Version::HTTP_11
            && headers::is_safe(request.method())
            && headers::names_token(request.headers(), &CONNECTION, "upgrade");
        let protocols = protocols(request.headers(), known).filter(|_| is_meant)?;
        Some(Offer { protocols, connection: hyper::upgrade::on(request) })
    }
}

/// Those of the protocols that are `known`, in the order of preference. A protocol that is known by its name alone is known
/// in every version.
fn protocols(fields: &HeaderMap, known: &[String]) -> Option<HeaderValue> {
    let members = fields.get_all(UPGRADE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let is_known = |member: &&[u8]| {
        let name = member.split(|byte| *byte == b'/').next().unwrap_or_default();
        let is = |known: &String| [name, *member].iter().any(|text| text.eq_ignore_ascii_case(known.as_bytes()));
        known.iter().any(is)
    };
    let offered: Vec<&[u8]> = members.map(<[u8]>::trim_ascii).filter(is_known).collect();
    HeaderValue::from_bytes(&offered.join(&b", "[..])).ok().filter(|protocols| !protocols.is_empty())
}

/// Forwards a request with its offer.
pub(super) async fn tunnel(
    running: &Arc<Running>,
    http: &ClientRequest,
    body: Incoming,
    offer: Offer,
) -> Answered {
    let share = match share(running, http) {
        Ok(share) => share,
        Err(refused) => return *refused,
    };
    let mut fields = http.for_passing(running);
    headers::append_member(&mut fields, CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, offer.protocols);
    let sent = http.send(running, None, &http.method, fields, http.content(body)).await;
    let response = match sent {
        Ok(response) => response.map(|body| body.holding(share)),
        Err(error) => return failed(error, Fwd::Bypass),
    };
    let mut outcome = Outcome::pass(Fwd::Bypass, "upgrade");
    outcome.fwd_status = Some(response.status().as_u16());
    let response = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => switch(running, response, offer.connection),
        _ => respond::forwarded(response, &running.config.server),
    };
    Answered { response, outcome, family: None }
}

/// Sends the client upstream's 101, and forwards bytes as soon as it is sent.
fn switch(running: &Running, mut response: Response<ResponseBody>, client: OnUpgrade) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let protocol = response.headers().get(UPGRADE).cloned();
    let (parts, place) = response.into_parts();
    let idle_timeout = running.config.server.stream_timeout;
    // It outlives the request. A shutdown waits for it as for every task; upstream's places for streams bound their number.
    running.tasks.spawn(async move {
        if let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream)
            && let Err(error) = join(client, upstream, idle_timeout).await
        {
            tracing::debug!(%error, "upgraded connection ended");
        }
        drop(place);
    });
    let mut response = Response::from_parts(parts, Body::Empty);
    headers::strip_impossible_length(response.status(), response.headers_mut());
    let fields = response.headers_mut();
    headers::strip_hop_by_hop(fields);
    headers::add_via(fields, Version::HTTP_11);
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        fields.insert(UPGRADE, protocol);
    }
    response
}

/// Forwards bytes both ways until both sides have ended, one fails, or neither has sent anything for `idle_timeout`.
async fn join(client: Upgraded, upstream: Upgraded, idle_timeout: Duration) -> io::Result<()> {
    let progress = Progress::new();
    let mut client = HookedStream::new(TokioIo::new(client), ProgressHooks(Arc::clone(&progress)));
    let mut upstream = TokioIo::new(upstream);
    let copying = tokio::io::copy_bidirectional(&mut client, &mut upstream);
    match progress.within(idle_timeout, copying).await {
        Some(copied) => copied.map(|_| ()),
        None => Err(io::Error::new(io::ErrorKind::TimedOut, "both sides were silent for stream_timeout")),
    }
}

/// Notes reads and writes. Those of one side are enough: what is read from it is written to the other, and the reverse.
struct ProgressHooks(Arc<Progress>);

impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for ProgressHooks {
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        self.0.note();
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: WriteBytes<'_>) -> Poll<io::Result<usize>> {
        let written = ready!(output.write_to(stream, cx))?;
        self.0.note();
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};

    #[test]
    fn only_known_protocols_are_offered() {
        let known = ["websocket", "a/1"].map(str::to_owned);
        let rows: [(Fields<'_>, Option<&str>); 9] = [
            (&[("upgrade", "websocket")], Some("websocket")),
            (&[("upgrade", "WebSocket/13")], Some("WebSocket/13")),
            (&[("upgrade", "h2c, a/1"), ("upgrade", "b,websocket")], Some("a/1, websocket")),
            (&[("upgrade", "a/2, a")], None),
            (&[("upgrade", "websockets")], None),
            (&[("upgrade", "x websocket")], None),
            (&[("upgrade", "H2C")], None),
            (&[("upgrade", " , ")], None),
            (&[], None),
        ];
        for (lines, expected) in rows {
            let expected = expected.map(|text| HeaderValue::from_str(text).unwrap());
            assert_eq!(protocols(&fields(lines), &known), expected, "{lines:?}");
        }
    }
}

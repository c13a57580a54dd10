//! The body of a response from upstream.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::response_end::ResponseEnd;
use super::{MinRate, UpstreamPlace};
use crate::http::headers;
use crate::shares::{Over, Share};

/// Bytes that a client gets before its rate is measured. A body that is not over by then is usually larger than what hyper
/// buffers for a client that reads nothing (the least `max_head`).
const UNMEASURED: u64 = 8 << 10;
/// Longest content that is awaited before its head is forwarded, bytes.
const SHORT: usize = 64 << 10;
/// Longest wait for it.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// Least pause between two checks of the rate.
const CHECK_PAUSE: Duration = Duration::from_millis(100);

/// Limits on the time that a response body takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// It may be endless: an event stream, or an upgraded connection.
    pub is_stream: bool,
    /// Longest silence of upstream.
    pub silence: Duration,
    /// Silence of upstream after which it counts as a stream.
    pub stream_after: Duration,
    /// Grace of the client's minimum rate.
    pub grace: Duration,
    /// The client's minimum rate, bytes per second; 0 for none.
    pub download_rate: u64,
}

/// The body of upstream's response. Holds its place at upstream, and fails when upstream is silent for too long. Its state is
/// boxed: every response to a client has room for it, and few have one.
#[derive(Debug)]
pub struct ResponseBody {
    state: BodyState,
    /// Read before it was polled for: [`ResponseBody::settle`], [`ResponseBody::receive_short`], [`ResponseBody::receive_within`].
    begun: Bytes,
    /// The client's share of the buffers for `begun`.
    share: Option<Box<Share>>,
    /// The error that followed.
    broken: Option<BodyError>,
    /// Bytes sent to the client, if its rate is limited.
    sent: Option<u64>,
}

#[derive(Debug)]
enum BodyState {
    Unmeasured(Box<Flow>),
    /// A task ends it if the client is too slow.
    Measured(Arc<Measured>, #[expect(dead_code, reason = "aborted with the body")] AbortOnDropHandle<()>),
    /// During the change of state, and when the content was discarded.
    Gone,
}

/// A body whose client's rate is measured.
#[derive(Debug)]
struct Measured(Mutex<Measurement>);

#[derive(Debug)]
struct Measurement {
    /// `None` once the client was too slow.
    flow: Option<Box<Flow>>,
    rate: MinRate,
    /// The last bytes sent to the client, and when, until it asks for more.
    pending: Option<(u64, Instant)>,
}

/// The part of the body that comes from upstream.
#[derive(Debug)]
struct Flow {
    incoming: Incoming,
    limits: BodyLimits,
    deadline: Option<Deadline>,
    ends_with_connection: bool,
    /// Dropped with the body: until then upstream's connection stays open.
    end: Option<ResponseEnd>,
    /// `None` once it is dropped.
    place: Option<UpstreamPlace>,
}

#[derive(Debug)]
enum Deadline {
    /// The exchange then counts as a stream.
    Stream(Pin<Box<Sleep>>),
    /// The body then fails.
    End(Pin<Box<Sleep>>),
}

/// Why a body is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("upstream broke off in the middle of the body")]
    Broken(#[source] hyper::Error),
    #[error("upstream was silent for {} in the middle of the body", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("the client reads the body too slowly")]
    TooSlow,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        limits: BodyLimits,
        ends_with_connection: bool,
        end: Option<ResponseEnd>,
        place: UpstreamPlace,
    ) -> ResponseBody {
        let flow = Flow { incoming, limits, deadline: None, ends_with_connection, end, place: Some(place) };
        ResponseBody {
            state: BodyState::Unmeasured(Box::new(flow)),
            begun: Bytes::new(),
            share: None,
            broken: None,
            sent: None,
        }
    }

    /// Holds the client's share of requests forwarded for it alone, until the body ends or becomes a stream.
    #[must_use]
    pub fn holding(mut self, unshared: Share) -> ResponseBody {
        match &mut self.state {
            BodyState::Unmeasured(flow) => flow.hold(unshared),
            BodyState::Measured(measured, _) => {
                if let Some(flow) = &mut measured.lock().flow {
                    flow.hold(unshared);
                }
            }
            BodyState::Gone => {}
        }
        self
    }

    /// Exchanges its place at upstream for one among the streams.
    pub(super) fn become_stream(&mut self) -> Result<(), Over> {
        match &mut self.state {
            BodyState::Unmeasured(flow) => flow.become_stream(),
            BodyState::Measured(measured, _) => {
                measured.lock().flow.as_mut().map_or(Ok(()), |flow| flow.become_stream())
            }
            BodyState::Gone => Ok(()),
        }
    }

    /// Reads short content that has arrived with its head: it then needs no timer, and goes to the client with the head.
    pub async fn settle(&mut self) {
        let is_short = self.size_hint().exact().is_some_and(|length| (1..=UNMEASURED).contains(&length));
        let (BodyState::Unmeasured(flow), true, true) = (&mut self.state, is_short, self.begun.is_empty()) else {
            return;
        };
        let mut frame = flow.incoming.frame().now_or_never();
        if frame.is_none() {
            // The task of the connection passes it on.
            tokio::task::yield_now().await;
            frame = flow.incoming.frame().now_or_never();
        }
        match frame.flatten() {
            Some(Ok(frame)) => self.begun = frame.into_data().unwrap_or_default(),
            Some(Err(error)) => self.broken = Some(BodyError::Broken(error)),
            None => {}
        }
    }

    /// Waits a short time for the content. Returns all of it if it is short and complete by then; otherwise the body is as
    /// before.
    pub async fn receive_short(&mut self) -> Option<&Bytes> {
        self.receive(SHORT, SHORT_WAIT).await
    }

    /// Waits for content of up to `most` bytes, which `share` counts until it goes on to the client. Returns all of it, if it
    /// is complete in time; otherwise the body is as before.
    pub(super) async fn receive_within(&mut self, most: u64, wait: Duration, share: Share) -> Option<&[u8]> {
        let is_whole = self.receive(usize::try_from(most).unwrap_or(usize::MAX), wait).await.is_some();
        // Not before: `receive` takes what `begun` holds, and whoever takes that releases the share.
        self.share = Some(Box::new(share));
        is_whole.then_some(&self.begun[..])
    }

    async fn receive(&mut self, most: usize, wait: Duration) -> Option<&Bytes> {
        let mut read = BytesMut::new();
        let is_whole = tokio::time::timeout(wait, async {
            while read.len() <= most {
                match self.frame().await {
                    None => return true,
                    // No trailers are stored.
                    Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
                    Some(Err(error)) => {
                        self.broken = Some(error);
                        return false;
                    }
                }
            }
            false
        });
        let is_whole = is_whole.await.unwrap_or(false);
        self.begun = read.freeze();
        is_whole.then_some(&self.begun)
    }

    /// Empties it. Short content is read first, so that its connection can be used again.
    pub async fn discard(&mut self) {
        self.receive_short().await;
        (self.begun, self.broken, self.state) = (Bytes::new(), None, BodyState::Gone);
    }

    /// Whether it ends with the connection, so that a truncated body looks like a complete one (RFC 9112 §8).
    pub fn ends_with_connection(&self) -> bool {
        self.inspect(|flow| flow.ends_with_connection).unwrap_or(false)
    }

    /// Inspects the part from upstream, unless the body has been ended.
    fn inspect<T>(&self, at: impl FnOnce(&Flow) -> T) -> Option<T> {
        match &self.state {
            BodyState::Unmeasured(flow) => Some(at(flow)),
            BodyState::Measured(measured, _) => measured.lock().flow.as_deref().map(at),
            BodyState::Gone => None,
        }
    }

    /// The body for one client that reads it directly. If the client reads less than `download_rate` on average, after a grace
    /// of `idle_timeout`, the body fails and its place at upstream is released.
    #[must_use]
    pub fn for_client(self) -> ResponseBody {
        let is_limited = matches!(&self.state, BodyState::Unmeasured(flow) if flow.limits.download_rate > 0);
        ResponseBody { sent: is_limited.then_some(0), ..self }
    }

    /// Counts bytes sent to the client, and starts to measure its rate.
    fn note(&mut self, bytes: u64) {
        let (BodyState::Unmeasured(flow), Some(sent)) = (&self.state, &mut self.sent) else { return };
        *sent += bytes;
        if *sent <= UNMEASURED || flow.incoming.is_end_stream() {
            return;
        }
        if let BodyState::Unmeasured(flow) = std::mem::replace(&mut self.state, BodyState::Gone) {
            let rate = MinRate::new(flow.limits.grace, flow.limits.download_rate);
            let measurement = Measurement { flow: Some(flow), rate, pending: Some((bytes, Instant::now())) };
            let measured = Arc::new(Measured(Mutex::new(measurement)));
            let task = AbortOnDropHandle::new(tokio::spawn(end_if_too_slow(Arc::clone(&measured))));
            self.state = BodyState::Measured(measured, task);
        }
    }
}

/// Ends the body when its client is too slow. hyper does not poll the body then, so only another task can.
async fn end_if_too_slow(measured: Arc<Measured>) {
    loop {
        let left = measured.lock().left();
        if left.is_zero() {
            // Dropped after the lock is released.
            let flow = measured.lock().flow.take();
            drop(flow);
            tracing::debug!("a client reads a response too slowly: ended the response");
            return;
        }
        tokio::time::sleep(left.max(CHECK_PAUSE)).await;
    }
}

impl Measured {
    fn lock(&self) -> MutexGuard<'_, Measurement> {
        // A panic cannot leave the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measurement {
    /// How much longer the client may take. While Larder waits for upstream, its budget stays as it is.
    fn left(&self) -> Duration {
        match self.pending {
            Some((_, since)) => self.rate.left().saturating_sub(since.elapsed()),
            None => self.rate.left().max(CHECK_PAUSE),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some((bytes, since)) = self.pending.take() {
            self.rate.moved(bytes, since.elapsed());
        }
        let Some(flow) = &mut self.flow else { return Poll::Ready(Some(Err(BodyError::TooSlow))) };
        let frame = flow.poll_frame(cx);
        if let Some(bytes) = data(&frame) {
            self.pending = Some((bytes, Instant::now()));
        }
        frame
    }
}

fn strip_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::strip_trailers(trailers);
    }
    frame
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Some(end) = &mut self.end {
            end.place = self.place.take();
        }
    }
}

impl Flow {
    fn hold(&mut self, unshared: Share) {
        if let Some(place) = &mut self.place {
            place.hold(unshared);
        }
    }

    fn become_stream(&mut self) -> Result<(), Over> {
        self.place.as_mut().map_or(Ok(()), UpstreamPlace::become_stream)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.deadline = None;
            let frame = frame.map(|frame| frame.map(strip_trailers).map_err(BodyError::Broken));
            return Poll::Ready(frame);
        }
        let BodyLimits { silence, stream_after, .. } = self.limits;
        loop {
            // The timer is created only when the body has to be awaited: most arrive with their heads.
            let deadline = self.deadline.get_or_insert_with(|| match stream_after < silence {
                true => Deadline::Stream(Box::pin(tokio::time::sleep(stream_after))),
                false => Deadline::End(Box::pin(tokio::time::sleep(silence))),
            });
            match deadline {
                Deadline::End(end) => {
                    ready!(end.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(BodyError::Silent(silence))));
                }
                Deadline::Stream(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    // If no place among the streams is free, it keeps the one it has.
                    let _ = self.become_stream();
                    let rest = tokio::time::sleep(silence.saturating_sub(stream_after));
                    self.deadline = Some(Deadline::End(Box::pin(rest)));
                }
            }
        }
    }
}

/// Length of a data frame.
fn data(frame: &Polled) -> Option<u64> {
    match frame {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().map(|chunk| chunk.len() as u64),
        _ => None,
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        if !this.begun.is_empty() {
            this.share = None;
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.begun)))));
        }
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match &mut this.state {
            BodyState::Unmeasured(flow) => flow.poll_frame(cx),
            BodyState::Measured(measured, _) => measured.lock().poll_frame(cx),
            BodyState::Gone => return Poll::Ready(None),
        };
        if let Some(bytes) = data(&frame) {
            this.note(bytes);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let has_ended = self.begun.is_empty() && self.broken.is_none();
        has_ended
            && self.inspect(|flow| flow.incoming.is_end_stream()).unwrap_or(matches!(self.state, BodyState::Gone))
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.inspect(|flow| flow.incoming.size_hint()).unwrap_or_default();
        match (self.begun.len() as u64, rest.exact()) {
            (0, _) => rest,
            (begun, Some(rest)) => SizeHint::with_exact(begun + rest),
            (_, None) => SizeHint::default(),
        }
    }
}

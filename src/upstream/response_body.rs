//! The body of a response on its way from upstream.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{AnswerEnd, MinRate, UpstreamPlace};
use crate::http::headers;
use crate::shares::{Over, Share};

/// Bytes that a client may be given before it is looked after how fast it takes them. Most bodies that hyper has not been
/// given whole by then are larger than what it keeps for a client that takes nothing: the least `max_head`.
const UNWATCHED: u64 = 8 << 10;
/// The longest content that is waited for before its head is passed on, bytes.
const SHORT: usize = 64 << 10;
/// How long it is waited for.
const RIGHT_BEHIND: Duration = Duration::from_millis(100);
/// The least pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// How slow a response may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// It may go on for ever.
    pub is_stream: bool,
    /// The longest silence of upstream.
    pub silence: Duration,
    /// The silence of upstream after which it counts as a stream.
    pub stream_after: Duration,
    /// What a client may be slower than its rate, altogether.
    pub grace: Duration,
    /// The least that a client takes, bytes a second; 0 for any.
    pub download_rate: u64,
}

/// The body of upstream's response. Holds its place at upstream, and fails when upstream is silent for too long in the middle
/// of it. In a box: few responses to clients have one, and all have room for it.
#[derive(Debug)]
pub struct ResponseBody {
    state: State,
    /// What has been read of it before.
    begun: Bytes,
    /// How it broke off behind that.
    broken: Option<BodyError>,
    /// Bytes given, if it matters.
    given: Option<u64>,
}

#[derive(Debug)]
enum State {
    Unwatched(Box<Flow>),
    /// Ended by whoever watches, if the client is too slow.
    Watched(Arc<Watched>, #[expect(dead_code, reason = "aborted with the body")] AbortOnDropHandle<()>),
    /// Between the two.
    Gone,
}

/// A body for a client that is watched.
#[derive(Debug)]
struct Watched(Mutex<Watch>);

#[derive(Debug)]
struct Watch {
    /// None when the client was too slow.
    flow: Option<Box<Flow>>,
    rate: MinRate,
    /// Bytes that were given to the client, and when, while it is its turn to ask for more.
    turn: Option<(u64, Instant)>,
}

/// What comes from upstream.
#[derive(Debug)]
struct Flow {
    incoming: Incoming,
    limits: Limits,
    deadline: Option<Deadline>,
    ends_with_connection: bool,
    /// Dropped with the body, since upstream's connection may end with it.
    end: Option<AnswerEnd>,
    /// None once it is dropped.
    place: Option<UpstreamPlace>,
}

#[derive(Debug)]
enum Deadline {
    /// Then it becomes a stream.
    Stream(Pin<Box<Sleep>>),
    /// Then it is given up.
    End(Pin<Box<Sleep>>),
}

/// The body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("upstream broke off in the middle of the body")]
    Broken(#[source] hyper::Error),
    #[error("upstream was silent for {} in the middle of the body", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("the client takes the body too slowly")]
    TooSlow,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        limits: Limits,
        ends_with_connection: bool,
        end: Option<AnswerEnd>,
        place: UpstreamPlace,
    ) -> ResponseBody {
        let flow = Flow { incoming, limits, deadline: None, ends_with_connection, end, place: Some(place) };
        ResponseBody { state: State::Unwatched(Box::new(flow)), begun: Bytes::new(), broken: None, given: None }
    }

    /// The same, which gives back a client's share of what is forwarded for it alone when it ends, or is a stream.
    #[must_use]
    pub fn holding(mut self, unshared: Share) -> ResponseBody {
        match &mut self.state {
            State::Unwatched(flow) => flow.hold(unshared),
            State::Watched(watched, _) => {
                if let Some(flow) = &mut watched.lock().flow {
                    flow.hold(unshared);
                }
            }
            State::Gone => {}
        }
        self
    }

    /// Moves its place at upstream among those for streams.
    pub(super) fn become_stream(&mut self) -> Result<(), Over> {
        match &mut self.state {
            State::Unwatched(flow) => flow.become_stream(),
            State::Watched(watched, _) => watched.lock().flow.as_mut().map_or(Ok(()), |flow| flow.become_stream()),
            State::Gone => Ok(()),
        }
    }

    /// All of the content, if it is short and comes with its head or right behind it. Nothing of it is lost if not.
    pub async fn receive_short(&mut self) -> Option<&Bytes> {
        let mut read = BytesMut::new();
        let is_whole = tokio::time::timeout(RIGHT_BEHIND, async {
            while read.len() <= SHORT {
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

    /// Whether its end is that of the connection, so that one that was cut off looks like a whole one (RFC 9112 §8).
    pub fn ends_with_connection(&self) -> bool {
        self.look(|flow| flow.ends_with_connection).unwrap_or(false)
    }

    /// What is to be seen of what comes, unless it was given up.
    fn look<T>(&self, at: impl FnOnce(&Flow) -> T) -> Option<T> {
        match &self.state {
            State::Unwatched(flow) => Some(at(flow)),
            State::Watched(watched, _) => watched.lock().flow.as_deref().map(at),
            State::Gone => None,
        }
    }

    /// The body for a client that takes it directly: if the client takes less than `download_rate`, on average beyond
    /// `idle_timeout`, the body breaks off and its place at upstream is given back.
    #[must_use]
    pub fn for_client(self) -> ResponseBody {
        let is_limited = matches!(&self.state, State::Unwatched(flow) if flow.limits.download_rate > 0);
        ResponseBody { given: is_limited.then_some(0), ..self }
    }

    /// Some of it was given: whether it is time to watch who takes it.
    fn note(&mut self, bytes: u64) {
        let (State::Unwatched(flow), Some(given)) = (&self.state, &mut self.given) else { return };
        *given += bytes;
        if *given <= UNWATCHED || flow.incoming.is_end_stream() {
            return;
        }
        if let State::Unwatched(flow) = std::mem::replace(&mut self.state, State::Gone) {
            let rate = MinRate::new(flow.limits.grace, flow.limits.download_rate);
            let watch = Watch { flow: Some(flow), rate, turn: Some((bytes, Instant::now())) };
            let watched = Arc::new(Watched(Mutex::new(watch)));
            let watcher = AbortOnDropHandle::new(tokio::spawn(watch_over(Arc::clone(&watched))));
            self.state = State::Watched(watched, watcher);
        }
    }
}

/// Ends the body when its client is too slow: nobody asks for more of it then, so that the body itself would not notice.
async fn watch_over(watched: Arc<Watched>) {
    loop {
        let left = watched.lock().left();
        if left.is_zero() {
            // Not under the lock.
            let flow = watched.lock().flow.take();
            drop(flow);
            tracing::debug!("a client takes a response too slowly: it is cut off");
            return;
        }
        tokio::time::sleep(left.max(LOOK)).await;
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Watch> {
        // Nothing that a panic could leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// How much longer the client may take; all of its grace while upstream is waited for.
    fn left(&self) -> Duration {
        match self.turn {
            Some((_, since)) => self.rate.left().saturating_sub(since.elapsed()),
            None => self.rate.left().max(LOOK),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some((bytes, since)) = self.turn.take() {
            self.rate.moved(bytes, since.elapsed());
        }
        let Some(flow) = &mut self.flow else { return Poll::Ready(Some(Err(BodyError::TooSlow))) };
        let frame = flow.poll_frame(cx);
        if let Some(bytes) = data(&frame) {
            self.turn = Some((bytes, Instant::now()));
        }
        frame
    }
}

fn without_trailers_of_heads(mut frame: Frame<Bytes>) -> Frame<Bytes> {
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
            let frame = frame.map(|frame| frame.map(without_trailers_of_heads).map_err(BodyError::Broken));
            return Poll::Ready(frame);
        }
        let Limits { silence, stream_after, .. } = self.limits;
        loop {
            // The timer is made only when there is something to wait for: most bodies come with their head.
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
                    // If there is no place for it there, it keeps the one it has.
                    let _ = self.become_stream();
                    let rest = tokio::time::sleep(silence.saturating_sub(stream_after));
                    self.deadline = Some(Deadline::End(Box::pin(rest)));
                }
            }
        }
    }
}

/// Bytes of a frame that has come.
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
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.begun)))));
        }
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match &mut this.state {
            State::Unwatched(flow) => flow.poll_frame(cx),
            State::Watched(watched, _) => watched.lock().poll_frame(cx),
            State::Gone => return Poll::Ready(None),
        };
        if let Some(bytes) = data(&frame) {
            this.note(bytes);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let has_ended = self.begun.is_empty() && self.broken.is_none();
        has_ended && self.look(|flow| flow.incoming.is_end_stream()).unwrap_or(matches!(self.state, State::Gone))
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.look(|flow| flow.incoming.size_hint()).unwrap_or_default();
        match (self.begun.len() as u64, rest.exact()) {
            (0, _) => rest,
            (begun, Some(rest)) => SizeHint::with_exact(begun + rest),
            (_, None) => SizeHint::default(),
        }
    }
}

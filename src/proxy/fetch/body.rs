//! The body of a fetch on its way from upstream: into the shared stream, and to its end as long as somebody wants it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use super::context::FetchContext;
use crate::cache::SHARED_MAX;
use crate::coalesce::inflight::FetchPermit;
use crate::coalesce::stream::{Room, Stream};
use crate::running::Running;
use crate::upstream::{BodyError, MinRate, ResponseBody};

/// How much of the body of a 5xx is kept for followers that have not begun to read, bytes.
const ERROR_MAX: u64 = 64 << 10;

/// How a body ended.
pub(super) enum BodyEnd {
    /// All of it is here.
    CompleteResponse(Bytes),
    /// It was too large to keep; everyone has it.
    PassedOn,
    /// It broke off; nothing is kept.
    Broken,
    /// Nobody wanted the rest of a body that would not be stored, or that seems to have no end.
    Abandoned,
}

/// The next frame. Who waits for small chunks is woken only when no more of them are at hand.
async fn next(body: &mut ResponseBody, stream: &Stream) -> Option<Result<Frame<Bytes>, BodyError>> {
    if stream.is_to_be_shown() {
        for pause in [true, false] {
            if let Poll::Ready(frame) = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
                return frame;
            }
            if pause {
                // So that the task of the connection reads on.
                tokio::task::yield_now().await;
            }
        }
        stream.show();
    }
    body.frame().await
}

/// How fast those are who read a body that is passed on: its place at upstream is kept for them.
struct ReaderRate(MinRate);

impl ReaderRate {
    /// Waits until they have taken enough for more to be read, of which so many bytes have just come. Cuts off who takes too
    /// long; false if nobody is left.
    async fn wait(&mut self, running: &Running, stream: &Stream, bytes: u64) -> bool {
        let mut since = Instant::now();
        loop {
            match stream.room(self.0.left()).await {
                Room::Some => break,
                Room::NoReaders => return false,
                // Those who are left were not the slowest.
                Room::Cut => (self.0, since) = (running.upstream.min_download_rate(), Instant::now()),
            }
        }
        self.0.moved(bytes, since.elapsed());
        true
    }
}

pub(super) async fn pump(
    running: &Running,
    context: &FetchContext,
    permit: &FetchPermit,
    stream: &Arc<Stream>,
    mut body: ResponseBody,
) -> BodyEnd {
    let max_body = context.request.max_body(running);
    let (mut length, mut passing) = (0_u64, false);
    let mut rate = ReaderRate(running.upstream.min_download_rate());
    // What has no known end may have none: nobody is left whom it is for.
    let is_endless = body.size_hint().exact().is_none();
    let mut abandoned = pin!(stream.abandoned_for(running.config.server.upstream_timeout));
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut abandoned, if is_endless => return BodyEnd::Abandoned,
            frame = next(&mut body, stream) => frame,
        };
        let Some(frame) = frame else { break };
        let chunk = match frame.map(Frame::into_data) {
            Ok(Ok(chunk)) => chunk,
            // RFC 9111 §3.1: trailer fields may be discarded.
            Ok(Err(_)) => continue,
            Err(error) => {
                tracing::warn!(path = context.request.http.target.path, %error, "response is not stored");
                return BodyEnd::Broken;
            }
        };
        let bytes = chunk.len() as u64;
        length += bytes;
        let has_room = if body.is_end_stream() { stream.push_last(chunk) } else { stream.push(chunk) };
        if length > SHARED_MAX {
            context.release_fleet_lock(false);
        }
        let is_too_large = length > max_body;
        if (is_too_large || !has_room) && !passing {
            passing = true;
            running.metrics.not_stored(if is_too_large { "too-large" } else { "no-room" });
            if is_too_large {
                running.inflight.remember_unshared(context.cache_key.hash, Instant::now());
            }
            permit.close();
            context.release_fleet_lock(false);
            context.forget_stale(running).await;
            stream.pass_on();
        }
        if passing && !rate.wait(running, stream, bytes).await {
            return BodyEnd::Abandoned;
        }
    }
    if passing { BodyEnd::PassedOn } else { BodyEnd::CompleteResponse(stream.whole()) }
}

/// The body of an error: kept for followers up to `ERROR_MAX`, and beyond that as far as the slowest reader needs it.
pub(super) async fn pass_error(running: &Running, stream: &Arc<Stream>, mut body: ResponseBody) {
    let (mut length, mut rate) = (0_u64, ReaderRate(running.upstream.min_download_rate()));
    let mut abandoned = pin!(stream.abandoned_for(running.config.server.upstream_timeout));
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut abandoned => return,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { return stream.finish(Ok(())) };
        // RFC 9110 §6.5.1: trailer fields may be discarded.
        let Ok(frame) = frame else { return };
        let Ok(chunk) = frame.into_data() else { continue };
        let bytes = chunk.len() as u64;
        length += bytes;
        stream.push(chunk);
        if length > ERROR_MAX {
            stream.pass_on();
            if !rate.wait(running, stream, bytes).await {
                return;
            }
        }
    }
}

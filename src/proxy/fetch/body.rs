//! Reads the body of a fetch from upstream into the shared stream.

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

/// Buffered of the body of a 5xx for followers that have not begun to read, bytes.
const ERROR_MAX: u64 = 64 << 10;

/// How a body ended.
pub(super) enum BodyEnd {
    /// Complete.
    Whole(Bytes),
    /// Complete, and too large to be stored.
    PassedOn,
    /// It broke off.
    Broken,
    /// Nobody reads a body that will not be stored, or that has no known end.
    Abandoned,
}

/// The next frame. Readers of small chunks are woken only when no more chunks are at hand.
async fn next(body: &mut ResponseBody, stream: &Stream) -> Option<Result<Frame<Bytes>, BodyError>> {
    if stream.is_to_be_shown() {
        for pause in [true, false] {
            if let Poll::Ready(frame) = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
                return frame;
            }
            if pause {
                // Lets the task of the connection read on.
                tokio::task::yield_now().await;
            }
        }
        stream.show();
    }
    body.frame().await
}

/// The least rate of the readers of a body that is not stored: the fetch keeps its place at upstream for them.
struct ReaderRate(MinRate);

impl ReaderRate {
    /// Waits until readers have taken enough for more to be read. `bytes`: read just before. Cuts off readers below the rate; false if
    /// none is left.
    async fn wait(&mut self, running: &Running, stream: &Stream, bytes: u64) -> bool {
        let mut since = Instant::now();
        loop {
            match stream.room(self.0.left()).await {
                Room::Some => break,
                Room::NoReaders => return false,
                // The others have their own time.
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
    // A body of unknown length may have no end: it is aborted when nobody reads it.
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
                tracing::warn!(path = context.request.client_request.target.path, %error, "response is not stored");
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
            context.remove_stale(running).await;
            stream.pass_on();
        }
        if passing && !rate.wait(running, stream, bytes).await {
            return BodyEnd::Abandoned;
        }
    }
    if passing { BodyEnd::PassedOn } else { BodyEnd::Whole(stream.whole()) }
}

/// Reads the body of a 5xx: buffered for followers up to `ERROR_MAX`, beyond that as far as the slowest reader is behind.
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

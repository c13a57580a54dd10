//! The body of a request on its way to upstream.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::content_copy::CopyTarget;
use super::{MinRate, Progress, Upload, UploadFault, upload};
use crate::client::Client;
use crate::client_conn::{Busy, ClientConn};
#[cfg(doc)]
use crate::http::headers;
use crate::shares::{Share, Shares};

/// Longest wait for a 100 (Continue): many servers never send one.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// The body of a request to upstream.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// Content in memory.
    Whole(Bytes),
    /// The client's content, streamed.
    Client(Box<ClientBody>),
}

/// Request content that the client is sending.
#[derive(Debug)]
pub struct ClientBody {
    /// Read ahead, before it was sent.
    begun: Bytes,
    /// The client's share of the buffers, for the bytes of `begun` that were copied.
    share: Option<Share>,
    incoming: Incoming,
    /// All of it has been read.
    has_ended: bool,
    /// As much as is read ahead has been.
    pub(super) is_received: bool,
    /// Bytes still to be sent, if the client gave a length.
    left: Option<u64>,
    pub(super) progress: Arc<Progress>,
    pub(super) upload: upload::UploadSender,
    /// Runs while the content waits for a 100. It is sent without one after that.
    continue_timeout: Option<Pin<Box<Sleep>>>,
    /// `None` while the time is not limited.
    pub(super) rate: Option<MinRate>,
    /// Why it ended early.
    fault: Option<UploadFault>,
    /// Where it is copied to while it is sent.
    pub(super) copy: Option<Box<CopyTarget>>,
    /// Keeps the client's connection busy while more may arrive.
    _busy: Option<Busy>,
}

impl ClientBody {
    /// The next part of the content. An error ends upstream's connection, so that upstream sees an incomplete message. It is
    /// returned only when a response that has begun has been read.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        if self.fault.is_none() {
            match ready!(self.poll_piece(cx)) {
                Ok(frame) => return Poll::Ready(frame.map(Ok)),
                Err(fault) => {
                    self.upload.0.fail(fault);
                    self.fault = Some(fault);
                }
            }
        }
        ready!(self.upload.0.poll_not_responding(cx));
        Poll::Ready(self.fault.map(Err))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UploadFault>> {
        ready!(self.poll_released(cx))?;
        let frame = if !self.begun.is_empty() {
            self.share = None;
            Some(Frame::data(std::mem::take(&mut self.begun)))
        } else if self.has_ended {
            None
        } else {
            // Trailers are dropped ([`headers::trailers`]), so they count as the end.
            ready!(self.poll_incoming(cx))?.filter(Frame::is_data)
        };
        if let (Some(target), Some(chunk)) = (&self.copy, frame.as_ref().and_then(Frame::data_ref)) {
            target.copy.add(chunk, &target.shares, target.client);
        }
        self.progress.note();
        if self.is_last(frame.as_ref())? {
            self.upload.0.complete()?;
        }
        Poll::Ready(Ok(frame))
    }

    /// Whether this is the last part of the content.
    fn is_last(&mut self, frame: Option<&Frame<Bytes>>) -> Result<bool, UploadFault> {
        let Some(frame) = frame else {
            return if self.left.is_none_or(|left| left == 0) { Ok(true) } else { Err(UploadFault::Broken) };
        };
        let Some(chunk) = frame.data_ref() else { return Ok(true) };
        self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
        Ok(self.left == Some(0) || self.is_over())
    }

    /// Whether nothing follows what has been sent.
    pub(super) fn is_over(&self) -> bool {
        let has_ended = self.has_ended || self.incoming.is_end_stream();
        has_ended && self.begun.is_empty()
    }

    /// Ready when the content may be sent.
    fn poll_released(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFault>> {
        let Some(timeout) = &mut self.continue_timeout else { return Poll::Ready(Ok(())) };
        if timeout.as_mut().poll(cx).is_ready() {
            self.upload.0.release();
        }
        ready!(self.upload.0.poll_released(cx))?;
        self.progress.note();
        self.continue_timeout = None;
        Poll::Ready(Ok(()))
    }

    /// Reads from the client, at no less than the minimum rate.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UploadFault>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        let frame = match (frame, &mut self.rate) {
            (Poll::Ready(frame), _) => frame.transpose().map_err(|_| UploadFault::Broken)?,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(rate)) => {
                ready!(rate.poll_too_slow(cx));
                return Poll::Ready(Err(UploadFault::Slow));
            }
        };
        if let Some(rate) = &mut self.rate {
            rate.received(frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len));
        }
        Poll::Ready(Ok(frame))
    }

    /// RFC 9110 §10.1.1: holds back content that the client sends only after a 100.
    pub(super) fn hold(&mut self) {
        self.upload.0.hold();
        self.continue_timeout = Some(Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
    }

    /// Reads until all has arrived, or more than `most` bytes. Content in several parts is copied; the copy counts for the
    /// client in `buffers`. When those are used up, no more is read ahead.
    pub(super) async fn receive(
        &mut self,
        buffers: &Arc<Shares>,
        client: Client,
        most: u64,
    ) -> Result<(), UploadFault> {
        let mut read = BytesMut::new();
        while !self.incoming.is_end_stream() && (self.begun.len() + read.len()) as u64 <= most {
            let Some(frame) = poll_fn(|cx| self.poll_incoming(cx)).await? else {
                self.has_ended = true;
                break;
            };
            // Trailers are dropped ([`headers::trailers`]).
            let Ok(chunk) = frame.into_data() else { continue };
            if self.begun.is_empty() && read.is_empty() && self.incoming.is_end_stream() {
                self.begun = chunk;
                break;
            }
            read.extend_from_slice(&chunk);
            let bytes = chunk.len() as u64;
            let counted = match &mut self.share {
                Some(share) => share.grow(bytes),
                none => buffers.take(client, bytes).map(|share| *none = Some(share)),
            };
            if counted.is_err() {
                self.is_received = true;
                break;
            }
        }
        self.has_ended |= self.incoming.is_end_stream();
        if !read.is_empty() {
            self.begun = [&*self.begun, &read].concat().into();
        }
        let is_short = self.has_ended && self.left.is_some_and(|left| left > self.begun.len() as u64);
        if is_short { Err(UploadFault::Broken) } else { Ok(()) }
    }
}

impl RequestBody {
    /// The body of a request on this client connection; `Empty` if it is known to be empty.
    pub fn of(body: Incoming, connection: Option<&Arc<ClientConn>>) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody::Empty;
        }
        let left = body.size_hint().exact();
        RequestBody::Client(Box::new(ClientBody {
            begun: Bytes::new(),
            share: None,
            has_ended: false,
            incoming: body,
            is_received: false,
            left,
            progress: Progress::new(),
            upload: upload::UploadSender::default(),
            continue_timeout: None,
            rate: None,
            fault: None,
            copy: None,
            _busy: connection.map(ClientConn::begin),
        }))
    }

    /// The state of the transfer; `None` for content that was in memory from the start.
    pub fn upload(&self) -> Option<Arc<Upload>> {
        match self {
            RequestBody::Client(body) => Some(Arc::clone(&body.upload.0)),
            RequestBody::Empty | RequestBody::Whole(_) => None,
        }
    }

    /// All of the content, if all has arrived.
    pub fn at_hand(&self) -> Option<&[u8]> {
        match self {
            RequestBody::Empty => Some(&[]),
            RequestBody::Whole(content) => Some(content),
            RequestBody::Client(body) => body.has_ended.then_some(&body.begun[..]),
        }
    }

    /// All of the content, if all has arrived; else the body itself.
    pub fn into_whole(self) -> Result<Bytes, RequestBody> {
        match self {
            RequestBody::Empty => Ok(Bytes::new()),
            RequestBody::Whole(content) => Ok(content),
            RequestBody::Client(body) if body.has_ended => Ok(body.begun),
            body @ RequestBody::Client(_) => Err(body),
        }
    }

    /// A copy; `None` for streamed content, which can be read only once.
    pub(super) fn copy(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Empty => Some(RequestBody::Empty),
            RequestBody::Whole(content) => Some(RequestBody::Whole(content.clone())),
            RequestBody::Client(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(content) if content.is_empty() => Poll::Ready(None),
            RequestBody::Whole(content) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(content))))),
            RequestBody::Client(body) => body.poll_content(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(content) => content.is_empty(),
            RequestBody::Client(body) => body.fault.is_none() && body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(content) => SizeHint::with_exact(content.len() as u64),
            RequestBody::Client(body) => body.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

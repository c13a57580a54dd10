//! A response body that keeps its connection busy until it is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::client_conn::Busy;
use crate::proxy::Body;
use crate::proxy::body::ClientBodyError;

/// A response body with the guard of its connection.
pub(super) struct Tracked {
    pub body: Body,
    #[expect(dead_code, reason = "held, and dropped with the body")]
    pub busy: Busy,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

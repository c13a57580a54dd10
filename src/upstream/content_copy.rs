//! A copy of request content that is made while the content goes to upstream, for rules that take values from it.

use std::sync::{Arc, Mutex, PoisonError};

use super::{RequestBody, ResponseBody, Upstream};
use crate::client::Client;
use crate::shares::{Share, Shares};

/// The beginning of the content that has been sent so far.
#[derive(Debug)]
pub struct ContentCopy {
    most: u64,
    state: Mutex<CopyState>,
}

#[derive(Debug)]
enum CopyState {
    /// All of it so far, with the client's share of the buffers.
    Whole(Vec<u8>, Option<Share>),
    /// More than fits into the limit, or into the client's share.
    TooLarge,
}

impl ContentCopy {
    fn new(most: u64) -> ContentCopy {
        ContentCopy { most, state: Mutex::new(CopyState::Whole(Vec::new(), None)) }
    }

    /// Adds what is sent next.
    pub(super) fn add(&self, chunk: &[u8], shares: &Arc<Shares>, client: Client) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let CopyState::Whole(bytes, share) = &mut *state else { return };
        let more = chunk.len() as u64;
        let is_counted = match share {
            Some(share) => share.grow(more).is_ok(),
            none => shares.take(client, more).map(|taken| *none = Some(taken)).is_ok(),
        };
        if is_counted && bytes.len() as u64 + more <= self.most {
            bytes.extend_from_slice(chunk);
        } else {
            *state = CopyState::TooLarge;
        }
    }

    /// Reads what has been sent so far; `None` if it was too large to copy.
    pub fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            CopyState::Whole(bytes, _) => Some(read(bytes)),
            CopyState::TooLarge => None,
        }
    }
}

/// Where content is copied to while it is sent.
#[derive(Debug)]
pub(super) struct CopyTarget {
    pub copy: Arc<ContentCopy>,
    pub shares: Arc<Shares>,
    pub client: Client,
}

impl Upstream {
    /// Copies up to `most` bytes of content while it is sent. `None` if it is not streamed.
    pub fn copy_content(&self, client: Client, body: &mut RequestBody, most: u64) -> Option<Arc<ContentCopy>> {
        let RequestBody::Client(body) = body else { return None };
        let copy = Arc::new(ContentCopy::new(most));
        let target = CopyTarget { copy: Arc::clone(&copy), shares: Arc::clone(&self.copies), client };
        body.copy = Some(Box::new(target));
        Some(copy)
    }

    /// Receives a response's content of up to `most` bytes before it goes to the client, for at most as long as a response
    /// may take to begin. Returns all of it; `None` if it is longer, slower, or breaks off. The body is as before.
    pub async fn receive_response<'b>(
        &self,
        client: Client,
        body: &'b mut ResponseBody,
        most: u64,
    ) -> Option<&'b [u8]> {
        let share = self.copies.take(client, most).ok()?;
        body.receive_within(most, self.response_timeout, share).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_ends_at_its_limit_and_at_the_clients_share() {
        let shares = Shares::new(8, 8);
        let copied = |most, chunks: &[&[u8]]| {
            let copy = ContentCopy::new(most);
            chunks.iter().for_each(|chunk| copy.add(chunk, &shares, Client::LARDER));
            copy.read(<[u8]>::to_vec)
        };
        assert_eq!(copied(4, &[b"ab", b"cd"]).as_deref(), Some(&b"abcd"[..]));
        assert_eq!(copied(4, &[b"ab", b"cd", b"e"]), None);
        assert_eq!(copied(100, &[b"abcdefgh", b"i"]), None);
        assert_eq!(copied(4, &[]).as_deref(), Some(&b""[..]));
        assert_eq!(
            copied(100, &[b"abcdefgh"]).as_deref(),
            Some(&b"abcdefgh"[..]),
            "dropped copies free their share"
        );
    }
}

//! Notices of invalidations, for warming. Any may be lost: nothing that is served depends on them.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::marks::Tag;
use crate::store::fleet::Message;

/// Receives the tags of each invalidation.
pub enum InvalidationNotices {
    /// Those of this process, where there is no Redis.
    Local(broadcast::Receiver<Arc<[Tag]>>),
    /// Those of all proxies of the fleet.
    Fleet(broadcast::Receiver<Message>),
}

impl InvalidationNotices {
    /// The tags of the next invalidation; the root tag if they are not told. Never returns once nothing can come any more.
    pub async fn next(&mut self) -> Vec<Tag> {
        loop {
            let (tags, error) = match self {
                InvalidationNotices::Local(notices) => match notices.recv().await {
                    Ok(tags) => (Some(tags.to_vec()), None),
                    Err(error) => (None, Some(error)),
                },
                InvalidationNotices::Fleet(messages) => match messages.recv().await {
                    Ok(Message::Nudge { tags, .. }) => (Some(tags.unwrap_or_else(|| vec![Tag::root()])), None),
                    Ok(_) => (None, None),
                    Err(error) => (None, Some(error)),
                },
            };
            match (tags, error) {
                (Some(tags), _) => return tags,
                (None, Some(RecvError::Lagged(_))) => return vec![Tag::root()],
                (None, Some(RecvError::Closed)) => std::future::pending().await,
                (None, None) => {}
            }
        }
    }
}

//! Listens to the fleet's channel on a connection of its own, to the server that keeps the marks. Whatever happens to it, the link and every promise stay as
//! they are: a proxy that hears nothing syncs at its own pace, and writes wait for it a little longer.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{ProtocolVersion, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, timeout};

use super::dialer::untimed;
use super::link::{Keeper, Pauses};
use super::refusal::Refusal;
use super::{HEARTBEAT, Link};
use crate::config::store_url::ServerAddress;
use crate::store::fleet::Message;

/// Messages that a receiver may be behind before it misses some.
pub(super) const BEHIND_MAX: usize = 1024;

/// Subscribes, listens, subscribes again: for as long as the store lives, and whenever the link is up.
pub(super) async fn listen(link: Arc<Keeper>, channel: String, messages: broadcast::Sender<Message>) {
    let (mut state, mut pauses, mut told) = (link.changes(), Pauses::default(), None);
    // A server that is away is the link's to find, and to log.
    while state.wait_for(|link| *link == Link::Up).await.is_ok() {
        let Some(place) = link.place() else { continue };
        let reason = match Subscription::begin(&link, &place, &channel, &messages).await {
            Ok(subscription) => {
                let begun = Instant::now();
                tracing::debug!(channel, "subscribed");
                told = None;
                let reason = subscription.end(&link, &place, &mut state).await;
                pauses.lived(begun.elapsed());
                match reason {
                    Some(reason) => reason,
                    None => continue,
                }
            }
            Err(reason) => reason,
        };
        // Once, however often it is met again.
        if told.as_ref() != Some(&reason) {
            tracing::warn!(channel, reason, "nothing is heard in the channel; until it is, writes wait longer");
            told = Some(reason);
        }
        pauses.rest().await;
    }
}

/// A connection that is subscribed.
struct Subscription {
    connection: MultiplexedConnection,
    /// Told when the connection has ended.
    ended: Arc<Notify>,
}

impl Subscription {
    /// Connects and subscribes within the connect time limit; gives the reason why not.
    async fn begin(
        link: &Keeper,
        place: &ServerAddress,
        channel: &str,
        messages: &broadcast::Sender<Message>,
    ) -> Result<Subscription, String> {
        let limit = link.connect_timeout();
        match timeout(limit, Subscription::open(link, place, channel, messages.clone())).await {
            Ok(Ok(subscription)) => Ok(subscription),
            Ok(Err(error)) => Err(Refusal::of(&error).reason),
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(limit))),
        }
    }

    async fn open(
        link: &Keeper,
        place: &ServerAddress,
        channel: &str,
        messages: broadcast::Sender<Message>,
    ) -> RedisResult<Subscription> {
        // Only in this version of the protocol does a subscribed connection answer PING as any other does.
        let client = link.dialer().client(place, ProtocolVersion::RESP3)?;
        let ended = Arc::new(Notify::new());
        let end = Arc::clone(&ended);
        // Handed on at once, and to a channel that forgets the oldest, so that nothing piles up before a slow reader.
        let config = untimed().set_push_sender(move |push: PushInfo| -> Result<(), ()> {
            match push.kind {
                PushKind::Disconnection => end.notify_one(),
                PushKind::Message => pass_on(&push.data, &messages),
                _ => {}
            }
            Ok(())
        });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        connection.subscribe(channel).await?;
        Ok(Subscription { connection, ended })
    }

    /// Returns when the subscription has ended, with the reason; None if the marks are elsewhere now. Tries the connection
    /// now and then.
    async fn end(
        mut self,
        link: &Keeper,
        place: &ServerAddress,
        state: &mut watch::Receiver<Link>,
    ) -> Option<String> {
        loop {
            tokio::select! {
                () = self.ended.notified() => return Some("the connection was closed".to_owned()),
                _ = state.changed() => {}
                () = sleep(HEARTBEAT) => if let Some(reason) = self.silence(link).await { return Some(reason) },
            }
            if link.place().is_some_and(|now| now != *place) {
                return None;
            }
        }
    }

    /// Why the server does not answer; None if it does.
    async fn silence(&mut self, link: &Keeper) -> Option<String> {
        let beat = redis::cmd("PING");
        match timeout(link.timeout(), beat.query_async::<()>(&mut self.connection)).await {
            Ok(answer) => answer.err().map(|error| Refusal::of(&error).reason),
            Err(_) => Some(format!("no answer within {}", humantime::format_duration(link.timeout()))),
        }
    }
}

/// A message is the channel's name and a payload. What cannot be read is of another version, or the trial of a proxy that
/// connects.
fn pass_on(data: &[Value], messages: &broadcast::Sender<Message>) {
    let [_, Value::BulkString(payload)] = data else { return };
    let message = std::str::from_utf8(payload).ok().and_then(Message::read);
    // An error means that nobody listens now.
    let _ = message.map(|message| messages.send(message));
}

//! Subscribes to the fleet's channel on its own connection to the server that holds the marks. Its failure affects neither
//! the link nor any guarantee: a proxy that receives nothing syncs at its own interval, and writes wait for it a little
//! longer.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{ProtocolVersion, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, timeout};

use super::dialer::untimed;
use super::errors::RedisFault;
use super::link::{Connector, Pauses};
use super::{HEARTBEAT, Link};
use crate::config::store_url::ServerAddress;
use crate::store::fleet::Message;

/// Messages that are buffered for a receiver before it misses some.
pub(super) const BEHIND_MAX: usize = 1024;

/// Subscribes and resubscribes for as long as the store exists, whenever the link is up.
pub(super) async fn listen(link: Arc<Connector>, channel: String, messages: broadcast::Sender<Message>) {
    let (mut state, mut pauses, mut logged) = (link.changes(), Pauses::default(), None);
    // The link detects and logs an unreachable server.
    while state.wait_for(|link| *link == Link::Up).await.is_ok() {
        let Some(place) = link.place() else { continue };
        let reason = match ChannelConnection::begin(&link, &place, &channel, &messages).await {
            Ok(subscription) => {
                let begun = Instant::now();
                tracing::debug!(channel, "subscribed");
                logged = None;
                let reason = subscription.end(&link, &place, &mut state).await;
                pauses.lived(begun.elapsed());
                match reason {
                    Some(reason) => reason,
                    None => continue,
                }
            }
            Err(reason) => reason,
        };
        // Once, however often it repeats.
        if logged.as_ref() != Some(&reason) {
            tracing::warn!(channel, reason, "cannot subscribe to the channel; writes wait longer until it works");
            logged = Some(reason);
        }
        pauses.rest().await;
    }
}

/// A connection with a subscription.
struct ChannelConnection {
    connection: MultiplexedConnection,
    /// Notified when the connection has ended.
    ended: Arc<Notify>,
}

impl ChannelConnection {
    /// Connects and subscribes within the connect time limit; the error is the reason of the failure.
    async fn begin(
        link: &Connector,
        place: &ServerAddress,
        channel: &str,
        messages: &broadcast::Sender<Message>,
    ) -> Result<ChannelConnection, String> {
        let limit = link.connect_timeout();
        match timeout(limit, ChannelConnection::open(link, place, channel, messages.clone())).await {
            Ok(Ok(subscription)) => Ok(subscription),
            Ok(Err(error)) => Err(RedisFault::of(&error).reason),
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(limit))),
        }
    }

    async fn open(
        link: &Connector,
        place: &ServerAddress,
        channel: &str,
        messages: broadcast::Sender<Message>,
    ) -> RedisResult<ChannelConnection> {
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
        Ok(ChannelConnection { connection, ended })
    }

    /// Returns the reason when the subscription has ended; None if another server holds the marks now. Checks the connection
    /// at intervals.
    async fn end(
        mut self,
        link: &Connector,
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

    /// Pings the server; the reason if it does not answer.
    async fn silence(&mut self, link: &Connector) -> Option<String> {
        let beat = redis::cmd("PING");
        match timeout(link.timeout(), beat.query_async::<()>(&mut self.connection)).await {
            Ok(answer) => answer.err().map(|error| RedisFault::of(&error).reason),
            Err(_) => Some(format!("no answer within {}", humantime::format_duration(link.timeout()))),
        }
    }
}

/// Forwards a message: the channel's name and a payload. A payload that cannot be parsed is of another version, or the
/// check of `begin.lua`.
fn pass_on(data: &[Value], messages: &broadcast::Sender<Message>) {
    let [_, Value::BulkString(payload)] = data else { return };
    let message = std::str::from_utf8(payload).ok().and_then(Message::read);
    // An error means that there is no receiver now.
    let _ = message.map(|message| messages.send(message));
}

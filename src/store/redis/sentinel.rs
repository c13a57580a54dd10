//! Asks the sentinels for the primary. A deposed primary may go on answering, so they are asked again while it is in use.
//! The answer with the highest configuration epoch wins: it knows of the latest failover that a majority has agreed on (Redis Sentinel, "Configuration epochs").

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dialer::Dialer;
use super::errors::{RedisFault, malformed_reply, server_message};
use crate::config::store_url::ServerAddress;
use crate::mutex::lock;

#[derive(Debug)]
pub(super) struct Sentinels {
    dialer: Arc<Dialer>,
    places: Vec<ServerAddress>,
    /// The primary's name.
    name: String,
    /// Time limit for all of them.
    limit: Duration,
    /// Connections to the sentinels that answered the last time.
    connections: Mutex<BTreeMap<ServerAddress, MultiplexedConnection>>,
}

/// A sentinel's answer. Ordered by configuration epoch.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SentinelReply {
    epoch: u64,
    primary: ServerAddress,
}

impl Sentinels {
    pub(super) fn new(
        dialer: Arc<Dialer>,
        places: Vec<ServerAddress>,
        name: String,
        limit: Duration,
    ) -> Sentinels {
        Sentinels { dialer, places, name, limit, connections: Mutex::default() }
    }

    /// The address of the primary. Asks all sentinels at the same time.
    ///
    /// # Errors
    ///
    /// No sentinel knows it. Of several errors, one that an operator must fix comes first.
    pub(super) async fn primary(self: &Arc<Sentinels>) -> RedisResult<ServerAddress> {
        let mut asked = JoinSet::new();
        for place in self.places.clone() {
            let sentinels = Arc::clone(self);
            asked.spawn(async move { sentinels.ask(&place).await });
        }
        let (mut latest, mut failure) = (None, None);
        for answer in asked.join_all().await {
            match answer {
                Ok(reply) => latest = latest.max(Some(reply)),
                Err(error) if failure.is_none() || RedisFault::of(&error).lasting => failure = Some(error),
                Err(_) => {}
            }
        }
        match (latest, failure) {
            (Some(reply), _) => Ok(reply.primary),
            (None, Some(failure)) => Err(with_sentinel_remedy(failure)),
            (None, None) => Err(malformed_reply("no sentinel is known")),
        }
    }

    async fn ask(&self, place: &ServerAddress) -> RedisResult<SentinelReply> {
        let known = lock(&self.connections).remove(place);
        let answer = async {
            let mut connection = match known {
                Some(connection) => connection,
                None => self.dialer.open(place).await?,
            };
            let mut question = redis::cmd("SENTINEL");
            let fields = question.arg("MASTER").arg(&self.name).query_async(&mut connection).await?;
            Ok((connection, fields))
        };
        let (connection, fields) = timeout(self.limit, answer).await.unwrap_or_else(|_| Err(silent(place)))?;
        lock(&self.connections).insert(place.clone(), connection);
        SentinelReply::read(&fields)
            .ok_or_else(|| malformed_reply("the answer to SENTINEL MASTER cannot be parsed"))
    }
}

/// Names the credentials of the sentinels as the remedy, instead of those of the servers.
fn with_sentinel_remedy(failure: RedisError) -> RedisError {
    let message = server_message(&failure);
    let is_about_credentials = failure.kind() == ErrorKind::AuthenticationFailed
        || ["NOAUTH", "NOPERM", "WRONGPASS"].iter().any(|code| message.starts_with(code));
    if !is_about_credentials {
        return failure;
    }
    let remedy = "correct ?sentinel_user=…&sentinel_password=… in `[store] redis`";
    let what = format!("{message}; {remedy}; a user of theirs needs +sentinel|master");
    (ErrorKind::InvalidClientConfig, "the sentinels refuse the user or password", what).into()
}

fn silent(place: &ServerAddress) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, format!("the sentinel at {place} does not answer")).into()
}

impl SentinelReply {
    fn read(fields: &HashMap<String, String>) -> Option<SentinelReply> {
        let host = fields.get("ip").filter(|host| !host.is_empty())?.clone();
        let primary = ServerAddress { host, port: fields.get("port")?.parse().ok()? };
        Some(SentinelReply { epoch: fields.get("config-epoch")?.parse().ok()?, primary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(ip: &str, port: &str, epoch: &str) -> Option<SentinelReply> {
        let fields = [("name", "m"), ("ip", ip), ("port", port), ("flags", "master"), ("config-epoch", epoch)];
        SentinelReply::read(&fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    #[test]
    fn the_reply_with_the_highest_configuration_epoch_wins() {
        let replies =
            [reply("10.0.0.9", "6379", "3"), reply("10.0.0.1", "6380", "10"), reply("10.0.0.9", "6379", "9")];
        let latest = replies.into_iter().max().flatten().unwrap();
        assert_eq!(latest.primary.to_string(), "10.0.0.1:6380");
    }

    #[test]
    fn malformed_replies_are_refused() {
        assert_eq!(reply("", "6379", "3"), None);
        assert_eq!(reply("10.0.0.9", "-1", "3"), None);
        assert_eq!(reply("10.0.0.9", "6379", "x"), None);
        assert_eq!(SentinelReply::read(&HashMap::new()), None);
    }
}

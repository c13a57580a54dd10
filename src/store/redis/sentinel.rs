//! Sentinels: who the primary is. A deposed primary may go on answering for as long as it likes, so they are asked again
//! while it is in use. The sentinel with the highest configuration epoch is believed: it knows of the latest failover
//! that a majority of them has agreed on (Redis Sentinel, "Configuration epochs").

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dialer::Dialer;
use super::refusal::{Refusal, told};
use super::view::not_an_answer;
use crate::config::store_url::ServerAddress;

#[derive(Debug)]
pub(super) struct Sentinels {
    dialer: Arc<Dialer>,
    places: Vec<ServerAddress>,
    /// The primary's name.
    name: String,
    /// For all of them to answer.
    limit: Duration,
    /// Those who answered when they were asked last.
    connections: Mutex<BTreeMap<ServerAddress, MultiplexedConnection>>,
}

/// What a sentinel says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Word {
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

    /// Where the primary is. All are asked at the same time.
    ///
    /// # Errors
    ///
    /// None of them knows; of their answers the one that somebody has to do something about.
    pub(super) async fn primary(self: &Arc<Sentinels>) -> RedisResult<ServerAddress> {
        let mut asked = JoinSet::new();
        for place in self.places.clone() {
            let sentinels = Arc::clone(self);
            asked.spawn(async move { sentinels.ask(&place).await });
        }
        let (mut latest, mut failure) = (None, None);
        for answer in asked.join_all().await {
            match answer {
                Ok(word) => latest = latest.max(Some(word)),
                Err(error) if failure.is_none() || Refusal::of(&error).lasting => failure = Some(error),
                Err(_) => {}
            }
        }
        match (latest, failure) {
            (Some(word), _) => Ok(word.primary),
            (None, Some(failure)) => Err(as_of_sentinels(failure)),
            (None, None) => Err(not_an_answer("no sentinel is known")),
        }
    }

    async fn ask(&self, place: &ServerAddress) -> RedisResult<Word> {
        let known = self.lock().remove(place);
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
        self.lock().insert(place.clone(), connection);
        Word::read(&fields).ok_or_else(|| not_an_answer("SENTINEL MASTER tells something else"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, MultiplexedConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Credentials are those of the sentinels, not of the servers.
fn as_of_sentinels(failure: RedisError) -> RedisError {
    let told = told(&failure);
    let is_stranger = failure.kind() == ErrorKind::AuthenticationFailed
        || ["NOAUTH", "NOPERM", "WRONGPASS"].iter().any(|code| told.starts_with(code));
    if !is_stranger {
        return failure;
    }
    let remedy = "correct ?sentinel_user=…&sentinel_password=… in `[store] redis`";
    let what = format!("{told}; {remedy}; a user of theirs needs +sentinel|master");
    (ErrorKind::InvalidClientConfig, "the sentinels ask for another user or password", what).into()
}

fn silent(place: &ServerAddress) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, format!("the sentinel at {place} does not answer")).into()
}

impl Word {
    fn read(fields: &HashMap<String, String>) -> Option<Word> {
        let host = fields.get("ip").filter(|host| !host.is_empty())?.clone();
        let primary = ServerAddress { host, port: fields.get("port")?.parse().ok()? };
        Some(Word { epoch: fields.get("config-epoch")?.parse().ok()?, primary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(ip: &str, port: &str, epoch: &str) -> Option<Word> {
        let fields = [("name", "m"), ("ip", ip), ("port", port), ("flags", "master"), ("config-epoch", epoch)];
        Word::read(&fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    #[test]
    fn who_knows_of_the_latest_failover_is_believed() {
        let words = [word("10.0.0.9", "6379", "3"), word("10.0.0.1", "6380", "10"), word("10.0.0.9", "6379", "9")];
        let latest = words.into_iter().max().flatten().unwrap();
        assert_eq!(latest.primary.to_string(), "10.0.0.1:6380");
    }

    #[test]
    fn an_answer_without_an_address_is_none() {
        assert_eq!(word("", "6379", "3"), None);
        assert_eq!(word("10.0.0.9", "-1", "3"), None);
        assert_eq!(word("10.0.0.9", "6379", "x"), None);
        assert_eq!(Word::read(&HashMap::new()), None);
    }
}

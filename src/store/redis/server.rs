//! What a connection learns of the process at its other end, before anything else is asked on it.

use std::collections::BTreeMap;
use std::io;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult};

use super::info_fields;
use super::view::not_an_answer;

/// The oldest server that has `ZMSCORE` and scripts that may read the clock before they write.
const VERSION_MIN: (u32, u32) = (6, 2);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) run_id: String,
    /// `Redis 7.0.15`, for people.
    pub(super) version: String,
    pub(super) is_primary: bool,
    /// `standalone`, `cluster`, `sentinel`, or what else it calls itself; empty if it does not say.
    mode: String,
}

impl Server {
    pub(super) async fn at(connection: &mut MultiplexedConnection) -> RedisResult<Server> {
        let text: Vec<u8> = redis::cmd("INFO").query_async(connection).await?;
        Server::from_info(&info_fields(&text))
    }

    /// Two connections must have met the same process.
    pub(super) fn must_be(&self, other: &Server) -> RedisResult<()> {
        match self == other {
            true => Ok(()),
            false => Err(io::Error::other("the server was replaced while connecting").into()),
        }
    }

    /// A URL of one server must not lead to one of several: its promises are another matter.
    pub(super) fn must_stand_alone(&self) -> RedisResult<()> {
        let remedy = match self.mode.as_str() {
            "cluster" => "it is a node of a cluster; write redis+cluster:// (rediss+cluster:// for TLS)",
            "sentinel" => {
                "it is a sentinel; write redis+sentinel://host:port/primary (rediss+sentinel:// for TLS)"
            }
            _ => return Ok(()),
        };
        Err((ErrorKind::InvalidClientConfig, "the URL does not fit the server", remedy.to_owned()).into())
    }

    fn from_info(fields: &BTreeMap<String, String>) -> RedisResult<Server> {
        let field = |name: &str| fields.get(name).cloned();
        let mode = field("redis_mode").or_else(|| field("server_mode")).unwrap_or_default();
        // A sentinel has a run_id and no role; it is told apart before.
        let is_primary = field("role").is_none_or(|role| role == "master");
        let run_id = field("run_id").ok_or_else(|| not_an_answer("INFO tells no run_id"))?;
        let version = field("redis_version").ok_or_else(|| not_an_answer("INFO tells no redis_version"))?;
        if version_of(&version).is_none_or(|version| version < VERSION_MIN) {
            let (major, minor) = VERSION_MIN;
            let needed = format!("it is {version}, and {major}.{minor} or later is needed");
            return Err((ErrorKind::InvalidClientConfig, "the server's version is not supported", needed).into());
        }
        // Valkey tells the Redis version it is compatible with, and its own.
        let version = match field("valkey_version") {
            Some(own) => format!("Valkey {own}"),
            None => format!("Redis {version}"),
        };
        Ok(Server { run_id, version, is_primary, mode })
    }
}

/// Major and minor.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Refusal;
    use super::*;

    fn server(info: &str) -> RedisResult<Server> {
        Server::from_info(&info_fields(info.as_bytes()))
    }

    #[test]
    fn a_server_needs_an_identity_and_a_version_that_has_the_commands() {
        let valkey = server("# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.0\r\nrun_id:a1\r\n").unwrap();
        assert_eq!((valkey.run_id.as_str(), valkey.version.as_str()), ("a1", "Valkey 8.1.0"));
        assert_eq!(server("redis_version:6.2.0\nrun_id:a1").unwrap().version, "Redis 6.2.0");
        assert_eq!(server("redis_version:10.0.1\nrun_id:a1").unwrap().version, "Redis 10.0.1");
        let old = server("redis_version:6.0.16\nrun_id:a1").unwrap_err();
        assert!(Refusal::of(&old).reason.contains("it is 6.0.16, and 6.2 or later is needed"), "{old}");
        assert!(Refusal::of(&old).lasting);
        assert!(server("redis_version:7.0.0").is_err());
        assert!(server("redis_version:unstable\nrun_id:a1").is_err());
        assert!(server("").is_err());
    }

    #[test]
    fn a_server_says_what_it_is() {
        let info = |rest: &str| server(&format!("redis_version:7.0.0\nrun_id:a1\n{rest}")).unwrap();
        assert!(info("role:master").is_primary && !info("role:slave").is_primary);
        assert!(info("redis_mode:standalone").must_stand_alone().is_ok() && info("").must_stand_alone().is_ok());
        for (mode, scheme) in
            [("redis_mode:cluster", "redis+cluster://"), ("server_mode:sentinel", "redis+sentinel://")]
        {
            let refusal = Refusal::of(&info(mode).must_stand_alone().unwrap_err());
            assert!(refusal.lasting && refusal.reason.contains(scheme), "{}", refusal.reason);
        }
        assert!(info("").must_be(&info("role:slave")).is_err());
    }
}

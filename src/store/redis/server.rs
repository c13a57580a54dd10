//! Identity, version and mode of the server at the other end of a connection, read before any other command.

use std::collections::BTreeMap;
use std::io;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult};

use super::errors::malformed_reply;
use super::info_fields;

/// Oldest version with `ZMSCORE` and scripts that may read the clock before they write.
const VERSION_MIN: (u32, u32) = (6, 2);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) run_id: String,
    /// For example `Redis 7.0.15`, for the log.
    pub(super) version: String,
    pub(super) is_primary: bool,
    /// `standalone`, `cluster`, `sentinel`, or any other text; empty if `INFO` has none.
    mode: String,
}

impl Server {
    pub(super) async fn at(connection: &mut MultiplexedConnection) -> RedisResult<Server> {
        let text: Vec<u8> = redis::cmd("INFO").query_async(connection).await?;
        Server::from_info(&info_fields(&text))
    }

    /// Fails unless both connections are to the same process.
    pub(super) fn must_be(&self, other: &Server) -> RedisResult<()> {
        match self == other {
            true => Ok(()),
            false => Err(io::Error::other("the server was replaced while connecting").into()),
        }
    }

    /// Fails if a URL for a single server leads to a node of a cluster or to a sentinel, which need another topology.
    pub(super) fn must_stand_alone(&self) -> RedisResult<()> {
        let remedy = match self.mode.as_str() {
            "cluster" => "the server is a node of a cluster; write redis+cluster:// (rediss+cluster:// for TLS)",
            "sentinel" => {
                "the server is a sentinel; write redis+sentinel://host:port/primary (rediss+sentinel:// for TLS)"
            }
            _ => return Ok(()),
        };
        Err((ErrorKind::InvalidClientConfig, "the URL does not fit the server", remedy.to_owned()).into())
    }

    fn from_info(fields: &BTreeMap<String, String>) -> RedisResult<Server> {
        let field = |name: &str| fields.get(name).cloned();
        let mode = field("redis_mode").or_else(|| field("server_mode")).unwrap_or_default();
        // A sentinel has a run_id and no role; `must_stand_alone` refuses it.
        let is_primary = field("role").is_none_or(|role| role == "master");
        let run_id = field("run_id").ok_or_else(|| malformed_reply("INFO has no run_id"))?;
        let version = field("redis_version").ok_or_else(|| malformed_reply("INFO has no redis_version"))?;
        if version_of(&version).is_none_or(|version| version < VERSION_MIN) {
            let (major, minor) = VERSION_MIN;
            let needed = format!("the server is {version}; {major}.{minor} or later is required");
            return Err((ErrorKind::InvalidClientConfig, "the server's version is not supported", needed).into());
        }
        // Valkey reports the Redis version that it is compatible with, and its own.
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
    use super::super::errors::RedisFault;
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
        assert!(RedisFault::of(&old).reason.contains("the server is 6.0.16; 6.2 or later is required"), "{old}");
        assert!(RedisFault::of(&old).lasting);
        assert!(server("redis_version:7.0.0").is_err());
        assert!(server("redis_version:unstable\nrun_id:a1").is_err());
        assert!(server("").is_err());
    }

    #[test]
    fn mode_and_role_are_read_from_info() {
        let info = |rest: &str| server(&format!("redis_version:7.0.0\nrun_id:a1\n{rest}")).unwrap();
        assert!(info("role:master").is_primary && !info("role:slave").is_primary);
        assert!(info("redis_mode:standalone").must_stand_alone().is_ok() && info("").must_stand_alone().is_ok());
        for (mode, scheme) in
            [("redis_mode:cluster", "redis+cluster://"), ("server_mode:sentinel", "redis+sentinel://")]
        {
            let fault = RedisFault::of(&info(mode).must_stand_alone().unwrap_err());
            assert!(fault.lasting && fault.reason.contains(scheme), "{}", fault.reason);
        }
        assert!(info("").must_be(&info("role:slave")).is_err());
    }
}

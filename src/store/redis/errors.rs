//! Classifies errors of the server: is the connection usable after it, and does an operator have to act.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

/// Errors of a server that takes no writes now: a replica, or one that loads its snapshot, is full, cannot save, or is cut
/// off from its replicas. Another server may acknowledge writes meanwhile, so that its marks prove nothing.
const NO_WRITES: [&str; 7] = ["READONLY", "LOADING", "MASTERDOWN", "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN"];

/// Other temporary errors.
const TEMPORARY: [&str; 3] = ["BUSY", "TRYAGAIN", "ERR max number of clients reached"];

/// Errors of a cluster node that does not hold the slot, or is handing it over.
const ELSEWHERE: [&str; 2] = ["MOVED", "ASK"];

/// Errors about a missing permission; the second and third occur within a script, in versions 7 and 8.
const NO_PERMISSION: [&str; 3] = ["NOPERM", "The user executing the script can't", "ACL failure in script"];

/// Whether the connection and the marks read on it can be trusted after an error.
pub(super) fn is_usable_after(error: &RedisError) -> bool {
    let is_lost = matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse);
    !is_lost && !is_elsewhere(error) && !is_any_of(&server_message(error), &NO_WRITES)
}

/// Whether another node of the cluster may hold the key.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    let message = server_message(error);
    is_any_of(&message, &ELSEWHERE) || is_any_of(&message, &["CLUSTERDOWN"])
}

fn is_any_of(message: &str, codes: &[&str]) -> bool {
    // Up to 6.2 an error inside a script is wrapped in another: `ERR Error running script …: -READONLY You can't …`.
    codes.iter().any(|code| message.starts_with(code) || message.contains(&format!("-{code} ")))
}

/// Why a server cannot be used; `lasting` if an operator must change something first.
pub(super) struct RedisFault {
    pub(super) lasting: bool,
    pub(super) reason: String,
}

impl RedisFault {
    pub(super) fn of(error: &RedisError) -> RedisFault {
        let message = server_message(error);
        let (lasting, reason) = match error.kind() {
            ErrorKind::AuthenticationFailed => {
                (true, "wrong user or password; correct them in `[store] redis`".to_owned())
            }
            ErrorKind::Io if is_tls(error) => (
                true,
                format!(
                    "TLS: {message}; correct the certificate, `[store] tls_ca`, or the scheme of `[store] redis`"
                ),
            ),
            ErrorKind::Io => (false, message),
            _ if message.starts_with("NOAUTH") => {
                (true, "the server requires a password; add it to `[store] redis`".to_owned())
            }
            _ if NO_PERMISSION.iter().any(|part| message.contains(part)) => (true, {
                let remedy = "grant what deploy/README.md lists, including the channel {namespace}:fleet";
                format!("the user of `[store] redis` lacks a permission: {message}; {remedy}")
            }),
            _ if message.contains("cluster support disabled") => {
                (true, format!("the server is not in cluster mode ({message}); write redis:// or rediss://"))
            }
            _ if message.contains("unknown command") && message.to_lowercase().contains("sentinel") => {
                (true, "the server is not a sentinel; write the addresses and ports of the sentinels".to_owned())
            }
            _ if message.contains("No such master") => {
                let remedy = "correct what follows the hosts in `[store] redis`";
                (true, format!("the sentinels know no primary of this name; {remedy}"))
            }
            _ if is_any_of(&message, &ELSEWHERE) => {
                (false, format!("another node of the cluster holds the marks: {message}"))
            }
            _ if is_any_of(&message, &NO_WRITES) => (false, format!("the server takes no writes: {message}")),
            _ => (!is_any_of(&message, &TEMPORARY), message),
        };
        RedisFault { lasting, reason }
    }

    /// No answer within the time limit.
    pub(super) fn silent(limit: Duration, tls: bool) -> RedisFault {
        // Redis without TLS takes a TLS ClientHello for the beginning of a command and waits for its end.
        let hint = if tls { " (is the port a TLS port?)" } else { "" };
        let reason = format!("it did not answer within {}{hint}", humantime::format_duration(limit));
        RedisFault { lasting: false, reason }
    }
}

/// Whether TLS itself failed: an untrusted certificate, or a peer without TLS.
fn is_tls(error: &RedisError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    io.and_then(io::Error::get_ref).is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
}

/// The reply has another form than the command specifies.
pub(super) fn malformed_reply(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

/// The server's error message, or the description of a local error.
pub(super) fn server_message(error: &RedisError) -> String {
    let errors = error.clone().into_server_errors();
    match errors.as_ref().and_then(|errors| errors.first()) {
        Some((_, answer)) => {
            format!("{} {}", answer.code(), answer.details().unwrap_or_default()).trim_end().to_owned()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    fn server_error(answer: &str) -> RedisError {
        let (code, details) = answer.split_once(' ').unwrap_or((answer, ""));
        make_extension_error(code.to_owned(), Some(details.to_owned()))
    }

    #[test]
    fn a_server_that_may_not_hold_the_latest_writes_is_dropped() {
        for (answer, usable) in [
            ("READONLY You can't write against a read only replica.", false),
            (
                "ERR Error running script (call to f_0): @user_script:9: -READONLY You can't write against it",
                false,
            ),
            ("LOADING Redis is loading the dataset in memory", false),
            ("MASTERDOWN Link with MASTER is down", false),
            ("OOM command not allowed when used memory > 'maxmemory'.", false),
            ("MISCONF Redis is configured to save RDB snapshots", false),
            ("NOREPLICAS Not enough good replicas to write.", false),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("BUSY Redis is busy running a script.", true),
            ("ERR unknown command 'ZMSCORE'", true),
            ("MOVED 3999 127.0.0.1:6381", false),
            ("ASK 3999 127.0.0.1:6381", false),
            ("CLUSTERDOWN The cluster is down", false),
            ("TRYAGAIN Multiple keys request during rehashing of slot", true),
        ] {
            assert_eq!(is_usable_after(&server_error(answer)), usable, "{answer}");
        }
        assert!(!is_usable_after(&io::Error::from(io::ErrorKind::ConnectionReset).into()));
    }

    #[test]
    fn what_waiting_may_mend_is_told_from_what_someone_must_change() {
        for (answer, lasting) in [
            ("NOAUTH Authentication required.", true),
            ("NOPERM this user has no permissions to run the 'info' command", true),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("MOVED 3999 127.0.0.1:6381", false),
            ("ERR This instance has cluster support disabled", true),
            ("ERR unknown command 'SENTINEL', with args beginning with: 'MASTER'", true),
            ("ERR ACL failure in script: No permissions to access a channel", true),
            ("ERR No such master with that name", true),
            ("LOADING Redis is loading the dataset in memory", false),
            ("READONLY You can't write against a read only replica.", false),
            ("BUSY Redis is busy running a script.", false),
            ("ERR max number of clients reached", false),
        ] {
            assert_eq!(RedisFault::of(&server_error(answer)).lasting, lasting, "{answer}");
        }
        assert!(!RedisFault::of(&io::Error::from(io::ErrorKind::ConnectionRefused).into()).lasting);
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::HandshakeNotComplete);
        assert!(RedisFault::of(&tls.into()).lasting);
    }
}

//! The descriptors that the process may have open, and how many connections from clients fit among them.

/// Connections from clients unless the configuration says how many.
pub const DEFAULT_CONNECTIONS: usize = 10_000;
/// The fewest connections from clients with which it is worth starting, unless the configuration asks for fewer.
const FEWEST: u64 = 16;
/// Kept for everything but clients and upstream: 64 connections of the admin, 64 that are being refused, those to Redis, the
/// listeners, the rules file and its watcher, the log, the runtime, name resolution.
const RESERVE: u64 = 256;

/// Connections do not fit among the descriptors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} not fit: the process may have {limit} descriptors open, of which {upstream} are for [server] \
     max_upstream_requests and {RESERVE} for the admin, Redis and files; {remedy}"
)]
pub struct TooFew {
    what: String,
    limit: u64,
    upstream: usize,
    remedy: String,
    /// The most that do fit.
    pub room: usize,
}

/// How many connections from clients there may be. `limit`: descriptors, if there is a limit. `wanted`: as configured.
/// `upstream`: connections to upstream.
pub fn fit(limit: Option<u64>, wanted: Option<usize>, upstream: usize) -> Result<usize, TooFew> {
    let Some(limit) = limit else { return Ok(wanted.unwrap_or(DEFAULT_CONNECTIONS)) };
    let needed = |connections: u64| connections + upstream as u64 + RESERVE;
    let room = limit.saturating_sub(needed(0));
    let most = usize::try_from(room).unwrap_or(usize::MAX);
    let raise =
        |to: u64| format!("raise the hard limit to at least {to} (ulimit -Hn, or LimitNOFILE= of systemd)");
    match wanted {
        Some(wanted) if wanted <= most => Ok(wanted),
        Some(wanted) => {
            let lower = if room == 0 {
                "lower max_upstream_requests".into()
            } else {
                format!("write max_connections = {room}")
            };
            let remedy = format!("{}, or {lower}", raise(needed(wanted as u64)));
            Err(TooFew { what: format!("max_connections = {wanted} does"), limit, upstream, remedy, room: most })
        }
        None if room >= FEWEST => Ok(most.min(DEFAULT_CONNECTIONS)),
        None => {
            let remedy = format!("{}, or lower max_upstream_requests", raise(needed(FEWEST)));
            Err(TooFew { what: "connections from clients do".to_owned(), limit, upstream, remedy, room: most })
        }
    }
}

/// The descriptors that the process may have open; `None`: as many as it likes.
#[cfg(unix)]
pub fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Raises the soft limit of descriptors to the hard one. An error leaves it as it is.
#[cfg(unix)]
pub fn raise() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// There is no such limit here.
#[cfg(not(unix))]
pub fn limit() -> Option<u64> {
    None
}

/// There is no such limit here.
#[cfg(not(unix))]
pub fn raise() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_descriptors() {
        let rows = [
            (None, 512, 10_000),
            (Some(1_048_576), 512, 10_000),
            (Some(1024), 512, 256),
            (Some(1024), 16, 752),
            (Some(784), 512, 16),
        ];
        for (limit, upstream, expected) in rows {
            assert_eq!(fit(limit, None, upstream).unwrap(), expected, "{limit:?} {upstream}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_remedy() {
        assert_eq!(fit(Some(1024), Some(256), 512).unwrap(), 256);
        assert_eq!(fit(Some(600), Some(8), 64).unwrap(), 8);
        let message = fit(Some(1024), Some(257), 512).unwrap_err().to_string();
        assert!(message.starts_with("max_connections = 257 does not fit: "), "{message}");
        assert!(
            message.contains("at least 1025") && message.ends_with("or write max_connections = 256"),
            "{message}"
        );
        let message = fit(Some(512), None, 512).unwrap_err().to_string();
        assert!(message.starts_with("connections from clients do not fit: "), "{message}");
        assert!(
            message.contains("at least 784") && message.ends_with("or lower max_upstream_requests"),
            "{message}"
        );
    }
}

//! The process's limit of open descriptors, and how many client connections it allows.

/// Default of `max_connections`.
pub const DEFAULT_CONNECTIONS: usize = 10_000;
/// Fewest client connections to start with, unless `max_connections` is less.
const FEWEST: u64 = 16;
/// Fewest descriptors reserved for everything but clients and upstream: 64 connections of the admin, 64 that are being refused, those to Redis, the
/// listeners, the rules file and its watcher, the log, the runtime, name resolution.
const RESERVE: u64 = 256;
/// Those without the threads that serve connections.
const WITHOUT_WORKERS: u64 = 192;
/// Of each of these threads: its poll instance, a copy of it, its waker, the signals, two connections to Redis.
const OF_WORKER: u64 = 6;

/// The limit of descriptors is too low.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} not fit: the process may have {limit} descriptors open, of which {requests} are for [server] \
     max_upstream_requests, {streams} for max_upstream_streams and {reserve} for the admin, Redis, files and threads; {remedy}"
)]
pub struct TooFew {
    what: String,
    limit: u64,
    requests: u64,
    streams: u64,
    reserve: u64,
    remedy: String,
    /// The most client connections that fit.
    pub room: usize,
}

/// What the limit of descriptors allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Client connections.
    pub connections: usize,
    /// Streams at upstream: as many as are configured, but no more than a quarter of what requests to upstream leave.
    pub streams: usize,
}

/// Computes what fits. `limit`: of descriptors, if there is one. `wanted`: configured client connections. `requests` and
/// `streams`: configured for upstream; each has a connection of its own. `workers`: threads that serve connections.
pub fn fit(
    limit: Option<u64>,
    wanted: Option<usize>,
    (requests, streams): (usize, usize),
    workers: usize,
) -> Result<Fit, TooFew> {
    let reserve = RESERVE.max(WITHOUT_WORKERS + OF_WORKER * workers as u64);
    let Some(limit) = limit else {
        return Ok(Fit { connections: wanted.unwrap_or(DEFAULT_CONNECTIONS), streams });
    };
    let left = limit.saturating_sub(requests as u64 + reserve);
    let room = left - (streams as u64).min(left / 4);
    let (most, streams) = (saturating(room), saturating(left - room));
    let too_few = |what: String, needed: u64, lower: &str| {
        // A quarter of what is added may go to streams.
        let hard = limit + (needed - room).saturating_mul(4).div_ceil(3);
        let remedy =
            format!("raise the hard limit to {hard} (ulimit -Hn, or LimitNOFILE= of systemd), or {lower}");
        TooFew { what, limit, requests: requests as u64, streams: streams as u64, reserve, remedy, room: most }
    };
    match wanted {
        Some(wanted) if wanted <= most => Ok(Fit { connections: wanted, streams }),
        Some(wanted) => {
            let lower = match most {
                0 => "lower max_upstream_requests".to_owned(),
                most => format!("write max_connections = {most}"),
            };
            Err(too_few(format!("max_connections = {wanted} does"), wanted as u64, &lower))
        }
        None if room >= FEWEST => Ok(Fit { connections: most.min(DEFAULT_CONNECTIONS), streams }),
        None => {
            let lower = "lower max_upstream_requests or max_upstream_streams";
            Err(too_few("connections from clients do".to_owned(), FEWEST, lower))
        }
    }
}

fn saturating(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The process's limit of open descriptors; `None` for none.
#[cfg(unix)]
pub fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Raises the soft limit of descriptors to the hard limit. On an error it stays as it is.
#[cfg(unix)]
pub fn raise() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// This system has no such limit.
#[cfg(not(unix))]
pub fn limit() -> Option<u64> {
    None
}

/// This system has no such limit.
#[cfg(not(unix))]
pub fn raise() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_depends_on_the_limit_of_descriptors() {
        let rows = [
            (None, 512, 1024, (10_000, 1024)),
            (Some(1_048_576), 512, 1024, (10_000, 1024)),
            (Some(1024), 512, 1024, (192, 64)),
            (Some(1024), 512, 10, (246, 10)),
            (Some(1024), 16, 1024, (564, 188)),
            (Some(784), 512, 0, (16, 0)),
        ];
        for (limit, requests, streams, (connections, fitting)) in rows {
            let expected = Fit { connections, streams: fitting };
            assert_eq!(fit(limit, None, (requests, streams), 0), Ok(expected), "{limit:?} {requests} {streams}");
        }
    }

    #[test]
    fn the_computed_numbers_fit_when_configured() {
        for limit in 800..5000 {
            let Ok(first) = fit(Some(limit), None, (512, 1024), 0) else { continue };
            assert_eq!(fit(Some(limit), Some(first.connections), (512, first.streams), 0), Ok(first));
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_with_a_remedy_that_works() {
        assert_eq!(fit(Some(1024), Some(192), (512, 1024), 0).unwrap().connections, 192);
        let message = fit(Some(1024), Some(193), (512, 1024), 0).unwrap_err().to_string();
        assert!(message.starts_with("max_connections = 193 does not fit: "), "{message}");
        assert!(message.contains("to 1026 ") && message.ends_with("or write max_connections = 192"), "{message}");
        assert_eq!(fit(Some(1026), Some(193), (512, 1024), 0).unwrap().connections, 193);
        let message = fit(Some(512), None, (512, 1024), 0).unwrap_err().to_string();
        assert!(message.starts_with("connections from clients do not fit: "), "{message}");
        assert!(message.ends_with("or lower max_upstream_requests or max_upstream_streams"), "{message}");
    }
}

//! Causes of missing responses, in a few words for the log and for operators. They contain no data of the request.

use std::error::Error;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::CertificateError;
use serde::{Serialize, Serializer};

use super::UpstreamError;

/// Pause before the same cause is logged again.
const PAUSE: Duration = Duration::from_secs(10);
/// Most causes that are logged within a pause.
const CAUSES: usize = 16;

/// The cause of a failure, as specific as possible.
pub(super) fn of(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = known(error) {
            return cause;
        }
        innermost = error;
        next = inner(error);
    }
    innermost.to_string()
}

/// An error with all that caused it, which the messages of HTTP clients leave out: `client error (Connect): tcp connect error:
/// Connection refused (os error 111)`. Nothing of the URL is in it but the host.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The cause of an error. An I/O error may wrap one without naming it as its source.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source())
}

fn known(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(of_tls(error));
    }
    if error.to_string().starts_with("dns error") {
        return Some("its name cannot be resolved".to_owned());
    }
    let error = error.downcast_ref::<io::Error>().filter(|error| error.get_ref().is_none())?;
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::ConnectionAborted => "connection aborted",
        io::ErrorKind::BrokenPipe => "connection closed while something was sent",
        io::ErrorKind::UnexpectedEof => "connection closed",
        io::ErrorKind::TimedOut => "connecting took too long (connect_timeout)",
        io::ErrorKind::HostUnreachable => "no route to its host",
        io::ErrorKind::NetworkUnreachable => "no route to its network",
        _ => return None,
    };
    Some(words.to_owned())
}

fn of_tls(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match error {
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            "certificate signed by unknown authority; name it in [server.upstream_tls] ca".to_owned()
        }
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "certificate has expired".to_owned()
        }
        InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "certificate is not valid yet".to_owned()
        }
        InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "certificate is for another name; [server.upstream_tls] server_name says which to expect".to_owned(),
        InvalidCertificate(CertificateError::Revoked) => "certificate is revoked".to_owned(),
        // webpki's error for a self-signed certificate that is marked as an authority.
        InvalidCertificate(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "certificate is self-signed and marked as an authority; use a server certificate that it signs"
                .to_owned()
        }
        InvalidCertificate(other) => format!("certificate is not trusted: {other}"),
        AlertReceived(alert) => format!("TLS refused by upstream: {alert:?}"),
        InvalidMessage(_) => "not TLS; write http:// if upstream does not use TLS".to_owned(),
        other => format!("TLS: {other}"),
    }
}

/// A failure of upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LastFailure {
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = String, format = DateTime)]
    time: SystemTime,
    /// The token of the [`UpstreamError`].
    kind: &'static str,
    cause: String,
}

fn seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}

/// Failures of upstream: the latest of each kind. Limits what is logged of them, so that an outage does not fill the log.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// At most one of each kind, the latest one last.
    latest: Vec<LastFailure>,
    logged: Logged,
}

impl Failures {
    /// Records a failure and logs it if it is due. Errors that are not upstream's fault are ignored.
    pub fn note(&self, error: UpstreamError, cause: Option<String>) {
        if !is_upstreams(error) {
            return;
        }
        let cause = cause.unwrap_or_else(|| error.to_string());
        let failure = LastFailure { time: SystemTime::now(), kind: error.token(), cause: cause.clone() };
        let due = {
            let mut noted = self.lock();
            noted.latest.retain(|other| other.kind != failure.kind);
            noted.latest.push(failure);
            noted.logged.is_due(&cause, Instant::now())
        };
        if let Some(suppressed) = due {
            tracing::warn!(%cause, suppressed, "{error}");
        }
    }

    /// The latest failure.
    pub fn last(&self) -> Option<LastFailure> {
        self.lock().latest.last().cloned()
    }

    /// The latest failure of one kind.
    pub fn last_of(&self, error: UpstreamError) -> Option<LastFailure> {
        self.lock().latest.iter().find(|failure| failure.kind == error.token()).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        // Nothing between locking and unlocking panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error is upstream's fault: not the client's, and not due to a limit.
fn is_upstreams(error: UpstreamError) -> bool {
    use UpstreamError::{Closed, Garbled, Timeout, Unreachable};
    matches!(error, Unreachable | Closed | Timeout | Garbled)
}

/// The causes that were logged recently.
#[derive(Debug, Default)]
struct Logged {
    causes: Vec<(String, Instant)>,
    suppressed: u64,
}

impl Logged {
    /// If a failure may be logged, the number of suppressed ones since the last log line. `None` if its cause, or too many
    /// others, were logged within [`PAUSE`].
    fn is_due(&mut self, cause: &str, now: Instant) -> Option<u64> {
        self.causes.retain(|(_, at)| now.duration_since(*at) < PAUSE);
        if self.causes.len() >= CAUSES || self.causes.iter().any(|(logged, _)| logged == cause) {
            self.suppressed += 1;
            return None;
        }
        self.causes.push((cause.to_owned(), now));
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("tcp connect error")]
    struct Connecting(#[source] io::Error);

    #[test]
    fn a_cause_is_described_in_a_few_words() {
        let tls = |error: rustls::Error| Connecting(io::Error::other(error));
        let certificate = |error| tls(rustls::Error::InvalidCertificate(error));
        let rows = [
            (Connecting(io::ErrorKind::ConnectionRefused.into()), "connection refused"),
            (Connecting(io::ErrorKind::TimedOut.into()), "connecting took too long"),
            (Connecting(io::Error::from_raw_os_error(111)), "connection refused"),
            (Connecting(io::Error::other("odd")), "odd"),
            (certificate(CertificateError::UnknownIssuer), "certificate signed by unknown authority"),
            (certificate(CertificateError::Expired), "certificate has expired"),
            (certificate(CertificateError::NotValidForName), "certificate is for another name"),
            (
                tls(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired)),
                "CertificateRequired",
            ),
        ];
        for (error, expected) in rows {
            let cause = of(&error);
            assert!(cause.contains(expected), "{error:?}: {cause}");
        }
    }

    #[test]
    fn the_same_cause_is_logged_once_per_pause() {
        let (mut logged, now) = (Logged::default(), Instant::now());
        assert_eq!(logged.is_due("a", now), Some(0));
        assert_eq!((logged.is_due("a", now), logged.is_due("a", now)), (None, None));
        assert_eq!(logged.is_due("b", now), Some(2));
        assert_eq!(logged.is_due("a", now), None, "another cause in between changes nothing");
        assert_eq!(logged.is_due("b", now + PAUSE), Some(1));
    }

    #[test]
    fn ever_new_causes_do_not_fill_the_log() {
        let (mut logged, now) = (Logged::default(), Instant::now());
        let lines = (0..1000).filter(|n: &usize| logged.is_due(&n.to_string(), now).is_some()).count();
        assert_eq!(lines, CAUSES);
        assert_eq!(logged.is_due("a", now + PAUSE), Some(1000 - CAUSES as u64));
    }

    #[test]
    fn the_latest_failure_of_each_kind_is_known() {
        let failures = Failures::default();
        assert_eq!(failures.last(), None);
        failures.note(UpstreamError::Unreachable, Some("connection refused".to_owned()));
        failures.note(UpstreamError::Closed, Some("connection reset".to_owned()));
        failures.note(UpstreamError::Closed, None);
        failures.note(UpstreamError::Slow, None);
        let causes = |failure: Option<LastFailure>| failure.map(|failure| failure.cause);
        assert_eq!(causes(failures.last()).as_deref(), Some("upstream closed the connection without a response"));
        assert_eq!(causes(failures.last_of(UpstreamError::Unreachable)).as_deref(), Some("connection refused"));
        assert_eq!(failures.last_of(UpstreamError::Slow), None, "it is the client's fault");
    }
}

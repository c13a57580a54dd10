//! Why upstream gave no answer, in few words for the log. Nothing of a request is in them.

use std::error::Error;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::CertificateError;

/// How often the same cause is logged.
const PAUSE: Duration = Duration::from_secs(10);

/// The cause of a failure, as far as it can be told.
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

/// What an error was made of. That of an I/O error is not its source, but what it wraps.
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
        // One that has signed itself, and says that it is an authority: webpki.
        InvalidCertificate(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "certificate signed by itself, and that of an authority; let one that it signs stand for the server"
                .to_owned()
        }
        InvalidCertificate(other) => format!("certificate is not trusted: {other}"),
        AlertReceived(alert) => format!("TLS refused by upstream: {alert:?}"),
        InvalidMessage(_) => "not TLS; write http:// if upstream speaks none".to_owned(),
        other => format!("TLS: {other}"),
    }
}

/// What has been logged, so that an outage does not fill the log.
#[derive(Debug, Default)]
pub(super) struct Logged(Mutex<Option<Last>>);

#[derive(Debug)]
struct Last {
    cause: String,
    at: Instant,
    unlogged: u64,
}

impl Logged {
    /// Logs the cause of a failure, unless it is the one that was logged a moment ago.
    pub fn note(&self, error: &(dyn Error + 'static)) {
        let cause = of(error);
        if let Some(unlogged) = self.is_due(&cause, Instant::now()) {
            tracing::warn!(%cause, unlogged, "upstream cannot be reached");
        }
    }

    /// How many were not logged since the last that was; none if this is one more of them.
    fn is_due(&self, cause: &str, now: Instant) -> Option<u64> {
        // Nothing between locking and unlocking panics.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_mut().filter(|last| last.cause == cause && now.duration_since(last.at) < PAUSE)
        {
            last.unlogged += 1;
            return None;
        }
        let unlogged = last.as_ref().map_or(0, |last| last.unlogged);
        *last = Some(Last { cause: cause.to_owned(), at: now, unlogged: 0 });
        Some(unlogged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("tcp connect error")]
    struct Connecting(#[source] io::Error);

    #[test]
    fn causes_are_told_in_few_words() {
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
    fn the_same_cause_is_logged_once_in_a_while() {
        let (logged, now) = (Logged::default(), Instant::now());
        assert_eq!(logged.is_due("a", now), Some(0));
        assert_eq!((logged.is_due("a", now), logged.is_due("a", now)), (None, None));
        assert_eq!(logged.is_due("b", now), Some(2));
        assert_eq!(logged.is_due("b", now + PAUSE), Some(0));
    }
}

//! Detects at start that upstream is this proxy itself.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use http::Uri;

/// Longest wait at start for the resolution of upstream's name. A loop that is not found then is detected by the first request
/// that returns ([`crate::http::headers::LoopMark`]).
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a connection to `upstream` would arrive at `listen`, as the system resolves its name.
pub(super) async fn is_upstream(upstream: &Uri, listen: SocketAddr) -> bool {
    let is_tls = upstream.scheme_str() == Some("https");
    let port = upstream.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    if is_tls || port != listen.port() {
        return false;
    }
    let host = upstream.host().unwrap_or_default().trim_matches(['[', ']']);
    let found = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((host, port))).await;
    let Ok(Ok(addresses)) = found else { return false };
    addresses.map(|address| address.ip()).any(|ip| arrives_at(ip, listen.ip(), is_of_this_machine))
}

fn arrives_at(to: IpAddr, listen: IpAddr, is_of_this_machine: impl Fn(IpAddr) -> bool) -> bool {
    let to = to.to_canonical();
    match listen.to_canonical() {
        // A connection to the unspecified address arrives at this machine.
        _ if to.is_unspecified() => listen.is_unspecified() || listen.is_loopback(),
        IpAddr::V4(own) if own.is_unspecified() => to.is_ipv4() && is_of_this_machine(to),
        // Usually listens for both address families.
        IpAddr::V6(own) if own.is_unspecified() => is_of_this_machine(to),
        own => own == to,
    }
}

/// Only an address of this machine can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_is_itself_if_its_address_arrives_at_the_listener() {
        let rows = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.2", "127.0.0.1", false),
            ("127.0.0.1", "0.0.0.0", true),
            ("10.0.0.7", "0.0.0.0", true),
            ("10.0.0.8", "0.0.0.0", false),
            ("10.0.0.8", "10.0.0.8", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("0.0.0.0", "10.0.0.7", false),
            ("::1", "::", true),
            ("127.0.0.1", "::", true),
            ("::1", "0.0.0.0", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
        ];
        let is_own = |ip: IpAddr| ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 7]);
        for (to, listen, expected) in rows {
            assert_eq!(
                arrives_at(to.parse().unwrap(), listen.parse().unwrap(), is_own),
                expected,
                "{to} at {listen}"
            );
        }
    }
}

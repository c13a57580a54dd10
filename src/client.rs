//! The client that a request counts for where limits apply per client ([`crate::shares`]), in the access log, and where an address permits
//! purges (`[purge] from`): an address. Used for nothing else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};

use crate::http::headers::{ForwardedPolicy, X_FORWARDED_FOR};
use crate::network::Network;

/// A client for accounting: an IPv4 address, or the /64 of an IPv6 address, the allocation of one subscriber (RFC
/// 6177 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// Larder itself, for its own requests.
    pub const LARDER: Client = Client(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

    /// The client at an address.
    pub fn at(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client(address.into()),
            IpAddr::V6(address) => Client(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }

    /// The client of a request from `peer`, the address at the other end of the connection. `peer` counts as a load balancer if
    /// the policy is `append` and it is `trusted`, or if its address is local or private. Then `X-Forwarded-For` names the
    /// client. Behind a trusted peer there may be several load balancers, so the client is the last address that is neither
    /// private nor trusted; otherwise, or without such an address, it is the last one. A field that does not end with an address
    /// is ignored.
    pub fn of(peer: IpAddr, policy: ForwardedPolicy, trusted: &[Network], fields: &HeaderMap) -> Client {
        Client::at(address(peer, policy, trusted, fields))
    }
}

/// The address of the client of a request, as [`Client::of`] finds it.
pub fn address(peer: IpAddr, policy: ForwardedPolicy, trusted: &[Network], fields: &HeaderMap) -> IpAddr {
    let named = match policy {
        ForwardedPolicy::Append if is_in(trusted, peer) => last_named(fields, trusted),
        _ if is_private(peer) => addresses(fields).next().flatten(),
        _ => None,
    };
    named.unwrap_or(peer)
}

/// Whether a request comes from these networks: for what an address alone permits, such as purges. A request from a trusted peer
/// (`append`) comes from the client that `X-Forwarded-For` names, as [`Client::of`] finds it, and never from the peer itself. From any other
/// peer, which must be of the networks, all addresses in `X-Forwarded-For` must be of them too, and there must be no `Forwarded` (RFC 7239):
/// the peer may be a load balancer that is not configured as such.
pub fn is_from(
    networks: &[Network],
    peer: IpAddr,
    policy: ForwardedPolicy,
    trusted: &[Network],
    fields: &HeaderMap,
) -> bool {
    if policy == ForwardedPolicy::Append && is_in(trusted, peer) {
        return last_named(fields, trusted).is_some_and(|client| is_in(networks, client));
    }
    let is_named = |address: Option<IpAddr>| address.is_some_and(|address| is_in(networks, address));
    is_in(networks, peer) && !fields.contains_key(FORWARDED) && addresses(fields).all(is_named)
}

/// The addresses in `X-Forwarded-For`, the last one first; `None` for anything else.
fn addresses(fields: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    fields.get_all(X_FORWARDED_FOR).iter().rev().flat_map(members).map(parse)
}

fn last_named(fields: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    // An entry that is no address was not written by a load balancer, nor was anything before it.
    let mut named = addresses(fields).map_while(|address| address).peekable();
    let last = *named.peek()?;
    let is_balancer = |address: &IpAddr| is_private(*address) || is_in(trusted, *address);
    Some(named.find(|address| !is_balancer(address)).unwrap_or(last))
}

fn is_in(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// The members of a line, the last one first.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Parses an address, which may have a port, brackets or quotes.
fn parse(member: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(member).ok()?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

/// Whether an address is local or private: RFC 1122 §3.2.1.3, RFC 1918,
/// RFC 3927, RFC 4193, RFC 4291 §2.5.6.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    fn of(peer: &str, policy: ForwardedPolicy, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let trusted = ["203.0.113.0/28", "10.0.0.0/8"].map(|text| Network::parse(text).unwrap());
        Client::of(peer.parse().unwrap(), policy, &trusted, &fields(&lines)).0.to_string()
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_64_prefix() {
        let rows = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
        ];
        for (address, expected) in rows {
            assert_eq!(Client::at(address.parse().unwrap()).0.to_string(), expected);
        }
    }

    #[test]
    fn x_forwarded_for_counts_only_from_load_balancers() {
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ];
        for peer in private {
            assert_eq!(of(peer, ForwardedPolicy::Set, &["198.51.100.7"]), "198.51.100.7", "{peer}");
        }
        for peer in ["203.0.113.9", "172.32.0.1", "100.64.0.1"] {
            assert_eq!(of(peer, ForwardedPolicy::Set, &["198.51.100.7"]), peer);
            assert_eq!(of(peer, ForwardedPolicy::Off, &["198.51.100.7"]), peer);
            let is_trusted = peer == "203.0.113.9";
            let client = if is_trusted { "198.51.100.7" } else { peer };
            assert_eq!(of(peer, ForwardedPolicy::Append, &["198.51.100.7"]), client);
        }
    }

    #[test]
    fn a_client_behind_a_permitted_load_balancer_is_not_permitted() {
        let (set, append) = (ForwardedPolicy::Set, ForwardedPolicy::Append);
        let rows: [(&str, ForwardedPolicy, &[&str], bool); 14] = [
            ("10.0.0.1", set, &[], true),
            ("10.0.0.1", set, &["10.0.0.2"], true),
            ("10.0.0.1", set, &["198.51.100.7"], false),
            // A load balancer that appends to what the client sent, or that does not.
            ("10.0.0.1", set, &["10.0.0.2, 198.51.100.7"], false),
            ("10.0.0.1", set, &["198.51.100.7, 10.0.0.2"], false),
            ("10.0.0.1", set, &["198.51.100.7", "10.0.0.2"], false),
            ("10.0.0.1", set, &["unknown"], false),
            ("198.51.100.7", set, &[], false),
            ("198.51.100.7", set, &["10.0.0.2"], false),
            // A trusted one: it alone says which client it is, and is none itself.
            ("10.0.0.1", append, &["198.51.100.7"], false),
            ("10.0.0.1", append, &["10.0.0.2, 198.51.100.7"], false),
            ("10.0.0.1", append, &["10.0.0.2"], true),
            ("10.0.0.1", append, &[], false),
            ("10.0.0.1", append, &["unknown"], false),
        ];
        let networks = [Network::parse("10.0.0.0/8").unwrap()];
        for (peer, policy, lines, expected) in rows {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let trusted = [Network::parse("10.0.0.0/28").unwrap()];
            let is_from = is_from(&networks, peer.parse().unwrap(), policy, &trusted, &fields(&lines));
            assert_eq!(is_from, expected, "{peer} {policy:?} {lines:?}");
        }
        let forwarded = fields(&[("forwarded", "for=10.0.0.2")]);
        assert!(!is_from(&networks, "10.0.0.1".parse().unwrap(), set, &[], &forwarded));
    }

    #[test]
    fn addresses_that_the_client_itself_sent_are_ignored() {
        for policy in [ForwardedPolicy::Set, ForwardedPolicy::Off, ForwardedPolicy::Append] {
            assert_eq!(of("10.0.0.1", policy, &["192.0.2.99, 198.51.100.7"]), "198.51.100.7");
            assert_eq!(of("10.0.0.1", policy, &["192.0.2.99", "198.51.100.7"]), "198.51.100.7");
        }
    }

    #[test]
    fn several_load_balancers_are_skipped_only_with_append() {
        let row = ["192.0.2.99, 198.51.100.7, 10.0.0.2", "10.0.0.3"];
        assert_eq!(of("10.0.0.1", ForwardedPolicy::Append, &row), "198.51.100.7");
        assert_eq!(of("10.0.0.1", ForwardedPolicy::Set, &row), "10.0.0.3");
        let by_trusted = ["198.51.100.7, 203.0.113.9"];
        assert_eq!(of("10.0.0.1", ForwardedPolicy::Append, &by_trusted), "198.51.100.7");
        assert_eq!(of("10.0.0.1", ForwardedPolicy::Set, &by_trusted), "203.0.113.9");
        assert_eq!(of("10.0.0.1", ForwardedPolicy::Append, &["10.0.0.2, 10.0.0.3"]), "10.0.0.3");
        assert_eq!(of("10.0.0.1", ForwardedPolicy::Append, &["192.0.2.99, unknown, 10.0.0.3"]), "10.0.0.3");
    }

    #[test]
    fn an_address_may_be_written_with_a_port() {
        let rows = [
            ("198.51.100.7:4711", "198.51.100.7"),
            ("[2001:db8::1]:4711", "2001:db8::"),
            ("[2001:db8::1]", "2001:db8::"),
            ("\"[2001:db8::1]\"", "2001:db8::"),
        ];
        for (text, expected) in rows {
            assert_eq!(of("10.0.0.1", ForwardedPolicy::Set, &[text]), expected);
        }
        for text in ["unknown", "_hidden", "1.2.3", "198.51.100.7 x", "198.51.100.7, x", ","] {
            assert_eq!(of("10.0.0.1", ForwardedPolicy::Set, &[text]), "10.0.0.1", "{text}");
        }
    }
}

//! Fields that belong to one hop, and fields that a proxy adds: `Connection` and what it names, `Via`,
//! `Forwarded`, `X-Forwarded-*` (RFC 9110 §7.6, RFC 7239).

use std::net::IpAddr;

use http::{HeaderMap, Version};

use crate::target::Target;

/// What is told to upstream about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedPolicy {
    /// Set `Forwarded` and `X-Forwarded-{For,Host,Proto}` afresh; what the client sent in them is dropped. For a
    /// Larder that clients reach directly: they cannot lie about themselves.
    #[default]
    Set,
    /// Append to what came: for a Larder behind a trusted load balancer.
    Append,
    /// Drop them all and add none.
    Off,
}

/// Removes `Connection`, the fields it names, and the other hop-by-hop fields (RFC 9110 §7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let _ = headers;
    todo!()
}

/// Appends this proxy to `Via` (RFC 9110 §7.6.3): `1.1 larder`, with the version of the message received.
pub fn add_via(headers: &mut HeaderMap, received: Version) {
    let _ = (headers, received);
    todo!()
}

/// Tells upstream who asked, for which host, by which scheme.
pub fn add_forwarded(headers: &mut HeaderMap, policy: ForwardedPolicy, client: IpAddr, target: &Target) {
    let _ = (headers, policy, client, target);
    todo!()
}

//! stub
use std::net::SocketAddr;
pub fn address(a: &crate::config::Admin) -> SocketAddr {
    a.listen
}

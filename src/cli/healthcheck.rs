//! `larder healthcheck` asks the admin of the Larder in this container, or on this machine, whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{Method, StatusCode};

use super::HealthcheckArguments;
use super::admin_client::{AdminClient, RequestContent};
use super::output::{self, FAILED, complain};
use crate::admin::auth;
use crate::config;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the exit code: 0 if Larder is ready, else 1. Never 2, which Docker reserves in health checks.
pub(super) fn healthcheck(arguments: HealthcheckArguments) -> u8 {
    match url(arguments).and_then(|url| ask(&url)) {
        Ok(()) => 0,
        Err(error) => complain(error, FAILED),
    }
}

/// The URL of the admin that `larder serve` has with the same flags, variables and file.
fn url(arguments: HealthcheckArguments) -> Result<String, String> {
    let (file, overrides) = arguments.sources.overrides()?;
    let admin = config::admin_of(file.as_deref(), &overrides, &|name| std::env::var(name).ok());
    let listen = auth::address(&admin.map_err(|error| error.to_string())?);
    if listen.port() == 0 {
        return Err(format!(
            "the admin listens on {listen}, a port that the system chooses; give it a fixed port"
        ));
    }
    Ok(format!("http://{}", reached(listen)))
}

/// Where a listener is reached from its own machine.
fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(url: &str) -> Result<(), String> {
    let client = AdminClient::new(url, None)?;
    let runtime = output::runtime()?;
    let answer =
        async { tokio::time::timeout(PATIENCE, client.send(&Method::GET, "/readyz", RequestContent::None)).await };
    match runtime.block_on(answer) {
        Ok(Ok((StatusCode::OK, _))) => Ok(()),
        Ok(Ok((status, _))) => Err(format!("not ready: {url}/readyz answered {status}")),
        Ok(Err(error)) => Err(format!("not ready: {error}")),
        Err(_) => Err(format!("not ready: {url}/readyz has not answered within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_interfaces_is_asked_over_loopback() {
        let at = |listen: &str| reached(listen.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(at("[::]:9090"), "[::1]:9090");
        assert_eq!(at("10.1.2.3:9090"), "10.1.2.3:9090");
    }
}

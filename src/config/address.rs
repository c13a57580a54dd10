//! Parses addresses and URLs from the file and from flags. Messages never quote a faulty value, since it may contain
//! a password.

use std::net::{IpAddr, SocketAddr};

use http::uri::Authority;
use http::{HeaderName, Uri};

use crate::network::Network;

/// Why a value is invalid, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidValue {
    pub message: &'static str,
    pub remedy: String,
}

pub(super) fn wrong<T>(message: &'static str, remedy: impl Into<String>) -> Result<T, InvalidValue> {
    Err(InvalidValue { message, remedy: remedy.into() })
}

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`.
pub fn listen(text: &str) -> Result<SocketAddr, InvalidValue> {
    if let Ok(address) = text.trim().parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim().trim_matches(['[', ']']).parse::<IpAddr>() {
        return wrong("has no port", format!("write \"{}\"", SocketAddr::from((ip, 8080))));
    }
    let (host, port) = text.trim().rsplit_once(':').unwrap_or(("", text.trim()));
    let port = if port.parse::<u16>().is_ok() { port } else { "8080" };
    match host {
        "" | "*" => wrong(
            "is not an IP address with a port",
            format!("write \"127.0.0.1:{port}\" for this machine only, or \"0.0.0.0:{port}\" for all interfaces"),
        ),
        "localhost" => wrong("is a name, not an IP address", format!("write \"127.0.0.1:{port}\"")),
        _ => wrong(
            "is not an IP address with a port",
            format!("write it like \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        ),
    }
}

/// The address of a DNS server: `127.0.0.1`, `127.0.0.1:5353`, `[::1]:53`. The default port is 53.
pub fn resolver(text: &str) -> Result<SocketAddr, InvalidValue> {
    let text = text.trim();
    let address = text.parse().ok().or_else(|| {
        let ip = text.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
        Some(SocketAddr::from((ip, 53)))
    });
    match address {
        Some(address) => Ok(address),
        None => {
            wrong("is not the IP address of a DNS server", "write it like \"127.0.0.53\" or \"127.0.0.1:5353\"")
        }
    }
}

/// A network, or one address.
pub fn network(text: &str) -> Result<Network, InvalidValue> {
    let remedy =
        "write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or an address such as \"192.0.2.1\"";
    Network::parse(text).map_or_else(|| wrong("has something that is not a network", remedy), Ok)
}

/// An http or https URL, with a path.
pub fn url(text: &str) -> Result<Uri, InvalidValue> {
    const EXAMPLE: &str = "write it like \"https://alerts.example/hook\"";
    let Ok(uri) = text.trim().parse::<Uri>() else { return wrong("is not a URL", EXAMPLE) };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            wrong("holds a user or password", "remove it, and write webhook_token beside it")
        }
        (Some("http" | "https"), Some(authority)) if has_host_and_port(authority) => Ok(uri),
        _ => wrong("is not an http or https URL with a host", EXAMPLE),
    }
}

/// The URL of upstream: http or https, host, and optional port.
pub fn upstream(text: &str) -> Result<Uri, InvalidValue> {
    const EXAMPLE: &str = "write it like \"http://127.0.0.1:8000\"";
    let text = text.trim();
    if !text.contains("://") {
        return wrong("is not a URL", EXAMPLE);
    }
    let Ok(uri) = text.parse::<Uri>() else { return wrong("is not a URL", EXAMPLE) };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong("is not a URL with scheme and host", EXAMPLE);
    };
    if scheme != "http" && scheme != "https" {
        return wrong("has another scheme than http and https", EXAMPLE);
    }
    if authority.as_str().contains('@') {
        return wrong("holds a user or password", "remove it: clients send their own credentials");
    }
    if !has_host_and_port(authority) {
        return wrong("has no valid host and port", EXAMPLE);
    }
    if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
        return wrong("has a path or query", "keep scheme, host and port only: paths are forwarded as they are");
    }
    Ok(uri)
}

/// A fixed value for `Host`.
pub fn host(text: &str) -> Result<http::HeaderValue, InvalidValue> {
    const EXAMPLE: &str = "write \"upstream\", \"client\", or a host like \"api.example.com\"";
    let is_host = text.parse::<Authority>().is_ok_and(|host| !text.contains('@') && has_host_and_port(&host));
    match http::HeaderValue::try_from(text) {
        Ok(value) if is_host => Ok(value),
        _ => wrong("is not a host", EXAMPLE),
    }
}

/// Whether the URL has only a host and an optional port.
pub(super) fn has_host_and_port(authority: &Authority) -> bool {
    let text = authority.as_str().rsplit('@').next().unwrap_or("");
    let after_host = text.strip_prefix(authority.host()).unwrap_or("");
    let port = match after_host.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => after_host.is_empty(),
    };
    !authority.host().is_empty() && port
}

/// A prefix of keys in Redis.
pub fn namespace(text: &str) -> Result<(), InvalidValue> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return wrong("is not a namespace", "write 1 to 64 letters, digits, \"_\", \".\" or \"-\"");
    }
    Ok(())
}

/// An upgrade protocol (RFC 9110 §7.8): a name with an optional version, in lower case.
pub fn protocol(text: &str) -> Result<String, InvalidValue> {
    let text = text.trim().to_ascii_lowercase();
    let is_token = |part: &str| HeaderName::from_bytes(part.as_bytes()).is_ok();
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_token(part)) {
        return wrong(
            "is not a protocol",
            "write a name such as \"websocket\", or a name and a version, \"name/1\"",
        );
    }
    if matches!(parts[0], "h2c" | "h2" | "tls" | "http") {
        return wrong(
            "is a protocol that Larder speaks itself",
            "remove it; clients may speak HTTP/2 by prior knowledge",
        );
    }
    Ok(text)
}

/// A bearer token (RFC 6750 §2.1: visible characters) of any length.
pub fn token(text: &str) -> Result<(), InvalidValue> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong(
            "has a character that cannot be sent in a header",
            "use letters and digits, such as a hex text",
        );
    }
    Ok(())
}

/// SHA-256 as 64 hex digits.
pub fn sha256(text: &str) -> Result<[u8; 32], InvalidValue> {
    let text = text.trim();
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    let digest = bytes.and_then(|bytes| bytes.try_into().ok()).filter(|_| is_hex);
    digest.map_or_else(|| wrong("is not a SHA-256 digest of 64 hex digits", "copy what larder token prints"), Ok)
}

/// A host name without port, in lower case.
pub fn host_name(text: &str) -> Result<String, InvalidValue> {
    let text = text.trim();
    let is_name = text.parse::<Authority>().is_ok_and(|authority| authority.as_str() == authority.host());
    if is_name {
        Ok(text.to_ascii_lowercase())
    } else {
        wrong("is not a host name", "write a name such as \"larder.example\", without scheme, port and path")
    }
}

/// The server name in a certificate: a DNS name or an IP address.
pub fn server_name(text: &str) -> Result<(), InvalidValue> {
    match rustls::pki_types::ServerName::try_from(text.trim()) {
        Ok(_) => Ok(()),
        Err(_) => {
            wrong("is not the name of a server", "write a name such as \"api.internal\", without scheme and port")
        }
    }
}

/// The secret of a namespace.
pub fn secret(text: &str) -> Result<(), InvalidValue> {
    if text.len() < 16 {
        return wrong("is shorter than 16 bytes", "use a random one, such as `openssl rand -hex 32` prints");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(result: Result<T, InvalidValue>) -> String {
        result.map_or_else(|wrong| format!("{} | {}", wrong.message, wrong.remedy), |_| "ok".to_owned())
    }

    #[test]
    fn listen_addresses_are_ip_and_port() {
        let rows = [
            ("127.0.0.1:8080", "ok"),
            ("[::1]:0", "ok"),
            (":8081", "\"0.0.0.0:8081\""),
            ("9000", "\"127.0.0.1:9000\""),
            ("*:80", "\"0.0.0.0:80\""),
            ("localhost:8080", "write \"127.0.0.1:8080\""),
            ("127.0.0.1", "has no port | write \"127.0.0.1:8080\""),
            ("[::1]", "write \"[::1]:8080\""),
            ("127.0.0.1:99999", "like \"127.0.0.1:8080\""),
            ("example.com:80", "like \"127.0.0.1:80\""),
        ];
        for (text, expected) in rows {
            assert!(message(listen(text)).contains(expected), "{text}: {}", message(listen(text)));
        }
    }

    #[test]
    fn upstream_is_scheme_host_and_port() {
        let rows = [
            ("http://127.0.0.1:8000", "ok"),
            ("https://api.example.com/", "ok"),
            ("http://[::1]:8000", "ok"),
            ("localhost:8000", "is not a URL"),
            ("ftp://h", "another scheme"),
            ("http://u:p@h", "user or password"),
            ("http://h/v1", "path or query"),
            ("http://h?x=1", "path or query"),
            ("http://h/#x", "path or query"),
            ("http://h:99999", "host and port"),
            ("http://h:0", "host and port"),
            ("http://", "is not a URL"),
            ("http://a b", "is not a URL"),
            ("://h", "another scheme"),
            ("http:///x", "is not a URL"),
        ];
        for (text, expected) in rows {
            assert!(message(upstream(text)).contains(expected), "{text}: {}", message(upstream(text)));
        }
    }

    #[test]
    fn hosts_namespaces_and_tokens_are_checked() {
        assert_eq!(message(host("api.example.com:8443")), "ok");
        assert!(message(host("a b")).contains("is not a host") && host("u@h").is_err() && host("h/x").is_err());
        assert!(
            namespace("hita_1.2-x").is_ok() && namespace("a:b").is_err() && namespace(&"x".repeat(65)).is_err()
        );
        assert!(token("0aF-._~+/=").is_ok() && token("a b").is_err() && token("ü").is_err());
    }
}

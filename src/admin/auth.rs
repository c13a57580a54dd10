//! Authorization of admin requests. With tokens: a *viewer* may read, an *admin* may read and change. Without tokens: every
//! request from this machine is allowed, except those that a browser sends for pages of other sites.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, Method, StatusCode, Uri};

use super::refusal::Refusal;
use crate::config::{self, Role};
use crate::tokens::Tokens;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The address that the admin listens on. Without tokens, an address that other machines can reach is replaced by the
/// loopback address of the same family with the same port, and a warning is logged.
pub fn address(admin: &config::AdminConfig) -> SocketAddr {
    let address = guarded(admin.listen, !admin.tokens.is_empty());
    if address != admin.listen {
        tracing::warn!(
            configured = %admin.listen,
            "the admin has no tokens, so it listens on the loopback address {address} only; to open it to others, \
             set LARDER_ADMIN_TOKEN or [admin] tokens = [{{ role = \"admin\", token = \"${{LARDER_ADMIN_TOKEN}}\" }}]"
        );
    }
    address
}

fn guarded(listen: SocketAddr, has_tokens: bool) -> SocketAddr {
    if has_tokens || listen.ip().to_canonical().is_loopback() {
        return listen;
    }
    let loopback = match listen.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(loopback, listen.port())
}

/// The sender of an allowed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminCaller {
    /// Anyone: the path needs no token.
    Anyone,
    /// A program on this machine; no tokens are configured.
    Local,
    /// A client with a token of this role.
    Bearer(Role),
}

/// Why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It carries no bearer token.
    NoToken,
    /// Its bearer token is unknown.
    WrongToken,
    /// Its token has the role viewer, and its method is not safe.
    RoleTooLow,
    /// No tokens are configured, and its host is not a loopback name (DNS rebinding).
    ForeignHost(String),
    /// No tokens are configured, and a page of another site sent it.
    ForeignOrigin,
}

/// Whether a request has a token that is going to be compared.
pub fn has_token(tokens: &Tokens, headers: &HeaderMap) -> bool {
    !tokens.is_empty() && bearer(headers).is_some()
}

/// Whether a request for a route that needs a token is allowed.
pub fn decide(tokens: &Tokens, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<AdminCaller, Denied> {
    if tokens.is_empty() {
        return local(method, uri, headers);
    }
    let role = tokens.role(bearer(headers).ok_or(Denied::NoToken)?).ok_or(Denied::WrongToken)?;
    if role < needed(method) {
        return Err(Denied::RoleTooLow);
    }
    Ok(AdminCaller::Bearer(role))
}

impl AdminCaller {
    /// The role that is logged.
    pub fn label(self) -> &'static str {
        match self {
            AdminCaller::Anyone => "anyone",
            AdminCaller::Local => "local",
            AdminCaller::Bearer(Role::Viewer) => "viewer",
            AdminCaller::Bearer(Role::Admin) => "admin",
        }
    }
}

impl Denied {
    /// The role that is logged.
    pub fn label(&self) -> &'static str {
        match self {
            Denied::RoleTooLow => AdminCaller::Bearer(Role::Viewer).label(),
            Denied::NoToken | Denied::WrongToken | Denied::ForeignHost(_) | Denied::ForeignOrigin => "none",
        }
    }
}

fn needed(method: &Method) -> Role {
    if method.is_safe() { Role::Viewer } else { Role::Admin }
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1). Two such fields count as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Without tokens only this machine can connect, but any page may make a browser on it send requests.
fn local(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<AdminCaller, Denied> {
    // RFC 9112 §3.2.2: an absolute target overrides Host.
    let host = uri.authority().map(http::uri::Authority::as_str).or_else(|| headers.get(HOST)?.to_str().ok());
    let host = host.unwrap_or_default();
    // A page may make its own host name resolve to this machine, but cannot make the browser send another Host.
    if !is_loopback(host) {
        return Err(Denied::ForeignHost(host.chars().take(100).collect()));
    }
    if !method.is_safe() && !is_own_page(host, headers) {
        return Err(Denied::ForeignOrigin);
    }
    Ok(AdminCaller::Local)
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let by_address = bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    by_address || name.eq_ignore_ascii_case("localhost")
}

/// Whether `Origin` and `Sec-Fetch-Site`, where present, name the admin itself. Only browsers send them.
fn is_own_page(host: &str, headers: &HeaderMap) -> bool {
    let is_own_origin = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let all = |name, is_own: &dyn Fn(&str) -> bool| {
        headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(is_own))
    };
    all(ORIGIN, &is_own_origin) && all(SEC_FETCH_SITE, &|site| matches!(site, "same-origin" | "none"))
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        const SEND: &str = "send Authorization: Bearer TOKEN with a token of [admin] tokens or LARDER_ADMIN_TOKEN";
        let unauthorized = |error: &str| Refusal::new(StatusCode::UNAUTHORIZED, error, SEND);
        let forbidden = |error: &str, remedy: &str| Refusal::new(StatusCode::FORBIDDEN, error, remedy);
        match denied {
            // RFC 6750 §3: no error code when the request tried no token.
            Denied::NoToken => unauthorized("this needs a bearer token").challenge("Bearer realm=\"larder\""),
            Denied::WrongToken => unauthorized("the bearer token is unknown")
                .challenge("Bearer realm=\"larder\", error=\"invalid_token\""),
            Denied::RoleTooLow => forbidden(
                "the token's role is viewer, which may not change anything",
                "use a token with role = \"admin\"",
            )
            .challenge("Bearer realm=\"larder\", error=\"insufficient_scope\""),
            Denied::ForeignHost(host) => forbidden(
                &format!("without tokens the admin accepts only loopback host names, not {host:?}"),
                "use http://localhost:PORT or http://127.0.0.1:PORT, or set LARDER_ADMIN_TOKEN or [admin] tokens",
            ),
            Denied::ForeignOrigin => forbidden(
                "without tokens the admin refuses changes from pages of other sites",
                "call it from the command line, or set LARDER_ADMIN_TOKEN or [admin] tokens",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tokens() -> Tokens {
        let token = |role, token: &str| config::Token { role, token: token.to_owned() };
        Tokens::new(&[token(Role::Viewer, "looks"), token(Role::Admin, "changes"), token(Role::Admin, "")])
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn decide(
        tokens: &Tokens,
        method: &Method,
        uri: &'static str,
        fields: &[(&'static str, &str)],
    ) -> Result<AdminCaller, Denied> {
        super::decide(tokens, method, &Uri::from_static(uri), &headers(fields))
    }

    #[test]
    fn without_tokens_a_public_address_becomes_loopback() {
        let rows = [
            ("0.0.0.0:9090", false, "127.0.0.1:9090"),
            ("192.0.2.7:81", false, "127.0.0.1:81"),
            ("[::]:9090", false, "[::1]:9090"),
            ("0.0.0.0:9090", true, "0.0.0.0:9090"),
            ("127.0.0.2:9090", false, "127.0.0.2:9090"),
            ("[::1]:9090", false, "[::1]:9090"),
            ("[::ffff:127.0.0.1]:9090", false, "[::ffff:127.0.0.1]:9090"),
        ];
        for (listen, has_tokens, expected) in rows {
            let address = guarded(listen.parse().unwrap(), has_tokens);
            assert_eq!(address, expected.parse().unwrap(), "{listen} {has_tokens}");
        }
    }

    #[test]
    fn a_bearer_token_grants_its_role() {
        let (viewer, admin) = (Ok(AdminCaller::Bearer(Role::Viewer)), Ok(AdminCaller::Bearer(Role::Admin)));
        let rows = [
            (Method::GET, "Bearer looks", viewer.clone()),
            (Method::HEAD, "bearer  looks", viewer),
            (Method::GET, "Bearer changes", admin.clone()),
            (Method::POST, "BEARER changes", admin),
            (Method::POST, "Bearer looks", Err(Denied::RoleTooLow)),
            (Method::DELETE, "Bearer looks", Err(Denied::RoleTooLow)),
            (Method::GET, "Bearer look", Err(Denied::WrongToken)),
            (Method::GET, "Bearer looks2", Err(Denied::WrongToken)),
            (Method::GET, "Bearer LOOKS", Err(Denied::WrongToken)),
            (Method::GET, "Bearer ", Err(Denied::WrongToken)),
            (Method::GET, "Bearer", Err(Denied::NoToken)),
            (Method::GET, "Basic bG9va3M6", Err(Denied::NoToken)),
        ];
        for (method, field, expected) in rows {
            let decided = decide(&tokens(), &method, "/cache/stats", &[("authorization", field)]);
            assert_eq!(decided, expected, "{method} {field:?}");
        }
    }

    #[test]
    fn a_request_must_carry_exactly_one_authorization_field() {
        assert_eq!(decide(&tokens(), &Method::GET, "/", &[]), Err(Denied::NoToken));
        let two = [("authorization", "Bearer wrong"), ("authorization", "Bearer changes")];
        assert_eq!(decide(&tokens(), &Method::GET, "/", &two), Err(Denied::NoToken));
    }

    #[test]
    fn without_tokens_only_loopback_host_names_are_allowed() {
        let rows = [
            ("localhost", true),
            ("LocalHost:9090", true),
            ("127.0.0.1:9090", true),
            ("127.9.9.9", true),
            ("[::1]:9090", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("", false),
            ("0.0.0.0:9090", false),
            ("192.0.2.7", false),
            ("rebound.example:9090", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("localhost@rebound.example", false),
        ];
        for (host, expected) in rows {
            let decided = decide(&Tokens::new(&[]), &Method::GET, "/cache/stats", &[("host", host)]);
            assert_eq!(decided.is_ok(), expected, "{host}: {decided:?}");
        }
        assert!(decide(&Tokens::new(&[]), &Method::GET, "/", &[]).is_err(), "no Host at all");
    }

    #[test]
    fn an_absolute_target_overrides_host() {
        let fields = [("host", "localhost:9090")];
        let decided = decide(&Tokens::new(&[]), &Method::GET, "http://rebound.example/", &fields);
        assert_eq!(decided, Err(Denied::ForeignHost("rebound.example".to_owned())));
    }

    #[test]
    fn the_logged_role_tells_a_viewer_from_an_unknown_sender() {
        let unknown = [
            Denied::NoToken,
            Denied::WrongToken,
            Denied::ForeignHost("rebound.example".to_owned()),
            Denied::ForeignOrigin,
        ];
        assert_eq!(Denied::RoleTooLow.label(), "viewer");
        assert!(unknown.iter().all(|denied| denied.label() == "none"));
    }

    #[test]
    fn without_tokens_pages_of_other_sites_cannot_change_anything() {
        let rows: [(&[(&str, &str)], bool); 9] = [
            (&[], true),
            (&[("origin", "http://localhost:9090")], true),
            (&[("origin", "http://LOCALHOST:9090"), ("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://localhost:9090")], false),
            (&[("origin", "http://localhost:3000")], false),
            (&[("origin", "null")], false),
            (&[("origin", "http://localhost:9090"), ("origin", "http://evil.example")], false),
        ];
        for (fields, expected) in rows {
            let mut all = vec![("host", "localhost:9090")];
            all.extend_from_slice(fields);
            let all: Vec<(&'static str, &str)> = all;
            let decided = decide(&Tokens::new(&[]), &Method::POST, "/cache/clear", &all);
            assert_eq!(decided.is_ok(), expected, "{fields:?}: {decided:?}");
            assert!(
                decide(&Tokens::new(&[]), &Method::GET, "/cache/stats", &all).is_ok(),
                "a safe method is allowed"
            );
        }
    }
}

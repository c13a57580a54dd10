//! Authorization of admin requests. With tokens: a *viewer* may read, an *admin* may read and change, and one with a scope may change its
//! families. Without tokens: every request from this machine is allowed. With tokens and without, a browser cannot be made to send a
//! request: `Host` must be a name of the admin, and changes must not come from pages of other sites.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::refusal::Refusal;
use crate::config::{self, Role};
use crate::purge::{Operator, Purge};
use crate::running::Live;
use crate::tokens::{OperatorToken, Tokens};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminCaller {
    /// Anyone: the route needs no token.
    Anyone,
    /// A program on this machine; no tokens are configured.
    Local,
    /// A client with this token.
    Bearer(Arc<OperatorToken>),
}

/// Why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It carries no bearer token.
    NoToken,
    /// Its bearer token is unknown.
    WrongToken,
    /// Its token has the role viewer, and its method is not safe.
    RoleTooLow(Arc<OperatorToken>),
    /// Its token has a scope, and the route changes more than families.
    ScopeTooNarrow(Arc<OperatorToken>),
    /// Its host is not a name of the admin (DNS rebinding).
    ForeignHost(String),
    /// A page of another site sent it (CSRF).
    ForeignOrigin,
}

/// Who may call the admin, and by which names.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    pub tokens: &'a Tokens,
    /// `[admin] hosts`
    pub hosts: &'a [String],
}

/// Whether a request has a token that is going to be compared.
pub fn has_token(tokens: &Tokens, headers: &HeaderMap) -> bool {
    !tokens.is_empty() && bearer(headers).is_some()
}

impl Access<'_> {
    /// Whether a request is allowed, for a route that needs a token. `is_of_families`: its handler compares the scope of the token with
    /// the families that it changes.
    pub fn decide(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        is_of_families: bool,
    ) -> Result<AdminCaller, Denied> {
        // RFC 9112 §3.2.2: an absolute target overrides Host.
        let host = uri.authority().map(Authority::as_str).or_else(|| headers.get(HOST)?.to_str().ok());
        let host = host.unwrap_or_default();
        // A page may make its own host name resolve to this machine, but cannot make the browser send another Host.
        if !self.is_own_host(host) {
            return Err(Denied::ForeignHost(host.chars().take(100).collect()));
        }
        if !method.is_safe() && !self.is_own_page(host, headers) {
            return Err(Denied::ForeignOrigin);
        }
        if self.tokens.is_empty() {
            return Ok(AdminCaller::Local);
        }
        let token = self.tokens.find(bearer(headers).ok_or(Denied::NoToken)?).ok_or(Denied::WrongToken)?;
        match (method.is_safe(), token.role) {
            (false, Role::Viewer) => Err(Denied::RoleTooLow(token)),
            (false, Role::Admin) if token.families.is_some() && !is_of_families => {
                Err(Denied::ScopeTooNarrow(token))
            }
            _ => Ok(AdminCaller::Bearer(token)),
        }
    }

    /// Without tokens: a loopback name or address, or one of `hosts`. With tokens any address is allowed too, such as that of a pod which
    /// Kubernetes probes, and any name without a dot, such as that of a service in Docker Compose: neither is a name in public DNS that
    /// a page could make resolve to this machine.
    fn is_own_host(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let has_tokens = !self.tokens.is_empty();
        let is_address = |address: IpAddr| has_tokens || address.to_canonical().is_loopback();
        bare.parse().is_ok_and(is_address)
            || (has_tokens && !name.is_empty() && !name.contains(['.', ':']))
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
    }

    /// Whether `Origin` and `Sec-Fetch-Site`, where present, name the admin itself. Only browsers send them. Behind a proxy that
    /// changes Host, the page's name is one of `hosts`.
    fn is_own_page(&self, host: &str, headers: &HeaderMap) -> bool {
        let is_own_origin = |origin: &str| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let Some(authority) = authority else { return false };
            let name = authority.parse::<Authority>().ok();
            let is_known =
                |name: Authority| self.hosts.iter().any(|known| name.host().eq_ignore_ascii_case(known));
            authority.eq_ignore_ascii_case(host) || name.is_some_and(is_known)
        };
        let all = |name, is_own: &dyn Fn(&str) -> bool| {
            headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(is_own))
        };
        all(ORIGIN, &is_own_origin) && all(SEC_FETCH_SITE, &|site| matches!(site, "same-origin" | "none"))
    }
}

impl AdminCaller {
    /// The role that is logged.
    pub fn role(&self) -> &'static str {
        match self {
            AdminCaller::Anyone => "anyone",
            AdminCaller::Local => "local",
            AdminCaller::Bearer(token) => token.role.word(),
        }
    }

    /// The name of its token, if it has one.
    pub fn token(&self) -> Option<&Arc<OperatorToken>> {
        match self {
            AdminCaller::Bearer(token) => Some(token),
            AdminCaller::Anyone | AdminCaller::Local => None,
        }
    }
}

/// The sender of a request, for the handler.
#[derive(Debug, Clone)]
pub struct Caller {
    pub caller: AdminCaller,
    pub peer: Option<SocketAddr>,
}

impl Caller {
    /// Refuses to change what its scope, if it has one, does not cover. `outside`: that, as a sentence part.
    ///
    /// # Errors
    ///
    /// There is something outside.
    pub fn check_scope(&self, outside: impl Fn(&OperatorToken) -> Option<String>) -> Result<(), Refusal> {
        let Some(token) = self.caller.token() else { return Ok(()) };
        let Some(outside) = outside(token) else { return Ok(()) };
        let scope = token.families.as_ref().map(|families| families.join(", ")).unwrap_or_default();
        let error = format!("the token {:?} may change {scope}, and not {outside}", token.name);
        let what_to_do = "name families of its scope, or use a token with others (families in [admin] tokens)";
        Err(Refusal::forbidden(error, what_to_do).challenge(INSUFFICIENT))
    }

    /// Refuses a purge that its scope does not cover.
    pub fn check_purge(&self, purge: &Purge, live: &Live) -> Result<(), Refusal> {
        self.check_scope(|token| purge.outside(live, token))
    }

    /// Refuses to change this family, or this level, or to show its bodies, if its scope does not cover it.
    pub fn check_family(&self, family: &str) -> Result<(), Refusal> {
        self.check_scope(|token| (!token.may_change(family)).then(|| format!("family {family:?}")))
    }

    /// Whether it may change anything at all.
    pub fn is_admin(&self) -> bool {
        match &self.caller {
            AdminCaller::Anyone => false,
            AdminCaller::Local => true,
            AdminCaller::Bearer(token) => token.role == Role::Admin,
        }
    }

    /// For the log of invalidations: the name of its token, or `local`.
    pub fn operator(&self) -> Operator {
        let name = self.caller.token().map_or_else(|| self.caller.role().to_owned(), |token| token.name.clone());
        Operator { token: Some(name), peer: self.peer.map(|peer| peer.to_string()) }
    }
}

const INSUFFICIENT: &str = "Bearer realm=\"larder\", error=\"insufficient_scope\"";

impl Denied {
    /// Its token, if that is known.
    pub fn caller(&self) -> Option<AdminCaller> {
        match self {
            Denied::RoleTooLow(token) | Denied::ScopeTooNarrow(token) => {
                Some(AdminCaller::Bearer(Arc::clone(token)))
            }
            Denied::NoToken | Denied::WrongToken | Denied::ForeignHost(_) | Denied::ForeignOrigin => None,
        }
    }
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1). Two such fields count as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        const SEND: &str = "send Authorization: Bearer TOKEN with a token of [admin] tokens or LARDER_ADMIN_TOKEN";
        let unauthorized = |error: &str| Refusal::new(StatusCode::UNAUTHORIZED, error, SEND);
        let forbidden = |error: &str, remedy: &str| Refusal::forbidden(error, remedy);
        match denied {
            // RFC 6750 §3: no error code when the request tried no token.
            Denied::NoToken => unauthorized("this needs a bearer token").challenge("Bearer realm=\"larder\""),
            Denied::WrongToken => unauthorized("the bearer token is unknown")
                .challenge("Bearer realm=\"larder\", error=\"invalid_token\""),
            Denied::RoleTooLow(_) => forbidden(
                "the token's role is viewer, which may not change anything",
                "use a token with role = \"admin\"",
            )
            .challenge(INSUFFICIENT),
            Denied::ScopeTooNarrow(token) => forbidden(
                &format!("the token {:?} may purge, warm and bypass its families, and nothing else", token.name),
                "use a token without families",
            )
            .challenge(INSUFFICIENT),
            Denied::ForeignHost(host) => forbidden(
                &format!("{host:?} is no name of the admin"),
                "call it by its address or as localhost, or add the name to [admin] hosts; without tokens only a loopback address will do",
            ),
            Denied::ForeignOrigin => forbidden(
                "the admin refuses changes from pages of other sites",
                "call it from the command line or from its own pages, or add the name of the page's host to [admin] hosts",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tokens() -> Tokens {
        let token = |name: &str, role, families: Option<&str>, secret: &str| config::Token {
            name: name.to_owned(),
            role,
            families: families.map(|family| vec![family.to_owned()]),
            secret: config::TokenSecret::Text(secret.to_owned()),
        };
        Tokens::new(&[
            token("v", Role::Viewer, None, "looks"),
            token("a", Role::Admin, None, "changes"),
            token("s", Role::Admin, Some("user"), "purges"),
        ])
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
        let hosts = ["larder.example".to_owned()];
        let mut headers = headers(fields);
        if !tokens.is_empty() && !headers.contains_key("host") {
            headers.insert("host", HeaderValue::from_static("localhost:9090"));
        }
        Access { tokens, hosts: &hosts }.decide(
            method,
            &Uri::from_static(uri),
            &headers,
            uri == "/cache/clear/user",
        )
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
        let name = |decided: Result<AdminCaller, Denied>| match decided {
            Ok(caller) => caller.token().unwrap().name.clone(),
            Err(denied) => format!("{denied:?}").chars().take_while(|c| c.is_alphabetic()).collect(),
        };
        let rows = [
            (Method::GET, "Bearer looks", "v"),
            (Method::HEAD, "bearer  looks", "v"),
            (Method::GET, "Bearer changes", "a"),
            (Method::POST, "BEARER changes", "a"),
            (Method::GET, "Bearer purges", "s"),
            (Method::POST, "Bearer purges", "ScopeTooNarrow"),
            (Method::POST, "Bearer looks", "RoleTooLow"),
            (Method::DELETE, "Bearer looks", "RoleTooLow"),
            (Method::GET, "Bearer look", "WrongToken"),
            (Method::GET, "Bearer looks2", "WrongToken"),
            (Method::GET, "Bearer LOOKS", "WrongToken"),
            (Method::GET, "Bearer ", "WrongToken"),
            (Method::GET, "Bearer", "NoToken"),
            (Method::GET, "Basic bG9va3M6", "NoToken"),
        ];
        for (method, field, expected) in rows {
            let decided = decide(&tokens(), &method, "/cache/stats", &[("authorization", field)]);
            assert_eq!(name(decided), expected, "{method} {field:?}");
        }
        let of_families =
            decide(&tokens(), &Method::POST, "/cache/clear/user", &[("authorization", "Bearer purges")]);
        assert!(of_families.is_ok_and(|caller| {
            let caller = Caller { caller, peer: None };
            caller.check_family("user").is_ok() && caller.check_family("plan").is_err()
        }));
    }

    #[test]
    fn a_request_must_carry_exactly_one_authorization_field() {
        assert_eq!(decide(&tokens(), &Method::GET, "/", &[]), Err(Denied::NoToken));
        let two = [("authorization", "Bearer wrong"), ("authorization", "Bearer changes")];
        assert_eq!(decide(&tokens(), &Method::GET, "/", &two), Err(Denied::NoToken));
    }

    #[test]
    fn without_tokens_the_host_is_loopback_or_configured() {
        let rows = [
            ("localhost", true),
            ("LocalHost:9090", true),
            ("127.0.0.1:9090", true),
            ("127.9.9.9", true),
            ("[::1]:9090", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("larder.example", true),
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
    fn with_tokens_the_host_may_be_any_address() {
        let rows = [
            ("localhost", true),
            ("192.0.2.7:9090", true),
            ("[2001:db8::7]:9090", true),
            ("Larder.Example", true),
            ("larder.example:8443", true),
            ("larder:9090", true),
            ("", false),
            ("larder.", false),
            ("rebound.example:9090", false),
            ("192.0.2.7.rebound.example", false),
            ("larder.example.rebound.example", false),
            ("192.0.2.7@rebound.example", false),
        ];
        for (host, expected) in rows {
            let decided = decide(
                &tokens(),
                &Method::GET,
                "/cache/stats",
                &[("host", host), ("authorization", "Bearer looks")],
            );
            assert_eq!(decided.is_ok(), expected, "{host}: {decided:?}");
        }
    }

    #[test]
    fn with_tokens_pages_of_other_sites_change_nothing() {
        let rows = [
            ("http://localhost:9090", true),
            ("https://larder.example", true),
            ("http://localhost:3000", false),
            ("https://larder.example.evil.example", false),
            ("null", false),
        ];
        for (origin, expected) in rows {
            let fields = [("host", "localhost:9090"), ("origin", origin), ("authorization", "Bearer changes")];
            assert_eq!(decide(&tokens(), &Method::POST, "/cache/clear", &fields).is_ok(), expected, "{origin}");
        }
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

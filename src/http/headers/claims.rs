//! Request fields that claim another scheme, host, path or client for a request. Upstreams build links and redirects
//! from them, or route by them. They are not part of the key by default, so they are removed from reads and writes,
//! unless a read's family keys on them or a trusted proxy in front has set them: then scheme, host, port and prefix
//! are part of every key ([`crate::key::CacheKey::behind`]), and the caller's identity counts as a credential.

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};

use super::ForwardedPolicy;
use super::shapes::NameShapes;

/// What a field claims about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedClaim {
    Scheme,
    Host,
    Port,
    /// The prefix that was removed from its path.
    Prefix,
    /// Its path: the rules would not know what is read or written.
    Path,
    /// The client's address.
    Address,
    /// The caller's identity: a credential ([`super::credentials`]).
    Caller,
    /// The list of previous hops, which Larder replaces or continues.
    Hops,
    /// Something else about the previous hop.
    Other,
}

use ForwardedClaim::{Address, Caller, Hops, Host, Other, Path, Port, Prefix, Scheme};

/// The fields, each with its senders or recipients; quotation marks enclose the title of the documentation. Sorted by
/// name.
static CLAIMS: [(&str, ForwardedClaim); 80] = [
    ("ali-cdn-real-ip", Address),               // Alibaba Cloud CDN
    ("cf-connecting-ip", Address),              // Cloudflare: "HTTP headers"
    ("cf-connecting-ipv6", Address),            // the same
    ("cf-pseudo-ipv4", Address),                // the same
    ("cf-visitor", Scheme),                     // the same: {"scheme":"https"}
    ("client-ip", Address), // Azure App Service sends it; PHP's HTTP_CLIENT_IP, Rails' RemoteIp
    ("cloudfront-forwarded-proto", Scheme), // Amazon CloudFront: "Add CloudFront request headers"
    ("cloudfront-viewer-address", Address), // the same
    ("disguised-host", Host), // Azure App Service sends it
    ("do-connecting-ip", Address), // DigitalOcean App Platform
    ("fastly-client-ip", Address), // Fastly: "Fastly-Client-IP"
    ("fastly-ssl", Scheme), // Fastly: "Fastly-SSL"
    ("fly-client-ip", Address), // Fly.io: "Request headers"
    ("fly-forwarded-port", Port), // the same
    ("fly-forwarded-proto", Scheme), // the same
    ("fly-forwarded-ssl", Scheme), // the same
    ("forwarded", Hops),    // RFC 7239
    ("forwarded-for", Address), // the list of request-ip
    ("front-end-https", Scheme), // Microsoft; MDN, "X-Forwarded-Proto"; Yii: secureProtocolHeaders
    ("incap-client-ip", Address), // Imperva
    ("path-info", Path),    // gunicorn: forwarder_headers (default), PATH_INFO
    ("proxy-client-ip", Address), // WebLogic plug-in
    ("remote-addr", Address), // RFC 3875 §4.1.8 as a field
    ("script-name", Prefix), // gunicorn: forwarder_headers (default), SCRIPT_NAME
    ("true-client-ip", Address), // Akamai; Cloudflare Enterprise
    ("wl-proxy-client-ip", Address), // WebLogic plug-in
    ("wl-proxy-ssl", Scheme), // WebLogic Kubernetes Operator: "Load balancing"
    ("x-appengine-https", Scheme), // Google App Engine
    ("x-appengine-user-ip", Address), // the same
    ("x-appservice-proto", Scheme), // Azure App Service: "Secure a custom DNS name with a TLS/SSL binding"
    ("x-arr-ssl", Scheme),  // Azure App Service (IIS Application Request Routing); koa-sslify
    ("x-azure-clientip", Address), // Azure Front Door: "HTTP headers protocol support"
    ("x-azure-socketip", Address), // the same
    ("x-client-ip", Address), // Azure App Service, Apache mod_remoteip's examples
    ("x-cluster-client-ip", Address), // Rackspace, Riverbed Stingray; request-ip
    ("x-envoy-external-address", Address), // Envoy: "HTTP header manipulation"
    ("x-envoy-original-host", Host), // the same
    ("x-envoy-original-path", Path), // the same
    ("x-forwarded", Other), // the list of request-ip
    ("x-forwarded-access-token", Caller), // oauth2-proxy: --pass-access-token
    ("x-forwarded-by", Address), // Tomcat RemoteIpValve: proxiesHeader
    ("x-forwarded-client-cert", Caller), // Envoy: "HTTP header manipulation"
    ("x-forwarded-email", Caller), // oauth2-proxy: --pass-user-headers
    ("x-forwarded-for", Hops), // squid; RFC 7239 §7.4
    ("x-forwarded-groups", Caller), // the same
    ("x-forwarded-host", Host), // Apache mod_proxy
    ("x-forwarded-path", Path), // Kong
    ("x-forwarded-port", Port), // AWS Elastic Load Balancing, Tomcat, Spring
    ("x-forwarded-preferred-username", Caller), // the same
    ("x-forwarded-prefix", Prefix), // Traefik, Spring, ASP.NET Core
    ("x-forwarded-proto", Scheme), // AWS Elastic Load Balancing, and nearly everybody
    ("x-forwarded-protocol", Scheme), // gunicorn: secure_scheme_headers (default)
    ("x-forwarded-scheme", Scheme), // ingress-nginx, Rack
    ("x-forwarded-server", Host), // Apache mod_proxy
    ("x-forwarded-ssl", Scheme), // gunicorn: secure_scheme_headers (default); Rack
    ("x-forwarded-uri", Path), // Traefik and Caddy: forward authentication
    ("x-forwarded-user", Caller), // the same
    ("x-host", Host),       // tried by scanners: lists for cache poisoning and for going round access rules
    ("x-http-destinationurl", Path), // the same
    ("x-http-host-override", Host), // the same
    ("x-nf-client-connection-ip", Address), // Netlify
    ("x-original-for", Address), // ASP.NET Core: ForwardedHeadersMiddleware
    ("x-original-host", Host), // Azure Application Gateway
    ("x-original-proto", Scheme), // ASP.NET Core: ForwardedHeadersMiddleware
    ("x-original-uri", Path), // nginx: auth_request
    ("x-original-url", Path), // IIS URL Rewrite; read by WordPress on IIS, Symfony, Zend
    ("x-proxy-url", Path),  // tried by scanners, as x-host is
    ("x-proxyuser-ip", Address), // Yii: trustedHosts, in its guide
    ("x-real-ip", Address), // nginx: realip
    ("x-remote-group", Caller), // Kubernetes: "Authenticating proxy"
    ("x-remote-user", Caller), // the same
    ("x-rewrite-uri", Path), // tried by scanners; lighttpd 1.5 knew it in responses
    ("x-rewrite-url", Path), // Helicon ISAPI_Rewrite; read by Yii 1, Zend 1
    ("x-scheme", Scheme),   // ingress-nginx; Flask's snippets
    ("x-script-name", Prefix), // Flask's snippets
    ("x-sucuri-clientip", Address), // Sucuri's firewall
    ("x-url-scheme", Scheme), // MDN, "X-Forwarded-Proto"; Fiber; Paste, Pylons
    ("x-vercel-forwarded-for", Address), // Vercel: "Request headers"
    ("x-vercel-proxied-for", Address), // the same
    ("x-waws-unencoded-url", Path), // Azure App Service sends it
];

/// Prefixes of other such fields; all of them are removed.
static BEGINNINGS: [&str; 4] = ["x-forwarded-", "x-original-", "x-originating-", "x-remote-"];

const SHAPES: NameShapes = {
    let mut shapes = NameShapes::new();
    let mut at = 0;
    while at < CLAIMS.len() {
        shapes = shapes.and(CLAIMS[at].0);
        at += 1;
    }
    shapes
};

/// What a field claims, if anything. A name with `_` must be converted to `-` first.
pub fn claim_of(name: &HeaderName) -> Option<ForwardedClaim> {
    let name = name.as_str();
    static QUICK: NameShapes = SHAPES;
    if QUICK.may_have(name)
        && let Ok(at) = CLAIMS.binary_search_by(|(known, _)| (*known).cmp(name))
    {
        return Some(CLAIMS[at].1);
    }
    let is_other = name.starts_with("x-") && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    is_other.then_some(Other)
}

impl ForwardedClaim {
    /// Whether it is forwarded and part of the key if a trusted proxy has set it.
    fn is_keyed(self) -> bool {
        matches!(self, Scheme | Host | Port | Prefix)
    }
}

/// Whether a field that is not removed is part of the key of every request from a trusted proxy.
pub fn is_keyed(name: &HeaderName) -> bool {
    claim_of(name).is_some_and(ForwardedClaim::is_keyed)
}

/// Whether a field is removed under this policy. Fields that the family keys on (`by_family`) stay, unless Larder
/// writes them itself. The list of hops stays: [`super::add_forwarded`] replaces or continues it.
pub fn goes(name: &HeaderName, policy: ForwardedPolicy, by_family: impl Fn(&HeaderName) -> bool) -> bool {
    match claim_of(name) {
        None | Some(Hops) => false,
        Some(claim) if policy == ForwardedPolicy::Append && (claim.is_keyed() || claim == Caller) => false,
        Some(_) => !by_family(name) || name.as_str().starts_with("x-forwarded-"),
    }
}

/// Whether a request field claims a scheme.
pub fn tell_scheme(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| claim_of(name) == Some(Scheme))
        || of_forwarded(headers)
            .is_some_and(|said| said.to_ascii_lowercase().windows(6).any(|part| part == b"proto="))
}

/// The parameters of `Forwarded` other than clients and proxies (RFC 7239 §5); the whole line if it is invalid.
pub fn of_forwarded(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut said: Vec<&[u8]> = Vec::new();
    for line in headers.get_all(FORWARDED) {
        let parts = line.as_bytes().split(|byte| matches!(byte, b',' | b';')).map(<[u8]>::trim_ascii);
        let is_plain =
            |part: &[u8]| !part.contains(&b'\\') && part.iter().filter(|byte| **byte == b'"').count() % 2 == 0;
        if !parts.clone().all(is_plain) {
            said.push(line.as_bytes());
            continue;
        }
        let is_node = |part: &[u8]| {
            part.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"for="))
                || part.get(..3).is_some_and(|name| name.eq_ignore_ascii_case(b"by="))
        };
        said.extend(parts.filter(|part| !part.is_empty() && !is_node(part)));
    }
    (!said.is_empty()).then(|| said.join(&b";"[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Credentials;
    use crate::http::sample::{Fields, fields};

    #[test]
    fn the_table_is_sorted_and_found() {
        assert!(CLAIMS.is_sorted_by_key(|(name, _)| *name) && BEGINNINGS.is_sorted());
        for (name, claim) in CLAIMS {
            assert_eq!(claim_of(&HeaderName::from_static(name)), Some(claim), "{name}");
        }
        for name in ["x-forwarded-anything", "x-original-anything", "x-remote-addr", "x-originating-ip"] {
            assert_eq!(claim_of(&HeaderName::from_static(name)), Some(Other), "{name}");
        }
        for name in ["accept", "cookie", "host", "via", "sec-fetch-mode", "x-request-id"] {
            assert_eq!(claim_of(&HeaderName::from_static(name)), None, "{name}");
            assert!(!SHAPES.may_have(name) || name.starts_with('x'), "{name} costs a search");
        }
    }

    #[test]
    fn only_trusted_proxies_pass_claims_and_not_those_of_paths_and_addresses() {
        let stays =
            |name: &'static str, policy, keyed: bool| !goes(&HeaderName::from_static(name), policy, |_| keyed);
        let (set, append, off) = (ForwardedPolicy::Set, ForwardedPolicy::Append, ForwardedPolicy::Off);
        for (name, claim) in CLAIMS.into_iter().filter(|(_, claim)| *claim != Hops) {
            assert_eq!(stays(name, append, false), claim.is_keyed() || claim == Caller, "{name}");
            assert!(
                claim != Caller || Credentials::default().tell_callers(&HeaderName::from_static(name)),
                "{name}"
            );
            assert!(!stays(name, set, false) && !stays(name, off, false), "{name}");
            assert_eq!(stays(name, set, true), !name.starts_with("x-forwarded-"), "{name}");
        }
        assert!(!stays("x-forwarded-anything", append, false));
        assert!(
            stays("forwarded", set, false) && stays("x-forwarded-for", off, false) && stays("accept", set, false)
        );
    }

    #[test]
    fn forwarded_is_parsed_without_its_nodes() {
        let rows: [(Fields<'_>, Option<&str>); 9] = [
            (&[], None),
            (&[("forwarded", "for=192.0.2.1")], None),
            (&[("forwarded", "For=192.0.2.1;BY=_me, for=\"[::1]:80\"")], None),
            (&[("forwarded", "for=192.0.2.1;proto=https;host=a")], Some("proto=https;host=a")),
            (&[("forwarded", "host=evil"), ("forwarded", "for=1;host=a")], Some("host=evil;host=a")),
            (&[("forwarded", "host=\"a:1\", for=x")], Some("host=\"a:1\"")),
            (&[("forwarded", "host=\"a,for=x\"")], Some("host=\"a,for=x\"")),
            (&[("forwarded", "for=\"a\\\";host=b")], Some("for=\"a\\\";host=b")),
            (&[("forwarded", "something")], Some("something")),
        ];
        for (values, expected) in rows {
            let said = of_forwarded(&fields(values));
            assert_eq!(said.as_deref(), expected.map(str::as_bytes), "{values:?}");
        }
    }

    #[test]
    fn a_scheme_can_be_claimed_in_many_fields() {
        let told = |values: Fields<'_>| tell_scheme(&fields(values));
        assert!(told(&[("x-forwarded-ssl", "on")]) && told(&[("forwarded", "for=1;Proto=https")]));
        assert!(!told(&[("x-forwarded-host", "h"), ("forwarded", "for=1")]));
    }
}

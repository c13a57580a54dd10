//! Upstream's own addresses, and references to them in its responses. Clients do not know these addresses and may not reach
//! them: the references become relative, and so lead to Larder by whatever name the client uses.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::config::HostPolicy;
use crate::http::invalidation::{is_host, without_scheme};
use crate::http::target::normalise_authority;

const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// The addresses of an upstream: hosts with their ports, unless those are the default.
pub fn addresses(url: &Uri, host: &HostPolicy) -> Vec<String> {
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().and_then(|authority| normalise_authority(scheme, authority.as_str()));
    let fixed = match host {
        HostPolicy::Fixed(host) => host.to_str().ok().map(str::to_ascii_lowercase),
        HostPolicy::Client | HostPolicy::Upstream | HostPolicy::UpstreamByDefault => None,
    };
    authority.into_iter().chain(fixed).collect()
}

/// Makes references to one of upstream's addresses (`own`) in `Location`, `Content-Location` and `Refresh` relative, whatever
/// the scheme. A reference to `host`, the client's name for Larder, is left alone. So is a redirect from http to https for
/// the same target (`requested`: path and query of a read by http): without the scheme it would lead back to itself.
pub(super) fn make_relative(
    response: &mut HeaderMap,
    own: &[String],
    host: Option<&HeaderValue>,
    requested: Option<&str>,
) {
    let client = host.and_then(|host| host.to_str().ok());
    let relative = |reference: &str| relative(reference, own, client, requested);
    for name in [LOCATION, CONTENT_LOCATION] {
        replace(response, &name, |value| relative(value.trim()));
    }
    replace(response, &REFRESH, |value| {
        let at = url_of_refresh(value)?;
        let (before, url) = value.split_at(at);
        let end = url.find(['"', '\'']).unwrap_or(url.len());
        Some(format!("{before}{}{}", relative(url[..end].trim_end())?, &url[end..]))
    });
}

/// Replaces the values of a field for which `other` returns a replacement.
fn replace(response: &mut HeaderMap, name: &HeaderName, other: impl Fn(&str) -> Option<String>) {
    let Some(values) = response.contains_key(name).then(|| response.get_all(name).iter().cloned()) else { return };
    let values: Vec<HeaderValue> = values
        .map(|value| {
            let text = std::str::from_utf8(value.as_bytes()).ok().and_then(&other);
            text.and_then(|text| HeaderValue::try_from(text).ok()).unwrap_or(value)
        })
        .collect();
    response.remove(name);
    for value in values {
        response.append(name, value);
    }
}

fn relative(reference: &str, own: &[String], client: Option<&str>, requested: Option<&str>) -> Option<String> {
    let (scheme, rest) = without_scheme(reference)?;
    let rest = rest.strip_prefix("//")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is = |host: &str| is_host(scheme, authority, host);
    if !own.iter().any(|own| is(own)) || client.is_some_and(is) {
        return None;
    }
    let path = match path {
        // An empty reference would mean the requested target.
        path if !path.starts_with('/') => format!("/{path}"),
        // RFC 3986 §4.2: two slashes would begin a host. Browsers treat a backslash as a slash, and drop tabs.
        path if path.bytes().filter(|byte| *byte != b'\t').nth(1).is_some_and(|byte| b"/\\".contains(&byte)) => {
            format!("/.{path}")
        }
        path => path.to_owned(),
    };
    let leads_back = scheme == Some("https") && requested == path.split('#').next();
    (!leads_back).then_some(path)
}

/// Where the URL begins in `5; url=/next`.
fn url_of_refresh(value: &str) -> Option<usize> {
    let from = value.find([';', ','])? + 1;
    let parameter = value[from..].trim_start();
    let (name, url) = parameter.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("url"))?;
    debug_assert!(!name.is_empty());
    Some(value.len() - url.trim_start().trim_start_matches(['"', '\'']).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, value: &str) -> String {
        let name = HeaderName::try_from(name).unwrap();
        let mut response = HeaderMap::from_iter([(name.clone(), HeaderValue::try_from(value).unwrap())]);
        let own = ["127.0.0.1:8000", "api.internal"].map(str::to_owned);
        let host = HeaderValue::from_static("api.test");
        make_relative(&mut response, &own, Some(&host), Some("/t/?x=1"));
        response[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn references_to_upstreams_own_address_are_made_relative() {
        let rows = [
            ("http://127.0.0.1:8000/t/7?a#b", "/t/7?a#b"),
            ("https://127.0.0.1:8000/login", "/login"),
            ("HTTPS://API.internal:443/login", "/login"),
            ("//api.internal/login", "/login"),
            ("http://api.internal:80", "/"),
            ("http://api.internal?next=1", "/?next=1"),
            ("http://api.internal//evil.test/x", "/.//evil.test/x"),
            ("http://api.internal/\\evil.test/x", "/./\\evil.test/x"),
            ("http://api.internal/\t/evil.test/x", "/./\t/evil.test/x"),
            ("http://api.internal/t/?x=1", "/t/?x=1"),
            ("http://api.test/t/7", "http://api.test/t/7"),
            ("http://127.0.0.1/t/7", "http://127.0.0.1/t/7"),
            ("http://api.internal.evil.test/", "http://api.internal.evil.test/"),
            ("http://api.internal@evil.test/", "http://api.internal@evil.test/"),
            ("ftp://api.internal/", "ftp://api.internal/"),
            ("/t/7", "/t/7"),
            ("t/7", "t/7"),
            // From http to https: without its scheme it would redirect to itself.
            ("https://api.internal/t/?x=1", "https://api.internal/t/?x=1"),
            ("https://api.internal/t/?x=2", "/t/?x=2"),
        ];
        for (reference, expected) in rows {
            for name in ["location", "content-location"] {
                assert_eq!(shown(name, reference), expected, "{reference}");
            }
            assert_eq!(shown("refresh", &format!("5; url={reference}")), format!("5; url={expected}"));
            assert_eq!(shown("refresh", &format!("0;URL='{reference}'")), format!("0;URL='{expected}'"));
        }
        for refresh in ["5", "5; http://api.internal/", ""] {
            assert_eq!(shown("refresh", refresh), refresh);
        }
    }

    #[test]
    fn references_to_the_clients_name_for_larder_are_left_alone() {
        let mut response = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("http://api.internal/x"))]);
        let host = HeaderValue::from_static("api.internal");
        make_relative(&mut response, &["api.internal".to_owned()], Some(&host), Some("/"));
        assert_eq!(response[LOCATION], "http://api.internal/x");
    }
}

//! Request fields with `_` in their names. CGI and its successors (WSGI, PHP, FastCGI) read `X_Real_IP` and
//! `X-Real-IP` as one variable, so one could bypass the removal or keying of the other. By default such fields are
//! dropped, as nginx does. Where they are allowed, Larder handles them under their names with `-`, and restores their
//! names towards upstream.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, InvalidHeaderName, MAX_FORWARDS};

use super::{END_TO_END, HOP_BY_HOP, is_of_this_hop};

/// Removes all of them.
pub fn drop_underscored(headers: &mut HeaderMap) {
    for name in underscored(headers) {
        headers.remove(name);
    }
}

/// Renames them to `-`, beside a field that has that name, so that all code treats both alike. Removes fields for
/// framing and routing and hop-by-hop fields, which have one spelling only. Returns the names for
/// [`restore_underscored`].
pub fn dash_underscored(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let mut own = Vec::new();
    for name in underscored(headers) {
        let values: Vec<_> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        let twin = dashed(&name);
        if HOP_BY_HOP.contains(&twin) || [CONTENT_LENGTH, HOST, EXPECT, MAX_FORWARDS].contains(&twin) {
            continue;
        }
        let is_known = is_of_this_hop(&twin) || END_TO_END.binary_search(&twin.as_str()).is_ok();
        if !is_known && !headers.contains_key(&twin) {
            own.push(name);
        }
        for value in values {
            headers.append(twin.clone(), value);
        }
    }
    own
}

/// Restores the names of the fields that are still present.
pub fn restore_underscored(headers: &mut HeaderMap, own: &[HeaderName]) {
    for name in own {
        let twin = dashed(name);
        let values: Vec<_> = headers.get_all(&twin).iter().cloned().collect();
        headers.remove(&twin);
        for value in values {
            headers.append(name.clone(), value);
        }
    }
}

/// The name with `-` for `_`, which rules and `Vary` use for both.
pub fn dashed(name: &HeaderName) -> HeaderName {
    if !name.as_str().contains('_') {
        return name.clone();
    }
    // The name was valid, and the replacement is a valid character.
    HeaderName::try_from(name.as_str().replace('_', "-")).unwrap_or_else(|_| name.clone())
}

/// A field name with `_` replaced by `-`, as the proxy does with received fields.
pub fn field_name(text: &str) -> Result<HeaderName, InvalidHeaderName> {
    HeaderName::try_from(text).map(|name| dashed(&name))
}

fn underscored(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn fields_with_underscores_are_dropped() {
        let mut headers = fields(&[("x_real_ip", "1"), ("x-real_ip", "1"), ("_", "1"), ("x-a", "1")]);
        drop_underscored(&mut headers);
        assert_eq!(headers, fields(&[("x-a", "1")]));
    }

    #[test]
    fn fields_with_underscores_are_known_by_their_dashed_names() {
        let mut headers = fields(&[
            ("x_tenant", "7"),
            ("x_tenant", "8"),
            ("x-both", "1"),
            ("x_both", "2"),
            ("x_real_ip", "1"),
            ("if_none_match", "\"1\""),
            ("content_length", "5"),
            ("transfer_encoding", "chunked"),
            ("host_", "kept"),
            ("connection", "close"),
        ]);
        let mut own = dash_underscored(&mut headers);
        own.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        assert_eq!(own, ["host_", "x_tenant"].map(HeaderName::from_static));
        let known = [
            ("x-tenant", "7"),
            ("x-tenant", "8"),
            ("x-both", "1"),
            ("x-both", "2"),
            ("x-real-ip", "1"),
            ("if-none-match", "\"1\""),
            ("host-", "kept"),
            ("connection", "close"),
        ];
        assert_eq!(headers, fields(&known));
        headers.remove("host-");
        restore_underscored(&mut headers, &own);
        assert_eq!(headers.get_all("x_tenant").iter().count(), 2);
        assert!(!headers.contains_key("x-tenant") && !headers.contains_key("host_"));
    }
}

//! What the head of a response says about the bytes that follow (RFC 9112 §6.3).

use http::{HeaderMap, Method, Response, StatusCode, Version, header};

use crate::http::headers;

/// Where a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With its head: it has no content (RFC 9112 §6.3, rule 1), whatever its fields say.
    Head,
    /// With its content: by length, last chunk, or the end of the connection.
    Content,
}

impl Ending {
    pub fn of(method: &Method, status: StatusCode) -> Ending {
        if *method == Method::HEAD || has_no_content(status) { Ending::Head } else { Ending::Content }
    }
}

fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether a response is the last of its connection (RFC 9112 §9.3).
pub(super) fn closes<B>(response: &Response<B>) -> bool {
    let says = |option| headers::names_token(response.headers(), &header::CONNECTION, option);
    says("close") || response.version() == Version::HTTP_10 && !says("keep-alive")
}

/// Whether a response without content announces content, which may follow. Allowed are `Content-Length` in a 304, where it
/// describes another response (RFC 9110 §8.6), and either field, but not both, in the response to a HEAD.
pub(super) fn announces_impossible_content(method: &Method, status: StatusCode, fields: &HeaderMap) -> bool {
    if Ending::of(method, status) == Ending::Content {
        return false;
    }
    let is_coded = fields.contains_key(header::TRANSFER_ENCODING);
    let has_length = fields.get_all(header::CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    match status {
        StatusCode::NOT_MODIFIED => is_coded,
        _ if has_no_content(status) => is_coded || has_length,
        _ => is_coded && has_length,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_connection_closes_by_version_and_connection_options() {
        let rows = [
            (Version::HTTP_11, "", false),
            (Version::HTTP_11, "upgrade, Close", true),
            (Version::HTTP_10, "", true),
            (Version::HTTP_10, "keep-alive", false),
            (Version::HTTP_10, "keep-alive, close", true),
        ];
        for (version, options, expected) in rows {
            let mut response = Response::new(());
            *response.version_mut() = version;
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(options));
            assert_eq!(closes(&response), expected, "{version:?} {options}");
        }
    }

    #[test]
    fn content_is_impossible_in_a_response_that_ends_with_its_head() {
        let (length, coding) = (header::CONTENT_LENGTH, header::TRANSFER_ENCODING);
        let rows: [(u16, HeaderName, &'static str, bool); 14] = [
            (200, length.clone(), "5", false),
            (200, coding.clone(), "chunked", false),
            (205, length.clone(), "0", false),
            (404, length.clone(), "5", false),
            (304, length.clone(), "5", false),
            (304, header::ETAG, "\"1\"", false),
            (304, coding.clone(), "chunked", true),
            (304, coding.clone(), "gzip", true),
            (204, length.clone(), "0", false),
            (204, length.clone(), "5", true),
            (204, coding.clone(), "chunked", true),
            (103, header::LINK, "</a>", false),
            (103, length, "5", true),
            (102, coding, "chunked", true),
        ];
        for (status, name, value, expected) in rows {
            let fields = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
            let status = StatusCode::from_u16(status).unwrap();
            let found = announces_impossible_content(&Method::GET, status, &fields);
            assert_eq!(found, expected, "{status} {name}: {value}");
        }
        let (length, coding) = (header::CONTENT_LENGTH, header::TRANSFER_ENCODING);
        let both = [(length.clone(), "5"), (coding.clone(), "chunked")];
        for (fields, expected) in [(&both[..1], false), (&both[1..], false), (&both[..], true)] {
            let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let fields = HeaderMap::from_iter(fields);
            assert_eq!(announces_impossible_content(&Method::HEAD, StatusCode::OK, &fields), expected);
        }
    }

    #[test]
    fn a_response_ends_with_its_head_or_with_its_content() {
        for (method, status, ending) in [
            (Method::GET, 200, Ending::Content),
            (Method::HEAD, 200, Ending::Head),
            (Method::GET, 204, Ending::Head),
            (Method::GET, 304, Ending::Head),
            (Method::POST, 205, Ending::Content),
        ] {
            assert_eq!(Ending::of(&method, StatusCode::from_u16(status).unwrap()), ending, "{method} {status}");
        }
    }
}

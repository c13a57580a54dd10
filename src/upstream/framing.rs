//! What the head of a response says of the bytes behind it (RFC 9112 §6.3).

use http::{HeaderMap, Method, StatusCode, header};

/// How the end of a response was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With the head: it is a response that has no content (RFC 9112 §6.3, rule 1), whatever its fields say.
    Head,
    /// By a length, by the last chunk, or by the connection's end.
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

/// Whether a response announces content that it cannot have, and that may follow all the same. `Content-Length` in a 304
/// is that of another response (RFC 9110 §8.6), and the answer to a HEAD has both fields by right.
pub(super) fn announces_impossible_content(status: StatusCode, fields: &HeaderMap) -> bool {
    let has_length = || fields.get_all(header::CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    has_no_content(status)
        && (fields.contains_key(header::TRANSFER_ENCODING) || status != StatusCode::NOT_MODIFIED && has_length())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn content_is_impossible_where_the_head_is_all() {
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
            assert_eq!(announces_impossible_content(status, &fields), expected, "{status} {name}: {value}");
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

//! `X-Request-Id`: one id for a request in the response, in the access log, and at upstream. A client's own id is accepted; otherwise
//! Larder makes one.

use std::cell::Cell;
use std::fmt;

use http::{HeaderMap, HeaderValue};

use crate::hexadecimal::hexadecimal;
use crate::http::headers::X_REQUEST_ID;

/// Longest id of a client that is accepted, bytes.
const ID_MAX: usize = 128;

/// The id of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestId {
    /// The client's.
    Client(HeaderValue),
    /// Made by Larder. Its text is made when it is needed, since most hits need none.
    Made(u128),
}

impl RequestId {
    /// A new id, which no other request of any proxy has.
    pub fn new() -> RequestId {
        thread_local! {
            static NEXT: Cell<u128> = Cell::new(rand::random());
        }
        // Random for each thread, then counted: a random number for each request would cost more.
        RequestId::Made(NEXT.replace(NEXT.get().wrapping_add(1)))
    }

    /// The id in the fields, if there is one of at most 128 visible ASCII characters. Otherwise a new one.
    pub fn of(fields: &HeaderMap) -> RequestId {
        let mut lines = fields.get_all(X_REQUEST_ID).iter();
        let is_accepted =
            |id: &&HeaderValue| (1..=ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
        match (lines.next().filter(is_accepted), lines.next()) {
            // Copied: the log has it for longer than the head of the request.
            (Some(id), None) => {
                HeaderValue::from_bytes(id.as_bytes()).map_or_else(|_| RequestId::new(), RequestId::Client)
            }
            _ => RequestId::new(),
        }
    }

    /// Whether the client chose it.
    pub fn is_of_client(&self) -> bool {
        matches!(self, RequestId::Client(_))
    }

    /// The value of the field.
    pub fn value(&self) -> HeaderValue {
        match self {
            RequestId::Client(value) => value.clone(),
            RequestId::Made(number) => HeaderValue::try_from(digits(*number)).expect("hexadecimal digits"),
        }
    }
}

/// The number as 32 hexadecimal digits.
fn digits(number: u128) -> String {
    hexadecimal(&number.to_be_bytes())
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Client(value) => f.write_str(value.to_str().unwrap_or_default()),
            RequestId::Made(number) => f.write_str(&digits(*number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn an_id_is_accepted_if_it_is_one_short_visible_word() {
        let longest = "x".repeat(ID_MAX);
        for id in ["1", "a-b/c=", &longest] {
            let accepted = RequestId::of(&fields(&[("x-request-id", id)]));
            assert_eq!((accepted.is_of_client(), accepted.to_string()), (true, id.to_owned()));
        }
        let too_long = "x".repeat(ID_MAX + 1);
        for lines in [&[][..], &[""], &["a b"], &["\u{e9}"], &["a", "b"], &[&too_long]] {
            let lines: Vec<_> = lines.iter().map(|line| ("x-request-id", *line)).collect();
            let made = RequestId::of(&fields(&lines));
            assert!(!made.is_of_client() && made.to_string().len() == 32, "{lines:?}: {made}");
            assert_eq!(made.value(), made.to_string());
        }
    }

    #[test]
    fn made_ids_differ() {
        assert_ne!(RequestId::new(), RequestId::new());
    }
}

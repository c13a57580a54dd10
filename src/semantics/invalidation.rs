//! What a write's answer means for what is stored (RFC 9111 §4.4).

use http::{HeaderMap, StatusCode};

use crate::target::Target;

/// How a write ended, as far as this proxy knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEnd {
    /// Upstream answered.
    Answered(StatusCode),
    /// Timeout, reset, or shutdown: the write may have been carried out.
    NoAnswer,
}

/// Statuses on which an invalidation rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet {
    /// Inclusive ranges of status codes.
    pub ranges: Vec<(u16, u16)>,
}

impl Default for StatusSet {
    /// 2xx and 3xx: a "non-error response" (RFC 9111 §4.4).
    fn default() -> StatusSet {
        StatusSet { ranges: vec![(200, 399)] }
    }
}

impl StatusSet {
    /// Whether a write that ended like this outdates: a status in the set, or no answer at all.
    pub fn applies(&self, end: WriteEnd) -> bool {
        match end {
            WriteEnd::Answered(status) => {
                self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16()))
            }
            WriteEnd::NoAnswer => true,
        }
    }
}

/// Normalised paths of the `Location` and `Content-Location` of a non-error answer that have the target's origin
/// (scheme, host and port); relative references are resolved against the target. Others are ignored (§4.4).
pub fn named_paths(target: &Target, answer: &HeaderMap) -> Vec<String> {
    let _ = (target, answer);
    todo!()
}

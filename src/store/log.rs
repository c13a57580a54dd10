//! The stream with the log of invalidations: what goes into it and comes out. [`super::Store`] has its calls; what the texts say is for
//! [`crate::upkeep::invalidation_log`].

use crate::marks::Sequence;

/// About how many entries the stream keeps.
pub const KEPT: usize = 5000;

/// Longest text that is read from the stream, bytes: more than any that Larder writes.
pub const LONGEST: usize = 64 << 10;

/// An entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its id in the stream: it orders the entries.
    pub position: LogPosition,
    pub content: LogContent,
}

/// What an entry of the stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogContent {
    /// The record of an invalidation, and the sequence that it took; 0 if it was recorded later.
    Record(String, Sequence),
    /// How long invalidations waited.
    Waits(String),
}

/// The id of an entry of a Redis stream: `milliseconds-number`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(u64, u64);

impl LogPosition {
    /// Reads `1700000000000-0`.
    pub fn parse(text: &str) -> Option<LogPosition> {
        let (time, number) = text.split_once('-')?;
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let parse = |text: &str| text.parse().ok().filter(|_| is_plain(text));
        Some(LogPosition(parse(time)?, parse(number)?))
    }
}

impl std::fmt::Display for LogPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ids_of_a_stream() {
        for text in ["1700000000000-0", "1-12", "0-1"] {
            assert_eq!(LogPosition::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "-", "1", "1-", "+1-2", "1-2-3", "1 -2", "99999999999999999999-0"] {
            assert_eq!(LogPosition::parse(text), None, "{text}");
        }
        assert!(LogPosition::parse("9-5") < LogPosition::parse("10-0"));
    }
}

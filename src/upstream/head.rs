//! Scans response heads before hyper parses them. hyper accepts a bare LF as the end of a line (RFC 9112 §2.2), so that an LF
//! in a field value would begin a new field, and it reads any number of interim responses. Finds chunked content, whose small
//! chunks are joined.

use memchr::memchr;

/// Most interim responses (1xx) to one request.
const INTERIM: u32 = 100;
/// Least bytes that a field line counts: RFC 9113 §6.5.2 adds as many to each field.
pub const LINE: usize = 32;
/// The beginning of a status line up to its code.
const STATUS: usize = "HTTP/1.1 100".len();

/// Why a response head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadFault {
    #[error("a line of the response head ends with LF, others with CR LF")]
    BareLf,
    #[error("the response head is larger than max_head")]
    TooLarge,
    #[error("more than {INTERIM} interim responses")]
    Interim,
}

/// Scans the heads of the responses to one request: the interim ones and the final one.
#[derive(Debug)]
pub(super) struct HeadScan {
    /// Bytes that the heads together may still have.
    left: usize,
    interim: u32,
    /// The final head is complete.
    is_over: bool,
    /// Whether the lines of this head end with CR LF; `None` before the end of the first line.
    ends_with_cr: Option<bool>,
    /// Length of the line so far.
    line: usize,
    /// Its last byte so far.
    last: u8,
    /// Whether it is the status line.
    is_first: bool,
    /// The beginning of the status line.
    status: [u8; STATUS],
    /// The line so far, if it arrives in several pieces.
    begun: Vec<u8>,
    /// Whether the content is chunked, by the fields of this head so far.
    is_chunked: bool,
}

impl HeadScan {
    /// For heads of at most `max_head` bytes together. A line counts as at least [`LINE`] bytes.
    pub fn new(max_head: usize) -> HeadScan {
        HeadScan {
            left: max_head,
            interim: 0,
            is_over: false,
            ends_with_cr: None,
            line: 0,
            last: 0,
            is_first: true,
            status: [0; STATUS],
            begun: Vec::new(),
            is_chunked: false,
        }
    }

    /// Scans bytes that have arrived. Returns how many of them belong to heads. Ignores what follows the final head, and what does
    /// not begin like a response: hyper rejects that.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, HeadFault> {
        match self.take_lines(bytes) {
            Err(_) if self.interim == 0 && !self.status.starts_with(b"HTTP/1.") => {
                (self.is_over, self.is_chunked) = (true, false);
                Ok(bytes.len())
            }
            taken => taken,
        }
    }

    /// Whether the final head is complete and chunked content follows. A response to a HEAD, or with a status that excludes
    /// content, may say so too.
    pub fn announces_chunks(&self) -> bool {
        self.is_over && self.is_chunked
    }

    fn take_lines(&mut self, bytes: &[u8]) -> Result<usize, HeadFault> {
        let mut from = 0;
        while !self.is_over && from < bytes.len() {
            let rest = &bytes[from..];
            let end = memchr(b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            self.take_piece(piece)?;
            from += piece.len();
            if end.is_none() {
                self.begun.extend_from_slice(piece);
                break;
            }
            self.end_line(piece)?;
            from += 1;
        }
        Ok(from)
    }

    fn take_piece(&mut self, piece: &[u8]) -> Result<(), HeadFault> {
        if self.is_first && self.line < STATUS {
            let length = piece.len().min(STATUS - self.line);
            self.status[self.line..self.line + length].copy_from_slice(&piece[..length]);
        }
        self.line += piece.len();
        self.last = piece.last().copied().unwrap_or(self.last);
        if self.line > self.left { Err(HeadFault::TooLarge) } else { Ok(()) }
    }

    fn end_line(&mut self, piece: &[u8]) -> Result<(), HeadFault> {
        let ends_with_cr = self.line > 0 && self.last == b'\r';
        let length = self.line - usize::from(ends_with_cr);
        let is_before = length == 0 && self.is_first;
        if !is_before && *self.ends_with_cr.get_or_insert(ends_with_cr) != ends_with_cr {
            return Err(HeadFault::BareLf);
        }
        self.left = self.left.checked_sub(length.max(LINE)).ok_or(HeadFault::TooLarge)?;
        if self.begun.is_empty() {
            self.take_field(piece);
        } else {
            let begun = std::mem::take(&mut self.begun);
            self.take_field(&[&begun, piece].concat());
        }
        (self.line, self.last) = (0, 0);
        match (length, self.is_first) {
            // An empty line before the status line is ignored.
            (0, true) => {}
            (0, false) => self.end_head()?,
            (_, is_first) => self.is_first = self.is_first && !is_first,
        }
        Ok(())
    }

    fn take_field(&mut self, line: &[u8]) {
        if self.is_first || !line.first().is_some_and(|first| first.eq_ignore_ascii_case(&b't')) {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        if line[..colon].trim_ascii_end().eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_chunked = ends_with_chunked(&line[colon + 1..]);
        }
    }

    fn end_head(&mut self) -> Result<(), HeadFault> {
        let code = &self.status[STATUS - 3..];
        self.is_over = code[0] != b'1' || code == b"101";
        if !self.is_over {
            self.interim += 1;
            (self.is_first, self.ends_with_cr, self.is_chunked) = (true, None, false);
        }
        if self.interim > INTERIM { Err(HeadFault::Interim) } else { Ok(()) }
    }
}

/// Whether the last transfer coding in a field value is `chunked` (RFC 9112 §6.1), as hyper decides it.
fn ends_with_chunked(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let is_plain = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    is_plain && last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for a message, which is the same in pieces of every size.
    #[track_caller]
    fn scanned(message: &str, max_head: usize) -> Result<(), HeadFault> {
        let scan = |size: usize| {
            let mut scan = HeadScan::new(max_head);
            message.as_bytes().chunks(size).try_for_each(|piece| scan.take(piece).map(drop))
        };
        let whole = scan(message.len());
        for size in 1..message.len().min(40) {
            assert_eq!(scan(size), whole, "{message:?} in pieces of {size}");
        }
        whole
    }

    #[test]
    fn a_bare_lf_among_lines_that_end_with_cr_lf_is_refused() {
        let heads =
            ["HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n", "HTTP/1.1 200 OK\nA: 1\r\n\r\n", "HTTP/1.1 200 OK\r\n\n"];
        for head in heads.into_iter().chain(["HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nA: \n\r\n\r\n"]) {
            assert_eq!(scanned(head, 1000), Err(HeadFault::BareLf), "{head:?}");
        }
        // RFC 9112 §2.2: allowed if every line ends so.
        for good in
            ["HTTP/1.1 200 OK\n\n", "\r\nHTTP/1.1 200 OK\r\nA: 1\r\n\r\n1\n2\r\n\n", "HTTP/1.1 200 OK\r\nA:"]
        {
            assert_eq!(scanned(good, 1000), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn content_is_not_scanned() {
        let message = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x\ny\r\n".repeat(1000));
        assert_eq!(scanned(&message, 100), Ok(()));
        let switched = format!("HTTP/1.1 101 Switching\r\n\r\n{}", "x\ny\r\n".repeat(1000));
        assert_eq!(scanned(&switched, 100), Ok(()));
    }

    #[test]
    fn chunked_content_is_found_behind_its_head() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let long = format!("Transfer-Encoding:{}chunked\r\n", " ".repeat(300));
        let rows = [
            ("Transfer-Encoding: chunked\r\n", true),
            ("A: b\r\ntransfer-encoding :gzip , Chunked \r\nT: c\r\n", true),
            (&long, true),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", true),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", false),
            ("Transfer-Encoding: chunked, gzip\r\n", false),
            ("Transfer-Encoding: \u{e9}, chunked\r\n", false),
            ("Transfer: chunked\r\nContent-Length: 5\r\n", false),
            ("", false),
        ];
        for (fields, expected) in rows {
            for before in ["", "HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n"] {
                let head = format!("{before}{ok}{fields}\r\n");
                for size in 1..head.len() {
                    let (mut scan, mut taken) = (HeadScan::new(1000), 0);
                    for piece in format!("{head}1\r\nx\r\n").as_bytes().chunks(size) {
                        taken += scan.take(piece).unwrap();
                    }
                    assert_eq!((taken, scan.announces_chunks()), (head.len(), expected), "{head:?} by {size}");
                }
            }
        }
    }

    #[test]
    fn heads_are_bounded_in_bytes_and_an_empty_line_is_not_free() {
        let head = |fields: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:\r\n".repeat(fields));
        assert_eq!(scanned(&head(8), 10 * LINE), Ok(()));
        assert_eq!(scanned(&head(9), 10 * LINE), Err(HeadFault::TooLarge));
        let long = |length: usize| format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(length));
        assert_eq!(scanned(&long(600), 1000), Ok(()));
        assert_eq!(scanned(&long(1000), 1000), Err(HeadFault::TooLarge));
    }

    #[test]
    fn interim_responses_are_bounded() {
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
        let message = |count: u32| interim.repeat(count as usize) + "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(scanned(&message(INTERIM), 1 << 20), Ok(()));
        assert_eq!(scanned(&message(INTERIM + 1), 1 << 20), Err(HeadFault::Interim));
        assert_eq!(scanned(&message(INTERIM), 1000), Err(HeadFault::TooLarge));
    }
}

//! Scans HTTP/1 request heads before hyper parses them. hyper accepts a bare LF as the end of a line (RFC 9112 §2.2), so that an
//! LF in a field value would begin a new field; it rejects targets with characters that clients should have encoded; and it
//! rejects without a reason and without a log line.

use memchr::{memchr, memchr_iter, memchr3};

use crate::http::chunks::{Chunks, Stop};

/// Bytes that are stored of an incomplete line.
const LINE_START: usize = 64;

/// The fault of a head with a bare LF.
pub(super) const BARE_LF: &str =
    "a line of the request head ends with LF, others with CR LF: use CR LF, and no LF within a value";

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The request line, or an empty line before it.
    Line,
    Fields,
    /// Content, of which so many bytes follow.
    Content(u64),
    /// Chunked content.
    Chunks(Chunks),
    /// Unknown until the response to the last request: it may switch to another protocol.
    AfterResponse,
    /// Another protocol, or bytes that hyper rejects.
    Unknown,
}

/// Scans the requests of one connection.
#[derive(Debug)]
pub(super) struct RequestHeads {
    at: At,
    /// Number of complete heads.
    complete: u64,
    /// The start of the incomplete line, and its length so far.
    begun: Vec<u8>,
    length: usize,
    last: u8,
    /// Whether the lines of this head end with CR LF; `None` before the end of the first line.
    ends_with_cr: Option<bool>,
    /// The framing of the content, by its fields.
    content: Option<u64>,
    is_chunked: bool,
    /// The framing is none that is understood here.
    is_unknown: bool,
    /// The response to this request may switch to another protocol.
    may_switch: bool,
    /// Spaces in the request line so far, and whether its query has begun.
    blanks: u32,
    is_query: bool,
    fault: Option<&'static str>,
}

impl RequestHeads {
    pub fn new() -> RequestHeads {
        RequestHeads {
            at: At::Line,
            complete: 0,
            begun: Vec::new(),
            length: 0,
            last: 0,
            ends_with_cr: None,
            content: None,
            is_chunked: false,
            is_unknown: false,
            may_switch: false,
            blanks: 0,
            is_query: false,
            fault: None,
        }
    }

    /// Whether there is a head that is not among the `requests` that hyper has passed to the service. What hyper writes now may be
    /// its rejection.
    pub fn may_be_rejected(&self, requests: u64) -> bool {
        let is_within = self.at == At::Fields || self.at == At::Line && self.length > 0;
        self.complete > requests || is_within
    }

    /// Why hyper rejects the head, if known.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Whether the next bytes can be scanned only after a response.
    pub fn wait_for_response(&self) -> bool {
        self.at == At::AfterResponse
    }

    /// Records the number of responses, and whether the last one switched to another protocol.
    pub fn note_responses(&mut self, responses: u64, is_switched: bool) {
        if self.at == At::AfterResponse && responses >= self.complete {
            self.at = if is_switched { At::Unknown } else { At::Line };
            self.may_switch = false;
        }
    }

    /// Scans bytes that have arrived. Returns how many were scanned (all, unless the rest depends on a response), and their
    /// replacement, if any: a bare LF becomes NUL, which every parser rejects, and characters in a target are encoded.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Option<Vec<u8>>) {
        if self.at == At::Unknown || self.take_plain(bytes) {
            return (bytes.len(), None);
        }
        let mut changed = None;
        let mut from = 0;
        while from < bytes.len() {
            let rest = &bytes[from..];
            match self.at {
                At::AfterResponse => break,
                At::Unknown => {
                    append(&mut changed, rest);
                    from = bytes.len();
                }
                At::Content(left) => {
                    let passed = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - passed as u64;
                    self.at = if left == 0 { self.end_request() } else { At::Content(left) };
                    append(&mut changed, &rest[..passed]);
                    from += passed;
                }
                At::Chunks(mut chunks) => {
                    let (passed, stop, joined) = chunks.join(rest);
                    match joined {
                        Some(joined) => changed.get_or_insert_with(|| bytes[..from].to_vec()).extend(joined),
                        None => append(&mut changed, &rest[..passed]),
                    }
                    from += passed;
                    self.at = match stop {
                        Stop::Empty | Stop::Chunk | Stop::BareLf => At::Chunks(chunks),
                        Stop::End => self.end_request(),
                        Stop::Malformed => At::Unknown,
                    };
                    if stop == Stop::BareLf {
                        changed.get_or_insert_with(|| bytes[..from].to_vec()).push(0);
                        from += 1;
                    }
                }
                At::Line | At::Fields => {
                    let end = memchr(b'\n', rest);
                    let piece = &rest[..end.unwrap_or(rest.len())];
                    self.take_piece(piece, end.is_some(), &bytes[..from], &mut changed);
                    from += piece.len();
                    if end.is_none() {
                        break;
                    }
                    if self.end_line(piece) {
                        append(&mut changed, b"\n");
                    } else {
                        self.fault = Some(BARE_LF);
                        changed.get_or_insert_with(|| bytes[..from].to_vec()).push(0);
                    }
                    from += 1;
                }
            }
        }
        (from, changed)
    }

    /// The fast path: scans one request whose head is complete and needs no change, as almost all. `false` if it is anything
    /// else; then nothing was scanned.
    fn take_plain(&mut self, bytes: &[u8]) -> bool {
        const METHODS: [&[u8]; 6] = [b"GET /", b"HEAD /", b"POST /", b"PUT /", b"PATCH /", b"DELETE /"];
        if self.at != At::Line || self.length > 0 || !METHODS.iter().any(|method| bytes.starts_with(method)) {
            return false;
        }
        let (mut from, mut content) = (0, None);
        for end in memchr_iter(b'\n', bytes) {
            let [line @ .., b'\r'] = &bytes[from..end] else { return false };
            let is_plain = match line.first() {
                None => return self.take_content(content.flatten().unwrap_or(0), bytes.len() - end - 1),
                Some(_) if from == 0 => !has_raw(line),
                Some(b'c' | b'C') if has_name(line, b"content-length") => {
                    content.replace(length(line)).is_none() && content.flatten().is_some()
                }
                Some(b't' | b'T') => !has_name(line, b"transfer-encoding"),
                Some(b'u' | b'U') => !has_name(line, b"upgrade"),
                Some(_) => true,
            };
            if !is_plain {
                return false;
            }
            from = end + 1;
        }
        false
    }

    /// Scans the content after a head. `false` if `here`, the bytes that have arrived, exceeds it.
    fn take_content(&mut self, content: u64, here: usize) -> bool {
        let Some(left) = content.checked_sub(here as u64) else { return false };
        self.complete += 1;
        self.at = if left == 0 { At::Line } else { At::Content(left) };
        true
    }

    /// Scans a line, or a part of it.
    fn take_piece(&mut self, piece: &[u8], is_end: bool, before: &[u8], changed: &mut Option<Vec<u8>>) {
        let is_whole = is_end && self.length == 0;
        self.length += piece.len();
        self.last = piece.last().copied().unwrap_or(self.last);
        if !is_whole {
            let room = LINE_START - self.begun.len();
            self.begun.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let is_plain = memchr3(b'"', b'<', b'>', piece).is_none() && memchr(b'`', piece).is_none();
        if self.at != At::Line || is_whole && is_plain {
            return append(changed, piece);
        }
        for (at, byte) in piece.iter().enumerate() {
            match byte {
                b' ' => self.blanks += 1,
                b'?' => self.is_query = true,
                _ => {}
            }
            let encoded = if self.blanks == 1 { encoded(*byte, self.is_query) } else { None };
            match encoded {
                Some(encoded) => {
                    let unchanged = || [before, &piece[..at]].concat();
                    changed.get_or_insert_with(unchanged).extend_from_slice(encoded.as_bytes());
                }
                None => append(changed, &[*byte]),
            }
        }
    }

    /// Ends a line. `false` if it ends otherwise than the lines before it.
    fn end_line(&mut self, piece: &[u8]) -> bool {
        let ends_with_cr = self.length > 0 && self.last == b'\r';
        let length = self.length - usize::from(ends_with_cr);
        let begun = std::mem::take(&mut self.begun);
        let line = if begun.is_empty() { piece } else { &begun };
        let is_cut = line.len() < self.length;
        (self.length, self.last, self.blanks, self.is_query) = (0, 0, 0, false);
        if self.at == At::Line && length == 0 {
            // RFC 9112 §2.2: ignored.
            return true;
        }
        let is_alike = *self.ends_with_cr.get_or_insert(ends_with_cr) == ends_with_cr;
        match self.at {
            At::Line if line.starts_with(b"PRI * HTTP/2") => self.at = At::Unknown,
            At::Line => {
                self.may_switch = line.starts_with(b"CONNECT ");
                self.at = At::Fields;
            }
            At::Fields if length == 0 => self.end_head(),
            _ => self.take_field(line, is_cut),
        }
        is_alike
    }

    /// `is_cut`: only the start of the line is stored.
    fn take_field(&mut self, line: &[u8], is_cut: bool) {
        let Some(colon) = line.iter().take(LINE_START).position(|byte| *byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match colon {
            14 if is(b"content-length") => {
                let length = std::str::from_utf8(value).ok().filter(|value| value.len() < 20 && !is_cut);
                let length = length.and_then(|value| value.parse().ok());
                self.is_unknown |= length.is_none();
                self.content = length;
            }
            17 if is(b"transfer-encoding") => {
                self.is_unknown |= self.is_chunked || is_cut || !value.eq_ignore_ascii_case(b"chunked");
                self.is_chunked = true;
            }
            7 if is(b"upgrade") => self.may_switch = true,
            _ => {}
        }
    }

    fn end_head(&mut self) {
        self.complete += 1;
        self.at = match (self.content.take(), std::mem::take(&mut self.is_chunked)) {
            _ if self.is_unknown => At::Unknown,
            // RFC 9112 §6.3: it overrides a length.
            (_, true) => At::Chunks(Chunks::BEGIN),
            (Some(length), _) if length > 0 => At::Content(length),
            _ => self.end_request(),
        };
        self.ends_with_cr = None;
    }

    /// What the byte after a request belongs to.
    fn end_request(&self) -> At {
        if self.may_switch { At::AfterResponse } else { At::Line }
    }
}

/// Appends unchanged bytes to the replacement, if there is one.
fn append(changed: &mut Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(changed) = changed {
        changed.extend_from_slice(bytes);
    }
}

/// Whether a line has characters that may have to be encoded. Without a branch per byte, so that it is vectorised.
fn has_raw(line: &[u8]) -> bool {
    line.iter().fold(false, |found, byte| found | matches!(byte, b'"' | b'<' | b'>' | b'`'))
}

/// The value of a `Content-Length` line, if it is plain digits.
fn length(line: &[u8]) -> Option<u64> {
    let value = line.get("content-length:".len()..)?.trim_ascii();
    let is_number = !value.is_empty() && value.len() < 20 && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// Whether a field line begins with this name.
fn has_name(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(name))
}

/// The encoding of characters that some clients send raw, against RFC 3986, and that `http::Uri` rejects.
fn encoded(byte: u8, is_query: bool) -> Option<&'static str> {
    match byte {
        b'"' if is_query => Some("%22"),
        b'<' => Some("%3C"),
        b'>' => Some("%3E"),
        b'`' if !is_query => Some("%60"),
        _ => None,
    }
}

/// The status of a rejection of hyper's own: a status line, a date, no content.
pub(super) fn bare_rejection(bytes: &[u8]) -> Option<u16> {
    let status = bytes.get(9..12)?;
    let has = |name: &[u8]| bytes.windows(name.len()).any(|piece| piece.eq_ignore_ascii_case(name));
    // Responses of Larder and of upstream have one of these fields.
    let is_one = [b"400", b"414", b"431"].contains(&status.try_into().ok()?)
        && !has(b"\r\nvia:")
        && !has(b"\r\ncache-status:")
        && bytes.len() < 200
        && bytes.ends_with(b"\r\n\r\n")
        && bytes.windows(4).position(|four| four == b"\r\n\r\n") == Some(bytes.len() - 4)
        && bytes.windows(19).any(|piece| piece == b"content-length: 0\r\n");
    std::str::from_utf8(status).ok().filter(|_| is_one)?.parse().ok()
}

/// The reason of a rejection with this status.
pub(super) fn reason(status: u16, fault: Option<&'static str>) -> &'static str {
    match status {
        431 => "the head of the request is larger than max_head",
        414 => "the target of the request is too long",
        _ => fault.unwrap_or(
            "the head of the request is malformed: its request line or one of its fields is not as RFC 9112 has it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hyper reads, which is the same in pieces of every size; the number of heads; the fault.
    #[track_caller]
    fn taken(message: &str) -> (String, u64, Option<&'static str>) {
        let take = |size: usize| {
            let (mut heads, mut given) = (RequestHeads::new(), Vec::new());
            for piece in message.as_bytes().chunks(size) {
                let (count, changed) = heads.take(piece);
                given.extend(changed.unwrap_or_else(|| piece[..count].to_vec()));
                if count < piece.len() {
                    break;
                }
            }
            (String::from_utf8(given).unwrap(), heads.complete, heads.fault())
        };
        let whole = take(message.len());
        for size in 1..message.len() {
            assert_eq!(take(size), whole, "{message:?} in pieces of {size}");
        }
        whole
    }

    #[test]
    fn valid_requests_are_not_changed() {
        let get = "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST /\" HTTP/1.1\r\nHost: <a>\r\ncontent-Length:  6 \r\n\r\n<\"\n\n\"\r";
        let lf = "\r\nGET / HTTP/1.1\nHost: a\n\n";
        let message = [get, post, lf, get].concat();
        assert_eq!(taken(&message), (message.clone(), 4, None));
    }

    #[test]
    fn raw_characters_in_targets_are_encoded() {
        let message = "GET /<`\"?e={\"a\":[<1>]}&`=\" HTTP/1.1\r\nA: <\"`?\r\n\r\n";
        let given = "GET /%3C%60\"?e={%22a%22:[%3C1%3E]}&`=%22 HTTP/1.1\r\nA: <\"`?\r\n\r\n";
        assert_eq!(taken(message), (given.to_owned(), 1, None));
        assert_eq!(taken(&message.repeat(3)), (given.repeat(3), 3, None));
    }

    #[test]
    fn a_bare_lf_among_lines_that_end_with_cr_lf_becomes_nul() {
        for (head, given) in [
            ("GET / HTTP/1.1\r\nA: b\nC: d\r\n", "GET / HTTP/1.1\r\nA: b\0C: d\r\n"),
            ("GET / HTTP/1.1\nA: b\r\n", "GET / HTTP/1.1\nA: b\r\0"),
        ] {
            assert_eq!(taken(head), (given.to_owned(), 0, Some(BARE_LF)), "{head:?}");
        }
    }

    /// A request whose line shows whether it was scanned.
    const RAW: &str = "GET /< HTTP/1.1\r\nA: b\nC: d\r\n";
    const RAW_GIVEN: &str = "GET /%3C HTTP/1.1\r\nA: b\0C: d\r\n";

    #[test]
    fn heads_after_chunked_content_are_scanned() {
        for head in [
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding:Chunked \r\nContent-Length: 900\r\n\r\n",
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let content = format!("{head}7\r\n\"\n<\r\n\r\n\r\n1;a\r\n\n\r\n0\r\nT: \"<\r\n\r\n");
            let (message, given) = (format!("{content}{RAW}"), format!("{content}{RAW_GIVEN}"));
            assert_eq!(taken(&message), (given, 1, Some(BARE_LF)), "{head:?}");
        }
    }

    #[test]
    fn many_small_chunks_become_one() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let message = format!("{head}{}0\r\n\r\n{RAW}", "1\r\n\"\r\n".repeat(10));
        let given = format!("{head}a\r\n{}\r\n0\r\n\r\n{RAW_GIVEN}", "\"".repeat(10));
        let (taken, changed) = RequestHeads::new().take(message.as_bytes());
        assert_eq!((taken, String::from_utf8(changed.unwrap()).unwrap()), (message.len(), given));
    }

    #[test]
    fn heads_after_content_that_waited_for_a_100_are_scanned() {
        let content = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n<\n\"";
        let (message, given) = (format!("{content}{RAW}"), format!("{content}{RAW_GIVEN}"));
        assert_eq!(taken(&message), (given, 1, Some(BARE_LF)));
    }

    #[test]
    fn a_bare_lf_in_trailers_becomes_nul() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (message, given) =
            (format!("{head}0\r\nA: b\nC: d\r\n\r\n"), format!("{head}0\r\nA: b\0C: d\r\n\r\n"));
        assert_eq!(taken(&message), (given, 1, None));
    }

    #[test]
    fn bytes_after_a_head_that_hyper_rejects_are_not_scanned() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\n",
        ] {
            let message = format!("{head}{RAW}");
            assert_eq!(taken(&message), (message.clone(), 1, None), "{head:?}");
        }
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\"\n<\n";
        assert_eq!(taken(preface), (preface.to_owned(), 0, None));
    }

    #[test]
    fn bytes_after_an_upgrade_request_wait_for_the_response() {
        for request in [
            "GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nx",
            "POST / HTTP/1.1\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let message = format!("{request}{RAW}");
            assert_eq!(taken(&message), (request.to_owned(), 1, None), "{request:?}");
            for (is_switched, given) in [(true, None), (false, Some(RAW_GIVEN.as_bytes().to_vec()))] {
                let mut heads = RequestHeads::new();
                assert_eq!(heads.take(message.as_bytes()), (request.len(), None));
                heads.note_responses(0, false);
                assert!(heads.wait_for_response());
                heads.note_responses(1, is_switched);
                assert!(!heads.wait_for_response());
                assert_eq!(heads.take(RAW.as_bytes()), (RAW.len(), given), "{request:?}");
            }
        }
    }

    #[test]
    fn a_length_on_a_line_that_is_cut_is_not_guessed() {
        let line = format!("Content-Length:{}1000\r\n", " ".repeat(46));
        let message = format!("POST / HTTP/1.1\r\n{line}\r\n{}", "<\n\"".repeat(400));
        let (mut heads, mut given) = (RequestHeads::new(), Vec::new());
        for piece in message.as_bytes().chunks(80) {
            let (count, changed) = heads.take(piece);
            given.extend(changed.unwrap_or_else(|| piece[..count].to_vec()));
        }
        assert_eq!(String::from_utf8(given).unwrap(), message);
    }

    #[test]
    fn a_rejection_belongs_to_a_head_that_hyper_has_not_passed_on() {
        let mut heads = RequestHeads::new();
        assert!(!heads.may_be_rejected(0));
        heads.take(b"GET / HTTP/1.1\r\n");
        assert!(heads.may_be_rejected(0));
        heads.take(b"\r\n");
        assert!(heads.may_be_rejected(0) && !heads.may_be_rejected(1));
        heads.take(b"(");
        assert!(heads.may_be_rejected(1));
    }

    #[test]
    fn hypers_own_rejection_is_recognised_by_all_of_its_parts() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(bare_rejection(bare.as_bytes()), Some(431));
        let others = [
            bare.replace("431", "500"),
            bare.replace("431", "404"),
            bare.replace("date: x", "via: 1.1 larder"),
            bare.replace("date: x", "Cache-Status: larder; fwd=uri-miss"),
            format!("{bare}x"),
            bare.replace("h: 0", "h: 1"),
            "HTTP/1.1 4".to_owned(),
        ];
        for other in others {
            assert_eq!(bare_rejection(other.as_bytes()), None, "{other:?}");
        }
    }
}

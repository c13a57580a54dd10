//! A scanner of HTTP/2 frame headers (RFC 9113 §4.1): counts the frames of request heads, and finds unfinished heads. Pure.

/// Length of the connection preface (RFC 9113 §3.4), bytes.
const PREFACE: usize = 24;
/// Length of a frame header, bytes.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes until the next frame begins.
    left: usize,
    header: [u8; FRAME_HEADER],
    /// Bytes of the header that have arrived.
    arrived: usize,
    is_head_unfinished: bool,
}

impl Frames {
    /// Before the preface.
    pub fn new() -> Frames {
        Frames { left: PREFACE, header: [0; FRAME_HEADER], arrived: 0, is_head_unfinished: false }
    }

    /// Skips bytes of what may be the preface.
    pub fn pass_preface(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }

    /// Whether the last frame of a head did not end it. HPACK expands few bytes to many, so that it may already be as long as
    /// `max_head`.
    pub fn is_head_unfinished(&self) -> bool {
        self.is_head_unfinished
    }

    /// Takes bytes up to the end of the last of `heads` frames of heads, and lowers `heads` by the frames that ended. Returns
    /// how many bytes it took.
    pub fn take(&mut self, bytes: &[u8], heads: &mut usize) -> usize {
        let mut from = 0;
        loop {
            let passed = self.left.min(bytes.len() - from);
            (from, self.left) = (from + passed, self.left - passed);
            if self.left == 0 && self.arrived == FRAME_HEADER {
                self.arrived = 0;
                if matches!(self.header[3], HEADERS | CONTINUATION) {
                    self.is_head_unfinished = self.header[4] & END_HEADERS == 0;
                    *heads = heads.saturating_sub(1);
                }
            }
            if *heads == 0 || from == bytes.len() {
                return from;
            }
            let wanted = &mut self.header[self.arrived..];
            let count = wanted.len().min(bytes.len() - from);
            wanted[..count].copy_from_slice(&bytes[from..from + count]);
            (from, self.arrived) = (from + count, self.arrived + count);
            if self.arrived == FRAME_HEADER {
                let [high, middle, low, ..] = self.header;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], vec![HEADERS; length.into()].as_slice()].concat()
    }

    /// How much is taken, how many heads are left, and whether one is unfinished: the same in pieces of every size.
    #[track_caller]
    fn taken(message: &[u8], heads: usize) -> (usize, usize, bool) {
        let take = |size: usize| {
            let (mut frames, mut taken, mut left) = (Frames::new(), 0, heads);
            for piece in message.chunks(size) {
                let count = frames.take(piece, &mut left);
                taken += count;
                if count < piece.len() {
                    break;
                }
            }
            (taken, left, frames.is_head_unfinished())
        };
        let whole = take(message.len());
        for size in 1..message.len() {
            assert_eq!(take(size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn frames_are_taken_to_the_end_of_the_last_head() {
        let opening = [vec![b'P'; PREFACE], frame(4, 0, 0), frame(0, END_HEADERS, 200)].concat();
        let head = frame(HEADERS, END_HEADERS, 30);
        let message = [opening.clone(), head.clone(), head.clone(), frame(8, 0, 4)].concat();
        assert_eq!(taken(&message, 9), (message.len(), 7, false));
        assert_eq!(taken(&message, 2), (message.len() - 13, 0, false));
        assert_eq!(taken(&message, 1), (opening.len() + head.len(), 0, false));
    }

    #[test]
    fn a_head_in_several_frames_is_unfinished_until_its_last() {
        let begun = [vec![b'P'; PREFACE], frame(HEADERS, 0, 30), frame(CONTINUATION, 0, 0)].concat();
        assert_eq!(taken(&begun, 9), (begun.len(), 7, true));
        let ended = [begun, frame(CONTINUATION, END_HEADERS, 3)].concat();
        assert_eq!(taken(&ended, 9), (ended.len(), 6, false));
    }

    #[test]
    fn the_preface_may_be_skipped_before_it_is_recognised() {
        let (mut frames, mut heads) = (Frames::new(), 1);
        frames.pass_preface(10);
        let message = [vec![b'P'; PREFACE - 10], frame(HEADERS, END_HEADERS, 3)].concat();
        assert_eq!((frames.take(&message, &mut heads), heads), (message.len(), 0));
    }
}

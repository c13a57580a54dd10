//! A scanner of chunked content (RFC 9112 §7.1), which finds where it ends. It accepts no more than hyper does. It joins small
//! chunks that arrive together: hyper passes on each by itself, at the cost of a task switch, and of a write to upstream if it is
//! in a request. Pure.

use std::ops::Range;

/// A chunk of fewer bytes is small.
const SMALL: u64 = 4 << 10;
/// Fewest small chunks that are joined.
const MANY: usize = 8;

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// A chunk size, of which so many digits were read.
    Size { size: u64, digits: u8 },
    /// After a size: blanks, or an extension.
    Extension { size: u64 },
    /// The LF that ends the line of a size.
    SizeLf { size: u64 },
    /// The data of a chunk, of which so many bytes follow.
    Data(u64),
    /// The CR after a chunk.
    DataCr,
    /// The LF after a chunk.
    DataLf,
    /// A line of the trailers, of which so many bytes were read; whether the last one was CR.
    Trailer { length: usize, is_cr: bool },
}

/// Why the scanner stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All bytes were taken.
    Empty,
    /// A chunk has ended.
    Chunk,
    /// The content has ended.
    End,
    /// The next byte, which was not taken, is a bare LF in the trailers. It does not end the line.
    BareLf,
    /// It is not chunked content: hyper ends the connection.
    Malformed,
}

impl Chunks {
    /// Before the first chunk.
    pub const BEGIN: Chunks = Chunks::Size { size: 0, digits: 0 };

    /// Takes bytes of the content. Returns how many it took, and why it stopped.
    fn take(&mut self, bytes: &[u8]) -> (usize, Stop) {
        let mut from = 0;
        while let Some(&byte) = bytes.get(from) {
            if let Chunks::Data(left) = *self {
                let here = bytes.len() - from;
                let passed = usize::try_from(left).map_or(here, |left| left.min(here));
                let left = left - passed as u64;
                *self = if left == 0 { Chunks::DataCr } else { Chunks::Data(left) };
                from += passed;
                continue;
            }
            match self.step(byte) {
                Stop::Empty if *self == Chunks::BEGIN => return (from + 1, Stop::Chunk),
                Stop::Empty => from += 1,
                Stop::End => return (from + 1, Stop::End),
                stop => return (from, stop),
            }
        }
        (from, Stop::Empty)
    }

    /// Takes bytes of the content until something else than the end of a chunk stops it. Returns how many it took, why it stopped,
    /// and, if small chunks among them were joined, the shorter content that replaces them.
    pub fn join(&mut self, bytes: &[u8]) -> (usize, Stop, Option<Vec<u8>>) {
        let (mut from, mut joined) = (0, None::<Vec<u8>>);
        loop {
            let rest = &bytes[from..];
            if let Some((count, chunk)) = self.gather(rest) {
                joined.get_or_insert_with(|| bytes[..from].to_vec()).extend(chunk);
                from += count;
                continue;
            }
            let (count, stop) = self.take(rest);
            if let Some(joined) = &mut joined {
                joined.extend_from_slice(&rest[..count]);
            }
            from += count;
            if stop != Stop::Chunk {
                return (from, stop, joined);
            }
        }
    }

    /// Joins the complete small chunks at the beginning of `bytes`, if there are at least [`MANY`]. Returns their length and the
    /// joined chunk.
    fn gather(&self, bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
        if *self != Chunks::BEGIN {
            return None;
        }
        let (mut from, mut count, mut content) = (0, 0, Vec::new());
        while let Some(data) = small_chunk(&bytes[from..]) {
            content.extend_from_slice(&bytes[from..][data.clone()]);
            (from, count) = (from + data.end + 2, count + 1);
        }
        let size = format!("{:x}\r\n", content.len());
        (count >= MANY).then(|| (from, [size.as_bytes(), &content, b"\r\n"].concat()))
    }

    /// Takes a byte outside a chunk's data. [`Stop::Empty`] means to go on.
    fn step(&mut self, byte: u8) -> Stop {
        *self = match (*self, byte) {
            (Chunks::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 16 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                Chunks::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Chunks::Size { size, digits: 1.. } | Chunks::Extension { size }, b'\r') => Chunks::SizeLf { size },
            (Chunks::Size { size, digits: 1.. }, b' ' | b'\t' | b';') => Chunks::Extension { size },
            (Chunks::Extension { size }, _) if byte != b'\n' => Chunks::Extension { size },
            (Chunks::SizeLf { size: 0 }, b'\n') => Chunks::Trailer { length: 0, is_cr: false },
            (Chunks::SizeLf { size }, b'\n') => Chunks::Data(size),
            (Chunks::DataCr, b'\r') => Chunks::DataLf,
            (Chunks::DataLf, b'\n') => Chunks::BEGIN,
            (Chunks::Trailer { length: 1, is_cr: true }, b'\n') => return Stop::End,
            (Chunks::Trailer { is_cr: true, .. }, b'\n') => Chunks::Trailer { length: 0, is_cr: false },
            (Chunks::Trailer { length, .. }, b'\n') => {
                *self = Chunks::Trailer { length: length + 1, is_cr: false };
                return Stop::BareLf;
            }
            (Chunks::Trailer { length, .. }, _) => Chunks::Trailer { length: length + 1, is_cr: byte == b'\r' },
            _ => return Stop::Malformed,
        };
        Stop::Empty
    }
}

/// The range of the data of a small chunk at the beginning of `bytes`, if it is complete.
fn small_chunk(bytes: &[u8]) -> Option<Range<usize>> {
    let mut chunk = Chunks::BEGIN;
    for (at, byte) in bytes.iter().enumerate() {
        match chunk {
            Chunks::Data(length @ 1..SMALL) => {
                let end = at + length as usize;
                return (bytes.get(end..end + 2)? == b"\r\n").then_some(at..end);
            }
            Chunks::Size { .. } | Chunks::Extension { .. } | Chunks::SizeLf { .. } => {}
            _ => return None,
        }
        if chunk.step(*byte) != Stop::Empty {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much is taken and why it stops, which is the same in pieces of every size.
    #[track_caller]
    fn taken(content: &str) -> (usize, Stop) {
        let take = |size: usize| {
            let (mut chunks, mut taken) = (Chunks::BEGIN, 0);
            for piece in content.as_bytes().chunks(size) {
                let mut from = 0;
                loop {
                    let (count, stop) = chunks.take(&piece[from..]);
                    (from, taken) = (from + count, taken + count);
                    match stop {
                        Stop::Chunk => {}
                        Stop::Empty => break,
                        stop => return (taken, stop),
                    }
                }
            }
            (taken, Stop::Empty)
        };
        let whole = take(content.len());
        for size in 1..content.len() {
            assert_eq!(take(size), whole, "{content:?} in pieces of {size}");
        }
        whole
    }

    #[test]
    fn content_ends_after_its_trailers() {
        for content in [
            "0\r\n\r\n",
            "5\r\n0\r\n\r\n\r\n1A ;a=\"b\r\nabcdefghijklmnopqrstuvwxyz\r\n000 \t\r\n\r\n",
            "1;a\r\nx\r\n0;b\r\nA: b\r\nC: \rd\r\n\r\n",
        ] {
            assert_eq!(taken(content), (content.len(), Stop::End), "{content:?}");
            assert_eq!(taken(&format!("{content}GET")), (content.len(), Stop::End), "{content:?}");
        }
    }

    #[test]
    fn content_that_hyper_rejects_is_malformed() {
        for (content, at) in [
            ("\r\n", 0),
            ("x\r\n", 0),
            (" 1\r\n", 0),
            ("1\n", 1),
            ("1x\r\n", 1),
            ("1;a\nb\r\n", 3),
            ("1\rx", 2),
            ("1\r\nxy\r\n", 4),
            ("1\r\nx\ry", 5),
            ("00000000000000001\r\n", 16),
        ] {
            assert_eq!(taken(content), (at, Stop::Malformed), "{content:?}");
        }
    }

    #[test]
    fn a_bare_lf_in_trailers_is_found() {
        assert_eq!(taken("0\r\nA: b\nC: d\r\n\r\n"), (7, Stop::BareLf));
        assert_eq!(taken("0\r\n\n"), (3, Stop::BareLf));
    }

    #[test]
    fn many_small_chunks_become_one() {
        let gathered = |content: &str| Chunks::BEGIN.gather(content.as_bytes());
        let kinds = ["1\r\nx\r\n", "001;a=b\r\n\n\r\n", "2 ;\r\n\r\n\r\n"];
        let content = kinds.concat().repeat(3);
        let whole = b"c\r\nx\n\r\nx\n\r\nx\n\r\n\r\n".to_vec();
        for rest in ["", "0\r\n\r\n", "1\r\nx", "1\r\nxy\n", "g", "fff"] {
            assert_eq!(gathered(&format!("{content}{rest}")), Some((content.len(), whole.clone())), "{rest:?}");
        }
        assert_eq!(gathered(&kinds[0].repeat(MANY - 1)), None);
        assert_eq!(gathered(&format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(MANY)), None);
        assert_eq!(Chunks::DataCr.gather(content.as_bytes()), None);
    }
}

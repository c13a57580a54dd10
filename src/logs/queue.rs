//! Lines that wait to be written, and the thread that writes them. What writes a line never waits for the output.
//!
//! The crate tracing-appender has such a queue too. It allocates for each line and may wake its thread for each; this one copies a
//! line into one buffer, and its thread takes the whole buffer, at most once in [`PAUSE`].

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Most bytes of lines that wait; beyond it they are lost. As many again may be on their way to the output. Their buffers may be twice as
/// large.
const QUEUE_MAX: usize = 4 << 20;
/// Longest line, bytes; the rest of a longer one is cut.
const LINE_MAX: usize = 4 << 10;
/// Pause of the thread after it has written, so that it writes many lines at once while there are many: waking it costs more than
/// a line.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of lines upon which it does not pause.
const TOGETHER: usize = 256 << 10;
/// Longest wait for the last lines.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A queue of lines for one output.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Tells the thread of lines, or of the end.
    pushed: Condvar,
    /// Tells of the thread's end.
    ended: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The thread waits for the first line.
    is_idle: bool,
    is_closed: bool,
    has_ended: bool,
}

impl Queue {
    /// Starts the thread that writes to the output.
    pub fn start<O: Write + 'static>(open: fn() -> O, name: &'static str) -> Queue {
        let shared = Shared {
            waiting: Mutex::default(),
            pushed: Condvar::new(),
            ended: Condvar::new(),
            lost: AtomicU64::new(0),
        };
        let queue = Queue(Arc::new(shared));
        let writer = queue.clone();
        let started = thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all(open, name));
        if let Err(error) = started {
            let _ = writeln!(open(), "larder: cannot start the thread that writes the log: {error}");
            // All lines are lost, and counted.
            queue.lock().has_ended = true;
        }
        queue
    }

    /// Queues a line.
    pub fn push(&self, line: &[u8]) {
        match line.get(..LINE_MAX) {
            Some(beginning) if line.len() > LINE_MAX => self.push_text(&[beginning, b" (cut)\n"].concat()),
            _ => self.push_text(line),
        }
    }

    /// Queues lines that belong together.
    pub fn push_text(&self, lines: &[u8]) {
        let mut waiting = self.lock();
        if waiting.has_ended || waiting.lines.len() + lines.len() > QUEUE_MAX {
            drop(waiting);
            let count = memchr::memchr_iter(b'\n', lines).count().max(1);
            self.0.lost.fetch_add(count as u64, Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(lines);
        if std::mem::take(&mut waiting.is_idle) {
            drop(waiting);
            self.0.pushed.notify_one();
        }
    }

    /// Lines lost so far.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Waits until the last lines are written, for at most a second.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        self.0.pushed.notify_one();
        let ended = self.0.ended.wait_timeout_while(waiting, CLOSE_WITHIN, |waiting| !waiting.has_ended);
        drop(ended);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn write_all<O: Write>(&self, open: fn() -> O, name: &'static str) {
        let (mut lines, mut reported) = (Vec::new(), 0);
        while self.take(&mut lines) {
            if let Err(left) = write(&mut open(), &lines) {
                // There is nowhere to say why.
                self.0.lost.fetch_add(left, Relaxed);
            }
            lines.clear();
            lines.shrink_to(TOGETHER);
            let lost = self.lost();
            if lost > reported && self.lock().lines.len() < QUEUE_MAX / 2 {
                // There is room for the report.
                let lines = lost - reported;
                reported = lost;
                tracing::warn!(lines, in_all = lost, "log lines were lost: {name} is not read fast enough");
            }
            let pauses = |waiting: &mut Waiting| waiting.lines.len() < TOGETHER && !waiting.is_closed;
            drop(self.0.pushed.wait_timeout_while(self.lock(), PAUSE, pauses));
        }
        self.lock().has_ended = true;
        self.0.ended.notify_all();
    }

    /// Waits for lines, and takes all. False at the end.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        loop {
            if !waiting.lines.is_empty() {
                std::mem::swap(&mut waiting.lines, lines);
                return true;
            }
            if waiting.is_closed {
                return false;
            }
            waiting.is_idle = true;
            waiting = self.0.pushed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes lines to an output, which may be a pipe that does not block.
///
/// # Errors
///
/// So many lines were not written.
#[expect(clippy::disallowed_methods, reason = "only the log's own thread sleeps")]
fn write(output: &mut impl Write, mut lines: &[u8]) -> Result<(), u64> {
    while !lines.is_empty() {
        match output.write(lines) {
            Ok(0) => return Err(count(lines)),
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return Err(count(lines)),
        }
    }
    // Standard output has a buffer. It fails as a write does.
    output.flush().map_err(|_| 1)
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// An output that is read only when the test says so.
    static GATE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    struct Gated;

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            GATE.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn while_the_output_blocks_lines_are_queued_up_to_the_limit_and_the_rest_is_counted() {
        let queue = Queue::start(|| Gated, "a test");
        let gate = GATE.lock().unwrap();
        let line = [b'x'; 1024];
        // One that the thread is writing, which waits for the gate; then as many as fit.
        queue.push(b"first\n");
        while !queue.lock().lines.is_empty() {
            thread::yield_now();
        }
        let (give, take) = mpsc::channel();
        let pusher = queue.clone();
        thread::spawn(move || {
            (0..QUEUE_MAX / 1024 + 3).for_each(|_| pusher.push(&line));
            give.send(()).unwrap();
        });
        take.recv_timeout(Duration::from_secs(60)).expect("pushing does not wait for the output");
        assert_eq!(queue.lost(), 3);
        drop(gate);
        queue.close();
        assert_eq!(GATE.lock().unwrap().len(), 6 + QUEUE_MAX);
        queue.push(b"late\n");
        assert_eq!(queue.lost(), 4, "after the end nothing is queued");
        queue.push_text(b"two\nlines\n");
        assert_eq!(queue.lost(), 6);
    }

    /// Takes three bytes at a time, is full each second time, and fails at the end.
    struct Full {
        written: Vec<u8>,
        is_full: bool,
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.is_full = !self.is_full;
            match self.is_full {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false if self.room == 0 => Err(io::ErrorKind::StorageFull.into()),
                false => {
                    let taken = bytes.len().min(3).min(self.room);
                    self.room -= taken;
                    self.written.extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_full_for_a_while_gets_all_and_one_that_fails_is_counted() {
        let mut full = Full { written: Vec::new(), is_full: false, room: 100 };
        assert_eq!(write(&mut full, b"first\nsecond\n"), Ok(()));
        assert_eq!(full.written, b"first\nsecond\n");
        full.room = 8;
        assert_eq!(write(&mut full, b"third\nfourth\nfifth\n"), Err(2));
    }

    #[test]
    fn a_long_line_is_cut() {
        let queue = Queue(Arc::new(Shared {
            waiting: Mutex::default(),
            pushed: Condvar::new(),
            ended: Condvar::new(),
            lost: AtomicU64::new(0),
        }));
        queue.push(&[b'x'; LINE_MAX + 1]);
        assert!(queue.lock().lines.ends_with(b"x (cut)\n"));
        assert_eq!(queue.lock().lines.len(), LINE_MAX + 7);
    }
}

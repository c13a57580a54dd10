//! What Larder logs while a test looks.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

thread_local! {
    /// None while nobody looks.
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Collects what this thread logs, for as long as it lives. A test on a single-threaded runtime logs everything here.
pub struct Log(());

impl Log {
    /// Begins to look.
    pub fn capture() -> Log {
        // One subscriber for the whole process: with one per test, a place in the code that another test passes
        // first could be taken for one that nobody listens to.
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Writer).init());
        LINES.set(Some(Vec::new()));
        Log(())
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8_lossy(lines.as_deref().unwrap_or_default()).into_owned())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.iter_mut().for_each(|lines| lines.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

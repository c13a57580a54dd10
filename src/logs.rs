//! Where log lines go: to standard error, by a thread of their own. Whoever logs never waits for whoever reads. Lines wait in
//! memory while nobody reads; beyond that they are lost, and counted.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::thread;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};

/// Lines that wait to be written at most.
const WAITING_MAX: usize = 4096;

/// The longest line, bytes; the rest of a longer one is cut off. The product of the two bounds the memory.
const LINE_MAX: usize = 4 << 10;

/// Counts lost lines; set once the log has begun.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// How many lines were lost so far, because standard error was not read.
pub fn lost() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// The log of the process, from its start until this is dropped: then the last lines are written, unless nobody reads them
/// within a second.
#[derive(Debug)]
pub struct Logs {
    writer: NonBlocking,
    _guard: WorkerGuard,
}

impl Logs {
    /// Starts the log, and has panics told in it. Once in a process.
    pub fn start(config: &LogConfig) -> Logs {
        let lines = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_MAX).thread_name("log");
        let (writer, guard) = lines.finish(StandardError::default());
        let _ = LOST.set(writer.error_counter());
        let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
        let colours = io::stderr().is_terminal();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colours)
            .with_writer(Lines(writer.clone()));
        match config.format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        tell_panics(writer.clone());
        Logs { writer, _guard: guard }
    }

    /// Writes a line as it is, whatever the level.
    pub fn say(&self, line: &str) {
        let _ = self.writer.clone().write_all(format!("{line}\n").as_bytes());
    }
}

/// The standard library's hook writes to standard error itself, and waits for its reader.
fn tell_panics(writer: NonBlocking) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("{backtrace}\n"),
            _ => String::new(),
        };
        let (thread, mut writer) = (thread::current(), writer.clone());
        let text = format!("\nthread '{}' {panic}\n{backtrace}", thread.name().unwrap_or("<unnamed>"));
        let _ = writer.write_all(text.as_bytes());
    }));
}

/// Hands lines to the thread that writes them.
struct Lines(NonBlocking);

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        Line(self.0.clone())
    }
}

/// Takes one line, in one piece, as `tracing_subscriber` gives it.
struct Line(NonBlocking);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match line.get(..LINE_MAX) {
            Some(beginning) if line.len() > LINE_MAX => self.0.write_all(&[beginning, b" (cut)\n"].concat())?,
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, as the thread sees it that writes there. Tells of lost lines once lines are written again.
#[derive(Default)]
struct StandardError {
    told: u64,
}

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }

    /// Called whenever no line waits any more, so that there is room for one of its own.
    fn flush(&mut self) -> io::Result<()> {
        let lost = lost();
        if lost > self.told {
            let lines = lost - self.told;
            self.told = lost;
            tracing::warn!(lines, in_all = lost, "log lines were lost: standard error is not read fast enough");
        }
        io::stderr().flush()
    }
}

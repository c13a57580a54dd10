//! Logging to standard error by a thread of its own, so that no request waits while standard error is not read. Lines are
//! queued in memory; beyond the queue's limit they are dropped and counted.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::thread;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};

/// Most lines in the queue.
const QUEUE_MAX: usize = 4096;

/// Longest line, bytes; the rest of a longer one is cut. The product of both limits bounds the memory.
const LINE_MAX: usize = 4 << 10;

/// Counts lost lines; set when the log is started.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines lost so far because standard error was not read.
pub fn lost() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// The log of the process. When it is dropped, the last lines are written, for at most a second.
#[derive(Debug)]
pub struct Logs {
    writer: NonBlocking,
    _guard: WorkerGuard,
}

impl Logs {
    /// Starts the log, and logs panics to it. Once in a process.
    pub fn start(config: &LogConfig) -> Logs {
        let lines = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_MAX).thread_name("log");
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
        log_panics(writer.clone());
        Logs { writer, _guard: guard }
    }

    /// Writes a line as it is, at any level.
    pub fn write_line(&self, line: &str) {
        let _ = self.writer.clone().write_all(format!("{line}\n").as_bytes());
    }
}

/// Replaces the standard library's panic hook, which blocks while standard error is not read.
fn log_panics(writer: NonBlocking) {
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

/// Passes lines to the thread that writes them.
struct Lines(NonBlocking);

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        Line(self.0.clone())
    }
}

/// Passes on one line, which `tracing_subscriber` writes with one call.
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

/// Standard error, for the thread that writes to it. Logs the number of lost lines once lines are written again.
#[derive(Default)]
struct StandardError {
    reported: u64,
}

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }

    /// Called when the queue is empty, so that there is room for the report.
    fn flush(&mut self) -> io::Result<()> {
        let lost = lost();
        if lost > self.reported {
            let lines = lost - self.reported;
            self.reported = lost;
            tracing::warn!(lines, in_all = lost, "log lines were lost: standard error is not read fast enough");
        }
        io::stderr().flush()
    }
}

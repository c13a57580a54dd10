//! Logging to standard error, and of requests to standard output if that is configured, each by a thread of its own, so that no
//! request waits while it is not read. Lines are queued in memory; beyond the queue's limit they are dropped and counted.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::SystemTime;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::access_log::{AccessEntry, AccessFormat};
use crate::config::{AccessOutput, LogConfig, LogFormat};

/// Most lines in the queue.
const QUEUE_MAX: usize = 4096;

/// Longest line, bytes; the rest of a longer one is cut. The product of both limits bounds the memory.
const LINE_MAX: usize = 4 << 10;

/// Count lost lines, of standard error and standard output; set when the log is started.
static LOST: [OnceLock<ErrorCounter>; 2] = [OnceLock::new(), OnceLock::new()];

/// Where lines of requests go, and in which format; set when the log is started.
static ACCESS: OnceLock<(NonBlocking, AccessFormat)> = OnceLock::new();

/// Lines lost so far because standard error or standard output was not read.
pub fn lost() -> u64 {
    LOST.iter().map(lost_by).sum()
}

fn lost_by(counter: &OnceLock<ErrorCounter>) -> u64 {
    counter.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// Whether requests are logged.
pub fn has_access(config: &LogConfig) -> bool {
    config.access && tracing::enabled!(target: "larder::access", tracing::Level::INFO)
}

/// Writes the line of a request.
pub fn write_access(entry: &AccessEntry) {
    if let Some((writer, format)) = ACCESS.get() {
        let _ = Line(writer.clone()).write(entry.line(*format, SystemTime::now()).as_bytes());
    }
}

/// The log of the process. When it is dropped, the last lines are written, for at most a second.
#[derive(Debug)]
pub struct Logs {
    writer: NonBlocking,
    _guards: [Option<WorkerGuard>; 2],
}

fn start_writer<W: Write + Send + 'static>(
    output: W,
    counter: &OnceLock<ErrorCounter>,
) -> (NonBlocking, WorkerGuard) {
    let lines = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_MAX).thread_name("log");
    let (writer, guard) = lines.finish(output);
    let _ = counter.set(writer.error_counter());
    (writer, guard)
}

impl Logs {
    /// Starts the log, and logs panics to it. Once in a process.
    pub fn start(config: &LogConfig) -> Logs {
        let [errors, lines] = &LOST;
        let (writer, guard) = start_writer(Output::new(io::stderr, "standard error", errors), errors);
        let (access, access_guard) = match config.access_to {
            AccessOutput::Stdout if config.access => {
                let (writer, guard) = start_writer(Output::new(io::stdout, "standard output", lines), lines);
                (writer, Some(guard))
            }
            AccessOutput::Stdout | AccessOutput::Stderr => (writer.clone(), None),
        };
        let format = config.access_format.unwrap_or(match config.format {
            LogFormat::Text => AccessFormat::Text,
            LogFormat::Json => AccessFormat::Json,
        });
        let _ = ACCESS.set((access, format));
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
        Logs { writer, _guards: [Some(guard), access_guard] }
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

/// Bytes of lines that are written together while more are queued: a system call for each would be most of what a line costs.
const TOGETHER: usize = 64 << 10;

/// An output, for the thread that writes to it. Logs the number of lost lines once lines are written again.
struct Output<O> {
    open: fn() -> O,
    name: &'static str,
    counter: &'static OnceLock<ErrorCounter>,
    reported: u64,
    /// Lines that are not written yet.
    lines: Vec<u8>,
}

impl<O> Output<O> {
    fn new(open: fn() -> O, name: &'static str, counter: &'static OnceLock<ErrorCounter>) -> Output<O> {
        Output { open, name, counter, reported: 0, lines: Vec::new() }
    }
}

impl<O: Write> Output<O> {
    fn write_lines(&mut self) -> io::Result<()> {
        let written = (self.open)().write_all(&self.lines);
        self.lines.clear();
        written
    }
}

impl<O: Write> Write for Output<O> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(bytes);
        if self.lines.len() >= TOGETHER {
            self.write_lines()?;
        }
        Ok(bytes.len())
    }

    /// Called when the queue is empty, so that there is room for the report.
    fn flush(&mut self) -> io::Result<()> {
        self.write_lines()?;
        let lost = lost_by(self.counter);
        if lost > self.reported {
            let lines = lost - self.reported;
            self.reported = lost;
            tracing::warn!(lines, in_all = lost, "log lines were lost: {} is not read fast enough", self.name);
        }
        (self.open)().flush()
    }
}

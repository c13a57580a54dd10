//! Logging to standard error, and of requests to standard output if that is configured, each by a thread of its own, so that no
//! request waits while it is not read. Lines are queued in memory; beyond the queue's limit they are dropped and counted.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::SystemTime;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::access_log::{AccessEntry, AccessFormat};
use crate::config::{AccessOutput, LogConfig, LogFormat};

mod queue;

use queue::Queue;

/// The queues of standard error and standard output; set when the log is started.
static QUEUES: [OnceLock<Queue>; 2] = [OnceLock::new(), OnceLock::new()];

/// Where lines of requests go, and in which format; set when the log is started, if requests are logged.
static ACCESS: OnceLock<(Queue, AccessFormat)> = OnceLock::new();

/// Lines lost so far because standard error or standard output was not read.
pub fn lost() -> u64 {
    QUEUES.iter().filter_map(OnceLock::get).map(Queue::lost).sum()
}

/// Whether requests are logged.
pub fn has_access() -> bool {
    ACCESS.get().is_some()
}

/// Writes the line of a request.
pub fn write_access(entry: &AccessEntry<'_>) {
    thread_local! {
        /// Kept, so that a line costs no allocation.
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let Some((queue, format)) = ACCESS.get() else { return };
    LINE.with_borrow_mut(|line| {
        line.clear();
        entry.write_line(*format, SystemTime::now(), line);
        queue.push(line);
    });
}

/// The log of the process. When it is dropped, the last lines are written, for at most a second each to standard error and output.
#[derive(Debug)]
pub struct Logs {
    errors: Queue,
}

impl Logs {
    /// Starts the log, and logs panics to it. Once in a process.
    pub fn start(config: &LogConfig) -> Logs {
        let [errors, output] = &QUEUES;
        let errors = errors.get_or_init(|| Queue::start(io::stderr, "standard error"));
        let access = match config.access_to {
            AccessOutput::Stdout if config.access => {
                output.get_or_init(|| Queue::start(io::stdout, "standard output"))
            }
            AccessOutput::Stdout | AccessOutput::Stderr => errors,
        };
        let format = config.access_format.unwrap_or(match config.format {
            LogFormat::Text => AccessFormat::Text,
            LogFormat::Json => AccessFormat::Json,
        });
        let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
        let colours = io::stderr().is_terminal();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colours)
            .with_writer(Lines(errors.clone()));
        match config.format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        if config.access && tracing::enabled!(target: "larder::access", tracing::Level::INFO) {
            let _ = ACCESS.set((access.clone(), format));
        }
        log_panics(errors.clone());
        Logs { errors: errors.clone() }
    }

    /// Writes a line as it is, at any level.
    pub fn write_line(&self, line: &str) {
        self.errors.push(format!("{line}\n").as_bytes());
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        QUEUES.iter().filter_map(OnceLock::get).for_each(Queue::close);
    }
}

/// Replaces the standard library's panic hook, which blocks while standard error is not read.
fn log_panics(queue: Queue) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("{backtrace}\n"),
            _ => String::new(),
        };
        let thread = thread::current();
        let text = format!("\nthread '{}' {panic}\n{backtrace}", thread.name().unwrap_or("<unnamed>"));
        queue.push_text(text.as_bytes());
    }));
}

/// Passes lines to the thread that writes them.
struct Lines(Queue);

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.0.clone())
    }
}

/// Passes on one line, which `tracing_subscriber` writes with one call.
struct Line(Queue);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! `[log]`: what is logged, in which format, and where to.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::address::InvalidValue;
use super::fields::{section, set, text_passing};
use crate::access_log::AccessFormat;
use crate::rules::nearest::{did_you_mean, nearest};
use crate::rules::reader::Table;
use crate::words::words;

settings! {
"log":
/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`: text | json
    pub format: LogFormat = LogFormat::Text,
    /// `access`: log a line per request, default true
    pub access: bool = true,
    /// `access_format`: text | json | combined, of these lines; default: `format`
    pub access_format: Option<AccessFormat> = None,
    /// `access_to`: stderr | stdout, default stderr
    pub access_to: AccessOutput = AccessOutput::default(),
    /// `level`: a tracing filter such as "info" or "larder=debug", default "info"
    pub level: String = "info".to_owned(),
}
}

impl LogConfig {
    /// Whether `level` leaves out the access log, whose lines have the level info.
    pub fn leaves_out_access(&self) -> bool {
        let filter = EnvFilter::builder().parse(&self.level);
        filter.is_ok_and(|filter| filter.max_level_hint().is_some_and(|most| most < LevelFilter::INFO))
    }
}

words! {
/// `[log] access_to`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessOutput {
    /// With the other lines.
    #[default]
    Stderr = "stderr",
    Stdout = "stdout",
}
}

words! {
/// `[log] format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text = "text",
    Json = "json",
}
}

/// `[log]`
pub fn read_log(root: &mut Table<'_>) -> LogConfig {
    let mut log = LogConfig::default();
    let Some(mut table) = section(root, "log") else { return log };
    set(&mut log.format, table.read("format", |item| item.choice(LogFormat::WORDS)));
    set(&mut log.access, table.read("access", |item| item.boolean()));
    set(&mut log.level, table.read("level", |item| text_passing(&item, level)));
    let (format, output) = (table.item("access_format"), table.item("access_to"));
    for item in [&format, &output].into_iter().flatten() {
        match (log.access, log.leaves_out_access()) {
            (false, _) => item.fault("has no effect with access = false", "remove it, or set access = true"),
            (true, true) => item.fault(
                "has no effect: level leaves out the access log, whose lines have the level info",
                "remove it, or add larder::access=info to level",
            ),
            (true, false) => {}
        }
    }
    let words = [("text", AccessFormat::Text), ("json", AccessFormat::Json), ("combined", AccessFormat::Combined)];
    log.access_format = format.and_then(|item| item.choice(&words));
    set(&mut log.access_to, output.and_then(|item| item.choice(AccessOutput::WORDS)));
    table.finish();
    log
}

/// A tracing filter. A bare word would be read as a module name, so that a misspelt level would go unnoticed.
fn level(text: &str) -> Result<(), InvalidValue> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let remedy = || "write a level (off, error, warn, info, debug, trace), or \"info,larder=debug\"".to_owned();
    for part in text.split(',').map(str::trim).filter(|part| !part.contains(['=', '['])) {
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part)) {
            let remedy = did_you_mean(&nearest(part, LEVELS), remedy);
            return Err(InvalidValue { message: "is not a level", remedy });
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidValue { message: "is not a filter", remedy: remedy() }),
    }
}

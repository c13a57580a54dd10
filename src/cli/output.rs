//! What the commands print, and how they end.

use std::fmt::Display;
use std::io::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Exit code for findings, and for an admin that refuses or does not answer.
pub(super) const FAILED: u8 = 1;

/// Exit code for faulty arguments and files.
pub(super) const USAGE: u8 = 2;

/// Prints a line to standard output. False if it is closed, as by `| head`.
pub(super) fn say(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// Prints an error, and returns the exit code.
pub(super) fn complain(error: impl Display, code: u8) -> u8 {
    let _ = writeln!(std::io::stderr(), "larder: {error}");
    code
}

/// Prints an answer of an admin: as JSON, or as text for people.
pub(super) fn show(json: bool, answer: &Value, text: impl FnOnce(&Value) -> String) {
    say(&if json { format!("{answer:#}") } else { text(answer) });
}

/// Runs what needs the network, for commands that ask.
pub(super) fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot ask: {error}"))
}

/// Runs a command that asks an admin. Its error is a refusal, or that there is no answer.
pub(super) fn run(command: impl Future<Output = Result<u8, String>>) -> u8 {
    let ended = runtime().and_then(|runtime| runtime.block_on(command));
    ended.unwrap_or_else(|error| complain(error, FAILED))
}

/// Columns without lines between them. Those of numbers, by index, are aligned to the right.
pub(super) fn table<R: IntoIterator<Item = String>>(
    head: &[&str],
    numbers: &[usize],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A JSON value as text for people: `-` for null, strings without quotes, lists with commas.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// The items of a JSON array; none of anything else.
pub(super) fn list(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Control characters are escaped: what clients sent must not steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| if char.is_control() { char.escape_default().collect() } else { vec![char] })
        .collect()
}

/// `12.5 %`, or `-` if there is none.
pub(super) fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1} %"))
}

/// `1.4 MiB`, or `-` if it is not known.
pub(super) fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |bytes| bytesize::ByteSize(bytes).display().iec().to_string())
}

/// `1m 5s`, or `-` if it is not known. Whole seconds, unless it is less than one.
pub(super) fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(
        || "-".to_owned(),
        |seconds| {
            let time = std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
            let whole = if time.as_secs() > 0 { std::time::Duration::from_secs(time.as_secs()) } else { time };
            humantime::format_duration(std::time::Duration::from_millis(
                u64::try_from(whole.as_millis()).unwrap_or(u64::MAX),
            ))
            .to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_printed_for_people() {
        for (value, expected) in [
            (json!(null), "-"),
            (json!("a\u{1b}[31m"), "a\\u{1b}[31m"),
            (json!(["a", 1]), "a, 1"),
            (json!({"a": 1}), "a=1"),
            (json!(true), "true"),
        ] {
            assert_eq!(text(&value), expected);
        }
        assert_eq!([percent(&json!(12.34)), percent(&json!(null))], ["12.3 %", "-"]);
        assert_eq!([bytes(&json!(1536)), bytes(&json!(null))], ["1.5 KiB", "-"]);
        assert_eq!([seconds(&json!(65.9)), seconds(&json!(0.25)), seconds(&json!(-1))], ["1m 5s", "250ms", "0s"]);
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let rows = [["a".to_owned(), "10".to_owned()], ["bc".to_owned(), "5".to_owned()]];
        assert_eq!(table(&["name", "count"], &[1], rows), " name  count\n a        10\n bc        5");
    }
}

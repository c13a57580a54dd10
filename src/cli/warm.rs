//! `larder warm` asks a running Larder to warm its cache, and shows the progress: a bar on a terminal, lines elsewhere.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use http::{Method, StatusCode};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::admin_client::{AdminClient, encoded};
use super::{WarmArguments, complain};

/// How often the progress is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often it is written where there is no terminal, in polls.
const LINES: u32 = 25;

/// Returns the exit code: 0 if all is well, 1 if Larder refuses or something was not warmed, 2 for a faulty argument.
pub(super) fn warm(arguments: &WarmArguments) -> u8 {
    let client = match AdminClient::new(&arguments.admin, arguments.token.clone()) {
        Ok(client) => client,
        Err(error) => return complain(&error, 2),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot ask: {error}"), 1),
    };
    match runtime.block_on(ask(arguments, &client)) {
        Ok(code) => code,
        Err(error) => complain(&error, 1),
    }
}

fn say(line: &str) {
    // A closed pipe is no error.
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn ask(arguments: &WarmArguments, client: &AdminClient) -> Result<u8, String> {
    let path = arguments
        .family
        .as_ref()
        .map_or_else(|| "/cache/warm".to_owned(), |family| format!("/cache/warm/{}", encoded(family)));
    let begun = json(arguments, client.send(&Method::POST, &path).await)?;
    let run = begun["run"].as_u64().unwrap_or_default();
    if !arguments.wait {
        say(begun["message"].as_str().unwrap_or_default());
        return Ok(0);
    }
    let mut progress = Progress::new();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let state = json(arguments, client.send(&Method::GET, "/cache/warm").await)?;
        let is_ours = |report: &&Value| report["run"] == run;
        if let Some(report) = state["reports"].as_array().into_iter().flatten().find(is_ours) {
            progress.end();
            return Ok(finish(report));
        }
        match Some(&state["run"]).filter(is_ours) {
            Some(report) => progress.show(report),
            None if state["run"].is_null() && progress.is_lost() => {
                return Err(format!("run {run} is not known any more; has Larder been started again?"));
            }
            None => {}
        }
    }
}

/// The content of a response.
fn json(arguments: &WarmArguments, answer: Result<(StatusCode, bytes::Bytes), String>) -> Result<Value, String> {
    let admin = &arguments.admin;
    let (status, body) =
        answer.map_err(|error| format!("{admin}: {error}; is this the admin of a running Larder?"))?;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() && json["success"] == true {
        return Ok(json);
    }
    Err(match (json["error"].as_str(), json["what_to_do"].as_str()) {
        (Some(error), Some(what_to_do)) => format!("{admin}: {error}; {what_to_do}"),
        _ => format!("{admin} answered {status}; is this the admin of a running Larder?"),
    })
}

/// Prints what became of a run.
fn finish(report: &Value) -> u8 {
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    say(&format!(
        "{} paths in {:.1} s: {} fetched, {} already fresh, {} not stored, {} failed",
        count("paths"),
        report["seconds"].as_f64().unwrap_or_default(),
        count("fetched"),
        count("already_fresh"),
        count("not_stored"),
        count("failed"),
    ));
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    for reason in list("reasons") {
        let text = |name: &str| reason[name].as_str().unwrap_or_default().to_owned();
        let result = text("result").replace('_', " ");
        say(&format!("  {} {result}: {} (such as {})", reason["count"], text("reason"), text("example")));
    }
    let problems = list("problems");
    for problem in &problems {
        say(&format!("  {}", problem.as_str().unwrap_or_default()));
    }
    u8::from(count("not_stored") + count("failed") > 0 || !problems.is_empty())
}

/// Shows how far a run is.
struct Progress {
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    polls: u32,
    /// Polls in which the run was neither under way nor over.
    lost: u32,
}

impl Progress {
    fn new() -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
            let bar = ProgressBar::new(0);
            style.into_iter().for_each(|style| bar.set_style(style));
            bar
        });
        Progress { bar, polls: 0, lost: 0 }
    }

    fn show(&mut self, report: &Value) {
        let count = |name: &str| report[name].as_u64().unwrap_or_default();
        let (done, paths) = (count("done"), count("paths"));
        match &self.bar {
            Some(bar) => {
                bar.set_length(paths);
                bar.set_position(done);
                bar.set_message(format!("{} fetched, {} failed", count("fetched"), count("failed")));
            }
            None if self.polls.is_multiple_of(LINES) => say(&format!("{done} of {paths} paths")),
            None => {}
        }
        (self.polls, self.lost) = (self.polls.wrapping_add(1), 0);
    }

    /// Whether the run has not been seen for some polls.
    fn is_lost(&mut self) -> bool {
        self.lost += 1;
        self.lost > LINES
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

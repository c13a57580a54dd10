//! `larder warm` asks a running Larder to warm its cache, and shows the progress: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::WarmArguments;
use super::admin_client::{AdminClient, encoded};
use super::output::{self, say, text};

/// How often the progress is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often it is written where there is no terminal, in polls.
const LINES: u32 = 25;

/// Returns the exit code: 0 if all is well, 1 if Larder refuses or something was not warmed, 2 for a faulty argument.
pub(super) fn warm(arguments: &WarmArguments) -> u8 {
    arguments.admin.run(async |client| ask(arguments, client).await)
}

async fn ask(arguments: &WarmArguments, client: &AdminClient) -> Result<u8, String> {
    let path = arguments
        .family
        .as_ref()
        .map_or_else(|| "/cache/warm".to_owned(), |family| format!("/cache/warm/{}", encoded(family)));
    let begun = client.post(&path).await?;
    let run = begun["run"].as_u64().unwrap_or_default();
    if !arguments.wait {
        output::show(arguments.json, &begun, |begun| text(&begun["message"]));
        return Ok(0);
    }
    let mut progress = WarmProgress::new();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let state = client.get("/cache/warm").await?;
        let is_ours = |report: &&Value| report["run"] == run;
        if let Some(report) = output::list(&state["reports"]).find(is_ours) {
            progress.end();
            return Ok(finish(report, arguments.json));
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

/// Prints what became of a run.
fn finish(report: &Value, is_json: bool) -> u8 {
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    let list = |name: &str| output::list(&report[name]);
    let code = u8::from(count("not_stored") + count("failed") > 0 || list("problems").next().is_some());
    if is_json {
        say(&format!("{report:#}"));
        return code;
    }
    say(&format!(
        "{} paths in {:.1} s: {} fetched, {} already fresh, {} not stored, {} failed",
        count("paths"),
        report["seconds"].as_f64().unwrap_or_default(),
        count("fetched"),
        count("already_fresh"),
        count("not_stored"),
        count("failed"),
    ));
    for reason in list("reasons") {
        let of = |name: &str| text(&reason[name]);
        let result = of("result").replace('_', " ");
        say(&format!("  {} {result}: {} (such as {})", of("count"), of("reason"), of("example")));
    }
    for problem in list("problems") {
        say(&format!("  {}", text(problem)));
    }
    code
}

/// Shows how far a run is.
struct WarmProgress {
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    polls: u32,
    /// Polls in which the run was neither under way nor over.
    lost: u32,
}

impl WarmProgress {
    fn new() -> WarmProgress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
            let bar = ProgressBar::new(0);
            style.into_iter().for_each(|style| bar.set_style(style));
            bar
        });
        WarmProgress { bar, polls: 0, lost: 0 }
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
            None if self.polls.is_multiple_of(LINES) => {
                say(&format!("{done} of {paths} paths"));
            }
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

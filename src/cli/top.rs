//! `larder top` shows what happens in a running Larder: a screen that is refreshed on a terminal, one report elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use serde_json::{Value, json};

use super::admin_client::{AdminArguments, AdminClient};
use super::output::{self, FAILED, USAGE, percent, text};
use super::stats::{FAMILY_COLUMNS, alerts, family_rows};

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// Pause between two looks: 2s.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print the admin's JSON once.
    #[arg(long)]
    json: bool,
}

/// Rows of each list.
const ROWS: u32 = 10;

/// The shortest pause: each look makes the admin count.
const SHORTEST: Duration = Duration::from_millis(200);

/// How long a key is waited for at a time.
const KEYS: Duration = Duration::from_millis(100);

pub(super) fn top(arguments: &TopArguments) -> u8 {
    let client = match arguments.admin.client() {
        Ok(client) => client,
        Err(error) => return output::complain(error, USAGE),
    };
    let runtime = match output::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return output::complain(error, FAILED),
    };
    let ask = || runtime.block_on(Seen::ask(&client));
    let first = match ask() {
        Ok(seen) => seen,
        Err(error) => return output::complain(error, FAILED),
    };
    if arguments.json || !std::io::stdout().is_terminal() {
        output::show(arguments.json, &first.top, |_| first.report());
        return 0;
    }
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => return output::complain(format_args!("cannot draw on this terminal: {error}"), FAILED),
    };
    let shown = show(&mut terminal, first, arguments.interval.max(SHORTEST), ask);
    ratatui::restore();
    shown.map_or_else(|error| output::complain(error, FAILED), |()| 0)
}

/// Draws until `q`, Escape or Control-C.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    first: Seen,
    interval: Duration,
    ask: impl Fn() -> Result<Seen, String>,
) -> Result<(), String> {
    let (mut seen, mut fault, mut next) = (first, None::<String>, Instant::now() + interval);
    loop {
        terminal.draw(|frame| draw(frame, &seen, fault.as_deref())).map_err(|error| error.to_string())?;
        while Instant::now() < next {
            if event::poll(KEYS).map_err(|error| error.to_string())? {
                match event::read().map_err(|error| error.to_string())? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => match (key.code, key.modifiers) {
                        (KeyCode::Char('q') | KeyCode::Esc, _) | (KeyCode::Char('c'), KeyModifiers::CONTROL) => {
                            return Ok(());
                        }
                        _ => {}
                    },
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
        }
        if Instant::now() >= next {
            // What was seen last stays on the screen.
            match ask() {
                Ok(now) => (seen, fault) = (now, None),
                Err(error) => fault = Some(error),
            }
            next = Instant::now() + interval;
        }
    }
}

/// What the admin says.
struct Seen {
    stats: Value,
    alerts: Vec<Value>,
    top: Value,
    log: Vec<Value>,
}

/// The lists of `/cache/top`: name, title, column of the subject, column of the number, heading of the number.
const LISTS: [(&str, &str, &str, &str, &str); 4] = [
    ("hottest", "most read", "url", "hits", "hits"),
    ("missed", "most missed", "url", "count", "misses"),
    ("invalidated", "most invalidated", "tag", "count", "times"),
    ("slowest", "slowest at upstream", "url", "ms", "ms"),
];

impl Seen {
    async fn ask(client: &AdminClient) -> Result<Seen, String> {
        let log = client.get(&format!("/cache/log?limit={ROWS}")).await?;
        Ok(Seen {
            stats: client.get("/cache/stats").await?,
            alerts: alerts(client).await?,
            top: client.get(&format!("/cache/top?limit={ROWS}")).await?,
            log: log["invalidations"].as_array().cloned().unwrap_or_default(),
        })
    }

    fn list(&self, name: &str, subject: &str, number: &str) -> Vec<[String; 2]> {
        let rows = self.top[name].as_array().into_iter().flatten();
        rows.map(|row| [text(&row[number]), text(&row[subject])]).collect()
    }

    /// Everything as text.
    fn report(&self) -> String {
        let mut parts =
            vec![output::table(&FAMILY_COLUMNS, &[1, 2, 3, 4, 5, 6, 7, 8], family_rows(&self.stats, "1m"))];
        for (name, title, subject, number, heading) in LISTS {
            let rows = self.list(name, subject, number);
            if !rows.is_empty() {
                parts.push(output::table(&[heading, title], &[0], rows));
            }
        }
        parts.join("\n\n")
    }
}

fn draw(frame: &mut Frame<'_>, seen: &Seen, fault: Option<&str>) {
    let alerts = u16::try_from(seen.alerts.len().min(4)).unwrap_or(4) + u16::from(fault.is_some());
    let [head, alert_lines, families, lists, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(alerts),
        Constraint::Min(5),
        Constraint::Length(8),
        Constraint::Length(8),
    ])
    .areas(frame.area());
    frame.render_widget(header(&seen.stats), head);
    let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    let faults = fault.map(printable_line).into_iter();
    let raised = seen.alerts.iter().map(|alert| text(&alert["message"]));
    frame.render_widget(
        Paragraph::new(faults.chain(raised).map(|line| Line::styled(line, red)).collect::<Vec<_>>()),
        alert_lines,
    );
    frame.render_widget(family_table(&seen.stats), families);
    let columns = Layout::horizontal(LISTS.map(|_| Constraint::Fill(1))).split(lists);
    for ((name, title, subject, number, _), area) in LISTS.into_iter().zip(columns.iter()) {
        let rows = seen.list(name, subject, number).into_iter().map(Row::new);
        let table = Table::new(rows, [Constraint::Length(8), Constraint::Fill(1)]);
        frame.render_widget(table.block(Block::bordered().title(title)), *area);
    }
    frame.render_widget(log_table(&seen.log), log);
}

fn printable_line(error: &str) -> String {
    text(&json!(error))
}

fn header(stats: &Value) -> Line<'static> {
    let rates = &stats["rates"]["1m"];
    Line::styled(
        format!(
            "Larder  hit rate {} (1 h: {})  {} requests/s  errors {}    q: quit",
            percent(&rates["hit_rate"]),
            percent(&stats["rates"]["1h"]["hit_rate"]),
            text(&rates["requests_per_second"]),
            percent(&rates["error_rate"]),
        ),
        Style::new().add_modifier(Modifier::BOLD),
    )
}

fn family_table(stats: &Value) -> Table<'static> {
    let widths = [Constraint::Min(16)].into_iter().chain([Constraint::Length(11); 8]);
    let rows = family_rows(stats, "1m").into_iter().map(|row| Row::new(row.map(Cell::from)));
    let head = Row::new(FAMILY_COLUMNS).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths).header(head).block(Block::bordered().title("families, last minute"))
}

fn log_table(log: &[Value]) -> Table<'static> {
    let rows = log.iter().map(|event| Row::new(super::log::columns(event).map(Cell::from)));
    let widths = [Constraint::Length(20), Constraint::Fill(2), Constraint::Fill(1), Constraint::Fill(1)];
    Table::new(rows, widths).block(Block::bordered().title("invalidations"))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_screen_shows_alerts_families_lists_and_invalidations() {
        let rates = json!({ "requests": 9, "requests_per_second": 4.5, "hit_rate": 87.5, "miss_rate": 12.5 });
        let seen = Seen {
            stats: json!({
                "rates": { "1m": rates, "1h": { "hit_rate": 80.0 } },
                "families": { "user": { "1m": rates } },
            }),
            alerts: vec![json!({ "message": "the hit rate is low" })],
            top: json!({ "hottest": [{ "url": "/users/7", "hits": 42 }], "invalidated": [{ "tag": "user:7", "count": 3 }] }),
            log: vec![json!({
                "time": "2026-01-01T00:00:00Z", "cause": { "kind": "write", "method": "PUT", "path": "/users/\u{1b}7" },
                "rule": { "pattern": "/users/.*", "line": 9 }, "tags": ["user:7"], "families": ["user"],
            })],
        };
        let mut terminal = Terminal::new(TestBackend::new(140, 40)).unwrap();
        terminal.draw(|frame| draw(frame, &seen, Some("no answer"))).unwrap();
        let screen = terminal.backend().to_string();
        for shown in [
            "hit rate 87.5 %",
            "80.0 %",
            "the hit rate is low",
            "no answer",
            "/users/7",
            "42",
            "user:7",
            "PUT /users/\\u{1b}7",
            "line 9",
        ] {
            assert!(screen.contains(shown), "{shown} is missing:\n{screen}");
        }
        assert!(seen.report().contains("most read"), "{}", seen.report());
    }
}

//! A browser: headless Chromium, which opens a page of the test, runs its script, and sends what came of it.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::packages::{command, root};
use crate::support::client::{read_exactly, read_fields, read_line};

/// The longest that a page may take, the start of the browser included. Only a failing test takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads, on another origin, what the page asks for.
const FRAME: &str = "<!doctype html><script>
onmessage = async ({ data, source, origin }) => {
  let result;
  try {
    const answer = await fetch(data, { cache: 'no-store' });
    result = [answer.status, await answer.text()];
  } catch (error) {
    result = String(error);
  }
  source.postMessage(result, origin);
};
parent.postMessage('ready', '*');
</script>";

/// Runs `test()` of one of `tests/apps/pages` in a new browser, with `api` as the address of what is tried and `other` as
/// another origin that has a frame at `/frame`. Gives what it returns.
#[track_caller]
pub fn runs(page: &str, api: &str) -> Value {
    runs_with(page, api, &[])
}

/// The same in a browser that lets the page look into frames of other origins.
#[track_caller]
pub fn runs_unguarded(page: &str, api: &str) -> Value {
    runs_with(page, api, &["--disable-web-security", "--disable-site-isolation-trials"])
}

#[track_caller]
fn runs_with(page: &str, api: &str, flags: &[&str]) -> Value {
    let script = std::fs::read_to_string(root().join("tests/apps/pages").join(page)).unwrap();
    let [listener, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [here, there] = [&listener, &other].map(|listener| listener.local_addr().unwrap());
    let (sender, results) = mpsc::channel();
    let html: Arc<str> = html(&script, api, there).into();
    for listener in [listener, other] {
        let (html, sender) = (Arc::clone(&html), sender.clone());
        thread::spawn(move || serve(&listener, &html, &sender));
    }
    let _browser = Browser::open(&format!("http://{here}/"), flags);
    let result = results.recv_timeout(PATIENCE).expect("the page sends its result");
    serde_json::from_str(&result).unwrap()
}

fn html(script: &str, api: &str, other: SocketAddr) -> String {
    format!(
        "<!doctype html><script>
        const api = '{api}';
        const other = 'http://{other}';
        {script}
        test().catch((error) => ({{ error: String(error) }})).then((result) =>
          fetch('/result', {{ method: 'POST', body: JSON.stringify(result) }}));
        </script>"
    )
}

fn serve(listener: &TcpListener, html: &str, results: &Sender<String>) {
    for stream in listener.incoming().map_while(Result::ok) {
        let (html, results) = (html.to_owned(), results.clone());
        // A browser opens connections on which it sends nothing.
        thread::spawn(move || answer(stream, &html, &results));
    }
}

fn answer(stream: TcpStream, html: &str, results: &Sender<String>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let line = read_line(&mut stream).ok()?;
    let fields = read_fields(&mut stream).ok()?;
    let length = fields.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let body = read_exactly(&mut stream, length.parse().ok()?).ok()?;
    let page = match line.split(' ').nth(1)? {
        "/" => html,
        "/frame" => FRAME,
        "/result" => {
            let _ = results.send(String::from_utf8_lossy(&body).into_owned());
            ""
        }
        _ => "",
    };
    let head = format!("content-type: text/html\r\ncontent-length: {}\r\nconnection: close", page.len());
    write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{page}").ok()
}

struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(url: &str, flags: &[&str]) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let mut command = command(std::env::var("LARDER_TEST_CHROMIUM").unwrap_or("chromium".to_owned()));
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--disable-dev-shm-usage", "--no-proxy-server"]);
        command.args(flags);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
        command.env("HOME", profile.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("chromium: {error}"));
        Browser { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

//! A recipe: its application as processes of its own, with or without Larder in front.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use crate::packages::{command, root};
use crate::support::{Larder, Plan, eventually_some, larder};

/// One of `examples/recipes`.
#[derive(Clone, Copy)]
pub struct Recipe {
    /// Its directory.
    pub name: &'static str,
    /// What its README says to run first.
    pub prepare: &'static [&'static str],
    /// What its README says to run. The application prints its address.
    pub run: &'static [&'static str],
    /// Further arguments that let it listen on any free port of 127.0.0.1, where `PORT=0` does not.
    pub any_port: &'static [&'static str],
}

/// A running application, in a copy of the recipe's directory.
pub struct App {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    pub dir: TempDir,
    child: Child,
    output: Arc<Mutex<String>>,
}

/// A running application with Larder in front of it.
pub struct Served {
    pub larder: Larder,
    pub app: App,
}

impl Recipe {
    pub fn directory(&self) -> PathBuf {
        root().join("examples/recipes").join(self.name)
    }

    pub fn rules(&self) -> String {
        std::fs::read_to_string(self.directory().join("rules.toml")).unwrap()
    }

    /// Starts the application alone, and waits until it listens.
    #[track_caller]
    pub fn alone(&self) -> App {
        let dir = tempfile::tempdir().unwrap();
        copy(&self.directory(), dir.path());
        if let [program, arguments @ ..] = self.prepare {
            let output = command(program).args(arguments).current_dir(&dir).output().unwrap();
            assert!(output.status.success(), "{:?}: {output:?}", self.prepare);
        }
        let mut child = self.start(dir.path());
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        let mut app = App { url: String::new(), dir, child, output };
        app.url = eventually_some("the application listens", || app.says_where());
        app
    }

    /// Starts the application with Larder in front of it, by the recipe's rules.
    #[track_caller]
    pub fn behind_larder(&self) -> Served {
        self.behind_larder_with(&self.rules())
    }

    #[track_caller]
    pub fn behind_larder_with(&self, rules: &str) -> Served {
        let app = self.alone();
        Served { larder: Plan::new(&app.url).rules(rules).start(), app }
    }

    /// Requires that `larder check` has nothing to say against the rules.
    #[track_caller]
    pub fn rules_are_good(&self) {
        let exit = larder(Some(&self.rules()), &["check", "rules.toml"]);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(!format!("{}{}", exit.stdout, exit.stderr).contains("warning"), "{exit:?}");
    }

    fn start(&self, dir: &Path) -> Child {
        let mut command = command(self.run[0]);
        command.args(&self.run[1..]).args(self.any_port).current_dir(dir).env("PORT", "0").env("HOME", dir);
        // A group of its own: servers with workers end as a whole.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.run))
    }
}

impl Served {
    pub fn url(&self) -> String {
        format!("http://{}", self.larder.address)
    }
}

impl App {
    fn says_where(&mut self) -> Option<String> {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the application has ended ({status}):\n{}", self.output.lock().unwrap());
        }
        let output = self.output.lock().unwrap();
        let (_, rest) = output.split_once("http://127.0.0.1:")?;
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        // Digits may still be to come.
        rest[port.len()..].chars().next().map(|_| format!("http://127.0.0.1:{port}"))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).status();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the application's output:\n{}", self.output.lock().unwrap());
        }
    }
}

fn collect(from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => {
                std::fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            }
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

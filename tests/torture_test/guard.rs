//! No process outlives the test, however the test ends: a shell waits for the end of a pipe that only the test holds,
//! and kills whatever is still on its list. It is in a group of its own, so that Ctrl-C does not end it first; and it
//! ends processes that are stopped, which other signals would not.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Reads `+ id` and `- id`; at the end kills what was added and not taken away.
const SCRIPT: &str = r#"
living=" "
while read -r what id; do
  case $what in
    +) living="$living$id " ;;
    -) living="${living%% $id *} ${living#* $id }" ;;
  esac
done
for id in $living; do kill -s KILL "$id"; done
"#;

/// Dropped, it kills what is left.
pub struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    pub fn start() -> Guard {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).process_group(0);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pipe = shell.stdin.take();
        Guard { shell, pipe }
    }

    /// This process must not outlive the test.
    pub fn watch(&mut self, id: u32) {
        self.say("+", id);
    }

    /// It has ended and was waited for: its id may soon be another's.
    pub fn release(&mut self, id: u32) {
        self.say("-", id);
    }

    fn say(&mut self, what: &str, id: u32) {
        let pipe = self.pipe.as_mut().expect("taken only when dropped");
        writeln!(pipe, "{what} {id}").expect("the shell reads until the pipe ends");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe.take();
        let _ = self.shell.wait();
    }
}

#[test]
fn watched_processes_end_with_the_guard_and_released_ones_do_not() {
    let sleep = || Command::new("sleep").arg("600").spawn().unwrap();
    let (mut watched, mut released, mut also) = (sleep(), sleep(), sleep());
    let mut guard = Guard::start();
    [&watched, &released, &also].iter().for_each(|process| guard.watch(process.id()));
    guard.release(released.id());
    drop(guard);
    assert!(!watched.wait().unwrap().success());
    assert!(!also.wait().unwrap().success());
    assert!(released.try_wait().unwrap().is_none(), "it still runs");
    released.kill().unwrap();
    released.wait().unwrap();
}

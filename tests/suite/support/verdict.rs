//! How Larder treats a response: a target is read twice, and the second response shows it.

use super::site::Site;
use super::upstream::Reply;

/// What became of a response.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    /// Served again without upstream, and fresh for about this many seconds more.
    Fresh(i64),
    /// Served again without upstream although stale.
    Stale,
    /// Fetched again, with its validators.
    Validated,
    /// Fetched again, without validators.
    Fetched,
}

/// Seconds that may pass between two requests of a test on a busy machine. Lifetimes that a test distinguishes differ by more.
const SLACK: i64 = 60;

impl Verdict {
    fn agrees(self, found: Verdict) -> bool {
        match (self, found) {
            (Verdict::Fresh(expected), Verdict::Fresh(ttl)) => (expected - SLACK..=expected).contains(&ttl),
            (expected, found) => std::mem::discriminant(&expected) == std::mem::discriminant(&found),
        }
    }
}

/// A message as it goes over the wire: the status (`"200 OK"`), then these field lines, one a line, then `ok`. No
/// field is added but those that end the message.
pub fn message(status: &str, fields: &str) -> Reply {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for line in fields.lines() {
        head += &format!("{line}\r\n");
    }
    let ending = match &status[..3] {
        "204" | "304" => "Connection: close\r\n\r\n",
        _ => "Connection: close\r\nContent-Length: 2\r\n\r\nok",
    };
    Reply::raw(head + ending)
}

impl Site {
    /// Reads this target twice.
    #[track_caller]
    pub fn verdict(&self, target: &str) -> Verdict {
        self.get(target);
        self.second(target)
    }

    /// Reads it once more.
    #[track_caller]
    fn second(&self, target: &str) -> Verdict {
        let second = self.get(target);
        if second.is("hit") {
            let ttl = second.ttl();
            return if ttl > 0 { Verdict::Fresh(ttl) } else { Verdict::Stale };
        }
        let request = self.upstream.last(&format!("GET {target}"));
        let is_conditional =
            ["if-none-match", "if-modified-since"].iter().any(|name| request.header(name).is_some());
        if is_conditional { Verdict::Validated } else { Verdict::Fetched }
    }

    /// Requires of each of these replies what is made of it. Each is answered at a path of its own below `prefix`.
    #[track_caller]
    pub fn judges<S: AsRef<str>>(&self, prefix: &str, rows: impl IntoIterator<Item = (S, Reply, Verdict)>) {
        for (index, (row, reply, expected)) in rows.into_iter().enumerate() {
            let target = format!("{prefix}/{index}");
            self.upstream.on(&format!("GET {target}"), reply);
            let found = self.verdict(&target);
            let row = row.as_ref();
            assert!(expected.agrees(found), "{row:?} at {target}: expected {expected:?}, found {found:?}");
        }
    }

    /// The same for responses of status 200, each row being the field lines.
    #[track_caller]
    pub fn judges_fields<S: AsRef<str>>(&self, prefix: &str, rows: &[(S, Verdict)]) {
        let reply = |fields: &S| message("200 OK", fields.as_ref());
        self.judges(prefix, rows.iter().map(|(fields, verdict)| (fields, reply(fields), *verdict)));
    }
}

//! Renders an explanation as text.

use std::fmt::{Result, Write as _};
use std::time::Duration;

use super::{Explanation, Read, Write};
use crate::proxy::explain::{
    Allowance, DecisionExplanation, ResponseExplanation, ReuseTerms, RouteExplanation, StoredExplanation,
    StoredResponse,
};

impl Explanation {
    /// The explanation as text.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Explanation::Read(read) => read.print(&mut out),
            Explanation::Stored(stored) => stored.print(&mut out),
            Explanation::Write(write) => write.print(&mut out),
            Explanation::Pass { method, reason } => writeln!(out, "{method}: {reason}"),
        };
        out
    }
}

fn line(out: &mut String, name: &str, value: &str) -> Result {
    let mut lines = value.lines();
    writeln!(out, "{name:<12} {}", lines.next().unwrap_or("-"))?;
    lines.try_for_each(|rest| writeln!(out, "{:<12} {rest}", ""))
}

fn list(out: &mut String, name: &str, values: &[String]) -> Result {
    line(out, name, &if values.is_empty() { "-".to_owned() } else { values.join("\n") })
}

fn list_if_any(out: &mut String, name: &str, values: &[String]) -> Result {
    if values.is_empty() { Ok(()) } else { list(out, name, values) }
}

fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

impl RouteExplanation {
    fn print(&self, out: &mut String) -> Result {
        line(out, "request", &format!("{} {}", self.method, self.path))?;
        let none = "none: plain RFC 9111";
        line(out, "family", self.family.as_deref().unwrap_or(none))?;
        if let Some(rule) = &self.rule {
            line(out, "rule", rule)?;
        }
        list_if_any(out, "instance", &self.instance)?;
        line(out, "key", &self.key)?;
        line(out, "key text", &self.key_text)?;
        line(out, "in Redis", &self.store_key)?;
        line(out, "fresh for", &self.ttl)?;
        list(out, "tags", &self.tags)?;
        list(out, "invalidated by", &self.invalidated_by)?;
        list(out, "note", &self.notes)
    }
}

impl Read {
    fn print(&self, out: &mut String) -> Result {
        self.claim.print(out)?;
        match &self.answer {
            Some(answer) => {
                writeln!(out)?;
                answer.print(out)
            }
            None => Ok(()),
        }
    }
}

impl ResponseExplanation {
    fn print(&self, out: &mut String) -> Result {
        line(out, "answer", &self.status.to_string())?;
        match &self.reason {
            Some(reason) => line(out, "stored", &format!("no: {} [{reason}]", self.because))?,
            None => line(out, "stored", &format!("yes: {}", self.because))?,
        }
        if let Some(what_to_do) = &self.what_to_do {
            line(out, "what to do", what_to_do)?;
        }
        line(out, "decided by", &self.decided_by)?;
        list_if_any(out, "varies on", &self.varies_on)?;
        list_if_any(out, "withheld", &self.withheld)?;
        list_if_any(out, "groups", &self.groups)?;
        if let Some(terms) = &self.terms {
            terms.print(out)?;
        }
        if let Some(kept_for) = self.kept_for {
            line(out, "stored for", &time(kept_for))?;
        }
        match &self.then {
            Some(then) => then.print(out, &format!("after {}", time(self.after))),
            None => Ok(()),
        }
    }
}

impl ReuseTerms {
    fn print(&self, out: &mut String) -> Result {
        let left = self.lifetime.saturating_sub(self.initial_age);
        let fresh = match self.initial_age {
            0 => time(left),
            age => {
                format!("{} ({} less the {} of age that it came with)", time(left), time(self.lifetime), time(age))
            }
        };
        line(out, "fresh for", &format!("{fresh}: {}", self.lifetime_from))?;
        line(out, "credentials", &self.credentials)?;
        list(out, "if stale", &self.staleness())?;
        match self.validated_with.is_empty() {
            true => line(out, "validation", "not possible: it has no ETag or Last-Modified (RFC 9111 §4.3.1)"),
            false => list(out, "validation", &self.validated_with),
        }
    }

    fn staleness(&self) -> Vec<String> {
        let allowed = |Allowance { seconds, because }: &Allowance| match seconds {
            0 => format!("no ({because})"),
            _ => format!("for {} ({because})", time(*seconds)),
        };
        let cases = [
            ("while it is revalidated", &self.stale_while_revalidate),
            ("when upstream answers 500, 502, 503 or 504", &self.stale_if_error),
            ("when upstream gives no answer", &self.stale_if_unreachable),
        ];
        let never = &self.stale_while_revalidate;
        if cases.iter().all(|(_, allowance)| allowance.seconds == 0 && allowance.because == never.because) {
            return vec![format!("never served: {}", never.because)];
        }
        cases.map(|(when, allowance)| format!("served {when}: {}", allowed(allowance))).into()
    }
}

impl DecisionExplanation {
    fn print(&self, out: &mut String, name: &str) -> Result {
        let ttl = self.ttl.map(|ttl| format!(" [ttl={ttl}]")).unwrap_or_default();
        line(out, name, &format!("{}: {}{ttl}", self.does.label(), self.because))
    }
}

impl StoredExplanation {
    fn print(&self, out: &mut String) -> Result {
        self.claim.print(out)?;
        writeln!(out)?;
        line(out, "found", &self.found)?;
        if let Some(left) = self.grace_left {
            line(out, "grace", &format!("{left:.1} s left"))?;
        }
        line(out, "in memory", &self.in_memory)?;
        line(out, "in Redis", &self.in_store)?;
        list_if_any(out, "varies on", &self.varies_on)?;
        list_if_any(out, "variants", &self.variants)?;
        for mark in &self.invalidated_since {
            line(out, "invalidated", &format!("{}: {}", mark.tag, mark.by))?;
        }
        if let Some(stored) = &self.stored {
            stored.print(out)?;
        }
        if let Some(authorization) = &self.authorization {
            line(out, "check", &authorization.check)?;
            let left = authorization.ttl.map(|ttl| format!(" [ttl={ttl}]")).unwrap_or_default();
            line(out, "verdict", &format!("{}{left}", authorization.verdict))?;
        }
        self.now.print(out, "now")
    }
}

impl StoredResponse {
    fn print(&self, out: &mut String) -> Result {
        line(out, "response", &format!("{}, {} bytes", self.status, self.length))?;
        line(out, "age", &time(self.age))?;
        line(out, "ttl", &self.ttl.to_string())?;
        list(out, "its tags", &self.tags)?;
        self.terms.print(out)
    }
}

impl Write {
    fn print(&self, out: &mut String) -> Result {
        line(out, "request", &format!("{} {}", self.method, self.path))?;
        for rule in &self.rules {
            let on: Vec<String> = rule.on.iter().map(|(from, to)| format!("{from}-{to}")).collect();
            line(out, "rule", &format!("{} (line {})", rule.path, rule.line))?;
            line(out, "  on", &on.join(", "))?;
            line(out, "  how", &rule.how)?;
            list(out, "  invalidates", &rule.invalidates)?;
        }
        line(
            out,
            "target",
            &format!("{} (always, on 2xx and 3xx, RFC 9111 §4.4; and on 404, 409, 410 and 412)", self.target),
        )?;
        list(out, "note", &self.notes)
    }
}

//! Faults in a rules file: each says where, what, and what to do.

use std::fmt;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// File name as given; `-` for no file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line's text.
    pub excerpt: String,
    /// Length of the offending text in characters, at least 1.
    pub length: usize,
    /// What is wrong: `family "users": unknown key "tll"`.
    pub message: String,
    /// What to do: `did you mean "ttl"?`
    pub remedy: String,
}

/// All faults of a file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.message, self.remedy)
    }
}

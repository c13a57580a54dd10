//! Why a reference is invalid, with the remedy.

use super::super::nearest::{did_you_mean, listing, nearest};
use super::super::source::KINDS;
use super::names::FamilyNames;

/// Why a reference is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceFault {
    /// No family, level or glob matches.
    Unknown { message: String, remedy: String },
    /// It names a family, but not an instance that the family can have.
    Instance { message: String, remedy: String },
    /// It names an instance with a value that the family's path cannot have there, or with a value where only the caller
    /// is known.
    Value { message: String, remedy: String },
    /// The write path has no such capture.
    Capture { message: String, remedy: String },
}

/// A family or instance in an operator's request that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFamily {
    /// As requested.
    pub reference: String,
    /// The most similar names, best first.
    pub nearest: Vec<String>,
    /// All names, for the message.
    pub(super) have: String,
    /// Message and remedy, if the family exists but the instance cannot.
    pub instance: Option<(String, String)>,
}

impl std::error::Error for UnknownFamily {}

impl std::fmt::Display for UnknownFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((message, remedy)) = &self.instance {
            return write!(f, "{message}: {remedy}");
        }
        let near: Vec<&str> = self.nearest.iter().map(String::as_str).collect();
        let remedy = did_you_mean(&near, || format!("families here: {}", self.have));
        write!(f, "unknown family {:?}: {remedy}", self.reference)
    }
}

/// The fault of a part that is neither a capture nor another source.
pub(super) fn no_source(source: &str, have: &[&str]) -> ReferenceFault {
    let Some((kind, name)) = source.split_once('.') else { return no_capture(source, have) };
    let message = format!("{{{source}}} names no value of a write");
    let known = KINDS.contains(&kind);
    let remedy = match (known, nearest(kind, KINDS).first()) {
        (false, Some(near)) => format!("did you mean {{{near}.{name}}}?"),
        (true, _) => "write query.NAME, header.NAME, body.NAME or response.NAME, without an empty name".to_owned(),
        (false, None) => format!("write one of {}, with a name after the dot, or a capture", listing(KINDS)),
    };
    ReferenceFault::Instance { message, remedy }
}

fn no_capture(name: &str, have: &[&str]) -> ReferenceFault {
    let message = format!("{{{name}}} is not a capture of the path");
    let remedy = match have {
        [] => format!("the path has no named captures: write (?<{name}>…) in it, or name the whole family"),
        _ => did_you_mean(&nearest(name, have.iter().copied()), || {
            format!("the path has {}", listing(have.iter().copied()))
        }),
    };
    ReferenceFault::Capture { message, remedy }
}

pub(super) fn unknown(text: &str, names: &FamilyNames) -> ReferenceFault {
    let message = if text.contains('*') {
        format!("{text:?} fits no family (a glob fits names, not instances)")
    } else {
        format!("unknown family {text:?}")
    };
    let bare = text.split('{').next().unwrap_or(text).trim_end_matches(':').replace('*', "");
    let near = names.nearest(&bare);
    let near: Vec<&str> = near.iter().map(String::as_str).collect();
    let remedy = did_you_mean(&near, || format!("families here: {}", listing(names.all())));
    ReferenceFault::Unknown { message, remedy }
}

pub(super) fn too_long(family: &str, instance: &str) -> ReferenceFault {
    let message = format!("the value of {instance:?} of {family:?} is too long to be compared with a claim");
    ReferenceFault::Value { message, remedy: format!("write {family:?} for all of the family") }
}

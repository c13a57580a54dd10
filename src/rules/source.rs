//! Where the values of instances come from: for reads the query, a field or the caller (`instance` of a family), for
//! writes also their content and their response (`{body.user_id}` in a reference).
//!
//! Servers read queries differently. A request names every value that some server may read in it: a read is then invalidated
//! by more writes, and a write invalidates more entries, but a write never misses the entry of the value that both mean. The
//! spellings of one number are one value ([`instance::value`]), also in the captures of paths.

use std::fmt;

use http::{HeaderMap, HeaderName};

use super::content::RuleContent;
use super::instance;
use super::unresolved::Unresolved;
use crate::http::headers::credentials::is_in_table;
use crate::http::headers::{Credentials, field_name};
use crate::http::target::{self, PathCase};
use crate::key::{self, Callers, Identity, PresentedCredentials, query};
use crate::secret::Secret;

/// Most values of one instance in one request.
const VALUES: usize = 100;

/// Where a family takes the value of an instance from in a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadSource {
    /// The query parameter with this name.
    Query(String),
    /// This request field.
    Header(HeaderName),
    /// The caller, as the family's `identity` says.
    Identity,
}

/// An instance of a family beside the captures of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FurtherInstance {
    /// Its name in references.
    pub name: String,
    /// Where its value comes from.
    pub source: ReadSource,
}

impl fmt::Display for ReadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadSource::Query(name) => write!(f, "query:{name}"),
            ReadSource::Header(name) => write!(f, "header:{name}"),
            ReadSource::Identity => f.write_str("identity"),
        }
    }
}

/// Why a text is no [`ReadSource`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadSourceFault {
    /// It is not written like one.
    Syntax,
    /// The field has credentials, which do not belong in tags.
    Credentials(HeaderName),
}

impl ReadSource {
    /// Reads `query:NAME`, `header:NAME` or `identity`.
    pub fn parse(text: &str) -> Result<ReadSource, ReadSourceFault> {
        match text.split_once(':') {
            None if text == "identity" => Ok(ReadSource::Identity),
            Some(("query", name)) if !name.is_empty() => Ok(ReadSource::Query(name.to_owned())),
            Some(("header", name)) => {
                let name = field_name(name).map_err(|_| ReadSourceFault::Syntax)?;
                if is_in_table(&name) {
                    Err(ReadSourceFault::Credentials(name))
                } else {
                    Ok(ReadSource::Header(name))
                }
            }
            _ => Err(ReadSourceFault::Syntax),
        }
    }

    /// The field that it reads.
    pub fn field(&self) -> Option<&HeaderName> {
        match self {
            ReadSource::Header(name) => Some(name),
            ReadSource::Query(_) | ReadSource::Identity => None,
        }
    }

    /// The values in a read, as written in tags; none if it has none. `None`: more than a stored response may have.
    pub fn values(
        &self,
        query: Option<&str>,
        (identity, caller): (&Identity, CallerIdentity<'_>),
        case: PathCase,
    ) -> Option<Vec<String>> {
        let fields = caller.fields();
        let found = match self {
            ReadSource::Query(name) => of_query(query, name, case),
            ReadSource::Header(name) => {
                fields.map_or(Err(Unresolved::Missing), |fields| of_field(fields, name, case))
            }
            ReadSource::Identity => of_caller(identity, caller),
        };
        match found {
            Ok(values) => Some(values),
            Err(Unresolved::TooMany) => None,
            Err(_) => Some(Vec::new()),
        }
    }
}

/// Where a reference takes the value of an instance from in a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteSource {
    /// The capture of the write path with this name.
    Capture(String),
    /// The query parameter with this name.
    Query(String),
    /// This request field.
    Header(HeaderName),
    /// The caller, as this identity of the family says.
    Identity(Identity),
    /// The value at this place in the content of the request.
    Body(Vec<String>),
    /// The value at this place in the content of the response.
    Response(Vec<String>),
}

impl fmt::Display for WriteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteSource::Capture(name) => f.write_str(name),
            WriteSource::Query(name) => write!(f, "query.{name}"),
            WriteSource::Header(name) => write!(f, "header.{name}"),
            WriteSource::Identity(_) => f.write_str("identity"),
            WriteSource::Body(place) => write!(f, "body.{}", place.join(".")),
            WriteSource::Response(place) => write!(f, "response.{}", place.join(".")),
        }
    }
}

/// The kinds of sources with a name after a dot.
pub const KINDS: [&str; 4] = ["query", "header", "body", "response"];

impl WriteSource {
    /// Reads `query.NAME`, `header.NAME`, `body.PLACE` or `response.PLACE`; `None` for anything else.
    pub fn parse(text: &str) -> Option<WriteSource> {
        let (kind, name) = text.split_once('.')?;
        let place = || -> Option<Vec<String>> {
            let place: Vec<String> = name.split('.').map(str::to_owned).collect();
            (!place.iter().any(String::is_empty)).then_some(place)
        };
        match kind {
            "query" if !name.is_empty() => Some(WriteSource::Query(name.to_owned())),
            "header" => field_name(name).ok().map(WriteSource::Header),
            "body" => place().map(WriteSource::Body),
            "response" => place().map(WriteSource::Response),
            _ => None,
        }
    }

    /// The instance that it is the value of, if the reference names no other.
    pub fn name(&self) -> &str {
        match self {
            WriteSource::Capture(name) | WriteSource::Query(name) => name,
            WriteSource::Header(name) => name.as_str(),
            WriteSource::Identity(_) => "identity",
            WriteSource::Body(place) | WriteSource::Response(place) => place.last().map_or("", String::as_str),
        }
    }

    /// The values in a write, as written in tags: at least one.
    pub fn values<'v>(
        &self,
        capture: &dyn Fn(&str) -> Option<&'v str>,
        write: WriteValues<'_>,
        case: PathCase,
    ) -> Result<Vec<String>, Unresolved> {
        match self {
            WriteSource::Capture(name) => {
                let raw = capture(name).ok_or(Unresolved::NoCapture)?;
                Ok(vec![instance::value(raw).into_owned()])
            }
            WriteSource::Query(name) => of_query(write.query, name, case),
            WriteSource::Header(name) => {
                write.caller.fields().map_or(Err(Unresolved::Missing), |fields| of_field(fields, name, case))
            }
            WriteSource::Identity(identity) => of_caller(identity, write.caller),
            WriteSource::Body(place) => of_content(write.content, place, case),
            WriteSource::Response(place) => of_content(write.response, place, case),
        }
    }
}

/// The caller of a write, used to resolve `{identity}`.
#[derive(Debug, Clone, Copy)]
pub enum CallerIdentity<'c> {
    /// Identified by the credentials that it presents. `secret` keys the HMACs that replace credentials.
    /// `credentials` says which fields carry credentials.
    Known { presented: PresentedCredentials<'c>, secret: Option<&'c Secret>, credentials: &'c Credentials },
    /// Unknown: a write by any caller.
    Unknown,
}

impl<'c> CallerIdentity<'c> {
    /// The fields of the request, if they are known.
    pub fn fields(self) -> Option<&'c HeaderMap> {
        match self {
            CallerIdentity::Known { presented, .. } => Some(presented.fields),
            CallerIdentity::Unknown => None,
        }
    }
}

/// What references take values from in a write, beside its path.
#[derive(Debug, Clone, Copy)]
pub struct WriteValues<'w> {
    /// The caller and the fields.
    pub caller: CallerIdentity<'w>,
    /// The query of its target.
    pub query: Option<&'w str>,
    /// The content of the request.
    pub content: &'w RuleContent,
    /// The content of the response.
    pub response: &'w RuleContent,
}

impl WriteValues<'_> {
    /// Nothing is known.
    pub const UNKNOWN: WriteValues<'static> = WriteValues {
        caller: CallerIdentity::Unknown,
        query: None,
        content: &RuleContent::Unreadable(Unresolved::NotReceived),
        response: &RuleContent::Unreadable(Unresolved::NotReceived),
    };
}

/// All of the caller's credentials, since a write may have any of them.
fn of_caller(identity: &Identity, caller: CallerIdentity<'_>) -> Result<Vec<String>, Unresolved> {
    let CallerIdentity::Known { presented, secret, .. } = caller else { return Err(Unresolved::Missing) };
    match key::callers(identity, presented, secret) {
        Callers::Known(callers) if !callers.is_empty() => {
            Ok(callers.iter().map(|caller| instance::decoded_value(caller.as_bytes())).collect())
        }
        Callers::Known(_) | Callers::Unverified => Err(Unresolved::Missing),
    }
}

fn of_query(query: Option<&str>, name: &str, case: PathCase) -> Result<Vec<String>, Unresolved> {
    in_tags(query::values(query.unwrap_or(""), name), case)
}

/// The lines of a field are one value, of which servers may take any line.
fn of_field(fields: &HeaderMap, name: &HeaderName, case: PathCase) -> Result<Vec<String>, Unresolved> {
    let lines: Vec<Vec<u8>> = fields.get_all(name).iter().map(|line| line.as_bytes().to_vec()).collect();
    let joined = (lines.len() > 1).then(|| lines.join(&b", "[..]));
    in_tags(lines.into_iter().chain(joined), case)
}

fn of_content(content: &RuleContent, place: &[String], case: PathCase) -> Result<Vec<String>, Unresolved> {
    in_tags(content.values(place)?.into_iter().map(String::into_bytes), case)
}

/// The values as written in tags, without duplicates.
fn in_tags(values: impl IntoIterator<Item = Vec<u8>>, case: PathCase) -> Result<Vec<String>, Unresolved> {
    let mut found: Vec<String> = Vec::new();
    for value in values {
        let value = in_tag(&value, case);
        if !found.contains(&value) {
            found.push(value);
        }
        if found.len() > VALUES {
            return Err(Unresolved::TooMany);
        }
    }
    if found.is_empty() { Err(Unresolved::Missing) } else { Ok(found) }
}

/// A value in the form that a capture of a path gives it.
fn in_tag(value: &[u8], case: PathCase) -> String {
    match case {
        PathCase::Sensitive => instance::decoded_value(value),
        PathCase::Insensitive => instance::value(&case.fold(encoded(value, target::is_unreserved))).into_owned(),
    }
}

/// The percent-encoded form of bytes.
pub(super) fn encoded(bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> String {
    bytes.iter().fold(String::new(), |text, byte| match is_plain(*byte) {
        true => text + &char::from(*byte).to_string(),
        false => text + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_every_value_that_a_server_may_read_in_it() {
        let rows: [(&str, &[&str]); 10] = [
            ("date=a&date=b", &["a", "b"]),
            ("x=1&date=a+b", &["a%20b", "a+b"]),
            ("date=a%20b", &["a%20b"]),
            ("DATE=a&date[]=b", &["a", "b"]),
            ("date=a;b=1", &["a", "a;b=1"]),
            ("date", &[""]),
            ("d%61te=a%2525", &["a%2525"]),
            ("date=042", &["42"]),
            ("date=%zz", &["%25zz"]),
            ("date=x%3Ay*", &["x%3Ay%2A"]),
        ];
        for (query, expected) in rows {
            let mut found = of_query(Some(query), "date", PathCase::Sensitive).unwrap();
            found.sort();
            assert_eq!(found, expected, "{query}");
        }
        for without in [None, Some(""), Some("dates=1"), Some("x=date")] {
            let found = of_query(without, "date", PathCase::Sensitive);
            assert_eq!(found, Err(Unresolved::Missing), "{without:?}");
        }
        let many: Vec<String> = (0..=VALUES).map(|value| format!("date={value}")).collect();
        let many = of_query(Some(&many.join("&")), "date", PathCase::Sensitive);
        assert_eq!(many, Err(Unresolved::TooMany));
        let folded = of_query(Some("date=J%C3%96RG"), "date", PathCase::Insensitive).unwrap();
        assert_eq!(folded, of_query(Some("date=j%c3%96rg"), "date", PathCase::Insensitive).unwrap());
    }
}

//! The values in the content of a write, or of its response: JSON, `application/x-www-form-urlencoded` or
//! `multipart/form-data`.
//!
//! Servers differ in which of two equal keys they take, and in whether case counts. All that match give values. What cannot
//! be read for certain gives none, and a reason: the write then invalidates the whole family.

use std::fmt;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::unresolved::Unresolved;
use crate::http::target::percent_decoded;

mod multipart;

/// Most values at one place.
const VALUES: usize = 100;

/// Integers up to here are exact in every JSON library (RFC 8259 §6).
const EXACT: u64 = 1 << 53;

/// A place in content, from the outermost step: `user`, `id`.
pub type ContentPlace = Vec<String>;

/// The values at one place: at least one.
pub type ValuesAt = Result<Vec<String>, Unresolved>;

/// What is known of content: the values at the places that rules name. The content itself is not held.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleContent {
    Values(Vec<(ContentPlace, ValuesAt)>),
    Unreadable(Unresolved),
}

/// Content as parsed.
enum Parsed {
    Json(Json),
    /// The fields of a form: name and value. A file has no value.
    Form(FormFields),
}

/// A JSON text with all of its keys, also equal ones.
enum Json {
    /// A string or a number.
    Scalar(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// `null`, a boolean, or a number that servers may read differently.
    Other,
}

/// The kinds of content that are read.
enum ContentKind {
    Json,
    Form,
    /// Its boundary.
    Multipart(String),
}

impl RuleContent {
    /// Reads the values at these places in whole content. `fields`: of its message. In JSON, a step into a list is a number,
    /// or else goes into all of its elements. In a form `user[id]` and `user.id` are the place `user`, `id`.
    pub fn read(fields: &HeaderMap, bytes: &[u8], places: &[ContentPlace]) -> RuleContent {
        if bytes.is_empty() {
            return RuleContent::Unreadable(Unresolved::NoContent);
        }
        let read = kind(fields).and_then(|kind| match kind {
            ContentKind::Json => {
                serde_json::from_slice(bytes).map(Parsed::Json).map_err(|_| Unresolved::Malformed)
            }
            ContentKind::Form => form(bytes).map(Parsed::Form),
            ContentKind::Multipart(boundary) => multipart::read(bytes, &boundary).map(Parsed::Form),
        });
        match read {
            Ok(parsed) => {
                RuleContent::Values(places.iter().map(|place| (place.clone(), parsed.values(place))).collect())
            }
            Err(why) => RuleContent::Unreadable(why),
        }
    }

    /// Why content with these fields is not read, whatever it is.
    pub fn unreadable(fields: &HeaderMap) -> Option<Unresolved> {
        kind(fields).err()
    }

    /// The values at a place.
    pub fn values(&self, place: &[String]) -> ValuesAt {
        match self {
            RuleContent::Unreadable(why) => Err(*why),
            // Of a place that only newer rules name nothing is known.
            RuleContent::Values(known) => {
                let known = known.iter().find(|(known, _)| known == place);
                known.map_or(Err(Unresolved::NotReceived), |(_, values)| values.clone())
            }
        }
    }
}

impl Parsed {
    fn values(&self, place: &[String]) -> ValuesAt {
        let mut found = Vec::new();
        match self {
            Parsed::Json(json) => json.collect(place, &mut found)?,
            Parsed::Form(fields) => {
                for (_, value) in fields.iter().filter(|(name, _)| is_at(name, place)) {
                    found.push(value.clone().ok_or(Unresolved::WrongType)?);
                }
            }
        }
        match found.len() {
            0 => Err(Unresolved::Missing),
            1..=VALUES => Ok(found),
            _ => Err(Unresolved::TooMany),
        }
    }
}

fn kind(fields: &HeaderMap) -> Result<ContentKind, Unresolved> {
    let is_identity = |line: &http::HeaderValue| line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !fields.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        return Err(Unresolved::Compressed);
    }
    let mut lines = fields.get_all(CONTENT_TYPE).iter();
    // Of two lines servers may take either.
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(Unresolved::OtherType) };
    let line = line.to_str().map_err(|_| Unresolved::OtherType)?;
    let (essence, parameters) = line.split_once(';').unwrap_or((line, ""));
    let essence = essence.trim().to_ascii_lowercase();
    if essence == "multipart/form-data" {
        return multipart::boundary(parameters).map(ContentKind::Multipart).ok_or(Unresolved::Malformed);
    }
    let is_utf8 = parameters.split(';').all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        !name.trim().eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
    });
    match &*essence {
        _ if !is_utf8 => Err(Unresolved::OtherType),
        "application/x-www-form-urlencoded" => Ok(ContentKind::Form),
        "application/json" | "text/json" => Ok(ContentKind::Json),
        json if json.ends_with("+json") => Ok(ContentKind::Json),
        _ => Err(Unresolved::OtherType),
    }
}

impl Json {
    fn collect(&self, place: &[String], found: &mut Vec<String>) -> Result<(), Unresolved> {
        let Some((step, rest)) = place.split_first() else { return self.scalars(found) };
        match self {
            Json::Object(members) => {
                // Some servers end a text at a NUL.
                let is_step = |key: &str| fold(key.split('\0').next().unwrap_or(key)).eq(fold(step));
                members
                    .iter()
                    .filter(|(key, _)| is_step(key))
                    .try_for_each(|(_, value)| value.collect(rest, found))
            }
            Json::Array(elements) => match step.parse::<usize>() {
                Ok(at) => elements.get(at).map_or(Ok(()), |element| element.collect(rest, found)),
                Err(_) => elements.iter().try_for_each(|element| element.collect_one(place, found)),
            },
            Json::Scalar(_) | Json::Other => Err(Unresolved::WrongType),
        }
    }

    /// Every element of a list must have a value.
    fn collect_one(&self, place: &[String], found: &mut Vec<String>) -> Result<(), Unresolved> {
        let before = found.len();
        self.collect(place, found)?;
        if found.len() == before { Err(Unresolved::Missing) } else { Ok(()) }
    }

    fn scalars(&self, found: &mut Vec<String>) -> Result<(), Unresolved> {
        match self {
            Json::Scalar(text) => found.push(text.clone()),
            Json::Array(elements) => {
                for element in elements {
                    let Json::Scalar(text) = element else { return Err(Unresolved::WrongType) };
                    found.push(text.clone());
                }
            }
            Json::Object(_) | Json::Other => return Err(Unresolved::WrongType),
        }
        Ok(())
    }
}

/// Some servers (Go, .NET) ignore the case of keys, by these rules of Unicode.
fn fold(key: &str) -> impl Iterator<Item = char> {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
        from.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(if number <= EXACT { Json::Scalar(number.to_string()) } else { Json::Other })
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(if number.unsigned_abs() <= EXACT { Json::Scalar(number.to_string()) } else { Json::Other })
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
        // Libraries print fractions and large numbers differently.
        let is_whole = number.fract() == 0.0 && number.abs() <= EXACT as f64;
        Ok(if is_whole { Json::Scalar(format!("{}", number + 0.0)) } else { Json::Other })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Scalar(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = elements.next_element()? {
            all.push(element);
        }
        Ok(Json::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            all.push(member);
        }
        Ok(Json::Object(all))
    }
}

/// The fields of a form.
type FormFields = Vec<(String, Option<String>)>;

fn form(bytes: &[u8]) -> Result<FormFields, Unresolved> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unresolved::Malformed)?;
    let is_encoding = |at: usize| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    // Servers decode a faulty encoding differently, and some split at `;` too.
    if text.contains(';') || text.match_indices('%').any(|(at, _)| !is_encoding(at)) {
        return Err(Unresolved::Malformed);
    }
    let decoded = |text: &str| {
        String::from_utf8(percent_decoded(&text.replace('+', "%20"))).map_err(|_| Unresolved::Malformed)
    };
    let fields = text.split('&').filter(|field| !field.is_empty()).map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        Ok((decoded(name)?, Some(decoded(value)?)))
    });
    fields.collect()
}

/// Whether some server takes the name of a form's field for this place.
fn is_at(name: &str, place: &[String]) -> bool {
    let name = name.split('\0').next().unwrap_or(name);
    let steps = |text: &str| -> Vec<String> {
        let steps = text.split(['[', ']', '.']).map(|step| fold(step.trim()).map(underscored).collect::<String>());
        // `ids[]` is a list of `ids`, and `ids[0]` its first element.
        steps.filter(|step| !step.is_empty() && step.parse::<usize>().is_err()).collect()
    };
    let (name, place) = (steps(name), steps(&place.join(".")));
    // PHP reads `user.id` as `user_id`.
    name == place || name.join("_") == place.join("_")
}

fn underscored(character: char) -> char {
    if character == ' ' { '_' } else { character }
}

#[cfg(test)]
mod tests;

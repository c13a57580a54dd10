//! The bearer token of a request (RFC 6750 §2.1), verified or refused, and the claims by which a family identifies its caller.
//! Pure: [`crate::jwt`] verifies signatures and is told the time.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::words::reasons;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};
use smallvec::SmallVec;

/// Longest token, in bytes.
pub const LONGEST: usize = 16 << 10;

/// What a request's `Authorization` says of its caller.
#[derive(Debug, Clone, Default)]
pub enum BearerToken {
    /// There is no `Authorization`.
    #[default]
    Absent,
    /// There is one, and it does not identify the caller.
    Refused(TokenFault),
    /// A token with a valid signature. Its times must be compared with the clock whenever it is relied on.
    Verified(Arc<VerifiedToken>),
}

/// The claims of a token whose signature, issuer and audience are valid, and the time in which it is valid.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedToken {
    /// The claims set.
    pub claims: Map<String, Value>,
    /// `nbf`, minus the leeway.
    pub begins: Option<SystemTime>,
    /// `exp`, plus the leeway: from then on the token is expired.
    pub ends: Option<SystemTime>,
}

reasons! {
/// Why a request's `Authorization` does not identify its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenFault {
    /// There are several `Authorization` lines, and upstream may read any.
    SeveralFields = "token-several",
        "the request has several Authorization lines, and upstream may read any of them: it is forwarded for \
         itself alone";
    /// Another scheme than `Bearer`, or no single token after it.
    NotBearer = "token-scheme",
        "Authorization holds no bearer token (Bearer, one space, the token; RFC 6750 §2.1), and the family \
         identifies callers by the claims of one: the request is forwarded for itself alone";
    /// Not a signed JWT, or one that says `alg: none` or an unknown algorithm.
    Unreadable = "token-unreadable",
        "the bearer token is not a signed JWT (RFC 7519), or says alg none or an algorithm that Larder does not \
         know: the request is forwarded for itself alone";
    /// No key has been read yet.
    NoKeys = "token-no-keys",
        "there is no key to verify the bearer token with, since the JWKS has not been read (the log says why; \
         larder explain without --admin fetches none): the request is forwarded for itself alone";
    /// No key has the token's `kid`.
    UnknownKey = "token-unknown-key",
        "no key of [jwt] has the kid of the bearer token; a JWKS is read again for such a token, at most every \
         few seconds: the request is forwarded for itself alone";
    /// The key is not for the algorithm that the token names, or `[jwt] algorithms` does not list it.
    Algorithm = "token-algorithm",
        "the bearer token's alg is not that of its key, or not one of [jwt] algorithms: the request is \
         forwarded for itself alone";
    /// The signature is not that of a known key.
    Signature = "token-signature",
        "the bearer token's signature is not that of a key of [jwt]: the request is forwarded for itself alone";
    /// `exp` has passed.
    Expired = "token-expired",
        "the bearer token has expired (exp, RFC 7519 §4.1.4): the request is forwarded for itself alone";
    /// `nbf` has not come.
    NotYetValid = "token-not-yet-valid",
        "the bearer token is not valid yet (nbf, RFC 7519 §4.1.5): the request is forwarded for itself alone";
    /// `exp` is missing, or `exp` or `nbf` is no number.
    Times = "token-times",
        "the bearer token has no exp, or an exp or nbf that is no number (RFC 7519 §2): the request is \
         forwarded for itself alone";
    /// `aud` is missing, or names none of `[jwt] audience`.
    Audience = "token-audience",
        "the bearer token is for another audience than [jwt] audience (aud, RFC 7519 §4.1.3; a token with aud \
         needs that setting): the request is forwarded for itself alone";
    /// `iss` is missing, or is none of `[jwt] issuer`.
    Issuer = "token-issuer",
        "the bearer token is of another issuer than [jwt] issuer (iss, RFC 7519 §4.1.1): the request is \
         forwarded for itself alone";
    /// A claim that identifies the caller is missing, empty, or of a type that identifies nobody.
    Claims = "token-claims",
        "a claim that identifies the caller is missing from the bearer token, empty, or neither text nor a \
         whole number nor a list of at most 32 of these: the request is forwarded for itself alone";
}
}

impl TokenFault {
    /// What to do so that such requests are cached.
    pub fn what_to_do(self) -> &'static str {
        match self {
            TokenFault::SeveralFields => "send one Authorization line",
            TokenFault::NotBearer => {
                "send the JWT as Authorization: Bearer …, or add another identity of these callers to the list"
            }
            TokenFault::Unreadable => "send a JWT signed with a key of [jwt]",
            TokenFault::NoKeys => "make the JWKS readable: the log says what is wrong with it",
            TokenFault::UnknownKey | TokenFault::Signature => {
                "check that [jwt] names the keys of this token's issuer"
            }
            TokenFault::Algorithm => "add the algorithm to [jwt] algorithms, if the key is for it",
            TokenFault::Expired => "send a token that has not expired",
            TokenFault::NotYetValid => "send it later; [jwt] leeway allows for clocks that differ",
            TokenFault::Times => "let the issuer set exp; [jwt] require_exp = false accepts tokens without it",
            TokenFault::Audience => "add the audience of these tokens to [jwt] audience, if it is the API's",
            TokenFault::Issuer => "add the issuer of these tokens to [jwt] issuer, if it is the API's",
            TokenFault::Claims => "let the issuer set the claims, or identify callers by others",
        }
    }
}

impl VerifiedToken {
    /// Why it is not valid at this time.
    pub fn fault_at(&self, now: SystemTime) -> Option<TokenFault> {
        if self.ends.is_some_and(|ends| now >= ends) {
            Some(TokenFault::Expired)
        } else if self.begins.is_some_and(|begins| now < begins) {
            Some(TokenFault::NotYetValid)
        } else {
            None
        }
    }

    /// The callers that these claims identify, each by JSON texts. A single claim that is a list identifies several, one by each of its
    /// elements. A list among several claims is sorted, since issuers may write it in any order.
    ///
    /// # Errors
    ///
    /// [`TokenFault::Claims`] if one identifies nobody.
    pub fn callers(&self, names: &ClaimNames) -> Result<Vec<Vec<String>>, TokenFault> {
        let mut values: Vec<Vec<String>> = self.claims_of(names)?.into_iter().map(texts_of_elements).collect();
        if let [elements] = &mut values[..] {
            return Ok(std::mem::take(elements).into_iter().map(|element| vec![element]).collect());
        }
        Ok(vec![
            values
                .into_iter()
                .flat_map(|elements| [elements.len().to_string()].into_iter().chain(elements))
                .collect(),
        ])
    }

    /// The JSON texts of these claims, in their order.
    ///
    /// # Errors
    ///
    /// [`TokenFault::Claims`] if one identifies nobody.
    pub fn values(&self, names: &ClaimNames) -> Result<Vec<String>, TokenFault> {
        // The type is part of the text: `7` is not `"7"`.
        Ok(self.claims_of(names)?.into_iter().map(Value::to_string).collect())
    }

    fn claims_of(&self, names: &ClaimNames) -> Result<Vec<&Value>, TokenFault> {
        let value = |name: &String| match name.starts_with('/') {
            true => at_pointer(&self.claims, name),
            false => self.claims.get(name),
        };
        let identifying = |name| value(name).filter(|value| is_identifying(value)).ok_or(TokenFault::Claims);
        names.0.iter().map(identifying).collect()
    }
}

/// The JSON texts of a list's elements, sorted and each once, or that of another value.
fn texts_of_elements(value: &Value) -> Vec<String> {
    let mut texts: Vec<String> = match value {
        Value::Array(values) => values.iter().map(Value::to_string).collect(),
        value => vec![value.to_string()],
    };
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Whether a value can identify a caller.
fn is_identifying(value: &Value) -> bool {
    let is_one = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.is_u64() || number.is_i64(),
        Value::Bool(_) => true,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    match value {
        Value::Array(values) => (1..=ELEMENTS).contains(&values.len()) && values.iter().all(is_one),
        value => is_one(value),
    }
}

/// The value at a JSON pointer (RFC 6901).
fn at_pointer<'c>(claims: &'c Map<String, Value>, pointer: &str) -> Option<&'c Value> {
    let rest = pointer.strip_prefix('/')?;
    let (first, rest) = rest.find('/').map_or((rest, ""), |end| rest.split_at(end));
    // RFC 6901 §4: in this order.
    claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
}

impl BearerToken {
    /// The same at this time: a token that is not valid then is refused.
    #[must_use]
    pub fn at(self, now: SystemTime) -> BearerToken {
        match &self {
            BearerToken::Verified(token) => token.fault_at(now).map_or(self, BearerToken::Refused),
            BearerToken::Absent | BearerToken::Refused(_) => self,
        }
    }
}

/// The token in `Authorization`; `None` if there is no such field.
///
/// # Errors
///
/// [`TokenFault::SeveralFields`] or [`TokenFault::NotBearer`].
pub fn token_of(fields: &HeaderMap) -> Result<Option<&str>, TokenFault> {
    let mut lines = fields.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(TokenFault::SeveralFields);
    }
    let (scheme, token) = line.to_str().ok().and_then(|line| line.split_once(' ')).ok_or(TokenFault::NotBearer)?;
    // RFC 9110 §11.1: the scheme is case-insensitive. RFC 7515 §7.1: base64url and dots.
    let is_token = |token: &str| {
        let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !token.is_empty() && token.bytes().all(is_of_it)
    };
    if !scheme.eq_ignore_ascii_case("bearer") || !is_token(token) {
        return Err(TokenFault::NotBearer);
    }
    if token.len() > LONGEST { Err(TokenFault::Unreadable) } else { Ok(Some(token)) }
}

/// Writes the scheme of a bearer token as most servers expect it. The key holds the claims alone, so that requests which share
/// an entry must be alike to a server that compares the scheme by case.
pub fn normalise(fields: &mut HeaderMap) {
    let Ok(Some(token)) = token_of(fields) else { return };
    let is_usual = fields.get(AUTHORIZATION).is_some_and(|line| line.as_bytes().starts_with(b"Bearer "));
    if !is_usual && let Ok(mut line) = HeaderValue::try_from(format!("Bearer {token}")) {
        line.set_sensitive(true);
        fields.insert(AUTHORIZATION, line);
    }
}

/// The claims that identify a caller, in the notation of `rules.toml`: the name of a claim, or after a slash a JSON pointer
/// (RFC 6901). `Display` writes them as they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames(Vec<String>);

/// The JSON texts of the claims that a plain value can mean: the text, and the whole number or truth value.
pub fn texts_of_claim(value: &str) -> SmallVec<[String; 2]> {
    let number = value.parse::<u64>().map(Value::from).or_else(|_| value.parse::<i64>().map(Value::from));
    let plain = number.ok().or_else(|| value.parse::<bool>().ok().map(Value::from));
    std::iter::once(Value::from(value)).chain(plain).map(|value| value.to_string()).collect()
}

/// Most claims in one identity.
const MOST: usize = 8;

/// Most elements of a list that identifies callers: each is a tag of their entries.
const ELEMENTS: usize = 32;

impl ClaimNames {
    /// Reads `sub` or `tenant,/realm/user_id`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<ClaimNames, &'static str> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let is_name = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !names.iter().all(is_name) {
            return Err("the name of a claim is printable ASCII without spaces and commas");
        }
        if names.iter().any(|name| has_wrong_escape(name)) {
            return Err("in a JSON pointer \"~\" is written \"~0\", and \"/\" in a name \"~1\" (RFC 6901 §3)");
        }
        if names.len() > MOST {
            return Err("there are more than 8 claims");
        }
        let has_twice = names.iter().enumerate().any(|(at, name)| names[..at].contains(name));
        if has_twice { Err("a claim is there twice") } else { Ok(ClaimNames(names)) }
    }

    /// Whether it is a single claim.
    pub fn is_single(&self) -> bool {
        self.0.len() == 1
    }
}

/// Whether a JSON pointer has a `~` that begins no escape.
fn has_wrong_escape(name: &str) -> bool {
    name.starts_with('/') && name.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1']))
}

impl fmt::Display for ClaimNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::http::sample::fields;

    fn token(claims: &Value) -> VerifiedToken {
        VerifiedToken { claims: claims.as_object().unwrap().clone(), begins: None, ends: None }
    }

    #[test]
    fn a_json_pointer_with_a_wrong_escape_is_refused() {
        assert!(ClaimNames::read("/a~1b/~0c").is_ok() && ClaimNames::read("a~b").is_ok());
        assert!(["/a//b~2", "/a~", "sub,/x~y"].iter().all(|text| ClaimNames::read(text).is_err()));
    }

    #[test]
    fn one_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        type Found<'t> = Result<Option<&'t str>, TokenFault>;
        let rows: [(&[&str], Found<'_>); 12] = [
            (&[], Ok(None)),
            (&["Bearer a.b.c"], Ok(Some("a.b.c"))),
            (&["bearer a.b-_.c"], Ok(Some("a.b-_.c"))),
            (&["BEARER a"], Ok(Some("a"))),
            (&["Bearer"], Err(TokenFault::NotBearer)),
            (&["Bearer "], Err(TokenFault::NotBearer)),
            (&["Bearer  a.b.c"], Err(TokenFault::NotBearer)),
            (&["Bearer a.b.c, Bearer d.e.f"], Err(TokenFault::NotBearer)),
            (&["Basic YTpi"], Err(TokenFault::NotBearer)),
            (&["a.b.c"], Err(TokenFault::NotBearer)),
            (&[""], Err(TokenFault::NotBearer)),
            (&["Bearer a.b.c", "Bearer a.b.c"], Err(TokenFault::SeveralFields)),
        ];
        for (lines, expected) in rows {
            let lines: Vec<(&str, &str)> = lines.iter().map(|line| ("authorization", *line)).collect();
            assert_eq!(token_of(&fields(&lines)), expected, "{lines:?}");
        }
        let long = format!("Bearer {}", "a".repeat(LONGEST + 1));
        assert_eq!(token_of(&fields(&[("authorization", &long)])), Err(TokenFault::Unreadable));
    }

    #[test]
    fn a_scheme_in_another_case_is_brought_to_the_usual_one() {
        for (line, expected) in
            [("bearer a.b.c", "Bearer a.b.c"), ("Bearer a.b.c", "Bearer a.b.c"), ("basic x", "basic x")]
        {
            let mut request = fields(&[("authorization", line)]);
            normalise(&mut request);
            assert_eq!(request[AUTHORIZATION], expected);
        }
    }

    #[test]
    fn a_token_is_valid_from_its_begin_until_its_end() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let token = VerifiedToken { begins: Some(at(10)), ends: Some(at(20)), ..token(&json!({})) };
        let rows = [
            (9, Some(TokenFault::NotYetValid)),
            (10, None),
            (19, None),
            (20, Some(TokenFault::Expired)),
            (21, Some(TokenFault::Expired)),
        ];
        for (now, expected) in rows {
            assert_eq!(token.fault_at(at(now)), expected, "{now}");
        }
    }

    #[test]
    fn claims_that_identify_a_caller_are_read_by_name_or_pointer() {
        let token = token(&json!({
            "sub": "ann", "id": 7, "text": "7", "admin": true, "roles": ["a", "b"], "realm": { "user": { "id": "x" }, "a/b": "y" },
            "https://example.com/tenant": "acme", "nothing": null, "empty": "", "rate": 1.5, "none": [], "mixed": ["a", null],
        }));
        let rows: [(&str, Option<&[&str]>); 16] = [
            ("sub", Some(&["\"ann\""])),
            ("id", Some(&["7"])),
            ("text", Some(&["\"7\""])),
            ("admin", Some(&["true"])),
            ("roles", Some(&["[\"a\",\"b\"]"])),
            ("sub, id", Some(&["\"ann\"", "7"])),
            ("/realm/user/id", Some(&["\"x\""])),
            ("/realm/a~1b", Some(&["\"y\""])),
            ("https://example.com/tenant,sub", Some(&["\"acme\"", "\"ann\""])),
            ("missing", None),
            ("nothing", None),
            ("empty", None),
            ("rate", None),
            ("realm", None),
            ("none", None),
            ("mixed", None),
        ];
        for (names, expected) in rows {
            let found = token.values(&ClaimNames::read(names).unwrap());
            let expected =
                expected.map(|values| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>());
            assert_eq!(found.ok(), expected, "{names}");
        }
    }

    #[test]
    fn names_of_claims_that_a_key_cannot_hold_are_refused() {
        for text in ["", "a,", "a b", "a\nb", "a,a", "é", "a,b,c,d,e,f,g,h,i"] {
            assert!(ClaimNames::read(text).is_err(), "{text:?}");
        }
        assert_eq!(ClaimNames::read("tenant, sub").unwrap().to_string(), "tenant,sub");
    }

    #[test]
    fn every_fault_has_a_detail_of_its_own_and_a_remedy() {
        for (at, fault) in TokenFault::ALL.into_iter().enumerate() {
            assert!(fault.token().starts_with("token-") && fault.explanation().contains("forwarded"), "{fault:?}");
            assert!(fault.what_to_do().len() > 10, "{fault:?}");
            assert!(TokenFault::ALL[..at].iter().all(|other| other.token() != fault.token()), "{fault:?}");
        }
    }
}

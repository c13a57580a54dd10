//! The tokens of `[admin]`: what each may do, and where it is read from.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::address;
use super::fields::{flag, passed};
use crate::rules;
use crate::rules::fault::Fault;
use crate::rules::reader::{Item, Table, Text};
use crate::words::words;

/// Shortest token that is not warned of, bytes.
pub const SHORTEST: usize = 16;

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `name`: what logs call it; default: its role, and its place among several of that role
    pub name: String,
    pub role: Role,
    /// `families = ["user", "booking:*"]`: all that an admin token may purge, warm and bypass; default: everything
    pub families: Option<Vec<String>>,
    pub secret: TokenSecret,
}

/// Where the token itself comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSecret {
    /// `token`
    Text(String),
    /// `sha256`: 64 hex digits
    Digest(TokenDigest),
    /// `token_file`: read again when it changes
    File(PathBuf),
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSecret::Text(_) | TokenSecret::Digest(_) => f.write_str("…"),
            TokenSecret::File(path) => write!(f, "{}", path.display()),
        }
    }
}

words! {
/// The permissions of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read only.
    Viewer = "viewer",
    /// Read and change.
    Admin = "admin",
}
}

/// SHA-256 of a token.
pub type TokenDigest = [u8; 32];

/// SHA-256 of a token, as in `sha256 = "…"`.
pub fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a scope (`user`, `booking:*`, `book*`) covers this family: it names the family, or a level above it.
pub fn covers(scope: &str, family: &str) -> bool {
    // `booking:*` is `booking` and what lies below it, as in rules.
    let whole = scope.strip_suffix(":*").unwrap_or(scope);
    let mut ends = family.match_indices(':').map(|(end, _)| end).chain([family.len()]);
    ends.any(|end| rules::is_named_by(whole, &family[..end]))
}

/// A token from the environment replaces the role's other tokens.
pub fn override_tokens(tokens: &mut Vec<Token>, role: Role, token: Option<&str>, flags: &mut Vec<Fault>) {
    let name = match role {
        Role::Admin => "LARDER_ADMIN_TOKEN",
        Role::Viewer => "LARDER_VIEWER_TOKEN",
    };
    let token = token.filter(|token| !token.is_empty());
    if flag(name, token, address::token, flags).is_some() {
        tokens.retain(|known| known.role != role);
        let secret = token.map(|token| TokenSecret::Text(token.to_owned()));
        tokens.extend(secret.map(|secret| Token { name: name.to_owned(), role, families: None, secret }));
    }
}

/// `tokens`
pub fn read_tokens(item: &Item<'_>) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for mut table in item.tables().unwrap_or_default() {
        let role = table.required("role", "write role = \"admin\" or \"viewer\"");
        let role = role.and_then(|item| item.choice(Role::WORDS));
        let name = table.read("name", |item| read_name(&item, &tokens));
        let families = table.item("families");
        if let (Some(item), Some(Role::Viewer)) = (&families, role) {
            item.fault("has no effect: a viewer may not purge anything", "remove it, or write role = \"admin\"");
        }
        let families = families.and_then(|item| read_families(&item));
        let secret = read_secret(&mut table, &tokens);
        table.finish();
        if let (Some(role), Some(secret)) = (role, secret) {
            let name = name.unwrap_or_else(|| default_name(role, &tokens));
            tokens.push(Token { name, role, families, secret });
        }
    }
    tokens
}

/// `admin`, `admin-2`, …
fn default_name(role: Role, tokens: &[Token]) -> String {
    let same = tokens.iter().filter(|token| token.role == role).count();
    if same == 0 { role.word().to_owned() } else { format!("{}-{}", role.word(), same + 1) }
}

fn read_name(item: &Item<'_>, tokens: &[Token]) -> Option<String> {
    let text = item.filled()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if text.value.len() > 64 || !text.value.bytes().all(is_plain) {
        return text.refuse("is no name for logs", "use up to 64 letters, digits, \"-\", \"_\", \".\" and \"@\"");
    }
    if tokens.iter().any(|known| known.name == text.value) {
        return text
            .refuse("is the name of two tokens", "give each a name of its own, so that logs tell them apart");
    }
    Some(text.value)
}

fn read_families(item: &Item<'_>) -> Option<Vec<String>> {
    let texts = item.texts()?;
    if texts.is_empty() {
        item.fault("is empty: the token could purge nothing", "name families, or write role = \"viewer\"");
    }
    Some(texts.into_iter().map(|text| text.value).collect())
}

/// Exactly one of three fields. `None`: it is faulty, or empty.
fn read_secret(table: &mut Table<'_>, tokens: &[Token]) -> Option<TokenSecret> {
    let fields = ["token", "sha256", "token_file"].map(|name| table.item(name));
    match fields {
        [None, None, None] => {
            table.lacks(
                "token is missing",
                "write token = \"${…}\", sha256 = \"…\" (from larder token), or token_file = \"…\"",
            );
            None
        }
        [Some(token), None, None] => read_token(&token, tokens),
        [None, Some(sha256), None] => {
            let text = sha256.filled()?;
            let digest = passed(&text, address::sha256)?;
            is_new(&text, &TokenSecret::Digest(digest), tokens).then_some(TokenSecret::Digest(digest))
        }
        [None, None, Some(file)] => {
            let text = file.filled()?;
            let secret = TokenSecret::File(PathBuf::from(&text.value));
            is_new(&text, &secret, tokens).then_some(secret)
        }
        [one, two, three] => {
            if let Some(item) = [three, two, one].into_iter().flatten().next() {
                item.fault("is one of several", "keep one of token, sha256 and token_file");
            }
            None
        }
    }
}

fn read_token(item: &Item<'_>, tokens: &[Token]) -> Option<TokenSecret> {
    let text = item.text()?;
    let secret = TokenSecret::Text(text.value.clone());
    if !is_new(&text, &secret, tokens) {
        return None;
    }
    passed(&text, address::token)?;
    (!text.value.is_empty()).then_some(secret)
}

fn is_new(text: &Text<'_>, secret: &TokenSecret, tokens: &[Token]) -> bool {
    let digest_of = |secret: &TokenSecret| match secret {
        TokenSecret::Text(text) => Some(digest(text)),
        TokenSecret::Digest(digest) => Some(*digest),
        TokenSecret::File(_) => None,
    };
    let is_same = |known: &Token| {
        known.secret == *secret || digest_of(&known.secret).is_some_and(|it| Some(it) == digest_of(secret))
    };
    let is_new = !tokens.iter().any(is_same);
    if !is_new {
        text.fault("is listed twice, so its role is ambiguous", "give each role a token of its own");
    }
    is_new
}

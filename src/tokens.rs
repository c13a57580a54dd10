//! The operators' bearer tokens: what each may do, where it is read from, and the limits on wrong ones ([`WrongTokens`]).

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::token::{SHORTEST, TokenDigest, covers, digest};
use crate::config::{self, Role, TokenSecret};
use crate::mutex::lock;
use arc_swap::ArcSwap;

mod wrong_tokens;

pub use wrong_tokens::{TokenTurn, WrongTokens};

/// Largest token in a file, bytes.
const LONGEST: u64 = 4096;
/// How often files with tokens are read.
const READ_EVERY: Duration = Duration::from_secs(2);

/// The tokens in force. Only their digests are stored.
pub struct Tokens {
    in_force: ArcSwap<Vec<LoadedToken>>,
    /// As configured. Locked while files are read, so that no older reading replaces a younger one.
    configured: Mutex<Vec<config::Token>>,
}

#[derive(Debug, Clone, PartialEq)]
struct LoadedToken {
    token: Arc<OperatorToken>,
    /// `None`: its file cannot be read.
    digest: Option<TokenDigest>,
    file: Option<PathBuf>,
}

/// What a token is called and may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorToken {
    pub name: String,
    pub role: Role,
    /// Names, levels and globs of the families that it may purge; `None`: everything.
    pub families: Option<Vec<String>>,
}

impl OperatorToken {
    /// Whether it may purge, warm and bypass this family.
    pub fn may_change(&self, family: &str) -> bool {
        self.families.as_ref().is_none_or(|scopes| scopes.iter().any(|scope| covers(scope, family)))
    }
}

impl Tokens {
    /// The tokens of the configuration. A file that cannot be read is logged, and read again later: until then its token is not known.
    pub fn new(tokens: &[config::Token]) -> Tokens {
        let loaded = load(tokens, &[]);
        Tokens { in_force: ArcSwap::from_pointee(loaded), configured: Mutex::new(tokens.to_vec()) }
    }

    /// Whether no token is configured.
    pub fn is_empty(&self) -> bool {
        self.in_force.load().is_empty()
    }

    /// What a token may do; `None` if it is not known. Of two with the same text, the one with the higher role. Compares all digests,
    /// each to its end, so that the time taken says nothing about the configured tokens.
    pub fn find(&self, token: &str) -> Option<Arc<OperatorToken>> {
        let presented = digest(token);
        let is_it = |known: &&LoadedToken| known.digest.as_ref().is_some_and(|known| is_same(known, &presented));
        let in_force = self.in_force.load();
        let found = in_force.iter().filter(is_it).max_by_key(|known| known.token.role);
        found.map(|known| Arc::clone(&known.token))
    }

    /// Replaces the tokens by those of a new configuration, unless that has none: without tokens everybody on this machine is an admin, and
    /// the admin may listen on an address that others can reach.
    pub fn replace(&self, tokens: &[config::Token]) {
        if tokens.is_empty() && !self.is_empty() {
            return;
        }
        *lock(&self.configured) = tokens.to_vec();
        self.read_files();
    }

    /// Reads the files with tokens again. A token whose file cannot be read is not accepted.
    pub fn read_files(&self) {
        let configured = lock(&self.configured);
        let before = self.in_force.load_full();
        let now = load(&configured, &before);
        let changed = now.iter().filter(|token| token.file.is_some() && !before.contains(token));
        for LoadedToken { token, .. } in changed {
            tracing::info!(target: "larder::admin", token = token.name, "a token was read from its file");
        }
        if now != *before {
            self.in_force.store(Arc::new(now));
        }
    }

    fn has_files(&self) -> bool {
        self.in_force.load().iter().any(|token| token.file.is_some())
    }

    /// Reads files with tokens when they change, for ever. They are read every two seconds: a mounted secret is a chain of links, and some
    /// file systems send no events.
    pub async fn follow_files(&self) {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            if self.has_files() {
                // A few hundred bytes.
                self.read_files();
            }
        }
    }
}

/// `before`: what is in force, for files that cannot be read.
fn load(tokens: &[config::Token], before: &[LoadedToken]) -> Vec<LoadedToken> {
    let loaded = |token: &config::Token| {
        let known = OperatorToken { name: token.name.clone(), role: token.role, families: token.families.clone() };
        let (digest, file) = match &token.secret {
            TokenSecret::Text(text) => (Some(digest(text)), None),
            TokenSecret::Digest(digest) => (Some(*digest), None),
            TokenSecret::File(path) => (read_file(path, &token.name, before), Some(path.clone())),
        };
        LoadedToken { token: Arc::new(known), digest, file }
    };
    tokens.iter().map(loaded).collect()
}

fn read_file(path: &Path, name: &str, before: &[LoadedToken]) -> Option<TokenDigest> {
    let known = before.iter().find(|known| known.file.as_deref() == Some(path));
    match token_in(path) {
        Ok(text) => {
            let digest = digest(&text);
            let is_new = known.is_none_or(|known| known.digest != Some(digest));
            if is_new && text.len() < SHORTEST {
                tracing::warn!(
                    target: "larder::admin",
                    token = name,
                    file = %path.display(),
                    "a token in a file is shorter than {SHORTEST} characters, so that it can be guessed; write one of larder token into it"
                );
            }
            Some(digest)
        }
        Err(reason) => {
            let is_kept = known.is_some_and(|known| known.digest.is_some());
            // Once: it is read again every few seconds.
            if known.is_none() || is_kept {
                tracing::error!(
                    target: "larder::admin",
                    token = name,
                    file = %path.display(),
                    "cannot read a token from its file ({reason}), so it is not accepted; write one line with the token into it"
                );
            }
            None
        }
    }
}

/// The first line of a file, which may be all that it has.
fn token_in(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let token = text.trim();
    if token.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() as u64 > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it holds something else than one token".to_owned());
    }
    Ok(token.to_owned())
}

fn is_same(a: &TokenDigest, b: &TokenDigest) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, role: Role, secret: TokenSecret) -> config::Token {
        config::Token { name: name.to_owned(), role, families: None, secret }
    }

    fn named(tokens: &Tokens, text: &str) -> Option<String> {
        tokens.find(text).map(|token| token.name.clone())
    }

    #[test]
    fn a_token_with_two_roles_has_the_higher() {
        let same = || TokenSecret::Text("same".to_owned());
        let tokens = Tokens::new(&[token("a", Role::Admin, same()), token("v", Role::Viewer, same())]);
        assert_eq!(named(&tokens, "same").as_deref(), Some("a"));
        assert_eq!(named(&tokens, "other"), None);
    }

    #[test]
    fn a_digest_is_as_good_as_the_token() {
        let tokens = Tokens::new(&[token("ci", Role::Admin, TokenSecret::Digest(digest("secret")))]);
        assert_eq!(named(&tokens, "secret").as_deref(), Some("ci"));
    }

    #[test]
    fn a_scope_covers_families_levels_and_what_globs_fit() {
        let scopes = ["user", "booking:*", "plan"].map(str::to_owned).to_vec();
        let scoped = OperatorToken { name: String::new(), role: Role::Admin, families: Some(scopes) };
        let rows =
            [("user", true), ("user:list", true), ("users", false), ("booking:stats", true), ("bookings", false)];
        for (family, expected) in rows {
            assert_eq!(scoped.may_change(family), expected, "{family}");
        }
        assert!(OperatorToken { families: None, ..scoped }.may_change("anything"));
    }

    #[test]
    fn a_file_is_rotated_and_one_that_vanishes_locks_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let tokens = Tokens::new(&[token("ci", Role::Admin, TokenSecret::File(file.clone()))]);
        assert!(!tokens.is_empty() && named(&tokens, "").is_none(), "there is no file yet");
        for text in ["first\n", "second"] {
            std::fs::write(&file, text).unwrap();
            tokens.read_files();
            assert_eq!(named(&tokens, text.trim()).as_deref(), Some("ci"));
        }
        assert_eq!(named(&tokens, "first"), None);
        std::fs::remove_file(&file).unwrap();
        tokens.read_files();
        assert_eq!(named(&tokens, "second"), None);
    }

    #[test]
    fn a_reload_without_tokens_leaves_those_in_force() {
        let tokens = Tokens::new(&[token("a", Role::Admin, TokenSecret::Text("old".to_owned()))]);
        tokens.replace(&[]);
        assert_eq!(named(&tokens, "old").as_deref(), Some("a"));
        tokens.replace(&[token("b", Role::Viewer, TokenSecret::Text("new".to_owned()))]);
        assert_eq!((named(&tokens, "old"), named(&tokens, "new").as_deref()), (None, Some("b")));
    }
}

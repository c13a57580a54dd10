//! The operators' bearer tokens: the role that each has, and the limits on wrong ones ([`WrongTokens`]).

use sha2::{Digest as _, Sha256};

use crate::config::{self, Role};

mod wrong_tokens;

pub use wrong_tokens::{DELAY, WrongTokens};

/// The configured tokens. Only their digests are stored.
pub struct Tokens(Vec<(Role, TokenDigest)>);

/// SHA-256 of a token.
type TokenDigest = [u8; 32];

impl Tokens {
    /// The tokens of the configuration. Empty ones are left out.
    pub fn new(tokens: &[config::Token]) -> Tokens {
        let tokens = tokens.iter().filter(|token| !token.token.is_empty());
        Tokens(tokens.map(|token| (token.role, digest(&token.token))).collect())
    }

    /// Whether no token is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest role of a token; `None` if the token is unknown. Compares all digests, each to its end, so that the
    /// time taken says nothing about the configured tokens.
    pub fn role(&self, token: &str) -> Option<Role> {
        let presented = digest(token);
        let roles = self.0.iter().map(|(role, known)| is_same(known, &presented).then_some(*role));
        roles.fold(None, Option::max)
    }
}

fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

fn is_same(a: &TokenDigest, b: &TokenDigest) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_two_roles_has_the_higher() {
        let token = |role| config::Token { role, token: "same".to_owned() };
        let tokens = Tokens::new(&[token(Role::Admin), token(Role::Viewer)]);
        assert_eq!(tokens.role("same"), Some(Role::Admin));
        assert_eq!(tokens.role("other"), None);
    }

    #[test]
    fn an_empty_token_is_not_accepted() {
        let tokens = Tokens::new(&[config::Token { role: Role::Admin, token: String::new() }]);
        assert!(tokens.is_empty());
        assert_eq!(tokens.role(""), None);
    }
}

//! [`Secret`]: keys derived from `[store] secret`.
//!
//! In keys, credentials are HMAC-SHA256 with a secret of the configuration, or SHA-256 without one. A secret that Larder itself
//! stored in Redis would hide nothing: what can read the keys can read that, too.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// HMAC-SHA256 (RFC 2104).
pub type HmacSha256 = Hmac<Sha256>;

/// Two HMAC keys derived from a namespace's secret, for entries and for request fields. They reveal neither each
/// other nor the secret, and differ between namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Secret(Arc<Keys>);

struct Keys {
    entries: HmacSha256,
    fields: HmacSha256,
}

impl Secret {
    /// Derives the keys.
    pub fn new(secret: &str, namespace: &str) -> Secret {
        let key = |purpose: &str| {
            let mut derive = keyed(secret.as_bytes());
            derive.update(purpose.as_bytes());
            derive.update(b"\0");
            derive.update(namespace.as_bytes());
            keyed(&derive.finalize().into_bytes())
        };
        Secret(Arc::new(Keys { entries: key("entries"), fields: key("fields") }))
    }

    /// Starts the HMAC of an entry.
    pub fn of_entry(&self) -> HmacSha256 {
        self.0.entries.clone()
    }

    /// Starts the HMAC of values of a request field.
    pub fn of_field(&self) -> HmacSha256 {
        self.0.fields.clone()
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_secret_namespace_and_purpose() {
        let tags = |secret: &str, namespace: &str| {
            let secret = Secret::new(secret, namespace);
            [secret.of_entry(), secret.of_field()].map(|hmac| hmac.chain_update(b"x").finalize().into_bytes())
        };
        let [entry, field] = tags("a", "b");
        assert_ne!(entry, field);
        assert_eq!(tags("a", "b"), [entry, field]);
        for (secret, namespace) in [("a", "c"), ("ab", ""), ("", "ab")] {
            assert!(tags(secret, namespace).iter().all(|tag| *tag != entry && *tag != field));
        }
        assert!(!format!("{:?}", Secret::new("hidden", "n")).contains("hidden"));
    }
}

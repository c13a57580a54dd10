//! Tags, callers and lines of keys as operators see them. Without `[store] secret` the digest of a credential is a plain SHA-256, by which a
//! reader can test guesses: it is replaced by a keyed hash before it leaves the process for people, in records, logs, traces and reports.

use std::borrow::Cow;
use std::sync::LazyLock;

use hmac::{KeyInit as _, Mac as _};

use crate::hexadecimal::hexadecimal;
use crate::marks::Tag;
use crate::secret::HmacSha256;

/// How the digests of credentials begin in keys and in [`Tag::caller`], and in tags of instances, where `:` is escaped.
const BEGINNINGS: [&str; 2] = ["sha256:", "sha256%3A"];
/// Hex digits of a SHA-256.
const DIGITS: usize = 64;

/// A tag for operators.
pub fn shown_tag(tag: &Tag) -> String {
    // A path or a group may contain a digest of something else, such as the address of a blob, and never one of a credential.
    let is_plain = !tag.is_of_caller() && !tag.is_of_family();
    if is_plain { tag.to_string() } else { shown_text(tag.as_str()).into_owned() }
}

/// A text with the digests of credentials in it replaced by hashes that are keyed by this process. The same credential is shown as the same
/// text for as long as the process runs. An HMAC-SHA256, which `[store] secret` keys, is left as it is.
pub fn shown_text(text: &str) -> Cow<'_, str> {
    let Some((at, beginning)) = first_digest(text) else { return Cow::Borrowed(text) };
    let (before, rest) = text.split_at(at);
    let (digest, rest) = rest[beginning.len()..].split_at(DIGITS);
    let separator = &beginning["sha256".len()..];
    let hash = keyed_hash(digest);
    Cow::Owned(format!("{before}hmac-sha256{separator}{hash}{}", shown_text(rest)))
}

/// The caller of an entry: all lines of its key that identify one.
pub fn shown_caller(lines: &str) -> String {
    format!("hmac-sha256:{}", keyed_hash(lines))
}

/// Where the first plain digest begins, and how.
fn first_digest(text: &str) -> Option<(usize, &'static str)> {
    let is_digest = |at: usize, beginning: &str| {
        let digits = text.as_bytes().get(at + beginning.len()..).and_then(|rest| rest.get(..DIGITS));
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) && !text[..at].ends_with("hmac-")
    };
    let of = |beginning: &'static str| {
        let found = text.match_indices(beginning).map(|(at, _)| at).find(|at| is_digest(*at, beginning));
        found.map(|at| (at, beginning))
    };
    BEGINNINGS.into_iter().filter_map(of).min_by_key(|(at, _)| *at)
}

/// 32 hex digits.
fn keyed_hash(digest: &str) -> String {
    static KEY: LazyLock<[u8; 32]> = LazyLock::new(rand::random);
    let mut mac = HmacSha256::new_from_slice(&*KEY).expect("HMAC takes keys of any length");
    mac.update(digest.as_bytes());
    hexadecimal(&mac.finalize().into_bytes()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_of_a_credential_is_shown_as_a_keyed_hash_wherever_it_stands_in_a_tag() {
        let digest = "ab".repeat(32);
        for (tag, before) in [
            (Tag::caller("me", &format!("sha256:{digest}")), "caller me hmac-sha256:".to_owned()),
            (Tag::family(&format!("user:7:sha256%3A{digest}")), "user:7:hmac-sha256%3A".to_owned()),
        ] {
            let shown = shown_tag(&tag);
            assert!(shown.starts_with(&before) && !shown.contains(&digest), "{shown}");
            assert_eq!(shown.len(), before.len() + 32);
            assert_eq!(shown, shown_tag(&tag), "the same caller is the same text");
        }
        let two = format!("sha256:{digest} x sha256%3A{digest} sha256:{digest}");
        assert!(!shown_text(&two).contains(&digest) && shown_text(&two).contains(" x "), "{}", shown_text(&two));
    }

    #[test]
    fn what_is_no_plain_digest_of_a_credential_is_shown_as_it_is() {
        let digest = "ab".repeat(32);
        let tags = [
            Tag::root(),
            Tag::family("user:7"),
            Tag::uri(&format!("/blobs/sha256:{digest}")),
            Tag::group("h", &format!("sha256:{digest}")),
            Tag::caller("me", &format!("hmac-sha256:{digest}")),
            Tag::family("user:sha256%3Aabc"),
            Tag::family(&format!("user:sha256%3A{}", &digest[1..])),
        ];
        for tag in tags {
            assert_eq!(shown_tag(&tag), tag.as_str());
        }
    }
}

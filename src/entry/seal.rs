//! [`Seal`]: the checksum of an encoding in Redis, over its bytes and its key.

use hmac::Mac;
use xxhash_rust::xxh3::Xxh3;

use crate::secret::{HmacSha256, Secret};

/// Length of a checksum, bytes: that of XXH3-128, and of HMAC-SHA256 cut to half (RFC 2104 §5).
pub(super) const LENGTH: usize = 16;

/// Computes and verifies the checksums of a namespace.
///
/// Without a secret they are XXH3-128, which detects damage only: any client of Redis can compute them. With a secret they
/// are HMAC-SHA256, so that only a client that knows it can create, change or rename an entry. An entry with one kind fails
/// verification of the other.
#[derive(Debug, Clone)]
pub struct Seal {
    namespace: Box<str>,
    secret: Option<Secret>,
}

impl Seal {
    /// For the entries of this namespace.
    pub fn new(namespace: &str, secret: Option<Secret>) -> Seal {
        Seal { namespace: namespace.into(), secret }
    }

    /// The checksum of `bytes` under `name`.
    pub(super) fn of(&self, name: &str, bytes: &[u8]) -> [u8; LENGTH] {
        match self.hmac(name, bytes) {
            Some(hmac) => {
                let mut half = [0; LENGTH];
                half.copy_from_slice(&hmac.finalize().into_bytes()[..LENGTH]);
                half
            }
            None => {
                let mut hash = Xxh3::new();
                self.parts(name, bytes).into_iter().for_each(|part| hash.update(part.as_ref()));
                hash.digest128().to_be_bytes()
            }
        }
    }

    /// Whether `checksum` is that of `bytes` under `name`. With a secret, the comparison takes
    /// constant time.
    pub(super) fn is_of(&self, checksum: &[u8], name: &str, bytes: &[u8]) -> bool {
        match self.hmac(name, bytes) {
            Some(hmac) => checksum.len() == LENGTH && hmac.verify_truncated_left(checksum).is_ok(),
            None => self.of(name, bytes) == *checksum,
        }
    }

    fn hmac(&self, name: &str, bytes: &[u8]) -> Option<HmacSha256> {
        let mut hmac = self.secret.as_ref()?.of_entry();
        self.parts(name, bytes).into_iter().for_each(|part| hmac.update(part.as_ref()));
        Some(hmac)
    }

    /// Each text is preceded by its length, so that the concatenation is unambiguous.
    fn parts<'p>(&'p self, name: &'p str, bytes: &'p [u8]) -> [Part<'p>; 5] {
        let length = |text: &str| Part::Length((text.len() as u64).to_be_bytes());
        [
            length(&self.namespace),
            Part::Bytes(self.namespace.as_bytes()),
            length(name),
            Part::Bytes(name.as_bytes()),
            Part::Bytes(bytes),
        ]
    }
}

enum Part<'p> {
    Length([u8; 8]),
    Bytes(&'p [u8]),
}

impl AsRef<[u8]> for Part<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Part::Length(length) => length,
            Part::Bytes(bytes) => bytes,
        }
    }
}

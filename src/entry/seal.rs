//! [`Seal`]: the checksum of an encoding in L2, over its bytes and the name that it is kept under.

use hmac::Mac;
use xxhash_rust::xxh3::Xxh3;

use crate::secret::{HmacSha256, Secret};

/// Length of a checksum, bytes: that of XXH3-128, and of HMAC-SHA256 cut to half (RFC 2104 §5).
pub(super) const LENGTH: usize = 16;

/// Makes and checks the checksums of a namespace.
///
/// Without a secret they are XXH3-128, which finds what was damaged: anybody can compute them. With one they are
/// HMAC-SHA256, so that nobody who does not know it can make an entry, change one, or give it another name. Neither is
/// taken for the other.
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

    /// Whether `checksum` is that of `bytes` under `name`. With a secret the time that it takes does not tell how much of it
    /// is right.
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

    /// Lengths go first, so that the parts have one reading.
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

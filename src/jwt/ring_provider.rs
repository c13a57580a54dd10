//! The cryptography of `jsonwebtoken` by `ring`, which TLS uses too. Verification only: Larder signs no tokens.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: verifier,
    // Only for making JWKs out of keys.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `jsonwebtoken` verify with `ring`. Further calls have no effect.
pub(super) fn install() {
    // Fails only if it is installed already.
    let _ = RING.install_default();
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    // An RSA key must not become the secret of an HMAC (RFC 8725 §2.1).
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }))
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let is_valid = match self.algorithm {
            Algorithm::HS256 => self.has_mac(hmac::HMAC_SHA256, message, signature),
            Algorithm::HS384 => self.has_mac(hmac::HMAC_SHA384, message, signature),
            Algorithm::HS512 => self.has_mac(hmac::HMAC_SHA512, message, signature),
            Algorithm::RS256 => self.is_rsa(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Algorithm::RS384 => self.is_rsa(&RSA_PKCS1_2048_8192_SHA384, message, signature),
            Algorithm::RS512 => self.is_rsa(&RSA_PKCS1_2048_8192_SHA512, message, signature),
            Algorithm::PS256 => self.is_rsa(&RSA_PSS_2048_8192_SHA256, message, signature),
            Algorithm::PS384 => self.is_rsa(&RSA_PSS_2048_8192_SHA384, message, signature),
            Algorithm::PS512 => self.is_rsa(&RSA_PSS_2048_8192_SHA512, message, signature),
            Algorithm::ES256 => self.is_signed(&ECDSA_P256_SHA256_FIXED, message, signature),
            Algorithm::ES384 => self.is_signed(&ECDSA_P384_SHA384_FIXED, message, signature),
            Algorithm::EdDSA => self.is_signed(&ED25519, message, signature),
            _ => false,
        };
        if is_valid { Ok(()) } else { Err(SignatureError::new()) }
    }
}

impl RingVerifier {
    fn has_mac(&self, algorithm: hmac::Algorithm, message: &[u8], mac: &[u8]) -> bool {
        let secret = self.key.try_get_as_bytes();
        secret.is_ok_and(|secret| hmac::verify(&hmac::Key::new(algorithm, secret), message, mac).is_ok())
    }

    fn is_rsa(&self, parameters: &'static RsaParameters, message: &[u8], signature: &[u8]) -> bool {
        match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            DecodingKeyKind::SecretOrDer(_) => self.is_signed(parameters, message, signature),
        }
    }

    fn is_signed(&self, algorithm: &'static dyn VerificationAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        let key = self.key.try_get_as_bytes();
        key.is_ok_and(|key| UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok())
    }
}

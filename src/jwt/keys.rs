//! The keys of `[jwt]`, and what a token must be to be verified by them. Pure.
//!
//! Which algorithms a key verifies follows from the key: its kind, its curve, and the `alg` of a JWK. A token's header only
//! chooses among these, so that it cannot make a public key the secret of an HMAC, nor ask for no signature (RFC 8725 §3.1).

use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::bearer::{TokenFault, VerifiedToken};
use crate::config::JwtConfig;

/// Most keys of a JWK Set that are used.
const MOST: usize = 100;
/// Most keys that a token without `kid` is compared with. Each costs a signature check.
const TRIED: usize = 8;
/// Latest time that is read: the year 9999. Later ones count as this.
const LATEST: u64 = 253_402_300_799;

/// The keys in force.
#[derive(Debug, Default)]
pub struct KeySet(Vec<VerificationKey>);

#[derive(Debug)]
struct VerificationKey {
    /// `kid` of a JWK.
    id: Option<String>,
    key: DecodingKey,
    /// Has the algorithms that the key verifies.
    validation: Validation,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("it is empty")]
    Empty,
    #[error("it holds a key in PEM format; name it as public_key_file")]
    PemSecret,
    #[error(
        "it holds no public key in PEM format (-----BEGIN PUBLIC KEY-----) of kind RSA, EC P-256, EC P-384 or Ed25519"
    )]
    NotPublicKey,
    #[error("it holds a certificate; write its key into a file of its own (openssl x509 -pubkey -noout)")]
    Certificate,
    #[error("it is not a JWK Set (RFC 7517 §5: {{\"keys\": […]}})")]
    NotJwks,
    #[error("no algorithm in [jwt] algorithms fits the key")]
    Algorithms,
}

/// What a token must say besides its signature, and for how long it is valid.
#[derive(Debug, Clone)]
pub struct TokenChecks {
    validation: Validation,
    algorithms: Vec<Algorithm>,
    leeway: Duration,
    require_exp: bool,
}

impl TokenChecks {
    /// Those of the configuration.
    pub fn of(config: &JwtConfig) -> TokenChecks {
        let mut validation = Validation::default();
        // The caller compares the times, with its own clock.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.required_spec_claims.clear();
        if !config.audience.is_empty() {
            validation.set_audience(&config.audience);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if !config.issuer.is_empty() {
            validation.set_issuer(&config.issuer);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        TokenChecks {
            validation,
            algorithms: config.algorithms.clone(),
            leeway: config.leeway,
            require_exp: config.require_exp,
        }
    }

    fn key(&self, id: Option<String>, key: DecodingKey, fitting: &[Algorithm]) -> Option<VerificationKey> {
        let is_allowed = |algorithm: &Algorithm| self.algorithms.is_empty() || self.algorithms.contains(algorithm);
        let algorithms: Vec<Algorithm> = fitting.iter().copied().filter(is_allowed).collect();
        let validation = Validation { algorithms, ..self.validation.clone() };
        (!validation.algorithms.is_empty()).then_some(VerificationKey { id, key, validation })
    }

    fn verified(&self, claims: Map<String, Value>) -> Result<VerifiedToken, TokenFault> {
        let ends = claims.get("exp").map(|exp| seconds(exp, f64::floor).ok_or(TokenFault::Times)).transpose()?;
        let begins = claims.get("nbf").map(|nbf| seconds(nbf, f64::ceil).ok_or(TokenFault::Times)).transpose()?;
        if ends.is_none() && self.require_exp {
            return Err(TokenFault::Times);
        }
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(VerifiedToken {
            ends: ends.map(|ends| at(ends) + self.leeway),
            begins: begins.map(|begins| at(begins.saturating_sub(self.leeway.as_secs()))),
            claims,
        })
    }
}

/// Seconds since 1970 (RFC 7519 §2, NumericDate).
fn seconds(value: &Value, round: fn(f64) -> f64) -> Option<u64> {
    if let Some(seconds) = value.as_u64() {
        return Some(seconds.min(LATEST));
    }
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
    // In range, so that the cast is exact.
    Some(round(seconds.min(LATEST as f64)) as u64)
}

impl KeySet {
    /// A shared secret.
    pub fn of_secret(secret: &[u8], checks: &TokenChecks) -> Result<KeySet, KeyFault> {
        if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err(KeyFault::PemSecret);
        }
        let key = DecodingKey::from_secret(secret).map_err(|_| KeyFault::Empty)?;
        let key = checks.key(None, key, AlgorithmFamily::Hmac.algorithms()).ok_or(KeyFault::Algorithms)?;
        Ok(KeySet(vec![key]))
    }

    /// A public key in PEM format.
    pub fn of_pem(pem: &[u8], checks: &TokenChecks) -> Result<KeySet, KeyFault> {
        let has = |label: &[u8]| pem.windows(label.len()).any(|window| window == label);
        if has(b"-----BEGIN CERTIFICATE-----") {
            return Err(KeyFault::Certificate);
        }
        let is_public = has(b"-----BEGIN PUBLIC KEY-----") || has(b"-----BEGIN RSA PUBLIC KEY-----");
        if !is_public || has(b"PRIVATE KEY-----") {
            return Err(KeyFault::NotPublicKey);
        }
        let (key, fitting) = if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            let fitting = match key.try_get_as_bytes().map(<[u8]>::len) {
                Ok(65) => Algorithm::ES256,
                Ok(97) => Algorithm::ES384,
                _ => return Err(KeyFault::NotPublicKey),
            };
            (key, vec![fitting])
        } else if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            (key, vec![Algorithm::EdDSA])
        } else {
            let key = DecodingKey::from_rsa_pem(pem).map_err(|_| KeyFault::NotPublicKey)?;
            (key, AlgorithmFamily::Rsa.algorithms().to_vec())
        };
        Ok(KeySet(vec![checks.key(None, key, &fitting).ok_or(KeyFault::Algorithms)?]))
    }

    /// The public keys of a JWK Set that can verify signatures. Symmetric keys are left out: what an issuer publishes is no
    /// secret.
    pub fn of_jwks(text: &[u8], checks: &TokenChecks) -> Result<KeySet, KeyFault> {
        // One by one: a key of an unknown kind must not hide the others (RFC 7517 §5).
        let set: Value = serde_json::from_slice(text).map_err(|_| KeyFault::NotJwks)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeyFault::NotJwks)?;
        let keys = keys.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
        Ok(KeySet(keys.filter_map(|jwk| of_jwk(&jwk, checks)).take(MOST).collect()))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The claims of a token whose signature, audience and issuer are valid. Whether it has expired is for the caller to say.
    ///
    /// # Errors
    ///
    /// Why it proves nothing.
    pub fn verify(&self, token: &str, checks: &TokenChecks) -> Result<VerifiedToken, TokenFault> {
        let header = decode_header(token).map_err(|_| TokenFault::Unreadable)?;
        let is_meant = |key: &&VerificationKey| match (&key.id, &header.kid) {
            (Some(id), Some(kid)) => id == kid,
            _ => true,
        };
        let meant: Vec<&VerificationKey> = self.0.iter().filter(is_meant).collect();
        if meant.is_empty() {
            return Err(TokenFault::UnknownKey);
        }
        let fitting = meant.iter().filter(|key| key.validation.algorithms.contains(&header.alg));
        let mut fault = TokenFault::Algorithm;
        for key in fitting.take(TRIED) {
            match decode::<Map<String, Value>>(token, &key.key, &key.validation) {
                Ok(token) => return checks.verified(token.claims),
                Err(error) => fault = of_error(error.kind()),
            }
            if fault != TokenFault::Signature {
                break;
            }
        }
        Err(fault)
    }
}

fn of_error(kind: &ErrorKind) -> TokenFault {
    match kind {
        ErrorKind::InvalidSignature => TokenFault::Signature,
        ErrorKind::InvalidAlgorithm => TokenFault::Algorithm,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => match name.as_str() {
            "aud" => TokenFault::Audience,
            "iss" => TokenFault::Issuer,
            _ => TokenFault::Unreadable,
        },
        // The header has been read, so that these are the claims.
        ErrorKind::Json(_) => TokenFault::Claims,
        _ => TokenFault::Unreadable,
    }
}

fn of_jwk(jwk: &Jwk, checks: &TokenChecks) -> Option<VerificationKey> {
    let is_for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let by_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => &[],
    };
    let stated = match jwk.common.key_algorithm {
        Some(stated) => Some(Algorithm::try_from(stated).ok()?),
        None => None,
    };
    let fitting: Vec<Algorithm> =
        by_kind.iter().copied().filter(|algorithm| stated.is_none_or(|stated| stated == *algorithm)).collect();
    let key = DecodingKey::from_jwk(jwk).ok()?;
    checks.key(jwk.common.key_id.clone(), key, &fitting).filter(|_| is_for_signatures)
}

#[cfg(test)]
mod tests;

//! Signed tokens (RFC 7519), made without the code under test.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

/// base64url without padding.
pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a token of this caller that is valid for another hour.
pub fn claims_of(caller: &str) -> Value {
    json!({ "sub": caller, "exp": now() + 3600 })
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = encoded(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A token with an HMAC of this secret.
pub fn hs256(secret: impl AsRef<[u8]>, claims: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

/// A token without signature.
pub fn unsigned(claims: &Value) -> String {
    format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(claims.to_string()))
}

/// An issuer with a key of its own (ES256).
pub struct Issuer {
    kid: &'static str,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    pub fn new(kid: &'static str) -> Issuer {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Issuer { kid, key: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap(), random }
    }

    pub fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.kid });
        signed(&header, claims, |message| self.key.sign(&self.random, message).unwrap().as_ref().to_vec())
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": encoded(x), "y": encoded(y) })
    }
}

/// The JWK Set (RFC 7517 §5) with the keys of these issuers.
pub fn jwks(issuers: &[&Issuer]) -> String {
    json!({ "keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// An RSA key made by openssl.
pub struct Rsa(RsaKeyPair);

impl Rsa {
    /// Writes the public key to `public.pem` in this directory.
    pub fn new(dir: &Path) -> Rsa {
        openssl(dir, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out private.pem");
        openssl(dir, "pkey -in private.pem -pubout -out public.pem");
        let key = PrivatePkcs8KeyDer::from_pem_file(dir.join("private.pem")).unwrap();
        Rsa(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap())
    }

    /// A token signed by RS256 or PS256.
    pub fn token(&self, algorithm: &str, claims: &Value) -> String {
        let padding: &dyn ring::signature::RsaEncoding =
            if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
        signed(&json!({ "alg": algorithm }), claims, |message| {
            let mut signature = vec![0; self.0.public().modulus_len()];
            self.0.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        })
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let ran = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let ran = ran.expect("openssl can be run; tests/run installs it");
    assert!(ran.status.success(), "{arguments}: {}", String::from_utf8_lossy(&ran.stderr));
}

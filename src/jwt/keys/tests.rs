use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair,
};
use serde_json::json;

use super::super::ring_provider;
use super::*;
use crate::config::KeySource;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn config() -> JwtConfig {
    ring_provider::install();
    JwtConfig {
        keys: KeySource::Secret(String::new()),
        algorithms: Vec::new(),
        audience: Vec::new(),
        issuer: Vec::new(),
        leeway: Duration::ZERO,
        require_exp: true,
        jwks_refresh: Duration::from_secs(60),
        line: 1,
    }
}

fn checks() -> TokenChecks {
    TokenChecks::of(&config())
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and these claims, signed so.
fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = encoded(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn mac(algorithm: ring::hmac::Algorithm, secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(algorithm, secret);
    move |message| ring::hmac::sign(&key, message).as_ref().to_vec()
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    mac(ring::hmac::HMAC_SHA256, secret)
}

struct Ec(EcdsaKeyPair, SystemRandom);

impl Ec {
    fn new(algorithm: &'static EcdsaSigningAlgorithm) -> Ec {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Ec(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap(), random)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&self.1, message).unwrap().as_ref().to_vec()
    }

    fn jwk(&self, kid: &str) -> Value {
        let point = &self.0.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let curve = if x.len() == 32 { "P-256" } else { "P-384" };
        json!({ "kty": "EC", "crv": curve, "kid": kid, "use": "sig", "x": encoded(x), "y": encoded(y) })
    }

    fn pem(&self) -> String {
        // RFC 5480 §2: the algorithm, then the point.
        let point = self.0.public_key().as_ref();
        let prefix: &[u8] = match point.len() {
            65 => b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
            _ => b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
        };
        pem(&[prefix, point].concat())
    }
}

fn ed() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
}

fn ed_pem(pair: &Ed25519KeyPair) -> String {
    // RFC 8410 §4.
    pem(&[b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", pair.public_key().as_ref()].concat())
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn claims() -> Value {
    json!({ "sub": "ann", "exp": 2_000_000_000 })
}

fn fault(result: Result<VerifiedToken, TokenFault>) -> Option<TokenFault> {
    result.err()
}

/// RFC 7515 appendix A: the payload that is signed in A.1, A.2 and A.3.
const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

#[test]
fn the_examples_of_rfc_7515_are_verified() {
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let secret = KeySet::of_secret(&URL_SAFE_NO_PAD.decode(secret).unwrap(), &checks()).unwrap();
    let rsa = KeySet::of_jwks(&jwks(&[json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB" })]), &checks()).unwrap();
    let ec = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let ec = KeySet::of_jwks(&jwks(&[ec]), &checks()).unwrap();
    let rows = [
        (&secret, "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        (&rsa, "eyJhbGciOiJSUzI1NiJ9", RS256),
        (
            &ec,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];
    for (at, (keys, header, signature)) in rows.iter().enumerate() {
        let token = format!("{header}.{PAYLOAD}.{signature}");
        let verified = keys.verify(&token, &checks()).unwrap();
        assert_eq!(verified.claims["iss"], "joe");
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_300_819_380);
        assert_eq!(verified.ends, Some(expires));
        for (other, (others, ..)) in rows.iter().enumerate() {
            assert_eq!(others.verify(&token, &checks()).is_ok(), other == at, "{header}");
        }
    }
}

#[test]
fn every_kind_of_key_verifies_its_algorithms_and_no_other() {
    let (p256, p384, ed) =
        (Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING), Ec::new(&ECDSA_P384_SHA384_FIXED_SIGNING), ed());
    let sets = [
        ("secret", KeySet::of_secret(SECRET, &checks()).unwrap()),
        ("p256", KeySet::of_pem(p256.pem().as_bytes(), &checks()).unwrap()),
        ("p384", KeySet::of_pem(p384.pem().as_bytes(), &checks()).unwrap()),
        ("ed", KeySet::of_pem(ed_pem(&ed).as_bytes(), &checks()).unwrap()),
    ];
    type Sign<'s> = Box<dyn Fn(&[u8]) -> Vec<u8> + 's>;
    let signers: [(&str, &str, Sign<'_>); 6] = [
        ("secret", "HS256", Box::new(hs256(SECRET))),
        ("secret", "HS384", Box::new(mac(ring::hmac::HMAC_SHA384, SECRET))),
        ("secret", "HS512", Box::new(mac(ring::hmac::HMAC_SHA512, SECRET))),
        ("p256", "ES256", Box::new(|message| p256.sign(message))),
        ("p384", "ES384", Box::new(|message| p384.sign(message))),
        ("ed", "EdDSA", Box::new(|message| ed.sign(message).as_ref().to_vec())),
    ];
    for (kind, algorithm, sign) in &signers {
        let token = token(&json!({ "alg": algorithm }), &claims(), sign);
        for (other, keys) in &sets {
            assert_eq!(keys.verify(&token, &checks()).is_ok(), other == kind, "{algorithm} by {other}");
        }
    }
}

#[test]
fn a_forged_token_is_refused_with_its_reason() {
    let ours = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let theirs = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let rsa = json!({ "kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB" });
    let keys = KeySet::of_jwks(&jwks(&[ours.jwk("ec"), rsa]), &checks()).unwrap();
    let es256 = json!({ "alg": "ES256", "kid": "ec" });
    let by = |header: Value, key: &Ec| token(&header, &claims(), |message| key.sign(message));
    let good = by(es256.clone(), &ours);
    assert_eq!(fault(keys.verify(&good, &checks())), None);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let public = encoded(jwks(&[ours.jwk("ec")]));
    let other = encoded(json!({ "sub": "bob", "exp": 2_000_000_000 }).to_string());
    let none = encoded(json!({ "alg": "none" }).to_string());
    let rows = [
        ("a foreign key", by(es256.clone(), &theirs), TokenFault::Signature),
        ("other claims", format!("{header}.{other}.{signature}"), TokenFault::Signature),
        ("no signature", format!("{head}."), TokenFault::Signature),
        ("two parts", head.to_owned(), TokenFault::Unreadable),
        ("four parts", format!("{good}.x"), TokenFault::Unreadable),
        ("alg none", format!("{none}.{other}."), TokenFault::Unreadable),
        ("alg None", format!("{}.{other}.", encoded(r#"{"alg":"None"}"#)), TokenFault::Unreadable),
        ("no alg", format!("{}.{other}.", encoded("{}")), TokenFault::Unreadable),
        (
            "a public key as a secret",
            {
                let header = json!({ "alg": "HS256", "kid": "rsa" });
                token(&header, &claims(), hs256(RSA_N.as_bytes()))
            },
            TokenFault::Algorithm,
        ),
        (
            "a public key as a secret, without kid",
            { token(&json!({ "alg": "HS256" }), &claims(), hs256(public.as_bytes())) },
            TokenFault::Algorithm,
        ),
        ("another key's algorithm", by(json!({ "alg": "RS256", "kid": "ec" }), &ours), TokenFault::Algorithm),
        ("another key's kid", by(json!({ "alg": "ES256", "kid": "rsa" }), &ours), TokenFault::Algorithm),
        ("an unknown kid", by(json!({ "alg": "ES256", "kid": "new" }), &ours), TokenFault::UnknownKey),
        (
            "a critical extension",
            by(json!({ "alg": "ES256", "kid": "ec", "crit": ["x"], "x": 1 }), &ours),
            TokenFault::Unreadable,
        ),
        (
            "a key of its own",
            by(json!({ "alg": "ES256", "jwk": theirs.jwk("ec") }), &theirs),
            TokenFault::Signature,
        ),
    ];
    for (what, token, expected) in rows {
        assert_eq!(fault(keys.verify(&token, &checks())), Some(expected), "{what}");
    }
}

#[test]
fn the_payload_of_a_signed_token_must_be_what_the_rules_ask_for() {
    let config = JwtConfig { audience: vec!["api".into()], issuer: vec!["idp".into()], ..config() };
    let checks = TokenChecks::of(&config);
    let lax = TokenChecks::of(&JwtConfig { require_exp: false, ..self::config() });
    let keys = |checks: &TokenChecks| KeySet::of_secret(SECRET, checks).unwrap();
    let verify = |claims: &Value, checks: &TokenChecks| {
        fault(keys(checks).verify(&token(&json!({ "alg": "HS256" }), claims, hs256(SECRET)), checks))
    };
    let good = json!({ "aud": "api", "iss": "idp", "exp": 2_000_000_000, "sub": "ann" });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let rows = [
        (good.clone(), None),
        (with("aud", json!(["other", "api"])), None),
        (with("aud", json!("other")), Some(TokenFault::Audience)),
        (with("aud", json!(["other"])), Some(TokenFault::Audience)),
        (with("aud", json!({ "api": 1 })), Some(TokenFault::Audience)),
        (without("aud"), Some(TokenFault::Audience)),
        (with("iss", json!("other")), Some(TokenFault::Issuer)),
        (with("iss", json!(7)), Some(TokenFault::Issuer)),
        (without("iss"), Some(TokenFault::Issuer)),
        (without("exp"), Some(TokenFault::Times)),
        (with("exp", json!("2000000000")), Some(TokenFault::Times)),
        (with("exp", json!(null)), Some(TokenFault::Times)),
        (with("exp", json!(-1)), Some(TokenFault::Times)),
        (with("exp", json!(2e9)), None),
        (with("exp", json!(u64::MAX)), None),
        (with("nbf", json!("0")), Some(TokenFault::Times)),
        (with("nbf", json!(1)), None),
        (json!([good]), Some(TokenFault::Claims)),
        (json!("text"), Some(TokenFault::Claims)),
    ];
    for (claims, expected) in rows {
        assert_eq!(verify(&claims, &checks), expected, "{claims}");
    }
    assert_eq!(verify(&json!({ "sub": "ann" }), &lax), None);
    assert_eq!(
        verify(&json!({ "sub": "ann", "aud": "api" }), &lax),
        Some(TokenFault::Audience),
        "RFC 7519 §4.1.3"
    );
}

#[test]
fn the_times_are_those_of_the_token_and_the_leeway() {
    let checks = TokenChecks::of(&JwtConfig { leeway: Duration::from_secs(10), ..config() });
    let keys = KeySet::of_secret(SECRET, &checks).unwrap();
    let claims = json!({ "exp": 1000.9, "nbf": 499.1 });
    let verified = keys.verify(&token(&json!({ "alg": "HS256" }), &claims, hs256(SECRET)), &checks).unwrap();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!((verified.begins, verified.ends), (Some(at(490)), Some(at(1010))));
}

#[test]
fn a_jwk_set_yields_the_public_keys_that_verify_signatures() {
    let p256 = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let with = |name: &str, value: Value| {
        let mut jwk = p256.jwk("a");
        jwk[name] = value;
        jwk
    };
    let count = |keys: &[Value]| KeySet::of_jwks(&jwks(keys), &checks()).unwrap().len();
    let rows = [
        (p256.jwk("a"), 1),
        (with("alg", json!("ES256")), 1),
        (with("alg", json!("ES384")), 0),
        (with("alg", json!("HS256")), 0),
        (with("alg", json!("ECDH-ES")), 0),
        (with("use", json!("enc")), 0),
        (with("crv", json!("P-521")), 0),
        (with("crv", json!("secp256k1")), 0),
        (with("kty", json!("new")), 0),
        (json!({ "kty": "oct", "kid": "a", "k": encoded(SECRET) }), 0),
        (json!("text"), 0),
    ];
    for (jwk, expected) in rows {
        assert_eq!(count(&[jwk.clone(), p256.jwk("b")]), expected + 1, "{jwk}");
    }
    assert_eq!(count(&vec![p256.jwk("a"); 200]), MOST);
    assert!(KeySet::of_jwks(&jwks(&[]), &checks()).unwrap().is_empty());
    for text in ["", "{}", "[]", "{\"keys\":{}}", "<html>"] {
        assert_eq!(KeySet::of_jwks(text.as_bytes(), &checks()).err(), Some(KeyFault::NotJwks), "{text}");
    }
}

#[test]
fn a_token_without_kid_is_compared_with_a_bounded_number_of_keys() {
    let pairs: Vec<Ec> = (0..TRIED + 2).map(|_| Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING)).collect();
    let all: Vec<Value> = pairs.iter().enumerate().map(|(at, pair)| pair.jwk(&at.to_string())).collect();
    let keys = KeySet::of_jwks(&jwks(&all), &checks()).unwrap();
    let by = |at: usize, header: &Value| token(header, &claims(), |message| pairs[at].sign(message));
    let anonymous = json!({ "alg": "ES256" });
    assert_eq!(fault(keys.verify(&by(TRIED - 1, &anonymous), &checks())), None);
    assert_eq!(fault(keys.verify(&by(TRIED, &anonymous), &checks())), Some(TokenFault::Signature));
    let named = json!({ "alg": "ES256", "kid": TRIED.to_string() });
    assert_eq!(fault(keys.verify(&by(TRIED, &named), &checks())), None);
}

#[test]
fn a_file_that_holds_no_usable_key_is_refused() {
    let ec = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING).pem();
    let rsa_only = TokenChecks::of(&JwtConfig { algorithms: vec![Algorithm::RS256], ..config() });
    let rows = [
        (KeySet::of_secret(b"", &checks()), KeyFault::Empty),
        (KeySet::of_secret(ec.as_bytes(), &checks()), KeyFault::PemSecret),
        (KeySet::of_pem(b"secret", &checks()), KeyFault::NotPublicKey),
        (KeySet::of_pem(ec.replace("PUBLIC", "PRIVATE").as_bytes(), &checks()), KeyFault::NotPublicKey),
        (KeySet::of_pem(ec.replace("PUBLIC KEY", "CERTIFICATE").as_bytes(), &checks()), KeyFault::Certificate),
        (KeySet::of_pem(pem(b"\x30\x00").as_bytes(), &checks()), KeyFault::NotPublicKey),
        (KeySet::of_pem(ec.as_bytes(), &rsa_only), KeyFault::Algorithms),
    ];
    for (found, expected) in rows {
        assert_eq!(found.err(), Some(expected));
    }
}

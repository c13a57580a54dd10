//! Verifies the bearer tokens by whose claims families identify callers (`[jwt]`), and holds the keys: reads them from files,
//! fetches a JWK Set and refreshes it.
//!
//! A token is verified once while its key is in force. Later requests with it cost a SHA-256 and a lookup; the request
//! compares its times with the clock ([`BearerToken`]). What was verified is forgotten when the keys change.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bearer::{self, BearerToken, TokenFault, VerifiedToken};
use crate::config::{JwtConfig, KeySource};
use crate::metrics::Metrics;

mod jwks;
mod keys;
mod ring_provider;

pub use jwks::JwksFault;
pub use keys::KeyFault;
use keys::{KeySet, TokenChecks};

/// Largest file with a key or a JWK Set, and largest JWK Set at a URL, in bytes.
const LARGEST: u64 = 1 << 20;
/// Memory for verified tokens, in bytes, by estimate.
const REMEMBERED: u64 = 32 << 20;
/// Pause after a JWK Set was read or could not be read, before it is read again because a token has an unknown `kid` or there
/// is no key.
const LEAST_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait for a JWK Set at start. Requests that come before it is there are forwarded.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// Verifies bearer tokens.
pub struct TokenVerifier {
    source: KeySource,
    checks: TokenChecks,
    refresh: Duration,
    /// `None` until keys have been read.
    keys: ArcSwapOption<KeysInForce>,
    /// A token came that the keys in force may be too old for.
    wanted: Notify,
    /// Whether the last reading of the JWK Set failed.
    is_failing: AtomicBool,
    key_count: Gauge,
    failures: Counter,
}

/// The keys, and the tokens that they have verified.
struct KeysInForce {
    /// Digest of the JWK Set that they were read from.
    digest: [u8; 32],
    keys: KeySet,
    verified: Cache<[u8; 32], Remembered, ByEstimate>,
}

#[derive(Clone)]
struct Remembered {
    token: Arc<VerifiedToken>,
    /// Length of the token's text.
    length: usize,
}

#[derive(Clone)]
struct ByEstimate;

impl Weighter<[u8; 32], Remembered> for ByEstimate {
    /// A claims set in memory takes a few times its text.
    fn weight(&self, _: &[u8; 32], remembered: &Remembered) -> u64 {
        512 + 4 * remembered.length as u64
    }
}

/// A file of `[jwt]` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileFault {
    /// It cannot be read.
    #[error("[jwt] {source_field}: {error}; write the path of a file that Larder may read")]
    Io { source_field: String, error: io::Error },
    /// It holds no usable key.
    #[error("[jwt] {source_field}: {fault}")]
    Key { source_field: String, fault: KeyFault },
}

impl TokenVerifier {
    /// Without keys, unless the configuration itself holds the secret.
    pub fn new(config: &JwtConfig, metrics: &Metrics) -> TokenVerifier {
        ring_provider::install();
        let verifier = TokenVerifier {
            source: config.keys.clone(),
            checks: TokenChecks::of(config),
            refresh: config.jwks_refresh,
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            is_failing: AtomicBool::new(false),
            key_count: metrics.jwt_keys.clone(),
            failures: metrics.jwks_failures.clone(),
        };
        if let KeySource::Secret(secret) = &config.keys
            && let Ok(keys) = KeySet::of_secret(secret.as_bytes(), &verifier.checks)
        {
            verifier.put(keys, [0; 32]);
        }
        verifier
    }

    /// Reads the keys, if they are in a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds no usable key.
    pub fn load(&self) -> Result<(), KeyFileFault> {
        let path = match &self.source {
            KeySource::SecretFile(path) | KeySource::PublicKeyFile(path) | KeySource::JwksFile(path) => path,
            KeySource::Secret(_) | KeySource::JwksUrl(_) => return Ok(()),
        };
        let field = || self.source.to_string();
        let content = read(path).map_err(|error| KeyFileFault::Io { source_field: field(), error })?;
        self.take(&content).map_err(|fault| KeyFileFault::Key { source_field: field(), fault })
    }

    /// Reads the keys at the start of the process: files must be readable, and a JWK Set at a URL is waited for, but not long.
    ///
    /// # Errors
    ///
    /// As [`TokenVerifier::load`].
    pub async fn start(&self) -> Result<(), KeyFileFault> {
        self.load()?;
        if let KeySource::JwksUrl(_) = self.source {
            let _ = tokio::time::timeout(READY_WITHIN, self.reread()).await;
        }
        Ok(())
    }

    /// Reads a JWK Set again and again, and sooner if a token comes with an unknown key. Ends at once for other keys.
    pub async fn refresh(self: Arc<TokenVerifier>) {
        if !self.source.is_jwks() {
            return;
        }
        let pause = LEAST_PAUSE.min(self.refresh);
        if !self.has_keys() && !self.is_failing.load(Ordering::Relaxed) {
            // The start did not wait for the answer.
            self.reread().await;
        }
        loop {
            let read = Instant::now();
            let next =
                if self.is_failing.load(Ordering::Relaxed) || !self.has_keys() { pause } else { self.refresh };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = self.wanted.notified() => tokio::time::sleep_until(read + pause).await,
            }
            self.reread().await;
        }
    }

    /// The bearer token of a request.
    pub fn bearer(&self, fields: &HeaderMap) -> BearerToken {
        let verified = match bearer::token_of(fields) {
            Ok(None) => return BearerToken::Absent,
            Ok(Some(token)) => self.verified(token),
            Err(fault) => Err(fault),
        };
        verified.map_or_else(BearerToken::Refused, BearerToken::Verified)
    }

    fn verified(&self, token: &str) -> Result<Arc<VerifiedToken>, TokenFault> {
        let keys = self.keys.load();
        let Some(keys) = &*keys else {
            self.wanted.notify_one();
            return Err(TokenFault::NoKeys);
        };
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(remembered) = keys.verified.get(&digest) {
            return Ok(remembered.token);
        }
        match keys.keys.verify(token, &self.checks) {
            Ok(verified) => {
                let verified = Arc::new(verified);
                keys.verified.insert(digest, Remembered { token: Arc::clone(&verified), length: token.len() });
                Ok(verified)
            }
            Err(fault) => {
                if fault == TokenFault::UnknownKey {
                    self.wanted.notify_one();
                }
                Err(fault)
            }
        }
    }

    fn has_keys(&self) -> bool {
        self.keys.load().is_some()
    }

    fn put(&self, keys: KeySet, digest: [u8; 32]) {
        self.key_count.set(keys.len().try_into().unwrap_or(i64::MAX));
        let verified = Cache::with_weighter(1024, REMEMBERED, ByEstimate);
        self.keys.store(Some(Arc::new(KeysInForce { digest, keys, verified })));
    }

    /// Puts the keys of a file's or JWK Set's content in force, unless they are.
    fn take(&self, content: &[u8]) -> Result<(), KeyFault> {
        let digest: [u8; 32] = Sha256::digest(content).into();
        if self.keys.load().as_ref().is_some_and(|keys| keys.digest == digest) {
            return Ok(());
        }
        let keys = match &self.source {
            // Editors end the last line.
            KeySource::Secret(_) | KeySource::SecretFile(_) => {
                let ends = content.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                KeySet::of_secret(&content[..content.len() - ends], &self.checks)
            }
            KeySource::PublicKeyFile(_) => KeySet::of_pem(content, &self.checks),
            KeySource::JwksFile(_) | KeySource::JwksUrl(_) => KeySet::of_jwks(content, &self.checks),
        }?;
        if keys.is_empty() {
            tracing::warn!(jwks = %self.source, "the JWK Set has no key that can verify tokens: requests with tokens are forwarded");
        }
        self.put(keys, digest);
        Ok(())
    }

    /// Reads the JWK Set. If that fails, the keys in force stay, and the first failure in a row is logged.
    async fn reread(&self) {
        let content = match &self.source {
            KeySource::JwksUrl(url) => jwks::fetch(url).await,
            KeySource::JwksFile(path) => {
                read(path).map(Into::into).map_err(|error| JwksFault::File(error.to_string()))
            }
            KeySource::Secret(_) | KeySource::SecretFile(_) | KeySource::PublicKeyFile(_) => return,
        };
        let taken = content.and_then(|content| self.take(&content).map_err(JwksFault::Key));
        let was_failing = self.is_failing.swap(taken.is_err(), Ordering::Relaxed);
        match taken {
            Ok(()) if was_failing => tracing::info!(jwks = %self.source, "the JWK Set can be read again"),
            Ok(()) => {}
            Err(fault) => {
                self.failures.inc();
                if !was_failing {
                    let keys = if self.has_keys() {
                        "the keys read before stay in force"
                    } else {
                        "no token can be verified"
                    };
                    tracing::warn!(jwks = %self.source, %fault, "cannot read the JWK Set: {keys}; trying again");
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut content = Vec::new();
    fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(content)
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenVerifier({})", self.source)
    }
}

//! Turns `rules.toml`, flags and environment into a checked [`Config`]. Reports every fault, each with file, line,
//! column, the faulty text and a remedy.
//!
//! [`Config::parse`] is pure; [`Config::load`] also reads the file. The upstream is optional, since `check` and
//! `explain` can do without; `serve` requires it.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use md5::{Digest as _, Md5};

use self::alerts::AlertsConfig;
use self::traces::TracesConfig;
use crate::rules::RuleSet;
use crate::rules::fault::{Fault, Faults, Source};
use crate::rules::reader::{Env, Expansions, RulesReader, Table};

#[macro_use]
mod settings;

pub(crate) mod address;
pub mod admin;
pub mod alerts;
mod fields;
pub mod jwt;
pub mod lint;
mod log;
mod memory;
pub mod purge;
mod restart;
pub mod schema;
mod server;
mod store;
pub mod store_url;
pub mod token;
pub mod traces;
pub mod warm;

pub use self::admin::AdminConfig;
pub use self::jwt::{JwtConfig, KeySource};
pub use self::log::{AccessOutput, LogConfig, LogFormat};
pub use self::memory::MemoryConfig;
pub use self::purge::PurgeConfig;
pub use self::server::{CacheStatus, HostPolicy, OnIncomplete, ServerConfig, UpstreamTls};
pub use self::store::{Coherence, OnOutage, StoreConfig};
pub use self::token::{Role, Token, TokenSecret};
pub use self::warm::WarmTable;

/// Largest rules file, in bytes.
pub const MAX_FILE: usize = 4 << 20;

/// The configuration of a running Larder.
#[derive(Debug)]
pub struct Config {
    pub server: ServerConfig,
    pub admin: AdminConfig,
    /// Who may send PURGE and BAN to the proxy; `None`: nobody, and they are forwarded as other writes are.
    pub purge: Option<PurgeConfig>,
    /// `None` for an embedded cache, in memory only.
    pub store: Option<StoreConfig>,
    pub memory: MemoryConfig,
    pub log: LogConfig,
    /// `None`: requests are not traced
    pub traces: Option<TracesConfig>,
    /// `None` if no family identifies callers by claims of bearer tokens.
    pub jwt: Option<JwtConfig>,
    pub alerts: AlertsConfig,
    pub rules: RuleSet,
    /// `[[warm]]`, in file order
    pub warm: Vec<WarmTable>,
    /// Path of the rules file, if any.
    pub file: Option<PathBuf>,
    /// MD5 of the file's content as read. The file watcher compares it with the current content.
    pub digest: Option<Digest>,
    /// The strings of the file that have variables of the environment.
    pub expansions: Expansions,
    /// The flags and variables that override the file, for a reload.
    pub overrides: Overrides,
}

/// Values of flags and of their `LARDER_…` variables. They override the file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--upstream`
    pub upstream: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--redis`
    pub redis: Option<String>,
    /// `--namespace`; without effect unless Redis is configured
    pub namespace: Option<String>,
    /// `LARDER_ADMIN_TOKEN`: replaces the file's tokens of this role
    pub admin_token: Option<String>,
    /// `LARDER_VIEWER_TOKEN`: replaces the file's tokens of this role
    pub viewer_token: Option<String>,
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overrides { upstream, listen, admin, redis, namespace, admin_token, viewer_token } = self;
        // For passwords and tokens, only whether they are set.
        let secret = |value: &Option<String>| value.as_ref().map(|_| "…");
        f.debug_struct("Overrides")
            .field("upstream", upstream)
            .field("listen", listen)
            .field("admin", admin)
            .field("redis", &secret(redis))
            .field("namespace", namespace)
            .field("admin_token", &secret(admin_token))
            .field("viewer_token", &secret(viewer_token))
            .finish()
    }
}

/// Why loading failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: cannot read the rules file: {source}: {remedy}", .path.display())]
    Io { path: PathBuf, source: Arc<io::Error>, remedy: &'static str },
    /// The file or a flag has faults.
    #[error(transparent)]
    Faults(Faults),
}

/// MD5 of a rules file's content.
pub type Digest = [u8; 16];

/// MD5 of a rules file's content, to detect edits.
pub fn digest(content: &[u8]) -> Digest {
    Md5::digest(content).into()
}

/// `[admin]` of a rules file, at most 4 MiB, whatever faults the file has: what cannot be read has its default.
///
/// # Errors
///
/// The file cannot be read, or a flag or variable is faulty.
pub fn admin_of(file: Option<&Path>, overrides: &Overrides, env: &Env<'_>) -> Result<AdminConfig, LoadError> {
    let bytes = file.map(read).transpose()?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let (reader, table) = RulesReader::open("-", &text, env);
    let mut root = reader.root(&table);
    let mut flags = Vec::new();
    let server = server::read_server(&mut root, overrides, &mut flags);
    let admin = admin::read_admin(&mut root, &server, overrides, &mut flags);
    if flags.is_empty() { Ok(admin) } else { Err(LoadError::Faults(Faults(flags))) }
}

impl Config {
    /// Reads and checks a rules file, at most 4 MiB. Without a file: the defaults, and no rules.
    pub fn load(file: Option<&Path>, overrides: &Overrides, env: &Env<'_>) -> Result<Config, LoadError> {
        match file {
            Some(path) => Config::check(path, &read(path)?, overrides, env),
            None => Config::parse("", "-", overrides, env).map_err(LoadError::Faults),
        }
    }

    /// Checks the content of the rules file at `path`.
    pub fn check(path: &Path, bytes: &[u8], overrides: &Overrides, env: &Env<'_>) -> Result<Config, LoadError> {
        Config::check_permitting(None, path, bytes, overrides, env)
    }

    /// The same for a content that somebody sends who may not know the environment: variables in other strings than these are faults, and
    /// are not looked up.
    pub fn check_permitting(
        permitted: Option<&Expansions>,
        path: &Path,
        bytes: &[u8],
        overrides: &Overrides,
        env: &Env<'_>,
    ) -> Result<Config, LoadError> {
        let name = path.display().to_string();
        let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(&name, bytes, error.valid_up_to()))?;
        let config =
            Config::parse_permitting(permitted, text, &name, overrides, env).map_err(LoadError::Faults)?;
        Ok(Config { file: Some(path.to_owned()), digest: Some(digest(bytes)), ..config })
    }

    /// Checks the text of a rules file. `file_name` is its name in faults. Pure.
    pub fn parse(text: &str, file_name: &str, overrides: &Overrides, env: &Env<'_>) -> Result<Config, Faults> {
        Config::parse_permitting(None, text, file_name, overrides, env)
    }

    fn parse_permitting(
        permitted: Option<&Expansions>,
        text: &str,
        file_name: &str,
        overrides: &Overrides,
        env: &Env<'_>,
    ) -> Result<Config, Faults> {
        let (reader, table) = RulesReader::open(file_name, text, env);
        let reader = reader.permitting(permitted);
        let mut root = reader.root(&table);
        let (config, mut flags) = Config::read(&mut root, overrides);
        root.finish();
        let config = Config { expansions: reader.expansions(), ..config };
        flags.extend(reader.finish());
        if flags.is_empty() { Ok(config) } else { Err(Faults(flags)) }
    }

    /// Reads every table. Returns the faults of flags; those of the file go to its reader.
    fn read(root: &mut Table<'_>, overrides: &Overrides) -> (Config, Vec<Fault>) {
        let mut flags = Vec::new();
        let server = server::read_server(root, overrides, &mut flags);
        let admin = admin::read_admin(root, &server, overrides, &mut flags);
        let mut rules = RuleSet::read(root, server.case_insensitive_paths);
        admin::check_scopes(root, &admin, &rules);
        server::refuse_credentials_in_tags(root, &rules, &server.credential_headers);
        let is_compressed = rules.stated().iter().any(|family| family.compress == Some(true));
        let store = store::read_store(root, (&server, is_compressed), overrides, &mut flags);
        let config = Config {
            warm: warm::read(root, &server, &mut rules),
            jwt: jwt::read_jwt(root, rules.identify_by_claims()),
            rules,
            alerts: alerts::read(root, store.is_some()),
            store,
            memory: memory::read_memory(root),
            log: log::read_log(root),
            purge: purge::read_purge(root, &admin),
            traces: traces::read(root),
            server,
            admin,
            file: None,
            digest: None,
            expansions: Expansions::default(),
            overrides: overrides.clone(),
        };
        (config, flags)
    }
}

/// Reads a rules file, at most 4 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_bounded(path).map_err(|source| unreadable(path, source))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => "create it, or name another file",
        io::ErrorKind::PermissionDenied => "let the user that runs Larder read it",
        io::ErrorKind::FileTooLarge => "fold several families into one pattern",
        io::ErrorKind::IsADirectory => "name a file in it",
        _ => "mend that, or name another file",
    };
    LoadError::Io { path: path.to_owned(), source: Arc::new(source), remedy }
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> LoadError {
    let text = String::from_utf8_lossy(bytes);
    // The lossy text equals the original up to here, so the position is the same.
    let fault: Fault =
        Source::new(name, &text).fault(valid..valid + 1, "the file is not UTF-8 here", "save it as UTF-8");
    LoadError::Faults(Faults(vec![fault]))
}

#[cfg(test)]
mod tests;

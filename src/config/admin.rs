//! `[admin]`: where the admin listens, who may call it, and by which names browsers may.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::fields::{checked, flag, passed, section, set};
use super::{Overrides, ServerConfig, address};
use crate::rules::fault::Fault;
use crate::rules::nearest::did_you_mean;
use crate::rules::reader::{Item, Table, Text};
use crate::rules::{RuleSet, Warning};
use crate::tokens::{SHORTEST, TokenDigest, covers, digest};

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// `listen` as configured, default 127.0.0.1:9090. Without tokens, the loopback address is bound instead.
    pub listen: SocketAddr,
    /// `tokens = [{ role = "admin", token = "${LARDER_ADMIN_TOKEN}" }]`; empty tokens are dropped
    pub tokens: Vec<Token>,
    /// Line of `tokens` in the rules file, from 1; 1 if they come from the environment alone.
    pub tokens_line: usize,
    /// `hosts = ["larder.example"]`: names under which requests may reach the admin, in lower case and without port, beside loopback names
    /// and addresses; default: none
    pub hosts: Vec<String>,
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            tokens: Vec::new(),
            tokens_line: 1,
            hosts: Vec::new(),
        }
    }
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `name`: what logs call it; default: its role, and its place among several of that role
    pub name: String,
    pub role: Role,
    /// `families = ["user", "booking:*"]`: all that an admin token may purge, warm and bypass; default: everything
    pub families: Option<Vec<String>>,
    pub secret: TokenSecret,
}

/// Where the token itself comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSecret {
    /// `token`
    Text(String),
    /// `sha256`: 64 hex digits
    Digest(TokenDigest),
    /// `token_file`: read again when it changes
    File(PathBuf),
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSecret::Text(_) | TokenSecret::Digest(_) => f.write_str("…"),
            TokenSecret::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The permissions of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read only.
    Viewer,
    /// Read and change.
    Admin,
}

impl Role {
    /// As in the rules file.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Admin => "admin",
        }
    }
}

impl AdminConfig {
    /// Names of the changed settings that need a restart. Other tokens and hosts are in force at once; but without tokens the admin
    /// listens elsewhere.
    pub(super) fn differs(&self, other: &AdminConfig) -> Vec<&'static str> {
        let AdminConfig { listen, tokens, tokens_line: _, hosts: _ } = self;
        let first_tokens = tokens.is_empty() && !other.tokens.is_empty() && !listen.ip().is_loopback();
        let names = [
            (*listen != other.listen || first_tokens, "[admin] listen"),
            (!tokens.is_empty() && other.tokens.is_empty(), "[admin] tokens"),
        ];
        names.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name).collect()
    }
}

/// `[admin]`
pub fn read_admin(
    root: &mut Table<'_>,
    server: &ServerConfig,
    overrides: &Overrides,
    flags: &mut Vec<Fault>,
) -> AdminConfig {
    let mut admin = AdminConfig::default();
    let mut place = None;
    if let Some(mut table) = section(root, "admin") {
        place = table.item("listen");
        set(&mut admin.listen, place.as_ref().and_then(|item| checked(item, address::listen)));
        if let Some(item) = table.item("tokens") {
            admin.tokens_line = item.line();
            admin.tokens = read_tokens(&item);
        }
        admin.hosts = table.item("hosts").map(|item| read_hosts(&item)).unwrap_or_default();
        table.finish();
    }
    set(&mut admin.listen, flag("--admin", overrides.admin.as_deref(), address::listen, flags));
    override_tokens(&mut admin.tokens, Role::Admin, overrides.admin_token.as_deref(), flags);
    override_tokens(&mut admin.tokens, Role::Viewer, overrides.viewer_token.as_deref(), flags);
    if admin.listen == server.listen && admin.listen.port() != 0 {
        let (message, remedy) = ("is the address of the server too", "give the admin a port of its own");
        match place.filter(|_| overrides.admin.is_none()) {
            Some(item) => item.fault(message, remedy),
            None => flags.push(Fault::in_flag("--admin", message, remedy)),
        }
    }
    admin
}

/// Refuses scopes that name no family: they would allow nothing.
pub fn check_scopes(root: &mut Table<'_>, admin: &AdminConfig, rules: &RuleSet) {
    let scopes =
        admin.tokens.iter().flat_map(|token| token.families.iter().flatten().map(move |name| (token, name)));
    for (token, name) in scopes {
        if let Err(unknown) = rules.resolve(name, None) {
            let place = root.item("admin").map_or_else(|| root.span(), |item| item.span());
            let near: Vec<&str> = unknown.nearest.iter().map(String::as_str).collect();
            let remedy = did_you_mean(&near, || "name families of this file, or what a glob fits".to_owned());
            root.reader().fault(
                place,
                format!("token {:?}: families: unknown family {name:?}", token.name),
                remedy,
            );
        } else if !rules.families().iter().any(|family| covers(name, &family.name)) {
            let place = root.item("admin").map_or_else(|| root.span(), |item| item.span());
            root.reader().fault(
                place,
                format!(
                    "token {:?}: families: {name:?} is no whole family: the token could purge nothing",
                    token.name
                ),
                "name the family, such as \"user\" and not \"user:7\"",
            );
        }
    }
}

/// Warnings about tokens that can be guessed. Of a digest or a file the length is not known here.
pub fn warnings(admin: &AdminConfig) -> Vec<Warning> {
    let is_short = |token: &&Token| matches!(&token.secret, TokenSecret::Text(text) if text.len() < SHORTEST);
    let warning = |token: &Token| Warning {
        line: admin.tokens_line,
        message: format!(
            "[admin] token {:?} is shorter than {SHORTEST} characters: it can be guessed",
            token.name
        ),
        remedy: "use a random one: larder token makes it".to_owned(),
    };
    admin.tokens.iter().filter(is_short).map(warning).collect()
}

/// A token from the environment replaces the role's other tokens.
fn override_tokens(tokens: &mut Vec<Token>, role: Role, token: Option<&str>, flags: &mut Vec<Fault>) {
    let name = match role {
        Role::Admin => "LARDER_ADMIN_TOKEN",
        Role::Viewer => "LARDER_VIEWER_TOKEN",
    };
    let token = token.filter(|token| !token.is_empty());
    if flag(name, token, address::token, flags).is_some() {
        tokens.retain(|known| known.role != role);
        let secret = token.map(|token| TokenSecret::Text(token.to_owned()));
        tokens.extend(secret.map(|secret| Token { name: name.to_owned(), role, families: None, secret }));
    }
}

fn read_tokens(item: &Item<'_>) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for mut table in item.tables().unwrap_or_default() {
        let words = [("viewer", Role::Viewer), ("admin", Role::Admin)];
        let role = table.required("role", "write role = \"admin\" or \"viewer\"");
        let role = role.and_then(|item| item.choice(&words));
        let name = table.item("name").and_then(|item| read_name(&item, &tokens));
        let families = table.item("families");
        if let (Some(item), Some(Role::Viewer)) = (&families, role) {
            item.fault("has no effect: a viewer may not purge anything", "remove it, or write role = \"admin\"");
        }
        let families = families.and_then(|item| read_families(&item));
        let secret = read_secret(&mut table, &tokens);
        table.finish();
        if let (Some(role), Some(secret)) = (role, secret) {
            let name = name.unwrap_or_else(|| default_name(role, &tokens));
            tokens.push(Token { name, role, families, secret });
        }
    }
    tokens
}

/// `admin`, `admin-2`, …
fn default_name(role: Role, tokens: &[Token]) -> String {
    let same = tokens.iter().filter(|token| token.role == role).count();
    if same == 0 { role.word().to_owned() } else { format!("{}-{}", role.word(), same + 1) }
}

fn read_name(item: &Item<'_>, tokens: &[Token]) -> Option<String> {
    let text = item.filled()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if text.value.len() > 64 || !text.value.bytes().all(is_plain) {
        text.fault("is no name for logs", "use up to 64 letters, digits, \"-\", \"_\", \".\" and \"@\"");
        return None;
    }
    if tokens.iter().any(|known| known.name == text.value) {
        text.fault("is the name of two tokens", "give each a name of its own, so that logs tell them apart");
        return None;
    }
    Some(text.value)
}

fn read_families(item: &Item<'_>) -> Option<Vec<String>> {
    let texts = item.texts()?;
    if texts.is_empty() {
        item.fault("is empty: the token could purge nothing", "name families, or write role = \"viewer\"");
    }
    Some(texts.into_iter().map(|text| text.value).collect())
}

/// Exactly one of three fields. `None`: it is faulty, or empty.
fn read_secret(table: &mut Table<'_>, tokens: &[Token]) -> Option<TokenSecret> {
    let fields = ["token", "sha256", "token_file"].map(|name| table.item(name));
    match fields {
        [None, None, None] => {
            table.lacks(
                "token is missing",
                "write token = \"${…}\", sha256 = \"…\" (from larder token), or token_file = \"…\"",
            );
            None
        }
        [Some(token), None, None] => read_token(&token, tokens),
        [None, Some(sha256), None] => {
            let text = sha256.filled()?;
            let digest = passed(&text, address::sha256)?;
            is_new(&text, &TokenSecret::Digest(digest), tokens).then_some(TokenSecret::Digest(digest))
        }
        [None, None, Some(file)] => {
            let text = file.filled()?;
            let secret = TokenSecret::File(PathBuf::from(&text.value));
            is_new(&text, &secret, tokens).then_some(secret)
        }
        [one, two, three] => {
            if let Some(item) = [three, two, one].into_iter().flatten().next() {
                item.fault("is one of several", "keep one of token, sha256 and token_file");
            }
            None
        }
    }
}

fn read_token(item: &Item<'_>, tokens: &[Token]) -> Option<TokenSecret> {
    let text = item.text()?;
    let secret = TokenSecret::Text(text.value.clone());
    if !is_new(&text, &secret, tokens) {
        return None;
    }
    passed(&text, address::token)?;
    (!text.value.is_empty()).then_some(secret)
}

fn is_new(text: &Text<'_>, secret: &TokenSecret, tokens: &[Token]) -> bool {
    let digest_of = |secret: &TokenSecret| match secret {
        TokenSecret::Text(text) => Some(digest(text)),
        TokenSecret::Digest(digest) => Some(*digest),
        TokenSecret::File(_) => None,
    };
    let is_same = |known: &Token| {
        known.secret == *secret || digest_of(&known.secret).is_some_and(|it| Some(it) == digest_of(secret))
    };
    let is_new = !tokens.iter().any(is_same);
    if !is_new {
        text.fault("is listed twice, so its role is ambiguous", "give each role a token of its own");
    }
    is_new
}

fn read_hosts(item: &Item<'_>) -> Vec<String> {
    let texts = item.texts().unwrap_or_default();
    texts.iter().filter_map(|text| passed(text, address::host_name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const RULES: &str =
        "[server]\nupstream = 'http://h'\n[[family]]\nname = 'user'\npath = '/users(/(?<id>\\d+))?'\nttl = '1m'\n";

    fn read(tokens: &str) -> Result<AdminConfig, String> {
        let text = format!("{RULES}[admin]\n{tokens}\n");
        let config = Config::parse(&text, "rules.toml", &Overrides::default(), &|_| None);
        config
            .map(|config| config.admin)
            .map_err(|faults| format!("{} {}", faults.0[0].message, faults.0[0].remedy))
    }

    #[test]
    fn a_token_has_a_name_a_role_a_scope_and_one_of_three_secrets() {
        let hex = "ab".repeat(32);
        let admin = read(&format!(
            "hosts = ['Larder.Example']\ntokens = [{{ role = 'admin', token = 'a' }}, {{ role = 'admin', sha256 = '{hex}', name = 'ci', \
             families = ['user', 'us*'] }}, {{ role = 'viewer', token_file = '/run/t' }}, {{ role = 'viewer', token = 'b' }}]"
        ))
        .unwrap();
        let names: Vec<&str> = admin.tokens.iter().map(|token| token.name.as_str()).collect();
        assert_eq!(names, ["admin", "ci", "viewer", "viewer-2"]);
        assert_eq!(admin.tokens[1].secret, TokenSecret::Digest([0xab; 32]));
        assert_eq!(admin.tokens[1].families.as_deref(), Some(&["user".to_owned(), "us*".to_owned()][..]));
        assert_eq!(admin.tokens[2].secret, TokenSecret::File("/run/t".into()));
        assert_eq!(admin.hosts, ["larder.example"]);
    }

    #[test]
    fn tokens_and_hosts_that_mean_nothing_are_refused_with_a_remedy() {
        let digest_of_a = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        let both = format!(
            "tokens = [{{ role = 'admin', token = 'a' }}, {{ role = 'admin', sha256 = '{digest_of_a}' }}]"
        );
        let rows = [
            ("tokens = [{ role = 'admin' }]", "larder token"),
            ("tokens = [{ role = 'admin', token = 'a', sha256 = 'b' }]", "keep one"),
            ("tokens = [{ role = 'admin', sha256 = 'abc' }]", "larder token"),
            ("tokens = [{ role = 'viewer', token = 'a', families = ['user'] }]", "has no effect"),
            ("tokens = [{ role = 'admin', token = 'a', families = [] }]", "could purge nothing"),
            ("tokens = [{ role = 'admin', token = 'a', families = ['usr'] }]", "did you mean \"user\""),
            ("tokens = [{ role = 'admin', token = 'a', families = ['user:7'] }]", "is no whole family"),
            ("tokens = [{ role = 'admin', token = 'a', name = 'a b' }]", "no name for logs"),
            (both.as_str(), "listed twice"),
            ("hosts = ['http://larder.example']", "without scheme"),
            ("hosts = ['larder.example:9090']", "without scheme"),
        ];
        for (tokens, expected) in rows {
            let said = read(tokens).unwrap_err();
            assert!(said.contains(expected), "{tokens}: {said}");
        }
    }

    #[test]
    fn a_warning_about_a_short_token_does_not_show_it() {
        let warned = |tokens: &str| warnings(&read(tokens).unwrap());
        let [warning] = &warned("tokens = [{ role = 'admin', name = 'ci', token = 'fifteen-letters' }]")[..]
        else {
            panic!()
        };
        assert!(warning.message.contains("\"ci\"") && warning.line == 8, "{warning:?}");
        assert!(!warning.message.contains("fifteen") && warning.remedy.contains("larder token"), "{warning:?}");
        assert_eq!(warned("tokens = [{ role = 'admin', token = 'sixteen-letters!' }]"), []);
        assert_eq!(warned("tokens = [{ role = 'viewer', token_file = '/run/t' }]"), []);
    }

    #[test]
    fn other_tokens_need_no_restart_but_the_last_one_and_a_public_first_one_do() {
        let with = |tokens: &str| read(tokens).unwrap();
        let (none, one) = (with(""), with("tokens = [{ role = 'admin', token = 'a' }]"));
        let other = with("tokens = [{ role = 'admin', token = 'b' }]\nhosts = ['h.example']");
        assert!(one.differs(&other).is_empty() && none.differs(&one).is_empty());
        assert_eq!(one.differs(&none), ["[admin] tokens"]);
        let public = AdminConfig { listen: "0.0.0.0:9090".parse().unwrap(), ..none };
        assert_eq!(public.differs(&AdminConfig { listen: public.listen, ..one }), ["[admin] listen"]);
    }
}

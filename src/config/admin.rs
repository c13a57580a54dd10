//! `[admin]`: where the admin listens, who may call it, and by which names browsers may.

use std::net::{Ipv4Addr, SocketAddr};

use super::fields::{all_passing, checked, flag, section, set};
use super::token::{SHORTEST, covers, override_tokens, read_tokens};
use super::{Overrides, Role, ServerConfig, Token, TokenSecret, address};
use crate::rules::fault::Fault;
use crate::rules::nearest::did_you_mean;
use crate::rules::reader::Table;
use crate::rules::{RuleSet, Warning};

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
        admin.hosts = table.read("hosts", |item| all_passing(&item, address::host_name)).unwrap_or_default();
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
        let (message, remedy) = if let Err(unknown) = rules.resolve(name, None) {
            let near: Vec<&str> = unknown.nearest.iter().map(String::as_str).collect();
            let remedy = did_you_mean(&near, || "name families of this file, or what a glob fits".to_owned());
            (format!("unknown family {name:?}"), remedy)
        } else if !rules.families().iter().any(|family| covers(name, &family.name)) {
            let message = format!("{name:?} is no whole family: the token could purge nothing");
            (message, "name the family, such as \"user\" and not \"user:7\"".to_owned())
        } else {
            continue;
        };
        let place = root.item("admin").map_or_else(|| root.span(), |item| item.span());
        root.reader().fault(place, format!("token {:?}: families: {message}", token.name), remedy);
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
            let message = read(tokens).unwrap_err();
            assert!(message.contains(expected), "{tokens}: {message}");
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

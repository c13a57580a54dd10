//! `[purge]`: PURGE and BAN requests at the proxy, as users of Varnish send them.

use super::AdminConfig;
use super::fields::{all_passing, section};
use crate::config::address;
use crate::network::Network;
use crate::rules::reader::{Item, Table};

/// `[purge]`: who may send PURGE and BAN to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeConfig {
    /// `from = ["127.0.0.1", "10.0.0.0/8"]`: addresses, or networks, of clients ([`crate::client::is_from`]); default: none
    pub from: Vec<Network>,
    /// `tokens = true`: everybody with an admin token of `[admin] tokens` in Authorization; default: false
    pub tokens: bool,
}

/// `[purge]`; `None` without it.
pub fn read_purge(root: &mut Table<'_>, admin: &AdminConfig) -> Option<PurgeConfig> {
    let mut table = section(root, "purge")?;
    let from = table.read("from", |item| all_passing(&item, address::network)).unwrap_or_default();
    let by_token = table.item("tokens");
    let tokens = by_token.as_ref().and_then(Item::boolean).unwrap_or(false);
    if let Some(item) = by_token.filter(|_| tokens && admin.tokens.is_empty()) {
        item.fault("has no effect: there are no tokens", "add [admin] tokens with role = \"admin\", or remove it");
    } else if from.is_empty() && !tokens {
        let remedy = "write from = [\"127.0.0.1\"], or tokens = true; or remove the table: PURGE and BAN are forwarded then";
        table.lacks("nobody may send PURGE or BAN", remedy);
    }
    table.finish();
    Some(PurgeConfig { from, tokens })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Overrides};
    use super::*;

    fn read(text: &str) -> Result<Option<PurgeConfig>, String> {
        let text = format!("[server]\nupstream = 'http://h'\n{text}\n");
        let config = Config::parse(&text, "rules.toml", &Overrides::default(), &|_| None);
        config
            .map(|config| config.purge)
            .map_err(|faults| format!("{} {}", faults.0[0].message, faults.0[0].remedy))
    }

    #[test]
    fn addresses_and_tokens_are_read_and_a_table_for_nobody_is_refused() {
        assert_eq!(read(""), Ok(None));
        let purge = read("[purge]\nfrom = ['127.0.0.1', '10.0.0.0/8']").unwrap().unwrap();
        assert_eq!(purge.from, ["127.0.0.1", "10.0.0.0/8"].map(|text| Network::parse(text).unwrap()));
        let with_token = "[admin]\ntokens = [{ role = 'admin', token = 't' }]\n[purge]\ntokens = true";
        assert!(read(with_token).unwrap().unwrap().tokens);
        for (text, expected) in [
            ("[purge]", "nobody may send"),
            ("[purge]\nfrom = []", "nobody may send"),
            ("[purge]\ntokens = true", "there are no tokens"),
            ("[purge]\nfrom = ['example']", "'example'"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected) || expected.starts_with('\''), "{text}: {message}");
        }
    }
}

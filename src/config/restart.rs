//! Tells which changed settings take effect only after a restart.

use super::{Config, JwtConfig, MemoryConfig, StoreConfig, TracesConfig};

/// The fields of a table that differ, or the table if only one of both files has it.
fn of_table<T>(
    name: &'static str,
    (one, other): (Option<&T>, Option<&T>),
    differing: impl Fn(&T, &T) -> Vec<&'static str>,
) -> Vec<&'static str> {
    match (one, other) {
        (Some(one), Some(other)) => differing(one, other),
        (None, None) => Vec::new(),
        _ => vec![name],
    }
}

impl Config {
    /// Names of the changed settings that need a restart: all but the rules, `[[warm]]`, `[alerts]` and `[memory] max_body`.
    pub fn differs(&self, other: &Config) -> Vec<&'static str> {
        let mut names = self.server.differing(&other.server);
        names.extend(self.admin.differs(&other.admin));
        if self.purge != other.purge {
            names.push("[purge]");
        }
        names.extend(of_table("[store]", (self.store.as_ref(), other.store.as_ref()), StoreConfig::differing));
        names.extend(of_table("[jwt]", (self.jwt.as_ref(), other.jwt.as_ref()), JwtConfig::differs));
        let live = MemoryConfig { max_body: other.memory.max_body, ..self.memory.clone() };
        names.extend(live.differing(&other.memory));
        names.extend(self.log.differing(&other.log));
        names.extend(of_table("[traces]", (self.traces.as_ref(), other.traces.as_ref()), TracesConfig::differing));
        names
    }
}

impl JwtConfig {
    /// Other keys have the name of the field that they are in.
    fn differs(&self, other: &JwtConfig) -> Vec<&'static str> {
        let names = self.differing(&JwtConfig { line: self.line, ..other.clone() });
        names.into_iter().map(|name| if name == "[jwt] keys" { other.keys.name() } else { name }).collect()
    }
}

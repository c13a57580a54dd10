//! Tells which changed settings take effect only after a restart.

use super::{Config, JwtConfig, LogConfig, MemoryConfig, ServerConfig, StoreConfig, TracesConfig};

/// Adds the names of the fields that differ. The pattern names every field, so that a new one cannot be forgotten.
macro_rules! differing {
    ($names:ident, $table:literal, $type:ident, $one:expr, $other:expr, [$($field:ident),+ $(,)?]) => {{
        let ($type { $($field),+ }, other) = ($one, $other);
        $(if *$field != other.$field {
            $names.push(concat!("[", $table, "] ", stringify!($field)));
        })+
    }};
}

impl Config {
    /// Names of the changed settings that need a restart: all but the rules, `[[warm]]`, `[alerts]` and `[memory] max_body`.
    pub fn differs(&self, other: &Config) -> Vec<&'static str> {
        let mut names = Vec::new();
        differing!(
            names,
            "server",
            ServerConfig,
            &self.server,
            &other.server,
            [
                listen,
                upstream,
                host,
                forwarded,
                trusted_proxies,
                connect_timeout,
                upstream_timeout,
                reinvalidate_after,
                idle_timeout,
                header_timeout,
                drain_timeout,
                max_connections,
                max_connections_per_client,
                max_streams_per_client,
                max_heads,
                max_upstream_requests,
                max_upstream_requests_per_client,
                max_unshared_per_client,
                max_upstream_streams,
                max_upstream_streams_per_client,
                stream_after,
                collapse_wait,
                upgrades,
                stream_timeout,
                max_head,
                max_query_body,
                max_rule_body,
                upload_rate,
                download_rate,
                on_incomplete,
                login,
                underscores,
                credential_headers,
                case_insensitive_paths,
                upstream_keep_alive,
                resolver,
                cache_status,
                group_fields,
                upstream_tls,
            ]
        );
        names.extend(self.admin.differs(&other.admin));
        if self.purge != other.purge {
            names.push("[purge]");
        }
        match (&self.store, &other.store) {
            (Some(store), Some(other)) => differing!(
                names,
                "store",
                StoreConfig,
                store,
                other,
                [
                    redis,
                    login,
                    password_file,
                    tls_ca,
                    tls_identity,
                    namespace,
                    version,
                    compress,
                    compress_above,
                    secret,
                    timeout,
                    connect_timeout,
                    marks_max,
                    coherence,
                    lease,
                    on_outage,
                    wait_replicas,
                    collapse_timeout,
                    sweep_rate,
                    sweep_pause,
                ]
            ),
            (None, None) => {}
            _ => names.push("[store]"),
        }
        match (&self.jwt, &other.jwt) {
            (Some(jwt), Some(other)) => differing!(
                names,
                "jwt",
                JwtConfig,
                jwt,
                JwtConfig { line: jwt.line, ..other.clone() },
                [keys, algorithms, audience, issuer, leeway, require_exp, jwks_refresh, line]
            ),
            (None, None) => {}
            _ => names.push("[jwt]"),
        }
        if let Some(jwt) = &other.jwt
            && let Some(keys) = names.iter_mut().find(|name| **name == "[jwt] keys")
        {
            *keys = jwt.keys.name();
        }
        let live = MemoryConfig { max_body: other.memory.max_body, ..self.memory.clone() };
        differing!(names, "memory", MemoryConfig, &live, &other.memory, [capacity, max_body, marks]);
        differing!(
            names,
            "log",
            LogConfig,
            &self.log,
            &other.log,
            [format, access, access_format, access_to, level]
        );
        match (&self.traces, &other.traces) {
            (Some(traces), Some(other)) => {
                differing!(names, "traces", TracesConfig, traces, other, [endpoint, sample, headers, service]);
            }
            (None, None) => {}
            _ => names.push("[traces]"),
        }
        names
    }
}

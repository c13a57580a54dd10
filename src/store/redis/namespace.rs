//! [`Namespace`]: the names of all keys of one namespace, the scripts, and the start of an epoch.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Script, ScriptInvocation};

use super::connections::RedisConnections;
use crate::marks::{Epoch, MarksView, Stamp};

/// Defines [`Namespace`]: keys and scripts have the names of their fields; `with_epoch` are the scripts that begin with `epoch.lua`.
macro_rules! namespace {
    (keys: $($key:ident)+; with_epoch: $($fleet:ident)+; alone: $($alone:ident)+;) => {
        /// Names of the keys and the scripts of one namespace. Independent of connections.
        pub(super) struct Namespace {
            pub(super) name: String,
            $(pub(super) $key: String,)+
            pub(super) channel: String,
            pub(super) marks_max: u64,
            $(pub(super) $fleet: Script,)+
            $(pub(super) $alone: Script,)+
            /// Commands of every lookup.
            pub(super) read: ReadCommands,
            /// Whether there may be soft marks, so that they have to be read.
            pub(super) soft: AtomicBool,
            /// Whether this process has seen an epoch of the namespace before; only for the log.
            pub(super) met: AtomicBool,
        }

        impl Namespace {
            pub(super) fn new(name: &str, marks_max: u64) -> Namespace {
                Namespace {
                    name: name.to_owned(),
                    // Hash tag: in a cluster, a script needs all of them in one slot.
                    $($key: format!(concat!("{{{}}}:", stringify!($key)), name),)+
                    channel: format!("{{{name}}}:fleet"),
                    marks_max: marks_max.max(1),
                    $($fleet: Script::new(concat!(include_str!("../epoch.lua"), script!($fleet))),)+
                    $($alone: Script::new(script!($alone)),)+
                    read: ReadCommands::new(&format!("{{{name}}}:meta")),
                    soft: AtomicBool::new(false),
                    met: AtomicBool::new(false),
                }
            }
        }
    };
}

macro_rules! script {
    ($name:ident) => {
        include_str!(concat!("../", stringify!($name), ".lua"))
    };
}

namespace! {
    keys: meta marks members intents intent_tags graces registry bypasses waited sweeper warmer key_stats log;
    with_epoch: begin invalidate sync roster record dismiss leave set_bypass;
    alone: forget expel lock_fetch unlock_fetch hold_sweep store_key_stats;
}

/// The commands of a lookup that are always the same.
pub(super) struct ReadCommands {
    /// The last sequence issued.
    pub(super) sequence: Cmd,
    /// A write that changes nothing in a complete namespace.
    pub(super) write: Cmd,
    pub(super) meta: Cmd,
}

impl ReadCommands {
    fn new(meta: &str) -> ReadCommands {
        let command = |name: &str, arguments: &[&str]| {
            let mut command = redis::cmd(name);
            command.arg(meta).arg(arguments);
            command
        };
        ReadCommands {
            sequence: command("HGET", &["seq"]),
            write: command("HSETNX", &["born", "0"]),
            meta: command("HMGET", &["epoch", "seq", "floor", "run_id", "soft_invalidated"]),
        }
    }
}

impl Namespace {
    pub(super) fn entry(&self, key: &str) -> String {
        [&self.name, ":", key].concat()
    }

    /// The `label` of `ns:label:digest:v1`.
    pub(super) fn label<'k>(&self, key: &'k [u8]) -> Option<Cow<'k, str>> {
        let rest = key.strip_prefix(self.name.as_bytes())?.strip_prefix(b":")?.strip_suffix(b":v1")?;
        let end = rest.iter().rposition(|byte| *byte == b':')?;
        Some(String::from_utf8_lossy(&rest[..end]))
    }

    /// Starts a new epoch unless another proxy has meanwhile. The marks of the view's tags were read before that, so the view
    /// treats all of them as set by the last sequence: only entries with a later stamp are current.
    pub(super) async fn begin(&self, connections: &RedisConnections) -> RedisResult<MarksView> {
        let call = self.call(&self.begin, connections);
        let (epoch, sequence, cause): (u64, u64, String) = call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &cause);
        Ok(MarksView::hard(Stamp { epoch: Epoch(epoch), sequence }, sequence))
    }

    /// A call of a script that begins with `epoch.lua`, with the keys and arguments that this needs.
    pub(super) fn call<'s>(&self, script: &'s Script, connections: &RedisConnections) -> ScriptInvocation<'s> {
        let mut call = script.key(&self.meta);
        call.key(&self.marks).key(&self.members).key(&self.intents).key(&self.intent_tags);
        call.key(&self.graces);
        call.arg(connections.run_id()).arg(new_epoch()).arg(&self.channel);
        call
    }

    /// Logs one line per epoch in the whole fleet: only the proxy that started it has a cause. `cause` is the script's reply;
    /// empty if none was started.
    pub(super) fn log_new_epoch(&self, epoch: u64, cause: &str) {
        let met_before = self.met.swap(true, Relaxed);
        match cause {
            "" => {}
            "new" if !met_before => tracing::info!(epoch, "epoch started: the namespace is new"),
            "new" => {
                tracing::warn!(
                    epoch,
                    "epoch changed: new, the namespace was flushed; all entries are invalidated"
                );
            }
            "restarted" => tracing::warn!(
                epoch,
                "epoch changed: restarted, or another server took its place (run_id); all entries are invalidated"
            ),
            lost => {
                tracing::warn!(
                    epoch,
                    "epoch changed: {lost}, evicted, deleted or changed; all entries are invalidated"
                );
            }
        }
    }

    /// One `SCAN` step over the entries of one server: the next cursor (0 at the end) and some keys.
    pub(super) async fn scan(
        &self,
        mut node: MultiplexedConnection,
        cursor: u64,
        keys: u64,
    ) -> RedisResult<(u64, Vec<Bytes>)> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}:*:v1", self.name)).arg("COUNT").arg(keys);
        // Other types are not entries.
        scan.arg("TYPE").arg("string");
        scan.query_async(&mut node).await
    }
}

/// A random epoch, so that two runs of sequences are never confused. Never 0, which means none.
fn new_epoch() -> u64 {
    rand::random_range(1..=u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn label_is_the_text_between_namespace_and_digest(label in "[a-z_:-]{1,20}", digest in "[0-9a-f]{32}") {
            let namespace = Namespace::new("shop", 1);
            let key = namespace.entry(&format!("{label}:{digest}:v1"));
            let found = namespace.label(key.as_bytes());
            prop_assert_eq!(found.as_deref(), Some(label.as_str()));
        }
    }

    #[test]
    fn foreign_keys_have_no_label() {
        let namespace = Namespace::new("shop", 1);
        for key in ["shop2:a:0:v1", "shop:a:0:v2", "shop:a:0:v1:lock", "shop:0:v1", "shop", ""] {
            assert_eq!(namespace.label(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn coordination_keys_share_one_slot() {
        let namespace = Namespace::new("shop", 1);
        assert_eq!((namespace.meta.as_str(), namespace.marks.as_str()), ("{shop}:meta", "{shop}:marks"));
        let Namespace {
            members,
            intents,
            intent_tags,
            graces,
            registry,
            bypasses,
            waited,
            channel,
            sweeper,
            warmer,
            key_stats,
            log,
            ..
        } = &namespace;
        for name in [
            members,
            intents,
            intent_tags,
            graces,
            registry,
            bypasses,
            waited,
            channel,
            sweeper,
            warmer,
            key_stats,
            log,
        ] {
            assert!(name.starts_with("{shop}:"), "{name}");
        }
    }
}

//! Purges with the name of a deployment are carried out once: a pipeline that is run again, or that runs on several machines, gets the
//! receipt of the first. They are remembered for a day, in Redis for the whole fleet, and in this process without it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use md5::{Digest as _, Md5};
use serde_json::Value;

use crate::mutex::lock;
use crate::store::Store;

/// How long a deployment is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Most deployments that are remembered in memory.
const MOST: usize = 256;

/// The receipts of this process's deployments, where there is no Redis; the latest last.
#[derive(Debug, Default)]
pub struct Deploys(Mutex<VecDeque<(String, Instant, Value)>>);

/// Names a purge: the same deployment with other content is another purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployKey(String);

impl DeployKey {
    /// `content`: what is purged.
    pub fn new(deploy: &str, content: &str) -> DeployKey {
        let mut digest = Md5::new();
        digest.update(deploy.as_bytes());
        digest.update([0]);
        digest.update(content.as_bytes());
        let digest: [u8; 16] = digest.finalize().into();
        DeployKey(format!("deploy:{:032x}", u128::from_be_bytes(digest)))
    }
}

impl Deploys {
    /// The receipt of this purge, if it was carried out.
    pub async fn receipt(&self, store: Option<&Arc<dyn Store>>, key: &DeployKey) -> Option<Value> {
        if let Some(store) = store {
            // If Redis is away, the purge is carried out again, which does no harm.
            // So it is if the key holds something else.
            return read_receipt(&store.get(&key.0).await.ok()??);
        }
        let known = lock(&self.0);
        let found = known.iter().find(|(known, at, _)| *known == key.0 && at.elapsed() < REMEMBERED);
        found.map(|(_, _, receipt)| receipt.clone())
    }

    /// Remembers it.
    pub async fn remember(&self, store: Option<&Arc<dyn Store>>, key: DeployKey, receipt: &Value) {
        if let Some(store) = store {
            let _ = store.put(&key.0, Bytes::from(receipt.to_string()), REMEMBERED).await;
            return;
        }
        let mut known = lock(&self.0);
        known.retain(|(_, at, _)| at.elapsed() < REMEMBERED);
        if known.len() >= MOST {
            known.pop_front();
        }
        known.push_back((key.0, Instant::now(), receipt.clone()));
    }
}

/// A receipt from Redis; none if it is no JSON object.
fn read_receipt(stored: &[u8]) -> Option<Value> {
    serde_json::from_slice(stored).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_json_object_is_a_receipt() {
        let rows =
            [("{\"id\":1}", true), ("[1]", false), ("\"id\"", false), ("7", false), ("null", false), ("{", false)];
        for (stored, expected) in rows {
            assert_eq!(read_receipt(stored.as_bytes()).is_some(), expected, "{stored}");
        }
    }
}

//! Explains the family's settings of what is stored, for how long, and what the caches behind Larder are told.

use super::Explainer;
use crate::http::clients::ClientCacheControl;

impl Explainer<'_> {
    /// Settings of lifetimes and storage that differ from their defaults.
    pub(super) fn about_policies(&self) -> Vec<String> {
        let Some((family, _)) = self.request.family() else {
            return self.about_store_version().into_iter().collect();
        };
        let policy = &family.policy;
        let mut notes = Vec::new();
        notes.extend(policy.until.map(|until| {
            format!("until = \"{until}\": every lifetime ends by that time of day, also one that the API states")
        }));
        notes.extend(policy.adaptive_ttl.map(|adaptive| {
            format!(
                "the family's ttl is multiplied when a response is stored, by the URL's rate of requests to this proxy \
                 ({adaptive}); a lifetime that upstream states is not"
            )
        }));
        notes.extend((!policy.negative_ttl.is_empty()).then(|| {
            format!(
                "negative_ttl ({}) is the lifetime of these statuses where upstream states none",
                policy.negative_ttl
            )
        }));
        notes.extend(family.version.as_ref().map(|version| {
            format!("the family's version = {version:?} is part of the key, by the digest of its definition")
        }));
        notes.extend(self.about_store_version());
        notes.extend(self.request.compress_above().map(|above| {
            format!("bodies over {above} bytes are compressed in Redis (zstd), unless they are compressed already")
        }));
        notes
    }

    fn about_store_version(&self) -> Option<String> {
        let version = self.live.store_version.as_ref()?;
        Some(format!("[store] version = {version:?} is part of the key: entries of other versions are not found"))
    }

    /// What clients and CDNs are told of their caches, where it is not what upstream says.
    pub(super) fn about_downstream(&self) -> Vec<String> {
        let Some((family, _)) = self.request.family() else { return Vec::new() };
        let client = match &family.client_cache_control {
            ClientCacheControl::Pass => None,
            ClientCacheControl::NoCache => Some(
                "clients are told no-cache whatever upstream says, since writes invalidate the family: they ask again, and get a \
                 304 while nothing has changed (client_cache_control = \"pass\" leaves it to upstream)"
                    .to_owned(),
            ),
            value @ ClientCacheControl::Value(_) => Some(format!(
                "clients are told {}, unless upstream says private, no-store or no-cache or answers with an error: then no-cache \
                 (client_cache_control)",
                value.text()
            )),
        };
        let cdn = family.cdn_cache_control.as_ref().map(|value| {
            format!(
                "CDNs are told {}, where upstream lets them store the response (cdn_cache_control, RFC 9213 §3)",
                String::from_utf8_lossy(value.as_bytes())
            )
        });
        client.into_iter().chain(cdn).collect()
    }
}

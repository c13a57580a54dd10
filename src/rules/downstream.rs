//! Reads what a family tells the caches behind Larder: `client_cache_control`, `cdn_cache_control`. Warns of what they keep
//! although writes invalidate it.

use std::time::Duration;

use http::HeaderValue;

use super::lint::Warning;
use super::nearest::{did_you_mean, listing, nearest};
use super::reader::{Item, Table, Text};
use super::{Family, RuleSet};
use crate::http::cache_control::{self, ResponseDirectives, Scope, WrongDirective};
use crate::http::clients::ClientCacheControl;
use crate::http::targeted;
use crate::key::Identity;

/// The fields that set the `Cache-Control` of clients and CDNs.
#[derive(Default)]
pub struct DownstreamCacheControl {
    /// `client_cache_control`: `no-cache`, `pass`, or a value of `Cache-Control`; `None` if the file does not say.
    pub clients: Option<ClientCacheControl>,
    /// `cdn_cache_control`: a value of `CDN-Cache-Control`.
    pub cdn: Option<HeaderValue>,
}

impl DownstreamCacheControl {
    /// Reads both fields. In a family that tells callers apart, neither may let caches share one caller's response.
    pub fn read(table: &mut Table<'_>, identity: &Identity) -> DownstreamCacheControl {
        let (client, cdn) = (table.item("client_cache_control"), table.item("cdn_cache_control"));
        let control = DownstreamCacheControl {
            clients: client.as_ref().and_then(read_client_cache_control),
            cdn: cdn.as_ref().and_then(read_cdn_cache_control),
        };
        if identity.tells_callers_apart() {
            const MESSAGE: &str = "lets caches give one caller's response to others: the family has an identity";
            let is_shared = |directives: &ResponseDirectives| {
                directives.private != Scope::Whole && directives.unasked_for() > 0
            };
            if let Some(item) = client.filter(|_| control.client_directives().as_ref().is_some_and(is_shared)) {
                item.fault(MESSAGE, "add private to it, such as \"private, max-age=60\"");
            }
            if let Some(item) = cdn.filter(|_| control.cdn_directives().as_ref().is_some_and(is_shared)) {
                item.fault(
                    MESSAGE,
                    "remove it, or write identity = \"none\" if every caller gets the same response",
                );
            }
        }
        control
    }

    fn client_directives(&self) -> Option<ResponseDirectives> {
        client_directives(self.clients.as_ref()?)
    }

    fn cdn_directives(&self) -> Option<ResponseDirectives> {
        cdn_directives(self.cdn.as_ref()?)
    }
}

fn client_directives(control: &ClientCacheControl) -> Option<ResponseDirectives> {
    match control {
        ClientCacheControl::Value(value) => cache_control::written(value.to_str().ok()?).ok(),
        ClientCacheControl::Pass | ClientCacheControl::NoCache => None,
    }
}

fn cdn_directives(value: &HeaderValue) -> Option<ResponseDirectives> {
    targeted::written(value.to_str().ok()?).ok()
}

fn read_client_cache_control(item: &Item<'_>) -> Option<ClientCacheControl> {
    let text = item.filled()?;
    match text.value.trim() {
        "no-cache" => Some(ClientCacheControl::NoCache),
        "pass" => Some(ClientCacheControl::Pass),
        value => read_value(&text, cache_control::written(value)).map(ClientCacheControl::Value),
    }
}

fn read_cdn_cache_control(item: &Item<'_>) -> Option<HeaderValue> {
    let text = item.filled()?;
    read_value(&text, targeted::written(text.value.trim()))
}

fn read_value(text: &Text<'_>, written: Result<ResponseDirectives, WrongDirective>) -> Option<HeaderValue> {
    const EXAMPLE: &str = "write directives such as \"max-age=60, stale-while-revalidate=30\"";
    let value = HeaderValue::from_str(text.value.trim()).ok();
    let wrong = match (written, value) {
        (Ok(_), Some(value)) => return Some(value),
        (Ok(_), None) => WrongDirective::Syntax,
        (Err(wrong), _) => wrong,
    };
    match wrong {
        WrongDirective::Syntax => {
            text.fault(format_args!("{:?} is not a list of directives", text.raw), EXAMPLE);
        }
        WrongDirective::Unknown(name) => {
            let names = || cache_control::directive_names();
            let remedy =
                did_you_mean(&nearest(&name, names().chain(["pass"])), || format!("known: {}", listing(names())));
            text.fault(format_args!("{:?} has an unknown directive, {name}", text.raw), remedy);
        }
        WrongDirective::Argument(name) => {
            let remedy = match cache_control::takes_seconds(&name) {
                Some(true) => format!("write {name}=60, a number of seconds"),
                _ => format!("write {name} without a value"),
            };
            text.fault(format_args!("{:?} has a wrong value for {name}", text.raw), remedy);
        }
        WrongDirective::Twice(name) => {
            text.fault(format_args!("{:?} has {name} twice", text.raw), "remove one");
        }
    }
    None
}

impl Family {
    /// How long clients and CDNs may use a response without asking, by the family's own settings.
    fn kept_downstream(&self) -> Option<(&'static str, Duration)> {
        let client = client_directives(&self.client_cache_control);
        let cdn = self.cdn_cache_control.as_ref().and_then(cdn_directives);
        let kept = [("client_cache_control", client), ("cdn_cache_control", cdn)];
        let kept = kept.into_iter().filter_map(|(name, directives)| Some((name, directives?.unasked_for())));
        let (name, seconds) = kept.filter(|(_, seconds)| *seconds > 0).max_by_key(|(_, seconds)| *seconds)?;
        Some((name, Duration::from_secs(seconds)))
    }
}

impl RuleSet {
    /// A family that rules invalidate, and whose responses clients or CDNs use without asking.
    pub(super) fn kept_downstream(&self, family: &Family) -> Option<Warning> {
        let (name, period) = family.kept_downstream()?;
        let rule = self.invalidations.iter().find(|rule| rule.reaches(family))?;
        Some(family.warning(
            format_args!(
                "{name} lets caches behind Larder use a response for {} after the rule for {:?} has \
                 invalidated it: Larder cannot invalidate what they store",
                humantime::format_duration(period),
                rule.path
            ),
            format!(
                "remove {name}, or leave it if responses may be that old; \"no-cache\" makes them \
                 ask"
            ),
        ))
    }
}

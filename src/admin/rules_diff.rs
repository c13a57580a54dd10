//! `POST /rules/diff`: what another rules file would change, with the numbers of the running cache. Nothing is changed.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::families::definitions;
use super::key_stats::CountedKeys;
use super::refusal::{ErrorBody, Refusal};
use super::report::{FamilyActivity, FamilyDefinition, InvalidationDefinition, Success};
use super::rules::edit_fault;
use super::state::{Answer, At};
use crate::rules::{RuleSet, Warning};
use crate::running::{Live, Running};

/// What a reload with another file would do.
#[derive(Serialize, ToSchema)]
pub struct RulesDiff {
    /// Whether the file changes nothing at all.
    unchanged: bool,
    /// Families that are added, removed or defined in another way.
    families: Vec<FamilyDiff>,
    /// Rules of `[invalidate]` that are new or changed.
    rules_added: Vec<InvalidationDefinition>,
    /// Rules that are in force now and not in the file.
    rules_removed: Vec<InvalidationDefinition>,
    /// Families that the reload invalidates once, since writes may have missed them.
    invalidated: Vec<String>,
    /// Changed fields that take effect only when Larder is started again.
    needs_restart: Vec<String>,
    /// What `larder check` warns of.
    warnings: Vec<Warning>,
}

#[derive(Serialize, ToSchema)]
struct FamilyDiff {
    name: String,
    /// `added`, `removed`, `changed`, or `same` if only its invalidation rules change.
    change: &'static str,
    settings: Vec<SettingDiff>,
    /// Paths of the rules that would invalidate it and do not now.
    invalidated_too_by: Vec<String>,
    /// Paths of the rules that invalidate it now and would not any more.
    not_invalidated_by: Vec<String>,
    /// What it has served and holds now; null for a family that is added.
    activity: Option<FamilyActivity>,
}

#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct SettingDiff {
    name: String,
    before: Value,
    after: Value,
}

/// What another rules file would change and invalidate; changes nothing
#[utoipa::path(post, path = "/rules/diff", tag = "rules",
    request_body(content = String, content_type = "text/plain", description = "the content of a rules file"),
    responses(
        (status = 200, body = Success<RulesDiff>),
        (status = 413, description = "more than 4 MiB", body = ErrorBody),
        (status = 422, description = "the file has faults", body = ErrorBody),
    ))]
pub async fn diff(State(state): At, content: Result<Bytes, BytesRejection>) -> Answer<RulesDiff> {
    let content = content.map_err(|rejection| {
        Refusal::new(
            rejection.status(),
            rejection.body_text(),
            "send the content of a rules file, of at most 4 MiB",
        )
    })?;
    if content.trim_ascii().is_empty() {
        let what_to_do = "send the content of a rules file: larder diff FILE does";
        return Err(Refusal::bad_request("there is no content", what_to_do));
    }
    let running = state.running();
    let preview = running.preview(&content).map_err(|error| {
        let fault = edit_fault(&error);
        let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault.summary(), fault.remedy());
        refusal.with("faults", json!(fault.faults))
    })?;
    let live = running.live();
    let counts = state.counts().await.ok();
    let families = families(running, &live, &preview.rules, counts.as_deref());
    let rules = |rules: &RuleSet| -> Vec<Value> { rules.invalidations().iter().map(rule).collect() };
    let (now, then) = (rules(&live.rules), rules(&preview.rules));
    let missing_in = |rules: &RuleSet, others: &[Value]| -> Vec<InvalidationDefinition> {
        let missing = rules.invalidations().iter().filter(|it| !others.contains(&rule(it)));
        missing.map(InvalidationDefinition::from).collect()
    };
    let (rules_added, rules_removed) = (missing_in(&preview.rules, &now), missing_in(&live.rules, &then));
    Ok(Json(Success::of(RulesDiff {
        unchanged: families.is_empty()
            && rules_added.is_empty()
            && rules_removed.is_empty()
            && preview.needs_restart.is_empty(),
        families,
        rules_added,
        rules_removed,
        invalidated: preview.invalidated,
        needs_restart: preview.needs_restart,
        warnings: preview.rules.warnings(),
    })))
}

/// A rule without its line, to be compared.
fn rule(rule: &crate::rules::Invalidation) -> Value {
    without(&InvalidationDefinition::from(rule), &["line"])
}

fn families(running: &Running, live: &Live, then: &RuleSet, counts: Option<&CountedKeys>) -> Vec<FamilyDiff> {
    let before = definitions(&live.rules);
    let after = definitions(then);
    let activity = |name: &str| {
        let id = live.rules.family(name)?.id;
        let counters = live.counters(Some(id));
        let kept = counts.map_or((None, None), |counts| counts.of(&counters.family));
        Some(FamilyActivity::new(counters, kept, running.metrics.refetches(&counters.family)))
    };
    let of = |definitions: &[FamilyDefinition], name: &str| -> Option<usize> {
        definitions.iter().position(|family| family.name == name)
    };
    let mut diffs = Vec::new();
    for family in &after {
        let Some(there) = of(&before, &family.name).map(|index| &before[index]) else {
            diffs.push(FamilyDiff {
                name: family.name.clone(),
                change: "added",
                settings: Vec::new(),
                invalidated_too_by: family.invalidated_by.clone(),
                not_invalidated_by: Vec::new(),
                activity: None,
            });
            continue;
        };
        let settings = settings(there, family);
        let (old, new) = (&there.invalidated_by, &family.invalidated_by);
        let (invalidated_too_by, not_invalidated_by) = (only_in(new, old), only_in(old, new));
        if settings.is_empty() && invalidated_too_by.is_empty() && not_invalidated_by.is_empty() {
            continue;
        }
        diffs.push(FamilyDiff {
            name: family.name.clone(),
            change: if settings.is_empty() { "same" } else { "changed" },
            settings,
            invalidated_too_by,
            not_invalidated_by,
            activity: activity(&family.name),
        });
    }
    let removed = before.into_iter().filter(|family| of(&after, &family.name).is_none());
    diffs.extend(removed.map(|family| FamilyDiff {
        activity: activity(&family.name),
        name: family.name,
        change: "removed",
        settings: Vec::new(),
        invalidated_too_by: Vec::new(),
        not_invalidated_by: family.invalidated_by,
    }));
    diffs
}

fn only_in(these: &[String], others: &[String]) -> Vec<String> {
    let others: BTreeSet<&String> = others.iter().collect();
    these.iter().filter(|path| !others.contains(path)).cloned().collect()
}

/// Settings with other values, by name.
fn settings(before: &FamilyDefinition, after: &FamilyDefinition) -> Vec<SettingDiff> {
    // What follows from others, or is shown beside them.
    const DERIVED: [&str; 4] = ["name", "line", "invalidated_by", "ttl_seconds"];
    let (before, after) = (without(before, &DERIVED), without(after, &DERIVED));
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return Vec::new() };
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |fields: &Map<String, Value>, name: &String| fields.get(name).cloned().unwrap_or_default();
    let diff = |name: &String| SettingDiff {
        name: name.clone(),
        before: value(&before, name),
        after: value(&after, name),
    };
    names.into_iter().map(diff).filter(|setting| setting.before != setting.after).collect()
}

fn without(definition: &impl Serialize, names: &[&str]) -> Value {
    // Every field of a definition can be written as JSON.
    let mut json = serde_json::to_value(definition).unwrap_or_default();
    if let Value::Object(fields) = &mut json {
        fields.retain(|name, _| !names.contains(&name.as_str()));
    }
    json
}

//! `GET /cache/families`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::key_stats::Swept;
use super::report::{FamilyActivity, FamilyDefinition, FamilyReport, Success};
use super::state::At;
use crate::rules::RuleSet;

#[derive(Serialize, ToSchema)]
pub struct Families {
    /// In the order of the rules file.
    families: Vec<FamilyReport>,
    /// Requests outside families.
    without_family: FamilyActivity,
    /// False: keys are lower bounds, or were not counted.
    complete: bool,
    #[serde(flatten)]
    swept: Swept,
}
/// Each family with its definition and the outcomes of its requests
#[utoipa::path(get, path = "/cache/families", tag = "state", responses((status = 200, body = Success<Families>)))]
pub async fn families(State(state): At) -> Json<Success<Families>> {
    let counts = state.counts().await.ok();
    let counts = counts.as_deref();
    let live = state.running().live();
    let activity = |id| {
        let counters = live.counters(id);
        let kept = counts.map_or((None, None), |counts| counts.of(&counters.family));
        FamilyActivity::new(counters, kept, state.running().metrics.refetches(&counters.family))
    };
    let report = |definition: FamilyDefinition, id| FamilyReport { definition, activity: activity(Some(id)) };
    let definitions = definitions(&live.rules).into_iter().zip(0..);
    Json(Success::of(Families {
        families: definitions.map(|(definition, id)| report(definition, id)).collect(),
        without_family: activity(None),
        complete: counts.is_some_and(|counts| counts.keys.complete),
        swept: Swept::of(state.running(), counts),
    }))
}
/// All families, in the order of the rules file.
pub(super) fn definitions(rules: &RuleSet) -> Vec<FamilyDefinition> {
    let families = rules.families().iter();
    families.map(|family| FamilyDefinition::new(family, &rules.invalidating(family))).collect()
}

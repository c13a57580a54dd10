//! The rules in force, and their reload.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::families::definitions;
use super::refusal::{ErrorBody, Refusal};
use super::report::{EditFault, FamilyDefinition, InvalidationDefinition, Success};
use super::state::{Answer, At};
use crate::config::LoadError;
use crate::rules::fault::Fault;

#[derive(Serialize, ToSchema)]
pub struct Rules {
    /// Null: Larder runs without a file.
    file: Option<String>,
    /// When these rules came into force.
    since: String,
    families: Vec<FamilyDefinition>,
    invalidations: Vec<InvalidationDefinition>,
    /// Why the last edit was refused; null if it was not.
    last_error: Option<EditFault>,
}
/// The rules in force, and why the last edit was refused if it was
#[utoipa::path(get, path = "/rules", tag = "rules", responses((status = 200, body = Success<Rules>)))]
pub async fn rules(State(state): At) -> Json<Success<Rules>> {
    let live = state.running().live();
    Json(Success::of(Rules {
        file: state.running().file().map(|file| file.display().to_string()),
        since: humantime::format_rfc3339_seconds(live.since).to_string(),
        families: definitions(&live.rules),
        invalidations: live.rules.invalidations().iter().map(InvalidationDefinition::from).collect(),
        last_error: state.running().refused().as_ref().map(edit_fault),
    }))
}
#[derive(Serialize, ToSchema)]
pub struct ReloadReport {
    message: &'static str,
    families: usize,
    invalidations: usize,
    /// Fields that take effect only when Larder is started again.
    needs_restart: Vec<String>,
}
/// Reads the rules file again
#[utoipa::path(post, path = "/rules/reload", tag = "rules", responses(
    (status = 200, body = Success<ReloadReport>),
    (status = 409, description = "Larder runs without a rules file", body = ErrorBody),
    (status = 422, description = "the file has faults; the old rules stay in force", body = ErrorBody),
))]
pub async fn reload(State(state): At) -> Answer<ReloadReport> {
    if state.running().file().is_none() {
        let what_to_do = "start Larder with --rules FILE, or where there is a ./rules.toml";
        return Err(Refusal::conflict("Larder runs without a rules file", what_to_do));
    }
    let reloaded = state.running().reload().await.map_err(|error| {
        let fault = edit_fault(&error);
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Refusal::new(status, format!("{}; the old rules stay in force", fault.summary()), fault.remedy())
            .with("faults", json!(fault.faults))
    })?;
    Ok(Json(Success::of(ReloadReport {
        message: "Rules reloaded successfully",
        families: reloaded.families,
        invalidations: reloaded.invalidations,
        needs_restart: reloaded.needs_restart,
    })))
}

pub(super) fn edit_fault(error: &LoadError) -> EditFault {
    EditFault::new(&error.to_string(), faults(error))
}

fn faults(error: &LoadError) -> &[Fault] {
    match error {
        LoadError::Faults(faults) => &faults.0,
        LoadError::Io { .. } => &[],
    }
}

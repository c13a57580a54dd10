//! The index of the API, and the errors for paths and methods that are not there.

use axum::Json;
use axum::extract::{MatchedPath, State};
use http::{Method, StatusCode, Uri};
use serde::Serialize;
use utoipa::ToSchema;

use super::refusal::Refusal;
use super::report::Success;
use super::routes::Route;
use super::state::At;

#[derive(Serialize, ToSchema)]
pub struct Index {
    /// `larder`
    name: &'static str,
    version: &'static str,
    routes: Vec<Route>,
}

/// Lists these routes; needs no token
#[utoipa::path(get, path = "/", tag = "description", security(()), responses((status = 200, body = Success<Index>)))]
pub async fn index(State(state): At) -> Json<Success<Index>> {
    let routes = state.routes().iter().cloned().collect();
    Json(Success::of(Index { name: "larder", version: env!("CARGO_PKG_VERSION"), routes }))
}

/// Any path that is not a route.
pub async fn unknown(State(state): At, uri: Uri) -> Refusal {
    let error = format!("there is no {} here", uri.path());
    Refusal::not_found(error, state.routes().remedy(uri.path()))
}

/// A method that a route does not take.
pub async fn wrong_method(State(state): At, method: Method, uri: Uri, route: Option<MatchedPath>) -> Refusal {
    let error = format!("{} does not take {method}", uri.path());
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error, state.routes().remedy_of_method(route, uri.path()))
}

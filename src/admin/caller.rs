//! `GET /cache/token`: what the token of the request may do, for sign-in.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::report::Success;
use super::state::At;
use crate::config::Role;

#[derive(Serialize, ToSchema)]
pub struct TokenReport {
    token: TokenRights,
}

#[derive(Serialize, ToSchema)]
struct TokenRights {
    /// As in `[admin] tokens`; `local` without tokens.
    name: String,
    role: Role,
    /// What it may purge, warm and bypass; null: everything that its role may.
    families: Option<Vec<String>>,
}

/// The name, the role and the scope of the token that the request has
#[utoipa::path(get, path = "/cache/token", tag = "description", responses((status = 200, body = Success<TokenReport>)))]
pub async fn token(
    State(_): At,
    Extension(Caller { caller, .. }): Extension<Caller>,
) -> Json<Success<TokenReport>> {
    let token = match caller.token() {
        Some(token) => {
            TokenRights { name: token.name.clone(), role: token.role, families: token.families.clone() }
        }
        None => TokenRights { name: caller.role().to_owned(), role: Role::Admin, families: None },
    };
    Json(Success::of(TokenReport { token }))
}

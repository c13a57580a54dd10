//! The description of the API: every route with its parameters, content, answers and errors, as `/openapi.json` and as the page `/docs`.
//! Handlers declare what is special to them; what holds for all routes is added here.

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::routes::RequiredAccess;
use super::state::{At, Shared};
use super::{
    bypass, caller, entries, events, explain, exposition, families, fleet, health, history, index, invalidate,
    log, purge, refusal, rules, rules_diff, statistics, story, top, warm, writes,
};
use crate::config::MAX_FILE;

/// The name of the only security scheme.
const TOKEN: &str = "token";

/// Every route with its description.
pub fn router() -> OpenApiRouter<Shared> {
    let info = InfoBuilder::new().title("Larder admin").version(env!("CARGO_PKG_VERSION"));
    let info = info.description(Some(
        "Shows and steers a running Larder. Send `Authorization: Bearer TOKEN` if `[admin] tokens` are configured: a viewer may send \
         GET, an admin everything. Every error says in `what_to_do` what to do. Parameters, fields and content that a route does not \
         take are refused.",
    ));
    let mut router = OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(index::index))
        .routes(routes!(openapi))
        .routes(routes!(docs))
        .routes(routes!(caller::token))
        .routes(routes!(health::health))
        .routes(routes!(health::detailed_health))
        .routes(routes!(health::test))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(statistics::stats))
        .routes(routes!(statistics::alerts))
        .routes(routes!(families::families))
        .routes(routes!(fleet::fleet))
        .routes(routes!(log::log))
        .routes(routes!(events::events))
        .routes(routes!(history::history))
        .routes(routes!(top::top))
        .routes(routes!(writes::writes))
        .routes(routes!(story::story))
        .routes(routes!(explain::explain))
        .routes(routes!(entries::entries))
        .routes(routes!(entries::entry, entries::remove_entry))
        .routes(routes!(invalidate::invalidate))
        .routes(routes!(purge::purge_all))
        .routes(routes!(purge::purge_family))
        .routes(routes!(purge::purge_instance))
        .routes(routes!(purge::purge_everywhere))
        .routes(routes!(purge::purge_group))
        .routes(routes!(bypass::bypasses))
        .routes(routes!(bypass::begin_bypass, bypass::end_bypass))
        .routes(routes!(warm::warm_state, warm::warm_all))
        .routes(routes!(warm::warm_family))
        .routes(routes!(rules::rules))
        .routes(routes!(rules::reload))
        .merge(OpenApiRouter::default().routes(routes!(rules_diff::diff)).layer(DefaultBodyLimit::max(MAX_FILE)))
        .routes(routes!(exposition::metrics));
    complete(router.get_openapi_mut());
    router
}

/// Adds what holds for all routes: the token, and the errors of what is checked before the handlers.
fn complete(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.security_schemes.insert(TOKEN.to_owned(), scheme.into());
    let error = <refusal::ErrorBody as utoipa::PartialSchema>::schema();
    components.schemas.insert("ErrorBody".to_owned(), error);
    // For routes that do not say `security(())`.
    document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        operations.into_iter().flatten().for_each(add_errors);
    }
}

/// The same for an admin without tokens, which takes every request from this machine.
pub fn without_tokens(mut document: OpenApi) -> OpenApi {
    document.security = None;
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        operations.into_iter().flatten().for_each(|operation| operation.security = None);
    }
    if let Some(components) = &mut document.components {
        components.security_schemes.clear();
    }
    document
}

fn add_errors(operation: &mut Operation) {
    let needs_token = RequiredAccess::of(operation) != RequiredAccess::Open;
    let always = [("400", "a parameter, field or content that the route does not take, or that cannot be read")];
    let guarded = [
        ("401", "no token, or one that is not known"),
        ("403", "the role or the scope of the token does not reach, or the host or the origin is foreign"),
        ("500", "the request was aborted"),
    ];
    let all = always.iter().chain(guarded.iter().filter(|_| needs_token));
    for (status, description) in all {
        let schema = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let response = ResponseBuilder::new().description(*description).content("application/json", schema);
        let responses = &mut operation.responses.responses;
        responses.entry((*status).to_owned()).or_insert_with(|| RefOr::T(response.build()));
    }
}

/// This description; needs no token
#[utoipa::path(get, path = "/openapi.json", tag = "description", security(()), responses(
    (status = 200, description = "an OpenAPI document", body = serde_json::Value),
))]
pub async fn openapi(State(state): At) -> Response {
    let description = state.description(!state.running().tokens.is_empty());
    ([(CONTENT_TYPE, "application/json")], description.to_owned()).into_response()
}

/// A page to read this description and to try calls; needs no token
#[utoipa::path(get, path = "/docs", tag = "description", security(()), responses(
    (status = 200, body = String, content_type = "text/html"),
))]
pub async fn docs() -> Response {
    page(include_str!("openapi/docs.html"))
}

/// A page that is whole in itself: nothing from elsewhere is loaded, and only this admin is called. `{{nonce}}` in it marks its own scripts
/// and styles.
fn page(html: &str) -> Response {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let fields = [(CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (CONTENT_SECURITY_POLICY, policy)];
    (fields, html.replace("{{nonce}}", &nonce)).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::routes::{Routes, operations};
    use super::*;

    fn document() -> OpenApi {
        router().into_openapi()
    }

    #[test]
    fn every_operation_has_a_summary_a_name_of_its_own_and_an_answer() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in operations(item) {
                let summary = operation.summary.as_deref().unwrap_or_default();
                assert!(!summary.is_empty() && !summary.ends_with('.'), "{method} {path}: {summary:?}");
                assert!(
                    names.insert(operation.operation_id.clone().unwrap()),
                    "{method} {path}: its function's name"
                );
                let answers = operation.responses.responses.keys().filter(|status| status.starts_with('2'));
                assert!(answers.count() > 0, "{method} {path}");
                assert!(operation.tags.is_some(), "{method} {path}: no tag");
            }
        }
    }

    #[test]
    fn no_operation_has_a_method_that_the_index_leaves_out() {
        let document = document();
        let methods = |item: &Value| item.as_object().unwrap().len();
        let json = serde_json::to_value(&document).unwrap();
        let all: usize = json["paths"].as_object().unwrap().values().map(methods).sum();
        assert_eq!(Routes::of(&document).iter().count(), all);
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        fn references(json: &Value, found: &mut BTreeSet<String>) {
            match json {
                Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value) {
                    ("$ref", Value::String(target)) => drop(found.insert(target.clone())),
                    _ => references(value, found),
                }),
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let json = serde_json::to_value(document()).unwrap();
        let mut found = BTreeSet::new();
        references(&json, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for target in found {
            assert!(json.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
    }
}

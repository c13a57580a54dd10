//! Parameters, fields and content that a route does not take are refused: `POST /cache/clear?url=/x` must not purge everything. An
//! empty JSON object, which some clients send with every POST, counts as no content.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Uri;
use http_body::Body as _;
use serde_json::Value;

use super::refusal::Refusal;
use super::routes::{Route, Routes, TakenContent};
use crate::rules::nearest::{did_you_mean, nearest};

/// Most content that is looked at, bytes.
const CONTENT: usize = 64 << 10;

/// How long content is waited for.
const WITHIN: Duration = Duration::from_secs(5);

/// Passes on requests without unknown parameters, fields and content.
pub async fn refuse(
    State(routes): State<Arc<Routes>>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let Some(route) = routes.find(request.method(), route.as_str()) else {
        // It is told which methods there are.
        return next.run(request).await;
    };
    if let Err(refusal) = check_parameters(route, request.uri()) {
        return refusal.into_response();
    }
    if route.content == TakenContent::Other || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let content = tokio::time::timeout(WITHIN, axum::body::to_bytes(body, CONTENT)).await;
    let content = content.ok().and_then(Result::ok);
    if let Err(refusal) = check_content(route, parts.uri.path(), content.as_deref()) {
        return refusal.into_response();
    }
    let body = content.filter(|_| route.content == TakenContent::Json).map_or_else(Body::empty, Body::from);
    next.run(Request::from_parts(parts, body)).await
}

fn check_parameters(route: &Route, uri: &Uri) -> Result<(), Refusal> {
    let Ok(Query(parameters)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        let what_to_do = "percent-encode names and values as UTF-8";
        return Err(Refusal::bad_request("the query cannot be read", what_to_do));
    };
    let unknown = parameters.iter().find(|(name, _)| !route.takes.contains(name));
    unknown
        .map_or(Ok(()), |(name, value)| Err(refusal(route, uri.path(), "parameter", (name, value), &route.takes)))
}

/// `content`: none if there is too much of it, or it does not come.
fn check_content(route: &Route, path: &str, content: Option<&[u8]>) -> Result<(), Refusal> {
    let json = content.map(serde_json::from_slice::<Value>);
    match (content, json) {
        (Some(content), _) if content.trim_ascii().is_empty() => Ok(()),
        (_, Some(Ok(Value::Object(fields)))) => {
            let unknown = fields.iter().find(|(name, _)| !route.fields.contains(name));
            unknown.map_or(Ok(()), |(name, value)| {
                Err(refusal(route, path, "field", (name, value.as_str().unwrap_or_default()), &route.fields))
            })
        }
        _ if route.content == TakenContent::Json => {
            let error = format!("the content is no JSON object, or has more than {CONTENT} bytes");
            let what_to_do = format!("send {{…}} with {}", takes(&route.fields));
            Err(Refusal::bad_request(error, what_to_do))
        }
        _ => {
            let error = format!("{} {} takes no content", route.method, route.path);
            Err(Refusal::bad_request(error, instead(route, path, "", "")))
        }
    }
}

/// `taken`: the names that there are.
fn refusal(route: &Route, path: &str, kind: &str, (name, value): (&str, &str), taken: &[String]) -> Refusal {
    let error = format!("unknown {kind} {name:?}: {} {} takes {}", route.method, route.path, takes(taken));
    Refusal::bad_request(error, instead(route, path, name, value))
}

fn takes(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What to ask for instead.
fn instead(route: &Route, path: &str, name: &str, value: &str) -> String {
    let is_plain =
        !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-*".contains(&byte));
    match (&*route.path, name) {
        ("/cache/clear", "family" | "name" | "tag") if is_plain => format!("send POST /cache/clear/{value}"),
        ("/cache/clear", "group") if is_plain => format!("send POST /cache/groups/{value}/clear"),
        ("/cache/clear", "url" | "uri" | "path") => {
            "larder explain GET URL names the family and the instance; then POST /cache/clear/{family}/{instance}"
                .to_owned()
        }
        ("/cache/clear", _) => "without it, POST /cache/clear purges everything; POST /cache/clear/{family} and \
                                /cache/clear/{family}/{instance} purge less"
            .to_owned(),
        ("/cache/clear/{family}", "id" | "instance" | "key" | "value") if is_plain => {
            format!("send POST {path}/{value}")
        }
        _ => did_you_mean(&nearest(name, route.takes.iter().chain(&route.fields).map(String::as_str)), || {
            format!("send {} {path} without it; GET / says what each route takes", route.method)
        }),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::openapi;
    use super::*;

    fn routes() -> Routes {
        Routes::of(&openapi::router().into_openapi())
    }

    fn route(method: &str, path: &str) -> Route {
        routes().find(&method.parse().unwrap(), path).unwrap().clone()
    }

    async fn text(refused: Result<(), Refusal>) -> Option<String> {
        let response = refused.err()?.into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        Some(String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_route_refuses_parameters_that_it_does_not_take() {
        for route in routes().iter() {
            let uri: Uri = format!("{}?nothing=1", route.path.replace(['{', '}'], "")).parse().unwrap();
            let refused = text(check_parameters(route, &uri)).await.unwrap();
            assert!(refused.contains("unknown parameter \\\"nothing\\\""), "{refused}");
            let uri: Uri = format!("{}?", uri.path()).parse().unwrap();
            assert_eq!(text(check_parameters(route, &uri)).await, None);
        }
        let uri: Uri = "/cache/explain?url=/&method=GET&header=a:1&header=b:2".parse().unwrap();
        assert_eq!(text(check_parameters(&route("GET", "/cache/explain"), &uri)).await, None);
    }

    #[tokio::test]
    async fn every_route_refuses_fields_and_other_content() {
        for route in routes().iter().filter(|route| route.content != TakenContent::Other) {
            for content in ["", " \n", "{}", " { } "] {
                assert_eq!(text(check_content(route, "/", Some(content.as_bytes()))).await, None, "{content}");
            }
            let refused = text(check_content(route, "/", Some(b"{\"nothing\": \"user\"}"))).await.unwrap();
            assert!(refused.contains("unknown field \\\"nothing\\\""), "{refused}");
            for content in ["[]", "null", "a=b", "\"x\"", "{"] {
                let refused = text(check_content(route, "/", Some(content.as_bytes()))).await.unwrap();
                let takes_none = refused.contains("takes no content");
                assert_eq!(takes_none, route.content == TakenContent::Nothing, "{content}: {refused}");
            }
            assert!(text(check_content(route, "/", None)).await.is_some());
        }
    }

    #[test]
    fn the_call_that_is_meant_is_told() {
        let rows = [
            ("POST", "/cache/clear", "/cache/clear", "family", "user", "send POST /cache/clear/user"),
            ("POST", "/cache/clear", "/cache/clear", "url", "/x", "larder explain GET URL names the family"),
            (
                "POST",
                "/cache/clear",
                "/cache/clear",
                "soft",
                "1",
                "without it, POST /cache/clear purges everything",
            ),
            ("POST", "/cache/clear/{family}", "/cache/clear/user", "id", "7", "send POST /cache/clear/user/7"),
            ("GET", "/cache/explain", "/cache/explain", "headers", "a:1", "did you mean \"header\"?"),
            ("GET", "/cache/stats", "/cache/stats", "family", "x", "send GET /cache/stats without it"),
        ];
        for (method, pattern, path, name, value, expected) in rows {
            let said = instead(&route(method, pattern), path, name, value);
            assert!(said.starts_with(expected), "{path} {name}: {said}");
        }
    }
}

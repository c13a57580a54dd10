//! The GET routes of an OpenAPI description that need no parameters. Pure.

use serde_json::Value;

/// The paths of all GET operations without path parameters and without required parameters, with the prefix that the description's
/// first server names (OpenAPI 3) or its `basePath` (2.0).
///
/// # Errors
///
/// It is no such description.
pub fn paths(json: &[u8]) -> Result<Vec<String>, String> {
    let root: Value = serde_json::from_slice(json).map_err(|error| format!("it is not JSON: {error}"))?;
    let Some(paths) = root["paths"].as_object().filter(|_| is_description(&root)) else {
        return Err("it is no OpenAPI description: it has no paths, or no version".to_owned());
    };
    let prefix = prefix(&root);
    let is_plain = |path: &str, item: &Value| {
        let operation = &item["get"];
        operation.is_object()
            && !path.contains('{')
            && [&item["parameters"], &operation["parameters"]]
                .into_iter()
                .filter_map(Value::as_array)
                .flatten()
                .all(|parameter| !is_required(&root, parameter))
    };
    let plain = paths.iter().filter(|(path, item)| is_plain(path, item));
    Ok(plain.map(|(path, _)| format!("{prefix}{path}")).collect())
}

fn is_description(root: &Value) -> bool {
    root["openapi"].is_string() || root["swagger"].is_string()
}

fn is_required(root: &Value, parameter: &Value) -> bool {
    let reference = parameter["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    let parameter = reference.and_then(|pointer| root.pointer(pointer)).unwrap_or(parameter);
    parameter["required"] == true
}

/// Without a slash at its end.
fn prefix(root: &Value) -> String {
    let base = match (root["basePath"].as_str(), root["servers"][0]["url"].as_str()) {
        (Some(base), _) => base,
        // A server with variables is not known.
        (None, Some(url)) if !url.contains('{') => match url.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => url,
        },
        _ => "",
    };
    let base = base.trim_end_matches('/');
    if base.is_empty() || base.starts_with('/') { base.to_owned() } else { format!("/{base}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths_of(description: &Value) -> Vec<String> {
        let mut paths = paths(description.to_string().as_bytes()).unwrap();
        paths.sort();
        paths
    }

    #[test]
    fn get_routes_without_parameters_are_found() {
        let description = json!({
            "openapi": "3.1.0",
            "servers": [{ "url": "https://api.example.com/v1.0/" }],
            "components": { "parameters": { "q": { "name": "q", "in": "query", "required": true } } },
            "paths": {
                "/users": { "get": {}, "post": {} },
                "/users/{id}": { "get": {} },
                "/search": { "get": { "parameters": [{ "$ref": "#/components/parameters/q" }] } },
                "/list": { "get": { "parameters": [{ "name": "page", "in": "query" }] } },
                "/tenant": { "parameters": [{ "name": "x-tenant", "in": "header", "required": true }], "get": {} },
                "/login": { "post": {} },
            },
        });
        assert_eq!(paths_of(&description), ["/v1.0/list", "/v1.0/users"]);
    }

    #[test]
    fn the_prefix_is_that_of_the_first_server() {
        let with = |key: &str, value: Value| {
            let mut description = json!({ "swagger": "2.0", "paths": { "/a": { "get": {} } } });
            description[key] = value;
            paths_of(&description)
        };
        assert_eq!(with("basePath", json!("/api/")), ["/api/a"]);
        assert_eq!(with("servers", json!([{ "url": "/v2" }])), ["/v2/a"]);
        assert_eq!(with("servers", json!([{ "url": "https://h" }])), ["/a"]);
        assert_eq!(with("servers", json!([{ "url": "https://{region}.h/x" }])), ["/a"]);
        assert_eq!(with("servers", json!([])), ["/a"]);
    }

    #[test]
    fn what_is_no_description_is_an_error() {
        for text in ["", "openapi: 3.1.0", "[]", "{}", r#"{"paths": {}}"#, r#"{"openapi": "3.0.0"}"#] {
            assert!(paths(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(paths(br#"{"openapi": "3.0.0", "paths": {}}"#), Ok(Vec::new()));
    }
}

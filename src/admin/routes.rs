//! What routes there are, as the OpenAPI document of their handlers says. The index, the check of parameters and content, the
//! routes without a token, and the errors that name the nearest route all come from here.

use http::Method;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn, PathItem};
use utoipa::openapi::{OpenApi, Ref, RefOr, Schema};

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Route {
    pub method: String,
    /// With `{parameters}`.
    pub path: String,
    pub does: String,
    /// The query parameters that it takes.
    pub takes: Vec<String>,
    /// The fields of the JSON object that it takes as content.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    #[serde(skip)]
    pub content: TakenContent,
    #[serde(skip)]
    pub access: RequiredAccess,
}

/// The content that a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenContent {
    Nothing,
    /// An object with the `fields` of the route.
    Json,
    /// Something else than JSON, which its handler reads.
    Other,
}

/// What a route demands of a token, as its `security` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredAccess {
    /// `security(())`: none is needed.
    Open,
    /// Nothing is said: a token without scope, for changes.
    Role,
    /// `security(("token" = ["families"]))`: the handler compares the scope of the token with the families that it changes.
    Families,
}

/// All routes.
#[derive(Debug, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// The routes of this document.
    pub fn of(document: &OpenApi) -> Routes {
        let paths = document.paths.paths.iter();
        let routes = paths.flat_map(|(path, item)| {
            operations(item).map(|(method, operation)| Route::new(document, method, path, operation))
        });
        Routes(routes.collect())
    }

    /// All of them, by path.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// `path`: with `{parameters}`. HEAD is GET.
    pub fn find(&self, method: &Method, path: &str) -> Option<&Route> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.iter().find(|route| route.path == path && route.method == method.as_str())
    }

    /// Whether requests for this path need no token.
    pub fn is_open(&self, method: &Method, path: &str) -> bool {
        method.is_safe() && self.find(method, path).is_some_and(|route| route.access == RequiredAccess::Open)
    }

    /// What to do about a path that is not one.
    pub fn remedy(&self, path: &str) -> String {
        match self.nearest(path) {
            Some(route) => format!("did you mean {} {}? GET / lists all", route.method, route.path),
            None => "GET / lists what there is".to_owned(),
        }
    }

    /// What to do about a method that a path does not take. `route`: the path with `{parameters}`.
    pub fn remedy_of_method(&self, route: &str, path: &str) -> String {
        let takes = self.iter().filter(|known| known.path == route);
        let calls: Vec<String> = takes.map(|known| format!("{} {path}", known.method)).collect();
        if calls.is_empty() {
            "GET / lists what there is".to_owned()
        } else {
            format!("send {}", calls.join(" or "))
        }
    }

    fn nearest(&self, path: &str) -> Option<&Route> {
        let path: String = path.chars().take(COMPARED).collect();
        let far = |route: &&Route| strsim::damerau_levenshtein(&path, &route.path);
        let nearest = self.iter().min_by_key(far)?;
        (far(&nearest) <= path.len() / 3).then_some(nearest)
    }
}

/// Longest unknown path that is compared, in characters.
const COMPARED: usize = 100;

impl Route {
    fn new(document: &OpenApi, method: &str, path: &str, operation: &Operation) -> Route {
        let content = operation.request_body.as_ref().and_then(resolved).map(|body| &body.content);
        let json = content.and_then(|content| content.get("application/json")).and_then(resolved);
        let schema = json.and_then(|json| json.schema.as_ref());
        Route {
            method: method.to_owned(),
            path: path.to_owned(),
            does: operation.summary.clone().unwrap_or_default(),
            takes: query_parameters(operation).map(|parameter| parameter.name.clone()).collect(),
            fields: schema.map(|schema| fields(document, schema)).unwrap_or_default(),
            content: match (content, schema) {
                (None, _) => TakenContent::Nothing,
                (_, Some(_)) => TakenContent::Json,
                _ => TakenContent::Other,
            },
            access: RequiredAccess::of(operation),
        }
    }
}

impl RequiredAccess {
    /// What this operation declares.
    pub fn of(operation: &Operation) -> RequiredAccess {
        // What it requires can be seen only as JSON.
        let all = serde_json::to_value(&operation.security).unwrap_or_default();
        match all.get(0).and_then(|requirement| requirement.as_object()) {
            None => RequiredAccess::Role,
            Some(none) if none.is_empty() => RequiredAccess::Open,
            Some(_) => RequiredAccess::Families,
        }
    }
}

/// The operations of a path with their methods.
pub fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    let all = [("GET", &item.get), ("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn query_parameters(operation: &Operation) -> impl Iterator<Item = &Parameter> {
    let parameters = operation.parameters.iter().flatten().filter_map(resolved);
    parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query)
}

/// Handlers declare everything but schemas in place.
fn resolved<T>(value: &RefOr<T>) -> Option<&T> {
    match value {
        RefOr::T(value) => Some(value),
        RefOr::Ref(_) => None,
    }
}

/// The names of an object's fields.
fn fields(document: &OpenApi, schema: &RefOr<Schema>) -> Vec<String> {
    let schema = match schema {
        RefOr::T(schema) => Some(schema),
        RefOr::Ref(Ref { ref_location, .. }) => {
            let name = ref_location.rsplit('/').next().unwrap_or_default();
            document.components.as_ref().and_then(|components| resolved(components.schemas.get(name)?))
        }
    };
    match schema {
        Some(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::openapi;
    use super::*;

    fn routes() -> Routes {
        Routes::of(&openapi::router().into_openapi())
    }

    #[test]
    fn the_nearest_route_is_named() {
        let rows = [
            ("/cache/stat", Some("/cache/stats")),
            ("/cache/heatlh", Some("/cache/health")),
            ("/v1.0/cache/health", Some("/cache/health")),
            ("/rule", Some("/rules")),
            ("/cache/clear/", Some("/cache/clear")),
            ("/users", None),
            ("/x", None),
        ];
        for (path, expected) in rows {
            assert_eq!(routes().nearest(path).map(|route| &*route.path), expected, "{path}");
        }
    }

    #[test]
    fn the_remedy_of_a_method_is_the_call_to_make() {
        let routes = routes();
        assert_eq!(routes.remedy_of_method("/cache/stats", "/cache/stats"), "send GET /cache/stats");
        assert_eq!(routes.remedy_of_method("/cache/clear/{family}", "/cache/clear/a"), "send POST /cache/clear/a");
        assert_eq!(routes.remedy_of_method("", "/x"), "GET / lists what there is");
    }

    #[test]
    fn only_probes_and_the_description_need_no_token() {
        let routes = routes();
        let open: Vec<&str> =
            routes.iter().filter(|route| route.access == RequiredAccess::Open).map(|route| &*route.path).collect();
        assert_eq!(open, ["/", "/docs", "/healthz", "/openapi.json", "/readyz"]);
        assert!(!routes.is_open(&Method::POST, "/healthz"));
    }
}

//! The admin's routes as a table, for its index and for the error that names the nearest one.

use serde::Serialize;

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Route {
    pub method: &'static str,
    /// With `{parameters}`.
    pub path: &'static str,
    pub does: &'static str,
    /// The query parameters that it takes.
    pub takes: &'static [&'static str],
}

const fn get(path: &'static str, does: &'static str) -> Route {
    Route { method: "GET", path, does, takes: &[] }
}

const fn post(path: &'static str, does: &'static str) -> Route {
    Route { method: "POST", path, does, takes: &[] }
}

/// All of them.
pub const ROUTES: [Route; 18] = [
    get("/", "lists these routes"),
    get("/cache/health", "state of the cache and its hit rate"),
    get("/cache/health/detailed", "the same with memory, connections and keys by family"),
    get("/cache/stats", "rates of the last minute, five minutes and hour, memory, and keys by family"),
    get("/cache/alerts", "alerts that are raised, those that were, and the thresholds"),
    get("/cache/test", "writes, reads and removes an entry"),
    get("/cache/families", "each family with its definition and the outcomes of its requests"),
    get("/cache/fleet", "the lease of this proxy and why it has none, epoch, members, writes under way"),
    Route {
        method: "GET",
        path: "/cache/explain",
        does: "what is stored for ?url=… (&method=…&header=Name:%20value…), and the decision on the request",
        takes: &["url", "method", "header"],
    },
    post("/cache/clear", "purges everything"),
    post("/cache/clear/{family}", "purges a family, the families below it, or those that match a glob"),
    post("/cache/clear/{family}/{instance}", "purges one instance of a family"),
    post(
        "/cache/groups/{group}/clear",
        "invalidates all responses that name this group (Cache-Groups, Surrogate-Key, …)",
    ),
    get("/rules", "the rules in force, and why the last edit was refused if it was"),
    post("/rules/reload", "reads the rules file again"),
    get("/metrics", "counters in the OpenMetrics text format"),
    get("/healthz", "200 while the process runs; needs no token"),
    get("/readyz", "200 when requests can be served; needs no token"),
];

/// Longest unknown path that is compared, in characters.
const COMPARED: usize = 100;

/// What to do about a path that is not one.
pub fn remedy(path: &str) -> String {
    match nearest(path) {
        Some(route) => format!("did you mean {} {}? GET / lists all", route.method, route.path),
        None => "GET / lists what there is".to_owned(),
    }
}

/// What to do about a method that a path does not take. `route`: the path with `{parameters}`.
pub fn remedy_of_method(route: &str, path: &str) -> String {
    let takes = ROUTES.iter().filter(|known| known.path == route);
    let calls: Vec<String> = takes.map(|known| format!("{} {path}", known.method)).collect();
    if calls.is_empty() { "GET / lists what there is".to_owned() } else { format!("send {}", calls.join(" or ")) }
}

fn nearest(path: &str) -> Option<Route> {
    let path: String = path.chars().take(COMPARED).collect();
    let far = |route: &Route| strsim::damerau_levenshtein(&path, route.path);
    let nearest = ROUTES.into_iter().min_by_key(far)?;
    (far(&nearest) <= path.len() / 3).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(nearest(path).map(|route| route.path), expected, "{path}");
        }
    }

    #[test]
    fn the_remedy_of_a_method_is_the_call_to_make() {
        assert_eq!(remedy_of_method("/cache/stats", "/cache/stats"), "send GET /cache/stats");
        assert_eq!(remedy_of_method("/cache/clear/{family}", "/cache/clear/a"), "send POST /cache/clear/a");
        assert_eq!(remedy_of_method("", "/x"), "GET / lists what there is");
    }
}

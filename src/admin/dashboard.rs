//! The dashboard: a page for browsers at `/`, and its files below `/dashboard/`. The files are part of the binary, need no token and
//! hold no data: the page reads all of it from the admin API, with the token that its user enters.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method};

/// What the page may do: run its own scripts and styles, and call the admin that served it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file: path, media type, content.
type File = (&'static str, &'static str, &'static str);

macro_rules! file {
    ($name:literal, $media_type:expr) => {
        (concat!("/dashboard/", $name), $media_type, include_str!(concat!("dashboard/", $name)))
    };
}

const PAGE: File = ("/", HTML, include_str!("dashboard/index.html"));

const FILES: [File; 20] = [
    file!("api.js", SCRIPT),
    file!("app.js", SCRIPT),
    file!("chart.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("entries.js", SCRIPT),
    file!("explain.js", SCRIPT),
    file!("families.js", SCRIPT),
    file!("feed.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("icon.svg", "image/svg+xml"),
    file!("log.js", SCRIPT),
    file!("overview.js", SCRIPT),
    file!("purge.js", SCRIPT),
    file!("rules.js", SCRIPT),
    file!("session.js", SCRIPT),
    file!("story.js", SCRIPT),
    file!("style.css", "text/css; charset=utf-8"),
    file!("top.js", SCRIPT),
    file!("warm.js", SCRIPT),
    file!("writes.js", SCRIPT),
];

/// Answers requests for the page and its files; all others go on.
pub async fn serve(request: Request, next: Next) -> Response {
    match find(request.method(), request.uri().path(), request.headers()) {
        Some(file) => respond(file, request.method()),
        None => next.run(request).await,
    }
}

fn find(method: &Method, path: &str, headers: &HeaderMap) -> Option<&'static File> {
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    if path == "/" {
        return prefers_html(headers).then_some(&PAGE);
    }
    FILES.iter().find(|(name, ..)| *name == path)
}

fn respond((_, media_type, content): &File, method: &Method) -> Response {
    let fields = [
        (CONTENT_TYPE, *media_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // After an upgrade the files must be of one version.
        (CACHE_CONTROL, "no-store"),
        (VARY, "accept"),
    ];
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(*content) };
    (fields, body).into_response()
}

/// Whether `Accept` names `text/html`, and prefers it to JSON (RFC 9110 §12.5.1). A wildcard names neither: what accepts anything is a
/// program, and gets JSON.
fn prefers_html(headers: &HeaderMap) -> bool {
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let (mut html, mut json) = (0.0, 0.0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let quality =
            parts.find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")));
        let quality: f32 = quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if media_type.eq_ignore_ascii_case("text/html") {
            html = quality;
        } else if media_type.eq_ignore_ascii_case("application/json") {
            json = quality;
        }
    }
    html > json
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::HeaderValue;

    use super::*;

    /// Most bytes of all files together.
    const MOST: usize = 150_000;

    #[test]
    fn the_whole_dashboard_is_smaller_than_150_kb() {
        let size: usize = FILES.iter().chain([&PAGE]).map(|(_, _, content)| content.len()).sum();
        assert!(size < MOST, "{size} bytes");
    }

    #[test]
    fn every_file_of_the_dashboard_is_served() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/dashboard");
        let here =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let here: BTreeSet<String> =
            here.filter(|name| name != "index.html").map(|name| format!("/dashboard/{name}")).collect();
        assert_eq!(here, FILES.iter().map(|(path, ..)| (*path).to_owned()).collect());
    }

    #[test]
    fn no_file_names_another_origin() {
        for (path, _, content) in FILES.iter().chain([&PAGE]) {
            let named = content
                .match_indices("://")
                .map(|(at, _)| &content[at.saturating_sub(8)..(at + 16).min(content.len())]);
            let foreign: Vec<&str> = named
                .filter(|text| !text.contains("http://www.w3.org") && !text.contains("://www.w3.org"))
                .collect();
            assert!(foreign.is_empty(), "{path}: {foreign:?}");
        }
    }

    #[test]
    fn browsers_get_the_page_and_programs_the_index() {
        let rows: [(&[&str], bool); 9] = [
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], true),
            (&["TEXT/HTML"], true),
            (&["application/json;q=0.5", "text/html;q=0.6"], true),
            (&["*/*"], false),
            (&[], false),
            (&["application/json"], false),
            (&["application/json, text/html"], false),
            (&["text/html;q=0.5, application/json"], false),
            (&["text/html;q=0"], false),
        ];
        for (fields, expected) in rows {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(ACCEPT, HeaderValue::from_static(field));
            }
            assert_eq!(prefers_html(&headers), expected, "{fields:?}");
            assert_eq!(find(&Method::GET, "/", &headers).is_some(), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_reads_of_known_files_are_answered() {
        let none = HeaderMap::new();
        assert!(find(&Method::HEAD, "/dashboard/app.js", &none).is_some());
        for (method, path) in [
            (Method::POST, "/dashboard/app.js"),
            (Method::GET, "/dashboard/index.html"),
            (Method::GET, "/dashboard/"),
            (Method::GET, "/dashboard/../app.js"),
        ] {
            assert!(find(&method, path, &none).is_none(), "{method} {path}");
        }
    }
}

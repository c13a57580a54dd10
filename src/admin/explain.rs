//! `GET /cache/explain`: what is stored for a request now, and the decision on it. Neither memory nor the store is changed, and upstream
//! is not asked.

#![allow(unused_qualifications, reason = "utoipa writes one for each IntoParams")]

use axum::Json;
use axum::extract::{FromRequestParts, Query, State};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use utoipa::IntoParams;

use super::refusal::{ErrorBody, Refusal};
use super::report::Success;
use super::state::{Answer, At};
use crate::http::headers;
use crate::proxy::explain::{Explainer, StoredExplanation};
use crate::running::Running;

/// What is stored for ?url=… (&method=…&header=Name:%20value…), and the decision on the request
#[utoipa::path(get, path = "/cache/explain", tag = "entries",
    params(ExplainQuery),
    responses(
        (status = 200, body = Success<StoredExplanation>),
        (status = 400, description = "the parameters are no request", body = ErrorBody),
    ))]
pub async fn explain(State(state): At, query: ExplainQuery) -> Answer<StoredExplanation> {
    let explainer = query.explainer(state.running())?;
    Ok(Json(Success::of(explainer.stored_now(&state.running().cache).await)))
}

/// The request to explain.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// a URL as clients send it, or a path
    #[param(value_type = String, example = "/users/7")]
    url: Uri,
    /// `GET` if it is not given
    #[param(value_type = Option<String>)]
    method: Method,
    /// a field of the request, `Name: value`; as often as needed
    #[param(rename = "header", value_type = Option<Vec<String>>)]
    fields: HeaderMap,
}

impl<S: Send + Sync> FromRequestParts<S> for ExplainQuery {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<ExplainQuery, Refusal> {
        // In the order they came; `header` may come several times.
        let parameters = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(parameters) = parameters.map_err(|rejection| malformed(rejection.body_text()))?;
        ExplainQuery::read(parameters)
    }
}

fn malformed(error: impl Into<String>) -> Refusal {
    let what_to_do = "give url=/users/7, with &method=GET and as many &header=Accept-Language:%20de as needed; \
                      percent-encode the values";
    Refusal::bad_request(error, what_to_do)
}

impl ExplainQuery {
    fn read(parameters: Vec<(String, String)>) -> Result<ExplainQuery, Refusal> {
        let (mut method, mut url, mut fields) = (None, None, HeaderMap::new());
        for (name, value) in parameters {
            match name.as_str() {
                "method" if method.is_none() => method = Some(read_method(&value)?),
                "url" if url.is_none() => url = Some(read_url(&value)?),
                "header" => {
                    let (name, value) = headers::parse_line(value.as_bytes())
                        .ok_or_else(|| malformed(format!("header {value:?} is not a field")))?;
                    fields.append(name, value);
                }
                "method" | "url" => return Err(malformed(format!("{name:?} is given twice"))),
                _ => return Err(malformed(format!("unknown parameter {name:?}"))),
            }
        }
        let url = url.ok_or_else(|| malformed("there is no url to explain"))?;
        Ok(ExplainQuery { method: method.unwrap_or(Method::GET), url, fields })
    }

    /// The URL, as it was given.
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    pub fn explainer(self, running: &Running) -> Result<Explainer<'_>, Refusal> {
        let ExplainQuery { method, url, fields } = self;
        let (target, fields) = Explainer::target(&running.config, &url, fields)
            .map_err(|fault| malformed(format!("{url} is not a request: {fault}")))?;
        if method == Method::POST && running.live().rules.is_write(&method, &target) {
            return Err(not_stored(method.as_str()));
        }
        Ok(Explainer::of(&running.config, running.live(), method, target, fields))
    }
}

fn read_method(text: &str) -> Result<Method, Refusal> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok();
    method.filter(Explainer::may_be_read).ok_or_else(|| not_stored(text))
}

fn not_stored(method: &str) -> Refusal {
    let what_to_do = "ask for GET, HEAD or QUERY, or for POST where a family reads by it; larder explain says what a write invalidates";
    Refusal::bad_request(format!("responses to the method {method:?} are not stored there"), what_to_do)
}

fn read_url(text: &str) -> Result<Uri, Refusal> {
    text.parse().map_err(|error| malformed(format!("url {text:?} is not a URL or a path: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<ExplainQuery, Refusal> {
        ExplainQuery::read(
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn a_request_is_put_together_of_its_parameters() {
        let query = read(&[("header", "A: 1"), ("url", "/a?b"), ("method", "query"), ("header", "a:2")]).unwrap();
        assert_eq!((query.method.as_str(), query.url.to_string()), ("QUERY", "/a?b".to_owned()));
        assert_eq!(query.fields.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(read(&[("url", "http://h/")]).unwrap().method, Method::GET);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let rows: [&[(&str, &str)]; 7] = [
            &[],
            &[("url", "a b")],
            &[("url", "/"), ("url", "/")],
            &[("url", "/"), ("method", "PUT")],
            &[("url", "/"), ("method", "a b")],
            &[("url", "/"), ("header", "a")],
            &[("url", "/"), ("uri", "/")],
        ];
        for parameters in rows {
            assert!(read(parameters).is_err(), "{parameters:?}");
        }
    }
}

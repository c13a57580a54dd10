//! `GET /cache/explain`: what is kept for a request right now, and what it would get of it. Looks without touching:
//! neither memory nor the store is changed, and upstream is not asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::{HeaderMap, Method, StatusCode, Uri};

use super::desk::Desk;
use super::refusal::Refusal;
use super::report::Success;
use crate::headers;
use crate::proxy::account::{Account, Kept};
use crate::running::Running;

/// Parameters in the order they came; `header` may come several times.
type Parameters = Query<Vec<(String, String)>>;

/// `GET /cache/explain?url=…[&method=GET][&header=Name:%20value]…`
pub async fn explain(
    State(desk): State<Arc<Desk>>,
    parameters: Result<Parameters, QueryRejection>,
) -> Result<Json<Success<Kept>>, Refusal> {
    let Query(parameters) = parameters.map_err(|rejection| malformed(rejection.body_text()))?;
    let asked = Asked::read(parameters)?;
    let account = asked.account(desk.running())?;
    Ok(Json(Success::of(account.kept(&desk.running().cache).await)))
}

/// The request to explain.
#[derive(Debug)]
struct Asked {
    method: Method,
    url: Uri,
    fields: HeaderMap,
}

fn malformed(error: impl Into<String>) -> Refusal {
    let what_to_do = "ask GET /cache/explain?url=/users/7, with &method=GET and as many \
                      &header=Accept-Language:%20de as needed; percent-encode the values";
    Refusal::new(StatusCode::BAD_REQUEST, error, what_to_do)
}

impl Asked {
    fn read(parameters: Vec<(String, String)>) -> Result<Asked, Refusal> {
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
        Ok(Asked { method: method.unwrap_or(Method::GET), url, fields })
    }

    fn account(self, running: &Running) -> Result<Account<'_>, Refusal> {
        let Asked { method, url, fields } = self;
        let (target, fields) = Account::target(&running.config, &url, fields)
            .map_err(|fault| malformed(format!("{url} is not a request: {fault}")))?;
        Ok(Account::of(&running.config, running.live(), method, target, fields))
    }
}

fn read_method(text: &str) -> Result<Method, Refusal> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok();
    method.filter(Account::is_read).ok_or_else(|| {
        let what_to_do = "ask for GET, HEAD or QUERY; larder explain says what a write outdates";
        Refusal::new(StatusCode::BAD_REQUEST, format!("nothing is kept for the method {text:?}"), what_to_do)
    })
}

fn read_url(text: &str) -> Result<Uri, Refusal> {
    text.parse().map_err(|error| malformed(format!("url {text:?} is not a URL or a path: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Asked, Refusal> {
        Asked::read(parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_request_is_put_together_of_its_parameters() {
        let asked = read(&[("header", "A: 1"), ("url", "/a?b"), ("method", "query"), ("header", "a:2")]).unwrap();
        assert_eq!((asked.method.as_str(), asked.url.to_string()), ("QUERY", "/a?b".to_owned()));
        assert_eq!(asked.fields.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(read(&[("url", "http://h/")]).unwrap().method, Method::GET);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let rows: [&[(&str, &str)]; 7] = [
            &[],
            &[("url", "a b")],
            &[("url", "/"), ("url", "/")],
            &[("url", "/"), ("method", "POST")],
            &[("url", "/"), ("method", "a b")],
            &[("url", "/"), ("header", "a")],
            &[("url", "/"), ("uri", "/")],
        ];
        for parameters in rows {
            assert!(read(parameters).is_err(), "{parameters:?}");
        }
    }
}

//! Explains whether a response of upstream would be stored.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::super::decide::{MissReason, bypass};
use super::super::storing::{self, StoreVerdict, Times};
use super::{DecisionExplanation, Explainer, ReuseTerms};
use crate::client::Client;
use crate::entry;
use crate::http::headers;
use crate::http::storable::{self, Reason};
use crate::http::vary::{self, Vary};
use crate::http::{groups, targeted, validation};
use crate::running::Running;
use crate::upstream::{RequestBody, ResponseBody, UpstreamError};

/// A response of upstream.
#[derive(Debug, Clone)]
pub struct UpstreamResponse {
    pub status: StatusCode,
    pub fields: HeaderMap,
    /// Bytes of the body; `None` if unknown.
    pub length: Option<u64>,
    /// Its end is that of the connection.
    pub is_close_delimited: bool,
    /// How the body broke off, if it did.
    pub broken: Option<String>,
    /// When the request was sent, and when the head came.
    pub times: (SystemTime, SystemTime),
}

/// Whether a response would be stored, how it may be reused, or why it is not stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResponseExplanation {
    pub status: u16,
    pub stored: bool,
    /// Why it is not stored, as in `Cache-Status`'s `detail`.
    pub reason: Option<String>,
    /// A sentence with the section.
    pub because: String,
    /// What to do if it should be stored.
    pub what_to_do: Option<String>,
    /// The field that decides on caching.
    pub decided_by: String,
    pub terms: Option<ReuseTerms>,
    /// Request fields that select its variant.
    pub varies_on: Vec<String>,
    /// Response fields that only the client that asked gets.
    pub withheld: Vec<String>,
    pub groups: Vec<String>,
    /// Seconds that it stays stored, stale or not, unless it is evicted.
    pub kept_for: Option<u64>,
    /// Seconds after receipt at which `then` holds.
    pub after: u64,
    /// The decision on the same request then.
    pub then: Option<DecisionExplanation>,
}

/// Why it is not stored.
pub(super) struct NotStored {
    pub(super) token: &'static str,
    pub(super) because: String,
    pub(super) what_to_do: &'static str,
}

impl Explainer<'_> {
    /// Whether this response to the request would be stored, and the decision on the next such request `after` it came.
    pub fn judge(&self, answer: &UpstreamResponse, after: Duration) -> ResponseExplanation {
        // The steps of a fetch.
        let mut fields = answer.fields.clone();
        headers::strip_hop_by_hop(&mut fields);
        self.request.strip_answer(&mut fields);
        storing::add_date(&mut fields, answer.times.1);
        vary::complete(&mut fields, &[]);
        let judgement = ResponseExplanation {
            status: answer.status.as_u16(),
            stored: false,
            reason: None,
            because: "nothing forbids it (RFC 9111 §3)".to_owned(),
            what_to_do: None,
            decided_by: targeted::effective(&fields).authority.explanation().to_owned(),
            terms: None,
            varies_on: varies_on(&fields),
            withheld: Vec::new(),
            groups: groups::named(&fields).unwrap_or_default(),
            kept_for: None,
            after: after.as_secs(),
            then: None,
        };
        match self.verdict(answer, &fields) {
            Ok(verdict) => self.stored(judgement, answer, fields, &verdict, after),
            Err(refusal) => ResponseExplanation {
                reason: Some(refusal.token.to_owned()),
                because: refusal.because,
                what_to_do: Some(refusal.what_to_do.to_owned()),
                ..judgement
            },
        }
    }

    fn verdict(&self, answer: &UpstreamResponse, fields: &HeaderMap) -> Result<StoreVerdict, NotStored> {
        if let Some(reason) = self.forwarded() {
            return Err(NotStored {
                token: reason.label(),
                because: self.because(reason),
                what_to_do: reason.what_to_do(),
            });
        }
        if self.is_for_part() {
            return Err(NotStored {
                token: "range",
                because:
                    "the request is for a range, which is forwarded, and parts are not stored (RFC 9111 §3.3)"
                        .to_owned(),
                what_to_do: "set the family's range = \"whole\" to have all of it fetched and stored",
            });
        }
        let verdict =
            storing::judge(&self.request, answer.status, fields, answer.is_close_delimited, answer.times);
        let verdict = verdict.map_err(|reason| NotStored::of(reason, answer.status, fields))?;
        self.whole(answer).map_or(Ok(verdict), Err)
    }

    /// Why the request is forwarded although nothing is stored for it; `None` if its response may be stored.
    fn forwarded(&self) -> Option<MissReason> {
        let precondition = validation::is_for_origin(&self.request.client_request.headers);
        let bypass = bypass(&self.live, &self.request.client_request, Instant::now());
        let fault = self.token_fault(SystemTime::now());
        bypass.or(fault.map(MissReason::Token)).or(precondition.then_some(MissReason::Precondition))
    }

    /// It asks for a range, and the family does not have all of it fetched.
    fn is_for_part(&self) -> bool {
        self.request.is_for_range() && !self.request.fetching().range_fetches_whole
    }

    /// Why the body cannot be stored, if it cannot.
    fn whole(&self, answer: &UpstreamResponse) -> Option<NotStored> {
        if let Some(broken) = &answer.broken {
            return Some(NotStored {
                token: "broken",
                because: format!("{broken}: what is not complete is not stored (RFC 9111 §3.3)"),
                what_to_do: "look at what the API does there",
            });
        }
        let most = self.request.configured_max_body();
        // RFC 9110 §15.3.5: it has no content, whatever its fields say.
        let length = answer.length.filter(|_| answer.status != StatusCode::NO_CONTENT);
        let length = length.filter(|length| *length > most)?;
        Some(NotStored {
            token: "too-large",
            because: format!("its body has {length} bytes or more, and max_body is {most} (Larder's own limit)"),
            what_to_do: "raise max_body of the family or of [memory]",
        })
    }

    fn stored(
        &self,
        judgement: ResponseExplanation,
        answer: &UpstreamResponse,
        mut fields: HeaderMap,
        verdict: &StoreVerdict,
        after: Duration,
    ) -> ResponseExplanation {
        verdict.withhold(&mut fields);
        let (freshness, for_credentials) = (verdict.freshness, verdict.for_credentials);
        let has_validator = validation::has_validator(&fields);
        let (status, consumed, body) = (answer.status, storing::has_consumed(&fields), Bytes::new());
        let stored = entry::Response {
            status,
            headers: fields.into(),
            original_fields: None,
            body,
            freshness,
            for_credentials,
            consumed,
        };
        let terms = self.terms(&stored);
        ResponseExplanation {
            stored: true,
            terms: Some(terms),
            withheld: verdict.withheld.iter().map(HeaderName::to_string).collect(),
            kept_for: Some(freshness.keep_for(freshness.response_time.time(), has_validator).as_secs()),
            // `then` is about the next request.
            then: Some(self.decide_on(stored, freshness.response_time.time() + after)),
            ..judgement
        }
    }

    /// Sends the request as a fetch would. Reads no more of the body than may be stored.
    pub async fn ask(&self, running: &Running) -> Result<UpstreamResponse, UpstreamError> {
        let http = &self.request.client_request;
        let mut fields = http.for_upstream(running);
        if self.forwarded().is_none() && !self.is_for_part() {
            validation::strip_conditions(&mut fields);
        }
        let body = self.request.content.clone().map_or(RequestBody::Empty, RequestBody::Whole);
        let sent = SystemTime::now();
        let path = http.target.path_and_query();
        let response = running.upstream.send(Client::LARDER, &http.method, &path, fields, body, None).await?;
        let times: Times = (sent, SystemTime::now());
        let is_head = http.method == Method::HEAD;
        let (parts, body) = response.into_parts();
        let is_close_delimited = body.ends_with_connection();
        let (length, broken) =
            if is_head { (None, None) } else { measure(body, self.request.configured_max_body()).await };
        let length = length.or_else(|| stated_length(&parts.headers));
        Ok(UpstreamResponse {
            status: parts.status,
            fields: parts.headers,
            length,
            is_close_delimited,
            broken,
            times,
        })
    }
}

/// Bytes of a body, counted until there are more than `most`; and how it broke off, if it did.
async fn measure(mut body: ResponseBody, most: u64) -> (Option<u64>, Option<String>) {
    if let Some(length) = body.size_hint().exact().filter(|length| *length > most) {
        return (Some(length), None);
    }
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => length += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(error) => return (Some(length), Some(error.to_string())),
        }
        if length > most {
            break;
        }
    }
    (Some(length), None)
}

/// `Content-Length`, if there is one that is a number.
pub fn stated_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn varies_on(fields: &HeaderMap) -> Vec<String> {
    match Vary::parse(fields) {
        Vary::Nothing => Vec::new(),
        Vary::Everything => vec!["*".to_owned()],
        Vary::On(names) => names.iter().map(HeaderName::to_string).collect(),
    }
}

impl NotStored {
    fn of(reason: Reason, status: StatusCode, fields: &HeaderMap) -> NotStored {
        let because = match reason {
            Reason::VaryStar if storing::varies_on_this_hop(fields) => {
                "the response varies on a field that Larder writes itself (Via, Forwarded, X-Forwarded-…), for which \
                 there is no key: as good as Vary: * (RFC 9111 §4.1)"
            }
            Reason::Status if storable::is_about_request(status) => {
                "this status is about one request (its fields, credentials, length or rate), not about the resource, and \
                 everybody would be told it (RFC 9110 §15.5, RFC 6585 §3; a 4xx that no RFC assigns counts as 400, RFC \
                 9110 §15)"
            }
            reason => reason.explanation(),
        };
        NotStored { token: reason.token(), because: because.to_owned(), what_to_do: what_to_do(reason) }
    }
}

/// Why a response was not stored, and what to do, of the token in `Cache-Status`'s `detail`.
pub(in crate::proxy) fn sentence_of(token: &str) -> String {
    match Reason::ALL.into_iter().find(|reason| reason.token() == token) {
        Some(reason) => format!("{}; {}", reason.explanation(), what_to_do(reason)),
        None if token == "no-room" => {
            "there was no room in memory for its body, beside those that were on their way; lower concurrency in [[warm]], or \
             raise [memory] capacity"
                .to_owned()
        }
        None => "its body is larger than max_body; raise max_body of the family or of [memory]".to_owned(),
    }
}

/// What to do if a response should be stored all the same.
fn what_to_do(reason: Reason) -> &'static str {
    match reason {
        Reason::RequestNoStore => {
            "send the request without no-store, or set the family's client_directives = \"none\""
        }
        Reason::NoStore | Reason::Private => {
            "have the API leave the directive out where everybody may have the response; for Larder alone, have it \
             send Larder-Cache-Control (RFC 9213)"
        }
        Reason::EventStream => "nothing: an event stream is forwarded as it arrives and is never stored",
        Reason::TooManyGroups => "have the API name fewer groups",
        Reason::SetCookie => {
            "have the API set the cookie only when it changes; or set the family's set_cookie = \"strip\", if its clients \
             need none of its cookies"
        }
        Reason::Authorization | Reason::Cookie | Reason::Credentials => {
            "say in the family whose answer it is: identity = \"header:NAME\", \"cookie:NAME\", or \"none\" if everybody \
             may have it; name further fields in headers, and in cookies = { keep = [] } the cookies that count; or have \
             the API send public"
        }
        Reason::VaryStar => "have the API name the request fields that it goes by",
        Reason::VaryOther => "have the API name the same few request fields in every Vary of a URL",
        Reason::Status => "nothing: such responses are for one request",
        Reason::ContentRange => "have the API send Content-Range with 206 alone",
        Reason::CloseDelimited => {
            "have the API send Content-Length, or chunks; or set the family's close_delimited = \"store\""
        }
        Reason::ServerError => "nothing: the stored response is validated again by the next request",
        Reason::NeverCached => MissReason::NeverCached.what_to_do(),
        Reason::NoLifetime => {
            "give a family that claims this path a ttl (negative_ttl for redirects and errors), or have the API send \
             Cache-Control: max-age=…"
        }
        Reason::StaleAtOnce => {
            "have the API send a longer max-age, or an ETag; if Age or Date says that it is old already, look at what \
             caches stand before the API, and at its clock"
        }
    }
}

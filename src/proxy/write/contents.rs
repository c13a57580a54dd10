//! The contents of a write and of its response, from which rules take values (`{body.user_id}`, `{response.id}`).
//!
//! Content is read while it goes to upstream: what is here already before the write is announced, otherwise a copy that is
//! complete when upstream may have received all of it. Until then nothing is known of it, and the write names whole
//! families: in its intent, and when the response comes first.
//!
//! The head of a response waits until the content that rules need is here, since the invalidation must be complete before
//! the client has the acknowledgement.

use std::sync::Arc;

use http::{HeaderMap, Response};
use http_body::Body as _;

use super::super::ClientRequest;
use crate::http::invalidation::WriteEnd;
use crate::rules::content::{ContentPlace, RuleContent};
use crate::rules::{MatchedRule, Unresolved};
use crate::running::Running;
use crate::upstream::{ContentCopy, RequestBody, ResponseBody, Upload};

/// What is known of both contents.
#[derive(Debug, Clone)]
pub struct Contents {
    pub request: RuleContent,
    pub response: RuleContent,
    /// The places in the request's content that rules name.
    places: Vec<ContentPlace>,
    /// Made while the request is sent.
    copy: Option<Arc<ContentCopy>>,
}

/// Nothing is known.
pub static UNKNOWN: Contents = Contents {
    request: RuleContent::Unreadable(Unresolved::NotReceived),
    response: RuleContent::Unreadable(Unresolved::NotReceived),
    places: Vec::new(),
    copy: None,
};

impl Contents {
    /// Those of a write that is about to be sent, if its rules read its content.
    pub fn before(
        running: &Running,
        http: &ClientRequest,
        body: &mut RequestBody,
        matches: &[MatchedRule<'_>],
    ) -> Contents {
        let mut contents = UNKNOWN.clone();
        contents.places = distinct(matches.iter().flat_map(|matched| matched.rule.places_in_content()));
        if contents.places.is_empty() {
            return contents;
        }
        let most = running.config.server.max_rule_body;
        match (body.at_hand(), RuleContent::unreadable(&http.headers)) {
            (Some([]), _) => contents.request = RuleContent::Unreadable(Unresolved::NoContent),
            (_, Some(why)) => contents.request = RuleContent::Unreadable(why),
            (Some(bytes), None) if bytes.len() as u64 > most => {
                contents.request = RuleContent::Unreadable(Unresolved::TooLarge);
            }
            (Some(bytes), None) => contents.request = RuleContent::read(&http.headers, bytes, &contents.places),
            (None, None) => contents.copy = running.upstream.copy_content(http.sharer(running), body, most),
        }
        contents
    }

    /// Reads the copy of the request's content, if upstream may have received all of it.
    pub fn note_sent(&mut self, fields: &HeaderMap, upload: Option<&Upload>) {
        let Some(copy) = self.copy.take_if(|_| upload.is_some_and(Upload::is_whole)) else { return };
        let read = copy.read(|bytes| RuleContent::read(fields, bytes, &self.places));
        self.request = read.unwrap_or(RuleContent::Unreadable(Unresolved::TooLarge));
    }

    /// Reads the values at these places in the content of the response.
    pub async fn receive_response(
        &mut self,
        running: &Running,
        http: &ClientRequest,
        answer: &mut Response<ResponseBody>,
        places: &[ContentPlace],
    ) {
        let (fields, most) = (answer.headers().clone(), running.config.server.max_rule_body);
        let length = answer.body().size_hint().lower();
        let refused = match RuleContent::unreadable(&fields) {
            _ if answer.body().is_end_stream() => Some(Unresolved::NoContent),
            // Where the connection ends, it may have been cut off (RFC 9112 §8).
            None if answer.body().ends_with_connection() => Some(Unresolved::Malformed),
            None if length > most => Some(Unresolved::TooLarge),
            why => why,
        };
        self.response = match refused {
            Some(why) => RuleContent::Unreadable(why),
            None => match running.upstream.receive_response(http.sharer(running), answer.body_mut(), most).await {
                Some(bytes) => RuleContent::read(&fields, bytes, places),
                None => RuleContent::Unreadable(Unresolved::TooLarge),
            },
        };
    }

    /// Whether they may differ from [`UNKNOWN`], so that the tags must be made again.
    pub fn are_read(&self) -> bool {
        let is_unknown = |content: &RuleContent| *content == RuleContent::Unreadable(Unresolved::NotReceived);
        !(is_unknown(&self.request) && is_unknown(&self.response))
    }
}

/// The places in the content of the response that the rules which apply name.
pub fn places_in_response(matches: &[MatchedRule<'_>], end: WriteEnd) -> Vec<ContentPlace> {
    let applying = matches.iter().filter(|matched| matched.rule.on.applies(end));
    distinct(applying.flat_map(|matched| matched.rule.places_in_response()))
}

fn distinct<'p>(places: impl Iterator<Item = &'p ContentPlace>) -> Vec<ContentPlace> {
    let mut distinct: Vec<ContentPlace> = Vec::new();
    for place in places {
        if !distinct.contains(place) {
            distinct.push(place.clone());
        }
    }
    distinct
}

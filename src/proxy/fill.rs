//! A fetch on behalf of everyone who waits for it: ask upstream, judge the answer, pass it on while it is being
//! stored. Runs in a task of its own, so that no client that leaves can stop it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, DATE, VARY};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::question::Question;
use crate::cache::Place;
use crate::cache::flight::{Head, Landing, Permit};
use crate::cache::stream::{Broken, Reader, Room, Stream};
use crate::entry::{self, Content, Entry};
use crate::headers;
use crate::key::{Canonical, Key};
use crate::running::Running;
use crate::semantics::freshness::Freshness;
use crate::semantics::storable::{self, Received, Storable};
use crate::semantics::validation;
use crate::semantics::vary::Vary;
use crate::stamp::{Stamp, View};
use crate::upstream::{RequestBody, ResponseBody, UpstreamError};

/// How long the slowest reader of a body that is not stored may hold up the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a fill needs to know.
pub(super) struct Errand {
    pub question: Arc<Question>,
    /// The request as keyed without what responses vary on.
    pub primary: Canonical,
    /// The key the flight flies under.
    pub key: Key,
    /// Read before the fetch: a write that lands meanwhile must win.
    pub view: Option<View>,
    /// A stored response to validate.
    pub stale: Option<Arc<Entry>>,
}

/// What only the leader gets.
pub(super) enum Direct {
    /// Its place in the shared body, taken before anyone else could make the start go away.
    Reader(Reader),
    /// A response that is not for sharing, and why it is not stored.
    Response(Box<Response<ResponseBody>>, &'static str),
}

/// A response to store, decided on.
struct Verdict {
    freshness: Freshness,
    for_credentials: bool,
}

/// Fetches and lands.
pub(super) async fn fill(
    running: Arc<Running>,
    errand: Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
) {
    permit.turn().await;
    let mut times = (SystemTime::now(), SystemTime::now());
    let answer = ask(&running, &errand, errand.stale.as_deref(), &mut times).await;
    let answer = match (answer, &errand.stale) {
        (Ok(answer), Some(stale)) if answer.status() == StatusCode::NOT_MODIFIED => {
            match validated(&errand, stale, &answer, times) {
                Some((entry, place)) => return keep_validated(&running, &errand, &permit, entry, &place).await,
                // RFC 9111 §4.3.4: a 304 that is about something else says nothing of ours. Ask for all of it.
                None => ask(&running, &errand, None, &mut times).await,
            }
        }
        (answer, _) => answer,
    };
    let failed = answer.as_ref().map_or(true, |answer| is_failure(answer.status()));
    if failed && let Some(stale) = errand.stale.as_ref().filter(|stale| usable_on_error(stale)) {
        return permit.land(Landing::StaleOnError(Arc::clone(stale)));
    }
    match answer {
        Ok(answer) => deliver(&running, &errand, permit, direct, answer, times).await,
        Err(error) => permit.land(Landing::Failed(error)),
    }
}

/// RFC 5861 §4: the statuses that count as an error.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

fn usable_on_error(stale: &Entry) -> bool {
    stale.response().is_some_and(|response| response.freshness.usable_on_error(SystemTime::now()))
}

async fn ask(
    running: &Running,
    errand: &Errand,
    stale: Option<&Entry>,
    times: &mut (SystemTime, SystemTime),
) -> Result<Response<ResponseBody>, UpstreamError> {
    let asked = &errand.question.asked;
    let mut fields = asked.for_upstream(running);
    validation::strip_conditions(&mut fields);
    if let Some(stored) = stale.and_then(Entry::response) {
        validation::make_conditional(&mut fields, &stored.headers);
    }
    let path = asked.target.path_and_query();
    times.0 = SystemTime::now();
    let answer =
        running.upstream.send(&Method::GET, &path, fields, RequestBody::Empty, asked.interim.clone()).await;
    times.1 = SystemTime::now();
    answer
}

/// RFC 9111 §4.3.4: the stored response, freshened by a 304, with this fetch's stamp.
fn validated(
    errand: &Errand,
    stale: &Arc<Entry>,
    answer: &Response<ResponseBody>,
    times: (SystemTime, SystemTime),
) -> Option<(Entry, Place)> {
    let stored = stale.response()?;
    let mut update = answer.headers().clone();
    headers::strip_hop_by_hop(&mut update);
    if !validation::selects(&update, &stored.headers) {
        return None;
    }
    // RFC 9111 §4.1: what it varies on is part of its key, which a 304 cannot change.
    if update.contains_key(VARY) && Vary::parse(&update) != Vary::parse(&stored.headers) {
        return None;
    }
    let (age, mut fields) = (update.remove(AGE), validation::freshen(&stored.headers, &update));
    note_date(&mut fields, times.1);
    let mut judged = fields.clone();
    age.into_iter().for_each(|age| drop(judged.insert(AGE, age)));
    // A 304 that says `no-store`, `private` or `Set-Cookie` is for one client: its response is fetched whole.
    let Verdict { freshness, for_credentials } = judge(errand, stored.status, &judged, times).ok()?;
    let response = entry::Response { headers: fields, freshness, for_credentials, ..stored.clone() };
    let entry = Entry {
        text: stale.text.clone(),
        stamp: errand.view.map_or(stale.stamp, |view| view.stamp),
        tags: Arc::clone(&stale.tags),
        content: Content::Response(response),
    };
    Some((entry, place(errand, errand.key, &freshness, &judged)))
}

async fn keep_validated(running: &Running, errand: &Errand, permit: &Permit, entry: Entry, place: &Place) {
    if errand.view.is_none() {
        return permit.land(Landing::Validated(Arc::new(entry)));
    }
    let entry = running.cache.store_in_memory(entry, place);
    permit.land(Landing::Validated(Arc::clone(&entry)));
    permit.close();
    running.cache.store_shared(&entry, place).await;
}

fn judge(
    errand: &Errand,
    status: StatusCode,
    fields: &HeaderMap,
    times: (SystemTime, SystemTime),
) -> Result<Verdict, storable::Reason> {
    if varies_on_this_hop(fields) {
        return Err(storable::Reason::VaryStar);
    }
    let (request_time, response_time) = (times.0, entry::whole_millis(times.1));
    let received = Received { status, headers: fields, request_time, response_time };
    match storable::storable(errand.question.facts, received, &errand.question.policy()) {
        Storable::Yes { freshness, for_credentials } => Ok(Verdict { freshness, for_credentials }),
        Storable::No(reason) => Err(reason),
    }
}

/// A response that varies on what Larder itself tells upstream of the client: there is nothing to key that on, so
/// it counts as `*`.
fn varies_on_this_hop(fields: &HeaderMap) -> bool {
    match Vary::parse(fields) {
        Vary::On(names) => names.iter().any(headers::is_of_this_hop),
        Vary::Nothing | Vary::Everything => false,
    }
}

fn place(errand: &Errand, key: Key, freshness: &Freshness, fields: &HeaderMap) -> Place {
    let keep = freshness.keep_for(SystemTime::now(), validation::has_validator(fields));
    Place { key, label: errand.question.label(), keep }
}

/// RFC 9110 §6.6.1: who forwards or stores a response without `Date` records when it came.
fn note_date(fields: &mut HeaderMap, received: SystemTime) {
    if !fields.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(received))
    {
        fields.insert(DATE, date);
    }
}

/// Passes a full response on: to everyone and into the cache if it may be stored, else to the leader alone.
async fn deliver(
    running: &Running,
    errand: &Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
    answer: Response<ResponseBody>,
    times: (SystemTime, SystemTime),
) {
    let mut fields = answer.headers().clone();
    headers::strip_hop_by_hop(&mut fields);
    note_date(&mut fields, times.1);
    let length = answer.body().size_hint().exact();
    let too_large = length.is_some_and(|length| length > errand.question.max_body(running));
    let verdict = judge(errand, answer.status(), &fields, times);
    let verdict = match verdict {
        Ok(verdict) if !too_large => verdict,
        refused => {
            let reason = refused.as_ref().err().map_or("too-large", |reason| reason.token());
            running.metrics.not_stored(reason);
            // An error is a passing thing: the next answer may well be for sharing.
            let passing = refused.err().is_some_and(|reason| !reason.is_of_response());
            if !answer.status().is_server_error() && !passing {
                running.flights.remember_unshared(errand.key, Instant::now());
            }
            if let Some(direct) = direct {
                let _ = direct.send(Direct::Response(Box::new(answer), reason));
            }
            return permit.land(Landing::Unshared);
        }
    };
    headers::add_via(&mut fields, answer.version());
    let (parts, body) = answer.into_parts();
    let head = head(errand, parts.status, fields, &verdict);
    let stream = Stream::new(length);
    let _ended = EndAnyway(Arc::clone(&stream));
    if let (Some(direct), Some(reader)) = (direct, stream.reader()) {
        let _ = direct.send(Direct::Reader(reader));
    }
    let head = Arc::new(head);
    permit.land(Landing::Streaming(Arc::clone(&head), Arc::clone(&stream)));
    match pump(running, errand, &permit, &stream, body).await {
        Pumped::Complete(whole) => match errand.view {
            Some(view) => {
                let complete = Complete { stamp: view.stamp, head: &head, verdict, body: whole, stream: &stream };
                keep(running, errand, &permit, complete).await;
            }
            // The store is away: without a stamp nothing could ever prove the response current.
            None => {
                permit.close();
                stream.finish(Ok(()));
            }
        },
        Pumped::PassedOn => stream.finish(Ok(())),
        Pumped::Broken => {
            // Who sees it break and asks again must not join it again.
            permit.close();
            stream.finish(Err(Broken::Upstream));
        }
        Pumped::Deserted => {}
    }
}

fn head(errand: &Errand, status: StatusCode, fields: HeaderMap, verdict: &Verdict) -> Head {
    let varies_on = match Vary::parse(&fields) {
        Vary::On(fields) => fields,
        // `*` is never storable, so it does not come here.
        Vary::Nothing | Vary::Everything => Vec::new(),
    };
    let text = errand.primary.variant(&varies_on, &errand.question.asked.headers).text;
    let ttl = verdict.freshness.ttl(SystemTime::now());
    Head { status, headers: fields, varies_on, text, ttl, stored: errand.view.is_some() }
}

/// A response with all of its body.
struct Complete<'a> {
    stamp: Stamp,
    head: &'a Head,
    verdict: Verdict,
    body: Bytes,
    stream: &'a Stream,
}

/// Ends a body whose fill is gone, so that no reader waits for ever.
struct EndAnyway(Arc<Stream>);

impl Drop for EndAnyway {
    fn drop(&mut self) {
        self.0.finish(Err(Broken::Upstream));
    }
}

/// How a body ended.
enum Pumped {
    /// All of it is here.
    Complete(Bytes),
    /// It was too large to keep; everyone has it.
    PassedOn,
    /// It broke off; nothing is kept.
    Broken,
    /// Nobody wanted the rest of a body that would not be stored.
    Deserted,
}

async fn pump(
    running: &Running,
    errand: &Errand,
    permit: &Permit,
    stream: &Arc<Stream>,
    mut body: ResponseBody,
) -> Pumped {
    let max_body = errand.question.max_body(running);
    let (mut length, mut passing) = (0_u64, false);
    while let Some(frame) = body.frame().await {
        let chunk = match frame.map(http_body::Frame::into_data) {
            Ok(Ok(chunk)) => chunk,
            // RFC 9111 §3.1: trailer fields may be discarded.
            Ok(Err(_)) => continue,
            Err(error) => {
                tracing::warn!(path = errand.question.asked.target.path, %error, "response is not stored");
                return Pumped::Broken;
            }
        };
        length += chunk.len() as u64;
        if body.is_end_stream() {
            stream.push_last(chunk);
        } else {
            stream.push(chunk);
        }
        if length > max_body && !passing {
            passing = true;
            running.metrics.not_stored("too-large");
            running.flights.remember_unshared(errand.key, Instant::now());
            permit.close();
            stream.pass_on();
        }
        if passing && stream.room(PATIENCE).await == Room::NoReaders {
            return Pumped::Deserted;
        }
    }
    if passing { Pumped::PassedOn } else { Pumped::Complete(stream.whole()) }
}

/// Keeps a whole response: in memory before its last reader can see the end of it, so that whoever asks again finds
/// it there; in the store after that.
async fn keep(running: &Running, errand: &Errand, permit: &Permit, complete: Complete<'_>) {
    let Complete { stamp, head, verdict, body, stream } = complete;
    let tags: Arc<[_]> = errand.question.tags().into();
    let place_of = |key| place(errand, key, &verdict.freshness, &head.headers);
    let mut fields = head.headers.clone();
    // Worked out anew for each answer: how old it is, and how much of it is sent.
    fields.remove(AGE);
    fields.remove(CONTENT_LENGTH);
    let response = entry::Response {
        status: head.status,
        headers: fields,
        body,
        freshness: verdict.freshness,
        for_credentials: verdict.for_credentials,
    };
    let mut entries = Vec::with_capacity(2);
    let mut key = errand.primary.key;
    if !head.varies_on.is_empty() {
        let content = Content::Variants(head.varies_on.clone());
        let text = errand.primary.text.as_str().into();
        entries.push((Entry { text, stamp, tags: Arc::clone(&tags), content }, place_of(key)));
        key = errand.primary.variant(&head.varies_on, &errand.question.asked.headers).key;
    }
    let text = head.text.as_str().into();
    entries.push((Entry { text, stamp, tags, content: Content::Response(response) }, place_of(key)));
    let kept: Vec<_> =
        entries.into_iter().map(|(entry, place)| (running.cache.store_in_memory(entry, &place), place)).collect();
    // Who asks from now on is answered from memory, or asks anew: this fetch is over.
    permit.close();
    stream.finish(Ok(()));
    for (entry, place) in kept {
        running.cache.store_shared(&entry, &place).await;
    }
}

//! A fetch on behalf of everyone who waits for it: ask upstream, judge the answer, pass it on while it is being
//! stored. Runs in a task of its own, so that no client that leaves can stop it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AGE, ETAG, VARY};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::collapse::{self, Course};
use super::errand::Errand;
use super::keep::{self, Complete, Kept, Times, Verdict};
use crate::cache::flight::{Head, Landing, Permit};
use crate::cache::stream::{Broken, Reader, Room, Stream};
use crate::cache::{Found, SHARED_MAX};
use crate::entry::{self, Content, Entry, Variant};
use crate::headers;
use crate::running::Running;
use crate::semantics::freshness::Failure;
use crate::semantics::storable::Reason;
use crate::semantics::validation;
use crate::semantics::vary::Vary;
use crate::upstream::{RequestBody, ResponseBody, UpstreamError, UpstreamPlace};

/// How long the slowest reader of a body that is not stored may hold up the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// What only the leader gets.
pub(super) enum Direct {
    /// Its place in the shared body, taken before anyone else could make the start go away, and the fields that are
    /// for it alone.
    Reader(Reader, HeaderMap),
    /// A response that is not for sharing, and why it is not stored.
    Response(Box<Response<ResponseBody>>, &'static str),
}

/// Fetches and lands, or lands with what another proxy has fetched.
pub(super) async fn fill(
    running: Arc<Running>,
    errand: Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
) {
    permit.turn().await;
    match collapse::course(&running, errand, &permit).await {
        Course::Fetch(errand) => {
            let is_stored = fetch(&running, &errand, permit, direct).await;
            errand.end_claim(is_stored);
        }
        Course::Land(landing) => permit.land(landing),
        Course::Deserted => {}
    }
}

/// Fetches and lands; true if the store has what was fetched.
async fn fetch(
    running: &Running,
    errand: &Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
) -> bool {
    let mut times = (SystemTime::now(), SystemTime::now());
    let place = tokio::select! {
        place = running.upstream.place() => place,
        // Nothing was begun, and nobody is left whom it is for. A refresh is for those who come.
        () = permit.deserted(), if direct.is_some() => return false,
    };
    let answer = match place {
        Ok(place) => ask(running, errand, place, true, &mut times).await,
        Err(overloaded) => Err(overloaded),
    };
    let answer = match answer {
        Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED && errand.is_conditional() => {
            let confirmed = confirmed(running, errand, answer.headers(), times).await;
            // Its place may be the only one.
            drop(answer);
            match confirmed {
                Some(confirmed) => return confirmed.keep(running, errand, &permit).await,
                // RFC 9111 §4.3.4: a 304 that is about something else says nothing of ours. Ask for all of it.
                None => match running.upstream.place().await {
                    Ok(place) => ask(running, errand, place, false, &mut times).await,
                    Err(overloaded) => Err(overloaded),
                },
            }
        }
        answer => answer,
    };
    if let Some(failure) = failure(&answer)
        && let Some(stale) = errand.stale.as_ref().filter(|stale| errand.question.takes_after(failure, stale))
    {
        permit.land(Landing::StaleOnError(Arc::clone(stale), failure));
        return false;
    }
    match answer {
        Ok(answer) => deliver(running, errand, permit, direct, answer, times).await,
        Err(error) => {
            permit.land(Landing::Failed(error));
            false
        }
    }
}

/// RFC 9111 §4.3.3: a full answer to a validation says that what was stored is not what upstream would send now. Not so an
/// error of the server, nor that it has had too much of this client (RFC 9110 §15.5.9, RFC 6585 §4).
fn withdraws(status: StatusCode) -> bool {
    !status.is_server_error() && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// RFC 5861 §4: the statuses that count as an error; and no answer at all.
fn failure(answer: &Result<Response<ResponseBody>, UpstreamError>) -> Option<Failure> {
    match answer {
        Ok(answer) => {
            let status = answer.status();
            matches!(status.as_u16(), 500 | 502 | 503 | 504).then_some(Failure::Status(status))
        }
        Err(_) => Some(Failure::NoAnswer),
    }
}

async fn ask(
    running: &Running,
    errand: &Errand,
    place: UpstreamPlace,
    conditionally: bool,
    times: &mut Times,
) -> Result<Response<ResponseBody>, UpstreamError> {
    let question = &errand.question;
    let mut fields = question.asked.for_upstream(running);
    validation::strip_conditions(&mut fields);
    if conditionally {
        errand.make_conditional(&mut fields);
    }
    let path = question.asked.target.path_and_query();
    let (method, body) = match &question.content {
        Some(content) => (question.asked.method.clone(), RequestBody::Whole(content.clone())),
        None => (Method::GET, RequestBody::Empty),
    };
    times.0 = SystemTime::now();
    let interim = question.asked.interim.clone();
    let answer = running.upstream.send_from(place, &method, &path, fields, body, interim).await;
    times.1 = SystemTime::now();
    answer
}

/// A stored response that upstream has confirmed, with its new fields.
pub(super) struct Confirmed {
    entry: Entry,
    verdict: Verdict,
    /// The entry that was confirmed, if it is another variant than the request's.
    other: Option<Arc<Entry>>,
}

/// RFC 9111 §4.3.4: the stored response that a 304 is about, freshened, with this fetch's stamp.
async fn confirmed(running: &Running, errand: &Errand, answer: &HeaderMap, times: Times) -> Option<Confirmed> {
    let mut update = answer.clone();
    headers::strip_hop_by_hop(&mut update);
    if let Some(stale) = errand.to_validate()
        && validation::selects(&update, &stale.response()?.headers)
    {
        return freshened(errand, stale, update, times);
    }
    let other = selected_variant(running, errand, &update).await?;
    let confirmed = freshened(errand, &other, update, times)?;
    Some(Confirmed { other: Some(other), ..confirmed })
}

/// The variant, stored for other requests, that a 304 names.
async fn selected_variant(running: &Running, errand: &Errand, update: &HeaderMap) -> Option<Arc<Entry>> {
    let is_named = |variant: &&Variant| variant.etag.as_ref().is_some_and(|etag| validation::names(update, etag));
    let suffix = &errand.other_variants().find(is_named)?.suffix;
    let question = &errand.question;
    let canonical = errand.primary.with_suffix(suffix);
    let lookup = running.cache.lookup_exactly(canonical, || question.label(), || question.tags()).await;
    match lookup.found {
        // An entity tag says that the bytes are the same; what a write has outdated is not looked at all the same.
        Found::Current(entry) if entry.response().is_some() => Some(entry),
        _ => None,
    }
}

/// A stored response with the fields of a message that confirms it: a 304, or the answer to a HEAD.
pub(super) fn freshened(
    errand: &Errand,
    stored: &Entry,
    mut update: HeaderMap,
    times: Times,
) -> Option<Confirmed> {
    let response = stored.response()?;
    // RFC 9111 §4.1: what it varies on is part of its key, which a 304 cannot change.
    if update.contains_key(VARY) && Vary::parse(&update) != Vary::parse(&response.headers) {
        return None;
    }
    let age = update.remove(AGE);
    let mut fields = validation::freshen(&response.headers, &update);
    keep::note_date(&mut fields, times.1);
    let mut judged = fields.clone();
    age.into_iter().for_each(|age| drop(judged.insert(AGE, age)));
    // A 304 that says `no-store`, `private` or `Set-Cookie` is for one client: its response is fetched whole.
    let verdict = keep::judge_confirmed(&errand.question, response.status, &judged, times).ok()?;
    verdict.withhold(&mut fields);
    let (tags, consumed) = (verdict.tags(&errand.question), keep::has_consumed(&fields));
    let (freshness, for_credentials) = (verdict.freshness, verdict.for_credentials);
    let response = entry::Response { headers: fields, freshness, for_credentials, consumed, ..response.clone() };
    let entry = Entry {
        text: errand.canonical.text.as_str().into(),
        stamp: errand.view.map_or(stored.stamp, |view| view.stamp),
        tags,
        content: Content::Response(response),
    };
    Some(Confirmed { entry, verdict, other: None })
}

impl Confirmed {
    /// Lands it, and keeps it unless the request forbids that (RFC 9111 §5.2.1.5): its own answer it is all the same.
    /// True if the store has it.
    async fn keep(self, running: &Running, errand: &Errand, permit: &Permit) -> bool {
        if errand.view.is_none() || errand.question.facts.no_store {
            permit.land(Landing::Validated(Arc::new(self.entry)));
            return false;
        }
        let (entry, kept) = self.store(running, errand);
        permit.land(Landing::Validated(entry));
        permit.close();
        kept.share(running).await
    }

    /// In memory under the request's own key; where another variant was confirmed, under that one's key too, and the
    /// sign that responses vary learns of the new one.
    fn store(self, running: &Running, errand: &Errand) -> (Arc<Entry>, Kept) {
        let Errand { question, primary, canonical, sign, .. } = errand;
        let fields = self.entry.response().map(|response| response.headers.clone()).unwrap_or_default();
        let place_of = |key| keep::place(question, key, &self.verdict.freshness, &fields);
        let put = |entry, key| {
            let place = place_of(key);
            (running.cache.store_in_memory(entry, &place), place)
        };
        let (own, place) = put(self.entry, canonical.key);
        let mut kept = Kept(vec![(Arc::clone(&own), place)], Vec::new());
        if let (Some(other), Some(sign)) = (self.other, sign) {
            let on = sign.variants().map_or(&[][..], |variants| &variants.on);
            let known = Variant { suffix: primary.suffix_of(canonical).into(), etag: fields.get(ETAG).cloned() };
            let (variants, gone) = keep::with_variant(running, question, primary, Some(sign), on, known);
            let entry = |text: &str, content| Entry { text: text.into(), content, ..(*own).clone() };
            let key = primary.with_suffix(primary.suffix_in(&other.text)).key;
            kept.0.push(put(entry(&other.text, own.content.clone()), key));
            kept.0.push(put(entry(&primary.text, Content::Variants(variants)), primary.key));
            kept.1.extend(gone.iter().map(|gone| place_of(primary.with_suffix(&gone.suffix).key)));
        }
        (own, kept)
    }

    /// Keeps what the answer to a HEAD has confirmed.
    pub async fn keep_after_head(self, running: &Running, errand: &Errand) {
        if !errand.question.facts.no_store {
            self.store(running, errand).1.share(running).await;
        }
    }
}

/// Passes a full response on: to everyone and into the cache if it may be stored, else to the leader alone. True if the
/// store has it.
async fn deliver(
    running: &Running,
    errand: &Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
    answer: Response<ResponseBody>,
    times: Times,
) -> bool {
    let mut fields = answer.headers().clone();
    headers::strip_hop_by_hop(&mut fields);
    keep::note_date(&mut fields, times.1);
    let length = answer.body().size_hint().exact();
    let too_large = length.is_some_and(|length| length > errand.question.max_body(running));
    let verdict = match keep::judge(&errand.question, answer.status(), &fields, times) {
        Ok(verdict) if !too_large => verdict,
        refused => {
            let reason = refused.as_ref().err().map_or("too-large", |reason| reason.token());
            running.metrics.not_stored(reason);
            let is_of_response = refused.err().is_none_or(Reason::is_of_response);
            // What is said to somebody's credentials says nothing of what others would be told.
            let is_for_all = is_of_response && !errand.question.is_personal();
            if is_for_all && withdraws(answer.status()) {
                errand.forget_stale(running).await;
            }
            // An error is a passing thing: the next answer may well be for sharing.
            if is_for_all && !answer.status().is_server_error() {
                running.flights.remember_unshared(errand.canonical.key, Instant::now());
            }
            if let Some(direct) = direct {
                let _ = direct.send(Direct::Response(Box::new(answer), reason));
            }
            permit.land(Landing::Unshared);
            return false;
        }
    };
    if length.is_some_and(|length| length > SHARED_MAX) {
        errand.end_claim(false);
    }
    headers::add_via(&mut fields, answer.version());
    let own = verdict.withhold(&mut fields);
    let (parts, body) = answer.into_parts();
    let stream = Stream::new(length, &running.held);
    let Errand { question, primary, sign, view, .. } = errand;
    let stamp = view.map(|view| view.stamp);
    let head = Arc::new(keep::head(question, primary, sign.as_deref(), stamp, parts.status, fields, &verdict));
    let _ended = EndAnyway(Arc::clone(&stream));
    if let (Some(direct), Some(reader)) = (direct, stream.reader()) {
        let _ = direct.send(Direct::Reader(reader, own));
    }
    permit.land(Landing::Streaming(Arc::clone(&head), Arc::clone(&stream)));
    match pump(running, errand, &permit, &stream, body).await {
        Pumped::Complete(body) => store(running, errand, &permit, &stream, &head, &verdict, body).await,
        Pumped::PassedOn => {
            stream.finish(Ok(()));
            false
        }
        Pumped::Broken => {
            // Who sees it break and asks again must not join it again.
            permit.close();
            stream.finish(Err(Broken::Upstream));
            false
        }
        Pumped::Deserted => false,
    }
}

/// Keeps a whole response: in memory before its last reader can see the end of it, so that whoever asks again finds
/// it there; in the store after that. True if it is in the store.
async fn store(
    running: &Running,
    errand: &Errand,
    permit: &Permit,
    stream: &Stream,
    head: &Head,
    verdict: &Verdict,
    body: Bytes,
) -> bool {
    let Errand { question, primary, sign, view, .. } = errand;
    // While the store is away there is no stamp, and without one nothing could ever prove the response current.
    let kept = view.map(|view| {
        let sign = sign.as_deref();
        Complete { question, primary, sign, stamp: view.stamp, head, verdict, body }.keep_in_memory(running)
    });
    // Who asks from now on is answered from memory, or asks anew: this fetch is over.
    permit.close();
    stream.finish(Ok(()));
    match kept {
        Some(kept) => kept.share(running).await,
        None => false,
    }
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
    /// Nobody wanted the rest of a body that would not be stored, or that seems to have no end.
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
    // What has no known end may have none: nobody is left whom it is for.
    let is_endless = body.size_hint().exact().is_none();
    let mut deserted = pin!(stream.deserted_for(running.config.server.upstream_timeout));
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut deserted, if is_endless => return Pumped::Deserted,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { break };
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
        if length > SHARED_MAX {
            errand.end_claim(false);
        }
        let is_too_large = length > max_body;
        if (is_too_large || running.held.is_full()) && !passing {
            passing = true;
            running.metrics.not_stored(if is_too_large { "too-large" } else { "no-room" });
            if is_too_large {
                running.flights.remember_unshared(errand.canonical.key, Instant::now());
            }
            permit.close();
            errand.end_claim(false);
            errand.forget_stale(running).await;
            stream.pass_on();
        }
        if passing && stream.room(PATIENCE).await == Room::NoReaders {
            return Pumped::Deserted;
        }
    }
    if passing { Pumped::PassedOn } else { Pumped::Complete(stream.whole()) }
}

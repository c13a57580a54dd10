//! A fetch on behalf of everyone who waits for it: ask upstream, judge the answer, pass it on while it is being
//! stored. Runs in a task of its own, so that no client that leaves can stop it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::collapse::{self, Course};
use super::errand::Errand;
use super::keep::{self, Complete, Kept, Times, Verdict};
use crate::cache::SHARED_MAX;
use crate::cache::flight::{Failed, Head, Landing, Permit, ServerError};
use crate::cache::stream::{Broken, Reader, Room, Stream};
use crate::entry::{self, Content, Entry};
use crate::headers;
use crate::running::Running;
use crate::semantics::clients;
use crate::semantics::freshness;
use crate::semantics::storable::{self, Reason};
use crate::semantics::validation;
use crate::semantics::vary::{self, Vary};
use crate::shares::Over;
use crate::upstream::{BodyError, MinRate, RequestBody, ResponseBody, UpstreamError, UpstreamPlace};

/// How much of the body of an error of the server is kept for followers that have not begun to read, bytes.
const ERROR_MAX: u64 = 64 << 10;

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
    permit.turn(errand.question.patience(&running)).await;
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
    let mut times = (running.cache.now(), running.cache.now());
    let place = tokio::select! {
        place = place(running, errand, &permit) => place,
        // Nothing was begun, and nobody is left whom it is for. A refresh is for those who come.
        () = permit.deserted(), if direct.is_some() => return false,
    };
    let answer = match place {
        Ok(place) => ask(running, errand, place, true, &mut times).await,
        Err(overloaded) => Err(overloaded),
    };
    let mut also_on = Vec::new();
    let answer = match answer {
        Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED && errand.to_validate().is_some() => {
            let confirmed = confirmed(errand, answer.headers(), times);
            // Its place may be the only one.
            drop(answer);
            match confirmed {
                Ok(confirmed) => return confirmed.keep(running, errand, &permit).await,
                // RFC 9111 §4.3.4: a 304 that is about something else says nothing of ours. Ask for all of it.
                Err(unconfirmed) => {
                    also_on = unconfirmed.also_on;
                    match running.upstream.place(errand.client).await {
                        Ok(place) => ask(running, errand, place, false, &mut times).await,
                        Err(overloaded) => Err(overloaded),
                    }
                }
            }
        }
        answer => answer,
    };
    if let Some(failed) = failed(&answer)
        && let Some(stale) = errand
            .stale
            .as_ref()
            .filter(|stale| errand.question.takes_after(failed.failure(), stale, running.cache.now()))
    {
        permit.land(Landing::StaleOnError(Arc::clone(stale), failed));
        return false;
    }
    match answer {
        Ok(answer) => deliver(running, errand, permit, direct, answer, (times, &also_on)).await,
        Err(error) => {
            permit.land(Landing::Failed(error));
            false
        }
    }
}

/// A place at upstream. While it is only the leader's own share that keeps it waiting, other clients need not wait with it.
async fn place(running: &Running, errand: &Errand, permit: &Permit) -> Result<UpstreamPlace, UpstreamError> {
    match running.upstream.take_place(errand.client) {
        Err(UpstreamError::Overloaded(Over::Client)) => {
            let _held_up = permit.hold_up(errand.client);
            running.upstream.place(errand.client).await
        }
        Err(_) => running.upstream.place(errand.client).await,
        place => place,
    }
}

/// RFC 5861 §4: the statuses that count as an error; and no answer at all.
fn failed(answer: &Result<Response<ResponseBody>, UpstreamError>) -> Option<Failed> {
    match answer {
        Ok(answer) => freshness::is_error(answer.status()).then_some(Failed::Status(answer.status())),
        Err(error) => Some(Failed::NoAnswer(*error)),
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
    times.0 = running.cache.now();
    let interim = question.asked.interim.clone();
    let mut answer = running.upstream.send_from(place, &method, &path, fields, body, interim).await;
    times.1 = running.cache.now();
    if let Ok(answer) = &mut answer {
        question.strip_answer(answer.headers_mut());
    }
    answer
}

/// A stored response that upstream has confirmed, with its new fields.
pub(super) struct Confirmed {
    entry: Entry,
}

/// A message that does not confirm what is stored.
#[derive(Default)]
pub(super) struct Unconfirmed {
    /// Request fields that it varies on, and that what is stored was not told apart by.
    also_on: Vec<HeaderName>,
}

/// RFC 9111 §4.3.4: the stored response that a 304 is about, freshened, with this fetch's stamp.
fn confirmed(errand: &Errand, answer: &HeaderMap, times: Times) -> Result<Confirmed, Unconfirmed> {
    let mut update = answer.clone();
    headers::strip_hop_by_hop(&mut update);
    let stale = errand.to_validate().ok_or_else(Unconfirmed::default)?;
    let is_meant = stale.response().is_some_and(|stored| validation::selects(&update, &stored.own_headers()));
    if is_meant { freshened(errand, stale, update, times) } else { Err(Unconfirmed::default()) }
}

/// A stored response with the fields of a message that confirms it: a 304, or the answer to a HEAD.
pub(super) fn freshened(
    errand: &Errand,
    stored: &Entry,
    mut update: HeaderMap,
    times: Times,
) -> Result<Confirmed, Unconfirmed> {
    let response = stored.response().ok_or_else(Unconfirmed::default)?;
    // RFC 9111 §4.1: what it varies on is part of its key, which a 304 cannot change. One that names less changes nothing; one
    // that names more says that other requests were given this response by mistake.
    let on = match Vary::said(&update) {
        Vary::Everything => return Err(Unconfirmed::default()),
        on => on.into_names(),
    };
    let stored_on = Vary::parse(&response.headers).into_names();
    let is_keyed = |name: &HeaderName| errand.keyed_on().contains(name) || stored_on.contains(name);
    let also_on: Vec<_> = on.into_iter().filter(|name| !is_keyed(name)).collect();
    if !also_on.is_empty() {
        return Err(Unconfirmed { also_on });
    }
    let age = update.remove(AGE);
    let mut fields = validation::freshen(&response.own_headers(), &update);
    keep::note_date(&mut fields, times.1);
    let mut judged = fields.clone();
    age.into_iter().for_each(|age| drop(judged.insert(AGE, age)));
    // A 304 that says `no-store`, `private` or `Set-Cookie` is for one client: its response is fetched whole.
    let verdict = keep::judge_confirmed(&errand.question, response.status, &judged, times);
    let verdict = verdict.map_err(|_| Unconfirmed::default())?;
    verdict.withhold(&mut fields);
    let said = keep::tell_clients(&errand.question, &mut fields);
    if said.is_some() {
        clients::identify(&mut fields, &response.body);
    }
    let (tags, consumed) = (verdict.tags(&errand.question), keep::has_consumed(&fields));
    let (freshness, for_credentials) = (verdict.freshness, verdict.for_credentials);
    let response =
        entry::Response { headers: fields, said, freshness, for_credentials, consumed, ..response.clone() };
    let entry = Entry {
        text: errand.canonical.text.as_str().into(),
        stamp: errand.view.map_or(stored.stamp, |view| view.stamp),
        tags,
        content: Content::Response(response),
    };
    Ok(Confirmed { entry })
}

impl Confirmed {
    /// Lands it, and keeps it unless the request forbids that (RFC 9111 §5.2.1.5): its own answer it is all the same.
    /// True if the store has it.
    async fn keep(self, running: &Running, errand: &Errand, permit: &Permit) -> bool {
        if errand.view.is_none() || errand.question.facts.no_store {
            permit.land(Landing::Validated(Arc::new(self.entry)));
            return false;
        }
        let Some((entry, kept)) = self.store(running, errand) else { return false };
        permit.land(Landing::Validated(entry));
        permit.close();
        kept.share(running).await
    }

    /// In memory, as it was kept before.
    fn store(self, running: &Running, errand: &Errand) -> Option<(Arc<Entry>, Kept)> {
        let Errand { question, primary, sign, view, .. } = errand;
        let Entry { stamp, tags, content, .. } = self.entry;
        let Content::Response(response) = content else { return None };
        let complete = Complete { question, primary, sign: sign.as_deref(), stamp, view: *view, tags, response };
        Some(complete.keep_in_memory(running))
    }

    /// Keeps what the answer to a HEAD has confirmed.
    pub async fn keep_after_head(self, running: &Running, errand: &Errand) {
        if !errand.question.facts.no_store
            && let Some((_, kept)) = self.store(running, errand)
        {
            kept.share(running).await;
        }
    }
}

/// Passes a full response on: to everyone and into the cache if it may be stored, else to the leader alone. True if the
/// store has it. `also_on`: request fields that it varies on, as upstream has said just before.
async fn deliver(
    running: &Running,
    errand: &Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
    answer: Response<ResponseBody>,
    (times, also_on): (Times, &[HeaderName]),
) -> bool {
    let mut fields = answer.headers().clone();
    headers::strip_hop_by_hop(&mut fields);
    headers::strip_impossible_length(answer.status(), &mut fields);
    keep::note_date(&mut fields, times.1);
    vary::complete(&mut fields, also_on);
    let length = answer.body().size_hint().exact();
    let too_large = length.is_some_and(|length| length > errand.question.max_body(running));
    let is_close_delimited = answer.body().ends_with_connection();
    let judged = match keep::judge(&errand.question, answer.status(), &fields, is_close_delimited, times) {
        Ok(_) if answer.status().is_server_error() && errand.has_good => Err(Reason::ServerError),
        judged => judged,
    };
    let Errand { question, primary, sign, view, .. } = errand;
    let judged = judged.and_then(|verdict| {
        let varies_on = keep::varies_on(running, primary, (sign.as_deref(), *view), answer.status(), &fields)?;
        Ok((verdict, varies_on))
    });
    // What is stored is known to have room from the beginning, where its length is known.
    let stream = (judged.is_ok() && !too_large).then(|| Stream::new(length, &running.held));
    let no_room = matches!(stream, Some(None));
    let ((verdict, varies_on), stream) = match (judged, stream.flatten()) {
        (Ok(judged), Some(stream)) => (judged, stream),
        (refused, _) => {
            let unkept = if no_room { "no-room" } else { "too-large" };
            let reason = refused.as_ref().err().map_or(unkept, |reason| reason.token());
            running.metrics.not_stored(reason);
            let is_of_response = refused.err().is_none_or(Reason::is_of_response);
            // What is said to one request, or to somebody's credentials, or at a bad moment, says nothing of what others would be
            // told.
            let is_for_all =
                is_of_response && !errand.question.is_personal() && storable::is_about_resource(answer.status());
            if is_for_all {
                // RFC 9111 §4.3.3: what was stored is not what upstream would send now.
                errand.forget_stale(running).await;
                if !no_room {
                    running.flights.remember_unshared(errand.canonical.hash, Instant::now());
                    question.note_shared(running, answer.status(), false);
                }
            }
            if permit.is_shared() && storable::is_failure(answer.status()) {
                share_error(running, errand, permit, direct, answer, (fields, reason)).await;
                return false;
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
    question.note_shared(running, answer.status(), true);
    headers::add_via(&mut fields, answer.version());
    let own = verdict.withhold(&mut fields);
    let (parts, mut body) = answer.into_parts();
    let said = keep::tell_clients(question, &mut fields);
    if said.is_some()
        && !clients::has_validator(&fields)
        && let Some(content) = body.receive_short().await
    {
        clients::identify(&mut fields, content);
    }
    let stamp = view.map(|view| view.stamp);
    let text = primary.variant(&varies_on, &question.asked.headers).text;
    let head = Arc::new(keep::head(running, text, varies_on, stamp, parts.status, (fields, said), &verdict));
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

/// Passes an error of the server on to everyone who waits for it. Nobody joins any more: who comes now asks again.
async fn share_error(
    running: &Running,
    errand: &Errand,
    permit: Permit,
    direct: Option<oneshot::Sender<Direct>>,
    answer: Response<ResponseBody>,
    (mut fields, reason): (HeaderMap, &'static str),
) {
    errand.end_claim(false);
    permit.close();
    let (status, retry_after) = (answer.status(), fields.get(RETRY_AFTER).cloned());
    let request = errand.question.sent();
    let error =
        |response| Landing::ServerError(Arc::new(ServerError { status, reason, retry_after, request, response }));
    let is_for_all = storable::is_error_for_all(&fields) && !keep::varies_on_this_hop(&fields);
    let stream = is_for_all.then(|| Stream::new(answer.body().size_hint().exact(), &running.held)).flatten();
    let Some(stream) = stream else {
        if let Some(direct) = direct {
            let _ = direct.send(Direct::Response(Box::new(answer), reason));
        }
        return permit.land(error(None));
    };
    headers::add_via(&mut fields, answer.version());
    let body = answer.into_body();
    let _ended = EndAnyway(Arc::clone(&stream));
    if let (Some(direct), Some(reader)) = (direct, stream.reader()) {
        let _ = direct.send(Direct::Reader(reader, HeaderMap::new()));
    }
    let head = keep::error_head(errand, status, fields);
    permit.land(error(Some((head, Arc::clone(&stream)))));
    pass_error(running, &stream, body).await;
}

/// The body of an error: kept for followers up to `ERROR_MAX`, and beyond that as far as the slowest reader needs it.
async fn pass_error(running: &Running, stream: &Arc<Stream>, mut body: ResponseBody) {
    let (mut length, mut pace) = (0_u64, Pace(running.upstream.min_download_rate()));
    let mut deserted = pin!(stream.deserted_for(running.config.server.upstream_timeout));
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut deserted => return,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { return stream.finish(Ok(())) };
        // RFC 9110 §6.5.1: trailer fields may be discarded.
        let Ok(frame) = frame else { return };
        let Ok(chunk) = frame.into_data() else { continue };
        let bytes = chunk.len() as u64;
        length += bytes;
        stream.push(chunk);
        if length > ERROR_MAX {
            stream.pass_on();
            if !pace.wait(running, stream, bytes).await {
                return;
            }
        }
    }
}

/// Keeps a whole response: in memory before its last reader can see the end of it, so that whoever asks again finds
/// it there; in the store after that. True if it is in the store.
async fn store(
    running: &Running,
    errand: &Errand,
    permit: &Permit,
    stream: &Arc<Stream>,
    head: &Head,
    verdict: &Verdict,
    body: Bytes,
) -> bool {
    let Errand { question, primary, sign, view, .. } = errand;
    // While the store is away there is no stamp, and without one nothing could ever prove the response current.
    let kept = view.map(|view| {
        let (sign, tags) = (sign.as_deref(), verdict.tags(question));
        let response = keep::stored(head, verdict, body);
        Complete { question, primary, sign, stamp: view.stamp, view: Some(view), tags, response }
            .keep_in_memory(running)
            .1
    });
    // Who asks from now on is answered from memory, or asks anew: this fetch is over.
    permit.close();
    stream.finish_stored();
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

/// The next frame. Who waits for small chunks is woken only when no more of them are at hand.
async fn next(body: &mut ResponseBody, stream: &Stream) -> Option<Result<Frame<Bytes>, BodyError>> {
    if stream.is_to_be_shown() {
        for pause in [true, false] {
            if let Poll::Ready(frame) = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
                return frame;
            }
            if pause {
                // So that the task of the connection reads on.
                tokio::task::yield_now().await;
            }
        }
        stream.show();
    }
    body.frame().await
}

/// How fast those are who read a body that is passed on: its place at upstream is kept for them.
struct Pace(MinRate);

impl Pace {
    /// Waits until they have taken enough for more to be read, of which so many bytes have just come. Cuts off who takes too
    /// long; false if nobody is left.
    async fn wait(&mut self, running: &Running, stream: &Stream, bytes: u64) -> bool {
        let mut since = Instant::now();
        loop {
            match stream.room(self.0.left()).await {
                Room::Some => break,
                Room::NoReaders => return false,
                // Those who are left were not the slowest.
                Room::Cut => (self.0, since) = (running.upstream.min_download_rate(), Instant::now()),
            }
        }
        self.0.moved(bytes, since.elapsed());
        true
    }
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
    let mut pace = Pace(running.upstream.min_download_rate());
    // What has no known end may have none: nobody is left whom it is for.
    let is_endless = body.size_hint().exact().is_none();
    let mut deserted = pin!(stream.deserted_for(running.config.server.upstream_timeout));
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut deserted, if is_endless => return Pumped::Deserted,
            frame = next(&mut body, stream) => frame,
        };
        let Some(frame) = frame else { break };
        let chunk = match frame.map(Frame::into_data) {
            Ok(Ok(chunk)) => chunk,
            // RFC 9111 §3.1: trailer fields may be discarded.
            Ok(Err(_)) => continue,
            Err(error) => {
                tracing::warn!(path = errand.question.asked.target.path, %error, "response is not stored");
                return Pumped::Broken;
            }
        };
        let bytes = chunk.len() as u64;
        length += bytes;
        let has_room = if body.is_end_stream() { stream.push_last(chunk) } else { stream.push(chunk) };
        if length > SHARED_MAX {
            errand.end_claim(false);
        }
        let is_too_large = length > max_body;
        if (is_too_large || !has_room) && !passing {
            passing = true;
            running.metrics.not_stored(if is_too_large { "too-large" } else { "no-room" });
            if is_too_large {
                running.flights.remember_unshared(errand.canonical.hash, Instant::now());
            }
            permit.close();
            errand.end_claim(false);
            errand.forget_stale(running).await;
            stream.pass_on();
        }
        if passing && !pace.wait(running, stream, bytes).await {
            return Pumped::Deserted;
        }
    }
    if passing { Pumped::PassedOn } else { Pumped::Complete(stream.whole()) }
}

//! Writes: record the intent, forward, invalidate, wait until no proxy can serve what was invalidated, answer. A write goes on when its
//! client leaves, since upstream may carry it out all the same.
//!
//! A write waits for the other members although its rule is soft: it invalidates its own target, hard.
//!
//! A response that a later GET may have is stored only if none of its tags was invalidated between the intent of the write and its
//! own invalidation, whose stamp it has (`through`).
//!
//! Up to 64 KiB of a request's content are read before the write is announced and sent: what breaks off by then was never sent,
//! and invalidates nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Response, StatusCode};

use super::decide::MissReason;
use super::detach::Detachable;
use super::{Answered, ClientRequest, failed, refresh, refuse};
use crate::bearer::BearerToken;
use crate::cache::invalidate::InvalidationResult;
use crate::config::{OnIncomplete, OnOutage, ServerConfig};
use crate::http::headers::{self, Meant};
use crate::http::invalidation::{self, SeveralDestinations, StatusSet, WriteEnd};
use crate::http::target::{MOST_READINGS, Target};
use crate::key::{PresentedCredentials, shown_tag};
use crate::marks::{MarksView, Stamp};
use crate::metrics::NO_FAMILY;
use crate::outcome::{Fwd, Outcome, OutcomeKind};
use crate::rules::MatchedRule;
use crate::running::{Live, Running};
use crate::store::fleet::{Intent, Invalidations, random_id};
use crate::upkeep::invalidation_log::{InvalidationOrigin, OriginKind, RuleNote, Why};
use crate::upkeep::unmatched::READS_WITHIN;
use crate::upstream::{RequestBody, ResponseBody, Upload, UpstreamError};

mod contents;
mod scope;
mod through;

use contents::Contents;
use scope::WriteScope;
pub use scope::{UpstreamHosts, invalidations, to_refresh};
use through::Candidate;

/// Answers a write.
pub(super) async fn write(
    running: &Arc<Running>,
    live: Arc<Live>,
    mut http: ClientRequest,
    body: RequestBody,
) -> Answered {
    headers::strip_claims(&mut http.headers, http.forwarded, |name| live.rules.identify_by(name));
    let targets = match targets(running, &http) {
        Ok(targets) => targets,
        Err(fault) => return refuse(StatusCode::BAD_REQUEST, "destination", &fault.to_string()),
    };
    if !targets.iter().all(|target| target.readings().is_complete()) {
        // It would be unknown what the write invalidates.
        let message = format!("the path can be taken for more than {MOST_READINGS} other paths; write it plainly");
        return refuse(StatusCode::BAD_REQUEST, MissReason::AmbiguousPath.label(), &message);
    }
    begin(running, live, http, targets, body).await.unwrap_or_else(|| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "write-lost", "the write was not carried through")
    })
}

/// A function of its own keeps the large future of the steps out of that of [`write`].
fn begin(
    running: &Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    targets: Vec<Target>,
    body: RequestBody,
) -> Detachable<Answered> {
    Detachable::new(&running.tasks, carry_out(Arc::clone(running), live, http, targets, body))
}

/// The steps of a write.
async fn carry_out(
    running: Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    targets: Vec<Target>,
    mut body: RequestBody,
) -> Answered {
    let running = &running;
    let fields = http.for_upstream(running);
    // Before the intent is recorded: a client that sends no content must not cost the fleet anything, and nothing of it was sent.
    if let Err(incomplete) = running.upstream.receive_ahead(http.sharer(running), &fields, &mut body).await {
        return failed(incomplete, Fwd::Method);
    }
    let query = http.target.query.as_deref();
    let methods = headers::methods_meant(&http.method, &http.headers, query, body.at_hand());
    let hosts = UpstreamHosts::of(running.upstream.addresses(), &fields);
    let bearer = live.bearer(&http.headers).at(running.cache.now());
    let unread = WriteScope {
        began: &live,
        methods: &methods,
        targets: &targets,
        presented: PresentedCredentials { fields: &http.headers, bearer: &bearer },
        hosts: &hosts,
        contents: &contents::UNKNOWN,
    };
    let (server, nothing) = (&running.config.server, HeaderMap::new());
    let reinvalidate = Some(server.reinvalidate_after);
    let matches = unread.matches();
    let mut contents = Contents::before(running, &http, &mut body, &matches);
    let tags = {
        let scope = unread.with(&contents);
        let known = contents.are_read().then(|| scope.matches());
        let matches = known.as_ref().unwrap_or(&matches);
        scope.invalidations(matches, (WriteEnd::NoAnswer, &nothing), reinvalidate).all_tags()
    };
    let intent = Intent { id: random_id(), tags: tags.clone() };
    let unanswered = running.cache.begin_write(tags);
    let before = match record_intent(running, &intent).await {
        Ok(before) => before,
        Err(refused) => return *refused,
    };
    let (upload, request_time) = (body.upload(), running.cache.now());
    let mut answer = with_intent(running, &intent, Box::pin(forward(running, &http, fields, body))).await;
    let times = (request_time, running.cache.now());
    let unfinished = upload.as_ref().filter(|upload| !upload.has_ended());
    let is_whole = upload.as_ref().is_none_or(|upload| upload.is_whole());
    let end = end_of(server, &http.target, &answer, is_whole);
    contents.note_sent(&http.headers, upload.as_deref());
    if let (Ok(answer), Some(end)) = (&mut answer, end) {
        let places = contents::places_in_response(&unread.matches_until(&running.live(), matches.clone()), end);
        if !places.is_empty() {
            // The client must not have the acknowledgement before the invalidation, which needs the content.
            let receive = contents.receive_response(running, &http, answer, &places);
            with_intent(running, &intent, Box::pin(receive)).await;
        }
    }
    let answer_fields = answer.as_ref().map_or(&nothing, Response::headers);
    let now = running.live();
    let scope = unread.with(&contents);
    let matches = scope.matches_until(&now, if contents.are_read() { scope.matches() } else { matches });
    end.into_iter().for_each(|end| running.unresolved.note(&matches, end));
    // Upstream may carry it out later: after Larder gave it up, or when upstream has the rest of the content.
    let may_follow = end == Some(WriteEnd::NoAnswer) || !is_whole;
    let again = reinvalidate.filter(|_| may_follow);
    let mut what = end.map(|end| scope.invalidations(&matches, (end, answer_fields), again)).unwrap_or_default();
    let rest = unfinished.zip(end_of(server, &http.target, &answer, true)).and_then(|(upload, end)| {
        let tags = scope.invalidations(&matches, (end, answer_fields), reinvalidate).all_tags();
        let intent = Intent { id: intent.id.clone(), tags };
        let origin = origin(&http, answer.as_ref().ok().map(Response::status));
        let ended = (end, answer_fields);
        (!intent.tags.is_empty())
            .then(|| Box::new(Rest::of(scope, Arc::clone(&live), upload, ended, intent, origin)))
    });
    // Upstream may act again when it has the rest of the content.
    let answered = answer.as_ref().ok().filter(|_| rest.is_none());
    let candidate = answered.and_then(|answer| Candidate::of(running, &http, answer, times, &methods, &what));
    // As `rest`: few writes have one, and both are large.
    let candidate = candidate.map(Box::new);
    what.watched = candidate.iter().flat_map(|candidate| candidate.tags().to_vec()).collect();
    let result = match end {
        Some(end) if !what.is_empty() => {
            // The rest of the write needs the intent.
            let carried_out = Some(&intent).filter(|_| rest.is_none());
            log_unverified_caller(running, &matches, end, scope, &http);
            let _step = http.step("invalidate");
            let origin = origin(&http, answer.as_ref().ok().map(Response::status));
            let why = Why { rules: applied(&matches, end), id: Some(intent.id.clone()), ..origin.into() };
            Some(invalidate(running, &matches, end, &what, carried_out, why).await)
        }
        _ => None,
    };
    let (taken, record) = result.map_or((None, None), |result| (result.taken, Some(result.record)));
    match rest {
        Some(rest) => rest.follow(running),
        None if what.is_empty() => withdraw(running, intent),
        None => {}
    }
    drop(unanswered);
    if matches.is_empty() && end.is_some_and(|end| StatusSet::default().applies(end)) {
        count_unmatched(running, &now, &http, answer.as_ref().ok().map(Response::status));
    }
    let is_delivered = what.is_empty() || taken.is_some() || wait_until_delivered(running).await;
    if is_delivered {
        running.cache.rules_settled().await;
    }
    let stamp = before.zip(taken).and_then(|(before, taken)| taken.stamp_of_answer(&before));
    let mut answered = answer_client(running, &http, answer, is_delivered, candidate.zip(stamp), &what);
    // For `Larder-Debug`.
    if let Some(record) = record {
        answered.response.extensions_mut().insert(record);
    }
    answered
}

/// The answer to a write that has invalidated `what`. `is_delivered`: other proxies know of it.
fn answer_client(
    running: &Arc<Running>,
    http: &ClientRequest,
    answer: Result<Response<ResponseBody>, UpstreamError>,
    is_delivered: bool,
    stored: Option<(Box<Candidate>, Stamp)>,
    what: &Invalidations,
) -> Answered {
    if !is_delivered && refuses_writes_in_outages(running) {
        let message = "the write was carried out, but Redis does not answer: other proxies may not know of it yet";
        return refuse(StatusCode::GATEWAY_TIMEOUT, "store-away", message);
    }
    let invalidated = http.telemetry.is_some().then(|| described(what)).flatten();
    match answer {
        Ok(answer) => {
            let fwd_status = Some(answer.status().as_u16());
            let detail = (!is_delivered).then_some("store-away");
            let outcome = Outcome { fwd_status, detail, invalidated, ..Outcome::write() };
            through::answered(running, answer, stored, outcome)
        }
        Err(error) => {
            let mut answered = failed(error, Fwd::Method);
            answered.outcome.invalidated = invalidated;
            answered
        }
    }
}

/// The write, for the log of invalidations.
fn origin(http: &ClientRequest, status: Option<StatusCode>) -> InvalidationOrigin {
    InvalidationOrigin {
        method: Some(http.method.as_str().to_owned()),
        path: Some(http.target.path.clone()),
        status: status.map(|status| status.as_u16()),
        request_id: Some(http.request_id.to_string()),
        ..InvalidationOrigin::of(OriginKind::Write)
    }
}

/// The rules that invalidate something.
fn applied(matches: &[MatchedRule<'_>], end: WriteEnd) -> Vec<RuleNote> {
    let applying = matches.iter().map(|matched| matched.rule).filter(|rule| rule.on.applies(end));
    applying.map(|rule| RuleNote { pattern: rule.path.clone(), line: rule.line }).collect()
}

/// Where writes are refused in outages: waits until Redis has the invalidations of a write that was carried out, since it must not
/// be acknowledged before all proxies know of it. False if it does not, and elsewhere.
async fn wait_until_delivered(running: &Running) -> bool {
    refuses_writes_in_outages(running)
        && tokio::time::timeout(running.config.server.upstream_timeout, running.cache.delivered()).await.is_ok()
}

/// Removes the intent of a write that invalidates nothing.
fn withdraw(running: &Arc<Running>, intent: Intent) {
    let task = Arc::clone(running);
    running.tasks.spawn(async move { task.cache.withdraw(&intent).await });
}

/// Carries out the invalidations of a write, completes its intent, and begins the prefetches that its rules ask for.
async fn invalidate(
    running: &Arc<Running>,
    matches: &[MatchedRule<'_>],
    end: WriteEnd,
    what: &Invalidations,
    intent: Option<&Intent>,
    why: Why,
) -> InvalidationResult {
    let result = Box::pin(running.cache.invalidate_for(what, intent, why)).await;
    if result.taken.is_some() {
        refresh::begin(running, &to_refresh(matches, end));
    }
    count(running, matches, end);
    result
}

/// The rest of a write whose response came before the end of its content. Upstream may act when it has the whole content, so that the
/// intent is kept until then.
struct Rest {
    began: Arc<Live>,
    methods: Meant,
    targets: Vec<Target>,
    request: HeaderMap,
    bearer: BearerToken,
    hosts: UpstreamHosts,
    upload: Arc<Upload>,
    /// How the write ends once upstream has the whole content, and the fields of its response.
    ended: (WriteEnd, HeaderMap),
    contents: Contents,
    intent: Intent,
    origin: InvalidationOrigin,
}

impl Rest {
    fn of(
        scope: WriteScope<'_>,
        began: Arc<Live>,
        upload: &Arc<Upload>,
        (end, answer): (WriteEnd, &HeaderMap),
        intent: Intent,
        origin: InvalidationOrigin,
    ) -> Rest {
        Rest {
            began,
            methods: scope.methods.clone(),
            targets: scope.targets.to_vec(),
            request: scope.presented.fields.clone(),
            bearer: scope.presented.bearer.clone(),
            hosts: scope.hosts.clone(),
            upload: Arc::clone(upload),
            ended: (end, answer.clone()),
            contents: scope.contents.clone(),
            intent,
            origin,
        }
    }

    fn scope(&self) -> WriteScope<'_> {
        let Rest { began, methods, targets, request, bearer, hosts, contents, .. } = self;
        let presented = PresentedCredentials { fields: request, bearer };
        WriteScope { began, methods, targets, presented, hosts, contents }
    }

    /// Invalidates again when the content has ended.
    fn follow(self, running: &Arc<Running>) {
        let (task, unanswered) = (Arc::clone(running), running.cache.begin_write(self.intent.tags.clone()));
        running.tasks.spawn(async move {
            self.finish(&task).await;
            drop(unanswered);
        });
    }

    async fn finish(mut self, running: &Arc<Running>) {
        let _ = running.cache.announce(&self.intent, intent_deadline(running)).await;
        with_intent(running, &self.intent, Box::pin(self.upload.ended())).await;
        let server = &running.config.server;
        // RFC 9112 §8: an incomplete message is no request.
        if !self.upload.is_whole() && server.on_incomplete == OnIncomplete::Ignore {
            return running.cache.withdraw(&self.intent).await;
        }
        self.contents.note_sent(&self.request, Some(&self.upload));
        let (now, scope, (end, answer)) = (running.live(), self.scope(), &self.ended);
        let matches = scope.matches_until(&now, scope.matches());
        // Upstream has answered already: nothing shows when it acts.
        let what = scope.invalidations(&matches, (*end, answer), Some(server.reinvalidate_after));
        let why = Why { rules: applied(&matches, *end), ..self.origin.clone().into() };
        invalidate(running, &matches, *end, &what, Some(&self.intent), why).await;
    }
}

/// Counts and logs that a write invalidates all callers' entries, since its bearer token does not say whose entries its rules mean.
fn log_unverified_caller(
    running: &Running,
    matches: &[MatchedRule<'_>],
    end: WriteEnd,
    scope: WriteScope<'_>,
    http: &ClientRequest,
) {
    let applying = matches.iter().filter(|matched| matched.rule.on.applies(end));
    let Some((rule, fault)) = applying
        .filter_map(|matched| Some((matched.rule, matched.rule.fault_of_caller(scope.presented.bearer)?)))
        .next()
    else {
        return;
    };
    running.metrics.token_refused(fault.token());
    tracing::info!(
        method = %http.method,
        path = http.target.path,
        reason = fault.token(),
        rule = rule.path,
        "a write's bearer token does not identify its caller: {{identity}} in its rule invalidates the entries of all callers"
    );
}

/// Most tags of one write in the access log.
const NAMED: usize = 8;

/// What was invalidated, for the access log.
fn described(what: &Invalidations) -> Option<Box<str>> {
    let tags = || what.tags.iter().chain(what.soft.iter().map(|soft| &soft.tag));
    let mut names: Vec<String> = tags().map(shown_tag).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")).into())
}

/// Counts a write that no rule matches, and logs the first of each route shape.
fn count_unmatched(running: &Arc<Running>, live: &Live, http: &ClientRequest, status: Option<StatusCode>) {
    running.metrics.writes_unmatched.inc();
    let status = status.map_or(0, |status| status.as_u16());
    let counted = running.unmatched.count(&http.method, &http.target.path, status, SystemTime::now());
    let Some(counted) = counted else { return };
    if counted.is_first && !live.rules.families().is_empty() {
        tracing::info!(shape = &*counted.shape, "no rule matches this write: it invalidates only its own path");
    }
    if counted.is_followed {
        let task = Arc::downgrade(running);
        let before = reads(live);
        tokio::spawn(async move {
            tokio::time::sleep(READS_WITHIN).await;
            if let Some(running) = task.upgrade() {
                running.unmatched.followed(&counted.shape, &before, &reads(&running.live()));
            }
        });
    }
}

/// The reads of each family so far.
fn reads(live: &Live) -> BTreeMap<String, u64> {
    let kinds = [OutcomeKind::Hit, OutcomeKind::Stale, OutcomeKind::Miss, OutcomeKind::Revalidated];
    let families = live.all_counters().filter(|counters| *counters.family != *NO_FAMILY);
    families.map(|it| (it.family.to_string(), kinds.map(|kind| it.of(kind)).iter().sum())).collect()
}

/// The targets of a write: its own, and the `Destination` of a MOVE or COPY (RFC 4918 §9.8, §9.9).
fn targets(running: &Running, http: &ClientRequest) -> Result<Vec<Target>, SeveralDestinations> {
    let query = http.target.query.as_deref();
    let methods = || headers::methods_meant(&http.method, &http.headers, query, Some(&[]));
    let own = running.upstream.addresses();
    let destination = invalidation::destination(&http.target, &http.headers, methods, own)?;
    let destination = destination.map(|path| Target::clone(&http.target).at(&path));
    Ok(std::iter::once(Target::clone(&http.target)).chain(destination).collect())
}

/// How a write ended; `None` if it has not happened. `is_whole`: upstream may have received all of it.
fn end_of<B>(
    server: &ServerConfig,
    target: &Target,
    answer: &Result<Response<B>, UpstreamError>,
    is_whole: bool,
) -> Option<WriteEnd> {
    let end = match answer {
        Ok(answer) if is_to_login(server, target, answer) => WriteEnd::ToLogin,
        Ok(answer) => WriteEnd::of_answer(answer.status()),
        // Nothing was sent.
        Err(UpstreamError::Unreachable | UpstreamError::Overloaded(_)) => return None,
        // Upstream has responded.
        Err(UpstreamError::TooManyStreams(_)) => return Some(WriteEnd::NoAnswer),
        Err(_) => WriteEnd::NoAnswer,
    };
    // RFC 9112 §8: an incomplete message is no request. An early response counts all the same.
    let is_ignored = end == WriteEnd::NoAnswer && !is_whole && server.on_incomplete == OnIncomplete::Ignore;
    (!is_ignored).then_some(end)
}

fn is_to_login<B>(server: &ServerConfig, target: &Target, answer: &Response<B>) -> bool {
    server.login.as_ref().is_some_and(|login| {
        invalidation::redirected_to(target, answer.status(), answer.headers())
            .is_some_and(|path| login.is_match(&path))
    })
}

/// Added to the time limits of a write to get the deadline of its intent.
const SLACK: Duration = Duration::from_secs(5);

/// How long after its intent was recorded a write counts as abandoned, unless the intent is renewed.
fn intent_deadline(running: &Running) -> Duration {
    let server = &running.config.server;
    server.connect_timeout + server.upstream_timeout + SLACK
}

/// Whether writes are refused while Redis does not answer.
fn refuses_writes_in_outages(running: &Running) -> bool {
    running.config.store.as_ref().is_some_and(|store| store.on_outage == OnOutage::Refuse)
}

/// Records the intent of a write in Redis before it is forwarded. Returns the marks before it.
async fn record_intent(running: &Arc<Running>, intent: &Intent) -> Result<Option<MarksView>, Box<Answered>> {
    match running.cache.announce(intent, intent_deadline(running)).await {
        Ok(Some(before)) => Ok(Some(before)),
        Ok(None) => Ok(running.cache.view(&[]).await),
        Err(_) if refuses_writes_in_outages(running) => {
            // Redis may have recorded it although no reply came.
            let (task, intent) = (Arc::clone(running), intent.clone());
            running.tasks.spawn(async move { task.cache.withdraw(&intent).await });
            let message = "writes are refused while Redis is away (on_outage = \"refuse\"); try again";
            Err(Box::new(refuse(StatusCode::SERVICE_UNAVAILABLE, "store-away", message)))
        }
        Err(_) => Ok(None),
    }
}

/// Waits for a write, and renews its intent, if there is a Redis that has it: an upload may take long.
async fn with_intent<T>(running: &Running, intent: &Intent, mut write: impl Future<Output = T> + Unpin) -> T {
    if running.cache.store_handle().is_none() {
        return write.await;
    }
    loop {
        match tokio::time::timeout(intent_deadline(running) / 3, &mut write).await {
            Ok(done) => return done,
            Err(_) => drop(running.cache.announce(intent, intent_deadline(running)).await),
        }
    }
}

fn count(running: &Running, matches: &[MatchedRule<'_>], end: WriteEnd) {
    let applying = matches.iter().map(|matched| matched.rule).filter(|rule| rule.on.applies(end));
    let reached: BTreeSet<&str> = applying.flat_map(|rule| rule.reached.iter().map(String::as_str)).collect();
    reached.into_iter().for_each(|family| running.metrics.invalidated(family, "write"));
}

async fn forward(
    running: &Running,
    http: &ClientRequest,
    fields: HeaderMap,
    body: RequestBody,
) -> Result<Response<ResponseBody>, UpstreamError> {
    http.send(running, None, &http.method, fields, body).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::Over;

    #[test]
    fn a_write_without_a_response_may_have_happened_if_upstream_can_have_it() {
        let target = Target { scheme: "http", host: "a".into(), ..Target::default() }.at("/things");
        let may_have = Some(WriteEnd::NoAnswer);
        // Incomplete and whole, by default; then the same with `on_incomplete = "invalidate"`.
        let rows = [
            (UpstreamError::Unreachable, [None; 4]),
            (UpstreamError::Overloaded(Over::Client), [None; 4]),
            (UpstreamError::Timeout, [None, may_have, may_have, may_have]),
            (UpstreamError::Incomplete, [None, may_have, may_have, may_have]),
            (UpstreamError::Slow, [None, may_have, may_have, may_have]),
            // Upstream has responded: the response could not be passed on.
            (UpstreamError::TooManyStreams(Over::All), [may_have; 4]),
        ];
        for (error, expected) in rows {
            let found = [OnIncomplete::Ignore, OnIncomplete::Invalidate].map(|on_incomplete| {
                let server = ServerConfig { on_incomplete, ..ServerConfig::default() };
                [false, true].map(|is_whole| end_of::<()>(&server, &target, &Err(error), is_whole))
            });
            assert_eq!(found.as_flattened(), expected, "{error}");
        }
    }
}

//! Everything that may change something: forward, and invalidate before answering. Runs in a task that survives the
//! client, since upstream may carry out a write whose client has left.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::cache_request::CacheRequest;
use super::decide::MissReason;
use super::recording::Recording;
use super::storing::{self, CompleteResponse, StoreVerdict, Times};
use super::{Answered, Body, ClientRequest, failed, refresh, refuse, respond};
use crate::cache::memory::Hold;
use crate::coalesce::inflight::Head;
use crate::config::{OnIncomplete, OnOutage, ServerConfig};
use crate::http::groups;
use crate::http::headers::{self, Meant};
use crate::http::invalidation::{self, SeveralDestinations, StatusSet, WriteEnd};
use crate::http::target::{MOST_READINGS, Target};
use crate::http::vary;
use crate::key::CacheKey;
use crate::marks::{IssuedStamp, MarksView, SoftInvalidation, Stamp, Tag};
use crate::outcome::{Fwd, Outcome};
use crate::rules::{CallerIdentity, MatchedRule};
use crate::running::{Live, Running};
use crate::store::fleet::{Again, Intent, Invalidations, random_id};
use crate::upstream::{RequestBody, ResponseBody, Upload, UpstreamError};

/// Answers a write.
pub(super) async fn write(
    running: &Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    body: Incoming,
) -> Answered {
    let targets = match targets(running, &http) {
        Ok(targets) => targets,
        Err(fault) => return refuse(StatusCode::BAD_REQUEST, "destination", &fault.to_string()),
    };
    if !targets.iter().all(|target| target.readings().is_complete()) {
        // What it invalidates could not be told.
        let message = format!("the path can be taken for more than {MOST_READINGS} other paths; write it plainly");
        return refuse(StatusCode::BAD_REQUEST, MissReason::AmbiguousPath.label(), &message);
    }
    let (give, take) = oneshot::channel();
    let task = Arc::clone(running);
    // In a box: a task's future is copied several times on its way, and this is a large one.
    running.tasks.spawn(Box::pin(async move {
        // The client may be gone by now; the write was carried out all the same.
        let _ = give.send(carry_out(&task, live, http, targets, body).await);
    }));
    take.await.unwrap_or_else(|_| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "write-lost", "the write was not carried through")
    })
}

/// The steps of a write (DESIGN §4): announce it, forward it, invalidate, and wait until no proxy of the fleet can serve
/// what it invalidates.
async fn carry_out(
    running: &Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    targets: Vec<Target>,
    body: Incoming,
) -> Answered {
    let (fields, mut body) = (http.for_upstream(running), http.content(body));
    // Before it is announced: a client that sends nothing is to cost nobody anything.
    // What does not come has not been sent either.
    if let Err(incomplete) = running.upstream.receive_ahead(http.sharer(running), &fields, &mut body).await {
        return failed(incomplete, Fwd::Method);
    }
    let query = http.target.query.as_deref();
    let methods = headers::methods_meant(&http.method, &http.headers, query, body.at_hand());
    let caller = CallerIdentity::Known { fields: &http.headers, secret: live.redaction.secret.as_ref() };
    let matches = live.rules.invalidated_by_any(&methods, &targets, caller);
    let nothing = HeaderMap::new();
    let hosts = hosts_of_upstream(running, &fields);
    let reinvalidate_after = running.config.server.reinvalidate_after;
    let no_answer = (WriteEnd::NoAnswer, &nothing);
    let unanswered = invalidations(&targets, &matches, no_answer, &hosts, Some(reinvalidate_after));
    let tags = unanswered.all_tags();
    let intent = Intent { id: random_id(), tags: tags.clone() };
    let pending = running.unanswered.begin(tags);
    let before = match announce(running, &intent).await {
        Ok(before) => before,
        Err(refused) => return *refused,
    };
    let request_time = running.cache.now();
    let upload = body.upload();
    let answer = announced(running, &intent, Box::pin(forward(running, &http, fields, body))).await;
    let times = (request_time, running.cache.now());
    let unfinished = upload.as_ref().filter(|upload| !upload.has_ended());
    let is_whole = upload.as_ref().is_none_or(|upload| upload.is_whole());
    let server = &running.config.server;
    let end = end_of(server, &http.target, &answer, is_whole);
    let answer_fields = answer.as_ref().map_or(&nothing, Response::headers);
    // Rules that came into force meanwhile may have let readers store what this write invalidates.
    let now = running.live();
    let matches = also_by(matches, &live, &now, &methods, &targets, &http.headers);
    // Upstream may carry it out after it was given up, or when it has the rest of the content.
    let may_follow = end == Some(WriteEnd::NoAnswer) || !is_whole;
    let again = may_follow.then_some(reinvalidate_after);
    let what =
        end.map(|end| invalidations(&targets, &matches, (end, answer_fields), &hosts, again)).unwrap_or_default();
    let rest = unfinished.zip(end_of(server, &http.target, &answer, true)).and_then(|(upload, end)| {
        let ended = (end, answer_fields);
        let tags = invalidations(&targets, &matches, ended, &hosts, Some(reinvalidate_after)).all_tags();
        (!tags.is_empty()).then(|| Rest {
            targets: targets.clone(),
            methods: methods.clone(),
            request: http.headers.clone(),
            hosts: hosts.clone(),
            live: Arc::clone(&live),
            upload: Arc::clone(upload),
            end,
            fields: answer_fields.clone(),
            intent: Intent { id: intent.id.clone(), tags },
        })
    });
    let taken = match end {
        Some(end) if !what.is_empty() => {
            // The rest needs it still.
            let carried_out = Some(&intent).filter(|_| rest.is_none());
            invalidate(running, &matches, end, &what, carried_out).await
        }
        _ => None,
    };
    let mut delivered = what.is_empty() || taken.is_some();
    match rest {
        Some(rest) => rest.follow(running),
        None if what.is_empty() => {
            let task = Arc::clone(running);
            running.tasks.spawn(async move { task.cache.withdraw(&intent).await });
        }
        None => {}
    }
    drop(pending);
    if matches.is_empty() && end.is_some_and(|end| StatusSet::default().applies(end)) {
        count_unmatched(running, &now, &http);
    }
    if !delivered && refuses(running) {
        // It was carried out, and must not be acknowledged before everybody knows.
        let patience = running.config.server.upstream_timeout;
        delivered = tokio::time::timeout(patience, running.cache.delivered()).await.is_ok();
        if !delivered {
            let message =
                "the write was carried out, but the store is away, and other proxies may not know of it yet";
            return refuse(StatusCode::GATEWAY_TIMEOUT, "store-away", message);
        }
    }
    match answer {
        Ok(answer) => {
            let stamp = before.zip(taken).and_then(|(before, taken)| taken.stamp_of_answer(&before));
            let outcome = Outcome {
                fwd_status: Some(answer.status().as_u16()),
                detail: (!delivered).then_some("store-away"),
                invalidated: running.config.log.access.then(|| described(&what)).flatten(),
                ..Outcome::write()
            };
            answered(running, http, answer, times, stamp, outcome)
        }
        Err(error) => {
            let mut answered = failed(error, Fwd::Method);
            answered.outcome.invalidated = running.config.log.access.then(|| described(&what)).flatten();
            answered
        }
    }
}

/// What a write matches by the rules in force when it began (`matches`), and by those in force now. `request`: its fields.
fn also_by<'r>(
    mut matches: Vec<MatchedRule<'r>>,
    began: &'r Live,
    now: &'r Live,
    methods: &Meant,
    targets: &[Target],
    request: &HeaderMap,
) -> Vec<MatchedRule<'r>> {
    if !std::ptr::eq(began, now) {
        let caller = CallerIdentity::Known { fields: request, secret: began.redaction.secret.as_ref() };
        matches.extend(now.rules.invalidated_by_any(methods, targets, caller));
    }
    matches
}

/// Invalidates what a write does that ended like this, and has refreshed what its rules say. An intent is carried out by it.
async fn invalidate(
    running: &Arc<Running>,
    matches: &[MatchedRule<'_>],
    end: WriteEnd,
    what: &Invalidations,
    intent: Option<&Intent>,
) -> Option<IssuedStamp> {
    let taken = Box::pin(running.cache.invalidate_for(what, intent)).await;
    if taken.is_some() {
        refresh::begin(running, &to_refresh(matches, end));
    }
    count(running, matches, end);
    taken
}

/// The rest of a write whose answer came before the end of its content: upstream may act when it has all of it. Until then its
/// intent stays announced.
struct Rest {
    targets: Vec<Target>,
    methods: Meant,
    /// Its own fields.
    request: HeaderMap,
    /// Names of upstream.
    hosts: Vec<String>,
    /// The rules in force when it began.
    live: Arc<Live>,
    upload: Arc<Upload>,
    /// How the write has ended when upstream has all of its content.
    end: WriteEnd,
    /// Of the answer.
    fields: HeaderMap,
    /// Of the write, with what its answer names.
    intent: Intent,
}

impl Rest {
    /// Invalidates once more when the content has ended.
    fn follow(self, running: &Arc<Running>) {
        let (task, pending) = (Arc::clone(running), running.unanswered.begin(self.intent.tags.clone()));
        running.tasks.spawn(async move {
            self.finish(&task).await;
            drop(pending);
        });
    }

    async fn finish(self, running: &Arc<Running>) {
        let _ = running.cache.announce(&self.intent, patience(running)).await;
        announced(running, &self.intent, Box::pin(self.upload.ended())).await;
        let server = &running.config.server;
        // RFC 9112 §8: a message that is incomplete is no request.
        if !self.upload.is_whole() && server.on_incomplete == OnIncomplete::Ignore {
            return running.cache.withdraw(&self.intent).await;
        }
        let now = running.live();
        let caller = CallerIdentity::Known { fields: &self.request, secret: self.live.redaction.secret.as_ref() };
        let matches = self.live.rules.invalidated_by_any(&self.methods, &self.targets, caller);
        let matches = also_by(matches, &self.live, &now, &self.methods, &self.targets, &self.request);
        // Nothing says when upstream has acted.
        let again = Some(server.reinvalidate_after);
        let what = invalidations(&self.targets, &matches, (self.end, &self.fields), &self.hosts, again);
        invalidate(running, &matches, self.end, &what, Some(&self.intent)).await;
    }
}

/// Tags that the access log names of one write.
const NAMED: usize = 8;

/// What was invalidated, for the access log.
fn described(what: &Invalidations) -> Option<Box<str>> {
    let tags = || what.tags.iter().chain(what.soft.iter().map(|soft| &soft.tag));
    let mut names: Vec<&str> = tags().map(Tag::as_str).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")).into())
}

/// Counts a write that no rule matches, and tells of the first of its shape where rules are meant to match writes.
fn count_unmatched(running: &Running, live: &Live, http: &ClientRequest) {
    running.metrics.writes_unmatched.inc();
    if let Some(shape) = running.unmatched.count(&http.method, &http.target.path)
        && !live.rules.families().is_empty()
    {
        tracing::info!(shape, "a write matches no rule: it invalidates nothing but its own path");
    }
}

/// What a write is about: its own target, and the `Destination` of a MOVE or COPY (RFC 4918 §9.8, §9.9).
fn targets(running: &Running, http: &ClientRequest) -> Result<Vec<Target>, SeveralDestinations> {
    let query = http.target.query.as_deref();
    let methods = || headers::methods_meant(&http.method, &http.headers, query, Some(&[]));
    let own = running.upstream.addresses();
    let destination = invalidation::destination(&http.target, &http.headers, methods, own)?;
    let destination = destination.map(|path| http.target.clone().at(&path));
    Ok(std::iter::once(http.target.clone()).chain(destination).collect())
}

/// The names by which upstream knows itself: its addresses, and what it was told that it is to its client.
fn hosts_of_upstream(running: &Running, sent: &HeaderMap) -> Vec<String> {
    let told = sent.get_all(headers::X_FORWARDED_HOST).iter().filter_map(|line| line.to_str().ok());
    let told = told.filter_map(|line| line.split(',').next()).map(|host| host.trim().to_ascii_lowercase());
    running.upstream.addresses().iter().cloned().chain(told).collect()
}

/// How a write ended; `None` if it has not happened. `is_whole`: upstream may have received all of it.
fn end_of<B>(
    server: &ServerConfig,
    target: &Target,
    answer: &Result<Response<B>, UpstreamError>,
    is_whole: bool,
) -> Option<WriteEnd> {
    let end = match answer {
        // Whatever an API redirects to its login it has not carried out.
        Ok(answer) if is_to_login(server, target, answer) => return None,
        Ok(answer) => WriteEnd::of_answer(answer.status()),
        // Nothing was sent.
        Err(UpstreamError::Unreachable | UpstreamError::Overloaded(_)) => return None,
        // Upstream has answered.
        Err(UpstreamError::TooManyStreams(_)) => return Some(WriteEnd::NoAnswer),
        Err(_) => WriteEnd::NoAnswer,
    };
    // RFC 9112 §8: a message that is incomplete is no request. An answer that came early is one all the same.
    let is_ignored = end == WriteEnd::NoAnswer && !is_whole && server.on_incomplete == OnIncomplete::Ignore;
    (!is_ignored).then_some(end)
}

fn is_to_login<B>(server: &ServerConfig, target: &Target, answer: &Response<B>) -> bool {
    server.login.as_ref().is_some_and(|login| {
        invalidation::redirected_to(target, answer.status(), answer.headers())
            .is_some_and(|path| login.is_match(&path))
    })
}

/// Slack for the time limits that an intent's deadline is made of.
const SLACK: Duration = Duration::from_secs(5);

/// How long after its announcement a write counts as abandoned, unless it is announced again.
fn patience(running: &Running) -> Duration {
    let server = &running.config.server;
    server.connect_timeout + server.upstream_timeout + SLACK
}

/// Whether writes are refused while the store is away.
fn refuses(running: &Running) -> bool {
    running.config.store.as_ref().is_some_and(|store| store.on_outage == OnOutage::Refuse)
}

/// Tells the store of a write before it is forwarded. Gives what the marks were before it.
async fn announce(running: &Arc<Running>, intent: &Intent) -> Result<Option<MarksView>, Box<Answered>> {
    match running.cache.announce(intent, patience(running)).await {
        Ok(Some(before)) => Ok(Some(before)),
        Ok(None) => Ok(running.cache.view(&[]).await),
        Err(_) if refuses(running) => {
            // It may have been recorded all the same.
            let (task, intent) = (Arc::clone(running), intent.clone());
            running.tasks.spawn(async move { task.cache.withdraw(&intent).await });
            let message = "writes are refused while the store is away (on_outage = \"refuse\"); try again";
            Err(Box::new(refuse(StatusCode::SERVICE_UNAVAILABLE, "store-away", message)))
        }
        Err(_) => Ok(None),
    }
}

/// Waits for a write, and renews its announcement: an upload may take long.
async fn announced<T>(running: &Running, intent: &Intent, mut write: impl Future<Output = T> + Unpin) -> T {
    loop {
        match tokio::time::timeout(patience(running) / 3, &mut write).await {
            Ok(done) => return done,
            Err(_) => drop(running.cache.announce(intent, patience(running)).await),
        }
    }
}

/// The answer, which is kept on its way if a later GET may have it.
fn answered(
    running: &Arc<Running>,
    http: ClientRequest,
    answer: Response<ResponseBody>,
    times: Times,
    stamp: Option<Stamp>,
    outcome: Outcome,
) -> Answered {
    let keeping = stamp.and_then(|stamp| Keeping::of(running, http, &answer, times, stamp));
    let stored = keeping.is_some();
    let mut response = respond::forwarded(answer, &running.config.server);
    if let Some(keeping) = keeping {
        response = response.map(|body| match body {
            Body::Upstream(body) => {
                let (running, limit) = (Arc::clone(running), keeping.request.max_body(running));
                Body::Recorded(Recording::new(body, limit, Box::new(move |body| keeping.keep(&running, body))))
            }
            other => other,
        });
    }
    Answered { response, outcome: Outcome { stored, ..outcome }, family: None }
}

/// The answer to a POST that a later GET may have (RFC 9110 §9.3.3, RFC 9111 §4): upstream says how long it is fresh,
/// and by `Content-Location` that it is what a GET of this very URI would get.
struct Keeping {
    request: CacheRequest,
    primary: CacheKey,
    head: Head,
    verdict: StoreVerdict,
    stamp: Stamp,
    /// The marks of its tags, until it holds them in memory.
    _hold: Hold,
}

impl Keeping {
    fn of(
        running: &Running,
        http: ClientRequest,
        answer: &Response<ResponseBody>,
        times: Times,
        stamp: Stamp,
    ) -> Option<Keeping> {
        if answer.status() != StatusCode::OK || !invalidation::is_of_target(&http.target, answer.headers()) {
            return None;
        }
        let mut fields = answer.headers().clone();
        headers::strip_hop_by_hop(&mut fields);
        storing::note_date(&mut fields, times.1);
        vary::complete(&mut fields, &[]);
        let request = read_of(running, http)?;
        let is_close_delimited = answer.body().ends_with_connection();
        let verdict = storing::judge(&request, answer.status(), &fields, is_close_delimited, times).ok()?;
        if !verdict.freshness.source.is_explicit() {
            return None;
        }
        headers::add_via(&mut fields, answer.version());
        verdict.withhold(&mut fields);
        let primary = request.cache_key();
        let said = storing::tell_clients(&request, &mut fields);
        let varies_on = storing::varies_on(running, &primary, (None, None), answer.status(), &fields).ok()?;
        let text = primary.variant(&varies_on, &request.http.headers).text;
        let head = storing::head(running, text, varies_on, Some(stamp), answer.status(), (fields, said), &verdict);
        let _hold = running.cache.memory().hold(request.tags());
        Some(Keeping { request, primary, head, verdict, stamp, _hold })
    }

    fn keep(&self, running: &Arc<Running>, body: Bytes) {
        let Keeping { request, primary, head, verdict, stamp, .. } = self;
        let (tags, response) = (verdict.tags(request), storing::stored(head, verdict, body));
        let complete =
            CompleteResponse { request, primary, vary_index: None, stamp: *stamp, view: None, tags, response };
        let (_, kept) = complete.store_in_memory(running);
        let task = Arc::clone(running);
        running.tasks.spawn(async move { kept.share(&task).await });
    }
}

/// The question that the answer to a POST may answer. None if upstream was told more than the key of that question holds:
/// what a read loses on its way, or has in another form, or that it is to be taken for another method.
fn read_of(running: &Running, http: ClientRequest) -> Option<CacheRequest> {
    let meant = headers::methods_meant(&http.method, &http.headers, http.target.query.as_deref(), Some(&[]));
    // What a rule takes for a write is never read from the cache.
    if running.live().rules.is_write(&Method::GET, &http.target) {
        return None;
    }
    if meant != Meant::These(vec![http.method.clone()]) {
        return None;
    }
    let http = as_get(http);
    let (target, fields) = (http.target.clone(), http.headers.clone());
    let request = CacheRequest::new(running.live(), http, None);
    let is_as_sent = request.http.target == target && request.http.headers == fields;
    (is_as_sent && request.ambiguity().is_none()).then_some(request)
}

/// The GET that the answer to a POST may answer.
fn as_get(mut http: ClientRequest) -> ClientRequest {
    for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE] {
        http.headers.remove(name);
    }
    ClientRequest { method: Method::GET, ..http }
}

fn count(running: &Running, matches: &[MatchedRule<'_>], end: WriteEnd) {
    for rule in matches.iter().map(|matched| matched.rule).filter(|rule| rule.on.applies(end)) {
        rule.families.iter().for_each(|family| running.metrics.invalidated(family, "write"));
    }
}

async fn forward(
    running: &Running,
    http: &ClientRequest,
    fields: HeaderMap,
    body: RequestBody,
) -> Result<Response<ResponseBody>, UpstreamError> {
    let (client, path) = (http.sharer(running), http.target.path_and_query());
    running.upstream.send(client, &http.method, &path, fields, body, http.interim.clone()).await
}

/// What a write invalidates, given how it ended: the union of all matching rules; by RFC 9111 §4.4 the target URI (the first of
/// `targets`; others are its destinations) and same-origin `Location` and `Content-Location` of a non-error answer; and the
/// target URI alone if a refusal shows that what is stored of it is old. `hosts`: names by which upstream knows itself.
/// Whatever a soft rule says, a write that may or may not have been carried out invalidates. All of it is invalidated once more
/// after `may_follow`, if upstream may carry the write out later.
pub(super) fn invalidations(
    targets: &[Target],
    matches: &[MatchedRule<'_>],
    (end, answer): (WriteEnd, &HeaderMap),
    hosts: &[String],
    may_follow: Option<Duration>,
) -> Invalidations {
    let applying = || matches.iter().filter(|matched| matched.rule.on.applies(end));
    let grace_of = |matched: &MatchedRule<'_>| matched.rule.grace.filter(|_| end != WriteEnd::NoAnswer);
    let hard = applying().filter(|matched| grace_of(matched).is_none());
    let mut tags: HashSet<Tag> = hard.flat_map(|matched| matched.tags.iter().cloned()).collect();
    let is_done = StatusSet::default().applies(end);
    if is_done {
        tags.extend(targets.iter().flat_map(Target::tags));
    } else if invalidation::shows_old_copy(end) {
        tags.extend(targets.iter().take(1).flat_map(Target::tags));
    }
    if let Some(target) = targets.first().filter(|_| is_done) {
        for path in invalidation::named_paths(target, answer, hosts) {
            tags.extend(target.clone().at(&path).tags());
        }
        // RFC 9875 §3: of the same origin.
        tags.extend(groups::invalidated(answer).iter().map(|group| Tag::group(&target.host, group)));
    }
    let soft = applying().filter_map(|matched| Some((matched, grace_of(matched)?)));
    let soft = soft_only(soft, &tags);
    let mut again = repetitions(applying());
    let all = tags.iter().chain(soft.iter().map(|soft| &soft.tag));
    if let Some(after) = may_follow.filter(|_| all.clone().next().is_some()) {
        again.entry(after).or_default().extend(all.cloned());
    }
    let again = again.into_iter().map(|(after, tags)| Again { after, tags: tags.into_iter().collect() });
    Invalidations { tags: tags.into_iter().collect(), soft, again: again.collect() }
}

/// What soft rules invalidate and no other does: of several graces the shortest counts.
fn soft_only<'m>(
    soft: impl Iterator<Item = (&'m MatchedRule<'m>, Duration)>,
    hard: &HashSet<Tag>,
) -> Vec<SoftInvalidation> {
    let mut graces: BTreeMap<&Tag, Duration> = BTreeMap::new();
    for (matched, grace) in soft {
        for tag in matched.tags.iter().filter(|tag| !hard.contains(tag)) {
            graces.entry(tag).and_modify(|known| *known = grace.min(*known)).or_insert(grace);
        }
    }
    graces.into_iter().map(|(tag, grace)| SoftInvalidation { tag: tag.clone(), grace }).collect()
}

/// What is fetched again before anybody asks.
fn to_refresh(matches: &[MatchedRule<'_>], end: WriteEnd) -> Vec<Tag> {
    let applies = |matched: &&MatchedRule<'_>| matched.rule.on.applies(end);
    let refreshing = matches.iter().filter(applies).filter(|matched| matched.rule.refresh);
    refreshing.flat_map(|matched| matched.tags.iter().cloned()).collect()
}

/// What is repeated later: of each time all that its rules invalidate.
fn repetitions<'m>(applying: impl Iterator<Item = &'m MatchedRule<'m>>) -> BTreeMap<Duration, BTreeSet<Tag>> {
    let mut by_time: BTreeMap<Duration, BTreeSet<Tag>> = BTreeMap::new();
    for matched in applying {
        if let Some(after) = matched.rule.again {
            by_time.entry(after).or_default().extend(matched.tags.iter().cloned());
        }
    }
    by_time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::Over;

    #[test]
    fn a_write_that_has_no_answer_may_have_happened_if_upstream_can_have_it() {
        let target = Target { scheme: "http", host: "a".into(), ..Target::default() }.at("/things");
        let may_have = Some(WriteEnd::NoAnswer);
        // By default, and with `on_incomplete = "invalidate"`: of an incomplete write, and of a whole one.
        let rows = [
            (UpstreamError::Unreachable, [None; 4]),
            (UpstreamError::Overloaded(Over::Client), [None; 4]),
            (UpstreamError::Timeout, [None, may_have, may_have, may_have]),
            (UpstreamError::Incomplete, [None, may_have, may_have, may_have]),
            (UpstreamError::Slow, [None, may_have, may_have, may_have]),
            // Upstream has answered: the answer could not be passed on.
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

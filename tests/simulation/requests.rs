//! The requests of clients in runs with rules, and what Larder's real rules say of them: keys and tags of reads, the checks of callers
//! (`authorize`), what writes invalidate (`{body.…}`, `{response.…}`, `{identity}`) and have prefetched (`refresh`), which responses to
//! writes are stored, and what is warmed. The functions of the library are called in the order of `src/proxy/cache_request.rs` and `src/proxy/write.rs`.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use http::header::{CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder::config::{Config, Overrides, WarmTable};
use larder::http::headers::{Credentials, Meant};
use larder::http::invalidation::WriteEnd;
use larder::http::target::Target as Uri;
use larder::key::{self, CacheKey, KeyHash, PresentedCredentials, Redaction, StoreKey};
use larder::marks::Tag;
use larder::proxy::write;
use larder::rules::content::{ContentPlace, RuleContent};
use larder::rules::{
    CallerIdentity, Captures, InstanceValues, Invalidation, MatchedRule, RuleSet, Unresolved, WriteValues,
};
use larder::store::fleet::Invalidations;
use larder::warm::plan::WarmCoverage;

use super::registers::{Register, Value};

/// The rules of all runs that have some.
const TEXT: &str = r#"
[server]
upstream = "http://upstream"

[[family]]
name = "register"
path = '/r/(?<id>\d+)'
identity = "none"
ttl = "1m"
write_through = true

[[family]]
name = "query"
path = '/q'
identity = "none"
ttl = "1m"
instance = { id = "query:id" }

[[family]]
name = "account"
path = '/a/(?<id>\d+)'
identity = "none"
ttl = "1m"
authorize = { path = "/check", ttl = "5s" }

[invalidate]
'/r/(?<id>\d+)' = ["register:{id}", "query:{id}", "account:{id}"]
'/body' = { families = ["register:{body.id}", "query:{body.id}", "account:{body.id}"], refresh = true }
'/response' = ["register:{response.item.id}", "query:{response.item.id}", "account:{response.item.id}"]
'/soft/(?<id>\d+)' = { families = ["register:{id}", "query:{id}", "account:{id}"], mode = "soft", grace = "1s", refresh = true }
'/again/(?<id>\d+)' = { families = ["register:{id}", "query:{id}", "account:{id}"], again = "500ms" }
'/everything' = ["register", "query", "account"]
'/logout' = ["authorize:{identity}"]
'/rights' = ["authorize"]

[[warm]]
paths = ["/r/{0..3}", "/q?id=1"]
host = "upstream"
on = ["startup", "invalidate"]

[[warm]]
paths = ["/q?id={0..3}"]
host = "upstream"
every = "1s"

[[warm]]
family = "register"
hottest = 2
predict = true
"#;

/// After a write without an answer everything is invalidated again so much later (`reinvalidate_after`).
const REINVALIDATE_AFTER: Duration = Duration::from_millis(500);

/// `grace` of the soft rule.
pub const GRACE: Duration = Duration::from_secs(1);

/// A caller's cookie. The API knows the version of each session; a logout raises it, which makes earlier cookies invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// The register that counts the logouts of this caller.
    pub session: Register,
    pub version: Value,
}

/// A read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// In runs without rules.
    Plain(Register),
    /// `GET /r/3`
    Path(Register),
    /// `GET /q?id=3`
    Query(Register),
    /// `GET /a/3` with this cookie.
    Account(Register, Cookie),
}

impl Request {
    pub fn register(self) -> Register {
        match self {
            Request::Plain(register)
            | Request::Path(register)
            | Request::Query(register)
            | Request::Account(register, _) => register,
        }
    }

    pub fn cookie(self) -> Option<Cookie> {
        match self {
            Request::Account(_, cookie) => Some(cookie),
            _ => None,
        }
    }

    /// The read of a path that is warmed.
    pub fn of(path_and_query: &str) -> Option<Request> {
        let number = |text: &str| text.parse().ok();
        match path_and_query.split_once("?id=") {
            Some(("/q", id)) => number(id).map(Request::Query),
            _ => path_and_query.strip_prefix("/r/").and_then(number).map(Request::Path),
        }
    }
}

/// What a read requests from upstream.
#[derive(Debug, Clone, Copy)]
pub enum UpstreamRead {
    Value(Register),
    /// The value, for this caller alone.
    ValueFor(Register, Cookie),
    /// Whether the cookie is of a present session.
    Check(Cookie),
}

/// A read with what the rules say of it.
#[derive(Debug, Clone)]
pub struct Read {
    pub sent: UpstreamRead,
    pub key: CacheKey,
    pub label: String,
    /// Those that the request is known to have.
    pub tags: Vec<Tag>,
    /// The group that its responses name.
    pub group: Option<Tag>,
    /// What a prefetch sends, if hits are counted for that.
    pub repeatable: Option<Uri>,
}

/// What the rules say of a write.
#[derive(Debug, Default)]
pub struct Ruling {
    pub what: Invalidations,
    /// The tags whose hottest entries are prefetched.
    pub refresh: Vec<Tag>,
    /// Why values are missing, so that whole families are invalidated.
    pub unresolved: Vec<Unresolved>,
}

/// The content of a write whose rules take the register from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteContent {
    Json,
    Form,
    /// Without the value.
    Missing,
    /// The value is an object, or a boolean.
    WrongType,
    Malformed,
}

impl WriteContent {
    pub const ALL: [WriteContent; 6] = [
        WriteContent::Json,
        WriteContent::Json,
        WriteContent::Form,
        WriteContent::Missing,
        WriteContent::WrongType,
        WriteContent::Malformed,
    ];

    fn text(self, register: Register) -> (&'static str, String) {
        match self {
            WriteContent::Json => {
                ("application/json", format!(r#"{{"id": {register}, "item": {{"id": "{register}"}}}}"#))
            }
            WriteContent::Form => {
                ("application/x-www-form-urlencoded", format!("id={register}&item[id]={register}"))
            }
            WriteContent::Missing => ("application/json", r#"{"name": "x", "item": {}}"#.to_owned()),
            WriteContent::WrongType => {
                ("application/json", r#"{"id": {"x": 1}, "item": {"id": true}}"#.to_owned())
            }
            WriteContent::Malformed => ("application/json", format!(r#"{{"id": {register}"#)),
        }
    }

    fn fields_and_bytes(self, register: Register) -> (HeaderMap, Vec<u8>) {
        let (media, text) = self.text(register);
        (HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]), text.into_bytes())
    }
}

/// How a write names what it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `PUT /r/3`, answered with the new representation.
    Path(Register),
    /// `POST /body`; whether its content is received before it is announced.
    Body(Register, WriteContent, bool),
    /// `POST /response`
    Response(Register, WriteContent),
    Soft(Register),
    Again(Register),
    Everything,
    /// By the caller with this cookie.
    Logout(Cookie),
    /// An administrator ends the sessions of a caller.
    Rights(Register),
}

impl Form {
    /// The path and the fields of the request.
    fn request(self) -> (String, HeaderMap) {
        match self {
            Form::Path(register) => (format!("/r/{register}"), HeaderMap::new()),
            Form::Body(register, content, _) => ("/body".to_owned(), content.fields_and_bytes(register).0),
            Form::Response(..) => ("/response".to_owned(), HeaderMap::new()),
            Form::Soft(register) => (format!("/soft/{register}"), HeaderMap::new()),
            Form::Again(register) => (format!("/again/{register}"), HeaderMap::new()),
            Form::Everything => ("/everything".to_owned(), HeaderMap::new()),
            Form::Logout(cookie) => ("/logout".to_owned(), cookie.fields()),
            Form::Rights(_) => ("/rights".to_owned(), HeaderMap::new()),
        }
    }

    fn method(self) -> Method {
        if matches!(self, Form::Path(_)) { Method::PUT } else { Method::POST }
    }

    /// Whether upstream carries it out only while the session has this version.
    pub fn only_if(self) -> Option<(Register, Value)> {
        match self {
            Form::Logout(cookie) => Some((cookie.session, cookie.version)),
            _ => None,
        }
    }
}

impl Cookie {
    fn fields(self) -> HeaderMap {
        let Cookie { session, version } = self;
        let value = HeaderValue::try_from(format!("theme=dark; sid={session}.{version}")).unwrap();
        HeaderMap::from_iter([(COOKIE, value)])
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session, self.version)
    }
}

/// The rules.
pub struct Rules {
    set: RuleSet,
    pub warm: Vec<WarmTable>,
    credentials: Credentials,
    redaction: Redaction,
}

impl Rules {
    pub fn get() -> &'static Rules {
        static RULES: LazyLock<Rules> = LazyLock::new(|| {
            let config = Config::parse(TEXT, "rules.toml", &Overrides::default(), &|_| None);
            let Config { rules, warm, .. } = config.unwrap_or_else(|faults| panic!("{faults}"));
            Rules { set: rules, warm, credentials: Credentials::default(), redaction: Redaction::default() }
        });
        &RULES
    }

    pub fn read(&self, request: Request) -> Read {
        let register = request.register();
        let (path, query) = match request {
            Request::Query(_) => ("/q".to_owned(), Some(format!("id={register}"))),
            Request::Account(..) => (format!("/a/{register}"), None),
            Request::Plain(_) | Request::Path(_) => (format!("/r/{register}"), None),
        };
        let (target, fields) = (Uri { query, ..uri(&path) }, HeaderMap::new());
        let presented = PresentedCredentials::without_token(&fields);
        let route = self.set.route(&Method::GET, &target.path).expect("each path has a family");
        let values = route.family.instance_values(&target, presented, None).expect("one value");
        let of_family = route.family.tags_of(&target.readings(), &route.captures, &values);
        let key = key::derive(&target, presented, Some(route.family.key_spec()), &self.redaction);
        let sent = match request.cookie() {
            Some(cookie) => UpstreamRead::ValueFor(register, cookie),
            None => UpstreamRead::Value(register),
        };
        Read {
            sent,
            key: repeatable(key),
            label: route.family.label(&route.captures, &values),
            tags: [Tag::root()].into_iter().chain(target.tags()).chain(of_family).collect(),
            group: None,
            repeatable: (route.family.counted && route.family.authorize.is_none()).then_some(target),
        }
    }

    /// The check of the caller, which a read of an account begins with.
    pub fn check(&self, register: Register, cookie: Cookie) -> Read {
        let route = self.set.route(&Method::GET, &format!("/a/{register}")).expect("it has a family");
        let authorize = route.family.authorize.as_ref().expect("callers are checked");
        let verdicts = &self.set.families()[authorize.verdicts];
        let (target, fields) = (uri(&authorize.path), self.credentials.select(&cookie.fields(), &[]));
        let digests = key::credentials(&fields, None).unwrap_or_default();
        let of_callers =
            if verdicts.is_invalidated_by_caller { verdicts.tags_of_callers(&digests) } else { vec![] };
        let (captures, values) = (Captures::new(), InstanceValues::new());
        let of_family = verdicts.tags_of(&target.readings(), &captures, &values);
        let presented = PresentedCredentials::without_token(&fields);
        let key = key::derive(&target, presented, Some(verdicts.key_spec()), &self.redaction).of_caller(&fields);
        Read {
            sent: UpstreamRead::Check(cookie),
            key: repeatable(key),
            label: verdicts.label(&captures, &values),
            tags: [Tag::root()].into_iter().chain(target.tags()).chain(of_family).chain(of_callers).collect(),
            group: None,
            repeatable: None,
        }
    }

    /// The read that the response to a write may answer later, if the rules say that it is the new representation.
    pub fn written_through(&self, form: Form) -> Option<Read> {
        let Form::Path(register) = form else { return None };
        let family = self.set.route(&Method::GET, &format!("/r/{register}"))?.family;
        family.write_through.then(|| self.read(Request::Path(register)))
    }

    /// What a write may invalidate, by what is known of it before it is announced.
    pub fn intent(&self, form: Form) -> Vec<Tag> {
        let is_at_hand = !matches!(form, Form::Body(_, _, false));
        let mut tags = self.ruling(form, is_at_hand, None).what.all_tags();
        // They come out of a set, in a random order.
        tags.sort_unstable();
        tags
    }

    /// Of a write that was carried out. `is_answered`: upstream's answer was received.
    pub fn carried_out(&self, form: Form, is_answered: bool) -> Ruling {
        self.ruling(form, true, is_answered.then_some(StatusCode::OK))
    }

    fn ruling(&self, form: Form, is_received: bool, status: Option<StatusCode>) -> Ruling {
        let ((path, fields), methods) = (form.request(), Meant::These(vec![form.method()]));
        let targets = [uri(&path)];
        let unknown = RuleContent::Unreadable(Unresolved::NotReceived);
        let known = self.matches(&methods, &targets, &fields, [&unknown, &unknown]);
        let rules = || known.iter().map(|matched| matched.rule);
        let request = match form {
            Form::Body(register, content, _) if is_received => {
                let places: Vec<ContentPlace> =
                    rules().flat_map(Invalidation::places_in_content).cloned().collect();
                let (fields, bytes) = content.fields_and_bytes(register);
                RuleContent::read(&fields, &bytes, &places)
            }
            _ => unknown.clone(),
        };
        let response = match form {
            Form::Response(register, content) if status.is_some() => {
                let places: Vec<ContentPlace> =
                    rules().flat_map(Invalidation::places_in_response).cloned().collect();
                let (fields, bytes) = content.fields_and_bytes(register);
                RuleContent::read(&fields, &bytes, &places)
            }
            _ => unknown,
        };
        let matches = self.matches(&methods, &targets, &fields, [&request, &response]);
        let end = status.map_or(WriteEnd::NoAnswer, WriteEnd::of_answer);
        let may_follow = status.is_none().then_some(REINVALIDATE_AFTER);
        let what = write::invalidations(
            &targets,
            &matches,
            (end, &HeaderMap::new()),
            &write::UpstreamHosts::default(),
            may_follow,
        );
        let unresolved = matches.iter().flat_map(|matched| &matched.unresolved).map(|(_, why)| *why).collect();
        Ruling { what, refresh: write::to_refresh(&matches, end), unresolved }
    }

    fn matches(
        &self,
        methods: &Meant,
        targets: &[Uri],
        fields: &HeaderMap,
        [content, response]: [&RuleContent; 2],
    ) -> Vec<MatchedRule<'_>> {
        let presented = PresentedCredentials::without_token(fields);
        let caller = CallerIdentity::Known { presented, secret: None, credentials: &self.credentials };
        self.set.invalidated_by_any(methods, targets, WriteValues { caller, query: None, content, response })
    }

    /// What a run that reads these covers.
    pub fn coverage(&self, requests: &[Request]) -> WarmCoverage {
        let paths: Vec<String> = requests
            .iter()
            .map(|request| match request {
                Request::Query(_) => "/q".to_owned(),
                other => format!("/r/{}", other.register()),
            })
            .collect();
        WarmCoverage::of(&self.set, paths.iter().map(String::as_str))
    }
}

fn uri(path: &str) -> Uri {
    Uri { scheme: "http", host: "upstream".to_owned(), ..Uri::default() }.at(path)
}

/// The same with a hash that every process makes of the same text.
fn repeatable(key: CacheKey) -> CacheKey {
    let StoreKey(bytes) = key.key();
    CacheKey { hash: KeyHash(u128::from_be_bytes(bytes)), ..key }
}

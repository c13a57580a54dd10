//! Reads `[[warm]]`: what is fetched before a client asks for it, and when.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono_tz::Tz;
use http::HeaderMap;
use http::header::{self, HeaderName};

use super::fields::read_request_fields;
use super::{ServerConfig, address};
use crate::http::headers::Credentials;
use crate::http::target::normalise_authority;
use crate::key::Identity;
use crate::rules::RuleSet;
use crate::rules::nearest::{did_you_mean, nearest};
use crate::rules::reader::{Item, Table, Text};

pub mod paths;
pub mod schedule;

use paths::{MOST, PathPattern};
use schedule::{CronExpression, Hours, Schedule};

/// Most tables.
const TABLES: usize = 100;

const EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);

/// A `[[warm]]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmTable {
    /// Line in the file, from 1.
    pub line: usize,
    /// `paths`
    pub paths: Vec<PathPattern>,
    /// `file`: one path on each line
    pub file: Option<PathBuf>,
    /// `openapi`
    pub openapi: Option<OpenApiSource>,
    /// `sitemap`: its path at the API
    pub sitemap: Option<String>,
    /// `family`, with `hottest` and `predict`
    pub reads: Option<CountedReads>,
    /// `host`: the host that clients name, normalised; empty if the sources say it themselves
    pub host: String,
    /// `headers`, beside the usual ones. The values are marked sensitive: they are not logged
    pub headers: HeaderMap,
    /// Whether a credential in `headers` has a default, which stands in the file
    pub has_default_credentials: bool,
    /// `on = ["startup"]`
    pub on_startup: bool,
    /// `on = ["invalidate"]`
    pub on_invalidate: bool,
    /// `every`, `cron` and `hours`
    pub schedule: Option<Schedule>,
    /// `time_zone`, default UTC
    pub zone: Tz,
    /// `concurrency`, default 4
    pub concurrency: usize,
    /// `rate`: requests to the API a second; `None` for no limit
    pub rate: Option<u64>,
}

/// Where an OpenAPI description is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenApiSource {
    /// A path at the API.
    Path(String),
    File(PathBuf),
}

/// The most frequent reads of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedReads {
    pub family: String,
    /// `hottest`: how many, default 100
    pub most: usize,
    /// `predict`: those of this hour on earlier days, instead of those since the start
    pub predict: bool,
}

impl WarmTable {
    /// What it warms and when, for people.
    pub fn described(&self) -> (String, String) {
        let count: u64 = self.paths.iter().map(PathPattern::count).sum();
        let mut what = Vec::new();
        if count > 0 {
            what.push(format!("{count} {}", if count == 1 { "path" } else { "paths" }));
        }
        what.extend(self.file.as_ref().map(|file| format!("the paths in {}", file.display())));
        what.extend(self.openapi.as_ref().map(|source| match source {
            OpenApiSource::Path(path) => format!("the GET routes in {path}"),
            OpenApiSource::File(file) => format!("the GET routes in {}", file.display()),
        }));
        what.extend(self.sitemap.as_ref().map(|path| format!("the pages in {path}")));
        what.extend(self.reads.as_ref().map(|reads| match reads.predict {
            true => format!("the {} hottest of {} at this hour on earlier days", reads.most, reads.family),
            false => format!("the {} hottest of {}", reads.most, reads.family),
        }));
        let mut when = Vec::new();
        when.extend(self.on_startup.then(|| "at startup".to_owned()));
        when.extend(self.on_invalidate.then(|| "after an invalidation".to_owned()));
        when.extend(self.schedule.as_ref().map(|schedule| match schedule {
            Schedule::Every { period, hours } => {
                let hours = if hours.is_some() { ", in its hours" } else { "" };
                format!("every {}{hours}", humantime::format_duration(*period))
            }
            Schedule::Cron(cron) => format!("at {} ({})", cron.text(), self.zone),
            Schedule::BeforeEachHour { hours: Some(_) } => format!("before each of its hours ({})", self.zone),
            Schedule::BeforeEachHour { hours: None } => "before each hour".to_owned(),
        }));
        when.push("by POST /cache/warm".to_owned());
        (what.join(", "), when.join(", "))
    }
}

/// Reads all tables. Faults go to the table's reader. Notes in `rules` the families whose reads are to be counted.
pub fn read(root: &mut Table<'_>, server: &ServerConfig, rules: &mut RuleSet) -> Vec<WarmTable> {
    let Some(item) = root.item("warm") else { return Vec::new() };
    let tables = item.tables().unwrap_or_default();
    if tables.len() > TABLES {
        item.fault(format!("has {} tables", tables.len()), format!("write at most {TABLES}"));
        return Vec::new();
    }
    let tables: Vec<WarmTable> = tables.into_iter().map(|table| read_table(table, server, rules)).collect();
    rules.count_reads_of(tables.iter().filter_map(|table| Some(table.reads.as_ref()?.family.as_str())));
    tables
}

fn read_table(mut table: Table<'_>, server: &ServerConfig, rules: &RuleSet) -> WarmTable {
    table.rename("[[warm]]".to_owned());
    let paths = table.item("paths").map(|item| read_paths(&item)).unwrap_or_default();
    let file = table.read("file", |item| item.filled()).map(|text| PathBuf::from(text.value));
    let openapi = table.read("openapi", |item| item.filled()).map(|text| read_openapi(&text));
    let sitemap = table.read("sitemap", |item| path_at_api(&item));
    let reads = read_counted(&mut table, rules);
    let host_item = table.item("host");
    let host = host_item.as_ref().and_then(read_host).unwrap_or_default();
    let headers = table.item("headers").map(|item| read_headers(&item, &server.credential_headers));
    let (headers, has_default_credentials) = headers.unwrap_or_default();
    let [mut on_startup, mut on_invalidate] = [false; 2];
    for text in table.read("on", |item| item.texts()).unwrap_or_default() {
        match text.value.as_str() {
            "startup" => on_startup = true,
            "invalidate" => on_invalidate = true,
            _ => text.fault(format!("{:?} is not known", text.raw), "write \"startup\" or \"invalidate\""),
        }
    }
    let (schedule, zone) = read_schedule(&mut table, reads.as_ref().is_some_and(|reads| reads.predict));
    let concurrency = read_concurrency(&mut table, server);
    let rate = table.read("rate", |item| item.integer(&(1..=100_000)));
    let names_paths = !paths.is_empty() || file.is_some() || openapi.is_some();
    if !names_paths && sitemap.is_none() && reads.is_none() && !table.has_any(&SOURCES) {
        table.lacks(
            "names nothing to warm",
            "write paths = [\"/plans/{1..100}\"], file, openapi, sitemap or family",
        );
    }
    if names_paths && host_item.is_none() {
        let remedy = "write host = \"api.example.com\", the host in the URLs of clients: it is part of every key";
        table.lacks("host is missing", remedy);
    }
    if let Some(item) = host_item.filter(|_| !names_paths && sitemap.is_none() && reads.is_some()) {
        item.fault("has no effect: the reads of a family are counted with their hosts", "remove it");
    }
    let reads_only = reads.as_ref().is_some_and(|reads| !reads.predict) && !names_paths && sitemap.is_none();
    if reads_only && on_startup {
        let remedy = "add every = \"30m\" or on = [\"invalidate\"] instead, or predict = true with [store]";
        table.lacks("on = [\"startup\"] has no effect: at a start no reads are counted yet", remedy);
    }
    let line = table.reader().line(&table.span());
    table.finish();
    WarmTable {
        line,
        paths,
        file,
        openapi,
        sitemap,
        reads,
        host,
        headers,
        has_default_credentials,
        on_startup,
        on_invalidate,
        schedule,
        zone,
        concurrency,
        rate,
    }
}

/// The fields that name what is warmed.
const SOURCES: [&str; 5] = ["paths", "file", "openapi", "sitemap", "family"];

fn read_paths(item: &Item<'_>) -> Vec<PathPattern> {
    let texts = item.texts().unwrap_or_default();
    let mut patterns = Vec::with_capacity(texts.len());
    for text in &texts {
        match PathPattern::parse(&text.value) {
            Ok(pattern) => patterns.push(pattern),
            Err(fault) => text.fault_at(fault.at, fault.message, fault.remedy),
        }
    }
    let count = patterns.iter().map(PathPattern::count).fold(0, u64::saturating_add);
    if count > MOST {
        item.fault(format!("stands for {count} paths"), format!("write at most {MOST}, or family and hottest"));
        return Vec::new();
    }
    patterns
}

/// A path at the API, without ranges.
fn path_at_api(item: &Item<'_>) -> Option<String> {
    let text = item.filled()?;
    match paths::check(&text.value) {
        Ok(()) => Some(text.value),
        Err((message, remedy)) => text.refuse(message, remedy),
    }
}

fn read_openapi(text: &Text<'_>) -> OpenApiSource {
    if let Some(file) = text.value.strip_prefix("file:") {
        return OpenApiSource::File(PathBuf::from(file));
    }
    if text.value.starts_with('/') {
        if let Err((message, remedy)) = paths::check(&text.value) {
            text.fault(message, remedy);
        }
        return OpenApiSource::Path(text.value.clone());
    }
    let is_yaml = [".yaml", ".yml"].iter().any(|end| text.value.to_ascii_lowercase().ends_with(end));
    if is_yaml {
        text.fault("is YAML", "write the description as JSON, as the API's own /openapi.json is");
    }
    OpenApiSource::File(PathBuf::from(&text.value))
}

/// `family`, `hottest` and `predict`.
fn read_counted(table: &mut Table<'_>, rules: &RuleSet) -> Option<CountedReads> {
    let family = table.item("family");
    let hottest = table.item("hottest");
    let most = hottest.as_ref().and_then(|item| item.integer(&(1..=10_000)));
    let predict = table.item("predict");
    let is_predicted = predict.as_ref().and_then(Item::boolean).unwrap_or(false);
    let Some(family) = family else {
        if let Some(item) = hottest.or(predict.filter(|_| is_predicted)) {
            item.fault("has no effect without a family", "write family = \"…\" beside it");
        }
        return None;
    };
    let name = family.filled()?;
    let Some(found) = rules.family(&name.value) else {
        let names = rules.families().iter().map(|family| family.name.as_str());
        let near = nearest(&name.value, names);
        let remedy = did_you_mean(&near, || "name one of [[family]]".to_owned());
        return name.refuse(format!("{:?} is no family", name.raw), remedy);
    };
    if !matches!(found.key_spec.identity, Identity::Unstated | Identity::Shared) {
        let message =
            format!("{:?} has an identity: its entries belong to one caller each, and none is warmed", name.raw);
        return name.refuse(message, "name a family whose responses are for all callers");
    }
    if found.authorize.is_some() {
        let message =
            format!("{:?} has authorize: reads of its callers are not counted, and none is warmed", name.raw);
        return name.refuse(message, "name a family without authorize");
    }
    if found.is_never_cached {
        let message = format!("{:?} has cache = \"never\": nothing of it is warmed", name.raw);
        return name.refuse(message, "name a family that is cached");
    }
    Some(CountedReads { family: found.name.clone(), most: most.unwrap_or(100), predict: is_predicted })
}

fn read_host(item: &Item<'_>) -> Option<String> {
    let text = item.filled()?;
    match address::host(&text.value).ok().and_then(|_| normalise_authority("http", &text.value)) {
        Some(host) => Some(host),
        None => text.refuse("is not a host", "write the host in the URLs of clients, such as \"api.example.com\""),
    }
}

/// Fields that a warming request cannot have: of the connection, those that Larder writes itself, and those that would make the
/// response another one than clients get.
const REFUSED: [HeaderName; 16] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::CACHE_CONTROL,
    header::PRAGMA,
];

/// The fields, and whether a credential among them has a default.
fn read_headers(item: &Item<'_>, credentials: &Credentials) -> (HeaderMap, bool) {
    let refused = |name: &HeaderName| {
        let remedy = if *name == header::HOST { "write host = \"…\" in the table" } else { "remove it" };
        REFUSED.contains(name).then_some(("cannot be set: a warming request is a plain GET", remedy))
    };
    read_request_fields(item, "[[warm]]: headers:", refused, (credentials, "WARM_TOKEN"))
}

/// `every`, `cron`, `hours` and `time_zone`.
fn read_schedule(table: &mut Table<'_>, predict: bool) -> (Option<Schedule>, Tz) {
    let [every, cron, hours, zone] = ["every", "cron", "hours", "time_zone"].map(|key| table.item(key));
    let period = every.as_ref().and_then(|item| item.duration(&EVERY));
    let expression =
        cron.as_ref().and_then(Item::filled).and_then(|text| match CronExpression::parse(text.value.trim()) {
            Ok(expression) => Some(expression),
            Err(error) => {
                let remedy = "write minute, hour, day, month and day of the week, such as \"0 6 * * *\"";
                text.refuse(format!("{:?} is no cron expression that can be used: {error}", text.raw), remedy)
            }
        });
    let window = hours.as_ref().and_then(Item::filled).and_then(|text| {
        let window = Hours::parse(&text.value);
        if window.is_none() {
            text.fault(
                format!("{:?} is not a span of hours", text.raw),
                "write \"9-11\" (9:00 to 11:59), \"22-4\" over midnight, or several: \"9-11,18-20\"",
            );
        }
        window
    });
    let known = zone.as_ref().and_then(Item::filled).and_then(|text| match Tz::from_str(text.value.trim()) {
        Ok(zone) => Some(zone),
        Err(_) => text.refuse(
            format!("{:?} is not a time zone", text.raw),
            "write a name of the IANA database, such as \"Europe/Paris\"",
        ),
    });
    if let Some(item) = cron.as_ref().filter(|_| every.is_some()) {
        item.fault("is set in addition to every", "remove one of them, or write a second [[warm]]");
    }
    if let Some(item) = hours.filter(|_| every.is_none() && !(predict && cron.is_none())) {
        item.fault(
            "has no effect without every",
            "write every = \"30m\" beside it; a cron expression has hours of its own",
        );
    }
    if let Some(item) = zone.filter(|_| window.is_none() && cron.is_none() && !predict) {
        item.fault("has no effect without cron, hours or predict", "remove it");
    }
    let schedule = match (period, expression) {
        (Some(period), _) => Some(Schedule::Every { period, hours: window }),
        (None, Some(expression)) => Some(Schedule::Cron(expression)),
        (None, None) => predict.then_some(Schedule::BeforeEachHour { hours: window }),
    };
    (schedule, known.unwrap_or(Tz::UTC))
}

fn read_concurrency(table: &mut Table<'_>, server: &ServerConfig) -> usize {
    let most = server.max_upstream_requests_per_client;
    let usual = 4.min(most);
    let Some(item) = table.item("concurrency") else { return usual };
    let Some(concurrency) = item.integer(&(1..=1000)) else { return usual };
    if concurrency > most {
        item.fault(
            format!(
                "is more than max_upstream_requests_per_client ({most}), which holds for Larder's own requests too"
            ),
            "lower it, or raise max_upstream_requests_per_client",
        );
    }
    concurrency
}

#[cfg(test)]
mod tests;

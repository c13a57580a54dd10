//! What a `[[warm]]` table names, as targets: reads files, asks the API for documents, and takes the counted reads.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use chrono::Utc;
use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri};
use tokio::io::AsyncReadExt;

use super::{openapi, sitemap};
use crate::config::WarmTable;
use crate::config::warm::paths::{self, MOST, PathPattern};
use crate::config::warm::{CountedReads, OpenApiSource};
use crate::http::target::{Target, normalise_authority};
use crate::marks::Tag;
use crate::proxy::warm::document;
use crate::running::{Live, Running};
use crate::upkeep::hours;

/// Largest document and file, bytes.
const DOCUMENT: usize = 16 << 20;

/// Sitemaps of an index that are read.
const SITEMAPS: usize = 50;

/// What browsers send: responses that vary on `Accept-Encoding` are stored for this value.
const ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, deflate, br, zstd");

/// A target to warm, and the fields to send.
#[derive(Debug)]
pub struct WarmTarget {
    pub target: Target,
    pub headers: HeaderMap,
}

/// The targets of a table, each once, and the sources that could not be read.
#[derive(Debug, Default)]
pub struct Expanded {
    pub targets: Vec<WarmTarget>,
    pub problems: Vec<String>,
}

/// Expands a table. Paths that no request can have are left out.
pub async fn expand(running: &Running, live: &Live, table: &WarmTable) -> Expanded {
    let mut expansion = Expansion { running, live, table, seen: HashSet::new(), expanded: Expanded::default() };
    for path in table.paths.iter().flat_map(PathPattern::expand) {
        expansion.add(&table.host, &path);
    }
    if let Some(file) = &table.file {
        let read = read_file(file).await;
        expansion.take(&format!("file = {:?}", file.display().to_string()), read.and_then(|bytes| lines(&bytes)));
    }
    if let Some(source) = &table.openapi {
        expansion.add_openapi(source).await;
    }
    if let Some(path) = &table.sitemap {
        expansion.add_sitemap(path).await;
    }
    if let Some(reads) = &table.reads {
        match reads.predict {
            true => expansion.add_predicted(reads).await,
            false => expansion.add_hottest(reads),
        }
    }
    expansion.expanded
}

struct Expansion<'a> {
    running: &'a Running,
    live: &'a Live,
    table: &'a WarmTable,
    seen: HashSet<(String, String)>,
    expanded: Expanded,
}

impl Expansion<'_> {
    /// Adds a path with its query, unless it is there already. False once there are too many.
    fn add(&mut self, host: &str, path: &str) -> bool {
        if self.seen.len() as u64 >= MOST {
            return false;
        }
        if let Some(target) = self.target(host, path)
            && self.seen.insert((host.to_owned(), path.to_owned()))
        {
            self.expanded.targets.push(WarmTarget { target, headers: self.headers(HeaderMap::new()) });
        }
        true
    }

    /// Adds the paths of a source, or the problem with it.
    fn take(&mut self, source: &str, paths: Result<Vec<String>, String>) {
        let host = self.table.host.clone();
        match paths {
            Ok(paths) => {
                if !paths.iter().all(|path| self.add(&host, path)) {
                    self.problem(format!("{source}: names more than {MOST} paths; the rest is left out"));
                }
            }
            Err(error) => self.problem(format!("{source}: {error}")),
        }
    }

    fn problem(&mut self, problem: String) {
        self.expanded.problems.push(problem);
    }

    fn target(&self, host: &str, path: &str) -> Option<Target> {
        paths::check(path).ok()?;
        let parts: PathAndQuery = path.parse().ok()?;
        let query = parts.query().map(str::to_owned);
        let case = self.running.config.server.case_insensitive_paths;
        Some(Target { scheme: "http", host: host.to_owned(), query, case, ..Target::default() }.at(parts.path()))
    }

    /// Those of the table win over `usual`, and those over what browsers send.
    fn headers(&self, usual: HeaderMap) -> HeaderMap {
        let mut headers = usual;
        for (name, value) in &self.table.headers {
            headers.insert(name, value.clone());
        }
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.entry(ACCEPT_ENCODING).or_insert(ENCODINGS);
        headers
    }

    async fn document(&self, path: &str) -> Result<Bytes, String> {
        let host = match self.table.host.as_str() {
            "" => self.running.upstream.addresses().first().map_or("localhost", String::as_str),
            host => host,
        };
        let target = self.target(host, path).ok_or_else(|| "it is no path".to_owned())?;
        let mut headers = self.headers(HeaderMap::new());
        // It is read here.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        document(self.running, target, headers, DOCUMENT).await
    }

    async fn add_openapi(&mut self, source: &OpenApiSource) {
        let (name, read) = match source {
            OpenApiSource::Path(path) => (path.clone(), self.document(path).await),
            OpenApiSource::File(file) => (file.display().to_string(), read_file(file).await),
        };
        self.take(&format!("openapi = {name:?}"), read.and_then(|bytes| openapi::paths(&bytes)));
    }

    async fn add_sitemap(&mut self, path: &str) {
        let source = |path: &str| format!("sitemap = {path:?}");
        let first = match self.sitemap(path).await {
            Ok(first) => first,
            Err(error) => return self.problem(format!("{}: {error}", source(path))),
        };
        if !first.is_index {
            return self.add_pages(&source(path), &first.urls);
        }
        if first.urls.len() > SITEMAPS {
            self.problem(format!("{}: names more than {SITEMAPS} sitemaps; the rest is left out", source(path)));
        }
        for url in first.urls.iter().take(SITEMAPS) {
            let Some((_, path)) = split(url) else {
                self.problem(format!("{}: a sitemap in it has no http URL", source(path)));
                continue;
            };
            match self.sitemap(&path).await {
                Ok(further) if further.is_index => {
                    self.problem(format!("{}: is an index within an index", source(&path)));
                }
                Ok(further) => self.add_pages(&source(&path), &further.urls),
                Err(error) => self.problem(format!("{}: {error}", source(&path))),
            }
        }
    }

    async fn sitemap(&self, path: &str) -> Result<sitemap::Sitemap, String> {
        let xml = self.document(path).await?;
        let text =
            std::str::from_utf8(&xml).map_err(|_| "it is not UTF-8 (nor may it be compressed)".to_owned())?;
        sitemap::read(text, MOST as usize)
    }

    fn add_pages(&mut self, source: &str, urls: &[String]) {
        for url in urls {
            let Some((host, path)) = split(url) else { continue };
            let host = if self.table.host.is_empty() { host } else { self.table.host.clone() };
            if !self.add(&host, &path) {
                return self.problem(format!("{source}: names more than {MOST} paths; the rest is left out"));
            }
        }
    }

    fn add_hottest(&mut self, reads: &CountedReads) {
        let tags = HashSet::from([Tag::family(&reads.family)]);
        for read in self.running.cache.hot().hottest(&tags, reads.most) {
            // The variant that those reads hit.
            let headers = self.headers(read.headers.clone());
            self.expanded.targets.push(WarmTarget { target: read.target.clone(), headers });
        }
    }

    async fn add_predicted(&mut self, reads: &CountedReads) {
        let hours = hours::earlier(self.table.zone, Utc::now() + super::LEAD);
        let found = match self.running.cache.store_handle() {
            Some(store) => store.hits_in(&hours).await.map_err(|error| error.to_string()),
            None => Ok(self.running.hourly.hits_in(&hours)),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.problem(format!("predict = true: {error}")),
        };
        let mut left = reads.most;
        for name in hours::ranked(found) {
            let Some((host, path)) = hours::parts(&name) else { continue };
            let is_host = normalise_authority("http", host).is_some_and(|normal| normal == host);
            let Some(target) = self.target(host, path).filter(|_| is_host) else { continue };
            // Of this family in the rules that are in force now.
            let family = self.live.rules.route(&Method::GET, &target.path).map(|route| &route.family.name);
            if family == Some(&reads.family) && left > 0 {
                self.add(host, path);
                left -= 1;
            }
        }
    }
}

/// Host, and path with query, of an absolute http URL.
fn split(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let host = normalise_authority(scheme, uri.authority()?.as_str())?;
    Some((host, uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned()))
}

async fn read_file(file: &Path) -> Result<Bytes, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
    opened.take(DOCUMENT as u64 + 1).read_to_end(&mut bytes).await.map_err(unreadable)?;
    if bytes.len() > DOCUMENT {
        return Err(format!("is larger than {} MiB", DOCUMENT >> 20));
    }
    Ok(bytes.into())
}

/// One path on each line. Empty lines, and lines that begin with `#`, are left out.
fn lines(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let mut found = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err((message, remedy)) = paths::check(line) {
            return Err(format!("line {} {message}; {remedy}", number + 1));
        }
        found.push(line.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_path_on_each_line() {
        assert_eq!(lines(b"# hot\n/a\n\n  /b?c=1 \r\n"), Ok(vec!["/a".to_owned(), "/b?c=1".to_owned()]));
        assert_eq!(
            lines(b"/a\nb").unwrap_err(),
            "line 2 does not begin with \"/\"; begin it with \"/\"; the host stands in host = \"…\""
        );
    }

    #[test]
    fn a_url_is_split_into_host_and_path() {
        let of = |url: &str| split(url).map(|(host, path)| format!("{host} {path}"));
        assert_eq!(of("https://API.example.com:443/a?b=1").as_deref(), Some("api.example.com /a?b=1"));
        assert_eq!(of("http://h:8080").as_deref(), Some("h:8080 /"));
        assert_eq!((of("/a"), of("ftp://h/a"), of("")), (None, None, None));
    }
}

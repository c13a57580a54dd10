//! Reads `[traces]`.

use std::str::FromStr as _;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use super::address::{self, InvalidValue};
use crate::http::headers::{Credentials, dashed};
use crate::rules::reader::{Item, Table, Text};
use crate::rules::thresholds::percent;

settings! {
"traces":
/// `[traces]`
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// `endpoint`: the URL of a collector's OTLP receiver, with its path
    pub endpoint: Uri,
    /// `sample`: the part of new traces that is recorded, default 100%. A caller's decision on its trace counts
    pub sample: f64,
    /// `headers` of requests to the collector. The values are marked sensitive: they are not logged
    pub headers: HeaderMap,
    /// `service`: `service.name` of the spans, default larder
    pub service: String,
}
}

/// Fields that are those of the exporter.
static REFUSED: [HeaderName; 5] =
    [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TRANSFER_ENCODING];

/// `None` without the table.
pub fn read(root: &mut Table<'_>) -> Option<TracesConfig> {
    let mut table = super::fields::section(root, "traces")?;
    let endpoint = table
        .required("endpoint", "add endpoint = \"http://127.0.0.1:4318/v1/traces\", or remove the table")
        .and_then(|item| endpoint(&item));
    let sample = table.read("sample", |item| sample(&item));
    let headers = table.item("headers").map(|item| read_headers(&item)).unwrap_or_default();
    let service = table.read("service", |item| item.filled()).map(|text| text.value.trim().to_owned());
    table.finish();
    Some(TracesConfig {
        endpoint: endpoint?,
        sample: sample.unwrap_or(1.0),
        headers,
        service: service.unwrap_or_else(|| "larder".to_owned()),
    })
}

fn endpoint(item: &Item<'_>) -> Option<Uri> {
    let text = item.filled()?;
    let url = match address::url(&text.value) {
        Ok(url) => url,
        Err(InvalidValue { message, remedy }) => {
            // It may hold a secret.
            text.fault(message, remedy);
            return None;
        }
    };
    if url.path() == "/" {
        text.fault("has no path", "write where the collector receives OTLP over HTTP, usually /v1/traces");
        return None;
    }
    Some(url)
}

fn sample(item: &Item<'_>) -> Option<f64> {
    let part = percent(item)?;
    if part == 0.0 {
        item.fault("records no traces", "write more than \"0%\", or remove [traces]");
        return None;
    }
    Some(part)
}

fn read_headers(item: &Item<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(table) = item.table() else { return headers };
    for (name, span, item) in table.named_entries("[traces]: headers:") {
        let Ok(known) = HeaderName::from_str(name) else {
            Text::of_key(table.reader(), "[traces]: headers:".to_owned(), span, name)
                .fault("a name is no field name", "write a name such as Authorization");
            continue;
        };
        if REFUSED.contains(&known) {
            item.fault("cannot be set: it belongs to the exporter", "remove it");
            continue;
        }
        let Some(text) = item.filled() else { continue };
        if Credentials::default().tell_callers(&dashed(&known)) && text.showable().is_some() {
            let remedy = "write \"${OTLP_TOKEN}\" in place of the credentials, and set that variable";
            text.fault("must not be in the file", remedy);
            continue;
        }
        match HeaderValue::from_str(text.value.trim()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.insert(known, value);
            }
            Err(_) => text.fault("has a character that cannot be sent in a field", "use visible ASCII characters"),
        }
    }
    headers
}

//! Reads `[traces]`.

use http::header::{self, HeaderName};
use http::{HeaderMap, Uri};

use super::address;
use super::fields::{checked, read_request_fields, section};
use crate::http::headers::Credentials;
use crate::rules::reader::{Item, Table};
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
    let mut table = section(root, "traces")?;
    let endpoint = table
        .required("endpoint", "add endpoint = \"http://127.0.0.1:4318/v1/traces\", or remove the table")
        .and_then(|item| endpoint(&item));
    let sample = table.read("sample", |item| sample(&item));
    let headers = table.item("headers").map(|item| {
        let refused = |name: &HeaderName| {
            REFUSED.contains(name).then_some(("cannot be set: it belongs to the exporter", "remove it"))
        };
        read_request_fields(&item, "[traces]: headers:", refused, (&Credentials::default(), "OTLP_TOKEN")).0
    });
    let service = table.read("service", |item| item.filled()).map(|text| text.value.trim().to_owned());
    table.finish();
    Some(TracesConfig {
        endpoint: endpoint?,
        sample: sample.unwrap_or(1.0),
        headers: headers.unwrap_or_default(),
        service: service.unwrap_or_else(|| "larder".to_owned()),
    })
}

fn endpoint(item: &Item<'_>) -> Option<Uri> {
    let url = checked(item, address::url)?;
    if url.path() == "/" {
        return item
            .refuse("has no path", "write where the collector receives OTLP over HTTP, usually /v1/traces");
    }
    Some(url)
}

fn sample(item: &Item<'_>) -> Option<f64> {
    let part = percent(item)?;
    if part == 0.0 {
        return item.refuse("records no traces", "write more than \"0%\", or remove [traces]");
    }
    Some(part)
}

//! Traces over OTLP (HTTP, protobuf), as `[traces]` says: one span for each request, and spans below it for its lookup, its request to
//! upstream, what it stores and what it invalidates. The context of W3C Trace Context is read from the client's request, and sent to
//! upstream with the span of that request as parent.
//!
//! Nothing waits for the collector: spans queue up to a limit, and a task sends them in batches. Spans that find the queue full, and
//! those that the collector does not take, are lost and counted.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::access_log::{TEXT_MAX, beginning};
use crate::config::traces::TracesConfig;
use crate::metrics::Metrics;
use crate::mutex::lock;

/// Most spans that wait to be sent.
const QUEUE: usize = 4096;
/// Most spans in one message.
const BATCH: usize = 512;
/// How long a span waits for others to be sent with it.
const LINGER: Duration = Duration::from_millis(500);
/// For the collector's answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Longest method in a span, bytes.
const METHOD_MAX: usize = 32;
/// The longest answer that is read, bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Begins the spans of requests, and sends those that have ended.
pub struct Traces {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    propagator: TraceContextPropagator,
    sending: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

impl Traces {
    /// Begins to send what ends. Call it inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The endpoint is `https`, and the system has no certificate authorities; or an `OTEL_…` variable is invalid.
    pub fn start(config: &TracesConfig, metrics: &Arc<Metrics>) -> Result<Traces, TracesFault> {
        let connector = HttpsConnectorBuilder::new().with_native_roots().map_err(TracesFault::Certificates)?;
        let client = Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build());
        let collector = Collector { client, headers: config.headers.clone() };
        let mut exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_endpoint(config.endpoint.to_string())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(WITHIN)
            // Its pauses block a thread of the runtime.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        let resource = Resource::builder()
            .with_service_name(config.service.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        exporter.set_resource(&resource);
        let (queue, queued) = mpsc::channel(QUEUE);
        let processor = SpanQueue { queue: Mutex::new(Some(queue)), metrics: Arc::clone(metrics) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
            .with_span_processor(processor)
            .build();
        let host = config.endpoint.host().unwrap_or_default().to_owned();
        let sending = tokio::spawn(send_all(exporter, queued, Arc::clone(metrics), host));
        Ok(Traces {
            tracer: provider.tracer("larder"),
            provider,
            propagator: TraceContextPropagator::new(),
            sending: Mutex::new(Some(sending)),
        })
    }

    /// Begins the span of a client's request. Its parent is the span in the fields, if there is one.
    pub fn begin(&self, parts: &request::Parts) -> RequestTrace {
        let parent = self.propagator.extract_with_context(&Context::new(), &HeaderExtractor(&parts.headers));
        let span = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
        let span = self.tracer.build_with_context(span, &parent);
        let trace = RequestTrace {
            tracer: self.tracer.clone(),
            context: Context::new().with_span(span),
            method: parts.method.clone(),
        };
        let span = trace.context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new("http.request.method", method_of(&parts.method)));
            // Without the query, which may hold secrets.
            span.set_attribute(KeyValue::new("url.path", beginning(parts.uri.path(), TEXT_MAX).to_owned()));
        }
        trace
    }

    /// Sends what has ended so far, for at most two seconds. Spans that end later are lost.
    pub async fn finish(&self) {
        let sending = lock(&self.sending).take();
        // Closes the queue.
        let _ = self.provider.shutdown();
        if let Some(sending) = sending {
            let _ = timeout(Duration::from_secs(2), sending).await;
        }
    }
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesFault {
    #[error(
        "the certificate authorities of this system cannot be read, to send [traces]: {0}; install ca-certificates"
    )]
    Certificates(std::io::Error),
    #[error("[traces] cannot be sent: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// The trace of one request: the span of the request, and the means to begin others below it.
pub struct RequestTrace {
    tracer: SdkTracer,
    context: Context,
    method: Method,
}

impl fmt::Debug for RequestTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestTrace({:?})", self.context.span().span_context())
    }
}

/// What the span of a request says.
#[derive(Debug)]
pub struct TracedRequest<'r> {
    pub request_id: String,
    pub status: StatusCode,
    pub family: &'r str,
    /// The path of the family, a regular expression; `None` for requests without one.
    pub route: Option<&'r str>,
    pub outcome: &'static str,
    /// Larder's member of `Cache-Status`.
    pub cache_status: String,
    /// Tags that a write invalidated.
    pub invalidated: Option<String>,
}

impl RequestTrace {
    /// Ends the span of the request.
    pub fn end(&self, facts: TracedRequest<'_>) {
        let span = self.context.span();
        if !span.is_recording() {
            return;
        }
        span.update_name(format!("{} {}", method_of(&self.method), facts.family));
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(facts.status.as_u16())));
        span.set_attribute(KeyValue::new("larder.family", facts.family.to_owned()));
        span.set_attribute(KeyValue::new("larder.outcome", facts.outcome));
        span.set_attribute(KeyValue::new(
            "larder.cache_status",
            beginning(&facts.cache_status, TEXT_MAX).to_owned(),
        ));
        span.set_attribute(KeyValue::new("larder.request_id", facts.request_id));
        if let Some(route) = facts.route {
            span.set_attribute(KeyValue::new("http.route", route.to_owned()));
        }
        if let Some(tags) = facts.invalidated {
            span.set_attribute(KeyValue::new("larder.invalidated", tags));
        }
        if facts.status.is_server_error() {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// Begins a span below that of the request.
    pub fn step(&self, name: &'static str) -> Step {
        // In a box: it would make the future of every request larger, and few are traced.
        Step(Box::new(self.tracer.build_with_context(SpanBuilder::from_name(name), &self.context)))
    }

    /// Begins the span of a request to upstream, which becomes the parent of what upstream records (W3C Trace Context).
    pub fn upstream(&self, method: &Method, fields: &mut HeaderMap) -> UpstreamStep {
        let span = SpanBuilder::from_name("upstream")
            .with_kind(SpanKind::Client)
            .with_attributes([KeyValue::new("http.request.method", method_of(method))]);
        let context = Context::new().with_span(self.tracer.build_with_context(span, &self.context));
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(fields));
        if fields.get("tracestate").is_some_and(http::HeaderValue::is_empty) {
            fields.remove("tracestate");
        }
        UpstreamStep(context)
    }
}

/// The method, cut if it is long: what a span holds waits in the queue.
fn method_of(method: &Method) -> String {
    beginning(method.as_str(), METHOD_MAX).to_owned()
}

/// A span below that of a request. Ends when it is dropped.
#[derive(Debug)]
pub struct Step(#[allow(dead_code, reason = "held")] Box<Span>);

/// The span of a request to upstream. Ends when it is dropped.
#[derive(Debug)]
pub struct UpstreamStep(Context);

impl UpstreamStep {
    /// Notes the status of the response, or why there is none.
    pub fn note(&self, answer: Result<StatusCode, &'static str>) {
        let span = self.0.span();
        match answer {
            Ok(status) => {
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
                if status.is_client_error() || status.is_server_error() {
                    span.set_status(Status::error(""));
                }
            }
            Err(reason) => {
                span.set_attribute(KeyValue::new("error.type", reason));
                span.set_status(Status::error(reason));
            }
        }
    }
}

/// Takes the spans that end.
struct SpanQueue {
    /// `None` once nothing more is sent.
    queue: Mutex<Option<mpsc::Sender<SpanData>>>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for SpanQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanQueue")
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let queue = lock(&self.queue);
        if queue.as_ref().is_none_or(|queue| queue.try_send(span).is_err()) {
            self.metrics.spans_were_lost(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        drop(lock(&self.queue).take());
        Ok(())
    }
}

/// Sends spans in batches until the queue is closed.
async fn send_all(
    exporter: OtlpExporter,
    mut queued: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
    host: String,
) {
    let mut was_well = true;
    while let Some(first) = queued.recv().await {
        let (mut batch, deadline) = (vec![first], Instant::now() + LINGER);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match timeout_at(deadline, queued.recv_many(&mut batch, room)).await {
                Ok(count) if count > 0 => {}
                _ => break,
            }
        }
        let count = batch.len() as u64;
        let sent = exporter.export(batch).await;
        match &sent {
            Ok(()) => metrics.spans_were_sent(count),
            Err(_) => metrics.spans_were_lost(count),
        }
        // Each change once.
        match (&sent, was_well) {
            (Err(error), true) => {
                tracing::warn!(host, %error, "traces are lost: the collector does not take them");
            }
            (Ok(()), false) => tracing::info!(host, "the collector takes traces again"),
            _ => {}
        }
        was_well = sent.is_ok();
    }
}

/// Sends messages to the collector.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut request = request.map(Full::new);
        request.headers_mut().extend(self.headers.clone());
        let exchange = async {
            let (parts, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        timeout(WITHIN, exchange).await?
    }
}

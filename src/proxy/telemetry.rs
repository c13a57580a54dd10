//! Sends a request to upstream, and notes it for the access log, the metrics and the trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use http::{HeaderMap, Method, Response, request};

use super::ClientRequest;
use crate::running::Running;
use crate::traces::{RequestTrace, Step};
use crate::upstream::{RequestBody, ResponseBody, UpstreamError, UpstreamPlace};

/// What becomes known of a request on its way, for its line in the access log, and its trace.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    /// One more than the microseconds; 0 if upstream was not asked.
    upstream_micros: AtomicU64,
    pub trace: Option<RequestTrace>,
}

impl Telemetry {
    /// `None` if nothing asks for it.
    pub fn of(running: &Running, parts: &request::Parts, is_logged: bool) -> Option<Arc<Telemetry>> {
        let trace = running.traces.as_ref().map(|traces| traces.begin(parts));
        (is_logged || trace.is_some()).then(|| Arc::new(Telemetry { trace, ..Telemetry::default() }))
    }

    /// From the last request to upstream until the head of its response, or until it failed.
    pub fn upstream_micros(&self) -> Option<u64> {
        self.upstream_micros.load(Relaxed).checked_sub(1)
    }
}

impl ClientRequest {
    /// Begins a span of its trace, if it is traced.
    pub fn step(&self, name: &'static str) -> Option<Step> {
        Some(self.telemetry.as_ref()?.trace.as_ref()?.step(name))
    }

    /// Sends the request with this method, these fields and this content to its target at upstream. Takes a place there, unless it has
    /// one.
    pub async fn send(
        &self,
        running: &Running,
        place: Option<UpstreamPlace>,
        method: &Method,
        mut fields: HeaderMap,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let upstream = &running.upstream;
        let place = match place {
            Some(place) => place,
            None => {
                let client = self.sharer(running);
                upstream.receive_ahead(client, &fields, &mut body).await?;
                upstream.place(client).await?
            }
        };
        let path = self.target.path_and_query();
        let trace = self.telemetry.as_ref().and_then(|telemetry| telemetry.trace.as_ref());
        let step = trace.map(|trace| trace.upstream(method, &mut fields));
        let start = Instant::now();
        let mut answer = upstream.send_from(place, method, &path, fields, body, self.interim.clone()).await;
        let took = start.elapsed();
        if let Ok(answer) = &mut answer {
            answer.body_mut().settle().await;
        }
        running.metrics.upstream_answered(answer.as_ref().err().map(|error| error.token()), took);
        if let Some(step) = step {
            step.note(answer.as_ref().map(Response::status).map_err(|error| error.token()));
        }
        if let Some(telemetry) = &self.telemetry {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            telemetry.upstream_micros.store(micros.saturating_add(1), Relaxed);
        }
        answer
    }
}

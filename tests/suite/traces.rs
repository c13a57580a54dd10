//! Traces: what a collector of OpenTelemetry receives of a hit, a miss and a write, and what upstream is told.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::support::{Larder, Plan, RedisServer, Reply, Upstream, eventually, eventually_some};

const RULES: &str = "\n[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n\
                     \n[invalidate]\n'/users' = [\"users\"]\n";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector: all that it is sent, it takes.
fn collector() -> Upstream {
    let collector = Upstream::start();
    collector.on("POST /v1/traces", Reply::new("").header("Content-Type", "application/x-protobuf"));
    collector
}

fn rules(collector: &Upstream, more: &str) -> String {
    format!("[traces]\nendpoint = \"{}/v1/traces\"\n{more}\n{RULES}", collector.url())
}

fn start(upstream: &Upstream, collector: &Upstream, more: &str) -> Larder {
    Plan::new(&upstream.url()).rules(&rules(collector, more)).start()
}

fn messages(collector: &Upstream) -> Vec<ExportTraceServiceRequest> {
    let sent = collector.requests("POST /v1/traces");
    sent.iter().map(|request| ExportTraceServiceRequest::decode(&request.body[..]).unwrap()).collect()
}

/// All spans so far, by name.
fn spans(collector: &Upstream) -> Vec<Span> {
    let of_resources = messages(collector).into_iter().flat_map(|message| message.resource_spans);
    of_resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// The span with this name, once it has come.
#[track_caller]
fn span(collector: &Upstream, name: &str, nth: usize) -> Span {
    eventually_some(&format!("the collector has the span {name}"), || {
        spans(collector).into_iter().filter(|span| span.name == name).nth(nth)
    })
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = span.attributes.iter().filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?.value?)));
    pairs.map(|(key, value)| (key, text(value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn a_miss_a_hit_and_a_write_are_traced(larder: &Larder, upstream: &Upstream, collector: &Upstream) {
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let call = larder.call("GET", "/users?token=s3cret").header("traceparent", &traceparent);
    call.header("tracestate", "vendor=1").send().hides("hit");
    let miss = span(collector, "GET users", 0);
    assert_eq!((hex(&miss.trace_id), hex(&miss.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    let found = attributes(&miss);
    let expected = [
        ("http.request.method", "GET"),
        ("url.path", "/users"),
        ("http.route", "/users"),
        ("http.response.status_code", "200"),
        ("larder.family", "users"),
        ("larder.outcome", "miss"),
    ];
    for (key, value) in expected {
        assert_eq!(found.get(key).map(String::as_str), Some(value), "{key} in {found:?}");
    }
    for name in ["lookup", "upstream", "store"] {
        let step = span(collector, name, 0);
        assert_eq!((&step.trace_id, &step.parent_span_id), (&miss.trace_id, &miss.span_id), "{name}");
    }
    // Upstream's spans are below Larder's own.
    let asked = upstream.last("GET /users?token=s3cret");
    let of_upstream = hex(&span(collector, "upstream", 0).span_id);
    assert_eq!(asked.header("traceparent"), Some(&*format!("00-{TRACE}-{of_upstream}-01")));
    assert_eq!(asked.header("tracestate"), Some("vendor=1"));
    larder.get("/users?token=s3cret").shows("hit");
    let hit = span(collector, "GET users", 1);
    assert_eq!(attributes(&hit)["larder.outcome"], "hit");
    assert!(hit.parent_span_id.is_empty() && hit.trace_id != miss.trace_id, "{hit:?}");
    let lookup = span(collector, "lookup", 1);
    assert_eq!(lookup.parent_span_id, hit.span_id);
    larder.write("POST", "/users");
    let write = span(collector, "POST none", 0);
    assert!(attributes(&write)["larder.invalidated"].contains("users"), "{write:?}");
    for (name, nth) in [("upstream", 1), ("invalidate", 0)] {
        assert_eq!(span(collector, name, nth).parent_span_id, write.span_id, "{name}");
    }
    assert_eq!(
        spans(collector).iter().filter(|span| span.trace_id == hit.trace_id).count(),
        2,
        "a hit asks nobody"
    );
    assert!(!format!("{:?}", spans(collector)).contains("s3cret"));
    let sent = larder.admin_get("/metrics").text();
    assert!(sent.contains("larder_spans_lost_total 0") && !sent.contains("larder_spans_sent_total 0"), "{sent}");
}

#[test]
fn a_collector_receives_the_spans_of_a_miss_a_hit_and_a_write_with_their_parents() {
    let (upstream, collector) = (Upstream::start(), collector());
    let more = "service = \"shop\"\nheaders = { Authorization = \"Bearer ${OTLP_TOKEN}\", X-Team = \"a%20b\" }";
    let rules = rules(&collector, more);
    let larder = Plan::new(&upstream.url()).rules(&rules).environment("OTLP_TOKEN", "t0ken").start();
    a_miss_a_hit_and_a_write_are_traced(&larder, &upstream, &collector);
    let message = collector.last("POST /v1/traces");
    assert_eq!(message.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(message.header("authorization"), Some("Bearer t0ken"));
    assert_eq!(message.header("x-team"), Some("a%20b"));
    let resource = messages(&collector)[0].resource_spans[0].resource.clone().unwrap();
    assert!(format!("{resource:?}").contains("shop"), "{resource:?}");
}

#[test]
fn a_collector_receives_the_same_spans_with_redis() {
    let (upstream, collector, redis) = (Upstream::start(), collector(), RedisServer::start());
    let larder = Plan::new(&upstream.url()).rules(&rules(&collector, "")).redis(&redis.url()).start();
    a_miss_a_hit_and_a_write_are_traced(&larder, &upstream, &collector);
}

#[test]
fn without_traces_the_trace_context_of_a_client_reaches_upstream_unchanged() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(RULES).start();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    for (method, target) in [("GET", "/users"), ("GET", "/other"), ("POST", "/users")] {
        let call = larder.call(method, target).header("traceparent", &traceparent);
        call.header("tracestate", "vendor=1").send();
        let asked = upstream.last(&format!("{method} {target}"));
        assert_eq!(asked.header("traceparent"), Some(&*traceparent));
        assert_eq!(asked.header("tracestate"), Some("vendor=1"));
    }
    let plain = larder.get("/third");
    assert_eq!((plain.status, upstream.last("/third").header("traceparent")), (200, None));
}

#[test]
fn a_trace_that_its_client_does_not_record_is_passed_on_and_not_sent() {
    let (upstream, collector) = (Upstream::start(), collector());
    let larder = start(&upstream, &collector, "");
    let unrecorded = format!("00-{TRACE}-{PARENT}-00");
    larder.call("GET", "/users").header("traceparent", &unrecorded).send();
    let sent = upstream.last("/users").header("traceparent").unwrap().to_owned();
    assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00") && sent != unrecorded, "{sent}");
    larder.call("GET", "/users").header("traceparent", "no context").send().shows("hit");
    span(&collector, "GET users", 0);
    assert!(spans(&collector).iter().all(|span| hex(&span.trace_id) != TRACE));
}

#[test]
fn a_collector_that_is_away_costs_spans_and_no_request() {
    let (upstream, mut collector) = (Upstream::start(), collector());
    collector.stop();
    let larder = start(&upstream, &collector, "");
    for number in 0..50 {
        assert_eq!(larder.get(&format!("/users?a={number}")).status, 200);
    }
    eventually("lost spans are counted", || {
        let metrics = larder.admin_get("/metrics").text();
        metrics.lines().any(|line| line.starts_with("larder_spans_lost_total ") && !line.ends_with(" 0"))
    });
    eventually("the log says so", || larder.log().contains("traces are lost"));
    collector.resume();
    eventually("the collector receives spans again", || {
        larder.get("/users");
        !spans(&collector).is_empty()
    });
}

#[test]
fn what_has_ended_is_sent_before_larder_ends() {
    let (upstream, collector) = (Upstream::start(), collector());
    let mut larder = start(&upstream, &collector, "");
    larder.get("/users");
    larder.terminate();
    assert_eq!(larder.wait(), Some(0));
    assert!(spans(&collector).iter().any(|span| span.name == "GET users"));
}

#[test]
fn traces_that_cannot_be_sent_or_recorded_are_refused() {
    for (table, message) in [
        ("sample = \"10%\"", "endpoint"),
        ("endpoint = \"http://127.0.0.1:4318\"", "has no path"),
        ("endpoint = \"ftp://a/b\"", "endpoint"),
        ("endpoint = \"http://a/v1/traces\"\nsample = \"0%\"", "records no traces"),
        ("endpoint = \"http://a/v1/traces\"\nsample = 0.5", "%"),
        (
            "endpoint = \"http://a/v1/traces\"\nheaders = { Authorization = \"Bearer x\" }",
            "must not be in the file",
        ),
        ("endpoint = \"http://a/v1/traces\"\nheaders = { Content-Type = \"x\" }", "belongs to the exporter"),
    ] {
        let exit = Plan::new("http://127.0.0.1:9").rules(&format!("[traces]\n{table}\n")).fail();
        assert!(exit.code == Some(2) && exit.stderr.contains(message), "{table}: {}", exit.stderr);
    }
}

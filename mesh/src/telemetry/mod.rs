//! What a process tells about itself: logs that read alone, spans for a collector, metrics to be read.
//!
//! The trace that work belongs to goes along with calls and events whether somebody collects spans or not
//! (`trace`); spans are made only where somebody does. Nothing in here carries what a customer or a secret is: names
//! of methods, policies, events and contexts, codes and counts.

mod export;
mod metrics;
mod readings;
mod trace;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use proto::mesh::v1 as api;
use tonic::Code;
use tracing::field::Empty;
use tracing::{Metadata, Span};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::contract::Rule;
use crate::error::Error;

pub use export::Exporter;
pub(crate) use metrics::{Metrics, method};
pub(crate) use trace::{Trace, along, within};

/// The target of the spans that are collected. All are of level DEBUG: who does not ask for them does not pay either.
pub const TARGET: &str = "trace";

/// Begins to log, to standard error. `filter` as `RUST_LOG` has it: `info`, `mesh=debug,info`.
///
/// Errors when the filter cannot be read. Called again it changes nothing.
pub fn start(filter: &str) -> Result<(), String> {
    start_and_export(filter, None).map(drop)
}

/// As [`start`], and sends spans in batches to the `collector`, which speaks OTLP over gRPC: `http://localhost:4317`.
/// Called within a runtime.
pub fn start_and_export(filter: &str, collector: Option<&str>) -> Result<Exporter, String> {
    // What OpenTelemetry has to say of itself is of use only where it goes wrong.
    let filter = EnvFilter::try_new(format!("opentelemetry=warn,opentelemetry_sdk=warn,{filter}"))
        .map_err(|error| format!("the log filter {filter}: {error}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .compact()
        .with_filter(filter);
    let exporter = Exporter { provider: collector.map(export::provider).transpose()? };
    let spans = exporter.provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("turnstile"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            // No events: logs have words that a collector is not for.
            .with_filter(filter_fn(is_of_a_trace).with_max_level_hint(LevelFilter::DEBUG))
    });
    if tracing_subscriber::registry().with(lines).with(spans).try_init().is_ok() {
        metrics::count_panics();
    }
    Ok(exporter)
}

fn is_of_a_trace(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

/// Who speaks.
fn resource() -> Resource {
    Resource::builder()
        .with_service_name("turnstile")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The span of a call that is served: part of the trace that its caller names.
fn call_span(rule: &Rule, caller: Option<Trace>) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "call",
        otel.name = rule.method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = rule.method,
        rpc.response.status_code = Empty,
    );
    part_of(span, caller)
}

/// The span of one attempt at a call of another context.
pub(crate) fn attempt_span(rule: &Rule) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "attempt",
        otel.name = rule.method,
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = rule.method,
        rpc.response.status_code = Empty,
    );
    part_of(span, Trace::current())
}

/// The span of a policy that acts on an event, and the place of what it does: in the trace that caused the event.
pub(crate) fn policy_span(policy: &str, event: &api::Event) -> (Span, Option<Trace>) {
    let span = tracing::debug_span!(
        target: TARGET,
        "policy",
        otel.name = policy,
        otel.kind = "consumer",
        otel.status_code = Empty,
        cloudevents.event_id = event.event_id,
        cloudevents.event_source = event.source,
        cloudevents.event_type = event.r#type,
    );
    let cause = Trace::read(&event.traceparent);
    let span = part_of(span, cause);
    let place = Trace::of_span(&span).or(cause);
    (span, place)
}

fn part_of(span: Span, parent: Option<Trace>) -> Span {
    if let Some(parent) = parent {
        parent.adopt(&span);
    }
    span
}

/// How a call ended, seen from where it was served: a refusal is no fault of the server's.
fn end_call(span: &Span, code: Code) {
    let at_fault = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    end(span, code, at_fault);
}

/// How an attempt ended, seen from where it was sent; without an answer, as if the callee had said `UNAVAILABLE`.
pub(crate) fn end_attempt(span: &Span, code: Option<Code>) {
    let code = code.unwrap_or(Code::Unavailable);
    end(span, code, code != Code::Ok);
}

fn end(span: &Span, code: Code, failed: bool) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.response.status_code", metrics::CODES[code as usize]);
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}

/// How a reaction to an event ended. What went wrong stands in the log.
pub(crate) fn end_policy<T>(span: &Span, outcome: &Result<T, Error>) {
    if outcome.is_err() {
        span.record("otel.status_code", "ERROR");
    }
}

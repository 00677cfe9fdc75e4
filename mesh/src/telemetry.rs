//! Logs that read alone, and the trace context that goes along with calls and events.

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::cause::Cause;
use crate::contract::Rule;

/// Begins to log, to standard error. `filter` as `RUST_LOG` has it: `info`, `mesh=debug,info`.
///
/// Errors when the filter cannot be read. Called again it changes nothing.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .compact()
        .with_filter(filter);
    // Spans get ids of traces even where nobody collects them: they go along with calls and events.
    let provider = SdkTracerProvider::builder().build();
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("turnstile"))
        .with_filter(tracing_subscriber::filter::LevelFilter::INFO);
    let _ = tracing_subscriber::registry().with(lines).with(traces).try_init();
    Ok(())
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The span of a call that is served: part of the trace that its caller names.
pub(crate) fn call_span(rule: &Rule, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!("call", rpc = %rule.method);
    if headers.contains_key("traceparent") {
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    }
    span
}

/// The span of a policy that acts on an event: part of the trace that caused the event.
pub(crate) fn policy_span(policy: &str, cause: &Cause) -> Span {
    let span = tracing::info_span!("policy", policy, event = %cause.id);
    if !cause.traceparent.is_empty() {
        let mut headers = HeaderMap::new();
        if let Ok(traceparent) = cause.traceparent.parse() {
            headers.insert("traceparent", traceparent);
            let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(&headers)));
        }
    }
    span
}

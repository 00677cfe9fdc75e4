//! Why something is written: the thread that runs through calls and events.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Why something is written: named by every event that comes of it.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    /// The event or the request that caused it.
    pub(crate) id: String,
    /// W3C trace context of the work it belongs to.
    pub(crate) traceparent: String,
}

impl Cause {
    /// This cause, in the trace of the current span.
    pub fn current(id: &str) -> Self {
        let mut carrier = HashMap::new();
        TraceContextPropagator::new()
            .inject_context(&tracing::Span::current().context(), &mut carrier);
        Self { id: id.to_owned(), traceparent: carrier.remove("traceparent").unwrap_or_default() }
    }
}

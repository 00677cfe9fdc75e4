//! Why something is written: the thread that runs through calls and events.

use opentelemetry::trace::TraceContextExt as _;
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
        Self { id: id.to_owned(), traceparent: traceparent().unwrap_or_default() }
    }
}

/// The W3C trace context of the current span, where there is one. Written by hand, since every call and every
/// transaction asks for it: a propagator goes through a map.
fn traceparent() -> Option<String> {
    let context = tracing::Span::current().context();
    let span = context.span().span_context().clone();
    let flags = span.trace_flags().to_u8();
    span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
}

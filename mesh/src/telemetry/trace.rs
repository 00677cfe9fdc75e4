//! The trace that work belongs to, in the words of W3C trace context: it goes along with calls and events.

use std::fmt;
use std::future::Future;

use http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use rand::Rng as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that names it.
const HEADER: &str = "traceparent";
/// As long as it is in the version that we know; later ones may add something.
const LENGTH: usize = 55;

/// A place in a trace: the trace, and the span that what comes now is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    id: u128,
    span: u64,
    flags: u8,
}

tokio::task_local! {
    static TRACE: Trace;
}

impl Trace {
    /// Begins one: for a call that comes without.
    pub(super) fn begin() -> Self {
        let (id, span): (u128, u64) = crate::rng().random();
        Self { id: id.max(1), span: span.max(1), flags: TraceFlags::SAMPLED.to_u8() }
    }

    /// That of the work that runs now.
    pub(crate) fn current() -> Option<Self> {
        TRACE.try_with(|trace| *trace).ok()
    }

    /// Reads a `traceparent`; what is not one counts as none.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let mut parts = known.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            part.bytes().all(lower).then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let (version, id, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let complete = text.len() == LENGTH || (version > 0 && text.as_bytes()[LENGTH] == b'-');
        let trace = Self { id, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()? };
        (version < 0xff && complete && trace.id > 0 && trace.span > 0).then_some(trace)
    }

    /// That which a call says it belongs to.
    pub(super) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        Self::read(headers.get(HEADER)?.to_str().ok()?)
    }

    /// The place of a span that is collected.
    pub(crate) fn of_span(span: &Span) -> Option<Self> {
        if span.is_disabled() {
            return None;
        }
        let context = span.context();
        let place = context.span().span_context().clone();
        place.is_valid().then(|| Self {
            id: u128::from_be_bytes(place.trace_id().to_bytes()),
            span: u64::from_be_bytes(place.span_id().to_bytes()),
            flags: place.trace_flags().to_u8(),
        })
    }

    /// Makes a span that has just been made a part of this.
    pub(super) fn adopt(self, span: &Span) {
        if span.is_disabled() {
            return;
        }
        let place = SpanContext::new(
            TraceId::from_bytes(self.id.to_be_bytes()),
            SpanId::from_bytes(self.span.to_be_bytes()),
            TraceFlags::new(self.flags),
            true,
            TraceState::NONE,
        );
        // Where nobody collects there is nobody to tell.
        let _ = span.set_parent(Context::new().with_remote_span_context(place));
    }

    /// Says in a call that it belongs to this.
    pub(crate) fn put(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(HEADER, value);
        }
    }

    /// Runs `work` as a part of this.
    pub(crate) fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        TRACE.scope(self, work)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.span, self.flags)
    }
}

/// Runs `work` as a part of a trace, if there is one.
pub(crate) async fn within<F: Future>(trace: Option<Trace>, work: F) -> F::Output {
    match trace {
        Some(trace) => trace.around(work).await,
        None => work.await,
    }
}

/// Takes the trace of the work that runs now along into a task of its own.
pub(crate) fn along<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(Trace::current(), work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g1_a_traceparent_reads_back() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(Trace::read(text).unwrap().to_string(), text);
        let begun = Trace::begin();
        assert_eq!(Trace::read(&begun.to_string()), Some(begun));
        let later = text.replacen("00", "cc", 1) + "-what-will-be";
        assert_eq!(Trace::read(&later), Trace::read(text), "a later version may say more");
    }

    #[test]
    fn g1_what_is_not_a_traceparent_counts_as_none() {
        for text in [
            "",
            "rubbish",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Trace::read(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_task_of_its_own_stays_in_the_trace() {
        let trace = Trace::begin();
        let work = async { tokio::spawn(along(async { Trace::current() })).await.unwrap() };
        assert_eq!(trace.around(work).await, Some(trace));
        assert_eq!(Trace::current(), None);
    }
}

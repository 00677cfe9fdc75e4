//! Why something is written: the thread that runs through calls and events.

use crate::telemetry::Trace;

/// Why something is written: named by every event that comes of it.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    /// The event or the request that caused it.
    pub(crate) id: String,
    /// The trace of the work it belongs to.
    pub(crate) trace: Option<Trace>,
}

impl Cause {
    /// This cause, in the trace of the work that runs now.
    pub fn current(id: &str) -> Self {
        Self { id: id.to_owned(), trace: Trace::current() }
    }

    /// The trace, as events name it; empty where there is none.
    pub(crate) fn traceparent(&self) -> String {
        self.trace.map(|trace| trace.to_string()).unwrap_or_default()
    }
}

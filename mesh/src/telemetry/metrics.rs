//! What is counted, and the page that it is read from.
//!
//! A call is counted in a record of its method, made once: counting looks up no name and allocates nothing. What is
//! counted elsewhere, or needs a store, is read when the page is asked for ([`super::readings`]).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundHistogram, Counter, Histogram, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder as _, TextEncoder};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};

use super::readings::{self, Readings};
use super::{Trace, call_span, end_call, resource};
use crate::contract::{Contract, Rule};
use crate::error::{Error, Result, reason_of};
use crate::registry::Registry;

/// The names of gRPC's codes, by number.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Upper bounds in seconds: a flush takes a tenth of a millisecond, a slow payment more than half a second.
const BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts every panic of this process from now on, whoever catches it.
pub(super) fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            told(panic);
        }));
    });
}

pub(super) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// The metrics of a process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    /// By the number of the method's rule.
    calls: Vec<Calls>,
    durations: Histogram<f64>,
    refusals: Counter<u64>,
    readings: Arc<Mutex<Readings>>,
    page: prometheus::Registry,
    /// Lives as long as what it counts.
    _provider: SdkMeterProvider,
}

/// What is counted of one method.
#[derive(Default)]
struct Calls {
    under_way: AtomicI64,
    begun: AtomicBool,
    /// By code; made when a call ends with it for the first time.
    durations: [OnceLock<BoundHistogram<f64>>; CODES.len()],
}

impl Metrics {
    pub(crate) fn new(contract: &Contract) -> Result<Self> {
        let page = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(page.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(Error::internal)?;
        let provider =
            SdkMeterProvider::builder().with_reader(exporter).with_resource(resource()).build();
        let meter = provider.meter("mesh");
        let durations = meter
            .f64_histogram("rpc.server.call.duration")
            .with_unit("s")
            .with_description("How long calls took that were served, by method and code")
            .with_boundaries(BOUNDS.to_vec())
            .build();
        let refusals = meter
            .u64_counter("mesh.refusals")
            .with_description("Calls that were not answered with OK, by the reason given")
            .build();
        let readings = Arc::default();
        readings::register(&meter, &readings);
        let calls = contract.rules().map(|_| Calls::default()).collect();
        let inner = Inner { calls, durations, refusals, readings, page, _provider: provider };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A call begins. What it returns is told how it ends.
    pub(crate) fn begin(&self, rule: &Arc<Rule>, headers: &HeaderMap) -> Tracked {
        let caller = Trace::of_headers(headers);
        let span = call_span(rule, caller);
        let trace = Trace::of_span(&span).or(caller).unwrap_or_else(Trace::begin);
        let calls = &self.inner.calls[rule.number];
        calls.under_way.fetch_add(1, Ordering::Relaxed);
        calls.begun.store(true, Ordering::Relaxed);
        Tracked {
            metrics: self.clone(),
            rule: rule.clone(),
            begun: Instant::now(),
            span,
            trace,
            ended: false,
        }
    }

    /// How many calls of a method are under way, if there ever was one.
    pub(super) fn under_way(&self, rule: &Rule) -> Option<i64> {
        let calls = &self.inner.calls[rule.number];
        let begun = calls.begun.load(Ordering::Relaxed);
        begun.then(|| calls.under_way.load(Ordering::Relaxed))
    }

    /// The page, in the text format of Prometheus.
    pub(crate) async fn page(&self, registry: &Registry) -> Result<String> {
        let read = readings::read(registry, self).await;
        *self.inner.readings.lock().unwrap_or_else(PoisonError::into_inner) = read;
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.inner.page.gather(), &mut page).map_err(Error::internal)?;
        String::from_utf8(page).map_err(Error::internal)
    }
}

tokio::task_local! {
    static SERVED: Arc<Rule>;
}

/// The method that is being served, for lines of the log that must read alone.
pub(crate) fn method() -> Option<String> {
    SERVED.try_with(|rule| rule.method.clone()).ok()
}

/// A call that is served. Dropped before it has ended, it counts as cancelled.
pub(crate) struct Tracked {
    metrics: Metrics,
    rule: Arc<Rule>,
    begun: Instant,
    span: Span,
    trace: Trace,
    ended: bool,
}

impl Tracked {
    /// Runs `work` as this call's: in its span, in its trace.
    pub(crate) fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let work = work.instrument(self.span.clone());
        self.trace.around(SERVED.scope(self.rule.clone(), work))
    }

    /// This is the answer. A stream goes on until its last message.
    pub(crate) fn answer(mut self, answer: http::Response<Body>) -> http::Response<Body> {
        match code_of(answer.headers()) {
            Some(code) => self.end(code, answer.headers()),
            // What is not refused at once is answered: the status comes behind it.
            None if self.rule.streams => {
                return answer.map(|body| Body::new(Streamed { body, call: Some(self) }));
            }
            None => self.end(Code::Ok, answer.headers()),
        }
        answer
    }

    fn end(&mut self, code: Code, status: &HeaderMap) {
        self.ended = true;
        let Inner { calls, durations, refusals, .. } = &*self.metrics.inner;
        let calls = &calls[self.rule.number];
        calls.under_way.fetch_sub(1, Ordering::Relaxed);
        let durations = calls.durations[code as usize].get_or_init(|| {
            durations.bind(&[
                KeyValue::new("rpc.method", self.rule.method.clone()),
                KeyValue::new("rpc.response.status_code", CODES[code as usize]),
            ])
        });
        durations.record(self.begun.elapsed().as_secs_f64());
        if let Some(reason) = reason_in(code, status) {
            let context = KeyValue::new("context", self.rule.context.clone());
            refusals.add(1, &[context, KeyValue::new("reason", reason)]);
        }
        end_call(&self.span, code);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled, &HeaderMap::new());
        }
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// Why a call was refused. Reasons stand in the contracts: there are only so many.
fn reason_in(code: Code, status: &HeaderMap) -> Option<String> {
    if code == Code::Ok {
        return None;
    }
    Status::from_header_map(status).and_then(|status| reason_of(&status))
}

/// The body of a stream: the call ends with it.
struct Streamed {
    body: Body,
    call: Option<Tracked>,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(mut call) = self.call.take()
        {
            call.end(code_of(trailers).unwrap_or(Code::Unknown), trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! A channel to another context: local or remote, behind one type, with everything that keeps a callee's trouble from
//! becoming the caller's.
//!
//! A [`Channel`] goes where a generated client wants its transport. Unary calls pass through the stack in
//! [`Edge::stack`]; streams go straight to the transport, since who reads them resumes by itself.

mod breaker;
mod bulkhead;
mod deadline;
mod fallback;
mod retry;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt as _};
use tracing::Instrument as _;

pub use breaker::{Breaker, BreakerLayer, BreakerSettings, BreakerState, Permit, Transitions};
pub use bulkhead::{Bulkhead, BulkheadLayer};
pub use deadline::{Deadline, DeadlineLayer};
pub use fallback::{busy_reason, fallback};
pub use retry::{Retry, RetryLayer};
pub(crate) use transport::Transport;

use crate::contract::{Contract, Rule};
use crate::error::{Error, Result, reason_of};
use crate::scope::{self, Scope};
use crate::telemetry::{self, Trace};

/// What the caller keeps of its remaining time, to answer with when the callee does not.
const RESERVE: Duration = Duration::from_millis(10);

/// A unary call on its way: cheap to clone, so that it can be sent again.
#[derive(Debug, Clone)]
pub struct Call {
    /// What the contract says of the method.
    pub rule: Arc<Rule>,
    /// When it ends, answered or not.
    pub deadline: Instant,
    headers: HeaderMap,
    body: Bytes,
}

/// What came back: any gRPC status is an answer.
#[derive(Debug)]
pub struct Reply {
    /// The status, wherever it was sent: in the headers or in the trailers.
    pub code: Code,
    parts: http::response::Parts,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The callee's breaker is open. Not sent.
    #[error("the circuit breaker is open")]
    BreakerOpen {
        /// How long it will stay open.
        retry_after: Duration,
    },
    /// Too many calls are under way. Not sent.
    #[error("the bulkhead is full")]
    BulkheadFull,
    /// There was nobody to send it to. Not sent.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The time is over. It may have been carried out.
    #[error("the deadline has passed")]
    Expired,
    /// The callee, or what it needs, is not available. It may have been carried out.
    #[error("not available: {0}")]
    Unavailable(String),
    /// The connection broke. It may have been carried out.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Failure {
    /// Whether the callee surely knows nothing of the call (rule G-11).
    pub fn is_certainly_not_sent(&self) -> bool {
        match self {
            Self::BreakerOpen { .. } | Self::BulkheadFull | Self::NotSent(_) => true,
            Self::Expired | Self::Unavailable(_) | Self::Broken(_) => false,
        }
    }
}

/// Whether the callee surely knows nothing of a call that ended with this status.
pub fn is_certainly_not_sent(status: &Status) -> bool {
    let source =
        std::error::Error::source(status).and_then(|source| source.downcast_ref::<NotServed>());
    source.is_some_and(|not_served| not_served.failure.is_certainly_not_sent())
}

/// The fallback with the failure behind it, on its way through a generated client.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct NotServed {
    failure: Failure,
    #[source]
    status: Status,
}

impl Reply {
    async fn collect(response: http::Response<Body>) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Failure::Broken(error.to_string()))?;
        let trailers = body.trailers().cloned();
        let status = Status::from_header_map(&parts.headers)
            .or_else(|| trailers.as_ref().and_then(Status::from_header_map));
        let code = status.map_or(Code::Unknown, |status| status.code());
        Ok(Self { code, parts, data: body.to_bytes(), trailers })
    }

    fn status(&self) -> Option<Status> {
        Status::from_header_map(&self.parts.headers)
            .or_else(|| self.trailers.as_ref().and_then(Status::from_header_map))
    }

    /// Whether the callee answered with a fallback of its own: what it needs is busy, and asking again adds to it.
    fn is_fallback(&self) -> bool {
        self.status()
            .and_then(|status| reason_of(&status))
            .is_some_and(|reason| reason.ends_with("_BUSY"))
    }

    /// `grpc-retry-pushback-ms` (gRFC A6): a server that does not want to hear it again says so.
    fn asks_not_to_be_retried(&self) -> bool {
        let pushback = |headers: &HeaderMap| headers.contains_key("grpc-retry-pushback-ms");
        pushback(&self.parts.headers) || self.trailers.as_ref().is_some_and(pushback)
    }

    fn into_response(self) -> http::Response<Body> {
        let body = http_body_util::Full::new(self.data)
            .map_err(|never: std::convert::Infallible| match never {});
        let body = match self.trailers {
            Some(trailers) => Body::new(body.with_trailers(std::future::ready(Some(Ok(trailers))))),
            None => Body::new(body),
        };
        http::Response::from_parts(self.parts, body)
    }
}

/// How one context calls another (rule G-9).
#[derive(Debug, Clone, Copy)]
pub struct EdgeSettings {
    /// How long a call may take, every attempt included; never longer than its contract allows.
    pub timeout: Duration,
    /// How many calls may be under way at once.
    pub bulkhead: usize,
    /// When calls are refused at once.
    pub breaker: BreakerSettings,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(610),
            bulkhead: 100,
            breaker: BreakerSettings::default(),
        }
    }
}

/// What an edge did so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) fallbacks: AtomicU64,
    pub(crate) bulkhead: AtomicU64,
    pub(crate) retries: Arc<AtomicU64>,
}

/// One caller, one callee, one purpose: what shares a breaker and a bulkhead.
pub(crate) struct Edge {
    pub(crate) name: String,
    pub(crate) breaker: Breaker,
    pub(crate) counters: Arc<Counters>,
    caller: String,
    callee: String,
    timeout: Duration,
    transport: Transport,
    stack: BoxCloneSyncService<Call, Reply, Failure>,
}

impl Edge {
    pub(crate) fn new(
        caller: &str,
        callee: &str,
        purpose: &str,
        settings: EdgeSettings,
        transport: Transport,
    ) -> Self {
        let breaker = Breaker::new(settings.breaker);
        let counters = Arc::new(Counters::default());
        let stack = Self::stack(settings, breaker.clone(), counters.clone(), transport.clone());
        let slash = if purpose.is_empty() { "" } else { "/" };
        Self {
            name: format!("{caller}->{callee}{slash}{purpose}"),
            breaker,
            counters,
            caller: caller.to_owned(),
            callee: callee.to_owned(),
            timeout: settings.timeout,
            transport,
            stack,
        }
    }

    /// What a unary call passes through, from the outside in.
    fn stack(
        settings: EdgeSettings,
        breaker: Breaker,
        counters: Arc<Counters>,
        transport: Transport,
    ) -> BoxCloneSyncService<Call, Reply, Failure> {
        let retries = counters.retries.clone();
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                // The whole step ends in time, retries included.
                .layer(DeadlineLayer)
                // A callee that hangs holds only so many of us.
                .layer(BulkheadLayer::new(settings.bulkhead))
                // What may pass by itself is tried again, within the budget.
                .layer(RetryLayer::new(retries))
                // A callee that fails is left alone for a while; every attempt counts.
                .layer(BreakerLayer(breaker))
                .service(Attempt { transport, counters }),
        )
    }

    async fn unary(&self, rule: Arc<Rule>, request: http::Request<Body>) -> Result<Reply, Failure> {
        let (parts, body) = request.into_parts();
        let body =
            body.collect().await.map_err(|error| Failure::NotSent(error.to_string()))?.to_bytes();
        let most = rule.deadline.map_or(self.timeout, |most| most.min(self.timeout));
        let left = scope::time_left().map_or(most, |left| left.saturating_sub(RESERVE).min(most));
        let call = Call { rule, deadline: Instant::now() + left, headers: parts.headers, body };
        let reply = self.stack.clone().oneshot(call).await?;
        // Who calls us knows nothing of what our callee needs: whatever is down there, our callee is busy.
        if reply.code == Code::Unavailable && !reply.is_fallback() {
            let message = reply.status().map(|status| status.message().to_owned());
            return Err(Failure::Unavailable(message.unwrap_or_default()));
        }
        Ok(reply)
    }

    /// What the caller of this edge tells its own caller when there is no answer (rule G-12).
    fn not_served(&self, failure: Failure) -> NotServed {
        self.counters.fallbacks.fetch_add(1, Ordering::Relaxed);
        if matches!(failure, Failure::BulkheadFull) {
            self.counters.bulkhead.fetch_add(1, Ordering::Relaxed);
        }
        let wait = match &failure {
            Failure::BreakerOpen { retry_after } => Some(*retry_after),
            _ => self.breaker.open_for(),
        };
        tracing::debug!(edge = %self.name, %failure, "a call is answered with the fallback");
        NotServed { failure, status: fallback(&self.caller, &self.callee, wait).into() }
    }
}

/// The innermost service of an edge: one attempt.
#[derive(Clone)]
struct Attempt {
    transport: Transport,
    counters: Arc<Counters>,
}

impl Service<Call> for Attempt {
    type Response = Reply;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Reply, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let Self { transport, counters } = self.clone();
        Box::pin(async move {
            let counted = Counted { counters, deadline: call.deadline, told: false };
            let span = telemetry::attempt_span(&call.rule);
            let outcome = async {
                let mut request = http::Request::new(Body::new(
                    http_body_util::Full::new(call.body)
                        .map_err(|never: std::convert::Infallible| match never {}),
                ));
                *request.headers_mut() = call.headers;
                if let Some(trace) = Trace::of_span(&span) {
                    trace.put(request.headers_mut());
                }
                let left =
                    call.deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
                if let Ok(timeout) = format!("{left}m").parse() {
                    request.headers_mut().insert("grpc-timeout", timeout);
                }
                Reply::collect(transport.send(&call.rule, request).await?).await
            }
            .instrument(span.clone())
            .await;
            telemetry::end_attempt(&span, outcome.as_ref().ok().map(|reply| reply.code));
            let failed = !matches!(&outcome, Ok(reply) if !matches!(reply.code, Code::Unavailable | Code::DeadlineExceeded));
            counted.tell(!matches!(outcome, Err(Failure::NotSent(_))), failed);
            outcome
        })
    }
}

/// Counts an attempt, also one that is cut off because its time is over.
struct Counted {
    counters: Arc<Counters>,
    deadline: Instant,
    told: bool,
}

impl Counted {
    fn tell(mut self, sent: bool, failed: bool) {
        self.told = true;
        self.count(sent, failed);
    }

    fn count(&self, sent: bool, failed: bool) {
        self.counters.sent.fetch_add(u64::from(sent), Ordering::Relaxed);
        self.counters.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.told {
            self.count(true, Instant::now() >= self.deadline);
        }
    }
}

/// A channel to another context, for generated clients. Cheap to clone; clones share breaker and bulkhead.
#[derive(Clone)]
pub struct Channel {
    edge: Arc<Edge>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.edge.name).finish()
    }
}

impl Channel {
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }

    /// The answer to give when this callee does not answer.
    pub fn fallback(&self) -> Error {
        fallback(&self.edge.caller, &self.edge.callee, self.edge.breaker.open_for())
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = NotServed;
    type Future = BoxFuture<'static, Result<http::Response<Body>, NotServed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotServed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let edge = self.edge.clone();
        Box::pin(async move {
            let rule =
                Contract::ours().ok().and_then(|contract| contract.rule(request.uri().path()));
            let Some(rule) = rule.cloned() else {
                let failure =
                    Failure::NotSent(format!("{} is not in the contracts", request.uri().path()));
                return Err(edge.not_served(failure));
            };
            carry(request.headers_mut());
            let outcome = if rule.streams {
                edge.transport.send(&rule, request).await
            } else {
                edge.unary(rule, request).await.map(Reply::into_response)
            };
            outcome.map_err(|failure| edge.not_served(failure))
        })
    }
}

/// What every call carries: the trace it belongs to, and the customer's own token.
fn carry(headers: &mut HeaderMap) {
    if let Some(trace) = Trace::current() {
        trace.put(headers);
    }
    if let Some(bearer) = Scope::current().bearer
        && let Ok(bearer) = http::HeaderValue::from_str(&bearer)
    {
        headers.insert(http::header::AUTHORIZATION, bearer);
    }
}

#[cfg(test)]
impl Call {
    fn sample() -> Self {
        let rule = Contract::ours()
            .unwrap()
            .rule("/turnstile.payment.v1.PaymentService/Pay")
            .unwrap()
            .clone();
        let deadline = Instant::now() + Duration::from_millis(610);
        Self { rule, deadline, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

#[cfg(test)]
impl Reply {
    fn of(status: Status) -> Self {
        let code = status.code();
        let (parts, ()) = status.into_http::<()>().into_parts();
        Self { code, parts, data: Bytes::new(), trailers: None }
    }

    fn sample(code: Code) -> Self {
        Self::of(Status::new(code, ""))
    }

    fn sample_fallback() -> Self {
        Self::of(fallback("homemovie.app", "payment", None).into())
    }
}

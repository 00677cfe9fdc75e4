//! An edge: one context's way to another, for one purpose, and the stack that its unary calls pass through.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceBuilder, ServiceExt as _};
use tracing::Instrument as _;

use super::bulkhead::{Bulkhead, BulkheadLayer};
use super::deadline::{Deadline, DeadlineLayer};
use super::guard::{BreakerLayer, Guarded};
use super::retry::{Retry, RetryLayer};
use super::{BreakerSettings, Breakers, Call, Failure, RETRY_OWNER, Reply, Transport, fallback};
use crate::contract::{Contract, Rule};
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::telemetry::{self, Trace};

/// What the caller keeps of its remaining time, to answer with when the callee does not.
const RESERVE: Duration = Duration::from_millis(10);

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

/// What a unary call passes through, from the outside in.
type Stack = Deadline<Bulkhead<Retry<Guarded<Attempt>>>>;

/// One caller, one callee, one purpose: what shares breakers and a bulkhead.
pub(crate) struct Edge {
    pub(crate) name: String,
    pub(crate) breaker: Breakers,
    pub(crate) counters: Arc<Counters>,
    caller: String,
    callee: String,
    timeout: Duration,
    /// The caller, as the owner of its calls' retries.
    owner: Option<HeaderValue>,
    transport: Arc<Transport>,
    stack: Stack,
}

impl Edge {
    pub(crate) fn new(
        caller: &str,
        callee: &str,
        purpose: &str,
        settings: EdgeSettings,
        transport: Transport,
    ) -> Self {
        let slash = if purpose.is_empty() { "" } else { "/" };
        let name = format!("{caller}->{callee}{slash}{purpose}");
        let breaker = Breakers::logged(settings.breaker, &name);
        let (counters, transport) = (Arc::new(Counters::default()), Arc::new(transport));
        let attempt = Attempt { transport: transport.clone(), counters: counters.clone() };
        Self {
            stack: Self::stack(settings, breaker.clone(), attempt),
            name,
            breaker,
            counters,
            caller: caller.to_owned(),
            callee: callee.to_owned(),
            timeout: settings.timeout,
            owner: HeaderValue::from_str(caller).ok(),
            transport,
        }
    }

    fn stack(settings: EdgeSettings, breakers: Breakers, attempt: Attempt) -> Stack {
        let retries = attempt.counters.retries.clone();
        ServiceBuilder::new()
            // The whole step ends in time, retries included.
            .layer(DeadlineLayer)
            // A callee that hangs holds only so many of us.
            .layer(BulkheadLayer::new(settings.bulkhead))
            // What may pass by itself is tried again, within the budget.
            .layer(RetryLayer::new(retries))
            // A callee that fails is left alone for a while; every attempt counts.
            .layer(BreakerLayer(breakers))
            .service(attempt)
    }

    async fn unary(&self, rule: Arc<Rule>, request: http::Request<Body>) -> Result<Reply, Failure> {
        let (parts, body) = request.into_parts();
        let body =
            body.collect().await.map_err(|error| Failure::NotSent(error.to_string()))?.to_bytes();
        let most = rule.deadline.map_or(self.timeout, |most| most.min(self.timeout));
        let now = Instant::now();
        let mut call = Call {
            deadline: now + most,
            is_retried_above: false,
            uri: parts.uri,
            headers: parts.headers,
            body,
            tried: self.transport.tried(),
            rule,
        };
        let mut owner = self.owner.clone().filter(|_| call.rule.repeatable);
        Scope::look(|scope| {
            if let Some(deadline) = scope.deadline {
                call.deadline = call.deadline.min(deadline.checked_sub(RESERVE).unwrap_or(now));
            }
            call.is_retried_above = scope.retry_owner.is_some();
            owner = scope.retry_owner.clone().or_else(|| owner.take());
        });
        if call.deadline <= now {
            return Err(Failure::NotSent("there is no time left for it".to_owned()));
        }
        if let Some(owner) = owner {
            call.headers.insert(RETRY_OWNER, owner);
        }
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
    transport: Arc<Transport>,
    counters: Arc<Counters>,
}

impl Service<Call> for Attempt {
    type Response = Reply;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Reply, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let Self { transport, counters } = self.clone();
        Box::pin(async move {
            let counted = Counted { counters, deadline: call.deadline, told: false };
            let span = telemetry::attempt_span(&call.rule);
            if let Some(trace) = Trace::of_span(&span) {
                trace.put(&mut call.headers);
            }
            let outcome = transport.unary(call).instrument(span.clone()).await;
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

/// A channel to another context, for generated clients. Cheap to clone; clones share breakers and bulkhead.
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
                edge.transport.open(&rule, request).await
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
    Scope::look(|scope| {
        if let Some(bearer) = &scope.bearer
            && let Ok(bearer) = HeaderValue::from_str(bearer)
        {
            headers.insert(http::header::AUTHORIZATION, bearer);
        }
    });
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

//! The way of customers' calls to a context in another process: tokens, deadlines and statuses stay what they are.
//!
//! Nothing is sent twice here unless it was surely not begun: the contexts themselves know what may be repeated.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;

use super::{Call, Failure, RETRY_OWNER, Transport};
use crate::caller::{CLIENT_ADDRESS, Caller, SERVICE_HEADER};
use crate::contract::{Contract, Rule};
use crate::error::{Error, Result};
use crate::scope;
use crate::telemetry::Trace;

/// How long a context may take to say whether it is ready.
const PATIENCE: Duration = Duration::from_secs(1);

/// Passes calls on to one context. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Forward {
    context: Arc<str>,
    transport: Arc<Transport>,
    /// A context that hangs holds only so many calls.
    places: Arc<Semaphore>,
}

impl Forward {
    /// To `context`, at most `calls` at once.
    pub(crate) fn new(context: &str, transport: Transport, calls: usize) -> Self {
        let (transport, places) = (Arc::new(transport), Arc::new(Semaphore::new(calls)));
        Self { context: context.into(), transport, places }
    }

    /// Whether the context is served somewhere.
    pub(crate) async fn is_ready(&self) -> bool {
        let transport = self.transport.clone();
        let ask = tower::service_fn(move |request| {
            let transport = transport.clone();
            async move { transport.ask(request).await }
        });
        let request = HealthCheckRequest { service: self.context.to_string() };
        let mut client = HealthClient::new(ask);
        let answer = timeout(PATIENCE, client.check(request)).await;
        let status = answer.ok().and_then(Result::ok).map(|answer| answer.into_inner().status);
        status == Some(ServingStatus::Serving as i32)
    }

    async fn pass_on(&self, mut request: http::Request<Body>) -> Result<http::Response<Body>> {
        let rule = Contract::ours()?.rule(request.uri().path()).cloned();
        let rule = rule.ok_or_else(|| Error::Unimplemented(request.uri().path().to_owned()))?;
        let address = request.extensions().get::<Caller>().and_then(Caller::address);
        let headers = request.headers_mut();
        for ours in [SERVICE_HEADER, RETRY_OWNER, CLIENT_ADDRESS] {
            headers.remove(ours);
        }
        let address = address.and_then(|at| HeaderValue::try_from(at.to_string()).ok());
        headers.extend(address.map(|address| (CLIENT_ADDRESS, address)));
        if let Some(trace) = Trace::current() {
            trace.put(headers);
        }
        let outcome = if rule.streams {
            self.open(&rule, request).await
        } else {
            self.unary(rule, request).await
        };
        outcome.map_err(|failure| match failure {
            Failure::Expired => Error::DeadlineExceeded,
            Failure::BulkheadFull => Error::overloaded(),
            failure => {
                tracing::debug!(context = %self.context, %failure, "a call was not passed on");
                Error::unavailable(&self.context)
            }
        })
    }

    async fn unary(
        &self,
        rule: Arc<Rule>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        let _place = self.places.try_acquire().map_err(|_| Failure::BulkheadFull)?;
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| Failure::NotSent(error.to_string()))?;
        let call = Call {
            rule,
            deadline: scope::deadline().ok_or(Failure::Expired)?,
            is_retried_above: false,
            uri: parts.uri,
            headers: parts.headers,
            body: body.to_bytes(),
            tried: self.transport.tried(),
        };
        Ok(self.transport.unary(call).await?.into_response())
    }

    async fn open(
        &self,
        rule: &Rule,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        let response = self.transport.open(rule, request).await?;
        let context = self.context.clone();
        Ok(response.map(|inner| Body::new(Passed { inner, context, ended: false })))
    }
}

impl Service<http::Request<Body>> for Forward {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let forward = self.clone();
        Box::pin(async move {
            let answer = forward.pass_on(request).await;
            Ok(answer.unwrap_or_else(|error| Status::from(error).into_http()))
        })
    }
}

/// A stream that is passed on: one whose context dies ends with a hint to come again.
struct Passed {
    inner: Body,
    context: Arc<str>,
    ended: bool,
}

impl http_body::Body for Passed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(_))) => {
                self.ended = true;
                let mut trailers = HeaderMap::new();
                let status = Status::from(Error::unavailable(&self.context));
                let told = status.add_header(&mut trailers);
                Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
            }
            next => next,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}

//! A unary call, what came back, and why nothing did.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use super::STOPPING;
use super::balance::Tried;
use crate::contract::Rule;
use crate::error::{reason_of, retry_delay_of};

/// A unary call on its way: cheap to clone, so that it can be sent again.
#[derive(Debug, Clone)]
pub struct Call {
    /// What the contract says of the method.
    pub rule: Arc<Rule>,
    /// When it ends, answered or not.
    pub deadline: Instant,
    /// Whether somebody further up sends it again where that can help, so that nobody here does.
    pub is_retried_above: bool,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The addresses where it was tried in vain, where there may be several.
    pub(super) tried: Option<Arc<Tried>>,
}

impl Call {
    /// One attempt, as HTTP has it. The callee is told what is left of the time.
    pub(super) fn into_request(self) -> http::Request<Body> {
        let mut request = http::Request::new(Body::new(Whole::new(self.body, None)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        let left = self.deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        if let Ok(timeout) = http::HeaderValue::try_from(format!("{left}m")) {
            request.headers_mut().insert("grpc-timeout", timeout);
        }
        request
    }

    /// The mistake of giving it another `request_id`: the first thing in it that can be one.
    #[cfg(feature = "chaos")]
    pub(super) fn rename(&mut self) {
        let mut body = self.body.to_vec();
        let is_id = |text: &[u8]| uuid::Uuid::try_parse_ascii(text).is_ok();
        if let Some(at) = body.windows(36).position(is_id) {
            body[at..at + 36].copy_from_slice(crate::uuid().to_string().as_bytes());
        }
        self.body = body.into();
    }

    /// Whether another attempt would go to an address that has not failed it yet.
    pub(super) fn can_go_elsewhere(&self) -> bool {
        self.tried.as_ref().is_some_and(|tried| tried.leaves_another())
    }
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

/// What a callee says of being asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushback {
    /// Nothing.
    Silent,
    /// This callee, not before this time (`RetryInfo`).
    NotHereBefore(Duration),
    /// Nobody before this time (gRFC A6).
    NotBefore(Duration),
    /// Not at all (gRFC A6).
    Never,
}

impl Reply {
    pub(super) async fn collect(response: http::Response<Body>) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Failure::Broken(error.to_string()))?;
        let trailers = body.trailers().cloned();
        let code = code_of(&parts.headers).or_else(|| trailers.as_ref().and_then(code_of));
        let code = code.unwrap_or(Code::Unknown);
        Ok(Self { code, parts, data: body.to_bytes(), trailers })
    }

    pub(super) fn status(&self) -> Option<Status> {
        Status::from_header_map(&self.parts.headers)
            .or_else(|| self.trailers.as_ref().and_then(Status::from_header_map))
    }

    /// Whether the callee answered with a fallback of its own: what it needs is busy, and asking again adds to it.
    pub(super) fn is_fallback(&self) -> bool {
        self.status()
            .and_then(|status| reason_of(&status))
            .is_some_and(|reason| reason.ends_with("_BUSY"))
    }

    /// Whether the callee did nothing but say that it stops.
    pub(super) fn is_of_a_stop(&self) -> bool {
        self.parts.headers.contains_key(STOPPING)
    }

    /// `grpc-retry-pushback-ms`, or the `RetryInfo` of the status.
    pub(super) fn pushback(&self) -> Pushback {
        let header = |headers: &HeaderMap| headers.get("grpc-retry-pushback-ms").cloned();
        let header =
            header(&self.parts.headers).or_else(|| self.trailers.as_ref().and_then(header));
        if let Some(header) = header {
            let millis = header.to_str().ok().and_then(|text| text.parse().ok());
            return millis.map_or(Pushback::Never, |millis| {
                Pushback::NotBefore(Duration::from_millis(millis))
            });
        }
        let delay = self.status().and_then(|status| retry_delay_of(&status));
        delay.map_or(Pushback::Silent, Pushback::NotHereBefore)
    }

    pub(super) fn into_response(self) -> http::Response<Body> {
        http::Response::from_parts(self.parts, Body::new(Whole::new(self.data, self.trailers)))
    }
}

/// The status, without its message and details: all that is asked of most answers.
pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

/// A body that is all there.
struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data: Some(data).filter(|data| !data.is_empty()), trailers }
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(http_body::Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(http_body::Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
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

/// What the tests of the middlewares call, and what they answer.
#[cfg(test)]
impl Call {
    pub(super) fn sample() -> Self {
        Self::of("/turnstile.payment.v1.PaymentService/Pay")
    }

    pub(super) fn of(path: &'static str) -> Self {
        let contract = crate::contract::Contract::ours().unwrap();
        Self {
            rule: contract.rule(path).unwrap().clone(),
            deadline: Instant::now() + Duration::from_millis(610),
            is_retried_above: false,
            uri: Uri::from_static(path),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            tried: None,
        }
    }
}

#[cfg(test)]
impl Reply {
    pub(super) fn of(status: Status) -> Self {
        let code = status.code();
        let (parts, ()) = status.into_http::<()>().into_parts();
        Self { code, parts, data: Bytes::new(), trailers: None }
    }

    pub(super) fn sample(code: Code) -> Self {
        Self::of(Status::new(code, ""))
    }

    pub(super) fn sample_fallback() -> Self {
        Self::of(super::fallback("homemovie.app", "payment", None).into())
    }

    /// `UNAVAILABLE`, and in the trailers when to come again.
    pub(super) fn sample_pushback(millis: &str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-retry-pushback-ms", millis.parse().unwrap());
        Self { trailers: Some(trailers), ..Self::sample(Code::Unavailable) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_status_in_the_trailers_is_seen_and_passed_on() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "14".parse().unwrap());
        let body = Body::new(Whole::new(Bytes::from_static(b"x"), Some(trailers.clone())));
        let reply = Reply::collect(http::Response::new(body)).await.unwrap();
        assert_eq!(reply.code, Code::Unavailable);
        let body = reply.into_response().into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&trailers));
        assert_eq!(body.to_bytes(), "x");
    }

    #[tokio::test]
    async fn an_answer_without_a_status_is_unknown() {
        let reply = Reply::collect(http::Response::new(Body::empty())).await.unwrap();
        assert_eq!(reply.code, Code::Unknown);
    }

    #[test]
    fn t18_a_callee_says_when_it_wants_to_be_asked_again() {
        let cases = [
            ("0", Pushback::NotBefore(Duration::ZERO)),
            ("250", Pushback::NotBefore(Duration::from_millis(250))),
            ("-1", Pushback::Never),
            ("soon", Pushback::Never),
        ];
        for (header, said) in cases {
            assert_eq!(Reply::sample_pushback(header).pushback(), said, "{header}");
        }
        assert_eq!(Reply::sample(Code::Unavailable).pushback(), Pushback::Silent);
        let busy = Reply::of(crate::Error::unavailable("the provider").into());
        assert_eq!(busy.pushback(), Pushback::NotHereBefore(Duration::from_secs(1)));
    }
}

//! A deadline: a call ends when its time is over, whatever the callee does.
//!
//! The time is the edge's own, or what the caller has left if that is less; it is passed on, so that the callee knows
//! when to stop. It covers every attempt: a retry gets what is left of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout_at};
use tonic::Code;
use tower::{Layer, Service};

use super::{Call, Failure, Reply};

/// Ends calls at [`Call::deadline`].
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// A service whose calls end in time.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
}

impl<S> Service<Call> for Deadline<S>
where
    S: Service<Call, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Timed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let deadline = call.deadline;
        Timed { work: timeout_at(deadline, self.inner.call(call)) }
    }
}

pin_project! {
    /// A call that ends in time.
    #[derive(Debug)]
    pub struct Timed<F> {
        #[pin]
        work: Timeout<F>,
    }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for Timed<F> {
    type Output = Result<Reply, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().work.poll(cx)) {
            // Its clock was a little faster than ours.
            Ok(Ok(reply)) if reply.code == Code::DeadlineExceeded => Err(Failure::Expired),
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Expired),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use tower::ServiceExt as _;

    use super::*;
    use crate::client::{BreakerLayer, BreakerSettings, BreakerState, Breakers};

    #[tokio::test]
    async fn g12_a_callee_that_says_that_the_time_is_over_has_not_answered() {
        let late = tower::service_fn(|_: Call| async { Ok(Reply::sample(Code::DeadlineExceeded)) });
        let outcome = DeadlineLayer.layer(late).oneshot(Call::sample()).await;
        assert!(matches!(outcome, Err(Failure::Expired)));
    }

    #[tokio::test(start_paused = true)]
    async fn g9_a_call_that_hangs_ends_in_time_and_counts_for_the_breaker() {
        let breakers = Breakers::new(BreakerSettings::default());
        let hang = tower::service_fn(|_: Call| std::future::pending());
        let edge = DeadlineLayer.layer(BreakerLayer(breakers.clone()).layer(hang));
        let begun = Instant::now();
        let calls = (0..20).map(|_| edge.clone().oneshot(Call::sample()));
        let outcomes = futures::future::join_all(calls).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Failure::Expired))));
        assert!(begun.elapsed() <= Duration::from_millis(612), "{:?}", begun.elapsed());
        assert_eq!(breakers.state().0, BreakerState::Open);
    }
}

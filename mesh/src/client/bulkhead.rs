//! A bulkhead: only so many calls at once, so that a callee that hangs cannot fill the caller. No queue.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use super::{Call, Failure, Reply};

/// Limits the calls of one edge.
#[derive(Debug, Clone)]
pub struct BulkheadLayer(Arc<Semaphore>);

impl BulkheadLayer {
    /// At most `limit` calls at once.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit)))
    }
}

impl<S> Layer<S> for BulkheadLayer {
    type Service = Bulkhead<S>;

    fn layer(&self, inner: S) -> Bulkhead<S> {
        Bulkhead { inner, places: self.0.clone() }
    }
}

/// A service behind a bulkhead.
#[derive(Debug, Clone)]
pub struct Bulkhead<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S> Service<Call> for Bulkhead<S>
where
    S: Service<Call, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Either<Ready<Result<Reply, Failure>>, InPlace<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Either::Right(InPlace { work: self.inner.call(call), _place: place }),
            Err(_) => Either::Left(ready(Err(Failure::BulkheadFull))),
        }
    }
}

pin_project! {
    /// A call that holds one of the places.
    #[derive(Debug)]
    pub struct InPlace<F> {
        #[pin]
        work: F,
        _place: OwnedSemaphorePermit,
    }
}

impl<F: Future> Future for InPlace<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().work.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn g9_what_is_over_the_limit_is_refused_at_once() {
        let hang = tower::service_fn(|_: Call| std::future::pending());
        let edge = BulkheadLayer::new(2).layer(hang);
        let mut running: Vec<_> =
            (0..2).map(|_| Box::pin(edge.clone().oneshot(Call::sample()))).collect();
        for call in &mut running {
            assert!(futures::poll!(call).is_pending());
        }
        assert!(matches!(edge.clone().oneshot(Call::sample()).await, Err(Failure::BulkheadFull)));
        running.pop();
        assert!(
            futures::poll!(Box::pin(edge.oneshot(Call::sample()))).is_pending(),
            "a place is free again"
        );
    }
}

//! A bulkhead: only so many calls at once, so that a callee that hangs cannot fill the caller. No queue.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
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
    S: Service<Call, Response = Reply, Error = Failure> + Send,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Reply, Failure>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Box::pin(async { Err(Failure::BulkheadFull) });
        };
        let work = self.inner.call(call);
        Box::pin(async move {
            let _place = place;
            work.await
        })
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

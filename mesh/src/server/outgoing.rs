//! A stream on its way out: it ends with a status of ours, before somebody cuts it (traps T-27, T-28).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::Frame;
use rand::Rng as _;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::gate::Place;
use crate::error::Error;
use crate::watch::ending;

/// How long a stream is open, more or less a tenth: then its client comes again, perhaps to another process.
const AGE: Duration = Duration::from_secs(5 * 60);

/// The body of a streamed answer.
pub(super) struct Outgoing {
    inner: Body,
    /// When it is to end, and why; within a process a stream ends by itself.
    end: Option<BoxFuture<'static, Error>>,
    ended: bool,
    _place: Option<Place>,
}

impl Outgoing {
    /// To another context of this process.
    pub(super) fn within(inner: Body) -> Self {
        Self { inner, end: None, ended: false, _place: None }
    }

    /// To a client outside, which listens until `until`; ends when `closing`.
    pub(super) fn outside(
        inner: Body,
        until: Option<Instant>,
        closing: CancellationToken,
        place: Option<Place>,
    ) -> Self {
        let age = AGE.mul_f64(0.9 + 0.2 * crate::rng().random::<f64>());
        let end = async move {
            tokio::select! {
                () = at(until) => Error::DeadlineExceeded,
                () = sleep(age) => ending(),
                () = closing.cancelled() => ending(),
            }
        };
        Self { inner, end: Some(Box::pin(end)), ended: false, _place: place }
    }

    fn end_with(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        let told = Status::from(error).add_header(&mut trailers);
        Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let inner = Pin::new(&mut self.inner);
        match catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx))) {
            // What is there to be told is told first.
            Ok(Poll::Ready(next)) => return Poll::Ready(next),
            Ok(Poll::Pending) => {}
            Err(panic) => {
                let words = crate::store::words(&*panic);
                return self.end_with(Error::internal(format!("panic in a stream: {words}")));
            }
        }
        match &mut self.end {
            Some(end) => match end.as_mut().poll(cx) {
                Poll::Ready(error) => self.end_with(error),
                Poll::Pending => Poll::Pending,
            },
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Code;

    use super::*;
    use crate::error::retry_delay_of;

    /// A stream that tells something now and then.
    fn endless() -> Body {
        let told = futures::stream::unfold((), |()| async {
            sleep(Duration::from_secs(20)).await;
            Some((Ok::<_, Status>(Frame::data(Bytes::from_static(b"news"))), ()))
        });
        Body::new(StreamBody::new(told.boxed()))
    }

    /// How it ends, and after how long.
    async fn end_of(stream: Outgoing) -> (Status, Duration) {
        let begun = Instant::now();
        let collected = stream.collect().await.unwrap();
        let status = Status::from_header_map(collected.trailers().unwrap()).unwrap();
        (status, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn t28_a_stream_ends_after_five_minutes_with_a_hint_to_come_again() {
        let stream = Outgoing::outside(endless(), None, CancellationToken::new(), None);
        let (status, after) = end_of(stream).await;
        assert_eq!(status.code(), Code::Unavailable);
        assert!(retry_delay_of(&status).is_some());
        assert!((270..=331).contains(&after.as_secs()), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn t27_a_stream_ends_with_a_hint_when_the_process_stops() {
        let closing = CancellationToken::new();
        let stream = Outgoing::outside(endless(), None, closing.clone(), None);
        let stop = async {
            sleep(Duration::from_secs(50)).await;
            closing.cancel();
        };
        let ((status, after), ()) = tokio::join!(end_of(stream), stop);
        assert_eq!((status.code(), after.as_secs()), (Code::Unavailable, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_stops_listening() {
        let until = Some(Instant::now() + Duration::from_secs(30));
        let stream = Outgoing::outside(endless(), until, CancellationToken::new(), None);
        let (status, after) = end_of(stream).await;
        assert_eq!((status.code(), after.as_secs()), (Code::DeadlineExceeded, 30));
    }

    #[tokio::test]
    async fn t47_a_panic_in_a_stream_is_internal_and_says_nothing() {
        let panics = futures::stream::poll_fn(|_| panic!("SELECT * FROM secrets"));
        let body = Body::new(StreamBody::new(panics.map(Ok::<Frame<Bytes>, Status>)));
        let (status, _) = end_of(Outgoing::within(body)).await;
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    }
}

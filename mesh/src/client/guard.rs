//! Puts the calls of an edge behind breakers: one for those that read, one for those that change something.
//!
//! A query that hangs says nothing of a command, and the reverse (trap T-21). What counts is the gRPC status, wherever
//! it was sent, timeouts and broken connections; a refusal of the business is a success.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready as until_ready};
use std::time::Duration;

use futures::future::Either;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::breaker::{Breaker, BreakerSettings, BreakerState, Permit, Transitions};
use super::{Call, Failure, Reply};
use crate::contract::Rule;

/// The breakers of an edge, by what a method does.
#[derive(Debug, Clone)]
pub struct Breakers {
    read: Breaker,
    write: Breaker,
}

impl Breakers {
    /// Closed breakers.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { read: Breaker::new(settings), write: Breaker::new(settings) }
    }

    /// Closed breakers that log each change, under the name of their edge.
    pub(crate) fn logged(settings: BreakerSettings, edge: &str) -> Self {
        let breaker = |class: &'static str| {
            let edge = edge.to_owned();
            Breaker::listened(settings, move |from, to| match to {
                BreakerState::Open => {
                    tracing::warn!(%edge, class, %from, %to, "the breaker opens: the callee is left alone");
                }
                _ => tracing::info!(%edge, class, %from, %to, "the breaker changes"),
            })
        };
        Self { read: breaker("read"), write: breaker("write") }
    }

    /// The one that a method's calls stand behind.
    pub fn of(&self, rule: &Rule) -> &Breaker {
        if rule.reads { &self.read } else { &self.write }
    }

    /// The worse of what they do, and how often they changed together.
    pub fn state(&self) -> (BreakerState, Transitions) {
        let ((read, of_read), (write, of_write)) = (self.read.state(), self.write.state());
        let badness = |state: &BreakerState| match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        let transitions = Transitions {
            opened: of_read.opened + of_write.opened,
            half_opened: of_read.half_opened + of_write.half_opened,
            closed: of_read.closed + of_write.closed,
        };
        (std::cmp::max_by_key(read, write, badness), transitions)
    }

    /// How long the one that refuses longer will; `None` when both would let a call pass.
    pub fn open_for(&self) -> Option<Duration> {
        self.read.open_for().max(self.write.open_for())
    }
}

/// Puts calls behind breakers.
#[derive(Debug, Clone)]
pub struct BreakerLayer(pub Breakers);

impl<S> Layer<S> for BreakerLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, breakers: self.0.clone() }
    }
}

/// A service behind breakers.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    breakers: Breakers,
}

impl<S> Service<Call> for Guarded<S>
where
    S: Service<Call, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Either<Ready<Result<Reply, Failure>>, Admitted<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let deadline = call.deadline;
        match self.breakers.of(&call.rule).admit(deadline) {
            Ok(permit) => {
                let cut_off = CutOff { permit: Some(permit), deadline };
                Either::Right(Admitted { work: self.inner.call(call), cut_off })
            }
            Err(retry_after) => Either::Left(ready(Err(Failure::BreakerOpen { retry_after }))),
        }
    }
}

pin_project! {
    /// A call that was let through.
    #[derive(Debug)]
    pub struct Admitted<F> {
        #[pin]
        work: F,
        cut_off: CutOff,
    }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for Admitted<F> {
    type Output = Result<Reply, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = until_ready!(this.work.poll(cx));
        if let Some(permit) = this.cut_off.permit.take() {
            permit.record(is_failure(&outcome));
        }
        Poll::Ready(outcome)
    }
}

/// A call that is dropped because its time is over has failed; one that its caller gave up says nothing.
#[derive(Debug)]
struct CutOff {
    permit: Option<Permit>,
    deadline: Instant,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && Instant::now() >= self.deadline
        {
            permit.record(true);
        }
    }
}

/// Whether an outcome speaks against the callee (trap T-23). `UNKNOWN` and `CANCELLED` are what a transport in between
/// makes of trouble; no handler of ours answers so.
fn is_failure(outcome: &Result<Reply, Failure>) -> bool {
    use tonic::Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    match outcome {
        Ok(reply) => {
            matches!(reply.code, Unavailable | DeadlineExceeded | Internal | Unknown | Cancelled)
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tonic::Code;
    use tower::ServiceExt as _;

    use super::*;

    const GET: &str = "/turnstile.identity.v1.IdentityService/GetAccount";
    const SEND: &str = "/turnstile.notice.v1.NoticeService/SendNotice";

    /// Twenty calls of a method, with outcomes of this kind.
    async fn twenty(
        breakers: &Breakers,
        path: &'static str,
        outcome: impl Fn() -> Result<Reply, Failure> + Clone,
    ) {
        let callee = tower::service_fn(move |_: Call| std::future::ready(outcome()));
        let edge = BreakerLayer(breakers.clone()).layer(callee);
        let _ = join_all((0..20).map(|_| edge.clone().oneshot(Call::of(path)))).await;
    }

    /// Whether calls with such outcomes open a breaker.
    async fn opens(outcome: impl Fn() -> Result<Reply, Failure> + Clone) -> bool {
        let breakers = Breakers::new(BreakerSettings::default());
        twenty(&breakers, SEND, outcome).await;
        breakers.state().0 == BreakerState::Open
    }

    #[tokio::test(start_paused = true)]
    async fn t21_queries_that_fail_hold_up_no_command_and_the_reverse() {
        for (failing, other) in [(GET, SEND), (SEND, GET)] {
            let breakers = Breakers::new(BreakerSettings::default());
            twenty(&breakers, failing, || Err(Failure::Broken("reset".to_owned()))).await;
            let of = |path| breakers.of(&Call::of(path).rule).state().0;
            assert_eq!((of(failing), of(other)), (BreakerState::Open, BreakerState::Closed));
            let (worse, together) = breakers.state();
            assert_eq!((worse, together.opened), (BreakerState::Open, 1));
            assert_eq!(breakers.open_for(), Some(Duration::from_secs(5)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn t23_what_speaks_against_the_callee_counts_and_nothing_else() {
        let answers = [
            (Code::Unavailable, true),
            (Code::DeadlineExceeded, true),
            (Code::Internal, true),
            (Code::Unknown, true),
            (Code::Cancelled, true),
            (Code::Ok, false),
            (Code::InvalidArgument, false),
            (Code::NotFound, false),
            (Code::FailedPrecondition, false),
            (Code::OutOfRange, false),
            (Code::AlreadyExists, false),
            (Code::Aborted, false),
            (Code::ResourceExhausted, false),
            (Code::Unauthenticated, false),
            (Code::PermissionDenied, false),
            (Code::Unimplemented, false),
        ];
        for (code, counts) in answers {
            let opened = opens(move || Ok(Reply::sample(code))).await;
            assert_eq!(opened, counts, "{code:?}");
        }
        assert!(opens(|| Err(Failure::Broken("transport error".to_owned()))).await);
        assert!(opens(|| Err(Failure::NotSent("connection refused".to_owned()))).await);
    }

    #[tokio::test(start_paused = true)]
    async fn t23_what_the_caller_itself_gives_up_does_not_count() {
        let breakers = Breakers::new(BreakerSettings::default());
        let hang = tower::service_fn(|_: Call| std::future::pending());
        let edge = BreakerLayer(breakers.clone()).layer(hang);
        let give_up = async || {
            for _ in 0..40 {
                let mut call = Box::pin(edge.clone().oneshot(Call::sample()));
                assert!(futures::poll!(&mut call).is_pending());
            }
        };
        give_up().await;
        assert_eq!(breakers.state().0, BreakerState::Closed);
        // Cut off by their deadline, they count.
        let late = (0..20).map(|_| {
            let call = edge.clone().oneshot(Call::sample());
            tokio::time::timeout(Duration::from_millis(610), call)
        });
        join_all(late).await;
        assert_eq!(breakers.state().0, BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn t22_a_trial_call_that_is_dropped_leaves_its_place() {
        let breakers = Breakers::new(BreakerSettings::default());
        twenty(&breakers, SEND, || Err(Failure::Expired)).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let hang = tower::service_fn(|_: Call| std::future::pending());
        let edge = BreakerLayer(breakers.clone()).layer(hang);
        let mut trial = Box::pin(edge.clone().oneshot(Call::of(SEND)));
        assert!(futures::poll!(&mut trial).is_pending());
        let refused = edge.clone().oneshot(Call::of(SEND)).await;
        assert!(matches!(refused, Err(Failure::BreakerOpen { .. })), "only one");
        drop(trial);
        assert!(futures::poll!(Box::pin(edge.oneshot(Call::of(SEND)))).is_pending());
    }
}

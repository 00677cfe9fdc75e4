//! Retries: only what the contract allows to be repeated, only what may pass by itself, only within a budget, and only
//! by one of those that a call passes through.
//!
//! The first edge that may repeat a call is its retry owner; the edges behind it leave it alone, or three tries here
//! and three there would be nine (trap T-18). A callee that says when to come again is not asked before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use rand::Rng as _;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Code;
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{Layer, Service};

use super::call::Pushback;
use super::{Call, Failure, Reply};
#[cfg(feature = "chaos")]
use crate::planted::{Bug, planted};

/// How often a call is sent at the most.
const ATTEMPTS: u32 = 3;
/// A call with less time left is not sent again.
const ENOUGH: Duration = Duration::from_millis(150);
/// The wait before the second attempt is a random share of this, before the third of twice this.
const BACKOFF: Duration = Duration::from_millis(25);

/// Sends calls again, within one budget for the edge: at most a fifth more than was asked for, and ten.
#[derive(Debug, Clone)]
pub struct RetryLayer {
    budget: Arc<TpsBudget>,
    count: Arc<AtomicU64>,
}

impl RetryLayer {
    /// With a full budget; `count` counts what is sent again.
    pub fn new(count: Arc<AtomicU64>) -> Self {
        Self { budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.2)), count }
    }

    /// How long to wait before the next attempt; `None`: there is none.
    fn pause(
        &self,
        attempts: u32,
        call: &Call,
        outcome: &Result<Reply, Failure>,
    ) -> Option<Duration> {
        let least = least_pause(call, outcome).filter(|_| attempts < ATTEMPTS)?;
        let backoff = match call.can_go_elsewhere() {
            true => Duration::ZERO,
            false => (BACKOFF * attempts).mul_f64(crate::rng().random()),
        };
        let pause = least.max(backoff);
        let left = call.deadline.saturating_duration_since(Instant::now());
        (left >= ENOUGH.saturating_add(pause) && self.budget.withdraw()).then_some(pause)
    }
}

/// How long the callee wants to be left alone before a second attempt; `None` where none can go better. An open breaker
/// and a callee that says it is busy mean: not now.
fn least_pause(call: &Call, outcome: &Result<Reply, Failure>) -> Option<Duration> {
    match outcome {
        Ok(reply) if reply.code == Code::Unavailable && !reply.is_fallback() => {
            match reply.pushback() {
                Pushback::Never => None,
                Pushback::NotBefore(wait) => Some(wait),
                Pushback::NotHereBefore(wait) if !call.can_go_elsewhere() => Some(wait),
                Pushback::NotHereBefore(_) | Pushback::Silent => Some(Duration::ZERO),
            }
        }
        Err(Failure::NotSent(_) | Failure::Broken(_)) => Some(Duration::ZERO),
        _ => None,
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, policy: self.clone() }
    }
}

/// A service whose calls are repeated where that can help.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    policy: RetryLayer,
}

impl<S> Service<Call> for Retry<S>
where
    S: Service<Call, Response = Reply, Error = Failure> + Clone,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Retrying<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        self.policy.budget.deposit();
        let again = (call.rule.repeatable && !call.is_retried_above).then(|| Again {
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            call: call.clone(),
            attempts: 1,
            may_have_left: false,
        });
        Retrying { attempt: self.inner.call(call), pause: None, again }
    }
}

/// What another attempt needs.
#[derive(Debug)]
struct Again<S> {
    inner: S,
    policy: RetryLayer,
    call: Call,
    attempts: u32,
    /// Whether an attempt before this one may have been carried out.
    may_have_left: bool,
}

impl<S> Again<S> {
    /// What the last attempt says of the whole call: what is known of it says nothing of an earlier one.
    fn conclude(&self, outcome: Result<Reply, Failure>) -> Result<Reply, Failure> {
        match outcome {
            Err(failure) if self.may_have_left && failure.is_certainly_not_sent() => {
                Err(Failure::Expired)
            }
            Ok(reply) if self.may_have_left && turned_away(reply.code) => {
                Err(Failure::Broken("an earlier attempt, and then turned away".to_owned()))
            }
            outcome => outcome,
        }
    }
}

pin_project! {
    /// A call that is repeated where that can help.
    pub struct Retrying<S: Service<Call>> {
        #[pin]
        attempt: S::Future,
        pause: Option<Pin<Box<Sleep>>>,
        again: Option<Again<S>>,
    }
}

impl<S: Service<Call>> std::fmt::Debug for Retrying<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retrying").field("pause", &self.pause).finish_non_exhaustive()
    }
}

impl<S> Future for Retrying<S>
where
    S: Service<Call, Response = Reply, Error = Failure>,
{
    type Output = Result<Reply, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let (Some(pause), Some(again)) = (this.pause.as_mut(), this.again.as_mut()) {
                ready!(pause.as_mut().poll(cx));
                ready!(again.inner.poll_ready(cx))?;
                *this.pause = None;
                again.attempts += 1;
                again.policy.count.fetch_add(1, Ordering::Relaxed);
                #[cfg(feature = "chaos")]
                if planted(Bug::NewRequestIdOnRetry) {
                    again.call.rename();
                }
                this.attempt.set(again.inner.call(again.call.clone()));
            }
            let outcome = ready!(this.attempt.as_mut().poll(cx));
            let Some(again) = this.again.as_mut() else { return Poll::Ready(outcome) };
            let Some(pause) = again.policy.pause(again.attempts, &again.call, &outcome) else {
                return Poll::Ready(again.conclude(outcome));
            };
            again.may_have_left |=
                !matches!(&outcome, Err(failure) if failure.is_certainly_not_sent());
            *this.pause = Some(Box::pin(sleep(pause)));
        }
    }
}

/// Whether a callee turned an attempt away before it looked at what was asked for: not done, this time.
fn turned_away(code: Code) -> bool {
    matches!(
        code,
        Code::ResourceExhausted
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::ServiceExt as _;

    use super::*;

    /// Answers with these outcomes, one after another; counts the calls.
    async fn play(
        call: Call,
        outcomes: Vec<Result<Reply, Failure>>,
    ) -> (Result<Reply, Failure>, usize) {
        let total = outcomes.len();
        let outcomes = Arc::new(Mutex::new(outcomes));
        let script = outcomes.clone();
        let callee = tower::service_fn(move |_: Call| {
            let outcome = script.lock().unwrap().remove(0);
            async move { outcome }
        });
        let outcome = RetryLayer::new(Arc::default()).layer(callee).oneshot(call).await;
        let left = outcomes.lock().unwrap().len();
        (outcome, total - left)
    }

    fn broken() -> Result<Reply, Failure> {
        Err(Failure::Broken("reset".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn g16_what_may_be_repeated_is_repeated() {
        let (outcome, calls) =
            play(Call::sample(), vec![broken(), Ok(Reply::sample(Code::Ok))]).await;
        assert!(outcome.is_ok());
        assert_eq!(calls, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn g16_what_may_not_be_repeated_is_sent_once() {
        let mut call = Call::sample();
        call.rule = Arc::new(crate::contract::Rule { repeatable: false, ..(*call.rule).clone() });
        let (outcome, calls) = play(call, vec![broken(), Ok(Reply::sample(Code::Ok))]).await;
        assert!(matches!(outcome, Err(Failure::Broken(_))));
        assert_eq!(calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_and_a_fallback_are_answers() {
        for reply in [Reply::sample(Code::FailedPrecondition), Reply::sample_fallback()] {
            let (_, calls) =
                play(Call::sample(), vec![Ok(reply), Ok(Reply::sample(Code::Ok))]).await;
            assert_eq!(calls, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn t18_what_somebody_above_sends_again_is_sent_once() {
        let call = Call { is_retried_above: true, ..Call::sample() };
        let (outcome, calls) = play(call, vec![broken(), Ok(Reply::sample(Code::Ok))]).await;
        assert!(matches!(outcome, Err(Failure::Broken(_))));
        assert_eq!(calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn t18_a_callee_that_says_when_is_asked_then_and_not_before() {
        let begun = Instant::now();
        let script = vec![Ok(Reply::sample_pushback("300")), Ok(Reply::sample(Code::Ok))];
        let (outcome, calls) = play(Call::sample(), script).await;
        assert_eq!((outcome.unwrap().code, calls), (Code::Ok, 2));
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        let in_a_second = || Ok(Reply::of(crate::Error::unavailable("the provider").into()));
        for reply in
            [Ok(Reply::sample_pushback("-1")), Ok(Reply::sample_pushback("500")), in_a_second()]
        {
            let (_, calls) = play(Call::sample(), vec![reply, Ok(Reply::sample(Code::Ok))]).await;
            assert_eq!(calls, 1, "never, or later than there is time");
        }
        let patient = Call { deadline: begun + Duration::from_secs(30), ..Call::sample() };
        let (outcome, calls) =
            play(patient, vec![in_a_second(), Ok(Reply::sample(Code::Ok))]).await;
        assert_eq!((outcome.unwrap().code, calls), (Code::Ok, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn g11_not_sent_is_only_said_when_no_attempt_left() {
        let refused = || Err(Failure::NotSent("connection refused".to_owned()));
        let (outcome, _) = play(Call::sample(), vec![refused(), refused(), refused()]).await;
        assert!(outcome.unwrap_err().is_certainly_not_sent());
        let (outcome, _) = play(Call::sample(), vec![broken(), refused(), refused()]).await;
        assert!(!outcome.unwrap_err().is_certainly_not_sent());
    }

    #[tokio::test(start_paused = true)]
    async fn g11_turned_away_says_nothing_of_an_earlier_attempt() {
        let busy = || Ok(Reply::sample(Code::ResourceExhausted));
        let (outcome, _) = play(Call::sample(), vec![busy()]).await;
        assert!(outcome.is_ok(), "the first attempt was not carried out");
        let (outcome, _) = play(Call::sample(), vec![broken(), busy()]).await;
        assert!(matches!(outcome, Err(Failure::Broken(_))), "nobody knows");
    }

    #[tokio::test(start_paused = true)]
    async fn without_enough_time_left_it_is_not_sent_again() {
        let mut call = Call::sample();
        call.deadline = Instant::now() + Duration::from_millis(100);
        let (_, calls) = play(call, vec![broken(), broken()]).await;
        assert_eq!(calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_ends_a_storm() {
        let callee = tower::service_fn(|_: Call| async { broken() });
        let count = Arc::new(AtomicU64::new(0));
        let edge = RetryLayer::new(count.clone()).layer(callee);
        for _ in 0..200 {
            let _ = edge.clone().oneshot(Call::sample()).await;
        }
        let retries = count.load(Ordering::Relaxed);
        assert!((1..=50).contains(&retries), "{retries} retries for 200 calls");
    }
}

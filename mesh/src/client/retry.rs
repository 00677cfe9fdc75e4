//! Retries: only what the contract allows to be repeated, only what may pass by itself, and only within a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::Code;
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{Layer, Service};

use super::{Call, Failure, Reply};

/// How often a call is sent at the most.
const ATTEMPTS: u32 = 3;
/// A call with less time left is not sent again.
const ENOUGH: Duration = Duration::from_millis(150);
/// The wait before the second attempt is a random share of this, before the third of twice this.
const BACKOFF: Duration = Duration::from_millis(25);

/// Sends calls again, within one budget for the edge: at most a fifth more than was asked for.
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
    S: Service<Call, Response = Reply, Error = Failure> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Reply, Failure>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let RetryLayer { budget, count } = self.policy.clone();
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            budget.deposit();
            // Whether an attempt before this one may have been carried out.
            let mut may_have_left = false;
            for attempt in 1.. {
                let outcome = inner.call(call.clone()).await;
                let again = attempt < ATTEMPTS
                    && call.rule.repeatable
                    && can_help(&outcome)
                    && wait(attempt, &call).await
                    && budget.withdraw();
                if !again {
                    return match outcome {
                        // What is known of this attempt says nothing of an earlier one.
                        Err(failure) if may_have_left && failure.is_certainly_not_sent() => {
                            Err(Failure::Expired)
                        }
                        Ok(reply) if may_have_left && turned_away(reply.code) => Err(
                            Failure::Broken("an earlier attempt, and then turned away".to_owned()),
                        ),
                        outcome => outcome,
                    };
                }
                may_have_left |=
                    !matches!(&outcome, Err(failure) if failure.is_certainly_not_sent());
                count.fetch_add(1, Ordering::Relaxed);
                std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
            }
            unreachable!("the last attempt returns")
        })
    }
}

/// Whether a second attempt may go better. An open breaker and a callee that says it is busy mean: not now.
fn can_help(outcome: &Result<Reply, Failure>) -> bool {
    match outcome {
        Ok(reply) => {
            reply.code == Code::Unavailable
                && !reply.is_fallback()
                && !reply.asks_not_to_be_retried()
        }
        Err(Failure::NotSent(_) | Failure::Broken(_)) => true,
        Err(_) => false,
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

/// Waits before the next attempt; `false` where the time would not be enough for it.
async fn wait(attempt: u32, call: &Call) -> bool {
    let pause = (BACKOFF * attempt).mul_f64(rand::random::<f64>());
    let left = call.deadline.saturating_duration_since(Instant::now());
    if left < ENOUGH + pause {
        return false;
    }
    tokio::time::sleep(pause).await;
    true
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
        assert!((1..=60).contains(&retries), "{retries} retries for 200 calls");
    }
}

//! A circuit breaker: a callee that fails is left alone for a while, and tried with one call before it gets more.
//!
//! It opens when, in a sliding window, at least so many calls were made and at least so large a share of them failed.
//! Open, it refuses at once. After a while it lets one trial call through (half-open): a success closes it, a failure
//! opens it again. What counts is the gRPC status, wherever it was sent, timeouts and broken connections; a refusal of
//! the business is a success. A result that arrives after the state has changed is not counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Call, Failure, Reply};

/// When a breaker opens, and for how long (rule G-9).
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// The share of failures, in percent, at which it opens.
    pub failure_percent: u32,
    /// How many calls the window must have before it can open.
    pub min_calls: u32,
    /// How far back it looks.
    pub window: Duration,
    /// How long it stays open.
    pub open: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_percent: 50,
            min_calls: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
        }
    }
}

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets them pass.
    Closed,
    /// Refuses them.
    Open,
    /// Lets one pass, to see.
    HalfOpen,
}

/// How often a breaker changed its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transitions {
    /// To open.
    pub opened: u64,
    /// To half-open.
    pub half_opened: u64,
    /// Back to closed.
    pub closed: u64,
}

/// The window is this many buckets that are forgotten one by one.
const BUCKETS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which stretch of time it counts.
    tick: u64,
    calls: u32,
    failures: u32,
}

#[derive(Debug)]
struct Machine {
    state: BreakerState,
    /// Changes with the state: results of calls that were admitted before do not count.
    generation: u64,
    /// When it may be tried again.
    reopens_at: Instant,
    probing: bool,
    buckets: [Bucket; BUCKETS],
    transitions: Transitions,
}

/// A breaker, shared by all calls of one edge.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    born: Instant,
    machine: Arc<Mutex<Machine>>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        let machine = Machine {
            state: BreakerState::Closed,
            generation: 0,
            reopens_at: Instant::now(),
            probing: false,
            buckets: [Bucket::default(); BUCKETS],
            transitions: Transitions::default(),
        };
        Self { settings, born: Instant::now(), machine: Arc::new(Mutex::new(machine)) }
    }

    /// What it does now, and how often it changed.
    pub fn state(&self) -> (BreakerState, Transitions) {
        let machine = self.lock();
        (machine.state, machine.transitions)
    }

    /// How long it will still refuse; `None` when it would let a call pass.
    pub fn open_for(&self) -> Option<Duration> {
        let machine = self.lock();
        let left = machine.reopens_at.saturating_duration_since(Instant::now());
        (machine.state != BreakerState::Closed && !left.is_zero()).then_some(left)
    }

    /// Lets a call pass, or says for how long none will.
    pub fn admit(&self) -> Result<Permit, Duration> {
        let now = Instant::now();
        let mut machine = self.lock();
        match machine.state {
            BreakerState::Closed => {}
            BreakerState::Open if now >= machine.reopens_at => {
                machine.enter(BreakerState::HalfOpen);
                machine.probing = true;
            }
            BreakerState::HalfOpen if !machine.probing => machine.probing = true,
            BreakerState::Open => return Err(machine.reopens_at - now),
            // The trial call decides soon.
            BreakerState::HalfOpen => return Err(Duration::from_secs(1)),
        }
        Ok(Permit { breaker: self.clone(), generation: machine.generation, told: false })
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, generation: u64, failed: bool) {
        let now = Instant::now();
        let mut machine = self.lock();
        if machine.generation != generation {
            return;
        }
        match machine.state {
            BreakerState::Closed => {
                let tick = self.tick(now);
                machine.count(tick, failed);
                let (calls, failures) = machine.sum(tick);
                if calls >= self.settings.min_calls
                    && failures * 100 >= calls * self.settings.failure_percent
                {
                    machine.open_until(now + self.settings.open);
                }
            }
            BreakerState::HalfOpen if failed => machine.open_until(now + self.settings.open),
            BreakerState::HalfOpen => machine.enter(BreakerState::Closed),
            BreakerState::Open => {}
        }
    }

    /// A trial call that ended without a result leaves the place to another.
    fn give_back(&self, generation: u64) {
        let mut machine = self.lock();
        if machine.generation == generation {
            machine.probing = false;
        }
    }

    fn tick(&self, now: Instant) -> u64 {
        let width = (self.settings.window.as_millis() / BUCKETS as u128).max(1);
        // Never 0: that is a bucket that was never used.
        u64::try_from((now - self.born).as_millis() / width).unwrap_or(u64::MAX - 1) + 1
    }
}

impl Machine {
    fn enter(&mut self, state: BreakerState) {
        match state {
            BreakerState::Open => self.transitions.opened += 1,
            BreakerState::HalfOpen => self.transitions.half_opened += 1,
            BreakerState::Closed => self.transitions.closed += 1,
        }
        self.state = state;
        self.generation += 1;
        self.probing = false;
        self.buckets = [Bucket::default(); BUCKETS];
    }

    fn open_until(&mut self, at: Instant) {
        self.enter(BreakerState::Open);
        self.reopens_at = at;
    }

    fn count(&mut self, tick: u64, failed: bool) {
        let index = usize::try_from(tick).unwrap_or(0) % BUCKETS;
        let bucket = &mut self.buckets[index];
        if bucket.tick != tick {
            *bucket = Bucket { tick, ..Bucket::default() };
        }
        bucket.calls += 1;
        bucket.failures += u32::from(failed);
    }

    fn sum(&self, tick: u64) -> (u32, u32) {
        let oldest = (tick + 1).saturating_sub(BUCKETS as u64);
        let live = self.buckets.iter().filter(|bucket| bucket.tick >= oldest && bucket.tick > 0);
        live.fold((0, 0), |(calls, failures), bucket| {
            (calls + bucket.calls, failures + bucket.failures)
        })
    }
}

/// A call that was let through. Dropped without a result, it counts for nothing.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    breaker: Breaker,
    generation: u64,
    told: bool,
}

impl Permit {
    /// Tells the breaker how the call went.
    pub fn record(mut self, failed: bool) {
        self.told = true;
        self.breaker.record(self.generation, failed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.told {
            self.breaker.give_back(self.generation);
        }
    }
}

/// Puts calls behind a breaker.
#[derive(Debug, Clone)]
pub struct BreakerLayer(pub Breaker);

impl<S> Layer<S> for BreakerLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, breaker: self.0.clone() }
    }
}

/// A service behind a breaker.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    breaker: Breaker,
}

impl<S> Service<Call> for Guarded<S>
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
        let permit = match self.breaker.admit() {
            Ok(permit) => permit,
            Err(retry_after) => {
                return Box::pin(async move { Err(Failure::BreakerOpen { retry_after }) });
            }
        };
        let deadline = call.deadline;
        let work = self.inner.call(call);
        Box::pin(async move {
            let mut guard = CutOff { permit: Some(permit), deadline };
            let outcome = work.await;
            if let Some(permit) = guard.permit.take() {
                permit.record(is_failure(&outcome));
            }
            outcome
        })
    }
}

/// A call that is dropped because its time is over has failed; one that its caller gave up says nothing.
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

fn is_failure(outcome: &Result<Reply, Failure>) -> bool {
    use tonic::Code::{DeadlineExceeded, Internal, Unavailable, Unknown};
    match outcome {
        Ok(reply) => matches!(reply.code, Unavailable | DeadlineExceeded | Internal | Unknown),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(breaker: &Breaker, calls: u32, failed: bool) {
        for _ in 0..calls {
            breaker.admit().unwrap().record(failed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn g9_opens_at_half_of_at_least_twenty() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 10, false);
        run(&breaker, 9, true);
        assert_eq!(breaker.state().0, BreakerState::Closed, "19 calls are too few");
        run(&breaker, 1, true);
        assert_eq!(breaker.state().0, BreakerState::Open);
        assert_eq!(breaker.admit().unwrap_err(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn g9_the_window_slides() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 1000, false);
        tokio::time::advance(Duration::from_secs(11)).await;
        run(&breaker, 20, true);
        assert_eq!(breaker.state().0, BreakerState::Open, "old successes are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn g9_one_trial_call_decides() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        let trial = breaker.admit().unwrap();
        assert!(breaker.admit().is_err(), "only one");
        trial.record(true);
        assert_eq!(breaker.state().0, BreakerState::Open);
        tokio::time::advance(Duration::from_secs(5)).await;
        breaker.admit().unwrap().record(false);
        let (state, transitions) = breaker.state();
        assert_eq!(state, BreakerState::Closed);
        assert_eq!(transitions, Transitions { opened: 2, half_opened: 2, closed: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_call_that_is_given_up_leaves_its_place() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn results_of_an_earlier_state_do_not_count() {
        let breaker = Breaker::new(BreakerSettings::default());
        let late = breaker.admit().unwrap();
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        let trial = breaker.admit().unwrap();
        late.record(false);
        assert_eq!(breaker.state().0, BreakerState::HalfOpen, "the late success does not close it");
        trial.record(false);
        assert_eq!(breaker.state().0, BreakerState::Closed);
    }
}

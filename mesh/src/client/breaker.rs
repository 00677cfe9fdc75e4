//! A circuit breaker: a callee that fails is left alone for a while, and tried with one call before it gets more.
//!
//! It opens when, in a sliding window, at least so many calls were made and at least so large a share of them failed.
//! Open, it refuses at once. After a while it lets one trial call through (half-open): a success closes it, a failure
//! opens it again; one that never tells how it went gives its place to another when its time is over. A result that
//! arrives after the state has changed is not counted.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::planted::{Bug, planted};

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

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
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
    /// Changes with the state and with the trial call: results of calls that were admitted before do not count.
    generation: u64,
    /// When it may be tried again.
    reopens_at: Instant,
    /// Until when the place of the trial call is taken.
    probing: Option<Instant>,
    buckets: [Bucket; BUCKETS],
    transitions: Transitions,
}

/// Hears of each change: from, to.
type Listener = Box<dyn Fn(BreakerState, BreakerState) + Send + Sync>;

/// A breaker, shared by all calls that are of one kind.
#[derive(Clone)]
pub struct Breaker(Arc<Shared>);

struct Shared {
    settings: BreakerSettings,
    born: Instant,
    machine: Mutex<Machine>,
    listener: Listener,
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Breaker").field(&self.state().0).finish()
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self::listened(settings, |_, _| {})
    }

    /// A closed breaker; `listener` hears of each change of its state: from, to.
    pub fn listened(
        settings: BreakerSettings,
        listener: impl Fn(BreakerState, BreakerState) + Send + Sync + 'static,
    ) -> Self {
        let machine = Machine {
            state: BreakerState::Closed,
            generation: 0,
            reopens_at: Instant::now(),
            probing: None,
            buckets: [Bucket::default(); BUCKETS],
            transitions: Transitions::default(),
        };
        let (born, machine, listener) = (Instant::now(), Mutex::new(machine), Box::new(listener));
        Self(Arc::new(Shared { settings, born, machine, listener }))
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

    /// Lets a call pass that ends at `deadline`, or says for how long none will.
    pub fn admit(&self, deadline: Instant) -> Result<Permit, Duration> {
        self.change(|machine, now| {
            match machine.state {
                BreakerState::Closed => {}
                BreakerState::Open if now < machine.reopens_at => {
                    return Err(machine.reopens_at - now);
                }
                BreakerState::Open => {
                    machine.enter(BreakerState::HalfOpen);
                    machine.probing = Some(deadline);
                }
                BreakerState::HalfOpen => {
                    if planted(Bug::HalfOpenLetsAllThrough) {
                        machine.probing = None;
                    }
                    // The trial call decides until then.
                    if let Some(until) = machine.probing.filter(|until| now < *until) {
                        return Err(until - now);
                    }
                    // It never told: whatever it says later is too late.
                    machine.generation += 1;
                    machine.probing = Some(deadline);
                }
            }
            Ok(Permit { breaker: self.clone(), generation: machine.generation, told: false })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`, and tells the listener if the state is another after it.
    fn change<T>(&self, work: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let now = Instant::now();
        let mut machine = self.lock();
        let from = machine.state;
        let done = work(&mut machine, now);
        let to = machine.state;
        drop(machine);
        if from != to {
            (self.0.listener)(from, to);
        }
        done
    }

    fn record(&self, generation: u64, failed: bool) {
        let settings = &self.0.settings;
        self.change(|machine, now| {
            if machine.generation != generation {
                return;
            }
            match machine.state {
                BreakerState::Closed => {
                    let tick = self.tick(now);
                    machine.count(tick, failed);
                    let (calls, failures) = machine.sum(tick);
                    if calls >= settings.min_calls
                        && failures * 100 >= calls * settings.failure_percent
                    {
                        machine.open_until(now + settings.open);
                    }
                }
                BreakerState::HalfOpen if failed => machine.open_until(now + settings.open),
                BreakerState::HalfOpen => machine.enter(BreakerState::Closed),
                BreakerState::Open => {}
            }
        });
    }

    /// A trial call that ended without a result leaves the place to another.
    fn give_back(&self, generation: u64) {
        let mut machine = self.lock();
        if machine.generation == generation {
            machine.probing = None;
        }
    }

    fn tick(&self, now: Instant) -> u64 {
        let width = (self.0.settings.window.as_millis() / BUCKETS as u128).max(1);
        // Never 0: that is a bucket that was never used.
        u64::try_from((now - self.0.born).as_millis() / width).unwrap_or(u64::MAX - 1) + 1
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
        self.probing = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(610)
    }

    fn run(breaker: &Breaker, calls: u32, failed: bool) {
        for _ in 0..calls {
            breaker.admit(soon()).unwrap().record(failed);
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
        assert_eq!(breaker.admit(soon()).unwrap_err(), Duration::from_secs(5));
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
        let trial = breaker.admit(soon()).unwrap();
        assert!(breaker.admit(soon()).is_err(), "only one");
        trial.record(true);
        assert_eq!(breaker.state().0, BreakerState::Open);
        tokio::time::advance(Duration::from_secs(5)).await;
        breaker.admit(soon()).unwrap().record(false);
        let (state, transitions) = breaker.state();
        assert_eq!(state, BreakerState::Closed);
        assert_eq!(transitions, Transitions { opened: 2, half_opened: 2, closed: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_call_that_is_given_up_leaves_its_place() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(breaker.admit(soon()).unwrap());
        assert!(breaker.admit(soon()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn results_of_an_earlier_state_do_not_count() {
        let breaker = Breaker::new(BreakerSettings::default());
        let late = breaker.admit(soon()).unwrap();
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        let trial = breaker.admit(soon()).unwrap();
        late.record(false);
        assert_eq!(breaker.state().0, BreakerState::HalfOpen, "the late success does not close it");
        trial.record(false);
        assert_eq!(breaker.state().0, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn t22_a_trial_call_that_never_tells_gives_its_place_to_one_other() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        let hangs = breaker.admit(soon()).unwrap();
        assert_eq!(breaker.admit(soon()).unwrap_err(), Duration::from_millis(610));
        tokio::time::advance(Duration::from_millis(610)).await;
        let second = breaker.admit(soon()).unwrap();
        hangs.record(true);
        assert_eq!(breaker.state().0, BreakerState::HalfOpen, "too late to decide");
        assert!(breaker.admit(soon()).is_err(), "nor does it make room for a third");
        second.record(false);
        assert_eq!(breaker.state().0, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn t22_of_a_stampede_on_an_open_breaker_one_passes() {
        let breaker = Breaker::new(BreakerSettings::default());
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        let admitted: Vec<_> = (0..100).map(|_| breaker.admit(soon())).collect();
        assert_eq!(admitted.iter().filter(|admitted| admitted.is_ok()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn every_change_is_told_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = heard.clone();
        let listener = move |from, to| told.lock().unwrap().push((from, to));
        let breaker = Breaker::listened(BreakerSettings::default(), listener);
        run(&breaker, 20, true);
        tokio::time::advance(Duration::from_secs(5)).await;
        run(&breaker, 20, false);
        use BreakerState::{Closed, HalfOpen, Open};
        assert_eq!(*heard.lock().unwrap(), [(Closed, Open), (Open, HalfOpen), (HalfOpen, Closed)]);
    }
}

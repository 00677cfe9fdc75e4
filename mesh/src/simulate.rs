//! Simulated load (rule G-10): a callee that takes its time and works on only so much at once, as a setting.
//!
//! Whoever gives up drops what it waits for here, and its place with it: nothing of it is carried out afterwards.

use std::fmt;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// A time that is drawn anew each time it is needed, in milliseconds: `500`, or `400-620`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay(RangeInclusive<u64>);

/// The longest delay that can be set, in milliseconds.
const LONGEST: u64 = 60_000;

impl Delay {
    /// Between so many milliseconds.
    pub fn millis(range: RangeInclusive<u64>) -> Self {
        Self(range)
    }

    /// One such time.
    pub fn draw(&self) -> Duration {
        Duration::from_millis(crate::rng().random_range(self.0.clone()))
    }
}

impl Default for Delay {
    fn default() -> Self {
        Self(0..=0)
    }
}

impl FromStr for Delay {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        match (least.trim().parse(), most.trim().parse()) {
            (Ok(least), Ok(most)) if least <= most && most <= LONGEST => Ok(Self(least..=most)),
            _ => Err("must be milliseconds up to 60000, like 500 or 400-620"),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (least, most) if least == most => write!(f, "{least}"),
            (least, most) => write!(f, "{least}-{most}"),
        }
    }
}

/// What a callee can carry: only so many pieces of work at once, each of which takes its time. None by default.
#[derive(Debug, Default)]
pub struct Load {
    delay: Delay,
    /// `None`: as many as there are.
    places: Option<Semaphore>,
}

impl Load {
    /// Each piece of work takes a `delay`, and no more than `concurrency` are worked on at once.
    pub fn new(delay: Delay, concurrency: Option<NonZero<usize>>) -> Self {
        let places =
            concurrency.map(|places| Semaphore::new(places.get().min(Semaphore::MAX_PERMITS)));
        Self { delay, places }
    }

    /// Waits for a place, and then as long as the work takes. The place is taken until the answer is dropped.
    pub async fn pass(&self) -> Place<'_> {
        let place = self.enter().await;
        place.take_time().await;
        place
    }

    /// Waits for a place, first come, first served.
    pub async fn enter(&self) -> Place<'_> {
        let permit = match &self.places {
            // Never closed.
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        Place { until: Instant::now() + self.delay.draw(), _permit: permit }
    }
}

/// A place among those who are worked on; free again when this is dropped.
#[derive(Debug)]
#[must_use = "the place is free again as soon as this is dropped"]
pub struct Place<'a> {
    until: Instant,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Place<'_> {
    /// Waits until the time is over that the work takes, counted from the moment the place was taken.
    pub async fn take_time(&self) {
        // Also a sleep of no length lets the others go first for up to a millisecond.
        if self.until > Instant::now() {
            tokio::time::sleep_until(self.until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    fn load(delay: &str, concurrency: usize) -> Load {
        Load::new(delay.parse().unwrap(), NonZero::new(concurrency))
    }

    #[test]
    fn g10_a_delay_is_drawn_anew_within_its_range() {
        let delay: Delay = "400-620".parse().unwrap();
        let drawn: Vec<_> = (0..200).map(|_| delay.draw().as_millis()).collect();
        assert!(drawn.iter().all(|millis| (400..=620).contains(millis)), "{drawn:?}");
        assert!(drawn.iter().any(|millis| *millis != drawn[0]), "{drawn:?}");
        assert_eq!(Delay::default().draw(), Duration::ZERO);
    }

    #[test]
    fn a_delay_reads_back() {
        for text in ["0", "500", "400-620", "60000"] {
            assert_eq!(text.parse::<Delay>().unwrap().to_string(), text);
        }
        assert_eq!(" 400 - 620 ".parse(), Ok(Delay::millis(400..=620)));
    }

    #[test]
    fn what_is_no_delay_is_refused() {
        for text in ["", "-", "fast", "-1", "620-400", "60001", "1-2-3", "0.5"] {
            assert!(text.parse::<Delay>().is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_setting_nobody_waits() {
        let (begun, load) = (Instant::now(), Load::default());
        let places = join_all((0..1000).map(|_| load.pass())).await;
        assert_eq!((places.len(), begun.elapsed()), (1000, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn g10_who_finds_no_place_waits_for_one() {
        let (begun, load) = (Instant::now(), load("500", 10));
        let work = (0..100).map(|_| async {
            drop(load.pass().await);
        });
        join_all(work).await;
        let took = begun.elapsed();
        assert!((Duration::from_secs(5)..Duration::from_millis(5100)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_place_to_others() {
        let load = load("500", 1);
        let first = load.pass().await;
        for _ in 0..5 {
            let given_up = tokio::time::timeout(Duration::from_millis(100), load.pass()).await;
            assert!(given_up.is_err(), "the place is taken");
        }
        drop(first);
        let begun = Instant::now();
        let _place = load.pass().await;
        assert!(begun.elapsed() < Duration::from_millis(510), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_when_the_place_was_taken() {
        let load = load("500", 1);
        let place = load.enter().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        let begun = Instant::now();
        place.take_time().await;
        assert!(begun.elapsed() < Duration::from_millis(110), "{:?}", begun.elapsed());
    }
}

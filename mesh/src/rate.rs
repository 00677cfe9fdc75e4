//! How often somebody may do something: a token bucket for each, which fills again as time passes (S-24).

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// So many times are counted between two looks for those who are to be forgotten: that many more than came lately are
/// remembered at the most.
const LOOK_EVERY: u32 = 16_384;

/// So often in a while, for each of many.
pub struct RateLimit {
    buckets: Option<RateLimiter<u64, DefaultKeyedStateStore<u64>, Ticks, NoOpMiddleware<Nanos>>>,
    clock: Ticks,
    /// Whoever it is, texts of any length too, is counted by a number that nobody outside can aim at.
    hasher: RandomState,
    counted: AtomicU32,
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("is_on", &self.buckets.is_some()).finish_non_exhaustive()
    }
}

impl RateLimit {
    /// So many times a minute, all of them at once if need be. 0 is no limit.
    pub fn per_minute(times: u32) -> Self {
        Self::new(NonZeroU32::new(times).map(Quota::per_minute))
    }

    /// So many times a second; for once so many seconds' worth at once. 0 is no limit.
    pub(crate) fn per_second(times: u32, seconds_at_once: u32) -> Self {
        let at_once = NonZeroU32::new(times.saturating_mul(seconds_at_once));
        let quota = NonZeroU32::new(times).map(Quota::per_second);
        Self::new(quota.zip(at_once).map(|(quota, at_once)| quota.allow_burst(at_once)))
    }

    fn new(quota: Option<Quota>) -> Self {
        let clock = Ticks { since: Instant::now() };
        Self {
            buckets: quota
                .map(|quota| RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock)),
            clock,
            hasher: RandomState::new(),
            counted: AtomicU32::new(0),
        }
    }

    /// Counts one time for somebody.
    ///
    /// # Errors
    /// How long they have to wait if that is once too often.
    pub fn count(&self, who: impl Hash) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        if self.counted.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == LOOK_EVERY - 1 {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
        let outcome = buckets.check_key(&self.hasher.hash_one(who));
        outcome.map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// The part of an address that tells clients apart: who has one IPv6 address has the 2^64 beside it.
pub fn network_of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

/// Tokio's time, which tests and simulations hold.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    since: Instant,
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.since.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s_24_a_bucket_is_emptied_at_once_and_fills_as_time_passes() {
        let limit = RateLimit::per_second(10, 5);
        assert!((0..50).all(|_| limit.count("noisy").is_ok()));
        let wait = limit.count("noisy").unwrap_err();
        assert_eq!(wait, Duration::from_millis(100), "until the next one is there");
        assert_eq!(limit.count("quiet"), Ok(()), "everybody has a bucket");
        advance(wait).await;
        assert_eq!(limit.count("noisy"), Ok(()));
        assert!(limit.count("noisy").is_err());
        advance(Duration::from_secs(5)).await;
        assert!((0..50).all(|_| limit.count("noisy").is_ok()));
        assert!(limit.count("noisy").is_err());
    }

    #[test]
    fn zero_is_no_limit() {
        for limit in [RateLimit::per_minute(0), RateLimit::per_second(0, 5)] {
            assert!((0..10_000).all(|_| limit.count("anybody").is_ok()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_no_more_are_forgotten() {
        let limit = RateLimit::per_second(1000, 1);
        for who in 0..10 * LOOK_EVERY {
            limit.count(who).unwrap();
            advance(Duration::from_millis(1)).await;
        }
        let known = limit.buckets.unwrap().len();
        assert!(known <= LOOK_EVERY as usize + 2000, "{known}");
    }

    #[test]
    fn the_addresses_of_one_network_are_one() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}

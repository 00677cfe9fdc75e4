//! How often somebody may try: by account, whether it exists or not, and by address.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::domain::Refusal;
use crate::settings::Settings;

/// The limits of `SignUp` and `SignIn`.
#[derive(Debug)]
pub(crate) struct Limits {
    account: Limit,
    sign_in_address: Limit,
    sign_up_address: Limit,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            account: Limit::per_minute(settings.tries_per_account),
            sign_in_address: Limit::per_minute(settings.tries_per_address),
            sign_up_address: Limit::per_minute(settings.sign_ups_per_address),
        }
    }

    /// Counts a try to sign up.
    pub(crate) fn sign_up(&self, email_key: &str, address: Option<IpAddr>) -> Result<(), Refusal> {
        // The address first: who is refused for it uses up nobody's account.
        address.map_or(Ok(()), |address| self.sign_up_address.count(network(address)))?;
        self.account.count(email_key)
    }

    /// Counts a try to sign in.
    pub(crate) fn sign_in(&self, email_key: &str, address: Option<IpAddr>) -> Result<(), Refusal> {
        address.map_or(Ok(()), |address| self.sign_in_address.count(network(address)))?;
        self.account.count(email_key)
    }

    /// Forgets those who did not try lately.
    pub(crate) fn forget_idle(&self) {
        for limit in [&self.account, &self.sign_in_address, &self.sign_up_address] {
            limit.forget_idle();
        }
    }
}

/// Who has one IPv6 address has the 2^64 beside it.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

/// So many tries in a minute; a try more for each part of it that has passed.
struct Limit {
    limiter: Option<DefaultKeyedRateLimiter<u64>>,
    clock: DefaultClock,
    /// Texts of any length are counted by a number that nobody outside can aim at.
    hasher: RandomState,
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limit").field("is_on", &self.limiter.is_some()).finish_non_exhaustive()
    }
}

impl Limit {
    /// 0 is no limit.
    fn per_minute(tries: u32) -> Self {
        let limiter =
            NonZeroU32::new(tries).map(|tries| RateLimiter::keyed(Quota::per_minute(tries)));
        Self { limiter, clock: DefaultClock::default(), hasher: RandomState::new() }
    }

    fn count(&self, who: impl Hash) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let outcome = limiter.check_key(&self.hasher.hash_one(who));
        outcome
            .map_err(|until| Refusal::TooManyTries { wait: until.wait_time_from(self.clock.now()) })
    }

    fn forget_idle(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(tries_per_account: u32, tries_per_address: u32) -> Limits {
        Limits::new(&Settings { tries_per_account, tries_per_address, ..Settings::default() })
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn an_account_is_limited_from_wherever_it_is_tried() {
        let limits = limits(2, 0);
        assert_eq!(limits.sign_in("a@b", address("192.0.2.1")), Ok(()));
        assert_eq!(limits.sign_up("a@b", address("192.0.2.2")), Ok(()));
        let refused = limits.sign_in("a@b", None);
        let Err(Refusal::TooManyTries { wait }) = refused else { panic!("{refused:?}") };
        assert!(Duration::ZERO < wait && wait <= Duration::from_secs(60), "{wait:?}");
        assert_eq!(limits.sign_in("c@d", None), Ok(()));
    }

    #[test]
    fn an_address_is_limited_whoever_it_tries_and_uses_up_no_account() {
        let limits = limits(1, 1);
        assert_eq!(limits.sign_in("a@b", address("192.0.2.1")), Ok(()));
        assert!(limits.sign_in("c@d", address("192.0.2.1")).is_err());
        assert_eq!(limits.sign_in("c@d", address("192.0.2.2")), Ok(()));
    }

    #[test]
    fn the_addresses_of_one_network_are_one() {
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::ffff:1".parse().unwrap())
        );
        assert_ne!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8:0:1::1".parse().unwrap())
        );
        assert_eq!(
            network("::ffff:192.0.2.1".parse().unwrap()),
            network("192.0.2.1".parse().unwrap())
        );
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = limits(0, 0);
        assert!((0..10_000).all(|_| limits.sign_in("a@b", address("192.0.2.1")).is_ok()));
    }
}

//! How often somebody may try: by account, whether it exists or not, and by address.

use std::hash::Hash;
use std::net::IpAddr;

use mesh::{RateLimit, network_of};

use crate::domain::Refusal;
use crate::settings::Settings;

/// The limits of `SignUp` and `SignIn`.
#[derive(Debug)]
pub(crate) struct Limits {
    account: RateLimit,
    sign_in_address: RateLimit,
    sign_up_address: RateLimit,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            account: RateLimit::per_minute(settings.tries_per_account),
            sign_in_address: RateLimit::per_minute(settings.tries_per_address),
            sign_up_address: RateLimit::per_minute(settings.sign_ups_per_address),
        }
    }

    /// Counts a try to sign up.
    pub(crate) fn sign_up(&self, email_key: &str, address: Option<IpAddr>) -> Result<(), Refusal> {
        // The address first: who is refused for it uses up nobody's account.
        address.map_or(Ok(()), |address| count(&self.sign_up_address, network_of(address)))?;
        count(&self.account, email_key)
    }

    /// Counts a try to sign in.
    pub(crate) fn sign_in(&self, email_key: &str, address: Option<IpAddr>) -> Result<(), Refusal> {
        address.map_or(Ok(()), |address| count(&self.sign_in_address, network_of(address)))?;
        count(&self.account, email_key)
    }
}

fn count(limit: &RateLimit, who: impl Hash) -> Result<(), Refusal> {
    limit.count(who).map_err(|wait| Refusal::TooManyTries { wait })
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
    fn zero_is_no_limit() {
        let limits = limits(0, 0);
        assert!((0..10_000).all(|_| limits.sign_in("a@b", address("192.0.2.1")).is_ok()));
    }
}

//! What can be set.

use std::num::NonZero;
use std::time::Duration;

pub use mesh::simulate::Delay;

/// The settings of the context, most of them about the simulated provider.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long the simulated provider takes to answer. `TURNSTILE_PAYMENT_DELAY_MS`: `500`, or `400-620` for a
    /// random time between; default 0.
    pub delay: Delay,
    /// How many charges it works on at once, the others waiting in its queue until their deadline.
    /// `TURNSTILE_PAYMENT_CONCURRENCY`; default: no limit.
    pub concurrency: Option<NonZero<usize>>,
    /// The share of charges that it declines. `TURNSTILE_PAYMENT_DECLINE_SHARE`, 0 to 1; default 0.
    pub decline_share: f64,
    /// It declines every charge of more than this, in minor units. `TURNSTILE_PAYMENT_DECLINE_OVER`; default: none.
    pub decline_over: Option<i64>,
    /// The share of calls that it carries out without ever answering. `TURNSTILE_PAYMENT_LOST_REPLY_SHARE`, 0 to 1;
    /// default 0.
    pub lost_reply_share: f64,
    /// How old a charge that waits for the provider must be to be taken for a dead one and undone.
    /// `TURNSTILE_PAYMENT_SWEEP_AFTER`, in seconds; default 30.
    pub sweep_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            delay: Delay::default(),
            concurrency: None,
            decline_share: 0.0,
            decline_over: None,
            lost_reply_share: 0.0,
            sweep_after: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Reads them; what is wrong is noted there.
    pub fn read(settings: &mut mesh::config::Settings) -> Self {
        let default = Self::default();
        let sweep_after =
            settings.read("TURNSTILE_PAYMENT_SWEEP_AFTER", default.sweep_after.as_secs());
        // A charge that is still waited for must not be swept; no call of payment's contract takes longer.
        if !(1..=3600).contains(&sweep_after) {
            settings.fault("TURNSTILE_PAYMENT_SWEEP_AFTER", "must be 1 to 3600 seconds");
        }
        Self {
            delay: settings.read("TURNSTILE_PAYMENT_DELAY_MS", default.delay),
            concurrency: settings.read_optional("TURNSTILE_PAYMENT_CONCURRENCY"),
            decline_share: settings
                .read_with("TURNSTILE_PAYMENT_DECLINE_SHARE", "0", share)
                .unwrap_or(0.0),
            decline_over: settings.read_optional("TURNSTILE_PAYMENT_DECLINE_OVER"),
            lost_reply_share: settings
                .read_with("TURNSTILE_PAYMENT_LOST_REPLY_SHARE", "0", share)
                .unwrap_or(0.0),
            sweep_after: Duration::from_secs(sweep_after),
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Settings, Result<(), String>) {
        mesh_testing::settings(variables, Settings::read)
    }

    #[test]
    fn g10_the_simulated_load_is_set_by_two_variables() {
        let (settings, outcome) = read(&[
            ("TURNSTILE_PAYMENT_DELAY_MS", "400-620"),
            ("TURNSTILE_PAYMENT_CONCURRENCY", "10"),
        ]);
        assert_eq!(outcome, Ok(()));
        assert_eq!(settings.delay, Delay::millis(400..=620));
        assert_eq!(settings.concurrency, NonZero::new(10));
    }

    #[test]
    fn without_settings_the_provider_is_fast_and_approves() {
        let (settings, outcome) = read(&[]);
        assert_eq!(outcome, Ok(()));
        assert_eq!((settings.delay, settings.concurrency), (Delay::default(), None));
        assert_eq!((settings.decline_share, settings.lost_reply_share), (0.0, 0.0));
        assert_eq!(settings.sweep_after, Duration::from_secs(30));
    }

    #[test]
    fn every_bad_value_is_reported() {
        let bad = [
            ("TURNSTILE_PAYMENT_DELAY_MS", "620-400"),
            ("TURNSTILE_PAYMENT_CONCURRENCY", "0"),
            ("TURNSTILE_PAYMENT_DECLINE_SHARE", "1.1"),
            ("TURNSTILE_PAYMENT_DECLINE_OVER", "much"),
            ("TURNSTILE_PAYMENT_LOST_REPLY_SHARE", "NaN"),
            ("TURNSTILE_PAYMENT_SWEEP_AFTER", "0"),
        ];
        let report = read(&bad).1.unwrap_err();
        for (name, _) in bad {
            assert!(report.contains(name), "{report}");
        }
    }
}

//! What can be set.

use std::num::NonZero;

use mesh::simulate::Delay;

/// The settings of the context: the simulated load of `ReserveSeats` (rule G-10).
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How long `ReserveSeats` takes before it works. `TURNSTILE_MUSICAL_DELAY_MS`: `500`, or `400-620` for a random
    /// time between; default 0.
    pub delay: Delay,
    /// How many of them are worked on at once, the others queueing until their deadline.
    /// `TURNSTILE_MUSICAL_CONCURRENCY`; default: no limit.
    pub concurrency: Option<NonZero<usize>>,
}

impl Settings {
    /// Reads them; what is wrong is noted there.
    pub fn read(settings: &mut mesh::config::Settings) -> Self {
        Self {
            delay: settings.read("TURNSTILE_MUSICAL_DELAY_MS", Delay::default()),
            concurrency: settings.read_optional("TURNSTILE_MUSICAL_CONCURRENCY"),
        }
    }
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
            ("TURNSTILE_MUSICAL_DELAY_MS", "400-620"),
            ("TURNSTILE_MUSICAL_CONCURRENCY", "10"),
        ]);
        assert_eq!(outcome, Ok(()));
        assert_eq!(settings.delay, Delay::millis(400..=620));
        assert_eq!(settings.concurrency, NonZero::new(10));
    }

    #[test]
    fn without_settings_there_is_no_load() {
        let (settings, outcome) = read(&[]);
        assert_eq!(outcome, Ok(()));
        assert_eq!((settings.delay, settings.concurrency), (Delay::default(), None));
    }

    #[test]
    fn every_bad_value_is_reported() {
        let bad =
            [("TURNSTILE_MUSICAL_DELAY_MS", "620-400"), ("TURNSTILE_MUSICAL_CONCURRENCY", "0")];
        let report = read(&bad).1.unwrap_err();
        for (name, _) in bad {
            assert!(report.contains(name), "{report}");
        }
    }
}

//! What can be set.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh::auth::Trust;
use mesh::config::Secret;

use crate::domain::PASSWORD_LENGTH;

/// The settings of identity. Those that name a variable can be given; the others are rules that only tests change.
#[derive(Clone)]
pub struct Settings {
    /// What access tokens say of their issuer and audience: the same that the process accepts.
    pub trust: Trust,
    /// The password of the admin that the first start makes; random without one. 8 to 128 characters.
    /// Read from `TURNSTILE_ADMIN_PASSWORD`.
    pub admin_password: Option<Secret>,
    /// Told once, by the start that made the first admin. What is not shown then is lost.
    pub on_first_admin: Arc<dyn Fn(&FirstAdmin) + Send + Sync>,
    /// A mounted folder with the signing keys, `{kid}.pem`; without one they are made in the data folder.
    /// Read from `TURNSTILE_IDENTITY_KEYS`.
    pub keys: Option<PathBuf>,
    /// How often a minute one account may be tried, from wherever; 0 is no limit.
    /// Read from `TURNSTILE_IDENTITY_TRIES_PER_ACCOUNT`, default 10.
    pub tries_per_account: u32,
    /// How often a minute one address may try to sign in; 0 is no limit.
    /// Read from `TURNSTILE_IDENTITY_TRIES_PER_ADDRESS`, default 300.
    pub tries_per_address: u32,
    /// How often a minute one address may try to sign up; 0 is no limit.
    /// Read from `TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS`, default 1000.
    pub sign_ups_per_address: u32,
    /// How long an access token is good for: 15 minutes.
    pub access_token_life: Duration,
    /// How long a refresh token is good for: 30 days.
    pub refresh_token_life: Duration,
    /// How long a spent refresh token is exchanged again: 30 seconds.
    pub refresh_grace: Duration,
    /// How long a new key is published before it signs: 60 seconds, since nobody looks for new keys more often than
    /// every 30.
    pub key_lead: Duration,
    /// How often what has expired is removed: every minute.
    pub housekeeping: Duration,
}

/// The admin that the first start made.
#[derive(Debug)]
pub struct FirstAdmin {
    /// What to sign in as.
    pub email: &'static str,
    /// And with which password.
    pub password: Secret,
    /// Whether the password came from the settings: whoever gave it knows it.
    pub was_given: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("trust", &self.trust)
            .field("keys", &self.keys)
            .field("tries_per_account", &self.tries_per_account)
            .field("tries_per_address", &self.tries_per_address)
            .field("sign_ups_per_address", &self.sign_ups_per_address)
            .finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            admin_password: None,
            on_first_admin: Arc::new(|_| {}),
            keys: None,
            tries_per_account: 10,
            tries_per_address: 300,
            sign_ups_per_address: 1000,
            access_token_life: Duration::from_secs(15 * 60),
            refresh_token_life: Duration::from_secs(30 * 24 * 60 * 60),
            refresh_grace: Duration::from_secs(30),
            key_lead: Duration::from_secs(60),
            housekeeping: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Reads what can be given. `trust` and `on_first_admin` are for the process to set.
    pub fn read(settings: &mut mesh::config::Settings) -> Self {
        let default = Self::default();
        let password = |text: &str| {
            let good = PASSWORD_LENGTH.contains(&text.chars().count())
                && !text.chars().any(char::is_control);
            let (least, most) = (PASSWORD_LENGTH.start(), PASSWORD_LENGTH.end());
            good.then(|| Secret::new(text))
                .ok_or_else(|| format!("must have {least} to {most} characters"))
        };
        Self {
            admin_password: settings.read_with("TURNSTILE_ADMIN_PASSWORD", "random", password),
            keys: settings.read_optional("TURNSTILE_IDENTITY_KEYS"),
            tries_per_account: settings
                .read("TURNSTILE_IDENTITY_TRIES_PER_ACCOUNT", default.tries_per_account),
            tries_per_address: settings
                .read("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", default.tries_per_address),
            sign_ups_per_address: settings
                .read("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", default.sign_ups_per_address),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> mesh::config::Settings {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        mesh::config::Settings::default().environment(pairs)
    }

    #[test]
    fn what_is_given_is_taken() {
        let mut variables = given(&[
            ("TURNSTILE_ADMIN_PASSWORD", "correct horse"),
            ("TURNSTILE_IDENTITY_KEYS", "/keys"),
            ("TURNSTILE_IDENTITY_TRIES_PER_ACCOUNT", "1"),
            ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "2"),
            ("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", "0"),
        ]);
        let settings = Settings::read(&mut variables);
        assert!(variables.finish().is_ok());
        assert_eq!(settings.admin_password, Some(Secret::new("correct horse")));
        assert_eq!(settings.keys, Some(PathBuf::from("/keys")));
        let limits =
            (settings.tries_per_account, settings.tries_per_address, settings.sign_ups_per_address);
        assert_eq!(limits, (1, 2, 0));
    }

    #[test]
    fn nothing_needs_to_be_given() {
        let mut variables = given(&[]);
        let settings = Settings::read(&mut variables);
        assert!(variables.finish().is_ok());
        assert_eq!((settings.admin_password, settings.tries_per_account), (None, 10));
    }

    #[test]
    fn a_short_admin_password_is_a_fault_and_is_not_shown() {
        let mut variables = given(&[("TURNSTILE_ADMIN_PASSWORD", "hunter2")]);
        assert_eq!(Settings::read(&mut variables).admin_password, None);
        let report = variables.finish().unwrap_err().to_string();
        assert!(report.contains("TURNSTILE_ADMIN_PASSWORD=***"), "{report}");
        assert!(report.contains("8 to 128 characters") && !report.contains("hunter2"), "{report}");
    }

    #[test]
    fn a_password_is_not_shown_by_debug() {
        let password = Secret::new("correct horse");
        let settings = Settings { admin_password: Some(password.clone()), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("horse"));
        let admin = FirstAdmin { email: "a", password, was_given: true };
        assert!(!format!("{admin:?}").contains("horse"));
    }
}

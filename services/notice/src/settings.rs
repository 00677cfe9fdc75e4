//! What can be set.

use std::time::Duration;

use mesh::config::Secret;

use crate::domain::Retries;
use crate::mail::{self, BadMail};
use crate::webhook;

const SMTP_URL: &str = "TURNSTILE_NOTICE_SMTP_URL";
const SMTP_PASSWORD: &str = "TURNSTILE_NOTICE_SMTP_PASSWORD";
const MAIL_FROM: &str = "TURNSTILE_NOTICE_MAIL_FROM";
const WEBHOOK_URL: &str = "TURNSTILE_NOTICE_WEBHOOK_URL";
const WEBHOOK_SECRET: &str = "TURNSTILE_NOTICE_WEBHOOK_SECRET";
const ATTEMPTS: &str = "TURNSTILE_NOTICE_ATTEMPTS";
const BACKOFF: &str = "TURNSTILE_NOTICE_BACKOFF_MS";
const LONGEST_BACKOFF: &str = "TURNSTILE_NOTICE_LONGEST_BACKOFF_MS";
const TIMEOUT: &str = "TURNSTILE_NOTICE_TIMEOUT_MS";

/// The fewest characters of a secret that a signature is worth something with.
const SHORTEST_SECRET: usize = 16;

/// The settings of the context.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where mail is sent; without it there is none.
    pub mail: Option<Mail>,
    /// Where notices are posted; without it they are not.
    pub webhook: Option<Webhook>,
    /// How often a notice is tried over a medium. `TURNSTILE_NOTICE_ATTEMPTS`; default 8.
    pub attempts: u32,
    /// The wait after the first attempt in vain, which doubles. `TURNSTILE_NOTICE_BACKOFF_MS`, in milliseconds;
    /// default 1000.
    pub backoff: Duration,
    /// What it doubles up to. `TURNSTILE_NOTICE_LONGEST_BACKOFF_MS`, in milliseconds; default 300000.
    pub longest_backoff: Duration,
    /// How long an attempt may take. `TURNSTILE_NOTICE_TIMEOUT_MS`, in milliseconds; default 10000.
    pub timeout: Duration,
}

/// A mail server, and whom the mail is from.
#[derive(Debug, Clone)]
pub struct Mail {
    /// `TURNSTILE_NOTICE_SMTP_URL`: `smtps://user@host`, `smtp://host?tls=required` for STARTTLS, `smtp://host:25` for
    /// neither; a path is the name to say hello with. It is shown where settings are, so it has no password in it.
    pub url: String,
    /// The password of the user in the URL. `TURNSTILE_NOTICE_SMTP_PASSWORD`; default: none.
    pub password: Option<Secret>,
    /// `TURNSTILE_NOTICE_MAIL_FROM`: `notices@example.com`, or `Notices <notices@example.com>`.
    pub from: String,
}

/// Where notices are posted.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `TURNSTILE_NOTICE_WEBHOOK_URL`: `https://example.com/notices`.
    pub url: String,
    /// What requests are signed with. `TURNSTILE_NOTICE_WEBHOOK_SECRET`, of at least 16 characters.
    pub secret: Secret,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mail: None,
            webhook: None,
            attempts: 8,
            backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(300),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Reads them; what is wrong is noted there.
    pub fn read(settings: &mut mesh::config::Settings) -> Self {
        let default = Self::default();
        let (mail, webhook) = (read_mail(settings), read_webhook(settings));
        let attempts = settings.read(ATTEMPTS, default.attempts);
        if !(1..=1000).contains(&attempts) {
            settings.fault(ATTEMPTS, "must be 1 to 1000");
        }
        let backoff = read_millis(settings, BACKOFF, default.backoff);
        let longest_backoff = read_millis(settings, LONGEST_BACKOFF, default.longest_backoff);
        let timeout = read_millis(settings, TIMEOUT, default.timeout);
        if longest_backoff < backoff {
            settings.fault(LONGEST_BACKOFF, format_args!("must not be less than {BACKOFF}"));
        }
        Self { mail, webhook, attempts, backoff, longest_backoff, timeout }
    }

    pub(crate) fn retries(&self) -> Retries {
        let Self { attempts, backoff, longest_backoff, timeout, .. } = *self;
        Retries { attempts, backoff, longest_backoff, timeout }
    }
}

fn read_mail(settings: &mut mesh::config::Settings) -> Option<Mail> {
    let url: Option<String> = settings.read_optional(SMTP_URL);
    let password = settings.read_optional(SMTP_PASSWORD);
    let from: Option<String> = settings.read_optional(MAIL_FROM);
    let url = url?;
    let Some(from) = from else {
        settings.fault(MAIL_FROM, format_args!("is required with {SMTP_URL}"));
        return None;
    };
    let mail = Mail { url, password, from };
    match mail::open(&mail) {
        Ok(_) => Some(mail),
        Err(error) => {
            // Not with the value, where a password may be.
            let name = if matches!(error, BadMail::From) { MAIL_FROM } else { SMTP_URL };
            settings.fault(name, error);
            None
        }
    }
}

fn read_webhook(settings: &mut mesh::config::Settings) -> Option<Webhook> {
    let url = settings.read_with(WEBHOOK_URL, "-", |text| {
        webhook::url(text).map(|_| text.to_owned()).map_err(str::to_owned)
    });
    let secret = settings.read_with(WEBHOOK_SECRET, "-", |text| {
        let good = text.chars().count() >= SHORTEST_SECRET;
        good.then(|| Secret::new(text))
            .ok_or_else(|| format!("must have at least {SHORTEST_SECRET} characters"))
    });
    let url = url?;
    if secret.is_none() {
        settings.fault(WEBHOOK_SECRET, format_args!("is required with {WEBHOOK_URL}"));
    }
    Some(Webhook { url, secret: secret? })
}

fn read_millis(settings: &mut mesh::config::Settings, name: &str, default: Duration) -> Duration {
    let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
    let millis = settings.read(name, default);
    if !(1..=86_400_000).contains(&millis) {
        settings.fault(name, "must be 1 to 86400000 milliseconds");
    }
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Settings, Result<(), String>) {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut settings = mesh::config::Settings::default().environment(variables);
        let read = Settings::read(&mut settings);
        (read, settings.finish().map(drop).map_err(|error| error.to_string()))
    }

    #[test]
    fn without_settings_there_is_the_inbox_alone() {
        let (settings, outcome) = read(&[]);
        assert_eq!(outcome, Ok(()));
        assert!(settings.mail.is_none() && settings.webhook.is_none());
        assert_eq!((settings.attempts, settings.backoff), (8, Duration::from_secs(1)));
        assert_eq!(settings.longest_backoff, Duration::from_secs(300));
        assert_eq!(settings.timeout, Duration::from_secs(10));
    }

    #[test]
    fn what_is_given_is_taken() {
        let (settings, outcome) = read(&[
            (SMTP_URL, "smtps://jang@mail.example.com"),
            (SMTP_PASSWORD, "hunter2"),
            (MAIL_FROM, "Notices <notices@example.com>"),
            (WEBHOOK_URL, "https://example.com/notices"),
            (WEBHOOK_SECRET, "0123456789abcdef"),
            (ATTEMPTS, "3"),
            (BACKOFF, "10"),
            (LONGEST_BACKOFF, "20"),
            (TIMEOUT, "30"),
        ]);
        assert_eq!(outcome, Ok(()));
        assert!(settings.mail.is_some() && settings.webhook.is_some());
        let durations = [settings.backoff, settings.longest_backoff, settings.timeout];
        assert_eq!(durations, [10, 20, 30].map(Duration::from_millis));
        assert_eq!(settings.attempts, 3);
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("abcdef"), "{shown}");
    }

    #[test]
    fn mail_without_from_and_a_webhook_without_secret_are_faults() {
        let url = (SMTP_URL, "smtp://127.0.0.1:2525");
        let report = read(&[url, (WEBHOOK_URL, "http://127.0.0.1:8080")]).1.unwrap_err();
        assert!(report.contains(MAIL_FROM) && report.contains(WEBHOOK_SECRET), "{report}");
    }

    #[test]
    fn every_bad_value_is_reported() {
        let bad = [
            (SMTP_URL, "http://mail.example.com"),
            (WEBHOOK_URL, "example.com"),
            (WEBHOOK_SECRET, "short"),
            (ATTEMPTS, "0"),
            (BACKOFF, "1001"),
            (LONGEST_BACKOFF, "1000"),
            (TIMEOUT, "0"),
        ];
        let given: Vec<_> = bad.into_iter().chain([(MAIL_FROM, "notices@example.com")]).collect();
        let report = read(&given).1.unwrap_err();
        for (name, _) in bad.iter().filter(|(name, _)| *name != BACKOFF) {
            assert!(report.contains(name), "{report}");
        }
        let report = read(&[(SMTP_URL, "smtp://127.0.0.1"), (MAIL_FROM, "nobody")]).1.unwrap_err();
        assert!(report.contains(MAIL_FROM), "{report}");
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        let url = (SMTP_URL, "smtps://jang:hunter2@mail.example.com");
        let report = read(&[url, (MAIL_FROM, "notices@example.com")]).1.unwrap_err();
        assert!(report.contains(SMTP_URL) && !report.contains("hunter2"), "{report}");
    }
}

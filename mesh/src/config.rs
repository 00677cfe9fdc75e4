//! Settings: a default, then the file, then the environment, then flags; everything that is wrong is reported at once.
//!
//! Each setting has one name, that of its environment variable: `TURNSTILE_PAYMENT_DELAY_MS`. In the file it is the
//! same without the prefix, in lower case, whole or cut into tables: `payment_delay_ms`, or `delay_ms` in `[payment]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;

const PREFIX: &str = "TURNSTILE_";

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Reads settings, and remembers what was read and what was wrong.
#[derive(Debug, Default)]
pub struct Settings {
    given: BTreeMap<String, Given>,
    read: BTreeMap<String, (String, &'static str)>,
    faults: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Given {
    value: Secret,
    by: &'static str,
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not valid:\n  {}", .0.join("\n  "))]
pub struct BadSettings(Vec<String>);

impl Settings {
    /// Takes the variables that are ours.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
        #[cfg(feature = "chaos")]
        let ours = ours.filter(|(name, _)| !crate::chaos::VARIABLES.contains(&name.as_str()));
        for (name, value) in ours {
            self.given.insert(name, Given { value: Secret(value), by: "environment" });
        }
        self
    }

    /// Takes a file in TOML. The environment goes before it, whichever is taken first.
    pub fn file(mut self, text: &str) -> Self {
        match text.parse::<toml::Table>() {
            Ok(table) => self.take_table("TURNSTILE", &table),
            Err(error) => {
                self.faults.insert(format!("the file: {error}"));
            }
        }
        self
    }

    fn take_table(&mut self, prefix: &str, table: &toml::Table) {
        for (key, value) in table {
            let name = format!("{prefix}_{}", key.replace(['.', '-'], "_").to_uppercase());
            let value = match value {
                toml::Value::Table(inner) => {
                    self.take_table(&name, inner);
                    continue;
                }
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            self.given.entry(name).or_insert(Given { value: Secret(value), by: "file" });
        }
    }

    /// Takes a flag of the command line, which goes before everything else.
    pub fn flag(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.given
                .insert(name.to_owned(), Given { value: Secret(value.to_string()), by: "flag" });
        }
        self
    }

    /// Reads a setting. A bad value is noted, and the default taken until [`Settings::finish`] refuses.
    pub fn read<T: FromStr + Display>(&mut self, name: &str, default: T) -> T
    where
        T::Err: Display,
    {
        let value = self.read_with(name, &default.to_string(), |text| {
            text.parse().map_err(|error: T::Err| error.to_string())
        });
        value.unwrap_or(default)
    }

    /// Reads a setting that has no default.
    pub fn read_optional<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: Display,
    {
        self.read_with(name, "-", |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// Reads a setting of a shape of its own; `None` where it is not given or not valid.
    pub fn read_with<T>(
        &mut self,
        name: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(given) = self.given.get(name) else {
            self.read.insert(name.to_owned(), (default.to_owned(), "default"));
            return None;
        };
        let secret =
            ["PASSWORD", "SECRET", "TOKEN", "_KEY"].iter().any(|word| name.ends_with(word))
                || has_user(given.value.reveal());
        let shown = if secret { given.value.to_string() } else { given.value.reveal().to_owned() };
        let parsed = parse(given.value.reveal().trim());
        if let Err(error) = &parsed {
            self.faults.insert(format!("{name}={shown} ({}): {error}", given.by));
        }
        self.read.insert(name.to_owned(), (shown, given.by));
        parsed.ok()
    }

    /// Reads a secret: itself under its name, or the name of a file that holds it under the name with `_FILE`.
    pub fn read_secret(&mut self, name: &str) -> Option<Secret> {
        let in_file = format!("{name}_FILE");
        let file = self.read_file(&in_file).and_then(|file| {
            let text = std::fs::read_to_string(file);
            text.map_err(|error| self.fault(&in_file, error)).ok()
        });
        let file = file.map(|text| Secret::new(text.trim()));
        let given = self.read_optional(name);
        if file.is_some() && given.is_some() {
            self.fault(name, format_args!("is given, and {in_file} as well"));
        }
        given.or(file)
    }

    /// Reads the name of a file; an empty one is none, whatever the file of settings says.
    pub fn read_file(&mut self, name: &str) -> Option<PathBuf> {
        let file: Option<PathBuf> = self.read_optional(name);
        file.filter(|file| !file.as_os_str().is_empty())
    }

    /// Notes something else that is wrong with a setting.
    pub fn fault(&mut self, name: &str, what: impl Display) {
        self.faults.insert(format!("{name}: {what}"));
    }

    /// Every setting that was read, with its value and who gave it. Refuses if anything was wrong, and what nobody
    /// reads: it would be a mistake in a name.
    pub fn finish(mut self) -> Result<Vec<(String, String, &'static str)>, BadSettings> {
        for (name, given) in &self.given {
            if !self.read.contains_key(name) {
                self.faults.insert(format!("{name} ({}): there is no such setting", given.by));
            }
        }
        if !self.faults.is_empty() {
            return Err(BadSettings(self.faults.into_iter().collect()));
        }
        Ok(self.read.into_iter().map(|(name, (value, by))| (name, value, by)).collect())
    }
}

/// Whether a text is an address with a user in it, and so perhaps with a password.
fn has_user(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains('@') || rest.contains("password"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_file() {
        let mut settings = Settings::default()
            .environment(variables(&[
                ("TURNSTILE_A", "env"),
                ("TURNSTILE_B", "env"),
                ("HOME", "x"),
            ]))
            .file("a = 'file'\nb = 'file'\nc = 'file'\n[d]\ne_f = 7")
            .flag("TURNSTILE_A", Some("flag"));
        let mut text = |name: &str| settings.read(name, "default".to_owned());
        let values =
            [text("TURNSTILE_A"), text("TURNSTILE_B"), text("TURNSTILE_C"), text("TURNSTILE_X")];
        assert_eq!(values, ["flag", "env", "file", "default"]);
        assert_eq!(settings.read("TURNSTILE_D_E_F", 0), 7);
        assert!(settings.finish().is_ok());
    }

    #[test]
    fn everything_wrong_is_reported_at_once_and_secrets_are_not_shown() {
        let mut settings = Settings::default().environment(variables(&[
            ("TURNSTILE_PORT", "many"),
            ("TURNSTILE_ADMIN_PASSWORD", "hunter2"),
            ("TURNSTILE_DELYA", "1"),
            ("TURNSTILE_AT", "x://me:hunter2@here"),
        ]));
        settings.read("TURNSTILE_AT", 0);
        settings.read("TURNSTILE_PORT", 1_u16);
        let password: Option<u16> = settings.read_optional("TURNSTILE_ADMIN_PASSWORD");
        assert_eq!(password, None);
        let report = settings.finish().unwrap_err().to_string();
        for part in ["TURNSTILE_PORT=many", "TURNSTILE_ADMIN_PASSWORD=***", "TURNSTILE_DELYA"] {
            assert!(report.contains(part), "{report}");
        }
        assert!(!report.contains("hunter2"), "{report}");
    }

    #[test]
    fn s_32_a_secret_is_given_itself_or_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let named = file.path().display().to_string();
        let (in_file, itself) = (("TURNSTILE_A_KEY_FILE", &*named), ("TURNSTILE_A_KEY", "hunter3"));
        let read = |pairs: &[(&str, &str)]| {
            let mut settings = Settings::default().environment(variables(pairs));
            let secret = settings.read_secret("TURNSTILE_A_KEY");
            (
                secret.map(|secret| secret.reveal().to_owned()),
                settings.finish().map(|all| format!("{all:?}")),
            )
        };
        let (secret, shown) = read(&[in_file]);
        assert_eq!(secret.as_deref(), Some("hunter2"));
        assert!(!shown.unwrap().contains("hunter2"));
        let (secret, shown) = read(&[itself]);
        assert_eq!(secret.as_deref(), Some("hunter3"));
        assert!(!shown.unwrap().contains("hunter3"));
        assert!(read(&[]).1.is_ok());
        let report = read(&[in_file, itself]).1.unwrap_err().to_string();
        assert!(report.contains("as well") && !report.contains("hunter"), "{report}");
        assert!(read(&[("TURNSTILE_A_KEY_FILE", "/nowhere")]).1.is_err());
    }
}

//! Who a notice is for: identity knows the language and the address, and no notice waits until it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::client::Channel;
use mesh::{Accounts, Error, Id, Result, scope};
use proto::identity::v1 as identity;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use tokio::time::{Instant, timeout};

use crate::domain::Language;

/// How long a notice waits for the recipient's language.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a language is known without asking again.
const KNOWN: Duration = Duration::from_secs(60);
/// Of how many recipients at the most.
const MOST_KNOWN: usize = 10_000;

/// Asks identity. Cheap to clone; clones know the same languages.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    client: IdentityServiceClient<Channel>,
    known: Arc<Known>,
}

/// Languages, and when they were asked for.
#[derive(Debug, Default)]
struct Known(Mutex<HashMap<Id<Accounts>, (Language, Instant)>>);

impl Directory {
    pub(crate) fn new(identity: Channel) -> Self {
        Self { client: IdentityServiceClient::new(identity), known: Arc::default() }
    }

    /// Whether identity was asked lately what this recipient is told things in.
    pub(crate) fn knows(&self, recipient: Id<Accounts>) -> bool {
        self.known.language(recipient).is_some()
    }

    /// What the recipient is told things in; English where nobody can say in time.
    pub(crate) async fn language(&self, recipient: Id<Accounts>) -> Language {
        if let Some(language) = self.known.language(recipient) {
            return language;
        }
        let outcome = match timeout(patience(scope::time_left()), self.account(recipient)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::DeadlineExceeded),
        };
        match outcome {
            Ok(account) => {
                let language = Language::of(&account.language_code).unwrap_or_default();
                self.known.remember(recipient, language);
                language
            }
            Err(error) => {
                tracing::info!(account.name = %recipient, %error, "a notice is in English: its recipient's language is not known");
                Language::default()
            }
        }
    }

    /// The recipient's account, with its address.
    pub(crate) async fn account(&self, recipient: Id<Accounts>) -> Result<identity::Account> {
        let request = identity::GetAccountRequest { name: recipient.to_string() };
        let answer = self.client.clone().get_account(request).await?.into_inner();
        answer.account.ok_or_else(|| Error::internal("identity answered without an account"))
    }
}

impl Known {
    fn language(&self, recipient: Id<Accounts>) -> Option<Language> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (language, asked) = known.get(&recipient)?;
        (asked.elapsed() < KNOWN).then_some(*language)
    }

    fn remember(&self, recipient: Id<Accounts>, language: Language) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(recipient, (language, Instant::now()));
    }
}

/// Some of the time is kept to write the notice in.
fn patience(time_left: Option<Duration>) -> Duration {
    time_left.map_or(PATIENCE, |left| PATIENCE.min(left / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_leaves_time_to_write() {
        assert_eq!(patience(None), PATIENCE);
        assert_eq!(patience(Some(Duration::from_secs(1))), PATIENCE);
        assert_eq!(patience(Some(Duration::from_millis(100))), Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_language_is_known_for_a_while_and_not_of_too_many() {
        let (known, id) = (Known::default(), Id::new());
        assert_eq!(known.language(id), None);
        known.remember(id, Language::Korean);
        assert_eq!(known.language(id), Some(Language::Korean));
        tokio::time::advance(KNOWN).await;
        assert_eq!(known.language(id), None);
        for _ in 0..=MOST_KNOWN {
            known.remember(Id::new(), Language::English);
        }
        assert!(known.0.lock().unwrap().len() <= MOST_KNOWN);
    }
}

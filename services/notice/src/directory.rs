//! Who a notice is for: identity knows the language and the address, and no notice waits until it does.

use std::time::Duration;

use mesh::client::Channel;
use mesh::{Accounts, Error, Id, Result, scope};
use proto::identity::v1 as identity;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use tokio::time::timeout;

use crate::domain::Language;

/// How long a notice waits for the recipient's language.
const PATIENCE: Duration = Duration::from_millis(300);

/// Asks identity. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    client: IdentityServiceClient<Channel>,
}

impl Directory {
    pub(crate) fn new(identity: Channel) -> Self {
        Self { client: IdentityServiceClient::new(identity) }
    }

    /// What the recipient is told things in; English where nobody can say in time.
    pub(crate) async fn language(&self, recipient: Id<Accounts>) -> Language {
        let outcome = match timeout(patience(scope::time_left()), self.account(recipient)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::DeadlineExceeded),
        };
        match outcome {
            Ok(account) => Language::of(&account.language_code).unwrap_or_default(),
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
}

//! A new password for somebody who has forgotten the old one, set by whoever has the data.

use mesh::config::Secret;
use mesh::{Context, Error, Result, Store, Wiring};

use crate::domain::Email;
use crate::passwords::Passwords;
use crate::{MIGRATIONS, NAME, store};

/// Identity for nothing but this: when it has started, the account has the new password, and none of its refresh tokens
/// is good any more. Refuses with `NOT_FOUND` where nobody has the email.
pub fn password_reset(email: &str, password: Secret) -> Context {
    let email = email.to_owned();
    Context::new(
        NAME,
        || MIGRATIONS,
        move |kit| Ok(Wiring::default().first(reset(kit.store(), email.clone(), password.clone()))),
    )
}

async fn reset(store: Store, email: String, password: Secret) -> Result<()> {
    let key = Email::parse(&email).map_err(|_| Error::NotFound(email.clone()))?.key();
    let hash = Passwords::new().hash(password).await?;
    store
        .write(move |tx| {
            let known = store::account_by_email(tx, &key)?;
            let (account, _) = known.ok_or(Error::NotFound(email))?;
            store::save_password(tx, account.id, &hash)?;
            store::revoke_all(tx, account.id)
        })
        .await
}

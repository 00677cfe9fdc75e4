//! The first start on an empty store makes somebody who may do everything (ID-5).

use mesh::auth::random_text;
use mesh::config::Secret;
use mesh::{Result, Store};
use proto::identity::v1 as api;

use crate::domain::{Account, Email, Language, Role};
use crate::passwords::Passwords;
use crate::settings::{FirstAdmin, Settings};
use crate::store;

const EMAIL: &str = "admin@localhost";
/// 144 random bits, still short enough to type.
const PASSWORD_LENGTH: usize = 24;

/// Makes the admin if nobody has an account, and tells the password once.
pub(crate) async fn make(store: Store, passwords: Passwords, settings: Settings) -> Result<()> {
    if !store.read(store::is_empty).await? {
        return Ok(());
    }
    let password = settings
        .admin_password
        .clone()
        .unwrap_or_else(|| Secret::new(&random_text()[..PASSWORD_LENGTH]));
    let hash = passwords.hash(password.clone()).await?;
    let email = Email::parse(EMAIL).map_err(mesh::Error::internal)?;
    let made = store
        .write(move |tx| {
            // Asked again: the hash took a while.
            if !store::is_empty(tx)? {
                return Ok(false);
            }
            let (mut admin, created) =
                Account::sign_up(email, "", Language::default(), mesh::now());
            let granted = admin.grant(Role::Admin);
            store::add_account(tx, &admin, &hash)?;
            tx.publish(admin.id, admin.id, &api::AccountCreated::from(created))?;
            if let Some(granted) = granted {
                tx.publish(admin.id, admin.id, &api::RoleGranted::from(granted))?;
            }
            Ok(true)
        })
        .await?;
    if made {
        tracing::info!(account.email = EMAIL, "the first admin was made");
        let was_given = settings.admin_password.is_some();
        (settings.on_first_admin)(&FirstAdmin { email: EMAIL, password, was_given });
    }
    Ok(())
}

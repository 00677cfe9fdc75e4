//! What an operator does with the data itself: backups, and a password that nobody knows any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::config::Secret;
use mesh::{Error, Mesh, Options, StartError};
use proto::mesh::v1::BackUpRequest;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;

use crate::Outcome;
use crate::cli::{BackupOptions, Cli, RestoreOptions, UpOptions};
use crate::client;
use crate::settings::{self, out};
use crate::system;

/// 144 random bits, still short enough to type.
const PASSWORD_LENGTH: usize = 24;

/// `turnstile backup NAME`.
pub(crate) async fn back_up(options: BackupOptions) -> Outcome {
    if let Some(data) = &options.data {
        let backup = mesh::backup::back_up_stopped(data, &options.name)?;
        let folder = data.join(mesh::backup::FOLDER).join(&options.name);
        out(format_args!("{} stores are in {}", backup.stores.len(), folder.display()));
        return Ok(());
    }
    let channel = client::connect(&options.target).await?;
    let (_, admin) = client::sign_in(&channel, &options.admin, &client::admin_password()?).await?;
    let request = BackUpRequest { request_id: client::request_id(), name: options.name.clone() };
    let mut answers = OperationsServiceClient::new(admin).back_up(request).await?.into_inner();
    let mut copied = false;
    while let Some(answer) = answers.message().await? {
        let Some(backup) = answer.backup else {
            eprintln!("copied {}", answer.store);
            copied = true;
            continue;
        };
        // Of one that was there already no store is copied.
        if !copied {
            return Err(format!("there is a backup with the name {}", options.name).into());
        }
        let held = backup.hold_duration.and_then(|held| Duration::try_from(held).ok());
        out(format_args!(
            "{} stores, {} bytes, are in {} of the data folder; nothing was committed for {:.1} ms",
            backup.store_count,
            backup.size_bytes,
            backup.folder,
            held.unwrap_or_default().as_secs_f64() * 1e3
        ));
        return Ok(());
    }
    Err("the backup ended without a word".into())
}

/// `turnstile restore BACKUP`.
pub(crate) fn restore(cli: &Cli, options: RestoreOptions) -> Outcome {
    let flags = UpOptions { data: options.data, ..UpOptions::default() };
    let config = settings::read(cli, Some(&flags))?;
    let contexts = system::contexts(&config);
    let restored =
        mesh::backup::restore(&options.backup, &config.data, &contexts, options.replace)?;
    for store in &restored.manifest.stores {
        out(format_args!("{:<24} {:>10} events", store.name, store.head));
    }
    if let Some(aside) = restored.aside {
        out(format_args!("what was there before is in {}", aside.display()));
    }
    out(format_args!("restored into {}", config.data.display()));
    Ok(())
}

/// `turnstile admin reset-password EMAIL`.
pub(crate) async fn reset_password(cli: &Cli, email: &str, data: Option<PathBuf>) -> Outcome {
    let flags = UpOptions { data, ..UpOptions::default() };
    let config = settings::read(cli, Some(&flags))?;
    if !has_accounts(&config.data) {
        return Err(format!("there are no accounts in {}", config.data.display()).into());
    }
    let given = config.identity.admin_password;
    let password =
        given.clone().unwrap_or_else(|| Secret::new(&mesh::auth::random_text()[..PASSWORD_LENGTH]));
    let mesh = Mesh::new(Options::new(&config.data))?;
    let reset = mesh.start(&identity::password_reset(email, password.clone())).await;
    mesh.shut_down().await;
    match reset {
        Ok(()) => {}
        Err(StartError::Wiring { cause: Error::NotFound(_), .. }) => {
            return Err(format!("nobody has the email {email}").into());
        }
        Err(error) => return Err(error.into()),
    }
    if given.is_some() {
        out(format_args!("{email} has the password of TURNSTILE_ADMIN_PASSWORD"));
    } else {
        out(format_args!("{email} has the password {}", password.reveal()));
        out(format_args!("it is shown this once; keep it"));
    }
    Ok(())
}

fn has_accounts(data: &Path) -> bool {
    data.join("identity.sqlite").exists()
}

//! `turnstile migrate`: tables in PostgreSQL, by somebody who may make them.

use crate::Outcome;
use crate::cli::{Cli, MigrateOptions};
use crate::settings::{self, out};
use crate::system;

pub(crate) async fn migrate(cli: &Cli, options: MigrateOptions) -> Outcome {
    let mut config = settings::read(cli, None)?;
    if let Some(url) = options.url {
        let urls = config.stores.all.iter_mut().chain(config.stores.apart.values_mut().flatten());
        urls.for_each(|store| store.clone_from(&url));
    }
    #[expect(clippy::disallowed_methods, reason = "nobody waits for anything else")]
    let migrated = tokio::task::spawn_blocking(move || {
        let mesh = config.options();
        let contexts = system::contexts(&config);
        contexts.iter().map(|context| context.migrate(&mesh)).collect::<Result<Vec<_>, _>>()
    });
    let migrated = migrated.await??.concat();
    if migrated.is_empty() {
        return Err("no store is in a database: TURNSTILE_STORE names none".into());
    }
    for (store, applied) in migrated {
        let what = if applied.is_empty() { "is up to date".to_owned() } else { applied.join(", ") };
        out(format_args!("{store}: {what}"));
    }
    Ok(())
}

//! Taking a backup, of a process that runs or of a folder that nobody uses.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use futures::future::try_join_all;
use tokio::sync::mpsc::UnboundedSender;

use super::restore::read;
use super::{
    BackupError, FOLDER, FORMAT, MANIFEST, Manifest, StoreCopy, copy_all, is_beside, list,
    make_private, store_file, stores_in, sync, write_private,
};
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::store::{Closed, Copy, Hold, Store, lock};
use crate::time::micros;

/// A backup on its way: in a folder that is no backup yet.
struct Taking {
    data: PathBuf,
    name: String,
    copies: Vec<(String, Copy)>,
    time: SystemTime,
    held: i64,
}

impl Taking {
    /// Opens everything, so that the moment itself is short.
    fn prepare(data: &Path, name: &str, stores: &[String]) -> Result<Self, BackupError> {
        let taking = Self {
            data: data.to_owned(),
            name: name.to_owned(),
            copies: Vec::new(),
            time: crate::now(),
            held: 0,
        };
        if taking.target().exists() {
            return Err(BackupError::Taken(name.to_owned()));
        }
        if let Some(missing) = stores_in(data)?.into_iter().find(|store| !stores.contains(store)) {
            return Err(BackupError::NotRunning(missing));
        }
        // Of one that was given up.
        let _ = std::fs::remove_dir_all(taking.partial());
        make_private(&taking.partial())?;
        let copies = stores.iter().map(|store| {
            let (source, file) = (store_file(data, store), store_file(&taking.partial(), store));
            let copy = Copy::prepare(&source, &file);
            Ok((store.clone(), copy.map_err(BackupError::of(format!("opening {store}")))?))
        });
        let copies = copies.collect::<Result<Vec<_>, BackupError>>()?;
        Ok(Self { copies, ..taking })
    }

    fn target(&self) -> PathBuf {
        self.data.join(FOLDER).join(&self.name)
    }

    fn partial(&self) -> PathBuf {
        self.data.join(FOLDER).join(format!(".{}.partial", self.name))
    }

    /// The moment: nothing is committed anywhere while `held` is there.
    fn fix(&mut self, held: Vec<Hold>, since: Instant) -> Result<(), BackupError> {
        self.time = crate::now();
        for (store, copy) in &mut self.copies {
            copy.fix().map_err(BackupError::of(format!("reading {store}")))?;
        }
        drop(held);
        self.held = i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX);
        Ok(())
    }

    fn finish(mut self, tell: &dyn Fn(&str)) -> Result<Manifest, BackupError> {
        let partial = self.partial();
        let mut stores = Vec::new();
        for (name, copy) in std::mem::take(&mut self.copies) {
            let file = store_file(&partial, &name);
            let failed = || BackupError::of(format!("copying {name}"));
            copy.finish().map_err(failed())?;
            let facts = Closed::open(&file).and_then(|mut copy| copy.facts()).map_err(failed())?;
            let bytes = file.metadata().map_err(|error| failed()(error.into()))?.len();
            tell(&name);
            stores.push(StoreCopy { name, epoch: facts.epoch, head: facts.head, bytes });
        }
        for file in list(&self.data)?.iter().filter(|file| is_beside(file)) {
            copy_all(file, &partial.join(file.file_name().unwrap_or_default()))?;
        }
        let manifest =
            Manifest { format: FORMAT, time: micros(self.time), held: self.held, stores };
        let failed = || BackupError::of("writing the backup");
        let text =
            serde_json::to_string_pretty(&manifest).map_err(|error| failed()(error.into()))?;
        write_private(&partial.join(MANIFEST), &text)?;
        sync(&partial)?;
        // From here on it is one.
        std::fs::rename(&partial, self.target()).map_err(failed())?;
        sync(&self.data.join(FOLDER))?;
        Ok(manifest)
    }
}

/// Takes a backup of a folder that no process uses, into its own `backups`.
pub fn back_up_stopped(data: &Path, name: &str) -> Result<Manifest, BackupError> {
    let stores = stores_in(data)?;
    if stores.is_empty() {
        return Err(BackupError::NoStore(data.to_owned()));
    }
    let locks = stores.iter().map(|store| lock(&store_file(data, store)));
    let locks = locks.collect::<Result<Vec<_>, _>>()?;
    let mut taking = Taking::prepare(data, name, &stores)?;
    taking.fix(Vec::new(), Instant::now())?;
    let manifest = taking.finish(&|_| {});
    drop(locks);
    manifest
}

/// Takes a backup of every store of this process, unless there is one of this name; tells each store that has been
/// copied.
pub(crate) async fn back_up(
    registry: &Registry,
    name: &str,
    told: UnboundedSender<String>,
) -> Result<Manifest> {
    let _alone = registry.backing_up.lock().await;
    let stores: Vec<Store> = {
        let running = registry.running();
        running.values().flat_map(|running| running.stores.iter().cloned()).collect()
    };
    let names: Vec<_> = stores.iter().map(|store| store.context().to_owned()).collect();
    let (data, name) = (registry.options.data.clone(), name.to_owned());
    let target = data.join(FOLDER).join(&name);
    if let Ok(manifest) = blocking(move || read(&target)).await {
        return Ok(manifest);
    }
    let mut taking = blocking(move || Taking::prepare(&data, &name, &names)).await?;
    let begun = Instant::now();
    let held = try_join_all(stores.iter().map(Store::hold)).await?;
    let manifest = blocking(move || {
        taking.fix(held, begun)?;
        taking.finish(&|store| {
            // Nobody may be listening any more; the backup is taken all the same.
            let _ = told.send(store.to_owned());
        })
    })
    .await?;
    tracing::info!(held_us = manifest.held, stores = manifest.stores.len(), "a backup was taken");
    Ok(manifest)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T> {
    #[expect(clippy::disallowed_methods, reason = "it copies files; one backup is one thread")]
    let outcome = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    outcome.map_err(|error| match error {
        BackupError::NotRunning(context) => Error::unavailable(context),
        error => Error::internal(error),
    })
}

//! Putting a backup into a folder, where it begins a new life.
//!
//! A restored log goes back in time: who has read further must notice. So each restored store begins a new epoch, and
//! a consumer that was not restored with it is refused with `EPOCH_CHANGED`. Those that were go on where they were:
//! their cursors are of the same moment, and are moved to the new epoch with it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::{
    BackupError, FORMAT, MANIFEST, Manifest, copy_all, is_beside, list, make_private, store_file,
    stores_in, sync,
};
use crate::context::Context;
use crate::store::{Closed, lock};
use crate::time::micros;

/// Where the files are on their way; while it is there, the folder is not whole.
const ON_THE_WAY: &str = ".restoring";
/// What was in the folder before.
pub(super) const ASIDE: &str = "before-restore-";

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// From which backup.
    pub manifest: Manifest,
    /// Where the data is that was there before.
    pub aside: Option<PathBuf>,
}

/// Refuses a folder in which a restore ended halfway.
pub fn refuse_unfinished(data: &Path) -> Result<(), BackupError> {
    let unfinished = data.join(ON_THE_WAY).exists();
    if unfinished { Err(BackupError::Unfinished(data.to_owned())) } else { Ok(()) }
}

/// Restores `backup` into `data`, which nobody uses. Data that is there is put aside, or refused.
pub fn restore(
    backup: &Path,
    data: &Path,
    contexts: &[Context],
    replace: bool,
) -> Result<Restored, BackupError> {
    let manifest = read(backup)?;
    let there = stores_in(data)?;
    if !replace {
        refuse_unfinished(data)?;
        if !there.is_empty() {
            return Err(BackupError::HasData(data.to_owned()));
        }
    }
    make_private(data)?;
    let names: BTreeSet<_> =
        there.iter().chain(manifest.stores.iter().map(|store| &store.name)).collect();
    let locks = names.into_iter().map(|name| lock(&store_file(data, name)));
    let locks = locks.collect::<Result<Vec<_>, _>>()?;

    let coming = data.join(ON_THE_WAY);
    // Of one that did not finish: the backup is still whole.
    let _ = std::fs::remove_dir_all(&coming);
    let prepared =
        copy_all(backup, &coming).and_then(|()| begin_epochs(&coming, &manifest, contexts));
    if let Err(error) = prepared {
        // Nothing has been touched yet.
        let _ = std::fs::remove_dir_all(&coming);
        return Err(error);
    }
    let aside = swap(data, &coming)?;
    drop(locks);
    Ok(Restored { manifest, aside })
}

/// What a backup says of itself.
pub(super) fn read(backup: &Path) -> Result<Manifest, BackupError> {
    let text = std::fs::read_to_string(backup.join(MANIFEST)).ok();
    let manifest = text.and_then(|text| serde_json::from_str::<Manifest>(&text).ok());
    manifest
        .filter(|manifest| manifest.format == FORMAT && !manifest.stores.is_empty())
        .ok_or_else(|| BackupError::NotABackup(backup.to_owned()))
}

/// Checks every copy, and gives all of them a new epoch together.
fn begin_epochs(
    folder: &Path,
    manifest: &Manifest,
    contexts: &[Context],
) -> Result<(), BackupError> {
    let mut copies = Vec::new();
    let mut epochs = HashMap::new();
    for store in &manifest.stores {
        let file = store_file(folder, &store.name);
        let failed = || BackupError::of(format!("reading {}", store.name));
        if !file.exists() {
            return Err(BackupError::NotOneMoment(format!("{} is missing", store.name)));
        }
        let mut copy = Closed::open(&file).map_err(failed())?;
        let context = contexts.iter().find(|context| *context.name == *store.name);
        let migrations = context.map(|context| (context.migrations)().sqlite);
        copy.check(&file, &store.name, migrations)?;
        let facts = copy.facts().map_err(failed())?;
        if (&facts.context, &facts.epoch, facts.head) != (&store.name, &store.epoch, store.head) {
            let message = format!("{} is not the copy that was taken", store.name);
            return Err(BackupError::NotOneMoment(message));
        }
        epochs.insert(store.name.clone(), (facts, crate::uuid().to_string()));
        copies.push((store.name.as_str(), copy));
    }
    let others: Vec<_> = epochs
        .iter()
        .map(|(source, (facts, new))| (source.clone(), facts.epoch.clone(), new.clone()))
        .collect();
    for (name, mut copy) in copies {
        let failed = || BackupError::of(format!("restoring {name}"));
        for (policy, source, epoch, position) in copy.cursors().map_err(failed())? {
            let source_is = epochs.get(&source).filter(|(facts, _)| facts.epoch == epoch);
            if source_is.is_some_and(|(facts, _)| position > facts.head) {
                let message = format!("{policy} is further than the log of {source}");
                return Err(BackupError::NotOneMoment(message));
            }
        }
        copy.begin_epoch(&epochs[name].1, &others).map_err(failed())?;
    }
    Ok(())
}

/// Puts aside what is there, and in its place what has come.
fn swap(data: &Path, coming: &Path) -> Result<Option<PathBuf>, BackupError> {
    let into = |file: &Path, folder: &Path| {
        std::fs::rename(file, folder.join(file.file_name().unwrap_or_default()))
            .map_err(BackupError::of(format!("moving {}", file.display())))
    };
    let is_data = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        is_beside(file) || name.contains(".sqlite")
    };
    let there: Vec<_> = list(data)?.into_iter().filter(is_data).collect();
    let mut aside = None;
    if !there.is_empty() {
        let folder = data.join(format!("{ASIDE}{}", micros(crate::now())));
        make_private(&folder)?;
        for file in there {
            into(&file, &folder)?;
        }
        aside = Some(folder);
    }
    for file in list(coming)?.iter().filter(|file| !file.ends_with(MANIFEST)) {
        into(file, data)?;
    }
    sync(data)?;
    std::fs::remove_dir_all(coming).map_err(BackupError::of("restoring"))?;
    sync(data)?;
    Ok(aside)
}

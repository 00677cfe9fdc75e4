//! Backups: every store of a process as it was at one and the same moment, and the files beside them.
//!
//! Copies that are made one after another do not fit together: a consumer may have had an effect that its source has
//! not told yet. So all writers are held for the moment in which every copy begins; it shows what a power failure in
//! that moment would have left, which is what every context can begin with. The copying itself takes its time while
//! the stores go on.

mod restore;
mod take;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use restore::{Restored, refuse_unfinished, restore};
pub(crate) use take::back_up;
pub use take::back_up_stopped;

use crate::store::OpenError;

/// Where backups are, in the data folder.
pub const FOLDER: &str = "backups";
/// What a backup says of itself; written last.
const MANIFEST: &str = "backup.json";
/// The only shape of a backup so far.
const FORMAT: u32 = 1;
const STORE: &str = "sqlite";

/// What a backup is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The moment it shows: microseconds since 1970, UTC.
    pub time: i64,
    /// For how long the writers were held: microseconds.
    pub held: i64,
    /// The stores, by name.
    pub stores: Vec<StoreCopy>,
}

/// The copy of one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCopy {
    /// The context, or what it keeps apart: `homemovie.app`, `payment-provider`.
    pub name: String,
    /// Which life of its log.
    pub epoch: String,
    /// The last position of its log.
    pub head: i64,
    /// How large the file is.
    pub bytes: u64,
}

/// Why there is no backup, or nothing was restored. For the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A store is in use, damaged, of another context, or from a newer release.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// There is nothing to take a backup of.
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    /// A store of the folder belongs to a context that does not run here: the backup would not be whole.
    #[error(
        "the context {0} does not run: start it, or stop everything and take the backup from the folder"
    )]
    NotRunning(String),
    /// The name is taken.
    #[error("there is a backup with the name {0}")]
    Taken(String),
    /// The folder is no backup, or one that was not finished.
    #[error("{} is not a whole backup", .0.display())]
    NotABackup(PathBuf),
    /// The folder has data.
    #[error("{} has data: say --replace to put it aside", .0.display())]
    HasData(PathBuf),
    /// The copies were not made at the same moment, or not all of them are there.
    #[error("the backup does not fit together: {0}")]
    NotOneMoment(String),
    /// A restore ended halfway.
    #[error("a restore into {} did not finish: run it again, with --replace", .0.display())]
    Unfinished(PathBuf),
    /// A file or a database failed.
    #[error("{what} failed")]
    Failed {
        /// What was being done.
        what: String,
        /// What failed.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BackupError {
    /// Says what was being done when something failed.
    fn of<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: impl ToString,
    ) -> impl FnOnce(E) -> Self {
        let what = what.to_string();
        move |cause| Self::Failed { what, cause: cause.into() }
    }
}

/// The names of the stores in a folder.
fn stores_in(folder: &Path) -> Result<Vec<String>, BackupError> {
    let mut stores = Vec::new();
    if !folder.exists() {
        return Ok(stores);
    }
    for file in list(folder)? {
        if file.extension().is_some_and(|ending| ending == STORE)
            && let Some(name) = file.file_stem()
        {
            stores.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(stores)
}

/// What is in a folder, by name.
fn list(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let failed = || BackupError::of(format!("reading {}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed())? {
        files.push(entry.map_err(failed())?.path());
    }
    files.sort();
    Ok(files)
}

fn store_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.{STORE}"))
}

/// Copies a file or a folder with all that is in it, for nobody else to read, onto the disk.
fn copy_all(from: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = || BackupError::of(format!("copying {}", from.display()));
    if from.is_dir() {
        make_private(to)?;
        for file in list(from)? {
            copy_all(&file, &to.join(file.file_name().unwrap_or_default()))?;
        }
        return sync(to);
    }
    std::fs::copy(from, to).map_err(failed())?;
    let only_us = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(to, only_us).map_err(failed())?;
    sync(to)
}

fn make_private(folder: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(BackupError::of(format!("making {}", folder.display())))
}

fn write_private(file: &Path, text: &str) -> Result<(), BackupError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(BackupError::of(format!("writing {}", file.display())))
}

/// What was written, or the names in a folder, onto the disk.
fn sync(path: &Path) -> Result<(), BackupError> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(BackupError::of(format!("writing {}", path.display())))
}

/// Everything in a data folder that is neither a store nor about one, nor a backup: keys, above all.
fn is_beside(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let of_a_store = ["sqlite", "sqlite-wal", "sqlite-shm", "sqlite-journal", "lock"];
    !name.starts_with('.')
        && name != FOLDER
        && !name.starts_with(restore::ASIDE)
        && !of_a_store.iter().any(|ending| name.ends_with(&format!(".{ending}")))
}

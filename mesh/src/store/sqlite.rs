//! A store of SQLite's: one file, one process, one writer. Opening it locks it, sets what durability depends on, brings
//! its tables up to date, and refuses what would put data at risk.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::open::{OpenError, Opened};
use super::schema::{mesh_event_head, mesh_meta};
use super::writer::Engine;
use super::{Conn, READERS, release};

pub(super) const KIT: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The first SQLite without the bug that can corrupt a log that is reset while it is read.
const OLDEST_SQLITE: i32 = 3_051_003;

/// How long a file may be locked by somebody who looks into it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a process that this one has just begun may have what this one has closed: until it runs its own program.
const FORKED: Duration = Duration::from_millis(500);

pub(super) fn open(
    context: &str,
    file: &Path,
    migrations: EmbeddedMigrations,
) -> Result<Opened, OpenError> {
    let failed = |cause: Box<dyn std::error::Error + Send + Sync>| OpenError::Failed {
        file: file.to_owned(),
        cause,
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
    }
    let lock = lock(file)?;

    let mut sqlite = connect(file)?;
    refuse_others(&mut sqlite, context, file)?;
    let migrations = release::migrations(KIT, migrations);
    refuse_newer(&mut sqlite, &migrations, file)?;
    for source in migrations {
        sqlite.run_pending_migrations(source).map_err(failed)?;
    }

    let mut writer = Conn::Sqlite(sqlite);
    let mut meta = |key: &str, value: String| {
        remember(&mut writer, key, value).map_err(|error| failed(error.into()))
    };
    meta("context", context.to_owned())?;
    let epoch = meta("epoch", crate::uuid().to_string())?;
    let secret = meta("secret", crate::auth::random_text())?;
    let head = mesh_event_head::table
        .select(mesh_event_head::position)
        .first(&mut writer)
        .map_err(|error| failed(error.into()))?;
    let readers = Pool::builder()
        .max_size(READERS)
        .min_idle(Some(1))
        .connection_timeout(Duration::from_millis(250))
        // A file does not hang up.
        .test_on_check_out(false)
        .connection_customizer(Box::new(ReadOnly))
        .build(ConnectionManager::<Conn>::new(file.to_string_lossy()))
        .map_err(|error| failed(error.into()))?;
    let engine = Engine::Sqlite { _lock: lock };
    Ok(Opened { writer, readers, engine, head, epoch, secret: secret.into_bytes() })
}

/// One process a store: two writers would wait for each other's locks and lose.
pub(crate) fn lock(file: &Path) -> Result<File, OpenError> {
    let path = file.with_extension("lock");
    let failed =
        |cause: std::io::Error| OpenError::Failed { file: file.to_owned(), cause: cause.into() };
    let mut lock = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let begun = Instant::now();
    let locked = loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < FORKED => wait_a_little(),
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let process = std::fs::read_to_string(&path).unwrap_or_default();
            let process =
                if process.is_empty() { process } else { format!(" (process {})", process.trim()) };
            return Err(OpenError::InUse { file: file.to_owned(), process });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    lock.set_len(0).map_err(failed)?;
    writeln!(lock, "{}", std::process::id()).map_err(failed)?;
    Ok(lock)
}

#[expect(clippy::disallowed_methods, reason = "opening has a thread of its own, nothing to await")]
fn wait_a_little() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Somebody may be looking into the file, and the last one to leave locks it for a moment: SQLite does not wait for that
/// by itself.
fn connect(file: &Path) -> Result<SqliteConnection, OpenError> {
    let begun = Instant::now();
    loop {
        let sqlite = SqliteConnection::establish(&file.to_string_lossy());
        let outcome = match sqlite {
            Ok(mut sqlite) => set_durable(&mut sqlite, file).map(|()| sqlite),
            Err(error) => Err(OpenError::Failed { file: file.to_owned(), cause: error.into() }),
        };
        match outcome {
            Err(error) if begun.elapsed() < PATIENCE && error.to_string().contains("locked") => {
                wait_a_little();
            }
            outcome => return outcome,
        }
    }
}

/// Write-ahead log, and every commit on the disk before it is answered: read back, because a pragma that does not take
/// says nothing.
fn set_durable(sqlite: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let not_durable = |why: String| OpenError::NotDurable { file: file.to_owned(), why };
    let version = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>("sqlite_version()"))
        .get_result::<String>(sqlite)
        .map_err(|error| not_durable(error.to_string()))?;
    if version_number(&version) < OLDEST_SQLITE {
        return Err(not_durable(format!("SQLite {version} is older than 3.51.3")));
    }
    sqlite
        .batch_execute(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON; PRAGMA cache_size = -8000; PRAGMA temp_store = MEMORY;
             PRAGMA wal_autocheckpoint = 4000;",
        )
        .map_err(|error| not_durable(error.to_string()))?;
    let synchronous = diesel::dsl::sql::<diesel::sql_types::Integer>(
        "SELECT synchronous FROM pragma_synchronous",
    );
    let journal =
        diesel::dsl::sql::<diesel::sql_types::Text>("SELECT journal_mode FROM pragma_journal_mode");
    match (synchronous.get_result::<i32>(sqlite), journal.get_result::<String>(sqlite)) {
        (Ok(2), Ok(mode)) if mode == "wal" => Ok(()),
        other => Err(not_durable(format!("synchronous, journal_mode = {other:?}"))),
    }
}

fn version_number(version: &str) -> i32 {
    version.split('.').fold(0, |number, part| number * 1000 + part.parse::<i32>().unwrap_or(0))
}

/// Before anything is done to it. An error of the query: the store is new and has no tables yet.
pub(super) fn refuse_others(
    sqlite: &mut SqliteConnection,
    context: &str,
    file: &Path,
) -> Result<(), OpenError> {
    let owner = mesh_meta::table.find("context").select(mesh_meta::value).first::<String>(sqlite);
    match owner {
        Ok(owner) if owner != context => Err(OpenError::OtherContext {
            file: file.to_owned(),
            owner,
            context: context.to_owned(),
        }),
        _ => Ok(()),
    }
}

pub(super) fn refuse_newer(
    sqlite: &mut SqliteConnection,
    migrations: &[EmbeddedMigrations],
    file: &Path,
) -> Result<(), OpenError> {
    let failed = |cause| OpenError::Failed { file: file.to_owned(), cause };
    let applied = sqlite.applied_migrations().map_err(failed)?;
    if applied.is_empty() {
        return Ok(());
    }
    let applied: Vec<_> = applied.iter().map(ToString::to_string).collect();
    let known = release::versions::<Sqlite>(migrations).map_err(failed)?;
    let adds = release::adds().load(sqlite).map_err(|error| failed(error.into()))?;
    match release::too_new(&applied, &known, &adds) {
        Some(migration) => {
            Err(OpenError::Newer { file: file.to_owned(), migration: migration.clone() })
        }
        None => Ok(()),
    }
}

/// The value kept under `key`; `value` the first time.
fn remember(conn: &mut Conn, key: &str, value: String) -> QueryResult<String> {
    let kept = mesh_meta::table.find(key).select(mesh_meta::value).first(conn).optional()?;
    if let Some(kept) = kept {
        return Ok(kept);
    }
    diesel::insert_into(mesh_meta::table)
        .values((mesh_meta::key.eq(key), mesh_meta::value.eq(&value)))
        .execute(conn)?;
    Ok(value)
}

#[derive(Debug)]
struct ReadOnly;

impl CustomizeConnection<Conn, diesel::r2d2::Error> for ReadOnly {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), diesel::r2d2::Error> {
        conn.batch_execute(
            "PRAGMA busy_timeout = 5000; PRAGMA cache_size = -2000; PRAGMA query_only = ON;",
        )
        .map_err(diesel::r2d2::Error::QueryError)
    }
}

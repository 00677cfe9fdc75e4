//! Opening a store, whatever its engine.

use std::path::PathBuf;

use diesel::r2d2::{ConnectionManager, Pool};
use diesel_migrations::EmbeddedMigrations;

use super::writer::Engine;
use super::{Conn, StoreAt, postgres, sqlite};

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A context's tables, for each engine.
pub struct Migrations {
    /// For files.
    pub sqlite: EmbeddedMigrations,
    /// For PostgreSQL.
    pub postgres: EmbeddedMigrations,
}

impl std::fmt::Debug for Migrations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Migrations")
    }
}

/// Why a store could not be opened. The messages are for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {} is in use by another process{}", .file.display(), .process)]
    InUse {
        /// The store's file.
        file: PathBuf,
        /// Which process, where it is known.
        process: String,
    },
    /// A newer release has been here.
    #[error("the store {} was written by a newer release (it knows migration {migration}, this one does not): \
             run that release, or restore an older backup", .file.display())]
    Newer {
        /// The store's file.
        file: PathBuf,
        /// The migration that is not known here.
        migration: String,
    },
    /// It belongs to somebody else.
    #[error("the store {} belongs to the context {owner}, not to {context}", .file.display())]
    OtherContext {
        /// The store's file.
        file: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who tried to open it.
        context: String,
    },
    /// A setting that durability depends on did not take.
    #[error("the store {} cannot be durable: {why}", .file.display())]
    NotDurable {
        /// The store's file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Its tables are not those of this release yet.
    #[error("the store {store} has not the tables of this release yet: run `turnstile migrate`")]
    NotMigrated {
        /// Which store.
        store: String,
    },
    /// The database refused, or is not fit for it.
    #[error("the store {store} cannot be opened: {cause}")]
    Database {
        /// Which store.
        store: String,
        /// What is wrong.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file or the database failed.
    #[error("the store {} cannot be opened: {cause}", .file.display())]
    Failed {
        /// The store's file.
        file: PathBuf,
        /// What failed.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A store that can be used.
pub(super) struct Opened {
    pub(super) writer: Conn,
    pub(super) readers: Pool<ConnectionManager<Conn>>,
    pub(super) engine: Engine,
    pub(super) head: i64,
    pub(super) epoch: String,
    pub(super) secret: Vec<u8>,
}

pub(super) fn open(
    context: &str,
    at: &StoreAt,
    migrations: Migrations,
) -> Result<Opened, OpenError> {
    match at {
        StoreAt::File(file) => sqlite::open(context, file, migrations.sqlite),
        StoreAt::Postgres(schema) => postgres::open(context, schema, migrations.postgres),
    }
}

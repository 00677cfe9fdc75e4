//! Where a context's store is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::{Conn, postgres};
use crate::error::{Error, Result};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// A file of SQLite's.
    File(PathBuf),
    /// A schema in a database of PostgreSQL's.
    Postgres(Schema),
}

/// A schema in a database of PostgreSQL's: the store of one context.
#[derive(Clone, PartialEq, Eq)]
pub struct Schema {
    url: Arc<str>,
    name: Arc<str>,
}

impl Schema {
    /// The schema of `context` in the database at `url`.
    pub fn new(url: &str, context: &str) -> Self {
        Self { url: url.into(), name: context.replace(['.', '-'], "_").into() }
    }

    /// What a connection needs to know.
    ///
    /// A server that is gone without a word is found out in a few seconds.
    pub(super) fn url(&self) -> String {
        let more = if self.url.contains('?') { '&' } else { '?' };
        format!(
            "{}{more}connect_timeout=3&keepalives_idle=5&keepalives_interval=2&\
             keepalives_count=3&tcp_user_timeout=4000",
            self.url
        )
    }

    /// Its name: `homemovie_app`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The role whose rights are used at run time: rows of this schema, and nothing else.
    pub fn role(&self) -> String {
        format!("turnstile_{}", self.name)
    }
}

impl StoreAt {
    /// A connection to look into it from outside, beside whoever has it open, with rights on rows alone. Blocking.
    pub fn connect(&self) -> Result<Conn> {
        match self {
            Self::File(file) => {
                let mut sqlite = SqliteConnection::establish(&file.to_string_lossy())
                    .map_err(Error::internal)?;
                sqlite.batch_execute("PRAGMA busy_timeout = 5000")?;
                Ok(Conn::Sqlite(sqlite))
            }
            Self::Postgres(schema) => {
                Ok(Conn::Postgres(postgres::connect(schema).map_err(Error::internal)?))
            }
        }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address has a password in it.
        f.debug_tuple("Schema").field(&self.name).finish()
    }
}

impl fmt::Display for StoreAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.display().fmt(f),
            Self::Postgres(schema) => write!(f, "{} on PostgreSQL", schema.name),
        }
    }
}

/// Where the stores of a process are: a folder of SQLite files, or a database with a schema for each context.
#[derive(Clone, Default)]
pub struct Stores {
    /// The database of all contexts that have none of their own. None: files in the data folder.
    pub all: Option<String>,
    /// The database of one context, or none for a file, whatever the others have.
    pub apart: std::collections::HashMap<String, Option<String>>,
}

impl Stores {
    /// The database that the store of a context is in; none: it is a file.
    pub(crate) fn database_of(&self, context: &str) -> Option<&str> {
        match self.apart.get(context) {
            Some(apart) => apart.as_deref(),
            None => self.all.as_deref(),
        }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apart: Vec<_> = self.apart.keys().collect();
        f.debug_struct("Stores").field("all", &self.all.is_some()).field("apart", &apart).finish()
    }
}

//! A context's own store: `write` for what changes something, `read` for what does not.
//!
//! All blocking database work of the system happens in here, and is bounded: writes queue for the store's one writer
//! ([`writer`]), reads take a permit before they take a thread. Work whose deadline has passed is not begun, and a
//! write whose deadline passes while it runs is rolled back.

mod copy;
mod once;
mod open;
mod page;
pub(crate) mod schema;
mod tail;
mod tx;
mod update;
mod writer;

use std::path::Path;
use std::sync::Arc;

use diesel::r2d2::{ConnectionManager, Pool};
use diesel_migrations::EmbeddedMigrations;
use proto::mesh::v1 as api;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;

pub(crate) use copy::{Closed, Copy, Hold};
pub(crate) use once::fingerprint;
pub use open::OpenError;
pub(crate) use open::lock;
pub use page::Page;
pub use tx::Tx;
pub use update::{Update, update};

pub(crate) use writer::words;

use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::scope;

/// A connection to a store, whatever its engine: a query that compiles against it runs on each of them.
#[derive(diesel::MultiConnection)]
pub enum Conn {
    /// The embedded engine.
    Sqlite(diesel::SqliteConnection),
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conn")
    }
}

/// How many reads of one store run at once.
const READERS: u32 = 4;

/// A context's store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<str>,
    epoch: String,
    secret: Vec<u8>,
    writer: writer::Writer,
    readers: Pool<ConnectionManager<Conn>>,
    gate: Arc<Semaphore>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("context", &self.inner.context).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of `context` in `file`, makes it if there is none, and brings its tables up to date.
    /// Blocking: call it before the runtime is busy.
    pub(crate) fn open(
        context: &str,
        file: &Path,
        migrations: EmbeddedMigrations,
    ) -> Result<Self, OpenError> {
        let opened = open::open(context, file, migrations)?;
        let context: Arc<str> = context.into();
        let writer =
            writer::Writer::start(context.clone(), opened.writer, opened.lock, opened.head);
        Ok(Self {
            inner: Arc::new(Inner {
                context,
                epoch: opened.epoch,
                secret: opened.secret,
                writer,
                readers: opened.readers,
                gate: Arc::new(Semaphore::new(READERS as usize)),
            }),
        })
    }

    /// The context it belongs to.
    pub fn context(&self) -> &str {
        &self.inner.context
    }

    /// Which life of the log this is: a restored store begins a new one.
    pub fn epoch(&self) -> &str {
        &self.inner.epoch
    }

    /// The last committed position of the log, and every change of it.
    pub fn head(&self) -> watch::Receiver<i64> {
        self.inner.writer.head()
    }

    /// The events of the positions `after + 1` to `upto`, if they were committed so short a time ago that they are still
    /// in memory.
    pub(crate) fn recent(&self, after: i64, upto: i64) -> Option<Vec<Arc<api::Event>>> {
        self.inner.writer.tail().stretch(after, upto)
    }

    /// Changes with every commit, of whatever.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.writer.commits()
    }

    /// How many writes wait for the writer.
    pub(crate) fn queued(&self) -> usize {
        self.inner.writer.queued()
    }

    /// How many writes were committed since it was opened.
    pub(crate) fn writes(&self) -> u64 {
        self.inner.writer.writes()
    }

    /// Runs `work` in a transaction. It is committed with what it published, or not at all; the answer comes after
    /// the commit. An error or a panic rolls back this work alone, whatever else shares the commit.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.write_because(Cause::current(""), work).await
    }

    /// As [`Store::write`], for work whose events name a cause.
    pub async fn write_because<T, F>(&self, cause: Cause, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.inner.writer.run(scope::deadline(), cause, work).await
    }

    /// Runs `work`, which changes nothing, on a connection that cannot.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T> + Send + 'static,
    {
        let place = self.inner.gate.clone().acquire_owned();
        let permit = match scope::deadline() {
            Some(_) if scope::has_expired() => return Err(Error::DeadlineExceeded),
            Some(deadline) => {
                timeout_at(deadline, place).await.map_err(|_| Error::DeadlineExceeded)?
            }
            None => place.await,
        };
        let permit = permit.map_err(|_| Error::unavailable(&self.inner.context))?;
        let pool = self.inner.readers.clone();
        let context = self.inner.context.clone();
        #[expect(clippy::disallowed_methods, reason = "this is the place: a permit has been taken")]
        let task = tokio::task::spawn_blocking(move || {
            // Given back when the work ends, also where nobody waits for it any more.
            let _permit = permit;
            let mut conn = pool.get().map_err(|_| Error::unavailable(context))?;
            work(&mut conn)
        });
        task.await.map_err(Error::internal)?
    }

    /// Ends the writer after what is queued, and gives the file free.
    pub(crate) async fn close(&self) {
        self.inner.gate.close();
        self.inner.writer.stop().await;
    }

    /// As if the process had died: what is queued is lost, nothing is written any more, the file is free.
    #[cfg(feature = "chaos")]
    pub(crate) async fn crash(&self) {
        self.inner.gate.close();
        self.inner.writer.crash().await;
    }
}

#[cfg(test)]
mod tests;

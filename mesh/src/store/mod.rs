//! A context's own store: `write` for what changes something, `read` for what does not.
//!
//! All blocking database work of the system happens in here, and is bounded: writes queue for the store's one writer
//! ([`writer`]), reads take a permit before they take a thread. Work whose deadline has passed is not begun, and a
//! write whose deadline passes while it runs is rolled back.

mod at;
mod copy;
mod insert;
mod ledger;
mod literal;
mod once;
mod open;
mod others;
mod page;
mod postgres;
mod progress;
pub(crate) mod release;
mod savepoint;
pub(crate) mod schema;
mod sqlite;
mod tail;
mod tx;
mod update;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::dsl::min;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool, PooledConnection};
use proto::mesh::v1 as api;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;

pub use at::{Schema, StoreAt, Stores};
pub(crate) use copy::{Closed, Copy, Hold};
pub use insert::{Insert, insert, insert_once};
pub use ledger::Series;
pub use literal::{Literal, literal};
use once::Request;
pub(crate) use once::{fingerprint, id_of};
pub use open::{Migrations, OpenError};
pub use page::Page;
pub(crate) use postgres::migrate;
pub(crate) use sqlite::lock;
pub use tx::Tx;
use update::plain;
pub use update::{Update, update};

use writer::Asked;
pub(crate) use writer::words;

use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::scope;
use crate::tasks::blocking;
use schema::mesh_epoch;

/// A connection to a store, whatever its engine: a query that compiles against it runs on each of them.
#[derive(diesel::MultiConnection)]
pub enum Conn {
    /// The engine for production.
    Postgres(diesel::PgConnection),
    /// The embedded engine; last, since any other address is a file.
    Sqlite(diesel::SqliteConnection),
}

/// Asks whichever engine it is: `on_engine!(conn, |engine| seats::table.find(id).first(engine))`.
///
/// By way of [`Conn`] the text of a query is written anew each time, to find it among those that are prepared; an engine's
/// own connection knows it by its type.
#[macro_export]
macro_rules! on_engine {
    ($conn:expr, |$engine:ident| $work:expr) => {
        match $conn {
            $crate::Conn::Postgres($engine) => $work,
            $crate::Conn::Sqlite($engine) => $work,
        }
    };
}
pub(crate) use on_engine;

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conn")
    }
}

/// How long a read may wait for a new connection: who has a permit waits for nothing else.
const CONNECT: Duration = Duration::from_secs(3);
/// How many reads of one store run at once.
const READERS: u32 = 4;

/// A context's store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<str>,
    epoch: watch::Receiver<Arc<str>>,
    secret: Vec<u8>,
    writer: writer::Writer,
    /// Whether other processes may write it, and who looks for what they do.
    is_shared: bool,
    others: Mutex<Option<others::Lookout>>,
    readers: Pool<ConnectionManager<Conn>>,
    gate: Arc<Semaphore>,
    #[cfg(feature = "chaos")]
    steps: crate::step::Steps,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("context", &self.inner.context).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of `context`. A file is made if there is none, and its tables are brought up to date; those of a
    /// database must be there. Blocking: call it before the runtime is busy.
    pub(crate) fn open(
        context: &str,
        at: &StoreAt,
        migrations: Migrations,
    ) -> Result<Self, OpenError> {
        let opened = open::open(context, at, migrations)?;
        let context: Arc<str> = context.into();
        let progress = progress::Progress::new(opened.head, &opened.epoch);
        let others = match at {
            StoreAt::Postgres(schema) => {
                Some(others::look_out(&context, schema.clone(), progress.clone()))
            }
            StoreAt::File(_) => None,
        };
        let epoch = progress.epoch.subscribe();
        let writer = writer::Writer::start(context.clone(), opened.writer, opened.engine, progress);
        #[cfg(feature = "chaos")]
        let steps = writer.steps();
        Ok(Self {
            inner: Arc::new(Inner {
                context,
                epoch,
                secret: opened.secret,
                writer,
                is_shared: others.is_some(),
                others: Mutex::new(others),
                readers: opened.readers,
                gate: Arc::new(Semaphore::new(READERS as usize)),
                #[cfg(feature = "chaos")]
                steps,
            }),
        })
    }

    /// What happens at its steps.
    #[cfg(feature = "chaos")]
    pub(crate) fn steps(&self) -> &crate::step::Steps {
        &self.inner.steps
    }

    /// The context it belongs to.
    pub fn context(&self) -> &str {
        &self.inner.context
    }

    /// Which life of the log this is: a restored store begins a new one, and so does a server that took over.
    pub fn epoch(&self) -> Arc<str> {
        self.inner.epoch.borrow().clone()
    }

    /// Whether what somebody knows of a former life of the log, up to this position, is a part of this life.
    pub(crate) async fn goes_on(&self, epoch: &str, position: i64) -> Result<bool> {
        if !self.is_shared() {
            return Ok(false);
        }
        let epoch = epoch.to_owned();
        self.read(move |conn| {
            let life = mesh_epoch::table.filter(mesh_epoch::epoch.eq(epoch));
            let number: Option<i64> = life.select(mesh_epoch::number).first(conn).optional()?;
            let Some(number) = number else { return Ok(false) };
            // Where any later life began, the log of this one ends, as far as it is still there.
            let ends: Option<i64> = mesh_epoch::table
                .filter(mesh_epoch::number.gt(number))
                .select(min(mesh_epoch::begins_with))
                .first(conn)?;
            Ok(ends.is_none_or(|begins| position < begins))
        })
        .await
    }

    /// Whether other processes may serve the same context, on the same store.
    pub(crate) fn is_shared(&self) -> bool {
        self.inner.is_shared
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
    /// the commit. An error or a panic rolls back this work alone, whatever else shares the commit; for that the work of
    /// others may be done again from its beginning, so what it does beside the transaction must not count.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Clone + Send + 'static,
    {
        self.write_because(Cause::current(""), work).await
    }

    /// As [`Store::write`], for work whose events name a cause.
    pub async fn write_because<T, F>(&self, cause: Cause, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Clone + Send + 'static,
    {
        self.inner.writer.run(Asked { cause, ..Asked::default() }, work).await
    }

    /// As [`Store::write`], for work that nobody waits for: where there is much of it, what comes within this time is
    /// committed together.
    pub(crate) async fn write_within<T, F>(&self, patience: Duration, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Clone + Send + 'static,
    {
        self.inner.writer.run(Asked { patience, ..Asked::default() }, work).await
    }

    /// As [`Store::write_because`], for work that looks first what was answered to this request.
    async fn write_once<T, F>(&self, cause: Cause, request: Arc<Request>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Clone + Send + 'static,
    {
        self.inner
            .writer
            .run(Asked { cause, request: Some(request), ..Asked::default() }, work)
            .await
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
        let (pool, deadline) = (self.inner.readers.clone(), scope::deadline());
        let context = self.inner.context.clone();
        blocking(move || {
            // Given back when the work ends, also where nobody waits for it any more.
            let _permit = permit;
            // Nor is it begun then: a thread may have come free too late.
            let left = deadline.map_or(Duration::MAX, |at| at - tokio::time::Instant::now());
            if left.is_zero() {
                return Err(Error::DeadlineExceeded);
            }
            let mut conn = take(&pool, left).ok_or_else(|| Error::unavailable(&context))?;
            let begun = Instant::now();
            work(&mut conn).map_err(|error| match &mut *conn {
                Conn::Postgres(pg) => postgres::why(pg, error, &context, begun, left),
                Conn::Sqlite(_) => error,
            })
        })
        .await?
    }

    /// As [`Store::read`], for a row or two that are found by their key. In a file that takes less time than to have a
    /// thread do it: where there is a connection free, it is done here and now.
    pub async fn look_up<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T> + Send + 'static,
    {
        let at_once = || {
            let permit = self.inner.gate.try_acquire().ok()?;
            Some((self.inner.readers.try_get()?, permit))
        };
        let free = if self.is_shared() { None } else { at_once() };
        match free {
            Some(_) if scope::has_expired() => Err(Error::DeadlineExceeded),
            Some((mut conn, _permit)) => work(&mut conn),
            None => self.read(work).await,
        }
    }

    /// Who follows the log hears that it is over, when the writer ends.
    fn look_out_no_more(&self) {
        drop(self.inner.others.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends the writer after what is queued, and gives the file free.
    pub(crate) async fn close(&self) {
        self.inner.gate.close();
        self.look_out_no_more();
        self.inner.writer.stop().await;
    }

    /// As if the process had died: what is queued is lost, nothing is written any more, the file is free.
    #[cfg(feature = "chaos")]
    pub(crate) async fn crash(&self) {
        self.inner.gate.close();
        self.look_out_no_more();
        self.inner.writer.crash().await;
    }
}

/// A connection that is alive, for what takes no longer than this.
fn take(
    pool: &Pool<ConnectionManager<Conn>>,
    left: Duration,
) -> Option<PooledConnection<ConnectionManager<Conn>>> {
    // A restart of the server leaves no more dead ones than there are.
    for _ in 0..=READERS {
        let mut conn = pool.get_timeout(left.min(CONNECT)).ok()?;
        let alive = match &mut *conn {
            Conn::Postgres(pg) => postgres::limit(pg, left),
            Conn::Sqlite(_) => true,
        };
        if alive {
            return Some(conn);
        }
    }
    None
}

#[cfg(test)]
mod tests;

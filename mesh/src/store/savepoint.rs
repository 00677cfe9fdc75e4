//! The savepoint that a job has in a transaction which it shares with others: what fails takes nothing else with it.
//!
//! SQLite keeps a copy of each page that is written behind a savepoint, and most jobs do not fail. So in a file they have
//! none: for one that fails the transaction is rolled back, and what else it had is done again. Where that happens,
//! the next ones have savepoints for a while. On a server, where whoever rolls back loses the writer's place, each has one.

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager};
use diesel::prelude::*;

use super::{Conn, plain};

/// Begins a transaction of SQLite's.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
/// Makes a savepoint.
pub(super) const SAVE: &str = "SAVEPOINT mesh_job";
const NEXT: &str = "RELEASE mesh_job; SAVEPOINT mesh_job";
const BACK: &str = "ROLLBACK TO mesh_job";

/// What of a transaction the next job would take with it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Savepoint {
    /// There is none, and nothing was done yet.
    NotYet,
    /// There is none, and what was done stays.
    Missing,
    /// Nothing was done behind it.
    Fresh,
    /// What was done behind it stays.
    Used,
}

impl Savepoint {
    /// A job is about to be done. Where the writer is `wary`, it may be one that fails.
    pub(super) fn before_job(&mut self, conn: &mut Conn, wary: bool) -> QueryResult<()> {
        *self = match self {
            Self::NotYet | Self::Fresh => return Ok(()),
            Self::Missing if !wary => return Ok(()),
            Self::Missing => {
                plain(conn, SAVE)?;
                Self::Fresh
            }
            Self::Used => {
                next(conn)?;
                Self::Fresh
            }
        };
        Ok(())
    }

    /// It is done, and stays.
    pub(super) fn after_job(&mut self) {
        *self = match self {
            Self::NotYet | Self::Missing => Self::Missing,
            Self::Fresh | Self::Used => Self::Used,
        };
    }

    /// Undoes what the job did; where it has no savepoint, all that was done.
    pub(super) fn back(self, conn: &mut Conn) -> QueryResult<()> {
        match (self, conn) {
            // Where a statement has failed, none can be prepared.
            (_, Conn::Postgres(pg)) => pg.batch_execute(BACK),
            (Self::NotYet | Self::Missing, Conn::Sqlite(sqlite)) => {
                AnsiTransactionManager::rollback_transaction(sqlite)?;
                AnsiTransactionManager::begin_transaction_sql(sqlite, BEGIN)
            }
            (_, conn) => plain(conn, BACK),
        }
    }
}

/// Those of SQLite are prepared once; to a server it is one way for both.
fn next(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        Conn::Postgres(pg) => pg.batch_execute(NEXT),
        Conn::Sqlite(_) => {
            plain(conn, "RELEASE mesh_job")?;
            plain(conn, SAVE)
        }
    }
}

/// A panic leaves the transactions open that it came out of: ends them, so that the savepoint of the job is the last.
/// diesel counts those of its own, and the transaction.
pub(super) fn leave_nested(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        Conn::Postgres(pg) => leave_down_to_one(pg),
        Conn::Sqlite(sqlite) => leave_down_to_one(sqlite),
    }
}

fn leave_down_to_one<C>(conn: &mut C) -> QueryResult<()>
where
    C: Connection<TransactionManager = AnsiTransactionManager>,
    AnsiTransactionManager: TransactionManager<C, TransactionStateData = AnsiTransactionManager>,
{
    loop {
        let depth =
            AnsiTransactionManager::transaction_manager_status_mut(conn).transaction_depth()?;
        if depth.is_none_or(|depth| depth.get() <= 1) {
            return Ok(());
        }
        AnsiTransactionManager::rollback_transaction(conn)?;
    }
}

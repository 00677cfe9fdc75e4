//! The savepoint that a job has in a transaction which it shares with others: what fails takes nothing else with it.

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager};
use diesel::prelude::*;

use super::{Conn, plain};

/// Makes one.
pub(super) const SAVE: &str = "SAVEPOINT mesh_job";
const NEXT: &str = "RELEASE mesh_job; SAVEPOINT mesh_job";
const BACK: &str = "ROLLBACK TO mesh_job";

/// That of the first job.
pub(super) fn first(conn: &mut Conn) -> QueryResult<()> {
    plain(conn, SAVE)
}

/// Undoes what was done behind it.
pub(super) fn back(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        // Where a statement has failed, none can be prepared.
        Conn::Postgres(pg) => pg.batch_execute(BACK),
        Conn::Sqlite(_) => plain(conn, BACK),
    }
}

/// What was done behind the savepoint stays, and the next job has one. Those of SQLite are prepared once; to a server it
/// is one way for both.
pub(super) fn next(conn: &mut Conn) -> QueryResult<()> {
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

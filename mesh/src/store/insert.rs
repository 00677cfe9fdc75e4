//! Inserts that go to the engine as they are.
//!
//! By way of [`Conn`] a statement's text is written twice for nothing: to see whether it may be kept, and with its
//! values.

use diesel::backend::Backend;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, InsertStatement, QueryFragment, QueryId};
use diesel::sqlite::Sqlite;

use super::Conn;

/// An insert of one row. If `ONCE`, it leaves alone what is there.
#[derive(Debug, Clone, Copy)]
pub struct Insert<I, const ONCE: bool>(I);

/// Inserts `row` into `table`.
pub fn insert<T, V>(table: T, row: V) -> Insert<InsertStatement<T, V::Values>, false>
where
    T: Table,
    V: Insertable<T>,
{
    Insert(diesel::insert_into(table).values(row))
}

/// Inserts `row` into `table`, unless there is one with its key: executed, it says how many it inserted.
///
/// Looking first costs a second statement, and an error that says so afterwards ends the transaction on some engines.
pub fn insert_once<T, V>(table: T, row: V) -> Insert<InsertStatement<T, V::Values>, true>
where
    T: Table,
    V: Insertable<T>,
{
    Insert(diesel::insert_into(table).values(row))
}

impl<I, const ONCE: bool> Insert<I, ONCE> {
    /// Executes it; says how many rows it inserted.
    pub fn execute(&self, conn: &mut Conn) -> QueryResult<usize>
    where
        I: QueryFragment<Sqlite> + QueryFragment<Pg> + QueryId,
    {
        match conn {
            Conn::Postgres(pg) => RunQueryDsl::execute(self, pg),
            Conn::Sqlite(sqlite) => RunQueryDsl::execute(self, sqlite),
        }
    }
}

impl<I: QueryFragment<DB>, DB: Backend, const ONCE: bool> QueryFragment<DB> for Insert<I, ONCE> {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(pass.reborrow())?;
        if ONCE {
            pass.push_sql(" ON CONFLICT DO NOTHING");
        }
        Ok(())
    }
}

impl<I: QueryId, const ONCE: bool> QueryId for Insert<I, ONCE> {
    type QueryId = Insert<I::QueryId, ONCE>;

    const HAS_STATIC_QUERY_ID: bool = I::HAS_STATIC_QUERY_ID;
}

impl<I, Engine, const ONCE: bool> RunQueryDsl<Engine> for &Insert<I, ONCE> {}

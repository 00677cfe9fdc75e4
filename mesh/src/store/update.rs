//! Statements that are prepared once.
//!
//! diesel prepares each `UPDATE` of its own anew, because a changeset may leave columns out and make another statement of
//! it the next time. These change what their type says, all of it, and are known by their type like the rest.

use std::fmt;
use std::marker::PhantomData;

use diesel::AppearsOnTable;
use diesel::backend::Backend;
use diesel::expression::Expression;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AsChangeset, AstPass, QueryFragment, QueryId};
use diesel::sql_types::Bool;
use diesel::sqlite::Sqlite;

use super::Conn;

/// An update of some rows of a table.
pub struct Update<T: QuerySource, F, C: AsChangeset> {
    table: T::FromClause,
    filter: F,
    changes: C::Changeset,
}

/// Makes `changes` in the rows of `table` that meet `filter`; executed, it says in how many.
pub fn update<T, F, C>(table: T, filter: F, changes: C) -> Update<T, F, C>
where
    T: QuerySource,
    F: Expression<SqlType = Bool> + AppearsOnTable<T>,
    C: AsChangeset<Target = T>,
{
    Update { table: table.from_clause(), filter, changes: changes.as_changeset() }
}

impl<T: QuerySource, F, C: AsChangeset> fmt::Debug for Update<T, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Update")
    }
}

impl<T, F, C, DB> QueryFragment<DB> for Update<T, F, C>
where
    T: QuerySource<FromClause: QueryFragment<DB>>,
    F: QueryFragment<DB>,
    C: AsChangeset<Changeset: QueryFragment<DB>>,
    DB: Backend,
{
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        pass.push_sql("UPDATE ");
        self.table.walk_ast(pass.reborrow())?;
        pass.push_sql(" SET ");
        self.changes.walk_ast(pass.reborrow())?;
        pass.push_sql(" WHERE ");
        self.filter.walk_ast(pass)
    }
}

/// What may leave a column out has no id, and cannot be among the changes: it would be another statement each time.
impl<T, F, C> QueryId for Update<T, F, C>
where
    T: QuerySource + QueryId,
    F: QueryId,
    C: AsChangeset + QueryId,
{
    type QueryId = Updates<T::QueryId, F::QueryId, C::QueryId>;

    const HAS_STATIC_QUERY_ID: bool =
        T::HAS_STATIC_QUERY_ID && F::HAS_STATIC_QUERY_ID && C::HAS_STATIC_QUERY_ID;
}

/// Tells the updates of one table, condition and changes from all other statements.
#[derive(Debug)]
pub struct Updates<T, F, C>(PhantomData<(T, F, C)>);

impl<T: QuerySource, F, C: AsChangeset> Update<T, F, C> {
    /// Executes it; says how many rows it changed. Each engine gets it as it is: by way of [`Conn`] its text would be
    /// written three times.
    pub fn execute(&self, conn: &mut Conn) -> QueryResult<usize>
    where
        Self: QueryFragment<Sqlite> + QueryFragment<Pg> + QueryId,
    {
        match conn {
            Conn::Postgres(pg) => RunQueryDsl::execute(self, pg),
            Conn::Sqlite(sqlite) => RunQueryDsl::execute(self, sqlite),
        }
    }
}

impl<T: QuerySource, F, C: AsChangeset, Engine> RunQueryDsl<Engine> for &Update<T, F, C> {}

/// A statement without values.
struct Plain(&'static str);

/// Executes a statement without values.
pub(super) fn plain(conn: &mut Conn, statement: &'static str) -> QueryResult<()> {
    match conn {
        Conn::Postgres(pg) => Plain(statement).execute(pg)?,
        Conn::Sqlite(sqlite) => Plain(statement).execute(sqlite)?,
    };
    Ok(())
}

impl<DB: Backend> QueryFragment<DB> for Plain {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        pass.push_sql(self.0);
        Ok(())
    }
}

impl QueryId for Plain {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Engine> RunQueryDsl<Engine> for Plain {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use diesel::connection::{InstrumentationEvent, SimpleConnection as _};
    use diesel::sql_types::Text;

    use super::*;
    use crate::store::{insert, insert_once, on_engine};

    diesel::table! {
        seats (musical) {
            musical -> Text,
            free -> BigInt,
        }
    }

    fn store() -> Conn {
        let mut sqlite = SqliteConnection::establish(":memory:").unwrap();
        sqlite.batch_execute("CREATE TABLE seats (musical TEXT PRIMARY KEY, free BIGINT)").unwrap();
        Conn::Sqlite(sqlite)
    }

    fn all(
        musical: &str,
    ) -> (diesel::dsl::Eq<seats::musical, &str>, diesel::dsl::Eq<seats::free, i64>) {
        (seats::musical.eq(musical), seats::free.eq(30))
    }

    /// How many rows it was taken from.
    fn take(conn: &mut Conn, musical: &str, count: i64) -> usize {
        let values = seats::free.eq(seats::free - count);
        update(seats::table, seats::musical.eq(musical), values).execute(conn).unwrap()
    }

    fn free(conn: &mut Conn, musical: &str) -> i64 {
        on_engine!(conn, |engine| seats::table.find(musical).select(seats::free).first(engine))
            .unwrap()
    }

    #[test]
    fn an_update_changes_what_its_type_says() {
        let mut conn = store();
        insert(seats::table, all("Frozen")).execute(&mut conn).unwrap();
        assert_eq!(take(&mut conn, "Cats", 1), 0);
        for left in [28, 26] {
            assert_eq!(take(&mut conn, "Frozen", 2), 1);
            assert_eq!(free(&mut conn, "Frozen"), left);
        }
        // The same values, the other way round: another statement.
        let name = seats::musical.eq("Cats");
        assert_eq!(update(seats::table, seats::free.eq(26), name).execute(&mut conn), Ok(1));
        assert_eq!(free(&mut conn, "Cats"), 26);
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let mut conn = store();
        assert_eq!(insert_once(seats::table, all("Frozen")).execute(&mut conn), Ok(1));
        assert_eq!(take(&mut conn, "Frozen", 2), 1);
        assert_eq!(insert_once(seats::table, all("Frozen")).execute(&mut conn), Ok(0));
        assert_eq!(free(&mut conn, "Frozen"), 28);
        assert!(insert(seats::table, all("Frozen")).execute(&mut conn).is_err());
    }

    #[test]
    fn a_statement_is_prepared_once() {
        let (mut conn, prepared) = (store(), Arc::new(AtomicUsize::new(0)));
        let count = prepared.clone();
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            let is_kept = matches!(event, InstrumentationEvent::CacheQuery { .. });
            count.fetch_add(usize::from(is_kept), Ordering::Relaxed);
        });
        for musical in ["Frozen", "Cats", "Hair"] {
            plain(&mut conn, "SAVEPOINT test").unwrap();
            insert(seats::table, all(musical)).execute(&mut conn).unwrap();
            insert_once(seats::table, all(musical)).execute(&mut conn).unwrap();
            take(&mut conn, musical, 1);
            free(&mut conn, musical);
            let free = seats::free.eq(7);
            update(seats::table, seats::musical.eq(musical), free).execute(&mut conn).unwrap();
            plain(&mut conn, "RELEASE test").unwrap();
        }
        assert_eq!(prepared.load(Ordering::Relaxed), 7, "each of seven statements, of three rows");
    }

    #[test]
    fn sqlite_does_not_plan_anew_for_other_values() {
        let Conn::Sqlite(mut sqlite) = store() else { panic!("a store in memory") };
        let options =
            diesel::dsl::sql::<Text>("SELECT compile_options FROM pragma_compile_options");
        let options: Vec<String> = options.load(&mut sqlite).unwrap();
        assert!(options.iter().any(|option| option == "ENABLE_QPSG"), "{options:?}");
    }
}

//! Statements that are prepared once.
//!
//! diesel prepares each `UPDATE` of its own anew, because a changeset may leave columns out and make another statement of
//! it the next time. Kept under its text, a statement cannot be taken for another, so these are kept like the rest.

use diesel::AppearsOnTable;
use diesel::backend::Backend;
use diesel::expression::Expression;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AsChangeset, AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::Bool;
use diesel::sqlite::Sqlite;

use super::Conn;

/// An update of some rows of a table.
#[derive(Debug, Clone, Copy)]
pub struct Update<T, F, C> {
    table: T,
    filter: F,
    changes: C,
}

/// Makes `changes` in the rows of `table` that meet `filter`; executed, it says in how many.
pub fn update<T, F, C>(table: T, filter: F, changes: C) -> Update<T::FromClause, F, C::Changeset>
where
    T: QuerySource,
    F: Expression<SqlType = Bool> + AppearsOnTable<T>,
    C: AsChangeset<Target = T>,
{
    Update { table: table.from_clause(), filter, changes: changes.as_changeset() }
}

impl<T, F, C, DB> QueryFragment<DB> for Update<T, F, C>
where
    T: QueryFragment<DB>,
    F: QueryFragment<DB>,
    C: QueryFragment<DB>,
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

impl<T, F, C> QueryId for Update<T, F, C> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<T, F, C> Update<T, F, C> {
    /// Executes it; says how many rows it changed. Each engine gets it as it is: by way of [`Conn`] its text would be
    /// written three times.
    pub fn execute(&self, conn: &mut Conn) -> QueryResult<usize>
    where
        Self: QueryFragment<Sqlite> + QueryFragment<Pg>,
    {
        match conn {
            Conn::Postgres(pg) => RunQueryDsl::execute(self, pg),
            Conn::Sqlite(sqlite) => RunQueryDsl::execute(self, sqlite),
        }
    }
}

impl<T, F, C, Engine> RunQueryDsl<Engine> for &Update<T, F, C> {}

/// An update that answers with what it wrote.
#[derive(Debug, Clone, Copy)]
pub struct Returning<U, E> {
    update: U,
    what: E,
}

impl<T, F, C> Update<T, F, C> {
    /// Loads `what` from the rows as they are then.
    pub fn returning<E: Expression>(self, what: E) -> Returning<Self, E> {
        Returning { update: self, what }
    }
}

impl<U: QueryFragment<DB>, E: QueryFragment<DB>, DB: Backend> QueryFragment<DB>
    for Returning<U, E>
{
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.update.walk_ast(pass.reborrow())?;
        pass.push_sql(" RETURNING ");
        self.what.walk_ast(pass)
    }
}

impl<U, E> QueryId for Returning<U, E> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<U, E: Expression> Query for Returning<U, E> {
    type SqlType = E::SqlType;
}

impl<U, E> RunQueryDsl<Conn> for Returning<U, E> {}

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
    use crate::store::{insert, insert_once};

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

    fn take(conn: &mut Conn, musical: &str, count: i64) -> Option<i64> {
        let values = seats::free.eq(seats::free - count);
        let taken = update(seats::table, seats::musical.eq(musical), values);
        taken.returning(seats::free).get_result(conn).optional().unwrap()
    }

    #[test]
    fn an_update_answers_with_what_it_wrote() {
        let mut conn = store();
        insert(seats::table, all("Frozen")).execute(&mut conn).unwrap();
        assert_eq!(take(&mut conn, "Frozen", 2), Some(28));
        assert_eq!(take(&mut conn, "Frozen", 3), Some(25));
        assert_eq!(take(&mut conn, "Cats", 1), None);
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let mut conn = store();
        assert_eq!(insert_once(seats::table, all("Frozen")).execute(&mut conn), Ok(1));
        assert_eq!(take(&mut conn, "Frozen", 2), Some(28));
        assert_eq!(insert_once(seats::table, all("Frozen")).execute(&mut conn), Ok(0));
        assert_eq!(take(&mut conn, "Frozen", 0), Some(28));
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
            let free = seats::free.eq(7);
            update(seats::table, seats::musical.eq(musical), free).execute(&mut conn).unwrap();
            plain(&mut conn, "RELEASE test").unwrap();
        }
        assert_eq!(prepared.load(Ordering::Relaxed), 6, "each of six statements, of three rows");
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

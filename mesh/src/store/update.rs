//! Updates that are prepared once.
//!
//! diesel prepares each `UPDATE` of its own anew, because a changeset may leave columns out and make another statement of
//! it the next time. Kept under its text, a statement cannot be taken for another, so these are kept like the rest.

use diesel::AppearsOnTable;
use diesel::backend::Backend;
use diesel::expression::Expression;
use diesel::prelude::*;
use diesel::query_builder::{AsChangeset, AstPass, QueryFragment, QueryId};
use diesel::sql_types::Bool;

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

impl<T, F, C> RunQueryDsl<Conn> for Update<T, F, C> {}

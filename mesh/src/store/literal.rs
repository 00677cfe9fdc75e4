//! Conditions in literals.
//!
//! SQLite takes an index with a condition only for the very words of that condition, not for a value that is bound. A
//! statement with `diesel::dsl::sql` in it is prepared anew each time, since its words might differ; these never do.

use diesel::backend::Backend;
use diesel::expression::{AppearsOnTable, Expression, ValidGrouping, is_aggregate};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::Bool;

/// A condition, as it stands in an index.
#[derive(Debug, Clone, Copy)]
pub struct Literal(&'static str);

/// The condition in these words: `state = 'QUEUED'`.
pub fn literal(condition: &'static str) -> Literal {
    Literal(condition)
}

impl<DB: Backend> QueryFragment<DB> for Literal {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        pass.push_sql(self.0);
        Ok(())
    }
}

impl QueryId for Literal {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Expression for Literal {
    type SqlType = Bool;
}

impl<Source> AppearsOnTable<Source> for Literal {}

impl<GroupBy> ValidGrouping<GroupBy> for Literal {
    type IsAggregate = is_aggregate::Never;
}

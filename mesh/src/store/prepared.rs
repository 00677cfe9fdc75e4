//! Statements that are prepared once and used again.
//!
//! diesel prepares each `INSERT` and `UPDATE` anew, because columns may be left out and make another statement of it the
//! next time. Kept under their text, different statements cannot be taken for each other, so ours may be kept like any
//! other.

use diesel::backend::Backend;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};

use super::Conn;

/// A statement that is kept prepared.
#[derive(Debug, Clone, Copy)]
pub struct Prepared<Q>(Q);

/// Keeps `statement` prepared for the next time, under its text.
pub fn prepared<Q>(statement: Q) -> Prepared<Q> {
    Prepared(statement)
}

impl<Q: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}

impl<Q> RunQueryDsl<Conn> for Prepared<Q> {}

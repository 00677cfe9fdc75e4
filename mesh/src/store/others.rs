//! What other processes commit to a store that is shared.
//!
//! Nobody tells: a notice in the writer's transaction would take a lock that all writers of the database wait for (T-02).
//! So it is looked for, often enough that nobody notices, and cheaply: one short query.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Text};

use super::at::Schema;
use super::postgres;
use super::progress::Progress;

/// How often.
const EVERY: Duration = Duration::from_millis(10);
/// How long to wait for a server that is down.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks until it is dropped.
pub(super) struct Lookout(#[expect(dead_code, reason = "what counts is when it goes")] Sender<()>);

/// Tells of what others commit, as the writer tells of its own.
pub(super) fn look_out(context: &Arc<str>, schema: Schema, progress: Progress) -> Lookout {
    let (end, ended) = channel();
    #[expect(clippy::expect_used, reason = "a process that cannot have a thread cannot serve")]
    std::thread::Builder::new()
        .name(format!("others-{context}"))
        .spawn(move || {
            let (mut conn, mut before, mut pause) = (None, None, EVERY);
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let now = look(&mut conn, &schema);
                // A server that is down is told of by those who need it.
                pause = if now.is_some() { EVERY } else { PAUSE };
                if let Some((head, _)) = &now
                    && now != before
                {
                    progress.tell_at_least(*head);
                    before = now;
                }
            }
        })
        .expect("a thread for what others commit");
    Lookout(end)
}

/// The end of the log, and a text that is another after every commit in the database.
fn look(conn: &mut Option<PgConnection>, schema: &Schema) -> Option<(i64, String)> {
    let pg = match conn {
        Some(pg) => pg,
        None => conn.insert(postgres::connect(schema).ok()?),
    };
    let sight = Look.get_result(pg);
    if sight.is_err() {
        *conn = None;
    }
    sight.ok()
}

/// The query, kept prepared.
struct Look;

impl QueryFragment<Pg> for Look {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_sql(
            "SELECT coalesce((SELECT max(position) FROM mesh_event), 0), pg_current_snapshot()::text",
        );
        Ok(())
    }
}

impl QueryId for Look {
    type QueryId = Self;

    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Look {
    type SqlType = (BigInt, Text);
}

impl RunQueryDsl<PgConnection> for Look {}

//! How far a policy is in a log: one position for each partition that it has, moved in the transaction of the effect.
//!
//! A file has one process, which has all partitions: one row, changed in place. Processes that share a database share the
//! sixteen partitions; there a row is added for each step, and the newest counts (`migrations/postgres` says why).

use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Text};
use proto::mesh::v1 as api;

use super::runner::signed;
use crate::error::Result;
use crate::partition::PARTITIONS;
use crate::store::schema::mesh_cursor;
use crate::store::{Conn, Tx, update};

/// All partitions: one process has them.
pub(crate) const ALL: i32 = -1;
/// So far a partition without events may lag behind the others, where each step of each of them is a row.
const LAG: i64 = 1024;

/// Where a policy is in a log, in each partition that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: String,
    /// Partition and the last position in it that is done.
    lanes: Vec<(i32, i64)>,
    /// The last position that was read.
    pub(super) read: i64,
}

/// Cursors that move: those of these partitions, from here, to one position.
#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    epoch: String,
    lanes: Vec<(i32, i64)>,
    upto: i64,
}

impl Step {
    /// Whether no cursor moves.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

impl Place {
    fn new(epoch: String, lanes: Vec<(i32, i64)>) -> Self {
        let read = lanes.iter().map(|(_, position)| *position).min().unwrap_or(0);
        Self { epoch, lanes, read }
    }

    /// Everything up to here is done, in every partition.
    pub(crate) fn position(&self) -> i64 {
        self.lanes.iter().map(|(_, position)| *position).min().unwrap_or(0)
    }

    /// Whether another is as far, in every partition.
    pub(crate) fn is_behind(&self, other: &Self) -> bool {
        self.lanes.iter().zip(&other.lanes).any(|(own, theirs)| own.1 < theirs.1)
    }

    /// Whether an event is not done yet, and is of a partition that is here.
    pub(super) fn wants(&self, event: &api::Event) -> bool {
        let lane = self.lanes.iter().find(|(partition, _)| is_of(*partition, event));
        lane.is_some_and(|(_, position)| *position < signed(event.position))
    }

    /// The cursors to move when these events are done, and all before `upto`.
    pub(super) fn step<'e>(
        &self,
        events: impl IntoIterator<Item = &'e Arc<api::Event>>,
        upto: i64,
    ) -> Step {
        let partitions =
            events.into_iter().map(|event| i32::try_from(event.partition).unwrap_or(ALL));
        self.step_in(&partitions.collect::<Vec<_>>(), upto)
    }

    /// As [`Place::step`], for events of these partitions; none: whatever lags.
    pub(super) fn step_in(&self, partitions: &[i32], upto: i64) -> Step {
        let moves = |lane: &&(i32, i64)| {
            let (partition, position) = **lane;
            let touched =
                partitions.is_empty() || partition == ALL || partitions.contains(&partition);
            position < upto && (touched || position + LAG < upto)
        };
        let lanes = self.lanes.iter().filter(moves).copied().collect();
        Step { epoch: self.epoch.clone(), lanes, upto }
    }

    /// What was stepped is done.
    pub(super) fn take(&mut self, step: &Step) {
        for lane in &mut self.lanes {
            if step.lanes.contains(lane) {
                lane.1 = step.upto;
            }
        }
    }
}

fn is_of(partition: i32, event: &api::Event) -> bool {
    partition == ALL || i32::try_from(event.partition) == Ok(partition)
}

/// Where a policy is in these partitions of a source's log; nowhere, if it never began.
pub(crate) fn place_of(
    conn: &mut Conn,
    policy: &str,
    source: &str,
    partitions: &[i32],
) -> QueryResult<Option<Place>> {
    let rows: Vec<Row> = match conn {
        Conn::Postgres(pg) => {
            diesel::sql_query(NEWEST).bind::<Text, _>(policy).bind::<Text, _>(source).load(pg)?
        }
        Conn::Sqlite(sqlite) => mesh_cursor::table
            .filter(mesh_cursor::policy.eq(policy))
            .filter(mesh_cursor::source.eq(source))
            .select(Row::as_select())
            .load(sqlite)?,
    };
    let Some(epoch) = rows.first().map(|row| row.epoch.clone()) else { return Ok(None) };
    let lanes = rows.into_iter().map(|row| (row.partition, row.position));
    let lanes =
        lanes.filter(|(partition, _)| partitions.is_empty() || partitions.contains(partition));
    Ok(Some(Place::new(epoch, lanes.collect())))
}

const NEWEST: &str = "\
    SELECT newest.partition, newest.position, newest.epoch FROM generate_series(0, 15) AS lane \
    CROSS JOIN LATERAL (SELECT partition, position, epoch FROM mesh_cursor \
    WHERE policy = $1 AND source = $2 AND partition = lane ORDER BY position DESC LIMIT 1) AS newest \
    ORDER BY newest.partition";

#[derive(Queryable, Selectable, QueryableByName)]
#[diesel(table_name = mesh_cursor)]
struct Row {
    partition: i32,
    position: i64,
    epoch: String,
}

/// Begins in a log, behind this position.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    policy: &str,
    source: &str,
    epoch: &str,
    position: i64,
) -> Result<()> {
    let partitions = match &**tx {
        Conn::Postgres(_) => 0..i32::try_from(PARTITIONS).unwrap_or(0),
        Conn::Sqlite(_) => ALL..0,
    };
    for partition in partitions {
        diesel::insert_into(mesh_cursor::table)
            .values((
                mesh_cursor::policy.eq(policy),
                mesh_cursor::source.eq(source),
                mesh_cursor::partition.eq(partition),
                mesh_cursor::epoch.eq(epoch),
                mesh_cursor::position.eq(position),
            ))
            .execute(&mut **tx)?;
    }
    Ok(())
}

/// Moves the cursors; whether all of them were where we thought: if not, somebody else moved one, and has had the effect.
pub(super) fn advance(
    tx: &mut Tx<'_>,
    policy: &str,
    source: &str,
    step: &Step,
) -> QueryResult<bool> {
    if step.is_empty() {
        return Ok(true);
    }
    let moved = match &mut **tx {
        Conn::Postgres(pg) => {
            let (partitions, places) = step.lanes.iter().copied().unzip();
            let (epoch, upto) = (&step.epoch, step.upto);
            Advance { policy, source, epoch, partitions, places, upto }.execute(pg)?
        }
        conn @ Conn::Sqlite(_) => {
            let Some((partition, from)) = step.lanes.first() else { return Ok(true) };
            let cursor = mesh_cursor::policy
                .eq(policy)
                .and(mesh_cursor::source.eq(source))
                .and(mesh_cursor::partition.eq(partition));
            let place = mesh_cursor::epoch.eq(&step.epoch).and(mesh_cursor::position.eq(from));
            let upto = mesh_cursor::position.eq(step.upto);
            update(mesh_cursor::table, cursor.and(place), upto).execute(conn)?
        }
    };
    Ok(moved == step.lanes.len())
}

/// Adds a row for each cursor that is where it should be.
struct Advance<'a> {
    policy: &'a str,
    source: &'a str,
    epoch: &'a str,
    partitions: Vec<i32>,
    places: Vec<i64>,
    upto: i64,
}

impl QueryFragment<Pg> for Advance<'_> {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_sql(
            "INSERT INTO mesh_cursor (policy, source, epoch, position, partition) SELECT ",
        );
        pass.push_bind_param::<Text, _>(&self.policy)?;
        pass.push_sql(", ");
        pass.push_bind_param::<Text, _>(&self.source)?;
        pass.push_sql(", ");
        pass.push_bind_param::<Text, _>(&self.epoch)?;
        pass.push_sql(", ");
        pass.push_bind_param::<BigInt, _>(&self.upto)?;
        pass.push_sql(", lane.partition FROM unnest(");
        pass.push_bind_param::<Array<Integer>, _>(&self.partitions)?;
        pass.push_sql(", ");
        pass.push_bind_param::<Array<BigInt>, _>(&self.places)?;
        pass.push_sql(
            ") AS lane (partition, place) WHERE EXISTS (SELECT FROM (SELECT position, epoch FROM mesh_cursor \
             WHERE policy = ",
        );
        pass.push_bind_param::<Text, _>(&self.policy)?;
        pass.push_sql(" AND source = ");
        pass.push_bind_param::<Text, _>(&self.source)?;
        pass.push_sql(
            " AND partition = lane.partition ORDER BY position DESC LIMIT 1) AS newest \
             WHERE newest.position = lane.place AND newest.epoch = ",
        );
        pass.push_bind_param::<Text, _>(&self.epoch)?;
        pass.push_sql(")");
        Ok(())
    }
}

impl QueryId for Advance<'_> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl RunQueryDsl<PgConnection> for Advance<'_> {}

/// The log has begun a new life, and what we know of it is a part of that: the cursors go on in it.
pub(super) fn go_on_in(
    tx: &mut Tx<'_>,
    policy: &str,
    source: &str,
    epoch: &str,
) -> QueryResult<()> {
    let cursors = mesh_cursor::policy.eq(policy).and(mesh_cursor::source.eq(source));
    update(mesh_cursor::table, cursors, mesh_cursor::epoch.eq(epoch)).execute(tx)?;
    Ok(())
}

/// Removes the rows that a newer one has replaced; how many.
pub(crate) fn forget_steps(tx: &mut Tx<'_>) -> QueryResult<usize> {
    match &mut **tx {
        Conn::Postgres(pg) => diesel::sql_query(
            "DELETE FROM mesh_cursor AS old USING (SELECT policy, source, partition, max(position) AS newest \
             FROM mesh_cursor GROUP BY policy, source, partition) AS kept \
             WHERE old.policy = kept.policy AND old.source = kept.source AND old.partition = kept.partition \
             AND old.position < kept.newest",
        )
        .execute(pg),
        Conn::Sqlite(_) => Ok(0),
    }
}

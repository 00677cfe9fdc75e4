//! Reading a context's own log.

use std::sync::Arc;

use diesel::prelude::*;
use proto::mesh::v1 as api;

use crate::store::Conn;
use crate::store::schema::mesh_event;

#[derive(Queryable, Selectable)]
#[diesel(table_name = mesh_event)]
struct Row {
    position: i64,
    event_id: String,
    type_: String,
    subject: String,
    sequence: i64,
    time: i64,
    correlation_id: String,
    causation_id: String,
    traceparent: String,
    partition: i32,
    data: Vec<u8>,
}

impl Row {
    fn of(self, source: &str) -> api::Event {
        api::Event {
            event_id: self.event_id,
            r#type: self.type_,
            source: source.to_owned(),
            subject: self.subject,
            sequence: self.sequence.unsigned_abs(),
            time: Some(timestamp(self.time)),
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            traceparent: self.traceparent,
            data: self.data,
            position: self.position.unsigned_abs(),
            partition: self.partition.unsigned_abs(),
        }
    }
}

/// Microseconds as protobuf has them.
pub(crate) fn timestamp(micros: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// The other way round.
pub(crate) fn micros_of(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos / 1000)
}

/// The events of the positions `after + 1` to `upto`, by position.
pub(crate) fn stretch(
    conn: &mut Conn,
    source: &str,
    after: i64,
    upto: i64,
    wanted: &Wanted,
) -> QueryResult<Vec<api::Event>> {
    let rows: Vec<Row> = mesh_event::table
        .filter(mesh_event::position.gt(after))
        .filter(mesh_event::position.le(upto))
        .order(mesh_event::position)
        .select(Row::as_select())
        .load(conn)?;
    let wanted =
        rows.into_iter().filter(|row| wanted.has(&row.type_, row.partition.unsigned_abs()));
    Ok(wanted.map(|row| row.of(source)).collect())
}

/// The events of one subject behind a sequence, in order.
pub(crate) fn by_subject(
    conn: &mut Conn,
    source: &str,
    subject: &str,
    after: i64,
) -> QueryResult<Vec<api::Event>> {
    let rows: Vec<Row> = mesh_event::table
        .filter(mesh_event::subject.eq(subject))
        .filter(mesh_event::sequence.gt(after))
        .order(mesh_event::sequence)
        .select(Row::as_select())
        .load(conn)?;
    Ok(rows.into_iter().map(|row| row.of(source)).collect())
}

/// Which events a subscriber wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) types: Vec<String>,
    pub(crate) partitions: Vec<u32>,
}

impl Wanted {
    /// Those among what a log has in memory that are wanted.
    pub(crate) fn among(&self, mut recent: Vec<Arc<api::Event>>) -> Vec<Arc<api::Event>> {
        recent.retain(|event| self.has(&event.r#type, event.partition));
        recent
    }

    fn has(&self, kind: &str, partition: u32) -> bool {
        (self.types.is_empty() || self.types.iter().any(|wanted| wanted == kind))
            && (self.partitions.is_empty() || self.partitions.contains(&partition))
    }
}

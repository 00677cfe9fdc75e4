//! A transaction: a connection that can also publish.

use std::fmt::Display;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::SystemTime;

use diesel::dsl::max;
use diesel::prelude::*;
use prost::{Message, Name};
use proto::mesh::v1 as api;

use super::ledger::{Ledger, Series};
#[cfg(feature = "chaos")]
use super::release::next;
use super::schema::mesh_event;
use super::{Conn, on_engine};
use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::events::timestamp;
use crate::time::{micros, time_of};
use crate::{contract, partition};

/// A transaction of a context's store. It reads and writes like a connection, and it is the only way to publish.
pub struct Tx<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) context: &'a str,
    pub(super) head: &'a mut i64,
    pub(super) ledger: &'a mut Ledger,
    pub(super) cause: Cause,
    pub(super) now: i64,
    /// Which generation of a view is written (see [`crate::events`]); 0 outside of a view's policies.
    pub(crate) generation: i32,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx")
            .field("context", &self.context)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl Deref for Tx<'_> {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn
    }
}

impl DerefMut for Tx<'_> {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn
    }
}

impl Tx<'_> {
    /// The time of this transaction.
    pub fn now(&self) -> SystemTime {
        time_of(self.now)
    }

    /// Which generation of the view a policy writes: every row of a view is of one.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Stores a fact about `subject` with this transaction: it is seen when, and only when, this is committed.
    /// `correlation` is what it is all about: the order's resource name.
    ///
    /// Returns the subject's new sequence: 1 for the first fact about it.
    pub fn publish<M: Message + Name>(
        &mut self,
        subject: impl Display,
        correlation: impl Display,
        fact: &M,
    ) -> Result<i64> {
        let kind = M::full_name();
        if contract::context_of(&kind) != self.context {
            return Err(Error::internal(format!(
                "{} cannot publish {kind}: it is not its own",
                self.context
            )));
        }
        let (subject, correlation) = (subject.to_string(), correlation.to_string());
        let data = fact.encode_to_vec();
        #[cfg(feature = "chaos")]
        if next::is_this() {
            let data = [&data, next::FIELD].concat();
            let after = next::event_after(&kind);
            let sequence = self.append(kind, &subject, &correlation, data)?;
            self.append(after, &subject, &correlation, Vec::new())?;
            return Ok(sequence);
        }
        self.append(kind, &subject, &correlation, data)
    }

    fn append(
        &mut self,
        kind: String,
        subject: &str,
        correlation: &str,
        data: Vec<u8>,
    ) -> Result<i64> {
        let partition = partition::partition_of(subject);
        let sequence = self.last_sequence(subject, partition)? + 1;
        let position = *self.head + 1;
        let event = api::Event {
            event_id: crate::uuid().to_string(),
            r#type: kind,
            source: self.context.to_owned(),
            subject: subject.to_owned(),
            sequence: sequence.unsigned_abs(),
            time: Some(timestamp(micros(crate::now()))),
            correlation_id: correlation.to_owned(),
            causation_id: self.cause.id.clone(),
            traceparent: self.cause.traceparent(),
            data,
            position: position.unsigned_abs(),
            partition: partition.unsigned_abs(),
        };
        *self.head = position;
        self.ledger.events.push(Arc::new(event));
        Ok(sequence)
    }

    fn last_sequence(&mut self, subject: &str, partition: i32) -> QueryResult<i64> {
        if let Some(last) = self.ledger.last_sequence(subject, partition.unsigned_abs()) {
            return Ok(last);
        }
        let last: Option<i64> = on_engine!(self.conn, |engine| {
            mesh_event::table
                .filter(mesh_event::subject.eq(subject))
                .select(max(mesh_event::sequence))
                .first(engine)
        })?;
        Ok(last.unwrap_or(0))
    }

    /// The next number of a series.
    pub fn next_of(&mut self, series: &'static Series) -> QueryResult<i64> {
        self.ledger.next_of(series, self.conn)
    }

    /// From here on, this is the cause of what is published.
    pub(crate) fn because(&mut self, cause: Cause) {
        self.cause = cause;
    }
}

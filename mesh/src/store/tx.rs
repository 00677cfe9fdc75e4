//! A transaction: a connection that can also publish.

use std::fmt::Display;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::SystemTime;

use diesel::dsl::max;
use diesel::prelude::*;
use prost::{Message, Name};
use proto::mesh::v1 as api;
use uuid::Uuid;

use super::Conn;
use super::schema::mesh_event;
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
    /// What was published, for those who follow the log once it is committed.
    pub(super) published: &'a mut Vec<Arc<api::Event>>,
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
        let subject = subject.to_string();
        let last: Option<i64> = mesh_event::table
            .filter(mesh_event::subject.eq(&subject))
            .select(max(mesh_event::sequence))
            .first(self.conn)?;
        let sequence = last.unwrap_or(0) + 1;
        let position = *self.head + 1;
        let time = micros(SystemTime::now());
        let partition = partition::partition_of(&subject);
        let event = api::Event {
            event_id: Uuid::now_v7().to_string(),
            r#type: kind,
            source: self.context.to_owned(),
            subject,
            sequence: sequence.unsigned_abs(),
            time: Some(timestamp(time)),
            correlation_id: correlation.to_string(),
            causation_id: self.cause.id.clone(),
            traceparent: self.cause.traceparent(),
            data: fact.encode_to_vec(),
            position: position.unsigned_abs(),
            partition: partition.unsigned_abs(),
        };
        diesel::insert_into(mesh_event::table)
            .values((
                mesh_event::position.eq(position),
                mesh_event::event_id.eq(&event.event_id),
                mesh_event::type_.eq(&event.r#type),
                mesh_event::sequence.eq(sequence),
                mesh_event::time.eq(time),
                mesh_event::correlation_id.eq(&event.correlation_id),
                mesh_event::causation_id.eq(&event.causation_id),
                mesh_event::traceparent.eq(&event.traceparent),
                mesh_event::partition.eq(partition),
                mesh_event::subject.eq(&event.subject),
                mesh_event::data.eq(&event.data),
            ))
            .execute(self.conn)?;
        *self.head = position;
        self.published.push(Arc::new(event));
        Ok(sequence)
    }

    /// From here on, this is the cause of what is published.
    pub(crate) fn because(&mut self, cause: Cause) {
        self.cause = cause;
    }
}

//! Events without a broker: each context streams its own log, each consumer remembers its own place.
//!
//! A producer writes facts in the transaction of the change ([`crate::Tx::publish`]) and streams them on request
//! ([`crate::log_service`]). A consumer is a [`Policy`]: "whenever this, do that". It has a cursor of its own in its context's
//! store, moved in the transaction of the effect, so that each event has its effect exactly once, in order per
//! subject, and one policy that is stuck holds up no other.

mod batch;
mod calling;
mod cursor;
mod log;
mod parking;
mod policy;
mod readers;
mod runner;
mod view;

use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use proto::mesh::v1 as api;

pub(crate) use cursor::{ALL, Place, forget_steps, place_of};
pub(crate) use log::{Wanted, by_subject, micros_of, stretch, timestamp};
pub(crate) use parking::{Parked, ParkedRow, count_parked, forget_crashes, list_parked};
pub use policy::{Calling, Policy, Whenever, calling, whenever};
pub(crate) use readers::{Trimmed, refuse_trimmed, remember, trim};
pub(crate) use runner::{Runner, signed};
pub use view::{Discard, Generations, View};

use crate::cause::Cause;
use crate::client::Channel;
pub(crate) use crate::contract::context_of;
use crate::error::{Error, Result};
use crate::telemetry::Trace;
use crate::time::time_of;

/// Gives the way to a source's log.
pub(crate) type Sources = Arc<dyn Fn(&str) -> Result<Channel> + Send + Sync>;

/// An event as a policy gets it: the payload, and around it what is known of when and why.
#[derive(Debug, Clone)]
pub struct Event<T> {
    /// Unique in the whole system.
    pub id: String,
    /// The aggregate it happened to.
    pub subject: String,
    /// The aggregate's version.
    pub sequence: u64,
    /// The context it happened in.
    pub source: String,
    /// The payload's full protobuf name.
    pub kind: String,
    /// When it happened.
    pub time: SystemTime,
    /// What it is all about: the order's resource name.
    pub correlation: String,
    trace: Option<Trace>,
    /// What happened.
    pub data: T,
}

impl<T> Deref for Event<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> Event<T> {
    /// `{subject}@{sequence}`: names the state of the aggregate that this event made.
    pub fn revision(&self) -> String {
        revision(&self.subject, self.sequence)
    }

    /// This event as the cause of something else.
    pub fn cause(&self) -> Cause {
        Cause { id: self.id.clone(), trace: self.trace }
    }

    /// The payload's name without its package: `MoviePicked`.
    pub fn short_name(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or(&self.kind)
    }
}

impl<T: prost::Message + Default> Event<T> {
    fn decode(event: &api::Event) -> Result<Self> {
        let time = event.time.unwrap_or_default();
        Ok(Self {
            id: event.event_id.clone(),
            subject: event.subject.clone(),
            sequence: event.sequence,
            source: event.source.clone(),
            kind: event.r#type.clone(),
            time: time_of(time.seconds * 1_000_000 + i64::from(time.nanos) / 1000),
            correlation: event.correlation_id.clone(),
            trace: Trace::read(&event.traceparent),
            data: payload(event)?,
        })
    }
}

/// What an event tells, decoded.
pub fn payload<M: prost::Message + Default>(event: &api::Event) -> Result<M> {
    M::decode(&event.data[..]).map_err(Error::internal)
}

/// Names one state of an aggregate: `movieApplications/...@3`.
pub fn revision(subject: impl std::fmt::Display, sequence: impl std::fmt::Display) -> String {
    format!("{subject}@{sequence}")
}

/// Takes a revision apart.
pub fn read_revision(revision: &str) -> Option<(&str, u64)> {
    let (subject, sequence) = revision.rsplit_once('@')?;
    Some((subject, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_reads_back() {
        assert_eq!(read_revision(&revision("movies/1", 7)), Some(("movies/1", 7)));
        assert_eq!(read_revision("movies/1"), None);
    }
}

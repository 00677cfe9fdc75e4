//! Policies that change their own context's store: many events a transaction, the cursor in it.
//!
//! A batch that fails is split, so that no innocent event pays for another. What may pass by itself is waited for, as
//! long as it takes; an event that fails is tried five times and then parked (rule G-19).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::mesh::v1 as api;

use super::parking::{self, Verdict};
use super::policy::{Handler, LocalHandler};
use super::runner::{Backoff, Runner, signed};
use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::store::Tx;
use crate::telemetry;

impl Runner {
    /// Gives the events of a stretch their effect, and moves the cursor from `from` over it.
    pub(super) async fn apply(
        self: &Arc<Self>,
        epoch: &str,
        mut from: i64,
        batch: api::SubscribeResponse,
    ) -> Result<()> {
        let upto = signed(batch.to_position);
        let events = Arc::new(batch.events);
        if self.careful.load(Ordering::Relaxed) == 0 || events.is_empty() {
            match self.apply_whole(epoch, from, upto, &events).await {
                Ok(()) => return Ok(()),
                Err(error) if self.is_fenced(&error) => return Err(error),
                Err(error) => tracing::debug!(policy = %self.key, %error, "a batch is split"),
            }
        }
        for index in 0..events.len() {
            let last = index + 1 == events.len();
            let to = if last { upto } else { signed(events[index].position) };
            self.apply_one(epoch, from, to, events[index].clone()).await?;
            from = to;
        }
        Ok(())
    }

    async fn apply_whole(
        self: &Arc<Self>,
        epoch: &str,
        from: i64,
        upto: i64,
        events: &Arc<Vec<api::Event>>,
    ) -> Result<()> {
        let (runner, events, epoch) = (self.clone(), events.clone(), epoch.to_owned());
        self.store
            .write_because(Cause::default(), move |tx| {
                for event in events.iter() {
                    runner.react(tx, event)?;
                }
                runner.advance(tx, &epoch, from, upto)
            })
            .await
    }

    async fn apply_one(
        self: &Arc<Self>,
        epoch: &str,
        from: i64,
        upto: i64,
        event: api::Event,
    ) -> Result<()> {
        let event = Arc::new(event);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let care = self.takes_care();
        let mut verdict = Verdict::Try;
        loop {
            if matches!(verdict, Verdict::Try) {
                verdict = self.before_try(&event, care).await?;
            }
            let parked = match &verdict {
                Verdict::Try => None,
                Verdict::Park { attempts, failure } => Some((*attempts, failure.clone())),
            };
            let (runner, subject, place) = (self.clone(), event.clone(), epoch.to_owned());
            let outcome = self
                .store
                .write_because(Cause::default(), move |tx| {
                    match parked {
                        None => runner.react(tx, &subject)?,
                        Some((attempts, failure)) => {
                            runner.park(tx, &subject, &failure, attempts)?
                        }
                    }
                    parking::forget_attempts(tx, &runner.key, &subject.event_id)?;
                    runner.advance(tx, &place, from, upto)
                })
                .await;
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if self.is_fenced(&error) => return Err(error),
                // It could not be put aside; nothing was tried.
                Err(error) if matches!(verdict, Verdict::Park { .. }) => return Err(error),
                Err(error) if error.is_passing() => {
                    tracing::debug!(policy = %self.key, event = %event.event_id, %error, "an event waits for what it needs");
                    self.after_wait(&event, care).await?;
                }
                Err(error) => verdict = self.after_failure(&event, &error, care).await?,
            }
            backoff.wait().await;
        }
    }

    /// What one event does to this context, in a transaction.
    pub(super) fn react(&self, tx: &mut Tx<'_>, event: &api::Event) -> Result<()> {
        if self.must_wait(tx, &event.subject)? {
            return self.park(tx, event, "", 0);
        }
        let Some(Handler::Local(handler)) = self.policy.handler(&event.r#type) else {
            return Err(Error::internal(format!("{} does not handle {}", self.key, event.r#type)));
        };
        self.react_with(handler, tx, event)
    }

    /// Has the event its effect: what is published of it is a part of its trace.
    pub(super) fn react_with(
        &self,
        handler: &LocalHandler,
        tx: &mut Tx<'_>,
        event: &api::Event,
    ) -> Result<()> {
        let (span, trace) = telemetry::policy_span(&self.key, event);
        tx.because(Cause { id: event.event_id.clone(), trace });
        tx.generation = self.generation;
        let outcome = span.in_scope(|| handler(tx, event));
        telemetry::end_policy(&span, &outcome);
        outcome
    }
}

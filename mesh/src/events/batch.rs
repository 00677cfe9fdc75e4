//! Policies that change their own context's store: many events a transaction, the cursor in it.
//!
//! A batch that fails is split, so that no innocent event pays for another. What may pass by itself is waited for, as
//! long as it takes; an event that fails is tried five times and then parked (rule G-19).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::mesh::v1 as api;

use super::cursor::{Place, Step};
use super::parking::Verdict;
use super::policy::{Handler, LocalHandler};
use super::runner::{Backoff, Runner, signed};
use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::log_service::Batch;
use crate::planted::{Bug, planted};
use crate::store::Tx;
use crate::telemetry;

/// How long the effects of events may wait for others, where they come thick and fast.
const PATIENCE: Duration = Duration::from_millis(10);

impl Runner {
    /// Gives the events of a stretch their effect, and moves the cursors over it.
    pub(super) async fn apply(self: &Arc<Self>, place: &mut Place, batch: Batch) -> Result<()> {
        let upto = batch.to;
        let wanted = batch.events.into_iter().filter(|event| place.wants(event));
        let events: Arc<[_]> = wanted.collect();
        place.read = place.read.max(upto);
        // What is handled alone need not be split to know what failed.
        let one_by_one = match &*events {
            [] => false,
            [_] => true,
            [first, ..] => self.must_take_care(first),
        };
        if !one_by_one {
            let step = place.step(&*events, upto);
            if step.is_empty() {
                return Ok(());
            }
            match self.apply_whole(&step, &events).await {
                Ok(()) => {
                    place.take(&step);
                    self.handled.fetch_add(events.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if self.is_fenced(&error) => return Err(error),
                Err(error) => tracing::debug!(policy = %self.key, %error, "a batch is split"),
            }
        }
        for index in 0..events.len() {
            let event = &events[index];
            let last = index + 1 == events.len();
            let step = place.step([event], if last { upto } else { signed(event.position) });
            self.apply_one(&step, event.clone()).await?;
            place.take(&step);
            self.handled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn apply_whole(
        self: &Arc<Self>,
        step: &Step,
        events: &Arc<[Arc<api::Event>]>,
    ) -> Result<()> {
        let (runner, events, step) = (self.clone(), events.clone(), step.clone());
        step!(self.store, "policy.before_effect");
        let outcome = self.store.write_within(PATIENCE, move |tx| {
            for event in events.iter() {
                runner.react(tx, event)?;
            }
            step_within!(runner.store, "policy.after_effect");
            runner.advance(tx, &step)?;
            step_within!(runner.store, "policy.after_cursor");
            Ok(())
        });
        outcome.await?;
        step!(self.store, "policy.after_commit");
        Ok(())
    }

    async fn apply_one(self: &Arc<Self>, step: &Step, event: Arc<api::Event>) -> Result<()> {
        let mut step = step.clone();
        if planted(Bug::CursorBeforeEffect) {
            let (runner, early) = (self.clone(), std::mem::take(&mut step));
            self.store.write(move |tx| runner.advance(tx, &early)).await?;
        }
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let care = self.takes_care(&event);
        let patience = if care { Duration::ZERO } else { PATIENCE };
        let mut verdict = Verdict::Try;
        loop {
            if matches!(verdict, Verdict::Try) {
                verdict = self.before_try(&event, care).await?;
            }
            let parked = match &verdict {
                Verdict::Try => None,
                Verdict::Park { attempts, failure } => Some((*attempts, failure.clone())),
            };
            let (runner, subject, step) = (self.clone(), event.clone(), step.clone());
            step!(self.store, "policy.before_effect");
            let outcome = self
                .store
                .write_within(patience, move |tx| {
                    match parked {
                        None => runner.react(tx, &subject)?,
                        Some((attempts, failure)) => {
                            runner.park(tx, &subject, &failure, attempts)?
                        }
                    }
                    runner.forget_attempts_in(tx, &subject.event_id)?;
                    step_within!(runner.store, "policy.after_effect");
                    runner.advance(tx, &step)?;
                    step_within!(runner.store, "policy.after_cursor");
                    Ok(())
                })
                .await;
            step!(self.store, "policy.after_commit");
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

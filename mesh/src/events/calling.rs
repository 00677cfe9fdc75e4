//! Policies that call another context: a window of subjects under way at once.
//!
//! The events of one subject follow each other; different subjects do not wait for one another. The cursor is the
//! low-water mark: everything up to it is done. A crash repeats what is above it, with calls that can be repeated.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use proto::mesh::v1 as api;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::cursor::Place;
use super::parking::Verdict;
use super::policy::Handler;
use super::runner::{Backoff, Runner, signed};
use crate::error::{Error, Result};
use crate::log_service::{Batch, Batches};
use crate::store::words;
use crate::telemetry;

/// How many events may be known and not done.
const PENDING: usize = 512;

struct Window {
    runner: Arc<Runner>,
    /// By subject: what is under way, and what waits behind it.
    queues: HashMap<String, VecDeque<Arc<api::Event>>>,
    /// By position, the partition of what is not done, and of what is done and has not moved a cursor yet.
    pending: BTreeMap<i64, i32>,
    settled: BTreeMap<i64, i32>,
    tasks: JoinSet<Result<(String, i64)>>,
    places: Arc<Semaphore>,
}

impl Runner {
    pub(super) async fn follow_calling(
        self: &Arc<Self>,
        mut batches: Batches,
        mut place: Place,
        until: Instant,
    ) -> Result<()> {
        let mut stored = place.position();
        let mut window = Window {
            runner: self.clone(),
            queues: HashMap::new(),
            pending: BTreeMap::new(),
            settled: BTreeMap::new(),
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(self.policy.window)),
        };
        loop {
            let mut quiet = false;
            tokio::select! {
                batch = self.next_batch(&mut batches, &place), if window.pending.len() < PENDING => {
                    match batch? {
                        Some(batch) => {
                            quiet = batch.events.is_empty();
                            window.take(&mut place, batch);
                        }
                        None => return Ok(()),
                    }
                }
                Some(done) = window.tasks.join_next() => {
                    let mut next = Some(done);
                    while let Some(done) = next {
                        let (subject, position) = done.map_err(Error::internal)??;
                        window.settle(&subject, position);
                        self.handled.fetch_add(1, Ordering::Relaxed);
                        next = window.tasks.try_join_next();
                    }
                }
            }
            let done = window.pending.keys().next().map_or(place.read, |first| first - 1);
            // Where nothing happens, partitions without events of their own catch up.
            if done > stored || quiet {
                let (runner, step) =
                    (self.clone(), place.step_in(&window.settled_upto(done), done));
                if !step.is_empty() {
                    place.take(&step);
                    step!(self.store, "calling.before_cursor");
                    self.store.write(move |tx| runner.advance(tx, &step)).await?;
                    step!(self.store, "calling.after_cursor");
                    stored = done;
                }
            }
            if window.pending.is_empty() && Instant::now() > until {
                return Ok(());
            }
        }
    }

    /// Calls until it is done, or parked.
    async fn call(self: Arc<Self>, event: Arc<api::Event>) -> Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        if self.is_behind_parked(&event.subject).await? && self.park_behind(&event).await? {
            return Ok(());
        }
        let care = self.takes_care(&event);
        let mut verdict = Verdict::Try;
        loop {
            if matches!(verdict, Verdict::Try) {
                verdict = self.before_try(&event, care).await?;
            }
            if let Verdict::Park { attempts, failure } = verdict {
                let runner = self.clone();
                return self
                    .store
                    .write(move |tx| {
                        runner.park(tx, &event, &failure, attempts)?;
                        runner.forget_attempts_in(tx, &event.event_id)
                    })
                    .await;
            }
            step!(self.store, "calling.before_call");
            let called = self.call_once(&event).await;
            step!(self.store, "calling.after_call");
            match called {
                Ok(()) => return self.forget_attempts(&event).await,
                Err(error) if error.is_passing() => {
                    tracing::debug!(policy = %self.key, event = %event.event_id, %error, "an event waits for what it needs");
                    self.after_wait(&event, care).await?;
                }
                Err(error) => verdict = self.after_failure(&event, &error, care).await?,
            }
            backoff.wait().await;
        }
    }

    /// Puts an event aside that waits behind another; not if that one was replayed meanwhile.
    async fn park_behind(self: &Arc<Self>, event: &Arc<api::Event>) -> Result<bool> {
        let (runner, event) = (self.clone(), event.clone());
        self.store
            .write(move |tx| {
                let waits = runner.must_wait(tx, &event.subject)?;
                if waits {
                    runner.park(tx, &event, "", 0)?;
                }
                Ok(waits)
            })
            .await
    }

    pub(super) async fn call_once(&self, event: &api::Event) -> Result<()> {
        let Some(Handler::Call(handler)) = self.policy.handler(&event.r#type) else {
            return Err(Error::internal(format!("{} does not handle {}", self.key, event.r#type)));
        };
        let (span, trace) = telemetry::policy_span(&self.key, event);
        let work = telemetry::within(trace, handler(event).instrument(span.clone()));
        let outcome = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
            Err(Error::internal(format!("panic in a policy: {}", words(&*panic))))
        });
        telemetry::end_policy(&span, &outcome);
        outcome
    }
}

impl Window {
    fn take(&mut self, place: &mut Place, batch: Batch) {
        for event in batch.events.into_iter().filter(|event| place.wants(event)) {
            let partition = i32::try_from(event.partition).unwrap_or_default();
            self.pending.insert(signed(event.position), partition);
            let queue = self.queues.entry(event.subject.clone()).or_default();
            queue.push_back(event.clone());
            if queue.len() == 1 {
                self.spawn(event);
            }
        }
        place.read = place.read.max(batch.to);
    }

    fn spawn(&mut self, event: Arc<api::Event>) {
        let (runner, places) = (self.runner.clone(), self.places.clone());
        // It is large, and would be copied on its way.
        self.tasks.spawn(Box::pin(async move {
            let _place = places.acquire_owned().await.map_err(Error::internal)?;
            runner.call(event.clone()).await?;
            Ok((event.subject.clone(), signed(event.position)))
        }));
    }

    /// The partitions of what is done up to here; it is forgotten.
    fn settled_upto(&mut self, done: i64) -> Vec<i32> {
        let later = self.settled.split_off(&(done + 1));
        std::mem::replace(&mut self.settled, later).into_values().collect()
    }

    fn settle(&mut self, subject: &str, position: i64) {
        if let Some(partition) = self.pending.remove(&position) {
            self.settled.insert(position, partition);
        }
        let Some(queue) = self.queues.get_mut(subject) else { return };
        queue.pop_front();
        match queue.front().cloned() {
            Some(next) => self.spawn(next),
            None => drop(self.queues.remove(subject)),
        }
    }
}

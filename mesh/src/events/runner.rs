//! Runs one policy: follows the source's log from the policy's cursor, for as long as the context runs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use futures::TryStreamExt as _;
use proto::mesh::v1 as api;
use rand::Rng as _;
use tokio::time::Instant;

use super::cursor::{self, ALL, Place, Step, place_of};
use super::policy::{Policy, Start};
use super::{Generations, Parked, Sources, parking};
use crate::error::{Error, Result, reason_of};
use crate::log_service::{self, Batch, Batches};
use crate::replicas::Share;
use crate::store::schema::{mesh_attempt, mesh_cursor, mesh_parked};
use crate::store::{Conn, Store, Tx};

/// After a start so many of the events that were there before it are handled one by one, each counted before it is tried:
/// if one of them kills the process, the count is there after the next start. No batch is larger.
pub(super) const CAREFUL: usize = 256;

/// How long it follows a log before it comes again, so that the log knows how far it is: what is behind it may be trimmed.
const COME_AGAIN: Duration = Duration::from_secs(5 * 60);

/// A policy at work.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(super) policy: Policy,
    /// What the cursor is kept under: `homemovie.app/whenever_movie_ordered`.
    pub(super) key: String,
    /// Of a view's policy: which generation it writes. Otherwise 0.
    pub(super) generation: i32,
    pub(super) store: Store,
    pub(super) parked: Parked,
    /// The events of which the attempts are counted. Only a hint, as above.
    pub(super) counted: Parked,
    pub(super) careful: AtomicUsize,
    /// The end of the log when it was last begun to follow it: some process may have died of what is up to here.
    pub(super) old: AtomicI64,
    sources: SourcesOf,
    /// Which partitions are handled here.
    share: Share,
    head: AtomicI64,
    pub(super) handled: AtomicU64,
}

struct SourcesOf(Sources);

impl std::fmt::Debug for SourcesOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}

impl Runner {
    pub(crate) fn new(
        policy: Policy,
        generation: i32,
        store: Store,
        sources: Sources,
        share: Share,
    ) -> Self {
        let key = key_of(store.context(), policy.name, generation);
        Self {
            policy,
            key,
            generation,
            store,
            parked: Arc::new(Mutex::new(HashSet::new())),
            counted: Arc::new(Mutex::new(HashSet::new())),
            careful: AtomicUsize::new(CAREFUL),
            old: AtomicI64::new(0),
            sources: SourcesOf(sources),
            share,
            head: AtomicI64::new(0),
            handled: AtomicU64::new(0),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// How many events were dealt with in this process, parked ones among them.
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// The end of the source's log, as far as it has been heard of.
    pub(crate) fn head(&self) -> i64 {
        self.head.load(Ordering::Relaxed)
    }

    /// Follows the log; whatever ends it, it comes again with its cursor.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let ended = match self.prepare().await {
                Ok(()) => self.follow(&mut backoff).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                match &error {
                    error if let Some(fate) = fate_of_the_log(error) => {
                        tracing::error!(policy = %self.key, %error, "the source was {fate}: this policy stands still");
                    }
                    error if error.is_passing() => {
                        tracing::debug!(policy = %self.key, %error, "the policy subscribes again")
                    }
                    error => {
                        tracing::warn!(policy = %self.key, %error, "the policy subscribes again")
                    }
                }
            }
            backoff.wait().await;
        }
    }

    async fn prepare(&self) -> Result<()> {
        self.take_over_former_cursor().await?;
        let key = self.key.clone();
        let known = move |conn: &mut Conn| {
            Ok((parking::subjects(conn, &key)?, parking::counted(conn, &key)?))
        };
        let (parked, counted) = self.store.read(known).await?;
        *parking::lock(&self.parked) = parked;
        *parking::lock(&self.counted) = counted;
        Ok(())
    }

    /// Follows the log in the partitions that are handled here, for as long as they are.
    async fn follow(self: &Arc<Self>, backoff: &mut Backoff) -> Result<()> {
        let mut share = self.share.clone();
        let partitions = share.take();
        if partitions.is_empty() {
            share.changed().await;
            return Ok(());
        }
        tokio::select! {
            ended = self.follow_in(&partitions, backoff) => ended,
            () = share.changed() => Ok(()),
        }
    }

    async fn follow_in(
        self: &Arc<Self>,
        partitions: &Arc<[i32]>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let place = self.place(partitions).await?;
        let named = partitions.iter().filter(|partition| **partition != ALL);
        let request = api::SubscribeRequest {
            source: self.policy.source.clone(),
            policy: self.key.clone(),
            after: place.as_ref().map(|place| api::Cursor {
                epoch: place.epoch.clone(),
                position: place.position().unsigned_abs(),
            }),
            types: self.policy.types().map(ToOwned::to_owned).collect(),
            partitions: named.map(|partition| partition.unsigned_abs()).collect(),
            from_now: self.policy.start == Start::Now,
        };
        let channel = (self.sources.0)(&self.policy.source)?;
        let mut batches = log_service::open(channel, request).await?;
        // The first answer says which life of the log this is, and where we begin.
        let first =
            batches.try_next().await?.ok_or_else(|| Error::unavailable(&self.policy.source))?;
        self.old.store(first.head, Ordering::Relaxed);
        let place = match place {
            Some(place) if *place.epoch == *first.epoch => Some(place),
            Some(_) => {
                self.go_on_in(first.epoch).await?;
                self.place(partitions).await?
            }
            None => {
                self.begin_at(first.epoch, first.from - 1).await?;
                self.place(partitions).await?
            }
        };
        let Some(mut place) = place else { return Err(Error::Changed(self.key.clone())) };
        backoff.reset();
        let until = Instant::now() + COME_AGAIN;
        if self.policy.calls() {
            return self.follow_calling(batches, place, until).await;
        }
        while let Some(batch) = self.next_batch(&mut batches, &place).await? {
            self.apply(&mut place, batch).await?;
            if Instant::now() > until {
                break;
            }
        }
        Ok(())
    }

    /// The next stretch of the log, which must follow on what is behind us: every loss is loud.
    pub(super) async fn next_batch(
        &self,
        batches: &mut Batches,
        place: &Place,
    ) -> Result<Option<Batch>> {
        let Some(batch) = batches.try_next().await? else { return Ok(None) };
        step!(self.store, "policy.received");
        if *batch.epoch != *place.epoch || batch.from != place.read + 1 {
            return Err(Error::internal(format!(
                "a gap in the log of {}: at {} of {} came {} of {}",
                self.policy.source, place.read, place.epoch, batch.from, batch.epoch
            )));
        }
        self.head.store(batch.head, Ordering::Relaxed);
        Ok(Some(batch))
    }

    async fn place(&self, partitions: &Arc<[i32]>) -> Result<Option<Place>> {
        let (key, source) = (self.key.clone(), self.policy.source.clone());
        let partitions = partitions.clone();
        self.store.read(move |conn| Ok(place_of(conn, &key, &source, &partitions)?)).await
    }

    /// The last position that is behind this policy, whoever handles it.
    pub(crate) async fn position(&self) -> Result<i64> {
        let everywhere: Arc<[i32]> = Arc::from([]);
        Ok(self.place(&everywhere).await?.map_or(0, |place| place.position()))
    }

    async fn begin_at(&self, epoch: Arc<str>, position: i64) -> Result<()> {
        let (key, source, generation) =
            (self.key.clone(), self.policy.source.clone(), self.generation);
        self.store
            .write(move |tx| {
                // A view's generation that is not read any more must not begin again.
                if generation > 0 && generation < Generations::current(tx)? {
                    return Err(Error::Changed(key));
                }
                // Another process may have been faster.
                if place_of(tx, &key, &source, &[])?.is_none() {
                    cursor::begin(tx, &key, &source, &epoch, position)?;
                }
                Ok(())
            })
            .await
    }

    async fn go_on_in(&self, epoch: Arc<str>) -> Result<()> {
        let (key, source) = (self.key.clone(), self.policy.source.clone());
        self.store.write(move |tx| Ok(cursor::go_on_in(tx, &key, &source, &epoch)?)).await
    }

    /// Moves the cursors in the transaction of the effect. Refuses when they are not where we think.
    pub(super) fn advance(&self, tx: &mut Tx<'_>, step: &Step) -> Result<()> {
        if cursor::advance(tx, &self.key, &self.policy.source, step)? {
            Ok(())
        } else {
            Err(Error::Changed(self.key.clone()))
        }
    }

    /// Whether an error says that the cursor is not ours any more.
    pub(super) fn is_fenced(&self, error: &Error) -> bool {
        matches!(error, Error::Changed(what) if *what == self.key)
    }

    /// With it what was put aside, or is in trouble.
    async fn take_over_former_cursor(&self) -> Result<()> {
        let Some(former) = self.policy.former_name else { return Ok(()) };
        let former = key_of(self.store.context(), former, self.generation);
        let (key, source) = (self.key.clone(), self.policy.source.clone());
        self.store
            .write(move |tx| {
                if place_of(tx, &key, &source, &[])?.is_none() {
                    diesel::update(mesh_cursor::table.filter(mesh_cursor::policy.eq(&former)))
                        .set(mesh_cursor::policy.eq(&key))
                        .execute(&mut **tx)?;
                    diesel::update(mesh_parked::table.filter(mesh_parked::policy.eq(&former)))
                        .set(mesh_parked::policy.eq(&key))
                        .execute(&mut **tx)?;
                    diesel::update(mesh_attempt::table.filter(mesh_attempt::policy.eq(&former)))
                        .set(mesh_attempt::policy.eq(&key))
                        .execute(&mut **tx)?;
                }
                Ok(())
            })
            .await
    }
}

/// What happened to a log in which a policy cannot go on.
fn fate_of_the_log(error: &Error) -> Option<&'static str> {
    let Error::Status(status) = error else { return None };
    match reason_of(status)?.as_str() {
        "EPOCH_CHANGED" => Some("restored"),
        "CURSOR_TRIMMED" => Some("trimmed"),
        _ => None,
    }
}

pub(super) fn key_of(context: &str, name: &str, generation: i32) -> String {
    if generation == 0 {
        format!("{context}/{name}")
    } else {
        format!("{context}/{name}@{generation}")
    }
}

pub(crate) fn signed(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// Longer and longer waits, each a random share of its length.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    pub(crate) async fn wait(&mut self) {
        let pause = self.next.mul_f64(0.5 + crate::rng().random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.most);
        tokio::time::sleep(pause).await;
    }
}

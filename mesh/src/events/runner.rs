//! Runs one policy: follows the source's log from the policy's cursor, for as long as the context runs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use tonic::Streaming;

use super::policy::{Policy, Start};
use super::{Generations, Parked, Sources};
use crate::error::{Error, Result, reason_of};
use crate::store::schema::{mesh_attempt, mesh_cursor, mesh_parked};
use crate::store::{Conn, Store, Tx, update};

/// One process has all partitions.
const ALL: i32 = -1;
/// After a start so many events are handled one by one, each counted before it is tried: if one of them kills the
/// process, the count is there after the next start. No batch is larger.
pub(super) const CAREFUL: usize = 256;

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
    pub(super) careful: AtomicUsize,
    sources: SourcesOf,
    head: AtomicI64,
}

struct SourcesOf(Sources);

impl std::fmt::Debug for SourcesOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}

/// A cursor as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: String,
    pub(crate) position: i64,
}

impl Runner {
    pub(crate) fn new(policy: Policy, generation: i32, store: Store, sources: Sources) -> Self {
        let key = key_of(store.context(), policy.name, generation);
        Self {
            policy,
            key,
            generation,
            store,
            parked: Arc::new(Mutex::new(HashSet::new())),
            careful: AtomicUsize::new(CAREFUL),
            sources: SourcesOf(sources),
            head: AtomicI64::new(0),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
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
                    Error::Status(status)
                        if reason_of(status).as_deref() == Some("EPOCH_CHANGED") =>
                    {
                        tracing::error!(policy = %self.key, %error, "the source was restored: this policy stands still");
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
        let parked = self.store.read(move |conn| super::parking::subjects(conn, &key)).await?;
        *super::parking::lock(&self.parked) = parked;
        Ok(())
    }

    async fn follow(self: &Arc<Self>, backoff: &mut Backoff) -> Result<()> {
        let place = self.place().await?;
        let request = api::SubscribeRequest {
            source: self.policy.source.clone(),
            policy: self.key.clone(),
            after: place.as_ref().map(|place| api::Cursor {
                epoch: place.epoch.clone(),
                position: place.position.unsigned_abs(),
            }),
            types: self.policy.types().map(ToOwned::to_owned).collect(),
            partitions: Vec::new(),
            from_now: self.policy.start == Start::Now,
        };
        let channel = (self.sources.0)(&self.policy.source)?;
        let mut stream = EventServiceClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .subscribe(request)
            .await?
            .into_inner();
        let place = match place {
            Some(place) => place,
            // The first answer says which log this is, and where we begin.
            None => {
                let first = next(&mut stream)
                    .await?
                    .ok_or_else(|| Error::unavailable(&self.policy.source))?;
                let place = Place { epoch: first.epoch, position: signed(first.from_position) - 1 };
                self.begin_at(place.clone()).await?;
                place
            }
        };
        backoff.reset();
        if self.policy.calls() {
            return self.follow_calling(stream, place).await;
        }
        let mut position = place.position;
        while let Some(batch) = self.next_batch(&mut stream, &place.epoch, position).await? {
            let upto = signed(batch.to_position);
            if upto > position {
                self.apply(&place.epoch, position, batch).await?;
                position = upto;
            }
        }
        Ok(())
    }

    /// The next stretch of the log, which must follow on what is behind us: every loss is loud.
    pub(super) async fn next_batch(
        &self,
        stream: &mut Streaming<api::SubscribeResponse>,
        epoch: &str,
        position: i64,
    ) -> Result<Option<api::SubscribeResponse>> {
        let Some(batch) = next(stream).await? else { return Ok(None) };
        if batch.epoch != epoch || signed(batch.from_position) != position + 1 {
            return Err(Error::internal(format!(
                "a gap in the log of {}: at {position} of {epoch} came {} of {}",
                self.policy.source, batch.from_position, batch.epoch
            )));
        }
        self.head.store(signed(batch.head_position), Ordering::Relaxed);
        Ok(Some(batch))
    }

    async fn place(&self) -> Result<Option<Place>> {
        let (key, source) = (self.key.clone(), self.policy.source.clone());
        self.store.read(move |conn| Ok(cursor_of(conn, &key, &source)?)).await
    }

    /// The last position that is behind this policy.
    pub(crate) async fn position(&self) -> Result<i64> {
        Ok(self.place().await?.map_or(0, |place| place.position))
    }

    async fn begin_at(&self, place: Place) -> Result<()> {
        let (key, source, generation) =
            (self.key.clone(), self.policy.source.clone(), self.generation);
        self.store
            .write(move |tx| {
                // A view's generation that is not read any more must not begin again.
                if generation > 0 && generation < Generations::current(tx)? {
                    return Err(Error::Changed(key));
                }
                diesel::insert_into(mesh_cursor::table)
                    .values((
                        mesh_cursor::policy.eq(key),
                        mesh_cursor::source.eq(source),
                        mesh_cursor::partition.eq(ALL),
                        mesh_cursor::epoch.eq(place.epoch),
                        mesh_cursor::position.eq(place.position),
                    ))
                    .execute(&mut **tx)?;
                Ok(())
            })
            .await
    }

    /// Moves the cursor in the transaction of the effect. Refuses when it is not where we think: somebody else moved
    /// it, and has had the effect.
    pub(super) fn advance(&self, tx: &mut Tx<'_>, epoch: &str, from: i64, upto: i64) -> Result<()> {
        let cursor = mesh_cursor::policy
            .eq(&self.key)
            .and(mesh_cursor::source.eq(&self.policy.source))
            .and(mesh_cursor::partition.eq(ALL));
        let place = mesh_cursor::epoch.eq(epoch).and(mesh_cursor::position.eq(from));
        let upto = mesh_cursor::position.eq(upto);
        let moved = update(mesh_cursor::table, cursor.and(place), upto).execute(&mut **tx)?;
        if moved == 1 { Ok(()) } else { Err(Error::Changed(self.key.clone())) }
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
                if cursor_of(tx, &key, &source)?.is_none() {
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

pub(super) fn key_of(context: &str, name: &str, generation: i32) -> String {
    if generation == 0 {
        format!("{context}/{name}")
    } else {
        format!("{context}/{name}@{generation}")
    }
}

/// Where a policy is in a source's log.
pub(crate) fn cursor_of(conn: &mut Conn, key: &str, source: &str) -> QueryResult<Option<Place>> {
    let place: Option<(String, i64)> = mesh_cursor::table
        .find((key, source, ALL))
        .select((mesh_cursor::epoch, mesh_cursor::position))
        .first(conn)
        .optional()?;
    Ok(place.map(|(epoch, position)| Place { epoch, position }))
}

async fn next(
    stream: &mut Streaming<api::SubscribeResponse>,
) -> Result<Option<api::SubscribeResponse>> {
    Ok(stream.message().await?)
}

pub(super) fn signed(position: u64) -> i64 {
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
        let pause = self.next.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.most);
        tokio::time::sleep(pause).await;
    }
}

//! Streaming a log (rule G-4): answered for every context of this process.
//!
//! The stream is pulled: the next stretch is read when the transport has room for it, so a slow reader costs nothing.
//! A policy of the same process asks like everybody else, and is then handed the events themselves: they need not be written
//! out and read again ([`open`]).

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use proto::mesh::v1 as api;
use proto::mesh::v1::ErrorReason;
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::mesh::v1::event_service_server::{EventService, EventServiceServer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::caller::Caller;
use crate::check::Check;
use crate::client::Channel;
use crate::contract::Contract;
use crate::error::{Error, Result};
use crate::events::{Wanted, refuse_trimmed, remember, signed, stretch};
use crate::partition::PARTITIONS;
use crate::registry::Registry;
use crate::store::Store;

/// How many positions are read at once.
const STRETCH: i64 = 256;
/// How often an idle stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(crate) fn service(registry: Weak<Registry>) -> EventServiceServer<Events> {
    EventServiceServer::new(Events { registry })
}

pub(crate) struct Events {
    registry: Weak<Registry>,
}

impl Events {
    /// The log of a context of this process, and when it ends.
    fn log_of(&self, source: &str) -> Result<(Store, CancellationToken)> {
        let registry = self.registry.upgrade().ok_or_else(|| Error::unavailable(source))?;
        let running = registry.running();
        match running.get(source) {
            Some(running) => Ok((running.store.clone(), running.stopping.clone())),
            None if registry.front.knows(source) => Err(Error::unavailable(source)),
            None => Err(Error::NotFound(source.to_owned())),
        }
    }
}

/// A stretch of a log, with the events of it that are wanted.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) epoch: Arc<str>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) events: Vec<Arc<api::Event>>,
    /// The end of the log.
    pub(crate) head: i64,
}

/// Batches as they come.
pub(crate) type Batches = BoxStream<'static, Result<Batch>>;

impl From<Batch> for api::SubscribeResponse {
    fn from(batch: Batch) -> Self {
        Self {
            epoch: batch.epoch.to_string(),
            from_position: batch.from.unsigned_abs(),
            to_position: batch.to.unsigned_abs(),
            events: batch.events.into_iter().map(Arc::unwrap_or_clone).collect(),
            head_position: batch.head.unsigned_abs(),
        }
    }
}

impl From<api::SubscribeResponse> for Batch {
    fn from(answer: api::SubscribeResponse) -> Self {
        Self {
            epoch: answer.epoch.into(),
            from: signed(answer.from_position),
            to: signed(answer.to_position),
            events: answer.events.into_iter().map(Arc::new).collect(),
            head: signed(answer.head_position),
        }
    }
}

/// Goes along with a request, and does not leave the process: batches are taken as they are.
#[derive(Debug, Clone, Copy)]
struct AsTheyAre;

/// Comes back with the answer to such a request: the batches, which are not in its body.
#[derive(Clone)]
struct Apart(Arc<Mutex<Option<Batches>>>);

/// Opens a stream of a log, wherever it is.
pub(crate) async fn open(channel: Channel, request: api::SubscribeRequest) -> Result<Batches> {
    let mut request = Request::new(request);
    request.extensions_mut().insert(AsTheyAre);
    let mut client = EventServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let answer = client.subscribe(request).await?;
    let apart = answer
        .extensions()
        .get()
        .and_then(|Apart(batches)| batches.lock().unwrap_or_else(PoisonError::into_inner).take());
    Ok(apart.unwrap_or_else(|| answer.into_inner().map(|batch| Ok(batch?.into())).boxed()))
}

#[tonic::async_trait]
impl EventService for Events {
    type SubscribeStream = BoxStream<'static, Result<api::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let as_they_are = request.extensions().get::<AsTheyAre>().is_some();
        let (caller, mut request) = Caller::of(request)?;
        let reader = caller.service().ok_or(Error::Unauthenticated)?;
        let mut check = Check::new();
        check.text("source", &request.source, 1..=100);
        check.text("policy", &request.policy, 1..=200);
        // What a log remembers of who reads it says how much may be trimmed: nobody speaks for others.
        if !is_policy_of(reader, &request.policy) {
            check.bad("policy", format!("must be one of the caller: {reader}/..."));
        }
        if request.partitions.iter().any(|partition| u64::from(*partition) >= PARTITIONS) {
            check.bad("partitions", "must be 0 to 15");
        }
        check.finish()?;
        let (store, ending) = self.log_of(&request.source)?;
        let types = std::mem::take(&mut request.types);
        let types = Contract::ours()?.readable(reader, &request.source, types)?;
        let after = place(&store, &request).await?;
        remember(&store, &request.policy, &request.partitions, after).await?;
        let wanted = Wanted { types, partitions: request.partitions };
        let batches = batches(store, ending, request.source, after, wanted);
        if !as_they_are {
            return Ok(Response::new(batches.map(|batch| Ok(batch?.into())).boxed()));
        }
        let safe = AssertUnwindSafe(batches).catch_unwind().map(|batch| {
            batch.unwrap_or_else(|_| Err(Error::internal("panic in a stream of events")))
        });
        let mut answer = Response::new(stream::empty().boxed());
        answer.extensions_mut().insert(Apart(Arc::new(Mutex::new(Some(safe.boxed())))));
        Ok(answer)
    }
}

fn is_policy_of(context: &str, policy: &str) -> bool {
    policy.strip_prefix(context).is_some_and(|rest| rest.starts_with('/'))
}

/// Where the subscriber goes on, if this is still the log it knows.
async fn place(store: &Store, request: &api::SubscribeRequest) -> Result<i64> {
    let head = *store.head().borrow();
    let Some(after) = &request.after else { return Ok(if request.from_now { head } else { 0 }) };
    let position = signed(after.position);
    if *after.epoch != *store.epoch() && !store.goes_on(&after.epoch, position).await? {
        let reason = ErrorReason::EpochChanged.as_str_name();
        let message = format!("the log of {} has begun a new epoch", request.source);
        return Err(Error::refused("mesh", reason, message).with("epoch", store.epoch()));
    }
    if position > head {
        let reason = ErrorReason::CursorAhead.as_str_name();
        let message = format!("the log of {} ends at {head}", request.source);
        return Err(Error::refused("mesh", reason, message)
            .code(Code::OutOfRange)
            .with("head", head));
    }
    Ok(position)
}

fn batches(
    store: Store,
    ending: CancellationToken,
    source: String,
    mut after: i64,
    wanted: Wanted,
) -> impl Stream<Item = Result<Batch>> {
    let life = store.epoch();
    let epoch = life.clone();
    let answer = move |after: i64, to: i64, events, head: i64| Batch {
        epoch: epoch.clone(),
        from: after + 1,
        to,
        events,
        head,
    };
    async_stream::stream! {
        let mut heads = store.head();
        // What has been looked at; what was told ends at `after`.
        let mut seen = after;
        let head = *heads.borrow();
        yield Ok(answer(after, after, Vec::new(), head));
        let mut heartbeat_at = Instant::now() + HEARTBEAT;
        let mut caught_up = false;
        loop {
            let head = *heads.borrow_and_update();
            // Another server may have taken over, and the log gone back: who reads it comes again, and hears it.
            if store.epoch() != life {
                yield Err(Error::unavailable(&source));
                return;
            }
            if seen < head {
                let upto = head.min(seen + STRETCH);
                match read(&store, seen, upto, &wanted).await {
                    Ok(events) => {
                        seen = upto;
                        if !events.is_empty() {
                            step!(store, "events.before_send");
                            yield Ok(answer(after, seen, events, head));
                            after = seen;
                            heartbeat_at = Instant::now() + HEARTBEAT;
                        }
                    }
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                }
                continue;
            }
            // Who has just come must not wait for a heartbeat to hear that there is nothing more.
            if !caught_up && after < seen {
                yield Ok(answer(after, seen, Vec::new(), head));
                after = seen;
            }
            caught_up = true;
            tokio::select! {
                () = ending.cancelled() => {
                    yield Err(Error::unavailable(&source));
                    return;
                }
                changed = heads.changed() => if changed.is_err() {
                    yield Err(Error::unavailable(&source));
                    return;
                },
                // Covers what was filtered out, so that cursors move on logs that have nothing for them, too.
                () = tokio::time::sleep_until(heartbeat_at) => {
                    yield Ok(answer(after, seen, Vec::new(), head));
                    after = seen;
                    heartbeat_at = Instant::now() + HEARTBEAT;
                }
            }
        }
    }
}

/// The events wanted of a stretch: from memory where it was just committed.
pub(crate) async fn read(
    store: &Store,
    after: i64,
    upto: i64,
    wanted: &Wanted,
) -> Result<Vec<Arc<api::Event>>> {
    if let Some(recent) = store.recent(after, upto) {
        return Ok(wanted.among(recent));
    }
    let (source, wanted) = (store.context().to_owned(), wanted.clone());
    let read = store.read(move |conn| {
        let events = stretch(conn, &source, after, upto, &wanted)?;
        refuse_trimmed(conn, &source, after)?;
        Ok(events.into_iter().map(Arc::new).collect())
    });
    read.await
}

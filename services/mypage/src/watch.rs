//! A customer's orders, live.
//!
//! One look into the store after a commit finds what changed for all who watch ([`Changes`]): a stream costs nothing
//! while its customer's orders stay as they are. Who comes, comes again or was too slow first reads what it missed, out
//! of its own orders ([`Missed`]).

use std::time::Duration;

use futures::Stream;
use mesh::watch::{HEARTBEAT, ending};
use mesh::{Result, Store, Watchers, micros};
use proto::mypage::v1 as api;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::follow::Commits;
use crate::store::{self, Change, Mark, NEWEST, Place, Told};
use crate::wire;

/// How many orders a message has at the most that tells what was missed.
const CHUNK: usize = 100;
/// How many changes are looked up at once.
const LOOK: usize = 1000;
/// When to look again where that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What changes in anybody's orders, told to those who watch their own. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Changes {
    store: Store,
    watchers: Watchers<Change>,
}

impl Changes {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, watchers: Watchers::default() }
    }

    /// Tells what changes, for as long as the context runs.
    pub(crate) async fn tell(self) {
        let mut commits = Commits::of(&self.store);
        let mut told = Mark::default();
        loop {
            commits.look();
            match self.tell_since(&mut told).await {
                Ok(true) => {}
                Ok(false) => {
                    let Ok(()) = commits.next().await else { return };
                }
                Err(error) => {
                    tracing::warn!(%error, "what changed in orders was not read: who watches reads it");
                    self.watchers.dismiss();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Tells what changed since `told`, and moves that; says whether there is more.
    async fn tell_since(&self, told: &mut Mark) -> Result<bool> {
        let (since, watchers) = (*told, self.watchers.clone());
        let is_watched = move || !watchers.is_empty();
        let (now, changed) =
            self.store.read(move |conn| store::changed(conn, since, LOOK, is_watched)).await?;
        let is_more = changed.len() == LOOK;
        let last = changed.last().filter(|_| is_more);
        *told = last.map_or(now, |last| Mark { change: last.number, ..now });

        if !since.leads_to(now) {
            self.watchers.dismiss();
        }
        changed.iter().for_each(|change| self.watchers.tell(&change.customer, change));
        Ok(is_more)
    }

    /// Every order of this customer's that changed since `mark`, the newest first, then each that changes, for as long
    /// as the context runs.
    pub(crate) fn watch(
        self,
        stopping: CancellationToken,
        customer: String,
        mut mark: Mark,
    ) -> impl Stream<Item = Result<api::WatchMyOrdersResponse, Status>> + Send {
        async_stream::try_stream! {
            let mut told = None;
            loop {
                // Before it reads what it missed: what changes meanwhile is not lost.
                let mut watcher = self.watchers.watch(&customer);
                let mut missed = Missed::since(mark);
                while let Some(orders) = missed.next(&self.store, &customer).await? {
                    mark = missed.mark();
                    if !orders.is_empty() || told.is_none() {
                        yield answer(orders, mark);
                        told = Some(Instant::now());
                    }
                }
                loop {
                    let silent = told.unwrap_or_else(Instant::now) + HEARTBEAT;
                    let changes = tokio::select! {
                        () = stopping.cancelled() => Err(ending()),
                        changes = watcher.next() => Ok(changes),
                        () = sleep_until(silent) => Ok(Some(Vec::new())),
                    };
                    let Some(mut changes) = changes? else { break };
                    // What was read as missed is told.
                    changes.retain(|change| change.number > mark.change);
                    let Some(last) = changes.last().map(|change| change.number) else {
                        if silent <= Instant::now() {
                            yield answer(Vec::new(), mark);
                            told = Some(Instant::now());
                        }
                        continue;
                    };
                    let (whose, generation) = (customer.clone(), mark.generation);
                    let look = self
                        .store
                        .read(move |conn| store::as_they_are(conn, &whose, generation, changes));
                    let Some(orders) = look.await? else { break };
                    mark.change = last;
                    yield answer(orders, mark);
                    told = Some(Instant::now());
                }
            }
        }
    }
}

fn answer(orders: Vec<Told>, mark: Mark) -> api::WatchMyOrdersResponse {
    let my_orders = orders.into_iter().map(wire::my_order).collect();
    api::WatchMyOrdersResponse { my_orders, resume_token: mark.to_string() }
}

/// What a stream missed that had come to `since`, in parts.
struct Missed {
    since: Mark,
    /// Where the next part begins; none when all is read.
    below: Option<Place>,
    /// The mark that there was before the first part.
    end: Option<Mark>,
}

impl Missed {
    fn since(since: Mark) -> Self {
        Self { since, below: Some(NEWEST), end: None }
    }

    async fn next(&mut self, store: &Store, customer: &str) -> Result<Option<Vec<Told>>> {
        while let Some(below) = self.below.clone() {
            let (since, whose) = (self.since, customer.to_owned());
            let (orders, now) =
                store.read(move |conn| store::missed(conn, &whose, since, &below, CHUNK)).await?;
            if self.end.is_some_and(|end| end.generation != now.generation) {
                *self = Self::since(self.since);
                continue;
            }
            self.end.get_or_insert(now);
            let last = orders.last().filter(|_| orders.len() == CHUNK);
            self.below = last.map(|(order, _)| (micros(order.create_time), order.name.clone()));
            return Ok(Some(orders));
        }
        Ok(None)
    }

    /// How far the client is: only with the last part it has come to the end.
    fn mark(&self) -> Mark {
        self.end.filter(|_| self.below.is_none()).unwrap_or(self.since)
    }
}

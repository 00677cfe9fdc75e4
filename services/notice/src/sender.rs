//! Sending what is queued: one loop for each medium, without input. It finds what is due in the store alone, woken by
//! whoever adds to that and by a timer, so that nothing is lost with a process.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use mesh::{Result, Store, Tx};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::domain::{Medium, Notice, Outcome, Retries, State};
use crate::store;

/// How often the loop looks by itself at the least.
const LOOK: Duration = Duration::from_secs(1);
/// How many notices of one medium are under way at once: those that hang hold up no other.
const AT_ONCE: usize = 32;

/// Takes notices to their recipients over one medium. The same notice may be taken again: it carries its name.
pub(crate) trait Courier: Debug + Send + Sync + 'static {
    /// Which medium.
    fn medium(&self) -> Medium;

    /// Makes one attempt. Dropped when it takes too long.
    fn deliver<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Outcome>;
}

/// The loop of one medium. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    store: Store,
    courier: Arc<dyn Courier>,
    retries: Retries,
    wake: Arc<Notify>,
}

impl Sender {
    pub(crate) fn new(store: Store, courier: Arc<dyn Courier>, retries: Retries) -> Self {
        Self { store, courier, retries, wake: Arc::default() }
    }

    /// Its name, for the log.
    pub(crate) fn name(&self) -> &'static str {
        self.medium().word()
    }

    /// Which medium it sends over.
    pub(crate) fn medium(&self) -> Medium {
        self.courier.medium()
    }

    /// Says that there is something to send.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Runs for as long as the context does.
    pub(crate) async fn run(self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            let wait = match self.begin(AT_ONCE - under_way.len()).await {
                Ok((begun, wait)) => {
                    under_way.extend(begun.into_iter().map(|notice| self.attempt(notice)));
                    wait
                }
                Err(error) => {
                    tracing::warn!(%error, "queued notices are sent later");
                    LOOK
                }
            };
            tokio::select! {
                Some(()) = under_way.next() => {}
                () = self.wake.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Begins attempts for what is due, as many as there are places; and when to look again.
    async fn begin(&self, places: usize) -> Result<(Vec<Notice>, Duration)> {
        let medium = self.medium();
        if places == 0 {
            return Ok((Vec::new(), LOOK));
        }
        let next = self.store.read(move |conn| store::next_due(conn, medium)).await?;
        let wait = next
            .map_or(LOOK, |time| time.duration_since(mesh::now()).unwrap_or_default().min(LOOK));
        if !wait.is_zero() {
            return Ok((Vec::new(), wait));
        }
        let retries = self.retries;
        let work = move |tx: &mut Tx<'_>| begin(tx, medium, places, &retries);
        // What is due beyond that is looked for at once, or when a place is free.
        Ok((self.store.write(work).await?, Duration::ZERO))
    }

    /// Makes an attempt that was begun, and stores what came of it.
    async fn attempt(&self, notice: Notice) {
        let failed = |why: &str| Outcome::Failed(why.to_owned());
        // A panic over one notice is no reason to send no other.
        let delivery = AssertUnwindSafe(self.courier.deliver(&notice)).catch_unwind();
        let outcome = match timeout(self.retries.timeout, delivery).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => failed("the attempt panicked"),
            Err(_) => failed("it took too long"),
        };
        let (id, attempt, retries) = (notice.id, notice.attempts, self.retries);
        let work = move |tx: &mut Tx<'_>| {
            let mut notice = store::find(tx, id)?;
            notice.settle(attempt, outcome, tx.now(), &retries);
            store::save(tx, &notice)?;
            Ok(notice)
        };
        match self.store.write(work).await {
            Ok(notice) => report(&notice),
            // It stays as begun: it is tried again when this attempt must be over.
            Err(error) => {
                tracing::warn!(notice.name = %id, %error, "what came of a notice was not stored");
            }
        }
    }
}

/// Counts an attempt for each of what is due, what waits longest first. One without attempts left has failed.
fn begin(tx: &mut Tx<'_>, medium: Medium, places: usize, retries: &Retries) -> Result<Vec<Notice>> {
    let now = tx.now();
    let mut begun = Vec::new();
    for mut notice in store::due(tx, medium, now, places)? {
        let is_begun = notice.begin(now, retries);
        store::save(tx, &notice)?;
        if is_begun {
            begun.push(notice);
        } else {
            report(&notice);
        }
    }
    Ok(begun)
}

/// Says in the log what came of an attempt.
fn report(notice: &Notice) {
    let Notice { id, attempts, last_failure, .. } = notice;
    let medium = notice.medium.word();
    match notice.state {
        State::Sent => tracing::debug!(notice.name = %id, medium, attempts, "a notice was sent"),
        State::Failed => {
            tracing::warn!(notice.name = %id, medium, attempts, cause = last_failure, "a notice was not sent: it has failed");
        }
        State::Queued => {
            tracing::debug!(notice.name = %id, medium, attempts, cause = last_failure, "a notice is tried again");
        }
    }
}

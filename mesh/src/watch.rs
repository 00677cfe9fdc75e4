//! What a client can watch (rule G-18), fed by the context's own log.
//!
//! An aggregate ([`follow`]): its state at once, then every state it takes, each with its revision, until a final one.
//! The change of state and its event are one transaction, so a client that comes again with the last revision it saw
//! misses none.
//!
//! A quantity ([`latest`]): its value at once, then the latest one whenever it changed. It does not end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use proto::mesh::v1 as api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::error::{Error, Result};
use crate::events::{by_subject, read_revision};
use crate::planted::{Bug, planted};
use crate::store::{Conn, Store};

/// How often a stream without news says that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// The least time between two values of a quantity: at most ten a second.
const PACE: Duration = Duration::from_millis(100);

/// The stream of a `Watch...` method.
pub type WatchStream<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// An aggregate that can be followed.
pub trait Watched: Clone + Send + Sync + 'static {
    /// One message of the stream.
    type Answer: Send + 'static;

    /// The aggregate's resource name.
    fn subject(&self) -> String;

    /// The version of this state.
    fn sequence(&self) -> u64;

    /// Takes the state that an event tells of.
    fn take(&mut self, event: &api::Event) -> Result<()>;

    /// Whether no state comes after this one.
    fn is_final(&self) -> bool;

    /// Tells this state.
    fn tell(&self) -> Self::Answer;

    /// Tells nothing but that the stream is alive.
    fn heartbeat() -> Self::Answer;
}

/// Follows `now`, the aggregate as it stands. `resume` is the revision that the client saw last; empty: none.
/// Ends with a hint to come again when `stopping`.
pub fn follow<W: Watched>(
    store: &Store,
    stopping: CancellationToken,
    now: W,
    resume: &str,
) -> Result<WatchStream<W::Answer>> {
    let last_seen = match resume {
        "" => None,
        resume => match read_revision(resume) {
            Some((subject, sequence)) if subject == now.subject() && sequence <= now.sequence() => {
                Some(sequence)
            }
            _ => {
                return Err(Error::invalid(
                    "resume_revision",
                    "must be a revision of this resource",
                ));
            }
        },
    };
    // Subscribed before the log is read: what is committed in between is not missed.
    let heads = store.head();
    Ok(Box::pin(states(store.clone(), stopping, heads, now, last_seen)))
}

fn states<W: Watched>(
    store: Store,
    stopping: CancellationToken,
    mut heads: watch::Receiver<i64>,
    mut state: W,
    last_seen: Option<u64>,
) -> impl Stream<Item = Result<W::Answer, Status>> + Send {
    async_stream::try_stream! {
        let subject = state.subject();
        // A final state that was seen is told again, so that the client knows that it is final.
        let tell_now = last_seen.is_none_or(|seen| seen == state.sequence() && state.is_final());
        let mut seen = if tell_now { state.sequence() } else { last_seen.unwrap_or_default() };
        let mut told = Instant::now();
        if tell_now {
            yield state.tell();
            if state.is_final() {
                return;
            }
        }
        // How far the log was read, once it was read at all.
        let mut read = None;
        loop {
            let head = *heads.borrow_and_update();
            let news = news(&store, &subject, seen, read, head).await?;
            read = Some(head);
            for event in news {
                state.take(&event)?;
                seen = event.sequence;
                step!(store, "watch.before_tell");
                yield state.tell();
                if state.is_final() {
                    return;
                }
                told = Instant::now();
            }
            while !has_news(&mut heads, &stopping, told).await? {
                yield W::heartbeat();
                told = Instant::now();
            }
        }
    }
}

/// What happened to `subject` behind the version `seen`. Where the log was read up to a position before, what came since
/// is mostly still in memory.
async fn news(
    store: &Store,
    subject: &str,
    seen: u64,
    read: Option<i64>,
    head: i64,
) -> Result<Vec<Arc<api::Event>>> {
    if let Some(recent) = read.and_then(|read| store.recent(read, head)) {
        let is_news = |event: &Arc<api::Event>| event.subject == subject && event.sequence > seen;
        return Ok(recent.into_iter().filter(is_news).collect());
    }
    let (subject, source) = (subject.to_owned(), store.context().to_owned());
    let seen = i64::try_from(seen).unwrap_or(i64::MAX);
    let events = store.read(move |conn| Ok(by_subject(conn, &source, &subject, seen)?)).await?;
    Ok(events.into_iter().map(Arc::new).collect())
}

/// Follows a quantity, as `look` finds it: its value at once, then the latest one when it changed.
///
/// At most ten times a second; without news it is told again. Ends with a hint to come again when `stopping`.
pub async fn latest<V, L>(
    store: &Store,
    stopping: CancellationToken,
    look: L,
) -> Result<WatchStream<V>>
where
    V: Clone + PartialEq + Send + Sync + 'static,
    L: Fn(&mut Conn) -> Result<V> + Clone + Send + Sync + 'static,
{
    // Subscribed before the first look: what is committed in between is not missed.
    let (mut heads, store) = (store.head(), store.clone());
    let look = move || {
        let (store, look) = (store.clone(), look.clone());
        async move {
            step!(store, "watch.before_look");
            store.read(look).await
        }
    };
    let now = look().await?;
    if planted(Bug::SnapshotBeforeSubscribing) {
        heads.mark_unchanged();
    }
    Ok(Box::pin(values(heads, stopping, now, look)))
}

fn values<V, L, F>(
    mut heads: watch::Receiver<i64>,
    stopping: CancellationToken,
    mut now: V,
    look: L,
) -> impl Stream<Item = Result<V, Status>> + Send
where
    V: Clone + PartialEq + Send + Sync,
    L: Fn() -> F + Send,
    F: Future<Output = Result<V>> + Send,
{
    async_stream::try_stream! {
        let mut told = Instant::now();
        yield now.clone();
        loop {
            let next_look = Instant::now() + PACE;
            while !has_news(&mut heads, &stopping, told).await? {
                yield now.clone();
                told = Instant::now();
            }
            // Of what changes until then, only the last value is wanted.
            let paced = tokio::select! {
                () = stopping.cancelled() => Err(ending()),
                () = sleep_until(next_look) => Ok(()),
            };
            paced?;
            heads.mark_unchanged();
            let found = look().await?;
            if found != now {
                now = found;
                yield now.clone();
                told = Instant::now();
            }
        }
    }
}

/// Waits until the log has grown. `false`: nothing was told for so long that it is time for a heartbeat, also where a
/// busy log is full of other things.
async fn has_news(
    heads: &mut watch::Receiver<i64>,
    stopping: &CancellationToken,
    told: Instant,
) -> Result<bool> {
    tokio::select! {
        biased;
        () = stopping.cancelled() => Err(ending()),
        () = sleep_until(told + HEARTBEAT) => Ok(false),
        changed = heads.changed() => changed.map(|()| true).map_err(|_| ending()),
    }
}

/// How a stream ends because its context does: with a hint to come again.
pub fn ending() -> Error {
    Error::unavailable("this stream is ending for a restart: it")
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicI32, Ordering};

    use futures::StreamExt as _;
    use tokio::time::{sleep, timeout};
    use tonic::Code;

    use super::*;

    /// A log that grows with each change of a number.
    struct Board {
        heads: watch::Sender<i64>,
        number: Arc<AtomicI32>,
        stopping: CancellationToken,
    }

    impl Board {
        fn new(number: i32) -> Self {
            let (heads, number) = (watch::Sender::new(0), Arc::new(AtomicI32::new(number)));
            Self { heads, number, stopping: CancellationToken::new() }
        }

        fn set(&self, number: i32) {
            self.number.store(number, Ordering::SeqCst);
            self.heads.send_modify(|head| *head += 1);
        }

        fn watch(&self) -> impl Stream<Item = Result<i32, Code>> + use<> {
            let number = self.number.clone();
            let now = number.load(Ordering::SeqCst);
            let look = move || std::future::ready(Ok(number.load(Ordering::SeqCst)));
            let stream = values(self.heads.subscribe(), self.stopping.clone(), now, look);
            stream.map(|told| told.map_err(|end| end.code()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn g18_a_quantity_is_told_at_once_and_whenever_it_changes() {
        let board = Board::new(30);
        let mut stream = pin!(board.watch());
        assert_eq!(stream.next().await, Some(Ok(30)));
        board.set(28);
        assert_eq!(stream.next().await, Some(Ok(28)));
        board.set(28);
        let more = timeout(Duration::from_secs(10), stream.next()).await;
        assert!(more.is_err(), "another event has not changed it: {more:?}");
        board.set(30);
        assert_eq!(stream.next().await, Some(Ok(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn g18_a_storm_is_told_ten_times_a_second_and_its_end_surely() {
        let board = Board::new(0);
        let mut stream = pin!(board.watch());
        assert_eq!(stream.next().await, Some(Ok(0)));
        let begun = Instant::now();
        let storm = async {
            for number in 1..=1000 {
                board.set(number);
                sleep(Duration::from_millis(2)).await;
            }
        };
        let listen = async {
            let mut told = 1;
            while stream.next().await != Some(Ok(1000)) {
                told += 1;
            }
            told
        };
        let (told, ()) = tokio::join!(listen, storm);
        let elapsed = begun.elapsed().as_millis();
        assert!((15..=elapsed / 100).contains(&told), "{told} messages in {elapsed} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_news_says_that_it_is_alive_also_on_a_busy_log() {
        let board = Board::new(7);
        let mut stream = pin!(board.watch());
        assert_eq!(stream.next().await, Some(Ok(7)));
        let busy = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                board.set(7);
            }
        };
        let listen = async {
            for _ in 0..3 {
                let begun = Instant::now();
                assert_eq!(stream.next().await, Some(Ok(7)));
                assert_eq!(begun.elapsed().as_secs(), 15);
            }
        };
        tokio::select! {
            () = busy => {}
            () = listen => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quantity_ends_with_a_hint_when_the_context_stops() {
        let board = Board::new(7);
        let mut stream = pin!(board.watch());
        assert_eq!(stream.next().await, Some(Ok(7)));
        board.stopping.cancel();
        assert_eq!(stream.next().await, Some(Err(Code::Unavailable)));
        assert_eq!(stream.next().await, None);
    }
}

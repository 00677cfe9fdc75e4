//! The one writer of a SQLite store: a thread that commits many commands in one transaction.
//!
//! SQLite has one writer at a time. Threads that fight for that place wait unfairly and fail when they lose; one thread
//! with a queue does neither, and it can put everything that waits into one commit, which costs one flush. Each
//! command has a savepoint of its own, so that one that fails takes no other with it. Answers go out after the commit.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use diesel::connection::{
    AnsiTransactionManager, SimpleConnection as _, TransactionManager as _,
    TransactionManagerStatus,
};
use diesel::prelude::*;
use proto::mesh::v1 as api;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::schema::mesh_event_head;
use super::tail::Tail;
use super::{Conn, Tx, update};
use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::time::micros;

/// How many writes may wait. Who finds the queue full waits for a place, until the deadline.
const QUEUE: usize = 1024;
/// How many writes share a commit at the most, and how long the first of them waits for the others.
const BATCH: usize = 128;
const BATCH_TIME: Duration = Duration::from_millis(10);

pub(super) struct Writer {
    context: Arc<str>,
    queue: mpsc::Sender<Message>,
    head: watch::Receiver<i64>,
    commits: watch::Receiver<u64>,
    tail: Tail,
    writes: Arc<AtomicU64>,
}

enum Message {
    Run(Box<dyn Job>),
    Stop(oneshot::Sender<()>),
    #[cfg(feature = "chaos")]
    Crash(oneshot::Sender<()>),
}

/// A write on its way.
trait Job: Send {
    /// When nobody waits for it any more.
    fn deadline(&self) -> Option<Instant>;
    fn cause(&mut self) -> Cause;
    /// Does it; whether it is to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Answers: its own outcome, or that it did not come to be.
    fn answer(self: Box<Self>, fate: Result<()>);
}

struct Write<T, F> {
    deadline: Option<Instant>,
    cause: Cause,
    work: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Send,
{
    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn cause(&mut self) -> Cause {
        std::mem::take(&mut self.cause)
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let Some(work) = self.work.take() else { return false };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or_else(|panic| {
            Err(Error::internal(format!("panic in a transaction: {}", words(&*panic))))
        });
        let kept = outcome.is_ok();
        self.outcome = Some(outcome);
        kept
    }

    fn answer(self: Box<Self>, fate: Result<()>) {
        let outcome = match fate {
            Ok(()) => self.outcome.unwrap_or(Err(Error::DeadlineExceeded)),
            Err(error) => Err(error),
        };
        // Nobody may wait for it any more.
        let _ = self.reply.send(outcome);
    }
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}

impl Writer {
    pub(super) fn start(context: Arc<str>, conn: Conn, lock: File, head: i64) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (head_sender, head_receiver) = watch::channel(head);
        let (commit_sender, commits) = watch::channel(0);
        let tail = Tail::default();
        let writes = Arc::new(AtomicU64::new(0));
        let lane = Lane {
            context: context.clone(),
            conn,
            head,
            published: Vec::new(),
            tail: tail.clone(),
            head_sender,
            commits: commit_sender,
            writes: writes.clone(),
            _lock: lock,
        };
        let name = format!("store-{context}");
        #[expect(clippy::expect_used, reason = "a process that cannot have a thread cannot serve")]
        std::thread::Builder::new()
            .name(name)
            .spawn(move || lane.work(jobs))
            .expect("a thread for the writer");
        Self { context, queue, head: head_receiver, commits, writes, tail }
    }

    pub(super) fn head(&self) -> watch::Receiver<i64> {
        self.head.clone()
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }

    /// How many writes wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// How many writes were committed.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub(super) async fn run<T, F>(
        &self,
        deadline: Option<Instant>,
        cause: Cause,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Message::Run(Box::new(Write {
            deadline,
            cause,
            work: Some(work),
            outcome: None,
            reply,
        }));
        let sent = match deadline {
            Some(at) => {
                timeout_at(at, self.queue.send(job)).await.map_err(|_| Error::DeadlineExceeded)?
            }
            None => self.queue.send(job).await,
        };
        let gone = || Error::unavailable(&self.context);
        sent.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(super) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.queue.send(Message::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    #[cfg(feature = "chaos")]
    pub(super) async fn crash(&self) {
        let (done, stopped) = oneshot::channel();
        if self.queue.send(Message::Crash(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// What the thread has.
struct Lane {
    context: Arc<str>,
    conn: Conn,
    head: i64,
    /// What the transaction has added to the log.
    published: Vec<Arc<api::Event>>,
    tail: Tail,
    head_sender: watch::Sender<i64>,
    commits: watch::Sender<u64>,
    writes: Arc<AtomicU64>,
    _lock: File,
}

impl Lane {
    fn work(mut self, mut jobs: mpsc::Receiver<Message>) {
        let stopped = loop {
            match jobs.blocking_recv() {
                Some(Message::Run(first)) => {
                    if let Some(stop) = self.batch(first, &mut jobs) {
                        break Some(stop);
                    }
                }
                Some(Message::Stop(done)) => break Some(done),
                #[cfg(feature = "chaos")]
                Some(Message::Crash(done)) => {
                    jobs.close();
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                None => break None,
            }
        };
        // What came in behind the stop is answered by its dropped reply: UNAVAILABLE.
        jobs.close();
        if let Err(error) = self.conn.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(context = %self.context, %error, "the log of the store could not be folded in");
        }
        drop(self);
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    /// One transaction: the first job and whatever else waits.
    fn batch(
        &mut self,
        first: Box<dyn Job>,
        jobs: &mut mpsc::Receiver<Message>,
    ) -> Option<oneshot::Sender<()>> {
        if let Err(error) = self.begin() {
            self.roll_back();
            first.answer(Err(error.into()));
            return None;
        }
        let head_before = self.head;
        self.published.clear();
        let begun = Instant::now();
        let mut kept = Vec::new();
        let mut stop = None;
        let mut outcome = Ok(());
        let mut next = Some(first);
        while let Some(job) = next.take() {
            outcome = self.run(job, &mut kept);
            if outcome.is_ok() && kept.len() < BATCH && begun.elapsed() < BATCH_TIME {
                match jobs.try_recv() {
                    Ok(Message::Run(job)) => next = Some(job),
                    Ok(Message::Stop(done)) => stop = Some(done),
                    #[cfg(feature = "chaos")]
                    Ok(Message::Crash(done)) => {
                        // The transaction is dropped with the connection: as if the power had gone.
                        self.roll_back();
                        return Some(done);
                    }
                    Err(_) => {}
                }
            }
        }
        match outcome.and_then(|()| self.commit(head_before)) {
            Ok(()) => {
                self.writes.fetch_add(kept.len() as u64, Ordering::Relaxed);
                for job in kept {
                    job.answer(Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(context = %self.context, %error, "a commit failed: everything in it is undone");
                self.roll_back();
                self.head = head_before;
                for job in kept {
                    job.answer(Err(Error::unavailable(&self.context)));
                }
            }
        }
        stop
    }

    /// One job, under its own savepoint. An error says that the whole transaction is lost.
    fn run(&mut self, mut job: Box<dyn Job>, kept: &mut Vec<Box<dyn Job>>) -> QueryResult<()> {
        let expired = |job: &dyn Job| job.deadline().is_some_and(|at| at <= Instant::now());
        if expired(&*job) {
            job.answer(Err(Error::DeadlineExceeded));
            return Ok(());
        }
        let (head_before, published_before) = (self.head, self.published.len());
        let (context, head, published) = (&*self.context, &mut self.head, &mut self.published);
        let now = micros(SystemTime::now());
        let cause = job.cause();
        let outcome = self.conn.transaction(|conn| {
            let mut tx =
                Tx { conn: &mut *conn, context, head, published, cause, now, generation: 0 };
            if !job.run(&mut tx) {
                leave_nested(conn)?;
                return Err(Undone::ByItself);
            }
            // Who gave up must not find it done.
            if expired(&*job) { Err(Undone::Expired) } else { Ok(()) }
        });
        let (fate, lost) = match outcome {
            Ok(()) => {
                kept.push(job);
                return Ok(());
            }
            Err(Undone::ByItself) => (Ok(()), Ok(())),
            Err(Undone::Expired) => (Err(Error::DeadlineExceeded), Ok(())),
            // The savepoint is gone, and with it the transaction: SQLite rolls it all back when the disk is full.
            Err(Undone::ByDatabase(error)) => (Err(Error::unavailable(&self.context)), Err(error)),
        };
        self.head = head_before;
        self.published.truncate(published_before);
        job.answer(fate);
        lost
    }

    fn begin(&mut self) -> QueryResult<()> {
        match &mut self.conn {
            Conn::Sqlite(sqlite) => {
                AnsiTransactionManager::begin_transaction_sql(sqlite, "BEGIN IMMEDIATE")
            }
        }
    }

    fn commit(&mut self, head_before: i64) -> QueryResult<()> {
        if self.head != head_before {
            let head = mesh_event_head::position.eq(self.head);
            update(mesh_event_head::table, mesh_event_head::one.eq(1), head)
                .execute(&mut self.conn)?;
        }
        match &mut self.conn {
            Conn::Sqlite(sqlite) => AnsiTransactionManager::commit_transaction(sqlite)?,
        }
        // Before anybody hears of it.
        self.tail.extend(self.published.drain(..));
        self.head_sender.send_if_modified(|head| std::mem::replace(head, self.head) != self.head);
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Undoes everything that is not committed, whatever is left of it, so that the next transaction can begin.
    fn roll_back(&mut self) {
        match &mut self.conn {
            Conn::Sqlite(sqlite) => {
                // An error says that there was nothing to roll back any more.
                let _ = sqlite.batch_execute("ROLLBACK");
                *AnsiTransactionManager::transaction_manager_status_mut(sqlite) =
                    TransactionManagerStatus::default();
            }
        }
    }
}

/// The transaction, and in it the savepoint of the job.
const JOB_DEPTH: u32 = 2;

/// A panic leaves the transactions open that it came out of: ends them, so that the savepoint of the job is the last.
fn leave_nested(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        Conn::Sqlite(sqlite) => loop {
            let depth = AnsiTransactionManager::transaction_manager_status_mut(sqlite)
                .transaction_depth()?;
            if depth.is_none_or(|depth| depth.get() <= JOB_DEPTH) {
                return Ok(());
            }
            AnsiTransactionManager::rollback_transaction(sqlite)?;
        },
    }
}

/// Why a savepoint was rolled back.
enum Undone {
    /// The job failed; its own outcome is the answer.
    ByItself,
    Expired,
    ByDatabase(diesel::result::Error),
}

impl From<diesel::result::Error> for Undone {
    fn from(error: diesel::result::Error) -> Self {
        Self::ByDatabase(error)
    }
}

//! The one writer of a store: a thread that commits many commands in one transaction.
//!
//! SQLite has one writer at a time. Threads that fight for that place wait unfairly and fail when they lose; one thread
//! with a queue does neither, and it can put everything that waits into one commit, which costs one flush. A command that
//! fails takes no other with it ([`super::savepoint`]); what the kit itself writes, it writes once for all of them
//! ([`super::ledger`]). Answers go out after the commit.
//!
//! On PostgreSQL it is the same, and the writers of several processes take turns ([`super::postgres`]).

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use diesel::connection::{
    AnsiTransactionManager, SimpleConnection as _, TransactionManager as _,
    TransactionManagerStatus,
};
use diesel::prelude::*;
use futures::executor::block_on;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::ledger::Ledger;
use super::once::{Request, recall};
use super::open::Failure;
use super::postgres::Session;
use super::progress::Progress;
use super::savepoint::{self, Savepoint};
use super::schema::mesh_event_head;
use super::tail::Tail;
use super::{Conn, Tx, update};
use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::scope;
use crate::time::micros;

/// How many writes may wait. Who finds the queue full waits for a place, until the deadline.
const QUEUE: usize = 1024;
/// How many writes share a commit at the most, and how long the first of them waits for the others.
const BATCH: usize = 128;
const BATCH_TIME: Duration = Duration::from_millis(10);
/// How often a batch that has nothing more to do gives its place on the processor away before it is committed: where others
/// are about to bring something, it costs less than a commit of its own; where nobody is, it is no time at all.
const COURTESY: u32 = 2;
/// So many commits are made with savepoints when work had to be done again for want of one: what fails once soon fails
/// again.
pub(super) const WARY: u32 = 100;

pub(super) struct Writer {
    context: Arc<str>,
    queue: mpsc::Sender<Message>,
    head: watch::Receiver<i64>,
    commits: watch::Receiver<u64>,
    tail: Tail,
    writes: Arc<AtomicU64>,
    #[cfg(feature = "chaos")]
    steps: crate::step::Steps,
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
    /// For how long nobody waits for it.
    fn patience(&self) -> Duration;
    /// What it is, if the same may have been done before.
    fn request(&self) -> Option<&Request>;
    fn cause(&self) -> Cause;
    /// Does it, perhaps again; whether it is to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Answers: its own outcome, or that it did not come to be.
    fn answer(self: Box<Self>, fate: Result<()>);
}

/// What is known of a write, beside what it does.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) request: Option<Arc<Request>>,
    pub(super) cause: Cause,
    /// It is committed so long after the commit before, at the earliest: the first of such work at once, and what comes
    /// thick and fast together.
    pub(super) patience: Duration,
}

struct Write<T, F> {
    deadline: Option<Instant>,
    asked: Asked,
    work: F,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Clone + Send,
{
    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn request(&self) -> Option<&Request> {
        self.asked.request.as_deref()
    }

    fn patience(&self) -> Duration {
        self.asked.patience
    }

    fn cause(&self) -> Cause {
        self.asked.cause.clone()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let work = self.work.clone();
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
    pub(super) fn start(context: Arc<str>, conn: Conn, engine: Engine, progress: Progress) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (head, tail) = (*progress.head.borrow(), Tail::default());
        let (heads, commits) = (progress.head.subscribe(), progress.commits.subscribe());
        let writes = Arc::new(AtomicU64::new(0));
        #[cfg(feature = "chaos")]
        let steps = crate::step::Steps::default();
        let lane = Lane {
            context: context.clone(),
            conn,
            head,
            head_before: head,
            ledger: Ledger::default(),
            savepoint: Savepoint::NotYet,
            wary: 0,
            committed: Instant::now(),
            tail: tail.clone(),
            progress,
            writes: writes.clone(),
            engine,
            #[cfg(feature = "chaos")]
            steps: steps.clone(),
        };
        #[cfg(feature = "chaos")]
        if crate::world::is_simulated() {
            drop(tokio::spawn(lane.work(jobs)));
            return Self { context, queue, head: heads, commits, writes, tail, steps };
        }
        let name = format!("store-{context}");
        #[expect(clippy::expect_used, reason = "a process that cannot have a thread cannot serve")]
        std::thread::Builder::new()
            .name(name)
            .spawn(move || block_on(lane.work(jobs)))
            .expect("a thread for the writer");
        Self {
            context,
            queue,
            head: heads,
            commits,
            writes,
            tail,
            #[cfg(feature = "chaos")]
            steps,
        }
    }

    #[cfg(feature = "chaos")]
    pub(super) fn steps(&self) -> crate::step::Steps {
        self.steps.clone()
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

    pub(super) async fn run<T, F>(&self, asked: Asked, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Clone + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let deadline = scope::deadline();
        let job = Message::Run(Box::new(Write { deadline, asked, work, outcome: None, reply }));
        let sent = match deadline {
            Some(at) => {
                timeout_at(at, self.queue.send(job)).await.map_err(|_| Error::DeadlineExceeded)?
            }
            None => self.queue.send(job).await,
        };
        let gone = || Error::unavailable(&self.context);
        sent.map_err(|_| gone())?;
        let outcome = answer.await.map_err(|_| gone())?;
        #[cfg(feature = "chaos")]
        crate::world::pause().await;
        outcome
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

/// A step of the thread, where a test may let the context die with its transaction.
macro_rules! step_of_lane {
    ($lane:ident, $site:literal, $jobs:ident) => {
        #[cfg(feature = "chaos")]
        if $lane.steps.dies_at($site) {
            return Some($lane.lie_dead($jobs));
        }
    };
}

/// What the thread has.
struct Lane {
    context: Arc<str>,
    conn: Conn,
    head: i64,
    /// What it was before the transaction.
    head_before: i64,
    /// What the transaction will have written of the kit's own.
    ledger: Ledger,
    savepoint: Savepoint,
    /// How many commits are still made with savepoints.
    wary: u32,
    /// When the last commit was.
    committed: Instant,
    tail: Tail,
    progress: Progress,
    writes: Arc<AtomicU64>,
    engine: Engine,
    #[cfg(feature = "chaos")]
    steps: crate::step::Steps,
}

/// What keeps others from the writer's place.
pub(super) enum Engine {
    /// The lock of the file.
    Sqlite { _lock: File },
    /// The lock in the database, for each transaction.
    Postgres(Session),
}

impl Engine {
    /// How many writes are begun together. On a server what is remembered of all of them is looked up at once; in a file
    /// that saves nothing.
    fn round(&self) -> usize {
        match self {
            Self::Sqlite { .. } => 1,
            Self::Postgres(_) => 32,
        }
    }
}

impl Lane {
    async fn work(mut self, mut jobs: mpsc::Receiver<Message>) {
        let stopped = loop {
            match jobs.recv().await {
                Some(Message::Run(first)) => {
                    #[cfg(feature = "chaos")]
                    crate::world::pause().await;
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
        if let Conn::Sqlite(sqlite) = &mut self.conn
            && let Err(error) = sqlite.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")
        {
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
        if let Err(error) = self.begin(first.deadline()) {
            tracing::warn!(context = %self.context, %error, "the store cannot be written");
            self.roll_back();
            first.answer(Err(Error::unavailable(&self.context)));
            return None;
        }
        self.head_before = self.head;
        self.ledger.clear();
        let begun = Instant::now();
        let mut kept = Vec::new();
        let mut stop = None;
        let mut patience = first.patience();
        let mut round = vec![first];
        let outcome = loop {
            // What is not done of a round when its transaction is lost is answered by its dropped reply.
            let outcome = self
                .recall(&round)
                .and_then(|()| round.drain(..).try_for_each(|job| self.run(job, &mut kept)));
            if outcome.is_err() || stop.is_some() || begun.elapsed() >= BATCH_TIME.max(patience) {
                break outcome;
            }
            let most = BATCH.saturating_sub(kept.len()).min(self.engine.round());
            while round.len() < most && stop.is_none() {
                let next = match round.is_empty() {
                    true => self.next_message(jobs, patience),
                    false => jobs.try_recv().ok(),
                };
                match next {
                    Some(Message::Run(job)) => {
                        patience = patience.min(job.patience());
                        round.push(job);
                    }
                    Some(Message::Stop(done)) => stop = Some(done),
                    #[cfg(feature = "chaos")]
                    Some(Message::Crash(done)) => {
                        // The transaction is dropped with the connection: as if the power had gone.
                        self.roll_back();
                        return Some(done);
                    }
                    None => break,
                }
            }
            if round.is_empty() {
                break Ok(());
            }
        };
        step_of_lane!(self, "store.before_commit", jobs);
        match outcome.and_then(|()| self.commit()) {
            Ok(()) => {
                step_of_lane!(self, "store.after_commit", jobs);
                self.writes.fetch_add(kept.len() as u64, Ordering::Relaxed);
                for job in kept {
                    job.answer(Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(context = %self.context, %error, "a commit failed: everything in it is undone");
                self.roll_back();
                self.head = self.head_before;
                for job in kept {
                    job.answer(Err(Error::unavailable(&self.context)));
                }
            }
        }
        stop
    }

    /// What comes next, where something is about to come.
    fn next_message(
        &self,
        jobs: &mut mpsc::Receiver<Message>,
        patience: Duration,
    ) -> Option<Message> {
        for _ in 0..COURTESY {
            match jobs.try_recv() {
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                next => return next.ok(),
            }
        }
        // Who waits in a transaction on a server keeps others waiting.
        let is_alone = matches!(self.engine, Engine::Sqlite { .. });
        #[cfg(feature = "chaos")]
        let is_alone = is_alone && !crate::world::is_simulated();
        match is_alone && !patience.is_zero() {
            true => recv_until(jobs, self.committed + patience),
            false => jobs.try_recv().ok(),
        }
    }

    /// Dead: what is not committed is gone, and nobody hears anything any more until the context is crashed.
    #[cfg(feature = "chaos")]
    fn lie_dead(&mut self, jobs: &mut mpsc::Receiver<Message>) -> oneshot::Sender<()> {
        self.roll_back();
        let mut unheard = Vec::new();
        loop {
            match jobs.blocking_recv() {
                Some(Message::Crash(done) | Message::Stop(done)) => return done,
                Some(message) => unheard.push(message),
                None => return oneshot::channel().0,
            }
        }
    }

    /// Looks what is remembered of the jobs of a round.
    fn recall(&mut self, round: &[Box<dyn Job>]) -> QueryResult<()> {
        if let Conn::Postgres(pg) = &mut self.conn {
            self.ledger.recalled = recall(pg, round.iter().filter_map(|job| job.request()))?;
        }
        Ok(())
    }

    /// One job. An error says that the whole transaction is lost.
    fn run(&mut self, mut job: Box<dyn Job>, kept: &mut Vec<Box<dyn Job>>) -> QueryResult<()> {
        if is_late(&*job) {
            job.answer(Err(Error::DeadlineExceeded));
            return Ok(());
        }
        let (head, mark) = (self.head, self.ledger.mark());
        let undone = match self.attempt(&mut *job) {
            Ok(()) => {
                self.savepoint.after_job();
                kept.push(job);
                return Ok(());
            }
            Err(undone) => undone,
        };
        self.head = head;
        self.ledger.back_to(mark);
        let (fate, outcome) = match undone {
            Undone::Job(fate) => (fate, self.take_back(kept)),
            Undone::Transaction(error) => (Ok(()), Err(error)),
        };
        // With the savepoint the transaction is gone: SQLite rolls it all back when the disk is full.
        job.answer(if outcome.is_ok() { fate } else { Err(Error::unavailable(&self.context)) });
        outcome
    }

    /// Undoes what a job did that failed: back to its savepoint or, where it has none, by doing again what else the
    /// transaction has.
    fn take_back(&mut self, kept: &mut Vec<Box<dyn Job>>) -> QueryResult<()> {
        self.savepoint.back(&mut self.conn)?;
        if !matches!(self.savepoint, Savepoint::Missing) {
            return Ok(());
        }
        (self.savepoint, self.wary) = (Savepoint::NotYet, WARY);
        self.head = self.head_before;
        self.ledger.clear();
        std::mem::take(kept).into_iter().try_for_each(|job| self.run(job, kept))
    }

    /// Does a job, so that it can be undone alone.
    fn attempt(&mut self, job: &mut dyn Job) -> Result<(), Undone> {
        self.savepoint.before_job(&mut self.conn, self.wary > 0)?;
        let cause = job.cause();
        let mut tx = Tx {
            conn: &mut self.conn,
            context: &self.context,
            head: &mut self.head,
            ledger: &mut self.ledger,
            cause,
            now: micros(crate::now()),
            generation: 0,
        };
        let begun = std::time::Instant::now();
        if !job.run(&mut tx) {
            savepoint::leave_nested(&mut self.conn)?;
            return Err(Undone::Job(self.why(job, begun)));
        }
        // Who gave up must not find it done.
        if is_late(job) { Err(Undone::Job(Err(Error::DeadlineExceeded))) } else { Ok(()) }
    }

    /// Why a job failed that began then: for a reason of its own, or because the database took too long.
    fn why(&self, job: &dyn Job, begun: std::time::Instant) -> Result<()> {
        match &self.engine {
            Engine::Postgres(session) if session.gave_up(begun) => Err(if is_late(job) {
                Error::DeadlineExceeded
            } else {
                Error::unavailable(&self.context)
            }),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, deadline: Option<Instant>) -> Result<(), Failure> {
        match (&mut self.conn, &mut self.engine) {
            (Conn::Postgres(pg), Engine::Postgres(session)) => {
                if session.broken {
                    let (again, life) = session.connect_again()?;
                    *pg = again;
                    // Perhaps it is another log, whose end has the same number.
                    self.tail.clear();
                    let changed = |known: &mut Arc<str>| {
                        let changed = **known != *life.epoch;
                        *known = life.epoch.as_str().into();
                        changed
                    };
                    self.progress.epoch.send_if_modified(changed);
                }
                let left = deadline.map_or(Duration::MAX, |at| at - Instant::now());
                let head = session.begin(pg, left)?;
                self.savepoint = Savepoint::Fresh;
                // Another process has written: what it wrote is on the disk alone.
                if head != self.head {
                    self.tail.clear();
                    self.head = head;
                }
                Ok(())
            }
            (Conn::Sqlite(sqlite), _) => {
                self.savepoint = Savepoint::NotYet;
                Ok(AnsiTransactionManager::begin_transaction_sql(sqlite, savepoint::BEGIN)?)
            }
            (Conn::Postgres(_), Engine::Sqlite { .. }) => Err("a file is no database".into()),
        }
    }

    fn commit(&mut self) -> QueryResult<()> {
        #[cfg(feature = "chaos")]
        if crate::world::commit_fails(&self.context) {
            return Err(diesel::result::Error::RollbackTransaction);
        }
        self.ledger.write(&mut self.conn)?;
        match &mut self.conn {
            Conn::Postgres(pg) => AnsiTransactionManager::commit_transaction(pg)?,
            Conn::Sqlite(_) => {
                if self.head != self.head_before {
                    let head = mesh_event_head::position.eq(self.head);
                    update(mesh_event_head::table, mesh_event_head::one.eq(1), head)
                        .execute(&mut self.conn)?;
                }
                let Conn::Sqlite(sqlite) = &mut self.conn else { return Ok(()) };
                AnsiTransactionManager::commit_transaction(sqlite)?;
            }
        }
        self.committed = Instant::now();
        self.wary = self.wary.saturating_sub(1);
        // Before anybody hears of it.
        self.tail.extend(self.ledger.events.drain(..));
        self.progress.tell(self.head);
        Ok(())
    }

    /// Undoes everything that is not committed, whatever is left of it, so that the next transaction can begin.
    fn roll_back(&mut self) {
        // An error says that there was nothing to roll back any more, or that the connection is gone.
        match &mut self.conn {
            Conn::Postgres(pg) => {
                let gone = pg.batch_execute("ROLLBACK").is_err();
                *AnsiTransactionManager::transaction_manager_status_mut(pg) =
                    TransactionManagerStatus::default();
                if let Engine::Postgres(session) = &mut self.engine {
                    session.broken |= gone;
                }
            }
            Conn::Sqlite(sqlite) => {
                let _ = sqlite.batch_execute("ROLLBACK");
                *AnsiTransactionManager::transaction_manager_status_mut(sqlite) =
                    TransactionManagerStatus::default();
            }
        }
    }
}

/// What comes until then, on a thread that has nothing else to do.
fn recv_until(jobs: &mut mpsc::Receiver<Message>, until: Instant) -> Option<Message> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(next) = jobs.poll_recv(&mut Context::from_waker(&waker)) {
            return next;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

/// Wakes a thread.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn is_late(job: &dyn Job) -> bool {
    job.deadline().is_some_and(|at| at <= Instant::now())
}

/// What was not done.
enum Undone {
    /// The job alone; its own outcome is the answer, or this.
    Job(Result<()>),
    /// All that shares the transaction with it.
    Transaction(diesel::result::Error),
}

impl From<diesel::result::Error> for Undone {
    fn from(error: diesel::result::Error) -> Self {
        Self::Transaction(error)
    }
}

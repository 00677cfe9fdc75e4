//! The load itself: users that come again and again, or calls at a fixed rate; and the tally of what came of them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tonic::{Code, Status};

use super::report::summary;
use crate::client::{Failure, SignedIn};

/// How long who is told to come again waits at least.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the calls under way may take after the last one was sent.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// How calls are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Calls a second, whatever comes of them. Without it each user sends the next call after the answer.
    pub(crate) rate: Option<f64>,
    /// For how long.
    pub(crate) duration: Duration,
}

/// What came of the calls so far.
#[derive(Debug)]
pub(crate) struct Tally {
    latencies: RefCell<Histogram<u64>>,
    /// Those since the last look.
    recent: RefCell<Histogram<u64>>,
    completed: Vec<Cell<u64>>,
    fallbacks: Cell<u64>,
    errors: Cell<u64>,
    over: Cell<bool>,
    stopped: Notify,
}

impl Tally {
    /// Nothing yet, of so many users.
    pub(crate) fn new(users: usize) -> Result<Self, Failure> {
        let latencies = latencies()?;
        Ok(Self {
            recent: RefCell::new(latencies.clone()),
            latencies: RefCell::new(latencies),
            completed: vec![Cell::new(0); users],
            fallbacks: Cell::default(),
            errors: Cell::default(),
            over: Cell::default(),
            stopped: Notify::new(),
        })
    }

    pub(crate) fn users(&self) -> usize {
        self.completed.len()
    }

    pub(crate) fn completed(&self) -> u64 {
        self.completed.iter().map(Cell::get).sum()
    }

    /// How many calls of this user were completed.
    pub(crate) fn completed_by(&self, user: usize) -> u64 {
        self.completed[user].get()
    }

    pub(crate) fn fallbacks(&self) -> u64 {
        self.fallbacks.get()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// What the latencies say, in microseconds.
    pub(crate) fn latencies<T>(&self, look: impl FnOnce(&Histogram<u64>) -> T) -> T {
        look(&self.latencies.borrow())
    }

    /// No further call is sent.
    pub(crate) fn stop(&self) {
        self.over.set(true);
        self.stopped.notify_waiters();
    }

    /// Counts an answer; how long to wait before the next call.
    fn count(&self, user: usize, since: Instant, outcome: &Result<(), Status>) -> Option<Duration> {
        match outcome {
            Ok(()) => {
                let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latencies.borrow_mut().saturating_record(micros);
                self.recent.borrow_mut().saturating_record(micros);
                self.completed[user].set(self.completed[user].get() + 1);
                None
            }
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                self.fallbacks.set(self.fallbacks.get() + 1);
                Some(mesh::retry_delay_of(status).unwrap_or_default().max(PAUSE))
            }
            // Everything has been sold: that is an answer, and the end.
            Err(status) if mesh::reason_of(status).as_deref() == Some("NOT_ENOUGH_SEATS") => {
                self.stop();
                None
            }
            Err(status) => {
                if self.errors.get() == 0 {
                    eprintln!("the first answer that nobody planned: {status}");
                }
                self.errors.set(self.errors.get() + 1);
                Some(PAUSE)
            }
        }
    }

    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stopped.notified() => {}
        }
    }

    /// Shows how it goes, for as long as it is polled: one line drawn again and again on a terminal, otherwise a line
    /// every few seconds.
    async fn show(&self, begun: Instant) {
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal { Duration::from_millis(500) } else { Duration::from_secs(5) };
        loop {
            tokio::time::sleep(every).await;
            let (p50, p99, _) = summary(&self.recent.borrow());
            let rate = self.recent.borrow().len() as f64 / every.as_secs_f64();
            self.recent.borrow_mut().reset();
            let line = format!(
                "{:>4.0} s  {} completed  {rate:.0}/s  p50 {p50:.1} ms  p99 {p99:.1} ms  {} told to come again",
                begun.elapsed().as_secs_f64(),
                self.completed(),
                self.fallbacks()
            );
            if terminal { eprint!("\r\x1b[K{line}") } else { eprintln!("{line}") }
        }
    }
}

/// Room for latencies in microseconds, up to ten minutes, to three digits.
pub(super) fn latencies() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

/// Sends calls until the time is over or ctrl-c, and waits for their answers; how long the calls took to send.
pub(crate) async fn drive<F, W>(users: &[SignedIn], pace: Pace, tally: &Tally, act: F) -> Duration
where
    F: Fn(SignedIn) -> W,
    W: Future<Output = Result<(), Status>>,
{
    let begun = Instant::now();
    let load = async {
        match pace.rate {
            Some(rate) => open_loop(users, rate, begun, pace.duration, tally, &act).await,
            None => closed_loop(users, begun + pace.duration, tally, &act).await,
        }
    };
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_ok() {
            tally.stop();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = load => {}
        () = interrupt => {}
        () = tally.show(begun) => {}
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    begun.elapsed()
}

/// Each user sends its next call when it has the answer to the last one.
async fn closed_loop<F, W>(users: &[SignedIn], end: Instant, tally: &Tally, act: &F)
where
    F: Fn(SignedIn) -> W,
    W: Future<Output = Result<(), Status>>,
{
    let users = users.iter().enumerate().map(|(user, connection)| async move {
        while Instant::now() < end && !tally.over.get() {
            let sent = Instant::now();
            let outcome = act(connection.clone()).await;
            if let Some(wait) = tally.count(user, sent, &outcome) {
                tally.pause(wait.min(end.saturating_duration_since(Instant::now()))).await;
            }
        }
    });
    join_all(users).await;
}

/// Calls go out when they are due, whether those before them are answered or not. The latency counts from when a call
/// was due: a system that cannot keep up shows it.
async fn open_loop<F, W>(
    users: &[SignedIn],
    rate: f64,
    begun: Instant,
    duration: Duration,
    tally: &Tally,
    act: &F,
) where
    F: Fn(SignedIn) -> W,
    W: Future<Output = Result<(), Status>>,
{
    let mut under_way = FuturesUnordered::new();
    for call in 0_u32.. {
        let due = begun + Duration::from_secs_f64(f64::from(call) / rate);
        if due >= begun + duration || tally.over.get() {
            break;
        }
        let wait = tokio::time::sleep_until(due.into());
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                () = tally.stopped.notified() => break,
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
        }
        let user = call as usize % users.len();
        let connection = users[user].clone();
        under_way.push(async move {
            let outcome = act(connection).await;
            tally.count(user, due, &outcome);
        });
    }
    let answers = async { while under_way.next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, answers).await.is_err() {
        // Not answered in ten seconds is an error, too.
        let unanswered = u64::try_from(under_way.len()).unwrap_or(u64::MAX);
        tally.errors.set(tally.errors.get() + unanswered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Status {
        mesh::Error::unavailable("payment").into()
    }

    #[test]
    fn who_is_told_to_come_again_waits() {
        let tally = Tally::new(1).unwrap();
        let wait = tally.count(0, Instant::now(), &Err(busy())).unwrap();
        assert!(wait >= PAUSE, "{wait:?}");
        assert_eq!((tally.completed(), tally.fallbacks(), tally.errors()), (0, 1, 0));
    }

    #[test]
    fn t_31_the_latency_counts_from_when_a_call_was_due() {
        let tally = Tally::new(1).unwrap();
        let due = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        assert_eq!(tally.count(0, due, &Ok(())), None);
        assert!(tally.latencies(Histogram::max) >= 2_900_000);
    }

    #[test]
    fn what_nobody_planned_is_an_error_and_no_latency() {
        let tally = Tally::new(1).unwrap();
        tally.count(0, Instant::now(), &Err(Status::unknown("?")));
        assert_eq!((tally.completed(), tally.fallbacks(), tally.errors()), (0, 0, 1));
        assert_eq!(tally.latencies(Histogram::len), 0);
    }
}

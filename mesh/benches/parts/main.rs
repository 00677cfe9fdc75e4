//! The parts of the kit, each beside its raw counterpart of the same run: `cargo bench -p mesh`.
//!
//! - `store`: durable commands and reads through a store, beside diesel on one plain SQLite connection;
//! - `events`: from a committed event to its committed effect in another context, beside plain SQLite writing the rows
//!   of both;
//! - `postgres`: commands and events on a server of its own, beside plain SQL and pgbench writing the same rows;
//!   `PARTS_PINNED_SECONDS` (10) is how long a forgotten transaction keeps what was replaced from being cleared away;
//! - `breaker`: admitting a call and recording its outcome, beside a counter behind a lock;
//! - `calls`: a call of another context in this process through a whole edge, beside calling its service object, and
//!   beside tonic over loopback TCP;
//! - `server`: a customer's query over TCP through a whole server, beside a bare tonic server with the same messages
//!   and the same handler. The client is tonic's in both, and shares the machine.
//!
//! Each call is sent when the one before it was answered. `PARTS_SECONDS` (3) is the time of each measurement; words
//! behind `--` choose parts: `cargo bench -p mesh -- store calls`. What is measured is a release but for one thing: the
//! testing kit turns on the feature `chaos`, which asks a few times, for each call within the process, whether something
//! is to go wrong with it.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program for the command line"
)]

mod breaker;
mod calls;
mod events;
mod postgres;
mod server;
mod stand_in;
mod store;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    mesh::telemetry::start("warn").expect("a log filter");
    let seconds = std::env::var("PARTS_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(3.0));
    // Cargo adds a flag of its own.
    let wanted: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);

    println!("{:<62}{:>12}{:>12}{:>8}", "", "ours", "baseline", "ratio");
    if is_wanted("store") {
        store::measure(time).await;
    }
    if is_wanted("events") {
        events::measure(time).await;
    }
    if is_wanted("postgres") {
        postgres::measure(time).await;
    }
    if is_wanted("breaker") {
        breaker::measure(time);
    }
    if is_wanted("calls") {
        calls::measure(time).await;
    }
    if is_wanted("server") {
        server::measure(time).await;
    }
}

fn row(what: &str, ours: f64, baseline: f64) {
    println!("{what:<62}{ours:>12.1}{baseline:>12.1}{:>8.2}", ours / baseline);
}

/// What came of something that was done again and again.
struct Done {
    per_s: f64,
    /// How long it took each time, the shortest first.
    took: Vec<Duration>,
}

impl Done {
    fn new(mut took: Vec<Duration>, since: Instant) -> Self {
        let per_s = took.len() as f64 / since.elapsed().as_secs_f64();
        took.sort_unstable();
        Self { per_s, took }
    }

    /// In microseconds, how long it took but for so many of a hundred.
    fn percentile(&self, percent: usize) -> f64 {
        let at = (self.took.len() * percent / 100).min(self.took.len().saturating_sub(1));
        self.took.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
    }
}

/// Does `act` until the time is over, so many at once; each is told its number.
async fn repeat<F, W>(at_once: usize, time: Duration, act: F) -> Done
where
    F: Fn(usize) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let (act, begun) = (Arc::new(act), Instant::now());
    let start = |number| {
        let act = act.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < time {
                let before = Instant::now();
                act(number).await;
                took.push(before.elapsed());
            }
            took
        })
    };
    let tasks: Vec<_> = (0..at_once).map(start).collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.expect("a task that does its work"));
    }
    Done::new(took, begun)
}

/// Does `act` on this thread until the time is over.
fn repeat_here(time: Duration, mut act: impl FnMut()) -> Done {
    let (mut took, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < time {
        let before = Instant::now();
        act();
        took.push(before.elapsed());
    }
    Done::new(took, begun)
}

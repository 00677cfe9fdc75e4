//! What a breaker costs a call.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mesh::client::{Breaker, BreakerSettings};

use crate::row;

pub(crate) fn measure(time: Duration) {
    for (threads, what) in [
        (1, "breaker, admit and record/s, 1 thread (a counter in a lock)"),
        (2, "breaker, admit and record/s, 2 threads (a counter in a lock)"),
    ] {
        let counter = Mutex::new(0_u64);
        let plain = repeat_on(threads, time, || *counter.lock().expect("a lock") += 1);
        let breaker = Breaker::new(BreakerSettings::default());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
        let ours = repeat_on(threads, time, || {
            breaker.admit(deadline).expect("a closed breaker").record(false);
        });
        row(what, ours, plain);
    }
}

/// How often a second so many threads do it. The time is kept by another: asking for it would cost more than a lock.
fn repeat_on(threads: usize, time: Duration, act: impl Fn() + Sync) -> f64 {
    let over = AtomicBool::new(false);
    let work = || {
        let mut count = 0_u64;
        while !over.load(Ordering::Relaxed) {
            act();
            count += 1;
        }
        count
    };
    let begun = Instant::now();
    let count: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("a count")).sum()
    });
    count as f64 / begun.elapsed().as_secs_f64()
}

//! `kill -9` under load: both systems at work, and the process killed at random moments, sometimes while it starts. What
//! was answered is there, seats and money add up by the provider's own books, nothing stays between two states, and my
//! page is what the events say.
//!
//! `KILL_CYCLES` (40, on PostgreSQL 20) says how often, `KILL_SEED` from which random numbers.

#![allow(clippy::print_stdout, reason = "the proof prints what it saw")]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use common::crowd::{Crowd, WORLD, check_integrity};
use common::stores::on_postgres;
use common::{Up, setting};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_killed_forty_times_under_load_nothing_that_was_answered_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    kill_under_load(folder.path(), 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_killed_twenty_times_on_postgresql_nothing_that_was_answered_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    kill_under_load(folder.path(), 20).await;
}

async fn kill_under_load(data: &Path, cycles: u64) {
    let cycles = setting("KILL_CYCLES", cycles);
    let seed = setting("KILL_SEED", SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs());
    println!("KILL_SEED={seed}");
    let mut up = Up::start_with(data, &WORLD).await;
    let mut crowd = Crowd::gather(&up, seed).await;

    let begun = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    for cycle in 0..cycles {
        // The moment of a kill is what is random here, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        up.kill().await;
        if cycle % 4 == 3 {
            start_and_kill(data, random.random_range(1..150)).await;
        }
        check_integrity(data);
        up = Up::start_with(data, &WORLD).await;
        crowd.moves_to(&up).await;
    }
    crowd.go_home().await;
    let took = begun.elapsed();
    crowd.was_told_the_truth(data).await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");

    let (orders, cancelled) = crowd.told.counts();
    println!("{cycles} kills in {took:.0?}: {orders} orders, {cancelled} cancelled, none lost");
    assert!(orders > 50 && cancelled > 5, "too little happened");
}

/// Kills it again before it has come up.
async fn start_and_kill(data: &Path, after_ms: u64) {
    let mut child = common::up(data, &WORLD).stderr(Stdio::null()).spawn().expect("it starts");
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    child.kill().await.expect("kill -9");
}

//! Both systems in a simulated world: whatever goes wrong for five seconds, everything ends well.
//!
//! `SIMULATION_SEEDS` says how many seeds are run (6) and `SIMULATION_FROM` which is the first (1); with a hundred
//! or more the fixed ones are run, too, and the corpus of those that once found something. `SIMULATION_SEED` runs one and prints it. What
//! fails is made as small as it goes, and kept in the target folder.

#![allow(clippy::print_stdout, reason = "a run is told by a line, for whoever keeps a record")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use contract_tests::simulation::{KINDS, Run, run, shrink};

/// So many seeds are enough to have seen everything that must be seen.
const MANY: u64 = 100;
/// These are always among many.
const FIXED: u64 = 100;
/// What must be seen at least once by many seeds, in the lines of their runs.
const SIGHTS: [&str; 10] = [
    "reserve 3: fail FailedPrecondition NOT_ENOUGH_SEATS",
    "pick: fail FailedPrecondition PAYMENT_DECLINED",
    "pick: info Unavailable PAYMENT_BUSY",
    "pick: info Aborted",
    "pick: info Unknown",
    "info Unauthenticated",
    "ends as MOVIE_WATCHED",
    "ends as MOVIE_CANCELLED",
    "ends as PAYMENT_DECLINED",
    "ends as CANCELLED",
];

#[test]
fn i01_to_i16_whatever_goes_wrong_everything_ends_well() {
    if let Some(seed) = setting("SIMULATION_SEED") {
        let run = run(seed);
        println!("{}", run.lines.join("\n"));
        assert!(run.failure.is_none(), "{}", run.report());
        return;
    }
    let (from, count) =
        (setting("SIMULATION_FROM").unwrap_or(1), setting("SIMULATION_SEEDS").unwrap_or(6));
    let mut seeds: Vec<u64> = (from..from + count).collect();
    if count >= MANY {
        seeds.extend(1..=FIXED);
        seeds.extend(include_str!("../simulation/corpus.txt").lines().filter_map(seed_of));
    }
    let begun = Instant::now();
    let runs = run_all(&seeds);
    let took = begun.elapsed().as_secs_f64();
    println!("{} seeds in {took:.1} s: {:.1}/s", runs.len(), runs.len() as f64 / took);

    let failed: Vec<_> = runs.iter().filter_map(|run| run.failure.as_ref().map(|_| run)).collect();
    let reports: Vec<_> = failed.iter().map(|run| run.report()).collect();
    assert!(failed.is_empty(), "{} of {}\n{}", failed.len(), runs.len(), reports.join("\n"));

    let happened: BTreeSet<_> = runs.iter().flat_map(|run| &run.faults).map(|f| f.kind).collect();
    let never: Vec<_> = KINDS.into_iter().filter(|kind| !happened.contains(kind)).collect();
    assert!(count < 4 || never.is_empty(), "never went wrong: {never:?}");
    let seen =
        |sight: &&str| runs.iter().any(|run| run.lines.iter().any(|line| line.contains(sight)));
    let never: Vec<_> = SIGHTS.into_iter().filter(|sight| !seen(sight)).collect();
    assert!(count < MANY || never.is_empty(), "never seen: {never:?}");
}

/// Only where the runtime takes its chance from the seed, too.
#[cfg(tokio_unstable)]
#[test]
fn d9_the_same_seed_is_the_same_run() {
    let seeds = [1, 2, 3, 4, 5];
    for (first, second) in run_all(&seeds).iter().zip(run_all(&seeds)) {
        let differ = first.lines.iter().zip(&second.lines).find(|(one, other)| one != other);
        assert_eq!(differ, None, "seed {}", first.seed);
        assert_eq!(first.hash, second.hash, "seed {}", first.seed);
    }
}

/// One after another, on as many threads as there are cores; in the order of the seeds.
fn run_all(seeds: &[u64]) -> Vec<Run> {
    let waiting = Mutex::new(seeds.iter());
    let runs = Mutex::new(Vec::new());
    let work = || {
        while let Some(seed) = { waiting.lock().expect("a lock").next() } {
            let begun = Instant::now();
            let mut run = run(*seed);
            if run.failure.is_some() {
                run = shrink(run);
                keep(&run);
            }
            tell(&run, begun);
            runs.lock().expect("a lock").push(run);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut runs = runs.into_inner().expect("a lock");
    runs.sort_by_key(|run| run.seed);
    runs
}

/// One line a run, as `cargo xtask chaos` reads it.
fn tell(run: &Run, begun: Instant) {
    let kinds: Vec<_> = run.faults.iter().map(|fault| format!("{:?}", fault.kind)).collect();
    println!(
        "run {} {} {} {} {} {:016x} {}",
        run.seed,
        if run.failure.is_some() { "failed" } else { "ok" },
        begun.elapsed().as_millis(),
        run.simulated.as_millis(),
        run.orders,
        run.hash,
        kinds.join(","),
    );
    if run.failure.is_some() {
        println!("{}", run.report());
    }
}

/// Keeps what failed, with all that happened.
fn keep(run: &Run) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{}.txt", run.seed));
    let mut text = run.report();
    let _ = write!(text, "\n\n{}\n", run.lines.join("\n"));
    match std::fs::write(&file, text) {
        Ok(()) => println!("kept in {}", file.display()),
        Err(error) => println!("not kept in {}: {error}", file.display()),
    }
}

/// The seed of a line of the corpus: what stands before the reason.
fn seed_of(line: &str) -> Option<u64> {
    line.split_whitespace().next()?.parse().ok()
}

/// A number from the environment, for those who want more than CI has time for.
fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a setting of a test alone")]
    std::env::var(name).ok()?.parse().ok()
}

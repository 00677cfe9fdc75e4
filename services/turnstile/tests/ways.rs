//! Ways between contexts that are bad at times: slow, cut, silent, or reset while calls are on them. What customers were
//! told all that time is true, and when a way is good again calls find that out.
//!
//! `WAYS_SECONDS` (10) says for how long they are bad, `WAYS_SEED` from which random numbers.

#![allow(clippy::print_stdout, reason = "the proof prints what it saw")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::crowd::{BUYERS, Crowd, WORLD};
use common::proxy::{BAD_MOODS, Mood, Proxy};
use common::stores;
use common::system::{CONTEXTS, FRONT, System};
use common::{PATIENCE, setting};
use futures::future::join_all;
use mesh_testing::eventually;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// The kit asks a silent connection after five seconds whether it is alive, and waits for two.
const SILENT: Duration = Duration::from_secs(5 + 2);
/// How long a breaker stays open on a way that says so in its setting, and on any other.
const OPEN: Duration = Duration::from_millis(500);
const OPEN_OTHERWISE: Duration = Duration::from_secs(5);
/// The longest pause of a policy between two calls.
const PAUSE: Duration = Duration::from_secs(5);
/// For the calls themselves, on a machine that has much to do.
const SLACK: Duration = Duration::from_secs(10);
/// More than one by chance.
const SEVERAL: usize = 2;

/// Who calls whom, what is there for each such call once it has arrived, and how long a caller waits at most that was
/// refused.
const WAYS: [(&str, &str, &str, Duration); 3] = [
    ("homemovie.app", "payment", "p.payment WHERE order_name LIKE 'movieApplications/%'", OPEN),
    ("outerpark.reservation", "outerpark.musical", "m.seat_hold", OPEN),
    (
        "outerpark.reservation",
        "payment",
        "p.payment WHERE order_name LIKE 'musicalReservations/%'",
        OPEN_OTHERWISE.saturating_add(PAUSE),
    ),
];

/// The usual one, where breakers keep no call away from a bad way for long.
const BAD_WORLD: [(&str, &str); 9] = {
    let [a, b, c, d, e, f, g] = WORLD;
    let films = ("TURNSTILE_EDGE_HOMEMOVIE_APP_PAYMENT_BREAKER_OPEN_MS", "500");
    let seats = ("TURNSTILE_EDGE_OUTERPARK_RESERVATION_OUTERPARK_MUSICAL_BREAKER_OPEN_MS", "500");
    [a, b, c, d, e, f, g, films, seats]
};

/// A way that is bad at times.
struct Way {
    names: (&'static str, &'static str),
    arrived: &'static str,
    pause: Duration,
    proxy: Proxy,
}

impl Way {
    /// How many calls have arrived that leave something behind.
    fn arrivals(&self, data: &Path) -> i64 {
        stores::open(data).number(&format!("SELECT count(*) FROM {}", self.arrived))
    }

    /// Whether each bad mood has met calls, answers or connections, and several of them.
    fn has_been_bad(&self) -> bool {
        let met = self.proxy.met();
        BAD_MOODS.iter().all(|mood| met.get(mood).is_some_and(|times| *times > SEVERAL))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_03_f_04_f_05_t_17_whatever_happens_on_the_way_what_is_answered_is_true() {
    let seconds = setting("WAYS_SECONDS", 10);
    let seed = setting("WAYS_SEED", SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs());
    println!("WAYS_SEED={seed}");
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let callers = ["homemovie.app", "outerpark.reservation"];
    let callees: Vec<_> =
        CONTEXTS.into_iter().filter(|context| !callers.contains(context)).collect();
    let mut system = System::start_with(data, &callees, &BAD_WORLD).await;
    let mut ways = Vec::new();
    for (caller, callee, arrived, pause) in WAYS {
        let proxy = system.put_proxy_between(caller, callee).await;
        ways.push(Way { names: (caller, callee), arrived, pause, proxy });
    }
    for process in callers.into_iter().chain([FRONT]) {
        system.serve(process).await;
    }
    let mut crowd = Crowd::gather(system.process(FRONT), seed).await;
    calls_arrive_on_all(&ways, data, |_| PATIENCE).await;

    let begun = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    while begun.elapsed() < Duration::from_secs(seconds)
        || (!ways.iter().all(Way::has_been_bad) && begun.elapsed() < PATIENCE)
    {
        let mut moods: Vec<_> = BAD_MOODS.into_iter().chain([Mood::Pass]).collect();
        moods.shuffle(&mut random);
        // Each way is in all of them, in an order of its own.
        for turn in 0..moods.len() {
            for (n, way) in ways.iter().enumerate() {
                way.proxy.turns(moods[(turn * (n + 1) + n) % moods.len()]);
            }
            // How long a mood lasts is what is random here, not a wait for something.
            tokio::time::sleep(Duration::from_millis(random.random_range(100..600))).await;
        }
    }
    ways.iter().for_each(|way| way.proxy.turns(Mood::Pass));
    calls_arrive_on_all(&ways, data, |_| PATIENCE).await;

    // Silence alone: nobody but the callers themselves can find out that their connections are dead.
    let silenced = |way: &Way| way.proxy.met().get(&Mood::HalfOpen).copied().unwrap_or_default();
    let before: Vec<_> = ways.iter().map(silenced).collect();
    ways.iter().for_each(|way| way.proxy.turns(Mood::HalfOpen));
    eventually("every connection that is used is silenced", async || {
        let all = ways
            .iter()
            .zip(&before)
            .all(|(way, before)| silenced(way) > before + SEVERAL && way.proxy.is_silent());
        all.then_some(())
    })
    .await;
    ways.iter().for_each(|way| way.proxy.turns(Mood::Pass));
    let took = calls_arrive_on_all(&ways, data, |way| SILENT + way.pause + SLACK).await;
    println!("after silence calls arrive again in {took:?}");

    crowd.go_home().await;
    crowd.was_told_the_truth(data).await;
    for way in &ways {
        println!("{:?} has met {:?}", way.names, way.proxy.met());
        assert!(way.has_been_bad(), "{:?}: too little went wrong", way.names);
    }
    let (orders, cancelled) = crowd.told.counts();
    println!("{orders} orders, {cancelled} cancelled, none lost");
    assert!(orders > 50 && cancelled > 5, "too little happened");
    system.stop_all().await;
}

/// Waits until calls arrive on each way that were not under way yet, and how long that takes; at most so long.
async fn calls_arrive_on_all(
    ways: &[Way],
    data: &Path,
    at_most: impl Fn(&Way) -> Duration,
) -> Vec<Duration> {
    let begun = Instant::now();
    // So many may have arrived before, and are seen only now.
    let under_way = i64::try_from(BUYERS).expect("few");
    let arrive = async |way: &Way| {
        let before = way.arrivals(data);
        eventually("calls arrive", async || {
            let (took, at_most) = (begun.elapsed(), at_most(way));
            assert!(took < at_most, "nothing arrives on {:?} after {took:?}", way.names);
            (way.arrivals(data) > before + under_way).then_some(took)
        })
        .await
    };
    join_all(ways.iter().map(arrive)).await
}

//! One run, from the seed to the verdict.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use mesh::{Context, StoreAt};
use payment::Delay;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use super::check::{self, Verdict};
use super::customer::Customer;
use super::fault::{Fault, Kind, PHASE, plan};
use super::story::{Story, hash};
use super::system::{Ground, LATENCY};
use crate::stores::{Stores, execute};

/// How many seats there are: too few.
const SEATS: i32 = 12;
const CONTEXTS: [&str; 7] = [
    "homemovie.app",
    "homemovie.movie",
    "mypage",
    "notice",
    "outerpark.musical",
    "outerpark.reservation",
    "payment",
];
const CUSTOMERS: [&str; 4] = ["anna", "bela", "carla", "dora"];
const ADMIN: &str = "admin";
/// How long a system may take to come up.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end what it began, once everything has healed.
const HEALING: Duration = Duration::from_secs(60);
/// How often somebody looks.
const LOOK: Duration = Duration::from_millis(250);

/// What came of a seed.
#[derive(Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What went wrong on purpose.
    pub faults: Vec<Fault>,
    /// What was done, a line a deed.
    pub lines: Vec<String>,
    /// Two runs of one seed have the same.
    pub hash: u64,
    /// How long it took in the simulation.
    pub simulated: Duration,
    /// How many orders were answered.
    pub orders: usize,
    /// What must hold and did not.
    pub failure: Option<String>,
}

impl Run {
    /// The failure, what went wrong on purpose before it, and how to see it again.
    pub fn report(&self) -> String {
        let mut report = format!("seed {}: ", self.seed);
        let _ = writeln!(report, "{}", self.failure.as_deref().unwrap_or("all is well"));
        for fault in &self.faults {
            let _ = writeln!(report, "  {fault}");
        }
        let _ = write!(report, "replay: cargo xtask chaos --seed {}", self.seed);
        report
    }
}

/// Runs a seed.
pub fn run(seed: u64) -> Run {
    run_with(seed, plan(seed, &CONTEXTS, &CUSTOMERS, &mut StdRng::seed_from_u64(seed)))
}

/// Runs a seed with other faults than its own: to find out which of them matter.
pub fn run_with(seed: u64, faults: Vec<Fault>) -> Run {
    let planned = faults.clone();
    // On a thread of its own: what is kept for a thread is as it was when the process began.
    let done = std::thread::spawn(move || {
        catch_unwind(AssertUnwindSafe(|| World::new(seed, faults).run()))
    });
    let (lines, simulated, orders, failure) = match done.join().and_then(|outcome| outcome) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let failure = format!("panic: {}", words.unwrap_or_default());
            (Vec::new(), Duration::ZERO, 0, Some(failure))
        }
    };
    Run { seed, faults: planned, hash: hash(&lines), lines, simulated, orders, failure }
}

/// The same seed with as few faults as it fails with.
pub fn shrink(mut run: Run) -> Run {
    let mut n = 0;
    while n < run.faults.len() {
        let mut fewer = run.faults.clone();
        fewer.remove(n);
        let again = run_with(run.seed, fewer);
        if again.failure.is_some() {
            run = again;
        } else {
            n += 1;
        }
    }
    run
}

/// Both systems and their customers.
struct World {
    sim: turmoil::Sim<'static>,
    ground: Ground,
    story: Rc<Story>,
    faults: Vec<Fault>,
    /// Has the admin ask for a new view; which generation it will be.
    ask: Option<oneshot::Sender<oneshot::Sender<u32>>>,
    data: tempfile::TempDir,
    _inside: mesh::world::Inside,
}

type Outcome = (Vec<String>, Duration, usize, Option<String>);

impl World {
    fn new(seed: u64, faults: Vec<Fault>) -> Self {
        let data = folder();
        let moody = faults.iter().any(|fault| fault.kind == Kind::Provider);
        let contexts = contexts(moody);
        let ground = Ground::new(data.path(), &contexts);
        let inside = ground.enter(seed);
        let mut sim = ground.sim(seed, contexts);
        let story = Rc::new(Story::default());
        for (n, host) in CUSTOMERS.into_iter().enumerate() {
            let (ground, story) = (ground.clone(), story.clone());
            sim.client(host, async move {
                let customer = Customer::new(host, &["CUSTOMER"], &ground, story);
                customer.live(seed ^ (n as u64) << 32).await;
                Ok(())
            });
        }
        let (ask, asked) = oneshot::channel::<oneshot::Sender<u32>>();
        let (here, told) = (ground.clone(), story.clone());
        sim.client(ADMIN, async move {
            let admin = Customer::new(ADMIN, &["CUSTOMER", "ADMIN"], &here, told);
            admin.put_on(SEATS).await;
            if let Ok(answer) = asked.await {
                let _ = answer.send(admin.rebuild().await);
            }
            Ok(())
        });
        Self { sim, ground, story, faults, ask: Some(ask), data, _inside: inside }
    }

    fn run(mut self) -> Outcome {
        let failure = self.go().err();
        let orders = self.story.ordered.borrow().len();
        (self.story.lines(), self.sim.elapsed(), orders, failure)
    }

    fn go(&mut self) -> Verdict {
        self.settle()?;
        check::end(self.data.path(), SEATS, &self.story)?;
        self.rebuild()
    }

    /// Goes wrong, heals, and comes to its end.
    fn settle(&mut self) -> Verdict {
        self.until("somebody has ordered something", START, |world| {
            !world.story.ordered.borrow().is_empty()
        })?;
        self.go_wrong()?;
        self.heal();
        self.until("everything has come to its end", HEALING, |world| {
            world.customers_are_done() && Stores::open(world.data.path()).still_open().is_empty()
        })
        .map_err(|error| format!("{error}: {:?}", Stores::open(self.data.path()).still_open()))
    }

    /// My page, made anew, is what it was (invariant I-14).
    fn rebuild(&mut self) -> Verdict {
        let before = Stores::open(self.data.path()).my_page();
        let (answer, mut generation) = oneshot::channel();
        let asked = self.ask.take().is_some_and(|ask| ask.send(answer).is_ok());
        check::same("the admin is there", asked, true)?;
        self.until("a new view takes the old one's place", HEALING, |world| {
            check::generation(world.data.path()) > 1
        })?;
        check::same("a generation was promised", generation.try_recv().is_ok(), true)?;
        let after = Stores::open(self.data.path()).my_page();
        let differ: Vec<_> = before.symmetric_difference(&after).take(4).cloned().collect();
        check::same("my page is what its events say", differ, Vec::new())
    }

    /// For five seconds.
    fn go_wrong(&mut self) -> Verdict {
        let begun = self.sim.elapsed();
        let mut deeds: Vec<(Duration, bool, Fault)> = Vec::new();
        for fault in &self.faults {
            deeds.push((begun + fault.at, true, fault.clone()));
            deeds.push((begun + fault.until, false, fault.clone()));
        }
        deeds.sort_by_key(|(at, begins, _)| (*at, *begins));
        let mut deeds = deeds.into_iter().peekable();
        let mut look = begun;
        while self.sim.elapsed() < begun + PHASE {
            while let Some((_, begins, fault)) = deeds.next_if(|(at, ..)| *at <= self.sim.elapsed())
            {
                if begins { self.begin(&fault) } else { self.end(&fault) }
            }
            self.step()?;
            if self.sim.elapsed() >= look {
                look += LOOK;
                check::seats(self.data.path(), SEATS)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, fault: &Fault) {
        let (host, other) = (fault.host.as_str(), fault.other.as_str());
        self.story.note("fault", fault);
        match fault.kind {
            Kind::Crash => mesh::world::die(|| self.sim.crash(host)),
            Kind::UnknownEvent => {
                mesh::world::die(|| self.sim.crash(host));
                let file = self.data.path().join(format!("{host}.sqlite"));
                publish_unknown(&StoreAt::File(file), host);
            }
            Kind::Partition => self.sim.partition(host, other),
            Kind::OneWay => self.sim.partition_oneway(host, other),
            Kind::Split => {
                for other in everybody().filter(|other| *other != host) {
                    self.sim.partition(host, other);
                }
            }
            Kind::Slow => {
                let latency = Duration::from_millis(fault.amount.unsigned_abs());
                self.sim.set_link_latency(host, other, latency);
            }
            Kind::LostAnswer => {
                if let Some(faults) = self.ground.faults.borrow().get(host) {
                    faults.lose_replies(fault.method, u32::try_from(fault.amount).unwrap_or(1));
                }
            }
            Kind::BlackHole => self.sim.hold(host, other),
            Kind::FailedCommit => {
                mesh::world::fail_commits(host, u32::try_from(fault.amount).unwrap_or(1));
            }
            Kind::Clock => self.ground.clocks.set(host, fault.amount),
            Kind::Provider => {}
        }
    }

    fn end(&mut self, fault: &Fault) {
        let (host, other) = (fault.host.as_str(), fault.other.as_str());
        match fault.kind {
            Kind::Crash | Kind::UnknownEvent => self.sim.bounce(host),
            Kind::Partition | Kind::OneWay | Kind::BlackHole => self.mend(host, other),
            Kind::Split => {
                for other in everybody().filter(|other| *other != host) {
                    self.mend(host, other);
                }
            }
            Kind::Slow => self.hasten(host, other),
            Kind::Clock => self.ground.clocks.set(host, 0),
            Kind::LostAnswer | Kind::FailedCommit | Kind::Provider => {}
        }
    }

    /// Whatever is still wrong is set right.
    fn heal(&mut self) {
        self.story.note("fault", "everything heals");
        let all: Vec<_> = everybody().collect();
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                self.mend(one, other);
            }
        }
        for fault in self.faults.clone() {
            if fault.kind == Kind::Slow {
                self.hasten(&fault.host, &fault.other);
            }
        }
        for context in CONTEXTS {
            mesh::world::fail_commits(context, 0);
            if !self.sim.is_host_running(context) {
                self.sim.bounce(context);
            }
            if let Some(faults) = self.ground.faults.borrow().get(context) {
                for fault in &self.faults {
                    faults.lose_replies(fault.method, 0);
                }
            }
        }
        self.ground.clocks.set_right();
        self.story.end();
    }

    fn mend(&self, host: &str, other: &str) {
        self.sim.release(host, other);
        self.sim.repair(host, other);
    }

    fn hasten(&self, host: &str, other: &str) {
        self.sim.set_link_latency(host, other, LATENCY[0]);
        self.sim.set_link_max_message_latency(host, other, LATENCY[1]);
    }

    /// Goes on until something is so.
    fn until(&mut self, what: &str, patience: Duration, so: impl Fn(&Self) -> bool) -> Verdict {
        let end = self.sim.elapsed() + patience;
        while self.sim.elapsed() < end {
            let look = self.sim.elapsed() + LOOK;
            while self.sim.elapsed() < look {
                self.step()?;
            }
            if so(self) {
                return Ok(());
            }
        }
        Err(format!("not within {patience:?}: {what}"))
    }

    fn step(&mut self) -> Verdict {
        self.sim.step().map_err(|error| format!("a host failed: {error}"))?;
        self.story.violation().map_or(Ok(()), Err)
    }

    fn customers_are_done(&self) -> bool {
        self.story.gone() == CUSTOMERS.len()
    }
}

fn everybody() -> impl Iterator<Item = &'static str> {
    CONTEXTS.into_iter().chain(CUSTOMERS).chain([ADMIN])
}

/// All but identity, whose tokens a stand-in signs.
fn contexts(moody: bool) -> Vec<Context> {
    let sweep_after = Duration::from_secs(2);
    let payment =
        payment::Settings { sweep_after, delay: Delay::millis(0..=40), ..Default::default() };
    let payment = if moody {
        let delay = Delay::millis(0..=800);
        payment::Settings { delay, decline_share: 0.2, lost_reply_share: 0.15, ..payment }
    } else {
        payment
    };
    vec![
        homemovie_app::context(),
        homemovie_movie::context(true),
        mypage::context(),
        notice::context(notice::Settings::default()),
        outerpark_musical::context(outerpark_musical::Settings::default()),
        outerpark_reservation::context(outerpark_reservation::Settings::default()),
        payment::context(payment),
    ]
}

/// A newer release told something, and is gone again.
fn publish_unknown(store: &StoreAt, context: &str) {
    let id = mesh::uuid();
    execute(
        store,
        &format!(
            "INSERT INTO mesh_event SELECT position + 1, '{id}', 'turnstile.{context}.v1.NeverHeardOf', 'unheard/{id}', \
         1, {time}, 'unheard/{id}', '', '', 0, x'ff' FROM mesh_event_head",
            time = mesh::micros(mesh::now()),
        ),
    );
    execute(store, "UPDATE mesh_event_head SET position = position + 1");
}

/// In memory, where there is room: what a disk does is not what is looked at.
fn folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a bug would leave behind: in which store, how it is done, and how it is undone.
    const BUGS: [(&str, &str, &str); 9] = [
        (
            "outerpark.musical",
            "UPDATE musical SET reservable_seats = reservable_seats - 1",
            "UPDATE musical SET reservable_seats = reservable_seats + 1",
        ),
        (
            "payment-provider",
            "UPDATE provider_charge SET amount = amount + 1 WHERE state = 'CHARGED'",
            "UPDATE provider_charge SET amount = amount - 1 WHERE state = 'CHARGED'",
        ),
        (
            "payment",
            "UPDATE payment SET state = 'LOST' WHERE state = 'APPROVED'",
            "UPDATE payment SET state = 'APPROVED' WHERE state = 'LOST'",
        ),
        (
            "homemovie.app",
            "UPDATE movie_application SET name = 'x' || name",
            "UPDATE movie_application SET name = substr(name, 2)",
        ),
        (
            "outerpark.reservation",
            "UPDATE reservation SET state = 'SOLD' WHERE state = 'CANCELLED'",
            "UPDATE reservation SET state = 'CANCELLED' WHERE state = 'SOLD'",
        ),
        (
            "homemovie.movie",
            "UPDATE movie_purchase SET state = 'MOVIE_' || state",
            "UPDATE movie_purchase SET state = substr(state, 7)",
        ),
        (
            "mypage",
            "UPDATE my_progress SET generation = generation + 1",
            "UPDATE my_progress SET generation = generation - 1",
        ),
        (
            "notice",
            "INSERT INTO mesh_parked VALUES ('a policy', 1, '', '', x'', 'failed', 5, 0)",
            "DELETE FROM mesh_parked",
        ),
        (
            "homemovie.app",
            "UPDATE mesh_event SET position = position + 1000 WHERE position > 1",
            "UPDATE mesh_event SET position = position - 1000 WHERE position > 1000",
        ),
    ];

    #[test]
    fn what_a_bug_leaves_behind_is_seen() {
        let mut world = World::new(1, Vec::new());
        world.settle().expect("an end");
        let data = world.data.path().to_owned();
        check::end(&data, SEATS, &world.story).expect("nothing is wrong yet");
        for (store, bug, mend) in BUGS {
            let store = StoreAt::File(data.join(format!("{store}.sqlite")));
            execute(&store, bug);
            assert!(check::end(&data, SEATS, &world.story).is_err(), "{bug}");
            execute(&store, mend);
            check::end(&data, SEATS, &world.story).expect(mend);
        }
    }
}

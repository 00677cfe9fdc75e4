//! What goes wrong in a run: drawn from the seed before it begins.

use std::fmt;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process dies, and comes again (F-01, F-02).
    Crash,
    /// It dies, and its log has an event of a type that nobody knows when it comes again (F-15).
    UnknownEvent,
    /// Two hosts do not reach each other (F-03).
    Partition,
    /// One does not reach the other, but is reached (F-03).
    OneWay,
    /// One host is cut off from all others (F-03).
    Split,
    /// What two hosts send each other takes its time (F-04).
    Slow,
    /// Calls are carried out and their answers lost (F-05).
    LostAnswer,
    /// What two hosts send each other is held back, and delivered in the end (F-06).
    BlackHole,
    /// A store cannot commit: the disk is full, or the database busy (F-07, F-08).
    FailedCommit,
    /// A clock goes wrong (F-10).
    Clock,
    /// The payment provider declines, is slow, or never answers (F-13).
    Provider,
}

/// All there are.
pub const KINDS: [Kind; 11] = [
    Kind::Crash,
    Kind::LostAnswer,
    Kind::Partition,
    Kind::Clock,
    Kind::OneWay,
    Kind::Provider,
    Kind::Split,
    Kind::UnknownEvent,
    Kind::BlackHole,
    Kind::FailedCommit,
    Kind::Slow,
];

/// One thing that goes wrong for a while.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// When, counted from the first fault that there may be.
    pub(super) at: Duration,
    pub(super) until: Duration,
    /// Where: one host, or two.
    pub(super) host: String,
    pub(super) other: String,
    /// How much: milliseconds, or how many answers.
    pub(super) amount: i64,
    /// Of which method the answers are lost.
    pub(super) method: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, at, until, host, other, amount, method } = self;
        let (at, until) = (at.as_millis(), until.as_millis());
        write!(f, "{at}..{until} ms: {kind:?} at {host}")?;
        match kind {
            Kind::Crash | Kind::UnknownEvent | Kind::Split | Kind::Provider => Ok(()),
            Kind::Partition | Kind::OneWay | Kind::BlackHole => write!(f, " and {other}"),
            Kind::Slow => write!(f, " and {other}, {amount} ms"),
            Kind::Clock => write!(f, ", {amount} ms"),
            Kind::FailedCommit => write!(f, ", {amount} of them"),
            Kind::LostAnswer => write!(f, ", {amount} of {method}"),
        }
    }
}

/// How long faults may begin and last.
pub(super) const PHASE: Duration = Duration::from_secs(5);

/// Who calls what of whom.
const CALLS: [(&str, &str, &str); 7] = [
    ("homemovie.app", "payment", "Pay"),
    ("homemovie.app", "payment", "CancelPayment"),
    ("outerpark.reservation", "outerpark.musical", "ReserveSeats"),
    ("outerpark.reservation", "outerpark.musical", "ReturnSeats"),
    ("outerpark.reservation", "payment", "Pay"),
    ("outerpark.reservation", "payment", "CancelPayment"),
    ("outerpark.reservation", "notice", "SendNotice"),
];

/// The faults of a seed. Seeds that follow each other have every kind between them.
pub(super) fn plan(
    seed: u64,
    contexts: &[&str],
    customers: &[&str],
    random: &mut StdRng,
) -> Vec<Fault> {
    let count = random.random_range(3..=6);
    let first = usize::try_from(seed % KINDS.len() as u64).unwrap_or(0) * 3;
    let mut faults: Vec<_> = (0..count)
        .map(|n| draw(KINDS[(first + n) % KINDS.len()], contexts, customers, random))
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}

fn draw(kind: Kind, contexts: &[&str], customers: &[&str], random: &mut StdRng) -> Fault {
    let at = random.random_range(0..4500);
    let until = random.random_range(at + 50..=5000);
    let (caller, callee, method) = CALLS[random.random_range(0..CALLS.len())];
    let one = *contexts.choose(random).unwrap_or(&caller);
    let mut two = match random.random_range(0..10) {
        // Most of what matters goes over these ways.
        0..=5 => [caller, callee],
        6 | 7 => [*customers.choose(random).unwrap_or(&caller), one],
        _ => [one, if one == callee { caller } else { callee }],
    };
    two.shuffle(random);
    let (host, other) = match kind {
        Kind::LostAnswer => (caller, callee),
        Kind::Provider => ("payment", ""),
        Kind::Crash | Kind::UnknownEvent | Kind::Clock | Kind::Split | Kind::FailedCommit => {
            (one, "")
        }
        _ => (two[0], two[1]),
    };
    let amount = match kind {
        Kind::Slow => random.random_range(50..2000),
        Kind::LostAnswer => random.random_range(1..4),
        Kind::FailedCommit => random.random_range(1..20),
        Kind::Clock => {
            let hour = 3_600_000;
            *[500, -500, -5000, hour, -hour, 24 * hour, -24 * hour].choose(random).unwrap_or(&0)
        }
        _ => 0,
    };
    let time = Duration::from_millis;
    let (host, other) = (host.to_owned(), other.to_owned());
    Fault { kind, at: time(at), until: time(until), host, other, amount, method }
}

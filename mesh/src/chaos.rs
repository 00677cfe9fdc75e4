//! What goes wrong on purpose, in tests: replies that are lost, contexts that die between two steps.
//!
//! Only with the feature `chaos`, which no release has.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use crate::planted::{Bug, Planted};
pub use crate::step::{KILL_AT, SITES};
pub use crate::store::release::next::NEXT_RELEASE;

/// What the environment may tell a process of a test, beside settings.
pub const VARIABLES: [&str; 2] = [KILL_AT, NEXT_RELEASE];

/// The faults of one process.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
    /// Whether anything was ever planned at a step: most tests pass thousands of them for nothing.
    at_steps: Arc<AtomicBool>,
}

/// What is to happen to a call.
pub(crate) enum Strike {
    Miss,
    LoseReply,
    BreakReply,
    Break,
}

/// What is to happen to the part that a saga does between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    DoneTwice,
    Fails,
}

/// A context that is to die where it passes a step.
#[derive(Debug)]
struct Death {
    context: String,
    site: String,
    /// How many passings are left; at none it is dead, and passes nothing more.
    left: u32,
    reached: Arc<Notify>,
    buried: CancellationToken,
}

#[derive(Debug, Default)]
struct Plan {
    lost_replies: HashMap<String, u32>,
    broken_replies: HashMap<String, u32>,
    lost_connections: HashMap<String, u32>,
    deaths: Vec<Death>,
    held_back: Gates,
    held_replies: Gates,
    fates: Vec<(String, String, Fate)>,
    /// How often each context passed each step, where that is counted.
    passings: Option<BTreeMap<(String, &'static str), u32>>,
}

impl Faults {
    /// The next `count` calls of this method (`Pay`) are carried out, and their answers lost.
    pub fn lose_replies(&self, method: &str, count: u32) {
        self.lock().lost_replies.insert(method.to_owned(), count);
    }

    /// The next `count` calls of this method are carried out, and the connection breaks before the answer.
    pub fn break_replies(&self, method: &str, count: u32) {
        self.lock().broken_replies.insert(method.to_owned(), count);
    }

    /// The next `count` calls of this method break before they arrive, in a way that does not say so.
    pub fn break_calls(&self, method: &str, count: u32) {
        self.lock().lost_connections.insert(method.to_owned(), count);
    }

    /// Calls of this method do not leave until they are let go; or they are let go.
    pub fn hold_back(&self, method: &str, held: bool) {
        self.lock().held_back.set(method, held);
    }

    /// Answers of this method do not arrive until they are let go; or they are let go.
    pub fn hold_replies(&self, method: &str, held: bool) {
        self.lock().held_replies.set(method, held);
    }

    pub(crate) async fn pass(&self, method: &str) {
        let gate = self.lock().held_back.of(method);
        if let Some(gate) = gate {
            gate.cancelled().await;
        }
    }

    pub(crate) async fn pass_reply(&self, method: &str) {
        let gate = self.lock().held_replies.of(method);
        if let Some(gate) = gate {
            gate.cancelled().await;
        }
    }

    /// The context stops dead at the next step of this name. Wait for the answer, then crash it.
    pub fn die_at(&self, context: &str, site: &str) -> Arc<Notify> {
        self.die_at_passing(context, site, 1)
    }

    /// The context stops dead where it passes this step for the `n`-th time from now on. What it was about stands still
    /// until it is crashed.
    pub fn die_at_passing(&self, context: &str, site: &str, n: u32) -> Arc<Notify> {
        let reached = Arc::new(Notify::new());
        self.at_steps.store(true, Ordering::Relaxed);
        self.lock().deaths.push(Death {
            context: context.to_owned(),
            site: site.to_owned(),
            left: n,
            reached: reached.clone(),
            buried: CancellationToken::new(),
        });
        reached
    }

    /// From now on it is counted how often each context passes each step.
    pub fn count_passings(&self) {
        self.at_steps.store(true, Ordering::Relaxed);
        self.lock().passings = Some(BTreeMap::new());
    }

    /// How often each context passed each step.
    pub fn passings(&self) -> BTreeMap<(String, &'static str), u32> {
        self.lock().passings.clone().unwrap_or_default()
    }

    /// Passes a step. Whether the context is dead by now, and then until when that is so.
    pub(crate) fn pass_step(&self, context: &str, site: &'static str) -> Option<CancellationToken> {
        if !self.at_steps.load(Ordering::Relaxed) {
            return None;
        }
        let mut plan = self.lock();
        if let Some(passings) = &mut plan.passings {
            *passings.entry((context.to_owned(), site)).or_default() += 1;
        }
        let mut buried = None;
        for death in plan.deaths.iter_mut().filter(|death| death.context == context) {
            if death.left > 0 && death.site == site {
                death.left -= 1;
                if death.left == 0 {
                    death.reached.notify_one();
                }
            }
            if death.left == 0 {
                buried = Some(death.buried.clone());
            }
        }
        buried
    }

    /// The context was crashed: whoever stands still at a step of it finds its store closed.
    pub(crate) fn bury(&self, context: &str) {
        self.lock().deaths.retain(|death| {
            let dead = death.context == context && death.left == 0;
            if dead {
                death.buried.cancel();
            }
            !dead
        });
    }

    /// The next part of this name (`saga.call`) that a saga of the context does is not done: it fails.
    pub fn fail(&self, context: &str, part: &str) {
        self.lock().fates.push((context.to_owned(), part.to_owned(), Fate::Fails));
    }

    /// The next part of this name that a saga of the context does is done twice.
    pub fn do_twice(&self, context: &str, part: &str) {
        self.lock().fates.push((context.to_owned(), part.to_owned(), Fate::DoneTwice));
    }

    /// Whether everything that was to fail or to be done twice has been.
    pub fn are_done(&self) -> bool {
        self.lock().fates.is_empty()
    }

    pub(crate) fn fate(&self, context: &str, part: &str) -> Fate {
        let mut plan = self.lock();
        let planned = plan.fates.iter().position(|(of, at, _)| of == context && at == part);
        planned.map_or(Fate::Done, |planned| plan.fates.remove(planned).2)
    }

    /// What is to happen to this call.
    pub(crate) fn strike(&self, method: &str) -> Strike {
        let method = method.rsplit('/').next().unwrap_or_default();
        let mut plan = self.lock();
        if count_down(&mut plan.lost_connections, method) {
            return Strike::Break;
        }
        if count_down(&mut plan.broken_replies, method) {
            return Strike::BreakReply;
        }
        if count_down(&mut plan.lost_replies, method) { Strike::LoseReply } else { Strike::Miss }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What calls wait at, by method.
#[derive(Debug, Default)]
struct Gates(HashMap<String, CancellationToken>);

impl Gates {
    fn set(&mut self, method: &str, held: bool) {
        if held {
            self.0.entry(method.to_owned()).or_default();
        } else if let Some(gate) = self.0.remove(method) {
            gate.cancel();
        }
    }

    fn of(&self, method: &str) -> Option<CancellationToken> {
        self.0.get(method.rsplit('/').next()?).cloned()
    }
}

fn count_down(counts: &mut HashMap<String, u32>, method: &str) -> bool {
    match counts.get_mut(method) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

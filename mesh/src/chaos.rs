//! What goes wrong on purpose, in tests: replies that are lost, contexts that die between two steps.
//!
//! Only with the feature `chaos`, which no release has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The faults of one process.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

/// What is to happen to a call.
pub(crate) enum Strike {
    Miss,
    LoseReply,
    Break,
}

#[derive(Debug, Default)]
struct Plan {
    lost_replies: HashMap<String, u32>,
    lost_connections: HashMap<String, u32>,
    crashes: HashMap<(String, String), Arc<Notify>>,
    held_back: Option<(String, Arc<Notify>)>,
}

impl Faults {
    /// The next `count` calls of this method (`Pay`) are carried out, and their answers lost.
    pub fn lose_replies(&self, method: &str, count: u32) {
        self.lock().lost_replies.insert(method.to_owned(), count);
    }

    /// The next `count` calls of this method break before they arrive, in a way that does not say so.
    pub fn break_calls(&self, method: &str, count: u32) {
        self.lock().lost_connections.insert(method.to_owned(), count);
    }

    /// Calls of this method do not leave until they are let go; or they are let go.
    pub fn hold_back(&self, method: &str, held: bool) {
        let before = self.lock().held_back.take();
        if let Some((_, gate)) = before {
            gate.notify_waiters();
        }
        if held {
            self.lock().held_back = Some((method.to_owned(), Arc::default()));
        }
    }

    pub(crate) async fn pass(&self, method: &str) {
        let gate = match &self.lock().held_back {
            Some((held, gate)) if method.rsplit('/').next() == Some(held) => gate.clone(),
            _ => return,
        };
        gate.notified().await;
    }

    /// The context stops dead at the next step of this name. Wait for the answer, then crash it.
    pub fn die_at(&self, context: &str, site: &str) -> Arc<Notify> {
        let reached = Arc::new(Notify::new());
        self.lock().crashes.insert((context.to_owned(), site.to_owned()), reached.clone());
        reached
    }

    pub(crate) async fn reach(&self, context: &str, site: &str) {
        let planned = self.lock().crashes.remove(&(context.to_owned(), site.to_owned()));
        if let Some(reached) = planned {
            reached.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// What is to happen to this call.
    pub(crate) fn strike(&self, method: &str) -> Strike {
        let method = method.rsplit('/').next().unwrap_or_default();
        let mut plan = self.lock();
        if count_down(&mut plan.lost_connections, method) {
            return Strike::Break;
        }
        if count_down(&mut plan.lost_replies, method) { Strike::LoseReply } else { Strike::Miss }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

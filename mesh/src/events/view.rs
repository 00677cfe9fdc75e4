//! Views that can be made anew: a second generation grows beside the first from the start of every log, and takes its
//! place in one transaction when it has caught up.
//!
//! Every row of a view carries its generation. Policies write the one they run for ([`Tx::generation`]); readers read
//! the current one ([`Generations::current`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::prelude::*;
use tokio::task::JoinSet;

use super::Sources;
use super::cursor::place_of;
use super::policy::Policy;
use super::runner::{Runner, key_of};
use crate::error::Result;
use crate::replicas::Share;
use crate::store::schema::{mesh_attempt, mesh_cursor, mesh_parked, mesh_view};
use crate::store::{Conn, Store, Tx};

/// How often a rebuild is looked after.
const LOOK: Duration = Duration::from_millis(100);

/// Removes some rows of a generation that nobody reads any more; says how many.
pub type Discard = fn(&mut Tx<'_>, i32) -> Result<usize>;

/// A view: the policies that make it, and how rows of an old generation are removed.
#[derive(Debug)]
pub struct View {
    policies: Vec<Policy>,
    discard: Discard,
}

/// Which generation of a context's view is read, and which one is being made.
#[derive(Debug)]
pub enum Generations {}

impl Generations {
    /// The generation that readers read.
    pub fn current(conn: &mut Conn) -> QueryResult<i32> {
        mesh_view::table.select(mesh_view::current).first(conn)
    }

    /// Begins to make the view anew, unless that is under way; the generation that is being made.
    pub fn rebuild(tx: &mut Tx<'_>) -> Result<i32> {
        let (current, building) = both(tx)?;
        if building != current {
            return Ok(building);
        }
        diesel::update(mesh_view::table)
            .set(mesh_view::building.eq(current + 1))
            .execute(&mut **tx)?;
        Ok(current + 1)
    }
}

fn both(conn: &mut Conn) -> QueryResult<(i32, i32)> {
    mesh_view::table.select((mesh_view::current, mesh_view::building)).first(conn)
}

impl View {
    /// A view that these policies make. `discard` removes some rows of a generation, and is called until none is left.
    pub fn new(policies: impl IntoIterator<Item = Policy>, discard: Discard) -> Self {
        Self { policies: policies.into_iter().collect(), discard }
    }

    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(crate) fn supervise(self, store: Store, sources: Sources, share: Share) -> Supervisor {
        Supervisor { view: self, store, sources, share, runners: Arc::default() }
    }
}

/// Runs a view's policies, and those of a generation that is being made.
pub(crate) struct Supervisor {
    view: View,
    store: Store,
    sources: Sources,
    share: Share,
    runners: Arc<Mutex<Vec<Arc<Runner>>>>,
}

impl Supervisor {
    /// The policies that run now.
    pub(crate) fn runners(&self) -> Arc<Mutex<Vec<Arc<Runner>>>> {
        self.runners.clone()
    }

    pub(crate) async fn run(self) {
        let mut generations: Vec<(i32, JoinSet<()>)> = Vec::new();
        loop {
            match self.look(&mut generations).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(context = self.store.context(), %error, "the view was not looked after")
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self, generations: &mut Vec<(i32, JoinSet<()>)>) -> Result<()> {
        let (mut current, building) = self.store.read(|conn| Ok(both(conn)?)).await?;
        if building != current && self.swap(current, building).await? {
            step!(self.store, "view.after_swap");
            tracing::info!(
                context = self.store.context(),
                generation = building,
                "the new view has caught up"
            );
            current = building;
        }
        let wanted = if building == current { vec![current] } else { vec![current, building] };
        // Dropping a generation's tasks ends them.
        let before = generations.len();
        generations.retain(|(generation, _)| wanted.contains(generation));
        let mut changed = generations.len() != before;
        for generation in wanted {
            if generations.iter().all(|(running, _)| *running != generation) {
                generations.push((generation, self.spawn(generation)));
                changed = true;
            }
        }
        if changed {
            let ids: Vec<_> = generations.iter().map(|(generation, _)| *generation).collect();
            lock(&self.runners).retain(|runner| ids.contains(&runner.generation));
            self.discard_before(current).await?;
        }
        Ok(())
    }

    fn spawn(&self, generation: i32) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for policy in &self.view.policies {
            let runner = Runner::new(
                policy.clone(),
                generation,
                self.store.clone(),
                self.sources.clone(),
                self.share.clone(),
            );
            let runner = Arc::new(runner);
            lock(&self.runners).push(runner.clone());
            tasks.spawn(runner.run());
        }
        tasks
    }

    /// Makes the new generation the current one, if each of its policies is as far as the old one's.
    async fn swap(&self, current: i32, building: i32) -> Result<bool> {
        step!(self.store, "view.before_swap");
        let context = self.store.context().to_owned();
        let policies = self.view.policies.clone();
        let heads: HashMap<_, _> = lock(&self.runners)
            .iter()
            .filter(|runner| runner.generation == building && runner.head() > 0)
            .map(|runner| (runner.policy.name, runner.head()))
            .collect();
        self.store
            .write(move |tx| {
                for policy in &policies {
                    let mut at = |generation| {
                        let key = key_of(&context, policy.name, generation);
                        place_of(tx, &key, &policy.source, &[])
                    };
                    let (old, new) = (at(current)?, at(building)?);
                    let caught_up = match (&old, &new) {
                        (None, _) => true,
                        (Some(old), Some(new)) if new.epoch == old.epoch => !new.is_behind(old),
                        // The source was restored, and the old one stands still: what counts is the log as it is now.
                        (Some(_), Some(new)) => {
                            heads.get(policy.name).is_some_and(|head| new.position() >= *head)
                        }
                        (Some(_), None) => false,
                    };
                    if !caught_up {
                        return Ok(false);
                    }
                }
                diesel::update(mesh_view::table)
                    .set(mesh_view::current.eq(building))
                    .execute(&mut **tx)?;
                for policy in &policies {
                    let key = key_of(&context, policy.name, current);
                    diesel::delete(mesh_cursor::table.filter(mesh_cursor::policy.eq(&key)))
                        .execute(&mut **tx)?;
                    diesel::delete(mesh_parked::table.filter(mesh_parked::policy.eq(&key)))
                        .execute(&mut **tx)?;
                    diesel::delete(mesh_attempt::table.filter(mesh_attempt::policy.eq(&key)))
                        .execute(&mut **tx)?;
                }
                Ok(true)
            })
            .await
    }

    async fn discard_before(&self, current: i32) -> Result<()> {
        let discard = self.view.discard;
        if current > 1 {
            while self.store.write(move |tx| discard(tx, current - 1)).await? > 0 {}
        }
        Ok(())
    }
}

fn lock(runners: &Mutex<Vec<Arc<Runner>>>) -> std::sync::MutexGuard<'_, Vec<Arc<Runner>>> {
    runners.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Four checks of every saga (rule G-11): what is done twice has one effect, whatever fails is undone, what is undone
//! twice is undone once, and no undo fails.

use std::future::Future;

use mesh::chaos::Faults;
use mesh_testing::request_id;
use tonic::Status;

use super::{Mortal, World, answer};

/// The part in which the callee does its own.
const CALL: &str = "saga.call";
/// The part in which the order comes to be.
const REGISTER: &str = "saga.register";
/// The part in which the callee undoes its own.
const UNDO: &str = "saga.undo";

/// A system with a desk that takes orders by a saga.
pub trait Desk: Mortal {
    /// The desk's context.
    const DESK: &'static str;
    /// The method by which it calls.
    const CALL: &'static str;

    /// Sends an order, once: its name.
    fn order_once(&self, request_id: &str) -> impl Future<Output = Result<String, Status>>;
}

/// Each part that is done twice has its effect once.
pub async fn what_is_done_twice_has_one_effect<D: Desk>() -> Result<(), String> {
    let world = World::<D>::begin().await;
    for part in [CALL, REGISTER] {
        world.faults().do_twice(D::DESK, part);
        world.order(&request_id()).await.map_err(|what| format!("{part} twice: {what}"))?;
        world.nothing_is_left_to_fail().map_err(|what| format!("{part} twice: {what}"))?;
    }
    Ok(())
}

/// Whichever part fails, done or not, everything is as it was before; the same request has its order the next time.
pub async fn whatever_fails_is_undone<D: Desk>() -> Result<(), String> {
    let world = World::<D>::begin().await;
    for part in [CALL, REGISTER] {
        let fails = |faults: &Faults| faults.fail(D::DESK, part);
        world.order_in_vain(fails).await.map_err(|what| format!("{part} fails: {what}"))?;
    }
    // Done, and nobody knows: each attempt of the call.
    let is_lost = |faults: &Faults| faults.break_replies(D::CALL, 3);
    world.order_in_vain(is_lost).await.map_err(|what| format!("an answer is lost: {what}"))
}

/// What is undone twice is undone once.
pub async fn what_is_undone_twice_is_undone_once<D: Desk>() -> Result<(), String> {
    let world = World::<D>::begin().await;
    for part in [CALL, REGISTER] {
        let fails = |faults: &Faults| {
            faults.fail(D::DESK, part);
            faults.do_twice(D::DESK, UNDO);
        };
        let outcome = world.order_in_vain(fails).await;
        outcome.map_err(|what| format!("{part} fails, undone twice: {what}"))?;
    }
    Ok(())
}

impl<D: Desk> World<D> {
    fn faults(&self) -> &Faults {
        self.system.mesh().mesh.faults()
    }

    /// Orders, and says what does not hold then.
    async fn order(&self, request_id: &str) -> Result<(), String> {
        let ordered = answer(async || self.system.order_once(request_id).await);
        self.told.ordered(&ordered.await.map_err(|status| status.to_string())?);
        self.judge().await
    }

    /// Orders where something fails, and says what is left of it.
    async fn order_in_vain(&self, plan: impl Fn(&Faults)) -> Result<(), String> {
        let before = self.stores.effects();
        plan(self.faults());
        let request_id = request_id();
        if let Ok(name) = self.system.order_once(&request_id).await {
            return Err(format!("{name} was registered all the same"));
        }
        self.judge().await?;
        let left: Vec<_> = self.stores.effects().symmetric_difference(&before).cloned().collect();
        if !left.is_empty() {
            return Err(format!("I-13 not as before: {left:?}"));
        }
        let failed = self.stores.failed_undos();
        if !failed.is_empty() {
            return Err(format!("I-12 an undo failed: {failed:?}"));
        }
        self.nothing_is_left_to_fail()?;
        self.order(&request_id).await
    }

    /// It was the part that was chosen, and no other.
    fn nothing_is_left_to_fail(&self) -> Result<(), String> {
        if self.faults().are_done() { Ok(()) } else { Err("it went another way".to_owned()) }
    }
}

//! Call, then register (rule G-11): what the callee did not do is never registered, and what is not registered is
//! undone.
//!
//! ```text
//! PENDING -> REGISTERED      the callee did it: the order exists, and its first event with it
//!         -> REFUSED         the callee refused, or surely never heard of it
//!         -> VOIDING -> VOIDED   nobody knows: it cannot be registered any more, and is undone until that is confirmed
//! ```
//! An intent is the order before it exists: nothing else in the context's store knows of it. The steps run in a task of
//! their own, so that a client that goes away stops nothing halfway; after a crash the sweeper undoes what is left.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use prost::Message;
use proto::Command;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use crate::caller::Caller;
use crate::cause::Cause;
use crate::client::is_certainly_not_sent;
use crate::error::{Error, Result};
use crate::planted::{Bug, planted};
use crate::scope::Scope;
use crate::store::schema::mesh_intent;
use crate::store::{Conn, Page, Store, Tx, fingerprint, id_of, insert, literal, on_engine, update};
use crate::tasks::Tasks;
use crate::time::micros;

const PENDING: &str = "PENDING";
const REGISTERED: &str = "REGISTERED";
const REFUSED: &str = "REFUSED";
const VOIDING: &str = "VOIDING";
const VOIDED: &str = "VOIDED";

/// Neither registered nor ended, in the words of its index.
const OPEN: &str = "state IN ('PENDING', 'VOIDING')";

/// How often the sweeper looks.
const LOOK: Duration = Duration::from_secs(1);
/// How many orders it undoes at once.
const AT_ONCE: usize = 16;

/// The steps of one such command.
pub trait CallThenRegister: Send + Sync + 'static {
    /// The command's name: `PickMovie`.
    const COMMAND: &'static str;
    /// The order, as the contract has it. It is kept hidden until it is registered.
    type Order: Message + Default + Clone + 'static;
    /// What the client is told.
    type Answer: Message + Default + 'static;

    /// The order's resource name: the key of the call and of its undo.
    fn name(order: &Self::Order) -> &str;

    /// Has the callee do its part, once for this order.
    fn call(&self, order: Self::Order) -> impl Future<Output = Result<()>> + Send;

    /// Has the callee undo its part, done or not, so that it can never be done any more. Repeated until it answers OK.
    fn undo(&self, order: Self::Order) -> impl Future<Output = Result<()>> + Send;

    /// The answer when nobody knows what the callee did.
    fn fallback(&self) -> Error;

    /// Makes the order exist, with its first event. A refusal is the answer, and the callee's part is undone.
    fn register(&self, tx: &mut Tx<'_>, order: Self::Order) -> Result<Self::Answer>;
}

/// A command in these steps. Cheap to clone.
pub struct Saga<S> {
    store: Store,
    steps: Arc<S>,
    tasks: Tasks,
    sweep_after: Duration,
}

impl<S> Clone for Saga<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            steps: self.steps.clone(),
            tasks: self.tasks.clone(),
            sweep_after: self.sweep_after,
        }
    }
}

impl<S> fmt::Debug for Saga<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saga").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What is done between two steps. A test may have it fail instead, or have it done twice.
macro_rules! part {
    ($saga:expr, $part:literal, $work:expr) => {{
        #[cfg(feature = "chaos")]
        {
            use crate::chaos::Fate;
            match $saga.store.steps().fate($part) {
                Fate::Done => $work.await,
                Fate::DoneTwice => match $work.await {
                    Ok(_) => $work.await,
                    failure => failure,
                },
                Fate::Fails => Err(Error::unavailable("what is to fail")),
            }
        }
        #[cfg(not(feature = "chaos"))]
        {
            $work.await
        }
    }};
}

/// What is known of the callee's part after a call that failed.
enum Outcome {
    /// It was not done, and will not be for the same reason.
    Refused,
    /// It was not done, but may be another time.
    NotNow,
    Unknown,
}

fn outcome_of(error: &Error) -> Outcome {
    let code = match error {
        Error::Status(status) if is_certainly_not_sent(status) => return Outcome::NotNow,
        Error::Status(status) => status.code(),
        Error::Refused(_) | Error::Invalid(_) | Error::NotFound(_) => return Outcome::Refused,
        _ => return Outcome::Unknown,
    };
    match code {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => {
            Outcome::Refused
        }
        Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Outcome::NotNow,
        _ => Outcome::Unknown,
    }
}

/// A refusal, remembered for those who send the same request again.
#[derive(Clone, PartialEq, Message)]
struct Refusal {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bytes = "bytes", tag = "3")]
    details: bytes::Bytes,
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let details = bytes::Bytes::copy_from_slice(status.details());
        Self { code: status.code().into(), message: status.message().to_owned(), details }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::with_details(Code::from(refusal.code), refusal.message, refusal.details)
    }
}

/// Where a request stands that was sent before.
enum Sent<O, A> {
    New(O),
    Answered(A),
}

impl<S: CallThenRegister> Saga<S> {
    pub(crate) fn new(store: Store, steps: S, tasks: Tasks, sweep_after: Duration) -> Self {
        Self { store, steps: Arc::new(steps), tasks, sweep_after }
    }

    /// Carries the command out: `decide` makes the order, the callee does its part, the order is registered. The same
    /// request again gets the first answer (rule G-6).
    pub async fn run<C, F>(&self, caller: &Caller, command: &C, decide: F) -> Result<S::Answer>
    where
        C: Command,
        F: FnOnce(&mut Tx<'_>) -> Result<S::Order> + Clone + Send + 'static,
    {
        let cause = Cause::current(&id_of(command));
        let order = match self.store_intent(caller, command, cause.clone(), decide).await? {
            Sent::New(order) => order,
            Sent::Answered(answer) => return Ok(answer),
        };
        step!(self.store, "saga.kept");
        let (reply, answer) = oneshot::channel();
        // Who sends the command again only asks for what this one call came to: its retries are ours.
        let (saga, scope) = (self.clone(), Scope { retry_owner: None, ..Scope::current() });
        drop(self.tasks.spawn(scope.around(Box::pin(saga.carry_out(order, cause, reply)))));
        answer.await.map_err(|_| self.steps.fallback())?
    }

    /// Step 1: the order, hidden.
    async fn store_intent<C, F>(
        &self,
        caller: &Caller,
        command: &C,
        cause: Cause,
        decide: F,
    ) -> Result<Sent<S::Order, S::Answer>>
    where
        C: Command,
        F: FnOnce(&mut Tx<'_>) -> Result<S::Order> + Clone + Send + 'static,
    {
        let (caller, hash) = (caller.key(), fingerprint(command));
        self.store
            .write_because(cause.clone(), move |tx| {
                let known: Option<(String, Vec<u8>, Vec<u8>)> = on_engine!(&mut **tx, |engine| {
                    mesh_intent::table
                        .filter(mesh_intent::caller.eq(&caller))
                        .filter(mesh_intent::command.eq(S::COMMAND))
                        .filter(mesh_intent::request_id.eq(&cause.id))
                        .select((mesh_intent::state, mesh_intent::hash, mesh_intent::answer))
                        .first(engine)
                        .optional()
                })?;
                if let Some((state, first, answer)) = known {
                    if first != hash {
                        return Err(Error::Reused(cause.id));
                    }
                    return match state.as_str() {
                        REGISTERED => S::Answer::decode(&answer[..])
                            .map(Sent::Answered)
                            .map_err(Error::internal),
                        REFUSED => {
                            let refusal = Refusal::decode(&answer[..]).map_err(Error::internal)?;
                            Err(Status::from(refusal).into())
                        }
                        _ => Err(Error::StillRunning),
                    };
                }
                let order = decide(tx)?;
                let row = (
                    mesh_intent::name.eq(S::name(&order)),
                    mesh_intent::command.eq(S::COMMAND),
                    mesh_intent::caller.eq(caller),
                    mesh_intent::request_id.eq(&cause.id),
                    mesh_intent::hash.eq(hash),
                    mesh_intent::state.eq(PENDING),
                    mesh_intent::intent_order.eq(order.encode_to_vec()),
                    mesh_intent::answer.eq(Vec::new()),
                    mesh_intent::undo_attempts.eq(0),
                    mesh_intent::last_failure.eq(""),
                    mesh_intent::time.eq(micros(tx.now())),
                );
                insert(mesh_intent::table, row).execute(tx)?;
                Ok(Sent::New(order))
            })
            .await
    }

    /// Steps 2 and 3. The client may be gone; what happens to the order does not depend on it.
    async fn carry_out(
        self,
        order: S::Order,
        cause: Cause,
        reply: oneshot::Sender<Result<S::Answer>>,
    ) {
        step!(self.store, "saga.stored");
        let called = part!(self, "saga.call", self.steps.call(order.clone()));
        step!(self.store, "saga.called");
        let answer = match called {
            // A client that gave up is no reason to give the money back: from here on there is no deadline.
            Ok(()) => {
                step!(self.store, "saga.registering");
                let register =
                    || Scope::default().around(self.register(order.clone(), cause.clone()));
                part!(self, "saga.register", register())
            }
            Err(error) => match outcome_of(&error) {
                Outcome::Refused => self.refuse(&order, error, true).await,
                Outcome::NotNow => self.refuse(&order, error, false).await,
                Outcome::Unknown => {
                    tracing::debug!(order = S::name(&order), %error, "nobody knows what the callee did");
                    Err(self.steps.fallback())
                }
            },
        };
        step!(self.store, "saga.registered");
        // Registered and refused are settled; everything else must be undone, and is once VOIDING is stored.
        if answer.is_err() && Scope::default().around(self.void(&order)).await {
            let _ = reply.send(answer);
            step!(self.store, "saga.voiding");
            Scope::default().around(self.undo(order)).await;
            return;
        }
        let _ = reply.send(answer);
    }

    /// Step 3a.
    async fn register(&self, order: S::Order, cause: Cause) -> Result<S::Answer> {
        let (fallback, steps) = (self.steps.fallback(), self.steps.clone());
        let outcome = self
            .store
            .write_because(cause, move |tx| {
                let name = S::name(&order).to_owned();
                let answer = steps.register(tx, order)?;
                let values = (
                    mesh_intent::state.eq(REGISTERED),
                    mesh_intent::answer.eq(answer.encode_to_vec()),
                );
                let pending = in_state(&name, PENDING);
                let registered = update(mesh_intent::table, pending, values).execute(tx)?;
                // Voided meanwhile: nothing of it is kept.
                if registered == 0 && !planted(Bug::RegisterUnchecked) {
                    return Err(Error::Changed(name));
                }
                Ok(answer)
            })
            .await;
        outcome.map_err(|error| match error {
            Error::Refused(_) => error,
            error => {
                tracing::warn!(%error, "an order could not be registered after its call; it is undone");
                fallback
            }
        })
    }

    /// Step 3b. A refusal that may pass by itself is not remembered: the `request_id` is free again.
    async fn refuse(&self, order: &S::Order, error: Error, remember: bool) -> Result<S::Answer> {
        let status = Status::from(error);
        let (name, refusal) = (S::name(order).to_owned(), Refusal::from(&status));
        let stored = Scope::default()
            .around(self.store.write(move |tx| {
                if set_state(tx, &name, PENDING, REFUSED)? {
                    let row = mesh_intent::table.find(&name);
                    let answer = mesh_intent::answer.eq(refusal.encode_to_vec());
                    diesel::update(row).set(answer).execute(&mut **tx)?;
                    if !remember {
                        free_request_id(tx, &name)?;
                    }
                }
                Ok(())
            }))
            .await;
        if let Err(error) = stored {
            tracing::warn!(%error, "a refusal was not stored: the sweeper ends the order");
        }
        step!(self.store, "saga.refused");
        Err(status.into())
    }

    /// Step 3c, first half: from here on it cannot be registered. Says whether there is something to undo.
    async fn void(&self, order: &S::Order) -> bool {
        let name = S::name(order).to_owned();
        let voided = self.store.write(move |tx| set_state(tx, &name, PENDING, VOIDING)).await;
        voided.unwrap_or_else(|error| {
            tracing::warn!(%error, "an order was not voided: the sweeper will do it");
            false
        })
    }

    /// Step 3c, second half: undone when, and only when, the callee says so.
    async fn undo(&self, order: S::Order) {
        let name = S::name(&order).to_owned();
        let failure = part!(self, "saga.undo", self.steps.undo(order.clone()))
            .err()
            .map(|error| error.to_string());
        step!(self.store, "saga.undone");
        let outcome = self
            .store
            .write(move |tx| match failure {
                None => {
                    set_state(tx, &name, VOIDING, VOIDED)?;
                    free_request_id(tx, &name)
                }
                Some(failure) => {
                    let values = (
                        mesh_intent::undo_attempts.eq(mesh_intent::undo_attempts + 1),
                        mesh_intent::last_failure.eq(failure),
                    );
                    diesel::update(mesh_intent::table.find(name)).set(values).execute(&mut **tx)?;
                    Ok(())
                }
            })
            .await;
        if let Err(error) = outcome {
            tracing::warn!(%error, "the end of an undo was not stored: it will be repeated");
        }
        step!(self.store, "saga.voided");
    }

    /// Voids what is too old, and undoes what is voided; both are found in the store alone.
    async fn sweep_once(&self) -> Result<()> {
        let before = micros(crate::now() - self.sweep_after);
        let open = self
            .store
            .read(|conn| {
                let rows: Vec<(String, String, Vec<u8>, i64)> = mesh_intent::table
                    .filter(literal(OPEN))
                    .filter(mesh_intent::command.eq(S::COMMAND))
                    .order(mesh_intent::time)
                    .limit(500)
                    .select((
                        mesh_intent::name,
                        mesh_intent::state,
                        mesh_intent::intent_order,
                        mesh_intent::time,
                    ))
                    .load(conn)?;
                Ok(rows)
            })
            .await?;
        let due = open.into_iter().filter(|(_, state, _, time)| state == VOIDING || *time < before);
        stream::iter(due)
            .for_each_concurrent(AT_ONCE, |(name, state, order, _)| async move {
                let Ok(order) = S::Order::decode(&order[..]) else {
                    return tracing::error!(order = %name, "an intent cannot be read");
                };
                if state == VOIDING || self.void(&order).await {
                    step!(self.store, "saga.voiding");
                    self.undo(order).await;
                }
            })
            .await;
        Ok(())
    }
}

/// Compare and set: whether it was `from`.
fn set_state(tx: &mut Tx<'_>, name: &str, from: &str, to: &str) -> Result<bool> {
    let to = mesh_intent::state.eq(to);
    Ok(update(mesh_intent::table, in_state(name, from), to).execute(tx)? == 1)
}

/// The intent with this name, if it is in this state.
#[diesel::dsl::auto_type]
fn in_state<'a>(name: &'a str, state: &'a str) -> _ {
    mesh_intent::name.eq(name).and(mesh_intent::state.eq(state))
}

fn free_request_id(tx: &mut Tx<'_>, name: &str) -> Result<()> {
    let none: Option<String> = None;
    diesel::update(mesh_intent::table.find(name))
        .set(mesh_intent::request_id.eq(none))
        .execute(&mut **tx)?;
    Ok(())
}

/// What keeps orders from staying between two states, whatever died when.
pub(crate) trait Sweep: Send + Sync {
    /// Runs for as long as the context does.
    fn sweep(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

impl<S: CallThenRegister> Sweep for Saga<S> {
    fn sweep(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                if let Err(error) = self.sweep_once().await {
                    tracing::warn!(command = S::COMMAND, %error, "the sweeper comes again");
                }
                tokio::time::sleep(LOOK.min(self.sweep_after)).await;
            }
        })
    }
}

/// An order that is neither registered nor ended.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = mesh_intent)]
pub(crate) struct IntentRow {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) state: String,
    pub(crate) undo_attempts: i32,
    pub(crate) last_failure: String,
    pub(crate) time: i64,
}

/// A page of the orders that are neither registered nor ended, by name.
pub(crate) fn list_intents(conn: &mut Conn, page: &Page) -> QueryResult<Vec<IntentRow>> {
    mesh_intent::table
        .filter(literal(OPEN))
        .filter(mesh_intent::name.gt(page.after().unwrap_or_default()))
        .order(mesh_intent::name)
        .limit(page.limit())
        .select(IntentRow::as_select())
        .load(conn)
}

/// How many orders are neither registered nor ended, by state.
pub(crate) fn count_intents(conn: &mut Conn) -> QueryResult<[(&'static str, i64); 2]> {
    let mut count = |state: &str| {
        mesh_intent::table
            .filter(literal(OPEN))
            .filter(mesh_intent::state.eq(state))
            .count()
            .get_result(conn)
    };
    Ok([(PENDING, count(PENDING)?), (VOIDING, count(VOIDING)?)])
}

/// Forgets orders that ended and whose request nobody will send again: how many.
pub(crate) async fn forget_old_intents(store: &Store, age: Duration) -> Result<usize> {
    let before = micros(crate::now() - age);
    // What has ended does not change any more, so a reader may look for it, which goes through all of them.
    let old: Vec<String> = store
        .read(move |conn| {
            Ok(mesh_intent::table
                .filter(mesh_intent::time.lt(before))
                .filter(mesh_intent::state.ne_all([PENDING, VOIDING]))
                .select(mesh_intent::name)
                .limit(500)
                .load(conn)?)
        })
        .await?;
    store
        .write(move |tx| {
            for name in &old {
                diesel::delete(mesh_intent::table.find(name)).execute(&mut **tx)?;
            }
            Ok(old.len())
        })
        .await
}

#[cfg(test)]
mod tests {
    use diesel_migrations::embed_migrations;

    use super::*;
    use crate::store::{Migrations, StoreAt};

    const MIGRATIONS: Migrations = Migrations {
        sqlite: embed_migrations!("tests/migrations/sqlite"),
        postgres: embed_migrations!("tests/migrations/postgres"),
    };

    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = diesel::sql_types::Text)]
        detail: String,
    }

    #[tokio::test]
    async fn open_orders_are_found_without_a_look_at_all_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity.sqlite");
        let store = Store::open("identity", &StoreAt::File(file), MIGRATIONS).unwrap();
        let plan = store.read(|conn| {
            let query = format!("EXPLAIN QUERY PLAN SELECT name FROM mesh_intent WHERE {OPEN}");
            Ok(diesel::sql_query(query).load::<Step>(conn)?)
        });
        let plan: Vec<_> = plan.await.unwrap().into_iter().map(|step| step.detail).collect();
        assert!(plan.concat().contains("USING INDEX mesh_intent_open"), "{plan:?}");
    }
}

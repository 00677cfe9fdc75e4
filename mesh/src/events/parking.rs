//! Events that a policy cannot handle: counted, put aside with everything behind them, and replayed on request.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diesel::dsl::exists;
use diesel::prelude::*;
use prost::Message as _;
use proto::mesh::v1 as api;

use super::policy::Handler;
use super::runner::{Runner, signed};
use crate::error::{Error, Result};
use crate::store::schema::{mesh_attempt, mesh_parked};
use crate::store::{Conn, Page, Store, Tx};
use crate::time::micros;

/// How often an event may fail.
const FAILURES: i32 = 5;
/// How often it may take the process with it.
const CRASHES: i32 = 20;

/// The subjects whose events have to wait, or the events that are in trouble. Only a hint: the table decides.
pub(crate) type Parked = Arc<Mutex<HashSet<String>>>;

pub(super) fn lock(parked: &Parked) -> MutexGuard<'_, HashSet<String>> {
    parked.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) enum Verdict {
    Try,
    Park { attempts: i32, failure: String },
}

/// An event that was put aside.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = mesh_parked)]
pub(crate) struct ParkedRow {
    pub(crate) policy: String,
    pub(crate) event_id: String,
    pub(crate) subject: String,
    pub(crate) event: Vec<u8>,
    pub(crate) failure: String,
    pub(crate) attempts: i32,
    pub(crate) time: i64,
}

impl ParkedRow {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.event_id, self.policy)
    }
}

impl Runner {
    /// Whether a process may have died of this event before.
    pub(super) fn must_take_care(&self, event: &api::Event) -> bool {
        let is_old = signed(event.position) <= self.old.load(Ordering::Relaxed);
        is_old && self.careful.load(Ordering::Relaxed) > 0
    }

    /// As [`Runner::must_take_care`]; it is one of the few with which it is done.
    pub(super) fn takes_care(&self, event: &api::Event) -> bool {
        let one_less = || {
            self.careful
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        };
        self.must_take_care(event) && one_less().is_ok()
    }

    /// With `care` an event is counted before it is tried: if it kills the process, the next one knows.
    pub(super) async fn before_try(&self, event: &api::Event, care: bool) -> Result<Verdict> {
        if !care {
            return Ok(Verdict::Try);
        }
        let crashes = self.count(event, |counts| counts.1 += 1).await?.1;
        Ok(if crashes > CRASHES {
            Verdict::Park {
                attempts: crashes,
                failure: "the process died each time it was handled".to_owned(),
            }
        } else {
            Verdict::Try
        })
    }

    /// It has to wait, and the process lives: what kills it while it waits is something else.
    pub(super) async fn after_wait(&self, event: &api::Event, care: bool) -> Result<()> {
        if care {
            self.count(event, |counts| counts.1 -= 1).await?;
        }
        Ok(())
    }

    pub(super) async fn after_failure(
        &self,
        event: &api::Event,
        error: &Error,
        care: bool,
    ) -> Result<Verdict> {
        let failure = full_text(error);
        let change = move |counts: &mut (i32, i32)| {
            counts.0 += 1;
            counts.1 -= i32::from(care);
        };
        let failures = self.count(event, change).await?.0;
        tracing::warn!(policy = %self.key, event = %event.event_id, subject = %event.subject, failures, %failure,
            "an event failed");
        Ok(if failures < FAILURES {
            Verdict::Try
        } else {
            Verdict::Park { attempts: failures, failure }
        })
    }

    /// Changes (failures, crashes) of an event.
    async fn count(
        &self,
        event: &api::Event,
        change: impl FnOnce(&mut (i32, i32)) + Clone + Send + 'static,
    ) -> Result<(i32, i32)> {
        let (key, event_id) = (self.key.clone(), event.event_id.clone());
        lock(&self.counted).insert(event_id.clone());
        self.store
            .write(move |tx| {
                let row = mesh_attempt::table.find((&key, &event_id));
                let known: Option<(i32, i32)> = row
                    .select((mesh_attempt::failures, mesh_attempt::crashes))
                    .first(&mut **tx)
                    .optional()?;
                let mut counts = known.unwrap_or_default();
                change(&mut counts);
                let values =
                    (mesh_attempt::failures.eq(counts.0), mesh_attempt::crashes.eq(counts.1));
                if known.is_some() {
                    diesel::update(row).set(values).execute(&mut **tx)?;
                } else {
                    let names =
                        (mesh_attempt::policy.eq(&key), mesh_attempt::event_id.eq(&event_id));
                    diesel::insert_into(mesh_attempt::table)
                        .values((names, values))
                        .execute(&mut **tx)?;
                }
                Ok(counts)
            })
            .await
    }

    pub(super) async fn forget_attempts(self: &Arc<Self>, event: &api::Event) -> Result<()> {
        if !lock(&self.counted).contains(&event.event_id) {
            return Ok(());
        }
        let (runner, event_id) = (self.clone(), event.event_id.clone());
        self.store.write(move |tx| runner.forget_attempts_in(tx, &event_id)).await
    }

    pub(super) fn forget_attempts_in(&self, tx: &mut Tx<'_>, event_id: &str) -> Result<()> {
        lock(&self.counted).remove(event_id);
        diesel::delete(mesh_attempt::table.find((&self.key, event_id))).execute(&mut **tx)?;
        Ok(())
    }

    /// Puts an event aside. `failure` is empty for one that only waits behind another.
    pub(super) fn park(
        &self,
        tx: &mut Tx<'_>,
        event: &api::Event,
        failure: &str,
        attempts: i32,
    ) -> Result<()> {
        if failure.is_empty() {
            tracing::info!(policy = %self.key, event = %event.event_id, subject = %event.subject,
                "an event waits behind one of its subject that is parked");
        } else {
            tracing::error!(policy = %self.key, event = %event.event_id, subject = %event.subject, failure,
                "an event is parked: see `turnstile events parked`");
        }
        let now = micros(tx.now());
        // A calling policy may meet it again after a crash.
        diesel::delete(mesh_parked::table.find((&self.key, &event.event_id))).execute(&mut **tx)?;
        diesel::insert_into(mesh_parked::table)
            .values((
                mesh_parked::policy.eq(&self.key),
                mesh_parked::position.eq(signed(event.position)),
                mesh_parked::event_id.eq(&event.event_id),
                mesh_parked::subject.eq(&event.subject),
                mesh_parked::event.eq(event.encode_to_vec()),
                mesh_parked::failure.eq(failure),
                mesh_parked::attempts.eq(attempts),
                mesh_parked::time.eq(now),
            ))
            .execute(&mut **tx)?;
        lock(&self.parked).insert(event.subject.clone());
        Ok(())
    }

    /// Whether an event of this subject was parked, and has not been replayed.
    pub(super) fn must_wait(&self, conn: &mut Conn, subject: &str) -> Result<bool> {
        if !lock(&self.parked).contains(subject) {
            return Ok(false);
        }
        let rows = mesh_parked::table
            .filter(mesh_parked::policy.eq(&self.key))
            .filter(mesh_parked::subject.eq(subject));
        let waits = diesel::select(exists(rows)).get_result::<bool>(conn)?;
        if !waits {
            lock(&self.parked).remove(subject);
        }
        Ok(waits)
    }

    pub(super) async fn is_behind_parked(self: &Arc<Self>, subject: &str) -> Result<bool> {
        if !lock(&self.parked).contains(subject) {
            return Ok(false);
        }
        let (runner, subject) = (self.clone(), subject.to_owned());
        self.store.read(move |conn| runner.must_wait(conn, &subject)).await
    }

    /// Hands the parked events to the policy again, in order per subject: (handled now, still parked).
    pub(crate) async fn replay(self: &Arc<Self>, subject: Option<String>) -> Result<(u32, u32)> {
        let (key, only) = (self.key.clone(), subject);
        let rows = self.store.read(move |conn| Ok(parked_of(conn, &key, only.as_deref())?)).await?;
        let (mut replayed, mut left) = (0, 0);
        let mut stuck = HashSet::new();
        for row in rows {
            if stuck.contains(&row.subject) {
                left += 1;
                continue;
            }
            match self.replay_one(&row).await {
                Ok(()) => replayed += 1,
                Err(error) => {
                    tracing::warn!(policy = %self.key, event = %row.event_id, %error, "stays parked");
                    stuck.insert(row.subject);
                    left += 1;
                }
            }
        }
        Ok((replayed, left))
    }

    async fn replay_one(self: &Arc<Self>, row: &ParkedRow) -> Result<()> {
        let event = api::Event::decode(&row.event[..]).map_err(Error::internal)?;
        let handler = self.policy.handler(&event.r#type).cloned();
        if matches!(handler, Some(Handler::Call(_))) {
            self.call_once(&event).await?;
        }
        let runner = self.clone();
        self.store
            .write(move |tx| {
                let row = mesh_parked::table.find((&runner.key, &event.event_id));
                if diesel::delete(row).execute(&mut **tx)? == 0 {
                    // Somebody else replayed it meanwhile.
                    return Ok(());
                }
                if let Some(Handler::Local(handler)) = handler {
                    runner.react_with(&handler, tx, &event)?;
                }
                Ok(())
            })
            .await
    }
}

/// A clean stop shows that none of the events under way killed the process.
pub(crate) async fn forget_crashes(store: &Store) -> Result<()> {
    store
        .write(|tx| {
            diesel::update(mesh_attempt::table)
                .set(mesh_attempt::crashes.eq(0))
                .execute(&mut **tx)?;
            Ok(())
        })
        .await
}

/// The subjects of which events are parked.
pub(super) fn subjects(conn: &mut Conn, key: &str) -> Result<HashSet<String>> {
    let rows: Vec<String> = mesh_parked::table
        .filter(mesh_parked::policy.eq(key))
        .select(mesh_parked::subject)
        .load(conn)?;
    Ok(rows.into_iter().collect())
}

/// The events of which attempts are counted.
pub(super) fn counted(conn: &mut Conn, key: &str) -> Result<HashSet<String>> {
    let rows: Vec<String> = mesh_attempt::table
        .filter(mesh_attempt::policy.eq(key))
        .select(mesh_attempt::event_id)
        .load(conn)?;
    Ok(rows.into_iter().collect())
}

fn parked_of(conn: &mut Conn, key: &str, subject: Option<&str>) -> QueryResult<Vec<ParkedRow>> {
    let rows: Vec<ParkedRow> = mesh_parked::table
        .filter(mesh_parked::policy.eq(key))
        .order((mesh_parked::position, mesh_parked::event_id))
        .select(ParkedRow::as_select())
        .load(conn)?;
    Ok(rows
        .into_iter()
        .filter(|row| subject.is_none_or(|subject| subject == row.subject))
        .collect())
}

/// How many events of a policy are parked.
pub(crate) fn count_parked(conn: &mut Conn, key: &str) -> QueryResult<i64> {
    mesh_parked::table.filter(mesh_parked::policy.eq(key)).count().get_result(conn)
}

/// A page of a context's parked events, by event id and policy: what [`ParkedRow::name`] names.
pub(crate) fn list_parked(conn: &mut Conn, page: &Page) -> QueryResult<Vec<ParkedRow>> {
    let (event_id, policy) =
        page.after().and_then(|after| after.split_once('/')).unwrap_or_default();
    let behind = mesh_parked::event_id.eq(event_id).and(mesh_parked::policy.gt(policy));
    mesh_parked::table
        .filter(mesh_parked::event_id.gt(event_id).or(behind))
        .order((mesh_parked::event_id, mesh_parked::policy))
        .limit(page.limit())
        .select(ParkedRow::as_select())
        .load(conn)
}

/// An error with everything behind it, for the operator.
fn full_text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

//! Commands that are carried out once, however often they are sent (rule G-6).

use std::sync::Arc;
use std::time::Duration;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, Binary, Text};
use prost::Message;
use proto::Command;

use super::ledger::Answer;
use super::schema::mesh_request;
use super::{Conn, Store, Tx};
use crate::caller::Caller;
use crate::cause::Cause;
use crate::error::{Error, Result};
use crate::planted::{Bug, planted};
use crate::time::micros;

impl Store {
    /// Carries out a command of `caller`: load, decide, save, publish and remember the answer, in one transaction.
    /// The same command again gets the remembered answer; the same `request_id` with other content is refused. What
    /// fails is not remembered: nothing of it happened.
    pub async fn once<C, R, F>(&self, caller: &Caller, command: &C, work: F) -> Result<R>
    where
        C: Command,
        R: Message + Default + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R> + Clone + Send + 'static,
    {
        #[cfg(feature = "chaos")]
        if planted(Bug::AnswerApart) {
            return self.once_apart(caller, command, work).await;
        }
        self.once_together(caller, command, work).await
    }

    async fn once_together<C, R, F>(&self, caller: &Caller, command: &C, work: F) -> Result<R>
    where
        C: Command,
        R: Message + Default + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R> + Clone + Send + 'static,
    {
        let (caller, id) = (caller.key(), id_of(command));
        let cause = Cause::current(&id);
        let request = Arc::new(Request { caller, method: C::NAME, id });
        let hash = fingerprint(command);
        step!(self, "command.before");
        let answer = self.write_once(cause, request.clone(), move |tx| {
            if let Some((first, answer)) = tx.kept_answer(&request)? {
                if first != hash {
                    return Err(Error::Reused(request.id.clone()));
                }
                return R::decode(&answer[..]).map_err(Error::internal);
            }
            let answer = work(tx)?;
            let (encoded, time) = (answer.encode_to_vec(), tx.now);
            tx.ledger.answers.push(Answer { request, hash, answer: encoded, time });
            Ok(answer)
        });
        let answer = answer.await;
        step!(self, "command.after");
        answer
    }

    /// The mistake of remembering the answer when it is too late for that.
    #[cfg(feature = "chaos")]
    async fn once_apart<C, R, F>(&self, caller: &Caller, command: &C, work: F) -> Result<R>
    where
        C: Command,
        R: Message + Default + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R> + Clone + Send + 'static,
    {
        let known = self.once_together(caller, command, |_| Err::<R, _>(Error::StillRunning)).await;
        if !matches!(known, Err(Error::StillRunning)) {
            return known;
        }
        let answer = self.write_because(Cause::current(&id_of(command)), work).await?;
        let answer = answer.encode_to_vec();
        let again = move |_: &mut Tx<'_>| R::decode(&answer[..]).map_err(Error::internal);
        self.once_together(caller, command, again).await
    }

    /// Forgets some answers that are older than `age`: how many.
    pub(crate) async fn forget_old_requests(&self, age: Duration) -> Result<usize> {
        let before = micros(crate::now() - age);
        self.write(move |tx| {
            let old: Vec<(String, String, String)> = mesh_request::table
                .filter(mesh_request::time.lt(before))
                .select((mesh_request::caller, mesh_request::method, mesh_request::request_id))
                .limit(500)
                .load(&mut **tx)?;
            for (caller, method, request_id) in &old {
                diesel::delete(mesh_request::table.find((caller, method, request_id)))
                    .execute(&mut **tx)?;
            }
            Ok(old.len())
        })
        .await
    }
}

/// What an answer is remembered under.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) caller: String,
    pub(super) method: &'static str,
    pub(super) id: String,
}

/// The fingerprint of a command that was carried out, and its answer.
pub(super) type Kept = (Vec<u8>, Vec<u8>);

/// A request by caller, method and id, and what was kept of it.
pub(super) type Recalled = ((String, String, String), Kept);

impl Tx<'_> {
    fn kept_answer(&mut self, request: &Request) -> QueryResult<Option<Kept>> {
        if let Some(kept) = self.ledger.answer(request) {
            return Ok(Some((kept.hash.clone(), kept.answer.clone())));
        }
        match self.conn {
            Conn::Postgres(_) => Ok(self.ledger.recalled(request).cloned()),
            Conn::Sqlite(sqlite) => mesh_request::table
                .find((&request.caller, request.method, &request.id))
                .select((mesh_request::hash, mesh_request::answer))
                .first(sqlite)
                .optional(),
        }
    }
}

/// What is remembered of these requests: on a server that is one way there and back for all of them, and each is one on
/// which nobody else can write.
pub(super) fn recall<'r>(
    pg: &mut PgConnection,
    requests: impl Iterator<Item = &'r Request> + Clone,
) -> QueryResult<Vec<Recalled>> {
    let of = |value: fn(&'r Request) -> &'r str| requests.clone().map(value).collect();
    let recall =
        Recall { callers: of(|r| &r.caller), methods: of(|r| r.method), ids: of(|r| &r.id) };
    if recall.ids.is_empty() { Ok(Vec::new()) } else { recall.load(pg) }
}

/// The answers to some requests.
struct Recall<'a> {
    callers: Vec<&'a str>,
    methods: Vec<&'a str>,
    ids: Vec<&'a str>,
}

impl QueryFragment<Pg> for Recall<'_> {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_sql("SELECT wanted.*, kept.hash, kept.answer FROM unnest(");
        pass.push_bind_param::<Array<Text>, _>(&self.callers)?;
        pass.push_sql(", ");
        pass.push_bind_param::<Array<Text>, _>(&self.methods)?;
        pass.push_sql(", ");
        pass.push_bind_param::<Array<Text>, _>(&self.ids)?;
        // Each by its key, however few there were when this was planned: a join would go through the whole table.
        pass.push_sql(
            ") AS wanted (caller, method, request_id) CROSS JOIN LATERAL \
             (SELECT hash, answer FROM mesh_request WHERE mesh_request.caller = wanted.caller \
             AND mesh_request.method = wanted.method AND mesh_request.request_id = wanted.request_id \
             LIMIT 1) AS kept",
        );
        Ok(())
    }
}

impl QueryId for Recall<'_> {
    type QueryId = Recall<'static>;

    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Recall<'_> {
    type SqlType = ((Text, Text, Text), (Binary, Binary));
}

impl RunQueryDsl<PgConnection> for Recall<'_> {}

/// Under what a command's answer is remembered.
pub(crate) fn id_of(command: &impl Command) -> String {
    if planted(Bug::NoDeduplication) {
        return crate::uuid().to_string();
    }
    command.request_id().to_lowercase()
}

/// What makes two commands the same command. Encoding is canonical, unknown fields are gone, and a `request_id` is the
/// same in capitals.
pub(crate) fn fingerprint(command: &impl Command) -> Vec<u8> {
    let mut encoded = command.encode_to_vec();
    let id = command.request_id().as_bytes();
    if let Some(at) = encoded.windows(id.len().max(1)).position(|bytes| bytes == id) {
        encoded[at..at + id.len()].make_ascii_lowercase();
    }
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &encoded).as_ref().to_vec()
}

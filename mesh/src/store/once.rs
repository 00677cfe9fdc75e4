//! Commands that are carried out once, however often they are sent (rule G-6).

use std::time::Duration;

use diesel::prelude::*;
use prost::Message;
use proto::Command;

use super::ledger::Answer;
use super::schema::mesh_request;
use super::{Store, Tx};
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
        F: FnOnce(&mut Tx<'_>) -> Result<R> + Send + 'static,
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
        F: FnOnce(&mut Tx<'_>) -> Result<R> + Send + 'static,
    {
        let caller = caller.key();
        let request_id = id_of(command);
        let hash = fingerprint(command);
        let cause = Cause::current(&request_id);
        step!(self, "command.before");
        let answer = self.write_because(cause, move |tx| {
            let kept = tx.kept_answer(&caller, C::NAME, &request_id)?;
            if let Some((first, answer)) = kept {
                if first != hash {
                    return Err(Error::Reused(request_id));
                }
                return R::decode(&answer[..]).map_err(Error::internal);
            }
            let answer = work(tx)?;
            let (encoded, time) = (answer.encode_to_vec(), tx.now);
            let kept = Answer { caller, method: C::NAME, request_id, hash, answer: encoded, time };
            tx.ledger.answers.push(kept);
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
        F: FnOnce(&mut Tx<'_>) -> Result<R> + Send + 'static,
    {
        let known = self.once_together(caller, command, |_| Err::<R, _>(Error::StillRunning)).await;
        if !matches!(known, Err(Error::StillRunning)) {
            return known;
        }
        let answer = self.write_because(Cause::current(&id_of(command)), work).await?;
        self.once_together(caller, command, move |_| Ok(answer)).await
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

impl Tx<'_> {
    /// The fingerprint of a command that was carried out, and its answer.
    fn kept_answer(
        &mut self,
        caller: &str,
        method: &str,
        request_id: &str,
    ) -> QueryResult<Option<(Vec<u8>, Vec<u8>)>> {
        if let Some(kept) = self.ledger.answer(caller, method, request_id) {
            return Ok(Some((kept.hash.clone(), kept.answer.clone())));
        }
        mesh_request::table
            .find((caller, method, request_id))
            .select((mesh_request::hash, mesh_request::answer))
            .first(self.conn)
            .optional()
    }
}

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

//! Commands that are carried out once, however often they are sent (rule G-6).

use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use prost::Message;
use proto::Command;

use super::schema::mesh_request;
use super::{Store, Tx};
use crate::caller::Caller;
use crate::cause::Cause;
use crate::error::{Error, Result};
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
        let caller = caller.key();
        let request_id = command.request_id().to_lowercase();
        let hash = fingerprint(command);
        let cause = Cause::current(&request_id);
        self.write_because(cause, move |tx| {
            let key = (caller.as_str(), C::NAME, request_id.as_str());
            let kept: Option<(Vec<u8>, Vec<u8>)> = mesh_request::table
                .find(key)
                .select((mesh_request::hash, mesh_request::answer))
                .first(&mut **tx)
                .optional()?;
            if let Some((first, answer)) = kept {
                if first != hash {
                    return Err(Error::Reused(request_id));
                }
                return R::decode(&answer[..]).map_err(Error::internal);
            }
            let answer = work(tx)?;
            diesel::insert_into(mesh_request::table)
                .values((
                    mesh_request::caller.eq(&caller),
                    mesh_request::method.eq(C::NAME),
                    mesh_request::request_id.eq(&request_id),
                    mesh_request::hash.eq(hash),
                    mesh_request::answer.eq(answer.encode_to_vec()),
                    mesh_request::time.eq(micros(tx.now())),
                ))
                .execute(&mut **tx)?;
            Ok(answer)
        })
        .await
    }

    /// Forgets some answers that are older than `age`: how many.
    pub(crate) async fn forget_old_requests(&self, age: Duration) -> Result<usize> {
        let before = micros(SystemTime::now() - age);
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

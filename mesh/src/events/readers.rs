//! Who reads a log, and what may be removed from it.
//!
//! A log is kept for ever, unless an operator has it trimmed: then only what every policy that ever read it has behind it,
//! as far as the log knows. Each policy says how far it is when it comes, and comes again every few minutes; what a log
//! remembers of it is old, and so never too much. Nobody is carried over a gap: who would have read what is gone is refused.

use std::time::SystemTime;

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use proto::mesh::v1::ErrorReason;
use tonic::Code;

use super::cursor::ALL;
use crate::error::{Error, Result};
use crate::store::schema::{mesh_event, mesh_meta, mesh_reader};
use crate::store::{Conn, Store, Tx, insert_once};
use crate::time::micros;

/// Under which the last position is kept up to which events may be missing.
const TRIMMED: &str = "trimmed";
/// How many positions are trimmed in one transaction, and in how many at once.
const STRETCH: i64 = 500;
const STRETCHES: usize = 40;

/// Trims a stretch, but for the last event about each subject: publishing counts on from there.
const TRIM: &str = "DELETE FROM mesh_event WHERE position > $1 AND position <= $2 AND EXISTS \
    (SELECT 1 FROM mesh_event AS later WHERE later.subject = mesh_event.subject \
    AND later.sequence > mesh_event.sequence)";

/// Remembers that a policy goes on behind this position, before it is told anything, and refuses it if something behind
/// it is gone.
pub(crate) async fn remember(
    store: &Store,
    policy: &str,
    partitions: &[u32],
    position: i64,
) -> Result<()> {
    let epoch = store.epoch();
    let lanes: Vec<i32> = match partitions {
        [] => vec![ALL],
        some => some.iter().map(|partition| partition.cast_signed()).collect(),
    };
    let (key, wanted) = (policy.to_owned(), lanes.clone());
    let (trimmed, known) = store
        .read(move |conn| {
            let known: Vec<(String, i64)> = mesh_reader::table
                .filter(mesh_reader::policy.eq(&key))
                .filter(mesh_reader::partition.eq_any(&wanted))
                .select((mesh_reader::epoch, mesh_reader::position))
                .load(conn)?;
            Ok((trimmed(conn)?, known))
        })
        .await?;
    refuse_gap(store.context(), trimmed, position)?;
    let is_known = known.len() == lanes.len() && known.iter().all(|(of, _)| **of == *epoch);
    if is_known && known.iter().all(|(_, at)| *at == position) {
        return Ok(());
    }
    // What is known of it is too little at the most, and keeps what it has not read.
    let is_enough = is_known && known.iter().all(|(_, at)| *at <= position);
    let (key, of) = (policy.to_owned(), store.clone());
    let write = async move {
        let context = of.context().to_owned();
        let written = of.write(move |tx| {
            refuse_gap(&context, self::trimmed(tx)?, position)?;
            write_down(tx, &key, &lanes, &epoch, position)
        });
        written.await
    };
    if !is_enough {
        return write.await;
    }
    // So nobody need wait for the writer.
    let policy = policy.to_owned();
    tokio::spawn(async move {
        if let Err(error) = write.await {
            tracing::debug!(policy, %error, "its place could not be written down");
        }
    });
    Ok(())
}

fn write_down(tx: &mut Tx<'_>, policy: &str, lanes: &[i32], epoch: &str, at: i64) -> Result<()> {
    // It has moved to another engine: then it has other partitions.
    let of_policy = mesh_reader::table.filter(mesh_reader::policy.eq(policy));
    if lanes == [ALL] {
        diesel::delete(of_policy.filter(mesh_reader::partition.ne(ALL))).execute(&mut **tx)?;
    } else {
        diesel::delete(of_policy.filter(mesh_reader::partition.eq(ALL))).execute(&mut **tx)?;
    }
    for lane in lanes {
        let place = (mesh_reader::epoch.eq(epoch), mesh_reader::position.eq(at));
        let row = mesh_reader::table.find((policy, lane));
        if diesel::update(row).set(place).execute(&mut **tx)? == 0 {
            let key = (mesh_reader::policy.eq(policy), mesh_reader::partition.eq(lane));
            diesel::insert_into(mesh_reader::table).values((key, place)).execute(&mut **tx)?;
        }
    }
    Ok(())
}

/// Refuses whoever goes on behind this position, if something behind it is gone. Asked after reading, it vouches for what
/// was read: what is gone stays gone.
pub(crate) fn refuse_trimmed(conn: &mut Conn, context: &str, position: i64) -> Result<()> {
    refuse_gap(context, trimmed(conn)?, position)
}

fn refuse_gap(context: &str, trimmed: i64, position: i64) -> Result<()> {
    if position >= trimmed {
        return Ok(());
    }
    let reason = ErrorReason::CursorTrimmed.as_str_name();
    let message = format!("of the log of {context} events up to {trimmed} are gone");
    Err(Error::refused("mesh", reason, message).code(Code::OutOfRange).with("trimmed", trimmed))
}

/// Up to this position events may be missing.
fn trimmed(conn: &mut Conn) -> Result<i64> {
    let kept: Option<String> =
        mesh_meta::table.find(TRIMMED).select(mesh_meta::value).first(conn).optional()?;
    kept.map_or(Ok(0), |text| text.parse().map_err(Error::internal))
}

/// What trimming came to.
#[derive(Debug, Default)]
pub(crate) struct Trimmed {
    pub(crate) count: usize,
    pub(crate) position: i64,
    pub(crate) more: bool,
    pub(crate) readers: Vec<Reader>,
}

/// A policy that reads this log.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) policy: String,
    pub(crate) epoch: String,
    pub(crate) position: i64,
    /// Whether it keeps something from being trimmed.
    pub(crate) holds: bool,
}

/// Trims what was stored before this moment and is behind everybody who reads it; or only says what would be.
pub(crate) async fn trim(
    store: &Store,
    before: SystemTime,
    forget: Vec<String>,
    only_look: bool,
) -> Result<Trimmed> {
    let ignored = if only_look { forget } else { forget_readers(store, forget).await? };
    let mut done = Trimmed::default();
    for _ in 0..STRETCHES {
        let (epoch, ignored) = (store.epoch(), ignored.clone());
        let look = move |conn: &mut Conn| survey(conn, &epoch, before, &ignored);
        let stretch = if only_look {
            store.read(look).await?.0
        } else {
            store.write(move |tx| trim_stretch(tx, look)).await?
        };
        done = Trimmed { count: done.count + stretch.count, ..stretch };
        if only_look || !done.more {
            break;
        }
    }
    Ok(done)
}

/// Nothing is kept for these any more; nobody is left to be ignored.
async fn forget_readers(store: &Store, forget: Vec<String>) -> Result<Vec<String>> {
    if !forget.is_empty() {
        let rows = mesh_reader::table.filter(mesh_reader::policy.eq_any(forget));
        store.write(move |tx| Ok(diesel::delete(rows).execute(&mut **tx)?)).await?;
    }
    Ok(Vec::new())
}

/// One transaction: nobody can come with an earlier cursor in between.
fn trim_stretch(
    tx: &mut Tx<'_>,
    look: impl FnOnce(&mut Conn) -> Result<(Trimmed, i64)>,
) -> Result<Trimmed> {
    let (mut found, end) = look(tx)?;
    if !found.more {
        return Ok(found);
    }
    let from = found.position;
    let upto = end.min(from + STRETCH);
    let trim = diesel::sql_query(TRIM).bind::<BigInt, _>(from).bind::<BigInt, _>(upto);
    found.count = match &mut **tx {
        Conn::Postgres(pg) => trim.execute(pg)?,
        Conn::Sqlite(sqlite) => trim.execute(sqlite)?,
    };
    let (key, value) = (mesh_meta::key.eq(TRIMMED), mesh_meta::value.eq(upto.to_string()));
    insert_once(mesh_meta::table, (key, &value)).execute(tx)?;
    diesel::update(mesh_meta::table.find(TRIMMED)).set(value).execute(&mut **tx)?;
    found.position = upto;
    found.more = upto < end;
    Ok(found)
}

/// What is gone, who reads the log, and up to where it may be trimmed.
fn survey(
    conn: &mut Conn,
    epoch: &str,
    before: SystemTime,
    ignored: &[String],
) -> Result<(Trimmed, i64)> {
    let position = trimmed(conn)?;
    let old = end_of_what_is_before(conn, before, position)?;
    let rows: Vec<(String, String, i64)> = mesh_reader::table
        .order(mesh_reader::policy)
        .select((mesh_reader::policy, mesh_reader::epoch, mesh_reader::position))
        .load(conn)?;
    let mut readers: Vec<Reader> = Vec::new();
    for (policy, of, at) in rows {
        if ignored.contains(&policy) {
            continue;
        }
        // Of another life of the log it may know nothing that is still true: it keeps everything until it has come again.
        let at = if of == epoch { at } else { 0 };
        let reader = Reader { policy, epoch: of, position: at, holds: at < old };
        match readers.last_mut().filter(|last| last.policy == reader.policy) {
            Some(last) if last.position <= at => {}
            Some(last) => *last = reader,
            None => readers.push(reader),
        }
    }
    readers.sort_by_key(|reader| reader.position);
    let end = readers.first().map_or(old, |last| last.position.min(old));
    Ok((Trimmed { count: 0, position, more: end > position, readers }, end))
}

/// The last position that was stored before a moment: positions are looked at as in a dictionary, since time grows with
/// them.
fn end_of_what_is_before(conn: &mut Conn, moment: SystemTime, from: i64) -> QueryResult<i64> {
    let head: Option<i64> = mesh_event::table.select(max(mesh_event::position)).first(conn)?;
    let (mut low, mut high) = (from, head.unwrap_or(from));
    while low < high {
        let middle = low + (high - low + 1) / 2;
        let (position, time): (i64, i64) = mesh_event::table
            .filter(mesh_event::position.ge(middle))
            .order(mesh_event::position)
            .select((mesh_event::position, mesh_event::time))
            .first(conn)?;
        if time < micros(moment) {
            low = position;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

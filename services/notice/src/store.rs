//! Notices as the store keeps them.

use std::time::SystemTime;

use diesel::prelude::*;
use mesh::{Conn, Error, Id, Page, Result, Series, literal, micros, on_engine, time_of, update};

use crate::domain::{Kind, Language, Medium, Message, Notice, Notices, State};

diesel::table! {
    notice (name) {
        name -> Text,
        recipient -> Text,
        order_name -> Text,
        kind -> Text,
        language_code -> Text,
        text -> Text,
        medium -> Text,
        state -> Text,
        attempts -> Integer,
        next_attempt_time -> BigInt,
        last_failure -> Text,
        create_time -> BigInt,
        sequence -> BigInt,
    }
}

diesel::table! {
    notice_sequence (one) {
        one -> Integer,
        last -> BigInt,
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = notice, treat_none_as_default_value = false)]
struct Row {
    name: String,
    recipient: String,
    order_name: String,
    kind: String,
    language_code: String,
    text: String,
    medium: String,
    state: String,
    attempts: i32,
    next_attempt_time: i64,
    last_failure: String,
    create_time: i64,
    sequence: i64,
}

impl From<&Notice> for Row {
    fn from(notice: &Notice) -> Self {
        let message = &notice.message;
        Self {
            name: notice.id.to_string(),
            recipient: message.recipient.to_string(),
            order_name: message.order.clone(),
            kind: message.kind.word().to_owned(),
            language_code: message.language.code().to_owned(),
            text: message.text.clone(),
            medium: notice.medium.word().to_owned(),
            state: notice.state.word().to_owned(),
            attempts: i32::try_from(notice.attempts).unwrap_or(i32::MAX),
            next_attempt_time: micros(notice.next_attempt),
            last_failure: notice.last_failure.clone(),
            create_time: micros(notice.created),
            sequence: notice.sequence,
        }
    }
}

impl TryFrom<Row> for Notice {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let message = Message {
            recipient: row.recipient.parse().map_err(Error::internal)?,
            order: row.order_name,
            kind: known(Kind::of(&row.kind), &row.kind)?,
            language: known(Language::of(&row.language_code), &row.language_code)?,
            text: row.text,
        };
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            message,
            medium: known(Medium::of(&row.medium), &row.medium)?,
            state: known(State::of(&row.state), &row.state)?,
            attempts: row.attempts.unsigned_abs(),
            next_attempt: time_of(row.next_attempt_time),
            last_failure: row.last_failure,
            created: time_of(row.create_time),
            sequence: row.sequence,
        })
    }
}

fn known<T>(word: Option<T>, text: &str) -> Result<T> {
    word.ok_or_else(|| Error::internal(format!("a notice with the word {text}")))
}

fn notices(rows: Vec<Row>) -> Result<Vec<Notice>> {
    rows.into_iter().map(Notice::try_from).collect()
}

// === Telling ===

/// What was told of an order before.
#[derive(Debug)]
pub(crate) enum Before {
    /// Nothing that matters.
    Nothing,
    /// The same.
    Same(Box<Notice>),
    /// Something that this must not follow.
    Other,
}

/// What was told of this order before: this, or one of those kinds that it must not follow.
pub(crate) fn before(
    conn: &mut Conn,
    order: &str,
    kind: Kind,
    unless_kinds: &[String],
) -> Result<Before> {
    let told = on_engine!(conn, |engine| notice::table
        .filter(notice::order_name.eq(order))
        .filter(notice::medium.eq(Medium::Inbox.word()))
        .select(Row::as_select())
        .load(engine))?;
    if told.iter().any(|row| unless_kinds.contains(&row.kind)) {
        return Ok(Before::Other);
    }
    match told.into_iter().find(|row| row.kind == kind.word()) {
        Some(row) => Ok(Before::Same(Box::new(row.try_into()?))),
        None => Ok(Before::Nothing),
    }
}

/// The numbers of the notices.
pub(crate) static SEQUENCE: Series = Series {
    last: |conn| {
        on_engine!(conn, |engine| notice_sequence::table
            .select(notice_sequence::last)
            .first(engine))
    },
    save: |conn, last| {
        let last = notice_sequence::last.eq(last);
        update(notice_sequence::table, notice_sequence::one.eq(1), last).execute(conn).map(drop)
    },
};

/// The number of the last notice that was told to anybody.
pub(crate) fn last_sequence(conn: &mut Conn) -> Result<i64> {
    Ok((SEQUENCE.last)(conn)?)
}

/// Stores a new one.
pub(crate) fn insert(conn: &mut Conn, new: &Notice) -> Result<()> {
    mesh::insert(notice::table, Row::from(new)).execute(conn)?;
    Ok(())
}

// === Sending ===

/// What is queued, in the words of its index.
const QUEUED: &str = "state = 'QUEUED'";

/// When the next one of this medium is due.
pub(crate) fn next_due(conn: &mut Conn, medium: Medium) -> Result<Option<SystemTime>> {
    let time: Option<i64> = on_engine!(conn, |engine| notice::table
        .filter(notice::medium.eq(medium.word()))
        .filter(literal(QUEUED))
        .order(notice::next_attempt_time)
        .select(notice::next_attempt_time)
        .first(engine)
        .optional())?;
    Ok(time.map(time_of))
}

/// Those of this medium that were due by `time`, what waits longest first.
pub(crate) fn due(
    conn: &mut Conn,
    medium: Medium,
    time: SystemTime,
    most: usize,
) -> Result<Vec<Notice>> {
    let rows = on_engine!(conn, |engine| notice::table
        .filter(notice::medium.eq(medium.word()))
        .filter(literal(QUEUED))
        .filter(notice::next_attempt_time.le(micros(time)))
        .order(notice::next_attempt_time)
        .limit(i64::try_from(most).unwrap_or(i64::MAX))
        .select(Row::as_select())
        .load(engine))?;
    notices(rows)
}

/// The one with this name.
pub(crate) fn find(conn: &mut Conn, id: Id<Notices>) -> Result<Notice> {
    let row = on_engine!(conn, |engine| {
        notice::table.find(id.to_string()).select(Row::as_select()).first(engine).optional()
    })?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// Stores what became of it. What it says and to whom never changes.
pub(crate) fn save(conn: &mut Conn, changed: &Notice) -> Result<()> {
    let row = notice::name.eq(changed.id.to_string());
    let values = (
        notice::state.eq(changed.state.word()),
        notice::attempts.eq(i32::try_from(changed.attempts).unwrap_or(i32::MAX)),
        notice::next_attempt_time.eq(micros(changed.next_attempt)),
        notice::last_failure.eq(&changed.last_failure),
    );
    update(notice::table, row, values).execute(conn)?;
    Ok(())
}

// === Reading ===

/// A page of what this customer was told over any medium, newest first.
pub(crate) fn list(
    conn: &mut Conn,
    recipient: &str,
    order: Option<&str>,
    page: &Page,
) -> Result<Vec<Notice>> {
    let (sequence, name) = page.below()?;
    let mut query = notice::table
        .filter(notice::recipient.eq(recipient))
        // The first condition is all that an index can use.
        .filter(notice::sequence.le(sequence))
        .filter(notice::sequence.lt(sequence).or(notice::name.lt(name)))
        .order((notice::sequence.desc(), notice::name.desc()))
        .limit(page.limit())
        .select(Row::as_select())
        .into_boxed();
    if let Some(order) = order {
        query = query.filter(notice::order_name.eq(order));
    }
    notices(query.load(conn)?)
}

/// The last ones in this customer's inbox, oldest first.
pub(crate) fn last(conn: &mut Conn, recipient: &str, most: i64) -> Result<Vec<Notice>> {
    let rows = on_engine!(conn, |engine| notice::table
        .filter(notice::recipient.eq(recipient))
        .filter(notice::medium.eq(Medium::Inbox.word()))
        .order(notice::sequence.desc())
        .limit(most)
        .select(Row::as_select())
        .load(engine))?;
    let mut last = notices(rows)?;
    last.reverse();
    Ok(last)
}

/// The first ones in this customer's inbox behind a number, oldest first.
pub(crate) fn behind(
    conn: &mut Conn,
    recipient: &str,
    sequence: i64,
    most: i64,
) -> Result<Vec<Notice>> {
    let rows = on_engine!(conn, |engine| notice::table
        .filter(notice::recipient.eq(recipient))
        .filter(notice::medium.eq(Medium::Inbox.word()))
        .filter(notice::sequence.gt(sequence))
        .order(notice::sequence)
        .limit(most)
        .select(Row::as_select())
        .load(engine))?;
    notices(rows)
}

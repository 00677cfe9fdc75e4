//! What the kit itself writes with a commit: the facts that were published, and the answers that are remembered.
//!
//! It is written for all the commands that share the commit, as the last thing before it. On a server that is one
//! statement for all rows of a kind: each statement is a way there and back, on which nobody else can write.

use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Integer, Text};
use proto::mesh::v1 as api;

use super::once::{Kept, Recalled, Request};
use super::schema::{mesh_event, mesh_request};
use super::{Conn, insert};
use crate::events::micros_of;

/// What a transaction will have written.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) events: Vec<Arc<api::Event>>,
    pub(super) answers: Vec<Answer>,
    /// What a server remembers of the commands that are next. New ones are not among it.
    pub(super) recalled: Vec<Recalled>,
    /// The last number that was given of each series.
    numbers: Vec<(&'static Series, i64)>,
}

/// Numbers that are given one after the other, each in the transaction of what it numbers: they are seen in their order.
///
/// The last one is read and written once a transaction, whatever number of them it takes.
#[derive(Debug)]
pub struct Series {
    /// Reads the last number that was given.
    pub last: fn(&mut Conn) -> QueryResult<i64>,
    /// Writes it down.
    pub save: fn(&mut Conn, i64) -> QueryResult<()>,
}

/// What a command came to, for who sends it again.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) request: Arc<Request>,
    pub(super) hash: Vec<u8>,
    pub(super) answer: Vec<u8>,
    pub(super) time: i64,
}

/// How much there was at some moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(usize, usize);

impl Ledger {
    /// The sequence of the last fact about a subject.
    pub(super) fn last_sequence(&self, subject: &str, partition: u32) -> Option<i64> {
        let about =
            |event: &&Arc<api::Event>| event.partition == partition && event.subject == subject;
        self.events.iter().rev().find(about).map(|event| event.sequence.cast_signed())
    }

    /// What a command came to.
    pub(super) fn answer(&self, request: &Request) -> Option<&Answer> {
        self.answers.iter().rev().find(|answer| *answer.request == *request)
    }

    /// What a server remembers of a command.
    pub(super) fn recalled(&self, request: &Request) -> Option<&Kept> {
        let is_of = |((caller, method, id), _): &&Recalled| {
            *id == request.id && *method == request.method && *caller == request.caller
        };
        self.recalled.iter().find(is_of).map(|(_, kept)| kept)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.events.len(), self.answers.len())
    }

    /// Forgets what came after.
    pub(super) fn back_to(&mut self, mark: Mark) {
        self.events.truncate(mark.0);
        self.answers.truncate(mark.1);
    }

    pub(super) fn clear(&mut self) {
        self.back_to(Mark(0, 0));
        self.numbers.clear();
    }

    /// The next number of a series. What a job has taken that is undone, nobody has seen: it may be given again.
    pub(super) fn next_of(&mut self, series: &'static Series, conn: &mut Conn) -> QueryResult<i64> {
        let known = self.numbers.iter().position(|(of, _)| std::ptr::eq(*of, series));
        let at = match known {
            Some(at) => at,
            None => {
                self.numbers.push((series, (series.last)(conn)?));
                self.numbers.len() - 1
            }
        };
        self.numbers[at].1 += 1;
        Ok(self.numbers[at].1)
    }

    pub(super) fn write(&self, conn: &mut Conn) -> QueryResult<()> {
        self.numbers.iter().try_for_each(|(series, last)| (series.save)(conn, *last))?;
        match conn {
            Conn::Postgres(pg) => {
                if !self.events.is_empty() {
                    Events::of(self.events.iter().map(|event| &**event)).execute(pg)?;
                }
                if !self.answers.is_empty() {
                    Answers::of(self.answers.iter()).execute(pg)?;
                }
                Ok(())
            }
            Conn::Sqlite(_) => {
                self.events.iter().try_for_each(|event| Events::insert(conn, event))?;
                self.answers.iter().try_for_each(|answer| Answers::insert(conn, answer))
            }
        }
    }
}

fn time_of(event: &api::Event) -> i64 {
    event.time.as_ref().map_or(0, micros_of)
}

/// Says what the rows of a kind have in their columns. They are inserted one by one, or all by one statement in which a
/// column is a parameter: its text is the same however many there are, so it is prepared once.
macro_rules! columns {
    ($name:ident of $row:ty, in $table:ident { $($column:ident: $sql:ty = $value:expr, $type:ty;)* }) => {
        struct $name<'a> { $($column: Vec<$type>,)* }

        impl<'a> $name<'a> {
            fn of(rows: impl Iterator<Item = &'a $row> + Clone) -> Self {
                Self { $($column: rows.clone().map($value).collect(),)* }
            }

            fn insert(conn: &mut Conn, row: &'a $row) -> QueryResult<()> {
                $(let $column: fn(&'a $row) -> $type = $value;)*
                insert($table::table, ($($table::$column.eq($column(row)),)*)).execute(conn).map(drop)
            }
        }

        impl QueryFragment<Pg> for $name<'_> {
            fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                let names = [$(<$table::$column as Column>::NAME,)*];
                pass.push_sql(concat!("INSERT INTO ", stringify!($table)));
                for (n, name) in names.iter().enumerate() {
                    pass.push_sql(if n == 0 { " (" } else { ", " });
                    pass.push_identifier(name)?;
                }
                let mut before = ") SELECT * FROM unnest(";
                $(
                    pass.push_sql(std::mem::replace(&mut before, ", "));
                    pass.push_bind_param::<Array<$sql>, _>(&self.$column)?;
                )*
                let _ = before;
                pass.push_sql(")");
                Ok(())
            }
        }

        impl QueryId for $name<'_> {
            type QueryId = $name<'static>;

            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl RunQueryDsl<PgConnection> for $name<'_> {}
    };
}

columns! {
    Events of api::Event, in mesh_event {
        position: BigInt = |event| event.position.cast_signed(), i64;
        event_id: Text = |event| &*event.event_id, &'a str;
        type_: Text = |event| &*event.r#type, &'a str;
        sequence: BigInt = |event| event.sequence.cast_signed(), i64;
        time: BigInt = time_of, i64;
        correlation_id: Text = |event| &*event.correlation_id, &'a str;
        causation_id: Text = |event| &*event.causation_id, &'a str;
        traceparent: Text = |event| &*event.traceparent, &'a str;
        partition: Integer = |event| event.partition.cast_signed(), i32;
        subject: Text = |event| &*event.subject, &'a str;
        data: Binary = |event| &*event.data, &'a [u8];
    }
}

columns! {
    Answers of Answer, in mesh_request {
        caller: Text = |answer| &*answer.request.caller, &'a str;
        method: Text = |answer| answer.request.method, &'a str;
        request_id: Text = |answer| &*answer.request.id, &'a str;
        hash: Binary = |answer| &*answer.hash, &'a [u8];
        answer: Binary = |answer| &*answer.answer, &'a [u8];
        time: BigInt = |answer| answer.time, i64;
    }
}

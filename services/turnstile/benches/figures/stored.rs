//! A system with many orders in its stores: those of one that is stopped, filled with copies of an order that it took.
//!
//! A copy has ids of its own wherever the original has, those of an order that was made a millisecond before the next
//! one; a hundred in a row are of one customer. For the rest it is like the original, events included, and no policy has
//! anything left to do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use crate::{Anything, Load, Server, turnstile};

/// So many copies share a commit.
const TOGETHER: u64 = 10_000;
/// How much of an id says when it was made. A copy of it differs in that alone: the rest makes it unlike the copies of
/// other ids, also of those that were made in the same moment.
const MOMENT: usize = "01a1fc0b-34d2".len();
/// Between the columns of a row.
const BETWEEN: char = '\u{1f}';

/// What an order leaves behind, beside its events.
struct Trail {
    /// The scenario that makes one.
    scenario: &'static str,
    store: &'static str,
    table: &'static str,
    /// Of the table above: what the order is for. It is there once.
    subject: &'static str,
    /// Stores, tables, and the column with the name of the order or of its payment.
    rows: &'static [(&'static str, &'static str, &'static str)],
}

const TRAILS: [Trail; 2] = [
    Trail {
        scenario: "homemovie",
        store: "homemovie.app",
        table: "movie_application",
        subject: "movie",
        rows: &[
            ("homemovie.app", "mesh_intent", "name"),
            ("homemovie.app", "movie_application", "name"),
            ("homemovie.movie", "movie_purchase", "application"),
            ("payment", "payment", "order_name"),
            ("payment-provider", "provider_charge", "key"),
            ("mypage", "my_order", "name"),
            ("mypage", "my_progress", "order_name"),
        ],
    },
    Trail {
        scenario: "outerpark",
        store: "outerpark.reservation",
        table: "reservation",
        subject: "musical",
        rows: &[
            ("outerpark.reservation", "mesh_intent", "name"),
            ("outerpark.reservation", "reservation", "name"),
            ("outerpark.musical", "seat_hold", "reservation"),
            ("payment", "payment", "order_name"),
            ("payment-provider", "provider_charge", "key"),
            ("notice", "notice", "order_name"),
            ("mypage", "my_order", "name"),
            ("mypage", "my_progress", "order_name"),
        ],
    },
];

/// What a system does that has so many orders of each kind.
pub(crate) struct Figures {
    pub(crate) ready: Duration,
    pub(crate) films_per_s: f64,
    pub(crate) seats_per_s: f64,
}

pub(crate) fn measure(orders: u64, users: u64, time: Duration) -> Anything<Figures> {
    let folder = tempfile::tempdir()?;
    let system = Server::start(&mut turnstile(folder.path()))?;
    for trail in &TRAILS {
        Load::of(&system, trail.scenario, 1, Duration::from_secs(1))?;
    }
    system.stop()?;
    for trail in &TRAILS {
        trail.copy(folder.path(), orders)?;
    }
    let system = Server::start(&mut turnstile(folder.path()))?;
    let films = Load::of(&system, TRAILS[0].scenario, users, time)?;
    let seats = Load::of(&system, TRAILS[1].scenario, users, time)?;
    Ok(Figures {
        ready: system.ready,
        films_per_s: films.rate_per_s,
        seats_per_s: seats.rate_per_s,
    })
}

impl Trail {
    /// Copies the first order so many times.
    fn copy(&self, data: &Path, copies: u64) -> Anything<()> {
        let mut store = open(data, self.store)?;
        let of_order = format!("FROM {} ORDER BY name LIMIT 1", self.table);
        let order = text(&mut store, &format!("SELECT name AS value {of_order}"))?;
        let customer = text(&mut store, &format!("SELECT customer AS value {of_order}"))?;
        let subject = text(&mut store, &format!("SELECT {} AS value {of_order}", self.subject))?;
        let payment = format!("SELECT name AS value FROM payment WHERE order_name = '{order}'");
        let payment = text(&mut open(data, "payment")?, &payment)?;

        let stores: Vec<_> = stores(data)?;
        let mut rows = Vec::new();
        for store in &stores {
            let mut conn = open(data, store)?;
            let own = self.rows.iter().filter(|(of, ..)| of == store);
            let own = own.map(|(_, table, column)| (*table, *column));
            for (table, column) in own.chain([("mesh_event", "correlation_id")]) {
                let filter = format!("{column} IN ('{order}', '{payment}')");
                rows.extend(Row::read(&mut conn, store, table, &filter)?);
            }
        }
        let mut ids: BTreeSet<_> = rows.iter().flat_map(Row::ids).collect();
        for kept in ids_in(&subject) {
            ids.remove(&kept);
        }
        let customer = ids_in(&customer).next().ok_or("a customer without an id")?;
        for store in &stores {
            let rows: Vec<_> = rows.iter().filter(|row| row.store == *store).collect();
            let mut conn = open(data, store)?;
            let head = count(&mut conn, "SELECT position AS value FROM mesh_event_head")?;
            let events = rows.iter().filter(|row| row.table == "mesh_event").count() as u64;
            for first in (1..=copies).step_by(usize::try_from(TOGETHER)?) {
                let last = copies.min(first + TOGETHER - 1);
                let mut sql = String::new();
                let mut event = 0;
                for row in &rows {
                    let place = (row.table == "mesh_event").then(|| {
                        event += 1;
                        format!("{head} + (n - 1) * {events} + {event}")
                    });
                    row.insert(&mut sql, (first, last), &ids, &customer, copies, place)?;
                }
                conn.immediate_transaction(|conn| conn.batch_execute(&sql))?;
            }
            let head = head + events * copies;
            conn.batch_execute(&format!("UPDATE mesh_event_head SET position = {head}"))?;
            for reader in &stores {
                open(data, reader)?.batch_execute(&format!(
                    "UPDATE mesh_cursor SET position = {head} WHERE source = '{store}'"
                ))?;
            }
        }
        Ok(())
    }
}

/// A row of the order that is copied.
struct Row {
    store: String,
    table: &'static str,
    columns: Vec<String>,
    /// As SQL has them.
    values: Vec<String>,
}

impl Row {
    fn read(
        conn: &mut SqliteConnection,
        store: &str,
        table: &'static str,
        filter: &str,
    ) -> Anything<Vec<Self>> {
        let columns =
            texts(conn, &format!("SELECT name AS value FROM pragma_table_info('{table}')"))?;
        let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
        let quoted = quoted.join(&format!(" || '{BETWEEN}' || "));
        let rows = texts(conn, &format!("SELECT {quoted} AS value FROM {table} WHERE {filter}"))?;
        let row = |row: String| Self {
            store: store.to_owned(),
            table,
            columns: columns.clone(),
            values: row.split(BETWEEN).map(ToOwned::to_owned).collect(),
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// The ids that it mentions.
    fn ids(&self) -> impl Iterator<Item = String> {
        self.values.iter().flat_map(|value| ids_in(value))
    }

    /// Writes the statement that inserts the copies `first` to `last` of `copies`.
    fn insert(
        &self,
        sql: &mut String,
        (first, last): (u64, u64),
        ids: &BTreeSet<String>,
        customer: &str,
        copies: u64,
        place: Option<String>,
    ) -> Anything<()> {
        let mut values = self.values.clone();
        for id in ids {
            let (moment, rest) = id.split_at(MOMENT);
            let millis = i64::from_str_radix(&moment.replace('-', ""), 16)?;
            let at = if id == customer { "n / 100" } else { "n" };
            let at = format!("({} + {at})", millis - i64::try_from(copies)? - 1);
            let moment = format!("printf('%08x-%04x', {at} >> 16, {at} & 65535)");
            for value in &mut values {
                *value = match value.starts_with("X'") {
                    true => value.replace(&hex(id), &format!("' || {moment} || X'{}", hex(rest))),
                    false => value.replace(id, &format!("' || {moment} || '{rest}")),
                };
            }
        }
        for value in &mut values {
            if value.starts_with("X'") {
                *value = format!("CAST({value} AS BLOB)");
            }
        }
        if let Some(place) = place {
            let column = |name: &str| self.columns.iter().position(|column| column == name);
            let position = column("position").ok_or("an event without a position")?;
            values[position] = place;
            // The facts about what the order is for go on; those about the order begin.
            let subject = column("subject").ok_or("an event without a subject")?;
            let sequence = column("sequence").ok_or("an event without a sequence")?;
            if !values[subject].contains("printf") {
                let facts = format!("FROM mesh_event WHERE subject = {}", values[subject]);
                values[sequence] = format!("(SELECT max(sequence) {facts}) + n - {first} + 1");
            }
        }
        let (columns, values) = (self.columns.join(", "), values.join(", "));
        writeln!(
            sql,
            "WITH RECURSIVE copy (n) AS (VALUES ({first}) UNION ALL SELECT n + 1 FROM copy WHERE n < {last})
             INSERT INTO {} ({columns}) SELECT {values} FROM copy;",
            self.table
        )?;
        Ok(())
    }
}

/// The ids that a text mentions.
fn ids_in(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|letter: char| !letter.is_ascii_hexdigit() && letter != '-');
    words.filter(|word| word.len() == 36 && word.split('-').count() == 5).map(ToOwned::to_owned)
}

/// A text as SQL has bytes.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

fn stores(data: &Path) -> Anything<Vec<String>> {
    let mut stores = Vec::new();
    for entry in std::fs::read_dir(data)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        stores.extend(name.strip_suffix(".sqlite").map(ToOwned::to_owned));
    }
    Ok(stores)
}

fn open(data: &Path, store: &str) -> Anything<SqliteConnection> {
    let file = data.join(format!("{store}.sqlite"));
    let mut conn = SqliteConnection::establish(&file.to_string_lossy())?;
    conn.batch_execute("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -64000")?;
    Ok(conn)
}

#[derive(QueryableByName)]
struct Said {
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

fn texts(conn: &mut SqliteConnection, query: &str) -> Anything<Vec<String>> {
    let rows: Vec<Said> = diesel::sql_query(query).load(conn)?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

fn text(conn: &mut SqliteConnection, query: &str) -> Anything<String> {
    Ok(texts(conn, query)?.pop().ok_or_else(|| format!("nothing: {query}"))?)
}

fn count(conn: &mut SqliteConnection, query: &str) -> Anything<u64> {
    let row: Counted = diesel::sql_query(query).get_result(conn)?;
    Ok(row.value.unsigned_abs())
}

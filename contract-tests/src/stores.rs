//! Looking into a context's store from outside: for what no RPC shows.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use mesh::{Conn, StoreAt};

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// How many rows of a table of a store meet a condition.
pub fn count(store: &StoreAt, table: &str, condition: &str) -> i64 {
    let mut conn = store.connect().expect("a store");
    let query = format!("SELECT count(*) AS count FROM {table} WHERE {condition}");
    diesel::sql_query(query).get_result::<Count>(&mut conn).expect("a count").count
}

/// How many events of a type a context has told.
pub fn events(store: &StoreAt, kind: &str) -> i64 {
    count(store, "mesh_event", &format!("type LIKE '%.{kind}'"))
}

/// Changes a store from outside, while its context is stopped: what no RPC does.
pub fn execute(store: &StoreAt, statement: &str) {
    let mut conn = store.connect().expect("a store");
    diesel::sql_query(statement).execute(&mut conn).expect("a statement");
}

/// The letter that each store has in a query.
pub const STORES: [(&str, &str); 9] = [
    ("i", "identity"),
    ("a", "homemovie.app"),
    ("f", "homemovie.movie"),
    ("m", "outerpark.musical"),
    ("r", "outerpark.reservation"),
    ("p", "payment"),
    ("c", "payment-provider"),
    ("n", "notice"),
    ("y", "mypage"),
];

/// What a query finds.
#[derive(Debug, QueryableByName)]
pub struct Row {
    /// What it is about.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// How much of it there is.
    #[diesel(sql_type = BigInt)]
    pub number: i64,
}

#[derive(QueryableByName)]
struct Integrity {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// All stores of a system behind one connection that cannot write, whether it runs or not.
#[expect(missing_debug_implementations, reason = "the connection has none")]
pub struct Stores {
    conn: RefCell<Conn>,
    /// Those that are there.
    stores: Vec<(&'static str, &'static str)>,
}

impl Stores {
    /// The stores that are files in this folder.
    pub fn open(data: &Path) -> Self {
        let mut conn = SqliteConnection::establish(":memory:").expect("SQLite");
        // Before the first store: one that has just been killed is locked while its next process recovers it.
        conn.batch_execute("PRAGMA busy_timeout = 5000").expect("SQLite");
        let file = |store| data.join(format!("{store}.sqlite"));
        let stores: Vec<_> =
            STORES.into_iter().filter(|(_, store)| file(*store).is_file()).collect();
        for (letter, store) in &stores {
            let attach = format!("ATTACH '{}' AS {letter}", file(*store).display());
            conn.batch_execute(&attach).expect("a store");
        }
        conn.batch_execute("PRAGMA query_only = ON").expect("SQLite");
        Self { conn: RefCell::new(Conn::Sqlite(conn)), stores }
    }

    /// The stores that are in this database, where each letter is a schema of views ([`views`]).
    pub fn open_database(url: &str) -> Self {
        let mut conn = PgConnection::establish(url).expect("a database");
        conn.batch_execute("SET default_transaction_read_only = on").expect("a session");
        Self { conn: RefCell::new(Conn::Postgres(conn)), stores: STORES.to_vec() }
    }

    /// The rows of a query for `name` and `number`.
    pub fn rows(&self, query: &str) -> Vec<Row> {
        let query =
            format!("SELECT name, CAST(number AS BIGINT) AS number FROM ({query}) AS found");
        diesel::sql_query(&query).load(&mut *self.conn.borrow_mut()).expect(&query)
    }

    /// The one number that an expression comes to.
    pub fn number(&self, expression: &str) -> i64 {
        self.rows(&format!("SELECT '' AS name, ({expression}) AS number"))[0].number
    }

    /// Different names.
    pub fn names(&self, query: &str) -> BTreeSet<String> {
        self.amounts(&format!("SELECT name, 0 AS number FROM ({query}) AS named"))
            .into_keys()
            .collect()
    }

    /// Numbers by name.
    pub fn amounts(&self, query: &str) -> BTreeMap<String, i64> {
        self.rows(query).into_iter().map(|row| (row.name, row.number)).collect()
    }

    /// The end of each log.
    pub fn heads(&self) -> BTreeMap<String, i64> {
        self.amounts(&self.every_head())
    }

    fn every_head(&self) -> String {
        let head = |(letter, store): &(&str, &str)| {
            format!("SELECT '{store}' AS name, position AS number FROM {letter}.mesh_event_head")
        };
        self.stores.iter().map(head).collect::<Vec<_>>().join(" UNION ALL ")
    }

    /// Whether the policies of the store with this letter have read every log to its end.
    pub fn has_read_all(&self, letter: &str) -> bool {
        let heads = self.every_head();
        self.number(&format!(
            "SELECT count(*) FROM {letter}.mesh_cursor AS cursor JOIN ({heads}) AS head \
             ON head.name = cursor.source WHERE cursor.position < head.number"
        )) == 0
    }

    /// Whether every policy has read every log to its end, and none was added to meanwhile: what events bring about, with
    /// the events that follow from it, has come about.
    pub fn all_is_read(&self) -> bool {
        let before = self.heads();
        self.stores.iter().all(|(letter, _)| self.has_read_all(letter)) && self.heads() == before
    }

    /// What was begun in either system and has not come to its end; nothing of it is left when all is well.
    pub fn still_open(&self) -> Vec<String> {
        let open = OPEN.map(str::to_owned).into_iter();
        let shown = ["a.movie_application", "r.reservation"].map(|orders| {
            format!(
                "y.my_order v JOIN {orders} o ON o.name = v.name \
                 WHERE v.generation = (SELECT current FROM y.mesh_view) AND (NOT v.visible OR v.state <> o.state)"
            )
        });
        let left = |open: &String| self.number(&format!("SELECT count(*) FROM {open}")) > 0;
        let mut open: Vec<_> = open.chain(shown).filter(left).collect();
        if !self.all_is_read() {
            open.push("what a policy has still to read".to_owned());
        }
        open
    }

    /// Every row of my page that is read now, to be compared with the same made anew (I-14).
    pub fn my_page(&self) -> BTreeSet<String> {
        let mut rows = self.names(
            "SELECT name || state || payment_state || customer || title || quantity || amount || currency \
             || create_time || update_time || visible AS name FROM y.my_order \
             WHERE generation = (SELECT current FROM y.mesh_view)",
        );
        rows.extend(self.names(
            "SELECT order_name || event_id || event || source || subject || sequence || time AS name \
             FROM y.my_progress WHERE generation = (SELECT current FROM y.mesh_view)",
        ));
        rows
    }

    /// What SQLite finds wrong with each file (I-17).
    pub fn faults(&self) -> BTreeMap<&'static str, String> {
        if matches!(*self.conn.borrow(), Conn::Postgres(_)) {
            return BTreeMap::new();
        }
        let found = self.stores.iter().map(|(letter, store)| {
            let check = diesel::sql_query(format!("PRAGMA {letter}.integrity_check"));
            let found: Vec<Integrity> = check.load(&mut *self.conn.borrow_mut()).expect("a check");
            (*store, found.into_iter().map(|row| row.integrity_check).collect::<String>())
        });
        found.filter(|(_, found)| found != "ok").collect()
    }
}

/// Orders, payments, seats and words that are between two states.
const OPEN: [&str; 10] = [
    "a.mesh_intent WHERE state IN ('PENDING', 'VOIDING')",
    "r.mesh_intent WHERE state IN ('PENDING', 'VOIDING')",
    "a.movie_application WHERE state IN ('MOVIE_PICKED', 'MOVIE_APP_CANCELLED')",
    "r.reservation WHERE state = 'SEATS_RESERVED'",
    "p.payment WHERE state IN ('PENDING', 'REFUNDING')",
    "p.payment_refund_due",
    // What is cancelled is paid back, by policies that have read so far.
    "p.payment JOIN a.movie_application o ON o.name = order_name \
     WHERE o.state = 'MOVIE_CANCELLED' AND p.payment.state = 'APPROVED'",
    "p.payment JOIN r.reservation o ON o.name = order_name \
     WHERE o.state IN ('CANCELLED', 'EXPIRED') AND p.payment.state = 'APPROVED'",
    "m.seat_hold h JOIN r.reservation o ON o.name = h.reservation \
     WHERE o.state <> 'PAYMENT_APPROVED' AND NOT h.returned",
    "n.notice WHERE state = 'QUEUED'",
];

/// The statements that let queries find in a database what they find in files.
pub fn views() -> String {
    let views = STORES.map(|(letter, store)| {
        let schema = store.replace(['.', '-'], "_");
        format!(
            "CREATE SCHEMA {letter};
             DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{schema}' AND tablename <> 'mesh_cursor' LOOP
             EXECUTE format('CREATE VIEW {letter}.%I AS SELECT * FROM {schema}.%I', name, name);
             END LOOP; END $$;
             CREATE VIEW {letter}.mesh_cursor AS SELECT policy, source, partition, max(position) AS position
             FROM {schema}.mesh_cursor GROUP BY policy, source, partition;
             CREATE VIEW {letter}.mesh_event_head AS SELECT coalesce(max(position), 0) AS position
             FROM {schema}.mesh_event;"
        )
    });
    views.concat()
}

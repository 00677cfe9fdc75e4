//! All stores of a system at once, to look at while it runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

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
#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = BigInt)]
    pub number: i64,
}

#[derive(QueryableByName)]
struct Integrity {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// The stores, behind one connection that cannot write.
pub struct Stores(RefCell<SqliteConnection>);

impl Stores {
    pub fn open(data: &Path) -> Self {
        let mut conn = SqliteConnection::establish(":memory:").expect("SQLite");
        for (letter, store) in STORES {
            let file = data.join(format!("{store}.sqlite"));
            conn.batch_execute(&format!("ATTACH '{}' AS {letter}", file.display()))
                .expect("a store");
        }
        conn.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON").expect("SQLite");
        Self(RefCell::new(conn))
    }

    /// The rows of a query for `name` and `number`.
    pub fn rows(&self, query: &str) -> Vec<Row> {
        diesel::sql_query(query).load(&mut *self.0.borrow_mut()).expect(query)
    }

    /// The one number that an expression comes to.
    pub fn number(&self, expression: &str) -> i64 {
        self.rows(&format!("SELECT '' AS name, ({expression}) AS number"))[0].number
    }

    /// What SQLite finds wrong with each store.
    pub fn faults(&self) -> BTreeMap<&'static str, String> {
        let found = STORES.map(|(letter, store)| {
            let check = diesel::sql_query(format!("PRAGMA {letter}.integrity_check"));
            let found: Vec<Integrity> = check.load(&mut *self.0.borrow_mut()).expect("a check");
            (store, found.into_iter().map(|row| row.integrity_check).collect::<String>())
        });
        found.into_iter().filter(|(_, found)| found != "ok").collect()
    }

    /// Different names.
    pub fn names(&self, query: &str) -> BTreeSet<String> {
        self.amounts(&format!("SELECT name, 0 AS number FROM ({query})")).into_keys().collect()
    }

    /// Numbers by name.
    pub fn amounts(&self, query: &str) -> BTreeMap<String, i64> {
        self.rows(query).into_iter().map(|row| (row.name, row.number)).collect()
    }
}

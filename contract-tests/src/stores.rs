//! Looking into a context's store from outside: for what no RPC shows.

use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::BigInt;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// How many rows of a table of a SQLite store meet a condition.
pub fn count(file: &Path, table: &str, condition: &str) -> i64 {
    let mut conn = SqliteConnection::establish(&file.to_string_lossy()).expect("a store");
    let query = format!("SELECT count(*) AS count FROM {table} WHERE {condition}");
    diesel::sql_query(query).get_result::<Count>(&mut conn).expect("a count").count
}

/// How many events of a type a context has told.
pub fn events(file: &Path, kind: &str) -> i64 {
    count(file, "mesh_event", &format!("type LIKE '%.{kind}'"))
}

/// Changes a store from outside, while its context is stopped: what no RPC does.
pub fn execute(file: &Path, statement: &str) {
    let mut conn = SqliteConnection::establish(&file.to_string_lossy()).expect("a store");
    diesel::sql_query(statement).execute(&mut conn).expect("a statement");
}

//! Where the stores of a system are: files, or a database of the test.

use std::path::Path;

use contract_tests::stores::{Stores, views};
use test_postgres::{Database, Server};

use super::{run, turnstile};

/// Where the address of the database is, beside the other data, where the stores are in one.
const DATABASE: &str = "database-of-the-test";

/// The setting that says so.
pub fn setting_of(data: &Path) -> Option<(&'static str, String)> {
    Some(("TURNSTILE_STORE", std::fs::read_to_string(data.join(DATABASE)).ok()?))
}

/// A server, and on it a database for the stores of a system with this data; none where there are no programs for it.
pub async fn on_postgres(data: &Path) -> Option<(Server, Database)> {
    let server = match Server::start() {
        Ok(server) => server,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let database = Database::new(&server.url()).expect("a database");
    std::fs::write(data.join(DATABASE), database.url()).expect("a file");
    let migrated = run(turnstile().arg("migrate").envs(setting_of(data))).await;
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    database.query(&views()).expect("views");
    Some((server, database))
}

/// The stores of a system with this data, to look at while it runs.
pub fn open(data: &Path) -> Stores {
    match setting_of(data) {
        Some((_, url)) => Stores::open_database(&url),
        None => Stores::open(data),
    }
}

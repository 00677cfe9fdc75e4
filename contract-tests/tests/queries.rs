//! No query that runs for a command or now and then may read a whole table: it would cost more with every order.
//!
//! Everything is done once in a world of every context, and the engine is asked how it does what it was asked to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use contract_tests::world::{World, may_call, methods, path_of, rule};
use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};
use diesel::prelude::*;
use diesel::sql_types::Text;
use mesh_testing::eventually;

/// Every statement that was run, without its values.
static STATEMENTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What is read from end to end and stays small: tables with one row or a row a film, what is under way or in trouble,
/// and what is asked when a store is opened.
const SMALL: [&str; 14] = [
    "CONSTANT ROW",
    "__diesel_schema_migrations USING COVERING INDEX",
    "mesh_event_head",
    "mesh_intent USING INDEX mesh_intent_open",
    "mesh_meta",
    "mesh_parked",
    "mesh_reader",
    "mesh_view",
    "movie",
    "my_change",
    "notice_sequence",
    "payment_refund_due USING INDEX payment_refund_due_time",
    "pragma_journal_mode VIRTUAL TABLE",
    "pragma_synchronous VIRTUAL TABLE",
];

/// What may take as long as there are rows, or ends with the first one.
const MAY_SCAN: [&str; 3] = [
    // Once, by a migration: notices that were told over several media.
    "-- Whatever is told over several media has one number",
    // Once an hour, by a reader: orders that ended a week ago.
    "SELECT `mesh_intent`.`name` FROM `mesh_intent` WHERE ((`mesh_intent`.`time` < ?) AND",
    // Whether there is any.
    "SELECT `account`.`name` FROM `account` LIMIT ?",
];

fn statements() -> Vec<String> {
    STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

fn listen() -> Option<Box<dyn Instrumentation>> {
    Some(Box::new(|event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let query = query.to_string();
            let statement = query.split(" -- binds: ").next().unwrap_or_default().to_owned();
            STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).insert(statement);
        }
    }))
}

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// How a store would carry out a statement, whatever its values; none if it does not have the tables.
fn plan(store: &Path, statement: &str) -> Option<Vec<String>> {
    let mut conn = SqliteConnection::establish(&store.to_string_lossy()).expect("a store");
    let steps = diesel::sql_query(format!("EXPLAIN QUERY PLAN {statement}"));
    let steps: Vec<Step> = steps.load(&mut conn).ok()?;
    Some(steps.into_iter().map(|step| step.detail).collect())
}

/// Where a plan reads a whole table that grows.
fn scans(plan: &[String]) -> impl Iterator<Item = &String> {
    let is_small = |what: &str| {
        let mut small = SMALL.iter();
        small.any(|small| what == *small || what.starts_with(&format!("{small} ")))
    };
    plan.iter().filter(move |step| step.strip_prefix("SCAN ").is_some_and(|what| !is_small(what)))
}

/// The store of each context, and of what a context has apart.
fn stores(world: &World) -> Vec<PathBuf> {
    let files = std::fs::read_dir(world.mesh.folder()).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    files.filter(|file| file.extension().is_some_and(|kind| kind == "sqlite")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_files_no_query_reads_a_whole_table_that_grows() {
    set_default_instrumentation(listen).expect("nobody else listens");
    let world = World::start().await;
    for method in methods() {
        let path = path_of(&method);
        let request = world.valid(&path).expect("a request for every method");
        // What comes of it is another test's concern.
        let _ = world.call(&may_call(&rule(&path)), &path, request).await;
    }
    for looked_for in ["state IN ('PENDING', 'VOIDING')", "`hold_expires` <=", "`due_time` <="] {
        eventually(&format!("something was looked for by {looked_for}"), || async {
            statements().iter().any(|statement| statement.contains(looked_for)).then_some(())
        })
        .await;
    }
    let (stores, mut plans, mut wrong) = (stores(&world), 0, Vec::new());
    let may_scan = |statement: &String| MAY_SCAN.iter().any(|may| statement.starts_with(may));
    for statement in statements().into_iter().filter(|statement| !may_scan(statement)) {
        for plan in stores.iter().filter_map(|store| plan(store, &statement)) {
            plans += 1;
            wrong.extend(scans(&plan).map(|step| format!("{step}: {statement}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(plans > 100, "of all that is done only {plans} plans were seen");
}

#[test]
fn a_query_without_an_index_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.sqlite");
    let mut conn = SqliteConnection::establish(&file.to_string_lossy()).expect("a store");
    let table = "CREATE TABLE payment (name TEXT PRIMARY KEY, customer TEXT)";
    diesel::sql_query(table).execute(&mut conn).expect("a table");
    let found = |statement| scans(&plan(&file, statement).expect("a plan")).count();
    assert_eq!(found("SELECT * FROM payment WHERE customer = ?"), 1);
    assert_eq!(found("UPDATE payment SET customer = ? WHERE customer = ?"), 1);
    assert_eq!(found("SELECT * FROM payment WHERE name = ?"), 0);
}

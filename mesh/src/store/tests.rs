use std::time::Duration;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel_migrations::embed_migrations;
use futures::future::join_all;
use mesh_testing::request_id;
use prost::Message as _;
use proto::identity::v1::{AccountCreated, GrantRoleRequest, GrantRoleResponse};
use proto::payment::v1::PaymentApproved;
use tempfile::TempDir;
use tokio::time::Instant;

use diesel::dsl::max;

use super::schema::{mesh_event, mesh_event_head};
use super::*;
use crate::caller::Caller;
use crate::check::Check;
use crate::scope::Scope;

const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("tests/migrations/sqlite"),
    postgres: embed_migrations!("tests/migrations/postgres"),
};
const OTHER_MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("tests/other_migrations/sqlite"),
    postgres: embed_migrations!("tests/other_migrations/postgres"),
};

diesel::table! {
    handled (id) {
        id -> Integer,
        policy -> Text,
        subject -> Text,
        sequence -> BigInt,
        generation -> Integer,
    }
}

fn try_open(context: &str, folder: &Path) -> Result<Store, OpenError> {
    Store::open(context, &StoreAt::File(folder.join("identity.sqlite")), MIGRATIONS)
}

pub(super) fn open() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = try_open("identity", folder.path()).unwrap();
    (folder, store)
}

pub(super) async fn reopen(folder: &TempDir, store: Store) -> Store {
    store.close().await;
    try_open("identity", folder.path()).unwrap()
}

/// A row and an event about `subject`.
fn happen(tx: &mut Tx<'_>, subject: &str) -> Result<i64> {
    let row = (
        handled::policy.eq(""),
        handled::subject.eq(subject),
        handled::sequence.eq(0),
        handled::generation.eq(0),
    );
    diesel::insert_into(handled::table).values(row).execute(&mut **tx)?;
    tx.publish(subject, subject, &AccountCreated { account: subject.to_owned() })
}

/// The subjects of the rows, and (position, subject, sequence) of the events.
async fn contents(store: &Store) -> (Vec<String>, Vec<(i64, String, i64)>) {
    store
        .read(|conn| {
            let rows = handled::table.order(handled::id).select(handled::subject).load(conn)?;
            let events = mesh_event::table
                .order(mesh_event::position)
                .select((mesh_event::position, mesh_event::subject, mesh_event::sequence))
                .load(conn)?;
            Ok((rows, events))
        })
        .await
        .unwrap()
}

fn commits(store: &Store) -> u64 {
    *store.commits().borrow()
}

#[tokio::test]
async fn g2_events_and_state_are_one_transaction() {
    let (_folder, store) = open();
    let hold = store.hold().await.unwrap();
    let before = commits(&store);
    let write = |subject: &'static str, end: fn() -> Result<()>| {
        store.write(move |tx| {
            happen(tx, subject)?;
            end()
        })
    };
    let writes = [
        write("accounts/first", || Ok(())),
        write("accounts/failed", || Err(Error::NotFound("it".to_owned()))),
        write("accounts/panicked", || panic!("as planned")),
        write("accounts/last", || Ok(())),
    ];
    let (outcomes, ()) = tokio::join!(join_all(writes), async { drop(hold) });
    assert!(outcomes[0].is_ok() && outcomes[3].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(Error::NotFound(_))), "{outcomes:?}");
    assert!(matches!(&outcomes[2], Err(error @ Error::Internal(_))
        if std::error::Error::source(error).unwrap().to_string().contains("as planned")));
    assert!(commits(&store) <= before + 2, "one for what held the writer up, one for all four");
    let (rows, events) = contents(&store).await;
    assert_eq!(rows, ["accounts/first", "accounts/last"]);
    assert_eq!(events, [(1, "accounts/first".to_owned(), 1), (2, "accounts/last".to_owned(), 1)]);
}

#[tokio::test]
async fn g2_a_panic_in_a_nested_transaction_rolls_back_its_own_work_alone() {
    let (folder, store) = open();
    let hold = store.hold().await.unwrap();
    let first = store.write(|tx| happen(tx, "accounts/first"));
    let panics = store.write(|tx| {
        happen(tx, "accounts/panicked")?;
        tx.transaction(|conn| {
            conn.batch_execute("DELETE FROM handled")?;
            conn.transaction(|_| -> QueryResult<()> { panic!("as planned") })
        })?;
        Ok(())
    });
    let last = store.write(|tx| happen(tx, "accounts/last"));
    let (first, panicked, last, ()) = tokio::join!(first, panics, last, async { drop(hold) });
    assert!(first.is_ok() && panicked.is_err() && last.is_ok(), "{first:?} {panicked:?} {last:?}");
    store.crash().await;
    let store = try_open("identity", folder.path()).unwrap();
    let (rows, events) = contents(&store).await;
    assert_eq!(rows, ["accounts/first", "accounts/last"]);
    assert_eq!(events, [(1, "accounts/first".to_owned(), 1), (2, "accounts/last".to_owned(), 1)]);
}

#[tokio::test]
async fn g2_wherever_in_a_commit_work_fails_it_takes_nothing_else_with_it() {
    for failing in 0..3 {
        let (_folder, store) = open();
        let hold = store.hold().await.unwrap();
        let writes = (0..3).map(|number| {
            store.write(move |tx| {
                happen(tx, &format!("accounts/{number}"))?;
                if number == failing { Err(Error::NotFound("it".to_owned())) } else { Ok(()) }
            })
        });
        let (outcomes, ()) = tokio::join!(join_all(writes), async { drop(hold) });
        let kept: Vec<i64> = (0..3).filter(|number| *number != failing).collect();
        for (number, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.is_ok(), kept.contains(&(number as i64)), "{failing}: {outcomes:?}");
        }
        let (rows, events) = contents(&store).await;
        let names: Vec<_> = kept.iter().map(|number| format!("accounts/{number}")).collect();
        assert_eq!(rows, names);
        assert_eq!(events, [(1, names[0].clone(), 1), (2, names[1].clone(), 1)]);
    }
}

#[tokio::test]
async fn the_first_work_of_a_commit_fails_and_what_comes_with_it_is_kept() {
    let (_folder, store) = open();
    let (begun, reached) = tokio::sync::oneshot::channel();
    let (release, held) = mpsc::channel::<()>();
    let (begun, held) = (Arc::new(Mutex::new(Some(begun))), Arc::new(Mutex::new(held)));
    let first = store.write(move |tx| -> Result<()> {
        happen(tx, "accounts/failed")?;
        let _ = begun.lock().unwrap().take().unwrap().send(());
        let _ = held.lock().unwrap().recv();
        Err(Error::NotFound("it".to_owned()))
    });
    let second = async {
        reached.await.unwrap();
        let write = store.write(|tx| happen(tx, "accounts/kept"));
        drop(release);
        write.await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first, Err(Error::NotFound(_))), "{first:?}");
    assert_eq!(second.unwrap(), 1);
    let (rows, events) = contents(&store).await;
    assert_eq!(rows, ["accounts/kept"]);
    assert_eq!(events, [(1, "accounts/kept".to_owned(), 1)]);
}

#[tokio::test]
async fn what_shares_a_commit_with_a_failure_is_done_again_and_soon_after_it_is_not() {
    let (_folder, store) = open();
    // How often work was begun that comes together: some of it fails.
    let begin = async |failing: &[usize]| {
        let begun: Arc<[AtomicUsize]> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        let hold = store.hold().await.unwrap();
        let writes = (0..begun.len()).map(|number| {
            let (begun, fails) = (begun.clone(), failing.contains(&number));
            store.write(move |tx| {
                begun[number].fetch_add(1, Ordering::Relaxed);
                happen(tx, &format!("accounts/{number}"))?;
                if fails { Err(Error::NotFound("it".to_owned())) } else { Ok(()) }
            })
        });
        let (outcomes, ()) = tokio::join!(join_all(writes), async { drop(hold) });
        for (number, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.is_err(), failing.contains(&number), "{outcomes:?}");
        }
        begun.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>()
    };
    assert_eq!(begin(&[]).await, [1, 1, 1, 1]);
    assert_eq!(begin(&[2, 3]).await, [2, 2, 1, 1], "only once for all that fails");
    assert_eq!(begin(&[3]).await, [1, 1, 1, 1], "each has a savepoint now");
    for number in 0..writer::WARY {
        store.write(move |tx| happen(tx, &format!("accounts/{number}"))).await.unwrap();
    }
    assert_eq!(begin(&[1]).await, [2, 1, 1, 1], "and by now none");
}

/// Numbers in the place of the end of the log.
static NUMBERS: Series = Series {
    last: |conn| {
        on_engine!(conn, |engine| handled::table.select(max(handled::sequence)).first(engine))
            .map(Option::unwrap_or_default)
    },
    save: |conn, last| {
        let row = (
            handled::policy.eq("numbers"),
            handled::subject.eq(""),
            handled::sequence.eq(last),
            handled::generation.eq(0),
        );
        insert(handled::table, row).execute(conn).map(drop)
    },
};

#[tokio::test]
async fn numbers_of_a_series_follow_each_other_and_are_written_down_once_a_commit() {
    let (folder, store) = open();
    let hold = store.hold().await.unwrap();
    let take = |keep: bool| {
        store.write(move |tx| {
            let numbers = (tx.next_of(&NUMBERS)?, tx.next_of(&NUMBERS)?);
            if keep { Ok(numbers) } else { Err(Error::NotFound("it".to_owned())) }
        })
    };
    let together = join_all([take(true), take(false), take(true)]);
    let (taken, ()) = tokio::join!(together, async { drop(hold) });
    assert_eq!(*taken[0].as_ref().unwrap(), (1, 2));
    assert_eq!(*taken[2].as_ref().unwrap(), (3, 4), "nobody has seen what was undone");
    let count = async |store: &Store| {
        let count = |conn: &mut Conn| Ok(handled::table.count().get_result::<i64>(conn)?);
        store.read(count).await.unwrap()
    };
    assert_eq!(count(&store).await, 1);
    assert_eq!(take(true).await.unwrap(), (5, 6));
    let store = reopen(&folder, store).await;
    let next = store.write(|tx| Ok(tx.next_of(&NUMBERS)?)).await;
    assert_eq!(next.unwrap(), 7);
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn what_nobody_waits_for_is_committed_together_and_holds_nobody_up() {
    let (_folder, store) = open();
    let forever = Duration::from_secs(3600);
    // The first commit is long ago: it was when the store was opened.
    let patient =
        |subject: &'static str| store.write_within(forever, move |tx| happen(tx, subject));
    let (one, two) = (patient("accounts/one"), patient("accounts/two"));
    tokio::pin!(one, two);
    assert!(futures::poll!(&mut one).is_pending());
    assert!(futures::poll!(&mut two).is_pending());
    let before = commits(&store);
    store.write(|tx| happen(tx, "accounts/hurried")).await.unwrap();
    one.await.unwrap();
    two.await.unwrap();
    assert_eq!(commits(&store), before + 1, "with the first that somebody waits for");
    let (rows, _) = contents(&store).await;
    assert_eq!(rows, ["accounts/one", "accounts/two", "accounts/hurried"]);
}

#[tokio::test]
async fn a_row_is_looked_up_also_where_no_connection_is_free() {
    let (_folder, store) = open();
    store.write(|tx| happen(tx, "accounts/1")).await.unwrap();
    let rows = |conn: &mut Conn| Ok(handled::table.count().get_result::<i64>(conn)?);
    assert_eq!(store.look_up(rows).await.unwrap(), 1);
    let all = store.inner.gate.clone().acquire_many_owned(READERS).await.unwrap();
    let waiting = store.look_up(rows);
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(all);
    assert_eq!(waiting.await.unwrap(), 1);
    let late = Scope { deadline: Some(Instant::now()), ..Scope::default() };
    let outcome = late.around(store.look_up(rows)).await;
    assert!(matches!(outcome, Err(Error::DeadlineExceeded)), "{outcome:?}");
}

#[tokio::test]
async fn g2_what_comes_together_shares_commits() {
    let (_folder, store) = open();
    let writes =
        (0..500).map(|n| store.write(move |tx| happen(tx, &format!("accounts/{}", n % 7))));
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    assert!(commits(&store) <= 100, "{} commits for 500 writes", commits(&store));
    let (rows, events) = contents(&store).await;
    assert_eq!(rows.len(), 500);
    let positions: Vec<_> = events.iter().map(|(position, ..)| *position).collect();
    assert_eq!(positions, (1..=500).collect::<Vec<_>>(), "without a gap");
    for n in 0..7 {
        let subject = format!("accounts/{n}");
        let sequences: Vec<_> =
            events.iter().filter(|event| event.1 == subject).map(|event| event.2).collect();
        assert_eq!(sequences, (1..=sequences.len() as i64).collect::<Vec<_>>(), "{subject}");
    }
    assert_eq!(*store.head().borrow(), 500);
}

#[tokio::test]
async fn a_write_whose_deadline_has_passed_is_not_done() {
    let (_folder, store) = open();
    let within =
        |time: Duration| Scope { deadline: Some(Instant::now() + time), ..Scope::default() };
    let hold = store.hold().await.unwrap();
    let expires = Duration::from_millis(20);
    let waits = within(expires).around(store.write(|tx| happen(tx, "accounts/waits")));
    let release = async {
        tokio::time::sleep_until(Instant::now() + expires).await;
        drop(hold);
    };
    let (waited, ()) = tokio::join!(waits, release);
    assert!(matches!(waited, Err(Error::DeadlineExceeded)), "it expired in the queue: {waited:?}");
    let slow = store.write(move |tx| {
        happen(tx, "accounts/slow")?;
        let begun = std::time::Instant::now();
        while begun.elapsed() < expires {
            std::thread::yield_now();
        }
        Ok(())
    });
    let slow = within(expires).around(slow).await;
    assert!(matches!(slow, Err(Error::DeadlineExceeded)), "it expired while it ran: {slow:?}");
    let read = within(Duration::ZERO).around(store.read(|_| Ok(()))).await;
    assert!(matches!(read, Err(Error::DeadlineExceeded)), "{read:?}");

    store.write(|tx| happen(tx, "accounts/1")).await.unwrap();
    let (rows, events) = contents(&store).await;
    assert_eq!(rows, ["accounts/1"]);
    assert_eq!(events, [(1, "accounts/1".to_owned(), 1)], "positions have no gap");
}

#[tokio::test]
async fn f14_without_a_free_reader_reads_end_at_their_deadline_and_writes_go_on() {
    let (_folder, store) = open();
    let (begun, mut reached) = tokio::sync::mpsc::unbounded_channel();
    let (free, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let long = (0..READERS).map(|_| {
        let (store, begun, held) = (store.clone(), begun.clone(), held.clone());
        tokio::spawn(async move {
            let read = store.read(move |_| {
                begun.send(()).unwrap();
                let _ = held.lock().unwrap().recv();
                Ok(())
            });
            read.await
        })
    });
    let long: Vec<_> = long.collect();
    for _ in 0..READERS {
        reached.recv().await.unwrap();
    }
    let soon =
        Scope { deadline: Some(Instant::now() + Duration::from_millis(30)), ..Scope::default() };
    let reads = join_all((0..20).map(|_| soon.clone().around(store.read(|_| Ok(()))))).await;
    assert!(reads.iter().all(|read| matches!(read, Err(Error::DeadlineExceeded))), "{reads:?}");
    store.write(|tx| happen(tx, "accounts/1")).await.unwrap();
    drop(free);
    for read in join_all(long).await {
        read.unwrap().unwrap();
    }
    assert_eq!(contents(&store).await.0, ["accounts/1"]);
}

#[test]
fn f14_a_read_that_no_thread_was_free_for_in_time_is_not_done() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (_folder, store) = open();
        let (free, held) = mpsc::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "what the store is to cope with")]
        let occupied = tokio::task::spawn_blocking(move || held.recv());
        let soon = Instant::now() + Duration::from_millis(30);
        let scope = Scope { deadline: Some(soon), ..Scope::default() };
        let done = Arc::new(AtomicUsize::new(0));
        let reads = (0..READERS).map(|_| {
            let (store, done) = (store.clone(), done.clone());
            let read =
                async move { store.read(move |_| Ok(done.fetch_add(1, Ordering::Relaxed))).await };
            tokio::spawn(scope.clone().around(read))
        });
        let reads: Vec<_> = reads.collect();
        // Writes have a thread of their own.
        store.write(|tx| happen(tx, "accounts/1")).await.unwrap();
        tokio::time::sleep_until(soon).await;
        drop(free);
        let _ = occupied.await;
        for read in join_all(reads).await {
            assert!(matches!(read, Ok(Err(Error::DeadlineExceeded))), "{read:?}");
        }
        assert_eq!(done.load(Ordering::Relaxed), 0);
        assert_eq!(contents(&store).await.0, ["accounts/1"]);
    });
}

#[tokio::test]
async fn t04_positions_and_sequences_go_on_after_a_restart() {
    let (folder, store) = open();
    store.write(|tx| happen(tx, "accounts/1")).await.unwrap();
    store.write(|tx| happen(tx, "accounts/1")).await.unwrap();
    store
        .write(|tx| Ok(diesel::delete(mesh_event::table.find(2_i64)).execute(&mut **tx)?))
        .await
        .unwrap();
    let epoch = store.epoch().to_owned();
    let store = reopen(&folder, store).await;
    assert_eq!(store.epoch(), epoch);
    assert_eq!(*store.head().borrow(), 2, "a trimmed position is not given again");
    store.write(|tx| happen(tx, "accounts/2")).await.unwrap();
    assert_eq!(contents(&store).await.1.last().unwrap().0, 3);
}

#[tokio::test]
async fn a_crash_keeps_what_was_acknowledged() {
    let (folder, mut store) = open();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let writer = store.clone();
        let writes = tokio::spawn(join_all((0..200).map(move |n| {
            let (store, subject) = (writer.clone(), format!("accounts/{round}-{n}"));
            async move { store.write(move |tx| happen(tx, &subject).map(|_| subject)).await }
        })));
        let mut commits = store.commits();
        commits.changed().await.unwrap();
        store.crash().await;
        let outcomes = writes.await.unwrap();
        assert!(outcomes.iter().flatten().count() > 0, "the crash came too early to see anything");
        acknowledged.extend(outcomes.into_iter().flatten());
        assert!(matches!(store.write(|_| Ok(())).await, Err(Error::Unavailable { .. })));
        store = try_open("identity", folder.path()).unwrap();
    }
    let (rows, events) = contents(&store).await;
    assert!(acknowledged.iter().all(|subject| rows.contains(subject)));
    assert_eq!(rows, events.iter().map(|event| event.1.clone()).collect::<Vec<_>>());
    let positions: Vec<_> = events.iter().map(|event| event.0).collect();
    assert_eq!(positions, (1..=positions.len() as i64).collect::<Vec<_>>());
}

#[tokio::test]
async fn f07_a_full_disk_loses_nothing_and_the_store_goes_on_afterwards() {
    let (folder, store) = open();
    store.write(|tx| happen(tx, "accounts/before")).await.unwrap();
    store.write(|tx| Ok(tx.batch_execute("PRAGMA max_page_count = 1")?)).await.unwrap();
    let big = "x".repeat(100_000);
    let full = store.write(move |tx| happen(tx, &format!("accounts/{big}"))).await;
    assert!(full.is_err(), "{full:?}");
    store.write(|tx| Ok(tx.batch_execute("PRAGMA max_page_count = 1000000")?)).await.unwrap();
    store.write(|tx| happen(tx, "accounts/after")).await.unwrap();
    store.crash().await;
    let store = try_open("identity", folder.path()).unwrap();
    let (rows, events) = contents(&store).await;
    assert_eq!(rows, ["accounts/before", "accounts/after"]);
    assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_context_cannot_publish_what_is_another_contexts() {
    let (_folder, store) = open();
    let outcome = store.write(|tx| tx.publish("payments/1", "", &PaymentApproved::default())).await;
    assert!(matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
    assert_eq!(*store.head().borrow(), 0);
}

#[tokio::test]
async fn a_store_is_opened_by_one_process_alone() {
    let (folder, store) = open();
    let error = try_open("identity", folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("in use") && text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    reopen(&folder, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_closed_is_opened_again_while_processes_are_begun() {
    let (folder, mut store) = open();
    let (over, is_over) = tokio::sync::watch::channel(false);
    let beginner = tokio::spawn(async move {
        let mut begun = 0;
        while !*is_over.borrow() {
            let program = tokio::process::Command::new("true").status().await.unwrap();
            begun += usize::from(program.success());
        }
        begun
    });
    for _ in 0..200 {
        store = reopen(&folder, store).await;
    }
    over.send_replace(true);
    assert!(beginner.await.unwrap() > 20);
}

#[tokio::test]
async fn t44_a_store_of_a_newer_release_is_refused_unless_that_one_only_added() {
    let (folder, store) = open();
    let adds = "INSERT INTO __diesel_schema_migrations (version, run_on) VALUES ('9998', CURRENT_TIMESTAMP);
        ALTER TABLE mesh_event ADD COLUMN newer TEXT NOT NULL DEFAULT '';
        INSERT INTO mesh_meta (key, value) VALUES ('adds/9998', 'a column of the log')";
    store.write(move |tx| Ok(tx.batch_execute(adds)?)).await.unwrap();
    let store = reopen(&folder, store).await;
    let newer = "INSERT INTO __diesel_schema_migrations (version, run_on) VALUES ('9999', CURRENT_TIMESTAMP)";
    store.write(move |tx| Ok(tx.batch_execute(newer)?)).await.unwrap();
    store.close().await;
    let error = try_open("identity", folder.path()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Newer { migration, .. } if migration == "9999"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_store_of_another_context_is_refused_before_anything_is_done_to_it() {
    let (folder, store) = open();
    store.close().await;
    for migrations in [MIGRATIONS, OTHER_MIGRATIONS] {
        let at = StoreAt::File(folder.path().join("identity.sqlite"));
        let error = Store::open("payment", &at, migrations).unwrap_err();
        assert!(
            matches!(&error, OpenError::OtherContext { owner, .. } if owner == "identity"),
            "{error:?}"
        );
    }
    let store = try_open("identity", folder.path()).unwrap();
    let others = diesel::dsl::sql::<diesel::sql_types::BigInt>(
        "SELECT count(*) FROM sqlite_master WHERE name = 'of_another_context'",
    );
    assert_eq!(store.read(move |conn| Ok(others.get_result::<i64>(conn)?)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_read_cannot_change_anything() {
    let (_folder, store) = open();
    let outcome = store.read(|conn| Ok(conn.batch_execute("DELETE FROM mesh_event_head")?)).await;
    assert!(outcome.is_err());
    let rows = store.read(|conn| Ok(mesh_event_head::table.count().get_result::<i64>(conn)?)).await;
    assert_eq!(rows.unwrap(), 1);
}

#[tokio::test]
async fn a_panic_in_a_read_harms_no_other() {
    let (_folder, store) = open();
    for _ in 0..20 {
        let outcome = store.read(|_| -> Result<()> { panic!("as planned") }).await;
        assert!(matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
    }
    assert!(store.read(|_| Ok(())).await.is_ok());
}

fn grant(request_id: &str, name: &str) -> GrantRoleRequest {
    GrantRoleRequest { request_id: request_id.to_owned(), name: name.to_owned(), role: 1 }
}

/// Carries the command out: the answer names the row it made.
async fn once(store: &Store, caller: &Caller, command: &GrantRoleRequest) -> Result<String> {
    let name = command.name.clone();
    let answer: GrantRoleResponse = store
        .once(caller, command, move |tx| {
            let sequence = happen(tx, &name)?;
            if name.contains("fails") && sequence == 1 {
                return Err(Error::NotFound(name));
            }
            let account = proto::identity::v1::Account {
                name: format!("{name}@{sequence}"),
                ..Default::default()
            };
            Ok(GrantRoleResponse { account: Some(account) })
        })
        .await?;
    Ok(answer.account.unwrap().name)
}

#[tokio::test]
async fn g6_the_same_request_gets_the_same_answer_also_after_a_restart() {
    let (folder, mut store) = open();
    let (caller, id) = (Caller::context("homemovie.app"), request_id());
    for round in 0..3 {
        let answer = once(&store, &caller, &grant(&id, "accounts/1")).await.unwrap();
        assert_eq!(answer, "accounts/1@1", "round {round}");
        let other = once(&store, &caller, &grant(&id, "accounts/2")).await;
        assert!(matches!(&other, Err(Error::Reused(of)) if *of == id), "{other:?}");
        store = reopen(&folder, store).await;
    }
    let status = tonic::Status::from(Error::Reused(id));
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
    assert_eq!(contents(&store).await.0, ["accounts/1"]);
}

#[tokio::test]
async fn g6_the_same_request_in_parallel_has_one_effect() {
    let (_folder, store) = open();
    let (caller, command) = (Caller::context("homemovie.app"), grant(&request_id(), "accounts/1"));
    let answers = join_all((0..20).map(|_| once(&store, &caller, &command))).await;
    assert!(
        answers.iter().all(|answer| answer.as_deref().unwrap() == "accounts/1@1"),
        "{answers:?}"
    );
    assert_eq!(contents(&store).await.0, ["accounts/1"]);
}

#[tokio::test]
async fn g6_request_ids_of_different_callers_are_different() {
    let (_folder, store) = open();
    let id = request_id();
    for (caller, name) in [("homemovie.app", "accounts/1"), ("mypage", "accounts/2")] {
        assert!(once(&store, &Caller::context(caller), &grant(&id, name)).await.is_ok());
    }
    assert_eq!(contents(&store).await.0, ["accounts/1", "accounts/2"]);
}

#[tokio::test]
async fn g6_what_failed_is_not_remembered() {
    let (_folder, store) = open();
    let (caller, command) =
        (Caller::context("homemovie.app"), grant(&request_id(), "accounts/fails"));
    assert!(matches!(once(&store, &caller, &command).await, Err(Error::NotFound(_))));
    assert!(matches!(once(&store, &caller, &command).await, Err(Error::NotFound(_))), "tried anew");
    assert_eq!(contents(&store).await.0, Vec::<String>::new());
    let other = GrantRoleRequest { name: "accounts/1".to_owned(), ..command };
    assert!(once(&store, &caller, &other).await.is_ok(), "the request_id is free");
}

#[tokio::test]
async fn g6_old_answers_are_forgotten() {
    let (_folder, store) = open();
    let (caller, command) = (Caller::context("homemovie.app"), grant(&request_id(), "accounts/1"));
    once(&store, &caller, &command).await.unwrap();
    assert_eq!(store.forget_old_requests(Duration::from_secs(60)).await.unwrap(), 0);
    assert_eq!(store.forget_old_requests(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(once(&store, &caller, &command).await.unwrap(), "accounts/1@2");
}

#[test]
fn a_fingerprint_is_of_the_content() {
    let (one, other) = (grant("a", "accounts/1"), grant("a", "accounts/2"));
    assert_eq!(
        fingerprint(&one),
        fingerprint(&GrantRoleRequest::decode(&one.encode_to_vec()[..]).unwrap())
    );
    assert_ne!(fingerprint(&one), fingerprint(&other));
    let capitals = [grant("A", "accounts/1"), grant("a", "ACCOUNTS/1"), grant("", "accounts/1")];
    let same = capitals.map(|command| fingerprint(&command) == fingerprint(&one));
    assert_eq!(same, [true, false, false], "only a request_id is the same in capitals");
}

#[tokio::test]
async fn g6_a_request_id_is_the_same_in_capitals() {
    let (_folder, store) = open();
    let (caller, id) = (Caller::context("homemovie.app"), request_id());
    let mut answers = Vec::new();
    for id in [id.clone(), id.to_uppercase(), id] {
        let command = grant(&id, "accounts/1");
        Check::command(&command).finish().unwrap();
        answers.push(once(&store, &caller, &command).await.unwrap());
    }
    assert_eq!(answers, ["accounts/1@1"; 3]);
}

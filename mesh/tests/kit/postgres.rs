//! What is PostgreSQL's alone: several processes on one store, servers that go and come back, rights.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diesel::RunQueryDsl as _;
use futures::future::join_all;
use mesh::{Caller, Context, Options, Policy, Store, whenever};
use mesh_testing::{TestMesh, eventually, request_id};
use proto::identity::v1::{Account, AccountCreated, GrantRoleRequest, GrantRoleResponse};
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use test_postgres::{Database, Server, Stop};
use tokio::sync::watch;
use tonic::Code;

use crate::stand_in::{
    CREATED, Stores, account, accounts, by_subject, created, handled_by, log_of, publish,
    try_publish, until_handled, whenever_account_created_too,
};

/// A server of this test's own: it is going to be hurt. None where there are no programs for it.
fn server() -> Option<Server> {
    match Server::start() {
        Ok(server) => Some(server),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// One process among several on this database.
async fn process(database: &Database, contexts: &[Context]) -> TestMesh {
    let url = database.url();
    TestMesh::start_with(contexts, |options| options.stores.all = Some(url)).await
}

/// Ends sessions of the database, one after the other, until it is dropped: how many it ended.
struct Killer {
    go_on: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
}

impl Killer {
    fn start(database: &Arc<Database>, pause: Duration) -> Self {
        let killer = Self { go_on: Arc::new(AtomicBool::new(true)), ended: Arc::default() };
        let (database, go_on, ended) =
            (database.clone(), killer.go_on.clone(), killer.ended.clone());
        std::thread::spawn(move || {
            // Those that hold the place of the writer, or wait for it.
            let one = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_locks \
                WHERE locktype = 'advisory' ORDER BY random() LIMIT 1) AS one";
            let (_keep, pace) = std::sync::mpsc::channel::<()>();
            while go_on.load(Ordering::Relaxed) {
                if database.query(one).is_ok_and(|count| count == "1") {
                    ended.fetch_add(1, Ordering::Relaxed);
                }
                let _ = pace.recv_timeout(pause);
            }
        });
        killer
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.go_on.store(false, Ordering::Relaxed);
    }
}

/// The race that loses events where positions are given before the commit: many writers, each with a session of its own
/// that may die at any time, and a reader beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i09_sixteen_writers_whose_sessions_die_lose_double_and_disorder_no_event() {
    const WRITERS: usize = 16;
    const EVENTS: usize = 20_000;
    const TOGETHER: usize = 8;
    let Some(server) = server() else { return };
    let database = Arc::new(Database::new(&server.url()).unwrap());
    let stores = Stores::default();
    let source = [stores.source("identity")];
    let mut processes = Vec::new();
    for _ in 0..WRITERS {
        processes.push((process(&database, &source).await, stores.of("identity")));
    }

    let begun = Instant::now();
    let killer = Killer::start(&database, Duration::from_millis(200));
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = Vec::new();
    for (_, store) in &processes {
        for _ in 0..TOGETHER {
            let (store, written) = (store.clone(), written.clone());
            writers.push(tokio::spawn(async move {
                let (mut acknowledged, mut failed) = (Vec::new(), 0);
                while written.load(Ordering::Relaxed) < EVENTS {
                    let subjects = accounts(2);
                    match try_publish(&store, &subjects).await {
                        Ok(()) => {
                            written.fetch_add(subjects.len(), Ordering::Relaxed);
                            acknowledged.extend(subjects);
                        }
                        Err(_) => failed += 1,
                    }
                }
                (acknowledged, failed)
            }));
        }
    }
    // Beside them: what is told must follow on what was told before.
    let reader = processes[0].0.service("mypage", "identity");
    let (end, known) = watch::channel(u64::MAX);
    let reader = tokio::spawn(read_along(reader, known));
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    for writer in writers {
        let (some, errors) = writer.await.unwrap();
        acknowledged.extend(some);
        failed += errors;
    }
    let took = begun.elapsed();
    let killed = killer.ended.load(Ordering::Relaxed);
    drop(killer);
    // What its process has not heard of yet is read, too.
    let last = database.query("SELECT max(position) FROM identity.mesh_event").unwrap();
    end.send(last.trim().parse().unwrap()).unwrap();
    let told = reader.await.unwrap();
    eprintln!(
        "{} events by {WRITERS} processes in {:.1} s; {killed} sessions ended, {failed} writes without an answer",
        acknowledged.len(),
        took.as_secs_f32()
    );

    assert!(killed > 10, "only {killed} sessions were ended");
    assert!(acknowledged.len() >= EVENTS);
    let subjects: HashSet<_> = told.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(subjects.len(), told.len(), "an event was told twice");
    let missing = acknowledged.iter().filter(|subject| !subjects.contains(subject.as_str()));
    assert_eq!(missing.count(), 0, "acknowledged and not told");
    let positions = told.iter().map(|event| event.position);
    assert!(positions.eq(1..=told.len() as u64), "positions without a gap");
}

/// Reads a log to its end, when that is known; every stretch follows on the one before.
async fn read_along(
    channel: mesh::client::Channel,
    mut end: watch::Receiver<u64>,
) -> Vec<api::Event> {
    let (mut told, mut after) = (Vec::new(), None::<api::Cursor>);
    loop {
        let request = api::SubscribeRequest {
            source: "identity".to_owned(),
            policy: "mypage/test".to_owned(),
            after: after.clone(),
            ..Default::default()
        };
        let opened = EventServiceClient::new(channel.clone()).subscribe(request).await;
        let Ok(stream) = opened else { continue };
        let mut stream = stream.into_inner();
        loop {
            if after.as_ref().is_some_and(|place| place.position >= *end.borrow_and_update()) {
                return told;
            }
            let batch = tokio::select! {
                batch = stream.message() => batch,
                known = end.changed() => {
                    known.unwrap();
                    continue;
                }
            };
            let Ok(Some(batch)) = batch else { break };
            let place = after.get_or_insert_with(|| api::Cursor {
                epoch: batch.epoch.clone(),
                position: batch.from_position - 1,
            });
            assert_eq!(batch.from_position, place.position + 1, "a gap");
            place.position = batch.to_position;
            told.extend(batch.events);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t46_f09_a_server_that_restarts_is_found_again_and_nothing_acknowledged_is_lost() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.consumer("mypage", created)];
    let _process = process(&database, &contexts).await;
    let (source, mut all) = (stores.of("identity"), Vec::new());
    for how in [Stop::Fast, Stop::Immediate] {
        let subjects = accounts(20);
        publish(&source, &subjects).await;
        all.extend(subjects);
        server.stop(how).unwrap();
        assert!(try_publish(&source, &accounts(1)).await.is_err_and(|error| error.is_passing()));
        server.resume().unwrap();
        let begun = Instant::now();
        let next = account();
        eventually("it can be written again", async || {
            try_publish(&source, std::slice::from_ref(&next)).await.ok()
        })
        .await;
        eprintln!("{how:?}: written again after {:.1} s", begun.elapsed().as_secs_f32());
        all.push(next);
    }
    until_handled(&stores, "mypage", CREATED, all.len()).await;
    let handled = handled_by(&stores.of("mypage"), CREATED).await;
    let once = all.iter().map(|subject| (subject.clone(), vec![1])).collect::<BTreeMap<_, _>>();
    assert_eq!(by_subject(&handled), once, "each exactly once");
}

fn both() -> Vec<Policy> {
    let too = whenever("note it elsewhere", whenever_account_created_too).from_start();
    created().into_iter().chain([too]).collect()
}

/// By process of PostgreSQL's, how many effects it wrote.
fn workers(database: &Database) -> BTreeMap<String, usize> {
    let rows = "SELECT backend, count(*) FROM mypage.handled GROUP BY backend";
    let rows = database.query(rows).unwrap();
    let rows = rows.lines().filter_map(|row| row.split_once('|'));
    rows.map(|(backend, count)| (backend.to_owned(), count.parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g20_t_dup_three_processes_share_the_work_and_one_that_dies_changes_nothing() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.consumer("mypage", both)];
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(process(&database, &contexts).await);
    }
    let source = stores.of("identity");
    // Until each has its share.
    let mut subjects = Vec::new();
    eventually("all three work", async || {
        let some = accounts(20);
        publish(&source, &some).await;
        subjects.extend(some);
        (workers(&database).len() == 3).then_some(())
    })
    .await;
    let dying = processes.remove(0);
    for round in 0..15 {
        let some = accounts(20);
        publish(&source, &some).await;
        subjects.extend(some);
        if round == 5 {
            dying.mesh.crash("mypage").await;
        }
    }
    let begun = Instant::now();
    for policy in [CREATED, "whenever_account_created_too"] {
        until_handled(&stores, "mypage", policy, subjects.len()).await;
        let handled = handled_by(&stores.of("mypage"), policy).await;
        let once: BTreeMap<_, _> =
            subjects.iter().map(|subject| (subject.clone(), vec![1])).collect();
        assert_eq!(by_subject(&handled), once, "each exactly once");
    }
    let work = workers(&database);
    eprintln!(
        "effects by process: {work:?}; all done {:.1} s after the last event",
        begun.elapsed().as_secs_f32()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_what_one_process_commits_another_tells() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let source = [stores.source("identity")];
    let first = process(&database, &source).await;
    let writer = stores.of("identity");
    let second = process(&database, &source).await;
    let reader = stores.of("identity");
    let (mut heads, mut commits) = (reader.head(), reader.commits());
    for position in 1..=5 {
        commits.mark_unchanged();
        publish(&writer, &accounts(1)).await;
        heads.wait_for(|head| *head == position).await.unwrap();
        commits.changed().await.unwrap();
    }
    let (epoch, told) = log_of(&second, "identity").await;
    assert_eq!((told.len(), log_of(&first, "identity").await), (5, (epoch, told.clone())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_statement_that_fails_takes_no_other_command_with_it() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let _process = process(&database, &[stores.source("identity")]).await;
    let store = stores.of("identity");
    let subjects = accounts(60);
    let commands = subjects.iter().enumerate().map(|(n, subject)| {
        let (store, subject) = (store.clone(), subject.clone());
        async move {
            let write = store.write(move |tx| {
                tx.publish(&subject, &subject, &AccountCreated { account: subject.clone() })?;
                let by_nothing = if n % 3 == 0 { "SELECT 1 / 0" } else { "SELECT 1" };
                diesel::sql_query(by_nothing).execute(&mut **tx)?;
                Ok(())
            });
            write.await
        }
    });
    let outcomes = join_all(commands).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_err(), n % 3 == 0, "{n}: {outcome:?}");
    }
    let told = database.query("SELECT count(*), max(position) FROM identity.mesh_event").unwrap();
    assert_eq!(told.trim(), "40|40");
}

/// Carries commands out, all at once: the answer to each, which no second effect would give again.
async fn grant_all(store: &Store, commands: &[GrantRoleRequest]) -> Vec<Result<String, Code>> {
    let caller = Caller::context("test");
    let answers = commands.iter().map(|command| async {
        let subject = account();
        let granted = store.once(&caller, command, move |tx| {
            tx.publish(&subject, &subject, &AccountCreated { account: subject.clone() })?;
            let account = Account { name: subject, ..Account::default() };
            Ok(GrantRoleResponse { account: Some(account) })
        });
        let answer = granted.await.map_err(|error| tonic::Status::from(error).code())?;
        Ok(answer.account.unwrap().name)
    });
    join_all(answers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_commands_that_are_sent_again_together_get_their_first_answers_from_each_process() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let source = [stores.source("identity")];
    let _first = process(&database, &source).await;
    let first = stores.of("identity");
    let _second = process(&database, &source).await;
    let second = stores.of("identity");
    let command = |_| GrantRoleRequest { request_id: request_id(), ..Default::default() };
    let mut commands: Vec<_> = (0..50).map(command).collect();

    let twice = [commands.clone(), commands.clone()].concat();
    let mut answers = grant_all(&first, &twice).await;
    assert_eq!(answers.split_off(50), answers, "one and the same, in one commit or in two");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for store in [&first, &second] {
        assert_eq!(grant_all(store, &commands).await, answers);
    }
    // New ones beside known ones, and a known one with other content.
    commands[7] = command(7);
    commands[9].name = account();
    let mut mixed = grant_all(&second, &commands).await;
    assert!(mixed[7].is_ok() && mixed[7] != answers[7], "{mixed:?}");
    assert_eq!(mixed[9], Err(Code::AlreadyExists));
    (mixed[7], mixed[9]) = (answers[7].clone(), answers[9].clone());
    assert_eq!(mixed, answers);
    let told = database.query("SELECT count(*), max(position) FROM identity.mesh_event").unwrap();
    assert_eq!(told.trim(), "51|51");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_what_is_remembered_is_found_by_its_key_however_little_there_was_at_first() {
    const MANY: u64 = 20_000;
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let _process = process(&database, &[stores.source("identity")]).await;
    let store = stores.of("identity");
    let command = |_| GrantRoleRequest { request_id: request_id(), ..Default::default() };
    // Often enough for a plan that stays.
    for _ in 0..20 {
        grant_all(&store, &Vec::from_iter((0..50).map(command))).await;
    }
    let more = format!(
        "INSERT INTO identity.mesh_request (caller, method, request_id, hash, answer, time) \
         SELECT 'test', 'GrantRole', 'id ' || n, '', '', 0 FROM generate_series(1, {MANY}) AS n"
    );
    database.query(&more).unwrap();
    let read = || {
        let read = "SELECT coalesce(idx_scan, 0), seq_tup_read FROM pg_stat_user_tables \
                    WHERE schemaname = 'identity' AND relname = 'mesh_request'";
        let read = database.query(read).unwrap();
        let (by_key, through_all) = read.trim().split_once('|').unwrap();
        (by_key.parse::<u64>().unwrap(), through_all.parse::<u64>().unwrap())
    };
    let before = read();
    for _ in 0..20 {
        grant_all(&store, &Vec::from_iter((0..50).map(command))).await;
    }
    eventually("the server has counted", || async { (read().0 >= before.0 + 1000).then_some(()) })
        .await;
    assert!(read().1 < before.1 + MANY, "before: {before:?}, now: {:?}", read());
}

/// What a store answers to somebody who knows its log up to here.
async fn resume(mesh: &TestMesh, epoch: &str, position: u64) -> Result<u64, Code> {
    let request = api::SubscribeRequest {
        source: "identity".to_owned(),
        policy: "mypage/test".to_owned(),
        after: Some(api::Cursor { epoch: epoch.to_owned(), position }),
        ..Default::default()
    };
    let mut client = EventServiceClient::new(mesh.service("mypage", "identity"));
    let mut stream = client.subscribe(request).await.map_err(|status| status.code())?.into_inner();
    let first = stream.message().await.map_err(|status| status.code())?;
    Ok(first.map_or(0, |first| first.from_position))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t05_after_a_failover_who_knows_what_is_still_there_goes_on_and_who_knows_more_does_not() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.consumer("mypage", created)];
    let mesh = process(&database, &contexts).await;
    let source = stores.of("identity");
    publish(&source, &accounts(10)).await;
    until_handled(&stores, "mypage", CREATED, 10).await;
    let before = source.epoch();

    // Another server has taken over, and has not heard of the last three.
    let failover = "DELETE FROM identity.mesh_event WHERE position > 7;
        UPDATE identity.mesh_epoch SET origin = 'the server that is gone';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid();";
    database.query(failover).unwrap();
    eventually("it can be written again", async || try_publish(&source, &accounts(2)).await.ok())
        .await;
    assert_ne!(before, source.epoch(), "a new life");
    assert_eq!(resume(&mesh, &before, 7).await, Ok(8), "all it knows is still there");
    assert_eq!(resume(&mesh, &before, 8).await, Err(Code::FailedPrecondition));
    let now = source.epoch();
    assert_eq!(resume(&mesh, &now, 8).await, Ok(9));
    // My page had heard of what never happened: it stands still, and says so.
    assert_eq!(handled_by(&stores.of("mypage"), CREATED).await.len(), 10);
}

#[tokio::test]
async fn s33_a_context_has_rights_on_its_own_rows_and_makes_no_tables() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.source("payment")];
    let _process = process(&database, &contexts).await;
    let store = stores.of("identity");
    for statement in [
        "SELECT * FROM payment.mesh_meta",
        "CREATE TABLE mine (one INTEGER)",
        "DROP TABLE mesh_event",
        "DELETE FROM __diesel_schema_migrations",
        "CREATE SCHEMA another",
    ] {
        let refused = refusal_of(&store, statement).await;
        assert!(
            refused.contains("permission denied") || refused.contains("must be owner"),
            "{statement}: {refused}"
        );
    }
    publish(&store, &accounts(1)).await;
}

async fn refusal_of(store: &Store, statement: &'static str) -> String {
    use diesel::connection::SimpleConnection as _;
    let told = Arc::new(std::sync::Mutex::new(String::new()));
    let heard = told.clone();
    let outcome = store
        .write(move |tx| {
            if let Err(error) = tx.batch_execute(statement) {
                *heard.lock().unwrap() = error.to_string();
                return Err(error.into());
            }
            Ok(())
        })
        .await;
    assert!(outcome.is_err(), "{statement}");
    let told = told.lock().unwrap();
    told.clone()
}

#[tokio::test]
async fn t44_tables_are_made_by_a_step_of_their_own_and_a_start_refuses_without_it() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let context = stores.source("identity");
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.stores.all = Some(database.url());
    let mesh = mesh::Mesh::new(options.clone()).unwrap();
    let refused = mesh.start(&context).await.unwrap_err().to_string();
    assert!(refused.contains("run `turnstile migrate`"), "{refused}");

    // Two at once, as two replicas of a job: one does it, the other finds it done.
    let migrate = || {
        let (context, options) = (context.clone(), options.clone());
        std::thread::spawn(move || context.migrate(&options).unwrap())
    };
    let mut applied: Vec<_> = [migrate(), migrate()]
        .into_iter()
        .flat_map(|migrating| migrating.join().unwrap())
        .map(|(_, applied)| applied.len())
        .collect();
    applied.sort_unstable();
    assert_eq!(applied, [0, 3]);
    mesh.start(&context).await.unwrap();
    mesh.stop("identity").await;

    let adds = "INSERT INTO identity.__diesel_schema_migrations (version) VALUES ('9998');
        INSERT INTO identity.mesh_meta (key, value) VALUES ('adds/9998', 'a column of the log')";
    database.query(adds).unwrap();
    mesh.start(&context).await.unwrap();
    mesh.stop("identity").await;
    let newer = "INSERT INTO identity.__diesel_schema_migrations (version) VALUES ('9999')";
    database.query(newer).unwrap();
    let refused = mesh.start(&context).await.unwrap_err().to_string();
    assert!(refused.contains("newer release"), "{refused}");
}

#[tokio::test]
async fn t38_a_server_that_forgets_what_it_answered_is_refused() {
    let Some(server) = server() else { return };
    let database = Database::new(&server.url()).unwrap();
    let stores = Stores::default();
    let context = stores.source("identity");
    let _process = process(&database, std::slice::from_ref(&context)).await;
    let careless = format!("ALTER DATABASE {} SET synchronous_commit = off", database.name());
    database.query(&careless).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.stores.all = Some(database.url());
    let refused = mesh::Mesh::new(options).unwrap().start(&context).await.unwrap_err().to_string();
    assert!(refused.contains("synchronous_commit is off"), "{refused}");
}

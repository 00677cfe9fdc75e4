//! Backups, as an operator takes and restores them: everything is there, nothing is there twice, nothing fits badly.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{PASSWORD, Up, customer, run, sign_in, turnstile, with_token};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use mesh_testing::{eventually, request_id};
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mesh::v1::{ListIntentsRequest, ListPoliciesRequest};
use proto::mypage::v1::RebuildViewRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use tonic::transport::Channel;

/// What a crash left is taken up soon.
const QUICK: [(&str, &str); 3] = [
    ("TURNSTILE_LOG", "off"),
    ("TURNSTILE_PAYMENT_SWEEP_AFTER", "1"),
    ("TURNSTILE_SAGA_SWEEP_AFTER_SECONDS", "1"),
];

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn open(folder: &Path, store: &str) -> SqliteConnection {
    let file = folder.join(format!("{store}.sqlite"));
    SqliteConnection::establish(&file.to_string_lossy()).expect("a store")
}

fn texts(folder: &Path, store: &str, query: &str) -> Vec<String> {
    let rows = diesel::sql_query(query).load::<Row>(&mut open(folder, store)).expect("rows");
    rows.into_iter().map(|row| row.text).collect()
}

fn number(folder: &Path, store: &str, expression: &str) -> i64 {
    let query = format!("SELECT {expression} AS number");
    diesel::sql_query(query).get_result::<Number>(&mut open(folder, store)).expect("a row").number
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

async fn succeeds(arguments: &[&str]) -> String {
    let output = run(turnstile().args(arguments)).await;
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

async fn is_refused(arguments: &[&str], why: &str) {
    let output = run(turnstile().args(arguments)).await;
    let said = said(&output);
    assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Every file is for us alone.
fn assert_private(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let mode = path.metadata().expect("a file").permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", path.display());
        if path.is_dir() {
            assert_private(&path);
        }
    }
}

/// What must hold at any moment, a cut included: what was registered has been paid, a seat that is not free is held, and
/// nobody has read further than what was told.
fn assert_fits_together(data: &Path) {
    let live = "state = 'APPROVED' AND order_name LIKE 'movieApplications/%'";
    let query = format!("SELECT order_name AS text FROM payment WHERE {live}");
    let paid: BTreeSet<_> = texts(data, "payment", &query).into_iter().collect();
    for name in texts(data, "homemovie.app", "SELECT name AS text FROM movie_application") {
        assert!(paid.contains(&name), "{name} is not paid");
    }
    let seats = "(SELECT sum(total_seats - reservable_seats) FROM musical) \
         - (SELECT coalesce(sum(seats), 0) FROM seat_hold WHERE NOT returned)";
    assert_eq!(number(data, "outerpark.musical", seats), 0, "the seats do not add up");
    let held = "SELECT reservation AS text FROM seat_hold WHERE NOT returned";
    let held: BTreeSet<_> = texts(data, "outerpark.musical", held).into_iter().collect();
    for name in texts(data, "outerpark.reservation", "SELECT name AS text FROM reservation") {
        assert!(held.contains(&name), "{name} has no seats");
    }
    for (reader, source) in [
        ("homemovie.movie", "homemovie.app"),
        ("homemovie.app", "homemovie.movie"),
        ("mypage", "homemovie.app"),
        ("mypage", "payment"),
        ("outerpark.reservation", "payment"),
    ] {
        let head = number(data, source, "(SELECT position FROM mesh_event_head)");
        let furthest = format!(
            "(SELECT coalesce(max(position), 0) FROM mesh_cursor WHERE source = '{source}')"
        );
        assert!(number(data, reader, &furthest) <= head, "{reader} is ahead of {source}");
    }
}

/// Waits until everything that was begun has come to its end, and nothing is parked.
async fn settle(channel: &Channel, admin: &str, data: &Path) {
    eventually("every order, payment and event has come to its end", || async {
        let mut operations = OperationsServiceClient::new(channel.clone());
        let policies = operations
            .list_policies(with_token(admin, ListPoliciesRequest::default()))
            .await
            .ok()?
            .into_inner()
            .policies;
        assert!(policies.iter().all(|policy| policy.parked_count == 0), "{policies:?}");
        let intents = operations
            .list_intents(with_token(admin, ListIntentsRequest::default()))
            .await
            .ok()?
            .into_inner()
            .intents;
        let waiting = "(SELECT count(*) FROM reservation WHERE state = 'SEATS_RESERVED')";
        let settled = policies.iter().all(|policy| policy.lag == 0)
            && intents.is_empty()
            && number(data, "outerpark.reservation", waiting) == 0
            && number(data, "payment", "(SELECT count(*) FROM payment_refund_due)") == 0;
        settled.then_some(())
    })
    .await;
}

/// What my page shows, of the generation that is read.
fn my_page(data: &Path) -> Vec<String> {
    let orders = "SELECT name || ' ' || customer || ' ' || state || ' ' || payment_state || ' ' || visible \
         || ' ' || (SELECT group_concat(event_id) FROM (SELECT event_id FROM my_progress WHERE order_name = name \
         AND my_progress.generation = my_order.generation ORDER BY event_id)) AS text \
         FROM my_order WHERE generation = (SELECT current FROM mesh_view) ORDER BY name";
    texts(data, "mypage", orders)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_05_a_backup_in_the_middle_of_a_load_restores_to_a_whole_system() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let up = Up::start_with(&data, &QUICK).await;
    let target = format!("http://{}", up.address);
    let loads: Vec<_> = ["homemovie", "outerpark"]
        .map(|scenario| {
            let mut load = turnstile();
            load.args(["load", scenario, "--users", "8", "--duration", "5s", "--target", &target]);
            load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a load")
        })
        .into();
    eventually("both systems are under load", || async {
        let payments = |kind: &str| {
            let count = format!("(SELECT count(*) FROM payment WHERE order_name LIKE '{kind}/%')");
            number(&data, "payment", &count)
        };
        (payments("movieApplications") > 20 && payments("musicalReservations") > 20).then_some(())
    })
    .await;
    let taken = succeeds(&["backup", "in-the-middle", "--target", &target]).await;
    assert!(taken.contains("copied homemovie.app") && taken.contains("9 stores"), "{taken}");
    is_refused(&["backup", "in-the-middle", "--target", &target], "there is a backup with").await;
    for mut load in loads {
        let status = load.wait().await.expect("an end");
        assert!(status.success(), "the load was disturbed: {status}");
    }
    up.terminate().await;

    let backup = data.join("backups/in-the-middle");
    assert_private(&backup);
    assert_fits_together(&backup);
    let orders = "(SELECT count(*) FROM movie_application)";
    let (then, now) =
        (number(&backup, "homemovie.app", orders), number(&data, "homemovie.app", orders));
    assert!(0 < then && then < now, "it was no backup from the middle: {then} of {now} orders");

    let restored = folder.path().join("restored");
    succeeds(&["restore", text(&backup), "--data", text(&restored)]).await;
    assert_private(&restored);
    let up = Up::start_with(&restored, &QUICK).await;
    let channel = up.connect().await;
    let admin = sign_in(&channel, "admin@localhost", PASSWORD).await;
    settle(&channel, &admin, &restored).await;
    assert_fits_together(&restored);
    let live = "(SELECT count(*) FROM payment WHERE state = 'APPROVED' AND order_name LIKE 'movieApplications/%')";
    assert_eq!(number(&restored, "homemovie.app", orders), number(&restored, "payment", live));
    let ordered = "(SELECT count(*) FROM movie_application WHERE state = 'MOVIE_ORDERED')";
    assert_eq!(
        number(&restored, "homemovie.app", ordered),
        number(&restored, "homemovie.app", orders)
    );
    let sold = "(SELECT sum(total_seats - reservable_seats) FROM musical)";
    let reserved = "(SELECT sum(seats) FROM reservation)";
    assert_eq!(
        number(&restored, "outerpark.musical", sold),
        number(&restored, "outerpark.reservation", reserved)
    );
    let charged = "(SELECT count(*) FROM provider_charge WHERE state = 'CHARGED' AND refunded = 0)";
    let approved = "(SELECT count(*) FROM payment WHERE state = 'APPROVED')";
    assert_eq!(
        number(&restored, "payment-provider", charged),
        number(&restored, "payment", approved)
    );

    let before = my_page(&restored);
    let request = RebuildViewRequest { request_id: request_id() };
    let generation = MyPageServiceClient::new(channel.clone())
        .rebuild_view(with_token(&admin, request))
        .await
        .expect("a rebuild")
        .into_inner()
        .generation;
    eventually("the new view is read", || async {
        let current = number(&restored, "mypage", "(SELECT current FROM mesh_view)");
        (current == i64::from(generation)).then_some(())
    })
    .await;
    assert!(before == my_page(&restored) && !before.is_empty(), "my page is not what events say");
    up.terminate().await;
}

#[tokio::test]
async fn a_stopped_system_is_backed_up_from_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let (there, backup) = (text(&data), data.join("backups/one"));
    let up = Up::start(&data).await;
    customer(&up.connect().await, "kim@example.org").await;
    is_refused(&["backup", "one", "--data", there], "in use by another process").await;
    is_refused(&["backup", "../one", "--data", there], "small letters, digits and hyphens").await;
    is_refused(&["restore", there, "--data", there], "is not a whole backup").await;
    up.terminate().await;
    succeeds(&["backup", "one", "--data", there]).await;
    is_refused(&["backup", "one", "--data", there], "there is a backup with the name one").await;

    is_refused(&["restore", text(&backup), "--data", there], "say --replace").await;
    let restored = succeeds(&["restore", text(&backup), "--data", there, "--replace"]).await;
    assert!(restored.contains("before-restore-"), "{restored}");
    let up = Up::start(&data).await;
    sign_in(&up.connect().await, "kim@example.org", "12345678").await;
    is_refused(&["restore", text(&backup), "--data", there, "--replace"], "in use by another")
        .await;
    up.terminate().await;
}

#[tokio::test]
async fn a_backup_that_is_damaged_or_not_whole_is_refused_and_nothing_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let backup = data.join("backups/one");
    Up::start(&data).await.terminate().await;
    succeeds(&["backup", "one", "--data", text(&data)]).await;
    let copy = |name: &str| {
        let copy = folder.path().join(name);
        let status = std::process::Command::new("cp").arg("-r").args([&backup, &copy]).status();
        assert!(status.expect("a copy").success());
        copy
    };
    let restore_fails = async |backup: &Path, why: &str| {
        let target = folder.path().join("restored");
        is_refused(&["restore", text(backup), "--data", text(&target)], why).await;
        let files = std::fs::read_dir(&target)
            .expect("a folder")
            .map(|entry| entry.expect("a file").path());
        let others = files.filter(|file| file.extension().is_none_or(|ending| ending != "lock"));
        assert_eq!(others.count(), 0, "something was restored");
    };

    let damaged = copy("damaged");
    let file = damaged.join("payment.sqlite");
    let mut bytes = std::fs::read(&file).expect("a store");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&file, bytes).expect("a damaged store");
    restore_fails(&damaged, "payment").await;

    let missing = copy("missing");
    std::fs::remove_file(missing.join("notice.sqlite")).expect("a store");
    restore_fails(&missing, "notice is missing").await;

    let newer = copy("newer");
    let known = "INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')";
    diesel::sql_query(known).execute(&mut open(&newer, "mypage")).expect("a migration");
    restore_fails(&newer, "written by a newer release").await;

    let ahead = copy("ahead");
    let moved =
        "UPDATE mesh_cursor SET position = position + 1000 WHERE source = 'homemovie.movie'";
    diesel::sql_query(moved).execute(&mut open(&ahead, "homemovie.app")).expect("a cursor");
    restore_fails(&ahead, "is further than the log of homemovie.movie").await;
}

#[tokio::test]
async fn a_restore_that_did_not_finish_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    Up::start(&data).await.terminate().await;
    succeeds(&["backup", "one", "--data", text(&data)]).await;
    std::fs::create_dir(data.join(".restoring")).expect("a folder");
    is_refused(&["up", "--listen", "127.0.0.1:0", "--data", text(&data)], "did not finish").await;
    let backup = data.join("backups/one");
    succeeds(&["restore", text(&backup), "--data", text(&data), "--replace"]).await;
    Up::start(&data).await.terminate().await;
}

#[tokio::test]
async fn a_forgotten_password_is_reset_where_nobody_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let there = text(&data);
    is_refused(&["admin", "reset-password", "admin@localhost", "--data", there], "no accounts")
        .await;
    let up = Up::start(&data).await;
    customer(&up.connect().await, "kim@example.org").await;
    is_refused(&["admin", "reset-password", "kim@example.org", "--data", there], "in use by").await;
    up.terminate().await;

    is_refused(&["admin", "reset-password", "lee@example.org", "--data", there], "nobody has")
        .await;
    succeeds(&["admin", "reset-password", "kim@example.org", "--data", there]).await;
    let mut random = turnstile();
    random.env_remove("TURNSTILE_ADMIN_PASSWORD");
    let shown =
        run(random.args(["admin", "reset-password", "admin@localhost", "--data", there])).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let password =
        shown.lines().next().and_then(|line| line.rsplit(' ').next()).expect("a password");

    let tokens = "(SELECT count(*) FROM refresh_token)";
    assert_eq!(number(&data, "identity", tokens), 0, "somebody is still signed in");
    let up = Up::start(&data).await;
    let channel = up.connect().await;
    sign_in(&channel, "kim@example.org", PASSWORD).await;
    sign_in(&channel, "admin@localhost", password).await;
    up.terminate().await;
}

//! The system on PostgreSQL: some stores there and some in files, and replicas that are replaced one by one.

#![allow(clippy::print_stdout, reason = "the proof prints what it saw")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::stores::{self, on_postgres, setting_of};
use common::system::{CONTEXTS, FRONT, System};
use common::{
    PASSWORD, Up, customer, film, pick, register_musical, reserve, run, sign_in, turnstile,
    with_token,
};
use futures::future::join_all;
use mesh_testing::{eventually, get, request_id};
use proto::mypage::v1::ListMyOrdersRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::outerpark::reservation::v1::CancelReservationRequest;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use test_postgres::Database;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What all processes find in their environment: many of them share a machine, and slow ones are not what this is about.
const WORLD: [(&str, &str); 3] = [
    ("TURNSTILE_ADMIN_LISTEN", "127.0.0.1:0"),
    ("TURNSTILE_EDGE_HOMEMOVIE_APP_PAYMENT_TIMEOUT_MS", "2500"),
    ("TURNSTILE_EDGE_OUTERPARK_RESERVATION_OUTERPARK_MUSICAL_TIMEOUT_MS", "2500"),
];
/// And those of the release after this one.
const NEXT: [(&str, &str); 4] = [WORLD[0], WORLD[1], WORLD[2], (mesh::chaos::NEXT_RELEASE, "1")];
/// And so these tests take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How long a customer waits for my page.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// More than anybody buys.
const SEATS: i32 = 100_000;

/// Both demos, against a system whose stores are where these settings say.
async fn both_demos_play(data: &Path, settings: &[(&str, &str)]) {
    let up = Up::start_with(data, settings).await;
    let target = format!("http://{}", up.address);
    for system in ["homemovie", "outerpark"] {
        let played = run(turnstile().args(["demo", system, "--target", &target])).await;
        let shown = String::from_utf8_lossy(&played.stdout).into_owned();
        let said = String::from_utf8_lossy(&played.stderr).into_owned();
        assert!(shown.contains("all as it should be"), "{shown}{said}");
    }
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hm_n8_op_n8_any_context_keeps_files_while_the_others_keep_a_database_and_the_other_way_round()
 {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    let (_, url) = setting_of(folder.path()).expect("a database");
    for apart in ["TURNSTILE_STORE_MYPAGE", "TURNSTILE_STORE_OUTERPARK_RESERVATION"] {
        let files = tempfile::tempdir().expect("a folder");
        both_demos_play(files.path(), &[("TURNSTILE_STORE", &url), (apart, "files")]).await;
    }
    // The other way round, in a database that has heard of nothing yet.
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    let (_, url) = setting_of(folder.path()).expect("a database");
    let files = tempfile::tempdir().expect("a folder");
    let apart = [
        ("TURNSTILE_STORE_MYPAGE", url.as_str()),
        ("TURNSTILE_STORE_OUTERPARK_RESERVATION", url.as_str()),
    ];
    both_demos_play(files.path(), &apart).await;
}

/// A customer of both systems, with something to buy in each.
#[derive(Clone)]
struct Buyer {
    /// Where the system is.
    process: Channel,
    /// Where the desk for seats is.
    seats: Channel,
    token: String,
    movie: String,
    musical: String,
}

impl Buyer {
    /// Calls this process, when both desks know what they sell.
    async fn of(process: Channel) -> Self {
        let token = customer(&process, "a@example.org").await;
        let admin = sign_in(&process, "admin@localhost", PASSWORD).await;
        let movie = film(process.clone()).await;
        let now = Arc::new(Mutex::new(process.clone()));
        let musical = register_musical(&now, &admin, SEATS).await;
        let buyer = Self { seats: process.clone(), process, token, movie, musical };
        eventually("a desk knows the film", async || buyer.pick().await.ok()).await;
        eventually("a desk knows the performance", async || buyer.reserve().await.ok()).await;
        buyer
    }

    async fn pick(&self) -> Result<String, Status> {
        pick(&self.process, &self.token, &self.movie).await
    }

    async fn reserve(&self) -> Result<String, Status> {
        reserve(&self.seats, &self.token, &self.musical).await
    }

    async fn cancel(&self, name: String) -> Result<(), Status> {
        let quote = String::new();
        let request = CancelReservationRequest { request_id: request_id(), name, quote };
        let mut desk = ReservationServiceClient::new(self.seats.clone());
        desk.cancel_reservation(with_token(&self.token, request)).await.map(drop)
    }

    async fn look(&self) -> Result<(), Status> {
        let mut page = MyPageServiceClient::new(self.process.clone());
        let mut request = with_token(&self.token, ListMyOrdersRequest::default());
        request.set_timeout(LONGEST_LOOK);
        page.list_my_orders(request).await.map(drop)
    }
}

/// Customers whose every call must succeed, until they are sent home.
struct Customers {
    over: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    at_work: Vec<JoinHandle<()>>,
}

impl Customers {
    fn begin(buyer: &Buyer) -> Self {
        let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let at_work = (0..4).map(|n| {
            let (buyer, over, calls) = (buyer.clone(), over.clone(), calls.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    if n % 2 == 0 {
                        buyer.pick().await.expect("a pick succeeds");
                    } else {
                        let name = buyer.reserve().await.expect("a reservation succeeds");
                        buyer.cancel(name).await.expect("a cancellation succeeds");
                    }
                    buyer.look().await.expect("my page answers");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let at_work = at_work.collect();
        Self { over, calls, at_work }
    }

    /// Waits until they have bought some more, or one of them has failed.
    async fn go_on(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        eventually("customers go on", async || {
            let more = self.calls.load(Ordering::Relaxed) > before + 5;
            (more || self.at_work.iter().any(JoinHandle::is_finished)).then_some(())
        })
        .await;
    }

    /// Sends them home; how often each call succeeded.
    async fn go_home(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        for customer in self.at_work {
            customer.await.expect("every call of a customer succeeds");
        }
        self.calls.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_11_t_roll_hm_n11_op_n11_replicas_move_to_the_next_release_and_back_and_every_call_succeeds()
 {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    let mut system = System::start_with(folder.path(), &CONTEXTS, &WORLD).await;
    for context in CONTEXTS {
        system.serve(context).await;
    }
    system.serve(FRONT).await;
    let buyer = Buyer::of(system.connect(FRONT).await).await;
    let customers = Customers::begin(&buyer);
    let mut replaced = 0;
    for release in [&NEXT, &WORLD[..]] {
        system.change_settings(release);
        if release == NEXT {
            // The step before an update; the processes of this release go on with the tables of the next one.
            let mut migrate = turnstile();
            migrate.arg("migrate").envs(setting_of(folder.path())).envs(NEXT);
            let migrated = run(&mut migrate).await;
            assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
            customers.go_on().await;
        }
        for context in CONTEXTS {
            for _ in 0..2 {
                system.serve(context).await;
                system.stop(context).await;
                customers.go_on().await;
                replaced += 1;
            }
        }
    }
    let calls = customers.go_home().await;
    eventually("everything has come to its end", || async {
        stores::open(folder.path()).still_open().is_empty().then_some(())
    })
    .await;
    system.stop_all().await;
    let stores = stores::open(folder.path());
    for log in ["a", "f", "r", "m", "p", "n"] {
        let noted = format!(
            "SELECT count(*) FROM {log}.mesh_event WHERE type LIKE '%.NotedByTheNextRelease'"
        );
        assert!(stores.number(&noted) > 0, "the next release has written nothing into {log}");
    }
    for store in ["a", "f", "r", "m", "p", "n", "y"] {
        let parked = stores.number(&format!("SELECT count(*) FROM {store}.mesh_parked"));
        assert_eq!(parked, 0, "events are put aside in {store}");
    }
    println!("{replaced} processes replaced: {calls} times every call, none failed");
}

/// A table that somebody has locked: a session of psql, until it is dropped.
struct Locked(Child);

impl Locked {
    async fn begin(database: &Database, table: &str) -> Self {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", &database.url()]).stdin(Stdio::piped()).kill_on_drop(true);
        let mut session = psql.spawn().expect("psql");
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;\n");
        let input = session.stdin.as_mut().expect("its input");
        input.write_all(lock.as_bytes()).await.expect("a statement");
        let granted = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND granted \
             AND mode = 'AccessExclusiveLock'"
        );
        eventually("it is locked", async || {
            (database.query(&granted).expect("a count").trim() == "1").then_some(())
        })
        .await;
        Self(session)
    }

    /// As if whoever had it went home.
    async fn give_back(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().await.expect("psql").success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_14_reads_that_get_nowhere_end_in_time_and_harm_no_other_context() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().expect("a folder");
    let Some((_server, database)) = on_postgres(folder.path()).await else { return };
    let up = Up::start_with(folder.path(), &WORLD).await;
    let buyer = Buyer::of(up.connect().await).await;
    buyer.look().await.expect("my page answers");
    let locked = Locked::begin(&database, "mypage.my_order").await;
    // Many more than there are connections to read with.
    let begun = Instant::now();
    let (looks, orders) = tokio::join!(join_all((0..40).map(|_| buyer.look())), async {
        // The other contexts of the process answer while these wait.
        let mut orders = 0;
        while begun.elapsed() < LONGEST_LOOK / 2 {
            buyer.pick().await.expect("a pick succeeds");
            buyer.reserve().await.expect("a reservation succeeds");
            assert_eq!(get(up.admin(), "/livez").await.0, 200);
            orders += 1;
        }
        orders
    });
    assert!(begun.elapsed() < LONGEST_LOOK + Duration::from_secs(1), "{:?}", begun.elapsed());
    for look in looks {
        let status = look.expect_err("nothing can be read");
        let passing = matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable);
        assert!(passing, "{status}");
    }
    locked.give_back().await;
    eventually("my page answers again", async || buyer.look().await.ok()).await;
    eventually("everything has come to its end", || async {
        stores::open(folder.path()).still_open().is_empty().then_some(())
    })
    .await;
    println!("{orders} orders in each system while nobody could read my page");
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
}

/// How many of each system's orders there are.
const ORDERS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_dup_three_replicas_of_each_consumer_share_the_work_and_one_that_dies_changes_nothing() {
    let _turn = TURN.lock().await;
    const CONSUMERS: [&str; 3] = ["homemovie.movie", "outerpark.reservation", "mypage"];
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    let mut system = System::start_with(folder.path(), &CONTEXTS, &WORLD).await;
    for consumer in CONSUMERS {
        system.serve(consumer).await;
        system.serve(consumer).await;
    }
    system.serve(FRONT).await;
    let mut buyer = Buyer::of(system.connect(FRONT).await).await;
    // Who dies first is not whom customers call.
    buyer.seats = system.replicas("outerpark.reservation")[2].connect().await;
    eventually("each replica has its share", async || {
        buyer.pick().await.expect("picked");
        buyer.reserve().await.expect("reserved");
        let at_work = join_all(CONSUMERS.map(|consumer| at_work(&system, consumer))).await;
        (at_work == [3, 3, 3]).then_some(())
    })
    .await;
    let mut orders = BTreeSet::new();
    for n in 0..ORDERS / 10 {
        let bought = (0..10).map(|_| async { [buyer.pick().await, buyer.reserve().await] });
        for order in join_all(bought).await.into_iter().flatten() {
            orders.insert(order.expect("ordered"));
        }
        if n == ORDERS / 20 {
            for consumer in CONSUMERS {
                system.kill(consumer).await;
            }
        }
    }
    let begun = Instant::now();
    eventually("everything has come to its end", || async {
        stores::open(folder.path()).still_open().is_empty().then_some(())
    })
    .await;
    println!("everything at its end {:.1} s after the last order", begun.elapsed().as_secs_f32());
    system.stop_all().await;
    assert_eq!(orders.len(), 2 * ORDERS);
    let stores = stores::open(folder.path());
    for (what, effects) in EFFECTS {
        let effects = stores.amounts(&format!(
            "SELECT name, count(*) AS number FROM ({effects}) AS effect GROUP BY name"
        ));
        let (system, _) = effects.keys().next().expect("some").split_once('/').expect("a name");
        for order in orders.iter().filter(|order| order.starts_with(system)) {
            assert_eq!(effects.get(order), Some(&1), "{what} {order}");
        }
        let twice: Vec<_> = effects.iter().filter(|(_, times)| **times != 1).collect();
        assert!(twice.is_empty(), "{what}: {twice:?}");
    }
}

/// What each order has brought about once: by what it is called, and the order.
const EFFECTS: [(&str, &str); 8] = [
    ("ordered", "SELECT correlation_id AS name FROM f.mesh_event WHERE type LIKE '%.MovieOrdered'"),
    (
        "taken note of",
        "SELECT subject AS name FROM a.mesh_event WHERE type LIKE '%.MovieApplicationAdvanced'",
    ),
    ("paid", "SELECT correlation_id AS name FROM p.mesh_event WHERE type LIKE '%.PaymentApproved'"),
    (
        "charged",
        "SELECT p.order_name AS name FROM c.provider_charge JOIN p.payment p ON p.name = key WHERE c.provider_charge.state = 'CHARGED'",
    ),
    (
        "confirmed",
        "SELECT subject AS name FROM r.mesh_event WHERE type LIKE '%.ReservationConfirmed'",
    ),
    (
        "told",
        "SELECT order_name AS name FROM n.notice WHERE kind = 'confirmed' AND medium = 'INBOX'",
    ),
    (
        "shown",
        "SELECT name FROM y.my_order WHERE visible AND generation = (SELECT current FROM y.mesh_view)",
    ),
    (
        "remembered",
        "SELECT order_name AS name FROM y.my_progress WHERE event IN ('MovieOrdered', 'ReservationConfirmed')",
    ),
];

/// How many replicas of a context have dealt with events.
async fn at_work(system: &System, context: &str) -> usize {
    let replicas = system.replicas(context).iter();
    let handled = join_all(replicas.map(async |up| {
        let (_, page) = get(up.admin(), "/metrics").await;
        let handled = page.lines().filter(|line| line.starts_with("mesh_policy_handled_total"));
        handled.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    }));
    handled.await.into_iter().filter(|handled| *handled > 0.0).count()
}

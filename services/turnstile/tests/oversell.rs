//! The oversell proof: many buyers, few seats, declined payments, lost replies, cancels and expiries, and the process
//! killed at random moments, or every one of them where each context has its own. At every look and at the end the seats
//! add up; at the end everything has its reason.
//!
//! `OVERSELL_SECONDS` (15) says for how long the one process is killed, `OVERSELL_SEED` from which random numbers.

#![allow(clippy::print_stdout, reason = "the proof prints what it saw")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use common::stores::{self, on_postgres};
use common::system::{CONTEXTS, FRONT, System};
use common::{Now, PASSWORD, Up, answer, customer, register_musical, setting, sign_in, with_token};
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use mesh_testing::{eventually, request_id};
use proto::mesh::v1::ListPoliciesRequest;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::outerpark::reservation::v1::{CancelReservationRequest, ReserveRequest};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

const BUYERS: usize = 200;
/// Each of many processes gets less of the machine.
const BUYERS_FROM_PROCESSES: usize = 80;
const SEATS: i32 = 30;

/// A slow and unreliable world, and everything that heals it quick.
const WORLD: [(&str, &str); 10] = [
    ("TURNSTILE_LOG", "off"),
    ("TURNSTILE_PAYMENT_DELAY_MS", "0-80"),
    ("TURNSTILE_PAYMENT_DECLINE_SHARE", "0.1"),
    ("TURNSTILE_PAYMENT_LOST_REPLY_SHARE", "0.15"),
    ("TURNSTILE_PAYMENT_SWEEP_AFTER", "2"),
    ("TURNSTILE_SAGA_SWEEP_AFTER_SECONDS", "2"),
    ("TURNSTILE_RESERVATION_HOLD_SECONDS", "1"),
    ("TURNSTILE_EDGE_OUTERPARK_RESERVATION_OUTERPARK_MUSICAL_BREAKER_OPEN_MS", "500"),
    ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "0"),
    ("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", "0"),
];

/// What the buyers know.
#[derive(Debug, Default)]
struct Told {
    reserved: Mutex<BTreeSet<String>>,
    cancelled: Mutex<BTreeSet<String>>,
    sold_out: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seat_is_sold_twice_whatever_dies_when() {
    let folder = tempfile::tempdir().expect("a folder");
    prove(folder.path(), 500..2500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seat_is_sold_twice_whatever_dies_when_on_postgresql() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    // For four seconds the dead one's partitions are still its own: who lives no longer does little.
    prove(folder.path(), 500..7000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seat_is_sold_twice_whatever_dies_when_each_context_is_a_process() {
    let folder = tempfile::tempdir().expect("a folder");
    prove_with_processes(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seat_is_sold_twice_whatever_dies_when_each_context_is_a_process_on_postgresql() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_database) = on_postgres(folder.path()).await else { return };
    prove_with_processes(folder.path()).await;
}

/// One process has all of it, and is killed again and again, after so many milliseconds.
async fn prove(data: &Path, life: Range<u64>) {
    let seconds = setting("OVERSELL_SECONDS", 15);
    let mut random = random();
    let mut up = Up::start_with(data, &WORLD).await;
    let rush = Rush::begin(data, &up, BUYERS, &mut random).await;
    let mut kills = 0;
    while rush.begun.elapsed() < Duration::from_secs(seconds) || kills < 6 || rush.goes_on() {
        // The moment of a kill is what is random here, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.random_range(life.clone()))).await;
        up.kill().await;
        kills += 1;
        up = Up::start_with(data, &WORLD).await;
        rush.moves_to(&up).await;
    }
    let end = rush.end(&up).await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    end.is_fair();
    println!("kills {kills}");
}

/// Each context has a process of its own, customers call another one, and every one of them is killed, alone or together
/// with another.
async fn prove_with_processes(data: &Path) {
    let mut random = random();
    let mut system = System::start_with(data, &CONTEXTS, &WORLD).await;
    system.serve(FRONT).await;
    let rush = Rush::begin(data, system.process(FRONT), BUYERS_FROM_PROCESSES, &mut random).await;
    let mut kills = BTreeMap::new();
    let mut rounds = 0;
    while rounds < 2 || rush.goes_on() {
        rounds += 1;
        let mut alive: Vec<_> = CONTEXTS.into_iter().chain([FRONT]).collect();
        alive.shuffle(&mut random);
        while !alive.is_empty() {
            let together = random.random_range(1..=2.min(alive.len()));
            let dying = alive.split_off(alive.len() - together);
            // The moments of kills and starts are what is random here, not a wait for something.
            tokio::time::sleep(Duration::from_millis(random.random_range(200..1200))).await;
            for process in &dying {
                system.kill(process).await;
                *kills.entry(*process).or_insert(0) += 1;
            }
            for process in dying {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                system.serve(process).await;
            }
            rush.moves_to(system.process(FRONT)).await;
        }
    }
    let end = rush.end(system.process(FRONT)).await;
    system.stop_all().await;
    end.is_fair();
    println!("kills {kills:?}");
}

/// Everything random is from this seed, which is told.
fn random() -> StdRng {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let seed = setting("OVERSELL_SEED", now);
    println!("OVERSELL_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A performance with few seats, and many who want them.
struct Rush {
    data: PathBuf,
    /// Where they find the system.
    now: Now,
    admin: String,
    told: Arc<Told>,
    over: Arc<AtomicBool>,
    begun: Instant,
    buying: Vec<JoinHandle<()>>,
    watcher: JoinHandle<u64>,
}

impl Rush {
    async fn begin(data: &Path, up: &Up, buyers: usize, random: &mut StdRng) -> Self {
        let channel = up.connect().await;
        let admin = sign_in(&channel, "admin@localhost", PASSWORD).await;
        let now: Now = Arc::new(Mutex::new(channel.clone()));
        let musical = register_musical(&now, &admin, SEATS).await;
        let buyers: Vec<String> = stream::iter(0..buyers)
            .map(|n| {
                let channel = channel.clone();
                async move { customer(&channel, &format!("buyer{n}@example.org")).await }
            })
            .buffer_unordered(4)
            .collect()
            .await;
        let (told, over) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
        let watcher = tokio::spawn(watch(data.to_owned(), over.clone()));
        let buying = buyers.into_iter().map(|token| {
            let (told, over) = (told.clone(), over.clone());
            let random = StdRng::from_rng(&mut *random);
            tokio::spawn(buy(now.clone(), token, musical.clone(), told, over, random))
        });
        let (buying, begun, data) = (buying.collect(), Instant::now(), data.to_owned());
        Self { data, now, admin, told, over, begun, buying, watcher }
    }

    /// From now on they find the system here.
    async fn moves_to(&self, up: &Up) {
        let channel = up.connect().await;
        *self.now.lock().expect("a lock") = channel;
    }

    /// Until there was one of each end that a reservation can take, if that does not take for ever.
    fn goes_on(&self) -> bool {
        !has_seen_everything(&self.data) && self.begun.elapsed() < common::PATIENCE
    }

    /// Lets everybody have the last answer, and everything come to its end.
    async fn end(self, up: &Up) -> End {
        self.over.store(true, Ordering::Relaxed);
        for done in join_all(self.buying).await {
            done.expect("a buyer");
        }
        let took = self.begun.elapsed();
        let looks = self.watcher.await.expect("the watcher");
        settle(up, &self.admin, &self.data).await;
        End { data: self.data, told: self.told, took, looks }
    }
}

/// When all is over.
struct End {
    data: PathBuf,
    told: Arc<Told>,
    took: Duration,
    looks: u64,
}

impl End {
    /// Everything has its reason, and there was one of each.
    fn is_fair(&self) {
        let account = check(&self.data, &self.told);
        let reserved = self.told.reserved.lock().expect("a lock").len();
        let sold_out = self.told.sold_out.load(Ordering::Relaxed);
        println!(
            "seats {SEATS}, reserved {reserved}, sold {}, refunds {}, declined {}, expired {}, sold out {}, looks {}, {:.0} reservations/s",
            account.sold,
            account.refunds,
            account.declined,
            account.expired,
            sold_out,
            self.looks,
            reserved as f64 / self.took.as_secs_f64(),
        );
        assert!(account.refunds > 0 && sold_out > 0, "too little happened");
        assert!(
            account.declined > 0 && account.expired > 0,
            "no payment was declined, or no hold expired"
        );
    }
}

/// Whether there was one of each end that a reservation can take: a proof without them would prove less.
fn has_seen_everything(data: &Path) -> bool {
    let ends = "SELECT state AS name, count(*) AS number FROM r.reservation \
                WHERE state IN ('PAYMENT_DECLINED', 'EXPIRED', 'CANCELLED') GROUP BY state";
    stores::open(data).rows(ends).len() == 3
}

/// One buyer: reserves, sometimes cancels, gives up an older one when there is nothing left, and sends everything again
/// until there is an answer.
async fn buy(
    now: Now,
    token: String,
    musical: String,
    told: Arc<Told>,
    over: Arc<AtomicBool>,
    mut random: StdRng,
) {
    let mut own = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let seats = random.random_range(1..=3);
        match reserve(
            &now,
            &token,
            ReserveRequest { request_id: request_id(), musical: musical.clone(), seats },
        )
        .await
        {
            Ok(name) => {
                told.reserved.lock().expect("a lock").insert(name.clone());
                own.push(name);
                if random.random_bool(0.4) {
                    continue;
                }
            }
            Err(refused) => {
                assert_eq!(mesh::reason_of(&refused).as_deref(), Some("NOT_ENOUGH_SEATS"));
                told.sold_out.fetch_add(1, Ordering::Relaxed);
                // People look away for a moment before they try again.
                tokio::time::sleep(Duration::from_millis(random.random_range(20..200))).await;
                if random.random_bool(0.7) {
                    continue;
                }
            }
        }
        if let Some(name) = own.pop()
            && cancel(&now, &token, &name).await.is_ok()
        {
            told.cancelled.lock().expect("a lock").insert(name);
        }
    }
}

async fn reserve(now: &Now, token: &str, request: ReserveRequest) -> Result<String, tonic::Status> {
    let reserved = answer(now, |channel| {
        let request = with_token(token, request.clone());
        async move { ReservationServiceClient::new(channel).reserve(request).await }
    });
    Ok(reserved.await?.reservation.expect("a reservation").name)
}

/// One that was declined or has expired meanwhile cannot be cancelled.
async fn cancel(now: &Now, token: &str, name: &str) -> Result<(), tonic::Status> {
    let request = CancelReservationRequest {
        request_id: request_id(),
        name: name.to_owned(),
        quote: String::new(),
    };
    let cancelled = answer(now, |channel| {
        let request = with_token(token, request.clone());
        async move { ReservationServiceClient::new(channel).cancel_reservation(request).await }
    });
    cancelled.await.map(drop)
}

/// Looks at the seats all the time: free and taken are all there are, and none is missing.
async fn watch(data: PathBuf, over: Arc<AtomicBool>) -> u64 {
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        let stores = stores::open(&data);
        assert_eq!(stores.number(FREE_AND_HELD), i64::from(SEATS), "the seats do not add up");
        let free = stores.number("SELECT min(reservable_seats) FROM m.musical");
        assert!((0..=i64::from(SEATS)).contains(&free), "{free} seats are free");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    looks
}

/// Waits until everything that was begun has come to its end.
async fn settle(up: &Up, admin: &str, data: &Path) {
    let channel = up.connect().await;
    eventually("every order, payment and event has come to its end", || async {
        let mut client = OperationsServiceClient::new(channel.clone());
        let answer =
            client.list_policies(with_token(admin, ListPoliciesRequest::default())).await.ok()?;
        let policies = answer.into_inner().policies;
        assert!(
            policies.iter().all(|policy| policy.parked_count == 0),
            "events are parked: {policies:?}"
        );
        let settled = policies.iter().all(|policy| policy.lag == 0)
            && stores::open(data).still_open().is_empty();
        settled.then_some(())
    })
    .await;
}

struct Account {
    sold: usize,
    refunds: usize,
    declined: usize,
    expired: usize,
}

/// Everything has its reason, and everything that was promised is there.
fn check(data: &Path, told: &Told) -> Account {
    let stores = stores::open(data);
    assert_eq!(stores.number(FREE_AND_HELD), i64::from(SEATS), "the seats add up");

    // Sold: one owner, its seats, its payment, and the provider's own log says the same.
    let sold = stores.amounts(
        "SELECT name, amount AS number FROM r.reservation WHERE state = 'PAYMENT_APPROVED'",
    );
    let live = stores.amounts(
        "SELECT order_name AS name, amount AS number FROM p.payment WHERE state = 'APPROVED'",
    );
    assert_eq!(sold, live, "what is sold is paid, and what is paid is sold");
    assert!(stores.number(SEATS_SOLD) <= i64::from(SEATS), "more is sold than there is");
    let held = stores
        .names("SELECT reservation AS name, seats AS number FROM m.seat_hold WHERE NOT returned");
    assert_eq!(
        held,
        sold.keys().cloned().collect(),
        "what is sold has seats, and nothing else has"
    );
    let standing = stores.amounts(
        "SELECT key AS name, amount - refunded AS number FROM c.provider_charge WHERE state = 'CHARGED' AND amount > refunded",
    );
    let approved =
        stores.amounts("SELECT name, amount AS number FROM p.payment WHERE state = 'APPROVED'");
    assert_eq!(standing, approved, "the provider has what we have");
    assert_eq!(standing.len(), sold.len(), "what is sold is paid once");

    // Every refund has one cancel behind it.
    let refunded = stores.names(
        "SELECT order_name AS name, refunded AS number FROM p.payment WHERE state = 'CANCELLED'",
    );
    let given_up = stores.names(
        "SELECT name, 0 AS number FROM r.reservation WHERE state IN ('CANCELLED', 'EXPIRED')",
    );
    assert!(
        refunded.is_subset(&given_up),
        "a refund without a reason: {:?}",
        refunded.difference(&given_up)
    );
    for kind in ["PaymentApproved", "PaymentCancelled"] {
        let twice = format!(
            "SELECT correlation_id AS name, count(*) AS number FROM p.mesh_event WHERE type LIKE '%.{kind}' \
             GROUP BY correlation_id HAVING count(*) > 1"
        );
        assert!(stores.rows(&twice).is_empty(), "{kind} twice for one order");
    }

    // Every notice has one reason, and every reason its notice.
    let notices = stores.names(
        "SELECT order_name || ' ' || kind AS name, 0 AS number FROM n.notice WHERE medium = 'INBOX'",
    );
    let count = stores.number("SELECT count(*) FROM n.notice WHERE medium = 'INBOX'");
    assert_eq!(i64::try_from(notices.len()).expect("few"), count, "no notice twice");
    for notice in &notices {
        let (order, kind) = notice.split_once(' ').expect("an order and a kind");
        let reason = match kind {
            "confirmed" => "ReservationConfirmed",
            "declined" => "ReservationDeclined",
            "cancelled" => "ReservationCancelled",
            "expired" => "ReservationExpired",
            other => panic!("nobody is told {other}"),
        };
        let facts = format!(
            "SELECT type AS name, 0 AS number FROM r.mesh_event WHERE subject = '{order}' AND type LIKE '%.{reason}'"
        );
        assert_eq!(stores.rows(&facts).len(), 1, "{notice}");
    }
    for name in sold.keys() {
        assert!(notices.contains(&format!("{name} confirmed")), "{name} was not told");
    }

    // What was answered is there.
    let known = stores.names("SELECT name, 0 AS number FROM r.reservation");
    let reserved = told.reserved.lock().expect("a lock");
    assert!(reserved.is_subset(&known), "lost: {:?}", reserved.difference(&known));
    // Everybody has the last answer: whatever is there beside it was made twice for one request.
    assert!(known.is_subset(&reserved), "told nobody: {:?}", known.difference(&reserved));
    let cancelled =
        stores.names("SELECT name, 0 AS number FROM r.reservation WHERE state = 'CANCELLED'");
    let promised = told.cancelled.lock().expect("a lock");
    assert!(promised.is_subset(&cancelled), "not cancelled: {:?}", promised.difference(&cancelled));
    let ended = |state: &str| {
        stores.names(&format!("SELECT name FROM r.reservation WHERE state = '{state}'")).len()
    };
    Account {
        sold: sold.len(),
        refunds: refunded.len(),
        declined: ended("PAYMENT_DECLINED"),
        expired: ended("EXPIRED"),
    }
}

/// Free seats and those that reservations have, of the one performance there is, at one moment.
const FREE_AND_HELD: &str = "(SELECT sum(reservable_seats) FROM m.musical) + \
     (SELECT coalesce(sum(seats), 0) FROM m.seat_hold WHERE NOT returned)";

const SEATS_SOLD: &str =
    "SELECT coalesce(sum(seats), 0) FROM r.reservation WHERE state = 'PAYMENT_APPROVED'";

//! The oversell proof: many buyers, few seats, declined payments, lost replies, cancels and expiries, and the process
//! killed at random moments. At every look and at the end the seats add up; at the end everything has its reason.
//!
//! `OVERSELL_SECONDS` (15) says for how long, `OVERSELL_SEED` from which random numbers.

#![allow(clippy::print_stdout, reason = "the proof prints what it saw")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use common::stores::Stores;
use common::{Now, PASSWORD, Up, answer, customer, register_musical, setting, sign_in, with_token};
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use mesh_testing::{eventually, request_id};
use proto::mesh::v1::ListPoliciesRequest;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::outerpark::reservation::v1::{CancelReservationRequest, ReserveRequest};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const BUYERS: usize = 200;
const SEATS: i32 = 30;

/// A slow and unreliable world, and everything that heals it quick.
const WORLD: [(&str, &str); 9] = [
    ("TURNSTILE_LOG", "off"),
    ("TURNSTILE_PAYMENT_DELAY_MS", "0-80"),
    ("TURNSTILE_PAYMENT_DECLINE_SHARE", "0.1"),
    ("TURNSTILE_PAYMENT_LOST_REPLY_SHARE", "0.15"),
    ("TURNSTILE_PAYMENT_SWEEP_AFTER", "2"),
    ("TURNSTILE_SAGA_SWEEP_AFTER_SECONDS", "2"),
    ("TURNSTILE_RESERVATION_HOLD_SECONDS", "1"),
    ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "0"),
    ("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", "0"),
];

/// What the buyers know.
#[derive(Debug, Default)]
struct Told {
    reserved: Mutex<BTreeSet<String>>,
    cancelled: Mutex<BTreeSet<String>>,
    refused: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seat_is_sold_twice_whatever_dies_when() {
    let seconds = setting("OVERSELL_SECONDS", 15);
    let seed =
        setting("OVERSELL_SEED", SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs());
    println!("OVERSELL_SEED={seed}");
    let folder = tempfile::tempdir().expect("a folder");
    let mut up = Up::start_with(folder.path(), &WORLD).await;
    let channel = up.connect().await;
    let admin = sign_in(&channel, "admin@localhost", PASSWORD).await;
    let now: Now = Arc::new(Mutex::new(channel.clone()));
    let musical = register_musical(&now, &admin, SEATS).await;
    let buyers: Vec<String> = stream::iter(0..BUYERS)
        .map(|n| {
            let channel = channel.clone();
            async move { customer(&channel, &format!("buyer{n}@example.org")).await }
        })
        .buffer_unordered(4)
        .collect()
        .await;

    let (told, over) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
    let watcher = tokio::task::spawn(watch(folder.path().to_owned(), over.clone()));
    let begun = Instant::now();
    let buying: Vec<_> = buyers
        .into_iter()
        .enumerate()
        .map(|(n, token)| {
            let random = StdRng::seed_from_u64(seed ^ n as u64);
            tokio::spawn(buy(
                now.clone(),
                token,
                musical.clone(),
                told.clone(),
                over.clone(),
                random,
            ))
        })
        .collect();

    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    while begun.elapsed() < Duration::from_secs(seconds)
        || (!has_seen_everything(folder.path()) && begun.elapsed() < common::PATIENCE)
    {
        // The moment of a kill is what is random here, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.random_range(500..2500))).await;
        up.kill().await;
        kills += 1;
        up = Up::start_with(folder.path(), &WORLD).await;
        *now.lock().expect("a lock") = up.connect().await;
    }
    over.store(true, Ordering::Relaxed);
    for done in join_all(buying).await {
        done.expect("a buyer");
    }
    let took = begun.elapsed();
    let looks = watcher.await.expect("the watcher");

    settle(&up, &admin, folder.path()).await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    let account = check(folder.path(), &told);
    let rate = told.reserved.lock().expect("a lock").len() as f64 / took.as_secs_f64();
    println!(
        "seats {SEATS}, reserved {}, sold {}, refunds {}, declined {}, expired {}, refused {}, kills {kills}, looks {looks}, {rate:.0} reservations/s",
        told.reserved.lock().expect("a lock").len(),
        account.sold,
        account.refunds,
        account.declined,
        account.expired,
        told.refused.load(Ordering::Relaxed),
    );
    assert!(kills > 3 && account.refunds > 0, "too little happened");
    assert!(
        account.declined > 0 && account.expired > 0,
        "no payment was declined, or no hold expired"
    );
}

/// Whether there was one of each end that a reservation can take: a proof without them would prove less.
fn has_seen_everything(data: &Path) -> bool {
    let ends = "SELECT state AS name, count(*) AS number FROM r.reservation \
                WHERE state IN ('PAYMENT_DECLINED', 'EXPIRED', 'CANCELLED') GROUP BY state";
    Stores::open(data).rows(ends).len() == 3
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
            Err(_) => {
                told.refused.fetch_add(1, Ordering::Relaxed);
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
async fn watch(data: std::path::PathBuf, over: Arc<AtomicBool>) -> u64 {
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        let stores = Stores::open(&data);
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
        let stores = Stores::open(data);
        let zero = |query: &str| stores.number(query) == 0;
        let settled = policies.iter().all(|policy| policy.lag == 0)
            && zero("SELECT count(*) FROM r.mesh_intent WHERE state IN ('PENDING', 'VOIDING')")
            && zero("SELECT count(*) FROM r.reservation WHERE state = 'SEATS_RESERVED'")
            && zero("SELECT count(*) FROM p.payment WHERE state IN ('PENDING', 'REFUNDING')")
            && zero("SELECT count(*) FROM p.payment_refund_due")
            && policies_have_read_all(&stores);
        settled.then_some(())
    })
    .await;
}

/// Every cursor is at the end of the log it reads.
fn policies_have_read_all(stores: &Stores) -> bool {
    ["r", "y", "n", "p", "m"].iter().all(|reader| {
        let behind = [("outerpark.reservation", "r"), ("payment", "p"), ("outerpark.musical", "m"), ("notice", "n")]
            .iter()
            .map(|(source, log)| {
                format!(
                    "SELECT policy AS name, position AS number FROM {reader}.mesh_cursor WHERE source = '{source}' \
                     AND position < (SELECT coalesce(max(position), 0) FROM {log}.mesh_event WHERE {log}.mesh_event.type \
                     IN ({WANTED}))"
                )
            })
            .any(|query| !stores.rows(&query).is_empty());
        !behind
    })
}

/// The events that move seats, money and words.
const WANTED: &str = "'turnstile.outerpark.reservation.v1.Reserved', \
     'turnstile.outerpark.reservation.v1.ReservationConfirmed', \
     'turnstile.outerpark.reservation.v1.ReservationCancelled', \
     'turnstile.outerpark.reservation.v1.ReservationDeclined', \
     'turnstile.outerpark.reservation.v1.ReservationExpired', 'turnstile.payment.v1.PaymentApproved', \
     'turnstile.payment.v1.PaymentCancelled'";

struct Account {
    sold: usize,
    refunds: usize,
    declined: usize,
    expired: usize,
}

/// Everything has its reason, and everything that was promised is there.
fn check(data: &Path, told: &Told) -> Account {
    let stores = Stores::open(data);
    assert_eq!(stores.number(FREE_AND_HELD), i64::from(SEATS), "the seats add up");

    // Sold: one owner, its seats, its payment, and the provider's own log says the same.
    let sold = stores.amounts(
        "SELECT name, amount AS number FROM r.reservation WHERE state = 'PAYMENT_APPROVED'",
    );
    let live = stores.amounts(
        "SELECT order_name AS name, amount AS number FROM p.payment WHERE state = 'APPROVED'",
    );
    assert_eq!(sold, live, "what is sold is paid, and what is paid is sold");
    let held = stores
        .names("SELECT reservation AS name, seats AS number FROM m.seat_hold WHERE returned = 0");
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
     (SELECT coalesce(sum(seats), 0) FROM m.seat_hold WHERE returned = 0)";

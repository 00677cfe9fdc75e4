//! Customers of both systems at work, and what must be true of all that they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use mesh_testing::{eventually, request_id};
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::app::v1::{CancelMovieApplicationRequest, PickMovieRequest};
use proto::mypage::v1::RebuildViewRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::outerpark::reservation::v1::{CancelReservationRequest, ReserveRequest};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::stores;
use super::{Now, PASSWORD, Up, answer, customer, film, register_musical, sign_in, with_token};

/// How many buy films, and how many reserve seats.
pub const BUYERS: usize = 8;
const SEATS: i32 = 60;

/// A provider that is a little slow and sometimes silent, and everything that heals it quick.
pub const WORLD: [(&str, &str); 7] = [
    ("TURNSTILE_LOG", "off"),
    ("TURNSTILE_PAYMENT_DELAY_MS", "0-40"),
    ("TURNSTILE_PAYMENT_LOST_REPLY_SHARE", "0.05"),
    ("TURNSTILE_PAYMENT_SWEEP_AFTER", "2"),
    ("TURNSTILE_SAGA_SWEEP_AFTER_SECONDS", "2"),
    ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "0"),
    ("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", "0"),
];

/// What customers were told.
#[derive(Debug, Default)]
pub struct Told {
    orders: Mutex<BTreeSet<String>>,
    cancelled: Mutex<BTreeSet<String>>,
}

impl Told {
    fn ordered(&self, name: &str) {
        self.orders.lock().expect("a lock").insert(name.to_owned());
    }

    fn cancelled(&self, name: String) {
        self.cancelled.lock().expect("a lock").insert(name);
    }
}

/// What a customer has.
#[derive(Clone)]
struct Customer {
    now: Now,
    token: String,
    told: Arc<Told>,
    over: Arc<AtomicBool>,
}

/// The customers of a system, each at work until all are sent home.
pub struct Crowd {
    /// Where they find the system.
    pub now: Now,
    /// Somebody who may do more.
    pub admin: String,
    /// The token of one of them.
    pub token: String,
    pub told: Arc<Told>,
    over: Arc<AtomicBool>,
    at_work: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Half of them buy films, half of them reserve seats.
    pub async fn gather(up: &Up, seed: u64) -> Self {
        let channel = up.connect().await;
        let admin = sign_in(&channel, "admin@localhost", PASSWORD).await;
        let now: Now = Arc::new(Mutex::new(channel.clone()));
        let (told, over) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
        let movie = film(channel.clone()).await;
        let musical = register_musical(&now, &admin, SEATS).await;
        let (mut at_work, mut last) = (Vec::new(), String::new());
        for n in 0..BUYERS * 2 {
            let token = customer(&channel, &format!("customer{n}@example.org")).await;
            last.clone_from(&token);
            let customer =
                Customer { now: now.clone(), token, told: told.clone(), over: over.clone() };
            let random = StdRng::seed_from_u64(seed ^ n as u64);
            at_work.push(if n % 2 == 0 {
                tokio::spawn(buy_films(customer, movie.clone(), random))
            } else {
                tokio::spawn(reserve_seats(customer, musical.clone(), random))
            });
        }
        Self { now, admin, token: last, told, over, at_work }
    }

    /// From now on they find it here.
    pub async fn moves_to(&self, up: &Up) {
        let channel = up.connect().await;
        *self.now.lock().expect("a lock") = channel;
    }

    /// Lets everybody have the answer to the last thing asked for.
    pub async fn go_home(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for done in join_all(self.at_work.drain(..)).await {
            done.expect("a customer");
        }
    }

    /// Everybody leaves at once, whatever they wait for.
    pub fn scatter(&mut self) {
        self.at_work.drain(..).for_each(|customer| customer.abort());
    }

    /// Everything they were told is so, and nothing is between two states.
    pub async fn was_told_the_truth(&self, data: &Path) {
        settle(data).await;
        check(data, &self.told);
        my_page_is_what_the_events_say(&self.now, &self.admin, data).await;
    }
}

impl Told {
    /// How many orders, and how many of them cancelled.
    pub fn counts(&self) -> (usize, usize) {
        let orders = self.orders.lock().expect("a lock").len();
        (orders, self.cancelled.lock().expect("a lock").len())
    }
}

/// Picks films, and sometimes cancels one.
async fn buy_films(customer: Customer, movie: String, mut random: StdRng) {
    let Customer { now, token, told, over } = &customer;
    while !over.load(Ordering::Relaxed) {
        let request = PickMovieRequest { request_id: request_id(), movie: movie.clone() };
        let picked = answer(now, |channel| {
            let request = with_token(token, request.clone());
            async move { MovieApplicationServiceClient::new(channel).pick_movie(request).await }
        });
        let name = picked.await.expect("picked").movie_application.expect("an application").name;
        told.ordered(&name);
        if random.random_bool(0.3) {
            let request = CancelMovieApplicationRequest { request_id: request_id(), name };
            let cancelled = answer(now, |channel| {
                let request = with_token(token, request.clone());
                async move {
                    MovieApplicationServiceClient::new(channel)
                        .cancel_movie_application(request)
                        .await
                }
            });
            cancelled.await.expect("cancelled");
            told.cancelled(request.name);
        }
        pause(&mut random).await;
    }
}

/// Reserves seats, and gives them back to have room for others.
async fn reserve_seats(customer: Customer, musical: String, mut random: StdRng) {
    let Customer { now, token, told, over } = &customer;
    let mut own = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let seats = random.random_range(1..=3);
        let request = ReserveRequest { request_id: request_id(), musical: musical.clone(), seats };
        let reserved = answer(now, |channel| {
            let request = with_token(token, request.clone());
            async move { ReservationServiceClient::new(channel).reserve(request).await }
        });
        // Refused: there is no room.
        if let Ok(answer) = reserved.await {
            let name = answer.reservation.expect("a reservation").name;
            told.ordered(&name);
            own.push(name);
        }
        if own.len() > 2
            && let Some(name) = own.pop()
        {
            let request = CancelReservationRequest {
                request_id: request_id(),
                name,
                ..CancelReservationRequest::default()
            };
            let cancelled = answer(now, |channel| {
                let request = with_token(token, request.clone());
                async move { ReservationServiceClient::new(channel).cancel_reservation(request).await }
            });
            cancelled.await.expect("cancelled");
            told.cancelled(request.name);
        }
        pause(&mut random).await;
    }
}

/// People look away between two orders.
async fn pause(random: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
}

/// Every store is sound after a kill, and nothing is between two states for longer than a minute.
pub fn check_integrity(data: &Path) {
    let stores = stores::open(data);
    assert_eq!(stores.faults(), BTreeMap::new());
    for desk in ["a", "r"] {
        let oldest = format!(
            "SELECT coalesce(min(time), {now}) FROM {desk}.mesh_intent WHERE state IN ('PENDING', 'VOIDING')",
            now = mesh::micros(mesh::now())
        );
        let oldest = mesh::time_of(stores.number(&oldest));
        let age = oldest.elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(60), "{desk}: an intent is {age:?} old");
    }
}

/// Waits until everything that was begun has come to its end.
async fn settle(data: &Path) {
    eventually("everything has come to its end", || async {
        stores::open(data).still_open().is_empty().then_some(())
    })
    .await;
}

/// What was answered is there, what is live is paid, what has seats is live, and all of it once.
fn check(data: &Path, told: &Told) {
    let stores = stores::open(data);
    let known =
        stores.names("SELECT name FROM a.movie_application UNION SELECT name FROM r.reservation");
    let orders = told.orders.lock().expect("a lock");
    assert!(orders.is_subset(&known), "lost: {:?}", orders.difference(&known));
    let cancelled = stores.names(
        "SELECT name FROM a.movie_application WHERE state = 'MOVIE_CANCELLED' \
         UNION SELECT name FROM r.reservation WHERE state = 'CANCELLED'",
    );
    let promised = told.cancelled.lock().expect("a lock");
    assert!(promised.is_subset(&cancelled), "not cancelled: {:?}", promised.difference(&cancelled));

    let live = stores.amounts(
        "SELECT name, price AS number FROM a.movie_application WHERE state <> 'MOVIE_CANCELLED' \
         UNION ALL SELECT name, amount AS number FROM r.reservation WHERE state = 'PAYMENT_APPROVED'",
    );
    let paid = stores.amounts(
        "SELECT order_name AS name, amount AS number FROM p.payment WHERE state = 'APPROVED'",
    );
    assert_eq!(live, paid, "what is live is paid, and what is paid is live");
    let approved =
        stores.amounts("SELECT name, amount AS number FROM p.payment WHERE state = 'APPROVED'");
    let standing = stores.amounts(
        "SELECT key AS name, amount - refunded AS number FROM c.provider_charge \
         WHERE state = 'CHARGED' AND amount > refunded",
    );
    assert_eq!(standing, approved, "the provider's books say the same");

    let held = stores
        .amounts("SELECT reservation AS name, seats AS number FROM m.seat_hold WHERE NOT returned");
    let reserved = stores.amounts(
        "SELECT name, seats AS number FROM r.reservation WHERE state = 'PAYMENT_APPROVED'",
    );
    assert_eq!(held, reserved, "who has seats is who reserved them");
    let free = stores.number("SELECT reservable_seats FROM m.musical");
    assert_eq!(free + held.values().sum::<i64>(), i64::from(SEATS), "the seats add up");

    let bought =
        stores.number("SELECT count(*) FROM f.movie_purchase WHERE state = 'MOVIE_ORDERED'");
    let films = live.keys().filter(|name| name.starts_with("movieApplications/")).count();
    assert_eq!(i64::try_from(films).expect("few"), bought, "who paid for a film has it, once");
    for letter in ["a", "f", "m", "r", "p", "n", "y"] {
        let parked = stores.number(&format!("SELECT count(*) FROM {letter}.mesh_parked"));
        let gaps = stores.number(&format!(
            "SELECT coalesce(max(position), 0) - count(*) FROM {letter}.mesh_event"
        ));
        assert_eq!((parked, gaps), (0, 0), "{letter}: parked events, gaps in the log");
    }
}

/// Made anew from the first event of every log, my page is what it was.
async fn my_page_is_what_the_events_say(now: &Now, admin: &str, data: &Path) {
    let request = RebuildViewRequest { request_id: request_id() };
    let before = stores::open(data).my_page();
    let asked = answer(now, |channel| {
        let request = with_token(admin, request.clone());
        async move { MyPageServiceClient::new(channel).rebuild_view(request).await }
    });
    let generation = i64::from(asked.await.expect("asked").generation);
    eventually("the new view has taken the old one's place", || async {
        let current = stores::open(data).number("SELECT current FROM y.mesh_view");
        (current == generation).then_some(())
    })
    .await;
    let after = stores::open(data).my_page();
    assert!(before.len() > 100, "too little to compare: {}", before.len());
    let differ: Vec<_> = before.symmetric_difference(&after).take(5).collect();
    assert!(differ.is_empty(), "the view is not what its events say: {differ:?}");
}

//! The simulated load (rule G-10): who is not answered in time loses no seat, and nobody else's.

use std::num::NonZero;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mesh::simulate::Delay;
use mesh_testing::eventually;
use outerpark_musical::Settings;
use proto::outerpark::musical::v1::{SeatsDeducted, SeatsReturned};
use tonic::Code;

use crate::support::{open_with, reservation};

fn load(delay: Delay, concurrency: usize) -> Settings {
    Settings { delay, concurrency: NonZero::new(concurrency) }
}

#[tokio::test]
async fn g10_who_gives_up_before_the_work_has_begun_has_taken_no_seat() {
    let settings = load(Delay::millis(60_000..=60_000), 2);
    let house = open_with(settings, Duration::from_millis(200)).await;
    let musical = house.register(100).await;
    let reservations: Vec<_> = (0..20).map(|_| reservation()).collect();
    let begun = Instant::now();
    let outcomes = join_all(
        reservations.iter().map(|reservation| house.try_reserve(reservation, &musical, 2)),
    )
    .await;

    for outcome in outcomes {
        assert_eq!(outcome.expect_err("it takes a minute").code(), Code::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(house.books(&musical).free, 100);
    // An overload does not hold up giving back, and after it none of them gets a seat.
    for reservation in &reservations {
        assert_eq!(house.give_back(reservation).await, 0);
    }
    assert_eq!((house.books(&musical).free, house.books(&musical).held), (100, 0));
}

#[tokio::test]
async fn g10_a_load_makes_each_call_take_its_time() {
    let house = open_with(load(Delay::millis(300..=320), 10), Duration::from_secs(5)).await;
    let musical = house.register(100).await;
    let begun = Instant::now();
    house.reserve(&reservation(), &musical, 2).await.expect("reserved");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn op_n6_a_timeout_around_the_deduction_is_undone_by_giving_back() {
    // About half of them are in time: the others give up in the queue, at work, or around the commit.
    let settings = load(Delay::millis(10..=60), 4);
    let house = open_with(settings, Duration::from_millis(150)).await;
    let musical = house.register(500).await;
    let reservations: Vec<_> = (0..40).map(|_| reservation()).collect();
    let outcomes = join_all(
        reservations.iter().map(|reservation| house.try_reserve(reservation, &musical, 3)),
    )
    .await;
    assert!(outcomes.iter().any(Result::is_err), "40 cannot pass in time");
    house.books(&musical).must_add_up();

    let mut kept = 0;
    for (reservation, outcome) in reservations.iter().zip(outcomes) {
        if outcome.is_ok() {
            kept += 3;
            continue;
        }
        let returned = house.give_back(reservation).await;
        let taken = house.told::<SeatsDeducted>(reservation).await;
        assert_eq!(taken.iter().map(|deducted| deducted.seats).sum::<i32>(), returned);
        assert_eq!(house.told::<SeatsReturned>(reservation).await.len(), 1);
    }
    let books = house.books(&musical);
    assert_eq!((books.free, books.held), (500 - kept, kept));
}

#[tokio::test]
async fn g10_after_the_load_a_call_succeeds_again() {
    let settings = load(Delay::millis(20..=40), 2);
    let house = open_with(settings, Duration::from_millis(500)).await;
    let musical = house.register(100).await;
    let reservations: Vec<_> = (0..100).map(|_| reservation()).collect();
    join_all(reservations.iter().map(|reservation| house.try_reserve(reservation, &musical, 1)))
        .await;
    // Who gave up has left the queue.
    let first = reservation();
    eventually("a call that succeeds", async || house.try_reserve(&first, &musical, 1).await.ok())
        .await;
    house.books(&musical).must_add_up();
}

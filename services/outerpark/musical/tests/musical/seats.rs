//! Seats are taken once and given back once, whoever asks how often and in which order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use mesh_testing::{bad_fields, refusal, request_id};
use proto::outerpark::musical::v1::{
    ReserveSeatsRequest, ReturnSeatsRequest, SeatsDeducted, SeatsReturned, WithdrawMusicalRequest,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{Books, House, PRICE, in_seconds, open, performance, reservation, won};

fn refused(reason: &str) -> (Code, String) {
    (Code::FailedPrecondition, reason.to_owned())
}

async fn withdraw(house: &House, musical: &str) {
    let request = WithdrawMusicalRequest { request_id: request_id(), name: musical.to_owned() };
    house.office().withdraw_musical(request).await.expect("withdrawn");
}

#[tokio::test]
async fn op_f3_the_seats_are_fewer_before_the_answer() {
    let house = open().await;
    let (musical, reservation) = (house.register(100).await, reservation());
    let answer = house.try_reserve(&reservation, &musical, 10).await.expect("reserved");
    let books = house.books(&musical);

    assert_eq!((answer.reservable_seats, answer.amount), (90, Some(won(10 * PRICE))));
    assert_eq!((books.free, books.held), (90, 10));
    let seen = house.get(&musical).await.expect("the performance");
    assert_eq!((seen.reservable_seats, seen.total_seats), (90, 100));
    assert_eq!(seen.revision, format!("{musical}@2"));
}

#[tokio::test]
async fn what_was_taken_is_told_with_its_cause_and_what_it_is_about() {
    let house = open().await;
    let (musical, reservation) = (house.register(100).await, reservation());
    let request = ReserveSeatsRequest {
        request_id: request_id(),
        reservation: reservation.clone(),
        musical: musical.clone(),
        seats: 3,
    };
    house.client().reserve_seats(request.clone()).await.expect("reserved");
    house.give_back(&reservation).await;

    let events = house.events(&reservation).await;
    let subjects: Vec<_> =
        events.iter().map(|event| (event.subject.as_str(), event.sequence)).collect();
    assert_eq!(subjects, [(musical.as_str(), 2), (musical.as_str(), 3)]);
    assert_eq!(events[0].causation_id, request.request_id);
    let deducted = SeatsDeducted {
        musical: musical.clone(),
        reservation: reservation.clone(),
        seats: 3,
        reservable_seats: 97,
    };
    assert_eq!(house.told::<SeatsDeducted>(&reservation).await, [deducted]);
    let returned = SeatsReturned {
        musical: musical.clone(),
        reservation: reservation.clone(),
        seats: 3,
        reservable_seats: 100,
    };
    assert_eq!(house.told::<SeatsReturned>(&reservation).await, [returned]);
    assert_eq!(house.books(&musical).revision, 3);
}

#[tokio::test]
async fn op_n1_too_many_seats_are_refused_and_nothing_changes() {
    let house = open().await;
    let (musical, reservation) = (house.register(30).await, reservation());
    let before = house.books(&musical);
    let outcome = house.try_reserve(&reservation, &musical, 31).await;

    let info = outcome.as_ref().expect_err("refused").get_details_error_info().expect("the facts");
    assert_eq!(info.domain, "outerpark.musical");
    let facts = [("musical", musical.as_str()), ("reservable_seats", "30")];
    let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(info.metadata, HashMap::from(facts));
    assert_eq!(refusal(outcome), refused("NOT_ENOUGH_SEATS"));
    assert_eq!(house.books(&musical), before);
    assert!(house.events(&reservation).await.is_empty());
    // It was not remembered: fewer seats are fine.
    house.try_reserve(&reservation, &musical, 30).await.expect("reserved");
}

#[tokio::test]
async fn op_n2_50_parallel_reservations_on_30_seats_exactly_30_succeed() {
    let house = open().await;
    let musical = house.register(30).await;
    let reservations: Vec<_> = (0..50).map(|_| reservation()).collect();
    let outcomes =
        join_all(reservations.iter().map(|reservation| house.reserve(reservation, &musical, 1)))
            .await;

    let (taken, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), others.len()), (30, 20));
    for outcome in others {
        assert_eq!(refusal(outcome), refused("NOT_ENOUGH_SEATS"));
    }
    let mut left: Vec<_> =
        taken.into_iter().map(|answer| answer.expect("taken").reservable_seats).collect();
    left.sort_unstable();
    assert_eq!(left, (0..30).collect::<Vec<_>>(), "no two got the same seat");
    let books = house.books(&musical);
    assert_eq!((books.free, books.held, books.revision), (0, 30, 31));
}

#[tokio::test]
async fn op_f7_the_seats_are_back_once_however_often_they_are_returned() {
    let house = open().await;
    let (musical, reservation) = (house.register(30).await, reservation());
    house.reserve(&reservation, &musical, 10).await.expect("reserved");
    let returned = join_all((0..20).map(|_| house.give_back(&reservation))).await;

    assert_eq!(returned, [10; 20]);
    let books = house.books(&musical);
    assert_eq!((books.free, books.held), (30, 0));
    assert_eq!(house.told::<SeatsReturned>(&reservation).await.len(), 1);
}

#[tokio::test]
async fn g7_a_return_that_comes_first_leaves_a_tombstone_and_wins() {
    let house = open().await;
    let (musical, reservation) = (house.register(30).await, reservation());
    let returned = join_all((0..5).map(|_| house.give_back(&reservation))).await;
    assert_eq!(returned, [0; 5]);

    let events = house.events(&reservation).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].subject, reservation);
    let nothing = SeatsReturned { reservation: reservation.clone(), ..SeatsReturned::default() };
    assert_eq!(house.told::<SeatsReturned>(&reservation).await, [nothing]);
    for seats in [1, 5] {
        let outcome = house.reserve(&reservation, &musical, seats).await;
        assert_eq!(refusal(outcome), refused("RESERVATION_VOIDED"));
    }
    assert_eq!(house.books(&musical).free, 30);
}

#[tokio::test]
async fn a_reservation_that_gave_back_gets_no_seats_any_more() {
    let house = open().await;
    let (musical, reservation) = (house.register(30).await, reservation());
    house.reserve(&reservation, &musical, 10).await.expect("reserved");
    house.give_back(&reservation).await;
    let outcome = house.reserve(&reservation, &musical, 10).await;
    assert_eq!(refusal(outcome), refused("RESERVATION_VOIDED"));
    assert_eq!(house.books(&musical).free, 30);
}

#[tokio::test]
async fn the_same_reservation_twice_gets_the_same_answer_also_after_a_crash() {
    let house = open().await;
    let (musical, mine) = (house.register(30).await, reservation());
    let first = house.reserve(&mine, &musical, 10).await.expect("reserved");
    house.reserve(&reservation(), &musical, 5).await.expect("reserved");
    assert_eq!(house.reserve(&mine, &musical, 10).await.expect("again"), first);
    house.crash_and_restart().await;
    assert_eq!(house.reserve(&mine, &musical, 10).await.expect("again"), first);
    // The end of the sale does not change what was answered.
    withdraw(&house, &musical).await;
    assert_eq!(house.reserve(&mine, &musical, 10).await.expect("again"), first);
    assert_eq!(house.books(&musical).held, 15);
    assert_eq!(house.told::<SeatsDeducted>(&mine).await.len(), 1);
}

#[tokio::test]
async fn twins_of_one_reservation_take_their_seats_once() {
    let house = open().await;
    let (musical, reservation) = (house.register(30).await, reservation());
    let answers = join_all((0..20).map(|_| house.reserve(&reservation, &musical, 10))).await;
    for answer in answers {
        assert_eq!(answer.expect("the same answer").reservable_seats, 20);
    }
    assert_eq!(house.books(&musical).held, 10);
    assert_eq!(house.told::<SeatsDeducted>(&reservation).await.len(), 1);
}

#[tokio::test]
async fn the_same_reservation_with_other_seats_is_refused() {
    let house = open().await;
    let (musical, other) = (house.register(30).await, house.register(30).await);
    let reservation = reservation();
    house.reserve(&reservation, &musical, 10).await.expect("reserved");
    for (musical, seats) in [(&musical, 11), (&other, 10)] {
        let outcome = house.reserve(&reservation, musical, seats).await;
        assert_eq!(refusal(outcome), refused("RESERVATION_MISMATCH"));
    }
    assert_eq!((house.books(&musical).held, house.books(&other).held), (10, 0));
}

#[tokio::test]
async fn seats_are_sold_within_the_sales_window_only() {
    let house = open().await;
    let windows = [
        // Before it, after it, and after the performance.
        (Some(in_seconds(3600)), None, 86_400),
        (Some(in_seconds(-7200)), Some(in_seconds(-3600)), 86_400),
        (None, None, -60),
    ];
    for (sales_start_time, sales_end_time, performance_time) in windows {
        let mut request = performance(30);
        request.sales_start_time = sales_start_time;
        request.sales_end_time = sales_end_time;
        request.performance_time = Some(in_seconds(performance_time));
        let musical = house.try_register(request).await.expect("registered").name;
        let outcome = house.reserve(&reservation(), &musical, 1).await;
        assert_eq!(refusal(outcome), refused("NOT_ON_SALE"));
        assert_eq!(house.books(&musical).free, 30);
    }
    let mut request = performance(30);
    request.sales_start_time = Some(in_seconds(-60));
    request.sales_end_time = request.performance_time;
    let musical = house.try_register(request).await.expect("registered").name;
    house.reserve(&reservation(), &musical, 1).await.expect("within the window");
}

#[tokio::test]
async fn a_withdrawn_performance_sells_no_seats_but_takes_them_back() {
    let house = open().await;
    let (musical, mine) = (house.register(30).await, reservation());
    house.reserve(&mine, &musical, 10).await.expect("reserved");
    withdraw(&house, &musical).await;
    let outcome = house.reserve(&reservation(), &musical, 1).await;
    assert_eq!(refusal(outcome), refused("MUSICAL_WITHDRAWN"));
    assert_eq!(house.books(&musical).held, 10, "who has seats keeps them");
    assert_eq!(house.give_back(&mine).await, 10);
    assert_eq!(house.books(&musical).free, 30);
}

#[tokio::test]
async fn seats_that_cost_more_than_can_be_charged_are_refused() {
    let house = open().await;
    let mut request = performance(100);
    request.price_per_seat = Some(won(1_000_000_000_000));
    let musical = house.try_register(request).await.expect("registered").name;
    assert_eq!(bad_fields(house.reserve(&reservation(), &musical, 2).await), ["seats"]);
    house.reserve(&reservation(), &musical, 1).await.expect("just so");
    assert_eq!(house.books(&musical).held, 1);
}

#[tokio::test]
async fn a_performance_that_is_not_there_has_no_seats() {
    let house = open().await;
    let musical = format!("musicals/{}", request_id());
    let status = house.reserve(&reservation(), &musical, 1).await.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, format!("{musical} was not found").as_str())
    );
}

#[tokio::test]
async fn g13_every_bad_field_is_named() {
    let house = open().await;
    let bad = ReserveSeatsRequest {
        request_id: "1".to_owned(),
        reservation: "musicals/1".to_owned(),
        musical: "1".to_owned(),
        seats: 0,
    };
    let outcome = house.client().reserve_seats(bad).await;
    assert_eq!(bad_fields(outcome), ["request_id", "reservation", "musical", "seats"]);
    let musical = house.register(30).await;
    for seats in [-1, 1001, i32::MIN, i32::MAX] {
        let outcome = house.try_reserve(&reservation(), &musical, seats).await;
        assert_eq!(bad_fields(outcome), ["seats"]);
    }
    let bad = ReturnSeatsRequest { request_id: String::new(), reservation: "x".to_owned() };
    assert_eq!(bad_fields(house.client().return_seats(bad).await), ["request_id", "reservation"]);
    assert_eq!(house.books(&musical).free, 30);
}

#[tokio::test]
async fn a_return_that_races_its_reservation_loses_no_seat() {
    let house = open().await;
    let musical = house.register(100).await;
    let done = AtomicBool::new(false);
    let look = async {
        let mut looks = 0;
        while !done.load(Ordering::SeqCst) {
            house.books(&musical).must_add_up();
            looks += 1;
            tokio::task::yield_now().await;
        }
        looks
    };
    let race = async {
        for _ in 0..10 {
            let reservations: Vec<_> = (0..8).map(|_| reservation()).collect();
            let races = reservations.iter().map(|reservation| async {
                let taking = house.reserve(reservation, &musical, 3);
                let (taken, returned) = tokio::join!(taking, house.give_back(reservation));
                match taken {
                    Ok(_) => assert_eq!(returned, 3, "it was behind"),
                    outcome => {
                        assert_eq!(refusal(outcome), refused("RESERVATION_VOIDED"));
                        assert_eq!(returned, 0, "it was ahead");
                    }
                }
            });
            join_all(races).await;
            for reservation in &reservations {
                assert_eq!(house.told::<SeatsReturned>(reservation).await.len(), 1);
            }
        }
        done.store(true, Ordering::SeqCst);
    };
    let (looks, ()) = tokio::join!(look, race);
    assert!(looks > 0);
    let Books { free, held, .. } = house.books(&musical);
    assert_eq!((free, held), (100, 0));
}

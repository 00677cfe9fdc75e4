//! The acceptance lines of the musical reservation: what must work, and what must hold when something does not.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use contract_tests::outerpark::{Outerpark, Setup};
use contract_tests::stores::{count, events};
use futures::future::join_all;
use mesh::client::EdgeSettings;
use mesh_testing::{eventually, refusal, request_id};
use proto::common::v1::Money;
use proto::outerpark::reservation::v1 as desk;
use proto::outerpark::reservation::v1::reservation::State;
use proto::payment::v1::payment::State as PaymentState;
use tonic::Code;
use tonic_types::StatusExt as _;

fn won(minor_units: i64) -> Option<Money> {
    Some(Money { currency_code: "KRW".to_owned(), minor_units })
}

#[tokio::test]
async fn op_f1_op_f2_op_f3_op_f4_seats_are_taken_at_once_and_the_payment_follows() {
    let park = Outerpark::start(100).await;
    let reserved = park.reserve(10).await.unwrap();
    assert_eq!(park.free().await, 90, "before the answer");
    assert_eq!((reserved.state(), reserved.amount), (State::SeatsReserved, won(500_000)));
    park.until(&reserved.name, State::PaymentApproved).await;
    let payments = park.payments_of(&reserved.name).await;
    assert_eq!(payments.len(), 1);
    assert_eq!(
        (payments[0].state(), payments[0].amount.clone()),
        (PaymentState::Approved, won(500_000))
    );
}

#[tokio::test]
async fn op_f5_one_notice_for_each_approval() {
    let park = Outerpark::start(100).await;
    let reserved = park.reserve(2).await.unwrap();
    park.until_told(&reserved.name, &["confirmed"]).await;
    // The desk hears everything again.
    park.mesh.mesh.stop("outerpark.reservation").await;
    mesh_testing::turn_back(
        &park.mesh.store("outerpark.reservation"),
        "policy LIKE '%whenever_reservation_confirmed'",
    );
    park.mesh.restart("outerpark.reservation").await;
    let again = park.reserve(1).await.unwrap();
    park.until_told(&again.name, &["confirmed"]).await;
    assert_eq!(park.told(&reserved.name).await, ["confirmed"]);
}

#[tokio::test]
async fn op_f6_op_f7_op_f8_a_cancel_gives_seats_and_money_back_once_each() {
    let park = Outerpark::start(100).await;
    let reserved = park.reserve(10).await.unwrap();
    park.until_told(&reserved.name, &["confirmed"]).await;
    assert_eq!(park.cancel(&reserved.name).await.unwrap().state(), State::Cancelled);
    park.until_free(100).await;
    park.until_my_page(&reserved.name, "CANCELLED", "CANCELLED").await;
    park.until_told(&reserved.name, &["confirmed", "cancelled"]).await;
    assert!(park.reservations().await.is_empty(), "the list hides what was cancelled");

    // The desk hears everything again: each once.
    park.mesh.mesh.stop("outerpark.reservation").await;
    mesh_testing::turn_back(
        &park.mesh.store("outerpark.reservation"),
        "source IN ('outerpark.reservation', 'payment')",
    );
    park.mesh.restart("outerpark.reservation").await;
    let next = park.reserve(1).await.unwrap();
    park.until_told(&next.name, &["confirmed"]).await;
    assert_eq!(park.free().await, 99);
    assert_eq!(park.told(&reserved.name).await, ["confirmed", "cancelled"]);
    assert_eq!(events(&park.mesh.store("payment"), "PaymentCancelled"), 1);
    assert_eq!(events(&park.mesh.store("outerpark.musical"), "SeatsReturned"), 1);
}

#[tokio::test]
async fn op_f8_nothing_says_confirmed_after_a_cancel() {
    let park = Outerpark::start(100).await;
    let mut names = Vec::new();
    for _ in 0..10 {
        let reserved = park.reserve(1).await.unwrap();
        park.cancel(&reserved.name).await.unwrap();
        park.until_my_page(&reserved.name, "CANCELLED", "CANCELLED").await;
        names.push(reserved.name);
    }
    park.until_free(100).await;
    let last = park.reserve(1).await.unwrap();
    park.until_told(&last.name, &["confirmed"]).await;
    for name in names {
        // Who was charged is told of the cancel; who gave up before that knows it.
        let payments = park.payments_of(&name).await;
        let was_charged = payments.iter().any(|payment| payment.refunded_amount == won(50_000));
        if was_charged {
            eventually("the customer is told of the cancel", || async {
                park.told(&name).await.contains(&"cancelled".to_owned()).then_some(())
            })
            .await;
        }
        let told = park.told(&name).await;
        assert_eq!(told.last().map(String::as_str), was_charged.then_some("cancelled"), "{told:?}");
    }
}

#[tokio::test]
async fn op_f9_my_page_shows_the_state_and_the_full_history() {
    let park = Outerpark::start(100).await;
    let reserved = park.reserve(3).await.unwrap();
    park.until_told(&reserved.name, &["confirmed"]).await;
    let row = eventually("the history is whole", || async {
        park.rows()
            .await
            .into_iter()
            .find(|row| row.name == reserved.name && row.history.len() == 5)
    })
    .await;
    assert_eq!((row.system.as_str(), row.title.as_str(), row.quantity), ("outerpark", "Frozen", 3));
    assert_eq!((row.state.as_str(), row.payment_state.as_str()), ("PAYMENT_APPROVED", "APPROVED"));
    let told: BTreeSet<_> = row.history.iter().map(|step| step.event.as_str()).collect();
    let expected =
        ["SeatsDeducted", "Reserved", "PaymentApproved", "ReservationConfirmed", "Noticed"];
    assert_eq!(told, BTreeSet::from(expected));
}

#[tokio::test]
async fn op_n1_too_many_seats_are_refused_and_nothing_is_anywhere() {
    let park = Outerpark::start(10).await;
    let refused = refusal(park.reserve(11).await);
    assert_eq!(refused, (Code::FailedPrecondition, "NOT_ENOUGH_SEATS".to_owned()));
    assert_eq!(park.free().await, 10);
    assert!(park.reservations().await.is_empty());
    // What comes next is heard by everybody, so whatever there was of the first has been heard, too.
    let next = park.reserve(1).await.unwrap();
    park.until_told(&next.name, &["confirmed"]).await;
    park.until_my_page(&next.name, "PAYMENT_APPROVED", "APPROVED").await;
    assert_eq!(park.rows().await.len(), 1);
    assert_eq!(events(&park.mesh.store("payment"), "PaymentApproved"), 1);
    assert_eq!(events(&park.mesh.store("notice"), "Noticed"), 1);
}

#[tokio::test]
async fn op_n2_fifty_want_thirty_seats_and_thirty_get_them() {
    let park = Outerpark::start(30).await;
    let wanted = join_all((0..50).map(|_| park.reserve(1))).await;
    let got = wanted.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!((got, park.free().await), (30, 0));
    for status in wanted.into_iter().filter_map(Result::err) {
        assert_eq!(refusal(Err::<(), _>(status)).1, "NOT_ENOUGH_SEATS");
    }
}

#[tokio::test]
async fn op_n3_while_payment_is_down_everybody_can_reserve() {
    let park = Outerpark::start(100).await;
    park.mesh.mesh.stop("payment").await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(park.reserve(2).await.unwrap().name);
    }
    park.mesh.restart("payment").await;
    for name in &names {
        park.until(name, State::PaymentApproved).await;
        assert_eq!(park.payments_of(name).await.len(), 1);
    }
}

#[tokio::test]
async fn op_n4_notice_and_my_page_catch_up_when_they_are_back() {
    let park = Outerpark::start(100).await;
    park.mesh.mesh.stop("notice").await;
    park.mesh.mesh.stop("mypage").await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(park.reserve(1).await.unwrap().name);
    }
    for name in &names {
        park.until(name, State::PaymentApproved).await;
    }
    park.mesh.restart("notice").await;
    park.mesh.restart("mypage").await;
    for name in &names {
        park.until_told(name, &["confirmed"]).await;
        park.until_my_page(name, "PAYMENT_APPROVED", "APPROVED").await;
    }
}

#[tokio::test]
async fn op_n6_the_fallback_loses_no_seat() {
    let park = Outerpark::start(10).await;
    park.mesh.mesh.faults().lose_replies("ReserveSeats", 1);
    let status = park.reserve(4).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("MUSICAL_BUSY", "outerpark.reservation")
    );
    assert_eq!(status.message(), "musical is busy, try again later");
    park.until_free(10).await;
    assert!(park.reservations().await.is_empty());
    assert_eq!(events(&park.mesh.store("outerpark.musical"), "SeatsReturned"), 1);

    park.mesh.mesh.stop("outerpark.musical").await;
    assert_eq!(park.reserve(1).await.unwrap_err().code(), Code::Unavailable);
    park.mesh.restart("outerpark.musical").await;
    assert_eq!(park.free().await, 10);
}

#[tokio::test]
async fn op_n7_my_page_answers_with_everything_else_stopped() {
    let park = Outerpark::start(10).await;
    let reserved = park.reserve(1).await.unwrap();
    park.until_my_page(&reserved.name, "PAYMENT_APPROVED", "APPROVED").await;
    for context in ["payment", "notice", "outerpark.musical", "outerpark.reservation"] {
        park.mesh.mesh.stop(context).await;
    }
    assert_eq!(park.rows().await[0].name, reserved.name);
}

#[tokio::test]
async fn a_declined_payment_gives_the_seats_back_and_tells_the_customer() {
    let payment = payment::Settings { decline_share: 1.0, ..Default::default() };
    let park = Outerpark::start_with(10, Setup { payment, ..Setup::default() }, |_| {}).await;
    let reserved = park.reserve(4).await.unwrap();
    park.until(&reserved.name, State::PaymentDeclined).await;
    park.until_free(10).await;
    park.until_told(&reserved.name, &["declined"]).await;
    park.until_my_page(&reserved.name, "PAYMENT_DECLINED", "DECLINED").await;
    let refused = refusal(park.cancel(&reserved.name).await);
    assert_eq!(refused, (Code::FailedPrecondition, "NOT_LIVE".to_owned()));
}

fn held_for(hold: Duration) -> Setup {
    Setup {
        reservation: outerpark_reservation::Settings { hold, ..Default::default() },
        ..Setup::default()
    }
}

#[tokio::test]
async fn s_24_a_customer_holds_so_many_unpaid_seats_of_a_performance_and_no_more() {
    let reservation = outerpark_reservation::Settings { max_held: 5, ..Default::default() };
    let park = Outerpark::start_with(100, Setup { reservation, ..Setup::default() }, |options| {
        let patient = EdgeSettings { timeout: Duration::from_secs(10), ..Default::default() };
        options.edges = Arc::new(move |_| patient);
    })
    .await;
    park.mesh.mesh.stop("payment").await;
    // Ten are wanted before one is registered: none of them sees another.
    let faults = park.mesh.mesh.faults();
    faults.hold_back("ReserveSeats", true);
    let all_are_wanted = async {
        eventually("ten are wanted", || async {
            let wanted = count(&park.mesh.store("outerpark.reservation"), "mesh_intent", "true");
            (wanted == 10).then_some(())
        })
        .await;
        faults.hold_back("ReserveSeats", false);
    };
    let (outcomes, ()) = tokio::join!(join_all((0..10).map(|_| park.reserve(2))), all_are_wanted);
    let (got, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((got.len(), refused.len()), (2, 8));
    let too_many = (Code::FailedPrecondition, "TOO_MANY_HELD".to_owned());
    for outcome in refused {
        assert_eq!(refusal(outcome), too_many);
    }
    park.until_free(96).await;
    assert_eq!(park.reservations().await.len(), 2);

    // A seat more is allowed, and not two.
    assert_eq!(refusal(park.reserve(2).await), too_many);
    let fifth = park.reserve(1).await.unwrap();
    assert_eq!(refusal(park.reserve(1).await), too_many);
    let other = park.mesh.customer();
    park.reserve_with(&other, &request_id(), 5).await.expect("others have a limit of their own");
    // What is given up, and what is paid, is not held any more.
    park.cancel(&fifth.name).await.unwrap();
    let again = park.reserve(1).await.unwrap();
    park.mesh.restart("payment").await;
    park.until(&again.name, State::PaymentApproved).await;
    for held in got {
        park.until(&held.unwrap().name, State::PaymentApproved).await;
    }
    park.reserve(5).await.unwrap();
}

#[tokio::test]
async fn a_hold_whose_payment_does_not_come_expires_and_gives_the_seats_back() {
    // Over before the first try to pay gives up: nobody can say yet that payment is out of reach.
    let park = Outerpark::start_with(10, held_for(Duration::from_millis(300)), |_| {}).await;
    park.mesh.mesh.faults().hold_back("Pay", true);
    let reserved = park.reserve(4).await.unwrap();
    park.until(&reserved.name, State::Expired).await;
    park.mesh.mesh.faults().hold_back("Pay", false);
    park.until_free(10).await;
    eventually("the payment is voided", || async {
        (events(&park.mesh.store("payment"), "PaymentCancelled") == 1).then_some(())
    })
    .await;
    park.until_my_page(&reserved.name, "EXPIRED", "CANCELLED").await;
    assert_eq!(count(&park.mesh.store("payment"), "payment", "state = 'APPROVED'"), 0);
}

#[tokio::test]
async fn the_clock_of_a_hold_stands_still_while_payment_is_out_of_reach() {
    let park = Outerpark::start_with(10, held_for(Duration::from_secs(1)), |_| {}).await;
    park.mesh.mesh.stop("payment").await;
    let reserved = park.reserve(4).await.unwrap();
    let desk = park.mesh.store("outerpark.reservation");
    // The hold is given more time than it had in the beginning, several times over.
    let prolonged = "hold_expires > create_time + 4000000 AND state = 'SEATS_RESERVED'";
    eventually("the hold is prolonged", || async {
        (count(&desk, "reservation", prolonged) == 1).then_some(())
    })
    .await;
    park.mesh.restart("payment").await;
    park.until(&reserved.name, State::PaymentApproved).await;
}

#[tokio::test]
async fn a_quote_says_what_goes_back_and_the_fee_is_kept() {
    let reservation = outerpark_reservation::Settings { fee_percent: 10, ..Default::default() };
    let park = Outerpark::start_with(10, Setup { reservation, ..Setup::default() }, |_| {}).await;
    let reserved = park.reserve(2).await.unwrap();
    park.until(&reserved.name, State::PaymentApproved).await;
    let quote = park.quote(&reserved.name).await.unwrap();
    assert_eq!((quote.refund, quote.fee), (won(90_000), won(10_000)));
    let forged = refusal(park.cancel_with(&park.customer, &reserved.name, "90000").await);
    assert_eq!(forged, (Code::FailedPrecondition, "QUOTE_INVALID".to_owned()));
    park.cancel_with(&park.customer, &reserved.name, &quote.quote).await.unwrap();
    park.until_my_page(&reserved.name, "CANCELLED", "CANCELLED").await;
    let payment = park.payments_of(&reserved.name).await.remove(0);
    assert_eq!((payment.state(), payment.refunded_amount), (PaymentState::Cancelled, won(90_000)));
    park.until_free(10).await;
}

#[tokio::test]
async fn a_quote_of_another_reservation_or_state_does_not_hold() {
    let park = Outerpark::start(10).await;
    let (one, two) = (park.reserve(1).await.unwrap(), park.reserve(1).await.unwrap());
    park.until(&one.name, State::PaymentApproved).await;
    park.until(&two.name, State::PaymentApproved).await;
    let quote = park.quote(&one.name).await.unwrap();
    let refused = refusal(park.cancel_with(&park.customer, &two.name, &quote.quote).await);
    assert_eq!(refused.1, "QUOTE_INVALID");
    let stranger = park.mesh.customer();
    let stolen = park.cancel_with(&stranger, &one.name, &quote.quote).await.unwrap_err();
    assert_eq!(stolen.code(), Code::NotFound);
}

#[tokio::test]
async fn g6_the_same_request_takes_seats_once() {
    let park = Outerpark::start(10).await;
    let id = request_id();
    let sent = join_all((0..10).map(|_| park.reserve_with(&park.customer, &id, 2))).await;
    assert!(sent.iter().any(Result::is_ok));
    let again = park.reserve_with(&park.customer, &id, 2).await.unwrap();
    assert_eq!(park.free().await, 8);
    assert_eq!(
        park.reservations().await.iter().map(|r| &r.name).collect::<Vec<_>>(),
        [&again.name]
    );
    let other = park.reserve_with(&park.customer, &id, 3).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn g18_a_reservation_can_be_followed_to_its_end() {
    let park = Outerpark::start(10).await;
    let reserved = park.reserve(1).await.unwrap();
    let request =
        desk::WatchReservationRequest { name: reserved.name.clone(), ..Default::default() };
    let mut stream =
        park.desk_of(&park.customer).watch_reservation(request).await.unwrap().into_inner();
    let mut states = Vec::new();
    while let Some(told) = stream.message().await.unwrap() {
        let Some(reservation) = told.reservation else { continue };
        states.push(reservation.state());
        if reservation.state() == State::PaymentApproved {
            park.cancel(&reserved.name).await.unwrap();
        }
    }
    assert_eq!(states.last(), Some(&State::Cancelled));
    assert!(states.contains(&State::PaymentApproved), "{states:?}");
}

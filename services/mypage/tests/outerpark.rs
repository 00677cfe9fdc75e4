//! What a customer sees of reservations.

mod stand_ins;

use std::slice::from_ref;

use mesh_testing::eventually;
use stand_ins::{Order, Stage, events, find, list, won};

#[tokio::test(flavor = "multi_thread")]
async fn op_f9_my_page_shows_state_and_full_history() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = Order::of_seats(&customer);
    stage.deduct_seats(&order).await;
    stage.reserve(&order, "Frozen").await;
    let seen = stage.settled(&customer, &order, 2).await;
    assert_eq!((seen.state.as_str(), seen.payment_state.as_str()), ("SEATS_RESERVED", ""));

    stage.approve(&order).await;
    stage.confirm(&order).await;
    stage.notice(&order, "confirmed").await;
    let seen = stage.settled(&customer, &order, 5).await;
    assert_eq!(
        (seen.state.as_str(), seen.payment_state.as_str()),
        ("PAYMENT_APPROVED", "APPROVED")
    );

    stage.cancel_reservation(&order).await;
    stage.return_seats(&order).await;
    stage.refund(&order, 150_000).await;
    stage.notice(&order, "cancelled").await;
    let seen = stage.settled(&customer, &order, 9).await;
    assert_eq!((seen.state.as_str(), seen.payment_state.as_str()), ("CANCELLED", "CANCELLED"));
    let expected = [
        "SeatsDeducted",
        "Reserved",
        "PaymentApproved",
        "ReservationConfirmed",
        "Noticed",
        "ReservationCancelled",
        "SeatsReturned",
        "PaymentCancelled",
        "Noticed",
    ];
    assert_eq!(events(&seen), expected);
    let sources: Vec<_> =
        seen.history.iter().take(5).map(|progress| progress.source.as_str()).collect();
    assert_eq!(
        sources,
        [
            "outerpark.musical",
            "outerpark.reservation",
            "payment",
            "outerpark.reservation",
            "notice"
        ]
    );
    assert_eq!(seen.history[5].revision, order.revision(3));
    assert_eq!(seen.update_time, seen.history[8].time);

    assert_eq!((seen.system.as_str(), seen.title.as_str()), ("outerpark", "Frozen"));
    assert_eq!((seen.quantity, seen.amount.clone()), (3, won(150_000)));
    assert_eq!(seen.customer, customer.id.to_string());
    assert_eq!(list(&customer).await, from_ref(&seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn g21_seats_that_were_never_registered_stay_hidden() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let (never, order) = (Order::of_seats(&customer), Order::of_seats(&customer));
    stage.deduct_seats(&never).await;
    stage.return_seats(&never).await;
    stage.deduct_seats(&order).await;
    stage.approve(&order).await;
    stage.notice(&order, "confirmed").await;
    eventually("five hidden events", || async { (stage.dump().len() == 2 + 5).then_some(()) })
        .await;
    assert_eq!(list(&customer).await, []);
    assert_eq!(find(&customer, &order).await, None);

    stage.reserve(&order, "Frozen").await;
    let seen = stage.settled(&customer, &order, 4).await;
    assert_eq!((seen.state.as_str(), seen.payment_state.as_str()), ("SEATS_RESERVED", "APPROVED"));
    assert_eq!(list(&customer).await, [seen], "seats alone are no order");
    assert_eq!(find(&customer, &never).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_a_reservation_that_is_over_stays_so() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let [declined, expired, cancelled] = [(); 3].map(|()| Order::of_seats(&customer));
    for order in [&declined, &expired, &cancelled] {
        stage.reserve(order, "Frozen").await;
    }
    stage.decline_reservation(&declined).await;
    stage.expire(&expired).await;
    stage.cancel_reservation(&cancelled).await;
    for (order, state) in
        [(&declined, "PAYMENT_DECLINED"), (&expired, "EXPIRED"), (&cancelled, "CANCELLED")]
    {
        stage.confirm(order).await;
        let seen = stage.settled(&customer, order, 3).await;
        assert_eq!(seen.state, state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_no_order_is_left_out() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = Order::of_seats(&customer);
    stage.withdraw(&order).await;
    stage.notice_about("accounts/1", &order, "welcome").await;
    stage.deduct_seats(&order).await;
    stage.notice(&order, "confirmed").await;
    stage.reserve(&order, "Frozen").await;

    stage.settled(&customer, &order, 3).await;
    assert_eq!(stage.dump().len(), 1 + 3, "one order and its history");
}

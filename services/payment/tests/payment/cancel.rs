//! Giving back.

use std::time::Duration;

use futures::future::join_all;
use mesh::{Accounts, Id};
use mesh_testing::{bad_fields, eventually, refusal};
use payment::{Delay, Settings};
use proto::common::v1::Money;
use proto::payment::v1::payment::State;
use proto::payment::v1::{CancelPaymentRequest, PaymentCancelled};
use tonic::Code;

use crate::support::{PRICE, cancel, open, open_with, order, pay_patiently, won};

#[tokio::test]
async fn a_cancel_gives_all_back_and_is_told_once_however_often_it_is_sent() {
    let till = open(Settings { delay: Delay::millis(0..=20), ..Settings::default() }).await;
    let order = order();
    let paid = till.pay(&order).await.expect("paid");
    let answers = join_all((0..10).map(|_| till.cancel_for_certain(&order))).await;

    let cancelled = answers[0].clone().expect("a payment");
    assert!(answers.iter().all(|answer| answer.as_ref() == Some(&cancelled)), "{answers:?}");
    assert_eq!(
        (cancelled.state(), cancelled.refunded_amount.clone()),
        (State::Cancelled, Some(won(PRICE)))
    );
    assert_eq!(cancelled.revision, format!("{}@2", paid.name));
    let expected = PaymentCancelled {
        payment: paid.name.clone(),
        order: order.clone(),
        customer: till.customer.to_string(),
        amount: Some(won(PRICE)),
        reason: "ORDER_CANCELLED".to_owned(),
    };
    assert_eq!(till.told::<PaymentCancelled>(&order).await, [expected]);
    assert_eq!(till.books().standing(&paid.name), 0);
    assert_eq!(
        refusal(till.pay(&order).await),
        (Code::FailedPrecondition, "ORDER_VOIDED".to_owned())
    );
}

#[tokio::test]
async fn a_fee_can_be_kept() {
    let till = open(Settings::default()).await;
    for refund in [30_000, 0] {
        let order = order();
        let paid = till.pay(&order).await.expect("paid");
        let request =
            CancelPaymentRequest { refund: Some(won(refund)), ..till.cancel_request(&order) };
        let cancelled =
            cancel(till.client(), request).await.expect("cancelled").expect("a payment");

        assert_eq!(
            (cancelled.state(), cancelled.refunded_amount),
            (State::Cancelled, Some(won(refund)))
        );
        assert_eq!(till.told::<PaymentCancelled>(&order).await[0].amount, Some(won(refund)));
        assert_eq!(till.books().standing(&paid.name), PRICE - refund);
    }
}

#[tokio::test]
async fn no_more_is_given_back_than_was_charged() {
    let till = open(Settings::default()).await;
    let order = order();
    till.pay(&order).await.expect("paid");
    let euro = Money { currency_code: "EUR".to_owned(), minor_units: 1 };
    for refund in [won(PRICE + 1), euro] {
        let request = CancelPaymentRequest { refund: Some(refund), ..till.cancel_request(&order) };
        let fields = bad_fields(cancel(till.client(), request).await);
        assert!(fields[0].starts_with("refund"), "{fields:?}");
    }
    assert_eq!(till.by_order(&order).await.expect("the payment").state(), State::Approved);
    assert_eq!(till.books().total(), PRICE);
}

#[tokio::test]
async fn g7_a_cancel_that_comes_first_leaves_a_tombstone_and_wins() {
    let till = open(Settings::default()).await;
    let order = order();
    for _ in 0..2 {
        assert_eq!(till.cancel(&order).await.expect("cancelled"), None);
    }
    let told = till.told::<PaymentCancelled>(&order).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].amount.as_ref().map(|amount| amount.minor_units), Some(0));
    assert_eq!(
        refusal(till.pay(&order).await),
        (Code::FailedPrecondition, "ORDER_VOIDED".to_owned())
    );
    assert_eq!(till.by_order(&order).await.expect_err("nothing to see").code(), Code::NotFound);
    assert_eq!(till.books().entries, []);
}

#[tokio::test]
async fn cancelling_what_was_declined_is_fine_and_not_told() {
    let till = open(Settings { decline_share: 1.0, ..Settings::default() }).await;
    let order = order();
    till.pay(&order).await.expect_err("declined");
    assert_eq!(till.cancel(&order).await.expect("cancelled"), None);
    assert!(till.told::<PaymentCancelled>(&order).await.is_empty());
}

#[tokio::test]
async fn nobody_cancels_another_customers_payment() {
    let till = open(Settings::default()).await;
    let order = order();
    till.pay(&order).await.expect("paid");
    let request = CancelPaymentRequest {
        customer: Id::<Accounts>::new().to_string(),
        ..till.cancel_request(&order)
    };
    let outcome = cancel(till.client(), request).await;
    assert_eq!(refusal(outcome), (Code::FailedPrecondition, "ORDER_MISMATCH".to_owned()));
    assert_eq!(till.books().total(), PRICE);
}

#[tokio::test]
async fn a_cancel_that_races_a_charge_wins() {
    let till = open(Settings { delay: Delay::millis(0..=6), ..Settings::default() }).await;
    for _ in 0..40 {
        let order = order();
        let (paid, _) = tokio::join!(
            pay_patiently(till.client(), till.pay_request(&order)),
            till.cancel_for_certain(&order),
        );
        if paid.is_err() {
            assert_eq!(refusal(paid), (Code::FailedPrecondition, "ORDER_VOIDED".to_owned()));
        }
        let told = till.told::<PaymentCancelled>(&order).await;
        assert_eq!(told.len(), 1, "{told:?}");
    }
    till.books_say("every charge is given back", |books| books.total() == 0).await;
}

#[tokio::test]
async fn a_charge_under_way_is_cancelled_at_once_and_given_back() {
    let till = open(Settings { delay: Delay::millis(400..=400), ..Settings::default() }).await;
    let order = order();
    let (client, request) = (till.client(), till.pay_request(&order));
    let paying = tokio::spawn(async move { crate::support::pay(client, request).await });
    till.books_say("the charge is made", |books| books.total() == PRICE).await;

    assert_eq!(till.cancel(&order).await.expect("cancelled"), None);
    let told = till.told::<PaymentCancelled>(&order).await;
    assert_eq!(told[0].amount, Some(won(0)));
    let paid = paying.await.expect("no panic");
    assert_eq!(refusal(paid), (Code::FailedPrecondition, "ORDER_VOIDED".to_owned()));
    till.books_say("the charge is given back", |books| books.total() == 0).await;
    assert_eq!(till.events(&order).await.len(), 1);
}

#[tokio::test]
async fn a_provider_that_often_does_not_answer_is_asked_until_it_does() {
    let settings = Settings { lost_reply_share: 0.3, ..Settings::default() };
    let till = open_with(settings, Duration::from_millis(200)).await;
    join_all((0..6).map(async |_| {
        let order = order();
        eventually("an order that is paid", || async { till.pay(&order).await.ok() }).await;
        // Asked once: from there on payment sees to it by itself.
        let _ = till.cancel(&order).await;
        eventually("the payment is cancelled", || async {
            let payment = till.by_order(&order).await.ok()?;
            (payment.state() == State::Cancelled).then_some(())
        })
        .await;
        assert_eq!(till.told::<PaymentCancelled>(&order).await.len(), 1);
    }))
    .await;
    till.books_say("every charge is given back", |books| books.total() == 0).await;
}

#[tokio::test]
async fn g13_every_bad_field_of_a_cancel_is_named() {
    let till = open(Settings::default()).await;
    let debt = CancelPaymentRequest { refund: Some(won(-1)), ..CancelPaymentRequest::default() };
    let fields = bad_fields(cancel(till.client(), debt).await);
    assert_eq!(fields, ["request_id", "order", "customer", "reason", "refund.minor_units"]);
}

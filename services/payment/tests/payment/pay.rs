//! Charging.

use std::num::NonZero;
use std::time::Duration;

use futures::future::join_all;
use mesh::Id;
use mesh_testing::{bad_fields, refusal};
use payment::{Delay, Settings};
use proto::payment::v1::payment::State;
use proto::payment::v1::{PayRequest, PaymentApproved, PaymentDeclined};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{PRICE, open, open_with, order, pay, pay_patiently, won};

#[tokio::test]
async fn an_order_is_charged_once_however_often_it_is_sent() {
    let till = open(Settings { delay: Delay::millis(0..=20), ..Settings::default() }).await;
    let order = order();
    let answers =
        join_all((0..20).map(|_| pay_patiently(till.client(), till.pay_request(&order)))).await;

    let names: Vec<_> = answers.into_iter().map(|answer| answer.expect("paid").name).collect();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let books = till.books();
    assert_eq!((books.entries.len(), books.standing(&names[0])), (1, PRICE));
    assert_eq!(till.told::<PaymentApproved>(&order).await.len(), 1);
}

#[tokio::test]
async fn an_approved_payment_tells_all_about_it() {
    let till = open(Settings::default()).await;
    let order = order();
    let payment = till.pay(&order).await.expect("paid");

    assert_eq!((payment.state(), &payment.order), (State::Approved, &order));
    assert_eq!(
        (payment.amount.clone(), payment.refunded_amount.clone()),
        (Some(won(PRICE)), Some(won(0)))
    );
    assert_eq!(payment.revision, format!("{}@1", payment.name));
    assert!(!payment.provider_reference.is_empty() && payment.create_time.is_some());
    let told = till.told::<PaymentApproved>(&order).await;
    let expected = PaymentApproved {
        payment: payment.name.clone(),
        order: order.clone(),
        customer: till.customer.to_string(),
        amount: Some(won(PRICE)),
    };
    assert_eq!(told, [expected]);
    assert_eq!(till.events(&order).await[0].subject, payment.name);
    assert_eq!(till.by_order(&order).await.expect("the payment"), payment);
}

#[tokio::test]
async fn the_same_order_gets_the_same_answer_after_a_restart() {
    let till = open(Settings::default()).await;
    let order = order();
    let payment = till.pay(&order).await.expect("paid");
    till.mesh.mesh.stop("payment").await;
    till.mesh.restart("payment").await;

    assert_eq!(till.pay(&order).await.expect("paid"), payment);
    assert_eq!(till.books().entries.len(), 1);
}

#[tokio::test]
async fn a_declined_order_stays_declined_and_is_told_once() {
    let till = open(Settings { decline_share: 1.0, ..Settings::default() }).await;
    let order = order();
    for _ in 0..2 {
        let declined = (Code::FailedPrecondition, "PAYMENT_DECLINED".to_owned());
        assert_eq!(refusal(till.pay(&order).await), declined);
    }
    assert_eq!(till.told::<PaymentDeclined>(&order).await.len(), 1);
    assert_eq!(till.by_order(&order).await.expect("the payment").state(), State::Declined);
    assert_eq!(till.books().total(), 0);
}

#[tokio::test]
async fn a_refusal_names_the_order_for_programs() {
    let till = open(Settings { decline_over: Some(PRICE - 1), ..Settings::default() }).await;
    let order = order();
    let status = till.pay(&order).await.expect_err("declined");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!((info.domain.as_str(), &info.metadata["order"]), ("payment", &order));
    let cheap =
        PayRequest { amount: Some(won(PRICE - 1)), ..till.pay_request(&crate::support::order()) };
    assert_eq!(pay(till.client(), cheap).await.expect("paid").state(), State::Approved);
}

#[tokio::test]
async fn an_order_has_one_amount_and_one_customer() {
    let till = open(Settings::default()).await;
    let order = order();
    till.pay(&order).await.expect("paid");
    let request = till.pay_request(&order);
    let other_amount = PayRequest { amount: Some(won(1)), ..request.clone() };
    let other_customer =
        PayRequest { customer: Id::<mesh::Accounts>::new().to_string(), ..request };
    for request in [other_amount, other_customer] {
        let mismatch = (Code::FailedPrecondition, "ORDER_MISMATCH".to_owned());
        assert_eq!(refusal(pay(till.client(), request).await), mismatch);
    }
    assert_eq!(till.books().total(), PRICE);
}

#[tokio::test]
async fn g10_the_provider_is_slow_and_takes_only_so_many_at_once() {
    let settings = Settings {
        delay: Delay::millis(300..=300),
        concurrency: NonZero::new(1),
        ..Settings::default()
    };
    let till = open_with(settings, Duration::from_millis(610)).await;
    let orders: Vec<_> = (0..3).map(|_| order()).collect();
    let answers = join_all(orders.iter().map(|order| till.pay(order))).await;

    assert!(answers.iter().any(Result::is_err), "three at once were too many");
    assert!(answers.iter().any(Result::is_ok), "the first was in time");
    // A payment may have been made in the moment its caller gave up: what counts is that both sides agree.
    till.books_say("no charge without a payment", |books| books.total() % PRICE == 0).await;
    mesh_testing::eventually("the provider and payment agree", || async {
        let approved = join_all(orders.iter().map(|order| till.by_order(order))).await;
        let approved = approved.into_iter().flatten().count();
        (till.books().total() == PRICE * i64::try_from(approved).expect("few")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_deadline_that_passed_leaves_no_trace_and_the_order_can_be_paid_later() {
    let settings = Settings { delay: Delay::millis(0..=400), ..Settings::default() };
    let till = open_with(settings, Duration::from_millis(200)).await;
    let mut paid = Vec::new();
    // Until some order was charged in vain before it was charged for good.
    while till.books().entries.iter().all(|entry| entry.refunded.minor_units == 0) {
        let order = order();
        let payment = mesh_testing::eventually("an order that is paid", || async {
            till.pay(&order).await.ok()
        });
        paid.push(payment.await.name);
        assert_eq!(till.told::<PaymentApproved>(&order).await.len(), 1);
    }
    let live = i64::try_from(paid.len()).expect("few") * PRICE;
    let books = till
        .books_say("what was charged in vain is given back", |books| books.total() == live)
        .await;
    assert!(paid.iter().all(|name| books.standing(name) == PRICE), "{books:?}");
    assert!(books.entries.len() > paid.len());
}

#[tokio::test]
async fn a_charge_whose_answer_is_lost_is_given_back() {
    let settings = Settings { lost_reply_share: 1.0, ..Settings::default() };
    let till = open_with(settings, Duration::from_millis(200)).await;
    let order = order();
    till.pay(&order).await.expect_err("no answer in time");
    let given_back = |books: &payment::ProviderLog| books.entries.len() == 1 && books.total() == 0;
    till.books_say("the charge is given back", given_back).await;
    assert_eq!(till.by_order(&order).await.expect_err("no payment").code(), Code::NotFound);
    assert!(till.events(&order).await.is_empty());
}

#[tokio::test]
async fn g13_every_bad_field_is_named() {
    let till = open(Settings::default()).await;
    let fields = bad_fields(pay(till.client(), PayRequest::default()).await);
    assert_eq!(fields, ["request_id", "order", "customer", "amount"]);
    let free = PayRequest { amount: Some(won(0)), ..till.pay_request(&order()) };
    assert_eq!(pay(till.client(), free).await.expect_err("refused").code(), Code::InvalidArgument);
    assert_eq!(till.books().entries, []);
}

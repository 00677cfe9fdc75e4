//! What is left after the context dies at a bad moment.

use std::time::Duration;

use futures::future::join_all;
use mesh_testing::eventually;
use payment::{Delay, Settings};
use proto::payment::v1::payment::State;
use proto::payment::v1::{PaymentApproved, PaymentCancelled};
use tonic::Code;

use crate::support::{PRICE, Till, cancel, open, order, pay};

fn slow() -> Settings {
    let sweep_after = Duration::from_secs(1);
    Settings { delay: Delay::millis(400..=400), sweep_after, ..Settings::default() }
}

async fn crash_and_restart(till: &Till) {
    till.mesh.mesh.crash("payment").await;
    till.mesh.restart("payment").await;
}

#[tokio::test]
async fn a_crash_while_charging_leaves_no_charge_behind() {
    let till = open(slow()).await;
    let order = order();
    let (client, request) = (till.client(), till.pay_request(&order));
    let paying = tokio::spawn(pay(client, request));
    till.books_say("the charge is made", |books| books.total() == PRICE).await;
    crash_and_restart(&till).await;

    paying.await.expect("no panic").expect_err("it was not paid");
    till.books_say("the charge is given back", |books| books.total() == 0).await;
    assert_eq!(till.by_order(&order).await.expect_err("no trace").code(), Code::NotFound);
    assert!(till.events(&order).await.is_empty());
    till.pay(&order).await.expect("the order can be paid");
    assert_eq!(till.told::<PaymentApproved>(&order).await.len(), 1);
    assert_eq!(till.books().total(), PRICE);
}

#[tokio::test]
async fn a_crash_while_giving_back_is_finished_after_the_restart() {
    let till = open(slow()).await;
    let order = order();
    till.pay(&order).await.expect("paid");
    let (client, request) = (till.client(), till.cancel_request(&order));
    let cancelling = tokio::spawn(cancel(client, request));
    till.books_say("the refund is made", |books| books.total() == 0).await;
    crash_and_restart(&till).await;

    // The caller may learn of it: the edge sends a cancel again that broke off.
    let _ = cancelling.await.expect("no panic");
    eventually("the payment is cancelled", || async {
        let payment = till.by_order(&order).await.ok()?;
        (payment.state() == State::Cancelled).then_some(())
    })
    .await;
    till.cancel_for_certain(&order).await;
    assert_eq!(till.told::<PaymentCancelled>(&order).await.len(), 1);
    assert_eq!(till.books().total(), 0);
}

#[tokio::test]
async fn after_crashes_at_any_moment_every_charge_has_its_payment() {
    let sweep_after = Duration::from_secs(1);
    let till =
        open(Settings { delay: Delay::millis(0..=60), sweep_after, ..Settings::default() }).await;
    let mut orders = Vec::new();
    for round in 1..=5 {
        let before = till.books().entries.len();
        let batch: Vec<_> = (0..8).map(|_| order()).collect();
        let paying = join_all(batch.iter().map(|order| till.pay(order)));
        let cancelling = join_all(batch.iter().step_by(3).map(|order| till.cancel(order)));
        let crashing = async {
            till.books_say("some charges are made", |books| books.entries.len() >= before + round)
                .await;
            crash_and_restart(&till).await;
        };
        tokio::join!(paying, cancelling, crashing);
        orders.extend(batch);
    }
    eventually("payment and its provider agree", || async {
        let mut approved = 0;
        for order in &orders {
            match till.by_order(order).await {
                Ok(payment) if payment.state() == State::Approved => approved += PRICE,
                Ok(payment) if payment.state() == State::Refunding => return None,
                Ok(_) => {}
                Err(status) if status.code() == Code::NotFound => {}
                Err(_) => return None,
            }
        }
        (till.books().total() == approved).then_some(())
    })
    .await;
    for order in &orders {
        till.cancel_for_certain(order).await;
    }
    till.books_say("everything is given back", |books| books.total() == 0).await;
}

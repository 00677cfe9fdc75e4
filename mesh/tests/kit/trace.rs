//! The trace context goes along with calls and events.

use mesh::{Event, Result, Tx, whenever};
use mesh_testing::{TestMesh, eventually};
use proto::outerpark::reservation::v1::ReservationConfirmed;
use proto::payment::v1::PaymentApproved;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Request;

use crate::edges::{Payments, pay};
use crate::stand_in::*;

fn whenever_payment_approved(tx: &mut Tx<'_>, event: &Event<PaymentApproved>) -> Result<()> {
    let fact = ReservationConfirmed { reservation: event.order.clone(), ..Default::default() };
    tx.publish(&event.order, &event.order, &fact)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_an_event_and_what_comes_of_it_belong_to_the_trace_of_the_call() {
    mesh::telemetry::start("off").unwrap();
    let (payments, stores) = (Payments::default(), Stores::default());
    let policies =
        || vec![whenever("a payment is approved, confirm", whenever_payment_approved).from_start()];
    let mesh =
        TestMesh::start(&[payments.context(), stores.consumer("outerpark.reservation", policies)])
            .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut request = Request::new(pay("orders/1"));
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let mut client = PaymentServiceClient::new(mesh.service("outerpark.reservation", "payment"));
    client.pay(request).await.unwrap();
    let paid = log_of(&mesh, "payment").await.1.remove(0);
    assert!(paid.traceparent.starts_with(&format!("00-{trace}-")), "{:?}", paid.traceparent);
    let confirmed = eventually("what comes of it", async || {
        log_of(&mesh, "outerpark.reservation").await.1.into_iter().next()
    })
    .await;
    assert!(
        confirmed.traceparent.starts_with(&format!("00-{trace}-")),
        "{:?}",
        confirmed.traceparent
    );
    assert_eq!(confirmed.causation_id, paid.event_id);
}

//! A mesh with nothing but payment in it, called as `homemovie.app` would.

use std::time::Duration;

use mesh::client::{BreakerSettings, Channel, EdgeSettings};
use mesh::{Accounts, Id};
use mesh_testing::{TestMesh, eventually, request_id};
use payment::{ProviderLog, Settings};
use prost::{Message, Name};
use proto::common::v1::Money;
use proto::mesh::v1::Event;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::{CancelPaymentRequest, GetPaymentByOrderRequest, PayRequest, Payment};
use tonic::{Code, Status};

/// What an order costs unless said.
pub(crate) const PRICE: i64 = 50_000;

/// Payment, and somebody who orders.
pub(crate) struct Till {
    pub(crate) mesh: TestMesh,
    pub(crate) customer: Id<Accounts>,
}

/// A client, as the context of the orders.
pub(crate) type Client = PaymentServiceClient<Channel>;

pub(crate) async fn open(settings: Settings) -> Till {
    open_with(settings, Duration::from_secs(5)).await
}

/// As [`open`], with callers that wait no longer than `timeout`.
pub(crate) async fn open_with(settings: Settings, timeout: Duration) -> Till {
    let change = move |options: &mut mesh::Options| {
        // Breakers have tests of their own.
        let breaker = BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() };
        let edge = EdgeSettings { timeout, breaker, ..EdgeSettings::default() };
        options.edges = std::sync::Arc::new(move |_| edge);
    };
    let mesh = TestMesh::start_with(&[payment::context(settings)], change).await;
    Till { mesh, customer: Id::new() }
}

/// A new order's name.
pub(crate) fn order() -> String {
    format!("movieApplications/{}", request_id())
}

pub(crate) fn won(minor_units: i64) -> Money {
    Money { currency_code: "KRW".to_owned(), minor_units }
}

impl Till {
    pub(crate) fn client(&self) -> Client {
        PaymentServiceClient::new(self.mesh.service("homemovie.app", "payment"))
    }

    pub(crate) fn pay_request(&self, order: &str) -> PayRequest {
        PayRequest {
            request_id: request_id(),
            order: order.to_owned(),
            customer: self.customer.to_string(),
            amount: Some(won(PRICE)),
        }
    }

    pub(crate) fn cancel_request(&self, order: &str) -> CancelPaymentRequest {
        CancelPaymentRequest {
            request_id: request_id(),
            order: order.to_owned(),
            customer: self.customer.to_string(),
            reason: "ORDER_CANCELLED".to_owned(),
            refund: None,
        }
    }

    pub(crate) async fn pay(&self, order: &str) -> Result<Payment, Status> {
        pay(self.client(), self.pay_request(order)).await
    }

    pub(crate) async fn cancel(&self, order: &str) -> Result<Option<Payment>, Status> {
        cancel(self.client(), self.cancel_request(order)).await
    }

    /// Cancels for as long as it takes, as a saga does.
    pub(crate) async fn cancel_for_certain(&self, order: &str) -> Option<Payment> {
        eventually("a cancel that is confirmed", || async { self.cancel(order).await.ok() }).await
    }

    pub(crate) async fn by_order(&self, order: &str) -> Result<Payment, Status> {
        let request = GetPaymentByOrderRequest { order: order.to_owned() };
        let answer = self.client().get_payment_by_order(request).await?.into_inner();
        Ok(answer.payment.expect("a payment"))
    }

    /// What the provider did.
    pub(crate) fn books(&self) -> ProviderLog {
        ProviderLog::read(&self.mesh.store_apart("payment", "provider"))
            .expect("the provider's books")
    }

    /// Waits until the provider's books say so.
    pub(crate) async fn books_say(
        &self,
        what: &str,
        so: impl Fn(&ProviderLog) -> bool,
    ) -> ProviderLog {
        eventually(what, || async { Some(self.books()).filter(|books| so(books)) }).await
    }

    /// Every event there is about this order.
    pub(crate) async fn events(&self, order: &str) -> Vec<Event> {
        self.mesh.events("payment", order).await
    }

    /// The events of one type about this order.
    pub(crate) async fn told<M: Message + Name + Default>(&self, order: &str) -> Vec<M> {
        mesh_testing::told(&self.events(order).await)
    }
}

pub(crate) async fn pay(mut client: Client, request: PayRequest) -> Result<Payment, Status> {
    let answer = client.pay(request).await?.into_inner();
    Ok(answer.payment.expect("a payment"))
}

/// Pays for as long as the same order is being paid.
pub(crate) async fn pay_patiently(client: Client, request: PayRequest) -> Result<Payment, Status> {
    eventually("an answer to a payment", || async {
        match pay(client.clone(), request.clone()).await {
            Err(status) if status.code() == Code::Aborted => None,
            outcome => Some(outcome),
        }
    })
    .await
}

pub(crate) async fn cancel(
    mut client: Client,
    request: CancelPaymentRequest,
) -> Result<Option<Payment>, Status> {
    Ok(client.cancel_payment(request).await?.into_inner().payment)
}

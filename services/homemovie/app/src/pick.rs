//! `PickMovie`: pay, then register.

use mesh::client::Channel;
use mesh::{CallThenRegister, Error, Result, Tx, request_id_of};
use proto::homemovie::app::v1 as api;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::{CancelPaymentRequest, PayRequest};

use crate::domain::{Application, Refusal};
use crate::store;

/// The steps of picking a film.
#[derive(Debug)]
pub(crate) struct PickMovie {
    payment: PaymentServiceClient<Channel>,
    refund: PaymentServiceClient<Channel>,
    edge: Channel,
}

impl PickMovie {
    /// Charges over `edge`, gives back over `refund`.
    pub(crate) fn new(edge: Channel, refund: PaymentServiceClient<Channel>) -> Self {
        Self { payment: PaymentServiceClient::new(edge.clone()), refund, edge }
    }
}

impl CallThenRegister for PickMovie {
    const COMMAND: &'static str = "PickMovie";
    type Order = api::MovieApplication;
    type Answer = api::PickMovieResponse;

    fn name(order: &api::MovieApplication) -> &str {
        &order.name
    }

    async fn call(&self, order: api::MovieApplication) -> Result<()> {
        let request = PayRequest {
            request_id: request_id_of(&order.name),
            order: order.name.clone(),
            customer: order.customer,
            amount: order.price,
        };
        match self.payment.clone().pay(request).await.map_err(Error::from) {
            Ok(_) => Ok(()),
            Err(error) if error.reason().as_deref() == Some("PAYMENT_DECLINED") => {
                Err(Refusal::PaymentDeclined(order.name.parse().map_err(Error::internal)?).into())
            }
            Err(error) => Err(error),
        }
    }

    async fn undo(&self, order: api::MovieApplication) -> Result<()> {
        let request = cancel(&order.name, &order.customer, "ORDER_NOT_REGISTERED");
        self.refund.clone().cancel_payment(request).await?;
        Ok(())
    }

    fn fallback(&self) -> Error {
        self.edge.fallback()
    }

    fn register(
        &self,
        tx: &mut Tx<'_>,
        order: api::MovieApplication,
    ) -> Result<api::PickMovieResponse> {
        let mut application = Application::try_from(order)?;
        application.revision =
            tx.publish(application.id, application.id, &api::MoviePicked::from(&application))?;
        store::add(tx, &application)?;
        Ok(api::PickMovieResponse { movie_application: Some((&application).into()) })
    }
}

/// Gives back whatever was charged for an application.
pub(crate) fn cancel(application: &str, customer: &str, reason: &str) -> CancelPaymentRequest {
    CancelPaymentRequest {
        request_id: request_id_of(application),
        order: application.to_owned(),
        customer: customer.to_owned(),
        reason: reason.to_owned(),
        refund: None,
    }
}

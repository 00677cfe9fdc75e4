//! One function per RPC.

use mesh::{Caller, Check, Error, Id, Store, scope};
use proto::payment::v1 as api;
use proto::payment::v1::payment_service_server::PaymentService;
use tonic::{Request, Response, Status};

use crate::charges::Charges;
use crate::domain::{Payments, State};
use crate::refunds::Refunds;
use crate::store::{self, Filter};

/// How many payments a page has unless said.
const PAGE: u16 = 50;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) charges: Charges,
    pub(crate) refunds: Refunds,
}

#[tonic::async_trait]
impl PaymentService for Service {
    async fn pay(
        &self,
        request: Request<api::PayRequest>,
    ) -> Result<Response<api::PayResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let pay = request.try_into()?;

        let payment = scope::to_the_end(self.charges.clone().pay(pay)).await?;
        Ok(Response::new(api::PayResponse { payment: Some(payment.into()) }))
    }

    async fn cancel_payment(
        &self,
        request: Request<api::CancelPaymentRequest>,
    ) -> Result<Response<api::CancelPaymentResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let cancel = request.try_into()?;

        let payment = scope::to_the_end(self.refunds.clone().cancel(cancel)).await?;
        let charged = !matches!(payment.state, State::Declined | State::Voided);
        Ok(Response::new(api::CancelPaymentResponse { payment: charged.then(|| payment.into()) }))
    }

    async fn get_payment_by_order(
        &self,
        request: Request<api::GetPaymentByOrderRequest>,
    ) -> Result<Response<api::GetPaymentByOrderResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::new();
        let order = check.any_name("order", &request.order);
        check.finish()?;

        let filter = Filter { order: Some(order.clone()), ..Filter::default() };
        let payment = self.find(filter, order).await?;
        Ok(Response::new(api::GetPaymentByOrderResponse { payment: Some(payment) }))
    }

    async fn get_payment(
        &self,
        request: Request<api::GetPaymentRequest>,
    ) -> Result<Response<api::GetPaymentResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::new();
        let name: Id<Payments> = check.id("name", &request.name);
        check.finish()?;

        let filter =
            Filter { customer: owner(&caller)?, name: Some(name.to_string()), ..Filter::default() };
        let payment = self.find(filter, name.to_string()).await?;
        Ok(Response::new(api::GetPaymentResponse { payment: Some(payment) }))
    }

    async fn list_payments(
        &self,
        request: Request<api::ListPaymentsRequest>,
    ) -> Result<Response<api::ListPaymentsResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = owner(&caller)?;
        let mut check = Check::new();
        let order = Some(&request.order).filter(|order| !order.is_empty());
        let order = order.map(|order| check.any_name("order", order));
        let list = format!("payments of {customer:?} for {order:?}");
        let page = self.store.page(&mut check, &list, request.page_size, PAGE, &request.page_token);
        check.finish()?;

        let filter = Filter { customer, order, ..Filter::default() };
        let (payments, next_page_token) =
            self.store.read(move |conn| store::list_page(conn, filter, &page)).await?;
        let payments = payments.into_iter().map(Into::into).collect();
        Ok(Response::new(api::ListPaymentsResponse { payments, next_page_token }))
    }
}

impl Service {
    /// The one payment that may be seen; `name` is what it was looked for by.
    async fn find(&self, filter: Filter, name: String) -> Result<api::Payment, Error> {
        let found = self.store.read(move |conn| store::list(conn, filter, "~", 1)).await?;
        found.into_iter().next().map(Into::into).ok_or(Error::NotFound(name))
    }
}

/// Whose payments a caller may see: their own; an ADMIN everybody's.
fn owner(caller: &Caller) -> Result<Option<String>, Error> {
    let account = caller.account()?;
    Ok((!caller.is_admin()).then(|| account.to_string()))
}

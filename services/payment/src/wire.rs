//! Between the domain and the contract.

use std::time::Duration;

use mesh::{Accounts, Check, Error, Id, Money, Result, Tx};
use proto::payment::v1 as api;
use tonic::Code;

use crate::domain::{Fact, Payment, Refusal, State};

/// When to ask again about an order that is being paid.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A charge that is asked for.
#[derive(Debug)]
pub(crate) struct Pay {
    pub(crate) request_id: String,
    pub(crate) order: String,
    pub(crate) customer: Id<Accounts>,
    pub(crate) amount: Money,
}

impl TryFrom<api::PayRequest> for Pay {
    type Error = Error;

    fn try_from(request: api::PayRequest) -> Result<Self> {
        let mut check = Check::command(&request);
        let order = check.any_name("order", &request.order);
        let customer = check.id("customer", &request.customer);
        let amount = check.price("amount", request.amount.as_ref());
        check.finish()?;
        Ok(Self { request_id: request.request_id, order, customer, amount })
    }
}

/// A cancel that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct CancelPayment {
    pub(crate) request_id: String,
    pub(crate) order: String,
    pub(crate) customer: Id<Accounts>,
    pub(crate) reason: String,
    pub(crate) refund: Option<Money>,
}

impl TryFrom<api::CancelPaymentRequest> for CancelPayment {
    type Error = Error;

    fn try_from(request: api::CancelPaymentRequest) -> Result<Self> {
        let mut check = Check::command(&request);
        let order = check.any_name("order", &request.order);
        let customer = check.id("customer", &request.customer);
        let reason = check.text("reason", &request.reason, 1..=63);
        let refund = request.refund.as_ref().map(|refund| check.money("refund", Some(refund)));
        check.finish()?;
        Ok(Self { request_id: request.request_id, order, customer, reason, refund })
    }
}

impl From<Payment> for api::Payment {
    fn from(payment: Payment) -> Self {
        let state = match payment.state {
            State::Approved => api::payment::State::Approved,
            State::Declined => api::payment::State::Declined,
            State::Refunding => api::payment::State::Refunding,
            State::Cancelled => api::payment::State::Cancelled,
            // Hidden: no query answers with one.
            State::Pending | State::Voided => api::payment::State::Unspecified,
        };
        Self {
            name: payment.id.to_string(),
            order: payment.order,
            customer: payment.customer.to_string(),
            amount: Some(payment.amount.into()),
            refunded_amount: Some(payment.refunded.into()),
            state: state.into(),
            provider_reference: payment.reference,
            create_time: Some(payment.created.into()),
            revision: mesh::revision(payment.id, payment.revision),
        }
    }
}

/// Tells what happened to a payment.
pub(crate) fn publish(tx: &mut Tx<'_>, payment: &mut Payment, fact: Fact) -> Result<()> {
    let (name, order) = (payment.id.to_string(), payment.order.clone());
    let (customer, amount) = (payment.customer.to_string(), Some((&payment.amount).into()));
    payment.revision = match fact {
        Fact::Approved => {
            let event = api::PaymentApproved { payment: name, order, customer, amount };
            tx.publish(payment.id, &payment.order, &event)?
        }
        Fact::Declined => {
            let event = api::PaymentDeclined { payment: name, order, customer, amount };
            tx.publish(payment.id, &payment.order, &event)?
        }
        Fact::Cancelled => {
            let (amount, reason) = (Some((&payment.refunded).into()), payment.reason.clone());
            let event = api::PaymentCancelled { payment: name, order, customer, amount, reason };
            tx.publish(payment.id, &payment.order, &event)?
        }
    };
    Ok(())
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (order, reason) = match &refusal {
            Refusal::TooMuch(_) => return Self::invalid("refund.minor_units", &refusal),
            Refusal::OtherCurrency(_) => return Self::invalid("refund.currency_code", &refusal),
            Refusal::Declined(order) => (order, api::ErrorReason::PaymentDeclined),
            Refusal::Voided(order) => (order, api::ErrorReason::OrderVoided),
            Refusal::Mismatch(order) => (order, api::ErrorReason::OrderMismatch),
            Refusal::InProgress(order) => (order, api::ErrorReason::PaymentInProgress),
        };
        let error = Self::refused(crate::NAME, reason.as_str_name(), &refusal).with("order", order);
        match refusal {
            Refusal::InProgress(_) => error.code(Code::Aborted).retry_after(ASK_AGAIN),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_carries_its_reason_and_the_order() {
        let order = || "movieApplications/1".to_owned();
        let refusals = [
            (Refusal::Declined(order()), Code::FailedPrecondition, "PAYMENT_DECLINED"),
            (Refusal::Voided(order()), Code::FailedPrecondition, "ORDER_VOIDED"),
            (Refusal::Mismatch(order()), Code::FailedPrecondition, "ORDER_MISMATCH"),
            (Refusal::InProgress(order()), Code::Aborted, "PAYMENT_IN_PROGRESS"),
        ];
        for (refusal, code, reason) in refusals {
            let status = tonic::Status::from(Error::from(refusal));
            assert_eq!((status.code(), mesh::reason_of(&status).as_deref()), (code, Some(reason)));
            assert_eq!(mesh::retry_delay_of(&status).is_some(), code == Code::Aborted);
        }
    }

    #[test]
    fn a_refund_that_is_too_large_blames_the_field() {
        let won = Money::new("KRW", 50_000);
        for refusal in [Refusal::TooMuch(won.clone()), Refusal::OtherCurrency(won)] {
            let Error::Invalid(violations) = Error::from(refusal) else { panic!("not invalid") };
            assert!(violations[0].field.starts_with("refund."), "{violations:?}");
        }
    }
}

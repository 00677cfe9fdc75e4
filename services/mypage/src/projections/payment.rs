//! Payments, of whatever system's orders: where an order's payment stands.

use mesh::{Event, Policy, Result, Tx, whenever};
use proto::payment::v1::{PaymentApproved, PaymentCancelled, PaymentDeclined};

use crate::store::apply;

pub(crate) fn policies() -> [Policy; 1] {
    [whenever("show where the order's payment stands", whenever_payment_approved)
        .or(whenever_payment_declined)
        .or(whenever_payment_cancelled)
        .from_start()]
}

fn whenever_payment_approved(tx: &mut Tx<'_>, event: &Event<PaymentApproved>) -> Result<()> {
    apply(tx, event, &event.order, &event.customer, |order| order.pay("APPROVED"))
}

fn whenever_payment_declined(tx: &mut Tx<'_>, event: &Event<PaymentDeclined>) -> Result<()> {
    apply(tx, event, &event.order, &event.customer, |order| order.pay("DECLINED"))
}

/// Also where nothing had been charged: an order that will not be paid any more is told in the same word.
fn whenever_payment_cancelled(tx: &mut Tx<'_>, event: &Event<PaymentCancelled>) -> Result<()> {
    apply(tx, event, &event.order, &event.customer, |order| order.pay("CANCELLED"))
}

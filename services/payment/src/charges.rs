//! Charging in three steps: stored, charged, settled. No step is inside another's transaction.
//!
//! ```text
//! PENDING -> APPROVED | DECLINED   the provider answered in time
//!         -> (gone)                nobody knows: no trace is left, and the charge is given back ([`Refunds::undo`])
//!         -> VOIDED                a cancel came first; it sees to the charge
//! ```

use std::sync::Arc;

use mesh::telemetry::TARGET;
use mesh::{Cause, Error, Id, Result, Store, Tx, scope};
use tokio::time::timeout_at;
use tracing::Instrument as _;

use crate::domain::{Charge, Payment, Payments, State};
use crate::provider::{PaymentProvider, ProviderError};
use crate::refunds::Refunds;
use crate::{store, wire};

/// Charges customers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Charges {
    pub(crate) store: Store,
    pub(crate) provider: Arc<dyn PaymentProvider>,
    pub(crate) refunds: Refunds,
}

impl Charges {
    /// Charges once for an order, or answers as before. Has effects outside of a transaction: it must be run to its
    /// end, whether or not the caller still waits.
    pub(crate) async fn pay(self, pay: wire::Pay) -> Result<Payment> {
        let cause = Cause::current(&pay.request_id);
        let request_id = pay.request_id.clone();
        let payment = self.begin(cause.clone(), pay).await?;
        if payment.state == State::Approved {
            return Ok(payment);
        }
        let outcome = match self.charge(&payment).await {
            Ok(charge) => self.settle(cause, payment.id, charge).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(settled) => settled
                .pay_again(payment.customer, &payment.amount)
                .map(|()| settled)
                .map_err(Error::from),
            Err(error) => {
                self.refunds.undo(payment, request_id).await;
                Err(error)
            }
        }
    }

    /// Step 1: a payment that waits, or the one there is.
    async fn begin(&self, cause: Cause, pay: wire::Pay) -> Result<Payment> {
        let work = move |tx: &mut Tx<'_>| {
            if let Some(payment) = store::find_by_order(tx, &pay.order)? {
                payment.pay_again(pay.customer, &pay.amount)?;
                return Ok(payment);
            }
            let payment = Payment::pending(&pay.order, pay.customer, pay.amount, tx.now());
            store::insert(tx, &payment)?;
            Ok(payment)
        };
        self.store.write_because(cause, work).await
    }

    /// Step 2: the provider, for as long as the caller waits.
    async fn charge(&self, payment: &Payment) -> Result<Charge> {
        let span = tracing::debug_span!(
            target: TARGET, "charge by the provider", otel.kind = "client", payment.name = %payment.id
        );
        let answer =
            self.provider.charge(payment.id, payment.customer, &payment.amount).instrument(span);
        let answer = match scope::deadline() {
            Some(deadline) => {
                timeout_at(deadline, answer).await.map_err(|_| Error::DeadlineExceeded)?
            }
            None => answer.await,
        };
        answer.map_err(unavailable)
    }

    /// Step 3: what came of it, with its event. The store refuses when the deadline has passed.
    async fn settle(&self, cause: Cause, id: Id<Payments>, charge: Charge) -> Result<Payment> {
        let work = move |tx: &mut Tx<'_>| {
            // Swept as a dead one: whoever asked has long given up.
            let mut payment = store::find(tx, id)?.ok_or(Error::DeadlineExceeded)?;
            let fact = payment.settle(charge)?;
            wire::publish(tx, &mut payment, fact)?;
            store::save(tx, &payment)?;
            Ok(payment)
        };
        self.store.write_because(cause, work).await
    }
}

/// What the caller is told when the provider gave no answer.
pub(crate) fn unavailable(error: ProviderError) -> Error {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    tracing::warn!(%error, cause, "the payment provider gave no answer");
    Error::unavailable("the payment provider")
}

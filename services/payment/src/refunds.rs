//! Giving back: what is due stands in the store until the provider has confirmed it, whatever dies meanwhile.
//!
//! A loop without input, woken by whoever adds to what is due and by a timer, compares what is with what should be. It
//! also ends charges that nobody waits for any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mesh::{Cause, Id, Result, Store, Tx, scope};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::charges::unavailable;
use crate::domain::{Cancel, Fact, Payment, Payments, State};
use crate::provider::{PaymentProvider, ProviderError};
use crate::store::Due;
use crate::{store, wire};

/// How often the loop looks by itself.
const LOOK: Duration = Duration::from_secs(1);
/// How many refunds it has under way at once.
const AT_ONCE: usize = 64;
/// How long the provider may take for a refund.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait after the first refund in vain; it doubles up to the longest.
const BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Gives back. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Refunds {
    store: Store,
    provider: Arc<dyn PaymentProvider>,
    sweep_after: Duration,
    wake: Arc<Notify>,
}

impl Refunds {
    pub(crate) fn new(
        store: Store,
        provider: Arc<dyn PaymentProvider>,
        sweep_after: Duration,
    ) -> Self {
        Self { store, provider, sweep_after, wake: Arc::default() }
    }

    /// Cancels the payment for an order, whatever has become of it, and has the provider give back what was charged.
    /// It must be run to its end, whether or not the caller still waits.
    pub(crate) async fn cancel(self, cancel: wire::CancelPayment) -> Result<Payment> {
        let cause = Cause::current(&cancel.request_id);
        let payment = self.store.write_because(cause, move |tx| store_cancel(tx, cancel)).await?;
        if payment.state != State::Refunding {
            self.wake.notify_one();
            return Ok(payment);
        }
        scope::without_deadline(async {
            let id = payment.id;
            let due = self.store.read(move |conn| store::find_due(conn, id)).await?;
            if let Some(due) = due {
                self.give_back(&due).await?;
            }
            // Not due any more: somebody else finished it.
            let settled = self.store.read(move |conn| store::find(conn, id)).await?;
            Ok(settled.unwrap_or(payment))
        })
        .await
    }

    /// Leaves no trace of a charge that failed halfway; what the provider may have made of it is given back.
    pub(crate) async fn undo(&self, payment: Payment, request_id: String) {
        let name = payment.id;
        let work = move |tx: &mut Tx<'_>| forget(tx, &payment, &request_id);
        if let Err(error) = scope::without_deadline(self.store.write(work)).await {
            tracing::warn!(payment.name = %name, %error, "a charge was not undone: the sweeper will do it");
        }
        self.wake.notify_one();
    }

    /// Runs for as long as the context does.
    pub(crate) async fn run(self) {
        if let Err(error) = self.store.write(|tx| store::hurry(tx)).await {
            tracing::warn!(%error, "due refunds wait for their time");
        }
        let (mut under_way, mut names) = (FuturesUnordered::new(), HashSet::new());
        loop {
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "charges that nobody waits for are undone later");
            }
            let due = self.due().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "due refunds are given back later");
                Vec::new()
            });
            for due in due {
                if under_way.len() < AT_ONCE && names.insert(due.payment) {
                    under_way.push(self.give_back_or_wait(due));
                }
            }
            tokio::select! {
                Some(payment) = under_way.next() => { names.remove(&payment); }
                () = self.wake.notified() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Says which payment it was. What was in vain is tried again when the store says so, and not at once even if the
    /// store cannot say.
    async fn give_back_or_wait(&self, due: Due) -> Id<Payments> {
        if let Err(error) = self.give_back(&due).await {
            tracing::debug!(payment.name = %due.payment, attempts = due.attempts + 1, %error, "a refund is tried again");
            sleep(BACKOFF).await;
        }
        due.payment
    }

    /// What is due now.
    async fn due(&self) -> Result<Vec<Due>> {
        // As many again as may be under way: those are due, too.
        let limit = i64::try_from(2 * AT_ONCE).unwrap_or(i64::MAX);
        self.store.read(move |conn| store::list_due(conn, mesh::now(), limit)).await
    }

    /// Undoes charges that have waited so long that whoever asked has given up, or has died.
    async fn sweep(&self) -> Result<()> {
        let before = mesh::now() - self.sweep_after;
        let abandoned =
            self.store.read(move |conn| store::pending_since(conn, before, 100)).await?;
        for payment in abandoned {
            tracing::info!(payment.name = %payment.id, order.name = payment.order, "a charge was left halfway; it is undone");
            self.store.write(move |tx| forget(tx, &payment, "")).await?;
        }
        Ok(())
    }

    /// Has the provider give it back, and stores that it did.
    async fn give_back(&self, due: &Due) -> Result<()> {
        let answer = timeout(PATIENCE, self.provider.refund(due.payment, &due.amount)).await;
        let answer = answer.unwrap_or(Err(ProviderError::Silent));
        let due = due.clone();
        match answer {
            Ok(()) => {
                self.store
                    .write_because(Cause::current(&due.cause), move |tx| store_refund(tx, &due))
                    .await
            }
            Err(error) => {
                let wait = backoff(due.attempts);
                self.store.write(move |tx| store::postpone(tx, due.payment, wait)).await?;
                Err(unavailable(error))
            }
        }
    }
}

/// Cancels in the store: from here on the order cannot be charged, and what was charged is due.
fn store_cancel(tx: &mut Tx<'_>, cancel: wire::CancelPayment) -> Result<Payment> {
    let wire::CancelPayment { request_id: cause, order, customer, reason, refund } = cancel;
    let Some(mut payment) = store::find_by_order(tx, &order)? else {
        let currency = refund.map_or_else(|| "XXX".to_owned(), |refund| refund.currency);
        let mut tombstone = Payment::tombstone(&order, customer, &reason, &currency, tx.now());
        wire::publish(tx, &mut tombstone, Fact::Cancelled)?;
        store::insert(tx, &tombstone)?;
        return Ok(tombstone);
    };
    let now = tx.now();
    match payment.cancel(customer, &reason, refund)? {
        Cancel::Done | Cancel::UnderWay => return Ok(payment),
        Cancel::Void => {
            let due =
                Due { payment: payment.id, amount: payment.amount.clone(), cause, attempts: 0 };
            store::owe(tx, &due, now)?;
            wire::publish(tx, &mut payment, Fact::Cancelled)?;
        }
        Cancel::Refund(amount) => {
            let due = Due { payment: payment.id, amount, cause, attempts: 0 };
            // Whoever cancels asks the provider first; the loop only if that comes to nothing.
            store::owe(tx, &due, now + PATIENCE + LOOK)?;
        }
    }
    store::save(tx, &payment)?;
    Ok(payment)
}

/// Forgets a charge that was never settled, and owes whatever the provider made of it.
fn forget(tx: &mut Tx<'_>, payment: &Payment, cause: &str) -> Result<()> {
    match store::find(tx, payment.id)?.map(|payment| payment.state) {
        Some(State::Pending) => store::delete(tx, payment.id)?,
        // Cancelled or swept meanwhile, and perhaps given back before the charge was made.
        Some(State::Voided) | None => {}
        // Settled after all.
        Some(_) => return Ok(()),
    }
    let due = Due {
        payment: payment.id,
        amount: payment.amount.clone(),
        cause: cause.to_owned(),
        attempts: 0,
    };
    let now = tx.now();
    store::owe(tx, &due, now)
}

/// Stores that the provider has given it back.
fn store_refund(tx: &mut Tx<'_>, due: &Due) -> Result<()> {
    store::settle_due(tx, due.payment)?;
    let Some(mut payment) = store::find(tx, due.payment)? else { return Ok(()) };
    let Some(fact) = payment.give_back(&due.amount) else { return Ok(()) };
    wire::publish(tx, &mut payment, fact)?;
    store::save(tx, &payment)
}

/// How long to wait after so many attempts in vain.
fn backoff(attempts: i32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.unsigned_abs());
    BACKOFF.saturating_mul(doubled).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_longest() {
        assert_eq!(
            [0, 1, 2, 6, i32::MAX].map(backoff),
            [200, 400, 800, 10_000, 10_000].map(Duration::from_millis)
        );
    }
}

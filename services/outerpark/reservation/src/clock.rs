//! The clock of the holds: it stands still while payment is out of reach, and lets holds expire when it has run out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh::{Result, Store};
use proto::outerpark::reservation::v1::ReservationExpired;
use tokio::time::Instant;

use crate::store;

/// How often it looks.
const TICK: Duration = Duration::from_millis(500);

/// The clock. Cheap to clone; clones share what is known of payment.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    store: Store,
    stands: Arc<AtomicBool>,
}

impl Clock {
    /// A clock that runs.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, stands: Arc::default() }
    }

    /// Tells whether payment answered, whatever it said.
    pub(crate) fn payment_answered(&self, answered: bool) {
        self.stands.store(!answered, Ordering::Relaxed);
    }

    /// Runs for as long as the context does.
    pub(crate) async fn run(self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(TICK).await;
            let passed = last.elapsed();
            last = Instant::now();
            let ticked = if self.stands.load(Ordering::Relaxed) {
                self.store.write(move |tx| store::prolong_holds(tx, passed)).await
            } else {
                self.expire().await
            };
            if let Err(error) = ticked {
                tracing::warn!(%error, "the clock of the holds comes again");
            }
        }
    }

    async fn expire(&self) -> Result<()> {
        let now = mesh::now();
        if self.store.read(move |conn| store::overdue(conn, now)).await?.is_empty() {
            return Ok(());
        }
        self.store
            .write(|tx| {
                let now = tx.now();
                for mut held in store::overdue(tx, now)? {
                    if held.expire(now) {
                        held.revision =
                            tx.publish(held.id, held.id, &ReservationExpired::from(&held))?;
                        store::save(tx, &held)?;
                    }
                }
                Ok(())
            })
            .await
    }
}

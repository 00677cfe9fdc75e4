//! Waiting for what the view does not have yet: woken by commits, and looking seldom enough to be cheap.

use std::time::Duration;

use mesh::{Error, Result, Store, scope};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{NAME, store};

/// How long a call waits for a revision at the most.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long after one look the next may follow: what is committed meanwhile is taken together.
const BREATH: Duration = Duration::from_millis(20);

/// The commits of a store, as reasons to look again.
pub(crate) struct Commits {
    count: watch::Receiver<u64>,
    looked: Instant,
}

impl Commits {
    pub(crate) fn of(store: &Store) -> Self {
        Self { count: store.commits(), looked: Instant::now() }
    }

    /// Call it before looking: what is committed from here on wakes.
    pub(crate) fn look(&mut self) {
        self.count.borrow_and_update();
        self.looked = Instant::now();
    }

    /// Waits until it is worth looking again. Whoever gives up waiting looks once more.
    pub(crate) async fn next(&mut self) -> Result<()> {
        self.count.changed().await.map_err(|_| Error::unavailable(NAME))?;
        sleep_until(self.looked + BREATH).await;
        Ok(())
    }
}

/// A version of something that a client knows of: `{subject}@{sequence}`.
#[derive(Debug, Clone)]
pub(crate) struct Revision {
    pub(crate) subject: String,
    pub(crate) sequence: i64,
}

/// Waits briefly until the view has a revision that belongs to an order of this customer; says whether it has.
pub(crate) async fn has(store: &Store, customer: &str, revision: &Revision) -> Result<bool> {
    let until = Instant::now() + patience(scope::time_left());
    let mut commits = Commits::of(store);
    loop {
        commits.look();
        let (customer, wanted) = (customer.to_owned(), revision.clone());
        if store
            .read(move |conn| store::has(conn, &customer, &wanted.subject, wanted.sequence))
            .await?
        {
            return Ok(true);
        }
        if commits.looked >= until {
            return Ok(false);
        }
        if let Ok(woken) = timeout_at(until, commits.next()).await {
            woken?;
        }
    }
}

/// Some of the time is kept to answer in.
fn patience(time_left: Option<Duration>) -> Duration {
    time_left.map_or(PATIENCE, |left| PATIENCE.min(left / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_leaves_time_to_answer() {
        assert_eq!(patience(None), PATIENCE);
        assert_eq!(patience(Some(Duration::from_secs(1))), PATIENCE);
        assert_eq!(patience(Some(Duration::from_millis(100))), Duration::from_millis(50));
        assert_eq!(patience(Some(Duration::ZERO)), Duration::ZERO);
    }
}

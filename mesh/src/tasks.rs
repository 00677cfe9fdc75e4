//! Work that a context has begun, so that none outlives it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::error::{Error, Result};
use crate::telemetry;

/// Has a thread do what blocks; whoever asks has bounded it. In a simulation it is done here and now.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    #[cfg(feature = "chaos")]
    if crate::world::is_simulated() {
        crate::world::pause().await;
        return Ok(work());
    }
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)
}

/// The tasks of a context, so that none outlives it. Cheap to clone: every call takes it along.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tracker: TaskTracker,
    aborted: CancellationToken,
}

impl Tasks {
    /// Begins one; there is no output of one that is aborted.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // A handle of each would keep its memory, long after it has ended.
        let task = self.0.aborted.clone().run_until_cancelled_owned(task);
        self.0.tracker.spawn(telemetry::along(task.in_current_span()))
    }

    /// Waits until all have ended; after `patience` they are made to.
    pub(crate) async fn finish(&self, patience: Duration) {
        self.0.tracker.close();
        if tokio::time::timeout(patience, self.0.tracker.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time and were aborted");
            self.abort().await;
        }
    }

    pub(crate) async fn abort(&self) {
        self.0.tracker.close();
        self.0.aborted.cancel();
        self.0.tracker.wait().await;
    }
}

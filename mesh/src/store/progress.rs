//! What is told of a store to those who follow it.

use std::sync::Arc;

use tokio::sync::watch;

/// What is told of a store, whoever changes it.
#[derive(Clone)]
pub(super) struct Progress {
    /// The last committed position.
    pub(super) head: watch::Sender<i64>,
    /// Another number after each commit.
    pub(super) commits: watch::Sender<u64>,
    /// Which life of the log it is.
    pub(super) epoch: watch::Sender<Arc<str>>,
}

impl Progress {
    pub(super) fn new(head: i64, epoch: &str) -> Self {
        Self {
            head: watch::Sender::new(head),
            commits: watch::Sender::new(0),
            epoch: watch::Sender::new(epoch.into()),
        }
    }

    /// Tells of commits by somebody else, who has brought the log here at least.
    pub(super) fn tell_at_least(&self, head: i64) {
        self.head.send_if_modified(|known| std::mem::replace(known, head.max(*known)) < head);
        self.commits.send_modify(|count| *count += 1);
    }

    /// Tells of commits that have brought the log here.
    pub(super) fn tell(&self, head: i64) {
        self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        self.commits.send_modify(|count| *count += 1);
    }
}

//! Mistakes that a test plants to see that other tests find them.
//!
//! Each is one line at its place, `if planted(Bug::...)`. Without the feature `chaos` none is ever there, and the line
//! is nothing.

/// A mistake that could be made, and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A policy's cursor is stored before its effect.
    CursorBeforeEffect,
    /// The same command again is carried out again.
    NoDeduplication,
    /// What a command answered is remembered in a transaction of its own.
    AnswerApart,
    /// A call that is sent again looks like another one.
    NewRequestIdOnRetry,
    /// A connection that is silent is taken for a good one.
    NoKeepalive,
    /// An order is registered though it was voided meanwhile.
    RegisterUnchecked,
    /// A breaker that is half-open lets everything through.
    HalfOpenLetsAllThrough,
    /// A stream looks at the state before it subscribes to changes.
    SnapshotBeforeSubscribing,
    /// A customer's page shows everybody's orders.
    NoOwnerFilter,
}

/// Whether a test has planted this mistake.
#[cfg(not(feature = "chaos"))]
#[inline]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "chaos")]
pub use with_chaos::{Planted, planted};

#[cfg(feature = "chaos")]
mod with_chaos {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::{Mutex, MutexGuard};

    use super::Bug;

    static PLANTED: AtomicU32 = AtomicU32::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

    /// Whether a test has planted this mistake.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) & 1 << bug as u32 != 0
    }

    /// The program is this test's alone, to plant mistakes in; until it is dropped.
    #[derive(Debug)]
    pub struct Planted(
        #[expect(dead_code, reason = "held, not looked at")] MutexGuard<'static, ()>,
    );

    impl Planted {
        /// Waits until no other test of this program is about mistakes.
        pub async fn alone() -> Self {
            Self(ONE_AT_A_TIME.lock().await)
        }

        /// Plants a mistake in everything that this program runs.
        pub fn plant(&self, bug: Bug) {
            PLANTED.fetch_or(1 << bug as u32, Ordering::Relaxed);
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.store(0, Ordering::Relaxed);
        }
    }
}

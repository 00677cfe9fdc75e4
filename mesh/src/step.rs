//! Steps: before and after whatever leaves a process or is kept by it, where a test may let a context die.
//!
//! Without the feature `chaos` a step is nothing at all. With it, every step stands in one list ([`SITES`]): the kill
//! matrix lets each context die at each of them, and fails where one is never passed.

/// A step of `$of`, which is a store or a way to another context.
macro_rules! step {
    ($of:expr, $site:literal) => {
        #[cfg(feature = "chaos")]
        {
            const { assert!(crate::step::is_listed($site), "a step that is not in the list") }
            $of.steps().reach($site).await;
        }
    };
}

/// As [`step`], within a transaction: where the context dies here, nothing of it is kept.
macro_rules! step_within {
    ($of:expr, $site:literal) => {
        #[cfg(feature = "chaos")]
        {
            const { assert!(crate::step::is_listed($site), "a step that is not in the list") }
            if $of.steps().dies_at($site) {
                return Err(crate::error::Error::unavailable("a dead context"));
            }
        }
    };
}

#[cfg(feature = "chaos")]
pub use with_chaos::{KILL_AT, SITES};
#[cfg(feature = "chaos")]
pub(crate) use with_chaos::{Steps, is_listed};

#[cfg(feature = "chaos")]
mod with_chaos {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, LazyLock, OnceLock};

    use rustix::process::{Signal, getpid, kill_process};

    use crate::chaos::{Fate, Faults};

    /// Every step there is.
    pub const SITES: [&str; 29] = [
        "calling.after_call",
        "calling.after_cursor",
        "calling.before_call",
        "calling.before_cursor",
        "client.after_receive",
        "client.before_send",
        "command.after",
        "command.before",
        "events.before_send",
        "policy.after_commit",
        "policy.after_cursor",
        "policy.after_effect",
        "policy.before_effect",
        "policy.received",
        "saga.called",
        "saga.kept",
        "saga.refused",
        "saga.registered",
        "saga.registering",
        "saga.stored",
        "saga.undone",
        "saga.voided",
        "saga.voiding",
        "store.after_commit",
        "store.before_commit",
        "view.after_swap",
        "view.before_swap",
        "watch.before_look",
        "watch.before_tell",
    ];

    /// `site:n`: the process kills itself where it passes this step for the n-th time.
    pub const KILL_AT: &str = "TURNSTILE_KILL_AT";

    pub(crate) const fn is_listed(site: &str) -> bool {
        let mut index = 0;
        while index < SITES.len() {
            if same(SITES[index].as_bytes(), site.as_bytes()) {
                return true;
            }
            index += 1;
        }
        false
    }

    const fn same(one: &[u8], other: &[u8]) -> bool {
        let mut index = 0;
        while index < one.len() && index < other.len() && one[index] == other[index] {
            index += 1;
        }
        index == one.len() && index == other.len()
    }

    /// What passes steps: it belongs to a context of a process, and there to die with it.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Steps(Arc<OnceLock<(Arc<str>, Faults)>>);

    impl Steps {
        pub(crate) fn of(context: &str, faults: &Faults) -> Self {
            let steps = Self::default();
            steps.belong_to(context, faults);
            steps
        }

        /// Tells whose steps they are. Before that nothing happens at them.
        pub(crate) fn belong_to(&self, context: &str, faults: &Faults) {
            let _ = self.0.set((context.into(), faults.clone()));
        }

        /// So that it can be asked in the same way as what it belongs to.
        pub(crate) fn steps(&self) -> &Self {
            self
        }

        /// Passes a step. A context that is dead stands still here until it is crashed; what goes on then finds its
        /// store closed.
        pub(crate) async fn reach(&self, site: &'static str) {
            let Some((context, faults)) = self.0.get() else { return };
            kill_where_told(site);
            if let Some(buried) = faults.pass_step(context, site) {
                buried.cancelled().await;
            }
        }

        /// Passes a step on a thread that must not wait: whether the context is dead.
        pub(crate) fn dies_at(&self, site: &'static str) -> bool {
            let Some((context, faults)) = self.0.get() else { return false };
            kill_where_told(site);
            faults.pass_step(context, site).is_some()
        }

        /// What is to happen to a part that a saga does.
        pub(crate) fn fate(&self, part: &str) -> Fate {
            let Some((context, faults)) = self.0.get() else { return Fate::Done };
            faults.fate(context, part)
        }
    }

    /// As kill -9 does, at a step that the environment names.
    fn kill_where_told(site: &str) {
        static TOLD: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
            #[expect(clippy::disallowed_methods, reason = "for tests alone, and not a setting")]
            let text = std::env::var(KILL_AT).ok()?;
            let (site, n) = text.rsplit_once(':')?;
            Some((site.to_owned(), AtomicU32::new(n.parse().ok()?)))
        });
        if let Some((at, left)) = &*TOLD
            && at == site
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

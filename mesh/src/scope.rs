//! What a call carries along without being asked: how much time is left, and on whose behalf it is made.
//!
//! A task-local, set around every call that is served and every policy; the store and the channels read it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use crate::tasks::Tasks;

tokio::task_local! {
    static SCOPE: Scope;
}

/// The surroundings of the work that runs now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// When nobody waits for the result any more.
    pub(crate) deadline: Option<Instant>,
    /// The customer's own token, passed on to the contexts that are called on the customer's behalf.
    pub(crate) bearer: Option<Arc<str>>,
    /// Where the context keeps work that must not be left halfway.
    pub(crate) tasks: Option<Tasks>,
    /// Who sends the call again where that can help, so that nobody down here does (trap T-18).
    pub(crate) retry_owner: Option<HeaderValue>,
}

impl Scope {
    /// The surroundings of the caller; outside of a call there are none.
    pub(crate) fn current() -> Self {
        SCOPE.try_with(Clone::clone).unwrap_or_default()
    }

    /// Looks at the surroundings of the caller, if there are any.
    pub(crate) fn look(look: impl FnOnce(&Self)) {
        let _ = SCOPE.try_with(look);
    }

    /// Runs `work` within these surroundings.
    pub(crate) fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, work)
    }
}

/// When nobody waits for the result of the current work any more; `None` outside of a call.
pub fn deadline() -> Option<Instant> {
    SCOPE.try_with(|scope| scope.deadline).ok().flatten()
}

/// How much time is left for the current work; `None` outside of a call.
pub fn time_left() -> Option<Duration> {
    deadline().map(|at| at.saturating_duration_since(Instant::now()))
}

/// Whether the deadline of the current work has passed.
pub fn has_expired() -> bool {
    deadline().is_some_and(|at| at <= Instant::now())
}

/// Carries the work to its end in a task of its own, with the deadline of the caller: a caller that goes away does not
/// stop it halfway. For work that has effects outside of a transaction.
pub fn to_the_end<F>(work: F) -> impl Future<Output = F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // It is large, and would be copied into each of what is around it.
    let work = Box::pin(work);
    async {
        let scope = Scope::current();
        let tasks = scope.tasks.clone().unwrap_or_default();
        match tasks.spawn(scope.around(work)).await {
            Ok(Some(output)) => output,
            // The context was made to end, and this work with it.
            Ok(None) => std::future::pending().await,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Runs `work` without a deadline, on behalf of whom it was: for what must be finished though nobody waits for it any
/// more, and nobody asks for it again.
pub fn without_deadline<F: Future>(work: F) -> impl Future<Output = F::Output> {
    Scope { deadline: None, retry_owner: None, ..Scope::current() }.around(work)
}

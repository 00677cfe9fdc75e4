//! The front of a process: every call, local or from outside, passes through [`Front::serve`].
//!
//! Reads the rule of the method from the contract, finds out who calls, sets the deadline, and hands the call to the
//! context that serves it. What goes wrong on the way becomes a status here and nowhere else.

mod access;
mod listen;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;
use tracing::Instrument as _;

pub(crate) use access::Access;
pub use listen::Listening;

use crate::client::RETRY_OWNER;
use crate::contract::{Contract, Rule};
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::tasks::Tasks;
use crate::telemetry;

/// The package of the kit's own services, which every process answers for its contexts together.
const MESH: &str = "mesh";

/// The front of a process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    inner: Arc<Inner>,
}

struct Inner {
    access: Access,
    /// The contexts of this process; one that is stopped stays known.
    contexts: RwLock<HashMap<String, Option<Served>>>,
    /// Health, reflection, events, operations.
    infrastructure: OnceLock<Routes>,
    #[cfg(feature = "chaos")]
    faults: crate::chaos::Faults,
}

/// What a context answers with.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) routes: Routes,
    /// Where work goes that a call begins and must not leave halfway.
    pub(crate) tasks: Tasks,
}

impl Front {
    pub(crate) fn new(access: Access) -> Self {
        Self {
            inner: Arc::new(Inner {
                access,
                contexts: RwLock::default(),
                infrastructure: OnceLock::new(),
                #[cfg(feature = "chaos")]
                faults: crate::chaos::Faults::default(),
            }),
        }
    }

    pub(crate) fn set_infrastructure(&self, routes: Routes) {
        let _ = self.inner.infrastructure.set(routes);
    }

    #[cfg(feature = "chaos")]
    pub(crate) fn faults(&self) -> &crate::chaos::Faults {
        &self.inner.faults
    }

    /// From now on calls of this context are `served`; or it is known, but down.
    pub(crate) fn put(&self, context: &str, served: Option<Served>) {
        let mut contexts = self.inner.contexts.write().unwrap_or_else(PoisonError::into_inner);
        contexts.insert(context.to_owned(), served);
    }

    pub(crate) fn is_up(&self, context: &str) -> bool {
        context == MESH || matches!(self.find(context), Some(Some(_)))
    }

    /// Whether this context is one of this process, running or not.
    pub(crate) fn knows(&self, context: &str) -> bool {
        self.find(context).is_some()
    }

    fn find(&self, context: &str) -> Option<Option<Served>> {
        self.inner.contexts.read().unwrap_or_else(PoisonError::into_inner).get(context).cloned()
    }

    /// Answers one call.
    pub(crate) async fn serve(&self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path();
        // Health and reflection are public by nature, and not of our contracts.
        if path.starts_with("/grpc.") {
            return match self.inner.infrastructure.get().cloned() {
                Some(routes) => run(routes, request).await.unwrap_or_else(refuse),
                None => refuse(Error::unavailable("the process")),
            };
        }
        let rule = Contract::ours().and_then(|contract| {
            contract
                .rule(path)
                .cloned()
                .ok_or_else(|| Error::Unimplemented(path.trim_start_matches('/').to_owned()))
        });
        match rule {
            Ok(rule) => {
                let span = telemetry::call_span(&rule, request.headers());
                self.handle(&rule, request).instrument(span).await.unwrap_or_else(refuse)
            }
            Err(error) => refuse(error),
        }
    }

    async fn handle(
        &self,
        rule: &Rule,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>> {
        let begun = Instant::now();
        let (mut head, body) = request.into_parts();
        let caller = self.inner.access.admit(rule, &head).await?;
        let bearer = caller.account().ok().and_then(|_| bearer_of(&head.headers));
        let deadline = deadline_of(rule, &head.headers).map(|time| begun + time);
        let Served { routes, tasks } = self.served(&rule.context)?;
        let retry_owner = head.headers.get(RETRY_OWNER).cloned();
        head.extensions.insert(caller);
        let work = Scope { deadline, bearer, tasks: Some(tasks), retry_owner }
            .around(run(routes, http::Request::from_parts(head, body)));
        match deadline {
            Some(at) => timeout_at(at, work).await.unwrap_or(Err(Error::DeadlineExceeded)),
            None => work.await,
        }
    }

    fn served(&self, context: &str) -> Result<Served> {
        if context == MESH {
            let routes = self.inner.infrastructure.get().cloned();
            let routes = routes.ok_or_else(|| Error::unavailable("the process"))?;
            return Ok(Served { routes, tasks: Tasks::default() });
        }
        match self.find(context) {
            Some(Some(served)) => Ok(served),
            Some(None) => Err(Error::unavailable(context)),
            None => Err(Error::Unimplemented(context.to_owned())),
        }
    }
}

/// Runs a handler; a panic is a mistake of ours like any other.
async fn run(routes: Routes, request: http::Request<Body>) -> Result<http::Response<Body>> {
    match AssertUnwindSafe(routes.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(never)) => match never {},
        Err(panic) => {
            Err(Error::internal(format!("panic in a handler: {}", crate::store::words(&*panic))))
        }
    }
}

fn refuse(error: Error) -> http::Response<Body> {
    Status::from(error).into_http()
}

/// How long a call may take: what the client asks for, but no longer than the contract allows.
fn deadline_of(rule: &Rule, headers: &HeaderMap) -> Option<Duration> {
    let asked =
        headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(read_timeout);
    match (asked, rule.deadline) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    }
}

/// `grpc-timeout`: up to eight digits and a unit.
fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The whole value of the `authorization` header.
fn bearer_of(headers: &HeaderMap) -> Option<Arc<str>> {
    headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_deadline_counts_but_is_capped() {
        let rule = Contract::ours()
            .unwrap()
            .rule("/turnstile.payment.v1.PaymentService/Pay")
            .unwrap()
            .clone();
        let ask = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline_of(&rule, &headers)
        };
        assert_eq!(ask("200m"), Some(Duration::from_millis(200)));
        assert_eq!(ask("1H"), rule.deadline);
        assert_eq!(ask("rubbish"), rule.deadline);
        assert_eq!(ask("999999999S"), rule.deadline);
        assert_eq!(deadline_of(&rule, &HeaderMap::new()), rule.deadline);
    }
}

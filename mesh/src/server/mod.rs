//! The front of a process: every call, local or from outside, passes through [`Front::serve`].
//!
//! What comes in through a port is bounded first: how large ([`measured`]), how much at once ([`gate`]), how long
//! ([`deadline`], [`outgoing`]). Then the rule of the method is read from the contract, who calls is found out
//! ([`access`]), and the call is handed to the context that serves it. What goes wrong on the way becomes a status here
//! and nowhere else.

mod access;
mod connection;
mod deadline;
mod gate;
mod listen;
mod measured;
mod outgoing;
mod routes;

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

pub(crate) use access::Access;
pub use gate::Limits;
pub use listen::Listening;
pub use routes::GeneratedService;
pub(crate) use routes::Routes;

use self::deadline::{HEAD_START, OPENING, deadline_of, end_of};
use self::gate::{Gate, Place, Who};
use self::measured::Measured;
use self::outgoing::Outgoing;
use crate::caller::{Caller, LocalPeer, RemotePeer};
use crate::client::RETRY_OWNER;
use crate::contract::{Contract, Rule};
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// The package of the kit's own services, which every process answers for its contexts together.
const MESH: &str = "mesh";

/// The front of a process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    inner: Arc<Inner>,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("gate", &self.inner.gate).finish_non_exhaustive()
    }
}

struct Inner {
    access: Access,
    metrics: Metrics,
    gate: Gate,
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
    pub(crate) fn new(access: Access, limits: Limits, metrics: Metrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                access,
                metrics,
                gate: Gate::new(limits),
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

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
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
        let contexts = self.inner.contexts.read().unwrap_or_else(PoisonError::into_inner);
        context == MESH || matches!(contexts.get(context), Some(Some(_)))
    }

    /// Whether this context is one of this process, running or not.
    pub(crate) fn knows(&self, context: &str) -> bool {
        self.find(context).is_some()
    }

    fn find(&self, context: &str) -> Option<Option<Served>> {
        self.inner.contexts.read().unwrap_or_else(PoisonError::into_inner).get(context).cloned()
    }

    fn limits(&self) -> Limits {
        self.inner.gate.limits()
    }

    /// Lets nothing in from outside any more, and ends the streams that go out. Calls that are under way go on, and so
    /// do those that they make within this process.
    pub(crate) fn drain(&self) {
        self.inner.gate.close();
    }

    /// Whether nothing is let in any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.inner.gate.closing().is_cancelled()
    }

    /// Whether no call from outside is under way.
    fn is_quiet(&self) -> bool {
        self.inner.gate.is_quiet()
    }

    /// Answers one call that came in through a port.
    async fn receive(&self, request: http::Request<Body>) -> http::Response<Body> {
        if !is_grpc(request.headers()) {
            let mut refusal = http::Response::new(Body::empty());
            *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return refusal;
        }
        self.serve(request.map(|body| Body::new(Measured::new(body)))).await
    }

    /// Answers one call, from wherever it comes.
    pub(crate) async fn serve(&self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path();
        // Health and reflection are public by nature, and not of our contracts.
        if path.starts_with("/grpc.") {
            return self.infrastructure(request).await.unwrap_or_else(refuse);
        }
        let rule = Contract::ours().and_then(|contract| {
            contract
                .rule(path)
                .cloned()
                .ok_or_else(|| Error::Unimplemented(path.trim_start_matches('/').to_owned()))
        });
        match rule {
            Ok(rule) => {
                let tracked = self.inner.metrics.begin(&rule, request.headers());
                let work = async { self.handle(&rule, request).await.unwrap_or_else(refuse) };
                let answer = tracked.around(work).await;
                tracked.answer(answer)
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
        // What a context of this process asks for belongs to a call that was let in, or to nobody's.
        let within = request.extensions().get::<LocalPeer>().is_some();
        let head_start = if within { Duration::ZERO } else { HEAD_START };
        let deadline = deadline_of(rule, request.headers(), begun, head_start);
        if deadline <= begun {
            return Err(Error::DeadlineExceeded);
        }
        let _place = match within {
            true => None,
            false => {
                let of_a_context = self.inner.access.claims_context(rule, &request);
                Some(self.inner.gate.enter(of_a_context)?)
            }
        };
        let until = end_of(request.headers(), begun);
        // All that the context does is in there: apart, so that what is around it stays small enough to be moved.
        let work = Box::pin(self.answer(rule, request, deadline));
        let (answer, place) =
            timeout_at(deadline, work).await.unwrap_or(Err(Error::DeadlineExceeded))?;
        Ok(match rule.streams {
            false => answer,
            true if within => answer.map(|body| Body::new(Outgoing::within(body))),
            true => answer.map(|body| {
                Body::new(Outgoing::outside(body, until, self.inner.gate.closing(), place))
            }),
        })
    }

    /// What the context answers that serves it, and the place of a stream that goes out.
    async fn answer(
        &self,
        rule: &Rule,
        request: http::Request<Body>,
        deadline: Instant,
    ) -> Result<(http::Response<Body>, Option<Place>)> {
        let (mut head, body) = request.into_parts();
        let caller = self.inner.access.admit(rule, &head).await;
        let place = match head.extensions.get::<LocalPeer>() {
            Some(_) => None,
            None => self.count(rule, caller.as_ref().ok(), &head)?,
        };
        let caller = caller?;
        let bearer = caller.account().ok().and_then(|_| bearer_of(&head.headers));
        let Served { routes, tasks } = self.served(&rule.context)?;
        let retry_owner = head.headers.get(RETRY_OWNER).cloned();
        head.extensions.insert(caller);
        let scope = Scope { deadline: Some(deadline), bearer, tasks: Some(tasks), retry_owner };
        let work = run(routes, http::Request::from_parts(head, body));
        Ok((scope.around(work).await?, place))
    }

    /// Counts a call from outside for whoever makes it; the place of the stream, if that is what it opens. Who is not let
    /// in is counted by the address.
    fn count(&self, rule: &Rule, caller: Option<&Caller>, head: &Parts) -> Result<Option<Place>> {
        let peer = || head.extensions.get::<RemotePeer>()?.address.map(|peer| Who::at(peer.ip()));
        let who = caller.map_or_else(peer, Who::of);
        self.inner.gate.count(who)?;
        let opens = rule.streams && caller.is_some();
        opens.then(|| self.inner.gate.open_stream(who)).transpose()
    }

    /// Health and reflection answer also when there is too much of everything else.
    async fn infrastructure(&self, request: http::Request<Body>) -> Result<http::Response<Body>> {
        let routes = self.served(MESH)?.routes;
        let begun = Instant::now();
        let until = end_of(request.headers(), begun);
        let work = run(routes, request);
        let answer =
            timeout_at(begun + OPENING, work).await.unwrap_or(Err(Error::DeadlineExceeded))?;
        let closing = self.inner.gate.closing();
        Ok(answer.map(|body| Body::new(Outgoing::outside(body, until, closing, None))))
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
    let answer = async { routes.call(request)?.await.map_err(|never| match never {}) };
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|panic| {
        let words = crate::store::words(&*panic);
        Err(Error::internal(format!("panic in a handler: {words}")))
    })
}

fn refuse(error: Error) -> http::Response<Body> {
    Status::from(error).into_http()
}

/// Anything else is not for us: a body that is no gRPC would only be guessed at.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The whole value of the `authorization` header.
fn bearer_of(headers: &HeaderMap) -> Option<Arc<str>> {
    headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(Arc::from)
}

#[cfg(test)]
mod tests;

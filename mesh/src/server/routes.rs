//! Which service answers a call: generated services by their names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::error::{Error, Result};

/// What a generated service answers with.
type Answer = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

/// A service as it is generated from a contract.
pub trait GeneratedService:
    Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future = Answer,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GeneratedService for S where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = Answer,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

type Serve = Arc<dyn Fn(http::Request<Body>) -> Answer + Send + Sync>;

/// Generated services, or one that answers whatever is asked. Cheap to clone.
///
/// They are called as they are: a router for any kind of path would put a call and its answer into boxes of its own.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    named: Arc<HashMap<&'static str, Serve>>,
    rest: Option<Serve>,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.named.keys()).finish()
    }
}

impl Routes {
    /// Whatever is asked goes to this one.
    pub(crate) fn all(service: impl GeneratedService) -> Self {
        Self { rest: Some(serve(service)), ..Self::default() }
    }

    /// With this one, too.
    pub(crate) fn add<S: GeneratedService + NamedService>(&mut self, service: S) {
        Arc::make_mut(&mut self.named).insert(S::NAME, serve(service));
    }

    /// Has the service answer that the path names.
    pub(super) fn call(&self, request: http::Request<Body>) -> Result<Answer> {
        let path = request.uri().path().trim_start_matches('/');
        let named = path.split_once('/').and_then(|(service, _)| self.named.get(service));
        match named.or(self.rest.as_ref()) {
            Some(serve) => Ok(serve(request)),
            None => Err(Error::Unimplemented(path.to_owned())),
        }
    }
}

/// Generated services are always ready.
fn serve(service: impl GeneratedService) -> Serve {
    Arc::new(move |request| service.clone().call(request))
}

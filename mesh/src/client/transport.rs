//! How a call gets to its callee: a direct call where both are in one process, a connection where they are not.

use std::sync::Arc;
use std::time::Duration;

use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::ServiceExt as _;

use super::Failure;
use crate::auth::MeshKey;
use crate::caller::{LocalPeer, SERVICE_HEADER};
#[cfg(feature = "chaos")]
use crate::chaos::Strike;
use crate::contract::Rule;
use crate::server::Front;

/// The way from one context to another.
#[derive(Clone)]
pub(crate) struct Transport {
    caller: Arc<str>,
    callee: Arc<str>,
    front: Front,
    key: Option<MeshKey>,
    remote: Option<tonic::transport::Channel>,
    #[cfg(feature = "chaos")]
    faults: crate::chaos::Faults,
}

impl Transport {
    /// To `callee` at `endpoint`, or within this process where there is none.
    pub(crate) fn new(
        caller: &str,
        callee: &str,
        front: Front,
        key: Option<MeshKey>,
        endpoint: Option<&str>,
    ) -> Result<Self, tonic::transport::Error> {
        let remote = endpoint.map(|endpoint| connect(endpoint, callee)).transpose()?;
        Ok(Self {
            caller: caller.into(),
            callee: callee.into(),
            #[cfg(feature = "chaos")]
            faults: front.faults().clone(),
            front,
            key,
            remote,
        })
    }

    pub(super) async fn send(
        &self,
        rule: &Rule,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        let uri = format!("http://{}/{}", self.callee, rule.method);
        *request.uri_mut() = uri.parse().map_err(|error| Failure::NotSent(format!("{error}")))?;
        *request.method_mut() = http::Method::POST;
        request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
        request
            .headers_mut()
            .insert("content-type", http::HeaderValue::from_static("application/grpc"));
        #[cfg(feature = "chaos")]
        self.faults.pass(&rule.method).await;
        #[cfg(feature = "chaos")]
        let strike = self.faults.strike(&rule.method);
        #[cfg(feature = "chaos")]
        if matches!(strike, Strike::Break) {
            return Err(Failure::Broken("as planned".to_owned()));
        }
        let answer = match &self.remote {
            None => self.send_here(request).await,
            Some(remote) => self.send_there(remote.clone(), request).await,
        };
        #[cfg(feature = "chaos")]
        if matches!(strike, Strike::LoseReply) {
            return std::future::pending().await;
        }
        answer
    }

    async fn send_here(
        &self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        if !self.front.is_up(&self.callee) {
            return Err(Failure::NotSent(format!(
                "{} is not running in this process",
                self.callee
            )));
        }
        request.extensions_mut().insert(LocalPeer(self.caller.clone()));
        Ok(self.front.serve(request).await)
    }

    async fn send_there(
        &self,
        remote: tonic::transport::Channel,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        if let Some(key) = &self.key {
            let token = key
                .sign(&self.caller, &self.callee)
                .map_err(|error| Failure::NotSent(error.to_string()))?;
            if let Ok(token) = http::HeaderValue::from_str(&token) {
                request.headers_mut().insert(SERVICE_HEADER, token);
            }
        }
        remote.oneshot(request).await.map_err(|error| classify(&error))
    }
}

/// A connection that finds out by itself when the other side is gone (trap T-17). Calls name the context they are for,
/// wherever it is: the kit's own services are answered for several.
fn connect(
    endpoint: &str,
    callee: &str,
) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(endpoint.to_owned())?;
    if let Ok(origin) = format!("http://{callee}").parse() {
        endpoint = endpoint.origin(origin);
    }
    let endpoint = endpoint
        .connect_timeout(Duration::from_millis(300))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// A connection that was never made has carried nothing.
fn classify(error: &tonic::transport::Error) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let refused = cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused || cause.downcast_ref::<tonic::ConnectError>().is_some() {
            return Failure::NotSent(error.to_string());
        }
        source = cause.source();
    }
    Failure::Broken(error.to_string())
}

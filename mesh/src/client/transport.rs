//! How a call gets to its callee: a direct call where both are in one process, a connection where they are not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tonic::body::Body;

use super::balance::{Balance, Tried};
use super::resolve::{BadEndpoint, Places, Scheme};
use super::{Call, Failure, Reply};
use crate::auth::MeshKey;
use crate::caller::{LocalPeer, SERVICE_HEADER};
#[cfg(feature = "chaos")]
use crate::chaos::Strike;
use crate::contract::Rule;
use crate::registry::Options;
use crate::server::Front;

/// The way from one context to another.
pub(crate) struct Transport {
    callee: Arc<str>,
    way: Way,
    #[cfg(feature = "chaos")]
    faults: crate::chaos::Faults,
    #[cfg(feature = "chaos")]
    steps: crate::step::Steps,
}

enum Way {
    Here { front: Front, peer: LocalPeer },
    There { balance: Balance, proof: Option<Proof> },
}

impl Transport {
    /// To `callee` at `endpoint`, or within this process where there is none.
    pub(crate) fn new(
        caller: &str,
        callee: &str,
        front: Front,
        options: &Options,
        endpoint: Option<&str>,
    ) -> Result<Self, BadEndpoint> {
        #[cfg(feature = "chaos")]
        let faults = front.faults().clone();
        let way = match endpoint {
            None => Way::Here { front, peer: LocalPeer(caller.into()) },
            Some(endpoint) => {
                let (tls, key) = (options.tls.clone(), options.mesh_key.clone());
                let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
                Way::There {
                    balance: Balance::new(callee, Places::read(endpoint, scheme)?, tls),
                    proof: key.map(|key| Proof::new(key, caller, callee)),
                }
            }
        };
        Ok(Self {
            callee: callee.into(),
            way,
            #[cfg(feature = "chaos")]
            steps: crate::step::Steps::of(caller, &faults),
            #[cfg(feature = "chaos")]
            faults,
        })
    }

    /// What remembers where a call was tried, where it can be tried in several places.
    pub(super) fn tried(&self) -> Option<Arc<Tried>> {
        matches!(self.way, Way::There { .. }).then(Arc::default)
    }

    /// Sends a call, and waits for the whole answer.
    pub(super) async fn unary(&self, call: Call) -> Result<Reply, Failure> {
        let rule = call.rule.clone();
        let answer = async {
            match &self.way {
                Way::Here { front, peer } => {
                    let response = self.send_here(front, peer, call.into_request()).await?;
                    Reply::collect(response).await
                }
                Way::There { balance, proof } => {
                    let token = proof.as_ref().map(Proof::token).transpose()?;
                    let request = || with_token(call.clone().into_request(), token.as_ref());
                    balance.unary(&call, request).await
                }
            }
        };
        self.among_faults(&rule, answer).await
    }

    /// Opens a stream.
    pub(super) async fn open(
        &self,
        rule: &Rule,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        let answer = async {
            match &self.way {
                Way::Here { front, peer } => self.send_here(front, peer, request).await,
                Way::There { balance, proof } => {
                    let token = proof.as_ref().map(Proof::token).transpose()?;
                    balance.open(with_token(request, token.as_ref())).await
                }
            }
        };
        self.among_faults(rule, answer).await
    }

    /// Asks the callee's process something that is in no contract of ours: about its health.
    pub(super) async fn ask(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        match &self.way {
            Way::Here { front, peer } => self.send_here(front, peer, request).await,
            Way::There { balance, .. } => balance.open(request).await,
        }
    }

    async fn send_here(
        &self,
        front: &Front,
        peer: &LocalPeer,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        if !front.is_up(&self.callee) {
            return Err(Failure::NotSent(format!(
                "{} is not running in this process",
                self.callee
            )));
        }
        request.extensions_mut().insert(peer.clone());
        Ok(front.serve(request).await)
    }

    /// What is planned to go wrong does.
    #[cfg(feature = "chaos")]
    async fn among_faults<T>(
        &self,
        rule: &Rule,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.faults.pass(&rule.method).await;
        let strike = self.faults.strike(&rule.method);
        if matches!(strike, Strike::Break) {
            return Err(Failure::Broken("as planned".to_owned()));
        }
        step!(self.steps, "client.before_send");
        let answer = answer.await;
        self.faults.pass_reply(&rule.method).await;
        step!(self.steps, "client.after_receive");
        match strike {
            Strike::LoseReply => std::future::pending().await,
            Strike::BreakReply => Err(Failure::Broken("as planned".to_owned())),
            Strike::Miss | Strike::Break => answer,
        }
    }

    #[cfg(not(feature = "chaos"))]
    fn among_faults<A>(&self, _: &Rule, answer: A) -> A {
        answer
    }
}

fn with_token(
    mut request: http::Request<Body>,
    token: Option<&HeaderValue>,
) -> http::Request<Body> {
    if let Some(token) = token {
        request.headers_mut().insert(SERVICE_HEADER, token.clone());
    }
    request
}

/// What a context shows to another process to prove which one it is: a token, signed anew long before it ends.
struct Proof {
    key: MeshKey,
    caller: String,
    callee: String,
    token: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Proof {
    /// How long a token is shown; it is good for a minute.
    const FRESH: Duration = Duration::from_secs(20);

    fn new(key: MeshKey, caller: &str, callee: &str) -> Self {
        let (caller, callee) = (caller.to_owned(), callee.to_owned());
        Self { key, caller, callee, token: Mutex::default() }
    }

    fn token(&self) -> Result<HeaderValue, Failure> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((signed, token)) = &*token
            && signed.elapsed() < Self::FRESH
        {
            return Ok(token.clone());
        }
        let not_sent = |error: &dyn std::fmt::Display| Failure::NotSent(error.to_string());
        let text = self.key.sign(&self.caller, &self.callee).map_err(|error| not_sent(&error))?;
        let fresh = HeaderValue::try_from(text).map_err(|error| not_sent(&error))?;
        *token = Some((Instant::now(), fresh.clone()));
        Ok(fresh)
    }
}

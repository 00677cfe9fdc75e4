//! Who calls, and whether the contract lets them (rule G-16): checked before anything is read or loaded.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use proto::mesh::v1::Access as Level;

use crate::auth::{MeshKey, Verifier};
use crate::caller::{
    Account, CLIENT_ADDRESS, Caller, FRONT, LocalPeer, RemotePeer, SERVICE_HEADER,
};
use crate::contract::Rule;
use crate::error::{Error, Result};

/// Finds out who calls.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    verifier: Arc<Verifier>,
    key: Option<MeshKey>,
    /// Customers come in here: methods for services do not exist for anybody outside this process.
    faces_customers: bool,
}

impl Access {
    pub(crate) fn new(
        verifier: Arc<Verifier>,
        key: Option<MeshKey>,
        faces_customers: bool,
    ) -> Self {
        Self { verifier, key, faces_customers }
    }

    /// Whether nobody but customers calls from outside.
    pub(super) fn faces_customers(&self) -> bool {
        self.faces_customers
    }

    /// The caller, if the contract lets it call this method.
    pub(crate) async fn admit(&self, rule: &Rule, request: &Parts) -> Result<Caller> {
        let service = self.service(rule, request);
        let peer = request.extensions.get::<RemotePeer>();
        let address = peer.and_then(|peer| peer.address).map(|address| address.ip());
        let (service, address) = match service {
            // It calls for a client of its own, and for nobody else.
            Ok(front) if front == FRONT && rule.access != Level::Service => {
                (Err(Error::Unauthenticated), client_address(&request.headers).or(address))
            }
            service => (service, address),
        };
        match rule.access {
            // A client that has a token sends it everywhere; here nobody reads it.
            Level::Public => return Ok(Caller::new(None, service.ok(), address)),
            Level::Service => {
                let service = match service {
                    Ok(service) => service,
                    Err(error) if error.is_passing() => return Err(error),
                    Err(_) => return Err(Error::Unimplemented(rule.method.clone())),
                };
                if !rule.lets_in(&service) {
                    return Err(Error::Forbidden(format!("{} by {service}", rule.method)));
                }
                // The customer's token comes along where a customer acts; it gives the service no right.
                let account = self.account(&request.headers).await.ok();
                return Ok(Caller::new(account, Some(service), address));
            }
            Level::Customer | Level::Admin => {}
            Level::Unspecified => return Err(Error::Forbidden(rule.method.clone())),
        }
        let account = self.account(&request.headers).await?;
        if rule.access == Level::Admin && !account.is_admin() {
            return Err(Error::Forbidden(rule.method.clone()));
        }
        if !account.roles.contains("CUSTOMER") && !account.is_admin() {
            return Err(Error::Forbidden(rule.method.clone()));
        }
        // It is the customer's call, whichever context passes it on: request_ids are the customer's, too.
        Ok(Caller::new(Some(account), None, address))
    }

    /// Whether a context calls for itself, and does not pass on a new call of a customer: by what it says,
    /// [`Access::admit`] finds out.
    pub(super) fn claims_context<B>(&self, rule: &Rule, request: &http::Request<B>) -> bool {
        let shown = || certified(request.extensions()).is_some();
        let with_token = || request.headers().contains_key(SERVICE_HEADER);
        !self.faces_customers && rule.access == Level::Service && (with_token() || shown())
    }

    /// The context that calls: of this process, or one that proves itself, by its certificate or by a token. Who has
    /// shown a certificate is nobody else, whatever token comes along.
    fn service(&self, rule: &Rule, request: &Parts) -> Result<String> {
        if let Some(LocalPeer(context)) = request.extensions.get::<LocalPeer>() {
            return Ok(context.to_string());
        }
        if self.faces_customers {
            return Err(Error::Unauthenticated);
        }
        if let Some(context) = certified(&request.extensions) {
            return Ok(context.to_string());
        }
        let token = request.headers.get(SERVICE_HEADER).and_then(|token| token.to_str().ok());
        let (Some(token), Some(key)) = (token, &self.key) else {
            return Err(Error::Unauthenticated);
        };
        // The kit's own services are called at the address of the context whose log or state it is.
        let callee = request.uri.host().unwrap_or_default();
        let callee = if rule.context == "mesh" { callee } else { &rule.context };
        key.verify(token, callee)
    }

    async fn account(&self, headers: &HeaderMap) -> Result<Account> {
        let bearer = headers.get(AUTHORIZATION).ok_or(Error::Unauthenticated)?;
        let bearer = bearer.to_str().map_err(|_| Error::Unauthenticated)?;
        let (scheme, token) = bearer.split_once(' ').ok_or(Error::Unauthenticated)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Error::Unauthenticated);
        }
        let claims = self.verifier.verify(token.trim()).await?;
        let id = claims.sub.parse().map_err(|_| Error::Unauthenticated)?;
        Ok(Account { id, roles: claims.roles.clone() })
    }
}

/// The context whose certificate was shown.
fn certified(extensions: &http::Extensions) -> Option<&Arc<str>> {
    extensions.get::<RemotePeer>()?.context.as_ref()
}

/// Where the client is that a call is passed on for.
fn client_address(headers: &HeaderMap) -> Option<IpAddr> {
    headers.get(CLIENT_ADDRESS)?.to_str().ok()?.parse().ok()
}

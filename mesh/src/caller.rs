//! Who calls: the proof that a handler asks for, in its body.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::HeaderName;
use tonic::{Extensions, Request};

use crate::error::{Error, Result};
use crate::id::{Accounts, Id};

/// Carries the token by which a context proves itself to another process.
pub(crate) const SERVICE_HEADER: HeaderName = HeaderName::from_static("turnstile-service-token");

/// The name under which a process calls that passes on what customers ask for.
pub(crate) const FRONT: &str = "turnstile";

/// Carries the address of the client that a process passes a call on for.
pub(crate) const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("turnstile-client-address");

/// The other end of the connection that a call came by.
#[derive(Debug, Clone)]
pub(crate) struct RemotePeer {
    pub(crate) address: Option<SocketAddr>,
    /// The context whose certificate it has shown.
    pub(crate) context: Option<Arc<str>>,
}

/// Marks a call as coming from a context of this process. Nothing outside can make one.
#[derive(Debug, Clone)]
pub(crate) struct LocalPeer(pub(crate) Arc<str>);

/// Who makes a call, as the access layer found out; nothing outside can make one.
#[derive(Debug, Clone)]
pub struct Caller {
    account: Option<Account>,
    service: Option<String>,
    address: Option<IpAddr>,
}

#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: Id<Accounts>,
    pub(crate) roles: BTreeSet<String>,
}

impl Account {
    pub(crate) fn is_admin(&self) -> bool {
        self.roles.contains("ADMIN")
    }
}

impl Caller {
    pub(crate) fn new(
        account: Option<Account>,
        service: Option<String>,
        address: Option<IpAddr>,
    ) -> Self {
        Self { account, service, address }
    }

    /// The kit itself, and commands that a context gives itself.
    pub fn context(name: &str) -> Self {
        Self::new(None, Some(name.to_owned()), None)
    }

    /// Takes a request apart: who makes it, and what it says.
    pub fn of<T>(request: Request<T>) -> Result<(Self, T)> {
        let caller = Self::from(request.extensions())?;
        Ok((caller, request.into_inner()))
    }

    fn from(extensions: &Extensions) -> Result<Self> {
        extensions.get::<Self>().cloned().ok_or_else(|| Error::internal("a call without a caller"))
    }

    /// The account that calls.
    pub fn account(&self) -> Result<Id<Accounts>> {
        self.account.as_ref().map(|account| account.id).ok_or(Error::Unauthenticated)
    }

    /// Whether the account that calls is an ADMIN.
    pub fn is_admin(&self) -> bool {
        self.account.as_ref().is_some_and(Account::is_admin)
    }

    /// The context that calls a method for services, on its own or an account's behalf.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Where a call from outside comes from.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Tells callers apart: a `request_id` is unique for one of them.
    pub fn key(&self) -> String {
        match (&self.service, &self.account) {
            (Some(service), _) => service.clone(),
            (None, Some(account)) => account.id.to_string(),
            (None, None) => "anybody".to_owned(),
        }
    }
}

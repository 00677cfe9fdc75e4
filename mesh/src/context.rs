//! A bounded context as a value: what it is made of, and what it is given to wire itself with.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;

use crate::client::Channel;
use crate::error::{Error, Result};
use crate::events::{Policy, View};
use crate::registry::{Options, Registry};
use crate::saga::{self, CallThenRegister, Saga};
use crate::server::{GeneratedService, Routes};
use crate::store::{Migrations, Store, StoreAt, migrate};
use crate::tasks::Tasks;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A store apart: its name, and its tables.
type Apart = (&'static str, fn() -> Migrations);
type Wire = Arc<dyn Fn(&Kit) -> Result<Wiring> + Send + Sync>;

/// A bounded context: its name, its tables, and how its parts are wired.
#[derive(Clone)]
pub struct Context {
    pub(crate) name: Arc<str>,
    pub(crate) migrations: fn() -> Migrations,
    apart: Option<Apart>,
    pub(crate) wire: Wire,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.name).finish()
    }
}

impl Context {
    /// A context named like its package (`homemovie.app`); `wire` is called each time it is started.
    pub fn new(
        name: &str,
        migrations: fn() -> Migrations,
        wire: impl Fn(&Kit) -> Result<Wiring> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), migrations, apart: None, wire: Arc::new(wire) }
    }

    /// With a second store for what must not share the fate of the first: [`Kit::store_apart`].
    #[must_use]
    pub fn with_store_apart(mut self, name: &'static str, migrations: fn() -> Migrations) -> Self {
        self.apart = Some((name, migrations));
        self
    }

    /// Makes the tables of its stores that are in a database, or brings them up to date, by somebody who may make
    /// tables and roles: each store, and which migrations were applied. Files are brought up to date by who opens
    /// them. Blocking.
    pub fn migrate(&self, options: &Options) -> Result<Vec<(StoreAt, Vec<String>)>, BoxError> {
        let own = (self.name.to_string(), self.migrations);
        let apart = self.apart.map(|(name, migrations)| (self.store_name(name), migrations));
        let mut migrated = Vec::new();
        for (name, migrations) in std::iter::once(own).chain(apart) {
            let at = options.store_at(&self.name, &name);
            if let StoreAt::Postgres(schema) = &at {
                let applied = migrate(&name, schema, migrations().postgres)
                    .map_err(|cause| format!("the store {at}: {cause}"))?;
                migrated.push((at, applied));
            }
        }
        Ok(migrated)
    }

    fn store_name(&self, apart: &str) -> String {
        format!("{}-{apart}", self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a context is made of: the table of contents.
#[derive(Default)]
pub struct Wiring {
    pub(crate) routes: Routes,
    pub(crate) policies: Vec<Policy>,
    pub(crate) view: Option<View>,
    pub(crate) first: Vec<BoxFuture<'static, Result<()>>>,
    pub(crate) loops: Vec<(&'static str, BoxFuture<'static, ()>)>,
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wiring").field("policies", &self.policies).finish_non_exhaustive()
    }
}

impl Wiring {
    /// Serves a generated service.
    #[must_use]
    pub fn serve(mut self, service: impl GeneratedService + NamedService) -> Self {
        self.routes.add(service);
        self
    }

    /// Reacts to events.
    #[must_use]
    pub fn policies(mut self, policies: impl IntoIterator<Item = Policy>) -> Self {
        self.policies.extend(policies);
        self
    }

    /// Keeps a view that can be made anew from events.
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        self.view = Some(view);
        self
    }

    /// Does something before the first call is served.
    #[must_use]
    pub fn first(mut self, work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        self.first.push(Box::pin(work));
        self
    }

    /// Runs a loop for as long as the context runs.
    #[must_use]
    pub fn background(
        mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.loops.push((name, Box::pin(work)));
        self
    }

    /// A policy with the name of another.
    pub(crate) fn twin(&self) -> Option<&Policy> {
        let mut names = HashSet::new();
        let of_view = self.view.iter().flat_map(View::policies);
        self.policies.iter().chain(of_view).find(|policy| !names.insert(policy.name()))
    }
}

/// What a context is given to wire itself with.
pub struct Kit {
    pub(crate) name: Arc<str>,
    context: Context,
    store: Store,
    registry: Arc<Registry>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: Tasks,
    pub(crate) sagas: Mutex<Vec<Arc<dyn saga::Sweep>>>,
    stores_apart: Mutex<Vec<Store>>,
}

impl fmt::Debug for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kit").field(&self.name).finish()
    }
}

impl Kit {
    pub(crate) fn new(context: Context, store: Store, registry: Arc<Registry>) -> Self {
        #[cfg(feature = "chaos")]
        store.steps().belong_to(&context.name, registry.front.faults());
        Self {
            name: context.name.clone(),
            context,
            store,
            registry,
            stopping: CancellationToken::new(),
            tasks: Tasks::default(),
            sagas: Mutex::default(),
            stores_apart: Mutex::default(),
        }
    }

    /// The context's own store.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// The second store of this context, in a file or a schema of its own.
    pub fn store_apart(&self) -> Result<Store> {
        let (apart, migrations) = self
            .context
            .apart
            .ok_or_else(|| Error::internal(format!("{} has no store apart", self.name)))?;
        let name = self.context.store_name(apart);
        let at = self.registry.options.store_at(&self.name, &name);
        let store = Store::open(&name, &at, migrations()).map_err(Error::internal)?;
        #[cfg(feature = "chaos")]
        store.steps().belong_to(&self.name, self.registry.front.faults());
        self.stores_apart.lock().unwrap_or_else(PoisonError::into_inner).push(store.clone());
        Ok(store)
    }

    /// Its own store, and those apart.
    pub(crate) fn stores(&self) -> Vec<Store> {
        let apart = self.stores_apart.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&self.store).chain(apart.iter()).cloned().collect()
    }

    /// Where files of this context's own may be kept.
    pub fn data(&self) -> PathBuf {
        self.registry.options.data.clone()
    }

    /// Ends when the context is stopped: what streams and loops wait for.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// The synchronous edge to another context.
    pub fn edge(&self, callee: &str) -> Result<Channel> {
        self.edge_for(callee, "")
    }

    /// An edge for one purpose, with a breaker and a bulkhead of its own: an open breaker of the one never blocks the
    /// other. No customer waits on it: a call may take as long as its contract allows.
    pub fn edge_for(&self, callee: &str, purpose: &str) -> Result<Channel> {
        self.registry.edge(&self.name, callee, purpose)
    }

    /// A command that must call another context before its order may exist (rule G-11).
    pub fn saga<S: CallThenRegister>(&self, steps: S) -> Saga<S> {
        let saga =
            Saga::new(self.store(), steps, self.tasks.clone(), self.registry.options.sweep_after);
        self.sagas.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(saga.clone()));
        saga
    }
}

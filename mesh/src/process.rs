//! A process of the mesh: starts contexts, serves them, and stops them.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::Instrument as _;

use crate::admin::AdminPort;
use crate::auth::{KeySource, Verifier};
use crate::client::Channel;
use crate::context::{Context, Kit, Wiring};
use crate::contract::Contract;
use crate::error::{Error, Result};
use crate::registry::{Options, Registry, Running};
use crate::replicas::Replica;
use crate::server::{Access, Front, Listening, Routes, Served};
use crate::store::{OpenError, Store};
use crate::tasks::{Tasks, blocking};
use crate::telemetry::Metrics;
use crate::{admin, events, gathered, log_service, operations, saga};

/// How long a context that stops may take to finish what it has begun.
const FINISH: Duration = Duration::from_secs(10);

/// A process of the mesh. Cheap to clone.
#[derive(Clone)]
pub struct Mesh {
    registry: Arc<Registry>,
    verifier: Arc<Verifier>,
    health: HealthReporter,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("data", &self.registry.options.data).finish_non_exhaustive()
    }
}

/// Why a context did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// One cursor cannot stand for two policies (rule G-20).
    #[error(
        "{context} did not start: it has two policies with the name {policy}, and a cursor is kept under the name"
    )]
    TwinPolicies {
        /// The context.
        context: String,
        /// The name.
        policy: String,
    },
    /// Its parts did not come together.
    #[error("{context} did not start: {cause}")]
    Wiring {
        /// The context.
        context: String,
        /// What failed.
        #[source]
        cause: Error,
    },
}

impl Mesh {
    /// A process that serves nothing yet. Refuses contracts that do not say who may call.
    pub fn new(options: Options) -> Result<Self> {
        Self::with(options, |routes, registry| {
            routes.add(log_service::service(Arc::downgrade(registry)));
            routes.add(operations::service(Arc::downgrade(registry)));
        })
    }

    /// A process that serves nothing itself: it passes customers' calls on to these contexts, wherever they are.
    pub fn front_of(options: Options, contexts: &[&str]) -> Result<Self> {
        let mesh = Self::with(options, |routes, registry| {
            routes.add(gathered::service(Arc::downgrade(registry)));
        })?;
        mesh.registry.forward_to(contexts)?;
        for (context, forward) in mesh.registry.forwards() {
            let routes = Routes::all(forward.clone());
            mesh.registry.front.put(context, Some(Served { routes, tasks: Tasks::default() }));
        }
        let registry = Arc::downgrade(&mesh.registry);
        drop(tokio::spawn(admin::tell_health_of_others(mesh.health.clone(), registry)));
        Ok(mesh)
    }

    fn with(options: Options, own: impl FnOnce(&mut Routes, &Arc<Registry>)) -> Result<Self> {
        let metrics = Metrics::new(Contract::ours()?)?;
        let verifier = Arc::new(Verifier::new(
            options.trust.clone(),
            Some(options.data.join("identity-keys.json")),
        ));
        let access =
            Access::new(verifier.clone(), options.mesh_key.clone(), options.faces_customers);
        let (health, health_service) = tonic_health::server::health_reporter();
        let front = Front::new(access, options.limits, metrics);
        let registry = Arc::new(Registry::new(options, front));
        let mut routes = Routes::default();
        routes.add(health_service);
        if registry.options.reflection {
            let describe = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            routes.add(describe().build_v1().map_err(Error::internal)?);
            routes.add(describe().build_v1alpha().map_err(Error::internal)?);
        }
        own(&mut routes, &registry);
        registry.front.set_infrastructure(routes);
        Ok(Self { registry, verifier, health })
    }

    /// Where the public keys of access tokens come from.
    pub fn read_keys_from(&self, source: KeySource) {
        self.verifier.read_keys_from(source);
    }

    /// Waits until they are known, however long that takes. Nothing else waits for it.
    pub async fn know_keys(&self) {
        self.verifier.know_keys().await;
    }

    /// Opens the context's store, wires it and serves it.
    pub async fn start(&self, context: &Context) -> Result<(), StartError> {
        let name = context.name.clone();
        let failed = |cause| StartError::Wiring { context: name.to_string(), cause };
        let at = self.registry.options.store_at(&name, &name);
        let migrations = (context.migrations)();
        let opener = name.clone();
        let open = move || Store::open(&opener, &at, migrations);
        let store = blocking(open).await.map_err(failed)??;

        let kit = Kit::new(context.clone(), store, self.registry.clone());
        let outcome = self.wire(context, &kit).await;
        if outcome.is_err() {
            for store in kit.stores() {
                store.close().await;
            }
        }
        outcome
    }

    async fn wire(&self, context: &Context, kit: &Kit) -> Result<(), StartError> {
        let failed = |cause| StartError::Wiring { context: kit.name.to_string(), cause };
        let wiring = (context.wire)(kit).map_err(failed)?;
        if let Some(twin) = wiring.twin() {
            let (context, policy) = (kit.name.to_string(), twin.name().to_owned());
            return Err(StartError::TwinPolicies { context, policy });
        }
        let Wiring { routes, policies, view, first, loops } = wiring;
        for work in first {
            work.await.map_err(failed)?;
        }
        let spawn = |task: BoxFuture<'static, ()>| {
            let stopping = kit.stopping.clone();
            drop(kit.tasks.spawn(async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = task => {}
                }
            }));
        };
        let replica = Replica::new(kit.store());
        let (share, life) = replica.join();
        if let Some(life) = life {
            spawn(Box::pin(life));
        }
        let mut runners = Vec::new();
        for policy in policies {
            let runner = Arc::new(events::Runner::new(
                policy,
                0,
                kit.store(),
                self.source_of(kit, "events"),
                share.clone(),
            ));
            runners.push(runner.clone());
            spawn(Box::pin(runner.run()));
        }
        let view = view.map(|view| {
            let supervisor =
                view.supervise(kit.store(), self.source_of(kit, "events"), share.clone());
            let runners = supervisor.runners();
            spawn(Box::pin(supervisor.run()));
            runners
        });
        for (name, work) in loops {
            let work =
                work.instrument(tracing::info_span!("background", context = %kit.name, name));
            spawn(Box::pin(share.clone().lead(work)));
        }
        let sagas = std::mem::take(&mut *kit.sagas.lock().unwrap_or_else(PoisonError::into_inner));
        for saga in sagas {
            spawn(Box::pin(share.clone().lead(async move { saga.sweep().await })));
        }
        let store = kit.store();
        spawn(Box::pin(share.clone().lead(housekeeping(store.clone()))));
        if store.is_shared() {
            spawn(Box::pin(share.lead(forget_steps(store))));
        }
        spawn(Box::pin(admin::tell_health(self.health.clone(), kit.store())));

        let running = Running {
            store: kit.store(),
            replica,
            policies: runners,
            view,
            stopping: kit.stopping.clone(),
            tasks: kit.tasks.clone(),
            stores: kit.stores(),
        };
        self.registry.running().insert(kit.name.to_string(), Arc::new(running));
        self.registry.front.put(&kit.name, Some(Served { routes, tasks: kit.tasks.clone() }));
        self.health.set_service_status(&kit.name, ServingStatus::Serving).await;
        tracing::info!(context = %kit.name, "the context is served");
        Ok(())
    }

    /// Gives a policy the way to the log of any source.
    fn source_of(&self, kit: &Kit, purpose: &'static str) -> events::Sources {
        let (registry, caller) = (self.registry.clone(), kit.name.clone());
        Arc::new(move |source| registry.edge(&caller, source, purpose))
    }

    /// Takes a context out of service: calls end, loops stop, the store is closed.
    pub async fn stop(&self, context: &str) {
        let Some(running) = self.retire(context).await else { return };
        running.tasks.finish(FINISH).await;
        if let Err(error) = events::forget_crashes(&running.store).await {
            tracing::warn!(context, %error, "this stop counts as a crash for the events that were under way");
        }
        running.replica.leave().await;
        for store in &running.stores {
            store.close().await;
        }
        tracing::info!(context, "the context has stopped");
    }

    /// As if the context's process had been killed: nothing is finished, nothing that waits is written.
    #[cfg(feature = "chaos")]
    pub async fn crash(&self, context: &str) {
        self.registry.front.put(context, None);
        let Some(running) = self.registry.running().get(context).cloned() else { return };
        running.tasks.abort().await;
        for store in &running.stores {
            store.crash().await;
        }
        self.retire(context).await;
        self.faults().bury(context);
    }

    /// As if the process were gone: its parts let go of each other, and nothing is finished. Its tasks must have ended.
    #[cfg(feature = "chaos")]
    pub fn vanish(&self) {
        let running = std::mem::take(&mut *self.registry.running());
        for context in running.keys() {
            self.registry.front.put(context, None);
        }
        self.registry.forget_edges();
    }

    /// What goes wrong on the way between contexts, for tests.
    #[cfg(feature = "chaos")]
    pub fn faults(&self) -> &crate::chaos::Faults {
        self.registry.front.faults()
    }

    async fn retire(&self, context: &str) -> Option<Arc<Running>> {
        self.health.set_service_status(context, ServingStatus::NotServing).await;
        self.registry.front.put(context, None);
        let running = self.registry.running().remove(context)?;
        running.stopping.cancel();
        Some(running)
    }

    /// Waits until every policy has read all there is, so that who comes next finds what was told before; not longer
    /// than `patience`: a long backlog is no reason not to serve.
    pub async fn settle(&self, patience: Duration) {
        let running: Vec<_> = self.registry.running().values().cloned().collect();
        let heads: HashMap<_, _> = running
            .iter()
            .map(|source| (source.store.context(), *source.store.head().borrow()))
            .collect();
        let settled = async {
            for runner in running.iter().flat_map(|running| running.runners()) {
                let Some(head) = heads.get(runner.policy().source()) else { continue };
                while runner.position().await.is_ok_and(|position| position < *head) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        };
        let _ = tokio::time::timeout(patience, settled).await;
    }

    /// Waits until every context that this process passes calls on to is ready.
    pub async fn until_reached(&self) {
        for forward in self.registry.forwards().values() {
            while !forward.is_ready().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Tells health checks that this process is going, takes no more calls from outside, and lets streams end with a
    /// hint to come again.
    pub async fn drain(&self) {
        self.registry.front.drain();
        let running = self.all_running().into_iter().map(|(name, _)| name);
        for name in running.chain(self.registry.forwards().keys().cloned()) {
            self.health.set_service_status(&name, ServingStatus::NotServing).await;
        }
        for (_, running) in self.all_running() {
            running.stopping.cancel();
        }
    }

    /// Stops every context. All finish first what they are about: what one still needs of another, it gets.
    pub async fn shut_down(&self) {
        let running = self.all_running();
        let finished = running.iter().map(|(_, running)| {
            running.stopping.cancel();
            running.tasks.finish(FINISH)
        });
        join_all(finished).await;
        join_all(running.iter().map(|(name, _)| self.stop(name))).await;
    }

    fn all_running(&self) -> Vec<(String, Arc<Running>)> {
        let running = self.registry.running();
        running.iter().map(|(name, running)| (name.clone(), running.clone())).collect()
    }

    /// Opens a port for calls from outside.
    pub async fn listen(&self, address: SocketAddr) -> std::io::Result<Listening> {
        self.registry.front.listen(address, self.registry.options.port_tls.clone()).await
    }

    /// Opens a port for those who run this process: `/livez`, `/readyz`, `/metrics`. It is ready when each of
    /// `contexts` is served, and not once it drains.
    pub async fn listen_for_admins<'a>(
        &self,
        address: SocketAddr,
        contexts: impl IntoIterator<Item = &'a str>,
    ) -> std::io::Result<AdminPort> {
        let contexts = contexts.into_iter().map(ToOwned::to_owned).collect();
        admin::listen(self.registry.clone(), address, contexts).await
    }

    /// A channel on behalf of a context of this process, or of the process itself (`turnstile`).
    pub fn channel(&self, caller: &str, callee: &str) -> Result<Channel> {
        self.registry.edge(caller, callee, "")
    }
}

/// How often the steps of cursors are cleared away, where each is a row.
const CLEARED: Duration = Duration::from_secs(10);

async fn forget_steps(store: Store) {
    loop {
        tokio::time::sleep(CLEARED).await;
        if let Err(error) = store.write(|tx| Ok(events::forget_steps(tx)?)).await {
            tracing::debug!(context = store.context(), %error, "old steps of cursors stay");
        }
    }
}

/// How long an answer is remembered at least (rule G-6).
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Forgets answers that nobody will ask for any more; some at a time, so that nobody waits for it.
async fn housekeeping(store: Store) {
    loop {
        let forgotten = match store.forget_old_requests(REMEMBERED).await {
            Ok(requests) => {
                saga::forget_old_intents(&store, REMEMBERED).await.map(|intents| requests + intents)
            }
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(some) if some > 0 => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(context = store.context(), %error, "old requests were not forgotten")
            }
        }
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}

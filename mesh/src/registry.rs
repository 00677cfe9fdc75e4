//! What a process knows of its contexts: which of them run, and the edges between them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::auth::{MeshKey, Trust};
use crate::caller::FRONT;
use crate::client::{Channel, Edge, EdgeSettings, Forward, Transport};
use crate::error::{Error, Result};
use crate::events::Runner;
use crate::replicas::Replica;
use crate::server::{Front, Limits};
use crate::store::{Schema, Store, StoreAt, Stores};
use crate::tasks::Tasks;
use crate::tls::Tls;

/// How a process serves its contexts.
#[derive(Clone)]
pub struct Options {
    /// Where the stores and the keys are.
    pub data: PathBuf,
    /// Whose access tokens are accepted.
    pub trust: Trust,
    /// By which contexts in different processes know each other.
    pub mesh_key: Option<MeshKey>,
    /// What it shows to contexts in other processes when it calls them; they are called in the clear without.
    pub tls: Option<Arc<Tls>>,
    /// What its port shows, and whether who calls must show something, too.
    pub port_tls: Option<Arc<Tls>>,
    /// Customers call this process: methods for services do not exist for anybody outside of it.
    pub faces_customers: bool,
    /// Whether clients may ask which services there are.
    pub reflection: bool,
    /// How each synchronous edge behaves, by its name: `homemovie.app->payment`.
    pub edges: Arc<dyn Fn(&str) -> EdgeSettings + Send + Sync>,
    /// Where contexts of other processes are: `payment` at `http://payment:50051`. A name may stand for many addresses,
    /// and several may be given with blanks or `|` between them.
    pub endpoints: HashMap<String, String>,
    /// Which contexts have their stores in a database.
    pub stores: Stores,
    /// How much is taken on at once of what comes from outside.
    pub limits: Limits,
    /// How old an order that waits for a callee must be to be taken for a dead one.
    pub sweep_after: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Options {
    /// Everything in one process, its data in this folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            trust: Trust::default(),
            mesh_key: None,
            tls: None,
            port_tls: None,
            faces_customers: true,
            reflection: true,
            edges: Arc::new(|_| EdgeSettings::default()),
            endpoints: HashMap::new(),
            stores: Stores::default(),
            limits: Limits::default(),
            sweep_after: Duration::from_secs(30),
        }
    }

    /// Where a store of a context is: its own, of the same name, or one apart.
    pub fn store_at(&self, context: &str, store: &str) -> StoreAt {
        match self.stores.database_of(context) {
            Some(url) => StoreAt::Postgres(Schema::new(url, store)),
            None => StoreAt::File(self.data.join(format!("{store}.sqlite"))),
        }
    }
}

/// The contexts of a process and the edges between them.
pub(crate) struct Registry {
    pub(crate) options: Options,
    pub(crate) front: Front,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    edges: Mutex<BTreeMap<String, Arc<Edge>>>,
    /// The contexts of other processes that customers reach here, by name.
    forwards: OnceLock<BTreeMap<String, Forward>>,
    /// One backup at a time: two would hold each other's writers.
    pub(crate) backing_up: tokio::sync::Mutex<()>,
}

/// A context that runs.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) replica: Replica,
    pub(crate) policies: Vec<Arc<Runner>>,
    /// Those of its view change with each generation.
    pub(crate) view: Option<Arc<Mutex<Vec<Arc<Runner>>>>>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: Tasks,
    /// Its own, and those apart.
    pub(crate) stores: Vec<Store>,
}

impl Registry {
    pub(crate) fn new(options: Options, front: Front) -> Self {
        Self {
            options,
            front,
            running: Mutex::default(),
            edges: Mutex::default(),
            forwards: OnceLock::new(),
            backing_up: tokio::sync::Mutex::default(),
        }
    }

    /// The contexts that run, by name.
    pub(crate) fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "chaos")]
    pub(crate) fn forget_edges(&self) {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The edges that there are, by name.
    pub(crate) fn edges(&self) -> Vec<Arc<Edge>> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Passes customers' calls on to these contexts, from now on; none may fill the process alone.
    pub(crate) fn forward_to(&self, contexts: &[&str]) -> Result<()> {
        let mut forwards = BTreeMap::new();
        for context in contexts {
            let endpoint = self.options.endpoints.get(*context).map(String::as_str);
            let transport =
                Transport::new(FRONT, context, self.front.clone(), &self.options, endpoint)
                    .map_err(Error::internal)?;
            let calls = self.options.limits.calls.div_ceil(2);
            forwards.insert((*context).to_owned(), Forward::new(context, transport, calls));
        }
        let _ = self.forwards.set(forwards);
        Ok(())
    }

    /// The contexts that customers' calls are passed on to.
    pub(crate) fn forwards(&self) -> &BTreeMap<String, Forward> {
        static NONE: BTreeMap<String, Forward> = BTreeMap::new();
        self.forwards.get().unwrap_or(&NONE)
    }

    /// The edge between two contexts; the same one for the same purpose.
    pub(crate) fn edge(&self, caller: &str, callee: &str, purpose: &str) -> Result<Channel> {
        let key = format!("{caller}->{callee}/{purpose}");
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edge) = edges.get(&key) {
            return Ok(Channel::new(edge.clone()));
        }
        let options = &self.options;
        let endpoint = options.endpoints.get(callee).map(String::as_str);
        let transport = Transport::new(caller, callee, self.front.clone(), options, endpoint)
            .map_err(Error::internal)?;
        let mut settings = (options.edges)(&format!("{caller}->{callee}"));
        if !purpose.is_empty() {
            settings.timeout = Duration::from_secs(30);
        }
        let edge = Arc::new(Edge::new(caller, callee, purpose, settings, transport));
        edges.insert(key, edge.clone());
        Ok(Channel::new(edge))
    }
}

impl Running {
    /// Its policies, and those of its view.
    pub(crate) fn runners(&self) -> Vec<Arc<Runner>> {
        let mut runners = self.policies.clone();
        if let Some(view) = &self.view {
            runners.extend(view.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        }
        runners
    }
}

//! What a process knows of its contexts: which of them run, and the edges between them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::auth::{MeshKey, Trust};
use crate::client::{Channel, Edge, EdgeSettings, Transport};
use crate::error::{Error, Result};
use crate::events::Runner;
use crate::server::{Front, Limits};
use crate::store::Store;
use crate::tasks::Tasks;

/// How a process serves its contexts.
#[derive(Clone)]
pub struct Options {
    /// Where the stores and the keys are.
    pub data: PathBuf,
    /// Whose access tokens are accepted.
    pub trust: Trust,
    /// By which contexts in different processes know each other.
    pub mesh_key: Option<MeshKey>,
    /// Customers call this process: methods for services do not exist for anybody outside of it.
    pub faces_customers: bool,
    /// Whether clients may ask which services there are.
    pub reflection: bool,
    /// How each synchronous edge behaves, by its name: `homemovie.app->payment`.
    pub edges: Arc<dyn Fn(&str) -> EdgeSettings + Send + Sync>,
    /// Where contexts of other processes are: `payment` at `http://payment:50051`. A name may stand for many addresses,
    /// and several may be given with blanks or `|` between them.
    pub endpoints: HashMap<String, String>,
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
            faces_customers: true,
            reflection: true,
            edges: Arc::new(|_| EdgeSettings::default()),
            endpoints: HashMap::new(),
            limits: Limits::default(),
            sweep_after: Duration::from_secs(30),
        }
    }
}

/// The contexts of a process and the edges between them.
pub(crate) struct Registry {
    pub(crate) options: Options,
    pub(crate) front: Front,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    edges: Mutex<BTreeMap<String, Arc<Edge>>>,
    /// One backup at a time: two would hold each other's writers.
    pub(crate) backing_up: tokio::sync::Mutex<()>,
}

/// A context that runs.
pub(crate) struct Running {
    pub(crate) store: Store,
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
            backing_up: tokio::sync::Mutex::default(),
        }
    }

    /// The contexts that run, by name.
    pub(crate) fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The edges that there are, by name.
    pub(crate) fn edges(&self) -> Vec<Arc<Edge>> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Where the store of a context is.
    pub(crate) fn store_file(&self, context: &str) -> PathBuf {
        self.options.data.join(format!("{context}.sqlite"))
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
        let transport =
            Transport::new(caller, callee, self.front.clone(), options.mesh_key.clone(), endpoint)
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

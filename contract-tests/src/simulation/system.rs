//! Every context on a host of its own, and the net and the clocks between them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh::auth::MeshKey;
use mesh::chaos::Faults;
use mesh::{Context, Mesh, Options};
use mesh_testing::Signer;
use tokio::runtime::{Handle, Id};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

/// Where every context listens.
const PORT: u16 = 50051;
/// By which the contexts know each other.
const SECRET: &str = "a secret of the mesh that is long enough";
/// When every run begins: 2026, in seconds since 1970.
const BEGINS: u64 = 1_767_225_600;
/// How long a host works before the next one does.
const TICK: Duration = Duration::from_millis(2);
/// How long a message is under way.
pub(super) const LATENCY: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(40)];

/// The clock of each host: what the simulation says, and how far it goes wrong.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    hosts: RefCell<HashMap<Id, String>>,
    offsets: RefCell<BTreeMap<String, i64>>,
    latest: Cell<Duration>,
}

impl Clocks {
    /// What runs here is this host.
    fn register(&self, host: &str) {
        self.hosts.borrow_mut().insert(Handle::current().id(), host.to_owned());
    }

    /// Sets a host's clock wrong by so many milliseconds.
    pub(super) fn set(&self, host: &str, offset: i64) {
        self.offsets.borrow_mut().insert(host.to_owned(), offset);
    }

    /// Sets all clocks right.
    pub(super) fn set_right(&self) {
        self.offsets.borrow_mut().clear();
    }

    /// What time it is for who asks.
    fn now(&self) -> SystemTime {
        let since = turmoil::sim_elapsed().unwrap_or_else(|| self.latest.get());
        self.latest.set(since);
        let right = UNIX_EPOCH + Duration::from_secs(BEGINS) + since;
        let offset = Handle::try_current().ok().and_then(|handle| {
            let host = self.hosts.borrow().get(&handle.id()).cloned()?;
            self.offsets.borrow().get(&host).copied()
        });
        match offset.unwrap_or(0) {
            ahead @ 0.. => right + Duration::from_millis(ahead.unsigned_abs()),
            behind => right - Duration::from_millis(behind.unsigned_abs()),
        }
    }
}

/// What a host needs to start, and to start again.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) clocks: Rc<Clocks>,
    pub(super) signer: Rc<Signer>,
    /// The faults of each process, as it runs now.
    pub(super) faults: Rc<RefCell<BTreeMap<String, Faults>>>,
    options: Options,
}

impl Ground {
    /// Nothing runs yet; stores are in this folder.
    pub(super) fn new(data: &Path, contexts: &[Context]) -> Self {
        let mut options = Options::new(data);
        options.mesh_key = MeshKey::new(SECRET).ok();
        options.faces_customers = false;
        options.reflection = false;
        options.sweep_after = Duration::from_secs(2);
        for context in contexts {
            let name = context.name();
            options.endpoints.insert(name.to_owned(), format!("http://{name}:{PORT}"));
        }
        Self {
            clocks: Rc::default(),
            signer: Rc::new(Signer::new()),
            faults: Rc::default(),
            options,
        }
    }

    /// From now on this thread has the time of the simulation, and chance from the seed.
    pub(super) fn enter(&self, seed: u64) -> mesh::world::Inside {
        let clocks = self.clocks.clone();
        mesh::world::enter(seed, move || clocks.now())
    }

    /// Puts each context on a host of its name.
    pub(super) fn sim(&self, seed: u64, contexts: Vec<Context>) -> turmoil::Sim<'static> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .tick_duration(TICK)
            .min_message_latency(LATENCY[0])
            .max_message_latency(LATENCY[1])
            .tcp_capacity(4096)
            .epoch(UNIX_EPOCH + Duration::from_secs(BEGINS))
            .simulation_duration(Duration::from_secs(600))
            .build();
        for context in contexts {
            let ground = self.clone();
            sim.host(context.name().to_owned(), move || serve(ground.clone(), context.clone()));
        }
        sim
    }
}

/// One process with one context, until it dies. One that does not come up is started again, as it is by whatever keeps
/// it running.
async fn serve(ground: Ground, context: Context) -> turmoil::Result {
    ground.clocks.register(context.name());
    while start(&ground, &context).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A process of the mesh that leaves nothing open when it dies: thousands of them live in one of ours.
struct Mortal(Mesh);

impl Drop for Mortal {
    fn drop(&mut self) {
        self.0.vanish();
        mesh::world::hang_up();
    }
}

async fn start(ground: &Ground, context: &Context) -> turmoil::Result {
    let mortal = Mortal(Mesh::new(ground.options.clone())?);
    let mesh = &mortal.0;
    let jwks = ground.signer.jwks();
    mesh.read_keys_from(Arc::new(move || {
        let jwks = jwks.clone();
        Box::pin(async move { Ok(jwks) })
    }));
    mesh.start(context).await?;
    let _listening = mesh.listen((Ipv4Addr::UNSPECIFIED, PORT).into()).await?;
    ground.faults.borrow_mut().insert(context.name().to_owned(), mesh.faults().clone());
    pending().await
}

/// The way of a customer to a context.
pub(super) fn connect(context: &'static str) -> Channel {
    let connect = move |_: http::Uri| async move {
        let stream = turmoil::net::TcpStream::connect((context, PORT)).await;
        stream.map(hyper_util::rt::TokioIo::new)
    };
    Endpoint::from_static("http://turnstile")
        .connect_timeout(Duration::from_millis(300))
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(1))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(connect))
}

//! Systems whose contexts die at a step that a test names, and what must hold of them all the same.
//!
//! A world plays its scenario: customers who send everything again until they have a definite answer, and remember it.
//! Meanwhile a context dies where it passes a step for the n-th time, and is started again. Then nothing that was
//! answered may be missing, nothing may be there that nobody was told of, and every law of the system holds.

mod homemovie;
mod outerpark;
pub mod saga;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use mesh::Options;
use mesh::client::{BreakerSettings, EdgeSettings};
use mesh::events::read_revision;
use mesh_testing::{TestMesh, eventually, request_id};
use proto::mypage::v1::RebuildViewRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::{Code, Response, Status, Streaming};

pub use self::outerpark::Expiring;
use crate::invariants::{Laws, Stores};

/// How long it may take until everything has come to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the scenario is played until the death has come.
const PLAYS: usize = 5;
/// How many deaths share a world: what happened in it before makes it no easier, but slower.
const DEATHS: usize = 12;

/// What customers were told for certain.
#[derive(Debug, Default)]
pub struct Told {
    orders: RefCell<BTreeSet<String>>,
    cancelled: RefCell<BTreeSet<String>>,
}

impl Told {
    /// An order is registered.
    pub fn ordered(&self, name: &str) {
        self.orders.borrow_mut().insert(name.to_owned());
    }

    /// An order is cancelled, or will be.
    pub fn cancelled(&self, name: &str) {
        self.cancelled.borrow_mut().insert(name.to_owned());
    }
}

/// A system that contexts die in.
pub trait Mortal: Sized {
    /// Its name.
    const NAME: &'static str;
    /// What must hold of it.
    const LAWS: &'static Laws;

    /// Everything up, with what heals it quick.
    fn begin() -> impl Future<Output = Self>;

    /// Its process.
    fn mesh(&self) -> &TestMesh;

    /// Something of everything, until every request has its definite answer.
    fn play(&self, told: &Told) -> impl Future<Output = ()>;
}

/// Where a context dies: the context, the step, and at which passing.
pub type Death = (String, &'static str, u32);

/// A world, with what its customers were told.
#[derive(Debug)]
pub struct World<M> {
    /// The system.
    pub system: M,
    told: Told,
    stores: Stores,
    patience: Duration,
}

impl<M: Mortal> World<M> {
    /// A new one.
    pub async fn begin() -> Self {
        let system = M::begin().await;
        let stores = Stores::open(system.mesh().folder(), M::LAWS);
        Self { system, told: Told::default(), stores, patience: PATIENCE }
    }

    /// With so much time for everything to come to its end.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Plays, while my page is made `anew` or not, and says what does not hold in the end.
    pub async fn play(&self, anew: bool) -> Result<(), String> {
        let play = async {
            let rebuild = async {
                if anew {
                    self.rebuild().await
                }
            };
            tokio::join!(self.system.play(&self.told), rebuild);
        };
        let scenario = AssertUnwindSafe(play).catch_unwind();
        match timeout(self.patience, scenario).await {
            Ok(Ok(())) => self.judge().await,
            Ok(Err(_)) => Err("a customer got an answer that nobody planned".to_owned()),
            Err(_) => Err(format!("a customer waits in vain: {:?}", self.unfinished())),
        }
    }

    /// Lets the context die while the scenario is played, starts it again, and says what does not hold in the end.
    pub async fn kill(&self, (context, site, n): &Death) -> Result<(), String> {
        let mesh = self.system.mesh();
        // Dear, and of use where my page or what it reads dies.
        let anew = context == "mypage" || *site == "events.before_send";
        let reached = mesh.mesh.faults().die_at_passing(context, site, *n);
        let is_back = Cell::new(false);
        let death = async {
            reached.notified().await;
            mesh.mesh.crash(context).await;
            mesh.restart(context).await;
            is_back.set(true);
            std::future::pending().await
        };
        let plays = async {
            for _ in 0..PLAYS {
                self.play(anew).await?;
                if is_back.get() {
                    return Ok(());
                }
            }
            Err("it never came there".to_owned())
        };
        tokio::select! {
            never = death => never,
            outcome = plays => outcome,
        }?;
        let faults = self.stores.faults();
        if faults.is_empty() { Ok(()) } else { Err(format!("I-17: {faults:?}")) }
    }

    /// Whether my page, made anew from the first event of every log, is what it was (I-14).
    pub async fn my_page_is_what_the_events_say(&self) -> Result<(), String> {
        loop {
            eventually("my page has read every log", async || {
                self.stores.has_read_all("y").then_some(())
            })
            .await;
            let (heads, before) = (self.stores.heads(), self.stores.my_page());
            self.rebuild().await;
            let after = self.stores.my_page();
            let differ: Vec<_> = before.symmetric_difference(&after).take(3).collect();
            if differ.is_empty() {
                return Ok(());
            }
            // Somebody may still have had something to tell.
            if self.stores.heads() == heads {
                return Err(format!("I-14 made anew: {differ:?}"));
            }
        }
    }

    /// Has my page made anew, and waits until that is what is read.
    async fn rebuild(&self) {
        let (admin, request_id) = (self.system.mesh().admin(), request_id());
        let asked = answer(async || {
            let request = RebuildViewRequest { request_id: request_id.clone() };
            MyPageServiceClient::new(admin.connect()).rebuild_view(request).await
        });
        let generation = asked.await.expect("asked").into_inner().generation;
        let current = format!("SELECT '' AS name FROM y.mesh_view WHERE current >= {generation}");
        eventually("the new view has taken the old one's place", async || {
            (!self.stores.names(&current).is_empty()).then_some(())
        })
        .await;
    }

    /// Waits until everything has come to its end; what holds at every moment holds all the while.
    async fn judge(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let broken = self.stores.broken();
            if !broken.is_empty() {
                return Err(format!("{broken:?}"));
            }
            let unfinished = self.unfinished();
            if unfinished.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > self.patience {
                return Err(format!("{unfinished:?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn unfinished(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut unfinished = self.stores.unfinished();
        let (orders, cancelled) = (self.stores.orders(), self.stores.cancelled());
        let (told, promised) = (self.told.orders.borrow(), self.told.cancelled.borrow());
        let of_customers = [
            ("I-06 what was answered is there", &*told - &orders),
            ("I-06 what was cancelled stays so", &*promised - &cancelled),
            ("I-07, I-15 a request has one order, and a refused one none", &orders - &*told),
        ];
        unfinished.extend(of_customers.into_iter().filter(|(_, names)| !names.is_empty()));
        unfinished
    }
}

/// How often each context of a system passes each step when nobody dies.
pub async fn passings<M: Mortal>() -> BTreeMap<(String, &'static str), u32> {
    let world = World::<M>::begin().await;
    // What began it is over: otherwise a step is counted that nobody passes again.
    eventually("everything is read", async || world.stores.all_is_read().then_some(())).await;
    world.system.mesh().mesh.faults().count_passings();
    world.play(true).await.expect("a world that nobody dies in");
    world.system.mesh().mesh.faults().passings()
}

/// Lets contexts die, and says of each death what did not hold in the end.
pub async fn die<M: Mortal>(deaths: &[Death]) -> BTreeMap<Death, Result<(), String>> {
    let mut outcomes = BTreeMap::new();
    for deaths in deaths.chunks(DEATHS) {
        let mut world = World::<M>::begin().await;
        for death in deaths {
            let mut outcome = world.kill(death).await;
            if Some(death) == deaths.last() && outcome.is_ok() {
                outcome = world.my_page_is_what_the_events_say().await;
            }
            if outcome.is_err() {
                world = World::begin().await;
            }
            outcomes.insert(death.clone(), outcome);
        }
    }
    outcomes
}

/// Options of a world that heals quickly, and whose breakers stay out of it: they have tests of their own.
fn quick(options: &mut Options) {
    options.sweep_after = Duration::from_millis(500);
    let breaker = BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() };
    let edge = EdgeSettings { breaker, ..EdgeSettings::default() };
    options.edges = Arc::new(move |_| edge);
}

/// A provider that heals quickly, and declines what costs more than this.
fn provider(most: i64) -> payment::Settings {
    payment::Settings {
        decline_over: Some(most),
        sweep_after: Duration::from_millis(500),
        ..payment::Settings::default()
    }
}

/// The same request until there is a definite answer: done, or refused.
async fn answer<T>(send: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        match send().await {
            Err(status) if is_passing(&status) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

fn is_passing(status: &Status) -> bool {
    let passing =
        [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded, Code::Unknown, Code::Cancelled];
    passing.contains(&status.code())
}

/// Follows an order to its end over however many streams, `read` giving the revision of what one tells and whether it is
/// the last: no state comes twice, or before an earlier one (I-11). `seen` hears when the first has come.
async fn follow<T>(
    seen: &Notify,
    open: impl AsyncFn(String) -> Result<Response<Streaming<T>>, Status>,
    read: impl Fn(T) -> Option<(String, bool)>,
) {
    let (mut last, mut version) = (String::new(), 0);
    loop {
        let stream = answer(async || open(last.clone()).await).await;
        let mut stream = stream.expect("a stream").into_inner();
        while let Ok(Some(told)) = stream.message().await {
            let Some((revision, is_final)) = read(told) else { continue };
            let (_, sequence) = read_revision(&revision).expect("a revision");
            assert!(sequence > version, "{revision} came behind {last}");
            (version, last) = (sequence, revision);
            seen.notify_one();
            if is_final {
                return;
            }
        }
    }
}

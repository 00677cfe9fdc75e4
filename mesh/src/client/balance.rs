//! One callee at several addresses: each call goes where the least is under way, and not where calls fail.
//!
//! An address that nobody answers at, or that fails several calls in a row, is left out for a while (5 s, growing to a
//! minute), then tried with one call at a time; a success brings it back. Where all are left out, all are used: a
//! guess is better than a refusal. A call that was surely not sent, or not begun by a server that stops, goes on to the
//! next address at once, and a retry prefers one where it was not tried yet.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use rand::seq::{IteratorRandom as _, SliceRandom as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::call::code_of;
use super::resolve::Places;
use super::{Call, Failure, Reply, STOPPING};
use crate::error::Error;
use crate::planted::{Bug, planted};
use crate::tls::Tls;
use crate::{net, rng};

/// So many failures in a row leave an address out.
const IN_A_ROW: u32 = 5;
/// For how long the first time; each time after it twice as long.
const LEFT_OUT: Duration = Duration::from_secs(5);
const LEFT_OUT_AT_MOST: Duration = Duration::from_secs(60);

/// How much of a stream may be under way, and how much of all streams of a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// How long a connection may take whose both sides show who they are.
const SECURED: Duration = Duration::from_secs(2);

/// All addresses of a callee. Cheap to clone.
#[derive(Clone)]
pub(super) struct Balance {
    inner: Arc<Inner>,
    _resolver: Arc<AbortOnDropHandle<()>>,
}

struct Inner {
    callee: Arc<str>,
    tls: Option<Arc<Tls>>,
    /// `None` before the first look-up.
    addresses: watch::Sender<Option<Arc<[Arc<Address>]>>>,
    failed: Notify,
}

impl Balance {
    pub(super) fn new(callee: &str, places: Places, tls: Option<Arc<Tls>>) -> Self {
        let inner = Arc::new(Inner {
            callee: callee.into(),
            tls,
            addresses: watch::Sender::new(None),
            failed: Notify::new(),
        });
        let resolver = tokio::spawn(inner.clone().follow(places));
        Self { inner, _resolver: Arc::new(AbortOnDropHandle::new(resolver)) }
    }

    /// Sends a call where it fits best, and on to the next address for as long as it surely was not sent.
    pub(super) async fn unary(
        &self,
        call: &Call,
        request: impl Fn() -> http::Request<Body>,
    ) -> Result<Reply, Failure> {
        let tried = call.tried.clone().unwrap_or_default();
        loop {
            let mut visit = self.visit(&tried, Some(call.deadline)).await?;
            let outcome = match visit.address.send(request()).await {
                Ok(response) => Reply::collect(response).await,
                Err(failure) => Err(failure),
            };
            let outcome = match outcome {
                Ok(reply) if reply.is_of_a_stop() => Err(stops(&self.inner.callee)),
                outcome => outcome,
            };
            let verdict = match &outcome {
                Ok(reply) if reply.code == Code::Unavailable && !reply.is_fallback() => {
                    Verdict::Failed
                }
                Ok(_) => Verdict::Served,
                Err(Failure::NotSent(_)) => Verdict::Refused,
                Err(_) => Verdict::Failed,
            };
            // It has told how it went.
            visit.deadline = None;
            self.judge(&visit, verdict, &tried);
            if matches!(outcome, Err(Failure::NotSent(_))) && tried.leaves_another() {
                continue;
            }
            return outcome;
        }
    }

    /// Opens a stream where it fits best. What it asks for cannot be asked twice: who reads streams comes again.
    pub(super) async fn open(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Failure> {
        let tried = Tried::default();
        let visit = self.visit(&tried, None).await?;
        let outcome = match visit.address.send(request).await {
            Ok(response) if response.headers().contains_key(STOPPING) => {
                Err(stops(&self.inner.callee))
            }
            outcome => outcome,
        };
        let verdict = match &outcome {
            Ok(response) if code_of(response.headers()) == Some(Code::Unavailable) => {
                Verdict::Failed
            }
            Ok(_) => Verdict::Served,
            Err(Failure::NotSent(_)) => Verdict::Refused,
            Err(_) => Verdict::Failed,
        };
        self.judge(&visit, verdict, &tried);
        // For as long as the stream is open, it is under way. One that breaks may be opened again: what is wrong with
        // what it tells comes in its trailers.
        let callee = self.inner.callee.clone();
        let broken = move |_| {
            let _ = &visit;
            Status::from(Error::unavailable(&callee))
        };
        Ok(outcome?.map(|body| Body::new(body.map_err(broken))))
    }

    /// Chooses an address.
    async fn visit(&self, tried: &Tried, deadline: Option<Instant>) -> Result<Visit, Failure> {
        let nowhere = || Failure::NotSent(format!("{} has no address", self.inner.callee));
        let mut addresses = self.inner.addresses.subscribe();
        let known = addresses.wait_for(Option::is_some).await.map_err(|_| nowhere())?.clone();
        let known = known.unwrap_or_else(|| Arc::new([]));
        let Some(address) = choose(&known, tried, Instant::now()) else {
            self.inner.failed.notify_one();
            return Err(nowhere());
        };
        tried.begin(&known);
        address.under_way.fetch_add(1, Ordering::Relaxed);
        Ok(Visit { address, deadline })
    }

    fn judge(&self, visit: &Visit, verdict: Verdict, tried: &Tried) {
        let address = &visit.address;
        if let Verdict::Served = verdict {
            address.health().succeed();
            return;
        }
        tried.failed_at(address.at);
        self.inner.failed.notify_one();
        address.fail(matches!(verdict, Verdict::Refused));
    }
}

impl Inner {
    async fn follow(self: Arc<Self>, places: Places) {
        let take = |found: &[SocketAddr]| {
            self.addresses.send_modify(|known| {
                let before = known.take().unwrap_or_else(|| Arc::new([]));
                let after = found.iter().map(|at| {
                    let same = before.iter().find(|address| address.at == *at).cloned();
                    same.unwrap_or_else(|| {
                        Arc::new(Address::new(*at, &self.callee, self.tls.clone()))
                    })
                });
                *known = Some(after.collect());
            });
        };
        places.follow(net::look_up, &self.failed, take).await;
    }
}

/// How an address did with a call.
enum Verdict {
    Served,
    Failed,
    /// Nobody is there.
    Refused,
}

/// Of those that are in use one where it was not tried yet, else any in use, else one where it was not tried yet, else
/// any; of two of them the one with less under way.
fn choose(addresses: &[Arc<Address>], tried: &Tried, now: Instant) -> Option<Arc<Address>> {
    let failed_at = tried.lock().failed_at.clone();
    let new = |address: &Address| !failed_at.contains(&address.at);
    let pick = |wanted: &dyn Fn(&Address) -> bool| {
        let wanted = addresses.iter().filter(|address| wanted(address));
        let mut two = wanted.choose_multiple(&mut rng(), 2);
        // Of equals the first would be taken, always the same.
        two.shuffle(&mut rng());
        two.into_iter().min_by_key(|address| address.under_way.load(Ordering::Relaxed)).cloned()
    };
    pick(&|address| new(address) && address.is_in_use(now))
        .or_else(|| pick(&|address| address.is_in_use(now)))
        .or_else(|| pick(&|address| new(address)))
        .or_else(|| pick(&|_| true))
}

/// Where a call was tried in vain, shared by its attempts.
#[derive(Debug, Default)]
pub(super) struct Tried(Mutex<Attempts>);

#[derive(Debug, Default)]
struct Attempts {
    failed_at: Vec<SocketAddr>,
    /// How many addresses there are.
    known: usize,
}

impl Tried {
    /// Whether there is an address where it was not tried.
    pub(super) fn leaves_another(&self) -> bool {
        let attempts = self.lock();
        attempts.failed_at.len() < attempts.known
    }

    /// It is about to be tried, at one of these.
    fn begin(&self, known: &[Arc<Address>]) {
        let mut attempts = self.lock();
        attempts.known = known.len();
        attempts.failed_at.retain(|at| known.iter().any(|address| address.at == *at));
    }

    fn failed_at(&self, at: SocketAddr) {
        let mut attempts = self.lock();
        if !attempts.failed_at.contains(&at) {
            attempts.failed_at.push(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way at an address.
struct Visit {
    address: Arc<Address>,
    /// Until it has told how it went: when its time is over.
    deadline: Option<Instant>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.address.under_way.fetch_sub(1, Ordering::Relaxed);
        // Cut off because its time was over: the address did not answer.
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.address.fail(false);
        }
    }
}

/// One address, and how it does.
struct Address {
    at: SocketAddr,
    channel: Channel,
    under_way: AtomicUsize,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    times_left_out: u32,
    /// Left out until then, and on trial from then on.
    left_out_until: Option<Instant>,
}

impl Address {
    fn new(at: SocketAddr, callee: &str, tls: Option<Arc<Tls>>) -> Self {
        let (channel, under_way) = (connect(at, callee, tls), AtomicUsize::new(0));
        Self { at, channel, under_way, health: Mutex::default() }
    }

    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Failure> {
        self.channel.clone().oneshot(request).await.map_err(|error| classify(&error))
    }

    fn is_in_use(&self, now: Instant) -> bool {
        match self.health().left_out_until {
            None => true,
            // One at a time, until one succeeds.
            Some(until) => now >= until && self.under_way.load(Ordering::Relaxed) == 0,
        }
    }

    fn fail(&self, refused: bool) {
        if let Some(time) = self.health().fail(refused, Instant::now()) {
            tracing::debug!(address = %self.at, ?time, "an address fails and is left out");
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Counts a failure; for how long the address is left out because of it.
    fn fail(&mut self, refused: bool, now: Instant) -> Option<Duration> {
        self.failures += 1;
        let on_trial = match self.left_out_until {
            Some(until) if now < until => return None,
            until => until.is_some(),
        };
        if !refused && !on_trial && self.failures < IN_A_ROW {
            return None;
        }
        let time = (LEFT_OUT * 2_u32.pow(self.times_left_out.min(4))).min(LEFT_OUT_AT_MOST);
        let time = time.mul_f64(rng().random_range(0.8..1.2));
        self.times_left_out += 1;
        self.left_out_until = Some(now + time);
        Some(time)
    }
}

/// A connection that finds out by itself when the other side is gone (trap T-17). Calls name the context they are for,
/// wherever it is: the kit's own services are answered for several.
fn connect(at: SocketAddr, callee: &str, tls: Option<Arc<Tls>>) -> Channel {
    let ask_every = Duration::from_secs(if planted(Bug::NoKeepalive) { 3600 } else { 5 });
    let endpoint = Endpoint::from(http_uri(&at.to_string()))
        .origin(http_uri(callee))
        .connect_timeout(Duration::from_millis(300))
        .http2_keep_alive_interval(ask_every)
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        // Of a stream that nobody reads so much is sent and no more, and the others on the connection are not held up.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true);
    let Some(tls) = tls else { return net::connect_lazily(endpoint, at) };
    let callee = callee.to_owned();
    let secured = tower::service_fn(move |_: http::Uri| {
        let (tls, callee) = (tls.clone(), callee.clone());
        async move {
            let socket = TcpStream::connect(at).await?;
            socket.set_nodelay(true)?;
            tls.connect(socket, &callee).await.map(TokioIo::new)
        }
    });
    endpoint.connect_timeout(SECURED).connect_with_connector_lazy(secured)
}

/// A server that stops has not begun what it was asked for.
fn stops(callee: &str) -> Failure {
    Failure::NotSent(format!("{callee} is stopping"))
}

fn http_uri(authority: &str) -> http::Uri {
    format!("http://{authority}").parse().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u8) -> Vec<Arc<Address>> {
        let at = |last| SocketAddr::from(([10, 0, 0, last], 50051));
        (1..=count).map(|last| Arc::new(Address::new(at(last), "payment", None))).collect()
    }

    /// The addresses that a hundred choices fall on.
    fn chosen(addresses: &[Arc<Address>], tried: &Tried) -> Vec<u8> {
        let now = Instant::now();
        let choices = (0..100).filter_map(|_| choose(addresses, tried, now));
        let mut chosen: Vec<_> = choices
            .map(|address| match address.at {
                SocketAddr::V4(at) => at.ip().octets()[3],
                SocketAddr::V6(_) => 0,
            })
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_used_and_of_two_the_one_with_less_under_way() {
        let three = addresses(3);
        assert_eq!(chosen(&three, &Tried::default()), [1, 2, 3]);
        three[1].under_way.store(7, Ordering::Relaxed);
        assert_eq!(chosen(&three, &Tried::default()), [1, 3]);
        assert!(choose(&[], &Tried::default(), Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_goes_where_it_was_not_tried() {
        let two = addresses(2);
        let tried = Tried::default();
        tried.begin(&two);
        assert!(tried.leaves_another());
        tried.failed_at(two[0].at);
        assert_eq!(chosen(&two, &tried), [2]);
        tried.failed_at(two[1].at);
        assert_eq!(chosen(&two, &tried), [1, 2], "rather than nowhere");
        assert!(!tried.leaves_another());
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_five_times_in_a_row_is_left_out_and_comes_back_on_trial() {
        let two = addresses(2);
        let fail = |times| (0..times).for_each(|_| two[0].fail(false));
        fail(4);
        two[0].health().succeed();
        fail(4);
        assert_eq!(chosen(&two, &Tried::default()), [1, 2], "not in a row");
        fail(1);
        assert_eq!(chosen(&two, &Tried::default()), [2]);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(chosen(&two, &Tried::default()), [1, 2]);
        two[0].under_way.store(1, Ordering::Relaxed);
        two[1].under_way.store(9, Ordering::Relaxed);
        assert_eq!(chosen(&two, &Tried::default()), [2], "one call at a time");
        two[0].health().succeed();
        assert_eq!(chosen(&two, &Tried::default()), [1], "and then like any other");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_is_left_out_at_once_and_longer_each_time() {
        let mut health = Health::default();
        let mut times = Vec::new();
        for _ in 0..6 {
            let time = health.fail(true, Instant::now()).unwrap();
            assert!(health.fail(true, Instant::now()).is_none(), "it is left out already");
            tokio::time::advance(time).await;
            times.push(time.as_secs_f64());
        }
        for (time, about) in times.iter().zip([5.0, 10.0, 20.0, 40.0, 60.0, 60.0]) {
            assert!((about * 0.8..about * 1.2).contains(time), "{times:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_left_out_all_are_used() {
        let two = addresses(2);
        two.iter().for_each(|address| address.fail(true));
        assert_eq!(chosen(&two, &Tried::default()), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_cut_off_by_its_deadline_speaks_against_the_address() {
        let two = addresses(2);
        let visit = |deadline| {
            two[0].under_way.fetch_add(1, Ordering::Relaxed);
            Visit { address: two[0].clone(), deadline: Some(deadline) }
        };
        for _ in 0..5 {
            drop(visit(Instant::now() + Duration::from_secs(1)));
        }
        assert_eq!(chosen(&two, &Tried::default()), [1, 2], "given up by its caller");
        for _ in 0..5 {
            drop(visit(Instant::now()));
        }
        assert_eq!(chosen(&two, &Tried::default()), [2]);
        assert_eq!(two[0].under_way.load(Ordering::Relaxed), 0);
    }
}

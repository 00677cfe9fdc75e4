//! A way between two processes that is bad at times: a proxy in front of one address, whose mood a test changes.
//!
//! What has lost bytes stays silent for ever: TCP gives nobody a part of what was sent. So a connection that was
//! silenced is of no use afterwards either, and who has it must find that out (trap T-17).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// How long bytes take each way where they are delayed, at least.
const DELAY: Duration = Duration::from_millis(60);
/// An HTTP/2 ping, or the answer to one: what is longer is a call, or an answer, or a part of one.
const PING: usize = 17;

/// What happens to what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// It gets there.
    Pass,
    /// It gets there later.
    Delay,
    /// It vanishes, and who comes anew is turned away.
    Drop,
    /// It vanishes, and nobody is told: as if a cable was pulled.
    HalfOpen,
    /// Its connection ends at once.
    Reset,
}

/// Those that do harm.
pub const BAD_MOODS: [Mood; 4] = [Mood::Delay, Mood::Drop, Mood::HalfOpen, Mood::Reset];

/// The proxy; when it is dropped nobody is taken on any more.
pub struct Proxy {
    pub address: SocketAddr,
    way: Arc<Way>,
    _listening: AbortOnDropHandle<()>,
}

struct Way {
    to: String,
    mood: watch::Sender<Mood>,
    /// How many connections are open that were not silenced.
    sound: AtomicUsize,
    /// How many calls, answers and connections each mood has met.
    met: Mutex<BTreeMap<Mood, usize>>,
}

impl Proxy {
    /// In front of this address, where everything passes for now.
    pub async fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mood = watch::Sender::new(Mood::Pass);
        let (sound, met) = (AtomicUsize::new(0), Mutex::default());
        let way = Arc::new(Way { to: address.to_owned(), mood, sound, met });
        let address = listener.local_addr().expect("an address");
        let listening = AbortOnDropHandle::new(tokio::spawn(way.clone().listen(listener)));
        Self { address, way, _listening: listening }
    }

    /// From now on this happens to what is sent, also where a connection is open.
    pub fn turns(&self, mood: Mood) {
        self.way.mood.send_replace(mood);
    }

    /// Whether nobody has a connection left that was not silenced.
    pub fn is_silent(&self) -> bool {
        self.way.sound.load(Ordering::Relaxed) == 0
    }

    /// How many calls, answers and connections each mood has met so far.
    pub fn met(&self) -> BTreeMap<Mood, usize> {
        self.way.met.lock().expect("what was met").clone()
    }
}

impl Way {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (near, _) = listener.accept().await.expect("a connection");
            tokio::spawn(self.clone().carry(near));
        }
    }

    fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    fn meets(&self, mood: Mood) {
        *self.met.lock().expect("what was met").entry(mood).or_default() += 1;
    }

    /// The life of one connection.
    async fn carry(self: Arc<Self>, mut near: TcpStream) {
        if self.mood() == Mood::Drop {
            self.meets(Mood::Drop);
            return;
        }
        // Nobody is there: the caller's connection ends as well.
        let Ok(mut far) = TcpStream::connect(&self.to).await else { return };
        near.set_nodelay(true).expect("a socket");
        far.set_nodelay(true).expect("a socket");
        let silent = AtomicBool::new(false);
        self.sound.fetch_add(1, Ordering::Relaxed);
        let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
        let both = async {
            tokio::join!(
                self.pass_on(&silent, from_near, to_far),
                self.pass_on(&silent, from_far, to_near)
            )
        };
        let mut mood = self.mood.subscribe();
        tokio::select! {
            _ = both => {}
            _ = mood.wait_for(|mood| *mood == Mood::Reset) => {
                self.meets(Mood::Reset);
                // Dropped, they end with RST.
                near.set_zero_linger().expect("a socket");
                far.set_zero_linger().expect("a socket");
            }
        }
        self.silence(&silent);
    }

    /// From now on a connection says nothing any more.
    fn silence(&self, silent: &AtomicBool) {
        if !silent.swap(true, Ordering::Relaxed) {
            self.sound.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// One direction, until its sender has no more to say.
    async fn pass_on(&self, silent: &AtomicBool, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let mood = self.mood();
            if length > PING {
                self.meets(mood);
            }
            match mood {
                Mood::Delay => sleep(DELAY).await,
                Mood::Drop | Mood::HalfOpen => self.silence(silent),
                Mood::Pass | Mood::Reset => {}
            }
            if !silent.load(Ordering::Relaxed) && to.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
        if !silent.load(Ordering::Relaxed) {
            let _ = to.shutdown().await;
        }
    }
}

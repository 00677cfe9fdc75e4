//! A world of its own for one thread: its time, its chance and its net are a simulation's, and its stores work on the
//! thread itself, so that the same seed is the same run.
//!
//! Only with the feature `chaos`, which no release has. What runs in no simulation has the real world.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

struct World {
    now: Box<dyn Fn() -> SystemTime>,
    chance: StdRng,
    /// How many commits of a context's store are to fail.
    failing: BTreeMap<String, u32>,
    /// How many connections were opened.
    opened: u64,
    /// While a process dies: its connections, by when they were opened.
    dying: Option<BTreeMap<u64, TcpStream>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// For as long as this lives, its thread is in a world of its own.
#[derive(Debug)]
#[must_use = "the world ends as soon as this is dropped"]
pub struct Inside(PhantomData<*const ()>);

/// From now on this thread is in a world where it is `now`, where chance comes from the seed, and whose net is that of
/// the turmoil simulation that the thread runs.
pub fn enter(seed: u64, now: impl Fn() -> SystemTime + 'static) -> Inside {
    let (now, chance) = (Box::new(now), StdRng::seed_from_u64(seed));
    let world = World { now, chance, failing: BTreeMap::new(), opened: 0, dying: None };
    WORLD.with_borrow_mut(|inside| *inside = Some(world));
    Inside(PhantomData)
}

impl Drop for Inside {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(|inside| *inside = None);
    }
}

/// The next `count` commits of a context's store fail, as they do where a disk is full.
pub fn fail_commits(context: &str, count: u32) {
    WORLD.with_borrow_mut(|inside| {
        if let Some(world) = inside {
            world.failing.insert(context.to_owned(), count);
        }
    });
}

/// Whether this one is to fail.
pub(crate) fn commit_fails(context: &str) -> bool {
    WORLD.with_borrow_mut(|inside| {
        let left = inside.as_mut().and_then(|world| world.failing.get_mut(context));
        left.filter(|left| **left > 0).map(|left| *left -= 1).is_some()
    })
}

/// Whether this thread is in one.
pub(crate) fn is_simulated() -> bool {
    WORLD.with_borrow(Option::is_some)
}

pub(crate) fn now() -> Option<SystemTime> {
    WORLD.with_borrow(|inside| inside.as_ref().map(|world| (world.now)()))
}

/// The time that a disk takes. In it a process may die: after a commit that nobody has heard of, too.
pub(crate) async fn pause() {
    if let Some(millis) = with_chance(|chance| match chance.random_range(0..20) {
        0 => chance.random_range(10..40),
        short => short % 3,
    }) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

pub(crate) fn with_chance<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|inside| inside.as_mut().map(|world| draw(&mut world.chance)))
}

/// One end of a connection of the simulation.
#[derive(Debug)]
pub(crate) struct Socket {
    /// There until it is dropped.
    stream: Option<TcpStream>,
    number: u64,
}

/// Lets a process die, with `crash`.
///
/// Tokio drops its tasks in an order that depends on all that ever ran in the real process; so its connections are kept
/// until `hang_up`, which closes them in an order of their own.
pub fn die(crash: impl FnOnce()) {
    let set_dying = |dying| {
        WORLD.with_borrow_mut(|inside| {
            inside.as_mut().and_then(|world| std::mem::replace(&mut world.dying, dying))
        })
    };
    set_dying(Some(BTreeMap::new()));
    crash();
    drop(set_dying(None));
}

/// Closes what the process had open that dies here.
pub fn hang_up() {
    let open = WORLD.with_borrow_mut(|inside| {
        inside.as_mut().and_then(|world| world.dying.as_mut()).map(std::mem::take)
    });
    open.into_iter().flatten().for_each(drop);
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let number = WORLD.with_borrow_mut(|inside| {
            inside.as_mut().map_or(0, |world| {
                world.opened += 1;
                world.opened
            })
        });
        Self { stream: Some(stream), number }
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?.peer_addr()
    }

    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.get_mut().stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let stream = self.stream.take();
        let kept = WORLD.with_borrow_mut(|inside| {
            match inside.as_mut().and_then(|world| world.dying.as_mut()) {
                Some(dying) => stream.and_then(|stream| dying.insert(self.number, stream)),
                None => stream,
            }
        });
        // It says farewell, for which it draws a chance.
        drop(kept);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn in_a_world_time_ids_and_chance_come_from_it() {
        let drawn = |seed| {
            let _inside = enter(seed, || UNIX_EPOCH + Duration::from_millis(7));
            assert_eq!(crate::now(), UNIX_EPOCH + Duration::from_millis(7));
            (crate::uuid(), crate::rng().random::<u64>())
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert_eq!(drawn(1).0.get_version_num(), 7);
        assert!(!is_simulated() && crate::now() > UNIX_EPOCH + Duration::from_secs(1));
    }
}

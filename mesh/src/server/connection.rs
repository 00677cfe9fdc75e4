//! A connection of a port: it must say something soon, and it ends when the port does.
//!
//! HTTP/2 begins with 24 bytes that the client sends; until they are there, nothing above this would ever end the
//! connection, and a stop would wait for it for ever.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::gate::Limits;

/// `PRI * HTTP/2.0 SM`, with its line ends.
const PREFACE: usize = 24;
/// The pause after the system had no connection to give.
const PAUSE: Duration = Duration::from_millis(50);

/// How the connections of a port end.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    /// No new ones; those that said nothing yet end, the others finish what they are about.
    pub(super) closing: CancellationToken,
    /// All end now.
    pub(super) cut: CancellationToken,
}

/// The connections that come in, never more than the limits allow.
pub(super) fn connections(
    listener: TcpListener,
    limits: Limits,
    ends: Ends,
) -> impl Stream<Item = Result<Connection>> {
    let places = Arc::new(Semaphore::new(limits.connections.min(open_files())));
    async_stream::stream! {
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((socket, _)) => {
                    // What cannot be had is no reason to turn somebody away.
                    let _ = socket.set_nodelay(true);
                    yield Ok(Connection::new(socket, place, limits.silence, &ends));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// How many connections the system lets this process have, with some files kept for the stores.
fn open_files() -> usize {
    const STORES: usize = 256;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    most.map_or(usize::MAX, |most| most.saturating_sub(STORES).max(STORES))
}

/// A connection that has been accepted.
pub(super) struct Connection {
    socket: TcpStream,
    /// Until the preface is there: how much of it came, and when nobody waits for the rest any more.
    silence: Option<(usize, BoxFuture<'static, ()>)>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        socket: TcpStream,
        place: OwnedSemaphorePermit,
        patience: Duration,
        ends: &Ends,
    ) -> Self {
        let closing = ends.closing.clone();
        let too_long = async move {
            tokio::select! {
                () = sleep(patience) => {}
                () = closing.cancelled() => {}
            }
        };
        Self {
            socket,
            silence: Some((0, Box::pin(too_long))),
            cut: Box::pin(ends.cut.clone().cancelled_owned()),
            _place: place,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.socket.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        if let Some((_, too_long)) = &mut self.silence
            && too_long.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "it said nothing")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        if let Some((read, _)) = &mut self.silence {
            *read += buffer.filled().len() - before;
            if *read >= PREFACE {
                self.silence = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

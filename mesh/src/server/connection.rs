//! A connection of a port: it must say something soon, and it ends when the port does.
//!
//! HTTP/2 begins with 24 bytes that the client sends; until they are there, nothing above this would ever end the
//! connection, and a stop would wait for it for ever. Where there is TLS, what comes before them is bounded, too.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::gate::Limits;
use crate::caller::RemotePeer;
use crate::net::{Listener, Socket};
use crate::tls::{Secured, Tls};

/// `PRI * HTTP/2.0 SM`, with its line ends.
const PREFACE: usize = 24;
/// After so long a client is asked to connect anew, perhaps to another process.
pub(super) const AGE: Duration = Duration::from_secs(10 * 60);
/// After so long every call and every stream has ended by itself. What is left is a client that never reads what it
/// asked for.
const LIFE: Duration = Duration::from_secs(16 * 60);
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

/// The connections that come in, never more than the limits allow; with `tls` those whose other side has shown who it
/// is. Nobody waits for somebody else to do so.
pub(super) fn connections(
    listener: Listener,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    ends: Ends,
) -> impl Stream<Item = Result<Connection>> {
    let places = Arc::new(Semaphore::new(limits.connections.min(open_files())));
    async_stream::stream! {
        let mut unproven = JoinSet::new();
        loop {
            let (socket, place) = tokio::select! {
                accepted = accept(&listener, &places) => match accepted {
                    Some(accepted) => accepted,
                    None => return,
                },
                Some(proven) = unproven.join_next() => {
                    if let Ok(Some((secured, place))) = proven {
                        yield Ok(Connection::secured(secured, place, limits.silence, &ends));
                    }
                    continue;
                }
            };
            match tls.clone() {
                None => yield Ok(Connection::new(socket, place, limits.silence, &ends)),
                Some(tls) => drop(unproven.spawn(async move {
                    match tls.accept(socket).await {
                        Ok(secured) => Some((secured, place)),
                        Err(error) => {
                            tracing::debug!(%error, "somebody has not shown who it is");
                            None
                        }
                    }
                })),
            }
        }
    }
}

/// The next connection, when there is a place for it.
async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> Option<(Socket, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok(socket) => return Some((socket, place)),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
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
    socket: Either<Socket, Box<TlsStream<Socket>>>,
    peer: RemotePeer,
    /// Until the preface is there: how much of it came, and when nobody waits for the rest any more.
    silence: Option<(usize, BoxFuture<'static, ()>)>,
    end: BoxFuture<'static, ()>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(socket: Socket, place: OwnedSemaphorePermit, patience: Duration, ends: &Ends) -> Self {
        let peer = RemotePeer { address: socket.peer_addr().ok(), context: None };
        Self::with(Either::Left(socket), peer, LIFE, place, patience, ends)
    }

    /// Of somebody who has shown who it is; it ends when that is not good any more.
    fn secured(
        secured: Secured<TlsStream<Socket>>,
        place: OwnedSemaphorePermit,
        patience: Duration,
        ends: &Ends,
    ) -> Self {
        let Secured { stream, context, life } = secured;
        let address = stream.get_ref().0.peer_addr().ok();
        let peer = RemotePeer { address, context: context.map(Arc::from) };
        let life = life.map_or(LIFE, |life| life.min(LIFE));
        Self::with(Either::Right(Box::new(stream)), peer, life, place, patience, ends)
    }

    fn with(
        socket: Either<Socket, Box<TlsStream<Socket>>>,
        peer: RemotePeer,
        life: Duration,
        place: OwnedSemaphorePermit,
        patience: Duration,
        ends: &Ends,
    ) -> Self {
        Self {
            socket,
            peer,
            silence: Some((0, Box::pin(first(patience, ends.closing.clone())))),
            end: Box::pin(first(life, ends.cut.clone())),
            _place: place,
        }
    }
}

/// Ends with the first of the two.
async fn first(time: Duration, token: CancellationToken) {
    tokio::select! {
        () = sleep(time) => {}
        () = token.cancelled() => {}
    }
}

impl Connected for Connection {
    type ConnectInfo = RemotePeer;

    fn connect_info(&self) -> RemotePeer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.end.as_mut().poll(cx).is_ready() {
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;
    use crate::net;

    const HELLO: &[u8; PREFACE] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// A client that says this, and how long its connection lives and why it ends.
    async fn life_of(said: &[u8], ends: Ends, after: Option<Duration>) -> (ErrorKind, Duration) {
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(said).await.unwrap();
        let mut accepted = pin!(connections(listener, Limits::default(), None, ends.clone()));
        let mut connection = accepted.next().await.unwrap().unwrap();
        let begun = Instant::now();
        let stop = async {
            if let Some(after) = after {
                sleep(after).await;
                ends.closing.cancel();
            }
        };
        let mut heard = Vec::new();
        let (end, ()) = tokio::join!(connection.read_to_end(&mut heard), stop);
        assert_eq!(heard, said);
        (end.unwrap_err().kind(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn s_02_a_connection_says_something_within_5_s_or_ends() {
        for said in [&HELLO[..0], &HELLO[..1], &HELLO[..PREFACE - 1]] {
            let (why, after) = life_of(said, Ends::default(), None).await;
            assert_eq!((why, after.as_secs()), (ErrorKind::TimedOut, 5), "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_spoke_lives_longer_than_any_stream_and_not_for_ever() {
        let (why, after) = life_of(HELLO, Ends::default(), None).await;
        assert_eq!((why, after), (ErrorKind::ConnectionAborted, LIFE));
    }

    #[tokio::test(start_paused = true)]
    async fn t27_a_stop_ends_a_silent_connection_at_once_and_leaves_the_others_to_end() {
        let after = Some(Duration::from_secs(1));
        let (_, silent) = life_of(b"", Ends::default(), after).await;
        let (_, spoke) = life_of(HELLO, Ends::default(), after).await;
        assert_eq!((silent.as_secs(), spoke), (1, LIFE));
        let ends = Ends::default();
        ends.cut.cancel();
        let (why, cut) = life_of(b"", ends, None).await;
        assert_eq!((why, cut), (ErrorKind::ConnectionAborted, Duration::ZERO));
    }

    /// A port where both sides show a certificate, and who may connect.
    fn secured(until: std::time::SystemTime) -> (Arc<Tls>, Arc<Tls>, mesh_testing::Authority) {
        let authority = mesh_testing::Authority::new();
        let tls = |files: mesh_testing::Files| {
            Arc::new(Tls::mutual(&files.certificate, &files.key, &files.authority).unwrap())
        };
        let port = tls(authority.issue("payment"));
        let client =
            authority.issue_with("homemovie.app", |params| params.not_after = until.into());
        (port, tls(client), authority)
    }

    #[tokio::test(start_paused = true)]
    async fn s_17_a_connection_ends_a_minute_after_the_certificate_it_was_made_with() {
        let (port, client, _authority) = secured(crate::now() + Duration::from_secs(120));
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let limits = Limits { silence: LIFE, ..Limits::default() };
        let mut accepted = pin!(connections(listener, limits, Some(port), Ends::default()));
        let talk = async {
            let mut stream = client.connect(socket, "payment").await.unwrap();
            stream.write_all(HELLO).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (connection, _stream) = tokio::join!(accepted.next(), talk);
        let mut connection = connection.unwrap().unwrap();
        assert_eq!(connection.connect_info().context.as_deref(), Some("homemovie.app"));
        let begun = Instant::now();
        let end = connection.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionAborted);
        // Certificates know whole seconds, and the wall clock is not paused.
        let after = begun.elapsed().as_secs();
        assert!((120..=180).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn s_15_who_shows_nothing_in_5_s_is_turned_away_and_nobody_waits_for_it() {
        let (port, client, _authority) = secured(crate::now() + Duration::from_secs(3600));
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut accepted =
            pin!(connections(listener, Limits::default(), Some(port), Ends::default()));
        let begun = Instant::now();
        let turned_away = async {
            let _ = silent.read_to_end(&mut Vec::new()).await;
            begun.elapsed().as_secs()
        };
        let served = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let _stream = client.connect(socket, "payment").await.unwrap();
            std::future::pending::<()>().await
        };
        let after = tokio::select! {
            after = turned_away => after,
            () = served => unreachable!("it stays"),
            () = async { while accepted.next().await.is_some() {} } => unreachable!("it goes on"),
        };
        assert_eq!(after, 5);
    }
}

//! The net: the system's, or the simulation's where a test runs in one.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Where connections come in.
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(feature = "chaos")]
    Simulated(turmoil::net::TcpListener),
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(feature = "chaos")]
    Simulated(crate::world::Socket),
}

/// Opens a port.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<Listener> {
    #[cfg(feature = "chaos")]
    if crate::world::is_simulated() {
        return turmoil::net::TcpListener::bind(address).await.map(Listener::Simulated);
    }
    TcpListener::bind(address).await.map(Listener::Tcp)
}

/// What a name stands for.
pub(crate) async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    #[cfg(feature = "chaos")]
    if crate::world::is_simulated() {
        return Ok(vec![SocketAddr::new(turmoil::lookup(host), port)]);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// A channel to one address, which connects when it is first used.
pub(crate) fn connect_lazily(
    endpoint: tonic::transport::Endpoint,
    #[cfg_attr(not(feature = "chaos"), expect(unused_variables, reason = "the endpoint has it"))]
    address: SocketAddr,
) -> tonic::transport::Channel {
    #[cfg(feature = "chaos")]
    if crate::world::is_simulated() {
        let connect = move |_: http::Uri| async move {
            let stream = turmoil::net::TcpStream::connect(address).await;
            stream.map(|stream| hyper_util::rt::TokioIo::new(crate::world::Socket::new(stream)))
        };
        return endpoint.connect_with_connector_lazy(tower::service_fn(connect));
    }
    endpoint.connect_lazy()
}

impl Listener {
    /// Where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "chaos")]
            Self::Simulated(listener) => listener.local_addr(),
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                // What cannot be had is no reason to turn somebody away.
                let _ = socket.set_nodelay(true);
                Ok(Socket::Tcp(socket))
            }
            #[cfg(feature = "chaos")]
            Self::Simulated(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Socket::Simulated(crate::world::Socket::new(stream)))
            }
        }
    }
}

impl Socket {
    /// Where the other end is.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr(),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => socket.peer_addr(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(socket) => socket.is_write_vectored(),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            #[cfg(feature = "chaos")]
            Self::Simulated(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

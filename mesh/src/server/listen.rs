//! The port: gRPC over HTTP/2, with the limits that keep one client from harming the others.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use super::Front;

/// How long running calls may take to finish when the port closes.
const GRACE: Duration = Duration::from_secs(20);

/// A port that is open.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Front {
    /// Opens the port. An error says why it could not be had.
    pub(crate) async fn listen(&self, address: SocketAddr) -> std::io::Result<Listening> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let closing = CancellationToken::new();
        let front = self.clone();
        let entry = tower::service_fn(move |request: http::Request<axum::body::Body>| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.serve(request.map(Body::new)).await) }
        });
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(200)
            .http2_max_header_list_size(16 * 1024)
            .http2_max_pending_accept_reset_streams(Some(20))
            .add_routes(Routes::from(axum::Router::new().fallback_service(entry)))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                closing.clone().cancelled_owned(),
            );
        let closed = closing.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = server => if let Err(error) = ended {
                    tracing::error!(%error, "the port failed");
                },
                // A client that keeps an idle connection must not keep us.
                () = async { closed.cancelled().await; tokio::time::sleep(GRACE).await } => {
                    tracing::warn!("some connections did not end in time and were cut");
                }
            }
        });
        Ok(Listening { address, closing, task })
    }
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets running calls finish, and closes.
    pub async fn close(self) {
        self.closing.cancel();
        let _ = self.task.await;
    }
}

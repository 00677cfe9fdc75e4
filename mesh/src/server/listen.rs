//! The port: gRPC over HTTP/2, with the limits that keep one client from harming the others.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::body::Body;

use super::Front;
use super::connection::{AGE, Ends, connections};
use crate::net;
use crate::tls::Tls;

/// How long running calls may take to finish when the port closes.
const GRACE: Duration = Duration::from_secs(15);
/// How long a connection on which nothing is under way any more may take to go.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it is looked whether anything is under way.
const LOOK: Duration = Duration::from_millis(20);

/// A port that is open.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    front: Front,
    ends: Ends,
    task: JoinHandle<()>,
}

impl Front {
    /// Opens the port. An error says why it could not be had.
    pub(crate) async fn listen(
        &self,
        address: SocketAddr,
        tls: Option<Arc<Tls>>,
    ) -> std::io::Result<Listening> {
        let listener = net::bind(address).await?;
        let address = listener.local_addr()?;
        let front = self.clone();
        let entry = tower::service_fn(move |request: http::Request<Body>| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.receive(request).await) }
        });
        let ends = Ends::default();
        // A connection of another process carries what many customers ask for: the gate bounds that.
        let limits = self.limits();
        let (streams, resets) = match self.inner.access.faces_customers() {
            true => (200, 20),
            false => (limits.calls + limits.streams, 1024),
        };
        let server = tonic::transport::Server::builder()
            // A client that is gone without a word is found out.
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX))
            .http2_max_header_list_size(16 * 1024)
            // Who opens streams to reset them, or makes us reset them, loses the connection (CVE-2023-44487).
            .http2_max_pending_accept_reset_streams(Some(resets))
            .http2_max_local_error_reset_streams(Some(1024))
            // With a grace tonic would cut without a word; what has not gone by itself is cut by its age.
            .max_connection_age(AGE)
            .serve_with_incoming_shutdown(
                entry,
                connections(listener, limits, tls, ends.clone()),
                ends.closing.clone().cancelled_owned(),
            );
        let task = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the port failed");
            }
        });
        Ok(Listening { address, front: self.clone(), ends, task })
    }
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets running calls finish, and closes. Clients that are idle and do not go, and those
    /// that never said anything, are not waited for.
    pub async fn close(mut self) {
        self.ends.closing.cancel();
        let nothing_left = async {
            while !self.front.is_quiet() {
                sleep(LOOK).await;
            }
            sleep(FAREWELL).await;
        };
        tokio::select! {
            _ = &mut self.task => return,
            () = nothing_left => {}
            () = sleep(GRACE) => tracing::warn!("some calls did not end in time and were cut"),
        }
        self.ends.cut.cancel();
        if tokio::time::timeout(FAREWELL, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

//! A gate before a server: connections pass, are cut, or go silent.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Passes connections on to a server.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    server: SocketAddr,
    silent: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

impl Gate {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut gate = Self { address, server, silent: watch::Sender::new(false), running: None };
        gate.run(listener);
        gate
    }

    /// Cuts every connection, as if the server had died; nobody listens any more.
    pub(crate) async fn close(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
    }

    /// Listens again.
    pub(crate) async fn open(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener);
    }

    /// Nothing passes any more, and nobody is told; connections that are silent once stay so.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    fn run(&mut self, listener: TcpListener) {
        let (server, silent) = (self.server, self.silent.clone());
        self.running = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((inward, _)) = listener.accept().await {
                connections.spawn(pass_on(inward, server, silent.subscribe()));
            }
        }));
    }
}

async fn pass_on(mut inward: TcpStream, server: SocketAddr, mut silent: watch::Receiver<bool>) {
    let Ok(mut outward) = TcpStream::connect(server).await else { return };
    tokio::select! {
        biased;
        _ = silent.wait_for(|silent| *silent) => {}
        _ = copy_bidirectional(&mut inward, &mut outward) => return,
    }
    std::future::pending().await
}

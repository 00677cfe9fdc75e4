//! `turnstile up`: everything in this process, until it is told to stop.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use identity::FirstAdmin;
use mesh::{AdminPort, Context, Mesh};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Outcome;
use crate::client::Failure;
use crate::settings::{Admin, Config};
use crate::system;

/// How long a stop may take: who waits for it kills after half a minute.
const PATIENCE: Duration = Duration::from_secs(28);

/// Where customers call unless told otherwise.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8088);

pub(crate) async fn up(config: Config, begun: Instant) -> Outcome {
    refuse_authority(&config)?;
    let serving = Serving {
        options: config.options(),
        contexts: system::contexts(&config).iter().map(|one| one.name().to_owned()).collect(),
        listen: config.listen.unwrap_or(LISTEN),
        patience: Duration::ZERO,
        farewell: Duration::ZERO,
        end: Box::pin(std::future::pending()),
    };
    serve(config, serving, begun).await
}

/// What a process serves, and how.
pub(crate) struct Serving {
    pub(crate) options: mesh::Options,
    /// The names of its contexts.
    pub(crate) contexts: Vec<String>,
    pub(crate) listen: SocketAddr,
    /// How long it waits for identity's keys before it says that it is ready; it serves meanwhile.
    pub(crate) patience: Duration,
    /// For how long it says that it stops before it closes its port: who hears that calls another one.
    pub(crate) farewell: Duration,
    /// What ends it besides a signal.
    pub(crate) end: BoxFuture<'static, ()>,
}

/// Serves until it is told to stop.
pub(crate) async fn serve(mut config: Config, serving: Serving, begun: Instant) -> Outcome {
    let Serving { options, contexts: names, listen, patience, farewell, end } = serving;
    let exporter = mesh::telemetry::start_and_export(&config.log, config.collector.as_deref())?;
    config.identity.on_first_admin = Arc::new(welcome);
    let mut contexts = system::contexts(&config);
    contexts.retain(|context| names.iter().any(|name| name == context.name()));
    let signals = Signals::new()?;

    prepare(&config.data)?;
    let mesh = Mesh::new(options)?;
    // The ports first: who cannot have them should not touch the data.
    let listening =
        mesh.listen(listen).await.map_err(|error| why_not(listen, &error, "--listen"))?;
    let _admin_port = listen_for_admins(&mesh, &config, contexts.iter().map(Context::name)).await?;
    system::start_some(&mesh, &contexts).await?;
    let knowing = mesh.clone();
    let knowing = tokio::spawn(async move { knowing.know_keys().await });
    let _ = tokio::time::timeout(patience, knowing).await;
    mesh.settle(Duration::from_millis(500)).await;
    eprintln!("ready in {} ms on {}", begun.elapsed().as_millis(), listening.address());

    let stop = async {
        mesh.drain().await;
        tokio::time::sleep(farewell).await;
        listening.close().await;
        mesh.shut_down().await;
        exporter.finish().await;
    };
    signals.stop_after(end, stop).await
}

/// What tells a process to stop.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal, or for `end`; then stops. A second signal ends at once.
    pub(crate) async fn stop_after(
        mut self,
        end: impl Future<Output = ()>,
        stop: impl Future<Output = ()>,
    ) -> Outcome {
        tokio::select! {
            () = self.received() => {}
            () = end => {}
        }
        eprintln!("stopping: running calls finish first; once more ends at once");
        let stop = async {
            if tokio::time::timeout(PATIENCE, stop).await.is_err() {
                eprintln!("not everything had stopped in time: the next start finishes it");
            }
        };
        tokio::select! {
            () = stop => Ok(()),
            () = self.received() => Err("ended before everything had stopped".into()),
        }
    }

    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Makes the data folder. Accounts and keys are in there: nobody else needs to look.
pub(crate) fn prepare(data: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(|error| format!("{}: {error}", data.display()))?;
    Ok(mesh::backup::refuse_unfinished(data)?)
}

/// Customers have no certificates: they would be turned away.
pub(crate) fn refuse_authority(config: &Config) -> Result<(), String> {
    match config.tls.as_ref().and_then(|tls| tls.context()) {
        Some(_) => Err(
            "TURNSTILE_TLS_CA_FILE is for `serve`: customers call here, and have no certificates"
                .into(),
        ),
        None => Ok(()),
    }
}

/// Health and metrics; the default port may be the one of another system on this machine.
pub(crate) async fn listen_for_admins<'a>(
    mesh: &Mesh,
    config: &Config,
    contexts: impl IntoIterator<Item = &'a str>,
) -> Result<Option<AdminPort>, String> {
    let (Admin::At(address) | Admin::Preferably(address)) = config.admin else { return Ok(None) };
    match mesh.listen_for_admins(address, contexts).await {
        Ok(port) => {
            tracing::info!("admin port on {}", port.address());
            Ok(Some(port))
        }
        Err(error) if config.admin == Admin::Preferably(address) => {
            tracing::warn!(%error, "no admin port on {address}: choose another with --admin-listen");
            Ok(None)
        }
        Err(error) => Err(why_not(address, &error, "--admin-listen")),
    }
}

pub(crate) fn why_not(address: SocketAddr, error: &std::io::Error, flag: &str) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("{address} is taken by another program: choose another with {flag}")
        }
        _ => format!("{address}: {error}"),
    }
}

/// The first start made an admin: the only time that a password is shown.
fn welcome(admin: &FirstAdmin) {
    if admin.was_given {
        eprintln!("first start: {} has the password of TURNSTILE_ADMIN_PASSWORD", admin.email);
    } else {
        eprintln!(
            "first start: sign in as {} with the password {}",
            admin.email,
            admin.password.reveal()
        );
        eprintln!("             it is shown this once; keep it");
    }
}

//! `turnstile up`: everything in this process, until it is told to stop.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::FirstAdmin;
use mesh::{AdminPort, Context, Mesh};
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::settings::{Admin, Config};
use crate::system;

/// How long a stop may take: who waits for it kills after half a minute.
const PATIENCE: Duration = Duration::from_secs(28);

pub(crate) async fn up(mut config: Config, begun: Instant) -> Outcome {
    let exporter = mesh::telemetry::start_and_export(&config.log, config.collector.as_deref())?;
    config.identity.on_first_admin = Arc::new(welcome);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    // Accounts and keys are in there: nobody else needs to look.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data)
        .map_err(|error| format!("{}: {error}", config.data.display()))?;
    mesh::backup::refuse_unfinished(&config.data)?;
    let mesh = Mesh::new(config.options())?;
    // The ports first: who cannot have them should not touch the data.
    let listening = mesh
        .listen(config.listen)
        .await
        .map_err(|error| why_not(config.listen, &error, "--listen"))?;
    let _admin_port = listen_for_admins(&mesh, &config).await?;
    system::start(&mesh, &config).await?;
    mesh.settle(Duration::from_millis(500)).await;
    eprintln!("ready in {} ms on {}", begun.elapsed().as_millis(), listening.address());

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    eprintln!("stopping: running calls finish first; once more ends at once");
    let drain = async {
        mesh.drain().await;
        listening.close().await;
        mesh.shut_down().await;
        exporter.finish().await;
    };
    let drain = async {
        if tokio::time::timeout(PATIENCE, drain).await.is_err() {
            eprintln!("not everything had stopped in time: the next start finishes it");
        }
    };
    tokio::select! {
        () = drain => Ok(()),
        _ = interrupt.recv() => Err("ended before everything had stopped".into()),
        _ = terminate.recv() => Err("ended before everything had stopped".into()),
    }
}

/// Health and metrics; the default port may be the one of another system on this machine.
async fn listen_for_admins(mesh: &Mesh, config: &Config) -> Result<Option<AdminPort>, String> {
    let (Admin::At(address) | Admin::Preferably(address)) = config.admin else { return Ok(None) };
    let contexts = system::contexts(config);
    match mesh.listen_for_admins(address, contexts.iter().map(Context::name)).await {
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

fn why_not(address: SocketAddr, error: &std::io::Error, flag: &str) -> String {
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

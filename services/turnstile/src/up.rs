//! `turnstile up`: everything in this process, until it is told to stop.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::FirstAdmin;
use mesh::Mesh;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::settings::Config;
use crate::system;

pub(crate) async fn up(mut config: Config, begun: Instant) -> Outcome {
    mesh::telemetry::start(&config.log).map_err(|error| format!("TURNSTILE_LOG: {error}"))?;
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
    // The port first: who cannot have it should not touch the data.
    let listening = mesh.listen(config.listen).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            format!("{} is taken by another program: choose another with --listen", config.listen)
        }
        _ => format!("{}: {error}", config.listen),
    })?;
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
    };
    tokio::select! {
        () = drain => Ok(()),
        _ = interrupt.recv() => Err("ended before everything had stopped".into()),
        _ = terminate.recv() => Err("ended before everything had stopped".into()),
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

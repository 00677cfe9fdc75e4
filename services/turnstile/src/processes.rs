//! `turnstile up --processes`: each context in a process of its own on this machine, and one address for customers.
//!
//! Children listen where there is room, so one that is started again is somewhere else. A file for each context says
//! where it is; whoever calls it looks there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use mesh::Mesh;
use mesh::auth::{MeshKey, random_text};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::cli::Cli;
use crate::client::Failure;
use crate::settings::{Admin, Config};
use crate::system;
use crate::up::{self, LISTEN, Signals};

/// The pause before a child is started again: after each start twice as long, but for one that has run for a while.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_secs(10);
/// How long a child may take to stop.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) async fn up(cli: &Cli, config: Config, begun: Instant) -> Outcome {
    up::refuse_authority(&config)?;
    let exporter = mesh::telemetry::start_and_export(&config.log, config.collector.as_deref())?;
    let mut signals = Signals::new()?;
    up::prepare(&config.data)?;
    let folder = tempfile::tempdir()?;
    let all = system::contexts(&config);
    let names: Vec<_> = all.iter().map(mesh::Context::name).collect();
    let secret = random_text();
    let mut options = mesh::Options { mesh_key: Some(MeshKey::new(&secret)?), ..config.options() };
    for name in &names {
        let place = folder.path().join(name);
        options.endpoints.insert((*name).to_owned(), format!("file://{}", place.display()));
    }
    let endpoints: Vec<_> =
        options.endpoints.iter().map(|(name, place)| format!("{name}={place}")).collect();

    let mesh = Mesh::front_of(options, &names)?;
    mesh.read_keys_from(identity::keys_of(&mesh)?);
    let listen = config.listen.unwrap_or(LISTEN);
    let listening =
        mesh.listen(listen).await.map_err(|error| up::why_not(listen, &error, "--listen"))?;
    let _admin_port = up::listen_for_admins(&mesh, &config, names.iter().copied()).await?;

    let stopping = CancellationToken::new();
    let started = Arc::new(Started {
        config_file: cli.config.clone(),
        data: config.data.clone(),
        admin_port: config.admin != Admin::Off,
        empty: config.empty,
        secret,
        endpoints: endpoints.join(","),
    });
    let children: Vec<_> = names
        .iter()
        .map(|name| Keeper::start(name, folder.path(), started.clone(), stopping.clone()))
        .collect();
    let ready = async {
        try_join_all(children.iter().map(Keeper::ready)).await?;
        mesh.until_reached().await;
        mesh.know_keys().await;
        Ok::<_, String>(())
    };
    let outcome = tokio::select! {
        ready = ready => ready.map_err(Failure::from),
        () = signals.received() => Err("told to stop before everything was there".into()),
    };
    let stop_children = async {
        stopping.cancel();
        for child in children {
            let _ = child.task.await;
        }
    };
    if let Err(failure) = outcome {
        stop_children.await;
        return Err(failure);
    }
    eprintln!("ready in {} ms on {}", begun.elapsed().as_millis(), listening.address());

    let stop = async {
        mesh.drain().await;
        // What customers were promised needs all contexts; after that none needs another.
        listening.close().await;
        stop_children.await;
        exporter.finish().await;
    };
    signals.stop_after(std::future::pending(), stop).await
}

/// What all children are started with.
struct Started {
    config_file: Option<PathBuf>,
    data: PathBuf,
    admin_port: bool,
    empty: bool,
    secret: String,
    endpoints: String,
}

impl Started {
    fn command(&self, context: &str) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(file) = &self.config_file {
            command.arg("--config").arg(file);
        }
        let admin_port = if self.admin_port { "127.0.0.1:0" } else { "off" };
        command
            .args(["serve", context, "--stop-with-stdin", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", admin_port, "--data"])
            .arg(&self.data)
            .args(self.empty.then_some("--empty"))
            .env("TURNSTILE_ENDPOINTS", &self.endpoints)
            .env("TURNSTILE_MESH_KEY", &self.secret)
            // On this machine's own network the secret is enough; certificates are for who calls from outside.
            .envs(
                ["MESH_KEY", "TLS_CERT", "TLS_KEY", "TLS_CA"]
                    .map(|what| (format!("TURNSTILE_{what}_FILE"), "")),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-c is for us: children are stopped in order.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

/// Keeps the process of one context alive.
struct Keeper {
    /// Whether it is ready; gone if it will never be.
    is_ready: watch::Receiver<bool>,
    context: String,
    task: JoinHandle<()>,
}

impl Keeper {
    fn start(
        context: &str,
        folder: &Path,
        started: Arc<Started>,
        stopping: CancellationToken,
    ) -> Self {
        let (ready, is_ready) = watch::channel(false);
        let context = context.to_owned();
        let place = folder.join(&context);
        let kept = Kept { context: context.clone(), place, started, stopping, ready };
        Self { is_ready, context, task: tokio::spawn(kept.keep()) }
    }

    async fn ready(&self) -> Result<(), String> {
        let mut is_ready = self.is_ready.clone();
        let outcome = is_ready.wait_for(|ready| *ready).await;
        outcome.map(drop).map_err(|_| format!("{} did not start", self.context))
    }
}

struct Kept {
    context: String,
    place: PathBuf,
    started: Arc<Started>,
    stopping: CancellationToken,
    ready: watch::Sender<bool>,
}

impl Kept {
    /// Until it is told to stop, or the first start fails.
    async fn keep(self) {
        let mut pause = PAUSE;
        while !self.stopping.is_cancelled() {
            let born = Instant::now();
            let ended = self.live().await;
            self.is_at("");
            if self.stopping.is_cancelled() {
                return;
            }
            if !*self.ready.borrow() {
                self.says(&format!("did not start: {ended}"));
                return;
            }
            if born.elapsed() > A_WHILE {
                pause = PAUSE;
            }
            self.says(&format!("{ended}: it is started again in {} ms", pause.as_millis()));
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stopping.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The life of one process, and how it ended.
    async fn live(&self) -> String {
        let child = self.started.command(&self.context).and_then(|mut command| command.spawn());
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return error.to_string(),
        };
        let Some(heard) = child.stderr.take() else { return "it cannot be heard".to_owned() };
        let mut lines = BufReader::new(heard).lines();
        let (mut told, mut kill_at) = (false, tokio::time::Instant::now());
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => self.hears(&line, child.id()),
                    _ => break,
                },
                () = self.stopping.cancelled(), if !told => {
                    told = true;
                    kill_at = tokio::time::Instant::now() + PATIENCE;
                    tell(&child, Signal::TERM);
                }
                () = sleep_until(kill_at), if told => {
                    kill_at += PATIENCE;
                    tell(&child, Signal::KILL);
                }
            }
        }
        match child.wait().await {
            Ok(status) => format!("ended ({status})"),
            Err(error) => error.to_string(),
        }
    }

    fn hears(&self, line: &str, process: Option<u32>) {
        match line.split_once(" ms on ") {
            Some((_, address)) if line.starts_with("ready in ") => {
                self.is_at(&format!("http://{address}\n"));
                let process = process.unwrap_or_default();
                self.says(&format!("is process {process}, at {address}"));
                self.ready.send_replace(true);
            }
            _ => self.says(line),
        }
    }

    /// Tells those who call it where it is. All of the file or none: others read it while it is written.
    fn is_at(&self, endpoint: &str) {
        let part = self.place.with_file_name(format!("{}.part", self.context));
        let told =
            std::fs::write(&part, endpoint).and_then(|()| std::fs::rename(&part, &self.place));
        if let Err(error) = told {
            self.says(&format!("where it is could not be told: {error}"));
        }
    }

    fn says(&self, line: &str) {
        eprintln!("[{}] {line}", self.context);
    }
}

/// A process that has ended by itself needs to be told nothing.
fn tell(child: &Child, signal: Signal) {
    let process = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(process) = process {
        let _ = kill_process(process, signal);
    }
}

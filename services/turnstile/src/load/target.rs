//! Whom the load is for: a running system, or a private one in a process of its own, so that the figures of the one do
//! not share a runtime with the other.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{self, Failure, SignedIn};

/// How long a system may take to end: it gives its running calls 30 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a private system must not take from the environment: it has a folder, a port and a catalogue of its own.
const NOT_OURS: [&str; 4] =
    ["TURNSTILE_DATA", "TURNSTILE_LISTEN", "TURNSTILE_EMPTY", "TURNSTILE_TARGET"];

/// A system under load.
pub(crate) struct Target {
    /// A connection for whatever is not load.
    pub(crate) channel: Channel,
    /// The first admin, where the password is known.
    pub(crate) admin: Option<SignedIn>,
    /// Its address.
    url: String,
    private: Option<Private>,
}

impl Target {
    /// A running system.
    pub(crate) async fn running(url: &str, admin: &str) -> Result<Self, Failure> {
        let channel = client::connect(url).await?;
        let admin = match client::admin_password() {
            Ok(password) => Some(client::sign_in(&channel, admin, &password).await?.1),
            Err(_) => None,
        };
        Ok(Self { channel, admin, url: url.to_owned(), private: None })
    }

    /// A system that this process serves itself.
    pub(crate) async fn here(url: &str, admin: SignedIn) -> Result<Self, Failure> {
        let channel = client::connect(url).await?;
        Ok(Self { channel, admin: Some(admin), url: url.to_owned(), private: None })
    }

    /// A system of its own, with these settings where the environment has no others.
    pub(crate) async fn private(
        config: Option<&Path>,
        settings: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let private = Private::start(config, settings).await?;
        let url = format!("http://{}", private.address);
        let channel = client::connect(&url).await?;
        let (_, admin) =
            client::sign_in(&channel, "admin@localhost", &private.admin_password).await?;
        Ok(Self { channel, admin: Some(admin), url, private: Some(private) })
    }

    /// The admin, or what to do about it.
    pub(crate) fn admin(&self) -> Result<&SignedIn, Failure> {
        self.admin.as_ref().ok_or_else(|| {
            "this needs the admin: set TURNSTILE_ADMIN_PASSWORD to the admin's password".into()
        })
    }

    /// New customers, signed in, so many on each connection.
    pub(crate) async fn users(
        &self,
        count: usize,
        on_each: usize,
    ) -> Result<Vec<SignedIn>, Failure> {
        let connections = count.div_ceil(on_each.max(1)).max(1);
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(client::connect(&self.url).await?);
        }
        let terminal = std::io::stderr().is_terminal();
        eprintln!("{count} users sign up, on {connections} connections");
        let users = stream::iter(0..count)
            .map(|user| new_user(&channels[user % connections]))
            .buffer_unordered(4)
            .enumerate()
            .map(|(done, user)| {
                if terminal {
                    eprint!("\r\x1b[K{} of {count}", done + 1);
                }
                user
            });
        let users = users.try_collect().await;
        if terminal {
            eprint!("\r\x1b[K");
        }
        users
    }

    /// Ends a private system, which must end well.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        match self.private {
            Some(private) => private.stop().await,
            None => Ok(()),
        }
    }
}

/// Signs a customer up; who signs up too many is told to wait.
async fn new_user(channel: &Channel) -> Result<SignedIn, Failure> {
    loop {
        match client::new_customer(channel, "load").await {
            Ok((_, user)) => return Ok(user),
            Err(failure) => {
                let status = failure.downcast::<tonic::Status>()?;
                if status.code() != Code::ResourceExhausted {
                    return Err(status);
                }
                tokio::time::sleep(mesh::retry_delay_of(&status).unwrap_or_default()).await;
            }
        }
    }
}

struct Private {
    child: Child,
    address: String,
    admin_password: String,
    _folder: tempfile::TempDir,
}

impl Private {
    async fn start(config: Option<&Path>, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let admin_password = mesh::auth::random_text();
        let given: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
        let quiet = [
            ("TURNSTILE_LOG", "warn"),
            ("TURNSTILE_MAX_CALLS_PER_ACCOUNT", "0"),
            ("TURNSTILE_MAX_CALLS_PER_ADDRESS", "0"),
            ("TURNSTILE_RESERVATION_MAX_HELD", "0"),
            ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "0"),
            ("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", "0"),
        ];
        let settings = quiet.iter().chain(settings);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--data"])
            .arg(folder.path())
            .envs(settings.filter(|(name, _)| !given.iter().any(|given| given == name)).copied())
            .env("TURNSTILE_ADMIN_PASSWORD", &admin_password)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-c is for us: we end it when we are done.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        for name in NOT_OURS {
            command.env_remove(name);
        }
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next_line().await?;
            let line = line.ok_or_else(|| format!("the private system did not start: {said}"))?;
            if let Some((_, address)) = line.split_once(" ms on ") {
                break address.to_owned();
            }
            said.push_str(&line);
            said.push('\n');
        };
        // What it has to say later is for whoever looks; its farewell is not.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if !line.starts_with("stopping:") {
                    eprintln!("{line}");
                }
            }
        });
        eprintln!("a private system on {address}, in a temporary folder");
        Ok(Self { child, address, admin_password, _folder: folder })
    }

    async fn stop(mut self) -> Result<(), Failure> {
        let process = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(process.ok_or("the private system ended by itself")?, Signal::TERM)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| "the private system did not end in time")??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the private system ended badly: {status}").into())
        }
    }
}

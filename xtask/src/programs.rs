//! Programs that this one starts, and how it comes by them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::Result;

const BUF_VERSION: &str = "1.75.0";
const PYTHON_PACKAGES: [&str; 5] = [
    "aiosmtpd==1.4.6",
    "grpcio==1.85.1",
    "grpcio-reflection==1.85.1",
    "googleapis-common-protos==1.76.0",
    "protobuf==7.36.2",
];
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// An environment variable that is set to something.
#[expect(
    clippy::disallowed_methods,
    reason = "xtask is no service, and must work while mesh does not compile"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = spawn(command)?.wait()?;
    succeeded(command, status)
}

/// Runs a program, and kills it if it has not ended within the limit.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result {
    let status = wait_within(limit, &mut spawn(command)?)?;
    succeeded(command, status)
}

/// Runs a program and answers with the line that it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = spawn(command.stdout(Stdio::piped()))?.wait_with_output()?;
    succeeded(command, done.status)?;
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

/// buf, of the version that the contracts are checked with.
pub(crate) fn buf() -> Result<PathBuf> {
    let folder = tools()?.join(format!("buf-{BUF_VERSION}"));
    let buf = folder.join("node_modules/.bin/buf");
    if !works(Command::new(&buf).arg("--version")) {
        if !works(Command::new("npm").arg("--version")) {
            install(&["nodejs", "npm"])?;
        }
        fs::create_dir_all(&folder)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]);
        run(npm.arg(&folder).arg(format!("@bufbuild/buf@{BUF_VERSION}")))?;
    }
    Ok(buf)
}

/// A Python with everything that the foreign client imports.
pub(crate) fn python() -> Result<PathBuf> {
    let folder = tools()?.join("python");
    let python = folder.join("bin/python");
    if !works(Command::new(&python).args(["-m", "pip", "--version"])) {
        if !works(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
            install(&["python3", "python3-venv"])?;
        }
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    }
    // What is installed in just this version is left alone, without asking the network.
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    run(pip.args(PYTHON_PACKAGES))?;
    Ok(python)
}

/// A server of PostgreSQL, gone with the value.
pub(crate) fn postgres() -> Result<test_postgres::Server> {
    match test_postgres::Server::start() {
        Ok(server) => Ok(server),
        Err(_) => {
            install(&["postgresql"])?;
            Ok(test_postgres::Server::start().map_err(|error| error.to_string())?)
        }
    }
}

/// Where tools are kept between runs: never in the checkout.
fn tools() -> Result<PathBuf> {
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
    Ok(cache.ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("turnstile/tools"))
}

fn install(packages: &[&str]) -> Result {
    if output(Command::new("id").arg("-u"))? != "0" {
        return Err(format!("missing: install {} (`apt-get install`)", packages.join(", ")).into());
    }
    let apt = |action: &[&str]| {
        let mut apt = Command::new("apt-get");
        run(apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y"]).args(action))
    };
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], packages].concat())
}

/// Whether a program is there and does what it is asked for.
fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_owned();
    command.spawn().map_err(|error| format!("{}: {error}", program.display()).into())
}

fn succeeded(command: &Command, status: ExitStatus) -> Result {
    if status.success() {
        return Ok(());
    }
    Err(format!("{} ended with {status}", command.get_program().display()).into())
}

fn wait_within(limit: Duration, child: &mut Child) -> Result<ExitStatus> {
    let id = child.id();
    let (tell, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || tell.send(child.wait()));
        match ended.recv_timeout(limit) {
            Ok(status) => Ok(status?),
            Err(_) => {
                signal("KILL", id)?;
                Err(format!("killed: it had not ended after {} s", limit.as_secs_f32()).into())
            }
        }
    })
}

fn signal(name: &str, process: u32) -> Result {
    run(Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")))
}

/// All contexts in one process, on a port and in a folder of its own.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Child,
    _data: TempDir,
}

impl Server {
    /// Starts it and waits until it is ready. What it logs goes to our standard error.
    pub(crate) fn start(turnstile: &Path, admin_password: &str) -> Result<Self> {
        let data = TempDir::new()?;
        let mut up = Command::new(turnstile);
        up.arg("up").arg("--data").arg(data.path()).args(["--listen", "127.0.0.1:0"]);
        up.env("TURNSTILE_ADMIN_PASSWORD", admin_password).stderr(Stdio::piped());
        let mut process = spawn(&mut up)?;
        let log = process.stderr.take().ok_or("standard error is not piped")?;

        let (tell, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(log).split(b'\n').map_while(std::io::Result::ok) {
                let line = String::from_utf8_lossy(&line);
                eprintln!("turnstile: {line}");
                if let Some(address) = ready_address(&line) {
                    tell.send(address).ok();
                }
            }
        });
        // Made before the wait, so that whatever comes of it the process is not left behind.
        let mut server = Self { address: SocketAddr::from(([0; 4], 0)), process, _data: data };
        server.address = ready.recv_timeout(READY_LIMIT).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("not ready within {READY_LIMIT:?}"),
            RecvTimeoutError::Disconnected => "it ended before it was ready".to_owned(),
        })?;
        Ok(server)
    }

    /// Asks it to end, as an orchestrator does, and demands that it ends well and soon.
    pub(crate) fn stop(mut self) -> Result {
        signal("TERM", self.process.id())?;
        let status = wait_within(STOP_LIMIT, &mut self.process)?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The address in `ready in 312 ms on 127.0.0.1:8088`.
fn ready_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("ready in ")?;
    let (_, address) = rest.split_once(" ms on ")?;
    address.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_the_ready_line() {
        let address = ready_address("INFO turnstile: ready in 312 ms on 127.0.0.1:8088");
        assert_eq!(address, Some(SocketAddr::from(([127, 0, 0, 1], 8088))));
        assert_eq!(ready_address("INFO turnstile: payment is ready"), None);
    }

    #[test]
    fn what_does_not_end_is_killed() {
        let error = run_within(Duration::from_millis(50), Command::new("sleep").arg("600"));
        assert!(error.is_err_and(|error| error.to_string().starts_with("killed")));
    }
}

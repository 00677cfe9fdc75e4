//! A server of PostgreSQL for tests: made in a temporary folder, reached by a socket in it, gone with the value.
//!
//! It needs nothing but the server's programs, and no other crate, so that whoever runs the tests can start one for all.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a step of it ends with.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The variable that names a server which is already there: the address without a database.
pub const VARIABLE: &str = "TURNSTILE_TEST_POSTGRES";

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    programs: PathBuf,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It ends its sessions first.
    Fast,
    /// As if its power had gone: the next start recovers.
    Immediate,
}

impl Server {
    /// Makes and starts one. An error says what is missing.
    pub fn start() -> Outcome<Self> {
        let programs = programs().ok_or("PostgreSQL's server is not installed")?;
        let server = Self { folder: folder()?, programs };
        let data = server.folder.join("data");
        let mut make = server.command("initdb");
        make.arg("-D").arg(&data);
        make.args(["-U", "app", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        run(&mut make)?;
        server.resume()?;
        Ok(server)
    }

    /// Starts it again after a stop.
    pub fn resume(&self) -> Outcome {
        let folder = self.folder.display();
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=400 \
             -c shared_buffers=64MB"
        );
        self.control(&["-w", "-o", &options, "start"])
    }

    /// Stops it.
    pub fn stop(&self, how: Stop) -> Outcome {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.control(&["-w", "-m", mode, "stop"])
    }

    /// Its address, without a database.
    pub fn url(&self) -> String {
        format!("postgres:///?host={}&user=app", self.folder.display())
    }

    /// Runs statements as its owner, and answers what they print: columns parted by `|`.
    pub fn query(&self, database: &str, statements: &str) -> Outcome<String> {
        query(&self.folder, database, statements)
    }

    /// One of the programs that came with it.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    fn control(&self, arguments: &[&str]) -> Outcome {
        let mut control = self.command("pg_ctl");
        control.arg("-s").arg("-D").arg(self.folder.join("data"));
        control.arg("-l").arg(self.folder.join("log")).args(arguments);
        run(&mut control)
    }

    /// The server refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop(Stop::Immediate);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A database of its own on a server, gone with the value.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// A new one on the server at this address.
    pub fn new(server: &str) -> Outcome<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let database =
            Self { server: server.to_owned(), name: format!("t{}_{count}", std::process::id()) };
        database.on_server(&format!("CREATE DATABASE {}", database.name))?;
        Ok(database)
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.server.replacen(":///?", &format!(":///{}?", self.name), 1)
    }

    /// Its name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs statements in it as its owner, and answers what they print: columns parted by `|`.
    pub fn query(&self, statements: &str) -> Outcome<String> {
        query(self.host(), &self.name, statements)
    }

    fn on_server(&self, statement: &str) -> Outcome<String> {
        query(self.host(), "postgres", statement)
    }

    fn host(&self) -> &Path {
        let (_, host) = self.server.split_once("host=").unwrap_or_default();
        Path::new(host.split('&').next().unwrap_or_default())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.on_server(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

fn query(host: &Path, database: &str, statements: &str) -> Outcome<String> {
    let mut psql = Command::new("psql");
    psql.arg("-h").arg(host).args(["-U", "app", "-d", database, "-X", "-q", "-A", "-t"]);
    psql.args(["-v", "ON_ERROR_STOP=1", "-c", statements]);
    let output = psql.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where the newest server's programs are.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions
        .filter_map(|version| {
            let bin = version.ok()?.path().join("bin");
            let number: u32 = bin.parent()?.file_name()?.to_str()?.parse().ok()?;
            bin.join("initdb").exists().then_some((number, bin))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

/// A new folder that the server may use; its path is short, since a socket's name must be.
fn folder() -> Outcome<PathBuf> {
    let mut make = Command::new("mktemp");
    let output = make.args(["-d", "/tmp/turnstile-pg-XXXXXX"]).output()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(&folder))?;
    }
    Ok(folder)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn run(command: &mut Command) -> Outcome {
    // What it prints goes to a file or nowhere: a server that lives on must not hold our pipes.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

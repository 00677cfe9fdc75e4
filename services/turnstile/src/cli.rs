//! The command line: its help is the first documentation anybody reads.

#![expect(clippy::doc_markdown, reason = "these comments are the help text")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Booking and purchase systems on one gRPC mesh.
///
/// Without a command it runs `up`: every system in this process, its data in ./data, gRPC on port 8088.
#[derive(Debug, Parser)]
#[command(name = "turnstile", version, after_help = FIRST_STEPS, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    up: UpCommand,

    /// A file with settings, in TOML. Default: turnstile.toml, if there is one here.
    #[arg(
        long,
        global = true,
        env = "TURNSTILE_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) config: Option<PathBuf>,
}

const FIRST_STEPS: &str = "\
First steps:
  turnstile                  bring everything up; the first start prints the
                             admin's password once
  turnstile demo homemovie   play the film purchase against a private system
  turnstile demo outerpark   the same for the musical reservation
  turnstile load homemovie   see how many orders a second a private system takes
  turnstile check-config     show every setting, its value and who gave it

Every setting is an environment variable TURNSTILE_...; a flag goes before it,
a file behind it. docs/operating.md is for those who keep it running.";

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Bring every system up, and serve until ctrl-c
    Up(UpCommand),
    /// Serve some contexts in this process; the others are served elsewhere
    Serve(ServeOptions),
    /// Be where customers call, and pass their calls on to contexts that are served elsewhere
    Front(UpOptions),
    /// Play a system's demo script as a real client, and print every step with what it saw
    Demo(DemoOptions),
    /// Put a system under load, and print rate, latencies and what was not as it should be
    Load(LoadOptions),
    /// Look at events that a policy could not handle, or hand them to it again
    Events(EventsOptions),
    /// List orders that are neither registered nor ended: waiting for a callee, or being undone
    Intents(OperateOptions),
    /// List the policies: how far behind the log each is, and how many of its events are parked
    Policies(OperateOptions),
    /// List the calls between contexts that somebody waits for, and what their breakers did
    Edges(OperateOptions),
    /// Copy every store at one and the same moment, while the system runs or while it does not
    Backup(BackupOptions),
    /// Put a backup into the folder of a system that does not run
    Restore(RestoreOptions),
    /// Make the tables of stores that are in PostgreSQL, or bring them up to date, before this release serves them
    Migrate(MigrateOptions),
    /// Put right what nobody can put right from outside, while the system does not run
    Admin(AdminOptions),
    /// Check the settings, and show each with its value and where it comes from
    CheckConfig,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct UpCommand {
    #[command(flatten)]
    pub(crate) options: UpOptions,

    /// Give each context a process of its own, on this machine; one that dies is started again
    #[arg(long)]
    pub(crate) processes: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = SERVE_HELP)]
pub(crate) struct ServeOptions {
    /// Which contexts: payment, homemovie.app
    #[arg(required = true, value_name = "CONTEXT")]
    pub(crate) contexts: Vec<String>,

    #[command(flatten)]
    pub(crate) options: UpOptions,

    /// Stop when standard input ends: for who starts this as a child
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

const SERVE_HELP: &str = "\
It listens on 0.0.0.0:50051 unless told otherwise. Where the other contexts are
is said by TURNSTILE_ENDPOINTS=payment=http://10.0.0.7:50051,mypage=http://...;
one that is not named is looked for at http://CONTEXT:50051, with - for each dot.
Contexts know each other by a secret (TURNSTILE_MESH_KEY_FILE) or by their
certificates (TURNSTILE_TLS_CERT_FILE, _KEY_FILE, _CA_FILE).";

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct UpOptions {
    /// Folder with all data; made on the first start [env: TURNSTILE_DATA] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Address and port to listen on [env: TURNSTILE_LISTEN] [default: 127.0.0.1:8088]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,

    /// Address and port of health and metrics, or `off` [env: TURNSTILE_ADMIN_LISTEN] [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin_listen: Option<String>,

    /// Begin without the small catalogue of films [env: TURNSTILE_EMPTY]
    #[arg(long)]
    pub(crate) empty: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MigrateOptions {
    /// By somebody else than those who serve: who may make schemas, tables and roles
    #[arg(long, env = "TURNSTILE_MIGRATE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// Film purchase
    Homemovie,
    /// Musical reservation
    Outerpark,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoOptions {
    /// Which system
    pub(crate) system: System,

    /// Play against a running system instead of a private one
    #[arg(long, env = "TURNSTILE_TARGET", hide_env_values = true, value_name = "URL")]
    pub(crate) target: Option<String>,

    /// How long the last step, the load on a slow payment, takes; 0 leaves it out
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) seconds: u64,

    /// How many users the last step has
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) users: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Films are picked; completed when my page shows them as ordered
    Homemovie,
    /// Seats of one hot musical are reserved; none may be sold twice
    Outerpark,
    /// Films are picked while the payment is slow: the breaker opens, and heals
    HomemovieBreaker,
    /// Seats are reserved while the seats' side is slow: the breaker opens, and heals
    OuterparkBreaker,
}

impl Scenario {
    /// Whether it is about a breaker.
    pub(crate) fn is_breaker(self) -> bool {
        matches!(self, Self::HomemovieBreaker | Self::OuterparkBreaker)
    }
}

#[derive(Debug, Clone, Args)]
#[command(after_help = LOAD_HELP)]
pub(crate) struct LoadOptions {
    /// What the users do
    pub(crate) scenario: Scenario,

    /// How many users there are [default: 64, or 100 on a slow callee]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    users: Option<u32>,

    /// Send so many calls a second, whatever comes of them; without it each user sends its next call when it has the
    /// answer to the last. The latency counts from when a call was due
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,

    /// For how long: 500ms, 15s, 2m, 1h
    /// [default: 15s, or 60s on a slow callee]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Put a running system under load instead of a private one
    #[arg(long, env = "TURNSTILE_TARGET", hide_env_values = true, value_name = "URL")]
    pub(crate) target: Option<String>,

    /// Print one JSON object on standard output, and nothing else
    #[arg(long)]
    pub(crate) json: bool,

    /// How many users share a connection; one connection carries 200 calls at once
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) users_per_connection: usize,

    /// On a slow callee: how many calls come first, one after another, without a load
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) unloaded: usize,

    /// The admin's email; the password comes from TURNSTILE_ADMIN_PASSWORD
    #[arg(long, default_value = "admin@localhost", value_name = "EMAIL")]
    pub(crate) admin: String,
}

const LOAD_HELP: &str = "\
Without --target it starts a private system in a process of its own, in a
temporary folder, and stops it in the end; TURNSTILE_... variables set it up.
With --target nothing is set there: for the -breaker scenarios start that
system with TURNSTILE_PAYMENT_DELAY_MS=400-620, TURNSTILE_PAYMENT_CONCURRENCY=10
or TURNSTILE_MUSICAL_DELAY_MS, TURNSTILE_MUSICAL_CONCURRENCY.
Ctrl-c ends the load early and prints the figures so far.
The exit status is 0 only if everything was as it should be.";

impl LoadOptions {
    /// How many users there are.
    pub(crate) fn users(&self) -> usize {
        let default = if self.scenario.is_breaker() { 100 } else { 64 };
        self.users.unwrap_or(default) as usize
    }

    /// For how long.
    pub(crate) fn duration(&self) -> Duration {
        let seconds = if self.scenario.is_breaker() { 60 } else { 15 };
        self.duration.unwrap_or_else(|| Duration::from_secs(seconds))
    }
}

/// `15s`, `2m`, `500ms`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "must look like 500ms, 15s, 2m or 1h")?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        "h" => Duration::from_secs(number.saturating_mul(60 * 60)),
        _ => return Err("must look like 500ms, 15s, 2m or 1h".to_owned()),
    };
    if duration.is_zero() || duration > Duration::from_secs(24 * 60 * 60) {
        return Err("must be more than nothing, and at most 24h".to_owned());
    }
    Ok(duration)
}

/// More than nothing, and a number.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "must be a number")?;
    if rate > 0.0 && rate <= 1e6 { Ok(rate) } else { Err("must be more than 0".to_owned()) }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OperateOptions {
    /// The running system
    #[arg(
        long,
        global = true,
        env = "TURNSTILE_TARGET",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8088",
        value_name = "URL"
    )]
    pub(crate) target: String,

    /// Only this context: homemovie.app
    #[arg(
        long,
        global = true,
        default_value = "",
        hide_default_value = true,
        value_name = "CONTEXT"
    )]
    pub(crate) context: String,

    /// The admin's email; the password comes from TURNSTILE_ADMIN_PASSWORD
    #[arg(long, global = true, default_value = "admin@localhost", value_name = "EMAIL")]
    pub(crate) admin: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct EventsOptions {
    #[command(subcommand)]
    pub(crate) action: EventsAction,

    #[command(flatten)]
    pub(crate) at: OperateOptions,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum EventsAction {
    /// List the parked events
    Parked,
    /// Remove old events from the log of --context: those that every policy that reads it has behind it
    ///
    /// The last event about each subject stays. Afterwards the log cannot be read from its start: new policies that
    /// want to, and views that are made anew, are refused. What is removed is only to be had again from a backup.
    Trim {
        /// Keep what is not older than so many days
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=18_000))]
        keep_days: u32,
        /// A policy that will never read this log again: nothing is kept for it
        #[arg(long, value_name = "POLICY")]
        forget: Vec<String>,
        /// Remove nothing: only say who reads the log, and who holds up what
        #[arg(long)]
        dry_run: bool,
    },
    /// Hand the parked events of a policy to it again; what fails again stays parked
    Replay {
        /// The policy: homemovie.movie/whenever_movie_picked
        policy: String,
        /// Only the events of this subject: movieApplications/...
        #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
        subject: String,
    },
}

#[derive(Debug, Clone, Args)]
#[command(after_help = BACKUP_HELP)]
pub(crate) struct BackupOptions {
    /// What to call it: before-upgrade. Small letters, digits and hyphens
    #[arg(value_parser = backup_name)]
    pub(crate) name: String,

    /// The running system
    #[arg(
        long,
        env = "TURNSTILE_TARGET",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8088",
        value_name = "URL"
    )]
    pub(crate) target: String,

    /// The admin's email; the password comes from TURNSTILE_ADMIN_PASSWORD
    #[arg(long, default_value = "admin@localhost", value_name = "EMAIL")]
    pub(crate) admin: String,

    /// The data folder of a system that does not run, instead of a running one
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

const BACKUP_HELP: &str = "\
The backup is a folder, backups/NAME in the data folder: copy it to wherever
backups are kept. It holds every account, order, payment and signing key.";

#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreOptions {
    /// The folder of the backup: data/backups/before-upgrade
    pub(crate) backup: PathBuf,

    /// Folder to restore into [env: TURNSTILE_DATA] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Put aside the data that is there, into a folder beside it
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AdminOptions {
    #[command(subcommand)]
    pub(crate) action: AdminAction,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AdminAction {
    /// Give an account a new password, from TURNSTILE_ADMIN_PASSWORD or random; its sign-ins end
    ResetPassword {
        /// The account's email: admin@localhost
        email: String,

        /// Folder with all data [env: TURNSTILE_DATA] [default: ./data]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

/// It becomes the name of a folder.
fn backup_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = (1..=64).contains(&text.len()) && text.bytes().all(plain);
    good.then(|| text.to_owned())
        .ok_or_else(|| "must have 1 to 64 small letters, digits and hyphens".to_owned())
}

impl Cli {
    /// What is to be done; `up` unless said.
    pub(crate) fn command(&self) -> Command {
        self.command.clone().unwrap_or_else(|| Command::Up(self.up.clone()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "15", "s", "-1s", "1.5s", "0s", "25h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn up_is_the_default() {
        let cli = Cli::parse_from(["turnstile", "--data", "/tmp/x", "--empty"]);
        let Command::Up(UpCommand { options, processes }) = cli.command() else {
            panic!("{:?}", cli.command())
        };
        assert!(options.empty && options.data == Some("/tmp/x".into()) && !processes);
    }
}

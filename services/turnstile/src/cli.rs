//! The command line: its help is the first documentation anybody reads.

#![expect(clippy::doc_markdown, reason = "these comments are the help text")]

use std::net::SocketAddr;
use std::path::PathBuf;

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
    up: UpOptions,

    /// A file with settings, in TOML. Default: turnstile.toml, if there is one here.
    #[arg(long, global = true, env = "TURNSTILE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const FIRST_STEPS: &str = "\
First steps:
  turnstile                       bring everything up; the first start prints the admin's password once
  turnstile demo homemovie        play the film purchase against a private system, and see every step
  turnstile demo outerpark        the same for the musical reservation
  turnstile check-config          show every setting, its value, and where it comes from

Every setting is an environment variable TURNSTILE_...; a flag goes before it, a file after it.";

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Bring every system up in this process, and serve until ctrl-c
    Up(UpOptions),
    /// Play a system's demo script as a real client, and print every step with what it saw
    Demo(DemoOptions),
    /// Look at events that a policy could not handle, or hand them to it again
    Events(EventsOptions),
    /// List orders that are neither registered nor ended: waiting for a callee, or being undone
    Intents(OperateOptions),
    /// Check the settings, and show each with its value and where it comes from
    CheckConfig,
}

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
    #[arg(long, env = "TURNSTILE_TARGET", value_name = "URL")]
    pub(crate) target: Option<String>,

    /// How long the last step, the load on a slow payment, takes; 0 leaves it out
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) seconds: u64,

    /// How many users the last step has
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) users: usize,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OperateOptions {
    /// The running system
    #[arg(
        long,
        global = true,
        env = "TURNSTILE_TARGET",
        default_value = "http://127.0.0.1:8088",
        value_name = "URL"
    )]
    pub(crate) target: String,

    /// Only this context: homemovie.app
    #[arg(long, global = true, default_value = "", value_name = "CONTEXT")]
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
    /// Hand the parked events of a policy to it again; what fails again stays parked
    Replay {
        /// The policy: homemovie.movie/whenever_movie_picked
        policy: String,
        /// Only the events of this subject: movieApplications/...
        #[arg(long, default_value = "", value_name = "NAME")]
        subject: String,
    },
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
    fn up_is_the_default() {
        let cli = Cli::parse_from(["turnstile", "--data", "/tmp/x", "--empty"]);
        let Command::Up(options) = cli.command() else { panic!("{:?}", cli.command()) };
        assert!(options.empty && options.data == Some("/tmp/x".into()));
    }
}

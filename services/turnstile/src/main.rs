//! Turnstile: booking and purchase systems on one gRPC mesh, in one program.

mod backup;
mod cli;
mod client;
mod demo;
mod load;
mod migrate;
mod operate;
mod processes;
mod serve;
mod settings;
mod system;
mod up;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;

use crate::cli::{AdminAction, Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command ends with: nothing more to say, or why it failed.
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let begun = Instant::now();
    match run(Cli::parse(), begun).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<tonic::Status>() {
                Some(status) => {
                    eprintln!("turnstile: refused: {} ({:?})", status.message(), status.code())
                }
                None => eprintln!("turnstile: {error}"),
            }
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, begun: Instant) -> Outcome {
    match cli.command() {
        Command::Up(up) => {
            let config = settings::read(&cli, Some(&up.options))?;
            match up.processes {
                true => processes::up(&cli, config, begun).await,
                false => up::up(config, begun).await,
            }
        }
        Command::Serve(options) => serve::serve(&cli, options, begun).await,
        Command::Front(options) => serve::front(&cli, options, begun).await,
        Command::Demo(options) => demo::play(&cli, options).await,
        Command::Load(options) => load::run(&cli, options).await,
        Command::Events(options) => operate::events(options).await,
        Command::Intents(options) => operate::intents(options).await,
        Command::Policies(options) => operate::policies(options).await,
        Command::Edges(options) => operate::edges(options).await,
        Command::Backup(options) => backup::back_up(options).await,
        Command::Restore(options) => backup::restore(&cli, options),
        Command::Migrate(options) => migrate::migrate(&cli, options).await,
        Command::Admin(options) => match options.action.clone() {
            AdminAction::ResetPassword { email, data } => {
                backup::reset_password(&cli, &email, data).await
            }
        },
        Command::CheckConfig => settings::show(&cli),
    }
}

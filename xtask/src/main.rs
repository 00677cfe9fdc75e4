//! What cargo has no command for: `cargo xtask --help`.

mod programs;
mod report;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, io};

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;

use crate::programs::{Server, output, run, run_within};
use crate::report::Report;

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const BASELINE: &str = "baseline.binpb";
const BASELINE_LOG: &str = "proto/BASELINE.md";
const FOREIGN_CLIENT: &str = "contract-tests/python/foreign_client.py";
const OVERSELL_PROOF: &str = "no_seat_is_sold_twice_whatever_dies_when";
/// Of the server that the foreign client and the demo call; it lives as long as they do.
const ADMIN_PASSWORD: &str = "only-for-this-run";

/// Checks and upkeep of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Run everything that CI checks
    ///
    /// Formatting, clippy, the contracts (buf), the tests, and a server that a client in another language and the
    /// demo buy films from. A step that fails does not stop the others, only those that need it; the status is 1 then.
    ///
    /// What is not in the workspace is installed when it is missing: buf and the Python packages under the user's
    /// cache folder (turnstile/tools), npm and Python from Debian (as root).
    Test {
        /// Only what needs nothing but cargo: formatting, clippy and the tests
        #[arg(long)]
        quick: bool,
    },
    /// Make the contracts as they are now the ones that must not be broken
    ///
    /// Rewrites proto/baseline.binpb and adds the date and the reason to proto/BASELINE.md.
    Baseline {
        /// Why: a release, or why clients may be broken
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        reason: String,
    },
}

fn main() -> ExitCode {
    let task = Task::parse();
    let done = enter_workspace().and_then(|()| match task {
        Task::Test { quick } => Ok(test(quick)),
        Task::Baseline { reason } => set_baseline(&reason).map(|()| true),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every command below runs from the root of the workspace, wherever this was called.
fn enter_workspace() -> Result {
    // As cargo sets it when this runs: the path at build time may be another checkout's, sharing the target folder.
    let package = programs::variable("CARGO_MANIFEST_DIR").ok_or("run this as `cargo xtask`")?;
    let root = Path::new(&package).parent().ok_or("xtask lies in no workspace")?;
    Ok(env::set_current_dir(root)?)
}

/// Whether everything is as it should be.
fn test(quick: bool) -> bool {
    let mut report = Report::default();
    report.step("format", || run(cargo("fmt").args(["--all", "--check"])));
    report.step("clippy", || {
        run(cargo("clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    if quick {
        report.step("tests", || run(cargo("test").args(["--workspace", "--no-fail-fast"])));
    } else {
        check_contracts(&mut report);
        // With the features that the tests are built with: what other features unify to is built twice.
        let built =
            report.step("build", || run(cargo("build").args(["--workspace", "--all-targets"])));
        let python = report.step("python", programs::python);
        report.then(built.zip(python.clone()), "tests", |((), python)| {
            // A real mail server for the tests of notice.
            let mut tests = cargo("test");
            tests.env("TURNSTILE_TEST_PYTHON", python);
            run(tests.args(["--workspace", "--no-fail-fast", "--", "--skip", OVERSELL_PROOF]))
        });
        // Alone, since it races, and aloud: it prints seats, sales, refunds, kills and rate.
        report.then(built, "oversell proof", |()| {
            run(cargo("test").args(["--workspace", "--test", "oversell", "--", "--nocapture"]))
        });
        serve_strangers(&mut report, built, python);
    }
    report.finish()
}

fn check_contracts(report: &mut Report) {
    let buf = report.step("buf", programs::buf);
    report.then(buf.as_ref(), "contracts: lint", |buf| run(in_proto(buf).arg("lint")));
    report.then(buf.as_ref(), "contracts: format", |buf| {
        run(in_proto(buf).args(["format", "-d", "--exit-code"]))
    });
    report.then(buf.as_ref(), "contracts: breaking", |buf| {
        run(in_proto(buf).args(["breaking", "--against", BASELINE]))
    });
}

/// One server, called from outside: by a program that knows nothing of this workspace, and by our own demo.
fn serve_strangers(report: &mut Report, built: Option<()>, python: Option<PathBuf>) {
    let server = report.then(built, "start", |()| Server::start(&turnstile()?, ADMIN_PASSWORD));
    report.then(server.as_ref().zip(python), "foreign client", |(server, python)| {
        let mut client = Command::new(python);
        client.arg(FOREIGN_CLIENT).arg(server.address.to_string());
        run_within(Duration::from_secs(180), &mut client)
    });
    for (step, system) in [("demo homemovie", "homemovie"), ("demo outerpark", "outerpark")] {
        report.then(server.as_ref(), step, |server| {
            let mut demo = Command::new(turnstile()?);
            demo.args(["demo", system, "--target"]).arg(format!("http://{}", server.address));
            demo.env("TURNSTILE_ADMIN_PASSWORD", ADMIN_PASSWORD);
            run_within(Duration::from_secs(300), &mut demo)
        });
    }
    report.then(server, "stop", Server::stop);
}

fn set_baseline(reason: &str) -> Result {
    let buf = programs::buf()?;
    run(in_proto(&buf).args(["build", "--exclude-source-info", "-o", BASELINE]))?;
    let today = output(Command::new("date").args(["-u", "+%F"]))?;
    add_line(BASELINE_LOG, &format!("- {today}: {reason}"))
        .map_err(|error| format!("{BASELINE_LOG}: {error}"))?;
    eprintln!("proto/{BASELINE} holds the contracts as they are now");
    Ok(())
}

fn add_line(path: &str, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    writeln!(file, "{line}")
}

fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(subcommand);
    cargo
}

fn in_proto(buf: &Path) -> Command {
    let mut command = Command::new(buf);
    command.current_dir("proto");
    command
}

/// The product, which cargo builds into the folder of this program.
fn turnstile() -> Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("turnstile"))
}

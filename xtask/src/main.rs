//! What cargo has no command for: `cargo xtask --help`.

mod chaos;
mod hooks;
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
const EVENT_RACE: &str = "i09_sixteen_writers_whose_sessions_die";
/// In the names of tests that look at files, or work on them whatever the others do.
const ON_FILES: [&str; 10] = [
    "on_files",
    "backup::",
    // They have a server of their own, which they hurt.
    "postgres::",
    "f_01_",
    "t_08_",
    "t_20_",
    "t_40_",
    "g11_what_is_",
    "g11_whatever_fails",
    "no_password_and_no_token_is_in_a_file",
];
/// How the tests of the kill matrix begin.
const KILL_MATRIX: &str = "f_01_wherever_";
/// With the hundred that are always run they find in 95 of 100 changes what one seed in two hundred shows.
const NEW_SEEDS: &str = "500";
/// Of the server that the foreign client and the demo call; it lives as long as they do.
const ADMIN_PASSWORD: &str = "only-for-this-run";

/// Checks and upkeep of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Run everything that CI checks
    ///
    /// Formatting, clippy, the contracts (buf), the tests, a server that a client in another language and the
    /// demo buy films from, and that the program has none of the hooks that tests use. A step that fails does not stop the others, only those that need it; the status is 1 then.
    ///
    /// What is not in the workspace is installed when it is missing: buf and the Python packages under the user's
    /// cache folder (turnstile/tools), npm, Python and PostgreSQL from Debian (as root).
    Test {
        /// Only what needs nothing but cargo: formatting, clippy and the tests
        #[arg(long)]
        quick: bool,
    },
    /// Let everything go wrong for as long as you like
    ///
    /// A hundred seeds of the simulation, then one of the tests that hurt real processes, and again; a report of it
    /// all in HTML. With a seed and no time: that one, with all that happens in it.
    Chaos {
        /// For how long, once everything is built; what was begun then is finished
        #[arg(long, required_unless_present = "seed")]
        minutes: Option<f64>,
        /// The first seed; by default another one each time
        #[arg(long)]
        seed: Option<u64>,
        /// Where the report is put
        #[arg(long, default_value = "target/chaos")]
        folder: PathBuf,
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
        Task::Chaos { minutes: None, seed, .. } => chaos::replay(seed.unwrap_or(1)),
        Task::Chaos { minutes: Some(minutes), seed, folder } => {
            chaos::chaos(Duration::try_from_secs_f64(minutes * 60.0)?, seed, &folder)
        }
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
            tests.args(["--workspace", "--no-fail-fast", "--", "--skip", OVERSELL_PROOF]);
            run(tests.args(["--skip", EVENT_RACE, "--skip", KILL_MATRIX]))
        });
        test_on_postgres(&mut report, built);
        // Alone, since it races, and aloud: it prints seats, sales, refunds, kills and rate.
        report.then(built, "oversell proof", |()| {
            run(cargo("test")
                .args(["--workspace", "--test", "oversell", "--", "--nocapture"])
                .args(["--test-threads", "1"]))
        });
        // Aloud, too: it prints who died where, and whether all that must hold held.
        report.then(built, "kill matrix", |()| {
            run(cargo("test").args(["--workspace", "--test", "kill_matrix", "--", "--nocapture"]))
        });
        // Alone, too: it has both cores for itself.
        report.step("simulation", simulate);
        serve_strangers(&mut report, built, python);
        // Last: it builds the program anew, without what the tests need.
        report.then(built, "no test hooks", |()| hooks::are_absent(&turnstile()?));
    }
    report.finish()
}

/// Every context's tests and those of what is between them once more, on the other engine; the race alone.
fn test_on_postgres(report: &mut Report, built: Option<()>) {
    let server = report.step("postgres", programs::postgres);
    report.then(built.zip(server.as_ref()), "tests on PostgreSQL", |((), server)| {
        let mut tests = cargo("test");
        tests.env(test_postgres::VARIABLE, server.url());
        tests.args(["--workspace", "--exclude", "turnstile", "--no-fail-fast", "--"]);
        tests.args(["--skip", EVENT_RACE]);
        run(tests.args(ON_FILES.iter().flat_map(|name| ["--skip", name])))
    });
    report.then(built.zip(server.as_ref()), "event race", |((), _)| {
        let mut race = cargo("test");
        race.args(["--workspace", "--test", "kit", EVENT_RACE, "--", "--nocapture"]);
        run(&mut race)
    });
}

/// Seeds that nobody has run before, since no commit was like this one, and those that are always run.
fn simulate() -> Result {
    let commit = output(Command::new("git").args(["rev-parse", "HEAD"]))?;
    let from = u64::from_str_radix(commit.get(..10).unwrap_or_default(), 16)?;
    let mut seeds = chaos::simulation();
    seeds.args(["--", "--nocapture"]);
    run(seeds.env("SIMULATION_FROM", from.to_string()).env("SIMULATION_SEEDS", NEW_SEEDS))
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

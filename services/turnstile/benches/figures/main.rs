//! First figures of the whole system, each beside a baseline of the same run: `cargo bench -p turnstile`.
//!
//! - time to ready and resident memory when idle, beside a bare tonic server;
//! - film orders per second, from the pick to the row in my page, beside calls per second to the bare server and beside
//!   plain SQLite writing the rows of one order in one durable transaction at a time;
//! - reservations per second on one hot musical, beside plain SQLite writing the rows of one: the budget is a ratio of
//!   0.5, 4,000 where plain SQLite comes to 8,000;
//! - all of that of a system with many stored orders of both kinds, beside one with a thousand.
//!
//! Orders are measured and their baseline behind them, `FIGURES_ROUNDS` (3) times: disks and neighbours change within
//! seconds. Each round is told, and the one with the middle ratio.
//!
//! `FIGURES_SECONDS` (10) and `FIGURES_USERS` (64) set the load, `FIGURES_STORED` (100000) how many orders are many; 0
//! leaves that out; `FIGURES_PROGRAM` names another program than the one that is built for this. A million are stored
//! within four minutes and take 14 GB of the folder for temporary files. One machine runs everything, the load included.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "a program for the command line"
)]

mod stored;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Tells this program to be the bare server.
const BARE: &str = "--bare";
const PASSWORD: &str = "a password for figures";

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Anything<()> {
    if std::env::args().any(|argument| argument == BARE) {
        return bare_server().await;
    }
    let seconds = setting("FIGURES_SECONDS", 10);
    let users = setting("FIGURES_USERS", 64);
    let folder = tempfile::tempdir()?;

    let bare = Server::start(Command::new(std::env::current_exe()?).arg(BARE))?;
    let ours = Server::start(&mut turnstile(folder.path()))?;
    println!("{:<50}{:>12}{:>12}{:>8}", "", "turnstile", "baseline", "ratio");
    row(
        "ready after, ms (bare tonic server)",
        ours.ready.as_secs_f64() * 1e3,
        bare.ready.as_secs_f64() * 1e3,
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    row("resident when idle, MB (bare tonic server)", ours.memory_mb()?, bare.memory_mb()?);

    let time = Duration::from_secs(seconds);
    let echoes = echo(&bare, users, time).await?;
    let cpu = ours.cpu_seconds()?;
    let orders = Rounds::of(&ours, &FILMS, users, time, folder.path())?;
    let cpu = ours.cpu_seconds()? - cpu;
    orders.tell(&FILMS);
    let middle = orders.middle();
    row("film orders/s, pick to my page (bare calls/s)", middle.ours, echoes);
    row("server CPU of an order, sign-ups included, ms", cpu * 1e3 / orders.completed, f64::NAN);
    Rounds::of(&ours, &SEATS, users, time, folder.path())?.tell(&SEATS);
    row("resident after the load, MB (bare tonic server)", ours.memory_mb()?, bare.memory_mb()?);
    drop(ours);

    let stored = setting("FIGURES_STORED", 100_000);
    if stored > 0 {
        let few = stored::measure(FEW, users, time)?;
        let many = stored::measure(stored, users, time)?;
        println!("with {stored} orders of each kind stored, beside {FEW}:");
        row("ready after, ms", many.ready.as_secs_f64() * 1e3, few.ready.as_secs_f64() * 1e3);
        row("film orders/s, pick to my page", many.films_per_s, few.films_per_s);
        row("reservations/s, one hot musical", many.seats_per_s, few.seats_per_s);
    }
    Ok(())
}

/// So many stored orders are few.
const FEW: u64 = 1000;

/// What is ordered, and what plain SQLite has to write for it.
struct Orders {
    scenario: &'static str,
    what: &'static str,
    rows: u32,
}

/// An intent stored and settled, an application, a payment stored and approved, a charge, a purchase, a row of my page
/// and its four steps, four events.
const FILMS: Orders = Orders {
    scenario: "homemovie",
    what: "film orders/s, pick to my page (plain rows/s)",
    rows: 16,
};
/// An intent stored and settled, a hold, the musical, a reservation, two events.
const SEATS: Orders = Orders {
    scenario: "outerpark",
    what: "reservations/s, one hot musical (plain rows/s)",
    rows: 7,
};

/// Ours, and the baseline that was measured behind it.
#[derive(Clone, Copy)]
struct Pair {
    ours: f64,
    plain: f64,
}

impl Pair {
    fn ratio(self) -> f64 {
        self.ours / self.plain
    }
}

/// The same measured again and again, each time beside its baseline: the lowest ratio first.
struct Rounds {
    pairs: Vec<Pair>,
    completed: f64,
}

impl Rounds {
    fn of(
        ours: &Server,
        orders: &Orders,
        users: u64,
        time: Duration,
        folder: &Path,
    ) -> Anything<Self> {
        let mut rounds = Self { pairs: Vec::new(), completed: 0.0 };
        for round in 1..=setting("FIGURES_ROUNDS", 3).max(1) {
            let load = Load::of(ours, orders.scenario, users, time)?;
            let file = folder.join(format!("plain-{}-{round}.sqlite", orders.scenario));
            let plain = plain_rows(&file, orders.rows, time / 2)?;
            println!("{}", load.line);
            rounds.completed += load.completed;
            rounds.pairs.push(Pair { ours: load.rate_per_s, plain });
        }
        rounds.pairs.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        Ok(rounds)
    }

    /// The pair with the middle ratio.
    fn middle(&self) -> Pair {
        self.pairs[self.pairs.len() / 2]
    }

    fn tell(&self, orders: &Orders) {
        for pair in &self.pairs {
            row(orders.what, pair.ours, pair.plain);
        }
        row("  the round in the middle", self.middle().ours, self.middle().plain);
    }
}

/// What is measured. Cargo builds it for a bench with the faults that its tests need, which cost every call two locks.
fn program() -> String {
    std::env::var("FIGURES_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_turnstile").to_owned())
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn row(what: &str, ours: f64, baseline: f64) {
    println!("{what:<50}{ours:>12.1}{baseline:>12.1}{:>8.2}", ours / baseline);
}

/// Every system in one process, its data in this folder.
fn turnstile(data: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data).envs([
        ("TURNSTILE_LOG", "warn"),
        ("TURNSTILE_ADMIN_LISTEN", "off"),
        ("TURNSTILE_ADMIN_PASSWORD", PASSWORD),
        ("TURNSTILE_MAX_CALLS_PER_ACCOUNT", "0"),
        ("TURNSTILE_MAX_CALLS_PER_ADDRESS", "0"),
        ("TURNSTILE_RESERVATION_MAX_HELD", "0"),
        ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "0"),
        ("TURNSTILE_IDENTITY_SIGN_UPS_PER_ADDRESS", "0"),
    ]);
    command
}

/// Health checks and nothing else.
async fn bare_server() -> Anything<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (_, health) = tonic_health::server::health_reporter();
    eprintln!("ready in 0 ms on {address}");
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming).await?;
    Ok(())
}

/// A server in a process of its own.
struct Server {
    child: Child,
    address: String,
    /// From the start of the process to its line.
    ready: Duration,
}

impl Server {
    fn start(command: &mut Command) -> Anything<Self> {
        let begun = Instant::now();
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        let address = loop {
            let line = lines.next().ok_or("it ended before it was ready")??;
            if let Some((_, address)) = line.split_once(" ms on ") {
                break address.to_owned();
            }
        };
        let ready = begun.elapsed();
        std::thread::spawn(move || {
            lines.for_each(|line| eprintln!("{}", line.unwrap_or_default()))
        });
        Ok(Self { child, address, ready })
    }

    async fn connect(&self) -> Anything<Channel> {
        Ok(tonic::transport::Endpoint::from_shared(format!("http://{}", self.address))?
            .connect()
            .await?)
    }

    /// As an operator does it: what was begun is finished.
    fn stop(mut self) -> Anything<()> {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(process.ok_or("no process")?, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("it ended badly: {status}").into()) }
    }

    fn memory_mb(&self) -> Anything<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse::<f64>()? / 1024.0)
    }

    fn cpu_seconds(&self) -> Anything<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<_> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // In ticks of a hundredth of a second.
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn echo(bare: &Server, users: u64, time: Duration) -> Anything<f64> {
    let channel = bare.connect().await?;
    let count = AtomicU64::new(0);
    let begun = Instant::now();
    join_all((0..users).map(|_| async {
        let mut client = HealthClient::new(channel.clone());
        while begun.elapsed() < time {
            if client.check(HealthCheckRequest::default()).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }))
    .await;
    Ok(count.into_inner() as f64 / begun.elapsed().as_secs_f64())
}

diesel::table! {
    fact (id) {
        id -> BigInt,
        name -> Text,
        state -> Text,
        data -> Binary,
    }
}

/// So many rows at a time in one durable transaction, by one thread.
fn plain_rows(file: &Path, rows: u32, time: Duration) -> Anything<f64> {
    let mut conn = SqliteConnection::establish(&file.to_string_lossy())?;
    conn.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    conn.batch_execute(
        "CREATE TABLE fact (id INTEGER PRIMARY KEY, name TEXT, state TEXT, data BLOB)",
    )?;
    let row = (
        fact::name.eq("movieApplications/01a1fc0b-34d2-7068-8d37-7675c7d06d61"),
        fact::state.eq("MOVIE_PICKED"),
        fact::data.eq([7_u8; 150].as_slice()),
    );
    let begun = Instant::now();
    let mut transactions = 0_u32;
    while begun.elapsed() < time {
        conn.immediate_transaction(|conn| {
            let insert = || diesel::insert_into(fact::table).values(row).execute(conn).map(drop);
            std::iter::repeat_with(insert).take(rows as usize).collect::<QueryResult<()>>()
        })?;
        transactions += 1;
    }
    Ok(f64::from(transactions) / begun.elapsed().as_secs_f64())
}

/// What `turnstile load` says of a scenario, and the line it said it with.
struct Load {
    completed: f64,
    rate_per_s: f64,
    line: String,
}

impl Load {
    /// Puts our server under load, from a process of its own.
    fn of(ours: &Server, scenario: &str, users: u64, time: Duration) -> Anything<Self> {
        let output = Command::new(program())
            .args(["load", scenario, "--json", "--users", &users.to_string()])
            .args(["--duration", &format!("{}s", time.as_secs())])
            .args(["--target", &format!("http://{}", ours.address)])
            .env("TURNSTILE_ADMIN_PASSWORD", PASSWORD)
            .stderr(Stdio::inherit())
            .output()?;
        let line = String::from_utf8(output.stdout)?.trim().to_owned();
        let figures: serde_json::Value = serde_json::from_str(&line)?;
        let figure = |name: &str| figures[name].as_f64().ok_or_else(|| format!("no {name}"));
        Ok(Self { completed: figure("completed")?, rate_per_s: figure("rate_per_s")?, line })
    }
}

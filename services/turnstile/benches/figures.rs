//! First figures of the whole system, each beside a baseline of the same run: `cargo bench -p turnstile`.
//!
//! - time to ready and resident memory when idle, beside a bare tonic server;
//! - film orders per second, from the pick to the row in my page, beside calls per second to the bare server and beside
//!   plain SQLite writing the rows of one order in one durable transaction at a time;
//! - reservations per second on one hot musical, beside plain SQLite writing the rows of one.
//!
//! `FIGURES_SECONDS` (10) and `FIGURES_USERS` (64) set the load. One machine runs everything, the load included.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program for the command line"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use futures::future::join_all;
use mesh_testing::request_id;
use proto::common::v1::Money;
use proto::homemovie::app::v1::PickMovieRequest;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::identity::v1::{SignInRequest, SignUpRequest};
use proto::mypage::v1::ListMyOrdersRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::outerpark::musical::v1::RegisterMusicalRequest;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1::ReserveRequest;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use tonic::Request;
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
    let mut ours = Command::new(env!("CARGO_BIN_EXE_turnstile"));
    ours.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path()).envs([
        ("TURNSTILE_LOG", "warn"),
        ("TURNSTILE_ADMIN_PASSWORD", PASSWORD),
        ("TURNSTILE_IDENTITY_TRIES_PER_ADDRESS", "0"),
    ]);
    let ours = Server::start(&mut ours)?;
    println!("{:<44}{:>12}{:>14}", "", "turnstile", "baseline");
    row(
        "ready after, ms (bare tonic server)",
        ours.ready.as_secs_f64() * 1e3,
        bare.ready.as_secs_f64() * 1e3,
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    row("resident when idle, MB (bare tonic server)", ours.memory_mb()?, bare.memory_mb()?);

    let time = Duration::from_secs(seconds);
    let tokens = sign_up(&ours, users).await?;
    let echoes = echo(&bare, users, time).await?;
    let cpu = ours.cpu_seconds()?;
    let orders = film_orders(&ours, &tokens, time).await?;
    let cpu = ours.cpu_seconds()? - cpu;
    let plain = plain_rows(&folder.path().join("plain-orders.sqlite"), ROWS_OF_AN_ORDER, time / 2)?;
    row("film orders/s, pick to my page (bare calls/s)", orders.rate_per_s, echoes);
    row("film orders/s, pick to my page (plain rows/s)", orders.rate_per_s, plain);
    row("server CPU of an order, ms", cpu * 1e3 / orders.completed as f64, f64::NAN);
    let seats = seat_reservations(&ours, &tokens, time).await?;
    let plain =
        plain_rows(&folder.path().join("plain-seats.sqlite"), ROWS_OF_A_RESERVATION, time / 2)?;
    row("reservations/s, one hot musical (plain rows/s)", seats.rate_per_s, plain);
    row("resident after the load, MB (bare tonic server)", ours.memory_mb()?, bare.memory_mb()?);
    orders.print();
    seats.print();
    Ok(())
}

/// An intent stored and settled, an application, a payment stored and approved, a charge, a purchase, a row of my page
/// and its four steps, four events.
const ROWS_OF_AN_ORDER: u32 = 16;
/// An intent stored and settled, a hold, the musical, a reservation, two events.
const ROWS_OF_A_RESERVATION: u32 = 7;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn row(what: &str, ours: f64, baseline: f64) {
    println!("{what:<48}{ours:>8.1}{baseline:>14.1}");
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

/// So many rows at a time in one durable transaction, by one thread.
fn plain_rows(file: &Path, rows: u32, time: Duration) -> Anything<f64> {
    let mut conn = SqliteConnection::establish(&file.to_string_lossy())?;
    conn.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    conn.batch_execute(
        "CREATE TABLE fact (id INTEGER PRIMARY KEY, name TEXT, state TEXT, data BLOB)",
    )?;
    let insert = diesel::sql_query(
        "INSERT INTO fact (name, state, data) VALUES \
         ('movieApplications/01a1fc0b-34d2-7068-8d37-7675c7d06d61', 'MOVIE_PICKED', randomblob(150))",
    );
    let begun = Instant::now();
    let mut transactions = 0_u32;
    while begun.elapsed() < time {
        conn.immediate_transaction(|conn| {
            (0..rows).try_for_each(|_| insert.clone().execute(conn).map(drop))
        })?;
        transactions += 1;
    }
    Ok(f64::from(transactions) / begun.elapsed().as_secs_f64())
}

/// What came of a load.
struct Load {
    scenario: &'static str,
    users: usize,
    duration_s: f64,
    completed: usize,
    rate_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    fallbacks: u64,
    errors: u64,
}

impl Load {
    fn print(&self) {
        let Self { scenario, users, duration_s, completed, rate_per_s, .. } = self;
        let Self { p50_ms, p99_ms, max_ms, fallbacks, errors, .. } = self;
        println!(
            "{{\"scenario\":\"{scenario}\",\"users\":{users},\"duration_s\":{duration_s:.1},\"completed\":{completed},\
             \"rate_per_s\":{rate_per_s:.1},\"p50_ms\":{p50_ms:.2},\"p99_ms\":{p99_ms:.2},\"max_ms\":{max_ms:.2},\
             \"fallbacks\":{fallbacks},\"errors\":{errors}}}"
        );
    }
}

/// Every user does it again and again; `done` says whether what a user completed can be seen, and holds the clock.
async fn load<F, W, D, V>(
    scenario: &'static str,
    tokens: &[String],
    time: Duration,
    act: F,
    done: D,
) -> Anything<Load>
where
    F: Fn(String) -> W,
    W: Future<Output = Result<(), tonic::Status>>,
    D: Fn(String, usize) -> V,
    V: Future<Output = Anything<()>>,
{
    let (fallbacks, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let times = join_all(tokens.iter().map(|token| async {
        let mut times = Vec::new();
        while begun.elapsed() < time {
            let sent = Instant::now();
            match act(token.clone()).await {
                Ok(()) => times.push(sent.elapsed().as_secs_f64() * 1e3),
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    fallbacks.fetch_add(1, Ordering::Relaxed);
                }
                Err(status) => {
                    eprintln!("{status}");
                    errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        times
    }))
    .await;
    for (token, times) in tokens.iter().zip(&times) {
        done(token.clone(), times.len()).await?;
    }
    let duration_s = begun.elapsed().as_secs_f64();
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    Ok(Load {
        scenario,
        users: tokens.len(),
        duration_s,
        completed: times.len(),
        rate_per_s: times.len() as f64 / duration_s,
        p50_ms: at(50),
        p99_ms: at(99),
        max_ms: times.last().copied().unwrap_or_default(),
        fallbacks: fallbacks.into_inner(),
        errors: errors.into_inner(),
    })
}

/// Completed: the customer sees it in my page as ordered.
async fn film_orders(ours: &Server, tokens: &[String], time: Duration) -> Anything<Load> {
    let channel = ours.connect().await?;
    let movies =
        MovieServiceClient::new(channel.clone()).list_movies(ListMoviesRequest::default()).await?;
    let movie = movies.into_inner().movies.first().ok_or("no film")?.name.clone();
    let pick = |token: String| {
        let mut client = MovieApplicationServiceClient::new(channel.clone());
        let request = PickMovieRequest { request_id: request_id(), movie: movie.clone() };
        async move { client.pick_movie(with_token(&token, request)).await.map(drop) }
    };
    let seen = |token: String, count: usize| {
        let channel = channel.clone();
        async move {
            while ordered(&channel, &token).await? < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
    };
    load("homemovie", tokens, time, pick, seen).await
}

/// Completed: `SEATS_RESERVED` is answered.
async fn seat_reservations(ours: &Server, tokens: &[String], time: Duration) -> Anything<Load> {
    let channel = ours.connect().await?;
    let admin = sign_in(&channel, "admin@localhost", PASSWORD).await?;
    let request = RegisterMusicalRequest {
        request_id: request_id(),
        musical_number: 1,
        title: "Frozen".to_owned(),
        performance_time: Some((SystemTime::now() + Duration::from_secs(86_400)).into()),
        price_per_seat: Some(Money { currency_code: "KRW".to_owned(), minor_units: 50_000 }),
        total_seats: 100_000,
        ..RegisterMusicalRequest::default()
    };
    let mut musicals = MusicalServiceClient::new(channel.clone());
    let musical = musicals.register_musical(with_token(&admin, request)).await?.into_inner();
    let musical = musical.musical.ok_or("no musical")?.name;
    let reserve = |token: String| {
        let mut client = ReservationServiceClient::new(channel.clone());
        let request =
            ReserveRequest { request_id: request_id(), musical: musical.clone(), seats: 1 };
        async move { client.reserve(with_token(&token, request)).await.map(drop) }
    };
    // The desk has not heard of it at once.
    while reserve(admin.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load("outerpark", tokens, time, reserve, |_, _| async { Ok(()) }).await
}

async fn sign_up(ours: &Server, users: u64) -> Anything<Vec<String>> {
    let channel = ours.connect().await?;
    let mut tokens = Vec::new();
    for user in 0..users {
        let (email, password) = (format!("{user}@example.org"), "12345678".to_owned());
        let request = SignUpRequest {
            email: email.clone(),
            password: password.clone(),
            ..SignUpRequest::default()
        };
        IdentityServiceClient::new(channel.clone()).sign_up(request).await?;
        tokens.push(sign_in(&channel, &email, &password).await?);
    }
    Ok(tokens)
}

async fn sign_in(channel: &Channel, email: &str, password: &str) -> Anything<String> {
    let request = SignInRequest { email: email.to_owned(), password: password.to_owned() };
    let answer = IdentityServiceClient::new(channel.clone()).sign_in(request).await?.into_inner();
    Ok(answer.tokens.ok_or("no tokens")?.access_token)
}

async fn ordered(channel: &Channel, token: &str) -> Anything<usize> {
    let mut client = MyPageServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let mut request = ListMyOrdersRequest { page_size: 1000, ..ListMyOrdersRequest::default() };
    let mut count = 0;
    loop {
        let page = client.list_my_orders(with_token(token, request.clone())).await?.into_inner();
        count += page.my_orders.iter().filter(|order| order.state == "MOVIE_ORDERED").count();
        if page.next_page_token.is_empty() {
            return Ok(count);
        }
        request.page_token = page.next_page_token;
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(value) = format!("Bearer {token}").parse() {
        request.metadata_mut().insert("authorization", value);
    }
    request
}

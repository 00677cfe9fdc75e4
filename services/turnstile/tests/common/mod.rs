//! The program as a process, and a client of it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

pub mod collector;
pub mod crowd;
pub mod proxy;
pub mod stores;
pub mod system;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_testing::{eventually, request_id};
use proto::common::v1::Money;
use proto::homemovie::app::v1::PickMovieRequest;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::identity::v1::{SignInRequest, SignUpRequest};
use proto::outerpark::musical::v1::RegisterMusicalRequest;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1::ReserveRequest;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const PASSWORD: &str = "a password for tests";

pub fn turnstile() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnstile"));
    command.env_clear().env("TURNSTILE_ADMIN_PASSWORD", PASSWORD).kill_on_drop(true);
    // Tests run side by side: who needs the port says so.
    command.env("TURNSTILE_ADMIN_LISTEN", "off");
    command
}

/// A number from the environment, for those who want more than CI has time for.
pub fn setting(name: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a setting of a test alone")]
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub async fn run(command: &mut Command) -> Output {
    timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs")
}

/// A running system.
pub struct Up {
    child: Child,
    /// Everything it said so far; read all the time, so that it can go on.
    said: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    pub address: String,
}

/// The command that brings it up, on a free port.
pub fn up(data: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = turnstile();
    command.envs(settings.iter().copied()).envs(stores::setting_of(data));
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data).stderr(Stdio::piped());
    command
}

impl Up {
    pub async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// With these settings in its environment.
    pub async fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::launch(up(data, settings)).await
    }

    /// Each context in a process of its own.
    pub async fn start_processes(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = up(data, settings);
        command.arg("--processes");
        Self::launch(command).await
    }

    /// The processes of its contexts, by name, as far as they have been said to run.
    pub fn processes(&self) -> BTreeMap<String, u32> {
        let said = self.said();
        let lines = said.lines().filter_map(|line| {
            let (context, rest) = line.strip_prefix('[')?.split_once("] is process ")?;
            Some((context.to_owned(), rest.split(',').next()?.parse().ok()?))
        });
        lines.collect()
    }

    /// As its users start it: with the admin port where it is by default.
    pub async fn start_without_settings(data: &Path) -> Self {
        let mut command = up(data, &[]);
        command.env_remove("TURNSTILE_ADMIN_LISTEN");
        Self::launch(command).await
    }

    pub async fn launch(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                *heard.lock().expect("what it said") += &(line + "\n");
            }
        });
        let address = eventually("it is ready", async || {
            let said = said.lock().expect("what it said").clone();
            let address = word_behind(&said, " ms on ");
            assert!(address.is_some() || !reader.is_finished(), "it ended before: {said}");
            address
        })
        .await;
        Self { child, said, reader, address }
    }

    /// Where its admin port is.
    pub fn admin(&self) -> SocketAddr {
        let said = self.said();
        let address = word_behind(&said, "admin port on ").expect("an admin port");
        address.parse().expect("an address")
    }

    /// Everything it said so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("what it said").clone()
    }

    pub async fn connect(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.expect("an address").connect().await.expect("a connection")
    }

    pub async fn kill(mut self) {
        self.child.kill().await.expect("kill -9");
    }

    /// Waits until it has ended by itself: the signal that ended it.
    pub async fn killed_by(mut self) -> Option<i32> {
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("a status");
        ended.signal()
    }

    /// SIGTERM, then how it ended and all it said.
    pub async fn terminate(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().expect("a process").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill").success());
        let status =
            timeout(Duration::from_secs(30), self.child.wait()).await.expect("it ends in time");
        (&mut self.reader).await.expect("all it said");
        (status.expect("a status").code(), self.said())
    }
}

fn word_behind(said: &str, what: &str) -> Option<String> {
    let (_, rest) = said.split_once(what)?;
    // The line is complete.
    let (line, _) = rest.split_once('\n')?;
    Some(line.split_whitespace().next()?.to_owned())
}

pub fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().expect("a token"));
    request
}

pub async fn sign_in(channel: &Channel, email: &str, password: &str) -> String {
    let request = SignInRequest { email: email.to_owned(), password: password.to_owned() };
    let answer =
        IdentityServiceClient::new(channel.clone()).sign_in(request).await.expect("signed in");
    answer.into_inner().tokens.expect("tokens").access_token
}

pub async fn customer(channel: &Channel, email: &str) -> String {
    let password = "12345678".to_owned();
    let request = SignUpRequest { email: email.to_owned(), password, ..SignUpRequest::default() };
    IdentityServiceClient::new(channel.clone()).sign_up(request).await.expect("signed up");
    sign_in(channel, email, "12345678").await
}

/// A film that is for sale.
pub async fn film(movies: Channel) -> String {
    let movies = MovieServiceClient::new(movies).list_movies(ListMoviesRequest::default()).await;
    movies.expect("films").into_inner().movies.first().expect("a film").name.clone()
}

/// Picks a film, once; the application's name.
pub async fn pick(desk: &Channel, token: &str, movie: &str) -> Result<String, Status> {
    let request = PickMovieRequest { request_id: request_id(), movie: movie.to_owned() };
    let mut desk = MovieApplicationServiceClient::new(desk.clone());
    let answer = desk.pick_movie(with_token(token, request)).await?.into_inner();
    Ok(answer.movie_application.expect("an application").name)
}

/// Reserves a seat, once; the reservation's name.
pub async fn reserve(desk: &Channel, token: &str, musical: &str) -> Result<String, Status> {
    let musical = musical.to_owned();
    let request = ReserveRequest { request_id: request_id(), musical, seats: 1 };
    let mut desk = ReservationServiceClient::new(desk.clone());
    let answer = desk.reserve(with_token(token, request)).await?.into_inner();
    Ok(answer.reservation.expect("a reservation").name)
}

/// Where the system is at the moment: it moves with each kill.
pub type Now = Arc<Mutex<Channel>>;

/// The same request until there is a definite answer: done, or refused.
pub async fn answer<T, F, W>(now: &Now, send: F) -> Result<T, Status>
where
    F: Fn(Channel) -> W,
    W: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        let channel = now.lock().expect("a lock").clone();
        match send(channel).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if status.code() == Code::FailedPrecondition => return Err(status),
            Err(status) => {
                let passing = matches!(
                    status.code(),
                    Code::Unavailable
                        | Code::Aborted
                        | Code::DeadlineExceeded
                        | Code::Unknown
                        | Code::Cancelled
                );
                // What has a source was not said by a server: the connection broke, or was said goodbye to.
                let broke = std::error::Error::source(&status).is_some();
                // A new desk has not heard of the film or the performance yet.
                assert!(
                    passing || broke || status.code() == Code::NotFound,
                    "an answer that nobody planned: {status}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Puts a performance with so many seats on sale.
pub async fn register_musical(now: &Now, admin: &str, seats: i32) -> String {
    let request = RegisterMusicalRequest {
        request_id: request_id(),
        musical_number: 1,
        title: "Frozen".to_owned(),
        performance_time: Some((mesh::now() + Duration::from_secs(86_400)).into()),
        price_per_seat: Some(Money { currency_code: "KRW".to_owned(), minor_units: 50_000 }),
        total_seats: seats,
        ..RegisterMusicalRequest::default()
    };
    let registered = answer(now, |channel| {
        let request = with_token(admin, request.clone());
        async move { MusicalServiceClient::new(channel).register_musical(request).await }
    });
    registered.await.expect("registered").musical.expect("a musical").name
}

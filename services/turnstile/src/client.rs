//! The program as a client of a running system, like any other client.

use std::future::Future;
use std::time::{Duration, Instant};

use mesh_client::SignInError;
pub(crate) use mesh_client::SignedIn;
use proto::common::v1::Money;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::app::v1::{MovieApplication, PickMovieRequest};
use proto::identity::v1::SignUpRequest;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{GetMusicalRequest, Musical, RegisterMusicalRequest};
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::outerpark::reservation::v1::{Reservation, ReserveRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Why the program could not do its part.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Connects to a running system.
pub(crate) async fn connect(target: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(target.to_owned()).map_err(|error| {
        format!("{target} is not an address like http://127.0.0.1:8088: {error}")
    })?;
    endpoint.connect().await.map_err(|error| format!("nothing answers at {target}: {error}").into())
}

/// A new customer, signed in: the account's name and a connection.
pub(crate) async fn new_customer(
    channel: &Channel,
    name: &str,
) -> Result<(String, SignedIn), Failure> {
    let email = format!("{name}-{}@example.org", mesh::uuid());
    let password = mesh::auth::random_text();
    let request = SignUpRequest {
        email: email.clone(),
        password: password.clone(),
        display_name: name.to_owned(),
        language_code: String::new(),
    };
    IdentityServiceClient::new(channel.clone()).sign_up(request).await?;
    sign_in(channel, &email, &password).await
}

/// Signs in: the account's name and a connection. A refusal is told as any other call's.
pub(crate) async fn sign_in(
    channel: &Channel,
    email: &str,
    password: &str,
) -> Result<(String, SignedIn), Failure> {
    SignedIn::sign_in(channel, email, password).await.map_err(|error| match error {
        SignInError::Refused(status) => status.into(),
        error => error.into(),
    })
}

/// The password of the first admin, from the environment.
pub(crate) fn admin_password() -> Result<String, Failure> {
    let mut settings = mesh::config::Settings::default().environment(std::env::vars());
    settings
        .read_optional::<mesh::config::Secret>("TURNSTILE_ADMIN_PASSWORD")
        .map(|secret| secret.reveal().to_owned())
        .ok_or_else(|| "set TURNSTILE_ADMIN_PASSWORD to the admin's password".into())
}

/// A new `request_id`.
pub(crate) fn request_id() -> String {
    mesh::uuid().to_string()
}

/// Picks a film: the application.
pub(crate) async fn pick(customer: &SignedIn, movie: &str) -> Result<MovieApplication, Status> {
    let request = PickMovieRequest { request_id: request_id(), movie: movie.to_owned() };
    let answer = MovieApplicationServiceClient::new(customer.clone()).pick_movie(request).await?;
    answer
        .into_inner()
        .movie_application
        .ok_or_else(|| Status::unknown("an answer without an application"))
}

/// Reserves seats: the reservation.
pub(crate) async fn reserve(
    customer: &SignedIn,
    musical: &str,
    seats: i32,
) -> Result<Reservation, Status> {
    let request = ReserveRequest { request_id: request_id(), musical: musical.to_owned(), seats };
    let answer = ReservationServiceClient::new(customer.clone()).reserve(request).await?;
    answer
        .into_inner()
        .reservation
        .ok_or_else(|| Status::unknown("an answer without a reservation"))
}

/// Puts a performance on sale, as the admin.
pub(crate) async fn register_musical(
    admin: &SignedIn,
    musical_number: i64,
    total_seats: i32,
) -> Result<Musical, Failure> {
    let in_30_days = mesh::now() + Duration::from_secs(30 * 24 * 60 * 60);
    let request = RegisterMusicalRequest {
        request_id: request_id(),
        musical_number,
        title: "Frozen".to_owned(),
        performance_time: Some(in_30_days.into()),
        price_per_seat: Some(Money { currency_code: "KRW".to_owned(), minor_units: 50_000 }),
        total_seats,
        ..RegisterMusicalRequest::default()
    };
    let answer = MusicalServiceClient::new(admin.clone()).register_musical(request).await?;
    answer.into_inner().musical.ok_or_else(|| "an answer without a musical".into())
}

/// How many seats of a performance are free.
pub(crate) async fn seats_left(channel: &Channel, musical: &str) -> Result<i32, Failure> {
    let request = GetMusicalRequest { name: musical.to_owned() };
    let answer = MusicalServiceClient::new(channel.clone()).get_musical(request).await?;
    Ok(answer.into_inner().musical.ok_or("an answer without a musical")?.reservable_seats)
}

/// Waits until `look` finds something.
pub(crate) async fn wait_for<T, F, W>(
    patience: Duration,
    what: &str,
    mut look: F,
) -> Result<T, Failure>
where
    F: FnMut() -> W,
    W: Future<Output = Result<Option<T>, Failure>>,
{
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("waited {} s in vain: {what}", patience.as_secs()).into())
}

//! What users do, again and again, and the books that must be right afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::homemovie::app::v1::ListMovieApplicationsRequest;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::mesh::v1::ListIntentsRequest;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mypage::v1::ListMyOrdersRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::outerpark::reservation::v1::ListReservationsRequest;
use proto::outerpark::reservation::v1::reservation::State as ReservationState;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::payment::v1::ListPaymentsRequest;
use proto::payment::v1::payment::State as PaymentState;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use rand::Rng as _;
use tonic::{Code, Status};

use super::generator::Tally;
use super::report::{Books, Report};
use super::target::Target;
use crate::client::{self, Failure, SignedIn};

/// How long what must come may take to come.
const PATIENCE: Duration = Duration::from_secs(90);
/// The most that one page holds.
const PAGE: i32 = 1000;
/// A page of many orders with their history is large.
const LARGE: usize = 64 << 20;
/// As many as a performance can have.
const SEATS: i32 = 100_000;

/// What a user does.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Picks this film.
    Film(Arc<str>),
    /// Reserves one seat of this musical.
    Seat(Arc<str>),
}

impl Work {
    /// The first film of the catalogue.
    pub(crate) async fn film(target: &Target) -> Result<Self, Failure> {
        let movies = MovieServiceClient::new(target.channel.clone())
            .list_movies(ListMoviesRequest::default())
            .await?
            .into_inner()
            .movies;
        let movie = movies.first().ok_or("there is no film: start without --empty")?;
        Ok(Self::Film(movie.name.as_str().into()))
    }

    /// A musical that is put on sale for this.
    pub(crate) async fn seat(target: &Target, probe: &SignedIn) -> Result<Self, Failure> {
        let number = mesh::rng().random_range(2..1_000_000_000);
        let musical = client::register_musical(target.admin()?, number, SEATS).await?;
        let work = Self::Seat(musical.name.as_str().into());
        // The reservation desk has not heard of it at once.
        client::wait_for(PATIENCE, "the reservation desk knows the performance", || async {
            match work.act(probe.clone()).await {
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) if status.code() != Code::Unavailable => Err(status.into()),
                _ => Ok(Some(())),
            }
        })
        .await?;
        Ok(work)
    }

    /// Does it once.
    pub(crate) async fn act(&self, user: SignedIn) -> Result<(), Status> {
        match self {
            Self::Film(movie) => client::pick(&user, movie).await.map(drop),
            Self::Seat(musical) => client::reserve(&user, musical, 1).await.map(drop),
        }
    }

    /// The edge that a call of it waits for.
    pub(crate) fn edge(&self) -> &'static str {
        match self {
            Self::Film(_) => "homemovie.app->payment",
            Self::Seat(_) => "outerpark.reservation->outerpark.musical",
        }
    }

    /// Waits until no order is between two states and both sides of the books are equal; a fault where they are not.
    pub(crate) async fn settle(
        &self,
        target: &Target,
        users: &[SignedIn],
        report: &mut Report,
    ) -> Result<(), Failure> {
        let admin = target.admin()?;
        let context = self.edge().split("->").next().unwrap_or_default();
        client::wait_for(PATIENCE, "every order is registered or undone", || async {
            let request =
                ListIntentsRequest { context: context.to_owned(), ..ListIntentsRequest::default() };
            let answer = OperationsServiceClient::new(admin.clone()).list_intents(request).await?;
            Ok(answer.into_inner().intents.is_empty().then_some(()))
        })
        .await?;
        let begun = Instant::now();
        let books = loop {
            let books = self.books(target, users).await?;
            if books.left_count == books.right_count || begun.elapsed() > PATIENCE {
                break books;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let equal = books.left_count == books.right_count;
        report.expect(equal, format_args!("{} are as many as {}", books.left, books.right));
        report.books = Some(books);
        Ok(())
    }

    async fn books(&self, target: &Target, users: &[SignedIn]) -> Result<Books, Failure> {
        match self {
            Self::Film(_) => Ok(Books {
                left: "registered applications",
                left_count: sum(users, applications_of).await?,
                right: "live payments",
                right_count: sum(users, live_payments_of).await?,
            }),
            Self::Seat(musical) => {
                let left = client::seats_left(&target.channel, musical).await?;
                Ok(Books {
                    left: "seats of live reservations",
                    left_count: sum(users, |user| seats_of(user, musical.clone())).await?,
                    right: "seats sold",
                    right_count: u64::from((SEATS - left).unsigned_abs()),
                })
            }
        }
    }
}

/// Waits until every film that was picked can be seen as ordered in my page: how many can.
pub(crate) async fn seen_in_my_page(users: &[SignedIn], tally: &Tally) -> Result<u64, Failure> {
    let begun = Instant::now();
    let seen = stream::iter(users.iter().enumerate())
        .map(|(number, user)| async move {
            let picked = tally.completed_by(number);
            loop {
                let ordered = ordered_of(user.clone()).await?;
                if ordered >= picked || begun.elapsed() > PATIENCE {
                    return Ok::<_, Failure>(ordered.min(picked));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .buffer_unordered(4);
    seen.try_fold(0, |sum, seen| async move { Ok(sum + seen) }).await
}

/// Counts over all users.
async fn sum<F, W>(users: &[SignedIn], count: F) -> Result<u64, Failure>
where
    F: Fn(SignedIn) -> W,
    W: Future<Output = Result<u64, Failure>>,
{
    let counts = stream::iter(users.iter().cloned()).map(count).buffer_unordered(4);
    counts.try_fold(0, |sum, count| async move { Ok(sum + count) }).await
}

async fn ordered_of(user: SignedIn) -> Result<u64, Failure> {
    let mut my_page = MyPageServiceClient::new(user).max_decoding_message_size(LARGE);
    let mut request = ListMyOrdersRequest { page_size: PAGE, ..ListMyOrdersRequest::default() };
    let mut count = 0;
    loop {
        let page = my_page.list_my_orders(request.clone()).await?.into_inner();
        count += page.my_orders.iter().filter(|order| order.state == "MOVIE_ORDERED").count();
        if page.next_page_token.is_empty() {
            return Ok(u64::try_from(count)?);
        }
        request.page_token = page.next_page_token;
    }
}

async fn applications_of(user: SignedIn) -> Result<u64, Failure> {
    let mut desk = MovieApplicationServiceClient::new(user).max_decoding_message_size(LARGE);
    let mut request = ListMovieApplicationsRequest { page_size: PAGE, page_token: String::new() };
    let mut count = 0;
    loop {
        let page = desk.list_movie_applications(request.clone()).await?.into_inner();
        count += page.movie_applications.len();
        if page.next_page_token.is_empty() {
            return Ok(u64::try_from(count)?);
        }
        request.page_token = page.next_page_token;
    }
}

async fn live_payments_of(user: SignedIn) -> Result<u64, Failure> {
    let mut payment = PaymentServiceClient::new(user).max_decoding_message_size(LARGE);
    let mut request = ListPaymentsRequest { page_size: PAGE, ..ListPaymentsRequest::default() };
    let mut count = 0;
    loop {
        let page = payment.list_payments(request.clone()).await?.into_inner();
        let live = page.payments.iter().filter(|payment| payment.state() == PaymentState::Approved);
        count += live.count();
        if page.next_page_token.is_empty() {
            return Ok(u64::try_from(count)?);
        }
        request.page_token = page.next_page_token;
    }
}

async fn seats_of(user: SignedIn, musical: Arc<str>) -> Result<u64, Failure> {
    let mut desk = ReservationServiceClient::new(user).max_decoding_message_size(LARGE);
    let mut request =
        ListReservationsRequest { page_size: PAGE, ..ListReservationsRequest::default() };
    let mut seats = 0;
    loop {
        let page = desk.list_reservations(request.clone()).await?.into_inner();
        let live = page.reservations.iter().filter(|reservation| {
            let state = reservation.state();
            *reservation.musical == *musical
                && matches!(
                    state,
                    ReservationState::SeatsReserved | ReservationState::PaymentApproved
                )
        });
        seats += live.map(|reservation| u64::from(reservation.seats.unsigned_abs())).sum::<u64>();
        if page.next_page_token.is_empty() {
            return Ok(seats);
        }
        request.page_token = page.next_page_token;
    }
}

//! A mesh with nothing but performances in it, called as `outerpark.reservation` would.

use std::time::Duration;

use diesel::sql_types::{BigInt, Integer, Text};
use diesel::{QueryableByName, RunQueryDsl as _};
use mesh::client::{BreakerSettings, Channel, EdgeSettings};
use mesh_testing::{Account, SignedIn, TestMesh, eventually, request_id};
use outerpark_musical::Settings;
use prost::{Message, Name};
use prost_types::Timestamp;
use proto::common::v1::Money;
use proto::mesh::v1::Event;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{
    GetMusicalRequest, Musical, RegisterMusicalRequest, ReserveSeatsRequest, ReserveSeatsResponse,
    ReturnSeatsRequest,
};
use rand::Rng as _;
use tonic::{Code, Status};

pub(crate) const NAME: &str = "outerpark.musical";
/// What a seat costs unless said.
pub(crate) const PRICE: i64 = 50_000;

/// The house where musicals are played, and who runs it.
pub(crate) struct House {
    pub(crate) mesh: TestMesh,
    pub(crate) admin: Account,
}

/// A client, as the context of the reservations.
pub(crate) type Client = MusicalServiceClient<Channel>;

pub(crate) async fn open() -> House {
    open_with(Settings::default(), Duration::from_secs(5)).await
}

/// As [`open`], with callers that wait no longer than `timeout`.
pub(crate) async fn open_with(settings: Settings, timeout: Duration) -> House {
    let change = move |options: &mut mesh::Options| {
        // Breakers have tests of their own.
        let breaker = BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() };
        let edge = EdgeSettings { timeout, breaker, ..EdgeSettings::default() };
        options.edges = std::sync::Arc::new(move |_| edge);
    };
    let mesh = TestMesh::start_with(&[outerpark_musical::context(settings)], change).await;
    let admin = mesh.admin();
    House { mesh, admin }
}

/// A new reservation's name.
pub(crate) fn reservation() -> String {
    format!("musicalReservations/{}", request_id())
}

pub(crate) fn won(minor_units: i64) -> Money {
    Money { currency_code: "KRW".to_owned(), minor_units }
}

/// So many seconds from now.
pub(crate) fn in_seconds(seconds: i64) -> Timestamp {
    let now = Timestamp::from(mesh::now());
    Timestamp { seconds: now.seconds + seconds, nanos: 0 }
}

/// A performance tomorrow, with a number that nobody has.
pub(crate) fn performance(seats: i32) -> RegisterMusicalRequest {
    RegisterMusicalRequest {
        request_id: request_id(),
        musical_number: i64::from(mesh::rng().random::<u32>()) + 1,
        title: "Frozen".to_owned(),
        venue: "Outer Park".to_owned(),
        performance_time: Some(in_seconds(86_400)),
        sales_start_time: None,
        sales_end_time: None,
        price_per_seat: Some(won(PRICE)),
        total_seats: seats,
    }
}

/// What the tables say of a performance, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub(crate) struct Books {
    #[diesel(sql_type = Integer)]
    pub(crate) free: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) held: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) total: i32,
    #[diesel(sql_type = BigInt)]
    pub(crate) revision: i64,
}

impl Books {
    /// Fails the test if a seat is lost, or there twice.
    pub(crate) fn must_add_up(&self) {
        assert_eq!(self.free + self.held, self.total, "{self:?}");
    }
}

const BOOKS: &str = "SELECT reservable_seats AS free, total_seats AS total, revision,
    CAST((SELECT COALESCE(SUM(seats), 0) FROM seat_hold WHERE musical = name AND NOT returned) AS INTEGER) AS held
    FROM musical WHERE name = $1";

impl House {
    /// The seats' side, as `outerpark.reservation` calls it.
    pub(crate) fn client(&self) -> Client {
        MusicalServiceClient::new(self.mesh.service("outerpark.reservation", NAME))
    }

    /// Where the programme is kept.
    pub(crate) fn office(&self) -> MusicalServiceClient<SignedIn> {
        MusicalServiceClient::new(self.admin.connect())
    }

    pub(crate) async fn try_register(
        &self,
        request: RegisterMusicalRequest,
    ) -> Result<Musical, Status> {
        let answer = self.office().register_musical(request).await?.into_inner();
        Ok(answer.musical.expect("a performance"))
    }

    /// A performance with so many seats: its name.
    pub(crate) async fn register(&self, seats: i32) -> String {
        self.try_register(performance(seats)).await.expect("registered").name
    }

    pub(crate) async fn get(&self, musical: &str) -> Result<Musical, Status> {
        let request = GetMusicalRequest { name: musical.to_owned() };
        let answer = MusicalServiceClient::new(self.mesh.stranger()).get_musical(request).await?;
        Ok(answer.into_inner().musical.expect("a performance"))
    }

    pub(crate) async fn try_reserve(
        &self,
        reservation: &str,
        musical: &str,
        seats: i32,
    ) -> Result<ReserveSeatsResponse, Status> {
        let request = ReserveSeatsRequest {
            request_id: request_id(),
            reservation: reservation.to_owned(),
            musical: musical.to_owned(),
            seats,
        };
        Ok(self.client().reserve_seats(request).await?.into_inner())
    }

    pub(crate) async fn try_return(&self, reservation: &str) -> Result<i32, Status> {
        let reservation = reservation.to_owned();
        let request = ReturnSeatsRequest { request_id: request_id(), reservation };
        Ok(self.client().return_seats(request).await?.into_inner().seats)
    }

    /// Asks for as long as it takes to get an answer: it is the same one.
    pub(crate) async fn reserve(
        &self,
        reservation: &str,
        musical: &str,
        seats: i32,
    ) -> Result<ReserveSeatsResponse, Status> {
        let ask = async || answered(self.try_reserve(reservation, musical, seats).await);
        eventually("an answer to ReserveSeats", ask).await
    }

    /// Gives back for as long as it takes to be confirmed: how many.
    pub(crate) async fn give_back(&self, reservation: &str) -> i32 {
        let ask = async || answered(self.try_return(reservation).await);
        eventually("seats that are given back", ask).await.expect("nothing can be refused")
    }

    pub(crate) async fn crash_and_restart(&self) {
        self.mesh.mesh.crash(NAME).await;
        self.restart().await;
    }

    pub(crate) async fn restart(&self) {
        self.mesh.restart(NAME).await;
    }

    /// What the tables say now, without asking the context.
    pub(crate) fn books(&self, musical: &str) -> Books {
        let mut conn = self.mesh.store(NAME).connect().expect("the store");
        let books = diesel::sql_query(BOOKS).bind::<Text, _>(musical).get_result(&mut conn);
        books.expect("a performance")
    }

    /// Every event there is with this correlation: a reservation's name, or a performance's.
    pub(crate) async fn events(&self, correlation: &str) -> Vec<Event> {
        self.mesh.events(NAME, correlation).await
    }

    /// The events of one type with this correlation.
    pub(crate) async fn told<M: Message + Name + Default>(&self, correlation: &str) -> Vec<M> {
        mesh_testing::told(&self.events(correlation).await)
    }
}

/// What is no answer is `None`: ask again.
fn answered<T>(outcome: Result<T, Status>) -> Option<Result<T, Status>> {
    let passing = [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted];
    match outcome {
        Err(status) if passing.contains(&status.code()) => None,
        outcome => Some(outcome),
    }
}

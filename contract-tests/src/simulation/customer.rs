//! Customers who buy films and reserve seats, change their minds, look at their page, and send again what was not
//! answered.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use mesh::{Accounts, Id, reason_of, request_id_of};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1 as movie;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::mypage::v1 as page;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::outerpark::musical::v1 as musical;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1 as desk;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::story::Story;
use super::system::{Ground, connect};

/// How long a customer waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A customer, on a host of its own. Cheap to clone.
#[derive(Clone)]
pub(super) struct Customer {
    host: String,
    id: Id<Accounts>,
    token: String,
    story: Rc<Story>,
    ways: Rc<BTreeMap<&'static str, Channel>>,
}

impl Customer {
    /// Somebody with these roles; it must be called on its host.
    pub(super) fn new(host: &str, roles: &[&str], ground: &Ground, story: Rc<Story>) -> Self {
        let id = Id::new();
        let token = ground.signer.sign(id, roles, mesh_testing::LIFE);
        let ways = [
            "homemovie.app",
            "homemovie.movie",
            "mypage",
            "outerpark.musical",
            "outerpark.reservation",
        ];
        let ways = ways.into_iter().map(|context| (context, connect(context))).collect();
        Self { host: host.to_owned(), id, token, story, ways: Rc::new(ways) }
    }

    /// Does this and that until the story is over, then sees to the end of what it follows.
    pub(super) async fn live(self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let (film, show) = (self.a_film().await, self.a_show().await);
        let (mut own, mut followed) = (Vec::new(), Vec::new());
        while !self.story.is_over() {
            sleep(Duration::from_millis(random.random_range(10..300))).await;
            let twice = random.random_bool(0.2);
            let order = match random.random_range(0..10) {
                0..=2 => self.pick(&film, twice).await,
                3..=5 => self.reserve(&show, random.random_range(1..=3), twice).await,
                6 | 7 if !own.is_empty() => {
                    let order: String = own.swap_remove(random.random_range(0..own.len()));
                    self.cancel(&order, twice).await;
                    continue;
                }
                8 if !own.is_empty() => {
                    let order = &own[random.random_range(0..own.len())];
                    self.watch(order).await;
                    continue;
                }
                _ => {
                    self.look_at_my_page().await;
                    continue;
                }
            };
            let Some(order) = order else { continue };
            if random.random_bool(0.5) {
                followed.push((order.clone(), self.follow(order.clone())));
            }
            own.push(order);
        }
        for (order, task) in followed {
            // It must come to an end that a stream can tell.
            self.cancel(&order, false).await;
            if task.await.is_err() {
                self.story.violate(format!("the stream of {order} panicked"));
            }
        }
        self.story.leave();
    }

    /// The first film of the catalogue.
    async fn a_film(&self) -> String {
        loop {
            let request = self.signed(movie::ListMoviesRequest::default());
            let mut movies = MovieServiceClient::new(self.way("homemovie.movie"));
            match movies.list_movies(request).await {
                Ok(films) if !films.get_ref().movies.is_empty() => {
                    return films.into_inner().movies.remove(0).name;
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The performance, when somebody has put it on.
    async fn a_show(&self) -> String {
        loop {
            let request = self.signed(musical::ListMusicalsRequest::default());
            let mut musicals = MusicalServiceClient::new(self.way("outerpark.musical"));
            match musicals.list_musicals(request).await {
                Ok(shows) if !shows.get_ref().musicals.is_empty() => {
                    return shows.into_inner().musicals.remove(0).name;
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn pick(&self, film: &str, twice: bool) -> Option<String> {
        let request = app::PickMovieRequest {
            request_id: mesh_testing::request_id(),
            movie: film.to_owned(),
        };
        let send = async || {
            let mut desk = MovieApplicationServiceClient::new(self.way("homemovie.app"));
            let answer = desk.pick_movie(self.signed(request.clone())).await?.into_inner();
            let name = answer.movie_application.map(|application| application.name);
            let name = name.unwrap_or_default();
            self.story.ordered(&request.request_id, &name);
            Ok(name)
        };
        self.order("pick", &request.request_id, twice, send).await
    }

    async fn reserve(&self, show: &str, seats: i32, twice: bool) -> Option<String> {
        let request_id = mesh_testing::request_id();
        let request = desk::ReserveRequest { request_id, musical: show.to_owned(), seats };
        let send = async || {
            let mut desk = ReservationServiceClient::new(self.way("outerpark.reservation"));
            let answer = desk.reserve(self.signed(request.clone())).await?.into_inner();
            let name = answer.reservation.map(|reservation| reservation.name).unwrap_or_default();
            self.story.ordered(&request.request_id, &name);
            Ok(name)
        };
        self.order(&format!("reserve {seats}"), &request.request_id, twice, send).await
    }

    /// Orders something; what was ordered, or nothing if that was refused.
    async fn order(
        &self,
        what: &str,
        request_id: &str,
        twice: bool,
        send: impl AsyncFn() -> Result<String, Status>,
    ) -> Option<String> {
        let answer = self.until_known(what, twice, send).await;
        if answer.is_err() {
            self.story.refused(request_id);
        }
        answer.ok()
    }

    /// Cancels; what is watched, declined or expired cannot be cancelled any more.
    async fn cancel(&self, order: &str, twice: bool) {
        let request_id = mesh_testing::request_id();
        let film = app::CancelMovieApplicationRequest {
            request_id: request_id.clone(),
            name: order.to_owned(),
        };
        let seats = desk::CancelReservationRequest {
            request_id,
            name: order.to_owned(),
            quote: String::new(),
        };
        let send = async || {
            if order.starts_with("movieApplications/") {
                MovieApplicationServiceClient::new(self.way("homemovie.app"))
                    .cancel_movie_application(self.signed(film.clone()))
                    .await
                    .map(drop)
            } else {
                ReservationServiceClient::new(self.way("outerpark.reservation"))
                    .cancel_reservation(self.signed(seats.clone()))
                    .await
                    .map(drop)
            }
        };
        match self.until_known(&format!("cancel {}", short(order)), twice, send).await {
            Ok(()) => drop(self.story.cancelled.borrow_mut().insert(order.to_owned())),
            Err(status) if status.code() == Code::NotFound => {
                self.story.violate(format!("{order} was answered, and is not there: {status}"));
            }
            Err(_) => {}
        }
    }

    /// Watches a film.
    async fn watch(&self, order: &str) {
        let request = movie::WatchMovieRequest {
            request_id: mesh_testing::request_id(),
            movie_application: order.to_owned(),
        };
        let send = async || {
            let mut movies = MovieServiceClient::new(self.way("homemovie.movie"));
            movies.watch_movie(self.signed(request.clone())).await.map(drop)
        };
        let _ = self.until_known(&format!("watch {}", short(order)), false, send).await;
    }

    /// Every row is its own (invariant I-18).
    async fn look_at_my_page(&self) {
        let request = self.signed(page::ListMyOrdersRequest::default());
        let outcome = MyPageServiceClient::new(self.way("mypage")).list_my_orders(request).await;
        self.note("my page", &outcome.as_ref().map(|answer| answer.get_ref().my_orders.len()));
        let own = self.story.ordered.borrow();
        for row in outcome.map(|answer| answer.into_inner().my_orders).unwrap_or_default() {
            if row.customer != self.id.to_string() {
                self.story
                    .violate(format!("{} of {} is shown to {}", row.name, row.customer, self.id));
            }
        }
        drop(own);
    }

    /// Follows an order until a final state: no state is missed or told again, whatever breaks.
    fn follow(&self, order: String) -> JoinHandle<()> {
        let customer = self.clone();
        tokio::task::spawn_local(async move {
            let (mut revision, mut last) = (String::new(), String::new());
            loop {
                let follow = async {
                    if order.starts_with("movieApplications/") {
                        customer.follow_film(&order, &mut revision, &mut last).await
                    } else {
                        customer.follow_seats(&order, &mut revision, &mut last).await
                    }
                };
                match follow.await {
                    Ok(true) => break,
                    Err(status) if is_definite(&status) => {
                        customer.story.violate(format!("the stream of {order}: {status}"));
                        break;
                    }
                    _ => sleep(Duration::from_millis(100)).await,
                }
            }
            customer.story.note(&customer.host, format!("{} ends as {last}", short(&order)));
            customer.story.ends.borrow_mut().insert(order, last);
        })
    }

    async fn follow_film(
        &self,
        order: &str,
        revision: &mut String,
        last: &mut String,
    ) -> Result<bool, Status> {
        let request = app::WatchMovieApplicationRequest {
            name: order.to_owned(),
            resume_revision: revision.clone(),
        };
        let mut desk = MovieApplicationServiceClient::new(self.way("homemovie.app"));
        let mut stream = desk.watch_movie_application(self.with_token(request)).await?.into_inner();
        while let Some(told) = stream.message().await? {
            if let Some(application) = told.movie_application {
                let state = application.state().as_str_name();
                self.take(order, &application.revision, state, revision, last);
            }
            if told.r#final {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn follow_seats(
        &self,
        order: &str,
        revision: &mut String,
        last: &mut String,
    ) -> Result<bool, Status> {
        let request = desk::WatchReservationRequest {
            name: order.to_owned(),
            resume_revision: revision.clone(),
        };
        let mut desk = ReservationServiceClient::new(self.way("outerpark.reservation"));
        let mut stream = desk.watch_reservation(self.with_token(request)).await?.into_inner();
        while let Some(told) = stream.message().await? {
            if let Some(reservation) = told.reservation {
                let state = reservation.state().as_str_name();
                self.take(order, &reservation.revision, state, revision, last);
            }
            if told.r#final {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A stream told a state: the one after the one before (invariant I-11).
    fn take(&self, order: &str, told: &str, state: &str, revision: &mut String, last: &mut String) {
        let number =
            |revision: &str| revision.rsplit('@').next().and_then(|n| n.parse::<i64>().ok());
        let (before, now) = (number(revision), number(told));
        if let (Some(before), Some(now)) = (before, now)
            && now != before + 1
        {
            self.story.violate(format!("the stream of {order} went from {revision} to {told}"));
        }
        *revision = told.to_owned();
        *last = state.trim_start_matches("STATE_").to_owned();
    }

    /// Sends until it is known what came of it, always the same; sometimes twice at once.
    async fn until_known<T: Debug>(
        &self,
        what: &str,
        twice: bool,
        send: impl AsyncFn() -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.story.note(&self.host, format!("{what}: sent"));
        loop {
            let outcome = if twice {
                let (first, second) = tokio::join!(send(), send());
                first.or(second)
            } else {
                send().await
            };
            self.note(what, &outcome);
            match outcome {
                Err(status) if !is_definite(&status) => sleep(Duration::from_millis(150)).await,
                known => return known,
            }
        }
    }

    fn note<T: Debug>(&self, what: &str, outcome: &Result<T, impl std::borrow::Borrow<Status>>) {
        let how = match outcome {
            Ok(_) => "ok".to_owned(),
            Err(status) => {
                let status = status.borrow();
                let how = if is_definite(status) { "fail" } else { "info" };
                format!("{how} {:?} {}", status.code(), reason_of(status).unwrap_or_default())
            }
        };
        self.story.note(&self.host, format!("{what}: {how}"));
    }

    fn way(&self, context: &'static str) -> Channel {
        self.ways[context].clone()
    }

    /// With the customer's token, and an end to its patience.
    fn signed<T>(&self, request: T) -> Request<T> {
        let mut request = self.with_token(request);
        request.set_timeout(PATIENCE);
        request
    }

    fn with_token<T>(&self, request: T) -> Request<T> {
        let mut request = Request::new(request);
        let token = format!("Bearer {}", self.token).parse().expect("a token");
        request.metadata_mut().insert("authorization", token);
        request
    }
}

/// Puts on the performance that customers reserve; an admin's work, and what an admin may ask in the end.
impl Customer {
    pub(super) async fn put_on(&self, seats: i32) {
        let in_a_month = mesh::now() + Duration::from_secs(30 * 86_400);
        let request = musical::RegisterMusicalRequest {
            request_id: mesh_testing::request_id(),
            musical_number: 1,
            title: "Frozen".to_owned(),
            venue: "Outer Park".to_owned(),
            performance_time: Some(in_a_month.into()),
            price_per_seat: crate::world::won(50_000),
            total_seats: seats,
            ..Default::default()
        };
        let send = async || {
            let mut musicals = MusicalServiceClient::new(self.way("outerpark.musical"));
            musicals.register_musical(self.signed(request.clone())).await.map(drop)
        };
        self.until_known("put on", false, send).await.expect("a performance");
    }

    /// Has my page made anew; which generation it will be.
    pub(super) async fn rebuild(&self) -> u32 {
        let request = page::RebuildViewRequest { request_id: mesh_testing::request_id() };
        let send = async || {
            let mut pages = MyPageServiceClient::new(self.way("mypage"));
            let answer = pages.rebuild_view(self.signed(request.clone())).await?;
            Ok(answer.into_inner().generation)
        };
        self.until_known("rebuild", false, send).await.expect("a generation")
    }
}

/// Whether it says for certain that nothing was done. A clock that goes wrong makes good tokens look bad.
fn is_definite(status: &Status) -> bool {
    use Code::{
        AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, PermissionDenied,
    };
    let definite = [
        AlreadyExists,
        FailedPrecondition,
        InvalidArgument,
        NotFound,
        OutOfRange,
        PermissionDenied,
    ];
    definite.contains(&status.code())
}

/// An order, as a line of the story names it.
fn short(order: &str) -> String {
    request_id_of(order).chars().skip(24).collect()
}

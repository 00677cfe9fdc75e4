//! The film purchase under test.

use std::time::Duration;

use mesh::Options;
use mesh_testing::{Account, SignedIn, TestMesh, eventually, request_id};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1 as movie;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::mypage::v1 as page;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::payment::v1 as paid;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Status;

use crate::stores::count;

/// The contexts of the film purchase in one process, with a catalogue, and a customer.
#[derive(Debug)]
pub struct Homemovie {
    /// The process.
    pub mesh: TestMesh,
    /// Somebody who buys.
    pub customer: Account,
    /// A film that is for sale.
    pub film: movie::Movie,
}

impl Homemovie {
    /// Everything up, with quick retries and sweeps.
    pub async fn start() -> Self {
        Self::start_with(payment::Settings::default(), |_| {}).await
    }

    /// As [`Homemovie::start`], with another payment provider and other options.
    pub async fn start_with(
        provider: payment::Settings,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let contexts = [
            payment::context(provider),
            mypage::context(),
            homemovie_movie::context(true),
            homemovie_app::context(),
        ];
        let mesh = TestMesh::start_with(&contexts, |options| {
            options.sweep_after = Duration::from_secs(1);
            change(options);
        })
        .await;
        let customer = mesh.customer();
        let mut movies = MovieServiceClient::new(mesh.stranger());
        let films = movies.list_movies(movie::ListMoviesRequest::default()).await.expect("films");
        let film = films.into_inner().movies.remove(0);
        let home = Self { mesh, customer, film };
        home.app_knows_the_film().await;
        home
    }

    /// The catalogue reaches the application desk by events; before, a pick is `NOT_FOUND`.
    async fn app_knows_the_film(&self) {
        eventually("the application desk knows the film", || async {
            let known = format!("name = '{}'", self.film.name);
            (count(&self.mesh.store("homemovie.app"), "film", &known) == 1).then_some(())
        })
        .await;
    }

    /// The application desk, as the customer.
    pub fn app(&self) -> MovieApplicationServiceClient<SignedIn> {
        self.app_of(&self.customer)
    }

    /// The application desk, as somebody.
    pub fn app_of(&self, customer: &Account) -> MovieApplicationServiceClient<SignedIn> {
        MovieApplicationServiceClient::new(customer.connect())
    }

    /// The film's side, as the customer.
    pub fn movies(&self) -> MovieServiceClient<SignedIn> {
        MovieServiceClient::new(self.customer.connect())
    }

    /// My page, as somebody.
    pub fn my_page_of(&self, customer: &Account) -> MyPageServiceClient<SignedIn> {
        MyPageServiceClient::new(customer.connect())
    }

    /// Picks the film, as the customer.
    pub async fn pick(&self) -> Result<app::MovieApplication, Status> {
        self.pick_with(&request_id()).await
    }

    /// Picks the film with this `request_id`.
    pub async fn pick_with(&self, request_id: &str) -> Result<app::MovieApplication, Status> {
        let request = app::PickMovieRequest {
            request_id: request_id.to_owned(),
            movie: self.film.name.clone(),
        };
        let answer = self.app().pick_movie(request).await?.into_inner();
        Ok(answer.movie_application.expect("an application"))
    }

    /// Asks to cancel.
    pub async fn cancel(&self, name: &str) -> Result<app::MovieApplication, Status> {
        let request =
            app::CancelMovieApplicationRequest { request_id: request_id(), name: name.to_owned() };
        let answer = self.app().cancel_movie_application(request).await?.into_inner();
        Ok(answer.movie_application.expect("an application"))
    }

    /// Watches the film of an application.
    pub async fn watch(&self, application: &str) -> Result<movie::WatchMovieResponse, Status> {
        let request = movie::WatchMovieRequest {
            request_id: request_id(),
            movie_application: application.to_owned(),
        };
        Ok(self.movies().watch_movie(request).await?.into_inner())
    }

    /// The customer's applications.
    pub async fn applications(&self) -> Vec<app::MovieApplication> {
        let request =
            app::ListMovieApplicationsRequest { page_size: 1000, page_token: String::new() };
        self.app()
            .list_movie_applications(request)
            .await
            .expect("a list")
            .into_inner()
            .movie_applications
    }

    /// The customer's rows in my page.
    pub async fn rows(&self) -> Vec<page::MyOrder> {
        let request = page::ListMyOrdersRequest { page_size: 1000, ..Default::default() };
        self.my_page_of(&self.customer)
            .list_my_orders(request)
            .await
            .expect("a list")
            .into_inner()
            .my_orders
    }

    /// The payments of one of the customer's orders.
    pub async fn payments_of(&self, order: &str) -> Vec<paid::Payment> {
        let request = paid::ListPaymentsRequest { order: order.to_owned(), ..Default::default() };
        let mut client = PaymentServiceClient::new(self.customer.connect());
        client.list_payments(request).await.expect("a list").into_inner().payments
    }

    /// Waits until an application is in a state.
    pub async fn until(
        &self,
        name: &str,
        state: app::movie_application::State,
    ) -> app::MovieApplication {
        eventually(&format!("{name} is {}", state.as_str_name()), || async {
            let request = app::GetMovieApplicationRequest { name: name.to_owned() };
            let application = self.app().get_movie_application(request).await.ok()?.into_inner();
            application.movie_application.filter(|application| application.state() == state)
        })
        .await
    }

    /// Waits until my page shows a state and a payment state.
    pub async fn until_my_page(&self, name: &str, state: &str, payment: &str) -> page::MyOrder {
        eventually(&format!("my page shows {name} as {state}, {payment}"), || async {
            let request =
                page::GetMyOrderRequest { name: name.to_owned(), min_revision: String::new() };
            let row = self
                .my_page_of(&self.customer)
                .get_my_order(request)
                .await
                .ok()?
                .into_inner()
                .my_order?;
            (row.state == state && row.payment_state == payment).then_some(row)
        })
        .await
    }

    /// Waits until an order's payment is in a state.
    pub async fn until_payment(&self, order: &str, state: paid::payment::State) -> paid::Payment {
        eventually(&format!("the payment of {order} is {}", state.as_str_name()), || async {
            self.payments_of(order).await.into_iter().find(|payment| payment.state() == state)
        })
        .await
    }
}

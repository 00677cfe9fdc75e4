//! Every context in one process, with something of everything in it: what calls of every method can be about.

use std::sync::Arc;
use std::time::Duration;

use mesh::client::EdgeSettings;
use mesh::contract::{Contract, Rule};
use mesh_testing::{Account, SignedIn, TestMesh, eventually, request_id};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use proto::common::v1::Money;
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1 as movie;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::identity::v1 as id;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mesh::v1::Access;
use proto::mypage::v1 as page;
use proto::notice::v1 as told;
use proto::outerpark::musical::v1 as musical;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1 as desk;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::payment::v1 as paid;
use tonic::{Code, Status};

use crate::{every_context, raw};

/// The password of the customer.
pub const PASSWORD: &str = "a password for tests";
/// Where the customer is reached.
pub const EMAIL: &str = "customer@example.org";

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Nobody,
    /// The customer whose world it is.
    Customer,
    /// Another one.
    OtherCustomer,
    /// An admin.
    Admin,
    /// A context of the process.
    Context(String),
}

/// The world of one customer, who has two of each.
#[derive(Debug)]
pub struct World {
    /// The process.
    pub mesh: TestMesh,
    /// Somebody who has an account, and bought.
    pub customer: Account,
    /// Somebody else.
    pub other: Account,
    /// An admin.
    pub admin: Account,
    /// A film that is for sale.
    pub film: String,
    /// One that nobody has bought.
    pub shelf_film: String,
    /// A performance that can be reserved.
    pub musical: String,
    /// One that nobody has reserved.
    pub shelf_musical: String,
    /// Two films that were bought.
    pub applications: [String; 2],
    /// Two reservations that were paid.
    pub reservations: [String; 2],
    /// The payment of the first film.
    pub payment: String,
    /// Two sign-ins of the customer.
    pub refresh_tokens: [String; 2],
}

impl World {
    /// Everything up, everything bought, everything told.
    pub async fn start() -> Self {
        let mesh = TestMesh::start_with(&every_context(), |options| {
            // What is slow here is the machine.
            let patient = EdgeSettings { timeout: Duration::from_secs(5), ..Default::default() };
            options.edges = Arc::new(move |_| patient);
        })
        .await;
        let account = sign_up(&mesh).await;
        let customer = mesh.customer_of(account.parse().expect("an account"));
        let (other, admin) = (mesh.customer(), mesh.admin());
        let movies = MovieServiceClient::new(admin.connect());
        let musicals = MusicalServiceClient::new(admin.connect());
        let mut world = Self {
            film: register_film(movies.clone(), "The Good, the Bad").await,
            shelf_film: register_film(movies, "Nobody's").await,
            musical: register_musical(musicals.clone(), 1).await,
            shelf_musical: register_musical(musicals, 2).await,
            applications: Default::default(),
            reservations: Default::default(),
            payment: String::new(),
            refresh_tokens: [sign_in(&mesh).await, sign_in(&mesh).await],
            mesh,
            customer,
            other,
            admin,
        };
        for number in 0..2 {
            world.applications[number] = world.pick().await;
            world.reservations[number] = world.reserve().await;
        }
        world.settle().await;
        world
    }

    /// Buys the film, when the desk knows it.
    pub async fn pick(&self) -> String {
        eventually("a film is bought", || async {
            let request =
                app::PickMovieRequest { request_id: request_id(), movie: self.film.clone() };
            let mut desk = MovieApplicationServiceClient::new(self.customer.connect());
            let answer = desk.pick_movie(request).await.ok()?.into_inner();
            Some(answer.movie_application?.name)
        })
        .await
    }

    /// Reserves seats, when the desk knows the performance.
    pub async fn reserve(&self) -> String {
        eventually("seats are reserved", || async {
            let musical = self.musical.clone();
            let request = desk::ReserveRequest { request_id: request_id(), musical, seats: 2 };
            let mut desk = ReservationServiceClient::new(self.customer.connect());
            let answer = desk.reserve(request).await.ok()?.into_inner();
            Some(answer.reservation?.name)
        })
        .await
    }

    /// Waits until everybody has heard of everything.
    async fn settle(&mut self) {
        let service = "turnstile.payment.v1.PaymentService/ListPayments";
        let order = self.applications[0].clone();
        self.payment = eventually("the payments are there", || async {
            let all: paid::ListPaymentsResponse = self.list(service).await?;
            let of_first = all.payments.iter().find(|payment| payment.order == order)?;
            (all.payments.len() == 4).then(|| of_first.name.clone())
        })
        .await;
        eventually("my page shows all orders", || async {
            let service = "turnstile.mypage.v1.MyPageService/ListMyOrders";
            let all: page::ListMyOrdersResponse = self.list(service).await?;
            let paid = all.my_orders.iter().filter(|order| order.payment_state == "APPROVED");
            (paid.count() == 4).then_some(())
        })
        .await;
        eventually("the customer was told of both reservations", || async {
            let service = "turnstile.notice.v1.NoticeService/ListNotices";
            let all: told::ListNoticesResponse = self.list(service).await?;
            (all.notices.len() == 2).then_some(())
        })
        .await;
        for application in &self.applications {
            eventually("the film was delivered", || async {
                let movie_application = application.clone();
                let request = movie::GetMoviePurchaseRequest { movie_application };
                let mut movies = MovieServiceClient::new(self.customer.connect());
                movies.get_movie_purchase(request).await.ok()
            })
            .await;
        }
    }

    async fn list<M: prost::Message + Default>(&self, method: &str) -> Option<M> {
        let answer = self.call(&Identity::Customer, method, Vec::new()).await.ok()?;
        M::decode(&answer[..]).ok()
    }

    /// Calls a method as somebody. A busy machine is asked again.
    pub async fn call(
        &self,
        who: &Identity,
        method: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        eventually(&format!("{method} is answered"), || async {
            let answer = self.call_once(who, method, body.clone()).await;
            let passes = [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted];
            let busy = matches!(&answer, Err(status) if passes.contains(&status.code()));
            (!busy).then_some(answer)
        })
        .await
    }

    async fn call_once(
        &self,
        who: &Identity,
        method: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        let account = match who {
            Identity::Nobody => None,
            Identity::Customer => Some(&self.customer),
            Identity::OtherCustomer => Some(&self.other),
            Identity::Admin => Some(&self.admin),
            Identity::Context(name) => {
                let context = rule(method).context;
                // The kit's own services are answered for every context.
                let callee = if context == "mesh" { "payment" } else { &context };
                return raw::call(self.mesh.service(name, callee), method, body, None).await;
            }
        };
        let token = account.map(|account| account.token.as_str());
        raw::call(self.mesh.stranger(), method, body, token).await
    }
}

/// Every method of ours that this run serves: a database has means of its own for a backup.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("descriptors");
    let ours = pool.services().filter(|service| service.full_name().starts_with("turnstile."));
    let methods = ours.flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.filter(|method| mesh_testing::on_files() || method.name() != "BackUp").collect()
}

/// Every event that a contract has: its full name.
pub fn events() -> Vec<String> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("descriptors");
    let files = pool.files().filter(|file| file.name().ends_with("_events.proto"));
    let events = files.flat_map(|file| file.messages().collect::<Vec<_>>());
    events.map(|event| event.full_name().to_owned()).collect()
}

/// As in the path of a call: `turnstile.payment.v1.PaymentService/Pay`.
pub fn path_of(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

/// What the contract says of a method.
pub fn rule(method: &str) -> Rule {
    let contract = Contract::ours().expect("contracts");
    (**contract.rule(&format!("/{method}")).expect("a method of ours")).clone()
}

/// Somebody who may call it.
pub fn may_call(rule: &Rule) -> Identity {
    match rule.access {
        Access::Public | Access::Unspecified => Identity::Nobody,
        Access::Customer => Identity::Customer,
        Access::Admin => Identity::Admin,
        Access::Service => {
            let first = rule.callers.first().map_or("mypage", String::as_str);
            Identity::Context(if first == "*" { "mypage" } else { first }.to_owned())
        }
    }
}

/// Won.
pub fn won(minor_units: i64) -> Option<Money> {
    Some(Money { currency_code: "KRW".to_owned(), minor_units })
}

/// In so many days.
pub fn in_days(days: u64) -> Option<prost_types::Timestamp> {
    Some((mesh::now() + Duration::from_secs(days * 86_400)).into())
}

async fn sign_up(mesh: &TestMesh) -> String {
    let request = id::SignUpRequest {
        email: EMAIL.to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    let answer = IdentityServiceClient::new(mesh.stranger()).sign_up(request).await;
    answer.expect("signed up").into_inner().account.expect("an account").name
}

async fn sign_in(mesh: &TestMesh) -> String {
    let request = id::SignInRequest { email: EMAIL.to_owned(), password: PASSWORD.to_owned() };
    let answer = IdentityServiceClient::new(mesh.stranger()).sign_in(request).await;
    answer.expect("signed in").into_inner().tokens.expect("tokens").refresh_token
}

async fn register_film(mut movies: MovieServiceClient<SignedIn>, title: &str) -> String {
    let request = movie::RegisterMovieRequest {
        request_id: request_id(),
        title: title.to_owned(),
        price: won(15_000),
        media: "https://media.example.org/film".to_owned(),
    };
    let answer = movies.register_movie(request).await.expect("registered").into_inner();
    answer.movie.expect("a film").name
}

async fn register_musical(mut musicals: MusicalServiceClient<SignedIn>, number: i64) -> String {
    let request = musical::RegisterMusicalRequest {
        request_id: request_id(),
        musical_number: number,
        title: "Frozen".to_owned(),
        venue: "Outer Park".to_owned(),
        performance_time: in_days(30),
        price_per_seat: won(50_000),
        total_seats: 100,
        ..Default::default()
    };
    let answer = musicals.register_musical(request).await.expect("registered").into_inner();
    answer.musical.expect("a musical").name
}

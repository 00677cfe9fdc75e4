//! My page, and stand-ins for the contexts whose events it is made of: they have a log and say what they are told to.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

mod outerpark;

use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use diesel_migrations::embed_migrations;
use mesh::{Conn, Context, Migrations, Store, Wiring};
use mesh_testing::{Account, SignedIn, TestMesh, eventually, request_id};
use prost::{Message, Name};
use proto::common::v1::Money;
use proto::homemovie::app::v1 as app;
use proto::homemovie::movie::v1 as movie;
use proto::mypage::v1 as api;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::payment::v1 as payment;

pub(crate) use proto::homemovie::app::v1::movie_application::State;

const LOG_ONLY: Migrations = Migrations {
    sqlite: embed_migrations!("tests/migrations/sqlite"),
    postgres: embed_migrations!("tests/migrations/postgres"),
};

/// Another context, by its name only.
pub(crate) struct StandIn {
    context: Context,
    store: Arc<Mutex<Option<Store>>>,
}

impl StandIn {
    fn new(name: &str) -> Self {
        let store = Arc::new(Mutex::new(None));
        let kept = store.clone();
        let context = Context::new(
            name,
            || LOG_ONLY,
            move |kit| {
                *kept.lock().expect("a store") = Some(kit.store());
                Ok(Wiring::default())
            },
        );
        Self { context, store }
    }

    /// Stores a fact about `subject` in its log; the subject's version.
    async fn tell<M>(&self, subject: &str, order: &str, fact: M) -> i64
    where
        M: Message + Name + Clone + 'static,
    {
        let store =
            self.store.lock().expect("a store").clone().expect("a context that was started");
        let (subject, order) = (subject.to_owned(), order.to_owned());
        store
            .write(move |tx| tx.publish(subject, order, &fact))
            .await
            .expect("a fact that is stored")
    }
}

/// Every context that my page hears of.
pub(crate) const SOURCES: [&str; 6] = [
    "homemovie.app",
    "homemovie.movie",
    "payment",
    "outerpark.reservation",
    "outerpark.musical",
    "notice",
];

/// My page with its sources.
pub(crate) struct Stage {
    pub(crate) test: TestMesh,
    app: StandIn,
    movie: StandIn,
    payment: StandIn,
    reservation: StandIn,
    musical: StandIn,
    notice: StandIn,
}

/// An order that the stand-ins know of.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) name: String,
    /// What it is about in the other context of its system: a purchase, a performance.
    other: String,
    payment: String,
    customer: String,
}

impl Order {
    /// A film.
    pub(crate) fn of(customer: &Account) -> Self {
        Self::in_collections("movieApplications", "moviePurchases", customer)
    }

    /// Seats.
    pub(crate) fn of_seats(customer: &Account) -> Self {
        Self::in_collections("musicalReservations", "musicals", customer)
    }

    fn in_collections(orders: &str, others: &str, customer: &Account) -> Self {
        Self {
            name: format!("{orders}/{}", request_id()),
            other: format!("{others}/{}", request_id()),
            payment: format!("payments/{}", request_id()),
            customer: customer.id.to_string(),
        }
    }

    /// `{subject}@{sequence}` of the order itself.
    pub(crate) fn revision(&self, sequence: i64) -> String {
        format!("{}@{sequence}", self.name)
    }
}

pub(crate) fn won(minor_units: i64) -> Option<Money> {
    Some(Money { currency_code: "KRW".to_owned(), minor_units })
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let sources = SOURCES.map(StandIn::new);
        let stand_ins = sources.iter().map(|source| source.context.clone());
        let contexts: Vec<_> = std::iter::once(mypage::context()).chain(stand_ins).collect();
        let test = TestMesh::start(&contexts).await;
        let [app, movie, payment, reservation, musical, notice] = sources;
        Self { test, app, movie, payment, reservation, musical, notice }
    }

    pub(crate) async fn approve(&self, order: &Order) -> i64 {
        let fact = payment::PaymentApproved {
            payment: order.payment.clone(),
            order: order.name.clone(),
            customer: order.customer.clone(),
            amount: won(50_000),
        };
        self.payment.tell(&order.payment, &order.name, fact).await
    }

    pub(crate) async fn decline(&self, order: &Order) -> i64 {
        let fact = payment::PaymentDeclined {
            payment: order.payment.clone(),
            order: order.name.clone(),
            customer: order.customer.clone(),
            amount: won(50_000),
        };
        self.payment.tell(&order.payment, &order.name, fact).await
    }

    pub(crate) async fn refund(&self, order: &Order, minor_units: i64) -> i64 {
        let fact = payment::PaymentCancelled {
            payment: order.payment.clone(),
            order: order.name.clone(),
            customer: order.customer.clone(),
            amount: won(minor_units),
            reason: "ORDER_CANCELLED".to_owned(),
        };
        self.payment.tell(&order.payment, &order.name, fact).await
    }

    pub(crate) async fn pick(&self, order: &Order, title: &str) -> i64 {
        let fact = app::MoviePicked {
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
            movie: format!("movies/{}", request_id()),
            movie_title: title.to_owned(),
            price: won(50_000),
        };
        self.app.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn ask_to_cancel(&self, order: &Order) -> i64 {
        let fact = app::MovieAppCancelled {
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
            movie: String::new(),
        };
        self.app.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn advance(&self, order: &Order, state: State) -> i64 {
        let fact = app::MovieApplicationAdvanced {
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
            state: state.into(),
        };
        self.app.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn order_film(&self, order: &Order) -> i64 {
        let fact = movie::MovieOrdered {
            movie_purchase: order.other.clone(),
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
            movie: String::new(),
        };
        self.movie.tell(&order.other, &order.name, fact).await
    }

    pub(crate) async fn watch_film(&self, order: &Order) -> i64 {
        let fact = movie::MovieWatched {
            movie_purchase: order.other.clone(),
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
        };
        self.movie.tell(&order.other, &order.name, fact).await
    }

    pub(crate) async fn cancel_film(&self, order: &Order) -> i64 {
        let fact = movie::MovieCancelled {
            movie_purchase: order.other.clone(),
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
        };
        self.movie.tell(&order.other, &order.name, fact).await
    }

    pub(crate) async fn refuse_cancel(&self, order: &Order) -> i64 {
        let fact = movie::MovieCancelRefused {
            movie_purchase: order.other.clone(),
            movie_application: order.name.clone(),
            customer: order.customer.clone(),
        };
        self.movie.tell(&order.other, &order.name, fact).await
    }

    /// An order that was paid, picked and made ready: four events.
    pub(crate) async fn whole_order(&self, customer: &Account, title: &str) -> Order {
        let order = Order::of(customer);
        self.approve(&order).await;
        self.pick(&order, title).await;
        self.order_film(&order).await;
        self.advance(&order, State::MovieOrdered).await;
        order
    }

    /// Stops every context but my page.
    pub(crate) async fn stop_sources(&self) {
        for source in SOURCES {
            self.test.mesh.stop(source).await;
        }
    }

    /// Waits until so many things are known to have happened to an order.
    pub(crate) async fn settled(
        &self,
        customer: &Account,
        order: &Order,
        events: usize,
    ) -> api::MyOrder {
        eventually(&format!("{events} events of {}", order.name), || async {
            find(customer, order).await.filter(|order| order.history.len() == events)
        })
        .await
    }

    /// The rows of the view that is read, hidden ones too, without what differs from one generation to the next.
    pub(crate) fn dump(&self) -> Vec<String> {
        let orders = "SELECT name || ' ' || system || ' ' || customer || ' ' || title || ' ' || quantity || ' ' || currency
             || ' ' || amount || ' ' || state || ' ' || payment_state || ' ' || create_time || ' ' || update_time
             || ' ' || visible AS text FROM my_order";
        let progress = "SELECT order_name || ' ' || event_id || ' ' || event || ' ' || source || ' ' || subject || ' '
             || sequence || ' ' || time AS text FROM my_progress";
        [orders, progress]
            .map(|rows| self.rows(&format!("{rows} WHERE {CURRENT} ORDER BY text")))
            .concat()
    }

    /// Which generation of the view is read.
    pub(crate) fn generation(&self) -> i64 {
        self.number("SELECT current AS number FROM mesh_view")
    }

    /// A number in my page's store.
    pub(crate) fn number(&self, query: &str) -> i64 {
        let query = format!("SELECT CAST(number AS BIGINT) AS number FROM ({query}) AS found");
        let row: Number = diesel::sql_query(query).get_result(&mut self.store()).expect("a number");
        row.number
    }

    /// Has my page begin anew in every log, behind its back; it must be stopped.
    pub(crate) fn forget_cursors(&self) {
        mesh_testing::turn_back(&self.test.store("mypage"), "true");
    }

    fn rows(&self, query: &str) -> Vec<String> {
        let rows: Vec<Text> = diesel::sql_query(query).load(&mut self.store()).expect("rows");
        rows.into_iter().map(|row| row.text).collect()
    }

    fn store(&self) -> Conn {
        self.test.store("mypage").connect().expect("my page's store")
    }
}

const CURRENT: &str = "generation = (SELECT current FROM mesh_view)";

#[derive(QueryableByName)]
struct Text {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

/// Calls my page as this customer.
pub(crate) fn page_of(customer: &Account) -> MyPageServiceClient<SignedIn> {
    MyPageServiceClient::new(customer.connect())
}

/// Asks for one order.
pub(crate) fn wanted(order: &Order) -> api::GetMyOrderRequest {
    api::GetMyOrderRequest { name: order.name.clone(), ..Default::default() }
}

/// An order as its customer sees it, if at all.
pub(crate) async fn find(customer: &Account, order: &Order) -> Option<api::MyOrder> {
    page_of(customer).get_my_order(wanted(order)).await.ok()?.into_inner().my_order
}

/// Everything that a customer sees.
pub(crate) async fn list(customer: &Account) -> Vec<api::MyOrder> {
    let all = api::ListMyOrdersRequest { page_size: 1000, ..Default::default() };
    page_of(customer).list_my_orders(all).await.expect("a list").into_inner().my_orders
}

/// What happened to an order, by name.
pub(crate) fn events(order: &api::MyOrder) -> Vec<&str> {
    order.history.iter().map(|progress| progress.event.as_str()).collect()
}

//! Stand-ins for contexts, and the plain counterpart of their stores.

use std::path::Path;
use std::sync::{Arc, Mutex};

use diesel::connection::SimpleConnection as _;
use diesel::dsl::max;
use diesel::prelude::*;
use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, Policy, Store, Wiring};
use proto::payment::v1::payment_service_server::PaymentService;
use proto::payment::v1::*;
use tonic::{Request, Response, Status};

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("tests/migrations/sqlite"),
    postgres: embed_migrations!("tests/migrations/postgres"),
};

diesel::table! {
    handled (id) {
        id -> Integer,
        policy -> Text,
        subject -> Text,
        sequence -> BigInt,
        generation -> Integer,
    }
}

/// A context with one table of its own.
pub(crate) struct StandIn {
    pub(crate) context: Context,
    store: Arc<Mutex<Option<Store>>>,
}

impl StandIn {
    pub(crate) fn new(name: &str, policies: fn() -> Vec<Policy>) -> Self {
        let store = Arc::new(Mutex::new(None));
        let slot = store.clone();
        let context = Context::new(
            name,
            || MIGRATIONS,
            move |kit| {
                *slot.lock().expect("a lock") = Some(kit.store());
                Ok(Wiring::default().policies(policies()))
            },
        );
        Self { context, store }
    }

    /// The store it was started with last.
    pub(crate) fn store(&self) -> Store {
        self.store.lock().expect("a lock").clone().expect("a context that was started")
    }
}

/// How many rows there are: none is ever removed.
pub(crate) async fn rows(store: &Store) -> i64 {
    let count = store.read(|conn| Ok(handled::table.select(max(handled::id)).first(conn)?));
    count.await.map(|last: Option<i32>| last.unwrap_or(0).into()).expect("a count")
}

/// A durable SQLite file with the same tables as a store, and nothing between.
pub(crate) fn plain_store(file: &Path) -> SqliteConnection {
    let mut conn = SqliteConnection::establish(&file.to_string_lossy()).expect("a store");
    let tables = [
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
        include_str!("../../migrations/sqlite/0000_mesh/up.sql"),
        include_str!("../../tests/migrations/sqlite/0001_handled/up.sql"),
    ];
    conn.batch_execute(&tables.concat()).expect("tables");
    conn
}

/// Answers queries without a look at anything.
#[derive(Clone)]
pub(crate) struct Desk;

fn payment() -> Option<Payment> {
    Some(Payment {
        name: "payments/01a1fc0b-34d2-7068-8d37-7675c7d06d61".to_owned(),
        customer: "accounts/01a1fc0b-34d2-7068-8d37-7675c7d06d62".to_owned(),
        ..Payment::default()
    })
}

#[tonic::async_trait]
impl PaymentService for Desk {
    async fn pay(&self, _: Request<PayRequest>) -> Result<Response<PayResponse>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }

    async fn cancel_payment(
        &self,
        _: Request<CancelPaymentRequest>,
    ) -> Result<Response<CancelPaymentResponse>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }

    async fn get_payment_by_order(
        &self,
        _: Request<GetPaymentByOrderRequest>,
    ) -> Result<Response<GetPaymentByOrderResponse>, Status> {
        // As one that waits for its store: otherwise no two calls would ever be under way on one thread.
        tokio::task::yield_now().await;
        Ok(Response::new(GetPaymentByOrderResponse { payment: payment() }))
    }

    async fn get_payment(
        &self,
        _: Request<GetPaymentRequest>,
    ) -> Result<Response<GetPaymentResponse>, Status> {
        Ok(Response::new(GetPaymentResponse { payment: payment() }))
    }

    async fn list_payments(
        &self,
        _: Request<ListPaymentsRequest>,
    ) -> Result<Response<ListPaymentsResponse>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }
}

#![doc = include_str!("../README.md")]

mod domain;
mod pick;
mod policies;
mod rpc;
mod store;
mod wire;

use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, Wiring};
use proto::homemovie::app::v1::movie_application_service_server::MovieApplicationServiceServer;
use proto::payment::v1::payment_service_client::PaymentServiceClient;

/// The context's name: the domain of its refusals.
const NAME: &str = "homemovie.app";
const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("migrations/sqlite"),
    postgres: embed_migrations!("migrations/postgres"),
};

/// The context.
pub fn context() -> Context {
    Context::new(
        NAME,
        || MIGRATIONS,
        |kit| {
            // Giving money back must not wait for a breaker that charging has opened.
            let refund = PaymentServiceClient::new(kit.edge_for("payment", "undo")?);
            let pick = kit.saga(pick::PickMovie::new(kit.edge("payment")?, refund.clone()));
            Ok(Wiring::default()
                .serve(MovieApplicationServiceServer::new(rpc::Applications::new(kit, pick)))
                .policies(policies::policies(refund)))
        },
    )
}

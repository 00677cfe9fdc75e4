#![doc = include_str!("../README.md")]

mod charges;
mod domain;
mod provider;
mod refunds;
mod rpc;
mod settings;
mod store;
mod wire;

use std::sync::Arc;

use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, Wiring};
use proto::payment::v1::payment_service_server::PaymentServiceServer;

pub use provider::{ProviderEntry, ProviderLog};
pub use settings::{Delay, Settings};

/// The context's name: the domain of its refusals.
const NAME: &str = "payment";
const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("migrations/sqlite"),
    postgres: embed_migrations!("migrations/postgres"),
};

/// The context.
pub fn context(settings: Settings) -> Context {
    Context::new(
        NAME,
        || MIGRATIONS,
        move |kit| {
            let store = kit.store();
            let provider =
                Arc::new(provider::Simulated::new(provider::books::open(kit)?, &settings));
            let refunds =
                refunds::Refunds::new(store.clone(), provider.clone(), settings.sweep_after);
            let charges =
                charges::Charges { store: store.clone(), provider, refunds: refunds.clone() };
            Ok(Wiring::default()
                .background("refunds", refunds.clone().run())
                .serve(PaymentServiceServer::new(rpc::Service { store, charges, refunds })))
        },
    )
    .with_store_apart(provider::books::STORE, provider::books::migrations)
}

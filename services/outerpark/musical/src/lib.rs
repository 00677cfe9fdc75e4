#![doc = include_str!("../README.md")]

mod domain;
mod rpc;
mod settings;
mod store;
mod wire;

use diesel_migrations::embed_migrations;
use mesh::simulate::Load;
use mesh::{Context, Migrations, Wiring};
use proto::outerpark::musical::v1::musical_service_server::MusicalServiceServer;

pub use settings::Settings;

/// The context's name: the domain of its refusals.
const NAME: &str = "outerpark.musical";
const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("migrations/sqlite"),
    postgres: embed_migrations!("migrations/postgres"),
};

/// The context. It reacts to no events: a seat is freed by whoever took it.
pub fn context(settings: Settings) -> Context {
    Context::new(
        NAME,
        || MIGRATIONS,
        move |kit| {
            let load = Load::new(settings.delay.clone(), settings.concurrency);
            let service = rpc::Service { store: kit.store(), load, stopping: kit.stopping() };
            Ok(Wiring::default().serve(MusicalServiceServer::new(service)))
        },
    )
}

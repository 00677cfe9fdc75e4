#![doc = include_str!("../README.md")]

mod domain;
mod policies;
mod rpc;
mod seed;
mod store;
mod wire;

use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, Wiring};
use proto::homemovie::movie::v1::movie_service_server::MovieServiceServer;

/// The context's name: the domain of its refusals.
const NAME: &str = "homemovie.movie";
const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("migrations/sqlite"),
    postgres: embed_migrations!("migrations/postgres"),
};

/// The context. With `seed`, an empty catalogue begins with a few films.
pub fn context(seed: bool) -> Context {
    Context::new(
        NAME,
        || MIGRATIONS,
        move |kit| {
            let wiring = Wiring::default()
                .serve(MovieServiceServer::new(rpc::Movies::new(kit.store())))
                .policies(policies::policies());
            Ok(if seed { wiring.first(seed::fill_empty_catalogue(kit.store())) } else { wiring })
        },
    )
}

#![doc = include_str!("../README.md")]

mod domain;
mod follow;
mod projections;
mod rpc;
mod store;
mod watch;
mod wire;

use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, View, Wiring};
use proto::mypage::v1::my_page_service_server::MyPageServiceServer;

/// The context's name.
const NAME: &str = "mypage";
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
            let changes = watch::Changes::new(kit.store());
            let my_page = rpc::MyPage::new(kit.store(), changes.clone(), kit.stopping());
            Ok(Wiring::default()
                .serve(MyPageServiceServer::new(my_page))
                .view(View::new(projections::policies(), store::discard))
                .background("changes", changes.tell()))
        },
    )
}

/// What this context reacts to: for the map of events.
pub fn policies() -> Vec<mesh::Policy> {
    projections::policies()
}

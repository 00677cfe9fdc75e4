#![doc = include_str!("../README.md")]

mod clock;
mod domain;
mod policies;
mod reserve;
mod rpc;
mod settings;
mod store;
mod wire;

use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, Wiring};
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1::reservation_service_server::ReservationServiceServer;
use proto::payment::v1::payment_service_client::PaymentServiceClient;

pub use settings::Settings;

/// The context's name: the domain of its refusals.
const NAME: &str = "outerpark.reservation";
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
            // Giving back must not wait for a breaker that taking has opened.
            let give_back = MusicalServiceClient::new(kit.edge_for("outerpark.musical", "undo")?);
            let reserve = kit.saga(reserve::Reserve::new(
                kit.edge("outerpark.musical")?,
                give_back.clone(),
                settings.holds(),
            ));
            let clock = clock::Clock::new(kit.store());
            let others = policies::Others {
                store: kit.store(),
                clock: clock.clone(),
                payment: PaymentServiceClient::new(kit.edge_for("payment", "pay")?),
                refund: PaymentServiceClient::new(kit.edge_for("payment", "undo")?),
                musical: give_back,
                notice: NoticeServiceClient::new(kit.edge_for("notice", "send")?),
            };
            Ok(Wiring::default()
                .serve(ReservationServiceServer::new(rpc::Reservations::new(
                    kit, reserve, &settings,
                )))
                .policies(policies::policies(&others))
                .background("clock", clock.run()))
        },
    )
}

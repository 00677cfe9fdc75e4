#![doc = include_str!("../README.md")]

mod directory;
mod domain;
mod follow;
mod mail;
mod rpc;
mod sender;
mod settings;
mod store;
mod texts;
mod webhook;
mod wire;

use std::sync::Arc;

use diesel_migrations::embed_migrations;
use mesh::{Context, Migrations, Watchers, Wiring};
use proto::notice::v1::Noticed;
use proto::notice::v1::notice_service_server::NoticeServiceServer;

pub use settings::{Mail, Settings, Webhook};

/// The context's name: the domain of its refusals.
const NAME: &str = "notice";
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
            let directory = directory::Directory::new(kit.edge("identity")?);
            let mut couriers: Vec<Arc<dyn sender::Courier>> = Vec::new();
            if let Some(mail) = &settings.mail {
                let courier = mail::MailCourier::new(mail, directory.clone());
                couriers.push(Arc::new(courier.map_err(mesh::Error::internal)?));
            }
            if let Some(webhook) = &settings.webhook {
                let courier = webhook::WebhookCourier::new(webhook, settings.timeout);
                couriers.push(Arc::new(courier.map_err(mesh::Error::internal)?));
            }
            // One for each medium, so that a mail server that hangs holds up no webhook.
            let sender = |courier| sender::Sender::new(store.clone(), courier, settings.retries());
            let senders: Vec<_> = couriers.into_iter().map(sender).collect();
            let wiring = senders.iter().fold(Wiring::default(), |wiring, sender| {
                wiring.background(sender.name(), sender.clone().run())
            });
            let (inboxes, stopping) = (Watchers::default(), kit.stopping());
            let told =
                inboxes.clone().tell_of_events(store.clone(), |noticed: Noticed| noticed.recipient);
            let service = rpc::Service { store, directory, senders, inboxes, stopping };
            Ok(wiring.serve(NoticeServiceServer::new(service)).background("inboxes", told))
        },
    )
}

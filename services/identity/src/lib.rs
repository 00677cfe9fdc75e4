#![doc = include_str!("../README.md")]

mod domain;
mod first_admin;
mod keys;
mod limits;
mod password_reset;
mod passwords;
mod rpc;
mod settings;
mod store;
mod tokens;
mod wire;

use std::sync::Arc;

use diesel_migrations::embed_migrations;
use mesh::auth::KeySource;
use mesh::{Context, Mesh, Migrations, Result, Wiring};
use proto::identity::v1::GetJwksRequest;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::identity::v1::identity_service_server::IdentityServiceServer;

pub use password_reset::password_reset;
pub use settings::{FirstAdmin, Settings};

/// The context's name: the domain of its refusals.
const NAME: &str = "identity";
const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("migrations/sqlite"),
    postgres: embed_migrations!("migrations/postgres"),
};

/// The context.
pub fn context(settings: Settings) -> Context {
    let passwords = passwords::Passwords::new();
    Context::new(
        NAME,
        || MIGRATIONS,
        move |kit| {
            let identity = rpc::Identity::new(kit, &settings, &passwords)?;
            Ok(Wiring::default()
                .first(first_admin::make(kit.store(), passwords.clone(), settings.clone()))
                .background("housekeeping", identity.clone().keep_house())
                .serve(IdentityServiceServer::new(identity)))
        },
    )
}

/// Where a process of the mesh gets the public keys of access tokens: from identity, wherever that is.
pub fn keys_of(mesh: &Mesh) -> Result<KeySource> {
    let client = IdentityServiceClient::new(mesh.channel("turnstile", NAME)?);
    Ok(Arc::new(move || {
        let mut client = client.clone();
        Box::pin(async move { Ok(client.get_jwks(GetJwksRequest {}).await?.into_inner().jwks) })
    }))
}

//! The program as a client of a running system, like any other client.

pub(crate) use mesh_client::SignedIn;
use proto::identity::v1::SignUpRequest;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use tonic::transport::{Channel, Endpoint};

/// Why the program could not do its part.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Connects to a running system.
pub(crate) async fn connect(target: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(target.to_owned()).map_err(|error| {
        format!("{target} is not an address like http://127.0.0.1:8088: {error}")
    })?;
    endpoint.connect().await.map_err(|error| format!("nothing answers at {target}: {error}").into())
}

/// A new customer, signed in: the account's name and a connection.
pub(crate) async fn new_customer(
    channel: &Channel,
    name: &str,
) -> Result<(String, SignedIn), Failure> {
    let email = format!("{name}-{}@example.org", uuid::Uuid::now_v7());
    let password = mesh::auth::random_text();
    let request = SignUpRequest {
        email: email.clone(),
        password: password.clone(),
        display_name: name.to_owned(),
        language_code: String::new(),
    };
    IdentityServiceClient::new(channel.clone()).sign_up(request).await?;
    sign_in(channel, &email, &password).await
}

/// Signs in: the account's name and a connection.
pub(crate) async fn sign_in(
    channel: &Channel,
    email: &str,
    password: &str,
) -> Result<(String, SignedIn), Failure> {
    Ok(SignedIn::sign_in(channel, email, password).await?)
}

/// The password of the first admin, from the environment.
pub(crate) fn admin_password() -> Result<String, Failure> {
    let mut settings = mesh::config::Settings::default().environment(std::env::vars());
    settings
        .read_optional::<mesh::config::Secret>("TURNSTILE_ADMIN_PASSWORD")
        .map(|secret| secret.reveal().to_owned())
        .ok_or_else(|| "set TURNSTILE_ADMIN_PASSWORD to the admin's password".into())
}

/// A new `request_id`.
pub(crate) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

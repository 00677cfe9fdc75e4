//! The program as a client of a running system, like any other client.

use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::identity::v1::{SignInRequest, SignUpRequest};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Puts an access token on each call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(tonic::metadata::AsciiMetadataValue);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A connection as somebody who is signed in.
pub(crate) type SignedIn = InterceptedService<Channel, Bearer>;

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
    let request = SignInRequest { email: email.to_owned(), password: password.to_owned() };
    let answer = IdentityServiceClient::new(channel.clone()).sign_in(request).await?.into_inner();
    let token = answer.tokens.ok_or("sign-in without tokens")?.access_token;
    let bearer = Bearer(format!("Bearer {token}").parse()?);
    Ok((answer.account.unwrap_or_default().name, InterceptedService::new(channel.clone(), bearer)))
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

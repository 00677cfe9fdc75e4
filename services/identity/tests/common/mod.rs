//! What the tests of identity share.
#![allow(dead_code, unreachable_pub, reason = "no test needs all of it")]

use std::sync::{Arc, Mutex};

use identity::Settings;
use mesh_testing::{Account, SignedIn, TestMesh};
use proto::identity::v1 as api;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use tonic::{Response, Status};

pub const EMAIL: &str = "jang@example.com";
pub const PASSWORD: &str = "correct horse battery";
pub const ADMIN: &str = "admin@localhost";

/// Identity alone, and a process that knows its keys.
pub struct Identity {
    pub mesh: TestMesh,
    /// What was told of the first admin: its password, and whether it was given.
    pub told: Arc<Mutex<Vec<(String, bool)>>>,
}

pub fn settings() -> Settings {
    // Tests try often, and from one address.
    Settings { tries_per_account: 0, tries_per_address: 0, ..Settings::default() }
}

impl Identity {
    pub async fn start(mut settings: Settings) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        settings.on_first_admin = Arc::new(move |admin| {
            assert_eq!(admin.email, ADMIN);
            tell.lock().unwrap().push((admin.password.reveal().to_owned(), admin.was_given));
        });
        let mesh = TestMesh::start(&[identity::context(settings)]).await;
        mesh.mesh.read_keys_from(identity::keys_of(&mesh.mesh).expect("a source of keys"));
        Self { mesh, told }
    }

    pub fn stranger(&self) -> IdentityServiceClient<tonic::transport::Channel> {
        IdentityServiceClient::new(self.mesh.stranger())
    }

    pub async fn sign_up(&self, email: &str) -> Result<api::Account, Status> {
        let request = api::SignUpRequest {
            email: email.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let answer = self.stranger().sign_up(request).await.map(Response::into_inner)?;
        Ok(answer.account.expect("an account"))
    }

    pub async fn sign_in(
        &self,
        email: &str,
        password: &str,
    ) -> Result<api::SignInResponse, Status> {
        let request = api::SignInRequest { email: email.to_owned(), password: password.to_owned() };
        self.stranger().sign_in(request).await.map(Response::into_inner)
    }

    pub async fn refresh(&self, token: &str) -> Result<api::Tokens, Status> {
        let request = api::RefreshTokenRequest { refresh_token: token.to_owned() };
        let answer = self.stranger().refresh_token(request).await.map(Response::into_inner)?;
        Ok(answer.tokens.expect("tokens"))
    }

    pub async fn sign_out(&self, token: &str) -> Result<(), Status> {
        let request = api::SignOutRequest { refresh_token: token.to_owned() };
        self.stranger().sign_out(request).await.map(drop)
    }

    /// Signs up, signs in.
    pub async fn customer(&self) -> api::Tokens {
        self.sign_up(EMAIL).await.expect("an account");
        self.sign_in(EMAIL, PASSWORD).await.expect("a sign-in").tokens.expect("tokens")
    }

    /// Signs the first admin in.
    pub async fn admin(&self) -> api::Tokens {
        let password = self.told.lock().unwrap()[0].0.clone();
        self.sign_in(ADMIN, &password).await.expect("a sign-in").tokens.expect("tokens")
    }

    pub fn with(&self, access_token: &str) -> IdentityServiceClient<SignedIn> {
        let account = Account::of(access_token, mesh::Id::new(), self.mesh.address());
        IdentityServiceClient::new(account.connect())
    }

    pub async fn my_account(&self, access_token: &str) -> Result<api::Account, Status> {
        let answer = self.with(access_token).get_my_account(api::GetMyAccountRequest {}).await?;
        Ok(answer.into_inner().account.expect("an account"))
    }
}

//! A stand-in for identity: it knows the accounts that it is told of.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use diesel_migrations::embed_migrations;
use mesh::{Accounts, Context, Error, Id, Migrations, Wiring};
use proto::identity::v1 as api;
use proto::identity::v1::identity_service_server::{IdentityService, IdentityServiceServer};
use tonic::{Request, Response, Status};

const LOG_ONLY: Migrations = Migrations {
    sqlite: embed_migrations!("tests/migrations/sqlite"),
    postgres: embed_migrations!("tests/migrations/postgres"),
};

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct StandIn {
    accounts: Arc<Mutex<HashMap<String, api::Account>>>,
    /// Whether it never answers.
    pub(crate) hangs: Arc<AtomicBool>,
    /// How often it was asked.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl StandIn {
    pub(crate) fn context(&self) -> Context {
        let stand_in = self.clone();
        Context::new(
            "identity",
            || LOG_ONLY,
            move |_| Ok(Wiring::default().serve(IdentityServiceServer::new(stand_in.clone()))),
        )
    }

    /// Knows this account from now on.
    pub(crate) fn know(&self, id: Id<Accounts>, email: &str, language_code: &str) {
        let account = api::Account {
            name: id.to_string(),
            email: email.to_owned(),
            display_name: "장보고".to_owned(),
            language_code: language_code.to_owned(),
            ..api::Account::default()
        };
        self.accounts.lock().expect("accounts").insert(id.to_string(), account);
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("a stand-in knows accounts only"))
}

#[tonic::async_trait]
impl IdentityService for StandIn {
    async fn get_account(
        &self,
        request: Request<api::GetAccountRequest>,
    ) -> Answer<api::GetAccountResponse> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let name = request.into_inner().name;
        let account = self.accounts.lock().expect("accounts").get(&name).cloned();
        let account = account.ok_or(Error::NotFound(name))?;
        Ok(Response::new(api::GetAccountResponse { account: Some(account) }))
    }

    async fn sign_up(&self, _: Request<api::SignUpRequest>) -> Answer<api::SignUpResponse> {
        not_here()
    }

    async fn sign_in(&self, _: Request<api::SignInRequest>) -> Answer<api::SignInResponse> {
        not_here()
    }

    async fn refresh_token(
        &self,
        _: Request<api::RefreshTokenRequest>,
    ) -> Answer<api::RefreshTokenResponse> {
        not_here()
    }

    async fn sign_out(&self, _: Request<api::SignOutRequest>) -> Answer<api::SignOutResponse> {
        not_here()
    }

    async fn get_my_account(
        &self,
        _: Request<api::GetMyAccountRequest>,
    ) -> Answer<api::GetMyAccountResponse> {
        not_here()
    }

    async fn grant_role(
        &self,
        _: Request<api::GrantRoleRequest>,
    ) -> Answer<api::GrantRoleResponse> {
        not_here()
    }

    async fn rotate_signing_key(
        &self,
        _: Request<api::RotateSigningKeyRequest>,
    ) -> Answer<api::RotateSigningKeyResponse> {
        not_here()
    }

    async fn get_jwks(&self, _: Request<api::GetJwksRequest>) -> Answer<api::GetJwksResponse> {
        not_here()
    }
}

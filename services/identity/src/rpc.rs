//! `IdentityService`: a function an RPC.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh::config::Secret;
use mesh::{Caller, Check, Kit, Result, Store, Tx};
use proto::identity::v1 as api;
use proto::identity::v1::identity_service_server::IdentityService;
use tonic::{Request, Response, Status};

use crate::domain::{
    Account, Email, LONGEST_DISPLAY_NAME, LONGEST_EMAIL, PASSWORD_LENGTH, Presented, RefreshToken,
    Refusal,
};
use crate::keys::Keys;
use crate::limits::Limits;
use crate::passwords::Passwords;
use crate::settings::Settings;
use crate::{store, tokens, wire};

/// The most characters of what may be a refresh token. Access tokens are longer than ours, and people mix them up.
const LONGEST_TOKEN: usize = 8 * 1024;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    store: Store,
    keys: Arc<Keys>,
    limits: Arc<Limits>,
    passwords: Passwords,
    settings: Settings,
}

impl Identity {
    pub(crate) fn new(kit: &Kit, settings: &Settings, passwords: &Passwords) -> Result<Self> {
        Ok(Self {
            store: kit.store(),
            keys: Arc::new(Keys::open(&kit.data(), settings)?),
            limits: Arc::new(Limits::new(settings)),
            passwords: passwords.clone(),
            settings: settings.clone(),
        })
    }

    /// Removes what has expired, for ever.
    pub(crate) async fn keep_house(self) {
        loop {
            if let Err(error) = self.keys.refresh(mesh::now()) {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(error, "the signing keys were not refreshed: the known ones stay");
            }
            match self.store.write(|tx| store::forget_expired(tx, mesh::now())).await {
                Ok(some) if some > 0 => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "expired refresh tokens were not forgotten"),
            }
            tokio::time::sleep(self.settings.housekeeping).await;
        }
    }

    fn refresh_token_expires(&self) -> SystemTime {
        mesh::now() + self.settings.refresh_token_life
    }

    fn pair(&self, account: &Account, text: &Secret, kept: &RefreshToken) -> Result<api::Tokens> {
        let Settings { trust, access_token_life, .. } = &self.settings;
        tokens::pair(&self.keys, trust, *access_token_life, account, text, kept)
    }
}

/// Spends the token with this hash, and keeps the next one of its sign-in. Without one there is nothing to go on with.
fn spend(
    tx: &mut Tx<'_>,
    hash: &str,
    next: String,
    next_expires: SystemTime,
    grace: Duration,
) -> Result<Option<(Account, RefreshToken)>> {
    let Some(mut token) = store::token(tx, hash)? else { return Ok(None) };
    match token.present(next, next_expires, tx.now(), grace) {
        Presented::Exchanged(next) => {
            store::save_spent(tx, &token)?;
            store::add_token(tx, &next)?;
            Ok(Some((store::account(tx, token.account)?, next)))
        }
        Presented::Replayed => {
            tracing::warn!(account.name = %token.account, "a spent refresh token came again: its sign-in is revoked");
            store::revoke(tx, token.sign_in)?;
            Ok(None)
        }
        Presented::Expired => Ok(None),
    }
}

#[tonic::async_trait]
impl IdentityService for Identity {
    async fn sign_up(
        &self,
        request: Request<api::SignUpRequest>,
    ) -> Result<Response<api::SignUpResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::new();
        let email = wire::email(&mut check, "email", &request.email);
        let password = Secret::new(check.text("password", &request.password, PASSWORD_LENGTH));
        let display_name =
            check.text("display_name", &request.display_name, 0..=LONGEST_DISPLAY_NAME);
        let language = wire::language(&mut check, "language_code", &request.language_code);
        check.finish()?;
        self.limits.sign_up(&email.key(), caller.address()).map_err(mesh::Error::from)?;

        let hash = self.passwords.hash(password).await?;
        let work = move |tx: &mut Tx<'_>| {
            let (account, created) = Account::sign_up(email, &display_name, language, tx.now());
            store::add_account(tx, &account, &hash)?;
            tx.publish(account.id, account.id, &api::AccountCreated::from(created))?;
            Ok(api::SignUpResponse { account: Some(account.into()) })
        };
        Ok(Response::new(self.store.write(work).await?))
    }

    async fn sign_in(
        &self,
        request: Request<api::SignInRequest>,
    ) -> Result<Response<api::SignInResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::new();
        let key = Email::key_of(&check.text("email", &request.email, 1..=LONGEST_EMAIL));
        let password =
            Secret::new(check.text("password", &request.password, 1..=*PASSWORD_LENGTH.end()));
        check.finish()?;
        self.limits.sign_in(&key, caller.address()).map_err(mesh::Error::from)?;

        let found = self.store.read(move |conn| store::account_by_email(conn, &key)).await?;
        let (account, hash) = found.unzip();
        let known = self.passwords.verify(password, hash).await?;
        let account = account
            .filter(|_| known)
            .ok_or(Refusal::WrongCredentials)
            .map_err(mesh::Error::from)?;

        let text = tokens::new_refresh_token();
        let token =
            RefreshToken::first(account.id, tokens::hash_of(&text), self.refresh_token_expires());
        let tokens = self.pair(&account, &text, &token)?;
        self.store.write(move |tx| store::add_token(tx, &token)).await?;
        Ok(Response::new(api::SignInResponse {
            account: Some(account.into()),
            tokens: Some(tokens),
        }))
    }

    async fn refresh_token(
        &self,
        request: Request<api::RefreshTokenRequest>,
    ) -> Result<Response<api::RefreshTokenResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::new();
        let presented =
            Secret::new(check.text("refresh_token", &request.refresh_token, 1..=LONGEST_TOKEN));
        check.finish()?;

        let text = tokens::new_refresh_token();
        let (hash, next) = (tokens::hash_of(&presented), tokens::hash_of(&text));
        let (expires, grace) = (self.refresh_token_expires(), self.settings.refresh_grace);
        // A replay is refused, and revokes: the transaction is kept.
        let spent = self.store.write(move |tx| spend(tx, &hash, next, expires, grace)).await?;
        let (account, token) =
            spent.ok_or(Refusal::RefreshTokenInvalid).map_err(mesh::Error::from)?;
        let tokens = self.pair(&account, &text, &token)?;
        Ok(Response::new(api::RefreshTokenResponse { tokens: Some(tokens) }))
    }

    async fn sign_out(
        &self,
        request: Request<api::SignOutRequest>,
    ) -> Result<Response<api::SignOutResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::new();
        let presented =
            Secret::new(check.text("refresh_token", &request.refresh_token, 1..=LONGEST_TOKEN));
        check.finish()?;

        let hash = tokens::hash_of(&presented);
        let work = move |tx: &mut Tx<'_>| match store::token(tx, &hash)? {
            Some(token) => store::revoke(tx, token.sign_in),
            None => Ok(()),
        };
        self.store.write(work).await?;
        Ok(Response::new(api::SignOutResponse {}))
    }

    async fn get_my_account(
        &self,
        request: Request<api::GetMyAccountRequest>,
    ) -> Result<Response<api::GetMyAccountResponse>, Status> {
        let (caller, _) = Caller::of(request)?;
        let id = caller.account()?;
        let account = self.store.look_up(move |conn| store::account(conn, id)).await?;
        Ok(Response::new(api::GetMyAccountResponse { account: Some(account.into()) }))
    }

    async fn get_account(
        &self,
        request: Request<api::GetAccountRequest>,
    ) -> Result<Response<api::GetAccountResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;
        let account = self.store.look_up(move |conn| store::account(conn, id)).await?;
        Ok(Response::new(api::GetAccountResponse { account: Some(account.into()) }))
    }

    async fn grant_role(
        &self,
        request: Request<api::GrantRoleRequest>,
    ) -> Result<Response<api::GrantRoleResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let id = check.id("name", &request.name);
        let role = wire::role(&mut check, "role", request.role());
        check.finish()?;

        let work = move |tx: &mut Tx<'_>| {
            let mut account = store::account(tx, id)?;
            if let Some(granted) = account.grant(role) {
                store::save_roles(tx, &account)?;
                tx.publish(account.id, account.id, &api::RoleGranted::from(granted))?;
            }
            Ok(api::GrantRoleResponse { account: Some(account.into()) })
        };
        Ok(Response::new(self.store.once(&caller, &request, work).await?))
    }

    async fn rotate_signing_key(
        &self,
        request: Request<api::RotateSigningKeyRequest>,
    ) -> Result<Response<api::RotateSigningKeyResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        Check::command(&request).finish()?;

        // The answer is kept before the key is made: the request repeated makes up for a death in between, and never
        // makes a second key.
        let keys = self.keys.clone();
        let work =
            move |_: &mut Tx<'_>| Ok(api::RotateSigningKeyResponse { key_id: keys.next_kid()? });
        let answer = self.store.once(&caller, &request, work).await?;
        self.keys.make(&answer.key_id).map_err(mesh::Error::from)?;
        Ok(Response::new(answer))
    }

    async fn get_jwks(
        &self,
        _: Request<api::GetJwksRequest>,
    ) -> Result<Response<api::GetJwksResponse>, Status> {
        Ok(Response::new(api::GetJwksResponse { jwks: self.keys.jwks() }))
    }
}

//! A connection that stays signed in: its access token is renewed at identity before it ends.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::identity::v1::{RefreshTokenRequest, SignInRequest, Tokens};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt as _};

/// A token is renewed so long before it ends; of one that is short-lived, when a quarter of its life is left.
const BEFORE_THE_END: Duration = Duration::from_secs(60);
/// How soon it is tried again when identity did not answer.
const AGAIN: Duration = Duration::from_secs(5);
/// How long calls wait for identity.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Identity refused, or did not answer.
    #[error(transparent)]
    Refused(#[from] Status),
    /// Identity answered without tokens that can be used.
    #[error("identity answered without tokens that can be used")]
    NoTokens,
}

/// A connection as somebody who is signed in, for generated clients. Cheap to clone; clones share the tokens.
#[derive(Clone)]
pub struct SignedIn {
    channel: Channel,
    session: Arc<Session>,
}

impl fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedIn").finish_non_exhaustive()
    }
}

struct Session {
    held: RwLock<Held>,
    /// One renews, the others wait.
    refresh_token: Mutex<String>,
}

#[derive(Clone)]
struct Held {
    bearer: HeaderValue,
    renew_at: Instant,
}

impl SignedIn {
    /// Signs in: the account's name and a connection.
    pub async fn sign_in(
        channel: &Channel,
        email: &str,
        password: &str,
    ) -> Result<(String, Self), SignInError> {
        let request = SignInRequest { email: email.to_owned(), password: password.to_owned() };
        let mut identity = IdentityServiceClient::new(channel.clone());
        let answer = identity.sign_in(request).await?.into_inner();
        let signed_in = Self::with(channel, answer.tokens.ok_or(SignInError::NoTokens)?)?;
        Ok((answer.account.unwrap_or_default().name, signed_in))
    }

    /// Goes on with tokens of an earlier sign-in.
    pub fn with(channel: &Channel, tokens: Tokens) -> Result<Self, SignInError> {
        let held = Held::of(&tokens).ok_or(SignInError::NoTokens)?;
        let refresh_token = Mutex::new(tokens.refresh_token);
        let session = Session { held: RwLock::new(held), refresh_token };
        Ok(Self { channel: channel.clone(), session: Arc::new(session) })
    }

    /// What to show with a call: a token that is good for a while.
    async fn bearer(&self) -> HeaderValue {
        let held = self.session.held();
        if Instant::now() < held.renew_at {
            return held.bearer;
        }
        let mut refresh_token = self.session.refresh_token.lock().await;
        let held = self.session.held();
        if Instant::now() < held.renew_at {
            return held.bearer;
        }
        match self.renew(&refresh_token).await {
            Some((tokens, fresh)) => {
                *refresh_token = tokens.refresh_token;
                self.session.hold(fresh.clone());
                fresh.bearer
            }
            // The old one may still be good; if not, who is called says so.
            None => {
                self.session.hold(Held { renew_at: Instant::now() + AGAIN, ..held.clone() });
                held.bearer
            }
        }
    }

    async fn renew(&self, refresh_token: &str) -> Option<(Tokens, Held)> {
        let request = RefreshTokenRequest { refresh_token: refresh_token.to_owned() };
        let mut identity = IdentityServiceClient::new(self.channel.clone());
        let answer = timeout(PATIENCE, identity.refresh_token(request)).await.ok()?.ok()?;
        let tokens = answer.into_inner().tokens?;
        let held = Held::of(&tokens)?;
        Some((tokens, held))
    }
}

impl Session {
    fn held(&self) -> Held {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

impl Held {
    fn of(tokens: &Tokens) -> Option<Self> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", tokens.access_token)).ok()?;
        bearer.set_sensitive(true);
        let end = tokens.access_token_expire_time.and_then(|end| SystemTime::try_from(end).ok())?;
        #[expect(clippy::disallowed_methods, reason = "a client knows nothing of the kit")]
        let life = end.duration_since(SystemTime::now()).unwrap_or_default();
        let renew_at = Instant::now() + life.saturating_sub(BEFORE_THE_END.min(life / 4));
        Some(Self { bearer, renew_at })
    }
}

impl Service<http::Request<Body>> for SignedIn {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<http::Response<Body>, tonic::transport::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let signed_in = self.clone();
        Box::pin(async move {
            let bearer = signed_in.bearer().await;
            request.headers_mut().insert(AUTHORIZATION, bearer);
            signed_in.channel.oneshot(request).await
        })
    }
}

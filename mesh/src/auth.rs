//! Who somebody is: access tokens of accounts, and tokens by which contexts know each other.
//!
//! An access token is a JWT (`EdDSA`) whose keys come from identity's `GetJwks`: kept in memory and on disk, so that a
//! context knows its customers while identity is down, and read again when a token names a key that is not known, at
//! most every 30 s. A context proves itself to another process with a token signed with the mesh's own key; within one
//! process the caller is a request extension, which nothing outside can make.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// How often the keys are read again at the most.
const REREAD: Duration = Duration::from_secs(30);
const REREAD_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A longer token is not one of ours.
const LONGEST_TOKEN: usize = 8 * 1024;
/// How many good tokens are known at once.
const KNOWN_TOKENS: usize = 16 * 1024;
/// How long a context's token is good for.
const SERVICE_TOKEN_LIFE: Duration = Duration::from_secs(60);
/// `iss` of the tokens of contexts.
const MESH: &str = "turnstile-mesh";

/// What an access token says. Identity writes it, everybody reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Who issued it.
    pub iss: String,
    /// Whom it is for.
    pub aud: String,
    /// The account's resource name.
    pub sub: String,
    /// What the account may do: `CUSTOMER`, `ADMIN`.
    pub roles: BTreeSet<String>,
    /// When it was issued, seconds since 1970.
    pub iat: u64,
    /// Before when it is not good, seconds since 1970.
    pub nbf: u64,
    /// When it ends, seconds since 1970.
    pub exp: u64,
}

/// Whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The `iss` a token must have.
    pub issuer: String,
    /// The `aud` a token must have.
    pub audience: String,
}

impl Default for Trust {
    fn default() -> Self {
        Self { issuer: "turnstile".to_owned(), audience: "turnstile".to_owned() }
    }
}

/// Where the public keys come from: answers with a JWK set as JSON.
pub type KeySource =
    Arc<dyn Fn() -> futures::future::BoxFuture<'static, Result<String>> + Send + Sync + 'static>;

/// Reads access tokens.
pub(crate) struct Verifier {
    trust: Trust,
    source: Mutex<Option<KeySource>>,
    cache: Option<PathBuf>,
    keys: RwLock<HashMap<String, DecodingKey>>,
    good: GoodTokens,
    last_read: tokio::sync::Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Accepts the tokens that `trust` says; keys read once are kept in the file `cache`, too.
    pub(crate) fn new(trust: Trust, cache: Option<PathBuf>) -> Self {
        let verifier = Self {
            trust,
            source: Mutex::new(None),
            cache,
            keys: RwLock::default(),
            good: GoodTokens::default(),
            last_read: tokio::sync::Mutex::new(None),
        };
        if let Some(kept) =
            verifier.cache.as_ref().and_then(|file| std::fs::read_to_string(file).ok())
            && let Err(error) = verifier.take(&kept)
        {
            tracing::warn!(%error, "the kept keys of identity are not usable: they will be read again");
        }
        verifier
    }

    pub(crate) fn read_keys_from(&self, source: KeySource) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// What a good token says. Every bad one is [`Error::Unauthenticated`]; [`Error::Unavailable`] only where it names
    /// a key that could not be looked up.
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<AccessClaims>> {
        if token.len() > LONGEST_TOKEN {
            return Err(Error::Unauthenticated);
        }
        let known = GoodTokens::key(token);
        if let Some(claims) = self.good.find(&known, seconds(SystemTime::now())) {
            return Ok(claims);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Unauthenticated)?;
        let kid = header.kid.filter(|kid| kid.len() <= 100).ok_or(Error::Unauthenticated)?;
        let key = match self.key(&kid) {
            Some(key) => key,
            None => {
                self.read_again().await?;
                self.key(&kid).ok_or(Error::Unauthenticated)?
            }
        };
        // The algorithm is ours to say, never the token's.
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_issuer(&[&self.trust.issuer]);
        rules.set_audience(&[&self.trust.audience]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        rules.validate_nbf = true;
        rules.leeway = LEEWAY.as_secs();
        let token = jsonwebtoken::decode::<AccessClaims>(token, &key, &rules);
        let claims = Arc::new(token.map_err(|_| Error::Unauthenticated)?.claims);
        // One whose key was taken away meanwhile must not stay known: keys are changed when nobody holds them.
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&kid) {
            self.good.keep(known, claims.clone());
        }
        Ok(claims)
    }

    fn key(&self, kid: &str) -> Option<DecodingKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }

    async fn read_again(&self) -> Result<()> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(source) = source else { return Ok(()) };
        let mut last = self.last_read.lock().await;
        if last.is_some_and(|at| at.elapsed() < REREAD) {
            return Ok(());
        }
        let jwks = match source().await {
            Ok(jwks) => jwks,
            Err(error) => {
                tracing::warn!(%error, "the keys of identity could not be read");
                // Sooner than after a success, but not for each token that asks for it.
                *last = Instant::now().checked_sub(REREAD - REREAD_AFTER_FAILURE);
                return Err(Error::unavailable("identity"));
            }
        };
        self.take(&jwks)?;
        *last = Some(Instant::now());
        if let Some(file) = &self.cache
            && let Err(error) = std::fs::write(file, &jwks)
        {
            tracing::warn!(%error, "the keys of identity could not be kept on disk");
        }
        Ok(())
    }

    fn take(&self, jwks: &str) -> Result<()> {
        let set: JwkSet = serde_json::from_str(jwks).map_err(Error::internal)?;
        let mut keys = HashMap::new();
        for jwk in set.keys {
            if let Some(kid) = jwk.common.key_id.clone() {
                keys.insert(kid, DecodingKey::from_jwk(&jwk).map_err(Error::internal)?);
            }
        }
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *held = keys;
        self.good.forget();
        Ok(())
    }
}

/// Tokens that were found good, so that a signature is checked once and not with every call. Known by their digest: the
/// tokens themselves are kept nowhere.
#[derive(Default)]
struct GoodTokens(RwLock<HashMap<[u8; 32], Arc<AccessClaims>>>);

impl GoodTokens {
    fn key(token: &str) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(digest.as_ref());
        key
    }

    /// What a known token says, as long as it is good.
    fn find(&self, key: &[u8; 32], now: u64) -> Option<Arc<AccessClaims>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|claims| is_live(claims, now)).cloned()
    }

    fn keep(&self, key: [u8; 32], claims: Arc<AccessClaims>) {
        let now = seconds(SystemTime::now());
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_TOKENS {
            known.retain(|_, claims| is_live(claims, now));
        }
        if known.len() < KNOWN_TOKENS {
            known.insert(key, claims);
        }
    }

    fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn is_live(claims: &AccessClaims, now: u64) -> bool {
    now < claims.exp.saturating_add(LEEWAY.as_secs())
}

#[derive(Serialize, Deserialize)]
struct ServiceClaims {
    iss: String,
    aud: String,
    sub: String,
    exp: u64,
}

/// The key that the contexts of one mesh share, to know each other across processes.
#[derive(Clone)]
pub struct MeshKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl std::fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeshKey(***)")
    }
}

impl MeshKey {
    /// The key made from a secret of at least 32 characters.
    pub fn new(secret: &str) -> Result<Self> {
        if secret.len() < 32 {
            return Err(Error::internal("the mesh key must have at least 32 characters"));
        }
        let secret = secret.as_bytes();
        Ok(Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
        })
    }

    /// A token by which `callee` knows that `caller` calls.
    pub(crate) fn sign(&self, caller: &str, callee: &str) -> Result<String> {
        let claims = ServiceClaims {
            iss: MESH.to_owned(),
            aud: callee.to_owned(),
            sub: caller.to_owned(),
            exp: seconds(SystemTime::now() + SERVICE_TOKEN_LIFE),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(Error::internal)
    }

    /// Which context calls `callee` with this token.
    pub(crate) fn verify(&self, token: &str, callee: &str) -> Result<String> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[MESH]);
        rules.set_audience(&[callee]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.leeway = LEEWAY.as_secs();
        let token = jsonwebtoken::decode::<ServiceClaims>(token, &self.decoding, &rules);
        token.map(|token| token.claims.sub).map_err(|_| Error::Unauthenticated)
    }
}

/// Seconds since 1970, as tokens count.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 256 random bits, as text.
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_token_is_good_for_its_callee_alone() {
        let key = MeshKey::new(&random_text()).unwrap();
        let token = key.sign("homemovie.app", "payment").unwrap();
        assert_eq!(key.verify(&token, "payment").unwrap(), "homemovie.app");
        assert!(key.verify(&token, "identity").is_err());
        assert!(MeshKey::new(&random_text()).unwrap().verify(&token, "payment").is_err());
    }

    #[test]
    fn a_known_token_is_good_until_it_ends_or_its_keys_change() {
        let claims = AccessClaims {
            iss: "turnstile".to_owned(),
            aud: "turnstile".to_owned(),
            sub: "accounts/1".to_owned(),
            roles: BTreeSet::new(),
            iat: 0,
            nbf: 0,
            exp: seconds(SystemTime::now()) + 60,
        };
        let (good, key, end) = (GoodTokens::default(), GoodTokens::key("token"), claims.exp);
        good.keep(key, Arc::new(claims));
        assert!(good.find(&key, end).is_some(), "clocks may differ a little");
        assert!(good.find(&key, end + LEEWAY.as_secs()).is_none());
        assert!(good.find(&GoodTokens::key("tokem"), end).is_none());
        good.forget();
        assert!(good.find(&key, end).is_none());
    }

    #[test]
    fn a_short_mesh_key_is_refused() {
        assert!(MeshKey::new("secret").is_err());
    }
}

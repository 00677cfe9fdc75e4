//! Who somebody is: access tokens of accounts, and tokens by which contexts know each other.
//!
//! An access token is a JWT (`EdDSA`) whose keys come from identity's `GetJwks`: kept in memory and on disk, so that a
//! context knows its customers while identity is down, and read again when a token names a key that is not known, at
//! most every 30 s. A context proves itself to another process with a token signed with the mesh's own key; within one
//! process the caller is a request extension, which nothing outside can make.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Error, Result};

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// How often the keys are read again at the most.
const REREAD: Duration = Duration::from_secs(30);
const REREAD_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The same while none is known, and everybody waits.
const REREAD_AT_FIRST: Duration = Duration::from_millis(100);
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
    last_read: tokio::sync::Mutex<Option<LastRead>>,
}

/// When the keys were read last, and whether that went well.
#[derive(Debug, Clone, Copy)]
struct LastRead {
    at: Instant,
    failed: bool,
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

    /// Reads the keys, however long their source is away: who comes first should not have to wait for them.
    pub(crate) async fn know_keys(&self) {
        let mut said = Instant::now();
        while self.knows_no_key() {
            let _ = self.read_again().await;
            tokio::time::sleep(REREAD_AT_FIRST).await;
            if said.elapsed() > REREAD {
                tracing::warn!(
                    "the keys of identity are not known yet: customers are told to come again"
                );
                said = Instant::now();
            }
        }
    }

    /// What a good token says. Every bad one is [`Error::Unauthenticated`]; [`Error::Unavailable`] only where it names
    /// a key that could not be looked up.
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<AccessClaims>> {
        if token.len() > LONGEST_TOKEN {
            return Err(Error::Unauthenticated);
        }
        let known = GoodTokens::key(token);
        if let Some(claims) = self.good.find(&known, seconds(crate::now())) {
            return Ok(claims);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Unauthenticated)?;
        let kid = header.kid.filter(|kid| kid.len() <= 100).ok_or(Error::Unauthenticated)?;
        let key = match self.key(&kid) {
            Some(key) => key,
            None => {
                Box::pin(self.read_again()).await?;
                self.key(&kid).ok_or(Error::Unauthenticated)?
            }
        };
        // The algorithm is ours to say, never the token's.
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_issuer(&[&self.trust.issuer]);
        rules.set_audience(&[&self.trust.audience]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // The time is ours to say, too.
        rules.validate_exp = false;
        let token = jsonwebtoken::decode::<AccessClaims>(token, &key, &rules);
        let claims = Arc::new(token.map_err(|_| Error::Unauthenticated)?.claims);
        let now = seconds(crate::now());
        if !is_live(claims.exp, now) || now + LEEWAY.as_secs() < claims.nbf {
            return Err(Error::Unauthenticated);
        }
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

    fn knows_no_key(&self) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn pause_after_failure(&self) -> Duration {
        if self.knows_no_key() { REREAD_AT_FIRST } else { REREAD_AFTER_FAILURE }
    }

    async fn read_again(&self) -> Result<()> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(source) = source else { return Ok(()) };
        let mut last = self.last_read.lock().await;
        match *last {
            Some(LastRead { at, failed: false }) if at.elapsed() < REREAD => return Ok(()),
            // Sooner than after a success, but not for each token that asks for it.
            Some(LastRead { at, failed: true }) if at.elapsed() < self.pause_after_failure() => {
                return Err(Error::unavailable("identity"));
            }
            _ => {}
        }
        let read = source().await.and_then(|jwks| self.take(&jwks).map(|()| jwks));
        *last = Some(LastRead { at: Instant::now(), failed: read.is_err() });
        let jwks = read.map_err(|error| {
            if self.knows_no_key() {
                tracing::debug!(%error, "the keys of identity could not be read yet");
            } else {
                tracing::warn!(%error, "the keys of identity could not be read");
            }
            Error::unavailable("identity")
        })?;
        if let Some(file) = &self.cache
            && let Err(error) = keep(file, &jwks)
        {
            tracing::warn!(%error, "the keys of identity could not be kept on disk");
        }
        Ok(())
    }

    fn take(&self, jwks: &str) -> Result<()> {
        let set: JwkSet = serde_json::from_str(jwks).map_err(Error::internal)?;
        let mut keys = HashMap::new();
        for jwk in set.keys {
            // A provider may have keys for other things than tokens.
            if let (Some(kid), Ok(key)) = (&jwk.common.key_id, DecodingKey::from_jwk(&jwk)) {
                keys.insert(kid.clone(), key);
            }
        }
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *held = keys;
        self.good.forget();
        Ok(())
    }
}

/// All of the file or none: processes that share a folder read it while others write it.
fn keep(file: &Path, jwks: &str) -> std::io::Result<()> {
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, jwks)?;
    std::fs::rename(&part, file)
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
        known.get(key).filter(|claims| is_live(claims.exp, now)).cloned()
    }

    fn keep(&self, key: [u8; 32], claims: Arc<AccessClaims>) {
        let now = seconds(crate::now());
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_TOKENS {
            known.retain(|_, claims| is_live(claims.exp, now));
        }
        if known.len() < KNOWN_TOKENS {
            known.insert(key, claims);
        }
    }

    fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whether a token that ends then is still good.
fn is_live(end: u64, now: u64) -> bool {
    now < end.saturating_add(LEEWAY.as_secs())
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
            exp: seconds(crate::now() + SERVICE_TOKEN_LIFE),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(Error::internal)
    }

    /// Which context calls `callee` with this token. [`Error::Unauthenticated`] for a bad one; one that is good and
    /// over says only that two clocks differ, which passes: [`Error::Unavailable`].
    pub(crate) fn verify(&self, token: &str, callee: &str) -> Result<String> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[MESH]);
        rules.set_audience(&[callee]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.validate_exp = false;
        let token = jsonwebtoken::decode::<ServiceClaims>(token, &self.decoding, &rules);
        let claims = token.map_err(|_| Error::Unauthenticated)?.claims;
        if !is_live(claims.exp, seconds(crate::now())) {
            tracing::warn!(
                caller = claims.sub,
                "a token of a context is over: whose clock is wrong?"
            );
            return Err(Error::unavailable("the right time"));
        }
        Ok(claims.sub)
    }
}

/// Seconds since 1970, as tokens count.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 256 random bits, as text.
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(crate::rng().random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::{Value, json};

    use super::*;

    /// Somebody who signs tokens, with one key.
    struct Signer {
        kid: &'static str,
        key: Ed25519KeyPair,
    }

    impl Signer {
        fn new(kid: &'static str) -> Self {
            Self { kid, key: Ed25519KeyPair::generate().unwrap() }
        }

        fn jwk(&self) -> Value {
            let x = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
            json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": self.kid, "x": x })
        }

        fn token(&self) -> String {
            self.token_of(self.kid)
        }

        fn token_of(&self, kid: &str) -> String {
            let now = seconds(crate::now());
            let claims = AccessClaims {
                iss: "turnstile".to_owned(),
                aud: "turnstile".to_owned(),
                sub: "accounts/1".to_owned(),
                roles: BTreeSet::new(),
                iat: now,
                nbf: now,
                exp: now + 900,
            };
            let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
            let pkcs8 = self.key.to_pkcs8v1().unwrap();
            let key = EncodingKey::from_ed_der(pkcs8.as_ref());
            jsonwebtoken::encode(&header, &claims, &key).unwrap()
        }
    }

    /// Where keys come from, and how often they were asked for; none: it is down.
    #[derive(Clone, Default)]
    struct Source {
        says: Arc<Mutex<Option<String>>>,
        asked: Arc<AtomicUsize>,
    }

    impl Source {
        fn of(signers: &[&Signer]) -> Self {
            let source = Self::default();
            source.says(signers);
            source
        }

        fn says(&self, signers: &[&Signer]) {
            let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
            *self.says.lock().unwrap() = Some(json!({ "keys": keys }).to_string());
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn verifier(&self) -> Verifier {
            let verifier = Verifier::new(Trust::default(), None);
            let source = self.clone();
            verifier.read_keys_from(Arc::new(move || {
                source.asked.fetch_add(1, Ordering::SeqCst);
                let said = source.says.lock().unwrap().clone();
                Box::pin(async move { said.ok_or_else(|| Error::unavailable("identity")) })
            }));
            verifier
        }
    }

    #[tokio::test(start_paused = true)]
    async fn s_11_a_thousand_unknown_kids_cause_one_read_in_30_s() {
        let (signer, source) = (Signer::new("a"), Source::of(&[&Signer::new("other")]));
        let verifier = source.verifier();
        for number in 0..1000 {
            let outcome = verifier.verify(&signer.token_of(&format!("kid-{number}"))).await;
            assert!(matches!(outcome, Err(Error::Unauthenticated)), "{outcome:?}");
        }
        assert_eq!(source.asked(), 1);
        tokio::time::advance(REREAD).await;
        assert!(verifier.verify(&signer.token()).await.is_err());
        assert_eq!(source.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn s_11_a_source_that_talks_rubbish_is_not_asked_for_every_token() {
        let (signer, source) = (Signer::new("a"), Source::default());
        *source.says.lock().unwrap() = Some("<html>".to_owned());
        let verifier = source.verifier();
        for _ in 0..100 {
            let outcome = verifier.verify(&signer.token()).await;
            assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
        }
        assert_eq!(source.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn s_13_known_keys_serve_while_their_source_is_down() {
        let (signer, other) = (Signer::new("a"), Signer::new("b"));
        let source = Source::of(&[&signer]);
        let verifier = source.verifier();
        assert!(verifier.verify(&signer.token()).await.is_ok());
        *source.says.lock().unwrap() = None;
        tokio::time::advance(Duration::from_secs(600)).await;
        for _ in 0..100 {
            assert!(verifier.verify(&signer.token()).await.is_ok());
            // It may be a good one: who has it is not told to sign in again.
            let outcome = verifier.verify(&other.token()).await;
            assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
        }
        assert_eq!(source.asked(), 2);
        source.says(&[&signer, &other]);
        tokio::time::advance(REREAD_AFTER_FAILURE).await;
        assert!(verifier.verify(&other.token()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn s_13_two_keys_are_good_together_and_the_old_one_ends() {
        let (old, new, next) = (Signer::new("old"), Signer::new("new"), Signer::new("next"));
        let source = Source::of(&[&old, &new]);
        let verifier = source.verifier();
        assert!(verifier.verify(&old.token()).await.is_ok());
        assert!(verifier.verify(&new.token()).await.is_ok());
        source.says(&[&new, &next]);
        tokio::time::advance(REREAD).await;
        assert!(verifier.verify(&next.token()).await.is_ok());
        assert!(verifier.verify(&new.token()).await.is_ok());
        let outcome = verifier.verify(&old.token()).await;
        assert!(matches!(outcome, Err(Error::Unauthenticated)), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn id_4_keys_are_known_as_soon_as_their_source_is_there() {
        let (signer, source) = (Signer::new("a"), Source::default());
        let verifier = source.verifier();
        let later = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            source.says(&[&signer]);
        };
        tokio::join!(verifier.know_keys(), later);
        let asked = source.asked();
        assert!(verifier.verify(&signer.token()).await.is_ok());
        assert_eq!(source.asked(), asked, "they were known");
    }

    #[tokio::test]
    async fn a_key_that_is_of_no_use_spoils_no_other() {
        let (signer, source) = (Signer::new("a"), Source::default());
        let broken = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "broken", "x": "?" });
        let rsa = json!({ "kty": "RSA", "kid": "mail", "n": "AQAB", "e": "AQAB" });
        let set = json!({ "keys": [broken, rsa, signer.jwk()] });
        *source.says.lock().unwrap() = Some(set.to_string());
        assert!(source.verifier().verify(&signer.token()).await.is_ok());
    }

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
            exp: seconds(crate::now()) + 60,
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
    fn s_10_a_service_token_that_is_not_good_is_refused() {
        let key = MeshKey::new(&random_text()).unwrap();
        let now = seconds(crate::now());
        let good = json!({ "iss": MESH, "aud": "payment", "sub": "mypage", "exp": now + 60 });
        let sign = |header: Header, claims: &Value| {
            jsonwebtoken::encode(&header, claims, &key.encoding).unwrap()
        };
        let hs256 = || Header::new(Algorithm::HS256);
        assert!(key.verify(&sign(hs256(), &good), "payment").is_ok());
        assert!(key.verify(&sign(Header::new(Algorithm::HS512), &good), "payment").is_err());
        let [none, claims] = [json!({ "alg": "none" }), good.clone()]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        assert!(key.verify(&format!("{none}.{claims}."), "payment").is_err());
        let wrong = [
            ("exp", json!(now - 60)),
            ("exp", json!("9999999999")),
            ("exp", Value::Null),
            ("iss", json!("turnstile")),
            ("aud", json!("identity")),
            ("sub", Value::Null),
        ];
        for (name, value) in wrong {
            let mut claims = good.clone();
            claims[name] = value.clone();
            let token = sign(hs256(), &claims);
            assert!(key.verify(&token, "payment").is_err(), "{name} {value}");
        }
    }

    #[test]
    fn g19_a_service_token_that_is_over_is_something_that_passes() {
        let key = MeshKey::new(&random_text()).unwrap();
        let over = |claims: Value| {
            let token =
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key.encoding);
            key.verify(&token.unwrap(), "payment").unwrap_err().is_passing()
        };
        let long_ago = seconds(crate::now()) - 3600;
        assert!(over(json!({ "iss": MESH, "aud": "payment", "sub": "mypage", "exp": long_ago })));
        assert!(!over(json!({ "iss": "me", "aud": "payment", "sub": "mypage", "exp": long_ago })));
    }

    #[test]
    fn a_short_mesh_key_is_refused() {
        assert!(MeshKey::new("secret").is_err());
    }
}

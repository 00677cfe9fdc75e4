//! Which tokens are good, and how their keys change.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{ADMIN, EMAIL, Identity, PASSWORD, settings};
use identity::Settings;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mesh::Mesh;
use mesh_testing::request_id;
use proto::identity::v1 as api;
use serde_json::{Value, json};
use tonic::Code;

/// The key of an identity, as a thief of its folder would have it.
struct Stolen {
    kid: String,
    pkcs8: Vec<u8>,
}

impl Stolen {
    fn from(identity: &Identity) -> Self {
        let folder = identity.mesh.folder().join("identity-keys");
        let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with("---")).collect();
        let kid = file.file_stem().unwrap().to_str().unwrap().to_owned();
        Self { kid, pkcs8: STANDARD.decode(body).unwrap() }
    }

    fn public(&self) -> Vec<u8> {
        Ed25519KeyPair::from_pkcs8(&self.pkcs8).unwrap().public_key().as_ref().to_vec()
    }

    fn sign_with(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_ed_der(&self.pkcs8)).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&header(&self.kid), claims)
    }
}

fn header(kid: &str) -> Header {
    Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) }
}

/// The claims of a token, as identity wrote them.
fn claims_of(token: &str) -> Value {
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

fn kid_of(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

/// Claims with one of them changed, or taken away.
fn changed(claims: &Value, name: &str, value: Option<Value>) -> Value {
    let mut claims = claims.clone();
    let object = claims.as_object_mut().unwrap();
    match value {
        Some(value) => object.insert(name.to_owned(), value),
        None => object.remove(name),
    };
    claims
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.")
}

#[tokio::test]
async fn id_2_s_10_s_12_a_token_that_is_not_good_is_unauthenticated() {
    let identity = Identity::start(settings()).await;
    let good = identity.customer().await;
    let key = Stolen::from(&identity);
    let claims = claims_of(&good.access_token);
    let now = mesh::auth::seconds(mesh::now());
    assert!(
        identity.my_account(&key.sign(&claims)).await.is_ok(),
        "forging works: what follows proves something"
    );

    let with = |name: &str, value: Value| key.sign(&changed(&claims, name, Some(value)));
    let without = |name: &str| key.sign(&changed(&claims, name, None));
    let hmac = |secret: &[u8]| {
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let stranger = Stolen {
        kid: key.kid.clone(),
        pkcs8: Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref().to_vec(),
    };
    let x = URL_SAFE_NO_PAD.encode(stranger.public());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": key.kid, "x": x });
    let embedded = Header { jwk: Some(serde_json::from_value(jwk).unwrap()), ..header(&key.kid) };
    let elsewhere = |name: &str| {
        let mut header = header("elsewhere");
        match name {
            "jku" => header.jku = Some("http://127.0.0.1:1/keys".to_owned()),
            _ => header.x5u = Some("file:///etc/passwd".to_owned()),
        }
        stranger.sign_with(&header, &claims)
    };
    let (head, tail) = good.access_token.rsplit_once('.').unwrap();

    let bad = [
        ("no algorithm", unsigned(&json!({ "alg": "none", "kid": key.kid }), &claims)),
        ("an algorithm of no name", unsigned(&json!({ "alg": "nOnE", "kid": key.kid }), &claims)),
        ("no signature", format!("{head}.")),
        ("half a signature", format!("{head}.{}", &tail[..tail.len() / 2])),
        ("HS256 with the public key", hmac(&key.public())),
        (
            "HS256 with the public key as text",
            hmac(URL_SAFE_NO_PAD.encode(key.public()).as_bytes()),
        ),
        ("another's key", stranger.sign(&claims)),
        ("a key that it brings along", stranger.sign_with(&embedded, &claims)),
        ("a key from elsewhere", elsewhere("jku")),
        ("a certificate from elsewhere", elsewhere("x5u")),
        ("no kid", key.sign_with(&Header::new(Algorithm::EdDSA), &claims)),
        ("an unknown kid", key.sign_with(&header("unknown"), &claims)),
        ("a kid that is a path", key.sign_with(&header("../identity-keys/key"), &claims)),
        ("a kid that is SQL", key.sign_with(&header("' OR 1=1 --"), &claims)),
        ("a long kid", key.sign_with(&header(&"k".repeat(4096)), &claims)),
        ("another issuer", with("iss", json!("elsewhere"))),
        ("no issuer", without("iss")),
        ("another audience", with("aud", json!("elsewhere"))),
        ("no audience", without("aud")),
        ("its end in the past", with("exp", json!(now - 60))),
        ("no end", without("exp")),
        ("its end as text", with("exp", json!("9999999999"))),
        ("its begin in the future", with("nbf", json!(now + 120))),
        ("no begin", without("nbf")),
        ("its begin as text", with("nbf", json!("0"))),
        ("no subject", without("sub")),
        ("a subject that is no account", with("sub", json!("movies/1"))),
        ("no roles", without("roles")),
        ("too much", with("roles", json!(["C".repeat(8 * 1024)]))),
        ("a refresh token", good.refresh_token.clone()),
        ("rubbish", "rubbish".to_owned()),
        ("dots", "..".to_owned()),
    ];
    for (what, token) in bad {
        let outcome = identity.my_account(&token).await;
        assert_eq!(outcome.map_err(|status| status.code()), Err(Code::Unauthenticated), "{what}");
    }
    assert_eq!(identity.my_account(&good.access_token).await.unwrap().email, EMAIL);
}

#[tokio::test]
async fn id_2_a_token_ends() {
    // The leeway for clocks that differ is 30 s: this one ended before it.
    let identity = Identity::start(settings()).await;
    let token = identity.customer().await.access_token;
    let claims = claims_of(&token);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 15 * 60);
    let end = json!(mesh::auth::seconds(mesh::now()) - 31);
    let ended = Stolen::from(&identity).sign(&changed(&claims, "exp", Some(end)));
    assert_eq!(identity.my_account(&ended).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn id_3_rotating_the_key_breaks_no_live_session() {
    let identity = Identity::start(settings()).await;
    let admin = identity.admin().await;
    let before = identity.customer().await;
    assert!(
        identity.my_account(&before.access_token).await.is_ok(),
        "the keys have been read by now"
    );
    let request = api::RotateSigningKeyRequest { request_id: request_id() };
    let answer = identity.with(&admin.access_token).rotate_signing_key(request).await.unwrap();
    let new_key = answer.into_inner().key_id;

    // At once: both keys are published, and nobody gets a token that some do not know yet.
    let refreshed = identity.refresh(&before.refresh_token).await.unwrap();
    let again = identity.sign_in(EMAIL, PASSWORD).await.unwrap().tokens.unwrap();
    for token in [&before.access_token, &refreshed.access_token, &again.access_token] {
        assert_ne!(kid_of(token), new_key);
        assert_eq!(identity.my_account(token).await.unwrap().email, EMAIL);
    }
    let jwks =
        identity.stranger().get_jwks(api::GetJwksRequest {}).await.unwrap().into_inner().jwks;
    let jwks: Value = serde_json::from_str(&jwks).unwrap();
    let published: Vec<_> =
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(published, [&kid_of(&before.access_token), &new_key]);

    // When the new key signs, in a process that was started again.
    identity.mesh.mesh.shut_down().await;
    let mesh = Mesh::new(identity.mesh.options().clone()).unwrap();
    mesh.start(&identity::context(Settings { key_lead: Duration::ZERO, ..settings() }))
        .await
        .unwrap();
    mesh.read_keys_from(identity::keys_of(&mesh).unwrap());
    let listening = mesh.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let connect = |token: &str| {
        let account = mesh_testing::Account::of(token, mesh::Id::new(), listening.address());
        api::identity_service_client::IdentityServiceClient::new(account.connect())
    };
    let request = api::RefreshTokenRequest { refresh_token: refreshed.refresh_token.clone() };
    let after = connect("none").refresh_token(request).await.unwrap().into_inner().tokens.unwrap();
    assert_eq!(kid_of(&after.access_token), new_key);
    for token in [&before.access_token, &refreshed.access_token, &after.access_token] {
        let account = connect(token).get_my_account(api::GetMyAccountRequest {}).await.unwrap();
        assert_eq!(account.into_inner().account.unwrap().email, EMAIL);
    }
    mesh.shut_down().await;
}

#[tokio::test]
async fn id_3_an_outlived_key_is_removed_while_identity_runs() {
    let identity =
        Identity::start(Settings { housekeeping: Duration::from_millis(20), ..settings() }).await;
    let admin = identity.admin().await;
    let request = api::RotateSigningKeyRequest { request_id: request_id() };
    let new_key = identity
        .with(&admin.access_token)
        .rotate_signing_key(request)
        .await
        .unwrap()
        .into_inner()
        .key_id;
    // Time passes: the new key has been here for an hour.
    let file = identity.mesh.folder().join("identity-keys").join(format!("{new_key}.pem"));
    let long_ago = mesh::now() - Duration::from_secs(3600);
    std::fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    mesh_testing::eventually("the old key is gone", || async {
        let jwks =
            identity.stranger().get_jwks(api::GetJwksRequest {}).await.unwrap().into_inner().jwks;
        (!jwks.contains(&kid_of(&admin.access_token)) && jwks.contains(&new_key)).then_some(())
    })
    .await;
    let password = identity.told.lock().unwrap()[0].0.clone();
    let tokens = identity.sign_in(ADMIN, &password).await.unwrap().tokens.unwrap();
    assert_eq!(kid_of(&tokens.access_token), new_key);
}

#[tokio::test]
async fn mounted_keys_sign_and_are_not_rotated_here() {
    let mounted = tempfile::tempdir().unwrap();
    let key = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(key.as_ref())
    );
    std::fs::write(mounted.path().join("2026-01.pem"), pem).unwrap();
    let identity =
        Identity::start(Settings { keys: Some(mounted.path().to_owned()), ..settings() }).await;
    let admin = identity.admin().await;
    assert_eq!(kid_of(&admin.access_token), "2026-01");
    let request = api::RotateSigningKeyRequest { request_id: request_id() };
    let outcome = identity.with(&admin.access_token).rotate_signing_key(request).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn tokens_say_the_issuer_and_the_audience_of_the_settings() {
    let trust = mesh::auth::Trust {
        issuer: "https://id.example.com".to_owned(),
        audience: "tickets".to_owned(),
    };
    let identity = Identity::start(Settings { trust, ..settings() }).await;
    let claims = claims_of(&identity.customer().await.access_token);
    assert_eq!([&claims["iss"], &claims["aud"]], ["https://id.example.com", "tickets"]);
}

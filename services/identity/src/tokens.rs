//! What a signed-in client carries: a signed access token and a random refresh token.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh::Result;
use mesh::auth::{AccessClaims, Trust, random_text, seconds};
use mesh::config::Secret;
use proto::identity::v1 as api;

use crate::domain::{Account, RefreshToken};
use crate::keys::Keys;

/// A refresh token on its way to the client.
pub(crate) fn new_refresh_token() -> Secret {
    Secret::new(random_text())
}

/// What is kept of a refresh token. It has 256 random bits: nobody finds it by trying, so one round is enough.
pub(crate) fn hash_of(token: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.reveal().as_bytes()))
}

/// The pair for a client: an access token of this account, and `text`, whose other half is `kept`.
pub(crate) fn pair(
    keys: &Keys,
    trust: &Trust,
    life: Duration,
    account: &Account,
    text: &Secret,
    kept: &RefreshToken,
) -> Result<api::Tokens> {
    let now = mesh::now();
    let (issued, ends) = (seconds(now), seconds(now + life));
    let access_token = keys.sign(&AccessClaims {
        iss: trust.issuer.clone(),
        aud: trust.audience.clone(),
        sub: account.id.to_string(),
        roles: account.roles.iter().map(|role| role.word().to_owned()).collect(),
        iat: issued,
        nbf: issued,
        exp: ends,
    })?;
    Ok(api::Tokens {
        access_token,
        access_token_expire_time: Some((SystemTime::UNIX_EPOCH + Duration::from_secs(ends)).into()),
        refresh_token: text.reveal().to_owned(),
        refresh_token_expire_time: Some(kept.expires.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_token_is_its_sha_256() {
        let expected = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
        assert_eq!(hash_of(&Secret::new("abc")), expected);
    }

    #[test]
    fn no_two_refresh_tokens_are_the_same() {
        assert!(new_refresh_token() != new_refresh_token());
    }
}

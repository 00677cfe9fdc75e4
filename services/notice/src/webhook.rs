//! Webhooks: a signed HTTP request for each notice. Any 2xx means that it was taken; redirects are not followed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;

use crate::domain::{Medium, Notice, Outcome};
use crate::sender::Courier;
use crate::settings::Webhook;

/// When the request was signed, in seconds since 1970: an old one can be refused.
const TIMESTAMP: &str = "turnstile-timestamp";
/// HMAC-SHA256 of `{timestamp}.{body}` under the shared secret, in hex.
const SIGNATURE: &str = "turnstile-signature";

/// Where notices are posted to.
#[derive(Debug)]
pub(crate) struct WebhookCourier {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    key: hmac::Key,
}

/// The body of a request. The same notice makes the same body.
#[derive(Serialize)]
struct Body<'a> {
    notice: String,
    recipient: String,
    order: &'a str,
    kind: &'a str,
    text: &'a str,
    /// RFC 3339.
    time: String,
}

impl WebhookCourier {
    pub(crate) fn new(webhook: &Webhook, timeout: Duration) -> Result<Self, &'static str> {
        let url = url(&webhook.url)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(timeout / 2));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let key = hmac::Key::new(hmac::HMAC_SHA256, webhook.secret.reveal().as_bytes());
        Ok(Self { client, url, key })
    }

    fn request(&self, notice: &Notice, now: SystemTime) -> Option<Request<Full<Bytes>>> {
        let message = &notice.message;
        let body = Body {
            notice: notice.id.to_string(),
            recipient: message.recipient.to_string(),
            order: &message.order,
            kind: message.kind.word(),
            text: &message.text,
            time: prost_types::Timestamp::from(notice.created).to_string(),
        };
        let body = serde_json::to_vec(&body).ok()?;
        let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "turnstile")
            .header(SIGNATURE, sign(&self.key, &timestamp, &body))
            .header(TIMESTAMP, timestamp)
            .body(Full::new(body.into()))
            .ok()
    }

    async fn post(&self, notice: &Notice) -> Outcome {
        let Some(request) = self.request(notice, mesh::now()) else {
            return Outcome::Refused("the request could not be written".to_owned());
        };
        match self.client.request(request).await {
            Ok(answer) if answer.status().is_success() => Outcome::Sent,
            Ok(answer) => {
                Outcome::Failed(format!("the webhook answered {}", answer.status().as_u16()))
            }
            Err(error) if error.is_connect() => {
                Outcome::Failed("the webhook could not be reached".to_owned())
            }
            Err(_) => Outcome::Failed("the webhook broke off".to_owned()),
        }
    }
}

impl Courier for WebhookCourier {
    fn medium(&self) -> Medium {
        Medium::Webhook
    }

    fn deliver<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Outcome> {
        self.post(notice).boxed()
    }
}

/// An address that notices can be posted to.
pub(crate) fn url(text: &str) -> Result<Uri, &'static str> {
    let good = |url: &Uri| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|host| !host.is_empty())
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    let url = text.parse().ok().filter(good);
    url.ok_or("must be a URL like https://example.com/notices, without a user")
}

fn sign(key: &hmac::Key, timestamp: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_other_tools_make() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(sign(&key, "1700000000", b"{}"), expected);
    }

    #[test]
    fn a_webhook_is_a_url() {
        for good in
            ["http://127.0.0.1:8080/notices", "https://example.com", "http://hooks:80/a?b=c"]
        {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in
            ["", "example.com", "/notices", "ftp://example.com", "https://jang:a@example.com/"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}

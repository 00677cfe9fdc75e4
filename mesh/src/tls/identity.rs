//! Whose a certificate is, and until when.

use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};

use super::provider;

/// A certificate that does not say whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate has not exactly one URI, like spiffe://example.org/ns/shop/sa/payment")]
pub struct NoIdentity;

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Trust domain and namespace.
    pub(super) mesh: String,
    pub(super) service: String,
}

impl Identity {
    /// Reads the one URI of a certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, NoIdentity> {
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| NoIdentity)?;
        let mut uris = certificate.valid_uri_names();
        let uri = uris.next().filter(|_| uris.next().is_none());
        uri.and_then(Self::read).ok_or(NoIdentity)
    }

    fn read(uri: &str) -> Option<Self> {
        let mesh_and_service = uri.strip_prefix("spiffe://")?;
        let parts: Vec<_> = mesh_and_service.split('/').collect();
        let [domain, "ns", namespace, "sa", service] = parts[..] else { return None };
        let plain = |part: &str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            !part.is_empty() && part.bytes().all(good)
        };
        let good = [domain, namespace, service].into_iter().all(plain);
        good.then(|| Self { mesh: format!("{domain}/{namespace}"), service: service.to_owned() })
    }

    /// `homemovie.app` runs as the service `homemovie-app`.
    pub(super) fn context(&self) -> String {
        self.service.replace('-', ".")
    }
}

/// The name of a context where names have no dots: of services, and of hosts.
pub fn service_name(context: &str) -> String {
    context.replace('.', "-")
}

/// When a certificate ends: what checks certificates tells it only by refusing one that has ended.
pub(super) fn end_of(
    certificate: &CertificateDer<'_>,
    roots: &RootCertStore,
) -> Option<SystemTime> {
    const FAR: Duration = Duration::from_secs(250_000_000_000);
    let algorithms = provider().signature_verification_algorithms.all;
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let then = UnixTime::since_unix_epoch(FAR);
    match verify_server_cert_signed_by_trust_anchor(&parsed, roots, &[], then, algorithms) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_15_an_identity_is_one_uri_of_one_shape() {
        let identity = Identity::read("spiffe://example.org/ns/shop/sa/homemovie-app").unwrap();
        assert_eq!(
            (identity.mesh.as_str(), &*identity.context()),
            ("example.org/shop", "homemovie.app")
        );
        assert_eq!(service_name("homemovie.app"), "homemovie-app");
        let bad = [
            "",
            "https://example.org/ns/shop/sa/payment",
            "spiffe://example.org/ns/shop/sa/",
            "spiffe:///ns/shop/sa/payment",
            "spiffe://example.org/ns/shop/sa/payment/",
            "spiffe://example.org/ns/shop/sa/pay/ment",
            "spiffe://example.org/ns/shop/sa/pay ment",
            "spiffe://example.org/sa/payment/ns/shop",
        ];
        for uri in bad {
            assert_eq!(Identity::read(uri), None, "{uri}");
        }
    }
}

//! Certificates for tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh::tls::{Tls, service_name};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

/// An authority that signs the certificates of a mesh, in a folder that goes away with it.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate is, with what belongs to it.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificate of the authority that has signed it.
    pub authority: PathBuf,
}

impl Authority {
    /// One that nobody else knows.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("ca.pem"), own.pem()).expect("a file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a context, in place of the one before.
    pub fn issue(&self, context: &str) -> Files {
        self.issue_with(context, |_| {})
    }

    /// As [`Authority::issue`], with something else in it.
    pub fn issue_with(&self, context: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("example.org", context)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = mesh::now();
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |name: String| self.folder.path().join(name);
        let files = Files {
            certificate: file(format!("{context}.pem")),
            key: file(format!("{context}.key")),
            authority: file("ca.pem".to_owned()),
        };
        std::fs::write(&files.certificate, signed.pem()).expect("a file");
        std::fs::write(&files.key, key.serialize_pem()).expect("a file");
        files
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Files {
    /// What a process of the mesh shows with them.
    pub fn tls(&self) -> Arc<Tls> {
        let tls = Tls::mutual(&self.certificate, &self.key, &self.authority);
        Arc::new(tls.expect("a certificate that can be used"))
    }
}

/// The identity of a context in this trust domain.
pub fn uri(domain: &str, context: &str) -> SanType {
    let uri = format!("spiffe://{domain}/ns/tests/sa/{}", service_name(context));
    SanType::URI(uri.try_into().expect("a URI"))
}

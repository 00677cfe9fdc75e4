//! TLS between processes: both sides show a certificate, and who calls is what it says.
//!
//! An identity is exactly one URI in the certificate, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE`; every other name
//! in it is ignored. A process belongs to the trust domain and the namespace of its own certificate, and talks to nobody
//! else. The files are looked at again when connections are made: a new certificate needs no restart, and a connection
//! does not outlive the certificates that it was made with by more than a minute.

mod identity;
mod verify;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use self::identity::{Identity, end_of};
use self::verify::{Callees, Callers};

pub use identity::{NoIdentity, service_name};

/// How long the other side may take to show who it is.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the files are looked at, at the most.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection outlives the certificates that it was made with.
const AFTER_THE_END: Duration = Duration::from_secs(60);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {cause}", .file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} does not hold {what} in PEM", .file.display())]
    Pem {
        /// Which.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The certificate does not say whose it is.
    #[error("{}: {cause}", .file.display())]
    Identity {
        /// The file of the certificate.
        file: PathBuf,
        /// Why not.
        #[source]
        cause: NoIdentity,
    },
    /// The certificate and its key cannot be used.
    #[error(transparent)]
    Unusable(#[from] rustls::Error),
}

/// The certificate of a process, and whom it trusts.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    /// Who signs the others' certificates; without it nobody else needs one.
    authority: Option<PathBuf>,
    held: Mutex<Held>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What the files held when they were looked at last.
struct Held {
    files: Vec<Vec<u8>>,
    looked: Instant,
    now: Arc<Configs>,
}

struct Configs {
    server: Arc<ServerConfig>,
    mutual: Option<Mutual>,
}

struct Mutual {
    own: Identity,
    /// When the certificate of this process ends.
    ends: Option<SystemTime>,
    roots: Arc<RootCertStore>,
    client: Arc<ClientConfig>,
}

/// A connection whose other side has shown who it is.
pub(crate) struct Secured<S> {
    pub(crate) stream: S,
    /// The context at the other end.
    pub(crate) context: Option<String>,
    /// For how long the connection may be used.
    pub(crate) life: Option<Duration>,
}

impl Tls {
    /// Between contexts: both sides show a certificate that `authority` has signed.
    pub fn mutual(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, TlsError> {
        Self::new(certificate, key, Some(authority))
    }

    /// Towards customers: only this side shows one.
    pub fn one_way(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::new(certificate, key, None)
    }

    fn new(certificate: &Path, key: &Path, authority: Option<&Path>) -> Result<Self, TlsError> {
        let [certificate, key] = [certificate, key].map(Path::to_owned);
        let authority = authority.map(Path::to_owned);
        let files = read(&certificate, &key, authority.as_deref())?;
        let now = Arc::new(configs(&certificate, &key, authority.as_deref(), &files)?);
        let held = Mutex::new(Held { files, looked: Instant::now(), now });
        Ok(Self { certificate, key, authority, held })
    }

    /// The context that the certificate of this process is for.
    pub fn context(&self) -> Option<String> {
        self.now().mutual.as_ref().map(|mutual| mutual.own.context())
    }

    /// What the files hold now; what cannot be used is said, and what was there before is kept.
    fn now(&self) -> Arc<Configs> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked.elapsed() < LOOK {
            return held.now.clone();
        }
        held.looked = Instant::now();
        let authority = self.authority.as_deref();
        let found = read(&self.certificate, &self.key, authority);
        match found {
            Ok(files) if files == held.files => {}
            Ok(files) => match configs(&self.certificate, &self.key, authority, &files) {
                Ok(now) => {
                    tracing::info!(file = %self.certificate.display(), "a new certificate is used from now on");
                    (held.files, held.now) = (files, Arc::new(now));
                }
                // Perhaps only one of the files is there yet.
                Err(error) => {
                    tracing::warn!(%error, "the new certificate cannot be used: the one before stays")
                }
            },
            Err(error) => {
                tracing::warn!(%error, "the certificate cannot be read: the one before stays")
            }
        }
        held.now.clone()
    }

    /// Takes a connection, if the other side is somebody.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
    ) -> io::Result<Secured<server::TlsStream<S>>> {
        let now = self.now();
        let stream = TlsAcceptor::from(now.server.clone()).accept(socket);
        let stream = tokio::time::timeout(HANDSHAKE, stream).await??;
        let Some(mutual) = &now.mutual else {
            return Ok(Secured { stream, context: None, life: None });
        };
        let nobody = || io::Error::new(io::ErrorKind::InvalidData, NoIdentity);
        let peer = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = peer.ok_or_else(nobody)?;
        let context = Identity::of(peer).map_err(|_| nobody())?.context();
        let life = mutual.life_with(peer);
        Ok(Secured { stream, context: Some(context), life })
    }

    /// Connects as this process's context to `callee`, and to nobody else.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        callee: &str,
    ) -> io::Result<client::TlsStream<S>> {
        let now = self.now();
        let client = now.mutual.as_ref().map(|mutual| mutual.client.clone());
        let client = client.ok_or_else(|| io::Error::other("there is no authority to trust"))?;
        let name = ServerName::try_from(service_name(callee)).map_err(io::Error::other)?;
        TlsConnector::from(client).connect(name, socket).await
    }
}

impl Mutual {
    /// Until the first of both certificates has ended, and a little longer.
    fn life_with(&self, peer: &CertificateDer<'_>) -> Option<Duration> {
        let ends = [self.ends, end_of(peer, &self.roots)].into_iter().flatten().min()?;
        Some((ends + AFTER_THE_END).duration_since(crate::now()).unwrap_or_default())
    }
}

fn read(
    certificate: &Path,
    key: &Path,
    authority: Option<&Path>,
) -> Result<Vec<Vec<u8>>, TlsError> {
    let files = [certificate, key].into_iter().chain(authority);
    files
        .map(|file| {
            std::fs::read(file).map_err(|cause| TlsError::File { file: file.to_owned(), cause })
        })
        .collect()
}

/// What the contents of the files come to.
fn configs(
    certificate: &Path,
    key: &Path,
    authority: Option<&Path>,
    files: &[Vec<u8>],
) -> Result<Configs, TlsError> {
    let provider = Arc::new(provider());
    let chain = certificates(certificate, &files[0])?;
    let private = PrivateKeyDer::from_pem_slice(&files[1])
        .map_err(|_| TlsError::Pem { file: key.to_owned(), what: "a private key" })?;
    let Some(authority) = authority else {
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
        return Ok(Configs { server: Arc::new(h2_only(server)), mutual: None });
    };
    let mut roots = RootCertStore::empty();
    for trusted in certificates(authority, &files[2])? {
        roots.add(trusted)?;
    }
    let roots = Arc::new(roots);
    let own = Identity::of(&chain[0])
        .map_err(|cause| TlsError::Identity { file: certificate.to_owned(), cause })?;
    let ends = end_of(&chain[0], &roots);
    let (algorithms, mesh) = (provider.signature_verification_algorithms, own.mesh.clone());
    let callers = Callers { inner: verifier(&roots, &provider)?, mesh: mesh.clone() };
    let callees = Callees { roots: roots.clone(), algorithms, mesh };
    let only_new: &[_] = &[&rustls::version::TLS13];
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(only_new)?
        .with_client_cert_verifier(Arc::new(callers))
        .with_single_cert(chain.clone(), private.clone_key())?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(only_new)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(callees))
        .with_client_auth_cert(chain, private)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    // A connection that goes on with an earlier one would not show its certificate.
    client.resumption = Resumption::disabled();
    let mutual = Mutual { own, ends, roots, client: Arc::new(client) };
    Ok(Configs { server: Arc::new(h2_only(server)), mutual: Some(mutual) })
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn h2_only(mut server: ServerConfig) -> ServerConfig {
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server
}

fn certificates(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    all.ok()
        .filter(|all| !all.is_empty())
        .ok_or_else(|| TlsError::Pem { file: file.to_owned(), what: "certificates" })
}

fn verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

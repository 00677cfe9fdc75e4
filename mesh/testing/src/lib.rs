//! What tests of contexts stand on: a process of the mesh in a temporary folder, with accounts that need no identity.
//!
//! Only for `[dev-dependencies]`. Helpers panic where a test should fail.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod authority;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::connection::SimpleConnection as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mesh::auth::{AccessClaims, seconds};
use mesh::chaos::{Bug, Planted};
use mesh::client::Channel;
use mesh::config::Settings;
use mesh::{Accounts, Context, Id, Listening, Mesh, Options, StartError, StoreAt};
use prost::{Message, Name};
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::mesh::v1::{Event, SubscribeRequest};
use test_postgres::Database;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

pub use authority::{Authority, Files, uri};
pub use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of the mesh with some contexts, in a folder that goes away with it.
#[derive(Debug)]
pub struct TestMesh {
    /// The process itself: to stop, crash and start contexts.
    pub mesh: Mesh,
    contexts: Vec<Context>,
    listening: Listening,
    signer: Signer,
    options: Options,
    folder: tempfile::TempDir,
    _database: Option<Database>,
}

/// A database for a test, where tests are to run on PostgreSQL.
pub fn database() -> Option<Database> {
    Some(Database::new(&server()?).expect("a database"))
}

/// Turns the cursors of some policies back to the start of their logs, behind the back of a context that is stopped.
/// `which` is a condition on the columns of `mesh_cursor`.
pub fn turn_back(store: &StoreAt, which: &str) {
    let mut conn = store.connect().expect("a store");
    if let StoreAt::Postgres(_) = store {
        // There each step of a cursor is a row.
        let steps = "DELETE FROM mesh_cursor AS step USING mesh_cursor AS before \
            WHERE before.policy = step.policy AND before.source = step.source \
            AND before.partition = step.partition AND before.position < step.position";
        conn.batch_execute(steps).expect("steps that go");
    }
    let anew = format!("UPDATE mesh_cursor SET position = 0 WHERE {which}");
    conn.batch_execute(&anew).expect("cursors that go back");
}

/// Whether tests are to run on files.
pub fn on_files() -> bool {
    server().is_none()
}

#[expect(clippy::disallowed_methods, reason = "a setting of the tests alone")]
fn server() -> Option<String> {
    std::env::var(test_postgres::VARIABLE).ok()
}

impl TestMesh {
    /// Starts these contexts, and opens a port.
    pub async fn start(contexts: &[Context]) -> Self {
        Self::start_with(contexts, |_| {}).await
    }

    /// As [`TestMesh::start`], with other options.
    pub async fn start_with(contexts: &[Context], change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut options = Options::new(folder.path());
        let database = database();
        options.stores.all = database.as_ref().map(Database::url);
        change(&mut options);
        for context in contexts {
            context.migrate(&options).expect("tables");
        }
        let mesh = Mesh::new(options.clone()).expect("a process");
        let signer = Signer::new();
        let jwks = signer.jwks();
        mesh.read_keys_from(std::sync::Arc::new(move || {
            let jwks = jwks.clone();
            Box::pin(async move { Ok(jwks) })
        }));
        for context in contexts {
            mesh.start(context).await.expect("a context that starts");
        }
        let listening = mesh.listen(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let contexts = contexts.to_vec();
        Self { mesh, contexts, listening, signer, options, folder, _database: database }
    }

    /// Where another process gets the keys of its accounts' tokens.
    pub fn keys(&self) -> mesh::auth::KeySource {
        let jwks = self.signer.jwks();
        std::sync::Arc::new(move || {
            let jwks = jwks.clone();
            Box::pin(async move { Ok(jwks) })
        })
    }

    /// Where its data is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store of one of its contexts.
    pub fn store(&self, context: &str) -> StoreAt {
        self.options.store_at(context, context)
    }

    /// The second store of one of its contexts.
    pub fn store_apart(&self, context: &str, name: &str) -> StoreAt {
        self.options.store_at(context, &format!("{context}-{name}"))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// Starts one more context.
    pub async fn add(&self, context: &Context) -> Result<(), StartError> {
        context.migrate(&self.options).expect("tables");
        self.mesh.start(context).await
    }

    /// How its process was started.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Starts a context again that was stopped or crashed.
    pub async fn restart(&self, name: &str) {
        let context = self
            .contexts
            .iter()
            .find(|context| context.name() == name)
            .expect("one of its contexts");
        self.mesh.start(context).await.expect("a context that starts again");
    }

    /// A new customer.
    pub fn customer(&self) -> Account {
        self.account(&["CUSTOMER"])
    }

    /// A new admin.
    pub fn admin(&self) -> Account {
        self.account(&["CUSTOMER", "ADMIN"])
    }

    /// The customer of an account that there is.
    pub fn customer_of(&self, id: Id<Accounts>) -> Account {
        Account { id, token: self.signer.sign(id, &["CUSTOMER"], LIFE), address: self.address() }
    }

    /// A customer whose token was good until a minute ago.
    pub fn expired(&self) -> Account {
        let id = Id::new();
        Account { id, token: self.signer.sign(id, &["CUSTOMER"], -60), address: self.address() }
    }

    fn account(&self, roles: &[&str]) -> Account {
        let id = Id::new();
        Account { id, token: self.signer.sign(id, roles, LIFE), address: self.address() }
    }

    /// Nobody in particular, from outside.
    pub fn stranger(&self) -> tonic::transport::Channel {
        connect(self.address())
    }

    /// The way from one context to another, as that context.
    pub fn service(&self, caller: &str, callee: &str) -> Channel {
        self.mesh.channel(caller, callee).expect("a channel")
    }

    /// Every event in the log of `source` with this correlation, as itself reads it.
    pub async fn events(&self, source: &str, correlation: &str) -> Vec<Event> {
        let mut client = EventServiceClient::new(self.service(source, source));
        let request = SubscribeRequest {
            source: source.to_owned(),
            policy: format!("{source}/test"),
            ..SubscribeRequest::default()
        };
        let mut stream = client.subscribe(request).await.expect("a stream").into_inner();
        let mut events = Vec::new();
        loop {
            let batch = stream.message().await.expect("a batch").expect("a stream that goes on");
            events.extend(batch.events);
            if batch.to_position >= batch.head_position {
                events.retain(|event| event.correlation_id == correlation);
                return events;
            }
        }
    }
}

fn connect(address: SocketAddr) -> tonic::transport::Channel {
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_lazy()
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct Account {
    /// Who it is.
    pub id: Id<Accounts>,
    /// The access token.
    pub token: String,
    address: SocketAddr,
}

/// Puts a token on each call.
#[derive(Debug, Clone)]
pub struct Bearer(String);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.parse().expect("a token"));
        Ok(request)
    }
}

/// A connection from outside, as somebody who is signed in.
pub type SignedIn = InterceptedService<tonic::transport::Channel, Bearer>;

impl Account {
    /// Somebody with a token that identity gave.
    pub fn of(token: &str, id: Id<Accounts>, address: SocketAddr) -> Self {
        Self { id, token: token.to_owned(), address }
    }

    /// The same at another process.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// A connection of theirs, for a generated client.
    pub fn connect(&self) -> SignedIn {
        InterceptedService::new(connect(self.address), Bearer(format!("Bearer {}", self.token)))
    }
}

/// How long a token is good for, in seconds.
pub const LIFE: i64 = 900;

/// Signs tokens like identity does.
#[derive(Debug)]
pub struct Signer {
    key: Ed25519KeyPair,
}

#[expect(clippy::new_without_default, reason = "a default key would be another one each time")]
impl Signer {
    /// With a key that nobody else has.
    pub fn new() -> Self {
        Self { key: Ed25519KeyPair::generate().expect("a key") }
    }

    /// Its public key, as identity would tell it.
    pub fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        let key = serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "test", "x": x,
        });
        serde_json::json!({ "keys": [key] }).to_string()
    }

    /// A token that is good for so many seconds.
    pub fn sign(&self, id: Id<Accounts>, roles: &[&str], life: i64) -> String {
        let now = seconds(mesh::now());
        let claims = AccessClaims {
            iss: "turnstile".to_owned(),
            aud: "turnstile".to_owned(),
            sub: id.to_string(),
            roles: roles.iter().map(ToString::to_string).collect::<BTreeSet<_>>(),
            iat: now,
            nbf: now,
            exp: now.saturating_add_signed(life),
        };
        let pkcs8 = self.key.to_pkcs8v1().expect("a key");
        let header = Header { kid: Some("test".to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(pkcs8.as_ref()))
            .expect("a token")
    }
}

/// A new `request_id`.
pub fn request_id() -> String {
    mesh::uuid().to_string()
}

/// Waits until `look` finds something; fails the test with `what` when it takes a minute.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A check holds, and does not where this mistake is planted: so it can see. It is told how long it may take.
pub async fn finds(bug: Bug, check: impl AsyncFn(Duration) -> Result<(), String>) {
    let program = Planted::alone().await;
    check(PATIENCE).await.expect("it holds without the mistake");
    program.plant(bug);
    // Some mistakes show only where two meet.
    for _ in 0..5 {
        if check(Duration::from_secs(5)).await.is_err() {
            return;
        }
    }
    panic!("nobody sees {bug:?}");
}

/// What an admin port answers: the status, and the body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("an admin port");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a status");
    (status, body.to_owned())
}

/// The value of one series on a page of metrics, named with all its labels: `mesh_panics_total`.
pub fn metric(page: &str, series: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().expect("a value"))
}

/// What the events of one type tell.
pub fn told<M: Message + Name + Default>(events: &[Event]) -> Vec<M> {
    let of_type = events.iter().filter(|event| event.r#type == M::full_name());
    of_type.map(|event| M::decode(&event.data[..]).expect("a payload")).collect()
}

/// Reads settings from these variables, with a report of what is wrong.
pub fn settings<T>(
    variables: &[(&str, &str)],
    read: impl FnOnce(&mut Settings) -> T,
) -> (T, Result<(), String>) {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut settings = Settings::default().environment(variables);
    let read = read(&mut settings);
    (read, settings.finish().map(drop).map_err(|error| error.to_string()))
}

/// The bad fields that a refusal names.
pub fn bad_fields<T: Debug>(outcome: Result<T, Status>) -> Vec<String> {
    let status = outcome.expect_err("a refusal");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().expect("the bad fields");
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// The refusal's name, for comparing: `("FAILED_PRECONDITION", "PAYMENT_DECLINED")`.
pub fn refusal<T: Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.expect_err("a refusal");
    let reason = mesh::reason_of(&status).unwrap_or_default();
    (status.code(), reason)
}

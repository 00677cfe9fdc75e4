//! `turnstile serve CONTEXT...`: some contexts in this process; the others are served elsewhere. `turnstile front`: where
//! customers call them.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use mesh::client::{Scheme, check_endpoint};
use mesh::tls::service_name;
use tokio::sync::oneshot;

use crate::Outcome;
use crate::cli::{Cli, ServeOptions, UpOptions};
use crate::client::Failure;
use crate::settings::{self, Config};
use crate::system;
use crate::up::{self, Serving, Signals};

/// Where it listens unless told otherwise: it is there for other machines.
const PORT: u16 = 50051;

/// The service that shows certificates for no context, but passes customers' calls on.
const FRONT: &str = "turnstile";

/// How long a child waits for identity, its sister, before it says that it is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long it says that it stops before it closes its port.
const FAREWELL: Duration = Duration::from_secs(1);

pub(crate) async fn serve(cli: &Cli, options: ServeOptions, begun: Instant) -> Outcome {
    let config = settings::read(cli, Some(&options.options))?;
    let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
    let is_child = options.stop_with_stdin;
    let serving = Serving {
        options: apart(&config, &options.contexts)?,
        contexts: options.contexts,
        listen: config.listen.unwrap_or(listen),
        // Nobody waits for identity: it may be down. Children of one parent come up together.
        patience: if is_child { PATIENCE } else { Duration::ZERO },
        farewell: FAREWELL,
        end: match is_child {
            true => end_of_stdin(),
            false => Box::pin(std::future::pending()),
        },
    };
    up::serve(config, serving, begun).await
}

/// `turnstile front`: no context in this process; customers call here.
pub(crate) async fn front(cli: &Cli, options: UpOptions, begun: Instant) -> Outcome {
    let config = settings::read(cli, Some(&options))?;
    let mut options = apart(&config, &[])?;
    options.faces_customers = true;
    // Customers have no certificates: what this process shows is for those that it calls.
    if options.tls.is_some() {
        options.port_tls = None;
    }
    let exporter = mesh::telemetry::start_and_export(&config.log, config.collector.as_deref())?;
    let signals = Signals::new()?;
    up::prepare(&config.data)?;
    let all = system::contexts(&config);
    let names: Vec<_> = all.iter().map(mesh::Context::name).collect();
    let mesh = mesh::Mesh::front_of(options, &names)?;
    mesh.read_keys_from(identity::keys_of(&mesh)?);
    let listen = config.listen.unwrap_or(up::LISTEN);
    let listening =
        mesh.listen(listen).await.map_err(|error| up::why_not(listen, &error, "--listen"))?;
    let _admin_port = up::listen_for_admins(&mesh, &config, names).await?;
    let knowing = mesh.clone();
    drop(tokio::spawn(async move { knowing.know_keys().await }));
    eprintln!("ready in {} ms on {}", begun.elapsed().as_millis(), listening.address());
    let stop = async {
        mesh.drain().await;
        tokio::time::sleep(FAREWELL).await;
        listening.close().await;
        exporter.finish().await;
    };
    signals.stop_after(std::future::pending(), stop).await
}

/// As the mesh wants it where only these contexts are in this process.
fn apart(config: &Config, here: &[String]) -> Result<mesh::Options, Failure> {
    let all = system::contexts(config);
    let names: Vec<_> = all.iter().map(mesh::Context::name).collect();
    let known = |name: &&String| names.contains(&name.as_str());
    if let Some(unknown) = here.iter().chain(config.endpoints.keys()).find(|name| !known(name)) {
        return Err(format!("there is no context {unknown}; there are {}", names.join(", ")).into());
    }
    let shown = config.tls.as_ref().and_then(|tls| tls.context());
    if let Some(shown) = &shown
        && here != [shown.clone()]
        && (shown != FRONT || !here.is_empty())
    {
        let here = if here.is_empty() { FRONT.to_owned() } else { here.join(", ") };
        return Err(format!("the certificate is for {shown}, and not for {here}").into());
    }
    let scheme = if shown.is_some() { Scheme::Https } else { Scheme::Http };
    let tls = config.tls.clone().filter(|_| shown.is_some());
    let mut options = mesh::Options { faces_customers: false, tls, ..config.options() };
    for name in names.into_iter().filter(|name| !here.iter().any(|here| here == name)) {
        let endpoint = config.endpoints.get(name).cloned();
        let endpoint =
            endpoint.unwrap_or_else(|| format!("{scheme}://{}:{PORT}", service_name(name)));
        check_endpoint(&endpoint, scheme)?;
        options.endpoints.insert(name.to_owned(), endpoint);
    }
    if !options.endpoints.is_empty() && options.mesh_key.is_none() && shown.is_none() {
        return Err("contexts in different processes must know each other: give all of them the same secret, \
                    TURNSTILE_MESH_KEY_FILE, or each a certificate, TURNSTILE_TLS_CERT_FILE, _KEY_FILE and _CA_FILE"
            .into());
    }
    Ok(options)
}

/// Ends when whoever started this process has ended. A thread of its own, since nothing else ends a read.
fn end_of_stdin() -> BoxFuture<'static, ()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    Box::pin(async {
        let _ = end.await;
    })
}

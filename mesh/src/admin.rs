//! The port for those who run a process: whether it lives, whether it is ready, and its metrics. Plain HTTP/1.1.
//!
//! It tells nothing about customers and no secret, but it is not for everybody either: it has no access rules.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use diesel::prelude::*;
use futures::future::join_all;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::registry::Registry;
use crate::store::Store;
use crate::store::schema::mesh_meta;

/// How long a store may take to show that it answers.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is asked.
const LOOK: Duration = Duration::from_secs(2);

/// An admin port that is open. It closes when it is dropped: the last of a process to end.
#[derive(Debug)]
pub struct AdminPort {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl AdminPort {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Admin {
    registry: Arc<Registry>,
    /// The contexts that are to be served.
    contexts: Arc<[String]>,
}

/// Opens the port. The process is ready when each of `contexts` is.
pub(crate) async fn listen(
    registry: Arc<Registry>,
    address: SocketAddr,
    contexts: Arc<[String]>,
) -> std::io::Result<AdminPort> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Admin { registry, contexts });
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin port failed");
        }
    });
    Ok(AdminPort { address, task })
}

async fn metrics(
    State(admin): State<Admin>,
) -> Result<impl axum::response::IntoResponse, StatusCode> {
    let page = admin.registry.front.metrics().page(&admin.registry).await;
    let page = page.map_err(|error| {
        tracing::error!(%error, "the metrics could not be written down");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], page))
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let checks = admin.contexts.iter().map(|context| obstacle(&admin.registry, context));
    let obstacles: Vec<_> = join_all(checks).await.into_iter().flatten().collect();
    if obstacles.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, obstacles.concat())
    }
}

/// What keeps a context from being ready: its store is open once its tables are up to date.
async fn obstacle(registry: &Registry, context: &str) -> Option<String> {
    if let Some(forward) = registry.forwards().get(context) {
        if registry.front.is_draining() {
            return Some(format!("{context} is not passed on to any more\n"));
        }
        return (!forward.is_ready().await).then(|| format!("{context} is not ready\n"));
    }
    let Some(running) = registry.running().get(context).cloned() else {
        return Some(format!("{context} is not running\n"));
    };
    if running.stopping.is_cancelled() {
        return Some(format!("{context} is stopping\n"));
    }
    let answers = answers(&running.store).await;
    (!answers).then(|| format!("the store of {context} does not answer\n"))
}

async fn answers(store: &Store) -> bool {
    let fact =
        store.read(|conn| Ok(mesh_meta::table.select(mesh_meta::value).first::<String>(conn)?));
    matches!(tokio::time::timeout(PATIENCE, fact).await, Ok(Ok(_)))
}

/// Keeps gRPC's health checks true for a context that runs: it serves as long as its store answers (rule G-14).
pub(crate) async fn tell_health(health: HealthReporter, store: Store) {
    let mut before = true;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = answers(&store).await;
        if now == before {
            continue;
        }
        before = now;
        let context = store.context();
        if now {
            tracing::info!(context, "the store answers again");
            health.set_service_status(context, ServingStatus::Serving).await;
        } else {
            tracing::warn!(context, "the store does not answer: the context is not ready");
            health.set_service_status(context, ServingStatus::NotServing).await;
        }
    }
}

/// The same for the contexts of other processes that customers reach here.
pub(crate) async fn tell_health_of_others(health: HealthReporter, registry: Weak<Registry>) {
    while let Some(registry) = registry.upgrade() {
        let looks = registry.forwards().iter().map(async |(context, forward)| {
            let ready = forward.is_ready().await && !registry.front.is_draining();
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(context, status).await;
        });
        join_all(looks).await;
        drop(registry);
        tokio::time::sleep(LOOK).await;
    }
}

//! What an operator looks at and puts right, over every context of this process.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures::Stream;
use prost::Message as _;
use proto::mesh::v1 as api;
use proto::mesh::v1::operations_service_server::{OperationsService, OperationsServiceServer};
use tonic::{Request, Response, Status};

use crate::check::Check;
use crate::client::BreakerState;
use crate::error::{Error, Result};
use crate::events::{Place, Runner, list_parked, place_of};
use crate::registry::{Registry, Running};
use crate::store::{Conn, Page};
use crate::{backup, events, saga};

/// How long the name of a context, a policy or a subject may be.
const LONGEST_NAME: usize = 200;

pub(crate) fn service(registry: Weak<Registry>) -> OperationsServiceServer<Operations> {
    OperationsServiceServer::new(Operations { registry })
}

pub(crate) struct Operations {
    registry: Weak<Registry>,
}

impl Operations {
    fn registry(&self) -> Result<Arc<Registry>> {
        self.registry.upgrade().ok_or_else(|| Error::unavailable("the process"))
    }

    /// The contexts asked for, by name.
    fn running(&self, context: &str) -> Result<Vec<Arc<Running>>> {
        let registry = self.registry()?;
        let running = registry.running();
        let wanted: Vec<_> = running
            .iter()
            .filter(|(name, _)| context.is_empty() || *name == context)
            .map(|(_, running)| running.clone())
            .collect();
        if wanted.is_empty() && !context.is_empty() {
            return Err(Error::NotFound(context.to_owned()));
        }
        Ok(wanted)
    }

    /// The contexts asked for; none where what is asked for is no name.
    fn asked(&self, check: &mut Check, context: &str) -> Result<Vec<Arc<Running>>> {
        check.text("context", context, 0..=LONGEST_NAME);
        match self.running(context) {
            Err(Error::NotFound(_)) if !check.is_clean() => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// A page of rows over the stores of several contexts, one after another: the token is the context and the row.
    async fn list<T, L>(
        &self,
        list: &str,
        ask: Ask,
        load: L,
        name: fn(&T) -> String,
    ) -> Result<(Vec<T>, String)>
    where
        T: Send + 'static,
        L: Fn(&str, &mut Conn, &Page) -> Result<Vec<T>> + Clone + Send + 'static,
    {
        let mut check = Check::new();
        let mut contexts = self.asked(&mut check, &ask.context)?;
        let (at, token) = ask.token.split_once(':').unwrap_or_default();
        let known =
            contexts.iter().any(|running| running.store.context() == at.trim_end_matches('~'));
        check_page(&mut check, ask.size, &ask.token, known);
        check.finish()?;
        contexts.retain(|running| running.store.context() >= at);
        for running in contexts {
            let context = running.store.context().to_owned();
            let mut check = Check::new();
            let token = if context == at { token } else { "" };
            let page = running.store.page(&mut check, list, ask.size, 100, token);
            check.finish()?;
            let (load, of, rows_page) = (load.clone(), context.clone(), page.clone());
            let rows = running.store.read(move |conn| load(&of, conn, &rows_page)).await?;
            if rows.is_empty() {
                continue;
            }
            let (rows, next) = page.cut(rows, name);
            // Behind the last row of this context comes the first of the next: "~" sorts behind every context.
            let next =
                if next.is_empty() { format!("{context}~:") } else { format!("{context}:{next}") };
            return Ok((rows, next));
        }
        Ok((Vec::new(), String::new()))
    }
}

struct Ask {
    context: String,
    size: i32,
    token: String,
}

/// What every list refuses: `known` says whether the token is of one of its pages.
fn check_page(check: &mut Check, size: i32, token: &str, known: bool) {
    if size < 0 {
        check.bad("page_size", "must not be negative");
    }
    if !token.is_empty() && !known {
        check.bad("page_token", "is not the next_page_token of a page of this list");
    }
}

/// All rows of a list that is short by nature, cut to a page by name.
fn cut<T>(
    mut check: Check,
    mut rows: Vec<T>,
    size: i32,
    token: &str,
    name: fn(&T) -> &str,
) -> Result<(Vec<T>, String)> {
    let known = rows.iter().any(|row| name(row) == token);
    check_page(&mut check, size, token, known);
    check.finish()?;
    rows.retain(|row| name(row) > token);
    let size = if size == 0 { rows.len() } else { usize::try_from(size.min(1000)).unwrap_or(1) };
    let more = rows.len() > size;
    rows.truncate(size);
    let next = rows.last().filter(|_| more).map(|row| name(row).to_owned()).unwrap_or_default();
    Ok((rows, next))
}

#[tonic::async_trait]
impl OperationsService for Operations {
    async fn list_parked_events(
        &self,
        request: Request<api::ListParkedEventsRequest>,
    ) -> Result<Response<api::ListParkedEventsResponse>, Status> {
        let request = request.into_inner();
        let ask =
            Ask { context: request.context, size: request.page_size, token: request.page_token };
        let load = |_: &str, conn: &mut Conn, page: &Page| Ok(list_parked(conn, page)?);
        let (rows, next_page_token) =
            self.list("parked", ask, load, events::ParkedRow::name).await?;
        let parked_events = rows
            .into_iter()
            .map(|row| {
                Ok(api::ParkedEvent {
                    event: Some(api::Event::decode(&row.event[..]).map_err(Error::internal)?),
                    policy: row.policy,
                    failure: row.failure,
                    attempts: row.attempts.unsigned_abs(),
                    park_time: Some(events::timestamp(row.time)),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Response::new(api::ListParkedEventsResponse { parked_events, next_page_token }))
    }

    async fn replay_parked_events(
        &self,
        request: Request<api::ReplayParkedEventsRequest>,
    ) -> Result<Response<api::ReplayParkedEventsResponse>, Status> {
        let request = request.into_inner();
        let context = request.policy.split('/').next().unwrap_or_default().to_owned();
        let mut check = Check::command(&request);
        check.text("policy", &request.policy, 1..=LONGEST_NAME);
        check.text("subject", &request.subject, 0..=LONGEST_NAME);
        check.finish()?;
        let running = self.running(&context)?;
        let runner = running
            .iter()
            .flat_map(|running| running.runners())
            .find(|r| r.key() == request.policy);
        let runner = runner.ok_or_else(|| Error::NotFound(request.policy.clone()))?;
        let subject = Some(request.subject).filter(|subject| !subject.is_empty());
        let (replayed_count, parked_count) = runner.replay(subject).await?;
        Ok(Response::new(api::ReplayParkedEventsResponse { replayed_count, parked_count }))
    }

    async fn trim_log(
        &self,
        request: Request<api::TrimLogRequest>,
    ) -> Result<Response<api::TrimLogResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::command(&request);
        check.text("context", &request.context, 1..=LONGEST_NAME);
        for policy in &request.forget {
            check.text("forget", policy, 1..=LONGEST_NAME);
        }
        let before = check.time("before", request.before);
        if request.before.is_none() {
            check.bad("before", "is required");
        }
        if before.is_some_and(|before| before > crate::now()) {
            check.bad("before", "is still to come");
        }
        check.finish()?;
        let before = before.unwrap_or(SystemTime::UNIX_EPOCH);
        let running = self.running(&request.context)?.pop();
        let running = running.ok_or_else(|| Error::NotFound(request.context.clone()))?;
        let done =
            events::trim(&running.store, before, request.forget, request.validate_only).await?;
        Ok(Response::new(describe_trimmed(done)))
    }

    async fn list_intents(
        &self,
        request: Request<api::ListIntentsRequest>,
    ) -> Result<Response<api::ListIntentsResponse>, Status> {
        let request = request.into_inner();
        let ask =
            Ask { context: request.context, size: request.page_size, token: request.page_token };
        let load = |context: &str, conn: &mut Conn, page: &Page| {
            let rows = saga::list_intents(conn, page)?;
            Ok(rows.into_iter().map(|row| intent(context, row)).collect())
        };
        let (intents, next_page_token) =
            self.list("intents", ask, load, |intent: &api::Intent| intent.name.clone()).await?;
        Ok(Response::new(api::ListIntentsResponse { intents, next_page_token }))
    }

    async fn list_policies(
        &self,
        request: Request<api::ListPoliciesRequest>,
    ) -> Result<Response<api::ListPoliciesResponse>, Status> {
        let request = request.into_inner();
        let (mut check, mut policies) = (Check::new(), Vec::new());
        for running in self.asked(&mut check, &request.context)? {
            for runner in running.runners() {
                policies.push(describe(&running, &runner).await?);
            }
        }
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        let (policies, next_page_token) =
            cut(check, policies, request.page_size, &request.page_token, |policy| &policy.name)?;
        Ok(Response::new(api::ListPoliciesResponse { policies, next_page_token }))
    }

    async fn list_edges(
        &self,
        request: Request<api::ListEdgesRequest>,
    ) -> Result<Response<api::ListEdgesResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::new();
        check.text("context", &request.context, 0..=LONGEST_NAME);
        let registry = self.registry()?;
        let mut edges: Vec<_> = registry.edges().iter().map(|edge| describe_edge(edge)).collect();
        edges.retain(|edge| {
            request.context.is_empty()
                || edge.name.split("->").next() == Some(request.context.as_str())
        });
        edges.sort_by(|a, b| a.name.cmp(&b.name));
        let (edges, next_page_token) =
            cut(check, edges, request.page_size, &request.page_token, |edge| &edge.name)?;
        Ok(Response::new(api::ListEdgesResponse { edges, next_page_token }))
    }

    type BackUpStream = Pin<Box<dyn Stream<Item = Result<api::BackUpResponse, Status>> + Send>>;

    async fn back_up(
        &self,
        request: Request<api::BackUpRequest>,
    ) -> Result<Response<Self::BackUpStream>, Status> {
        let request = request.into_inner();
        let mut check = Check::command(&request);
        // It becomes the name of a folder.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=64).contains(&request.name.len()) || !request.name.bytes().all(plain) {
            check.bad("name", "must have 1 to 64 small letters, digits and hyphens");
        }
        check.finish()?;
        let registry = self.registry()?;
        if registry.running().values().any(|running| running.store.is_shared()) {
            let what = "a backup of stores in a database: use its own tools; this".to_owned();
            return Err(Error::Unimplemented(what).into());
        }
        let (told, mut copied) = tokio::sync::mpsc::unbounded_channel();
        let name = request.name.clone();
        // In a task of its own: a client that goes away does not stop it halfway.
        let taking = tokio::spawn(async move { backup::back_up(&registry, &name, told).await });
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            while let Some(store) = copied.recv().await {
                yield api::BackUpResponse { store, backup: None };
            }
            let manifest = taking.await.map_err(Error::internal)??;
            let backup = describe_backup(&request.name, &manifest);
            yield api::BackUpResponse { store: String::new(), backup: Some(backup) };
        })))
    }
}

fn describe_backup(name: &str, manifest: &backup::Manifest) -> api::Backup {
    let held = Duration::from_micros(manifest.held.unsigned_abs());
    api::Backup {
        folder: format!("{}/{name}", backup::FOLDER),
        create_time: Some(events::timestamp(manifest.time)),
        hold_duration: prost_types::Duration::try_from(held).ok(),
        store_count: u32::try_from(manifest.stores.len()).unwrap_or(u32::MAX),
        size_bytes: manifest.stores.iter().map(|store| store.bytes).sum(),
    }
}

fn intent(context: &str, row: saga::IntentRow) -> api::Intent {
    let state = if row.state == "PENDING" {
        api::intent::State::Pending
    } else {
        api::intent::State::Voiding
    };
    api::Intent {
        name: row.name,
        context: context.to_owned(),
        command: row.command,
        state: state.into(),
        create_time: Some(events::timestamp(row.time)),
        undo_attempts: row.undo_attempts.unsigned_abs(),
        last_failure: row.last_failure,
    }
}

async fn describe(running: &Running, runner: &Arc<Runner>) -> Result<api::Policy> {
    let policy = runner.policy();
    let (key, source) = (runner.key().to_owned(), policy.source().to_owned());
    let place = running.store.read(move |conn| Ok(place_of(conn, &key, &source, &[])?)).await?;
    let key = runner.key().to_owned();
    let parked = running.store.read(move |conn| Ok(events::count_parked(conn, &key)?)).await?;
    let position = place.as_ref().map_or(0, Place::position);
    Ok(api::Policy {
        name: runner.key().to_owned(),
        sentence: policy.sentence().to_owned(),
        source: policy.source().to_owned(),
        types: policy.types().map(ToOwned::to_owned).collect(),
        cursor: place
            .map(|place| api::Cursor { epoch: place.epoch, position: position.unsigned_abs() }),
        lag: runner.head().saturating_sub(position).max(0).unsigned_abs(),
        parked_count: u32::try_from(parked).unwrap_or(u32::MAX),
    })
}

fn describe_trimmed(done: events::Trimmed) -> api::TrimLogResponse {
    let readers = done.readers.into_iter().map(|reader| api::LogReader {
        policy: reader.policy,
        cursor: Some(api::Cursor { epoch: reader.epoch, position: reader.position.unsigned_abs() }),
        holds: reader.holds,
    });
    api::TrimLogResponse {
        trimmed_count: done.count as u64,
        trimmed_position: done.position.unsigned_abs(),
        more: done.more,
        readers: readers.collect(),
    }
}

fn describe_edge(edge: &crate::client::Edge) -> api::Edge {
    use std::sync::atomic::Ordering::Relaxed;
    let (state, transitions) = edge.breaker.state();
    let breaker = match state {
        BreakerState::Closed => api::edge::Breaker::Closed,
        BreakerState::Open => api::edge::Breaker::Open,
        BreakerState::HalfOpen => api::edge::Breaker::HalfOpen,
    };
    api::Edge {
        name: edge.name.clone(),
        sent_count: edge.counters.sent.load(Relaxed),
        failure_count: edge.counters.failed.load(Relaxed),
        fallback_count: edge.counters.fallbacks.load(Relaxed),
        bulkhead_refusal_count: edge.counters.bulkhead.load(Relaxed),
        retry_count: edge.counters.retries.load(Relaxed),
        breaker: breaker.into(),
        open_count: transitions.opened,
        half_open_count: transitions.half_opened,
        close_count: transitions.closed,
    }
}

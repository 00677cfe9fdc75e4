//! Mistakes that are planted into the kit, and the checks that find them: so it is known that they can see.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "kit/gate.rs"]
#[expect(dead_code, reason = "other tests close it, too")]
mod gate;

use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use diesel_migrations::embed_migrations;
use futures::{Stream, StreamExt as _};
use mesh::auth::MeshKey;
use mesh::chaos::Bug;
use mesh::client::{Breaker, BreakerSettings, EdgeSettings};
use mesh::{Caller, Context, Migrations, Store, Wiring, watch};
use mesh_testing::{TestMesh, finds, request_id};
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::notice::v1::notice_service_server::{NoticeService, NoticeServiceServer};
use proto::notice::v1::*;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::gate::Gate;

const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("tests/migrations/sqlite"),
    postgres: embed_migrations!("tests/migrations/postgres"),
};
const ORDER: &str = "musicalReservations/0198f3c1-0000-7000-8000-000000000000";

/// A stand-in of notice that tells a fact each time it carries a command out.
#[derive(Clone)]
struct Notices(Store);

#[tonic::async_trait]
impl NoticeService for Notices {
    type WatchNoticesStream =
        Pin<Box<dyn Stream<Item = Result<WatchNoticesResponse, Status>> + Send>>;

    async fn send_notice(
        &self,
        request: Request<SendNoticeRequest>,
    ) -> Result<Response<SendNoticeResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let order = request.order.clone();
        let answer = self.0.once(&caller, &request, move |tx| {
            tx.publish(&order, &order, &Noticed::default())?;
            Ok(SendNoticeResponse::default())
        });
        Ok(Response::new(answer.await?))
    }

    async fn list_notices(
        &self,
        _: Request<ListNoticesRequest>,
    ) -> Result<Response<ListNoticesResponse>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }

    async fn watch_notices(
        &self,
        _: Request<WatchNoticesRequest>,
    ) -> Result<Response<Self::WatchNoticesStream>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }
}

/// The stand-in, and its store when it runs.
fn notice() -> (Context, Arc<Mutex<Option<Store>>>) {
    let store = Arc::new(Mutex::new(None));
    let opened = store.clone();
    let context = Context::new(
        "notice",
        || MIGRATIONS,
        move |kit| {
            *opened.lock().unwrap() = Some(kit.store());
            Ok(Wiring::default().serve(NoticeServiceServer::new(Notices(kit.store()))))
        },
    );
    (context, store)
}

fn tell() -> SendNoticeRequest {
    SendNoticeRequest { request_id: request_id(), order: ORDER.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn t_19_a_call_that_is_another_one_when_it_is_sent_again_is_found() {
    finds(Bug::NewRequestIdOnRetry, async |_| {
        let mesh = TestMesh::start(&[notice().0]).await;
        mesh.mesh.faults().break_replies("SendNotice", 1);
        let mut client = NoticeServiceClient::new(mesh.service("outerpark.reservation", "notice"));
        client.send_notice(tell()).await.map_err(|status| status.to_string())?;
        match mesh.events("notice", ORDER).await.len() {
            1 => Ok(()),
            times => Err(format!("carried out {times} times")),
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn t_22_a_stampede_on_a_breaker_that_is_half_open_is_found() {
    finds(Bug::HalfOpenLetsAllThrough, async |_| {
        let breaker = Breaker::new(BreakerSettings::default());
        let soon = || Instant::now() + Duration::from_millis(610);
        for _ in 0..20 {
            breaker.admit(soon()).unwrap().record(true);
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        let admitted: Vec<_> = (0..100).map(|_| breaker.admit(soon())).collect();
        match admitted.iter().filter(|admitted| admitted.is_ok()).count() {
            1 => Ok(()),
            many => Err(format!("{many} passed")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t_16_a_stream_that_looks_before_it_subscribes_is_found() {
    finds(Bug::SnapshotBeforeSubscribing, async |patience| {
        let (context, store) = notice();
        let mesh = TestMesh::start(&[context]).await;
        let store = store.lock().unwrap().clone().unwrap();
        let number = Arc::new(AtomicI32::new(1));
        // The first look finds 1, and hears no more of what happens before it is over.
        let (looked, mut has_looked) = unbounded_channel();
        let (changed, has_changed) = mpsc::channel();
        let (seen, has_changed) = (number.clone(), Arc::new(Mutex::new(has_changed)));
        let look = move |_: &mut mesh::Conn| {
            let found = seen.load(Ordering::SeqCst);
            if found == 1 {
                let _ = looked.send(());
                let _ = has_changed.lock().unwrap().recv();
            }
            Ok(found)
        };
        let change = async {
            has_looked.recv().await.unwrap();
            number.store(2, Ordering::SeqCst);
            let fact = |tx: &mut mesh::Tx<'_>| tx.publish(ORDER, ORDER, &Noticed::default());
            store.write(fact).await.unwrap();
            changed.send(()).unwrap();
        };
        let opened = watch::latest(&store, CancellationToken::new(), look);
        let (stream, ()) = tokio::join!(opened, change);
        let two = async {
            let mut stream = stream.unwrap();
            while stream.next().await.unwrap().unwrap() != 2 {}
        };
        let seen = timeout(patience, two).await.map_err(|_| "the change was missed".to_owned());
        drop(mesh);
        seen
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t_17_a_connection_that_nobody_asks_whether_it_lives_is_found() {
    finds(Bug::NoKeepalive, async |patience| {
        let key = || Some(MeshKey::new("a secret of the mesh that is long enough").unwrap());
        let there = TestMesh::start_with(&[notice().0], |options| {
            options.mesh_key = key();
            options.faces_customers = false;
        })
        .await;
        let gate = Gate::before(there.address()).await;
        let here = TestMesh::start_with(&[], |options| {
            options.mesh_key = key();
            options.endpoints.insert("notice".to_owned(), format!("http://{}", gate.address));
            let breaker = BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() };
            let edge = EdgeSettings { breaker, ..EdgeSettings::default() };
            options.edges = Arc::new(move |_| edge);
        })
        .await;
        let mut client = NoticeServiceClient::new(here.service("outerpark.reservation", "notice"));
        client.send_notice(tell()).await.unwrap();
        // The way is free again at once, but the connection there was is dead for ever.
        gate.set_silent(true);
        client.send_notice(tell()).await.unwrap_err();
        gate.set_silent(false);
        let heals = async { while client.send_notice(tell()).await.is_err() {} };
        // Asked every five seconds, a connection has two more to answer.
        let patience = patience.max(Duration::from_secs(15));
        timeout(patience, heals).await.map_err(|_| "it never healed".to_owned())
    })
    .await;
}

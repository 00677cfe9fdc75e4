//! One callee at several addresses, some of which die, go silent or were never there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh::auth::MeshKey;
use mesh::client::{BreakerSettings, Channel, EdgeSettings, is_certainly_not_sent};
use mesh_testing::{TestMesh, eventually, refusal};
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Code;

use crate::edges::{Payments, pay};
use crate::gate::Gate;
use crate::stand_in::*;

const SECRET: &str = "a secret of the mesh that is long enough";

/// A server of payment, and what it saw.
struct Server {
    payments: Payments,
    stores: Stores,
    mesh: TestMesh,
}

impl Server {
    async fn start() -> Self {
        let (payments, stores) = (Payments::default(), Stores::default());
        let contexts = [payments.context(), stores.source("identity")];
        let mesh = TestMesh::start_with(&contexts, |options| {
            options.mesh_key = Some(MeshKey::new(SECRET).unwrap());
            options.faces_customers = false;
        })
        .await;
        Self { payments, stores, mesh }
    }

    fn calls(&self) -> usize {
        self.payments.calls.lock().unwrap().len()
    }

    async fn until_called(&self, times: usize) {
        let enough = self.calls() + times;
        eventually("calls", async || (self.calls() >= enough).then_some(())).await;
    }
}

/// A caller that knows the servers at this endpoint. Its calls have all the time that their contract allows, and no
/// breaker.
async fn caller(endpoint: &str, contexts: &[mesh::Context]) -> TestMesh {
    TestMesh::start_with(contexts, |options| {
        options.mesh_key = Some(MeshKey::new(SECRET).unwrap());
        for callee in ["payment", "identity"] {
            options.endpoints.insert(callee.to_owned(), endpoint.to_owned());
        }
        options.edges = Arc::new(|_| EdgeSettings {
            timeout: Duration::from_secs(5),
            breaker: BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() },
            ..EdgeSettings::default()
        });
    })
    .await
}

/// A call that a server answers with a refusal, without work.
async fn ask(channel: &Channel) -> Result<(), String> {
    let outcome = PaymentServiceClient::new(channel.clone()).pay(pay("refuse")).await;
    match outcome.unwrap_err() {
        status if status.code() == Code::FailedPrecondition => Ok(()),
        status => Err(format!("{status:?}")),
    }
}

async fn edge(mesh: &TestMesh) -> api::Edge {
    let edges = operations(mesh).list_edges(api::ListEdgesRequest::default()).await.unwrap();
    let mut edges = edges.into_inner().edges.into_iter();
    edges.find(|edge| edge.name == "homemovie.app->payment").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn t29_one_of_two_servers_dies_and_no_call_fails_and_it_comes_back() {
    let (one, other) = (Server::start().await, Server::start().await);
    let mut gate = Gate::before(one.mesh.address()).await;
    let here =
        caller(&format!("http://{}|http://{}", gate.address, other.mesh.address()), &[]).await;
    let channel = here.service("homemovie.app", "payment");
    let (asked, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let users: Vec<_> = (0..2)
        .map(|_| {
            let (channel, asked, ended) = (channel.clone(), asked.clone(), ended.clone());
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    ask(&channel).await?;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    one.until_called(20).await;
    other.until_called(20).await;
    for _ in 0..2 {
        gate.close().await;
        other.until_called(100).await;
        gate.open().await;
        one.until_called(20).await;
    }
    ended.store(true, Ordering::Relaxed);
    for user in users {
        user.await.unwrap().unwrap();
    }
    assert!(asked.load(Ordering::Relaxed) >= 280);
}

#[tokio::test(flavor = "multi_thread")]
async fn t_roll_one_of_two_servers_stops_and_no_call_fails_and_none_is_sent_again() {
    let (one, other) = (Server::start().await, Server::start().await);
    let mut gate = Gate::before(one.mesh.address()).await;
    let here =
        caller(&format!("http://{}|http://{}", gate.address, other.mesh.address()), &[]).await;
    let channel = here.service("homemovie.app", "payment");
    let ended = Arc::new(AtomicBool::new(false));
    let asked: Arc<[AtomicUsize; 4]> = Arc::default();
    let users: Vec<_> = (0..asked.len())
        .map(|n| {
            let (channel, asked, ended) = (channel.clone(), asked.clone(), ended.clone());
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    ask(&channel).await?;
                    asked[n].fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    one.until_called(20).await;
    other.until_called(20).await;
    // It says for a while that it stops, and then it is gone.
    one.mesh.mesh.drain().await;
    // Nobody is under way any more who set out before.
    let before: Vec<_> = asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect();
    eventually("everybody has asked again", async || {
        let times = asked.iter().zip(&before);
        let times = times.map(|(asked, before)| asked.load(Ordering::Relaxed) - before);
        times.min().is_some_and(|least| least >= 10).then_some(())
    })
    .await;
    let after_the_drain = one.calls();
    gate.close().await;
    other.until_called(50).await;
    ended.store(true, Ordering::Relaxed);
    for user in users {
        user.await.unwrap().unwrap();
    }
    assert_eq!(one.calls(), after_the_drain);
    assert_eq!(edge(&here).await.retry_count, 0, "nothing was begun, so nothing was repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_a_callee_that_stops_was_certainly_not_sent_anything() {
    let there = Server::start().await;
    let here = caller(&format!("http://{}", there.mesh.address()), &[]).await;
    let mut client = PaymentServiceClient::new(here.service("homemovie.app", "payment"));
    client.pay(pay("orders/1")).await.unwrap();
    there.mesh.mesh.drain().await;
    let status = client.pay(pay("orders/2")).await.unwrap_err();
    assert!(is_certainly_not_sent(&status), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_ever_was_costs_no_call_and_no_retry() {
    let there = Server::start().await;
    let endpoint = format!("http://127.0.0.1:1 http://{}", there.mesh.address());
    let stores = Stores::default();
    let here = caller(&endpoint, &[stores.consumer("mypage", created)]).await;
    let channel = here.service("homemovie.app", "payment");
    for _ in 0..20 {
        ask(&channel).await.unwrap();
    }
    let edge = edge(&here).await;
    assert_eq!((edge.sent_count, edge.failure_count, edge.retry_count), (20, 0, 0));
    // Streams choose in the same way.
    publish(&there.stores.of("identity"), &accounts(5)).await;
    until_handled(&stores, "mypage", CREATED, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_where_nobody_is_at_any_address_nothing_was_sent() {
    let here = caller("http://127.0.0.1:1|http://127.0.0.1:2", &[]).await;
    let mut client = PaymentServiceClient::new(here.service("homemovie.app", "payment"));
    for _ in 0..5 {
        let status = client.pay(pay("orders/1")).await.unwrap_err();
        assert!(is_certainly_not_sent(&status), "{status:?}");
        assert_eq!(refusal::<()>(Err(status)).1, "PAYMENT_BUSY");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_and_stands_for_all_its_addresses() {
    let there = Server::start().await;
    // Where localhost has an address of IPv6 as well, nobody is there.
    let here = caller(&format!("http://localhost:{}", there.mesh.address().port()), &[]).await;
    ask(&here.service("homemovie.app", "payment")).await.unwrap();
    let nowhere = caller("http://nowhere.invalid:50051", &[]).await;
    let mut client = PaymentServiceClient::new(nowhere.service("homemovie.app", "payment"));
    let status = client.pay(pay("orders/1")).await.unwrap_err();
    assert_eq!(refusal::<()>(Err(status)).1, "PAYMENT_BUSY");
}

#[tokio::test(flavor = "multi_thread")]
async fn t28_a_stream_whose_connection_breaks_says_to_come_again() {
    let there = Server::start().await;
    let mut gate = Gate::before(there.mesh.address()).await;
    let here = caller(&format!("http://{}", gate.address), &[]).await;
    let mut log = EventServiceClient::new(here.service("mypage", "identity"));
    let request = api::SubscribeRequest {
        source: "identity".to_owned(),
        policy: "mypage/test".to_owned(),
        ..Default::default()
    };
    let mut stream = log.subscribe(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    gate.close().await;
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(mesh::retry_delay_of(&status).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_a_connection_that_went_silent_heals_by_itself() {
    let there = Server::start().await;
    let gate = Gate::before(there.mesh.address()).await;
    let here = caller(&format!("http://{}", gate.address), &[]).await;
    let channel = here.service("homemovie.app", "payment");
    ask(&channel).await.unwrap();
    gate.set_silent(true);
    ask(&channel).await.unwrap_err();
    // The way is free again, but the connection there was is dead for ever: a new one is needed.
    gate.set_silent(false);
    eventually("it is found out", async || ask(&channel).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_silent_is_left_out() {
    let (silent, other) = (Server::start().await, Server::start().await);
    let gate = Gate::before(silent.mesh.address()).await;
    gate.set_silent(true);
    let here =
        caller(&format!("http://{}|http://{}", gate.address, other.mesh.address()), &[]).await;
    let channel = here.service("homemovie.app", "payment");
    eventually("fifty answers in a row", async || {
        for _ in 0..50 {
            ask(&channel).await.ok()?;
        }
        Some(())
    })
    .await;
    assert_eq!(silent.calls(), 0);
}

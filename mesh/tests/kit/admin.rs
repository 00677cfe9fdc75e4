//! The port for those who run a process.

use mesh::AdminPort;
use mesh_testing::{TestMesh, eventually, get, metric};
use proto::mesh::v1::SubscribeRequest;
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::edges::{Payments, pay};
use crate::stand_in::*;

const PAY: &str = "turnstile.payment.v1.PaymentService/Pay";

pub(crate) async fn open(mesh: &TestMesh, contexts: &[&str]) -> AdminPort {
    let address = ([127, 0, 0, 1], 0).into();
    mesh.mesh.listen_for_admins(address, contexts.iter().copied()).await.unwrap()
}

pub(crate) async fn read(port: &AdminPort, series: &str) -> f64 {
    let (status, page) = get(port.address(), "/metrics").await;
    assert_eq!(status, 200, "{page}");
    metric(&page, series).unwrap_or_default()
}

fn calls(method: &str, code: &str) -> String {
    format!(
        "rpc_server_call_duration_seconds_count{{rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"}}"
    )
}

/// Waits until a health check is answered so; `""` is the process itself.
async fn until_health_is(mesh: &TestMesh, service: &str, expected: ServingStatus) {
    let health = HealthClient::new(mesh.stranger());
    eventually(&format!("{service:?} is {expected:?}"), async || {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.clone().check(request).await.unwrap().into_inner();
        (answer.status() == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_the_metrics_tell_calls_refusals_and_what_an_edge_did() {
    let payments = Payments::default();
    let mesh = TestMesh::start(&[payments.context()]).await;
    let port = open(&mesh, &["payment"]).await;
    let mut client = PaymentServiceClient::new(mesh.service("homemovie.app", "payment"));
    for order in ["orders/1", "orders/2", "orders/3"] {
        client.pay(pay(order)).await.unwrap();
    }
    client.pay(pay("refuse")).await.unwrap_err();
    assert_eq!(read(&port, &calls(PAY, "OK")).await, 3.0);
    assert_eq!(read(&port, &calls(PAY, "FAILED_PRECONDITION")).await, 1.0);
    let declined = "mesh_refusals_total{context=\"payment\",reason=\"PAYMENT_DECLINED\"}";
    assert_eq!(read(&port, declined).await, 1.0);
    let edge = "edge=\"homemovie.app->payment\"";
    assert_eq!(read(&port, &format!("mesh_edge_sent_total{{{edge}}}")).await, 4.0);
    assert_eq!(read(&port, &format!("mesh_edge_fallbacks_total{{{edge}}}")).await, 0.0);

    mesh.mesh.stop("payment").await;
    // Until the breaker opens.
    for _ in 0..20 {
        client.pay(pay("orders/4")).await.unwrap_err();
    }
    assert_eq!(read(&port, &format!("mesh_edge_fallbacks_total{{{edge}}}")).await, 20.0);
    assert_eq!(read(&port, &format!("mesh_edge_sent_total{{{edge}}}")).await, 4.0);
    let state = format!("mesh_edge_breaker_state{{{edge},state=\"open\"}}");
    let opened = format!("mesh_edge_breaker_transitions_total{{{edge},to=\"open\"}}");
    assert_eq!((read(&port, &state).await, read(&port, &opened).await), (1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_the_metrics_tell_lag_and_what_is_parked() {
    let stores = Stores::default();
    let mesh =
        TestMesh::start(&[stores.source("identity"), stores.consumer("mypage", created)]).await;
    let port = open(&mesh, &[]).await;
    let [waits, fails] = [account(), account()];
    script(&fails, Act::Fail, 6);
    publish(&stores.of("identity"), &[fails.clone(), fails]).await;
    let parked = "mesh_policy_parked{policy=\"mypage/whenever_account_created\"}";
    eventually("both are parked", async || (read(&port, parked).await == 2.0).then_some(())).await;
    let lag = "mesh_policy_lag{policy=\"mypage/whenever_account_created\",source=\"identity\"}";
    eventually("nothing is before it", async || (read(&port, lag).await == 0.0).then_some(()))
        .await;
    script(&waits, Act::Wait, 1_000_000);
    publish(&stores.of("identity"), std::slice::from_ref(&waits)).await;
    eventually("one is before it", async || (read(&port, lag).await == 1.0).then_some(())).await;
    script(&waits, Act::Wait, 0);
    eventually("it is handled", async || (read(&port, lag).await == 0.0).then_some(())).await;
    let writes = read(&port, "mesh_store_writes_total{store=\"mypage\"}").await;
    let commits = read(&port, "mesh_store_commits_total{store=\"mypage\"}").await;
    assert!(writes >= 4.0 && commits >= 4.0, "{writes} in {commits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_under_way_until_its_reader_goes() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity")]).await;
    let port = open(&mesh, &[]).await;
    let subscribe = "turnstile.mesh.v1.EventService/Subscribe";
    let under_way = format!("rpc_server_calls_under_way{{rpc_method=\"{subscribe}\"}}");
    let request = SubscribeRequest {
        source: "identity".to_owned(),
        policy: "mypage/test".to_owned(),
        ..SubscribeRequest::default()
    };
    let mut client = EventServiceClient::new(mesh.service("mypage", "identity"));
    let stream = client.subscribe(request).await.unwrap();
    assert_eq!(read(&port, &under_way).await, 1.0);
    drop(stream);
    eventually("none is", async || (read(&port, &under_way).await == 0.0).then_some(())).await;
    assert_eq!(read(&port, &calls(subscribe, "CANCELLED")).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_a_panic_is_counted() {
    mesh::telemetry::start("off").unwrap();
    let payments = Payments::default();
    let mesh = TestMesh::start(&[payments.context()]).await;
    let port = open(&mesh, &[]).await;
    let before = read(&port, "mesh_panics_total").await;
    let mut client = PaymentServiceClient::new(mesh.service("homemovie.app", "payment"));
    let status = client.pay(pay("panic")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(read(&port, "mesh_panics_total").await > before);
    assert_eq!(read(&port, &calls(PAY, "INTERNAL")).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_a_process_is_ready_when_each_of_its_contexts_is() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity"), stores.source("payment")]).await;
    let port = open(&mesh, &["identity", "payment"]).await;
    assert_eq!(get(port.address(), "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(get(port.address(), "/readyz").await, (200, "ready\n".to_owned()));
    mesh.mesh.stop("payment").await;
    let not_running = (503, "payment is not running\n".to_owned());
    assert_eq!(get(port.address(), "/readyz").await, not_running);
    mesh.restart("payment").await;
    assert_eq!(get(port.address(), "/readyz").await.0, 200);
    assert_eq!(get(port.address(), "/secrets").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_a_store_that_does_not_answer_is_named() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity")]).await;
    let port = open(&mesh, &["identity"]).await;
    let store = stores.of("identity");
    let (done, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    // As many reads as there may be at once, each as long as the test wants.
    let reads: Vec<_> = (0..4)
        .map(|_| {
            let (store, held) = (store.clone(), held.clone());
            tokio::spawn(async move {
                store.read(move |_| Ok(held.lock().unwrap().recv().is_err())).await
            })
        })
        .collect();
    let named = (503, "the store of identity does not answer\n".to_owned());
    eventually("it is named", async || {
        (get(port.address(), "/readyz").await == named).then_some(())
    })
    .await;
    assert_eq!(get(port.address(), "/livez").await.0, 200);
    until_health_is(&mesh, "identity", ServingStatus::NotServing).await;
    until_health_is(&mesh, "", ServingStatus::Serving).await;
    drop(done);
    for read in reads {
        assert!(read.await.unwrap().unwrap());
    }
    assert_eq!(get(port.address(), "/readyz").await.0, 200);
    until_health_is(&mesh, "identity", ServingStatus::Serving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_a_process_that_drains_lives_and_is_not_ready() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity")]).await;
    let port = open(&mesh, &["identity"]).await;
    mesh.mesh.drain().await;
    let stopping = (503, "identity is stopping\n".to_owned());
    assert_eq!(get(port.address(), "/readyz").await, stopping);
    assert_eq!(get(port.address(), "/livez").await.0, 200);
    until_health_is(&mesh, "identity", ServingStatus::NotServing).await;
    until_health_is(&mesh, "", ServingStatus::Serving).await;
}

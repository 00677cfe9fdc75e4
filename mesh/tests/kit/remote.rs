//! Contexts in different processes: connections, tokens, logs that are read from afar.

use std::time::Duration;

use mesh::auth::MeshKey;
use mesh::client::is_certainly_not_sent;
use mesh_testing::{TestMesh, refusal};
use proto::mesh::v1::SubscribeRequest;
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Code;

use crate::edges::{Payments, pay};
use crate::stand_in::*;

const SECRET: &str = "a secret of the mesh that is long enough";

async fn callee(payments: &Payments, stores: &Stores) -> TestMesh {
    TestMesh::start_with(&[payments.context(), stores.source("identity")], |options| {
        options.mesh_key = Some(MeshKey::new(SECRET).unwrap());
        options.faces_customers = false;
    })
    .await
}

async fn caller(callee: &TestMesh, stores: &Stores, secret: &str) -> TestMesh {
    let address = format!("http://{}", callee.address());
    TestMesh::start_with(&[stores.consumer("mypage", created)], |options| {
        options.mesh_key = Some(MeshKey::new(secret).unwrap());
        for context in ["payment", "identity"] {
            options.endpoints.insert(context.to_owned(), address.clone());
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn g16_a_context_proves_itself_to_another_process() {
    let (payments, stores) = (Payments::default(), Stores::default());
    let there = callee(&payments, &stores).await;
    let here = caller(&there, &stores, SECRET).await;
    let call = async |from: &str, mesh: &TestMesh| {
        PaymentServiceClient::new(mesh.service(from, "payment")).pay(pay("orders/1")).await
    };
    call("homemovie.app", &here).await.unwrap();
    let (key, left) = payments.calls.lock().unwrap()[0].clone();
    assert_eq!(key, "homemovie.app");
    assert!(left <= Duration::from_millis(610), "the deadline goes along: {left:?}");
    assert_eq!(refusal(call("mypage", &here).await).0, Code::PermissionDenied);
    let forger =
        caller(&there, &Stores::default(), "another secret that is long enough, too").await;
    assert_eq!(refusal(call("homemovie.app", &forger).await).0, Code::Unimplemented);
    let mut stranger = PaymentServiceClient::new(there.stranger());
    assert_eq!(refusal(stranger.pay(pay("orders/1")).await).0, Code::Unimplemented);
    assert_eq!(payments.calls.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn g16_a_process_that_faces_customers_takes_no_token_of_a_context() {
    let payments = Payments::default();
    let there = TestMesh::start_with(&[payments.context()], |options| {
        options.mesh_key = Some(MeshKey::new(SECRET).unwrap());
    })
    .await;
    let here = caller(&there, &Stores::default(), SECRET).await;
    let outcome = PaymentServiceClient::new(here.service("homemovie.app", "payment"))
        .pay(pay("orders/1"))
        .await;
    assert_eq!(refusal(outcome).0, Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_a_log_is_read_from_another_process() {
    let (payments, stores) = (Payments::default(), Stores::default());
    let there = callee(&payments, &stores).await;
    let _here = caller(&there, &stores, SECRET).await;
    let subjects = accounts(10);
    publish(&stores.of("identity"), &subjects).await;
    until_handled(&stores, "mypage", CREATED, 10).await;
    for crash in 1..=3 {
        there.mesh.crash("identity").await;
        there.restart("identity").await;
        publish(&stores.of("identity"), &subjects).await;
        until_handled(&stores, "mypage", CREATED, 10 * (crash + 1)).await;
    }
    for (subject, sequences) in by_subject(&handled_by(&stores.of("mypage"), CREATED).await) {
        assert_eq!(sequences, [1, 2, 3, 4], "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_streams_that_nobody_reads_hold_up_no_other_of_the_same_connection() {
    const EVENTS: usize = 100;
    let (payments, stores) = (Payments::default(), Stores::default());
    let there = callee(&payments, &stores).await;
    let here = caller(&there, &stores, SECRET).await;
    // Long enough to fill what a connection takes without being read.
    let subjects: Vec<_> = accounts(EVENTS).into_iter().map(|name| name.repeat(3_000)).collect();
    publish(&stores.of("identity"), &subjects).await;
    let subscribe = async || {
        let channel = here.service("mypage", "identity");
        let mut log = EventServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let request = SubscribeRequest {
            source: "identity".to_owned(),
            policy: "mypage/test".to_owned(),
            ..SubscribeRequest::default()
        };
        log.subscribe(request).await.unwrap().into_inner()
    };
    let _unread = [subscribe().await, subscribe().await, subscribe().await, subscribe().await];
    let (mut read, mut stream) = (0, subscribe().await);
    while read < EVENTS {
        let batch = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
        read += batch.expect("it is not held up").unwrap().unwrap().events.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_a_process_that_is_not_there_was_certainly_not_sent_anything() {
    let here = TestMesh::start_with(&[], |options| {
        // Nobody listens on the port of tcpmux.
        options.endpoints.insert("payment".to_owned(), "http://127.0.0.1:1".to_owned());
    })
    .await;
    let status = PaymentServiceClient::new(here.service("homemovie.app", "payment"))
        .pay(pay("orders/1"))
        .await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), mesh::reason_of(&status).as_deref()),
        (Code::Unavailable, Some("PAYMENT_BUSY"))
    );
    assert!(is_certainly_not_sent(&status), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g12_a_context_that_is_down_in_another_process_is_busy() {
    let (payments, stores) = (Payments::default(), Stores::default());
    let there = callee(&payments, &stores).await;
    let here = caller(&there, &stores, SECRET).await;
    there.mesh.stop("payment").await;
    let mut client = PaymentServiceClient::new(here.service("homemovie.app", "payment"));
    let busy = (Code::Unavailable, "PAYMENT_BUSY".to_owned());
    assert_eq!(refusal(client.pay(pay("orders/1")).await), busy);
    there.restart("payment").await;
    client.pay(pay("orders/1")).await.unwrap();
}

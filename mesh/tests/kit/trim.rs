//! A log that is trimmed loses nothing that somebody has still to read.

use mesh_testing::{TestMesh, eventually, refusal, request_id};
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use tonic::{Code, Status};

use crate::stand_in::*;

/// What was stored until now may go.
fn request_of_now() -> api::TrimLogRequest {
    api::TrimLogRequest {
        request_id: request_id(),
        context: "identity".to_owned(),
        before: Some(mesh::now().into()),
        ..Default::default()
    }
}

async fn trim(mesh: &TestMesh, request: api::TrimLogRequest) -> api::TrimLogResponse {
    operations(mesh).trim_log(request).await.unwrap().into_inner()
}

/// Who keeps something, and from where on.
fn holders(trimmed: &api::TrimLogResponse) -> Vec<(&str, u64)> {
    let held = trimmed.readers.iter().filter(|reader| reader.holds);
    held.map(|reader| (&*reader.policy, reader.cursor.as_ref().unwrap().position)).collect()
}

/// A policy that begins at the start, or behind a position.
async fn subscribe(
    mesh: &TestMesh,
    policy: &str,
    after: Option<api::Cursor>,
) -> Result<u64, Status> {
    let request = api::SubscribeRequest {
        source: "identity".to_owned(),
        policy: policy.to_owned(),
        after,
        ..Default::default()
    };
    let mut client = EventServiceClient::new(mesh.service("mypage", "identity"));
    let mut stream = client.subscribe(request).await?.into_inner();
    Ok(stream.message().await?.unwrap().from_position)
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_only_what_every_policy_has_behind_it_is_trimmed() {
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.consumer("mypage", created)];
    let mesh = TestMesh::start(&contexts).await;
    let subjects = accounts(10);
    let policy = format!("mypage/{CREATED}");
    for _ in 0..3 {
        publish(&stores.of("identity"), &subjects).await;
    }
    until_handled(&stores, "mypage", CREATED, 30).await;

    // It has read everything, but when it came it had not, and that is what the log knows.
    let held = trim(&mesh, request_of_now()).await;
    assert_eq!((held.trimmed_count, held.trimmed_position, held.more), (0, 0, false));
    assert_eq!(holders(&held), [(&*policy, 0)]);

    // In a database the partitions in which nothing happens catch up when it is quiet.
    eventually("every partition is behind it", async || {
        let policies = operations(&mesh).list_policies(api::ListPoliciesRequest::default()).await;
        let policies = policies.unwrap().into_inner().policies;
        policies.iter().all(|policy| policy.cursor.as_ref().unwrap().position == 30).then_some(())
    })
    .await;
    mesh.mesh.stop("mypage").await;
    mesh.restart("mypage").await;
    publish(&stores.of("identity"), &subjects[..1]).await;
    until_handled(&stores, "mypage", CREATED, 31).await;
    let looked = api::TrimLogRequest { validate_only: true, ..request_of_now() };
    let looked = trim(&mesh, looked).await;
    assert_eq!((looked.trimmed_count, looked.trimmed_position, looked.more), (0, 0, true));

    // Of the thirty it has behind it, the last about each subject stays; one of those has a later one, too.
    let done = trim(&mesh, request_of_now()).await;
    assert_eq!((done.trimmed_count, done.trimmed_position, done.more), (21, 30, false));
    assert_eq!(holders(&done), [(&*policy, 30)]);
    assert_eq!(trim(&mesh, request_of_now()).await.trimmed_count, 0);

    // Versions and positions go on, and so does who reads.
    mesh.mesh.stop("mypage").await;
    mesh.mesh.stop("identity").await;
    mesh.restart("identity").await;
    publish(&stores.of("identity"), &subjects).await;
    assert_eq!(holders(&trim(&mesh, request_of_now()).await), [(&*policy, 30)], "it is away");
    mesh.restart("mypage").await;
    until_handled(&stores, "mypage", CREATED, 41).await;
    for (subject, sequences) in by_subject(&handled_by(&stores.of("mypage"), CREATED).await) {
        let last = if subject == subjects[0] { 5 } else { 4 };
        assert_eq!(sequences, (1..=last).collect::<Vec<_>>(), "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_nobody_is_carried_over_what_was_trimmed() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity"), stores.source("mypage")]).await;
    let (store, subjects) = (stores.of("identity"), accounts(2));
    for _ in 0..5 {
        publish(&store, &subjects).await;
    }
    let at = |position| Some(api::Cursor { epoch: store.epoch().to_string(), position });
    assert_eq!(subscribe(&mesh, "mypage/behind", at(4)).await.unwrap(), 5);
    assert_eq!(subscribe(&mesh, "mypage/done", at(10)).await.unwrap(), 11);
    assert_eq!(trim(&mesh, request_of_now()).await.trimmed_position, 4);
    // Who was restored from a copy knows less than the log remembers of it.
    assert_eq!(subscribe(&mesh, "mypage/done", at(7)).await.unwrap(), 8);
    let forget =
        api::TrimLogRequest { forget: vec!["mypage/behind".to_owned()], ..request_of_now() };
    let done = trim(&mesh, forget).await;
    assert_eq!((done.trimmed_count, done.trimmed_position), (3, 7));

    for gone in [None, at(4), at(6)] {
        let refused = subscribe(&mesh, "mypage/behind", gone).await;
        let (code, reason) = refusal(refused);
        assert_eq!((code, reason.as_str()), (Code::OutOfRange, "CURSOR_TRIMMED"));
    }
    assert_eq!(subscribe(&mesh, "mypage/behind", at(7)).await.unwrap(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_who_is_forgotten_while_it_reads_is_not_carried_over_what_was_trimmed() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity"), stores.source("mypage")]).await;
    let subject = account();
    publish(&stores.of("identity"), &vec![subject; 2000]).await;
    // What is read comes from the disk.
    mesh.mesh.stop("identity").await;
    mesh.restart("identity").await;
    let mut client = EventServiceClient::new(mesh.service("mypage", "identity"));
    let request = api::SubscribeRequest {
        source: "identity".to_owned(),
        policy: "mypage/slow".to_owned(),
        ..Default::default()
    };
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().unwrap().to_position == 0 {}

    let forget = api::TrimLogRequest { forget: vec!["mypage/slow".to_owned()], ..request_of_now() };
    assert_eq!(trim(&mesh, forget).await.trimmed_position, 2000);
    let mut told = 0;
    let refused = loop {
        match stream.message().await {
            Ok(batch) => {
                let batch = batch.unwrap();
                let all = batch.to_position + 1 - batch.from_position;
                assert_eq!(batch.events.len() as u64, all, "without a gap");
                told = batch.to_position;
            }
            refused => break refused,
        }
    };
    let (code, reason) = refusal(refused);
    assert_eq!((code, reason.as_str()), (Code::OutOfRange, "CURSOR_TRIMMED"));
    assert!(told < 2000, "it had read everything before");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_old_enough_is_not_trimmed() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity")]).await;
    let subjects = accounts(1);
    for _ in 0..1200 {
        publish(&stores.of("identity"), &subjects).await;
    }
    let between = mesh::now();
    for _ in 0..3 {
        publish(&stores.of("identity"), &subjects).await;
    }
    let done =
        trim(&mesh, api::TrimLogRequest { before: Some(between.into()), ..request_of_now() }).await;
    assert_eq!((done.trimmed_count, done.trimmed_position, done.more), (1200, 1200, false));
}

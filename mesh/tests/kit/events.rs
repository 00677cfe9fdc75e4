//! Streaming a log, and policies that change their own store.

use futures::future::join_all;
use mesh::StartError;
use mesh::whenever;
use mesh_testing::{TestMesh, eventually, refusal};
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use tonic::Code;

use crate::stand_in::*;

async fn start() -> (TestMesh, Stores) {
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.consumer("mypage", created)];
    (TestMesh::start(&contexts).await, stores)
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_what_happens_while_a_consumer_is_stopped_is_handled_once_and_in_order() {
    let (mesh, stores) = start().await;
    mesh.mesh.stop("mypage").await;
    let subjects = accounts(20);
    let source = stores.of("identity");
    let writes = (0..200).map(|n| {
        let (source, subject) = (source.clone(), vec![subjects[n % 20].clone()]);
        async move { publish(&source, &subject).await }
    });
    join_all(writes).await;
    mesh.restart("mypage").await;
    until_handled(&stores, "mypage", CREATED, 200).await;
    for (subject, sequences) in by_subject(&handled_by(&stores.of("mypage"), CREATED).await) {
        assert_eq!(sequences, (1..=10).collect::<Vec<_>>(), "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_each_event_has_its_effect_once_whoever_crashes() {
    let (mesh, stores) = start().await;
    let subjects = accounts(20);
    let mut acknowledged = 0;
    for round in 0..8 {
        let source = stores.of("identity");
        let writes = (0..50).map(|n| {
            let (source, subject) = (source.clone(), vec![subjects[n % 20].clone()]);
            async move { try_publish(&source, &subject).await.is_ok() }
        });
        let writes = tokio::spawn(join_all(writes.collect::<Vec<_>>()));
        let crashed = if round % 2 == 0 { "mypage" } else { "identity" };
        let mut commits = stores.of(crashed).commits();
        let _ = commits.changed().await;
        mesh.mesh.crash(crashed).await;
        acknowledged += writes.await.unwrap().into_iter().filter(|done| *done).count();
        mesh.restart(crashed).await;
    }
    let (_, log) = log_of(&mesh, "identity").await;
    assert!(log.len() >= acknowledged && acknowledged > 50, "{} of {acknowledged}", log.len());
    until_handled(&stores, "mypage", CREATED, log.len()).await;
    // One more, so that what would be doubled has had its time.
    publish(&stores.of("identity"), &subjects[..1]).await;
    until_handled(&stores, "mypage", CREATED, log.len() + 1).await;
    let rows = handled_by(&stores.of("mypage"), CREATED).await;
    assert_eq!(rows.len(), log.len() + 1);
    for (subject, sequences) in by_subject(&rows) {
        let count = i64::try_from(sequences.len()).unwrap();
        assert_eq!(sequences, (1..=count).collect::<Vec<_>>(), "{subject}");
    }
}

fn subscribe(types: &[&str]) -> api::SubscribeRequest {
    api::SubscribeRequest {
        source: "identity".to_owned(),
        policy: "mypage/test".to_owned(),
        types: types.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// Reads until everything up to `head` is covered; each stretch must follow on the one before.
async fn read(mesh: &TestMesh, request: api::SubscribeRequest, head: u64) -> Vec<api::Event> {
    let mut at = request.after.as_ref().map_or(0, |after| after.position);
    let mut client = EventServiceClient::new(mesh.service("mypage", "identity"));
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while at < head {
        let batch = stream.message().await.unwrap().unwrap();
        assert_eq!(batch.from_position, at + 1, "without a gap");
        assert!(
            batch.events.iter().all(|event| (at + 1..=batch.to_position).contains(&event.position))
        );
        events.extend(batch.events);
        at = batch.to_position;
    }
    assert!(events.is_sorted_by_key(|event| event.position));
    events
}

const ROLE_GRANTED: &str = "turnstile.identity.v1.RoleGranted";

#[tokio::test(flavor = "multi_thread")]
async fn g4_the_stretches_of_a_stream_follow_each_other() {
    let (mesh, stores) = start().await;
    let source = stores.of("identity");
    for _ in 0..4 {
        publish(&source, &accounts(150)).await;
        publish_roles(&source, &accounts(1)).await;
    }
    let all = read(&mesh, subscribe(&[]), 604).await;
    assert_eq!(
        all.iter().map(|event| event.position).collect::<Vec<_>>(),
        (1..=604).collect::<Vec<_>>()
    );
    let some = read(&mesh, subscribe(&[ROLE_GRANTED]), 604).await;
    assert_eq!(some.iter().map(|event| event.position).collect::<Vec<_>>(), [151, 302, 453, 604]);
    let after = api::Cursor { epoch: source.epoch().to_string(), position: 302 };
    let rest = read(
        &mesh,
        api::SubscribeRequest { after: Some(after), ..subscribe(&[ROLE_GRANTED]) },
        604,
    )
    .await;
    assert_eq!(rest.iter().map(|event| event.position).collect::<Vec<_>>(), [453, 604]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_an_event_says_what_happened_to_whom_and_why() {
    let (mesh, stores) = start().await;
    let subject = account();
    publish(&stores.of("identity"), &[subject.clone(), subject.clone()]).await;
    let (_, events) = log_of(&mesh, "identity").await;
    let event = &events[1];
    assert_eq!(
        (event.source.as_str(), event.subject.as_str(), event.sequence),
        ("identity", subject.as_str(), 2)
    );
    assert_eq!(event.r#type, "turnstile.identity.v1.AccountCreated");
    assert_eq!(event.correlation_id, subject);
    assert_eq!(uuid::Uuid::parse_str(&event.event_id).unwrap().get_version_num(), 7);
    let time = std::time::SystemTime::try_from(event.time.unwrap()).unwrap();
    assert!(time.elapsed().unwrap() < std::time::Duration::from_secs(60));
    let payload: proto::identity::v1::AccountCreated = mesh::events::payload(event).unwrap();
    assert_eq!(payload.account, subject);
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_partitions_divide_the_log() {
    let (mesh, stores) = start().await;
    publish(&stores.of("identity"), &accounts(300)).await;
    publish_roles(&stores.of("identity"), &accounts(1)).await;
    let mut seen = Vec::new();
    for partitions in [vec![0, 1, 2, 3, 4, 5, 6], vec![7], (8..16).collect()] {
        let request = api::SubscribeRequest { partitions: partitions.clone(), ..subscribe(&[]) };
        let events = read(&mesh, request, 301).await;
        assert!(events.iter().all(|event| partitions.contains(&event.partition)));
        seen.extend(events.into_iter().map(|event| event.position));
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=301).collect::<Vec<_>>());
    let request = api::SubscribeRequest { partitions: vec![16], ..subscribe(&[]) };
    assert_eq!(refused(&mesh, request).await.0, Code::InvalidArgument);
}

async fn refused(mesh: &TestMesh, request: api::SubscribeRequest) -> (Code, String) {
    let channel = mesh.service("mypage", "identity");
    refusal(EventServiceClient::new(channel).subscribe(request).await.map(|_| ()))
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_a_cursor_of_another_log_is_refused() {
    let (mesh, stores) = start().await;
    publish(&stores.of("identity"), &accounts(3)).await;
    let epoch = stores.of("identity").epoch().to_string();
    let at = |epoch: &str, position| {
        let after = api::Cursor { epoch: epoch.to_owned(), position };
        api::SubscribeRequest { after: Some(after), ..subscribe(&[]) }
    };
    assert_eq!(
        refused(&mesh, at("another", 1)).await,
        (Code::FailedPrecondition, "EPOCH_CHANGED".to_owned())
    );
    for ahead in [4, u64::MAX] {
        assert_eq!(
            refused(&mesh, at(&epoch, ahead)).await,
            (Code::OutOfRange, "CURSOR_AHEAD".to_owned())
        );
    }
    let nowhere = api::SubscribeRequest { source: "nowhere".to_owned(), ..subscribe(&[]) };
    assert_eq!(refused(&mesh, nowhere).await.0, Code::NotFound);
    mesh.mesh.stop("identity").await;
    assert_eq!(refused(&mesh, subscribe(&[])).await.0, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_nobody_outside_reads_a_log() {
    let (mesh, _stores) = start().await;
    let outside =
        EventServiceClient::new(mesh.stranger()).subscribe(subscribe(&[])).await.map(|_| ());
    assert_eq!(refusal(outside).0, Code::Unimplemented);
    let customer =
        EventServiceClient::new(mesh.admin().connect()).subscribe(subscribe(&[])).await.map(|_| ());
    assert_eq!(refusal(customer).0, Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_a_stream_ends_with_a_hint_when_its_source_stops() {
    let (mesh, stores) = start().await;
    publish(&stores.of("identity"), &accounts(1)).await;
    let mut client = EventServiceClient::new(mesh.service("mypage", "identity"));
    let mut stream = client.subscribe(subscribe(&[])).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    mesh.mesh.stop("identity").await;
    let end = loop {
        match stream.message().await {
            Ok(batch) => assert!(batch.is_some(), "the end is an UNAVAILABLE"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    assert!(mesh::retry_delay_of(&end).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_what_is_filtered_out_moves_a_cursor_too() {
    let stores = Stores::default();
    let policies =
        || vec![whenever("a role is granted, note it", whenever_role_granted).from_start()];
    let mesh =
        TestMesh::start(&[stores.source("identity"), stores.consumer("mypage", policies)]).await;
    publish(&stores.of("identity"), &accounts(10)).await;
    let mut operations = operations(&mesh);
    let policy = eventually("the cursor at the head", async || {
        let request =
            api::ListPoliciesRequest { context: "mypage".to_owned(), ..Default::default() };
        let policies = operations.list_policies(request).await.unwrap().into_inner().policies;
        policies
            .into_iter()
            .find(|policy| policy.cursor.as_ref().is_some_and(|cursor| cursor.position == 10))
    })
    .await;
    assert_eq!(
        (policy.name.as_str(), policy.lag, policy.parked_count),
        ("mypage/whenever_role_granted", 0, 0)
    );
    assert_eq!(policy.types, [ROLE_GRANTED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_from_now_begins_behind_what_is_there() {
    let stores = Stores::default();
    let policies = || {
        vec![
            whenever("an account is created, note it", whenever_account_created).from_now(),
            whenever("an account is created, note it, too", whenever_account_created_too)
                .from_start(),
        ]
    };
    let mesh = TestMesh::start(&[stores.source("identity")]).await;
    let subject = vec![account()];
    publish(&stores.of("identity"), &subject).await;
    mesh.add(&stores.consumer("mypage", policies)).await.unwrap();
    let mut operations = operations(&mesh);
    eventually("both have begun", async || {
        let policies = operations
            .list_policies(api::ListPoliciesRequest::default())
            .await
            .unwrap()
            .into_inner();
        policies.policies.iter().all(|policy| policy.cursor.is_some()).then_some(())
    })
    .await;
    publish(&stores.of("identity"), &subject).await;
    until_handled(&stores, "mypage", CREATED, 1).await;
    until_handled(&stores, "mypage", "whenever_account_created_too", 2).await;
    assert_eq!(handled_by(&stores.of("mypage"), CREATED).await, [(subject[0].clone(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_a_renamed_policy_goes_on_where_it_was() {
    let (mesh, stores) = start().await;
    let subject = account();
    publish(&stores.of("identity"), &[subject.clone(), subject.clone()]).await;
    until_handled(&stores, "mypage", CREATED, 2).await;
    // One that is parked goes over, too.
    let stuck = account();
    script(&stuck, Act::Fail, 5);
    publish(&stores.of("identity"), std::slice::from_ref(&stuck)).await;
    let mut operations = operations(&mesh);
    eventually("it is parked", async || {
        (parked(&mut operations, "mypage").await == [(stuck.clone(), 1, 5)]).then_some(())
    })
    .await;
    mesh.mesh.stop("mypage").await;
    publish(&stores.of("identity"), &[subject.clone(), stuck.clone()]).await;
    let renamed = || {
        let policy = whenever("an account is created, note it", whenever_account_created_too);
        vec![policy.from_start().formerly(CREATED)]
    };
    for _ in 0..2 {
        mesh.mesh.start(&stores.consumer("mypage", renamed)).await.unwrap();
        until_handled(&stores, "mypage", "whenever_account_created_too", 1).await;
        eventually("the later one waits behind it", async || {
            (parked(&mut operations, "mypage").await.len() == 2).then_some(())
        })
        .await;
        let rows = handled_by(&stores.of("mypage"), "whenever_account_created_too").await;
        assert_eq!(rows, [(subject.clone(), 3)]);
        mesh.mesh.stop("mypage").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_two_policies_of_one_name_do_not_start() {
    let stores = Stores::default();
    let mesh = TestMesh::start(&[stores.source("identity")]).await;
    let twins = || [created(), created()].concat();
    let refused = mesh.add(&stores.consumer("mypage", twins)).await.unwrap_err();
    let StartError::TwinPolicies { context, policy } = &refused else { panic!("{refused:?}") };
    assert_eq!((context.as_str(), policy.as_str()), ("mypage", CREATED));
    // Nothing is left of the attempt.
    mesh.mesh.start(&stores.consumer("mypage", created)).await.unwrap();
}

//! Events that fail, wait, or take the process with them (rule G-19).

use diesel::prelude::*;
use mesh::{Event, Result, Tx, calling, whenever};
use mesh_testing::{TestMesh, eventually, refusal, request_id};
use proto::identity::v1::AccountCreated;
use proto::mesh::v1 as api;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use tokio::sync::mpsc;
use tonic::Code;

use crate::stand_in::*;

async fn start() -> (TestMesh, Stores) {
    let stores = Stores::default();
    let policies = || {
        let mut policies = created();
        let too = whenever("an account is created, note it, too", whenever_account_created_too);
        policies.push(too.from_start());
        policies
    };
    let contexts = [stores.source("identity"), stores.consumer("mypage", policies)];
    (TestMesh::start(&contexts).await, stores)
}

/// Just after a start events are handled one by one; here they come in batches.
async fn start_warm() -> (TestMesh, Stores) {
    let (mesh, stores) = start().await;
    publish(&stores.of("identity"), &accounts(300)).await;
    until_handled(&stores, "mypage", CREATED, 300).await;
    (mesh, stores)
}

async fn until_parked(mesh: &TestMesh, expected: &[(String, u64, u32)]) {
    let mut expected = expected.to_vec();
    expected.sort();
    let mut operations = operations(mesh);
    let what = format!("parked: {expected:?}");
    eventually(&what, async || (parked(&mut operations, "mypage").await == expected).then_some(()))
        .await;
}

async fn replay(mesh: &TestMesh, policy: &str, subject: &str) -> (u32, u32) {
    let request = api::ReplayParkedEventsRequest {
        request_id: request_id(),
        policy: policy.to_owned(),
        subject: subject.to_owned(),
    };
    let answer = operations(mesh).replay_parked_events(request).await.unwrap().into_inner();
    (answer.replayed_count, answer.parked_count)
}

/// What was done about some subjects, in order.
async fn handled_of(stores: &Stores, subjects: &[&String]) -> Vec<(String, i64)> {
    let mut rows = handled_by(&stores.of("mypage"), CREATED).await;
    rows.retain(|(subject, _)| subjects.contains(&subject));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_an_event_that_fails_is_parked_with_the_later_ones_of_its_subject_alone() {
    let (mesh, stores) = start_warm().await;
    let [bad, good, other] = [account(), account(), account()];
    // Once with its batch, then five times alone.
    script(&bad, Act::Fail, 6);
    let batch = [&good, &bad, &other, &bad, &good].map(Clone::clone);
    publish(&stores.of("identity"), &batch).await;
    until_parked(&mesh, &[(bad.clone(), 1, 5), (bad.clone(), 2, 0)]).await;
    publish(&stores.of("identity"), &[bad.clone(), good.clone()]).await;
    until_parked(&mesh, &[(bad.clone(), 1, 5), (bad.clone(), 2, 0), (bad.clone(), 3, 0)]).await;
    until_handled(&stores, "mypage", CREATED, 304).await;
    let rows = handled_of(&stores, &[&bad, &good, &other]).await;
    assert_eq!(rows, [(good.clone(), 1), (other, 1), (good.clone(), 2), (good.clone(), 3)]);
    until_handled(&stores, "mypage", "whenever_account_created_too", 307).await;

    let request = api::ListParkedEventsRequest::default();
    let listed =
        operations(&mesh).list_parked_events(request).await.unwrap().into_inner().parked_events;
    assert!(listed[0].failure.contains("what it needs was not found"), "{}", listed[0].failure);
    assert_eq!(
        (listed[1].failure.as_str(), listed[0].policy.as_str()),
        ("", "mypage/whenever_account_created")
    );

    // After a restart they still wait.
    mesh.mesh.stop("mypage").await;
    mesh.restart("mypage").await;
    publish(&stores.of("identity"), &[bad.clone(), good]).await;
    until_handled(&stores, "mypage", CREATED, 305).await;
    assert_eq!(handled_of(&stores, &[&bad]).await, []);

    let policy = "mypage/whenever_account_created";
    assert_eq!(replay(&mesh, policy, "").await, (4, 0));
    assert_eq!(replay(&mesh, policy, "").await, (0, 0));
    publish(&stores.of("identity"), std::slice::from_ref(&bad)).await;
    until_handled(&stores, "mypage", CREATED, 310).await;
    let rows = handled_of(&stores, &[&bad]).await;
    assert_eq!(rows, (1..=5).map(|sequence| (bad.clone(), sequence)).collect::<Vec<_>>());
    until_parked(&mesh, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_what_fails_when_it_is_replayed_stays_parked_in_order() {
    let (mesh, stores) = start().await;
    let [bad, good] = [account(), account()];
    script(&bad, Act::Fail, 6);
    script(&good, Act::Panic, 5);
    publish(&stores.of("identity"), &[&bad, &bad, &good].map(Clone::clone)).await;
    until_parked(&mesh, &[(bad.clone(), 1, 5), (bad.clone(), 2, 0), (good.clone(), 1, 5)]).await;
    let policy = "mypage/whenever_account_created";
    assert_eq!(replay(&mesh, policy, &bad).await, (0, 2));
    assert_eq!(handled_of(&stores, &[&bad, &good]).await, []);
    assert_eq!(replay(&mesh, policy, &good).await, (1, 0));
    assert_eq!(replay(&mesh, policy, "").await, (2, 0));
    assert_eq!(handled_of(&stores, &[&bad, &good]).await, [(good, 1), (bad.clone(), 1), (bad, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_a_panic_and_a_payload_that_cannot_be_read_are_failures() {
    let (mesh, stores) = start_warm().await;
    let [panics, garbled, good] = [account(), account(), account()];
    script(&panics, Act::Panic, 100);
    let subject = garbled.clone();
    let unreadable = Garbled { account: vec![0xff, 0xfe] };
    stores.of("identity").write(move |tx| tx.publish(&subject, "", &unreadable)).await.unwrap();
    publish(&stores.of("identity"), &[panics.clone(), good]).await;
    until_handled(&stores, "mypage", CREATED, 301).await;
    eventually("both are parked", async || {
        let rows = parked(&mut operations(&mesh), "mypage").await;
        // The second policy cannot read it either.
        (rows.len() == 3 && rows.iter().all(|row| row.2 == 5 && row.0 != account())).then_some(())
    })
    .await;
}

#[derive(Clone, PartialEq, prost::Message)]
struct Garbled {
    #[prost(bytes = "vec", tag = "1")]
    account: Vec<u8>,
}

impl prost::Name for Garbled {
    const NAME: &'static str = "AccountCreated";
    const PACKAGE: &'static str = "turnstile.identity.v1";
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_what_may_pass_by_itself_is_waited_for() {
    let (mesh, stores) = start_warm().await;
    let [waits, good] = [account(), account()];
    script(&waits, Act::Wait, 7);
    publish(&stores.of("identity"), &[&waits, &good, &waits].map(Clone::clone)).await;
    until_handled(&stores, "mypage", CREATED, 303).await;
    assert_eq!(handled_of(&stores, &[&waits]).await, [(waits.clone(), 1), (waits, 2)]);
    until_parked(&mesh, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_only_an_admin_sees_and_replays_what_is_parked() {
    let (mesh, _stores) = start().await;
    let mut customer = OperationsServiceClient::new(mesh.customer().connect());
    let request = api::ListParkedEventsRequest::default();
    assert_eq!(
        refusal(customer.list_parked_events(request.clone()).await).0,
        Code::PermissionDenied
    );
    let mut stranger = OperationsServiceClient::new(mesh.stranger());
    assert_eq!(refusal(stranger.list_parked_events(request).await).0, Code::Unauthenticated);
    let unknown = |policy: &str| api::ReplayParkedEventsRequest {
        request_id: request_id(),
        policy: policy.to_owned(),
        subject: String::new(),
    };
    let mut admin = operations(&mesh);
    for policy in ["mypage/nothing", "nowhere/whenever_account_created"] {
        assert_eq!(
            refusal(admin.replay_parked_events(unknown(policy)).await).0,
            Code::NotFound,
            "{policy}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g17_pages_of_parked_events_lose_none() {
    let stores = Stores::default();
    let policies = || {
        let one =
            whenever("an account is created, fail", whenever_account_created_fail).from_start();
        let other = whenever("an account is created, fail, too", whenever_account_created_fail_too)
            .from_start();
        vec![one, other]
    };
    let contexts = [
        stores.source("identity"),
        stores.consumer("homemovie.app", policies),
        stores.consumer("mypage", policies),
    ];
    let mesh = TestMesh::start(&contexts).await;
    publish(&stores.of("identity"), &accounts(3)).await;
    let mut operations = operations(&mesh);
    eventually("all are parked", async || {
        let rows =
            parked(&mut operations, "").await.len() + parked(&mut operations, "mypage").await.len();
        let first = parked(&mut operations, "homemovie.app").await.len();
        (rows >= 6 && first == 6 && parked(&mut operations, "mypage").await.len() == 6)
            .then_some(())
    })
    .await;
    for page_size in [1, 2, 3, 5, 6, 7, 100] {
        let mut seen = std::collections::BTreeSet::new();
        let mut request = api::ListParkedEventsRequest { page_size, ..Default::default() };
        loop {
            let page = operations.list_parked_events(request.clone()).await.unwrap().into_inner();
            assert!(page.parked_events.len() <= usize::try_from(page_size).unwrap());
            for row in page.parked_events {
                assert!(seen.insert((row.policy, row.event.unwrap().event_id)), "none twice");
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(seen.len(), 12, "in pages of {page_size}");
    }
    for page_token in ["nonsense", "mypage:nonsense", "nowhere~:", ":", "~:"] {
        let request = api::ListParkedEventsRequest {
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        assert_eq!(
            refusal(operations.list_parked_events(request).await).0,
            Code::InvalidArgument,
            "{page_token}"
        );
    }
}

fn whenever_account_created_fail(_: &mut Tx<'_>, _: &Event<AccountCreated>) -> Result<()> {
    Err(mesh::Error::NotFound("it".to_owned()))
}

fn whenever_account_created_fail_too(_: &mut Tx<'_>, _: &Event<AccountCreated>) -> Result<()> {
    Err(mesh::Error::NotFound("it".to_owned()))
}

/// What a calling policy does, as its test wants it.
#[derive(Clone)]
struct Hooks {
    /// Its handling never ends.
    killer: String,
    /// Tells of each event that it got.
    got: mpsc::UnboundedSender<String>,
}

async fn whenever_account_created_call(hooks: Hooks, event: Event<AccountCreated>) -> Result<()> {
    let _ = hooks.got.send(event.subject.clone());
    if event.subject == hooks.killer {
        std::future::pending::<()>().await;
    }
    play(&event.subject)
}

async fn start_calling(killer: &str) -> (TestMesh, Stores, mpsc::UnboundedReceiver<String>) {
    let stores = Stores::default();
    let (got, tells) = mpsc::unbounded_channel();
    let hooks = Hooks { killer: killer.to_owned(), got };
    let consumer = stores.context("mypage", move |_, wiring| {
        let policy =
            calling("an account is created, call", hooks.clone(), whenever_account_created_call);
        Ok(wiring.policies([policy.from_start()]))
    });
    let mesh = TestMesh::start(&[stores.source("identity"), consumer]).await;
    (mesh, stores, tells)
}

async fn told(tells: &mut mpsc::UnboundedReceiver<String>, subject: &str) {
    while tells.recv().await.expect("a policy that runs") != subject {}
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_an_event_that_kills_the_process_is_parked_after_twenty_crashes() {
    let [killer, good] = [account(), account()];
    let (mesh, stores, mut tells) = start_calling(&killer).await;
    publish(&stores.of("identity"), &[&good, &killer, &killer].map(Clone::clone)).await;
    for crash in 0..20 {
        let handled =
            tokio::time::timeout(std::time::Duration::from_secs(30), told(&mut tells, &killer))
                .await;
        assert!(handled.is_ok(), "crash {crash}: it is still tried");
        mesh.mesh.crash("mypage").await;
        mesh.restart("mypage").await;
    }
    until_parked(&mesh, &[(killer.clone(), 1, 21), (killer.clone(), 2, 0)]).await;
    publish(&stores.of("identity"), std::slice::from_ref(&good)).await;
    told(&mut tells, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_a_stop_is_no_crash() {
    let slow = account();
    let (mesh, stores, mut tells) = start_calling(&slow).await;
    publish(&stores.of("identity"), std::slice::from_ref(&slow)).await;
    for _ in 0..25 {
        told(&mut tells, &slow).await;
        mesh.mesh.stop("mypage").await;
        mesh.restart("mypage").await;
    }
    told(&mut tells, &slow).await;
    until_parked(&mesh, &[]).await;
}

diesel::table! {
    mesh_attempt (policy, event_id) {
        policy -> Text,
        event_id -> Text,
        failures -> Integer,
        crashes -> Integer,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_crashes_while_an_event_waits_are_not_its_own() {
    let waits = account();
    let (mesh, stores, mut tells) = start_calling("nobody").await;
    script(&waits, Act::Wait, 1000);
    publish(&stores.of("identity"), std::slice::from_ref(&waits)).await;
    for _ in 0..25 {
        told(&mut tells, &waits).await;
        let store = stores.of("mypage");
        eventually("it waits", async || {
            let count = |conn: &mut mesh::Conn| {
                Ok(mesh_attempt::table.select(mesh_attempt::crashes).first(conn).optional()?)
            };
            let crashes: Option<i32> = store.read(count).await.unwrap();
            (crashes.unwrap_or(0) == 0).then_some(())
        })
        .await;
        mesh.mesh.crash("mypage").await;
        mesh.restart("mypage").await;
    }
    script(&waits, Act::Wait, 0);
    eventually("its cursor moves", async || {
        let policies = operations(&mesh)
            .list_policies(api::ListPoliciesRequest::default())
            .await
            .unwrap()
            .into_inner();
        policies.policies[0]
            .cursor
            .as_ref()
            .is_some_and(|cursor| cursor.position == 1)
            .then_some(())
    })
    .await;
    until_parked(&mesh, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g19_a_calling_policy_parks_and_replays_too() {
    let [bad, good] = [account(), account()];
    let (mesh, stores, mut tells) = start_calling("nobody").await;
    script(&bad, Act::Panic, 5);
    publish(&stores.of("identity"), &[&bad, &good, &bad].map(Clone::clone)).await;
    until_parked(&mesh, &[(bad.clone(), 1, 5), (bad.clone(), 2, 0)]).await;
    let mut calls = Vec::new();
    while let Ok(subject) = tells.try_recv() {
        calls.push(subject);
    }
    assert_eq!(calls.iter().filter(|subject| **subject == bad).count(), 5);
    assert_eq!(calls.iter().filter(|subject| **subject == good).count(), 1);
    let policy = "mypage/whenever_account_created_call";
    assert_eq!(replay(&mesh, policy, "").await, (2, 0));
    assert_eq!(replay(&mesh, policy, "").await, (0, 0));
    assert_eq!(
        [tells.recv().await.unwrap(), tells.recv().await.unwrap()],
        [bad.clone(), bad.clone()]
    );
    publish(&stores.of("identity"), std::slice::from_ref(&bad)).await;
    told(&mut tells, &bad).await;
}

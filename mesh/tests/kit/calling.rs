//! Policies that call another context (rule G-20).

use std::collections::HashMap;
use std::sync::Arc;

use mesh::{Event, Result, calling};
use mesh_testing::{TestMesh, eventually};
use proto::identity::v1::AccountCreated;
use tokio::sync::watch;

use crate::stand_in::*;

/// A callee that answers when it is told to, and remembers.
#[derive(Clone)]
struct Callee(Arc<watch::Sender<Seen>>);

#[derive(Default)]
struct Seen {
    under_way: HashMap<String, usize>,
    most: usize,
    overlapped: bool,
    calls: Vec<(String, i64)>,
    /// Nobody is answered before so many were under way at once.
    together: usize,
    /// How many are answered.
    answers: usize,
}

async fn whenever_account_created_call(callee: Callee, event: Event<AccountCreated>) -> Result<()> {
    let sequence = i64::try_from(event.sequence).unwrap();
    callee.0.send_modify(|seen| {
        let same = seen.under_way.entry(event.subject.clone()).or_default();
        *same += 1;
        let overlaps = *same > 1;
        seen.overlapped |= overlaps;
        seen.most = seen.most.max(seen.under_way.values().sum());
    });
    let answers = |seen: &Seen| seen.most >= seen.together && seen.calls.len() < seen.answers;
    callee.0.subscribe().wait_for(answers).await.unwrap();
    // Whoever may be under way, too, has the time to come.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    callee.0.send_modify(|seen| {
        *seen.under_way.entry(event.subject.clone()).or_default() -= 1;
        seen.calls.push((event.subject.clone(), sequence));
    });
    Ok(())
}

/// A policy that calls with this window, and a callee that waits for so many.
async fn start(window: usize, together: usize) -> (TestMesh, Stores, Callee) {
    let seen = Seen { together, answers: usize::MAX, ..Seen::default() };
    let (stores, callee) = (Stores::default(), Callee(Arc::new(watch::Sender::new(seen))));
    let with = callee.clone();
    let consumer = stores.context("mypage", move |_, wiring| {
        let policy =
            calling("an account is created, call", with.clone(), whenever_account_created_call);
        Ok(wiring.policies([policy.window(window).from_start()]))
    });
    let mesh = TestMesh::start(&[stores.source("identity"), consumer]).await;
    (mesh, stores, callee)
}

async fn until_cursor(mesh: &TestMesh, position: u64) {
    let mut operations = operations(mesh);
    eventually("the cursor at the end", async || {
        let policies = operations
            .list_policies(proto::mesh::v1::ListPoliciesRequest::default())
            .await
            .unwrap();
        let policies = policies.into_inner().policies;
        policies[0].cursor.as_ref().is_some_and(|cursor| cursor.position == position).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_subjects_are_called_about_in_parallel_and_each_in_order() {
    let (mesh, stores, callee) = start(64, 64).await;
    let twice: Vec<_> = accounts(100).into_iter().flat_map(|name| [name.clone(), name]).collect();
    publish(&stores.of("identity"), &twice).await;
    until_cursor(&mesh, 200).await;
    let seen = callee.0.borrow();
    assert_eq!(seen.most, 64);
    assert!(!seen.overlapped, "two calls about one subject at once");
    let by_subject = by_subject(&seen.calls);
    assert_eq!(by_subject.len(), 100);
    assert!(by_subject.values().all(|sequences| *sequences == [1, 2]), "{by_subject:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_the_window_is_a_limit() {
    let (mesh, stores, callee) = start(3, 3).await;
    publish(&stores.of("identity"), &accounts(20)).await;
    until_cursor(&mesh, 20).await;
    assert_eq!(callee.0.borrow().most, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_a_crash_repeats_calls_but_loses_none() {
    let (mesh, stores, callee) = start(16, 16).await;
    callee.0.send_modify(|seen| seen.answers = 0);
    let subjects = accounts(50);
    for _ in 0..4 {
        publish(&stores.of("identity"), &subjects).await;
    }
    for crash in 1..=3 {
        // It dies with calls under way that are not answered.
        callee.0.send_modify(|seen| seen.answers = crash * 40);
        let some = |seen: &Seen| {
            seen.calls.len() >= crash * 40 && seen.under_way.values().any(|calls| *calls > 0)
        };
        callee.0.subscribe().wait_for(some).await.unwrap();
        mesh.mesh.crash("mypage").await;
        callee.0.send_modify(|seen| seen.under_way.clear());
        mesh.restart("mypage").await;
    }
    callee.0.send_modify(|seen| seen.answers = usize::MAX);
    until_cursor(&mesh, 200).await;
    let seen = callee.0.borrow();
    assert!(seen.calls.len() >= 200);
    for (subject, mut sequences) in by_subject(&seen.calls) {
        // A repeated stretch is in order, too: each first time comes after those before it.
        let mut next = 1;
        for sequence in &sequences {
            assert!(*sequence <= next, "{subject}: {sequences:?}");
            next = next.max(sequence + 1);
        }
        sequences.sort_unstable();
        sequences.dedup();
        assert_eq!(sequences, [1, 2, 3, 4], "{subject}");
    }
}

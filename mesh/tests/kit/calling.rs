//! Policies that call another context (rule G-20).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh::{Event, Result, calling};
use mesh_testing::{TestMesh, eventually};
use proto::identity::v1::AccountCreated;

use crate::stand_in::*;

/// A callee that takes its time, and remembers.
#[derive(Clone, Default)]
struct Callee(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    under_way: HashMap<String, usize>,
    most: usize,
    overlapped: bool,
    calls: Vec<(String, i64)>,
}

async fn whenever_account_created_call(callee: Callee, event: Event<AccountCreated>) -> Result<()> {
    let sequence = i64::try_from(event.sequence).unwrap();
    {
        let mut seen = callee.0.lock().unwrap();
        let same = seen.under_way.entry(event.subject.clone()).or_default();
        *same += 1;
        let overlaps = *same > 1;
        seen.overlapped |= overlaps;
        seen.most = seen.most.max(seen.under_way.values().sum());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut seen = callee.0.lock().unwrap();
    *seen.under_way.entry(event.subject.clone()).or_default() -= 1;
    seen.calls.push((event.subject.clone(), sequence));
    Ok(())
}

async fn start(window: usize) -> (TestMesh, Stores, Callee) {
    let (stores, callee) = (Stores::default(), Callee::default());
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
    let (mesh, stores, callee) = start(64).await;
    let subjects = accounts(100);
    publish(&stores.of("identity"), &subjects).await;
    publish(&stores.of("identity"), &subjects).await;
    until_cursor(&mesh, 200).await;
    let seen = callee.0.lock().unwrap();
    assert!((9..=64).contains(&seen.most), "{} at once", seen.most);
    assert!(!seen.overlapped, "two calls about one subject at once");
    let by_subject = by_subject(&seen.calls);
    assert_eq!(by_subject.len(), 100);
    assert!(by_subject.values().all(|sequences| *sequences == [1, 2]), "{by_subject:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_the_window_is_a_limit() {
    let (mesh, stores, callee) = start(3).await;
    publish(&stores.of("identity"), &accounts(20)).await;
    until_cursor(&mesh, 20).await;
    assert_eq!(callee.0.lock().unwrap().most, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_a_crash_repeats_calls_but_loses_none() {
    let (mesh, stores, callee) = start(16).await;
    let subjects = accounts(50);
    for _ in 0..4 {
        publish(&stores.of("identity"), &subjects).await;
    }
    for crash in 1..=3 {
        eventually("some calls", async || {
            (callee.0.lock().unwrap().calls.len() >= crash * 40).then_some(())
        })
        .await;
        mesh.mesh.crash("mypage").await;
        callee.0.lock().unwrap().under_way.clear();
        mesh.restart("mypage").await;
    }
    until_cursor(&mesh, 200).await;
    let seen = callee.0.lock().unwrap();
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

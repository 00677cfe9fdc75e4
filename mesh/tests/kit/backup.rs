//! Backups: one moment for all stores, and a new epoch for what is restored.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mesh::{Mesh, Options, reason_of};
use mesh_testing::{TestMesh, bad_fields, eventually, request_id};
use proto::mesh::v1 as api;
use proto::mesh::v1::event_service_client::EventServiceClient;
use tonic::Status;

use crate::stand_in::*;

async fn start() -> (TestMesh, Stores) {
    let stores = Stores::default();
    let contexts = [stores.source("identity"), stores.consumer("mypage", created)];
    (TestMesh::start(&contexts).await, stores)
}

async fn back_up(mesh: &TestMesh, name: &str) -> Result<api::Backup, Status> {
    let request = api::BackUpRequest { request_id: request_id(), name: name.to_owned() };
    let mut answers = operations(mesh).back_up(request).await?.into_inner();
    loop {
        let answer = answers.message().await?.expect("the last answer has the backup");
        if let Some(backup) = answer.backup {
            return Ok(backup);
        }
    }
}

fn restore(backup: &Path, data: &Path) {
    mesh::backup::restore(backup, data, &[], false).expect("a backup that fits together");
}

#[tokio::test(flavor = "multi_thread")]
async fn t_05_what_is_restored_together_goes_on_and_others_are_told_of_the_new_epoch() {
    let (running, stores) = start().await;
    publish(&stores.of("identity"), &accounts(10)).await;
    until_handled(&stores, "mypage", CREATED, 10).await;
    let (epoch, _) = log_of(&running, "identity").await;
    let backup = back_up(&running, "ten").await.unwrap();
    assert_eq!((backup.folder.as_str(), backup.store_count), ("backups/ten", 2));
    running.mesh.shut_down().await;

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    restore(&running.folder().join(&backup.folder), &data);
    let restored = Mesh::new(Options::new(&data)).unwrap();
    for context in [stores.source("identity"), stores.consumer("mypage", created)] {
        restored.start(&context).await.unwrap();
    }
    let after = api::Cursor { epoch: epoch.clone(), position: 10 };
    let request = api::SubscribeRequest {
        source: "identity".to_owned(),
        policy: "notice/whenever_account_created".to_owned(),
        after: Some(after),
        ..Default::default()
    };
    let stranger = restored.channel("notice", "identity").unwrap();
    let outcome = EventServiceClient::new(stranger).subscribe(request).await;
    assert_eq!(reason_of(&outcome.unwrap_err()).as_deref(), Some("EPOCH_CHANGED"));
    assert_ne!(*stores.of("identity").epoch(), *epoch);

    publish(&stores.of("identity"), &accounts(5)).await;
    until_handled(&stores, "mypage", CREATED, 15).await;
    assert_eq!(handled_by(&stores.of("mypage"), CREATED).await.len(), 15);
    restored.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_shows_one_moment_of_all_stores() {
    let (mesh, stores) = start().await;
    let source = stores.of("identity");
    let writes = tokio::spawn(async move {
        for subject in accounts(2000) {
            if try_publish(&source, &[subject]).await.is_err() {
                break;
            }
        }
    });
    for round in 0..5 {
        let seen = *stores.of("identity").head().borrow();
        let name = format!("round-{round}");
        back_up(&mesh, &name).await.unwrap();
        // Refused where a cursor is further than its log.
        let folder = tempfile::tempdir().unwrap();
        restore(&mesh.folder().join("backups").join(&name), folder.path());
        eventually("the writes go on", || async {
            (writes.is_finished() || *stores.of("identity").head().borrow() > seen).then_some(())
        })
        .await;
    }
    writes.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_waits_for_the_writer_of_every_store() {
    let (mesh, stores) = start().await;
    let mesh = Arc::new(mesh);
    // The first time a log writes down who reads it.
    log_of(&mesh, "identity").await;
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let (reached, mut busy) = tokio::sync::mpsc::channel(1);
    let store = stores.of("mypage");
    let write = tokio::spawn(async move {
        let work = move |_: &mut mesh::Tx<'_>| {
            reached.try_send(()).unwrap();
            Ok(released.lock().unwrap().recv().is_err())
        };
        store.write(work).await
    });
    busy.recv().await.unwrap();
    let backup = tokio::spawn({
        let mesh = mesh.clone();
        async move { back_up(&mesh, "one").await }
    });
    let partial = mesh.folder().join("backups/.one.partial");
    eventually("the backup has begun", || async { partial.exists().then_some(()) }).await;
    // It has time enough to be finished, if it did not wait.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) && !backup.is_finished() {
        log_of(&mesh, "identity").await;
    }
    assert!(!backup.is_finished());
    drop(release);
    assert!(write.await.unwrap().unwrap());
    assert_eq!(backup.await.unwrap().unwrap().store_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_is_the_same_backup() {
    let (mesh, stores) = start().await;
    let first = back_up(&mesh, "one").await.unwrap();
    publish(&stores.of("identity"), &accounts(10)).await;
    assert_eq!(back_up(&mesh, "one").await.unwrap(), first);
    for name in ["", "..", "a/b", "A", &"x".repeat(65)] {
        assert_eq!(bad_fields(back_up(&mesh, name).await), ["name"], "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_that_are_asked_for_at_once_are_taken_one_after_another() {
    let (mesh, _) = start().await;
    let names = ["one", "two", "one", "three"];
    let backups = join_all(names.map(|name| back_up(&mesh, name))).await;
    let backups: Vec<_> = backups.into_iter().map(Result::unwrap).collect();
    assert_eq!(backups[0], backups[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_a_store_of_the_folder_is_not_taken() {
    let (mesh, _) = start().await;
    mesh.mesh.stop("mypage").await;
    let outcome = back_up(&mesh, "half").await;
    assert_eq!(outcome.unwrap_err().code(), tonic::Code::Unavailable);
    assert!(!mesh.folder().join("backups/half").exists());
    mesh.restart("mypage").await;
    back_up(&mesh, "whole").await.unwrap();
}

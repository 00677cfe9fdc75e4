//! Views that are made anew beside the old one.

use diesel::prelude::*;
use mesh::events::Generations;
use mesh::{Event, Result, Tx, View, whenever};
use mesh_testing::{TestMesh, eventually};
use proto::identity::v1::AccountCreated;

use crate::stand_in::*;

fn whenever_account_created_show(tx: &mut Tx<'_>, event: &Event<AccountCreated>) -> Result<()> {
    // The new view is slow to grow, so that the test sees both.
    if tx.generation() > 1 {
        play(&event.subject)?;
    }
    record(tx, "view", event)
}

fn discard(tx: &mut Tx<'_>, generation: i32) -> Result<usize> {
    let some: Vec<i32> = handled::table
        .filter(handled::generation.eq(generation))
        .select(handled::id)
        .limit(10)
        .load(&mut **tx)?;
    Ok(diesel::delete(handled::table.filter(handled::id.eq_any(some))).execute(&mut **tx)?)
}

type Row = (String, i64);

/// The view as readers see it, and how many rows there are at all.
async fn seen(stores: &Stores) -> (i32, Vec<Row>, i64) {
    let store = stores.of("mypage");
    let read = store.read(|conn| {
        let generation = Generations::current(conn)?;
        let rows = handled::table
            .filter(handled::generation.eq(generation))
            .order(handled::id)
            .select((handled::subject, handled::sequence))
            .load(conn)?;
        Ok((generation, rows, handled::table.count().get_result(conn)?))
    });
    read.await.unwrap()
}

async fn start() -> (TestMesh, Stores) {
    let stores = Stores::default();
    let consumer = stores.context("mypage", |_, wiring| {
        let policy =
            whenever("an account is created, show it", whenever_account_created_show).from_start();
        Ok(wiring.view(View::new([policy], discard)))
    });
    (TestMesh::start(&[stores.source("identity"), consumer]).await, stores)
}

async fn until_seen(stores: &Stores, generation: i32, count: usize) {
    let what = format!("{count} rows of generation {generation}");
    eventually(&what, async || {
        let (current, rows, _) = seen(stores).await;
        (current == generation && rows.len() == count).then_some(())
    })
    .await;
}

async fn rebuild(stores: &Stores) -> i32 {
    stores.of("mypage").write(Generations::rebuild).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn my4_a_view_made_anew_is_what_it_was_and_is_read_when_it_has_caught_up() {
    let (mesh, stores) = start().await;
    let subjects = accounts(300);
    publish(&stores.of("identity"), &subjects).await;
    until_seen(&stores, 1, 300).await;
    let before = seen(&stores).await.1;
    // The new one stands still before its last event.
    script(&subjects[299], Act::Wait, 6);
    assert_eq!(rebuild(&stores).await, 2);
    assert_eq!(rebuild(&stores).await, 2, "one at a time");
    eventually("both there", async || (seen(&stores).await.2 > 300).then_some(())).await;
    let (generation, rows, _) = seen(&stores).await;
    assert_eq!((generation, &rows), (1, &before), "readers see the old one");
    until_seen(&stores, 2, 300).await;
    assert_eq!(seen(&stores).await.1, before);
    eventually("the old one is gone", async || (seen(&stores).await.2 == 300).then_some(())).await;
    publish(&stores.of("identity"), &subjects[..1]).await;
    until_seen(&stores, 2, 301).await;

    mesh.mesh.crash("mypage").await;
    mesh.restart("mypage").await;
    publish(&stores.of("identity"), &subjects[..1]).await;
    until_seen(&stores, 2, 302).await;
    assert_eq!(rebuild(&stores).await, 3);
    mesh.mesh.crash("mypage").await;
    mesh.restart("mypage").await;
    until_seen(&stores, 3, 302).await;
    eventually("the old one is gone", async || (seen(&stores).await.2 == 302).then_some(())).await;
}

diesel::table! {
    mesh_cursor (policy, source, partition) {
        policy -> Text,
        source -> Text,
        partition -> Integer,
        epoch -> Text,
        position -> BigInt,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn my4_a_view_of_a_log_that_was_restored_can_be_made_anew() {
    let (mesh, stores) = start().await;
    publish(&stores.of("identity"), &accounts(5)).await;
    until_seen(&stores, 1, 5).await;
    mesh_testing::turn_back(&mesh.store("mypage"), "true");
    // As if it had read a longer log before the source was restored.
    let other = (mesh_cursor::epoch.eq("another"), mesh_cursor::position.eq(1000));
    let store = stores.of("mypage");
    let write = store
        .write(move |tx| Ok(diesel::update(mesh_cursor::table).set(other).execute(&mut **tx)?));
    write.await.unwrap();
    rebuild(&stores).await;
    until_seen(&stores, 2, 5).await;
}

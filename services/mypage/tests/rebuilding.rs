//! Making the view anew while it is read.

mod stand_ins;

use mesh_testing::{Account, eventually, refusal, request_id};
use proto::mypage::v1 as api;
use stand_ins::{Order, Stage, State, list, page_of};
use tonic::Code;

async fn rebuild(admin: &Account, request_id: &str) -> u32 {
    let request = api::RebuildViewRequest { request_id: request_id.to_owned() };
    page_of(admin).rebuild_view(request).await.expect("a rebuild").into_inner().generation
}

async fn swapped(stage: &Stage, generation: i64) {
    eventually("a new view", || async { (stage.generation() == generation).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn my_4_after_a_rebuild_the_view_equals_what_it_was() {
    let stage = Stage::set().await;
    let (customer, admin) = (stage.test.customer(), stage.test.admin());
    let never = Order::of(&customer);
    stage.approve(&never).await;
    let mut orders = Vec::new();
    for title in ["Parasite", "Oldboy", "Burning"] {
        orders.push(stage.whole_order(&customer, title).await);
    }
    for order in &orders {
        stage.settled(&customer, order, 4).await;
    }
    let seen = list(&customer).await;

    // While a source is down the new view cannot catch up: the old one is read, and goes on.
    stage.test.mesh.stop("payment").await;
    assert_eq!(rebuild(&admin, &request_id()).await, 2);
    let built = "SELECT count(*) AS number FROM my_order WHERE generation = 2";
    eventually("rows of the new view", || async { (stage.number(built) == 3).then_some(()) }).await;
    assert_eq!(list(&customer).await, seen);
    stage.advance(&orders[0], State::MovieWatched).await;
    let changed = stage.settled(&customer, &orders[0], 5).await;
    assert_eq!(
        (changed.state.as_str(), changed.payment_state.as_str()),
        ("MOVIE_WATCHED", "APPROVED")
    );
    assert_eq!(stage.generation(), 1);
    let (before, seen) = (stage.dump(), list(&customer).await);
    assert_eq!(before.len(), 4 + 1 + 13, "orders and what happened to them, hidden ones too");

    stage.test.restart("payment").await;
    swapped(&stage, 2).await;
    assert_eq!(stage.dump(), before);
    assert_eq!(list(&customer).await, seen);

    let old = "SELECT (SELECT count(*) FROM my_order WHERE generation < 2)
               + (SELECT count(*) FROM my_progress WHERE generation < 2) AS number";
    eventually("the old view removed", || async { (stage.number(old) == 0).then_some(()) }).await;
    stage.advance(&orders[1], State::MovieWatched).await;
    stage.settled(&customer, &orders[1], 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_under_way_goes_on() {
    let stage = Stage::set().await;
    let (customer, admin) = (stage.test.customer(), stage.test.admin());
    let order = stage.whole_order(&customer, "Parasite").await;
    stage.settled(&customer, &order, 4).await;
    stage.test.mesh.stop("payment").await;

    let first = request_id();
    assert_eq!(rebuild(&admin, &first).await, 2);
    assert_eq!(rebuild(&admin, &request_id()).await, 2, "not begun again");
    stage.test.mesh.stop("mypage").await;
    stage.test.restart("mypage").await;
    assert_eq!(rebuild(&admin, &request_id()).await, 2, "not after a restart either");
    stage.test.restart("payment").await;
    swapped(&stage, 2).await;

    assert_eq!(rebuild(&admin, &first).await, 2, "the same request gets the same answer");
    assert_eq!(stage.generation(), 2);
    assert_eq!(rebuild(&admin, &request_id()).await, 3);
    swapped(&stage, 3).await;
    assert_eq!(list(&customer).await.len(), 1);
    let request = api::RebuildViewRequest { request_id: request_id() };
    assert_eq!(refusal(page_of(&customer).rebuild_view(request).await).0, Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_are_removed_at_once_are_removed() {
    let stage = Stage::set().await;
    let (customer, admin) = (stage.test.customer(), stage.test.admin());
    let mut last = Order::of(&customer);
    for _ in 0..600 {
        last = Order::of(&customer);
        stage.pick(&last, "Parasite").await;
    }
    stage.settled(&customer, &last, 1).await;
    rebuild(&admin, &request_id()).await;
    swapped(&stage, 2).await;
    let rows =
        "SELECT (SELECT count(*) FROM my_order) + (SELECT count(*) FROM my_progress) AS number";
    eventually("only the new view", || async { (stage.number(rows) == 2 * 600).then_some(()) })
        .await;
    assert_eq!(list(&customer).await.len(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lives_through_a_rebuild() {
    let stage = Stage::set().await;
    let (customer, admin) = (stage.test.customer(), stage.test.admin());
    let order = stage.whole_order(&customer, "Parasite").await;
    stage.settled(&customer, &order, 4).await;
    let everything = api::WatchMyOrdersRequest::default();
    let mut stream = page_of(&customer).watch_my_orders(everything).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.my_orders.len(), 1);

    rebuild(&admin, &request_id()).await;
    // The new view tells every order once more; nothing of it has changed.
    let again = stream.message().await.unwrap().unwrap();
    assert_eq!(again.my_orders, first.my_orders);
    assert_ne!(again.resume_token, first.resume_token);
    stage.advance(&order, State::MovieWatched).await;
    let change = stream.message().await.unwrap().unwrap();
    assert_eq!(change.my_orders[0].state, "MOVIE_WATCHED");
}

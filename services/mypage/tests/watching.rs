//! Following all of a customer's orders.

mod stand_ins;

use std::collections::HashSet;
use std::time::Duration;

use mesh_testing::{Account, refusal};
use proto::mypage::v1 as api;
use stand_ins::{Order, Stage, State, page_of};
use tonic::{Code, Streaming};

async fn watch(customer: &Account, resume_token: &str) -> Streaming<api::WatchMyOrdersResponse> {
    let request = api::WatchMyOrdersRequest { resume_token: resume_token.to_owned() };
    page_of(customer).watch_my_orders(request).await.expect("a stream").into_inner()
}

async fn next(stream: &mut Streaming<api::WatchMyOrdersResponse>) -> api::WatchMyOrdersResponse {
    stream.message().await.expect("a message").expect("a stream that does not end")
}

/// Reads on until an order is as wanted; the resume token then.
async fn until(
    stream: &mut Streaming<api::WatchMyOrdersResponse>,
    order: &Order,
    wanted: impl Fn(&api::MyOrder) -> bool,
) -> String {
    loop {
        let message = next(stream).await;
        if message.my_orders.iter().any(|told| told.name == order.name && wanted(told)) {
            return message.resume_token;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_at_once_even_without_orders() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let mut stream = watch(&customer, "").await;
    let first = next(&mut stream).await;
    assert_eq!(first.my_orders, []);
    assert_ne!(first.resume_token, "");

    let order = Order::of(&customer);
    stage.approve(&order).await;
    stage.pick(&order, "Parasite").await;
    until(&mut stream, &order, |told| told.state == "MOVIE_PICKED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_every_order_at_once_and_then_what_changes() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let mut orders = Vec::new();
    for _ in 0..105 {
        let order = Order::of(&customer);
        stage.pick(&order, "Parasite").await;
        orders.push(order);
    }
    stage.settled(&customer, &orders[104], 1).await;

    let mut stream = watch(&customer, "").await;
    let (first, second) = (next(&mut stream).await, next(&mut stream).await);
    assert_eq!((first.my_orders.len(), second.my_orders.len()), (100, 5));
    let told = first.my_orders.into_iter().chain(second.my_orders).map(|order| order.name);
    assert_eq!(
        told.collect::<Vec<_>>(),
        orders.iter().rev().map(|order| order.name.clone()).collect::<Vec<_>>()
    );

    stage.advance(&orders[7], State::MovieOrdered).await;
    let change = next(&mut stream).await;
    assert_eq!(change.my_orders.len(), 1, "only what changed");
    assert_eq!(
        (&change.my_orders[0].name, change.my_orders[0].state.as_str()),
        (&orders[7].name, "MOVIE_ORDERED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_goes_on_by_its_token_misses_nothing() {
    let stage = Stage::set().await;
    let (customer, other) = (stage.test.customer(), stage.test.customer());
    let (quiet, order) = (Order::of(&customer), Order::of(&customer));
    stage.pick(&quiet, "Oldboy").await;
    stage.pick(&order, "Parasite").await;
    stage.settled(&customer, &order, 1).await;
    let mut stream = watch(&customer, "").await;
    let token = until(&mut stream, &order, |_| true).await;
    drop(stream);

    // Meanwhile: the latest of several changes, a new order, and somebody else's.
    stage.advance(&order, State::MovieOrdered).await;
    stage.advance(&order, State::MovieWatched).await;
    let new = Order::of(&customer);
    stage.pick(&new, "Burning").await;
    let theirs = Order::of(&other);
    stage.pick(&theirs, "Mother").await;
    stage.settled(&other, &theirs, 1).await;

    let missed = next(&mut watch(&customer, &token).await).await;
    let told: Vec<_> =
        missed.my_orders.iter().map(|told| (&told.name, told.state.as_str())).collect();
    assert_eq!(told, [(&new.name, "MOVIE_PICKED"), (&order.name, "MOVIE_WATCHED")]);

    let nothing = next(&mut watch(&customer, &missed.resume_token).await).await;
    assert_eq!(nothing.my_orders, [], "it says at once that nothing was missed");
    assert_eq!(nothing.resume_token, missed.resume_token);
}

/// Titles so long that a client which does not read soon stops the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_read_too_slowly_misses_nothing() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let mut stream = watch(&customer, "").await;
    assert_eq!(next(&mut stream).await.my_orders, []);

    let title = "Parasite ".repeat(3000);
    let orders: Vec<_> = (0..500).map(|_| Order::of(&customer)).collect();
    for order in &orders {
        stage.pick(order, &title).await;
    }
    stage.settled(&customer, &orders[499], 1).await;
    let mut unseen: HashSet<_> = orders.into_iter().map(|order| order.name).collect();
    while !unseen.is_empty() {
        let told = next(&mut stream).await.my_orders;
        assert_ne!(told, [], "the stream is silent, and {} orders were never told", unseen.len());
        for order in told {
            unseen.remove(&order.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_for_a_restart_and_goes_on_after_it() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = Order::of(&customer);
    stage.pick(&order, "Parasite").await;
    let mut stream = watch(&customer, "").await;
    let token = until(&mut stream, &order, |_| true).await;

    stage.test.mesh.stop("mypage").await;
    assert_eq!(refusal(stream.message().await).0, Code::Unavailable);
    stage.advance(&order, State::MovieOrdered).await;
    stage.test.restart("mypage").await;
    until(&mut watch(&customer, &token).await, &order, |told| told.state == "MOVIE_ORDERED").await;
}

/// The clock jumps whenever everybody waits for it.
#[tokio::test]
async fn a_silent_stream_says_that_it_is_alive() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let mut stream = watch(&customer, "").await;
    let first = next(&mut stream).await;

    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let heartbeat = next(&mut stream).await;
    assert!(begun.elapsed() >= Duration::from_secs(14), "{:?}", begun.elapsed());
    assert_eq!(heartbeat, first, "nothing, and where to go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_none_is_refused() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    for token in ["rubbish", "7", "-1-1", "1-", "1--1"] {
        let request = api::WatchMyOrdersRequest { resume_token: token.to_owned() };
        let status = page_of(&customer).watch_my_orders(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{token}");
        assert!(status.message().contains("resume_token"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_view_that_was_lost_begins_anew() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = Order::of(&customer);
    stage.pick(&order, "Parasite").await;
    stage.settled(&customer, &order, 1).await;
    for token in ["1-999999", "7-1"] {
        let first = next(&mut watch(&customer, token).await).await;
        assert_eq!(first.my_orders.len(), 1, "{token}");
        assert_eq!(first.resume_token, "1-1");
    }
}

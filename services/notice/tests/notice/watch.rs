//! The inbox, live.

use mesh_testing::Account;
use proto::notice::v1::{WatchNoticesRequest, WatchNoticesResponse};
use tonic::{Code, Status, Streaming};

use crate::support::{Desk, open, order, quick, reader};

async fn watch(
    account: &Account,
    resume_token: &str,
) -> Result<Streaming<WatchNoticesResponse>, Status> {
    let request = WatchNoticesRequest { resume_token: resume_token.to_owned() };
    Ok(reader(account).watch_notices(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<WatchNoticesResponse>) -> (Vec<String>, String) {
    let message = stream.message().await.expect("a message").expect("a stream that goes on");
    let orders = message.notices.into_iter().map(|notice| notice.order).collect();
    (orders, message.resume_token)
}

async fn tell(desk: &Desk, notices: usize) -> Vec<String> {
    let mut orders = Vec::new();
    for _ in 0..notices {
        let order = order();
        desk.send(&order, "confirmed").await.expect("an answer");
        orders.push(order);
    }
    orders
}

#[tokio::test]
async fn an_inbox_is_told_at_once_and_then_live() {
    let desk = open(quick()).await;
    let mut stream = watch(&desk.customer, "").await.expect("a stream");
    assert_eq!(next(&mut stream).await.0, Vec::<String>::new());
    for _ in 0..3 {
        let orders = tell(&desk, 1).await;
        assert_eq!(next(&mut stream).await.0, orders);
    }
    let mut late = watch(&desk.customer, "").await.expect("a stream");
    assert_eq!(next(&mut late).await.0.len(), 3);
}

#[tokio::test]
async fn a_stream_begins_with_the_last_fifty() {
    let desk = open(quick()).await;
    let orders = tell(&desk, 53).await;
    let mut stream = watch(&desk.customer, "").await.expect("a stream");
    assert_eq!(next(&mut stream).await.0, orders[3..]);
}

#[tokio::test]
async fn who_comes_again_with_the_last_token_misses_nothing_and_sees_nothing_twice() {
    let desk = open(quick()).await;
    tell(&desk, 2).await;
    let mut stream = watch(&desk.customer, "").await.expect("a stream");
    let (_, token) = next(&mut stream).await;
    drop(stream);

    let missed = tell(&desk, 120).await;
    let mut stream = watch(&desk.customer, &token).await.expect("a stream");
    let (first, _) = next(&mut stream).await;
    let (second, token) = next(&mut stream).await;
    assert_eq!([first, second].concat(), missed);

    desk.mesh.mesh.stop("notice").await;
    let status = stream.message().await.expect_err("an end");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(mesh::retry_delay_of(&status).is_some());
    desk.mesh.restart("notice").await;
    let mut stream = watch(&desk.customer, &token).await.expect("a stream");
    assert_eq!(next(&mut stream).await, (Vec::new(), token));
    let orders = tell(&desk, 1).await;
    assert_eq!(next(&mut stream).await.0, orders);
}

#[tokio::test]
async fn a_stream_has_the_own_notices_only() {
    let mut desk = open(quick()).await;
    let other = desk.mesh.customer();
    let mut stream = watch(&other, "").await.expect("a stream");
    assert_eq!(next(&mut stream).await.0, Vec::<String>::new());
    tell(&desk, 3).await;
    desk.customer = other;
    let orders = tell(&desk, 1).await;
    assert_eq!(next(&mut stream).await.0, orders);
}

#[tokio::test]
async fn a_token_that_is_none_is_refused() {
    let desk = open(quick()).await;
    for bad in ["x", "-1", "1000"] {
        let outcome = watch(&desk.customer, bad).await;
        assert_eq!(outcome.expect_err("refused").code(), Code::InvalidArgument, "{bad}");
    }
}

//! Webhooks, against a server of our own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use mesh_testing::eventually;
use notice::{Settings, Webhook};
use proto::notice::v1::notice::{Medium, State};

use crate::http_server::{HttpServer, Posted, SECRET};
use crate::support::{Desk, open, order, quick};

async fn open_at(server: &HttpServer) -> Desk {
    open(Settings { webhook: Some(server.webhook()), ..quick() }).await
}

fn is_signed(posted: &Posted) -> bool {
    let signature = &posted.headers["turnstile-signature"];
    let signature: Vec<_> = (0..signature.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&signature[at..at + 2], 16).expect("hex"))
        .collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let timestamp = posted.headers["turnstile-timestamp"].as_bytes();
    hmac::verify(&key, &[timestamp, b".", &posted.body].concat(), &signature).is_ok()
}

#[tokio::test]
async fn a_webhook_is_signed_and_says_what_was_told() {
    let server = HttpServer::start(|_, _| Some(204)).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let sent = desk.settled(&order, Medium::Webhook, State::Sent).await;
    assert_eq!(sent.attempts, 1);

    let posted = &server.posted()[0];
    assert!(is_signed(posted));
    let timestamp: u64 = posted.headers["turnstile-timestamp"].parse().expect("seconds");
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_secs();
    assert!((now - 60..=now).contains(&timestamp));
    assert_eq!(posted.headers["content-type"], "application/json");
    let expected = serde_json::json!({
        "notice": sent.name,
        "recipient": desk.customer.id.to_string(),
        "order": order,
        "kind": "confirmed",
        "text": "Your booking is confirmed: Frozen, 10 seats.",
        "time": sent.create_time.expect("a time").to_string(),
    });
    assert_eq!(posted.json(), expected);
}

#[tokio::test]
async fn what_fails_is_tried_again_and_sent_once() {
    let server = HttpServer::start(|_, before| Some(if before == 0 { 500 } else { 200 })).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let sent = desk.settled(&order, Medium::Webhook, State::Sent).await;
    assert_eq!(sent.attempts, 2);
    let posted = server.posted();
    assert_eq!(posted.len(), 2);
    assert!(posted.iter().all(is_signed));
    assert_eq!(posted[0].body, posted[1].body, "a copy is known as one");
}

#[tokio::test]
async fn what_always_fails_has_failed_after_the_attempts() {
    let server = HttpServer::start(|_, _| Some(500)).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Webhook, State::Failed).await;
    assert_eq!(failed.attempts, 4);
    assert_eq!(server.posted().len(), 4);
    let inbox = desk.notice(&order, Medium::Inbox).await.expect("a notice");
    assert_eq!(inbox.state(), State::Sent, "the inbox has it all the same");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = HttpServer::start(|_, _| Some(307)).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    desk.settled(&order, Medium::Webhook, State::Failed).await;
}

#[tokio::test]
async fn a_server_without_the_tls_that_is_asked_for_gets_nothing() {
    let server = HttpServer::start(|_, _| Some(200)).await;
    let webhook = server.webhook();
    let webhook = Webhook { url: webhook.url.replace("http://", "https://"), ..webhook };
    let settings = Settings { timeout: Duration::from_millis(500), ..quick() };
    let desk = open(Settings { webhook: Some(webhook), ..settings }).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Webhook, State::Failed).await;
    assert_eq!((failed.attempts, server.posted().len()), (4, 0));
}

#[tokio::test]
async fn one_that_hangs_does_not_hold_up_the_next() {
    let (stuck, next) = (order(), order());
    let hanging = stuck.clone();
    let server =
        HttpServer::start(move |posted, _| (posted.order() != hanging).then_some(200)).await;
    let settings = Settings { timeout: Duration::from_secs(20), ..quick() };
    let desk = open(Settings { webhook: Some(server.webhook()), ..settings }).await;
    desk.send(&stuck, "confirmed").await.expect("an answer");
    eventually("the first one hangs", || async { server.about(&stuck).first().map(drop) }).await;
    let begun = Instant::now();
    desk.send(&next, "confirmed").await.expect("an answer");
    desk.settled(&next, Medium::Webhook, State::Sent).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for the first");
    let hanging = desk.notice(&stuck, Medium::Webhook).await.expect("a notice");
    assert_eq!((hanging.state(), hanging.attempts), (State::Queued, 1));
}

#[tokio::test]
async fn one_that_always_hangs_has_failed_after_the_attempts() {
    let server = HttpServer::start(|_, _| None).await;
    let settings = Settings { timeout: Duration::from_millis(100), ..quick() };
    let desk = open(Settings { webhook: Some(server.webhook()), ..settings }).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Webhook, State::Failed).await;
    assert_eq!((failed.attempts, server.posted().len()), (4, 4));
}

#[tokio::test]
async fn a_crash_while_sending_is_sent_after_the_restart() {
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = hangs.clone();
    let server =
        HttpServer::start(move |_, _| (!hanging.load(Ordering::SeqCst)).then_some(200)).await;
    let settings = Settings { timeout: Duration::from_millis(500), attempts: 100, ..quick() };
    let desk = open(Settings { webhook: Some(server.webhook()), ..settings }).await;
    let orders: Vec<_> = (0..5).map(|_| order()).collect();
    for order in &orders {
        desk.send(order, "confirmed").await.expect("an answer");
    }
    eventually("all are under way", || async {
        orders.iter().all(|order| !server.about(order).is_empty()).then_some(())
    })
    .await;
    desk.mesh.mesh.crash("notice").await;
    let before: Vec<_> = orders.iter().map(|order| server.about(order).len()).collect();
    hangs.store(false, Ordering::SeqCst);
    desk.mesh.restart("notice").await;

    for (order, before) in orders.iter().zip(before) {
        let sent = desk.settled(order, Medium::Webhook, State::Sent).await;
        let posted = server.about(order).len();
        assert_eq!(usize::try_from(sent.attempts), Ok(posted), "attempts before a crash count");
        assert_eq!(posted, before + 1);
        assert_eq!(desk.told(order).await.len(), 1);
    }
}

#[tokio::test]
async fn more_than_there_are_places_for_are_all_sent() {
    let server = HttpServer::start(|_, _| Some(200)).await;
    let desk = open_at(&server).await;
    let orders: Vec<_> = (0..100).map(|_| order()).collect();
    futures::future::join_all(orders.iter().map(|order| desk.send(order, "confirmed"))).await;
    for order in &orders {
        desk.settled(order, Medium::Webhook, State::Sent).await;
    }
    assert_eq!(server.posted().len(), 100);
}

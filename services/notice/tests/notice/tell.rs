//! Telling, once.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mesh_testing::refusal;
use notice::{Settings, Webhook};
use proto::notice::v1::notice::{Medium, State};
use proto::notice::v1::{Noticed, SendNoticeRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::http_server::HttpServer;
use crate::support::{list, open, order, quick};

#[tokio::test]
async fn op_f5_one_notice_per_order_and_kind_whatever_is_redelivered() {
    let server = HttpServer::start(|_, _| Some(200)).await;
    let desk = open(Settings { webhook: Some(server.webhook()), ..quick() }).await;
    let order = order();
    let answers = join_all((0..20).map(|_| desk.send(&order, "confirmed"))).await;

    let told = answers[0].clone().expect("an answer").expect("a notice");
    for answer in answers {
        assert_eq!(answer.expect("an answer"), Some(told.clone()));
    }
    assert_eq!((told.medium(), told.state(), told.attempts), (Medium::Inbox, State::Sent, 1));
    assert_eq!(told.text, "Your booking is confirmed: Frozen, 10 seats.");
    let expected = Noticed {
        notice: told.name.clone(),
        recipient: desk.customer.id.to_string(),
        order: order.clone(),
        kind: "confirmed".to_owned(),
    };
    assert_eq!(desk.told(&order).await, [expected]);
    let event = &desk.events(&order).await[0];
    assert_eq!((event.subject.as_str(), event.sequence), (told.name.as_str(), 1));

    desk.settled(&order, Medium::Webhook, State::Sent).await;
    desk.send(&order, "confirmed").await.expect("an answer");
    assert_eq!(list(&desk.customer, &order).await.len(), 2);
    assert_eq!(server.posted().len(), 1);
}

#[tokio::test]
async fn op_f8_nothing_is_told_after_what_it_must_not_follow() {
    let desk = open(quick()).await;
    let order = order();
    desk.send(&order, "cancelled").await.expect("an answer").expect("a notice");
    let confirmed = SendNoticeRequest {
        unless_kinds: vec!["cancelled".to_owned(), "expired".to_owned()],
        ..desk.request(&order, "confirmed")
    };
    for _ in 0..2 {
        assert_eq!(desk.ask(confirmed.clone()).await.expect("an answer"), None);
    }
    let kinds: Vec<_> = desk.told(&order).await.into_iter().map(|told| told.kind).collect();
    assert_eq!(kinds, ["cancelled"]);
    assert_eq!(list(&desk.customer, &order).await.len(), 1);

    let other = crate::support::order();
    let confirmed = SendNoticeRequest { order: other, ..confirmed };
    assert!(
        desk.ask(confirmed).await.expect("an answer").is_some(),
        "another order is another matter"
    );
}

#[tokio::test]
async fn an_order_can_be_told_of_in_several_kinds() {
    let desk = open(quick()).await;
    let order = order();
    for kind in ["confirmed", "declined", "cancelled", "expired"] {
        desk.send(&order, kind).await.expect("an answer").expect("a notice");
    }
    let told = list(&desk.customer, &order).await;
    let kinds: Vec<_> = told.iter().map(|notice| notice.kind.as_str()).collect();
    assert_eq!(kinds, ["expired", "cancelled", "declined", "confirmed"]);
    assert_eq!(told.iter().map(|notice| &notice.text).collect::<BTreeSet<_>>().len(), 4);
}

#[tokio::test]
async fn a_customer_is_told_things_in_their_language() {
    let mut desk = open(quick()).await;
    for (language, text) in [
        ("en", "Your booking is confirmed: Frozen, 10 seats."),
        ("ko", "예약이 확정되었습니다: Frozen, 10석."),
        ("tlh", "Your booking is confirmed: Frozen, 10 seats."),
    ] {
        desk.customer = desk.mesh.customer();
        desk.identity.know(desk.customer.id, crate::support::EMAIL, language);
        let told = desk.send(&order(), "confirmed").await.expect("an answer").expect("a notice");
        assert_eq!(told.text, text);
    }
    let bare =
        SendNoticeRequest { parameters: HashMap::new(), ..desk.request(&order(), "declined") };
    let told = desk.ask(bare).await.expect("an answer").expect("a notice");
    assert_eq!(told.text, "Your booking failed because its payment was declined.");
}

#[tokio::test]
async fn a_notice_does_not_depend_on_identity() {
    let desk = open(quick()).await;
    desk.identity.know(desk.customer.id, crate::support::EMAIL, "ko");
    desk.identity.hangs.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let told = desk.send(&order(), "confirmed").await.expect("an answer").expect("a notice");
    assert_eq!(told.text, "Your booking is confirmed: Frozen, 10 seats.");
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited for identity");

    desk.mesh.mesh.stop("identity").await;
    let order = order();
    let told = desk.send(&order, "cancelled").await.expect("an answer").expect("a notice");
    assert_eq!(told.text, "Your booking is cancelled: Frozen, 10 seats.");
    assert_eq!(list(&desk.customer, &order).await, [told]);

    // Nobody whom identity has never heard of is a reason not to tell.
    desk.identity.hangs.store(false, Ordering::SeqCst);
    desk.mesh.restart("identity").await;
    let stranger = SendNoticeRequest {
        recipient: desk.mesh.customer().id.to_string(),
        ..desk.request(&crate::support::order(), "confirmed")
    };
    assert!(desk.ask(stranger).await.expect("an answer").is_some());
}

#[tokio::test]
async fn identity_is_not_asked_about_what_was_told_before() {
    let desk = open(quick()).await;
    let order = order();
    for _ in 0..3 {
        desk.send(&order, "confirmed").await.expect("an answer");
    }
    assert_eq!(desk.identity.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn g13_every_bad_field_is_named() {
    let desk = open(quick()).await;
    let request = SendNoticeRequest {
        request_id: "1".to_owned(),
        recipient: "jang".to_owned(),
        order: "order".to_owned(),
        kind: String::new(),
        parameters: [("title", "a\nb"), ("seats", "many")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        unless_kinds: vec!["cancelled".to_owned(), String::new()],
    };
    let status = desk.ask(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    let expected = [
        "request_id",
        "recipient",
        "order",
        "kind",
        "parameters.title",
        "parameters.seats",
        "unless_kinds[1]",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn a_kind_without_a_text_is_refused_by_name() {
    let desk = open(quick()).await;
    let order = order();
    let outcome = desk.send(&order, "watched").await;
    let info =
        outcome.as_ref().expect_err("refused").get_details_error_info().expect("an ErrorInfo");
    assert_eq!((info.domain.as_str(), info.metadata["kind"].as_str()), ("notice", "watched"));
    assert_eq!(refusal(outcome), (Code::InvalidArgument, "KIND_UNKNOWN".to_owned()));
    assert!(list(&desk.customer, &order).await.is_empty() && desk.told(&order).await.is_empty());
}

#[tokio::test]
async fn a_context_with_settings_that_nothing_can_be_sent_by_does_not_start() {
    let webhook = Webhook { url: "example.com".to_owned(), secret: mesh::config::Secret::new("x") };
    let context = notice::context(Settings { webhook: Some(webhook), ..Settings::default() });
    let folder = mesh_testing::TestMesh::start(&[]).await;
    assert!(folder.mesh.start(&context).await.is_err());
}

//! Who sees which notice, and who may call what.

use std::collections::BTreeSet;

use mesh_testing::refusal;
use notice::Settings;
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::notice::v1::{ListNoticesRequest, SendNoticeRequest, WatchNoticesRequest};
use tonic::Code;

use crate::http_server::HttpServer;
use crate::support::{list, open, order, quick, reader};

#[tokio::test]
async fn g16_only_the_contexts_that_the_contract_names_may_tell() {
    let desk = open(quick()).await;
    let request = desk.request(&order(), "confirmed");
    for account in [desk.mesh.customer(), desk.mesh.admin()] {
        let status = reader(&account).send_notice(request.clone()).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unimplemented);
    }
    let mut payment = NoticeServiceClient::new(desk.mesh.service("payment", "notice"));
    let outcome = payment.send_notice(request.clone()).await;
    assert_eq!(refusal(outcome), (Code::PermissionDenied, "FORBIDDEN".to_owned()));
    let mut nobody = NoticeServiceClient::new(desk.mesh.stranger());
    let status = nobody.list_notices(ListNoticesRequest::default()).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    let outcome = nobody.watch_notices(WatchNoticesRequest::default()).await;
    assert_eq!(outcome.expect_err("refused").code(), Code::Unauthenticated);
    assert!(desk.told(&request.order).await.is_empty());
}

#[tokio::test]
async fn everybody_sees_their_own_notices_only_an_admin_too() {
    let desk = open(quick()).await;
    let (other, admin) = (desk.mesh.customer(), desk.mesh.admin());
    let (mine, theirs) = (order(), order());
    let own = desk.send(&mine, "confirmed").await.expect("an answer").expect("a notice");
    let request =
        SendNoticeRequest { recipient: other.id.to_string(), ..desk.request(&theirs, "confirmed") };
    let others = desk.ask(request).await.expect("an answer").expect("a notice");

    assert_eq!(list(&desk.customer, "").await, std::slice::from_ref(&own));
    assert_eq!(list(&desk.customer, &mine).await, [own]);
    assert_eq!(list(&desk.customer, &theirs).await, []);
    assert_eq!(list(&other, "").await, [others]);
    assert_eq!(list(&admin, "").await, []);
}

#[tokio::test]
async fn g17_lists_are_paged_newest_first() {
    let server = HttpServer::start(|_, _| Some(200)).await;
    let desk = open(Settings { webhook: Some(server.webhook()), ..quick() }).await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        let told = desk.send(&order(), "confirmed").await.expect("an answer").expect("a notice");
        orders.insert(0, told.order);
    }
    // Pages that part what was told over two media.
    let mut request = ListNoticesRequest { page_size: 3, ..ListNoticesRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = reader(&desk.customer).list_notices(request.clone()).await.expect("a page");
        let page = page.into_inner();
        assert!(page.notices.len() <= 3);
        seen.extend(page.notices);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let names: BTreeSet<_> = seen.iter().map(|notice| &notice.name).collect();
    assert_eq!(names.len(), 10, "each once");
    let mut seen: Vec<_> = seen.into_iter().map(|notice| notice.order).collect();
    seen.dedup();
    assert_eq!(seen, orders);

    // The token of one list is no good for another.
    let other = reader(&desk.mesh.customer()).list_notices(request.clone()).await;
    assert_eq!(other.expect_err("refused").code(), Code::InvalidArgument);
    let filtered = ListNoticesRequest { order: order(), ..request };
    let other = reader(&desk.customer).list_notices(filtered).await;
    assert_eq!(other.expect_err("refused").code(), Code::InvalidArgument);
    for bad in [
        ListNoticesRequest { page_size: -1, ..ListNoticesRequest::default() },
        ListNoticesRequest { order: "order".to_owned(), ..ListNoticesRequest::default() },
    ] {
        let outcome = reader(&desk.customer).list_notices(bad).await;
        assert_eq!(outcome.expect_err("refused").code(), Code::InvalidArgument);
    }
}

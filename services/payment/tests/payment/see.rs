//! Who sees which payment, and who may call what.

use mesh_testing::{Account, SignedIn, refusal};
use payment::Settings;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::{GetPaymentRequest, ListPaymentsRequest, Payment};
use tonic::{Code, Status};

use crate::support::{Till, open, order};

fn client(account: &Account) -> PaymentServiceClient<SignedIn> {
    PaymentServiceClient::new(account.connect())
}

async fn see(account: &Account, name: &str) -> Result<Payment, Status> {
    let request = GetPaymentRequest { name: name.to_owned() };
    Ok(client(account).get_payment(request).await?.into_inner().payment.expect("a payment"))
}

async fn list(account: &Account, request: ListPaymentsRequest) -> (Vec<String>, String) {
    let page = client(account).list_payments(request).await.expect("a page").into_inner();
    (page.payments.into_iter().map(|payment| payment.name).collect(), page.next_page_token)
}

/// A customer with so many payments: their names, newest first.
async fn customer_with(till: &mut Till, payments: usize) -> (Account, Vec<String>) {
    let account = till.mesh.customer();
    till.customer = account.id;
    let mut names = Vec::new();
    for _ in 0..payments {
        names.push(till.pay(&order()).await.expect("paid").name);
    }
    names.reverse();
    (account, names)
}

#[tokio::test]
async fn a_customer_sees_their_own_payments_and_an_admin_all() {
    let mut till = open(Settings::default()).await;
    let (mine, my_payments) = customer_with(&mut till, 2).await;
    let (other, other_payments) = customer_with(&mut till, 1).await;
    let admin = till.mesh.admin();
    let all = [other_payments.clone(), my_payments.clone()].concat();

    assert_eq!(
        list(&mine, ListPaymentsRequest::default()).await,
        (my_payments.clone(), String::new())
    );
    assert_eq!(list(&other, ListPaymentsRequest::default()).await, (other_payments, String::new()));
    assert_eq!(list(&admin, ListPaymentsRequest::default()).await, (all, String::new()));
    for account in [&mine, &admin] {
        assert_eq!(see(account, &my_payments[0]).await.expect("the payment").name, my_payments[0]);
    }
}

#[tokio::test]
async fn somebody_elses_payment_is_refused_like_one_that_is_not_there() {
    let mut till = open(Settings::default()).await;
    let (_, payments) = customer_with(&mut till, 1).await;
    let stranger = till.mesh.customer();
    let missing = format!("payments/{}", mesh_testing::request_id());
    for name in [&payments[0], &missing] {
        let status = see(&stranger, name).await.expect_err("refused");
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, format!("{name} was not found").as_str())
        );
    }
    assert_eq!(
        see(&stranger, "payments/1").await.expect_err("refused").code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn g17_lists_are_paged_newest_first() {
    let mut till = open(Settings::default()).await;
    let (account, names) = customer_with(&mut till, 5).await;
    let mut request = ListPaymentsRequest { page_size: 2, ..ListPaymentsRequest::default() };
    let mut seen = Vec::new();
    loop {
        let (page, next) = list(&account, request.clone()).await;
        assert!(page.len() <= 2);
        seen.extend(page);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    assert_eq!(seen, names);
    // The token of one customer's list is no good for another's.
    let other = till.mesh.customer();
    let status = client(&other).list_payments(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_list_can_be_of_one_order_and_shows_no_tombstone() {
    let mut till = open(Settings::default()).await;
    let (account, _) = customer_with(&mut till, 2).await;
    let (paid, voided) = (order(), order());
    let name = till.pay(&paid).await.expect("paid").name;
    till.cancel(&voided).await.expect("cancelled");
    let of = |order: &str| ListPaymentsRequest {
        order: order.to_owned(),
        ..ListPaymentsRequest::default()
    };
    assert_eq!(list(&account, of(&paid)).await.0, [name]);
    assert!(list(&account, of(&voided)).await.0.is_empty());
    assert_eq!(list(&account, ListPaymentsRequest::default()).await.0.len(), 3);
}

#[tokio::test]
async fn g16_only_the_contexts_that_the_contract_names_may_charge() {
    let till = open(Settings::default()).await;
    let request = till.pay_request(&order());
    for account in [till.mesh.customer(), till.mesh.admin()] {
        let status = client(&account).pay(request.clone()).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unimplemented);
        let cancel = till.cancel_request(&request.order);
        let status = client(&account).cancel_payment(cancel).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unimplemented);
    }
    let mut movie = PaymentServiceClient::new(till.mesh.service("homemovie.movie", "payment"));
    let outcome = movie.pay(request).await;
    assert_eq!(refusal(outcome), (Code::PermissionDenied, "FORBIDDEN".to_owned()));
    let mut nobody = PaymentServiceClient::new(till.mesh.stranger());
    let status = nobody.list_payments(ListPaymentsRequest::default()).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(till.books().entries, []);
}

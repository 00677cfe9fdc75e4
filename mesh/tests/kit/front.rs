//! A process that serves nothing itself: customers call it, and it passes their calls on.

use std::collections::BTreeSet;

use mesh::auth::MeshKey;
use mesh::{Listening, Mesh, Options};
use mesh_testing::{Account, TestMesh, eventually, get};
use proto::mesh::v1 as api;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::{GetPaymentRequest, ListPaymentsRequest};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::edges::{Payments, pay};
use crate::stand_in::*;

const SECRET: &str = "a secret of the mesh that is long enough";

/// Contexts in a process of their own.
async fn elsewhere(contexts: &[mesh::Context]) -> TestMesh {
    TestMesh::start_with(contexts, |options| {
        options.mesh_key = Some(MeshKey::new(SECRET).unwrap());
        options.faces_customers = false;
    })
    .await
}

struct Front {
    mesh: Mesh,
    listening: Listening,
    _folder: tempfile::TempDir,
}

impl Front {
    /// The front of these contexts, which accepts the accounts of the first.
    async fn of(places: &[(&str, &TestMesh)]) -> Self {
        let endpoints: Vec<_> = places
            .iter()
            .map(|(context, there)| (*context, format!("http://{}", there.address())))
            .collect();
        Self::at(&endpoints, places[0].1).await
    }

    /// The front of contexts at these endpoints, which accepts the accounts of `accounts`.
    async fn at(endpoints: &[(&str, String)], accounts: &TestMesh) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path());
        options.mesh_key = Some(MeshKey::new(SECRET).unwrap());
        for (context, endpoint) in endpoints {
            options.endpoints.insert((*context).to_owned(), endpoint.clone());
        }
        let names: Vec<_> = endpoints.iter().map(|(context, _)| *context).collect();
        let mesh = Mesh::front_of(options, &names).unwrap();
        mesh.read_keys_from(accounts.keys());
        let listening = mesh.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        Self { mesh, listening, _folder: folder }
    }

    fn payments(&self, account: &Account) -> PaymentServiceClient<mesh_testing::SignedIn> {
        PaymentServiceClient::new(account.at(self.listening.address()).connect())
    }

    fn operations(&self, account: &Account) -> OperationsServiceClient<mesh_testing::SignedIn> {
        OperationsServiceClient::new(account.at(self.listening.address()).connect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gw_2_customers_calls_pass_as_theirs_and_methods_for_services_are_not_there() {
    let payments = Payments::default();
    let there = elsewhere(&[payments.context()]).await;
    let front = Front::of(&[("payment", &there)]).await;
    let customer = there.customer();
    let mut client = front.payments(&customer);
    let found = client.get_payment(GetPaymentRequest::default()).await.unwrap().into_inner();
    let found = found.payment.unwrap();
    let account = customer.id.to_string();
    assert_eq!((&found.customer, &found.name), (&account, &account), "nobody calls for it");
    let refused = client.pay(pay("orders/1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    // Whatever it says of itself.
    let mut forged = Request::new(pay("orders/1"));
    forged.metadata_mut().insert("turnstile-service-token", "a.b.c".parse().unwrap());
    assert_eq!(client.pay(forged).await.unwrap_err().code(), Code::Unimplemented);
    assert!(payments.calls.lock().unwrap().is_empty());
    let refused = client.list_payments(ListPaymentsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the list"));
    let mut nobody = front.payments(&there.expired());
    let refused = nobody.get_payment(GetPaymentRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn gw_7_a_context_that_is_down_is_unavailable_and_the_others_are_not_affected() {
    let (payments, stores) = (Payments::default(), Stores::default());
    let there = elsewhere(&[payments.context()]).await;
    let other = elsewhere(&[stores.source("identity")]).await;
    let front = Front::of(&[("payment", &there), ("identity", &other)]).await;
    front.mesh.until_reached().await;
    let names = ["identity", "payment"];
    let port = front.mesh.listen_for_admins(([127, 0, 0, 1], 0).into(), names).await.unwrap();
    assert_eq!(get(port.address(), "/readyz").await, (200, "ready\n".to_owned()));
    let health = format!("http://{}", front.listening.address());
    let health =
        HealthClient::new(tonic::transport::Endpoint::from_shared(health).unwrap().connect_lazy());
    let until = async |context: &str, expected: ServingStatus| {
        eventually(&format!("{context} is {expected:?}"), async || {
            let request = HealthCheckRequest { service: context.to_owned() };
            let answer = health.clone().check(request).await.ok()?.into_inner();
            (answer.status() == expected).then_some(())
        })
        .await;
    };

    there.mesh.stop("payment").await;
    let mut client = front.payments(&there.customer());
    let refused = client.get_payment(GetPaymentRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(mesh::retry_delay_of(&refused).is_some());
    let (status, why) = get(port.address(), "/readyz").await;
    assert_eq!((status, &*why), (503, "payment is not ready\n"));
    until("payment", ServingStatus::NotServing).await;
    until("identity", ServingStatus::Serving).await;

    there.restart("payment").await;
    client.get_payment(GetPaymentRequest::default()).await.unwrap();
    until("payment", ServingStatus::Serving).await;
    assert_eq!(get(port.address(), "/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn gw_8_a_front_that_stops_is_not_ready_and_takes_no_calls() {
    let there = elsewhere(&[Payments::default().context()]).await;
    let front = Front::of(&[("payment", &there)]).await;
    front.mesh.until_reached().await;
    let port = front.mesh.listen_for_admins(([127, 0, 0, 1], 0).into(), ["payment"]).await.unwrap();
    let mut client = front.payments(&there.customer());
    client.get_payment(GetPaymentRequest::default()).await.unwrap();
    front.mesh.drain().await;
    assert_eq!(get(port.address(), "/readyz").await.0, 503);
    let refused = client.get_payment(GetPaymentRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(mesh::retry_delay_of(&refused).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn gw_7_where_nobody_is_a_call_is_unavailable_at_once() {
    let accounts = TestMesh::start(&[]).await;
    // Nobody listens on the port of tcpmux.
    let front = Front::at(&[("payment", "http://127.0.0.1:1".to_owned())], &accounts).await;
    let mut client = front.payments(&accounts.customer());
    let outcome = client.get_payment(GetPaymentRequest::default()).await;
    let refused = outcome.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(mesh::retry_delay_of(&refused).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_what_operators_ask_is_answered_over_all_processes() {
    let stores = Stores::default();
    let one = elsewhere(&[stores.consumer("mypage", created)]).await;
    let other = elsewhere(&[stores.consumer("notice", created), stores.source("identity")]).await;
    let places = [("mypage", &one), ("notice", &other), ("identity", &other)];
    let front = Front::of(&places).await;
    let mut operations = front.operations(&one.admin());
    other.mesh.read_keys_from(one.keys());
    let whole = operations.list_policies(api::ListPoliciesRequest::default()).await.unwrap();
    let names = |policies: Vec<api::Policy>| -> BTreeSet<_> {
        policies.into_iter().map(|policy| policy.name).collect()
    };
    let all = names(whole.into_inner().policies);
    assert_eq!(all.len(), 2, "{all:?}");
    let (mut paged, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListPoliciesRequest { page_size: 1, page_token, ..Default::default() };
        let page = operations.list_policies(request).await.unwrap().into_inner();
        paged.extend(page.policies);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((paged.len(), names(paged)), (2, all));
    let of_one = api::ListPoliciesRequest { context: "notice".to_owned(), ..Default::default() };
    let of_one = operations.list_policies(of_one).await.unwrap().into_inner().policies;
    assert_eq!(of_one.len(), 1);
    let of_nobody = api::ListPoliciesRequest { context: "x".to_owned(), ..Default::default() };
    let refused = operations.list_policies(of_nobody).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let rubbish = api::ListPoliciesRequest { page_token: "x/y".to_owned(), ..Default::default() };
    let refused = operations.list_policies(rubbish).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let edges = operations.list_edges(api::ListEdgesRequest::default()).await.unwrap();
    assert!(!edges.into_inner().edges.is_empty());
    let intents = operations.list_intents(api::ListIntentsRequest::default()).await.unwrap();
    assert!(intents.into_inner().intents.is_empty());
}

//! Synchronous edges within one process, and what every call passes on its way in.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mesh::client::{BreakerSettings, EdgeSettings, is_certainly_not_sent};
use mesh::{Caller, Context, scope};
use mesh_testing::{Account, TestMesh, eventually, refusal, request_id};
use proto::mesh::v1 as api;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::payment_service_server::{PaymentService, PaymentServiceServer};
use proto::payment::v1::*;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::stand_in::*;

/// What the stand-in saw of its calls.
#[derive(Clone, Default)]
pub(crate) struct Payments {
    /// The caller's key, and how much time was left.
    pub(crate) calls: Arc<Mutex<Vec<(String, Duration)>>>,
    pub(crate) stores: Stores,
    /// Where `GetPayment` asks further on, if anywhere.
    onwards: Arc<OnceLock<mesh::client::Channel>>,
    /// How much time was left there.
    lists: Arc<Mutex<Vec<Duration>>>,
}

#[tonic::async_trait]
impl PaymentService for Payments {
    async fn pay(&self, request: Request<PayRequest>) -> Result<Response<PayResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        self.calls.lock().unwrap().push((caller.key(), scope::time_left().unwrap_or_default()));
        match request.order.as_str() {
            "panic" => panic!("as planned"),
            "hang" => std::future::pending().await,
            "refuse" => Err(mesh::Error::refused("payment", "PAYMENT_DECLINED", "declined").into()),
            "provider down" => Err(mesh::Error::unavailable("the provider").into()),
            "bank busy" => Err(mesh::client::fallback("payment", "bank", None).into()),
            order => {
                let (order, store) = (order.to_owned(), self.stores.of("payment"));
                let fact = PaymentApproved { order: order.clone(), ..Default::default() };
                store.write(move |tx| tx.publish(&order, &order, &fact)).await?;
                Ok(Response::new(PayResponse::default()))
            }
        }
    }

    async fn cancel_payment(
        &self,
        _: Request<CancelPaymentRequest>,
    ) -> Result<Response<CancelPaymentResponse>, Status> {
        Err(mesh::Error::unavailable("the provider").into())
    }

    async fn get_payment_by_order(
        &self,
        _: Request<GetPaymentByOrderRequest>,
    ) -> Result<Response<GetPaymentByOrderResponse>, Status> {
        Err(mesh::Error::NotFound("it".to_owned()).into())
    }

    async fn get_payment(
        &self,
        request: Request<GetPaymentRequest>,
    ) -> Result<Response<GetPaymentResponse>, Status> {
        let (caller, _) = Caller::of(request)?;
        if let Some(channel) = self.onwards.get() {
            self.calls.lock().unwrap().push((caller.key(), scope::time_left().unwrap_or_default()));
            let mut further_on = PaymentServiceClient::new(channel.clone());
            let list = further_on.list_payments(ListPaymentsRequest::default()).await;
            list.map_err(|_| Status::unavailable("the list"))?;
        }
        let payment = Payment {
            customer: caller.account()?.to_string(),
            name: caller.key(),
            ..Default::default()
        };
        Ok(Response::new(GetPaymentResponse { payment: Some(payment) }))
    }

    async fn list_payments(
        &self,
        _: Request<ListPaymentsRequest>,
    ) -> Result<Response<ListPaymentsResponse>, Status> {
        self.lists.lock().unwrap().push(scope::time_left().unwrap_or_default());
        Err(Status::unavailable("the list"))
    }
}

impl Payments {
    pub(crate) fn context(&self) -> Context {
        let service = self.clone();
        self.stores.context("payment", move |_, wiring| {
            Ok(wiring.serve(PaymentServiceServer::new(service.clone())))
        })
    }
}

pub(crate) fn pay(order: &str) -> PayRequest {
    PayRequest { request_id: request_id(), order: order.to_owned(), ..Default::default() }
}

async fn start() -> (TestMesh, Payments) {
    start_with(EdgeSettings::default()).await
}

async fn start_with(settings: EdgeSettings) -> (TestMesh, Payments) {
    let payments = Payments::default();
    let contexts = [payments.context()];
    let mesh =
        TestMesh::start_with(&contexts, |options| options.edges = Arc::new(move |_| settings))
            .await;
    (mesh, payments)
}

fn client(mesh: &TestMesh) -> PaymentServiceClient<mesh::client::Channel> {
    PaymentServiceClient::new(mesh.service("homemovie.app", "payment"))
}

async fn get_payment(
    mesh: &TestMesh,
    account: &Account,
) -> Result<Response<GetPaymentResponse>, Status> {
    let mut request = Request::new(GetPaymentRequest::default());
    let bearer = format!("Bearer {}", account.token).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    client(mesh).get_payment(request).await
}

async fn edge(mesh: &TestMesh) -> api::Edge {
    let request =
        api::ListEdgesRequest { context: "homemovie.app".to_owned(), ..Default::default() };
    operations(mesh).list_edges(request).await.unwrap().into_inner().edges.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn g16_a_method_for_services_is_for_those_named() {
    let (mesh, payments) = start().await;
    client(&mesh).pay(pay("orders/1")).await.unwrap();
    assert_eq!(payments.calls.lock().unwrap()[0].0, "homemovie.app");
    let mut other = PaymentServiceClient::new(mesh.service("mypage", "payment"));
    assert_eq!(refusal(other.pay(pay("orders/1")).await).0, Code::PermissionDenied);
    let mut stranger = PaymentServiceClient::new(mesh.stranger());
    assert_eq!(refusal(stranger.pay(pay("orders/1")).await).0, Code::Unimplemented);
    let mut admin = PaymentServiceClient::new(mesh.admin().connect());
    assert_eq!(refusal(admin.pay(pay("orders/1")).await).0, Code::Unimplemented);
    assert_eq!(payments.calls.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn g16_a_method_for_customers_needs_a_customer() {
    let (mesh, _) = start().await;
    let request = GetPaymentRequest::default();
    let mut stranger = PaymentServiceClient::new(mesh.stranger());
    assert_eq!(refusal(stranger.get_payment(request.clone()).await).0, Code::Unauthenticated);
    assert_eq!(
        refusal(client(&mesh).get_payment(request.clone()).await).0,
        Code::Unauthenticated,
        "nor a service alone"
    );
    for account in [mesh.customer(), mesh.admin()] {
        let mut customer = PaymentServiceClient::new(account.connect());
        let payment =
            customer.get_payment(request.clone()).await.unwrap().into_inner().payment.unwrap();
        assert_eq!(payment.customer, account.id.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_customers_requests_are_the_customers_whichever_context_passes_them_on() {
    let (mesh, _) = start().await;
    let account = mesh.customer();
    let payment = get_payment(&mesh, &account).await.unwrap().into_inner().payment.unwrap();
    assert_eq!(
        payment.name,
        account.id.to_string(),
        "the key that request_ids are remembered under"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g12_a_callee_that_is_stopped_is_answered_with_the_fallback_and_certainly_not_sent() {
    let (mesh, payments) = start().await;
    mesh.mesh.stop("payment").await;
    let status = client(&mesh).pay(pay("orders/1")).await.unwrap_err();
    assert!(is_certainly_not_sent(&status));
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "PAYMENT_BUSY"));
    assert_eq!(
        (info.domain.as_str(), status.message()),
        ("homemovie.app", "payment is busy, try again later")
    );
    assert!(mesh::retry_delay_of(&status).is_some());
    assert!(payments.calls.lock().unwrap().is_empty());
    // From outside it is down, not unknown.
    let status = PaymentServiceClient::new(mesh.customer().connect())
        .get_payment(GetPaymentRequest::default())
        .await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(mesh::retry_delay_of(&status).is_some());
    mesh.restart("payment").await;
    client(&mesh).pay(pay("orders/1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g12_what_a_callee_lacks_is_its_own_affair_and_it_is_busy() {
    let (mesh, payments) = start().await;
    let status = client(&mesh).pay(pay("provider down")).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PAYMENT_BUSY", "homemovie.app"));
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "payment is busy, try again later")
    );
    assert!(mesh::retry_delay_of(&status).is_some());
    assert!(!is_certainly_not_sent(&status), "it was carried out, or not");
    assert_eq!(payments.calls.lock().unwrap().len(), 1, "it said when to come again");
    let edge = edge(&mesh).await;
    assert_eq!((edge.failure_count, edge.fallback_count), (1, 1));
    // What says already who is busy is passed on.
    let status = client(&mesh).pay(pay("bank busy")).await.unwrap_err();
    assert_eq!(mesh::reason_of(&status).as_deref(), Some("BANK_BUSY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_the_deadline_goes_along() {
    let (mesh, payments) = start().await;
    client(&mesh).pay(pay("orders/1")).await.unwrap();
    let left = payments.calls.lock().unwrap()[0].1;
    assert!(left > Duration::ZERO && left <= Duration::from_millis(610), "{left:?}");
    let begun = tokio::time::Instant::now();
    let status = client(&mesh).pay(pay("hang")).await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
    assert!(!is_certainly_not_sent(&status), "it was carried out, or not");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_refusal_is_an_answer_and_no_failure() {
    let (mesh, payments) = start().await;
    for _ in 0..30 {
        let outcome = client(&mesh).pay(pay("refuse")).await;
        assert_eq!(refusal(outcome), (Code::FailedPrecondition, "PAYMENT_DECLINED".to_owned()));
    }
    let edge = edge(&mesh).await;
    assert_eq!((edge.sent_count, edge.failure_count, edge.open_count), (30, 0, 0));
    assert_eq!(payments.calls.lock().unwrap().len(), 30, "none was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_the_breaker_opens_when_answers_are_lost_and_closes_again() {
    let breaker =
        BreakerSettings { open: Duration::from_millis(300), ..BreakerSettings::default() };
    let settings =
        EdgeSettings { timeout: Duration::from_millis(100), breaker, ..EdgeSettings::default() };
    let (mesh, payments) = start_with(settings).await;
    mesh.mesh.faults().lose_replies("Pay", 20);
    let lost = join_all((0..20).map(|_| {
        let mut client = client(&mesh);
        async move { client.pay(pay("orders/1")).await.unwrap_err() }
    }));
    assert!(lost.await.iter().all(|status| !is_certainly_not_sent(status)));
    let opened = edge(&mesh).await;
    assert_eq!((opened.breaker(), opened.open_count), (api::edge::Breaker::Open, 1));
    let calls = payments.calls.lock().unwrap().len();
    let status = client(&mesh).pay(pay("orders/1")).await.unwrap_err();
    assert!(is_certainly_not_sent(&status));
    let wait = mesh::retry_delay_of(&status).unwrap();
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_millis(300),
        "what is left of it: {wait:?}"
    );
    assert_eq!(payments.calls.lock().unwrap().len(), calls, "the callee is left alone");
    eventually("it closes", async || client(&mesh).pay(pay("orders/1")).await.ok()).await;
    let closed = edge(&mesh).await;
    assert_eq!(closed.breaker(), api::edge::Breaker::Closed);
    assert_eq!((closed.open_count, closed.half_open_count, closed.close_count), (1, 1, 1));
    assert!(closed.fallback_count >= 21 && closed.failure_count >= 20, "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_what_the_bulkhead_refuses_is_counted_apart() {
    let settings = EdgeSettings {
        bulkhead: 2,
        timeout: Duration::from_millis(300),
        ..EdgeSettings::default()
    };
    let (mesh, payments) = start_with(settings).await;
    let outcomes = join_all((0..10).map(|_| {
        let mut client = client(&mesh);
        async move { client.pay(pay("hang")).await.unwrap_err() }
    }));
    let refused = outcomes.await.iter().filter(|status| is_certainly_not_sent(status)).count();
    assert_eq!(refused, 8);
    let edge = edge(&mesh).await;
    assert_eq!((edge.bulkhead_refusal_count, edge.fallback_count), (8, 10));
    assert_eq!(payments.calls.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn g16_what_breaks_on_the_way_is_sent_again_where_the_contract_allows() {
    let (mesh, payments) = start().await;
    mesh.mesh.faults().break_calls("Pay", 1);
    client(&mesh).pay(pay("orders/1")).await.unwrap();
    assert_eq!(payments.calls.lock().unwrap().len(), 1);
    assert_eq!(edge(&mesh).await.retry_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn t18_of_two_hops_only_the_first_sends_again_and_a_fifth_at_most() {
    let breaker = BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() };
    let (mesh, payments) = start_with(EdgeSettings { breaker, ..EdgeSettings::default() }).await;
    payments.onwards.set(mesh.service("payment", "payment")).unwrap();
    let account = mesh.customer();
    let (asked, begun) = (300, Instant::now());
    for _ in 0..asked {
        assert_eq!(refusal(get_payment(&mesh, &account).await).0, Code::Unavailable);
    }
    let first = payments.calls.lock().unwrap().len();
    let second = payments.lists.lock().unwrap().len();
    assert!(first > asked, "the first hop sends again");
    // A fifth, and the ten that the budget has in each of its windows.
    let windows = 1 + usize::try_from(begun.elapsed().as_secs()).unwrap() / 9;
    assert!(first <= asked + asked / 5 + 10 * windows, "{first} in {:?}", begun.elapsed());
    assert!((asked / 2..=first).contains(&second), "the second does not: {second} of {first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t24_each_hop_keeps_ten_milliseconds_of_what_is_left() {
    let settings =
        |millis| EdgeSettings { timeout: Duration::from_millis(millis), ..EdgeSettings::default() };
    let (mesh, payments) = start_with(settings(300)).await;
    payments.onwards.set(mesh.service("payment", "payment")).unwrap();
    let account = mesh.customer();
    let left = eventually("the second hop is called", async || {
        get_payment(&mesh, &account).await.unwrap_err();
        payments.lists.lock().unwrap().first().copied()
    })
    .await;
    assert!(left <= Duration::from_millis(290), "{left:?}");

    // Where no time is left to answer with, it is not sent on.
    let (mesh, payments) = start_with(settings(9)).await;
    payments.onwards.set(mesh.service("payment", "payment")).unwrap();
    let account = mesh.customer();
    eventually("the first hop is called", async || {
        get_payment(&mesh, &account).await.unwrap_err();
        payments.calls.lock().unwrap().first().map(drop)
    })
    .await;
    assert!(payments.lists.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_a_panic_in_a_handler_is_an_internal_error_and_harms_no_other_call() {
    let (mesh, _) = start().await;
    for _ in 0..3 {
        let status = client(&mesh).pay(pay("panic")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        client(&mesh).pay(pay("orders/1")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_unknown_methods_and_unserved_contexts_are_unimplemented() {
    let (mesh, _) = start().await;
    let mut identity =
        proto::identity::v1::identity_service_client::IdentityServiceClient::new(mesh.stranger());
    let outcome = identity.get_jwks(proto::identity::v1::GetJwksRequest::default()).await;
    assert_eq!(refusal(outcome).0, Code::Unimplemented);
    let mut grpc = tonic::client::Grpc::new(mesh.stranger());
    for path in [
        "/turnstile.payment.v1.PaymentService/Steal",
        "/x",
        "/turnstile.payment.v1.PaymentService/",
    ] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<GetPaymentRequest, GetPaymentResponse>::default();
        let path = path.parse::<http::uri::PathAndQuery>().unwrap();
        let outcome =
            grpc.unary(Request::new(GetPaymentRequest::default()), path.clone(), codec).await;
        assert_eq!(refusal(outcome).0, Code::Unimplemented, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_health_tells_of_each_context_and_of_the_process() {
    let (mesh, _) = start().await;
    let mut health = HealthClient::new(mesh.stranger());
    let mut check = async |service: &str| {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|answer| answer.into_inner().status())
    };
    assert_eq!(check("").await.unwrap(), ServingStatus::Serving);
    assert_eq!(check("payment").await.unwrap(), ServingStatus::Serving);
    assert_eq!(check("nowhere").await.unwrap_err().code(), Code::NotFound);
    mesh.mesh.stop("payment").await;
    assert_eq!(check("payment").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(check("").await.unwrap(), ServingStatus::Serving);
    mesh.restart("payment").await;
    assert_eq!(check("payment").await.unwrap(), ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_reflection_lists_the_services_and_can_be_turned_off() {
    use tonic_reflection::pb::{v1, v1alpha};
    let (mesh, payments) = start().await;
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(mesh.stranger());
    let requests = || futures::stream::iter([request.clone()]);
    let answer = client
        .server_reflection_info(requests())
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"turnstile.payment.v1.PaymentService"), "{names:?}");

    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request_alpha =
        v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut alpha = v1alpha::server_reflection_client::ServerReflectionClient::new(mesh.stranger());
    let answer =
        alpha.server_reflection_info(futures::stream::iter([request_alpha])).await.unwrap();
    assert!(answer.into_inner().message().await.unwrap().is_some());

    drop(mesh);
    let silent =
        TestMesh::start_with(&[payments.context()], |options| options.reflection = false).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(silent.stranger());
    let outcome = client.server_reflection_info(requests()).await.map(|_| ());
    assert_eq!(refusal(outcome).0, Code::Unimplemented);
}

//! What every call passes, whatever serves it.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::Code;

use super::*;
use crate::auth::{MeshKey, Trust, Verifier};
use crate::caller::{CLIENT_ADDRESS, FRONT, SERVICE_HEADER};

const PAY: &str = "turnstile.payment.v1.PaymentService/Pay";
const LIST: &str = "turnstile.payment.v1.PaymentService/ListPayments";

/// The front of a process in which payment does this, and how often it was asked to.
fn front<F>(
    verifier: Verifier,
    work: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> (Front, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send,
{
    front_of(Access::new(Arc::new(verifier), None, true), Limits::default(), work)
}

fn front_of<F>(
    access: Access,
    limits: Limits,
    work: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> (Front, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send,
{
    let metrics = Metrics::new(Contract::ours().unwrap()).unwrap();
    let front = Front::new(access, limits, metrics);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let handler = tower::service_fn(move |_: http::Request<Body>| {
        let (work, count) = (work.clone(), count.clone());
        let answer = async move {
            count.fetch_add(1, Ordering::SeqCst);
            work().await;
            Ok::<_, Infallible>(Status::ok("").into_http())
        };
        answer.boxed()
    });
    let routes = Routes::all(handler);
    front.put("payment", Some(Served { routes, tasks: Tasks::default() }));
    (front, asked)
}

fn nobody() -> Verifier {
    Verifier::new(Trust::default(), None)
}

fn from_outside(method: &str) -> http::Request<Body> {
    http::Request::post(format!("http://payment/{method}")).body(Body::empty()).unwrap()
}

fn within(method: &str) -> http::Request<Body> {
    let mut request = from_outside(method);
    request.extensions_mut().insert(LocalPeer("homemovie.app".into()));
    request
}

async fn ask(front: &Front, request: http::Request<Body>) -> Status {
    let answer = front.serve(request).await;
    Status::from_header_map(answer.headers()).unwrap()
}

#[test]
fn only_grpc_is_taken_for_grpc() {
    let is = |kind: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        is_grpc(&headers)
    };
    assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x"));
    assert!(!is("application/json") && !is("application/grpc-web") && !is(""));
    assert!(!is_grpc(&HeaderMap::new()));
}

#[tokio::test]
async fn t30_a_call_that_comes_too_late_reaches_nobody() {
    let (front, asked) = front(nobody(), || async {});
    assert_eq!(ask(&front, within(PAY)).await.code(), Code::Ok);
    for timeout in ["0m", "00000000H"] {
        let mut request = within(PAY);
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        assert_eq!(ask(&front, request).await.code(), Code::DeadlineExceeded, "{timeout}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn t30_a_call_ends_at_its_deadline_whatever_its_handler_does() {
    let (front, asked) = front(nobody(), || tokio::time::sleep(Duration::from_secs(3600)));
    let begun = Instant::now();
    assert_eq!(ask(&front, within(PAY)).await.code(), Code::DeadlineExceeded);
    // As long as the contract says.
    assert_eq!((begun.elapsed().as_millis() / 10, asked.load(Ordering::SeqCst)), (100, 1));
}

#[tokio::test(start_paused = true)]
async fn t30_finding_out_who_calls_takes_no_longer_than_the_call() {
    let verifier = nobody();
    verifier.read_keys_from(Arc::new(|| Box::pin(std::future::pending())));
    let (front, asked) = front(verifier, || async {});
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"unknown"}"#);
    let mut request = from_outside(LIST);
    let bearer = format!("Bearer {header}.e30.AAAA");
    request.headers_mut().insert(http::header::AUTHORIZATION, bearer.parse().unwrap());
    assert_eq!(ask(&front, request).await.code(), Code::DeadlineExceeded);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn t30_a_context_is_let_in_before_the_new_calls_that_it_passes_on() {
    let key = MeshKey::new("a secret of the mesh that is long enough").unwrap();
    let access = Access::new(Arc::new(nobody()), Some(key.clone()), false);
    let limits = Limits { calls: 2, ..Limits::default() };
    let (front, asked) = front_of(access, limits, || async {});
    let _full = [front.inner.gate.enter(false).unwrap(), front.inner.gate.enter(false).unwrap()];
    let with_token = |method: &str| {
        let mut request = from_outside(method);
        let token = key.sign("homemovie.app", "payment").unwrap();
        request.headers_mut().insert(SERVICE_HEADER, token.parse().unwrap());
        request
    };
    assert_eq!(ask(&front, with_token(LIST)).await.code(), Code::Unavailable);
    assert_eq!(ask(&front, from_outside(PAY)).await.code(), Code::Unavailable);
    assert_eq!(ask(&front, with_token(PAY)).await.code(), Code::Ok);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn t47_a_panic_in_a_handler_is_internal_and_says_nothing() {
    let (front, _) = front(nobody(), || async { panic!("SELECT * FROM secrets") });
    let status = ask(&front, within(PAY)).await;
    assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    assert!(front.is_quiet());
}

#[tokio::test]
async fn t27_what_was_let_in_is_still_served_within_a_process_that_stops() {
    let (front, _) = front(nobody(), || async {});
    front.drain();
    assert_eq!(ask(&front, within(PAY)).await.code(), Code::Ok);
    assert_eq!(ask(&front, from_outside(LIST)).await.code(), Code::Unavailable);
}

#[tokio::test]
async fn s_18_where_a_client_is_is_taken_from_the_front_of_the_mesh_and_from_nobody_else() {
    let key = MeshKey::new("a secret of the mesh that is long enough").unwrap();
    let access = Access::new(Arc::new(nobody()), Some(key.clone()), false);
    let jwks = "turnstile.identity.v1.IdentityService/GetJwks";
    let rule = Contract::ours().unwrap().rule(&format!("/{jwks}")).unwrap();
    let address_seen = async |caller: Option<&str>| {
        let mut request = from_outside(jwks);
        if let Some(caller) = caller {
            let token = key.sign(caller, "identity").unwrap().parse().unwrap();
            request.headers_mut().insert(SERVICE_HEADER, token);
        }
        request.headers_mut().insert(CLIENT_ADDRESS, "10.0.0.7".parse().unwrap());
        access.admit(rule, &request.into_parts().0).await.unwrap()
    };
    let passed_on = address_seen(Some(FRONT)).await;
    assert_eq!(passed_on.address().map(|at| at.to_string()).as_deref(), Some("10.0.0.7"));
    assert_eq!(passed_on.service(), None, "it is the client's call");
    for caller in [None, Some("notice")] {
        assert_eq!(address_seen(caller).await.address(), None, "{caller:?}");
    }
}

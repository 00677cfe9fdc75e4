//! Contexts in different processes that know each other by their certificates.

use std::time::Duration;

use mesh::auth::MeshKey;
use mesh_testing::{
    Authority, DnType, ExtendedKeyUsagePurpose, Files, TestMesh, eventually, refusal, uri,
};
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use crate::edges::{Payments, pay};
use crate::stand_in::*;

async fn callee(payments: &Payments, stores: &Stores, shows: &Files) -> TestMesh {
    TestMesh::start_with(&[payments.context(), stores.source("identity")], |options| {
        options.port_tls = Some(shows.tls());
        options.faces_customers = false;
    })
    .await
}

/// A process that shows this to payment.
async fn caller(there: &TestMesh, shows: &Files) -> TestMesh {
    let address = format!("https://{}", there.address());
    TestMesh::start_with(&[], |options| {
        options.tls = Some(shows.tls());
        options.endpoints.insert("payment".to_owned(), address);
    })
    .await
}

/// Calls payment, as the process with this certificate says that it is `homemovie.app`.
async fn call(there: &TestMesh, shows: &Files) -> Result<(), Status> {
    call_from(&caller(there, shows).await).await
}

async fn call_from(here: &TestMesh) -> Result<(), Status> {
    let channel = here.service("homemovie.app", "payment");
    PaymentServiceClient::new(channel).pay(pay("orders/1")).await.map(drop)
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

#[tokio::test(flavor = "multi_thread")]
async fn s_15_a_caller_is_who_its_certificate_says_and_nobody_else() {
    let (authority, payments, stores) = (Authority::new(), Payments::default(), Stores::default());
    let there = callee(&payments, &stores, &authority.issue("payment")).await;
    call(&there, &authority.issue("homemovie.app")).await.unwrap();
    assert_eq!(payments.calls.lock().unwrap()[0].0, "homemovie.app");
    // It calls itself otherwise, and its certificate has other names, too.
    let named = authority.issue_with("mypage", |params| {
        params.distinguished_name.push(DnType::CommonName, "homemovie-app");
        let dns = "homemovie-app".try_into().unwrap();
        params.subject_alt_names.push(mesh_testing::SanType::DnsName(dns));
    });
    assert_eq!(refusal(call(&there, &named).await).0, Code::PermissionDenied);
    assert_eq!(payments.calls.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn s_15_a_token_makes_nobody_of_who_has_shown_a_certificate() {
    let (authority, payments, stores) = (Authority::new(), Payments::default(), Stores::default());
    let key = || Some(MeshKey::new("a secret of the mesh that is long enough").unwrap());
    let shows = authority.issue("payment");
    let there = TestMesh::start_with(&[payments.context(), stores.source("identity")], |options| {
        (options.mesh_key, options.port_tls) = (key(), Some(shows.tls()));
        options.faces_customers = false;
    })
    .await;
    let (address, shows) = (format!("https://{}", there.address()), authority.issue("mypage"));
    let here = TestMesh::start_with(&[], |options| {
        (options.mesh_key, options.tls) = (key(), Some(shows.tls()));
        options.endpoints.insert("payment".to_owned(), address);
    })
    .await;
    assert_eq!(refusal(call_from(&here).await).0, Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn s_15_who_cannot_show_who_it_is_is_turned_away() {
    let (authority, payments, stores) = (Authority::new(), Payments::default(), Stores::default());
    let shows = authority.issue_with("payment", |params| {
        // So that a client that knows nothing of identities accepts it.
        params
            .subject_alt_names
            .push(mesh_testing::SanType::DnsName("payment".try_into().unwrap()));
    });
    let there = callee(&payments, &stores, &shows).await;
    let app = "homemovie.app";
    let other = Authority::new();
    let bad = [
        // It trusts the right one.
        ("of another authority", Files { authority: shows.authority.clone(), ..other.issue(app) }),
        (
            "expired",
            authority.issue_with("expired", |params| {
                params.subject_alt_names = vec![uri("example.org", app)];
                params.not_after = (mesh::now() - Duration::from_secs(60)).into();
            }),
        ),
        (
            "not good yet",
            authority.issue_with("early", |params| {
                params.subject_alt_names = vec![uri("example.org", app)];
                params.not_before = (mesh::now() + hours(1)).into();
                params.not_after = (mesh::now() + hours(2)).into();
            }),
        ),
        (
            "for servers only",
            authority.issue_with("server", |params| {
                params.subject_alt_names = vec![uri("example.org", app)];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
    ];
    for (what, shows) in &bad {
        let outcome = call(&there, shows).await;
        assert_eq!(refusal(outcome).1, "PAYMENT_BUSY", "{what}");
    }
    let ca = std::fs::read_to_string(&shows.authority).unwrap();
    let one_way =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("payment");
    let endpoint = Endpoint::from_shared(format!("https://{}", there.address())).unwrap();
    let nobody = endpoint.tls_config(one_way).unwrap().connect_lazy();
    PaymentServiceClient::new(nobody).pay(pay("orders/1")).await.unwrap_err();
    PaymentServiceClient::new(there.stranger()).pay(pay("orders/1")).await.unwrap_err();
    assert!(payments.calls.lock().unwrap().is_empty());
    call(&there, &authority.issue(app)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s_15_nothing_is_sent_to_who_cannot_show_that_it_is_the_callee() {
    let (authority, payments) = (Authority::new(), Payments::default());
    let app = authority.issue("homemovie.app");
    let bad = [
        ("somebody else", authority.issue("mypage")),
        (
            "expired",
            authority.issue_with("payment", |params| {
                params.not_after = (mesh::now() - Duration::from_secs(60)).into();
            }),
        ),
        (
            "for clients only",
            authority.issue_with("client", |params| {
                params.subject_alt_names = vec![uri("example.org", "payment")];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
        (
            "of another mesh",
            authority.issue_with("other", |params| {
                params.subject_alt_names = vec![uri("example.com", "payment")];
            }),
        ),
    ];
    for (what, shows) in &bad {
        let there = callee(&payments, &Stores::default(), shows).await;
        let outcome = call(&there, &app).await;
        assert!(mesh::client::is_certainly_not_sent(outcome.as_ref().unwrap_err()), "{what}");
    }
    assert!(payments.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn s_15_a_certificate_that_names_nobody_or_two_is_no_identity() {
    let authority = Authority::new();
    let nobody = authority.issue_with("nobody", |params| params.subject_alt_names.clear());
    let two = authority.issue_with("two", |params| {
        params.subject_alt_names.push(uri("example.org", "payment"));
    });
    for files in [nobody, two] {
        let tls = mesh::tls::Tls::mutual(&files.certificate, &files.key, &files.authority);
        let error = tls.unwrap_err().to_string();
        assert!(error.contains("exactly one URI"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_17_a_new_certificate_is_used_without_a_restart() {
    let (authority, payments, stores) = (Authority::new(), Payments::default(), Stores::default());
    let app = authority.issue("homemovie.app");
    let files = authority.issue("payment");
    let there = callee(&payments, &stores, &files).await;
    let connected = caller(&there, &app).await;
    call_from(&connected).await.unwrap();
    // From now on it shows that it is somebody else, to who connects anew.
    let other = authority.issue("mypage");
    std::fs::copy(&other.certificate, &files.certificate).unwrap();
    std::fs::copy(&other.key, &files.key).unwrap();
    eventually("the new one is shown", async || call(&there, &app).await.err()).await;
    call_from(&connected).await.unwrap();
    // Half of a certificate is none: the one before stays.
    std::fs::write(&files.key, "rubbish").unwrap();
    call(&there, &app).await.unwrap_err();
    authority.issue("payment");
    eventually("and the next one", async || call(&there, &app).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_01_a_port_for_customers_shows_a_certificate_and_asks_for_none() {
    let (authority, payments) = (Authority::new(), Payments::default());
    let files = authority.issue_with("front", |params| {
        params.subject_alt_names =
            vec![mesh_testing::SanType::DnsName("example.org".try_into().unwrap())];
    });
    let tls = mesh::tls::Tls::one_way(&files.certificate, &files.key).unwrap();
    let mesh = TestMesh::start_with(&[payments.context()], |options| {
        options.port_tls = Some(std::sync::Arc::new(tls));
    })
    .await;
    let ca = std::fs::read_to_string(&files.authority).unwrap();
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("example.org");
    let endpoint = Endpoint::from_shared(format!("https://{}", mesh.address())).unwrap();
    let customer = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let outcome = PaymentServiceClient::new(customer).pay(pay("orders/1")).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unimplemented, "for services only");
    let in_the_clear = PaymentServiceClient::new(mesh.stranger()).pay(pay("orders/1")).await;
    assert_ne!(in_the_clear.unwrap_err().code(), Code::Unimplemented);
}

//! What the program tells of itself: traces, metrics, probes and logs, and what must never be in them.

mod common;

use std::collections::BTreeSet;

use common::collector::Collector;
use common::{PASSWORD, Up, customer, run, sign_in, turnstile, with_token};
use mesh_testing::{eventually, get, metric, request_id};
use opentelemetry_proto::tonic::trace::v1::Span;
use proto::common::v1::Money;
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::identity::v1 as identity;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mypage::v1::ListMyOrdersRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::notice::v1::ListNoticesRequest;
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::outerpark::musical::v1::RegisterMusicalRequest;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1::ReserveRequest;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Request};

const ADMIN: (&str, &str) = ("TURNSTILE_ADMIN_LISTEN", "127.0.0.1:0");
const PICK: &str = "turnstile.homemovie.app.v1.MovieApplicationService/PickMovie";
const PAY: &str = "turnstile.payment.v1.PaymentService/Pay";

async fn pick(channel: &Channel, token: &str, trace: Option<u128>) -> app::MovieApplication {
    let movies = MovieServiceClient::new(channel.clone());
    eventually("a film is picked", async || {
        let listed = movies.clone().list_movies(ListMoviesRequest::default()).await;
        let movie =
            listed.expect("films").into_inner().movies.first().expect("a film").name.clone();
        let mut request =
            with_token(token, app::PickMovieRequest { request_id: request_id(), movie });
        if let Some(trace) = trace {
            let traceparent = format!("00-{trace:032x}-00000000000000aa-01");
            request.metadata_mut().insert("traceparent", traceparent.parse().expect("a header"));
        }
        let answer = MovieApplicationServiceClient::new(channel.clone()).pick_movie(request).await;
        // Until the desk has heard of the film.
        Some(answer.ok()?.into_inner().movie_application.expect("an application"))
    })
    .await
}

/// Waits until my page shows an order in this state.
async fn until_shown(channel: &Channel, token: &str, state: &str) {
    eventually(&format!("my page shows {state}"), async || {
        let request = with_token(token, ListMyOrdersRequest::default());
        let answer = MyPageServiceClient::new(channel.clone()).list_my_orders(request).await;
        let orders = answer.expect("orders").into_inner().my_orders;
        orders.iter().any(|order| order.state == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_one_trace_shows_pick_pay_order_and_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let (collector, endpoint) = Collector::start().await;
    let up = Up::start_with(folder.path(), &[("TURNSTILE_OTLP_ENDPOINT", &endpoint)]).await;
    let channel = up.connect().await;
    let token = customer(&channel, "a@example.org").await;
    let trace = 0x1234_5678_9abc_def0_1234_5678_9abc_def0;
    pick(&channel, &token, Some(trace)).await;
    until_shown(&channel, &token, "MOVIE_ORDERED").await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");

    let spans = collector.spans_of(trace);
    let mut ordered = Vec::new();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    // What a span is a part of, from its own name up to the call that began it all.
    let path = |span: &Span| {
        let mut path = vec![span.name.clone()];
        let mut parent = span.parent_span_id.clone();
        while let Some(above) = spans.iter().find(|above| above.span_id == parent) {
            path.push(above.name.clone());
            parent = above.parent_span_id.clone();
        }
        (path, parent)
    };
    for expected in [
        vec![PICK],
        vec!["charge by the provider", PAY, PAY, PICK],
        vec!["homemovie.movie/whenever_movie_picked", PICK],
        vec!["homemovie.app/whenever_movie_ordered", "homemovie.movie/whenever_movie_picked", PICK],
        vec!["mypage/whenever_payment_approved@1", PAY, PAY, PICK],
        vec!["mypage/whenever_movie_picked@1", PICK],
        vec!["mypage/whenever_movie_ordered@1", "homemovie.movie/whenever_movie_picked", PICK],
    ] {
        let found = spans.iter().find(|span| path(span).0 == expected);
        let span = found.unwrap_or_else(|| panic!("{expected:?} is not among {names:?}"));
        assert_eq!(
            path(span).1,
            0xaa_u64.to_be_bytes(),
            "{expected:?} begins where the client says"
        );
        ordered.push(span.start_time_unix_nano);
    }
    assert!(ordered.iter().all(|time| *time >= ordered[0]), "the pick is first");
}

fn calls(method: &str, code: &str) -> String {
    format!(
        "rpc_server_call_duration_seconds_count{{rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_the_truth_and_their_page_in_the_docs_lists_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start_with(folder.path(), &[ADMIN]).await;
    let channel = up.connect().await;
    let token = customer(&channel, "a@example.org").await;
    for _ in 0..5 {
        pick(&channel, &token, None).await;
    }
    let nobodys = Request::new(app::PickMovieRequest::default());
    let refused = MovieApplicationServiceClient::new(channel.clone()).pick_movie(nobodys).await;
    assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
    let (status, page) = get(up.admin(), "/metrics").await;
    assert_eq!(status, 200);
    assert_eq!(metric(&page, &calls(PICK, "OK")), Some(5.0), "{page}");
    assert_eq!(metric(&page, &calls(PAY, "OK")), Some(5.0), "{page}");
    assert_eq!(metric(&page, &calls(PICK, "UNAUTHENTICATED")), Some(1.0), "{page}");
    let refusals = "mesh_refusals_total{context=\"homemovie.app\",reason=\"UNAUTHENTICATED\"}";
    assert_eq!(metric(&page, refusals), Some(1.0), "{page}");
    let sent = "mesh_edge_sent_total{edge=\"homemovie.app->payment\"}";
    assert_eq!(metric(&page, sent), Some(5.0), "{page}");
    assert_eq!(metric(&page, "mesh_panics_total"), Some(0.0), "{page}");

    let told: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, _)| name.to_owned())
        .collect();
    let docs = include_str!("../../../docs/telemetry.md");
    let (_, listed) = docs.split_once("## Metrics").expect("a list");
    let documented: BTreeSet<_> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['{', '`']).next())
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(told, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn g14_the_probes_answer_for_every_context() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start_with(folder.path(), &[ADMIN]).await;
    assert_eq!(get(up.admin(), "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(get(up.admin(), "/readyz").await, (200, "ready\n".to_owned()));
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_admin_port_may_be_taken_but_not_one_that_was_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (free, other) = (("TURNSTILE_ADMIN_LISTEN", "127.0.0.1:0"), tempfile::tempdir());
    let up = Up::start_with(folder.path(), &[free]).await;
    let taken = up.admin().to_string();
    let mut second = turnstile();
    second.args(["up", "--listen", "127.0.0.1:0", "--admin-listen", &taken, "--data"]);
    let refused = run(second.arg(other.expect("a folder").path())).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("choose another with --admin-listen"),
        "{said}"
    );

    // By this test, or by somebody else.
    let _taken = TcpListener::bind("127.0.0.1:9090").await;
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start_without_settings(folder.path()).await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("no admin port on 127.0.0.1:9090"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_keeps_nobody_from_stopping() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nobody listens on the port of tcpmux.
    let nobody = ("TURNSTILE_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let up = Up::start_with(folder.path(), &[nobody]).await;
    let channel = up.connect().await;
    let token = customer(&channel, "a@example.org").await;
    pick(&channel, &token, None).await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("the collector does not take spans"), "{said}");
    let checked = run(turnstile().arg("check-config").env(nobody.0, "collector:4317")).await;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains(nobody.0), "{said}");
}

/// Answers every request with 200, and counts them.
async fn webhook() -> (String, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
                count.send_modify(|count| *count += 1);
            }
        }
    });
    (url, counted)
}

// Nobody else says "canary".
const EMAIL: &str = "canary.of.the.mine@example.org";
const NAME: &str = "Canary Displayname";
const SECRET: &str = "canary-password-one";
const WRONG_SECRET: &str = "canary-password-two";
const BAD_EMAIL: &str = "canary bad email";
const BAD_TOKEN: &str = "canary-is-no-token";
const HOOK_SECRET: &str = "canary-webhook-secret";

/// A customer's whole life, good and bad; returns every secret that came of it.
async fn live(channel: &Channel) -> Vec<String> {
    let mut accounts = IdentityServiceClient::new(channel.clone());
    let mut sign_up = identity::SignUpRequest {
        email: BAD_EMAIL.to_owned(),
        password: SECRET.to_owned(),
        display_name: NAME.to_owned(),
        ..identity::SignUpRequest::default()
    };
    accounts.sign_up(sign_up.clone()).await.expect_err("not an address");
    sign_up.email = EMAIL.to_owned();
    accounts.sign_up(sign_up.clone()).await.expect("signed up");
    accounts.sign_up(sign_up).await.expect_err("there is one");
    let sign_in_as = |password: &str| identity::SignInRequest {
        email: EMAIL.to_owned(),
        password: password.to_owned(),
    };
    accounts.sign_in(sign_in_as(WRONG_SECRET)).await.expect_err("the wrong password");
    let first = accounts.sign_in(sign_in_as(SECRET)).await.expect("signed in").into_inner().tokens;
    let first = first.expect("tokens");
    let refresh = identity::RefreshTokenRequest { refresh_token: first.refresh_token.clone() };
    let second = accounts.refresh_token(refresh).await.expect("refreshed").into_inner().tokens;
    let second = second.expect("tokens");
    let token = second.access_token.clone();
    let mut secrets = vec![first.refresh_token, second.refresh_token.clone()];
    for token in [&first.access_token, &token] {
        // The header of a token is that of any other.
        secrets.extend(token.split('.').skip(1).map(ToOwned::to_owned));
    }

    pick(channel, &token, None).await;
    until_shown(channel, &token, "MOVIE_ORDERED").await;
    reserve(channel, &token).await;
    let bad = app::PickMovieRequest { request_id: NAME.to_owned(), movie: EMAIL.to_owned() };
    let mut applications = MovieApplicationServiceClient::new(channel.clone());
    applications.pick_movie(with_token(&token, bad.clone())).await.expect_err("a bad request");
    applications.pick_movie(with_token(BAD_TOKEN, bad)).await.expect_err("a bad token");
    let sign_out = identity::SignOutRequest { refresh_token: second.refresh_token };
    accounts.sign_out(sign_out).await.expect("signed out");
    secrets
}

/// Reserves a seat, and waits until it is paid and the customer is told.
async fn reserve(channel: &Channel, token: &str) {
    let admin = sign_in(channel, "admin@localhost", PASSWORD).await;
    let later = mesh::now() + std::time::Duration::from_secs(30 * 24 * 60 * 60);
    let request = RegisterMusicalRequest {
        request_id: request_id(),
        musical_number: 1,
        title: "Frozen".to_owned(),
        performance_time: Some(later.into()),
        price_per_seat: Some(Money { currency_code: "KRW".to_owned(), minor_units: 50_000 }),
        total_seats: 10,
        ..RegisterMusicalRequest::default()
    };
    let musicals = MusicalServiceClient::new(channel.clone())
        .register_musical(with_token(&admin, request))
        .await
        .expect("registered");
    let musical = musicals.into_inner().musical.expect("a musical").name;
    eventually("seats are reserved", async || {
        let request =
            ReserveRequest { request_id: request_id(), musical: musical.clone(), seats: 2 };
        let mut reservations = ReservationServiceClient::new(channel.clone());
        reservations.reserve(with_token(token, request)).await.ok()
    })
    .await;
    eventually("the customer is told", async || {
        let request = with_token(token, ListNoticesRequest::default());
        let answer = NoticeServiceClient::new(channel.clone()).list_notices(request).await;
        let notices = answer.expect("notices").into_inner().notices;
        (!notices.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_30_nothing_of_a_customer_and_no_secret_is_in_logs_traces_or_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    let (collector, endpoint) = Collector::start().await;
    let (hook, mut told) = webhook().await;
    let ours = [
        "mesh",
        "turnstile",
        "identity",
        "payment",
        "notice",
        "mypage",
        "homemovie_app",
        "homemovie_movie",
        "outerpark_musical",
        "outerpark_reservation",
        "trace",
    ];
    let log = ours.map(|ours| format!("{ours}=trace")).join(",") + ",info";
    let settings = [
        ADMIN,
        ("TURNSTILE_LOG", log.as_str()),
        ("TURNSTILE_OTLP_ENDPOINT", &endpoint),
        ("TURNSTILE_NOTICE_WEBHOOK_URL", &hook),
        ("TURNSTILE_NOTICE_WEBHOOK_SECRET", HOOK_SECRET),
        // Nobody listens on the port of tcpmux: mail fails, with the address at hand.
        ("TURNSTILE_NOTICE_SMTP_URL", "smtp://127.0.0.1:1"),
        ("TURNSTILE_NOTICE_MAIL_FROM", "notices@example.org"),
    ];
    let up = Up::start_with(folder.path(), &settings).await;
    let channel = up.connect().await;
    let secrets = live(&channel).await;
    told.wait_for(|posts| *posts > 0).await.expect("a webhook that is called");
    eventually("a mail has failed", async || {
        up.said().contains("a notice is tried again").then_some(())
    })
    .await;
    let (_, page) = get(up.admin(), "/metrics").await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");

    let traces = collector.text();
    for (what, text, known) in [
        ("logs", &said, "homemovie.movie/whenever_movie_picked"),
        ("traces", &traces, "charge by the provider"),
        ("metrics", &page, PAY),
    ] {
        assert!(text.contains(known), "the {what} tell nothing: {text}");
        assert!(!text.to_lowercase().contains("canary"), "a canary is in the {what}: {text}");
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} is in the {what}: {text}");
        }
    }
}

//! The program as its users run it: as a process that starts, is killed, starts again, and says what is wrong.

mod common;

use std::time::{Duration, Instant};

use common::{PASSWORD, Up, customer, run, sign_in, turnstile, with_token};
use mesh_testing::{eventually, request_id};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::mesh::v1::ListIntentsRequest;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mypage::v1::WatchMyOrdersRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn pick(channel: &Channel, token: &str) -> Result<app::MovieApplication, tonic::Status> {
    let movies =
        MovieServiceClient::new(channel.clone()).list_movies(ListMoviesRequest::default()).await?;
    let movie = movies.into_inner().movies.first().expect("a film").name.clone();
    let request = app::PickMovieRequest { request_id: request_id(), movie };
    let answer = MovieApplicationServiceClient::new(channel.clone())
        .pick_movie(with_token(token, request))
        .await?;
    Ok(answer.into_inner().movie_application.expect("an application"))
}

#[tokio::test]
async fn g2_kill_9_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let token = customer(&up.connect().await, "a@example.org").await;
    let mut up = Some(up);
    let mut picked = Vec::new();
    for _ in 0..3 {
        let running = up.take().expect("it runs");
        let channel = running.connect().await;
        for _ in 0..5 {
            let application =
                eventually("a pick is answered", || async { pick(&channel, &token).await.ok() })
                    .await;
            picked.push(application.name);
        }
        running.kill().await;
        up = Some(Up::start(folder.path()).await);
    }
    let up = up.expect("it runs");
    let channel = up.connect().await;
    for name in &picked {
        eventually(&format!("{name} is ordered"), || async {
            let request = app::GetMovieApplicationRequest { name: name.clone() };
            let mut client = MovieApplicationServiceClient::new(channel.clone());
            let answer = client
                .get_movie_application(with_token(&token, request))
                .await
                .expect("it is there");
            let application = answer.into_inner().movie_application.expect("an application");
            (application.state() == State::MovieOrdered).then_some(())
        })
        .await;
    }
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
}

#[tokio::test]
async fn gw_8_sigterm_ends_streams_and_exits_0() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let channel = up.connect().await;
    let token = customer(&channel, "a@example.org").await;
    let application =
        eventually("a pick is answered", || async { pick(&channel, &token).await.ok() }).await;
    let request = app::WatchMovieApplicationRequest {
        name: application.name,
        resume_revision: String::new(),
    };
    let mut client = MovieApplicationServiceClient::new(channel);
    let mut stream = client
        .watch_movie_application(with_token(&token, request))
        .await
        .expect("a stream")
        .into_inner();
    assert!(stream.message().await.expect("a state").is_some());
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.expect_err("a hint to come again").code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn t27_a_call_that_is_under_way_is_answered_before_the_process_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let slow = [
        ("TURNSTILE_PAYMENT_DELAY_MS", "500-500"),
        ("TURNSTILE_EDGE_HOMEMOVIE_APP_PAYMENT_TIMEOUT_MS", "1000"),
    ];
    let up = Up::start_with(folder.path(), &slow).await;
    let channel = up.connect().await;
    let token = customer(&channel, "a@example.org").await;
    let admin = sign_in(&channel, "admin@localhost", PASSWORD).await;
    let begin = || {
        let (channel, token) = (channel.clone(), token.clone());
        tokio::spawn(async move { pick(&channel, &token).await })
    };
    let mut under_way = begin();
    eventually("a payment is under way", async || {
        if under_way.is_finished() {
            under_way = begin();
        }
        let mut operations = OperationsServiceClient::new(channel.clone());
        let request = with_token(&admin, ListIntentsRequest::default());
        let intents = operations.list_intents(request).await.expect("a list").into_inner().intents;
        (!intents.is_empty()).then_some(())
    })
    .await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    // On a machine that is busy the payment may be, too: that is an answer as well.
    let answer = under_way.await.expect("a task").map_err(|status| mesh::reason_of(&status));
    let busy = Err(Some("PAYMENT_BUSY".to_owned()));
    assert!(answer.is_ok() || answer == busy, "{answer:?}");
}

#[tokio::test]
async fn t27_a_stop_waits_for_nobody_who_is_silent_idle_or_never_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let channel = up.connect().await;
    let token = customer(&channel, "a@example.org").await;
    // Nothing is ever said on this one.
    let silent = TcpStream::connect(&up.address).await.expect("a connection");
    // This one says that it is a client, and then neither calls nor answers.
    let mut idle = TcpStream::connect(&up.address).await.expect("a connection");
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle.write_all(hello).await.expect("a preface");
    // And these streams are open, read by nobody.
    let mut pages = MyPageServiceClient::new(channel);
    let request = || with_token(&token, WatchMyOrdersRequest::default());
    let open = [
        pages.watch_my_orders(request()).await.expect("a stream"),
        pages.watch_my_orders(request()).await.expect("a stream"),
    ];
    let begun = Instant::now();
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    // A second or two; the grace for calls is 15 s, and there are none.
    assert!(begun.elapsed() < Duration::from_secs(12), "it took {:?}", begun.elapsed());
    assert!(!said.contains("were cut"), "{said}");
    drop((silent, idle, open));
}

#[tokio::test]
async fn every_context_that_has_a_contract_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let mut health = HealthClient::new(up.connect().await);
    let contract = mesh::contract::Contract::ours().expect("contracts");
    for rule in contract.rules().filter(|rule| rule.context != "mesh") {
        let request = HealthCheckRequest { service: rule.context.clone() };
        let answer = health
            .check(request)
            .await
            .unwrap_or_else(|status| panic!("{}: {status}", rule.context));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{}", rule.context);
    }
    up.terminate().await;
}

#[tokio::test]
async fn id_5_the_first_start_makes_an_admin_and_the_second_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..2 {
        let up = Up::start(folder.path()).await;
        sign_in(&up.connect().await, "admin@localhost", PASSWORD).await;
        up.terminate().await;
    }
}

#[tokio::test]
async fn a_taken_port_and_a_folder_in_use_are_said_clearly() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let other = tempfile::tempdir().expect("a folder");
    let taken =
        run(turnstile().args(["up", "--listen", &up.address, "--data"]).arg(other.path())).await;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && said.contains("is taken by another program"), "{said}");
    let used =
        run(turnstile().args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path())).await;
    let said = String::from_utf8_lossy(&used.stderr).into_owned();
    assert!(!used.status.success() && said.contains("in use by another process"), "{said}");
}

#[tokio::test]
async fn everything_wrong_with_the_settings_is_said_at_once() {
    let checked = run(turnstile()
        .arg("check-config")
        .env("TURNSTILE_LISTEN", "nowhere")
        .env("TURNSTILE_PAYMENT_DELAY_MS", "soon")
        .env("TURNSTILE_PAYMENT_DELYA_MS", "1"))
    .await;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success());
    for name in ["TURNSTILE_LISTEN", "TURNSTILE_PAYMENT_DELAY_MS", "TURNSTILE_PAYMENT_DELYA_MS"] {
        assert!(said.contains(name), "{said}");
    }
    let good = run(turnstile().arg("check-config")).await;
    let shown = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(
        good.status.success() && shown.contains("TURNSTILE_LISTEN") && !shown.contains(PASSWORD),
        "{shown}"
    );
}

/// What is on the command line is in every list of processes.
#[tokio::test]
async fn s_32_no_secret_is_given_by_a_flag() {
    for command in ["", "up", "serve", "front", "demo", "events", "intents", "check-config"] {
        let arguments = [command, "--help"].into_iter().filter(|argument| !argument.is_empty());
        let help = run(turnstile().args(arguments)).await;
        let shown = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success() && shown.contains("--help"), "{shown}");
        let flags = shown.split_whitespace().filter(|word| word.starts_with("--"));
        for flag in flags {
            let secret =
                ["password", "secret", "token", "key"].iter().any(|word| flag.contains(word));
            assert!(!secret, "{command}: {flag}");
        }
    }
}

#[tokio::test]
async fn the_demo_plays_to_its_end_alone_and_against_a_target() {
    for system in ["homemovie", "outerpark"] {
        let alone = run(turnstile().args(["demo", system, "--seconds", "0"])).await;
        let shown = String::from_utf8_lossy(&alone.stdout).into_owned();
        assert!(
            alone.status.success() && shown.contains("all as it should be"),
            "{shown}{:?}",
            alone.stderr
        );
    }

    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start(folder.path()).await;
    let target = format!("http://{}", up.address);
    let there = run(turnstile().args(["demo", "homemovie", "--target", &target])).await;
    let shown = String::from_utf8_lossy(&there.stdout).into_owned();
    assert!(there.status.success() && shown.contains("left out"), "{shown}{:?}", there.stderr);
    for action in [vec!["events", "parked"], vec!["intents"], vec!["policies"], vec!["edges"]] {
        let looked = run(turnstile().args(&action).args(["--target", &target])).await;
        assert!(looked.status.success(), "{action:?}: {}", String::from_utf8_lossy(&looked.stderr));
    }
    let trim = ["events", "trim", "--keep-days", "0", "--target", &target];
    let unnamed = run(turnstile().args(trim)).await;
    let said = String::from_utf8_lossy(&unnamed.stderr).into_owned();
    assert!(!unnamed.status.success() && said.contains("--context homemovie.app"), "{said}");
    let trimmed = run(turnstile().args(trim).args(["--context", "homemovie.app"])).await;
    let shown = String::from_utf8_lossy(&trimmed.stdout).into_owned();
    assert!(trimmed.status.success() && shown.contains(" removed; "), "{shown}");
    assert!(shown.contains("homemovie.movie/whenever_movie_picked"), "{shown}");
    up.terminate().await;
    let nobody = run(turnstile().args(["demo", "homemovie", "--target", &target])).await;
    assert!(
        !nobody.status.success()
            && String::from_utf8_lossy(&nobody.stderr).contains("nothing answers at")
    );
}

//! The program as its users run it: as a process that starts, is killed, starts again, and says what is wrong.

mod common;

use common::{PASSWORD, Up, customer, run, sign_in, turnstile, with_token};
use mesh_testing::{eventually, request_id};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::movie::v1::ListMoviesRequest;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
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
    up.terminate().await;
    let nobody = run(turnstile().args(["demo", "homemovie", "--target", &target])).await;
    assert!(
        !nobody.status.success()
            && String::from_utf8_lossy(&nobody.stderr).contains("nothing answers at")
    );
}

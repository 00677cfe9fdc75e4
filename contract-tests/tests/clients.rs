//! What clients of a running system are promised, whatever happens to the system meanwhile.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::sync::{Arc, Mutex};

use contract_tests::homemovie::Homemovie;
use futures::{Stream, StreamExt as _};
use mesh_client::{News, SignedIn, follow};
use mesh_testing::{Account, TestMesh, eventually, request_id};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::identity::v1 as api;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use tonic::{Request, Status};

fn read(told: &app::WatchMovieApplicationResponse) -> News {
    match &told.movie_application {
        None => News::Heartbeat,
        Some(application) if told.r#final => News::Final(application.revision.clone()),
        Some(application) => News::State(application.revision.clone()),
    }
}

/// The states of an application, as its customer follows them.
fn states(
    customer: &Account,
    name: &str,
) -> impl Stream<Item = Result<(String, State), Status>> + use<> {
    let (client, name) = (MovieApplicationServiceClient::new(customer.connect()), name.to_owned());
    let open = move |resume_revision| {
        let request = app::WatchMovieApplicationRequest { name: name.clone(), resume_revision };
        let mut client = client.clone();
        async move { client.watch_movie_application(request).await }
    };
    follow(open, read).map(|told| {
        let application = told?.movie_application.unwrap();
        Ok((application.revision.clone(), application.state()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn g18_an_application_is_followed_across_restarts_of_its_context_and_of_the_port() {
    let home = Homemovie::start().await;
    let picked = home.pick().await.unwrap();
    home.until(&picked.name, State::MovieOrdered).await;
    // A port of its own, that can be closed.
    let port = home.mesh.mesh.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = port.address();
    let customer = Account::of(&home.customer.token, home.customer.id, address);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (told, stream) = (seen.clone(), states(&customer, &picked.name));
    let following = tokio::spawn(stream.for_each(move |state| {
        told.lock().unwrap().push(state.unwrap());
        std::future::ready(())
    }));
    let until_seen = async |count: usize| {
        eventually("states", async || (seen.lock().unwrap().len() >= count).then_some(())).await;
    };
    until_seen(1).await;

    home.mesh.mesh.crash("homemovie.app").await;
    port.close().await;
    home.mesh.restart("homemovie.app").await;
    // It goes on while nobody can see it.
    home.watch(&picked.name).await.unwrap();
    home.until(&picked.name, State::MovieWatched).await;
    let port = home.mesh.mesh.listen(address).await.unwrap();
    eventually("it has ended", async || following.is_finished().then_some(())).await;
    following.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let revision = |sequence: u64| format!("{}@{sequence}", picked.name);
    assert_eq!(
        seen,
        [(revision(2), State::MovieOrdered), (revision(3), State::MovieWatched)],
        "none is missed and none is told twice"
    );
    drop(port);
}

#[tokio::test(flavor = "multi_thread")]
async fn t18_what_a_command_calls_once_is_retried_though_the_command_has_a_retry_owner() {
    let home = Homemovie::start().await;
    home.mesh.mesh.faults().break_calls("Pay", 1);
    let mut request = Request::new(app::PickMovieRequest {
        request_id: request_id(),
        movie: home.film.name.clone(),
    });
    request.metadata_mut().insert("turnstile-retry-owner", "gateway".parse().unwrap());
    home.app().pick_movie(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stays_signed_in_when_its_access_token_ends() {
    let contexts = [identity::context(identity::Settings::default())];
    let mesh = TestMesh::start(&contexts).await;
    mesh.mesh.read_keys_from(identity::keys_of(&mesh.mesh).unwrap());
    let mut open = IdentityServiceClient::new(mesh.stranger());
    let (email, password) = ("ann@example.org".to_owned(), "long enough".to_owned());
    let sign_up = api::SignUpRequest {
        email: email.clone(),
        password: password.clone(),
        ..Default::default()
    };
    open.sign_up(sign_up).await.unwrap();
    let (name, ann) = SignedIn::sign_in(&mesh.stranger(), &email, &password).await.unwrap();
    let who = async |somebody: &SignedIn| {
        let answer = IdentityServiceClient::new(somebody.clone())
            .get_my_account(api::GetMyAccountRequest {})
            .await;
        answer.map(|answer| answer.into_inner().account.unwrap().name)
    };
    assert_eq!(who(&ann).await.unwrap(), name);

    let sign_in = api::SignInRequest { email, password };
    let tokens = open.sign_in(sign_in).await.unwrap().into_inner().tokens.unwrap();
    let ended = api::Tokens {
        access_token: "of yesterday".to_owned(),
        access_token_expire_time: Some(mesh::now().into()),
        ..tokens
    };
    let again = SignedIn::with(&mesh.stranger(), ended).unwrap();
    assert_eq!(who(&again).await.unwrap(), name, "it was renewed first");
    assert_eq!(who(&again).await.unwrap(), name);
}

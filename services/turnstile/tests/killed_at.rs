//! The program kills itself at a step that its environment names, as kill -9 does, and goes on from there when it is
//! started again. (Every step of every context dies within one process in the kill matrix of `contract-tests`.)

mod common;

use std::sync::{Arc, Mutex};

use common::{Now, Up, answer, customer, film, with_token};
use contract_tests::invariants::{HOMEMOVIE, Stores};
use mesh_testing::{eventually, request_id};
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::app::v1::{
    CancelMovieApplicationRequest, MovieApplication, PickMovieRequest,
};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// What heals it is quick.
const WORLD: [(&str, &str); 3] = [
    ("TURNSTILE_LOG", "off"),
    ("TURNSTILE_PAYMENT_SWEEP_AFTER", "1"),
    ("TURNSTILE_SAGA_SWEEP_AFTER_SECONDS", "1"),
];

/// What a customer wants: a film, and then not.
#[derive(Clone)]
struct Wish {
    token: String,
    pick: PickMovieRequest,
    cancel: CancelMovieApplicationRequest,
}

impl Wish {
    async fn of(channel: &Channel) -> Self {
        let token = customer(channel, "a@example.org").await;
        let movie = film(channel.clone()).await;
        Self {
            token,
            pick: PickMovieRequest { request_id: request_id(), movie },
            cancel: CancelMovieApplicationRequest { request_id: request_id(), name: String::new() },
        }
    }

    async fn pick(&self, channel: Channel) -> Result<Response<MovieApplication>, Status> {
        let request = with_token(&self.token, self.pick.clone());
        let answer = MovieApplicationServiceClient::new(channel).pick_movie(request).await?;
        Ok(answer.map(|answer| answer.movie_application.expect("an application")))
    }

    async fn cancel(&self, channel: Channel, name: &str) -> Result<Response<()>, Status> {
        let request =
            CancelMovieApplicationRequest { name: name.to_owned(), ..self.cancel.clone() };
        let request = with_token(&self.token, request);
        let mut desk = MovieApplicationServiceClient::new(channel);
        Ok(desk.cancel_movie_application(request).await?.map(drop))
    }
}

#[tokio::test]
async fn f_01_a_process_that_dies_at_a_step_goes_on_from_there() {
    let steps = [
        "saga.kept:1",
        "saga.called:1",
        "saga.registered:1",
        "command.after:1",
        "calling.before_call:1",
        "calling.after_call:1",
    ];
    for step in steps {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = WORLD.to_vec();
        settings.push(("TURNSTILE_KILL_AT", step));
        let up = Up::start_with(folder.path(), &settings).await;
        let channel = up.connect().await;
        let wish = Wish::of(&channel).await;
        if let Ok(picked) = wish.pick(channel.clone()).await {
            let _ = wish.cancel(channel, &picked.into_inner().name).await;
        }
        assert_eq!(up.killed_by().await, Some(9), "{step}");

        let up = Up::start_with(folder.path(), &WORLD).await;
        let now: Now = Arc::new(Mutex::new(up.connect().await));
        let name = answer(&now, |channel| wish.pick(channel)).await.expect("picked").name;
        answer(&now, |channel| wish.cancel(channel, &name)).await.expect("cancelled");
        let stores = Stores::open(folder.path(), &HOMEMOVIE);
        eventually("everything has come to its end", async || {
            assert!(stores.broken().is_empty(), "{step}: {:?}", stores.broken());
            stores.unfinished().is_empty().then_some(())
        })
        .await;
        assert_eq!(stores.orders(), [name].into(), "{step}: one request, one order");
        assert_eq!(stores.orders(), stores.cancelled(), "{step}");
        assert!(stores.effects().iter().all(|effect| effect.starts_with("shown")), "{step}");
        assert!(stores.faults().is_empty(), "{step}: {:?}", stores.faults());
        up.kill().await;
    }
}

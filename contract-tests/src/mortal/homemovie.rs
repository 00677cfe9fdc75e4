//! Films that are bought, watched, cancelled and declined while somebody dies.

use mesh_testing::{TestMesh, request_id};
use proto::homemovie::app::v1 as app;
use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::movie::v1 as movie;
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use tokio::sync::Notify;
use tonic::Status;

use super::saga::Desk;
use super::{Mortal, Told, answer, follow, provider, quick};
use crate::homemovie::Homemovie;
use crate::invariants::{HOMEMOVIE, Laws};

/// The provider declines films that cost more.
const MOST: i64 = 8_000;
/// Of three orders one at least is sent three times in vain: nobody knows what became of it, and it is undone.
const BREAKS: u32 = 7;

impl Mortal for Homemovie {
    const NAME: &'static str = "homemovie";
    const LAWS: &'static Laws = &HOMEMOVIE;

    async fn begin() -> Self {
        let mut home = Self::start_with(provider(MOST), quick).await;
        home.film = home.film_where(|price| price <= MOST).await;
        home
    }

    fn mesh(&self) -> &TestMesh {
        &self.mesh
    }

    async fn play(&self, told: &Told) {
        self.mesh.mesh.faults().break_replies("Pay", BREAKS);
        let watches = async {
            let name = self.order(told).await;
            self.until(&name, State::MovieOrdered).await;
            let request =
                movie::WatchMovieRequest { request_id: request_id(), movie_application: name };
            let watched = answer(async || self.movies().watch_movie(request.clone()).await);
            watched.await.expect("watched");
        };
        let cancels = async {
            let name = self.order(told).await;
            let request =
                app::CancelMovieApplicationRequest { request_id: request_id(), name: name.clone() };
            let seen = Notify::new();
            let cancelled = async {
                seen.notified().await;
                let cancelled =
                    answer(async || self.app().cancel_movie_application(request.clone()).await);
                cancelled.await.expect("cancelled");
                told.cancelled(&name);
            };
            tokio::join!(cancelled, self.follow(&name, &seen));
        };
        let is_declined = async {
            let movie = self.film_where(|price| price > MOST).await.name;
            let request = app::PickMovieRequest { request_id: request_id(), movie };
            let declined = answer(async || self.app().pick_movie(request.clone()).await);
            declined.await.expect_err("it is too dear");
        };
        tokio::join!(watches, cancels, is_declined);
    }
}

impl Desk for Homemovie {
    const DESK: &'static str = "homemovie.app";
    const CALL: &'static str = "Pay";

    async fn order_once(&self, request_id: &str) -> Result<String, Status> {
        Ok(self.pick_with(request_id).await?.name)
    }
}

impl Homemovie {
    /// Some film of such a price.
    async fn film_where(&self, fits: impl Fn(i64) -> bool) -> movie::Movie {
        let request = movie::ListMoviesRequest::default();
        let films = answer(async || {
            MovieServiceClient::new(self.mesh.stranger()).list_movies(request.clone()).await
        });
        let films = films.await.expect("films").into_inner().movies;
        let fits = |film: &movie::Movie| film.price.as_ref().is_some_and(|it| fits(it.minor_units));
        films.into_iter().find(fits).expect("a film of such a price")
    }

    /// Picks the film, however long that takes.
    async fn order(&self, told: &Told) -> String {
        let id = request_id();
        let name = answer(async || self.order_once(&id).await).await.expect("picked");
        told.ordered(&name);
        name
    }

    async fn follow(&self, name: &str, seen: &Notify) {
        let open = async |resume_revision| {
            let request =
                app::WatchMovieApplicationRequest { name: name.to_owned(), resume_revision };
            self.app().watch_movie_application(request).await
        };
        follow(seen, open, |told| Some((told.movie_application?.revision, told.r#final))).await;
    }
}

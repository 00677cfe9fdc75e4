//! The calls of `MovieApplicationService`.

use mesh::watch::{WatchStream, follow};
use mesh::{Caller, Check, Kit, Saga, Store};
use proto::homemovie::app::v1 as api;
use proto::homemovie::app::v1::movie_application_service_server::MovieApplicationService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::domain::Application;
use crate::pick::PickMovie;
use crate::store;
use crate::wire::Followed;

pub(crate) struct Applications {
    store: Store,
    pick: Saga<PickMovie>,
    stopping: CancellationToken,
}

impl Applications {
    pub(crate) fn new(kit: &Kit, pick: Saga<PickMovie>) -> Self {
        Self { store: kit.store(), pick, stopping: kit.stopping() }
    }
}

#[tonic::async_trait]
impl MovieApplicationService for Applications {
    async fn pick_movie(
        &self,
        request: Request<api::PickMovieRequest>,
    ) -> Result<Response<api::PickMovieResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::command(&request);
        let movie = check.id("movie", &request.movie);
        check.finish()?;

        let answer = self.pick.run(&caller, &request, move |tx| {
            let film = store::film(tx, movie)?;
            let application = Application::pick(film, customer, tx.now())?;
            Ok((&application).into())
        });
        Ok(Response::new(answer.await?))
    }

    async fn cancel_movie_application(
        &self,
        request: Request<api::CancelMovieApplicationRequest>,
    ) -> Result<Response<api::CancelMovieApplicationResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::command(&request);
        let id = check.id("name", &request.name);
        check.finish()?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut application = store::own(tx, customer, id)?;
            application.cancel()?;
            application.revision =
                tx.publish(id, id, &api::MovieAppCancelled::from(&application))?;
            store::save(tx, &application)?;
            Ok(api::CancelMovieApplicationResponse {
                movie_application: Some((&application).into()),
            })
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_movie_application(
        &self,
        request: Request<api::GetMovieApplicationRequest>,
    ) -> Result<Response<api::GetMovieApplicationResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;

        let application = self.store.look_up(move |conn| store::own(conn, customer, id)).await?;
        Ok(Response::new(api::GetMovieApplicationResponse {
            movie_application: Some((&application).into()),
        }))
    }

    async fn list_movie_applications(
        &self,
        request: Request<api::ListMovieApplicationsRequest>,
    ) -> Result<Response<api::ListMovieApplicationsResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let list = format!("movieApplications of {customer}");
        let page = self.store.page(&mut check, &list, request.page_size, 50, &request.page_token);
        check.finish()?;

        let wanted = page.clone();
        let applications =
            self.store.read(move |conn| store::list(conn, customer, &wanted)).await?;
        let (applications, next_page_token) =
            page.cut(applications, |application| application.id.to_string());
        let movie_applications = applications.iter().map(Into::into).collect();
        Ok(Response::new(api::ListMovieApplicationsResponse {
            movie_applications,
            next_page_token,
        }))
    }

    type WatchMovieApplicationStream = WatchStream<api::WatchMovieApplicationResponse>;

    async fn watch_movie_application(
        &self,
        request: Request<api::WatchMovieApplicationRequest>,
    ) -> Result<Response<Self::WatchMovieApplicationStream>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        let resume = check.revision("resume_revision", &request.resume_revision);
        check.finish()?;

        let application = self.store.look_up(move |conn| store::own(conn, customer, id)).await?;
        let followed = Followed(application);
        Ok(Response::new(follow(&self.store, self.stopping.clone(), followed, &resume)?))
    }
}

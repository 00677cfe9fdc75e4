//! The calls of `MovieService`.

use mesh::{Accounts, Caller, Check, Id, Store};
use proto::homemovie::movie::v1 as api;
use proto::homemovie::movie::v1::movie_service_server::MovieService;
use tonic::{Request, Response, Status};

use crate::domain::{Movie, MovieApplications};
use crate::store;

pub(crate) struct Movies {
    store: Store,
}

impl Movies {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

#[tonic::async_trait]
impl MovieService for Movies {
    async fn register_movie(
        &self,
        request: Request<api::RegisterMovieRequest>,
    ) -> Result<Response<api::RegisterMovieResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let title = check.text("title", &request.title, 1..=200);
        let price = check.price("price", request.price.as_ref());
        let media = check.text("media", &request.media, 0..=1000);
        check.finish()?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut movie = Movie::register(title, price, media, tx.now());
            movie.revision = tx.publish(movie.id, movie.id, &api::MovieRegistered::from(&movie))?;
            store::add_movie(tx, &movie)?;
            Ok(api::RegisterMovieResponse { movie: Some(movie.into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn reprice_movie(
        &self,
        request: Request<api::RepriceMovieRequest>,
    ) -> Result<Response<api::RepriceMovieResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let id = check.id("name", &request.name);
        let price = check.price("price", request.price.as_ref());
        check.finish()?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut movie = store::movie(tx, id)?;
            movie.reprice(price)?;
            movie.revision = tx.publish(id, id, &api::MovieRepriced::from(&movie))?;
            store::save_movie(tx, &movie)?;
            Ok(api::RepriceMovieResponse { movie: Some(movie.into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn withdraw_movie(
        &self,
        request: Request<api::WithdrawMovieRequest>,
    ) -> Result<Response<api::WithdrawMovieResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let id = check.id("name", &request.name);
        check.finish()?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut movie = store::movie(tx, id)?;
            movie.withdraw()?;
            movie.revision = tx.publish(id, id, &api::MovieWithdrawn::from(&movie))?;
            store::save_movie(tx, &movie)?;
            Ok(api::WithdrawMovieResponse { movie: Some(movie.into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_movie(
        &self,
        request: Request<api::GetMovieRequest>,
    ) -> Result<Response<api::GetMovieResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;

        let movie = self.store.look_up(move |conn| store::movie(conn, id)).await?;
        Ok(Response::new(api::GetMovieResponse { movie: Some(movie.into()) }))
    }

    async fn list_movies(
        &self,
        request: Request<api::ListMoviesRequest>,
    ) -> Result<Response<api::ListMoviesResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::new();
        let page =
            self.store.page(&mut check, "movies", request.page_size, 50, &request.page_token);
        check.finish()?;

        let wanted = page.clone();
        let movies = self.store.read(move |conn| store::movies(conn, &wanted)).await?;
        let (movies, next_page_token) = page.cut(movies, |movie| movie.id.to_string());
        let movies = movies.into_iter().map(Into::into).collect();
        Ok(Response::new(api::ListMoviesResponse { movies, next_page_token }))
    }

    async fn watch_movie(
        &self,
        request: Request<api::WatchMovieRequest>,
    ) -> Result<Response<api::WatchMovieResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::command(&request);
        let application = check.id("movie_application", &request.movie_application);
        check.finish()?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut purchase = store::purchase(tx, customer, application)?;
            if purchase.watch()? {
                let watched = api::MovieWatched::from(&purchase);
                purchase.revision = tx.publish(purchase.id, application, &watched)?;
                store::save_purchase(tx, &purchase)?;
            }
            let media = store::movie(tx, purchase.movie)?.media;
            Ok(api::WatchMovieResponse { movie_purchase: Some(purchase.into()), media })
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_movie_purchase(
        &self,
        request: Request<api::GetMoviePurchaseRequest>,
    ) -> Result<Response<api::GetMoviePurchaseResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer: Id<Accounts> = caller.account()?;
        let mut check = Check::new();
        let application: Id<MovieApplications> =
            check.id("movie_application", &request.movie_application);
        check.finish()?;

        let purchase =
            self.store.read(move |conn| store::purchase(conn, customer, application)).await?;
        Ok(Response::new(api::GetMoviePurchaseResponse { movie_purchase: Some(purchase.into()) }))
    }
}

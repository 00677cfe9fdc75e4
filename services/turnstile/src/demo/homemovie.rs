//! The film purchase, from sign-up to refund.

use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::app::v1::movie_application_service_client::MovieApplicationServiceClient;
use proto::homemovie::app::v1::{CancelMovieApplicationRequest, WatchMovieApplicationRequest};
use proto::homemovie::movie::v1::movie_service_client::MovieServiceClient;
use proto::homemovie::movie::v1::{ListMoviesRequest, WatchMovieRequest};
use proto::payment::v1::payment;

use super::{Stage, expect, my_page, payment_of, saw};
use crate::client::{self, Failure, SignedIn, pick, request_id};

/// Plays the script of the film purchase.
pub(super) async fn play(stage: &Stage) -> Result<(), Failure> {
    let (account, customer) = client::new_customer(&stage.channel, "demo").await?;
    saw(1, "sign up, sign in", &account);

    let movies = MovieServiceClient::new(stage.channel.clone())
        .list_movies(ListMoviesRequest::default())
        .await?;
    let movie = movies
        .into_inner()
        .movies
        .into_iter()
        .next()
        .ok_or("there is no film: start without --empty")?;
    let first = pick(&customer, &movie.name).await?;
    saw(2, &format!("PickMovie \"{}\"", movie.title), &first.name);

    let states = follow(&customer, &first.name, State::MovieOrdered).await?;
    saw(3, "the application, followed", states.join(" -> "));
    let row = my_page(&customer, &first.name, "MOVIE_ORDERED", "APPROVED").await?;
    saw(3, "my page", format_args!("{}, payment {}", row.state, row.payment_state));

    let paid = payment_of(&customer, &first.name, payment::State::Approved).await?;
    let amount = paid.amount.unwrap_or_default();
    saw(4, "payment", format_args!("APPROVED, {} {}", amount.minor_units, amount.currency_code));

    let watch =
        WatchMovieRequest { request_id: request_id(), movie_application: first.name.clone() };
    let purchase = MovieServiceClient::new(customer.clone()).watch_movie(watch).await?.into_inner();
    let states = follow(&customer, &first.name, State::MovieWatched).await?;
    let row = my_page(&customer, &first.name, "MOVIE_WATCHED", "APPROVED").await?;
    let bought = purchase.movie_purchase.unwrap_or_default();
    expect(
        states.last().is_some_and(|state| state == "MOVIE_WATCHED"),
        "the application ends watched",
    )?;
    saw(
        5,
        "WatchMovie",
        format_args!("purchase {:?}, application and my page {}", bought.state(), row.state),
    );

    let second = pick(&customer, &movie.name).await?;
    let cancel =
        CancelMovieApplicationRequest { request_id: request_id(), name: second.name.clone() };
    MovieApplicationServiceClient::new(customer.clone()).cancel_movie_application(cancel).await?;
    let states = follow(&customer, &second.name, State::MovieCancelled).await?;
    saw(6, "a second pick, then a cancel", states.join(" -> "));

    payment_of(&customer, &second.name, payment::State::Cancelled).await?;
    let row = my_page(&customer, &second.name, "MOVIE_CANCELLED", "CANCELLED").await?;
    saw(
        7,
        "its payment",
        format_args!("CANCELLED; my page {}, payment {}", row.state, row.payment_state),
    );

    Ok(())
}

/// The states that an application takes until it is in `until`.
async fn follow(customer: &SignedIn, name: &str, until: State) -> Result<Vec<String>, Failure> {
    let request =
        WatchMovieApplicationRequest { name: name.to_owned(), resume_revision: String::new() };
    let mut stream = MovieApplicationServiceClient::new(customer.clone())
        .watch_movie_application(request)
        .await?
        .into_inner();
    let mut states = Vec::new();
    while let Some(told) = stream.message().await? {
        let Some(application) = told.movie_application else { continue };
        states.push(application.state().as_str_name().trim_start_matches("STATE_").to_owned());
        if application.state() == until {
            return Ok(states);
        }
    }
    Err(format!("{name} ended in {}", states.join(" -> ")).into())
}

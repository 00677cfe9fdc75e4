//! Whenever the film's side decides something, the application and its money follow.

use mesh::client::Channel;
use mesh::{Error, Event, Policy, Result, Tx, calling, whenever};
use proto::homemovie::app::v1::MovieApplicationAdvanced;
use proto::homemovie::movie::v1::{
    MovieCancelRefused, MovieCancelled, MovieOrdered, MovieRegistered, MovieRepriced, MovieWatched,
    MovieWithdrawn,
};
use proto::payment::v1::payment_service_client::PaymentServiceClient;

use crate::domain::{Film, State};
use crate::{pick, store};

type Payment = PaymentServiceClient<Channel>;

pub(crate) fn policies(payment: Payment) -> [Policy; 5] {
    [
        whenever("keep title and price", whenever_movie_registered)
            .or(whenever_movie_repriced)
            .or(whenever_movie_withdrawn)
            .from_start(),
        whenever("the application takes that state", whenever_movie_ordered)
            .or(whenever_movie_watched)
            .from_start(),
        whenever("the application is cancelled", whenever_movie_cancelled).from_start(),
        calling("give the money back", payment, whenever_movie_cancelled_refund).from_start(),
        whenever("the application was watched after all", whenever_movie_cancel_refused)
            .from_start(),
    ]
}

fn whenever_movie_registered(tx: &mut Tx<'_>, event: &Event<MovieRegistered>) -> Result<()> {
    let price = event.price.clone().unwrap_or_default().into();
    let id = event.movie.parse().map_err(Error::internal)?;
    store::add_film(tx, Film { id, title: event.title.clone(), price, withdrawn: false })
}

fn whenever_movie_repriced(tx: &mut Tx<'_>, event: &Event<MovieRepriced>) -> Result<()> {
    let price = event.price.clone().unwrap_or_default().into();
    store::reprice_film(tx, event.movie.parse().map_err(Error::internal)?, price)
}

fn whenever_movie_withdrawn(tx: &mut Tx<'_>, event: &Event<MovieWithdrawn>) -> Result<()> {
    store::withdraw_film(tx, event.movie.parse().map_err(Error::internal)?)
}

fn whenever_movie_ordered(tx: &mut Tx<'_>, event: &Event<MovieOrdered>) -> Result<()> {
    advance(tx, &event.movie_application, State::Ordered)
}

fn whenever_movie_watched(tx: &mut Tx<'_>, event: &Event<MovieWatched>) -> Result<()> {
    advance(tx, &event.movie_application, State::Watched)
}

fn whenever_movie_cancelled(tx: &mut Tx<'_>, event: &Event<MovieCancelled>) -> Result<()> {
    advance(tx, &event.movie_application, State::Cancelled)
}

async fn whenever_movie_cancelled_refund(
    mut payment: Payment,
    event: Event<MovieCancelled>,
) -> Result<()> {
    payment
        .cancel_payment(pick::cancel(&event.movie_application, &event.customer, "ORDER_CANCELLED"))
        .await?;
    Ok(())
}

fn whenever_movie_cancel_refused(tx: &mut Tx<'_>, event: &Event<MovieCancelRefused>) -> Result<()> {
    advance(tx, &event.movie_application, State::Watched)
}

/// Lets an application take a state, and tells it where it is news.
fn advance(tx: &mut Tx<'_>, application: &str, to: State) -> Result<()> {
    let mut application = store::load(tx, application.parse().map_err(Error::internal)?)?;
    if application.advance(to) {
        let advanced = MovieApplicationAdvanced::from(&application);
        application.revision = tx.publish(application.id, application.id, &advanced)?;
        store::save(tx, &application)?;
    }
    Ok(())
}

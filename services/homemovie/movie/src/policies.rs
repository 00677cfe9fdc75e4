//! Whenever something happens to an application, the purchase follows.

use mesh::{Error, Event, Policy, Result, Tx, whenever};
use proto::homemovie::app::v1::{MovieAppCancelled, MoviePicked};
use proto::homemovie::movie::v1 as api;

use crate::domain::{Cancel, Purchase};
use crate::store;

pub(crate) fn policies() -> [Policy; 2] {
    [
        whenever("order the film", whenever_movie_picked).from_start(),
        whenever("cancel the purchase unless it was watched", whenever_movie_app_cancelled)
            .from_start(),
    ]
}

fn whenever_movie_picked(tx: &mut Tx<'_>, event: &Event<MoviePicked>) -> Result<()> {
    let application = event.movie_application.parse().map_err(Error::internal)?;
    // A cancel that came first has left a purchase, and wins.
    if store::purchase_of(tx, application)?.is_some() {
        return Ok(());
    }
    let customer = event.customer.parse().map_err(Error::internal)?;
    let movie = event.movie.parse().map_err(Error::internal)?;
    let mut purchase = Purchase::order(application, customer, movie, tx.now());
    purchase.revision =
        tx.publish(purchase.id, application, &api::MovieOrdered::from(&purchase))?;
    store::add_purchase(tx, &purchase)
}

fn whenever_movie_app_cancelled(tx: &mut Tx<'_>, event: &Event<MovieAppCancelled>) -> Result<()> {
    let application = event.movie_application.parse().map_err(Error::internal)?;
    let known = store::purchase_of(tx, application)?;
    let is_new = known.is_none();
    let mut purchase = match known {
        Some(purchase) => purchase,
        None => {
            let customer = event.customer.parse().map_err(Error::internal)?;
            Purchase::order(
                application,
                customer,
                event.movie.parse().map_err(Error::internal)?,
                tx.now(),
            )
        }
    };
    purchase.revision = match purchase.cancel() {
        Cancel::Cancelled => {
            tx.publish(purchase.id, application, &api::MovieCancelled::from(&purchase))?
        }
        Cancel::Refused => {
            tx.publish(purchase.id, application, &api::MovieCancelRefused::from(&purchase))?
        }
        Cancel::Repeated => return Ok(()),
    };
    if is_new { store::add_purchase(tx, &purchase) } else { store::save_purchase(tx, &purchase) }
}

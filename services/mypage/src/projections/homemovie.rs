//! Film purchase: an application is the order; what happens to its purchase is told in the history.

use mesh::{Error, Event, Policy, Result, Tx, whenever};
use proto::homemovie::app::v1::movie_application::State;
use proto::homemovie::app::v1::{MovieAppCancelled, MovieApplicationAdvanced, MoviePicked};
use proto::homemovie::movie::v1::{MovieCancelRefused, MovieCancelled, MovieOrdered, MovieWatched};

use crate::domain::{Placed, Ranks};
use crate::store::{apply, tell};

const SYSTEM: &str = "homemovie";
/// The collection of its orders.
pub(super) const ORDERS: &str = "movieApplications";

/// Where an application may stand.
const STATES: Ranks = Ranks(&[
    &["MOVIE_PICKED"],
    &["MOVIE_ORDERED"],
    &["MOVIE_APP_CANCELLED"],
    &["MOVIE_WATCHED", "MOVIE_CANCELLED"],
]);

pub(crate) fn policies() -> [Policy; 2] {
    [
        whenever("show the application and where it stands", whenever_movie_picked)
            .or(whenever_movie_app_cancelled)
            .or(whenever_movie_application_advanced)
            .from_start(),
        whenever("tell in the history what happened to the purchase", whenever_movie_ordered)
            .or(whenever_movie_watched)
            .or(whenever_movie_cancelled)
            .or(whenever_movie_cancel_refused)
            .from_start(),
    ]
}

fn whenever_movie_picked(tx: &mut Tx<'_>, event: &Event<MoviePicked>) -> Result<()> {
    let price =
        event.price.clone().ok_or_else(|| Error::internal("a film was picked without a price"))?;
    let placed = Placed {
        system: SYSTEM,
        customer: event.customer.clone(),
        title: event.movie_title.clone(),
        quantity: 1,
        amount: price.into(),
        time: event.time,
    };
    apply(tx, event, &event.movie_application, &event.customer, |order| {
        order.place(placed);
        order.advance(&STATES, word(State::MoviePicked));
    })
}

fn whenever_movie_app_cancelled(tx: &mut Tx<'_>, event: &Event<MovieAppCancelled>) -> Result<()> {
    apply(tx, event, &event.movie_application, &event.customer, |order| {
        order.advance(&STATES, word(State::MovieAppCancelled));
    })
}

fn whenever_movie_application_advanced(
    tx: &mut Tx<'_>,
    event: &Event<MovieApplicationAdvanced>,
) -> Result<()> {
    // A state that only a newer release knows: better parked, and replayed by that release, than shown wrong.
    let state = State::try_from(event.data.state).map_err(Error::internal)?;
    apply(tx, event, &event.movie_application, &event.customer, |order| {
        order.advance(&STATES, word(state))
    })
}

fn whenever_movie_ordered(tx: &mut Tx<'_>, event: &Event<MovieOrdered>) -> Result<()> {
    tell(tx, event, &event.movie_application, &event.customer)
}

fn whenever_movie_watched(tx: &mut Tx<'_>, event: &Event<MovieWatched>) -> Result<()> {
    tell(tx, event, &event.movie_application, &event.customer)
}

fn whenever_movie_cancelled(tx: &mut Tx<'_>, event: &Event<MovieCancelled>) -> Result<()> {
    tell(tx, event, &event.movie_application, &event.customer)
}

fn whenever_movie_cancel_refused(tx: &mut Tx<'_>, event: &Event<MovieCancelRefused>) -> Result<()> {
    tell(tx, event, &event.movie_application, &event.customer)
}

/// A state in the system's own word.
fn word(state: State) -> &'static str {
    state.as_str_name().trim_start_matches("STATE_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_an_application_has_a_rank() {
        let states = (1..).map_while(|number| State::try_from(number).ok());
        let unranked: Vec<_> = states
            .map(word)
            .filter(|state| !STATES.0.iter().any(|equals| equals.contains(state)))
            .collect();
        assert!(unranked.is_empty(), "{unranked:?}");
    }
}

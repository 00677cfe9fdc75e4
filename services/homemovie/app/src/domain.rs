//! An application and the way it goes; what is known of films.

use std::time::SystemTime;

use mesh::{Accounts, Collection, Id, Money};

/// `movieApplications`: the customers' orders.
#[derive(Debug)]
pub(crate) enum MovieApplications {}

impl Collection for MovieApplications {
    const NAME: &'static str = "movieApplications";
}

/// `movies`: the catalogue, which belongs to `homemovie.movie`.
#[derive(Debug)]
pub(crate) enum Movies {}

impl Collection for Movies {
    const NAME: &'static str = "movies";
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} is not for sale any more")]
    MovieWithdrawn(Id<Movies>),
    #[error("{0} was watched and cannot be cancelled any more")]
    AlreadyWatched(Id<MovieApplications>),
    #[error("{0} was cancelled before")]
    AlreadyCancelled(Id<MovieApplications>),
    #[error("the payment was declined")]
    PaymentDeclined(Id<MovieApplications>),
}

/// What is known here of a film.
#[derive(Debug, Clone)]
pub(crate) struct Film {
    pub(crate) id: Id<Movies>,
    pub(crate) title: String,
    pub(crate) price: Money,
    pub(crate) withdrawn: bool,
}

/// Where an application stands, in rank order: a later state is never left for an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Paid and registered.
    Picked,
    /// The film is ready to be watched.
    Ordered,
    /// A cancel was asked for.
    CancelAsked,
    /// Final.
    Watched,
    /// Final.
    Cancelled,
}

impl State {
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Watched | Self::Cancelled)
    }
}

/// A customer's order of one film.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    pub(crate) id: Id<MovieApplications>,
    pub(crate) customer: Id<Accounts>,
    pub(crate) movie: Id<Movies>,
    pub(crate) movie_title: String,
    pub(crate) price: Money,
    pub(crate) state: State,
    pub(crate) created: SystemTime,
    /// How many facts have been told of it.
    pub(crate) revision: i64,
}

impl Application {
    /// Orders a film, at the price it has now.
    pub(crate) fn pick(
        film: Film,
        customer: Id<Accounts>,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        if film.withdrawn {
            return Err(Refusal::MovieWithdrawn(film.id));
        }
        Ok(Self {
            id: Id::new(),
            customer,
            movie: film.id,
            movie_title: film.title,
            price: film.price,
            state: State::Picked,
            created: now,
            revision: 0,
        })
    }

    /// Asks for a cancel. Whether it comes in time is decided where the film is watched.
    pub(crate) fn cancel(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Picked | State::Ordered => {
                self.state = State::CancelAsked;
                Ok(())
            }
            State::CancelAsked | State::Cancelled => Err(Refusal::AlreadyCancelled(self.id)),
            State::Watched => Err(Refusal::AlreadyWatched(self.id)),
        }
    }

    /// Takes the state that the film's side decided; whether that is news. What comes late changes nothing.
    pub(crate) fn advance(&mut self, to: State) -> bool {
        let news = !self.state.is_final() && to > self.state;
        if news {
            self.state = to;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 5] =
        [State::Picked, State::Ordered, State::CancelAsked, State::Watched, State::Cancelled];

    fn film() -> Film {
        Film {
            id: Id::new(),
            title: "Frozen".to_owned(),
            price: Money::new("KRW", 9_000),
            withdrawn: false,
        }
    }

    fn application(state: State) -> Application {
        let picked = Application::pick(film(), Id::new(), SystemTime::UNIX_EPOCH).unwrap();
        Application { state, ..picked }
    }

    #[test]
    fn g8_the_price_is_the_catalogues() {
        let application = application(State::Picked);
        assert_eq!(application.price, Money::new("KRW", 9_000));
    }

    #[test]
    fn a_withdrawn_film_cannot_be_picked() {
        let film = Film { withdrawn: true, ..film() };
        let id = film.id;
        let refused = Application::pick(film, Id::new(), SystemTime::UNIX_EPOCH).unwrap_err();
        assert_eq!(refused, Refusal::MovieWithdrawn(id));
    }

    #[test]
    fn a_cancel_can_be_asked_for_until_it_is_watched() {
        for state in STATES {
            let mut application = application(state);
            let expected = match state {
                State::Picked | State::Ordered => Ok(()),
                State::Watched => Err(Refusal::AlreadyWatched(application.id)),
                State::CancelAsked | State::Cancelled => {
                    Err(Refusal::AlreadyCancelled(application.id))
                }
            };
            assert_eq!(application.cancel(), expected, "{state:?}");
        }
    }

    #[test]
    fn g7_an_application_never_goes_back() {
        for from in STATES {
            for to in STATES {
                let mut application = application(from);
                let news = application.advance(to);
                assert!(application.state >= from, "{from:?} -> {to:?}");
                assert_eq!(news, application.state != from);
            }
        }
    }

    #[test]
    fn hm_f5_watched_may_come_before_ordered() {
        let mut application = application(State::Picked);
        assert!(application.advance(State::Watched));
        assert!(!application.advance(State::Ordered));
        assert_eq!(application.state, State::Watched);
    }

    #[test]
    fn hm_f8_a_cancel_that_came_too_late_ends_watched() {
        let mut application = application(State::CancelAsked);
        assert!(application.advance(State::Watched));
        assert!(!application.advance(State::Cancelled));
    }
}

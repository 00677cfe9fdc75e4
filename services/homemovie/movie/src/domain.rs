//! Films and purchases: what may happen to them, and what may not.

use std::time::SystemTime;

use mesh::{Accounts, Collection, Id, Money};

/// `movies`: the catalogue.
#[derive(Debug)]
pub(crate) enum Movies {}

impl Collection for Movies {
    const NAME: &'static str = "movies";
}

/// `moviePurchases`: the copies that were bought.
#[derive(Debug)]
pub(crate) enum MoviePurchases {}

impl Collection for MoviePurchases {
    const NAME: &'static str = "moviePurchases";
}

/// `movieApplications`: the customers' orders, which belong to `homemovie.app`.
#[derive(Debug)]
pub(crate) enum MovieApplications {}

impl Collection for MovieApplications {
    const NAME: &'static str = "movieApplications";
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} is not for sale any more")]
    MovieWithdrawn(Id<Movies>),
    #[error("the purchase of {0} was cancelled")]
    PurchaseCancelled(Id<MovieApplications>),
}

/// A film in the catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Movie {
    pub(crate) id: Id<Movies>,
    pub(crate) title: String,
    pub(crate) price: Money,
    pub(crate) media: String,
    pub(crate) withdrawn: bool,
    pub(crate) created: SystemTime,
    /// How many facts have been told of it.
    pub(crate) revision: i64,
}

impl Movie {
    /// A film that comes into the catalogue.
    pub(crate) fn register(title: String, price: Money, media: String, now: SystemTime) -> Self {
        Self { id: Id::new(), title, price, media, withdrawn: false, created: now, revision: 0 }
    }

    /// Makes it cost something else, for those who pick it from now on.
    pub(crate) fn reprice(&mut self, price: Money) -> Result<(), Refusal> {
        self.must_be_for_sale()?;
        self.price = price;
        Ok(())
    }

    /// Takes it off sale. Who bought it may still watch it.
    pub(crate) fn withdraw(&mut self) -> Result<(), Refusal> {
        self.must_be_for_sale()?;
        self.withdrawn = true;
        Ok(())
    }

    fn must_be_for_sale(&self) -> Result<(), Refusal> {
        if self.withdrawn { Err(Refusal::MovieWithdrawn(self.id)) } else { Ok(()) }
    }
}

/// Where a purchase stands, in rank order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PurchaseState {
    Ordered,
    Watched,
    Cancelled,
}

/// The copy that one application bought.
#[derive(Debug, Clone)]
pub(crate) struct Purchase {
    pub(crate) id: Id<MoviePurchases>,
    pub(crate) application: Id<MovieApplications>,
    pub(crate) customer: Id<Accounts>,
    pub(crate) movie: Id<Movies>,
    pub(crate) state: PurchaseState,
    pub(crate) created: SystemTime,
    /// How many facts have been told of it.
    pub(crate) revision: i64,
}

/// What became of a wish to cancel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    Cancelled,
    /// It was watched: too late.
    Refused,
    /// It was cancelled before: nothing new.
    Repeated,
}

impl Purchase {
    /// A copy that is ready to be watched.
    pub(crate) fn order(
        application: Id<MovieApplications>,
        customer: Id<Accounts>,
        movie: Id<Movies>,
        now: SystemTime,
    ) -> Self {
        Self {
            id: Id::new(),
            application,
            customer,
            movie,
            state: PurchaseState::Ordered,
            created: now,
            revision: 0,
        }
    }

    /// Lets the buyer watch; whether it was the first time.
    pub(crate) fn watch(&mut self) -> Result<bool, Refusal> {
        match self.state {
            PurchaseState::Ordered => {
                self.state = PurchaseState::Watched;
                Ok(true)
            }
            PurchaseState::Watched => Ok(false),
            PurchaseState::Cancelled => Err(Refusal::PurchaseCancelled(self.application)),
        }
    }

    /// Decides a wish to cancel.
    pub(crate) fn cancel(&mut self) -> Cancel {
        match self.state {
            PurchaseState::Ordered => {
                self.state = PurchaseState::Cancelled;
                Cancel::Cancelled
            }
            PurchaseState::Watched => Cancel::Refused,
            PurchaseState::Cancelled => Cancel::Repeated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movie() -> Movie {
        Movie::register(
            "Frozen".to_owned(),
            Money::new("KRW", 9_000),
            String::new(),
            SystemTime::UNIX_EPOCH,
        )
    }

    fn purchase() -> Purchase {
        Purchase::order(Id::new(), Id::new(), Id::new(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_film_can_be_repriced_until_it_is_withdrawn() {
        let mut movie = movie();
        assert_eq!(movie.reprice(Money::new("KRW", 5_000)), Ok(()));
        assert_eq!(movie.price.minor_units, 5_000);
        assert_eq!(movie.withdraw(), Ok(()));
        assert_eq!(movie.reprice(Money::new("KRW", 1)), Err(Refusal::MovieWithdrawn(movie.id)));
        assert_eq!(movie.withdraw(), Err(Refusal::MovieWithdrawn(movie.id)));
    }

    #[test]
    fn who_bought_may_watch_again() {
        let mut purchase = purchase();
        assert_eq!(purchase.watch(), Ok(true));
        assert_eq!(purchase.watch(), Ok(false));
    }

    #[test]
    fn a_cancelled_film_cannot_be_watched() {
        let mut purchase = purchase();
        assert_eq!(purchase.cancel(), Cancel::Cancelled);
        assert_eq!(purchase.watch(), Err(Refusal::PurchaseCancelled(purchase.application)));
        assert_eq!(purchase.cancel(), Cancel::Repeated);
    }

    #[test]
    fn hm_f8_a_watched_film_cannot_be_cancelled() {
        let mut purchase = purchase();
        purchase.watch().unwrap();
        assert_eq!(purchase.cancel(), Cancel::Refused);
        assert_eq!(purchase.state, PurchaseState::Watched);
    }
}

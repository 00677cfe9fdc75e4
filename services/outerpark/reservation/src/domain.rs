//! A reservation and the way it goes; what a cancellation gives back.

use std::time::{Duration, SystemTime};

use mesh::{Accounts, Collection, Id, Money};

/// `musicalReservations`: the customers' orders.
#[derive(Debug)]
pub(crate) enum MusicalReservations {}

impl Collection for MusicalReservations {
    const NAME: &'static str = "musicalReservations";
}

/// `musicals`: the performances, which belong to `outerpark.musical`.
#[derive(Debug)]
pub(crate) enum Musicals {}

impl Collection for Musicals {
    const NAME: &'static str = "musicals";
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("fewer seats are free in {0} than were asked for")]
    NotEnoughSeats(Id<Musicals>),
    #[error("{0} is not for sale now")]
    NotOnSale(Id<Musicals>),
    #[error(
        "a customer may hold {most} seats in {musical} that are not paid yet, and these would be more"
    )]
    TooManyHeld { musical: Id<Musicals>, most: i64 },
    #[error("{0} is not live any more")]
    NotLive(Id<MusicalReservations>, State),
    #[error("the quote does not hold for {0} (any more)")]
    QuoteInvalid(Id<MusicalReservations>),
}

/// What is known here of a performance.
#[derive(Debug, Clone)]
pub(crate) struct Performance {
    pub(crate) id: Id<Musicals>,
    pub(crate) title: String,
    pub(crate) price: Money,
    pub(crate) time: SystemTime,
    pub(crate) withdrawn: bool,
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Seats are held, the payment has not come.
    SeatsReserved,
    /// Paid.
    PaymentApproved,
    /// Final.
    PaymentDeclined,
    /// Final.
    Expired,
    /// Final.
    Cancelled,
}

impl State {
    /// Whether no state comes after it. A paid one may still be cancelled.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::PaymentDeclined | Self::Expired | Self::Cancelled)
    }
}

/// A customer's seats in one performance.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) id: Id<MusicalReservations>,
    pub(crate) customer: Id<Accounts>,
    pub(crate) musical: Id<Musicals>,
    pub(crate) musical_title: String,
    /// When it is played: what the fee depends on.
    pub(crate) performance: SystemTime,
    pub(crate) seats: i32,
    pub(crate) amount: Money,
    pub(crate) state: State,
    /// Whether it was ever paid, whatever came of it.
    pub(crate) confirmed: bool,
    pub(crate) hold_expires: SystemTime,
    pub(crate) created: SystemTime,
    /// How many facts have been told of it.
    pub(crate) revision: i64,
}

impl Reservation {
    /// Wants seats, at the price they have now.
    pub(crate) fn want(
        performance: Performance,
        customer: Id<Accounts>,
        seats: i32,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        if performance.withdrawn {
            return Err(Refusal::NotOnSale(performance.id));
        }
        // The contract has at most 1,000 seats, and prices far below the limit of i64.
        let minor_units = performance.price.minor_units.saturating_mul(i64::from(seats));
        Ok(Self {
            id: Id::new(),
            customer,
            musical: performance.id,
            musical_title: performance.title,
            performance: performance.time,
            seats,
            amount: Money { minor_units, ..performance.price },
            state: State::SeatsReserved,
            confirmed: false,
            hold_expires: now,
            created: now,
            revision: 0,
        })
    }

    /// The seats are there: from now on they are held for the payment.
    pub(crate) fn hold(&mut self, time: Duration, now: SystemTime) {
        self.hold_expires = now + time;
    }

    /// The payment came; whether that is news. One that is over stays so.
    pub(crate) fn confirm(&mut self) -> bool {
        let news = self.pass_to(State::PaymentApproved);
        self.confirmed |= news;
        news
    }

    /// The payment was declined; whether that is news.
    pub(crate) fn decline(&mut self) -> bool {
        self.pass_to(State::PaymentDeclined)
    }

    /// The payment did not come in time; whether that is news.
    pub(crate) fn expire(&mut self, now: SystemTime) -> bool {
        self.hold_expires <= now && self.pass_to(State::Expired)
    }

    fn pass_to(&mut self, state: State) -> bool {
        let news = self.state == State::SeatsReserved;
        if news {
            self.state = state;
        }
        news
    }

    /// Gives the reservation up.
    pub(crate) fn cancel(&mut self) -> Result<(), Refusal> {
        self.must_be_live()?;
        self.state = State::Cancelled;
        Ok(())
    }

    pub(crate) fn must_be_live(&self) -> Result<(), Refusal> {
        if self.state.is_final() { Err(Refusal::NotLive(self.id, self.state)) } else { Ok(()) }
    }
}

/// How long and how many seats are held for their payment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldPolicy {
    pub(crate) time: Duration,
    /// Of one performance for one customer; 0 is no limit.
    pub(crate) most: i64,
}

impl HoldPolicy {
    /// Whether it matters how much a customer holds.
    pub(crate) fn are_limited(&self) -> bool {
        self.most > 0
    }

    /// Whether the seats of a new reservation may be held beside those that its customer holds.
    pub(crate) fn admit(&self, new: &Reservation, held: i64) -> Result<(), Refusal> {
        let is_too_much = self.are_limited() && held + i64::from(new.seats) > self.most;
        match is_too_much {
            true => Err(Refusal::TooManyHeld { musical: new.musical, most: self.most }),
            false => Ok(()),
        }
    }
}

/// What is kept when a paid reservation is cancelled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeePolicy {
    pub(crate) percent: u8,
    /// So long before the performance a cancellation costs nothing.
    pub(crate) free: Duration,
    /// How long a quote holds.
    pub(crate) quote: Duration,
}

/// What a cancellation gives back, and until when that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) refund: i64,
    pub(crate) expires: SystemTime,
}

impl FeePolicy {
    /// What cancelling this reservation now would give back. Rounded down, for the customer.
    pub(crate) fn quote(
        &self,
        reservation: &Reservation,
        now: SystemTime,
    ) -> Result<Quote, Refusal> {
        reservation.must_be_live()?;
        let expires = now + self.quote;
        let amount = reservation.amount.minor_units;
        let free_until =
            reservation.performance.checked_sub(self.free).filter(|_| !self.free.is_zero());
        // Nothing was paid yet: all of it goes back, until it is paid.
        if reservation.state == State::SeatsReserved {
            return Ok(Quote { refund: amount, expires });
        }
        Ok(match free_until {
            Some(until) if now < until => Quote { refund: amount, expires: expires.min(until) },
            _ => Quote { refund: amount - amount * i64::from(self.percent) / 100, expires },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 5] = [
        State::SeatsReserved,
        State::PaymentApproved,
        State::PaymentDeclined,
        State::Expired,
        State::Cancelled,
    ];
    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1000 * HOUR
    }

    fn performance() -> Performance {
        Performance {
            id: Id::new(),
            title: "Frozen".to_owned(),
            price: Money::new("KRW", 50_000),
            time: now() + 100 * HOUR,
            withdrawn: false,
        }
    }

    fn reservation(state: State) -> Reservation {
        Reservation { state, ..Reservation::want(performance(), Id::new(), 3, now()).unwrap() }
    }

    #[test]
    fn g8_the_amount_is_the_catalogues_price_for_each_seat() {
        assert_eq!(reservation(State::SeatsReserved).amount, Money::new("KRW", 150_000));
    }

    #[test]
    fn a_withdrawn_performance_cannot_be_reserved() {
        let performance = Performance { withdrawn: true, ..performance() };
        let id = performance.id;
        assert_eq!(
            Reservation::want(performance, Id::new(), 1, now()).unwrap_err(),
            Refusal::NotOnSale(id)
        );
    }

    #[test]
    fn g7_only_a_hold_can_be_confirmed_declined_or_expired() {
        for state in STATES {
            let is_hold = state == State::SeatsReserved;
            assert_eq!(reservation(state).confirm(), is_hold, "{state:?}");
            assert_eq!(reservation(state).decline(), is_hold, "{state:?}");
            assert_eq!(reservation(state).expire(now()), is_hold, "{state:?}");
        }
    }

    #[test]
    fn s_24_so_many_seats_are_held_and_no_more() {
        let (new, holds) =
            (reservation(State::SeatsReserved), |most| HoldPolicy { time: HOUR, most });
        assert_eq!(holds(10).admit(&new, 7), Ok(()));
        let refused = Err(Refusal::TooManyHeld { musical: new.musical, most: 10 });
        assert_eq!(holds(10).admit(&new, 8), refused);
        assert_eq!(holds(0).admit(&new, 1_000_000), Ok(()), "no limit");
    }

    #[test]
    fn a_hold_does_not_expire_before_its_time() {
        let mut held = reservation(State::SeatsReserved);
        held.hold(HOUR, now());
        assert!(!held.expire(now()));
        assert!(held.expire(now() + HOUR));
        assert_eq!(held.state, State::Expired);
    }

    #[test]
    fn what_is_live_can_be_cancelled_once() {
        for state in STATES {
            let mut reservation = reservation(state);
            let expected = if state.is_final() {
                Err(Refusal::NotLive(reservation.id, state))
            } else {
                Ok(())
            };
            assert_eq!(reservation.cancel(), expected, "{state:?}");
            assert!(reservation.cancel().is_err());
        }
    }

    #[test]
    fn a_fee_is_kept_of_what_was_paid() {
        let fee = FeePolicy { percent: 10, free: Duration::ZERO, quote: HOUR };
        let paid = fee.quote(&reservation(State::PaymentApproved), now()).unwrap();
        assert_eq!(paid, Quote { refund: 135_000, expires: now() + HOUR });
        let held = fee.quote(&reservation(State::SeatsReserved), now()).unwrap();
        assert_eq!(held.refund, 150_000, "nothing was paid yet");
        assert!(fee.quote(&reservation(State::Cancelled), now()).is_err());
    }

    #[test]
    fn long_before_the_performance_a_cancellation_costs_nothing() {
        let fee = FeePolicy { percent: 10, free: 99 * HOUR + HOUR / 2, quote: HOUR };
        let paid = reservation(State::PaymentApproved);
        let free = fee.quote(&paid, now()).unwrap();
        assert_eq!(
            free,
            Quote { refund: 150_000, expires: now() + HOUR / 2 },
            "holds while it is free"
        );
        assert_eq!(fee.quote(&paid, now() + HOUR).unwrap().refund, 135_000);
    }
}

//! Performances and the seats that reservations hold of them: what may happen to them, and what may not.

use std::time::SystemTime;

use mesh::{Collection, Id, Money};

/// `musicals`: the performances.
#[derive(Debug)]
pub(crate) enum Musicals {}

impl Collection for Musicals {
    const NAME: &'static str = "musicals";
}

/// `musicalReservations`: the customers' orders, which belong to `outerpark.reservation`.
#[derive(Debug)]
pub(crate) enum MusicalReservations {}

impl Collection for MusicalReservations {
    const NAME: &'static str = "musicalReservations";
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("another performance has the number {0}")]
    NumberTaken(i64),
    #[error("{0} was withdrawn")]
    Withdrawn(Id<Musicals>),
    #[error("{0} is not on sale now")]
    NotOnSale(Id<Musicals>),
    #[error("{0} has only {1} seats left")]
    NotEnoughSeats(Id<Musicals>, i32),
    #[error("{0} seats cost more than can be charged at once")]
    TooMuchMoney(i32),
    #[error("the times do not fit together")]
    Times(Vec<Misfit>),
    #[error("{0} gave its seats back and gets none any more")]
    ReservationVoided(Id<MusicalReservations>),
    #[error("{0} has taken other seats than these")]
    ReservationMismatch(Id<MusicalReservations>),
}

/// The most that can be charged at once, in minor units.
const MOST_AT_ONCE: i64 = 1_000_000_000_000;

/// When a performance is played, and when its seats are sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) performance: SystemTime,
    /// `None`: from its registration.
    pub(crate) sales_start: Option<SystemTime>,
    /// `None`: until it is played.
    pub(crate) sales_end: Option<SystemTime>,
}

/// Two times that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("must be later than the start of the sale")]
    EndNotAfterStart,
    #[error("must not be later than the performance")]
    EndAfterPerformance,
    #[error("must be before the performance")]
    StartNotBeforePerformance,
}

/// What of these times does not fit together; those that are not known fit.
pub(crate) fn misfits(
    performance: Option<SystemTime>,
    sales_start: Option<SystemTime>,
    sales_end: Option<SystemTime>,
) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    if let (Some(start), Some(end)) = (sales_start, sales_end)
        && end <= start
    {
        misfits.push(Misfit::EndNotAfterStart);
    }
    if let (Some(end), Some(performance)) = (sales_end, performance)
        && end > performance
    {
        misfits.push(Misfit::EndAfterPerformance);
    }
    if let (Some(start), Some(performance), None) = (sales_start, performance, sales_end)
        && start >= performance
    {
        misfits.push(Misfit::StartNotBeforePerformance);
    }
    misfits
}

/// A performance to register.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) number: i64,
    pub(crate) title: String,
    pub(crate) venue: String,
    pub(crate) times: Times,
    pub(crate) price: Money,
    pub(crate) seats: i32,
}

/// What is to be another than it was; `None` stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) title: Option<String>,
    pub(crate) venue: Option<String>,
    pub(crate) performance: Option<SystemTime>,
    pub(crate) sales_start: Option<SystemTime>,
    pub(crate) sales_end: Option<SystemTime>,
    pub(crate) price: Option<Money>,
}

/// One performance of a musical, with its seats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Musical {
    pub(crate) id: Id<Musicals>,
    /// The business number, unique.
    pub(crate) number: i64,
    pub(crate) title: String,
    pub(crate) venue: String,
    pub(crate) times: Times,
    pub(crate) price: Money,
    pub(crate) total_seats: i32,
    /// How many of them are free: 0 to `total_seats`.
    pub(crate) reservable_seats: i32,
    pub(crate) withdrawn: bool,
    pub(crate) created: SystemTime,
    /// How many facts have been told of it.
    pub(crate) revision: i64,
}

impl Musical {
    /// A performance whose seats are all free. Its times fit together.
    pub(crate) fn register(new: Registration, now: SystemTime) -> Self {
        Self {
            id: Id::new(),
            number: new.number,
            title: new.title,
            venue: new.venue,
            times: new.times,
            price: new.price,
            total_seats: new.seats,
            reservable_seats: new.seats,
            withdrawn: false,
            created: now,
            revision: 0,
        }
    }

    /// Makes it another than it was, for those who reserve from now on.
    pub(crate) fn change(&mut self, change: Change) -> Result<(), Refusal> {
        self.must_not_be_withdrawn()?;
        let times = Times {
            performance: change.performance.unwrap_or(self.times.performance),
            sales_start: change.sales_start.or(self.times.sales_start),
            sales_end: change.sales_end.or(self.times.sales_end),
        };
        let misfits = misfits(Some(times.performance), times.sales_start, times.sales_end);
        if !misfits.is_empty() {
            return Err(Refusal::Times(misfits));
        }
        self.times = times;
        self.title = change.title.unwrap_or_else(|| self.title.clone());
        self.venue = change.venue.unwrap_or_else(|| self.venue.clone());
        self.price = change.price.unwrap_or_else(|| self.price.clone());
        Ok(())
    }

    /// Takes it off sale. Who has seats keeps them.
    pub(crate) fn withdraw(&mut self) -> Result<(), Refusal> {
        self.must_not_be_withdrawn()?;
        self.withdrawn = true;
        Ok(())
    }

    /// Takes this many of its free seats, more than 0: what they cost.
    pub(crate) fn deduct(&mut self, seats: i32, now: SystemTime) -> Result<Money, Refusal> {
        self.must_not_be_withdrawn()?;
        if !self.is_on_sale(now) {
            return Err(Refusal::NotOnSale(self.id));
        }
        if seats > self.reservable_seats {
            return Err(Refusal::NotEnoughSeats(self.id, self.reservable_seats));
        }
        let amount = self.price.minor_units.checked_mul(i64::from(seats));
        let amount =
            amount.filter(|amount| *amount <= MOST_AT_ONCE).ok_or(Refusal::TooMuchMoney(seats))?;
        self.reservable_seats -= seats;
        Ok(Money::new(&self.price.currency, amount))
    }

    /// Takes back seats that were deducted; withdrawn or not.
    pub(crate) fn give_back(&mut self, seats: i32) {
        self.reservable_seats += seats;
    }

    fn is_on_sale(&self, now: SystemTime) -> bool {
        let Times { performance, sales_start, sales_end } = self.times;
        (sales_start.unwrap_or(self.created)..sales_end.unwrap_or(performance)).contains(&now)
    }

    fn must_not_be_withdrawn(&self) -> Result<(), Refusal> {
        if self.withdrawn { Err(Refusal::Withdrawn(self.id)) } else { Ok(()) }
    }
}

/// The seats of one reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeatHold {
    pub(crate) reservation: Id<MusicalReservations>,
    /// `None`: a tombstone. It gave back before it took, and never will take any.
    pub(crate) taken: Option<Taken>,
    pub(crate) returned: bool,
}

/// What a reservation took, and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) musical: Id<Musicals>,
    pub(crate) seats: i32,
    /// What they cost then.
    pub(crate) amount: Money,
    /// How many were free afterwards.
    pub(crate) left: i32,
}

impl SeatHold {
    /// Seats that were deducted for a reservation.
    pub(crate) fn take(reservation: Id<MusicalReservations>, taken: Taken) -> Self {
        Self { reservation, taken: Some(taken), returned: false }
    }

    /// What is left by a reservation that gives back before it took.
    pub(crate) fn tombstone(reservation: Id<MusicalReservations>) -> Self {
        Self { reservation, taken: None, returned: true }
    }

    /// The reservation asks for seats again: what it took, if it asks for the same.
    pub(crate) fn repeat(&self, musical: Id<Musicals>, seats: i32) -> Result<&Taken, Refusal> {
        match &self.taken {
            Some(taken) if !self.returned => {
                let same = taken.musical == musical && taken.seats == seats;
                if same { Ok(taken) } else { Err(Refusal::ReservationMismatch(self.reservation)) }
            }
            _ => Err(Refusal::ReservationVoided(self.reservation)),
        }
    }

    /// Gives the seats back: how many, to which performance; `None` if that was done before.
    pub(crate) fn give_back(&mut self) -> Option<(Id<Musicals>, i32)> {
        let before = std::mem::replace(&mut self.returned, true);
        self.taken.as_ref().filter(|_| !before).map(|taken| (taken.musical, taken.seats))
    }

    /// How many seats it has, or had.
    pub(crate) fn seats(&self) -> i32 {
        self.taken.as_ref().map_or(0, |taken| taken.seats)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Registered at 100, played at 1000, 30 seats.
    fn musical() -> Musical {
        let new = Registration {
            number: 1,
            title: "Frozen".to_owned(),
            venue: String::new(),
            times: Times { performance: at(1000), sales_start: None, sales_end: None },
            price: Money::new("KRW", 50_000),
            seats: 30,
        };
        Musical::register(new, at(100))
    }

    fn hold(musical: &Musical) -> SeatHold {
        let amount = Money::new("KRW", 100_000);
        SeatHold::take(Id::new(), Taken { musical: musical.id, seats: 2, amount, left: 28 })
    }

    #[test]
    fn seats_cost_their_number_times_the_price() {
        let mut musical = musical();
        assert_eq!(musical.deduct(10, at(200)), Ok(Money::new("KRW", 500_000)));
        assert_eq!(musical.deduct(20, at(200)), Ok(Money::new("KRW", 1_000_000)));
        assert_eq!(musical.reservable_seats, 0);
        musical.give_back(10);
        assert_eq!(musical.reservable_seats, 10);
    }

    #[test]
    fn op_n1_more_seats_than_are_free_are_refused_and_none_is_taken() {
        let mut musical = musical();
        assert_eq!(musical.deduct(31, at(200)), Err(Refusal::NotEnoughSeats(musical.id, 30)));
        assert_eq!(musical.reservable_seats, 30);
    }

    #[test]
    fn seats_that_cost_too_much_are_refused() {
        for price in [MOST_AT_ONCE / 2 + 1, i64::MAX / 2 + 1] {
            let mut musical = musical();
            musical.price = Money::new("KRW", price);
            assert_eq!(musical.deduct(2, at(200)), Err(Refusal::TooMuchMoney(2)));
            assert_eq!(musical.reservable_seats, 30);
        }
    }

    #[test]
    fn seats_are_sold_from_the_registration_until_the_performance_unless_said() {
        let not_on_sale = |musical: &Musical| Err(Refusal::NotOnSale(musical.id));
        let mut musical = musical();
        assert_eq!(musical.deduct(1, at(99)), not_on_sale(&musical));
        assert!(musical.deduct(1, at(100)).is_ok());
        assert!(musical.deduct(1, at(999)).is_ok());
        assert_eq!(musical.deduct(1, at(1000)), not_on_sale(&musical));
        let window =
            Change { sales_start: Some(at(200)), sales_end: Some(at(300)), ..Change::default() };
        musical.change(window).unwrap();
        assert_eq!(musical.deduct(1, at(199)), not_on_sale(&musical));
        assert!(musical.deduct(1, at(200)).is_ok());
        assert_eq!(musical.deduct(1, at(300)), not_on_sale(&musical));
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let mut musical = musical();
        let before = musical.clone();
        musical.change(Change::default()).unwrap();
        assert_eq!(musical, before);
        let change = Change {
            title: Some("Frozen 2".to_owned()),
            price: Some(Money::new("KRW", 60_000)),
            ..Change::default()
        };
        musical.change(change).unwrap();
        let expected =
            Musical { title: "Frozen 2".to_owned(), price: Money::new("KRW", 60_000), ..before };
        assert_eq!(musical, expected);
    }

    #[test]
    fn times_must_fit_together_also_with_those_that_stay() {
        let mut musical = musical();
        let before = musical.clone();
        let end_after_performance = Change { sales_end: Some(at(1001)), ..Change::default() };
        let refused = Err(Refusal::Times(vec![Misfit::EndAfterPerformance]));
        assert_eq!(musical.change(end_after_performance), refused);
        let start_at_performance = Change { sales_start: Some(at(1000)), ..Change::default() };
        let refused = Err(Refusal::Times(vec![Misfit::StartNotBeforePerformance]));
        assert_eq!(musical.change(start_at_performance), refused);
        assert_eq!(musical, before);
        let both = misfits(Some(at(5)), Some(at(9)), Some(at(7)));
        assert_eq!(both, [Misfit::EndNotAfterStart, Misfit::EndAfterPerformance]);
        assert_eq!(misfits(Some(at(9)), Some(at(5)), Some(at(9))), []);
        assert_eq!(misfits(None, Some(at(5)), None), []);
    }

    #[test]
    fn a_withdrawn_performance_sells_no_seat_but_takes_them_back() {
        let mut musical = musical();
        musical.deduct(5, at(200)).unwrap();
        musical.withdraw().unwrap();
        let refused = Refusal::Withdrawn(musical.id);
        assert_eq!(musical.deduct(1, at(200)), Err(Refusal::Withdrawn(musical.id)));
        assert_eq!(musical.change(Change::default()), Err(Refusal::Withdrawn(musical.id)));
        assert_eq!(musical.withdraw(), Err(refused));
        musical.give_back(5);
        assert_eq!(musical.reservable_seats, 30);
    }

    #[test]
    fn a_reservation_that_asks_again_gets_what_it_took() {
        let musical = musical();
        let hold = hold(&musical);
        assert_eq!(hold.repeat(musical.id, 2), Ok(hold.taken.as_ref().unwrap()));
        let mismatch = Err(Refusal::ReservationMismatch(hold.reservation));
        assert_eq!(hold.repeat(musical.id, 3), mismatch);
        assert_eq!(hold.repeat(Id::new(), 2), mismatch);
    }

    #[test]
    fn op_f7_seats_are_given_back_once_and_are_not_taken_again() {
        let musical = musical();
        let mut hold = hold(&musical);
        assert_eq!(hold.give_back(), Some((musical.id, 2)));
        assert_eq!(hold.give_back(), None);
        assert_eq!(hold.seats(), 2);
        let voided = Err(Refusal::ReservationVoided(hold.reservation));
        assert_eq!(hold.repeat(musical.id, 2), voided);
    }

    #[test]
    fn a_tombstone_has_no_seats_and_never_gets_any() {
        let mut hold = SeatHold::tombstone(Id::new());
        let voided = Err(Refusal::ReservationVoided(hold.reservation));
        assert_eq!(hold.repeat(Id::new(), 2), voided);
        assert_eq!((hold.give_back(), hold.seats()), (None, 0));
    }
}

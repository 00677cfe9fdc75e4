//! Musical reservation: a reservation is the order; what happens to its seats is told in the history.

use mesh::{Error, Event, Policy, Result, Tx, whenever};
use proto::outerpark::musical::v1::{SeatsDeducted, SeatsReturned};
use proto::outerpark::reservation::v1::reservation::State;
use proto::outerpark::reservation::v1::{
    ReservationCancelled, ReservationConfirmed, ReservationDeclined, ReservationExpired, Reserved,
};

use crate::domain::{Placed, Ranks};
use crate::store::{apply, tell};

const SYSTEM: &str = "outerpark";
/// The collection of its orders.
pub(super) const ORDERS: &str = "musicalReservations";

/// Where a reservation may stand.
const STATES: Ranks = Ranks(&[
    &["SEATS_RESERVED"],
    &["PAYMENT_APPROVED"],
    &["PAYMENT_DECLINED", "EXPIRED", "CANCELLED"],
]);

pub(crate) fn policies() -> [Policy; 2] {
    [
        whenever("show the reservation and where it stands", whenever_reserved)
            .or(whenever_reservation_confirmed)
            .or(whenever_reservation_declined)
            .or(whenever_reservation_cancelled)
            .or(whenever_reservation_expired)
            .from_start(),
        whenever("tell in the history what happened to the seats", whenever_seats_deducted)
            .or(whenever_seats_returned)
            .from_start(),
    ]
}

fn whenever_reserved(tx: &mut Tx<'_>, event: &Event<Reserved>) -> Result<()> {
    let amount = event
        .amount
        .clone()
        .ok_or_else(|| Error::internal("seats were reserved without an amount"))?;
    let placed = Placed {
        system: SYSTEM,
        customer: event.customer.clone(),
        title: event.musical_title.clone(),
        quantity: u32::try_from(event.seats).map_err(Error::internal)?,
        amount: amount.into(),
        time: event.time,
    };
    apply(tx, event, &event.reservation, &event.customer, |order| {
        order.place(placed);
        order.advance(&STATES, word(State::SeatsReserved));
    })
}

fn whenever_reservation_confirmed(
    tx: &mut Tx<'_>,
    event: &Event<ReservationConfirmed>,
) -> Result<()> {
    apply(tx, event, &event.reservation, &event.customer, |order| {
        order.advance(&STATES, word(State::PaymentApproved));
    })
}

fn whenever_reservation_declined(
    tx: &mut Tx<'_>,
    event: &Event<ReservationDeclined>,
) -> Result<()> {
    apply(tx, event, &event.reservation, &event.customer, |order| {
        order.advance(&STATES, word(State::PaymentDeclined));
    })
}

fn whenever_reservation_cancelled(
    tx: &mut Tx<'_>,
    event: &Event<ReservationCancelled>,
) -> Result<()> {
    apply(tx, event, &event.reservation, &event.customer, |order| {
        order.advance(&STATES, word(State::Cancelled));
    })
}

fn whenever_reservation_expired(tx: &mut Tx<'_>, event: &Event<ReservationExpired>) -> Result<()> {
    apply(tx, event, &event.reservation, &event.customer, |order| {
        order.advance(&STATES, word(State::Expired));
    })
}

fn whenever_seats_deducted(tx: &mut Tx<'_>, event: &Event<SeatsDeducted>) -> Result<()> {
    tell(tx, event, &event.reservation, NOBODY_YET)
}

fn whenever_seats_returned(tx: &mut Tx<'_>, event: &Event<SeatsReturned>) -> Result<()> {
    tell(tx, event, &event.reservation, NOBODY_YET)
}

/// Whose a reservation is, to those who keep the seats: they do not know.
const NOBODY_YET: &str = "";

/// A state in the system's own word.
fn word(state: State) -> &'static str {
    state.as_str_name().trim_start_matches("STATE_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MyOrder;

    const FINAL: [State; 3] = [State::PaymentDeclined, State::Expired, State::Cancelled];

    fn states() -> impl Iterator<Item = State> {
        (1..).map_while(|number| State::try_from(number).ok())
    }

    fn after(told: &[State]) -> String {
        let mut order = MyOrder::unheard_of("musicalReservations/1", "accounts/1");
        for state in told {
            order.advance(&STATES, word(*state));
        }
        order.state
    }

    #[test]
    fn every_state_of_a_reservation_has_a_rank() {
        let unranked: Vec<_> = states()
            .map(word)
            .filter(|state| !STATES.0.iter().any(|equals| equals.contains(state)))
            .collect();
        assert!(unranked.is_empty(), "{unranked:?}");
    }

    #[test]
    fn g7_a_final_state_is_never_left() {
        for end in FINAL {
            for told in states() {
                assert_eq!(after(&[end, told]), word(end), "{told:?}");
            }
        }
    }

    #[test]
    fn a_reservation_that_was_paid_may_be_cancelled_but_not_unpaid() {
        use State::{Cancelled, PaymentApproved, SeatsReserved};
        assert_eq!(after(&[PaymentApproved, SeatsReserved]), "PAYMENT_APPROVED");
        assert_eq!(after(&[SeatsReserved, PaymentApproved, Cancelled]), "CANCELLED");
    }
}

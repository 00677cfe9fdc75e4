//! Between the domain and the contract.

use std::time::SystemTime;

use mesh::watch::Watched;
use mesh::{Error, Money, Result, revision};
use proto::mesh::v1::Event;
use proto::outerpark::reservation::v1 as api;
use proto::outerpark::reservation::v1::ErrorReason;

use crate::NAME;
use crate::domain::{Refusal, Reservation, State};
use crate::store::word;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let refused = |reason: ErrorReason| Self::refused(NAME, reason.as_str_name(), &refusal);
        match &refusal {
            Refusal::NotEnoughSeats(musical) => {
                refused(ErrorReason::NotEnoughSeats).with("musical", musical)
            }
            Refusal::NotOnSale(musical) => refused(ErrorReason::NotOnSale).with("musical", musical),
            Refusal::TooManyHeld { musical, most } => {
                refused(ErrorReason::TooManyHeld).with("musical", musical).with("most", most)
            }
            Refusal::NotLive(id, state) => {
                refused(ErrorReason::NotLive).with("reservation", id).with("state", word(*state))
            }
            Refusal::QuoteInvalid(id) => refused(ErrorReason::QuoteInvalid).with("reservation", id),
        }
    }
}

impl From<State> for api::reservation::State {
    fn from(state: State) -> Self {
        match state {
            State::SeatsReserved => Self::SeatsReserved,
            State::PaymentApproved => Self::PaymentApproved,
            State::PaymentDeclined => Self::PaymentDeclined,
            State::Expired => Self::Expired,
            State::Cancelled => Self::Cancelled,
        }
    }
}

impl From<&Reservation> for api::Reservation {
    fn from(reservation: &Reservation) -> Self {
        Self {
            name: reservation.id.to_string(),
            customer: reservation.customer.to_string(),
            musical: reservation.musical.to_string(),
            musical_title: reservation.musical_title.clone(),
            seats: reservation.seats,
            amount: Some((&reservation.amount).into()),
            state: api::reservation::State::from(reservation.state).into(),
            hold_expire_time: Some(reservation.hold_expires.into()),
            create_time: Some(reservation.created.into()),
            revision: revision(reservation.id, reservation.revision),
        }
    }
}

impl Reservation {
    /// Reads back what an intent has kept: a reservation that nobody has heard of.
    pub(crate) fn registered(order: api::Reservation, performance: SystemTime) -> Result<Self> {
        let created: SystemTime = time(order.create_time)?;
        Ok(Self {
            id: order.name.parse().map_err(Error::internal)?,
            customer: order.customer.parse().map_err(Error::internal)?,
            musical: order.musical.parse().map_err(Error::internal)?,
            musical_title: order.musical_title,
            performance,
            seats: order.seats,
            amount: Money::from(order.amount.unwrap_or_default()),
            state: State::SeatsReserved,
            confirmed: false,
            hold_expires: created,
            created,
            revision: 0,
        })
    }
}

/// A time of a contract.
pub(crate) fn time(time: Option<prost_types::Timestamp>) -> Result<SystemTime> {
    SystemTime::try_from(time.unwrap_or_default()).map_err(Error::internal)
}

impl From<&Reservation> for api::Reserved {
    fn from(reservation: &Reservation) -> Self {
        Self {
            reservation: reservation.id.to_string(),
            customer: reservation.customer.to_string(),
            musical: reservation.musical.to_string(),
            musical_title: reservation.musical_title.clone(),
            seats: reservation.seats,
            amount: Some((&reservation.amount).into()),
            hold_expire_time: Some(reservation.hold_expires.into()),
        }
    }
}

impl From<&Reservation> for api::ReservationConfirmed {
    fn from(reservation: &Reservation) -> Self {
        Self {
            reservation: reservation.id.to_string(),
            customer: reservation.customer.to_string(),
            musical_title: reservation.musical_title.clone(),
            seats: reservation.seats,
        }
    }
}

impl From<&Reservation> for api::ReservationDeclined {
    fn from(reservation: &Reservation) -> Self {
        Self {
            reservation: reservation.id.to_string(),
            customer: reservation.customer.to_string(),
            musical_title: reservation.musical_title.clone(),
            seats: reservation.seats,
        }
    }
}

impl From<&Reservation> for api::ReservationExpired {
    fn from(reservation: &Reservation) -> Self {
        Self {
            reservation: reservation.id.to_string(),
            customer: reservation.customer.to_string(),
            musical_title: reservation.musical_title.clone(),
            seats: reservation.seats,
        }
    }
}

/// A reservation that is followed.
#[derive(Debug, Clone)]
pub(crate) struct Followed(pub(crate) Reservation);

impl Watched for Followed {
    type Answer = api::WatchReservationResponse;

    fn subject(&self) -> String {
        self.0.id.to_string()
    }

    fn sequence(&self) -> u64 {
        self.0.revision.unsigned_abs()
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        self.0.state = match event.r#type.rsplit('.').next() {
            Some("Reserved") => State::SeatsReserved,
            Some("ReservationConfirmed") => State::PaymentApproved,
            Some("ReservationDeclined") => State::PaymentDeclined,
            Some("ReservationExpired") => State::Expired,
            Some("ReservationCancelled") => State::Cancelled,
            _ => return Err(Error::internal(format!("no state is told by {}", event.r#type))),
        };
        self.0.revision = i64::try_from(event.sequence).map_err(Error::internal)?;
        Ok(())
    }

    fn is_final(&self) -> bool {
        self.0.state.is_final()
    }

    fn tell(&self) -> Self::Answer {
        api::WatchReservationResponse {
            reservation: Some((&self.0).into()),
            r#final: self.is_final(),
        }
    }

    fn heartbeat() -> Self::Answer {
        api::WatchReservationResponse::default()
    }
}

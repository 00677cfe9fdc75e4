//! `Reserve`: take seats, then register.

use mesh::client::Channel;
use mesh::{CallThenRegister, Error, Result, Tx, request_id_of};
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{ReserveSeatsRequest, ReturnSeatsRequest};
use proto::outerpark::reservation::v1 as api;

use crate::domain::{HoldPolicy, Refusal, Reservation};
use crate::store;

/// The steps of reserving seats.
#[derive(Debug)]
pub(crate) struct Reserve {
    musical: MusicalServiceClient<Channel>,
    give_back: MusicalServiceClient<Channel>,
    edge: Channel,
    holds: HoldPolicy,
}

impl Reserve {
    /// Takes seats over `edge`, gives them back over `give_back`.
    pub(crate) fn new(
        edge: Channel,
        give_back: MusicalServiceClient<Channel>,
        holds: HoldPolicy,
    ) -> Self {
        Self { musical: MusicalServiceClient::new(edge.clone()), give_back, edge, holds }
    }
}

impl CallThenRegister for Reserve {
    const COMMAND: &'static str = "Reserve";
    type Order = api::Reservation;
    type Answer = api::ReserveResponse;

    fn name(order: &api::Reservation) -> &str {
        &order.name
    }

    async fn call(&self, order: api::Reservation) -> Result<()> {
        let request = ReserveSeatsRequest {
            request_id: request_id_of(&order.name),
            reservation: order.name,
            musical: order.musical.clone(),
            seats: order.seats,
        };
        let Err(error) = self.musical.clone().reserve_seats(request).await.map_err(Error::from)
        else {
            return Ok(());
        };
        let musical = order.musical.parse().map_err(Error::internal)?;
        match error.reason().as_deref() {
            Some("NOT_ENOUGH_SEATS") => Err(Refusal::NotEnoughSeats(musical).into()),
            Some("NOT_ON_SALE" | "MUSICAL_WITHDRAWN") => Err(Refusal::NotOnSale(musical).into()),
            _ => Err(error),
        }
    }

    async fn undo(&self, order: api::Reservation) -> Result<()> {
        self.give_back.clone().return_seats(give_back(&order.name)).await?;
        Ok(())
    }

    fn fallback(&self) -> Error {
        self.edge.fallback()
    }

    fn register(&self, tx: &mut Tx<'_>, order: api::Reservation) -> Result<api::ReserveResponse> {
        let performance =
            store::performance(tx, order.musical.parse().map_err(Error::internal)?)?.time;
        let mut reservation = Reservation::registered(order, performance)?;
        // Others of this customer may have been registered since this one was wanted.
        admit(tx, &self.holds, &reservation)?;
        reservation.hold(self.holds.time, tx.now());
        reservation.revision =
            tx.publish(reservation.id, reservation.id, &api::Reserved::from(&reservation))?;
        store::add(tx, &reservation)?;
        Ok(api::ReserveResponse { reservation: Some((&reservation).into()) })
    }
}

/// Whether a new reservation may be held beside those that its customer holds.
pub(crate) fn admit(tx: &mut Tx<'_>, holds: &HoldPolicy, new: &Reservation) -> Result<()> {
    if holds.are_limited() {
        holds.admit(new, store::held(tx, new.customer, new.musical)?)?;
    }
    Ok(())
}

/// Gives back whatever seats a reservation has.
pub(crate) fn give_back(reservation: &str) -> ReturnSeatsRequest {
    ReturnSeatsRequest {
        request_id: request_id_of(reservation),
        reservation: reservation.to_owned(),
    }
}

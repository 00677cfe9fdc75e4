//! Whenever something happens to a reservation, its money, its seats and its customer follow.

use std::collections::HashMap;

use mesh::client::Channel;
use mesh::{Error, Event, Id, Policy, Result, Store, Tx, calling, request_id_of, whenever};
use proto::notice::v1::SendNoticeRequest;
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{MusicalChanged, MusicalRegistered, MusicalWithdrawn};
use proto::outerpark::reservation::v1::{
    ReservationCancelled, ReservationConfirmed, ReservationDeclined, ReservationExpired, Reserved,
};
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::{CancelPaymentRequest, PayRequest, PaymentApproved, PaymentCancelled};

use crate::clock::Clock;
use crate::domain::{MusicalReservations, Performance, State};
use crate::reserve::give_back;
use crate::{store, wire};

/// The other contexts, each over an edge of its own, and what their answers are for.
#[derive(Debug, Clone)]
pub(crate) struct Others {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) payment: PaymentServiceClient<Channel>,
    pub(crate) refund: PaymentServiceClient<Channel>,
    pub(crate) musical: MusicalServiceClient<Channel>,
    pub(crate) notice: NoticeServiceClient<Channel>,
}

pub(crate) fn policies(others: &Others) -> Vec<Policy> {
    let others = || others.clone();
    vec![
        whenever("keep title, price and date", whenever_musical_registered)
            .or(whenever_musical_changed)
            .or(whenever_musical_withdrawn)
            .from_start(),
        calling("have it paid", others(), whenever_reserved).from_start(),
        whenever("the reservation is confirmed", whenever_payment_approved).from_start(),
        calling("tell the customer", others(), whenever_reservation_confirmed).from_start(),
        calling("tell the customer", others(), whenever_reservation_declined).from_start(),
        calling("give the seats back", others(), whenever_reservation_declined_seats).from_start(),
        calling("give the seats back", others(), whenever_reservation_cancelled_seats).from_start(),
        calling("give the money back", others(), whenever_reservation_cancelled_money).from_start(),
        calling("give the seats back", others(), whenever_reservation_expired_seats).from_start(),
        calling("make sure that it is never paid", others(), whenever_reservation_expired_money)
            .from_start(),
        calling("tell the customer", others(), whenever_payment_cancelled).from_start(),
    ]
}

fn whenever_musical_registered(tx: &mut Tx<'_>, event: &Event<MusicalRegistered>) -> Result<()> {
    let performance = Performance {
        id: event.musical.parse().map_err(Error::internal)?,
        title: event.title.clone(),
        price: event.price_per_seat.clone().unwrap_or_default().into(),
        time: wire::time(event.performance_time)?,
        withdrawn: false,
    };
    store::add_performance(tx, performance)
}

fn whenever_musical_changed(tx: &mut Tx<'_>, event: &Event<MusicalChanged>) -> Result<()> {
    let id = event.musical.parse().map_err(Error::internal)?;
    let price = event.price_per_seat.clone().unwrap_or_default().into();
    store::change_performance(tx, id, &event.title, price, wire::time(event.performance_time)?)
}

fn whenever_musical_withdrawn(tx: &mut Tx<'_>, event: &Event<MusicalWithdrawn>) -> Result<()> {
    store::withdraw_performance(tx, event.musical.parse().map_err(Error::internal)?)
}

async fn whenever_reserved(mut others: Others, event: Event<Reserved>) -> Result<()> {
    let request = PayRequest {
        request_id: request_id_of(&event.reservation),
        order: event.reservation.clone(),
        customer: event.customer.clone(),
        amount: event.amount.clone(),
    };
    let paid = others.payment.pay(request).await.map_err(Error::from);
    others.clock.payment_answered(!matches!(&paid, Err(error) if error.is_passing()));
    let Err(error) = paid else { return Ok(()) };
    match error.reason().as_deref() {
        Some("PAYMENT_DECLINED") => {}
        // It was cancelled or has expired before it could be paid: done.
        Some("ORDER_VOIDED") => return Ok(()),
        _ => return Err(error),
    }
    let id: Id<MusicalReservations> = event.reservation.parse().map_err(Error::internal)?;
    others
        .store
        .write_because(event.cause(), move |tx| {
            let mut reservation = store::load(tx, id)?;
            if reservation.decline() {
                reservation.revision =
                    tx.publish(id, id, &ReservationDeclined::from(&reservation))?;
                store::save(tx, &reservation)?;
            }
            Ok(())
        })
        .await
}

fn whenever_payment_approved(tx: &mut Tx<'_>, event: &Event<PaymentApproved>) -> Result<()> {
    // Payments of other systems are told, too.
    let Ok(id) = event.order.parse::<Id<MusicalReservations>>() else { return Ok(()) };
    let mut reservation = store::load(tx, id)?;
    if reservation.confirm() {
        reservation.revision = tx.publish(id, id, &ReservationConfirmed::from(&reservation))?;
        store::save(tx, &reservation)?;
    }
    Ok(())
}

async fn whenever_reservation_confirmed(
    others: Others,
    event: Event<ReservationConfirmed>,
) -> Result<()> {
    tell(
        others,
        &event.reservation,
        &event.customer,
        "confirmed",
        &event.musical_title,
        event.seats,
    )
    .await
}

async fn whenever_reservation_declined(
    others: Others,
    event: Event<ReservationDeclined>,
) -> Result<()> {
    tell(others, &event.reservation, &event.customer, "declined", &event.musical_title, event.seats)
        .await
}

async fn whenever_reservation_declined_seats(
    mut others: Others,
    event: Event<ReservationDeclined>,
) -> Result<()> {
    others.musical.return_seats(give_back(&event.reservation)).await?;
    Ok(())
}

async fn whenever_reservation_cancelled_seats(
    mut others: Others,
    event: Event<ReservationCancelled>,
) -> Result<()> {
    others.musical.return_seats(give_back(&event.reservation)).await?;
    Ok(())
}

async fn whenever_reservation_cancelled_money(
    mut others: Others,
    event: Event<ReservationCancelled>,
) -> Result<()> {
    let request = CancelPaymentRequest {
        request_id: request_id_of(&event.reservation),
        order: event.reservation.clone(),
        customer: event.customer.clone(),
        reason: "RESERVATION_CANCELLED".to_owned(),
        refund: event.refund.clone(),
    };
    others.refund.cancel_payment(request).await?;
    Ok(())
}

async fn whenever_reservation_expired_seats(
    mut others: Others,
    event: Event<ReservationExpired>,
) -> Result<()> {
    others.musical.return_seats(give_back(&event.reservation)).await?;
    Ok(())
}

async fn whenever_reservation_expired_money(
    mut others: Others,
    event: Event<ReservationExpired>,
) -> Result<()> {
    let request = CancelPaymentRequest {
        request_id: request_id_of(&event.reservation),
        order: event.reservation.clone(),
        customer: event.customer.clone(),
        reason: "RESERVATION_EXPIRED".to_owned(),
        refund: None,
    };
    others.refund.cancel_payment(request).await?;
    Ok(())
}

async fn whenever_payment_cancelled(others: Others, event: Event<PaymentCancelled>) -> Result<()> {
    let Ok(id) = event.order.parse::<Id<MusicalReservations>>() else { return Ok(()) };
    // One that was never registered is nothing that the customer has heard of.
    let Some(reservation) = others.store.look_up(move |conn| store::find(conn, id)).await? else {
        return Ok(());
    };
    let gave_back = event.amount.as_ref().is_some_and(|amount| amount.minor_units > 0);
    let kind = match reservation.state {
        State::Expired => "expired",
        _ if gave_back || reservation.confirmed => "cancelled",
        // The customer gave up what was never paid, and knows it.
        _ => return Ok(()),
    };
    let customer = reservation.customer.to_string();
    tell(others, &event.order, &customer, kind, &reservation.musical_title, reservation.seats).await
}

/// Tells the customer, once for each reservation and kind, and nothing cheerful after a cancellation.
async fn tell(
    mut others: Others,
    reservation: &str,
    customer: &str,
    kind: &str,
    title: &str,
    seats: i32,
) -> Result<()> {
    let unless_kinds = if kind == "confirmed" { vec!["cancelled".to_owned()] } else { Vec::new() };
    let request = SendNoticeRequest {
        request_id: request_id_of(reservation),
        recipient: customer.to_owned(),
        order: reservation.to_owned(),
        kind: kind.to_owned(),
        parameters: HashMap::from([
            ("title".to_owned(), title.to_owned()),
            ("seats".to_owned(), seats.to_string()),
        ]),
        unless_kinds,
    };
    others.notice.send_notice(request).await?;
    Ok(())
}

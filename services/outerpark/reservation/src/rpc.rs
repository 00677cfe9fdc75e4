//! The calls of `ReservationService`.

use mesh::watch::{WatchStream, follow};
use mesh::{Caller, Check, Kit, Money, Saga, Store};
use proto::outerpark::reservation::v1 as api;
use proto::outerpark::reservation::v1::reservation_service_server::ReservationService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::domain::{FeePolicy, HoldPolicy, Quote, Refusal, Reservation, State};
use crate::reserve::{Reserve, admit};
use crate::settings::Settings;
use crate::store;
use crate::wire::Followed;

#[derive(Clone)]
pub(crate) struct Reservations {
    store: Store,
    reserve: Saga<Reserve>,
    holds: HoldPolicy,
    fee: FeePolicy,
    stopping: CancellationToken,
}

impl Reservations {
    pub(crate) fn new(kit: &Kit, reserve: Saga<Reserve>, settings: &Settings) -> Self {
        let (holds, fee) = (settings.holds(), settings.fee());
        Self { store: kit.store(), reserve, holds, fee, stopping: kit.stopping() }
    }

    /// A quote as a text that nobody else can write: what it says is in it, and it is good for one state of one
    /// reservation.
    fn sign(&self, reservation: &Reservation, quote: &Quote) -> String {
        let facts = format!("{} {}", quote.refund, mesh::micros(quote.expires));
        self.store.seal(&quote_of(reservation), &facts)
    }

    fn read(&self, reservation: &Reservation, text: &str) -> Option<Quote> {
        let facts = self.store.unseal(&quote_of(reservation), text)?;
        let (refund, expires) = facts.split_once(' ')?;
        Some(Quote { refund: refund.parse().ok()?, expires: mesh::time_of(expires.parse().ok()?) })
    }
}

fn quote_of(reservation: &Reservation) -> String {
    format!("quote of {}@{}", reservation.id, reservation.revision)
}

#[tonic::async_trait]
impl ReservationService for Reservations {
    async fn reserve(
        &self,
        request: Request<api::ReserveRequest>,
    ) -> Result<Response<api::ReserveResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::command(&request);
        let musical = check.id("musical", &request.musical);
        let seats = check.count("seats", request.seats, 1..=1000);
        check.finish()?;

        let holds = self.holds;
        let answer = self.reserve.run(&caller, &request, move |tx| {
            let performance = store::performance(tx, musical)?;
            let reservation = Reservation::want(performance, customer, seats, tx.now())?;
            admit(tx, &holds, &reservation)?;
            Ok((&reservation).into())
        });
        Ok(Response::new(answer.await?))
    }

    async fn quote_cancellation(
        &self,
        request: Request<api::QuoteCancellationRequest>,
    ) -> Result<Response<api::QuoteCancellationResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;

        let reservation = self.store.look_up(move |conn| store::own(conn, customer, id)).await?;
        let quote = self.fee.quote(&reservation, mesh::now()).map_err(mesh::Error::from)?;
        let money = |minor_units| Money { minor_units, ..reservation.amount.clone() };
        let cancellation_quote = Some(api::CancellationQuote {
            quote: self.sign(&reservation, &quote),
            reservation: id.to_string(),
            refund: Some(money(quote.refund).into()),
            fee: Some(money(reservation.amount.minor_units - quote.refund).into()),
            expire_time: Some(quote.expires.into()),
        });
        Ok(Response::new(api::QuoteCancellationResponse { cancellation_quote }))
    }

    async fn cancel_reservation(
        &self,
        request: Request<api::CancelReservationRequest>,
    ) -> Result<Response<api::CancelReservationResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::command(&request);
        let id = check.id("name", &request.name);
        check.text("quote", &request.quote, 0..=500);
        check.finish()?;

        let desk = self.clone();
        let text = request.quote.clone();
        let answer = self.store.once(&caller, &request, move |tx| {
            let mut reservation = store::own(tx, customer, id)?;
            reservation.must_be_live()?;
            let now = tx.now();
            let quote = match text.as_str() {
                "" => desk.fee.quote(&reservation, now)?,
                text => desk
                    .read(&reservation, text)
                    .filter(|quote| now < quote.expires)
                    .ok_or(Refusal::QuoteInvalid(id))?,
            };
            let was_paid = reservation.state == State::PaymentApproved;
            reservation.cancel()?;
            // What was not paid cannot be kept in part: whatever comes of a payment under way goes back.
            let kept = was_paid && quote.refund < reservation.amount.minor_units;
            let refund =
                kept.then(|| Money { minor_units: quote.refund, ..reservation.amount.clone() });
            let cancelled = api::ReservationCancelled {
                reservation: id.to_string(),
                customer: customer.to_string(),
                musical_title: reservation.musical_title.clone(),
                seats: reservation.seats,
                refund: refund.map(Into::into),
            };
            reservation.revision = tx.publish(id, id, &cancelled)?;
            store::save(tx, &reservation)?;
            Ok(api::CancelReservationResponse { reservation: Some((&reservation).into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_reservation(
        &self,
        request: Request<api::GetReservationRequest>,
    ) -> Result<Response<api::GetReservationResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;

        let reservation = self.store.look_up(move |conn| store::own(conn, customer, id)).await?;
        Ok(Response::new(api::GetReservationResponse { reservation: Some((&reservation).into()) }))
    }

    async fn list_reservations(
        &self,
        request: Request<api::ListReservationsRequest>,
    ) -> Result<Response<api::ListReservationsResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let with_cancelled = request.show_cancelled;
        let list = format!("musicalReservations of {customer}, {with_cancelled}");
        let page = self.store.page(&mut check, &list, request.page_size, 50, &request.page_token);
        check.finish()?;

        let wanted = page.clone();
        let rows = self
            .store
            .read(move |conn| store::list(conn, customer, with_cancelled, &wanted))
            .await?;
        let (rows, next_page_token) = page.cut(rows, |reservation| reservation.id.to_string());
        let reservations = rows.iter().map(Into::into).collect();
        Ok(Response::new(api::ListReservationsResponse { reservations, next_page_token }))
    }

    type WatchReservationStream = WatchStream<api::WatchReservationResponse>;

    async fn watch_reservation(
        &self,
        request: Request<api::WatchReservationRequest>,
    ) -> Result<Response<Self::WatchReservationStream>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        let resume = check.revision("resume_revision", &request.resume_revision);
        check.finish()?;

        let reservation = self.store.look_up(move |conn| store::own(conn, customer, id)).await?;
        let followed = Followed(reservation);
        Ok(Response::new(follow(&self.store, self.stopping.clone(), followed, &resume)?))
    }
}

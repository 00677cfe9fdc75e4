//! One function per RPC.

use mesh::simulate::Load;
use mesh::watch::{WatchStream, latest};
use mesh::{Caller, Cause, Check, Conn, Id, Store};
use proto::outerpark::musical::v1 as api;
use proto::outerpark::musical::v1::musical_service_server::MusicalService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::domain::{Musical, MusicalReservations, Musicals, SeatHold, Taken};
use crate::{store, wire};

/// How many performances a page has unless said.
const PAGE: u16 = 50;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) store: Store,
    /// What `ReserveSeats` is made to bear.
    pub(crate) load: Load,
    pub(crate) stopping: CancellationToken,
}

#[tonic::async_trait]
impl MusicalService for Service {
    type WatchMusicalStream = WatchStream<api::WatchMusicalResponse>;

    async fn register_musical(
        &self,
        request: Request<api::RegisterMusicalRequest>,
    ) -> Result<Response<api::RegisterMusicalResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let new = wire::registration(&request)?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut musical = Musical::register(new, tx.now());
            musical.revision =
                tx.publish(musical.id, musical.id, &api::MusicalRegistered::from(&musical))?;
            store::add(tx, &musical)?;
            Ok(api::RegisterMusicalResponse { musical: Some(musical.into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn change_musical(
        &self,
        request: Request<api::ChangeMusicalRequest>,
    ) -> Result<Response<api::ChangeMusicalResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let (id, change) = wire::change(&request)?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut musical = store::musical(tx, id)?;
            musical.change(change)?;
            musical.revision = tx.publish(id, id, &api::MusicalChanged::from(&musical))?;
            store::save(tx, &musical)?;
            Ok(api::ChangeMusicalResponse { musical: Some(musical.into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn withdraw_musical(
        &self,
        request: Request<api::WithdrawMusicalRequest>,
    ) -> Result<Response<api::WithdrawMusicalResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let id = check.id("name", &request.name);
        check.finish()?;

        let answer = self.store.once(&caller, &request, move |tx| {
            let mut musical = store::musical(tx, id)?;
            musical.withdraw()?;
            musical.revision = tx.publish(id, id, &api::MusicalWithdrawn::from(&musical))?;
            store::save(tx, &musical)?;
            Ok(api::WithdrawMusicalResponse { musical: Some(musical.into()) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_musical(
        &self,
        request: Request<api::GetMusicalRequest>,
    ) -> Result<Response<api::GetMusicalResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;

        let musical = self.store.look_up(move |conn| store::musical(conn, id)).await?;
        Ok(Response::new(api::GetMusicalResponse { musical: Some(musical.into()) }))
    }

    async fn list_musicals(
        &self,
        request: Request<api::ListMusicalsRequest>,
    ) -> Result<Response<api::ListMusicalsResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::new();
        let page =
            self.store.page(&mut check, "musicals", request.page_size, PAGE, &request.page_token);
        check.finish()?;

        let wanted = page.clone();
        let musicals = self.store.read(move |conn| store::musicals(conn, &wanted)).await?;
        let (musicals, next_page_token) = page.cut(musicals, |musical| musical.id.to_string());
        let musicals = musicals.into_iter().map(Into::into).collect();
        Ok(Response::new(api::ListMusicalsResponse { musicals, next_page_token }))
    }

    async fn watch_musical(
        &self,
        request: Request<api::WatchMusicalRequest>,
    ) -> Result<Response<Self::WatchMusicalStream>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::new();
        let id = check.id("name", &request.name);
        check.finish()?;

        let look = move |conn: &mut Conn| {
            let (reservable_seats, total_seats) = store::seats(conn, id)?;
            Ok(api::WatchMusicalResponse { reservable_seats, total_seats })
        };
        Ok(Response::new(latest(&self.store, self.stopping.clone(), look).await?))
    }

    async fn reserve_seats(
        &self,
        request: Request<api::ReserveSeatsRequest>,
    ) -> Result<Response<api::ReserveSeatsResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let reservation: Id<MusicalReservations> = check.id("reservation", &request.reservation);
        let id: Id<Musicals> = check.id("musical", &request.musical);
        let seats = request.seats;
        if !(1..=1000).contains(&seats) {
            check.bad("seats", "must be 1 to 1000");
        }
        check.finish()?;

        let _place = self.load.pass().await;
        let answer = self.store.write_because(Cause::current(&request.request_id), move |tx| {
            if let Some(hold) = store::hold(tx, reservation)? {
                return Ok(hold.repeat(id, seats)?.into());
            }
            let mut musical = store::musical(tx, id)?;
            let amount = musical.deduct(seats, tx.now())?;
            let taken = Taken { musical: id, seats, amount, left: musical.reservable_seats };
            let hold = SeatHold::take(reservation, taken.clone());
            musical.revision = tx.publish(id, reservation, &wire::deducted(&hold, &taken))?;
            store::take_seats(tx, &musical, seats)?;
            store::add_hold(tx, &hold)?;
            Ok(api::ReserveSeatsResponse::from(&taken))
        });
        Ok(Response::new(answer.await?))
    }

    async fn return_seats(
        &self,
        request: Request<api::ReturnSeatsRequest>,
    ) -> Result<Response<api::ReturnSeatsResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let mut check = Check::command(&request);
        let reservation = check.id("reservation", &request.reservation);
        check.finish()?;

        let answer = self.store.write_because(Cause::current(&request.request_id), move |tx| {
            let Some(mut hold) = store::hold(tx, reservation)? else {
                let hold = SeatHold::tombstone(reservation);
                store::add_hold(tx, &hold)?;
                // There is no performance that it could be told of.
                tx.publish(reservation, reservation, &wire::returned(&hold, 0))?;
                return Ok(0);
            };
            if let Some((id, seats)) = hold.give_back() {
                let mut musical = store::musical(tx, id)?;
                musical.give_back(seats);
                let returned = wire::returned(&hold, musical.reservable_seats);
                musical.revision = tx.publish(id, reservation, &returned)?;
                store::give_back_seats(tx, &musical, seats)?;
                store::save_hold(tx, &hold)?;
            }
            Ok(hold.seats())
        });
        Ok(Response::new(api::ReturnSeatsResponse { seats: answer.await? }))
    }
}

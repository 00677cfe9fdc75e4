//! Seats that are reserved, paid, declined, cancelled and expired while somebody dies.

use std::time::Duration;

use mesh_testing::{TestMesh, request_id};
use proto::outerpark::musical::v1::WatchMusicalRequest;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1 as desk;
use proto::outerpark::reservation::v1::reservation::State;
use proto::payment::v1::payment::State as Paid;
use tokio::sync::Notify;
use tonic::Status;

use super::saga::Desk;
use super::{Mortal, Told, answer, follow, provider, quick};
use crate::invariants::{Laws, OUTERPARK};
use crate::outerpark::{Outerpark, Setup};

/// The provider declines three seats.
const MOST: i64 = 100_000;
/// Never sold out; one more than all of them is too many at once.
const SEATS: i32 = 900;
/// Of four reservations one at least is sent three times in vain: nobody knows what became of it, and it is undone.
const BREAKS: u32 = 9;

impl Mortal for Outerpark {
    const NAME: &'static str = "outerpark";
    const LAWS: &'static Laws = &OUTERPARK;

    async fn begin() -> Self {
        let setup = Setup { payment: provider(MOST), ..Setup::default() };
        Self::start_with(SEATS, setup, quick).await
    }

    fn mesh(&self) -> &TestMesh {
        &self.mesh
    }

    async fn play(&self, told: &Told) {
        self.mesh.mesh.faults().break_replies("ReserveSeats", BREAKS);
        let cancels = async {
            let name = self.order(told, 2).await;
            let request = desk::CancelReservationRequest {
                request_id: request_id(),
                name: name.clone(),
                ..Default::default()
            };
            let seen = Notify::new();
            let cancelled = async {
                seen.notified().await;
                self.until(&name, State::PaymentApproved).await;
                let cancelled = answer(async || {
                    self.desk_of(&self.customer).cancel_reservation(request.clone()).await
                });
                cancelled.await.expect("cancelled");
                told.cancelled(&name);
            };
            tokio::join!(cancelled, self.follow(&name, &seen));
        };
        let is_refused = async {
            let id = request_id();
            let refused = answer(async || self.reserve_with(&self.customer, &id, SEATS + 1).await);
            refused.await.expect_err("there are not so many seats");
        };
        tokio::join!(
            self.order(told, 1),
            self.order(told, 3),
            cancels,
            is_refused,
            self.see_free_seats()
        );
    }
}

impl Desk for Outerpark {
    const DESK: &'static str = "outerpark.reservation";
    const CALL: &'static str = "ReserveSeats";

    async fn order_once(&self, request_id: &str) -> Result<String, Status> {
        Ok(self.reserve_with(&self.customer, request_id, 2).await?.name)
    }
}

/// Reservations whose payment does not come in time.
#[derive(Debug)]
pub struct Expiring(Outerpark);

impl Mortal for Expiring {
    const NAME: &'static str = "outerpark, expiring";
    const LAWS: &'static Laws = &OUTERPARK;

    async fn begin() -> Self {
        let hold = Duration::from_millis(100);
        let reservation = outerpark_reservation::Settings { hold, ..Default::default() };
        let setup = Setup { payment: provider(MOST), reservation, ..Setup::default() };
        Self(Outerpark::start_with(SEATS, setup, quick).await)
    }

    fn mesh(&self) -> &TestMesh {
        &self.0.mesh
    }

    async fn play(&self, told: &Told) {
        let (park, faults) = (&self.0, self.0.mesh.mesh.faults());
        let expired = async || {
            faults.hold_back("Pay", true);
            let name = park.order(told, 2).await;
            park.until(&name, State::Expired).await;
            name
        };
        // The wish for money comes when the payment is void.
        let void = expired().await;
        park.until_my_page(&void, "EXPIRED", "CANCELLED").await;
        faults.hold_back("Pay", false);
        // It comes before the word that it is too late, and is given back.
        faults.hold_back("CancelPayment", true);
        let late = expired().await;
        faults.hold_back("Pay", false);
        park.until_paid(&late, Paid::Approved).await;
        faults.hold_back("CancelPayment", false);
        park.until_paid(&late, Paid::Cancelled).await;
    }
}

impl Outerpark {
    /// Reserves seats, however long that takes.
    async fn order(&self, told: &Told, seats: i32) -> String {
        let id = request_id();
        let reserved = answer(async || self.reserve_with(&self.customer, &id, seats).await);
        let name = reserved.await.expect("reserved").name;
        told.ordered(&name);
        name
    }

    async fn follow(&self, name: &str, seen: &Notify) {
        let open = async |resume_revision| {
            let request = desk::WatchReservationRequest { name: name.to_owned(), resume_revision };
            self.desk_of(&self.customer).watch_reservation(request).await
        };
        follow(seen, open, |told| Some((told.reservation?.revision, told.r#final))).await;
    }

    async fn see_free_seats(&self) {
        let request = WatchMusicalRequest { name: self.musical.name.clone() };
        let seen = answer(async || {
            let mut musicals = MusicalServiceClient::new(self.mesh.stranger());
            musicals.watch_musical(request.clone()).await?.into_inner().message().await
        });
        let seen = seen.await.expect("a message").expect("a stream that does not end");
        assert!(seen.reservable_seats <= SEATS, "{seen:?}");
    }
}

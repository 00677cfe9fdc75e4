//! What the stand-ins say of seats, and of what customers are told.

use mesh_testing::request_id;
use proto::notice::v1 as notice;
use proto::outerpark::musical::v1 as musical;
use proto::outerpark::reservation::v1 as desk;

use super::{Order, Stage, won};

const SEATS: i32 = 3;

impl Stage {
    pub(crate) async fn deduct_seats(&self, order: &Order) -> i64 {
        let fact = musical::SeatsDeducted {
            musical: order.other.clone(),
            reservation: order.name.clone(),
            seats: SEATS,
            reservable_seats: 97,
        };
        self.musical.tell(&order.other, &order.name, fact).await
    }

    pub(crate) async fn return_seats(&self, order: &Order) -> i64 {
        let fact = musical::SeatsReturned {
            musical: order.other.clone(),
            reservation: order.name.clone(),
            seats: SEATS,
            reservable_seats: 100,
        };
        self.musical.tell(&order.other, &order.name, fact).await
    }

    /// A fact of the same log that is about no order.
    pub(crate) async fn withdraw(&self, order: &Order) -> i64 {
        let fact = musical::MusicalWithdrawn { musical: order.other.clone() };
        self.musical.tell(&order.other, &order.other, fact).await
    }

    pub(crate) async fn reserve(&self, order: &Order, title: &str) -> i64 {
        let fact = desk::Reserved {
            reservation: order.name.clone(),
            customer: order.customer.clone(),
            musical: order.other.clone(),
            musical_title: title.to_owned(),
            seats: SEATS,
            amount: won(150_000),
            hold_expire_time: None,
        };
        self.reservation.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn confirm(&self, order: &Order) -> i64 {
        let fact = desk::ReservationConfirmed {
            reservation: order.name.clone(),
            customer: order.customer.clone(),
            musical_title: String::new(),
            seats: SEATS,
        };
        self.reservation.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn decline_reservation(&self, order: &Order) -> i64 {
        let fact = desk::ReservationDeclined {
            reservation: order.name.clone(),
            customer: order.customer.clone(),
            musical_title: String::new(),
            seats: SEATS,
        };
        self.reservation.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn expire(&self, order: &Order) -> i64 {
        let fact = desk::ReservationExpired {
            reservation: order.name.clone(),
            customer: order.customer.clone(),
            musical_title: String::new(),
            seats: SEATS,
        };
        self.reservation.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn cancel_reservation(&self, order: &Order) -> i64 {
        let fact = desk::ReservationCancelled {
            reservation: order.name.clone(),
            customer: order.customer.clone(),
            musical_title: String::new(),
            seats: SEATS,
            refund: None,
        };
        self.reservation.tell(&order.name, &order.name, fact).await
    }

    pub(crate) async fn notice(&self, order: &Order, kind: &str) -> i64 {
        self.notice_about(&order.name, order, kind).await
    }

    /// A notice about something else than the order, to the order's customer.
    pub(crate) async fn notice_about(&self, name: &str, order: &Order, kind: &str) -> i64 {
        let notice = format!("notices/{}", request_id());
        let fact = notice::Noticed {
            notice: notice.clone(),
            recipient: order.customer.clone(),
            order: name.to_owned(),
            kind: kind.to_owned(),
        };
        self.notice.tell(&notice, name, fact).await
    }
}

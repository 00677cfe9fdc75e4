//! The musical reservation under test.

use std::time::Duration;

use mesh::{Context, Options};
use mesh_testing::{Account, SignedIn, TestMesh, eventually, request_id};
use proto::common::v1::Money;
use proto::mypage::v1 as page;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::notice::v1 as told;
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::outerpark::musical::v1 as musical;
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::reservation::v1 as desk;
use proto::outerpark::reservation::v1::reservation::State;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::payment::v1 as paid;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use tonic::Status;

use crate::stores::count;

/// How the contexts of a test are set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The payment provider.
    pub payment: payment::Settings,
    /// The seats' side.
    pub musical: outerpark_musical::Settings,
    /// Holds and fees.
    pub reservation: outerpark_reservation::Settings,
}

/// The contexts of the musical reservation in one process, with one performance, and a customer.
#[derive(Debug)]
pub struct Outerpark {
    /// The process.
    pub mesh: TestMesh,
    /// Somebody who reserves.
    pub customer: Account,
    /// What can be reserved.
    pub musical: musical::Musical,
}

/// The contexts that a reservation needs; identity is not among them.
pub fn contexts(setup: Setup) -> Vec<Context> {
    vec![
        payment::context(setup.payment),
        notice::context(notice::Settings::default()),
        mypage::context(),
        outerpark_musical::context(setup.musical),
        outerpark_reservation::context(setup.reservation),
    ]
}

impl Outerpark {
    /// Everything up, with so many seats.
    pub async fn start(seats: i32) -> Self {
        Self::start_with(seats, Setup::default(), |_| {}).await
    }

    /// As [`Outerpark::start`], with other settings and options.
    pub async fn start_with(seats: i32, setup: Setup, change: impl FnOnce(&mut Options)) -> Self {
        let mesh = TestMesh::start_with(&contexts(setup), |options| {
            options.sweep_after = Duration::from_secs(1);
            change(options);
        })
        .await;
        let customer = mesh.customer();
        let request = musical::RegisterMusicalRequest {
            request_id: request_id(),
            musical_number: 1,
            title: "Frozen".to_owned(),
            venue: "Outer Park".to_owned(),
            performance_time: Some((mesh::now() + Duration::from_secs(30 * 86_400)).into()),
            price_per_seat: Some(Money { currency_code: "KRW".to_owned(), minor_units: 50_000 }),
            total_seats: seats,
            ..Default::default()
        };
        let mut musicals = MusicalServiceClient::new(mesh.admin().connect());
        let answer = musicals.register_musical(request).await.expect("registered").into_inner();
        let musical = answer.musical.expect("a musical");
        let park = Self { mesh, customer, musical };
        park.until_the_desk_knows_it().await;
        park
    }

    async fn until_the_desk_knows_it(&self) {
        eventually("the desk knows the performance", || async {
            let known = format!("name = '{}'", self.musical.name);
            (count(&self.mesh.store("outerpark.reservation"), "performance", &known) == 1)
                .then_some(())
        })
        .await;
    }

    /// The reservation desk, as somebody.
    pub fn desk_of(&self, customer: &Account) -> ReservationServiceClient<SignedIn> {
        ReservationServiceClient::new(customer.connect())
    }

    /// Reserves seats, as the customer.
    pub async fn reserve(&self, seats: i32) -> Result<desk::Reservation, Status> {
        self.reserve_with(&self.customer, &request_id(), seats).await
    }

    /// Reserves seats as somebody, with this `request_id`.
    pub async fn reserve_with(
        &self,
        customer: &Account,
        request_id: &str,
        seats: i32,
    ) -> Result<desk::Reservation, Status> {
        let request = desk::ReserveRequest {
            request_id: request_id.to_owned(),
            musical: self.musical.name.clone(),
            seats,
        };
        let answer = self.desk_of(customer).reserve(request).await?.into_inner();
        Ok(answer.reservation.expect("a reservation"))
    }

    /// Cancels, as the customer.
    pub async fn cancel(&self, name: &str) -> Result<desk::Reservation, Status> {
        self.cancel_with(&self.customer, name, "").await
    }

    /// Cancels as somebody, with a quote.
    pub async fn cancel_with(
        &self,
        customer: &Account,
        name: &str,
        quote: &str,
    ) -> Result<desk::Reservation, Status> {
        let request = desk::CancelReservationRequest {
            request_id: request_id(),
            name: name.to_owned(),
            quote: quote.to_owned(),
        };
        let answer = self.desk_of(customer).cancel_reservation(request).await?.into_inner();
        Ok(answer.reservation.expect("a reservation"))
    }

    /// What a cancellation would give back.
    pub async fn quote(&self, name: &str) -> Result<desk::CancellationQuote, Status> {
        let request = desk::QuoteCancellationRequest { name: name.to_owned() };
        let answer = self.desk_of(&self.customer).quote_cancellation(request).await?.into_inner();
        Ok(answer.cancellation_quote.expect("a quote"))
    }

    /// The customer's reservations.
    pub async fn reservations(&self) -> Vec<desk::Reservation> {
        let request = desk::ListReservationsRequest { page_size: 1000, ..Default::default() };
        let answer = self.desk_of(&self.customer).list_reservations(request).await.expect("a list");
        answer.into_inner().reservations
    }

    /// How many seats are free.
    pub async fn free(&self) -> i32 {
        let request = musical::GetMusicalRequest { name: self.musical.name.clone() };
        let answer = MusicalServiceClient::new(self.mesh.stranger()).get_musical(request).await;
        answer.expect("a musical").into_inner().musical.expect("a musical").reservable_seats
    }

    /// The kinds of what the customer was told of a reservation, oldest first.
    pub async fn told(&self, reservation: &str) -> Vec<String> {
        let request =
            told::ListNoticesRequest { order: reservation.to_owned(), ..Default::default() };
        let answer = NoticeServiceClient::new(self.customer.connect()).list_notices(request).await;
        let mut notices = answer.expect("a list").into_inner().notices;
        notices.reverse();
        notices.into_iter().map(|notice| notice.kind).collect()
    }

    /// The customer's rows in my page.
    pub async fn rows(&self) -> Vec<page::MyOrder> {
        let request = page::ListMyOrdersRequest { page_size: 1000, ..Default::default() };
        let answer =
            MyPageServiceClient::new(self.customer.connect()).list_my_orders(request).await;
        answer.expect("a list").into_inner().my_orders
    }

    /// The payments of one of the customer's reservations.
    pub async fn payments_of(&self, order: &str) -> Vec<paid::Payment> {
        let request = paid::ListPaymentsRequest { order: order.to_owned(), ..Default::default() };
        let answer =
            PaymentServiceClient::new(self.customer.connect()).list_payments(request).await;
        answer.expect("a list").into_inner().payments
    }

    /// Waits until a reservation is in a state.
    pub async fn until(&self, name: &str, state: State) -> desk::Reservation {
        eventually(&format!("{name} is {}", state.as_str_name()), || async {
            let request = desk::GetReservationRequest { name: name.to_owned() };
            let answer =
                self.desk_of(&self.customer).get_reservation(request).await.ok()?.into_inner();
            answer.reservation.filter(|reservation| reservation.state() == state)
        })
        .await
    }

    /// Waits until the payment of one of the customer's reservations is in a state.
    pub async fn until_paid(&self, order: &str, state: paid::payment::State) {
        eventually(&format!("the payment of {order} is {}", state.as_str_name()), || async {
            self.payments_of(order)
                .await
                .iter()
                .any(|payment| payment.state() == state)
                .then_some(())
        })
        .await;
    }

    /// Waits until my page shows a state and a payment state.
    pub async fn until_my_page(&self, name: &str, state: &str, payment: &str) -> page::MyOrder {
        eventually(&format!("my page shows {name} as {state}, {payment}"), || async {
            let rows = self.rows().await;
            rows.into_iter()
                .find(|row| row.name == name && row.state == state && row.payment_state == payment)
        })
        .await
    }

    /// Waits until so many seats are free.
    pub async fn until_free(&self, seats: i32) {
        eventually(&format!("{seats} seats are free"), || async {
            (self.free().await == seats).then_some(())
        })
        .await;
    }

    /// Waits until the customer was told exactly this of a reservation.
    pub async fn until_told(&self, reservation: &str, kinds: &[&str]) {
        eventually(&format!("the customer was told {kinds:?}"), || async {
            (self.told(reservation).await == kinds).then_some(())
        })
        .await;
    }
}
